//! The messages between harness and keeper on a stream socket. A frame is its length and its
//! fields, each a byte string with its own length, as arguments, environment and paths need not be
//! UTF-8. All lengths are 32 bits little-endian.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::caps::Caps;
use crate::config::Network;
use crate::limits::{GATE_TOKENS_MAX, KEEPER_MESSAGE_BYTES_MAX};
use crate::sandbox::Sandbox;

/// One agent to start. `argv[0]` is an absolute path, executed directly: no shell, no search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub session: String,
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    /// The file for its standard input; `None`: /dev/null.
    pub stdin: Option<PathBuf>,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    /// The file for its exit record.
    pub exit: PathBuf,
    /// Between SIGTERM and SIGKILL when its own keeper stops it (on SIGTERM).
    pub grace: Duration,
    /// Set on top of the environment that the keeper inherits; `None`: removed. All of the environment
    /// where there is a sandbox.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// What it may touch; `None`: what the user may.
    pub sandbox: Option<Sandbox>,
    pub caps: Caps,
}

/// Begins a request for a start. Before there were sandboxes it was `spawn`.
const SPAWN: &str = "start";

#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Spawn(Box<Spec>),
    /// SIGTERM to the agent's group now, SIGKILL to whatever is left after the grace. `why` is the
    /// word of an `outcome::Stop`, for the exit record.
    Stop {
        grace: Duration,
        why: String,
    },
    /// Suspends the whole tree; `Thaw` continues it. A repeated request changes nothing.
    Freeze,
    Thaw,
    /// Asks for the tree's CPU time. Answered by `Reply::Vitals` while an agent runs.
    Vitals,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Sent once after a connect: nothing runs.
    Idle,
    /// Sent after a connect, and after a start.
    Running {
        session: String,
        pid: i32,
        /// How long it has been running, on the keeper's monotonic clock, without frozen time.
        age: Duration,
    },
    SpawnFailed {
        session: String,
        why: String,
        then: Then,
    },
    Vitals {
        cpu: Duration,
    },
    /// The agent and its tree have ended. `exit` is the content of its exit file (JSON).
    Exited {
        session: String,
        exit: Vec<u8>,
    },
}

/// What may help after a start that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Another one that is changed.
    Mended,
    /// The same again.
    Again,
    /// The same when another agent of this host has ended.
    Later,
}

impl Then {
    const ALL: [(Then, &str); 3] = [
        (Then::Mended, "permanent"),
        (Then::Again, "temporary"),
        (Then::Later, "later"),
    ];
}

/// A path to this open file or folder: short, and valid even if its name is replaced.
pub(super) fn path_through(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// The path of the keeper's socket in the slot's directory, through a descriptor: a socket's path
/// is limited to 107 bytes, and ROOT's may be longer.
pub(super) fn socket_path(dir: &File) -> String {
    format!("{}/keeper.sock", path_through(dir))
}

/// An encoded message.
pub struct Frame(Vec<u8>);

impl Frame {
    fn new(kind: &str) -> Frame {
        let mut bytes = Vec::with_capacity(1024);
        // Placeholder for the frame's length.
        bytes.extend([0; 4]);
        Frame(bytes).field(kind)
    }

    fn field(self, field: impl AsRef<[u8]>) -> Frame {
        self.joined(&[field.as_ref()])
    }

    /// One field made of several parts.
    fn joined(mut self, parts: &[&[u8]]) -> Frame {
        self.0.extend(size(parts.iter().map(|p| p.len()).sum()));
        parts.iter().for_each(|p| self.0.extend_from_slice(p));
        self
    }

    fn path(self, path: &Path) -> Frame {
        self.field(path.as_os_str().as_bytes())
    }

    fn number(self, number: impl ToString) -> Frame {
        self.field(number.to_string())
    }

    fn millis(self, d: Duration) -> Frame {
        self.number(d.as_millis())
    }

    /// How many lists follow (none, or three), each with its length, and the network.
    fn sandbox(mut self, sandbox: Option<&Sandbox>) -> Frame {
        let Some(sandbox) = sandbox else {
            return self.number(0);
        };
        self = self.number(3);
        for list in [&sandbox.write, &sandbox.read, &sandbox.deny] {
            self = self.number(list.len());
            for path in list {
                self = self.path(path);
            }
        }
        self.field(serde_json::to_vec(&sandbox.network).unwrap_or_default())
    }
}

fn size(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

/// Splits off the first field; `None` if it is incomplete.
fn cut(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, tail) = rest.split_first_chunk()?;
    tail.split_at_checked(u32::from_le_bytes(*size) as usize)
}

/// Reads one field after the other; a missing or bad one invalidates the whole frame.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (field, rest) = cut(self.0)?;
        self.0 = rest;
        Some(field)
    }
    fn os(&mut self) -> Option<OsString> {
        self.next().map(os)
    }
    fn word(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.next()?).ok()
    }
    fn text(&mut self) -> Option<String> {
        self.word().map(str::to_owned)
    }
    fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.word()?.parse().ok()
    }
    fn duration(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }
    fn path(&mut self) -> Option<PathBuf> {
        self.os().map(PathBuf::from)
    }
    fn paths(&mut self) -> Option<Vec<PathBuf>> {
        let count: usize = self.number()?;
        (0..count).map(|_| self.path()).collect()
    }
    fn sandbox(&mut self) -> Option<Option<Sandbox>> {
        match self.number()? {
            0 => Some(None),
            3 => Some(Some(Sandbox {
                write: self.paths()?,
                read: self.paths()?,
                deny: self.paths()?,
                network: serde_json::from_slice::<Network>(self.next()?).ok()?,
            })),
            _ => None,
        }
    }
}

