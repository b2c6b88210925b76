//! Confines what a slot starts: finds the folders that it works in, its temporary one included, and has
//! `sandbox` make the rest.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::Attempt;
use super::stream::tail;
use crate::adapters::{self, About};
use crate::agents::{self, Agent};
use crate::atomic;
use crate::config::{AgentTable, GateTable, SandboxKeys};
use crate::layout::{SlotId, join, slot_repository};
use crate::runtime::Runtime;
use crate::sandbox::{self, Asked, Env, Planned, Refused};

/// Names under which programs look for a temporary folder.
const TEMPORARY: [&str; 4] = ["TMPDIR", "TMP", "TEMP", "CLAUDE_CODE_TMPDIR"];

/// The end of what an attempt printed in which refusals are looked for.
const PRINTED_BYTES: u64 = 256 << 10;

/// What is to be started.
pub(super) enum Who<'a> {
    Agent(&'a Agent<'a>),
    Gate(&'a GateTable),
}

/// Makes the environment and the sandbox of an agent or gate. `dir`: its session's folder. `env`: what is
/// set and removed on purpose.
///
/// # Errors
/// Why it must not start.
pub(super) fn confine(
    rt: &Runtime,
    slot: SlotId,
    who: &Who<'_>,
    dir: &Path,
    cwd: &Path,
    env: Env,
) -> Result<Planned, String> {
    let temp = temporary(rt, slot, dir);
    planned(rt, who, dir, cwd, temp, env, true)
}

/// `makes`: as `Asked::makes`.
fn planned(
    rt: &Runtime,
    who: &Who<'_>,
    dir: &Path,
    cwd: &Path,
    temp: PathBuf,
    mut env: Env,
    makes: bool,
) -> Result<Planned, String> {
    for name in TEMPORARY {
        // The user's own wish in `env` stands.
        let name = OsString::from(name);
        if !matches!(env.get(&name), Some(Some(_))) {
            env.insert(name, Some(temp.clone().into()));
        }
    }
    let mut own = vec![cwd.to_owned(), slot_repository(cwd), temp];
    let of_gate;
    let (keys, cli, config_dir) = match who {
        Who::Agent(agent) => {
            own.push(dir.to_owned());
            let table = agent.table();
            let keys = table.map_or(&rt.config.script, |table| &table.confined);
            let config_dir = table.and_then(|table| table.config_dir.as_deref());
            (keys, table.and_then(cli_of), config_dir)
        }
        Who::Gate(table) => {
            of_gate = SandboxKeys {
                sandbox: table.sandbox,
                ..SandboxKeys::default()
            };
            (&of_gate, None, None)
        }
    };
    own.retain(|path| atomic::exists(path));
    sandbox::plan(Asked {
        root: &rt.root,
        config: &rt.config,
        keys,
        cli,
        config_dir,
        own: &own,
        env,
        makes,
    })
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
    let (who, cwd) = (Who::Agent(&agent), Path::new(cwd));
    let env = environment(agent.table());
    let home = sandbox::value_of(&env, OsStr::new("HOME")).map(PathBuf::from);
    let temp = sandbox::temp_path(&rt.root, attempt.claim.lease().slot);
    match planned(rt, &who, &attempt.dir, cwd, temp, env, false) {
        Ok(planned) => sandbox::explained(&text, &planned, cwd, home.as_deref()),
        Err(_) => Vec::new(),
    }
}

/// The CLI that an agent is: the one it is configured as, or whose events its command prints.
fn cli_of(table: &AgentTable) -> Option<&'static About> {
    let name = table.cli.as_deref().unwrap_or(&table.events);
    adapters::by_name(name).map(|adapter| adapter.about())
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
