//! How far this process is on its way out, whether it is paused, and the threads to wake when that
//! changes. Decides nothing: the main thread sets it, workers obey it. Invariant: the level only
//! rises, and whoever waits is woken after each change.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use super::lock;
use crate::error::Result;
use crate::git;
use crate::waker::Waker;

/// How far this process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Level {
    Running = 0,
    /// Claim nothing new, let agents finish.
    Finishing = 1,
    /// Stop the agents, keep their work, put the items back.
    Stopping = 2,
}

pub(crate) struct Lifecycle {
    level: AtomicU8,
    paused: AtomicBool,
    drains: AtomicBool,
    main: Waker,
    workers: Mutex<Vec<Arc<Waker>>>,
}

impl Lifecycle {
    pub(crate) fn new() -> Result<Lifecycle> {
        Ok(Lifecycle {
            level: AtomicU8::new(Level::Running as u8),
            paused: AtomicBool::new(false),
            drains: AtomicBool::new(false),
            main: Waker::new()?,
            workers: Mutex::default(),
        })
    }

    pub(crate) fn level(&self) -> Level {
        match self.level.load(Ordering::SeqCst) {
            0 => Level::Running,
            1 => Level::Finishing,
            _ => Level::Stopping,
        }
    }

    /// A level below the present one changes nothing.
    pub(crate) fn raise(&self, level: Level) {
        self.level.fetch_max(level as u8, Ordering::SeqCst);
        if level == Level::Stopping {
            git::hurry();
        }
        self.wake_all();
    }

    /// Whether nothing new is claimed for now.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        if self.paused.swap(paused, Ordering::SeqCst) != paused {
            self.wake_all();
        }
    }

    /// Whether the process ends when nothing is left to do.
    pub(crate) fn drains(&self) -> bool {
        self.drains.load(Ordering::SeqCst)
    }

    pub(crate) fn set_drains(&self, drains: bool) {
        self.drains.store(drains, Ordering::SeqCst);
    }

    /// The main thread's waker. Workers wake it when they find nothing to do, and when they end.
    pub(crate) fn main(&self) -> &Waker {
        &self.main
    }

    pub(crate) fn add_worker(&self, waker: &Arc<Waker>) {
        lock(&self.workers).push(waker.clone());
    }

    pub(crate) fn remove_worker(&self, waker: &Arc<Waker>) {
        lock(&self.workers).retain(|w| !Arc::ptr_eq(w, waker));
    }

    pub(crate) fn wake_all(&self) {
        for waker in lock(&self.workers).iter() {
            waker.wake();
        }
        self.main.wake();
    }
}
