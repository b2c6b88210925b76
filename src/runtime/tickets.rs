//! How many more items this process may claim (`--max-items`). Knows nothing of items. Invariant: a
//! ticket that was not spent is there for the next worker, whatever became of the claim.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Tickets {
    left: AtomicU64,
}

/// The right to claim one item.
#[must_use = "a ticket that is dropped goes back"]
pub(crate) struct Ticket<'a> {
    left: &'a AtomicU64,
}

impl Tickets {
    /// `None`: as many as are there.
    pub(crate) fn new(max: Option<u64>) -> Tickets {
        Tickets {
            left: AtomicU64::new(max.unwrap_or(u64::MAX)),
        }
    }

    /// `None`: no more items may be claimed, unless another worker's ticket goes back.
    pub(crate) fn take(&self) -> Option<Ticket<'_>> {
        let one_less = |left: u64| left.checked_sub(1);
        let taken = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
        taken.is_ok().then(|| Ticket { left: &self.left })
    }

    pub(crate) fn are_left(&self) -> bool {
        self.left.load(Ordering::SeqCst) > 0
    }
}

impl Ticket<'_> {
    /// An item was claimed with it.
    pub(crate) fn spend(self) {
        std::mem::forget(self);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.left.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_that_is_not_spent_goes_back() {
        let tickets = Tickets::new(Some(1));
        let first = tickets.take();
        assert!(first.is_some() && tickets.take().is_none());
        drop(first);
        tickets.take().unwrap().spend();
        assert!(tickets.take().is_none() && !tickets.are_left());
        assert!(Tickets::new(None).take().is_some());
    }
}
