//! One new item on its way into `pending/`, and what became of it.

use std::ffi::OsString;

use schemars::JsonSchema;
use serde::Serialize;

use crate::atomic::{Moved, Nameless};
use crate::clock;
use crate::error::Result;
use crate::item;
use crate::layout::{Name, Place, Root};
use crate::record::{By, Event, Record};

/// An item to be dropped into the queue.
pub(super) struct NewItem {
    pub(super) name: OsString,
    pub(super) bytes: Vec<u8>,
    pub(super) executable: bool,
}

impl NewItem {
    /// An item of this text, with a name made from it.
    pub(super) fn of_text(bytes: Vec<u8>) -> NewItem {
        NewItem {
            name: name_of(&bytes).into(),
            bytes,
            executable: false,
        }
    }

    /// The complete file, without a name.
    pub(super) fn written(&self, root: &Root) -> Result<Nameless> {
        let beside = root.place(Place::Pending).join("x");
        let mode = if self.executable { 0o755 } else { 0o644 };
        Nameless::new(&beside, &self.bytes, mode, true)
    }
}

/// A name from the first words of a text, made unique by a short id.
fn name_of(bytes: &[u8]) -> String {
    let text = match item::split_front_matter(item::without_mark(bytes)) {
        Ok((_, body)) => String::from_utf8_lossy(body),
        Err(_) => String::from_utf8_lossy(bytes),
    };
    let is_head = |l: &&str| ["---", "#!", "#harness"].iter().any(|h| l.starts_with(h));
    let words: Vec<String> = text
        .lines()
        .find(|l| !l.trim().is_empty() && !is_head(l))
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .take(6)
        .map(str::to_ascii_lowercase)
        .collect();
    let mut stem: String = words.join("-");
    stem.truncate(40);
    if stem.is_empty() {
        stem = "item".into();
    }
    let id = clock::unique().simple().to_string();
    format!("{stem}-{}", &id[26..])
}

/// Gives the file its name in `pending/`. `false`: the name is taken there.
pub(super) fn link(root: &Root, file: &Nameless, name: &Name) -> Result<bool> {
    if file.link(&root.item(Place::Pending, name))? != Moved::Done {
        return Ok(false);
    }
    let by = "harness add".to_owned();
    let added = Event::Added(By { by });
    // It is in the queue: what goes wrong from here on is no reason to add it again.
    if let Err(e) = Record::open(root, name).and_then(|mut r| r.append(&added)) {
        let lacks = format!("in queue/pending/ now: {name}, without this line of its record");
        crate::error::tell(&format!("harness: {lacks}: {e}"));
    }
    Ok(true)
}

/// What became of one item.
#[derive(Serialize, JsonSchema)]
pub(super) struct AddedItem {
    /// Its name.
    item: String,
    /// With `--if-absent`: whether it was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<bool>,
    /// Where one of that name is, or was, where nothing was added.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
}

/// The same, as `place` tells it.
pub(super) enum Added {
    New(Name),
    /// There is, or was, one of its name: the word for where.
    Known(Name, &'static str),
}

impl Added {
    pub(super) fn name(&self) -> &Name {
        match self {
            Added::New(name) | Added::Known(name, _) => name,
        }
    }

    pub(super) fn told(&self, if_absent: bool) -> AddedItem {
        let (added, state) = match self {
            Added::New(_) => (true, None),
            Added::Known(_, state) => (false, Some(*state)),
        };
        AddedItem {
            item: self.name().shown(),
            added: (if_absent || !added).then_some(added),
            state,
        }
    }
}
