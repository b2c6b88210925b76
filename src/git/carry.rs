//! Ends what a landing in the user's checkout left half done, forwards or back.
//!
//! Knows nothing of items. Invariant: a file is written or removed only if it is as one of the two
//! commits has it, missing, or empty (a git was killed in it). What a person made of it meanwhile
//! stays, and shows as their change.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::checkout::{Checkout, PATHS_MAX, paths_of};
use super::index_lock::{IndexLock, Landing};
use super::publish::Users;
use crate::atomic;
use crate::error::{Error, Result};

/// A path in which two commits differ.
struct Differs {
    path: OsString,
    in_from: bool,
    in_to: bool,
    /// To a submodule, whose files are its own.
    is_link: bool,
}

impl Users<'_> {
    /// Ends landings of dead harnesses in all worktrees of the user's repository.
    pub(crate) fn settle_landings(&self) -> Result<()> {
        let user = self.hub().user().to_owned();
        let linked = fs::read_dir(user.join("worktrees")).into_iter().flatten();
        let linked = linked.flatten().map(|entry| entry.path());
        for admin in [user.clone()].into_iter().chain(linked) {
            let Some((lock, landing)) = IndexLock::left_over(&admin) else {
                continue;
            };
            let canonical = admin.canonicalize().ok();
            let checkout = self.checkout_at(&landing.dir, admin == user)?;
            match checkout.filter(|c| Some(&c.admin) == canonical.as_ref()) {
                Some(checkout) => drop(checkout.settle(lock, &landing)?),
                None => {
                    let why = format!(
                        "harness died while it moved {}, and the worktree is not at {} any more",
                        landing.full,
                        landing.dir.display()
                    );
                    let e = Error::permanent("cannot end a landing", why);
                    let lock = admin.join("index.lock");
                    return Err(e.at_path(&lock).hint(
                        "look at the worktree (`git status`, `git diff HEAD`), then remove this lock",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Checkout<'_> {
    /// Ends a landing under its lock: forwards if the branch has moved, else back. Returns whether it
    /// has.
    pub(super) fn settle(&self, lock: IndexLock, landing: &Landing) -> Result<bool> {
        let (old, new) = (&landing.old, &landing.new);
        let has_moved = match self.users.value(&landing.full)? {
            Some(tip) if tip == *new => true,
            Some(tip) if tip == *old => false,
            Some(tip) => {
                let git = self.git().args(["merge-base", "--is-ancestor", new, &tip]);
                git.patient()?.ok()
            }
            None => false,
        };
        match has_moved {
            true => self.carry(&lock, old, new)?,
            false => self.carry(&lock, new, old)?,
        }
        self.end_copies()?;
        lock.release(self.is_durable())?;
        Ok(has_moved)
    }

    /// Makes of each file that is as `from` has it one as `to` has it, and the index so.
    pub(super) fn carry(&self, lock: &IndexLock, from: &str, to: &str) -> Result<()> {
        let what = "cannot end a landing in your checkout";
        if !atomic::exists(&self.admin.join("index")) {
            return Ok(());
        }
        let begin = self.index_at(lock, "index.harness-from", to, from)?;
        let not_from = self.not_as(&begin, lock)?;
        let index = self.index_at(lock, "index.harness", from, to)?;
        let not_to = self.not_as(&index, lock)?;
        let (mut write, mut remove) = (Vec::new(), Vec::new());
        for file in self.differing(from, to)? {
            let meta = self.dir.join(&file.path).symlink_metadata();
            let is_void = meta.as_ref().map_or(true, |m| m.is_file() && m.len() == 0);
            let is_gone = meta.is_err();
            let is = |within: bool, differ: &HashSet<OsString>| match within {
                true => !differ.contains(&file.path),
                false => is_gone,
            };
            if is(file.in_to, &not_to) || file.is_link {
                continue;
            }
            match is(file.in_from, &not_from) || is_void {
                true if file.in_to => write.push(file.path),
                true => remove.push(file.path),
                false => {}
            }
        }
        for path in remove {
            self.remove_file(Path::new(&path))?;
        }
        // Not over anything else: a folder, or a file in a folder's place.
        write.retain(|path| {
            let there = self.first_there(Path::new(path), &mut HashSet::new());
            there.is_none_or(|there| there.as_os_str() == path && !self.dir.join(there).is_dir())
        });
        for some in write.chunks(PATHS_MAX) {
            let git = self.git_on(&index, lock);
            let git = git.args(["checkout-index", "--force", "--index", "--"]);
            git.args(some).must(what)?;
        }
        self.refresh(&index, lock)?;
        if self.is_durable() {
            self.sync_files()?;
        }
        atomic::rename_over(&index, &self.admin.join("index"))
    }

    /// A copy of the index in which what was of `from` is of `to`.
    fn index_at(&self, lock: &IndexLock, name: &str, from: &str, to: &str) -> Result<PathBuf> {
        let index = self.copy_index(name)?;
        let git = self.git_on(&index, lock);
        let git = git.args(["read-tree", "-i", "-m", from, to]);
        git.must("cannot end a landing in your checkout: its index")?;
        Ok(index)
    }

    /// The files that are not as an index has them.
    fn not_as(&self, index: &Path, lock: &IndexLock) -> Result<HashSet<OsString>> {
        self.refresh(index, lock)?;
        let git = self.git_on(index, lock);
        let git = git.args(["diff-files", "-z", "--name-only"]);
        let out = git.must("cannot compare the files of your checkout")?;
        Ok(paths_of(&out).collect())
    }

    fn differing(&self, from: &str, to: &str) -> Result<Vec<Differs>> {
        let git = self.git().args(["diff-tree", "-r", "-z", "--no-renames"]);
        let out = git
            .args(["--raw", from, to, "--"])
            .must("cannot compare two commits")?;
        let mut words = out.stdout.split(|&b| b == 0);
        let mut all = Vec::new();
        while let (Some(modes), Some(path)) = (words.next(), words.next()) {
            let modes = String::from_utf8_lossy(modes);
            let mut modes = modes.trim_start_matches(':').split(' ');
            let (old, new) = (modes.next().unwrap_or(""), modes.next().unwrap_or(""));
            all.push(Differs {
                path: OsString::from_vec(path.to_vec()),
                in_from: old != "000000",
                in_to: new != "000000",
                is_link: [old, new].contains(&"160000"),
            });
        }
        Ok(all)
    }

    /// Removes a file, and the folders that are empty then.
    fn remove_file(&self, path: &Path) -> Result<()> {
        if self.dir.join(path).is_dir() && !self.dir.join(path).is_symlink() {
            return Ok(());
        }
        atomic::remove(&self.dir.join(path))?;
        let parents = path.ancestors().skip(1);
        for parent in parents.filter(|parent| !parent.as_os_str().is_empty()) {
            if fs::remove_dir(self.dir.join(parent)).is_err() {
                break;
            }
        }
        Ok(())
    }
}
