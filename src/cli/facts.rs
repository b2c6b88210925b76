//! What `list --json` and `show --json` say of an item, under the same names. Times, slot, session and
//! figures are those of its last attempt.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::clock;
use crate::layout::Name;
use crate::ready;
use crate::record::{Event, History, Line};
use crate::view::state::{Stands, instant};

/// `state`: its word, where it is not that of `stands`. `file`: where it is now.
pub(super) fn facts(
    name: &Name,
    state: &str,
    stands: &Stands,
    lines: &[Line],
    file: Option<&Path>,
) -> Map<String, Value> {
    let history = History::of(lines);
    let meta = file.and_then(|path| path.symlink_metadata().ok());
    let order = file
        .zip(meta.as_ref())
        .map(|(path, meta)| ready::peek(name, path, meta));
    let last = history.last.as_ref();
    let started = last.and_then(|l| l.started.as_ref());
    let agent = started.map(|s| s.agent.as_str()).filter(|a| !a.is_empty());
    let (ended_at, seconds) = end_of(lines, last.map_or("", |l| &l.session));
    let facts = json!({
        "item": name.shown(),
        "state": state,
        "outcome": history.outcome,
        "reason": stands.reason,
        "reason_class": stands.class,
        "waits_for": stands.waits_for,
        "priority": order.map(|o| o.priority),
        "branch": history.branch,
        "attempt": history.attempts,
        "session": last.map(|l| &l.session),
        "slot": last.map(|l| &l.slot),
        "agent": agent,
        "not_before": stands.not_before,
        "added_at": added_at(lines),
        "modified_at": meta.as_ref().map(|m| instant(clock::mtime_ns(m))),
        "claimed_at": last.map(|l| &l.claimed_at),
        "started_at": last.and_then(|l| l.started_at.as_ref()),
        "ended_at": ended_at,
        "seconds": seconds,
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}

/// When a command added it last; `None`: its file was dropped by hand.
fn added_at(lines: &[Line]) -> Option<&str> {
    let mut lines = lines.iter().rev();
    let added = lines.find(|line| matches!(line.event, Event::Added(_)))?;
    Some(&added.at)
}

/// When a session ended, and how long it took.
fn end_of<'l>(lines: &'l [Line], session: &str) -> (Option<&'l str>, Option<f64>) {
    let end = lines.iter().rev().find_map(|line| match &line.event {
        Event::Finished(finished) if finished.session == session => Some((line, &finished.end)),
        _ => None,
    });
    match end {
        Some((line, end)) => {
            let at = end.ended_at.as_deref().unwrap_or(&line.at);
            (Some(at), Some(end.seconds))
        }
        None => (None, None),
    }
}
