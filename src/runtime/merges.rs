//! What a process remembers of merging: what waits, how many branches are merged together (one at first,
//! more while all is green), and which items rest, because something stood in their way. A new run tries
//! them at once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::lock;
use crate::clock;
use crate::folder::Readings;
use crate::layout::Name;

/// How long an item rests at first, doubled each time, and at most.
const REST: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(300);

/// An item in `merge/`.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) name: Name,
    /// The repository that has its branch.
    pub(crate) repo: String,
    /// The branch that its last attempt began at.
    pub(crate) base: Option<String>,
    /// Why it could not be merged when that was last tried.
    pub(crate) why: Option<String>,
    pub(crate) came_ns: i64,
}

#[derive(Default)]
pub(crate) struct Merges {
    /// What was last seen in `merge/`: every idle worker looks, often.
    waiting: Mutex<Readings<Waiting>>,
    /// By what is merged into.
    most: Mutex<BTreeMap<String, usize>>,
    /// Until when, and how often it has rested.
    resting: Mutex<BTreeMap<Name, (Instant, u32)>>,
}

impl Merges {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Readings<Waiting>> {
        lock(&self.waiting)
    }

    /// At most `max`.
    pub(crate) fn most(&self, into: &str, max: usize) -> usize {
        let known = lock(&self.most).get(into).copied();
        known.unwrap_or(1).clamp(1, max.max(1))
    }

    pub(crate) fn was_green(&self, into: &str, together: usize) {
        let mut all = lock(&self.most);
        let most = all.entry(into.to_owned()).or_insert(1);
        *most = (*most).max(together.saturating_mul(2));
    }

    pub(crate) fn was_red(&self, into: &str) {
        lock(&self.most).insert(into.to_owned(), 1);
    }

    pub(crate) fn rest(&self, name: &Name) {
        let mut all = lock(&self.resting);
        let times = all.get(name).map_or(0, |(_, times)| *times);
        let until = clock::instant() + clock::doubled(REST, times, REST_MAX);
        all.insert(name.clone(), (until, times.saturating_add(1)));
    }

    pub(crate) fn rests(&self, name: &Name) -> bool {
        let all = lock(&self.resting);
        all.get(name)
            .is_some_and(|(until, _)| *until > clock::instant())
    }

    pub(crate) fn rests_so_far(&self, name: &Name) -> u32 {
        lock(&self.resting).get(name).map_or(0, |(_, times)| *times)
    }

    /// It has left `merge/`.
    pub(crate) fn forget(&self, name: &Name) {
        lock(&self.resting).remove(name);
    }
}
