//! Several hosts in one ROOT: a process's node and job are what an engine says in its environment, and the
//! engine is a `squeue` of the test's. A host that is lost, one that is only late, and one of which nothing
//! is known.

use std::ffi::OsString;
use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Root, Running, git, kill, skipped};

/// A ROOT that processes on several nodes of a cluster work in.
struct Cluster {
    root: Root,
}

impl Cluster {
    fn new(mut root: Root) -> Cluster {
        let bin = root.at("bin");
        fs::create_dir(&bin).unwrap();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", bin.display());
        root.env.push(("PATH", OsString::from(path)));
        let cluster = Cluster { root };
        let jobs = cluster.root.at("jobs");
        cluster.program("squeue", &format!("cat '{}'", jobs.display()));
        cluster.program("scontrol", "echo 'ClusterName = c'");
        cluster.say(&[]);
        cluster
    }

    fn program(&self, name: &str, body: &str) {
        let file = self.root.at("bin").join(name);
        fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&file, mode).unwrap();
    }

    /// What the engine says from now on of each job.
    fn say(&self, jobs: &[(u32, &str)]) {
        let line = |(id, state): &(u32, &str)| format!("c {id} N/A {id} {state} 0\n");
        let text: String = jobs.iter().map(line).collect();
        fs::write(self.root.at("jobs.new"), text).unwrap();
        fs::rename(self.root.at("jobs.new"), self.root.at("jobs")).unwrap();
    }

    /// Starts `harness run` on node `nN`, in job N.
    fn start(&mut self, node: u32, args: &[&str]) -> Running {
        let before = self.root.env.len();
        self.root.env.extend([
            ("SLURM_JOB_ID", OsString::from(node.to_string())),
            ("SLURM_CLUSTER_NAME", OsString::from("c")),
            ("SLURMD_NODENAME", OsString::from(format!("n{node}"))),
        ]);
        let running = self.root.start(args);
        self.root.env.truncate(before);
        running
    }

    fn marker(&self, slot: &str) -> String {
        let path = self.root.at("state/agents").join(slot).join("marker");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// The processes of a slot: its keeper, and what runs for it.
    fn of_slot(&self, slot: &str) -> Vec<u32> {
        let all = self.root.processes().into_iter().map(|(pid, _)| pid);
        let is_its = |pid: &u32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = [read("environ"), read("cmdline")].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            let mut words = text.split('\0');
            words.any(|w| w == format!("HARNESS_SLOT={slot}") || w.ends_with(&format!("/{slot}")))
        };
        all.filter(is_its).collect()
    }
}

/// Commits what says which attempt it was, once `go` is there.
fn waiting(root: &Root, name: &str) {
    let go = root.at("go");
    let body = format!(
        "touch \"$HARNESS_ROOT/began-{name}-$HARNESS_ATTEMPT\"
until [ -e '{}' ]; do sleep 0.05; done
echo $HARNESS_ATTEMPT > made-{name}; git add .; git commit -q -m made",
        go.display()
    );
    root.script(name, &body);
}

