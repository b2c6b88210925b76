//! The user's worktrees: where a branch is checked out, what is under way there, and copies of the
//! index to work on.
//!
//! Knows nothing of items, nor of what is done there (`forward`, `carry`). Invariant: where it cannot
//! be told whether a branch is checked out, it is not moved.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::hub::read_text;
use super::index_lock::IndexLock;
use super::publish::Users;
use super::{Git, Output};
use crate::atomic;
use crate::clock;
use crate::error::{Context, Result};
use crate::layout::shown;
use crate::limits::INDEX_BYTES_MAX;

/// What shows in a git directory that something is under way there.
pub(super) const OPERATIONS: [(&str, &str); 7] = [
    ("MERGE_HEAD", "a merge"),
    ("CHERRY_PICK_HEAD", "a cherry-pick"),
    ("REVERT_HEAD", "a revert"),
    ("rebase-merge", "a rebase"),
    ("rebase-apply", "a rebase or `git am`"),
    ("sequencer", "a cherry-pick or revert"),
    ("BISECT_LOG", "a bisect"),
];
/// Where an operation names the branches that it will move, or go back to.
const NAMES: [&str; 4] = [
    "rebase-merge/head-name",
    "rebase-merge/update-refs",
    "rebase-apply/head-name",
    "BISECT_START",
];
/// Paths that one command line takes.
pub(super) const PATHS_MAX: usize = 200;

/// How a step went: done, the branch is elsewhere, or why it waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Landed {
    Done,
    /// The branch is not at the old commit any more.
    Moved,
    /// A person is at work there: what, and where.
    Waits(String),
    /// The new commit's objects are not all in the user's repository.
    Lacks,
}

/// A worktree of the user's.
#[derive(Debug)]
pub(super) struct Checkout<'a> {
    pub(super) users: &'a Users<'a>,
    pub(super) dir: PathBuf,
    /// Its own git directory.
    pub(super) admin: PathBuf,
}

/// One of `git worktree list`.
#[derive(Default)]
struct Listed {
    dir: PathBuf,
    branch: Option<Vec<u8>>,
    is_bare: bool,
    is_detached: bool,
    is_prunable: bool,
}

impl Users<'_> {
    /// Where a branch is checked out. `Err`: why it cannot be moved now.
    pub(super) fn checkouts(
        &self,
        full: &str,
    ) -> Result<std::result::Result<Vec<Checkout<'_>>, String>> {
        let git = self.git().args(["worktree", "list", "--porcelain", "-z"]);
        let out = git.must("cannot list the worktrees of your repository")?;
        let mut found = Vec::new();
        for (n, listed) in listed(&out.stdout).into_iter().enumerate() {
            let is_on = listed.branch.as_deref() == Some(full.as_bytes());
            if listed.is_bare || listed.is_prunable || !(is_on || listed.is_detached) {
                continue;
            }
            let place = listed.dir.display().to_string();
            let Some(checkout) = self.checkout_at(&listed.dir, n == 0)? else {
                match is_on {
                    true => {
                        let why = "is checked out there, and git cannot look at it now";
                        return Ok(Err(format!(
                            "{}: {} {why}",
                            shown_path(&listed.dir),
                            short(full)
                        )));
                    }
                    // On a disk that is not there, say: its HEAD is on no branch.
                    false => continue,
                }
            };
            if is_on {
                found.push(checkout);
            } else if checkout.will_move(full) {
                let what = checkout.operation()?.unwrap_or("a rebase");
                return Ok(Err(format!(
                    "{what} of {} is under way in {place}",
                    short(full)
                )));
            }
        }
        Ok(Ok(found))
    }

    /// The worktree in this folder. `None`: there is none, or it is another repository's.
    pub(super) fn checkout_at(&self, dir: &Path, is_main: bool) -> Result<Option<Checkout<'_>>> {
        let user = self.hub().user();
        let user = user.canonicalize().or_fail("cannot find", user)?;
        let ask = |dir: &Path, what: &str| -> Result<Option<PathBuf>> {
            if !dir.is_dir() {
                return Ok(None);
            }
            let git = Git::at(dir).args(["rev-parse", "--path-format=absolute", what]);
            let out = git.patient()?;
            let path = out.ok().then(|| out.path());
            Ok(path.and_then(|path| path.canonicalize().ok()))
        };
        // git does not know where the main worktree is if its git directory is elsewhere.
        for dir in [dir, &self.hub().repo().path] {
            let Some(admin) = ask(dir, "--absolute-git-dir")? else {
                continue;
            };
            let is_right = match is_main {
                true => admin == user,
                false => admin.parent().is_some_and(|p| p == user.join("worktrees")),
            };
            if let (true, Some(dir)) = (is_right, ask(dir, "--show-toplevel")?) {
                let users = self;
                return Ok(Some(Checkout { users, dir, admin }));
            }
            if !is_main {
                break;
            }
        }
        Ok(None)
    }
}

/// `(KEY[ VALUE] NUL)… NUL` for each.
fn listed(bytes: &[u8]) -> Vec<Listed> {
    let mut all = Vec::new();
    for line in bytes.split(|&b| b == 0) {
        let cut = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
        let value = line.get(cut + 1..).unwrap_or_default().to_vec();
        if &line[..cut] == b"worktree" {
            let dir = PathBuf::from(OsString::from_vec(value));
            all.push(Listed {
                dir,
                ..Listed::default()
            });
            continue;
        }
        let Some(last) = all.last_mut() else {
            continue;
        };
        match &line[..cut] {
            b"branch" => last.branch = Some(value),
            b"bare" => last.is_bare = true,
            b"detached" => last.is_detached = true,
            b"prunable" => last.is_prunable = true,
            _ => {}
        }
    }
    all
}

