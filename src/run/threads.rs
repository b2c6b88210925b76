//! The other threads of the process, besides the workers: one for signals, one that keeps the index
//! of pending items, one that writes status files (`pulse`), and those of the kernel's events. They
//! decide nothing: they pass hints on, and wake whoever is concerned.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::News;
use crate::atomic;
use crate::clock;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layout::Place;
use crate::limits::{CONTROL_TICK, RESCAN_TICK, SHARED_TICK};
use crate::pulse::StatusThread;
use crate::runtime::{Level, Runtime};
use crate::sys;
use crate::watcher::{self, FolderWatcher, Hint};

/// Where trouble with the listing stands in `status.json`.
pub(super) const PENDING: &str = "queue/pending";
/// A listing of a million files takes seconds. At most one part in this many of the time goes into
/// listings.
const LISTING_SHARE: u32 = 50;

pub(super) struct Threads {
    pulse: Arc<StatusThread>,
    /// `None`: there are no events.
    watcher: Option<FolderWatcher>,
    index_thread: JoinHandle<()>,
    pulse_thread: JoinHandle<()>,
}

impl Threads {
    pub(super) fn start(rt: &Arc<Runtime>, news: &Arc<News>) -> Result<Threads> {
        let pulse = Arc::new(StatusThread::new(rt.slots.pulse_waker().clone()));
        let watcher = match watch(rt, &pulse, news) {
            Ok(watcher) => Some(watcher),
            Err(e) => {
                rt.console.warn(&format!(
                    "{e}; going on without events: folders are listed instead"
                ));
                None
            }
        };
        let index_thread = spawn("index", {
            let (rt, watched) = (rt.clone(), watcher.is_some());
            move || keep_index(&rt, watched)
        })?;
        let pulse_thread = spawn("pulse", {
            let (rt, pulse) = (rt.clone(), pulse.clone());
            move || pulse.run(&rt)
        })?;
        Ok(Threads {
            pulse,
            watcher,
            index_thread,
            pulse_thread,
        })
    }

    /// Watches folders anew that were replaced. Whether there were any.
    pub(super) fn watch_again(&mut self) -> Result<bool> {
        self.watcher
            .as_mut()
            .map_or(Ok(false), FolderWatcher::watch_again)
    }

    /// How long ago the thread that writes the status last came round.
    pub(super) fn silent_for(&self) -> Duration {
        self.pulse.silent_for()
    }

    pub(super) fn hear_events(&self) -> bool {
        self.watcher.is_some()
    }

    /// Joins them. The pulse writes a last status first.
    pub(super) fn end(self, rt: &Runtime) {
        drop(self.watcher);
        rt.ready.waker.wake();
        self.pulse.end();
        let _panicked = (self.index_thread.join(), self.pulse_thread.join());
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|e| Error::temporary("cannot start a thread", e.to_string()))
}

/// Signals arrive as messages. The thread that receives them ends with the process.
pub(super) fn listen(rt: &Arc<Runtime>) -> Result<Receiver<i32>> {
    let (sender, signals) = unbounded();
    // `nohup` has SIGHUP ignored, and it stays so. SIGINT is heard always: a script's `&` has it
    // ignored for every program, and yet may send it as the order to finish.
    let nohup = sys::is_ignored(SIGHUP);
    let heard = [SIGINT, SIGTERM].into_iter();
    let heard = heard.chain((!nohup).then_some(SIGHUP));
    let mut source = signal_hook::iterator::Signals::new(heard)
        .map_err(|e| Error::temporary("cannot listen for signals", e.to_string()))?;
    let rt = rt.clone();
    spawn("signals", move || {
        for signal in source.forever() {
            let _gone = sender.send(signal);
            rt.lifecycle.main().wake();
        }
    })?;
    Ok(signals)
}

/// Passes the kernel's events on.
fn watch(rt: &Arc<Runtime>, pulse: &Arc<StatusThread>, news: &Arc<News>) -> Result<FolderWatcher> {
    let (woken, pulse, news) = (rt.clone(), pulse.clone(), news.clone());
    let on_hint = move |hint| match hint {
        Hint::Ended(place, delta) => {
            pulse.count(place, delta);
            if place == Place::Merge && delta > 0 {
                woken.lifecycle.wake_all();
            }
            if news.others_end.load(Ordering::SeqCst) {
                woken.lifecycle.main().wake();
            }
        }
        Hint::Lost => {
            pulse.recount();
            news.folders.store(true, Ordering::SeqCst);
            woken.lifecycle.main().wake();
        }
        Hint::Orders => {
            news.orders.store(true, Ordering::SeqCst);
            woken.lifecycle.main().wake();
        }
        Hint::Peers => {
            news.peers.store(true, Ordering::SeqCst);
            woken.lifecycle.main().wake();
            pulse.waker.wake();
        }
    };
    watcher::watch(&rt.root, &rt.ready, Box::new(on_hint))
}

/// The index thread: the first listing, then timers, and listings where events may be missing.
fn keep_index(rt: &Runtime, watched: bool) {
    let shared = Host::has_others(&rt.root);
    let tick = match watched {
        true if shared => SHARED_TICK,
        true => RESCAN_TICK,
        false => CONTROL_TICK,
    };
    let mut listed = clock::instant();
    let mut folder = pending_changed_at(rt);
    rt.ready.ask_rescan();
    while rt.lifecycle.level() == Level::Running {
        let every = tick.max(rt.ready.listing_took() * LISTING_SHARE);
        if listed.elapsed() >= every {
            listed = clock::instant();
            // An unchanged folder needs no listing; a touched file sends an event of its own.
            let now = pending_changed_at(rt);
            if now != folder || !watched || shared {
                folder = now;
                rt.ready.ask_rescan();
            }
            // The event that ends an item's wait may have been lost.
            rt.ready.look_at_blocked();
        }
        let wait = match rt.ready.turn() {
            Ok(wait) => wait,
            Err(e) => {
                let wait = rt.troubles.met(PENDING, &e);
                rt.console.warn(&format!("{PENDING}: {e}"));
                rt.ready.rescan_after(wait);
                // A drain may end for it.
                rt.lifecycle.main().wake();
                wait
            }
        };
        if !rt.troubles.is_too_soon(PENDING) {
            rt.troubles.over(PENDING);
        }
        rt.ready.waker.wait(wait.min(every));
    }
}

/// When an entry last came into or left `queue/pending/`.
pub(super) fn pending_changed_at(rt: &Runtime) -> Option<SystemTime> {
    // Opened, so that NFS asks its server.
    let folder = atomic::open_dir(&rt.root.place(Place::Pending)).ok()?;
    folder.metadata().ok()?.modified().ok()
}
