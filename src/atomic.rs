//! The only code that changes `queue/` and `state/`. A file there appears whole or not at all (or
//! one call overwrites a line of fixed length). Nothing is ever renamed over another item, and
//! every error names its path.
//!
//! Knows nothing of items, claims or sessions. Losing a race is not an error: `link_new` and
//! `rename_new` say so by their return value.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is the door to files"
)]

mod dirs;
mod line;
mod moving;
mod read;
mod temps;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use dirs::make_dir;
pub(crate) use dirs::{
    OwnDir, discard_tree, empty_tree, is_own_dir, make_dir_new, never_make, sync_dir, sync_parent,
    sync_tree,
};
pub(crate) use line::put_line;
pub use moving::{end_move, is_on_its_way};
pub(crate) use moving::{end_moves, look_anew};
pub use read::{SAFE_OPEN_FLAGS, open_dir};
pub(crate) use read::{
    copy, holds, leave_atime, open_followed, open_regular, open_safely, open_to_look,
    read_followed, read_kernel, read_kernel_text, read_open, read_small, read_tail,
};
pub(crate) use temps::{has_temps, remove_every_temp, remove_temps, temp_beside};

use crate::error::{Context, Error, Result};
use crate::limits::{BACKUPS_MAX, FILE_NAME_BYTES_MAX};
use crate::mutant::planted;

/// Result of a move or link that must not overwrite an existing name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost race changes nothing: look which it was"]
pub enum Moved {
    Done,
    /// The source is gone: another process was faster, or a person moved it.
    SourceGone,
    /// The destination exists and was not changed.
    Taken,
}

/// Makes a new file with this content. Not atomic: others may see it half-written (see `replace`).
pub fn create(path: &Path, content: &[u8], mode: u32) -> Result<File> {
    let what = "cannot write the file";
    let mut f = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .or_fail(what, path)?;
    if let Err(e) = f.write_all(content) {
        let _gone = remove(path);
        return Err(Error::io(what, path, &e));
    }
    Ok(f)
}

/// A complete file that has no name yet (`O_TMPFILE`), so a crash before `link` leaves nothing
/// behind. It has a temporary name where the file system has no such files (NFS).
pub struct Nameless {
    file: File,
    temp: Option<PathBuf>,
}

impl Nameless {
    /// For a file that will get a name in the folder of `beside`.
    pub fn new(beside: &Path, content: &[u8], mode: u32, durable: bool) -> Result<Nameless> {
        let what = "cannot write the file";
        let opened = OpenOptions::new()
            .write(true)
            .mode(mode)
            .custom_flags(libc::O_TMPFILE)
            .open(folder_of(beside));
        let (mut written, temp) = match opened {
            Ok(file) => (file, None),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                let temp = temp_beside(beside);
                (create(&temp, b"", mode)?, Some(temp))
            }
            Err(e) => return Err(Error::io(what, beside, &e)),
        };
        let whole = written.write_all(content).or_fail(what, beside);
        let whole = whole.and_then(|()| sync_data(&written, beside, durable));
        // Reopened read-only: a file open for writing can be neither executed nor leased.
        let file = whole.and_then(|()| File::open(proc_path(&written)).or_fail(what, beside));
        let named = |temp: Option<PathBuf>, file| Nameless { file, temp };
        match file {
            Ok(file) => Ok(named(temp, file)),
            Err(e) => {
                drop(named(temp, written));
                Err(e)
            }
        }
    }

    /// Locks the file while this value lives: whoever finds one of its names sees that others may
    /// be missing.
    pub fn lock(&self) {
        // If locking fails, others may take the file for a leftover.
        let _unlocked = fs2::FileExt::try_lock_exclusive(&self.file);
    }

    /// The file, whose lock lasts as long as any handle of it.
    pub(crate) fn held(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives the file this name (it may have several), unless the name is taken.
    pub fn link(&self, to: &Path) -> Result<Moved> {
        use nix::fcntl::{AT_FDCWD, AtFlags};
        if let Some(temp) = &self.temp {
            return link_new(temp, to);
        }
        let from = proc_path(&self.file);
        let follow = AtFlags::AT_SYMLINK_FOLLOW;
        match nix::unistd::linkat(AT_FDCWD, from.as_path(), AT_FDCWD, to, follow) {
            Ok(()) => Ok(Moved::Done),
            Err(Errno::EEXIST) => Ok(Moved::Taken),
            Err(e) => Err(Error::io("cannot name the file", to, &e.into())),
        }
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        if let Some(temp) = &self.temp {
            let _stays = remove(temp);
        }
    }
}

