//! Counts the items in `review/`, `merge/`, `done/` and `parked/`, at a cost that does not grow with them.
//!
//! The folders are counted once; then the watcher reports additions and removals. Such events may
//! get lost, so `Recount` counts again, in small slices, whenever a folder is quiet, and corrects
//! the count. Knows nothing of inotify or of the files' content. Invariant: a count is corrected
//! only by a listing during which the folder did not change.

use std::fs::{self, ReadDir};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use crate::atomic;
use crate::error::{Context, Result};
use crate::folder::FileStamp;
use crate::layout::{Name, Place, Root};
use crate::limits::{PULSE, SETTLE};

/// Entries per slice: about a millisecond.
const SLICE: usize = 2_000;

/// The folders whose items are counted; those of `pending/` the index counts.
pub(crate) const COUNTED: [Place; 4] = [Place::Review, Place::Merge, Place::Done, Place::Parked];

/// The running counts, shared with the watcher.
#[derive(Debug, Default)]
pub struct EndedCounts {
    review: AtomicI64,
    merge: AtomicI64,
    done: AtomicI64,
    parked: AtomicI64,
}

impl EndedCounts {
    /// An item came into the folder (`delta` 1) or left it (-1). Not for ignored names
    /// (`Name::is_ignored`), such as backups and hidden files.
    pub fn event(&self, place: Place, delta: i64) {
        if let Some(n) = self.of(place) {
            n.fetch_add(delta, Ordering::Relaxed);
        }
    }

    /// Counts again, for when events were lost (queue overflow) or there are none (no watch). A
    /// concurrent change may be counted twice until the folder is next quiet.
    pub fn recount(&self, root: &Root) -> Result<()> {
        for place in COUNTED {
            let dir = root.place(place);
            let n = count(&dir, &root.claims()).or_fail("cannot count the files of", &dir)?;
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
            Place::Review => Some(&self.review),
            Place::Merge => Some(&self.merge),
            Place::Done => Some(&self.done),
            Place::Parked => Some(&self.parked),
        }
    }
}

fn count(dir: &Path, claims: &Path) -> io::Result<i64> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(e),
    };
    let (mut n, mut any_back) = (0, false);
    for entry in entries {
        let file = entry?.file_name();
        n += i64::from(!Name::is_ignored(&file));
        any_back |= matches!(atomic::end_move(dir, &file, Some(claims)), Ok(Some(_)));
    }
    match any_back {
        true => count(dir, claims),
        false => Ok(n),
    }
}

fn stamp_of(dir: &Path) -> Option<FileStamp> {
    Some(FileStamp::of(&dir.symlink_metadata().ok()?))
}

/// Counts quiet folders again, one slice per call, and corrects `EndedCounts`.
#[derive(Debug)]
pub(super) struct Recount {
    folders: [CheckedFolder; COUNTED.len()],
    next: Option<Instant>,
}

#[derive(Debug)]
struct CheckedFolder {
    place: Place,
    /// The last stamp, and since when it is unchanged.
    seen: Option<(FileStamp, Instant)>,
    /// The stamp at which the count is known to be correct.
    exact: Option<FileStamp>,
    scan: Option<(ReadDir, i64)>,
}

impl Recount {
    pub(super) fn new() -> Recount {
        let folder = |place| CheckedFolder {
            place,
            seen: None,
            exact: None,
            scan: None,
        };
        Recount {
            folders: COUNTED.map(folder),
            next: None,
        }
    }

    pub(super) fn step(&mut self, root: &Root, counts: &EndedCounts, now: Instant) {
        if self.next.is_some_and(|at| now < at) {
            return;
        }
        self.next = now.checked_add(PULSE / 2);
        for folder in &mut self.folders {
            folder.step(root, counts, now);
        }
    }
}

impl CheckedFolder {
    fn step(&mut self, root: &Root, counts: &EndedCounts, now: Instant) {
        let dir = &root.place(self.place);
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
        // `SETTLE` is long enough for every event up to this stamp to be counted.
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
                Some(Ok(e)) => {
                    *n += i64::from(!Name::is_ignored(&e.file_name()));
                    // The folder is quiet: its mover is dead, or slow. Else it is met again.
                    let _met_again = atomic::end_move(dir, &e.file_name(), Some(&root.claims()));
                }
                Some(Err(_)) => {
                    self.scan = None;
                    return;
                }
                None => {
                    let n = *n;
                    self.scan = None;
                    // Read before the stamp: a later event is added on top.
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
