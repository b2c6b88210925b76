//! Merging without a merging process: whichever worker is free takes finished branches from
//! `queue/merge/`, merges them onto the tip of their base, has the gates run on exactly that tree, and
//! moves the base by compare-and-swap.
//!
//! `queue` (what waits) → `chain` (merged onto each other, in the hub) → `gate` → `bisect` where that is
//! red → `land`. Each item ends with one of `fate`'s.
//!
//! Knows nothing of agents. Invariants: the base never has a tip that its gates did not pass as that
//! tree, and only moves onto what was read; a lock saves work, the swap alone keeps that right; nothing is
//! merged but the commit that was approved.

mod batch;
mod bisect;
mod chain;
mod fate;
mod gate;
mod land;
mod ours;
mod queue;

use std::fs::File;
use std::sync::Arc;

pub(crate) use fate::settled;
pub(crate) use land::holding_id;
pub(crate) use queue::{waiting, waiting_now};

use self::fate::Fate;
use crate::agents::SCRIPT;
use crate::atomic;
use crate::config::How;
use crate::error::{Error, Kind, Result};
use crate::git::{Base, Hub};
use crate::hooks::{self, Facts};
use crate::layout::{Name, Place, Root, escaped};
use crate::lease;
use crate::mutant::planted;
use crate::outcome::{Next, Outcome};
use crate::record::{Event, LastAttempt, Record, Returned, Reviewed};
use crate::runtime::Level;
use crate::session::{self, WorkerContext};
use crate::spool::{self, Claim};
use queue::Line;

/// An item whose branch is being merged.
struct Candidate {
    claim: Box<Claim>,
    record: Record,
    /// The attempt that made it.
    session: String,
    branch: String,
    /// The commit that was approved.
    head: String,
    /// Who made it, for `assisted_by`.
    assisted_by: Option<String>,
}

/// Candidates that are merged together.
struct Batch {
    line: Line,
    hub: Arc<Hub>,
    /// The branch that they are merged into.
    into: String,
    candidates: Vec<Candidate>,
    /// Runs of gates so far, to tell their logs apart.
    runs: u32,
}

impl Candidate {
    /// The message of the commit that stands for it.
    fn message(&self, how: How) -> String {
        let name = self.claim.name.shown();
        let title = self.claim.item.title().map(crate::text::one_line);
        let subject = match (how, title) {
            (How::Merge, Some(title)) => format!("Merge {}: {title}", self.branch),
            (How::Merge, None) => format!("Merge {}", self.branch),
            (_, Some(title)) => title,
            (_, None) => name.clone(),
        };
        let mut text = format!(
            "{subject}\n\nHarness-Item: {name}\nHarness-Session: {}\n",
            self.session
        );
        if let Some(agent) = &self.assisted_by {
            text.push_str(&format!("Assisted-by: {agent}\n"));
        }
        text
    }
}

/// Merges some of what waits. `false`: there was nothing to do here.
///
/// # Errors
/// What was claimed stays in `claimed/`, for the recovery of this slot to put back.
pub(crate) fn work(ctx: &mut WorkerContext) -> Result<bool> {
    let rt = ctx.rt.clone();
    let all = waiting(&rt);
    if all.is_empty() {
        return Ok(false);
    }
    for (line, names) in queue::lines(&rt, all) {
        let Some(_turn) = turn(ctx, &line)? else {
            continue;
        };
        let most = rt.merges.most(&line.key(), line.integrate.batch);
        let mut candidates = Vec::new();
        let hub = rt.repos.hub(&rt.root, &line.repo)?;
        let mut names = names.into_iter();
        while candidates.len() < most {
            let mut claimed = Vec::new();
            while candidates.len() + claimed.len() < most
                && let Some(name) = names.next()
            {
                claimed.extend(claim(ctx, &line, &name)?);
            }
            if claimed.is_empty() {
                break;
            }
            candidates.extend(to_merge(ctx, hub.as_deref(), claimed)?);
        }
        let (Some(hub), false) = (hub, candidates.is_empty()) else {
            continue;
        };
        let mut batch = Batch {
            line,
            hub,
            into: String::new(),
            candidates,
            runs: 0,
        };
        return match batch::merge(ctx, &mut batch) {
            // What was not landed waits in `merge/`, for any process.
            Err(_) if rt.lifecycle.level() >= Level::Stopping => {
                batch::put_back(ctx, &mut batch).map(|()| true)
            }
            // What stands in the way of this merge holds up no other, and no new item.
            Err(e) if e.kind() != Kind::Temporary => {
                let why = crate::text::one_line(&e.to_string());
                batch::hold_up(ctx, &mut batch, &why).map(|()| true)
            }
            merged => merged.map(|()| true),
        };
    }
    Ok(false)
}

/// Of several workers one merges into a branch: the others' gates would run in vain. Never waited for.
fn turn(ctx: &WorkerContext, line: &Line) -> Result<Option<File>> {
    let file = format!("merge-{}.lock", escaped(&line.key()));
    lease::try_lock(&ctx.rt.root.kept_repos().join(file))
}

impl Line {
    /// Tells what is merged into, for locks and sizes.
    fn key(&self) -> String {
        let into = self.integrate.into.as_deref().unwrap_or("");
        format!("{} {into}", self.repo)
    }
}

