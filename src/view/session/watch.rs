//! `harness session watch`: the events of a session as they come, until it has ended.
//!
//! Invariant: nothing that was written before the end is missed: the end is looked for first, then
//! the events are read, so that they are all there when the end was seen.

use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;

use serde_json::json;

use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::Root;
use crate::session::read::lines::Lines;
use crate::session::read::{Session, State};
use crate::view::status::written;
use crate::view::watch::{Signals, is_over};
use crate::view::{Term, safe_json};

use super::{events, summary};

/// Looks (5 a second) at a session that nobody works on before that is said: between the death of
/// a harness and its successor there is a moment.
const LEFT_LOOKS: u32 = 15;

/// Shows events until the session has ended, a signal comes (Ctrl-C, SIGTERM, SIGHUP), or nobody
/// reads any more.
///
/// # Errors
/// Permanent where the session's folder disappears.
pub fn watch(root: &Root, sid: &str, json: bool) -> Result<()> {
    let signals = Signals::new()?;
    let mut out = io::stdout().lock();
    let mut watched = Watched::default();
    loop {
        let session = Session::read(root, sid);
        if !written(watched.show(&session, json, &mut out))? || session.state == State::Ended {
            return Ok(());
        }
        if atomic::is_gone(&session.dir) {
            let why = "its folder is gone: the item was put back before its agent started, or somebody removed it";
            return Err(Error::permanent("the session cannot be watched", why)
                .at_path(&session.dir)
                .hint("`harness session list` shows what there is"));
        }
        watched.tell(&session);
        if is_over(out.as_fd(), signals.stop.as_fd())? {
            return Ok(());
        }
    }
}

#[derive(Default)]
struct Watched {
    lines: Option<Lines>,
    told_plain: bool,
    left: u32,
}

impl Watched {
    /// Writes what is new, and the last line where it has ended.
    fn show(&mut self, session: &Session, json: bool, out: &mut dyn Write) -> io::Result<()> {
        let term = if json { Term::PLAIN } else { Term::of_stdout() };
        let mut out = BufWriter::new(out);
        if self.lines.is_none() {
            self.lines = session.lines();
        }
        let is_over = session.state == State::Ended;
        while let Some(lines) = &mut self.lines {
            let got = if is_over {
                lines.next_or_last()
            } else {
                lines.next_whole()
            };
            let Some(got) = got else { break };
            if !json {
                writeln!(out, "{}", events::line(&got, &term))?;
            } else if let Some(line) = events::json_line(&got) {
                out.write_all(line.as_bytes())?;
            }
        }
        if is_over && json {
            let f = &session.file;
            let end = json!({
                "event": "session_ended", "at": f.ended_at, "session": session.sid, "item": f.item,
                "outcome": f.outcome, "reason": f.reason, "seconds": f.seconds,
            });
            writeln!(out, "{}", safe_json(&end.to_string()))?;
        } else if is_over {
            writeln!(out, "{}", summary::line(session))?;
        }
        out.flush()
    }

    /// Says why nothing comes, once.
    fn tell(&mut self, session: &Session) {
        let plain = session.file.events.is_none() && !session.file.command.is_empty();
        if plain && self.lines.is_none() && !self.told_plain {
            self.told_plain = true;
            super::tell_no_events(session);
        }
        self.left = if session.state == State::Left {
            self.left + 1
        } else {
            0
        };
        if self.left == LEFT_LOOKS {
            crate::error::tell(&format!(
                "harness: nobody works on session {}; `harness run` takes it up",
                session.sid
            ));
        }
    }
}
