//! What `list --json` and `show --json` say of an item, under the same names. Times, slot, session and
//! figures are those of its last attempt.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::clock;
use crate::layout::Name;
use crate::outcome::{Outcome, Word};
use crate::ready;
use crate::record::{Event, History, Line};
use crate::view::state::{Stands, instant};

/// An item as it is now.
#[derive(Serialize, JsonSchema)]
pub(super) struct Facts {
    /// Its name.
    item: String,
    /// `pending`, `scheduled`, `blocked`, `claimed`, `review`, `merge`, `done`, `parked`; `gone`: its file is
    /// no longer in `queue/`.
    state: &'static str,
    outcome: Option<Word<Outcome>>,
    /// Why it is where it is, in words.
    reason: Option<String>,
    /// A word for what it waits for: `slot`, `not_before`, `retry`, `after`, `exclusive`, `same_name`, `hold`,
    /// `being_written`, `stays`, `interrupt`, `review`, `merge`, `stuck`.
    reason_class: Option<&'static str>,
    /// The items, the key or the agent that it waits for.
    waits_for: Vec<String>,
    /// 0 to 9, the higher the sooner.
    priority: Option<u8>,
    /// The newest branch that it left in your repository.
    branch: Option<String>,
    /// How many attempts there were.
    attempt: u32,
    /// Of its last attempt, as all that follows but the times of its file.
    session: Option<String>,
    /// `agent-N`.
    slot: Option<String>,
    /// What runs: `script`, or a name from `[agents.NAME]`.
    agent: Option<String>,
    /// It does not start before.
    not_before: Option<String>,
    /// When a command added it last; `None`: its file was dropped by hand.
    added_at: Option<String>,
    /// The modification time of its file.
    modified_at: Option<String>,
    claimed_at: Option<String>,
    /// When its agent process was started.
    started_at: Option<String>,
    ended_at: Option<String>,
    /// How long its agent ran.
    seconds: Option<f64>,
}

/// `state`: its word, where it is not that of `stands`. `file`: where it is now.
pub(super) fn facts(
    name: &Name,
    state: &'static str,
    stands: &Stands,
    lines: &[Line],
    file: Option<&Path>,
) -> Facts {
    let history = History::of(lines);
    let meta = file.and_then(|path| path.symlink_metadata().ok());
    let order = file
        .zip(meta.as_ref())
        .map(|(path, meta)| ready::peek(name, path, meta));
    let last = history.last.unwrap_or_default();
    let (ended_at, seconds) = end_of(lines, &last.session);
    let agent = last.started.map(|s| s.agent);
    let known = |text: String| (!text.is_empty()).then_some(text);
    Facts {
        item: name.shown(),
        state,
        outcome: history.outcome,
        reason: stands.reason.clone(),
        reason_class: stands.class,
        waits_for: stands.waits_for.clone(),
        priority: order.map(|o| o.priority),
        branch: history.branch,
        attempt: history.attempts,
        session: known(last.session),
        slot: known(last.slot),
        agent: agent.and_then(known),
        not_before: stands.not_before.clone(),
        added_at: added_at(lines).map(str::to_owned),
        modified_at: meta.as_ref().map(|m| instant(clock::mtime_ns(m))),
        claimed_at: known(last.claimed_at),
        started_at: last.started_at,
        ended_at: ended_at.map(str::to_owned),
        seconds,
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
