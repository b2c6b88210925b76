//! The agent process of a keeper: its start, its age, the end of its process tree, and its exit
//! record. Does not know the harness.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::WaitStatus;
use nix::unistd::{Pid, getpgid};

use super::ExitRecord;
use super::caps::Caps;
use super::guard::{self, Breach, Guard};
use super::place::Place;
use super::wire::Spec;
use crate::atomic::{self, OwnDir};
use crate::clock;
use crate::config::Network;
use crate::limits::STRAY_GRACE;
use crate::mutant::planted;
use crate::outcome::Stop;
use crate::ports::Ports;
use crate::process;
use crate::process::cgroup::Cgroup;
use crate::process::controllers::Held;
use crate::sandbox::{self, Sandbox};

/// How long SIGKILL is repeated for processes that survive it (another user's, or stuck in the
/// kernel).
const GIVE_UP: Duration = Duration::from_secs(10);

/// Whoever ends all processes at once (a host that shuts down, a container that stops) ends the agent
/// perhaps before us and our harness. So long is waited for a word of that after an agent was ended by
/// a signal that says so; under load a handler runs late.
const SHUTDOWN_WORD: Duration = Duration::from_secs(2);
/// The same after another end that is no success: some exit with 1 at SIGTERM.
const SHUTDOWN_WORD_SHORT: Duration = Duration::from_millis(50);

/// How often what is over `worktree` is looked at until it has ended.
const LOOK_AT_END: Duration = Duration::from_millis(250);

pub(super) struct Agent {
    pub(super) spec: Box<Spec>,
    /// Its session's folder as it was before the start: its agent may move it or put a symlink there,
    /// and a person may move ROOT.
    pub(super) folder: Option<OwnDir>,
    pub(super) pid: Pid,
    started_at: String,
    started: Instant,
    cpu_before: Duration,
    pub(super) main: Option<WaitStatus>,
    /// Set while it is being stopped: SIGKILL from this instant on.
    pub(super) stop: Option<Instant>,
    pub(super) stopped_first: bool,
    pub(super) stopped_for: String,
    pub(super) frozen_since: Option<Instant>,
    /// Total time frozen before `frozen_since`.
    pub(super) frozen: Duration,
    /// Held while it runs.
    pub(super) tokens: Vec<OwnedFd>,
    guard: Guard,
    /// One of this host's, while it runs.
    pub(super) place: Option<Place>,
    /// At which of `[limits]` it was stopped.
    breach: Option<Breach>,
    /// Children that got SIGTERM by themselves.
    asked: Vec<Pid>,
    sweep: Option<Sweep>,
    /// Since when it has been waited for a word of a shutdown.
    doubted: Option<Instant>,
}

pub(super) struct Sweep {
    pub(super) strays: u32,
    pub(super) kill_from: Instant,
    pub(super) pause: Duration,
}

impl Agent {
    /// An agent process that was just started.
    pub(super) fn new(
        spec: Box<Spec>,
        folder: Option<OwnDir>,
        (pid, guard): (Pid, Guard),
        cpu_before: Duration,
        tokens: Vec<OwnedFd>,
    ) -> Agent {
        Agent {
            spec,
            folder,
            pid,
            started_at: clock::now_iso(),
            started: clock::instant(),
            cpu_before,
            main: None,
            stop: None,
            stopped_first: false,
            stopped_for: String::new(),
            frozen_since: None,
            frozen: Duration::ZERO,
            tokens,
            guard,
            place: None,
            breach: None,
            asked: Vec::new(),
            sweep: None,
            doubted: None,
        }
    }

