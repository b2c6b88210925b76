//! Clocks that are set, machines that sleep, numbers of processes that mean others, copies of a
//! ROOT, containers that share one: nobody is declared dead wrongly, nothing that is not ours is
//! ended, and everything goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::journal::Journal;
use crate::processes::Mark;
use crate::support::{Root, describe, files_below, is_alive, kill, skipped};

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

/// A clock of the test's own (tests/kit/clock_shim.c), which every harness of the ROOT goes by.
pub struct Clock {
    dir: tempfile::TempDir,
}

impl Clock {
    /// `None`, and said aloud: there is no C compiler, or the binary does not ask its libc.
    pub fn of(root: &mut Root) -> Option<Clock> {
        let clock = Clock {
            dir: tempfile::tempdir().unwrap(),
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kit/clock_shim.c");
        let shim = clock.dir.path().join("shim.so");
        let mut cc = Command::new("cc");
        let built = cc
            .args(["-shared", "-fPIC", "-o"])
            .arg(&shim)
            .arg(source)
            .arg("-ldl");
        if !built.output().is_ok_and(|o| o.status.success()) {
            skipped("no C compiler for tests/kit/clock_shim.c");
            return None;
        }
        root.env
            .push(("LD_PRELOAD", shim.display().to_string().into()));
        root.env
            .push(("SHIM_CLOCK", clock.file().display().to_string().into()));
        clock.set(DAY * 1_000, 0);
        root.ok(&["add", "--prompt", "y"]);
        let added = fs::read_to_string(files_below(&root.at("state/items"))[0].clone());
        clock.set(0, 0);
        for item in files_below(&root.at("queue/pending")) {
            let _gitignore = fs::remove_file(item);
        }
        let now = Timestamp::now_in_days();
        let year = |days: i64| (1970 + days * 400 / 146_097).to_string();
        if !added
            .unwrap_or_default()
            .contains(&format!("\"at\":\"{}", year(now + 1_000)))
        {
            skipped("the shim does not reach the clock of this binary (static?)");
            return None;
        }
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ahead")
    }

    /// So many seconds ahead of the real one, from now on.
    pub fn set(&self, wall: i64, boot: i64) {
        let temp = self.dir.path().join("new");
        fs::write(&temp, format!("{wall} {boot}\n")).unwrap();
        fs::rename(temp, self.file()).unwrap();
    }
}

struct Timestamp;

impl Timestamp {
    fn now_in_days() -> i64 {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        now.as_secs() as i64 / DAY
    }
}

/// Lets harness look around a few times.
fn settle(root: &Root) {
    let since = Instant::now();
    root.wait_until("two seconds are over", || {
        since.elapsed() > Duration::from_secs(2)
    });
}

fn status(root: &Root) -> Value {
    serde_json::from_str(&root.ok(&["status", "--json"])).unwrap()
}

#[test]
fn a_clock_that_is_set_and_a_machine_that_sleeps_make_nobody_late() {
    let mut root = Root::plain();
    let Some(clock) = Clock::of(&mut root) else {
        return;
    };
    let journal = Journal::new();
    root.config(
        "stall = 20\n[repo]\npath = \"none\"\n[agents.own]\ncommand = [\"sh\", \"{{PROMPT_FILE}}\"]\nevents = \"claude\"\n",
    );
    let last =
        r#"{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"done"}"#;
    let quiet = Mark::new();
    let text = format!(
        "---\nagent: own\nretries: 0\n---\n{} &\nwait\necho '{last}'\n",
        quiet.sleep()
    );
    root.drop_file("silent.md", text.as_bytes(), 0o644);
    let head = "#harness retries: 0\n#harness timeout: 100";
    journal.drop_script(&root, "works", head, &journal.wait_for("go"));
    let mut first = root.start(&["--workers", "2"]);
    let mut second = root.start(&["--workers", "1"]);
    let pid = journal.wait_for_start(&root, "works", 1);
    root.wait_until("both run, and three slots are there", || {
        quiet.alive().len() == 1 && status(&root)["agents"].as_array().unwrap().len() == 3
    });
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs() as i64;
    for (what, wall, boot) in [
        ("an hour on", 3_600, 0),
        ("a night's sleep", 10 * 3_600, 10 * 3_600),
        ("an hour back", -3_600, 0),
        ("a week back", -7 * DAY, 0),
        ("1970", -now + 10, 0),
        ("before 1970", -now - DAY, 0),
        ("beyond what 64 bits of nanoseconds hold", 300 * YEAR, 0),
        ("right again", 0, 0),
    ] {
        clock.set(wall, boot);
        settle(&root);
        let status = status(&root);
        assert!(
            is_alive(pid) && quiet.alive().len() == 1,
            "{what}: {}{}",
            first.said(),
            second.said()
        );
        assert_eq!(
            status["harnesses"].as_array().unwrap().len(),
            2,
            "{what}: {status:#}"
        );
        let agents = status["agents"].as_array().unwrap();
        assert!(
            agents.iter().all(|a| a["health"] == "healthy"),
            "{what}: {status:#}"
        );
        assert_eq!(status["work_queue"]["claimed"], 2, "{what}: {status:#}");
        // Items that come while the clock is like this are worked on, in their turn.
        let name = format!("{} {wall}", what.replace(' ', "-"));
        root.script(&name, ":");
        root.wait_until(&format!("{what}: a new item is done"), || {
            root.is_done(&name)
        });
    }
    for name in ["works", "silent.md"] {
        let events = root.events(name);
        assert_eq!(
            events.iter().filter(|e| *e == "claimed").count(),
            1,
            "{events:?}"
        );
    }
    journal.open("go");
    kill(quiet.alive()[0], "TERM");
    root.wait_until("all are done", || {
        root.is_done("works") && root.is_done("silent.md")
    });
    let seconds = root.show("works")["attempts"][0]["seconds"]
        .as_f64()
        .unwrap();
    assert!((10.0..100.0).contains(&seconds), "{seconds}");
    for run in [&mut first, &mut second] {
        run.signal("INT");
        assert_eq!(run.wait(), Some(0), "{}", run.said());
        assert!(!run.said().contains("panicked"), "{}", run.said());
    }
    let metrics = status(&root)["metrics"].clone();
    let average = metrics["average_seconds"].as_f64().unwrap();
    assert!((0.0..100.0).contains(&average), "{metrics:#}");
    root.assert_nothing_left();
}

/// Fails once, and would be tried again in an hour.
fn failed_once(root: &Root, clock: &Clock, running: bool, ahead: i64) {
    root.config("[retry]\ndelay = 3600\n[repo]\npath = \"none\"\n");
    let text = fs::read_to_string(root.at("harness.toml")).unwrap();
    fs::write(
        root.at("harness.toml"),
        text.replacen("[retry]\ndelay = 0.05\n", "", 1),
    )
    .unwrap();
    root.script("x", "[ $HARNESS_ATTEMPT = 2 ]");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it is to be tried again", || {
        root.at("queue/pending/x").exists() && root.events("x").iter().any(|e| e == "finished")
    });
    let mut run = Some(run).filter(|_| running);
    settle(root);
    assert!(root.at("queue/pending/x").exists(), "its hour is not over");
    clock.set(ahead, 0);
    let mut run = run
        .take()
        .unwrap_or_else(|| root.start(&["--workers", "1"]));
    root.wait_until("it is tried again", || root.is_done("x"));
    run.signal("INT");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    root.assert_nothing_left();
}

