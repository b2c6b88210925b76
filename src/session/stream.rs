//! Reads what an agent's CLI prints while it runs: `stdout.log` in, `events.jsonl` and figures out,
//! in the one schema of `event`.
//!
//! Knows no CLI (`adapters` do). Invariants: the raw output is never changed; each whole line is
//! read once and in order; an adopted attempt is read again from the start, but events that are on
//! disk already are not written twice.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::adapters::{self, Parser};
use crate::atomic;
use crate::clock;
use crate::event::{Body, Fault, Figures, Line};
use crate::mutant::planted;
use crate::outcome::Exit;

/// A longer line is not read: no CLI's own lines are near it. Parsed, a hostile line takes about
/// sixteen times as much memory.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes read at one look while the agent runs, so that a flood delays nothing else.
const LOOK_BYTES_MAX: u64 = 8 << 20;
/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;
/// Open tool calls that are remembered. An agent runs few at once; a hostile stream has more.
const OPEN_TOOLS_MAX: usize = 1_000;
/// Events are written when they take this many bytes, so that a flood does not fill the memory.
const WRITE_BYTES: usize = 1 << 20;
/// The end of `events.jsonl` in which its last whole line is looked for; a line is far shorter.
const EVENTS_TAIL_BYTES: u64 = 1 << 20;
/// The end of stderr that is read for the reason of a failure.
const STDERR_TAIL_BYTES: u64 = 8 << 10;

/// The output of one attempt.
pub(crate) struct Stream {
    dir: PathBuf,
    parser: Parser,
    raw: Option<File>,
    events: Option<File>,
    /// Bytes of `stdout.log` read so far, those in `line` included.
    taken: u64,
    /// The incomplete last line, and its offset.
    line: Vec<u8>,
    begins: u64,
    /// Whether the rest of a line that was too long is being skipped.
    skips: bool,
    /// Events of lines that begin before this offset are on disk already.
    written: u64,
    /// Totals not written yet. If the next line has new ones, these need no event: it would double
    /// the events of a talkative agent.
    totals: Option<Line<()>>,
    /// Ids of tool calls without a result so far.
    tools: HashSet<String>,
    /// Its final event came, and no work after it.
    finished: bool,
    /// When the last result, error or limit was said, at the latest.
    said: Option<String>,
}

impl Stream {
    /// Opens a session's output. `events`: the CLI's dialect; `None` if it is not read. `previous`:
    /// the figures of the conversation that this session resumes.
    pub(crate) fn open(dir: &Path, events: &str, previous: Option<&Figures>) -> Option<Stream> {
        Some(Stream {
            parser: adapters::by_name(events)?.parser(previous),
            written: already_written(dir),
            dir: dir.to_path_buf(),
            raw: None,
            events: None,
            taken: 0,
            line: Vec::new(),
            begins: 0,
            skips: false,
            totals: None,
            tools: HashSet::new(),
            finished: false,
            said: None,
        })
    }

    /// Reads what is new; returns whether anything came. `whole`: the agent has ended, so read to
    /// the end and take the last line as it is. File errors are ignored: the raw output stays, and
    /// the exit status decides.
    pub(crate) fn read_on(&mut self, whole: bool) -> bool {
        if self.raw.is_none() {
            self.raw = atomic::open_regular(&self.dir.join("stdout.log")).ok();
            // It is read after every write: updating its atime each time would cost as much as many
            // events.
            self.raw.as_ref().map(atomic::leave_atime);
        }
        let Some(raw) = self.raw.take() else {
            return false;
        };
        let began = self.taken;
        let limit = if whole { u64::MAX } else { LOOK_BYTES_MAX };
        let (mut chunk, mut out) = (vec![0; CHUNK_BYTES], Vec::new());
        let mut at = None;
        while self.taken - began < limit {
            let n = match raw.read_at(&mut chunk, self.taken) {
                Ok(n) if n > 0 => n,
                _ => break,
            };
            let at = at.get_or_insert_with(|| written_at(&raw));
            self.take(&chunk[..n], at, &mut out);
            if out.len() > WRITE_BYTES {
                self.write_totals(at, &mut out);
                self.write(&out);
                out.clear();
            }
            // No more for now: what comes meanwhile is read at the next look.
            if n < chunk.len() && !whole {
                break;
            }
        }
        self.raw = Some(raw);
        if whole && !self.line.is_empty() && !self.skips {
            let line = std::mem::take(&mut self.line);
            let at = at.get_or_insert_with(clock::now_iso);
            self.parse(&line, at, &mut out);
        }
        self.write_totals(at.as_deref().unwrap_or_default(), &mut out);
        self.write(&out);
        self.taken > began
    }

