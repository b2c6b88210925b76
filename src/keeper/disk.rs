//! Whether what an agent writes is about to fill a disk: what is not written yet would be lost, of every
//! agent.
//!
//! Ends nothing. Invariant: whoever writes little is not blamed for what others write, nor for what it
//! writes into pipes or to other disks.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::statfs::{self, FsType, fstatfs};
use nix::sys::statvfs::fstatvfs;

use crate::atomic;
use crate::process::weight::{self, Written};

/// Its agent is stopped where the disk would be full after so many more looks in which it writes as
/// much, or where less is free than half of what claims need and it writes more than this part of it.
const LOOKS_LEFT: u64 = 4;
const WRITES_MUCH: u64 = 64;
/// More than is written in a second: with more free, nobody asks who writes.
pub(super) const FREE_ENOUGH: u64 = 4 << 30;
/// `statfs` of FUSE, 9p and ramfs.
const FUSE: u32 = 0x6573_5546;
const NINE_P: u32 = 0x0102_1997;
const RAMFS: u32 = 0x8584_58F6;

pub(super) struct Disks {
    disks: Vec<Disk>,
    /// Bytes that its processes had written at the last look.
    wrote: Option<Written>,
}

struct Disk {
    /// A folder on it.
    folder: File,
    /// The kernel counts what is written to it apart from what is written into pipes.
    is_counted: bool,
    /// Free bytes at the last look.
    free: Option<u64>,
}

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// So many bytes are free.
    Enough(u64),
    /// Less than `FREE_ENOUGH`: to be looked at again soon.
    Some,
    /// Its agent is about to fill it; so many bytes are free.
    Little(u64),
}

impl Disks {
    /// Those on which these folders lie.
    pub(super) fn of(places: &[PathBuf]) -> Disks {
        let mut disks: Vec<Disk> = Vec::new();
        let mut seen = Vec::new();
        for place in places {
            let device = place.metadata().map(|meta| meta.dev()).ok();
            if device.is_none() || seen.contains(&device) {
                continue;
            }
            seen.push(device);
            disks.extend(atomic::open_dir(place).ok().map(|folder| Disk {
                is_counted: is_counted(&folder),
                folder,
                free: None,
            }));
        }
        Disks { disks, wrote: None }
    }

    /// `floor`: with less free than half of it, whoever writes much is ended.
    pub(super) fn look(&mut self, floor: u64) -> Left {
        let now: Vec<Option<u64>> = self.disks.iter().map(Disk::free_now).collect();
        let least = now.iter().flatten().min().copied().unwrap_or(u64::MAX);
        if least >= FREE_ENOUGH {
            self.wrote = None;
            self.disks.iter_mut().for_each(|disk| disk.free = None);
            return Left::Enough(least);
        }
        let wrote = weight::written();
        let new = self
            .wrote
            .replace(wrote)
            .map_or(Written::default(), |b| wrote.since(b));
        let mut left = Left::Some;
        for (disk, now) in self.disks.iter_mut().zip(now) {
            let before = std::mem::replace(&mut disk.free, now);
            let (Some(before), Some(free)) = (before, now) else {
                continue;
            };
            let own = match disk.is_counted {
                true => new.to_disks,
                false => new.handed_over,
            };
            if fills(free, own.min(before.saturating_sub(free)), floor) {
                left = Left::Little(free);
            }
        }
        left
    }
}

fn fills(free: u64, new: u64, floor: u64) -> bool {
    let is_short = free < floor / 2 && new > free / WRITES_MUCH;
    is_short || new.saturating_mul(LOOKS_LEFT) > free
}

impl Disk {
    fn free_now(&self) -> Option<u64> {
        let stat = fstatvfs(&self.folder).ok()?;
        Some(stat.blocks_available() * stat.fragment_size())
    }
}

/// Not of what lies in memory, or behind a program.
fn is_counted(folder: &File) -> bool {
    let not: [FsType; 4] = [
        statfs::TMPFS_MAGIC,
        FsType(FUSE.into()),
        FsType(NINE_P.into()),
        FsType(RAMFS.into()),
    ];
    fstatfs(folder).is_ok_and(|stat| !not.contains(&stat.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use super::fills;

    #[test]
    fn whoever_writes_much_is_asked_to_end_before_the_disk_is_full() {
        const MB: u64 = 1_000_000;
        let floor = 256 * MB;
        // Full within a second.
        assert!(fills(3_000 * MB, 800 * MB, floor));
        assert!(!fills(3_000 * MB, 700 * MB, floor));
        // Short.
        assert!(fills(100 * MB, 2 * MB, floor));
        assert!(!fills(100 * MB, MB, floor) && !fills(130 * MB, 20 * MB, floor));
        assert!(!fills(0, 0, floor));
    }
}
