//! What the machine has left decides whether anything begins, and the kernel holds agents to `[limits]`
//! where cgroup v2 is delegated. `tests/guest.sh` runs the latter in a guest kernel: few hosts of tests
//! have it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{Root, describe, is_alive, kill, run_within, skipped};
use crate::trouble::{has_mounts, run_to_end, words};

fn plain(limits: &str) -> Root {
    let root = Root::plain();
    root.config(&format!("[repo]\npath = \"none\"\n[limits]\n{limits}"));
    root
}

#[test]
fn above_a_load_nothing_is_claimed_and_the_slots_say_so() {
    let root = plain("load_max = 0.001\n");
    // Some load there must be.
    let busy = Command::new("timeout")
        .args(["60", "sh", "-c", "while :; do :; done"])
        .spawn();
    let mut busy = busy.unwrap();
    root.wait_until("there is some load", || {
        !fs::read_to_string("/proc/loadavg")
            .unwrap()
            .starts_with("0.00")
    });
    root.script("x", "exit 0");
    let mut run = root.start(&["--workers", "2"]);
    let why = "(`load_max` in [limits]): nothing new is claimed until it is lower";
    root.wait_until("it says so", || run.said().contains(why));
    root.wait_until("the slots show it", || {
        let status = root.ok(&["status", "--json"]);
        status.matches("\"paused\"").count() == 2 && status.contains("the load is ")
    });
    // It hands that on.
    kill(busy.id(), "TERM");
    busy.wait().unwrap();
    assert!(root.at("queue/pending/x").exists());
    assert_eq!(
        run.said().matches("the load is ").count(),
        1,
        "{}",
        run.said()
    );
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0));
    root.config("[repo]\npath = \"none\"\n");
    assert_eq!(root.drain().status.code(), Some(0));
    root.assert_nothing_left();
}

#[test]
fn of_all_trees_of_a_user_no_more_agents_are_at_work_than_places() {
    let run = |root: &Root| {
        let mut command = root.command();
        command.args(["run", "--drain", "--workers", "2"]);
        command
    };
    let roots = [plain("agents = 2\n"), plain("agents = 2\n")];
    let (begun, go) = (roots[0].at("begun"), roots[0].at("go"));
    fs::create_dir(&begun).unwrap();
    for root in &roots {
        for n in 0..2 {
            root.script(
                format!("x{n}"),
                &format!(": >{0}/$HARNESS_SESSION; until [ -e {1} ]; do sleep 0.05; done; rm {0}/$HARNESS_SESSION", begun.display(), go.display()),
            );
        }
    }
    let at_work = || fs::read_dir(&begun).unwrap().count();
    let mut first = run(&roots[0]).spawn().unwrap();
    roots[0].wait_until("two are at work", || at_work() == 2);
    let mut second = roots[1].start(&["--drain", "--workers", "2"]);
    let why = "2 agents are at work on this host (`agents` in [limits])";
    roots[1].wait_until("the other one says so", || second.said().contains(why));
    roots[1].wait_until("its slots show it", || {
        roots[1].ok(&["status"]).contains(why)
    });
    // Their agents keep the places, whoever dies.
    first.kill().unwrap();
    first.wait().unwrap();
    roots[1].wait_until("it looks again", || roots[1].ok(&["status"]).contains(why));
    assert_eq!(at_work(), 2);
    fs::write(&go, "").unwrap();
    assert_eq!(second.wait(), Some(0), "{}", second.said());
    assert_eq!(
        run(&roots[0]).spawn().unwrap().wait().unwrap().code(),
        Some(0)
    );
    for root in &roots {
        assert!(
            root.is_done("x0") && root.is_done("x1"),
            "{}",
            root.picture()
        );
        root.assert_nothing_left();
    }
}

#[test]
fn a_disk_that_is_full_elsewhere_or_of_files_holds_up_claims_until_there_is_room() {
    if !has_mounts() {
        return;
    }
    for (with, why, more) in [
        ("size=20m", "only 20 MiB free", "size=200m"),
        (
            "size=200m,nr_inodes=500",
            "files more (`df -i`)",
            "nr_inodes=50k",
        ),
    ] {
        let root = plain("disk_free_min = \"60MB\"\n");
        root.script("x", "exit 0");
        let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
        let script = format!(
            "mount -t tmpfs -o {with} none {dir}/worktrees || exit 9; h='{bin} --root {dir}'; cd {dir}
            $h run --drain --workers 1 2>said >&2 & p=$!
            until grep -q 'nothing new is claimed' said; do sleep 0.1; done
            until $h status | grep -q 'on the disk of\\|the disk of'; do sleep 0.1; done; ls queue/pending
            mount -o remount,{more} {dir}/worktrees; wait $p; echo CODE $?; ls queue/done; cat said"
        );
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", &script])
            .env_remove("HARNESS_ROOT");
        let said = words(&run_to_end(command));
        assert!(said.starts_with("x\nCODE 0\nx\n"), "{said}");
        assert!(said.contains(why) && said.contains("/worktrees"), "{said}");
        assert_eq!(said.matches("nothing new is claimed").count(), 1, "{said}");
    }
}

