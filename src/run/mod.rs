//! `harness run`: the main thread. It starts the other threads, then looks round until all is done:
//!
//! - signals and standing orders are obeyed (`orders`);
//! - workers are started, joined and told to leave, and dead processes' slots recovered (`staff`);
//! - with `--drain`, it finds out when nothing is left to do (`drain`).
//!
//! Knows nothing of attempts: workers claim and run items. Invariant: each decision follows from
//! files, locks and signals alone, so the process can be killed at any point.

mod drain;
mod errands;
mod home;
mod lacks;
mod orders;
mod service;
mod staff;
mod other_hosts;
mod threads;
mod tree;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::clock;
use crate::config::Config;
use crate::control::Orders;
use crate::error::{Error, Result};
use crate::folder::DirId;
use crate::hooks;
use crate::layout::Root;
use crate::limits::{CONTROL_TICK, STOP_MAX};
use crate::peers::Presence;
use crate::ready::Ready;
use crate::runtime::{Console, Level, Results, Runtime};
use crate::service::Manager;
use crate::sys;
use crate::worker::Worker;
use home::{Home, Where};
use other_hosts::OtherHosts;
use threads::Threads;

/// What `harness run` was told.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// End when nothing is left to do.
    pub(crate) drain: bool,
    pub(crate) max_items: Option<u64>,
}

/// How a run ended.
pub(crate) enum End {
    /// With all its agents ended.
    Finished(Results),
    /// At once, on SIGHUP: the agents run on.
    LetGo,
    /// A stop that would not end: slots were let go with what they have.
    Stuck,
}

/// Hints from the threads that hear of events; the main thread then looks for itself.
#[derive(Default)]
struct News {
    orders: AtomicBool,
    peers: AtomicBool,
    folders: AtomicBool,
    /// Set by the main thread while it waits for other processes' items to end: it is then woken
    /// for each that does.
    others_end: AtomicBool,
}

pub(crate) fn run(
    root: &Root,
    config: Config,
    options: &Options,
    console: &Arc<Console>,
    manager: Manager,
) -> Result<End> {
    sys::ignore_lease_breaks()
        .map_err(|e| Error::temporary("cannot set up signals", e.to_string()))?;
    let workers = config.harness.workers;
    let ready = Arc::new(Ready::new(root)?);
    let (max_items, console) = (options.max_items, console.clone());
    let rt = Arc::new(Runtime::new(root, config, ready, max_items, console)?);
    let signals = threads::listen(&rt)?;
    let news = Arc::new(News::default());
    let presence = Presence::announce(root, workers)?;
    hooks::remember(&rt);
    let threads = Threads::start(&rt, &news)?;
    let now = clock::instant();
    let mut main = Main {
        home: Home::open(root)?,
        rt,
        news,
        signals,
        workers: Vec::new(),
        own_slots: workers,
        presence,
        orders: Orders::default(),
        drain: options.drain,
        manager,
        root_id: DirId::of(root.path()),
        threads,
        waits: None,
        interrupted: false,
        trouble: Vec::new(),
        odd: Vec::new(),
        began_ns: clock::now_ns(),
        next_orders: now,
        next_tree: now,
        missing_since: None,
        next_lacks: None,
        next_waits: now,
        next_orphans: now,
        next_staffing: now,
        alert_until: now + ALERT,
        stopping_since: None,
        hooks_since: None,
        hooks_said: false,
        idle_told: 0,
        next_idle: now,
        other_hosts: OtherHosts::default(),
    };
    let left = main.work();
    main.tell_end(left);
    match left {
        Left::Moved => return Err(main.home.moved()),
        Left::LetGo => {
            main.say_hung_up();
            return Ok(End::LetGo);
        }
        Left::Stuck => {
            main.say_what_is_let_go();
            return Ok(End::Stuck);
        }
        Left::Finished => {}
    }
    // Its file goes before the threads end: other processes then see that nobody is here.
    let Main {
        rt,
        presence,
        threads,
        ..
    } = main;
    drop(presence);
    threads.end(&rt);
    Ok(End::Finished(rt.results.so_far()))
}

/// How the main loop was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Finished,
    LetGo,
    /// Slots that were told to stop do not.
    Stuck,
    /// ROOT was moved: everything is as after a death, at its new place.
    Moved,
}

