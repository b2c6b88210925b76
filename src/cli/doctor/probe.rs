//! Tries in its own directory below `state/` what the queue's protocol depends on, instead of
//! trusting the file system's name.
//!
//! Invariant: the directory and everything in it are removed, however the probes end.

use std::fs::{self, TryLockError};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use rustix::fs::inotify;

use super::{Finding, Subject, fail, ok, warn};
use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::{Context, Result};
use crate::layout::Root;
use crate::sys;

const LOCAL_DISK: &str = "put the ROOT on a local disk (ext4, xfs, btrfs)";
/// A new file's time may differ from ours by the kernel's tick and a small drift of a server.
const SKEW_SECONDS_MAX: i64 = 2;

/// The directory for probes; dropping it removes it.
pub(super) struct Bench {
    dir: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _gone = atomic::discard_tree(&self.dir, "doctor's own probe files");
    }
}

impl Bench {
    pub(super) fn open(root: &Root) -> Result<Bench> {
        let dir = atomic::temp_beside(&root.state().join("doctor"));
        // A killed doctor with the same pid may have left it behind.
        atomic::discard_tree(&dir, "doctor's own probe files")?;
        atomic::make_dir(&dir, true)?;
        Ok(Bench { dir })
    }

    /// A new file that holds its own name.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        drop(atomic::create(&path, name.as_bytes(), 0o600)?);
        Ok(path)
    }
}

/// Reports only a directory that cannot be made.
pub(super) fn bench(s: &Subject<'_>) -> Option<Finding> {
    let e = s.bench.as_ref()?.as_ref().err()?;
    Some(fail(
        e.to_string(),
        "correct owner, mode or mount of state/",
    ))
}

pub(super) fn try_on(s: &Subject<'_>, probe: fn(&Bench) -> Result<Finding>) -> Option<Finding> {
    let bench = s.bench.as_ref()?.as_ref().ok()?;
    Some(probe(bench).unwrap_or_else(|e| fail(e.to_string(), LOCAL_DISK)))
}

/// Checks for a rename that never overwrites an item.
pub(super) fn rename(bench: &Bench) -> Result<Finding> {
    let (a, b) = (bench.file("rename-a")?, bench.file("rename-b")?);
    let free = bench.dir.join("rename-c");
    let rename = |to: &Path| renameat2(AT_FDCWD, &a, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE);
    let e = match (rename(&b), rename(&free)) {
        (Err(Errno::EEXIST), Ok(())) => return Ok(ok("never replaces an existing file")),
        (Ok(()), _) => return Ok(fail("replaced an existing file", LOCAL_DISK)),
        (_, Err(e)) | (Err(e), _) => e,
    };
    // Then `atomic`'s steps must do the same.
    Ok(
        match (atomic::rename_new(&a, &b)?, atomic::rename_new(&a, &free)?) {
            (Moved::Taken, Moved::Done) => ok(format!(
                "never replaces an existing file, in steps that are fenced between hosts (in one step: {})",
                e.desc()
            )),
            other => fail(format!("{other:?} after {e}"), LOCAL_DISK),
        },
    )
}

/// Hard links elect the one holder of a name.
pub(super) fn hard_link(bench: &Bench) -> Result<Finding> {
    let (a, b) = (bench.file("link-a")?, bench.file("link-b")?);
    let to = bench.dir.join("link-to");
    let links = (atomic::link_new(&a, &to)?, atomic::link_new(&b, &to)?);
    let inode = |path: &Path| {
        fs::metadata(path)
            .or_fail("cannot look at", path)
            .map(|m| m.ino())
    };
    let is_same = inode(&a)? == inode(&to)?;
    Ok(match (links, is_same) {
        ((Moved::Done, Moved::Taken), true) => ok("one of two wins"),
        other => fail(format!("does not elect one holder: {other:?}"), LOCAL_DISK),
    })
}

/// Locks tell living processes from dead ones.
pub(super) fn flock(bench: &Bench) -> Result<Finding> {
    let path = bench.file("lock")?;
    let (a, b) = (atomic::open_lock(&path)?, atomic::open_lock(&path)?);
    let (held, other) = (a.try_lock(), b.try_lock());
    drop(a);
    let why = match (held, other, b.try_lock()) {
        (Ok(()), Err(TryLockError::WouldBlock), Ok(())) => {
            return Ok(ok("excludes a second holder, and ends with the first"));
        }
        (Err(e), ..) => format!("cannot be had: {e}"),
        (_, Ok(()), _) => "does not exclude a second holder".to_owned(),
        (_, Err(e), _) => format!("does not end with its holder: {e}"),
    };
    Ok(fail(why, LOCAL_DISK))
}

