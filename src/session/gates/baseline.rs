//! What gates say of a base: run once for each of its commits, before an agent starts there, and
//! remembered in `state/gates/`. A gate that fails on the base in the same way is not the attempt's
//! fault.
//!
//! Invariant: a remembered verdict is of this gate as it is configured now.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Job, Tries, chosen, run_gate};
use crate::atomic;
use crate::config::{GateTable, Moment};
use crate::error::Result;
use crate::layout::{Root, join};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::outcome::Verdict;
use crate::record::GateRan;
use crate::runtime::Level;
use crate::session::{Attempt, Failed, WorkerContext};
use crate::text;

/// What is remembered: `state/gates/REPO/COMMIT/GATE.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    /// What the gate was, in words that change with it.
    definition: String,
    verdict: Verdict,
    reason: String,
    tests: Vec<String>,
}

fn place(root: &Root, repo: &str, commit: &str, gate: &str) -> PathBuf {
    let folder = join(&root.gates(), crate::layout::escaped(repo));
    join(&folder, commit).join(format!("{gate}.json"))
}

fn definition(table: &GateTable) -> String {
    format!("{:?} {:?} {:?}", table.command, table.script, table.junit)
}

fn remembered(
    root: &Root,
    repo: &str,
    commit: &str,
    name: &str,
    table: &GateTable,
) -> Option<Baseline> {
    let path = place(root, repo, commit, name);
    let text = atomic::read_small(&path, STATE_FILE_BYTES_MAX).ok()?;
    let found: Baseline = serde_json::from_slice(&text).ok()?;
    (found.definition == definition(table)).then_some(found)
}

/// Runs the gates of the moment `before` on the base that is checked out, where their verdict is not
/// known. Returns what an agent should know of its base. Its worktree is then as it was.
pub(in crate::session) fn before(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    is_at_base: bool,
) -> Result<Vec<String>, Failed> {
    let rt = ctx.rt.clone();
    let Some(work) = attempt.work.clone() else {
        return Ok(Vec::new());
    };
    let (repo, base) = (work.hub.repo().name.clone(), work.base.oid.clone());
    let (mut red, mut any) = (Vec::new(), false);
    for (name, table) in chosen(&rt.config, &attempt.claim.item, Moment::Before) {
        let mut found = remembered(&rt.root, &repo, &base, name, table);
        if found.is_none() && is_at_base {
            any = true;
            let ran = match on_base(ctx, attempt, name, table, &base) {
                Ok(Some(ran)) => ran,
                Ok(None) => return Err(Failed::PutOff("its file was taken away".into())),
                Err(_) if rt.lifecycle.level() >= Level::Stopping => {
                    return Err(Failed::PutOff("harness was told to stop".into()));
                }
                Err(e) => return Err(e.into()),
            };
            found = remember(ctx, &repo, &base, name, table, &ran);
        }
        if let Some(found) = found.filter(|f| f.verdict == Verdict::Red) {
            let tests = match found.tests.is_empty() {
                true => String::new(),
                false => format!(" ({})", found.tests.join(", ")),
            };
            red.push(format!(
                "gate {name} is red on the base already: {}{tests}",
                found.reason
            ));
        }
    }
    if any {
        // Nothing of a gate's is the agent's to find: no file, no commit, no setting of git's.
        super::make_ready(attempt)?;
        work.tree.checkout(&work.branch, &work.base)?;
    }
    Ok(red)
}

fn on_base(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    name: &str,
    table: &GateTable,
    base: &str,
) -> Result<Option<GateRan>> {
    let (cwd, facts, env) = super::surroundings(ctx, attempt);
    let claim = &attempt.claim;
    let job = Job {
        gate: name,
        table,
        moment: Moment::Before,
        session: &attempt.file.session,
        dir: &attempt.dir,
        cwd: &cwd,
        prepare: &|| super::make_ready(attempt),
        tree: base,
        facts: &facts,
        env: &env,
        number: "",
        tries: Tries::UntilSure,
        recovered: false,
        is_wanted: &|| claim.is_there(),
    };
    let ran = run_gate(ctx, &job)?;
    if let Some(ran) = &ran {
        super::tell(ctx, attempt, ran);
    }
    Ok(ran)
}

/// What could not be evaluated is not remembered: it is tried again with the next item.
fn remember(
    ctx: &WorkerContext,
    repo: &str,
    base: &str,
    name: &str,
    table: &GateTable,
    ran: &GateRan,
) -> Option<Baseline> {
    let found = Baseline {
        definition: definition(table),
        verdict: ran.verdict.known()?,
        reason: ran.reason.clone(),
        tests: ran.tests.clone(),
    };
    if found.verdict == Verdict::Unevaluated {
        return None;
    }
    let path = place(&ctx.rt.root, repo, base, name);
    let written = path
        .ancestors()
        .skip(1)
        .take(2)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .try_for_each(|dir| atomic::make_dir(dir, true))
        .and_then(|()| {
            let text = text::pretty_json(&found).unwrap_or_default();
            atomic::replace(&path, &text, false)
        });
    if let Err(e) = written {
        // It is found out again.
        ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
    }
    Some(found)
}

/// Whether the base fails this gate in the same way: with all the tests that fail now, or, where they
/// have no names, at all.
pub(super) fn fails_alike(
    root: &Root,
    repo: &str,
    base: &str,
    table: &GateTable,
    ran: &GateRan,
) -> bool {
    let Some(found) = remembered(root, repo, base, &ran.gate, table) else {
        return false;
    };
    found.verdict == Verdict::Red
        && ran.tests.iter().all(|test| found.tests.contains(test))
        && (found.tests.is_empty() == ran.tests.is_empty())
}
