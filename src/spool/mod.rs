//! Claims: the transitions between `pending/`, `claimed/SLOT/`, `done/` and `parked/`.
//!
//! Hard-linking the slot's marker to `state/claims/NAME` elects one holder of a name, the rename
//! into `claimed/SLOT/` takes the file, one rename out of it ends the claim. The record's `claimed`
//! line comes before that first rename: a file in `claimed/` always belongs to the last attempt on
//! record, never to an earlier item of the same name. Each step after the claim renames from a name
//! that only this slot uses: if the file is gone, the claim was taken away, and its holder publishes
//! nothing. Right before the end is recorded the file gets a name that people leave alone (`fence`):
//! an end on record proves that it was not taken away, wherever it lies afterwards.
//!
//! Order at the end: file first, then exclusive key, then claim. A crash in between leaves links
//! to the marker, which the slot's next holder removes (`recovery`).

mod claim;
mod read;
mod waiting;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Kind, Result};
use crate::item::{self, Item};
use crate::layout::{self, Name, Place, Root, SlotId, claimed_item, join};
use crate::lease::Lease;
use crate::limits::ITEM_BYTES_MAX;
use crate::mutant::planted;
use crate::record::{Event, Reason, Record, Refused};
pub use claim::{Acceptance, ClaimOutcome, ClaimRequest, try_claim};
pub use read::settled;
pub(crate) use waiting::{look_at, take_waiting};

/// The items in a slot's folder, one whose end is being recorded included. None where a symlink is in
/// its place: what it leads to is not harness's.
pub(crate) fn claimed_in(root: &Root, slot: SlotId) -> Result<Vec<Name>> {
    let dir = root.claimed(slot);
    if !atomic::is_own_dir(&dir) {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).or_fail("cannot list", &dir)? {
        names.extend(claimed_item(
            &entry.or_fail("cannot list", &dir)?.file_name(),
        ));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Why no item can be attempted in this slot now, though `pending/` may be fine: a folder that every
/// attempt writes in is closed. That is no item's fault.
pub(crate) fn why_closed(root: &Root, slot: SlotId) -> Option<Error> {
    let folders = [
        root.claims(),
        root.items(),
        root.sessions(),
        root.agent(slot),
        root.claimed(slot),
        root.kept_repos(),
        root.repos(),
        root.worktrees(),
    ];
    let closed = folders.iter().find_map(|dir| atomic::why_closed(dir));
    closed.or_else(|| why_place_is_stuck(root, slot))
}

/// Why the slot's worktree, or the repository beside it, can be neither used nor put aside: an agent
/// may have left an immutable file in its place.
fn why_place_is_stuck(root: &Root, slot: SlotId) -> Option<Error> {
    let all = std::fs::read_dir(root.worktrees()).into_iter().flatten();
    all.flatten()
        .filter(|e| layout::is_of_slot(&e.file_name(), slot))
        .find_map(|e| atomic::why_unmovable(&e.path()))
}

/// Why the end of a slot's item cannot be written now, by trying. For where no harness says it.
pub(crate) fn why_stuck(root: &Root, slot: SlotId) -> Option<Error> {
    let items = claimed_in(root, slot).unwrap_or_default();
    let claimed = root.claimed(slot);
    let files = items
        .iter()
        .flat_map(|name| [root.ending(slot, name), join(&claimed, name.as_os_str())]);
    let folders = [
        claimed.clone(),
        root.place(Place::Review),
        root.place(Place::Merge),
        root.place(Place::Done),
        root.place(Place::Parked),
        root.agent(slot),
        root.items(),
        root.sessions(),
    ];
    let closed = || folders.iter().filter_map(|dir| atomic::why_unwritable(dir));
    let is_there = |e: &Error| e.errno() != Some(nix::errno::Errno::ENOENT as i32);
    let mut files = files.filter_map(|file| atomic::why_unmovable(&file));
    files.next().or_else(|| closed().find(is_there))
}

/// A claimed item, consumed by `end`. If it is dropped instead (in a panic, or when the process
/// stops), the file stays in `claimed/` for the slot's next holder.
#[must_use = "a claim that is not ended stays in claimed/ until the slot's next holder looks"]
pub struct Claim {
    root: Root,
    lease: Arc<Lease>,
    pub name: Name,
    pub item: Item,
    /// The file's bytes, as claimed.
    pub bytes: Vec<u8>,
    pub executable: bool,
    /// The file has its name for the end.
    fenced: bool,
    ended: Option<Ended>,
    /// What is to be done before the name is free was done.
    told: bool,
}

/// Writes a line to the item's record. A permanent error is returned as a value: it must not keep
/// an item in the queue.
fn note(root: &Root, name: &Name, event: &Event) -> Result<Option<Error>> {
    match Record::open(root, name).and_then(|mut record| record.append(event)) {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => Ok(Some(e)),
    }
}

/// That an item is parked for a reason that no attempt gave.
fn parked(why: &str) -> Event {
    Event::Parked(Refused {
        reason: why.to_owned(),
        outcome: None,
    })
}

fn park_file(root: &Root, name: &Name, from: &std::path::Path, why: &str) -> Result<bool> {
    let _unwritten = note(root, name, &parked(why))?;
    atomic::rename_with_backup(from, &root.item(Place::Parked, name))
}

/// Records why an item cannot be claimed. Without the record it stays all the same.
pub(crate) fn note_stays(root: &Root, name: &Name, why: &str) {
    let reason = why.to_owned();
    drop(note(root, name, &Event::Stays(Reason { reason })));
}

/// Where a claim's file is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Review,
    Merge,
    Done,
    Parked,
    /// Not to start before this instant (ns since 1970), which becomes its modification time.
    Pending {
        not_before: Option<i64>,
    },
}

/// Where an ended claim's file is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Placed(Place),
    /// The file had been taken away: the claim was no longer ours.
    TakenAway,
}

