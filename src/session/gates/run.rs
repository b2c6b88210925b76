//! Runs one gate under the slot's keeper, as an agent is run: in a process tree of its own, which ends
//! with it. A harness that dies leaves it running; the next one adopts it.
//!
//! Knows nothing of items or of what a verdict means. Invariant: what is not seen to be green once or red
//! twice on exactly its tree is neither.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use super::job::{Job, Run, Tries};
use super::{junit, scarce};
use crate::adapters;
use crate::agents;
use crate::atomic;
use crate::clock;
use crate::config::Moment;
use crate::error::{Error, Kind, Result};
use crate::keeper::ExitRecord;
use crate::keeper::caps::Caps;
use crate::keeper::wire::{Reply, Request, Spec};
use crate::layout::{GATE_LOGS, join};
use crate::mutant::planted;
use crate::outcome::{Exit, Stop, Verdict};
use crate::record::GateRan;
use crate::runtime::Level;
use crate::sandbox::{Env, Who, value_of};
use crate::session::begin::start;
use crate::session::confine::{Ended, PRINTED_BYTES, confine, in_printed};
use crate::session::stream::tail;
use crate::session::supervised::{self, Supervised};
use crate::session::{Failed, WorkerContext};
use crate::status::SlotState;
use crate::tokens::{Token, VARIABLE, held_by};

/// The end of a gate's output in which the cause is looked for.
const LAST_WORDS_BYTES: u64 = 8_192;
/// What `sh` says of a program that cannot be executed, or that is not there.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// What one run says.
enum Once {
    Green,
    Red {
        reason: String,
        tests: Vec<String>,
    },
    Unevaluated {
        why: String,
        /// Another run may say more.
        again: bool,
    },
}

impl Once {
    fn found(self) -> Found {
        match self {
            Once::Green => (Verdict::Green, String::new(), Vec::new()),
            Once::Red { reason, tests } => (Verdict::Red, reason, tests),
            Once::Unevaluated { why, .. } => (Verdict::Unevaluated, why, Vec::new()),
        }
    }
}

/// Runs it, and once more on the same tree unless it is green. `None`: it was not wanted any more.
///
/// # Errors
/// Temporary: this process is stopping, and nothing was found out.
pub(crate) fn run_gate(ctx: &mut WorkerContext, job: &Job<'_>) -> Result<Option<GateRan>> {
    let began = clock::instant();
    ctx.rt.slots.show(ctx.lease.slot, |s| {
        s.state = SlotState::Finishing;
        s.reason = Some(format!("gate {} runs", job.gate));
    });
    let found = evaluate(ctx, job);
    ctx.show_reason(None);
    let Some((verdict, reason, tests)) = found? else {
        return Ok(None);
    };
    Ok(Some(GateRan {
        session: job.session.to_owned(),
        gate: job.gate.to_owned(),
        moment: job.moment.as_str().to_owned(),
        tree: job.tree.to_owned(),
        verdict: verdict.into(),
        reason,
        seconds: began.elapsed().as_secs_f64(),
        tests,
        log: Some(format!("{GATE_LOGS}/{}.log", job.stem())),
    }))
}

type Found = (Verdict, String, Vec<String>);

fn evaluate(ctx: &mut WorkerContext, job: &Job<'_>) -> Result<Option<Found>> {
    let first = match has_come_to(ctx, job, Run::Second) {
        true => Once::Red {
            reason: "red before its harness died".to_owned(),
            tests: Vec::new(),
        },
        false => match known(ctx, job, Run::First)? {
            None => return Ok(None),
            Some(first @ Once::Green) => return Ok(Some(first.found())),
            Some(first) if job.tries == Tries::One => return Ok(Some(first.found())),
            // It would run as long again, or not start again.
            Some(first @ Once::Unevaluated { again: false, .. }) => return Ok(Some(first.found())),
            Some(first) => first,
        },
    };
    if planted("red-once-is-red") {
        return Ok(Some(first.found()));
    }
    ctx.show_reason(Some(format!("gate {} runs once more", job.gate)));
    // The second run decides, but for what passes only now: that is flaky.
    let second = known(ctx, job, Run::Second)?;
    Ok(second.map(|second| match (first, second) {
        (Once::Red { reason, tests }, Once::Green) => (Verdict::Flaky, reason, tests),
        (_, second) => second.found(),
    }))
}

