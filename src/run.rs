//! `harness run`: the main thread. It starts the others (watcher, index thread, pulse, workers), obeys
//! standing orders and signals, recovers dead processes' slots, and knows when to end.
//!
//! - Workers claim and run items; it never does.
//! - Every decision it takes follows from files, locks and signals: it can be killed at any point.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::atomic;
use crate::clock;
use crate::config::Config;
use crate::control::{self, Orders};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::layout::{Name, Place, Root, SlotId};
use crate::lease::{self, Lease};
use crate::limits::{CONTROL_TICK, ORPHAN_TICK, RESCAN_TICK, WORKERS_MAX};
use crate::peers::Presence;
use crate::pulse::StatusThread;
use crate::ready::Ready;
use crate::recovery;
use crate::runtime::{Level, Results, Runtime};
use crate::sys;
use crate::watcher::{self, FolderWatcher, Hint};
use crate::worker::{self, Mode, Worker};

/// What `harness run` was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// End when nothing is left to do.
    pub drain: bool,
    pub max_items: Option<u64>,
    pub quiet: bool,
}

/// How a run ended.
pub enum End {
    /// With all its agents ended.
    Finished(Results),
    /// At once, the agents run on (SIGHUP).
    LetGo,
}

/// What events tell the main thread; it looks for itself.
#[derive(Default)]
struct News {
    orders: AtomicBool,
    peers: AtomicBool,
    /// Set while nothing is left to claim and others' items are waited for: their ends are news.
    others_end: AtomicBool,
}

pub fn run(root: &Root, config: Config, options: &Options) -> Result<End> {
    sys::ignore_lease_breaks()
        .map_err(|e| Error::temporary("cannot set up signals", e.to_string()))?;
    let workers = config.harness.workers;
    let ready = Arc::new(Ready::new(root)?);
    let tickets = options
        .max_items
        .map_or(i64::MAX / 2, |n| i64::try_from(n).unwrap_or(i64::MAX / 2));
    let rt = Arc::new(Runtime::new(root, config, ready, tickets, options.quiet)?);
    let signals = listen(&rt)?;
    let pulse = Arc::new(StatusThread::new(rt.pulse_waker.clone()));
    let news = Arc::new(News::default());
    let presence = Presence::announce(root, workers)?;
    let watch = match watch(&rt, &pulse, &news) {
        Ok(watch) => Some(watch),
        Err(e) => {
            rt.warn(&format!(
                "{e}\n  going on without events: folders are listed instead"
            ));
            None
        }
    };
    let index = spawn("index", {
        let rt = rt.clone();
        let watched = watch.is_some();
        move || keep_index(&rt, watched)
    })?;
    let beating = spawn("pulse", {
        let (rt, pulse) = (rt.clone(), pulse.clone());
        move || pulse.run(&rt)
    })?;
    let mut main = Main {
        rt: rt.clone(),
        news,
        workers: Vec::new(),
        want: workers,
        presence,
        orders: Orders::default(),
        drain: options.drain,
        watched: watch.is_some(),
        said_waiting: false,
        interrupts: 0,
        trouble: Vec::new(),
        next_orders: clock::instant(),
        next_orphans: clock::instant(),
        next_staffing: clock::instant(),
        alert_until: clock::instant() + ALERT,
    };
    let end = main.work(&signals);
    if end == How::LetGo {
        let n = main.workers.len();
        rt.warn(&format!(
            "hung up: {n} slots let go; agents run on, the next `harness run` adopts them"
        ));
        return Ok(End::LetGo);
    }
    drop(watch);
    drop(main.presence);
    rt.ready.waker.wake();
    pulse.end();
    let _panicked = (index.join(), beating.join());
    Ok(End::Finished(rt.results()))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|e| Error::temporary("cannot start a thread", e.to_string()))
}

/// Signals arrive as messages; the thread that receives them ends with the process.
fn listen(rt: &Arc<Runtime>) -> Result<Receiver<i32>> {
    let (tell, signals): (Sender<i32>, Receiver<i32>) = unbounded();
    let mut source = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Error::temporary("cannot listen for signals", e.to_string()))?;
    let rt = rt.clone();
    spawn("signals", move || {
        for signal in source.forever() {
            let _gone = tell.send(signal);
            rt.main_waker.wake();
        }
    })?;
    Ok(signals)
}

