//! Processes of this host: the children of a keeper, and the sweep of a tree whose keeper died.
//!
//! A keeper is a child subreaper: whatever its agent leaves behind becomes the keeper's own child,
//! and a child's pid is not used again before its parent has waited for it. So a keeper signals
//! its direct children only, again and again, until the kernel says that there are none (ECHILD):
//! nothing escapes, and nothing that is not ours is ever hit. What forks faster than that, and what
//! outlives its keeper, is ended through its cgroup, where the host has one for us.

pub mod cgroup;
pub(crate) mod controllers;
pub(crate) mod foreground;
pub mod tree;
pub(crate) mod weight;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::atomic;
use crate::clock;
use crate::waker;

/// Pids of this process's direct children (it has one thread). Falls back to a scan of /proc where
/// the kernel was built without `children` files.
pub fn children() -> Vec<Pid> {
    let me = std::process::id();
    if !proc_is_ours() {
        return Vec::new();
    }
    if let Ok(list) = atomic::read_kernel_text(format!("/proc/{me}/task/{me}/children")) {
        return list
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
            .collect();
    }
    pids()
        .filter(|&pid| stat_of(pid).is_some_and(|s| s.parent == me))
        .map(|pid| Pid::from_raw(pid as i32))
        .collect()
}

/// Whether /proc counts processes as we do. That of another pid namespace (`unshare --pid` without
/// `--mount-proc`) has other processes behind our numbers: nothing in it may be believed.
pub fn proc_is_ours() -> bool {
    let me = fs::read_link("/proc/self").ok();
    me.is_some_and(|me| me.as_os_str() == &*std::process::id().to_string())
}

/// How long new processes are looked for after each look at all of them, and how many at once.
const CHASE: Duration = Duration::from_millis(5);
const CHASED_MAX: u32 = 64;

/// The number that the kernel gave last.
fn newest_pid() -> u32 {
    let load = atomic::read_kernel_text("/proc/loadavg").unwrap_or_default();
    let last = load.split_whitespace().next_back();
    last.and_then(|pid| pid.parse().ok())
        .filter(|_| proc_is_ours())
        .unwrap_or_default()
}

pub(crate) fn pids() -> impl Iterator<Item = u32> {
    let entries = proc_is_ours().then(|| fs::read_dir("/proc"));
    let entries = entries.into_iter().flatten().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// What `/proc/PID/stat` says of a process; `None`: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: u32,
    /// User and system time, its own and that of children it has waited for, in clock ticks.
    ticks: u64,
    /// Itself and its further threads.
    tasks: u64,
    /// Bytes of memory.
    rss: u64,
}

fn stat_of(pid: u32) -> Option<Stat> {
    read_stat(&atomic::read_kernel(format!("/proc/{pid}/stat")).ok()?)
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().map_or(4_096, i64::unsigned_abs)
}

fn read_stat(stat: &[u8]) -> Option<Stat> {
    // The command name is in parentheses and may hold anything: look behind the last one.
    let end = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // utime, stime, cutime, cstime: fields 14 to 17 of the line.
    let times = fields.get(11..15)?.iter();
    // num_threads and rss (in pages): fields 20 and 24.
    let number = |at: usize| fields.get(at).and_then(|n| n.parse::<u64>().ok());
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: fields.get(1)?.parse().ok()?,
        ticks: times.filter_map(|t| t.parse::<u64>().ok()).sum(),
        tasks: number(17).unwrap_or(1),
        rss: number(21).unwrap_or(0) * page_size(),
    })
}

/// Writes to such a file are commands to the kernel: one write each, nothing to make atomic.
#[expect(clippy::disallowed_methods, reason = "the kernel makes these files")]
pub(crate) fn tell_kernel(file: impl AsRef<Path>, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(file)?;
    file.write_all(text.as_bytes())
}

/// Signals each of these processes, which must be children of ours. Failures (gone already,
/// another user's) show in what is left.
pub fn signal_each(pids: &[Pid], signal: Signal) {
    for &pid in pids {
        let _gone = nix::sys::signal::kill(pid, signal);
    }
}

