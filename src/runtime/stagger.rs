//! Spreads the first starts of prompt agents over time, so that many that start together do not
//! refresh the same login at once. Knows nothing of agents. Invariant: two callers that are told to
//! go are at least `gap` apart.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::clock;

pub(crate) struct Stagger {
    gap: Duration,
    now: Mutex<Round>,
}

struct Round {
    number: u64,
    next: Option<Instant>,
}

impl Stagger {
    pub(crate) fn new(gap: Duration) -> Stagger {
        Stagger {
            gap,
            now: Mutex::new(Round {
                number: 1,
                next: None,
            }),
        }
    }

    /// How long to wait before asking again. Zero: start now; the next caller waits for `gap`.
    pub(crate) fn wait(&self) -> Duration {
        let now = clock::instant();
        let mut round = lock(&self.now);
        match round.next {
            Some(at) if at > now => at - now,
            _ => {
                round.next = Some(now + self.gap);
                Duration::ZERO
            }
        }
    }

    /// The round of first starts. In a new one, everybody's next start is a first one.
    pub(crate) fn round(&self) -> u64 {
        lock(&self.now).number
    }

    /// Begins a new round, with its first start after this share of `gap`.
    pub(crate) fn begin_anew(&self, share: f64) {
        let mut round = lock(&self.now);
        round.number += 1;
        round.next = Some(clock::instant() + self.gap.mul_f64(share));
    }
}
