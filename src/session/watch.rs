//! While the agent runs: its limits, its item's file, the harness's own orders; and what is left to
//! learn when its keeper is gone.

use std::time::Duration;

use super::{Attempt, Desk, Over};
use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::event::Figures;
use crate::keeper::ExitRecord;
use crate::keeper::wire::{Reply, Request};
use crate::layout::SlotId;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::outcome::{Exit, Stop};
use crate::runtime::{Level, Runtime};

/// How often a running agent's file and limits are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long the tree of an agent without a keeper is hunted for.
const SWEEP: Duration = Duration::from_secs(10);

/// Waits until the agent and its tree are gone; stops it where it must be stopped.
pub fn watch(desk: &mut Desk, attempt: &mut Attempt, age: Duration) -> Result<Over> {
    let started = clock::instant();
    let timeout = Duration::from_secs(attempt.file.timeout_seconds);
    let grace = desk.rt.config.harness.kill_grace;
    let mut stop = None;
    loop {
        let Some(keeper) = &mut desk.keeper else {
            return post_mortem(desk, attempt, stop);
        };
        let runs = age + started.elapsed();
        if stop.is_none() {
            stop = if desk.rt.level() >= Level::Stopping {
                Some(Stop::Shutdown)
            } else if !attempt.claim.is_ours() {
                Some(Stop::Canceled)
            } else if runs >= timeout {
                Some(Stop::TimedOut)
            } else {
                None
            };
            if stop.is_some() {
                let _dead = keeper.send(&Request::Stop { grace });
            }
        }
        let wait = if stop.is_none() {
            LOOK.min(timeout.saturating_sub(runs))
        } else {
            LOOK
        };
        let (_, readable) = desk.bell.wait_or(Some(keeper.fd()), wait);
        if let Some(stream) = &mut attempt.stream
            && stream.read_on(false)
        {
            show(&desk.rt, desk.lease.slot, stream.figures());
        }
        if !readable {
            continue;
        }
        match keeper.receive() {
            Ok(Some(Reply::Exited { session, exit })) if session == attempt.file.session => {
                if let Some(over) = exit_of(&exit, stop, timeout) {
                    return Ok(over);
                }
                return post_mortem(desk, attempt, stop);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                keeper.put_down();
                desk.keeper = None;
            }
        }
    }
}

/// The figures in the slot's status while it runs.
fn show(rt: &Runtime, slot: SlotId, figures: &Figures) {
    rt.show(slot, |s| {
        s.last_event_at = Some(clock::now_iso());
        s.turns = figures.turns;
        s.tool_calls = figures.tool_calls;
        s.tokens = figures.tokens();
        s.cost_usd = figures.cost_usd.unwrap_or(0.0);
        s.last_message.clone_from(&figures.last_message);
    });
}

fn exit_of(text: &[u8], stop: Option<Stop>, timeout: Duration) -> Option<Over> {
    let record: ExitRecord = serde_json::from_slice(text).ok()?;
    // A stop that came when it had ended already stopped nothing, but a cancel is a cancel.
    let stop = stop.filter(|&s| record.stopped || s == Stop::Canceled);
    // Stopped by a harness that did not live to say why (a cancel shows in the missing file).
    let timed_out = record.seconds >= timeout.as_secs_f64();
    let stop = stop.or(match record.stopped {
        false => None,
        true if timed_out => Some(Stop::TimedOut),
        true => Some(Stop::Shutdown),
    });
    Some(Over::Exited {
        exit: record.exit(),
        stop,
        record: Some(record),
    })
}

/// The keeper is gone: what its files say, and if they say nothing, that the end is not known.
/// Whatever still runs of the tree is ended first.
pub fn post_mortem(desk: &Desk, attempt: &Attempt, stop: Option<Stop>) -> Result<Over> {
    // What it, or a harness before us, was just writing.
    atomic::remove_temps(&attempt.dir);
    if let Ok(text) = atomic::read_small(&attempt.dir.join("exit.json"), STATE_FILE_BYTES_MAX)
        && let Some(over) = exit_of(
            &text,
            stop,
            Duration::from_secs(attempt.file.timeout_seconds),
        )
    {
        return Ok(over);
    }
    let (killed, clean) = crate::process::sweep_session(&attempt.file.session, &attempt.dir, SWEEP);
    desk.rt.warn(&format!(
        "{}: the keeper of {} died; {killed} of its processes were ended{}",
        desk.slot(),
        attempt.claim.name,
        if clean { "" } else { ", and some could not be" },
    ));
    Ok(Over::Exited {
        exit: Exit::Unknown,
        stop,
        record: None,
    })
}
