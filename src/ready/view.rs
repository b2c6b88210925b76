//! The index as people see it: counts, and what each item waits for.

use std::collections::BTreeMap;

use super::Ready;
use super::rank::Rank;
use super::sets::{IndexSet, Known};
use crate::aggregator::PendingCounts;
use crate::atomic;
use crate::layout::Name;

/// Why an item in `pending/` is not at work yet.
pub enum Standing {
    /// It could start: its priority.
    Ready(u8),
    /// Not before this instant (ns since 1970).
    Scheduled(i64),
    /// It waits for these items. Empty: for its own name or key, or for its writer to close it.
    Blocked(Vec<Name>),
}

impl Ready {
    pub fn tally(&self) -> PendingCounts {
        let sets = self.lock();
        let overflow = sets.overflow.counts();
        PendingCounts {
            pending: (sets.ready.len() + sets.with_workers + overflow.ready) as u64,
            scheduled: (sets.scheduled.len() + overflow.scheduled) as u64,
            blocked: (sets.blocked + sets.later.len() + overflow.waiting) as u64,
        }
    }

    /// The item that is scheduled next: (name, due in ns since 1970).
    pub fn next_scheduled(&self) -> Option<(Name, i64)> {
        let sets = self.lock();
        sets.scheduled.first().map(|(at, n)| (n.clone(), *at))
    }

    /// Every known item in `pending/`, in the order in which they would start.
    pub fn standing(&self) -> Vec<(Name, Standing)> {
        let sets = self.lock();
        let of = |name: &Name, k: &Known| match k.place {
            IndexSet::Ready | IndexSet::Worker(_) => Standing::Ready(k.fields.priority),
            IndexSet::Scheduled(at) => Standing::Scheduled(at),
            IndexSet::Blocked => Standing::Blocked(k.fields.after.clone()),
            IndexSet::Later(_) if atomic::exists(&self.root.claim(name)) => {
                Standing::Blocked(Vec::new())
            }
            IndexSet::Later(_) => Standing::Blocked(k.fields.after.clone()),
        };
        let mut all: Vec<_> = sets.known.iter().collect();
        all.sort_by_key(|(name, k)| {
            let class = match k.place {
                IndexSet::Ready | IndexSet::Worker(_) => (0, 0),
                IndexSet::Scheduled(at) => (1, at),
                IndexSet::Later(_) | IndexSet::Blocked => (2, 0),
            };
            (class, Rank::new(name, &k.fields, k.mtime))
        });
        all.into_iter()
            .map(|(n, k)| (n.clone(), of(n, k)))
            .collect()
    }

    /// Blocked items and what they wait for.
    pub fn blocked(&self) -> BTreeMap<Name, Vec<Name>> {
        let sets = self.lock();
        let blocked = sets
            .known
            .iter()
            .filter(|(_, k)| k.place == IndexSet::Blocked);
        blocked
            .map(|(n, k)| (n.clone(), k.fields.after.clone()))
            .collect()
    }
}
