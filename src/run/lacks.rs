//! Ends the holds of agents that could not be started at all, or paid, once they can be.

use std::time::Duration;

use super::Main;
use crate::agents;
use crate::clock;
use crate::hold;
use crate::ready::Wait;
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
        self.end_unneeded();
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

    /// Ends such holds as no item waits behind any more: the next that does raises them again.
    pub(super) fn end_unneeded(&self) {
        let (rt, ready) = (&self.rt, &self.rt.ready);
        let mut lacks = hold::all(&rt.root);
        lacks.retain(agents::is_lack);
        if lacks.is_empty() || !ready.is_exhausted() || ready.more_blocked() > 0 {
            return;
        }
        let blocked = ready.blocked();
        let waits = |agent: &str| {
            let mut waits = blocked.values();
            waits.any(|wait| matches!(wait, Wait::Hold(of) if of == agent))
        };
        for hold in lacks.iter().filter(|hold| !waits(&hold.agent)) {
            rt.lacking().remove(&hold.agent);
            if let Err(e) = hold::end(&rt.root, &hold.agent) {
                rt.console.warn(&e.to_string());
            }
        }
    }
}
