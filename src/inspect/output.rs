//! What a session's agent printed, for `harness logs`: also while it is being written.
//!
//! Invariant: a terminal never gets a character that it would obey; a pipe gets a log's bytes as they
//! are. Memory does not grow with a log's size.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use super::reader::EventReader;
use super::{Session, events};
use crate::atomic;
use crate::text;
use crate::view::{Paint, Term};

/// How much of a log is in memory.
const CHUNK_BYTES: usize = 64 << 10;

pub(crate) struct Output {
    events: Option<Events>,
    stdout: Log,
    stderr: Log,
    /// `None`: a pipe, which gets bytes.
    terminal: Option<Term>,
    /// Whether the last that was shown did not end its line.
    is_amid: bool,
}

impl Output {
    /// `raw`: the bytes of `stdout.log`, where its events would be shown.
    pub(crate) fn of(session: &Session, raw: bool, terminal: Option<Term>) -> Output {
        let has_events = session.file.events.is_some() && !raw;
        Output {
            events: has_events.then(|| Events {
                path: session.path("events.jsonl"),
                reader: None,
            }),
            stdout: Log::new(session.path("stdout.log")),
            stderr: Log::new(session.path("stderr.log")),
            terminal,
            is_amid: false,
        }
    }

    /// Writes what is new: events or standard output first, then standard error. `is_over`: nobody
    /// writes any more.
    pub(crate) fn write_new(&mut self, is_over: bool, out: &mut dyn Write) -> io::Result<()> {
        let term = self.terminal.unwrap_or(Term::PLAIN);
        match &mut self.events {
            Some(events) => events.write_new(is_over, &term, out)?,
            None => {
                let plain = (Paint::Plain, self.terminal.as_ref());
                self.stdout
                    .write_new(is_over, plain, &mut self.is_amid, out)?;
            }
        }
        let marked = (Paint::Yellow, self.terminal.as_ref());
        self.stderr
            .write_new(is_over, marked, &mut self.is_amid, out)?;
        if is_over && self.is_amid && self.terminal.is_some() {
            writeln!(out)?;
        }
        out.flush()
    }
}

struct Events {
    path: PathBuf,
    reader: Option<EventReader>,
}

impl Events {
    fn write_new(&mut self, is_over: bool, term: &Term, out: &mut dyn Write) -> io::Result<()> {
        if self.reader.is_none() {
            self.reader = EventReader::open(&self.path).ok();
        }
        let Some(reader) = &mut self.reader else {
            return Ok(());
        };
        let mut next = || match is_over {
            true => reader.next_or_last(),
            false => reader.next_whole(),
        };
        while let Some(entry) = next() {
            writeln!(out, "{}", events::line(&entry, term))?;
        }
        Ok(())
    }
}

/// A file that grows.
struct Log {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a character, for a terminal.
    rest: Vec<u8>,
    has_begun: bool,
}

impl Log {
    fn new(path: PathBuf) -> Log {
        Log {
            path,
            file: None,
            rest: Vec::new(),
            has_begun: false,
        }
    }

    fn write_new(
        &mut self,
        is_over: bool,
        (paint, terminal): (Paint, Option<&Term>),
        is_amid: &mut bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if self.file.is_none() {
            self.file = atomic::open_regular(&self.path).ok();
        }
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let got = match file.read(&mut chunk) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // A disk error counts as the end of the file: what was read stays valid.
                got => got.unwrap_or(0),
            };
            let Some(term) = terminal else {
                out.write_all(&chunk[..got])?;
                if got == 0 {
                    return Ok(());
                }
                continue;
            };
            self.rest.extend(&chunk[..got]);
            let whole = match got == 0 && is_over {
                true => self.rest.len(),
                false => whole_characters(&self.rest),
            };
            let shown: Vec<u8> = self.rest.drain(..whole).collect();
            if !shown.is_empty() {
                if !self.has_begun && *is_amid {
                    writeln!(out)?;
                }
                self.has_begun = true;
                *is_amid = shown.last() != Some(&b'\n');
                out.write_all(painted(&text_of(&shown), paint, term).as_bytes())?;
            }
            if got == 0 {
                return Ok(());
            }
        }
    }
}

/// How many bytes there are before a character whose end is missing.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            // It continues one that begins before it.
            0x80..=0xbf => continue,
            _ => 1,
        };
        return if needs > back { at } else { bytes.len() };
    }
    bytes.len()
}

/// Bytes as text that a terminal shows and does not obey.
fn text_of(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&text::page(&chunk.valid().replace("\r\n", "\n")));
        for b in chunk.invalid() {
            out.push_str(&format!("\\x{b:02x}"));
        }
    }
    out
}

/// In this colour, line by line: a colour that goes over a line's end is taken off by some pagers.
fn painted(text: &str, paint: Paint, term: &Term) -> String {
    let line = |line: &str| match line.strip_suffix('\n') {
        Some(line) => paint.on(line, term) + "\n",
        None => paint.on(line, term),
    };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use crate::layout::Root;

    #[test]
    fn a_terminal_is_shown_what_it_must_not_obey_and_a_pipe_gets_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let sid = "019beef0-0000-7000-8000-0000000000aa";
        atomic::make_dir(&root.session(sid), true).unwrap();
        let mut stdout = atomic::open_append(&root.session(sid).join("stdout.log")).unwrap();
        let stderr = b"err \xff\n";
        drop(atomic::create(&root.session(sid).join("stderr.log"), stderr, 0o600).unwrap());
        let session = Session::read(&root, sid);
        let term = Some(Term::PLAIN);
        let mut both = [term, None].map(|t| (Output::of(&session, false, t), Vec::new()));
        let mut write = |bytes: &[u8], is_over: bool| {
            stdout.write_all(bytes).unwrap();
            for (output, to) in &mut both {
                output.write_new(is_over, to).unwrap();
            }
            both.each_ref().map(|(_, to)| to.clone())
        };
        write(b"one\r\n\x1b[2J\xe6\xbc", false);
        let [shown, piped] = write(b"\xa2 end", true);
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "one\n\\u{1b}[2J\nerr \\xff\n漢 end\n"
        );
        let all = b"one\r\n\x1b[2J\xe6\xbcerr \xff\n\xa2 end";
        assert_eq!(piped, all);
    }

    #[test]
    fn half_a_character_waits_for_its_other_half() {
        for (bytes, whole) in [
            (&b"ab"[..], 2),
            (b"", 0),
            (b"a\xe6", 1),
            (b"a\xe6\xbc", 1),
            (b"a\xe6\xbc\xa2", 4),
            (b"\xf0\x9f\x92", 0),
            (b"\x80\x80\x80\x80", 4),
            (b"a\xff", 2),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }
}
