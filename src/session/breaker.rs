//! Pauses an agent that fails again and again in the same way, in whichever slot and process: going on
//! would use up the retries of every item. The ledger says how attempts ended, and which one broke the row.
//!
//! Invariants: what says something of an item alone counts for nothing; what had begun before an agent was
//! paused counts for nothing once it goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use super::WorkerContext;
use crate::aggregator;
use crate::clock::{self, Timestamp};
use crate::config::SCRIPT;
use crate::event::Class;
use crate::hold::{self, Hold};
use crate::hooks::{self, Event, Facts};
use crate::layout::{Name, Root};
use crate::outcome::Outcome;
use crate::quote;
use crate::status::LedgerLine;
use crate::text::{class_of, one_line};

/// So many failures alike, with no success between, pause their agent.
const ALIKE: usize = 5;
/// They are of so many items at least: one that can never succeed is no reason to hold up the others.
const ITEMS: usize = 2;
/// The class of such a hold.
const CLASS: &str = "failures";
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
    let mut others = OF_ITEM.iter().chain(&HELD).chain(Some(&LIMITS));
    if any(&[
        Outcome::Succeeded,
        Outcome::NoChange,
        Outcome::GateFailed,
        Outcome::Conflict,
    ]) {
        Says::Well
    } else if others.any(|class| fault == Some(class.as_str())) {
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
    let same_line = !one.reason.is_empty() && class_of(&one.reason) == class_of(&other.reason);
    one.fault.is_some() && one.fault == other.fault || same_line
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
    let sessions: Vec<&str> = row.iter().map(|line| line.session.as_str()).collect();
    let reason = format!(
        "{ALIKE} attempts in a row failed alike: {} (sessions {})",
        line.reason,
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
        class: CLASS.to_owned(),
        reason,
        session: line.session.clone(),
        since: clock::now_iso(),
    };
    match hold::raise(&ctx.rt.root, &hold) {
        Ok(true) => {
            tell(ctx, name, &hold, line);
            true
        }
        Ok(false) => false,
        Err(e) => {
            ctx.rt.console.warn(&e.to_string());
            false
        }
    }
}

fn tell(ctx: &WorkerContext, name: &Name, hold: &Hold, line: &LedgerLine) {
    let ways = |harness: &str| {
        let look = format!("`{harness} session errors {}`", line.session);
        match &hold.until {
            None => format!("{look}; when that is mended: `{harness} resume`"),
            Some(until) => format!("{look}; one slot tries again after {until}"),
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
    hold::of(root, agent).is_some_and(|hold| hold.class == CLASS)
}

/// The slot that tried first after such a hold failed unanswered: the hold goes on.
pub(super) fn goes_on(ctx: &WorkerContext, agent: &str, session: &str) -> bool {
    let Some(over) = hold::over(&ctx.rt.root, agent).filter(|hold| hold.class == CLASS) else {
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