/// What became of a tree whose keeper is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    pub killed: u32,
    /// Whether none was left that can be seen.
    pub clean: bool,
    /// Something that was not seen still has the agent's output open: it lives in another pid namespace
    /// (a container), or forks faster than anybody looks.
    pub unseen: bool,
}

/// Ends the tree of a session (`dir`) whose keeper is dead, in every way there is: what lives in
/// the slot's cgroup, what carries the session's mark in its environment, and what has its output
/// open for writing (people read it). The latter two are looked for until two passes find none (a
/// process that is just executing another program shows no environment), or the deadline.
pub fn end_tree(slot_dir: &Path, sid: &str, dir: &Path, deadline: Duration) -> Ended {
    let (mut killed, clean_group) = match cgroup::name_of(slot_dir) {
        Ok(name) => cgroup::end_all(&name),
        Err(_) => (0, true),
    };
    let session = Session::new(sid, dir);
    let end = clock::instant() + deadline;
    let (mut passes, mut clean) = (0, clean_group);
    while passes < 2 || is_output_held(dir) {
        let found = session.sweep() + session.chase();
        killed += found;
        passes = if found == 0 { passes + 1 } else { 0 };
        if clock::instant() >= end {
            clean &= passes >= 2;
            break;
        }
    }
    Ended {
        killed,
        clean,
        unseen: is_output_held(dir),
    }
}

/// Whether a process holds the lock on `stdout.log`, which the agent's whole tree inherits. Any user
/// of the host could take it, so it may only make us wait. A file that cannot be opened is not held.
pub fn is_output_held(dir: &Path) -> bool {
    let output = atomic::open_regular(&dir.join("stdout.log"));
    output.is_ok_and(|f| f.try_lock_shared().is_err()) && !crate::mutant::planted("unseen-is-dead")
}

/// How to recognise the processes of one session.
struct Session {
    mark: String,
    dir: Option<(u64, u64)>,
    outputs: Vec<(u64, u64)>,
}

impl Session {
    fn new(sid: &str, dir: &Path) -> Session {
        let id = |path: &Path| fs::metadata(path).ok().map(|m| id_of(&m));
        let own = ["stdout.log", "stderr.log"].map(|name| dir.join(name));
        let beside = ["gates", "hooks"].map(|of| fs::read_dir(dir.join(of)));
        let beside = beside.into_iter().flatten().flatten().flatten();
        let beside = beside.map(|entry| entry.path());
        let beside = beside.filter(|path| path.extension().is_some_and(|e| e == "log"));
        let outputs = own.into_iter().chain(beside);
        Session {
            mark: format!("HARNESS_SESSION={sid}"),
            dir: id(dir),
            outputs: outputs.filter_map(|path| id(&path)).collect(),
        }
    }

    /// Kills every process of the session and returns how many.
    fn sweep(&self) -> u32 {
        self.kill(pids())
    }

    /// Kills what the session starts in the next moment, by its number as soon as the kernel has given
    /// it: what forks for ever is always ahead of a look at all processes.
    fn chase(&self) -> u32 {
        let end = clock::instant() + CHASE;
        let mut killed = 0;
        let mut last = newest_pid().saturating_sub(1);
        while clock::instant() < end && !crate::mutant::planted("forks-not-chased") {
            let newest = newest_pid();
            // The numbers began again, or others start many: what is left out is met by the next look.
            killed += self.kill(last.max(newest.saturating_sub(CHASED_MAX)) + 1..=newest);
            last = newest;
        }
        killed
    }

    /// Kills those that are the session's, and returns how many. A pidfd is opened before the check, so
    /// that the process that is killed is the one that was checked.
    fn kill(&self, pids: impl Iterator<Item = u32>) -> u32 {
        use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
        let me = std::process::id();
        let is_killed = |&pid: &u32| {
            let held = || pidfd_open(Pid::from_raw(pid as i32)?, PidfdFlags::empty()).ok();
            pid != me
                && self.has(pid)
                && held()
                    .is_some_and(|fd| self.has(pid) && pidfd_send_signal(&fd, Signal::KILL).is_ok())
        };
        u32::try_from(pids.filter(is_killed).count()).unwrap_or(u32::MAX)
    }

