//! What hooks and `notify` are told of an attempt: when its item was claimed, when it is over, and what
//! became of its item.
//!
//! Decides nothing. Promise: what is told of an end is told before the item's claim is given up, and told
//! again by whoever recovers a claim that was not, unless the session's folder says that the hook was run.

use std::sync::Arc;

use crate::atomic;
use crate::hooks::{self, Event, Facts};
use crate::layout::{Name, Place};
use crate::mutant::planted;
use crate::outcome::{Next, Outcome};
use crate::quote;
use crate::record::{Landing, LastAttempt};
use crate::runtime::{ItemResult, Runtime};
use crate::session::file::{self, SessionFile};
use crate::session::{Attempt, WorkerContext};
use crate::spool::Ended;

/// What is known of an attempt.
pub(super) fn facts(file: &SessionFile, name: &Name) -> Facts {
    let known = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let ended = file.has_ended();
    Facts {
        name: Some(name.clone()),
        slot: known(&file.slot),
        agent: known(&file.agent),
        session: known(&file.session),
        attempt: Some(file.attempt),
        outcome: file.outcome().map(str::to_owned),
        reason: file.reason.clone(),
        repo: file.repo.clone(),
        base: file.base.clone(),
        base_oid: file.base_oid.clone(),
        branch: file.published.clone().or_else(|| file.branch.clone()),
        commit: file.head.clone(),
        worktree: file.worktree.clone(),
        commits: file.commits,
        files_changed: file.files_changed,
        exit_status: file.exit_status,
        signal: file.signal,
        claimed_at: known(&file.claimed_at),
        started_at: known(&file.started_at),
        ended_at: file.ended_at.clone(),
        seconds: ended.then_some(file.seconds),
        input_tokens: ended.then_some(file.input_tokens),
        output_tokens: ended.then_some(file.output_tokens),
        cost_usd: ended.then_some(file.cost_usd),
        ..Facts::default()
    }
}

/// The same of one that ended before, as far as its folder says.
pub(crate) fn facts_of(rt: &Runtime, session: &str, name: &Name) -> Facts {
    let file = file::read(&rt.root.session(session), session);
    let file = file.unwrap_or_else(|| SessionFile {
        session: session.to_owned(),
        ..SessionFile::default()
    });
    facts(&file, name)
}

/// A slot has the item.
pub(in crate::session) fn claimed(ctx: &WorkerContext, attempt: &Attempt) {
    // Nothing is asked of the host for an event without a hook.
    if hooks::is_there(&ctx.rt.root, Event::ItemClaimed) {
        let facts = Facts {
            state: Some("claimed".to_owned()),
            ..facts(&attempt.file, &attempt.claim.name)
        };
        hooks::tell(&ctx.rt, Event::ItemClaimed, &facts, None);
    }
}

/// The attempt is over, and its item's file in its place.
pub(in crate::session) fn ended(rt: &Arc<Runtime>, file: &SessionFile, name: &Name, ended: Ended) {
    tell_end(rt, file, name, ended, &|_| true);
}

/// `wanted`: of which events to tell.
fn tell_end(
    rt: &Arc<Runtime>,
    file: &SessionFile,
    name: &Name,
    ended: Ended,
    wanted: &dyn Fn(Event) -> bool,
) {
    let mut facts = facts(file, name);
    facts.state = match ended {
        Ended::Placed(place) => Some(place.dir().to_owned()),
        // A person has it.
        Ended::TakenAway => None,
    };
    if wanted(Event::AfterEnd) {
        hooks::tell(rt, Event::AfterEnd, &facts, None);
    }
    let event = match ended {
        Ended::Placed(Place::Parked) => Event::Parked,
        Ended::Placed(Place::Review) => Event::Review,
        Ended::Placed(Place::Done) => Event::Done,
        // What is to be merged ends with that.
        Ended::Placed(Place::Pending | Place::Merge) | Ended::TakenAway => return,
    };
    facts.what_to_do = Some(look_at(rt, name));
    let summary = rt.root.session(&file.session).join("summary.md");
    if wanted(event) {
        hooks::tell(rt, event, &facts, Some(&summary));
    }
}