fn watch(rt: &Arc<Runtime>, pulse: &Arc<StatusThread>, news: &Arc<News>) -> Result<FolderWatcher> {
    let (told, pulse, news) = (rt.clone(), pulse.clone(), news.clone());
    let on_hint = move |hint| match hint {
        Hint::Ended(place, delta) => {
            pulse.count(place, delta);
            if news.others_end.load(Ordering::SeqCst) {
                told.main_waker.wake();
            }
        }
        Hint::Lost => pulse.recount(),
        Hint::Orders => {
            news.orders.store(true, Ordering::SeqCst);
            told.main_waker.wake();
        }
        Hint::Peers => {
            news.peers.store(true, Ordering::SeqCst);
            told.main_waker.wake();
            pulse.waker.wake();
        }
    };
    watcher::watch(&rt.root, &rt.ready, Box::new(on_hint))
}

/// The index thread's life: the first listing, then timers, and listings where events may be missing.
fn keep_index(rt: &Runtime, watched: bool) {
    let tick = if watched { RESCAN_TICK } else { CONTROL_TICK };
    let mut listed = clock::instant();
    let mut folder = folder_time(rt);
    rt.ready.ask_rescan();
    while rt.level() == Level::Running {
        // A listing of a million files takes seconds: most of the time is for other work.
        let every = tick.max(rt.ready.listing_took() * 50);
        if listed.elapsed() >= every {
            listed = clock::instant();
            // An unchanged folder needs no listing; a touched file sends an event of its own.
            let now = folder_time(rt);
            if now != folder || !watched {
                folder = now;
                rt.ready.ask_rescan();
            }
            // An event about what they wait for may have been lost.
            rt.ready.look_at_blocked();
        }
        let wait = match rt.ready.turn() {
            Ok(wait) => wait,
            Err(e) => {
                rt.warn(&format!("queue/pending: {e}"));
                rt.ready.ask_rescan();
                Duration::from_secs(1)
            }
        };
        rt.ready.waker.wait(wait.min(every));
    }
}

fn folder_time(rt: &Runtime) -> Option<std::time::SystemTime> {
    rt.root
        .place(Place::Pending)
        .metadata()
        .ok()?
        .modified()
        .ok()
}

#[derive(PartialEq, Eq)]
enum How {
    Finished,
    LetGo,
}

struct Main {
    rt: Arc<Runtime>,
    news: Arc<News>,
    workers: Vec<Worker>,
    /// Slots this process was started to hold.
    want: usize,
    presence: Presence,
    orders: Orders,
    drain: bool,
    /// Whether the folders are watched for changes.
    watched: bool,
    said_waiting: bool,
    interrupts: u32,
    /// What kept answered items from going back, as far as it was said.
    trouble: Vec<String>,
    next_orders: Instant,
    next_orphans: Instant,
    next_staffing: Instant,
    alert_until: Instant,
}

/// How long after a death, and after its own start, a process looks for orphans again and again,
/// and how often.
const ALERT: Duration = Duration::from_secs(3);
const ALERT_TICK: Duration = Duration::from_millis(20);
/// How often a process looks round that has nothing to do.
const TICK_AT_REST: Duration = Duration::from_secs(1);

impl Main {
    fn work(&mut self, signals: &Receiver<i32>) -> How {
        loop {
            while let Ok(signal) = signals.try_recv() {
                if self.obey_signal(signal) == How::LetGo {
                    return How::LetGo;
                }
            }
            self.obey_orders();
            let drains = self.drain || self.orders.drain;
            self.rt.drains.store(drains, Ordering::SeqCst);
            self.reap();
            if self.rt.level() < Level::Stopping {
                self.recover_orphans();
            }
            if self.rt.level() == Level::Running {
                self.staff();
                self.rt.staffed.store(true, Ordering::SeqCst);
                self.end_when_drained();
            }
            if self.rt.level() > Level::Running && self.workers.is_empty() {
                return How::Finished;
            }
            self.rt.main_waker.wait(self.tick());
        }
    }

    fn drains(&self) -> bool {
        self.rt.drains.load(Ordering::SeqCst)
    }

    /// Where nothing goes on and events tell of whatever begins, there is little to look for.
    fn tick(&self) -> Duration {
        let waits = self.watched && !self.drains();
        let at_rest = waits && self.rt.level() == Level::Running && self.rt.busy() == 0;
        match at_rest && clock::instant() >= self.alert_until {
            true => TICK_AT_REST,
            false if self.watched => CONTROL_TICK * self.rt.pace(),
            false => CONTROL_TICK,
        }
    }

