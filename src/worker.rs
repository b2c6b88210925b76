//! A worker thread is one slot: it recovers what the slot's last holder left, then claims an item,
//! runs it, and repeats. Knows nothing of how an attempt is run or judged. Invariant: it claims
//! nothing while an interrupt, a pause or a machine without room holds it back, and never more items than
//! `--max-items` allows.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{Error, Result};
use crate::git;
use crate::hold;
use crate::host::Host;
use crate::interrupt;
use crate::item::Item;
use crate::layout::{Place, SlotId};
use crate::lease::Lease;
use crate::merge;
use crate::mutant::planted;
use crate::outcome::Outcome;
use crate::ready::{Candidate, ClaimReport};
use crate::recovery;
use crate::runtime::{ItemResult, Level, Runtime, Ticket};
use crate::sandbox;
use crate::session::{self, WorkerContext, pause};
use crate::spool::{self, ClaimOutcome, ClaimRequest};
use crate::status::{SlotState, SlotStatus};
use crate::text::one_line;
use crate::waker::Waker;

/// An interrupt or pause ends with an event, which wakes the worker; without events, after this.
const HELD_BACK_TICK: Duration = Duration::from_secs(1);
/// The index wakes a worker when there is an item; without a wake-up it asks again after this.
const IDLE_TICK: Duration = Duration::from_secs(5);
/// Failed attempts in a row in one slot that raise an interrupt: something is wrong with the slot,
/// the agent or the provider, and going on would use up every item's retries.
const FAILURES_IN_A_ROW: u32 = 5;
/// An attempt that fails sooner than this may have failed because of its host.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A worker as the main thread sees it.
pub(crate) struct Worker {
    pub(crate) slot: SlotId,
    /// Set: it ends after its present item.
    leave: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: std::thread::JoinHandle<()>,
    /// Set right before the thread ends. The handle reports the end a moment later than the main
    /// thread is woken for it.
    over: Arc<AtomicBool>,
}

