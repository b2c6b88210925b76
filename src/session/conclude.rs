//! Ends an attempt: commit its work, decide, publish, record, move the file. Another process can
//! repeat each step safely. Two lines of the record are points of no return: after `publishing` its
//! branch will appear and no other attempt's; after `finished` only the move is left.
//!
//! `outcome` decides; this file gathers the evidence and acts.

use std::sync::Arc;
use std::time::Duration;

use super::begin::stand;
use super::end::{fill_file, set_decision, target_of, was_moved_for_us, write_canceled, write_end};
use super::publish::{publish, release, take_back, withdraw};
use super::stream::stderr_tail;
use super::{
    Attempt, Over, WorkerContext, breaker, canary, confine, digest, end_claim, gates, hooks,
    launch, limit, paid, random_fraction, supervised,
};
use crate::adapters;
use crate::atomic;
use crate::clock;
use crate::config::{AgentTable, Mode};
use crate::error::{Kind, Result};
use crate::event::Fault;
use crate::git::{Collected, Hub};
use crate::hold::{self, Hold};
use crate::interrupt::{self, Interrupt};
use crate::keeper;
use crate::layout::Place;
use crate::mutant::planted;
use crate::outcome::{
    self, Cause, Decision, Ending, Evidence, Exit, FoundFault, HoldEnd, LimitLeft, Next, Outcome,
    Stop, Terms, Word, WorkLeft,
};
use crate::quote;
use crate::record::{Gating, Publishing};
use crate::runtime::ItemResult;
use crate::sandbox::{Env, Refused};
use crate::spool::{Ended, Target};
use crate::status::SlotState;
use crate::term::Paint;
use crate::text::count_of;

/// A rate limit holds an agent this many times longer than `retry.delay`: the CLI itself has
/// already waited and retried.
const RATE_LIMIT_FACTOR: u32 = 10;

/// Decides about the attempt and moves its item. `false`: one more failure in a row of this slot.
pub(crate) fn conclude(ctx: &mut WorkerContext, mut attempt: Attempt, over: Over) -> Result<bool> {
    if attempt.dir.is_symlink() && !atomic::is_own_dir(&attempt.dir) {
        // The agent replaced its session's folder with a symlink: never write through it.
        atomic::remove(&attempt.dir)?;
    }
    ctx.interrupt_context = Some(attempt.interrupt_context());
    crate::sandbox::clear_temp(&ctx.rt.root, ctx.slot());
    let over = without_lingering(&mut attempt, over);
    ctx.rt.slots.show(ctx.slot(), |s| {
        s.state = SlotState::Finishing;
        s.pid = None;
    });
    let collected = match &over {
        // Nothing ran: nothing to keep, and no empty branch to leave behind.
        Over::Unstartable(_) => None,
        Over::Exited { .. } => collect(ctx, &mut attempt)?,
    };
    let mut evidence = gather(&mut attempt, &over, collected.as_ref());
    paid::charge(ctx, &mut attempt, &over)?;
    evidence.budget = paid::used_up(&attempt.file);
    let question = question(ctx, &evidence);
    evidence.asked = question.as_ref().map(|q| q.headline().to_owned());
    evidence.unheard = question.is_none() && was_answered_too_late(ctx, &attempt);
    let terms = terms(ctx, &attempt);
    let mut decision = outcome::decide(&evidence, &terms);
    let elsewhere = collected.iter().flat_map(|c| &c.elsewhere);
    for said in evidence.limits.iter().chain(elsewhere) {
        if !decision.reason.contains(said) {
            decision.reason.push_str("; ");
            decision.reason.push_str(said);
        }
    }
    if !decision.outcome.is_good() || decision.outcome == Outcome::NoChange {
        let environment =
            |table: Option<&AgentTable>| launch::environment(&ctx.rt, &attempt, table, Env::new());
        let refused = confine::refused(&ctx.rt, &attempt, environment);
        let of_reason = |r: &&Refused| decision.reason.contains(&r.printed);
        if let Some(cause) = refused.iter().find(of_reason) {
            decision.reason = format!("{}; {}", decision.reason, cause.text);
        }
        attempt
            .file
            .notes
            .extend(refused.into_iter().map(|r| r.text));
    }
    if let (Some(end), Some(fault)) = (decision.hold, &evidence.fault) {
        hold_agent(ctx, &attempt, fault, &decision, end);
    }
    canary::judge(ctx, &attempt, &evidence, &decision);
    fill_file(&mut attempt, &over, collected.as_ref(), &decision);
    if decision.outcome.is_good() && decision.next == Next::Done {
        decision = gates::after(ctx, &mut attempt, decision, &terms)?;
        settle(ctx, &mut attempt, &mut decision);
    }
    act(ctx, attempt, decision, question)
}