    fn obey_signal(&mut self, signal: i32) -> How {
        let at_work = self.rt.busy();
        match signal {
            SIGHUP => return How::LetGo,
            SIGINT if self.interrupts == 0 => {
                self.interrupts = 1;
                self.rt.warn(&match at_work {
                    0 => "interrupted: ending".into(),
                    n => format!(
                        "interrupted: nothing new is claimed; waiting for {} to finish \
                         (Ctrl-C again stops them and puts their items back)",
                        crate::outcome::plural(n as u64, "agent")
                    ),
                });
                self.rt.raise(Level::Finishing);
            }
            _ => {
                if self.rt.level() < Level::Stopping && at_work > 0 {
                    self.rt
                        .warn("stopping the agents; their work is kept, their items go back");
                }
                self.rt.raise(Level::Stopping);
            }
        }
        How::Finished
    }

    fn obey_orders(&mut self) {
        let flagged = self.news.orders.swap(false, Ordering::SeqCst);
        if !flagged && clock::instant() < self.next_orders {
            return;
        }
        self.next_orders = clock::instant() + CONTROL_TICK;
        let (released, errors) = interrupt::release_answered(&self.rt.root, &self.rt.interrupts);
        for name in released {
            self.rt
                .say(&format!("{name} goes on: its interrupt has ended"));
        }
        // Said once, not at every look.
        let trouble: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if trouble != self.trouble {
            trouble.iter().for_each(|e| self.rt.warn(e));
            self.trouble = trouble;
        }
        let mut orders = control::read(&self.rt.root);
        if orders.workers_unclear {
            orders.workers = self.orders.workers;
        }
        if orders == self.orders && !flagged {
            return;
        }
        if let Some(why) = orders
            .complaint
            .as_ref()
            .filter(|_| orders.complaint != self.orders.complaint)
        {
            self.rt.warn(why);
        }
        if self.rt.set_paused(orders.pause) {
            self.rt.say(if orders.pause {
                "paused: nothing new is claimed while state/control/pause exists (`harness resume`)"
            } else {
                "resumed"
            });
        }
        if orders.stop && !self.orders.stop {
            self.rt.say(
                "state/control/stop: nothing new is claimed; ending when the agents have finished",
            );
            self.rt.raise(Level::Finishing);
        }
        if orders.drain && !self.orders.drain {
            self.rt
                .say("state/control/drain: ending when nothing is left to do");
        }
        if orders.workers != self.orders.workers {
            self.next_staffing = clock::instant();
            if let Some(n) = orders.workers {
                self.rt
                    .say(&format!("state/control/workers: {n} slots in this ROOT"));
            }
        }
        self.orders = orders;
        // An interrupt may have come or gone: those who wait look again.
        self.rt.wake_all();
    }

    /// Joins workers that ended.
    fn reap(&mut self) {
        let (ended, living): (Vec<_>, Vec<_>) = self.workers.drain(..).partition(Worker::is_over);
        self.workers = living;
        for worker in ended {
            let (told, slot) = (worker.leave.load(Ordering::SeqCst), worker.slot);
            if worker.join().is_err() {
                self.rt.hide(slot);
                self.rt
                    .warn(&format!("{slot}: its thread failed; its slot is recovered"));
                self.next_orphans = clock::instant();
            }
            if !told && self.rt.level() == Level::Running {
                self.next_staffing = clock::instant() + Duration::from_secs(1);
            }
        }
    }

    /// Takes over what dead processes left, slot by slot, besides this process's own slots.
    fn recover_orphans(&mut self) {
        let flagged = self.news.peers.swap(false, Ordering::SeqCst);
        let now = clock::instant();
        if !flagged && now < self.next_orphans {
            return;
        }
        // A process that is dying closes its files one after the other, and its git may live on
        // for a moment, with the slot's lease.
        if flagged {
            self.alert_until = now + ALERT;
        }
        // The longer ago it was, the less likely is a change: a look goes over all slots.
        let left = self.alert_until.saturating_duration_since(now);
        self.next_orphans = now
            + match left.is_zero() {
                false => ALERT_TICK.max((ALERT - left) / 8),
                true => ORPHAN_TICK,
            };
        for slot in recovery::orphans(&self.rt.root, &self.slots()) {
            if self.take(slot, Mode::RecoverOnly).is_none() {
                break;
            }
        }
    }

    fn slots(&self) -> Vec<SlotId> {
        self.workers.iter().map(|w| w.slot).collect()
    }

    /// `None`: it failed.
    fn take(&mut self, slot: SlotId, mode: Mode) -> Option<bool> {
        let taken = Lease::try_take(&self.rt.root, slot).and_then(|lease| match lease {
            Some(lease) => worker::start(&self.rt, lease, mode).map(Some),
            None => Ok(None),
        });
        match taken {
            Ok(Some(worker)) => {
                self.workers.push(worker);
                Some(true)
            }
            Ok(None) => Some(false),
            Err(e) => {
                self.rt.warn(&format!("{slot}: {e}"));
                None
            }
        }
    }

