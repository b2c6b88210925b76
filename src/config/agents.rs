//! Defaults of `[agents.NAME]` tables, which depend on whether harness knows the agent's CLI.
//!
//! Does not know how a CLI is started (`adapters` do). Invariant: a CLI without a table is treated
//! as if it had an empty one.

use std::collections::BTreeMap;
use std::ffi::OsString;

use serde_json::Value as Json;

use super::file::{self, Parsed};
use super::keys::{Key, Table};
use super::{AgentTable, Overrides, SCRIPT, Sources, entry, sandbox};
use crate::adapters::{self, NO_EVENTS};
use crate::error::Result;
use crate::layout::Root;

/// The CLI of `[agents.NAME]`: its `cli`, or NAME if that is a CLI and there is no `command`.
pub(super) fn cli_of<'a>(table: Table, name: &'a str, parsed: &'a Parsed) -> Option<&'a str> {
    if table != Table::Agents {
        return None;
    }
    match parsed
        .setting(table, name, "cli")
        .and_then(|s| s.value.as_str())
    {
        Some(cli) => Some(cli),
        None => (adapters::NAMES.contains(&name)
            && parsed.setting(table, name, "command").is_none())
        .then_some(name),
    }
}

/// Whether a table has this key: that of scripts has few.
pub(super) fn has(table: Table, name: &str, key: &Key) -> bool {
    (table, name) != (Table::Agents, SCRIPT) || sandbox::KEYS.contains(&key.name)
}

/// The value of an unset key.
pub(super) fn default_of(table: Table, key: &Key, cli: Option<&str>) -> Result<Json> {
    match (table, key.name, cli) {
        (Table::Agents, "cli", Some(cli)) => Ok(Json::from(cli)),
        (Table::Agents, "events", cli) => Ok(Json::from(cli.unwrap_or(NO_EVENTS))),
        _ => file::default_of(key, cli.is_some()),
    }
}

/// Every CLI as if its table were empty.
pub(super) fn without_tables(
    root: &Root,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<BTreeMap<String, AgentTable>> {
    let (nothing, none) = (Parsed::default(), Overrides::default());
    let mut tables = BTreeMap::new();
    for &name in adapters::NAMES {
        let keys = Table::Agents.keys();
        let of = |key| entry(Table::Agents, name, key, Some(name), &nothing, &none, env);
        let sources = Sources(keys.map(of).collect::<Result<_>>()?);
        tables.insert(name.to_owned(), sources.agent(root, name, env)?);
    }
    Ok(tables)
}
