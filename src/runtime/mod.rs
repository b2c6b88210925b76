//! What the threads of one `harness run` share: one field for each purpose, each in a file of its
//! own. Nothing is decided here.

mod console;
mod errands;
mod lifecycle;
mod merges;
mod progress;
mod results;
mod room;
mod slots;
mod stagger;
mod lost;
mod tickets;
mod troubles;
mod voice;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::aggregator::Ledger;
use crate::budget::Current;
use crate::config::{Config, Durability};
use crate::error::Result;
use crate::folder::Folder;
use crate::git::Repos;
use crate::host::Host;
use crate::layout::Root;
use crate::ready::Ready;
use crate::status::LedgerLine;
pub(crate) use console::Console;
use errands::Errands;
pub(crate) use lifecycle::{Level, Lifecycle};
pub(crate) use lost::{Lost, LostSlots};
pub(crate) use merges::{Merges, Waiting};
pub(crate) use results::{ItemResult, Results};
use room::Room;
pub(crate) use room::pressure;
pub(crate) use slots::Slots;
use stagger::Stagger;
pub(crate) use tickets::{Ticket, Tickets};
pub(crate) use troubles::Troubles;

pub(crate) struct Runtime {
    pub(crate) root: Root,
    pub(crate) config: Config,
    /// Whether what is acknowledged must survive a power cut.
    pub(crate) durable: bool,
    /// Whether other hosts may work in this ROOT.
    pub(crate) has_others: bool,
    /// The index of `queue/pending/`.
    pub(crate) ready: Arc<Ready>,
    pub(crate) repos: Repos,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) slots: Slots,
    pub(crate) tickets: Tickets,
    /// How many branches are merged together.
    pub(crate) merges: Merges,
    /// What this machine has left.
    pub(crate) room: Room,
    /// Slots of lost hosts.
    pub(crate) lost: LostSlots,
    /// Hooks and notifications that run.
    pub(crate) errands: Errands,
    /// When a slot may claim its first item for a prompt agent.
    pub(crate) turns: Stagger,
    /// When such an agent may be started: setting up takes longer for some.
    pub(crate) starts: Stagger,
    /// Agents that were found held, since a start of theirs was let through.
    held: Mutex<BTreeSet<String>>,
    /// What is wrong here and now.
    pub(crate) troubles: Troubles,
    pub(crate) console: Arc<Console>,
    pub(crate) results: results::Board,
    /// What was last seen in `state/interrupts/`.
    pub(crate) interrupts: Mutex<Folder>,
    /// Whether what the users' repositories hold for nobody was looked for.
    pub(crate) nobodys_released: AtomicBool,
    /// Agents that this process could not start at all, and therefore holds.
    lacking: Mutex<BTreeSet<String>>,
    is_left_out: AtomicBool,
    failures_at_once: AtomicU32,
    budget: Mutex<Current>,
    ledger: Mutex<Ledger>,
}

impl Runtime {
    /// `max_items`: how many items this process may claim.
    pub(crate) fn new(
        root: &Root,
        config: Config,
        ready: Arc<Ready>,
        max_items: Option<u64>,
        console: Arc<Console>,
    ) -> Result<Runtime> {
        Ok(Runtime {
            root: root.clone(),
            durable: config.harness.durability == Durability::Full,
            has_others: Host::has_others(root),
            ready,
            repos: Repos::new(root, &config)?,
            lifecycle: Lifecycle::new()?,
            slots: Slots::new()?,
            tickets: Tickets::new(max_items),
            merges: Merges::default(),
            room: Room::new(root, &config.limits),
            lost: LostSlots::default(),
            errands: Errands::default(),
            turns: Stagger::new(config.harness.stagger),
            starts: Stagger::new(config.harness.stagger),
            console,
            held: Mutex::default(),
            troubles: Troubles::default(),
            results: results::Board::default(),
            interrupts: Mutex::default(),
            nobodys_released: AtomicBool::default(),
            lacking: Mutex::default(),
            is_left_out: AtomicBool::default(),
            failures_at_once: AtomicU32::default(),
            budget: Mutex::new(Current::new(config.budget.clone())),
            ledger: Mutex::new(Ledger::new(root)),
            config,
        })
    }

    /// Takes nothing more in this process: on its host nothing can be started. Other hosts take the items.
    pub(crate) fn leave_host(&self, why: &str) {
        if self.is_left_out.swap(true, Ordering::SeqCst) {
            return;
        }
        let host = &Host::own().name;
        self.console.warn(&format!(
            "host {host} is left out: {why}; nothing more is taken here, other hosts go on; what to do: mend that, then \
             start a run on it again"
        ));
        self.results.left_with_trouble();
        self.lifecycle.raise(Level::Finishing);
    }

    /// Counts attempts that failed at once, one after the other, in all slots. Whoever ends well begins the
    /// count anew.
    pub(crate) fn failed_at_once(&self, failed: bool) -> u32 {
        match failed {
            true => self.failures_at_once.fetch_add(1, Ordering::SeqCst) + 1,
            false => {
                self.failures_at_once.store(0, Ordering::SeqCst);
                0
            }
        }
    }

    /// An agent is held.
    pub(crate) fn met_hold(&self, agent: &str) {
        lock(&self.held).insert(agent.to_owned());
    }

    /// An agent may start. After a hold all start as at first, one by one, and this process's first after
    /// this share of `stagger`: other processes begin now, too.
    pub(crate) fn met_no_hold(&self, agent: &str, share: impl FnOnce() -> f64) {
        if lock(&self.held).remove(agent) {
            self.turns.begin_anew(share());
        }
    }

    pub(crate) fn lacking(&self) -> MutexGuard<'_, BTreeSet<String>> {
        lock(&self.lacking)
    }

    pub(crate) fn budget(&self) -> MutexGuard<'_, Current> {
        lock(&self.budget)
    }

    /// Shows a person at a terminal what runs, and what is left.
    pub(crate) fn show_progress(&self) {
        self.console.show_below(|term| {
            let slots = self.slots.statuses().into_values().collect();
            let tally = self.ready.tally();
            let lines = |results: &Results| progress::lines(slots, tally, results, term);
            self.results.look(lines)
        });
    }

    /// Adds an ended attempt to the ledger. A line that cannot be written costs one count in the
    /// figures and nothing else.
    pub(crate) fn count(&self, line: &LedgerLine) {
        self.results.spent(line.cost_usd);
        if let Err(e) = lock(&self.ledger).append(line) {
            self.console.say(&e.to_string());
        }
    }
}

/// Locks it even if a thread panicked while it held the lock: the values here are plain data, which
/// are valid after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
