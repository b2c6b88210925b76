//! The details of one session: the views behind `harness session …`, one file each.
//!
//! `find` picks the session, `reader` reads its events; `errors`, `metrics`, `timeline` and `tools`
//! fold them and show the result as text or JSON. Invariants: nothing is written; a missing, huge,
//! half-written or damaged file makes the answer incomplete but never an error; memory does not
//! grow with a file's size; an agent's text reaches the output only through `safe` (text) or
//! `safe_json`.

pub(crate) mod errors;
pub(crate) mod events;
pub(crate) mod export;
pub(crate) mod find;
pub(crate) mod list;
pub(crate) mod live;
pub(crate) mod metrics;
mod output;
mod reader;
pub(crate) mod summary;
pub(crate) mod timeline;
pub(crate) mod tools;
mod transcript;
pub(crate) mod watch;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::error::tell;
use crate::event::{Figures, Line};
use crate::keeper::{self, ExitRecord};
use crate::layout::{Root, SlotId};
use crate::lease;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::session::file::{self, FileState, SessionFile};
use crate::view::{Paint, count_of, safe};

pub(crate) use output::Output;
use reader::{Entry, EventReader};

/// How much of a log's end is shown and exported: a few screens.
const TAIL_BYTES: u64 = 16 << 10;
/// Most rows kept of one session's calls, errors or timeline, to bound memory. The newest are kept;
/// the others are counted.
const ROWS_MAX: usize = 10_000;
/// Characters of an input, a result or a text in such a row.
const HEAD_CHARS: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A harness holds its slot: before, during or after the agent process.
    Running,
    Ended,
    /// It has no recorded end and no harness: the next `harness run` takes it over.
    Left,
}

impl From<State> for FileState {
    fn from(state: State) -> FileState {
        match state {
            State::Running => FileState::Running,
            State::Ended => FileState::Ended,
            State::Left => FileState::Left,
        }
    }
}

/// One session, from its small files as of when they were read.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) sid: String,
    dir: PathBuf,
    pub(crate) state: State,
    /// Empty except for the id if `session.json` is unreadable.
    pub(crate) file: SessionFile,
    /// How the agent process ended: `exit.json`, written by the keeper.
    exit: Option<ExitRecord>,
}

impl Session {
    pub(crate) fn read(root: &Root, sid: &str) -> Session {
        let dir = root.session(sid);
        let file = file::read(&dir, sid).unwrap_or_else(|| SessionFile {
            session: sid.to_owned(),
            ..SessionFile::default()
        });
        Session {
            state: state_of(root, &file),
            exit: read_json(&dir.join("exit.json")),
            sid: sid.to_owned(),
            dir,
            file,
        }
    }

    pub(crate) fn has_folder(&self) -> bool {
        atomic::is_own_dir(&self.dir)
    }

    /// Whether its `session.json` is there and can be read.
    pub(crate) fn is_described(&self) -> bool {
        !self.file.slot.is_empty()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `None`: there is no `events.jsonl`, or it is no regular file.
    fn reader(&self) -> Option<EventReader> {
        EventReader::open(&self.path("events.jsonl")).ok()
    }

    fn has_events(&self) -> bool {
        self.reader().is_some()
    }

    /// All lines of `events.jsonl`, also a last one without a newline.
    fn entries(&self) -> impl Iterator<Item = Entry> {
        let mut reader = self.reader();
        std::iter::from_fn(move || reader.as_mut()?.next_or_last())
    }

    fn events(&self) -> impl Iterator<Item = Line> {
        self.entries().filter_map(|entry| match entry {
            Entry::Event(line, _) => Some(*line),
            Entry::Unknown(..) | Entry::Bad(_) => None,
        })
    }

    /// Folded from the events so far; without events, those of `session.json`.
    fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        if self.has_events() {
            self.events().for_each(|line| figures.fold(&line.body));
            return figures;
        }
        let f = &self.file;
        Figures {
            turns: f.turns,
            tool_calls: f.tool_calls,
            input_tokens: f.input_tokens,
            output_tokens: f.output_tokens,
            cost_usd: (f.cost_usd > 0.0).then_some(f.cost_usd),
            cli_session: f.cli_session.clone(),
            last_message: f.last_message.clone(),
            ..figures
        }
    }

    /// `session.json`, with the figures so far if it has not ended.
    fn current(&self) -> SessionFile {
        if self.state == State::Ended {
            return self.file.clone();
        }
        let figures = self.figures();
        SessionFile {
            turns: figures.turns,
            tool_calls: figures.tool_calls,
            input_tokens: figures.input_tokens,
            output_tokens: figures.output_tokens,
            cost_usd: figures.cost_usd.unwrap_or(0.0),
            cli_session: figures.cli_session,
            last_message: figures.last_message,
            seconds: self.seconds().unwrap_or(0.0),
            ..self.file.clone()
        }
    }

    /// `session.json` with the figures so far and `state`: `running`, `ended` or `left`.
    pub(crate) fn told(&self) -> SessionFile {
        SessionFile {
            state: FileState::from(self.state).into(),
            ..self.current()
        }
    }

    /// Seconds from the agent process's start to its end, or to now; `None`: it never started.
    fn seconds(&self) -> Option<f64> {
        let f = &self.file;
        if self.state == State::Ended && f.seconds > 0.0 {
            return Some(f.seconds);
        }
        if let Some(exit) = &self.exit {
            return Some(exit.seconds);
        }
        let end = match (self.state, &f.ended_at) {
            (State::Ended, Some(end)) => end.clone(),
            (State::Ended | State::Left, _) => return None,
            (State::Running, _) => clock::now_iso(),
        };
        between(&f.started_at, &end)
    }