/// The command that tells more of an item.
pub(crate) fn look_at(rt: &Runtime, name: &Name) -> String {
    let harness = quote::harness_at(&rt.root);
    format!("`{harness} show {}`", quote::item(name))
}

/// An item is parked that was never attempted, or whose attempt never started.
pub(crate) fn refused(rt: &Arc<Runtime>, result: &ItemResult, by: Option<(String, String)>) {
    let (slot, agent) = by.unzip();
    let facts = Facts {
        name: Some(result.name.clone()),
        slot,
        agent: agent.filter(|agent| !agent.is_empty()),
        attempt: Some(result.attempt).filter(|n| *n > 0),
        state: Some(Place::Parked.dir().to_owned()),
        outcome: result.outcome.map(|outcome| outcome.as_str().to_owned()),
        reason: Some(result.reason.clone()),
        what_to_do: Some(look_at(rt, &result.name)),
        ..Facts::default()
    };
    hooks::tell(rt, Event::Parked, &facts, None);
}

/// An item's branch is in its base.
pub(crate) fn landed(ctx: &WorkerContext, name: &Name, landing: &Landing) {
    let rt = &ctx.rt;
    let facts = Facts {
        slot: Some(ctx.slot().to_string()),
        state: Some(Place::Done.dir().to_owned()),
        outcome: Some(Outcome::Succeeded.as_str().to_owned()),
        reason: Some(landing.reason()),
        branch: Some(landing.branch.clone()),
        commit: Some(landing.commit.clone()),
        into: Some(landing.into.clone()),
        onto: Some(landing.onto.clone()),
        batch: Some(landing.batch.clone()),
        what_to_do: Some(look_at(rt, name)),
        ..facts_of(rt, &landing.session, name)
    };
    hooks::tell(rt, Event::Landed, &facts, None);
}

/// The end of its last attempt, or of its merge, is on record, and a dead harness may not have told
/// anybody.
pub(crate) fn told_again(ctx: &WorkerContext, name: &Name, last: &LastAttempt, now: Ended) {
    if planted("hook-untold-stays") {
        return;
    }
    let rt = &ctx.rt;
    let dir = rt.root.session(&last.session);
    let was_run = |event: Event| {
        let log = dir.join("hooks").join(format!("{}.log", event.as_str()));
        atomic::exists(&log)
    };
    if let Some(landing) = &last.merged {
        if !was_run(Event::Landed) {
            landed(ctx, name, landing);
        }
        return;
    }
    let next = last.end.as_ref().and_then(|end| end.next.as_ref());
    let Some(next) = next.and_then(|next| next.known()) else {
        return;
    };
    // Its file may have been moved before that harness died: then it is where this says.
    let place = match (now, next) {
        (Ended::Placed(place), _) => Ended::Placed(place),
        (Ended::TakenAway, Next::Done) => Ended::Placed(Place::Done),
        (Ended::TakenAway, Next::Parked) => Ended::Placed(Place::Parked),
        (Ended::TakenAway, Next::Review) => Ended::Placed(Place::Review),
        (Ended::TakenAway, Next::Merge) => Ended::Placed(Place::Merge),
        (Ended::TakenAway, Next::Retry | Next::Pending) => Ended::Placed(Place::Pending),
        (Ended::TakenAway, Next::Left) => Ended::TakenAway,
    };
    // What came back from `merge/` has told of its attempt's end before.
    let is_back = last.returned.is_some();
    if let Some(file) = file::read(&dir, &last.session) {
        let wanted = |event| !(was_run(event) || is_back && event == Event::AfterEnd);
        tell_end(rt, &file, name, place, &wanted);
    }
}
