//! One batch from its claims to the end of each of its items.

use std::time::Duration;

use super::chain::{self, Left, Link};
use super::fate::{self, Fate};
use super::gate::{self, Gated};
use super::land::{self, Land};
use super::{Batch, bisect, ours, target};
use crate::config::{How, OnConflict};
use crate::error::Result;
use crate::git::Merged;
use crate::limits::STARTS_MAX;
use crate::outcome::{Next, Outcome};
use crate::record::{Event, Returned};
use crate::session::WorkerContext;
use crate::session::gates::{Tries, is_alike};
use crate::status::SlotState;

/// The base moves while gates run: after so many lost races the items go back, and others get a turn.
const RACES_MAX: usize = 5;

/// Merges the batch; each of its items then is where it belongs.
pub(super) fn merge(ctx: &mut WorkerContext, batch: &mut Batch) -> Result<()> {
    show(ctx, batch);
    for _ in 0..RACES_MAX {
        end_taken(ctx, batch)?;
        if batch.candidates.is_empty() {
            return Ok(());
        }
        let base = match target(ctx, batch)? {
            Ok(base) => base,
            Err(why) => return end_all(ctx, batch, |_| Fate::Waits(why.clone())),
        };
        batch.into.clone_from(&base.name);
        let how = batch.line.integrate.how;
        let (hub, candidates) = (batch.hub.clone(), &batch.candidates);
        let (links, left) = chain::build(ctx, &hub, &base.oid, how, candidates)?;
        let mut fates = of_left(batch, left);
        if let Some(refused) = ours::first_change(ctx, batch, &base.oid, &links)? {
            // The others are merged without it.
            fates.push(refused);
            return end_each(ctx, batch, fates);
        }
        let done = match links.is_empty() {
            true => true,
            false => try_links(ctx, batch, &base.oid, links, &mut fates)?,
        };
        if done {
            return end_each(ctx, batch, fates);
        }
        unfence(ctx, batch)?;
    }
    end_all(ctx, batch, |_| Fate::Again)
}

type Fates = Vec<(usize, Fate)>;

fn show(ctx: &WorkerContext, batch: &Batch) {
    let first = batch.candidates.first().map(|c| c.claim.name.shown());
    let reason = match batch.candidates.len() {
        1 => "merges it".to_owned(),
        n => format!("merges it and {} more", n - 1),
    };
    ctx.rt.slots.show(ctx.slot(), |s| {
        s.state = SlotState::Finishing;
        s.item = first;
        s.reason = Some(reason);
    });
}

/// Items whose files a person took away are given up.
fn end_taken(ctx: &WorkerContext, batch: &mut Batch) -> Result<()> {
    let all = std::mem::take(&mut batch.candidates);
    for candidate in all {
        match candidate.claim.is_ours() {
            true => batch.candidates.push(candidate),
            false => fate::end(ctx, candidate, Fate::Again)?,
        }
    }
    Ok(())
}

fn unfence(ctx: &WorkerContext, batch: &mut Batch) -> Result<()> {
    for candidate in &mut batch.candidates {
        let claim = &mut candidate.claim;
        ctx.retry_temporary(|| claim.unfence())?;
    }
    Ok(())
}

/// All that is still claimed goes back to `merge/`.
pub(super) fn put_back(ctx: &WorkerContext, batch: &mut Batch) -> Result<()> {
    end_each(ctx, batch, Vec::new())
}

/// All that is still claimed waits for a while, for this reason.
pub(super) fn hold_up(ctx: &WorkerContext, batch: &mut Batch, why: &str) -> Result<()> {
    end_all(ctx, batch, |_| Fate::Waits(why.to_owned()))
}

fn end_all(ctx: &WorkerContext, batch: &mut Batch, fate: impl Fn(usize) -> Fate) -> Result<()> {
    let all = (0..batch.candidates.len())
        .map(|at| (at, fate(at)))
        .collect();
    end_each(ctx, batch, all)
}

