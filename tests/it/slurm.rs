//! A private Slurm of three nodes on this host (`tests/slurm/cluster`): each node is a slurmd with all that
//! its jobs start. What is not installed is said, and nothing is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Root, describe, git, kill, pause, skipped};

/// Slurm itself needs half a minute to miss a node, and as long to start a job again.
const DEADLINE: Duration = Duration::from_secs(180);

struct Cluster {
    dir: tempfile::TempDir,
}

impl Cluster {
    /// `None`, and said: Slurm is not installed here.
    fn start() -> Option<Cluster> {
        for program in ["slurmctld", "slurmd", "sbatch"] {
            let found = Command::new("sh")
                .args(["-c", "PATH=$PATH:/usr/sbin:/sbin command -v $0", program])
                .output();
            if !found.is_ok_and(|out| out.status.success()) {
                skipped(&format!("Slurm: {program} is not installed"));
                return None;
            }
        }
        let cluster = Cluster {
            dir: tempfile::Builder::new().prefix("hs-").tempdir().unwrap(),
        };
        cluster.does(&["start", &ports(4).to_string(), "3"]);
        Some(cluster)
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("c")
    }

    fn does(&self, words: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm/cluster");
        let home = self.home();
        // The daemons inherit neither of the two pipes that would be read to their end.
        let log = self.dir.path().join("log");
        let open = || {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap()
        };
        let status = Command::new(script)
            .arg(words[0])
            .arg(&home)
            .args(&words[1..])
            .stdout(open())
            .stderr(open())
            .status()
            .unwrap();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(status.success(), "cluster {words:?}: {}", said());
    }

    fn conf(&self) -> PathBuf {
        self.home().join("slurm.conf")
    }

    fn asked(&self, words: &[&str]) -> Output {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("SLURM_CONF", self.conf());
        command.output().unwrap()
    }

