//! Recovers what a slot's last holder left, before the slot is used again. We hold the lease, so
//! that holder is dead; its agent may still run.
//!
//! The first row that fits decides (`decide`; evidence: the record, the keeper's lock, files):
//!
//! | found | then |
//! |---|---|
//! | the end is on record | move the file to its place |
//! | its branch is announced | publish it and record the end |
//! | its keeper lives and runs its agent | adopt: watch it to its end |
//! | `exit.json` | judge the attempt from it |
//! | `stdout.log` or a `started` line, but no `exit.json` | the keeper was killed: kill the process tree; how it ended is unknown |
//! | none of these | it never started: back to `pending/`, not counted |
//! | a claim without a file | give up the claim |

mod held;
mod lost;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::agents::{self, Agent};
use crate::atomic::{self, Moved};
use crate::error::Result;
use crate::git::{self, Base};
use crate::keeper::wire::{Reply, Request};
use crate::keeper::{self, Keeper};
use crate::layout::{self, DEFAULT_REPO, Name, Place, Root, SlotId};
use crate::lease;
use crate::local;
use crate::merge;
use crate::mutant::planted;
use crate::outcome::{Next, Stop};
use crate::record::{Adopted, Event, LastAttempt, Record, Requeued};
use crate::session::file::SessionFile;
use crate::session::gates::gate_prefix;
use crate::session::{self, Attempt, Work, WorkerContext, end_claim, end_tree};
use crate::spool::{self, Claim, Target};
use crate::status::SlotState;
pub(crate) use lost::{has_items, move_back};

/// Whether a slot that nobody holds has anything to recover.
pub(crate) fn has_residue(root: &Root, slot: SlotId) -> bool {
    use std::os::unix::fs::MetadataExt;
    let marker = root.agent(slot).join("marker");
    let linked = marker.symlink_metadata().is_ok_and(|m| m.nlink() > 1);
    linked
        || spool::claimed_in(root, slot).is_ok_and(|names| !names.is_empty())
        || keeper::is_alive(root, slot)
        || atomic::has_temps(&root.agent(slot))
}

/// Slots of dead processes that need recovery, except `ours`.
pub(crate) fn orphans(root: &Root, ours: &[SlotId]) -> Vec<SlotId> {
    // `state/agents/` may have been deleted: claims and `claimed/` still name the slots.
    let holders = lease::holders(root);
    let folders = [root.agents(), root.claimed_root()].map(std::fs::read_dir);
    let entries = folders.into_iter().flatten().flatten().flatten();
    let slots = entries.filter_map(|e| SlotId::parse(&e.file_name()));
    let slots: BTreeSet<SlotId> = slots.chain(holders.iter().copied()).collect();
    // Most slots are held: check that before the costlier rest.
    let is_orphan = |&slot: &SlotId| {
        !ours.contains(&slot)
            && !lease::is_held(root, slot)
            && (holders.contains(&slot) || has_residue(root, slot))
            && !lease::is_closed(root, slot)
    };
    slots.into_iter().filter(is_orphan).collect()
}

/// Recovers the worker's slot. Returns when nothing is left to recover, which may take as long as
/// an adopted agent runs.
pub(crate) fn recover(ctx: &mut WorkerContext) -> Result<()> {
    let root = ctx.rt.root.clone();
    atomic::remove_temps(&root.agent(ctx.slot()));
    atomic::remove_temps(&root.claimed(ctx.slot()));
    atomic::end_moves(&root.claimed(ctx.slot()), None);
    git::clear_temps(&ctx.root, ctx.slot());
    let mut names = spool::claimed_in(&root, ctx.slot())?;
    let held = ctx.lease.held()?;
    let was_empty = names.is_empty() && held.is_empty();
    for held in held {
        if let (Some(dir), Some(file)) = (held.parent(), held.file_name())
            && dir == root.claims()
            && !names.iter().any(|n| n.as_os_str() == file)
        {
            names.push(Name::new(file));
        }
    }
    for name in &names {
        recover_item(ctx, name)?;
    }
    // A keeper that runs something without a claim: nobody waits for its result.
    if let Some((mut keeper, Reply::Running { .. })) = attach(ctx)? {
        let grace = ctx.rt.config.harness.kill_grace;
        let why = Stop::Shutdown.as_str().into();
        let _dead = keeper.send(&Request::Stop { grace, why });
        let _ended = keeper.receive();
        keeper.dismiss();
    }
    // Once in a process: only a power cut leaves such.
    if !ctx.rt.nobodys_released.swap(true, Ordering::SeqCst) {
        held::release_nobodys(ctx);
    }
    if ctx.root.local() != ctx.rt.root.local() {
        // Nothing of its last holder is left: from here on it works where this process has it.
        git::forget_keys(&ctx.root, ctx.slot());
        ctx.root = ctx.rt.root.clone();
    }
    local::note(&ctx.root, ctx.slot())?;
    ctx.is_lost = false;
    if was_empty {
        // Still empty: only the holder of the lease claims for this slot.
        return ctx.lease.mark();
    }
    for link in ctx.lease.held()? {
        atomic::remove(&link)?;
    }
    ctx.lease.renew_marker()
}

