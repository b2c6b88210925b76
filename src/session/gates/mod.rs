//! The gates of an attempt: on its base before its agent starts (`baseline`), and on what it made when
//! the agent has succeeded. `outcome::gated` says what follows; merging has its own moment and uses
//! `run_gate` as well.
//!
//! Invariant: before the first gate the attempt's whole end is on record (`gating`), so that nobody
//! takes what a gate wrote into the worktree for the agent's work.

mod baseline;
mod feedback;
mod junit;
mod run;

use std::ffi::OsString;

pub(super) use baseline::before;
pub(super) use feedback::feedback;
pub(crate) use run::{Job, Tries, gate_prefix, run_gate};

use super::launch;
use super::{Attempt, WorkerContext};
use crate::agents::Facts;
use crate::config::{Builtin, Config, GateTable, Moment, OnFailure};
use crate::error::Result;
use crate::git::Checked;
use crate::item::{Item, Refusal};
use crate::outcome::{self, Decision, GateEvidence, Means, Outcome, Terms, Verdict};
use crate::record::{Event, GateRan, Gating};

/// The gates of this moment that an item is to pass, by name.
pub(crate) fn chosen<'c>(
    config: &'c Config,
    item: &Item,
    moment: Moment,
) -> Vec<(&'c str, &'c GateTable)> {
    let wanted = |name: &str| match &item.gates {
        Some(names) => names.iter().any(|n| n == name),
        None => true,
    };
    let all = config
        .gates
        .iter()
        .filter(|(_, gate)| gate.when.contains(&moment));
    let named = all.filter(|(name, _)| wanted(name));
    named.map(|(name, gate)| (name.as_str(), gate)).collect()
}

/// The built-in gates of an item; they too can be chosen.
fn builtin(config: &Config, item: &Item) -> Vec<Builtin> {
    let all = config.builtin_gates.builtin.iter().copied();
    match &item.gates {
        None => all.collect(),
        Some(names) => {
            let known = [
                Builtin::Changed,
                Builtin::Paths,
                Builtin::Markers,
                Builtin::Size,
            ];
            let named = |b: &Builtin| names.iter().any(|n| n == b.as_str());
            known.into_iter().filter(named).collect()
        }
    }
}

/// The refusal of an item that names a gate which nobody knows.
pub(super) fn unknown(config: &Config, item: &Item) -> Option<Refusal> {
    const BUILTIN: [&str; 4] = ["changed", "paths", "markers", "size"];
    let is_known = |name: &String| config.gates.contains_key(name) || BUILTIN.contains(&&**name);
    let name = item.gates.iter().flatten().find(|name| !is_known(name))?;
    let known = config.gates.keys().map(String::as_str).chain(BUILTIN);
    let known = known.collect::<Vec<_>>().join(", ");
    Some(Refusal(format!(
        "unknown gate `{name}`; there are: {known}"
    )))
}

pub(crate) fn means(gate: &GateTable) -> Means {
    match (gate.required, gate.on_failure) {
        (false, _) => Means::Told,
        (true, OnFailure::Retry) => Means::Retry,
        (true, OnFailure::Park) => Means::Park,
        (true, OnFailure::Interrupt) => Means::Interrupt,
    }
}

/// What was found, as evidence for a decision.
pub(crate) fn evidence(ran: &GateRan, means: Means) -> GateEvidence {
    GateEvidence {
        gate: ran.gate.clone(),
        // A word of a newer version proves nothing.
        verdict: ran.verdict.known().unwrap_or_default(),
        means,
        reason: ran.reason.clone(),
        tests: ran.tests.clone(),
    }
}

/// Runs the gates on what a successful attempt made, and decides again.
pub(super) fn after(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    decision: Decision,
    terms: &Terms,
) -> Result<Decision> {
    let rt = ctx.rt.clone();
    let item = &attempt.claim.item;
    let changed = decision.outcome != Outcome::NoChange;
    let builtin = match attempt.work {
        Some(_) => builtin(&rt.config, item),
        None => Vec::new(),
    };
    let gates = match changed {
        true => chosen(&rt.config, item, Moment::After),
        // The base's own gates say nothing of this attempt.
        false => Vec::new(),
    };
    if builtin.is_empty() && gates.is_empty() {
        return Ok(decision);
    }
    let failures = attempt.record.history().failures;
    note_gating(ctx, attempt)?;
    let tree = match &attempt.work {
        Some(work) => {
            let head = attempt.file.head.as_deref().unwrap_or(&work.base.oid);
            ctx.retry_temporary(|| work.hub.tree_of(head))?
        }
        None => String::new(),
    };
    let mut all = Vec::new();
    for gate in builtin {
        let ran = check(ctx, attempt, gate, &tree)?;
        tell(ctx, attempt, &ran);
        all.push(evidence(&ran, Means::Retry));
        attempt.record.append(&Event::Gate(ran))?;
    }
    let any = !gates.is_empty();
    for (name, table) in gates {
        let Some(ran) = one(ctx, attempt, name, table, &tree)? else {
            return Ok(decision.canceled());
        };
        all.push(evidence(&ran, means(table)));
    }
    if let Some(work) = attempt.work.as_ref().filter(|_| any) {
        // What a gate wrote is nobody's work. What stays is kept before the next item, as any other.
        let _stays = work.tree.restore();
    }
    Ok(outcome::gated(decision, &all, failures, terms))
}

