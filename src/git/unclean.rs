//! Files that git calls changed in a fresh checkout, with nobody having touched them: CRLF in a
//! repository whose `.gitattributes` says text, a large file committed past its filter.
//!
//! Knows nothing of items. Invariant: such a file is no evidence of work while its bytes are those
//! that the checkout wrote; once they differ it is a file as any other.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::Worktree;
use super::state::TreeState;
use crate::atomic;
use crate::error::Result;
use crate::limits::{INDEX_BYTES_MAX, UNCLEAN_BYTES_MAX};
use crate::mutant::planted;

/// In the admin folder: a line with a fingerprint, and a path, each ended by NUL.
const FILE: &str = "unclean";

/// Paths, and fingerprints of what the checkout wrote there.
#[derive(Debug, Default)]
pub(super) struct Unclean(HashMap<OsString, String>);

impl Worktree {
    /// Notes what a checkout that has just ended left in this way.
    pub(super) fn note_unclean(&self) -> Result<()> {
        atomic::remove(&self.admin.join(FILE))?;
        let out = self.git().args(TreeState::ARGS).patient()?;
        let state = TreeState::parse(&out.stdout, &|path| !self.is_closed(path));
        if state.unclean.is_empty() || planted("git-unclean-is-work") {
            return Ok(());
        }
        let mut text = Vec::new();
        for path in &state.unclean {
            text.extend_from_slice(self.fingerprint(path).as_bytes());
            text.extend_from_slice(&[b"\0", path.as_bytes(), b"\0"].concat());
        }
        atomic::replace(&self.admin.join(FILE), &text, self.hub.repo().durable)
    }

    pub(super) fn unclean(&self) -> Unclean {
        let text = atomic::read_small(&self.admin.join(FILE), INDEX_BYTES_MAX).unwrap_or_default();
        let mut parts = text.split(|&b| b == 0);
        let mut all = HashMap::new();
        while let (Some(print), Some(path)) = (parts.next(), parts.next()) {
            let print = String::from_utf8_lossy(print).into_owned();
            all.insert(OsString::from_vec(path.to_vec()), print);
        }
        Unclean(all)
    }

    /// Whether the file is as the checkout wrote it.
    pub(super) fn is_untouched(&self, unclean: &Unclean, path: &OsStr) -> bool {
        let print = unclean.0.get(path).filter(|print| !print.is_empty());
        print.is_some_and(|print| *print == self.fingerprint(path))
    }

    fn fingerprint(&self, path: &OsStr) -> String {
        let mut hash = DefaultHasher::new();
        let bytes = atomic::read_small(&self.dir.join(path), UNCLEAN_BYTES_MAX);
        // One that cannot be read is equal to nothing.
        bytes.map_or(String::new(), |bytes| {
            bytes.hash(&mut hash);
            format!("{:016x}", hash.finish())
        })
    }
}
