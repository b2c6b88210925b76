//! `retry`, `cancel`, `release`: each the safe form of an `mv` that works as well by hand. They
//! add a line to the item's record, never overwrite, and leave the rest to whoever holds the item.

use std::ffi::OsString;

use serde_json::json;

use super::find::{self, At, Found};
use super::{init, print_json};
use crate::atomic::{self, Moved};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::layout::{Name, Place, Root};
use crate::ready;
use crate::record::Record;

/// Does it to each name. All are tried; the first failure decides the exit code.
pub fn each(
    root: &Root,
    names: &[OsString],
    json: bool,
    act: fn(&Root, &Name) -> Result<String>,
) -> Result<u8> {
    init::ensure_tree(root)?;
    let mut code = 0;
    let mut results = Vec::new();
    for typed in names {
        let named = find::name(typed);
        let name = named
            .as_ref()
            .map_or_else(|_| Name::new(typed), Name::clone);
        match named.and_then(|n| act(root, &n)) {
            Ok(what) => {
                if !json {
                    crate::error::tell(&format!("harness: {name}: {what}"));
                }
                results.push(json!({"name": name.shown(), "did": what}));
            }
            Err(e) => {
                crate::error::tell(&format!("harness: {e}"));
                results.push(json!({"name": name.shown(), "error": e.to_string()}));
                code = if code == 0 { e.exit_code() } else { code };
            }
        }
    }
    if json {
        print_json(&results.into())?;
    }
    Ok(code)
}

fn moved(moved: Moved, name: &Name, done: &str) -> Result<String> {
    match moved {
        Moved::Done => Ok(done.to_owned()),
        Moved::SourceGone => Err(Error::temporary(
            "cannot move the item",
            format!("{name} was moved by somebody else just now"),
        )
        .hint("look again: `harness show`")),
        Moved::Taken => Err(Error::new(
            Kind::Permanent,
            "cannot move the item",
            format!("another {name} is in queue/pending/ already"),
        )
        .hint("move one of the two to another name")),
    }
}

/// `mv queue/parked/NAME queue/pending/`.
pub fn retry(root: &Root, name: &Name) -> Result<String> {
    let all = find::places(root, name);
    let Some(found) = all
        .iter()
        .find(|f| matches!(f.place, At::Parked | At::Done))
    else {
        return Err(match all.first() {
            Some(_) => {
                Error::permanent("nothing to retry", format!("{name} is under way or waits"))
                    .hint("`harness release` lets a scheduled item start now")
            }
            None => find::unknown(root, name),
        });
    };
    // Now, not when it was first dropped: it queues up again.
    atomic::set_mtime(&found.path, clock::now_ns())?;
    Record::open(root, name)?.append("retried", json!({"by": "harness retry"}))?;
    let to = root.item(Place::Pending, name);
    moved(
        atomic::rename_new(&found.path, &to)?,
        name,
        "back in the queue",
    )
}

/// `mv queue/claimed/AGENT/NAME queue/parked/`, or from `pending/`.
pub fn cancel(root: &Root, name: &Name) -> Result<String> {
    let all = find::places(root, name);
    let Some(Found { place, path }) = all
        .iter()
        .find(|f| matches!(f.place, At::Claimed(_) | At::Pending))
    else {
        return Err(match all.first() {
            Some(_) => Error::permanent("nothing to cancel", format!("{name} has ended already")),
            None => find::unknown(root, name),
        });
    };
    let done = match place {
        At::Claimed(slot) => format!("canceled; {slot} stops its agent and keeps what it did"),
        _ => "canceled; it is in queue/parked/".into(),
    };
    Record::open(root, name)?.append(
        "canceled",
        json!({"reason": "harness cancel", "to": "parked", "outcome": "canceled"}),
    )?;
    if atomic::rename_with_backup(path, &root.item(Place::Parked, name))? {
        Ok(done)
    } else {
        moved(Moved::SourceGone, name, "")
    }
}

/// A scheduled item: `touch`. A claimed one: `mv queue/claimed/AGENT/NAME queue/pending/`.
pub fn release(root: &Root, name: &Name) -> Result<String> {
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
            Record::open(root, name)?.append(
                "released",
                json!({"by": "harness release", "not_before_ns": not_before}),
            )?;
            // Also the event that has every process look again.
            atomic::set_mtime(path, clock::now_ns())?;
            Ok("may start now, as far as its time goes".into())
        }
        Some(Found {
            place: At::Claimed(slot),
            path,
        }) => {
            Record::open(root, name)?.append("released", json!({"by": "harness release"}))?;
            let to = root.item(Place::Pending, name);
            let done = format!("back in the queue; {slot} stops its agent and keeps what it did");
            moved(atomic::rename_new(path, &to)?, name, &done)
        }
        Some(_) => Err(Error::permanent(
            "nothing to release",
            format!("{name} neither waits nor is at work"),
        )
        .hint("`harness retry` puts a parked or done item back into the queue")),
        None => Err(find::unknown(root, name)),
    }
}
