//! The living harness processes of this ROOT: one file each in `state/harnesses/`, locked by its
//! process. When the process dies the kernel closes the file; the others get a close event at once,
//! and check the lock.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::clock;
use crate::error::{Context, Result};
use crate::host::Host;
use crate::layout::Root;
use crate::lease;
use crate::status::HarnessStatus;

/// This process's own file. Removed on a clean exit, else by the process that aggregates.
pub(crate) struct Presence {
    path: PathBuf,
    file: File,
    status: HarnessStatus,
}

impl Presence {
    pub(crate) fn announce(root: &Root, workers: usize) -> Result<Presence> {
        let pid = std::process::id();
        let id = clock::unique().simple().to_string();
        let path = root.harnesses().join(format!("{pid}-{}.json", &id[24..]));
        let file = locked(&path)?;
        let mut presence = Presence {
            path: path.clone(),
            file,
            status: HarnessStatus {
                pid,
                host: Host::own().name.clone(),
                boot_id: Host::own().boot_id.clone(),
                job: Host::own().job.clone(),
                started_at: clock::now_iso(),
                uptime_seconds: 0,
                workers,
            },
        };
        presence.write()?;
        Ok(presence)
    }

    /// Says to other hosts, which may not see the lock, that it lives.
    pub(crate) fn beat(&mut self) -> Result<()> {
        self.write()
    }

    pub(crate) fn set_workers(&mut self, workers: usize) -> Result<()> {
        if self.status.workers == workers {
            return Ok(());
        }
        self.status.workers = workers;
        self.write()
    }

    /// Writes in place: a replaced file would not be locked. Padded, so that a reader never sees
    /// the rest of a longer text.
    fn write(&mut self) -> Result<()> {
        let text = serde_json::to_string(&self.status).unwrap_or_default();
        self.file
            .write_all_at(format!("{text:<1022}\n").as_bytes(), 0)
            .or_fail("cannot write this process's file", &self.path)
    }
}

/// A new, locked file. It gets its final name at once, so that it is cleaned up if we are killed.
fn locked(path: &Path) -> Result<File> {
    loop {
        let file = atomic::open_lock(path)?;
        // The aggregating process may have removed it as a dead one before it was locked.
        fs2::FileExt::lock_exclusive(&file).or_fail("cannot lock", path)?;
        if lease::is_still_at(&file, path) {
            return Ok(file);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _gone = atomic::remove(&self.path);
    }
}
