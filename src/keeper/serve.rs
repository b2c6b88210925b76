//! The keeper's side: one thread and one loop over four descriptors (harness, listener, signals, the
//! agent's inbox).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::agent::{Agent, cpu_of_children, start};
use super::inbox::Inbox;
use super::peer;
use super::place::{self, Place};
use super::wire::{self, Reply, Request, Spec, Then};
use crate::atomic::{self, OwnDir};
use crate::clock;
use crate::error::{Context, Error, Kind, Result, tell};
use crate::lease;
use crate::mutant::planted;
use crate::outcome::Stop;
use crate::ports::Ports;
use crate::process;
use crate::process::cgroup::{self, Cgroup};
use crate::waker::poll_timeout;

/// How long a new keeper waits for the lock of an earlier one that is ending.
const PREDECESSOR: Duration = Duration::from_secs(10);

/// Runs the keeper of the slot with this directory, in its own executed process. Standard input is
/// the socket to the harness that started it.
pub(crate) fn serve(dir: &Path) -> Result<()> {
    close_inherited();
    // For `ps`: it was executed through a descriptor and would have no useful name.
    let slot = dir.file_name().unwrap_or_default().to_string_lossy();
    let name = CString::new(format!("keeper {slot}")).unwrap_or_default();
    let _unnamed = nix::sys::prctl::set_name(&name);
    // Leaves the harness's session: a terminal's Ctrl-C and hang-up must not reach agents.
    let _leader = nix::unistd::setsid();
    nix::sys::prctl::set_child_subreaper(true).or_fail("cannot become a subreaper", dir)?;
    let _lock = take_lock(dir)?;
    // Only with the lock held, as this kills what a dead keeper left in that cgroup. Works without
    // a cgroup, too; `doctor` warns.
    let cgroup = cgroup::name_of(dir).and_then(|name| Cgroup::enter(&name));
    let harness = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
        .or_fail("cannot use the socket on standard input", dir)?;
    let listener = listen(dir)?;
    let signals = Signals::catch().or_fail("cannot set up signals", dir)?;
    let mut keeper = Serving {
        harness: Some(harness),
        agent: None,
        unwritten: None,
        tainted: false,
        gives_up_at: None,
        cgroup: cgroup.ok(),
        slot: dir.to_owned(),
        ports: None,
        inbox: Inbox::new(dir),
    };
    keeper.introduce();
    while !keeper.is_over() {
        let wait = keeper.turn();
        if keeper.is_over() {
            break;
        }
        let woken = wait_for(&keeper, &listener, &signals, wait);
        if woken.signal && signals.read_term() {
            keeper.stop(None, Stop::Shutdown.as_str());
            keeper.tainted = true;
            let at = clock::instant() + UNWRITTEN;
            keeper.gives_up_at.get_or_insert(at);
        }
        if woken.inbox || keeper.inbox.wait().is_some() {
            keeper.inbox.look(keeper.is_frozen());
        }
        if woken.harness {
            keeper.hear();
        }
        if woken.listener
            && keeper.harness.is_none()
            && let Ok((stream, _)) = listener.accept()
            && peer::is_harness(&stream, dir)
        {
            keeper.harness = Some(stream);
            keeper.introduce();
        }
    }
    atomic::remove(&dir.join("keeper.sock")).map(drop)
}

/// Closes descriptors that the harness inherited from its parent (a shell's lock, a pipe that
/// somebody reads to its end). Keepers outlive the harness and must not hold them.
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
        // The descriptor of the listing itself is already closed.
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

/// Binds the slot's socket through a descriptor of its directory: a socket's path is limited to 107
/// bytes, and ROOT's may be longer.
fn listen(dir: &Path) -> Result<UnixListener> {
    let path = dir.join("keeper.sock");
    atomic::remove(&path)?;
    let handle = atomic::open_dir(dir).or_fail("cannot open", dir)?;
    UnixListener::bind(wire::socket_path(&handle)).or_fail("cannot listen at", &path)
}

/// Turns SIGCHLD and SIGTERM into events of a descriptor. Uses handlers, which exec resets; a
/// blocked signal would stay blocked in every agent.
struct Signals {
    /// Readable after a signal.
    wake: UnixStream,
    term: Arc<AtomicBool>,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        use signal_hook::consts::{SIGCHLD, SIGTERM};
        use signal_hook::{flag, low_level::pipe};
        // The parent of the harness may have blocked some.
        SigSet::empty().thread_set_mask()?;
        let (wake, handlers_end) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let term = Arc::new(AtomicBool::new(false));
        // Handlers run in this order, so the flag is set before the descriptor is readable.
        flag::register(SIGTERM, term.clone())?;
        pipe::register(SIGTERM, handlers_end.try_clone()?)?;
        pipe::register(SIGCHLD, handlers_end)?;
        Ok(Signals { wake, term })
    }

    /// Whether SIGTERM came since the last call.
    fn read_term(&self) -> bool {
        let mut bytes = [0; 64];
        while (&self.wake)
            .read(&mut bytes)
            .is_ok_and(|n| n == bytes.len())
        {}
        self.term.swap(false, Ordering::SeqCst)
    }
}

