//! What needs a person, in one line each, and what ended last.

use super::ended::Ended;
use crate::status::{LedgerLine, Status};
use crate::text::one_line;
use crate::view::{Paint, local_time};

/// What a row says of an agent that is held.
pub(super) const HELD: &str = "held";

/// A row of the list.
#[derive(Debug, Clone, Default)]
pub(super) struct Need {
    pub(super) paint: Paint,
    /// RFC 3339.
    pub(super) at: String,
    pub(super) word: String,
    /// A slot, an agent, a folder, an item.
    pub(super) who: String,
    pub(super) text: String,
    /// Set where a slot waits for an answer.
    pub(super) slot: Option<String>,
    /// Set of an attempt that ended.
    pub(super) session: Option<String>,
    /// What `harness resume` ends: an agent's hold, an order.
    pub(super) resumes: Option<String>,
}

/// What stands in the way, the most urgent first.
pub(super) fn needs(status: &Status) -> Vec<Need> {
    let asks = status.interrupts.iter().map(|i| Need {
        paint: Paint::Yellow,
        at: i.since.clone(),
        word: "asks".into(),
        who: i.slot.clone(),
        text: match i.reason.trim() {
            "" => "no reason given".into(),
            reason => one_line(reason),
        },
        slot: Some(i.slot.clone()),
        ..Need::default()
    });
    let troubles = status.troubles.iter().map(|t| Need {
        paint: Paint::Red,
        at: t.since.clone(),
        word: "trouble".into(),
        who: t.place.clone(),
        text: one_line(&t.reason),
        ..Need::default()
    });
    let holds = status.holds.iter().map(|hold| Need {
        paint: Paint::Yellow,
        at: hold.since.clone(),
        word: HELD.into(),
        who: hold.agent.clone(),
        text: match &hold.until {
            Some(until) => format!("until {}: {}", clock_of(until), one_line(&hold.reason)),
            None => one_line(&hold.reason),
        },
        resumes: Some(hold.agent.clone()),
        ..Need::default()
    });
    let orders = status.control.iter().map(|order| Need {
        paint: Paint::Yellow,
        word: "order".into(),
        who: order.clone(),
        text: match order.as_str() {
            "pause" => "nothing new is started".into(),
            "drain" => "every harness ends when nothing is left to do".into(),
            _ => "nothing new is started, every harness ends when its agents have".into(),
        },
        resumes: Some(order.clone()),
        ..Need::default()
    });
    asks.chain(troubles).chain(holds).chain(orders).collect()
}

pub(super) fn ended(ended: &Ended) -> impl Iterator<Item = Need> {
    ended.lines.iter().map(of_attempt)
}

fn of_attempt(line: &LedgerLine) -> Need {
    Need {
        paint: match line.outcome.as_str() {
            "succeeded" => Paint::Green,
            "no_change" => Paint::Plain,
            _ => Paint::Red,
        },
        at: line.at.clone(),
        word: line.outcome.clone(),
        who: line.item.clone(),
        text: one_line(&line.reason),
        session: Some(line.session.clone()),
        ..Need::default()
    }
}

/// `10:45:00` of a time today, else with its day.
pub(super) fn clock_of(at: &str) -> String {
    let (local, today) = (local_time(at), crate::clock::today());
    match local.strip_prefix(&today) {
        Some(clock) => clock.trim().to_owned(),
        None => local.get(5..16).unwrap_or(&local).to_owned(),
    }
}
