//! Creates, checks, removes and syncs folders.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::read::open_own_dir;
use super::{
    exists, folder_of, keep_older, open_dir, open_regular, remove, sync_data, temp_beside,
};
use crate::error::{Context, Error, Result};
use crate::mutant::planted;

const SYNC: &str = "cannot sync the directory";

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
        let what = "cannot open the folder";
        match open_own_dir(path) {
            Ok(file) => Ok(OwnDir {
                file,
                path: path.to_owned(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
                let why = "something else is in the place of the folder";
                Err(Error::permanent(what, why).at_path(path))
            }
            Err(e) => Err(Error::io(what, path, &e)),
        }
    }

    /// A folder in it, made if it is missing.
    pub(crate) fn folder(&self, name: &str) -> Result<OwnDir> {
        let (what, path) = ("cannot open the folder", self.path.join(name));
        match nix::sys::stat::mkdirat(&self.file, name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) | Ok(()) => {}
            Err(e) => return Err(Error::io(what, &path, &e.into())),
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.file, name, flags, Mode::empty()).or_fail(what, &path)?;
        Ok(OwnDir {
            file: file.into(),
            path,
        })
    }

    /// As `atomic::create`.
    pub(crate) fn create(&self, name: impl AsRef<Path>, content: &[u8]) -> Result<File> {
        let (what, name) = ("cannot write the file", name.as_ref());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let opened = openat(&self.file, name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file = File::from(opened.or_fail(what, &self.path.join(name))?);
        if let Err(e) = file.write_all(content) {
            self.remove(name);
            return Err(Error::io(what, &self.path.join(name), &e));
        }
        Ok(file)
    }

    /// As `atomic::replace`.
    pub(crate) fn replace(&self, name: &str, content: &[u8], durable: bool) -> Result<()> {
        let (temp, path) = (temp_beside(Path::new(name)), self.path.join(name));
        let placed = self
            .create(&temp, content)
            .and_then(|file| sync_data(&file, &path, durable))
            .and_then(|()| {
                renameat(&self.file, &temp, &self.file, name)
                    .or_fail("cannot move the file to", &path)
            });
        if placed.is_err() {
            self.remove(&temp);
        }
        placed.map_err(|e| e.at_path(&path))?;
        match durable {
            true => self.file.sync_all().or_fail(SYNC, &self.path),
            false => Ok(()),
        }
    }

    /// Moves a file that is there to the first free `NAME.~K~`.
    pub(crate) fn keep_older(&self, name: &str) -> Result<()> {
        let through = format!("/proc/self/fd/{}/{name}", self.file.as_raw_fd());
        match exists(Path::new(&through)) {
            true => keep_older(Path::new(&through)),
            false => Ok(()),
        }
    }

    fn remove(&self, name: &Path) {
        let _gone = unlinkat(&self.file, name, UnlinkatFlags::NoRemoveDir);
    }
}

/// Removes a directory tree that is kept elsewhere or holds nobody's work: half-made copies, git's
/// administration. `because` is for the reader of the calling code.
pub(crate) fn discard_tree(path: &Path, because: &'static str) -> Result<()> {
    debug_assert!(!because.is_empty());
    let what = "cannot remove the directory";
    let removed = match open_own_dir(path) {
        Ok(folder) => empty(&folder)
            .map_err(io::Error::from)
            .and_then(|()| fs::remove_dir(path)),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return remove(path).map(drop),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(what, path, &e)),
        _ => Ok(()),
    }
}

/// Removes what is in a folder of our own, which stays.
pub(crate) fn empty_tree(path: &Path) -> Result<()> {
    let emptied = open_own_dir(path).and_then(|folder| empty(&folder).map_err(io::Error::from));
    emptied.or_fail("cannot empty the directory", path)
}

/// Removes what is in a folder. A folder two levels down is first moved up into this one: two folders
/// are open and no path grows, however deep an agent nested them.
fn empty(top: &File) -> nix::Result<()> {
    let mut moved = 0_u64;
    loop {
        let folders = remove_files(top)?;
        if folders.is_empty() {
            return Ok(());
        }
        for name in folders {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let folder = File::from(openat(top, name.as_c_str(), flags, Mode::empty())?);
            for inner in remove_files(&folder)? {
                // Where the new name is one that is there: the next.
                while let Err(e) = renameat(&folder, inner.as_c_str(), top, &*format!("{moved}")) {
                    match e {
                        Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR => moved += 1,
                        e => return Err(e),
                    }
                }
                moved += 1;
            }
            unlinkat(top, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
}

/// Removes the files and empty folders in a folder, and returns the names of the other folders.
fn remove_files(folder: &File) -> nix::Result<Vec<CString>> {
    let mut folders = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    for entry in Dir::openat(folder, ".", flags, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => match unlinkat(folder, name, UnlinkatFlags::RemoveDir) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => folders.push(name.to_owned()),
                Err(Errno::ENOENT) | Ok(()) => {}
                Err(e) => return Err(e),
            },
            Err(Errno::ENOENT) | Ok(()) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(folders)
}

/// Makes renames and links in a directory survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    open_dir(path)
        .and_then(|d| d.sync_all())
        .or_fail(SYNC, path)
}

pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    sync_dir(folder_of(path))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent makes such a tree in a second. A thread's stack and a process's descriptors are few.
    #[test]
    fn a_tree_deeper_than_a_path_a_stack_and_all_descriptors_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        make_dir(&top, true).unwrap();
        let mut folder = open_own_dir(&top).unwrap();
        let file = |folder: &File, name: &str| {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC;
            drop(openat(folder, name, flags, Mode::S_IRWXU).unwrap());
        };
        for _ in 0..40_000 {
            // Names that the removal gives, too.
            for name in ["0", "1"] {
                nix::sys::stat::mkdirat(&folder, name, Mode::S_IRWXU).unwrap();
            }
            file(&folder, "2");
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            folder = File::from(openat(&folder, "1", flags, Mode::empty()).unwrap());
        }
        drop(folder);
        std::os::unix::fs::symlink(dir.path(), top.join("link")).unwrap();
        discard_tree(&top, "a test's own").unwrap();
        assert!(!exists(&top) && dir.path().is_dir());
        discard_tree(&top, "a test's own").unwrap();
    }
}
