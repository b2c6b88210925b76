//! What people see of a session: one file for each `harness session` command that has a view.
//!
//! Reads through `session::read` only. Invariant: what an agent wrote reaches the output through
//! `safe` (text) or `safe_json`, one event on one line.

pub mod errors;
pub mod events;
pub mod export;
pub mod figures;
pub mod list;
pub mod summary;
pub mod timeline;
pub mod tools;
pub mod transcript;
pub mod watch;

use std::io::{self, BufWriter, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock;
use crate::error::Result;
use crate::session::read::{Session, State};

use super::status::written;
use super::{Paint, safe};

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = write(&mut out).and_then(|()| out.flush());
    written(done).map(drop)
}

/// A session as scripts get it: `session.json` with `state`, and while it runs its figures so far.
pub fn as_json(session: &Session) -> Value {
    let mut file = session.file.clone();
    if session.state != State::Ended {
        let figures = session.figures();
        file.turns = figures.turns;
        file.tool_calls = figures.tool_calls;
        file.input_tokens = figures.input_tokens;
        file.output_tokens = figures.output_tokens;
        file.cost_usd = figures.cost_usd.unwrap_or(0.0);
        file.cli_session = figures.cli_session;
        file.last_message = figures.last_message;
        file.seconds = session.seconds().unwrap_or(0.0);
    }
    let mut value = json!(file);
    value["state"] = json!(session.state);
    value
}

/// Words and paint for how it stands.
pub fn standing(session: &Session) -> (&str, Paint) {
    let paint = match (session.state, session.word()) {
        (State::Running, _) => Paint::Cyan,
        (State::Left, _) => Paint::Yellow,
        (State::Ended, "succeeded") => Paint::Green,
        (State::Ended, "no_change" | "ended") => Paint::Plain,
        (State::Ended, _) => Paint::Red,
    };
    (session.word(), paint)
}

/// `fix.md, attempt 2, by mock on agent-1`.
pub fn title(session: &Session) -> String {
    let f = &session.file;
    if f.item.is_empty() {
        return "an unknown item (its session.json is missing or cannot be read)".to_owned();
    }
    format!(
        "{}, attempt {}, by {} on {}",
        safe(&f.item),
        f.attempt,
        safe(&f.agent),
        safe(&f.slot)
    )
}

/// `120ms` below a second, `1.3s` below a minute, else the two largest units.
pub fn took(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if d.as_millis() < 1000 => format!("{}ms", d.as_millis()),
        Ok(d) if d.as_secs() < 60 => format!("{seconds:.1}s"),
        Ok(d) => clock::human(d),
        Err(_) => "?".to_owned(),
    }
}

/// Nothing where it is not known.
pub fn took_or_blank(seconds: Option<f64>) -> String {
    seconds.map_or_else(String::new, took)
}

/// `$0.0312`; nothing where there is none.
pub fn cost(usd: f64) -> String {
    if usd > 0.0 {
        format!("${usd:.4}")
    } else {
        String::new()
    }
}

/// Lines of a name and what is known of it, the names aligned; unknown ones are left out.
#[derive(Default)]
pub struct Facts(Vec<(&'static str, String)>);

impl Facts {
    /// `value` is text from outside: it is made safe here, its lines one below the other.
    pub fn add(&mut self, name: &'static str, value: impl AsRef<str>) {
        let mut name = name;
        for line in value.as_ref().trim_end().lines() {
            self.0.push((name, safe(line.trim_end())));
            name = "";
        }
    }

    pub fn text(&self) -> String {
        let width = self.0.iter().map(|(n, _)| n.len()).max().unwrap_or(0);
        let line = |(name, value): &(&str, String)| {
            let text = format!("  {name:width$}  {value}");
            text.trim_end().to_owned() + "\n"
        };
        self.0.iter().map(line).collect()
    }
}

/// What a script or a plain agent leaves instead of events, said on standard error.
pub fn tell_no_events(session: &Session) {
    let path = session.path("stdout.log");
    let path = super::safe(&path.display().to_string());
    let why = match session.file.events {
        Some(_) if session.state == State::Running => "has no events yet",
        Some(_) => "has no events",
        None => "has no events: its output is not read",
    };
    crate::error::tell(&format!(
        "harness: session {} {why}; what it printed is in {path}",
        session.sid
    ));
}
