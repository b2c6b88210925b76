//! Whether an agent is alive, seen from outside; it need not report. Signs of life are bytes of
//! output, processor time of its tree and changes in its worktree.
//!
//! Pure: signs and instants in, the agent's health out; `watch` observes and acts. Instants are
//! monotonic and stop while the machine sleeps. Frozen time is left out by moving `last` forward.

use std::time::{Duration, Instant};

use crate::status::Health;

/// While one of its tools runs, an agent may be silent for this many times longer: a test suite or
/// a remote build says nothing for minutes.
const TOOL_PATIENCE: u32 = 4;
/// One part in so many of a core counts as work. An idle runtime's timers use less.
const CPU_SHARE: u32 = 20;

/// What was seen at one look. Only changes count, not the values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Signs {
    /// Bytes of standard output and standard error.
    pub(crate) bytes: u64,
    /// Processor time of the whole tree, if the keeper has reported it.
    pub(crate) cpu: Option<Duration>,
    /// A value that changes with the worktree. `None`: not looked at.
    pub(crate) tree: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Liveness {
    limit: Duration,
    seen: Signs,
    /// When `seen.cpu` was taken, for its share of a core.
    cpu_at: Instant,
    /// The last sign of life.
    last: Instant,
}

impl Liveness {
    /// `limit`: quiet for this long is worth a warning.
    pub(crate) fn new(limit: Duration, now: Instant) -> Liveness {
        Liveness {
            limit,
            seen: Signs::default(),
            cpu_at: now,
            last: now,
        }
    }

    /// Whether the worktree is worth a look: nothing else has been seen for half the limit.
    pub(crate) fn wants_tree(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= self.limit / 2
    }

    /// How often to look: often enough that a limit is noticed in time, rarely enough to cost nothing.
    pub(crate) fn interval(&self) -> Duration {
        (self.limit / 20).clamp(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// The agent was frozen for this long, which does not count as silence.
    pub(crate) fn skip(&mut self, frozen: Duration) {
        self.last += frozen;
        self.cpu_at += frozen;
    }

    /// `Quiet` (a warning) after the limit, `Stalled` (to be stopped) after 1.5 times the limit.
    pub(crate) fn look(&mut self, signs: Signs, tool_runs: bool, now: Instant) -> Health {
        let mut alive = signs.bytes != self.seen.bytes;
        self.seen.bytes = signs.bytes;
        if let Some(cpu) = signs.cpu {
            let used = cpu.saturating_sub(self.seen.cpu.unwrap_or(cpu));
            let over = now.saturating_duration_since(self.cpu_at);
            alive |= !used.is_zero() && used * CPU_SHARE >= over;
            (self.seen.cpu, self.cpu_at) = (Some(cpu), now);
        }
        if let Some(tree) = signs.tree {
            // The first look has nothing to compare with, so it is no sign of life.
            alive |= self.seen.tree.is_some_and(|seen| seen != tree);
            self.seen.tree = Some(tree);
        }
        if alive {
            self.last = now;
        }
        let limit = if tool_runs {
            self.limit * TOOL_PATIENCE
        } else {
            self.limit
        };
        let quiet = now.saturating_duration_since(self.last);
        if quiet >= limit + limit / 2 {
            Health::Stalled
        } else if quiet >= limit {
            Health::Quiet
        } else {
            Health::Healthy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn silent() -> Signs {
        Signs::default()
    }

    #[test]
    fn silence_is_a_warning_and_then_the_end() {
        let start = crate::clock::instant();
        let mut life = Liveness::new(s(300), start);
        assert_eq!(life.look(silent(), false, start + s(299)), Health::Healthy);
        assert_eq!(life.look(silent(), false, start + s(300)), Health::Quiet);
        assert_eq!(life.look(silent(), false, start + s(449)), Health::Quiet);
        assert_eq!(life.look(silent(), false, start + s(450)), Health::Stalled);
        // A tool that runs is given more time.
        assert_eq!(life.look(silent(), true, start + s(450)), Health::Healthy);
        assert_eq!(life.look(silent(), true, start + s(1_800)), Health::Stalled);
    }

    #[test]
    fn each_sign_is_life() {
        let start = crate::clock::instant();
        let at = start + s(400);
        let cpu = |ms| Signs {
            cpu: Some(Duration::from_millis(ms)),
            ..silent()
        };
        let tree = |n| Signs {
            tree: Some(n),
            ..silent()
        };
        let bytes = |bytes| Signs { bytes, ..silent() };
        for (before, after, alive) in [
            (bytes(1), bytes(2), true),
            (bytes(1), bytes(1), false),
            // Twenty seconds of work in 400; then one of an idle runtime.
            (cpu(1_000), cpu(21_000), true),
            (cpu(1_000), cpu(2_000), false),
            (cpu(1_000), cpu(1_000), false),
            (tree(1), tree(2), true),
            (tree(1), tree(1), false),
        ] {
            let mut life = Liveness::new(s(300), start);
            let _first = life.look(before, false, start);
            let pulse = life.look(after, false, at);
            assert_eq!(pulse == Health::Healthy, alive, "{before:?} {after:?}");
        }
    }

    #[test]
    fn time_in_which_it_was_frozen_is_not_its_silence() {
        let start = crate::clock::instant();
        let mut life = Liveness::new(s(300), start);
        life.skip(s(1_000));
        assert_eq!(
            life.look(silent(), false, start + s(1_299)),
            Health::Healthy
        );
        assert_eq!(life.look(silent(), false, start + s(1_300)), Health::Quiet);
    }
}
