//! Merges in a slot's worktree: begun for an agent that is to solve the conflict, and noticed where an
//! agent left one unfinished (or a rebase, or a cherry-pick).
//!
//! Invariant: what an agent has not resolved is never taken for its work.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::checkout::OPERATIONS;
use super::{Base, Git, Worktree};
use crate::atomic;
use crate::error::Result;
use crate::layout::shown;
use crate::limits::INDEX_BYTES_MAX;
use crate::mutant::planted;

/// Files named in one reason.
const NAMED_MAX: usize = 3;

impl Worktree {
    /// Why what the agent left is no work yet: an operation of git's is under way there, and some of its
    /// conflicts are not resolved. Done again, it says the same.
    pub(super) fn unfinished(&self) -> Result<Option<String>> {
        let admin = self.slot.admin();
        let mut all = OPERATIONS.iter();
        let Some((_, what)) = all.find(|(name, _)| atomic::exists(&admin.join(name))) else {
            return Ok(None);
        };
        let index = self.admin.join("unmerged");
        let _old = atomic::remove(&index)?;
        if planted("unmerged-is-work")
            || atomic::copy(&admin.join("index"), &index, INDEX_BYTES_MAX).is_err()
        {
            return Ok(None);
        }
        let git = self.git().env("GIT_INDEX_FILE", &index);
        let out = git.args(["ls-files", "--unmerged", "-z"]).patient()?;
        atomic::remove(&index)?;
        // `MODE OID STAGE TAB PATH`, up to three times for each.
        let entries = out.stdout.split(|&b| b == 0);
        let paths = entries.filter_map(|entry| entry.splitn(2, |&b| b == b'\t').nth(1));
        let mut paths: Vec<&[u8]> = paths.collect();
        paths.dedup();
        if paths.is_empty() {
            return Ok(None);
        }
        let named = paths.iter().take(NAMED_MAX);
        let named: Vec<String> = named.map(|path| shown(OsStr::from_bytes(path))).collect();
        let more = if paths.len() > NAMED_MAX { ", …" } else { "" };
        Ok(Some(format!(
            "it left {what} unfinished: {}{more} not resolved (`git add`, then commit)",
            named.join(", ")
        )))
    }

    /// Begins to merge a commit of the hub into the branch that was just set up, as its agent would do it
    /// in its own repository, before it starts. `false`: there was nothing to begin, and the tree is as it
    /// was.
    pub(crate) fn begin_merge(&self, branch: &str, into: &Base) -> Result<bool> {
        let Some(oid) = self.rev("HEAD^{commit}")? else {
            return Ok(false);
        };
        // Its filters and drivers are the user's, and what they find here is an agent's.
        let Some(settings) = self.hub.commands_at_users(&self.dir) else {
            return Ok(false);
        };
        let file = self.admin.join("merging");
        atomic::replace(&file, &settings, false)?;
        let mut include = OsString::from("include.path=");
        include.push(&file);
        let git = Git::at(&self.dir)
            .args([OsStr::new("-c"), &include])
            .env("GIT_DIR", self.slot.admin())
            .env("GIT_WORK_TREE", &self.dir)
            .holding(self.lease.as_ref());
        let message = format!("Merge {} into {branch}", into.name);
        let git = git.args(["merge", "--quiet", "--no-commit", "--no-ff", "--no-stat"]);
        let out = git.args(["-m", &message, &into.oid]).patient()?;
        atomic::remove(&file)?;
        let is_begun = atomic::exists(&self.slot.admin().join("MERGE_HEAD"));
        if matches!(out.code, 0 | 1) && is_begun {
            return Ok(true);
        }
        let from = Base {
            name: into.name.clone(),
            oid,
        };
        self.make_exact(branch, &from)?;
        self.renew_slot(branch, &from).map(|()| false)
    }
}
