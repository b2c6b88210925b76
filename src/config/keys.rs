//! The table of all configuration keys: table, type, default, unit and purpose. Parsing, `harness
//! config` and the template `harness.toml` all use it, so that they agree.
//!
//! Does not know: files, the environment, or what the keys do.

use std::time::Duration;

use crate::adapters;
use crate::limits::WORKERS_MAX;
use Fallback::{Is, Required, Unset, WithCli};

/// A table of `harness.toml`. `Repos` and `Agents` hold one table for each name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Harness,
    Repo,
    Repos,
    Agents,
    /// `[gates]` itself.
    Gates,
    /// `[gates.NAME]`.
    Gate,
    Integrate,
    Retry,
    Budget,
    Limits,
    /// Its keys are names that people choose.
    Tokens,
    Sandbox,
}

/// In the order of the template.
pub static TABLES: &[Table] = &[
    Table::Harness,
    Table::Agents,
    Table::Repo,
    Table::Repos,
    Table::Gates,
    Table::Gate,
    Table::Integrate,
    Table::Retry,
    Table::Budget,
    Table::Limits,
    Table::Tokens,
    Table::Sandbox,
];

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Table::Harness => "harness",
            Table::Repo => "repo",
            Table::Repos => "repos",
            Table::Agents => "agents",
            Table::Gates | Table::Gate => "gates",
            Table::Integrate => "integrate",
            Table::Retry => "retry",
            Table::Budget => "budget",
            Table::Limits => "limits",
            Table::Tokens => "tokens",
            Table::Sandbox => "sandbox",
        }
    }

    pub fn parse(name: &str) -> Option<Table> {
        TABLES.iter().copied().find(|t| t.name() == name)
    }

    /// Whether there is one table, or key, per name: `[agents.NAME]`.
    pub fn is_named(self) -> bool {
        let named = [Table::Repos, Table::Agents, Table::Gate, Table::Tokens];
        named.contains(&self)
    }

    /// The template's comment above it.
    pub fn doc(self) -> &'static str {
        match self {
            Table::Harness => "How much is done at once, and for how long.",
            Table::Agents => {
                "What runs prompts: one table for each agent, an item may name it (`agent: mine`).\n\
                 Scripts need none of this: they run by themselves."
            }
            Table::Repo => "The git repository that items work on unless they name another.",
            Table::Repos => "Further repositories, for items that name one (`repo: web`).",
            Table::Gates => "Checks of a finished attempt that need no program.",
            Table::Gate => {
                "Checks that are programs, one table for each: tests, a linter. They run in the attempt's worktree;\n\
                 exit status 0 is green. An item may choose (`gates: [test]`, `gates: none`)."
            }
            Table::Integrate => "What becomes of a finished branch.",
            Table::Retry => "When an attempt fails in a way that another try may mend.",
            Table::Budget => {
                "What agents may cost, over all processes. An attempt reserves before it starts; what cannot be reserved waits, and\n\
                 `harness budget` says for what. One attempt alone is bounded by `budget_usd` and `max_turns` of its agent."
            }
            Table::Limits => {
                "What agents may use of this machine, and what harness leaves to others."
            }
            Table::Tokens => {
                "What is scarce, by any name: how many may work at once. `harness with build -- cargo test` waits for one and\n\
                 runs, and so do gates with `tokens = [\"build\"]`."
            }
            Table::Sandbox => {
                "What agents, scripts and gates may write, read and reach. `harness sandbox explain` shows all of it."
            }
        }
    }

    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |k| k.table == self)
    }

    pub fn key(self, name: &str) -> Option<&'static Key> {
        self.keys().find(|k| k.name == name)
    }
}

/// The type of a key's value. Bounds are inclusive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Count {
        min: u64,
        max: u64,
    },
    /// The text of a script, of any number of lines.
    Script,
    /// A fraction, 0 to 1.
    Share,
    /// Seconds as a number, or text like `"1h30m"`.
    Time {
        min: Duration,
        max: Duration,
    },
    /// Bytes as a number, or text like `"256MB"`.
    Bytes,
    /// The same, but 0 or enough for a program.
    Memory,
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
    /// Additional arguments, with placeholders; may be empty.
    Arguments,
    /// Words, each one argument.
    Words,
    /// Paths in a checkout, and patterns of them, as in `.gitignore`.
    Patterns,
    /// Text passed on as one argument, such as a model's name.
    Text,
    /// A non-negative number.
    Amount,
    /// A file or directory, relative to ROOT or `~/`.
    Path,
    /// Environment variables.
    Vars,
    /// Files or directories, relative to ROOT or `~/`.
    Paths,
    /// "open", "none", or a list of TCP ports.
    Network,
    /// Names of environment variables; a `*` at the end stands for anything.
    VarNames,
}