#[test]
fn the_items_of_a_lost_host_are_done_by_another_one_and_its_late_process_stops() {
    let mut cluster = Cluster::new(Root::with_repo());
    for name in ["a", "b"] {
        waiting(&cluster.root, name);
    }
    let mut late = cluster.start(1, &["--workers", "2"]);
    let began = |c: &Cluster, attempt: u32| {
        let of = |name| c.root.at(format!("began-{name}-{attempt}"));
        of("a").exists() && of("b").exists()
    };
    cluster.root.wait_until("both began", || began(&cluster, 1));
    // The whole node stands still: harness, keepers, agents.
    late.signal("STOP");
    let frozen: Vec<u32> = cluster.root.processes().into_iter().map(|p| p.0).collect();
    frozen.iter().for_each(|pid| kill(*pid, "STOP"));
    cluster.say(&[(1, "NODE_FAIL"), (2, "RUNNING")]);
    let mut other = cluster.start(2, &["--drain", "--workers", "2"]);
    cluster
        .root
        .wait_until("both began again", || began(&cluster, 2));
    assert!(cluster.marker("agent-1").contains("given_up"));
    // It wakes while others are at work on what it had.
    frozen.iter().for_each(|pid| kill(*pid, "CONT"));
    late.signal("CONT");
    assert_eq!(late.wait(), Some(111), "{}", late.said());
    assert!(late.said().contains("was given up by another host"));
    fs::write(cluster.root.at("go"), "").unwrap();
    assert_eq!(other.wait(), Some(0), "{}", other.said());
    let root = &cluster.root;
    let branches = git(&root.repo(), &["branch", "--list", "harness/*"]);
    let branches: Vec<&str> = branches.split_whitespace().collect();
    assert_eq!(branches, ["harness/a/2", "harness/b/2"]);
    for name in ["a", "b"] {
        assert!(root.is_done(name));
        let events = root.events(name);
        let claims = events.iter().filter(|event| *event == "claimed").count();
        assert_eq!(claims, 2, "{events:?}");
        let record = fs::read_to_string(root.at(format!("state/items/{name}.jsonl"))).unwrap();
        let why = "its host was lost: Slurm says of job 1: NODE_FAIL";
        assert_eq!(record.matches(why).count(), 1, "{record}");
    }
    root.assert_nothing_left();
    // Nobody has their slots again before a late process can no longer come.
    let said = root.ok(&["gc"]);
    assert!(!said.contains("lost"), "{said}");
    root.config("[repo]\npath = \"repo\"\n[limits]\nkeep = 0\n");
    let said = root.ok(&["gc"]);
    let gone = "removed 2 slots of hosts that were lost";
    assert!(said.contains(gone), "{said}");
    assert_eq!(cluster.marker("agent-1"), "");
}

#[test]
fn what_the_engine_does_not_know_moves_nothing_until_a_person_says_that_the_host_is_gone() {
    let mut cluster = Cluster::new(Root::plain());
    waiting(&cluster.root, "a");
    let held = cluster.start(1, &["--workers", "1"]);
    let began = cluster.root.at("began-a-1");
    cluster.root.wait_until("it began", || began.exists());
    held.signal("STOP");
    cluster.program(
        "squeue",
        "echo 'slurm_load_jobs error: no controller' >&2; exit 1",
    );
    let mut other = cluster.start(2, &["--drain", "--workers", "1"]);
    let silent = "agent-1 of host n1 is silent";
    cluster
        .root
        .wait_until("it says so", || other.said().contains(silent));
    let said = other.said();
    assert!(said.contains("no controller"), "{said}");
    let lost = cluster.root.at("state/agents/agent-1/lost");
    let lost = format!("then: touch {}", lost.display());
    assert!(said.contains(&lost), "{said}");
    assert!(said.contains("agent-1 of host n1, which has a"), "{said}");
    assert!(cluster.root.at("queue/claimed/agent-1/a").exists());
    fs::write(cluster.root.at("go"), "").unwrap();
    let frozen = cluster.of_slot("agent-1");
    frozen.iter().for_each(|pid| kill(*pid, "KILL"));
    fs::write(cluster.root.at("state/agents/agent-1/lost"), "").unwrap();
    // Without a repository what an agent commits fails: what counts is that it ran.
    other.wait();
    assert!(cluster.root.at("began-a-2").exists(), "{}", other.said());
    assert!(other.said().contains("a person has said so"));
    held.kill9();
}

