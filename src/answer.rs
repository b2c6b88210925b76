//! What a program answers that is only asked something: with limited time and output, without input, and
//! in its own process group, which is killed afterwards.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::clock;
use crate::text::one_line;
use crate::waker;

/// So much of its standard error is kept, for the last words of a program that fails.
const WORDS_BYTES_MAX: u64 = 4 << 10;

/// Between two looks at whether it has ended. A pipe holds four such pieces.
const PIECES_MAX: usize = 64;

/// What it prints, or why there is nothing to be had, with its last words.
pub(crate) fn of(
    command: &mut Command,
    within: Duration,
    bytes_max: u64,
) -> Result<String, String> {
    command.process_group(0);
    ask(command, within, bytes_max, true)
}

/// The same of a program that Ctrl-C ends together with us. What it starts itself is left alone.
pub(crate) fn in_our_group(
    command: &mut Command,
    within: Duration,
    bytes_max: u64,
) -> Result<String, String> {
    ask(command, within, bytes_max, false)
}

fn ask(
    command: &mut Command,
    within: Duration,
    bytes_max: u64,
    has_group: bool,
) -> Result<String, String> {
    let (mut answer, out) = Heard::new(bytes_max)?;
    let (mut words, err) = Heard::new(WORDS_BYTES_MAX)?;
    let mut child = command
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::from(out))
        .stderr(Stdio::from(err))
        .spawn()
        .map_err(trouble)?;
    // This closes our copies of the pipes' writing ends: else their end would never be seen.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let pidfd = Pid::from_raw(pid).and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok());
    let ended = pidfd.is_some_and(|fd| ends(&fd, within, [&mut answer, &mut words]));
    let _gone = match has_group {
        // This includes a launcher's children.
        true => killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).map_err(Into::into),
        false => child.kill(),
    };
    let status = child.wait().map_err(trouble)?;
    if !ended {
        return Err(format!("it does not answer within {} s", within.as_secs()));
    }
    answer.hear();
    words.hear();
    if answer.is_too_long {
        return Err(format!("it prints more than {bytes_max} bytes"));
    }
    if !status.success() {
        let words = String::from_utf8_lossy(&words.text).into_owned();
        let last = words.lines().rfind(|line| !line.trim().is_empty());
        let last = last.map_or_else(String::new, |line| format!(": {}", one_line(line)));
        return Err(format!("it ends with {status}{last}"));
    }
    Ok(String::from_utf8_lossy(&answer.text).into_owned())
}

fn trouble(e: std::io::Error) -> String {
    e.to_string()
}

/// What a program has written so far.
struct Heard {
    from: PipeReader,
    text: Vec<u8>,
    bytes_max: u64,
    is_too_long: bool,
    is_over: bool,
}

impl Heard {
    fn new(bytes_max: u64) -> Result<(Heard, PipeWriter), String> {
        let (from, to) = std::io::pipe().map_err(trouble)?;
        rustix::io::ioctl_fionbio(&from, true).map_err(|e| trouble(e.into()))?;
        let heard = Heard {
            from,
            text: Vec::new(),
            bytes_max,
            is_too_long: false,
            is_over: false,
        };
        Ok((heard, to))
    }

    /// Takes what is there, and waits for nothing: not for the end of a flood either.
    fn hear(&mut self) {
        let mut piece = [0; 1 << 14];
        for _ in 0..PIECES_MAX {
            match self.from.read(&mut piece) {
                Ok(0) => self.is_over = true,
                Ok(n) => {
                    let room =
                        usize::try_from(self.bytes_max).unwrap_or(usize::MAX) - self.text.len();
                    self.is_too_long |= n > room;
                    self.text.extend_from_slice(&piece[..n.min(room)]);
                    continue;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_over = true,
            }
            return;
        }
    }
}

/// Whether it ends in time, or has said too much. What it writes beyond a bound is not kept.
fn ends(pidfd: &OwnedFd, within: Duration, mut heard: [&mut Heard; 2]) -> bool {
    let end = clock::instant() + within;
    loop {
        let left = end.saturating_duration_since(clock::instant());
        if left.is_zero() {
            return false;
        }
        let open = heard.iter().filter(|h| !h.is_over);
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(open.map(|h| PollFd::new(h.from.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, waker::poll_timeout(left)).is_err() {
            continue;
        }
        let has_ended = fds[0].any().unwrap_or(false);
        drop(fds);
        heard.iter_mut().for_each(|h| h.hear());
        if has_ended || heard[0].is_too_long {
            return true;
        }
    }
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
        assert_eq!(asked("echo abc").as_deref(), Ok("abc\n"));
        assert_eq!(asked("true").as_deref(), Ok(""));
        for (script, why) in [
            ("exec tail -f /dev/null", "does not answer"),
            ("echo abcd", "more than 4 bytes"),
            ("yes | head -c 1000000; true", "more than 4 bytes"),
            ("exec yes", "more than 4 bytes"),
            ("yes >&2", "does not answer"),
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