/// Once for each attempt: a harness that goes on after a crash finds it there.
fn note_gating(ctx: &WorkerContext, attempt: &mut Attempt) -> Result<()> {
    let last = attempt.record.history().last.as_ref();
    if last.is_some_and(|last| last.gating.is_some()) {
        return Ok(());
    }
    let event = Event::Gating(Gating {
        session: attempt.file.session.clone(),
        end: attempt.file.end(),
    });
    let record = &mut attempt.record;
    ctx.retry_temporary(|| record.append(&event))?;
    if ctx.rt.durable {
        ctx.retry_temporary(|| record.sync())?;
    }
    Ok(())
}

/// One gate, unless its verdict is on record since before a crash.
fn one(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    name: &str,
    table: &GateTable,
    tree: &str,
) -> Result<Option<GateRan>> {
    let last = attempt.record.history().last.as_ref();
    let ran = last.iter().flat_map(|last| &last.gates);
    let mut ran = ran.filter(|ran| ran.gate == name && ran.moment == Moment::After.as_str());
    if let Some(ran) = ran.find(|ran| ran.tree == tree) {
        return Ok(Some(ran.clone()));
    }
    let (cwd, facts, env) = surroundings(ctx, attempt);
    let claim = &attempt.claim;
    let job = Job {
        gate: name,
        table,
        moment: Moment::After,
        session: &attempt.file.session,
        dir: &attempt.dir,
        cwd: &cwd,
        tree,
        facts: &facts,
        env: &env,
        number: "",
        tries: Tries::UntilSure,
        is_wanted: &|| claim.is_there(),
    };
    let Some(mut ran) = run_gate(ctx, &job)? else {
        return Ok(None);
    };
    if ran.verdict.known() == Some(Verdict::Red)
        && let Some(work) = &attempt.work
        && baseline::fails_alike(
            &ctx.rt.root,
            &work.hub.repo().name,
            &work.base.oid,
            table,
            &ran,
        )
    {
        ran.verdict = Verdict::RedBefore.into();
    }
    tell(ctx, attempt, &ran);
    let record = &mut attempt.record;
    ctx.retry_temporary(|| record.append(&Event::Gate(ran.clone())))?;
    Ok(Some(ran))
}

/// Where an attempt's gates run, and with what: the same as its agent.
fn surroundings(
    ctx: &WorkerContext,
    attempt: &Attempt,
) -> (std::path::PathBuf, Facts, Vec<(OsString, Option<OsString>)>) {
    let cwd = std::path::PathBuf::from(attempt.file.worktree.clone().unwrap_or_default());
    let facts = launch::facts(&ctx.rt, attempt, &cwd);
    let env = launch::environment(&ctx.rt, attempt, None, Default::default());
    (cwd, facts, env.into_iter().collect())
}

/// Says what is not green.
fn tell(ctx: &WorkerContext, attempt: &Attempt, ran: &GateRan) {
    let evidence = evidence(ran, Means::Told);
    if evidence.verdict != Verdict::Green {
        let (slot, name) = (ctx.slot(), &attempt.claim.name);
        ctx.rt
            .console
            .say(&format!("{slot}  gate       {name}: {}", evidence.line()));
    }
}

/// A built-in gate: looks at the commits in the hub, and runs nothing.
fn check(ctx: &WorkerContext, attempt: &Attempt, gate: Builtin, tree: &str) -> Result<GateRan> {
    let reason = match &attempt.work {
        None => None,
        Some(work) => {
            let head = attempt.file.head.as_deref().unwrap_or(&work.base.oid);
            let what = match gate {
                Builtin::Changed => Checked::Changed,
                Builtin::Paths => Checked::Paths(&attempt.claim.item.paths),
                Builtin::Markers => Checked::Markers,
                Builtin::Size => Checked::Size(ctx.rt.config.builtin_gates.size),
            };
            ctx.retry_temporary(|| work.hub.why_not(&work.base.oid, head, what))?
        }
    };
    Ok(GateRan {
        session: attempt.file.session.clone(),
        gate: gate.as_str().to_owned(),
        moment: Moment::After.as_str().to_owned(),
        tree: tree.to_owned(),
        verdict: match reason {
            None => Verdict::Green,
            Some(_) => Verdict::Red,
        }
        .into(),
        reason: reason.unwrap_or_default(),
        ..GateRan::default()
    })
}
