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

/// The end of what an attempt printed in which refusals are looked for.
const PRINTED_BYTES: u64 = 256 << 10;

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

/// What its sandbox refused an attempt, by what it printed: each with the key that would allow it.
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
    let text = String::from_utf8_lossy(&text);
    if !sandbox::tells_of_refusal(&text) {
        return Vec::new();
    }
    let cwd = Path::new(cwd);
    let env = environment(agent.table());
    let home = sandbox::value_of(&env, OsStr::new("HOME")).map(PathBuf::from);
    let planned = sandbox::plan(Asked {
        root: &rt.root,
        config: &rt.config,
        who: who(rt, &agent),
        worktree: cwd,
        temp: &sandbox::temp_path(&rt.root, attempt.claim.lease().slot),
        session: Some(&attempt.dir),
        env,
        makes: false,
    });
    match planned {
        Ok(planned) => sandbox::explained(&text, &planned, cwd, home.as_deref()),
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
