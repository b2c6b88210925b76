//! Which slots this process holds: its workers are started, told to leave and joined here, and the
//! slots of dead processes recovered. Whether a slot is free is its lease's word alone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{ALERT, Main};
use crate::clock;
use crate::error::Error;
use crate::layout::SlotId;
use crate::lease::Lease;
use crate::limits::{ORPHAN_TICK, WORKERS_MAX};
use crate::recovery;
use crate::runtime::Level;
use crate::worker::{self, Mode, Worker};

/// How often orphaned slots are looked for right after a death.
const ALERT_TICK: Duration = Duration::from_millis(20);
/// How often slots are tried that other processes held.
const STAFF_TICK: Duration = Duration::from_secs(1);
/// Slots that could not be taken before the trouble counts as the machine's: the remaining slots
/// would meet it too.
const FAILED_MAX: usize = 3;

/// Where the trouble is of which no slot can be taken.
pub(super) const SLOTS: &str = "state/agents";

/// How an attempt to take a slot went.
enum Taken {
    Yes,
    /// Another process holds it.
    Held,
    Failed(Error),
}

impl Main {
    /// The slots of this process.
    pub(super) fn own(&self) -> Vec<SlotId> {
        self.workers.iter().map(|w| w.slot).collect()
    }

    /// Joins workers that ended.
    pub(super) fn reap(&mut self) {
        let (ended, living): (Vec<_>, Vec<_>) = self.workers.drain(..).partition(Worker::is_over);
        self.workers = living;
        for worker in ended {
            let (was_told, slot) = (worker.leaves(), worker.slot);
            if worker.join().is_err() {
                self.rt.slots.remove(slot);
                self.rt
                    .console
                    .warn(&format!("{slot}: its thread failed; the slot is recovered"));
                self.next_orphans = clock::instant();
            }
            if !was_told && self.level() == Level::Running {
                self.next_staffing = clock::instant() + STAFF_TICK;
            }
        }
    }

    /// Takes over what dead processes left, slot by slot, besides this process's own slots.
    pub(super) fn recover_orphans(&mut self) {
        let flagged = self.news.peers.swap(false, Ordering::SeqCst);
        let now = clock::instant();
        if !flagged && now < self.next_orphans {
            return;
        }
        // A process that dies closes its files one after the other, and a git that it started may
        // live on for a moment and hold the slot's lease.
        if flagged {
            self.alert_until = now + ALERT;
        }
        // The longer ago the death, the less likely is news: each look goes over all slots.
        let left = self.alert_until.saturating_duration_since(now);
        let wait = match left.is_zero() {
            false => ALERT_TICK.max((ALERT - left) / 8),
            true => ORPHAN_TICK,
        };
        self.next_orphans = now + wait;
        for slot in recovery::orphans(&self.rt.root, &self.own()) {
            if matches!(self.take(slot, Mode::RecoverOnly), Taken::Failed(_)) {
                break;
            }
        }
    }

    fn take(&mut self, slot: SlotId, mode: Mode) -> Taken {
        let worker = Lease::try_take(&self.rt.root, slot).and_then(|lease| {
            lease
                .map(|lease| worker::start(&self.rt, lease, mode))
                .transpose()
        });
        match worker {
            Ok(Some(worker)) => {
                self.workers.push(worker);
                Taken::Yes
            }
            Ok(None) => Taken::Held,
            Err(e) => {
                self.rt.console.warn(&format!("{slot}: {e}"));
                Taken::Failed(e)
            }
        }
    }

    /// Holds as many slots as wanted: `--workers` of its own, or whichever are free among the first
    /// N where `state/control/workers` says N for the whole ROOT.
    pub(super) fn staff(&mut self) {
        let (count, last) = match self.orders.workers {
            Some(n) => (n, n),
            None => (self.own_slots, WORKERS_MAX),
        };
        let _shown_later = self.presence.set_workers(count);
        let kept = self.dismiss_beyond(count, last);
        if !self.rt.tickets.are_left() {
            if self.workers.is_empty() {
                self.rt.lifecycle.raise(Level::Finishing);
            }
            return;
        }
        if kept >= count || clock::instant() < self.next_staffing {
            return;
        }
        let (mut held, mut failed) = (kept, Vec::new());
        // Slots with agents that run on come first: the agents of before and new ones would be too many.
        let orphans = recovery::orphans(&self.rt.root, &self.own());
        let all = (1..=last).map(SlotId);
        let all = all.filter(|slot| !orphans.contains(slot));
        let first = orphans.iter().copied().filter(|slot| slot.0 <= last);
        for slot in first.chain(all) {
            if held >= count {
                self.rt.troubles.over(SLOTS);
                return;
            }
            if self.workers.iter().any(|w| w.slot == slot) {
                continue;
            }
            match self.take(slot, Mode::Steady) {
                Taken::Yes => held += 1,
                Taken::Held => {}
                Taken::Failed(e) => failed.push(e),
            }
            if failed.len() == FAILED_MAX {
                break;
            }
        }
        if self.workers.is_empty() && failed.is_empty() && last == WORKERS_MAX {
            let why = format!("all {WORKERS_MAX} are other processes', or of hosts that were lost");
            let none = Error::temporary("no slot is free", why).at_path(&self.rt.root.agents());
            failed.push(none.hint("`harness gc` frees those of hosts that were lost long ago"));
        }
        // Other processes hold the rest: look again later, they may die.
        let wait = match failed.first() {
            Some(e) if self.workers.is_empty() => self.rt.troubles.met(SLOTS, e),
            _ => {
                self.rt.troubles.over(SLOTS);
                STAFF_TICK
            }
        };
        self.next_staffing = clock::instant() + wait;
    }

    /// Tells workers to leave of which there are more than `count`, or whose slot is beyond `last`;
    /// of too many, those with the highest slots. Returns how many stay.
    fn dismiss_beyond(&self, count: usize, last: usize) -> usize {
        let mut steady: Vec<&Worker> = self.workers.iter().filter(|w| !w.leaves()).collect();
        steady.sort_by_key(|w| w.slot);
        let within = steady.iter().filter(|w| w.slot.0 <= last).count();
        let kept = within.min(count);
        steady[kept..].iter().for_each(|w| w.tell_to_leave());
        kept
    }
}
