//! How an attempt ended and what follows from it. Pure: evidence in, decision out, no clock, no
//! file. The agent's own claim of success is no evidence.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded,
    NoChange,
    Failed,
    TimedOut,
    Stalled,
    Crashed,
    Refused,
    Canceled,
    OverBudget,
    Limited,
    GateFailed,
    Conflict,
    Interrupted,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::NoChange => "no_change",
            Outcome::Failed => "failed",
            Outcome::TimedOut => "timed_out",
            Outcome::Stalled => "stalled",
            Outcome::Crashed => "crashed",
            Outcome::Refused => "refused",
            Outcome::Canceled => "canceled",
            Outcome::OverBudget => "over_budget",
            Outcome::Limited => "limited",
            Outcome::GateFailed => "gate_failed",
            Outcome::Conflict => "conflict",
            Outcome::Interrupted => "interrupted",
        }
    }

    /// Only these two are ever in `done/`.
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Succeeded | Outcome::NoChange)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Its keeper died before it could record it.
    Unknown,
}

/// Why the harness stopped an agent, where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    TimedOut,
    /// It gave no sign of life for too long.
    Stalled,
    /// It had said its last word and did not end.
    Lingered,
    /// It used up its turns or its money, and its CLI did not see to that.
    OverTurns,
    OverBudget,
    /// The item's file was taken away from `claimed/`.
    Canceled,
    /// The harness itself was told to stop (SIGTERM, second Ctrl-C).
    Shutdown,
}

impl Stop {
    const ALL: [Stop; 7] = [
        Stop::TimedOut,
        Stop::Stalled,
        Stop::Lingered,
        Stop::OverTurns,
        Stop::OverBudget,
        Stop::Canceled,
        Stop::Shutdown,
    ];

    /// Its word in `exit.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stop::TimedOut => "timed_out",
            Stop::Stalled => "stalled",
            Stop::Lingered => "lingered",
            Stop::OverTurns => "over_turns",
            Stop::OverBudget => "over_budget",
            Stop::Canceled => "canceled",
            Stop::Shutdown => "shutdown",
        }
    }

    pub fn parse(word: &str) -> Option<Stop> {
        Stop::ALL.into_iter().find(|s| s.as_str() == word)
    }
}

/// All that is known of an attempt when it is over.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub exit: Exit,
    /// Set only where the agent was still running when it was told to stop. Its exit status says
    /// nothing then: some end with 0 at SIGTERM.
    pub stop: Option<Stop>,
    /// Commits beyond the base; `None` where there is no repository.
    pub commits: Option<u64>,
}

/// The outcome, and in words why.
pub fn judge(e: &Evidence) -> (Outcome, String) {
    match (e.stop, e.exit) {
        (Some(Stop::TimedOut), _) => (
            Outcome::TimedOut,
            "it ran longer than its timeout and was stopped".into(),
        ),
        (Some(Stop::Canceled), _) => (
            Outcome::Canceled,
            "its file was taken away while it ran".into(),
        ),
        (Some(Stop::Stalled), _) => (
            Outcome::Stalled,
            "it gave no sign of life (output, processor time, changes in its worktree) and was stopped".into(),
        ),
        (Some(Stop::OverTurns), _) => (
            Outcome::Failed,
            "it used up its turns and was stopped: raise `max_turns`, or split the item".into(),
        ),
        (Some(Stop::OverBudget), _) => (
            Outcome::OverBudget,
            "it used up its budget and was stopped: raise `budget_usd`, or split the item".into(),
        ),
        // It was done: how it was ended says nothing about its work.
        (Some(Stop::Lingered), _) | (None, Exit::Code(0)) => match e.commits {
            Some(0) => (
                Outcome::NoChange,
                "it ended well and changed no tracked file".into(),
            ),
            Some(n) => (
                Outcome::Succeeded,
                format!("it ended well with {}", plural(n, "commit")),
            ),
            None => (Outcome::Succeeded, "it ended well".into()),
        },
        (Some(Stop::Shutdown), _) => (
            Outcome::Interrupted,
            "the harness was told to stop while it ran".into(),
        ),
        (None, Exit::Code(code)) => (Outcome::Failed, format!("it ended with exit status {code}")),
        (None, Exit::Signal(signal)) => (
            Outcome::Crashed,
            format!("it was killed by signal {signal}{}", signal_name(signal)),
        ),
        (None, Exit::Unknown) => (
            Outcome::Crashed,
            "its keeper died, so its exit status is not known".into(),
        ),
    }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or(String::new(), |s| format!(" ({s})"))
}

