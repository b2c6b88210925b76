//! A session's events, or what it prints, as they come: for whoever looks at it now.
//!
//! Invariant: work and memory are bounded, however much an agent says: of what nobody could read, only the
//! size is told.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::events::describe;
use super::reader::{Entry, EventReader};
use super::{Session, State, summary};
use crate::atomic;
use crate::event::Body;
use crate::layout::Root;
use crate::text::bytes;
use crate::view::{Paint, local_time, safe};

/// Of what was there before.
const FIRST_BYTES: u64 = 512 << 10;
/// Of what came since the last look.
const NEW_BYTES: u64 = 64 << 10;
/// Characters of one event: some screens.
const TEXT_CHARS: usize = 4_000;

/// Something that was said, for people.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    /// `10:45:00`; empty: unknown.
    pub(crate) at: String,
    pub(crate) word: String,
    pub(crate) paint: Paint,
    /// Not yet safe; may be several lines.
    pub(crate) text: String,
    /// It goes on with the text before it.
    pub(crate) is_more: bool,
}

pub(crate) struct Live {
    pub(crate) sid: String,
    /// `fix.md, attempt 2, by claude on agent-1: running`, as of the last look.
    pub(crate) title: String,
    root: Root,
    events: Option<EventReader>,
    logs: [Log; 2],
    has_begun: bool,
    has_ended: bool,
}

impl Live {
    pub(crate) fn new(root: &Root, sid: &str) -> Live {
        let dir = root.session(sid);
        let log = |name: &str, word| Log {
            path: dir.join(name),
            word,
            file: None,
            at: 0,
            rest: Vec::new(),
        };
        Live {
            sid: sid.to_owned(),
            title: String::new(),
            root: root.clone(),
            events: None,
            logs: [log("stdout.log", ""), log("stderr.log", "stderr")],
            has_begun: false,
            has_ended: false,
        }
    }

    /// What is new.
    pub(crate) fn look(&mut self) -> Vec<Said> {
        let mut all = Vec::new();
        if self.has_ended {
            return all;
        }
        // Read before its output: all of it is there when the end is seen.
        let session = Session::read(&self.root, &self.sid);
        let is_over = session.state == State::Ended;
        self.title = format!("{}: {}", session.title(), session.word());
        let most = match self.has_begun {
            true => NEW_BYTES,
            false => FIRST_BYTES,
        };
        if session.file.events.is_some() {
            self.read_events(&session, is_over, most, &mut all);
        } else if session.is_described() {
            self.logs[0].read(is_over, most, &mut all);
        }
        self.logs[1].read(is_over, most, &mut all);
        self.has_begun |= !all.is_empty();
        if is_over {
            self.has_ended = true;
            all.push(Said {
                word: "ended".into(),
                paint: Paint::Dim,
                text: summary::line(&session),
                ..Said::default()
            });
        }
        all
    }

    fn read_events(&mut self, session: &Session, is_over: bool, most: u64, all: &mut Vec<Said>) {
        if self.events.is_none() {
            self.events = session.reader();
        }
        let Some(reader) = &mut self.events else {
            return;
        };
        all.extend(left_out(reader.catch_up(most)));
        let mut next = || match is_over {
            true => reader.next_or_last(),
            false => reader.next_whole(),
        };
        while let Some(entry) = next() {
            all.extend(said(&entry));
        }
    }
}

fn left_out(count: u64) -> Option<Said> {
    (count > 0).then(|| Said {
        word: "…".into(),
        paint: Paint::Dim,
        text: format!("{} before this are not shown", bytes(count)),
        ..Said::default()
    })
}

/// `None`: nothing for people.
fn said(entry: &Entry) -> Option<Said> {
    let clock = |at: &str| local_time(at).get(11..).unwrap_or_default().to_owned();
    let (at, word, paint, text, is_more) = match entry {
        Entry::Event(line, _) => {
            if matches!(line.body, Body::Usage(_)) {
                return None;
            }
            let is_more = matches!(line.body, Body::Text { delta: true, .. });
            let (word, paint, text) = describe(&line.body);
            (clock(&line.at), word.to_owned(), paint, text, is_more)
        }
        Entry::Unknown(value, text) => {
            let at = value["at"].as_str().map(clock).unwrap_or_default();
            let word = safe(value["event"].as_str().unwrap_or("?"));
            (at, word, Paint::Dim, text.clone(), false)
        }
        Entry::Bad(length) => {
            let text = format!("{length} bytes of events.jsonl are no event");
            (String::new(), "?".to_owned(), Paint::Red, text, false)
        }
    };
    Some(Said {
        at,
        word,
        paint,
        text: text.chars().take(TEXT_CHARS).collect(),
        is_more,
    })
}

/// A log that grows.
struct Log {
    path: PathBuf,
    word: &'static str,
    file: Option<File>,
    at: u64,
    /// A line without its end yet.
    rest: Vec<u8>,
}

/// A line is cut there.
const LINE_BYTES: usize = 4 << 10;

impl Log {
    fn read(&mut self, is_over: bool, most: u64, all: &mut Vec<Said>) {
        if self.file.is_none() {
            self.file = atomic::open_regular(&self.path).ok();
        }
        let Some(file) = &self.file else { return };
        let end = file.metadata().map_or(0, |m| m.len());
        let from = self.at.max(end.saturating_sub(most));
        let mut new = vec![0; usize::try_from(end.saturating_sub(from)).unwrap_or(0)];
        // A disk error counts as the end of the file.
        let got = file.read_at(&mut new, from).unwrap_or(0);
        new.truncate(got);
        let mut new = &new[..];
        if from > self.at {
            self.rest.clear();
            let begin = new.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
            all.extend(left_out(from - self.at + begin as u64));
            new = &new[begin..];
        }
        self.at = from + got as u64;
        for part in new.split_inclusive(|&b| b == b'\n') {
            self.rest.extend(part);
            if part.ends_with(b"\n") || self.rest.len() > LINE_BYTES {
                self.put(all);
            }
        }
        if is_over && !self.rest.is_empty() {
            self.put(all);
        }
    }

    fn put(&mut self, all: &mut Vec<Said>) {
        let line = std::mem::take(&mut self.rest);
        let line = &line[..line.len().min(LINE_BYTES)];
        all.push(Said {
            word: self.word.to_owned(),
            paint: match self.word {
                "" => Paint::Plain,
                _ => Paint::Yellow,
            },
            text: String::from_utf8_lossy(line).trim_end().to_owned(),
            ..Said::default()
        });
    }
}
