//! `harness session export`: a whole session as one JSON object.
//!
//! Invariant: written as it is read, so that memory does not grow with the session; the figures
//! stand behind the events from which they are folded.

use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::atomic;
use crate::event::Figures;
use crate::session::read::lines::Got;
use crate::session::read::{self, Session, TAIL_BYTES};
use crate::view::safe_json;

/// A prompt is a bootstrap and an item, each of at most 1 MiB before its placeholders are filled.
const PROMPT_BYTES_MAX: u64 = 4 << 20;

pub fn json(session: &Session, out: &mut dyn Write) -> io::Result<()> {
    let has_events = session.has_events();
    let text = |value: &Value| safe_json(&value.to_string());
    writeln!(out, "{{\"session\":{},", text(&super::as_json(session)))?;
    writeln!(out, "\"exit\":{},", text(&json!(session.exit)))?;
    writeln!(out, "\"prompt\":{},", text(&json!(prompt(session))))?;
    writeln!(out, "\"events\":[")?;
    let (mut figures, mut unreadable, mut is_first) = (Figures::default(), 0_u64, true);
    let mut lines = session.lines();
    while let Some(got) = lines.as_mut().and_then(read::lines::Lines::next_or_last) {
        let line = match &got {
            Got::Event(event, line) => {
                figures.fold(&event.body);
                line
            }
            Got::Unknown(_, line) => line,
            Got::Bad(_) => {
                unreadable += 1;
                continue;
            }
        };
        let comma = if std::mem::take(&mut is_first) {
            ""
        } else {
            ",\n"
        };
        write!(out, "{comma}{}", safe_json(line.trim()))?;
    }
    writeln!(out, "],\n\"unreadable_lines\":{unreadable},")?;
    writeln!(out, "\"figures\":{},", text(&json!(figures)))?;
    let tail = |name: &str| json!(read::tail(&session.path(name), TAIL_BYTES));
    let stdout = if has_events {
        Value::Null
    } else {
        tail("stdout.log")
    };
    writeln!(out, "\"stdout_tail\":{},", text(&stdout))?;
    writeln!(out, "\"stderr_tail\":{}}}", text(&tail("stderr.log")))
}

/// What it was told; `None` for scripts.
pub(super) fn prompt(session: &Session) -> Option<String> {
    beginning(&session.path("prompt.md"), PROMPT_BYTES_MAX).ok()
}

fn beginning(path: &Path, max: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    atomic::open_regular(path)?
        .take(max)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
