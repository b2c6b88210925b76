//! Finds where an item is, for `show`, `list`, `retry`, `cancel` and `release`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::layout::{Name, Place, Root, SlotId};
use crate::missing::nearest_item;
use crate::spool;

/// The file of an item and the directory it is in.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) place: At,
    pub(super) path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Pending,
    Review,
    Merge,
    Claimed(SlotId),
    /// Its end is being recorded: nobody but its slot moves it.
    Ending(SlotId),
    Done,
    Parked,
}

/// Attempts to find a name before it counts as unknown: it may move between two folders during the
/// search.
const LOOKS: usize = 3;

/// Every place where the name exists now, `claimed/` first.
pub(super) fn places(root: &Root, name: &Name) -> Vec<Found> {
    let mut looks = (0..LOOKS).map(|n| {
        if n == 1 {
            end_moves(root);
        }
        look(root, name)
    });
    looks.find(|found| !found.is_empty()).unwrap_or_default()
}

/// It may be on its way, where its mover died.
fn end_moves(root: &Root) {
    let folders = [
        Place::Pending,
        Place::Merge,
        Place::Review,
        Place::Parked,
        Place::Done,
    ];
    let claims = root.claims();
    for place in folders {
        crate::atomic::end_moves(&root.place(place), Some(&claims));
    }
}

fn look(root: &Root, name: &Name) -> Vec<Found> {
    let claimed = claimed(root).into_iter().filter(|(_, n)| n == name);
    let claimed = claimed.map(|(slot, n)| {
        let path = root.claimed(slot).join(n.as_os_str());
        match crate::atomic::exists(&path) {
            true => (At::Claimed(slot), path),
            false => (At::Ending(slot), root.ending(slot, &n)),
        }
    });
    let mut found: Vec<Found> = claimed.map(|(place, path)| Found { place, path }).collect();
    for (place, at) in [
        (Place::Pending, At::Pending),
        (Place::Merge, At::Merge),
        (Place::Review, At::Review),
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

/// Where an item's file is.
pub(super) fn path(root: &Root, at: At, name: &Name) -> PathBuf {
    match at {
        At::Claimed(slot) => root.claimed(slot).join(name.as_os_str()),
        At::Ending(slot) => root.ending(slot, name),
        At::Pending => root.item(Place::Pending, name),
        At::Review => root.item(Place::Review, name),
        At::Merge => root.item(Place::Merge, name),
        At::Parked => root.item(Place::Parked, name),
        At::Done => root.item(Place::Done, name),
    }
}

/// Claimed items, with their slots.
pub(super) fn claimed(root: &Root) -> Vec<(SlotId, Name)> {
    let slots = std::fs::read_dir(root.claimed_root())
        .into_iter()
        .flatten()
        .flatten();
    let mut all: Vec<(SlotId, Name)> = slots
        .filter_map(|e| SlotId::parse(&e.file_name()))
        .flat_map(|slot| {
            let names = spool::claimed_in(root, slot).unwrap_or_default();
            names.into_iter().map(move |name| (slot, name))
        })
        .collect();
    all.sort();
    all
}

/// The items in a folder, sorted by name.
pub(super) fn names_in(dir: &std::path::Path) -> Result<Vec<Name>> {
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

/// Files in `pending/` that are taken for no items, with why: at most `IGNORED_MAX`. Hidden ones of git,
/// of file systems and of harness itself are nobody's news.
pub(super) fn ignored(root: &Root) -> Vec<(String, &'static str)> {
    let entries = std::fs::read_dir(root.place(Place::Pending));
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name());
    let is_known = |name: &OsStr| {
        let b = name.as_bytes();
        let known: [&[u8]; 3] = [b".git", b".nfs", b".DS_Store"];
        known.iter().any(|start| b.starts_with(start))
            || b.starts_with(b".") && (b.ends_with(b".tmp") || b.ends_with(b".moving~"))
    };
    let mut found: Vec<_> = names
        .filter(|name| !is_known(name))
        .filter_map(|name| Some((Name::new(&name).shown(), Name::why_ignored(&name)?)))
        .take(IGNORED_MAX)
        .collect();
    found.sort();
    found
}

/// Ignored files that are named in one message.
const IGNORED_MAX: usize = 20;

/// Parses a typed item name. Refuses names that could lead out of the folder or that harness
/// ignores in `pending/`.
pub(super) fn name(typed: &OsStr) -> Result<Name> {
    let bad = |why: &str| Error::usage("not an item's name", why).at_path(Path::new(typed));
    if typed.as_bytes().contains(&b'/') {
        let last = Path::new(typed).file_name().unwrap_or_default();
        return Err(bad("it holds a `/`").hint(format!(
            "give the name alone: {}",
            crate::layout::shown(last)
        )));
    }
    if typed.is_empty() {
        return Err(bad("it is empty"));
    }
    if let Some(why) = Name::why_ignored(typed) {
        return Err(bad(&format!(
            "a file of this name is left alone, as it looks like {why}"
        )));
    }
    Ok(Name::new(typed))
}

pub(super) fn unknown(root: &Root, name: &Name) -> Error {
    let near = nearest_item(root, name).map(|near| format!("; the nearest is {near}"));
    let why = format!("{name} is nowhere in queue/{}", near.unwrap_or_default());
    Error::permanent("no such item", why)
        .at_path(&root.queue())
        .hint("`harness list` shows what there is")
}
