//! Creates, checks, removes and syncs folders.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{open_dir, open_regular, open_safely, remove};
use crate::error::{Context, Error, Result};
use crate::mutant::planted;

/// The ROOT that this process works in.
static ROOT: OnceLock<PathBuf> = OnceLock::new();

/// From now on `make_dir` makes this directory no more: a ROOT that was moved or removed stays so.
pub(crate) fn never_make(root: &Path) {
    let _first = ROOT.set(root.to_owned());
}

/// Makes a directory and its missing parents; mode 700 where `private`.
pub fn make_dir(path: &Path, private: bool) -> Result<()> {
    let root = ROOT.get().map(PathBuf::as_path);
    let is_missing =
        |dir: &&Path| Some(*dir) != root && !dir.as_os_str().is_empty() && !dir.is_dir();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        let mode = if private { 0o700 } else { 0o777 };
        match fs::DirBuilder::new().mode(mode).create(dir) {
            // Another process was faster; or it is something else, which is said.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made.or_fail("cannot make the directory", path)?,
        }
    }
    Ok(())
}

/// Makes one directory whose parent must exist: a removed parent is never made again. Mode 700 where
/// `private`. `false` if it exists already.
pub(crate) fn make_dir_new(path: &Path, private: bool) -> Result<bool> {
    let mode = if private { 0o700 } else { 0o777 };
    match fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("cannot make the directory", path, &e)),
    }
}

/// Whether it is a directory and no symlink to one. Folders that harness makes inside the tree (a
/// slot's, a session's) are never symlinks: one made by an agent would lead out of ROOT.
pub(crate) fn is_own_dir(path: &Path) -> bool {
    let own = path.symlink_metadata().is_ok_and(|m| m.is_dir());
    own || planted("symlink-followed") && path.is_dir()
}

/// An open folder that is no symlink: a session's, which its agent may have replaced, or may replace
/// while we write. What is written through it stays in the folder that was opened, wherever ROOT or
/// the folder is moved meanwhile.
pub(crate) struct OwnDir {
    file: File,
    path: PathBuf,
}

impl OwnDir {
    pub(crate) fn open(path: &Path) -> Result<OwnDir> {
        let opened = open_safely(path).or_fail("cannot open the folder", path)?;
        if !opened.metadata().is_ok_and(|m| m.is_dir()) {
            let why = "something else is in the place of the folder";
            return Err(Error::permanent("cannot open the folder", why).at_path(path));
        }
        Ok(OwnDir {
            file: opened,
            path: path.to_owned(),
        })
    }

    /// The path of a file in it, through the descriptor. Without `/proc`, by its name.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        let through = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        match through.exists() {
            true => through.join(name),
            false => self.path.join(name),
        }
    }

    /// As `atomic::replace`.
    pub(crate) fn replace(&self, name: &str, content: &[u8], durable: bool) -> Result<()> {
        let done = super::replace(&self.at(name), content, durable);
        done.map_err(|e| e.at_path(&self.path.join(name)))
    }
}

/// Removes a directory tree that is kept elsewhere or holds nobody's work: half-made copies, git's
/// administration. `because` is for the reader of the calling code.
pub(crate) fn discard_tree(path: &Path, because: &'static str) -> Result<()> {
    debug_assert!(!because.is_empty());
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => remove(path).map(drop),
        Err(e) => Err(Error::io("cannot remove the directory", path, &e)),
    }
}

/// Makes renames and links in a directory survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    open_dir(path)
        .and_then(|d| d.sync_all())
        .or_fail("cannot sync the directory", path)
}

pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes a directory tree that nobody else writes into survive a power cut: each file, then the
/// directory that holds it.
pub(crate) fn sync_tree(path: &Path) -> Result<()> {
    let what = "cannot sync";
    let mut dirs = vec![path.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).or_fail(what, &dir)? {
            let entry = entry.or_fail(what, &dir)?;
            let (path, kind) = (entry.path(), entry.file_type().or_fail(what, &dir)?);
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                let synced = open_regular(&path).and_then(|f| f.sync_all());
                synced.or_fail(what, &path)?;
            }
        }
        sync_dir(&dir)?;
    }
    Ok(())
}
