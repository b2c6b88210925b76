//! Continuing where an earlier attempt of the same item stopped (`resume = true`, or a person has
//! answered its question, or a gate, a merge or a person sent its branch back): from its commits, and in its CLI's own conversation where possible.
//!
//! Only reads the earlier attempt's session. Invariants: an attempt that succeeded, was canceled or
//! was refused is not continued, nor one with another prompt; only the same agent resumes a
//! conversation.

use crate::adapters;
use crate::agents::Agent;
use crate::atomic;
use crate::config::AgentTable;
use crate::error::Result;
use crate::event::Class;
use crate::git::Hub;
use crate::item::{self, Item};
use crate::layout::{Name, SlotId};
use crate::limits::ITEM_BYTES_MAX;
use crate::outcome::{Next, Outcome};
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
    // What a gate, a merge or a person sent back is to be mended, not made anew.
    let goes_on = table.resume || previous?.answered.is_some() || is_sent_back(previous?);
    if !goes_on || file.agent != *configured {
        return None;
    }
    // The same name with another prompt is another item.
    let copy = rt.root.session(&file.session).join("item");
    let bytes = atomic::read_small(&copy, ITEM_BYTES_MAX).ok()?;
    let earlier = item::parse(name, &bytes, false).ok()?;
    (earlier.prompt == item.prompt).then_some(file)
}

/// Its branch as it is now, where it had been published and was sent back: a person may have added commits
/// to it.
pub(super) fn follow(
    hub: &Hub,
    file: &mut SessionFile,
    previous: Option<&LastAttempt>,
) -> Result<()> {
    let sent_back = previous.filter(|previous| is_sent_back(previous));
    let Some(published) = sent_back.and_then(|previous| previous.published.as_ref()) else {
        return Ok(());
    };
    let now = hub.published_at(&[&published.name])?.pop().flatten();
    file.head = Some(now.unwrap_or_else(|| published.head.clone()));
    Ok(())
}

/// A gate, a merge or a person wants what it made to be mended. A person may have moved the file alone.
fn is_sent_back(previous: &LastAttempt) -> bool {
    let end = previous.end.as_ref();
    let outcome = end.and_then(|end| end.outcome.as_ref());
    let red = outcome.and_then(|word| word.known()) == Some(Outcome::GateFailed);
    let next = end.and_then(|end| end.next.as_ref()?.known());
    let waited = matches!(next, Some(Next::Review | Next::Merge));
    red || waited || previous.rejected.is_some() || previous.returned.is_some()
}

fn session_of(rt: &Runtime, previous: &LastAttempt) -> Option<SessionFile> {
    let outcome = previous.end.as_ref()?.outcome.as_ref()?.known();
    match outcome {
        Some(Outcome::Succeeded) if is_sent_back(previous) => {}
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
    let mut file = file::read(&rt.root.session(&previous.session), &previous.session)?;
    file.begin_as(previous.started.as_ref());
    Some(file)
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
    // The agent may have written it: for its CLI it is neither an option nor a path.
    let is_id = |id: &&str| !id.is_empty() && !id.starts_with('-') && !id.contains('/');
    id.map(String::as_str).filter(is_id)
}

fn is_bound(table: &AgentTable) -> bool {
    let adapter = table.cli.as_deref().and_then(adapters::by_name);
    adapter.is_some_and(|a| a.about().bound_to_directory)
}

/// The only slot in whose worktree a pending item's conversation can be resumed.
pub(crate) fn preferred_slot(rt: &Runtime, name: &Name) -> Option<SlotId> {
    if !rt.config.agents.values().any(is_bound) {
        return None;
    }
    let last = record::history(&rt.root, name).last?;
    let file = session_of(rt, &last)?;
    let (_, table) = rt.config.agent(&file.agent)?;
    let resumes = is_bound(table) && (table.resume || is_sent_back(&last));
    let there = conversation(&file, table, file.worktree.as_deref());
    there.filter(|_| resumes)?;
    SlotId::parse(file.slot.as_ref())
}
