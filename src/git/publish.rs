//! The only writes into the user's repository: a finished branch appears, or goes away again.
//!
//! Knows nothing of items. Invariant: objects come first, then one ref, by compare-and-swap; no
//! other ref, no index, configuration, FETCH_HEAD or file of the user's changes, and doing it
//! again changes nothing. Once it is said to be there, it is there after a power cut.

use std::fs;
use std::path::Path;

use super::hub::fetch;
use super::{Git, Hub};
use crate::atomic;
use crate::error::{Error, Result};

impl Hub {
    /// Makes `branch` appear at `oid` in the user's repository, as `BRANCH-SHORT_ID` where that
    /// name is taken by another commit. Returns the name.
    ///
    /// # Errors
    /// Permanent if another branch leaves no room for the name (`harness`).
    pub fn publish(&self, branch: &str, oid: &str, short_id: &str) -> Result<String> {
        fetch(self.user_git(), self.dir(), &[oid])
            .must("cannot copy the branch's commits into your repository")?;
        let second = format!("{branch}-{short_id}");
        for name in [branch, &second] {
            let full = format!("refs/heads/{name}");
            let none = "0".repeat(oid.len());
            let git = self.user_git().args(["update-ref", &full, oid, &none]);
            let out = git.patient()?;
            if out.ok() || self.user_ref(&full)?.as_deref() == Some(oid) {
                self.sync_user_ref(&full)?;
                return Ok(name.to_owned());
            }
            if self.user_ref(&full)?.is_none() {
                return Err(git.failure("cannot make the branch in your repository", &out));
            }
        }
        Err(Error::permanent(
            "cannot make the branch in your repository",
            format!("both {branch} and {second} are other commits there"),
        )
        .at_path(self.user())
        .hint("rename these branches (`git branch -m OLD NEW`)"))
    }

    /// Takes a published branch away again if it still is at `oid` and nobody has it checked
    /// out; `false` where it stays or was gone.
    pub fn unpublish(&self, published: &str, oid: &str) -> Result<bool> {
        let full = format!("refs/heads/{published}");
        let git = self.user_git().args([
            "for-each-ref",
            "--format=%(refname) %(objectname) %(worktreepath)",
            &full,
        ]);
        let out = git.must("cannot look up the published branch")?;
        let free = format!("{full} {oid} ");
        if !String::from_utf8_lossy(&out.stdout)
            .lines()
            .any(|l| l == free)
        {
            return Ok(false);
        }
        let git = self.user_git().args(["update-ref", "-d", &full, oid]);
        let out = git.patient()?;
        if !out.ok() && self.user_ref(&full)?.as_deref() == Some(oid) {
            return Err(git.failure("cannot take the published branch away", &out));
        }
        self.sync_user_ref(&full)?;
        Ok(out.ok())
    }

    /// Deletes the hub's `branch` if it is at `oid` and holds nothing that no other ref holds:
    /// an item that changed nothing.
    pub fn forget(&self, branch: &str, oid: &str) -> Result<()> {
        let full = format!("refs/heads/{branch}");
        let what = "cannot forget an empty branch";
        if self.read_ref(&full).as_deref() != Some(oid) {
            return Ok(());
        }
        let alone = self
            .git()
            .args(["rev-list", "--max-count=1", oid, "--not"])
            .arg(format!("--exclude={full}"))
            .args(["--all", "--"])
            .must(what)?;
        if !alone.stdout.is_empty() {
            return Ok(());
        }
        // HEAD on a branch that is gone would make every file of that tree look new.
        for admin in self.heads_on(&full) {
            if fs::metadata(&admin).is_ok_and(|m| m.is_dir()) {
                atomic::replace(&admin.join("HEAD"), format!("{oid}\n").as_bytes(), false)?;
            }
        }
        self.git()
            .args(["update-ref", "-d", &full, oid])
            .must(what)
            .map(drop)
    }

    /// By default git syncs neither loose objects nor refs: after a power cut they would be empty.
    fn user_git(&self) -> Git {
        let git = Git::on(self.user());
        if self.repo().durable {
            git.synced()
        } else {
            git
        }
    }

    /// Syncs the folders on the way to a ref: git syncs the ref's file alone. The journal keeps
    /// its order, so the folders of the objects, which came before, are on disk with them.
    fn sync_user_ref(&self, full: &str) -> Result<()> {
        if !self.repo().durable {
            return Ok(());
        }
        let folders = Path::new(full).ancestors().skip(1);
        for folder in folders.chain([Path::new("reftable")]) {
            let folder = self.user().join(folder);
            match atomic::sync_dir(&folder) {
                // Not there with another kind of refs, or removed by git as empty.
                Err(_) if atomic::is_gone(&folder) => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    fn user_ref(&self, full: &str) -> Result<Option<String>> {
        let out = self
            .user_git()
            .args(["rev-parse", "--verify", "--quiet", full])
            .output()?;
        Ok(out.ok().then(|| out.line()))
    }
}
