//! Which repository a hub is of: a name of harness.toml may mean another one tomorrow, and no
//! history may appear in the other.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::hub::{SEED, is_oid};
use super::{Git, Hub};
use crate::atomic;
use crate::error::{Context, Result};
use crate::layout::Root;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;

/// In the hub: the path of the user's repository, its device and inode, the path seen from ROOT.
const FILE: &str = "harness.repository";

impl Hub {
    /// Whether this hub is of the user's repository, which may have been moved or copied with ROOT,
    /// or cloned anew. A hub of an older version says nothing of that.
    pub(super) fn is_users(&self, root: &Root) -> Result<bool> {
        if planted("hub-by-name") {
            return Ok(true);
        }
        let ours = self.owner(root)?;
        let file = self.dir().join(FILE);
        let theirs = atomic::read_small(&file, STATE_FILE_BYTES_MAX).ok();
        if theirs.as_deref() == Some(&ours.concat()[..]) {
            // The same place may have another repository since.
            return self.has_our_seed();
        }
        let any_equal = |theirs: &Vec<u8>| {
            let mut parts = theirs.split_inclusive(|&b| b == 0);
            ours.iter().any(|part| parts.next() == Some(part))
        };
        if theirs.as_ref().is_some_and(|t| !any_equal(t)) || !self.has_our_seed()? {
            return Ok(false);
        }
        if theirs.is_none() {
            self.leave_old_version()?;
        }
        self.note_owner(root, self.dir())?;
        Ok(true)
    }

    pub(super) fn note_owner(&self, root: &Root, dir: &Path) -> Result<()> {
        let text = self.owner(root)?.concat();
        atomic::replace(&dir.join(FILE), &text, self.repo().durable)
    }

    fn owner(&self, root: &Root) -> Result<[Vec<u8>; 3]> {
        let user = self.user();
        let user = user.canonicalize().or_fail("cannot find", user)?;
        let meta = user.metadata().or_fail("cannot look at", &user)?;
        let root = root
            .path()
            .canonicalize()
            .or_fail("cannot find", root.path())?;
        let seen = from(&root, &user);
        Ok([
            [user.as_os_str().as_bytes(), b"\0"].concat(),
            format!("{}:{}\0", meta.dev(), meta.ino()).into_bytes(),
            [seen.as_os_str().as_bytes(), b"\0"].concat(),
        ])
    }

    /// Whether the user's repository holds the commit that the hub was made with.
    fn has_our_seed(&self) -> Result<bool> {
        let Some(seed) = self.read_ref(SEED).filter(|oid| is_oid(oid)) else {
            // An agent or a crash has spoiled the hub: whose it is cannot be told from this.
            return Ok(true);
        };
        let commit = format!("{seed}^{{commit}}");
        let git = Git::on(self.user()).args(["cat-file", "-e", &commit]);
        // In a partial clone, git would ask the remote.
        Ok(git.env("GIT_NO_LAZY_FETCH", "1").patient()?.ok())
    }
}

/// The path of `to`, seen from `here`; both are absolute and without symlinks.
fn from(here: &Path, to: &Path) -> PathBuf {
    let (mut a, mut b) = (here.components().peekable(), to.components().peekable());
    while a.peek().is_some() && a.peek() == b.peek() {
        a.next();
        b.next();
    }
    a.map(|_| Path::new("..").into())
        .chain(b.map(|c| PathBuf::from(c.as_os_str())))
        .collect()
}
