//! Confines what a slot starts: names the folders that it works in, makes its temporary one, and has
//! `sandbox` do the rest.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::Attempt;
use super::stream::tail;
use crate::agents::{self, Agent};
use crate::atomic;
use crate::config::AgentTable;
use crate::layout::{SlotId, join};
use crate::runtime::Runtime;
use crate::sandbox::{self, Asked, Env, Planned, Refused, Who};

/// The end of what a program printed in which refusals are looked for.
pub(super) const PRINTED_BYTES: u64 = 256 << 10;

/// Makes the environment and the sandbox of an agent or gate that is going to be started. `dir`: its
/// session's folder. `writes`: whether it writes there. `env`: what is set and removed on purpose.
///
/// # Errors
/// Why it must not start.
pub(super) fn confine(
    rt: &Runtime,
    slot: SlotId,
    who: Who<'_>,
    (dir, writes): (&Path, bool),
    worktree: &Path,
    env: Env,
) -> Result<Planned, String> {
    sandbox::plan(Asked {
        root: &rt.root,
        config: &rt.config,
        who,
        worktree,
        temp: &temporary(rt, slot, dir),
        session: writes.then_some(dir),
        env,
        makes: true,
    })
}

/// An item's agent.
pub(super) fn who<'a>(rt: &'a Runtime, agent: &Agent<'a>) -> Who<'a> {
    let table = match *agent {
        Agent::Script => None,
        Agent::Command(name, table) => Some((name, table)),
    };
    Who::agent(&rt.config, table)
}

/// What its sandbox refused an attempt's agent.
/// `environment`: what is set for an agent with this table.
pub(super) fn refused(
    rt: &Runtime,
    attempt: &Attempt,
    environment: impl Fn(Option<&AgentTable>) -> Env,
) -> Vec<Refused> {
    let is_on = attempt
        .file
        .sandbox
        .as_ref()
        .is_some_and(|said| said.mode == "on");
    let agent = agents::for_item(&rt.config, &attempt.claim.item);
    let (true, Ok(agent), Some(cwd)) = (is_on, agent, &attempt.file.worktree) else {
        return Vec::new();
    };
    let mut text = Vec::new();
    for name in ["stderr.log", "stdout.log"] {
        text.extend(tail(&join(&attempt.dir, name), PRINTED_BYTES));
        text.push(b'\n');
    }
    in_printed(rt, attempt.claim.lease().slot, &text, || Ended {
        who: who(rt, &agent),
        worktree: Path::new(cwd),
        session: Some(&attempt.dir),
        env: environment(agent.table()),
    })
}

/// What has ended, as far as its sandbox depended on it.
pub(super) struct Ended<'a> {
    pub(super) who: Who<'a>,
    pub(super) worktree: &'a Path,
    pub(super) session: Option<&'a Path>,
    pub(super) env: Env,
}

/// What its sandbox refused a program, by what it printed: each with the key that would allow it.
pub(super) fn in_printed<'a>(
    rt: &Runtime,
    slot: SlotId,
    printed: &[u8],
    ended: impl FnOnce() -> Ended<'a>,
) -> Vec<Refused> {
    let text = String::from_utf8_lossy(printed);
    if !sandbox::tells_of_refusal(&text) {
        return Vec::new();
    }
    let ended = ended();
    let home = sandbox::value_of(&ended.env, OsStr::new("HOME")).map(PathBuf::from);
    let planned = sandbox::plan(Asked {
        root: &rt.root,
        config: &rt.config,
        who: ended.who,
        worktree: ended.worktree,
        temp: &sandbox::temp_path(&rt.root, slot),
        session: ended.session,
        env: ended.env,
        makes: false,
    });
    match planned {
        Ok(planned) => sandbox::explained(&text, &planned, ended.worktree, home.as_deref()),
        Err(_) => Vec::new(),
    }
}

/// The slot's temporary folder, empty; where the system's own cannot be used, one in the session.
fn temporary(rt: &Runtime, slot: SlotId, dir: &Path) -> PathBuf {
    sandbox::make_temp(&rt.root, slot).unwrap_or_else(|e| {
        rt.console.warn(&format!("{slot}: {e}"));
        let own = join(dir, "tmp");
        let _said = atomic::make_dir(&own, true);
        own
    })
}
