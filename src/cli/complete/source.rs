//! What may stand in the place of an argument, besides what its definition says.
//!
//! Only looks: nothing is made, moved or locked.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::offered::{Candidate, Offered};
use crate::adapters;
use crate::atomic;
use crate::cli::{find, help, schema};
use crate::config::{Config, Overrides, SCRIPT};
use crate::control::Order;
use crate::hold;
use crate::inspect::Session;
use crate::inspect::find::is_sid;
use crate::interrupt;
use crate::layout::{Name, Place, Root, SlotId, shown};
use crate::limits::OFFERED_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Items in these folders, and claimed ones where that is so.
    Items(&'static [Place], bool),
    /// A session's id, or an item or a slot, for its newest.
    Sessions,
    Slots,
    /// What `resume` ends.
    Stopped,
    Agents,
    Keys,
    Tokens,
    Priorities,
    /// Commands and pages, as `help` takes them.
    Topics,
    Commands,
    Schemas,
    /// The shell finds it.
    Files,
}

const ANYWHERE: Source = Source::Items(&Place::ALL, true);

/// Of an argument of a command (`session list`).
pub(super) fn of(command: &str, argument: &str) -> Option<Source> {
    Some(match (command, argument) {
        ("show" | "logs", "name") | ("wait", "names") => ANYWHERE,
        ("add", "after") | ("session list", "item") => ANYWHERE,
        ("retry", "names") => Source::Items(&[Place::Parked, Place::Done], false),
        ("cancel", "names") => Source::Items(&[Place::Pending, Place::Review, Place::Merge], true),
        ("release", "names") => Source::Items(&[Place::Pending], true),
        ("approve", "names") | ("review", "name") => Source::Items(&[Place::Review], false),
        ("reject", "names") => Source::Items(&[Place::Review, Place::Merge], false),
        (command, "sid") if command.starts_with("session ") => Source::Sessions,
        ("interrupt", "slot") => Source::Slots,
        ("resume", "slot") => Source::Stopped,
        ("add" | "sandbox explain", "agent") => Source::Agents,
        ("add", "priority") => Source::Priorities,
        ("config set", "key") => Source::Keys,
        ("with", "token") => Source::Tokens,
        ("with", "command") => Source::Files,
        ("help", "topic") => Source::Topics,
        ("man", "command") => Source::Commands,
        ("schema", "name") => Source::Schemas,
        _ => return None,
    })
}

/// What is known of the command line.
pub(super) struct Asked {
    pub(super) root: Option<Root>,
    /// Before the word that is being typed.
    pub(super) words: Vec<OsString>,
}

impl Asked {
    /// Candidates for a word that begins so. Without a ROOT there are few.
    pub(super) fn candidates(&self, source: Source, typed: &OsStr) -> Vec<Candidate> {
        let after_dashes = self.words.iter().any(|word| word == "--");
        let mut found = Offered::new(typed, after_dashes);
        let mut more = Vec::new();
        match (source, &self.root) {
            (Source::Topics, _) => self.topics(true, &mut found),
            (Source::Commands, _) => self.topics(false, &mut found),
            (Source::Schemas, _) => {
                for (name, of) in schema::names() {
                    found.add(name.into(), of);
                }
            }
            (Source::Priorities, _) => {
                for word in ["high", "medium", "low"] {
                    found.add(word.into(), "");
                }
            }
            (Source::Agents, None) => clis(&mut found),
            (_, None) | (Source::Files, _) => {}
            (Source::Items(places, is_claimed), Some(root)) => {
                items(root, places, is_claimed, &mut found);
            }
            (Source::Sessions, Some(root)) => {
                more = sessions(root, typed);
                slots(root, &mut found);
                items(root, &Place::ALL, true, &mut found);
            }
            (Source::Slots, Some(root)) => {
                slots(root, &mut found);
                found.add(interrupt::ALL.into(), "every slot");
            }
            (Source::Stopped, Some(root)) => stopped(root, &mut found),
            (Source::Agents | Source::Keys | Source::Tokens, Some(root)) => {
                configured(source, root, &mut found);
            }
        }
        found.all().chain(more).collect()
    }

    /// What follows `help` or `man`.
    fn topics(&self, and_pages: bool, to: &mut Offered) {
        let is_command = |word: &&OsString| *word == "help" || *word == "man";
        let at = self.words.iter().position(|word| is_command(&word));
        let typed = &self.words[at.map_or(0, |at| at + 1)..];
        for (name, about) in help::commands(typed) {
            to.add(name.into(), &about);
        }
        if and_pages && typed.is_empty() {
            for page in help::PAGES {
                to.add(page.name.into(), page.title());
            }
        }
    }
}

fn items(root: &Root, places: &[Place], is_claimed: bool, to: &mut Offered) {
    for place in places {
        for name in entries(root.place(*place)).filter(|name| !Name::is_ignored(name)) {
            to.add(name, place.dir());
        }
    }
    if is_claimed {
        for (slot, name) in find::claimed(root) {
            to.add(name.as_os_str().to_owned(), &format!("claimed by {slot}"));
        }
    }
}

fn entries(dir: PathBuf) -> impl Iterator<Item = OsString> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name())
}

/// The newest, and the oldest, for the same reason as in `Offered`.
fn sessions(root: &Root, typed: &OsStr) -> Vec<Candidate> {
    let ids = entries(root.sessions()).filter_map(|name| name.into_string().ok());
    let begins = |id: &String| id.as_bytes().starts_with(typed.as_bytes());
    let mut ids: Vec<String> = ids.filter(|id| begins(id) && is_sid(id)).collect();
    ids.sort_unstable_by(|a, b| b.cmp(a));
    let oldest = ids.split_off(ids.len().min(OFFERED_MAX)).pop();
    let of = |id: String| {
        let item = shown(Session::read(root, &id).file.item.as_ref());
        (id.into(), item)
    };
    ids.into_iter().chain(oldest).map(of).collect()
}

fn slots(root: &Root, to: &mut Offered) {
    for name in entries(root.agents()).filter(|name| SlotId::parse(name).is_some()) {
        to.add(name, "slot");
    }
}

fn stopped(root: &Root, to: &mut Offered) {
    for stem in interrupt::all(root) {
        to.add(stem.into(), "interrupted");
    }
    for order in Order::ALL {
        if atomic::exists(&order.path(root)) {
            to.add(order.file().into(), "order");
        }
    }
    for hold in hold::all(root) {
        to.add(hold.agent.into(), "held");
    }
}

fn clis(to: &mut Offered) {
    for name in adapters::NAMES.iter().chain([&SCRIPT]) {
        to.add((*name).into(), "");
    }
}

fn configured(source: Source, root: &Root, to: &mut Offered) {
    // A configuration that is wrong is said by the command itself.
    let Ok(config) = Config::load(root, &Overrides::default()) else {
        return;
    };
    match source {
        Source::Agents => {
            clis(to);
            for name in config.agents.keys() {
                to.add(name.into(), "in harness.toml");
            }
        }
        Source::Tokens => {
            for name in config.tokens.keys() {
                to.add(name.into(), "");
            }
        }
        _ => {
            for entry in &config.sources.0 {
                to.add((&entry.key).into(), &entry.source.to_string());
            }
        }
    }
}
