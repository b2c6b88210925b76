//! A ROOT of its own for each test, harness processes that never outlive it, and waiting for a
//! condition with a deadline (never a sleep) that prints the tree when it fails.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// Long enough for a loaded two-core machine; a test that meets it has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub struct Root {
    pub dir: tempfile::TempDir,
    /// What harness finds in its environment besides the test's own.
    pub env: Vec<(&'static str, OsString)>,
}

impl Root {
    /// Without a repository: items run in plain directories.
    pub fn plain() -> Root {
        hear_signals();
        let dir = tempfile::Builder::new()
            .prefix("harness-")
            .tempdir()
            .unwrap();
        let env = Vec::new();
        let root = Root { dir, env };
        root.ok(&["init"]);
        root.config("[repo]\npath = \"none\"\n");
        root
    }

    /// A ROOT beside a git repository `repo/` with one commit on `main`.
    pub fn with_repo() -> Root {
        let root = Root::plain();
        let repo = root.repo();
        fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]);
        fs::write(repo.join("README"), "hello\n").unwrap();
        git(&repo, &["add", "."]);
        git(&repo, &["commit", "-q", "-m", "one"]);
        root.config("[repo]\npath = \"repo\"\n");
        root
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn repo(&self) -> PathBuf {
        self.path().join("repo")
    }

    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path().join(path)
    }

    /// harness.toml: what tests want faster than people do, and `text`. Without the sandbox: most tests
    /// have their scripts leave marks where no agent may write, and attack what it would keep from them.
    pub fn config(&self, text: &str) {
        self.write_config("[sandbox]\nmode = \"off\"\n", text);
    }

    /// The same with agents confined, as they are unless a user says otherwise.
    pub fn config_confined(&self, text: &str) {
        self.write_config("", text);
    }

    fn write_config(&self, before: &str, text: &str) {
        let fast =
            "[retry]\ndelay = 0.05\n[harness]\nstagger = 0\nkill_grace = 2\ndurability = \"off\"\n";
        fs::write(self.at("harness.toml"), format!("{before}{fast}{text}")).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_harness"));
        c.arg("--root").arg(self.path()).stdin(Stdio::null());
        c.env_remove("HARNESS_ROOT").envs(self.env.iter().cloned());
        c
    }

    pub fn harness(&self, args: &[&str]) -> Output {
        let mut command = self.command();
        command.args(args);
        run_within(DEADLINE, command)
            .unwrap_or_else(|_| panic!("harness {args:?} does not end\n{}", self.picture()))
    }

    /// Runs a command that must end with this exit code.
    pub fn exits(&self, code: i32, args: &[&str]) -> Output {
        let out = self.harness(args);
        let said = || format!("harness {args:?}: {}", describe(&out));
        assert_eq!(out.status.code(), Some(code), "{}", said());
        out
    }

    /// Runs a command that must exit 0; its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        String::from_utf8(self.exits(0, args).stdout).unwrap()
    }

    /// `harness run --drain`, whatever its exit code but none of trouble.
    pub fn drain(&self) -> Output {
        let out = self.harness(&["run", "--drain", "--workers", "3"]);
        assert!(
            matches!(out.status.code(), Some(0 | 1)),
            "run --drain: {}",
            describe(&out)
        );
        out
    }

    /// Starts `harness run` with these arguments, its messages in `run-N.log`.
    pub fn start(&self, args: &[&str]) -> Running {
        let log = (1..)
            .map(|n| self.at(format!("run-{n}.log")))
            .find(|p| !p.exists())
            .unwrap();
        let file = fs::File::create(&log).unwrap();
        let child = self
            .command()
            .arg("run")
            .args(args)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Running { child, log }
    }

    /// Drops a script the way a careful person does: written elsewhere, then moved in.
    pub fn script(&self, name: impl AsRef<OsStr>, body: &str) {
        self.drop_file(name, format!("#!/bin/sh\n{body}\n").as_bytes(), 0o755);
    }

    pub fn drop_file(&self, name: impl AsRef<OsStr>, bytes: &[u8], mode: u32) {
        let temp = self.at("queue/pending/.being-made.tmp");
        fs::write(&temp, bytes).unwrap();
        fs::set_permissions(&temp, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(temp, self.at("queue/pending").join(name.as_ref())).unwrap();
    }

    pub fn show(&self, name: &str) -> Value {
        serde_json::from_str(&self.ok(&["show", name, "--json"])).unwrap()
    }

    /// Why an item's last attempt ended so.
    pub fn last_reason(&self, name: &str) -> String {
        let show = self.show(name);
        let last = show["attempts"].as_array().and_then(|all| all.last());
        let reason = last.and_then(|last| last["reason"].as_str());
        reason.unwrap_or_default().to_owned()
    }

    /// Events of an item's record, their kinds only.
    pub fn events(&self, name: &str) -> Vec<String> {
        let show = self.show(name);
        let events = show["events"].as_array().unwrap().iter();
        events
            .map(|e| e["event"].as_str().unwrap().to_owned())
            .collect()
    }

    pub fn is_done(&self, name: &str) -> bool {
        self.at("queue/done").join(name).exists()
    }

    pub fn is_parked(&self, name: &str) -> bool {
        self.at("queue/parked").join(name).exists()
    }

    /// Waits until it is so, or fails with the tree and the logs.
    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_so() {
            if Instant::now() > end {
                panic!("waited in vain until {what}\n{}", self.picture());
            }
            pause();
        }
    }

    /// The tree and the logs, for a failing test.
    pub fn picture(&self) -> String {
        let mut text = String::new();
        let mut paths: Vec<PathBuf> = files_below(self.path());
        paths.sort();
        for p in paths {
            let shown = p.strip_prefix(self.path()).unwrap_or(&p).to_path_buf();
            let inside = shown.to_string_lossy().into_owned();
            if inside.contains(".git/") || inside.starts_with("state/repos") {
                continue;
            }
            text.push_str(&format!("{inside}\n"));
            let wanted = inside.ends_with(".log") || inside.ends_with(".jsonl");
            // A fifo would be waited for; of a flood nobody reads all.
            if wanted
                && p.metadata().is_ok_and(|m| m.is_file() && m.len() < 1 << 24)
                && let Ok(bytes) = fs::read(&p)
            {
                for line in String::from_utf8_lossy(&bytes).lines().take(60) {
                    text.push_str(&format!("    | {line}\n"));
                }
            }
        }
        text
    }

    /// What must be true of every ROOT with no harness and no agent left: nothing claimed, no
    /// claim or key held, no keeper and no process of an item alive, no temporary file but in the slots of
    /// lost hosts, in which nobody works again.
    pub fn assert_nothing_left(&self) {
        let empty = |dir: &str| {
            files_below(&self.at(dir))
                .into_iter()
                .filter(|p| p.file_name() != Some(OsStr::new(".gitignore")))
                .collect::<Vec<_>>()
        };
        for dir in [
            "queue/claimed",
            "state/claims",
            "state/exclusive",
            "state/harnesses",
        ] {
            assert_eq!(
                empty(dir),
                Vec::<PathBuf>::new(),
                "{dir}\n{}",
                self.picture()
            );
        }
        let temps: Vec<_> = files_below(&self.at("state"))
            .into_iter()
            .chain(files_below(&self.at("queue")))
            .filter(|p| p.extension() == Some(OsStr::new("tmp")))
            .filter(|p| {
                let marker = fs::read_to_string(p.with_file_name("marker"));
                !marker.is_ok_and(|text| text.contains("\"given_up\":\""))
            })
            .collect();
        assert!(temps.is_empty(), "{temps:?}");
        let alive = self.processes();
        assert!(
            alive.is_empty(),
            "still alive: {alive:?}\n{}",
            self.picture()
        );
    }

    /// The pid of a slot's keeper.
    pub fn keeper(&self, slot: &str) -> u32 {
        let root = fs::canonicalize(self.path()).unwrap();
        let dir = root.join("state/agents").join(slot);
        let want = format!(" keeper {} ", dir.display());
        let mut found = self.processes().into_iter();
        let keeper = found.find(|(_, command)| command.contains(&want));
        keeper.expect("the slot has a keeper").0
    }

    /// Keepers of this ROOT and processes that carry its path in their environment.
    pub fn processes(&self) -> Vec<(u32, String)> {
        // A test may have moved it away.
        let root = fs::canonicalize(self.path()).unwrap_or_else(|_| self.path().to_owned());
        let mark = format!("HARNESS_ROOT={}", root.display());
        let agents = root.join("state/agents");
        let agents = agents.to_string_lossy();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<u32>().ok())
            else {
                continue;
            };
            let read = |file: &str| {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let command = read("cmdline").replace('\0', " ");
            let marked = read("environ").split('\0').any(|v| v == mark);
            let keeper = command.contains("keeper") && command.contains(&*agents);
            if !command.is_empty() && (marked || keeper) {
                found.push((pid, command));
            }
        }
        found
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            kill(pid, "KILL");
        }
    }
}

