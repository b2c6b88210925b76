//! Plans how an attempt's agent is started: command line, input, environment. The plan is made from
//! the agent's table, the item and, where harness makes the command line itself, the CLI's adapter.
//! Runs, reads and writes nothing.
//!
//! Invariant: the agent can run unattended, and the item's text reaches it whole and unchanged,
//! whatever precedes it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::{Agent, Facts, fill};
use crate::adapters::{self, Adapter, Ask};
use crate::config::{AgentStdin, AgentTable};
use crate::event;
use crate::item::Item;
use crate::record::Answered;

/// What a plan depends on.
pub(crate) struct LaunchInputs<'a> {
    pub(crate) item: &'a Item,
    pub(crate) facts: &'a Facts,
    pub(crate) session: &'a str,
    pub(crate) session_dir: &'a Path,
    pub(crate) worktree: &'a Path,
    /// The text of `prompts/bootstrap.md`, where there is one.
    pub(crate) bootstrap: Option<&'a [u8]>,
    /// The attempt that this one continues.
    pub(crate) before: Option<Before<'a>>,
    /// What gates, a merge or a person said of the attempt before, and of the base; may be empty.
    pub(crate) feedback: &'a str,
    /// What budgets leave it in dollars, where that is less than its own limit may be.
    pub(crate) usd_max: Option<f64>,
    /// The names of the variables in harness's own environment.
    pub(crate) inherited: &'a [OsString],
}

/// An attempt that left its item undone, or was sent back; its work is in the worktree.
pub(crate) struct Before<'a> {
    /// The CLI's conversation to resume; `None`: start a new one.
    pub(crate) conversation: Option<&'a str>,
    /// Why it ended.
    pub(crate) reason: &'a str,
    /// It had ended well, and something else is wanted of it.
    pub(crate) ended_well: bool,
    /// Its question, and a person's answer if there is one.
    pub(crate) answered: Option<&'a Answered>,
}

/// What to start, and what to write to files first.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) argv: Vec<OsString>,
    /// The content of `prompt.md`; `None` for a script.
    pub(crate) prompt: Option<Vec<u8>>,
    /// Whether it gets `prompt.md` on standard input; otherwise it gets nothing.
    pub(crate) reads_prompt: bool,
    /// The content of `bootstrap.md`.
    pub(crate) bootstrap: Option<Vec<u8>>,
    /// Variables that the CLI needs; `None` removes one. The user's `env` overrides them.
    pub(crate) env: BTreeMap<OsString, Option<OsString>>,
    pub(crate) limits: Limits,
    /// Those that harness enforces itself, because the CLI cannot.
    pub(crate) watched: Limits,
    pub(crate) model: Option<String>,
    /// The dialect of its standard output, if harness reads one.
    pub(crate) events: Option<String>,
    /// Notes for a person.
    pub(crate) notes: Vec<String>,
}

/// The limits of an attempt; `None`: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Limits {
    pub(crate) max_turns: Option<u64>,
    pub(crate) budget_usd: Option<f64>,
}

impl Limits {
    /// The limits whose keys are wanted.
    fn only(self, wanted: impl Fn(&str) -> bool) -> Limits {
        Limits {
            max_turns: self.max_turns.filter(|_| wanted("max_turns")),
            budget_usd: self.budget_usd.filter(|_| wanted("budget_usd")),
        }
    }

    fn of(table: &AgentTable, inputs: &LaunchInputs<'_>) -> Limits {
        let turns = inputs.item.max_turns.unwrap_or(table.max_turns);
        let budgets = [budget_usd(table, inputs.item), inputs.usd_max];
        Limits {
            max_turns: (turns > 0).then_some(turns),
            budget_usd: budgets.into_iter().flatten().reduce(f64::min),
        }
    }
}

/// The dollars that an attempt may cost by itself; `None`: no limit.
pub(crate) fn budget_usd(table: &AgentTable, item: &Item) -> Option<f64> {
    let budget = item.budget_usd.unwrap_or(table.budget_usd);
    (budget > 0.0).then_some(budget)
}

/// The reason why an attempt ended is cut to this length in the next one's prompt.
const REASON_BYTES_MAX: usize = 500;
/// The file in a session's folder with the filled-in bootstrap text.
pub(crate) const BOOTSTRAP: &str = "bootstrap.md";

pub(crate) fn plan(agent: &Agent<'_>, inputs: &LaunchInputs<'_>) -> Plan {
    let table = match agent {
        Agent::Script => {
            return Plan {
                argv: vec![inputs.session_dir.join("item").into()],
                ..Plan::default()
            };
        }
        Agent::Command(_, table) => table,
    };
    let filled = |args: &[String]| -> Vec<OsString> {
        let of = |arg: &String| fill(OsStr::new(arg), inputs.facts);
        args.iter().map(of).collect()
    };
    let bootstrap = inputs.bootstrap.filter(|_| table.bootstrap);
    let bootstrap =
        bootstrap.map(|t| fill(&OsString::from_vec(t.to_vec()), inputs.facts).into_vec());
    let events = Some(table.events.clone()).filter(|e| e != adapters::NO_EVENTS);
    let mut plan = Plan {
        argv: filled(&table.command),
        reads_prompt: table.stdin == AgentStdin::Prompt,
        events,
        limits: Limits::of(table, inputs),
        model: table.model.clone(),
        ..Plan::default()
    };
    match table.cli.as_deref().and_then(adapters::by_name) {
        None => {
            if plan.events.is_some() {
                // An agent CLI too: it must not inherit the variables of an outer CLI session.
                plan.env = adapters::without_session(inputs.inherited);
            }
            let prefix = prefix(inputs, "");
            plan.prompt = Some(prompt(bootstrap, &prefix, inputs.item));
            // The command line is the user's: enforce only limits that the user set.
            let is_left = |key: &str| key == "budget_usd" && inputs.usd_max.is_some();
            let wanted = |key: &str| is_left(key) || is_asked(table, inputs.item, key);
            plan.watched = plan.limits.only(wanted);
        }
        Some(adapter) => plan_for_cli(
            &mut plan,
            adapter,
            table,
            filled(&table.args),
            bootstrap,
            inputs,
        ),
    }
    plan
}

