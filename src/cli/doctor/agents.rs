//! The agents' programs: which are installed, and whether each configured one can be started.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{Finding, ok, version, warn};
use crate::adapters;
use crate::config::{AgentTable, placeholder};
use crate::layout::{Root, shown};

/// The agent CLIs found on PATH, and where.
pub(in crate::cli) fn installed() -> Vec<(&'static str, PathBuf)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = |name: &str| adapters::by_name(name).map(|a| a.about().program);
    let found = |&name: &&'static str| Some((name, on_path(program(name)?.as_ref(), &path)?));
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
    let value = |name: &str| (name == "ROOT").then(|| root.path().as_os_str().to_owned());
    let fill = |arg: &String| placeholder::fill(OsStr::new(arg), value);
    let mut argv: Vec<OsString> = match own {
        Some(about) => vec![about.program.into()],
        None => table.command.iter().map(fill).collect(),
    };
    let program = argv.first().cloned().unwrap_or_default();
    let path = table.env.get("PATH").map(OsString::from);
    let path = path.or_else(|| std::env::var_os("PATH"));
    let Some(found) = on_path(&program, &path.unwrap_or_default()) else {
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

/// Finds the program as `execvp` does. A relative path with a slash depends on the worktree and is
/// returned as it is.
fn on_path(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let runs = |p: &Path| p.is_file() && access(p, AccessFlags::X_OK).is_ok();
    let as_path = Path::new(program);
    if as_path.components().count() > 1 || as_path.is_absolute() {
        return (as_path.is_relative() || runs(as_path)).then(|| as_path.to_path_buf());
    }
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|p| runs(p))
}
