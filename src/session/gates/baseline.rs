//! What gates say of a base: run once for each of its commits, before an agent starts there, and
//! remembered in `state/gates/`. A gate that fails on the base in the same way is not the attempt's
//! fault.
//!
//! Invariants: a remembered verdict is of this gate as it is configured now; a slot that waits for
//! another one's verdict waits with an end, and a lost lock only makes a gate run twice.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::chosen;
use crate::atomic;
use crate::clock;
use crate::config::{GateTable, Moment};
use crate::error::Result;
use crate::layout::{Root, escaped, join};
use crate::lease;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::outcome::Verdict;
use crate::record::GateRan;
use crate::runtime::Level;
use crate::session::supervised::LOOK;
use crate::session::{Attempt, Failed, WorkerContext};
use crate::text;

/// What setting up and ending two runs takes at most, beside their time.
const SPARE: Duration = Duration::from_secs(60);

/// What is remembered: `state/gates/REPO/COMMIT/GATE.json`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Baseline {
    /// What the gate was, in words that change with it.
    definition: String,
    /// What it said.
    verdict: Verdict,
    /// Why, where it is not green.
    reason: String,
    /// The tests that failed, where they are known by name.
    tests: Vec<String>,
}

impl Baseline {
    fn ran(self, gate: &str) -> GateRan {
        GateRan {
            gate: gate.to_owned(),
            verdict: self.verdict.into(),
            reason: self.reason,
            tests: self.tests,
            ..GateRan::default()
        }
    }
}

fn place(root: &Root, repo: &str, commit: &str, gate: &str) -> PathBuf {
    let folder = join(&root.gates(), escaped(repo));
    join(&folder, escaped(commit)).join(format!("{gate}.json"))
}

fn definition(table: &GateTable) -> String {
    format!("{:?} {:?} {:?}", table.command, table.script, table.junit)
}

fn remembered(path: &Path, table: &GateTable) -> Option<Baseline> {
    let text = atomic::read_small(path, STATE_FILE_BYTES_MAX).ok()?;
    let found: Baseline = serde_json::from_slice(&text).ok()?;
    (found.definition == definition(table)).then_some(found)
}

/// Runs the gates of the moment `before` on the base that is checked out, where their verdict is not
/// known. Returns what an agent should know of its base, and whether any ran. Its worktree is then as it
/// was, but for ignored files where those are removed before each item.
pub(in crate::session) fn before(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    is_at_base: bool,
) -> Result<(Vec<String>, bool), Failed> {
    let rt = ctx.rt.clone();
    let Some(work) = attempt.work.clone() else {
        return Ok((Vec::new(), false));
    };
    let (repo, base) = (work.hub.repo().name.clone(), work.base.oid.clone());
    let (mut red, mut any) = (Vec::new(), false);
    for (name, table) in chosen(&rt.config, &attempt.claim.item, Moment::Before) {
        let path = place(&rt.root, &repo, &base, name);
        let mut found = remembered(&path, table);
        if found.is_none() && is_at_base {
            found = match turn(ctx, attempt, name, table, &path)? {
                Turn::Known(known) => Some(known),
                Turn::Ours(lock) => {
                    any = true;
                    let found = find_out(ctx, attempt, name, table, &base, &path);
                    let _stays = lock.map(|_held| atomic::remove(&lock_of(&path)));
                    found?
                }
            };
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
    Ok((red, any))
}

fn taken_away() -> Failed {
    Failed::PutOff("its file was taken away".into())
}

fn stopping() -> Failed {
    Failed::PutOff("harness was told to stop".into())
}

/// Who runs a gate that several slots want to know of.
enum Turn {
    /// Another slot has found out.
    Known(Baseline),
    /// This slot, with the lock that tells others so; `None`: they have had their time.
    Ours(Option<File>),
}

fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

/// Of several slots that begin on a new base one runs the gate, and the others wait for its verdict: at
/// most as long as two runs take.
fn turn(
    ctx: &WorkerContext,
    attempt: &Attempt,
    name: &str,
    table: &GateTable,
    path: &Path,
) -> Result<Turn, Failed> {
    // One that cannot be made is met again where the verdict is written, and said there.
    let Ok(()) = make_folder(path) else {
        return Ok(Turn::Ours(None));
    };
    let end = clock::instant() + table.timeout.saturating_mul(2) + SPARE;
    loop {
        let lock = lease::try_lock(&lock_of(path))?;
        // Asked after the lock: whoever had it has written first.
        if let Some(known) = remembered(path, table) {
            return Ok(Turn::Known(known));
        }
        if lock.is_some() || clock::instant() >= end {
            return Ok(Turn::Ours(lock));
        }
        if ctx.rt.lifecycle.level() >= Level::Stopping {
            return Err(stopping());
        }
        if !attempt.claim.is_there() {
            return Err(taken_away());
        }
        let why = format!("waits for gate {name}, which another slot runs on the same base");
        ctx.show_reason(Some(why));
        ctx.waker.wait(LOOK);
    }
}

fn find_out(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    name: &str,
    table: &GateTable,
    base: &str,
    path: &Path,
) -> Result<Option<Baseline>, Failed> {
    match on_base(ctx, attempt, name, table, base) {
        Ok(Some(ran)) => Ok(remember(ctx, path, table, &ran)),
        Ok(None) => Err(taken_away()),
        Err(_) if ctx.rt.lifecycle.level() >= Level::Stopping => Err(stopping()),
        Err(e) => Err(e.into()),
    }
}

fn on_base(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    name: &str,
    table: &GateTable,
    base: &str,
) -> Result<Option<GateRan>> {
    let ran = super::in_place(ctx, attempt, name, table, (Moment::Before, base))?;
    if let Some(ran) = &ran {
        super::tell(ctx, attempt, ran);
    }
    Ok(ran)
}

/// What could not be evaluated is not remembered: it is tried again with the next item.
fn remember(
    ctx: &WorkerContext,
    path: &Path,
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
    let written = make_folder(path).and_then(|()| {
        let text = text::pretty_json(&found).unwrap_or_default();
        atomic::replace(path, &text, false)
    });
    if let Err(e) = written {
        // It is found out again.
        ctx.rt.console.warn(&format!("{}: {e}", ctx.slot()));
    }
    Some(found)
}

/// Makes the folders that a verdict lies in.
fn make_folder(path: &Path) -> Result<()> {
    let folders: Vec<&Path> = path.ancestors().skip(1).take(2).collect();
    let mut folders = folders.into_iter().rev();
    folders.try_for_each(|dir| atomic::make_dir(dir, true))
}

/// Whether the base is known to fail this gate in the same way.
pub(super) fn fails_alike(
    root: &Root,
    repo: &str,
    base: &str,
    table: &GateTable,
    ran: &GateRan,
) -> bool {
    let found = remembered(&place(root, repo, base, &ran.gate), table);
    found.is_some_and(|found| is_alike(ran, &found.ran(&ran.gate)))
}

/// Whether a gate is red as it is on the base, which is nobody's fault: no test fails that did not fail
/// there. Where tests have no names, both have none.
pub(crate) fn is_alike(now: &GateRan, base: &GateRan) -> bool {
    let is_red = |ran: &GateRan| ran.verdict.known() == Some(Verdict::Red);
    now.gate == base.gate
        && is_red(now)
        && is_red(base)
        && now.tests.is_empty() == base.tests.is_empty()
        && now.tests.iter().all(|test| base.tests.contains(test))
}