/// Runs it where the kernel tells what a script has put into `$P/memory`.
fn under_pressure(root: &Root, script: &str) -> String {
    let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
    let script = format!(
        "P={dir}/pressure; mkdir $P; mount -t tmpfs none /proc/pressure && mount --bind $P /proc/pressure || exit 9
        tell() {{ echo \"some avg10=$1 avg60=0.00 avg300=0.00 total=1\" >$P/memory; }}
        h='{bin} --root {dir}'; cd {dir}; {script}"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env_remove("HARNESS_ROOT");
    words(&run_to_end(command))
}

#[test]
fn while_memory_is_short_nothing_is_claimed_and_it_goes_on_by_itself() {
    if !has_mounts() {
        return;
    }
    let root = plain("");
    root.script("x", "exit 0");
    let said = under_pressure(
        &root,
        "tell 73.20; $h run --drain --workers 1 2>said >&2 & p=$!
        until grep -q 'wait for it 73 % of the time, more than 50 %' said; do sleep 0.1; done
        until $h status | grep -q 'memory is short'; do sleep 0.1; done; ls queue/pending
        tell 12.00; wait $p; echo CODE $?; ls queue/done; cat said",
    );
    assert!(said.starts_with("x\nCODE 0\nx\n"), "{said}");
    assert_eq!(said.matches("memory is short").count(), 1, "{said}");
}

#[test]
fn a_kernel_that_does_not_tell_of_pressure_is_said_once_where_it_was_asked_for() {
    if !has_mounts() {
        return;
    }
    for (limits, times) in [("pressure_max = 40\n", 1), ("", 0)] {
        let root = plain(limits);
        root.script("x", "exit 0");
        root.script("y", "exit 0");
        let said = under_pressure(
            &root,
            "$h run --drain --workers 2 2>said >&2; echo CODE $?; cat said; $h doctor | grep -A1 'memory pressure'",
        );
        assert!(said.starts_with("CODE 0\n"), "{said}");
        let words = "does not tell how short memory is";
        assert_eq!(said.matches(words).count(), times + 1, "{said}");
        assert!(said.contains("CONFIG_PSI"), "{said}");
    }
}

/// A cgroup for one harness, as `systemd-run --user --scope -p Delegate=yes` makes it.
struct Scope(PathBuf);

impl Scope {
    /// `None`: not to be had here.
    fn new() -> Option<Scope> {
        static SCOPES: AtomicU32 = AtomicU32::new(0);
        let top = Path::new("/sys/fs/cgroup");
        let there = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
        let wanted = ["memory", "pids", "cpu"];
        let all = wanted
            .iter()
            .all(|c| there.split_whitespace().any(|w| w == *c));
        let shared = wanted
            .iter()
            .all(|c| fs::write(top.join("cgroup.subtree_control"), format!("+{c}")).is_ok());
        let nth = SCOPES.fetch_add(1, Ordering::Relaxed);
        let dir = top.join(format!("harness-test-{}-{nth}", std::process::id()));
        if !all || !shared || fs::create_dir(&dir).is_err() {
            skipped(
                "the kernel's own limits: no cgroup v2 is delegated (tests/guest.sh has a guest for it)",
            );
            return None;
        }
        Some(Scope(dir))
    }

    /// `harness` with these arguments as the first process there.
    fn command(&self, root: &Root, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            // A run before has shared out, and left a child for the next one.
            .args([
                "-c",
                "[ -d $0/harness-run ] && in=$0/harness-run; echo $$ >${in:-$0}/cgroup.procs && exec \"$@\"",
            ])
            .arg(&self.0)
            .arg(env!("CARGO_BIN_EXE_harness"))
            .arg("--root")
            .arg(root.path())
            .args(args)
            .env_remove("HARNESS_ROOT");
        command
    }

    fn drain(&self, root: &Root, code: i32) -> String {
        let command = self.command(root, &["run", "--drain", "--workers", "2"]);
        let out = run_within(Duration::from_secs(100), command);
        let out =
            out.unwrap_or_else(|out| panic!("no end: {}\n{}", describe(&out), root.picture()));
        assert_eq!(
            out.status.code(),
            Some(code),
            "{}\n{}",
            describe(&out),
            root.picture()
        );
        words(&out)
    }

    fn below(&self) -> Vec<String> {
        let dirs = walkdir::WalkDir::new(&self.0)
            .min_depth(1)
            .into_iter()
            .flatten();
        let dirs = dirs.filter(|e| e.file_type().is_dir());
        dirs.map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let _gone = fs::write(self.0.join("cgroup.kill"), "1");
        let dirs = walkdir::WalkDir::new(&self.0)
            .contents_first(true)
            .into_iter()
            .flatten();
        for dir in dirs.filter(|e| e.file_type().is_dir()) {
            let _stays = fs::remove_dir(dir.path());
        }
    }
}

/// Has 250 MB in some seconds, and keeps it.
const HOG: &str = "(for n in $(seq 50); do head -c 5000000 /dev/zero; sleep 0.1; done; while printf x; do sleep 0.1; done)";

#[test]
fn the_kernel_ends_a_tool_that_eats_the_memory_and_its_agent_goes_on() {
    let Some(scope) = Scope::new() else { return };
    let root = plain("memory = \"100MB\"\n");
    root.script(
        "x",
        &format!("{HOG} | tail >/dev/null\necho goes on >went-on; exit 0"),
    );
    root.script("y", &format!("mkfifo f; {HOG} >f & exec tail f"));
    let said = scope.drain(&root, 1);
    assert!(!said.contains("are not held by the kernel"), "{said}");
    // Looking alone would have found some more than that.
    assert_eq!(
        root.last_reason("x"),
        "finished; memory: 100 MB of 100 MB; ended: tail"
    );
    let why = root.last_reason("y");
    assert!(
        why.starts_with("memory: 100 MB of 100 MB, and its agent had the most"),
        "{why}"
    );
    assert_eq!(root.show("y")["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(scope.below(), ["harness-run"]);
    root.assert_nothing_left();
}

#[test]
fn the_kernel_holds_processes_and_cores_and_the_keeper_is_in_no_limit() {
    let Some(scope) = Scope::new() else { return };
    let root = plain("processes = 30\ncpu = 0.5\nmemory = \"100MB\"\n");
    root.script(
        "many",
        "sh -c 'for n in $(seq 100); do sleep 60 & done; wait'; echo goes on; exit 0",
    );
    root.script("busy", "timeout 4 sh -c 'while :; do :; done'; exit 0");
    scope.drain(&root, 0);
    let why = root.last_reason("many");
    assert!(
        why.contains("processes: 30 of 30; no more could be started"),
        "{why}"
    );
    let show = root.show("busy");
    let figure = |name: &str| show["attempts"][0][name].as_f64().unwrap_or_default();
    let sid = show["attempts"][0]["session"].as_str().unwrap();
    let exit = fs::read(root.at("state/sessions").join(sid).join("exit.json")).unwrap();
    let exit: serde_json::Value = serde_json::from_slice(&exit).unwrap();
    let cpu = exit["cpu_seconds"].as_f64().unwrap();
    assert!(figure("seconds") > 3.5 && cpu > 0.5 && cpu < 3.0, "{exit}");

    let line = "until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.1; done";
    root.script(
        "waits",
        &format!("cat /proc/self/cgroup >\"$HARNESS_ROOT/cgroup\"; {line}"),
    );
    let mut run = scope
        .command(&root, &["run", "--drain", "--workers", "1"])
        .spawn()
        .unwrap();
    let mine = || fs::read_to_string(root.at("cgroup")).unwrap_or_default();
    root.wait_until("it says where it is", || mine().ends_with('\n'));
    assert!(mine().ends_with("-agent-1/agent\n"), "{}", mine());
    let of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let keeper = root.keeper("agent-1");
    assert!(of(keeper).ends_with("-agent-1/keeper\n"), "{}", of(keeper));
    assert!(of(run.id()).ends_with("/harness-run\n"), "{}", of(run.id()));

    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(0));
    fs::remove_file(root.at("go")).unwrap();

    // Whoever is killed, what hides from everything else goes with its item.
    root.script("hides", &format!("env -i setsid sleep 777 >/dev/null 2>&1 </dev/null & echo $! >\"$HARNESS_ROOT/pid\"; {line}"));
    let mut run = scope
        .command(&root, &["run", "--workers", "1"])
        .spawn()
        .unwrap();
    let pid = || fs::read_to_string(root.at("pid")).ok()?.trim().parse().ok();
    root.wait_until("it hides", || {
        pid().is_some_and(is_alive) && root.at("state/agents/agent-1/keeper.sock").exists()
    });
    kill(run.id(), "KILL");
    kill(root.keeper("agent-1"), "KILL");
    run.wait().unwrap();
    fs::write(root.at("go"), "").unwrap();
    scope.drain(&root, 0);
    assert!(!is_alive(pid().unwrap()));
    assert_eq!(scope.below(), ["harness-run"]);
    root.assert_nothing_left();
}

#[test]
fn where_others_live_in_the_cgroup_it_is_said_and_agents_are_looked_at() {
    let Some(scope) = Scope::new() else { return };
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(scope.0.join("cgroup.procs"), other.id().to_string()).unwrap();
    let root = plain("memory = \"100MB\"\n");
    root.script(
        "x",
        &format!("{HOG} | tail >/dev/null\necho goes on >went-on; exit 0"),
    );
    let said = scope.drain(&root, 0);
    let _ended = (other.kill(), other.wait());
    let words = format!("process {} lives in the same cgroup", other.id());
    assert!(
        said.contains("are not held by the kernel") && said.contains(&words),
        "{said}"
    );
    let why = root.last_reason("x");
    assert!(
        why.contains(" of 100 MB; ended: tail") && !why.contains("100 MB of"),
        "{why}"
    );
    root.assert_nothing_left();
}
