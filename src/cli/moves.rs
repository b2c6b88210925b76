//! `retry`, `cancel`, `release`: each the safe form of an `mv` that a person could do by hand. They
//! add a line to the item's record, never overwrite, and leave the rest to the item's holder.

use std::ffi::OsString;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::find::{self, At, Found};
use super::init;
use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::{Error, Kind, Result, Told};
use crate::layout::{Name, Place, Root};
use crate::outcome::Outcome;
use crate::ready;
use crate::record::{By, Canceled, Event, Record, Released};
use crate::view::{after_work, print_json};

/// Attempts to move an item that always moves away before.
const LOOKS: usize = 100;

/// What a command did with one item.
#[derive(Serialize, JsonSchema)]
pub(super) struct Did {
    item: String,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    did: Option<String>,
    /// Why it could not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Told>,
}

impl Did {
    pub(super) fn well(name: &Name, did: String) -> Did {
        Did {
            item: name.shown(),
            did: Some(did),
            error: None,
        }
    }

    pub(super) fn badly(name: &Name, e: &Error) -> Did {
        Did {
            item: name.shown(),
            did: None,
            error: Some(e.told()),
        }
    }
}

/// Moves an item; returns what was done, or `None` if somebody else moved it meanwhile.
type Act<'a> = &'a dyn Fn(&Root, &Name) -> Result<Option<String>>;

/// Applies `act` to each name. All are tried; the first failure decides the exit code.
pub(super) fn each(root: &Root, names: &[OsString], json: bool, act: Act<'_>) -> Result<u8> {
    init::ensure_tree(root)?;
    let mut code = 0;
    let mut results = Vec::new();
    for typed in names {
        let named = find::name(typed);
        let name = named
            .as_ref()
            .map_or_else(|_| Name::new(typed), Name::clone);
        match named.and_then(|n| wherever_it_is(root, &n, act)) {
            Ok(what) => {
                if !json {
                    crate::error::tell(&format!("harness: {name}: {what}"));
                }
                results.push(Did::well(&name, what));
            }
            Err(e) => {
                crate::error::tell(&format!("harness: {e}"));
                results.push(Did::badly(&name, &e));
                code = if code == 0 { e.exit_code() } else { code };
            }
        }
    }
    if json {
        after_work(
            print_json(&results),
            "done, but for what the lines above say",
        );
    }
    Ok(code)
}

/// A worker that claims or ends the item moves it too: then the command is applied to its new
/// place.
pub(super) fn wherever_it_is(root: &Root, name: &Name, act: Act<'_>) -> Result<String> {
    for _ in 0..LOOKS {
        if let Some(done) = act(root, name)? {
            return Ok(done);
        }
    }
    Err(Error::temporary(
        "cannot move the item",
        format!("{name} is moved by others all the time"),
    )
    .hint("look who does: `harness show`"))
}

pub(super) fn moved(moved: Moved, to: Place, name: &Name, done: &str) -> Result<Option<String>> {
    match moved {
        Moved::Done => Ok(Some(done.to_owned())),
        Moved::SourceGone => Ok(None),
        Moved::Taken => Err(Error::new(
            Kind::Permanent,
            "cannot move the item",
            format!("another {name} is in queue/{}/ already", to.dir()),
        )
        .hint("move one of the two to another name")),
    }
}

/// Sets its modification time to now. `false`: the file is gone.
pub(super) fn touch(path: &Path) -> Result<bool> {
    match atomic::set_mtime(path, clock::now_ns()) {
        Err(_) if atomic::is_gone(path) => Ok(false),
        touched => touched.map(|()| true),
    }
}

/// `mv queue/parked/NAME queue/pending/`, or from `done/`, `review/` or `merge/`.
pub(super) fn retry(root: &Root, name: &Name) -> Result<Option<String>> {
    let all = find::places(root, name);
    let Some(found) = all
        .iter()
        .find(|f| matches!(f.place, At::Parked | At::Done | At::Review | At::Merge))
    else {
        return Err(match all.first() {
            Some(_) => {
                Error::permanent("nothing to retry", format!("{name} is under way or waits"))
                    .hint("`harness release` lets a scheduled item start now")
            }
            None => find::unknown(root, name),
        });
    };
    // It queues again from now, not from when it was first added.
    if !touch(&found.path)? {
        return Ok(None);
    }
    Record::open(root, name)?.append(&Event::Retried(By {
        by: "harness retry".into(),
    }))?;
    let to = root.item(Place::Pending, name);
    moved(
        atomic::rename_new(&found.path, &to)?,
        Place::Pending,
        name,
        "back in the queue",
    )
}

/// `mv queue/claimed/SLOT/NAME queue/parked/`, or from `pending/`.
pub(super) fn cancel(root: &Root, name: &Name) -> Result<Option<String>> {
    let all = find::places(root, name);
    let Some(Found { place, path }) = all
        .iter()
        .find(|f| !matches!(f.place, At::Ending(_) | At::Done | At::Parked))
    else {
        return Err(match all.first() {
            Some(_) => Error::permanent("nothing to cancel", format!("{name} has ended already"))
                .hint("`harness show` tells how"),
            None => find::unknown(root, name),
        });
    };
    let done = match place {
        At::Claimed(slot) => format!("canceled; {slot} stops its agent and keeps what it did"),
        _ => "canceled; it is in queue/parked/".into(),
    };
    Record::open(root, name)?.append(&Event::Canceled(Canceled {
        session: String::new(),
        reason: "harness cancel".into(),
        to: Some("parked".into()),
        outcome: Some(Outcome::Canceled.into()),
    }))?;
    let canceled = atomic::rename_with_backup(path, &root.item(Place::Parked, name))?;
    Ok(canceled.then_some(done))
}

/// A scheduled item: `touch`. A claimed one: `mv queue/claimed/SLOT/NAME queue/pending/`.
pub(super) fn release(root: &Root, name: &Name) -> Result<Option<String>> {
    let all = find::places(root, name);
    match all.first() {
        Some(Found {
            place: At::Pending,
            path,
        }) => {
            let not_before = path
                .symlink_metadata()
                .ok()
                .and_then(|meta| ready::peek(name, path, &meta).not_before);
            Record::open(root, name)?.append(&released(not_before))?;
            // The `touch` also wakes every process.
            let done = "no longer waits for a time";
            Ok(touch(path)?.then(|| done.to_owned()))
        }
        Some(Found {
            place: At::Claimed(slot),
            path,
        }) => {
            Record::open(root, name)?.append(&released(None))?;
            let to = root.item(Place::Pending, name);
            let done = format!("back in the queue; {slot} stops its agent and keeps what it did");
            moved(atomic::rename_new(path, &to)?, Place::Pending, name, &done)
        }
        Some(_) => Err(Error::permanent(
            "nothing to release",
            format!("{name} neither waits nor is at work"),
        )
        .hint("`harness retry` puts a parked or done item back into the queue")),
        None => Err(find::unknown(root, name)),
    }
}

fn released(not_before_ns: Option<i64>) -> Event {
    Event::Released(Released {
        by: "harness release".into(),
        not_before_ns,
    })
}
