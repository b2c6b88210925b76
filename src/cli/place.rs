//! Makes a folder or a file where there is none.
//!
//! Knows nothing of ROOT. Invariant: what exists is never changed.

use std::fs;
use std::io;
use std::path::Path;

use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Result};

/// Whether there is a directory (or a symlink to one); `false` if nothing is there.
pub(super) fn stands_as_dir(path: &Path) -> Result<bool> {
    let what = "cannot make the directory";
    let in_the_way = |why: &str| {
        Err(Error::permanent(what, why)
            .at_path(path)
            .hint("move it out of the way, then run `harness init` again"))
    };
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(true),
        Ok(_) => in_the_way("something that is not a directory has this name"),
        Err(e) if e.kind() == io::ErrorKind::NotFound && atomic::exists(path) => {
            in_the_way("a symlink that points nowhere has this name")
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            in_the_way("a part of the path is not a directory")
        }
        Err(e) => Err(Error::io(what, path, &e)),
    }
}

pub(super) fn stands_as_file(path: &Path) -> Result<()> {
    let wrong = match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => "a directory has this name",
        Err(e) if e.kind() == io::ErrorKind::NotFound && atomic::exists(path) => {
            "a symlink that points nowhere has this name"
        }
        _ => return Ok(()),
    };
    Err(Error::permanent("cannot write the file", wrong)
        .at_path(path)
        .hint("move it out of the way, then run `harness init` again"))
}

/// `true`: it was made, and survives a power cut.
pub(super) fn ready_dir(path: &Path, private: bool) -> Result<bool> {
    if stands_as_dir(path)? {
        return Ok(false);
    }
    atomic::make_dir(path, private)?;
    atomic::sync_parent(path)?;
    Ok(true)
}

/// Writes a complete file under a free name; `false` if the name is taken.
pub(super) fn place(path: &Path, content: &str) -> Result<bool> {
    if atomic::exists(path) {
        return Ok(false);
    }
    let temp = atomic::temp_beside(path);
    let file = atomic::create(&temp, content.as_bytes(), 0o644)?;
    let moved = file
        .sync_all()
        .or_fail("cannot sync the file", &temp)
        .and_then(|()| atomic::rename_new(&temp, path));
    if !matches!(moved, Ok(Moved::Done)) {
        let _gone = atomic::remove(&temp);
    }
    match moved? {
        Moved::Done => atomic::sync_parent(path).map(|()| true),
        Moved::Taken => Ok(false),
        Moved::SourceGone => Err(Error::temporary(
            "cannot place the file",
            "somebody removed it while it was written",
        )
        .at_path(path)),
    }
}