/// Goes on with an attempt whose gates had begun when its harness died. Its work is kept and all else
/// decided: its worktree, in which a gate may have written, decides nothing.
pub(crate) fn gate_on(
    ctx: &mut WorkerContext,
    mut attempt: Attempt,
    gating: Gating,
) -> Result<bool> {
    if ctx.running_gate.is_none() && !keeper::is_alive(&ctx.rt.root, ctx.slot()) {
        supervised::end_tree(ctx, &attempt.file.session, &attempt.dir);
    }
    attempt.file.set_end(gating.end);
    if attempt.work.is_none() {
        attempt.work = stand(ctx, &attempt)?.map(Arc::new);
    }
    if let Some(stream) = &mut attempt.stream {
        stream.read_on(true);
    }
    gate_made(ctx, attempt)
}

/// Runs the gates on an attempt's work, which is kept, and ends it as they let it.
pub(super) fn gate_made(ctx: &mut WorkerContext, mut attempt: Attempt) -> Result<bool> {
    ctx.interrupt_context = Some(attempt.interrupt_context());
    let terms = terms(ctx, &attempt);
    let outcome = attempt.file.outcome.as_ref().and_then(Word::known);
    let mut decision = Decision::succeeded(
        outcome.unwrap_or(Outcome::Succeeded),
        attempt.file.reason.clone(),
        attempt.file.commits.unwrap_or(0) > 0,
    );
    decision = match attempt.claim.is_ours() {
        true => gates::after(ctx, &mut attempt, decision, &terms)?,
        false => decision.canceled(),
    };
    gates::end_running(ctx);
    settle(ctx, &mut attempt, &mut decision);
    act(ctx, attempt, decision, None)
}

/// What becomes of a branch that is to be published.
fn settle(ctx: &WorkerContext, attempt: &mut Attempt, decision: &mut Decision) {
    if decision.publishes && decision.next == Next::Done {
        let item = &attempt.claim.item;
        let configured = ctx.rt.config.integrate(item.order.repo.as_deref()).mode;
        decision.next = match item.integrate.unwrap_or(configured) {
            Mode::Branch => Next::Done,
            Mode::Review => Next::Review,
            Mode::Merge => Next::Merge,
        };
    }
    set_decision(&mut attempt.file, decision);
}

