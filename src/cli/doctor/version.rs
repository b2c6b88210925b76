//! Asks an agent's program for its version.
//!
//! Only for known CLIs: another program might do anything on `--version`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;
use std::time::Duration;

use crate::answer;

/// Enough for a CLI that first starts a runtime, on a busy machine.
const ANSWER: Duration = Duration::from_secs(10);
/// A version is one short line.
const ANSWER_BYTES_MAX: u64 = 4 << 10;

/// The first line that `argv --version` prints, or why there is none.
#[expect(
    clippy::disallowed_methods,
    reason = "no git and no agent: a program that is only asked for its version"
)]
pub(super) fn version(argv: &[OsString], env: &BTreeMap<String, String>) -> Result<String, String> {
    let (program, leading) = argv.split_first().ok_or("there is no program")?;
    let mut command = Command::new(program);
    command.args(leading).arg("--version").envs(env);
    let text = answer::of(&mut command, ANSWER, ANSWER_BYTES_MAX)?;
    let line = text.lines().map(str::trim).find(|l| !l.is_empty());
    line.map(|l| l.escape_debug().to_string())
        .ok_or_else(|| "it says nothing".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one_line() {
        let asked = |script: &str| {
            let argv = ["/bin/sh", "-c", script].map(OsString::from);
            version(&argv, &BTreeMap::new())
        };
        assert_eq!(asked("echo; echo 1.2; echo x"), Ok("1.2".into()));
        assert_eq!(asked("true"), Err("it says nothing".into()));
    }
}
