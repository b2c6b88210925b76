//! Reads what processes report in `state/`: harness processes, slots, interrupts, orders.
//!
//! Knows nothing of figures. Invariants: only a lock says whether a process lives, never a pid or a
//! clock (`lease`), but that one of a host whose locks are not seen here is shown while it writes its file; an unreadable file never hides the others; only files of dead harness processes
//! are removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::error::{Error, Result};
use crate::folder::{FileStamp, Folder};
use crate::host::Host;
use crate::interrupt;
use crate::layout::{Name, Root, SlotId, claimed_item, shown};
use crate::lease;
use crate::status::{HarnessStatus, Health, InterruptStatus, SlotStatus, TroubleStatus};

/// Statuses and reasons are short: a larger file is not ours.
const FILE_BYTES_MAX: u64 = 64 << 10;
const REASON_CHARS_MAX: usize = 500;
/// How long a process of another host is shown after it last wrote its file, and how long that file stays.
const UNSEEN_MAX: Duration = Duration::from_secs(60);
const UNSEEN_FILE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Names in a directory; empty if it is missing.
fn names(dir: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name()).collect()
}

/// Reads the harness processes' files, and remembers their content in case one is half-written.
#[derive(Debug, Default)]
pub(super) struct Harnesses {
    known: HashMap<OsString, HarnessStatus>,
}

impl Harnesses {
    /// The living ones, by start time. `remove_dead`: removes the files of dead ones.
    pub(super) fn look(&mut self, root: &Root, remove_dead: bool) -> Vec<HarnessStatus> {
        let dir = root.harnesses();
        let mut known = HashMap::new();
        for name in names(&dir) {
            // Its process is just creating it, or was killed doing so.
            let half_made = name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(b".tmp");
            if Name::is_ignored(&name) && !half_made {
                continue;
            }
            let path = dir.join(&name);
            let Ok(file) = atomic::open_to_look(&path) else {
                continue;
            };
            let bury = || {
                if remove_dead && lease::is_still_at(&file, &path) {
                    // If this fails, the next call tries again.
                    drop(atomic::remove(&path));
                }
            };
            let taken_for_alive = crate::mutant::planted("pid-proves-life")
                && Path::new("/proc").join(pid_of(&name).to_string()).exists();
            let read = atomic::read_open(&file, FILE_BYTES_MAX)
                .ok()
                .and_then(|c| serde_json::from_slice(&c).ok());
            let alive = taken_for_alive
                || match read
                    .as_ref()
                    .and_then(|status| lives_unseen(root, status, &file))
                {
                    Some(lives) => lives,
                    None => lease::is_file_locked(&file, bury),
                };
            if !alive || half_made {
                continue;
            }
            let status = read
                .or_else(|| self.known.remove(&name))
                .unwrap_or_else(|| HarnessStatus {
                    pid: pid_of(&name),
                    ..HarnessStatus::default()
                });
            known.insert(name, status);
        }
        self.known = known;
        let mut all: Vec<HarnessStatus> = self.known.values().cloned().collect();
        all.sort_by(|a, b| (&a.started_at, a.pid).cmp(&(&b.started_at, b.pid)));
        all
    }
}

/// Whether a process of another host lives, where its lock is not seen here: it writes its file every five
/// seconds. `None`: its lock says so. The file of one that does not live stays for a day.
fn lives_unseen(root: &Root, status: &HarnessStatus, file: &fs::File) -> Option<bool> {
    let host = Host {
        name: status.host.clone(),
        boot_id: status.boot_id.clone(),
        job: status.job.clone(),
    };
    if !host.is_other(root) || host.shows_locks(root) {
        return None;
    }
    // In the future: the clocks of hosts differ.
    let age = clock::now_ns() - clock::mtime_ns(&file.metadata().ok()?);
    let age = Duration::from_nanos(age.max(0).unsigned_abs());
    (age < UNSEEN_FILE_MAX).then_some(age < UNSEEN_MAX)
}

