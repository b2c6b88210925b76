//! Runs one git process to its end, with bounded output and time.
//!
//! Knows nothing of git's arguments. Invariant: the process is reaped before this returns, and a
//! helper that git left behind with our pipes open cannot block us.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::fifos;
use super::wait::{self, Wait};
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::process::tree;

/// Fits a listing of a million paths; longer output is cut and marked as `truncated`.
const STDOUT_BYTES_MAX: usize = 64 << 20;
/// Enough for git's messages.
const STDERR_BYTES_MAX: usize = 64 << 10;
/// A git that says nothing for this long may be waiting at a fifo.
const LONG: Duration = Duration::from_secs(2);
/// Time between SIGTERM, on which git removes its lock files, and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// How often a running git looks whether it is to be stopped.
const LOOK: Duration = Duration::from_secs(1);

/// One pipe of a git process and its output.
pub(super) struct Pipe {
    from: Option<File>,
    pub kept: Vec<u8>,
    max: usize,
    pub cut: bool,
}

/// How a git process ended.
pub(super) struct Ended {
    /// `None`: it hung and was stopped, after this long, or because this process stops.
    pub status: Option<ExitStatus>,
    pub took: Duration,
    pub at_stop: bool,
    pub stdout: Pipe,
    pub stderr: Pipe,
}

/// Reads both pipes until git has ended: not until they close, since a helper that git left behind
/// (a credential cache) may hold them open for ever.
///
/// Where it works on a `tree` and takes long, it may wait at a fifo that an agent put there.
/// `what`: the command, for who waits.
pub(super) fn attend(
    mut child: Child,
    timeout: Duration,
    tree: Option<&Path>,
    what: &dyn Fn() -> String,
) -> Result<Ended> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // Without a pidfd (an old kernel, no descriptors left) the pipes' closing counts as the end.
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut pipes = [
        Pipe::new(child.stdout.take().map(OwnedFd::from), STDOUT_BYTES_MAX),
        Pipe::new(child.stderr.take().map(OwnedFd::from), STDERR_BYTES_MAX),
    ];
    let mut waits = Wait::begin();
    let began = waits.began;
    let mut fifos_at = began + LONG;
    let mut gone = false;
    let status = loop {
        let left = wait::deadline(began, timeout).saturating_duration_since(clock::instant());
        waits.goes_on(what);
        // Once git has ended, read what the pipes hold without waiting.
        let wait = if gone { Duration::ZERO } else { left.min(LOOK) };
        let ready = match wait_for(&pipes, pidfd.as_ref().filter(|_| !gone), wait) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => continue,
            Err(e) => {
                stop(&mut child, pidfd.as_ref());
                let _reaped = child.wait();
                return Err(Error::temporary("cannot wait for git", e.to_string()));
            }
        };
        for (pipe, _) in pipes.iter_mut().zip(ready).filter(|(_, r)| *r) {
            pipe.pull();
        }
        let drained = !ready[0] && !ready[1];
        let closed = pipes.iter().all(|p| p.from.is_none());
        if (gone && drained) || (closed && (gone || pidfd.is_none())) {
            break Some(());
        }
        gone |= ready[2];
        let is_due = clock::instant() >= fifos_at;
        if let Some(tree) = tree.filter(|_| !gone && drained && is_due) {
            fifos::let_go(tree);
            fifos_at = clock::instant() + LONG;
        }
        if !gone && left.is_zero() {
            stop(&mut child, pidfd.as_ref());
            break None;
        }
    };
    let reaped = child
        .wait()
        .or_fail("cannot wait for git", Path::new("git"))?;
    let [stdout, stderr] = pipes;
    Ok(Ended {
        status: status.map(|()| reaped),
        took: began.elapsed(),
        at_stop: wait::is_stopping(),
        stdout,
        stderr,
    })
}

/// Which of stdout, stderr and the process's end are ready.
fn wait_for(pipes: &[Pipe; 2], pidfd: Option<&OwnedFd>, wait: Duration) -> nix::Result<[bool; 3]> {
    let sources = [
        pipes[0].from.as_ref().map(AsFd::as_fd),
        pipes[1].from.as_ref().map(AsFd::as_fd),
        pidfd.map(AsFd::as_fd),
    ];
    let mut fds: Vec<PollFd<'_>> = sources
        .iter()
        .flatten()
        .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
        .collect();
    // Rounded up, so that the last millisecond is not a busy loop.
    let ms = PollTimeout::try_from(wait.as_millis().saturating_add(u128::from(!wait.is_zero())));
    poll(&mut fds, ms.unwrap_or(PollTimeout::MAX))?;
    let mut told = fds.iter().map(|fd| fd.any() == Some(true));
    Ok(sources.map(|source| source.is_some() && told.next() == Some(true)))
}

impl Pipe {
    fn new(from: Option<OwnedFd>, max: usize) -> Pipe {
        Pipe {
            from: from.map(File::from),
            kept: Vec::new(),
            max,
            cut: false,
        }
    }

    /// Reads what is available; end of file or an error closes the pipe.
    fn pull(&mut self) {
        let mut buf = [0; 32 << 10];
        match self.from.as_mut().map(|from| from.read(&mut buf)) {
            Some(Ok(n)) if n > 0 => {
                let room = self.max.saturating_sub(self.kept.len()).min(n);
                self.kept.extend_from_slice(&buf[..room]);
                self.cut |= room < n;
            }
            Some(Err(e)) if e.kind() == std::io::ErrorKind::Interrupted => {}
            _ => self.from = None,
        }
    }
}

/// Sends SIGTERM, on which git removes its lock files, then SIGKILL, also to what it has started (a
/// transport, a filter).
fn stop(child: &mut Child, pidfd: Option<&OwnedFd>) {
    let below = tree::held_below(child.id());
    if let (Ok(pid), Some(fd)) = (i32::try_from(child.id()), pidfd) {
        // The child is not reaped yet, so its pid cannot belong to another process.
        let pid = nix::unistd::Pid::from_raw(pid);
        let _sent = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        let ms = PollTimeout::try_from(TERM_GRACE.as_millis()).unwrap_or(PollTimeout::MAX);
        let _waited = poll(&mut fds, ms);
    }
    let _gone = child.kill();
    tree::kill(&below);
}

#[cfg(test)]
mod tests {
    use super::super::Git;
    use std::path::Path;
    use std::time::Duration;

    /// Runs a shell through an alias, as a git that does what the tests need.
    fn shell(script: &str) -> Git {
        let alias = format!("alias.t=!{script}");
        Git::at(Path::new("/")).args(["-c", &alias, "t"])
    }

    #[test]
    fn a_git_that_hangs_is_stopped() {
        let hangs = shell("exec sleep 600").timeout(Duration::from_millis(200));
        let e = hangs.output().unwrap_err();
        assert!(e.to_string().contains("still running"), "{e}");
    }

    #[test]
    fn a_helper_left_behind_with_our_pipes_holds_nobody_up() {
        let before = crate::clock::instant();
        let out = shell("(sleep 60 & echo $!); echo done >&2")
            .output()
            .unwrap();
        assert!(before.elapsed() < Duration::from_secs(30));
        assert_eq!(out.stderr, "done\n");
        let pid = nix::unistd::Pid::from_raw(out.line().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    #[test]
    fn long_output_is_cut_and_said_to_be() {
        let out = shell("head -c 70000000 /dev/zero").output().unwrap();
        assert!(out.truncated && out.ok());
        assert_eq!(out.stdout.len(), super::STDOUT_BYTES_MAX);
    }
}
