//! The gates of the moment `merge`, on exactly the tree that would land, in the slot's worktree.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::Batch;
use crate::agents::Facts;
use crate::config::{GateTable, Moment};
use crate::error::Result;
use crate::git::{Base, gated_branch};
use crate::layout::{DEFAULT_REPO, join};
use crate::mutant::planted;
use crate::outcome::{Means, Verdict, Word};
use crate::record::GateRan;
use crate::session::WorkerContext;
use crate::session::gates::{self, Job, Tries};

/// What all gates say of one commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Gated {
    pub(super) ran: Vec<GateRan>,
    /// The first that holds it up.
    pub(super) held_by: Option<GateRan>,
    /// A person took one of the items away meanwhile: nobody wants to know any more.
    pub(super) is_void: bool,
}

impl Gated {
    pub(super) fn passes(&self) -> bool {
        self.held_by.is_none() && !self.is_void
    }

    pub(super) fn is_red(&self) -> bool {
        self.held_by
            .as_ref()
            .is_some_and(|ran| ran.verdict.known() == Some(Verdict::Red))
    }

    pub(super) fn verdicts(&self) -> Vec<(String, Word<Verdict>)> {
        let each = |ran: &GateRan| (ran.gate.clone(), ran.verdict.clone());
        self.ran.iter().map(each).collect()
    }

    /// One line about what holds it up.
    pub(super) fn line(&self) -> String {
        let held = self.held_by.as_ref();
        held.map_or_else(String::new, |ran| gates::evidence(ran, Means::Told).line())
    }
}

/// The gates that any of these items is to pass.
fn of(ctx: &WorkerContext, batch: &Batch, which: &[usize]) -> BTreeMap<String, GateTable> {
    let config = &ctx.rt.config;
    let items = which.iter().map(|&at| &batch.candidates[at].claim.item);
    let all = items.flat_map(|item| gates::chosen(config, item, Moment::Merge));
    all.map(|(name, table)| (name.to_owned(), table.clone()))
        .collect()
}

/// Runs the gates on a commit, until one holds it up. `which`: the candidates that are in it.
pub(super) fn gate(
    ctx: &mut WorkerContext,
    batch: &mut Batch,
    commit: &str,
    which: &[usize],
    tries: Tries,
) -> Result<Gated> {
    let gates = of(ctx, batch, which);
    let mut gated = Gated::default();
    let Some(&last) = which.last().filter(|_| !gates.is_empty()) else {
        return Ok(gated);
    };
    let commit = match planted("gate-on-branch") {
        true => batch.candidates[last].head.clone(),
        false => commit.to_owned(),
    };
    let tree = batch.hub.tree_of(&commit)?;
    let rt = ctx.rt.clone();
    let place = rt.root.worktree(ctx.slot(), &batch.line.repo);
    let branch = gated_branch(ctx.slot());
    let base = Base {
        name: batch.into.clone(),
        oid: commit.clone(),
    };
    let lock = ctx.lease.lock();
    let hub = batch.hub.clone();
    let worktree = ctx.retry_temporary(|| {
        hub.drop_branch(&branch)?;
        hub.set_up(&place, lock.clone(), &branch, &base, Vec::new())
    })?;
    ctx.repo = Some(batch.line.repo.clone()).filter(|repo| repo != DEFAULT_REPO);
    let session = batch.candidates[last].session.clone();
    let dir = rt.root.session(&session);
    let (facts, env) = surroundings(ctx, batch, last, &dir, worktree.path().to_owned());
    let candidates = &batch.candidates;
    let is_wanted = || which.iter().all(|&at| candidates[at].claim.is_there());
    // Until something runs there it is as it was just set up.
    let is_exact = Cell::new(true);
    for (name, table) in &gates {
        batch.runs += 1;
        let number = batch.runs.to_string();
        let job = Job {
            gate: name,
            table,
            moment: Moment::Merge,
            session: &session,
            dir: &dir,
            cwd: worktree.path(),
            prepare: &|| match is_exact.take() {
                true => Ok(()),
                false => worktree.make_exact(&branch, &base),
            },
            tree: &tree,
            facts: &facts,
            env: &env,
            number: &number,
            tries,
            recovered: false,
            is_wanted: &is_wanted,
        };
        let Some(ran) = gates::run_gate(ctx, &job)? else {
            gated.is_void = true;
            break;
        };
        let holds = gates::means(table) != Means::Told
            && !ran.verdict.known().unwrap_or_default().lets_pass();
        gated.ran.push(ran.clone());
        if holds {
            gated.held_by = Some(ran);
            break;
        }
    }
    // What a gate wrote there goes when the tree is set up again.
    let _stays = batch.hub.drop_branch(&branch);
    Ok(gated)
}

type Env = Vec<(OsString, Option<OsString>)>;

fn surroundings(
    ctx: &WorkerContext,
    batch: &Batch,
    last: usize,
    dir: &std::path::Path,
    worktree: PathBuf,
) -> (Facts, Env) {
    let candidate = &batch.candidates[last];
    let root = ctx.rt.root.path().as_os_str().to_owned();
    let (slot, session) = (ctx.slot().to_string(), candidate.session.clone());
    let name = candidate.claim.name.as_os_str().to_owned();
    let facts = [
        ("ITEM_FILE", join(dir, "item").into_os_string()),
        ("SESSION_ID", session.clone().into()),
        ("SESSION_DIR", dir.as_os_str().to_owned()),
        ("WORKTREE", worktree.into_os_string()),
        ("WORK_ITEM", name.clone()),
        ("SLOT", slot.clone().into()),
        ("BRANCH", batch.into.clone().into()),
        ("ROOT", root.clone()),
    ];
    let mut env = crate::session::neutral_environment();
    for (key, value) in [
        ("HARNESS_ROOT", root),
        ("HARNESS_SLOT", slot.into()),
        ("HARNESS_ITEM", name),
        ("HARNESS_SESSION", session.into()),
        ("HARNESS_SESSION_DIR", dir.as_os_str().to_owned()),
        ("HARNESS_BRANCH", batch.into.clone().into()),
    ] {
        env.insert(key.into(), Some(value));
    }
    (facts.into(), env.into_iter().collect())
}