/// The default of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This value, as TOML.
    Is(&'static str),
    /// The first if harness builds the agent's command line (`cli`), else the second.
    WithCli(&'static str, &'static str),
    /// No default; the TOML text is the template's example.
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
    /// Meaning, unit and purpose, for the template. `{clis}` stands for the CLIs' names.
    doc: &'static str,
}

impl Key {
    /// Meaning, unit and purpose, for the template.
    pub fn doc(&self) -> String {
        self.doc.replace("{clis}", &adapters::NAMES.join(", "))
    }

    /// `HARNESS_WORKERS`, `HARNESS_RETRY_MAX`; `None` for keys that no variable sets.
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

/// Variables that harness sets for agents: a harness started by an agent must not read them as
/// configuration, and an agent's `env` must not replace them.
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
    "HARNESS_PORT",
    "HARNESS_PORTS",
    "HARNESS_TOKENS",
    "SESSION_ID",
    "INTERRUPT_FILE",
    "ITERATION",
];

/// Longest time in a key or an item's field: longer than any job, and too short to overflow when
/// added to a clock time.
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
/// The values of `notify_on`.
const NOTICES: &[&str] = &["interrupt", "parked", "review", "landed", "done"];
/// The values of `interrupt_on`.
const CAUSES: &[&str] = &["permission", "timeout", "failures"];
/// The values of `[gates] builtin`.
const BUILTIN: &[&str] = &["changed", "paths", "markers", "size"];
const MODE: Kind = Kind::Word(&["branch", "review", "merge"]);
const HOW: Kind = Kind::Word(&["merge", "squash", "rebase"]);
const BATCH: Kind = Kind::Count { min: 1, max: 64 };
const ON_CONFLICT: Kind = Kind::Word(&["park", "agent"]);
/// Files of one token.
const TOKENS_MAX: u64 = 1_024;
const SANDBOX: Kind = Kind::Word(&["on", "off", "require"]);
/// The template's example.
const COPY: &str = "[\".env\", \"node_modules\", \"target\"]";
/// A number of tokens.
const TOKENS: Kind = Kind::Count {
    min: 0,
    max: 1_000_000_000_000,
};
const CLEAN: Kind = Kind::Word(&["untracked", "all"]);

macro_rules! is_env {
    () => {
        false
    };
    (env) => {
        true
    };
}

/// `TABLE { "key": kind = default[, env]; doc; … }`: `env` where an environment variable may set it.
macro_rules! keys {
    ($($table:ident { $($name:literal: $kind:expr => $default:expr $(, $env:ident)?; $doc:expr;)* })*) => {
        &[$($(Key {
            table: Table::$table,
            name: $name,
            kind: $kind,
            default: $default,
            env: is_env!($($env)?),
            doc: $doc,
        }),*),*]
    };
}

