//! An item's state in a word, and why it has not started yet; shared by `show`, `list` and `status`.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::local_time;
use crate::agents;
use crate::aggregator::PendingCounts;
use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::config::{Config, Overrides};
use crate::hold::{self, Hold};
use crate::item::{self, Item};
use crate::layout::{Name, Place, Root};
use crate::limits::ITEM_BYTES_MAX;
use crate::missing::waited_for;
use crate::ready::{Ready, Standing, Wait};
use crate::record;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum State {
    Claimed,
    Pending,
    Scheduled,
    Blocked,
    Review,
    Merge,
    Parked,
    Done,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Claimed => "claimed",
            State::Pending => "pending",
            State::Scheduled => "scheduled",
            State::Blocked => "blocked",
            State::Review => "review",
            State::Merge => "merge",
            State::Parked => "parked",
            State::Done => "done",
        }
    }
}

/// Where an item stands, and why, for people and for programs.
pub(crate) struct Stands {
    pub(crate) state: State,
    pub(crate) reason: Option<String>,
    /// A word for the reason; `CLASSES` has those of items in `pending/`.
    pub(crate) class: Option<&'static str>,
    /// What it waits for: items, a key, an agent.
    pub(crate) waits_for: Vec<String>,
    /// RFC 3339: it does not start before.
    pub(crate) not_before: Option<String>,
}

impl Stands {
    pub(crate) fn new(
        state: State,
        class: impl Into<Option<&'static str>>,
        reason: Option<String>,
    ) -> Stands {
        Stands {
            state,
            reason,
            class: class.into(),
            waits_for: Vec::new(),
            not_before: None,
        }
    }

    fn blocked(class: &'static str, reason: String, waits_for: Vec<String>) -> Stands {
        Stands {
            waits_for,
            ..Stands::new(State::Blocked, class, Some(reason))
        }
    }
}

/// The holds as they are now. The index knows of one only where a claim has met it.
pub(crate) struct Holds {
    all: Vec<Hold>,
    /// Read only where there is a hold.
    config: Option<Config>,
}

impl Holds {
    pub(crate) fn look(root: &Root) -> Holds {
        let all = hold::all(root);
        let config = (!all.is_empty()).then(|| Config::load(root, &Overrides::default()).ok());
        Holds {
            all,
            config: config.flatten(),
        }
    }

    /// Those that keep an item from its start.
    fn of(&self, root: &Root, name: &Name) -> Vec<&Hold> {
        let Some(config) = self.config.as_ref() else {
            return Vec::new();
        };
        let Some(item) = parsed(name, &root.item(Place::Pending, name)) else {
            return Vec::new();
        };
        let agent = agents::hold_name(config, &item);
        let is_it =
            |hold: &&Hold| Some(&*hold.agent) == agent || agents::is_gate_of(config, &item, hold);
        self.all.iter().filter(is_it).collect()
    }
}

/// Items in `pending/` whose file or record is read for a status.
pub(crate) const PENDING_LOOKS_MAX: usize = 1_000;

/// Leaves out the holds for something that is missing where no item waits behind them any more: the
/// next run ends them.
pub(crate) fn leave_out_unneeded(root: &Root, holds: &mut Vec<Hold>) {
    if !holds.iter().any(agents::is_lack) {
        return;
    }
    let known = Holds::look(root);
    if known.config.is_none() {
        return;
    }
    let files = std::fs::read_dir(root.place(Place::Pending));
    let names = files.into_iter().flatten().flatten().map(|f| f.file_name());
    let names = names.filter(|n| !Name::is_ignored(n)).map(Name::new);
    let names: Vec<Name> = names.take(PENDING_LOOKS_MAX).collect();
    if names.len() == PENDING_LOOKS_MAX {
        return;
    }
    let mut needed = BTreeSet::new();
    for name in &names {
        needed.extend(known.of(root, name).into_iter().map(|hold| &*hold.agent));
    }
    holds.retain(|hold| !agents::is_lack(hold) || needed.contains(&*hold.agent));
}

/// An item as its file stands now.
pub(crate) fn parsed(name: &Name, path: &Path) -> Option<Item> {
    // A refused item may be anything: a fifo would block, a symlink is not followed.
    let meta = path.symlink_metadata().ok()?;
    if !meta.is_file() {
        return None;
    }
    let bytes = atomic::read_small(path, ITEM_BYTES_MAX).ok()?;
    let executable = meta.permissions().mode() & 0o111 != 0;
    item::parse(name, &bytes, executable).ok()
}

