//! A program that runs under the slot's keeper in the agent's place: a gate, or a hook that an attempt
//! waits for. Waits for its end: ends it at its limits, freezes it while an interrupt stands.
//!
//! Judges nothing. Invariant: time in which it was frozen does not count for its timeout.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::WorkerContext;
use super::pause::{self, Follow, Turn};
use crate::atomic;
use crate::clock;
use crate::interrupt;
use crate::keeper::ExitRecord;
use crate::keeper::wire::{Reply, Request};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::outcome::Stop;
use crate::process;
use crate::runtime::Level;
use crate::status::SlotState;

/// How often its time, output and item are checked.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// How long its process tree is searched and killed where its keeper died.
const SWEEP: Duration = Duration::from_secs(10);

pub(super) struct Supervised<'a> {
    /// Its name for the keeper.
    pub(super) id: &'a str,
    /// Its name for people.
    pub(super) what: &'a str,
    /// The session that it belongs to, and its folder.
    pub(super) session: &'a str,
    pub(super) dir: &'a Path,
    /// Where the keeper records its end.
    pub(super) exit: PathBuf,
    pub(super) timeout: Duration,
    /// Between SIGTERM and SIGKILL where it is stopped.
    pub(super) grace: Duration,
    /// What the slot shows while it runs.
    pub(super) state: SlotState,
    /// Whether the slot's last attempt is the one that it runs for.
    pub(super) has_context: bool,
    /// `false`: nobody wants to know any more.
    pub(super) is_wanted: &'a dyn Fn() -> bool,
    /// What else is done at each look.
    pub(super) at_look: &'a dyn Fn(),
}

/// Waits until it has ended, or stops it. `age`: for how long it has been running. `None`: its end is
/// not known. `adopted`: another harness started it, and may have frozen it.
pub(super) fn wait(
    ctx: &mut WorkerContext,
    program: &Supervised<'_>,
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
            stop = why_stopped(ctx, program, runs);
            match stop {
                Some(stop) => {
                    let grace = program.grace;
                    let why = stop.as_str().to_owned();
                    send(ctx, &Request::Stop { grace, why });
                    interrupts = Follow::default();
                }
                None => follow(ctx, program, &mut interrupts),
            }
        }
        let Some(keeper) = &mut ctx.keeper else {
            return (after_keeper(ctx, program), stop);
        };
        let left = program.timeout.saturating_sub(runs);
        let look = match interrupts.is_frozen() {
            true => LOOK,
            false => LOOK.min(left.max(Duration::from_millis(1))),
        };
        let (_, readable) = ctx.waker.wait_or(Some(keeper.fd()), look);
        if !readable {
            continue;
        }
        match keeper.receive() {
            Ok(Some(Reply::Exited { session, exit })) if session == program.id => {
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

fn why_stopped(ctx: &WorkerContext, program: &Supervised<'_>, runs: Duration) -> Option<Stop> {
    if ctx.rt.lifecycle.level() >= Level::Stopping {
        Some(Stop::Shutdown)
    } else if !(program.is_wanted)() {
        Some(Stop::Canceled)
    } else {
        (program.at_look)();
        (runs >= program.timeout).then_some(Stop::TimedOut)
    }
}

fn follow(ctx: &mut WorkerContext, program: &Supervised<'_>, interrupts: &mut Follow) {
    let slot = ctx.slot();
    match interrupts.look(ctx) {
        Some(Turn::Freeze(interrupt)) => {
            send(ctx, &Request::Freeze);
            let reason = interrupt.headline().to_owned();
            ctx.rt.slots.show(slot, |s| {
                s.state = SlotState::Interrupted;
                s.reason = Some(reason);
            });
            // Otherwise it is another item's, or has not begun.
            let context = ctx.interrupt_context.as_ref();
            let context = context.filter(|_| program.has_context);
            pause::take_notice(ctx, context, &interrupt);
        }
        Some(Turn::Thaw) => {
            send(ctx, &Request::Thaw);
            let what = program.what;
            ctx.rt.slots.show(slot, |s| {
                s.state = program.state;
                s.reason = Some(format!("{what} goes on"));
            });
            ctx.rt.console.note(slot, "resumed", what);
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

/// Its keeper is gone: what it recorded, or nothing, and then nothing of it goes on.
fn after_keeper(ctx: &WorkerContext, program: &Supervised<'_>) -> Option<ExitRecord> {
    read_end(&program.exit, program.id).or_else(|| {
        end_tree(ctx, program.session, program.dir);
        None
    })
}

/// Ends what may live of a gate or hook of this session whose keeper is dead.
pub(crate) fn end_tree(ctx: &WorkerContext, session: &str, dir: &Path) {
    let slot = ctx.rt.root.agent(ctx.slot());
    let ended = process::end_tree(&slot, session, dir, SWEEP);
    if !ended.clean {
        let slot = ctx.slot();
        ctx.rt.console.warn(&format!(
            "{slot}: not every process of a gate or hook could be ended"
        ));
    }
}

/// How it ended, as its keeper recorded it; one that was stopped with its harness says nothing.
pub(super) fn read_end(exit: &Path, id: &str) -> Option<ExitRecord> {
    let text = atomic::read_small(exit, STATE_FILE_BYTES_MAX).ok()?;
    let record: ExitRecord = serde_json::from_slice(&text).ok()?;
    let says = record
        .stop()
        .is_none_or(|stop| stop == Stop::TimedOut || stop.is_of_the_machine());
    (record.session == id && says).then_some(record)
}
