//! A worktree's changes, for people. Read-only; takes none of git's locks, so that it works while
//! an agent is stopped in the middle of a git command.

use super::{Base, Worktree};
use crate::error::Result;

/// What `git status` and `git diff` print for a worktree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    pub status: String,
    /// Commits and uncommitted changes since the base. Untracked files are in `status` only.
    pub diff: Vec<u8>,
}

impl Worktree {
    pub(crate) fn picture(&self, base: &Base) -> Result<Picture> {
        let git = || self.git().env("GIT_OPTIONAL_LOCKS", "0");
        let status = git()
            .args(["status", "--short", "--branch", "--untracked-files=normal"])
            .must("cannot look at the worktree")?;
        let diff = git()
            .args(["diff", "--no-ext-diff", "--no-textconv", &base.oid])
            .must("cannot compare the worktree with its base")?;
        Ok(Picture {
            status: String::from_utf8_lossy(&status.stdout).into_owned(),
            diff: diff.stdout,
        })
    }
}
