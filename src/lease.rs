//! A slot's lease: a `flock` on `state/agents/agent-N/lease`, held while its process lives. The
//! kernel releases it however the process dies; no pid, clock or timeout is involved. A git in the
//! slot's worktree holds a copy (`lock`), since it may outlive a killed harness.
//!
//! Where several hosts share ROOT, a slot is the host's that its marker names: a lock that is free here
//! may be held there. No other host takes it; once that host is known to be gone, its items are moved back
//! and the slot is given up for good (`recovery::lost`).
//!
//! Lease files are never unlinked. Beside the lease is the slot's marker. Hard links to it in
//! `state/claims/` and `state/exclusive/` are the slot's claims, so its link count says whether any
//! is left.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use fs2::FileExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::atomic::{self, Moved, Nameless};
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::layout::{Root, SlotId, join};
use crate::limits::{STATE_FILE_BYTES_MAX, WORKERS_MAX};
use crate::mutant::planted;
use crate::text;

/// `state/agents/SLOT/marker`; a hard link to it in `state/claims/` is that slot's claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Marker {
    /// The process that holds the slot.
    harness_pid: u32,
    /// Its host.
    #[serde(flatten)]
    pub(crate) host: Host,
    /// Since when it holds the slot.
    since: String,
    /// `agent-N`.
    slot: String,
    /// Why its items were moved back by another host. Nobody ever works in this slot again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) given_up: Option<String>,
}

impl Marker {
    /// Whether no process of this host may act for the slot.
    fn is_closed(&self, root: &Root) -> bool {
        self.given_up.is_some() || self.host.is_other(root)
    }
}

/// The right to act as `agent-N`. Dropping it gives the slot up.
#[derive(Debug)]
#[must_use = "dropping a lease gives the slot up at once"]
pub struct Lease {
    pub slot: SlotId,
    root: Root,
    lock: Arc<File>,
    /// Whether this process wrote the marker.
    marked: AtomicBool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Explicitly: a helper process left behind by git may hold a copy of the descriptor.
        let _closing_does_it = FileExt::unlock(&*self.lock);
    }
}

impl Lease {
    /// Takes the slot if nobody holds it. `None`: held by a living process, or another host's.
    pub fn try_take(root: &Root, slot: SlotId) -> Result<Option<Lease>> {
        make_folders(root, slot)?;
        let path = root.agent(slot).join("lease");
        let Some(lock) = try_lock(&path)? else {
            return Ok(None);
        };
        let lease = Lease {
            slot,
            root: root.clone(),
            lock: Arc::new(lock),
            marked: AtomicBool::new(false),
        };
        Ok(lease.is_marked()?.then_some(lease))
    }

    /// A dead host's slot, for moving its items back; nothing runs in it. `with_lock`: that it is free says
    /// that it is dead. `None`: it is held after all.
    pub(crate) fn of_lost(root: &Root, slot: SlotId, with_lock: bool) -> Result<Option<Lease>> {
        let path = root.agent(slot).join("lease");
        let lock = match with_lock {
            true => try_lock(&path)?,
            false => Some(atomic::open_lock(&path)?),
        };
        Ok(lock.map(|lock| Lease {
            slot,
            root: root.clone(),
            lock: Arc::new(lock),
            marked: AtomicBool::new(false),
        }))
    }

    /// Makes the marker where there is none. `false`: the slot is another host's, whose lock need not be
    /// seen here, or was given up.
    fn is_marked(&self) -> Result<bool> {
        let path = self.marker();
        if !atomic::exists(&path) {
            let marker = Nameless::new(&path, &self.text_of_marker(), 0o600, false)?;
            if marker.link(&path)? == Moved::Done {
                self.marked.store(true, Ordering::Relaxed);
                return Ok(true);
            }
        }
        Ok(marker(&self.root, self.slot).is_none_or(|there| !there.is_closed(&self.root)))
    }

    /// Makes again what somebody removed of the slot's folders and marker. `false`: the lease itself was
    /// removed, so another process may take the slot; or the slot was given up.
    pub(crate) fn mend(&self) -> Result<bool> {
        make_folders(&self.root, self.slot)?;
        if !is_still_at(&self.lock, &self.root.agent(self.slot).join("lease")) {
            return Ok(false);
        }
        self.is_marked()
    }

    /// A copy for processes that must end before the slot can be taken again: the lease is held
    /// until the last copy is closed.
    pub fn lock(&self) -> Arc<File> {
        self.lock.clone()
    }

    pub fn marker(&self) -> PathBuf {
        join(&self.root.agent(self.slot), "marker")
    }

