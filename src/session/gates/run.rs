//! Runs one gate under the slot's keeper, as an agent is run: in a process tree of its own, which ends
//! with it. A harness that dies leaves it running; the next one adopts it.
//!
//! Knows nothing of items or of what a verdict means. Invariant: what is not seen to be green twice or
//! red twice on the same tree is neither.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use super::junit;
use crate::agents::{self, Facts};
use crate::atomic;
use crate::clock;
use crate::config::{GateTable, Moment};
use crate::error::{Error, Result};
use crate::keeper::ExitRecord;
use crate::keeper::wire::{Reply, Request, Spec};
use crate::layout::join;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;
use crate::outcome::{Exit, Stop, Verdict};
use crate::process;
use crate::record::GateRan;
use crate::runtime::Level;
use crate::session::begin::start;
use crate::session::{Failed, WorkerContext};
use crate::status::SlotState;

/// How often a running gate's time and item are checked.
const LOOK: Duration = Duration::from_millis(250);
/// How long the process tree of a gate whose keeper died is searched and killed.
const SWEEP: Duration = Duration::from_secs(10);
/// What `sh` says of a program that cannot be executed, or that is not there.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// The keeper's name for its record of an end.
const EXIT: &str = "exit.json";

/// How often it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tries {
    /// What is not green is tried once more on the same tree.
    UntilSure,
    /// To find the one of many that makes a known red one.
    One,
}

/// A gate on a tree.
pub(crate) struct Job<'a> {
    pub(crate) gate: &'a str,
    pub(crate) table: &'a GateTable,
    pub(crate) moment: Moment,
    /// The session whose folder, `dir`, gets the output.
    pub(crate) session: &'a str,
    pub(crate) dir: &'a Path,
    /// The worktree, in which `tree` is checked out.
    pub(crate) cwd: &'a Path,
    pub(crate) tree: &'a str,
    pub(crate) facts: &'a Facts,
    pub(crate) env: &'a [(OsString, Option<OsString>)],
    /// What tells this run from others of this session and gate; empty for the only one.
    pub(crate) number: &'a str,
    pub(crate) tries: Tries,
    /// `false`: nobody wants to know any more.
    pub(crate) is_wanted: &'a dyn Fn() -> bool,
}

/// What one run says.
enum Once {
    Green,
    Red { reason: String, tests: Vec<String> },
    Unevaluated(String),
}

impl Once {
    fn found(self) -> Found {
        match self {
            Once::Green => (Verdict::Green, String::new(), Vec::new()),
            Once::Red { reason, tests } => (Verdict::Red, reason, tests),
            Once::Unevaluated(why) => (Verdict::Unevaluated, why, Vec::new()),
        }
    }
}

impl Job<'_> {
    /// The name of its log, without ending.
    fn stem(&self) -> String {
        let moment = match self.moment {
            Moment::After => String::new(),
            moment => format!("{}-", moment.as_str()),
        };
        let number = match self.number {
            "" => String::new(),
            number => format!("-{number}"),
        };
        format!("{moment}{}{number}", self.gate)
    }

    /// The name under which the keeper runs it.
    fn id(&self) -> String {
        format!("{}{}", gate_prefix(self.session), self.stem())
    }
}

/// What the keeper's names of a session's gates begin with.
pub(crate) fn gate_prefix(session: &str) -> String {
    format!("{session}#")
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
    let first = once(ctx, job);
    let found = match first {
        Ok(Some(Once::Green)) => Ok(Some((Verdict::Green, String::new(), Vec::new()))),
        Ok(Some(first)) if job.tries == Tries::One => Ok(Some(first.found())),
        Ok(Some(first)) => {
            ctx.show_reason(Some(format!("gate {} runs once more", job.gate)));
            again(ctx, job, first)
        }
        Ok(None) => Ok(None),
        Err(e) => Err(e),
    };
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
        log: Some(format!("gates/{}.log", job.stem())),
    }))
}

type Found = (Verdict, String, Vec<String>);

