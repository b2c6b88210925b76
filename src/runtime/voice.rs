//! One thread writes what people read, so that a reader that stalls (Ctrl-S, a pager, a full pipe)
//! holds nobody up. Knows nothing of what is said.
//!
//! Invariants: `put` never blocks. Memory is bounded: what does not fit is left out and counted, and
//! the count is written in its place. Each text is one write, so that lines of several threads and
//! processes never mix. Where nobody listens any more (a closed pipe), nothing ends. What stands below
//! the texts on a terminal (`show`) is erased before a text and drawn again after it: of what could not
//! be drawn in time only the newest is kept.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;

use super::lock;
use crate::clock;
use crate::error::{Error, Result};
use crate::term::{Paint, Term, rows};
use crate::text::count_of;
use crate::waker::{self, Waker};

/// Some ten thousand lines.
const BYTES_MAX: usize = 1 << 20;
/// The writer is woken when there is something to write.
const REST: Duration = Duration::from_secs(3_600);
/// After a write, texts are collected for so long: to be woken for each costs more than to write them.
const COLLECT: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Stdout,
    Stderr,
}

pub(super) struct Voice(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Woken when there is something to write.
    more: Waker,
    /// Woken after each write, once somebody waits for the end.
    wrote: Waker,
}

#[derive(Default)]
struct Queue {
    texts: VecDeque<(To, String)>,
    bytes: usize,
    /// Texts that did not fit after those in the queue.
    left_out: u64,
    /// Whether the thread is writing one.
    writes: bool,
    /// Whether the thread looks again without being woken.
    awake: bool,
    /// Somebody waits for the end.
    ends: bool,
    /// What went wrong when standard output was last written to.
    trouble: Option<io::Error>,
    /// The lines that are to stand below all texts.
    below: Vec<(Paint, String)>,
}

impl Voice {
    pub(super) fn new() -> Result<Voice> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            more: Waker::new()?,
            wrote: Waker::new()?,
        });
        let writer = shared.clone();
        // It ends with the process: nobody joins a thread that a reader may hold up for ever.
        std::thread::Builder::new()
            .name("voice".into())
            .spawn(move || writer.write_on())
            .map_err(|e| Error::temporary("cannot start a thread", e.to_string()))?;
        Ok(Voice(shared))
    }

    /// Has this written, unless too much waits already.
    pub(super) fn put(&self, to: To, text: String) {
        let mut queue = lock(&self.0.queue);
        // Nothing comes in after what was left out until the note that says so is written.
        if queue.left_out > 0 || queue.bytes + text.len() > BYTES_MAX {
            queue.left_out += 1;
            return;
        }
        queue.push(to, text);
        let was_awake = std::mem::replace(&mut queue.awake, true);
        drop(queue);
        if !was_awake {
            self.0.more.wake();
        }
    }

    /// Has these lines stand below all texts, instead of those before, until the end. Each must be
    /// shorter than the terminal is wide.
    pub(super) fn show(&self, lines: Vec<(Paint, String)>) {
        let mut queue = lock(&self.0.queue);
        if queue.ends || queue.below == lines {
            return;
        }
        queue.below = lines;
        let was_awake = std::mem::replace(&mut queue.awake, true);
        drop(queue);
        if !was_awake {
            self.0.more.wake();
        }
    }

    /// Has this written last, and gives the reader a short time: it ends when `patience` passes
    /// without a write, after five times that in any case. An error is standard output's.
    pub(super) fn end(&self, to: To, text: String, patience: Duration) -> io::Result<()> {
        let mut queue = lock(&self.0.queue);
        if let Some(note) = queue.note() {
            queue.push(To::Stderr, note);
        }
        if !std::mem::take(&mut queue.below).is_empty() {
            // It erases what is drawn.
            queue.push(To::Stderr, String::new());
        }
        if !text.is_empty() {
            queue.push(to, text);
        }
        queue.ends = true;
        drop(queue);
        self.0.more.wake();
        let end = clock::instant() + patience * 5;
        loop {
            let mut queue = lock(&self.0.queue);
            if queue.texts.is_empty() && !queue.writes {
                return queue.trouble.take().map_or(Ok(()), Err);
            }
            drop(queue);
            let is_over = clock::instant() >= end;
            if is_over || !self.0.wrote.wait(patience) {
                return Ok(());
            }
        }
    }
}

impl Queue {
    fn push(&mut self, to: To, text: String) {
        self.bytes += text.len();
        self.texts.push_back((to, text));
    }

    /// What says that texts were left out, if some were.
    fn note(&mut self) -> Option<String> {
        let left_out = std::mem::take(&mut self.left_out);
        (left_out > 0).then(|| {
            let lines = count_of(left_out, "message");
            format!("! {lines} left out here: nobody read them in time\n")
        })
    }

