//! Continuing where an earlier attempt of the same item stopped (`resume = true`, or a person has
//! answered its question): from its commits, and in its CLI's own conversation where possible.
//!
//! Only reads the earlier attempt's session. Invariants: an attempt that succeeded, was canceled or
//! was refused is not continued, nor one with another prompt; only the same agent resumes a
//! conversation.

use crate::adapters;
use crate::agents::Agent;
use crate::atomic;
use crate::config::AgentTable;
use crate::event::Class;
use crate::item::{self, Item};
use crate::layout::{Name, SlotId};
use crate::limits::ITEM_BYTES_MAX;
use crate::outcome::Outcome;
use crate::record::{self, LastAttempt};
use crate::runtime::Runtime;
use crate::session::file::{self, SessionFile};

/// The session of the attempt that a new one of this item continues.
pub(super) fn before(
    rt: &Runtime,
    name: &Name,
    item: &Item,
    agent: &Agent<'_>,
    previous: Option<&LastAttempt>,
) -> Option<SessionFile> {
    let Agent::Command(configured, table) = agent else {
        return None;
    };
    let file = session_of(rt, previous?)?;
    // An answered question is continued even without `resume`, by the agent that asked.
    let goes_on = table.resume || previous?.answered.is_some();
    if !goes_on || file.agent != *configured {
        return None;
    }
    // The same name with another prompt is another item.
    let copy = rt.root.session(&file.session).join("item");
    let bytes = atomic::read_small(&copy, ITEM_BYTES_MAX).ok()?;
    let earlier = item::parse(name, &bytes, false).ok()?;
    (earlier.prompt == item.prompt).then_some(file)
}

fn session_of(rt: &Runtime, previous: &LastAttempt) -> Option<SessionFile> {
    let outcome = previous.end.as_ref()?.outcome.as_ref()?.known();
    match outcome {
        Some(Outcome::Succeeded | Outcome::NoChange | Outcome::Canceled | Outcome::Refused) => {
            return None;
        }
        Some(
            Outcome::Failed
            | Outcome::TimedOut
            | Outcome::Stalled
            | Outcome::Crashed
            | Outcome::OverBudget
            | Outcome::Limited
            | Outcome::GateFailed
            | Outcome::Conflict
            | Outcome::Interrupted,
        )
        | None => {}
    }
    file::read(&rt.root.session(&previous.session), &previous.session)
}

/// The conversation to resume, if the CLI can and if it helps.
pub(super) fn conversation<'f>(
    before: &'f SessionFile,
    table: &AgentTable,
    worktree: Option<&str>,
) -> Option<&'f str> {
    if table.cli.is_none() || before.events != table.cli {
        return None;
    }
    let spoiled = [Class::Context, Class::SessionLost, Class::Refusal];
    let fault = before.fault.as_deref();
    if spoiled.iter().any(|class| Some(class.as_str()) == fault) {
        return None;
    }
    if is_bound(table) && before.worktree.as_deref() != worktree {
        return None;
    }
    // If it ended before it said anything, the conversation that it resumed is still good.
    let id = before.cli_session.as_ref().or(before.resumed.as_ref());
    id.map(String::as_str)
}

fn is_bound(table: &AgentTable) -> bool {
    let adapter = table.cli.as_deref().and_then(adapters::by_name);
    adapter.is_some_and(|a| a.about().bound_to_directory)
}

/// The only slot in whose worktree a pending item's conversation can be resumed.
pub(crate) fn preferred_slot(rt: &Runtime, name: &Name) -> Option<SlotId> {
    let resumes = |table: &AgentTable| table.resume && is_bound(table);
    if !rt.config.agents.values().any(resumes) {
        return None;
    }
    let last = record::history(&rt.root, name).last?;
    let file = session_of(rt, &last)?;
    let (_, table) = rt.config.agent(&file.agent)?;
    let there = conversation(&file, table, file.worktree.as_deref());
    there.filter(|_| resumes(table))?;
    SlotId::parse(file.slot.as_ref())
}
