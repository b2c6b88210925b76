//! The beginning of an attempt, in three steps: `prepare` (session folder, worktree) → `plan`
//! (prompt, command line, environment) → `start` (the agent, under the slot's keeper).
//!
//! Knows nothing of what the agent does. Invariant: whatever fails here has started nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::file::SessionFile;
use super::gates::{self, Made};
use super::launch::{self, Launch};
use super::{Attempt, Failed, Work, WorkerContext, hooks, paid, resume};
use crate::agents::{self, Agent};
use crate::atomic;
use crate::clock;
use crate::error::{Error, Result};
use crate::event::Tokens;
use crate::git::{Base, Hub};
use crate::hold::{self, Admitted};
use crate::interrupt;
use crate::item::{self, Item, Refusal};
use crate::keeper::Keeper;
use crate::keeper::wire::{Reply, Request, Spec, Then};
use crate::layout::{DEFAULT_REPO, Name, Root, join};
use crate::local;
use crate::mutant::planted;
use crate::record::{self, Event};
use crate::runtime::{Level, Runtime};
use crate::status::SlotState;
use crate::tokens::Token;

/// Starts the attempt's agent. Returns the attempt with what was prepared, and how long its agent
/// has been running or why it was not started.
pub(super) fn begin(
    ctx: &mut WorkerContext,
    mut attempt: Attempt,
) -> (Attempt, Result<Duration, Failed>) {
    let started = try_begin(ctx, &mut attempt);
    attempt.open_stream();
    (attempt, started)
}

/// Each step's results go into the session's file, so that a failed start shows how far it came.
fn try_begin(ctx: &mut WorkerContext, attempt: &mut Attempt) -> Result<Duration, Failed> {
    let rt = ctx.rt.clone();
    let agent = agents::for_item(&rt.config, &attempt.claim.item)
        .map_err(|Refusal(why)| Failed::Refused(why))?;
    agent.name().clone_into(&mut attempt.file.agent);
    if !planted("reserved-after-spawn") {
        paid::reserve(ctx, attempt, &agent)?;
    }

    hear_late_answer(&rt, attempt)?;
    let mut prepared = prepare(&rt, attempt, &agent)?;
    attempt.work = prepared.work.take().map(Arc::new);
    note_place(attempt, &prepared);

    let from = prepared.from.take();
    hooks::set_up_worktree(ctx, attempt, from.as_ref(), false)?;
    let (mut red, any_ran) = gates::before(ctx, attempt, prepared.is_at_base)?;
    if any_ran {
        hooks::set_up_worktree(ctx, attempt, from.as_ref(), true)?;
    }
    let merge = merge_to_begin(ctx, attempt, prepared.before.as_ref());
    red.extend(merge.as_ref().map(told_of_merge));
    let launch = launch::plan(
        &rt,
        attempt,
        &agent,
        &prepared.cwd,
        prepared.before.as_ref(),
        &red,
    )?;
    note_launch(&mut attempt.file, &launch);
    hooks::before_start(ctx, attempt, from.as_ref())?;
    if let (Some(into), Some(work)) = (&merge, &attempt.work) {
        // Last, as the hooks leave the tree as it was.
        ctx.retry_temporary(|| work.tree.begin_merge(&work.branch, into))?;
    }

    if let Agent::Command(name, _) = &agent {
        wait_for_turn(ctx);
        may_start(ctx, name)?;
    }
    attempt.file.started_at = clock::now_iso();
    attempt.file.create(&attempt.dir)?;
    let (pid, age) = start(ctx, launch.spec, &[])?;
    attempt.file.pid = pid;
    if planted("reserved-after-spawn") {
        drop(paid::reserve(ctx, attempt, &agent));
    }
    rt.slots.show(ctx.slot(), |s| {
        s.state = SlotState::Working;
        s.agent = Some(attempt.file.agent.clone());
        s.started_at = Some(attempt.file.started_at.clone());
        s.pid = pid;
    });
    Ok(age)
}

/// The branch that is to be merged into this attempt's, as its agent is to solve a conflict.
fn merge_to_begin(
    ctx: &WorkerContext,
    attempt: &Attempt,
    before: Option<&SessionFile>,
) -> Option<Base> {
    let previous = attempt.record.history().previous.as_ref()?;
    let into = previous.returned.as_ref()?.into.as_deref()?;
    // A script begins from the base.
    let work = attempt.work.as_ref().filter(|_| before.is_some())?;
    // Where it is gone by now, its merging says so.
    let found = ctx.retry_temporary(|| work.hub.target(Some(into)));
    found.ok()
}

fn told_of_merge(into: &Base) -> String {
    let name = &into.name;
    format!(
        "The merge of {name} into your branch is begun in the current directory (else: `git merge {name}`). Resolve what conflicts, `git add` it, and commit."
    )
}