/// What the CLI's adapter adds: command line, environment, and what the CLI cannot be asked for.
fn plan_for_cli(
    plan: &mut Plan,
    adapter: &dyn Adapter,
    table: &AgentTable,
    extra_args: Vec<OsString>,
    bootstrap: Option<Vec<u8>>,
    inputs: &LaunchInputs<'_>,
) {
    let about = adapter.about();
    let ask = Ask {
        bootstrap_file: bootstrap
            .is_some()
            .then(|| inputs.session_dir.join(BOOTSTRAP)),
        session_uuid: inputs.session.to_owned(),
        resume: inputs
            .before
            .as_ref()
            .and_then(|b| b.conversation.map(str::to_owned)),
        worktree: inputs.worktree.to_path_buf(),
        model: table.model.clone(),
        max_turns: plan.limits.max_turns,
        budget_usd: plan.limits.budget_usd,
        tools: table.tools.clone(),
        permission_mode: table.permission_mode.clone(),
        settings: table.settings.clone(),
        config_dir: table.config_dir.clone(),
        extra_args,
        inherited: inputs.inherited.to_vec(),
    };
    let launch = adapter.launch(&ask);
    if plan.argv.is_empty() {
        plan.argv.push(about.program.into());
    }
    plan.argv.extend(launch.args);
    plan.reads_prompt = true;
    plan.env = launch.env;
    let in_prompt = bootstrap.filter(|text| {
        if !launch.bootstrap_in_prompt {
            plan.bootstrap = Some(text.clone());
        }
        launch.bootstrap_in_prompt
    });
    let prefix = prefix(inputs, launch.prompt_prefix.unwrap_or_default());
    plan.prompt = Some(prompt(in_prompt, &prefix, inputs.item));
    let has_no = |key: &str| launch.unsupported.contains(&key);
    plan.watched = plan.limits.only(has_no);
    let missing = launch.unsupported.iter().filter(|&&key| {
        let seen_to = key == "max_turns" || key == "budget_usd" && about.tells_cost;
        !seen_to && is_asked(table, inputs.item, key)
    });
    plan.notes = missing
        .map(|key| match *key {
            "budget_usd" => format!(
                "{} does not report its cost: `budget_usd` limits nothing",
                about.program
            ),
            key => format!("{} cannot enforce `{key}`", about.program),
        })
        .collect();
}

/// Whether the user set this key: for the agent, or for the item.
fn is_asked(table: &AgentTable, item: &Item, key: &str) -> bool {
    table.given.contains(&key)
        || key == "max_turns" && item.max_turns.is_some()
        || key == "budget_usd" && item.budget_usd.is_some()
}

const CONTINUE: &str = "Continue from there: the work so far is in the current directory.\n\n";
const ITEM: &str = "The work item:\n\n";

/// The text before the item's own. `fresh`: the CLI's, where nothing is to be said.
fn prefix(inputs: &LaunchInputs<'_>, fresh: &str) -> String {
    let feedback = inputs.feedback;
    let blank = if feedback.is_empty() { "" } else { "\n" };
    match &inputs.before {
        None if feedback.is_empty() => fresh.to_owned(),
        None => format!("What is known already:\n\n{feedback}\n{ITEM}"),
        Some(before) => format!("{}{feedback}{blank}{ITEM}", continuation(before)),
    }
}

/// The text before the item's own where an attempt continues another one.
fn continuation(before: &Before<'_>) -> String {
    let reason: Vec<&str> = before.reason.split_whitespace().collect();
    let reason = reason.join(" ");
    let (reason, _) = event::clip(&reason, REASON_BYTES_MAX);
    if let Some(Answered {
        question, answer, ..
    }) = before.answered
    {
        let quoted = |text: &str| text.lines().map(|l| format!("> {l}\n")).collect::<String>();
        let answer = match answer {
            Some(answer) => format!("The answer:\n\n{}", quoted(answer)),
            None => "A person has looked and lets you continue without a written answer.\n".into(),
        };
        return format!(
            "You stopped to ask a person:\n\n{}\n{answer}\n{CONTINUE}",
            quoted(question)
        );
    }
    let attempt = match before.conversation {
        Some(_) => "Your last attempt at this item",
        None => "An earlier attempt at this item",
    };
    let end = match before.ended_well {
        true => "ended well, but was sent back",
        false => "ended before the item was done",
    };
    format!("{attempt} {end}: {reason}\n{CONTINUE}")
}

fn prompt(bootstrap: Option<Vec<u8>>, prefix: &str, item: &Item) -> Vec<u8> {
    let mut text = bootstrap.unwrap_or_default();
    if !text.is_empty() {
        text.push(b'\n');
    }
    text.extend(prefix.as_bytes());
    text.extend(&item.prompt);
    text
}
