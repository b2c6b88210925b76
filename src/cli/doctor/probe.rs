//! Tries, in a directory of its own below `state/`, what the queue's protocol stands on.
//!
//! Does not know the file system's name: what works is what counts. Keeps: the directory and all
//! that is in it are removed at the end, however the probes end.

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

use super::Check;
use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::Result;
use crate::layout::Root;

const LOCAL_DISK: &str = "put the ROOT on a local disk (ext4, xfs, btrfs)";
/// A new file's time may differ from ours by the kernel's tick and by a server's small drift.
const SKEW_NS_MAX: i64 = 2_000_000_000;

/// A directory that goes when this goes.
struct Bench {
    dir: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _gone = atomic::discard_tree(&self.dir, "doctor's own probe files");
    }
}

impl Bench {
    fn open(root: &Root) -> Result<Bench> {
        let dir = atomic::temp_beside(&root.state().join("doctor"));
        // Left by a doctor of the same number that was killed.
        atomic::discard_tree(&dir, "doctor's own probe files")?;
        atomic::make_dir(&dir, true)?;
        Ok(Bench { dir })
    }

    /// A new file of this name.
    fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        drop(atomic::create(&path, name.as_bytes(), 0o600)?);
        Ok(path)
    }
}

pub(super) fn checks(root: &Root, read_lease: &dyn Fn(&Path) -> bool) -> Vec<Check> {
    let bench = match Bench::open(root) {
        Ok(bench) => bench,
        Err(e) => {
            let advice = "correct owner, mode or mount of state/";
            return vec![Check::fail("probes", e.to_string(), advice)];
        }
    };
    let told = |name: &str, check: Result<Check>| {
        check.unwrap_or_else(|e| Check::fail(name, e.to_string(), LOCAL_DISK))
    };
    vec![
        told("rename", rename(&bench)),
        told("hard link", hard_link(&bench)),
        told("flock", flock(&bench)),
        told("append", append(&bench)),
        told("not before", not_before(&bench)),
        told("file clock", file_clock(&bench)),
        told("read lease", lease(&bench, read_lease)),
        told("events", events(&bench)),
        told("socket", socket(&bench)),
    ]
}

/// Nothing may be renamed over an existing item.
fn rename(bench: &Bench) -> Result<Check> {
    let (a, b) = (bench.file("rename-a")?, bench.file("rename-b")?);
    let free = bench.dir.join("rename-c");
    let rename = |from: &Path, to: &Path| {
        renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)
    };
    let taken = rename(&a, &b);
    Ok(match (taken, rename(&a, &free)) {
        (Err(Errno::EEXIST), Ok(())) => Check::ok("rename", "spares an existing name"),
        (Ok(()), _) => Check::fail("rename", "replaced an existing name", LOCAL_DISK),
        (Err(e), _) => {
            // What `atomic` then does instead must hold.
            let stepwise = (atomic::rename_new(&a, &b)?, atomic::rename_new(&a, &free)?);
            match stepwise {
                (Moved::Taken, Moved::Done) => Check::warn(
                    "rename",
                    format!("not in one step without replacing ({e}): links and unlinks instead"),
                    format!(
                        "{LOCAL_DISK}; until then a crash may leave an item under two names for a moment"
                    ),
                ),
                other => Check::fail("rename", format!("{other:?} after {e}"), LOCAL_DISK),
            }
        }
    })
}

/// Elects one holder of a name.
fn hard_link(bench: &Bench) -> Result<Check> {
    let (a, b) = (bench.file("link-a")?, bench.file("link-b")?);
    let to = bench.dir.join("link-to");
    let first = atomic::link_new(&a, &to)?;
    let second = atomic::link_new(&b, &to)?;
    let same = |x: &Path, y: &Path| -> io::Result<bool> {
        Ok(fs::metadata(x)?.ino() == fs::metadata(y)?.ino())
    };
    Ok(match (first, second, same(&a, &to)) {
        (Moved::Done, Moved::Taken, Ok(true)) => Check::ok("hard link", "one of two wins"),
        other => Check::fail(
            "hard link",
            format!("does not elect one holder: {other:?}"),
            LOCAL_DISK,
        ),
    })
}

/// Tells the living from the dead.
fn flock(bench: &Bench) -> Result<Check> {
    let path = bench.file("lock")?;
    let (a, b) = (atomic::open_lock(&path)?, atomic::open_lock(&path)?);
    let held = a.try_lock();
    let other = b.try_lock();
    drop(a);
    let after = b.try_lock();
    Ok(match (held, other, after) {
        (Ok(()), Err(TryLockError::WouldBlock), Ok(())) => {
            Check::ok("flock", "excludes a second holder, and goes with the first")
        }
        (Err(e), ..) => Check::fail("flock", format!("cannot be had: {e}"), LOCAL_DISK),
        (_, Ok(()), _) => Check::fail("flock", "does not exclude a second holder", LOCAL_DISK),
        (_, Err(e), _) => Check::fail(
            "flock",
            format!("does not go with its holder: {e}"),
            LOCAL_DISK,
        ),
    })
}

