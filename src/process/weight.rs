//! What the tree below a keeper uses: memory, processes, bytes written. Ends what uses too much, where
//! no cgroup does that.
//!
//! Knows no agent but as the process that is spared. Invariant: only processes below us are ended, each
//! held while it is looked at.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use rustix::process::Signal;

use super::tree::{self, Member};
use super::{pause, stat_of};
use crate::atomic;
use crate::mutant::planted;
use crate::text;

/// How long a process that was ended may still have its memory, before another one is ended.
const DYING: Duration = Duration::from_millis(500);
/// Names that are said of what was ended at once.
const NAMES_MAX: usize = 4;

/// What a look at the tree came to.
pub(crate) enum Relief {
    /// It uses so much, which is not too much.
    Fine(u64),
    /// It used so much, and this was ended.
    Ended { name: String, used: u64 },
    /// The process that is spared uses too much by itself.
    Alone(u64),
}

/// Ends the largest process but `spared` where the tree uses more memory than `cap`.
pub(crate) fn relieve(cap: u64, spared: Pid) -> Relief {
    let members = tree::members();
    // Pages that processes share are counted for each of them.
    let upper: u64 = members.iter().map(|m| m.rss).sum();
    if upper <= cap || planted("tool-not-ended") {
        return Relief::Fine(upper);
    }
    let sizes: Vec<(u64, &Member)> = members.iter().map(|m| (share_of(m), m)).collect();
    let used: u64 = sizes.iter().map(|(size, _)| size).sum();
    if used <= cap {
        return Relief::Fine(used);
    }
    let is_spared = |m: &Member| m.pid == spared.as_raw().unsigned_abs();
    let own = sizes.iter().find(|(_, m)| is_spared(m));
    if let Some((size, _)) = own.filter(|(size, _)| *size > cap || planted("agent-before-tool")) {
        return Relief::Alone(*size);
    }
    let others = sizes.iter().filter(|(size, m)| *size > 0 && !is_spared(m));
    let Some((_, largest)) = others.max_by_key(|(size, _)| *size) else {
        return Relief::Fine(used);
    };
    let name = name_of(largest.pid);
    tree::signal(largest, Signal::KILL);
    await_end(largest.pid);
    Relief::Ended { name, used }
}

/// Its memory is given back a moment after it was ended.
fn await_end(pid: u32) {
    let step = DYING / 50;
    for _ in 0..50 {
        if stat_of(pid).is_none_or(|stat| stat.rss == 0) {
            return;
        }
        pause(step);
    }
}

/// Ends what was started by the process that has the most processes below it, but `spared`, until the
/// tree has no more than `cap`. Nothing forks meanwhile.
pub(crate) fn thin_out(cap: u64, spared: Pid) -> Relief {
    let count = |members: &[Member]| members.iter().map(|m| m.tasks).sum::<u64>();
    let used = count(&tree::members());
    if used <= cap || planted("crowd-not-thinned") {
        return Relief::Fine(used);
    }
    tree::freeze();
    let members = tree::members();
    let used = count(&members);
    let crowds = crowds(&members, spared.as_raw().unsigned_abs());
    let mut names: Vec<String> = Vec::new();
    let mut left = used;
    for crowd in crowds {
        if left <= cap {
            break;
        }
        // The first of them has started the others.
        let name = crowd.first().map(|m| name_of(m.pid)).unwrap_or_default();
        if !names.contains(&name) && names.len() < NAMES_MAX {
            names.push(name);
        }
        for member in crowd {
            left -= member.tasks;
            tree::signal(member, Signal::KILL);
        }
    }
    tree::thaw();
    match names.is_empty() {
        true if used > cap => Relief::Alone(used),
        true => Relief::Fine(used),
        false => Relief::Ended {
            name: names.join(" and "),
            used,
        },
    }
}

/// The tree in parts, the largest first: each process right below the spared one, or below us, with all
/// that descends from it. Without the spared one. Members come with parents before their children.
fn crowds(members: &[Member], spared: u32) -> Vec<Vec<&Member>> {
    let mut tops = BTreeMap::<u32, u32>::new();
    let mut crowds = BTreeMap::<u32, Vec<&Member>>::new();
    for member in members.iter().filter(|m| m.pid != spared) {
        let top = tops.get(&member.parent).copied().unwrap_or(member.pid);
        tops.insert(member.pid, top);
        crowds.entry(top).or_default().push(member);
    }
    let tasks = |crowd: &Vec<&Member>| crowd.iter().map(|m| m.tasks).sum::<u64>();
    let mut crowds: Vec<Vec<&Member>> = crowds.into_values().collect();
    crowds.sort_by_key(|crowd| Reverse(tasks(crowd)));
    crowds
}

/// A process of the tree at a look.
pub(crate) struct Tool {
    pub(crate) pid: u32,
    pub(crate) rss: u64,
    pub(crate) name: String,
}

/// Has the kernel end tools before the spared process, where it must end something. Returns them all.
pub(crate) fn tools_first(spared: Pid, score: i32) -> Vec<Tool> {
    let members = tree::members().into_iter();
    let tools = members.filter(|m| m.pid != spared.as_raw().unsigned_abs());
    tools
        .map(|m| {
            raise(&m, score);
            Tool {
                pid: m.pid,
                rss: m.rss,
                name: name_of(m.pid),
            }
        })
        .collect()
}

/// Through its open folder in /proc, which stays its own.
fn raise(member: &Member, score: i32) {
    let Ok(proc) = atomic::open_dir(Path::new(&format!("/proc/{}", member.pid))) else {
        return;
    };
    let file = format!("/proc/self/fd/{}/oom_score_adj", proc.as_raw_fd());
    let now = atomic::read_kernel_text(&file).ok();
    let now = now.and_then(|text| text.trim().parse::<i32>().ok());
    if now.is_some_and(|now| now < score) && tree::is_still(member) {
        let _of_another_user = super::tell_kernel(&file, &score.to_string());
    }
}

/// Bytes that the processes of the tree have written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    /// To disks, through memory maps, too.
    pub(crate) to_disks: u64,
    /// To files, pipes and others.
    pub(crate) handed_over: u64,
}

impl Written {
    pub(crate) fn since(self, before: Written) -> Written {
        Written {
            to_disks: self.to_disks.saturating_sub(before.to_disks),
            handed_over: self.handed_over.saturating_sub(before.handed_over),
        }
    }
}

/// A process has what its children wrote once it has waited for them: so we have what daemons wrote.
pub(crate) fn written() -> Written {
    let of = |pid: u32| atomic::read_kernel_text(format!("/proc/{pid}/io")).ok();
    let all = tree::members().into_iter().map(|m| m.pid);
    let mut sum = Written::default();
    for io in all.chain([std::process::id()]).filter_map(of) {
        let number = |name: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
        };
        sum.to_disks += number("write_bytes: ");
        sum.handed_over += number("wchar: ");
    }
    sum
}

/// Bytes of memory, and of swap, that are its own or its share of what others have, too.
fn share_of(member: &Member) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", member.pid);
    let Ok(text) = atomic::read_kernel_text(path) else {
        return member.rss;
    };
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    (kib("Pss:") + kib("SwapPss:")) << 10
}

fn name_of(pid: u32) -> String {
    let name = atomic::read_kernel(format!("/proc/{pid}/comm")).unwrap_or_default();
    // It gives itself its name.
    let name = text::message(&String::from_utf8_lossy(&name));
    match name.is_empty() {
        true => "a process".to_owned(),
        false => name,
    }
}
