//! The beginning of an attempt: session folder, worktree, prompt, command line, environment, and the
//! start under the slot's keeper. Whatever fails here has started nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::file::SessionFile;
use super::{Failed, Work, WorkerContext, resume};
use crate::agents::{self, Agent, Before, Facts, LaunchInputs};
use crate::atomic;
use crate::clock;
use crate::error::{Error, Result};
use crate::git::{Base, Hub};
use crate::interrupt;
use crate::item::Refusal;
use crate::keeper::Keeper;
use crate::keeper::wire::{Reply, Request, Spec};
use crate::layout::{DEFAULT_REPO, Name, join};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::record::LastAttempt;
use crate::runtime::{Level, Runtime};
use crate::spool::Claim;
use crate::status::SlotState;

/// Makes the session's folder, the worktree and the agent's process. How long that has been running.
pub(super) fn begin(
    ctx: &mut WorkerContext,
    claim: &Claim,
    previous: Option<&LastAttempt>,
    dir: &std::path::Path,
    file: &mut SessionFile,
    work: &mut Option<Work>,
) -> Result<Duration, Failed> {
    let rt = ctx.rt.clone();
    let slot = ctx.slot();
    let item = &claim.item;
    let agent = agents::for_item(&rt.config, item).map_err(|Refusal(why)| Failed::Refused(why))?;
    file.agent = agent.name().to_owned();
    let before = resume::before(&rt, &claim.name, item, &agent, previous);
    atomic::make_dir_new(dir)?;
    let item_file = join(dir, "item");
    let script = matches!(agent, Agent::Script);
    drop(atomic::create(
        &item_file,
        &claim.bytes,
        if script { 0o700 } else { 0o600 },
    )?);

    let repo = item.order.repo.as_deref().unwrap_or(DEFAULT_REPO);
    let place = rt.root.worktree(slot, repo);
    let cwd = match rt.repos.hub(&rt.root, repo)? {
        None => {
            let usable = atomic::is_own_dir(&place)
                && nix::unistd::access(&place, nix::unistd::AccessFlags::all()).is_ok()
                && !atomic::exists(&join(&place, ".git"));
            if !usable {
                // A worktree from a time with a repository, or what an agent locked or put in its
                // place: kept, not worked in.
                atomic::keep_older(&place)?;
                atomic::make_dir(&place, true)?;
            }
            place
        }
        Some(hub) => {
            let made = set_up(&hub, &place, claim, before.as_ref(), file)?;
            let cwd = made.tree.path().to_path_buf();
            *work = Some(made);
            cwd
        }
    };
    file.repo = work.as_ref().map(|_| repo.to_owned());
    file.worktree = Some(cwd.to_string_lossy().into_owned());

    if let (Some(before), Agent::Command(_, table)) = (&before, &agent)
        && let Some(id) = resume::conversation(before, table, file.worktree.as_deref())
    {
        file.resumed = Some(id.to_owned());
        file.conversation_before = before.conversation;
    }

    let facts = match script {
        true => Facts::default(),
        false => facts(&rt, &claim.name, dir, &cwd, file, work.as_ref()),
    };
    let template = rt.root.path().join("prompts/bootstrap.md");
    let template = (!script)
        .then(|| atomic::read_followed(&template, STATE_FILE_BYTES_MAX).ok())
        .flatten();
    let plan = agents::plan(
        &agent,
        &LaunchInputs {
            item,
            facts: &facts,
            session: &file.session,
            session_dir: dir,
            worktree: &cwd,
            bootstrap: template.as_deref(),
            before: before.as_ref().map(|b| Before {
                conversation: file.resumed.as_deref(),
                reason: b.reason.as_deref().unwrap_or("it is not known why"),
                answered: previous.and_then(|p| p.answered.as_ref()),
            }),
            inherited: &INHERITED,
        },
    );
    let prompt_file = join(dir, "prompt.md");
    if let Some(prompt) = &plan.prompt {
        drop(atomic::create(&prompt_file, prompt, 0o600)?);
    }
    if let Some(text) = &plan.bootstrap {
        drop(atomic::create(&dir.join(agents::BOOTSTRAP), text, 0o600)?);
    }
    let env = environment(&rt, claim, &agent, plan.env, dir, file);
    let mut argv = plan.argv;
    if !script {
        let path = env.get(&OsString::from("PATH")).cloned().flatten();
        let path = path.or_else(|| std::env::var_os("PATH"));
        let program = argv.first().cloned().unwrap_or_default();
        argv[0] = agents::find_program(&program, &cwd, path.as_deref())
            .map_err(|why| Failed::Refused(agents::not_found(&agent, &program, why)))?
            .into();
    }
    let table = match &agent {
        Agent::Script => None,
        Agent::Command(_, table) => Some(*table),
    };
    let timeout = item
        .timeout
        .or(table.and_then(|t| t.timeout))
        .unwrap_or(rt.config.harness.timeout);
    file.events = plan.events;
    file.max_turns = plan.limits.max_turns;
    file.budget_usd = plan.limits.budget_usd;
    file.watched_turns = plan.watched.max_turns;
    file.watched_budget_usd = plan.watched.budget_usd;
    file.model = plan.model;
    file.notes.extend(plan.notes);
    file.timeout_seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    file.command = argv.iter().map(|a| crate::layout::shown(a)).collect();
    if !script && !ctx.staggered {
        ctx.staggered = true;
        while rt.lifecycle.level() == Level::Running {
            let wait = rt.stagger.wait();
            if wait.is_zero() {
                break;
            }
            ctx.waker.wait(wait);
        }
    }
    file.started_at = clock::now_iso();
    file.write(dir, false)?;

    let spec = Spec {
        session: file.session.clone(),
        argv,
        cwd,
        stdin: plan.reads_prompt.then_some(prompt_file),
        stdout: join(dir, "stdout.log"),
        stderr: join(dir, "stderr.log"),
        exit: join(dir, "exit.json"),
        grace: rt.config.harness.kill_grace,
        env: env.into_iter().collect(),
    };
    let (pid, age) = start(ctx, spec)?;
    file.pid = pid;
    rt.slots.show(slot, |s| {
        s.state = SlotState::Working;
        s.agent = Some(file.agent.clone());
        s.started_at = Some(file.started_at.clone());
        s.pid = pid;
    });
    Ok(age)
}

