//! Copies a file or a folder from one tree into another: by reflink where the file system can, else by
//! bytes.
//!
//! Knows nothing of git, nor why something is copied. Invariants: no symlink is followed, in either tree;
//! nothing is opened that blocks; every copy is a file of its own (a hard link to the original would
//! change with it); what somebody wrote into meanwhile is no copy.

mod beneath;
mod times;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, readlinkat, renameat2};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fchmod, fstat, futimens, mkdirat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::symlinkat;

pub(crate) use beneath::Beneath;
use beneath::{file_in, folder_in, kind, names, stat_in};
pub(crate) use times::{Ages, settle};

use crate::layout::shown;
use crate::limits::{COPY_BYTES_MAX, COPY_DEPTH_MAX, COPY_ENTRIES_MAX};

/// Bytes that are copied between two looks at the disk's room and at the reasons to end.
const CHUNK: u64 = 64 << 20;
/// Entries between two such looks.
const ENTRIES: u64 = 256;

/// What limits a copy besides its size.
pub(crate) struct Bounds<'a> {
    /// Bytes of disk that it leaves free.
    pub(crate) spare: u64,
    /// Why it is to end now.
    pub(crate) ends: &'a dyn Fn() -> Option<String>,
    /// What is not wanted: a path below the top, and whether it is a folder.
    pub(crate) skips: &'a dyn Fn(&Path, bool) -> bool,
}

/// What was copied.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    /// The newest modification time of a file in it, in nanoseconds since 1970.
    pub(crate) newest: i64,
    /// What was left out: how much, and the first with its reason.
    pub(crate) left_out: u64,
    pub(crate) first_left_out: Option<String>,
}

/// Why there is no copy.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Somebody writes in the original.
    Written,
    Other(String),
}

impl From<Errno> for Failed {
    fn from(e: Errno) -> Failed {
        Failed::Other(e.desc().to_owned())
    }
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Failed {
        Failed::Other(e.to_string())
    }
}

/// Copies what is at `path` below `from` to the new name `name` in `to`.
pub(crate) fn copy(
    from: &mut Beneath,
    path: &Path,
    to: &mut Beneath,
    name: &OsStr,
    bounds: &Bounds<'_>,
) -> Result<Copied, Failed> {
    let to = to.folder(Path::new(""))?;
    // The file system's own clock, which stamps changes: it may lag behind ours by milliseconds.
    let since = {
        let mark = OsStr::new("mark");
        let file = create(to, mark)?;
        let stat = fstat(&file)?;
        nix::unistd::unlinkat(to, mark, nix::unistd::UnlinkatFlags::NoRemoveDir)?;
        (stat.st_ctime, stat.st_ctime_nsec)
    };
    let (folder, own) = from.parent(path)?;
    let mut walk = Walk {
        bounds,
        since,
        done: Copied::default(),
        path: path.parent().unwrap_or(Path::new("")).to_owned(),
        entries: 0,
        bytes: 0,
        // So that the first one looks.
        unlooked: CHUNK,
        clones: true,
    };
    if let Err(failed) = walk.entry(folder, own, to, name, 0) {
        return Err(match failed {
            // It stands where it failed.
            Failed::Other(why) => Failed::Other(format!("{}: {why}", shown(walk.path.as_os_str()))),
            Failed::Written => Failed::Written,
        });
    }
    match walk.is_written(folder, own, 0) {
        true => Err(Failed::Written),
        false => Ok(walk.done),
    }
}

/// Moves what is at `name` in `from` to the new path below `to`. `false`: that is taken meanwhile.
pub(crate) fn put(
    from: &mut Beneath,
    name: &OsStr,
    to: &mut Beneath,
    path: &Path,
) -> io::Result<bool> {
    let own = path.file_name().ok_or(Errno::EINVAL)?;
    let into = to.folder_made(path.parent().unwrap_or(Path::new("")))?;
    let from = from.folder(Path::new(""))?;
    let moved = match renameat2(from, name, into, own, RenameFlags::RENAME_NOREPLACE) {
        // A file system that cannot spare a name. Nobody else works in either folder.
        Err(Errno::EINVAL | Errno::ENOSYS) if stat_in(into, own).is_err() => {
            nix::fcntl::renameat(from, name, into, own)
        }
        moved => moved,
    };
    match moved {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::EINVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn create(dir: &File, name: &OsStr) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
}

/// A walk through what is copied.
struct Walk<'a> {
    bounds: &'a Bounds<'a>,
    /// What has changed since then is being written: seconds and nanoseconds of a change time.
    since: (i64, i64),
    done: Copied,
    /// Where it is, below the top.
    path: PathBuf,
    entries: u64,
    bytes: u64,
    /// Bytes since the last look at the disk.
    unlooked: u64,
    /// Whether the file system may be able to share blocks.
    clones: bool,
}

