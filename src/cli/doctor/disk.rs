//! What can be read off ROOT's file system without changing anything: its type, devices, space,
//! journal, mount options and the length of its path.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::Check;
use crate::atomic;
use crate::config::{Config, Durability};
use crate::layout::{Place, Root, shown};

/// Below this many free inodes a checkout of a middling repository fails.
const INODES_MIN: u64 = 10_000;
/// Room for a session's or a worktree's files below ROOT within Linux's 4096 bytes.
const PATH_BYTES_FAIL: usize = 3_000;
/// Longer ones break tools that agents run (many stop at 1024 or less).
const PATH_BYTES_WARN: usize = 700;

/// File systems by the magic number of `statfs`: name, and what does not hold there (none: local
/// and good).
const KINDS: &[(u32, &str, Option<&str>)] = &[
    (0xEF53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683E, "btrfs", None),
    (0xF2F5_2010, "f2fs", None),
    (0xCA45_1A4E, "bcachefs", None),
    (0x2FC1_2FC1, "zfs", None),
    (0x794C_7630, "overlay", None),
    (
        0x0102_1994,
        "tmpfs",
        Some("nothing here survives a reboot or a power cut"),
    ),
    (
        0x8584_58F6,
        "ramfs",
        Some("nothing here survives a reboot or a power cut"),
    ),
    (
        0x6969,
        "NFS",
        Some(
            "no events from other hosts, no read leases, no rename that spares an existing name; flock holds only while the server's lock service does",
        ),
    ),
    (
        0x0102_1997,
        "9p",
        Some(
            "no events from the host's side, no read leases, and flock often excludes nobody else",
        ),
    ),
    (
        0x6573_5546,
        "FUSE",
        Some("flock, hard links, events and leases depend on the program behind it"),
    ),
    (
        0x4D44,
        "FAT",
        Some("no hard links (no claim can be won), no modes, times of two seconds"),
    ),
    (
        0x2011_BAB0,
        "exFAT",
        Some("no hard links (no claim can be won), no modes"),
    ),
    (
        0x7366_746E,
        "NTFS",
        Some("modes and hostile names depend on the mount's options"),
    ),
    (
        0xFF53_4D42,
        "CIFS",
        Some(
            "no events from other hosts, no read leases; flock and hard links depend on the server",
        ),
    ),
    (
        0xFE53_4D42,
        "SMB",
        Some(
            "no events from other hosts, no read leases; flock and hard links depend on the server",
        ),
    ),
    (
        0x517B,
        "SMB",
        Some(
            "no events from other hosts, no read leases; flock and hard links depend on the server",
        ),
    ),
    (
        0x5346_414F,
        "AFS",
        Some("no hard links between directories (no claim can be won), no events from other hosts"),
    ),
    (
        0x00C3_6400,
        "Ceph",
        Some("no events from other hosts, no read leases"),
    ),
    (
        0x0BD0_0BD0,
        "Lustre",
        Some("no events from other hosts, no read leases; flock only if mounted with `flock`"),
    ),
    (
        0x786F_4256,
        "vboxsf",
        Some("no hard links (no claim can be won), no events from the host's side"),
    ),
    (
        0x6A65_6A63,
        "a shared folder of Docker Desktop",
        Some("no events from the host's side; flock may exclude nobody else"),
    ),
];

pub(super) fn checks(root: &Root, config: Option<&Config>) -> Vec<Check> {
    let durable = config.is_none_or(|c| c.harness.durability == Durability::Full);
    let mut checks = vec![
        path_length(root.path()),
        kind(root, durable),
        one_device(root),
    ];
    checks.extend(journal(root, durable));
    checks.extend(no_exec(root));
    checks.push(space(root, config));
    checks.extend(inodes(root));
    checks
}

