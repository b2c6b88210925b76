//! Holds a running agent to `[limits]`: looks at what it prints and at what its tree uses, several
//! times a second.
//!
//! Stops nothing itself but tools that use too much: it says when its agent must be stopped, and why.
//! Invariant: a tool is ended before its agent, and each that was is on record.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;

use super::caps::Caps;
use super::size::Size;
use super::wire::Spec;
use crate::atomic;
use crate::mutant::planted;
use crate::outcome::Stop;
use crate::process::controllers::Held;
use crate::process::weight::{self, Relief, Tool};
use crate::text;

/// How often it looks; how often while much is printed or the disk is short; and how often while much of
/// the memory is used or a tool is being ended.
const LOOK_RARELY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);
const LOOK_CLOSELY: Duration = Duration::from_millis(50);
/// Its agent is stopped where the disk would be full after so many more looks in which it writes as
/// much, or where less is free than half of what claims need and it writes more than this part of it.
const LOOKS_LEFT: u64 = 4;
const WRITES_MUCH: u64 = 64;
/// More than is written between so many looks: with more free, nobody asks who writes.
const FREE_ENOUGH: u64 = 4 << 30;

/// A tool with less than this part of the limit was not ended for it.
const SMALL: u64 = 8;
/// Tools without a name that are told, at most.
const NAMED_MAX: u64 = 16;

pub(super) struct Guard {
    caps: Caps,
    cwd: PathBuf,
    /// Its standard output and standard error, opened before it began: it may rename them.
    outputs: Vec<File>,
    size: Size,
    /// Bytes that its living processes had written at the last look.
    wrote: Option<u64>,
    ended: Vec<Ended>,
    /// What the kernel holds it to by itself.
    held: Held,
    /// Processes that it has ended, as far as they were seen; those of them that have no name yet; and the
    /// tools at the last look.
    noted: u64,
    unnamed: u64,
    tools: Vec<Tool>,
    /// `oom_score_adj` of tools.
    score: i32,
}

/// Tools of one name that were ended for the same limit.
struct Ended {
    limit: &'static str,
    name: String,
    times: u32,
    used: u64,
}

/// Why its agent must be stopped.
pub(super) struct Breach {
    pub(super) stop: Stop,
    pub(super) why: String,
}

/// What it prints into, before it is started.
pub(super) fn outputs(spec: &Spec) -> io::Result<Vec<File>> {
    let both = [&spec.stdout, &spec.stderr];
    let both = both
        .into_iter()
        .take(1 + usize::from(spec.stderr != spec.stdout));
    both.map(|path| atomic::open_regular(path)).collect()
}

fn breach(stop: Stop, why: String) -> Result<Duration, Breach> {
    Err(Breach { stop, why })
}

impl Guard {
    pub(super) fn new(spec: &Spec, outputs: Vec<File>, held: Held, score: i32) -> Guard {
        Guard {
            caps: spec.caps.clone(),
            cwd: spec.cwd.clone(),
            outputs,
            size: Size::new(),
            wrote: None,
            ended: Vec::new(),
            held,
            noted: 0,
            unnamed: 0,
            tools: Vec::new(),
            score,
        }
    }

    /// Returns when to look again. `main`: the agent process.
    pub(super) fn look(&mut self, main: Pid) -> Result<Duration, Breach> {
        let waits = [
            self.output()?,
            self.disk()?,
            self.worktree()?,
            self.memory(main)?,
            self.processes(main)?,
        ];
        Ok(waits.into_iter().min().unwrap_or(LOOK_RARELY))
    }

    fn output(&self) -> Result<Duration, Breach> {
        let Some(cap) = self.caps.output.filter(|_| !planted("output-not-counted")) else {
            return Ok(LOOK_RARELY);
        };
        let len = |file: &File| file.metadata().map_or(0, |meta| meta.size());
        match self.outputs.iter().map(len).sum::<u64>() {
            printed if printed < cap / 2 => return Ok(LOOK_RARELY),
            printed if printed <= cap => return Ok(LOOK),
            _ => {}
        }
        let cap = text::bytes(cap);
        breach(
            Stop::OverOutput,
            format!("it printed more than {cap} and was stopped (`output` in [limits])"),
        )
    }

    fn worktree(&mut self) -> Result<Duration, Breach> {
        let Some(cap) = self
            .caps
            .worktree
            .filter(|_| !planted("worktree-not-measured"))
        else {
            return Ok(LOOK_RARELY);
        };
        let (bytes, wait) = self.size.go_on(&self.cwd);
        if bytes <= cap {
            return Ok(wait);
        }
        let cap = text::bytes(cap);
        breach(
            Stop::OverWorktree,
            format!(
                "its worktree takes more than {cap}, so it was stopped (`worktree` in [limits])"
            ),
        )
    }

    /// Whoever writes is stopped before the disk is full: what is not written yet would be lost, of
    /// every agent.
    fn disk(&mut self) -> Result<Duration, Breach> {
        let free = statvfs(&self.cwd).map(|s| s.blocks_available() * s.fragment_size());
        let Some(free) = free.ok().filter(|free| *free < FREE_ENOUGH) else {
            self.wrote = None;
            return Ok(LOOK_RARELY);
        };
        let wrote = weight::written();
        let new = wrote.saturating_sub(self.wrote.replace(wrote).unwrap_or(wrote));
        let is_short = free < self.caps.disk_free / 2 && new > free / WRITES_MUCH;
        let is_looked_at = self.caps.disk_free > 0 && !planted("disk-not-watched");
        if !is_looked_at || !(is_short || new.saturating_mul(LOOKS_LEFT) > free) {
            return Ok(LOOK);
        }
        breach(
            Stop::OverDisk,
            format!(
                "only {} were left on its disk, and it was writing: it was stopped before the disk was full",
                text::bytes(free)
            ),
        )
    }

