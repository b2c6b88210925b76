//! `harness add --if-absent`: adds an item only where its name is new, whoever else tries the same.

use std::fs::File;
use std::time::Duration;

use super::drops::{Added, NewItem, link};
use super::find::{self, At};
use crate::clock;
use crate::error::{Error, Result, tell};
use crate::layout::{Name, Root};
use crate::lease;
use crate::record;

/// Another such command looks and links: milliseconds. One that takes longer is stopped (Ctrl-Z).
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// Places the item, or says where the one of its name is.
pub(super) fn place(root: &Root, drop: &NewItem) -> Result<Added> {
    let name = Name::new(&drop.name);
    let file = drop.written(root)?;
    // Between the look and the link, an item that another command adds could start and end.
    let _turn = turn(root)?;
    let place = match known(root, &name)? {
        None if link(root, &file, &name)? => return Ok(Added::New(name)),
        None => "pending",
        Some(place) => place,
    };
    tell(&format!(
        "harness: {name} is not added: one of that name {}",
        match place {
            "gone" => "was there before, says its record".to_owned(),
            place => format!("is in queue/{place}/"),
        }
    ));
    Ok(Added::Known(name, place))
}

/// Where an item of this name is; `gone`: it was there, and its file is no longer in the queue.
fn known(root: &Root, name: &Name) -> Result<Option<&'static str>> {
    let at = find::places(root, name).first().map(|found| found.place);
    Ok(match at {
        Some(At::Claimed(_) | At::Ending(_)) => Some("claimed"),
        Some(At::Pending) => Some("pending"),
        Some(At::Review) => Some("review"),
        Some(At::Merge) => Some("merge"),
        Some(At::Done) => Some("done"),
        Some(At::Parked) => Some("parked"),
        None if record::lines(root, name)?.is_empty() => None,
        None => Some("gone"),
    })
}

/// Held while it looks and links.
fn turn(root: &Root) -> Result<File> {
    let path = root.add_lock();
    let end = clock::instant() + PATIENCE;
    loop {
        if let Some(held) = lease::try_lock(&path)? {
            return Ok(held);
        }
        if clock::instant() >= end {
            return Err(Error::temporary(
                "cannot add the item",
                format!(
                    "another `harness add --if-absent` has been at work for {}",
                    clock::human(PATIENCE)
                ),
            )
            .at_path(&path)
            .hint("look whether it is stopped (Ctrl-Z), and end it"));
        }
        std::thread::park_timeout(PAUSE);
    }
}
