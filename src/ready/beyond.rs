//! What the index leaves out. Its sets are bounded, so that a million items cost no more memory
//! than the first 65,536 of them: the rest is known by number only, all of it behind what is in,
//! and is listed again when room is left.

use std::time::{Duration, Instant};

use super::sets::{Inner, Rank};
use crate::clock;

#[derive(Default)]
pub(super) struct Beyond {
    /// The number of the listing that is under way, or was the last.
    pub(super) listing: u64,
    /// The first that could start and was left out: what comes after it must not be let in before.
    pub(super) ready: Option<Rank>,
    /// The earliest time of what waits for one and was left out.
    pub(super) due: Option<i64>,
    /// How many were left out that wait for others, or for a name or key in flight.
    pub(super) waiting: usize,
    /// An item has ended since the last listing: what waits for others may have changed.
    pub(super) ended: bool,
    /// How long the last listing took without its rests, and when it ended.
    pub(super) took: Duration,
    at: Option<Instant>,
    could_start: usize,
    scheduled: usize,
    /// The counts of the listing before, while one is under way.
    before: Option<Counts>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) ready: usize,
    pub(super) scheduled: usize,
    pub(super) waiting: usize,
}

impl Beyond {
    pub(super) fn is_beyond(&self, rank: &Rank) -> bool {
        self.ready.as_ref().is_some_and(|first| rank >= first)
    }

    pub(super) fn leave_out_ready(&mut self, rank: Rank) {
        self.could_start += 1;
        if !self.is_beyond(&rank) {
            self.ready = Some(rank);
        }
    }

    pub(super) fn leave_out_scheduled(&mut self, due: i64) {
        self.scheduled += 1;
        self.due = Some(self.due.map_or(due, |first| first.min(due)));
    }

    /// A listing begins: everything has its chance again. Its number.
    pub(super) fn begin(&mut self) -> u64 {
        *self = Beyond {
            listing: self.listing + 1,
            took: self.took,
            at: self.at,
            before: Some(self.counts()),
            ..Beyond::default()
        };
        self.listing
    }

    pub(super) fn end(&mut self, took: Duration) {
        self.took = took;
        self.at = Some(clock::instant());
        self.before = None;
    }

    /// Whether a listing has begun and not ended: not all is known.
    pub(super) fn is_listing(&self) -> bool {
        self.before.is_some()
    }

    /// As of the last listing that was whole, or more.
    pub(super) fn counts(&self) -> Counts {
        let before = self.before.unwrap_or_default();
        Counts {
            ready: self.could_start.max(before.ready),
            scheduled: self.scheduled.max(before.scheduled),
            waiting: self.waiting.max(before.waiting),
        }
    }
}

impl Inner {
    /// Whether what is known could soon be used up while more is there.
    pub(super) fn runs_low(&self) -> bool {
        self.beyond.ready.is_some() && self.ready.len() <= self.cap / 4
    }

    /// Whether the last one that was taken made it so: it is said once, not at each one.
    pub(super) fn has_just_run_low(&self) -> bool {
        self.runs_low() && (self.ready.len() == self.cap / 4 || self.ready.is_empty())
    }

    /// When `pending/` is to be listed again, if at all. A listing that takes long (a million
    /// items: seconds) is not repeated at once, unless there is nothing else to do.
    pub(super) fn listing_due(&self, now: Instant, wall: i64) -> Option<Instant> {
        let beyond = &self.beyond;
        let Some(last) = beyond.at else {
            return self.rescan.then_some(now);
        };
        let dry = self.ready.is_empty();
        if self.runs_low() && dry {
            return Some(last);
        }
        if self.rescan || self.runs_low() || beyond.due.is_some_and(|due| due <= wall) {
            return Some(last + beyond.took);
        }
        let waits = beyond.waiting > 0 && beyond.ended;
        waits.then(|| last + beyond.took * if dry { 1 } else { 20 })
    }
}