#[test]
fn a_retry_waits_for_no_clock_that_was_set() {
    for (running, ahead) in [(true, 2 * 3_600), (true, -2 * 3_600), (false, -2 * 3_600)] {
        let mut root = Root::plain();
        let Some(clock) = Clock::of(&mut root) else {
            return;
        };
        failed_once(&root, &clock, running, ahead);
    }
}

#[test]
fn a_time_that_a_person_set_holds_and_an_items_own_age_does_not() {
    let mut root = Root::plain();
    let Some(clock) = Clock::of(&mut root) else {
        return;
    };
    for name in ["old", "tomorrow", "empty"] {
        root.script(name, ":");
    }
    let tomorrow = std::time::SystemTime::now() + Duration::from_secs(DAY as u64);
    let file = fs::File::open(root.at("queue/pending/tomorrow")).unwrap();
    file.set_modified(tomorrow).unwrap();
    fs::write(root.at("queue/pending/empty"), "").unwrap();
    // All of them come from the future now.
    clock.set(-3_600, 0);
    let listed = |state: &str| root.ok(&["list", state, "--json"]);
    assert!(listed("scheduled").contains("tomorrow") && !listed("scheduled").contains("old"));
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("the old one is done", || root.is_done("old"));
    // Refused, not looked at for an hour.
    root.wait_until("the empty one is refused", || root.is_parked("empty"));
    assert!(root.at("queue/pending/tomorrow").exists());
    clock.set(DAY + 60, 0);
    root.wait_until("its day has come", || root.is_done("tomorrow"));
    run.signal("INT");
    assert_eq!(run.wait(), Some(1), "one was refused: {}", run.said());
    root.assert_nothing_left();
}