fn proc_path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

/// Replaces a file atomically: readers see the whole old or the whole new content. If `durable`, it
/// survives a power cut once this returns; otherwise a power cut may leave the file empty.
pub fn replace(path: &Path, content: &[u8], durable: bool) -> Result<()> {
    let is_new =
        !exists(path) && Nameless::new(path, content, 0o600, durable)?.link(path)? == Moved::Done;
    if !is_new {
        let put = || {
            put_over(path, content, 0o600, |temp, file| {
                sync_data(file, temp, durable)
            })
        };
        // Whoever clears a folder of temporary files may take one of a process that stood still for dead.
        let was_cleared = |e: &Error| e.errno() == Some(libc::ENOENT) && exists(path);
        match put() {
            Err(e) if was_cleared(&e) => put()?,
            done => done?,
        }
    }
    if durable { sync_parent(path) } else { Ok(()) }
}

/// As `replace`, durably, and the file keeps its mode.
pub(crate) fn rewrite(path: &Path, content: &[u8]) -> Result<()> {
    let mode = path.metadata().map_or(0o644, |m| m.mode() & 0o777);
    put_over(path, content, mode, |temp, file| {
        sync_data(file, temp, true)
    })?;
    sync_parent(path)
}

/// Puts a new file in the place of another, once `complete` is done with it.
fn put_over(
    path: &Path,
    content: &[u8],
    mode: u32,
    complete: impl FnOnce(&Path, &File) -> Result<()>,
) -> Result<()> {
    let temp = temp_beside(path);
    let placed = create(&temp, content, mode)
        .and_then(|file| complete(&temp, &file))
        .and_then(|()| rename_over(&temp, path));
    if placed.is_err() {
        let _gone = remove(&temp);
    }
    placed
}

fn sync_data(file: &File, path: &Path, durable: bool) -> Result<()> {
    if !durable || planted("end-unflushed") {
        return Ok(());
    }
    file.sync_all().or_fail("cannot sync the file", path)
}

/// Opens an append-only record, creating it if missing. One event is one line in one `write`.
pub fn open_append(path: &Path) -> Result<File> {
    let what = "cannot open the record";
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(SAFE_OPEN_FLAGS)
        .open(path)
        .or_fail(what, path)?;
    if !file.metadata().or_fail(what, path)?.is_file() {
        return Err(Error::permanent(what, "it is not a regular file").at_path(path));
    }
    Ok(file)
}

/// Opens a file for an agent's output, creating it if missing.
pub(crate) fn open_output(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(SAFE_OPEN_FLAGS)
        .open(path)
}

/// Opens a lock file, creating it if missing; its content is kept. Lock files are never unlinked
/// while in use: a lock on an unlinked inode excludes nobody.
pub fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(SAFE_OPEN_FLAGS)
        .open(path)
        .or_fail("cannot open the lock file", path)
}

/// Hard-links `from` to the new name `to`; of several processes exactly one succeeds.
pub fn link_new(from: &Path, to: &Path) -> Result<Moved> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(Moved::Done),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Moved::Taken),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !exists(from) => Ok(Moved::SourceGone),
        Err(e) => Err(Error::io("cannot link to", to, &e)),
    }
}

/// Renames `from` to `to` unless `to` exists: in one step where the file system has that
/// (`RENAME_NOREPLACE`), else in the steps of `moving`.
pub fn rename_new(from: &Path, to: &Path) -> Result<Moved> {
    match rename_known(from, to)? {
        Moved::Done => Ok(Moved::Done),
        // What a file server was not asked about may have been otherwise for a minute.
        _ => {
            look_anew(from);
            look_anew(to);
            rename_known(from, to)
        }
    }
}

fn rename_known(from: &Path, to: &Path) -> Result<Moved> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(Moved::Done),
        Err(Errno::EEXIST | Errno::ENOTEMPTY) => Ok(Moved::Taken),
        // It may be back by now, where people move it to and fro.
        Err(Errno::ENOENT) if !exists(from) || has_folder(to) => Ok(Moved::SourceGone),
        // A directory cannot be linked, and a plain rename of one replaces at most an empty directory.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) if is_own_dir(from) => {
            rename_dir(from, to)
        }
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => match planted("moved-by-link") {
            true => match link_new(from, to)? {
                Moved::Done => remove(from).map(|_| Moved::Done),
                other => Ok(other),
            },
            false => moving::rename_in_steps(from, to),
        },
        Err(e) => Err(not_moved(from, to, &e.into())),
    }
}

