//! What an agent's CLI says on its standard output, read while it runs: `stdout.log` in,
//! `events.jsonl` and figures out, in the one schema of `event`.
//!
//! Knows no dialect (`adapters` do). Invariants: the raw output is never changed; every whole line
//! is read once and in order; an attempt that is adopted is read again from its beginning, and
//! events that were written before are not written twice.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::adapters::{Parser, Verdict, custom};
use crate::atomic;
use crate::clock;
use crate::event::{Body, Figures, Line, Usage};
use crate::mutant::planted;
use crate::outcome::Exit;

/// A longer line is not read whole: no CLI's own line needs it, and memory is bounded by it.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Read at one look while the agent runs, so that one that floods its output holds nothing up.
const LOOK_BYTES_MAX: u64 = 8 << 20;
/// Read by one call.
const CHUNK_BYTES: usize = 64 << 10;
/// Tools that an agent runs at once are few; a hostile stream has more.
const OPEN_TOOLS_MAX: usize = 1_000;
/// Events are written when so many have come: a flood must not fill the memory.
const WRITE_BYTES: usize = 1 << 20;
/// The end of `events.jsonl` in which its last whole line is looked for; a line is far shorter.
const EVENTS_TAIL_BYTES: u64 = 1 << 20;
/// The end of stderr that a verdict looks at.
const STDERR_TAIL_BYTES: u64 = 8 << 10;

/// What a look reads into and writes from. All streams share a few, for memory's sake, and because
/// one that was just used is still in the processor's cache.
struct Scratch {
    /// `CHUNK_BYTES` of what was read last.
    chunk: Vec<u8>,
    lines: Vec<u8>,
}

static SCRATCH: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());
/// So many looks at once are not slowed down by making new ones.
const SCRATCH_MAX: usize = 8;

impl Scratch {
    fn borrow() -> Scratch {
        let known = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner).pop();
        known.unwrap_or_else(|| Scratch {
            chunk: vec![0; CHUNK_BYTES],
            lines: Vec::new(),
        })
    }

    fn give_back(mut self) {
        self.lines.clear();
        self.lines.shrink_to(WRITE_BYTES);
        let mut known = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < SCRATCH_MAX {
            known.push(self);
        }
    }
}

pub struct Stream {
    dir: PathBuf,
    parser: Box<dyn Parser>,
    raw: Option<File>,
    events: Option<File>,
    /// Bytes of `stdout.log` taken so far, those in `line` included.
    taken: u64,
    /// The line that is not whole yet, and where it begins.
    line: Vec<u8>,
    begins: u64,
    /// What one line says: kept to be filled again.
    bodies: Vec<Body>,
    /// The rest of a line that was too long is passed over.
    skips: bool,
    /// Events of lines that begin before this are on disk already.
    written: u64,
    /// Totals that are not put down yet, and where their line begins and how long it is: where the
    /// next line has new ones, these are worth no event of their own.
    totals: Option<(Usage, u64, u64)>,
    /// Tool calls without a result so far, by id.
    tools: HashSet<String>,
    /// Nothing came after a result.
    finished: bool,
}

impl Stream {
    /// For a session's folder and the dialect that `events` names; `None` for none. `previous`: what
    /// is known of the conversation that this session resumes.
    pub fn open(dir: &Path, events: &str, previous: Option<&Figures>) -> Option<Stream> {
        if events == custom::NONE {
            return None;
        }
        let parser = custom::parser(events, previous)?;
        let mut stream = Stream {
            dir: dir.to_path_buf(),
            parser,
            raw: None,
            events: None,
            taken: 0,
            line: Vec::new(),
            begins: 0,
            bodies: Vec::new(),
            skips: false,
            written: 0,
            totals: None,
            tools: HashSet::new(),
            finished: false,
        };
        stream.written = stream.already_written();
        Some(stream)
    }

    /// Where the first line begins whose events are not all on disk. Of the last line with events
    /// some may be missing: its events are written again only if that line shows no event at all.
    fn already_written(&self) -> u64 {
        let bytes = tail(&self.dir.join("events.jsonl"), EVENTS_TAIL_BYTES);
        let mut lines = bytes.rsplit(|&b| b == b'\n').filter_map(Line::read);
        lines.next().map_or(0, |l| l.offset + l.length + 1)
    }