fn path_length(path: &Path) -> Check {
    let len = path.as_os_str().as_bytes().len();
    let found = format!("{len} bytes");
    let advice = "move the ROOT to a shorter path";
    match len {
        PATH_BYTES_FAIL.. => Check::fail("path", format!("{found}: too long"), advice),
        PATH_BYTES_WARN.. => {
            Check::warn("path", format!("{found}: many tools stop at 1024"), advice)
        }
        _ if path.to_str() != Some(&shown(path.as_os_str())) => Check::warn(
            "path",
            format!("{found}, not plain text"),
            "harness works with it, but agents' programs may not: move the ROOT if they fail",
        ),
        _ => Check::ok("path", found),
    }
}

/// The queue and the state each may be mounted separately: the worst counts.
fn kind(root: &Root, durable: bool) -> Check {
    let name = "file system";
    let mut found: Vec<String> = Vec::new();
    let mut lacks: Vec<String> = Vec::new();
    for path in [root.queue(), root.state(), root.worktrees()] {
        let kind = match statfs(&path) {
            Ok(stat) => i128::from(stat.filesystem_type().0) & 0xFFFF_FFFF,
            Err(e) => {
                return Check::fail(
                    name,
                    format!("{}: {e}", shown(path.as_os_str())),
                    "look at the mount",
                );
            }
        };
        let known = KINDS.iter().find(|(magic, ..)| i128::from(*magic) == kind);
        let (label, lack) = match known {
            Some((_, label, lack)) => ((*label).to_owned(), *lack),
            None => (
                format!("unknown (0x{kind:x})"),
                Some("nobody has tried it: the probes below say what works"),
            ),
        };
        // What loses everything at a reboot is no surprise where durability is off.
        let lack = lack.filter(|_| durable || !matches!(label.as_str(), "tmpfs" | "ramfs"));
        if !found.contains(&label) {
            lacks.extend(lack.map(|l| format!("{label}: {l}")));
            found.push(label);
        }
    }
    let found = found.join(", ");
    if lacks.is_empty() {
        return Check::ok(name, found);
    }
    Check::warn(
        name,
        lacks.join("\n"),
        "put the ROOT on a local disk (ext4, xfs, btrfs); else let one host alone work on it",
    )
}

/// Renames and hard links do not cross devices, nor mounts of the same device.
fn one_device(root: &Root) -> Check {
    let name = "one device";
    let of_queue = [
        root.place(Place::Pending),
        root.claimed_root(),
        root.place(Place::Done),
        root.place(Place::Parked),
    ];
    let of_state = [root.agents(), root.claims(), root.exclusive_root()];
    for (what, paths) in [
        ("renames", of_queue.as_slice()),
        ("claims", of_state.as_slice()),
    ] {
        let mounts: Vec<Option<(u64, String)>> = paths.iter().map(|p| mount_of(p)).collect();
        let differs = mounts.iter().position(|m| m.is_none() || *m != mounts[0]);
        if let Some(i) = differs {
            let [a, b] = [&paths[0], &paths[i]].map(|p: &PathBuf| shown(p.as_os_str()));
            return Check::fail(
                name,
                format!("{a} and {b} are not on one mount: {what} between them fail"),
                "make both plain directories of one file system; mount or link `queue` or `state` as a whole",
            );
        }
    }
    Check::ok(name, "queue/ in itself, state/agents with state/claims")
}

fn mount_of(path: &Path) -> Option<(u64, String)> {
    let dir = atomic::open_dir(path).ok()?;
    let device = dir.metadata().ok()?.dev();
    let info = atomic::read_kernel_text(format!("/proc/self/fdinfo/{}", dir.as_raw_fd()));
    let info = info.unwrap_or_default();
    let mount = info.lines().find_map(|l| l.strip_prefix("mnt_id:"));
    Some((device, mount.unwrap_or_default().trim().to_owned()))
}

