//! Read-only checks of ROOT's file system: its type, devices, space, journal, mount options and
//! path length.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{Finding, fail, ok, warn};
use crate::atomic;
use crate::config::Config;
use crate::layout::{Place, Root, shown};

/// With fewer free inodes a checkout of a medium-sized repository fails.
const INODES_MIN: u64 = 10_000;
/// Leaves room for the paths of a session's or a worktree's files within Linux's 4096 bytes.
const PATH_BYTES_FAIL: usize = 3_000;
/// Longer paths break tools that agents run (many stop at 1024 bytes or fewer).
const PATH_BYTES_WARN: usize = 700;
/// `limits.disk_free_min` if the configuration is unreadable.
const DISK_FREE_MIN: u64 = 256_000_000;

const MEMORY: &str = "nothing here survives a reboot or a power cut";
const NO_EVENTS: &str = "no events from other hosts, no read leases";
const SERVER: &str =
    "no events from other hosts, no read leases; flock and hard links depend on the server";
/// File systems by `statfs` magic number: name, and what they lack; `""` if they are local and lack
/// nothing.
const KINDS: &[(u32, &str, &str)] = &[
    (0xEF53, "ext4", ""),
    (0x5846_5342, "xfs", ""),
    (0x9123_683E, "btrfs", ""),
    (0xF2F5_2010, "f2fs", ""),
    (0xCA45_1A4E, "bcachefs", ""),
    (0x2FC1_2FC1, "zfs", ""),
    (0x794C_7630, "overlay", ""),
    (0x0102_1994, "tmpfs", MEMORY),
    (0x8584_58F6, "ramfs", MEMORY),
    (0xFF53_4D42, "CIFS", SERVER),
    (0xFE53_4D42, "SMB", SERVER),
    (0x517B, "SMB", SERVER),
    (0x00C3_6400, "Ceph", NO_EVENTS),
    (
        0x6969,
        "NFS",
        "no events from other hosts, no read leases, no rename that refuses to replace a file; a lock of a host that is cut off ends with its lease",
    ),
    (
        0x0102_1997,
        "9p",
        "no events from the host's side, no read leases, and flock often locks out no other host",
    ),
    (
        0x6573_5546,
        "FUSE",
        "flock, hard links, events and leases depend on the program behind it",
    ),
    (
        0x4D44,
        "FAT",
        "no hard links (no claim can be won), no modes, times of two seconds",
    ),
    (
        0x2011_BAB0,
        "exFAT",
        "no hard links (no claim can be won), no modes",
    ),
    (
        0x7366_746E,
        "NTFS",
        "modes and hostile names depend on the mount's options",
    ),
    (
        0x5346_414F,
        "AFS",
        "no hard links between directories (no claim can be won), no events from other hosts",
    ),
    (
        0x0BD0_0BD0,
        "Lustre",
        "no events from other hosts, no read leases; flock only if mounted with `flock`",
    ),
    (
        0x786F_4256,
        "vboxsf",
        "no hard links (no claim can be won), no events from the host's side",
    ),
    (
        0x6A65_6A63,
        "a shared folder of Docker Desktop",
        "no events from the host's side; flock may lock out no other host",
    ),
];

pub(super) fn path_length(path: &Path) -> Finding {
    let found = format!("{} bytes", path.as_os_str().len());
    let what_to_do = "move the ROOT to a shorter path";
    match path.as_os_str().len() {
        PATH_BYTES_FAIL.. => fail(format!("{found}: too long"), what_to_do),
        PATH_BYTES_WARN.. => warn(format!("{found}: many tools stop at 1024"), what_to_do),
        _ if path.to_str() != Some(&shown(path.as_os_str())) => warn(
            format!("{found}, not plain text"),
            "harness works with it, but agents' programs may not: move the ROOT if they fail",
        ),
        _ => ok(found),
    }
}

/// Folders that may be on separate mounts.
fn mounts(root: &Root) -> [std::path::PathBuf; 3] {
    [root.queue(), root.state(), root.worktrees()]
}

fn unreadable(path: &Path, e: &dyn std::fmt::Display) -> Finding {
    let why = format!("{}: {e}", shown(path.as_os_str()));
    fail(
        why,
        "look at its owner and mode (`ls -ld`), and at the mount",
    )
}

/// The worst of the three mounts decides.
pub(super) fn kind(root: &Root, is_durable: bool) -> Finding {
    let mut found: Vec<String> = Vec::new();
    let mut lacks: Vec<String> = Vec::new();
    for path in mounts(root) {
        let magic = match statfs(&path) {
            Ok(stat) => i128::from(stat.filesystem_type().0) & 0xFFFF_FFFF,
            Err(e) => return unreadable(&path, &e),
        };
        let known = KINDS.iter().find(|(m, ..)| i128::from(*m) == magic);
        let (name, lack) = match known {
            Some((_, name, lack)) => ((*name).to_owned(), *lack),
            None => (
                format!("unknown (0x{magic:x})"),
                "nobody has tried it: the probes below say what works",
            ),
        };
        if found.contains(&name) {
            continue;
        }
        // With durability "off" a reboot may lose everything.
        if !lack.is_empty() && (is_durable || lack != MEMORY) {
            lacks.push(format!("{name}: {lack}"));
        }
        found.push(name);
    }
    match lacks.is_empty() {
        true => ok(found.join(", ")),
        false => warn(
            lacks.join("\n"),
            "put the ROOT on a local disk (ext4, xfs, btrfs); else look at the lines about other hosts below",
        ),
    }
}

