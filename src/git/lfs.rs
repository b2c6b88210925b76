//! Carries Git LFS objects between the user's repository and the hub: git itself carries only the
//! pointers to them.
//!
//! Runs no git-lfs. A store is `lfs/objects` of a git directory; a file in it has its SHA-256 as
//! name. Invariant: no file of a store is ever overwritten.

use std::path::{Path, PathBuf};

use super::Hub;
use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Result};
use crate::limits::LFS_BYTES_MAX;

const STORE: &str = "lfs/objects";

/// What a commit has in the place of a large file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub oid: String,
    /// As git's diff shows it.
    pub path: String,
}

impl Hub {
    /// Gives the hub every object that the user's repository has: a checkout needs no network then.
    pub(super) fn take_lfs_of_user(&self) -> Result<()> {
        let from = self.user().join(STORE);
        for path in from.is_dir().then(|| files(&from)).into_iter().flatten() {
            if let Some(oid) = path.file_name().and_then(|n| n.to_str()) {
                carry(oid, self.user(), self.dir())?;
            }
        }
        Ok(())
    }

    /// Gives the user's repository the objects that these commits add. Those that are nowhere are
    /// left out.
    pub(super) fn give_lfs_to_user(&self, oid: &str) -> Result<()> {
        for pointer in self.new_pointers(oid)? {
            let carried = carry(&pointer.oid, self.dir(), self.user())?;
            if carried && self.repo().durable {
                let file = object(self.user(), &pointer.oid);
                atomic::sync_tree(file.parent().unwrap_or(&file))?;
            }
        }
        Ok(())
    }

    /// The pointers in commits that no branch of the user's has. Asks git only where LFS is in use.
    pub(super) fn new_pointers(&self, oid: &str) -> Result<Vec<Pointer>> {
        if !atomic::exists(&self.dir().join(STORE)) {
            return Ok(Vec::new());
        }
        let git = self
            .git()
            .args(["log", "--format=", "--patch", "--unified=0"]);
        let git = git.args(["--no-ext-diff", "--no-textconv", "--no-color", "--text"]);
        let git = git.args(["--no-renames", "-G^oid sha256:[0-9a-f]*$", oid, "--not"]);
        let git = git.args(["--glob=refs/harness/base/*", "--glob=refs/remotes/*", "--"]);
        let out = git.must("cannot look for LFS objects in the branch")?;
        Ok(pointers(&String::from_utf8_lossy(&out.stdout)))
    }
}

/// The pointers that a patch adds.
fn pointers(patch: &str) -> Vec<Pointer> {
    let (mut found, mut path) = (Vec::new(), "");
    for line in patch.lines() {
        if let Some(new) = line.strip_prefix("+++ ") {
            path = new.strip_prefix("b/").unwrap_or(new);
        } else if let Some(oid) = line.strip_prefix("+oid sha256:")
            && is_oid(oid)
        {
            let (oid, path) = (oid.to_owned(), path.to_owned());
            found.push(Pointer { oid, path });
        }
    }
    found
}

fn is_oid(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 64 && text.bytes().all(hex)
}

fn object(git_dir: &Path, oid: &str) -> PathBuf {
    let (a, b) = (&oid[..2], &oid[2..4]);
    git_dir.join(STORE).join(a).join(b).join(oid)
}

fn files(store: &Path) -> impl Iterator<Item = PathBuf> {
    let all = walkdir::WalkDir::new(store).min_depth(3).max_depth(3);
    let files = all.into_iter().flatten();
    files
        .filter(|e| e.file_type().is_file())
        .map(walkdir::DirEntry::into_path)
}

/// Puts an object of one git directory into the store of another, as a hard link where that is
/// possible. `false`: it is not there, or was already here.
fn carry(oid: &str, from: &Path, to: &Path) -> Result<bool> {
    if !is_oid(oid) {
        return Ok(false);
    }
    let (from, to) = (object(from, oid), object(to, oid));
    if atomic::exists(&to) || !from.symlink_metadata().is_ok_and(|m| m.is_file()) {
        return Ok(false);
    }
    if let Some(folder) = to.parent() {
        atomic::make_dir(folder, false)?;
    }
    if let Ok(linked) = atomic::link_new(&from, &to) {
        return Ok(linked == Moved::Done);
    }
    let temp = atomic::temp_beside(&to);
    let placed = atomic::copy(&from, &temp, LFS_BYTES_MAX)
        .or_fail("cannot copy the LFS object", &to)
        .and_then(|()| atomic::rename_new(&temp, &to));
    match placed {
        Ok(Moved::Done) => Ok(true),
        Ok(_) => atomic::remove(&temp).map(|_| false),
        Err(e) => {
            let _gone: Result<bool, Error> = atomic::remove(&temp);
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pointers_that_a_patch_adds_are_found() {
        let oid = "ab".repeat(32);
        let patch = format!(
            "diff --git a/x.bin b/x.bin\n--- a/x.bin\n+++ b/x.bin\n-oid sha256:{oid}\n\
             +oid sha256:{oid}\n+oid sha256:../../{oid}\n+++ /dev/null\n oid sha256:{oid}\n"
        );
        let path = "x.bin".to_owned();
        assert_eq!(pointers(&patch), [Pointer { oid, path }]);
    }
}