/// A run; once more where nothing is known of its end. Red is what is red twice.
fn known(ctx: &mut WorkerContext, job: &Job<'_>, run: Run) -> Result<Option<Once>> {
    match once(ctx, job, run)? {
        Some(Once::Unevaluated { again: true, .. }) if job.tries == Tries::UntilSure => {
            let again = once(ctx, job, run)?;
            Ok(again.map(|once| match once {
                Once::Unevaluated { why, .. } => Once::Unevaluated { why, again: false },
                known => known,
            }))
        }
        known => Ok(known),
    }
}

/// Whether a dead harness had started this run, and it runs or has ended.
fn has_come_to(ctx: &WorkerContext, job: &Job<'_>, run: Run) -> bool {
    let id = job.id(run);
    let runs = ctx.running_gate.as_ref();
    runs.is_some_and(|(running, _)| *running == id) || recorded(job, &id).is_some()
}

fn cannot(why: impl std::fmt::Display) -> Once {
    Once::Unevaluated {
        why: format!("it cannot be started: {why}"),
        again: false,
    }
}

/// Goes on with the run that a dead harness started, or starts it, and waits for its end.
fn once(ctx: &mut WorkerContext, job: &Job<'_>, run: Run) -> Result<Option<Once>> {
    let id = job.id(run);
    let is_adopted = |running: &mut (String, Duration)| running.0 == id;
    let mut tokens = Vec::new();
    let (ended, stop) = if let Some((_, age)) = ctx.running_gate.take_if(is_adopted) {
        wait(ctx, job, &id, age, true)
    } else if let Some(record) = recorded(job, &id) {
        (Some(record), None)
    } else {
        match scarce::take(ctx, job) {
            Ok(Some(taken)) => tokens = taken,
            Ok(None) => return Ok(None),
            Err(e) if e.kind() == Kind::Temporary => return Err(e),
            Err(e) => return Ok(Some(cannot(e))),
        }
        match begin(ctx, job, run, &tokens)? {
            Ok(age) => wait(ctx, job, &id, age, false),
            Err(cannot) => return Ok(Some(cannot)),
        }
    };
    drop(tokens);
    // Another harness may have stopped it.
    let by_keeper = ended.as_ref().and_then(ExitRecord::stop);
    let over = match (stop.or(by_keeper), ended) {
        _ if stop == Some(Stop::Shutdown) => return Err(stopped(job)),
        _ if stop == Some(Stop::Canceled) => return Ok(None),
        (Some(Stop::TimedOut), _) => Once::Unevaluated {
            why: format!(
                "it was still running after {} and was stopped",
                clock::human(job.table.timeout)
            ),
            again: false,
        },
        (Some(stop), Some(record)) if stop.is_of_the_machine() => Once::Unevaluated {
            why: record.limits.last().cloned().unwrap_or_default(),
            again: false,
        },
        (Some(_), _) => unknown("it was stopped"),
        (None, None) => unknown("its keeper died, so its end is not known"),
        (None, Some(record)) => explained(ctx, job, judge(job, &record)),
    };
    // It says nothing of any other run.
    let _stays = atomic::take_away(&job.exit());
    Ok(Some(over))
}

/// With what its sandbox refused it, where it did: what the reason names, else the first.
fn explained(ctx: &WorkerContext, job: &Job<'_>, mut once: Once) -> Once {
    let (Once::Red { reason, .. } | Once::Unevaluated { why: reason, .. }) = &mut once else {
        return once;
    };
    let printed = tail(&job.log(), PRINTED_BYTES);
    let refused = in_printed(&ctx.rt, ctx.slot(), &printed, || Ended {
        who: Who::gate(job.gate, job.table),
        worktree: job.cwd,
        session: None,
        env: job.env.iter().cloned().collect(),
    });
    let named = refused.iter().find(|r| reason.contains(&r.printed));
    if let Some(cause) = named.or(refused.first()) {
        reason.push_str("; ");
        reason.push_str(&cause.text);
    }
    once
}

