//! `[gates]`, `[gates.NAME]` and `[integrate]`: how finished work is checked and brought together.

use std::time::Duration;

use serde::Deserialize;

use super::{Config, SandboxMode, seconds};

/// `[gates]`: checks that need no program.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GatesTable {
    pub builtin: Vec<Builtin>,
    /// Bytes that no changed file may exceed.
    pub size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// The attempt changed something.
    Changed,
    /// It changed nothing outside the item's `paths`.
    Paths,
    /// No file that it changed has conflict markers.
    Markers,
    /// No file that it changed is larger than `size`.
    Size,
}

impl Builtin {
    pub const ALL: [Builtin; 4] = [
        Builtin::Changed,
        Builtin::Paths,
        Builtin::Markers,
        Builtin::Size,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Builtin::Changed => "changed",
            Builtin::Paths => "paths",
            Builtin::Markers => "markers",
            Builtin::Size => "size",
        }
    }
}

/// `[gates.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GateTable {
    /// Program and arguments; empty where there is a `script`.
    #[serde(default)]
    pub command: Vec<String>,
    /// A text for `sh -c`.
    pub script: Option<String>,
    pub when: Vec<Moment>,
    #[serde(deserialize_with = "seconds")]
    pub timeout: Duration,
    pub on_failure: OnFailure,
    /// Whether work that it does not pass is held up.
    pub required: bool,
    /// The JUnit XML file that it writes, relative to the worktree.
    pub junit: Option<String>,
    /// `None`: as in `[sandbox]`.
    pub sandbox: Option<SandboxMode>,
    /// Names of `[tokens]`.
    pub tokens: Vec<String>,
}

/// On which tree a gate runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    /// The base, once for each of its commits.
    Before,
    /// What an attempt made.
    After,
    /// What would land.
    Merge,
}

impl Moment {
    pub fn as_str(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::After => "after",
            Moment::Merge => "merge",
        }
    }
}

/// What a red gate means for an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    Retry,
    Park,
    /// As `Park`, and the slot is paused.
    Interrupt,
}

/// What becomes of a finished branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It appears in the user's repository.
    Branch,
    /// It appears, and its item waits in `review/`.
    Review,
    /// It appears, and its item waits in `merge/`.
    Merge,
}

impl Mode {
    pub const ALL: [(&'static str, Mode); 3] = [
        ("branch", Mode::Branch),
        ("review", Mode::Review),
        ("merge", Mode::Merge),
    ];
}

/// What a landing leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A merge commit.
    Merge,
    /// One commit with all changes.
    Squash,
    /// Each commit of the branch, on top of the base.
    Rebase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    Park,
    /// An agent gets the merge to resolve, once for each item.
    Agent,
}

/// `[integrate]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Integrate {
    pub mode: Mode,
    pub how: How,
    /// `None`: the base.
    pub into: Option<String>,
    /// Branches that are merged and gated together, at most.
    pub batch: usize,
    pub on_conflict: OnConflict,
    /// The remote to push to after a landing.
    pub push: Option<String>,
    pub assisted_by: bool,
}

/// The same keys in `[repos.NAME]`; `None`: as in `[integrate]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IntegrateTable {
    pub mode: Option<Mode>,
    pub how: Option<How>,
    pub into: Option<String>,
    pub batch: Option<usize>,
    pub on_conflict: Option<OnConflict>,
    pub push: Option<String>,
    pub assisted_by: Option<bool>,
}

impl Config {
    /// What becomes of finished branches of this repository (`None`: the default one).
    pub fn integrate(&self, repo: Option<&str>) -> Integrate {
        let own = repo.and_then(|name| self.repos.get(name));
        let own = own.map(|repo| repo.integrate.clone()).unwrap_or_default();
        let all = self.integrate.clone();
        Integrate {
            mode: own.mode.unwrap_or(all.mode),
            how: own.how.unwrap_or(all.how),
            into: own.into.or(all.into),
            batch: own.batch.unwrap_or(all.batch),
            on_conflict: own.on_conflict.unwrap_or(all.on_conflict),
            push: own.push.or(all.push),
            assisted_by: own.assisted_by.unwrap_or(all.assisted_by),
        }
    }
}
