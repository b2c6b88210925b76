//! The unified view: puts together what all processes say of themselves and keeps
//! `state/status.json`. One process does it at a time, the holder of `state/aggregator.lock`;
//! when it dies the next takes over, and everything can be made again from the tree.
//!
//! Knows nothing of how items are claimed or run. Invariants: the file is whole at any instant and
//! never older than 2 s; a refresh costs the same however many items are finished and however many
//! sessions there are; no lock but its own is held longer than a probe.

mod counts;
mod ledger;
mod rebuild;
mod sources;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;

pub use counts::Counts;
pub use ledger::Ledger;

use crate::atomic;
use crate::clock;
use crate::error::{Error, Result};
use crate::hold;
use crate::layout::{Place, Root, SlotId};
use crate::limits::{PULSE, STATUS_AGE_MAX};
use crate::status::{Health, Metrics, SlotState, SlotStatus, Status, WorkQueue};

use counts::Check;
use ledger::{Figures, Period};
use sources::{Claimed, ClaimedFolders, Harnesses, Slots};

/// `version` of `status.json`.
const VERSION: u32 = 2;
/// `status.json` of a thousand slots has half a megabyte.
const STATUS_BYTES_MAX: u64 = 64 << 20;

/// What the caller's index of the pending folder knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingCounts {
    /// Could start now.
    pub pending: u64,
    /// Wait for a time.
    pub scheduled: u64,
    /// Wait for another item, an exclusive key or their own earlier attempt.
    pub blocked: u64,
}

/// The one that keeps `status.json`, while it lives.
#[derive(Debug)]
pub struct Aggregator {
    root: Root,
    counts: Arc<Counts>,
    check: Check,
    figures: Figures,
    claimed: ClaimedFolders,
    slots: Slots,
    harnesses: Harnesses,
    /// What was written last, without its times.
    last: Option<Status>,
    written: Option<Instant>,
    probed: Option<Instant>,
    /// Held while this value lives.
    _lock: File,
}

impl Aggregator {
    /// Becomes the aggregator, unless another process (or thread) is: `None`. Counts `done/` and
    /// `parked/` once, and makes lost ledger lines again; call it from a thread that may take a
    /// second. Start the watch of the two folders before, and feed `counts()` after.
    pub fn try_become(root: &Root) -> Result<Option<Aggregator>> {
        let path = root.aggregator_lock();
        let lock = atomic::open_lock(&path)?;
        match fs2::FileExt::try_lock_exclusive(&lock) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(Error::io("cannot lock", &path, &e)),
        }
        // Of a file that was replaced meanwhile, another may hold the lock too.
        let is_there = match (lock.metadata(), path.symlink_metadata()) {
            (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
            _ => false,
        };
        if !is_there {
            return Ok(None);
        }
        // Only the holder of this lock replaces files there.
        atomic::remove_temps(&root.state());
        atomic::remove_temps(&root.ledger());
        let counts = Arc::new(Counts::default());
        counts.recount(root)?;
        // Figures are worth less than the view: a ledger that cannot be mended now is tried again
        // by the next holder.
        drop(rebuild::complete(root, Period::current()));
        Ok(Some(Aggregator {
            root: root.clone(),
            counts,
            check: Check::new(),
            figures: Figures::default(),
            claimed: ClaimedFolders::default(),
            slots: Slots::default(),
            harnesses: Harnesses::default(),
            last: None,
            written: None,
            probed: None,
            _lock: lock,
        }))
    }

    /// The counts of `done/` and `parked/`, for whoever watches these folders.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Ledger lines of the period that could not be read.
    pub fn bad_ledger_lines(&self) -> u64 {
        self.figures.bad()
    }

    /// Brings `status.json` up to date: about every `PULSE`, and when something changed. Writes only
    /// if something but the time is new, if the file would become too old before the next call, or
    /// by `force`, which also looks at every lease. `own`: the slots that the caller's process holds,
    /// as it knows them. Fails only where the file cannot be written.
    pub fn refresh(
        &mut self,
        pending: PendingCounts,
        own: BTreeMap<SlotId, SlotStatus>,
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
            ..Status::default()
        };
        status.metrics = metrics(&status.agents, &self.figures);

        let is_old = is_late(self.written, STATUS_AGE_MAX.saturating_sub(PULSE));
        if !force && !is_old && self.last.as_ref() == Some(&status) {
            return Ok(());
        }
        let timeless = status.harnesses.clone();
        put_times(&mut status, period);
        atomic::replace(&self.root.status(), &encode(&status)?, false)?;
        status.timestamp.clear();
        status.harnesses = timeless;
        self.last = Some(status);
        self.written = Some(now);
        Ok(())
    }
}

/// Makes the status from the tree alone, changing nothing. `pending`: a listing of the folder
/// where `None`, in which nothing counts as blocked.
pub fn rebuild(root: &Root, pending: Option<PendingCounts>) -> Result<Status> {
    let period = Period::current();
    let pending = pending.unwrap_or_else(|| {
        let (pending, scheduled) = sources::list_pending(&root.place(Place::Pending));
        PendingCounts {
            pending,
            scheduled,
            blocked: 0,
        }
    });
    let counts = Counts::default();
    counts.recount(root)?;
    let mut figures = Figures::default();
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
        ..Status::default()
    };
    status.metrics = metrics(&status.agents, &figures);
    put_times(&mut status, period);
    Ok(status)
}

/// Reads `status.json`; `None` where it is missing or not ours.
pub fn read(root: &Root) -> Result<Option<Status>> {
    let path = root.status();
    if !atomic::exists(&path) {
        return Ok(None);
    }
    let content = atomic::read_small(&path, STATUS_BYTES_MAX).ok();
    Ok(content.and_then(|c| serde_json::from_slice(&c).ok()))
}

/// Whether any harness process lives on this ROOT, told by the locks of their files.
pub fn any_harness_alive(root: &Root) -> Result<bool> {
    sources::any_harness(root)
}

fn encode(status: &Status) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(status)
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

fn queue(pending: PendingCounts, claimed: &Claimed, counts: &Counts) -> WorkQueue {
    let PendingCounts {
        pending,
        scheduled,
        blocked,
    } = pending;
    WorkQueue {
        total: pending + scheduled + blocked + claimed.files,
        pending,
        scheduled,
        blocked,
        claimed: claimed.files,
        done: counts.get(Place::Done),
        parked: counts.get(Place::Parked),
    }
}

/// Slots are `active` while somebody holds them; a paused one has nothing to do either.
fn metrics(agents: &[SlotStatus], figures: &Figures) -> Metrics {
    let mut m = Metrics::default();
    for agent in agents.iter().filter(|a| a.health != Health::Dead) {
        m.agents_active += 1;
        match agent.state {
            SlotState::Starting | SlotState::Working | SlotState::Finishing => {
                m.agents_working += 1;
            }
            SlotState::Idle | SlotState::Paused => m.agents_idle += 1,
            SlotState::Interrupted => m.agents_interrupted += 1,
        }
    }
    figures.put_into(&mut m);
    m
}
