//! `src/waker.rs` made of shuttle's locks: a wake-up is kept until somebody waits, and one wait takes
//! all of them. It waits without a timeout.

use shuttle::sync::Condvar;
pub use shuttle::sync::{Mutex, MutexGuard};

use crate::error::Result;

#[derive(Debug)]
pub struct Waker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    pub fn new() -> Result<Waker> {
        Ok(Waker {
            woken: Mutex::new(false),
            changed: Condvar::new(),
        })
    }

    pub fn wake(&self) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}
