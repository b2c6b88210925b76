//! `harness show NAME`: one item's whole story, from its record and its current place.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::find::{self, At, Found};
use super::state::{self, State};
use crate::atomic;
use crate::error::Result;
use crate::item::{self, Item};
use crate::layout::{Name, Root, SlotId};
use crate::limits::ITEM_BYTES_MAX;
use crate::ready::Ready;
use crate::record::{self, Event, History, Line};
use crate::view::story::story;
use crate::view::{print_json, print_text};

pub(super) fn show(root: &Root, name: &OsStr, json: bool) -> Result<u8> {
    let name = find::name(name)?;
    let lines = record::lines(root, &name)?;
    let places = find::places(root, &name);
    if places.is_empty() && lines.is_empty() {
        return Err(find::unknown(root, &name));
    }
    let (state, why) = state_of(root, &name, places.first())?;
    let reason = why.or_else(|| match state {
        "parked" => History::of(&lines).reason,
        _ => None,
    });
    if json {
        return print_json(&as_json(root, &name, state, reason, &lines, places.first()));
    }
    // For people: a claim of which nothing goes on is no work.
    let told = match at_slot(places.first()).map(|slot| state::Slots::look(root).works(slot)) {
        Some(Err(_)) => "stuck",
        _ => state,
    };
    let item = places.first().and_then(|found| parsed(&name, found));
    let understood = item.map(|item| item.understood()).unwrap_or_default();
    print_text(&story(&name, told, reason.as_deref(), &understood, &lines))
}

fn at_slot(at: Option<&Found>) -> Option<SlotId> {
    match at?.place {
        At::Claimed(slot) | At::Ending(slot) => Some(slot),
        _ => None,
    }
}

pub(super) fn state_of(
    root: &Root,
    name: &Name,
    at: Option<&Found>,
) -> Result<(&'static str, Option<String>)> {
    Ok(match at.map(|f| f.place) {
        None => ("gone", Some("its file is no longer in queue/".into())),
        Some(At::Claimed(slot) | At::Ending(slot)) => {
            let why = match state::Slots::look(root).works(slot) {
                Ok(()) => format!("{slot} works on it"),
                Err(why) => why,
            };
            ("claimed", Some(why))
        }
        Some(At::Done) => ("done", None),
        Some(At::Parked) => ("parked", None),
        Some(At::Pending) => {
            let ready = Ready::new(root)?;
            ready.note(name.as_os_str());
            let standing = ready.standing();
            match standing
                .first()
                .map(|(_, s)| state::of_pending(root, name, s))
            {
                None | Some((State::Pending, _)) => ("pending", None),
                Some((state, why)) => (state.as_str(), Some(why)),
            }
        }
    })
}

fn as_json(
    root: &Root,
    name: &Name,
    state: &str,
    reason: Option<String>,
    lines: &[Line],
    at: Option<&Found>,
) -> Value {
    let history = History::of(lines);
    let item = at.and_then(|found| parsed(name, found));
    let understood = item.as_ref().map(Item::understood);
    json!({
        "item": name.shown(),
        "state": state,
        "outcome": history.outcome,
        "reason": reason,
        "branch": history.branch,
        "file": at.map(|f| f.path.strip_prefix(root.path()).unwrap_or(&f.path).to_string_lossy()),
        "fields": item.map(|item| item.fields),
        "understood": understood.filter(|words| !words.is_empty()),
        "attempts": attempts(lines),
        "events": lines.iter().map(|line| &line.object).collect::<Vec<_>>(),
    })
}

/// The item as its file stands now.
fn parsed(name: &Name, at: &Found) -> Option<Item> {
    // A refused item may be anything: a fifo would block, a symlink is not followed.
    let meta = at.path.symlink_metadata().ok()?;
    if !meta.is_file() {
        return None;
    }
    let bytes = atomic::read_small(&at.path, ITEM_BYTES_MAX).ok()?;
    let executable = meta.permissions().mode() & 0o111 != 0;
    item::parse(name, &bytes, executable).ok()
}

/// The attempts, without those put back before they started, as recorded.
fn attempts(lines: &[Line]) -> Vec<Value> {
    let mut attempts: Vec<Value> = Vec::new();
    for line in lines {
        match &line.event {
            Event::Claimed(claimed) => attempts.push(json!({
                "session": claimed.session, "slot": claimed.slot, "agent": null,
                "attempt": claimed.attempt, "outcome": null, "claimed_at": line.at,
                "started_at": null, "ended_at": null,
            })),
            Event::Started(started) => {
                if let Some(attempt) = of(&mut attempts, &started.session) {
                    attempt["agent"] = json!(started.agent);
                    attempt["started_at"] = json!(line.at);
                }
            }
            Event::Requeued(requeued) => attempts.retain(|a| a["session"] != requeued.session),
            Event::Finished(finished) => {
                if let Some(Value::Object(attempt)) = of(&mut attempts, &finished.session)
                    && let Value::Object(end) = json!(finished.end)
                {
                    attempt.extend(end);
                    attempt.insert("published".into(), json!(finished.published));
                    if finished.end.ended_at.is_none() {
                        attempt.insert("ended_at".into(), json!(line.at));
                    }
                }
            }
            Event::Added(_)
            | Event::Adopted(_)
            | Event::Interrupted(_)
            | Event::Resumed(_)
            | Event::Publishing(_)
            | Event::Answered(_)
            | Event::Retried(_)
            | Event::Released(_)
            | Event::Canceled(_)
            | Event::Refused(_)
            | Event::Parked(_)
            | Event::Stays(_)
            | Event::Unknown(_) => {}
        }
    }
    attempts
}

fn of<'a>(attempts: &'a mut [Value], session: &str) -> Option<&'a mut Value> {
    attempts.iter_mut().find(|a| a["session"] == session)
}
