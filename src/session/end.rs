//! Writes an attempt's end to its `session.json`, its item's record and the ledger.

use super::file::{self, FileState, SessionFile};
use super::{Attempt, Over, Work, WorkerContext, breaker};
use crate::aggregator;
use crate::atomic;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::git::Collected;
use crate::layout::Name;
use crate::mutant::planted;
use crate::outcome::{Decision, Next, Outcome, Word};
use crate::record::{self, Event, Finished, LastAttempt, Line};
use crate::spool::Target;
use crate::status::LedgerLine;

/// Copies what is known of the end into the session's file.
pub(super) fn fill_file(
    attempt: &mut Attempt,
    over: &Over,
    collected: Option<&Collected>,
    decision: &Decision,
) {
    let file = &mut attempt.file;
    file.state = FileState::Ended.into();
    file.ended_at = Some(clock::now_iso());
    file.fault = decision.fault.map(|class| class.as_str().to_owned());
    set_decision(file, decision);
    if let Over::Exited {
        record: Some(exit), ..
    } = over
    {
        file.pid = Some(exit.pid);
        file.exit_status = exit.exit_status;
        file.signal = exit.signal;
        file.seconds = exit.seconds;
        file.cpu_seconds = exit.cpu_seconds;
        file.ended_at = Some(exit.ended_at.clone());
        if file.started_at.is_empty() {
            file.started_at.clone_from(&exit.started_at);
        }
        file.notes.extend(exit.limits.iter().cloned());
        if exit.strays > 0 {
            file.notes.push(format!(
                "processes that it left behind and that were ended: {}",
                exit.strays
            ));
        }
        if exit.strays_left > 0 {
            file.notes.push(format!(
                "{} of them could not be ended (another user's?) and run on",
                exit.strays_left
            ));
        }
    }
    if let Some(collected) = collected {
        file.commits = Some(collected.commits);
        file.files_changed = Some(collected.files_changed);
        file.leftover = collected.leftover;
        file.head = Some(collected.head.clone());
        let notes = collected.notes.iter().chain(&collected.elsewhere);
        file.notes.extend(notes.cloned());
    }
}

/// Copies the decision into the session's file.
pub(super) fn set_decision(file: &mut SessionFile, decision: &Decision) {
    file.outcome = Some(decision.outcome.into());
    file.reason = Some(decision.reason.clone());
    file.last = decision.is_last();
}

/// Writes session, record and ledger; the first two are durable before the item is moved. `false`: a
/// person took the file away in this last instant, and the end is not on record.
pub(super) fn write_end(
    ctx: &WorkerContext,
    attempt: &mut Attempt,
    next: Next,
    not_before: Option<i64>,
) -> Result<bool> {
    let durable = ctx.rt.durable;
    let (file, dir) = (&attempt.file, &attempt.dir);
    let mut tries = 0;
    let written = ctx.retry_temporary(|| {
        tries += 1;
        file.write(dir, durable)
    });
    if let Err(e) = written {
        if e.kind() == Kind::Temporary {
            return Err(e);
        }
        // The agent removed or locked the folder: the record alone tells how it ended.
        ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
    }
    if attempt.recovered || tries > 1 || ctx.keeper.is_none() {
        // Agent and keeper are done, so nobody else writes here: temporary files are left over from
        // a dead process or a full disk.
        atomic::remove_every_temp(dir);
    }
    if let Some(work) = &attempt.work {
        forget_empty_branch(work, file);
    }
    let finished = Event::Finished(Finished {
        session: file.session.clone(),
        slot: file.slot.clone(),
        attempt: Some(file.attempt),
        end: file.end(),
        published: file.published.clone(),
        next: Some(next.into()),
        not_before_ns: not_before,
    });
    let (claim, record) = (&mut attempt.claim, &mut attempt.record);
    let there = ctx.retry_temporary(|| {
        // Of what was taken away before, there is nothing to fence.
        if next != Next::Left && !claim.fence()? {
            return Ok(false);
        }
        if ctx.is_given_up() {
            let why = "the slot was given up by another host, which records the end";
            return Err(Error::permanent("cannot end the attempt", why));
        }
        if let Err(e) = record.append(&finished) {
            // A full disk: meanwhile the file has its own name.
            claim.unfence()?;
            return Err(e);
        }
        Ok(true)
    })?;
    if !there {
        return Ok(false);
    }
    if durable && !planted("end-unsynced") {
        ctx.retry_temporary(|| record.sync())?;
    }
    if ctx.is_given_up() {
        // It has found this end, and counted it.
        return Ok(true);
    }
    let mut line = ledger_line(&attempt.file);
    line.held = breaker::look(ctx, &attempt.claim.name, &line);
    if line.held {
        attempt.file.held = true;
        // Only for a ledger that is made anew.
        let _unmarked = attempt.file.write(&attempt.dir, durable);
    }
    ctx.rt.count(&line);
    Ok(true)
}

