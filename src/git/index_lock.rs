//! git's own lock of an index in the user's repository, taken by harness while it moves a branch that
//! is checked out there: no git of the user's commits meanwhile.
//!
//! Knows nothing of files and branches. Invariant: such a file says that it is harness's and what was
//! to be done, from the moment that it has its name; whoever does it holds the file's flock, and so
//! does every git that it started. One without a holder is left over, and only such a one is taken.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::hub::is_oid;
use crate::atomic::{self, Moved, Nameless};
use crate::error::{Context, Result};
use crate::limits::STATE_FILE_BYTES_MAX;

/// How such a file begins: for who looks into it.
const MARK: &str = "harness moves a branch that is checked out here. If its process is dead, the next `harness run` ends this.";

/// What is done under the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Landing {
    /// `refs/heads/…`.
    pub(super) full: String,
    pub(super) old: String,
    pub(super) new: String,
    /// The worktree.
    pub(super) dir: PathBuf,
}

/// A lock that this process holds. Dropped without `release`, it is a left-over one.
#[derive(Debug)]
pub(super) struct IndexLock {
    path: PathBuf,
    /// For the gits that work under it.
    pub(super) file: Arc<File>,
}

impl IndexLock {
    /// `None`: somebody else has it.
    pub(super) fn take(
        admin: &Path,
        landing: &Landing,
        durable: bool,
    ) -> Result<Option<IndexLock>> {
        let path = admin.join("index.lock");
        let whole = Nameless::new(&path, &landing.text(), 0o644, durable)?;
        whole.lock();
        let file = whole.held().or_fail("cannot lock the index", &path)?;
        // Where flock does not work, another harness would take it for a left-over one.
        fs2::FileExt::try_lock_exclusive(&file).or_fail("cannot lock the index", &path)?;
        Ok(match whole.link(&path)? {
            Moved::Done => Some(IndexLock {
                path,
                file: Arc::new(file),
            }),
            Moved::Taken | Moved::SourceGone => None,
        })
    }

    /// One of harness's that nobody holds. `None`: there is none.
    pub(super) fn left_over(admin: &Path) -> Option<(IndexLock, Landing)> {
        let path = admin.join("index.lock");
        let file = atomic::open_regular(&path).ok()?;
        let text = atomic::read_open(&file, STATE_FILE_BYTES_MAX).ok()?;
        let landing = Landing::read(&text)?;
        fs2::FileExt::try_lock_exclusive(&file).ok()?;
        // Its holder may have released it before we had it.
        let (held, named) = (file.metadata().ok()?, path.symlink_metadata().ok()?);
        let is_same = (held.dev(), held.ino()) == (named.dev(), named.ino());
        let file = Arc::new(file);
        is_same.then_some((IndexLock { path, file }, landing))
    }

    pub(super) fn release(self, durable: bool) -> Result<()> {
        atomic::remove(&self.path)?;
        match durable {
            true => atomic::sync_parent(&self.path),
            false => Ok(()),
        }
    }
}

impl Landing {
    fn text(&self) -> Vec<u8> {
        let pid = std::process::id();
        let (full, old, new) = (&self.full, &self.old, &self.new);
        let text = format!("{MARK}\npid {pid}\nbranch {full}\nold {old}\nnew {new}\nworktree ");
        let mut text = text.into_bytes();
        text.extend_from_slice(self.dir.as_os_str().as_bytes());
        text.push(b'\n');
        text
    }

    fn read(text: &[u8]) -> Option<Landing> {
        let rest = text
            .strip_prefix(MARK.as_bytes())?
            .strip_prefix(b"\npid ")?;
        let mut lines = rest.splitn(5, |&b| b == b'\n').skip(1);
        let mut value = |key: &str| {
            let line = lines.next()?.strip_prefix(key.as_bytes())?;
            Some(line.strip_prefix(b" ")?.to_vec())
        };
        let mut word = |key: &str| String::from_utf8(value(key)?).ok();
        let (full, old, new) = (word("branch")?, word("old")?, word("new")?);
        let dir = value("worktree")?;
        let dir = PathBuf::from(OsString::from_vec(dir.strip_suffix(b"\n")?.to_vec()));
        let is_right = full.starts_with("refs/heads/") && is_oid(&old) && is_oid(&new);
        is_right.then_some(Landing {
            full,
            old,
            new,
            dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_left_over_lock_says_what_was_to_be_done_and_a_held_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let landing = Landing {
            full: "refs/heads/main".into(),
            old: "a".repeat(40),
            new: "b".repeat(40),
            dir: "/odd\nplace ".into(),
        };
        let lock = IndexLock::take(dir.path(), &landing, true)
            .unwrap()
            .unwrap();
        assert!(
            IndexLock::take(dir.path(), &landing, true)
                .unwrap()
                .is_none()
        );
        assert!(IndexLock::left_over(dir.path()).is_none());
        drop(lock);
        let (lock, found) = IndexLock::left_over(dir.path()).unwrap();
        assert_eq!(found, landing);
        assert!(IndexLock::left_over(dir.path()).is_none());
        lock.release(true).unwrap();
        let git = b"anything".as_slice();
        for other in [git, b"", &landing.text()[..MARK.len() + 30]] {
            atomic::replace(&dir.path().join("index.lock"), other, false).unwrap();
            assert!(IndexLock::left_over(dir.path()).is_none());
        }
    }
}
