//! Which `GIT_…` variables of the caller hold for whom. What would direct a git to another repository,
//! index or identity holds for nobody: a harness that was started from a hook finds all of these. How
//! the caller reaches the network, and which settings they use, holds for agents and for our own git.
//! The rest (an editor, traces) is for agents alone.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

/// `git rev-parse --local-env-vars`, and what git adds to them in hooks.
const DIRECTS: [&str; 19] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_ATTR_SOURCE",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DEFAULT_HASH",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
];
/// The identity, and the entries that `GIT_CONFIG_COUNT` counts.
const DIRECTS_BEGIN: [&str; 4] = [
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_CONFIG_KEY_",
    "GIT_CONFIG_VALUE_",
];

const NETWORK: [&str; 6] = [
    "GIT_ALLOW_PROTOCOL",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "GIT_PROTOCOL_FROM_USER",
    "GIT_SSH",
];
const NETWORK_BEGIN: [&str; 5] = [
    "GIT_CURL_",
    "GIT_HTTP_",
    "GIT_LFS_",
    "GIT_PROXY_",
    "GIT_SSL_",
];

fn is_one(name: &OsStr, whole: &[&str], beginnings: &[&str]) -> bool {
    let begins = |b: &&str| name.as_bytes().starts_with(b.as_bytes());
    whole.iter().any(|w| name == *w) || beginnings.iter().any(begins)
}

/// Whether a variable would direct a git to another repository, index or identity.
pub(crate) fn directs_git(name: &OsStr) -> bool {
    is_one(name, &DIRECTS, &DIRECTS_BEGIN)
}

/// Whether a variable tells git how to reach the network, or where the caller's settings are.
pub(super) fn is_of_the_network(name: &OsStr) -> bool {
    is_one(name, &NETWORK, &NETWORK_BEGIN) || name.as_bytes().starts_with(b"GIT_SSH_")
}

/// Where git finds settings.
const PLACES: [&str; 4] = [
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "HOME",
    "XDG_CONFIG_HOME",
];

/// Places that the caller gave relative to where harness was started: in an agent's worktree, git would
/// find there what its agent made.
pub(super) fn made_absolute() -> &'static [(&'static str, OsString)] {
    static READ: LazyLock<Vec<(&str, OsString)>> = LazyLock::new(|| {
        let places = PLACES.iter().filter_map(|&key| {
            let place = std::env::var_os(key).filter(|place| !place.is_empty())?;
            let place = std::path::absolute(place).ok()?;
            Some((key, place.into_os_string()))
        });
        places.collect()
    });
    &READ
}

/// Settings of the caller that stand in the environment (`GIT_CONFIG_COUNT`), without those that
/// direct a git.
pub(crate) fn inherited_settings() -> &'static [(OsString, OsString)] {
    static READ: LazyLock<Vec<(OsString, OsString)>> = LazyLock::new(|| {
        let count = std::env::var("GIT_CONFIG_COUNT").ok();
        let count = count.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let entry = |n: usize| {
            let of = |what: &str| std::env::var_os(format!("GIT_CONFIG_{what}_{n}"));
            Some((of("KEY")?, of("VALUE")?))
        };
        // The count may be any number: entries end at the first gap.
        let entries = (0..count).map_while(entry);
        entries.filter(|(key, _)| !setting_directs(key)).collect()
    });
    &READ
}

fn setting_directs(key: &OsStr) -> bool {
    let key = key.to_string_lossy().to_lowercase();
    let sections = ["user.", "author.", "committer.", "extensions."];
    let keys = [
        "core.worktree",
        "core.bare",
        "core.hookspath",
        "core.repositoryformatversion",
    ];
    sections.iter().any(|s| key.starts_with(s)) || keys.contains(&&*key)
}
