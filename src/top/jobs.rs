//! What a key does is the command that a person would type: it runs as a child, in a thread, and its last line
//! is shown. One way to do a thing, with the same messages and the same safety; names and words are arguments,
//! never a shell's.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock;
use crate::error::Result;
use crate::keeper;
use crate::layout::{Name, Root};
use crate::text::one_line;
use crate::waker::Waker;

/// What a command prints is read so far; a diff that is longer is for a pager.
const OUT_BYTES_MAX: u64 = 8 << 20;
const SAID_BYTES_MAX: u64 = 64 << 10;
/// Commands at once: more would be keys that a stone lies on.
const AT_ONCE: usize = 8;

/// What a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum For {
    /// The status where no harness keeps it.
    Status,
    Story(Name),
    Diff(Name),
    /// A person's order.
    Act,
    /// A person's word on what is shown of this item.
    Verdict(Name),
}

#[derive(Debug)]
pub(super) struct Done {
    pub(super) what: For,
    pub(super) is_good: bool,
    pub(super) out: Vec<u8>,
    pub(super) is_cut: bool,
    /// The last line of its messages.
    pub(super) said: String,
    pub(super) took: Duration,
}

pub(super) struct Jobs {
    root: Root,
    pub(super) waker: Arc<Waker>,
    tell: Sender<Done>,
    hear: Receiver<Done>,
    running: Vec<For>,
    /// The process that looks at the whole tree, while it must not be waited for.
    looks: Arc<Mutex<Option<Pid>>>,
}

impl Jobs {
    pub(super) fn new(root: &Root) -> Result<Jobs> {
        let (tell, hear) = unbounded();
        Ok(Jobs {
            root: root.clone(),
            waker: Arc::new(Waker::new()?),
            tell,
            hear,
            running: Vec::new(),
            looks: Arc::default(),
        })
    }

    pub(super) fn runs(&self, what: &For) -> bool {
        self.running.contains(what)
    }

    /// Starts `harness ARGS`. `false`: too many run.
    pub(super) fn start(&mut self, what: For, args: Vec<OsString>) -> bool {
        if self.running.len() >= AT_ONCE {
            return false;
        }
        self.running.push(what.clone());
        let (tell, waker) = (self.tell.clone(), self.waker.clone());
        let looks = match what {
            For::Status => self.looks.clone(),
            // What a person ordered is done, whoever looks.
            _ => Arc::default(),
        };
        let mut command = vec!["--root".into(), self.root.path().into()];
        command.extend(args);
        let work = move || {
            let begun = clock::instant();
            let mut done = run(&command, &looks).unwrap_or_else(|e| Done::failed(e.to_string()));
            (done.what, done.took) = (what, clock::instant() - begun);
            // The view has ended.
            let _nobody = tell.send(done);
            waker.wake();
        };
        let thread = std::thread::Builder::new().name("command".into());
        if thread.spawn(work).is_err() {
            self.running.pop();
            return false;
        }
        true
    }

    /// A command that has ended.
    pub(super) fn next(&mut self) -> Option<Done> {
        let done = self.hear.try_recv().ok()?;
        if let Some(at) = self.running.iter().position(|what| *what == done.what) {
            self.running.remove(at);
        }
        Some(done)
    }
}

/// Of a million items it would work on for nobody.
impl Drop for Jobs {
    fn drop(&mut self) {
        if let Some(pid) = *self.looks.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ended = kill(pid, Signal::SIGTERM);
        }
    }
}

impl Done {
    fn failed(why: String) -> Done {
        Done {
            what: For::Act,
            is_good: false,
            out: Vec::new(),
            is_cut: false,
            said: format!("the command did not start: {why}"),
            took: Duration::ZERO,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "harness itself, as a person starts it"
)]
fn run(args: &[OsString], looks: &Mutex<Option<Pid>>) -> io::Result<Done> {
    let mut command = Command::new(keeper::program()?);
    command.args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let note = |pid| *looks.lock().unwrap_or_else(PoisonError::into_inner) = pid;
    note(Some(Pid::from_raw(child.id().cast_signed())));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ((out, is_cut), (said, _)) = std::thread::scope(|scope| {
        let said = scope.spawn(|| read(stderr, SAID_BYTES_MAX));
        let out = read(stdout, OUT_BYTES_MAX);
        (out, said.join().unwrap_or_default())
    });
    // From here on its number may be another's.
    note(None);
    let status = child.wait()?;
    let text = String::from_utf8_lossy(&said);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = one_line(last.unwrap_or_default());
    Ok(Done {
        what: For::Act,
        is_good: status.success(),
        out,
        is_cut,
        said: last.strip_prefix("harness: ").unwrap_or(&last).to_owned(),
        took: Duration::ZERO,
    })
}

/// All that fits; what is more is read and forgotten, so that nobody waits for its reader.
fn read(from: Option<impl Read>, most: u64) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let Some(mut from) = from else {
        return (all, false);
    };
    // What could be read is shown.
    let _cut = (&mut from).take(most).read_to_end(&mut all);
    let more = io::copy(&mut from, &mut io::sink());
    (all, more.unwrap_or(0) > 0)
}
