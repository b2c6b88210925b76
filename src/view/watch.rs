//! `harness status --watch`: shows the status again on each change; in place on a terminal,
//! elsewhere as a new block (or line of JSON).
//!
//! Knows nothing of the status's content. Invariant: however it ends (a signal, the reader of
//! stdout gone, an error), cursor and screen are restored.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::clock;
use crate::error::{Error, Result};
use crate::folder::FileStamp;
use crate::layout::Root;
use crate::status::Status;
use crate::text;

use super::needed::Needed;
use super::status::{Source, current, render};
use super::{Term, written};

/// Interval at which files are checked.
const LOOK_MS: u16 = 200;
/// Interval at which durations are redrawn and a dead harness is noticed.
const REDRAW: Duration = Duration::from_secs(1);
/// Longer without a harness, as the status is then made from the whole tree.
const REBUILD: Duration = Duration::from_secs(5);

/// Shows the status until Ctrl-C (or SIGTERM, SIGHUP), or until stdout is closed.
pub(crate) fn watch(root: &Root, json: bool) -> Result<()> {
    let signals = Signals::new()?;
    let term = || if json { Term::PLAIN } else { Term::of_stdout() };
    let mut out = io::stdout().lock();
    watch_on(root, json, term, &mut out, signals.stop.as_fd())
}

/// The signals that end a watch, as a readable descriptor.
pub(crate) struct Signals {
    pub(crate) stop: UnixStream,
    ids: Vec<signal_hook::SigId>,
}

impl Signals {
    pub(crate) fn new() -> Result<Signals> {
        let fail = |e: io::Error| Error::io("cannot watch for signals", Path::new("signals"), &e);
        let (stop, tell) = UnixStream::pair().map_err(fail)?;
        let mut ids = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let tell = tell.try_clone().map_err(fail)?;
            ids.push(signal_hook::low_level::pipe::register(signal, tell).map_err(fail)?);
        }
        Ok(Signals { stop, ids })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

fn watch_on<W: Write + AsFd>(
    root: &Root,
    json: bool,
    term: impl Fn() -> Term,
    out: &mut W,
    stop: BorrowedFd<'_>,
) -> Result<()> {
    let mut screen = Screen::new(out, term());
    let mut drawn: Option<Drawn> = None;
    loop {
        let now = clock::instant();
        let term = term();
        let file = stamp(root);
        if drawn.as_ref().is_none_or(|d| d.is_due(now, term, file)) {
            let (status, source) = current(root)?;
            let what = key(&status, source);
            let is_new = drawn.as_ref().is_none_or(|d| d.what != what);
            if screen.full || is_new {
                let text = if json {
                    line_of(&status)?
                } else {
                    render(
                        &status,
                        &Needed::of(root, &status),
                        source,
                        clock::now(),
                        &term,
                    )
                };
                if !written(screen.show(text, term, json))? {
                    return Ok(());
                }
            }
            drawn = Some(Drawn {
                at: now,
                term,
                file,
                source,
                what,
            });
        }
        if is_over(screen.out.as_fd(), stop)? {
            return Ok(());
        }
    }
}

/// What was shown last, and when.
struct Drawn {
    at: Instant,
    term: Term,
    file: Option<FileStamp>,
    source: Source,
    /// The status without its times.
    what: String,
}

impl Drawn {
    fn is_due(&self, now: Instant, term: Term, file: Option<FileStamp>) -> bool {
        let age = now.saturating_duration_since(self.at);
        let every = match self.source {
            Source::Live => REDRAW,
            Source::NoHarness | Source::Silent => REBUILD,
        };
        self.term != term || self.file != file || age >= every
    }
}

fn stamp(root: &Root) -> Option<FileStamp> {
    let meta = root.status().symlink_metadata().ok()?;
    Some(FileStamp::of(&meta))
}

/// Equal for two statuses that differ only in their times.
fn key(status: &Status, source: Source) -> String {
    let mut timeless = status.clone();
    timeless.timestamp.clear();
    for harness in &mut timeless.harnesses {
        harness.uptime_seconds = 0;
    }
    let text = serde_json::to_string(&timeless).unwrap_or_default();
    format!("{source:?} {text}")
}

fn line_of(status: &Status) -> Result<String> {
    let line = text::json(status);
    line.map_err(|e| Error::permanent("cannot encode the status", e.to_string()))
        .map(|line| format!("{}\n", String::from_utf8_lossy(&line)))
}

/// The output; on a terminal the alternate screen, so that the scrollback is preserved.
struct Screen<'o, W: Write + AsFd> {
    out: &'o mut W,
    full: bool,
    last: String,
}

impl<'o, W: Write + AsFd> Screen<'o, W> {
    fn new(out: &'o mut W, term: Term) -> Self {
        Screen {
            out,
            full: term.height.is_some(),
            last: String::new(),
        }
    }

    fn show(&mut self, text: String, term: Term, json: bool) -> io::Result<()> {
        if self.full {
            let begin = if self.last.is_empty() {
                "\x1b[?1049h\x1b[?25l"
            } else {
                ""
            };
            // Set before drawing: from here on the screen must be restored.
            self.last = text;
            let frame = frame(&self.last, term.height.unwrap_or(usize::MAX));
            write!(self.out, "{begin}\x1b[H{frame}\x1b[J")?;
        } else if json {
            self.out.write_all(text.as_bytes())?;
        } else {
            let at = super::local_time(&clock::now_iso());
            write!(self.out, "{at}\n{text}\n")?;
        }
        self.out.flush()
    }
}

