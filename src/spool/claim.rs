//! Claims a name: elect → read → examine → take. A step that stops says why; what earlier steps
//! made is then undone, and the name is free again.
//!
//! Knows nothing of agents and repositories: `accepts` decides whether an item can run here.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::read::{Look, Pending, read_whole};
use super::{Claim, note, park_file, why_closed};
use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::item::{self, Item, QueueFields, Refusal};
use crate::layout::{Name, Place, Root, join};
use crate::lease::{self, Lease};
use crate::mutant::planted;
use crate::record::{self, Claimed, Event, Record, Requeued};
use crate::sys::{self, ReadLease};
use crate::text;

/// What became of an attempt to claim a name.
pub enum ClaimOutcome {
    /// With its record, whose last line says that a new attempt was claimed.
    Won(Box<Claim>, Box<Record>),
    /// Not in `pending/` any more: another holder has it, or a person moved it.
    Gone,
    /// Another item of this name, or one with its exclusive key, is claimed: look again later.
    Busy,
    /// Somebody still writes the file, or only just made it: look again later.
    Unsettled,
    /// Its fields say that it must wait, unlike those in the index.
    Waits(QueueFields),
    /// The agent that it is for is held; its name.
    Held(String),
    /// The slot may not start a prompt agent yet: only after this time.
    Turn(Duration),
    /// It was refused and is in `parked/`, with this reason.
    Refused(String),
}

/// Whether an item can be run here.
pub enum Acceptance {
    Now,
    /// Its agent is held; as `ClaimOutcome::Held`.
    Later(String),
    /// As `ClaimOutcome::Turn`.
    Turn(Duration),
    Never(Refusal),
}

/// What is to be claimed, for whom.
pub struct ClaimRequest<'a> {
    pub root: &'a Root,
    pub lease: &'a Arc<Lease>,
    pub name: &'a Name,
    /// Whether the claim must survive a power cut.
    pub durable: bool,
    /// A reason to refuse it that the file alone does not show (a dependency cycle).
    pub refuse: Option<&'a str>,
    /// Whether its fields and times let it start now.
    pub may_start: &'a dyn Fn(&QueueFields, &Metadata) -> bool,
    pub accepts: &'a dyn Fn(&Item) -> Acceptance,
}

/// Why a claim went no further.
enum Stopped {
    NotWon(ClaimOutcome),
    Failed(Error),
}

impl From<Error> for Stopped {
    fn from(e: Error) -> Self {
        Stopped::Failed(e)
    }
}

/// Tries to claim a name for the lease's slot.
pub fn try_claim(request: &ClaimRequest<'_>) -> Result<ClaimOutcome> {
    let claim_path = request.root.claim(request.name);
    if !elect(request, &claim_path)? {
        return Ok(ClaimOutcome::Busy);
    }
    let stopped = match claim_elected(request) {
        Ok((claim, record)) => return Ok(ClaimOutcome::Won(Box::new(claim), Box::new(record))),
        Err(stopped) => stopped,
    };
    // If it is its own still: a late process may have lost it to another host.
    request.lease.let_go(&claim_path)?;
    match stopped {
        Stopped::NotWon(outcome) => Ok(outcome),
        Stopped::Failed(e) => Err(e),
    }
}

/// Makes this slot the only holder of the name. `false`: it has a holder.
fn elect(request: &ClaimRequest<'_>, claim_path: &Path) -> Result<bool> {
    let lease = request.lease;
    let folder = request.root.claimed(lease.slot);
    if folder.is_symlink() {
        let why = "the slot's folder was replaced by a symlink, which harness does not follow";
        return Err(Error::permanent("cannot claim", why)
            .at_path(&folder)
            .hint("remove the symlink: harness makes its own folder"));
    }
    match atomic::link_new(&lease.marker(), claim_path)? {
        Moved::Done => Ok(true),
        Moved::Taken if lease::is_foreign(claim_path) => Err(foreign(claim_path)),
        Moved::Taken => Ok(planted("claim-without-election")),
        Moved::SourceGone => Err(
            Error::permanent("cannot claim", "the slot's marker is gone")
                .at_path(&lease.marker())
                .hint("do not remove files in state/agents/ while harness runs"),
        ),
    }
}

fn foreign(link: &Path) -> Error {
    let why =
        "what stands in the place of the claim is not harness's, so nobody is going to remove it";
    Error::permanent("cannot claim", why)
        .at_path(link)
        .hint("remove it")
}