    fn ask(&self, words: &[&str]) -> String {
        let out = self.asked(words);
        assert!(out.status.success(), "{words:?}: {}", describe(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    /// `TASK STATE NODE`, by task.
    fn tasks(&self, job: &str) -> BTreeMap<String, (String, String)> {
        let list = ["squeue", "-h", "--array", "--states=all", "-o", "%i %T %N"];
        // A controller that begins does not answer yet.
        let lines = self.asked(&list).stdout;
        let lines = String::from_utf8(lines).unwrap();
        let of_job = |line: &str| {
            let mut words = line.split_whitespace();
            let task = words.next()?.strip_prefix(job)?.strip_prefix('_')?;
            let state = words.next()?.to_owned();
            let node = words.next().unwrap_or_default().to_owned();
            Some((task.to_owned(), (state, node)))
        };
        lines.lines().filter_map(of_job).collect()
    }

    fn controller_log(&self) -> String {
        std::fs::read_to_string(self.home().join("controller.log")).unwrap_or_default()
    }

    /// Slurm itself fails a requeued task that it starts on a node that has just come back: in the same second
    /// that node was told to end what it had of the task, and it refuses the new start, too.
    fn has_refused_a_start(&self) -> bool {
        let log = self.controller_log();
        let mut lines = log.lines();
        lines.any(|l| l.contains("Killing non-startable") && l.ends_with("credential revoked"))
    }

    fn root(&self, root: &mut Root) {
        root.env.push(("SLURM_CONF", self.conf().into()));
    }

    fn wait_until(&self, root: &Root, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_so() {
            if Instant::now() > end {
                let queue = describe(&self.asked(&["squeue", "--array", "--states=all"]));
                let status = root.harness(&["status"]);
                let status = describe(&status);
                panic!(
                    "waited in vain until {what}\n{queue}\n{status}\n{}\n{}",
                    logs(root),
                    self.controller_log()
                );
            }
            pause();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.does(&["stop"]);
    }
}

/// So many free ports after each other, outside of those that connections take by chance.
fn ports(count: u16) -> u16 {
    // A cluster that begins does not listen yet.
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 500) as u16;
    let next = std::iter::repeat_with(|| TAKEN.fetch_add(1, Ordering::SeqCst));
    let mut bases = next.map(|n| 20_000 + (own + n) % 500 * 16);
    let is_free = |base: &u16| {
        let all = (*base..base + count).map(|port| TcpListener::bind(("127.0.0.1", port)));
        all.collect::<Result<Vec<_>, _>>().is_ok()
    };
    bases.find(is_free).unwrap()
}

/// What the runs said.
fn logs(root: &Root) -> String {
    let files = std::fs::read_dir(root.at("state/jobs"))
        .into_iter()
        .flatten()
        .flatten();
    let logs = files
        .map(|f| f.path())
        .filter(|p| p.extension().is_some_and(|e| e == "log"));
    let text = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        format!("{}\n{text}", path.display())
    };
    logs.map(text).collect::<Vec<_>>().join("\n")
}

fn submit(root: &Root, nodes: &str) -> String {
    submit_with(root, &["--nodes", nodes])
}

fn submit_with(root: &Root, options: &[&str]) -> String {
    let told = root.ok(&[&["submit", "--workers", "2", "--json"], options].concat());
    let told: Value = serde_json::from_str(&told).unwrap();
    told["id"].as_str().unwrap().to_owned()
}

fn count(root: &Root, place: &str) -> usize {
    let files = std::fs::read_dir(root.at("queue").join(place))
        .unwrap()
        .flatten();
    let names = files.map(|f| f.file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).count()
}

/// The items at work on a node, as `status` tells it.
fn at_work(root: &Root, node: &str) -> Vec<String> {
    let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
    let of = |list: &str| status[list].as_array().unwrap().clone();
    let here = of("harnesses").into_iter().filter(|h| h["host"] == node);
    let pids: Vec<Value> = here.map(|h| h["pid"].clone()).collect();
    let slots = of("agents")
        .into_iter()
        .filter(|a| pids.contains(&a["harness_pid"]));
    let working = slots.filter(|a| a["state"] == "working");
    working
        .filter_map(|a| Some(a["item"].as_str()?.to_owned()))
        .collect()
}

/// The folders of a node's slots.
fn slots_of(root: &Root, node: &str) -> Vec<PathBuf> {
    let slots = std::fs::read_dir(root.at("state/agents"))
        .unwrap()
        .flatten();
    let is_its = |slot: &PathBuf| {
        let marker = std::fs::read_to_string(slot.join("marker")).unwrap_or_default();
        serde_json::from_str::<Value>(&marker).is_ok_and(|marker| marker["host"] == node)
    };
    slots.map(|slot| slot.path()).filter(is_its).collect()
}

/// What slots of a node have claimed.
fn claimed_by(root: &Root, node: &str) -> Vec<String> {
    let of = |slot: PathBuf| {
        let claimed = root.at("queue/claimed").join(slot.file_name().unwrap());
        let files = std::fs::read_dir(claimed).into_iter().flatten().flatten();
        files.map(|f| f.file_name().into_string().unwrap())
    };
    let names = slots_of(root, node).into_iter().flat_map(of);
    names
        .filter(|name| !name.starts_with('.') && !name.ends_with('~'))
        .collect()
}

/// How each attempt of an item ended, on record.
fn ends(root: &Root, name: &str) -> Vec<Value> {
    let record = root.at(format!("state/items/{name}.jsonl"));
    let record = std::fs::read_to_string(record).unwrap_or_default();
    let lines = record.lines().map(serde_json::from_str::<Value>);
    let events = lines.map(Result::unwrap);
    events.filter(|e| e["event"] == "finished").collect()
}

/// Each item is in `done/` once, by one attempt, whose branch alone is in the user's repository.
fn assert_each_done_once(root: &Root, names: &[String]) {
    let repo = root.repo();
    let branches = git(
        &repo,
        &[
            "for-each-ref",
            "--format=%(refname:lstrip=2)",
            "refs/heads/harness",
        ],
    );
    let branches: Vec<&str> = branches.lines().collect();
    assert_eq!(
        (count(root, "done"), count(root, "parked")),
        (names.len(), 0),
        "{}",
        logs(root)
    );
    for name in names {
        assert!(root.is_done(name), "{name}");
        let ends = ends(root, name);
        let done: Vec<&Value> = ends.iter().filter(|e| e["next"] == "done").collect();
        assert_eq!(done.len(), 1, "{name}: {ends:#?}");
        let of_it = branches
            .iter()
            .filter(|b| b.starts_with(&format!("harness/{name}/")));
        assert_eq!(of_it.count(), 1, "{name}: {branches:?}");
        // No stop, loss or requeue is taken for a failure.
        for end in ends {
            // A process that comes late finds its item taken away, and decides nothing.
            let is_late = end["outcome"] == "canceled" && end["next"] == "left";
            // A node that was cut off begins again with the same kernel here, and may find what it had itself.
            let reason = end["reason"].as_str().unwrap();
            let is_own = reason.starts_with("its keeper died");
            if end["lost"] == true || is_late || is_own {
                continue;
            }
            let outcome = end["outcome"].as_str().unwrap();
            assert!(
                ["succeeded", "interrupted"].contains(&outcome),
                "{name}: {end:#}\n{}",
                logs(root)
            );
        }
    }
    assert_eq!(branches.len(), names.len());
}

fn add(root: &Root, count: usize, body: &str) -> Vec<String> {
    add_some(root, 1..=count, body)
}

fn add_some(root: &Root, numbers: RangeInclusive<usize>, body: &str) -> Vec<String> {
    let names: Vec<String> = numbers.map(|n| format!("i{n}")).collect();
    for name in &names {
        root.script(
            name,
            &format!("echo $HARNESS_SESSION > made; git add made; git commit -qm made; {body}"),
        );
    }
    names
}

#[test]
fn items_are_each_done_once_though_nodes_die_stand_still_and_jobs_are_requeued() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let mut root = Root::with_repo();
    cluster.root(&mut root);
    let all = std::env::var("HARNESS_SLURM_ITEMS").map_or(300, |n| n.parse().unwrap());
    // Items on the third node wait where they are told to, so that it is frozen in the middle of them. The
    // first ones are slow: what is done to nodes may take long here, and is to be done before all items are.
    let (early, hold, held) = (root.at("early"), root.at("hold"), root.at("held"));
    std::fs::write(&early, "").unwrap();
    std::fs::create_dir(&held).unwrap();
    let wait = format!(
        "[ ! -e '{}' ] || sleep 2\n\
         while [ -e '{}' ] && [ \"$SLURMD_NODENAME\" = n3 ]; do touch '{}'/$HARNESS_ITEM; sleep 0.05; done; sleep 0.4",
        early.display(),
        hold.display(),
        held.display()
    );
    let names = add(&root, all, &wait);
    let job = submit(&root, "3");
    let task_on = |node: &str| {
        let tasks = cluster.tasks(&job).into_iter();
        let mut on = tasks.filter(|(_, (state, on))| state == "RUNNING" && on == node);
        on.next().map(|(task, _)| format!("{job}_{task}"))
    };
    let some_done = |part: usize| {
        cluster.wait_until(&root, "more are done", || {
            count(&root, "done") >= all * part / 100
        });
    };

    some_done(5);
    cluster.does(&["kill", "n2"]);
    let down = "scontrol update NodeName=n2 State=DOWN Reason=power";
    cluster.ask(&down.split(' ').collect::<Vec<_>>());
    cluster.does(&["boot", "n2"]);

    some_done(15);
    let task = task_on("n1").unwrap();
    cluster.ask(&["scontrol", "requeue", &task]);

    some_done(25);
    std::fs::write(&hold, "").unwrap();
    std::fs::remove_file(&early).unwrap();
    cluster.wait_until(&root, "the third node is amid two items", || {
        std::fs::read_dir(&held).unwrap().count() == 2
    });
    cluster.does(&["freeze", "n3"]);
    let taken = claimed_by(&root, "n3");
    assert_eq!(taken.len(), 2, "{taken:?}");
    // Until Slurm says that the job is over, nobody takes what the silent node has.
    cluster.wait_until(&root, "Slurm misses the third node", || {
        task_on("n3").is_none()
    });
    cluster.wait_until(&root, "others have done what it had", || {
        taken.iter().all(|name| root.is_done(name))
    });

    std::fs::remove_file(&hold).unwrap();
    cluster.does(&["thaw", "n3"]);
    cluster.wait_until(&root, "all is done, and no run is left", || {
        let tasks = cluster.tasks(&job);
        let ended = |state: &str| {
            state == "COMPLETED" || state == "FAILED" && cluster.has_refused_a_start()
        };
        let is_over = tasks.values().all(|(state, _)| ended(state));
        count(&root, "done") == all && is_over
    });
    cluster.wait_until(&root, "the zombie has ended", || {
        root.processes().is_empty()
    });
    assert_each_done_once(&root, &names);
    let was_lost = |name: &String| ends(&root, name).iter().any(|end| end["lost"] == true);
    assert!(taken.iter().any(was_lost), "{taken:?}");
    root.assert_nothing_left();
}

#[test]
fn preemption_requeue_scancel_and_the_time_limits_signal_are_a_stop_that_keeps_work_and_counts_no_attempt()
 {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let mut root = Root::with_repo();
    cluster.root(&mut root);
    let began = |item: &str| root.at(format!("began-{item}"));
    let body = format!(
        "echo half > half; echo >> '{}'; exec tail -f /dev/null",
        began("$HARNESS_ITEM").display()
    );
    let names = add(&root, 2, &body.replace("$HARNESS_ITEM'", "'$HARNESS_ITEM"));
    let mut stops = 0;
    let stopped = |stops: usize| {
        cluster.wait_until(&root, "the items are back in the queue", || {
            count(&root, "pending") == 2
                && count(&root, "claimed/agent-1") + count(&root, "claimed/agent-2") == 0
        });
        for name in &names {
            let show = root.show(name);
            let attempts = show["attempts"].as_array().unwrap();
            assert_eq!(attempts.len(), stops, "{show:#}");
            assert_eq!(attempts[stops - 1]["outcome"], "interrupted", "{show:#}");
            // What was not committed is kept, too.
            let kept = root.at("state/repos/default.git");
            let branch = format!("harness/{name}/{stops}:half");
            assert_eq!(git(&kept, &["show", &branch]), "half\n");
        }
    };
    let at_work = |stops: u64| {
        let times = |name: &String| began(name).metadata().map_or(0, |m| m.len());
        cluster.wait_until(&root, "both are half done", || {
            names.iter().all(|name| times(name) == stops + 1)
        });
    };
    let mut job = submit(&root, "1");
    for how in [
        &["preempt"][..],
        &["scontrol", "requeue"],
        &["scancel"],
        &["scancel", "--signal=TERM", "--batch"],
        &["scancel", "--signal=TERM", "--full"],
    ] {
        at_work(stops as u64);
        let task = format!("{job}_1");
        if how[0] == "preempt" {
            let all = [
                "--partition=urgent",
                "--nodes=3",
                "--exclusive",
                "--output=/dev/null",
            ];
            cluster.ask(&[&["sbatch", "--wrap=true"], &all[..]].concat());
        } else {
            // Whoever ends all processes of a job may reach the agents first.
            let agents = root.processes().into_iter();
            let agents = agents.filter(|(_, command)| command.starts_with("tail "));
            agents.for_each(|(pid, _)| kill(pid, "TERM"));
            cluster.ask(&[how, &[&task]].concat());
        }
        stops += 1;
        stopped(stops);
        if how[0] == "scancel" {
            cluster.wait_until(&root, "the job is over", || {
                cluster
                    .tasks(&job)
                    .values()
                    .all(|(state, _)| ["COMPLETED", "CANCELLED"].contains(&&**state))
            });
            job = submit(&root, "1");
        }
    }
    // `harness cancel` from a host that runs nothing.
    at_work(stops as u64);
    root.ok(&["cancel", &names[0]]);
    cluster.wait_until(&root, "its agent is stopped", || {
        let show = root.show(&names[0]);
        show["attempts"][stops]["outcome"] == "canceled"
    });
    assert!(root.is_parked(&names[0]) && !root.is_parked(&names[1]));
    cluster.ask(&["scancel", &job]);
    cluster.wait_until(&root, "the other is back", || count(&root, "pending") == 1);
    cluster.wait_until(&root, "nothing runs", || root.processes().is_empty());
}

fn at_work_on(root: &Root, items: usize) -> bool {
    let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
    status["metrics"]["agents_working"] == items
}

#[test]
fn slurms_own_double_starts_harm_nothing() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let mut root = Root::with_repo();
    cluster.root(&mut root);
    let go = root.at("go");
    let waits = format!("until [ -e '{}' ]; do sleep 0.1; done", go.display());
    // So few that the second start has an idle worker, which would move back what counts as lost.
    let mut names = add(&root, 5, &waits);
    let job = submit(&root, "2");
    cluster.wait_until(&root, "both work", || at_work_on(&root, 4));
    // Its state is not on disk yet, or just so.
    cluster.does(&["kill-controller"]);
    cluster.does(&["boot", "controller"]);
    let node = |task: &str| cluster.tasks(&job).get(task).cloned().unwrap_or_default();
    cluster.wait_until(&root, "the controller knows its jobs", || {
        node("1").0 == "RUNNING"
    });
    let first = node("1").1;
    cluster.does(&["kill-daemon", &first]);
    cluster.wait_until(&root, "the same task works on two nodes", || {
        let (state, on) = node("1");
        let run = |host: &str| !at_work(&root, host).is_empty();
        state == "RUNNING" && on != first && run(&on) && run(&first)
    });
    // Slurm says that the first start is over. The second asks only about who is silent.
    let mut beats = BTreeSet::new();
    cluster.wait_until(&root, "the first start has worked on for 20 s", || {
        let slots = slots_of(&root, &first).into_iter();
        let beat = |slot: PathBuf| std::fs::read_to_string(slot.join("heartbeat")).ok();
        beats.extend(slots.filter_map(beat));
        for name in &names {
            assert!(ends(&root, name).is_empty(), "{name}: {}", logs(&root));
        }
        beats.len() >= 2 * 4
    });
    names.extend(add_some(&root, 6..=40, &waits));
    std::fs::write(&go, "").unwrap();
    cluster.does(&["boot", &first]);
    cluster.wait_until(&root, "all is done, and no run is left", || {
        count(&root, "done") == names.len() && root.processes().is_empty()
    });
    assert_each_done_once(&root, &names);
    // Slurm may have killed the first start while it wrote a file: whoever comes next clears that.
    root.drain();
    root.assert_nothing_left();
}

