//! `harness list [STATE]`: items by state, in the order in which they would start.

use serde_json::json;

use super::find;
use super::state::{self, State};
use crate::error::Result;
use crate::layout::{Name, Place, Root};
use crate::ready::Ready;
use crate::record;
use crate::view::story::{SUMMARY_HEAD, summary_row};
use crate::view::table::Table;
use crate::view::{Term, print_json, print_text};

struct Row {
    name: Name,
    state: State,
    note: String,
}

pub(super) fn list(root: &Root, only: Option<State>, json: bool) -> Result<u8> {
    let mut rows = Vec::new();
    let wants = |states: &[State]| only.is_none_or(|o| states.contains(&o));
    if wants(&[State::Claimed]) {
        let claimed = find::claimed(root);
        let slots = (!claimed.is_empty()).then(|| state::Slots::look(root));
        rows.extend(claimed.into_iter().map(|(slot, name)| Row {
            name,
            state: State::Claimed,
            note: match slots.as_ref().map(|slots| slots.works(slot)) {
                Some(Err(why)) => why,
                _ => format!("with {slot}"),
            },
        }));
    }
    if wants(&[State::Pending, State::Scheduled, State::Blocked]) {
        let ready = Ready::unbounded(root)?;
        ready.rescan()?;
        rows.extend(ready.standing().into_iter().map(|(name, standing)| {
            let (state, note) = state::of_pending(root, &name, &standing);
            Row { name, state, note }
        }));
    }
    for (place, state) in [(Place::Parked, State::Parked), (Place::Done, State::Done)] {
        if wants(&[state]) {
            for name in find::names_in(&root.place(place))? {
                rows.push(Row {
                    name,
                    state,
                    note: String::new(),
                });
            }
        }
    }
    if wants(&[State::Pending]) {
        tell_ignored(root);
    }
    rows.retain(|r| only.is_none_or(|o| o == r.state));
    if json {
        return print_json(&rows.iter().map(|r| as_json(root, r)).collect::<Vec<_>>());
    }
    if rows.is_empty() {
        crate::error::tell(&format!(
            "harness: nothing{}",
            only.map_or("".into(), |s| format!(" is {}", s.as_str()))
        ));
        return Ok(0);
    }
    let mut table = Table::new(SUMMARY_HEAD);
    for row in &rows {
        let lines = record::lines(root, &row.name).unwrap_or_default();
        let note = Some(row.note.as_str()).filter(|n| !n.is_empty());
        table.row(summary_row(&row.name, row.state.as_str(), note, &lines));
    }
    print_text(&table.render(&Term::of_stdout()))
}

/// Says which files in `pending/` are taken for no items, and why.
fn tell_ignored(root: &Root) {
    for (name, why) in find::ignored(root) {
        crate::error::tell(&format!(
            "harness: queue/pending/{name} is no item: it looks like {why}"
        ));
    }
}

/// The same for `status`, which is short.
pub(super) fn tell_of_ignored(root: &Root) {
    let ignored = find::ignored(root);
    if let Some((name, why)) = ignored.first() {
        let more = match ignored.len() {
            1 => String::new(),
            n => format!("; and {} more", n - 1),
        };
        crate::error::tell(&format!(
            "harness: queue/pending/{name} is no item: it looks like {why}{more} (`harness list` names all)"
        ));
    }
}

fn as_json(root: &Root, row: &Row) -> serde_json::Value {
    let history = record::history(root, &row.name);
    let reason = match row.state {
        State::Parked => history.reason.unwrap_or_default(),
        _ => row.note.clone(),
    };
    json!({
        "item": row.name.shown(),
        "state": row.state.as_str(),
        "outcome": history.outcome,
        "attempt": history.attempts,
        "reason": reason,
    })
}