struct Main {
    rt: Arc<Runtime>,
    home: Home,
    news: Arc<News>,
    signals: Receiver<i32>,
    workers: Vec<Worker>,
    /// Slots that this process was started to hold.
    own_slots: usize,
    presence: Presence,
    /// The standing orders as last seen.
    orders: Orders,
    /// `--drain` was given.
    drain: bool,
    threads: Threads,
    manager: Manager,
    /// ROOT itself, as it was at the start.
    root_id: Option<DirId>,
    /// What the drain waits for.
    waits: Option<drain::Waits>,
    /// Ctrl-C was pressed once.
    interrupted: bool,
    /// Errors with answered items, as last printed.
    trouble: Vec<String>,
    /// Files that are no interrupts, as last printed.
    odd: Vec<(String, String)>,
    /// When it began (ns since 1970).
    began_ns: i64,
    next_orders: Instant,
    next_tree: Instant,
    /// When folders of the tree were first seen to be gone.
    missing_since: Option<Instant>,
    /// `None`: at the start.
    next_lacks: Option<Instant>,
    next_waits: Instant,
    next_orphans: Instant,
    next_staffing: Instant,
    alert_until: Instant,
    stopping_since: Option<Instant>,
    /// Since when only hooks have been waited for, and whether that was said.
    hooks_since: Option<Instant>,
    hooks_said: bool,
    /// How much was done when nothing was left to do, as `hooks/idle` was last told.
    idle_told: u64,
    next_idle: Instant,
    other_hosts: OtherHosts,
}

/// How long after a death, and after its own start, a process looks for orphaned slots often.
const ALERT: Duration = Duration::from_secs(3);
/// How often the main thread looks round while nothing goes on and events are heard.
const TICK_AT_REST: Duration = Duration::from_secs(1);

impl Main {
    fn work(&mut self) -> Left {
        loop {
            self.tell_manager();
            if self.obey_signals() == Left::LetGo {
                return Left::LetGo;
            }
            match self.home.look() {
                Where::There => {}
                Where::Elsewhere => return Left::Moved,
                Where::Removed => self.end_without_root(),
            }
            self.obey_orders();
            self.look_after_tree();
            self.end_lacks();
            self.rt.console.count_repeats();
            let drains = self.drain || self.orders.drain;
            self.rt.lifecycle.set_drains(drains);
            self.reap();
            // First: what a dead process left in a slot of ours is no agent besides ours.
            if self.level() == Level::Running {
                self.staff();
                self.rt.slots.set_staffed();
            }
            if self.level() < Level::Stopping {
                self.recover_orphans();
                self.look_at_other_hosts();
            }
            if self.level() == Level::Running {
                self.tell_when_idle();
                self.end_when_drained();
            }
            let is_over = self.level() > Level::Running && self.workers.is_empty();
            if is_over && !self.waits_for_hooks() {
                // Marks of interrupts that ended just now would stay until the next run.
                self.put_answered_back();
                self.say_what_is_left();
                return Left::Finished;
            }
            if self.stop_takes_too_long() {
                return Left::Stuck;
            }
            self.rt.lifecycle.main().wait(self.tick());
        }
    }

    /// Whatever a slot hangs in (a lock, a dead mount), a stop ends: what it has is as after a death, and
    /// the next run goes on with it.
    fn stop_takes_too_long(&mut self) -> bool {
        if self.level() < Level::Stopping {
            return false;
        }
        let since = *self.stopping_since.get_or_insert_with(clock::instant);
        since.elapsed() >= self.rt.config.harness.kill_grace + STOP_MAX
    }

    /// ROOT was removed: nothing can be put back any more, and no agent works for nobody.
    fn end_without_root(&mut self) {
        if self.level() < Level::Stopping {
            let text = "ROOT was removed: stopping the agents, and ending";
            self.rt.console.warn(text);
            self.rt.lifecycle.raise(Level::Stopping);
        }
    }

    fn level(&self) -> Level {
        self.rt.lifecycle.level()
    }

    /// Until the next look round, unless woken before.
    fn tick(&self) -> Duration {
        let lifecycle = &self.rt.lifecycle;
        let hears_events = self.threads.hear_events();
        let hears_all = hears_events && !lifecycle.drains();
        let rests = self.level() == Level::Running && self.rt.slots.busy() == 0;
        if hears_all && rests && clock::instant() >= self.alert_until {
            TICK_AT_REST.min(self.manager.tick_max())
        } else if hears_events {
            CONTROL_TICK * self.rt.slots.poll_factor()
        } else {
            CONTROL_TICK
        }
    }
}