#[test]
fn what_was_said_of_a_process_before_is_not_said_of_the_next_one() {
    let mut cluster = Cluster::new(Root::with_repo());
    cluster.say(&[(1, "RUNNING"), (2, "RUNNING"), (3, "RUNNING")]);
    cluster.root.script("first", "true");
    let mut first = cluster.start(1, &["--drain", "--workers", "1"]);
    assert_eq!(first.wait(), Some(0), "{}", first.said());
    fs::write(cluster.root.at("state/agents/agent-1/lost"), "").unwrap();
    waiting(&cluster.root, "a");
    let mut next = cluster.start(3, &["--drain", "--workers", "1"]);
    let began = cluster.root.at("began-a-1");
    cluster.root.wait_until("it began", || began.exists());
    let mut other = cluster.start(2, &["--drain", "--workers", "1"]);
    let waits = "the drain waits for agent-1 of host n3";
    cluster
        .root
        .wait_until("it waits", || other.said().contains(waits));
    fs::write(cluster.root.at("go"), "").unwrap();
    next.wait();
    other.wait();
    let said = [next.said(), other.said()].concat();
    assert!(!said.contains("given up"), "{said}");
    assert!(!cluster.root.at("began-a-2").exists());
}

#[test]
fn a_host_on_which_nothing_can_be_started_is_left_out_and_holds_up_no_other() {
    let mut cluster = Cluster::new(Root::plain());
    cluster.root.config(
        "agent = \"tool\"\n[repo]\npath = \"none\"\n[agents.tool]\ncommand = [\"tool\", \"{prompt}\"]\n",
    );
    cluster.root.drop_file("a", b"do it\n", 0o644);
    let mut without = cluster.start(1, &["--workers", "2"]);
    assert_eq!(without.wait(), Some(111), "{}", without.said());
    let said = without.said();
    assert_eq!(said.matches("host n1 is left out").count(), 1, "{said}");
    assert!(cluster.root.at("queue/pending/a").exists());
    cluster.program("tool", "test ! -e \"$HARNESS_ROOT/broken\"");
    let mut with = cluster.start(2, &["--drain", "--workers", "2"]);
    assert_eq!(with.wait(), Some(0), "{}", with.said());
    assert!(cluster.root.is_done("a"));
    // Everything fails at once: most of the queue is left to others, with its retries.
    fs::write(cluster.root.at("broken"), "").unwrap();
    for (kind, why) in [("prompt", "alike here"), ("script", "within 10 s each")] {
        let names: Vec<String> = (0..20).map(|n| format!("{kind}{n}")).collect();
        for name in &names {
            match kind {
                "prompt" => cluster.root.drop_file(name, b"do it\n", 0o644),
                _ => cluster.root.script(name, "exit 1"),
            };
        }
        let mut broken = cluster.start(1, &["--workers", "2"]);
        assert_eq!(broken.wait(), Some(111), "{}", broken.said());
        let said = broken.said();
        let (left_out, why) = ("host n1 is left out: 5 attempts in a row failed", why);
        assert!(said.contains(left_out) && said.contains(why), "{said}");
        let mut untried = names.clone();
        untried.retain(|name| cluster.root.events(name).is_empty());
        assert!(untried.len() >= 10, "{said}");
        names.iter().for_each(|name| {
            let _ended = fs::remove_file(cluster.root.at("queue/pending").join(name));
        });
    }
    let interrupts = fs::read_dir(cluster.root.at("state/interrupts")).unwrap();
    assert_eq!(interrupts.flatten().count(), 0);
}

