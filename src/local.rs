//! A folder on this host's own disk (`harness run --local DIR`): the worktrees, the repositories of the
//! slots and a copy of each user's repository lie there, so that a ROOT which hosts share has only queue
//! and state.
//!
//! Knows nothing of git. Invariants: each ROOT has a folder of its own in DIR; a slot is recovered in the
//! folder in which its last holder worked, while that is there, and only then works in another one.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, SlotId, shown};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;

/// In a folder of worktrees outside of ROOT: which ROOT's they are.
const OWNER: &str = ".harness-root";
const HINT: &str = "name another folder with --local";

/// ROOT with its worktrees and repositories below this folder, which is made.
///
/// # Errors
/// Permanent: what is there is another ROOT's or another user's, or a part of this ROOT. I/O.
pub(crate) fn place(root: &Root, dir: &Path) -> Result<Root> {
    atomic::make_dir(dir, false)?;
    let dir = fs::canonicalize(dir).or_fail("cannot find the folder", dir)?;
    let dir = dir.join(name_for(root));
    atomic::make_dir(&dir, true)?;
    let meta = dir.symlink_metadata().or_fail("cannot look at", &dir)?;
    // DIR may be one in which everybody makes folders, as /tmp.
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        let what = "cannot use the folder on this host's disk";
        return Err(Error::permanent(what, "it is another user's, or no folder")
            .at_path(&dir)
            .hint(HINT));
    }
    own(root, &dir, HINT)?;
    let root = root.clone().with_local(&dir);
    atomic::make_dir(&root.worktrees(), false)?;
    atomic::make_dir(&root.repos(), true)?;
    Ok(root)
}

/// ROOT as a slot's last holder had it. Where that folder is gone, all that was only there is gone, too.
pub(crate) fn of_slot(root: &Root, slot: SlotId) -> Root {
    if planted("recovered-elsewhere") {
        return root.clone();
    }
    // A copy of ROOT has another name.
    let is_ours = |dir: &Path| dir.file_name() == Some(name_for(root).as_ref());
    let is_there = |dir: &Path| is_ours(dir) && atomic::is_own_dir(dir);
    match path_in(&root.local_mark(slot)) {
        None => root.clone().without_local(),
        Some(dir) if is_there(&dir) => root.clone().with_local(&dir),
        Some(_) => root.clone(),
    }
}

/// The same for as long as ROOT is there, also where it is moved, and another one for each ROOT.
fn name_for(root: &Root) -> String {
    let (inode, born) = atomic::birth(root.path());
    format!("harness-{inode:x}-{born:x}")
}

/// Notes in which folder a slot works from here on. Its holder has recovered it.
pub(crate) fn note(root: &Root, slot: SlotId) -> Result<()> {
    let mark = root.local_mark(slot);
    if path_in(&mark).as_deref() == root.local() {
        return Ok(());
    }
    match root.local() {
        Some(dir) => atomic::replace(&mark, dir.as_os_str().as_bytes(), true),
        None => atomic::remove(&mark).map(drop),
    }
}

/// The absolute path that stands in a file.
pub(crate) fn path_in(file: &Path) -> Option<PathBuf> {
    let bytes = atomic::read_small(file, STATE_FILE_BYTES_MAX).ok()?;
    let path = PathBuf::from(OsString::from_vec(bytes));
    path.is_absolute().then_some(path)
}

/// Makes a folder for worktrees this ROOT's.
pub(crate) fn own(root: &Root, dir: &Path, hint: &str) -> Result<()> {
    let what = "cannot use the folder for worktrees";
    let is_ours = |part: PathBuf| dir.starts_with(part);
    if root.path().starts_with(dir) || is_ours(root.queue()) || is_ours(root.state()) {
        return Err(Error::permanent(what, "ROOT itself lies there")
            .at_path(dir)
            .hint(hint));
    }
    let file = dir.join(OWNER);
    match path_in(&file) {
        Some(theirs) if theirs == root.path() => return Ok(()),
        Some(theirs) if theirs.join("state").is_dir() => {
            let why = format!("{} has its worktrees there", shown(theirs.as_os_str()));
            return Err(Error::permanent(what, why).at_path(dir).hint(hint));
        }
        // Its ROOT was moved or is gone, or it is new.
        _ => {}
    }
    atomic::replace(&file, root.path().as_os_str().as_bytes(), true)
}
