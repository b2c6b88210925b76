//! Finds what can be removed: merged branches and unused worktrees.
//!
//! Knows nothing of items. Invariant: a ref is deleted only if another ref holds its commit, a
//! worktree only after a ref holds everything in it but ignored files.

use std::path::PathBuf;
use std::time::Duration;

use super::publish::Users;
use super::stale::somebody_works_in;
use super::{Hub, Worktree};
use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::mutant::planted;

impl Hub {
    /// Removes what killed gits left half-written among the objects and did not touch for `age`.
    /// Returns how much there was; `dry`: removes nothing.
    pub(crate) fn clear_debris(&self, age: Duration, dry: bool) -> Result<u64> {
        let mut count = 0;
        let debris = self.debris(age);
        if debris.is_empty() || planted("git-debris-stays") {
            return Ok(0);
        }
        // Set-up, which may write for long, is over when we have its lock.
        let _lock = self.lock()?;
        if somebody_works_in(self.dir()) {
            return Ok(0);
        }
        for path in debris {
            match dry {
                true => {}
                false if atomic::is_own_dir(&path) => {
                    atomic::discard_tree(&path, "half-written objects, which no ref can hold")?;
                }
                false => drop(atomic::remove(&path)?),
            }
            count += 1;
        }
        Ok(count)
    }

    fn debris(&self, age: Duration) -> Vec<PathBuf> {
        let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        let before = clock::now_ns().saturating_sub(age);
        let objects = self.dir().join("objects");
        let below = walkdir::WalkDir::new(objects).min_depth(1).max_depth(2);
        let is_debris = |e: &walkdir::DirEntry| {
            let name = e.file_name().as_encoded_bytes();
            // `tmp_objdir-…` is a folder of them.
            let half = name.starts_with(b"tmp_") || name.starts_with(b".tmp-");
            half && e.metadata().is_ok_and(|m| clock::mtime_ns(&m) <= before)
        };
        let all = below.into_iter().flatten().filter(is_debris);
        all.map(walkdir::DirEntry::into_path).collect()
    }
}

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
        self.clear_locks()?;
        self.bring_in()?;
        let head = self.empty_out()?;
        if let Some(head) = head {
            self.hub().keep_ref("detached", &head)?;
        }
        self.hub().keep(None)?;
        let kept = "refs of the hub hold what was in it";
        atomic::discard_tree(self.path(), kept)?;
        for dir in [
            self.slot.half_made(),
            self.slot.old(),
            self.slot.stage(),
            self.slot.dir.clone(),
        ] {
            atomic::discard_tree(&dir, kept)?;
        }
        atomic::discard_tree(&self.admin, kept)
    }
}