/// Every key, in the template's order.
pub static KEYS: &[Key] = keys! {
    Harness {
        "workers": Kind::Count { min: 1, max: WORKERS_MAX as u64 } => Is("3"), env;
            "Agents at work at once in this process, 1 to 1024. Each has a process and a worktree of its own.";
        // Without `env`: agents find their own name in HARNESS_AGENT.
        "agent": Kind::AgentName => Unset("\"claude\"");
            "Which agent runs prompts that name none: an [agents.NAME], or {clis}, which need\n\
            no table. Without it such prompts wait, never guessed at.";
        "timeout": LIMIT_TIME => Is("3600"), env;
            "Seconds (or \"1h30m\") one attempt may take, so that a hung agent does not hold its slot for ever.";
        "kill_grace": ANY_TIME => Is("30"), env;
            "Seconds between SIGTERM and SIGKILL: agents save their session when asked to end.";
        "stall": LIMIT_TIME => Is("300"), env;
            "Seconds without a sign of life (output, processor time, changes in the worktree) before an agent whose\n\
            events are read is warned of, and half as long again before it is stopped; four times as long while a\n\
            tool runs. Scripts, and agents without events, are only ended by their timeout.";
        "linger": LIMIT_TIME => Is("120"), env;
            "Seconds an agent process may stay, with no output, after it has said that it has finished.";
        "notify": Kind::Argv => Unset("[\"sh\", \"-c\", \"notify-send harness \\\"$HARNESS_REASON\\\"\"]");
            "A command to run when a person is needed: HARNESS_EVENT HARNESS_REASON HARNESS_ITEM HARNESS_SESSION\n\
            HARNESS_SLOT HARNESS_ROOT HARNESS_INTERRUPT in its environment, a summary on its standard input.";
        "notify_on": Kind::Choices(NOTICES) => Is("[\"interrupt\"]");
            "What it is run for: \"interrupt\" (an agent waits), \"parked\" (an item needs a person), \"review\" (a branch waits\n\
            for approval), \"landed\" (a branch is merged), \"done\".";
        "hook_timeout": LIMIT_TIME => Is("60"), env;
            "Seconds a program in hooks/, or `notify`, may run before it is killed.";
        "interrupt_on": Kind::Choices(CAUSES) => Is("[\"permission\", \"timeout\", \"failures\"]");
            "What pauses a slot until a person has looked: an agent that was not permitted what it needed, one whose\n\
            last attempt ran out of time, five failures in a row. Agents and people pause it whatever this says.";
        "stagger": ANY_TIME => Is("5"), env;
            "Seconds between the first starts of prompt agents, which share a login and a rate limit. Scripts do not wait.";
        "durability": Kind::Word(&["full", "off"]) => Is("\"full\""), env;
            "\"full\": what is acknowledged survives a power cut. \"off\": only crashes of processes; faster for many short scripts.";
        "writers": Kind::Word(&["owner", "group", "all"]) => Is("\"owner\"");
            "Who may write into the queue: whoever can drop a file there has it run as you. \"owner\": a queue that everybody\n\
            may write into is refused, one that a group may write into is warned of. \"group\", \"all\": these are meant to.";
        "worktrees": Kind::Path => Unset("\"../my-project-worktrees\"");
            "Where the agents' worktrees lie, relative to this file or ~/: another disk, or away from tools that search this\n\
            checkout. A folder for this tree alone. Without it: worktrees/ beside this file.";
        "iteration_delay": ANY_TIME => Is("0"), env;
            "Seconds a slot rests between two items, to spread the use of a rate limit.";
    }
    Agents {
        "cli": Kind::Word(adapters::NAMES) => Unset("\"claude\"");
            "Which CLI it is: {clis}. harness then writes the command line, so that the agent\n\
            never waits for a person. Default: the table's name where that is one of them and there is no `command`.";
        "command": Kind::Argv => Unset("[\"npx\", \"@anthropic-ai/claude-code\"]");
            "With `cli`: what to start in place of its program, the CLI's arguments follow. Without: program and arguments, never\n\
            split by a shell. Filled in: PROMPT_FILE ITEM_FILE SESSION_ID SESSION_DIR WORKTREE WORK_ITEM SLOT AGENT BRANCH ATTEMPT\n\
            ITERATION RIG ROOT INTERRUPT_FILE, each in double braces.";
        "args": Kind::Arguments => Is("[]");
            "Further arguments for the CLI, put last so that they win. Filled in as in `command`. Needs `cli`.";
        "model": Kind::Text => Unset("\"sonnet\"");
            "The model, by the CLI's name for it. Needs `cli`; without it the CLI chooses.";
        "max_turns": Kind::Count { min: 0, max: 1_000_000 } => WithCli("50", "0");
            "Turns of the model one attempt may take, 0 for no limit. An item may say otherwise. Without `cli`: 0.";
        "budget_usd": Kind::Amount => WithCli("10.0", "0.0");
            "Money (USD) one attempt may cost, 0 for no limit. An item may say otherwise. Without `cli`: 0.";
        "subscription": Kind::Switch => Is("false");
            "true: its dollars are paid already and count in no [budget]; tokens and windows do.";
        "tools": Kind::Words => Unset("[\"Bash\", \"Edit\", \"Write\", \"Read\", \"Glob\", \"Grep\"]");
            "Tools it may use without being asked; what is shown is claude's default, other CLIs have their own. Needs `cli`.";
        "permission_mode": Kind::Text => Unset("\"acceptEdits\"");
            "What else it may do, in the CLI's own words. Without it: what lets it edit and commit without asking. Needs `cli`.";
        "settings": Kind::Path => Unset("\"settings.json\"");
            "A settings file in the CLI's own format, relative to this file or ~/. For claude without it: no hooks. Needs `cli`.";
        "config_dir": Kind::Path => Unset("\"accounts/work\"");
            "Where the CLI keeps login and conversations, relative to this file or ~/, instead of its usual place. Needs `cli`.";
        "resume": Kind::Switch => Is("false");
            "Whether a retry continues the last attempt's conversation and work, instead of starting from\n\
            the base. Needs `cli`.";
        "stdin": Kind::Word(&["prompt", "none"]) => Is("\"prompt\"");
            "What a `command` without `cli` reads: the \"prompt\", or \"none\" where it gets a file's name instead. Never left open.";
        "events": Kind::Word(adapters::DIALECTS) => Unset("\"claude\"");
            "The format of its output, which is read for turns, tokens, cost and faults: that CLI's streaming JSON.\n\
            Default: the `cli`, without one \"none\".";
        "env": Kind::Vars => Is("{}");
            "Environment variables added for this agent. `harness config` shows their names only: values are often keys.";
        "bootstrap": Kind::Switch => WithCli("true", "false");
            "Whether its prompt begins with prompts/bootstrap.md: where it works and what is expected. Without `cli`: false.";
        "timeout": LIMIT_TIME => Unset("1800");
            "Seconds one attempt of this agent may take, instead of [harness] timeout.";
        "sandbox": SANDBOX => Unset("\"off\"");
            "This key and the following: for this agent, as `mode` and the others in [sandbox]. Lists are added to those there.\n\
            [agents.script] has these keys alone, and is for scripts.";
        "write": Kind::Paths => Is("[]");
            "As in [sandbox].";
        "read": Kind::Paths => Is("[]");
            "As in [sandbox].";
        "deny": Kind::Paths => Is("[]");
            "As in [sandbox].";
        "network": Kind::Network => Unset("\"none\"");
            "As in [sandbox].";
        "env_pass": Kind::VarNames => Is("[]");
            "As in [sandbox].";
    }
    Repo {
        "path": Kind::Place(&["auto", "none"]) => Is("\"auto\""), env;
            "\"auto\": the git repository this directory lies in. \"none\": plain directories. Or a path, relative to this file or ~/.";
        "base": Kind::Revision => Unset("\"main\""), env;
            "Branch that items start from. Without it: the branch that is checked out there.";
        "clean": CLEAN => Is("\"untracked\""), env;
            "What goes between two items: \"untracked\" files, keeping ignored ones (build caches); or \"all\", for pristine trees.";
        "copy": Kind::Patterns => Unset(COPY);
            "Ignored files and folders that a worktree gets from your checkout, or from another slot's worktree, where it has\n\
            none: paths, or patterns as in .gitignore. Without it: what .worktreeinclude at the top of your checkout names.";
    }
    Repos {
        "path": Kind::Place(&["none"]) => Required("\"../web\"");
            "Its directory, relative to this file or ~/; \"none\" for plain directories. Required.";
        "base": Kind::Revision => Unset("\"main\"");
            "As in [repo].";
        "clean": CLEAN => Is("\"untracked\"");
            "As in [repo].";
        "copy": Kind::Patterns => Unset(COPY);
            "As in [repo].";
        "mode": MODE => Unset("\"merge\"");
            "This key and the following: as in [integrate], for this repository.";
        "how": HOW => Unset("\"squash\"");
            "As in [integrate].";
        "into": Kind::Revision => Unset("\"main\"");
            "As in [integrate].";
        "batch": BATCH => Unset("8");
            "As in [integrate].";
        "on_conflict": ON_CONFLICT => Unset("\"park\"");
            "As in [integrate].";
        "push": Kind::Text => Unset("\"origin\"");
            "As in [integrate].";
        "assisted_by": Kind::Switch => Unset("true");
            "As in [integrate].";
    }
    Gates {
        "builtin": Kind::Choices(BUILTIN) => Is("[]");
            "\"changed\": something was changed. \"paths\": nothing outside the item's `paths`. \"markers\": no conflict markers.\n\
            \"size\": no file above `size`.";
        "size": Kind::Bytes => Is("\"5MB\"");
            "Bytes (or \"10GB\", \"512MiB\") that no changed file may exceed where \"size\" is in `builtin`.";
    }
    Gate {
        "command": Kind::Argv => Unset("[\"cargo\", \"test\"]");
            "Program and arguments, never split by a shell. Filled in as an agent's `command`. This or `script`.";
        "script": Kind::Script => Unset("\"cargo fmt --check && cargo test\"");
            "A text for `sh -c`, instead of `command`.";
        "when": Kind::Choices(&["before", "after", "merge"]) => Is("[\"after\", \"merge\"]");
            "\"before\": on the base, once for each of its commits, so that its own failures are known. \"after\": on what an\n\
            attempt made. \"merge\": on what would land.";
        "timeout": LIMIT_TIME => Is("\"10m\"");
            "Seconds (or \"1h30m\") one run may take; longer is neither green nor red.";
        "on_failure": Kind::Word(&["retry", "park", "interrupt"]) => Is("\"retry\"");
            "What a red gate means for an attempt: \"retry\" (another one, told what failed), \"park\", or \"interrupt\" (park, and\n\
            pause the slot).";
        "required": Kind::Switch => Is("true");
            "false: it is only told.";
        "junit": Kind::Path => Unset("\"target/junit.xml\"");
            "The JUnit XML file that it writes, relative to the worktree: failing tests are then known by name.";
        "sandbox": SANDBOX => Unset("\"off\"");
            "As `mode` in [sandbox], for this gate.";
        "tokens": Kind::Words => Is("[]");
            "What it needs one of while it runs, by the names in [tokens]; its `timeout` begins when it has them.";
    }
    Integrate {
        "mode": MODE => Is("\"branch\"");
            "\"branch\": it appears in your repository, for you to look at. \"review\": the item waits in queue/review/ for your\n\
            approval. \"merge\": it waits in queue/merge/ until harness has merged it. An item may say otherwise (`integrate`).";
        "how": HOW => Is("\"merge\"");
            "\"merge\": a merge commit. \"squash\": one commit. \"rebase\": its commits, on top of the base.";
        "into": Kind::Revision => Unset("\"main\"");
            "The branch to merge into. Without it: the base.";
        "batch": BATCH => Is("8");
            "Branches that are merged and gated together, 1 to 64. It begins with one, and grows while all is green.";
        "on_conflict": ON_CONFLICT => Is("\"park\"");
            "\"park\": with the files named. \"agent\": once for each item, an agent gets the merge to resolve.";
        "push": Kind::Text => Unset("\"origin\"");
            "The remote to push the branch to after a landing. Without it: none.";
        "assisted_by": Kind::Switch => Is("false");
            "Whether the commit of a landing names the agent: Assisted-by: AGENT:MODEL.";
    }
    Retry {
        "max": Kind::Count { min: 0, max: 1_000 } => Is("2"), env;
            "Further attempts after the first, 0 to 1000. An item may say otherwise (`retries`).";
        "delay": ANY_TIME => Is("2"), env;
            "Seconds before the first retry, doubled at each further one: what is overloaded needs rest.";
        "delay_max": ANY_TIME => Is("300"), env;
            "Seconds no wait for a retry exceeds.";
        "jitter": Kind::Share => Is("0.2"), env;
            "Share of the delay, 0 to 1, that is left to chance, so that agents that failed together do not return together.";
    }
    Budget {
        "day_usd": Kind::Amount => Is("0.0"), env;
            "Money (USD) that all agents may cost on one day, from midnight to midnight here. 0: no limit, as in all of these.";
        "day_tokens": TOKENS => Is("0"), env;
            "Tokens of one day: input, output and writes to the cache; what is read from a cache does not count.";
        "item_usd": Kind::Amount => Is("0.0"), env;
            "Money (USD) that all attempts of one item may cost together. Then it is parked.";
        "item_tokens": TOKENS => Is("0"), env;
            "Tokens of all attempts of one item.";
        "total_usd": Kind::Amount => Is("0.0"), env;
            "Money (USD) in all, as long as this tree is there. Only raising it lets agents start again.";
        "total_tokens": TOKENS => Is("0"), env;
            "Tokens in all.";
        "window": LIMIT_TIME => Is("\"5h\""), env;
            "Seconds (or \"5h\") that a window of your subscription lasts. It begins with the first attempt after the last one's end.";
        "window_tokens": TOKENS => Is("0"), env;
            "Tokens of one window, for each agent.";
        "reserve_for_people": Kind::Share => Is("0.2"), env;
            "Share of `window_tokens`, 0 to 1, that agents leave to you.";
        "pace": Kind::Switch => Is("false"), env;
            "true: no attempt begins while a larger part of the window's tokens is used than of its time has passed.";
    }
    Limits {
        "disk_free_min": Kind::Bytes => Is("\"256MB\""), env;
            "Bytes (or \"10GB\", \"512MiB\") of free disk below which nothing is claimed: a full disk loses agents' work.";
        "keep": ANY_TIME => Is("\"30d\""), env;
            "How long sessions, merged branches and unused worktrees are kept before `harness gc` removes them.";
        "output": Kind::Bytes => Is("\"1GB\""), env;
            "Bytes one attempt may print, 0 for no limit: beyond them it is stopped, and the item parked.";
        "worktree": Kind::Bytes => Is("\"50GB\""), env;
            "Bytes on the disk that a worktree may take while an agent works in it, with builds, its repository, session and\n\
            temporary folder, 0 for no limit.";
        "memory": Kind::Memory => Unset("\"8GB\""), env;
            "Memory that an agent, or a gate, and what it has started may use. Beyond it its largest tool is ended, and the\n\
            agent only where it uses so much by itself.";
        "cpu": Kind::Amount => Unset("2.5"), env;
            "Cores that an agent, or a gate, and what it has started may keep busy.";
        "processes": Kind::Count { min: 16, max: 4_194_304 } => Unset("500"), env;
            "Processes that an agent, or a gate, and what it has started may have, each thread counted as one.";
        "nice": Kind::Count { min: 0, max: 19 } => Is("5"), env;
            "How far agents and gates stand back where others want the processor or the disk, 0 to 19.";
        "load_max": Kind::Amount => Unset("2.0"), env;
            "Load for each core of this machine above which nothing is claimed.";
        "pressure_max": Kind::Count { min: 0, max: 100 } => Is("50"), env;
            "Per cent of the time that programs of this machine may wait for memory; above it nothing is claimed. 0: whatever it is.";
        "agents": Kind::Count { min: 1, max: WORKERS_MAX as u64 } => Unset("4"), env;
            "Agents and scripts at work at once on this machine, of all your trees together.";
    }
    Tokens {
        "build": Kind::Count { min: 1, max: TOKENS_MAX } => Unset("2");
            "Builds that run at once, 1 to 1024.";
    }
    Sandbox {
        "mode": SANDBOX => Is("\"on\""), env;
            "\"on\": an agent writes to its worktree, its session, a temporary folder of its own, its CLI's state and package\n\
            caches, and reads no secrets, as far as the kernel's Landlock can hold that. \"require\": nothing starts with less.\n\
            \"off\": agents run as you do.";
        "write": Kind::Paths => Is("[]");
            "Further files and directories that may be written, relative to this file or ~/. Never harness's own, a home\n\
            directory or a repository's .git.";
        "read": Kind::Paths => Is("[]");
            "What may be read although it is among the secrets: \"~/.config/gh\".";
        "deny": Kind::Paths => Is("[]");
            "Further files and directories that may not be read, nor written: \"~/Documents\", \"~/.cache\".";
        "network": Kind::Network => Is("\"open\"");
            "\"open\"; \"none\": no TCP; or the TCP ports that may be used, [443, 22]. Not UDP.";
        "env_pass": Kind::VarNames => Is("[]");
            "Further variables of harness's environment that agents get: \"DATABASE_URL\", \"AWS_*\". Without it: what programs\n\
            need to run and build, and the keys of the agent's own CLI.";
    }
};