/// Claims one of them. `None`: somebody else has it.
fn claim(ctx: &WorkerContext, line: &Line, name: &Name) -> Result<Option<Candidate>> {
    let root = &ctx.rt.root;
    let intend = || approve(ctx, name);
    let taken = match spool::take_waiting(root, &ctx.lease, name, intend) {
        Err(e) if e.kind() != Kind::Temporary => return park_unrecorded(ctx, name, &e),
        taken => taken?,
    };
    let Some((claim, record)) = taken else {
        return Ok(None);
    };
    let history = record.history();
    let approved = queue::approved(history.last.as_ref());
    let (session, branch, head) = approved.unwrap_or_default();
    Ok(Some(Candidate {
        claim,
        assisted_by: match line.integrate.assisted_by {
            true => assistant(root, &session),
            false => None,
        },
        record,
        session,
        branch,
        head,
    }))
}

/// Those of them that are to be merged as they are. What becomes of the others is on record.
fn to_merge(
    ctx: &WorkerContext,
    hub: Option<&Hub>,
    claimed: Vec<Candidate>,
) -> Result<Vec<Candidate>> {
    let branches = claimed.iter().map(|candidate| &*candidate.branch);
    let branches: Vec<&str> = branches.collect();
    let tips = match hub {
        Some(hub) => ctx.retry_temporary(|| hub.published_at(&branches))?,
        None => vec![None; branches.len()],
    };
    let mut right = Vec::new();
    for (candidate, tip) in claimed.into_iter().zip(tips) {
        match why_not(ctx, hub, &candidate, tip)? {
            None => right.push(candidate),
            Some(fate) => fate::end(ctx, candidate, fate)?,
        }
    }
    Ok(right)
}

/// `AGENT:MODEL`, as far as it is known; `None`: a script made it.
fn assistant(root: &Root, session: &str) -> Option<String> {
    let file = session::file::read(&root.session(session), session)?;
    let model = file
        .model
        .map_or_else(String::new, |model| format!(":{model}"));
    (file.agent != SCRIPT).then(|| crate::text::one_line(&format!("{}{model}", file.agent)))
}

/// Its record cannot be used, so that nothing can be said there: the others do not wait for it.
fn park_unrecorded(ctx: &WorkerContext, name: &Name, e: &Error) -> Result<Option<Candidate>> {
    let path = |place| ctx.rt.root.item(place, name);
    atomic::rename_with_backup(&path(Place::Merge), &path(Place::Parked))?;
    let text = format!("{}  parked     {name}: {e}", ctx.slot());
    ctx.rt.console.warn(&text);
    let facts = Facts {
        name: Some(name.clone()),
        slot: Some(ctx.slot().to_string()),
        state: Some(Place::Parked.dir().to_owned()),
        reason: Some(crate::text::one_line(&e.to_string())),
        what_to_do: Some(session::hooks::look_at(&ctx.rt, name)),
        ..Facts::default()
    };
    hooks::tell(&ctx.rt, hooks::Event::Parked, &facts, None);
    Ok(None)
}

/// A `mv` into `merge/` is an approval: it is on record before its file is taken, so that whoever
/// recovers this slot puts it back there.
fn approve(ctx: &WorkerContext, name: &Name) -> Result<Record> {
    let mut record = Record::open(&ctx.rt.root, name)?;
    let last = record.history().last.as_ref();
    let waits = last.is_some_and(LastAttempt::waits_to_merge);
    if let Some((_, _, commit)) = queue::approved(last).filter(|_| !waits) {
        let by = "mv".to_owned();
        record.append(&Event::Approved(Reviewed {
            by,
            commit,
            comment: None,
        }))?;
        if ctx.rt.durable {
            record.sync()?;
        }
    }
    Ok(record)
}

/// What becomes of an item whose branch is not to be merged as it is. `now`: where it is.
fn why_not(
    ctx: &WorkerContext,
    hub: Option<&Hub>,
    candidate: &Candidate,
    now: Option<String>,
) -> Result<Option<Fate>> {
    let park = |reason: String| Ok(Some(Fate::parked(Outcome::Failed, reason)));
    if candidate.session.is_empty() {
        return park(
            "nothing is known of a branch of it: no attempt of it published one".to_owned(),
        );
    }
    let Some(hub) = hub else {
        return park("its repository is no longer configured".to_owned());
    };
    // A harness may have died between the landing and its record.
    let last = candidate.record.history().last.as_ref();
    if let Some(landing) = last.and_then(|last| last.landing.clone())
        && settled(ctx, hub, &landing)?
    {
        return Ok(Some(Fate::Merged(Box::new(landing))));
    }
    let branch = &candidate.branch;
    match now {
        None => park(format!(
            "its branch {branch} was deleted in your repository; its commits are kept as {branch} in state/repos/"
        )),
        Some(now) if now != candidate.head && !planted("approval-by-name") => {
            let reason = format!(
                "its branch {branch} has moved from {:.9} to {now:.9} since it was to be merged: look at it again",
                candidate.head
            );
            Ok(Some(Fate::Returned(Box::new(Returned {
                reason,
                next: Some(Next::Review.into()),
                head: Some(now),
                ..Returned::default()
            }))))
        }
        Some(_) => Ok(None),
    }
}

/// The branch that is merged into, as it is now; `Err`: why nothing can be merged into it.
fn target(ctx: &WorkerContext, batch: &Batch) -> Result<std::result::Result<Base, String>> {
    let into = batch.line.integrate.into.as_deref();
    match ctx.retry_temporary(|| batch.hub.target(into)) {
        Ok(base) => Ok(Ok(base)),
        Err(e) if e.kind() == Kind::Temporary => Err(e),
        Err(e) => Ok(Err(crate::text::one_line(&e.to_string()))),
    }
}