/// The second run decides, but for what passes only now: that is flaky.
fn again(ctx: &mut WorkerContext, job: &Job<'_>, first: Once) -> Result<Option<Found>> {
    let missing = |once: &Once| matches!(once, Once::Unevaluated(why) if why.starts_with(CANNOT));
    if missing(&first)
        && let Once::Unevaluated(why) = first
    {
        return Ok(Some((Verdict::Unevaluated, why, Vec::new())));
    }
    if planted("red-once-is-red")
        && let Once::Red { reason, tests } = first
    {
        return Ok(Some((Verdict::Red, reason, tests)));
    }
    Ok(once(ctx, job)?.map(|second| match (first, second) {
        (Once::Red { reason, tests }, Once::Green) => (Verdict::Flaky, reason, tests),
        (_, Once::Green) => (Verdict::Green, String::new(), Vec::new()),
        (_, Once::Red { reason, tests }) => (Verdict::Red, reason, tests),
        (_, Once::Unevaluated(why)) => (Verdict::Unevaluated, why, Vec::new()),
    }))
}

const CANNOT: &str = "it cannot be started";

/// Starts it, or takes over the one that a dead harness started, and waits for its end.
fn once(ctx: &mut WorkerContext, job: &Job<'_>) -> Result<Option<Once>> {
    let folder = join(job.dir, "gates");
    if !atomic::is_own_dir(&folder) {
        atomic::remove(&folder)?;
        atomic::make_dir(&folder, true)?;
    }
    let exit = folder.join(EXIT);
    let before = job
        .table
        .junit
        .as_deref()
        .and_then(|path| junit::stamp(job.cwd, path));
    let adopted = ctx.running_gate.take().filter(|(id, _)| *id == job.id());
    let age = match adopted {
        Some((_, age)) => age,
        None => {
            atomic::remove(&exit)?;
            let spec = match spec(ctx, job, &folder, exit) {
                Ok(spec) => spec,
                Err(why) => return Ok(Some(Once::Unevaluated(format!("{CANNOT}: {why}")))),
            };
            match start(ctx, spec) {
                Ok((_, age)) => age,
                Err(Failed::Fault(e)) => return Err(e),
                Err(Failed::Refused(why) | Failed::PutOff(why)) => {
                    return Ok(Some(Once::Unevaluated(format!("{CANNOT}: {why}"))));
                }
            }
        }
    };
    let (ended, stop) = wait(ctx, job, age);
    let over = match (stop, ended) {
        (Some(Stop::Shutdown), _) => {
            return Err(Error::temporary(
                "a gate was stopped",
                format!("harness was told to stop while gate {} ran", job.gate),
            ));
        }
        (Some(Stop::Canceled), _) => return Ok(None),
        (Some(_), _) => {
            let after = clock::human(job.table.timeout);
            Once::Unevaluated(format!(
                "it was still running after {after} and was stopped"
            ))
        }
        (None, None) => Once::Unevaluated("its keeper died, so its end is not known".to_owned()),
        (None, Some(record)) => judge(job, &record, before),
    };
    Ok(Some(over))
}

/// Why it cannot be started, if so.
fn spec(
    ctx: &WorkerContext,
    job: &Job<'_>,
    folder: &Path,
    exit: std::path::PathBuf,
) -> std::result::Result<Spec, String> {
    let mut argv: Vec<OsString> = match &job.table.script {
        Some(script) => vec!["/bin/sh".into(), "-c".into(), script.into()],
        None => {
            let args = job.table.command.iter();
            args.map(|arg| agents::fill(OsStr::new(arg), job.facts))
                .collect()
        }
    };
    let own = job.env.iter().find(|(key, _)| key == "PATH");
    let path = match own {
        Some((_, path)) => path.clone(),
        None => std::env::var_os("PATH"),
    };
    let program = argv.first().cloned().unwrap_or_default();
    argv[0] = agents::find_program(&program, job.cwd, path.as_deref())?.into();
    let log = folder.join(format!("{}.log", job.stem()));
    // Of two runs the log has the second; the first is kept beside it.
    if atomic::exists(&log) {
        let first = folder.join(format!("{}.1.log", job.stem()));
        atomic::rename_over(&log, &first).map_err(|e| e.to_string())?;
    }
    let mut env = job.env.to_vec();
    env.push(("HARNESS_GATE".into(), Some(job.gate.into())));
    env.push(("HARNESS_MOMENT".into(), Some(job.moment.as_str().into())));
    env.push(("HARNESS_TREE".into(), Some(job.tree.into())));
    Ok(Spec {
        session: job.id(),
        argv,
        cwd: job.cwd.to_owned(),
        stdin: None,
        stdout: log.clone(),
        stderr: log,
        exit,
        grace: ctx.rt.config.harness.kill_grace,
        env,
    })
}

