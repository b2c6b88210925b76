//! The end of an attempt. In this order, each step safe to repeat by another process:
//! keep its work (commit), judge, publish, record, move the file. Two lines of the record decide:
//! once `publishing` is written, its branch appears and no other attempt's; once `finished` is,
//! only the move is left to do.

use std::time::Duration;

use serde_json::Value;

use super::end::{fill_file, write_end};
use super::publish::{publish, take_back, unpublished, withdraw};
use super::stream::stderr_tail;
use super::{Attempt, Over, WorkerContext, digest, end_claim, random_fraction};
use crate::adapters::{self, told};
use crate::atomic;
use crate::clock;
use crate::error::{Kind, Result};
use crate::event::{Class, Fault, Limit, Mend};
use crate::git::{Collected, Hub};
use crate::hold::{self, Hold};
use crate::interrupt::{self, Interrupt};
use crate::layout::Place;
use crate::mutant::planted;
use crate::notice::{self, Notice};
use crate::outcome::{self, Evidence, Exit, Next, Outcome, Stop};
use crate::runtime::ItemResult;
use crate::spool::{Ended, Target};
use crate::status::SlotState;

/// Judges the attempt and moves its item. What followed from it.
pub fn conclude(ctx: &mut WorkerContext, mut attempt: Attempt, over: Over) -> Result<Next> {
    let rt = ctx.rt.clone();
    if attempt.dir.is_symlink() && !atomic::is_own_dir(&attempt.dir) {
        // Its agent's doing: what it leads to is not ours to write in, and the folder is gone.
        atomic::remove(&attempt.dir)?;
    }
    ctx.interrupt_context = Some(attempt.interrupt_context());
    let over = without_lingering(&mut attempt, over);
    rt.show(ctx.slot(), |s| {
        s.state = SlotState::Finishing;
        s.pid = None;
    });
    let collected = match &over {
        // Nothing ran: nothing to keep, and no empty branch to leave behind.
        Over::Unstartable(_) => None,
        Over::Exited { .. } => collect(ctx, &mut attempt)?,
    };
    let (mut outcome, mut reason, stop) = verdict(&attempt, &over, collected.as_ref());
    let fault = hear_out(&mut attempt, &over, collected.as_ref());
    if let Some(fault) = fault.as_ref().filter(|_| stop.is_none()) {
        outcome = fault.class.outcome();
        reason = advice(&attempt, fault);
        attempt.file.fault = Some(fault.class.as_str().to_owned());
    }
    let used_up = matches!(stop, Some(Stop::OverTurns | Stop::OverBudget));
    if let Some(class) = stop.and_then(class_of) {
        attempt.file.fault = Some(class.as_str().to_owned());
    }
    if let Some(fault) = fault.as_ref().filter(|_| stop.is_none()) {
        hold_for(ctx, &attempt, fault);
    }
    let failures = attempt.record.history().failures;
    let mut next = match &over {
        // Its folder was removed under it, by another agent: that is not this item's fault.
        Over::Unstartable(_) if atomic::is_gone(&attempt.dir) => Next::PutBack,
        Over::Unstartable(_) => Next::Park,
        // It would be used up again.
        Over::Exited { .. } if used_up => Next::Park,
        Over::Exited { .. } => {
            let retry = &rt.config.retry;
            let max = attempt.claim.item.retries.unwrap_or(retry.max);
            let delay = outcome::backoff(
                failures,
                retry.delay,
                retry.delay_max,
                retry.jitter,
                random_fraction(),
            );
            match fault.as_ref().filter(|_| stop.is_none()) {
                None => outcome::next(outcome, failures, max, delay),
                Some(fault) => match fault.class.mend() {
                    Mend::Person => Next::Park,
                    Mend::Wait(Some(at)) => Next::Wait(until(at)),
                    Mend::Wait(None) if matches!(fault.class, Class::UsageLimit { .. }) => {
                        Next::Wait(USAGE_REST)
                    }
                    // Nothing was tried yet: the failure that it was to go on from is counted.
                    Mend::Fresh
                        if fault.class == Class::SessionLost && attempt.file.resumed.is_some() =>
                    {
                        Next::PutBack
                    }
                    Mend::Wait(None) | Mend::Again | Mend::Fresh => {
                        outcome::again(failures, max, delay)
                    }
                },
            }
        }
    };
    let asked = asked(ctx, &over, stop);
    if let Some(question) = &asked {
        (outcome, next) = (Outcome::Interrupted, Next::Ask);
        reason = format!("it waits for a person: {}", question.headline());
    }
    fill_file(
        &mut attempt,
        &over,
        collected.as_ref(),
        outcome,
        &reason,
        next,
    );
    let hub = attempt.hub(&rt)?;
    if let Some(hub) = &hub {
        if stop == Some(Stop::Canceled) {
            // A harness that died right here may have published it before it was canceled.
            take_back(ctx, hub, &mut attempt)?;
        }
        if next == Next::Done && collected.as_ref().is_some_and(|c| c.commits > 0) {
            (outcome, next) = publish(ctx, hub, &mut attempt, false)?;
        }
    }
    let not_before = match next {
        Next::Retry(delay) | Next::Wait(delay) => Some(
            clock::now_ns().saturating_add(i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX)),
        ),
        _ => None,
    };
    digest::write(&rt, &attempt);
    if let Some(question) = &asked {
        let (sid, name) = (attempt.file.session.clone(), attempt.claim.name.clone());
        ctx.retry_temporary(|| {
            interrupt::note_asked(&rt.root, ctx.slot(), &sid, &name, &question.reason)
        })?;
    }
    if planted("move-before-record") {
        let from = attempt.claim.path();
        let _moved =
            atomic::rename_with_backup(&from, &rt.root.item(Place::Done, &attempt.claim.name));
    }
    write_end(ctx, &mut attempt, next, not_before)?;
    raise_where_needed(ctx, &attempt, fault.as_ref(), stop, next);
    match stop {
        Some(Stop::Canceled) => {
            // The file is where a person put it; only our claim is left to give up.
            end_claim(ctx, attempt.claim, Target::Parked, &mut || Ok(()))?;
            rt.say(&format!(
                "{}  canceled   {}: its work is kept",
                ctx.slot(),
                attempt.file.item
            ));
        }
        _ => place(ctx, hub.as_deref(), attempt, outcome, next, not_before)?,
    }
    Ok(next)
}