fn held(hold: &Hold) -> Stands {
    let reason = match agents::is_lack(hold) {
        true => agents::who_waits(hold),
        false => format!("agent {} is held: {}", hold.agent, hold.reason),
    };
    Stands {
        // As the index has it: one with an end is a time to wait for.
        state: match hold.until {
            Some(_) => State::Scheduled,
            None => State::Blocked,
        },
        not_before: hold.until.clone(),
        ..Stands::blocked("hold", reason, vec![hold.agent.clone()])
    }
}

/// Where an item in `pending/` stands.
pub(crate) fn of_pending(root: &Root, holds: &Holds, name: &Name, standing: &Standing) -> Stands {
    let stays = |why: &str| {
        let reason = format!("it stays where it is: {why}");
        Stands::blocked("stays", reason, Vec::new())
    };
    match standing {
        Standing::Ready(priority) => match record::history(root, name).stays {
            Some(why) => stays(&why),
            None => match holds.of(root, name).first() {
                Some(hold) => held(hold),
                None => {
                    let is_usual = *priority == item::PRIORITY_DEFAULT;
                    let why = (!is_usual).then(|| format!("priority {priority}"));
                    Stands::new(State::Pending, "slot", why)
                }
            },
        },
        Standing::Scheduled(at) => {
            let class = match record::is_backoff(root, name, *at) {
                true => "retry",
                false => "not_before",
            };
            Stands {
                not_before: Some(instant(*at)),
                ..Stands::new(State::Scheduled, class, Some(not_before(*at)))
            }
        }
        Standing::Blocked(wait) => match wait {
            Wait::After(names) => {
                let shown: Vec<String> = names.iter().map(|n| waited_for(root, n)).collect();
                let reason = format!("waits for {}", shown.join(", "));
                let names = names.iter().map(Name::shown).collect();
                Stands::blocked("after", reason, names)
            }
            Wait::Name => {
                let reason = "an item of the same name is at work".to_owned();
                Stands::blocked("same_name", reason, vec![name.shown()])
            }
            Wait::Key(key) => {
                let reason = format!("another item with exclusive key {key} is at work");
                Stands::blocked("exclusive", reason, vec![key.clone()])
            }
            Wait::Hold(agent) => match hold::of(root, agent) {
                Some(hold) => held(&hold),
                None => {
                    let reason = format!("agent {agent} was held");
                    Stands::blocked("hold", reason, vec![agent.clone()])
                }
            },
            Wait::Failed(why) => stays(why),
            Wait::Writer => {
                let reason = "it is still being written".to_owned();
                Stands::blocked("being_written", reason, Vec::new())
            }
        },
    }
}

/// Counts as `list` does, where no harness keeps count.
pub(crate) fn counts(root: &Root) -> PendingCounts {
    let mut counts = PendingCounts::default();
    let Ok(ready) = Ready::unbounded(root) else {
        return counts;
    };
    // A folder that is missing holds nothing.
    let _unlisted = ready.rescan();
    let holds = Holds::look(root);
    for (name, standing) in ready.standing_unsorted() {
        let state = match &standing {
            // Only words for it need a look into its record, or at what it waits for.
            Standing::Scheduled(_) => State::Scheduled,
            Standing::Blocked(wait) if !matches!(wait, Wait::Hold(_)) => State::Blocked,
            _ => of_pending(root, &holds, &name, &standing).state,
        };
        match state {
            State::Scheduled => counts.scheduled += 1,
            State::Blocked => counts.blocked += 1,
            _ => counts.pending += 1,
        }
    }
    counts
}

/// RFC 3339 of nanoseconds since 1970.
pub(crate) fn instant(at: i64) -> String {
    let stamp = Timestamp::from_nanosecond(at.into()).map(clock::iso);
    stamp.unwrap_or_default()
}

fn not_before(at: i64) -> String {
    let wait = Duration::from_nanos((at - clock::now_ns()).max(0) as u64);
    format!(
        "not before {} (in {})",
        local_time(&instant(at)),
        clock::human(wait)
    )
}