fn os(b: &[u8]) -> OsString {
    OsStr::from_bytes(b).to_owned()
}

impl Request {
    pub fn frame(&self) -> Frame {
        match self {
            Request::Stop { grace, why } => Frame::new("stop").millis(*grace).field(why),
            Request::Freeze => Frame::new("freeze"),
            Request::Thaw => Frame::new("thaw"),
            Request::Vitals => Frame::new("vitals"),
            Request::Spawn(s) => {
                let nothing = Path::new("");
                // A word of its own: an older keeper would start it without its sandbox.
                let mut f = Frame::new(SPAWN)
                    .field(&s.session)
                    .path(&s.cwd)
                    .path(s.stdin.as_deref().unwrap_or(nothing))
                    .path(&s.stdout)
                    .path(&s.stderr)
                    .path(&s.exit)
                    .millis(s.grace)
                    .number(s.argv.len());
                for arg in &s.argv {
                    f = f.field(arg.as_bytes());
                }
                f = f.sandbox(s.sandbox.as_ref());
                f = f.field(serde_json::to_vec(&s.caps).unwrap_or_default());
                for (key, value) in &s.env {
                    f = f.field(key.as_bytes());
                    f = match value {
                        Some(v) => f.joined(&[b"=", v.as_bytes()]),
                        None => f.field(""),
                    };
                }
                f
            }
        }
    }

    /// Parses a frame's body.
    pub fn parse(body: &[u8]) -> Option<Request> {
        let mut f = Fields(body);
        match f.word()? {
            "stop" => Some(Request::Stop {
                grace: f.duration()?,
                why: f.text().unwrap_or_default(),
            }),
            "freeze" => Some(Request::Freeze),
            "thaw" => Some(Request::Thaw),
            "vitals" => Some(Request::Vitals),
            SPAWN => {
                let session = f.text()?;
                let cwd = f.path()?;
                let stdin = f.path()?;
                let stdout = f.path()?;
                let stderr = f.path()?;
                let exit = f.path()?;
                let grace = f.duration()?;
                let argc: usize = f.number()?;
                let argv: Option<Vec<_>> = (0..argc).map(|_| f.os()).collect();
                let argv = argv?;
                let sandbox = f.sandbox()?;
                let caps = serde_json::from_slice(f.next()?).ok()?;
                let mut env = Vec::new();
                while let Some(key) = f.os() {
                    env.push((key, f.next()?.strip_prefix(b"=").map(os)));
                }
                Some(Request::Spawn(Box::new(Spec {
                    session,
                    argv: Some(argv).filter(|a| !a.is_empty())?,
                    cwd,
                    stdin: (!stdin.as_os_str().is_empty()).then_some(stdin),
                    stdout,
                    stderr,
                    exit,
                    grace,
                    env,
                    sandbox,
                    caps,
                })))
            }
            _ => None,
        }
    }
}

impl Reply {
    pub fn frame(&self) -> Frame {
        match self {
            Reply::Idle => Frame::new("idle"),
            Reply::Running { session, pid, age } => Frame::new("running")
                .field(session)
                .number(pid)
                .millis(*age),
            Reply::SpawnFailed { session, why, then } => {
                let word = Then::ALL.into_iter().find(|(t, _)| t == then);
                let word = word.map_or("", |(_, word)| word);
                Frame::new("failed").field(session).field(why).field(word)
            }
            Reply::Vitals { cpu } => Frame::new("vitals").millis(*cpu),
            Reply::Exited { session, exit } => Frame::new("exited").field(session).field(exit),
        }
    }

    /// Parses a frame's body.
    pub fn parse(body: &[u8]) -> Option<Reply> {
        let mut f = Fields(body);
        Some(match f.word()? {
            "idle" => Reply::Idle,
            "running" => Reply::Running {
                session: f.text()?,
                pid: f.number()?,
                age: f.duration()?,
            },
            "failed" => Reply::SpawnFailed {
                session: f.text()?,
                why: f.text()?,
                then: {
                    let word = f.word()?;
                    Then::ALL.into_iter().find(|(_, w)| *w == word)?.0
                },
            },
            "vitals" => Reply::Vitals { cpu: f.duration()? },
            "exited" => Reply::Exited {
                session: f.text()?,
                exit: f.next()?.to_vec(),
            },
            _ => return None,
        })
    }
}

