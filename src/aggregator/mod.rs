//! Combines what all processes report into `state/status.json` and `state/metrics.prom`. One process does this at a time,
//! the holder of `state/aggregator.lock`; when it dies another takes over, and everything can be
//! made again from the tree.
//!
//! Knows nothing of how items are claimed or run. Invariants: the file is always complete and never
//! older than 2 s; the cost of a refresh does not depend on the number of ended items or of
//! sessions; others' locks are only checked, never taken over.

mod counts;
mod ledger;
mod prometheus;
mod rebuild;
mod sources;
mod sums;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

pub use counts::EndedCounts;
pub use ledger::Ledger;
pub(crate) use ledger::each_line;
pub(crate) use ledger::newest;
pub use sources::any_harness_alive;

use crate::atomic;
use crate::clock;
use crate::error::{Error, Result};
use crate::hold;
use crate::layout::{Place, Root, SlotId};
use crate::lease;
use crate::limits::{PULSE, STATUS_AGE_MAX};
use crate::status::{Health, Metrics, SlotState, SlotStatus, Status, TroubleStatus, WorkQueue};
use crate::text;

use counts::Recount;
use ledger::{Period, Totals};
use prometheus::Exporter;
use sources::{Claimed, ClaimedFolders, Harnesses, Slots};

/// `version` of `status.json`.
const VERSION: u32 = 2;
/// `status.json` of a thousand slots has half a megabyte.
const STATUS_BYTES_MAX: u64 = 64 << 20;

/// Counts from the caller's index of `pending/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// Could start now.
    pub pending: u64,
    /// Wait for a time.
    pub scheduled: u64,
    /// Wait for another item, an exclusive key or their own earlier attempt.
    pub blocked: u64,
}

/// Keeps `status.json` up to date while it lives.
#[derive(Debug)]
pub struct Aggregator {
    root: Root,
    counts: Arc<EndedCounts>,
    check: Recount,
    figures: Totals,
    claimed: ClaimedFolders,
    slots: Slots,
    harnesses: Harnesses,
    exporter: Exporter,
    /// The last written status, without its times.
    last: Option<Status>,
    written: Option<Instant>,
    probed: Option<Instant>,
    /// Held while this value lives.
    _lock: File,
}

impl Aggregator {
    /// Becomes the aggregator; `None` if another process or thread is. Counts `done/` and `parked/`
    /// once, and makes lost ledger lines again: call it from a thread that may take a second. Start
    /// the watch of the two folders before, and feed `counts()` after.
    pub fn try_become(root: &Root) -> Result<Option<Aggregator>> {
        let Some(lock) = lease::try_lock(&root.aggregator_lock())? else {
            return Ok(None);
        };
        // Only the holder of this lock replaces files there.
        atomic::remove_temps(&root.state());
        atomic::remove_temps(&root.ledger());
        let counts = Arc::new(EndedCounts::default());
        counts.recount(root)?;
        // The status matters more than the totals: if the ledger cannot be repaired now, the next
        // holder tries again.
        drop(rebuild::complete(root, Period::current()));
        Ok(Some(Aggregator {
            root: root.clone(),
            counts,
            check: Recount::new(),
            figures: Totals::default(),
            claimed: ClaimedFolders::default(),
            slots: Slots::default(),
            harnesses: Harnesses::default(),
            exporter: Exporter::default(),
            last: None,
            written: None,
            probed: None,
            _lock: lock,
        }))
    }

    /// The counts of `done/` and `parked/`, for whoever watches these folders.
    pub fn counts(&self) -> &Arc<EndedCounts> {
        &self.counts
    }

