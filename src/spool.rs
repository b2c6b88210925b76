//! Claims: the transitions between `pending/`, `claimed/AGENT/`, `done/` and `parked/`.
//!
//! Hard-linking the slot's marker to `state/claims/NAME` elects one holder of a name, the rename
//! into `claimed/AGENT/` takes the file, one rename out of it ends the claim. The record's `claimed`
//! line comes before that first rename: a file in `claimed/` is always that of the last attempt on
//! record, never mistaken for one of an earlier life of its name. Every step after the
//! claim renames from a name that this slot alone has: if the file is gone, the claim was taken
//! away, and whoever held it publishes nothing.
//!
//! Order at the end: file first, then exclusive key, then claim. A crash in between leaves links
//! to the marker, which the slot's next holder removes (`recovery`).

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::{Context, Error, Kind, Result};
use crate::item::{self, Item, QueueFields, Refusal};
use crate::layout::{Name, Place, Root, join};
use crate::lease::Lease;
use crate::limits::{ITEM_BYTES_MAX, SETTLE};
use crate::mutant::planted;
use crate::record::{self, Claimed, Event, Reason, Record, Requeued};
use crate::sys::{self, ReadLease};

/// A held item. Used up by `end`; dropped (in a panic, or when the process is told to let go) it
/// stays in `claimed/` for the slot's next holder.
#[must_use = "a claim that is not ended stays in claimed/ until the slot's next holder looks"]
pub struct Claim {
    root: Root,
    lease: std::sync::Arc<Lease>,
    pub name: Name,
    pub item: Item,
    /// The file's bytes, as claimed.
    pub bytes: Vec<u8>,
    pub executable: bool,
    ended: Option<Ended>,
}

/// What became of a try to claim a name.
pub enum ClaimOutcome {
    /// With its record, whose last line says that a new attempt was claimed.
    Won(Box<Claim>, Box<Record>),
    /// Not in `pending/` any more: another holder has it, or a person moved it.
    Gone,
    /// The name is in flight (its claim exists), or its exclusive key is: look again later.
    Busy,
    /// Somebody still writes the file, or only just made it: look again later.
    Unsettled,
    /// Its fields say that it must wait: they differ from what the index believed.
    Waits(QueueFields),
    /// This agent, which it is for, is held.
    Held(String),
    /// It was refused and is in `parked/`, with this reason.
    Refused(String),
}

/// Whether an item can be run here.
pub enum Acceptance {
    Now,
    /// Its agent is held; as `ClaimOutcome::Held`.
    Later(String),
    Never(Refusal),
}

/// Tries to claim `name` for the lease's slot. `durable`: so that it survives a power cut.
/// `refuse`: a reason to refuse it that the file alone does not show (a dependency cycle).
/// `may_start` decides whether its fields let it start now.
pub fn try_claim(
    root: &Root,
    lease: &std::sync::Arc<Lease>,
    name: &Name,
    durable: bool,
    refuse: Option<String>,
    may_start: &dyn Fn(&QueueFields, &Metadata) -> bool,
    accepts: &dyn Fn(&Item) -> Acceptance,
) -> Result<ClaimOutcome> {
    let claimed = root.claimed(lease.slot);
    if claimed.is_symlink() {
        let why = "the slot's folder was replaced by a symlink, which harness does not follow";
        return Err(Error::permanent("cannot claim", why)
            .at_path(&claimed)
            .hint("remove the symlink: harness makes its own folder"));
    }
    let claim_path = root.claim(name);
    match atomic::link_new(&lease.marker(), &claim_path)? {
        Moved::Done => {}
        Moved::Taken if planted("claim-without-election") => {}
        Moved::Taken => return Ok(ClaimOutcome::Busy),
        Moved::SourceGone => {
            return Err(
                Error::permanent("cannot claim", "the slot's marker is gone")
                    .at_path(&lease.marker())
                    .hint("do not remove files in state/agents/ while harness runs"),
            );
        }
    }
    let tried = try_held(root, lease, name, durable, refuse, may_start, accepts);
    if !matches!(tried, Ok(ClaimOutcome::Won(..))) {
        atomic::remove(&claim_path)?;
    }
    tried
}

