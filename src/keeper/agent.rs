//! The agent that a keeper has started: how it is started, how long it has run, how its tree is
//! ended, and what is written of its end. Does not know the harness.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::ExitRecord;
use super::wire::Spec;
use crate::atomic;
use crate::clock;
use crate::limits::STRAY_GRACE;
use crate::process;
use crate::process::cgroup::Cgroup;
use crate::sys::{self, Program};

/// How long processes that SIGKILL does not end (another user's, stuck in the kernel) are tried.
const GIVE_UP: Duration = Duration::from_secs(10);

pub(super) struct Agent {
    pub(super) spec: Box<Spec>,
    pub(super) pid: Pid,
    started_at: String,
    started: Instant,
    cpu_before: Duration,
    pub(super) main: Option<WaitStatus>,
    /// Told to stop: SIGKILL from then on.
    pub(super) stop: Option<Instant>,
    pub(super) stopped_first: bool,
    pub(super) stopped_for: String,
    pub(super) frozen_since: Option<Instant>,
    /// For how long it was frozen before that.
    pub(super) frozen: Duration,
    sweep: Option<Sweep>,
}

pub(super) struct Sweep {
    pub(super) strays: u32,
    pub(super) kill_from: Instant,
    pub(super) pause: Duration,
}

impl Agent {
    /// One that was just started.
    pub(super) fn new(spec: Box<Spec>, pid: Pid, cpu_before: Duration) -> Agent {
        Agent {
            spec,
            pid,
            started_at: clock::now_iso(),
            started: clock::instant(),
            cpu_before,
            main: None,
            stop: None,
            stopped_first: false,
            stopped_for: String::new(),
            frozen_since: None,
            frozen: Duration::ZERO,
            sweep: None,
        }
    }

    pub(super) fn frozen(&self) -> Duration {
        let now = self.frozen_since.map_or(Duration::ZERO, |s| s.elapsed());
        self.frozen + now
    }

    /// How long it has been running, frozen times left out.
    pub(super) fn age(&self) -> Duration {
        self.started.elapsed().saturating_sub(self.frozen())
    }

    /// The agent itself has ended and others of its tree live: SIGTERM once, SIGKILL later, in
    /// rounds, until there are none. `None`: given up.
    pub(super) fn sweep_on(&mut self, cgroup: Option<&Cgroup>) -> Option<Duration> {
        let now = clock::instant();
        let children = process::children();
        let stop = self.stop;
        let sweep = self.sweep.get_or_insert_with(|| {
            process::signal_each(&children, Signal::SIGTERM);
            let kill_from = now + STRAY_GRACE;
            Sweep {
                strays: children.len() as u32,
                kill_from: stop.map_or(kill_from, |s| s.min(kill_from)),
                pause: Duration::from_millis(2),
            }
        });
        let left = sweep.kill_from.saturating_duration_since(now);
        if !left.is_zero() {
            return Some(left);
        }
        if now > sweep.kill_from + GIVE_UP {
            return None;
        }
        if cgroup.is_none_or(|c| c.kill_others().is_err()) {
            process::signal_each(&children, Signal::SIGKILL);
        }
        // Children of those killed become ours a moment later: SIGCHLD or the next round.
        sweep.pause = (sweep.pause * 2).min(Duration::from_millis(200));
        Some(sweep.pause)
    }

