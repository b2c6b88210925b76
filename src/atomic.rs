//! The only code that changes `queue/` and `state/`. A file there appears whole or not at all (a
//! line of fixed length may be written over the one before, with one call), nothing is ever renamed
//! over another item, and every error names its path.
//!
//! Knows nothing of items, claims or sessions. Losing a race is not an error: `link_new` and
//! `rename_new` say so by their return value.

mod line;
mod order;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

pub use line::put_line;
use nix::errno::Errno;

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::{BACKUPS_MAX, FILE_NAME_BYTES_MAX};
use crate::mutant::planted;
use crate::sys;

/// What became of a move or link that must not hit an existing name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost race changes nothing: look which it was"]
pub enum Moved {
    Done,
    /// The source is gone: somebody else was faster, or a person moved it.
    SourceGone,
    /// The destination exists and was left alone.
    Taken,
}

/// Makes a directory and its missing parents; mode 700 where `private`.
pub fn make_dir(path: &Path, private: bool) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(if private { 0o700 } else { 0o777 })
        .create(path)
        .or_fail("cannot make the directory", path)
}

/// Makes one directory whose parent must exist: a removed parent is never resurrected.
/// `false` where it exists already.
pub fn make_dir_new(path: &Path) -> Result<bool> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(Error::io("cannot make the directory", path, &e)),
    }
}

/// Makes a new file with this content. Not for files that others may read half-way: see `replace`.
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

/// A whole file that has no name yet: whatever dies before it gets one leaves nothing behind. Where
/// the file system has no such files (NFS), it has a temporary name.
pub struct Nameless {
    file: File,
    temp: Option<PathBuf>,
}

impl Nameless {
    /// For a name in the folder of `beside`.
    pub fn new(beside: &Path, content: &[u8], mode: u32, durable: bool) -> Result<Nameless> {
        let what = "cannot write the file";
        let dir = beside.parent().unwrap_or(Path::new("."));
        let opened = OpenOptions::new()
            .write(true)
            .mode(mode)
            .custom_flags(libc::O_TMPFILE)
            .open(dir);
        let (mut written, temp) = match opened {
            Ok(file) => (file, None),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                let temp = temp_beside(beside);
                (create(&temp, b"", mode)?, Some(temp))
            }
            Err(e) => return Err(Error::io(what, beside, &e)),
        };
        let whole = written.write_all(content).or_fail(what, beside);
        let whole = whole.and_then(|()| match durable {
            true => written.sync_all().or_fail("cannot sync the file", beside),
            false => Ok(()),
        });
        // From here on nobody has it open for writing: it can be executed, and leased.
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

    /// Locks it, for as long as this lives: whoever meets one of its names sees that it has not got
    /// them all yet.
    pub fn lock(&self) {
        // Where it cannot be locked, others may take it for a left-over one.
        let _unlocked = fs2::FileExt::try_lock_exclusive(&self.file);
    }

    /// Gives it this name (it may have several), unless that is taken.
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

/// What a file's new content survives, besides the death of its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// A power cut may leave it empty.
    No,
    /// A power cut.
    Now,
    /// A power cut after the next sync of any file on this device (`st_dev`).
    WithNextSync(u64),
}

/// Replaces a file as one step: readers see the old content or the new, whole. Where `durable`, also
/// after a power cut; else that may leave the file empty.
pub fn replace(path: &Path, content: &[u8], durable: bool) -> Result<()> {
    replace_lasting(
        path,
        content,
        if durable { Lasting::Now } else { Lasting::No },
    )
}

/// `create` so that it survives what `lasting` says.
pub fn create_lasting(path: &Path, content: &[u8], lasting: Lasting) -> Result<()> {
    let f = create(path, content, 0o600)?;
    if make_last(&f, lasting).or_fail("cannot sync the file", path)? {
        sync_parent(path)?;
    }
    Ok(())
}

pub fn replace_lasting(path: &Path, content: &[u8], lasting: Lasting) -> Result<()> {
    let old = path.symlink_metadata();
    if old.is_err() {
        let durable = lasting != Lasting::No;
        if Nameless::new(path, content, 0o600, durable)?.link(path)? == Moved::Done {
            return if durable { sync_parent(path) } else { Ok(()) };
        }
    }
    let temp = temp_beside(path);
    let f = create(&temp, content, 0o600)?;
    let placed = (|| {
        let synced = make_last(&f, lasting).or_fail("cannot sync the file", &temp)?;
        if old.is_ok_and(|m| m.is_file()) && exchange(&temp, path) {
            remove(&temp)?;
        } else {
            rename_over(&temp, path)?;
        }
        Ok(synced)
    })();
    if placed.is_err() {
        let _gone = remove(&temp);
    }
    if placed? { sync_parent(path) } else { Ok(()) }
}

/// `true`: its name needs a sync too.
fn make_last(f: &File, lasting: Lasting) -> io::Result<bool> {
    if let Lasting::WithNextSync(device) = lasting {
        let meta = f.metadata()?;
        if meta.dev() == device && order::is_kept(f, &meta)? {
            if !planted("end-unflushed") {
                sys::flush_data(f)?;
            }
            return Ok(false);
        }
    }
    if lasting != Lasting::No {
        f.sync_all()?;
    }
    Ok(lasting != Lasting::No)
}

