//! What an agent's `git sparse-checkout` took out of its worktree: its own git knows that those
//! files are not deleted, ours does not.
//!
//! Knows nothing of items. Invariant: only files that are missing are written, as the agent's last
//! commit has them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Worktree;
use crate::atomic;
use crate::error::Result;
use crate::limits::INDEX_BYTES_MAX;
use crate::mutant::planted;

impl Worktree {
    /// Writes the files that its index says to leave out. Our index is at the agent's last commit.
    pub(super) fn end_sparse(&self) -> Result<()> {
        let theirs = self.slot.admin();
        if !atomic::exists(&theirs.join("info/sparse-checkout")) || planted("git-sparse-is-work") {
            return Ok(());
        }
        let copy = self.admin.join("sparse");
        let _old = atomic::remove(&copy)?;
        if atomic::copy(&theirs.join("index"), &copy, INDEX_BYTES_MAX).is_err() {
            return Ok(());
        }
        let list = |git: super::Git| git.args(["ls-files", "-t", "-z"]).patient();
        let left_out = list(self.git().env("GIT_INDEX_FILE", &copy))?;
        let _gone = atomic::remove(&copy)?;
        let ours = list(self.git())?;
        // Both are sorted as git sorts an index; a name that only they have is not restored.
        let ours: std::collections::HashSet<&[u8]> = paths(&ours.stdout, b"H ").collect();
        let is_missing =
            |path: &&[u8]| ours.contains(*path) && self.is_free(OsStr::from_bytes(path).as_ref());
        let missing: Vec<&[u8]> = paths(&left_out.stdout, b"S ").filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let file = self.admin.join("pathspec");
        atomic::replace(&file, &missing.join(&0), false)?;
        let mut from = std::ffi::OsString::from("--pathspec-from-file=");
        from.push(&file);
        let git = self.git().env("GIT_LITERAL_PATHSPECS", "1");
        let git = git.args(["restore", "--quiet", "--worktree", "--pathspec-file-nul"]);
        git.arg(from)
            .must("cannot write what the agent's sparse checkout left out")?;
        atomic::remove(&file).map(drop)
    }
}

impl Worktree {
    /// Whether nothing is at this path in the tree, and nothing but folders on the way to it: git
    /// would replace a file or a symlink there.
    fn is_free(&self, path: &Path) -> bool {
        let mut way = path.ancestors().skip(1).map(|part| self.dir.join(part));
        atomic::is_gone(&self.dir.join(path))
            && way.all(|part| atomic::is_own_dir(&part) || !atomic::exists(&part))
    }
}

/// Paths of `ls-files -t -z` with this tag.
fn paths<'a>(listed: &'a [u8], tag: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let entries = listed.split(|&b| b == 0);
    entries.filter_map(move |entry| entry.strip_prefix(tag))
}
