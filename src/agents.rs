//! Who works on an item, and with what arguments. Arguments out; nothing is run here.
//!
//! `script` is built in: the item's own file, executed as it is. Every other agent is a
//! `[agents.NAME]` table, or a CLI that harness knows by name. Placeholders are filled in byte for
//! byte into whole arguments: no shell ever sees them.

mod launch;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::adapters;
use crate::atomic;
use crate::config::{AgentTable, Config, placeholder};
use crate::item::{Item, Kind, Refusal};
pub use launch::{BOOTSTRAP, Before, LaunchInputs, Limits, Plan, plan};

/// The name of the built-in agent that runs script items.
pub const SCRIPT: &str = "script";

/// The agent that an item is for.
pub enum Agent<'a> {
    Script,
    Command(&'a str, &'a AgentTable),
}

impl Agent<'_> {
    pub fn name(&self) -> &str {
        match self {
            Agent::Script => SCRIPT,
            Agent::Command(name, _) => name,
        }
    }
}

/// Finds the agent for an item, or says why there is none.
pub fn for_item<'a>(config: &'a Config, item: &Item) -> Result<Agent<'a>, Refusal> {
    if item.kind == Kind::Script {
        return match item.agent.as_deref() {
            None | Some(SCRIPT) => Ok(Agent::Script),
            Some(other) => Err(Refusal(format!(
                "it is a script (executable, or begins with `#!`), which agent `{other}` cannot run; \
                 clear its executable bit if it is a prompt"
            ))),
        };
    }
    let Some(name) = item.agent.as_deref().or(config.harness.agent.as_deref()) else {
        return Err(Refusal(format!(
            "no agent is configured for prompts: set `agent` in [harness] of harness.toml to one \
             of {}, or to one that [agents.NAME] describes; or name one in the item",
            adapters::NAMES.join(", ")
        )));
    };
    match config.agent(name) {
        Some((name, table)) => Ok(Agent::Command(name, table)),
        None => {
            let own = config.agents.keys().map(String::as_str);
            let clis = adapters::NAMES.iter().copied();
            let clis = clis.filter(|cli| !config.agents.contains_key(*cli));
            let known: Vec<&str> = own.chain(clis).collect();
            let known = known.join(", ");
            Err(Refusal(format!(
                "unknown agent `{name}`; there are: {known}"
            )))
        }
    }
}

/// What the placeholders of an attempt stand for.
pub type Facts = BTreeMap<&'static str, OsString>;

/// Replaces each `{{NAME}}` that is a fact, byte for byte.
pub fn fill(template: &OsStr, facts: &Facts) -> OsString {
    placeholder::fill(template, |name| facts.get(name).cloned())
}

/// What to say where an agent's program is not there: how to get it, where that is known.
pub fn not_found(agent: &Agent<'_>, program: &OsStr, why: String) -> String {
    let Agent::Command(_, table) = agent else {
        return why;
    };
    let adapter = table.cli.as_deref().and_then(adapters::by_name);
    match adapter.map(adapters::Adapter::about) {
        Some(about) if program == about.program => {
            format!(
                "{}; or give its whole path in harness.toml (`command`)",
                about.not_installed()
            )
        }
        _ => why,
    }
}

/// The absolute path of a program as `execvp` would find it, in a worktree and with a PATH that
/// are not this process's own. `Err`: why it cannot be run, for people.
pub fn find_program(
    program: &std::ffi::OsStr,
    cwd: &Path,
    path: Option<&std::ffi::OsStr>,
) -> Result<PathBuf, String> {
    let runnable =
        |p: &Path| p.is_file() && nix::unistd::access(p, nix::unistd::AccessFlags::X_OK).is_ok();
    if program.as_bytes().contains(&b'/') {
        let full = cwd.join(program);
        return if runnable(&full) {
            Ok(full)
        } else {
            Err(format!("{} is not an executable file", full.display()))
        };
    }
    std::env::split_paths(path.unwrap_or_default())
        .map(|dir| cwd.join(dir).join(program))
        .find(|p| runnable(p))
        .ok_or_else(|| {
            format!(
                "{} is not found in PATH: install it, or give its whole path in harness.toml",
                crate::layout::shown(program)
            )
        })
}

/// Why the kernel would not start a program that is there and executable, where its first line
/// tells: the system's own "No such file or directory" sends people looking for the wrong file.
pub fn why_not_started(program: &Path) -> Option<String> {
    let mut head = Vec::new();
    let file = atomic::open_followed(program).ok()?;
    file.take(FIRST_LINE_BYTES_MAX)
        .read_to_end(&mut head)
        .ok()?;
    let Some(line) = head.strip_prefix(b"#!") else {
        let known = head.starts_with(b"\x7fELF");
        return (!known).then(|| {
            "it is executable, but neither a program nor a script that begins with `#!`: give it \
             a first line like `#!/bin/sh`, or clear its executable bit if it is a prompt"
                .into()
        });
    };
    let line = line.split(|&b| b == b'\n').next().unwrap_or_default();
    if line.ends_with(b"\r") {
        return Some(
            "its lines end as on Windows (CR LF), so the name of its interpreter does too: convert \
             it (`sed -i 's/\\r$//'`)"
                .into(),
        );
    }
    let mut words = line.split(|b| b" \t".contains(b)).filter(|w| !w.is_empty());
    let interpreter = Path::new(OsStr::from_bytes(words.next().unwrap_or_default()));
    (!interpreter.is_file()).then(|| {
        format!(
            "its interpreter {} does not exist: install it, or mend the script's first line",
            crate::layout::shown(interpreter.as_os_str())
        )
    })
}

/// As much of a script's first line as the kernel reads.
const FIRST_LINE_BYTES_MAX: u64 = 256;
