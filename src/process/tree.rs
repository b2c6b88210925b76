//! The process tree below a keeper: everything its agent started that still lives, in any session.
//! Stops and continues it as a whole, and measures its CPU time.
//!
//! Does not know why. Invariant: only processes below us are signalled. A pid that is not our own
//! child's may have been reused by the time of the signal: so a pidfd holds the process, and its
//! parent is checked again, before it is signalled.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{children, pause, pids, stat_of};
use crate::atomic;

/// Limit for a tree that keeps starting processes while it is being stopped; each round takes a few
/// milliseconds, and a stopped parent starts none.
const ROUNDS_MAX: u32 = 100;
/// Between two rounds: a stop takes effect when the process next leaves the kernel.
const ROUND: Duration = Duration::from_millis(2);

/// A process of the tree, as read from `/proc/PID/stat`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) parent: u32,
    state: u8,
    /// CPU time of itself and of its reaped children, in clock ticks.
    ticks: u64,
    pub(super) tasks: u64,
    pub(super) rss: u64,
}

/// Every living process below this one, parents before their children.
pub(super) fn members() -> Vec<Member> {
    let me = std::process::id();
    let children = children();
    let children = children.iter().map(|pid| pid.as_raw().unsigned_abs());
    below(me, children.collect())
}

fn below(top: u32, children: Vec<u32>) -> Vec<Member> {
    let children = children.into_iter();
    let mut found: Vec<Member> = children.filter_map(|pid| member(pid, top)).collect();
    let mut next = 0;
    while let Some(&Member { pid, .. }) = found.get(next) {
        let below = children_of(pid);
        found.extend(below.into_iter().filter_map(|child| member(child, pid)));
        next += 1;
    }
    found
}

/// `None`: gone, or no longer a child of this parent.
fn member(pid: u32, parent: u32) -> Option<Member> {
    let stat = stat_of(pid)?;
    (stat.parent == parent).then_some(Member {
        pid,
        parent,
        state: stat.state,
        ticks: stat.ticks,
        tasks: stat.tasks,
        rss: stat.rss,
    })
}

/// The children of all threads of a process, from the `children` files in `/proc`; by a search of
/// all processes if the kernel was built without these files.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match atomic::read_kernel_text(thread.path().join("children")) {
            Ok(list) => found.extend(
                list.split_whitespace()
                    .filter_map(|p| p.parse::<u32>().ok()),
            ),
            Err(_) if thread.path().exists() => {
                return pids()
                    .filter(|&p| stat_of(p).is_some_and(|s| s.parent == pid))
                    .collect();
            }
            Err(_) => {}
        }
    }
    found
}

/// Whether it lives, below the same parent.
pub(super) fn is_still(m: &Member) -> bool {
    member(m.pid, m.parent).is_some()
}

fn hold(m: &Member) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(m.pid as i32)?;
    let held = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    member(m.pid, m.parent).map(|_| held)
}

pub(super) fn signal(m: &Member, signal: Signal) {
    if let Some(held) = hold(m) {
        // It has ended, or is another user's: the next round shows what is left.
        let _gone = pidfd_send_signal(&held, signal);
    }
}

/// Stops the whole tree, parents first, until nothing in it runs. What cannot be stopped (another
/// user's) runs on.
pub fn freeze() {
    for _ in 0..ROUNDS_MAX {
        // T and t: stopped. Z and X: ended.
        let runs: Vec<Member> = members()
            .into_iter()
            .filter(|m| !b"TtZX".contains(&m.state))
            .collect();
        if runs.is_empty() {
            return;
        }
        for m in &runs {
            signal(m, Signal::STOP);
        }
        pause(ROUND);
    }
}

/// What lives below a child of ours, held: its numbers cannot become another's.
pub(crate) fn held_below(top: u32) -> Vec<OwnedFd> {
    if !super::proc_is_ours() {
        return Vec::new();
    }
    let members = below(top, children_of(top)).into_iter();
    members.filter_map(|m| hold(&m)).collect()
}

/// Ends what `held_below` found.
pub(crate) fn kill(held: &[OwnedFd]) {
    for process in held {
        let _gone = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Whether a process is in the tree.
pub fn has(pid: i32) -> bool {
    members().iter().any(|m| i64::from(m.pid) == i64::from(pid))
}

/// Continues the tree, children first, so that no parent sees a child of its own stopped.
pub fn thaw() {
    for m in members().iter().rev() {
        signal(m, Signal::CONT);
    }
}

/// CPU time of the living processes of the tree and of the children they reaped.
pub fn cpu() -> Duration {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|n| u64::try_from(n).ok())
        .filter(|&n| n > 0)
        .unwrap_or(100);
    let ticks: u64 = members().iter().map(|m| m.ticks).sum();
    Duration::from_millis(ticks.saturating_mul(1_000) / per_second)
}
