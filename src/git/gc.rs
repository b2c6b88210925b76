//! What of the past can go: branches that are merged, worktrees that nobody uses.
//!
//! Knows nothing of items. Invariant: a ref is deleted only where another ref holds its commit,
//! a worktree only after everything in it but ignored files is held by a ref.

use super::Worktree;
use super::publish::Users;
use crate::atomic;
use crate::error::Result;

impl Users<'_> {
    /// Branches of the user's repository that harness published, that nobody has checked out, that
    /// the base holds, and whose last commit is not younger than `before` (unix seconds): names and commits.
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
            // One that this ROOT did not make is somebody else's.
            if old && self.hub().has_commit(oid)? && branch != base.name {
                merged.push((branch.to_owned(), oid.to_owned()));
            }
        }
        Ok(merged)
    }
}

impl Worktree {
    /// Whether giving it up could lose something that has no other place: submodules keep their
    /// repositories with the worktree.
    pub(crate) fn can_be_given_up(&self) -> bool {
        !atomic::exists(&self.path().join(".gitmodules"))
    }

    /// Keeps what is in it under refs of the hub, and removes it. Ignored files (build caches) go.
    pub(crate) fn give_up(self) -> Result<()> {
        self.clear_locks();
        let head = self.empty_out()?;
        self.end_operations("autostash")?;
        if let Some(head) = head {
            self.hub().keep_ref("detached", &head)?;
        }
        let lock = self.hub().lock()?;
        self.hub()
            .git()
            .holding(Some(&lock))
            .args(["worktree", "remove", "--force", "--"])
            .arg(self.path())
            .must("cannot remove the worktree")
            .map(drop)
    }
}