    /// Holds it to its limits while it runs. Returns when to look again; `Err`: it must be stopped, with
    /// so much time between SIGTERM and SIGKILL.
    pub(super) fn look_at_limits(&mut self) -> Result<Option<Duration>, (Stop, Duration)> {
        if self.frozen_since.is_some() {
            return Ok(None);
        }
        let breach = match self.guard.look(self.pid) {
            Ok(wait) => return Ok(Some(wait)),
            Err(breach) => breach,
        };
        let stop = breach.stop;
        self.breach = Some(breach);
        Err(match stop {
            Stop::OverWorktree => (stop, self.spec.grace),
            // Meanwhile it would go on.
            _ => (stop, Duration::ZERO),
        })
    }

    /// The same while it is being stopped, or what it left behind is. `None`: all of it must be killed
    /// now.
    fn look_while_ending(&mut self) -> Option<Duration> {
        match self.guard.look(self.pid) {
            _ if planted("unwatched-at-its-end") => Some(GIVE_UP),
            Ok(wait) => Some(wait),
            // It has the same time to end as others.
            Err(Breach {
                stop: Stop::OverWorktree,
                ..
            }) => Some(LOOK_AT_END),
            Err(breach) => {
                self.breach.get_or_insert(breach);
                None
            }
        }
    }

    /// How long it may go on while it is being stopped: not at all where it is over a limit meanwhile.
    pub(super) fn time_to_end(&mut self, kill_from: Instant) -> Duration {
        let now = clock::instant();
        match self.look_while_ending() {
            Some(look) => look.min(kill_from.saturating_duration_since(now)),
            None => {
                self.stop = Some(now);
                Duration::ZERO
            }
        }
    }

    /// How long to wait yet for a word that everything is shut down, if its end looks like that.
    pub(super) fn doubt(&mut self) -> Option<Duration> {
        let wait = match self.main {
            _ if self.stop.is_some() => return None,
            Some(WaitStatus::Exited(_, 0)) | None => return None,
            Some(WaitStatus::Signaled(_, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP, _)) => {
                SHUTDOWN_WORD
            }
            // 128 and the signal: shells, and programs that follow them.
            Some(WaitStatus::Exited(_, 129 | 130 | 143)) => SHUTDOWN_WORD,
            Some(_) => SHUTDOWN_WORD_SHORT,
        };
        let since = *self.doubted.get_or_insert_with(clock::instant);
        let left = wait.saturating_sub(since.elapsed());
        (!left.is_zero()).then_some(left)
    }

    pub(super) fn frozen(&self) -> Duration {
        let now = self.frozen_since.map_or(Duration::ZERO, |s| s.elapsed());
        self.frozen + now
    }

