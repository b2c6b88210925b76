//! How an attempt ended and what follows from it: `decide` takes all evidence and returns the whole
//! decision. Pure: no clock, no file, no randomness; times and the spread of a backoff are given.
//! The agent's own claim of success is no evidence.
//!
//! `outcome/table.txt` shows the decision for every kind of evidence. A test compares it; after a
//! change on purpose: `HARNESS_WRITE_TABLE=1 cargo test --lib outcome`.

use std::time::Duration;

use crate::clock;
use crate::event::{Class, Limit, Mend};
use crate::text;

mod fault;
mod gate;
#[cfg(test)]
mod tests;
mod words;

pub use fault::{FoundFault, LimitLeft};
pub use gate::{GateEvidence, Means, Verdict, gated};
pub use words::{Exit, Next, Outcome, Spelled, Stop, Word};

/// Everything that is known of an attempt when it is over.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub ending: Ending,
    /// Set only where the agent was still running when it was told to stop. Its exit status says
    /// nothing then: some end with 0 at SIGTERM.
    pub stop: Option<Stop>,
    /// The item's file is not in `claimed/` any more.
    pub taken_away: bool,
    /// What its keeper did to hold it to `[limits]`; the last is why it was stopped, where it was.
    pub limits: Vec<String>,
    pub work: WorkLeft,
    /// The end of its standard error, as one line; empty where it says nothing.
    pub last_words: String,
    /// What its CLI reported to be wrong, where harness reads its output.
    pub fault: Option<FoundFault>,
    /// The question that it left for a person when it ended.
    pub asked: Option<String>,
    /// A person answered its question, and it had ended before it heard the answer.
    pub unheard: bool,
    /// It was to go on with an earlier attempt's conversation.
    pub resumed: bool,
    /// Its CLI's output is read as events.
    pub has_events: bool,
    /// The key of the budget that made its limit, where it has used that up.
    pub budget: Option<String>,
    /// Counted failures before this attempt, since a person last put the item into `pending/`.
    pub failures: u32,
}

#[derive(Debug, Clone)]
pub enum Ending {
    Exited(Exit),
    /// It could not be started, and only a person can mend that.
    NeverStarted {
        why: String,
        /// Its session's folder was removed by somebody meanwhile: not the item's fault.
        folder_gone: bool,
    },
}

/// What it left in its repository.
#[derive(Debug, Clone)]
pub enum WorkLeft {
    /// It had none: a plain directory.
    NoRepository,
    /// Commits beyond the base.
    Commits(u64),
    /// A merge that it has not ended, as this says. What there is, is kept.
    Unfinished(String),
    /// Its worktree is gone, and with it whatever was not committed.
    WorktreeGone,
    /// It could not be looked at or committed, and why.
    Uncollected(String),
}

/// What the configuration allows.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    pub retries: u32,
    /// How long a retry of this attempt waits.
    pub backoff: Duration,
    /// How long an agent is held for a rate limit.
    pub rate_limit_hold: Duration,
    /// How long an agent is held for a usage limit whose end is not known.
    pub usage_limit_hold: Duration,
    /// How long for one that should have ended by now.
    pub over_hold: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub outcome: Outcome,
    pub reason: String,
    pub next: Next,
    /// The item must not start again for this long.
    pub wait: Option<Duration>,
    /// It waits in `parked/` for an answer: no failure.
    pub asks: bool,
    /// For the session's file.
    pub fault: Option<Class>,
    /// Nothing is started for its agent for this long.
    pub hold: Option<HoldEnd>,
    /// The slot is paused until a person has looked.
    pub interrupt: Option<Cause>,
    /// Its branch is to appear in the user's repository.
    pub publishes: bool,
    /// What it had announced to publish is to be taken back.
    pub takes_back: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldEnd {
    After(Duration),
    /// When a person has mended it.
    Mended,
}

/// Attempts in a row whose host was lost, after which a person is to look.
const LOSSES_MAX: u32 = 3;
const CANCELED: &str = "canceled by you";

/// Why the end of an attempt pauses its slot (`interrupt_on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Permission,
    Timeout,
    /// A gate whose `on_failure` says so.
    Gate,
}

