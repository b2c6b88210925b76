//! The one error type: what was being done, where, why it failed, and what to do about it.
//!
//! Only our own faults and the host's are `Error`s. A lost race is `Ok(None)`, a failing agent is
//! data (`outcome`), a refused item is a `Refusal` (`item`).

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::text::printable;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Decides the exit code of a command that ends with this error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong: exit code 2.
    Usage,
    /// Trying again will not help (bad configuration, not a ROOT): exit code 100.
    Permanent,
    /// The host is in trouble (disk full, out of descriptors, I/O error): exit code 111.
    Temporary,
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

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether the host is the cause (a full disk, no descriptors), by its error number or by the words
    /// of a program that met it. It then ends when the host is well again, and no item is to blame.
    pub fn is_of_host(&self) -> bool {
        use nix::errno::Errno;
        const OF_HOST: [Errno; 9] = [
            Errno::ENOSPC,
            Errno::EDQUOT,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::EIO,
            Errno::ENOMEM,
            Errno::EAGAIN,
            Errno::EINTR,
            Errno::EROFS,
        ];
        const WORDS: [&str; 7] = [
            "No space left on device",
            "quota exceeded",
            "Too many open files",
            "Input/output error",
            "Cannot allocate memory",
            "Resource temporarily unavailable",
            "Read-only file system",
        ];
        match self.0.errno {
            Some(code) => OF_HOST.contains(&Errno::from_raw(code)),
            None => WORDS.iter().any(|words| self.0.why.contains(words)),
        }
    }

    /// The errno, if the operating system reported one.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Usage => 2,
            Kind::Permanent => 100,
            Kind::Temporary => 111,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.what)?;
        if let Some(path) = &self.0.path {
            write!(f, ": {}", path.display().to_string().escape_debug())?;
        }
        write!(f, ": {}", self.0.why.trim_end())?;
        if let Some(hint) = &self.0.hint {
            write!(f, "\n  what to do: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Writes a line to standard error. Unlike `eprintln!` it does not panic if that is closed or its
/// disk is full.
pub fn tell(line: &str) {
    let _lost = writeln!(io::stderr().lock(), "{}", printable(line));
}

fn class_of(err: &io::Error) -> (Kind, Option<&'static str>) {
    use nix::errno::Errno;
    let Some(code) = err.raw_os_error() else {
        return (Kind::Permanent, None);
    };
    match Errno::from_raw(code) {
        Errno::ENOSPC => (
            Kind::Temporary,
            Some("free some disk space (or inodes: `df -i`)"),
        ),
        Errno::EDQUOT => (
            Kind::Temporary,
            Some("the disk quota is used up: free some space"),
        ),
        Errno::EMFILE | Errno::ENFILE => {
            (Kind::Temporary, Some("raise the limit (`ulimit -n 4096`)"))
        }
        Errno::EIO | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR => (Kind::Temporary, None),
        Errno::EROFS => (
            Kind::Temporary,
            Some("the file system is read-only: remount it for writing"),
        ),
        Errno::EXDEV => (
            Kind::Permanent,
            Some(
                "put the whole of queue/, and the whole of state/, on one mount (`harness doctor`)",
            ),
        ),
        Errno::EACCES | Errno::EPERM => (
            Kind::Permanent,
            Some("look at the owner and mode of this path (`ls -ld`)"),
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
