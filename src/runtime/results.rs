//! What became of the items of this run, for the table at its end. Knows nothing of attempts under
//! way. Invariant: memory is bounded: beyond the newest items only counts are kept.

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;

use super::lock;
use crate::layout::{Name, Place};
use crate::outcome::Outcome;

/// The table at the end shows at most this many items.
const ITEMS_MAX: usize = 200;

/// The results so far; threads add to it.
#[derive(Default)]
pub(crate) struct Board(Mutex<Results>);

/// How many items ended in each way, and the newest of them.
#[derive(Default, Clone)]
pub(crate) struct Results {
    pub done: u64,
    /// Their branches wait for a person.
    pub review: u64,
    pub parked: u64,
    /// Still in `claimed/`, as their end could not be written.
    pub claimed: u64,
    /// Attempts that are tried again.
    pub retried: u64,
    /// What the agents' CLIs say that their attempts cost.
    pub cost_usd: f64,
    /// Something stays as it is because of trouble that only a person ends.
    pub trouble: bool,
    pub items: VecDeque<ItemResult>,
    /// Those in `review/`.
    reviewed: HashSet<Name>,
}

/// An item that ended.
#[derive(Clone)]
pub(crate) struct ItemResult {
    pub name: Name,
    /// `None`: it has not ended; it stays in `claimed/`.
    pub outcome: Option<Outcome>,
    /// 1 for the first; 0 for an item that was refused.
    pub attempt: u32,
    /// How long its last attempt took.
    pub seconds: f64,
    pub branch: Option<String>,
    /// What it did not bring, or kept elsewhere: `show` says it.
    pub has_notes: bool,
    pub reason: String,
}

impl Results {
    /// How many items are where this run has brought them.
    pub(super) fn ended(&self) -> u64 {
        self.done + self.review + self.parked
    }

    fn show(&mut self, result: ItemResult) {
        if self.items.len() == ITEMS_MAX {
            self.items.pop_front();
        }
        self.items.push_back(result);
    }
}

impl Board {
    /// An item is in `parked/`, `review/` or `done/`.
    pub(crate) fn ended(&self, result: ItemResult, place: Place) {
        let mut results = lock(&self.0);
        match place {
            Place::Parked => results.parked += 1,
            Place::Review => {
                results.review += 1;
                results.reviewed.insert(result.name.clone());
            }
            _ => results.done += 1,
        }
        results.show(result);
    }

    /// Its end could not be written.
    pub(crate) fn stays(&self, name: Name, attempt: u32, reason: String) {
        let mut results = lock(&self.0);
        results.claimed += 1;
        results.show(ItemResult {
            name,
            outcome: None,
            attempt,
            seconds: 0.0,
            branch: None,
            has_notes: false,
            reason,
        });
    }

    /// An item is claimed again, or merged. Where it was parked in this run to wait for an answer, or
    /// waited for a person, it counts as that no more.
    pub(crate) fn claimed_again(&self, name: &Name) {
        let mut results = lock(&self.0);
        if results.reviewed.remove(name) {
            results.review -= 1;
            if let Some(at) = results.items.iter().rposition(|i| i.name == *name) {
                results.items.remove(at);
            }
            return;
        }
        if results.parked == 0 {
            return;
        }
        let asked = |i: &ItemResult| i.name == *name && i.outcome == Some(Outcome::Interrupted);
        if let Some(at) = results.items.iter().rposition(asked) {
            results.items.remove(at);
            results.parked -= 1;
        }
    }

    /// How many ends there were, of items and of attempts that are tried again.
    pub(crate) fn count(&self) -> u64 {
        let results = lock(&self.0);
        results.ended() + results.retried
    }

    pub(crate) fn retried(&self) {
        lock(&self.0).retried += 1;
    }

    /// An attempt ended, of an item that ended with it or not.
    pub(crate) fn spent(&self, cost_usd: f64) {
        lock(&self.0).cost_usd += cost_usd;
    }

    pub(crate) fn left_with_trouble(&self) {
        lock(&self.0).trouble = true;
    }

    pub(crate) fn so_far(&self) -> Results {
        lock(&self.0).clone()
    }

    /// Looks at them without a copy.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Results) -> T) -> T {
        at(&lock(&self.0))
    }
}
