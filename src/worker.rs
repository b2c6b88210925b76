//! A worker thread is one slot: recover what its last holder left, then claim, run, repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::layout::SlotId;
use crate::lease::Lease;
use crate::ready::{Candidate, ClaimReport};
use crate::recovery;
use crate::runtime::{ItemResult, Level, Runtime};
use crate::session::{self, WorkerContext, pause};
use crate::spool::{self, ClaimOutcome};
use crate::status::SlotState;
use crate::waker::Waker;

/// How long a slot that met an error waits before it claims again.
const AFTER_ERROR: Duration = Duration::from_secs(1);
/// Failed attempts in a row in one slot that raise an interrupt: something is wrong with the slot,
/// the agent or the provider, and going on would burn every item's retries.
const FAILURES_IN_A_ROW: u32 = 5;

/// A worker as the main thread sees it.
pub struct Worker {
    pub slot: SlotId,
    pub leave: Arc<AtomicBool>,
    pub waker: Arc<Waker>,
    thread: std::thread::JoinHandle<()>,
    /// Set when all that is left of the thread is to end, which main is told of by its waker; the
    /// handle says so a moment later.
    over: Arc<AtomicBool>,
}

impl Worker {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || self.thread.is_finished()
    }

    /// `Err`: it panicked.
    pub fn join(self) -> std::thread::Result<()> {
        self.thread.join()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Works until told to leave.
    Steady,
    /// Only recovers a dead process's slot, then gives it up.
    RecoverOnly,
}

/// Starts a worker on a slot whose lease this process has just taken.
pub fn start(rt: &Arc<Runtime>, lease: Lease, mode: Mode) -> Result<Worker> {
    let waker = Arc::new(Waker::new()?);
    let leave = Arc::new(AtomicBool::new(mode == Mode::RecoverOnly));
    let slot = lease.slot;
    rt.register_waker(&waker);
    rt.show(slot, |s| s.state = SlotState::Idle);
    let over = Arc::new(AtomicBool::new(false));
    let (rt, b, l, o) = (rt.clone(), waker.clone(), leave.clone(), over.clone());
    let thread = std::thread::Builder::new()
        .name(slot.to_string())
        .spawn(move || {
            let mut ctx = WorkerContext {
                rt: rt.clone(),
                lease: Arc::new(lease),
                waker: b.clone(),
                keeper: None,
                repo: None,
                staggered: false,
                interrupt_context: None,
                noticed: Default::default(),
            };
            if let Err(e) = work(&mut ctx, &l) {
                rt.warn(&format!("{slot} gives up its slot: {e}"));
            }
            if let Some(keeper) = ctx.keeper.take() {
                keeper.dismiss();
            }
            rt.forget_waker(&b);
            rt.hide(slot);
            drop(ctx);
            o.store(true, Ordering::SeqCst);
            rt.main_waker.wake();
        })
        .map_err(|e| Error::temporary("cannot start a worker thread", e.to_string()))?;
    Ok(Worker {
        slot,
        leave,
        waker,
        thread,
        over,
    })
}

fn work(ctx: &mut WorkerContext, leave: &AtomicBool) -> Result<()> {
    recovery::recover(ctx)?;
    let rt = ctx.rt.clone();
    let mut in_a_row = 0;
    let idle = |ctx: &WorkerContext, state: SlotState| {
        rt.show(ctx.slot(), |s| {
            s.state = state;
            s.item = None;
            s.session = None;
            s.attempt = None;
            s.agent = None;
            s.claimed_at = None;
            s.started_at = None;
            s.pid = None;
        });
    };
    idle(ctx, SlotState::Idle);
    while !leave.load(Ordering::SeqCst) && rt.level() == Level::Running {
        if let Some(state) = held_back(ctx) {
            idle(ctx, state);
            // What was handed to it goes to others, and nobody wakes it in their place.
            rt.ready.forget_waker(&ctx.waker);
            rt.main_waker.wake();
            ctx.waker.wait(Duration::from_secs(1));
            continue;
        }
        if rt.tickets.fetch_sub(1, Ordering::SeqCst) <= 0 {
            rt.tickets.fetch_add(1, Ordering::SeqCst);
            break;
        }
        let Some(candidate) = rt.ready.pop(&ctx.waker, ctx.slot(), ctx.repo.as_deref()) else {
            rt.tickets.fetch_add(1, Ordering::SeqCst);
            // Only now may there be nothing left to do.
            rt.main_waker.wake();
            // Here while others still work, and not when the last of them has ended.
            if rt.drains.load(Ordering::SeqCst)
                && rt.ready.is_exhausted()
                && let Some(keeper) = ctx.keeper.take()
            {
                keeper.dismiss();
            }
            ctx.waker.wait(Duration::from_secs(5));
            continue;
        };
        match attempt(ctx, &candidate) {
            Ok(None) => {
                rt.tickets.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Some(good)) => {
                in_a_row = if good { 0 } else { in_a_row + 1 };
                if in_a_row == FAILURES_IN_A_ROW {
                    in_a_row = 0;
                    session::interrupt(
                        ctx,
                        "failures",
                        &format!(
                            "{FAILURES_IN_A_ROW} attempts in a row failed in this slot: look at `harness list parked`"
                        ),
                    );
                }
                idle(ctx, SlotState::Idle);
                rest(ctx);
            }
            Err(e) => {
                rt.warn(&format!("{}: {}: {e}", ctx.slot(), candidate.name));
                idle(ctx, SlotState::Idle);
                // What is left of the item is this slot's to recover, now as after a death.
                ctx.waker.wait(AFTER_ERROR);
                recovery::recover(ctx)?;
            }
        }
    }
    Ok(())
}