/// The part of a claim after the election: no other slot touches the name now, but people may.
fn claim_elected(request: &ClaimRequest<'_>) -> Result<(Claim, Record), Stopped> {
    let pending = read(request)?;
    let item = examine(request, &pending)?;
    let mut record = match Record::open(request.root, request.name) {
        Ok(record) => record,
        Err(e) if e.kind() == Kind::Temporary => return Err(e.into()),
        Err(e) if why_closed(request.root, request.lease.slot).is_some() => return Err(e.into()),
        Err(e) => return Err(refuse(request, &e.to_string())),
    };
    let key = take_key(request, &item)?;
    let sid = clock::unique().to_string();
    let noted = match planted("claim-not-recorded") {
        true => Ok(()),
        false => note_claim(request, &mut record, &sid),
    };
    let moved = noted.and_then(|()| take(request, &pending));
    let moved = moved.and_then(|taken| still_ours(request, taken, key.as_deref()));
    if !matches!(moved, Ok(Taken::Whole)) {
        undo(request, &mut record, &sid, key)?;
        // `pending.file` is still open: its lease makes writers wait until the file is back.
        return Err(put_back(request, moved?));
    }
    let claim = Claim {
        root: request.root.clone(),
        lease: request.lease.clone(),
        name: request.name.clone(),
        item,
        executable: is_executable(&pending.meta),
        bytes: pending.bytes,
        fenced: false,
        ended: None,
        told: false,
    };
    Ok((claim, record))
}

fn read(request: &ClaimRequest<'_>) -> Result<Pending, Stopped> {
    if let Some(why) = request.refuse {
        return Err(refuse(request, why));
    }
    let path = request.root.item(Place::Pending, request.name);
    match read_whole(request.name, &path)? {
        Look::Whole(pending) if pending.meta.nlink() > 1 && !lease::is_foreign(&path) => {
            Err(refuse(
                request,
                "it is a link to harness's own note of who has an item, no item",
            ))
        }
        Look::Whole(pending) => Ok(pending),
        Look::Gone => Err(Stopped::NotWon(ClaimOutcome::Gone)),
        Look::Unsettled => Err(Stopped::NotWon(ClaimOutcome::Unsettled)),
        Look::Refuse(why) => Err(refuse(request, &why)),
    }
}

fn is_executable(meta: &Metadata) -> bool {
    meta.mode() & 0o111 != 0
}

/// Whether the item can start here and now.
fn examine(request: &ClaimRequest<'_>, pending: &Pending) -> Result<Item, Stopped> {
    let item = item::parse(request.name, &pending.bytes, is_executable(&pending.meta))
        .map_err(|Refusal(why)| refuse(request, &why))?;
    let acceptance = (request.accepts)(&item);
    if let Acceptance::Never(Refusal(why)) = acceptance {
        return Err(refuse(request, &why));
    }
    if !(request.may_start)(&item.order, &pending.meta) {
        return Err(Stopped::NotWon(ClaimOutcome::Waits(item.order)));
    }
    match acceptance {
        Acceptance::Later(agent) => Err(Stopped::NotWon(ClaimOutcome::Held(agent))),
        Acceptance::Turn(wait) => Err(Stopped::NotWon(ClaimOutcome::Turn(wait))),
        _ => Ok(item),
    }
}

/// Takes the item's exclusive key, if it names one.
fn take_key(request: &ClaimRequest<'_>, item: &Item) -> Result<Option<PathBuf>, Stopped> {
    let Some(word) = &item.order.exclusive else {
        return Ok(None);
    };
    let path = request.root.exclusive(word);
    match atomic::link_new(&request.lease.marker(), &path)? {
        Moved::Done => Ok(Some(path)),
        Moved::Taken if lease::is_foreign(&path) => Err(foreign(&path).into()),
        _ => Err(Stopped::NotWon(ClaimOutcome::Busy)),
    }
}

/// Writes the line that begins an attempt. It must be on disk before the rename only after an
/// earlier attempt, whose end would otherwise be taken for this one's.
fn note_claim(request: &ClaimRequest<'_>, record: &mut Record, sid: &str) -> Result<()> {
    let history = record.history();
    let (again, attempt) = (history.last.is_some(), history.next_attempt());
    record.append(&Event::Claimed(Claimed {
        session: sid.to_owned(),
        slot: request.lease.slot.to_string(),
        attempt,
        harness_pid: Some(std::process::id()),
    }))?;
    if request.durable && again {
        record.sync()?;
    }
    Ok(())
}

/// How the rename into `claimed/` went.
enum Taken {
    /// The file is the one that was read, and nobody writes it.
    Whole,
    /// Another file replaced it after it was read, or a writer waits to open it.
    Changed,
    Gone,
    /// A file of this name is in `claimed/` already.
    Occupied,
}