    fn has(&self, pid: u32) -> bool {
        self.marks(pid) || self.is_written_by(pid)
    }

    /// Whether a living process carries the session's mark in the environment it was started with.
    /// A copy of ROOT has the same sessions, and the original's agents may be at work: a process
    /// whose session directory is another one is not ours.
    fn marks(&self, pid: u32) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let proc = Path::new("/proc").join(pid.to_string());
        let Ok(environ) = atomic::read_kernel(proc.join("environ")) else {
            return false;
        };
        let mut vars = environ.split(|&b| b == 0);
        if crate::mutant::planted("mark-not-looked-for")
            || !vars.clone().any(|v| v == self.mark.as_bytes())
        {
            return false;
        }
        let at = vars.find_map(|v| v.strip_prefix(b"HARNESS_SESSION_DIR=/"));
        // As that process sees it: it may live in another mount namespace.
        let theirs = at.map(|at| proc.join("root").join(std::ffi::OsStr::from_bytes(at)));
        let theirs = theirs.and_then(|path| fs::metadata(path).ok());
        theirs.is_none_or(|m| Some(id_of(&m)) == self.dir)
            || crate::mutant::planted("a-copy-is-the-original")
    }

    /// Whether a process has the session's output open for writing.
    fn is_written_by(&self, pid: u32) -> bool {
        let listed = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        listed.flatten().any(|e| {
            let link = e.path();
            // The link's own mode says how the file was opened.
            let writable = link.symlink_metadata().is_ok_and(|m| m.mode() & 0o200 != 0);
            writable && fs::metadata(&link).is_ok_and(|m| self.outputs.contains(&id_of(&m)))
        })
    }
}

fn id_of(meta: &fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Number of attempts, 5 ms apart, to start a program that another process has open for writing.
const TEXT_BUSY_TRIES: u32 = 200;

/// Starts a program. One that was just written may still be open for writing in a process that a thread
/// of ours is starting, until that executes its own program.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut started = command.spawn();
    for _ in 0..TEXT_BUSY_TRIES {
        match &started {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => {
                pause(Duration::from_millis(5));
                started = command.spawn();
            }
            _ => break,
        }
    }
    started
}

/// A short wait before something that sends no event is checked again.
pub fn pause(d: Duration) {
    let end = clock::instant() + d;
    // A signal ends a poll early.
    while let left = end.saturating_duration_since(clock::instant())
        && !left.is_zero()
    {
        let _timeout = nix::poll::poll(&mut [], waker::poll_timeout(left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_calls_itself() {
        let line = b"77 (a) S 1 (b)) T 5 77 77 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 3 0 99 8 2 0";
        let stat = Stat {
            state: b'T',
            parent: 5,
            ticks: 100,
            tasks: 3,
            rss: 2 * page_size(),
        };
        assert_eq!(read_stat(line), Some(stat));
        assert_eq!(read_stat(b"77 (x"), None);
    }

    /// Each lives for a moment, after the last look at all processes.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a shell, to have what it starts")]
    fn what_is_born_during_a_chase_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let sid = clock::unique().to_string();
        let session = Session::new(&sid, dir.path());
        // Their parent was there before: it is not chased.
        let births = "sleep 0.001; : >\"$0/begun\"; while [ -e \"$0\" ]; do sleep 0.001; done";
        let mut parent = Command::new("sh");
        parent.args(["-c", births]).arg(dir.path());
        let mut parent = spawn(parent.env("HARNESS_SESSION", &sid)).unwrap();
        let end = clock::instant() + Duration::from_secs(30);
        while !dir.path().join("begun").exists() || session.chase() == 0 {
            assert!(clock::instant() < end, "nothing that was born was ended");
        }
        assert!(parent.try_wait().unwrap().is_none());
        parent.kill().unwrap();
        parent.wait().unwrap();
    }
}