impl<W: Write + AsFd> Drop for Screen<'_, W> {
    fn drop(&mut self) {
        if self.full && !self.last.is_empty() {
            // The last status stays readable. If the terminal is gone, errors do not matter.
            let text = &self.last;
            drop(write!(self.out, "\x1b[?25h\x1b[?1049l{text}"));
            drop(self.out.flush());
        }
    }
}

/// Waits a moment; `true` if the watch must end: a signal came, or the reader of stdout is gone.
pub(crate) fn is_over(out: BorrowedFd<'_>, stop: BorrowedFd<'_>) -> Result<bool> {
    let mut fds = [
        PollFd::new(stop, PollFlags::POLLIN),
        PollFd::new(out, PollFlags::empty()),
    ];
    match poll(&mut fds, LOOK_MS) {
        Ok(_) => Ok(fds.iter().any(|fd| fd.any().unwrap_or(true))),
        Err(Errno::EINTR) => Ok(false),
        Err(e) => Err(Error::io("cannot wait for", Path::new("stdout"), &e.into())),
    }
}

/// The lines that fit, each clearing the rest of its row.
fn frame(text: &str, height: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1).max(1);
    let shown = if lines.len() > room {
        room.saturating_sub(1)
    } else {
        lines.len()
    };
    let mut out = String::new();
    for line in &lines[..shown] {
        out.push_str(line);
        out.push_str("\x1b[K\n");
    }
    if shown < lines.len() {
        out.push_str(&format!("… {} more lines\x1b[K\n", lines.len() - shown));
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use crate::{aggregator, atomic};
    use std::io::{BufRead, BufReader, Read};
    use std::sync::mpsc;

    const DEADLINE: Duration = Duration::from_secs(20);

    /// A ROOT with a living harness, according to the lock of its file.
    fn living() -> (tempfile::TempDir, Root, std::fs::File) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, private) in root.dirs() {
            atomic::make_dir(&path, private).unwrap();
        }
        let file =
            atomic::create(&root.harnesses().join("1-a.json"), b"{\"pid\":1}", 0o600).unwrap();
        fs2::FileExt::try_lock_exclusive(&file).unwrap();
        (dir, root, file)
    }

    fn put(root: &Root, done: u64) {
        let mut status = aggregator::rebuild(root, Default::default()).unwrap();
        status.work_queue.done = done;
        let json = serde_json::to_vec(&status).unwrap();
        atomic::replace(&root.status(), &json, false).unwrap();
    }

    /// Runs a watch with the test's own output and stop descriptor.
    fn start(
        root: &Root,
        json: bool,
        term: Term,
    ) -> (io::PipeReader, UnixStream, mpsc::Receiver<bool>) {
        let (read, mut write) = io::pipe().unwrap();
        let (stop, ours) = UnixStream::pair().unwrap();
        let (tell, ended) = mpsc::channel();
        let root = root.clone();
        std::thread::spawn(move || {
            let done = watch_on(&root, json, || term, &mut write, stop.as_fd());
            drop(write);
            tell.send(done.is_ok()).unwrap();
        });
        (read, ours, ended)
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_change_and_its_end_ends_the_watch() {
        let (_dir, root, _held) = living();
        put(&root, 1);
        let (read, _ours, ended) = start(&root, true, Term::PLAIN);
        let mut lines = BufReader::new(read);
        for done in [1, 2, 3] {
            put(&root, done);
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            let status: Status = serde_json::from_str(&line).unwrap();
            assert_eq!(status.work_queue.done, done);
        }
        drop(lines);
        assert!(ended.recv_timeout(DEADLINE).unwrap());
    }

    #[test]
    fn a_terminal_gets_its_screen_and_cursor_back_at_a_signal() {
        let (_dir, root, _held) = living();
        put(&root, 7);
        let term = Term {
            color: true,
            width: Some(80),
            height: Some(24),
        };
        let (mut read, mut ours, ended) = start(&root, false, term);
        let mut first = [0; 64];
        let n = read.read(&mut first).unwrap();
        ours.write_all(b"x").unwrap();
        let mut all = String::from_utf8_lossy(&first[..n]).into_owned();
        read.read_to_string(&mut all).unwrap();
        assert!(ended.recv_timeout(DEADLINE).unwrap());
        assert!(all.starts_with("\x1b[?1049h\x1b[?25l\x1b[H"), "{all:?}");
        let (_, after) = all.rsplit_once("\x1b[?25h\x1b[?1049l").unwrap();
        assert!(after.contains("7 done"), "{after:?}");
    }

    #[test]
    fn a_frame_never_scrolls() {
        assert_eq!(frame("a\nb\n", 3), "a\x1b[K\nb\x1b[K\n");
        assert_eq!(frame("a\nb\nc\n", 3), "a\x1b[K\n… 2 more lines\x1b[K\n");
        assert_eq!(frame("a\nb\n", 0).lines().count(), 1);
    }
}