    pub(super) fn exit_record(&self, strays_left: u32) -> Vec<u8> {
        let (exit_status, signal) = match self.main {
            Some(WaitStatus::Exited(_, code)) => (Some(code), None),
            Some(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
            _ => (None, None),
        };
        let record = ExitRecord {
            session: self.spec.session.clone(),
            pid: self.pid.as_raw(),
            exit_status,
            signal,
            started_at: self.started_at.clone(),
            ended_at: clock::now_iso(),
            seconds: self.age().as_secs_f64(),
            frozen_seconds: self.frozen().as_secs_f64(),
            cpu_seconds: cpu_of_children()
                .saturating_sub(self.cpu_before)
                .as_secs_f64(),
            stopped: self.stopped_first,
            stopped_for: self.stopped_for.clone(),
            strays: self.sweep.as_ref().map_or(0, |s| s.strays),
            strays_left,
        };
        let mut text = serde_json::to_vec(&record).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

pub(super) fn cpu_of_children() -> Duration {
    let time = |t: nix::sys::time::TimeVal| {
        Duration::from_micros((t.tv_sec() as u64) * 1_000_000 + t.tv_usec() as u64)
    };
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |u| {
        time(u.user_time()) + time(u.system_time())
    })
}

/// What every agent is started with: nothing of it changes from one to the next.
pub(super) struct Starter {
    nothing: File,
    /// Of the harness that started this keeper, each as NAME=VALUE, with the length of its name, in
    /// the order of names.
    environment: Vec<(usize, CString)>,
}

impl Starter {
    pub(super) fn new() -> io::Result<Starter> {
        let environment = std::env::vars_os()
            .filter(|(name, _)| !is_of_cwd(name))
            .filter_map(|(name, value)| Some((name.len(), pair(&name, &value).ok()?)));
        let mut environment: Vec<(usize, CString)> = environment.collect();
        environment.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        Ok(Starter {
            nothing: atomic::open_to_look(Path::new("/dev/null"))?,
            environment,
        })
    }

    /// Starts the agent in a process group of its own. Its standard output carries a lock that lives
    /// until the last process that has it is gone; the file's existence says that a start was tried.
    pub(super) fn start(&self, spec: &Spec) -> io::Result<Pid> {
        let args = spec.argv.iter().map(|arg| c_string(arg));
        let args = args.collect::<io::Result<Vec<_>>>()?;
        let path = args.first().ok_or(io::ErrorKind::InvalidInput)?;
        let cwd = c_string(spec.cwd.as_os_str())?;
        let set = Self::set(spec)?;
        let stdin = spec
            .stdin
            .as_deref()
            .map(atomic::open_regular)
            .transpose()?;
        let stderr = atomic::open_output(&spec.stderr)?;
        // The last thing before the start: what fails earlier must not look like one.
        let stdout = atomic::open_output(&spec.stdout)?;
        let _held = fs2::FileExt::try_lock_exclusive(&stdout);
        let program = Program {
            path,
            args: &args,
            env: &self.environment(spec, &set),
            cwd: &cwd,
            stdio: [
                stdin.as_ref().unwrap_or(&self.nothing).as_fd(),
                stdout.as_fd(),
                stderr.as_fd(),
            ],
        };
        for _ in 0..200 {
            match sys::start(&program) {
                Ok(pid) => return Ok(pid),
                // Another thread of the harness forked while the item's copy was still open for
                // writing: the descriptor is gone as soon as that child has executed.
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {
                    process::pause(Duration::from_millis(5));
                }
                Err(e) => {
                    let _stays = atomic::remove(&spec.stdout);
                    return Err(e);
                }
            }
        }
        let _stays = atomic::remove(&spec.stdout);
        Err(io::Error::from_raw_os_error(libc::ETXTBSY))
    }

    /// What the agent's environment has that the keeper's has not.
    fn set(spec: &Spec) -> io::Result<Vec<CString>> {
        let set = spec.env.iter().filter(|(name, _)| !is_of_cwd(name));
        let set = set.filter_map(|(name, value)| Some(pair(name, value.as_ref()?)));
        // Programs that trust PWD more than their directory would work in our user's.
        set.chain([pair(PWD.as_ref(), spec.cwd.as_os_str())])
            .collect()
    }

    fn environment<'a>(&'a self, spec: &Spec, set: &'a [CString]) -> Vec<&'a CStr> {
        let mut kept: Vec<_> = self.environment.iter().map(|(_, e)| Some(&**e)).collect();
        for (name, _) in &spec.env {
            let name = name.as_bytes();
            let begin = self.environment.partition_point(|e| name_of(e) < name);
            // A name may stand there more than once.
            let same = self.environment[begin..].iter();
            let same = same.take_while(|e| name_of(e) == name).count();
            kept[begin..begin + same].fill(None);
        }
        let set = set.iter().map(CString::as_c_str);
        kept.into_iter().flatten().chain(set).collect()
    }
}

fn name_of((len, pair): &(usize, CString)) -> &[u8] {
    &pair.as_bytes()[..*len]
}

const PWD: &str = "PWD";
const OLDPWD: &str = "OLDPWD";

fn is_of_cwd(name: &OsStr) -> bool {
    name == PWD || name == OLDPWD
}

fn pair(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    Ok(CString::new(
        [name.as_bytes(), b"=", value.as_bytes()].concat(),
    )?)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}
