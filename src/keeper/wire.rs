//! What harness and keeper say to each other over a stream socket: frames of byte strings, since
//! arguments, environment and paths need not be UTF-8. A frame is its length and its fields, each
//! with a length of its own, all 32 bits little-endian.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::limits::KEEPER_MESSAGE_BYTES_MAX;

/// One agent to start. `argv[0]` is an absolute path: it is executed as it is, no shell, no search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub session: String,
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    /// Where its standard input comes from; `None`: /dev/null.
    pub stdin: Option<PathBuf>,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    /// Where its end is recorded.
    pub exit: PathBuf,
    /// Between SIGTERM and SIGKILL when it is stopped for good by its own keeper.
    pub grace: Duration,
    /// Set on top of the environment that the keeper has from its harness; `None`: removed.
    pub env: Vec<(OsString, Option<OsString>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Spawn(Box<Spec>),
    /// SIGTERM to the agent's group now, SIGKILL to whatever is left after the grace. `why` is the
    /// word of an `outcome::Stop`, for the exit record.
    Stop {
        grace: Duration,
        why: String,
    },
    /// Stop the whole tree in its tracks, or let it go on. Asked twice is asked once.
    Freeze,
    Thaw,
    /// How much processor time has the tree used? Answered by `Reply::Vitals` while an agent runs.
    Vitals,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Said once after a connect: nothing runs.
    Idle,
    /// Said after a connect, and after a start when the agent has run for a moment.
    Running {
        session: String,
        pid: i32,
        /// How long it has been running, on the keeper's monotonic clock, without the time for
        /// which it was frozen.
        age: Duration,
    },
    SpawnFailed {
        session: String,
        why: String,
        /// The host is in trouble: the same may work later.
        temporary: bool,
    },
    Vitals {
        cpu: Duration,
    },
    /// It ended, its tree is gone, and this is what its exit file holds (JSON).
    Exited {
        session: String,
        exit: Vec<u8>,
    },
}

fn bytes(s: &str) -> Vec<u8> {
    s.as_bytes().to_vec()
}

fn os(b: &[u8]) -> OsString {
    OsStr::from_bytes(b).to_owned()
}

fn millis(d: Duration) -> Vec<u8> {
    d.as_millis().to_string().into_bytes()
}

/// Reads fields one after the other; a missing or bad one makes the whole frame bad.
struct Fields<'a>(std::slice::Iter<'a, Vec<u8>>);

impl Fields<'_> {
    fn next(&mut self) -> Option<Vec<u8>> {
        self.0.next().cloned()
    }
    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.next()?).ok()
    }
    fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }
    fn duration(&mut self) -> Option<Duration> {
        self.number().map(Duration::from_millis)
    }
    fn path(&mut self) -> Option<PathBuf> {
        self.next().map(|b| os(&b).into())
    }
}

impl Request {
    pub fn fields(&self) -> Vec<Vec<u8>> {
        match self {
            Request::Stop { grace, why } => vec![bytes("stop"), millis(*grace), bytes(why)],
            Request::Freeze => vec![bytes("freeze")],
            Request::Thaw => vec![bytes("thaw")],
            Request::Vitals => vec![bytes("vitals")],
            Request::Spawn(s) => {
                let path = |p: &PathBuf| p.as_os_str().as_bytes().to_vec();
                let mut f = vec![
                    bytes("spawn"),
                    bytes(&s.session),
                    path(&s.cwd),
                    s.stdin.as_ref().map_or(Vec::new(), path),
                    path(&s.stdout),
                    path(&s.stderr),
                    path(&s.exit),
                    millis(s.grace),
                    bytes(&s.argv.len().to_string()),
                ];
                f.extend(s.argv.iter().map(|a| a.as_bytes().to_vec()));
                for (key, value) in &s.env {
                    f.push(key.as_bytes().to_vec());
                    f.push(match value {
                        Some(v) => [b"=", v.as_bytes()].concat(),
                        None => Vec::new(),
                    });
                }
                f
            }
        }
    }