/// Goes on with an attempt that had said what it publishes (`said`, of its record) when its harness
/// died. Everything was decided: neither its files nor its worktree are asked again, which a power
/// cut may have spoiled.
pub fn publish_on(ctx: &WorkerContext, mut attempt: Attempt, said: &Value) -> Result<()> {
    ctx.rt.say(&format!(
        "{}  recovered  {}: its work is published",
        ctx.slot(),
        attempt.claim.name
    ));
    attempt.file.overlay(&said["end"]);
    attempt.open_stream();
    if let Some(stream) = &mut attempt.stream {
        stream.read_on(true);
    }
    let hub = attempt.hub(&ctx.rt)?;
    let (outcome, next) = match &hub {
        Some(hub) => publish(ctx, hub, &mut attempt, true)?,
        None => unpublished(&mut attempt, "its repository is no longer configured"),
    };
    digest::write(&ctx.rt, &attempt);
    write_end(ctx, &mut attempt, next, None)?;
    place(ctx, hub.as_deref(), attempt, outcome, next, None)
}

/// Moves the file to where its end puts it.
fn place(
    ctx: &WorkerContext,
    hub: Option<&Hub>,
    mut attempt: Attempt,
    outcome: Outcome,
    next: Next,
    not_before: Option<i64>,
) -> Result<()> {
    let (file, name) = (attempt.file, attempt.claim.name.clone());
    let published = match (hub, &file.published, &file.head) {
        (Some(hub), Some(branch), Some(head)) => Some((hub, (branch.as_str(), head.as_str()))),
        _ => None,
    };
    let record = &mut attempt.record;
    let mut taken = || match published {
        Some((hub, branch)) => withdraw(ctx, hub, record, &name, branch),
        None => Ok(()),
    };
    let target = target_of(next, not_before);
    let ended = end_claim(ctx, attempt.claim, target, &mut taken)?;
    if ended != Ended::TakenAway || published.is_none() {
        report(ctx, &file, &name, outcome, next, ended);
    }
    Ok(())
}

/// One that had said its last word and was ended for living on has ended well, as far as its exit
/// status goes.
fn without_lingering(attempt: &mut Attempt, over: Over) -> Over {
    match over {
        Over::Exited {
            stop: Some(Stop::Lingered),
            record,
            ..
        } => {
            let note = "it lived on after it had finished, and was ended";
            attempt.file.notes.push(note.into());
            Over::Exited {
                exit: Exit::Code(0),
                stop: None,
                record,
            }
        }
        over => over,
    }
}

/// Limits are of hours, days or a month; what ends later is not believed.
const LIMIT_SECONDS_MAX: i64 = 32 * 86_400;
/// How long an agent is held for a usage limit whose end is not told.
const USAGE_REST: Duration = Duration::from_secs(15 * 60);
/// How many times longer than an item's own wait a rate limit holds all items of its agent: the CLI
/// has waited and tried again by itself before.
const RATE_REST: u32 = 10;

