//! Gathers what a report tells: the newest records in full, older attempts as sums, and what lies where.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::aggregator;
use crate::atomic;
use crate::clock;
use crate::error::{Context, Result};
use crate::inspect;
use crate::layout::{Name, Place, Root, SlotId, shown};
use crate::limits::{NAME_BYTES_MAX, RECORD_BYTES_MAX};
use crate::record::{History, Line};
use crate::spool;

use super::attempts::{Attempt, Past};

/// Items that are told one by one: the newest.
pub(super) const ITEMS_MAX: usize = 10_000;
/// Attempts of one item that are told: the newest.
const ATTEMPTS_MAX: usize = 20;
/// Items in `pending/` without a record whose time is looked at.
const WAITING_MAX: usize = 10_000;

pub(super) struct Data {
    /// Milliseconds since 1970, as all times here.
    pub(super) now: i64,
    /// By their last change, the oldest first.
    pub(super) items: Vec<Item>,
    pub(super) older: Option<Older>,
    /// Files by folder of `queue/`.
    pub(super) states: BTreeMap<&'static str, u64>,
    /// Since when those in `pending/` wait that nothing was recorded of.
    pub(super) waiting: Vec<i64>,
}

pub(super) struct Item {
    pub(super) name: Name,
    /// A folder of `queue/`; `gone`: its file is in none.
    pub(super) state: &'static str,
    /// The newest that its record tells.
    pub(super) outcome: String,
    pub(super) reason: String,
    pub(super) attempts: Vec<Attempt>,
    /// Earlier attempts that are not told.
    pub(super) left_out: usize,
    pub(super) waits_since: Option<i64>,
}

/// What is not told one by one.
#[derive(Default)]
pub(super) struct Older {
    pub(super) items: u64,
    pub(super) attempts: u64,
    pub(super) done: u64,
    pub(super) parked: u64,
    pub(super) cost_usd: f64,
}

impl Data {
    pub(super) fn attempts<'d>(&'d self) -> impl Iterator<Item = (&'d Item, &'d Attempt)> {
        let of = |item: &'d Item| item.attempts.iter().map(move |attempt| (item, attempt));
        self.items.iter().flat_map(of)
    }

    pub(super) fn state(&self, state: &str) -> u64 {
        self.states.get(state).copied().unwrap_or_default()
    }
}

pub(super) fn gather(root: &Root) -> Result<Data> {
    let places = Places::look(root);
    let (newest, older) = records(root)?;
    let mut items: Vec<Item> = newest
        .iter()
        .filter_map(|file| item(root, &places, file))
        .collect();
    at_work(root, &mut items);
    let older = (older > 0).then(|| sums(root, &items, older)).transpose()?;
    Ok(Data {
        now: clock::now().as_millisecond(),
        waiting: waiting(root, &items),
        states: places.states,
        items,
        older,
    })
}

/// The newest records, the oldest first, and how many there are besides.
fn records(root: &Root) -> Result<(Vec<OsString>, u64)> {
    let dir = root.items();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(e) => return Err(e).or_fail("cannot list the records", &dir),
    };
    let mut found: Vec<(i64, OsString)> = Vec::new();
    let mut count = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Ok(meta) = entry.metadata() else { continue };
        if !name.as_bytes().ends_with(b".jsonl") || !meta.is_file() {
            continue;
        }
        count += 1;
        found.push((clock::mtime_ns(&meta), name));
        if found.len() == ITEMS_MAX * 4 {
            keep_newest(&mut found);
        }
    }
    keep_newest(&mut found);
    found.sort();
    let left_out = count - found.len() as u64;
    Ok((found.into_iter().map(|(_, name)| name).collect(), left_out))
}

fn keep_newest(found: &mut Vec<(i64, OsString)>) {
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(ITEMS_MAX);
}

/// Where items' files are.
struct Places {
    claimed: HashSet<Name>,
    states: BTreeMap<&'static str, u64>,
}

impl Places {
    fn look(root: &Root) -> Places {
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name())
        };
        let slots = names(&root.claimed_root()).filter_map(|slot| SlotId::parse(&slot));
        let claimed: HashSet<Name> = slots
            .flat_map(|slot| spool::claimed_in(root, slot).unwrap_or_default())
            .collect();
        let count = |place: Place| {
            let items = names(&root.place(place)).filter(|name| !Name::is_ignored(name));
            (place.dir(), items.count() as u64)
        };
        let mut states: BTreeMap<_, _> = Place::ALL.into_iter().map(count).collect();
        states.insert("claimed", claimed.len() as u64);
        Places { claimed, states }
    }

    fn of(&self, root: &Root, name: &Name) -> &'static str {
        if self.claimed.contains(name) {
            return "claimed";
        }
        let is_there = |place: &Place| atomic::exists(&root.item(*place, name));
        let place = Place::ALL.into_iter().find(is_there);
        place.map_or("gone", Place::dir)
    }
}