/// Writes that it was canceled, unless another host, which took it for lost, has recorded its end.
pub(super) fn write_canceled(ctx: &WorkerContext, attempt: &mut Attempt) -> Result<()> {
    let ends = ends_on_record(ctx, &attempt.claim.name, &attempt.file.session)?;
    if !ends.is_empty() {
        return Ok(());
    }
    write_end(ctx, attempt, Next::Left, None).map(drop)
}

/// Whether another host, which took this one for lost, has moved the item as the end says that is on
/// record: it is over, and what it published stays.
pub(super) fn was_moved_for_us(ctx: &WorkerContext, name: &Name, session: &str) -> Result<bool> {
    let ends = ctx
        .is_given_up()
        .then(|| ends_on_record(ctx, name, session));
    let ends = ends.transpose()?;
    Ok(ends.is_some_and(|ends| !ends.iter().any(|end| end.end.lost)))
}

fn ends_on_record(ctx: &WorkerContext, name: &Name, session: &str) -> Result<Vec<Finished>> {
    let lines = record::lines(&ctx.rt.root, name)?.into_iter();
    let end = |line: Line| match line.event {
        Event::Finished(end) if end.session == session => Some(end),
        _ => None,
    };
    Ok(lines.filter_map(end).collect())
}

/// Whoever put this end on record may have died before the ledger had it, and when it had held the agent.
pub(crate) fn count_again(ctx: &WorkerContext, last: &LastAttempt) {
    let root = &ctx.rt.root;
    let file = file::read(&root.session(&last.session), &last.session);
    let Some(file) = file.filter(SessionFile::has_ended) else {
        return;
    };
    let mut line = ledger_line(&file);
    let mut is_counted = false;
    let since = line.at.parse().ok();
    let read = aggregator::each_line(root, since, |known| {
        is_counted |= known.session == line.session;
    });
    if read.is_err() || is_counted {
        return;
    }
    line.held |= breaker::has_held(root, &line);
    ctx.rt.count(&line);
}

/// Where `next` puts the file.
pub(crate) fn target_of(next: Next, not_before: Option<i64>) -> Target {
    match next {
        Next::Review => Target::Review,
        Next::Merge => Target::Merge,
        Next::Done => Target::Done,
        Next::Parked | Next::Left => Target::Parked,
        Next::Retry | Next::Pending => Target::Pending { not_before },
    }
}

/// Removes the branch if it is empty. A failure does no harm.
fn forget_empty_branch(work: &Work, file: &SessionFile) {
    let never_ran = file.exit_status.or(file.signal).or(file.pid).is_none();
    if file.commits == Some(0) || never_ran {
        let head = file.head.as_deref().unwrap_or(&work.base.oid);
        let _stays = work.hub.forget(&work.branch, head);
    }
}

/// One that never started was claimed.
fn began(file: &SessionFile) -> &str {
    match &*file.started_at {
        "" => &file.claimed_at,
        at => at,
    }
}

fn ledger_line(file: &SessionFile) -> LedgerLine {
    LedgerLine {
        at: file.ended_at.clone().unwrap_or_default(),
        session: file.session.clone(),
        item: file.item.clone(),
        slot: file.slot.clone(),
        agent: file.agent.clone(),
        outcome: file.outcome().unwrap_or_default().to_owned(),
        last: file.last,
        seconds: file.seconds,
        input_tokens: file.input_tokens,
        output_tokens: file.output_tokens,
        cost_usd: file.cost_usd,
        charged_usd: file.charged_usd,
        charged_tokens: file.charged_tokens,
        started_at: began(file).to_owned(),
        fault: file.fault.clone(),
        reason: file.reason.clone().unwrap_or_default(),
        unseen: file.outcome.as_ref().and_then(Word::known) == Some(Outcome::Crashed)
            && file.exit_status.or(file.signal).is_none(),
        ..LedgerLine::default()
    }
}