    /// `rests`: where there is none, the thread waits to be woken.
    fn next(&mut self, rests: bool) -> Option<(To, String)> {
        let next = match self.texts.pop_front() {
            Some((to, text)) => {
                self.bytes -= text.len();
                Some((to, text))
            }
            None => self.note().map(|note| (To::Stderr, note)),
        };
        self.writes = next.is_some();
        self.awake = self.writes || !rests;
        next
    }
}

impl Shared {
    /// The thread's life.
    fn write_on(&self) {
        let mut rests = true;
        let mut drawn = Drawn::default();
        loop {
            let mut queue = lock(&self.queue);
            let (next, ends) = (queue.next(rests), queue.ends);
            let is_new = next.is_none() && queue.below != drawn.lines;
            let below = is_new.then(|| queue.below.clone());
            drop(queue);
            if ends {
                self.wrote.wake();
            }
            if let Some(below) = below {
                drawn.draw(below);
                continue;
            }
            let Some((to, text)) = next else {
                self.more.wait(if rests { REST } else { COLLECT });
                rests = true;
                continue;
            };
            let erase = drawn.erase();
            let written = match to {
                To::Stdout => {
                    let _gone = write(&io::stderr(), &erase);
                    write(&io::stdout(), &text)
                }
                To::Stderr => write(&io::stderr(), &(erase + &text)),
            };
            if let (To::Stdout, Err(e)) = (to, written) {
                lock(&self.queue).trouble = Some(e);
            }
            rests = false;
        }
    }
}

/// The lines that stand below the texts.
#[derive(Default)]
struct Drawn {
    lines: Vec<(Paint, String)>,
    /// Not where this job was in the background: a shell's prompt stands there.
    on_screen: bool,
}

impl Drawn {
    /// Draws these in the place of those.
    fn draw(&mut self, lines: Vec<(Paint, String)>) {
        let mut text = self.erase();
        self.on_screen = is_in_foreground();
        if self.on_screen {
            let term = Term::of_stderr();
            let lines = lines
                .iter()
                .map(|(paint, line)| paint.on(line, &term) + "\n");
            text.extend(lines);
        }
        let _gone = write(&io::stderr(), &text);
        self.lines = lines;
    }

    /// What takes them away. A terminal that has become narrower has wrapped them into more rows. Each row
    /// by itself: where "all below" begins in the first row, tmux keeps it for whoever scrolls back.
    fn erase(&mut self) -> String {
        let lines = std::mem::take(&mut self.lines);
        let is_there = std::mem::take(&mut self.on_screen) && is_in_foreground();
        if lines.is_empty() || !is_there {
            return String::new();
        }
        let width = Term::of_stderr().width.unwrap_or(usize::MAX);
        let rows: usize = lines.iter().map(|(_, line)| rows(line, width)).sum();
        "\r".to_owned() + &"\x1b[A\x1b[2K".repeat(rows)
    }
}

fn is_in_foreground() -> bool {
    rustix::termios::tcgetpgrp(io::stderr()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Not through the lock and the buffer of the standard library: whoever else wrote there would wait
/// with us.
fn write(to: &impl AsFd, text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match nix::unistd::write(to, rest) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Another program that shares the terminal has made it so.
            Err(Errno::EAGAIN) => waker::wait_until_writable(to.as_fd()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_where_it_would_have_stood() {
        let voice = Voice(Arc::new(Shared {
            queue: Mutex::default(),
            more: Waker::new().unwrap(),
            wrote: Waker::new().unwrap(),
        }));
        // Nobody writes: as with a reader that stalls.
        let line = "x".repeat(BYTES_MAX / 4);
        for _ in 0..7 {
            voice.put(To::Stderr, line.clone());
        }
        // A short one would fit, but not in its order.
        voice.put(To::Stderr, "short".into());
        let mut queue = lock(&voice.0.queue);
        assert!(queue.bytes <= BYTES_MAX);
        for _ in 0..4 {
            assert_eq!(queue.next(true).unwrap().1.len(), line.len());
        }
        let note = queue.next(true).unwrap();
        assert_eq!(
            note,
            (
                To::Stderr,
                "! 4 messages left out here: nobody read them in time\n".to_owned()
            )
        );
        assert!(queue.next(true).is_none() && !queue.writes);
        drop(queue);
        // It flows again. The end waits no longer than a moment for a reader that does not come.
        voice.put(To::Stderr, "more".into());
        let began = clock::instant();
        let patience = Duration::from_millis(20);
        voice.end(To::Stdout, "last".into(), patience).unwrap();
        assert!(began.elapsed() >= patience);
        let mut queue = lock(&voice.0.queue);
        let texts = [queue.next(true), queue.next(true)].map(|t| t.unwrap().1);
        assert_eq!(texts, ["more", "last"]);
    }
}
