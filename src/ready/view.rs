//! The index as people see it: counts, and what each item waits for.

use std::collections::BTreeMap;

use super::Ready;
use super::sets::{Known, Where, rank};
use crate::aggregator::PendingCounts;
use crate::atomic;
use crate::layout::Name;

/// Why an item in `pending/` is not at work yet.
pub enum Standing {
    /// It could start: its priority.
    Ready(u8),
    /// Not before this instant (ns since 1970).
    Scheduled(i64),
    /// It waits for these; for none: for its own name or key, or for its writer.
    Blocked(Vec<Name>),
}

impl Ready {
    pub fn tally(&self) -> PendingCounts {
        let inner = self.lock();
        let beyond = inner.beyond.counts();
        PendingCounts {
            pending: (inner.ready.len() + inner.with_workers + beyond.ready) as u64,
            scheduled: (inner.scheduled.len() + beyond.scheduled) as u64,
            blocked: (inner.blocked + inner.later.len() + beyond.waiting) as u64,
        }
    }

    /// What is scheduled next, for people who wait: (name, due in ns since 1970).
    pub fn next_scheduled(&self) -> Option<(Name, i64)> {
        let inner = self.lock();
        inner.scheduled.first().map(|(at, n)| (n.clone(), *at))
    }

    /// Every item in `pending/` in the order in which they would start, for people.
    pub fn standing(&self) -> Vec<(Name, Standing)> {
        let inner = self.lock();
        let of = |name: &Name, k: &Known| match k.place {
            Where::Ready | Where::Worker(_) => Standing::Ready(k.order.priority),
            Where::Scheduled(at) => Standing::Scheduled(at),
            Where::Blocked => Standing::Blocked(k.order.after.clone()),
            Where::Later(_) if atomic::exists(&self.root.claim(name)) => {
                Standing::Blocked(Vec::new())
            }
            Where::Later(_) => Standing::Blocked(k.order.after.clone()),
        };
        let mut all: Vec<_> = inner.known.iter().collect();
        all.sort_by_key(|(name, k)| {
            let class = match k.place {
                Where::Ready | Where::Worker(_) => (0, 0),
                Where::Scheduled(at) => (1, at),
                Where::Later(_) | Where::Blocked => (2, 0),
            };
            (class, rank(name, &k.order, k.mtime))
        });
        all.into_iter()
            .map(|(n, k)| (n.clone(), of(n, k)))
            .collect()
    }

    /// Blocked items and what they wait for, for people.
    pub fn blocked(&self) -> BTreeMap<Name, Vec<Name>> {
        let inner = self.lock();
        let blocked = inner
            .known
            .iter()
            .filter(|(_, k)| k.place == Where::Blocked);
        blocked
            .map(|(n, k)| (n.clone(), k.order.after.clone()))
            .collect()
    }
}