/// `None`: its record cannot be read, or says nothing.
fn item(root: &Root, places: &Places, file: &OsStr) -> Option<Item> {
    let bytes = atomic::read_small(&root.items().join(file), RECORD_BYTES_MAX).ok()?;
    let lines: Vec<Line> = bytes
        .split(|&b| b == b'\n')
        .filter_map(Line::parse)
        .collect();
    if lines.is_empty() {
        return None;
    }
    let stem = file.as_bytes().strip_suffix(b".jsonl")?;
    let name = Name::new(OsStr::from_bytes(stem));
    let state = match stem.len() > NAME_BYTES_MAX {
        // Its file has a longer name than its record, and was refused for it.
        true => Place::Parked.dir(),
        false => places.of(root, &name),
    };
    let history = History::of(&lines);
    let mut past = Past::of(&lines);
    let left_out = past.attempts.len().saturating_sub(ATTEMPTS_MAX);
    past.attempts.drain(..left_out);
    if let Some(first) = past.attempts.first_mut().filter(|a| a.queued.is_none()) {
        first.queued = dropped(root, &name, state).filter(|at| *at <= first.claimed);
    }
    let waits = past.waits_since.filter(|_| state == "pending");
    let outcome = history.outcome.as_ref().map(|o| o.as_str().to_owned());
    Some(Item {
        outcome: outcome.unwrap_or_default(),
        reason: crate::view::line(history.reason.as_deref().unwrap_or_default()),
        waits_since: waits.or_else(|| (state == "pending").then(|| dropped(root, &name, state))?),
        name,
        state,
        attempts: past.attempts,
        left_out,
    })
}

/// When its file was written, where a command did not put it into the queue.
fn dropped(root: &Root, name: &Name, state: &str) -> Option<i64> {
    let place = Place::ALL.into_iter().find(|p| p.dir() == state)?;
    let meta = root.item(place, name).symlink_metadata().ok()?;
    Some(clock::mtime_ns(&meta) / 1_000_000)
}

/// Those without an end: what they have used so far, or that nobody works on them.
fn at_work(root: &Root, items: &mut [Item]) {
    let status = aggregator::read(root).ok().flatten().unwrap_or_default();
    let slots: HashMap<&str, _> = status
        .agents
        .iter()
        .filter_map(|slot| Some((slot.session.as_deref()?, slot)))
        .collect();
    let attempts = items.iter_mut().flat_map(|item| &mut item.attempts);
    for attempt in attempts.filter(|a| a.ended.is_none()) {
        if let Some(slot) = slots.get(attempt.session.as_str()) {
            attempt.turns = slot.turns;
            attempt.input_tokens = slot.input_tokens;
            attempt.output_tokens = slot.output_tokens;
            attempt.cost_usd = slot.cost_usd;
        }
        if is_left(root, attempt) {
            attempt.outcome = "left".to_owned();
            attempt.reason = "its end is not on record: the next harness run looks".to_owned();
            let log = root.session(&attempt.session).join("stdout.log");
            let written = log
                .symlink_metadata()
                .ok()
                .map(|m| clock::mtime_ns(&m) / 1_000_000);
            attempt.ended = Some(written.unwrap_or_default().max(attempt.claimed));
        }
    }
}

fn is_left(root: &Root, attempt: &Attempt) -> bool {
    // A record is a file: its session may be any text.
    clock::made_ms(&attempt.session).is_none()
        || inspect::Session::read(root, &attempt.session).state == inspect::State::Left
}

fn sums(root: &Root, items: &[Item], older: u64) -> Result<Older> {
    let told: HashSet<String> = items.iter().map(|item| item.name.shown()).collect();
    let mut sums = Older {
        items: older,
        ..Older::default()
    };
    aggregator::each_line(root, None, |line| {
        if told.contains(&line.item) {
            return;
        }
        sums.attempts += 1;
        match line.outcome.as_str() {
            _ if !line.last => {}
            "succeeded" | "no_change" => sums.done += 1,
            _ => sums.parked += 1,
        }
        if line.cost_usd >= 0.0 {
            sums.cost_usd += line.cost_usd;
        }
    })?;
    Ok(sums)
}

fn waiting(root: &Root, items: &[Item]) -> Vec<i64> {
    let told: HashSet<&OsStr> = items.iter().map(|item| item.name.as_os_str()).collect();
    let entries = fs::read_dir(root.place(Place::Pending));
    let files = entries.into_iter().flatten().flatten();
    let files = files.filter(|file| {
        let name = file.file_name();
        !Name::is_ignored(&name) && !told.contains(name.as_os_str())
    });
    let written = files.take(WAITING_MAX).filter_map(|file| {
        let meta = file.metadata().ok()?;
        Some(clock::mtime_ns(&meta) / 1_000_000)
    });
    written.collect()
}

/// A name that people can read.
pub(super) fn name_of(item: &Item) -> String {
    shown(item.name.as_os_str())
}
