//! What becomes of a name that an item waits for, in words for its owner.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::atomic;
use crate::config::nearest::nearest_beginning;
use crate::layout::{Name, Place, Root, join};

/// Names compared with one that is nowhere.
const COMPARED_MAX: usize = 10_000;

/// The name, and where it is if it will not be done by itself.
pub(crate) fn waited_for(root: &Root, name: &Name) -> String {
    let shown = name.shown();
    if atomic::exists(&root.item(Place::Pending, name)) || atomic::exists(&root.claim(name)) {
        return shown;
    }
    if atomic::exists(&root.item(Place::Review, name)) {
        return format!("{shown} (waits for review)");
    }
    if atomic::exists(&root.item(Place::Parked, name)) {
        return format!("{shown} (parked)");
    }
    let folders = folders(root);
    // It may just have been taken, or have ended.
    if folders
        .iter()
        .any(|dir| atomic::exists(&join(dir, name.as_os_str())))
    {
        return shown;
    }
    match like(&folders, &shown) {
        Some(near) => format!("{shown} (there is no such item; the nearest is {near})"),
        None => format!("{shown} (there is no such item)"),
    }
}

/// The item that was probably meant by a name that no item has.
pub(crate) fn nearest_item(root: &Root, name: &Name) -> Option<String> {
    like(&folders(root), &name.shown())
}

fn folders(root: &Root) -> Vec<PathBuf> {
    let places = Place::ALL.map(|place| root.place(place));
    let slots = std::fs::read_dir(root.claimed_root()).into_iter().flatten();
    let slots = slots.flatten().map(|entry| entry.path());
    places
        .into_iter()
        .chain(slots.filter(|dir| atomic::is_own_dir(dir)))
        .collect()
}

/// An item's name that was probably meant: with an ending, or with other letters.
fn like(folders: &[PathBuf], missing: &str) -> Option<String> {
    let names = folders
        .iter()
        .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten());
    let names = names
        .flatten()
        .take(COMPARED_MAX)
        .map(|entry| entry.file_name());
    let names: Vec<String> = names
        .filter(|name: &OsString| !Name::is_ignored(name))
        .map(|name| Name::new(name).shown())
        .collect();
    // `fix` for `fix.md`, else for `fix-c94289`, as `add --prompt` names it.
    let goes_on = |with: char| {
        let goes_on = |name: &&String| {
            let end = name.strip_prefix(missing);
            end.is_some_and(|end| end.starts_with(with))
        };
        names.iter().find(goes_on)
    };
    let near = goes_on('.').or_else(|| goes_on('-')).map(String::as_str);
    near.or_else(|| nearest_beginning(missing, names.iter().map(String::as_str)))
        .map(str::to_owned)
}