/// Waits until it has ended, or stops it. `None`: its end is not known.
fn wait(
    ctx: &mut WorkerContext,
    job: &Job<'_>,
    age: Duration,
) -> (Option<ExitRecord>, Option<Stop>) {
    let began = clock::instant();
    let mut stop = None;
    loop {
        let runs = age + began.elapsed();
        if stop.is_none() {
            stop = if ctx.rt.lifecycle.level() >= Level::Stopping {
                Some(Stop::Shutdown)
            } else if !(job.is_wanted)() {
                Some(Stop::Canceled)
            } else {
                (runs >= job.table.timeout).then_some(Stop::TimedOut)
            };
            if let (Some(stop), Some(keeper)) = (stop, &mut ctx.keeper) {
                let grace = ctx.rt.config.harness.kill_grace;
                let why = stop.as_str().to_owned();
                // A dead keeper is noticed at the next read.
                let _dead = keeper.send(&Request::Stop { grace, why });
            }
        }
        let Some(keeper) = &mut ctx.keeper else {
            return (after_keeper(ctx, job), stop);
        };
        let look = LOOK.min(
            job.table
                .timeout
                .saturating_sub(runs)
                .max(Duration::from_millis(1)),
        );
        let (_, readable) = ctx.waker.wait_or(Some(keeper.fd()), look);
        if !readable {
            continue;
        }
        match keeper.receive() {
            Ok(Some(Reply::Exited { session, exit })) if session == job.id() => {
                // One that ended by itself before it was stopped has ended by itself.
                let record: Option<ExitRecord> = serde_json::from_slice(&exit).ok();
                let stopped = record.as_ref().is_some_and(|record| record.stopped);
                return (record, stop.filter(|s| stopped || *s == Stop::Canceled));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                keeper.kill_and_reap();
                ctx.keeper = None;
            }
        }
    }
}

/// Its keeper is gone: what it recorded, or nothing, and then nothing of the gate goes on.
fn after_keeper(ctx: &WorkerContext, job: &Job<'_>) -> Option<ExitRecord> {
    let exit = job.dir.join("gates").join(EXIT);
    let text = atomic::read_small(&exit, STATE_FILE_BYTES_MAX).ok();
    let record = text.and_then(|text| serde_json::from_slice::<ExitRecord>(&text).ok());
    if let Some(record) = record.filter(|record| record.session == job.id()) {
        return Some(record);
    }
    let slot = ctx.rt.root.agent(ctx.slot());
    process::end_tree(&slot, &job.id(), job.dir, SWEEP);
    None
}

fn judge(job: &Job<'_>, record: &ExitRecord, before: Option<junit::Stamp>) -> Once {
    let failing = match &job.table.junit {
        None => Ok(Vec::new()),
        Some(path) => junit::failing(job.cwd, path, before),
    };
    match (record.exit(), failing) {
        (Exit::Code(0), Ok(tests)) if tests.is_empty() => Once::Green,
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
            Once::Unevaluated(format!(
                "{CANNOT}: exit status {code} of sh: a program that it names is not there, or cannot be executed"
            ))
        }
        (Exit::Code(code), tests) => Once::Red {
            reason: format!("exit status {code}"),
            tests: tests.unwrap_or_default(),
        },
        (Exit::Signal(signal), _) => Once::Unevaluated(format!("signal {signal} killed it")),
        (Exit::Unknown, _) => Once::Unevaluated("its end is not known".to_owned()),
    }
}
