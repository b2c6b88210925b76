//! Ends the holds of agents that could not be started at all, or paid, once they can be.

use std::time::Duration;

use super::Main;
use crate::agents;
use crate::clock;
use crate::hold;
use crate::session::paid;

/// How often such a hold's cause is looked for.
const LACK_TICK: Duration = Duration::from_secs(5);

impl Main {
    /// At the start of a run every such hold is looked at; later those that this process raised, whose
    /// PATH may differ from others'.
    pub(super) fn end_lacks(&mut self) {
        let rt = &self.rt;
        let at_start = self.next_lacks.is_none();
        if self.next_lacks.is_some_and(|next| clock::instant() < next) {
            return;
        }
        self.next_lacks = Some(clock::instant() + LACK_TICK);
        paid::look_again(rt, at_start);
        if !at_start && rt.lacking().is_empty() {
            return;
        }
        let ours = |agent: &str| at_start || rt.lacking().contains(agent);
        for hold in agents::lacks_over(&rt.root, &rt.config, ours) {
            rt.lacking().remove(&hold.agent);
            match hold::end(&rt.root, &hold.agent) {
                Ok(true) if hold.agent == agents::NOBODY => {
                    rt.console.warn("prompts without an agent wait no more");
                }
                Ok(true) => rt.console.warn(&format!("{} is held no more", hold.agent)),
                Ok(false) => {}
                Err(e) => rt.console.warn(&e.to_string()),
            }
        }
    }
}
