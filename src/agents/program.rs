//! Finds an agent's program, and says in plain words why it is not there or cannot be started. Runs
//! nothing.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Agent;
use crate::adapters;
use crate::atomic;
use crate::config::{AgentTable, placeholder};
use crate::layout::Root;

/// An agent's command line as far as it is known without an item: its `command` with ROOT filled in, or
/// its CLI's program alone.
pub(crate) fn command_line(root: &Root, table: &AgentTable) -> Vec<OsString> {
    let value = |name: &str| (name == "ROOT").then(|| root.path().as_os_str().to_owned());
    let fill = |arg: &String| placeholder::fill(OsStr::new(arg), value);
    if !table.command.is_empty() {
        return table.command.iter().map(fill).collect();
    }
    let adapter = table.cli.as_deref().and_then(adapters::by_name);
    let program = adapter.map(|a| a.about().program.into());
    program.into_iter().collect()
}

/// Whether the item or its worktree decides where this program is.
pub(crate) fn depends_on_item(program: &OsStr) -> bool {
    let path = Path::new(program);
    let is_relative = path.is_relative() && path.components().count() > 1;
    is_relative || program.to_string_lossy().contains("{{")
}

/// Where the program of an agent is looked for.
pub(crate) fn path_of(table: &AgentTable) -> Option<OsString> {
    let own = table.env.get("PATH").map(OsString::from);
    own.or_else(|| std::env::var_os("PATH"))
}

/// The message for a missing program, with how to install it where that is known.
pub(crate) fn not_found(agent: &Agent<'_>, program: &OsStr, why: String) -> String {
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
pub(crate) fn find_program(
    program: &OsStr,
    cwd: &Path,
    path: Option<&OsStr>,
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

/// Why the kernel cannot start an existing executable, if its `#!` line explains it. The system's
/// own "No such file or directory" makes people look for the wrong file.
pub(crate) fn why_not_started(program: &Path) -> Option<String> {
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
    if line.trim_ascii_end().contains(&b'\r') {
        return Some(
            "its lines end with CR alone, so all of it is one line: convert it \
             (`tr '\\r' '\\n' < OLD > NEW`)"
                .into(),
        );
    }
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

/// How much of a script's first line the kernel reads.
const FIRST_LINE_BYTES_MAX: u64 = 256;
