//! An attempt that tries first after a hold of its agent: the others follow when it has been answered, or
//! has ended otherwise than by what held the agent. Whatever else becomes of it, another one tries.

use super::{Attempt, WorkerContext, breaker};
use crate::hold;
use crate::outcome::{Decision, Ending, Evidence, Outcome};

/// A dead harness's attempt goes on: perhaps it is the one.
pub(super) fn adopt(ctx: &mut WorkerContext, attempt: &Attempt) {
    let agent = &attempt.file.agent;
    if hold::is_canary(&ctx.rt.root, agent, ctx.slot()) {
        ctx.canary = Some(agent.clone());
    }
}

/// Looks whether its agent has been answered. Where its output is not read, nobody will know.
pub(super) fn look(ctx: &mut WorkerContext, attempt: &Attempt) {
    let is_answered = |attempt: &Attempt| match &attempt.stream {
        Some(stream) => stream.figures().turns > 0,
        None => true,
    };
    if ctx.canary.is_some() && is_answered(attempt) {
        lift(ctx);
    }
}

/// What its end says of what held its agent.
pub(super) fn judge(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    evidence: &Evidence,
    decision: &Decision,
) {
    if attempt.recovered {
        adopt(ctx, attempt);
    }
    look(ctx, attempt);
    let untried = matches!(evidence.ending, Ending::NeverStarted { .. })
        || matches!(decision.outcome, Outcome::Interrupted | Outcome::Canceled);
    let Some(agent) = &ctx.canary else {
        return;
    };
    // Met again: a new hold stands.
    let again = decision.hold.is_some()
        || decision.is_failure() && breaker::goes_on(ctx, agent, &attempt.file.session);
    if !untried && !again {
        lift(ctx);
    }
}

fn lift(ctx: &mut WorkerContext) {
    let slot = ctx.slot();
    if let Some(agent) = ctx.canary.take()
        && hold::answered(&ctx.rt.root, &agent, slot)
    {
        let text = format!("{agent} is held no more: the others follow");
        ctx.rt.console.note(slot, "answered", &text);
    }
}

/// The slot tries nothing: another one may.
pub(crate) fn give_back(ctx: &mut WorkerContext) {
    if let Some(agent) = ctx.canary.take() {
        hold::give_back(&ctx.rt.root, &agent, ctx.slot());
    }
}