fn unknown(why: &str) -> Once {
    Once::Unevaluated {
        why: why.to_owned(),
        again: true,
    }
}

fn stopped(job: &Job<'_>) -> Error {
    Error::temporary(
        "a gate was stopped",
        format!("harness was told to stop while gate {} ran", job.gate),
    )
}

/// Starts it on exactly its tree. Inner error: it cannot be started.
fn begin(
    ctx: &mut WorkerContext,
    job: &Job<'_>,
    run: Run,
    tokens: &[Token],
) -> Result<std::result::Result<Duration, Once>> {
    if ctx.rt.lifecycle.level() >= Level::Stopping {
        return Err(stopped(job));
    }
    end_running(ctx);
    let folder = join(job.dir, GATE_LOGS);
    if !atomic::is_own_dir(&folder) {
        atomic::remove(&folder)?;
        atomic::make_dir(&folder, true)?;
    }
    atomic::take_away(&job.exit())?;
    let prepared = ctx.retry_temporary(|| {
        (job.prepare)()?;
        match &job.table.junit {
            Some(path) => junit::remove_old(job.cwd, path),
            None => Ok(()),
        }
    });
    match prepared {
        Err(e) if e.kind() == Kind::Temporary => return Err(e),
        Err(e) => return Ok(Err(cannot(e))),
        Ok(()) => {}
    }
    let spec = match spec(ctx, job, run, (&folder, tokens)) {
        Ok(spec) => spec,
        Err(why) => return Ok(Err(cannot(why))),
    };
    match start(ctx, spec, tokens) {
        Ok((_, age)) => Ok(Ok(age)),
        Err(Failed::Fault(e)) => Err(e),
        Err(Failed::Refused(why) | Failed::PutOff(why) | Failed::Unpaid(why)) => {
            Ok(Err(cannot(why)))
        }
    }
}

/// Moves away what an agent wrote where its gates' output and ends are to be: it could look like theirs.
pub(super) fn clear(dir: &Path) -> Result<()> {
    let folder = join(dir, GATE_LOGS);
    let before = format!("{}-", Moment::Before.as_str());
    let ours = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        entry.file_type().is_ok_and(|kind| kind.is_file())
            && name.to_string_lossy().starts_with(&before)
    };
    let mut entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    match atomic::is_own_dir(&folder) && entries.all(|entry| ours(&entry)) {
        true => Ok(()),
        false => atomic::take_away(&folder).map(drop),
    }
}

/// Ends a gate that a dead harness started and that nobody waits for.
pub(in crate::session) fn end_running(ctx: &mut WorkerContext) {
    let Some((id, _)) = ctx.running_gate.take() else {
        return;
    };
    let grace = ctx.rt.config.harness.kill_grace;
    let why = Stop::Shutdown.as_str().to_owned();
    if let Some(keeper) = &mut ctx.keeper
        && keeper.send(&Request::Stop { grace, why }).is_ok()
    {
        while let Ok(Some(reply)) = keeper.receive() {
            if matches!(reply, Reply::Exited { session, .. } if session == id) {
                return;
            }
        }
    }
    if let Some(mut keeper) = ctx.keeper.take() {
        keeper.kill_and_reap();
    }
}

/// Waits until it has ended, or stops it. `None`: its end is not known.
fn wait(
    ctx: &mut WorkerContext,
    job: &Job<'_>,
    id: &str,
    age: Duration,
    adopted: bool,
) -> (Option<ExitRecord>, Option<Stop>) {
    let program = Supervised {
        id,
        what: &format!("gate {}", job.gate),
        session: job.session,
        dir: job.dir,
        exit: job.exit(),
        timeout: job.table.timeout,
        grace: ctx.rt.config.harness.kill_grace,
        state: SlotState::Finishing,
        has_context: job.moment == Moment::After,
        is_wanted: job.is_wanted,
        at_look: &|| (),
    };
    supervised::wait(ctx, &program, age, adopted)
}

