//! Asks an agent's program for its version: with limited time and output, without input, and in its
//! own process group, which is killed afterwards.
//!
//! Only for known CLIs: another program might do anything on `--version`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::waker;

/// Enough for a CLI that first starts a runtime, on a busy machine.
const ANSWER: Duration = Duration::from_secs(10);
/// A version is one short line.
const ANSWER_BYTES_MAX: u64 = 4 << 10;

/// The first line that `argv --version` prints, or why there is none.
pub(super) fn version(argv: &[OsString], env: &BTreeMap<String, String>) -> Result<String, String> {
    ask(argv, env, ANSWER)
}

#[expect(
    clippy::disallowed_methods,
    reason = "no git and no agent: a program that is only asked for its version"
)]
fn ask(
    argv: &[OsString],
    env: &BTreeMap<String, String>,
    within: Duration,
) -> Result<String, String> {
    let trouble = |e: std::io::Error| e.to_string();
    let (program, leading) = argv.split_first().ok_or("there is no program")?;
    let answer = memfd_create("version", MemfdFlags::CLOEXEC).map_err(|e| trouble(e.into()))?;
    let mut answer = File::from(answer);
    let mut child = Command::new(program)
        .args(leading)
        .arg("--version")
        .current_dir(Path::new("/"))
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::from(answer.try_clone().map_err(trouble)?))
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(trouble)?;
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let pidfd = Pid::from_raw(pid).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
    let ended = pidfd.is_some_and(|fd| ends(&fd, within));
    // This includes a launcher's children.
    let _gone = killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    let status = child.wait().map_err(trouble)?;
    if !ended {
        return Err(format!("it does not answer within {} s", within.as_secs()));
    }
    if !status.success() {
        return Err(format!("it ends with {status}"));
    }
    let mut text = Vec::new();
    answer.rewind().map_err(trouble)?;
    let read = answer.take(ANSWER_BYTES_MAX).read_to_end(&mut text);
    read.map_err(trouble)?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().map(str::trim).find(|l| !l.is_empty());
    line.map(|l| l.escape_debug().to_string())
        .ok_or_else(|| "it says nothing".into())
}

fn ends(pidfd: &OwnedFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, waker::poll_timeout(within)).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_line_and_the_wait_for_it_is_bounded() {
        let asked = |script: &str| {
            let argv = ["/bin/sh", "-c", script].map(OsString::from);
            ask(&argv, &BTreeMap::new(), Duration::from_millis(300))
        };
        let argv = [
            OsString::from("/bin/sh"),
            "-c".into(),
            "echo 1.2; echo x".into(),
        ];
        assert_eq!(version(&argv, &BTreeMap::new()), Ok("1.2".into()));
        for (script, why) in [
            ("exec tail -f /dev/null", "does not answer"),
            ("exit 3", "3"),
            ("true", "nothing"),
        ] {
            let said = asked(script).expect_err(script);
            assert!(said.contains(why), "{said}");
        }
    }
}