fn short(full: &str) -> &str {
    full.strip_prefix("refs/heads/").unwrap_or(full)
}

pub(super) fn shown_path(path: &Path) -> String {
    shown(path.as_os_str())
}

impl Checkout<'_> {
    pub(super) fn shown(&self) -> String {
        shown_path(&self.dir)
    }

    pub(super) fn is_durable(&self) -> bool {
        self.users.hub().repo().durable
    }

    /// A command in this worktree.
    pub(super) fn git(&self) -> Git {
        let git = self.users.hub().quiet(Git::at(&self.dir));
        let git = git.env("GIT_DIR", &self.admin);
        let git = git.env("GIT_WORK_TREE", &self.dir);
        match self.is_durable() {
            true => git.synced(),
            false => git,
        }
    }

    /// The same under the lock, on a copy of the index. Whoever finds the lock waits for it.
    pub(super) fn git_on(&self, index: &Path, lock: &IndexLock) -> Git {
        let git = self.git().env("GIT_INDEX_FILE", index);
        git.set("core.splitIndex", "false")
            .holding(Some(&lock.file))
    }

    /// What is under way here, in words.
    pub(super) fn operation(&self) -> Result<Option<&'static str>> {
        for (name, what) in OPERATIONS {
            if atomic::exists(&self.admin.join(name)) {
                return Ok(Some(what));
            }
        }
        // There they are refs like others.
        if atomic::exists(&self.users.hub().user().join("reftable")) {
            for (name, what) in &OPERATIONS[1..3] {
                let git = self.git().args(["rev-parse", "--verify", "--quiet", name]);
                if git.output()?.ok() {
                    return Ok(Some(what));
                }
            }
        }
        Ok(None)
    }

    /// Whether an operation here, which has left its branch, will come back to this one.
    fn will_move(&self, full: &str) -> bool {
        let names = |file: &str| {
            let text = read_text(&self.admin.join(file)).unwrap_or_default();
            let mut lines = text.lines().map(str::trim);
            lines.any(|line| line == full || line == short(full))
        };
        NAMES.iter().any(|file| names(file))
    }

    /// What stands at a path or above it that is no folder; the path itself also if it is one.
    /// `whole`: folders that were looked at.
    pub(super) fn first_there(&self, path: &Path, whole: &mut HashSet<PathBuf>) -> Option<PathBuf> {
        let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
        parents.retain(|parent| !parent.as_os_str().is_empty());
        for parent in parents.into_iter().rev() {
            if whole.contains(parent) {
                continue;
            }
            match self.dir.join(parent).symlink_metadata() {
                Ok(meta) if meta.is_dir() => drop(whole.insert(parent.to_owned())),
                Ok(_) => return Some(parent.to_owned()),
                Err(_) => return None,
            }
        }
        atomic::exists(&self.dir.join(path)).then(|| path.to_owned())
    }

    pub(super) fn copy_path(&self) -> PathBuf {
        self.admin.join("index.harness")
    }

    /// A copy of the index, with its time: by that, git knows which files it has to read again.
    pub(super) fn copy_index(&self, name: &str) -> Result<PathBuf> {
        let (from, to) = (self.admin.join("index"), self.admin.join(name));
        let what = "cannot copy the index";
        self.end_copies_of(&to)?;
        let meta = from.symlink_metadata().or_fail(what, &from)?;
        atomic::copy(&from, &to, INDEX_BYTES_MAX).or_fail(what, &from)?;
        atomic::set_mtime(&to, clock::mtime_ns(&meta))?;
        Ok(to)
    }

    fn end_copies_of(&self, copy: &Path) -> Result<()> {
        atomic::remove(copy)?;
        // Of a git that was killed: a living one would hold our lock.
        let mut lock = copy.as_os_str().to_owned();
        lock.push(".lock");
        atomic::remove(Path::new(&lock)).map(drop)
    }

    pub(super) fn end_copies(&self) -> Result<()> {
        self.end_copies_of(&self.copy_path())?;
        self.end_copies_of(&self.admin.join("index.harness-from"))
    }

    /// Compares the files with the index, and writes it, so that the next git need not.
    pub(super) fn refresh(&self, index: &Path, lock: &IndexLock) -> Result<()> {
        let git = self.git_on(index, lock);
        let git = git.args(["update-index", "-q", "--refresh", "--force-write-index"]);
        let out = git.patient()?;
        // 1: files differ.
        match out.code {
            0 | 1 => Ok(()),
            _ => Err(git.failure("cannot look at the files of your checkout", &out)),
        }
    }

    /// The files reach the disk before the branch says that they are there: git syncs none of them.
    pub(super) fn sync_files(&self) -> Result<()> {
        let what = "cannot sync the files of your checkout";
        let dir = atomic::open_dir(&self.dir).or_fail(what, &self.dir)?;
        let synced = rustix::fs::syncfs(&dir).map_err(std::io::Error::from);
        synced.or_fail(what, &self.dir)
    }
}

/// NUL-separated paths.
pub(super) fn paths_of(out: &Output) -> impl Iterator<Item = OsString> {
    let paths = out.stdout.split(|&b| b == 0);
    let paths = paths.filter(|path| !path.is_empty());
    paths.map(|path| OsString::from_vec(path.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worktrees_are_read_as_git_lists_them() {
        let text = b"worktree /a b\0HEAD 1\0branch refs/heads/x\0\0worktree /c\0HEAD 2\0detached\0prunable gone\0\0worktree /d\0bare\0\0";
        let all = listed(text);
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].dir, Path::new("/a b"));
        assert_eq!(all[0].branch.as_deref(), Some(&b"refs/heads/x"[..]));
        assert!(all[1].is_detached && all[1].is_prunable && !all[1].is_bare);
        assert!(all[2].is_bare && all[2].branch.is_none());
    }
}