    /// How long it has been running, without the time it was frozen.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.frozen())
    }

    /// SIGTERM to the agent's process group and to the keeper's other children. Each gets it once: many
    /// programs take a second one for impatience and end without saving anything. Only until the agent
    /// process is reaped: then the group may belong to others.
    pub(super) fn ask_to_end(&mut self) {
        let _gone = killpg(self.pid, Signal::SIGTERM);
        self.ask_each(process::children(), true);
    }

    /// `of_group`: whether its process group has been asked.
    fn ask_each(&mut self, mut unasked: Vec<Pid>, of_group: bool) {
        unasked.retain(|&child| {
            let by_group = of_group && getpgid(Some(child)) == Ok(self.pid);
            !by_group && !self.asked.contains(&child)
        });
        process::signal_each(&unasked, Signal::SIGTERM);
        self.asked.extend(unasked);
    }

    /// Ends what the agent process left behind: SIGTERM, if it was not sent, then SIGKILL in rounds
    /// until nothing is left. Returns when to call again; `None`: given up.
    pub(super) fn sweep_on(&mut self, cgroup: Option<&Cgroup>) -> Option<Duration> {
        let look = self.look_while_ending();
        let now = clock::instant();
        let children = process::children();
        let stop = self.stop;
        if self.sweep.is_none() {
            self.ask_each(children.clone(), stop.is_some());
        }
        let sweep = self.sweep.get_or_insert_with(|| {
            let kill_from = now + STRAY_GRACE;
            Sweep {
                strays: children.len() as u32,
                kill_from: stop.map_or(kill_from, |s| s.min(kill_from)),
                pause: Duration::from_millis(2),
            }
        });
        if look.is_none() {
            sweep.kill_from = sweep.kill_from.min(now);
        }
        let left = sweep.kill_from.saturating_duration_since(now);
        if !left.is_zero() {
            return Some(look.map_or(left, |look| look.min(left)));
        }
        if now > sweep.kill_from + GIVE_UP {
            return None;
        }
        if let Some(cgroup) = cgroup {
            let _others = cgroup.kill_others();
        }
        // Some may have left the cgroup.
        process::signal_each(&children, Signal::SIGKILL);
        // Children of killed processes become ours a moment later: the next round finds them.
        sweep.pause = (sweep.pause * 2).min(Duration::from_millis(200));
        Some(sweep.pause)
    }

    pub(super) fn exit_record(&mut self, strays_left: u32) -> Vec<u8> {
        let is_killed = matches!(self.main, Some(WaitStatus::Signaled(_, Signal::SIGKILL, _)));
        if let Some(breach) = self.guard.last(is_killed && self.stop.is_none()) {
            self.stopped_first = true;
            self.stopped_for = breach.stop.as_str().to_owned();
            self.breach = Some(breach);
        }
        let (exit_status, signal) = match self.main {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
            _ => (None, None),
        };
        let mut record = ExitRecord {
            session: self.spec.session.clone(),
            pid: self.pid.as_raw(),
            exit_status,
            signal,
            started_at: self.started_at.clone(),
            ended_at: clock::now_iso(),
            seconds: self.age().as_secs_f64(),
            frozen_seconds: self.frozen().as_secs_f64(),
            cpu_seconds: cpu_of_children()
                .saturating_sub(self.cpu_before)
                .as_secs_f64(),
            stopped: self.stopped_first,
            stopped_for: self.stopped_for.clone(),
            strays: self.sweep.as_ref().map_or(0, |s| s.strays),
            strays_left,
            limits: self.guard.said(),
        };
        record
            .limits
            .extend(self.breach.iter().map(|b| b.why.clone()));
        let mut text = serde_json::to_vec(&record).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

pub(super) fn cpu_of_children() -> Duration {
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_micros((t.tv_sec() as u64) * 1_000_000 + t.tv_usec() as u64)
    };
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |u| {
        time(u.user_time()) + time(u.system_time())
    })
}

const OOM: &str = "/proc/self/oom_score_adj";
/// Of 1000: as if it used so much more of the host's memory.
const OOM_RAISE: i32 = 300;
const PWD: &str = "PWD";
const OLDPWD: &str = "OLDPWD";

/// Starts the agent of this slot's directory in its own process group. Its standard output carries a lock that lasts until
/// the last process that inherited it ends; the file's existence records that a start was tried.
pub(super) fn start(
    spec: &Spec,
    slot: &Path,
    ports: Option<&Ports>,
    cgroup: Option<&mut Cgroup>,
) -> io::Result<(Pid, Guard)> {
    let stdin = match &spec.stdin {
        Some(path) => Stdio::from(atomic::open_regular(path)?),
        None => Stdio::null(),
    };
    let stderr = atomic::open_output(&spec.stderr)?;
    // Made last before the start, as its existence means that a start was tried.
    let stdout = atomic::open_output(&spec.stdout)?;
    let _held = fs2::FileExt::try_lock_exclusive(&stdout);
    let mut command = command(spec)?;
    command.envs(ports.iter().flat_map(|ports| ports.variables()));
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let mut sandbox = spec.sandbox.clone();
    if let Some(Network::Ports(open)) = sandbox.as_mut().map(|s| &mut s.network) {
        open.extend(ports.iter().flat_map(|ports| ports.all()));
    }
    let mut caps = spec.caps.clone();
    let (cgroup, held) = match cgroup {
        None => (None, Held::default()),
        Some(cgroup) => {
            let held = cgroup.hold(&caps.bounds());
            (Some(&*cgroup), held)
        }
    };
    if held.cpu {
        caps.cpu = None;
    }
    let mut spawn = || spawn_held(&mut command, sandbox.as_ref(), &caps);
    let started = guard::outputs(spec).and_then(|outputs| {
        let (started, score) = killed_first(|| match cgroup {
            None => spawn(),
            Some(cgroup) => cgroup.inside(&held, spawn),
        });
        Ok((started?, outputs, score))
    });
    if started.is_err() {
        let _stays = atomic::remove(&spec.stdout);
    }
    let (child, outputs, score) = started?;
    let places = guard::places(spec, slot);
    let guard = Guard::new(spec.caps.clone(), places, outputs, held, score);
    Ok((Pid::from_raw(child.id() as i32), guard))
}

