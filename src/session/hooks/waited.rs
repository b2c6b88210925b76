//! The hooks that an attempt waits for, in its worktree: `worktree-setup`, and `before-start`. They run
//! under the slot's keeper, so that nothing of them outlives them or their harness.
//!
//! Invariants: nothing that one leaves in the worktree is taken for its agent's work; where it runs for a
//! base, the tree is at that base, and nothing of an agent's branch runs with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::told;
use crate::adapters;
use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::folder::DirId;
use crate::git::{Base, Clean};
use crate::hooks::{self, Event, Facts, Hook, OUTPUT_BYTES_MAX};
use crate::keeper::ExitRecord;
use crate::keeper::caps::Caps;
use crate::keeper::wire::Spec;
use crate::layout::join;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;
use crate::outcome::{Exit, Stop};
use crate::session::begin::start;
use crate::session::supervised::{self, Supervised};
use crate::session::{Attempt, Failed, WorkerContext, launch};
use crate::status::SlotState;

/// Below the session's folder.
const FOLDER: &str = "hooks";
/// Where the keeper records an end.
const EXIT: &str = "exit.json";
/// The end of its output in which the cause is looked for.
const LAST_WORDS_BYTES: u64 = 8_192;

/// Runs `worktree-setup` where the worktree is at another base than it was set up for. `from`: the commit
/// that the attempt begins at. `anew`: the worktree was checked out since that was last asked.
pub(in crate::session) fn set_up_worktree(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    from: Option<&Base>,
    anew: bool,
) -> std::result::Result<(), Failed> {
    let rt = ctx.rt.clone();
    if anew && keeps_ignored(attempt) {
        return Ok(());
    }
    let Some(hook) = hooks::usable(&rt, Event::WorktreeSetup) else {
        return Ok(());
    };
    let cwd = place(attempt);
    let (path, mark) = (
        rt.root.set_up_mark(ctx.slot(), &cwd),
        mark(attempt, &cwd, &hook),
    );
    let now = atomic::read_small(&path, STATE_FILE_BYTES_MAX);
    let is_done = |now: Vec<u8>| now == mark.as_bytes() || planted("set-up-once-for-all");
    if !anew && now.is_ok_and(is_done) {
        return Ok(());
    }
    if let (Some(work), Some(from)) = (attempt.work.clone(), from)
        && from.oid != work.base.oid
    {
        work.tree.checkout(&work.branch, &work.base)?;
    }
    let went_well = run(ctx, attempt, Event::WorktreeSetup, &hook, from)?;
    if went_well && let Err(e) = atomic::replace(&path, mark.as_bytes(), false) {
        // It runs again.
        rt.console.warn(&format!("{}: {e}", ctx.slot()));
    }
    Ok(())
}

/// Runs `before-start`.
pub(in crate::session) fn before_start(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    from: Option<&Base>,
) -> std::result::Result<(), Failed> {
    match hooks::usable(&ctx.rt.clone(), Event::BeforeStart) {
        Some(hook) => run(ctx, attempt, Event::BeforeStart, &hook, from).map(drop),
        None => Ok(()),
    }
}

fn place(attempt: &Attempt) -> PathBuf {
    PathBuf::from(attempt.file.worktree.clone().unwrap_or_default())
}

/// Whether ignored files stay in its worktree from one checkout to the next.
fn keeps_ignored(attempt: &Attempt) -> bool {
    let work = attempt.work.as_ref();
    work.is_none_or(|work| work.hub.repo().clean != Clean::All)
}

/// Says for which base and by which hook this folder was set up. Where ignored files are removed before
/// each item, that is for one attempt.
fn mark(attempt: &Attempt, cwd: &Path, hook: &Hook) -> String {
    let work = attempt.work.as_ref();
    let base = work.map_or("", |work| work.base.oid.as_str());
    let session = match keeps_ignored(attempt) {
        true => "",
        false => &attempt.file.session,
    };
    format!("{base} {session} {:?} {:?}\n", hook.stamp, DirId::of(cwd))
}

/// Runs one to its end. `false`: it did not go well, which is a note.
fn run(
    ctx: &mut WorkerContext,
    attempt: &mut Attempt,
    event: Event,
    hook: &Hook,
    from: Option<&Base>,
) -> std::result::Result<bool, Failed> {
    let what = hooks::title(event);
    ctx.show_reason(Some(format!("{what} runs")));
    let ended = run_in(ctx, attempt, event, hook);
    ctx.show_reason(None);
    let why = ended?;
    let left = clean(attempt, from)?;
    for note in why.iter().chain(&left) {
        let text = format!("{what}: {note}");
        ctx.rt.console.warn(&text);
        attempt.file.notes.push(text);
    }
    Ok(why.is_none())
}

