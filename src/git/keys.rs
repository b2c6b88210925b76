//! The keys of git-crypt, where the user's repository is unlocked: without them its filter, which is
//! the user's setting, can neither show nor hide a file.
//!
//! Runs no git-crypt. Invariant: while an item is worked on, a git directory of its slot has the keys that
//! the user's had when it began, and no others; an idle slot has none.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::Hub;
use super::hub::SLOTS;
use crate::atomic;
use crate::error::Result;
use crate::layout::{self, Root, SlotId};
use crate::limits::STATE_FILE_BYTES_MAX;

/// In a git directory. Below it: `keys/NAME`, or `keys/NAME/VERSION`.
const FOLDER: &str = "git-crypt";
const DEPTH_MAX: usize = 3;
/// Submodules in submodules, and the folders between them.
const FOLDERS_MAX: usize = 16;

/// Takes the keys from a slot whose item has ended: while it is idle, the user may lock the repository.
/// The caller holds the slot.
pub(crate) fn forget_keys(root: &Root, slot: SlotId) {
    let list = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    for hub in list(root.repos()) {
        let own = list(hub.path().join(SLOTS));
        own.filter(|e| layout::is_of_slot(&e.file_name(), slot))
            .for_each(|e| forget_in(&e.path()));
    }
    list(root.worktrees())
        .filter(|e| layout::is_repository_of_slot(&e.file_name(), slot))
        .for_each(|e| forget_in(&e.path()));
}

/// In a git directory, and in those of its worktree and submodules.
fn forget_in(dir: &Path) {
    if !atomic::is_own_dir(dir) {
        return;
    }
    let is_admin = |name: &OsStr| name == "worktrees" || name == "modules";
    let below = walkdir::WalkDir::new(dir).max_depth(FOLDERS_MAX);
    let below = below.into_iter().filter_entry(|e| {
        let parent = e.path().parent().and_then(Path::file_name);
        e.depth() == 0 || is_admin(e.file_name()) || parent.is_some_and(is_admin)
    });
    for entry in below.flatten().filter(|e| e.file_type().is_dir()) {
        let keys = entry.path().join(FOLDER);
        if atomic::exists(&keys) {
            // Those that stay are removed when its next item begins.
            let _stays = atomic::discard_tree(&keys, "copies of the user's keys");
        }
    }
}

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