impl Claim {
    /// Rebuilds the claim of the slot's dead holder. If its file is gone or cannot be parsed any
    /// more, only the item's name is known.
    pub fn adopt(root: &Root, lease: &Arc<Lease>, name: &Name) -> Result<Box<Claim>> {
        let fenced = atomic::exists(&root.ending(lease.slot, name));
        let path = match fenced {
            true => root.ending(lease.slot, name),
            false => join(&root.claimed(lease.slot), name.as_os_str()),
        };
        let mut bytes = Vec::new();
        let mut executable = false;
        if let Ok(meta) = path.symlink_metadata()
            && meta.is_file()
        {
            executable = meta.mode() & 0o111 != 0;
            match atomic::read_small(&path, ITEM_BYTES_MAX) {
                Ok(read) => bytes = read,
                Err(e) => {
                    let e = Error::io("cannot read the item", &path, &e);
                    if e.kind() == Kind::Temporary {
                        return Err(e);
                    }
                }
            }
        }
        let item = item::parse(name, &bytes, executable).unwrap_or_else(|_| Item::blank());
        Ok(Box::new(Claim {
            root: root.clone(),
            lease: lease.clone(),
            name: name.clone(),
            item,
            bytes,
            executable,
            fenced,
            ended: None,
            told: false,
        }))
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Where the file lies while it is claimed.
    pub fn path(&self) -> PathBuf {
        match self.fenced {
            true => self.root.ending(self.lease.slot, &self.name),
            false => join(&self.root.claimed(self.lease.slot), self.name.as_os_str()),
        }
    }

    /// Gives the file its name for the end: from here on nobody but this slot's holder moves it.
    /// `false`: a person had taken it away.
    pub fn fence(&mut self) -> Result<bool> {
        if self.fenced || planted("publish-unfenced") {
            return Ok(true);
        }
        let to = self.root.ending(self.lease.slot, &self.name);
        loop {
            if self.leads_out() {
                return Ok(false);
            }
            match atomic::rename_new(&self.path(), &to)? {
                Moved::SourceGone => return self.taken_away().map(|_| false),
                // Nothing of harness's: an earlier end was recovered before this claim.
                Moved::Taken => atomic::keep_older(&to)?,
                Moved::Done => {
                    self.fenced = true;
                    return Ok(true);
                }
            }
        }
    }

    /// Gives the file its own name back: its end is not on record.
    pub fn unfence(&mut self) -> Result<()> {
        let own = join(&self.root.claimed(self.lease.slot), self.name.as_os_str());
        // Taken: somebody put a file there. It keeps the other name, which does as well.
        if self.fenced && atomic::rename_new(&self.path(), &own)? == Moved::Done {
            self.fenced = false;
        }
        Ok(())
    }

    /// Whether the file is still where this claim put it. A person cancels by moving it.
    pub fn is_ours(&self) -> bool {
        self.is_there() && !self.leads_out()
    }

    /// Whether its file exists: cheaper than `is_ours`. If an agent replaced the slot's folder with
    /// a symlink, that is only noticed at the end.
    pub fn is_there(&self) -> bool {
        planted("publish-unfenced") || !atomic::is_gone(&self.path()) || !self.root.stands()
    }

    /// The file is gone: a person took it, unless all of ROOT is gone from its path.
    fn taken_away(&self) -> Result<Ended> {
        match self.root.stands() {
            true => Ok(Ended::TakenAway),
            false => Err(Error::temporary(
                "cannot end the claim",
                "ROOT is not at its path any more",
            )
            .at_path(self.root.path())),
        }
    }

    /// Whether the slot's folder was replaced with a symlink: what it leads to is not harness's.
    fn leads_out(&self) -> bool {
        self.root.claimed(self.lease.slot).is_symlink()
    }

    /// Ends the claim. An error returns the claim, to try again: nothing is lost (a full disk can
    /// make even a rename fail).
    ///
    /// `before` is called once the file is in its place, or was found taken away, and before the claim
    /// is given up: it does what must be done before somebody else may hold the name. Whoever recovers
    /// a claim without a file cannot know whether it was done.
    pub fn end(
        mut self: Box<Self>,
        to: Target,
        durable: bool,
        before: &mut dyn FnMut(Ended) -> Result<()>,
    ) -> Result<Ended, (Error, Box<Claim>)> {
        match self.try_end(to, durable, before) {
            Ok(ended) => Ok(ended),
            Err(e) => Err((e, self)),
        }
    }

    fn try_end(
        &mut self,
        to: Target,
        durable: bool,
        before: &mut dyn FnMut(Ended) -> Result<()>,
    ) -> Result<Ended> {
        // Keep the result: a second try must not mistake a moved file for a canceled item.
        let ended = match self.ended {
            Some(ended) => ended,
            None => self.place(to)?,
        };
        self.ended = Some(ended);
        if durable && let Ended::Placed(place) = ended {
            atomic::sync_dir(&self.root.place(place))?;
        }
        if !self.told {
            before(ended)?;
            self.told = true;
        }
        if let Some(word) = &self.item.order.exclusive {
            self.lease.let_go(&self.root.exclusive(word))?;
        }
        if !planted("claim-not-let-go") {
            self.lease.let_go(&self.root.claim(&self.name))?;
        }
        Ok(ended)
    }

    fn place(&self, to: Target) -> Result<Ended> {
        let from = self.path();
        if self.leads_out() {
            return Ok(Ended::TakenAway);
        }
        let place = match to {
            Target::Review => Place::Review,
            Target::Merge => Place::Merge,
            Target::Done => Place::Done,
            Target::Parked => Place::Parked,
            Target::Pending { not_before } => {
                if let Some(ns) = not_before
                    && atomic::exists(&from)
                    && let Some(why) = postpone(&from, ns)?
                {
                    return self.park(&why);
                }
                let to = self.root.item(Place::Pending, &self.name);
                if planted("return-overwrites") && atomic::exists(&from) {
                    atomic::rename_over(&from, &to)?;
                    return Ok(Ended::Placed(Place::Pending));
                }
                match atomic::rename_new(&from, &to)? {
                    Moved::Done => return Ok(Ended::Placed(Place::Pending)),
                    Moved::SourceGone => return self.taken_away(),
                    // The same name was dropped again meanwhile: the newer file is what its owner
                    // wants, this one is kept beside it.
                    Moved::Taken => {
                        let why = "a newer file of the same name was dropped while this one ran";
                        return self.park(why);
                    }
                }
            }
        };
        self.put_in(place)
    }

    /// Parks the file, with a reason that no attempt gave.
    fn park(&self, why: &str) -> Result<Ended> {
        let _unwritten = note(&self.root, &self.name, &parked(why))?;
        self.put_in(Place::Parked)
    }

    fn put_in(&self, place: Place) -> Result<Ended> {
        let to = self.root.item(place, &self.name);
        match atomic::rename_with_backup(&self.path(), &to)? {
            true => Ok(Ended::Placed(place)),
            false => self.taken_away(),
        }
    }
}

/// Has a claimed file wait until then. Only its owner may set a file's time: another user's file
/// becomes a copy of ours. Returns why that cannot be, if it cannot.
fn postpone(file: &std::path::Path, not_before_ns: i64) -> Result<Option<String>> {
    let done = match atomic::set_mtime(file, not_before_ns) {
        Err(e) if e.kind() == Kind::Permanent => {
            atomic::make_own(file, ITEM_BYTES_MAX, not_before_ns)
        }
        done => done,
    };
    match done {
        Err(e) if e.kind() == Kind::Permanent => Ok(Some(format!("it cannot be postponed: {e}"))),
        done => done.map(|()| None),
    }
}