/// What every item of this agent would meet too is met once: nothing is started for it meanwhile.
fn hold_for(ctx: &WorkerContext, attempt: &Attempt, fault: &Fault) {
    if !fault.class.is_of_the_account() {
        return;
    }
    let retry = &ctx.rt.config.retry;
    let rest = match fault.class {
        Class::UsageLimit { resets_at } => Some(resets_at.map_or(USAGE_REST, until)),
        Class::RateLimit => Some((retry.delay * RATE_REST).min(retry.delay_max)),
        _ => None,
    };
    let end = |rest: Duration| {
        clock::now()
            .checked_add(rest)
            .map_or_else(|_| clock::now_iso(), clock::iso)
    };
    let hold = Hold {
        agent: attempt.file.agent.clone(),
        until: rest.map(end),
        class: fault.class.as_str().to_owned(),
        reason: advice(attempt, fault),
        session: attempt.file.session.clone(),
        since: clock::now_iso(),
    };
    match hold::raise(&ctx.rt.root, &hold) {
        Ok(true) => ctx.rt.warn(&format!(
            "{} is held {}: {}",
            hold.agent,
            hold.until.as_ref().map_or(
                "until a person has mended it (then `harness resume`)".to_owned(),
                |u| format!("until {u}")
            ),
            fault.message,
        )),
        Ok(false) => {}
        Err(e) => ctx.rt.warn(&e.to_string()),
    }
}

/// The fault that a stop of ours stands for.
fn class_of(stop: Stop) -> Option<Class> {
    let limit = match stop {
        Stop::OverTurns => Limit::Turns,
        Stop::OverBudget => Limit::Budget,
        Stop::Stalled => return Some(Class::Stalled),
        _ => return None,
    };
    Some(Class::LimitsReached { limit })
}

/// The question of an agent that ended by itself and left an interrupt for its slot.
fn asked(ctx: &WorkerContext, over: &Over, stop: Option<Stop>) -> Option<Interrupt> {
    let ran = matches!(over, Over::Exited { .. });
    if !ran || stop.is_some() {
        return None;
    }
    let interrupt = interrupt::own(&ctx.rt.root, ctx.slot())?;
    // A person who wants to look, or harness itself, has asked nothing of the agent's.
    (!interrupt.was_raised(&ctx.rt.root)).then_some(interrupt)
}

/// What pauses the slot until a person has looked, besides five failures in a row.
fn raise_where_needed(
    ctx: &WorkerContext,
    attempt: &Attempt,
    fault: Option<&Fault>,
    stop: Option<Stop>,
    next: Next,
) {
    let item = &attempt.file.item;
    if stop.is_none() && fault.is_some_and(|f| f.class == Class::Permission) {
        let why = format!("{item}: its agent was not permitted what it needed");
        super::interrupt(ctx, "permission", &why);
    } else if stop == Some(Stop::TimedOut) && next == Next::Park && attempt.stream.is_some() {
        let why = format!("{item}: its agent ran out of time, and no retry is left");
        super::interrupt(ctx, "timeout", &why);
    }
}

/// Where `next` puts the file.
pub fn target_of(next: Next, not_before: Option<i64>) -> Target {
    match next {
        Next::Done => Target::Done,
        Next::Park | Next::Ask | Next::Leave => Target::Parked,
        Next::Retry(_) | Next::Wait(_) | Next::PutBack => Target::Pending { not_before },
    }
}

/// Commits what the agent left. Where git itself fails for good, the worktree keeps it: nothing
/// resets it before it is kept elsewhere.
fn collect(ctx: &WorkerContext, attempt: &mut Attempt) -> Result<Option<Collected>> {
    let Some(work) = &attempt.work else {
        return Ok(None);
    };
    let message = format!(
        "harness: {}, attempt {}\n\nWhat the agent left uncommitted.\nSession: {}",
        attempt.file.item, attempt.file.attempt, attempt.file.session
    );
    let author = format!("harness {0} <{0}@localhost>", attempt.file.slot);
    let collected = ctx.retry_temporary(|| {
        work.tree
            .collect(&work.branch, &work.base, &message, &author)
    });
    match collected {
        Ok(collected) => Ok(Some(collected)),
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => {
            ctx.rt.warn(&format!("{}: {e}", ctx.slot()));
            attempt
                .file
                .notes
                .push(format!("its work could not be committed: {e}"));
            Ok(None)
        }
    }
}

