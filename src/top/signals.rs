//! The signals that a full-screen program obeys, as flags: whoever waits is woken by the signal itself, and
//! looks at least four times a second.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::flag;

use crate::error::{Error, Result};
use crate::sys;

#[derive(Debug, Clone, Default)]
pub(super) struct Signals {
    end: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    go_on: Arc<AtomicBool>,
}

impl Signals {
    pub(super) fn new() -> Result<Signals> {
        let fail = |e: io::Error| Error::io("cannot watch for signals", Path::new("signals"), &e);
        let signals = Signals::default();
        for signal in [SIGINT, SIGQUIT, SIGTERM, SIGHUP] {
            if signal == SIGHUP && sys::is_ignored(signal) {
                continue;
            }
            let number = usize::try_from(signal).unwrap_or_default();
            let _for_good =
                flag::register_usize(signal, signals.end.clone(), number).map_err(fail)?;
        }
        let marks = [
            (SIGTSTP, signals.stop.clone()),
            (SIGCONT, signals.go_on.clone()),
            // Its size is looked at all the time: this only ends the wait.
            (SIGWINCH, Arc::default()),
        ];
        for (signal, mark) in marks {
            let _for_good = flag::register(signal, mark).map_err(fail)?;
        }
        Ok(signals)
    }

    /// The signal that ends this process, once one came.
    pub(super) fn ended(&self) -> Option<u8> {
        let signal = self.end.load(Ordering::SeqCst);
        u8::try_from(signal).ok().filter(|&n| n > 0)
    }

    pub(super) fn take_stop(&self) -> bool {
        self.stop.swap(false, Ordering::SeqCst)
    }

    pub(super) fn take_go_on(&self) -> bool {
        self.go_on.swap(false, Ordering::SeqCst)
    }
}