/// A pid namespace of its own, as a container has: as root or not.
const CONTAINER: [&str; 5] = [
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "--mount-proc",
];

fn unshare(args: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(args).stdin(Stdio::null());
    command
}

/// Said aloud where containers cannot be made.
fn has_containers() -> bool {
    let tried: std::io::Result<Output> = unshare(&CONTAINER).arg("true").output();
    let can = tried.is_ok_and(|o| o.status.success());
    if !can {
        skipped("unshare is missing, or may not make user and pid namespaces here");
    }
    can
}

#[test]
fn a_process_that_has_a_dead_ones_number_is_neither_ended_nor_taken_for_it() {
    if !has_containers() {
        return;
    }
    for cgroup in ["on", "off"] {
        let root = Root::plain();
        // Nothing of its own beside it: that would keep the numbers of its group and session.
        root.script(
            "x",
            "[ $HARNESS_ATTEMPT = 2 ] && exit 0\n(echo $PPID; echo $$) >\"$HARNESS_ROOT/pids\"\n\
             exec sleep 1000",
        );
        // All three die at once, and strangers get their numbers.
        let story = r#"
            H="$0 --root $1"
            $H run --workers 1 >"$1/first.log" 2>&1 & harness=$!
            until $H show x --json 2>/dev/null | grep -q '"event": "started"'; do sleep 0.05; done
            { read keeper; read agent; } <"$1/pids"
            kill -9 $harness $keeper $agent
            while kill -0 $agent 2>/dev/null || kill -0 $keeper 2>/dev/null; do sleep 0.05; done
            wait $harness
            # The keeper's number is its session's as long as anything of that lives.
            while ps -A -o sid= | grep -qw $keeper; do sleep 0.05; done
            for pid in $harness $keeper $agent; do
                echo $((pid - 1)) >/proc/sys/kernel/ns_last_pid
                sleep 1000 &
                echo "stranger $pid $!"
            done
            $H status --json >"$1/status-then.json"
            $H run --drain --workers 1 >"$1/second.log" 2>&1; echo "drained $?"
            for pid in $harness $keeper $agent; do kill -0 $pid && echo "lives $pid"; done
        "#;
        let out = unshare(&CONTAINER)
            .args([
                "--kill-child",
                "bash",
                "-c",
                story,
                env!("CARGO_BIN_EXE_harness"),
            ])
            .arg(root.path())
            .env("HARNESS_CGROUP", cgroup)
            .output()
            .unwrap();
        let said = describe(&out);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let strangers: Vec<Vec<&str>> = text
            .lines()
            .filter_map(|l| l.strip_prefix("stranger "))
            .map(|l| l.split(' ').collect())
            .collect();
        assert_eq!(strangers.len(), 3, "{said}");
        assert!(
            strangers.iter().all(|s| s[0] == s[1]),
            "not the same numbers: {said}"
        );
        assert!(text.contains("drained 0"), "{said}\n{}", root.picture());
        assert_eq!(
            text.matches("lives ").count(),
            3,
            "a stranger was ended: {said}"
        );
        let then = fs::read(root.at("status-then.json")).unwrap();
        let then: Value = serde_json::from_slice(&then).unwrap();
        assert_eq!(then["harnesses"].as_array().unwrap().len(), 0, "{then:#}");
        let show = root.show("x");
        assert_eq!(show["attempts"][0]["outcome"], "crashed", "{show:#}");
        assert_eq!(show["attempts"][1]["outcome"], "succeeded", "{show:#}");
        root.assert_nothing_left();
    }
}

