//! A cgroup (v2) for each keeper and everything its agent starts. No process can leave it by
//! closing descriptors, clearing its environment or forking. The keeper moves in before it starts
//! anything. If it is killed, recovery of the slot kills the rest with one write (`cgroup.kill`).
//!
//! A move into a cgroup waits some 13 ms for the kernel (an RCU grace period), but concurrent moves
//! share that wait: 64 keepers that start together wait about once.
//!
//! Does not know slots: a cgroup is found by its name, which only one slot of one ROOT can have,
//! wherever in the hierarchy its keeper made it. If the host offers no writable cgroup (see
//! `enter`), process trees are ended by other means alone.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::{pause, tell_kernel as put};
use crate::atomic;
use crate::clock;

/// `off`: behave as if this host had no cgroups. For tests.
pub const SWITCH: &str = "HARNESS_CGROUP";

/// The cgroup of a `harness run` below the one that it was started in, where that is shared out.
pub(super) const LEAF: &str = "harness-run";

/// How long to wait for processes to end after `cgroup.kill`.
const KILLED: Duration = Duration::from_secs(5);

/// The name of a slot's cgroup, from the identity of ROOT's directory instead of its path: a copy
/// of ROOT, or an earlier ROOT at the same path, has other names.
pub fn name_of(slot_dir: &Path) -> io::Result<String> {
    let top = slot_dir.ancestors().nth(3).unwrap_or(slot_dir);
    let dev = fs::metadata(top)?.dev();
    let (ino, born) = atomic::birth(top);
    let slot = slot_dir.file_name().unwrap_or_default().to_string_lossy();
    Ok(format!("harness-{dev:x}-{ino:x}-{born:x}-{slot}"))
}

/// The cgroup in which this process lives.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) dir: PathBuf,
    /// The cgroup it was in before.
    home: PathBuf,
    /// This process lives in a child of it, and what it starts in another one (`controllers`).
    pub(super) split: bool,
}

impl Cgroup {
    /// Makes the cgroup of that name where keepers make theirs (`base`), and moves this process in. An
    /// existing one belongs to a dead keeper: its processes are killed.
    ///
    /// # Errors
    /// No cgroup v2, none below which harness may make one (not delegated, a read-only mount), or a
    /// kernel before 5.14, without `cgroup.kill`.
    pub fn enter(name: &str) -> io::Result<Cgroup> {
        let home = own()?;
        let dir = base()?.join(name);
        match fs::create_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                end(&dir)?;
                // One with children that share out something takes no process.
                remove_tree(&dir);
                make_dir(&dir)?;
            }
            made => made?,
        }
        let entered = can_be_killed(&dir).and_then(|()| put(dir.join("cgroup.procs"), "0"));
        if let Err(e) = entered {
            let _stays = fs::remove_dir(&dir);
            return Err(e);
        }
        Ok(Cgroup {
            dir,
            home,
            split: false,
        })
    }

    /// Where what it starts lives, once it is split.
    pub(super) fn agent_dir(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// Kills every other process in it at once, so that none escapes by forking. This process moves
    /// out meanwhile.
    pub fn kill_others(&self) -> io::Result<()> {
        if self.split {
            return put(self.agent_dir().join("cgroup.kill"), "1");
        }
        put(self.home.join("cgroup.procs"), "0")?;
        let killed = put(self.dir.join("cgroup.kill"), "1");
        put(self.dir.join("cgroup.procs"), "0")?;
        killed
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // If removal fails, the slot's next keeper takes it over.
        if put(self.home.join("cgroup.procs"), "0").is_ok() {
            remove_tree(&self.dir);
        }
    }
}

/// The cgroup below which keepers can make theirs, found by trying it; else why they cannot. A child
/// is moved instead of this process: whoever asks may have threads that start programs meanwhile.
pub fn probe() -> io::Result<PathBuf> {
    static PROBES: AtomicU32 = AtomicU32::new(0);
    let nth = PROBES.fetch_add(1, Ordering::Relaxed);
    let parent = base()?;
    let dir = parent.join(format!("harness-doctor-{}-{nth}", std::process::id()));
    fs::create_dir(&dir)?;
    let entered = can_be_killed(&dir).and_then(|()| move_a_child(&dir));
    remove_tree(&dir);
    entered.map(|()| parent)
}

/// Moves a process that waits for the end of its input into the cgroup, and ends it.
#[expect(
    clippy::disallowed_methods,
    reason = "no git and no agent: a process to move"
)]
fn move_a_child(dir: &Path) -> io::Result<()> {
    let mut child = Command::new("cat")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let moved = put(dir.join("cgroup.procs"), &child.id().to_string());
    drop(child.stdin.take());
    child.wait()?;
    moved
}

/// Kills the processes in every cgroup of that name, wherever its keeper made it, and removes them.
/// Returns how many processes there were, and whether none is left.
pub fn end_all(name: &str) -> (u32, bool) {
    let Some(mount) = mount() else {
        return (0, true);
    };
    let dirs = walkdir::WalkDir::new(&mount.point).into_iter();
    let dirs = dirs.filter_entry(|e| e.file_type().is_dir());
    let found: Vec<PathBuf> = dirs
        .flatten()
        .filter(|e| e.file_name() == name)
        .map(walkdir::DirEntry::into_path)
        .collect();
    let (mut killed, mut clean) = (0, true);
    for dir in found {
        match end(&dir) {
            Ok(n) => {
                killed += n;
                remove_tree(&dir);
            }
            Err(e) => clean &= e.kind() == io::ErrorKind::NotFound,
        }
    }
    (killed, clean)
}