/// The part of a claim after the election: nobody else touches the name now, but people may.
fn try_held(
    root: &Root,
    lease: &std::sync::Arc<Lease>,
    name: &Name,
    durable: bool,
    refuse: Option<String>,
    may_start: &dyn Fn(&QueueFields, &Metadata) -> bool,
    accepts: &dyn Fn(&Item) -> Acceptance,
) -> Result<ClaimOutcome> {
    let pending = root.item(Place::Pending, name);
    let read = match refuse {
        Some(why) => Looked::Refuse(why),
        None => read_whole(name, &pending)?,
    };
    let (file, meta, bytes) = match read {
        Looked::Whole(file, meta, bytes) => (file, meta, bytes),
        Looked::Gone => return Ok(ClaimOutcome::Gone),
        Looked::Unsettled => return Ok(ClaimOutcome::Unsettled),
        Looked::Refuse(why) => return refuse_item(root, name, why),
    };
    let executable = meta.mode() & 0o111 != 0;
    let item = match item::parse(name, &bytes, executable) {
        Ok(item) => item,
        Err(Refusal(why)) => return refuse_item(root, name, why),
    };
    let fit = accepts(&item);
    if let Acceptance::Never(Refusal(why)) = fit {
        return refuse_item(root, name, why);
    }
    if !may_start(&item.order, &meta) {
        return Ok(ClaimOutcome::Waits(item.order));
    }
    if let Acceptance::Later(agent) = fit {
        return Ok(ClaimOutcome::Held(agent));
    }
    let mut record = match Record::open(root, name) {
        Ok(record) => record,
        Err(e) if e.kind() == Kind::Temporary => return Err(e),
        Err(e) => return refuse_item(root, name, e.to_string()),
    };
    let mut key = None;
    if let Some(word) = &item.order.exclusive {
        let path = root.exclusive(word);
        if atomic::link_new(&lease.marker(), &path)? != Moved::Done {
            return Ok(ClaimOutcome::Busy);
        }
        key = Some(path);
    }
    let claimed = join(&root.claimed(lease.slot), name.as_os_str());
    let sid = clock::unique().to_string();
    let noted = match planted("claim-not-recorded") {
        true => Ok(()),
        false => note_claim(&mut record, lease, &sid, meta.ino(), durable),
    };
    let moved = noted.and_then(|()| atomic::rename_new(&pending, &claimed));
    // The read lease holds writers off while it is moved. One that waits by now, having opened the
    // file where it was, shows here: what it writes belongs to the item, so the file goes back
    // before `file` is closed and lets it go on.
    let wanted = matches!(sys::read_lease(&file), Ok(ReadLease::BeingWritten));
    let same = claimed
        .symlink_metadata()
        .is_ok_and(|now| now.ino() == meta.ino());
    match moved {
        Ok(Moved::Done) if same && !wanted => Ok(ClaimOutcome::Won(
            Box::new(Claim {
                root: root.clone(),
                lease: lease.clone(),
                name: name.clone(),
                item,
                bytes,
                executable,
                ended: None,
            }),
            Box::new(record),
        )),
        other => {
            // Where it could not even be noted, the last one is an earlier attempt, which happened.
            let last = record.history().last.as_ref();
            if last.is_some_and(|last| last.session == sid) {
                let undone = Event::Requeued(Requeued {
                    session: sid.clone(),
                    reason: "it was not won".into(),
                    not_before_ns: None,
                });
                // Only its number would be missed.
                let _full = record.append(&undone);
            }
            if let Some(key) = key {
                atomic::remove(&key)?;
            }
            match other? {
                // Another file was put in its place between the reading and the rename: this one
                // was never read. Or somebody goes on writing it. Put it back and look again.
                Moved::Done => {
                    let back = atomic::rename_new(&claimed, &pending)?;
                    if back == Moved::Taken {
                        park_file(root, name, &claimed, "replaced while it was claimed")?;
                    }
                    Ok(ClaimOutcome::Unsettled)
                }
                Moved::SourceGone => Ok(ClaimOutcome::Gone),
                Moved::Taken => Err(Error::permanent(
                    "cannot claim",
                    "a file of this name is in claimed/ already, though nobody holds its claim",
                )
                .at_path(&claimed)
                .hint("move that file to queue/parked/")),
            }
        }
    }
}

