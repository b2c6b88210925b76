//! Moves things away that git cannot work with.
//!
//! Knows nothing of hubs or worktrees. Invariant: nothing that could be somebody's work is deleted:
//! it is renamed to `NAME.~K~`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::atomic::{self, Moved};
use crate::error::{Error, Kind, Result};
use crate::limits::{BACKUPS_MAX, INDEX_BYTES_MAX};
use crate::mutant::planted;

/// Names that git expects to be files in a repository or a worktree's administration.
const FILES: [&str; 8] = [
    "HEAD",
    "MERGE_HEAD",
    "ORIG_HEAD",
    "commondir",
    "config",
    "config.worktree",
    "gitdir",
    "index",
];
/// Folders with too many files to check before each command. git itself reads nothing in `lfs`, whose
/// files may well be large: a download under way there must not be taken for an odd file.
const MANY: [&str; 5] = ["harness-debris", "lfs", "objects", "refs", "slots"];

/// Moves away what an agent put in place of git's files: git would block on a fifo, read a device
/// without end, write through a symlink, or fail on a folder. None of these holds anybody's work.
pub(super) fn clear_odd(hub: &Path, dir: &Path) {
    if planted("git-odd-files-stay") {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        // If it cannot be removed, git fails on it and reports it.
        if meta.is_dir() && FILES.iter().any(|file| name == *file) {
            let debris = hub.join("harness-debris");
            let _stays = atomic::make_dir(&debris, true)
                .and_then(|()| aside(&path, &debris.join(name)).map(drop));
        } else if meta.is_dir() {
            if !MANY.iter().any(|folder| name == *folder) {
                clear_odd(hub, &path);
            }
        } else if !meta.is_file() || meta.len() > INDEX_BYTES_MAX {
            let _stays = atomic::remove(&path);
        }
    }
}

/// Removes what is neither a file nor a folder: git would block on a fifo, and a symlink leads out.
pub(super) fn clear_links(dir: &Path) {
    if !atomic::is_own_dir(dir) {
        let _stays = atomic::remove(dir);
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => clear_links(&entry.path()),
            Ok(kind) if !kind.is_file() => drop(atomic::remove(&entry.path())),
            _ => {}
        }
    }
}

/// Lets us list a folder of our own and change what is in it. `false`: it is another user's, or was
/// open.
pub(super) fn open_folder(dir: &Path) -> bool {
    let meta = dir.symlink_metadata().ok().filter(|m| m.is_dir());
    meta.map(|m| m.permissions().mode())
        .filter(|mode| mode & 0o700 != 0o700)
        .is_some_and(|mode| fs::set_permissions(dir, Permissions::from_mode(mode | 0o700)).is_ok())
}

/// Renames `from` to the first free `NAME.~K~` beside `to`, and returns that path. Folders of our own
/// whose mode is in the way (its own, and that of the one that it lies in) are opened.
pub(super) fn aside(from: &Path, to: &Path) -> Result<Option<PathBuf>> {
    for k in 1..BACKUPS_MAX {
        let mut name = to.as_os_str().to_owned();
        name.push(format!(".~{k}~"));
        let name = PathBuf::from(name);
        let mut moved = atomic::rename_new(from, &name);
        if matches!(&moved, Err(e) if e.kind() == Kind::Permanent) {
            let opened = [from.parent(), Some(from)].map(|dir| dir.is_some_and(open_folder));
            if opened.contains(&true) {
                moved = atomic::rename_new(from, &name);
            }
        }
        match moved? {
            Moved::Done => return Ok(Some(name)),
            Moved::SourceGone => return Ok(None),
            Moved::Taken => {}
        }
    }
    Err(Error::permanent("cannot keep what is in the way", "too many backups").at_path(from))
}
