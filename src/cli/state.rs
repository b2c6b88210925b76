//! An item's state in a word, and why it has not started yet; shared by `show` and `list`.

use std::time::Duration;

use clap::ValueEnum;

use crate::clock::{self, Timestamp};
use crate::hold;
use crate::keeper;
use crate::layout::{Name, Root, SlotId};
use crate::missing::waited_for;
use crate::ready::{Standing, Wait};
use crate::record;
use crate::status::{Health, SlotState, SlotStatus, Status, TroubleStatus};
use crate::view::local_time;
use crate::view::status::{self, Source};

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

/// What slots say of themselves, for the items in `claimed/`.
pub(super) struct Slots {
    root: Root,
    agents: Vec<SlotStatus>,
    troubles: Vec<TroubleStatus>,
}

impl Slots {
    pub(super) fn look(root: &Root) -> Slots {
        let (status, _) = status::current(root).unwrap_or((Status::default(), Source::NoHarness));
        Slots {
            root: root.clone(),
            agents: status.agents,
            troubles: status.troubles,
        }
    }

    /// Whether the slot works on its item; if it does not, why.
    pub(super) fn works(&self, slot: SlotId) -> Result<(), String> {
        let id = slot.to_string();
        let said = self.agents.iter().find(|a| a.id == id);
        let trouble = self
            .troubles
            .iter()
            .find(|t| t.place == id)
            .map(|t| &t.reason);
        let held = said.is_some_and(|a| a.health != Health::Dead);
        // An agent goes on without its harness.
        let is_dead = !held && !keeper::is_alive(&self.root, slot);
        let rests =
            said.is_some_and(|a| matches!(a.state, SlotState::Trouble | SlotState::Finishing));
        let reason = said.and_then(|a| a.reason.as_ref());
        match trouble.or(reason.filter(|_| rests)) {
            Some(why) => Err(format!("{id} cannot write its end: {why}")),
            None if is_dead => Err(format!(
                "no harness holds {id}: the next `harness run` goes on with it"
            )),
            None => Ok(()),
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
                Wait::Hold(agent) => match hold::of(root, agent) {
                    Some(hold) => format!("agent {agent} is held: {}", hold.reason),
                    None => format!("agent {agent} was held"),
                },
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
