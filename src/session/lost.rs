//! The end of an attempt whose host is gone. What it had committed and not published lies on that host's
//! disk, or in a worktree in which its agent may still be at work: nothing is collected.

use super::conclude::{place, record_end};
use super::end::set_decision;
use super::file::FileState;
use super::{Attempt, WorkerContext, target_of};
use crate::clock;
use crate::error::Result;
use crate::layout::Name;
use crate::outcome::{Decision, Next, Word};
use crate::record::{self, AttemptEnd};

/// Puts on record that its host was lost, for this reason, and moves its item to where its next attempt
/// begins.
pub(crate) fn lose(ctx: &WorkerContext, mut attempt: Attempt, why: &str) -> Result<()> {
    let history = attempt.record.history();
    let decision = Decision::lost(why, history.lost);
    // What was announced may be published in part. Where a person has taken the item away, it is withdrawn
    // at once; else by whoever publishes next.
    let hub = match history.publishing.is_empty() || attempt.claim.is_ours() {
        true => None,
        false => attempt.hub(ctx)?,
    };
    let file = &mut attempt.file;
    file.state = FileState::Ended.into();
    file.ended_at = Some(clock::now_iso());
    file.lost = true;
    set_decision(file, &decision);
    let decision = record_end(ctx, hub.as_deref(), &mut attempt, decision, None)?;
    let end = ended_meanwhile(ctx, &attempt.claim.name, &attempt.file.session);
    match end {
        // It was alive, and has just recorded its own end. That holds.
        Some(end) if decision.next != Next::Left => {
            let next = end.next.as_ref().and_then(Word::known);
            let target = target_of(next.unwrap_or(Next::Parked), end.not_before_ns);
            super::end_claim(ctx, attempt.claim, target, &mut |_| Ok(())).map(drop)
        }
        _ => place(ctx, hub.as_deref(), attempt, &decision, None),
    }
}

/// The end of this attempt, if it is another one than that its host was lost.
fn ended_meanwhile(ctx: &WorkerContext, name: &Name, session: &str) -> Option<AttemptEnd> {
    let last = record::history(&ctx.rt.root, name).last?;
    let is_its = last.session == session;
    last.end.filter(|end| is_its && !end.lost)
}