    /// Reads what is new. `whole`: the agent has ended, so read to the end and take the last line
    /// as it is. Says whether anything came. Trouble with the files is passed over here: the raw
    /// output stays, and the exit status decides without it.
    pub fn read_on(&mut self, whole: bool) -> bool {
        if self.raw.is_none() {
            self.raw = atomic::open_regular(&self.dir.join("stdout.log")).ok();
            // It is read after every write: to note that each time costs as much as many events.
            self.raw.as_ref().map(atomic::leave_atime);
        }
        let Some(raw) = self.raw.take() else {
            return false;
        };
        let began = self.taken;
        let limit = if whole { u64::MAX } else { LOOK_BYTES_MAX };
        let Scratch {
            mut chunk,
            mut lines,
        } = Scratch::borrow();
        // What comes at one look has one time.
        let mut at = String::new();
        while self.taken - began < limit {
            let n = match raw.read_at(&mut chunk, self.taken) {
                Ok(n) if n > 0 => n,
                _ => break,
            };
            if at.is_empty() {
                at = clock::now_iso();
            }
            self.take(&chunk[..n], &at, &mut lines);
            if lines.len() > WRITE_BYTES {
                self.put_totals(&at, &mut lines);
                self.write(&lines);
                lines.clear();
            }
            // There is no more now: what comes meanwhile is for the next look.
            if n < chunk.len() && !whole {
                break;
            }
        }
        self.raw = Some(raw);
        if whole && !self.line.is_empty() && !self.skips {
            let line = std::mem::take(&mut self.line);
            at = clock::now_iso();
            self.parse(&line, &at, &mut lines);
        }
        self.put_totals(&at, &mut lines);
        self.write(&lines);
        Scratch { chunk, lines }.give_back();
        self.taken > began
    }

    fn take(&mut self, mut bytes: &[u8], at: &str, out: &mut Vec<u8>) {
        self.taken += bytes.len() as u64;
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if self.skips {
                self.skips = false;
            } else if self.line.is_empty() {
                self.parse(&bytes[..end], at, out);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend(&bytes[..end]);
                debug_assert!(line.len() <= LINE_BYTES_MAX + end);
                self.parse(&line, at, out);
            }
            bytes = &bytes[end + 1..];
            self.begins = self.taken - bytes.len() as u64;
        }
        if self.skips {
            return;
        }
        self.line.extend(bytes);
        if self.line.len() > LINE_BYTES_MAX && !planted("line-without-bound") {
            let mut bodies = Vec::new();
            let line = std::mem::take(&mut self.line);
            self.parser.too_long(&line, &mut bodies);
            self.note(&bodies, line.len() as u64, at, out);
            self.skips = true;
        }
    }

    fn parse(&mut self, line: &[u8], at: &str, out: &mut Vec<u8>) {
        let mut bodies = std::mem::take(&mut self.bodies);
        self.parser.line(line, &mut bodies);
        self.note(&bodies, line.len() as u64, at, out);
        bodies.clear();
        self.bodies = bodies;
    }

    fn note(&mut self, bodies: &[Body], length: u64, at: &str, out: &mut Vec<u8>) {
        let is_new = self.begins >= self.written;
        let has_totals = bodies.iter().any(|b| matches!(b, Body::Usage(_)));
        // Events stand in the order of their lines.
        if is_new && !bodies.is_empty() && !has_totals {
            self.put_totals(at, out);
        }
        for body in bodies {
            self.follow(body);
            if !is_new {
                continue;
            }
            if let Body::Usage(totals) = body {
                self.totals = Some((*totals, self.begins, length));
                continue;
            }
            if matches!(self.totals, Some((_, begins, _)) if begins == self.begins) {
                self.put_totals(at, out);
            }
            body.write(out, at, self.begins, length);
        }
    }

    /// At the end of a look, and before its events are written.
    fn put_totals(&mut self, at: &str, out: &mut Vec<u8>) {
        if let Some((totals, begins, length)) = self.totals.take() {
            Body::Usage(totals).write(out, at, begins, length);
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
            // Whatever was open is not waited for any more.
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
    pub fn runs_tool(&self) -> bool {
        !self.tools.is_empty()
    }

    /// Whether it said that it has finished, and nothing since.
    pub fn has_finished(&self) -> bool {
        self.finished
    }

    fn write(&mut self, lines: &[u8]) {
        if lines.is_empty() {
            return;
        }
        if self.events.is_none() && atomic::is_own_dir(&self.dir) {
            self.events = atomic::open_append(&self.dir.join("events.jsonl")).ok();
        }
        if let Some(events) = &mut self.events {
            // A full disk: the raw output is what matters, and it is not ours to write.
            let _full = events.write_all(lines);
        }
    }

    pub fn figures(&self) -> &Figures {
        self.parser.figures()
    }

    /// What the CLI's own evidence amounts to, with git's.
    pub fn verdict(&self, exit: Exit, commits: Option<u64>) -> Verdict {
        let verdict = self.parser.verdict(exit, &stderr_tail(&self.dir));
        verdict.weigh(self.figures().denials, commits)
    }
}

/// The end of what it said on standard error.
pub(super) fn stderr_tail(dir: &Path) -> Vec<u8> {
    tail(&dir.join("stderr.log"), STDERR_TAIL_BYTES)
}

/// The last bytes of a file, at most so many; nothing where it cannot be read.
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
    fn of_totals_that_follow_one_another_at_one_look_the_last_ones_are_put_down() {
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
        let told: Vec<String> = lines
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
        assert_eq!(told, want);
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
