//! An item's state in a word, and why it has not started yet; shared by `show` and `list`.

use std::time::Duration;

use clap::ValueEnum;

use crate::clock::{self, Timestamp};
use crate::layout::{Name, Root};
use crate::missing::waited_for;
use crate::ready::{Standing, Wait};
use crate::record;
use crate::view::local_time;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum State {
    Claimed,
    Pending,
    Scheduled,
    Blocked,
    Parked,
    Done,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
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

/// The state of an item in `pending/`, and why.
pub(super) fn of_pending(root: &Root, name: &Name, standing: &Standing) -> (State, String) {
    match standing {
        Standing::Ready(priority) => match record::history(root, name).stays {
            Some(why) => (State::Blocked, format!("it stays where it is: {why}")),
            None => (State::Pending, format!("priority {priority}")),
        },
        Standing::Scheduled(at) => (State::Scheduled, not_before(*at)),
        Standing::Blocked(wait) => (
            State::Blocked,
            match wait {
                Wait::After(names) => {
                    let names: Vec<String> = names.iter().map(|n| waited_for(root, n)).collect();
                    format!("waits for {}", names.join(", "))
                }
                Wait::Name => "an item of the same name is at work".to_owned(),
                Wait::Key(key) => format!("another item with exclusive key {key} is at work"),
                Wait::Hold(agent) => format!("agent {agent} is held until `harness resume`"),
                Wait::Failed(why) => format!("it stays where it is: {why}"),
                Wait::Writer => "it is still being written".to_owned(),
            },
        ),
    }
}

fn not_before(at: i64) -> String {
    let stamp = Timestamp::from_nanosecond(at.into()).map(clock::iso);
    let wait = Duration::from_nanos((at - clock::now_ns()).max(0) as u64);
    format!(
        "not before {} (in {})",
        local_time(&stamp.unwrap_or_default()),
        clock::human(wait)
    )
}