/// Only for ext4 whose device the kernel shows; nothing to say elsewhere.
fn journal(root: &Root, durable: bool) -> Option<Check> {
    let device = fs::metadata(root.state()).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let task = Path::new("/sys/fs/ext4")
        .join(block.file_name()?)
        .join("journal_task");
    let task = atomic::read_kernel_text(task).ok()?;
    if task.trim() != "<none>" {
        return Some(Check::ok(
            "journal",
            format!("ext4 with a journal (task {})", task.trim()),
        ));
    }
    let found = "ext4 without a journal: after a power cut anything may be lost";
    if !durable {
        return Some(Check::ok("journal", format!("{found} (durability is off)")));
    }
    Some(Check::warn(
        "journal",
        found,
        "`tune2fs -O has_journal` on the unmounted device, or another file system; harmless if a power cut may cost work",
    ))
}

fn no_exec(root: &Root) -> Option<Check> {
    let paths = [root.state(), root.worktrees()];
    let barred = paths
        .iter()
        .find(|p| statvfs(p.as_path()).is_ok_and(|v| v.flags().contains(FsFlags::ST_NOEXEC)))?;
    Some(Check::warn(
        "noexec",
        format!(
            "{} is mounted noexec: scripts and builds in it may not start",
            shown(barred.as_os_str())
        ),
        "mount it with exec, or move the ROOT",
    ))
}

fn space(root: &Root, config: Option<&Config>) -> Check {
    let name = "free disk";
    let least = config.map_or(256_000_000, |c| c.limits.disk_free_min);
    let mut lowest = u64::MAX;
    for path in [root.queue(), root.state(), root.worktrees()] {
        match fs2::available_space(&path) {
            Ok(free) => lowest = lowest.min(free),
            Err(e) => {
                return Check::fail(
                    name,
                    format!("{}: {e}", shown(path.as_os_str())),
                    "look at the mount",
                );
            }
        }
    }
    let found = format!(
        "{} free, {} at least (limits.disk_free_min)",
        mega(lowest),
        mega(least)
    );
    if lowest < least {
        return Check::fail(
            name,
            found,
            "free some space (`harness gc`), or lower limits.disk_free_min: nothing is claimed before",
        );
    }
    Check::ok(name, found)
}

fn mega(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}

/// Nothing to say where the file system counts none (btrfs).
fn inodes(root: &Root) -> Option<Check> {
    let counts = [root.queue(), root.state(), root.worktrees()]
        .into_iter()
        .filter_map(|p| {
            let v = statvfs(&p).ok()?;
            let (all, free) = (v.files() as u64, v.files_available() as u64);
            (all > 0).then_some(free)
        });
    let free = counts.min()?;
    let found = format!("{free} free");
    Some(if free < INODES_MIN {
        Check::warn(
            "inodes",
            found,
            "remove small files that nobody needs (`df -i`), or use another file system",
        )
    } else {
        Check::ok("inodes", found)
    })
}

#[cfg(test)]
#[allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;

    #[test]
    fn odd_paths_are_warned_about() {
        let level = |p: &[u8]| path_length(Path::new(std::ffi::OsStr::from_bytes(p))).level;
        assert_eq!(level(b"/srv/work"), Level::Ok);
        assert_eq!(level("/srv/\u{e9}".as_bytes()), Level::Ok);
        assert_eq!(level(b"/a\nb"), Level::Warn);
        assert_eq!(level(b"/\xff"), Level::Warn);
        assert_eq!(level(&[b'x'; 1_000]), Level::Warn);
        assert_eq!(level(&[b'x'; 3_500]), Level::Fail);
    }

    #[test]
    fn a_queue_over_two_devices_fails() {
        // /proc is another mount than any temporary directory.
        let dir = tempfile::tempdir().expect("temp dir");
        let root = crate::cli::init::init(dir.path(), "").expect("init").root;
        assert_eq!(one_device(&root).level, Level::Ok);
        let done = root.place(Place::Done);
        crate::atomic::discard_tree(&done, "a test's own").expect("remove");
        std::os::unix::fs::symlink("/proc", &done).expect("symlink");
        let check = one_device(&root);
        assert_eq!(check.level, Level::Fail);
        assert!(check.found.contains("done"), "{}", check.found);
    }
}
