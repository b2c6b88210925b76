//! A folder on this host's own disk (`harness run --local DIR`): the worktrees, the repositories of the
//! slots and a copy of each user's repository lie there, so that a ROOT which hosts share has only queue
//! and state.
//!
//! Knows nothing of git. Invariants: each ROOT has a folder of its own in DIR, with an id that no other
//! folder has; a slot is recovered in the folder in which its last holder worked, while that is there, and
//! only then works in another one. Another host's folder may have the same path (`/scratch`, or a volume of
//! a container): the id tells them apart.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::atomic::{self, Nameless};
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, SlotId, shown};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;

/// In a folder of worktrees outside of ROOT: which ROOT's they are.
const OWNER: &str = ".harness-root";
/// In such a folder on a host's own disk: its id.
const DISK: &str = ".harness-disk";
const MISPLACED: &str = "cannot use the folder for worktrees";
const HINT: &str = "name another folder with --local";

/// ROOT with its worktrees and repositories below this folder, which is made.
///
/// # Errors
/// Permanent: what is there is another ROOT's or another user's, or a part of this ROOT. I/O.
pub(crate) fn place(root: &Root, dir: &Path) -> Result<Root> {
    if dir.as_os_str().as_bytes().starts_with(b"$") {
        let why =
            "a variable is looked up by your shell: write it without quotes, or in double ones";
        return Err(Error::usage(MISPLACED, why).at_path(dir));
    }
    let name = name_for(root);
    // Before anything is made there: a folder in `pending/` would be taken for an item.
    refuse_inside(root, &real(dir)?.join(&name), HINT)?;
    atomic::make_dir(dir, false)?;
    let dir = fs::canonicalize(dir).or_fail("cannot find the folder", dir)?;
    let root = root.clone().with_local(&dir.join(name));
    make(&root)?;
    Ok(root)
}

/// Where a folder is, or will be, without symlinks.
fn real(dir: &Path) -> Result<PathBuf> {
    let what = "cannot find the folder";
    let dir = std::path::absolute(dir).or_fail(what, dir)?;
    let there = dir.ancestors().find(|part| part.exists());
    let there = there.unwrap_or(Path::new("/"));
    let rest = dir.strip_prefix(there).unwrap_or(Path::new(""));
    Ok(fs::canonicalize(there).or_fail(what, there)?.join(rest))
}

/// Makes this ROOT's folder with its id, and what is in it. One that was removed while harness ran gets
/// another id.
fn make(root: &Root) -> Result<()> {
    let Some(dir) = root.local() else {
        return Ok(());
    };
    atomic::make_dir(dir, true)?;
    let meta = dir.symlink_metadata().or_fail("cannot look at", dir)?;
    // It may lie where everybody makes folders, as in /tmp.
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        let what = "cannot use the folder on this host's disk";
        return Err(Error::permanent(what, "it is another user's, or no folder")
            .at_path(dir)
            .hint(HINT));
    }
    own(root, dir, HINT)?;
    atomic::make_dir(&root.worktrees(), false)?;
    atomic::make_dir(&root.repos(), true)?;
    let id = dir.join(DISK);
    if !atomic::exists(&id) {
        // Of processes that begin at the same time one gives it.
        let text = clock::unique().to_string();
        let _or_it_is_there = Nameless::new(&id, text.as_bytes(), 0o600, true)?.link(&id)?;
    }
    Ok(())
}

/// ROOT as a slot's last holder had it. `None`: it worked on a disk that is not here, or in a folder that is
/// gone, and all that was only there cannot be had.
pub(crate) fn of_slot(root: &Root, slot: SlotId) -> Option<Root> {
    if planted("recovered-elsewhere") {
        return Some(root.clone());
    }
    let mark = root.local_mark(slot);
    if atomic::is_gone(&mark) {
        return Some(root.clone().without_local());
    }
    let text = atomic::read_small(&mark, STATE_FILE_BYTES_MAX).ok()?;
    let path = text.splitn(2, |&b| b == b' ').nth(1)?;
    let dir = PathBuf::from(OsString::from_vec(path.to_owned()));
    // A copy of ROOT has another name, and a folder of another host another id.
    let is_ours = dir.file_name() == Some(name_for(root).as_ref()) && atomic::is_own_dir(&dir);
    let is_it = || mark_of(&dir).is_ok_and(|mark| mark == text) || planted("disks-not-told-apart");
    (is_ours && is_it()).then(|| root.clone().with_local(&dir))
}

/// What stands in the mark of a slot that works in this folder: its id and its path.
fn mark_of(dir: &Path) -> io::Result<Vec<u8>> {
    let mut mark = atomic::read_small(&dir.join(DISK), STATE_FILE_BYTES_MAX)?;
    mark.push(b' ');
    mark.extend(dir.as_os_str().as_bytes());
    Ok(mark)
}

/// The same for as long as ROOT is there, also where it is moved, and another one for each ROOT.
fn name_for(root: &Root) -> String {
    let (inode, born) = atomic::birth(root.path());
    format!("harness-{inode:x}-{born:x}")
}

/// Notes in which folder a slot works from here on, and makes it again where it was removed. Its holder has
/// recovered it.
pub(crate) fn note(root: &Root, slot: SlotId) -> Result<()> {
    let mark = root.local_mark(slot);
    let Some(dir) = root.local() else {
        return atomic::remove(&mark).map(drop);
    };
    make(root)?;
    let text = mark_of(dir).or_fail("cannot read its id", dir)?;
    match atomic::holds(&mark, &text) {
        true => Ok(()),
        false => atomic::replace(&mark, &text, true),
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
    refuse_inside(root, dir, hint)?;
    let file = dir.join(OWNER);
    match path_in(&file) {
        Some(theirs) if theirs == root.path() => return Ok(()),
        Some(theirs) if theirs.join("state").is_dir() => {
            let why = format!("{} has its worktrees there", shown(theirs.as_os_str()));
            return Err(Error::permanent(MISPLACED, why).at_path(dir).hint(hint));
        }
        // Its ROOT was moved or is gone, or it is new.
        _ => {}
    }
    atomic::replace(&file, root.path().as_os_str().as_bytes(), true)
}

fn refuse_inside(root: &Root, dir: &Path, hint: &str) -> Result<()> {
    let is_in = |part: PathBuf| dir.starts_with(part);
    match root.path().starts_with(dir) || is_in(root.queue()) || is_in(root.state()) {
        true => Err(Error::permanent(MISPLACED, "ROOT itself lies there")
            .at_path(dir)
            .hint(hint)),
        false => Ok(()),
    }
}
