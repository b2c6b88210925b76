//! How an agent is started for an attempt: command line, what it reads, what its environment gets.
//! Put together here from its table, the item and, where harness makes the command line itself,
//! the CLI's adapter. Nothing is run, read or written here.
//!
//! Keeps: an agent is started so that nobody need be there, and the item's text reaches it whole
//! and unchanged, whatever stands before it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::{Agent, Facts, fill};
use crate::adapters::{self, Adapter, Ask, Stdin, custom};
use crate::config::{AgentStdin, AgentTable};
use crate::item::Item;

/// What of an attempt its start depends on.
pub struct Scene<'a> {
    pub item: &'a Item,
    pub facts: &'a Facts,
    pub session: &'a str,
    pub session_dir: &'a Path,
    pub worktree: &'a Path,
    /// The text of `prompts/bootstrap.md`, where there is one.
    pub bootstrap: Option<&'a [u8]>,
    /// Names in harness's own environment.
    pub inherited: Vec<OsString>,
}

/// What to start, and what to write down before.
#[derive(Debug, Default)]
pub struct Plan {
    pub argv: Vec<OsString>,
    /// For `prompt.md`; `None`: a script, which has none.
    pub prompt: Option<Vec<u8>>,
    /// Whether it reads `prompt.md` on its standard input; otherwise nothing.
    pub reads_prompt: bool,
    /// For `bootstrap.md`.
    pub bootstrap: Option<Vec<u8>>,
    /// Beneath what table and item set; `None`: removed.
    pub env: BTreeMap<OsString, Option<OsString>>,
    pub limits: Limits,
    pub model: Option<String>,
    /// The dialect of its standard output, if harness reads one.
    pub events: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What an attempt may use up; `None`: as much as it likes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    pub max_turns: Option<u64>,
    pub budget_usd: Option<f64>,
}

impl Limits {
    fn of(table: &AgentTable, item: &Item) -> Limits {
        let turns = item.max_turns.unwrap_or(table.max_turns);
        let budget = item.budget_usd.unwrap_or(table.budget_usd);
        Limits {
            max_turns: (turns > 0).then_some(turns),
            budget_usd: (budget > 0.0).then_some(budget),
        }
    }
}

/// Where the filled-in bootstrap text lies in a session's folder.
pub const BOOTSTRAP: &str = "bootstrap.md";

pub fn plan(agent: &Agent<'_>, scene: &Scene<'_>) -> Plan {
    let table = match agent {
        Agent::Script => {
            return Plan {
                argv: vec![scene.session_dir.join("item").into()],
                ..Plan::default()
            };
        }
        Agent::Command(_, table) => table,
    };
    let filled = |args: &[String]| -> Vec<OsString> {
        let of = |arg: &String| fill(OsStr::new(arg), scene.facts);
        args.iter().map(of).collect()
    };
    let told = scene.bootstrap.filter(|_| table.bootstrap);
    let told = told.map(|t| fill(&OsString::from_vec(t.to_vec()), scene.facts).into_vec());
    let events = Some(table.events.clone()).filter(|e| e != custom::NONE);
    let mut plan = Plan {
        argv: filled(&table.command),
        reads_prompt: table.stdin == AgentStdin::Prompt,
        events,
        limits: Limits::of(table, scene.item),
        model: table.model.clone(),
        ..Plan::default()
    };
    match table.cli.as_deref().and_then(adapters::by_name) {
        None => {
            if plan.events.is_some() {
                // An agent CLI all the same, only called by hand.
                plan.env = adapters::without_session(&scene.inherited);
            }
            plan.prompt = Some(prompt(told, None, scene.item));
        }
        Some(adapter) => with_cli(&mut plan, adapter, table, filled(&table.args), told, scene),
    }
    plan
}

fn with_cli(
    plan: &mut Plan,
    adapter: &dyn Adapter,
    table: &AgentTable,
    extra_args: Vec<OsString>,
    told: Option<Vec<u8>>,
    scene: &Scene<'_>,
) {
    let about = adapter.about();
    let ask = Ask {
        bootstrap_file: told.is_some().then(|| scene.session_dir.join(BOOTSTRAP)),
        session_uuid: scene.session.to_owned(),
        resume: None,
        worktree: scene.worktree.to_path_buf(),
        model: table.model.clone(),
        max_turns: plan.limits.max_turns,
        budget_usd: plan.limits.budget_usd,
        tools: table.tools.clone(),
        permission_mode: table.permission_mode.clone(),
        settings: table.settings.clone(),
        config_dir: table.config_dir.clone(),
        extra_args,
        inherited: scene.inherited.clone(),
    };
    let launch = adapter.launch(&ask);
    if plan.argv.is_empty() {
        plan.argv.push(about.program.into());
    }
    plan.argv.extend(launch.args);
    plan.reads_prompt = launch.stdin == Stdin::Prompt;
    plan.env = launch.env;
    let before = told.filter(|text| {
        if !launch.bootstrap_in_prompt {
            plan.bootstrap = Some(text.clone());
        }
        launch.bootstrap_in_prompt
    });
    plan.prompt = Some(prompt(before, launch.prompt_prefix, scene.item));
    let item = scene.item;
    let is_asked = |key: &&&str| {
        table.given.contains(*key)
            || **key == "max_turns" && item.max_turns.is_some()
            || **key == "budget_usd" && item.budget_usd.is_some()
    };
    let missing = launch.unsupported.iter().filter(is_asked);
    plan.notes = missing
        .map(|key| {
            format!(
                "{} has no means of its own to keep to `{key}`",
                about.program
            )
        })
        .collect();
}

fn prompt(told: Option<Vec<u8>>, prefix: Option<&str>, item: &Item) -> Vec<u8> {
    let mut text = told.unwrap_or_default();
    if !text.is_empty() {
        text.push(b'\n');
    }
    text.extend(prefix.unwrap_or_default().as_bytes());
    text.extend(&item.prompt);
    text
}
