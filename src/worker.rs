//! A worker thread is one slot: recover what its last holder left, then claim, run, repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::layout::SlotId;
use crate::lease::Lease;
use crate::ready::{After, Candidate};
use crate::recovery;
use crate::runtime::{ItemResult, Level, Runtime};
use crate::session::{self, Desk, pause};
use crate::spool::{self, Tried};
use crate::status::AgentState;
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
    rt.show(slot, |s| s.state = AgentState::Idle);
    let over = Arc::new(AtomicBool::new(false));
    let (rt, b, l, o) = (rt.clone(), waker.clone(), leave.clone(), over.clone());
    let thread = std::thread::Builder::new()
        .name(slot.to_string())
        .spawn(move || {
            let mut desk = Desk {
                rt: rt.clone(),
                lease: Arc::new(lease),
                waker: b.clone(),
                keeper: None,
                repo: None,
                staggered: false,
                scene: None,
                noticed: Default::default(),
            };
            if let Err(e) = work(&mut desk, &l) {
                rt.warn(&format!("{slot} gives up its slot: {e}"));
            }
            if let Some(keeper) = desk.keeper.take() {
                keeper.dismiss();
            }
            rt.forget_waker(&b);
            rt.hide(slot);
            drop(desk);
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

fn work(desk: &mut Desk, leave: &AtomicBool) -> Result<()> {
    recovery::recover(desk)?;
    let rt = desk.rt.clone();
    let mut in_a_row = 0;
    let idle = |desk: &Desk, state: AgentState| {
        rt.show(desk.slot(), |s| {
            s.state = state;
            s.work_item = None;
            s.session = None;
            s.attempt = None;
            s.started_at = None;
            s.pid = None;
        });
    };
    idle(desk, AgentState::Idle);
    while !leave.load(Ordering::SeqCst) && rt.level() == Level::Running {
        if let Some(state) = held_back(desk) {
            idle(desk, state);
            // What was handed to it goes to others, and nobody wakes it in their place.
            rt.ready.forget_waker(&desk.waker);
            rt.main_waker.wake();
            desk.waker.wait(Duration::from_secs(1));
            continue;
        }
        if rt.tickets.fetch_sub(1, Ordering::SeqCst) <= 0 {
            rt.tickets.fetch_add(1, Ordering::SeqCst);
            break;
        }
        rt.ready.catch_up();
        let Some(candidate) = rt.ready.pop(&desk.waker, desk.slot(), desk.repo.as_deref()) else {
            rt.tickets.fetch_add(1, Ordering::SeqCst);
            // Only now may there be nothing left to do.
            rt.main_waker.wake();
            // Here while others still work, and not when the last of them has ended.
            if rt.drains.load(Ordering::SeqCst)
                && rt.ready.is_exhausted()
                && let Some(keeper) = desk.keeper.take()
            {
                keeper.dismiss();
            }
            desk.waker.wait(Duration::from_secs(5));
            continue;
        };
        match attempt(desk, &candidate) {
            Ok(None) => {
                rt.tickets.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Some(good)) => {
                in_a_row = if good { 0 } else { in_a_row + 1 };
                if in_a_row == FAILURES_IN_A_ROW {
                    in_a_row = 0;
                    session::interrupt(
                        desk,
                        "failures",
                        &format!(
                            "{FAILURES_IN_A_ROW} attempts in a row failed in this slot: look at `harness list parked`"
                        ),
                    );
                }
                idle(desk, AgentState::Idle);
                rest(desk);
            }
            Err(e) => {
                rt.warn(&format!("{}: {}: {e}", desk.slot(), candidate.name));
                idle(desk, AgentState::Idle);
                // What is left of the item is this slot's to recover, now as after a death.
                desk.waker.wait(AFTER_ERROR);
                recovery::recover(desk)?;
            }
        }
    }
    Ok(())
}

/// Why the slot must not claim now, as the state that it shows.
fn held_back(desk: &Desk) -> Option<AgentState> {
    let root = &desk.rt.root;
    if interrupt::stands(root, desk.slot()) {
        if let Some(interrupt) = interrupt::of(root, desk.slot()) {
            pause::take_notice(desk, desk.scene.as_ref(), &interrupt);
        }
        Some(AgentState::Interrupted)
    } else if desk.rt.paused.load(Ordering::SeqCst) || desk.rt.is_disk_low() {
        Some(AgentState::Paused)
    } else {
        None
    }
}

/// `iteration_delay` between two items of a slot.
fn rest(desk: &Desk) {
    let end = crate::clock::instant() + desk.rt.config.harness.iteration_delay;
    while desk.rt.level() == Level::Running {
        let left = end.saturating_duration_since(crate::clock::instant());
        if left.is_zero() {
            break;
        }
        desk.waker.wait(left);
    }
}

/// Tries the candidate. `None`: it was not won. `Some(good)`: it was, and its attempt is over.
fn attempt(desk: &mut Desk, candidate: &Candidate) -> Result<Option<bool>> {
    let rt = desk.rt.clone();
    if let Some(slot) = session::preferred_slot(&rt, &candidate.name)
        && slot != desk.slot()
    {
        if rt.ready.hand_over(candidate, slot) {
            return Ok(None);
        }
        if rt.is_about_to_ask(slot, &candidate.name) {
            rt.ready.tried(candidate, After::Later);
            return Ok(None);
        }
    }
    if desk.keeper.is_none() {
        // While the claim is written to disk.
        rt.forks.warm();
    }
    let tried = spool::try_claim(
        &rt.root,
        &desk.lease,
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
            rt.ready.tried(candidate, After::Trouble);
            return Err(e);
        }
    };
    match tried {
        Tried::Won(claim, record) => {
            rt.ready.tried(candidate, After::Gone);
            let name = claim.name.clone();
            desk.repo = claim.item.order.repo.clone();
            let next = session::run(desk, claim, *record)?;
            // Before this worker is seen idle: what waited for this item is then known to be ready.
            rt.ready.ended(name.as_os_str());
            Ok(Some(!next.is_failure()))
        }
        Tried::Gone => {
            rt.ready.tried(candidate, After::Gone);
            Ok(None)
        }
        Tried::Busy | Tried::Unsettled => {
            rt.ready.tried(candidate, After::Later);
            Ok(None)
        }
        Tried::Waits(order) => {
            rt.ready.tried(candidate, After::Waits(order));
            Ok(None)
        }
        Tried::Held(agent) => {
            rt.ready.tried(candidate, After::Held(agent));
            Ok(None)
        }
        Tried::Refused(why) => {
            rt.ready.tried(candidate, After::Gone);
            rt.say(&format!(
                "{}  refused    {}: {why}",
                desk.slot(),
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
