//! Holds a running agent to `[limits]`: looks at what it prints and at what its tree uses, several
//! times a second.
//!
//! Stops nothing itself but tools that use too much: it says when its agent must be stopped, and why.
//! Invariant: a tool is ended before its agent, and each that was is on record.

use std::cmp::Reverse;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;

use super::caps::Caps;
use super::disk::{Disks, FREE_ENOUGH, Left};
use super::size::Size;
use super::wire::Spec;
use crate::atomic;
use crate::layout::{self, Root, SlotId};
use crate::mutant::planted;
use crate::outcome::Stop;
use crate::process::controllers::Held;
use crate::process::weight::{self, Relief, Tool};
use crate::sandbox;
use crate::text;

/// How often it looks where all limits are far; how often while one is near; and how often while much of the
/// memory is used or a tool is being ended.
const LOOK_RARELY: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(250);
const LOOK_CLOSELY: Duration = Duration::from_millis(50);
/// Bytes that an agent prints in a second where that is fast.
const PRINTED_FAST: u64 = 256 << 20;

/// A tool with less than this part of the limit was not ended for it.
const SMALL: u64 = 8;
/// Tools without a name that are told, at most.
const NAMED_MAX: u64 = 16;
/// Names of tools that are told, at most: an agent could make up one for each.
const NAMES_MAX: usize = 8;
const OTHERS: &str = "others";
/// A block of `st_blocks`.
const BLOCK: u64 = 512;

pub(super) struct Guard {
    caps: Caps,
    disks: Disks,
    /// Its standard output and standard error, opened before it began: it may rename them.
    outputs: Vec<File>,
    size: Size,
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

/// Where it writes: its worktree and the repository of that, its session's folder, its temporary one.
/// `slot`: its slot's directory.
pub(super) fn places(spec: &Spec, slot: &Path) -> Vec<PathBuf> {
    let mut places = vec![spec.cwd.clone(), layout::slot_repository(&spec.cwd)];
    places.extend(spec.exit.parent().map(Path::to_owned));
    let root = slot.ancestors().nth(3).map(Root::new);
    let id = slot.file_name().and_then(SlotId::parse);
    places.extend(root.zip(id).map(|(root, id)| sandbox::temp_path(&root, id)));
    places
}

/// When to look again at what is used up after so many bytes, where a second uses up `fast` at most.
fn until(left: u64, fast: u64) -> Duration {
    let full = Duration::from_millis(left.saturating_mul(1_000) / fast);
    full.clamp(LOOK, LOOK_RARELY)
}

fn breach(stop: Stop, why: String) -> Result<Duration, Breach> {
    Err(Breach { stop, why })
}

impl Guard {
    pub(super) fn new(
        caps: Caps,
        places: Vec<PathBuf>,
        outputs: Vec<File>,
        held: Held,
        score: i32,
    ) -> Guard {
        Guard {
            caps,
            disks: Disks::of(&places),
            outputs,
            size: Size::new(places),
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
            self.memory(main)?,
            self.processes(main)?,
            // Last, as it may go on for a while with more than that.
            self.worktree()?,
        ];
        Ok(waits.into_iter().min().unwrap_or(LOOK_RARELY))
    }

    fn output(&self) -> Result<Duration, Breach> {
        let Some(cap) = self.caps.output.filter(|_| !planted("output-not-counted")) else {
            return Ok(LOOK_RARELY);
        };
        // What is allocated beyond its end is on the disk, too.
        let len = |file: &File| {
            let meta = file.metadata();
            meta.map_or(0, |meta| meta.size().max(meta.blocks() * BLOCK))
        };
        let printed = self.outputs.iter().map(len).sum::<u64>();
        if printed <= cap {
            return Ok(until(cap - printed, PRINTED_FAST));
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
        let (bytes, wait) = self.size.go_on();
        if bytes <= cap {
            return Ok(wait);
        }
        let cap = text::bytes(cap);
        breach(
            Stop::OverWorktree,
            format!(
                "its worktree takes more than {cap}, with its repository, session and temporary folder, so it was stopped \
                 (`worktree` in [limits])"
            ),
        )
    }

    /// Whoever writes is stopped before the disk is full.
    fn disk(&mut self) -> Result<Duration, Breach> {
        let floor = self.caps.disk_free;
        if floor == 0 || planted("disk-not-watched") {
            return Ok(LOOK_RARELY);
        }
        match self.disks.look(floor) {
            Left::Enough(free) => Ok(until(free, FREE_ENOUGH)),
            Left::Some => Ok(LOOK),
            Left::Little(free) => breach(
                Stop::OverDisk,
                format!(
                    "only {} were left on its disk, and it was writing: it was stopped before the disk was full",
                    text::bytes(free)
                ),
            ),
        }
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
            Relief::Fine(used) if used < cap / 2 => Ok(LOOK),
            Relief::Fine(_) => Ok(LOOK_CLOSELY),
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
        let of_limit = |e: &&mut Ended| e.limit == limit;
        let is_named = self
            .ended
            .iter()
            .any(|e| e.limit == limit && e.name == name);
        let is_full = self.ended.iter().filter(|e| e.limit == limit).count() >= NAMES_MAX;
        let name = match is_full && !is_named {
            true => OTHERS.to_owned(),
            false => name,
        };
        let mut known = self.ended.iter_mut().filter(of_limit);
        match known.find(|e| e.name == name) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_the_more_often_the_less_is_left() {
        let at = |left| until(left, PRINTED_FAST);
        assert_eq!(at(u64::MAX), LOOK_RARELY);
        assert_eq!(at(2 * PRINTED_FAST), Duration::from_secs(2));
        assert_eq!(at(0), LOOK);
    }

    #[test]
    fn an_agent_that_makes_up_names_for_its_tools_gets_few_of_them_told() {
        let caps = Caps {
            memory: Some(100_000_000),
            ..Caps::default()
        };
        let mut guard = Guard::new(caps, Vec::new(), Vec::new(), Held::default(), 0);
        for n in 0..20 {
            guard.note("memory", format!("hog{n}"), 300_000_000);
        }
        guard.note("memory", "hog3".to_owned(), 200_000_000);
        assert_eq!(
            guard.said(),
            [
                "memory: 300 MB of 100 MB; ended: hog0, hog1, hog2, hog3 (2 times), hog4, hog5, hog6, hog7, others (12 times)"
            ]
        );
    }
}