/// Makes sure that this slot holds the claim on `name`. If another holder has it (the file was
/// moved here by hand), the file goes to `pending/`, or to `parked/` if that name is taken.
fn is_claimed_by_us(ctx: &WorkerContext, name: &Name) -> Result<bool> {
    let root = &ctx.rt.root;
    let link = root.claim(name);
    if ctx.lease.held()?.contains(&link) {
        return Ok(true);
    }
    if atomic::link_new(&ctx.lease.marker(), &link)? == Moved::Done {
        return Ok(true);
    }
    let file = root.claimed(ctx.slot()).join(name.as_os_str());
    if atomic::rename_new(&file, &root.item(Place::Pending, name))? == Moved::Taken {
        atomic::rename_with_backup(&file, &root.item(Place::Parked, name))?;
    }
    Ok(false)
}

/// What is known of an item's last attempt, whose end is not on record.
struct Found {
    /// It announced its branch, and the item's file is still there.
    announced: bool,
    /// Its agent has ended, its work is kept, and its gates had begun. Also where its file was taken
    /// away since: a gate may have written into the worktree, so nothing is collected there.
    gating: bool,
    /// Its keeper lives and runs its agent.
    runs: bool,
    /// Its agent was started, or may have been.
    started: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Publish what was announced, and record the end.
    Publish,
    /// Watch the running agent to its end.
    Adopt,
    /// Go on with its gates.
    Gate,
    /// Judge the attempt from its files.
    Judge,
    /// It never started: the item goes back, not counted.
    PutBack,
}

fn decide(found: &Found) -> Step {
    match found {
        Found {
            announced: true, ..
        } => Step::Publish,
        Found { gating: true, .. } => Step::Gate,
        Found { runs: true, .. } => Step::Adopt,
        Found { started: true, .. } => Step::Judge,
        _ => Step::PutBack,
    }
}

fn recover_item(ctx: &mut WorkerContext, name: &Name) -> Result<()> {
    if !is_claimed_by_us(ctx, name)? {
        return Ok(());
    }
    let root = ctx.rt.root.clone();
    let record = Record::open(&root, name)?;
    let mut claim = Claim::adopt(&root, &ctx.lease, name)?;
    let slot = ctx.slot().to_string();
    let last = record.history().last.clone();
    if let Some(last) = last.as_ref().filter(|last| last.is_for_merging()) {
        return merged_or_not(ctx, claim, record, last);
    }
    let Some(last) = last.filter(|l| l.slot == slot) else {
        return put_back(ctx, claim, record, "");
    };
    if last.end.is_some() {
        session::count_again(ctx, &last);
        return move_its_file(ctx, claim, &last);
    }
    claim.unfence()?;
    if planted("recorded-pid-killed")
        && let Some(pid @ 2..) = last.started.as_ref().and_then(|s| s.pid)
    {
        let pid = nix::unistd::Pid::from_raw(pid);
        crate::process::signal_each(&[pid], nix::sys::signal::Signal::SIGKILL);
    }
    // Before reading files: a keeper first carries out the dead harness's last request.
    let running = adopt(ctx, &last)?;
    let dir = root.session(&last.session);
    let mut announced = record.history().publishing.iter();
    let announced = announced.find(|p| p.session == last.session).cloned();
    let started = last.started.is_some() || has_started(&dir) || announced.is_some();
    let step = decide(&Found {
        announced: announced.is_some() && claim.is_ours(),
        gating: last.gating.is_some() && (claim.is_ours() || !planted("gating-collected")),
        runs: running.is_some(),
        started: started && !planted("started-is-requeued"),
    });
    if step == Step::PutBack {
        return put_back(ctx, claim, record, &last.session);
    }
    let attempt = as_left(ctx, claim, record, &last);
    show(ctx, &attempt.file);
    if let (Step::Gate, Some(gating)) = (&step, last.gating) {
        let attempt = rebuild(ctx, attempt)?;
        return session::gate_on(ctx, attempt, gating).map(drop);
    }
    match (announced, running) {
        (Some(announced), _) if step == Step::Publish => {
            session::publish_on(ctx, attempt, announced)
        }
        (_, Some((pid, age))) => go_on(ctx, attempt, pid, age),
        (_, None) => {
            let slot = ctx.slot();
            // Tried again and again where something is wrong: that is said instead.
            if !ctx.rt.troubles.is_met(&slot.to_string()) {
                let text = format!("{name}: its agent has ended");
                ctx.rt.console.note(slot, "recovered", &text);
            }
            let attempt = rebuild(ctx, attempt)?;
            let over = session::post_mortem(ctx, &attempt, None)?;
            session::conclude(ctx, attempt, over).map(drop)
        }
    }
}

