//! `harness list [STATE]`: items by state, in the order in which they would start.

use serde_json::Value;

use super::claimed::Slots;
use super::facts::facts;
use super::find::{self, At};
use super::show::{elsewhere, waits_with};
use crate::error::Result;
use crate::layout::{Name, Place, Root};
use crate::ready::Ready;
use crate::record;
use crate::view::state::{self, Holds, Stands, State};
use crate::view::story::{SUMMARY_HEAD, summary_row};
use crate::view::table::Table;
use crate::view::{Term, print_json, print_text};

struct Row {
    name: Name,
    at: At,
    stands: Stands,
}

impl Row {
    fn new(root: &Root, name: Name, at: At, works: Result<Option<String>, String>) -> Row {
        let history = record::history(root, &name);
        let stands = elsewhere(at, waits_with(root, at, &history), works, &history);
        Row { name, at, stands }
    }
}

pub(super) fn list(root: &Root, only: Option<State>, json: bool) -> Result<u8> {
    let mut rows = Vec::new();
    let wants = |states: &[State]| only.is_none_or(|o| states.contains(&o));
    if wants(&[State::Claimed]) {
        let claimed = find::claimed(root);
        let slots = (!claimed.is_empty()).then(|| Slots::look(root));
        rows.extend(claimed.into_iter().map(|(slot, name)| {
            let works = slots.as_ref().map_or(Ok(None), |slots| slots.works(slot));
            Row::new(root, name, At::Claimed(slot), works)
        }));
    }
    if wants(&[State::Pending, State::Scheduled, State::Blocked]) {
        let ready = Ready::unbounded(root)?;
        ready.rescan()?;
        let holds = Holds::look(root);
        rows.extend(ready.standing().into_iter().map(|(name, standing)| Row {
            stands: state::of_pending(root, &holds, &name, &standing),
            at: At::Pending,
            name,
        }));
    }
    for (place, at, state) in [
        (Place::Merge, At::Merge, State::Merge),
        (Place::Review, At::Review, State::Review),
        (Place::Parked, At::Parked, State::Parked),
        (Place::Done, At::Done, State::Done),
    ] {
        if wants(&[state]) {
            let names = find::names_in(&root.place(place))?.into_iter();
            rows.extend(names.map(|name| Row::new(root, name, at, Ok(None))));
        }
    }
    if wants(&[State::Pending]) {
        tell_ignored(root);
    }
    rows.retain(|r| only.is_none_or(|o| o == r.stands.state));
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
        let (state, why) = (row.stands.state.as_str(), row.stands.reason.as_deref());
        table.row(summary_row(&row.name, state, why, &lines));
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

fn as_json(root: &Root, row: &Row) -> Value {
    let lines = record::lines(root, &row.name).unwrap_or_default();
    let file = find::path(root, row.at, &row.name);
    let state = row.stands.state.as_str();
    facts(&row.name, state, &row.stands, &lines, Some(&file)).into()
}
