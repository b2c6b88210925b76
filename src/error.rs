//! The one error type: what was being done, where, why it failed, and what to do about it.
//!
//! Only our own faults and the host's are `Error`s. A lost race is `Ok(None)`, a failing agent is
//! data (`outcome`), a refused item is a `Refusal` (`item`).

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use nix::errno::Errno;
use schemars::JsonSchema;
use serde::Serialize;

use crate::text::{message, one_line};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Decides the exit code of a command that ends with this error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong: exit code 2.
    Usage,
    /// What was asked for cannot be done (bad configuration, not a ROOT, no such item): exit code 100.
    Permanent,
    /// The host (disk full, out of descriptors, I/O error) or a file of harness's own is in trouble: the same
    /// command goes on when that is mended. Exit code 111.
    Temporary,
}

/// An error for programs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Told {
    /// What was being done.
    what: String,
    /// The path that it is about, if it is about one.
    #[serde(rename = "where")]
    place: Option<String>,
    /// Why it failed.
    why: String,
    /// What to do next.
    hint: Option<String>,
}

/// Boxed, so that a `Result` stays one word wide.
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    kind: Kind,
    what: String,
    path: Option<PathBuf>,
    why: String,
    hint: Option<String>,
    errno: Option<i32>,
}

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Error(Box::new(Parts {
            kind,
            what: what.into(),
            path: None,
            why: why.into(),
            hint: None,
            errno: None,
        }))
    }

    pub fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what, why)
    }

    pub fn permanent(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Permanent, what, why)
    }

    pub fn temporary(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Temporary, what, why)
    }

    /// An error of the operating system, classified by its errno.
    pub fn io(what: impl Into<String>, path: &Path, err: &io::Error) -> Self {
        let (kind, hint) = class_of(err);
        let mut e = Self::new(kind, what, err.to_string()).at_path(path);
        e.0.errno = err.raw_os_error();
        if let Some(hint) = hint {
            e = e.hint(hint);
        }
        e
    }

    pub fn at_path(mut self, path: &Path) -> Self {
        self.0.path = Some(path.to_path_buf());
        self
    }

    /// What the user can do about it, in the imperative.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error, marked as one where trying again will not help.
    pub fn lasting(mut self) -> Self {
        self.0.kind = Kind::Permanent;
        self
    }

    /// The same error, of a file of harness's own that a person can mend.
    pub fn mendable(mut self) -> Self {
        self.0.kind = Kind::Temporary;
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether the host is the cause (a full disk, no descriptors), by its error number or by the words
    /// of a program that met it. It then ends when the host is well again, and no item is to blame.
    pub fn is_of_host(&self) -> bool {
        match self.0.errno {
            Some(code) => HostTrouble::of_number(code),
            None => HostTrouble::of_words(&self.0.why),
        }
        .is_some()
    }

    /// Whether permissions or attributes forbid it: for a person to mend, and no item's fault.
    pub fn is_barred(&self) -> bool {
        matches!(self.0.errno, Some(libc::EACCES | libc::EPERM))
    }

    /// The errno, if the operating system reported one.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// For programs, under the names that people see the parts by.
    pub fn told(&self) -> Told {
        let path = self.0.path.as_ref();
        Told {
            what: self.0.what.clone(),
            place: path.map(|path| path.to_string_lossy().into_owned()),
            why: self.0.why.trim_end().to_owned(),
            hint: self.0.hint.clone(),
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Usage => 2,
            Kind::Permanent => 100,
            Kind::Temporary => 111,
        }
    }
}

/// One line: what, where, why, what to do. Scripts read standard error line by line.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.what.clone();
        if let Some(path) = &self.0.path {
            line += &format!(": {}", path.display().to_string().escape_debug());
        }
        line += &format!(": {}", one_line(&self.0.why));
        f.write_str(&match &self.0.hint {
            Some(hint) => advised(&line, &one_line(hint)),
            None => line,
        })
    }
}

/// A message with what to do about it, on its line.
pub(crate) fn advised(message: &str, what_to_do: &str) -> String {
    format!(
        "{}; what to do: {what_to_do}",
        message.trim_end_matches('.')
    )
}

impl std::error::Error for Error {}

