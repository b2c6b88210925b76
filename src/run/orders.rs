//! Signals and standing orders (`state/control/`, `state/interrupts/`): what the main thread does
//! about them, and what it says.

use std::sync::atomic::Ordering;

use signal_hook::consts::{SIGHUP, SIGINT};

use super::{Left, Main};
use crate::clock;
use crate::control::{self, Orders};
use crate::interrupt;
use crate::limits::CONTROL_TICK;
use crate::outcome::plural;
use crate::runtime::Level;

impl Main {
    pub(super) fn obey_signals(&mut self) -> Left {
        while let Ok(signal) = self.signals.try_recv() {
            match signal {
                SIGHUP => return Left::LetGo,
                SIGINT if !self.interrupted => self.interrupt(),
                _ => self.stop(),
            }
        }
        Left::Finished
    }

    /// Ctrl-C once.
    fn interrupt(&mut self) {
        self.interrupted = true;
        let text = match self.rt.slots.busy() {
            0 => "interrupted: ending".into(),
            n => format!(
                "interrupted: nothing new is claimed; waiting for {} to finish \
                 (Ctrl-C again stops them and puts their items back)",
                plural(n as u64, "agent")
            ),
        };
        self.rt.console.warn(&text);
        self.rt.lifecycle.raise(Level::Finishing);
    }

    /// Ctrl-C again, or SIGTERM.
    fn stop(&self) {
        if self.level() < Level::Stopping && self.rt.slots.busy() > 0 {
            self.rt
                .console
                .warn("stopping the agents; their work is kept, their items go back to pending/");
        }
        self.rt.lifecycle.raise(Level::Stopping);
    }

    /// A stop ends without these slots.
    pub(super) fn say_what_is_let_go(&self) {
        let slots = self.rt.slots.statuses();
        for slot in self.own() {
            let shown = slots.get(&slot);
            let item = shown
                .and_then(|s| s.item.as_deref())
                .unwrap_or("what it has");
            let why = shown
                .and_then(|s| s.reason.as_deref())
                .unwrap_or("it does not say why");
            self.rt.console.warn(&format!(
                "{slot} does not stop: {why}; it is let go, and {item} stays in queue/claimed/{slot}/ for the next `harness run`"
            ));
        }
    }

    pub(super) fn obey_orders(&mut self) {
        let flagged = self.news.orders.swap(false, Ordering::SeqCst);
        if !flagged && clock::instant() < self.next_orders {
            return;
        }
        self.next_orders = clock::instant() + CONTROL_TICK;
        self.put_answered_back();
        let mut orders = control::read(&self.rt.root);
        if orders.workers_unclear {
            orders.workers = self.orders.workers;
        }
        if orders == self.orders && !flagged {
            return;
        }
        self.say_what_is_new(&orders);
        self.rt.lifecycle.set_paused(orders.pause);
        if orders.stop && !self.orders.stop {
            self.rt.lifecycle.raise(Level::Finishing);
        }
        if orders.workers != self.orders.workers {
            self.next_staffing = clock::instant();
        }
        self.orders = orders;
        // An interrupt may have come or gone: workers that wait look again.
        self.rt.lifecycle.wake_all();
    }

    /// Items whose agent had asked a person go back to `pending/` once their interrupt has ended.
    pub(super) fn put_answered_back(&mut self) {
        let (released, errors) = interrupt::release_answered(&self.rt.root, &self.rt.interrupts);
        for name in released {
            self.rt
                .console
                .say(&format!("{name} goes on: its interrupt has ended"));
        }
        // Said once, not at every look.
        let trouble: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if trouble != self.trouble {
            trouble.iter().for_each(|e| self.rt.console.warn(e));
            self.trouble = trouble;
        }
    }

    fn say_what_is_new(&self, new: &Orders) {
        let (console, old) = (&self.rt.console, &self.orders);
        if let Some(why) = new
            .complaint
            .as_ref()
            .filter(|_| new.complaint != old.complaint)
        {
            console.warn_each(why);
        }
        match (old.pause, new.pause) {
            (false, true) => console.say(
                "paused: nothing new is claimed while state/control/pause exists (`harness resume`)",
            ),
            (true, false) => console.say("resumed"),
            _ => {}
        }
        if new.stop && !old.stop {
            console.say(
                "state/control/stop: nothing new is claimed; ending when the agents have finished",
            );
        }
        if new.drain && !old.drain {
            console.say("state/control/drain: ending when nothing is left to do");
        }
        if let Some(n) = new.workers.filter(|_| new.workers != old.workers) {
            console.say(&format!("state/control/workers: {n} slots in this ROOT"));
        }
    }
}
