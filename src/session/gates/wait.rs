//! Waits for the end of a running gate: ends it at its limits, freezes it while an interrupt stands.
//!
//! Judges nothing. Invariant: time in which it was frozen does not count for its timeout.

use std::path::Path;
use std::time::Duration;

use super::job::Job;
use crate::clock;
use crate::config::Moment;
use crate::interrupt;
use crate::keeper::ExitRecord;
use crate::keeper::wire::{Reply, Request};
use crate::outcome::Stop;
use crate::process;
use crate::runtime::Level;
use crate::session::WorkerContext;
use crate::session::pause::{self, Follow, Turn};
use crate::status::SlotState;

/// How often a running gate's time, output and item are checked.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// How long the process tree of a gate whose keeper died is searched and killed.
const SWEEP: Duration = Duration::from_secs(10);

/// Waits until it has ended, or stops it. `None`: its end is not known. `adopted`: another harness
/// started it, and may have frozen it.
pub(super) fn wait(
    ctx: &mut WorkerContext,
    job: &Job<'_>,
    id: &str,
    age: Duration,
    adopted: bool,
) -> (Option<ExitRecord>, Option<Stop>) {
    let (mut runs, mut at) = (age, clock::instant());
    let (mut stop, mut interrupts) = (None, Follow::default());
    if adopted && !interrupt::stands(&ctx.rt.root, ctx.slot()) {
        send(ctx, &Request::Thaw);
    }
    loop {
        let now = clock::instant();
        if !interrupts.is_frozen() {
            runs += now - at;
        }
        at = now;
        if stop.is_none() {
            stop = why_stopped(ctx, job, runs);
            match stop {
                Some(stop) => {
                    let grace = ctx.rt.config.harness.kill_grace;
                    let why = stop.as_str().to_owned();
                    send(ctx, &Request::Stop { grace, why });
                    interrupts = Follow::default();
                }
                None => follow(ctx, job, &mut interrupts),
            }
        }
        let Some(keeper) = &mut ctx.keeper else {
            return (after_keeper(ctx, job, id), stop);
        };
        let left = job.table.timeout.saturating_sub(runs);
        let look = match interrupts.is_frozen() {
            true => LOOK,
            false => LOOK.min(left.max(Duration::from_millis(1))),
        };
        let (_, readable) = ctx.waker.wait_or(Some(keeper.fd()), look);
        if !readable {
            continue;
        }
        match keeper.receive() {
            Ok(Some(Reply::Exited { session, exit })) if session == id => {
                // One that ended by itself before it was stopped has ended by itself.
                let record: Option<ExitRecord> = serde_json::from_slice(&exit).ok();
                let stopped = record.as_ref().is_some_and(|record| record.stopped);
                return (record, stop.filter(|s| stopped || *s == Stop::Canceled));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                keeper.kill_and_reap();
                ctx.keeper = None;
            }
        }
    }
}

/// Output counts as time: a gate that prints without end would fill the disk.
fn why_stopped(ctx: &WorkerContext, job: &Job<'_>, runs: Duration) -> Option<Stop> {
    if ctx.rt.lifecycle.level() >= Level::Stopping {
        Some(Stop::Shutdown)
    } else if !(job.is_wanted)() {
        Some(Stop::Canceled)
    } else {
        (runs >= job.table.timeout || job.is_flooded()).then_some(Stop::TimedOut)
    }
}

fn follow(ctx: &mut WorkerContext, job: &Job<'_>, interrupts: &mut Follow) {
    let slot = ctx.slot();
    match interrupts.look(ctx) {
        Some(Turn::Freeze(interrupt)) => {
            send(ctx, &Request::Freeze);
            let reason = interrupt.headline().to_owned();
            ctx.rt.slots.show(slot, |s| {
                s.state = SlotState::Interrupted;
                s.reason = Some(reason);
            });
            // Of the other moments the slot's last attempt is another item's, or has not begun.
            let context = ctx.interrupt_context.as_ref();
            let context = context.filter(|_| job.moment == Moment::After);
            pause::take_notice(ctx, context, &interrupt);
        }
        Some(Turn::Thaw) => {
            send(ctx, &Request::Thaw);
            let what = format!("gate {}", job.gate);
            ctx.rt.slots.show(slot, |s| {
                s.state = SlotState::Finishing;
                s.reason = Some(format!("{what} goes on"));
            });
            ctx.rt.console.say(&format!("{slot}  resumed    {what}"));
        }
        None => {}
    }
}

/// A dead keeper is noticed at the next read.
fn send(ctx: &mut WorkerContext, request: &Request) {
    if let Some(keeper) = &mut ctx.keeper {
        let _dead = keeper.send(request);
    }
}

/// Its keeper is gone: what it recorded, or nothing, and then nothing of the gate goes on.
fn after_keeper(ctx: &WorkerContext, job: &Job<'_>, id: &str) -> Option<ExitRecord> {
    job.read_end(id).or_else(|| {
        end_tree(ctx, job.session, job.dir);
        None
    })
}

/// Ends what may live of a gate of this session whose keeper is dead.
pub(crate) fn end_tree(ctx: &WorkerContext, session: &str, dir: &Path) {
    let slot = ctx.rt.root.agent(ctx.slot());
    let ended = process::end_tree(&slot, session, dir, SWEEP);
    if !ended.clean {
        let slot = ctx.slot();
        ctx.rt.console.warn(&format!(
            "{slot}: not every process of a gate could be ended"
        ));
    }
}
