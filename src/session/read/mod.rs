//! A session as others read it: its folder in `state/sessions/`, while its agent runs and ever after.
//! `find` turns what was typed into a session, `lines` reads its events; `tools`, `trouble`,
//! `timeline` and `metrics` are folds over them.
//!
//! Knows no CLI and no terminal. Invariants: reads only; a file that is missing, huge, half-written
//! or garbage makes an answer poorer and never an error; memory does not grow with a file's size.

pub mod find;
pub mod lines;
pub mod metrics;
pub mod timeline;
pub mod tools;
pub mod trouble;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::file::{self, SessionFile};
use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::event::Figures;
use crate::keeper::{self, ExitRecord};
use crate::layout::{Root, SlotId};
use crate::lease;
use crate::limits::STATE_FILE_BYTES_MAX;

use lines::{Got, Lines};

/// The end of a log that is shown and exported: some screens.
pub const TAIL_BYTES: u64 = 16 << 10;
/// What is listed of one session (calls, troubles, rows of a timeline): more is no list that
/// anybody reads, and memory is bounded by it. The newest are kept and the rest is counted.
pub const LISTED_MAX: usize = 10_000;
/// Characters of an input, a result or a text in such a list.
pub const HEAD_CHARS: usize = 200;
/// Calls whose result has not come: an agent runs some dozens at once at most.
pub const OPEN_CALLS_MAX: usize = 1_000;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Before its agent, with it, or at work on its end: somebody holds its slot.
    Running,
    Ended,
    /// It has no recorded end and nobody works on it: the next `harness run` takes it up.
    Left,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Ended => "ended",
            State::Left => "left",
        }
    }
}

/// One session, as its small files told it when it was read.
#[derive(Debug, Clone)]
pub struct Session {
    pub sid: String,
    pub dir: PathBuf,
    pub state: State,
    /// Without a `session.json` that can be read: empty but for the id.
    pub file: SessionFile,
    /// How its process ended: `exit.json`, by the keeper.
    pub exit: Option<ExitRecord>,
}

impl Session {
    pub fn read(root: &Root, sid: &str) -> Session {
        let dir = root.session(sid);
        let file = file::read(&dir, sid).unwrap_or_else(|| SessionFile {
            session: sid.to_owned(),
            ..SessionFile::default()
        });
        Session {
            state: state_of(root, &file),
            exit: exit_of(&dir),
            sid: sid.to_owned(),
            dir,
            file,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether anything of its output was read as events.
    pub fn has_events(&self) -> bool {
        self.lines().is_some()
    }

    /// Its events from the first on. `None`: there are none, or nothing that is a file.
    pub fn lines(&self) -> Option<Lines> {
        Lines::open(&self.path("events.jsonl")).ok()
    }

    /// Calls `each` for every line of its events, in order.
    pub fn each(&self, mut each: impl FnMut(&Got)) {
        let Some(mut lines) = self.lines() else {
            return;
        };
        while let Some(got) = lines.next_or_last() {
            each(&got);
        }
    }

    /// Folded from its events, however far they have come.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        self.each(|got| {
            if let Got::Event(line, _) = got {
                figures.fold(&line.body);
            }
        });
        figures
    }

    /// Seconds from its start to its end, or to now; `None` where it never started.
    pub fn seconds(&self) -> Option<f64> {
        let f = &self.file;
        if self.state == State::Ended && f.seconds > 0.0 {
            return Some(f.seconds);
        }
        if let Some(exit) = &self.exit {
            return Some(exit.seconds);
        }
        let start: Timestamp = f.started_at.parse().ok()?;
        let end = match (self.state, &f.ended_at) {
            (State::Ended, Some(end)) => end.parse().ok()?,
            (State::Ended | State::Left, _) => return None,
            (State::Running, _) => clock::now(),
        };
        Some(end.duration_since(start).as_secs_f64().max(0.0))
    }

    /// Its outcome, or `running` and the like.
    pub fn word(&self) -> &str {
        match (self.state, &self.file.outcome) {
            (State::Ended, Some(outcome)) => outcome,
            (state, _) => state.as_str(),
        }
    }
}

fn state_of(root: &Root, file: &SessionFile) -> State {
    if file.state == "ended" {
        return State::Ended;
    }
    match SlotId::parse(file.slot.as_ref()) {
        Some(slot) if lease::is_held(root, slot) || keeper::is_alive(root, slot) => State::Running,
        _ => State::Left,
    }
}

fn exit_of(dir: &Path) -> Option<ExitRecord> {
    let bytes = atomic::read_small(&dir.join("exit.json"), STATE_FILE_BYTES_MAX).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The last bytes of a file as text, from the beginning of a line where it was cut; empty where
/// there is none.
pub fn tail(path: &Path, bytes: u64) -> String {
    let Ok((end, cut)) = atomic::read_tail(path, bytes) else {
        return String::new();
    };
    let skip = match end.iter().position(|&b| b == b'\n') {
        Some(newline) if cut && newline + 1 < end.len() => newline + 1,
        _ => 0,
    };
    String::from_utf8_lossy(&end[skip..]).into_owned()
}

/// The first characters of a text.
pub fn head(text: &str) -> String {
    let mut chars = text.trim().chars();
    let mut head: String = chars.by_ref().take(HEAD_CHARS).collect();
    if chars.next().is_some() {
        head.push('…');
    }
    head
}

/// A tool's input on one line: `command: make, timeout: 5` for an object.
pub fn input_head(input: &serde_json::Value) -> String {
    use serde_json::Value;
    let plain = |v: &Value| match v {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    match input {
        Value::Null => String::new(),
        Value::Object(map) => {
            let parts: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{k}: {}", plain(v)))
                .collect();
            head(&parts.join(", "))
        }
        other => head(&plain(other)),
    }
}

/// The last `LISTED_MAX` of what was pushed, and how many came before them.
#[derive(Debug, Clone, Serialize)]
pub struct Listed<T> {
    pub rows: std::collections::VecDeque<T>,
    pub left_out: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Listed {
            rows: Default::default(),
            left_out: 0,
        }
    }
}

impl<T> Listed<T> {
    pub fn push(&mut self, row: T) {
        if self.rows.len() == LISTED_MAX {
            self.rows.pop_front();
            self.left_out += 1;
        }
        self.rows.push_back(row);
    }

    /// The place of a row that was the `n`th pushed, from 0; `None`: it is left out.
    pub fn nth(&mut self, n: u64) -> Option<&mut T> {
        let at = n.checked_sub(self.left_out)?;
        self.rows.get_mut(usize::try_from(at).ok()?)
    }

    /// How many were pushed.
    pub fn count(&self) -> u64 {
        self.left_out + self.rows.len() as u64
    }
}

/// Seconds between two instants in RFC 3339, never negative.
pub fn between(from: &str, to: &str) -> Option<f64> {
    let from: Timestamp = from.parse().ok()?;
    let to: Timestamp = to.parse().ok()?;
    Some(to.duration_since(from).as_secs_f64().max(0.0))
}
