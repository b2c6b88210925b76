//! `resume`: ends pauses, drains, holds without an end and interrupts; answers an agent's question.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::Args;

use super::interrupt::target;
use crate::atomic;
use crate::clock;
use crate::control::{self, Order};
use crate::error::{Error, Result, tell};
use crate::hold;
use crate::interrupt::{self, ALL};
use crate::layout::{Root, SlotId};
use crate::quote;

#[derive(Args)]
pub(super) struct ResumeArgs {
    /// Only the interrupt of this slot (agent-N), the one that holds for all, the hold of this agent, or
    /// this order (pause, drain, stop)
    slot: Option<OsString>,
    /// The answer to what its agent asked: it gets it in answer.md of its session, or in its next
    /// prompt
    #[arg(long, short, value_name = "TEXT", requires = "slot")]
    answer: Option<String>,
}

pub(super) fn resume(root: &Root, args: &ResumeArgs) -> Result<u8> {
    if let Some(order) = args.slot.as_deref().and_then(Order::of) {
        return order_alone(root, order, args.answer.is_some());
    }
    let mut resumed = Vec::new();
    let held = args.slot.as_ref().filter(|_| args.answer.is_none());
    let held = held.and_then(|name| held_agent(root, name));
    let targets = match (&args.slot, held) {
        // It may have an end.
        (Some(_), Some(agent)) => {
            hold::end(root, &agent)?;
            resumed.push(format!("the hold of {agent} ended"));
            Vec::new()
        }
        (Some(slot), None) => {
            let command = |slot: &str| format!("{} resume {slot}", quote::harness());
            vec![target(root, "cannot resume", slot, command, &others(root))?]
        }
        (None, _) => {
            let orders = control::resume(root)?;
            resumed.extend(orders.iter().map(|o| format!("{} ended", o.file())));
            let agents = hold::end_without_end(root)?;
            resumed.extend(
                agents
                    .iter()
                    .map(|agent| format!("the hold of {agent} ended")),
            );
            interrupt::all(root)
        }
    };
    if let (Some(answer), [slot]) = (&args.answer, targets.as_slice()) {
        let path = keep_answer(root, slot, answer)?;
        tell(&format!("harness: the answer is in {}", path.display()));
    }
    for slot in targets {
        if interrupt::end(root, &slot)? {
            resumed.push(match slot == ALL {
                true => "all slots resumed".to_owned(),
                false => format!("{slot} resumed"),
            });
        }
    }
    if resumed.is_empty() {
        resumed.push("nothing was paused or interrupted".to_owned());
    }
    tell(&format!("harness: {}", resumed.join(", ")));
    if args.slot.is_none() {
        tell_what_stays(root);
    }
    Ok(0)
}

/// Says which holds stand: they end by themselves, or by the name of their agent.
fn tell_what_stays(root: &Root) {
    for hold in hold::all(root) {
        let Some(until) = hold.until.as_deref() else {
            continue;
        };
        let (agent, until) = (&hold.agent, clock::local(until));
        let (harness, word) = (quote::harness(), quote::shell_quoted(agent.as_ref()));
        let way = match hold.class.as_str() {
            // It would be raised again at once.
            hold::BUDGET => format!("`{harness} budget` shows what is left"),
            _ => format!("`{harness} resume {word}` ends that now"),
        };
        let why = &hold.reason;
        tell(&format!(
            "harness: {agent} is held until {until}: {why}; {way}"
        ));
    }
}

/// What can be resumed besides slots.
fn others(root: &Root) -> Vec<String> {
    let orders = Order::ALL.map(|order| order.file().to_owned());
    let held = hold::all(root).into_iter().map(|hold| hold.agent);
    orders.into_iter().chain(held).collect()
}

/// The agent of this name, if it is held. A slot's name is the slot's.
fn held_agent(root: &Root, name: &OsStr) -> Option<String> {
    if SlotId::parse(name).is_some() || name == ALL {
        return None;
    }
    let mut agents = hold::all(root).into_iter().map(|hold| hold.agent);
    agents.find(|agent| name == agent.as_str())
}

/// Ends one order; interrupts and the others stand.
fn order_alone(root: &Root, order: Order, is_answer: bool) -> Result<u8> {
    let file = order.file();
    if is_answer {
        return Err(
            Error::usage("cannot answer", format!("`{file}` asked nothing"))
                .hint("name the slot that asked: agent-N"),
        );
    }
    match control::end(root, order)? {
        true => tell(&format!("harness: {file} ended")),
        false => tell(&format!("harness: {file} was not set")),
    }
    Ok(0)
}

/// Keeps the answer to this slot's agent; where it is.
fn keep_answer(root: &Root, slot: &str, answer: &str) -> Result<PathBuf> {
    let why = match interrupt::asker(root, slot) {
        Some(session) if !atomic::is_gone(&root.session(&session)) => {
            return interrupt::answer(root, slot, &session, answer);
        }
        Some(_) => "its session is gone",
        None => "none of its items waits for an answer",
    };
    let why = format!("{slot} asked nothing: {why}");
    Err(Error::permanent("cannot answer", why).hint(format!(
        "`{} status` shows who waits for what",
        quote::harness()
    )))
}
