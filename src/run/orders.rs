//! Signals and standing orders (`state/control/`, `state/interrupts/`): what the main thread does
//! about them, and what it says.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT};

use super::{Left, Main};
use crate::clock;
use crate::control::{self, Order, Orders};
use crate::interrupt;
use crate::limits::CONTROL_TICK;
use crate::quote;
use crate::runtime::Level;
use crate::text::count_of;

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
                count_of(n as u64, "agent")
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
        self.tell_stop();
    }

    /// SIGHUP: the end of a session, not of the work.
    pub(super) fn say_hung_up(&self) {
        let slots = self.workers.len();
        self.rt.console.warn(&format!(
            "hung up: {slots} slots let go; agents run on, the next `harness run` adopts them"
        ));
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
        self.say_odd_interrupts();
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

    /// Files among the interrupts that hold nobody back, as somebody may think that they do.
    fn say_odd_interrupts(&mut self) {
        let odd = interrupt::odd(&self.rt.root, &self.rt.interrupts);
        if odd != self.odd {
            for (file, why) in odd.iter().filter(|o| !self.odd.contains(o)) {
                self.rt.console.warn(&format!("{file}: {why}"));
            }
            self.odd = odd;
        }
    }

    /// What an order does, how to take it back, and how long ago it was given if that was before this
    /// run. An order that is left over is a warning: it may be why nothing happens.
    fn say_order(&self, order: Order, does: &str) {
        let path = order.path(&self.rt.root);
        self.say_standing(&path, order.file(), does, "resume` takes it back");
    }

    fn say_standing(&self, path: &Path, file: &str, does: &str, end: &str) {
        let (console, harness) = (&self.rt.console, quote::harness());
        let given = path.symlink_metadata().map(|m| clock::ctime_ns(&m)).ok();
        let before = given.map(|at| self.began_ns - at).filter(|ns| *ns > 0);
        let text = |ago: &str| {
            let end = match end.starts_with("resume") {
                true => format!("`{harness} {end}"),
                false => end.to_owned(),
            };
            format!("state/control/{file}{ago}: {does}; {end}")
        };
        match before {
            Some(ns) => {
                let ago = clock::human(Duration::from_nanos(ns.unsigned_abs()));
                console.warn(&text(&format!(" is left from {ago} before this run")));
            }
            None => console.say(&text("")),
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
            (false, true) => self.say_order(Order::Pause, "paused: nothing new is claimed"),
            (true, false) => console.say("resumed"),
            _ => {}
        }
        if new.stop && !old.stop {
            let does = "nothing new is claimed; ending when the agents have finished";
            self.say_order(Order::Stop, does);
        }
        if new.drain && !old.drain {
            self.say_order(Order::Drain, "ending when nothing is left to do");
        }
        if let Some(n) = new.workers.filter(|_| new.workers != old.workers) {
            let path = self.rt.root.control().join("workers");
            let does = format!("{n} slots in this ROOT, whatever --workers says");
            self.say_standing(&path, "workers", &does, "remove the file to end that");
        }
    }
}