fn verdict(
    attempt: &Attempt,
    over: &Over,
    collected: Option<&Collected>,
) -> (Outcome, String, Option<Stop>) {
    match over {
        Over::Unstartable(why) => (Outcome::Failed, why.clone(), None),
        Over::Exited { exit, stop, .. } => {
            let gone = !attempt.claim.is_ours();
            let stop = if gone { Some(Stop::Canceled) } else { *stop };
            if attempt.file.branch.is_some() && collected.is_none() && stop.is_none() {
                let why = attempt.file.notes.join("; ");
                return (Outcome::Failed, why, stop);
            }
            let tree_gone = |w: &super::Work| atomic::is_gone(w.tree.path());
            if attempt.work.as_deref().is_some_and(tree_gone) && stop.is_none() {
                // Its commits are kept and not published: nobody knows what else there was.
                let why = "it removed its own worktree: only what it had committed is kept";
                return (Outcome::Failed, why.into(), stop);
            }
            let (outcome, mut reason) = outcome::judge(&Evidence {
                exit: *exit,
                stop,
                commits: collected.map(|c| c.commits),
            });
            if outcome == Outcome::Failed && stop.is_none() {
                let words = adapters::last_words(&stderr_tail(&attempt.dir));
                if !words.is_empty() {
                    reason = format!("{reason}: {words}");
                }
            }
            (outcome, reason, stop)
        }
    }
}

/// Reads the rest of what its CLI said, and what that amounts to. `None`: nothing is wrong, or its
/// output is not read.
fn hear_out(attempt: &mut Attempt, over: &Over, collected: Option<&Collected>) -> Option<Fault> {
    let (Some(stream), Over::Exited { exit, .. }) = (&mut attempt.stream, over) else {
        return None;
    };
    stream.read_on(true);
    let (file, figures) = (&mut attempt.file, stream.figures());
    file.turns = figures.turns;
    file.tool_calls = figures.tool_calls;
    file.input_tokens = figures.input_tokens;
    file.output_tokens = figures.output_tokens;
    file.cost_usd = figures.cost_usd.unwrap_or(0.0);
    file.cli_session.clone_from(&figures.cli_session);
    file.conversation = figures.conversation.or(file.conversation_before);
    file.last_message.clone_from(&figures.last_message);
    let mut fault = stream.verdict(*exit, collected.map(|c| c.commits)).fault?;
    if let Class::UsageLimit { resets_at } = &mut fault.class {
        let now = clock::now().as_second();
        // An end that is over, or far away, is a slip of the CLI's or of a clock.
        let likely = |at: &i64| (now..now + LIMIT_SECONDS_MAX).contains(at);
        // Some CLIs say only "try again at 3:25 AM".
        let told = || told::reset_after(&fault.message, &jiff::Zoned::now());
        *resets_at = resets_at.filter(likely).or_else(|| told().filter(likely));
    }
    Some(fault)
}

/// What went wrong and what to do, in a sentence each.
fn advice(attempt: &Attempt, fault: &Fault) -> String {
    let dialect = attempt.file.events.as_deref().unwrap_or_default();
    let advice = adapters::by_name(dialect).map(|a| a.about().advice(fault));
    match advice.filter(|a| !a.is_empty()) {
        Some(advice) => format!("{}: {advice}", fault.message),
        None => fault.message.clone(),
    }
}

/// From now until this instant (unix seconds), and a little longer: clocks differ.
fn until(at: i64) -> Duration {
    let left = at.saturating_sub(clock::now().as_second()).max(0);
    Duration::from_secs(left.unsigned_abs() + 5)
}

fn report(
    ctx: &WorkerContext,
    file: &super::file::SessionFile,
    name: &crate::layout::Name,
    outcome: Outcome,
    next: Next,
    ended: Ended,
) {
    let rt = &ctx.rt;
    let slot = ctx.slot();
    let reason = file.reason.clone().unwrap_or_default();
    let mut text = format!("{slot}  {:<10} {name}: {reason}", outcome.as_str());
    if let Some(branch) = &file.published {
        text.push_str(&format!(", branch {branch}"));
    }
    match next {
        Next::Retry(delay) => {
            text.push_str(&format!(
                "; again in {}",
                clock::human(delay.max(Duration::from_secs(1)))
            ));
            rt.retried();
        }
        Next::Wait(delay) => text.push_str(&format!("; waits {}", clock::human(delay))),
        Next::PutBack => text.push_str("; back in pending/"),
        Next::Park | Next::Ask => text.push_str("; parked"),
        Next::Done | Next::Leave => {}
    }
    rt.say(&text);
    if let Ended::Placed(place @ (Place::Done | Place::Parked)) = ended {
        let result = ItemResult {
            name: name.clone(),
            outcome,
            attempt: file.attempt,
            seconds: file.seconds,
            branch: file.published.clone(),
            reason,
        };
        let notice = Notice {
            event: if place == Place::Parked {
                "parked"
            } else {
                "done"
            },
            reason: format!("{}: {}", result.outcome.as_str(), result.reason),
            item: file.item.clone(),
            session: file.session.clone(),
            agent: file.slot.clone(),
            interrupt: String::new(),
        };
        let summary = rt.root.session(&file.session).join("summary.md");
        notice::tell(rt, notice, Some(&summary));
        rt.ended(result, place == Place::Parked);
    }
}