/// Carries out the decision: publish, record, move.
fn act(
    ctx: &WorkerContext,
    mut attempt: Attempt,
    mut decision: Decision,
    question: Option<Interrupt>,
) -> Result<bool> {
    let rt = &ctx.rt;
    let hub = attempt.hub(ctx)?;
    if let Some(hub) = &hub {
        if decision.takes_back {
            // An earlier harness may have published it and died, before it was canceled.
            take_back(ctx, hub, &mut attempt)?;
        }
        if attempt.recovered && !decision.publishes {
            release(ctx, hub, &mut attempt);
        }
        if decision.publishes
            && let Some(why) = publish(ctx, hub, &mut attempt, decision.next, false)?
        {
            decision = decision.unpublished(&why);
            set_decision(&mut attempt.file, &decision);
        }
    }
    let not_before = decision.wait.map(clock::ns_from_now);
    digest::write(rt, &attempt);
    if let Some(question) = question {
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
    decision = record_end(ctx, hub.as_deref(), &mut attempt, decision, not_before)?;
    if let Some(cause) = decision.interrupt {
        let why = format!("{}: {}", attempt.file.item, cause.reason());
        match cause {
            // Its own `on_failure` wants it.
            Cause::Gate => super::raise_interrupt(ctx, &why),
            _ => super::interrupt(ctx, cause.as_str(), &why),
        }
    }
    let went_well = !decision.is_failure() || breaker::holds(&rt.root, &attempt.file.agent);
    place(ctx, hub.as_deref(), attempt, &decision, not_before)?;
    Ok(went_well)
}

/// Records the end. Where a person took the file away in this last instant, the end is that it was
/// canceled: what was announced is taken back before that is on record. Where another host took it, that
/// host has recorded the end.
pub(super) fn record_end(
    ctx: &WorkerContext,
    hub: Option<&Hub>,
    attempt: &mut Attempt,
    decision: Decision,
    not_before: Option<i64>,
) -> Result<Decision> {
    if decision.next == Next::Left {
        write_canceled(ctx, attempt)?;
        return Ok(decision);
    }
    if write_end(ctx, attempt, decision.next, not_before)? {
        return Ok(decision);
    }
    let mut canceled = decision.canceled();
    if ctx.is_given_up() {
        canceled.reason = "another host took its item over".to_owned();
    }
    if let Some(hub) = hub {
        take_back(ctx, hub, attempt)?;
    }
    interrupt::forget_asked(&ctx.rt.root, ctx.slot(), &attempt.file.session)?;
    attempt.file.published = None;
    set_decision(&mut attempt.file, &canceled);
    digest::write(&ctx.rt, attempt);
    write_canceled(ctx, attempt)?;
    Ok(canceled)
}

/// Completes an attempt that had announced its branch when its harness died. All was decided then:
/// its files and worktree, which a power cut may have damaged, decide nothing.
pub(crate) fn publish_on(
    ctx: &WorkerContext,
    mut attempt: Attempt,
    announced: Publishing,
) -> Result<()> {
    if !ctx.rt.troubles.is_met(&ctx.slot().to_string()) {
        let text = format!("{}: its work is published", attempt.claim.name);
        ctx.rt.console.note(ctx.slot(), "recovered", &text);
    }
    attempt.file.set_end(announced.end);
    attempt.open_stream();
    if let Some(stream) = &mut attempt.stream {
        stream.read_on(true);
    }
    let next = announced.next.and_then(|word| word.known());
    let next = next.unwrap_or(Next::Done);
    let mut decision = Decision::announced(attempt.file.reason.clone(), next);
    let hub = attempt.hub(ctx)?;
    let trouble = match &hub {
        Some(hub) => publish(ctx, hub, &mut attempt, decision.next, true)?,
        None => Some("its repository is no longer configured".to_owned()),
    };
    if let Some(why) = trouble {
        decision = decision.unpublished(&why);
        set_decision(&mut attempt.file, &decision);
    }
    digest::write(&ctx.rt, &attempt);
    decision = record_end(ctx, hub.as_deref(), &mut attempt, decision, None)?;
    place(ctx, hub.as_deref(), attempt, &decision, None)
}

/// Moves the file to where the decision puts it.
pub(super) fn place(
    ctx: &WorkerContext,
    hub: Option<&Hub>,
    mut attempt: Attempt,
    decision: &Decision,
    not_before: Option<i64>,
) -> Result<()> {
    if decision.next == Next::Left {
        // The file is where a person put it; only our claim is left to give up.
        let (file, name) = (attempt.file, attempt.claim.name.clone());
        end_claim(ctx, attempt.claim, Target::Parked, &mut |ended| {
            hooks::ended(&ctx.rt, &file, &name, ended);
            Ok(())
        })?;
        let (console, text) = (&ctx.rt.console, format!("{}: its work is kept", file.item));
        console.say_of(ctx.slot(), Paint::Yellow, "canceled", &text);
        return Ok(());
    }
    let (file, name) = (attempt.file, attempt.claim.name.clone());
    let published = hub.filter(|_| file.published.is_some());
    let record = &mut attempt.record;
    let mut before = |ended| {
        if let (Ended::TakenAway, Some(hub)) = (ended, published)
            && !was_moved_for_us(ctx, &name, &file.session)?
        {
            withdraw(ctx, hub, record, &name, &file)?;
        }
        hooks::ended(&ctx.rt, &file, &name, ended);
        Ok(())
    };
    let target = target_of(decision.next, not_before);
    let ended = end_claim(ctx, attempt.claim, target, &mut before)?;
    if ended != Ended::TakenAway || published.is_none() {
        report(ctx, &file, &name, decision, ended);
    }
    Ok(())
}

/// An agent that was stopped because it kept running after its result counts as exited with 0.
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

/// All evidence except the agent's question.
fn gather(attempt: &mut Attempt, over: &Over, collected: Option<&Collected>) -> Evidence {
    let fault = read_final_events(attempt, over, collected);
    let fault = fault.map(|(fault, limit)| found(attempt, &fault, limit));
    let limits = match over {
        Over::Exited {
            record: Some(exit), ..
        } => exit.limits.clone(),
        Over::Exited { .. } | Over::Unstartable(_) => Vec::new(),
    };
    let (ending, stop, exit) = match over {
        Over::Exited { exit, stop, .. } => (Ending::Exited(*exit), *stop, Some(*exit)),
        Over::Unstartable(why) => {
            let folder_gone = atomic::is_gone(&attempt.dir);
            let why = why.clone();
            (Ending::NeverStarted { why, folder_gone }, None, None)
        }
    };
    let failed = stop.is_none() && matches!(exit, Some(Exit::Code(code)) if code != 0);
    Evidence {
        ending,
        stop,
        taken_away: !attempt.claim.is_ours(),
        limits,
        work: work_left(attempt, collected),
        last_words: match failed {
            true => adapters::last_words(&stderr_tail(&attempt.dir)),
            false => String::new(),
        },
        fault,
        asked: None,
        unheard: false,
        resumed: attempt.file.resumed.is_some(),
        has_events: attempt.stream.is_some(),
        budget: None,
        failures: attempt.record.history().failures,
    }
}

fn work_left(attempt: &Attempt, collected: Option<&Collected>) -> WorkLeft {
    match (collected, &attempt.work) {
        (Some(_), Some(work)) if atomic::is_gone(work.tree.path()) => WorkLeft::WorktreeGone,
        (Some(collected), _) => match &collected.unfinished {
            Some(why) => WorkLeft::Unfinished(why.clone()),
            None => WorkLeft::Commits(collected.commits),
        },
        (None, _) if attempt.file.branch.is_some() => {
            WorkLeft::Uncollected(attempt.file.notes.join("; "))
        }
        (None, _) => WorkLeft::NoRepository,
    }
}

/// What the configuration and the item allow. The backoff includes random jitter.
fn terms(ctx: &WorkerContext, attempt: &Attempt) -> Terms {
    let retry = &ctx.rt.config.retry;
    Terms {
        retries: attempt.claim.item.retries.unwrap_or(retry.max),
        backoff: outcome::backoff(
            attempt.record.history().failures,
            retry.delay,
            retry.delay_max,
            retry.jitter,
            random_fraction(),
        ),
        rate_limit_hold: (retry.delay * RATE_LIMIT_FACTOR).min(retry.delay_max),
        usage_limit_hold: limit::UNKNOWN_HOLD,
        over_hold: limit::over_hold(attempt.record.history().waits),
    }
}

/// Holds the agent, because all its items would meet the same fault.
fn hold_agent(
    ctx: &WorkerContext,
    attempt: &Attempt,
    fault: &FoundFault,
    decision: &Decision,
    end: HoldEnd,
) {
    let until = match end {
        HoldEnd::After(rest) => Some(
            clock::now()
                .checked_add(rest)
                .map_or_else(|_| clock::now_iso(), clock::iso),
        ),
        HoldEnd::Mended => None,
    };
    let hold = Hold {
        agent: attempt.file.agent.clone(),
        until,
        class: fault.class.as_str().to_owned(),
        reason: match decision.asks {
            true => crate::text::one_line(&fault.message),
            false => decision.reason.clone(),
        },
        session: attempt.file.session.clone(),
        since: clock::now_iso(),
    };
    match hold::raise(&ctx.rt.root, &hold) {
        Ok(true) => {
            let until = match &hold.until {
                Some(until) => format!("until {until}"),
                None => "until a person has mended it (then `harness resume`)".to_owned(),
            };
            ctx.rt
                .console
                .warn(&format!("{} is held {until}: {}", hold.agent, hold.reason));
        }
        Ok(false) => {}
        Err(e) => ctx.rt.console.warn(&e.to_string()),
    }
}

/// The question of an agent that ended by itself and left an interrupt for its slot.
fn question(ctx: &WorkerContext, evidence: &Evidence) -> Option<Interrupt> {
    let ran = matches!(evidence.ending, Ending::Exited(_));
    if !ran || evidence.stop.is_some() || evidence.taken_away {
        return None;
    }
    let interrupt = interrupt::own(&ctx.rt.root, ctx.slot())?;
    // One that a person or harness raised is not the agent's question.
    (!interrupt.was_raised(&ctx.rt.root)).then_some(interrupt)
}

/// Whether a person answered its question when it had ended: while no harness lived, or while its work
/// was being kept.
fn was_answered_too_late(ctx: &WorkerContext, attempt: &Attempt) -> bool {
    let last = attempt.record.history().last.as_ref();
    let heard = last.and_then(|l| l.heard_ns);
    interrupt::unheard(&ctx.rt.root, &attempt.file.session, heard).is_some()
}

/// Commits what the agent left. If git fails permanently, the work stays in the worktree, which is
/// not reset before its content is kept elsewhere.
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
            ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
            attempt.file.notes.push(crate::text::one_line(&format!(
                "its work could not be committed: {e}"
            )));
            Ok(None)
        }
    }
}