/// The line that begins an attempt. It must be on disk before the rename only where the end of an
/// earlier attempt stands before it: without it, that end would be taken for this one's.
fn note_claim(
    record: &mut Record,
    lease: &Lease,
    sid: &str,
    inode: u64,
    durable: bool,
) -> Result<()> {
    let history = record.history();
    let (again, attempt) = (history.last.is_some(), history.next_attempt());
    record.append(&Event::Claimed(Claimed {
        session: sid.to_owned(),
        slot: lease.slot.to_string(),
        attempt,
        harness_pid: Some(std::process::id()),
        inode: Some(inode),
    }))?;
    if durable && again {
        record.sync()
    } else {
        Ok(())
    }
}

enum Looked {
    Whole(File, Metadata, Vec<u8>),
    Gone,
    Unsettled,
    Refuse(String),
}

/// Reads a pending file, unless somebody still writes it. Symlinks are not followed, and nothing
/// but a regular file is opened for reading twice.
fn read_whole(name: &Name, path: &std::path::Path) -> Result<Looked> {
    use std::io::ErrorKind;
    let refuse = |why: &str| Ok(Looked::Refuse(why.into()));
    if name.is_too_long() {
        return Ok(Looked::Refuse(format!(
            "its name is longer than {} bytes",
            crate::limits::NAME_BYTES_MAX
        )));
    }
    let opened = atomic::open_safely(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Looked::Gone),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return refuse("it is a symlink; harness follows none: copy the file itself");
        }
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return refuse("it is a socket"),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return refuse("harness may not read it: permission denied");
        }
        Err(e) => return Err(Error::io("cannot read the item", path, &e)),
    };
    let meta = file.metadata().or_fail("cannot look at the item", path)?;
    let kind = meta.file_type();
    if !kind.is_file() {
        if kind.is_dir() && !settled(&meta) {
            return Ok(Looked::Unsettled);
        }
        return refuse(match () {
            () if kind.is_dir() => "it is a directory; an item is one file",
            () if kind.is_fifo() => "it is a fifo",
            () => "it is not a regular file",
        });
    }
    match sys::read_lease(&file).or_fail("cannot take a read lease on the item", path)? {
        ReadLease::Granted => {}
        ReadLease::BeingWritten => return Ok(Looked::Unsettled),
        ReadLease::Unsupported if settled(&meta) => {}
        ReadLease::Unsupported => return Ok(Looked::Unsettled),
    }
    if meta.len() == 0 && !settled(&meta) {
        // `touch x` and then an editor: it may only just be coming into being.
        return Ok(Looked::Unsettled);
    }
    let mut bytes = Vec::with_capacity(meta.len().min(ITEM_BYTES_MAX) as usize + 1);
    (&mut file)
        .take(ITEM_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .or_fail("cannot read the item", path)?;
    Ok(Looked::Whole(file, meta, bytes))
}

/// Whether nobody changed the file for a while. Where it was changed in the future (the clock was
/// set back since, or is behind a file server's), for a while since we first saw it like this.
pub fn settled(meta: &Metadata) -> bool {
    type Seen = HashMap<(u64, u64, i64), Instant>;
    static SEEN: LazyLock<Mutex<Seen>> = LazyLock::new(Mutex::default);
    let changed = clock::ctime_ns(meta);
    let age = clock::now_ns().saturating_sub(changed);
    if age >= 0 {
        return age >= SETTLE.as_nanos() as i64;
    }
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (now, key) = (clock::instant(), (meta.dev(), meta.ino(), changed));
    // Few are ever in it: what was looked at long ago has settled, or is gone.
    seen.retain(|k, at| *k == key || now.duration_since(*at) < SETTLE * 10);
    now.duration_since(*seen.entry(key).or_insert(now)) >= SETTLE
}

fn refuse_item(root: &Root, name: &Name, why: String) -> Result<ClaimOutcome> {
    let from = root.item(Place::Pending, name);
    if !atomic::exists(&from) {
        return Ok(ClaimOutcome::Gone);
    }
    let why =
        note(root, name, &record::refused(&why))?.map_or(why.clone(), |e| format!("{why}; {e}"));
    if atomic::rename_with_backup(&from, &root.item(Place::Parked, name))? {
        Ok(ClaimOutcome::Refused(why))
    } else {
        Ok(ClaimOutcome::Gone)
    }
}

