//! Opens what lies below a folder without following a symlink anywhere on the way.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};

/// What is opened is a folder, and no symlink to one.
const FOLDER: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
/// A file of whatever kind: no fifo blocks, and no terminal becomes ours.
const FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

pub(super) fn folder_in(dir: &File, name: &OsStr) -> nix::Result<File> {
    openat(dir, name, FOLDER, Mode::empty()).map(File::from)
}

pub(super) fn file_in(dir: &File, name: &OsStr) -> nix::Result<File> {
    openat(dir, name, FILE, Mode::empty()).map(File::from)
}

pub(super) fn stat_in(dir: &File, name: &OsStr) -> nix::Result<FileStat> {
    fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// What kind of thing it is (`S_IFREG`, …).
pub(super) fn kind(stat: &FileStat) -> libc::mode_t {
    stat.st_mode & libc::S_IFMT
}

/// The names in a folder, at most so many.
pub(super) fn names(dir: &File, most: u64) -> nix::Result<Vec<OsString>> {
    use std::os::unix::ffi::OsStrExt;
    let mut found = Vec::new();
    for entry in Dir::openat(dir, ".", FOLDER, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            found.push(OsStr::from_bytes(name).to_owned());
        }
        if found.len() as u64 > most {
            return Err(Errno::EOVERFLOW);
        }
    }
    Ok(found)
}

/// A folder, and the one below it that was opened last: paths come in order.
#[derive(Debug)]
pub(crate) struct Beneath {
    top: File,
    last: Option<(PathBuf, File)>,
}

impl Beneath {
    pub(crate) fn open(top: &Path) -> nix::Result<Beneath> {
        let top = nix::fcntl::open(top, FOLDER, Mode::empty())?;
        let last = None;
        Ok(Beneath {
            top: File::from(top),
            last,
        })
    }

    /// The folder at this path below the top; "" is the top itself.
    pub(super) fn folder(&mut self, path: &Path) -> nix::Result<&File> {
        self.walk(path, false)
    }

    /// The same; what is missing is made.
    pub(super) fn folder_made(&mut self, path: &Path) -> nix::Result<&File> {
        self.walk(path, true)
    }

    fn walk(&mut self, path: &Path, makes: bool) -> nix::Result<&File> {
        if path.as_os_str().is_empty() {
            return Ok(&self.top);
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let mut at: Option<File> = None;
            for part in path.components() {
                let Component::Normal(name) = part else {
                    return Err(Errno::EINVAL);
                };
                let above = at.as_ref().unwrap_or(&self.top);
                let next = match folder_in(above, name) {
                    Err(Errno::ENOENT) if makes => {
                        mkdirat(above, name, Mode::from_bits_truncate(0o777))?;
                        folder_in(above, name)
                    }
                    opened => opened,
                };
                at = Some(next?);
            }
            self.last = at.map(|file| (path.to_owned(), file));
        }
        let last = self.last.as_ref().map(|(_, file)| file);
        last.ok_or(Errno::EINVAL)
    }

    /// The folder that this path lies in, and its name there.
    pub(super) fn parent<'p>(&mut self, path: &'p Path) -> nix::Result<(&File, &'p OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let folder = self.folder(path.parent().unwrap_or(Path::new("")))?;
        Ok((folder, name))
    }

    /// What is there; `None`: nothing, or the way there leads through a symlink.
    pub(crate) fn kind_of(&mut self, path: &Path) -> Option<libc::mode_t> {
        let (folder, name) = self.parent(path).ok()?;
        stat_in(folder, name).ok().map(|stat| kind(&stat))
    }

    /// Whether the folder that this path lies in is there.
    pub(crate) fn has_folder_of(&mut self, path: &Path) -> bool {
        self.parent(path).is_ok()
    }

    /// Whether something may be put there: the name is free, and what is there of the way is folders.
    pub(crate) fn has_room_for(&mut self, path: &Path) -> bool {
        match self.parent(path).and_then(|(dir, name)| stat_in(dir, name)) {
            Ok(_) => false,
            // A symlink on the way is ELOOP or ENOTDIR.
            Err(e) => e == Errno::ENOENT,
        }
    }
}