    /// Its outcome, or `running`, `ended`, `left`; with its colour.
    fn standing(&self) -> (&str, Paint) {
        match (self.state, self.file.outcome()) {
            (State::Running, _) => ("running", Paint::Cyan),
            (State::Left, _) => ("left", Paint::Yellow),
            (State::Ended, None) => ("ended", Paint::Plain),
            (State::Ended, Some(outcome)) => match outcome {
                "succeeded" => (outcome, Paint::Green),
                "no_change" => (outcome, Paint::Plain),
                _ => (outcome, Paint::Red),
            },
        }
    }

    fn word(&self) -> &str {
        self.standing().0
    }

    /// `fix.md, attempt 2, by claude on agent-1`.
    fn title(&self) -> String {
        let f = &self.file;
        if f.item.is_empty() {
            return "an unknown item (its session.json is missing or cannot be read)".to_owned();
        }
        let [item, agent, slot] = [&f.item, &f.agent, &f.slot].map(|text| safe(text));
        format!("{item}, attempt {}, by {agent} on {slot}", f.attempt)
    }

    /// Says on standard error why there are no events to show, and where the output is.
    fn tell_no_events(&self) {
        let why = match self.file.events {
            Some(_) if self.state == State::Running => "has no events yet",
            Some(_) => "has no events",
            None => "has no events: its output is not read",
        };
        let path = self.path("stdout.log");
        let path = safe(&path.display().to_string());
        tell(&format!(
            "harness: session {} {why}; what it printed is in {path}",
            self.sid
        ));
    }
}

fn state_of(root: &Root, file: &SessionFile) -> State {
    if file.has_ended() {
        return State::Ended;
    }
    match SlotId::parse(file.slot.as_ref()) {
        Some(slot) if lease::is_held(root, slot) || keeper::is_alive(root, slot) => State::Running,
        _ => State::Left,
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = atomic::read_small(path, STATE_FILE_BYTES_MAX).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The last bytes of a file as text, from the start of a line if clipped; empty if there is no
/// file.
fn tail(path: &Path) -> String {
    let Ok((end, cut)) = atomic::read_tail(path, TAIL_BYTES) else {
        return String::new();
    };
    let skip = match end.iter().position(|&b| b == b'\n') {
        Some(newline) if cut && newline + 1 < end.len() => newline + 1,
        _ => 0,
    };
    String::from_utf8_lossy(&end[skip..]).into_owned()
}

/// The first characters of a text.
fn head(text: &str) -> String {
    let mut chars = text.trim().chars();
    let mut head: String = chars.by_ref().take(HEAD_CHARS).collect();
    if chars.next().is_some() {
        head.push('…');
    }
    head
}

/// A tool's input on one line: `command: make, timeout: 5` for an object.
fn input_head(input: &Value) -> String {
    let plain = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    match input {
        Value::Null => String::new(),
        Value::Object(map) => {
            let parts = map.iter().map(|(k, v)| format!("{k}: {}", plain(v)));
            head(&parts.collect::<Vec<_>>().join(", "))
        }
        other => head(&plain(other)),
    }
}

/// The known names and values, as `model sonnet, version 2.1`.
fn known(values: [(&str, &Option<String>); 3]) -> String {
    let known = values.iter();
    let known = known.filter_map(|(name, v)| v.as_ref().map(|v| format!("{name} {v}")));
    known.collect::<Vec<_>>().join(", ")
}

/// The last `ROWS_MAX` rows pushed, and the number of earlier ones.
#[derive(Debug, Clone)]
struct Newest<T> {
    rows: VecDeque<T>,
    left_out: u64,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Newest {
            rows: VecDeque::new(),
            left_out: 0,
        }
    }
}

impl<T> Newest<T> {
    fn push(&mut self, row: T) {
        if self.rows.len() == ROWS_MAX {
            self.rows.pop_front();
            self.left_out += 1;
        }
        self.rows.push_back(row);
    }

    /// Row number `n`, from 0; `None` if it is no longer kept.
    fn nth(&mut self, n: u64) -> Option<&mut T> {
        let at = n.checked_sub(self.left_out)?;
        self.rows.get_mut(usize::try_from(at).ok()?)
    }

    /// How many rows were pushed.
    fn count(&self) -> u64 {
        self.left_out + self.rows.len() as u64
    }

    /// A line about the rows not kept; empty if all are.
    fn left_out_text(&self, thing: &str) -> String {
        match self.left_out {
            0 => String::new(),
            n => format!("({} before these)\n", count_of(n, &format!("more {thing}"))),
        }
    }
}

/// Seconds between two RFC 3339 times, never negative.
fn between(from: &str, to: &str) -> Option<f64> {
    let from: Timestamp = from.parse().ok()?;
    let to: Timestamp = to.parse().ok()?;
    Some(to.duration_since(from).as_secs_f64().max(0.0))
}

/// Lines of a name and a value, with aligned names; empty values are omitted.
#[derive(Default)]
struct Facts(Vec<(&'static str, String)>);

impl Facts {
    /// `value` may be foreign text: it is made safe here; its lines are aligned.
    fn add(&mut self, name: &'static str, value: impl AsRef<str>) {
        let mut name = name;
        for line in value.as_ref().trim_end().lines() {
            self.0.push((name, safe(line.trim_end())));
            name = "";
        }
    }

    fn text(&self, session: &Session) -> String {
        let width = self.0.iter().map(|(n, _)| n.len()).max().unwrap_or(0);
        let mut out = format!("{}: {}\n", session.sid, session.title());
        for (name, value) in &self.0 {
            out += format!("  {name:width$}  {value}").trim_end();
            out.push('\n');
        }
        out
    }
}