/// Begins an attempt with what the one before made: no agent is started.
pub(super) fn begin_with(
    ctx: &mut WorkerContext,
    mut attempt: Attempt,
    made: Made,
) -> (Attempt, Result<()>) {
    let begun = try_begin_with(ctx, &mut attempt, made);
    (attempt, begun)
}

fn try_begin_with(ctx: &mut WorkerContext, attempt: &mut Attempt, made: Made) -> Result<()> {
    let (claim, file) = (&attempt.claim, &mut attempt.file);
    let before = made.before;
    file.set_end(made.end);
    file.branch = Some(branch_of(
        &claim.name,
        claim.item.branch.as_deref(),
        file.attempt,
    ));
    file.agent = before.agent;
    file.repo = before.repo;
    file.base = before.base;
    file.base_oid = before.base_oid;
    // A later attempt may go on in its conversation.
    file.events = before.events;
    file.cli_session = before.cli_session;
    file.conversation = before.conversation;
    let text = format!(
        "its gates run again on what attempt {} made",
        before.attempt
    );
    let said = format!("{} (attempt {}): {text}", claim.name, file.attempt);
    ctx.rt.console.note(ctx.slot(), "gates", &said);
    file.notes.push(text);
    atomic::make_dir_new(&attempt.dir, true)?;
    let bytes = item::without_mark(&claim.bytes);
    drop(atomic::create(&join(&attempt.dir, "item"), bytes, 0o600)?);
    attempt.work = stand(ctx, attempt)?.map(Arc::new);
    let place = attempt.work.as_ref().map(|work| work.tree.path());
    attempt.file.worktree = place.map(|place| place.to_string_lossy().into_owned());
    attempt.file.started_at = clock::now_iso();
    attempt.file.create(&attempt.dir)
}

/// An answer that the attempt before did not live to hear is for this one.
fn hear_late_answer(rt: &Runtime, attempt: &mut Attempt) -> Result<()> {
    let previous = attempt.record.history().previous.as_ref();
    let Some(previous) = previous.filter(|p| p.answered.is_none()) else {
        return Ok(());
    };
    match interrupt::unheard(&rt.root, &previous.session, previous.heard_ns) {
        Some(answered) => attempt.record.append(&Event::Answered(answered)),
        None => Ok(()),
    }
}

/// Where an attempt's agent is going to work, and what it continues.
struct Prepared {
    cwd: PathBuf,
    /// `None`: a plain directory.
    work: Option<Work>,
    /// The session of the attempt that this one continues.
    before: Option<SessionFile>,
    /// Its branch begins at the base itself.
    is_at_base: bool,
    /// The commit that it begins at.
    from: Option<Base>,
    /// The CLI's conversation that it resumes, and the tokens counted in it so far.
    resumed: Option<(String, Option<Tokens>)>,
}

/// Makes the session's folder, with a copy of the item, and the worktree.
fn prepare(rt: &Runtime, attempt: &Attempt, agent: &Agent<'_>) -> Result<Prepared> {
    let (claim, dir) = (&attempt.claim, &attempt.dir);
    let previous = attempt.record.history().previous.as_ref();
    let mut before = resume::before(rt, &claim.name, &claim.item, agent, previous);
    let mode = match agent {
        Agent::Script => 0o700,
        Agent::Command(..) => 0o600,
    };
    atomic::make_dir_new(dir, true)?;
    // The kernel starts no script that has a byte order mark before its `#!`.
    let bytes = item::without_mark(&claim.bytes);
    drop(atomic::create(&join(dir, "item"), bytes, mode)?);

    let repo = claim.item.order.repo.as_deref().unwrap_or(DEFAULT_REPO);
    let slot = claim.lease().slot;
    // Somebody may have removed the folder on this host's disk.
    local::note(&rt.root, slot)?;
    let place = rt.root.worktree(slot, repo);
    let (cwd, work, from) = match rt.repos.hub(&rt.root, repo)? {
        None => (plain_directory(place)?, None, None),
        Some(hub) => {
            // What its agent did could not be kept: better that it does not begin.
            if let Some(closed) = hub.why_closed() {
                return Err(closed);
            }
            if let Some(before) = &mut before {
                resume::follow(&hub, before, previous)?;
            }
            let others = branches_waited_for(&rt.root, &claim.item);
            let (work, from) = set_up(hub, &place, attempt, before.as_ref(), others)?;
            (work.tree.path().to_path_buf(), Some(work), Some(from))
        }
    };
    let resumed = match (&before, agent) {
        (Some(before), Agent::Command(_, table)) => {
            let worktree = cwd.to_string_lossy();
            let id = resume::conversation(before, table, Some(&worktree));
            id.map(|id| (id.to_owned(), before.conversation))
        }
        _ => None,
    };
    let begins_at = |work: &Work| from.as_ref().is_some_and(|from| from.oid == work.base.oid);
    Ok(Prepared {
        is_at_base: work.as_ref().is_some_and(begins_at),
        cwd,
        work,
        before,
        from,
        resumed,
    })
}