/// Reads the rest of the CLI's output into the session's file. Returns its fault and what is left of
/// its limit; `None`: nothing is wrong, or its output is not read.
fn read_final_events(
    attempt: &mut Attempt,
    over: &Over,
    collected: Option<&Collected>,
) -> Option<(Fault, LimitLeft)> {
    let (Some(stream), Over::Exited { exit, record, .. }) = (&mut attempt.stream, over) else {
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
    let mut fault = stream.fault(*exit, collected.map(|c| c.commits))?;
    let ended = record.as_ref().and_then(|exit| exit.ended_at.parse().ok());
    let said = stream.said().or(ended).unwrap_or_else(clock::now);
    let left = limit::left(&mut fault, said);
    Some((fault, left))
}

/// Adds to a fault what a person can do about it.
fn found(attempt: &Attempt, fault: &Fault, limit: LimitLeft) -> FoundFault {
    let dialect = attempt.file.events.as_deref().unwrap_or_default();
    let about = adapters::by_name(dialect).map(|a| a.about());
    let advice = |again| about.map_or(String::new(), |about| about.advice(fault, again));
    FoundFault {
        class: fault.class,
        message: fault.message.clone(),
        again: advice(true),
        parked: advice(false),
        limit,
    }
}

/// Reports how it ended, and counts it if the item has ended.
fn report(
    ctx: &WorkerContext,
    file: &super::file::SessionFile,
    name: &crate::layout::Name,
    decision: &Decision,
    ended: Ended,
) {
    let rt = &ctx.rt;
    let reason = file.reason.clone().unwrap_or_default();
    let outcome = decision.outcome;
    let mut text = format!("{name}: {reason}");
    if let Some(branch) = &file.published {
        text.push_str(&format!(", branch {branch}"));
    }
    match (decision.next, decision.wait) {
        (Next::Retry, delay) => {
            let delay = delay.unwrap_or_default().max(Duration::from_secs(1));
            text.push_str(&format!("; again in {}", clock::human(delay)));
            rt.results.retried();
        }
        (Next::Pending, Some(delay)) => {
            text.push_str(&format!("; waits {}", clock::human(delay)));
        }
        (Next::Pending, None) => text.push_str("; back in pending/"),
        (Next::Parked, _) => text.push_str("; parked"),
        (Next::Review, _) => text.push_str("; waits in queue/review/"),
        (Next::Merge, _) => text.push_str("; waits in queue/merge/"),
        (Next::Done | Next::Left, _) => {}
    }
    if !file.notes.is_empty() {
        let notes = count_of(file.notes.len() as u64, "note");
        let (harness, item) = (quote::harness(), quote::item(name));
        text.push_str(&format!(" [{notes}: `{harness} show {item}`]"));
    }
    let paint = match (decision.next, outcome) {
        (Next::Parked, _) => Paint::Red,
        (_, Outcome::Succeeded) => Paint::Green,
        (_, Outcome::NoChange) => Paint::Plain,
        _ => Paint::Yellow,
    };
    let (slot, word) = (ctx.slot(), outcome.as_str());
    rt.console.say_of(slot, paint, word, &text);
    let Ended::Placed(place) = ended else {
        return;
    };
    // What is to be merged ends with that.
    if matches!(place, Place::Pending | Place::Merge) {
        return;
    }
    let result = ItemResult {
        name: name.clone(),
        outcome: Some(outcome),
        attempt: file.attempt,
        seconds: file.seconds,
        branch: file.published.clone(),
        has_notes: !file.notes.is_empty(),
        reason,
    };
    rt.results.ended(result, place);
}
