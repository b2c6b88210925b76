//! Publishing an attempt's branch, so that at most one attempt of an item does, whatever happens.
//!
//! What will appear is said first, in the item's record; whoever finds it said and no end recorded
//! makes it appear (`recovery`), or takes it back where the attempt's item was taken from it.
//! Decides what can only be mended by a person: nothing here waits for ever on the user's repository.

use serde_json::json;

use super::{Attempt, WorkerContext};
use crate::error::{Kind, Result};
use crate::git::Hub;
use crate::layout::Name;
use crate::mutant::planted;
use crate::outcome::{Next, Outcome};
use crate::record::Record;

/// Publishes what the attempt's file speaks of. What will appear is recorded before it does, with
/// the attempt's whole end: if everything dies in between, the next harness makes this branch
/// appear, and no other. `again`: another harness may have done so. What follows from it.
pub(super) fn publish(
    ctx: &WorkerContext,
    hub: &Hub,
    attempt: &mut Attempt,
    again: bool,
) -> Result<(Outcome, Next)> {
    let branch = attempt.file.branch.clone().unwrap_or_default();
    let head = attempt.file.head.clone().unwrap_or_default();
    let short = short_id(&attempt.file.session).to_owned();
    let users = hub.users(Some(ctx.lease.lock()));
    let done = (|| {
        if again
            && let Some(name) = ctx.retry_temporary(|| users.published(&branch, &head, &short))?
        {
            return Ok(name);
        }
        if !again || !ctx.retry_temporary(|| users.was_brought(&head))? {
            ctx.retry_temporary(|| users.bring(&head))?;
        }
        if !again {
            take_back(ctx, hub, attempt)?;
            announce(ctx, attempt)?;
        }
        ctx.retry_temporary(|| users.publish(&branch, &head, &short))
    })();
    match done {
        Ok(name) => {
            attempt.file.published = Some(name);
            Ok((Outcome::Succeeded, Next::Done))
        }
        // It is told to stop: the next harness goes on here.
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => Ok(unpublished(attempt, &e.to_string())),
    }
}

/// Its work is safe in the hub; a person must make room for its branch.
pub(super) fn unpublished(attempt: &mut Attempt, why: &str) -> (Outcome, Next) {
    attempt.file.outcome = Some(Outcome::Failed.as_str().into());
    attempt.file.reason = Some(format!("its branch could not be published: {why}"));
    (Outcome::Failed, Next::Park)
}

/// Records what is about to be published, so that it is known after a power cut.
fn announce(ctx: &WorkerContext, attempt: &mut Attempt) -> Result<()> {
    if planted("publish-unsaid") {
        return Ok(());
    }
    let (file, record) = (&attempt.file, &mut attempt.record);
    let line = json!({
        "session": file.session, "attempt": file.attempt, "slot": file.slot,
        "branch": file.branch, "head": file.head, "end": file.end(),
    });
    ctx.retry_temporary(|| record.append("publishing", &line))?;
    if ctx.rt.durable() {
        ctx.retry_temporary(|| record.sync())?;
    }
    Ok(())
}

/// Takes away what attempts had said that they publish and whose end is not recorded: this one,
/// canceled since, or one whose claim a power cut or a person took from it.
pub(super) fn take_back(ctx: &WorkerContext, hub: &Hub, attempt: &mut Attempt) -> Result<()> {
    let users = hub.users(Some(ctx.lease.lock()));
    let (file, record) = (&mut attempt.file, &mut attempt.record);
    for said in &record.history().publishing {
        let text = |key: &str| said[key].as_str().unwrap_or_default();
        let (branch, head, short) = (text("branch"), text("head"), short_id(text("session")));
        match ctx.retry_temporary(|| users.unpublish_any(branch, head, short)) {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::Temporary => return Err(e),
            Err(e) => {
                ctx.rt.warn(&format!("{}: {e}", ctx.slot()));
                file.notes.push(e.to_string());
            }
        }
    }
    Ok(())
}

/// The end of a session's id, which is its random part.
fn short_id(session: &str) -> &str {
    let cut = session.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    session.get(cut..).unwrap_or(session)
}

/// Its file was taken away at the last moment: what is canceled publishes nothing.
pub fn withdraw(
    ctx: &WorkerContext,
    hub: &Hub,
    record: &mut Record,
    name: &Name,
    (branch, head): (&str, &str),
) -> Result<()> {
    if planted("publish-unfenced") {
        return Ok(());
    }
    let users = hub.users(Some(ctx.lease.lock()));
    let mut reason = "its file was taken away".to_owned();
    match ctx.retry_temporary(|| users.unpublish(branch, head)) {
        Ok(_) => {}
        Err(e) if e.kind() == Kind::Temporary => return Err(e),
        Err(e) => {
            ctx.rt.warn(&format!("{}: {e}", ctx.slot()));
            reason = format!("{reason}, but its branch could not be: {e}");
        }
    }
    record.append("canceled", json!({"reason": reason}))?;
    ctx.rt
        .say(&format!("{}  canceled   {name}: {reason}", ctx.slot()));
    Ok(())
}