#[test]
fn status_says_what_became_of_tasks_and_no_parked_item_is_their_failure() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let mut root = Root::plain();
    cluster.root(&mut root);
    let ends_as = |job: &str, state: &str| {
        cluster.wait_until(&root, "Slurm says how it ended", || {
            let tasks = cluster.tasks(job);
            tasks.values().map(|(state, _)| state).eq([state])
        });
    };
    let told = |job: &str| {
        let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
        let all = status["submissions"].as_array().unwrap();
        let of = all.iter().find(|one| one["id"] == job);
        of.map(|one| {
            let reason = one["reason"].as_str().unwrap().to_owned();
            let count = |name: &str| one[name].as_u64().unwrap();
            (count("waiting"), count("failed"), reason)
        })
    };
    root.script("x", "exit 1");
    let parks = submit(&root, "1");
    ends_as(&parks, "FAILED");
    assert!(root.is_parked("x"), "{}", logs(&root));
    assert_eq!(told(&parks), None);
    let waits = submit_with(&root, &["--", "--hold"]);
    assert_eq!(told(&waits), Some((1, 0, "JobHeldUser".into())));
    cluster.ask(&["scancel", &waits]);
    let fails = submit_with(&root, &["--local", "$NOWHERE/x"]);
    ends_as(&fails, "FAILED");
    assert_eq!(told(&fails), Some((0, 1, "exit code 2".into())));
    root.script("long", "exec tail -f /dev/null");
    let lost = submit_with(&root, &["--", "--no-requeue"]);
    let node = || cluster.tasks(&lost)["1"].1.clone();
    cluster.wait_until(&root, "it works", || at_work_on(&root, 1));
    cluster.does(&["kill", &node()]);
    let node = format!("NodeName={}", node());
    cluster.ask(&["scontrol", "update", &node, "State=DOWN", "Reason=power"]);
    ends_as(&lost, "NODE_FAIL");
    let (waiting, failed, why) = told(&lost).unwrap();
    assert_eq!((waiting, failed), (0, 1));
    assert!(why.starts_with("its node was lost; submit again"), "{why}");
}

