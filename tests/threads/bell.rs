//! As `src/bell.rs`, of shuttle's locks: rings are kept until somebody waits, and one wait takes
//! them all. It waits without a timeout.

use shuttle::sync::Condvar;
pub use shuttle::sync::{Mutex, MutexGuard};

use crate::error::Result;

#[derive(Debug)]
pub struct Bell {
    rung: Mutex<bool>,
    woken: Condvar,
}

impl Bell {
    pub fn new() -> Result<Bell> {
        Ok(Bell {
            rung: Mutex::new(false),
            woken: Condvar::new(),
        })
    }

    pub fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.woken.notify_all();
    }

    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.woken.wait(rung).unwrap();
        }
        *rung = false;
    }
}