/// The branch in the slot's worktree, from the base's current commit, or from where the attempt
/// before ended: then its base stays the base, with which all that was done is compared.
fn set_up(
    hub: &Arc<Hub>,
    place: &std::path::Path,
    claim: &Claim,
    before: Option<&SessionFile>,
    file: &mut SessionFile,
) -> Result<Work, Failed> {
    let branch = branch_of(&claim.name, claim.item.branch.as_deref(), file.attempt);
    let find = || -> Result<(Base, Base), Error> {
        let mut base = hub.base(claim.item.base.as_deref())?;
        let mut from = base.clone();
        if let Some(SessionFile {
            base: Some(name),
            base_oid: Some(oid),
            head: Some(head),
            ..
        }) = before
            && *name == base.name
            && head != oid
            && hub.has_commit(head)?
            && hub.has_commit(oid)?
        {
            base.oid.clone_from(oid);
            from.oid.clone_from(head);
        }
        Ok((base, from))
    };
    let (base, from) = find()?;
    let tree = hub.set_up(place, claim.lease().lock(), &branch, &from)?;
    file.branch = Some(branch.clone());
    file.base = Some(base.name.clone());
    file.base_oid = Some(base.oid.clone());
    Ok(Work {
        hub: hub.clone(),
        tree,
        base,
        branch,
    })
}

