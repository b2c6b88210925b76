//! An item's state in a word, and why it has not started yet; shared by `show`, `list` and `status`.

use std::time::Duration;

use clap::ValueEnum;

use super::local_time;
use crate::aggregator::PendingCounts;
use crate::clock::{self, Timestamp};
use crate::hold;
use crate::layout::{Name, Root};
use crate::missing::waited_for;
use crate::ready::{Ready, Standing, Wait};
use crate::record;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum State {
    Claimed,
    Pending,
    Scheduled,
    Blocked,
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

/// Where an item in `pending/` stands.
pub(crate) fn of_pending(root: &Root, name: &Name, standing: &Standing) -> Stands {
    let stays = |why: &str| {
        let reason = format!("it stays where it is: {why}");
        Stands::blocked("stays", reason, Vec::new())
    };
    match standing {
        Standing::Ready(priority) => match record::history(root, name).stays {
            Some(why) => stays(&why),
            None => Stands::new(State::Pending, "slot", Some(format!("priority {priority}"))),
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
            Wait::Hold(agent) => {
                let reason = match hold::of(root, agent) {
                    Some(hold) => format!("agent {agent} is held: {}", hold.reason),
                    None => format!("agent {agent} was held"),
                };
                Stands::blocked("hold", reason, vec![agent.clone()])
            }
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
    for (name, standing) in ready.standing() {
        match of_pending(root, &name, &standing).state {
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
