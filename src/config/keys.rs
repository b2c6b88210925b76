//! The table of every configuration key: where it stands, what it takes, its default, its unit and
//! why it is there. Parsing, `harness config` and the template `harness.toml` all come from here,
//! so that they cannot disagree.
//!
//! Does not know: files, the environment, or what the keys do.

use std::time::Duration;

use crate::adapters;
use crate::limits::WORKERS_MAX;

/// A table of `harness.toml`. `Repos` and `Agents` hold one table for each name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Harness,
    Repo,
    Repos,
    Agents,
    Retry,
    Limits,
}

/// In the order of the template.
pub static TABLES: &[Table] = &[
    Table::Harness,
    Table::Agents,
    Table::Repo,
    Table::Repos,
    Table::Retry,
    Table::Limits,
];

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Table::Harness => "harness",
            Table::Repo => "repo",
            Table::Repos => "repos",
            Table::Agents => "agents",
            Table::Retry => "retry",
            Table::Limits => "limits",
        }
    }

    pub fn parse(name: &str) -> Option<Table> {
        TABLES.iter().copied().find(|t| t.name() == name)
    }

    /// Whether it holds one table for each name: `[agents.NAME]`.
    pub fn is_named(self) -> bool {
        matches!(self, Table::Repos | Table::Agents)
    }

    /// What the template says above it.
    pub fn doc(self) -> &'static str {
        match self {
            Table::Harness => "How much is done at once, and for how long.",
            Table::Agents => {
                "What runs prompts: one table for each agent, an item may name it (`agent: mine`).\n\
                 Scripts need none of this: they run by themselves."
            }
            Table::Repo => "The git repository that items work on unless they name another.",
            Table::Repos => "Further repositories, for items that name one (`repo: web`).",
            Table::Retry => "When an attempt fails in a way that another try may mend.",
            Table::Limits => "What harness leaves to others.",
        }
    }

    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |k| k.table == self)
    }

    pub fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|k| k.name == name)
    }
}

/// What a key takes. Bounds are inclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Count {
        min: u64,
        max: u64,
    },
    /// A share of one, 0 to 1.
    Share,
    /// Seconds as a number, or text like `"1h30m"`.
    Time {
        min: Duration,
        max: Duration,
    },
    /// Bytes as a number, or text like `"256MB"`.
    Bytes,
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, in a list.
    Choices(&'static [&'static str]),
    /// The name of an `[agents.NAME]` table.
    AgentName,
    /// A branch or commit of a repository.
    Revision,
    /// A directory, or one of these words.
    Place(&'static [&'static str]),
    /// A program and its arguments, with placeholders.
    Argv,
    /// Further arguments, with placeholders; perhaps none.
    Arguments,
    /// Words, each one argument.
    Words,
    /// A word handed on as one argument: a model's name.
    Text,
    /// A number that is not negative.
    Amount,
    /// A file or directory, relative to ROOT or `~/`.
    Path,
    /// Environment variables.
    Vars,
}