fn claimed_path(request: &ClaimRequest<'_>) -> PathBuf {
    let folder = request.root.claimed(request.lease.slot);
    join(&folder, request.name.as_os_str())
}

fn take(request: &ClaimRequest<'_>, pending: &Pending) -> Result<Taken> {
    let (from, to) = (
        request.root.item(Place::Pending, request.name),
        claimed_path(request),
    );
    match atomic::rename_new(&from, &to)? {
        Moved::Done => {}
        Moved::SourceGone => return Ok(Taken::Gone),
        Moved::Taken => return Ok(Taken::Occupied),
    }
    // The read lease makes writers wait during the rename. A writer that opened the file by its old
    // name waits now, and is seen here: what it writes belongs to the item.
    let wanted = matches!(sys::read_lease(&pending.file), Ok(ReadLease::BeingWritten));
    let moved = to.symlink_metadata().ok().map(|meta| meta.ino());
    match moved == Some(pending.meta.ino()) && !wanted {
        true => Ok(Taken::Whole),
        false => Ok(Taken::Changed),
    }
}

/// Whether claim and key are this slot's still. Where the process stood still before the file was taken,
/// another host may have taken it for lost and given them up; somebody else may have them by now.
fn still_ours(request: &ClaimRequest<'_>, taken: Taken, key: Option<&Path>) -> Result<Taken> {
    let claim = request.root.claim(request.name);
    let mut links = [Some(claim.as_path()), key].into_iter().flatten();
    let lost = matches!(taken, Taken::Whole) && !links.all(|link| request.lease.has(link));
    Ok(if lost { Taken::Changed } else { taken })
}

/// Undoes what was recorded, and gives up the key.
fn undo(
    request: &ClaimRequest<'_>,
    record: &mut Record,
    sid: &str,
    key: Option<PathBuf>,
) -> Result<()> {
    // If the claim was not recorded, the last attempt is an earlier, real one.
    let last = record.history().last.as_ref();
    if last.is_some_and(|last| last.session == sid) {
        let undone = Event::Requeued(Requeued {
            session: sid.to_owned(),
            reason: "it was not won".into(),
            not_before_ns: None,
        });
        // If this fails, only an attempt number is lost.
        let _full = record.append(&undone);
    }
    if let Some(key) = key {
        request.lease.let_go(&key)?;
    }
    Ok(())
}

/// A file that changed while it was taken goes back to `pending/`, to be looked at again.
fn put_back(request: &ClaimRequest<'_>, taken: Taken) -> Stopped {
    let (root, name, claimed) = (request.root, request.name, claimed_path(request));
    match taken {
        Taken::Gone => Stopped::NotWon(ClaimOutcome::Gone),
        Taken::Occupied => Stopped::Failed(
            Error::permanent(
                "cannot claim",
                "a file of this name is in claimed/ already, though nobody holds its claim",
            )
            .at_path(&claimed)
            .hint("move that file to queue/parked/"),
        ),
        Taken::Whole | Taken::Changed => {
            let back = atomic::rename_new(&claimed, &root.item(Place::Pending, name));
            let parked = back.and_then(|back| match back {
                Moved::Taken => park_file(root, name, &claimed, "replaced while it was claimed"),
                _ => Ok(true),
            });
            match parked {
                Ok(_) => Stopped::NotWon(ClaimOutcome::Unsettled),
                Err(e) => Stopped::Failed(e),
            }
        }
    }
}

/// Parks the pending file with this reason.
fn refuse(request: &ClaimRequest<'_>, why: &str) -> Stopped {
    match refuse_item(request.root, request.name, why) {
        Ok(outcome) => Stopped::NotWon(outcome),
        Err(e) => Stopped::Failed(e),
    }
}

fn refuse_item(root: &Root, name: &Name, why: &str) -> Result<ClaimOutcome> {
    let from = root.item(Place::Pending, name);
    if !atomic::exists(&from) {
        return Ok(ClaimOutcome::Gone);
    }
    let why = text::one_line(why);
    let why =
        match note(root, name, &record::refused(&why))?.map(|e| text::one_line(&e.to_string())) {
            // Often it is the record itself that is refused.
            Some(e) if e != why => format!("{why}; {e}"),
            _ => why,
        };
    match atomic::rename_with_backup(&from, &root.item(Place::Parked, name))? {
        true => Ok(ClaimOutcome::Refused(why)),
        false => Ok(ClaimOutcome::Gone),
    }
}
