//! Whether anything goes on with the items in `claimed/`.

use crate::keeper;
use crate::layout::{Root, SlotId};
use crate::lease;
use crate::status::{Health, SlotState, SlotStatus, Status, TroubleStatus};
use crate::view::status::{self, Source};

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

    /// Whether the slot works on its item, and what it waits for; if it does not, why.
    pub(super) fn works(&self, slot: SlotId) -> Result<Option<String>, String> {
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
        let is_in_trouble = said.is_some_and(|a| a.state == SlotState::Trouble);
        let reason = said.and_then(|a| a.reason.as_ref());
        // Its keeper may live.
        let marker = lease::marker(&self.root, slot);
        let is_lost = !held && marker.is_some_and(|marker| marker.given_up.is_some());
        match trouble.or(reason.filter(|_| is_in_trouble)) {
            Some(why) => Err(format!("{id} cannot go on: {why}")),
            None if is_lost => Err(format!("{id}: {}", reason.cloned().unwrap_or_default())),
            None if is_dead => Err(format!(
                "no harness holds {id}: the next `harness run` goes on with it"
            )),
            None => Ok(reason.cloned()),
        }
    }
}