/// What tests start would ignore what they themselves were started to ignore (by `nohup`, or by a script's
/// `&`). With a handler here, a signal has its default action there, and this process outlives it.
fn hear_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT};
    static HEARD: Once = Once::new();
    HEARD.call_once(|| {
        for signal in [SIGHUP, SIGINT, SIGQUIT] {
            if harness::sys::is_ignored(signal) {
                signal_hook::flag::register(signal, Arc::default()).unwrap();
            }
        }
    });
}

/// A `harness run` that is killed when its test ends.
pub struct Running {
    pub child: Child,
    pub log: PathBuf,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        kill(self.pid(), name);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end by itself; its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(
                Instant::now() < end,
                "harness does not end\n{}",
                self.said()
            );
            pause();
        }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Set when it is dropped: tells a thread of a scope to end, even where the test has failed.
pub struct Over<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Says, past the capture of a passing test's output, that something could not be tried here.
pub fn skipped(what: &str) {
    use std::io::Write;
    let _closed = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

pub fn kill(pid: u32, signal: &str) {
    let _gone = Command::new("kill")
        .args(["-s", signal, "--", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

pub fn is_alive(pid: u32) -> bool {
    // A zombie is dead: somebody has only not looked yet.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| {
        !s.rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

/// The pause between two looks at a condition.
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}

pub fn describe(out: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// git as a user of the test's repositories, with an identity and nobody's configuration.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["-c", "user.name=T", "-c", "user.email=t@example.com"])
        .args(args)
        .output()
        .unwrap();
    assert!(out.status.success(), "git {args:?}: {}", describe(&out));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A user that has nothing.
pub const NOBODY: u32 = 65_534;

/// All of it becomes another user's. For root only.
pub fn give_away(path: &Path) {
    let all = walkdir::WalkDir::new(path).into_iter().flatten();
    all.for_each(|e| lchown(e.path(), Some(NOBODY), Some(NOBODY)).unwrap());
}

/// The tree becomes another user's, and its commands run as that user. For root only.
pub fn as_nobody(root: &Root) -> impl Fn(&[&str]) -> Command {
    let bin = root.at("harness-of-nobody");
    // By another process: one that a test starts meanwhile would inherit the file, open for writing.
    let from = env!("CARGO_BIN_EXE_harness");
    let copied = Command::new("cp").arg(from).arg(&bin).status();
    assert!(copied.unwrap().success());
    for path in [&*bin, root.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    give_away(root.path());
    let dir = root.path().to_owned();
    let env = root.env.clone();
    move |args| {
        let mut command = Command::new("setpriv");
        command
            .args([
                &format!("--reuid={NOBODY}"),
                &format!("--regid={NOBODY}"),
                "--clear-groups",
            ])
            .arg(&bin)
            .arg("--root")
            .arg(&dir)
            .args(args)
            .env_remove("HARNESS_ROOT")
            .envs(env.iter().cloned());
        command
    }
}

/// Runs a command to its end. `Err`: it did not end in that time, and was killed; what it said.
pub fn run_within(time: Duration, mut command: Command) -> Result<Output, Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    told.recv_timeout(time).map(Result::unwrap).map_err(|_| {
        kill(pid, "KILL");
        // What it has started holds its output, too: where it leads a group, all of that.
        let _is_no_group = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        told.recv().unwrap().unwrap()
    })
}

/// Every file below a directory, symlinks not followed; none where it does not exist.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    walkdir::WalkDir::new(dir)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|e| !e.file_type().is_dir())
        .map(|e| e.into_path())
        .collect()
}

/// One letter: R, S, T, …; empty: gone.
fn state_of(pid: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    rest.trim_start().chars().take(1).collect()
}

/// Whether a process is stopped, or what it has just forked and waits for: between a shell's `vfork` and the
/// other's `exec` the shell itself cannot be.
pub fn is_stopped(pid: &str) -> bool {
    let pid = pid.trim();
    match &*state_of(pid) {
        "T" => true,
        "D" => {
            let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let list = list.unwrap_or_default();
            let mut children = list.split_whitespace().peekable();
            children.peek().is_some() && children.all(|child| state_of(child) == "T")
        }
        _ => false,
    }
}
