//! What needs a person, beside the figures of a status: parked items with their reasons, and what to
//! type about each interrupt. Read from the tree when a status is shown as text.

use std::ffi::OsStr;

use crate::clock;
use crate::interrupt;
use crate::layout::{Name, Place, Root, SlotId};
use crate::merge;
use crate::quote;
use crate::record;
use crate::spool;
use crate::status::Status;

/// Parked items that are named: the newest.
const NAMED: usize = 5;
/// With more than this in `parked/` none is named: each would have to be looked at, every second.
const LOOKED_AT: u64 = 5_000;

#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// The newest parked items, with their outcomes and reasons.
    pub(crate) parked: Vec<(String, String, String)>,
    /// The oldest items that wait in `merge/` with a reason.
    pub(crate) unmerged: Vec<(String, String)>,
    /// What to type, for each of the status's interrupts.
    pub(crate) ways: Vec<String>,
}

impl Needed {
    pub(crate) fn of(root: &Root, status: &Status) -> Needed {
        let ways = status.interrupts.iter().map(|i| ways(root, &i.slot));
        Needed {
            ways: ways.collect(),
            unmerged: match status.work_queue.merge {
                0 => Vec::new(),
                n if n > LOOKED_AT => Vec::new(),
                _ => unmerged(root),
            },
            parked: match status.work_queue.parked {
                0 => Vec::new(),
                n if n > LOOKED_AT => Vec::new(),
                _ => parked(root),
            },
        }
    }
}

/// What to type about the interrupt of this stem.
pub(crate) fn ways(root: &Root, stem: &str) -> String {
    let frozen = SlotId::parse(OsStr::new(stem)).and_then(|slot| {
        let claimed = spool::claimed_in(root, slot).ok()?;
        claimed.into_iter().next()
    });
    let item = frozen.or_else(|| interrupt::asker_in_parked(root, stem));
    interrupt::ways(quote::harness(), stem, item.as_ref())
}

fn unmerged(root: &Root) -> Vec<(String, String)> {
    let waiting = merge::waiting_now(root).into_iter();
    let told = waiting.filter_map(|waiting| Some((waiting.name.shown(), waiting.why?)));
    told.take(NAMED).collect()
}

fn parked(root: &Root) -> Vec<(String, String, String)> {
    let entries = std::fs::read_dir(root.place(Place::Parked));
    let entries = entries.into_iter().flatten().flatten();
    let mut all: Vec<(i64, Name)> = entries
        .filter(|e| !Name::is_ignored(&e.file_name()))
        // A rename changes this time.
        .filter_map(|e| {
            Some((
                clock::ctime_ns(&e.metadata().ok()?),
                Name::new(e.file_name()),
            ))
        })
        .collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.truncate(NAMED);
    let told = all.into_iter().map(|(_, name)| {
        let history = record::history(root, &name);
        let outcome = history.outcome.map(|o| o.as_str().to_owned());
        let reason = history.reason.unwrap_or_default();
        (name.shown(), outcome.unwrap_or_default(), reason)
    });
    told.collect()
}
