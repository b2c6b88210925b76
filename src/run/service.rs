//! What the main thread tells the service manager: that it is ready, lives, ends, and what it does.

use std::time::Duration;

use super::{Left, Main};
use crate::limits::STOP_MAX;
use crate::runtime::{Level, Runtime};
use crate::text::count_of;

/// Threads end within this, once all agents have.
const LAST_STEPS: Duration = Duration::from_secs(30);

impl Main {
    /// Once a turn. The figures are read under the locks of slots and index: what holds one of them for ever
    /// keeps this thread silent, too. A slot that hangs does not: a restart would not free it.
    pub(super) fn tell_manager(&mut self) {
        let (rt, threads) = (&self.rt, &self.threads);
        let (slots, paused) = (self.workers.len(), self.orders.pause);
        self.manager.turn(
            |within| threads.silent_for() < within,
            || status_line(rt, slots, paused),
        );
    }

    /// Agents are being stopped: that has its own bounds.
    pub(super) fn tell_stop(&self) {
        let within = self.rt.config.harness.kill_grace + STOP_MAX + LAST_STEPS;
        self.manager.ends("stopping the agents", within);
    }

    /// Agents that finish before it ends may take hours, so that a manager hears of the end only here.
    pub(super) fn tell_end(&self, left: Left) {
        let why = match left {
            Left::Finished => "ended",
            Left::LetGo => "let go: agents run on for the next harness",
            Left::Stuck => "ended, with slots that do not stop",
            Left::Moved => "ROOT was moved: agents run on for a harness there",
        };
        self.manager.ends(why, LAST_STEPS);
    }
}

/// `2 of 3 slots at work, 5 pending`
fn status_line(rt: &Runtime, slots: usize, paused: bool) -> String {
    let busy = rt.slots.busy();
    let pending = rt.ready.tally().pending;
    let does = match rt.lifecycle.level() {
        Level::Finishing => "; ending when the agents have finished",
        Level::Stopping => "; stopping the agents",
        Level::Running if paused => "; paused",
        Level::Running => "",
    };
    let slots = count_of(slots as u64, "slot");
    format!("{busy} of {slots} at work, {pending} pending{does}")
}
