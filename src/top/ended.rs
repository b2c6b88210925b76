//! The attempts that ended last: the end of the ledger.

use std::path::{Path, PathBuf};

use crate::atomic;
use crate::folder::FileStamp;
use crate::layout::{Root, join};
use crate::status::LedgerLine;

/// Some hundred attempts.
const BYTES_MAX: u64 = 64 << 10;
const SHOWN: usize = 200;

pub(super) struct Ended {
    root: Root,
    stamp: Option<FileStamp>,
    /// The newest first.
    pub(super) lines: Vec<LedgerLine>,
}

impl Ended {
    pub(super) fn new(root: &Root) -> Ended {
        Ended {
            root: root.clone(),
            stamp: None,
            lines: Vec::new(),
        }
    }

    /// `true`: more have ended.
    pub(super) fn look(&mut self) -> bool {
        let days = days(&self.root);
        let newest = days.last().and_then(|day| day.symlink_metadata().ok());
        let stamp = newest.map(|meta| FileStamp::of(&meta));
        if stamp == self.stamp {
            return false;
        }
        self.stamp = stamp;
        // Yesterday's, too: today may have only begun.
        let newest = days.iter().rev().take(2).flat_map(|day| lines(day));
        self.lines = newest.take(SHOWN).collect();
        true
    }
}

/// The ledger's files; their names sort by day.
fn days(root: &Root) -> Vec<PathBuf> {
    let dir = root.ledger();
    let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name());
    let is_day = |name: &std::ffi::OsString| {
        name.to_str()
            .is_some_and(|n| n.ends_with(".jsonl") && n.starts_with(char::is_numeric))
    };
    let mut days: Vec<PathBuf> = names.filter(is_day).map(|n| join(&dir, n)).collect();
    days.sort();
    days
}

fn lines(day: &Path) -> Vec<LedgerLine> {
    let (text, _) = atomic::read_tail(day, BYTES_MAX).unwrap_or_default();
    let lines = text.split(|&b| b == b'\n').rev();
    lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}