/// What holds where nobody sets the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value, as TOML.
    Is(&'static str),
    /// The first where harness makes the agent's command line itself (`cli`), else the second.
    WithCli(&'static str, &'static str),
    /// Nothing; the TOML text is the template's example.
    Unset(&'static str),
    /// The key must be given; the TOML text is the template's example.
    Required(&'static str),
}

/// One key of one table.
#[derive(Debug)]
pub struct Key {
    pub table: Table,
    pub name: &'static str,
    pub kind: Kind,
    pub default: Fallback,
    /// Whether an environment variable may set it.
    pub env: bool,
    /// What it is, its unit and why, for the template. `{clis}` stands for the CLIs' names.
    doc: &'static str,
}

impl Key {
    /// What it is, its unit and why, for the template.
    pub fn doc(&self) -> String {
        self.doc.replace("{clis}", &adapters::NAMES.join(", "))
    }

    /// `HARNESS_WORKERS`, `HARNESS_RETRY_MAX`; none for keys that no variable sets.
    pub fn variable(&self) -> Option<String> {
        if !self.env {
            return None;
        }
        let name = self.name.to_ascii_uppercase();
        Some(match self.table {
            Table::Harness => format!("HARNESS_{name}"),
            table => format!("HARNESS_{}_{name}", table.name().to_ascii_uppercase()),
        })
    }
}

/// Variables that harness itself sets for agents: a harness started by an agent must not take
/// them for configuration, and an agent's `env` must not replace them.
pub const AGENT_VARIABLES: &[&str] = &[
    "HARNESS_ROOT",
    "HARNESS_ITEM",
    "HARNESS_ITEM_FILE",
    "HARNESS_SESSION",
    "HARNESS_SESSION_DIR",
    "HARNESS_SLOT",
    "HARNESS_AGENT",
    "HARNESS_ATTEMPT",
    "HARNESS_BRANCH",
    "HARNESS_INTERRUPT",
    "SESSION_ID",
    "INTERRUPT_FILE",
    "ITERATION",
];

/// Longest time a key or an item's field may give: a year is "for ever" to a job, and far from
/// where adding it to a clock's reading overflows.
pub const TIME_MAX: Duration = Duration::from_secs(366 * 86_400);

const ANY_TIME: Kind = Kind::Time {
    min: Duration::ZERO,
    max: TIME_MAX,
};
/// A limit of zero would end everything at once.
const LIMIT_TIME: Kind = Kind::Time {
    min: Duration::from_secs(1),
    max: TIME_MAX,
};
/// What `notify_on` may hold.
const NOTICES: &[&str] = &["interrupt", "parked", "done"];
/// What `interrupt_on` may hold.
const CAUSES: &[&str] = &["permission", "timeout", "failures"];
const CLEAN: Kind = Kind::Word(&["untracked", "all"]);

/// Every key, in the template's order.
pub static KEYS: &[Key] = &[
    Key {
        table: Table::Harness,
        name: "workers",
        kind: Kind::Count {
            min: 1,
            max: WORKERS_MAX as u64,
        },
        default: Fallback::Is("3"),
        env: true,
        doc: "Agents at work at once in this process, 1 to 1024. Each has a process and a worktree of its own.",
    },
    Key {
        table: Table::Harness,
        name: "agent",
        kind: Kind::AgentName,
        default: Fallback::Unset("\"claude\""),
        // HARNESS_AGENT is what an agent finds in its environment: the agent that it is.
        env: false,
        doc: "Which agent runs prompts that name none: an [agents.NAME], or {clis}, which need\n\
              no table. Without it such prompts are parked, never guessed at.",
    },
    Key {
        table: Table::Harness,
        name: "timeout",
        kind: LIMIT_TIME,
        default: Fallback::Is("3600"),
        env: true,
        doc: "Seconds (or \"1h30m\") one attempt may take, so that a hung agent does not hold its slot for ever.",
    },
    Key {
        table: Table::Harness,
        name: "kill_grace",
        kind: ANY_TIME,
        default: Fallback::Is("30"),
        env: true,
        doc: "Seconds between SIGTERM and SIGKILL: agents save their session when asked to end.",
    },
    Key {
        table: Table::Harness,
        name: "stall",
        kind: LIMIT_TIME,
        default: Fallback::Is("300"),
        env: true,
        doc: "Seconds without a sign of life (output, processor time, changes in the worktree) before an agent whose\n\
              events are read is warned of, and half as long again before it is stopped; four times as long while a\n\
              tool runs. Scripts, and agents without events, are only ended by their timeout.",
    },
    Key {
        table: Table::Harness,
        name: "linger",
        kind: LIMIT_TIME,
        default: Fallback::Is("120"),
        env: true,
        doc: "Seconds an agent may live on, without a word, after it has said that it has finished.",
    },
    Key {
        table: Table::Harness,
        name: "notify",
        kind: Kind::Argv,
        default: Fallback::Unset(
            "[\"sh\", \"-c\", \"notify-send harness \\\"$HARNESS_REASON\\\"\"]",
        ),
        env: false,
        doc: "A command to run when a person is needed: HARNESS_EVENT HARNESS_REASON HARNESS_ITEM HARNESS_SESSION\n\
              HARNESS_SLOT HARNESS_ROOT HARNESS_INTERRUPT in its environment, a summary on its standard input.",
    },
    Key {
        table: Table::Harness,
        name: "notify_on",
        kind: Kind::Choices(NOTICES),
        default: Fallback::Is("[\"interrupt\"]"),
        env: false,
        doc: "What it is run for: \"interrupt\" (an agent waits), \"parked\" (an item needs a person), \"done\".",
    },
    Key {
        table: Table::Harness,
        name: "interrupt_on",
        kind: Kind::Choices(CAUSES),
        default: Fallback::Is("[\"permission\", \"timeout\", \"failures\"]"),
        env: false,
        doc: "What pauses a slot until a person has looked: an agent that was not permitted what it needed, one whose\n\
              last attempt ran out of time, five failures in a row. Agents and people pause it whatever this says.",
    },
    Key {
        table: Table::Harness,
        name: "stagger",
        kind: ANY_TIME,
        default: Fallback::Is("5"),
        env: true,
        doc: "Seconds between the first starts of prompt agents, which share a login and a rate limit. Scripts do not wait.",
    },
    Key {
        table: Table::Harness,
        name: "durability",
        kind: Kind::Word(&["full", "off"]),
        default: Fallback::Is("\"full\""),
        env: true,
        doc: "\"full\": what is acknowledged survives a power cut. \"off\": only crashes of processes; faster for many short scripts.",
    },
    Key {
        table: Table::Harness,
        name: "iteration_delay",
        kind: ANY_TIME,
        default: Fallback::Is("0"),
        env: true,
        doc: "Seconds a slot rests between two items, to spread the use of a rate limit.",
    },
    Key {
        table: Table::Agents,
        name: "cli",
        kind: Kind::Word(adapters::NAMES),
        default: Fallback::Unset("\"claude\""),
        env: false,
        doc: "Which CLI it is: {clis}. harness then makes the command line itself, so that no person is\n\
              needed while it works. Default: the table's name where that is one of them and there is no `command`.",
    },
    Key {
        table: Table::Agents,
        name: "command",
        kind: Kind::Argv,
        default: Fallback::Unset("[\"npx\", \"@anthropic-ai/claude-code\"]"),
        env: false,
        doc: "With `cli`: what to start in place of its program, the CLI's arguments follow. Without: program and arguments, never\n\
              split by a shell. Filled in: PROMPT_FILE ITEM_FILE SESSION_ID SESSION_DIR WORKTREE WORK_ITEM SLOT AGENT BRANCH ATTEMPT\n\
              ITERATION RIG ROOT INTERRUPT_FILE, each in double braces.",
    },
    Key {
        table: Table::Agents,
        name: "args",
        kind: Kind::Arguments,
        default: Fallback::Is("[]"),
        env: false,
        doc: "Further arguments for the CLI, put last so that they win. Filled in as in `command`. Needs `cli`.",
    },
    Key {
        table: Table::Agents,
        name: "model",
        kind: Kind::Text,
        default: Fallback::Unset("\"sonnet\""),
        env: false,
        doc: "The model, by the CLI's name for it. Needs `cli`; without it the CLI chooses.",
    },
    Key {
        table: Table::Agents,
        name: "max_turns",
        kind: Kind::Count {
            min: 0,
            max: 1_000_000,
        },
        default: Fallback::WithCli("50", "0"),
        env: false,
        doc: "Turns of the model one attempt may take, 0 for no limit. An item may say otherwise. Without `cli`: 0.",
    },
    Key {
        table: Table::Agents,
        name: "budget_usd",
        kind: Kind::Amount,
        default: Fallback::WithCli("10.0", "0.0"),
        env: false,
        doc: "Money (USD) one attempt may cost, 0 for no limit. An item may say otherwise. Without `cli`: 0.",
    },
    Key {
        table: Table::Agents,
        name: "tools",
        kind: Kind::Words,
        default: Fallback::Unset("[\"Bash\", \"Edit\", \"Write\", \"Read\", \"Glob\", \"Grep\"]"),
        env: false,
        doc: "Tools it may use without being asked; what is shown is claude's default, other CLIs have their own. Needs `cli`.",
    },
    Key {
        table: Table::Agents,
        name: "permission_mode",
        kind: Kind::Text,
        default: Fallback::Unset("\"acceptEdits\""),
        env: false,
        doc: "What else it may do, in the CLI's own word. Without it: whatever lets it edit and commit with nobody there. Needs `cli`.",
    },
    Key {
        table: Table::Agents,
        name: "settings",
        kind: Kind::Path,
        default: Fallback::Unset("\"settings.json\""),
        env: false,
        doc: "A settings file in the CLI's own format, relative to this file or ~/. For claude without it: no hooks. Needs `cli`.",
    },
    Key {
        table: Table::Agents,
        name: "config_dir",
        kind: Kind::Path,
        default: Fallback::Unset("\"accounts/work\""),
        env: false,
        doc: "Where the CLI keeps login and conversations, relative to this file or ~/, instead of its usual place. Needs `cli`.",
    },
    Key {
        table: Table::Agents,
        name: "resume",
        kind: Kind::Switch,
        default: Fallback::Is("false"),
        env: false,
        doc: "Whether a retry goes on from what the attempt before had done, in the CLI's own conversation, instead of from\n\
              the base. Needs `cli`.",
    },
    Key {
        table: Table::Agents,
        name: "stdin",
        kind: Kind::Word(&["prompt", "none"]),
        default: Fallback::Is("\"prompt\""),
        env: false,
        doc: "What a `command` without `cli` reads: the \"prompt\", or \"none\" where it gets a file's name instead. Never left open.",
    },
    Key {
        table: Table::Agents,
        name: "events",
        kind: Kind::Word(adapters::DIALECTS),
        default: Fallback::Unset("\"claude\""),
        env: false,
        doc: "Whose events its output speaks, read for turns, tokens, cost and faults: that CLI's, in its streaming JSON format.\n\
              Default: the `cli`, without one \"none\".",
    },
    Key {
        table: Table::Agents,
        name: "env",
        kind: Kind::Vars,
        default: Fallback::Is("{}"),
        env: false,
        doc: "Environment variables added for this agent. `harness config` shows their names only: values are often keys.",
    },
    Key {
        table: Table::Agents,
        name: "bootstrap",
        kind: Kind::Switch,
        default: Fallback::WithCli("true", "false"),
        env: false,
        doc: "Whether it is told prompts/bootstrap.md first: where it works and what is expected. Without `cli`: false.",
    },
    Key {
        table: Table::Agents,
        name: "timeout",
        kind: LIMIT_TIME,
        default: Fallback::Unset("1800"),
        env: false,
        doc: "Seconds one attempt of this agent may take, instead of [harness] timeout.",
    },
    Key {
        table: Table::Repo,
        name: "path",
        kind: Kind::Place(&["auto", "none"]),
        default: Fallback::Is("\"auto\""),
        env: true,
        doc: "\"auto\": the git repository this directory lies in. \"none\": plain directories. Or a path, relative to this file or ~/.",
    },
    Key {
        table: Table::Repo,
        name: "base",
        kind: Kind::Revision,
        default: Fallback::Unset("\"main\""),
        env: true,
        doc: "Branch that items start from. Without it: the branch that is checked out there.",
    },
    Key {
        table: Table::Repo,
        name: "clean",
        kind: CLEAN,
        default: Fallback::Is("\"untracked\""),
        env: true,
        doc: "What goes between two items: \"untracked\" files, keeping ignored ones (build caches); or \"all\", for pristine trees.",
    },
    Key {
        table: Table::Repos,
        name: "path",
        kind: Kind::Place(&["none"]),
        default: Fallback::Required("\"../web\""),
        env: false,
        doc: "Its directory, relative to this file or ~/; \"none\" for plain directories. Required.",
    },
    Key {
        table: Table::Repos,
        name: "base",
        kind: Kind::Revision,
        default: Fallback::Unset("\"main\""),
        env: false,
        doc: "As in [repo].",
    },
    Key {
        table: Table::Repos,
        name: "clean",
        kind: CLEAN,
        default: Fallback::Is("\"untracked\""),
        env: false,
        doc: "As in [repo].",
    },
    Key {
        table: Table::Retry,
        name: "max",
        kind: Kind::Count { min: 0, max: 1_000 },
        default: Fallback::Is("2"),
        env: true,
        doc: "Further attempts after the first, 0 to 1000. An item may say otherwise (`retries`).",
    },
    Key {
        table: Table::Retry,
        name: "delay",
        kind: ANY_TIME,
        default: Fallback::Is("2"),
        env: true,
        doc: "Seconds before the first retry, doubled at each further one: what is overloaded needs rest.",
    },
    Key {
        table: Table::Retry,
        name: "delay_max",
        kind: ANY_TIME,
        default: Fallback::Is("300"),
        env: true,
        doc: "Seconds no wait for a retry exceeds.",
    },
    Key {
        table: Table::Retry,
        name: "jitter",
        kind: Kind::Share,
        default: Fallback::Is("0.2"),
        env: true,
        doc: "Share of the delay, 0 to 1, that is left to chance, so that agents that failed together do not return together.",
    },
    Key {
        table: Table::Limits,
        name: "disk_free_min",
        kind: Kind::Bytes,
        default: Fallback::Is("\"256MB\""),
        env: true,
        doc: "Bytes (or \"10GB\", \"512MiB\") of free disk below which nothing is claimed: a full disk loses agents' work.",
    },
    Key {
        table: Table::Limits,
        name: "keep",
        kind: ANY_TIME,
        default: Fallback::Is("\"30d\""),
        env: true,
        doc: "How long sessions, merged branches and unused worktrees are kept before `harness gc` removes them.",
    },
];
