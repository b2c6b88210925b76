//! Moves a branch of the user's that is checked out, as `git merge --ff-only` would, or says why that
//! has to wait.
//!
//! Knows nothing of items. Invariant: nothing of the user's is overwritten or removed that is not a
//! file of the old commit just as it was committed; ignored files count as theirs. No hook runs, and
//! nothing of the checkout changes but the files that differ, the index and the branch.
//!
//! What is on disk when this process dies, in the order of `fast_forward`; `settle` ends each of them:
//! - the lock alone (and a copy of the index, which the next one overwrites): nothing was changed;
//! - some files are the new ones, the branch and the index are old: they go back;
//! - the branch is the new one, the index is old: the files are (after a power cut, become) the new
//!   ones, and the index is made so;
//! - the index is new as well: only the lock goes.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Output;
use super::checkout::{Checkout, Landed, PATHS_MAX, paths_of, shown_path};
use super::index_lock::{IndexLock, Landing};
use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::shown;

impl Checkout<'_> {
    /// Moves the branch, which is checked out here, with the files and the index.
    pub(super) fn fast_forward(&self, full: &str, old: &str, new: &str) -> Result<Landed> {
        let place = self.shown();
        if let Some(what) = self.operation()? {
            return Ok(Landed::Waits(format!("{what} is under way in {place}")));
        }
        let landing = Landing {
            full: full.to_owned(),
            old: old.to_owned(),
            new: new.to_owned(),
            dir: self.dir.clone(),
        };
        let Some(lock) = IndexLock::take(&self.admin, &landing, self.is_durable())? else {
            let lock = shown_path(&self.admin.join("index.lock"));
            return Ok(Landed::Waits(format!(
                "a git is at work in {place}, or a dead one left its lock {lock}"
            )));
        };
        let mut has_begun = false;
        let swapped = match self.put_files(&lock, &landing, &mut has_begun) {
            Ok(None) => self
                .users
                .swap(&self.git().holding(Some(&lock.file)), &landing),
            other if has_begun => other.map(|_| Landed::Moved),
            other => {
                // Nothing is changed.
                self.end_copies()?;
                lock.release(false)?;
                return other.map(|why| Landed::Waits(why.unwrap_or_default()));
            }
        };
        match swapped {
            Ok(Landed::Done) => {
                atomic::rename_over(&self.copy_path(), &self.admin.join("index"))?;
                lock.release(self.is_durable())?;
                Ok(Landed::Done)
            }
            other => match self.settle(lock, &landing)? {
                true => Ok(Landed::Done),
                false => other,
            },
        }
    }

    /// Puts the new commit's files here, and the copy of the index. Returns why that has to wait:
    /// nothing is changed then. `has_begun`: something may be changed.
    pub(super) fn put_files(
        &self,
        lock: &IndexLock,
        landing: &Landing,
        has_begun: &mut bool,
    ) -> Result<Option<String>> {
        let place = self.shown();
        // Only now nothing begins any more.
        if let Some(what) = self.operation()? {
            return Ok(Some(format!("{what} is under way in {place}")));
        }
        let head = self.git().args(["symbolic-ref", "--quiet", "HEAD"]);
        if head.patient()?.line() != landing.full {
            return Ok(Some(format!(
                "another branch is being checked out in {place}"
            )));
        }
        if !atomic::exists(&self.admin.join("index")) {
            return Ok(Some(format!(
                "{place} has no index: nothing is checked out there yet"
            )));
        }
        let index = self.copy_index("index.harness")?;
        let (old, new) = (&landing.old, &landing.new);
        let mut refused = None;
        // Twice: what was written in this very moment git takes for changed.
        for _ in 0..2 {
            self.refresh(&index, lock)?;
            if let Some(file) = self.in_the_way(&index, lock, old, new)? {
                let file = shown(&file);
                let why =
                    format!("{file} in {place} is not of any commit, and would be overwritten");
                return Ok(Some(why));
            }
            let git = self
                .git_on(&index, lock)
                .args(["read-tree", "-m", "-u", old, new]);
            *has_begun = true;
            let out = git.patient()?;
            if out.ok() {
                if self.is_durable() {
                    self.sync_files()?;
                }
                return Ok(None);
            }
            refused = refusal(&out);
            if refused.is_none() {
                let what = "cannot put the merged files into your checkout";
                return Err(git.failure(what, &out));
            }
            *has_begun = false;
        }
        Ok(refused.map(|why| format!("{why} in {place}: commit, stash or move it")))
    }

    /// Something that is in no commit, and that the new commit's files would replace. git looks after
    /// what is untracked, but not after what is ignored.
    fn in_the_way(
        &self,
        index: &Path,
        lock: &IndexLock,
        old: &str,
        new: &str,
    ) -> Result<Option<OsString>> {
        let git = self.git().args(["diff-tree", "-r", "-z", "--no-renames"]);
        let git = git.args(["--name-only", "--diff-filter=A", old, new, "--"]);
        let out = git.must("cannot compare two commits")?;
        if out.truncated {
            let why = "it adds too many files";
            return Err(Error::permanent("cannot merge into your checkout", why).at_path(&self.dir));
        }
        let mut there: BTreeSet<OsString> = BTreeSet::new();
        let mut folders: BTreeSet<OsString> = BTreeSet::new();
        let mut whole: HashSet<PathBuf> = HashSet::new();
        for path in out
            .stdout
            .split(|&b| b == 0)
            .filter(|path| !path.is_empty())
        {
            let path = Path::new(OsStr::from_bytes(path));
            if let Some(first) = self.first_there(path, &mut whole) {
                match self.dir.join(&first).is_dir() && !self.dir.join(&first).is_symlink() {
                    true => folders.insert(first.into_os_string()),
                    false => there.insert(first.into_os_string()),
                };
            }
        }
        let list = |what: &[&str], paths: &[&OsString]| -> Result<HashSet<OsString>> {
            let git = self.git_on(index, lock).env("GIT_LITERAL_PATHSPECS", "1");
            let git = git
                .args(["ls-files", "-z"])
                .args(what)
                .arg("--")
                .args(paths);
            let out = git.must("cannot look at the files of your checkout")?;
            Ok(paths_of(&out).collect())
        };
        let there: Vec<&OsString> = there.iter().collect();
        for some in there.chunks(PATHS_MAX) {
            let known = list(&["--cached"], some)?;
            if let Some(file) = some.iter().find(|file| !known.contains(**file)) {
                return Ok(Some((*file).clone()));
            }
        }
        let folders: Vec<&OsString> = folders.iter().collect();
        for some in folders.chunks(PATHS_MAX) {
            if let Some(file) = list(&["--others"], some)?.into_iter().min() {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }
}

/// Why git refused before it changed anything, in words that go on with the place.
fn refusal(out: &Output) -> Option<String> {
    let line = out.stderr.lines().find_map(|l| l.strip_prefix("error: "))?;
    let file = line
        .split_once('\'')
        .and_then(|(_, rest)| rest.rsplit_once('\''));
    let file = file.map(|(file, _)| shown(OsStr::new(file)));
    let signs = [
        ("not uptodate", "is changed"),
        ("Untracked working tree", "is not of any commit, and is"),
        ("would lose untracked", "has files of no commit"),
        ("would be overwritten", "is staged"),
        ("submodule", "is a submodule that is changed"),
        ("sparse", "is changed"),
    ];
    let sign = signs.iter().find(|(sign, _)| line.contains(sign));
    match (file, sign) {
        (Some(file), Some((_, what))) => Some(format!("{file} {what}")),
        (None, Some(_)) => Some(format!("git refuses ({})", shown(OsStr::new(line)))),
        _ => None,
    }
}