/// Kills everything below and waits until the kernel reports it empty.
fn end(dir: &Path) -> io::Result<u32> {
    let lived = count(dir);
    if crate::mutant::planted("cgroup-not-killed") {
        return Ok(0);
    }
    put(dir.join("cgroup.kill"), "1")?;
    let end = clock::instant() + KILLED;
    while atomic::read_kernel_text(dir.join("cgroup.events"))?.contains("populated 1") {
        if clock::instant() >= end {
            return Err(io::ErrorKind::TimedOut.into());
        }
        pause(Duration::from_millis(1));
    }
    Ok(lived)
}

/// Checked once per process: a kernel has the file in every cgroup but the root, or in none.
fn can_be_killed(dir: &Path) -> io::Result<()> {
    static SEEN: AtomicBool = AtomicBool::new(false);
    if SEEN.load(Ordering::Relaxed) {
        return Ok(());
    }
    if !dir.join("cgroup.kill").exists() {
        return Err(io::Error::other("this kernel has no cgroup.kill"));
    }
    SEEN.store(true, Ordering::Relaxed);
    Ok(())
}

fn count(dir: &Path) -> u32 {
    let below = walkdir::WalkDir::new(dir).into_iter().flatten();
    let lists = below.filter(|e| e.file_name() == "cgroup.procs");
    let lines =
        |e: walkdir::DirEntry| atomic::read_kernel_text(e.path()).map_or(0, |t| t.lines().count());
    u32::try_from(lists.map(lines).sum::<usize>()).unwrap_or(u32::MAX)
}

/// Deepest first, as an agent may have made cgroups inside. In this file system only empty
/// directories can be removed, and no files.
pub(super) fn remove_tree(dir: &Path) {
    let below = walkdir::WalkDir::new(dir).contents_first(true).into_iter();
    for e in below.flatten().filter(|e| e.file_type().is_dir()) {
        let _in_use = fs::remove_dir(e.path());
    }
}

/// Where the v2 hierarchy is mounted, and which part of it is visible there.
struct Mount {
    root: PathBuf,
    point: PathBuf,
}

fn mount() -> Option<Mount> {
    if std::env::var_os(SWITCH).is_some_and(|v| v == "off") {
        return None;
    }
    mount_in(&atomic::read_kernel("/proc/self/mountinfo").ok()?)
}

/// `36 35 0:30 ROOT POINT options tags… - cgroup2 source options`
fn mount_in(mountinfo: &[u8]) -> Option<Mount> {
    mountinfo.split(|&b| b == b'\n').find_map(|line| {
        let dash = line.windows(3).position(|w| w == b" - ")?;
        if !line[dash + 3..].starts_with(b"cgroup2 ") {
            return None;
        }
        let mut fields = line[..dash].split(|&b| b == b' ').skip(3);
        Some(Mount {
            root: unescaped(fields.next()?),
            point: unescaped(fields.next()?),
        })
    })
}

/// The cgroup below which keepers make theirs: this process's own, or the one in which a run made its
/// own.
pub(super) fn base() -> io::Result<PathBuf> {
    let own = own()?;
    match own.parent() {
        Some(parent) if own.ends_with(LEAF) => Ok(parent.to_owned()),
        _ => Ok(own),
    }
}

pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The directory of this process's cgroup.
pub fn own() -> io::Result<PathBuf> {
    let none = || io::Error::other("this host has no cgroup v2");
    let mount = mount().ok_or_else(none)?;
    own_in(&mount, &atomic::read_kernel("/proc/self/cgroup")?).ok_or_else(none)
}

/// From the line `0::PATH` of `/proc/self/cgroup`; `None` if the mount does not show it.
fn own_in(mount: &Mount, cgroups: &[u8]) -> Option<PathBuf> {
    let mut lines = cgroups.split(|&b| b == b'\n');
    let path = lines.find_map(|l| l.strip_prefix(b"0::"))?;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    Some(mount.point.join(path.strip_prefix(&mount.root).ok()?))
}

/// Spaces, tabs, newlines and backslashes are escaped as octal there.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = field;
    while let Some((&b, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(c) if b == b'\\' => {
                out.push(c);
                rest = &tail[3..];
            }
            _ => {
                out.push(b);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_where_it_is_mounted() {
        let own = |mounts: &str, cgroups: &str| {
            let mount = mount_in(mounts.as_bytes())?;
            own_in(&mount, cgroups.as_bytes())
        };
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let hybrid = "30 1 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";
        let part = "9 8 0:26 /box/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = |p: &str| Some(PathBuf::from(p));
        assert_eq!(own(v2, "0::/a/b\n"), found("/sys/fs/cgroup/a/b"));
        assert_eq!(
            own(hybrid, "4:memory:/x\n0::/\n"),
            found("/sys/fs/cgroup/uni fied/")
        );
        assert_eq!(own(part, "0::/box/1/c\n"), found("/sys/fs/cgroup/c"));
        assert_eq!(own(part, "0::/elsewhere\n"), None);
        assert_eq!(own(v2, "4:memory:/x\n"), None);
        assert_eq!(own("1 1 0:1 / /proc rw - proc proc rw\n", "0::/\n"), None);
    }
}