    fn take(&mut self, mut bytes: &[u8], at: &str, out: &mut Vec<u8>) {
        // Reading from memory cannot fail.
        while let Ok(n @ 1..) = bytes.read_until(b'\n', &mut self.line) {
            self.taken += n as u64;
            if self.line.pop_if(|last| *last == b'\n').is_some() {
                let mut line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.skips) {
                    self.parse(&line, at, out);
                }
                line.clear();
                line.shrink_to(CHUNK_BYTES);
                self.line = line;
                self.begins = self.taken;
            } else if self.skips {
                self.line.clear();
            } else if self.line.len() > LINE_BYTES_MAX && !planted("line-without-bound") {
                let line = std::mem::take(&mut self.line);
                let bodies = self.parser.too_long(&line);
                self.note(bodies, line.len() as u64, at, out);
                self.skips = true;
            }
        }
    }

    fn parse(&mut self, line: &[u8], at: &str, out: &mut Vec<u8>) {
        let bodies = self.parser.line(line);
        self.note(bodies, line.len() as u64, at, out);
    }

    fn note(&mut self, bodies: Vec<Body>, length: u64, at: &str, out: &mut Vec<u8>) {
        let has_totals = bodies.iter().any(|b| matches!(b, Body::Usage(_)));
        // Events keep the order of their lines.
        if !bodies.is_empty() && !has_totals {
            self.write_totals(at, out);
        }
        for body in bodies {
            self.follow(&body);
            if matches!(
                body,
                Body::Finished { .. } | Body::Error { .. } | Body::Limited { .. }
            ) {
                self.said = Some(at.to_owned());
            }
            if self.begins < self.written {
                continue;
            }
            let offset = self.begins;
            if matches!(body, Body::Usage(_)) {
                self.totals = Some(Line {
                    at: (),
                    body,
                    offset,
                    length,
                });
                continue;
            }
            if self.totals.as_ref().is_some_and(|t| t.offset == offset) {
                self.write_totals(at, out);
            }
            let line = Line {
                at,
                body,
                offset,
                length,
            };
            line.write(out);
        }
    }

    /// `at`: when what was read in this look was said.
    fn write_totals(&mut self, at: &str, out: &mut Vec<u8>) {
        if let Some(totals) = self.totals.take() {
            let line = Line {
                at,
                body: totals.body,
                offset: totals.offset,
                length: totals.length,
            };
            line.write(out);
        }
    }

    fn follow(&mut self, body: &Body) {
        match body {
            Body::ToolCall { id: Some(id), .. } if self.tools.len() < OPEN_TOOLS_MAX => {
                self.tools.insert(id.clone());
            }
            Body::ToolResult { id: Some(id), .. } => {
                self.tools.remove(id);
            }
            // Nobody waits for tools that are still open.
            Body::Finished { .. } => self.tools.clear(),
            _ => {}
        }
        self.finished = match body {
            Body::Finished { .. } => true,
            Body::Usage(_) | Body::Other { .. } => self.finished,
            _ => false,
        };
    }

    /// Whether a tool was called whose result has not come.
    pub(crate) fn runs_tool(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Whether its final event came, and no work after it.
    pub(crate) fn has_finished(&self) -> bool {
        self.finished
    }

    /// When its last result, error or limit was said, at the latest.
    pub(crate) fn said(&self) -> Option<clock::Timestamp> {
        self.said.as_ref()?.parse().ok()
    }

    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.events.is_none() && atomic::is_own_dir(&self.dir) {
            self.events = atomic::open_append(&self.dir.join("events.jsonl")).ok();
        }
        if let Some(events) = &mut self.events {
            // On a full disk events are missing; the raw output, which the agent writes, matters more.
            let _full = events.write_all(lines);
        }
    }

    pub(crate) fn figures(&self) -> &Figures {
        self.parser.figures()
    }

    /// What went wrong, according to the CLI and git; `None`: it finished well.
    pub(crate) fn fault(&self, exit: Exit, commits: Option<u64>) -> Option<Fault> {
        let of_cli = self.parser.fault(exit, &stderr_tail(&self.dir));
        of_cli.or_else(|| adapters::permission_fault(self.figures().denials, commits))
    }
}

/// When a log was last written: nothing in it was said later, however much later it is read.
fn written_at(log: &File) -> String {
    let written = log.metadata().map(|meta| clock::mtime_ns(&meta));
    let written = written.ok().filter(|ns| *ns < clock::now_ns());
    let stamp = written.and_then(|ns| clock::Timestamp::from_nanosecond(ns.into()).ok());
    stamp.map_or_else(clock::now_iso, clock::iso)
}

/// The offset of the first line without events on disk. If a crash cut short the events of the line
/// before, the missing ones are not written later.
fn already_written(dir: &Path) -> u64 {
    let bytes = tail(&dir.join("events.jsonl"), EVENTS_TAIL_BYTES);
    let mut lines = bytes.rsplit(|&b| b == b'\n').filter_map(Line::read);
    lines.next().map_or(0, |l| l.offset + l.length + 1)
}

