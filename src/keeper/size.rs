//! How many bytes some folders take on their disks, measured piece by piece while other things go on.
//!
//! Knows no limit. Invariants: no symlink is followed and no mount crossed; a piece takes a few
//! milliseconds, and all of it a few hundredths of a core.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::clock;

/// Entries that are looked at in one piece, and the rest after it.
const PIECE: usize = 1_000;
const REST: Duration = Duration::from_millis(20);
/// After the start of an agent, and between two measurements: at least the latter, and so many times
/// what the last one took.
const FIRST: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(30);
const TIMES: u32 = 10;
/// A block of `st_blocks`.
const BLOCK: u64 = 512;

type Walk = Box<dyn Iterator<Item = walkdir::Result<walkdir::DirEntry>>>;

pub(super) struct Size {
    tops: Vec<PathBuf>,
    walk: Option<Walk>,
    began: Instant,
    next: Instant,
    bytes: u64,
}

impl Size {
    /// None of these folders is in another one.
    pub(super) fn new(tops: Vec<PathBuf>) -> Size {
        let now = clock::instant();
        Size {
            tops,
            walk: None,
            began: now,
            next: now + FIRST,
            bytes: 0,
        }
    }

    /// Bytes found so far in this measurement, and when to go on.
    pub(super) fn go_on(&mut self) -> (u64, Duration) {
        let now = clock::instant();
        if now < self.next {
            return (self.bytes, self.next - now);
        }
        let walk = self.walk.get_or_insert_with(|| {
            (self.began, self.bytes) = (now, 0);
            let walks = self.tops.clone().into_iter().map(|top| {
                let walk = walkdir::WalkDir::new(top).follow_root_links(false);
                walk.same_file_system(true)
            });
            Box::new(walks.flatten())
        });
        let mut seen = 0;
        for entry in walk.by_ref().take(PIECE) {
            seen += 1;
            // What is gone meanwhile takes no room.
            let meta = entry.ok().and_then(|entry| entry.metadata().ok());
            // A package manager's hard links share their bytes with its store. A folder's count its
            // subfolders.
            self.bytes += meta.map_or(0, |meta| match meta.is_dir() {
                true => meta.blocks() * BLOCK,
                false => meta.blocks() * BLOCK / meta.nlink().max(1),
            });
        }
        let mut rest = REST;
        if seen < PIECE {
            self.walk = None;
            let took = now.saturating_duration_since(self.began);
            rest = EVERY.max(took * TIMES);
        }
        self.next = clock::instant() + rest;
        (self.bytes, rest)
    }
}
