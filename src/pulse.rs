//! The status thread: keeps the status files of this process's slots up to date and, in one process
//! of the tree at a time, the unified `status.json`. Whoever holds the aggregator's lock does that;
//! when its process dies, another one takes over.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::aggregator::{Aggregator, EndedCounts};
use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::layout::{Place, SlotId};
use crate::limits::{AFTER_LOOKS, FIGURES, FIGURES_AT_HAND, HEARTBEAT, PULSE, PULSE_AT_REST};
use crate::runtime::Runtime;
use crate::status::TroubleStatus;
use crate::text;
use crate::waker::Waker;

/// Items that cannot be claimed: as many are named.
const STAYS_SHOWN: usize = 20;

pub(crate) struct StatusThread {
    pub(crate) waker: Arc<Waker>,
    /// Set while this process is the aggregator: counts items that came into `done/` and `parked/`.
    counts: Mutex<Option<Arc<EndedCounts>>>,
    lost: AtomicBool,
    over: AtomicBool,
    /// The last turn that came to its end.
    turned: Mutex<Instant>,
}

impl StatusThread {
    pub(crate) fn new(waker: Arc<Waker>) -> StatusThread {
        StatusThread {
            waker,
            counts: Mutex::default(),
            lost: AtomicBool::new(false),
            over: AtomicBool::new(false),
            turned: Mutex::new(clock::instant()),
        }
    }

    /// From now on the watcher's events are counted there; `None`: nowhere.
    fn count_in(&self, counts: Option<Arc<EndedCounts>>) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// A file came into or left a folder.
    pub(crate) fn count(&self, place: Place, delta: i64) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = &*counts {
            counts.event(place, delta);
        }
    }

    /// Events were lost: count again.
    pub(crate) fn recount(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// One more turn, then the thread ends. What it writes stays until another process runs, and the
    /// last events may not have come yet, so it counts again.
    pub(crate) fn end(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.over.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// How long ago it last came round.
    pub(crate) fn silent_for(&self) -> Duration {
        let turned = *self.turned.lock().unwrap_or_else(PoisonError::into_inner);
        clock::instant() - turned
    }

    /// The thread's life.
    pub(crate) fn run(&self, rt: &Runtime) {
        let mut aggregator: Option<Aggregator> = None;
        let mut beats: HashMap<SlotId, Instant> = HashMap::new();
        let mut said = false;
        loop {
            let rests = rt.slots.may_pulse_rest();
            self.waker.wait(if rests {
                PULSE_AT_REST
            } else {
                clock::until_next(rt.slots.poll_interval(PULSE)) + AFTER_LOOKS
            });
            let over = self.over.load(Ordering::SeqCst);
            match self.beat(rt, &mut aggregator, &mut beats, over) {
                Ok(()) => said = false,
                // Trouble with the status stops no work, and is reported once.
                Err(e) if !said => {
                    rt.console.warn(&format!("status: {e}"));
                    said = true;
                }
                Err(_) => {}
            }
            if over {
                return;
            }
            rt.show_progress();
            *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = clock::instant();
        }
    }

    fn beat(
        &self,
        rt: &Runtime,
        aggregator: &mut Option<Aggregator>,
        beats: &mut HashMap<SlotId, Instant>,
        force: bool,
    ) -> Result<()> {
        let now = clock::instant();
        // An agent may have replaced a slot's folder by a symlink: nothing is written through it.
        let is_own = |slot: SlotId| !rt.root.agent(slot).is_symlink();
        for slot in rt.slots.held() {
            let due = beats.get(&slot).is_none_or(|&at| now - at >= HEARTBEAT);
            if due && is_own(slot) {
                beats.insert(slot, now);
                let at = clock::now_iso();
                let text = format!("{at}\n");
                rt.slots.show(slot, |s| s.last_heartbeat = Some(at));
                let path = rt.root.agent(slot).join("heartbeat");
                unless_gone(&path, atomic::put_line(&path, text.as_bytes()))?;
            }
        }
        let figures = match aggregator {
            Some(_) if rt.slots.poll_factor() > 1 => FIGURES_AT_HAND,
            _ => FIGURES,
        };
        for (slot, status) in rt.slots.take_changed(figures) {
            if !is_own(slot) {
                continue;
            }
            let mut text = text::json(&status).unwrap_or_default();
            text.push(b'\n');
            let path = rt.root.agent(slot).join("status.json");
            unless_gone(&path, atomic::replace(&path, &text, false))?;
        }
        if aggregator.is_none() {
            *aggregator = Aggregator::try_become(&rt.root)?;
            self.count_in(aggregator.as_ref().map(|a| a.counts().clone()));
        }
        if let Some(aggregator) = aggregator {
            // At the end, events about what just ended may not have come yet: on top of this count they
            // would be counted twice.
            if force {
                self.count_in(None);
            }
            if self.lost.swap(false, Ordering::SeqCst) || force {
                aggregator.counts().recount(&rt.root)?;
            }
            let mut troubles = rt.troubles.shown();
            for (name, reason) in rt.ready.stays(STAYS_SHOWN) {
                troubles.push(TroubleStatus {
                    place: format!("queue/pending/{name}"),
                    reason,
                    ..TroubleStatus::default()
                });
            }
            aggregator.refresh(rt.ready.tally(), rt.slots.statuses(), troubles, force)?;
        }
        Ok(())
    }
}

/// The result of writing a file in a slot's folder. The slot may just have been given up: then its next
/// holder clears temporary files there, and writes its own.
fn unless_gone(path: &Path, written: Result<()>) -> Result<()> {
    let has_folder = || path.parent().is_some_and(Path::is_dir);
    match written {
        Err(e) if e.errno() == Some(nix::errno::Errno::ENOENT as i32) && has_folder() => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_comes_after_the_last_count_is_not_counted_again() {
        let thread = StatusThread::new(Arc::new(Waker::new().unwrap()));
        let counts = Arc::new(EndedCounts::default());
        thread.count_in(Some(counts.clone()));
        thread.count(Place::Done, 1);
        thread.count_in(None);
        thread.count(Place::Done, 1);
        assert_eq!(counts.get(Place::Done), 1);
    }
}
