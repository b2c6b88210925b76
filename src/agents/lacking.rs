//! What an agent lacks before it can be started at all: a name in harness.toml, or its program on this
//! machine. It is no item's fault: a hold says once what to do, and the items wait behind it.
//!
//! Knows nothing of queues. Invariant: a hold raised here ends when its cause is gone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::Agent;
use super::program::{command_line, depends_on_item, find_program, not_found, path_of};
use crate::adapters;
use crate::clock;
use crate::config::{AgentTable, Config};
use crate::hold::{self, Hold};
use crate::item::{Item, Kind, Refusal};
use crate::layout::Root;

/// The name of the hold for prompts that are for no agent; no agent may have it.
pub(crate) const NOBODY: &str = "none";
/// The classes of these holds.
const NO_AGENT: &str = "no_agent";
const NO_PROGRAM: &str = "not_installed";

/// Whether this hold was raised here.
pub(crate) fn is_lack(hold: &Hold) -> bool {
    hold.class == NO_AGENT || hold.class == NO_PROGRAM
}

/// Who waits behind such a hold, and why.
pub(crate) fn who_waits(hold: &Hold) -> String {
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
    match agent {
        Ok(Agent::Command(name, table)) => program_of(root, name, table, &item.env),
        _ => None,
    }
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
    let agent = config.agent(&hold.agent);
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
    let pid = std::process::id();
    Some(hold_of(
        name,
        NO_PROGRAM,
        format!("{why} (seen by harness process {pid})"),
    ))
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