/// Whatever has no fate of its own goes back to `merge/`.
fn end_each(ctx: &WorkerContext, batch: &mut Batch, mut fates: Fates) -> Result<()> {
    let all = std::mem::take(&mut batch.candidates);
    for (at, candidate) in all.into_iter().enumerate() {
        let own = fates.iter().position(|(of, _)| *of == at);
        let own = own.map_or(Fate::Again, |n| fates.swap_remove(n).1);
        fate::end(ctx, candidate, own)?;
    }
    Ok(())
}

/// What becomes of those that could not be merged.
fn of_left(batch: &Batch, left: Vec<(usize, Left)>) -> Fates {
    let fate = |at: usize, left| match left {
        Left::Later => Fate::Again,
        Left::Cannot(why) => Fate::parked(Outcome::Failed, why),
        Left::Contained => {
            let candidate = &batch.candidates[at];
            Fate::Merged(Box::new(crate::record::Landing {
                session: candidate.session.clone(),
                branch: candidate.branch.clone(),
                head: candidate.head.clone(),
                repo: Some(batch.line.repo.clone()),
                into: batch.into.clone(),
                commit: candidate.head.clone(),
                ..Default::default()
            }))
        }
        Left::Conflict {
            files,
            ours,
            theirs,
        } => conflict(batch, at, files, &ours, &theirs),
    };
    left.into_iter()
        .map(|(at, left)| (at, fate(at, left)))
        .collect()
}

fn conflict(
    batch: &Batch,
    at: usize,
    files: Vec<String>,
    ours: &[String],
    theirs: &[String],
) -> Fate {
    let again = batch.candidates[at].record.history().conflicts > 0;
    let by_agent = batch.line.integrate.on_conflict == OnConflict::Agent && !again;
    let into = &batch.into;
    let what_to_do = match by_agent {
        true => format!("; merge {into} into your branch, and resolve what conflicts"),
        false => String::new(),
    };
    let reason = format!(
        "it conflicts with {into} in {}: {into} has {}, its branch has {}{what_to_do}",
        named(&files),
        named(ours),
        named(theirs)
    );
    let next = if by_agent {
        Next::Pending
    } else {
        Next::Parked
    };
    Fate::Returned(Box::new(Returned {
        reason,
        outcome: Some(Outcome::Conflict.into()),
        next: Some(next.into()),
        files,
        into: by_agent.then(|| into.clone()),
        ..Returned::default()
    }))
}

