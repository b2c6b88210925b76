//! Processes of this host: the children of a keeper, and the sweep of a tree whose keeper died.
//!
//! A keeper is a child subreaper: whatever its agent leaves behind becomes the keeper's own child,
//! and a child's pid is not used again before its parent has waited for it. So a keeper signals
//! its direct children only, again and again, until the kernel says that there are none (ECHILD):
//! nothing escapes, and nothing that is not ours is ever hit.

pub mod tree;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::bell;
use crate::clock;

/// Pids of this process's direct children (it has one thread). Falls back to a scan of /proc where
/// the kernel was built without `children` files.
pub fn children() -> Vec<Pid> {
    let me = std::process::id();
    if let Ok(list) = fs::read_to_string(format!("/proc/{me}/task/{me}/children")) {
        return list
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
            .collect();
    }
    pids()
        .filter(|&pid| stat_of(pid).is_some_and(|s| s.parent == me))
        .map(|pid| Pid::from_raw(pid as i32))
        .collect()
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// What `/proc/PID/stat` says of a process; `None`: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: u32,
    /// User and system time, its own and that of children it has waited for, in clock ticks.
    ticks: u64,
}

fn stat_of(pid: u32) -> Option<Stat> {
    read_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn read_stat(stat: &[u8]) -> Option<Stat> {
    // The command name is in parentheses and may hold anything: look behind the last one.
    let end = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // utime, stime, cutime, cstime: fields 14 to 17 of the line.
    let times = fields.get(11..15)?.iter();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks: times.filter_map(|t| t.parse::<u64>().ok()).sum(),
    })
}

/// Signals each of these processes, which must be children of ours. Failures (gone already,
/// another user's) show in what is left.
pub fn signal_each(pids: &[Pid], signal: Signal) {
    for &pid in pids {
        let _gone = nix::sys::signal::kill(pid, signal);
    }
}

/// Kills every process that carries `HARNESS_SESSION=sid` in its environment or has the session's
/// output open for writing (people read it): the means for a tree whose keeper is dead. Repeats
/// until two passes find none (a process that is just executing another program shows no
/// environment), or the deadline. Returns how many it killed, and whether none was left.
///
/// A process is held by a pidfd before its environment is read, so that the one that is killed is
/// the one that was looked at.
pub fn sweep_session(sid: &str, dir: &Path, deadline: Duration) -> (u32, bool) {
    let mark = format!("HARNESS_SESSION={sid}");
    let outputs: Vec<(u64, u64)> = ["stdout.log", "stderr.log"]
        .iter()
        .filter_map(|name| fs::metadata(dir.join(name)).ok().map(|m| id_of(&m)))
        .collect();
    let end = clock::instant() + deadline;
    let (mut killed, mut clean) = (0, 0);
    loop {
        let found = sweep_once(&mark, &outputs);
        killed += found;
        clean = if found == 0 { clean + 1 } else { 0 };
        if clean == 2 {
            return (killed, true);
        }
        if clock::instant() >= end {
            return (killed, false);
        }
        pause(Duration::from_millis(5));
    }
}

fn sweep_once(mark: &str, outputs: &[(u64, u64)]) -> u32 {
    use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let me = std::process::id();
    let is_of = |pid| carries(pid, mark) || writes_to(pid, outputs);
    let mut found = 0;
    for pid in pids().filter(|&p| p != me) {
        if !is_of(pid) {
            continue;
        }
        let Some(handle) = rustix::process::Pid::from_raw(pid as i32) else {
            continue;
        };
        let Ok(fd) = pidfd_open(handle, PidfdFlags::empty()) else {
            continue;
        };
        if is_of(pid) && pidfd_send_signal(&fd, Signal::KILL).is_ok() {
            found += 1;
        }
    }
    found
}

/// Whether a living process has this assignment in the environment it was started with.
fn carries(pid: u32, mark: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|env| env.split(|&b| b == 0).any(|var| var == mark.as_bytes()))
}

/// Whether a process has one of these files (device, inode) open for writing.
fn writes_to(pid: u32, files: &[(u64, u64)]) -> bool {
    let listed = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    listed.flatten().any(|e| {
        let link = e.path();
        // The link's own mode says how the file was opened.
        let writable = link.symlink_metadata().is_ok_and(|m| m.mode() & 0o200 != 0);
        writable && fs::metadata(&link).is_ok_and(|m| files.contains(&id_of(&m)))
    })
}

fn id_of(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// A short wait between two looks at something that sends no event.
pub fn pause(d: Duration) {
    let _timeout = nix::poll::poll(&mut [], bell::poll_timeout(d));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_calls_itself() {
        let line = b"77 (a) S 1 (b)) T 5 77 77 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 99";
        let stat = Stat {
            state: b'T',
            parent: 5,
            ticks: 100,
        };
        assert_eq!(read_stat(line), Some(stat));
        assert_eq!(read_stat(b"77 (x"), None);
    }
}