    /// Writes a marker that names this process. The slot must hold no claim: links are recognised
    /// by the marker's inode.
    pub fn renew_marker(&self) -> Result<()> {
        if !self.is_marked()? {
            let why = "its items were moved back by another host";
            return Err(Error::temporary("cannot go on with the slot", why).at_path(&self.marker()));
        }
        atomic::replace(&self.marker(), &self.text_of_marker(), false)?;
        self.marked.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn text_of_marker(&self) -> Vec<u8> {
        line_of(&Marker {
            harness_pid: std::process::id(),
            host: Host::own().clone(),
            since: clock::now_iso(),
            slot: self.slot.to_string(),
            given_up: None,
        })
    }

    /// Closes a dead host's slot for good. If its process is only late, it finds this and stops.
    pub(crate) fn give_up(&self, why: &str) -> Result<()> {
        let marker = Marker {
            slot: self.slot.to_string(),
            given_up: Some(text::one_line(why)),
            ..marker(&self.root, self.slot).unwrap_or_default()
        };
        atomic::replace(&self.marker(), &line_of(&marker), false)
    }

    /// Lets other hosts have the slot, in which nothing is left: the last thing that its holder does.
    pub(crate) fn leave_to_others(&self) {
        if Host::has_others(&self.root) && matches!(self.is_marked(), Ok(true)) {
            // One that stays keeps the slot for this host.
            let _stays = atomic::remove(&self.marker());
        }
    }

    /// Renews the marker unless this process wrote it. The slot must hold no claim.
    pub fn mark(&self) -> Result<()> {
        match self.marked.load(Ordering::Relaxed) {
            true => Ok(()),
            false => self.renew_marker(),
        }
    }

    /// The claims and exclusive keys of this slot: links to its marker, and files whose content
    /// names the slot. The latter exist where the marker was deleted, or the tree was copied with
    /// `cp -r`.
    pub fn held(&self) -> Result<Vec<PathBuf>> {
        let marker = self.marker();
        let meta = marker
            .symlink_metadata()
            .or_fail("cannot look at the marker", &marker)?;
        let mut held = Vec::new();
        for dir in [self.root.claims(), self.root.exclusive_root()] {
            for entry in std::fs::read_dir(&dir).or_fail("cannot list", &dir)? {
                let path = entry.or_fail("cannot list", &dir)?.path();
                if self.is_ours(&path, Some(id(&meta))) {
                    held.push(path);
                }
            }
        }
        Ok(held)
    }

    /// Whether a claim or key is this slot's, and the slot was not given up.
    pub(crate) fn has(&self, link: &Path) -> bool {
        let marker = self.marker().symlink_metadata().ok();
        let linked = link.symlink_metadata().ok();
        linked.is_some_and(|linked| match &marker {
            Some(marker) => id(marker) == id(&linked),
            // Somebody removed it.
            None => holder(link, &linked) == Some(self.slot),
        })
    }

    /// Gives up a claim or key, if it is this slot's.
    pub fn let_go(&self, link: &Path) -> Result<()> {
        let marker = self.marker().symlink_metadata().ok();
        if self.is_ours(link, marker.as_ref().map(id)) {
            atomic::remove(link)?;
        }
        Ok(())
    }

    /// Whether it is a link to the slot's marker, or its content names the slot.
    fn is_ours(&self, link: &Path, marker: Option<(u64, u64)>) -> bool {
        let linked = link.symlink_metadata().ok();
        linked.is_some_and(|m| Some(id(&m)) == marker || holder(link, &m) == Some(self.slot))
    }
}

fn make_folders(root: &Root, slot: SlotId) -> Result<()> {
    let (dir, claimed) = (root.agent(slot), root.claimed(slot));
    atomic::make_dir(&dir, true)?;
    atomic::make_dir(&claimed, false)?;
    match [&dir, &claimed]
        .into_iter()
        .find(|d| !atomic::is_own_dir(d))
    {
        None => Ok(()),
        Some(odd) => {
            let why = "it is a symlink, which harness does not follow there";
            Err(Error::permanent("cannot take the slot", why)
                .at_path(odd)
                .hint("remove the symlink: harness makes its own folder"))
        }
    }
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// The slot that a claim names as its holder. `meta`: the claim's own.
fn holder(claim: &Path, meta: &Metadata) -> Option<SlotId> {
    /// A cache: a marker has many links, and its content never changes.
    type Read = HashMap<(u64, u64, i64, i64), Option<SlotId>>;
    static READ: LazyLock<Mutex<Read>> = LazyLock::new(Mutex::default);
    let key = (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec());
    let known = || READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&holder) = known().get(&key) {
        return holder;
    }
    // A failed read is not cached: it may succeed next time.
    let text = atomic::read_small(claim, STATE_FILE_BYTES_MAX).ok()?;
    let marker = serde_json::from_slice::<Marker>(&text).ok();
    let holder = marker.and_then(|m| SlotId::parse(m.slot.as_ref()));
    let mut known = known();
    if known.len() >= WORKERS_MAX * 4 {
        known.clear();
    }
    known.insert(key, holder);
    holder
}

/// Whether what is at this path is certainly no claim or key of any slot: a person or an agent put it
/// there, and nobody is going to remove it.
pub fn is_foreign(claim: &Path) -> bool {
    let Ok(meta) = claim.symlink_metadata() else {
        return false;
    };
    let is_readable = || atomic::read_small(claim, STATE_FILE_BYTES_MAX).is_ok();
    !meta.is_file() || holder(claim, &meta).is_none() && is_readable()
}

/// The slots that claims name as their holders, whether a process holds those slots or not.
pub fn holders(root: &Root) -> Vec<SlotId> {
    holders_in(&root.claims())
}

/// The same of exclusive keys.
pub(crate) fn holders_of_keys(root: &Root) -> Vec<SlotId> {
    holders_in(&root.exclusive_root())
}

fn holders_in(dir: &Path) -> Vec<SlotId> {
    let links = std::fs::read_dir(dir).into_iter().flatten();
    let holder = |path: PathBuf| holder(&path, &path.symlink_metadata().ok()?);
    links.flatten().filter_map(|e| holder(e.path())).collect()
}

/// A slot's marker, if it can be read.
pub(crate) fn marker(root: &Root, slot: SlotId) -> Option<Marker> {
    let text = atomic::read_small(&root.agent(slot).join("marker"), STATE_FILE_BYTES_MAX).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether no process of this host may act for the slot: it is another host's, or was given up.
pub(crate) fn is_closed(root: &Root, slot: SlotId) -> bool {
    marker(root, slot).is_some_and(|marker| marker.is_closed(root))
}

/// Whether a living process holds the slot. One of another host, whose locks are not seen here, counts as
/// living until its slot was given up.
pub fn is_held(root: &Root, slot: SlotId) -> bool {
    let is_unseen = |marker: &Marker| {
        marker.given_up.is_none() && marker.host.is_other(root) && !marker.host.shows_locks(root)
    };
    is_locked(&root.agent(slot).join("lease")) || marker(root, slot).as_ref().is_some_and(is_unseen)
}

/// Whether a living process holds the lock of the file at `path`.
pub fn is_locked(path: &Path) -> bool {
    match atomic::open_to_look(path) {
        Ok(file) => is_file_locked(&file, || {}),
        // An error proves nothing: a file that cannot be opened counts as locked.
        Err(_) => !atomic::is_gone(path),
    }
}

/// Whether a living process holds the lock of this open file. If none does, `if_free` runs while
/// nobody can take it. Uses a shared lock, so that observers do not disturb each other; a taker
/// that meets an observer tries again.
pub(crate) fn is_file_locked(file: &File, if_free: impl FnOnce()) -> bool {
    if FileExt::try_lock_shared(file).is_err() {
        return true;
    }
    if_free();
    // Unlocked explicitly: a process that is being spawned may have a copy of the descriptor.
    let _closing_does_it = FileExt::unlock(file);
    false
}

/// Whether the open file is still the one at `path`: a lock on a removed or replaced file protects
/// nothing.
pub(crate) fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(there)) => id(&open) == id(&there),
        _ => false,
    }
}

