//! The index as workers meet it: each asks for the next item, and waits where there is none. Knows
//! nothing of how an item is claimed. Invariant: an item that becomes ready wakes a worker that may
//! start it, if one waits.

use std::sync::Arc;

use super::sets::{Idle, IndexSet};
use super::{Candidate, Ready};
use crate::layout::SlotId;
use crate::mutant::planted;
use crate::waker::Waker;

impl Ready {
    /// The best candidate, or one that was handed to this worker. `None`: the waker is woken once
    /// there may be one. `repo`: the repository that the worker last worked in; of several idle
    /// workers, one whose worktree has the item's repository is woken.
    pub fn pop(&self, waker: &Arc<Waker>, slot: SlotId, repo: Option<&str>) -> Option<Candidate> {
        self.pop_of(waker, slot, repo, false)
    }

    /// The same for a worker that may start no prompt yet: the best script.
    pub fn pop_script(
        &self,
        waker: &Arc<Waker>,
        slot: SlotId,
        repo: Option<&str>,
    ) -> Option<Candidate> {
        self.pop_of(waker, slot, repo, true)
    }

    fn pop_of(
        &self,
        waker: &Arc<Waker>,
        slot: SlotId,
        repo: Option<&str>,
        only_scripts: bool,
    ) -> Option<Candidate> {
        let mut sets = self.lock();
        sets.idle.retain(|i| !Arc::ptr_eq(&i.waker, waker));
        let handed = sets.handed.iter();
        if let Some(at) = handed.clone().position(|(b, _)| Arc::ptr_eq(b, waker)) {
            return Some(sets.handed.swap_remove(at).1);
        }
        if sets.open
            && let Some(rank) = sets.take_best(only_scripts)
        {
            if sets.has_just_run_low() {
                self.waker.wake();
            }
            sets.next_ticket += 1;
            sets.with_workers += 1;
            let ticket = sets.next_ticket;
            let mut refuse = None;
            if let Some(known) = sets.known.get_mut(&rank.name) {
                known.place = IndexSet::Worker(ticket);
                refuse = known.refuse.as_deref().map(str::to_owned);
            }
            return Some(Candidate {
                name: rank.name,
                refuse,
                ticket,
            });
        }
        if planted("idle-late") {
            drop(sets);
            sets = self.lock();
        }
        if sets.overflow.is_listing() {
            // The listing pauses while workers have enough to do: this one has nothing.
            self.waker.wake();
        }
        sets.idle.push(Idle {
            waker: waker.clone(),
            slot,
            repo: repo.map(str::to_owned),
            only_scripts,
        });
        None
    }

    /// Hands a candidate to the worker of another slot. `false`: that worker is not idle, or not in this
    /// process.
    pub fn hand_over(&self, candidate: &Candidate, slot: SlotId) -> bool {
        let mut sets = self.lock();
        let takes = |i: &Idle| i.slot == slot && sets.takes(i, &candidate.name);
        let Some(at) = sets.idle.iter().position(takes) else {
            return false;
        };
        let idle = sets.idle.remove(at);
        idle.waker.wake();
        sets.handed.push((idle.waker, candidate.clone()));
        true
    }

    /// Whether no worker waits, and the next one that asks finds an item.
    pub(super) fn keeps_workers_busy(&self) -> bool {
        let sets = self.lock();
        sets.open && sets.idle.is_empty() && !sets.ready.is_empty()
    }

    /// A worker stops asking, for a while or for good.
    pub fn forget_waker(&self, waker: &Arc<Waker>) {
        let mut sets = self.lock();
        sets.idle.retain(|i| !Arc::ptr_eq(&i.waker, waker));
        let its = |(b, _): &(Arc<Waker>, Candidate)| Arc::ptr_eq(b, waker);
        while let Some(at) = sets.handed.iter().position(its) {
            let (_, candidate) = sets.handed.swap_remove(at);
            let known = sets.known.get(&candidate.name);
            if known.is_some_and(|k| k.place == IndexSet::Worker(candidate.ticket)) {
                sets.make_ready(&candidate.name);
            }
        }
        // It may have been woken for an item that it will not take now.
        if sets.open
            && !sets.ready.is_empty()
            && !planted("wake-up-kept")
            && let Some(first) = sets.ready.first().map(|rank| rank.name.clone())
            && let Some(idle) = sets.take_idle(&first)
        {
            idle.waker.wake();
        }
    }
}
