//! Names of temporary files, and removal of those that killed processes left.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::remove;
use crate::clock;

/// Part of every temporary name of this process. The pid is not enough: in a new container the same
/// pid may have left temporary files.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let id = clock::unique().simple().to_string();
    format!(".{}-{}-", std::process::id(), &id[20..])
});

/// A hidden temporary name beside `path`, which every client ignores.
pub(crate) fn temp_beside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!("{}{n}.tmp", *TAG))
}

/// Removes temporary files of killed processes. The caller holds the lock without which no other
/// process writes in this folder.
pub(crate) fn remove_temps(dir: &Path) {
    sweep_temps(dir, |name| !name.starts_with(TAG.as_bytes()));
}

/// The same, also for this process's files: no other thread of it may be writing here.
pub(crate) fn remove_every_temp(dir: &Path) {
    sweep_temps(dir, |_| true);
}

/// Whether a process is writing in this folder, or was killed while writing.
pub(crate) fn has_temps(dir: &Path) -> bool {
    temps(dir).next().is_some()
}

fn sweep_temps(dir: &Path, is_litter: impl Fn(&[u8]) -> bool) {
    for entry in temps(dir) {
        if is_litter(entry.file_name().as_bytes()) {
            // Leftovers are harmless: a failure to remove one stops nothing.
            let _stays = remove(&entry.path());
        }
    }
}

fn temps(dir: &Path) -> impl Iterator<Item = fs::DirEntry> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.as_bytes();
        name.first() == Some(&b'.')
            && name.get(1).is_some_and(u8::is_ascii_digit)
            && name.ends_with(b".tmp")
    })
}

#[cfg(test)]
mod tests {
    use super::super::{create, replace};
    use super::*;

    #[test]
    fn what_a_killed_process_of_the_same_pid_left_is_not_in_the_way_and_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..1000 {
            let left = dir.path().join(format!(".{}-{n}.tmp", std::process::id()));
            drop(create(&left, b"", 0o600).unwrap());
        }
        let file = dir.path().join("x");
        replace(&file, b"whole", false).unwrap();
        let own = temp_beside(&file);
        drop(create(&own, b"", 0o600).unwrap());
        drop(create(&dir.path().join(".x.tmp"), b"", 0o600).unwrap());
        remove_temps(dir.path());
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .collect();
        left.sort();
        let mut want = [own, dir.path().join(".x.tmp"), file];
        want.sort();
        assert_eq!(left, want);
    }
}