/// Adopts an agent that outlived its harness, and watches it to its end.
fn go_on(ctx: &mut WorkerContext, attempt: Attempt, pid: i32, age: Duration) -> Result<()> {
    let (rt, slot) = (ctx.rt.clone(), ctx.slot());
    let mut attempt = rebuild(ctx, attempt)?;
    let adopted = Event::Adopted(Adopted {
        session: attempt.file.session.clone(),
        slot: slot.to_string(),
        pid: Some(pid),
        harness_pid: Some(std::process::id()),
    });
    // Recovery does not need this line: losing it only leaves a gap in the history.
    let _lost = attempt.record.append(&adopted);
    let name = &attempt.claim.name;
    let text = format!("{name}: its agent still runs");
    rt.console.note(slot, "adopted", &text);
    rt.slots.show(slot, |s| s.pid = Some(pid));
    let over = session::watch(ctx, &mut attempt, age, true)?;
    session::conclude(ctx, attempt, over).map(drop)
}

fn show(ctx: &WorkerContext, file: &SessionFile) {
    let known = |at: &String| Some(at.clone()).filter(|at| !at.is_empty());
    ctx.rt.slots.show(ctx.slot(), |s| {
        s.state = SlotState::Working;
        s.item = Some(file.item.clone());
        s.reason = None;
        s.session = Some(file.session.clone());
        s.attempt = Some(file.attempt);
        s.agent = Some(file.agent.clone());
        s.claimed_at = known(&file.claimed_at);
        s.started_at = known(&file.started_at);
        s.pid = file.pid;
    });
}

/// It was taken from `merge/`, by this slot or another before it: it has landed, or goes back there.
fn merged_or_not(
    ctx: &WorkerContext,
    mut claim: Box<Claim>,
    mut record: Record,
    last: &LastAttempt,
) -> Result<()> {
    let of_item = claim.item.order.repo.as_deref().unwrap_or(DEFAULT_REPO);
    let hub = match &last.landing {
        Some(landing) => {
            let repo = landing.repo.as_deref().unwrap_or(of_item);
            ctx.rt.repos.hub(&ctx.rt.root, repo)?
        }
        None => None,
    };
    if let (Some(landing), Some(hub)) = (&last.landing, hub)
        && merge::settled(ctx, &hub, landing)?
    {
        record.append(&Event::Merged(landing.clone()))?;
        if ctx.rt.durable {
            record.sync()?;
        }
        let name = claim.name.clone();
        end_claim(ctx, claim, Target::Done, &mut |_| {
            session::hooks::landed(ctx, &name, landing);
            Ok(())
        })?;
        let text = format!(
            "{}  recovered  {}: it has landed",
            ctx.slot(),
            landing.branch
        );
        ctx.rt.console.say(&text);
        return Ok(());
    }
    claim.unfence()?;
    move_its_file(ctx, claim, last)
}