/// Why it cannot be started, if so.
fn spec(
    ctx: &WorkerContext,
    job: &Job<'_>,
    run: Run,
    (folder, tokens): (&Path, &[Token]),
) -> std::result::Result<Spec, String> {
    let mut argv: Vec<OsString> = match &job.table.script {
        Some(script) => vec!["/bin/sh".into(), "-c".into(), script.into()],
        None => {
            let args = job.table.command.iter();
            args.map(|arg| agents::fill(OsStr::new(arg), job.facts))
                .collect()
        }
    };
    let mut env: Env = job.env.iter().cloned().collect();
    env.insert("HARNESS_GATE".into(), Some(job.gate.into()));
    env.insert("HARNESS_MOMENT".into(), Some(job.moment.as_str().into()));
    env.insert("HARNESS_TREE".into(), Some(job.tree.into()));
    env.insert(VARIABLE.into(), held_by(tokens, None));
    let path = value_of(&env, OsStr::new("PATH"));
    let program = argv.first().cloned().unwrap_or_default();
    argv[0] = agents::find_program(&program, job.cwd, path.as_deref())?.into();
    // Of two runs the log has the second; the first is kept beside it.
    let log = job.log();
    let first = folder.join(format!("{}.1.log", job.stem()));
    let kept = (|| {
        atomic::take_away(&first)?;
        match run == Run::Second && atomic::exists(&log) {
            true => atomic::rename_over(&log, &first),
            // Of a run that was stopped with its harness.
            false => atomic::take_away(&log).map(drop),
        }
    })();
    kept.map_err(|e| e.to_string())?;
    let who = Who::gate(job.gate, job.table);
    let confined = confine(&ctx.rt, ctx.slot(), who, (job.dir, false), job.cwd, env)?;
    Ok(Spec {
        session: job.id(run),
        argv,
        cwd: job.cwd.to_owned(),
        stdin: None,
        stdout: log.clone(),
        stderr: log,
        exit: job.exit(),
        grace: ctx.rt.config.harness.kill_grace,
        env: confined.env.into_iter().collect(),
        sandbox: confined.sandbox,
        caps: Caps::of_gate(&ctx.rt.config.limits),
    })
}

/// Its end, where a dead harness may have begun it.
fn recorded(job: &Job<'_>, id: &str) -> Option<ExitRecord> {
    if !job.recovered || planted("gate-end-forgotten") {
        return None;
    }
    job.read_end(id)
}

fn judge(job: &Job<'_>, record: &ExitRecord) -> Once {
    let failing = match &job.table.junit {
        None => Ok(Vec::new()),
        Some(path) => junit::failing(job.cwd, path),
    };
    match (record.exit(), failing) {
        (Exit::Code(0), Ok(tests)) if tests.is_empty() => Once::Green,
        // What was ended for its memory says nothing of the tree.
        _ if !record.limits.is_empty() => unknown(&record.limits.join("; ")),
        (Exit::Code(0), Ok(tests)) => Once::Red {
            reason: "its exit status is 0, but its JUnit file has failures".to_owned(),
            tests,
        },
        // It may have ended before it tested anything.
        (Exit::Code(0), Err(why)) => Once::Red {
            reason: format!("its exit status is 0, but {why}"),
            tests: Vec::new(),
        },
        (Exit::Code(code @ (NOT_EXECUTABLE | NOT_FOUND)), _) if job.table.script.is_some() => {
            cannot(format!(
                "exit status {code} of sh: a program that it names is not there, or cannot be executed"
            ))
        }
        (Exit::Code(code), Ok(tests)) if !tests.is_empty() => Once::Red {
            reason: format!("exit status {code}"),
            tests,
        },
        // Where no test is known by name, the line of its output that names the cause, most likely.
        (Exit::Code(code), _) => {
            let tail = atomic::read_tail(&job.log(), LAST_WORDS_BYTES).map(|(tail, _)| tail);
            let words = adapters::last_words(&tail.unwrap_or_default());
            let words = match words.is_empty() {
                true => words,
                false => format!(": {words}"),
            };
            Once::Red {
                reason: format!("exit status {code}{words}"),
                tests: Vec::new(),
            }
        }
        (Exit::Signal(signal), _) => unknown(&format!("signal {signal} killed it")),
        (Exit::Unknown, _) => unknown("its end is not known"),
    }
}
