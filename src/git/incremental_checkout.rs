//! Checkout without looking at every file: if the last item left nothing uncommitted, only the
//! files that differ between its commit and the new base are checked out.
//!
//! Knows nothing of items. Invariant: used only where it is known to be correct. Everything else,
//! and every failure here, gets a full checkout (`worktree`), which salvages.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use super::state::TreeState;
use super::{Base, Git, Hub, Worktree};
use crate::atomic;
use crate::error::Result;
use crate::limits::STATE_FILE_BYTES_MAX;

/// git compares each path with each file of the index: above this, a full checkout is as fast.
const PATHS_MAX: usize = 64;
/// What a worktree's admin folder has when nothing is half-done. With anything else (a merge, a lock)
/// the checkout is full.
const AT_REST: [&str; 13] = [
    "COMMIT_EDITMSG",
    "HEAD",
    "ORIG_HEAD",
    "branch",
    "commondir",
    "git-crypt",
    "given",
    "index",
    "logs",
    "look",
    "refs",
    "view",
    "void",
];

/// The changes that bring a clean worktree to a base.
#[derive(Debug)]
pub(super) struct IncrementalCheckout {
    /// HEAD's commit, which the tree was found to match.
    pub head: String,
    /// The files and symlinks that differ between it and the base.
    paths: Vec<Changed>,
}

/// A file that differs between two commits.
#[derive(Debug, PartialEq, Eq)]
struct Changed {
    path: OsString,
    /// Whether it exists in the newer commit.
    stays: bool,
}

impl Hub {
    /// The worktree at `dir`, made if missing, on the new branch `branch`, at `base`. Every git
    /// that works in the tree holds `lease` open. `others`: branches of other items, with their commits,
    /// that the agent sees too.
    ///
    /// # Errors
    /// Those of `worktree` and `Worktree::checkout`.
    pub(crate) fn set_up(
        &self,
        dir: &Path,
        lease: Arc<File>,
        branch: &str,
        base: &Base,
        others: Vec<(String, String)>,
    ) -> Result<Worktree> {
        let mut tree = self.worktree(dir)?.under(lease).showing(others);
        tree.notes = tree.checkout(branch, base)?;
        // What was left there.
        self.keep(None)?;
        Ok(tree)
    }

    /// The files that differ between two commits; `None` if they are too many, or if one affects
    /// how others are checked out (`.gitattributes`).
    fn paths_between(&self, old: &str, new: &str) -> Option<Vec<Changed>> {
        if old == new {
            return Some(Vec::new());
        }
        let git = self.git().args([
            "diff-tree",
            "-r",
            "--raw",
            "--no-renames",
            "-z",
            old,
            new,
            "--",
        ]);
        let out = git.output().ok().filter(|out| out.ok() && !out.truncated)?;
        plain_paths(&out.stdout)
    }
}

impl Worktree {
    /// The files to change to get to `base`; `None` if a full checkout is needed. The caller
    /// guarantees that no process works in the tree.
    pub(super) fn incremental_checkout(&self, base: &Base) -> Option<IncrementalCheckout> {
        let head = self.head_at_rest()?;
        let look = quick_status(self.git()).env("GIT_OPTIONAL_LOCKS", "0");
        let out = look.output().ok()?;
        let state = TreeState::parse(&out.stdout, &|_| false);
        // What it warns of (a folder that it cannot read) needs the whole look.
        let is_whole = out.ok() && !out.truncated && out.stderr.is_empty();
        let is_clean = is_whole && state.is_clean();
        if !is_clean || state.head.as_ref() != Some(&head) {
            return None;
        }
        let paths = self.hub.paths_between(&head, &base.oid)?;
        Some(IncrementalCheckout { head, paths })
    }

    /// HEAD's commit, read without starting git, if no operation is half-done here.
    fn head_at_rest(&self) -> Option<String> {
        for entry in fs::read_dir(&self.admin).ok()? {
            let name = entry.ok()?.file_name();
            AT_REST.iter().find(|known| name == **known)?;
        }
        if !atomic::exists(&self.admin.join("index")) {
            return None;
        }
        let head = atomic::read_small(&self.admin.join("HEAD"), STATE_FILE_BYTES_MAX).ok()?;
        let head = String::from_utf8(head).ok()?;
        let head = head.strip_suffix('\n')?;
        match head.strip_prefix("ref: ") {
            Some(name) if name.starts_with("refs/heads/") => self.hub.read_ref(name),
            Some(_) => None,
            None => super::hub::is_oid(head).then(|| head.to_owned()),
        }
    }

