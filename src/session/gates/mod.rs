//! The gates of an attempt: on its base before its agent starts (`baseline`), and on what it made when
//! the agent has succeeded. `outcome::gated` says what follows; merging has its own moment and uses
//! `run_gate` as well.
//!
//! Invariant: before the first gate the attempt's whole end is on record (`gating`), so that nobody
//! takes what a gate wrote into the worktree for the agent's work.

mod again;
mod baseline;
mod feedback;
mod job;
mod junit;
mod run;
mod scarce;

use std::ffi::OsString;

pub(super) use again::{Made, to_run_again};
pub(crate) use baseline::Baseline;
pub(super) use baseline::before;
pub(crate) use baseline::is_alike;
pub(super) use feedback::feedback;
pub(crate) use feedback::printed;
pub(crate) use job::{Job, Tries, gate_prefix};
pub(super) use run::end_running;
pub(crate) use run::run_gate;

use super::launch;
use super::{Attempt, WorkerContext};
use crate::agents::Facts;
use crate::config::nearest::advice;
use crate::config::{Builtin, Config, GateTable, Moment, OnFailure};
use crate::error::{Error, Kind, Result};
use crate::git::{Base, Checked};
use crate::item::{Item, Refusal};
use crate::mutant::planted;
use crate::outcome::{self, Decision, GateEvidence, Means, Outcome, Terms, Verdict};
use crate::record::{Event, GateRan, Gating};
use crate::text;

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
            let named = |b: &Builtin| names.iter().any(|n| n == b.as_str());
            Builtin::ALL.into_iter().filter(named).collect()
        }
    }
}

