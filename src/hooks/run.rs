//! Runs one program beside the items: in a process group of its own, with a bound on its time and on
//! what is kept of its output. A thread of its own waits for it.
//!
//! Invariant: it was started when `beside` returns, so that it runs even if this process is killed
//! right after; then nobody ends it at its time.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::facts::Told;
use super::nameless;
use crate::adapters;
use crate::agents;
use crate::atomic::OwnDir;
use crate::clock;
use crate::git;
use crate::layout::Name;
use crate::mutant::planted;
use crate::process;
use crate::record::{Event, HookFailed, Record};
use crate::runtime::{Level, Runtime};
use crate::service;
use crate::text::one_line;

/// What is kept of a program's output: more is read by nobody.
pub(crate) const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// The end of its output in which the cause is looked for.
const LAST_WORDS_BYTES: u64 = 8_192;
/// How long a killed process may take to be gone before nobody waits for it any more.
const GONE: Duration = Duration::from_secs(5);
/// Between two looks at a running program: at first, and at most.
const LOOK: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// A program to run.
pub(super) struct Errand<'a> {
    /// As messages name it.
    pub(super) what: String,
    pub(super) name: &'static str,
    pub(super) argv: Vec<OsString>,
    pub(super) stdin: Option<File>,
    pub(super) told: &'a Told,
    pub(super) log: Option<Log>,
    /// Whose record says that it failed.
    pub(super) item: Option<Name>,
}

/// Where its output is kept: `hooks/NAME.log` of a session.
pub(super) struct Log {
    pub(super) session: PathBuf,
    pub(super) name: &'static str,
}

/// A running program's place among those that run.
struct Place {
    rt: Arc<Runtime>,
    name: &'static str,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rt.errands.leave(self.name);
        self.rt.lifecycle.main().wake();
    }
}

/// Starts it; a thread waits for its end. What goes wrong is said, and stops nothing.
pub(super) fn beside(rt: &Arc<Runtime>, errand: Errand<'_>) {
    let what = errand.what.clone();
    let failed = {
        let (rt, item) = (rt.clone(), errand.item.clone());
        let session = errand.log.as_ref().map(|log| log.session.clone());
        move |why: &str| fail(&rt, &what, item.as_ref(), session.as_deref(), why)
    };
    let (errands, patience) = (&rt.errands, rt.config.harness.hook_timeout);
    let mut has_place = errands.enter(errand.name, Duration::ZERO);
    if !has_place {
        rt.console.warn(
            "as many hooks run as may at once: the next one, and its slot, wait for one to end",
        );
        has_place = errands.enter(errand.name, patience);
    }
    if !has_place {
        return failed(
            "it was not run: too many hooks and notifications run, and none of them ends",
        );
    }
    let place = Place {
        rt: rt.clone(),
        name: errand.name,
    };
    let output = output();
    let mut child = match start(rt, &errand, output.as_ref()) {
        Ok(child) => child,
        Err(why) => return failed(&why),
    };
    let log = errand.log;
    // It says that the hook was run, should this process be killed now.
    let _unsaid = log.as_ref().map(Log::begin);
    let waits = move || {
        let ended = wait_for(&place.rt, &mut child, output.as_ref());
        if let (Some(log), Some(output)) = (log, &output) {
            let _of_the_agents = log.write(&last_bytes(output, OUTPUT_BYTES_MAX));
        }
        if let Err(why) = ended {
            let words = output.as_ref().map(|o| last_bytes(o, LAST_WORDS_BYTES));
            let words = adapters::last_words(&words.unwrap_or_default());
            match words.is_empty() {
                true => failed(&why),
                false => failed(&format!("{why}: {words}")),
            }
        }
        drop(place);
    };
    let started = std::thread::Builder::new().name("hook".into()).spawn(waits);
    if let Err(e) = started {
        rt.console
            .warn(&format!("nobody waits for {}: {e}", errand.what));
    }
}