/// What a backup holds that was made at work, a machine that was cut off, or a snapshot that is
/// restored twice: files of processes, sockets and locks with nobody behind them.
#[test]
fn a_copy_of_a_root_at_work_recovers_and_leaves_the_original_alone() {
    let root = Root::with_repo();
    let mark = Mark::new();
    let body = format!(
        "echo made >made\n{} &\nuntil [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.02; done\nkill $!",
        mark.sleep()
    );
    for name in ["a", "b"] {
        root.script(name, &body);
    }
    root.script("c", "#harness after: a\n:");
    let mut run = root.start(&["--workers", "2", "--drain"]);
    root.wait_until("both are at work", || {
        mark.alive().len() == 2
            && ["a", "b"]
                .iter()
                .all(|n| root.events(n).iter().any(|e| e == "started"))
    });
    root.ok(&["interrupt", "agent-2", "wait"]);
    root.wait_until("one is frozen", || {
        let text = fs::read_to_string(root.at("state/agents/agent-2/status.json"));
        text.is_ok_and(|t| t.contains("interrupted"))
    });
    let copies = [Root::plain(), Root::plain()];
    for copy in &copies {
        let from = format!("{}/.", root.path().display());
        let copied = Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(copy.path())
            .status();
        assert!(copied.unwrap().success());
        fs::write(copy.at("go"), "").unwrap();
        copy.ok(&["resume"]);
    }
    let mut runs: Vec<_> = copies
        .iter()
        .map(|c| c.start(&["--drain", "--workers", "2"]))
        .collect();
    for (copy, run) in copies.iter().zip(&mut runs) {
        assert_eq!(run.wait(), Some(0), "{}", run.said());
        for name in ["a", "b"] {
            let show = copy.show(name);
            assert_eq!(show["attempts"][0]["outcome"], "crashed", "{show:#}");
            assert_eq!(show["attempts"][1]["outcome"], "succeeded", "{show:#}");
        }
        assert!(copy.is_done("c"));
        copy.assert_nothing_left();
    }
    assert_eq!(
        mark.alive().len(),
        2,
        "the original's agents were ended: {}",
        run.said()
    );
    root.ok(&["resume"]);
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    for name in ["a", "b"] {
        let show = root.show(name);
        assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show:#}");
        assert_eq!(show["outcome"], "succeeded", "{show:#}");
    }
    root.assert_nothing_left();
}

/// A harness in a pid namespace of its own, with a shell as its first process; everything in it
/// is killed when this is dropped.
struct Container {
    child: Child,
    log: PathBuf,
}

impl Container {
    fn start(root: &Root, name: &str, cgroup: &str) -> Container {
        let log = root.at(format!("{name}.log"));
        let out = fs::File::create(&log).unwrap();
        let child = unshare(&CONTAINER)
            .args(["--kill-child", "sh", "-c"])
            .arg("\"$0\" --root \"$1\" run --workers 1 & wait; sleep 1000")
            .arg(env!("CARGO_BIN_EXE_harness"))
            .arg(root.path())
            .env("HARNESS_CGROUP", cgroup)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        let container = Container { child, log };
        root.wait_until("its harness runs", || container.harness().is_some());
        container
    }

