//! Hooks that the main thread has to do with: it tells when nothing is left to do, and ends no sooner
//! than the hooks that this process started, each of which ends at its time.

use std::time::Duration;

use super::Main;
use crate::clock;
use crate::hooks::{self, Event, Facts};
use crate::limits::HOOKS_SAID;

/// Between two looks at whether nothing is left to do.
const LOOK: Duration = Duration::from_secs(1);

impl Main {
    /// Whether hooks run that this process started; says so once that takes a while.
    pub(super) fn waits_for_hooks(&mut self) -> bool {
        let mut running = self.rt.errands.running();
        if running.is_empty() {
            return false;
        }
        let since = *self.hooks_since.get_or_insert_with(clock::instant);
        if !self.hooks_said && since.elapsed() >= HOOKS_SAID {
            self.hooks_said = true;
            running.sort_unstable();
            running.dedup();
            let text = format!(
                "the end waits for what still runs: hooks/{}",
                running.join(", ")
            );
            self.rt.console.say(&text);
        }
        true
    }

    /// Tells `hooks/idle` where nothing is left to do.
    pub(super) fn tell_when_idle(&mut self) {
        let now = clock::instant();
        if self.rt.lifecycle.drains() || !self.is_idle_untold() || now < self.next_idle {
            return;
        }
        self.next_idle = now + LOOK;
        if !self.rt.errands.are_full() && self.is_drained(&self.stuck_slots()) {
            self.tell_idle();
        }
    }

    /// Nothing is left to do: tells `hooks/idle`, where that was not done since something was. `true`: it
    /// runs, and may add something.
    pub(super) fn idle_goes_first(&mut self) -> bool {
        if self.is_idle_untold() {
            // The main thread waits for no place.
            if self.rt.errands.are_full() {
                return true;
            }
            self.tell_idle();
        }
        self.idle_runs()
    }

    pub(super) fn idle_runs(&self) -> bool {
        self.rt.errands.running().contains(&Event::Idle.as_str())
    }

    /// Whether something was done in this process since it last told.
    fn is_idle_untold(&self) -> bool {
        self.rt.results.count() != self.idle_told
            && self.rt.slots.busy() == 0
            && hooks::is_there(&self.rt.root, Event::Idle)
    }

    fn tell_idle(&mut self) {
        self.idle_told = self.rt.results.count();
        let facts = Facts {
            reason: Some("nothing is left to do".to_owned()),
            ..Facts::default()
        };
        hooks::tell(&self.rt, Event::Idle, &facts, None);
    }
}