/// Why the slot must not claim now, as the state that it shows.
fn held_back(ctx: &WorkerContext) -> Option<SlotState> {
    let root = &ctx.rt.root;
    if interrupt::stands(root, ctx.slot()) {
        if let Some(interrupt) = interrupt::of(root, ctx.slot()) {
            pause::take_notice(ctx, ctx.interrupt_context.as_ref(), &interrupt);
        }
        Some(SlotState::Interrupted)
    } else if ctx.rt.paused.load(Ordering::SeqCst) || ctx.rt.is_disk_low() {
        Some(SlotState::Paused)
    } else {
        None
    }
}

/// `iteration_delay` between two items of a slot.
fn rest(ctx: &WorkerContext) {
    let end = crate::clock::instant() + ctx.rt.config.harness.iteration_delay;
    while ctx.rt.level() == Level::Running {
        let left = end.saturating_duration_since(crate::clock::instant());
        if left.is_zero() {
            break;
        }
        ctx.waker.wait(left);
    }
}

/// Tries the candidate. `None`: it was not won. `Some(good)`: it was, and its attempt is over.
fn attempt(ctx: &mut WorkerContext, candidate: &Candidate) -> Result<Option<bool>> {
    let rt = ctx.rt.clone();
    if let Some(slot) = session::preferred_slot(&rt, &candidate.name)
        && slot != ctx.slot()
    {
        if rt.ready.hand_over(candidate, slot) {
            return Ok(None);
        }
        if rt.is_about_to_ask(slot, &candidate.name) {
            rt.ready.tried(candidate, ClaimReport::Later);
            return Ok(None);
        }
    }
    let tried = spool::try_claim(
        &rt.root,
        &ctx.lease,
        &candidate.name,
        rt.durable(),
        candidate.refuse.clone(),
        &|order, meta| rt.ready.may_start(&candidate.name, order, meta),
        &|item| session::accepts(&rt, item),
    );
    let tried = match tried {
        Ok(tried) => tried,
        Err(e) => {
            rt.tickets.fetch_add(1, Ordering::SeqCst);
            rt.ready.tried(candidate, ClaimReport::Trouble);
            return Err(e);
        }
    };
    match tried {
        ClaimOutcome::Won(claim, record) => {
            rt.ready.tried(candidate, ClaimReport::Gone);
            let name = claim.name.clone();
            ctx.repo = claim.item.order.repo.clone();
            let went_well = session::run(ctx, claim, *record)?;
            // Before this worker is seen idle: what waited for this item is then known to be ready.
            rt.ready.ended(name.as_os_str());
            Ok(Some(went_well))
        }
        ClaimOutcome::Gone => {
            rt.ready.tried(candidate, ClaimReport::Gone);
            Ok(None)
        }
        ClaimOutcome::Busy | ClaimOutcome::Unsettled => {
            rt.ready.tried(candidate, ClaimReport::Later);
            Ok(None)
        }
        ClaimOutcome::Waits(order) => {
            rt.ready.tried(candidate, ClaimReport::Waits(order));
            Ok(None)
        }
        ClaimOutcome::Held(agent) => {
            rt.ready.tried(candidate, ClaimReport::Held(agent));
            Ok(None)
        }
        ClaimOutcome::Refused(why) => {
            rt.ready.tried(candidate, ClaimReport::Gone);
            rt.say(&format!(
                "{}  refused    {}: {why}",
                ctx.slot(),
                candidate.name
            ));
            rt.ended(
                ItemResult {
                    name: candidate.name.clone(),
                    outcome: crate::outcome::Outcome::Refused,
                    attempt: 0,
                    seconds: 0.0,
                    branch: None,
                    reason: why,
                },
                true,
            );
            Ok(None)
        }
    }
}