/// Sends one frame.
pub fn send(to: &mut impl Write, frame: Frame) -> io::Result<()> {
    to.write_all(&finished(frame)?)
}

/// Descriptors that go with a frame, at most: two of a token where a person made its file anew.
const HELD_MAX: usize = 2 * GATE_TOKENS_MAX;

/// Sends one frame, and descriptors of ours that the receiver then has, too.
pub(super) fn send_with(
    mut to: &UnixStream,
    frame: Frame,
    held: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = finished(frame)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HELD_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !held.is_empty() && !control.push(SendAncillaryMessage::ScmRights(held)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "more tokens than go with one start",
        ));
    }
    let send = || {
        sendmsg(
            to,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::empty(),
        )
    };
    let sent = rustix::io::retry_on_intr(send)?;
    to.write_all(&bytes[sent..])
}

/// A frame with its length in front.
fn finished(Frame(mut bytes): Frame) -> io::Result<Vec<u8>> {
    let len = bytes.len() - 4;
    if len > KEEPER_MESSAGE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "arguments and environment are larger than 4 MiB",
        ));
    }
    bytes[..4].copy_from_slice(&size(len));
    Ok(bytes)
}

/// Receives one frame's body; `None` at the end of the stream, also inside a frame.
pub fn receive(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut word = [0; 4];
    match from.read_exact(&mut word) {
        Ok(()) => body(from, word),
        Err(e) if is_end(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Receives one frame's body and the descriptors that came with it. What is started from now on inherits
/// them.
pub(super) fn receive_with(mut from: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let (mut word, mut held, mut done) = ([0; 4], Vec::new(), 0);
    // They come with the first byte.
    while done < word.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HELD_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = rustix::io::retry_on_intr(|| {
            let mut rest = [IoSliceMut::new(&mut word[done..])];
            recvmsg(from, &mut rest, &mut control, RecvFlags::empty())
        });
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                held.extend(fds);
            }
        }
        match got.map_err(io::Error::from) {
            Ok(got) if got.bytes > 0 => done += got.bytes,
            Ok(_) => return Ok(None),
            Err(e) if is_end(&e) => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(body(&mut from, word)?.map(|body| (body, held)))
}

/// The body of a frame whose length is in `word`.
fn body(from: &mut impl Read, word: [u8; 4]) -> io::Result<Option<Vec<u8>>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "a frame that is none");
    let len = u32::from_le_bytes(word) as usize;
    if len > KEEPER_MESSAGE_BYTES_MAX {
        return Err(bad());
    }
    let mut body = vec![0; len];
    match from.read_exact(&mut body) {
        Ok(()) => {}
        Err(e) if is_end(&e) => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        (_, rest) = cut(rest).ok_or_else(bad)?;
    }
    Ok(Some(body))
}

fn is_end(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent_to_the_byte() {
        let spec = Spec {
            session: "s".into(),
            argv: vec!["/bin/x".into(), os(b"a\nb \xff"), "".into()],
            cwd: os(b"/tmp/\xfe").into(),
            stdin: None,
            stdout: "/o".into(),
            stderr: "/e".into(),
            exit: "/x".into(),
            grace: Duration::from_secs(3),
            env: [
                ("A".into(), Some("".into())),
                ("B".into(), None),
                ("C".into(), Some(os(b"=\xff"))),
            ]
            .into(),
            sandbox: Some(Sandbox {
                write: vec!["/w".into(), os(b"/\xfe").into()],
                read: vec![],
                deny: vec!["/d".into()],
                network: Network::Ports(vec![443]),
            }),
            caps: Caps {
                output: Some(7),
                nice: 5,
                ..Caps::default()
            },
        };
        let request = Request::Spawn(Box::new(spec));
        let mut buffer = Vec::new();
        send(&mut buffer, request.frame()).unwrap();
        let got = receive(&mut buffer.as_slice()).unwrap().unwrap();
        assert_eq!(Request::parse(&got), Some(request));
        for cut in 0..buffer.len() {
            assert_eq!(receive(&mut &buffer[..cut]).unwrap(), None);
        }
        let reply = Reply::Running {
            session: "s".into(),
            pid: 7,
            age: Duration::from_millis(12),
        };
        assert_eq!(Reply::parse(&reply.frame().0[4..]), Some(reply));
        // A field whose length exceeds the frame.
        let torn = [&size(8)[..], &size(5), b"idle"].concat();
        assert!(receive(&mut torn.as_slice()).is_err());
    }
}