/// A thread restricts itself and starts the agent, which inherits that. The keeper stays as it is.
fn spawn_held(command: &mut Command, sandbox: Option<&Sandbox>, caps: &Caps) -> io::Result<Child> {
    let confined = || {
        // Both as far as they can be had: more than a user may not have, less is no fault of the agent.
        let _as_it_is = rustix::process::nice(i32::from(caps.nice));
        if let Some(millis) = caps.cpu {
            keep_to_cores(millis);
        }
        let confine = || match sandbox {
            None => Ok(()),
            Some(sandbox) => sandbox::enforce(sandbox)
                .map_err(|e| io::Error::new(e.kind(), format!("cannot apply its sandbox: {e}"))),
        };
        if planted("confined-too-late") {
            let child = process::spawn(command)?;
            confine()?;
            return Ok(child);
        }
        confine()?;
        process::spawn(command)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, confined)?;
        let died = |_| io::Error::other("the thread that confines it died");
        thread.join().map_err(died)?
    })
}

/// Where the kernel must end something, agents go before keepers and harnesses: what is started has this
/// from its first instruction. Raised, it can be lowered again to what it was.
/// Returns what tools of it are given, later.
fn killed_first<T>(start: impl FnOnce() -> T) -> (T, i32) {
    let own = atomic::read_kernel_text(OOM).ok();
    let own: Option<i32> = own.and_then(|text| text.trim().parse().ok());
    let set = |score: i32| process::tell_kernel(OOM, &score.to_string());
    let raised = !planted("agents-not-first")
        && own.is_some_and(|own| set((own + OOM_RAISE).min(1_000)).is_ok());
    let started = start();
    if let Some(own) = own.filter(|_| raised) {
        let _stays = set(own);
    }
    let of_tools = own.unwrap_or_default() + 2 * OOM_RAISE;
    (started, of_tools.min(1_000))
}

/// Without a cgroup that shares out the processor: as many cores, others for each start. What it starts
/// counts them, too, and starts no more than they can do.
fn keep_to_cores(millis: u64) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Ok(all) = sched_getaffinity(None) else {
        return;
    };
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&n| all.is_set(n)).collect();
    let wanted = usize::try_from(millis.div_ceil(1_000)).unwrap_or(usize::MAX);
    if wanted >= cores.len() {
        return;
    }
    let first = std::process::id() as usize;
    let mut some = CpuSet::new();
    for n in 0..wanted.max(1) {
        some.set(cores[(first + n) % cores.len()]);
    }
    let _all = sched_setaffinity(None, &some);
}

#[expect(clippy::disallowed_methods, reason = "the keeper starts the agent")]
fn command(spec: &Spec) -> io::Result<Command> {
    let (program, args) = spec.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(args).current_dir(&spec.cwd).process_group(0);
    if spec.sandbox.is_some() {
        command.env_clear();
    }
    for (name, value) in &spec.env {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // Some programs trust PWD instead of their actual directory.
    command.env(PWD, &spec.cwd).env_remove(OLDPWD);
    Ok(command)
}