    /// Checks out what differs. `false`: that failed and a full checkout is needed; nothing
    /// uncommitted was there to lose.
    pub(super) fn check_out_changes(
        &self,
        changes: &IncrementalCheckout,
        branch: &str,
        base: &Base,
    ) -> Result<bool> {
        let full = format!("refs/heads/{branch}");
        if !changes.paths.is_empty() {
            let files = self
                .git()
                .env("GIT_LITERAL_PATHSPECS", "1")
                // Otherwise git would look at every file of the index again.
                .set("core.preloadIndex", "false")
                .args(["checkout", "--quiet", "--no-overlay"])
                .args(["--ignore-skip-worktree-bits", &base.oid, "--"])
                .args(changes.paths.iter().map(|changed| &changed.path));
            let out = files.output();
            // Files whose names are equal to the file system (`A`, `a`) overwrote each other.
            let there = |c: &Changed| atomic::exists(&self.dir.join(&c.path)) == c.stays;
            if !out.is_ok_and(|out| out.ok()) || !changes.paths.iter().all(there) {
                return Ok(false);
            }
        }
        let git = self.hub.git().args(["update-ref", &full, &base.oid]);
        git.must("cannot make the item's branch")?;
        let head = format!("ref: {full}\n");
        let durable = self.hub.repo().durable;
        atomic::replace(&self.admin.join("HEAD"), head.as_bytes(), durable)?;
        Ok(true)
    }
}

/// A `git status` that trusts the untracked cache in the index for folders whose times have not
/// changed: half the work. Only where a missed file loses nothing: it stays in place, and the full
/// status at the item's end commits it.
pub(super) fn quick_status(git: Git) -> Git {
    git.set("core.untrackedCache", "true")
        // The untracked cache is valid for one listing mode only.
        .set("status.showUntrackedFiles", "all")
        .args(TreeState::ARGS)
}

/// The files of a `diff-tree --raw -z`, if they are few and each can be checked out on its own.
fn plain_paths(raw: &[u8]) -> Option<Vec<Changed>> {
    let mut paths = Vec::new();
    let mut parts = raw.split(|&b| b == 0).filter(|part| !part.is_empty());
    while let Some(told) = parts.next() {
        // `:OLD_MODE NEW_MODE OLD NEW STATUS`, then the path.
        let path = parts.next()?;
        let mut modes = told.strip_prefix(b":")?.split(|&b| b == b' ');
        let (old, new) = (modes.next()?, modes.next()?);
        let file = |mode: &[u8]| matches!(mode, b"000000" | b"100644" | b"100755" | b"120000");
        let name = path.rsplit(|&b| b == b'/').next()?;
        // `.gitattributes`, `.gitignore`, `.gitmodules` affect other files.
        let of_git = name
            .get(..4)
            .is_some_and(|start| start.eq_ignore_ascii_case(b".git"));
        if !file(old) || !file(new) || of_git || paths.len() == PATHS_MAX {
            return None;
        }
        paths.push(Changed {
            path: OsString::from_vec(path.to_vec()),
            stays: new != b"000000",
        });
    }
    let all: HashSet<&[u8]> = paths.iter().map(|c| c.path.as_bytes()).collect();
    let in_the_way = |c: &Changed| {
        let folders = Path::new(&c.path).ancestors().skip(1);
        let mut folders = folders.map(|f| f.as_os_str().as_bytes());
        folders.any(|folder| all.contains(folder))
    };
    (!paths.iter().any(in_the_way)).then_some(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_that_affect_no_others_are_checked_out_alone() {
        let line = |old: &str, new: &str, path: &str| format!(":{old} {new} a b X\0{path}\0");
        let edit = |path: &str| line("100644", "100644", path);
        let read = |raw: &str| plain_paths(raw.as_bytes());
        let gone = line("120000", "000000", "d/gone");
        let both = read(&(edit("a b\n") + &gone)).unwrap();
        let told: Vec<_> = both.iter().map(|c| (c.path.as_bytes(), c.stays)).collect();
        assert_eq!(told, [(&b"a b\n"[..], true), (b"d/gone", false)]);
        assert_eq!(read("").unwrap(), []);
        for whole in [
            line("160000", "160000", "sub"),
            line("100644", "160000", "now/sub"),
            edit("deep/.gitignore"),
            edit(".GITattributes"),
            edit("a") + &edit("a/b"),
            (0..=PATHS_MAX).map(|n| edit(&n.to_string())).collect(),
            edit("x") + ":100644",
        ] {
            assert_eq!(read(&whole), None, "{whole}");
        }
    }
}