/// The end of what it printed on standard error.
pub(super) fn stderr_tail(dir: &Path) -> Vec<u8> {
    tail(&dir.join("stderr.log"), STDERR_TAIL_BYTES)
}

/// The last bytes of a file, at most `max`; nothing if it cannot be read.
pub(super) fn tail(path: &Path, max: u64) -> Vec<u8> {
    atomic::read_tail(path, max)
        .map(|(end, _)| end)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Tokens;

    fn grown(dir: &Path, text: &str) {
        let mut file = atomic::open_append(&dir.join("stdout.log")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn events(dir: &Path) -> Vec<(String, u64)> {
        let text = std::fs::read(dir.join("events.jsonl")).unwrap();
        let lines = text.split(|&b| b == b'\n').filter_map(Line::read);
        lines
            .filter_map(|l| match l.body {
                Body::Text { text, .. } => Some((text, l.offset)),
                _ => None,
            })
            .collect()
    }

    fn said(id: &str, text: &str) -> String {
        format!(
            "{{\"type\":\"assistant\",\"message\":{{\"id\":\"{id}\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}\n"
        )
    }

    #[test]
    fn a_growing_file_is_read_once_in_order_by_whoever_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, three) = (said("m1", "one"), said("m2", "two"), said("m3", "three"));
        let mut stream = Stream::open(dir.path(), "claude", None).unwrap();
        assert!(!stream.read_on(false));
        grown(dir.path(), &one);
        grown(dir.path(), &two[..20]);
        assert!(stream.read_on(false));
        assert_eq!(events(dir.path()), [("one".into(), 0)]);
        // Its harness dies; the next one reads all of it and writes only what is new.
        drop(stream);
        grown(dir.path(), &two[20..]);
        let mut stream = Stream::open(dir.path(), "claude", None).unwrap();
        stream.read_on(false);
        grown(dir.path(), three.trim_end());
        stream.read_on(false);
        assert_eq!(events(dir.path()).len(), 2);
        stream.read_on(true);
        let text = std::fs::read_to_string(dir.path().join("events.jsonl")).unwrap();
        assert!(!text.contains("\"at\":\"\""), "{text}");
        let at = (one.len() as u64, (one.len() + two.len()) as u64);
        assert_eq!(
            events(dir.path()),
            [
                ("one".into(), 0),
                ("two".into(), at.0),
                ("three".into(), at.1)
            ]
        );
        assert_eq!(stream.figures().turns, 3);
    }

    #[test]
    fn of_totals_that_follow_one_another_in_one_look_only_the_last_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (said("m1", "one"), said("m2", "two"));
        let other = "{\"type\":\"news\"}\n";
        let end = "{\"type\":\"result\",\"result\":\"ok\",\"usage\":{\"input_tokens\":7}}\n";
        grown(dir.path(), &[&one, &two, other, &one, end].concat());
        let mut stream = Stream::open(dir.path(), "claude", None).unwrap();
        stream.read_on(false);
        let three = said("m3", "three");
        grown(dir.path(), &three);
        stream.read_on(false);
        let text = std::fs::read(dir.path().join("events.jsonl")).unwrap();
        let lines: Vec<Line> = text.split(|&b| b == b'\n').filter_map(Line::read).collect();
        assert!(lines.is_sorted_by_key(|l| l.offset));
        let seen: Vec<String> = lines
            .iter()
            .map(|l| match &l.body {
                Body::Text { text, .. } => text.clone(),
                Body::Usage(u) => format!("turns {} input {}", u.turns, u.input_tokens),
                Body::Other { name, .. } => name.clone(),
                Body::Finished { .. } => "finished".into(),
                _ => String::new(),
            })
            .collect();
        let want = [
            "one",
            "two",
            "turns 2 input 0",
            "news",
            "one",
            "turns 2 input 7",
            "finished",
            "three",
            "turns 3 input 7",
        ];
        assert_eq!(seen, want);
        let totals = lines.iter().find(|l| matches!(l.body, Body::Usage(_)));
        let at = (one.len() as u64, two.trim_end().len() as u64);
        assert_eq!(totals.map(|l| (l.offset, l.length)), Some(at));
    }

    #[test]
    fn what_the_conversation_had_used_before_is_not_counted_again() {
        let dir = tempfile::tempdir().unwrap();
        grown(
            dir.path(),
            "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":5000,\"output_tokens\":70}}\n",
        );
        let before = Tokens {
            input: 2000,
            output: 20,
            ..Tokens::default()
        };
        for (conversation, want) in [(None, 5000), (Some(before), 3000)] {
            let previous = Figures {
                conversation,
                ..Figures::default()
            };
            let mut stream = Stream::open(dir.path(), "codex", Some(&previous)).unwrap();
            stream.read_on(true);
            assert_eq!(stream.figures().input_tokens, want);
        }
    }
}