/// Whether any harness process lives on this ROOT.
pub fn any_harness_alive(root: &Root) -> Result<bool> {
    let dir = root.harnesses();
    let mut entries = match fs::read_dir(&dir) {
        Ok(entries) => entries.flatten(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io("cannot list the harness processes", &dir, &e)),
    };
    let lives = |path: &Path| {
        let read = atomic::read_small(path, FILE_BYTES_MAX).ok();
        let status = read.and_then(|c| serde_json::from_slice(&c).ok());
        let file = atomic::open_to_look(path).ok();
        let unseen = status
            .zip(file)
            .and_then(|(s, file)| lives_unseen(root, &s, &file));
        unseen.unwrap_or_else(|| lease::is_locked(path))
    };
    Ok(entries.any(|e| !Name::is_ignored(&e.file_name()) && lives(&e.path())))
}

/// Seconds since a start in RFC 3339; 0 if it is unreadable or in the future.
pub(super) fn seconds_since(started_at: &str, now: Timestamp) -> u64 {
    started_at.parse::<Timestamp>().map_or(0, |t| {
        u64::try_from(now.as_second() - t.as_second()).unwrap_or(0)
    })
}

fn pid_of(name: &OsStr) -> u32 {
    let digits = name.to_str().and_then(|n| n.split('-').next());
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

/// The contents of `queue/claimed/`.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    pub(super) files: u64,
    /// One file of each slot that has any.
    pub(super) by_slot: BTreeMap<SlotId, OsString>,
}

/// The folders in `queue/claimed/`.
#[derive(Debug, Default)]
pub(super) struct ClaimedFolders {
    seen: HashMap<OsString, Folder>,
}

impl ClaimedFolders {
    pub(super) fn look(&mut self, root: &Root) -> Claimed {
        let mut all = Claimed::default();
        let mut seen = HashMap::new();
        let dir = root.claimed_root();
        for agent in names(&dir) {
            let path = dir.join(&agent);
            // harness makes no symlinks there.
            let meta = path.symlink_metadata().ok().filter(Metadata::is_dir);
            let (Some(meta), false) = (meta, Name::is_ignored(&agent)) else {
                continue;
            };
            let mut folder = self.seen.remove(&agent).unwrap_or_default();
            let files = folder.look(&path, &meta).unwrap_or_default();
            let items: BTreeSet<Name> = files.iter().filter_map(|f| claimed_item(f)).collect();
            all.files += items.len() as u64;
            if let (Some(slot), Some(item)) = (SlotId::parse(&agent), items.last()) {
                all.by_slot.insert(slot, item.as_os_str().to_owned());
            }
            seen.insert(agent, folder);
        }
        self.seen = seen;
        all
    }
}

/// Reads the slots' own status files, each only when it changed.
#[derive(Debug, Default)]
pub(super) struct Slots {
    seen: BTreeMap<SlotId, Seen>,
}

#[derive(Debug)]
struct Seen {
    stamp: Option<FileStamp>,
    status: SlotStatus,
    held: bool,
    /// Why it is nobody's any more, though a late process of its may hold it still.
    lost: Option<String>,
}