/// Concurrent writers of a record must not overwrite each other's lines.
pub(super) fn append(bench: &Bench) -> Result<Finding> {
    let path = bench.file("record")?;
    let (mut a, mut b) = (atomic::open_append(&path)?, atomic::open_append(&path)?);
    let text = (|| {
        a.write_all(b"1")?;
        b.write_all(b"2")?;
        a.write_all(b"3")?;
        atomic::read_small(&path, 64)
    })();
    Ok(match text.or_fail("cannot append to", &path)?.as_slice() {
        b"record123" => ok("two writers add in turn"),
        _ => fail("two writers overwrite each other", LOCAL_DISK),
    })
}

/// Seconds by which the file's modification time is after `at` (ns since 1970).
fn skew_seconds(path: &Path, at: i64) -> Result<i64> {
    let meta = fs::metadata(path).or_fail("cannot look at", path)?;
    Ok((clock::mtime_ns(&meta) - at) / 1_000_000_000)
}

/// A modification time in the future is an item's earliest start.
pub(super) fn not_before(bench: &Bench) -> Result<Finding> {
    let path = bench.file("mtime")?;
    let at = clock::now_ns().saturating_add(86_400 * 1_000_000_000);
    atomic::set_mtime(&path, at)?;
    let skew = skew_seconds(&path, at)?;
    Ok(match skew.abs() <= SKEW_SECONDS_MAX {
        true => ok("times in the future are kept"),
        false => fail(
            format!("a time in the future came back {skew} s off"),
            LOCAL_DISK,
        ),
    })
}

/// If a server's clock is ahead of ours, each new file looks scheduled for later.
pub(super) fn file_clock(bench: &Bench) -> Result<Finding> {
    let skew = skew_seconds(&bench.file("clock")?, clock::now_ns())?;
    Ok(match skew.abs() <= SKEW_SECONDS_MAX {
        true => ok("new files have our time"),
        false => warn(
            format!("new files are stamped {skew} s from our time"),
            "set both clocks by NTP: an item stamped in the future waits for its time",
        ),
    })
}

/// A lease shows whether a file is still being written.
pub(super) fn read_lease(bench: &Bench) -> Result<Finding> {
    let path = bench.file("lease")?;
    let file = atomic::open_to_look(&path).or_fail("cannot open", &path)?;
    Ok(match sys::read_lease(&file) {
        Ok(sys::ReadLease::Granted) => ok("a file still being written is recognized"),
        _ => warn(
            "none: a file counts as complete when nobody changed it for 2 s",
            "write items elsewhere and `mv` them into queue/pending/ (or use `harness add`)",
        ),
    })
}

/// With events new items are noticed at once.
pub(super) fn events(bench: &Bench) -> Result<Finding> {
    let seen = (|| -> rustix::io::Result<bool> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, &bench.dir, inotify::WatchFlags::CREATE)?;
        let made = bench.file("event");
        let mut buf = [MaybeUninit::uninit(); 1_024];
        match inotify::Reader::new(fd, &mut buf).next() {
            Ok(_) => Ok(made.is_ok()),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(e) => Err(e),
        }
    })();
    let why = match seen {
        Ok(true) => return Ok(ok("the kernel reports new files")),
        Ok(false) => "the kernel does not report new files".to_owned(),
        Err(e) => format!("cannot be had: {e}"),
    };
    let what_to_do = "raise fs.inotify.max_user_instances and max_user_watches (sysctl), or use a local disk; until then new items are found by polling";
    Ok(warn(why, what_to_do))
}

/// Harness and keeper talk through a socket, whose path goes through /proc, as ROOT's may be longer
/// than a socket address of 108 bytes.
pub(super) fn socket(bench: &Bench) -> Result<Finding> {
    let talk = || -> io::Result<bool> {
        let dir = atomic::open_dir(&bench.dir)?;
        let path = format!("/proc/self/fd/{}/socket", dir.as_raw_fd());
        let _listener = UnixListener::bind(&path)?;
        let _stream = UnixStream::connect(&path)?;
        let meta = fs::symlink_metadata(bench.dir.join("socket"))?;
        Ok(meta.file_type().is_socket())
    };
    Ok(match talk() {
        Ok(true) => ok("binds and connects"),
        Ok(false) => fail("binds elsewhere than asked", LOCAL_DISK),
        Err(e) => fail(e.to_string(), LOCAL_DISK),
    })
}