/// Whether the sync of a file made its name survive a power cut, too.
pub fn is_name_synced_with(f: &File) -> bool {
    f.metadata()
        .and_then(|m| order::is_kept(f, &m))
        .unwrap_or(false)
}

/// Swaps two files, where the file system can. Renaming over a file makes ext4 write the new one's
/// data at once, and wait for it (`auto_da_alloc`): a quarter of what a small item costs.
fn exchange(a: &Path, b: &Path) -> bool {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).is_ok()
}

/// Flags for opening what agents could have put there: never waits at a fifo, follows no symlink.
pub const WARY: i32 = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;

/// Opens an append-only record, making it where needed. One `write` of one line is one event.
pub fn open_append(path: &Path) -> Result<File> {
    let what = "cannot open the record";
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(WARY)
        .open(path)
        .or_fail(what, path)?;
    if !file.metadata().or_fail(what, path)?.is_file() {
        return Err(Error::permanent(what, "it is not a regular file").at_path(path));
    }
    Ok(file)
}

/// Opens a file only to look at it or its locks: never waits at a fifo.
pub fn open_to_look(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(WARY & !libc::O_NOFOLLOW)
        .open(path)
}

/// `open_to_look` for what must be a regular file: an agent may have put anything in its place.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = open_to_look(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        )),
    }
}

/// From now on the file's access time stays as it is, where it is our own.
pub fn leave_atime(file: &File) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let _of_others = fcntl_getfl(file).and_then(|now| fcntl_setfl(file, now | OFlags::NOATIME));
}

/// The last bytes of a regular file, at most `max`, and whether anything stands before them.
pub fn read_tail(path: &Path, max: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut file = open_regular(path)?;
    let from = file.metadata()?.len().saturating_sub(max);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.take(max).read_to_end(&mut end)?;
    Ok((end, from > 0))
}

/// The content of a regular file, which others may have replaced by anything. An error where it is
/// something else (a fifo would be waited for, a device never ends) or larger than `max` bytes.
pub fn read_small(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    // Most are smaller than this: one call reads all of it.
    let mut bytes = Vec::with_capacity(2048);
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it is larger than {max} bytes"),
        ));
    }
    Ok(bytes)
}

/// Opens a lock file, making it where needed; its content is kept. Lock files are never unlinked
/// while in use: whoever holds the lock of an unlinked inode would hold nothing.
pub fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(WARY)
        .open(path)
        .or_fail("cannot open the lock file", path)
}

/// Hard-links `from` to the new name `to`: the election of a holder.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn link_new(from: &Path, to: &Path) -> Result<Moved> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(Moved::Done),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Moved::Taken),
        Err(e) if e.kind() == io::ErrorKind::NotFound && !exists(from) => Ok(Moved::SourceGone),
        Err(e) => Err(Error::io("cannot link to", to, &e)),
    }
}

/// Renames `from` to `to` unless `to` exists. One step where the file system can
/// (`RENAME_NOREPLACE`), else a link and an unlink, which never overwrite either.
pub fn rename_new(from: &Path, to: &Path) -> Result<Moved> {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(Moved::Done),
        Err(Errno::EEXIST | Errno::ENOTEMPTY) => Ok(Moved::Taken),
        Err(Errno::ENOENT) if !exists(from) => Ok(Moved::SourceGone),
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => match link_new(from, to)? {
            Moved::Done => remove(from).map(|_| Moved::Done),
            // Somebody died between the link and the unlink: it is half-way there.
            Moved::Taken if is_same(from, to) => remove(from).map(|_| Moved::Done),
            other => Ok(other),
        },
        Err(e) => Err(Error::io("cannot move the file to", to, &e.into())),
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (a.symlink_metadata(), b.symlink_metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Renames over whatever file `to` is: only for files that are ours alone, never for items.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn rename_over(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).or_fail("cannot move the file to", to)
}

/// Moves `from` to `to`; an older file of that name is first kept as `NAME.~K~`, as
/// `cp --backup=numbered` does. `false`: `from` is gone, nothing was changed but the backup.
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

/// `NAME.~K~`; of a name so long that this would be none, the end is cut.
fn backup_name(path: &Path, k: u32) -> PathBuf {
    let end = format!(".~{k}~");
    let name = path.file_name().unwrap_or_default().as_bytes();
    let stem = &name[..name.len().min(FILE_NAME_BYTES_MAX - end.len())];
    path.with_file_name(OsStr::from_bytes(&[stem, end.as_bytes()].concat()))
}

/// Removes a file of ours; `false` where it was gone.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("cannot remove the file", path, &e)),
    }
}