/// The refusal of an item that names a gate which nobody knows.
pub(super) fn unknown(config: &Config, item: &Item) -> Option<Refusal> {
    let builtin = Builtin::ALL.map(Builtin::as_str);
    let is_known = |name: &String| config.gates.contains_key(name) || builtin.contains(&&**name);
    let name = item.gates.iter().flatten().find(|name| !is_known(name))?;
    let known = config.gates.keys().map(String::as_str).chain(builtin);
    let near = advice(name, known);
    Some(Refusal(format!("unknown gate `{name}`; {near}")))
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
    let builtin = match &attempt.file.branch {
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
    let tree = match attempt.hub(ctx)? {
        Some(hub) => {
            let head = head(attempt).to_owned();
            ctx.retry_temporary(|| hub.tree_of(&head))?
        }
        None => String::new(),
    };
    let mut all = Vec::new();
    for gate in builtin {
        let ran = check(ctx, attempt, gate, &tree)?;
        all.push(evidence(&ran, Means::Retry));
    }
    let any = !gates.is_empty();
    let mut is_wanted = true;
    for (name, table) in gates {
        match one(ctx, attempt, name, table, &tree)? {
            Some(ran) => all.push(evidence(&ran, means(table))),
            None => is_wanted = false,
        }
        if !is_wanted {
            break;
        }
    }
    if any && let Err(e) = make_ready(attempt) {
        // What stays is kept before the next item, as any other leftover.
        ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
    }
    if !is_wanted {
        return Ok(decision.canceled());
    }
    Ok(outcome::gated(decision, &all, failures, terms))
}

/// The commit that holds all that the attempt made.
fn head(attempt: &Attempt) -> &str {
    let file = &attempt.file;
    let head = file.head.as_deref().or(file.base_oid.as_deref());
    head.unwrap_or_default()
}

/// Once for each attempt: a harness that goes on after a crash finds it there.
fn note_gating(ctx: &WorkerContext, attempt: &mut Attempt) -> Result<()> {
    let last = attempt.record.history().last.as_ref();
    if last.is_some_and(|last| last.gating.is_some()) {
        return Ok(());
    }
    run::clear(&attempt.dir)?;
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

/// What a gate said of this tree, where that is on record since before a crash.
fn known(attempt: &Attempt, name: &str, tree: &str) -> Option<GateRan> {
    let last = attempt.record.history().last.as_ref()?;
    let mut ran = last.gates.iter();
    let is_it = |ran: &&GateRan| {
        ran.gate == name && ran.moment == Moment::After.as_str() && ran.tree == tree
    };
    ran.find(is_it).cloned()
}

fn note(ctx: &WorkerContext, attempt: &mut Attempt, ran: &GateRan) -> Result<()> {
    tell(ctx, attempt, ran);
    let record = &mut attempt.record;
    ctx.retry_temporary(|| record.append(&Event::Gate(ran.clone())))
}

/// One gate.
fn one(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    name: &str,
    table: &GateTable,
    tree: &str,
) -> Result<Option<GateRan>> {
    if let Some(ran) = known(attempt, name, tree) {
        return Ok(Some(ran));
    }
    let Some(mut ran) = in_place(ctx, attempt, name, table, (Moment::After, tree))? else {
        return Ok(None);
    };
    if let Some(work) = &attempt.work
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
    note(ctx, attempt, &ran)?;
    Ok(Some(ran))
}

/// Runs one in the attempt's worktree, on what is checked out there. Only what follows the agent can have
/// begun before a crash: a start that dies is begun anew.
fn in_place(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    gate: &str,
    table: &GateTable,
    (moment, tree): (Moment, &str),
) -> Result<Option<GateRan>> {
    let (cwd, facts, env) = surroundings(ctx, attempt);
    let claim = &attempt.claim;
    let job = Job {
        gate,
        table,
        moment,
        session: &attempt.file.session,
        dir: &attempt.dir,
        cwd: &cwd,
        prepare: &|| make_ready(attempt),
        tree,
        facts: &facts,
        env: &env,
        number: "",
        tries: Tries::UntilSure,
        recovered: attempt.recovered && moment == Moment::After,
        is_wanted: &|| claim.is_there(),
    };
    run_gate(ctx, &job)
}

/// Makes the worktree have exactly what the attempt made: a gate may have written there, or removed it.
/// The agent's work is in commits.
fn make_ready(attempt: &Attempt) -> Result<()> {
    let Some(work) = &attempt.work else {
        return match &attempt.file.branch {
            None => Ok(()),
            Some(_) => Err(Error::permanent(
                "cannot check out its work",
                "its repository is no longer configured",
            )),
        };
    };
    if planted("gate-on-leftovers") {
        return Ok(());
    }
    let made = Base {
        name: work.base.name.clone(),
        oid: head(attempt).to_owned(),
    };
    work.tree.make_exact(&work.branch, &made)
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
        let text = format!("{name}: {}", evidence.line());
        ctx.rt.console.note(slot, "gate", &text);
    }
}

/// A built-in gate: looks at the commits in the hub, and runs nothing.
fn check(ctx: &WorkerContext, attempt: &mut Attempt, gate: Builtin, tree: &str) -> Result<GateRan> {
    if let Some(ran) = known(attempt, gate.as_str(), tree) {
        return Ok(ran);
    }
    let (verdict, reason) = match attempt.hub(ctx)? {
        None => {
            let why = "its repository is no longer configured".to_owned();
            (Verdict::Unevaluated, why)
        }
        Some(hub) => {
            let base = attempt.file.base_oid.clone().unwrap_or_default();
            let what = match gate {
                Builtin::Changed => Checked::Changed,
                Builtin::Paths => Checked::Paths(&attempt.claim.item.paths),
                Builtin::Markers => Checked::Markers,
                Builtin::Size => Checked::Size(ctx.rt.config.builtin_gates.size),
            };
            match ctx.retry_temporary(|| hub.why_not(&base, head(attempt), what)) {
                Ok(None) => (Verdict::Green, String::new()),
                Ok(Some(reason)) => (Verdict::Red, reason),
                Err(e) if e.kind() == Kind::Temporary => return Err(e),
                Err(e) => (Verdict::Unevaluated, text::one_line(&e.to_string())),
            }
        }
    };
    let ran = GateRan {
        session: attempt.file.session.clone(),
        gate: gate.as_str().to_owned(),
        moment: Moment::After.as_str().to_owned(),
        tree: tree.to_owned(),
        verdict: verdict.into(),
        reason,
        ..GateRan::default()
    };
    note(ctx, attempt, &ran)?;
    Ok(ran)
}
