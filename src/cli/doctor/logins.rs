//! Whether a login of this tree's agents is in use elsewhere: a window of a subscription is the login's,
//! and each tree counts what its own attempts use.
//!
//! Decides nothing. Of other trees it sees those in which a harness or a keeper of this user lives now.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Finding, ok, warn};
use crate::adapters;
use crate::atomic;
use crate::config::{AgentTable, Config, Overrides};
use crate::layout::{Root, shown};
use crate::process;
use crate::sandbox;

const WHAT_TO_DO: &str = "give each its part: lower `window_tokens` in [budget]";

/// `None`: no window is bounded.
pub(super) fn shared(root: &Root, config: &Config) -> Option<Finding> {
    if config.budget.window_tokens == 0 {
        return None;
    }
    let ours = logins(config);
    let mut found = Vec::new();
    for (login, agents) in ours.iter().filter(|(_, agents)| agents.len() > 1) {
        found.push(format!(
            "{} have one login ({}), and a window each",
            agents.join(" and "),
            shown_of(login)
        ));
    }
    for tree in at_work(root) {
        let Ok(config) = Config::load(&tree, &Overrides::default()) else {
            continue;
        };
        let theirs = logins(&config);
        for (login, agents) in ours.iter().filter(|(login, _)| theirs.contains_key(*login)) {
            found.push(format!(
                "harness works in {}, too, with the login of {} ({}), and each tree counts its own tokens alone",
                shown_of(tree.path()),
                agents.join(" and "),
                shown_of(login)
            ));
        }
    }
    Some(match found.is_empty() {
        true => ok("no other tree in which harness works now has one of these"),
        false => warn(found.join("; "), WHAT_TO_DO),
    })
}

fn shown_of(path: &Path) -> String {
    shown(path.as_os_str())
}

/// The folders in which CLIs keep their logins, and whose they are.
fn logins(config: &Config) -> BTreeMap<PathBuf, Vec<&str>> {
    let chosen = config.harness.agent.iter().map(String::as_str);
    let names: BTreeSet<&str> = config
        .agents
        .keys()
        .map(String::as_str)
        .chain(chosen)
        .collect();
    let mut all: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    for name in names {
        let table = config.agent(name).map(|(_, table)| table);
        if let Some(login) = table.and_then(login_of) {
            let real = login.canonicalize().unwrap_or(login);
            all.entry(real).or_default().push(name);
        }
    }
    all
}

fn login_of(table: &AgentTable) -> Option<PathBuf> {
    let about = adapters::by_name(table.cli.as_deref()?)?.about();
    let var = |name: &OsStr| {
        let set = table.env.get(name.to_str()?).map(OsString::from);
        set.or_else(|| std::env::var_os(name))
    };
    let home = var(OsStr::new("HOME")).map(PathBuf::from);
    let place = about.state.first()?;
    let by_default = || sandbox::path_of(place, home.as_deref(), &var);
    table.config_dir.clone().or_else(by_default)
}

/// The other trees of this user in which a harness or a keeper lives.
fn at_work(root: &Root) -> Vec<Root> {
    let id = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    let mut seen: BTreeSet<(u64, u64)> = id(root.path()).into_iter().collect();
    let trees = process::pids()
        .filter(|pid| is_ours(*pid))
        .flat_map(trees_of);
    let is_new = |tree: &PathBuf| id(tree).is_some_and(|id| seen.insert(id));
    trees.filter(is_new).map(Root::new).collect()
}

/// Whether it is a harness or a keeper of this user.
fn is_ours(pid: u32) -> bool {
    let name = atomic::read_kernel(format!("/proc/{pid}/comm")).unwrap_or_default();
    let owner = Path::new("/proc").join(pid.to_string()).metadata();
    let me = nix::unistd::geteuid().as_raw();
    name == b"harness\n" && owner.is_ok_and(|meta| meta.uid() == me)
}

/// The trees whose files in `state/harnesses/` and `state/agents/` it has open.
fn trees_of(pid: u32) -> impl Iterator<Item = PathBuf> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let open = open.into_iter().flatten().flatten();
    let paths = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    paths.filter_map(|path| {
        let state = path.ancestors().find(|dir| dir.ends_with("state"))?;
        let below = path.strip_prefix(state).ok()?;
        let is_known = ["harnesses", "agents"]
            .iter()
            .any(|dir| below.starts_with(dir));
        state.parent().filter(|_| is_known).map(Path::to_path_buf)
    })
}
