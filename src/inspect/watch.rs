//! `harness session watch`: a session's events as they come, until it ends.
//!
//! Invariant: every event before the end is shown: the state is read before the events, so that all
//! events are in the file when the end is seen.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use schemars::JsonSchema;
use serde::Serialize;

use super::reader::EventReader;
use super::{Session, State, events, summary};
use crate::atomic;
use crate::error::{Error, Result, tell};
use crate::layout::Root;
use crate::text;
use crate::view::watch::{Signals, is_over};
use crate::view::{Term, written};

/// Checks (5 per second) without a harness before this is reported: another harness may be about to
/// take the session over.
const LEFT_LOOKS: u32 = 15;

/// Shows events until the session ends, a signal comes (Ctrl-C, SIGTERM, SIGHUP), or the reader of
/// stdout is gone.
///
/// # Errors
/// Permanent if the session's folder disappears.
pub(crate) fn watch(root: &Root, sid: &str, json: bool) -> Result<u8> {
    let signals = Signals::new()?;
    let mut out = io::stdout().lock();
    let mut watched = Watched::default();
    loop {
        let session = Session::read(root, sid);
        if !written(watched.show(&session, json, &mut out))? || session.state == State::Ended {
            return Ok(0);
        }
        if atomic::is_gone(&session.dir) {
            let why = "its folder is gone: the item was put back before its agent started, or somebody removed it";
            return Err(Error::permanent("the session cannot be watched", why)
                .at_path(&session.dir)
                .hint("`harness session list` shows what there is"));
        }
        watched.tell(&session);
        if is_over(out.as_fd(), signals.stop.as_fd())? {
            return Ok(0);
        }
    }
}

/// The last line of a watch.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Ended<'s> {
    /// `session_ended`
    event: &'static str,
    /// When it ended.
    at: Option<&'s str>,
    session: &'s str,
    item: &'s str,
    outcome: Option<&'s str>,
    reason: Option<&'s str>,
    /// From start to the end of the last process of its tree.
    seconds: f64,
}

#[derive(Default)]
struct Watched {
    reader: Option<EventReader>,
    has_told: bool,
    /// How many checks in a row found no harness.
    left: u32,
}

impl Watched {
    /// Writes new events, and the last line once the session has ended.
    fn show(&mut self, session: &Session, json: bool, out: &mut dyn Write) -> io::Result<()> {
        let term = if json { Term::PLAIN } else { Term::of_stdout() };
        let mut out = BufWriter::new(out);
        if self.reader.is_none() {
            self.reader = session.reader();
        }
        let is_over = session.state == State::Ended;
        while let Some(reader) = &mut self.reader {
            let entry = if is_over {
                reader.next_or_last()
            } else {
                reader.next_whole()
            };
            let Some(entry) = entry else { break };
            if !json {
                writeln!(out, "{}", events::line(&entry, &term))?;
            } else if let Some(line) = events::json_line(&entry) {
                out.write_all(line.as_bytes())?;
            }
        }
        if is_over && json {
            let f = &session.file;
            let end = Ended {
                event: "session_ended",
                at: f.ended_at.as_deref(),
                session: &session.sid,
                item: &f.item,
                outcome: f.outcome(),
                reason: f.reason.as_deref(),
                seconds: f.seconds,
            };
            out.write_all(&text::json(&end)?)?;
            out.write_all(b"\n")?;
        } else if is_over {
            writeln!(out, "{}", summary::line(session))?;
        }
        out.flush()
    }

    /// Says once why there is nothing to show.
    fn tell(&mut self, session: &Session) {
        let has_none = session.file.events.is_none() && !session.file.command.is_empty();
        if has_none && self.reader.is_none() && !self.has_told {
            self.has_told = true;
            session.tell_no_events();
        }
        self.left = if session.state == State::Left {
            self.left + 1
        } else {
            0
        };
        if self.left == LEFT_LOOKS {
            tell(&format!(
                "harness: nobody works on session {}; `harness run` takes it up",
                session.sid
            ));
        }
    }
}
