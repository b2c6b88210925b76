//! Notifies a person: runs the user's `notify` command, with facts in its environment and a text on
//! its standard input. No shell is involved.
//!
//! Knows nothing of why. Invariant: no item waits for it, it is killed after `TIME_MAX`, and what it
//! does or prints changes nothing.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::atomic;
use crate::clock;
use crate::process;
use crate::runtime::Runtime;
use crate::text::message;

/// A notification that takes longer hangs.
const TIME_MAX: Duration = Duration::from_secs(60);

/// What a notification is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notice {
    /// `interrupt`, `parked`, `review`, `landed` or `done`.
    pub(crate) event: &'static str,
    pub(crate) reason: String,
    pub(crate) item: String,
    pub(crate) session: String,
    /// The slot, or `all`.
    pub(crate) slot: String,
    /// The interrupt's file; empty where there is none.
    pub(crate) interrupt: String,
    /// Commands to paste; empty where there is nothing to do.
    pub(crate) what_to_do: String,
}

/// Starts the command, if `notify_on` names the event; a thread of its own waits for its end. `text`:
/// a file for its standard input.
pub(crate) fn tell(rt: &Arc<Runtime>, notice: Notice, text: Option<&Path>) {
    let harness = &rt.config.harness;
    let wanted = harness.notify_on.iter().any(|e| e == notice.event);
    if harness.notify.is_empty() || !wanted {
        return;
    }
    let own = |path: &&Path| path.parent().is_some_and(atomic::is_own_dir);
    let text = text.filter(own);
    let text = text.and_then(|path| atomic::open_regular(path).ok());
    // Started in this thread, so that it runs even if this process ends right after.
    let child = match start(rt, &notice, text) {
        Ok(child) => child,
        Err(why) => return rt.console.warn(&format!("the notify command: {why}")),
    };
    let told = rt.clone();
    let waits = move || {
        if let Err(why) = wait_for(child) {
            told.console.warn(&format!("the notify command: {why}"));
        }
    };
    let started = std::thread::Builder::new()
        .name("notify".into())
        .spawn(waits);
    if let Err(e) = started {
        rt.console
            .warn(&format!("nobody waits for the notify command: {e}"));
    }
}

#[expect(clippy::disallowed_methods, reason = "this module runs notify")]
fn start(rt: &Runtime, notice: &Notice, text: Option<File>) -> Result<Child, String> {
    let argv = &rt.config.harness.notify;
    let (program, args) = argv.split_first().ok_or("it is empty")?;
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(rt.root.path())
        .process_group(0)
        .env("HARNESS_ROOT", rt.root.path())
        .env("HARNESS_EVENT", notice.event)
        .env("HARNESS_REASON", message(&notice.reason))
        .env("HARNESS_ITEM", &notice.item)
        .env("HARNESS_SESSION", &notice.session)
        .env("HARNESS_SLOT", &notice.slot)
        .env("HARNESS_INTERRUPT", &notice.interrupt)
        .env("HARNESS_WHAT_TO_DO", message(&notice.what_to_do))
        .stdin(text.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
        .spawn()
        .map_err(|e| format!("{program} cannot be started: {e}"))
}

fn wait_for(mut child: Child) -> Result<(), String> {
    let end = clock::instant() + TIME_MAX;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("it ended with {status}")),
            Ok(None) if clock::instant() < end => process::pause(Duration::from_millis(50)),
            _ => {
                let _gone = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
                let _reaped = child.wait();
                return Err("it was still running after a minute".to_owned());
            }
        }
    }
}