#[test]
fn a_root_of_any_name_works() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let mut outer = Root::plain();
    cluster.root(&mut outer);
    let disk = outer.at("disk");
    outer.env.push(("SCRATCH", disk.clone().into()));
    let dir = outer.at("-it's \"$HOME\" %j\n#SBATCH --hold\n");
    std::fs::create_dir(&dir).unwrap();
    let path = dir.to_str().unwrap();
    let there = |args: &[&str]| outer.ok(&[&args[..1], &["--root", path], &args[1..]].concat());
    outer.ok(&["init", path]);
    std::fs::write(dir.join("harness.toml"), "[repo]\npath = \"none\"\n").unwrap();
    there(&["add", "--prompt", "#!/bin/sh\ntrue\n", "--name", "x"]);
    there(&["submit", "--workers", "1", "--local", "$SCRATCH/a b'"]);
    cluster.wait_until(&outer, "it is done", || dir.join("queue/done/x").exists());
    let log = std::fs::read_to_string(dir.join("state/jobs/slurm-1_1.log")).unwrap();
    assert!(log.contains("a b'"), "{log}");
    assert!(disk.join("a b'").exists());
    // What `--dry-run` prints does the same in a shell.
    there(&["add", "--prompt", "#!/bin/sh\ntrue\n", "--name", "y"]);
    let dry = there(&["submit", "--workers", "1", "--dry-run"]);
    assert_eq!(cluster.ask(&["bash", "-c", &dry]), "2\n");
    cluster.wait_until(&outer, "that is done", || dir.join("queue/done/y").exists());
}
