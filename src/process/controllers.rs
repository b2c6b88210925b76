//! Has the kernel hold an agent's tree to its limits: memory, processor, processes, by the controllers of
//! cgroup v2, where those are delegated to us.
//!
//! The kernel shares out only below a cgroup in which no process lives. So a run moves itself into a
//! child of its own (`LEAF`), and a keeper with limits splits its cgroup in two: `keeper` for itself,
//! `agent` for what it starts. Each controller that is not there is left to sampling.
//!
//! Does not know agents. Invariant: a keeper is never in a cgroup with limits but for the moment in which
//! it starts something, which then has them from its first instruction.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::{self, Cgroup, LEAF};
use super::tell_kernel;
use crate::atomic;
use crate::service;

const KEEPER: &str = "keeper";
/// What is wanted. `io` only gives agents less of the disk than others.
const WANTED: [&str; 4] = ["memory", "pids", "cpu", "io"];
/// Microseconds over which the processor is shared out.
const PERIOD: u64 = 100_000;

/// For a whole tree; `None`: no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) memory: Option<u64>,
    /// Thousandths of a core.
    pub(crate) cpu: Option<u64>,
    pub(crate) processes: Option<u64>,
    pub(crate) nice: u8,
}

/// What the kernel holds a tree to.
#[derive(Debug, Default)]
pub(crate) struct Held {
    dir: Option<PathBuf>,
    pub(crate) memory: bool,
    pub(crate) cpu: bool,
    pub(crate) processes: bool,
    /// Counts of before.
    ended_before: u64,
    refused_before: u64,
}

/// Has the kernel share out what it can below this process's cgroup, for the keepers that it is going to
/// start. Returns that cgroup and what is shared out there.
///
/// # Errors
/// No cgroup v2, or none that is ours alone: another process lives in it, or it is not delegated.
pub(crate) fn delegate() -> io::Result<(PathBuf, Vec<&'static str>)> {
    let base = cgroup::base()?;
    let there = listed(&base.join("cgroup.controllers"));
    let wanted: Vec<&str> = WANTED.into_iter().filter(|c| there.contains(*c)).collect();
    if wanted.is_empty() {
        return Err(io::Error::other("no controller is delegated here"));
    }
    let moves = shared_out(&base).is_empty();
    if service::is_main_process() && !cgroup::own()?.ends_with(LEAF) {
        // Where something is shared out, systemd can start nothing beside agents at work.
        return Err(io::Error::other(format!(
            "systemd starts the next harness in this same cgroup: its unit needs `DelegateSubgroup={LEAF}`, \
             and systemd 254"
        )));
    }
    if moves {
        move_to_leaf(&base)?;
    }
    for controller in wanted {
        // Some cannot be had in some kernels (`cpu` with tasks of real time): the others are of use.
        let _lacks = tell_kernel(
            base.join("cgroup.subtree_control"),
            &format!("+{controller}"),
        );
    }
    let shared = shared_out(&base);
    if !shared.is_empty() {
        return Ok((base, shared));
    }
    let other = others_in(&base);
    if moves {
        let _stays = tell_kernel(base.join("cgroup.procs"), "0");
        let _in_use = fs::remove_dir(base.join(LEAF));
    }
    let at = base.display();
    Err(io::Error::other(match other {
        Some(pid) => format!(
            "process {pid} lives in the same cgroup ({at}), so the kernel shares out nothing there"
        ),
        None => format!("it cannot be shared out at {at}"),
    }))
}

/// What `delegate` would come to, without doing it.
pub(crate) fn could_delegate() -> io::Result<(PathBuf, Vec<&'static str>)> {
    let base = cgroup::probe()?;
    let there = listed(&base.join("cgroup.controllers"));
    let wanted: Vec<&str> = WANTED.into_iter().filter(|c| there.contains(*c)).collect();
    if wanted.is_empty() {
        return Err(io::Error::other("no controller is delegated here"));
    }
    Ok((base, wanted))
}

fn move_to_leaf(base: &Path) -> io::Result<()> {
    let leaf = base.join(LEAF);
    cgroup::make_dir(&leaf)?;
    tell_kernel(leaf.join("cgroup.procs"), "0")
}

fn others_in(dir: &Path) -> Option<String> {
    let text = atomic::read_kernel_text(dir.join("cgroup.procs")).ok()?;
    text.lines().next().map(str::to_owned)
}

