//! The terminal: taken over, drawn on, and left as it was found, however this process ends.
//!
//! Invariant: once the terminal is left, nothing more is written to it, also not what was drawn by halves when
//! a thread panicked. A terminal that takes nothing (a stopped ssh) keeps nobody from ending.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};

use super::signals::Signals;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::mutant::planted;
use crate::waker::wait_until_writable_for;

/// The alternate screen, empty, without a cursor; pasted text comes marked.
const TAKE: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[0m\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?2004l\x1b[?25h\x1b[?1049l";
/// How long a terminal that takes nothing is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(250);

/// What the terminal was before; `None`: it is as it was.
static FOUND: Mutex<Option<Found>> = Mutex::new(None);

struct Found {
    modes: Termios,
    input: OwnedFd,
    output: OwnedFd,
}

fn found<T>(with: impl FnOnce(&mut Option<Found>) -> T) -> T {
    with(&mut FOUND.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Gives the terminal back. From any thread, any number of times.
pub(super) fn leave() {
    let Some(before) = found(Option::take).filter(|_| !planted("terminal-kept")) else {
        return;
    };
    let end = clock::instant() + PATIENCE;
    // A terminal that is gone needs nothing.
    let _gone = write_all(before.output.as_fd(), LEAVE, || clock::instant() >= end);
    let _gone = tcsetattr(&before.input, SetArg::TCSANOW, &before.modes);
}

/// A panic's message is for a terminal that shows it.
fn leave_at_a_panic() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            before(info);
        }));
    });
}

pub(super) struct Screen {
    input: OwnedFd,
    out: Out,
    /// What it shows.
    shown: Buffer,
    cursor: Option<Position>,
    is_blank: bool,
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn take(
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
        signals: &Signals,
    ) -> Result<Screen> {
        leave_at_a_panic();
        let fail = |e: io::Error| Error::io("cannot use the terminal", Path::new("stdout"), &e);
        let out = Out {
            to: own(output).map_err(fail)?.into(),
            pending: Vec::new(),
            signals: signals.clone(),
        };
        let mut screen = Screen {
            input: input.try_clone_to_owned().map_err(fail)?,
            out,
            shown: Buffer::empty(Rect::ZERO),
            cursor: None,
            is_blank: true,
        };
        screen.again()?;
        Ok(screen)
    }

    /// Takes it over again, after whoever had it meanwhile.
    pub(super) fn again(&mut self) -> Result<()> {
        let here = Path::new("stdin");
        let what = "cannot use the terminal";
        let modes = tcgetattr(&self.input).or_fail(what, here)?;
        let mut raw = modes.clone();
        cfmakeraw(&mut raw);
        let output = self.out.to.try_clone().or_fail(what, here)?.into();
        let input = self.input.try_clone().or_fail(what, here)?;
        found(|found| {
            found.get_or_insert(Found {
                modes,
                input,
                output,
            });
        });
        // Set before anything is drawn: from here on it must be given back.
        tcsetattr(&self.input, SetArg::TCSANOW, &raw).or_fail(what, here)?;
        self.out.pending = TAKE.to_vec();
        self.is_blank = true;
        Ok(())
    }

    /// Draws everything anew at the next `show`.
    pub(super) fn wipe(&mut self) {
        self.out.pending = b"\x1b[0m\x1b[2J".to_vec();
        self.is_blank = true;
    }

    /// Columns and rows; what says nothing of itself is 80x24.
    pub(super) fn size(&self) -> Rect {
        let size = rustix::termios::tcgetwinsize(self.out.to.as_fd()).ok();
        let known = size.filter(|s| s.ws_col > 0 && s.ws_row > 0);
        let (width, height) = known.map_or((80, 24), |s| (s.ws_col, s.ws_row));
        // More cells than ratatui counts, or anybody has.
        Rect::new(0, 0, width.min(1_000), height.min(500))
    }

    /// Whether what it shows was drawn for another size.
    pub(super) fn is_outgrown(&self) -> bool {
        self.shown.area != self.size() || self.is_blank
    }

    /// Shows this.
    pub(super) fn show(&mut self, next: Buffer, cursor: Option<Position>) -> Result<Shown> {
        if !found(|found| found.is_some()) {
            let why = "a part of it has failed, as the lines above say";
            return Err(Error::permanent("the live view has ended", why));
        }
        match self.draw(next, cursor) {
            Ok(()) => Ok(Shown::Yes),
            // Nobody is there any more, or this process is to end.
            Err(_) => Ok(Shown::Gone),
        }
    }

    fn draw(&mut self, next: Buffer, cursor: Option<Position>) -> io::Result<()> {
        if self.shown.area != next.area && !self.is_blank {
            self.wipe();
        }
        if self.is_blank {
            self.shown = Buffer::empty(next.area);
            self.cursor = None;
            self.is_blank = false;
        }
        let cells = self.shown.diff(&next);
        let is_same = cells.is_empty() && cursor == self.cursor;
        if !is_same {
            let mut backend = CrosstermBackend::new(&mut self.out);
            backend.draw(cells.into_iter())?;
            match cursor {
                Some(at) => {
                    backend.set_cursor_position(at)?;
                    backend.show_cursor()?;
                }
                None => backend.hide_cursor()?,
            }
        }
        self.shown = next;
        self.cursor = cursor;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Yes,
    Gone,
}

/// The terminal opened once more: what is set on this one (not to wait) is nobody else's.
fn own(terminal: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", terminal.as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match open(&*path, flags, Mode::empty()) {
        Ok(opened) => Ok(opened),
        // Another user's, after `su`: then writes to it wait.
        Err(_) => terminal.try_clone_to_owned(),
    }
}

/// A whole screen at once. Nothing is written but by `flush`.
struct Out {
    to: File,
    pending: Vec<u8>,
    signals: Signals,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let all = std::mem::take(&mut self.pending);
        let signals = &self.signals;
        write_all(self.to.as_fd(), &all, || signals.ended().is_some())
    }
}

/// Waits for a terminal that takes nothing until `is_over`.
fn write_all(to: BorrowedFd<'_>, bytes: &[u8], is_over: impl Fn() -> bool) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) if is_over() => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(nix::errno::Errno::EAGAIN) => wait_until_writable_for(to, LOOK),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags};
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// The other end of a terminal, read until these bytes came.
    fn read_until(master: &OwnedFd, want: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let end = clock::instant() + Duration::from_secs(60);
        while !all.windows(want.len()).any(|w| w == want) {
            assert!(clock::instant() < end, "{all:?}");
            let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
            if nix::poll::poll(&mut fds, 100_u16).unwrap() == 0 {
                continue;
            }
            let mut some = [0; 4096];
            let n = nix::unistd::read(master, &mut some).unwrap();
            all.extend(&some[..n]);
        }
        all
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_nothing_is_drawn_after_it() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let signals = Signals::default();
        let (input, output) = (pty.slave.as_fd(), pty.slave.as_fd());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut screen = Screen::take(input, output, &signals).unwrap();
            let raw = tcgetattr(&pty.slave).unwrap();
            assert!(raw.local_flags != before.local_flags);
            let next = Buffer::with_lines(["hello"]);
            screen.show(next, None).unwrap();
            screen.out.write_all(b"half a screen").unwrap();
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        let all = read_until(&pty.master, LEAVE);
        assert!(all.starts_with(TAKE) && all.ends_with(LEAVE), "{all:?}");
        assert!(!String::from_utf8_lossy(&all).contains("half"), "{all:?}");
        assert_eq!(tcgetattr(&pty.slave).unwrap(), before);
    }
}