/// The slot's directory if no repository is configured. An old worktree, an unusable folder or
/// anything else in its place is kept under another name.
fn plain_directory(place: PathBuf) -> Result<PathBuf> {
    let usable = atomic::is_own_dir(&place)
        && nix::unistd::access(&place, nix::unistd::AccessFlags::all()).is_ok()
        && !atomic::exists(&join(&place, ".git"));
    if !usable {
        atomic::keep_older(&place)?;
        atomic::make_dir(&place, true)?;
    }
    Ok(place)
}

fn note_place(attempt: &mut Attempt, prepared: &Prepared) {
    let file = &mut attempt.file;
    file.worktree = Some(prepared.cwd.to_string_lossy().into_owned());
    if let Some(work) = &attempt.work {
        file.repo = Some(work.hub.repo().name.clone());
        file.branch = Some(work.branch.clone());
        file.base = Some(work.base.name.clone());
        file.base_oid = Some(work.base.oid.clone());
        file.notes.extend(work.tree.notes.iter().cloned());
    }
    if let Some((conversation, tokens)) = &prepared.resumed {
        file.resumed = Some(conversation.clone());
        file.conversation_before = *tokens;
    }
}

fn note_launch(file: &mut SessionFile, launch: &Launch) {
    let plan = &launch.plan;
    file.events.clone_from(&plan.events);
    file.max_turns = plan.limits.max_turns;
    file.budget_usd = plan.limits.budget_usd;
    file.watched_turns = plan.watched.max_turns;
    file.watched_budget_usd = plan.watched.budget_usd;
    file.model.clone_from(&plan.model);
    file.notes.extend(plan.notes.iter().cloned());
    file.sandbox = Some(launch.said.clone());
    // Whole seconds, rounded up.
    file.timeout_seconds = launch.timeout.as_secs() + u64::from(launch.timeout.subsec_nanos() > 0);
    let argv = launch.spec.argv.iter();
    file.command = argv.map(|a| crate::layout::shown(a)).collect();
}

/// Whether the agent may be started still: while its worktree was set up, it may have been held, or this
/// process told to stop.
fn may_start(ctx: &mut WorkerContext, agent: &str) -> Result<(), Failed> {
    if ctx.rt.lifecycle.level() >= Level::Stopping {
        return Err(Failed::PutOff("harness was told to stop".into()));
    }
    match hold::admit(&ctx.rt.root, agent, ctx.slot())? {
        // This attempt has reserved already what others wait for.
        Admitted::No(hold) if hold.class == hold::BUDGET => Ok(()),
        Admitted::No(hold) => Err(Failed::PutOff(format!("{agent} is held: {}", hold.reason))),
        Admitted::AsCanary => {
            ctx.canary = Some(agent.to_owned());
            let slot = ctx.slot();
            let text = format!("{agent} first: its hold is over");
            ctx.rt.console.note(slot, "tries", &text);
            Ok(())
        }
        Admitted::Yes => Ok(()),
    }
}

/// Staggers the slots' first prompt agents: each gets time to refresh the shared login.
fn wait_for_turn(ctx: &mut WorkerContext) {
    let round = ctx.rt.turns.round();
    if std::mem::replace(&mut ctx.staggered, round) == round {
        return;
    }
    while ctx.rt.lifecycle.level() == Level::Running {
        let wait = ctx.rt.starts.wait();
        if wait.is_zero() {
            break;
        }
        ctx.waker.wait(wait);
    }
}

/// Sets up the branch in the slot's worktree. It starts at the base's current commit, or where the
/// previous attempt ended; that attempt's base is then kept, so that the work of both counts.
fn set_up(
    hub: Arc<Hub>,
    place: &Path,
    attempt: &Attempt,
    before: Option<&SessionFile>,
    others: Vec<(String, String)>,
) -> Result<(Work, Base)> {
    let claim = &attempt.claim;
    let branch = branch_of(
        &claim.name,
        claim.item.branch.as_deref(),
        attempt.file.attempt,
    );
    // Of an item that changed nothing there is no branch: this one starts where that one did.
    let wanted = match claim.item.begins_with_others() {
        true => others.first().map(|(name, _)| name.as_str()),
        false => claim.item.base.as_deref(),
    };
    let (base, from) = base_and_start(&hub, wanted, before)?;
    let tree = hub.set_up(place, claim.lease().lock(), &branch, &from, others)?;
    let work = Work {
        hub,
        tree,
        base,
        branch,
    };
    Ok((work, from))
}

