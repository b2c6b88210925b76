//! Chooses the agent for an item and fills in its arguments. Runs nothing.
//!
//! `script` is built in: the item's own file, executed as it is. Every other agent is a
//! `[agents.NAME]` table, or a CLI that harness knows by name. Placeholders are filled in byte for
//! byte into whole arguments: no shell ever sees them.

mod lacking;
mod plan;
mod program;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::adapters;
use crate::config::nearest::advice;
use crate::config::{AgentTable, Config, placeholder};
use crate::item::{Item, Kind, Refusal};
pub(crate) use lacking::{
    NOBODY, for_item_lacks, is_gate_of, is_lack, is_lack_of_host, lacks_over, who_waits,
    why_not_a_program,
};
pub(crate) use plan::{BOOTSTRAP, Before, LaunchInputs, Plan, budget_usd, plan};
pub(crate) use program::{
    command_line, depends_on_item, find_program, not_found, path_of, why_not_started,
};

/// The name of the built-in agent that runs script items.
pub(crate) const SCRIPT: &str = "script";

/// The agent that an item is for.
pub(crate) enum Agent<'a> {
    Script,
    Command(&'a str, &'a AgentTable),
}

impl Agent<'_> {
    pub(crate) fn name(&self) -> &str {
        match self {
            Agent::Script => SCRIPT,
            Agent::Command(name, _) => name,
        }
    }

    /// `None`: a script, which has no table.
    pub(crate) fn table(&self) -> Option<&AgentTable> {
        match self {
            Agent::Script => None,
            Agent::Command(_, table) => Some(table),
        }
    }
}

/// Finds the agent for an item, or says why there is none.
pub(crate) fn for_item<'a>(config: &'a Config, item: &Item) -> Result<Agent<'a>, Refusal> {
    if item.kind == Kind::Script {
        return match item.agent.as_deref() {
            None | Some(SCRIPT) => Ok(Agent::Script),
            Some(other) => Err(Refusal(format!(
                "it is a script (executable, or begins with `#!`), which agent `{other}` cannot run; \
                 clear its executable bit if it is a prompt"
            ))),
        };
    }
    let Some(name) = item.agent.as_deref().or(config.harness.agent.as_deref()) else {
        return Err(Refusal(format!(
            "no agent is configured for prompts: set `agent` in [harness] of harness.toml to one \
             of {}, or to one that [agents.NAME] describes; or name one in the item",
            adapters::NAMES.join(", ")
        )));
    };
    match config.agent(name) {
        Some((name, table)) => Ok(Agent::Command(name, table)),
        None => {
            let own = config.agents.keys().map(String::as_str);
            let clis = adapters::NAMES.iter().copied();
            let clis = clis.filter(|cli| !config.agents.contains_key(*cli));
            let near = advice(name, own.chain(clis));
            Err(Refusal(format!("unknown agent `{name}`; {near}")))
        }
    }
}

/// The name under which a hold keeps the item from its agent; `None`: no hold does.
pub(crate) fn hold_name<'a>(config: &'a Config, item: &'a Item) -> Option<&'a str> {
    if item.kind == Kind::Script {
        return None;
    }
    let agent = item.agent.as_deref().or(config.harness.agent.as_deref());
    Some(agent.unwrap_or(NOBODY))
}

/// The values of an attempt's placeholders.
pub(crate) type Facts = BTreeMap<&'static str, OsString>;

/// Replaces each `{{NAME}}` that is in `facts`, byte for byte.
pub(crate) fn fill(template: &OsStr, facts: &Facts) -> OsString {
    placeholder::fill(template, |name| facts.get(name).cloned())
}
