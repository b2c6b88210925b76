//! What an agent lacks before it can be started at all: a name in harness.toml, or its program on this
//! machine; and whether the program of a gate is missing that its work is to pass. It is no item's
//! fault: a hold says once what to do, and the items wait behind it, before anything is paid for.
//!
//! Knows nothing of queues. Invariant: a hold raised here ends when its cause is gone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::Agent;
use super::program::{command_line, depends_on_item, find_program, not_found, path_of};
use crate::adapters;
use crate::clock;
use crate::config::{AgentTable, Config, GateTable, Moment};
use crate::hold::{self, Hold};
use crate::item::{Item, Kind, Refusal};
use crate::layout::Root;
use crate::sandbox;

/// The name of the hold for prompts that are for no agent; no agent may have it.
pub(crate) const NOBODY: &str = "none";
/// The classes of these holds.
const NO_AGENT: &str = "no_agent";
const NO_PROGRAM: &str = "not_installed";
const NO_GATE: &str = "gate_not_installed";
const NO_SANDBOX: &str = "no_sandbox";
/// What the names of holds for gates begin with; no agent's does.
const GATE: &str = "gate:";

/// Whether this hold was raised here.
pub(crate) fn is_lack(hold: &Hold) -> bool {
    [NO_AGENT, NO_PROGRAM, NO_GATE, NO_SANDBOX].contains(&&*hold.class)
}

/// Whether it is this host's own lack: another host may have what is missing.
pub(crate) fn is_lack_of_host(hold: &Hold) -> bool {
    is_lack(hold) && hold.class != NO_AGENT
}

/// Who waits behind such a hold, and why.
pub(crate) fn who_waits(hold: &Hold) -> String {
    if let Some(gate) = hold.agent.strip_prefix(GATE) {
        return format!("items that are to pass gate {gate} wait: {}", hold.reason);
    }
    match hold.agent.as_str() {
        NOBODY => format!("prompts without an agent wait: {}", hold.reason),
        agent => format!("items for {agent} wait: {}", hold.reason),
    }
}

/// The hold to raise if nothing can be started for this item. `agent`: what `for_item` says of it.
pub(crate) fn for_item_lacks(
    root: &Root,
    config: &Config,
    item: &Item,
    agent: &Result<Agent<'_>, Refusal>,
) -> Option<Hold> {
    if item.kind != Kind::Script && item.agent.is_none() && config.harness.agent.is_none() {
        return Some(hold_of(NOBODY, NO_AGENT, why_nobody()));
    }
    let lack = match agent {
        Ok(Agent::Command(name, table)) => {
            program_of(root, name, table, &item.env).or_else(|| sandbox_of(config, name, table))
        }
        _ => None,
    };
    lack.or_else(|| gate_of(config, item))
}

/// The first gate that what this item's agent makes is to pass and that nobody can start.
fn gate_of(config: &Config, item: &Item) -> Option<Hold> {
    let mut all = config.gates.iter();
    all.find_map(|(name, gate)| {
        let holds_up = holds_up(item, name, gate);
        holds_up
            .then(|| gate_program(name, gate, &item.env))
            .flatten()
    })
}

fn holds_up(item: &Item, name: &str, gate: &GateTable) -> bool {
    let is_wanted = item
        .gates
        .as_ref()
        .is_none_or(|all| all.iter().any(|n| n == name));
    is_wanted && gate.required && gate.when.contains(&Moment::After)
}

/// Whether this hold was raised for a gate that this item is to pass.
pub(crate) fn is_gate_of(config: &Config, item: &Item, hold: &Hold) -> bool {
    let name = hold.agent.strip_prefix(GATE);
    let gate = name.and_then(|name| config.gates.get_key_value(name));
    gate.is_some_and(|(name, gate)| holds_up(item, name, gate))
}

fn gate_program(name: &str, gate: &GateTable, own: &BTreeMap<String, String>) -> Option<Hold> {
    let why = why_not_a_program(gate, own)?;
    Some(hold_of(&format!("{GATE}{name}"), NO_GATE, why))
}

/// Why the program of a gate can certainly not be started; of one in a worktree nobody knows.
pub(crate) fn why_not_a_program(
    gate: &GateTable,
    own: &BTreeMap<String, String>,
) -> Option<String> {
    let program = OsString::from(gate.command.first()?);
    if depends_on_item(&program) {
        return None;
    }
    let path = own.get("PATH").map(OsString::from);
    let path = path.or_else(|| std::env::var_os("PATH"));
    find_program(&program, Path::new("/"), path.as_deref()).err()
}

/// The holds raised here for agents that `asked` picks whose cause is gone.
pub(crate) fn lacks_over(
    root: &Root,
    config: &Config,
    asked: impl Fn(&str) -> bool,
) -> impl Iterator<Item = Hold> {
    let raised_here = hold::all(root).into_iter().filter(is_lack);
    raised_here.filter(move |hold| asked(&hold.agent) && is_over(root, config, hold))
}

/// Whether the cause of a hold of this agent is gone.
fn is_over(root: &Root, config: &Config, hold: &Hold) -> bool {
    if hold.class == NO_AGENT {
        return config.harness.agent.is_some();
    }
    if let Some(name) = hold.agent.strip_prefix(GATE) {
        let gate = config.gates.get(name).filter(|gate| gate.required);
        return gate.is_none_or(|gate| gate_program(name, gate, &BTreeMap::new()).is_none());
    }
    let agent = config.agent(&hold.agent);
    if hold.class == NO_SANDBOX {
        return agent.is_none_or(|(name, table)| sandbox_of(config, name, table).is_none());
    }
    agent.is_none_or(|(name, table)| program_of(root, name, table, &BTreeMap::new()).is_none())
}

fn program_of(
    root: &Root,
    name: &str,
    table: &AgentTable,
    own: &BTreeMap<String, String>,
) -> Option<Hold> {
    let program = command_line(root, table).into_iter().next()?;
    if depends_on_item(&program) {
        return None;
    }
    let path = own.get("PATH").map(OsString::from);
    let path = path.or_else(|| path_of(table));
    let why = find_program(&program, Path::new("/"), path.as_deref()).err()?;
    let why = not_found(&Agent::Command(name, table), &program, why);
    Some(hold_of(name, NO_PROGRAM, why))
}

/// It is to be confined as is promised or not to start, and the kernel cannot.
fn sandbox_of(config: &Config, name: &str, table: &AgentTable) -> Option<Hold> {
    let why = sandbox::why_refused(config, &table.confined)?;
    Some(hold_of(name, NO_SANDBOX, why))
}

fn why_nobody() -> String {
    format!(
        "no agent is configured for prompts: `harness config set agent NAME` ({}, or an [agents.NAME] of \
         your own), then start `harness run` again",
        adapters::NAMES.join(", ")
    )
}

fn hold_of(agent: &str, class: &str, reason: String) -> Hold {
    Hold {
        agent: agent.to_owned(),
        until: None,
        class: class.to_owned(),
        reason,
        session: String::new(),
        since: clock::now_iso(),
    }
}
