//! The slots of this process as others see them: what each shows, how many have an item, what has
//! changed since it was last written. Knows nothing of leases and writes no file. Invariant: `busy`
//! is the number of slots that show an item.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::lock;
use crate::clock;
use crate::error::Result;
use crate::layout::{Name, SlotId};
use crate::limits::{BEAT_MAX, LOOKERS, PACE_MAX};
use crate::status::{SlotState, SlotStatus};
use crate::waker::Waker;

pub(crate) struct Slots {
    shown: Mutex<BTreeMap<SlotId, Shown>>,
    /// Slots that show an item. Every thread asks at every look, so it is kept beside the map; only
    /// changed with the map locked.
    busy: AtomicUsize,
    /// Set once this process has taken the slots that it begins with.
    staffed: AtomicBool,
    /// Wakes the pulse, which writes what is shown.
    pulse: Arc<Waker>,
    /// Set while the pulse sleeps long because no slot has an item.
    pulse_rests: AtomicBool,
}

struct Shown {
    status: SlotStatus,
    changed: Option<Changed>,
    /// When it was last taken to be written.
    taken: Option<Instant>,
}

/// What of a slot's status is new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    Figures,
    State,
}

impl Slots {
    pub(crate) fn new() -> Result<Slots> {
        Ok(Slots {
            shown: Mutex::default(),
            busy: AtomicUsize::new(0),
            staffed: AtomicBool::new(false),
            pulse: Arc::new(Waker::new()?),
            pulse_rests: AtomicBool::new(false),
        })
    }

    /// Changes what is shown of a slot; the slot is added if it is new.
    pub(crate) fn show(&self, slot: SlotId, change: impl FnOnce(&mut SlotStatus)) {
        let state = |s: &SlotStatus| (s.state, s.health, s.pid, s.reason.clone());
        let mut all = lock(&self.shown);
        let shown = all.entry(slot).or_insert_with(|| Shown {
            status: SlotStatus {
                id: slot.to_string(),
                harness_pid: Some(std::process::id()),
                ..SlotStatus::default()
            },
            changed: Some(Changed::State),
            taken: None,
        });
        let before = state(&shown.status);
        let was_busy = shown.status.item.is_some();
        change(&mut shown.status);
        match (was_busy, shown.status.item.is_some()) {
            (false, true) => _ = self.busy.fetch_add(1, Ordering::SeqCst),
            (true, false) => _ = self.busy.fetch_sub(1, Ordering::SeqCst),
            _ => {}
        }
        let changed = match state(&shown.status) == before {
            true => Changed::Figures,
            false => Changed::State,
        };
        shown.changed = shown.changed.max(Some(changed));
        drop(all);
        if changed == Changed::State && self.pulse_rests.swap(false, Ordering::SeqCst) {
            self.pulse.wake();
        }
    }

    /// The slot was given up.
    pub(crate) fn remove(&self, slot: SlotId) {
        let mut all = lock(&self.shown);
        let gone = all.remove(&slot);
        if gone.is_some_and(|s| s.status.item.is_some()) {
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// The slots held by this process.
    pub(crate) fn held(&self) -> Vec<SlotId> {
        lock(&self.shown).keys().copied().collect()
    }

    /// How many slots have an item.
    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::SeqCst)
    }

    /// What is shown of each slot.
    pub(crate) fn statuses(&self) -> BTreeMap<SlotId, SlotStatus> {
        let all = lock(&self.shown);
        all.iter().map(|(&s, e)| (s, e.status.clone())).collect()
    }

    /// The statuses that changed since the last call. One in which only figures changed is left out
    /// if it was returned less than `figures_every` ago.
    pub(crate) fn take_changed(&self, figures_every: Duration) -> Vec<(SlotId, SlotStatus)> {
        let now = clock::instant();
        let is_due = |s: &Shown| match s.changed {
            None => false,
            Some(Changed::State) => true,
            Some(Changed::Figures) => s.taken.is_none_or(|at| now - at >= figures_every),
        };
        let mut all = lock(&self.shown);
        let due = all.iter_mut().filter(|(_, s)| is_due(s));
        due.map(|(&slot, s)| {
            (s.changed, s.taken) = (None, Some(now));
            (slot, s.status.clone())
        })
        .collect()
    }

    /// This process has taken the slots that it begins with.
    pub(crate) fn set_staffed(&self) {
        self.staffed.store(true, Ordering::SeqCst);
    }

    /// Whether the worker of `slot` will soon ask for an item: it is idle, or just giving up `name`,
    /// or this process is still taking its slots.
    pub(crate) fn is_about_to_ask(&self, slot: SlotId, name: &Name) -> bool {
        match lock(&self.shown).get(&slot).map(|s| &s.status) {
            None => !self.staffed.load(Ordering::SeqCst),
            Some(s) => match (&s.item, s.state) {
                (Some(item), SlotState::Finishing) => *item == name.shown(),
                (None, SlotState::Idle) => true,
                _ => false,
            },
        }
    }

    /// Factor by which the poll interval grows with the number of running agents, so that polling
    /// takes the same processor time for many as for a few.
    pub(crate) fn poll_factor(&self) -> u32 {
        u32::try_from(self.busy() / LOOKERS)
            .unwrap_or(1)
            .clamp(1, PACE_MAX)
    }

    /// The poll interval where it would be `one` for a few agents.
    pub(crate) fn poll_interval(&self, one: Duration) -> Duration {
        (one * self.poll_factor()).min(BEAT_MAX)
    }

    pub(crate) fn pulse_waker(&self) -> &Arc<Waker> {
        &self.pulse
    }

    /// Whether the pulse may sleep long: no slot has an item. It is woken when one gets one.
    pub(crate) fn may_pulse_rest(&self) -> bool {
        // Set before the look: a slot that gets an item after the look then wakes the pulse.
        self.pulse_rests.store(true, Ordering::SeqCst);
        let rests = self.busy() == 0;
        self.pulse_rests.store(rests, Ordering::SeqCst);
        rests
    }
}
