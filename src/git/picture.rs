//! A look at a worktree for people: what is changed, and how. Read-only; takes no lock of git's, so
//! that an agent that was stopped in the middle of a git command of its own is no hindrance.

use super::{Base, Worktree};
use crate::error::Result;

/// What `git status` and `git diff` say of a worktree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    pub status: String,
    /// Against the base: commits and what is not committed. Untracked files are in `status` only.
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