pub fn plural(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What happens to the item after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Done,
    Park,
    /// Back to `pending/`, not before this long from now; counts as an attempt.
    Retry(Duration),
    /// Back to `pending/`, not before this long from now: it waits for a limit to end, which is no
    /// attempt.
    Wait(Duration),
    /// Back to `pending/` as if it had not been tried.
    PutBack,
    /// Into `parked/` until a person has answered; no failure.
    Ask,
    /// A person has the file: leave it where it is.
    Leave,
}

impl Next {
    /// Whether it tells of a failed attempt: one more of those that raise an interrupt in a row.
    pub fn is_failure(self) -> bool {
        matches!(self, Next::Retry(_) | Next::Park)
    }

    /// Its word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Next::Done => "done",
            Next::Park | Next::Ask => "parked",
            Next::Retry(_) => "retry",
            Next::Wait(_) | Next::PutBack => "pending",
            Next::Leave => "left",
        }
    }
}

/// After a failure that another try may mend: again, as long as retries are left.
pub fn again(failures: u32, max: u32, delay: Duration) -> Next {
    if failures < max {
        Next::Retry(delay)
    } else {
        Next::Park
    }
}

/// The table of consequences. `failures`: counted failures before this one since a person last
/// put the item into `pending/`; `max`: retries allowed; `delay`: the backoff if it is retried.
pub fn next(outcome: Outcome, failures: u32, max: u32, delay: Duration) -> Next {
    match outcome {
        Outcome::Succeeded | Outcome::NoChange => Next::Done,
        Outcome::Failed | Outcome::TimedOut | Outcome::Stalled | Outcome::Crashed => {
            again(failures, max, delay)
        }
        Outcome::Interrupted => Next::PutBack,
        Outcome::Canceled => Next::Leave,
        // The same would happen again until a person changes something.
        Outcome::Refused
        | Outcome::OverBudget
        | Outcome::Limited
        | Outcome::GateFailed
        | Outcome::Conflict => Next::Park,
    }
}

/// Exponential backoff: `first`, doubled for each failure before, at most `cap`, spread by
/// `jitter` (0.2: ±20 %) with `random_fraction` in 0..1, so that many failures do not come back at once.
pub fn backoff(
    failures: u32,
    first: Duration,
    cap: Duration,
    jitter: f64,
    random_fraction: f64,
) -> Duration {
    let doubled = first.saturating_mul(2u32.saturating_pow(failures.min(20)));
    let spread = 1.0 + jitter * (2.0 * random_fraction - 1.0);
    doubled.min(cap).mul_f64(spread.max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(exit: Exit, stop: Option<Stop>, commits: Option<u64>) -> Outcome {
        judge(&Evidence {
            exit,
            stop,
            commits,
        })
        .0
    }

    #[test]
    fn evidence_decides() {
        use Exit::*;
        assert_eq!(outcome(Code(0), None, None), Outcome::Succeeded);
        assert_eq!(outcome(Code(0), None, Some(0)), Outcome::NoChange);
        assert_eq!(outcome(Code(0), None, Some(2)), Outcome::Succeeded);
        assert_eq!(outcome(Code(3), None, Some(2)), Outcome::Failed);
        assert_eq!(outcome(Signal(9), None, None), Outcome::Crashed);
        assert_eq!(outcome(Unknown, None, Some(1)), Outcome::Crashed);
        // Exit 0 after SIGTERM is what some CLIs do: the timeout still counts.
        assert_eq!(
            outcome(Code(0), Some(Stop::TimedOut), Some(1)),
            Outcome::TimedOut
        );
        for exit in [Code(0), Signal(15)] {
            assert_eq!(
                outcome(exit, Some(Stop::Shutdown), Some(1)),
                Outcome::Interrupted
            );
        }
    }

    #[test]
    fn failures_are_retried_then_parked() {
        let d = Duration::from_secs(2);
        assert_eq!(next(Outcome::Failed, 0, 2, d), Next::Retry(d));
        assert_eq!(next(Outcome::Crashed, 1, 2, d), Next::Retry(d));
        assert_eq!(next(Outcome::TimedOut, 2, 2, d), Next::Park);
        assert_eq!(next(Outcome::Interrupted, 9, 2, d), Next::PutBack);
    }

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        let s = Duration::from_secs;
        assert_eq!(backoff(0, s(2), s(300), 0.0, 0.5), s(2));
        assert_eq!(backoff(3, s(2), s(300), 0.2, 0.5), s(16));
        assert_eq!(backoff(60, s(2), s(300), 0.2, 1.0), s(360));
    }
}