/// An attempt that another harness began, as its files and its record tell it.
fn as_left(ctx: &WorkerContext, claim: Box<Claim>, record: Record, last: &LastAttempt) -> Attempt {
    let dir = ctx.rt.root.session(&last.session);
    // The agent may have removed its session's file, or written it.
    let file = session::file::read(&dir, &last.session);
    let file = file.map(|file| as_recorded(ctx, &claim, last, file));
    let file = file.unwrap_or_else(|| from_record(ctx, &claim, last));
    Attempt {
        claim,
        record,
        dir,
        file,
        work: None,
        stream: None,
        usd_max: None,
        reserved: true,
        recovered: true,
    }
}

/// Whether a start was tried: the keeper makes `stdout.log` right before it starts the agent.
fn has_started(dir: &Path) -> bool {
    !atomic::is_gone(&dir.join("stdout.log")) || !atomic::is_gone(&dir.join("exit.json"))
}

/// A session's file with what is known without it: which item and slot, repository, branch and base.
fn as_recorded(
    ctx: &WorkerContext,
    claim: &Claim,
    last: &LastAttempt,
    mut file: SessionFile,
) -> SessionFile {
    file.item = claim.name.shown();
    file.slot.clone_from(&last.slot);
    file.attempt = last.attempt;
    // Only its end says these.
    (file.head, file.published) = (None, None);
    file.repo.clone_from(&claim.item.order.repo);
    if !file.begin_as(last.started.as_ref()) {
        let (name, wanted) = (&claim.name, claim.item.branch.as_deref());
        let branch = session::branch_of(name, wanted, last.attempt);
        file.branch = file.branch.filter(|named| *named == branch);
    }
    let repo = file.repo.as_deref().unwrap_or(DEFAULT_REPO);
    let place = ctx.root.worktree(claim.lease().slot, repo);
    file.worktree = Some(place.to_string_lossy().into_owned());
    file
}

/// Rebuilds from the record what is known of an attempt whose session file is missing.
fn from_record(ctx: &WorkerContext, claim: &Claim, last: &LastAttempt) -> SessionFile {
    let root = &ctx.rt.root;
    let started = last.started.clone().unwrap_or_default();
    let timeout = claim.item.timeout.unwrap_or(ctx.rt.config.harness.timeout);
    let mut file = SessionFile {
        session: last.session.clone(),
        item: claim.name.shown(),
        slot: last.slot.clone(),
        attempt: last.attempt,
        agent: started.agent,
        timeout_seconds: timeout.as_secs(),
        repo: started.repo.or_else(|| claim.item.order.repo.clone()),
        branch: started.branch,
        base: started.base,
        base_oid: started.base_oid,
        claimed_at: last.claimed_at.clone(),
        started_at: last.started_at.clone().unwrap_or_default(),
        ..SessionFile::default()
    };
    match agents::for_item(&ctx.rt.config, &claim.item) {
        // Not on record as started, but a script's command and directory are known.
        Ok(Agent::Script) if last.started.is_none() => {
            let repo = claim.item.order.repo.as_deref().unwrap_or(DEFAULT_REPO);
            let place = ctx.root.worktree(ctx.slot(), repo);
            let program = root.session(&last.session).join("item");
            file.agent = Agent::Script.name().to_owned();
            file.command = vec![layout::shown(program.as_os_str())];
            file.worktree = Some(place.to_string_lossy().into_owned());
        }
        _ => file.notes = vec!["its session.json was removed while it ran".into()],
    }
    file
}

/// Connects to the slot's keeper, if there is one. A keeper that this process is connected to
/// already is dismissed first: it is idle, and serves one connection at a time.
fn attach(ctx: &mut WorkerContext) -> Result<Option<(Keeper, Reply)>> {
    ctx.dismiss_keeper();
    Keeper::attach(&ctx.rt.root, ctx.slot())
}

/// Connects to the surviving keeper if it runs this session's agent.
fn adopt(ctx: &mut WorkerContext, last: &LastAttempt) -> Result<Option<(i32, Duration)>> {
    match attach(ctx)? {
        Some((keeper, Reply::Running { session, pid, age })) if session == last.session => {
            ctx.keeper = Some(keeper);
            Ok(Some((pid, age)))
        }
        Some((keeper, Reply::Running { session, age, .. }))
            if last.gating.is_some() && session.starts_with(&gate_prefix(&last.session)) =>
        {
            ctx.keeper = Some(keeper);
            ctx.running_gate = Some((session, age));
            Ok(None)
        }
        // Idle, so it ends by itself; or it runs another session, which `recover` stops.
        _ => Ok(None),
    }
}

