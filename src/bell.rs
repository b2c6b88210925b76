//! A bell that one thread waits for and any thread rings: an eventfd, so that a wait can watch
//! descriptors (a keeper's socket) at the same time. All waiting of the harness is in here; there
//! are no sleeps elsewhere. A ring is a hint: the woken thread looks for itself.

use std::os::fd::{AsFd, BorrowedFd};
/// The locks of what rings bells (`ready`): tests/threads puts a scheduler's in their place.
pub use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Error, Result};

#[derive(Debug)]
pub struct Bell {
    fd: EventFd,
}

impl Bell {
    pub fn new() -> Result<Bell> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::temporary("cannot make an eventfd", e.to_string()))?;
        Ok(Bell { fd })
    }

    /// Wakes the waiter, or the next wait where nobody waits now.
    pub fn ring(&self) {
        // Fails only where the counter is full, and then the bell rings already.
        let _full = self.fd.write(1);
    }

    /// Waits for a ring or the timeout. `true`: it rang.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.wait_or(None, timeout).0
    }

    /// Waits for a ring, for `other` to be readable (or closed), or for the timeout.
    /// Says which it was: (bell, other).
    pub fn wait_or(&self, other: Option<BorrowedFd<'_>>, timeout: Duration) -> (bool, bool) {
        let mut fds = vec![PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if let Some(fd) = other {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        match poll(&mut fds, poll_timeout(timeout)) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Out of memory: behave as a timeout would, the caller looks around and comes back.
            Err(_) => return (false, false),
        }
        let ready = |fd: &PollFd| fd.any().unwrap_or(false);
        let rang = ready(&fds[0]);
        let readable = fds.get(1).is_some_and(ready);
        if rang {
            let _empty = self.fd.read();
        }
        (rang, readable)
    }
}

/// Rounded up to whole milliseconds, so that a short wait does not spin.
pub fn poll_timeout(timeout: Duration) -> PollTimeout {
    let ms = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(ms)
        .ok()
        .and_then(|ms| PollTimeout::try_from(ms).ok())
        .unwrap_or(PollTimeout::MAX)
}