/// Locks a file without waiting. `None`: somebody else holds it. The descriptor closes on exec, so
/// agents do not inherit the lease.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    // An observer's shared lock lasts microseconds: a few tries tell it from a holder.
    for attempt in 0..5 {
        let file = atomic::open_lock(path)?;
        if planted("lease-not-locked") {
            return Ok(Some(file));
        }
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => {
                if is_still_at(&file, path) {
                    return Ok(Some(file));
                }
                // Somebody removed the file between open and lock: try the new one.
            }
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                if attempt < 4 {
                    std::thread::yield_now();
                }
            }
            Err(e) => return Err(Error::io("cannot lock", path, &e)),
        }
    }
    Ok(None)
}

/// The processes that locked a file, by `/proc/locks`. None: it is of another pid namespace, or the
/// file system does not say.
pub(crate) fn holders_of(path: &Path) -> Vec<i32> {
    let Ok(inode) = path.symlink_metadata().map(|m| m.ino().to_string()) else {
        return Vec::new();
    };
    let text = atomic::read_kernel_text("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`. Device numbers are no guide: file systems
    // with subvolumes show others than `stat`.
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = words[..] else {
            return None;
        };
        let its = file.rsplit(':').next() == Some(&*inode);
        its.then(|| pid.parse().ok()).flatten()
    };
    text.lines()
        .filter_map(holder)
        .filter(|pid| *pid > 0)
        .collect()
}

fn line_of(marker: &Marker) -> Vec<u8> {
    let mut line = text::json(marker).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_given_up_though_the_marker_was_deleted_and_only_ones_own() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        atomic::make_dir(&root.claims(), true).unwrap();
        let (one, two) = (SlotId(1), SlotId(2));
        let take = |slot| Lease::try_take(&root, slot).unwrap().unwrap();
        let (one, two) = (take(one), take(two));
        let link = root.claims().join("x");
        for marker_stays in [true, false] {
            assert_eq!(
                atomic::link_new(&one.marker(), &link).unwrap(),
                atomic::Moved::Done
            );
            if !marker_stays {
                atomic::remove(&one.marker()).unwrap();
            }
            two.let_go(&link).unwrap();
            assert!(atomic::exists(&link));
            one.let_go(&link).unwrap();
            assert!(!atomic::exists(&link));
        }
    }
}
