//! What an agent does outside of its own process: edits, commits, tools, daemons. And waiting,
//! which is always for a signal, a child's end or the time, never blind.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

/// Signals that ask the process to end, as they arrive, and a bell that they ring.
pub struct Signals {
    asked: Arc<AtomicUsize>,
    bell: UnixStream,
}

impl Signals {
    /// From here on these signals do nothing but ask.
    pub fn watch(which: &[i32]) -> Signals {
        let asked = Arc::new(AtomicUsize::new(0));
        let (bell, ringer) = UnixStream::pair().expect("a socket pair");
        bell.set_nonblocking(true).expect("a socket's mode");
        for &signal in which {
            signal_hook::flag::register_usize(signal, asked.clone(), signal as usize)
                .expect("a handler");
        }
        for &signal in which.iter().chain(&[SIGCHLD]) {
            let ringer = ringer.try_clone().expect("a descriptor");
            signal_hook::low_level::pipe::register(signal, ringer).expect("a handler");
        }
        Signals { asked, bell }
    }

    /// The signal that arrived since the last call.
    pub fn asked(&self) -> Option<i32> {
        match self.asked.swap(0, Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Returns at a signal, a child's end or after `at_most`.
    pub fn wait(&self, at_most: Duration) {
        let ms = i32::try_from(at_most.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        let mut fds = [PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
        let _interrupted = poll(
            &mut fds,
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX),
        );
        let mut sink = [0; 64];
        while matches!((&self.bell).read(&mut sink), Ok(n) if n > 0) {}
    }
}

pub const ENDING: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

/// Dies as by this signal's default action, and leaves no core file in the worktree.
pub fn die(signal: i32) -> ! {
    let _kept = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    if signal != libc::SIGKILL {
        let _unknown = signal_hook::low_level::emulate_default_handler(signal);
    }
    let signal = Signal::try_from(signal).expect("a signal");
    loop {
        // Twice for SIGSEGV: the runtime's own handler lets the first one pass.
        nix::sys::signal::raise(signal).expect("to be killed");
    }
}

/// Runs git in the working directory with an identity of its own. Its trimmed output, or its error.
pub fn git(args: &[&str]) -> Result<String, String> {
    let out = Command::new("git")
        .args([
            "-c",
            "user.name=mock-agent",
            "-c",
            "user.email=mock@agent.invalid",
        ])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if out.status.success() {
        Ok(text(&out.stdout))
    } else {
        Err(text(&out.stderr))
    }
}

pub fn in_repository() -> bool {
    git(&["rev-parse", "--git-dir"]).is_ok()
}

/// A tool that works for a while, in a session of its own as claude's Bash is. Each call `tree`
/// levels deep: the tool, its child, …
pub fn start_tool(seconds: Duration, tree: u64, pid_file: Option<&str>) -> Child {
    let mut me = Command::new(std::env::current_exe().expect("own path"));
    me.args(["__sit", &seconds.as_secs_f64().to_string(), "own-session"]);
    me.arg(tree.to_string()).arg(pid_file.unwrap_or(""));
    me.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    me.spawn().expect("a tool")
}

/// Kills a tool with all that is in its session's first group, and waits for it.
pub fn end_tool(tool: &mut Child) {
    let pid = Pid::from_raw(tool.id() as i32);
    // Before it has its own group there is only itself.
    let _gone = killpg(pid, Signal::SIGKILL);
    let _gone = tool.kill();
    let _status = tool.wait();
}

/// Leaves a process behind: own session, nobody's child, `/` as its directory, perhaps with no
/// environment, perhaps holding on to our standard output. Returns its pid.
pub fn leave_daemon(
    seconds: Duration,
    clear_env: bool,
    keep_stdout: bool,
    pid_file: Option<&str>,
) -> u32 {
    let own = std::env::temp_dir().join(super::line::fresh("mock-daemon-"));
    let mut me = Command::new(std::env::current_exe().expect("own path"));
    me.args(["__detach", &seconds.as_secs_f64().to_string()])
        .arg(&own);
    me.current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    if !keep_stdout {
        me.stdout(Stdio::null());
    }
    if clear_env {
        me.env_clear();
    }
    assert!(
        me.status().expect("a daemon").success(),
        "the daemon did not start"
    );
    let pid = fs::read_to_string(&own).expect("the daemon's pid");
    let _gone = fs::remove_file(&own);
    if let Some(path) = pid_file {
        fs::write(path, &pid).expect("the pid file can be written");
    }
    pid.trim().parse().expect("a pid")
}

/// `__detach SECONDS PIDFILE`: the middle of a double fork.
#[expect(clippy::zombie_processes, reason = "its child is to be nobody's")]
pub fn detach(args: &[OsString]) -> u8 {
    let _leader = nix::unistd::setsid();
    let mut me = Command::new(std::env::current_exe().expect("own path"));
    me.arg("__sit").arg(&args[0]).arg("own-session");
    let child = me.spawn().expect("a daemon");
    fs::write(&args[1], child.id().to_string()).expect("a pid file");
    0
}

/// `__sit SECONDS [own-session [LEVELS [PIDFILE]]]`: exists without using the processor.
pub fn sit(args: &[OsString]) -> u8 {
    let arg = |n: usize| args.get(n).and_then(|a| a.to_str()).unwrap_or("");
    let end = Instant::now() + Duration::from_secs_f64(arg(0).parse().expect("seconds"));
    if arg(1) == "own-session" {
        let _leader = nix::unistd::setsid();
    }
    let levels: u64 = arg(2).parse().unwrap_or(1);
    let mut below = None;
    if levels > 1 {
        let mut me = Command::new(std::env::current_exe().expect("own path"));
        me.args(["__sit", arg(0), "", &(levels - 1).to_string()]);
        below = Some(me.spawn().expect("a child"));
    }
    if !arg(3).is_empty() {
        // Written at once whole: tests wait for the file.
        let temp = format!("{}.tmp", arg(3));
        fs::write(&temp, std::process::id().to_string()).expect("a pid file");
        fs::rename(temp, arg(3)).expect("a pid file");
    }
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        let ms = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        let _interrupted = poll(
            &mut [],
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX),
        );
    }
    if let Some(mut below) = below {
        let _status = below.wait();
    }
    0
}

/// What the agent was given: arguments, directory, environment, prompt. For tests to look at.
pub fn dump(to: &Path, prompt: &str) {
    let shown = |s: OsString| s.to_string_lossy().into_owned();
    let env: serde_json::Map<String, serde_json::Value> = std::env::vars_os()
        .map(|(k, v)| (shown(k), shown(v).into()))
        .collect();
    let what = |fd: u8| {
        let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        link.to_string_lossy().into_owned()
    };
    let ignored = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = ignored.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let all = serde_json::json!({
        "argv": std::env::args_os().map(shown).collect::<Vec<_>>(),
        "cwd": std::env::current_dir().map(|d| shown(d.into())).unwrap_or_default(),
        "env": env,
        "prompt": prompt,
        "pid": std::process::id(),
        "group": nix::unistd::getpgrp().as_raw(),
        "session": nix::unistd::getsid(None).map(Pid::as_raw).unwrap_or(-1),
        "fds": [what(0), what(1), what(2)],
        "ignored_signals": ignored.map(str::trim),
    });
    fs::write(to, format!("{all:#}\n")).expect("the dump can be written");
}