impl Worker {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || self.thread.is_finished()
    }

    /// Whether it was told to leave.
    pub(crate) fn leaves(&self) -> bool {
        self.leave.load(Ordering::SeqCst)
    }

    /// Has it give up its slot after its present item.
    pub(crate) fn tell_to_leave(&self) {
        self.leave.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// `Err`: it panicked.
    pub(crate) fn join(self) -> std::thread::Result<()> {
        self.thread.join()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Works until told to leave.
    Steady,
    /// Only recovers a dead process's slot, then gives it up.
    RecoverOnly,
}

/// Starts a worker on a slot whose lease this process has just taken.
pub(crate) fn start(rt: &Arc<Runtime>, lease: Lease, mode: Mode) -> Result<Worker> {
    let slot = lease.slot;
    let waker = Arc::new(Waker::new()?);
    let leave = Arc::new(AtomicBool::new(mode == Mode::RecoverOnly));
    let over = Arc::new(AtomicBool::new(false));
    rt.lifecycle.add_worker(&waker);
    rt.slots.show(slot, |s| s.state = SlotState::Idle);
    let ctx = WorkerContext::new(rt.clone(), lease, waker.clone());
    let (told, ended) = (leave.clone(), over.clone());
    let thread = std::thread::Builder::new()
        .name(slot.to_string())
        .spawn(move || live(ctx, &told, &ended))
        .map_err(|e| Error::temporary("cannot start a worker thread", e.to_string()))?;
    Ok(Worker {
        slot,
        leave,
        waker,
        thread,
        over,
    })
}

/// The thread's life. The slot's lease goes with the context, before `over` is set.
fn live(mut ctx: WorkerContext, leave: &AtomicBool, over: &AtomicBool) {
    let (rt, slot) = (ctx.rt.clone(), ctx.slot());
    let shown = rt.clone();
    git::show_waits(move |why| shown.slots.show(slot, |s| s.reason = why));
    work(&mut ctx, leave);
    ctx.dismiss_keeper();
    if !recovery::has_residue(&rt.root, slot) {
        ctx.lease.leave_to_others();
    }
    sandbox::remove_temp(&rt.root, slot);
    rt.lifecycle.remove_worker(&ctx.waker);
    rt.ready.forget_waker(&ctx.waker);
    rt.slots.remove(slot);
    drop(ctx);
    over.store(true, Ordering::SeqCst);
    rt.lifecycle.main().wake();
}

fn work(ctx: &mut WorkerContext, leave: &AtomicBool) {
    if !recovered(ctx, leave) {
        return;
    }
    ctx.rt.troubles.over(&ctx.slot().to_string());
    be_idle(ctx);
    let (rt, slot) = (ctx.rt.clone(), ctx.slot().to_string());
    let (mut failures_in_a_row, mut was_held) = (0, false);
    while !leave.load(Ordering::SeqCst) && rt.lifecycle.level() == Level::Running {
        if let Some((state, why)) = held_back(ctx) {
            // The last of `--max-items` may be what is looked at: the run does not wait for that.
            if !rt.tickets.are_left() {
                break;
            }
            show_idle(ctx, state, Some(why));
            was_held = true;
            // An item that was handed to this worker goes to the others, and none is handed to it.
            rt.ready.forget_waker(&ctx.waker);
            rt.lifecycle.main().wake();
            ctx.waker.wait(HELD_BACK_TICK);
            continue;
        }
        if let Some(closed) = spool::why_closed(&rt.root, ctx.slot()) {
            met_trouble(ctx, &closed);
            continue;
        }
        if std::mem::take(&mut was_held) {
            be_idle(ctx);
        }
        // What is finished goes before what is new, so that work ends before more begins; and first what
        // a lost host had.
        match move_back(ctx).and_then(|moved| Ok(moved || merge::work(ctx)?)) {
            Ok(false) => {}
            Ok(true) => {
                rt.troubles.over(&slot);
                be_idle(ctx);
                continue;
            }
            Err(e) if goes_on(ctx, leave, &e) => continue,
            Err(_) => return,
        }
        let Some(ticket) = rt.tickets.take() else {
            break;
        };
        let Some(candidate) = next_candidate(ctx) else {
            drop(ticket);
            rt.troubles.over(&slot);
            wait_for_an_item(ctx);
            continue;
        };
        let began = clock::instant();
        match attempt(ctx, &candidate, ticket) {
            Ok(Tried::NotClaimed) => rt.troubles.over(&slot),
            Ok(Tried::Ended { failed }) => {
                rt.troubles.over(&slot);
                look_at_host(&rt, failed, began);
                failures_in_a_row = if failed { failures_in_a_row + 1 } else { 0 };
                let is_left_out = rt.lifecycle.level() > Level::Running;
                if failures_in_a_row == FAILURES_IN_A_ROW && !is_left_out {
                    failures_in_a_row = 0;
                    interrupt_for_failures(ctx);
                }
                be_idle(ctx);
                ctx.rest(rt.config.harness.iteration_delay, Level::Finishing);
            }
            Err(e) if goes_on(ctx, leave, &e) => {}
            Err(_) => return,
        }
    }
}

/// Moves the items of a lost host back. `false`: none is lost.
fn move_back(ctx: &mut WorkerContext) -> Result<bool> {
    let Some(lost) = ctx.rt.lost.take() else {
        return Ok(false);
    };
    recovery::move_back(ctx, &lost).map(|()| true)
}

/// After an error: the item may still be claimed by this slot, and is recovered as after a death.
/// `false`: the worker ends.
fn goes_on(ctx: &mut WorkerContext, leave: &AtomicBool, e: &Error) -> bool {
    met_trouble(ctx, e);
    // A stop does not wait for the host: the item stays where it is for the next run.
    let stops = ctx.rt.lifecycle.level() == Level::Stopping && e.is_of_host();
    let recovered = !stops && recovered(ctx, leave);
    if recovered {
        be_idle(ctx);
    }
    recovered
}

/// Recovers what the slot's last holder, or this worker before an error, left. Tries again, ever more
/// slowly, until that succeeds: what is wrong with a slot stops no other. `false`: the worker is to
/// leave, or the slot is lost.
fn recovered(ctx: &mut WorkerContext, leave: &AtomicBool) -> bool {
    loop {
        let recovered = ctx.lease.mend().and_then(|ours| match ours {
            true => recovery::recover(ctx).map(|()| true),
            false => Ok(false),
        });
        match recovered {
            Ok(recovered) => {
                hold::give_back_all(&ctx.rt.root, ctx.slot());
                return recovered;
            }
            Err(e) => met_trouble(ctx, &e),
        }
        if leave.load(Ordering::SeqCst) || ctx.rt.lifecycle.level() > Level::Running {
            return false;
        }
    }
}

/// Says and shows what is wrong with the slot, and waits: longer each time.
fn met_trouble(ctx: &WorkerContext, e: &Error) {
    let (rt, slot) = (&ctx.rt, ctx.slot().to_string());
    let wait = rt.troubles.met(&slot, e);
    // A stop ends with what stays, and why.
    if rt.lifecycle.level() < Level::Stopping {
        rt.console.warn(&format!("{slot}: {e}"));
    }
    show_idle(ctx, SlotState::Trouble, Some(one_line(&e.to_string())));
    // A drain may end where only this is left.
    rt.lifecycle.main().wake();
    ctx.rest(wait, Level::Finishing);
}

/// Nothing of the last item's stays with the slot.
fn be_idle(ctx: &mut WorkerContext) {
    session::canary::give_back(ctx);
    git::forget_keys(&ctx.rt.root, ctx.slot());
    show_idle(ctx, SlotState::Idle, None);
}

fn show_idle(ctx: &WorkerContext, state: SlotState, reason: Option<String>) {
    ctx.rt.slots.show(ctx.slot(), |s| {
        // Nothing of the item before it: no last words, no figures, no health.
        *s = SlotStatus {
            id: std::mem::take(&mut s.id),
            harness_pid: s.harness_pid,
            last_heartbeat: s.last_heartbeat.take(),
            state,
            reason,
            ..SlotStatus::default()
        };
    });
}

/// Why the slot must not claim now, as the state that it shows, and in words.
fn held_back(ctx: &WorkerContext) -> Option<(SlotState, String)> {
    let (rt, slot) = (&ctx.rt, ctx.slot());
    if interrupt::stands(&rt.root, slot) {
        let interrupt = interrupt::of(&rt.root, slot);
        if let Some(interrupt) = &interrupt {
            pause::take_notice(ctx, ctx.interrupt_context.as_ref(), interrupt);
        }
        let why = interrupt.map_or(String::new(), |i| i.headline().to_owned());
        return Some((SlotState::Interrupted, why));
    }
    let paused = |why: String| Some((SlotState::Paused, why));
    if rt.lifecycle.is_paused() {
        return paused("state/control/pause: `harness resume` ends it".to_owned());
    }
    rt.room.why_none(&rt.console).and_then(paused)
}

/// What to try next. A slot whose first prompt must wait for its turn takes scripts meanwhile.
fn next_candidate(ctx: &mut WorkerContext) -> Option<Candidate> {
    let waits = ctx.turn.is_some_and(|turn| clock::instant() < turn);
    if !waits && ctx.turn.take().is_some() {
        show_idle(ctx, SlotState::Idle, None);
    }
    let (ready, repo) = (&ctx.rt.ready, ctx.repo.as_deref());
    match waits {
        true => ready.pop_script(&ctx.waker, ctx.slot(), repo),
        false => ready.pop(&ctx.waker, ctx.slot(), repo),
    }
}

/// Nothing can be claimed now. The main thread is woken first: there may be nothing left to do.
fn wait_for_an_item(ctx: &mut WorkerContext) {
    let rt = ctx.rt.clone();
    rt.lifecycle.main().wake();
    if rt.lifecycle.drains() && rt.ready.is_exhausted() {
        // While others still work, so that the end of the run need not wait for it.
        ctx.dismiss_keeper();
    }
    let left = ctx
        .turn
        .map(|turn| turn.saturating_duration_since(clock::instant()));
    if left.is_some() {
        let why = "its first prompt waits for its turn (`stagger` in [harness])";
        show_idle(ctx, SlotState::Idle, Some(why.to_owned()));
    }
    ctx.waker.wait(left.unwrap_or(IDLE_TICK).min(IDLE_TICK));
}

/// In a job of an engine: a host on which everything fails at once would use up the retries of the whole
/// queue, faster than any other works.
fn look_at_host(rt: &Runtime, failed: bool, began: Instant) {
    if Host::own().job.is_none() || failed && began.elapsed() >= AT_ONCE {
        return;
    }
    if rt.failed_at_once(failed) >= FAILURES_IN_A_ROW && !planted("bad-host-goes-on") {
        let seconds = AT_ONCE.as_secs();
        rt.leave_host(&format!(
            "{FAILURES_IN_A_ROW} attempts in a row failed within {seconds} s each (`harness list parked` tells why)"
        ));
    }
}

fn interrupt_for_failures(ctx: &WorkerContext) {
    let why = format!(
        "{FAILURES_IN_A_ROW} attempts in a row failed in this slot: look at `harness list parked`"
    );
    session::interrupt(ctx, "failures", &why);
}

/// What became of a candidate.
enum Tried {
    NotClaimed,
    /// Its attempt is over.
    Ended {
        failed: bool,
    },
}

/// Tries to claim the candidate and runs it. Every path tells the index what became of it.
fn attempt(ctx: &mut WorkerContext, candidate: &Candidate, ticket: Ticket<'_>) -> Result<Tried> {
    if is_for_another_slot(ctx, candidate) {
        return Ok(Tried::NotClaimed);
    }
    let rt = ctx.rt.clone();
    let staggered = ctx.staggered;
    let canary = Cell::new(None);
    let accepts = |item: &Item| {
        let mut first = None;
        let accepted = session::accepts(&rt, item, ctx.slot(), staggered, &mut first);
        canary.set(first);
        accepted
    };
    let outcome = spool::try_claim(&ClaimRequest {
        root: &rt.root,
        lease: &ctx.lease,
        name: &candidate.name,
        durable: rt.durable,
        refuse: candidate.refuse.as_deref(),
        may_start: &|fields, meta| rt.ready.may_start(&candidate.name, fields, meta),
        accepts: &accepts,
    });
    ctx.canary = canary.take();
    if !matches!(outcome, Ok(ClaimOutcome::Won(..))) {
        session::canary::give_back(ctx);
    }
    let report = match outcome {
        Ok(ClaimOutcome::Won(claim, record)) => {
            ticket.spend();
            rt.ready.tried(candidate, ClaimReport::Gone);
            ctx.repo = claim.item.order.repo.clone();
            let went_well = session::run(ctx, claim, *record)?;
            // Before this worker is seen idle: items that waited for this one are then known to be
            // ready.
            rt.ready.ended(candidate.name.as_os_str());
            return Ok(Tried::Ended { failed: !went_well });
        }
        Ok(ClaimOutcome::Refused(why)) => {
            refused(ctx, candidate, why);
            ClaimReport::Gone
        }
        Ok(ClaimOutcome::Gone) => ClaimReport::Gone,
        Ok(ClaimOutcome::Busy | ClaimOutcome::Unsettled) => ClaimReport::Later,
        Ok(ClaimOutcome::Waits(order)) => ClaimReport::Waits(order),
        Ok(ClaimOutcome::Held(agent)) => ClaimReport::Held(agent),
        Ok(ClaimOutcome::Turn(wait)) => {
            ctx.turn = Some(clock::instant() + wait);
            // Slots that have had their turn may take it.
            ClaimReport::Untried
        }
        // What is wrong with an item is not its slot's trouble: the item is tried again later.
        Err(e) => match could_not_claim(ctx, candidate, &e) {
            true => return Ok(Tried::NotClaimed),
            false => return Err(e),
        },
    };
    rt.ready.tried(candidate, report);
    Ok(Tried::NotClaimed)
}

/// The slot's or the host's trouble is no item's fault. What is wrong with the item becomes, after some
/// tries, the reason why it stays, on its record. Returns whether it is the item.
fn could_not_claim(ctx: &WorkerContext, candidate: &Candidate, e: &Error) -> bool {
    let (rt, name) = (&ctx.rt, &candidate.name);
    if !matches!(ctx.lease.mend(), Ok(true)) {
        rt.ready.tried(candidate, ClaimReport::Later);
        return false;
    }
    if spool::why_closed(&rt.root, ctx.slot()).is_some() {
        rt.ready.tried(candidate, ClaimReport::Later);
        return false;
    }
    let why = (!e.is_of_host()).then(|| one_line(&e.to_string()));
    if let Some(why) = rt.ready.failed(candidate, why) {
        spool::note_stays(&rt.root, name, &why);
        rt.console.warn(&format!("{name} stays in pending/: {why}"));
    }
    !e.is_of_host()
}

/// Leaves the candidate to the worker in whose worktree alone its conversation can go on, if that
/// worker is idle or about to be.
fn is_for_another_slot(ctx: &WorkerContext, candidate: &Candidate) -> bool {
    let rt = &ctx.rt;
    let Some(slot) = session::preferred_slot(rt, &candidate.name).filter(|&s| s != ctx.slot())
    else {
        return false;
    };
    if rt.ready.hand_over(candidate, slot) {
        return true;
    }
    let soon = rt.slots.is_about_to_ask(slot, &candidate.name);
    if soon {
        rt.ready.tried(candidate, ClaimReport::Later);
    }
    soon
}

fn refused(ctx: &WorkerContext, candidate: &Candidate, why: String) {
    let name = &candidate.name;
    let text = format!("{name}: {why}");
    ctx.rt.console.note(ctx.slot(), "refused", &text);
    let result = ItemResult {
        name: name.clone(),
        outcome: Some(Outcome::Refused),
        attempt: 0,
        seconds: 0.0,
        branch: None,
        has_notes: false,
        reason: why,
    };
    session::hooks::refused(
        &ctx.rt,
        &result,
        Some((ctx.slot().to_string(), String::new())),
    );
    ctx.rt.results.ended(result, Place::Parked);
}