/// Renames and hard links work neither across devices nor across mounts of one device.
pub(super) fn one_device(root: &Root) -> Finding {
    let renames: Vec<PathBuf> = Place::ALL
        .map(|place| root.place(place))
        .into_iter()
        .chain([root.claimed_root()])
        .collect();
    let claims = [root.agents(), root.claims(), root.exclusive_root()];
    for (what, paths) in [("renames", &renames[..]), ("claims", &claims[..])] {
        let mut mounts = Vec::new();
        for path in paths {
            match mount_of(path) {
                Ok(mount) => mounts.push(mount),
                Err(e) => return unreadable(path, &e),
            }
        }
        let differs = mounts.iter().position(|m| *m != mounts[0]);
        if let Some(i) = differs {
            let [a, b] = [&paths[0], &paths[i]].map(|p| shown(p.as_os_str()));
            return fail(
                format!("{a} and {b} are not on one mount: {what} between them fail"),
                "make both plain directories of one file system; mount or link `queue` or `state` as a whole",
            );
        }
    }
    ok(
        "all of queue/ is on one mount, and so is what claims are made of (state/agents, state/claims)",
    )
}

fn mount_of(path: &Path) -> std::io::Result<(u64, String)> {
    let dir = atomic::open_dir(path)?;
    let device = dir.metadata()?.dev();
    let info = atomic::read_kernel_text(format!("/proc/self/fdinfo/{}", dir.as_raw_fd()));
    let info = info.unwrap_or_default();
    let mount = info.lines().find_map(|l| l.strip_prefix("mnt_id:"));
    Ok((device, mount.unwrap_or_default().trim().to_owned()))
}

/// Only for ext4 on a device that the kernel shows.
pub(super) fn journal(root: &Root, is_durable: bool) -> Option<Finding> {
    let device = fs::metadata(root.state()).ok()?.dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let block = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let ext4 = Path::new("/sys/fs/ext4").join(block.file_name()?);
    let task = atomic::read_kernel_text(ext4.join("journal_task")).ok()?;
    let lost = "ext4 without a journal: after a power cut anything may be lost";
    Some(match task.trim() {
        "<none>" if is_durable => warn(
            lost,
            "`tune2fs -O has_journal` on the unmounted device, or another file system; harmless if a power cut may cost work",
        ),
        "<none>" => ok(format!("{lost} (durability is off)")),
        task => ok(format!("ext4 with a journal (task {task})")),
    })
}

pub(super) fn no_exec(root: &Root) -> Option<Finding> {
    let is_noexec = |p: &&Path| statvfs(*p).is_ok_and(|v| v.flags().contains(FsFlags::ST_NOEXEC));
    let paths = [root.state(), root.worktrees()];
    let path = paths.iter().map(|p| p.as_path()).find(is_noexec)?;
    let path = shown(path.as_os_str());
    Some(warn(
        format!("{path} is mounted noexec: scripts and builds in it may not start"),
        "mount it with exec, or move the ROOT",
    ))
}

pub(super) fn space(root: &Root, config: Option<&Config>) -> Finding {
    let least = config.map_or(DISK_FREE_MIN, |c| c.limits.disk_free_min);
    let mut lowest = u64::MAX;
    for path in mounts(root) {
        match fs2::available_space(&path) {
            Ok(free) => lowest = lowest.min(free),
            Err(e) => return unreadable(&path, &e),
        }
    }
    let megabytes = |bytes: u64| bytes / 1_000_000;
    let found = format!(
        "{} MB free, {} MB at least (limits.disk_free_min)",
        megabytes(lowest),
        megabytes(least)
    );
    match lowest < least {
        false => ok(found),
        true => fail(
            found,
            "free some space (`harness gc`), or lower limits.disk_free_min: nothing is claimed before",
        ),
    }
}

/// `None` if the file system does not count inodes (btrfs).
pub(super) fn inodes(root: &Root) -> Option<Finding> {
    let counts = mounts(root).into_iter().filter_map(|p| {
        let v = statvfs(&p).ok()?;
        (v.files() > 0).then_some(v.files_available() as u64)
    });
    let free = counts.min()?;
    let found = format!("{free} free");
    Some(match free < INODES_MIN {
        false => ok(found),
        true => warn(
            found,
            "remove small files that nobody needs (`df -i`), or use another file system",
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::cli::doctor::State;

    #[test]
    fn odd_paths_are_warned_about() {
        let state = |p: &[u8]| path_length(Path::new(std::ffi::OsStr::from_bytes(p))).state;
        assert_eq!(state(b"/srv/work"), State::Ok);
        assert_eq!(state("/srv/\u{e9}".as_bytes()), State::Ok);
        assert_eq!(state(b"/a\nb"), State::Warn);
        assert_eq!(state(b"/\xff"), State::Warn);
        assert_eq!(state(&[b'x'; 1_000]), State::Warn);
        assert_eq!(state(&[b'x'; 3_500]), State::Fail);
    }

    #[test]
    fn a_queue_over_two_devices_fails() {
        // /proc is on another mount than any temporary directory.
        let dir = tempfile::tempdir().expect("temp dir");
        let root = crate::cli::init::init(dir.path(), "").expect("init").root;
        assert_eq!(one_device(&root).state, State::Ok);
        let done = root.place(Place::Done);
        crate::atomic::discard_tree(&done, "a test's own").expect("remove");
        std::os::unix::fs::symlink("/proc", &done).expect("symlink");
        let finding = one_device(&root);
        assert_eq!(finding.state, State::Fail);
        assert!(finding.why.contains("done"), "{}", finding.why);
    }
}
