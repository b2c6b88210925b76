//! `harness list [STATE]`: items by state, in the order in which they would start.

use super::claimed::Slots;
use super::facts::{Facts, facts};
use super::find::{self, At};
use super::show::{elsewhere, waits_with};
use crate::error::Result;
use crate::layout::{Name, Place, Root};
use crate::ready::Ready;
use crate::record::{self, History, Line};
use crate::view::state::{self, Holds, Stands, State};
use crate::view::story::{SUMMARY_HEAD, summary_row};
use crate::view::table::Table;
use crate::view::{Term, print_text};

/// An item, where it is, how it stands, and the lines of its record.
type Row = (Name, At, Stands, Vec<Line>);

/// One that is not in `pending/`.
fn row(root: &Root, name: Name, at: At, works: Result<Option<String>, String>) -> Row {
    let lines = record::lines(root, &name).unwrap_or_default();
    let history = History::of(&lines);
    let stands = elsewhere(at, waits_with(root, at, &history), works, &history);
    (name, at, stands, lines)
}

/// The items in the order in which they would start. Each is looked at when it is asked for: with
/// `--jsonl` no more than the names is kept of a long list.
fn rows(root: &Root, only: Option<State>) -> Result<impl Iterator<Item = Row>> {
    let wants = move |states: &[State]| only.is_none_or(|o| states.contains(&o));
    let claimed = match wants(&[State::Claimed]) {
        true => find::claimed(root),
        false => Vec::new(),
    };
    let slots = (!claimed.is_empty()).then(|| Slots::look(root));
    let claimed = claimed.into_iter().map(move |(slot, name)| {
        let works = slots.as_ref().map_or(Ok(None), |slots| slots.works(slot));
        row(root, name, At::Claimed(slot), works)
    });
    let pending = match wants(&[State::Pending, State::Scheduled, State::Blocked]) {
        true => {
            let ready = Ready::unbounded(root)?;
            ready.rescan()?;
            ready.standing()
        }
        false => Vec::new(),
    };
    let holds = Holds::look(root);
    let pending = pending.into_iter().map(move |(name, standing)| {
        let stands = state::of_pending(root, &holds, &name, &standing);
        let lines = record::lines(root, &name).unwrap_or_default();
        (name, At::Pending, stands, lines)
    });
    let mut rest = Vec::new();
    for (place, at, state) in [
        (Place::Merge, At::Merge, State::Merge),
        (Place::Review, At::Review, State::Review),
        (Place::Parked, At::Parked, State::Parked),
        (Place::Done, At::Done, State::Done),
    ] {
        if wants(&[state]) {
            let names = find::names_in(&root.place(place))?.into_iter();
            rest.push(names.map(move |name| row(root, name, at, Ok(None))));
        }
    }
    let all = claimed.chain(pending).chain(rest.into_iter().flatten());
    Ok(all.filter(move |(_, _, stands, _)| only.is_none_or(|o| o == stands.state)))
}

pub(super) fn list(root: &Root, only: Option<State>, as_lines: super::Lines) -> Result<u8> {
    let rows = rows(root, only)?;
    if only.is_none_or(|o| o == State::Pending) {
        tell_ignored(root);
    }
    let mut rows = rows.peekable();
    let told = rows.by_ref().map(|row| told(root, &row));
    if as_lines.print(told)? {
        return Ok(0);
    }
    if rows.peek().is_none() {
        crate::error::tell(&format!(
            "harness: nothing{}",
            only.map_or(" is in the queue".into(), |s| format!(" is {}", s.as_str()))
        ));
        return Ok(0);
    }
    let mut table = Table::new(SUMMARY_HEAD);
    for (name, _, stands, lines) in rows {
        let (state, why) = (stands.state.as_str(), stands.reason.as_deref());
        table.row(summary_row(&name, state, why, &lines));
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

fn told(root: &Root, (name, at, stands, lines): &Row) -> Facts {
    let file = find::path(root, *at, name);
    facts(name, stands.state.as_str(), stands, lines, Some(&file))
}
