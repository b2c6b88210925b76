//! Finds what can be removed: merged branches and unused worktrees.
//!
//! Knows nothing of items. Invariant: a ref is deleted only if another ref holds its commit, a
//! worktree only after a ref holds everything in it but ignored files.

use super::Worktree;
use super::publish::Users;
use crate::atomic;
use crate::error::Result;

impl Users<'_> {
    /// Published branches of the user's repository that are not checked out, are contained in the
    /// base, and whose last commit is not after `before` (unix seconds): names and commits.
    pub(crate) fn merged(&self, before: i64) -> Result<Vec<(String, String)>> {
        let base = self.hub().base(None)?;
        let format = "%(refname:lstrip=2) %(objectname) %(committerdate:unix) %(worktreepath)";
        let out = self
            .git()
            .args(["for-each-ref", "--merged", &base.oid])
            .arg(format!("--format={format}"))
            .arg("refs/heads/harness/")
            .must("cannot list the merged branches of your repository")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let mut merged = Vec::new();
        for line in text.lines() {
            let mut words = line.splitn(4, ' ');
            let (Some(branch), Some(oid), Some(at), Some("")) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let old = at.parse::<i64>().is_ok_and(|at| at <= before);
            // A branch that this ROOT did not make belongs to somebody else.
            if old && self.hub().has_commit(oid)? && branch != base.name {
                merged.push((branch.to_owned(), oid.to_owned()));
            }
        }
        Ok(merged)
    }
}

impl Worktree {
    /// Whether removal loses nothing that exists only here: submodules keep their repositories with
    /// the worktree.
    pub(crate) fn can_be_given_up(&self) -> bool {
        !atomic::exists(&self.path().join(".gitmodules"))
    }

    /// Keeps its content under refs of the hub and removes it. Ignored files (build caches) go.
    pub(crate) fn give_up(self) -> Result<()> {
        self.clear_locks();
        self.bring_in()?;
        let head = self.empty_out()?;
        if let Some(head) = head {
            self.hub().keep_ref("detached", &head)?;
        }
        let kept = "refs of the hub hold what was in it";
        atomic::discard_tree(self.path(), kept)?;
        atomic::discard_tree(&self.slot.dir, kept)?;
        atomic::discard_tree(&self.admin, kept)
    }
}
