//! The harness's side of a keeper: starts one, or attaches to one that survived its harness.

use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::wire::{self, Reply, Request};
use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, SlotId};
use crate::lease;
use crate::limits::KEEPER_ANSWER;
use crate::process;
use crate::service;
use crate::tokens::Token;
use crate::waker::poll_timeout;

/// A connection to the slot's keeper.
pub struct Keeper {
    stream: UnixStream,
    /// Set if it is a child of this process, which must then reap it.
    pid: Option<Pid>,
    dir: PathBuf,
}

/// A keeper that has nothing to do ends in milliseconds.
const DISMISSAL: Duration = Duration::from_secs(3);

const NOT_STARTED: &str = "cannot start the keeper";

/// The running program itself, even if an upgrade replaced its file. Through an open file, as under
/// callgrind `/proc/self/exe` would be callgrind.
pub(crate) fn program() -> io::Result<String> {
    static OPEN: OnceLock<File> = OnceLock::new();
    let file = match OPEN.get() {
        Some(file) => file,
        None => {
            let file = atomic::open_to_look(Path::new("/proc/self/exe"))?;
            OPEN.get_or_init(|| file)
        }
    };
    Ok(wire::path_through(file))
}

/// Whether the slot has a living keeper, according to its lock.
pub fn is_alive(root: &Root, slot: SlotId) -> bool {
    lease::is_locked(&root.agent(slot).join("keeper.lock"))
}

impl Keeper {
    /// Starts a keeper, which outlives this process while its agent runs.
    pub(crate) fn start(root: &Root, slot: SlotId) -> Result<Keeper> {
        let dir = root.agent(slot);
        let (ours, theirs) = UnixStream::pair().or_fail(NOT_STARTED, &dir)?;
        let mut keeper = Keeper {
            stream: ours,
            pid: None,
            dir,
        };
        keeper.execute(theirs)?;
        match keeper.first_reply() {
            Ok(Some(Reply::Idle)) => Ok(keeper),
            other => {
                // It got no request yet, so it runs nothing.
                keeper.kill_and_reap();
                other?;
                Err(Error::temporary(NOT_STARTED, "it ended at once")
                    .at_path(&keeper.dir.join("keeper.log"))
                    .hint("that file says why"))
            }
        }
    }

    /// Only the keeper keeps `theirs` open, so that the socket closes when the keeper ends.
    #[expect(clippy::disallowed_methods, reason = "the keeper is our own binary")]
    fn execute(&mut self, theirs: UnixStream) -> Result<()> {
        // A log that cannot be opened must not stop the item.
        let log = atomic::open_append(&self.dir.join("keeper.log"));
        let mut command = Command::new(program().or_fail(NOT_STARTED, &self.dir)?);
        // What it starts has its environment.
        service::hide(&mut command);
        let child = command
            .arg0("harness")
            .arg("keeper")
            .arg(&self.dir)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(log.map_or_else(|_| Stdio::null(), Stdio::from))
            .spawn()
            .or_fail(NOT_STARTED, &self.dir)?;
        self.pid = Some(Pid::from_raw(child.id() as i32));
        Ok(())
    }

    /// Connects to the slot's surviving keeper and receives its state. `None`: there is none.
    pub(crate) fn attach(root: &Root, slot: SlotId) -> Result<Option<(Keeper, Reply)>> {
        let dir = root.agent(slot);
        let end = clock::instant() + KEEPER_ANSWER;
        while is_alive(root, slot) {
            let handle = atomic::open_dir(&dir).or_fail("cannot open", &dir)?;
            // Refused: it is ending, or not yet listening. The lock decides.
            if let Ok(stream) = UnixStream::connect(wire::socket_path(&handle)) {
                let mut keeper = Keeper {
                    stream,
                    pid: None,
                    dir: dir.clone(),
                };
                if let Ok(Some(reply)) = keeper.first_reply() {
                    return Ok(Some((keeper, reply)));
                }
            }
            if clock::instant() >= end {
                return Err(
                    Error::temporary("cannot reach the keeper", "it does not answer")
                        .at_path(&dir.join("keeper.sock"))
                        .hint("if it hangs, kill the `harness keeper` process of this slot"),
                );
            }
            process::pause(Duration::from_millis(2));
        }
        Ok(None)
    }

    fn first_reply(&mut self) -> Result<Option<Reply>> {
        self.set_timeout(Some(KEEPER_ANSWER))?;
        let reply = self.receive()?;
        self.set_timeout(None)?;
        Ok(reply)
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        let set = self.stream.set_read_timeout(timeout);
        set.or_fail("cannot set up the socket", &self.dir)
    }

    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        self.send_with(request, &[])
    }

    /// The keeper holds these tokens, too, until what it starts has ended.
    pub(crate) fn send_with(&mut self, request: &Request, tokens: &[Token]) -> Result<()> {
        let held: Vec<_> = tokens.iter().flat_map(Token::fds).collect();
        wire::send_with(&self.stream, request.frame(), &held)
            .or_fail("cannot talk to the keeper", &self.dir)
    }

    /// The next message; `None`: the keeper is dead. Blocks until one arrives.
    pub(crate) fn receive(&mut self) -> Result<Option<Reply>> {
        let body = wire::receive(&mut self.stream).or_fail("cannot hear the keeper", &self.dir)?;
        Ok(body.and_then(|b| Reply::parse(&b)))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether this process started it.
    pub(crate) fn is_ours(&self) -> bool {
        self.pid.is_some()
    }

    /// Lets an idle keeper end, and reaps it. One that cannot write how its agent ended (a full disk)
    /// stays until it can, and is not waited for.
    pub(crate) fn dismiss(mut self) {
        let _closed = self.stream.shutdown(Shutdown::Both);
        if self.ends_within(DISMISSAL) {
            self.wait_for_end();
        }
    }

    fn ends_within(&self, time: Duration) -> bool {
        use rustix::process::{PidfdFlags, pidfd_open};
        let pid = self.pid.map_or(0, Pid::as_raw);
        let pid = rustix::process::Pid::from_raw(pid);
        let Some(held) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return true;
        };
        let end = clock::instant() + time;
        loop {
            let left = end.saturating_duration_since(clock::instant());
            let mut fds = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, poll_timeout(left)) {
                Ok(ended) if ended > 0 || left.is_zero() => return ended > 0,
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }

    /// Ends and reaps a keeper that is dead or does not communicate. `process::end_tree` ends its
    /// processes.
    pub(crate) fn kill_and_reap(&mut self) {
        let _closed = self.stream.shutdown(Shutdown::Both);
        if let Some(pid) = self.pid {
            process::signal_each(&[pid], Signal::SIGKILL);
        }
        self.wait_for_end();
    }

    /// Reaps our keeper once it has ended.
    fn wait_for_end(&mut self) {
        if let Some(pid) = self.pid.take() {
            while waitpid(pid, None) == Err(Errno::EINTR) {}
        }
    }
}