/// Names what stands in the way, which is not always the target: the folder that the file is in, or the
/// file itself (`chattr +i`).
fn not_moved(from: &Path, to: &Path, e: &io::Error) -> Error {
    let name = from.file_name().unwrap_or_default().display();
    let taken_from = from.parent().map(|dir| ("out of", dir));
    let put_into = to.parent().map(|dir| ("into", dir));
    let is_barred = matches!(
        e.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS)
    );
    let closed = [taken_from, put_into].into_iter().flatten();
    match closed.filter(|_| is_barred).find(|(_, dir)| is_closed(dir)) {
        Some((way, dir)) => Error::io(format!("cannot move {name} {way} the folder"), dir, e),
        None if is_barred && exists(to) && is_closed(to) => {
            Error::io("cannot replace the file", to, e)
        }
        None if is_barred => Error::io("cannot move the file", from, e),
        None => Error::io("cannot move the file to", to, e),
    }
}

/// Whether its permissions, attributes or mount forbid to write it.
fn is_closed(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_err()
}

/// Why this folder is closed to us, by its permissions, attributes or mount. One that is not there is not
/// closed: it is made when it is needed.
pub(crate) fn why_closed(dir: &Path) -> Option<Error> {
    use nix::unistd::{AccessFlags, access};
    let e = access(dir, AccessFlags::W_OK | AccessFlags::X_OK).err()?;
    (e != Errno::ENOENT).then(|| Error::io("cannot write in the folder", dir, &e.into()))
}

/// Why nothing can be written in this folder, by trying: a file without a name.
pub(crate) fn why_unwritable(dir: &Path) -> Option<Error> {
    let tried = Nameless::new(&dir.join(".look"), &[0; 4096], 0o600, false);
    let e = tried.err()?;
    let number = io::Error::from_raw_os_error(e.errno()?);
    Some(Error::io("cannot write in the folder", dir, &number))
}

/// Why a file or folder itself cannot be moved from where it is: its attributes (`chattr +i`, `+a`).
pub(crate) fn why_unmovable(path: &Path) -> Option<Error> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    let no_follow = AtFlags::SYMLINK_NOFOLLOW;
    let found = statx(CWD, path, no_follow, StatxFlags::TYPE).ok()?;
    let is_fixed = found.stx_attributes.intersects(fixed);
    is_fixed.then(|| Error::io("cannot move the file", path, &Errno::EPERM.into()))
}

fn has_folder(path: &Path) -> bool {
    folder_of(path).is_dir()
}

/// The folder that a file is in; of a bare name, the one where this process is.
fn folder_of(path: &Path) -> &Path {
    let named = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

fn rename_dir(from: &Path, to: &Path) -> Result<Moved> {
    if exists(to) {
        return Ok(Moved::Taken);
    }
    match fs::rename(from, to) {
        Ok(()) => Ok(Moved::Done),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !exists(from) => Ok(Moved::SourceGone),
        Err(_) if exists(to) => Ok(Moved::Taken),
        Err(e) => Err(Error::io("cannot move the directory to", to, &e)),
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (a.symlink_metadata(), b.symlink_metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Renames over whatever file `to` is: only for harness's own files, never for items.
pub fn rename_over(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| not_moved(from, to, &e))
}

/// Moves `from` to `to`; an existing file is first renamed to `NAME.~K~`, as `cp --backup=numbered`
/// does. `false`: `from` is gone; at most the backup was made.
pub fn rename_with_backup(from: &Path, to: &Path) -> Result<bool> {
    for _ in 0..BACKUPS_MAX {
        match rename_new(from, to)? {
            Moved::Done => return Ok(true),
            Moved::SourceGone => return Ok(false),
            Moved::Taken if !exists(from) => return Ok(false),
            Moved::Taken => keep_older(to)?,
        }
    }
    Err(Error::permanent("cannot place the file", "its name is taken again and again").at_path(to))
}

/// Moves what is at `path` to the first free `NAME.~K~`.
pub fn keep_older(path: &Path) -> Result<()> {
    for k in 1..BACKUPS_MAX {
        match rename_new(path, &backup_name(path, k))? {
            Moved::Done | Moved::SourceGone => return Ok(()),
            Moved::Taken => {}
        }
    }
    Err(Error::permanent("cannot keep the older file", "too many backups").at_path(path))
}

/// `NAME.~K~`; the end of NAME is cut if the result would be too long.
fn backup_name(path: &Path, k: u32) -> PathBuf {
    let end = format!(".~{k}~");
    let name = path.file_name().unwrap_or_default().as_bytes();
    let stem = &name[..name.len().min(FILE_NAME_BYTES_MAX - end.len())];
    path.with_file_name(OsStr::from_bytes(&[stem, end.as_bytes()].concat()))
}

/// Removes one of harness's own files; `false` if it was gone.
pub fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("cannot remove the file", path, &e)),
    }
}