impl Walk<'_> {
    fn entry(
        &mut self,
        from: &File,
        name: &OsStr,
        to: &File,
        to_name: &OsStr,
        depth: usize,
    ) -> Result<(), Failed> {
        let stat = stat_in(from, name).map_err(gone)?;
        if is_since(&stat, self.since) {
            return Err(Failed::Written);
        }
        self.path.push(name);
        self.count()?;
        let is_folder = kind(&stat) == libc::S_IFDIR;
        match kind(&stat) {
            _ if depth > 0 && (self.bounds.skips)(&self.path, is_folder) => {}
            libc::S_IFDIR => self.folder(from, name, &stat, to, to_name, depth)?,
            libc::S_IFREG => self.file(from, name, to, to_name)?,
            libc::S_IFLNK => self.link(from, name, &stat, to, to_name)?,
            _ => self.leave_out("it is no file"),
        }
        self.path.pop();
        Ok(())
    }

    fn count(&mut self) -> Result<(), Failed> {
        self.entries += 1;
        if self.entries > COPY_ENTRIES_MAX {
            let why = format!("it has more than {COPY_ENTRIES_MAX} files");
            return Err(Failed::Other(why));
        }
        match self.entries % ENTRIES {
            0 => self.look(),
            _ => Ok(()),
        }
    }

    fn look(&self) -> Result<(), Failed> {
        (self.bounds.ends)().map_or(Ok(()), |why| Err(Failed::Other(why)))
    }

    fn leave_out(&mut self, why: &str) {
        self.done.left_out += 1;
        let path = shown(self.path.as_os_str());
        self.done
            .first_left_out
            .get_or_insert_with(|| format!("{path}: {why}"));
    }

    fn folder(
        &mut self,
        from: &File,
        name: &OsStr,
        stat: &FileStat,
        to: &File,
        to_name: &OsStr,
        depth: usize,
    ) -> Result<(), Failed> {
        let source = match folder_in(from, name) {
            Err(Errno::EACCES | Errno::EPERM) => {
                self.leave_out("it may not be read");
                return Ok(());
            }
            opened => opened.map_err(gone)?,
        };
        if depth == COPY_DEPTH_MAX {
            self.leave_out("it lies too deep");
            return Ok(());
        }
        mkdirat(to, to_name, Mode::S_IRWXU)?;
        let target = folder_in(to, to_name)?;
        for inner in names(&source, COPY_ENTRIES_MAX)? {
            self.entry(&source, &inner, &target, &inner, depth + 1)?;
        }
        // Last: what was put there changed its time. Its owner can always clear it.
        finish(&target, stat, 0o700)
    }

    fn file(
        &mut self,
        from: &File,
        name: &OsStr,
        to: &File,
        to_name: &OsStr,
    ) -> Result<(), Failed> {
        let source = match file_in(from, name) {
            Err(Errno::EACCES | Errno::EPERM) => {
                self.leave_out("it may not be read");
                return Ok(());
            }
            opened => opened.map_err(gone)?,
        };
        // Of what was opened: the name may be another file's by now.
        let stat = fstat(&source)?;
        if kind(&stat) != libc::S_IFREG || is_since(&stat, self.since) {
            return Err(Failed::Written);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.bytes += size;
        if self.bytes > COPY_BYTES_MAX {
            let why = format!("it is larger than {COPY_BYTES_MAX} bytes");
            return Err(Failed::Other(why));
        }
        let target = create(to, to_name)?;
        if size > 0 && !self.share(&source, &target) {
            self.fill(&source, &target, size)?;
        }
        self.done.newest = self.done.newest.max(ns(&mtime(&stat)));
        finish(&target, &stat, 0)
    }

    /// Has the copy share the original's blocks; `false`: the file system cannot.
    fn share(&mut self, source: &File, target: &File) -> bool {
        use rustix::io::Errno;
        let shared = self
            .clones
            .then(|| rustix::fs::ioctl_ficlone(target, source));
        match shared {
            Some(Ok(())) => true,
            // Of this file alone (it has no checksums, say).
            Some(Err(Errno::INVAL)) | None => false,
            Some(Err(_)) => {
                self.clones = false;
                false
            }
        }
    }

    /// Copies the bytes; what is a hole stays one.
    fn fill(&mut self, source: &File, target: &File, size: u64) -> Result<(), Failed> {
        use rustix::fs::{SeekFrom, ftruncate, seek};
        use rustix::io::Errno;
        ftruncate(target, size).map_err(io::Error::from)?;
        let mut at = 0;
        while at < size {
            at = match seek(source, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                // A file system that knows no holes.
                data => data.unwrap_or(at),
            };
            let hole = seek(source, SeekFrom::Hole(at)).unwrap_or(size);
            let end = hole.min(size).max(at + 1);
            for file in [source, target] {
                seek(file, SeekFrom::Start(at)).map_err(io::Error::from)?;
            }
            self.bytes_to(end - at, source, target)?;
            at = end;
        }
        Ok(())
    }

    fn bytes_to(&mut self, mut left: u64, source: &File, target: &File) -> Result<(), Failed> {
        while left > 0 {
            if self.unlooked >= CHUNK {
                self.unlooked = 0;
                self.look()?;
                let disk = fstatvfs(target)?;
                let free = disk.blocks_available() * disk.fragment_size();
                if free < self.bounds.spare.saturating_add(CHUNK) {
                    let why = "the disk would have less free than `disk_free_min`";
                    return Err(Failed::Other(why.to_owned()));
                }
            }
            let part = left.min(CHUNK);
            let copied = io::copy(&mut source.take(part), &mut &*target)?;
            if copied < part {
                return Err(Failed::Written);
            }
            left -= part;
            self.unlooked += part;
        }
        Ok(())
    }

    /// A symlink that stays inside the tree.
    fn link(
        &mut self,
        from: &File,
        name: &OsStr,
        stat: &FileStat,
        to: &File,
        to_name: &OsStr,
    ) -> Result<(), Failed> {
        let target = readlinkat(from, name).map_err(gone)?;
        let depth = self.path.components().count() - 1;
        if !leads_inside(Path::new(&target), depth) {
            let why = format!("it is a symlink that leads out ({})", shown(&target));
            self.leave_out(&why);
            return Ok(());
        }
        symlinkat(target.as_os_str(), to, to_name)?;
        let no_follow = UtimensatFlags::NoFollowSymlink;
        utimensat(to, to_name, &TimeSpec::UTIME_OMIT, &mtime(stat), no_follow)?;
        Ok(())
    }

    /// Whether anything of it has changed since the copy began. What cannot be looked at was left out.
    fn is_written(&mut self, dir: &File, name: &OsStr, depth: usize) -> bool {
        let Ok(stat) = stat_in(dir, name) else {
            return true;
        };
        let is_folder = kind(&stat) == libc::S_IFDIR;
        self.path.push(name);
        let is_left_out = depth > 0 && (self.bounds.skips)(&self.path, is_folder);
        let is_whole = is_left_out || depth >= COPY_DEPTH_MAX || !is_folder;
        let written = !is_left_out && is_since(&stat, self.since)
            || !is_whole
                && match folder_in(dir, name) {
                    Err(e) => !matches!(e, Errno::EACCES | Errno::EPERM),
                    Ok(folder) => names(&folder, COPY_ENTRIES_MAX).map_or(true, |names| {
                        let mut names = names.iter();
                        names.any(|name| self.is_written(&folder, name, depth + 1))
                    }),
                };
        self.path.pop();
        written
    }
}