impl Cause {
    /// Its word in `interrupt_on`.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Permission => "permission",
            Cause::Timeout => "timeout",
            Cause::Gate => "gate",
        }
    }

    pub fn reason(self) -> &'static str {
        match self {
            Cause::Permission => "its agent was not permitted what it needed",
            Cause::Timeout => "its agent ran out of time, and no retry is left",
            Cause::Gate => "a gate is red that pauses the slot",
        }
    }
}

impl Decision {
    fn new(outcome: Outcome, reason: impl Into<String>, next: Next) -> Decision {
        Decision {
            outcome,
            reason: text::one_line(&reason.into()),
            next,
            wait: None,
            asks: false,
            fault: None,
            hold: None,
            interrupt: None,
            publishes: false,
            takes_back: false,
        }
    }

    /// It had announced what it publishes: everything else was decided then.
    pub fn announced(reason: Option<String>, next: Next) -> Decision {
        let reason = reason.unwrap_or_default();
        Decision {
            publishes: true,
            ..Decision::new(Outcome::Succeeded, reason, next)
        }
    }

    /// Its agent had succeeded, and nothing else was wrong.
    pub fn succeeded(outcome: Outcome, reason: Option<String>, has_commits: bool) -> Decision {
        Decision {
            publishes: has_commits,
            ..Decision::new(outcome, reason.unwrap_or_default(), Next::Done)
        }
    }

    /// Its branch could not be published: a person must make room for it.
    pub fn unpublished(&self, why: &str) -> Decision {
        // What else was found (what lies elsewhere) stays true.
        let before = &self.reason;
        let reason = format!("its branch could not be published: {why}; before that: {before}");
        Decision {
            fault: self.fault,
            ..Decision::new(Outcome::Failed, reason, Next::Parked)
        }
    }

    /// One that went over its budget, where this budget made that so small.
    fn bounded(self, key: Option<&str>) -> Decision {
        let Some(key) = key.filter(|_| self.outcome == Outcome::OverBudget) else {
            return self;
        };
        // `[budget]` has these two for others, too: nothing is wrong with the item.
        let (reason, next) = match key {
            "day_usd" | "total_usd" | "day_tokens" | "total_tokens" | "window_tokens" => (
                format!(
                    "`{key}` had no more left for it, so it was stopped: it goes on when that has room"
                ),
                Next::Pending,
            ),
            "item_usd" | "item_tokens" => (
                format!(
                    "it used up its item's budget and was stopped: raise `{key}` in [budget], or give the item its \
                     budget again with `harness retry`"
                ),
                Next::Parked,
            ),
            _ => return self,
        };
        Decision {
            reason,
            next,
            ..self
        }
    }

    /// Its host is gone, for this reason. It is no failure of the item, unless it is met again and again:
    /// perhaps it is what brings hosts down. `before`: how often in a row that was so already.
    pub fn lost(why: &str, before: u32) -> Decision {
        let next = match before + 1 < LOSSES_MAX {
            true => Next::Pending,
            false => Next::Parked,
        };
        Decision::new(Outcome::Crashed, format!("its host was lost: {why}"), next)
    }

    /// A person took its file away in the instant in which it ended.
    pub fn canceled(&self) -> Decision {
        Decision {
            fault: self.fault,
            takes_back: true,
            ..Decision::new(Outcome::Canceled, CANCELED, Next::Left)
        }
    }

    /// Whether the item ended with this attempt.
    pub fn is_last(&self) -> bool {
        let over = [Next::Done, Next::Review, Next::Merge, Next::Parked];
        over.contains(&self.next) && !self.asks
    }

    /// Whether it counts among the failures in a row that raise an interrupt.
    pub fn is_failure(&self) -> bool {
        matches!(self.next, Next::Retry | Next::Parked) && !self.asks
    }
}

/// What follows from an attempt.
pub fn decide(evidence: &Evidence, terms: &Terms) -> Decision {
    match &evidence.ending {
        Ending::NeverStarted { why, folder_gone } => {
            let next = match folder_gone {
                true => Next::Pending,
                false => Next::Parked,
            };
            Decision::new(Outcome::Failed, why, next)
        }
        Ending::Exited(exit) => match (evidence.stop, evidence.taken_away) {
            (_, true) => stopped(Stop::Canceled, evidence, terms),
            // It was done: how it was ended says nothing about its work.
            (Some(Stop::Lingered), _) => ended_by_itself(Exit::Code(0), evidence, terms),
            (Some(stop), _) => stopped(stop, evidence, terms).bounded(evidence.budget.as_deref()),
            (None, _) => {
                let decision = ended_by_itself(*exit, evidence, terms);
                decision.bounded(evidence.budget.as_deref())
            }
        },
    }
}

