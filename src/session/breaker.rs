//! Pauses an agent that fails again and again in the same way, in whichever slot and process: going on
//! would use up the retries of every item. The ledger says how attempts ended, and which one broke the row.
//!
//! Invariants: what says something of an item alone, or of the machine, counts for nothing; what had begun
//! before an agent was paused counts for nothing once it goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::WorkerContext;
use crate::aggregator;
use crate::clock::{self, Timestamp};
use crate::config::SCRIPT;
use crate::event::{Class, clip};
use crate::hold::{self, FAILURES, Hold};
use crate::hooks::{self, Event, Facts};
use crate::host::Host;
use crate::layout::{Name, Root};
use crate::outcome::Outcome;
use crate::quote;
use crate::status::LedgerLine;
use crate::text::one_line;

/// So many failures alike, with no success between, pause their agent.
const ALIKE: usize = 5;
/// They are of so many items at least: one that can never succeed is no reason to hold up the others.
const ITEMS: usize = 2;
/// Of its last line: the sessions come after it.
const EVIDENCE_BYTES_MAX: usize = 300;
/// How long it lasts where the cause ends by itself; then one slot tries first.
const REST: Duration = Duration::from_secs(900);

/// What an attempt's end says of its agent.
#[derive(Debug, PartialEq, Eq)]
enum Says {
    /// It works.
    Well,
    Failed,
    /// Nothing: it is the item's matter, a person's, or that of a hold of its own.
    Nothing,
}

fn says(line: &LedgerLine) -> Says {
    let is = |outcome: Outcome| line.outcome == outcome.as_str();
    let any = |all: &[Outcome]| all.iter().any(|outcome| is(*outcome));
    const OF_ITEM: [Class; 3] = [Class::Context, Class::Refusal, Class::SessionLost];
    const HELD: [Class; 4] = [
        Class::Auth,
        Class::Billing,
        Class::UsageLimit { resets_at: None },
        Class::RateLimit,
    ];
    // Limits reached have a limit each, and one word.
    const LIMITS: Class = Class::LimitsReached {
        limit: crate::event::Limit::Turns,
    };
    let fault = line.fault.as_deref();
    // Its memory or output is over one of [limits]: all its items may be.
    let is_over = fault == Some(LIMITS.as_str()) && line.reason.contains("in [limits])");
    let limits = Some(&LIMITS).filter(|_| !is_over);
    let mut others = OF_ITEM.iter().chain(&HELD).chain(limits);
    if any(&[
        Outcome::Succeeded,
        Outcome::NoChange,
        Outcome::GateFailed,
        Outcome::Conflict,
    ]) {
        Says::Well
    } else if line.unseen || others.any(|class| fault == Some(class.as_str())) {
        Says::Nothing
    } else if any(&[
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Stalled,
        Outcome::Crashed,
    ]) {
        Says::Failed
    } else {
        Says::Nothing
    }
}

fn are_alike(one: &LedgerLine, other: &LedgerLine) -> bool {
    let same_fault = one.fault.is_some() && one.fault == other.fault;
    same_fault || !one.reason.is_empty() && sense(one) == sense(other)
}