#[test]
fn a_slot_whose_host_has_left_it_is_taken_by_another_and_one_with_a_living_keeper_is_not() {
    let mut cluster = Cluster::new(Root::plain());
    cluster.say(&[(1, "RUNNING"), (2, "RUNNING")]);
    cluster.root.script("first", "true");
    let mut first = cluster.start(1, &["--drain", "--workers", "1"]);
    assert_eq!(first.wait(), Some(0), "{}", first.said());
    assert_eq!(cluster.marker("agent-1"), "");
    let go = cluster.root.at("go").display().to_string();
    let body = format!(
        "touch $HARNESS_ROOT/began-$HARNESS_ATTEMPT; until [ -e {go} ]; do sleep 0.05; done"
    );
    cluster.root.script("a", &body);
    let second = cluster.start(2, &["--workers", "1"]);
    let (began, again) = (cluster.root.at("began-1"), cluster.root.at("began-2"));
    cluster.root.wait_until("it began", || began.exists());
    assert!(cluster.marker("agent-1").contains("\"n2\""));
    // Its agent runs on, and its own host adopts it.
    second.kill9();
    let mut third = cluster.start(1, &["--drain", "--workers", "1"]);
    let waits = "the drain waits for agent-1 of host n2, which has a";
    cluster
        .root
        .wait_until("it waits", || third.said().contains(waits));
    assert!(!again.exists());
    cluster
        .of_slot("agent-1")
        .iter()
        .for_each(|pid| kill(*pid, "KILL"));
    cluster
        .root
        .wait_until("it begins again", || again.exists());
    fs::write(go, "").unwrap();
    assert_eq!(third.wait(), Some(0), "{}", third.said());
    assert!(
        third
            .said()
            .contains("agent-1 of host n2 is given up: its process has let go")
    );
    assert!(cluster.root.is_done("a"));
    cluster.root.assert_nothing_left();
}

/// The command of a process that takes its kernel for another one than this; `None`, and said: it cannot be
/// made here.
fn on_another_kernel(root: &Root, args: &[&str]) -> Option<Command> {
    let boot_id = root.at("boot_id");
    fs::write(&boot_id, "00000000-0000-4000-8000-000000000000\n").unwrap();
    let with = |program: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        let shown = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", shown]);
        command.arg(&boot_id).arg(program).args(args);
        command.stdin(Stdio::null());
        command
    };
    let tried = with("true", &[]).output();
    if !tried.is_ok_and(|out| out.status.success()) {
        skipped("unshare is missing, or may not make user and mount namespaces here");
        return None;
    }
    let mut command = with(env!("CARGO_BIN_EXE_harness"), &["--root"]);
    command.arg(root.path()).args(args);
    command.envs(root.env.iter().cloned());
    Some(command)
}

#[test]
fn the_host_that_serves_its_own_disk_takes_no_slot_of_a_node_though_its_lock_looks_free() {
    let mut cluster = Cluster::new(Root::plain());
    cluster.say(&[(1, "RUNNING")]);
    let go = cluster.root.at("go").display().to_string();
    let body = format!(
        "touch $HARNESS_ROOT/began-$HARNESS_ATTEMPT; until [ -e {go} ]; do sleep 0.05; done"
    );
    cluster.root.script("a", &body);
    let node = cluster.start(1, &["--workers", "1"]);
    let (began, again) = (cluster.root.at("began-1"), cluster.root.at("began-2"));
    cluster.root.wait_until("it began", || began.exists());
    // No lock of the node's is seen from now on, as none of a client is where the disk is served.
    node.kill9();
    let left = cluster.of_slot("agent-1");
    left.iter().for_each(|pid| kill(*pid, "KILL"));
    fs::create_dir(cluster.root.at("state/jobs")).unwrap();
    let head = on_another_kernel(&cluster.root, &["run", "--drain", "--workers", "1"]);
    let Some(mut head) = head else {
        return;
    };
    let log = cluster.root.at("head.log");
    let file = fs::File::create(&log).unwrap();
    head.stdout(file.try_clone().unwrap()).stderr(file);
    let mut head = head.spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap();
    let waits = "the drain waits for agent-1 of host n1, which has a";
    cluster
        .root
        .wait_until("it waits", || said().contains(waits));
    assert!(!again.exists());
    cluster.say(&[(1, "NODE_FAIL")]);
    fs::write(go, "").unwrap();
    cluster
        .root
        .wait_until("it is done", || cluster.root.is_done("a"));
    assert!(head.wait().unwrap().success(), "{}", said());
    let why = "agent-1 of host n1 is given up: Slurm says of job 1: NODE_FAIL";
    assert!(said().contains(why), "{}", said());
}