/// `harness/NAME/ATTEMPT`; a `branch` field stands in for NAME.
fn branch_of(name: &Name, wanted: Option<&str>, attempt: u32) -> String {
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

fn facts(
    rt: &Runtime,
    name: &Name,
    dir: &std::path::Path,
    cwd: &std::path::Path,
    file: &SessionFile,
    work: Option<&Work>,
) -> Facts {
    let interrupt = interrupt::path(&rt.root, &file.slot);
    [
        ("PROMPT_FILE", join(dir, "prompt.md").into_os_string()),
        ("ITEM_FILE", join(dir, "item").into_os_string()),
        ("SESSION_ID", file.session.clone().into()),
        ("SESSION_DIR", dir.as_os_str().to_owned()),
        ("WORKTREE", cwd.as_os_str().to_owned()),
        ("WORK_ITEM", name.as_os_str().to_owned()),
        ("SLOT", file.slot.clone().into()),
        ("AGENT", file.agent.clone().into()),
        ("BRANCH", file.branch.clone().unwrap_or_default().into()),
        ("ATTEMPT", file.attempt.to_string().into()),
        ("ITERATION", file.attempt.to_string().into()),
        ("RIG", rig(work)),
        ("ROOT", rt.root.path().as_os_str().to_owned()),
        ("INTERRUPT_FILE", interrupt.into_os_string()),
    ]
    .into()
}

/// The repository's name: as in `[repos.NAME]`; of the one in `[repo]`, its directory's.
fn rig(work: Option<&Work>) -> OsString {
    let Some(repo) = work.map(|w| w.hub.repo()) else {
        return OsString::new();
    };
    match repo.path.file_name() {
        Some(dir) if repo.name == DEFAULT_REPO => dir.to_owned(),
        _ => repo.name.clone().into(),
    }
}

/// The names of the variables that this process was started with.
static INHERITED: LazyLock<Vec<OsString>> =
    LazyLock::new(|| std::env::vars_os().map(|(name, _)| name).collect());

/// What is set (or removed: `None`) on top of the harness's own environment. `env`: what the agent's
/// CLI wants; the user's own words go over it.
fn environment(
    rt: &Runtime,
    claim: &Claim,
    agent: &Agent<'_>,
    mut env: BTreeMap<OsString, Option<OsString>>,
    dir: &std::path::Path,
    file: &SessionFile,
) -> BTreeMap<OsString, Option<OsString>> {
    // A harness started from a git hook must not hand on the hook's repository.
    for key in INHERITED.iter() {
        if key.to_str().is_some_and(|k| k.starts_with("GIT_")) {
            env.insert(key.clone(), None);
        }
    }
    let interrupt = interrupt::path(&rt.root, &file.slot);
    let mut set = |key: &str, value: OsString| env.insert(key.into(), Some(value));
    if let Agent::Command(_, table) = agent {
        for (key, value) in &table.env {
            set(key, value.into());
        }
    }
    for (key, value) in &claim.item.env {
        set(key, value.into());
    }
    set("HARNESS_ROOT", rt.root.path().as_os_str().to_owned());
    set("HARNESS_ITEM", claim.name.as_os_str().to_owned());
    set("HARNESS_ITEM_FILE", join(dir, "item").into_os_string());
    set("HARNESS_SESSION", file.session.clone().into());
    set("HARNESS_SESSION_DIR", dir.as_os_str().to_owned());
    set("HARNESS_SLOT", file.slot.clone().into());
    set("HARNESS_AGENT", file.agent.clone().into());
    set("HARNESS_ATTEMPT", file.attempt.to_string().into());
    set(
        "HARNESS_BRANCH",
        file.branch.clone().unwrap_or_default().into(),
    );
    set("HARNESS_INTERRUPT", interrupt.clone().into_os_string());
    set("SESSION_ID", file.session.clone().into());
    set("INTERRUPT_FILE", interrupt.into_os_string());
    set("ITERATION", file.attempt.to_string().into());
    env
}

/// Has the slot's keeper start the agent; starts the keeper where there is none. The agent's pid, if
/// known, and how long it has been running.
fn start(ctx: &mut WorkerContext, spec: Spec) -> Result<(Option<i32>, Duration), Failed> {
    let session = spec.session.clone();
    let stdout = spec.stdout.clone();
    let program = PathBuf::from(spec.argv.first().cloned().unwrap_or_default());
    let request = Request::Spawn(Box::new(spec));
    let mut keeper = match ctx.keeper.take() {
        Some(keeper) => keeper,
        None => Keeper::start(&ctx.rt.root, ctx.slot())?,
    };
    if keeper.send(&request).is_err() {
        // It was killed while idle. Whether it heard the request is known: it is dead, and a
        // socket's unread bytes die with it; nothing was started.
        keeper.kill_and_reap();
        keeper = Keeper::start(&ctx.rt.root, ctx.slot())?;
        keeper.send(&request)?;
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
        Ok(Some(Reply::SpawnFailed { why, temporary, .. })) => {
            ctx.keeper = Some(keeper);
            let why = agents::why_not_started(&program).unwrap_or(why);
            Err(if temporary {
                Failed::Fault(Error::temporary("cannot start the agent", why))
            } else {
                Failed::Refused(format!("its agent could not be started: {why}"))
            })
        }
        // It died, or it says what makes no sense.
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
