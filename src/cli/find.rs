//! Where an item is: the same question for `show`, `list`, `retry`, `cancel`, `release`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::error::{Context, Error, Result};
use crate::layout::{Name, Place, Root, SlotId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum State {
    Claimed,
    Pending,
    Scheduled,
    Blocked,
    Parked,
    Done,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Claimed => "claimed",
            State::Pending => "pending",
            State::Scheduled => "scheduled",
            State::Blocked => "blocked",
            State::Parked => "parked",
            State::Done => "done",
        }
    }
}

/// The file of an item and the directory it is in.
#[derive(Debug, Clone)]
pub struct Found {
    pub place: At,
    pub path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Pending,
    Claimed(SlotId),
    Done,
    Parked,
}

/// How often a name that is nowhere is looked for: it may be moving from a folder that was not looked
/// into yet to one that was.
const LOOKS: usize = 3;

/// Everywhere that the name is now, what is at work first.
pub fn places(root: &Root, name: &Name) -> Vec<Found> {
    let mut looks = (0..LOOKS).map(|_| look(root, name));
    looks.find(|found| !found.is_empty()).unwrap_or_default()
}

fn look(root: &Root, name: &Name) -> Vec<Found> {
    let mut found: Vec<Found> = claimed(root)
        .into_iter()
        .filter(|(_, n)| n == name)
        .map(|(slot, n)| Found {
            place: At::Claimed(slot),
            path: root.claimed(slot).join(n.as_os_str()),
        })
        .collect();
    for (place, at) in [
        (Place::Pending, At::Pending),
        (Place::Parked, At::Parked),
        (Place::Done, At::Done),
    ] {
        let path = root.item(place, name);
        if crate::atomic::exists(&path) {
            found.push(Found { place: at, path });
        }
    }
    found
}

/// Items under way, with their slots.
pub fn claimed(root: &Root) -> Vec<(SlotId, Name)> {
    let slots = std::fs::read_dir(root.claimed_root())
        .into_iter()
        .flatten()
        .flatten();
    let mut all: Vec<(SlotId, Name)> = slots
        .filter_map(|e| SlotId::parse(&e.file_name()))
        .flat_map(|slot| {
            names_in(&root.claimed(slot))
                .unwrap_or_default()
                .into_iter()
                .map(move |name| (slot, name))
        })
        .collect();
    all.sort();
    all
}

/// The items in a folder, by name.
pub fn names_in(dir: &std::path::Path) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).or_fail("cannot list", dir)? {
        let file = entry.or_fail("cannot list", dir)?.file_name();
        if !Name::is_ignored(&file) {
            names.push(Name::new(file));
        }
    }
    names.sort();
    Ok(names)
}

/// What was typed, as an item's name: one that could lead out of a folder, or that harness leaves
/// alone there, is none.
pub fn name(typed: &OsStr) -> Result<Name> {
    let bad = |why: &str| Error::usage("not an item's name", why).at_path(Path::new(typed));
    if typed.as_bytes().contains(&b'/') {
        let last = Path::new(typed).file_name().unwrap_or_default();
        return Err(bad("it holds a `/`").hint(format!(
            "give the name alone: {}",
            crate::layout::shown(last)
        )));
    }
    if typed.is_empty() || Name::is_ignored(typed) {
        return Err(bad(
            "items have no such names (empty, hidden, or ending in ~ .tmp .part .swp .crdownload)",
        ));
    }
    Ok(Name::new(typed))
}

pub fn unknown(root: &Root, name: &Name) -> Error {
    Error::permanent("no such item", format!("{name} is nowhere in queue/"))
        .at_path(&root.queue())
        .hint("`harness list` shows what there is")
}