fn named(all: &[String]) -> String {
    let shown: Vec<&str> = all.iter().take(3).map(String::as_str).collect();
    let more = if all.len() > 3 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Gates the chain and lands what passes. `false`: again, from the base's new tip.
fn try_links(
    ctx: &mut WorkerContext,
    batch: &mut Batch,
    onto: &str,
    links: Vec<Link>,
    fates: &mut Fates,
) -> Result<bool> {
    let Some(last) = links.last() else {
        return Ok(true);
    };
    let which: Vec<usize> = links.iter().map(|link| link.at).collect();
    let commit = last.commit.clone();
    let gated = gate::gate(ctx, batch, &commit, &which, Tries::UntilSure)?;
    let key = batch.line.key();
    if gated.is_void {
        return Ok(false);
    }
    if gated.passes() {
        ctx.rt.merges.was_green(&key, links.len());
        return landed(ctx, batch, onto, &links, &gated, fates);
    }
    if !gated.is_red() {
        let why = format!("{} on {} with it", gated.line(), batch.into);
        fates.extend(
            which
                .iter()
                .map(|&at| (at, unevaluated(ctx, batch, at, &why))),
        );
        return Ok(true);
    }
    ctx.rt.merges.was_red(&key);
    match links.len() {
        1 => {
            let fate = of_red(ctx, batch, onto, &links[0], gated)?;
            fates.push((links[0].at, fate));
            Ok(true)
        }
        _ => find_culprit(ctx, batch, onto, &links, fates),
    }
}

fn landed(
    ctx: &mut WorkerContext,
    batch: &mut Batch,
    onto: &str,
    links: &[Link],
    gated: &Gated,
    fates: &mut Fates,
) -> Result<bool> {
    match land::land(ctx, batch, onto, links, gated)? {
        Land::Again => Ok(false),
        Land::Waits(why) => {
            fates.extend(links.iter().map(|link| (link.at, Fate::Waits(why.clone()))));
            Ok(true)
        }
        Land::Done(landings) => {
            if let (Some(remote), Some(tip)) = (&batch.line.integrate.push, links.last()) {
                push(ctx, batch, remote, &tip.commit);
            }
            let merged = landings
                .into_iter()
                .map(|landing| Fate::Merged(Box::new(landing)));
            fates.extend(links.iter().map(|link| link.at).zip(merged));
            Ok(true)
        }
    }
}

const PUSHES: u32 = 3;

/// What landed stays landed: a push that fails is tried again a few times, and then said.
fn push(ctx: &WorkerContext, batch: &Batch, remote: &str, commit: &str) {
    let users = batch.hub.users(Some(ctx.lease.lock()));
    for tries in 1..=PUSHES {
        match users.push(remote, &batch.into, commit) {
            Ok(()) => return,
            Err(e) if tries == PUSHES || e.kind() != crate::error::Kind::Temporary => {
                let text = format!(
                    "{}: {} landed, and is not pushed: {e}",
                    ctx.slot(),
                    batch.into
                );
                return ctx.rt.console.warn(&text);
            }
            Err(_) => ctx.rest(Duration::from_secs(2), crate::runtime::Level::Stopping),
        }
    }
}

/// A gate that says nothing holds its items up for a while, and parks them in the end.
fn unevaluated(ctx: &WorkerContext, batch: &Batch, at: usize, why: &str) -> Fate {
    match ctx.rt.merges.rests_so_far(&batch.candidates[at].claim.name) + 1 < STARTS_MAX {
        true => Fate::Waits(why.to_owned()),
        false => Fate::parked(Outcome::GateFailed, format!("{why}, again and again")),
    }
}

/// Together they are red: lands the longest green beginning, parks the one behind it, and leaves the
/// others for the next batch.
fn find_culprit(
    ctx: &mut WorkerContext,
    batch: &mut Batch,
    onto: &str,
    links: &[Link],
    fates: &mut Fates,
) -> Result<bool> {
    let (mut green, mut unsure, mut is_void) = (Gated::default(), false, false);
    let found = bisect::first_red(links.len(), |k| {
        let which: Vec<usize> = links[..k].iter().map(|link| link.at).collect();
        let gated = gate::gate(ctx, batch, &links[k - 1].commit, &which, Tries::One)?;
        is_void |= gated.is_void;
        unsure |= !gated.passes() && !gated.is_red();
        let holds = !gated.passes();
        if !holds {
            green = gated;
        }
        Ok::<_, crate::error::Error>(holds)
    })?;
    if is_void {
        return Ok(false);
    }
    if unsure {
        let why = "its gates could not be evaluated, so that nobody knows which of a batch is red";
        let waits = |link: &Link| (link.at, unevaluated(ctx, batch, link.at, why));
        fates.extend(links.iter().map(waits));
        return Ok(true);
    }
    let (beginning, guilty) = (&links[..found.green], &links[found.culprit]);
    if !beginning.is_empty() && !landed(ctx, batch, onto, beginning, &green, fates)? {
        return Ok(false);
    }
    let fate = match beginning.is_empty() {
        true => {
            let again = gate::gate(ctx, batch, &guilty.commit, &[guilty.at], Tries::UntilSure)?;
            match again.is_red() {
                true => of_red(ctx, batch, onto, guilty, again)?,
                // Flaky: the next batch tells.
                false => Fate::Again,
            }
        }
        false => with_whom(ctx, batch, onto, beginning, guilty)?,
    };
    fates.push((guilty.at, fate));
    Ok(true)
}

/// A branch that is red behind others that are green: by itself, or only with one of them?
fn with_whom(
    ctx: &mut WorkerContext,
    batch: &mut Batch,
    onto: &str,
    beginning: &[Link],
    guilty: &Link,
) -> Result<Fate> {
    let how = batch.line.integrate.how;
    let Some(alone) = on(ctx, batch, onto, how, guilty.at)? else {
        return Ok(Fate::Again);
    };
    let gated = gate::gate(ctx, batch, &alone, &[guilty.at], Tries::UntilSure)?;
    if gated.is_void {
        return Ok(Fate::Again);
    }
    if gated.is_red() {
        let at = Link {
            at: guilty.at,
            commit: alone,
            tree: String::new(),
        };
        return of_red(ctx, batch, onto, &at, gated);
    }
    // Green alone: the first of the others with which it is red.
    let with = |k: usize| -> Vec<usize> {
        let before = beginning[..k].iter().map(|link| link.at);
        before.chain([guilty.at]).collect()
    };
    let found = bisect::first_red(beginning.len(), |k| {
        let Some(commit) = on(ctx, batch, &beginning[k - 1].commit, how, guilty.at)? else {
            return Ok::<_, crate::error::Error>(false);
        };
        let gated = gate::gate(ctx, batch, &commit, &with(k), Tries::One)?;
        Ok(gated.is_red())
    })?;
    let other = &beginning[found.culprit];
    let Some(commit) = on(ctx, batch, &beginning[found.culprit].commit, how, guilty.at)? else {
        return Ok(Fate::Again);
    };
    let which = with(found.culprit + 1);
    let sure = gate::gate(ctx, batch, &commit, &which, Tries::UntilSure)?;
    if !sure.is_red() {
        return Ok(Fate::Again);
    }
    let (other, own) = (&batch.candidates[other.at], &batch.candidates[guilty.at]);
    let reason = format!(
        "{}: {} and {} are green alone and red together; {} has landed",
        sure.line(),
        own.claim.name,
        other.claim.name,
        other.claim.name
    );
    note_gate(batch, guilty.at, sure)?;
    Ok(Fate::parked(Outcome::GateFailed, reason))
}

/// The commit of one branch on top of another commit. `None`: it does not merge there.
fn on(
    ctx: &WorkerContext,
    batch: &Batch,
    onto: &str,
    how: How,
    at: usize,
) -> Result<Option<String>> {
    let tree = ctx.retry_temporary(|| batch.hub.tree_of(onto))?;
    match chain::merge(ctx, &batch.hub, (onto, &tree), how, &batch.candidates[at])? {
        Ok(Merged::Clean { commit, .. }) => Ok(Some(commit)),
        _ => Ok(None),
    }
}

/// One branch alone on the base is red. Where the base itself is, nobody's branch is to blame.
fn of_red(
    ctx: &mut WorkerContext,
    batch: &mut Batch,
    onto: &str,
    link: &Link,
    gated: Gated,
) -> Result<Fate> {
    let base = gate::gate(ctx, batch, onto, &[link.at], Tries::UntilSure)?;
    if base.is_void {
        return Ok(Fate::Again);
    }
    let fails_alike = match (&gated.held_by, &base.held_by) {
        (Some(now), Some(before)) => is_alike(now, before),
        _ => false,
    };
    if fails_alike {
        let why = format!(
            "{} on {} without it: mend the base",
            base.line(),
            batch.into
        );
        return Ok(Fate::Waits(why));
    }
    let reason = format!("{} on {} with it", gated.line(), batch.into);
    note_gate(batch, link.at, gated)?;
    Ok(Fate::parked(Outcome::GateFailed, reason))
}

/// What a gate said of it, for its next attempt.
fn note_gate(batch: &mut Batch, at: usize, gated: Gated) -> Result<()> {
    let candidate = &mut batch.candidates[at];
    match gated.held_by {
        Some(ran) if ran.session == candidate.session => candidate.record.append(&Event::Gate(ran)),
        _ => Ok(()),
    }
}
