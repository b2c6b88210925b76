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
    Blocked(Wait),
}

/// What a blocked item waits for.
pub enum Wait {
    /// These items must be done first.
    After(Vec<Name>),
    /// An item of the same name is at work.
    Name,
    /// An item with the same exclusive key is at work.
    Key(String),
    /// A hold of this agent that has no end.
    Hold(String),
    /// It could not be claimed; why.
    Failed(String),
    /// It is still being written.
    Writer,
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
        let mut all = Vec::new();
        self.each_standing(|name, known, standing| {
            let class = match standing {
                Standing::Ready(_) => (0, 0),
                Standing::Scheduled(at) => (1, at),
                Standing::Blocked(_) => (2, 0),
            };
            let rank = Rank::new(name, &known.fields, known.mtime);
            all.push((class, rank, standing));
        });
        all.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        all.into_iter().map(|(_, r, s)| (r.name, s)).collect()
    }

    /// The same, in no order.
    pub fn standing_unsorted(&self) -> Vec<(Name, Standing)> {
        let mut all = Vec::new();
        self.each_standing(|name, _, standing| all.push((name.clone(), standing)));
        all
    }

    fn each_standing(&self, mut with: impl FnMut(&Name, &Known, Standing)) {
        let sets = self.lock();
        let held_key = |k: &Known| {
            let key = k.fields.exclusive.as_ref();
            key.filter(|key| atomic::exists(&self.root.exclusive(key)))
                .cloned()
        };
        let of = |name: &Name, k: &Known| match (k.place, held_key(k), &k.held) {
            (IndexSet::Scheduled(at), ..) => Standing::Scheduled(at),
            (IndexSet::Ready | IndexSet::Worker(_), None, _) => Standing::Ready(k.fields.priority),
            (IndexSet::Later(_), ..) if atomic::exists(&self.root.claim(name)) => {
                Standing::Blocked(Wait::Name)
            }
            (IndexSet::Blocked, ..) if k.stays() => {
                Standing::Blocked(Wait::Failed(k.why_failed().to_owned()))
            }
            (IndexSet::Blocked | IndexSet::Later(_), ..) if !k.fields.after.is_empty() => {
                Standing::Blocked(Wait::After(k.fields.after.clone()))
            }
            (IndexSet::Blocked, _, Some(agent)) => Standing::Blocked(Wait::Hold(agent.to_string())),
            (_, Some(key), _) => Standing::Blocked(Wait::Key(key)),
            (IndexSet::Blocked | IndexSet::Later(_), None, _) => Standing::Blocked(Wait::Writer),
        };
        for (name, known) in &sets.known {
            with(name, known, of(name, known));
        }
    }

    /// Items that cannot be claimed, and why, for people: at most `max`.
    pub fn stays(&self, max: usize) -> Vec<(Name, String)> {
        let sets = self.lock();
        let all = sets.known.iter().filter(|(_, k)| k.stays()).take(max);
        all.map(|(n, k)| (n.clone(), k.why_failed().to_owned()))
            .collect()
    }

    /// Blocked items and what they wait for: other items, a hold, or somebody who mends what is wrong.
    pub fn blocked(&self) -> BTreeMap<Name, Wait> {
        let sets = self.lock();
        let blocked = sets
            .known
            .iter()
            .filter(|(_, k)| k.place == IndexSet::Blocked);
        blocked
            .map(|(n, k)| {
                let wait = match &k.held {
                    _ if k.stays() => Wait::Failed(k.why_failed().to_owned()),
                    Some(agent) if k.fields.after.is_empty() => Wait::Hold(agent.to_string()),
                    _ => Wait::After(k.fields.after.clone()),
                };
                (n.clone(), wait)
            })
            .collect()
    }
}
