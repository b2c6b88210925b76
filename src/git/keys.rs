//! The keys of git-crypt, where the user's repository is unlocked: without them its filter, which is
//! the user's setting, can neither show nor hide a file.
//!
//! Runs no git-crypt. Invariant: a git directory has the keys that the user's has, and no others.

use std::path::Path;

use super::Hub;
use crate::atomic;
use crate::error::Result;
use crate::limits::STATE_FILE_BYTES_MAX;

/// In a git directory. Below it: `keys/NAME`, or `keys/NAME/VERSION`.
const FOLDER: &str = "git-crypt";
const DEPTH_MAX: usize = 3;

impl Hub {
    /// Gives a git directory of harness's the keys that the user's repository has now.
    pub(super) fn give_keys(&self, to: &Path) -> Result<()> {
        let (from, to) = (self.user().join(FOLDER), to.join(FOLDER));
        if !from.is_dir() {
            return match atomic::exists(&to) {
                true => atomic::discard_tree(&to, "the user has locked the repository"),
                false => Ok(()),
            };
        }
        let all = walkdir::WalkDir::new(&from).max_depth(DEPTH_MAX);
        for entry in all.into_iter().flatten() {
            let Ok(below) = entry.path().strip_prefix(&from) else {
                continue;
            };
            let Ok(key) = atomic::read_small(entry.path(), STATE_FILE_BYTES_MAX) else {
                continue;
            };
            let file = to.join(below);
            if !atomic::holds(&file, &key) {
                atomic::make_dir(file.parent().unwrap_or(&to), true)?;
                atomic::replace(&file, &key, false)?;
            }
        }
        Ok(())
    }
}