/// Writes a line to the item's record. Where that fails and trying again will not help, an item on
/// its way out must not be stuck for it: the error is returned as a value.
fn note(root: &Root, name: &Name, event: &Event) -> Result<Option<Error>> {
    match Record::open(root, name).and_then(|mut record| record.append(event)) {
        Ok(()) => Ok(None),
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => Ok(Some(e)),
    }
}

fn park_file(root: &Root, name: &Name, from: &std::path::Path, why: &str) -> Result<bool> {
    let reason = why.to_owned();
    let _unwritten = note(root, name, &Event::Parked(Reason { reason }))?;
    atomic::rename_with_backup(from, &root.item(Place::Parked, name))
}

/// Where a claim's file is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
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
    /// The file had been taken away: the claim was not ours any more.
    TakenAway,
}

impl Claim {
    /// Re-makes the claim of a slot's dead holder. Where its file was changed beyond understanding
    /// or taken away, nothing is known of the item but its name.
    pub fn adopt(root: &Root, lease: &std::sync::Arc<Lease>, name: &Name) -> Result<Box<Claim>> {
        let path = join(&root.claimed(lease.slot), name.as_os_str());
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
            ended: None,
        }))
    }

    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Where the file lies while it is claimed.
    pub fn path(&self) -> PathBuf {
        join(&self.root.claimed(self.lease.slot), self.name.as_os_str())
    }

    /// Whether the file is still where this claim put it. A person cancels by moving it.
    pub fn is_ours(&self) -> bool {
        self.is_there() && !self.leads_out()
    }

    /// Whether its file is there, as far as can be seen at a glance: what an agent has put in the
    /// place of the slot's folder is found out at its end.
    pub fn is_there(&self) -> bool {
        planted("publish-unfenced") || !atomic::is_gone(&self.path())
    }

    /// Its agent put a symlink in the place of the slot's folder: what lies behind it is somebody
    /// else's, whatever its name.
    fn leads_out(&self) -> bool {
        self.root.claimed(self.lease.slot).is_symlink()
    }

    /// Ends the claim. The error gives the claim back: stay in place and try again, nothing is
    /// lost (a full disk can make even a rename fail).
    ///
    /// `taken` is called where the file had been taken away, before the claim is given up: what
    /// must be true before somebody else may hold the name.
    pub fn end(
        mut self: Box<Self>,
        to: Target,
        durable: bool,
        taken: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Ended, (Error, Box<Claim>)> {
        match self.try_end(to, durable, taken) {
            Ok(ended) => Ok(ended),
            Err(e) => Err((e, self)),
        }
    }

    fn try_end(
        &mut self,
        to: Target,
        durable: bool,
        taken: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Ended> {
        // Once moved, moved: a second try must not take the empty place for a cancel.
        let ended = match self.ended {
            Some(ended) => ended,
            None => self.place(to)?,
        };
        self.ended = Some(ended);
        if ended == Ended::TakenAway {
            taken()?;
        }
        if durable && let Ended::Placed(place) = ended {
            atomic::sync_dir(&self.root.place(place))?;
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
            Target::Done => Place::Done,
            Target::Parked => Place::Parked,
            Target::Pending { not_before } => {
                if let Some(ns) = not_before
                    && atomic::exists(&from)
                {
                    atomic::set_mtime(&from, ns)?;
                }
                let to = self.root.item(Place::Pending, &self.name);
                if planted("return-overwrites") && atomic::exists(&from) {
                    atomic::rename_over(&from, &to)?;
                    return Ok(Ended::Placed(Place::Pending));
                }
                match atomic::rename_new(&from, &to)? {
                    Moved::Done => return Ok(Ended::Placed(Place::Pending)),
                    Moved::SourceGone => return Ok(Ended::TakenAway),
                    // The same name was dropped again meanwhile: the newer file is what its owner
                    // wants, this one is kept beside it.
                    Moved::Taken => {
                        let why = "a newer file of the same name was dropped while this one ran";
                        let reason = why.to_owned();
                        let _unwritten =
                            note(&self.root, &self.name, &Event::Parked(Reason { reason }))?;
                        Place::Parked
                    }
                }
            }
        };
        let placed = atomic::rename_with_backup(&from, &self.root.item(place, &self.name))?;
        Ok(if placed {
            Ended::Placed(place)
        } else {
            Ended::TakenAway
        })
    }
}