    pub fn parse(fields: &[Vec<u8>]) -> Option<Request> {
        let mut f = Fields(fields.iter());
        match f.text()?.as_str() {
            "stop" => Some(Request::Stop {
                grace: f.duration()?,
                why: f.text().unwrap_or_default(),
            }),
            "freeze" => Some(Request::Freeze),
            "thaw" => Some(Request::Thaw),
            "vitals" => Some(Request::Vitals),
            "spawn" => {
                let session = f.text()?;
                let cwd = f.path()?;
                let stdin = f.path()?;
                let stdout = f.path()?;
                let stderr = f.path()?;
                let exit = f.path()?;
                let grace = f.duration()?;
                let argc: usize = f.number()?;
                let argv: Option<Vec<_>> = (0..argc)
                    .map(|_| f.next().map(OsString::from_vec))
                    .collect();
                let mut env = Vec::new();
                while let Some(key) = f.next() {
                    let value = f.next()?;
                    env.push((os(&key), value.strip_prefix(b"=").map(os)));
                }
                Some(Request::Spawn(Box::new(Spec {
                    session,
                    argv: argv.filter(|a| !a.is_empty())?,
                    cwd,
                    stdin: (!stdin.as_os_str().is_empty()).then_some(stdin),
                    stdout,
                    stderr,
                    exit,
                    grace,
                    env,
                })))
            }
            _ => None,
        }
    }
}

impl Reply {
    pub fn fields(&self) -> Vec<Vec<u8>> {
        match self {
            Reply::Idle => vec![bytes("idle")],
            Reply::Running { session, pid, age } => vec![
                bytes("running"),
                bytes(session),
                bytes(&pid.to_string()),
                millis(*age),
            ],
            Reply::SpawnFailed {
                session,
                why,
                temporary,
            } => {
                let class = if *temporary { "temporary" } else { "permanent" };
                vec![bytes("failed"), bytes(session), bytes(why), bytes(class)]
            }
            Reply::Vitals { cpu } => vec![bytes("vitals"), millis(*cpu)],
            Reply::Exited { session, exit } => {
                vec![bytes("exited"), bytes(session), exit.clone()]
            }
        }
    }

    pub fn parse(fields: &[Vec<u8>]) -> Option<Reply> {
        let mut f = Fields(fields.iter());
        Some(match f.text()?.as_str() {
            "idle" => Reply::Idle,
            "running" => Reply::Running {
                session: f.text()?,
                pid: f.number()?,
                age: f.duration()?,
            },
            "failed" => Reply::SpawnFailed {
                session: f.text()?,
                why: f.text()?,
                temporary: f.text()? == "temporary",
            },
            "vitals" => Reply::Vitals { cpu: f.duration()? },
            "exited" => Reply::Exited {
                session: f.text()?,
                exit: f.next()?,
            },
            _ => return None,
        })
    }
}

/// Sends one frame.
pub fn send(to: &mut impl Write, fields: &[Vec<u8>]) -> io::Result<()> {
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let len = fields.iter().map(|f| f.len() + 4).sum();
    if len > KEEPER_MESSAGE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "arguments and environment are larger than 4 MiB",
        ));
    }
    let mut bytes = Vec::with_capacity(4 + len);
    bytes.extend(size(len));
    for field in fields {
        bytes.extend(size(field.len()));
        bytes.extend(field);
    }
    to.write_all(&bytes)
}

/// Receives one frame; `None` at the end of the stream, wherever it was cut.
pub fn receive(from: &mut impl Read) -> io::Result<Option<Vec<Vec<u8>>>> {
    let mut word = [0; 4];
    match from.read_exact(&mut word) {
        Ok(()) => {}
        Err(e) if is_end(&e) => return Ok(None),
        Err(e) => return Err(e),
    }
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
    let mut fields = Vec::new();
    while let Some((size, tail)) = rest.split_at_checked(4) {
        let size = size.try_into().map(u32::from_le_bytes).map_err(|_| bad())? as usize;
        let (field, tail) = tail.split_at_checked(size).ok_or_else(bad)?;
        fields.push(field.to_vec());
        rest = tail;
    }
    Ok(Some(fields))
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
        };
        let request = Request::Spawn(Box::new(spec));
        let mut buffer = Vec::new();
        send(&mut buffer, &request.fields()).unwrap();
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
        assert_eq!(Reply::parse(&reply.fields()), Some(reply));
    }
}