/// Removes a directory tree whose content is provably kept elsewhere or was never anybody's work:
/// half-made copies, git's own administration. The caller says why in `because`, for the reader.
#[expect(clippy::disallowed_methods, reason = "this module is the door")]
pub fn discard_tree(path: &Path, because: &'static str) -> Result<()> {
    debug_assert!(!because.is_empty());
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => remove(path).map(drop),
        Err(e) => Err(Error::io("cannot remove the directory", path, &e)),
    }
}

/// Sets a file's modification time (nanoseconds since 1970), which is its "not before".
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

/// Makes renames and links in a directory survive a power cut.
pub fn sync_dir(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|d| d.sync_all())
        .or_fail("cannot sync the directory", path)
}

pub fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_dir)
}

/// `sync_dir` for one of the few directories that all threads change: one sync serves everybody
/// who changed it before that sync began. Waits for at most two: the one under way, and one more.
pub fn sync_shared_dir(path: &Path) -> Result<()> {
    static DIRS: LazyLock<Mutex<HashMap<PathBuf, Arc<SharedDir>>>> = LazyLock::new(Mutex::default);
    let dir = {
        let mut dirs = DIRS.lock().unwrap_or_else(PoisonError::into_inner);
        dirs.entry(path.to_owned()).or_default().clone()
    };
    let mine = dir.changes.fetch_add(1, Ordering::SeqCst) + 1;
    let mut synced = dir.synced.lock().unwrap_or_else(PoisonError::into_inner);
    if *synced < mine {
        let all = dir.changes.load(Ordering::SeqCst);
        sync_dir(path)?;
        *synced = all;
    }
    Ok(())
}

#[derive(Default)]
struct SharedDir {
    /// How often it was changed by one who then asked for a sync.
    changes: AtomicU64,
    /// So many of these are on disk.
    synced: Mutex<u64>,
}

/// Makes a directory tree that nobody else writes into survive a power cut: every file, then the
/// directory that names it.
pub fn sync_tree(path: &Path) -> Result<()> {
    let what = "cannot sync";
    let mut dirs = vec![path.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).or_fail(what, &dir)? {
            let entry = entry.or_fail(what, &dir)?;
            let (path, kind) = (entry.path(), entry.file_type().or_fail(what, &dir)?);
            if kind.is_dir() {
                dirs.push(path);
            } else if kind.is_file() {
                let synced = File::open(&path).and_then(|f| f.sync_all());
                synced.or_fail(what, &path)?;
            }
        }
        sync_dir(&dir)?;
    }
    Ok(())
}

/// Whether the name exists, without following a symlink.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether it is a directory and no symlink to one. Folders that harness makes below those of the
/// tree (a slot's, a session's) are never symlinks: one that an agent put there leads out of ROOT.
pub fn is_own_dir(path: &Path) -> bool {
    let own = path.symlink_metadata().is_ok_and(|m| m.is_dir());
    own || planted("symlink-followed") && path.is_dir()
}

/// Whether the name is known not to exist: trouble (an I/O error, a folder that may not be looked
/// into) is no proof.
pub fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
    })
}

/// In every temporary name of this process. Not its pid alone: in a container each process has
/// the pid of the one before it, whose temporary files may still be there.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let id = clock::unique().simple().to_string();
    format!(".{}-{}-", std::process::id(), &id[20..])
});

/// A name of our own beside `path`, hidden, so that every client leaves it alone.
pub fn temp_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!("{}{n}.tmp", *TAG))
}

/// Removes temporary files that processes left which were killed while they wrote. The caller
/// holds the lock without which no other process writes in this folder.
pub fn remove_temps(dir: &Path) {
    sweep_temps(dir, |name| !name.starts_with(TAG.as_bytes()));
}

/// The same where no other thread of this process writes either.
pub fn remove_every_temp(dir: &Path) {
    sweep_temps(dir, |_| true);
}

/// Whether a process is writing in this folder, or was killed while it did.
pub fn has_temps(dir: &Path) -> bool {
    temps(dir).next().is_some()
}

fn sweep_temps(dir: &Path, is_litter: impl Fn(&[u8]) -> bool) {
    for entry in temps(dir) {
        if is_litter(entry.file_name().as_bytes()) {
            // Only litter: trouble with it stops nothing.
            let _stays = remove(&entry.path());
        }
    }
}

fn temps(dir: &Path) -> impl Iterator<Item = fs::DirEntry> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.as_bytes();
        name.first() == Some(&b'.')
            && name.get(1).is_some_and(u8::is_ascii_digit)
            && name.ends_with(b".tmp")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_of_the_same_pid_left_is_not_in_the_way_and_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..1000 {
            let left = dir.path().join(format!(".{}-{n}.tmp", std::process::id()));
            drop(create(&left, b"", 0o600).unwrap());
        }
        let file = dir.path().join("x");
        replace(&file, b"whole", false).unwrap();
        let own = temp_beside(&file);
        drop(create(&own, b"", 0o600).unwrap());
        drop(create(&dir.path().join(".x.tmp"), b"", 0o600).unwrap());
        remove_temps(dir.path());
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        left.sort();
        let mut want = [own, dir.path().join(".x.tmp"), file];
        want.sort();
        assert_eq!(left, want);
    }
}