/// Takes a person's mark away (an order, an interrupt), which may be a directory: one with something in
/// it only gets another name. `false`: there was none.
pub(crate) fn take_away(path: &Path) -> Result<bool> {
    if !is_own_dir(path) {
        return remove(path);
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => keep_older(path).map(|()| true),
        Err(e) => Err(Error::io("cannot remove the directory", path, &e)),
    }
}

/// Sets a file's modification time (nanoseconds since 1970), an item's earliest start.
pub fn set_mtime(path: &Path, ns: i64) -> Result<()> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let at = TimeSpec::new(ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &TimeSpec::UTIME_OMIT,
        &at,
        UtimensatFlags::NoFollowSymlink,
    )
    .or_fail("cannot set the modification time", path)
}

/// Puts a copy of ours in the place of another user's file, with this modification time. One name
/// always has the whole content.
pub(crate) fn make_own(path: &Path, max: u64, mtime_ns: i64) -> Result<()> {
    let what = "cannot copy the file of another user";
    let content = read_small(path, max).or_fail(what, path)?;
    let mode = path.symlink_metadata().or_fail(what, path)?.mode() & 0o777;
    put_over(path, &content, mode | 0o600, |temp, _| {
        set_mtime(temp, mtime_ns)?;
        match planted("foreign-removed-first") {
            true => remove(path).map(drop),
            false => Ok(()),
        }
    })
}

/// What tells a folder from a copy of it, and from an earlier one at its path: its inode, and when it was
/// made, in nanoseconds since 1970 (0 where the file system does not keep that, or it is gone).
pub(crate) fn birth(dir: &Path) -> (u64, u128) {
    let Ok(meta) = fs::metadata(dir) else {
        return (0, 0);
    };
    let born = meta.created().ok();
    let born = born.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    (meta.ino(), born.unwrap_or_default().as_nanos())
}

/// Whether the name exists, without following a symlink.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether the name certainly does not exist. An I/O error or an unreadable folder proves nothing.
pub fn is_gone(path: &Path) -> bool {
    look_anew(path);
    path.symlink_metadata().is_err_and(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_moved_over_nothing_also_where_a_rename_cannot_spare_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["from", "empty", "full", "full/sub"] {
            make_dir(&at(name), true).unwrap();
        }
        drop(create(&at("from/in-it"), b"1", 0o600).unwrap());
        drop(create(&at("file"), b"2", 0o600).unwrap());
        for taken in ["empty", "full", "file"] {
            assert_eq!(rename_dir(&at("from"), &at(taken)).unwrap(), Moved::Taken);
        }
        assert_eq!(rename_dir(&at("from"), &at("to")).unwrap(), Moved::Done);
        assert_eq!(read_small(&at("to/in-it"), 9).unwrap(), b"1");
        assert_eq!(
            rename_dir(&at("from"), &at("new")).unwrap(),
            Moved::SourceGone
        );
        assert!(rename_dir(&at("to"), &at("no/folder")).is_err());
    }

    #[test]
    fn a_copy_of_ours_keeps_content_and_mode_and_has_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        drop(create(&file, b"text", 0o750).unwrap());
        let before = file.metadata().unwrap();
        make_own(&file, 9, 4_000_000_000_000_000_000).unwrap();
        let after = file.metadata().unwrap();
        assert_ne!(before.ino(), after.ino());
        assert_eq!(before.mode(), after.mode());
        assert_eq!(after.mtime(), 4_000_000_000);
        assert_eq!(read_small(&file, 9).unwrap(), b"text");
        assert!(make_own(&file, 3, 0).is_err());
        assert_eq!(dir.path().read_dir().unwrap().count(), 1);
    }
}
