//! Whether a file system puts changes of names on disk in the order in which they were made: there,
//! one sync carries all that came before it, and a file needs no sync of its own.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use nix::sys::statfs::{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, fstatfs};

/// Whether a sync of any file of this one's file system makes all renames before it survive a power
/// cut. True of a journal that is committed as a whole: ext4's (where it has one) and xfs's.
pub(super) fn is_kept(file: &File, meta: &Metadata) -> io::Result<bool> {
    static KNOWN: LazyLock<Mutex<HashMap<u64, bool>>> = LazyLock::new(Mutex::default);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&kept) = known().get(&meta.dev()) {
        return Ok(kept);
    }
    let kind = fstatfs(file)?.filesystem_type();
    let kept = kind == XFS_SUPER_MAGIC || kind == EXT4_SUPER_MAGIC && has_journal(meta.dev());
    known().insert(meta.dev(), kept);
    Ok(kept)
}

/// What cannot be told has none. (ext2, of the same magic number, has none either.)
fn has_journal(dev: u64) -> bool {
    let (major, minor) = (nix::sys::stat::major(dev), nix::sys::stat::minor(dev));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let Some(name) = fs::canonicalize(device)
        .ok()
        .and_then(|d| d.file_name().map(ToOwned::to_owned))
    else {
        return false;
    };
    let task = PathBuf::from("/sys/fs/ext4")
        .join(name)
        .join("journal_task");
    fs::read_to_string(task).is_ok_and(|task| task.trim().parse::<u32>().is_ok())
}
