//! Waits of a thread for what it does not control: a lock that another process has, a git that takes
//! long. Invariant: each has an end, and one that takes a while is shown with its cause.

use std::cell::RefCell;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::atomic;
use crate::clock;
use crate::error::{Error, Result};
use crate::limits::{GIT_TIMEOUT, WAIT_SHOWN};

/// Once this process is being stopped, a wait may take this long, from the stop or from its own start.
const AT_STOP: Duration = Duration::from_secs(20);

/// When this process began to stop.
static STOPPED: OnceLock<Instant> = OnceLock::new();

/// No git is waited for much longer: this process is being stopped.
pub(crate) fn hurry() {
    let _first = STOPPED.set(clock::instant());
}

pub(super) fn is_stopping() -> bool {
    STOPPED.get().is_some()
}

/// When a wait ends that began then and may take so long.
pub(super) fn deadline(began: Instant, timeout: Duration) -> Instant {
    let at_stop = STOPPED.get().map(|&stop| stop.max(began) + AT_STOP);
    (began + timeout).min(at_stop.unwrap_or(began + timeout))
}

type Show = Box<dyn Fn(Option<String>)>;

thread_local! {
    static SHOW: RefCell<Option<Show>> = const { RefCell::new(None) };
}

/// What this thread waits for is told to `show`, and `None` when the wait is over.
pub(crate) fn show_waits(show: impl Fn(Option<String>) + 'static) {
    SHOW.set(Some(Box::new(show)));
}

/// A wait under way.
pub(super) struct Wait {
    pub(super) began: Instant,
    is_shown: bool,
}

impl Wait {
    pub(super) fn begin() -> Wait {
        Wait {
            began: clock::instant(),
            is_shown: false,
        }
    }

    /// It goes on: shown once, when it has taken a while.
    pub(super) fn goes_on(&mut self, why: impl FnOnce() -> String) {
        if !self.is_shown && self.began.elapsed() >= WAIT_SHOWN {
            self.is_shown = true;
            tell(Some(why()));
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if self.is_shown {
            tell(None);
        }
    }
}

fn tell(why: Option<String>) {
    SHOW.with_borrow(|show| {
        if let Some(show) = show {
            show(why);
        }
    });
}

/// Locks a file that other slots and processes lock too. Ends with an error after `GIT_TIMEOUT`, and
/// soon after this process was told to stop.
pub(super) fn lock(path: &Path) -> Result<Arc<File>> {
    let file = atomic::open_lock(path)?;
    let mut wait = Wait::begin();
    let mut pause = Duration::from_millis(1);
    loop {
        match fs2::FileExt::try_lock_exclusive(&file) {
            Ok(()) => return Ok(Arc::new(file)),
            Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {}
            Err(e) => return Err(Error::io("cannot lock", path, &e)),
        }
        if clock::instant() >= deadline(wait.began, GIT_TIMEOUT) {
            let held = wait.began.elapsed();
            let why = format!("another process has it for {} now", clock::human(held));
            return Err(Error::temporary("cannot get the lock", why)
                .at_path(path)
                .hint("look who has it (`fuser -v` on this file), and why that does not end"));
        }
        wait.goes_on(|| {
            format!(
                "waits for {}, which another slot or process has locked",
                path.display()
            )
        });
        std::thread::park_timeout(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