/// Gives the copy the mode, with some rights more, and the time.
fn finish(target: &File, stat: &FileStat, more: libc::mode_t) -> Result<(), Failed> {
    fchmod(
        target,
        Mode::from_bits_truncate(stat.st_mode & 0o777 | more),
    )?;
    futimens(target, &TimeSpec::UTIME_OMIT, &mtime(stat))?;
    Ok(())
}

/// A name that was listed and is gone, or something else: somebody writes there.
fn gone(e: Errno) -> Failed {
    match e {
        Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR => Failed::Written,
        e => e.into(),
    }
}

fn mtime(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)
}

fn ns(time: &TimeSpec) -> i64 {
    time.tv_sec()
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec())
}

fn is_since(stat: &FileStat, since: (i64, i64)) -> bool {
    (stat.st_ctime, stat.st_ctime_nsec) >= since
}

/// Whether a symlink that lies so many folders below the top leads to what is below the top, whatever
/// other symlinks do: up first, as far as the top, then down.
fn leads_inside(target: &Path, depth: usize) -> bool {
    let (mut up, mut down) = (0, false);
    for part in target.components() {
        match part {
            Component::ParentDir if !down => up += 1,
            Component::Normal(_) => down = true,
            Component::CurDir => {}
            _ => return false,
        }
    }
    up <= depth && target != Path::new("")
}

#[cfg(test)]
mod tests;
