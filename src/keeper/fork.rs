//! The fork server: one process for each `harness run` that makes keepers by fork, as to execute the
//! program for each of them costs many times as much. A keeper that it makes is a child of the
//! harness, not of the server, and has no bond to either: both may die.
//!
//! A request is one message on a socket: the slot's name, and with it two descriptors, the keeper's
//! end of its socket to the harness and its log. There is no answer: the keeper has the first word,
//! and where none could be made, its end of the socket is closed. Then (a sandbox that refuses
//! `clone3`, a server that was killed) the harness executes one, as if there were no server.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

use super::agent::Starter;
use super::serve::{close_inherited, keep};
use super::wire::{self, Reply};
use crate::error::{Context, Result};
use crate::layout::{Root, SlotId};
use crate::limits::KEEPER_ANSWER;
use crate::process::cgroup::{self, Cradle};
use crate::sys::{self, Arguments};

/// How the command line of a server is told from a keeper's, which has a slot's directory there. No
/// shorter than what a keeper's has more (`/agent-1024`), as that is written over it.
pub const FORK_SERVER: &str = "--fork-server";

/// For `agent-N`.
const NAME_BYTES_MAX: usize = 64;

/// The harness's side: a server for the slots of one ROOT, started when it is first needed.
pub struct Forks {
    pub(super) root: Root,
    server: Mutex<Option<Server>>,
}

struct Server {
    socket: OwnedFd,
    child: Child,
}

impl Forks {
    pub fn new(root: &Root) -> Forks {
        Forks {
            root: root.clone(),
            server: Mutex::default(),
        }
    }

    /// Starts the server, where there is none, so that it is there when the first keeper is asked for.
    pub fn warm(&self) {
        // Whoever has the lock does so, or has one.
        if let Ok(mut server) = self.server.try_lock()
            && server.is_none()
        {
            *server = Server::start(&self.root).ok();
        }
    }

    /// Asks for a keeper that talks over this socket. One may come of it, or not.
    pub(super) fn ask(&self, slot: SlotId, fds: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        // Killed since the last time: the next one gets the request.
        if let Some(living) = &*server
            && living.ask(slot, fds).is_ok()
        {
            return Ok(());
        }
        if let Some(dead) = server.take() {
            dead.end();
        }
        server.insert(Server::start(&self.root)?).ask(slot, fds)
    }

    /// Ends the server, where there is one. One more keeper would need another.
    pub fn end(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = server.take() {
            server.end();
        }
    }
}

impl Server {
    #[expect(clippy::disallowed_methods, reason = "the server is our own binary")]
    fn start(root: &Root) -> io::Result<Server> {
        use std::os::unix::process::CommandExt;
        let (unix, whole) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (ours, theirs) = socketpair(unix, whole, SocketFlags::CLOEXEC, None)?;
        // One that is stopped takes what fits into its socket, and then nothing.
        let send = rustix::net::sockopt::Timeout::Send;
        rustix::net::sockopt::set_socket_timeout(&ours, send, Some(KEEPER_ANSWER))?;
        let child = Command::new(super::client::program()?)
            .arg0("harness")
            .args(["keeper", FORK_SERVER])
            .arg(root.agents())
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Server {
            socket: ours,
            child,
        })
    }

    fn ask(&self, slot: SlotId, fds: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        with.push(SendAncillaryMessage::ScmRights(&fds));
        let name = slot.to_string();
        let message = [IoSlice::new(name.as_bytes())];
        sendmsg(&self.socket, &message, &mut with, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// With its socket closed it would end by itself, but not one that somebody has stopped.
    fn end(mut self) {
        let _dead = self.child.kill();
        let _status = self.child.wait();
    }
}

struct Wanted {
    slot: SlotId,
    socket: OwnedFd,
    log: OwnedFd,
}

/// The server's life. Returns at its end, and in each keeper that it forked at that one's.
/// `agents` is the folder of the slots' folders. Its standard input is where it is asked.
pub fn serve_forks(agents: &Path) -> Result<()> {
    close_inherited();
    let _unnamed = nix::sys::prctl::set_name(c"keeper server");
    // Out of the harness's session, as keepers are.
    let _leader = nix::unistd::setsid();
    let starter = Starter::new().or_fail("cannot set up", agents)?;
    let shown = Arguments::find();
    let here = cgroup::own().ok();
    let stdin = io::stdin();
    loop {
        let wanted = match receive(stdin.as_fd()) {
            Ok(Some(Some(wanted))) => wanted,
            Ok(Some(None)) => continue,
            // The harness is gone, or does not need it any more.
            Ok(None) | Err(_) => return Ok(()),
        };
        let dir = agents.join(wanted.slot.to_string());
        let make = |here| Cradle::make(here, &cgroup::name_of(&dir)?);
        let mut cradle = here.as_deref().and_then(|here| make(here).ok());
        let mut forked = sys::fork_beside(cradle.as_ref().map(Cradle::fd));
        // Not every host that lets us make one lets us be born there.
        if forked.is_err()
            && let Some(unfit) = cradle.take()
        {
            unfit.remove();
            forked = sys::fork_beside(None);
        }
        if let Ok(None) = forked {
            let title = [b"harness\0keeper\0", dir.as_os_str().as_bytes(), b"\0"].concat();
            if let Some(shown) = shown {
                shown.show(&title);
            }
            take_place_of_server(wanted).or_fail("cannot set up", &dir)?;
            return keep(&dir, starter, cradle.map(Cradle::grown_up));
        }
    }
}

/// The new process: says who it is, and gives up what is the server's.
fn take_place_of_server(wanted: Wanted) -> io::Result<()> {
    let mut socket = UnixStream::from(wanted.socket);
    let pid = std::process::id() as i32;
    wire::send(&mut socket, Reply::Born { pid }.frame())?;
    nix::unistd::dup2_stdin(&socket)?;
    nix::unistd::dup2_stderr(&wanted.log)?;
    Ok(())
}

/// `None`: nobody can ask any more. `Some(None)`: what was asked makes no sense.
fn receive(from: BorrowedFd<'_>) -> io::Result<Option<Option<Wanted>>> {
    let mut name = [0; NAME_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let buffer = &mut [IoSliceMut::new(&mut name)];
        match recvmsg(from, buffer, &mut with, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            got => break got?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut fds = with.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    // Where this process has no descriptor left, fewer come than were sent.
    let whole = !got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    let (socket, log) = (fds.next(), fds.next());
    let slot = SlotId::parse(OsStr::from_bytes(&name[..got.bytes.min(NAME_BYTES_MAX)]));
    Ok(Some(match (slot, socket, log) {
        (Some(slot), Some(socket), Some(log)) if whole => Some(Wanted { slot, socket, log }),
        _ => None,
    }))
}