    /// Holds as many slots as wanted: `--workers` of its own, or whichever are free among the
    /// first N where `state/control/workers` says N for the whole ROOT.
    fn staff(&mut self) {
        let (count, last) = match self.orders.workers {
            Some(n) => (n, n),
            None => (self.want, WORKERS_MAX),
        };
        let _shown_later = self.presence.set_workers(count);
        let mut steady: Vec<&Worker> = self
            .workers
            .iter()
            .filter(|w| !w.leave.load(Ordering::SeqCst))
            .collect();
        steady.sort_by_key(|w| w.slot);
        let keep = steady
            .iter()
            .filter(|w| w.slot.0 <= last)
            .count()
            .min(count);
        for worker in &steady[keep..] {
            worker.leave.store(true, Ordering::SeqCst);
            worker.waker.wake();
        }
        let may_claim = self.rt.tickets.load(Ordering::SeqCst) > 0;
        if keep >= count || !may_claim || clock::instant() < self.next_staffing {
            if !may_claim && self.workers.is_empty() {
                self.rt.raise(Level::Finishing);
            }
            return;
        }
        let (mut held, mut failed) = (keep, 0);
        for n in 1..=last {
            if held >= count {
                return;
            }
            let slot = SlotId(n);
            if self.workers.iter().any(|w| w.slot == slot) {
                continue;
            }
            match self.take(slot, Mode::Steady) {
                Some(true) => held += 1,
                Some(false) => {}
                // One slot may be damaged; more of them are the host's trouble, which the next
                // thousand would meet too.
                None if failed == 2 => break,
                None => failed += 1,
            }
        }
        // The rest is held by others: look again later, they may die.
        self.next_staffing = clock::instant() + Duration::from_secs(1);
    }

    /// With `--drain`: whether nothing is left, in this process or any other.
    fn end_when_drained(&mut self) {
        // A worker whose item has ended wakes this thread.
        if !self.drains() || self.rt.busy() > 0 || !self.rt.ready.is_exhausted() {
            self.say_what_it_waits_for();
            return;
        }
        let before = folder_time(&self.rt);
        // A claim without a file is half made or half given up; or its holder died and a git of its
        // own has the slot's lease for a moment more.
        let others_work =
            !nothing_claimed(&self.rt.root) || !lease::holders(&self.rt.root).is_empty();
        self.news.others_end.store(others_work, Ordering::SeqCst);
        if others_work || self.rt.ready.rescan().is_err() {
            return;
        }
        self.rt.ready.look_at_blocked();
        let quiet = self.rt.ready.is_exhausted()
            && nothing_claimed(&self.rt.root)
            && folder_time(&self.rt) == before
            && recovery::orphans(&self.rt.root, &self.slots()).is_empty();
        if !quiet {
            return;
        }
        let more = self.rt.ready.more_blocked();
        if more > 0 {
            self.rt.warn(&format!("{more} more items stay in pending/"));
        }
        for (name, after) in self.rt.ready.blocked() {
            if after.is_empty() {
                self.rt.warn(&format!(
                    "{name} stays in pending/: its agent is held until a person has mended it (state/holds/)"
                ));
                continue;
            }
            let after: Vec<String> = after.iter().map(|n| n.shown()).collect();
            self.rt.warn(&format!(
                "{name} stays in pending/: it waits for {}, which nobody is going to finish",
                after.join(", ")
            ));
        }
        self.rt.raise(Level::Finishing);
    }

    fn say_what_it_waits_for(&mut self) {
        let waits = self.drains() && self.rt.busy() == 0;
        if !waits || self.said_waiting {
            return;
        }
        if let Some((name, due)) = self.rt.ready.next_scheduled() {
            let wait = Duration::from_nanos((due - clock::now_ns()).max(0) as u64);
            if wait > Duration::from_secs(2) && self.rt.ready.tally().pending == 0 {
                self.said_waiting = true;
                self.rt
                    .say(&format!("waiting {} for {name}", clock::human(wait)));
            }
        }
    }
}

fn nothing_claimed(root: &Root) -> bool {
    let slots = std::fs::read_dir(root.claimed_root())
        .into_iter()
        .flatten()
        .flatten();
    // What is left alone as an item (an editor's `.x.swp`) is nobody's work here either.
    let is_item = |f: std::io::Result<std::fs::DirEntry>| {
        f.map_or(true, |f| !Name::is_ignored(&f.file_name()))
    };
    slots
        .filter(|e| SlotId::parse(&e.file_name()).is_some() && atomic::is_own_dir(&e.path()))
        .all(|e| match std::fs::read_dir(e.path()) {
            Ok(mut files) => !files.any(is_item),
            Err(e) => matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        })
}
