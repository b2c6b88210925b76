//! The harness's side of a keeper: start one, or attach to one that survived its harness.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::wire::{self, Reply, Request};
use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, SlotId};
use crate::limits::KEEPER_ANSWER;
use crate::process;

/// A connection to the slot's keeper.
pub struct Keeper {
    stream: UnixStream,
    /// Set where this process started it: then it must be waited for.
    child: Option<Child>,
    dir: PathBuf,
}

/// The running program itself, even where its file was replaced by an upgrade. Through an open file,
/// as `/proc/self/exe` of a program that callgrind watches is callgrind.
fn program() -> Result<String> {
    static OPEN: OnceLock<File> = OnceLock::new();
    let path = Path::new("/proc/self/exe");
    let file = match OPEN.get() {
        Some(file) => file,
        None => {
            let file = File::open(path).or_fail("cannot find the running program", path)?;
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
    /// Starts a keeper, which outlives this process while its agent runs.
    #[expect(clippy::disallowed_methods, reason = "the keeper is our own binary")]
    pub fn start(root: &Root, slot: SlotId) -> Result<Keeper> {
        let dir = root.agent(slot);
        let what = "cannot start the keeper";
        let (ours, theirs) = UnixStream::pair().or_fail(what, &dir)?;
        // What stands in the log's place stops no item.
        let log = atomic::open_append(&dir.join("keeper.log"));
        let child = Command::new(program()?)
            .arg0("harness")
            .arg("keeper")
            .arg(&dir)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(log.map_or_else(|_| Stdio::null(), Stdio::from))
            .spawn()
            .or_fail(what, &dir)?;
        let mut keeper = Keeper {
            stream: ours,
            child: Some(child),
            dir,
        };
        match keeper.first_word() {
            Ok(Some(Reply::Idle)) => Ok(keeper),
            other => {
                // It was told nothing yet, so it runs nothing.
                keeper.put_down();
                other?;
                Err(Error::temporary(what, "it ended at once")
                    .at_path(&keeper.dir.join("keeper.log"))
                    .hint("that file says why"))
            }
        }
    }

    /// Connects to the slot's surviving keeper and hears what it does. `None`: there is none.
    pub fn attach(root: &Root, slot: SlotId) -> Result<Option<(Keeper, Reply)>> {
        let dir = root.agent(slot);
        let end = clock::instant() + KEEPER_ANSWER;
        while is_alive(root, slot) {
            let handle = File::open(&dir).or_fail("cannot open", &dir)?;
            // Refused: it is about to end, or not yet listening. The lock will tell.
            if let Ok(stream) = UnixStream::connect(socket_path(&handle)) {
                let mut keeper = Keeper {
                    stream,
                    child: None,
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
        let word = self.receive()?;
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
        let _closed = self.stream.shutdown(std::net::Shutdown::Both);
        self.wait_for_end();
    }

    /// For one that is dead, or that cannot be talked to: it is dead then, and no zombie. What it
    /// ran is for `process::end_tree`.
    pub fn put_down(&mut self) {
        let _closed = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(child) = &mut self.child {
            let _dead = child.kill();
        }
        self.wait_for_end();
    }

    /// Reaps a keeper of ours that has ended or is about to.
    fn wait_for_end(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _status = child.wait();
        }
    }
}
