//! The keeper's side: one thread, one loop, three descriptors (harness, listener, signals).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::agent::{Agent, cpu_of_children, start};
use super::wire::{self, Reply, Request, Spec};
use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Kind, Result, tell};
use crate::lease;
use crate::outcome::Stop;
use crate::process;
use crate::process::cgroup::{self, Cgroup};
use crate::sys;
use crate::waker::poll_timeout;

/// How long a keeper waits for its predecessor, which has nothing left to do, to be gone.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// Runs the keeper of the slot with this directory, in a process that was executed for it. Standard
/// input is the socket to the harness that started it.
pub(crate) fn serve(dir: &Path) -> Result<()> {
    close_inherited();
    // For `ps`: it was executed through a descriptor.
    let slot = dir.file_name().unwrap_or_default().to_string_lossy();
    let name = CString::new(format!("keeper {slot}")).unwrap_or_default();
    let _unnamed = nix::sys::prctl::set_name(&name);
    // Out of the harness's session: a terminal's Ctrl-C and hang-up are not for agents.
    let _leader = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true).or_fail("cannot become a subreaper", dir)?;
    let _lock = take_lock(dir)?;
    // Only with the lock held, as it ends what a dead keeper left in that cgroup. Without a cgroup
    // (`doctor` says so) the other means must do.
    let cgroup = cgroup::name_of(dir).and_then(|name| Cgroup::enter(&name));
    let harness = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
        .or_fail("cannot use the socket on standard input", dir)?;
    let listener = listen(dir)?;
    let signals =
        sys::signals_as_file(&[Signal::SIGCHLD, Signal::SIGTERM]).or_fail("cannot set up", dir)?;
    let mut keeper = Serving {
        harness: Some(harness),
        agent: None,
        unwritten: None,
        tainted: false,
        cgroup: cgroup.ok(),
    };
    keeper.introduce();
    while !keeper.is_over() {
        let wait = keeper.turn();
        if keeper.is_over() {
            break;
        }
        let woken = wait_for(&keeper, &listener, &signals, wait);
        if woken.signal
            && let Ok(Some(signal)) = signals.read_signal()
            && signal.ssi_signo == Signal::SIGTERM as u32
        {
            keeper.stop(None, Stop::Shutdown.as_str());
            keeper.tainted = true;
        }
        if woken.harness {
            keeper.hear();
        }
        if woken.listener
            && keeper.harness.is_none()
            && let Ok((stream, _)) = listener.accept()
        {
            keeper.harness = Some(stream);
            keeper.introduce();
        }
    }
    atomic::remove(&dir.join("keeper.sock")).map(drop)
}

/// What the harness was started with beyond its three descriptors (a shell's lock, a pipe whose end
/// somebody waits for) is neither for a keeper, which may outlive it, nor for agents.
fn close_inherited() {
    let listed = std::fs::read_dir("/proc/self/fd");
    let fds: Vec<i32> = listed
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in fds {
        // The listing's own one is closed already.
        let _closed = nix::unistd::close(fd);
    }
}

fn take_lock(dir: &Path) -> Result<File> {
    let path = dir.join("keeper.lock");
    let end = clock::instant() + PREDECESSOR;
    loop {
        if let Some(lock) = lease::try_lock(&path)? {
            return Ok(lock);
        }
        if clock::instant() >= end {
            return Err(
                Error::temporary("cannot keep the slot", "another keeper does").at_path(&path),
            );
        }
        process::pause(Duration::from_millis(2));
    }
}

/// Binds the slot's socket through a descriptor of its directory, as a socket's path may be no
/// longer than 107 bytes and ROOT's may.
fn listen(dir: &Path) -> Result<UnixListener> {
    let path = dir.join("keeper.sock");
    atomic::remove(&path)?;
    let handle = atomic::open_dir(dir).or_fail("cannot open", dir)?;
    UnixListener::bind(wire::socket_path(&handle)).or_fail("cannot listen at", &path)
}

struct Woken {
    harness: bool,
    listener: bool,
    signal: bool,
}