impl Slots {
    /// The slots held by a process, and those whose holder died and left an item, by number. `own`:
    /// the caller's slots and their status. `probe`: also check the leases of slots that were held
    /// at the last look.
    pub(super) fn look(
        &mut self,
        root: &Root,
        claimed: &Claimed,
        mut own: BTreeMap<SlotId, SlotStatus>,
        probe: bool,
    ) -> Vec<SlotStatus> {
        let mut present: BTreeSet<SlotId> = claimed.by_slot.keys().copied().collect();
        present.extend(
            names(&root.agents())
                .iter()
                .filter_map(|n| SlotId::parse(n)),
        );
        present.extend(own.keys());
        self.seen.retain(|slot, _| present.contains(slot));
        let mut all = Vec::new();
        for slot in present {
            if let Some(status) = own.remove(&slot) {
                all.push(status);
                continue;
            }
            let dir = root.agent(slot);
            let seen = self.seen.entry(slot).or_insert_with(|| Seen {
                stamp: None,
                status: SlotStatus::default(),
                held: false,
                lost: None,
            });
            // Free and new slots are always checked: none may be shown dead from an old result.
            if probe || !seen.held {
                seen.lost = why_lost(root, slot);
                seen.held = seen.lost.is_none() && lease::is_held(root, slot);
            }
            seen.refresh(&dir.join("status.json"));
            let left = claimed.by_slot.get(&slot);
            if !seen.held && left.is_none() {
                continue;
            }
            let mut status = seen.status.clone();
            let item = left.map(|name| shown(name));
            if !seen.held && status.item != item {
                // It died before it wrote about this item: nothing it said is of this one.
                status = SlotStatus {
                    harness_pid: status.harness_pid,
                    item,
                    ..SlotStatus::default()
                };
            }
            status.id = slot.to_string();
            if !seen.held {
                status.health = Health::Dead;
                status.reason = seen.lost.clone().or(status.reason);
            }
            all.push(status);
        }
        all
    }
}

impl Seen {
    fn refresh(&mut self, path: &Path) {
        let Ok(meta) = path.symlink_metadata() else {
            self.stamp = None;
            self.status = SlotStatus::default();
            return;
        };
        let stamp = Some(FileStamp::of(&meta));
        if self.stamp == stamp {
            return;
        }
        // An unreadable file is read once and keeps the last known status.
        self.stamp = stamp;
        let content = atomic::read_small(path, FILE_BYTES_MAX).ok();
        if let Some(status) = content.and_then(|c| serde_json::from_slice(&c).ok()) {
            self.status = status;
        }
    }
}

/// What is said of a slot that was given up with its host, and what happens next.
fn why_lost(root: &Root, slot: SlotId) -> Option<String> {
    let marker = lease::marker(root, slot)?;
    let why = marker.given_up?;
    let host = marker.host.name;
    Some(format!(
        "its host {host} is lost: {why}; the next free worker moves its item back"
    ))
}

/// The interrupts in force, by slot or `all`.
pub(super) fn interrupts(root: &Root) -> Vec<InterruptStatus> {
    let status = |slot: String| {
        let path = interrupt::path(root, &slot);
        Some(InterruptStatus {
            reason: first_line(&path),
            since: since(&path)?,
            slot,
        })
    };
    interrupt::all(root)
        .into_iter()
        .filter_map(status)
        .collect()
}

/// Files beside them that are for nobody.
pub(super) fn odd_interrupts(root: &Root) -> impl Iterator<Item = TroubleStatus> {
    let odd = interrupt::odd(root, &Mutex::default());
    let since = |file: &str| since(&root.path().join(file)).unwrap_or_default();
    let status = move |(place, reason): (String, String)| TroubleStatus {
        since: since(&place),
        place,
        reason,
        tries: 1,
    };
    odd.into_iter().map(status)
}

/// When a file was written; `None`: it is not there.
fn since(path: &Path) -> Option<String> {
    let written = path.metadata().ok()?.modified().ok();
    let written = written.and_then(|t| Timestamp::try_from(t).ok());
    Some(written.map(clock::iso).unwrap_or_default())
}

fn first_line(path: &Path) -> String {
    let mut head = Vec::new();
    if let Ok(file) = atomic::open_regular(path) {
        // An interrupt that cannot be read has no reason.
        drop(file.take(4 << 10).read_to_end(&mut head));
    }
    let text = String::from_utf8_lossy(&head);
    let line = text.lines().map(str::trim).find(|l| !l.is_empty());
    line.unwrap_or_default()
        .chars()
        .take(REASON_CHARS_MAX)
        .collect()
}

/// The orders in force, from `state/control/`.
pub(super) fn orders(root: &Root) -> Vec<String> {
    let is_there = |order: &&str| atomic::exists(&root.control().join(order));
    ["pause", "drain", "stop"]
        .iter()
        .filter(|order| is_there(order))
        .map(|order| (*order).to_owned())
        .collect()
}
