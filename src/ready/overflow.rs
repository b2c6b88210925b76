//! What the index leaves out. Its sets are bounded, so that a million items take no more memory than
//! 65,536. The rest is only counted. All of it comes after what the sets hold, and it is listed again
//! when there is room.

use std::time::{Duration, Instant};

use super::rank::Rank;
use crate::clock;

#[derive(Default)]
pub(super) struct Overflow {
    /// The number of the current or last listing.
    pub(super) listing: u64,
    /// The first in rank of those left out that could start. Nothing after it may enter first.
    pub(super) ready: Option<Rank>,
    /// The earliest due time of those left out that are scheduled (ns since 1970).
    pub(super) due: Option<i64>,
    /// How many of those left out wait for other items, or for a name or key in flight.
    pub(super) waiting: usize,
    /// An item has ended since the last listing, so some of `waiting` may be able to start.
    pub(super) ended: bool,
    /// How long the last listing took without its pauses, and when it ended.
    pub(super) took: Duration,
    pub(super) ended_at: Option<Instant>,
    could_start: usize,
    scheduled: usize,
    /// The counts of the previous listing, while one is under way.
    before: Option<OverflowCounts>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct OverflowCounts {
    pub(super) ready: usize,
    pub(super) scheduled: usize,
    pub(super) waiting: usize,
}

impl Overflow {
    pub(super) fn would_hold(&self, rank: &Rank) -> bool {
        self.ready.as_ref().is_some_and(|first| rank >= first)
    }

    pub(super) fn leave_out_ready(&mut self, rank: Rank) {
        self.could_start += 1;
        if !self.would_hold(&rank) {
            self.ready = Some(rank);
        }
    }

    pub(super) fn leave_out_scheduled(&mut self, due: i64) {
        self.scheduled += 1;
        self.due = Some(self.due.map_or(due, |first| first.min(due)));
    }

    /// A listing begins: everything may enter again. Returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        *self = Overflow {
            listing: self.listing + 1,
            took: self.took,
            ended_at: self.ended_at,
            before: Some(self.counts()),
            ..Overflow::default()
        };
        self.listing
    }

    pub(super) fn end(&mut self, took: Duration) {
        self.took = took;
        self.ended_at = Some(clock::instant());
        self.before = None;
    }

    /// Whether a listing is under way, so that not everything is known.
    pub(super) fn is_listing(&self) -> bool {
        self.before.is_some()
    }

    /// At least what the last complete listing left out.
    pub(super) fn counts(&self) -> OverflowCounts {
        let before = self.before.unwrap_or_default();
        OverflowCounts {
            ready: self.could_start.max(before.ready),
            scheduled: self.scheduled.max(before.scheduled),
            waiting: self.waiting.max(before.waiting),
        }
    }
}