/// Its last line without what differs from one item, slot and time to the next: paths, numbers, ids, the
/// item's own name.
fn sense(line: &LedgerLine) -> String {
    let ends = |c: char| "'\"`()[]{}<>,;:=".contains(c);
    let own = [&line.item, &line.slot];
    let word = |word: &str| {
        let bare = word.trim_end_matches(['.', '!', '?']);
        let differs = bare.starts_with("tmp") || bare.contains(|c: char| c.is_ascii_digit());
        match differs || own.iter().any(|name| *name == bare) {
            true => "#".to_owned(),
            false => bare.to_owned(),
        }
    };
    let part = |part: &str| match part.contains('/') {
        true => "#".to_owned(),
        false => part.split(ends).map(word).collect::<Vec<_>>().join(" "),
    };
    let parts = line.reason.split_whitespace().map(part);
    parts.collect::<Vec<_>>().join(" ")
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// The failures that this one makes a row with, itself included. `before`: all other lines, the newest
/// first.
fn row<'a>(line: &'a LedgerLine, before: &'a [LedgerLine]) -> Vec<&'a LedgerLine> {
    let own = || before.iter().filter(|other| other.agent == line.agent);
    let broken = own()
        .find(|other| other.held)
        .and_then(|other| time(&other.at));
    let is_later = |line: &LedgerLine| match (broken, time(&line.started_at)) {
        (None, _) => true,
        (Some(broken), Some(began)) => began > broken,
        (Some(_), None) => false,
    };
    if says(line) != Says::Failed || !is_later(line) {
        return Vec::new();
    }
    let since = own().take_while(|other| !other.held && says(other) != Says::Well);
    let alike = since.filter(|other| {
        says(other) == Says::Failed
            && is_later(other)
            && are_alike(line, other)
            && other.session != line.session
    });
    std::iter::once(line).chain(alike).take(ALIKE).collect()
}

/// Looks whether the attempt that ended so breaks the row, and then holds its agent.
pub(super) fn look(ctx: &WorkerContext, name: &Name, line: &LedgerLine) -> bool {
    if line.agent == SCRIPT || says(line) != Says::Failed {
        return false;
    }
    let before = aggregator::newest(&ctx.rt.root);
    let row = row(line, &before);
    let items: BTreeSet<&str> = row.iter().map(|line| line.item.as_str()).collect();
    if row.len() < ALIKE || items.len() < ITEMS {
        return false;
    }
    let own = ctx.rt.slots.held();
    let is_own = |line: &&LedgerLine| own.iter().any(|slot| line.slot == slot.to_string());
    if Host::own().job.is_some() && row.iter().all(is_own) {
        // Of other hosts that says nothing.
        let why = format!(
            "{ALIKE} attempts in a row failed alike here: {}",
            line.reason
        );
        ctx.rt.leave_host(&one_line(&why));
        return false;
    }
    let sessions: Vec<&str> = row.iter().map(|line| line.session.as_str()).collect();
    let reason = format!(
        "{ALIKE} attempts in a row failed alike: {} (sessions {})",
        clip(&line.reason, EVIDENCE_BYTES_MAX).0,
        sessions.join(", ")
    );
    raise(ctx, name, line, one_line(&reason))
}

/// What is wrong with the provider or the network.
fn ends_by_itself(line: &LedgerLine) -> bool {
    let classes = [Class::Overloaded, Class::Network];
    let fault = line.fault.as_deref();
    classes.iter().any(|class| fault == Some(class.as_str()))
}

fn raise(ctx: &WorkerContext, name: &Name, line: &LedgerLine, reason: String) -> bool {
    let until = clock::now().checked_add(REST).ok().map(clock::iso);
    let hold = Hold {
        agent: line.agent.clone(),
        until: until.filter(|_| ends_by_itself(line)),
        class: FAILURES.to_owned(),
        reason,
        session: line.session.clone(),
        since: clock::now_iso(),
    };
    match hold::raise(&ctx.rt.root, &hold) {
        Ok(true) => {
            tell(ctx, name, &hold, line);
            true
        }
        // By a process that died then; or another hold stands.
        Ok(false) => has_held(&ctx.rt.root, line),
        Err(e) => {
            ctx.rt.console.warn(&e.to_string());
            false
        }
    }
}

/// Whether its agent is held because of this end.
pub(super) fn has_held(root: &Root, line: &LedgerLine) -> bool {
    let standing = hold::of(root, &line.agent);
    standing.is_some_and(|hold| hold.class == FAILURES && hold.session == line.session)
}

fn tell(ctx: &WorkerContext, name: &Name, hold: &Hold, line: &LedgerLine) {
    let ways = |harness: &str| {
        let look = format!("`{harness} session errors {}`", line.session);
        match &hold.until {
            None => format!(
                "{look}; when that is mended: `{harness} resume {}`",
                hold.agent
            ),
            Some(until) => format!(
                "{look}; one slot tries again after {until}, all do after `{harness} resume {}`",
                hold.agent
            ),
        }
    };
    ctx.rt.console.warn(&format!(
        "{} is held: {}; what to do: {}",
        hold.agent,
        hold.reason,
        ways(quote::harness())
    ));
    let facts = Facts {
        reason: Some(hold.reason.clone()),
        name: Some(name.clone()),
        agent: Some(hold.agent.clone()),
        session: Some(line.session.clone()),
        slot: Some(line.slot.clone()),
        what_to_do: Some(ways(&quote::harness_at(&ctx.rt.root))),
        ..Facts::default()
    };
    hooks::tell(&ctx.rt, Event::Interrupt, &facts, None);
}

/// Whether the agent is held for this: then its failures are no slot's.
pub(super) fn holds(root: &Root, agent: &str) -> bool {
    hold::of(root, agent).is_some_and(|hold| hold.class == FAILURES)
}

/// The slot that tried first after such a hold failed unanswered: the hold goes on.
pub(super) fn goes_on(ctx: &WorkerContext, agent: &str, session: &str) -> bool {
    let Some(over) = hold::over(&ctx.rt.root, agent).filter(|hold| hold.class == FAILURES) else {
        return false;
    };
    let until = clock::now().checked_add(REST).ok().map(clock::iso);
    let again = Hold {
        until,
        session: session.to_owned(),
        ..over
    };
    hold::raise(&ctx.rt.root, &again).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Minutes at which it began and ended.
    fn line(n: u32, began: u32, ended: u32, outcome: &str, reason: &str) -> LedgerLine {
        let at = |minute: u32| format!("2026-01-01T00:{minute:02}:00Z");
        LedgerLine {
            at: at(ended),
            started_at: at(began),
            session: format!("s{n}"),
            item: format!("i{n}"),
            agent: "a".into(),
            outcome: outcome.into(),
            reason: reason.into(),
            ..LedgerLine::default()
        }
    }

    fn count(all: &[LedgerLine]) -> usize {
        let (last, before) = all.split_last().unwrap();
        let before: Vec<_> = before.iter().rev().cloned().collect();
        row(last, &before).len()
    }

    #[test]
    fn what_differs_by_item_slot_and_time_is_alike_and_other_errors_are_not() {
        let of = |n: u32, reason: &str| LedgerLine {
            slot: format!("agent-{n}"),
            item: format!("fix-{n}.md"),
            ..line(n, n, n, "failed", reason)
        };
        let alike = |a: &str, b: &str| are_alike(&of(1, a), &of(2, b));
        for (a, b) in [
            (
                "exit status 1: cannot open '/r/worktrees/agent-1/x': No space",
                "exit status 1: cannot open '/r/worktrees/agent-2/y.md': No space",
            ),
            (
                "[2026-11-30 10:01:02] error in fix-1.md, request req_011CX: boom.",
                "[2026-11-30 11:59:59] error in fix-2.md, request req_9Zx7: boom",
            ),
            ("cannot make tmp.aBcD: full", "cannot make tmp.xYzQ: full"),
        ] {
            assert!(alike(a, b), "{a}: {}", sense(&of(1, a)));
        }
        for (a, b) in [
            ("cannot read", "cannot write"),
            ("exit status 1: no model", "exit status 1: no key"),
            ("", ""),
        ] {
            assert!(!alike(a, b), "{a}");
        }
    }

    #[test]
    fn a_machine_that_was_switched_off_says_nothing_and_a_limit_that_all_reach_does() {
        let says = |outcome: &str, fault: &str, reason: &str| {
            says(&LedgerLine {
                fault: Some(fault.to_owned()).filter(|f| !f.is_empty()),
                ..line(1, 1, 2, outcome, reason)
            })
        };
        let unseen = LedgerLine {
            unseen: true,
            ..line(1, 1, 2, "crashed", "it ended unseen")
        };
        assert_eq!(super::says(&unseen), Says::Nothing);
        assert_eq!(says("crashed", "", "killed by signal 11"), Says::Failed);
        let memory = "memory: 1 GB of 200 MB by itself, so it was ended (`memory` in [limits])";
        assert_eq!(says("failed", "limits_reached", memory), Says::Failed);
        for reason in ["it used up its turns", "only 3 MB were left on its disk"] {
            assert_eq!(says("failed", "limits_reached", reason), Says::Nothing);
        }
    }

    #[test]
    fn failures_alike_are_counted_since_the_last_success_and_the_last_row() {
        let failed = |n: u32| line(n, n, n + 1, "failed", &format!("exit status 3: line {n}"));
        let mut all: Vec<_> = (1..=4).map(failed).collect();
        assert_eq!(count(&all), 4);
        // What is another's, an item's or a person's matter does not end a row.
        all.push(line(5, 5, 6, "failed", "something else"));
        all.push(line(6, 6, 7, "canceled", "canceled by you"));
        all.push(LedgerLine {
            agent: "b".into(),
            ..line(7, 7, 8, "succeeded", "")
        });
        all.push(LedgerLine {
            fault: Some("refusal".into()),
            ..failed(8)
        });
        all.push(failed(9));
        assert_eq!(count(&all), 5);
        all.push(LedgerLine {
            held: true,
            ..failed(10)
        });
        // What ran then already.
        all.push(line(11, 9, 12, "failed", "exit status 3: line 9"));
        assert_eq!(count(&all), 0);
        all.push(failed(13));
        assert_eq!(count(&all), 1);
        all.push(line(14, 14, 15, "gate_failed", "gate test is red"));
        all.push(failed(15));
        assert_eq!(count(&all), 1);
        // The same class, in other words.
        let mut all: Vec<_> = (1..=5)
            .map(|n| LedgerLine {
                fault: Some("network".into()),
                ..line(n, n, n, "failed", &"x".repeat(n as usize))
            })
            .collect();
        assert_eq!(count(&all), 5);
        all.push(LedgerLine {
            fault: Some("context".into()),
            ..failed(6)
        });
        assert_eq!(count(&all), 0);
    }
}