fn shared_out(dir: &Path) -> Vec<&'static str> {
    let shared = listed(&dir.join("cgroup.subtree_control"));
    WANTED.into_iter().filter(|c| shared.contains(*c)).collect()
}

fn listed(file: &Path) -> std::collections::BTreeSet<String> {
    let text = atomic::read_kernel_text(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

impl Cgroup {
    /// Has the kernel hold what is started next to these bounds, as far as it can here.
    pub(crate) fn hold(&mut self, bounds: &Bounds) -> Held {
        let needs = bounds.memory.is_some() || bounds.cpu.is_some() || bounds.processes.is_some();
        if !needs && !self.split {
            return Held::default();
        }
        self.held(bounds).unwrap_or_default()
    }

    fn held(&mut self, bounds: &Bounds) -> io::Result<Held> {
        let dir = self.agent_dir();
        let shared = self.split_up()?;
        let has = |controller: &str| shared.contains(&controller);
        // Of the item before: empty, with counts of its own.
        cgroup::remove_tree(&dir);
        cgroup::make_dir(&dir)?;
        let set = |file: &str, text: &str| tell_kernel(dir.join(file), text).is_ok();
        let or_max = |bound: Option<u64>| bound.map_or("max".to_owned(), |n| n.to_string());
        let cpu = bounds
            .cpu
            .map(|millis| (millis * PERIOD / 1_000).max(1_000));
        let mut held = Held {
            memory: has("memory") && set("memory.max", &or_max(bounds.memory)),
            cpu: has("cpu") && set("cpu.max", &format!("{} {PERIOD}", or_max(cpu))),
            processes: has("pids") && set("pids.max", &or_max(bounds.processes)),
            ..Held::default()
        };
        if held.memory && bounds.memory.is_some() {
            // What is swapped out does not count there. One process is ended, not all of them.
            set("memory.swap.max", "0");
            set("memory.oom.group", "0");
        }
        // Against harness and other agents; how nice a process is counts inside only.
        let stand_back = |file: &str, text: &str| {
            let _as_it_is = tell_kernel(self.dir.join(file), text);
        };
        stand_back("cpu.weight.nice", &bounds.nice.to_string());
        stand_back("io.weight", &(100 - 4 * u64::from(bounds.nice)).to_string());
        held.dir = Some(dir);
        (held.ended_before, held.refused_before) = (held.count_ended(), held.count_refused());
        Ok(held)
    }

    /// Moves this process into a child, so that the kernel shares out what there is. Returns that.
    fn split_up(&mut self) -> io::Result<Vec<&'static str>> {
        if !self.split {
            let wanted = self.dir.parent().map(shared_out).unwrap_or_default();
            if wanted.is_empty() {
                return Err(io::ErrorKind::Unsupported.into());
            }
            let keeper = self.dir.join(KEEPER);
            cgroup::make_dir(&keeper)?;
            tell_kernel(keeper.join("cgroup.procs"), "0")?;
            self.split = true;
            for controller in wanted {
                let file = self.dir.join("cgroup.subtree_control");
                let _lacks = tell_kernel(file, &format!("+{controller}"));
            }
        }
        Ok(shared_out(&self.dir))
    }

    /// Does it in the cgroup with the limits.
    pub(crate) fn inside<T>(
        &self,
        held: &Held,
        start: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(dir) = &held.dir else {
            return start();
        };
        tell_kernel(dir.join("cgroup.procs"), "0")?;
        let started = start();
        // Otherwise it stays where its agent is, and is held to the same.
        let _stays = tell_kernel(self.dir.join(KEEPER).join("cgroup.procs"), "0");
        started
    }
}

impl Held {
    /// Processes that the kernel has ended for their memory.
    pub(crate) fn ended(&self) -> u64 {
        self.count_ended() - self.ended_before
    }

    /// Starts of processes that it has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.count_refused() - self.refused_before
    }

    fn count_ended(&self) -> u64 {
        self.count("memory.events", "oom_kill ")
    }

    fn count_refused(&self) -> u64 {
        self.count("pids.events", "max ")
    }

    fn count(&self, file: &str, name: &str) -> u64 {
        let text = self
            .dir
            .as_ref()
            .map(|dir| atomic::read_kernel_text(dir.join(file)));
        let text = text.and_then(Result::ok).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }
}
