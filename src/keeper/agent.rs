//! The agent process of a keeper: its start, its age, the end of its process tree, and its exit
//! record. Does not know the harness.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::ExitRecord;
use super::wire::Spec;
use crate::atomic::{self, OwnDir};
use crate::clock;
use crate::config::Network;
use crate::limits::STRAY_GRACE;
use crate::mutant::planted;
use crate::ports::Ports;
use crate::process;
use crate::process::cgroup::Cgroup;
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
        pid: Pid,
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
            sweep: None,
            doubted: None,
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

    /// Ends what the agent process left behind: SIGTERM once, then SIGKILL in rounds until nothing
    /// is left. Returns when to call again; `None`: given up.
    pub(super) fn sweep_on(&mut self, cgroup: Option<&Cgroup>) -> Option<Duration> {
        let now = clock::instant();
        let children = process::children();
        let stop = self.stop;
        let sweep = self.sweep.get_or_insert_with(|| {
            process::signal_each(&children, Signal::SIGTERM);
            let kill_from = now + STRAY_GRACE;
            Sweep {
                strays: children.len() as u32,
                kill_from: stop.map_or(kill_from, |s| s.min(kill_from)),
                pause: Duration::from_millis(2),
            }
        });
        let left = sweep.kill_from.saturating_duration_since(now);
        if !left.is_zero() {
            return Some(left);
        }
        if now > sweep.kill_from + GIVE_UP {
            return None;
        }
        if cgroup.is_none_or(|c| c.kill_others().is_err()) {
            process::signal_each(&children, Signal::SIGKILL);
        }
        // Children of killed processes become ours a moment later: the next round finds them.
        sweep.pause = (sweep.pause * 2).min(Duration::from_millis(200));
        Some(sweep.pause)
    }

    pub(super) fn exit_record(&self, strays_left: u32) -> Vec<u8> {
        let (exit_status, signal) = match self.main {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
            _ => (None, None),
        };
        let record = ExitRecord {
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
        };
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

const PWD: &str = "PWD";
const OLDPWD: &str = "OLDPWD";

/// Starts the agent in its own process group. Its standard output carries a lock that lasts until
/// the last process that inherited it ends; the file's existence records that a start was tried.
pub(super) fn start(spec: &Spec, ports: Option<&Ports>) -> io::Result<Pid> {
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
    let started = match &sandbox {
        None => process::spawn(&mut command),
        Some(sandbox) => spawn_confined(&mut command, sandbox),
    };
    if started.is_err() {
        let _stays = atomic::remove(&spec.stdout);
    }
    Ok(Pid::from_raw(started?.id() as i32))
}

/// A thread restricts itself and starts the agent, which inherits that. The keeper stays as it is.
fn spawn_confined(command: &mut Command, sandbox: &Sandbox) -> io::Result<Child> {
    let confined = || {
        if planted("confined-too-late") {
            let child = process::spawn(command)?;
            sandbox::enforce(sandbox)?;
            return Ok(child);
        }
        sandbox::enforce(sandbox)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot apply its sandbox: {e}")))?;
        process::spawn(command)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, confined)?;
        let died = |_| io::Error::other("the thread that confines it died");
        thread.join().map_err(died)?
    })
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