    /// Updates `status.json` and, more seldom, `metrics.prom`; call it about every `PULSE` and on changes. Writes only if something
    /// besides the time changed, if the file would get too old before the next call, or with
    /// `force`, which also checks every lease. `own`: the slots held by the caller's process;
    /// `troubles`: what is wrong there. Fails
    /// only if a file cannot be written.
    pub fn refresh(
        &mut self,
        pending: PendingCounts,
        own: BTreeMap<SlotId, SlotStatus>,
        troubles: Vec<TroubleStatus>,
        force: bool,
    ) -> Result<()> {
        let now = clock::instant();
        let is_late = |then: Option<Instant>, age| {
            then.is_none_or(|then| now.saturating_duration_since(then) >= age)
        };
        let probe = force || is_late(self.probed, STATUS_AGE_MAX);
        if probe {
            self.probed = Some(now);
        }
        self.check.step(&self.root, &self.counts, now);
        let period = Period::current();
        self.figures.update(&self.root.ledger(), period);
        let claimed = self.claimed.look(&self.root);
        let mut status = Status {
            version: VERSION,
            harnesses: self.harnesses.look(&self.root, true),
            agents: self.slots.look(&self.root, &claimed, own, probe),
            work_queue: queue(pending, &claimed, &self.counts),
            interrupts: sources::interrupts(&self.root),
            holds: hold::all(&self.root),
            control: sources::orders(&self.root),
            troubles: troubles
                .into_iter()
                .chain(sources::odd_interrupts(&self.root))
                .collect(),
            ..Status::default()
        };
        status.metrics = metrics(&status.agents, &self.figures);

        let exported = self.exporter.refresh(&self.root, &status, now, force);

        let is_old = is_late(self.written, STATUS_AGE_MAX.saturating_sub(PULSE));
        if !force && !is_old && self.last.as_ref() == Some(&status) {
            return exported;
        }
        let timeless = status.harnesses.clone();
        put_times(&mut status, period);
        atomic::replace(&self.root.status(), &encode(&status)?, false)?;
        status.timestamp.clear();
        status.harnesses = timeless;
        self.last = Some(status);
        self.written = Some(now);
        exported
    }
}

/// Makes the status from the tree alone, changing nothing. `pending`: from an index of `pending/`.
pub fn rebuild(root: &Root, pending: PendingCounts) -> Result<Status> {
    let period = Period::current();
    let counts = EndedCounts::default();
    counts.recount(root)?;
    let mut figures = Totals::default();
    figures.update(&root.ledger(), period);
    if rebuild::is_incomplete(&root.ledger(), period) {
        for line in rebuild::lost_lines(root, period)? {
            figures.fold(&line, period);
        }
    }
    let claimed = ClaimedFolders::default().look(root);
    let mut status = Status {
        version: VERSION,
        harnesses: Harnesses::default().look(root, false),
        agents: Slots::default().look(root, &claimed, BTreeMap::new(), true),
        work_queue: queue(pending, &claimed, &counts),
        interrupts: sources::interrupts(root),
        holds: hold::all(root),
        control: sources::orders(root),
        troubles: sources::odd_interrupts(root).collect(),
        ..Status::default()
    };
    status.metrics = metrics(&status.agents, &figures);
    put_times(&mut status, period);
    Ok(status)
}

/// Reads `status.json`; `None` if it is missing or not ours.
pub fn read(root: &Root) -> Result<Option<Status>> {
    let path = root.status();
    if !atomic::exists(&path) {
        return Ok(None);
    }
    let content = atomic::read_small(&path, STATUS_BYTES_MAX).ok();
    Ok(content.and_then(|c| serde_json::from_slice(&c).ok()))
}

fn encode(status: &Status) -> Result<Vec<u8>> {
    let mut bytes = text::pretty_json(status)
        .map_err(|e| Error::permanent("cannot encode the status", e.to_string()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn put_times(status: &mut Status, period: Period) {
    status.timestamp = clock::iso(period.now);
    for harness in &mut status.harnesses {
        harness.uptime_seconds = sources::seconds_since(&harness.started_at, period.now);
    }
}

fn queue(pending: PendingCounts, claimed: &Claimed, counts: &EndedCounts) -> WorkQueue {
    let PendingCounts {
        pending,
        scheduled,
        blocked,
    } = pending;
    WorkQueue {
        total: pending
            + scheduled
            + blocked
            + claimed.files
            + counts.get(Place::Review)
            + counts.get(Place::Merge),
        pending,
        scheduled,
        blocked,
        claimed: claimed.files,
        review: counts.get(Place::Review),
        merge: counts.get(Place::Merge),
        done: counts.get(Place::Done),
        parked: counts.get(Place::Parked),
    }
}

/// Slots are `active` while a process holds them; paused ones count as idle.
fn metrics(agents: &[SlotStatus], figures: &Totals) -> Metrics {
    let mut m = Metrics::default();
    for agent in agents.iter().filter(|a| a.health != Health::Dead) {
        m.agents_active += 1;
        match agent.state {
            SlotState::Starting | SlotState::Working | SlotState::Finishing => {
                m.agents_working += 1;
            }
            SlotState::Idle | SlotState::Paused | SlotState::Trouble => m.agents_idle += 1,
            SlotState::Interrupted => m.agents_interrupted += 1,
        }
    }
    figures.put_into(&mut m);
    m
}