/// A trouble of the host, which ends when the host is well again: how the kernel calls it, how
/// programs that met it do, and what helps.
pub(crate) struct HostTrouble {
    number: Errno,
    /// In lower case.
    words: &'static str,
    pub(crate) hint: Option<&'static str>,
}

const fn trouble(number: Errno, words: &'static str, hint: Option<&'static str>) -> HostTrouble {
    HostTrouble {
        number,
        words,
        hint,
    }
}

const OF_HOST: [HostTrouble; 12] = [
    trouble(
        Errno::ENOSPC,
        "no space left on device",
        Some("free some disk space (or inodes: `df -i`)"),
    ),
    // git's words for it.
    trouble(
        Errno::ENOSPC,
        "out of diskspace",
        Some("free some disk space (or inodes: `df -i`)"),
    ),
    trouble(
        Errno::EDQUOT,
        "quota exceeded",
        Some("the disk quota is used up: free some space"),
    ),
    trouble(
        Errno::EROFS,
        "read-only file system",
        Some("the file system is read-only: remount it for writing"),
    ),
    trouble(
        Errno::EMFILE,
        "too many open files",
        Some("raise the limit (`ulimit -n 4096`)"),
    ),
    trouble(
        Errno::ENFILE,
        "too many open files in system",
        Some("raise the limit (`sysctl fs.file-max`)"),
    ),
    trouble(
        Errno::EIO,
        "input/output error",
        Some("the disk or its file system is faulty: see `dmesg`"),
    ),
    trouble(Errno::ENOMEM, "cannot allocate memory", None),
    trouble(Errno::ENOMEM, "out of memory", None),
    trouble(Errno::EAGAIN, "resource temporarily unavailable", None),
    trouble(Errno::EINTR, "interrupted system call", None),
    trouble(Errno::ESTALE, "stale file handle", None),
];

impl HostTrouble {
    fn of_number(code: i32) -> Option<&'static HostTrouble> {
        OF_HOST.iter().find(|t| t.number as i32 == code)
    }

    /// The one that a program's message names.
    pub(crate) fn of_words(words: &str) -> Option<&'static HostTrouble> {
        let words = words.to_ascii_lowercase();
        OF_HOST.iter().find(|t| words.contains(t.words))
    }
}

type Voice = Box<dyn Fn(&str) + Send + Sync>;

/// Who writes what is told, while a run lasts.
static VOICE: RwLock<Option<Voice>> = RwLock::new(None);

/// From now on `tell` hands its lines to this; `None`: to nobody. While a run lasts, no thread may wait
/// for whoever reads standard error.
pub(crate) fn tell_through(voice: Option<Voice>) {
    *VOICE.write().unwrap_or_else(PoisonError::into_inner) = voice;
}

/// Writes one line to standard error. Unlike `eprintln!` it does not panic if that is closed or its
/// disk is full.
pub fn tell(line: &str) {
    match &*VOICE.read().unwrap_or_else(PoisonError::into_inner) {
        Some(voice) => voice(line),
        None => drop(writeln!(io::stderr().lock(), "{}", message(line))),
    }
}

fn class_of(err: &io::Error) -> (Kind, Option<&'static str>) {
    let Some(code) = err.raw_os_error() else {
        return (Kind::Permanent, None);
    };
    if let Some(trouble) = HostTrouble::of_number(code) {
        return (Kind::Temporary, trouble.hint);
    }
    match Errno::from_raw(code) {
        Errno::EXDEV => (
            Kind::Permanent,
            Some(
                "put the whole of queue/, and the whole of state/, on one mount (`harness doctor`)",
            ),
        ),
        Errno::EACCES | Errno::EPERM => (
            Kind::Permanent,
            Some("look at the owner, mode and attributes of this path (`ls -ld`, `lsattr -d`)"),
        ),
        _ => (Kind::Permanent, None),
    }
}

/// Adds to a failed call what was being done, and where.
pub trait Context<T> {
    fn or_fail(self, what: &str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn or_fail(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(what, path, &e))
    }
}

impl<T> Context<T> for nix::Result<T> {
    fn or_fail(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|e| Error::io(what, path, &io::Error::from(e)))
    }
}
