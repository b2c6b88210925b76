//! Whether an item has ended, for `wait` and `logs -f`: two or three stats while it has not.

use std::os::unix::fs::MetadataExt;

use schemars::JsonSchema;
use serde::Serialize;

use super::find;
use crate::aggregator;
use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::folder::FileStamp;
use crate::layout::{Name, Place, Root};
use crate::outcome::{Outcome, Word};
use crate::record::{self, History};

/// How an item stands for somebody who waits for its end.
pub(super) enum Standing {
    /// It waits in the queue or an agent works on it.
    Waits,
    /// It lies where items end, and its slot has not let go of it yet.
    Ending,
    Ended(Place),
    /// It has no file: it may be on its way between two folders.
    Nowhere,
}

/// A claim is made before its file leaves `pending/` and is given up after the file has left
/// `claimed/`: who finds neither a file in `pending/` nor a claim, and nothing new in the record
/// since, has not looked between two steps.
pub(super) fn standing(root: &Root, name: &Name) -> Result<Standing> {
    let before = record_stamp(root, name);
    let place = resting_place(root, name);
    let waits = [Place::Pending, Place::Review, Place::Merge];
    if waits.iter().any(|&p| atomic::exists(&root.item(p, name))) {
        return Ok(Standing::Waits);
    }
    let Some(place) = place else {
        let is_held = atomic::exists(&root.claim(name)) || !find::places(root, name).is_empty();
        return Ok(if is_held {
            Standing::Waits
        } else {
            Standing::Nowhere
        });
    };
    if atomic::exists(&root.claim(name)) {
        return Ok(match find::claimed(root).iter().any(|(_, n)| n == name) {
            true => Standing::Waits,
            false if aggregator::any_harness_alive(root)? => Standing::Ending,
            // What a killed harness did not let go of is over all the same.
            false => Standing::Ended(place),
        });
    }
    Ok(match record_stamp(root, name) == before {
        true => Standing::Ended(place),
        false => Standing::Ending,
    })
}

fn record_stamp(root: &Root, name: &Name) -> Option<FileStamp> {
    let meta = root.record(name).symlink_metadata().ok()?;
    Some(FileStamp::of(&meta))
}

/// Where it lies if it has ended: of two files of that name, the one that came last.
fn resting_place(root: &Root, name: &Name) -> Option<Place> {
    let came = |place: Place| {
        let meta = root.item(place, name).symlink_metadata().ok()?;
        Some((clock::ctime_ns(&meta), meta.ino(), place))
    };
    let places = [Place::Done, Place::Parked].into_iter().filter_map(came);
    places
        .max_by_key(|(at, ino, _)| (*at, *ino))
        .map(|(.., place)| place)
}

/// How an item ended, or where it is.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Ended {
    item: String,
    /// `done`, `parked`; `gone`: its file was removed; `pending`, `claimed`: the time to wait is over.
    state: &'static str,
    /// `None` until it has ended, and where its file was removed.
    outcome: Option<Word<Outcome>>,
    /// Why it is parked.
    reason: Option<String>,
    /// The branch that it left in your repository.
    branch: Option<String>,
    /// The number of its last attempt.
    attempt: Option<u32>,
    session: Option<String>,
}

impl Ended {
    /// One that has not ended.
    pub(super) fn not(name: &Name, state: &'static str) -> Ended {
        Ended {
            item: name.shown(),
            state,
            ..Ended::default()
        }
    }
}

/// How an item ended, as far as its record says.
pub(super) struct End {
    pub(super) is_done: bool,
    name: Name,
    /// An outcome, or where it was put without one.
    outcome: String,
    branch: Option<String>,
    history: History,
}

impl End {
    pub(super) fn of(root: &Root, name: &Name, place: Place) -> End {
        let history = record::history(root, name);
        let is_done = place == Place::Done;
        let fits = |word: &&Word<Outcome>| word.known().is_none_or(|o| o.is_good() == is_done);
        let outcome = history.outcome.as_ref().filter(fits);
        let outcome = outcome.map_or(place.dir(), Word::as_str).to_owned();
        let published = history.last.as_ref().and_then(|l| l.published.as_ref());
        let branch = published.filter(|_| is_done).map(|p| p.name.clone());
        End {
            is_done,
            name: name.clone(),
            outcome,
            branch,
            history,
        }
    }

    /// `NAME OUTCOME [BRANCH]`.
    pub(super) fn line(&self) -> String {
        let (name, outcome) = (self.name.shown(), crate::view::safe(&self.outcome));
        match &self.branch {
            Some(branch) => format!("{name} {outcome} {}", crate::view::safe(branch)),
            None => format!("{name} {outcome}"),
        }
    }

    pub(super) fn told(self) -> Ended {
        let last = self.history.last;
        let state = if self.is_done {
            Place::Done
        } else {
            Place::Parked
        };
        Ended {
            item: self.name.shown(),
            state: state.dir(),
            outcome: self.history.outcome,
            reason: self.history.reason.filter(|_| !self.is_done),
            branch: self.branch,
            attempt: last.as_ref().map(|l| l.attempt),
            session: last.map(|l| l.session),
        }
    }
}
