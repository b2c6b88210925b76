//! How many items are in `done/` and `parked/`, at a cost that does not grow with them.
//!
//! The folders are counted once; from then on whoever watches them says what came and went. Such
//! events are hints, so `Check` counts again in small slices whenever a folder has been quiet, and
//! mends what was missed. Knows nothing of inotify, nor of what the files are.
//! Invariant: a figure is corrected only by a count during which the folder did not change.

use std::fs::{self, ReadDir};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::error::{Context, Result};
use crate::layout::{Name, Place, Root};
use crate::limits::{PULSE, SETTLE};

/// Entries looked at in one slice of a check: about a millisecond.
const SLICE: usize = 2_000;

/// The running counts; shared with the owner of the watch.
#[derive(Debug, Default)]
pub struct Counts {
    done: AtomicI64,
    parked: AtomicI64,
}

impl Counts {
    /// Something came into the folder (`delta` 1) or left it (-1). The caller leaves out names for
    /// which `Name::is_ignored` holds: backups and hidden files are no items.
    pub fn event(&self, place: Place, delta: i64) {
        if let Some(n) = self.of(place) {
            n.fetch_add(delta, Ordering::Relaxed);
        }
    }

    /// Counts anew, for when events were lost (queue overflow) or there are none (no watch).
    /// A change that happens meanwhile may be counted twice until the next quiet moment.
    pub fn recount(&self, root: &Root) -> Result<()> {
        for place in [Place::Done, Place::Parked] {
            let dir = root.place(place);
            let n = count(&dir).or_fail("cannot count the files of", &dir)?;
            if let Some(counter) = self.of(place) {
                counter.store(n, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Items in the folder; 0 for `Place::Pending`, which is not counted here.
    pub fn get(&self, place: Place) -> u64 {
        self.of(place)
            .map_or(0, |n| u64::try_from(n.load(Ordering::Relaxed)).unwrap_or(0))
    }

    fn of(&self, place: Place) -> Option<&AtomicI64> {
        match place {
            Place::Pending => None,
            Place::Done => Some(&self.done),
            Place::Parked => Some(&self.parked),
        }
    }
}

fn count(dir: &Path) -> io::Result<i64> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let mut n = 0;
    for entry in entries {
        n += i64::from(!Name::is_ignored(&entry?.file_name()));
    }
    Ok(n)
}

/// When a folder last changed; also tells a folder from another that took its name.
type Stamp = (u64, i64, i64);

fn stamp_of(dir: &Path) -> Option<Stamp> {
    let m = fs::symlink_metadata(dir).ok()?;
    Some((m.ino(), m.mtime(), m.mtime_nsec()))
}

/// Counts quiet folders again, a slice a call, and corrects `Counts`.
#[derive(Debug)]
pub(super) struct Check {
    folders: [Folder; 2],
    next: Option<Instant>,
}

#[derive(Debug)]
struct Folder {
    place: Place,
    /// The stamp last seen, and since when it has been seen unchanged.
    seen: Option<(Stamp, Instant)>,
    /// The stamp at which the count is known to be right.
    exact: Option<Stamp>,
    scan: Option<(ReadDir, i64)>,
}

impl Check {
    pub(super) fn new() -> Check {
        let folder = |place| Folder {
            place,
            seen: None,
            exact: None,
            scan: None,
        };
        Check {
            folders: [folder(Place::Done), folder(Place::Parked)],
            next: None,
        }
    }

    pub(super) fn step(&mut self, root: &Root, counts: &Counts, now: Instant) {
        if self.next.is_some_and(|at| now < at) {
            return;
        }
        self.next = now.checked_add(PULSE / 2);
        for folder in &mut self.folders {
            folder.step(&root.place(folder.place), counts, now);
        }
    }
}

impl Folder {
    fn step(&mut self, dir: &Path, counts: &Counts, now: Instant) {
        let (Some(counter), Some(stamp)) = (counts.of(self.place), stamp_of(dir)) else {
            return;
        };
        let since = match self.seen {
            Some((old, since)) if old == stamp => since,
            _ => {
                self.seen = Some((stamp, now));
                self.scan = None;
                return;
            }
        };
        // Quiet for so long that every event up to this stamp has been counted.
        if self.exact == Some(stamp) || now.saturating_duration_since(since) < SETTLE {
            return;
        }
        let (entries, n) = match &mut self.scan {
            Some(scan) => (&mut scan.0, &mut scan.1),
            None => match fs::read_dir(dir) {
                Ok(entries) => {
                    let scan = self.scan.insert((entries, 0));
                    (&mut scan.0, &mut scan.1)
                }
                Err(_) => return,
            },
        };
        for _ in 0..SLICE {
            match entries.next() {
                Some(Ok(e)) => *n += i64::from(!Name::is_ignored(&e.file_name())),
                Some(Err(_)) => {
                    self.scan = None;
                    return;
                }
                None => {
                    let n = *n;
                    self.scan = None;
                    // Read ahead of the stamp: an event that comes after it is added on top.
                    let before = counter.load(Ordering::Relaxed);
                    if stamp_of(dir) == Some(stamp) {
                        counter.fetch_add(n - before, Ordering::Relaxed);
                        self.exact = Some(stamp);
                    }
                    return;
                }
            }
        }
    }
}