/// Checks out what an attempt made again, where its worktree is gone or another item's. `None`: it has
/// no repository any more.
pub(super) fn stand(ctx: &WorkerContext, attempt: &Attempt) -> Result<Option<Work>> {
    let file = &attempt.file;
    let (Some(branch), Some(name), Some(base)) = (&file.branch, &file.base, &file.base_oid) else {
        return Ok(None);
    };
    let Some(hub) = attempt.hub(ctx)? else {
        return Ok(None);
    };
    let made = Base {
        name: name.clone(),
        oid: file.head.as_ref().unwrap_or(base).clone(),
    };
    let place = ctx.root.worktree(ctx.slot(), &hub.repo().name);
    let lock = ctx.lease.lock();
    let tree =
        ctx.retry_temporary(|| hub.set_up(&place, lock.clone(), branch, &made, Vec::new()))?;
    let base = Base {
        name: name.clone(),
        oid: base.clone(),
    };
    Ok(Some(Work {
        hub,
        tree,
        base,
        branch: branch.clone(),
    }))
}

/// What the branch is compared with, and the commit that it starts at.
fn base_and_start(
    hub: &Hub,
    wanted: Option<&str>,
    before: Option<&SessionFile>,
) -> Result<(Base, Base)> {
    let mut base = hub.base(wanted)?;
    let mut from = base.clone();
    if let Some(SessionFile {
        base: Some(name),
        base_oid: Some(oid),
        head: Some(head),
        ..
    }) = before
        && *name == base.name
        && head != oid
        && hub.finds_commit(head)?
        && hub.finds_commit(oid)?
    {
        base.oid.clone_from(oid);
        from.oid.clone_from(head);
    }
    Ok((base, from))
}

/// The branches that the items in `after` published, with their commits: an item builds on them.
fn branches_waited_for(root: &Root, item: &Item) -> Vec<(String, String)> {
    let published = |name: &Name| record::history(root, name).last?.published;
    let branches = item.order.after.iter().filter_map(published);
    branches.map(|b| (b.name, b.head)).collect()
}

/// `harness/NAME/ATTEMPT`; a `branch` field replaces NAME.
pub(crate) fn branch_of(name: &Name, wanted: Option<&str>, attempt: u32) -> String {
    let stem = match wanted {
        None => name.ref_component(),
        Some(wanted) => wanted
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| Name::new(part).ref_component())
            .collect::<Vec<_>>()
            .join("/"),
    };
    format!("harness/{stem}/{attempt}")
}

/// Has the slot's keeper start the agent, and starts the keeper where there is none. The keeper holds
/// `tokens` until the agent has ended. Returns its pid, if known, and how long it has been running.
pub(super) fn start(
    ctx: &mut WorkerContext,
    spec: Spec,
    tokens: &[Token],
) -> Result<(Option<i32>, Duration), Failed> {
    let session = spec.session.clone();
    let stdout = spec.stdout.clone();
    let program = PathBuf::from(spec.argv.first().cloned().unwrap_or_default());
    let request = Request::Spawn(Box::new(spec));
    let mut keeper = match ctx.keeper.take() {
        Some(keeper) if keeper.is_ours() => keeper,
        // Another harness's: it may be of an older version, and ends when nobody is connected to it.
        other => {
            if let Some(keeper) = other {
                keeper.dismiss();
            }
            Keeper::start(&ctx.rt.root, ctx.slot())?
        }
    };
    if keeper.send_with(&request, tokens).is_err() {
        // The keeper was killed while idle: it never read the request, so nothing was started.
        keeper.kill_and_reap();
        keeper = Keeper::start(&ctx.rt.root, ctx.slot())?;
        keeper.send_with(&request, tokens)?;
    }
    match keeper.receive() {
        Ok(Some(Reply::Running {
            session: s,
            pid,
            age,
        })) if s == session => {
            ctx.keeper = Some(keeper);
            Ok((Some(pid), age))
        }
        Ok(Some(Reply::SpawnFailed { why, then, .. })) => {
            ctx.keeper = Some(keeper);
            if then == Then::Later {
                ctx.rt.room.look_again();
                return Err(Failed::PutOff(why));
            }
            let why = agents::why_not_started(&program).unwrap_or(why);
            Err(match then {
                Then::Again => Failed::Fault(Error::temporary("cannot start the agent", why)),
                _ => Failed::Refused(format!("its agent could not be started: {why}")),
            })
        }
        // It died, or its answer makes no sense.
        _ => {
            keeper.kill_and_reap();
            if !atomic::is_gone(&stdout) {
                // It may have started the agent before it died: that counts as a start.
                return Ok((None, Duration::ZERO));
            }
            Err(Failed::Fault(Error::temporary(
                "cannot start the agent",
                "its keeper died",
            )))
        }
    }
}