    fn memory(&mut self, main: Pid) -> Result<Duration, Breach> {
        let Some(cap) = self.caps.memory else {
            return Ok(LOOK_RARELY);
        };
        let tools = weight::tools_first(main, self.score);
        let used: u64 = tools.iter().map(|tool| tool.rss).sum();
        if self.held.memory {
            self.note_ended(&tools, cap);
            self.tools = tools;
            return Ok(match used < cap / 2 {
                true => LOOK,
                false => LOOK_CLOSELY,
            });
        }
        match weight::relieve(cap, main) {
            Relief::Fine(used) if used < cap / 2 => Ok(LOOK),
            Relief::Fine(_) => Ok(LOOK_CLOSELY),
            Relief::Ended { name, used } => {
                self.note("memory", name, used);
                Ok(LOOK_CLOSELY)
            }
            Relief::Alone(used) => breach(
                Stop::OverMemory,
                format!(
                    "memory: {} of {} by itself, so it was ended (`memory` in [limits])",
                    text::bytes(used),
                    text::bytes(cap)
                ),
            ),
        }
    }

    /// What the kernel has ended. It does not say what: the largest that is gone, and that is seen a
    /// moment later.
    fn note_ended(&mut self, now: &[Tool], cap: u64) {
        let ended = self.held.ended();
        self.unnamed += ended.saturating_sub(self.noted);
        self.noted = self.noted.max(ended);
        let lives = |tool: &Tool| now.iter().any(|t| t.pid == tool.pid && t.rss > 0);
        // Small ones end all the time.
        let is_gone = |tool: &&Tool| tool.rss >= cap / SMALL && !lives(tool);
        let mut gone: Vec<&Tool> = self.tools.iter().filter(is_gone).collect();
        gone.sort_by_key(|tool| Reverse(tool.rss));
        let names = gone.into_iter().map(|tool| tool.name.clone());
        let unnamed = usize::try_from(self.unnamed).unwrap_or(usize::MAX);
        let names: Vec<String> = names.take(unnamed).collect();
        self.unnamed -= names.len() as u64;
        for name in names {
            self.note("memory", name, cap);
        }
    }

    /// Its agent process has ended. `killed`: by SIGKILL, of which nobody here knows. Why, where the
    /// kernel did it for its memory.
    pub(super) fn last(&mut self, killed: bool) -> Option<Breach> {
        let cap = self.caps.memory.filter(|_| self.held.memory)?;
        let ended = self.held.ended();
        self.unnamed += ended.saturating_sub(self.noted);
        self.noted = self.noted.max(ended);
        let is_it = killed && self.unnamed > 0;
        self.unnamed -= u64::from(is_it);
        self.note_ended(&[], cap);
        for _ in 0..std::mem::take(&mut self.unnamed).min(NAMED_MAX) {
            self.note("memory", "a tool".to_owned(), cap);
        }
        is_it.then(|| Breach {
            stop: Stop::OverMemory,
            why: format!(
                "memory: {0} of {0}, and its agent had the most of it, so it was ended (`memory` in [limits])",
                text::bytes(cap)
            ),
        })
    }

    fn processes(&mut self, main: Pid) -> Result<Duration, Breach> {
        let Some(cap) = self.caps.processes else {
            return Ok(LOOK_RARELY);
        };
        if self.held.processes {
            return Ok(LOOK_RARELY);
        }
        match weight::thin_out(cap, main) {
            Relief::Fine(_) => Ok(LOOK),
            Relief::Ended { name, used } => {
                self.note("processes", name, used);
                Ok(LOOK_CLOSELY)
            }
            Relief::Alone(used) => breach(
                Stop::OverProcesses,
                format!(
                    "processes: {used} of {cap} by itself, so it was ended (`processes` in [limits])"
                ),
            ),
        }
    }

    fn note(&mut self, limit: &'static str, name: String, used: u64) {
        let known = self.ended.iter_mut();
        match known
            .into_iter()
            .find(|e| e.limit == limit && e.name == name)
        {
            Some(ended) => {
                ended.times += 1;
                ended.used = ended.used.max(used);
            }
            None => self.ended.push(Ended {
                limit,
                name,
                times: 1,
                used,
            }),
        }
    }

    /// What was ended, in words: a line for each limit.
    pub(super) fn said(&self) -> Vec<String> {
        let line = |limit: &str| {
            let of_limit = || self.ended.iter().filter(|e| e.limit == limit);
            let used = of_limit().map(|e| e.used).max()?;
            let names: Vec<String> = of_limit().map(Ended::text).collect();
            let names = names.join(", ");
            Some(match limit {
                "memory" => format!(
                    "memory: {} of {}; ended: {names}",
                    text::bytes(used),
                    text::bytes(self.caps.memory?)
                ),
                _ => format!(
                    "{limit}: {used} of {}; ended: {names}",
                    self.caps.processes?
                ),
            })
        };
        let mut said: Vec<String> = ["memory", "processes"]
            .into_iter()
            .filter_map(line)
            .collect();
        let refused = self.held.refused();
        if let Some(cap) = self.caps.processes.filter(|_| refused > 0) {
            said.push(format!(
                "processes: {cap} of {cap}; no more could be started ({refused} times)"
            ));
        }
        said
    }
}

impl Ended {
    fn text(&self) -> String {
        match self.times {
            1 => self.name.clone(),
            times => format!("{} ({times} times)", self.name),
        }
    }
}
