//! Publishes an attempt's branch. At most one attempt of an item is published, whatever happens.
//!
//! The branch is first announced in the item's record. An announcement without a recorded end is
//! completed by `recovery`, or taken back if the item was taken from that attempt. Nothing here
//! waits forever for the user's repository: what only a person can fix is returned as a value.

use super::file::SessionFile;
use super::{Attempt, WorkerContext};
use crate::error::{Kind, Result};
use crate::git::Hub;
use crate::layout::Name;
use crate::mutant::planted;
use crate::outcome::Next;
use crate::record::{Canceled, Event, Publishing, Record};

/// Publishes the attempt's branch. The record first gets the branch and the attempt's whole end:
/// after a crash in between, the next harness publishes this branch and no other. `again`: another
/// harness may have published it. Returns why a person must make room for the branch, if so; its
/// commits are safe in harness's own repository.
pub(super) fn publish(
    ctx: &WorkerContext,
    hub: &Hub,
    attempt: &mut Attempt,
    next: Next,
    again: bool,
) -> Result<Option<String>> {
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
        ctx.retry_temporary(|| users.bring(&head, &short))?;
        if !again {
            take_back(ctx, hub, attempt)?;
            announce(ctx, attempt, next)?;
        }
        // First: the branch names their commits.
        publish_modules(ctx, hub, &branch, &short)?;
        ctx.retry_temporary(|| users.publish(&branch, &head, &short))
    })();
    if !matches!(&done, Err(e) if e.kind() == Kind::Temporary) {
        release(ctx, hub, attempt);
    }
    match done {
        Ok(name) => {
            attempt.file.published = Some(name);
            Ok(None)
        }
        // This process is stopping: the next harness goes on here.
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => Ok(Some(e.to_string())),
    }
}

/// Publishes a branch of the same name in each submodule that the user has checked out and that the
/// attempt has worked in.
fn publish_modules(ctx: &WorkerContext, hub: &Hub, branch: &str, short: &str) -> Result<()> {
    for (module, head) in hub.modules_with(branch)? {
        if !module.is_of_user() {
            continue;
        }
        let users = module.users(Some(ctx.lease.lock()));
        if ctx
            .retry_temporary(|| users.published(branch, &head, short))?
            .is_none()
        {
            ctx.retry_temporary(|| users.bring(&head, short))?;
            ctx.retry_temporary(|| users.publish(branch, &head, short))?;
        }
        ctx.retry_temporary(|| users.release(short))?;
    }
    Ok(())
}

/// Takes away what `publish_modules` made.
fn withdraw_modules(ctx: &WorkerContext, hub: &Hub, branch: &str, short: &str) -> Result<()> {
    for (module, head) in hub.modules_with(branch)? {
        if module.is_of_user() {
            let users = module.users(Some(ctx.lease.lock()));
            ctx.retry_temporary(|| users.unpublish_any(branch, &head, short))?;
            ctx.retry_temporary(|| users.release(short))?;
        }
    }
    Ok(())
}

/// Removes the ref that held the branch's commits. One that stays does no harm.
pub(super) fn release(ctx: &WorkerContext, hub: &Hub, attempt: &mut Attempt) {
    let users = hub.users(Some(ctx.lease.lock()));
    if planted("held-for-ever") {
        return;
    }
    let short = short_id(&attempt.file.session);
    if let Err(e) = ctx.retry_temporary(|| users.release(short)) {
        ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
        attempt
            .file
            .notes
            .push(crate::text::one_line(&e.to_string()));
    }
}

/// Records what is about to be published, so that it is known after a power cut.
fn announce(ctx: &WorkerContext, attempt: &mut Attempt, next: Next) -> Result<()> {
    if planted("publish-unsaid") {
        return Ok(());
    }
    let (file, record) = (&attempt.file, &mut attempt.record);
    let event = Event::Publishing(Publishing {
        session: file.session.clone(),
        slot: file.slot.clone(),
        attempt: Some(file.attempt),
        branch: file.branch.clone().unwrap_or_default(),
        head: file.head.clone().unwrap_or_default(),
        end: file.end(),
        next: Some(next.into()),
    });
    ctx.retry_temporary(|| record.append(&event))?;
    if ctx.rt.durable {
        ctx.retry_temporary(|| record.sync())?;
    }
    Ok(())
}

/// Removes the branches of announcements without a recorded end: this attempt's, canceled since, or
/// that of an attempt which lost its claim to a power cut or a person.
pub(super) fn take_back(ctx: &WorkerContext, hub: &Hub, attempt: &mut Attempt) -> Result<()> {
    for announced in &attempt.record.history().publishing {
        let (branch, head) = (&announced.branch, &announced.head);
        match unpublish(ctx, hub, branch, head, &announced.session) {
            Ok(()) => {}
            Err(e) if e.kind() == Kind::Temporary => return Err(e),
            Err(e) => {
                ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
                attempt.file.notes.push(e.to_string());
            }
        }
    }
    Ok(())
}

/// Removes what an attempt published, or was about to: its branch under either name, what held its
/// commits, and the same in its submodules.
fn unpublish(
    ctx: &WorkerContext,
    hub: &Hub,
    branch: &str,
    head: &str,
    session: &str,
) -> Result<()> {
    let (users, short) = (hub.users(Some(ctx.lease.lock())), short_id(session));
    ctx.retry_temporary(|| users.unpublish_any(branch, head, short))?;
    ctx.retry_temporary(|| users.release(short))?;
    withdraw_modules(ctx, hub, branch, short)
}

/// The end of a session's id, which is its random part: under it the user's repository holds what the
/// attempt publishes.
pub(crate) fn short_id(session: &str) -> &str {
    let cut = session.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    session.get(cut..).unwrap_or(session)
}

/// Removes a branch whose item's file was taken away at the last moment: a canceled attempt
/// publishes nothing.
pub(super) fn withdraw(
    ctx: &WorkerContext,
    hub: &Hub,
    record: &mut Record,
    name: &Name,
    file: &SessionFile,
) -> Result<()> {
    let (Some(branch), Some(head)) = (&file.branch, &file.head) else {
        return Ok(());
    };
    if planted("publish-unfenced") {
        return Ok(());
    }
    let mut reason = "its file was taken away".to_owned();
    match unpublish(ctx, hub, branch, head, &file.session) {
        Ok(()) => {}
        Err(e) if e.kind() == Kind::Temporary => return Err(e),
        Err(e) => {
            ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
            reason = format!("{reason}, but its branch could not be: {e}");
        }
    }
    record.append(&Event::Canceled(Canceled {
        session: file.session.clone(),
        reason: reason.clone(),
        ..Canceled::default()
    }))?;
    let text = format!("{name}: {reason}");
    ctx.rt.console.note(ctx.slot(), "canceled", &text);
    Ok(())
}
