//! Wakes one thread that waits, from any thread: an eventfd, so that the waiting thread can watch a
//! descriptor (a keeper's socket) at the same time. Every wait of harness is in this file. A wake-up
//! is a hint: the woken thread looks for itself.

use std::os::fd::{AsFd, BorrowedFd};
/// The locks around what wakes threads (`ready`): tests/threads replaces them with a scheduler's.
pub use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::{Error, Result};

#[derive(Debug)]
pub struct Waker {
    fd: EventFd,
}

impl Waker {
    pub fn new() -> Result<Waker> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|e| Error::temporary("cannot make an eventfd", e.to_string()))?;
        Ok(Waker { fd })
    }

    /// Ends the current wait, or the next one where nobody waits now.
    pub fn wake(&self) {
        // Fails only where the counter is full, and then the waiter is woken anyway.
        let _full = self.fd.write(1);
    }

    /// Waits until woken or for `timeout`, whichever comes first. `true`: woken.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.wait_or(None, timeout).0
    }

    /// Waits until woken, until `other` is readable or closed, or for `timeout`.
    /// Returns (woken, other is ready).
    pub fn wait_or(&self, other: Option<BorrowedFd<'_>>, timeout: Duration) -> (bool, bool) {
        let mut fds = vec![PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if let Some(fd) = other {
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        match poll(&mut fds, poll_timeout(timeout)) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Out of memory: the same as a timeout, after which every caller looks and waits again.
            Err(_) => return (false, false),
        }
        let is_ready = |fd: &PollFd| fd.any().unwrap_or(false);
        let woken = is_ready(&fds[0]);
        let readable = fds.get(1).is_some_and(is_ready);
        if woken {
            let _empty = self.fd.read();
        }
        (woken, readable)
    }
}

/// Waits until the descriptor takes bytes, or its other end is closed.
pub(crate) fn wait_until_writable(fd: BorrowedFd<'_>) {
    let _looked_at_by_the_next_write = poll(
        &mut [PollFd::new(fd, PollFlags::POLLOUT)],
        PollTimeout::NONE,
    );
}

/// The same for so long at most; a signal ends it, too.
pub(crate) fn wait_until_writable_for(fd: BorrowedFd<'_>, timeout: Duration) {
    let _looked_at_by_the_next_write = poll(
        &mut [PollFd::new(fd, PollFlags::POLLOUT)],
        poll_timeout(timeout),
    );
}

/// Waits for that long. `true`: at once, since nobody reads what is written there any more.
pub(crate) fn is_reader_gone(out: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(out, PollFlags::empty())];
    // A signal ends the wait early: the caller looks, and waits again.
    poll(&mut fds, poll_timeout(timeout)).is_ok() && fds[0].any().unwrap_or(true)
}

/// Rounded up to whole milliseconds, so that a short wait does not spin.
pub(crate) fn poll_timeout(timeout: Duration) -> PollTimeout {
    let ms = timeout.as_nanos().div_ceil(1_000_000);
    i32::try_from(ms)
        .ok()
        .and_then(|ms| PollTimeout::try_from(ms).ok())
        .unwrap_or(PollTimeout::MAX)
}
