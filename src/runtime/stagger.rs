//! Spreads the first starts of prompt agents over time, so that many that start together do not
//! refresh the same login at once. Knows nothing of agents. Invariant: two callers that are told to
//! go are at least `gap` apart.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::clock;

pub(crate) struct Stagger {
    gap: Duration,
    next: Mutex<Option<Instant>>,
}

impl Stagger {
    pub(crate) fn new(gap: Duration) -> Stagger {
        Stagger {
            gap,
            next: Mutex::default(),
        }
    }

    /// How long to wait before asking again. Zero: start now; the next caller waits for `gap`.
    pub(crate) fn wait(&self) -> Duration {
        let now = clock::instant();
        let mut next = lock(&self.next);
        match *next {
            Some(at) if at > now => at - now,
            _ => {
                *next = Some(now + self.gap);
                Duration::ZERO
            }
        }
    }
}