    /// As the host numbers it.
    fn harness(&self) -> Option<u32> {
        let below = |pid: u32| {
            let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            list.unwrap_or_default()
                .split_whitespace()
                .next()
                .and_then(|p| p.parse().ok())
        };
        let harness = below(below(self.child.id())?)?;
        let line = fs::read_to_string(format!("/proc/{harness}/cmdline")).unwrap_or_default();
        line.contains("\0run\0").then_some(harness)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn end(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn containers_share_a_root_though_they_cannot_see_each_others_processes() {
    if !has_containers() {
        return;
    }
    let (root, journal) = (Root::plain(), Journal::new());
    let a = Container::start(&root, "a", "off");
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    journal.wait_for_start(&root, "x", 1);
    let b = Container::start(&root, "b", "off");
    settle(&root);
    // Each has the pid 2 of its own: nobody is taken for dead, or for somebody else.
    let shown = status(&root);
    assert_eq!(shown["harnesses"].as_array().unwrap().len(), 2, "{shown:#}");
    assert!(
        shown["agents"]
            .as_array()
            .unwrap()
            .iter()
            .all(|a| a["health"] == "healthy")
    );
    let adopted = |name: &str| root.events(name).iter().any(|e| e == "adopted");
    assert!(!adopted("x"), "{}", b.said());
    // A harness dies: the other one reaches the keeper through its socket.
    kill(a.harness().unwrap(), "KILL");
    root.wait_until("b has adopted x", || adopted("x"));
    journal.open("go");
    root.wait_until("x is done", || root.is_done("x"));
    assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 1);
    journal.assert_books(&root, &["x".into()]);
}

/// Harness and keeper die in a container in which the agent lives on, and the one that recovers it
/// cannot see it: it must not be started a second time beside it.
#[test]
fn an_agent_that_lives_in_another_container_is_ended_or_waited_for() {
    if !has_containers() {
        return;
    }
    for cgroup in ["off", "on"] {
        let (root, journal) = (Root::plain(), Journal::new());
        let mut a = Container::start(&root, "a", cgroup);
        let body = format!(
            "[ $HARNESS_ATTEMPT = 2 ] && exit 0\n{}",
            journal.wait_for("never")
        );
        journal.drop_script(&root, "x", "", &body);
        journal.wait_for_start(&root, "x", 1);
        root.wait_until("it is recorded", || {
            root.events("x").iter().any(|e| e == "started")
        });
        let of_agent = || {
            let all = root.processes().into_iter();
            all.filter(|(_, c)| c.contains("sessions")).count()
        };
        assert!(of_agent() > 0);
        let keeper = root.keeper("agent-1");
        let held = fs::read_to_string(format!("/proc/{keeper}/cgroup")).unwrap();
        kill(a.harness().unwrap(), "KILL");
        kill(keeper, "KILL");
        let b = Container::start(&root, "b", cgroup);
        if held.contains("/harness-") {
            root.wait_until("it is ended, and x is done", || root.is_done("x"));
        } else {
            root.wait_until("b says so", || {
                b.said().contains("cannot be seen from here")
            });
            assert!(of_agent() > 0);
            assert_eq!(
                journal.of("x").len(),
                1,
                "a second attempt beside the first: {}",
                b.said()
            );
            a.end();
            root.wait_until("x is done", || root.is_done("x"));
        }
        assert_eq!(of_agent(), 0);
        let show = root.show("x");
        assert_eq!(show["attempts"][0]["outcome"], "crashed", "{show:#}");
        assert_eq!(show["attempts"][1]["outcome"], "succeeded", "{show:#}");
    }
}

/// `/proc` of the host in a pid namespace without one: our numbers mean others there.
#[test]
fn the_proc_of_another_namespace_is_not_believed() {
    if !has_containers() {
        return;
    }
    let root = Root::plain();
    let out = unshare(&CONTAINER[..4])
        .arg(env!("CARGO_BIN_EXE_harness"))
        .args(["--root", root.path().to_str().unwrap(), "doctor"])
        .output()
        .unwrap();
    let said = describe(&out);
    assert!(
        said.contains("it is that of another pid namespace"),
        "{said}"
    );
    assert_eq!(out.status.code(), Some(100), "{said}");
}