/// The harness stopped it.
fn stopped(stop: Stop, evidence: &Evidence, terms: &Terms) -> Decision {
    let again = |outcome, reason: &str| again(outcome, reason, evidence.failures, terms);
    let said = || match evidence.limits.last() {
        Some(why) => why.clone(),
        None => "it was over one of [limits] and was stopped".to_owned(),
    };
    let mut decision = match stop {
        Stop::TimedOut => again(
            Outcome::TimedOut,
            "it ran longer than its timeout and was stopped",
        ),
        Stop::Stalled => again(
            Outcome::Stalled,
            "no sign of life (output, CPU time, changes in its worktree), so it was stopped",
        ),
        // What is used up would be used up again.
        Stop::OverTurns => Decision::new(
            Outcome::Failed,
            "it used up its turns and was stopped: raise `max_turns`, or split the item",
            Next::Parked,
        ),
        Stop::OverBudget => Decision::new(
            Outcome::OverBudget,
            "it used up its budget and was stopped: raise `budget_usd`, or split the item",
            Next::Parked,
        ),
        // Its keeper has said what it was.
        Stop::OverOutput | Stop::OverWorktree => {
            Decision::new(Outcome::Failed, said(), Next::Parked)
        }
        // Others had their part in it, and may have less next time.
        Stop::OverDisk | Stop::OverMemory | Stop::OverProcesses => again(Outcome::Failed, &said()),
        Stop::Canceled => Decision::new(Outcome::Canceled, CANCELED, Next::Left),
        Stop::Shutdown | Stop::Lingered => Decision::new(
            Outcome::Interrupted,
            "harness was told to stop while it ran",
            Next::Pending,
        ),
    };
    let out_of_time = stop == Stop::TimedOut && decision.next == Next::Parked;
    decision.interrupt = (out_of_time && evidence.has_events).then_some(Cause::Timeout);
    decision.takes_back = stop == Stop::Canceled;
    decision.fault = stop.class();
    decision
}

fn ended_by_itself(exit: Exit, evidence: &Evidence, terms: &Terms) -> Decision {
    let mut decision = match &evidence.fault {
        Some(fault) => faulty(fault, evidence, terms),
        None => judge(exit, evidence, terms),
    };
    if let Some(question) = &evidence.asked {
        decision.outcome = Outcome::Interrupted;
        decision.reason = text::one_line(&format!("it waits for a person: {question}"));
        decision.next = Next::Parked;
        decision.wait = None;
        decision.asks = true;
        decision.publishes = false;
    } else if evidence.unheard {
        decision.outcome = Outcome::Interrupted;
        decision.reason = "its question was answered when it had ended".into();
        decision.next = Next::Pending;
        decision.wait = None;
        decision.publishes = false;
    }
    decision
}

/// Its CLI reported what was wrong.
fn faulty(fault: &FoundFault, evidence: &Evidence, terms: &Terms) -> Decision {
    let (class, reason) = (fault.class, fault.message.as_str());
    let outcome = outcome_of(class);
    let usage_limit = match fault.limit {
        LimitLeft::Ends(left) => left,
        LimitLeft::Over => terms.over_hold,
        LimitLeft::Unsaid | LimitLeft::Unclear => terms.usage_limit_hold,
    };
    let rate_limit = match fault.limit {
        LimitLeft::Ends(left) => left.max(terms.rate_limit_hold),
        LimitLeft::Over | LimitLeft::Unsaid | LimitLeft::Unclear => terms.rate_limit_hold,
    };
    let mut decision = match class.mend() {
        Mend::Person => Decision::new(outcome, reason, Next::Parked),
        Mend::Wait(_) if matches!(class, Class::UsageLimit { .. }) => Decision {
            wait: Some(usage_limit),
            ..Decision::new(outcome, reason, Next::Pending)
        },
        // Nothing was tried yet: the failure that it was to go on from has been counted.
        Mend::Fresh if class == Class::SessionLost && evidence.resumed => {
            Decision::new(outcome, reason, Next::Pending)
        }
        Mend::Wait(_) | Mend::Again | Mend::Fresh => {
            again(outcome, reason, evidence.failures, terms)
        }
    };
    decision.reason = text::one_line(&fault.reason(decision.next));
    decision.fault = Some(class);
    // What every item of this agent would meet is met once.
    decision.hold = class.is_of_the_account().then_some(match class {
        Class::UsageLimit { .. } => HoldEnd::After(usage_limit),
        Class::RateLimit => HoldEnd::After(rate_limit),
        _ => HoldEnd::Mended,
    });
    decision.interrupt = (class == Class::Permission).then_some(Cause::Permission);
    decision
}