/// Finds the attempt's worktree and output again. Does not change the worktree: its agent may be at
/// work there, and its content exists nowhere else.
fn rebuild(ctx: &WorkerContext, mut attempt: Attempt) -> Result<Attempt> {
    let rt = &ctx.rt;
    let file = &mut attempt.file;
    let repo = file.repo.as_deref().unwrap_or(DEFAULT_REPO);
    if let (Some(branch), Some(base), Some(oid)) = (&file.branch, &file.base, &file.base_oid) {
        let base = Base {
            name: base.clone(),
            oid: oid.clone(),
        };
        let found = match rt.repos.hub(&ctx.root, repo)? {
            None => Err(format!("repository `{repo}` is no longer configured")),
            // What lies in its place here is of another item.
            Some(_) if ctx.is_lost => Err("its worktree is gone with its host's disk".to_owned()),
            Some(hub) => match hub.worktree_as_it_is(&ctx.root.worktree(ctx.slot(), repo)) {
                None => Err("its worktree is gone".to_owned()),
                Some(tree) => Ok((hub, tree)),
            },
        };
        match found {
            Ok((hub, tree)) => {
                file.worktree = Some(tree.path().to_string_lossy().into_owned());
                attempt.work = Some(Arc::new(Work {
                    hub,
                    tree: tree.under(ctx.lease.lock()),
                    base,
                    branch: branch.clone(),
                }));
            }
            Err(why) => {
                rt.console
                    .warn(&format!("{}: {}: {why}", ctx.slot(), file.item));
                file.notes.push(why);
            }
        }
    }
    attempt.open_stream();
    Ok(attempt)
}

fn put_back(
    ctx: &mut WorkerContext,
    claim: Box<Claim>,
    mut record: Record,
    sid: &str,
) -> Result<()> {
    let (rt, name) = (ctx.rt.clone(), claim.name.clone());
    if !sid.is_empty() {
        let requeued = Event::Requeued(Requeued {
            session: sid.to_owned(),
            reason: "its harness died before its agent was started".into(),
            not_before_ns: None,
        });
        if planted("forget-then-remove") {
            record.append(&requeued)?;
        }
        let dir = rt.root.session(sid);
        let mut beside = ["gates", "hooks"].iter();
        let ran = beside.any(|of| atomic::exists(&dir.join(of)));
        if ran && !keeper::is_alive(&rt.root, ctx.slot()) {
            // A gate ran on its base, or a hook before its agent.
            end_tree(ctx, sid, &dir);
        }
        // The folder first: after the `requeued` line nobody looks for it.
        let copies = "the attempt never started: it holds copies only";
        if let Err(e) = atomic::discard_tree(&dir, copies) {
            rt.console.warn(&e.to_string());
        }
        session::paid::give_back(ctx, sid)?;
        record.append(&requeued)?;
    }
    let target = Target::Pending { not_before: None };
    end_claim(ctx, claim, target, &mut |_| Ok(()))?;
    rt.console.say(&format!(
        "{}  requeued   {name}: it had not started",
        ctx.slot()
    ));
    Ok(())
}

/// The end is on record; the harness died before, or right after, it moved the file. Where the file is
/// gone, it was moved: it had its name for the end before that end was recorded. Wherever a person has
/// put it since, what it published stays.
fn move_its_file(ctx: &WorkerContext, claim: Box<Claim>, last: &LastAttempt) -> Result<()> {
    let end = last.end.clone().unwrap_or_default();
    // A value of a newer version: park it, so that a person decides.
    let next = end
        .next
        .and_then(|word| word.known())
        .unwrap_or(Next::Parked);
    let target = session::target_of(next, end.not_before_ns);
    let name = claim.name.clone();
    let mut before = |ended| {
        session::hooks::told_again(ctx, &name, last, ended);
        Ok(())
    };
    end_claim(ctx, claim, target, &mut before).map(drop)
}
