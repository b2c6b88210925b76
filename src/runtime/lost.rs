//! Slots of lost hosts, found by the main thread, for the next free worker to move their items back.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::lock;
use crate::layout::SlotId;
use crate::lease::Marker;

/// A slot of another host that is known to be gone.
#[derive(Debug, Clone)]
pub(crate) struct Lost {
    pub(crate) slot: SlotId,
    /// Its marker, as it was when that became known: whoever has another one is another process.
    pub(crate) marker: Marker,
    /// What is known of its host.
    pub(crate) why: String,
    /// That its lock is free says so: it stays locked while its items are moved.
    pub(crate) by_lock: bool,
}

#[derive(Default)]
pub(crate) struct LostSlots {
    lost: Mutex<BTreeMap<SlotId, Lost>>,
}

impl LostSlots {
    /// `false`: it waits already.
    pub(crate) fn add(&self, lost: Lost) -> bool {
        lock(&self.lost).insert(lost.slot, lost).is_none()
    }

    pub(crate) fn take(&self) -> Option<Lost> {
        lock(&self.lost).pop_first().map(|(_, lost)| lost)
    }
}