/// How long after SIGTERM an exit record is still tried to be written.
const UNWRITTEN: Duration = Duration::from_secs(5);

const EXIT: &str = "exit.json";

struct Woken {
    inbox: bool,
    harness: bool,
    listener: bool,
    signal: bool,
}

fn wait_for(
    keeper: &Serving,
    listener: &UnixListener,
    signals: &Signals,
    wait: Option<Duration>,
) -> Woken {
    fn read(fd: BorrowedFd<'_>) -> PollFd<'_> {
        PollFd::new(fd, PollFlags::POLLIN)
    }
    let harness = keeper.harness.as_ref();
    // While a harness is connected, another one waits in the listener's queue.
    let other = harness.map_or(listener.as_fd(), |h| h.as_fd());
    let wait = [wait, keeper.inbox.wait()].into_iter().flatten().min();
    let mut fds = vec![read(signals.wake.as_fd()), read(other)];
    fds.extend(keeper.inbox.fd().map(read));
    let timeout = wait.map_or(nix::poll::PollTimeout::NONE, poll_timeout);
    let interrupted = poll(&mut fds, timeout) == Err(Errno::EINTR);
    let mut woken = fds.iter().map(|fd| fd.any().unwrap_or(false));
    let (signal, other) = (woken.next() == Some(true), woken.next() == Some(true));
    Woken {
        inbox: woken.next().unwrap_or(false),
        harness: other && harness.is_some(),
        listener: other && harness.is_none(),
        signal: signal || interrupted,
    }
}

struct Serving {
    harness: Option<UnixStream>,
    agent: Option<Agent>,
    /// An ended agent whose exit record could not be written yet (a full disk); tried again.
    unwritten: Option<(Agent, Vec<u8>)>,
    /// End after this agent: SIGTERM was received, or unkillable processes are left.
    tainted: bool,
    /// After SIGTERM: when it ends without a harness though an exit record is unwritten. A disk that
    /// is read-only for good can be unmounted only when nobody uses it.
    gives_up_at: Option<Instant>,
    /// The cgroup of the keeper and its agent. Left and removed when the keeper ends.
    cgroup: Option<Cgroup>,
    /// The slot's directory.
    slot: PathBuf,
    /// Held as long as this keeper lives.
    ports: Option<Ports>,
    inbox: Inbox,
}

impl Serving {
    fn is_over(&self) -> bool {
        let is_late = self.gives_up_at.is_some_and(|at| clock::instant() >= at);
        let gives_up = is_late && self.harness.is_none();
        let nothing_to_do = self.agent.is_none() && (self.unwritten.is_none() || gives_up);
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
        if let Some((agent, text)) = self.unwritten.take() {
            self.say_end(&agent, &text);
            self.unwritten = Some((agent, text));
        }
    }

    fn say_end(&mut self, agent: &Agent, text: &[u8]) {
        self.say(&Reply::Exited {
            session: agent.spec.session.clone(),
            exit: text.to_vec(),
        });
    }

    fn hear(&mut self) {
        let Some(stream) = &self.harness else {
            return;
        };
        match wire::receive_with(stream).ok().flatten() {
            // The harness is gone: the agent continues.
            None => self.harness = None,
            Some((body, tokens)) => match Request::parse(&body) {
                Some(Request::Stop { grace, why }) => self.stop(Some(grace), &why),
                Some(Request::Freeze) => self.freeze(),
                Some(Request::Thaw) => self.thaw(),
                Some(Request::Vitals) if self.agent.is_some() => {
                    let cpu = process::tree::cpu() + cpu_of_children();
                    self.say(&Reply::Vitals { cpu });
                }
                Some(Request::Vitals) => {}
                Some(Request::Spawn(spec)) => self.spawn(spec, tokens),
                None => {}
            },
        }
    }

    /// `tokens`: it inherits them, and they are held until its tree has ended.
    fn spawn(&mut self, spec: Box<Spec>, tokens: Vec<OwnedFd>) {
        let session = spec.session.clone();
        if let Some((agent, text)) = self.unwritten.take() {
            self.record(agent, text, true);
        }
        let cpu_before = cpu_of_children();
        let folder = spec.exit.parent().map(OwnDir::open);
        let folder = folder.and_then(Result::ok);
        let of = spec.caps.agents;
        let place = of.and_then(Place::take);
        let started = match (&self.agent, &self.unwritten) {
            (None, None) if of.is_some() && place.is_none() => {
                Err((place::none_left(of.unwrap_or(0)), Then::Later))
            }
            (None, None) => {
                self.ports = Ports::of(&self.slot, self.ports.take());
                if let Some(dir) = spec.exit.parent() {
                    self.inbox.open(dir);
                }
                let started = start(&spec, &self.slot, self.ports.as_ref(), self.cgroup.as_mut());
                started.map_err(|e| (e.to_string(), then(&e)))
            }
            (None, Some(_)) => Err((
                "how the last one ended cannot be written yet".into(),
                Then::Again,
            )),
            (Some(_), _) => Err(("an agent of this slot is still running".into(), Then::Again)),
        };
        match started {
            Ok(pid) => {
                let mut agent = Agent::new(spec, folder, pid, cpu_before, tokens);
                agent.place = place.filter(|_| !planted("place-not-kept"));
                self.agent = Some(agent);
                self.inbox.look(false);
                self.introduce();
            }
            Err((why, then)) => {
                if self.agent.is_none() {
                    self.inbox.close();
                }
                self.say(&Reply::SpawnFailed { session, why, then });
            }
        }
    }

    /// Does nothing once the agent has ended or is being stopped: its tree must end.
    fn freeze(&mut self) {
        if let Some(agent) = &mut self.agent
            && agent.main.is_none()
            && agent.stop.is_none()
        {
            agent.frozen_since.get_or_insert_with(clock::instant);
            process::tree::freeze();
        }
    }

    fn is_frozen(&self) -> bool {
        let agent = self.agent.as_ref();
        agent.is_some_and(|agent| agent.frozen_since.is_some())
    }

    fn thaw(&mut self) {
        self.inbox.over();
        if let Some(agent) = &mut self.agent
            && let Some(since) = agent.frozen_since.take()
        {
            agent.frozen += since.elapsed();
            process::tree::thaw();
        }
    }

    fn stop(&mut self, grace: Option<Duration>, why: &str) {
        // A frozen process does not react to SIGTERM.
        self.thaw();
        if let Some(agent) = &mut self.agent
            && agent.stop.is_none()
        {
            let grace = grace.unwrap_or(agent.spec.grace);
            let shuts_down = why == Stop::Shutdown.as_str();
            let by_that = shuts_down && agent.doubt().is_some();
            agent.stop = Some(clock::instant() + grace);
            if agent.main.is_none() || by_that {
                agent.stopped_first = true;
                agent.stopped_for = why.to_owned();
            }
            if agent.main.is_none() {
                agent.ask_to_end();
            }
        }
    }

    /// Reaps children, escalates from SIGTERM to SIGKILL, and finishes an agent whose tree is gone.
    /// Returns when it must be called again, even without an event.
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
            let Some(kill_from) = agent.stop else {
                return match agent.look_at_limits() {
                    Ok(wait) => wait,
                    Err((stop, grace)) => {
                        self.stop(Some(grace), stop.as_str());
                        Some(Duration::ZERO)
                    }
                };
            };
            let left = agent.time_to_end(kill_from);
            if left.is_zero() {
                let _gone = killpg(agent.pid, Signal::SIGKILL);
                process::signal_each(&process::children(), Signal::SIGKILL);
                return Some(Duration::from_millis(20));
            }
            return Some(left);
        }
        let none_left = none_left || planted("echild-not-waited-for");
        if !none_left && let Some(wait) = agent.sweep_on(self.cgroup.as_ref()) {
            return Some(wait);
        }
        if let Some(wait) = agent.doubt() {
            return Some(wait);
        }
        let mut agent = self.agent.take()?;
        agent.tokens.clear();
        agent.place = None;
        let left = if none_left {
            0
        } else {
            // Children exist, even if /proc shows none.
            process::children().len().max(1) as u32
        };
        self.tainted |= left > 0;
        let text = agent.exit_record(left);
        self.record(agent, text, false)
    }

    /// Writes the exit record and tells the harness. If the folder was removed or locked, a retry
    /// does not help: then only the harness is told. On a full disk it is told at once, so that it
    /// can say what is wrong, and a stop does not wait; the record is tried again and again. `said`:
    /// it has been told.
    fn record(&mut self, agent: Agent, text: Vec<u8>, said: bool) -> Option<Duration> {
        if !said {
            self.inbox.close();
        }
        // Readers ignore the file while this keeper lives, and if it is half-written.
        let written = |folder: &OwnDir| match folder.create(EXIT, &text) {
            Err(e) if e.errno() == Some(Errno::EEXIST as i32) => folder.replace(EXIT, &text, false),
            created => created.map(drop),
        };
        if let Some(Err(e)) = agent.folder.as_ref().map(written) {
            if !said {
                tell(&e.to_string());
            }
            if e.kind() == Kind::Temporary {
                if !said {
                    // Its agent was still being stopped.
                    let at = clock::instant() + UNWRITTEN;
                    self.gives_up_at = self.gives_up_at.map(|_| at);
                    self.say_end(&agent, &text);
                }
                self.unwritten = Some((agent, text));
                return Some(Duration::from_millis(500));
            }
        }
        if !said {
            self.say_end(&agent, &text);
        }
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

/// Reaps every ended child. `true`: no child is left.
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
            // ECHILD: no descendant is left at any depth, as orphans become our children.
            Err(_) => return true,
        }
    }
}

/// Whether a later start may succeed. ETXTBSY: another process has the program open for writing.
fn then(e: &io::Error) -> Then {
    let busy = e.raw_os_error() == Some(Errno::ETXTBSY as i32);
    match busy || Error::io("", Path::new(""), e).kind() == Kind::Temporary {
        true => Then::Again,
        false => Then::Mended,
    }
}