/// Says that it failed, and puts it on its item's record.
fn fail(rt: &Runtime, what: &str, item: Option<&Name>, session: Option<&Path>, why: &str) {
    let why = one_line(why);
    rt.console.warn(&format!("{what}: {why}"));
    let (Some(name), Some(session)) = (item, session.and_then(Path::file_name)) else {
        return;
    };
    let event = Event::Hook(HookFailed {
        session: session.to_string_lossy().into_owned(),
        hook: what.to_owned(),
        reason: why,
    });
    // Nothing but `show` reads this.
    let _lost = Record::open(&rt.root, name).and_then(|mut record| record.append(&event));
}

/// For its standard output and error, at whose end all of it writes.
fn output() -> Option<File> {
    let file = nameless()?;
    let flags = fcntl_getfl(&file).ok()?;
    fcntl_setfl(&file, flags | OFlags::APPEND).ok()?;
    Some(file)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this module runs hooks and notify"
)]
fn start(rt: &Runtime, errand: &Errand<'_>, output: Option<&File>) -> Result<Child, String> {
    let (program, args) = errand.argv.split_first().ok_or("it is empty")?;
    let shared = |file: Option<&File>| {
        let shared = file.and_then(|file| file.try_clone().ok());
        shared.map_or_else(Stdio::null, Stdio::from)
    };
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(rt.root.path())
        .process_group(0)
        .envs(errand.told.env.iter().map(|(name, value)| (name, value)))
        .env("PWD", rt.root.path())
        .env_remove("OLDPWD")
        .stdin(shared(errand.stdin.as_ref()))
        .stdout(shared(output))
        .stderr(shared(output));
    // A harness that was started from a git hook: what directs git there is not for these.
    for (name, _) in std::env::vars_os().filter(|(name, _)| git::directs_git(name)) {
        command.env_remove(name);
    }
    service::hide(&mut command);
    process::spawn(&mut command).map_err(|e| {
        let why = agents::why_not_started(Path::new(program));
        let why = why.unwrap_or_else(|| e.to_string());
        format!("{} cannot be started: {why}", crate::layout::shown(program))
    })
}

/// Waits for its end, and ends it when its time is up. `Err`: why it did not go well.
fn wait_for(rt: &Runtime, child: &mut Child, output: Option<&File>) -> Result<(), String> {
    let began = clock::instant();
    let harness = &rt.config.harness;
    let (mut limit, mut look, mut stops) = (harness.hook_timeout, LOOK, false);
    if planted("hook-without-end") {
        limit *= 1_000;
    }
    loop {
        if let Some(output) = output {
            cut(output);
        }
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Ok(None) => {}
            Err(e) => return Err(format!("its end cannot be seen: {e}")),
        }
        // A stop waits for it no longer than for an agent.
        if !stops && rt.lifecycle.level() >= Level::Stopping {
            stops = true;
            limit = limit.min(began.elapsed() + harness.kill_grace);
        }
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            break;
        }
        process::pause(look.min(left));
        look = (look * 2).min(LOOK_MAX);
    }
    let _gone = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let end = clock::instant() + GONE;
    while matches!(child.try_wait(), Ok(None)) && clock::instant() < end {
        process::pause(LOOK);
    }
    let after = clock::human(limit);
    Err(format!(
        "it was still running after {after} and was killed (`hook_timeout` in [harness])"
    ))
}

/// Takes away what was written so far, where that is too much.
fn cut(output: &File) {
    if output.metadata().is_ok_and(|m| m.len() > OUTPUT_BYTES_MAX) {
        let _goes_on = output.set_len(0);
    }
}

/// The end of what it has printed.
fn last_bytes(output: &File, max: u64) -> Vec<u8> {
    let len = output.metadata().map_or(0, |m| m.len());
    let mut bytes = vec![0; len.min(max) as usize];
    let read = output.read_at(&mut bytes, len.saturating_sub(max));
    bytes.truncate(read.unwrap_or_default());
    bytes
}

impl Log {
    /// Makes it, empty, without a temporary file that a death would leave.
    fn begin(&self) -> crate::error::Result<()> {
        let folder = OwnDir::open(&self.session)?.folder("hooks")?;
        folder.create(format!("{}.log", self.name), b"").map(drop)
    }

    /// In its session's folder, where an agent may have put anything.
    fn write(&self, content: &[u8]) -> crate::error::Result<()> {
        let folder = OwnDir::open(&self.session)?.folder("hooks")?;
        folder.replace(&format!("{}.log", self.name), content, false)
    }
}
