//! What a program answers that is only asked something: with limited time and output, without input, and
//! in its own process group, which is killed afterwards.

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

use crate::text::one_line;
use crate::waker;

/// The words of a program that fails are looked for in so much of what it says.
const WORDS_BYTES_MAX: u64 = 4 << 10;

/// What it prints, up to `bytes_max`, or why there is nothing to be had, with its last words.
pub(crate) fn of(
    command: &mut Command,
    within: Duration,
    bytes_max: u64,
) -> Result<String, String> {
    let (answer, words) = (sheet()?, sheet()?);
    let mut child = command
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::from(answer.try_clone().map_err(trouble)?))
        .stderr(Stdio::from(words.try_clone().map_err(trouble)?))
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
        let words = read(words, WORDS_BYTES_MAX)?;
        let last = words.lines().rfind(|line| !line.trim().is_empty());
        let last = last.map_or_else(String::new, |line| format!(": {}", one_line(line)));
        return Err(format!("it ends with {status}{last}"));
    }
    read(answer, bytes_max)
}

fn trouble(e: std::io::Error) -> String {
    e.to_string()
}

/// A file without a name: nobody needs to read while the program writes.
fn sheet() -> Result<File, String> {
    let made = memfd_create("answer", MemfdFlags::CLOEXEC);
    made.map(File::from).map_err(|e| trouble(e.into()))
}

fn read(mut sheet: File, bytes_max: u64) -> Result<String, String> {
    let mut text = Vec::new();
    sheet.rewind().map_err(trouble)?;
    let read = sheet.take(bytes_max).read_to_end(&mut text);
    read.map_err(trouble)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn ends(pidfd: &OwnedFd, within: Duration) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, waker::poll_timeout(within)).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_bounded_and_a_failing_program_has_the_last_word() {
        let asked = |script: &str| {
            let mut command = Command::new("/bin/sh");
            of(command.args(["-c", script]), Duration::from_millis(300), 4)
        };
        assert_eq!(asked("echo abc; echo more").as_deref(), Ok("abc\n"));
        assert_eq!(asked("true").as_deref(), Ok(""));
        for (script, why) in [
            ("exec tail -f /dev/null", "does not answer"),
            (
                "echo first >&2; echo 'no controller' >&2; exit 3",
                "3: no controller",
            ),
        ] {
            let said = asked(script).expect_err(script);
            assert!(said.contains(why), "{said}");
        }
    }
}