fn wait_for(
    keeper: &Serving,
    listener: &UnixListener,
    signals: &SignalFd,
    wait: Option<Duration>,
) -> Woken {
    fn read(fd: BorrowedFd<'_>) -> PollFd<'_> {
        PollFd::new(fd, PollFlags::POLLIN)
    }
    let harness = keeper.harness.as_ref();
    // With a harness connected, another one waits in the listener's queue until that is gone.
    let other = harness.map_or(listener.as_fd(), |h| h.as_fd());
    let mut fds = [read(signals.as_fd()), read(other)];
    let timeout = wait.map_or(nix::poll::PollTimeout::NONE, poll_timeout);
    let _interrupted = poll(&mut fds, timeout);
    let [signal, other] = fds.map(|fd| fd.any().unwrap_or(false));
    Woken {
        harness: other && harness.is_some(),
        listener: other && harness.is_none(),
        signal,
    }
}

struct Serving {
    harness: Option<UnixStream>,
    agent: Option<Agent>,
    /// An agent that ended, whose exit record could not be written yet (a full disk): tried again.
    unwritten: Option<(Agent, Vec<u8>)>,
    /// To end after this agent: told to, or with foreign processes as children.
    tainted: bool,
    /// Where it lives with its agent. Left and removed when it ends.
    cgroup: Option<Cgroup>,
}

impl Serving {
    fn is_over(&self) -> bool {
        let nothing_to_do = self.agent.is_none() && self.unwritten.is_none();
        nothing_to_do && (self.harness.is_none() || self.tainted)
    }

    fn say(&mut self, reply: &Reply) {
        if let Some(stream) = &mut self.harness
            && wire::send(stream, reply.frame()).is_err()
        {
            self.harness = None;
        }
    }

    fn introduce(&mut self) {
        let unwritten = self.unwritten.as_ref().map(|(agent, _)| agent);
        let reply = match self.agent.as_ref().or(unwritten) {
            None => Reply::Idle,
            Some(agent) => running(agent),
        };
        self.say(&reply);
    }

    fn hear(&mut self) {
        let Some(stream) = &mut self.harness else {
            return;
        };
        match wire::receive(stream).ok().flatten() {
            // The harness is gone, however it went: the agent goes on.
            None => self.harness = None,
            Some(body) => match Request::parse(&body) {
                Some(Request::Stop { grace, why }) => self.stop(Some(grace), &why),
                Some(Request::Freeze) => self.freeze(),
                Some(Request::Thaw) => self.thaw(),
                Some(Request::Vitals) if self.agent.is_some() => {
                    let cpu = process::tree::cpu() + cpu_of_children();
                    self.say(&Reply::Vitals { cpu });
                }
                Some(Request::Vitals) => {}
                Some(Request::Spawn(spec)) => self.spawn(spec),
                None => {}
            },
        }
    }

    fn spawn(&mut self, spec: Box<Spec>) {
        let session = spec.session.clone();
        let cpu_before = cpu_of_children();
        let started = match (&self.agent, &self.unwritten) {
            (None, None) => start(&spec).map_err(|e| (e.to_string(), is_temporary(&e))),
            _ => Err(("an agent of this slot is still running".into(), true)),
        };
        match started {
            Ok(pid) => {
                self.agent = Some(Agent::new(spec, pid, cpu_before));
                self.introduce();
            }
            Err((why, temporary)) => self.say(&Reply::SpawnFailed {
                session,
                why,
                temporary,
            }),
        }
    }

    /// Between two looks of a harness at an interrupt. What has ended is not held up: its tree is
    /// being ended.
    fn freeze(&mut self) {
        if let Some(agent) = &mut self.agent
            && agent.main.is_none()
            && agent.stop.is_none()
        {
            agent.frozen_since.get_or_insert_with(clock::instant);
            process::tree::freeze();
        }
    }

    fn thaw(&mut self) {
        if let Some(agent) = &mut self.agent
            && let Some(since) = agent.frozen_since.take()
        {
            agent.frozen += since.elapsed();
            process::tree::thaw();
        }
    }

    fn stop(&mut self, grace: Option<Duration>, why: &str) {
        // What is frozen would not hear of it before SIGKILL.
        self.thaw();
        if let Some(agent) = &mut self.agent
            && agent.stop.is_none()
        {
            let grace = grace.unwrap_or(agent.spec.grace);
            agent.stop = Some(clock::instant() + grace);
            if agent.main.is_none() {
                agent.stopped_first = true;
                agent.stopped_for = why.to_owned();
                // The group is the agent's as long as we have not waited for the agent.
                let _gone = killpg(agent.pid, Signal::SIGTERM);
            }
            process::signal_each(&process::children(), Signal::SIGTERM);
        }
    }

    /// Reaps, escalates, finishes. Returns how long until it must look again by itself.
    fn turn(&mut self) -> Option<Duration> {
        if let Some((agent, text)) = self.unwritten.take() {
            return self.record(agent, text, true);
        }
        let Some(agent) = &mut self.agent else {
            reap(None);
            return None;
        };
        let none_left = reap(Some(agent));
        if agent.main.is_none() {
            let kill_from = agent.stop?;
            let left = kill_from.saturating_duration_since(clock::instant());
            if left.is_zero() {
                let _gone = killpg(agent.pid, Signal::SIGKILL);
                process::signal_each(&process::children(), Signal::SIGKILL);
                return Some(Duration::from_millis(20));
            }
            return Some(left);
        }
        let none_left = none_left || crate::mutant::planted("echild-not-waited-for");
        if !none_left && let Some(wait) = agent.sweep_on(self.cgroup.as_ref()) {
            return Some(wait);
        }
        let agent = self.agent.take()?;
        let left = if none_left {
            0
        } else {
            // At least one: it may be that /proc tells of none.
            process::children().len().max(1) as u32
        };
        self.tainted |= left > 0;
        let text = agent.exit_record(left);
        self.record(agent, text, false)
    }

    /// Writes the exit record and tells the harness. A folder that was removed or locked (by a
    /// person, or by the agent) does not mend itself: then only the harness is told.
    fn record(&mut self, agent: Agent, text: Vec<u8>, said: bool) -> Option<Duration> {
        // The agent may have put a symlink in its folder's place, which leads out of ROOT.
        let ours = agent.spec.exit.parent().is_none_or(|d| !d.is_symlink());
        // Nobody takes it for an end while this keeper lives, nor for one if it is half-written.
        let written = || match atomic::create(&agent.spec.exit, &text, 0o600) {
            Err(e) if e.errno() == Some(Errno::EEXIST as i32) => {
                atomic::replace(&agent.spec.exit, &text, false)
            }
            created => created.map(drop),
        };
        if ours && let Err(e) = written() {
            if !said {
                tell(&e.to_string());
            }
            if e.kind() == Kind::Temporary {
                self.unwritten = Some((agent, text));
                return Some(Duration::from_millis(500));
            }
        }
        self.say(&Reply::Exited {
            session: agent.spec.session,
            exit: text,
        });
        None
    }
}

fn running(agent: &Agent) -> Reply {
    Reply::Running {
        session: agent.spec.session.clone(),
        pid: agent.pid.as_raw(),
        age: agent.age(),
    }
}

/// Waits for whatever child has ended. `true`: there is no child left at all.
fn reap(mut agent: Option<&mut Agent>) -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return false,
            Ok(status) => {
                if let Some(agent) = &mut agent
                    && status.pid() == Some(agent.pid)
                    && agent.main.is_none()
                {
                    agent.main = Some(status);
                }
            }
            Err(Errno::EINTR) => {}
            // The kernel's word: no child is left, however deep in the tree it began.
            Err(_) => return true,
        }
    }
}

/// Whether a start that failed may work later. A file that is executed while it is open for
/// writing is one that a sibling's half-started process still holds.
fn is_temporary(e: &io::Error) -> bool {
    let busy = e.raw_os_error() == Some(libc::ETXTBSY);
    busy || Error::io("", Path::new(""), e).kind() == Kind::Temporary
}
