//! How an item leaves a merge: landed, back in the queue, or sent back with a reason. Each is on record
//! before its file moves.

use super::Candidate;
use super::land::release;
use crate::error::Result;
use crate::git::{Base, Hub};
use crate::hooks::{self, Event as Told, Facts};
use crate::layout::{Name, Place};
use crate::mutant::planted;
use crate::outcome::{Next, Outcome, Word};
use crate::record::{Event, Landing, Returned};
use crate::runtime::ItemResult;
use crate::session::{self, WorkerContext};
use crate::spool::Target;
use crate::term::Paint;

pub(super) enum Fate {
    Merged(Box<Landing>),
    /// With a reason, which goes on record.
    Returned(Box<Returned>),
    /// It stays in `merge/` for a while, for this reason, which is said and recorded once.
    Waits(String),
    /// To `merge/`, to be tried again at once.
    Again,
}

impl Fate {
    pub(super) fn parked(outcome: Outcome, reason: String) -> Fate {
        Fate::Returned(Box::new(Returned {
            reason,
            outcome: Some(outcome.into()),
            next: Some(Next::Parked.into()),
            ..Returned::default()
        }))
    }
}

/// Whether a landing whose record ends before it is over has happened.
pub(crate) fn settled(ctx: &WorkerContext, hub: &Hub, landing: &Landing) -> Result<bool> {
    // What a harness that died half-way left in the user's checkout.
    let users = hub.users(Some(ctx.lease.lock()));
    ctx.retry_temporary(|| users.settle_landings())?;
    let base = Base {
        name: landing.into.clone(),
        oid: landing.onto.clone(),
    };
    let landed = ctx.retry_temporary(|| hub.contains_now(&base, &landing.tip))?;
    release(ctx, &users, &landing.tip, None);
    Ok(landed)
}

/// Records it and moves the file.
pub(super) fn end(ctx: &WorkerContext, candidate: Candidate, fate: Fate) -> Result<()> {
    let Candidate {
        mut claim,
        mut record,
        session,
        branch,
        ..
    } = candidate;
    let name = claim.name.clone();
    let (event, next) = match fate {
        Fate::Again => {
            ctx.retry_temporary(|| claim.unfence())?;
            return session::end_claim(ctx, claim, Target::Merge, &mut |_| Ok(())).map(drop);
        }
        Fate::Waits(reason) => {
            ctx.rt.merges.rest(&name);
            ctx.retry_temporary(|| claim.unfence())?;
            let last = record.history().last.as_ref();
            let said = last.and_then(|last| last.returned.as_ref());
            if said.is_some_and(|said| said.reason == reason) {
                return session::end_claim(ctx, claim, Target::Merge, &mut |_| Ok(())).map(drop);
            }
            let event = Event::Returned(Returned {
                session,
                reason,
                next: Some(Next::Merge.into()),
                ..Returned::default()
            });
            (event, Next::Merge)
        }
        Fate::Merged(landing) => (Event::Merged(*landing), Next::Done),
        Fate::Returned(returned) => {
            let next = returned.next.as_ref().and_then(Word::known);
            let event = Event::Returned(Returned {
                session,
                ..*returned
            });
            (event, next.unwrap_or(Next::Parked))
        }
    };
    ctx.retry_temporary(|| record.append(&event))?;
    if ctx.rt.durable && !planted("end-unsynced") {
        ctx.retry_temporary(|| record.sync())?;
    }
    let target = session::target_of(next, None);
    session::end_claim(ctx, claim, target, &mut |_| {
        tell(ctx, &name, &event, next);
        Ok(())
    })?;
    if next != Next::Merge {
        ctx.rt.merges.forget(&name);
    }
    say(ctx, &name, &event, next, branch, record.history().attempts);
    Ok(())
}

/// Tells hooks and `notify`, before the claim is given up: whoever recovers one tells again.
fn tell(ctx: &WorkerContext, name: &Name, event: &Event, next: Next) {
    let (told, returned) = match (event, next) {
        (Event::Merged(landing), _) => return session::hooks::landed(ctx, name, landing),
        (Event::Returned(returned), Next::Review) => (Told::Review, returned),
        (Event::Returned(returned), Next::Parked) => (Told::Parked, returned),
        _ => return,
    };
    let state = match next {
        Next::Review => Place::Review,
        _ => Place::Parked,
    };
    let outcome = returned
        .outcome
        .as_ref()
        .map(|word| word.as_str().to_owned());
    let known = session::hooks::facts_of(&ctx.rt, &returned.session, name);
    let facts = Facts {
        slot: Some(ctx.slot().to_string()),
        state: Some(state.dir().to_owned()),
        outcome: outcome.or(known.outcome.clone()),
        reason: Some(returned.reason.clone()),
        what_to_do: Some(session::hooks::look_at(&ctx.rt, name)),
        ..known
    };
    hooks::tell(&ctx.rt, told, &facts, None);
}

fn say(ctx: &WorkerContext, name: &Name, event: &Event, next: Next, branch: String, attempt: u32) {
    let (slot, console) = (ctx.slot(), &ctx.rt.console);
    let (outcome, reason) = match event {
        Event::Merged(landing) => {
            let reason = landing.reason();
            console.say_of(slot, Paint::Green, "merged", &format!("{name}: {reason}"));
            (Some(Outcome::Succeeded), reason)
        }
        Event::Returned(returned) => {
            let to = match next {
                Next::Merge => "stays in queue/merge/",
                Next::Review => "back in queue/review/",
                Next::Pending => "back in queue/pending/",
                _ => "parked",
            };
            let text = format!("{name}: {}; {to}", returned.reason);
            console.say_of(slot, Paint::Yellow, "not merged", &text);
            let outcome = returned.outcome.as_ref().and_then(Word::known);
            (outcome, returned.reason.clone())
        }
        _ => return,
    };
    if matches!(next, Next::Done | Next::Parked) {
        let result = ItemResult {
            name: name.clone(),
            outcome,
            attempt,
            seconds: 0.0,
            branch: Some(branch).filter(|branch| !branch.is_empty()),
            has_notes: false,
            reason,
        };
        let place = match next {
            Next::Parked => Place::Parked,
            _ => Place::Done,
        };
        ctx.rt.results.claimed_again(name);
        ctx.rt.results.ended(result, place);
        ctx.rt.ready.ended(name.as_os_str());
    }
}