/// Nobody reported anything: how it ended and what it left decide.
fn judge(exit: Exit, evidence: &Evidence, terms: &Terms) -> Decision {
    let again = |outcome, reason: &str| again(outcome, reason, evidence.failures, terms);
    let commits = match &evidence.work {
        WorkLeft::Uncollected(why) => return again(Outcome::Failed, why),
        // How it ended says more where it failed.
        WorkLeft::Unfinished(why) if exit == Exit::Code(0) => return again(Outcome::Failed, why),
        WorkLeft::Unfinished(_) => None,
        WorkLeft::WorktreeGone => {
            // Nobody knows what else there was: its commits are kept and not published.
            let why = "it removed its own worktree: only what it had committed is kept";
            return again(Outcome::Failed, why);
        }
        WorkLeft::Commits(n) => Some(*n),
        WorkLeft::NoRepository => None,
    };
    match (exit, commits) {
        (Exit::Code(0), Some(0)) => {
            Decision::new(Outcome::NoChange, "finished, no changes", Next::Done)
        }
        (Exit::Code(0), Some(n)) => Decision {
            publishes: true,
            ..Decision::new(
                Outcome::Succeeded,
                format!("finished with {}", text::count_of(n, "commit")),
                Next::Done,
            )
        },
        (Exit::Code(0), None) => Decision::new(Outcome::Succeeded, "finished", Next::Done),
        (Exit::Code(code), _) if evidence.last_words.is_empty() => {
            again(Outcome::Failed, &format!("exit status {code}"))
        }
        (Exit::Code(code), _) => again(
            Outcome::Failed,
            &format!("exit status {code}: {}", evidence.last_words),
        ),
        (Exit::Signal(signal), _) => again(
            Outcome::Crashed,
            &format!("killed by signal {signal}{}", signal_name(signal)),
        ),
        (Exit::Unknown, _) => again(
            Outcome::Crashed,
            "its keeper died, so its exit status is not known",
        ),
    }
}

/// After a failure that another try may mend: again, as long as retries are left.
fn again(outcome: Outcome, reason: impl Into<String>, failures: u32, terms: &Terms) -> Decision {
    if failures < terms.retries {
        Decision {
            wait: Some(terms.backoff),
            ..Decision::new(outcome, reason, Next::Retry)
        }
    } else {
        Decision::new(outcome, reason, Next::Parked)
    }
}

/// The outcome of an attempt that ended with a fault.
fn outcome_of(class: Class) -> Outcome {
    match class {
        Class::Billing | Class::UsageLimit { .. } | Class::RateLimit => Outcome::Limited,
        Class::LimitsReached {
            limit: Limit::Budget,
        } => Outcome::OverBudget,
        Class::Refusal => Outcome::Refused,
        Class::Stalled => Outcome::Stalled,
        Class::Interrupted => Outcome::Crashed,
        Class::Auth
        | Class::Overloaded
        | Class::Network
        | Class::Context
        | Class::LimitsReached { .. }
        | Class::Permission
        | Class::Spawn
        | Class::SessionLost
        | Class::Malformed
        | Class::Unknown => Outcome::Failed,
    }
}

fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal).map_or(String::new(), |s| format!(" ({s})"))
}

/// Exponential backoff: `first`, doubled for each failure before, at most `cap`, spread by
/// `jitter` (0.2: ±20 %) with `random_fraction` in 0..1, so that many failures do not come back at
/// once.
pub fn backoff(
    failures: u32,
    first: Duration,
    cap: Duration,
    jitter: f64,
    random_fraction: f64,
) -> Duration {
    let spread = 1.0 + jitter * (2.0 * random_fraction - 1.0);
    clock::doubled(first, failures, cap).mul_f64(spread.max(0.0))
}
