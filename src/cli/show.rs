//! `harness show NAME`: one item's whole story, from its record and its place.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::find::{self, At, Found};
use crate::atomic;
use crate::error::Result;
use crate::item;
use crate::layout::{Name, Root};
use crate::limits::ITEM_BYTES_MAX;
use crate::ready::{Ready, Standing};
use crate::record;
use crate::view::story::story;
use crate::view::{print_json, print_text};

pub fn show(root: &Root, name: &OsStr, json: bool) -> Result<u8> {
    let name = find::name(name)?;
    let events = record::events(root, &name)?;
    let places = find::places(root, &name);
    if places.is_empty() && events.is_empty() {
        return Err(find::unknown(root, &name));
    }
    let (state, why) = state_of(root, &name, places.first())?;
    let reason = why.or_else(|| match state {
        "parked" => newest(&events, "reason"),
        _ => None,
    });
    if json {
        return print_json(&as_json(
            root,
            &name,
            state,
            reason,
            &events,
            places.first(),
        ));
    }
    print_text(&story(&name, state, reason.as_deref(), &events))
}

fn state_of(
    root: &Root,
    name: &Name,
    at: Option<&Found>,
) -> Result<(&'static str, Option<String>)> {
    Ok(match at.map(|f| f.place) {
        None => ("gone", Some("its file is no longer in queue/".into())),
        Some(At::Claimed(slot)) => ("claimed", Some(format!("{slot} works on it"))),
        Some(At::Done) => ("done", None),
        Some(At::Parked) => ("parked", None),
        Some(At::Pending) => {
            let ready = Ready::new(root)?;
            ready.note(name.as_os_str());
            match ready.standing().into_iter().next().map(|(_, s)| s) {
                Some(Standing::Scheduled(at)) => ("scheduled", Some(super::list::until(at))),
                Some(Standing::Blocked(after)) if !after.is_empty() => {
                    let after: Vec<String> = after.iter().map(Name::shown).collect();
                    ("blocked", Some(format!("waits for {}", after.join(", "))))
                }
                Some(Standing::Blocked(_)) => (
                    "blocked",
                    Some(
                        "its name or its exclusive key is at work, or it is still being written"
                            .into(),
                    ),
                ),
                _ => ("pending", None),
            }
        }
    })
}

fn newest(events: &[Value], key: &str) -> Option<String> {
    let mut found = events.iter().rev().filter_map(|e| e[key].as_str());
    found.next().map(str::to_owned)
}

fn as_json(
    root: &Root,
    name: &Name,
    state: &str,
    reason: Option<String>,
    events: &[Value],
    at: Option<&Found>,
) -> Value {
    let mut attempts: Vec<Value> = Vec::new();
    for e in events {
        let session = &e["session"];
        match e["event"].as_str() {
            Some("claimed") => attempts.push(json!({
                "session": session, "slot": e["slot"], "agent": null, "attempt": e["attempt"],
                "outcome": null, "claimed_at": e["at"], "started_at": null, "ended_at": null,
            })),
            Some("started") => {
                if let Some(a) = attempts.iter_mut().find(|a| &a["session"] == session) {
                    a["agent"] = e["agent"].clone();
                    a["started_at"] = e["at"].clone();
                }
            }
            Some("requeued") => attempts.retain(|a| &a["session"] != session),
            Some("finished") => {
                if let Some(Value::Object(a)) =
                    attempts.iter_mut().find(|a| &a["session"] == session)
                {
                    a.insert("ended_at".into(), e["at"].clone());
                    for key in [
                        "outcome",
                        "reason",
                        "exit_status",
                        "signal",
                        "seconds",
                        "commits",
                        "files_changed",
                        "leftover",
                        "branch",
                        "head",
                        "published",
                        "notes",
                    ] {
                        a.insert(key.into(), e[key].clone());
                    }
                }
            }
            _ => {}
        }
    }
    let fields = at.and_then(|f| {
        // What was refused may be anything: a fifo would hold us up, a symlink is not followed.
        let meta = f.path.symlink_metadata().ok()?;
        if !meta.is_file() {
            return None;
        }
        let bytes = atomic::read_small(&f.path, ITEM_BYTES_MAX).ok()?;
        let executable = meta.permissions().mode() & 0o111 != 0;
        let item = item::parse(name, &bytes, executable).ok()?;
        Some(item.fields)
    });
    json!({
        "item": name.shown(),
        "state": state,
        "outcome": newest(events, "outcome"),
        "reason": reason,
        "branch": newest(events, "published"),
        "file": at.map(|f| f.path.strip_prefix(root.path()).unwrap_or(&f.path).to_string_lossy()),
        "fields": fields,
        "attempts": attempts,
        "events": events,
    })
}
