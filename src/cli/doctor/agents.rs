//! The agents' programs: which are installed, and whether each configured one can be started.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{Finding, ok, version, warn};
use crate::adapters;
use crate::agents;
use crate::config::{AgentTable, GateTable};
use crate::layout::{Root, shown};

/// The agent CLIs found on PATH, and where.
pub(in crate::cli) fn installed() -> Vec<(&'static str, PathBuf)> {
    let path = std::env::var_os("PATH");
    let program = |name: &str| adapters::by_name(name).map(|a| a.about().program);
    let found =
        |&name: &&'static str| Some((name, found(program(name)?.as_ref(), path.as_deref())?));
    adapters::NAMES.iter().filter_map(found).collect()
}

pub(super) fn on_this_machine() -> Finding {
    let found = installed();
    let found: Vec<String> = found.iter().map(|(_, at)| shown(at.as_os_str())).collect();
    match found.is_empty() {
        true => ok(format!("none of {} on PATH", adapters::NAMES.join(", "))),
        false => ok(found.join(", ")),
    }
}

/// A configured agent's program: its path, and its version if harness knows the CLI.
pub(super) fn configured(root: &Root, agent: &str, table: &AgentTable) -> Finding {
    let about = table.cli.as_deref().and_then(adapters::by_name);
    let about = about.map(adapters::Adapter::about);
    let own = about.filter(|_| table.command.is_empty());
    let mut argv = agents::command_line(root, table);
    let program = argv.first().cloned().unwrap_or_default();
    let Some(found) = found(&program, agents::path_of(table).as_deref()) else {
        return warn(
            format!("its program {} is not found", shown(&program)),
            match own {
                Some(about) => about.not_installed(),
                None => format!("install it, or give its whole path in [agents.{agent}] command"),
            },
        );
    };
    let place = shown(found.as_os_str());
    if about.is_none() {
        let is_unread = table.events == adapters::NO_EVENTS;
        if is_unread && adapters::by_name(agent).is_some() {
            return warn(
                format!("{place}, called by `command` alone, its output is not read"),
                format!(
                    "add `cli = \"{agent}\"` to [agents.{agent}]: harness then makes the command line and reads the output"
                ),
            );
        }
        return ok(place);
    }
    argv[0] = found.into_os_string();
    match version::version(&argv, &table.env) {
        Ok(version) => ok(format!("{place}, {version}")),
        Err(why) => warn(
            format!("{place}, but asked for its version {why}"),
            format!("try it by hand: {place} --version"),
        ),
    }
}

/// The program of a gate.
pub(super) fn of_gate(gate: &str, table: &GateTable) -> Finding {
    match agents::why_not_a_program(table, &BTreeMap::new()) {
        None => ok(table
            .command
            .first()
            .map_or("a text for sh", |p| p)
            .to_owned()),
        Some(why) => warn(
            why,
            format!("items that are to pass it wait; or correct [gates.{gate}] command"),
        ),
    }
}

/// Where the program is. One whose place depends on the item is returned as it is.
fn found(program: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    match agents::depends_on_item(program) {
        true => Some(program.into()),
        false => agents::find_program(program, Path::new(""), path).ok(),
    }
}