/// Two writers of one record lose nothing of each other's.
fn append(bench: &Bench) -> Result<Check> {
    let path = bench.file("record")?;
    let (mut a, mut b) = (atomic::open_append(&path)?, atomic::open_append(&path)?);
    let written = a
        .write_all(b"1")
        .and_then(|()| b.write_all(b"2"))
        .and_then(|()| a.write_all(b"3"))
        .and_then(|()| atomic::read_small(&path, 64));
    Ok(match written {
        Ok(text) if text == b"record123" => Check::ok("append", "two writers add in turn"),
        Ok(_) => Check::fail("append", "two writers overwrite each other", LOCAL_DISK),
        Err(e) => Check::fail("append", e.to_string(), LOCAL_DISK),
    })
}

/// A modification time in the future is an item's "not before".
fn not_before(bench: &Bench) -> Result<Check> {
    let path = bench.file("mtime")?;
    let at = clock::now_ns().saturating_add(86_400 * 1_000_000_000);
    atomic::set_mtime(&path, at)?;
    Ok(match mtime_ns(&path) {
        Ok(got) if (got - at).abs() <= SKEW_NS_MAX => {
            Check::ok("not before", "times in the future are kept")
        }
        Ok(got) => Check::fail(
            "not before",
            format!(
                "a time in the future came back {} s off",
                (got - at) / 1_000_000_000
            ),
            LOCAL_DISK,
        ),
        Err(e) => Check::fail("not before", e.to_string(), LOCAL_DISK),
    })
}

/// Where a server stamps new files by a clock ahead of ours, each looks scheduled for later.
fn file_clock(bench: &Bench) -> Result<Check> {
    let path = bench.file("clock")?;
    let skew = mtime_ns(&path).map(|t| t - clock::now_ns());
    Ok(match skew {
        Ok(skew) if skew.abs() <= SKEW_NS_MAX => Check::ok("file clock", "new files have our time"),
        Ok(skew) => Check::warn(
            "file clock",
            format!(
                "new files are stamped {} s from our time",
                skew / 1_000_000_000
            ),
            "set both clocks by NTP: an item stamped in the future waits for its time",
        ),
        Err(e) => Check::fail("file clock", e.to_string(), LOCAL_DISK),
    })
}

fn mtime_ns(path: &Path) -> io::Result<i64> {
    let meta = fs::metadata(path)?;
    Ok(meta
        .mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(meta.mtime_nsec()))
}

/// Says whether a file is still being written.
fn lease(bench: &Bench, read_lease: &dyn Fn(&Path) -> bool) -> Result<Check> {
    let path = bench.file("lease")?;
    if read_lease(&path) {
        return Ok(Check::ok(
            "read lease",
            "a file still being written is known",
        ));
    }
    Ok(Check::warn(
        "read lease",
        "none: a file counts as whole when nobody changed it for 2 s",
        "write items elsewhere and `mv` them into queue/pending/ (or use `harness add`)",
    ))
}

/// New items are seen at once.
fn events(bench: &Bench) -> Result<Check> {
    let seen = (|| -> rustix::io::Result<bool> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, &bench.dir, inotify::WatchFlags::CREATE)?;
        let made = bench.file("event");
        let mut buf = [MaybeUninit::uninit(); 1_024];
        let mut reader = inotify::Reader::new(fd, &mut buf);
        match reader.next() {
            Ok(_) => Ok(made.is_ok()),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(e) => Err(e),
        }
    })();
    let advice = "raise fs.inotify.max_user_instances and max_user_watches (sysctl), or use a local disk; until then new items are seen by a clock";
    Ok(match seen {
        Ok(true) => Check::ok("events", "the kernel tells of new files"),
        Ok(false) => Check::warn("events", "the kernel tells nothing of new files", advice),
        Err(e) => Check::warn("events", format!("cannot be had: {e}"), advice),
    })
}

/// Harness and keeper talk through a socket; its path goes through /proc, as ROOT's may be longer
/// than the 108 bytes of an address.
fn socket(bench: &Bench) -> Result<Check> {
    let talk = || -> io::Result<bool> {
        let dir = atomic::open_dir(&bench.dir)?;
        let path = format!("/proc/self/fd/{}/socket", dir.as_raw_fd());
        let _listener = UnixListener::bind(&path)?;
        let _stream = UnixStream::connect(&path)?;
        Ok(fs::symlink_metadata(bench.dir.join("socket"))?
            .file_type()
            .is_socket())
    };
    Ok(match talk() {
        Ok(true) => Check::ok("socket", "binds and connects"),
        Ok(false) => Check::fail("socket", "binds elsewhere than asked", LOCAL_DISK),
        Err(e) => Check::fail("socket", e.to_string(), LOCAL_DISK),
    })
}