/// Why it did not go well, if so.
fn run_in(
    ctx: &mut WorkerContext,
    attempt: &Attempt,
    event: Event,
    hook: &Hook,
) -> std::result::Result<Option<String>, Failed> {
    let (cwd, folder) = (place(attempt), join(&attempt.dir, FOLDER));
    atomic::make_dir(&folder, true)?;
    let at = |end: &str| folder.join(format!("{}.{end}", event.as_str()));
    let exit = join(&folder, EXIT);
    let id = format!("{}#{}", attempt.file.session, hooks::title(event));
    let facts = Facts {
        state: Some("claimed".to_owned()),
        ..told::facts(&attempt.file, &attempt.claim.name)
    };
    let told = facts.of(&ctx.rt, event);
    atomic::replace(&at("json"), told.json(), false)?;
    let mut env = launch::neutral();
    let given = told
        .env
        .into_iter()
        .map(|(name, value)| (name, Some(value)));
    env.extend(given);
    let spec = Spec {
        session: id.clone(),
        argv: vec![hook.path.clone().into_os_string()],
        cwd,
        stdin: Some(at("json")),
        stdout: at("log"),
        stderr: at("log"),
        exit: exit.clone(),
        grace: Duration::ZERO,
        env: env.into_iter().collect(),
        // It is the user's.
        sandbox: None,
        caps: Caps::default(),
    };
    let age = match start(ctx, spec, &[]) {
        Ok((_, age)) => age,
        Err(Failed::Refused(why)) => return Ok(Some(why)),
        Err(failed) => return Err(failed),
    };
    let (claim, log) = (&attempt.claim, at("log"));
    let limit = ctx.rt.config.harness.hook_timeout;
    let program = Supervised {
        id: &id,
        what: &hooks::title(event),
        session: &attempt.file.session,
        dir: &attempt.dir,
        exit: exit.clone(),
        timeout: limit,
        grace: Duration::ZERO,
        state: SlotState::Starting,
        has_context: false,
        is_wanted: &|| claim.is_there(),
        at_look: &|| cut(&log),
    };
    let (ended, stop) = supervised::wait(ctx, &program, age, false);
    cut(&log);
    let _stays = atomic::take_away(&exit);
    let after = clock::human(limit);
    match (stop, ended.as_ref().map(ExitRecord::exit)) {
        (Some(Stop::Shutdown), _) => Err(Failed::PutOff("harness was told to stop".into())),
        (Some(Stop::Canceled), _) => Err(Failed::PutOff("its file was taken away".into())),
        (Some(_), _) => Ok(Some(format!(
            "it was still running after {after} and was killed (`hook_timeout` in [harness])"
        ))),
        (None, Some(Exit::Code(0))) => Ok(None),
        (None, Some(Exit::Code(code))) => Ok(Some(format!("exit status {code}{}", words(&log)))),
        (None, Some(Exit::Signal(signal))) => Ok(Some(format!("signal {signal} killed it"))),
        (None, Some(Exit::Unknown) | None) => Ok(Some("its end is not known".to_owned())),
    }
}

/// What it said last.
fn words(log: &Path) -> String {
    let tail = atomic::read_tail(log, LAST_WORDS_BYTES).map(|(tail, _)| tail);
    match adapters::last_words(&tail.unwrap_or_default()) {
        words if words.is_empty() => words,
        words => format!(": {words}"),
    }
}

/// Takes away what it has printed, where that is too much. It goes on at the file's end.
fn cut(log: &Path) {
    if let Ok(file) = atomic::open_output(log)
        && file.metadata().is_ok_and(|m| m.len() > OUTPUT_BYTES_MAX)
    {
        let _goes_on = file.set_len(0);
    }
}

/// Takes away what it left in the worktree and git does not ignore: it would be committed as the agent's.
/// Returns what that was.
fn clean(attempt: &Attempt, from: Option<&Base>) -> Result<Option<String>> {
    let (Some(work), Some(from)) = (&attempt.work, from) else {
        return Ok(None);
    };
    if planted("hook-left-is-work") {
        return Ok(None);
    }
    let left = work.tree.uncommitted(
        "it left where git does not ignore them; they were taken away again (add them to .gitignore)",
    )?;
    work.tree.make_exact(&work.branch, from)?;
    Ok(left)
}
