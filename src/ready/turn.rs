//! The turns of the index thread: when `pending/` is listed again, and which names are due.

use std::time::Duration;

use super::Ready;
use crate::clock;
use crate::error::Result;
use crate::layout::Name;

const TURN_MAX: Duration = Duration::from_secs(1);
/// A wall clock that is this far behind since the last turn was set back.
const SET_BACK_NS: i64 = 1_000_000_000;

impl Ready {
    pub fn ask_rescan(&self) {
        self.lock().rescan = true;
        self.waker.wake();
    }

    /// The folder could not be listed: it is listed again, but not at once, whoever asks.
    pub fn rescan_after(&self, wait: Duration) {
        let mut sets = self.lock();
        sets.rescan = true;
        sets.no_listing_before = Some(clock::instant() + wait);
    }

    pub(super) fn open(&self) {
        let mut sets = self.lock();
        if !sets.open {
            sets.open = true;
            for idle in sets.idle.drain(..) {
                idle.waker.wake();
            }
        }
    }

    /// One turn of the index thread: lists a piece if one is due, and looks at names that are due. Returns
    /// how long until the next turn.
    pub fn turn(&self) -> Result<Duration> {
        let rest = self.list_a_piece()?;
        let now = clock::instant();
        let wall = clock::now_ns();
        let due: Vec<Name> = {
            let mut sets = self.lock();
            // If the clock was set back, every scheduled name is looked at again.
            let set_back = sets.turn.replace((now, wall)).is_some_and(|(then, at)| {
                let passed = i64::try_from(now.duration_since(then).as_nanos());
                wall < at
                    .saturating_add(passed.unwrap_or(i64::MAX))
                    .saturating_sub(SET_BACK_NS)
            });
            sets.rescan |= set_back && sets.overflow.due.is_some();
            let is_due = |at: i64| at <= wall || set_back;
            let timed = sets.scheduled.iter().take_while(|(at, _)| is_due(*at));
            let later = sets.later.iter().take_while(|(at, _)| *at <= now);
            timed
                .map(|(_, n)| n.clone())
                .chain(later.map(|(_, n)| n.clone()))
                .collect()
        };
        for name in &due {
            self.note(name.as_os_str());
        }
        let mut sets = self.lock();
        let now = clock::instant();
        let timed = sets.scheduled.first().map(|(at, _)| {
            let ns = at.saturating_sub(clock::now_ns()).max(0);
            Duration::from_nanos(ns as u64)
        });
        let later = sets.later.first().map(|(at, _)| *at - now);
        let listing = sets.listing_due(now, wall).map(|at| at - now);
        // The wall clock may jump: never wait long for it.
        let waits = [timed, later, rest.or(listing), Some(TURN_MAX)];
        let wait = waits.into_iter().flatten().min().unwrap_or(TURN_MAX);
        sets.wakes_at = Some(now + wait);
        Ok(wait)
    }

    /// Whether nothing in `pending/` can start by itself. Blocked items do not count: with nothing else
    /// left, nobody will end what they wait for.
    pub fn is_exhausted(&self) -> bool {
        let sets = self.lock();
        sets.open
            && !sets.rescan
            && sets.ready.is_empty()
            && sets.with_workers == 0
            && sets.scheduled.is_empty()
            && sets.later.is_empty()
            && !sets.overflow.is_listing()
            && sets.overflow.ready.is_none()
            && sets.overflow.due.is_none()
    }
}
