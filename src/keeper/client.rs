//! The harness's side of a keeper: start one, or attach to one that survived its harness.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::fork::Forks;
use super::wire::{self, Reply, Request};
use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, SlotId};
use crate::limits::KEEPER_ANSWER;
use crate::process::{self, cgroup};

/// A connection to the slot's keeper.
pub struct Keeper {
    stream: UnixStream,
    /// Set where it is a child of this process: then it must be waited for.
    pid: Option<Pid>,
    /// Its cgroup, of a child that has one: that is removed when it has ended.
    cgroup: Option<PathBuf>,
    dir: PathBuf,
}

const NOT_STARTED: &str = "cannot start the keeper";

/// The running program itself, even where its file was replaced by an upgrade. Through an open file,
/// as `/proc/self/exe` of a program that callgrind watches is callgrind.
pub(super) fn program() -> io::Result<String> {
    static OPEN: OnceLock<File> = OnceLock::new();
    let file = match OPEN.get() {
        Some(file) => file,
        None => {
            let file = atomic::open_to_look(Path::new("/proc/self/exe"))?;
            OPEN.get_or_init(|| file)
        }
    };
    Ok(format!("/proc/self/fd/{}", super::serve::fd_number(file)))
}

/// Whether the slot has a living keeper, by its lock.
pub fn is_alive(root: &Root, slot: SlotId) -> bool {
    let path = root.agent(slot).join("keeper.lock");
    match atomic::open_to_look(&path) {
        Ok(f) => f.try_lock_shared().is_err(),
        // What cannot be told counts as alive: its agent must not be started twice.
        Err(_) => !atomic::is_gone(&path),
    }
}

/// The socket's path through a descriptor of its directory: short, whatever ROOT's length.
pub(super) fn socket_path(dir: &File) -> String {
    format!("/proc/self/fd/{}/keeper.sock", super::serve::fd_number(dir))
}

impl Keeper {
    /// Starts a keeper, which outlives this process while its agent runs: has one forked, or, where
    /// there comes none of it, executes one.
    pub fn start(forks: &Forks, slot: SlotId) -> Result<Keeper> {
        let dir = forks.root.agent(slot);
        // What stands in the log's place stops no item.
        let log = atomic::open_append(&dir.join("keeper.log"));
        let log = log.or_else(|_| {
            let nothing = Path::new("/dev/null");
            #[expect(clippy::disallowed_methods, reason = "a device of the kernel's")]
            let nothing = File::options().write(true).open(nothing);
            nothing.or_fail(NOT_STARTED, &dir)
        })?;
        let (mut keeper, theirs) = Keeper::unborn(&dir)?;
        let asked = forks.ask(slot, [theirs.as_fd(), log.as_fd()]);
        // Its end is open in that process alone, so that it closes with it.
        drop(theirs);
        if asked.is_ok() {
            let word = keeper.first_word();
            if keeper.pid.is_some() || matches!(word, Ok(Some(_))) {
                return keeper.begun(word);
            }
            if word.is_err() {
                // It hears nobody: somebody has stopped it.
                forks.end();
            }
        }
        // One that comes late after all finds nobody, and ends.
        drop(keeper);
        let (mut keeper, theirs) = Keeper::unborn(&dir)?;
        keeper.execute(theirs, log)?;
        let word = keeper.first_word();
        keeper.begun(word)
    }

    /// Its end of the connection, and the one of a keeper that is to be started.
    fn unborn(dir: &Path) -> Result<(Keeper, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().or_fail(NOT_STARTED, dir)?;
        let keeper = Keeper {
            stream: ours,
            pid: None,
            cgroup: None,
            dir: dir.to_owned(),
        };
        Ok((keeper, theirs))
    }

    #[expect(clippy::disallowed_methods, reason = "the keeper is our own binary")]
    fn execute(&mut self, theirs: UnixStream, log: File) -> Result<()> {
        let child = Command::new(program().or_fail(NOT_STARTED, &self.dir)?)
            .arg0("harness")
            .arg("keeper")
            .arg(&self.dir)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .or_fail(NOT_STARTED, &self.dir)?;
        self.pid = Some(Pid::from_raw(child.id() as i32));
        Ok(())
    }

    fn begun(mut self, word: Result<Option<Reply>>) -> Result<Keeper> {
        match word {
            Ok(Some(Reply::Idle { cgroup })) => {
                self.cgroup = cgroup;
                Ok(self)
            }
            other => {
                // It was told nothing yet, so it runs nothing.
                self.put_down();
                other?;
                Err(Error::temporary(NOT_STARTED, "it ended at once")
                    .at_path(&self.dir.join("keeper.log"))
                    .hint("that file says why"))
            }
        }
    }

    /// Connects to the slot's surviving keeper and hears what it does. `None`: there is none.
    pub fn attach(root: &Root, slot: SlotId) -> Result<Option<(Keeper, Reply)>> {
        let dir = root.agent(slot);
        let end = clock::instant() + KEEPER_ANSWER;
        while is_alive(root, slot) {
            let handle = atomic::open_dir(&dir).or_fail("cannot open", &dir)?;
            // Refused: it is about to end, or not yet listening. The lock will tell.
            if let Ok(stream) = UnixStream::connect(socket_path(&handle)) {
                let mut keeper = Keeper {
                    stream,
                    pid: None,
                    cgroup: None,
                    dir: dir.clone(),
                };
                if let Ok(Some(word)) = keeper.first_word() {
                    return Ok(Some((keeper, word)));
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

    fn first_word(&mut self) -> Result<Option<Reply>> {
        let timeout = |d| self.stream.set_read_timeout(d);
        timeout(Some(KEEPER_ANSWER)).or_fail("cannot set up the socket", &self.dir)?;
        let mut word = self.receive()?;
        if let Some(Reply::Born { pid: pid @ 1.. }) = word {
            self.pid = Some(Pid::from_raw(pid));
            word = self.receive()?;
        }
        self.stream
            .set_read_timeout(None)
            .or_fail("cannot set up the socket", &self.dir)?;
        Ok(word)
    }

    pub fn send(&mut self, request: &Request) -> Result<()> {
        wire::send(&mut self.stream, request.frame())
            .or_fail("cannot talk to the keeper", &self.dir)
    }

    /// What it says next; `None`: it is dead. Blocks until a word is there.
    pub fn receive(&mut self) -> Result<Option<Reply>> {
        let body = wire::receive(&mut self.stream).or_fail("cannot hear the keeper", &self.dir)?;
        Ok(body.and_then(|b| Reply::parse(&b)))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Lets an idle keeper end, and waits for it.
    pub fn dismiss(mut self) {
        // Said only to a child, whose end we then hear of: it need not leave its cgroup, for which
        // it would wait for 13 ms.
        if self.pid.is_some() && self.cgroup.is_some() {
            let _dead = self.send(&Request::Dismiss);
        }
        let _closed = self.stream.shutdown(std::net::Shutdown::Both);
        self.wait_for_end();
        if let Some(cgroup) = &self.cgroup {
            cgroup::remove(cgroup);
        }
    }

    /// For one that is dead, or that cannot be talked to: it is dead then, and no zombie. What it
    /// ran is for `process::end_tree`.
    pub fn put_down(&mut self) {
        let _closed = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(pid) = self.pid {
            process::signal_each(&[pid], Signal::SIGKILL);
        }
        self.wait_for_end();
    }

    /// Reaps a keeper of ours that has ended or is about to.
    fn wait_for_end(&mut self) {
        if let Some(pid) = self.pid.take() {
            while waitpid(pid, None) == Err(Errno::EINTR) {}
        }
    }
}
