//! An upgrade with agents at work, as a package manager and a service manager do it: the program's file is
//! replaced while harness runs, harness is told to let go (or dies), and the new one goes on with what it
//! finds. Nothing is lost, and each attempt is started once.
//!
//! `HARNESS_TEST_OLD=PATH`: the program that is replaced; else a copy of the one under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::journal::Journal;
use crate::support::{Root, Running, git, is_alive};

fn old() -> PathBuf {
    let new = PathBuf::from(env!("CARGO_BIN_EXE_harness"));
    std::env::var_os("HARNESS_TEST_OLD").map_or(new, PathBuf::from)
}

/// As dpkg does: written beside, then renamed over.
fn install(program: &Path, from: &Path) {
    let beside = program.with_extension("dpkg-new");
    fs::copy(from, &beside).unwrap();
    fs::rename(beside, program).unwrap();
}

fn start(root: &Root, program: &Path, log: &str, args: &[&str]) -> Running {
    let log = root.at(log);
    let file = fs::File::create(&log).unwrap();
    let child = Command::new(program)
        .arg("--root")
        .arg(root.path())
        .arg("run")
        .args(args)
        .env_remove("HARNESS_ROOT")
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .spawn()
        .unwrap();
    Running { child, log }
}

/// What a process runs, as the kernel has it.
fn runs(pid: u32) -> String {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    exe.map_or_else(|e| e.to_string(), |p| p.display().to_string())
}

/// Items that leave half of their work before the upgrade, and the other half after it.
fn drop_work(root: &Root, journal: &Journal, name: &str, gate: &str) {
    let body = format!(
        "echo half >{name}\n{}\necho whole >>{name}",
        journal.wait_for(gate)
    );
    journal.drop_script(root, name, "#harness retries: 0", &body);
}

/// What is done when all of them have ended: each once, with the whole of its work.
fn assert_all_there(root: &Root, journal: &Journal, names: &[&str]) {
    for name in names {
        assert!(root.is_done(name), "{name}\n{}", root.picture());
        let attempts = root.show(name)["attempts"].as_array().unwrap().len();
        assert_eq!(attempts, 1, "{name}");
        let file = format!("harness/{name}/1:{name}");
        assert_eq!(git(&root.repo(), &["show", &file]), "half\nwhole\n");
    }
    let all: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    journal.assert_books(root, &all);
    root.assert_nothing_left();
}

/// HUP: what a unit's restart sends. ABRT: a watchdog. KILL: the kernel, short of memory.
#[test]
fn agents_at_work_outlive_an_upgrade_however_the_old_harness_ends() {
    for signal in ["HUP", "ABRT", "KILL"] {
        let (root, journal) = (Root::with_repo(), Journal::new());
        let program = root.at("harness");
        install(&program, &old());
        let mut names = vec!["a", "b", "late"];
        for name in &names[..2] {
            drop_work(&root, &journal, name, "go");
        }
        let mut before = start(&root, &program, "run-old.log", &["--workers", "3"]);
        let mut pids: Vec<u32> = names[..2]
            .iter()
            .map(|name| journal.wait_for_start(&root, name, 1))
            .collect();

        install(&program, Path::new(env!("CARGO_BIN_EXE_harness")));
        assert!(runs(before.pid()).ends_with("harness (deleted)"));
        // Its file has another program by now: what it starts is its own all the same.
        drop_work(&root, &journal, "late", "go");
        pids.push(journal.wait_for_start(&root, "late", 1));

        before.signal(signal);
        before.wait();
        assert!(pids.iter().all(|pid| is_alive(*pid)), "{signal}");
        let mut after = start(&root, &program, "run-new.log", &["--workers", "3"]);
        for name in &names {
            root.wait_until(&format!("{name} is adopted after {signal}"), || {
                root.events(name).iter().any(|e| e == "adopted")
            });
        }
        for slot in ["agent-1", "agent-2", "agent-3"] {
            assert!(runs(root.keeper(slot)).ends_with("(deleted)"));
        }
        assert!(pids.iter().all(|pid| is_alive(*pid)), "{signal}");
        journal.open("go");
        root.wait_until("the old agents have ended", || {
            names.iter().all(|name| root.is_done(name))
        });
        // In the slots of before.
        drop_work(&root, &journal, "new", "go");
        names.push("new");
        root.wait_until("the new one is done", || root.is_done("new"));
        after.signal("TERM");
        assert_eq!(after.wait(), Some(0), "{}", after.said());
        assert_all_there(&root, &journal, &names);
    }
}

#[test]
fn an_agent_that_ends_while_nobody_runs_is_counted_by_the_new_harness() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let program = root.at("harness");
    install(&program, &old());
    drop_work(&root, &journal, "a", "go");
    let mut before = start(&root, &program, "run-old.log", &["--workers", "1"]);
    let pid = journal.wait_for_start(&root, "a", 1);
    before.signal("HUP");
    assert_eq!(before.wait(), Some(0), "{}", before.said());
    // As `apt remove` does: its keeper has only its memory.
    fs::remove_file(&program).unwrap();
    journal.open("go");
    root.wait_until("it has ended", || !is_alive(pid));
    install(&program, Path::new(env!("CARGO_BIN_EXE_harness")));
    let mut after = start(&root, &program, "run-new.log", &["--drain"]);
    assert_eq!(after.wait(), Some(0), "{}", after.said());
    assert_all_there(&root, &journal, &["a"]);
}

/// Back to the old program: it adopts what the new one has started.
#[test]
fn agents_at_work_outlive_a_way_back() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let program = root.at("harness");
    install(&program, Path::new(env!("CARGO_BIN_EXE_harness")));
    drop_work(&root, &journal, "a", "go");
    let mut new = start(&root, &program, "run-new.log", &["--workers", "1"]);
    let pid = journal.wait_for_start(&root, "a", 1);
    install(&program, &old());
    new.signal("HUP");
    assert_eq!(new.wait(), Some(0), "{}", new.said());
    let mut back = start(&root, &program, "run-old.log", &["--drain"]);
    root.wait_until("it is adopted", || {
        root.events("a").iter().any(|e| e == "adopted")
    });
    assert!(is_alive(pid));
    journal.open("go");
    assert_eq!(back.wait(), Some(0), "{}", back.said());
    assert_all_there(&root, &journal, &["a"]);
}

/// Those that run on count: no more agents work after a restart than `workers` says.
#[test]
fn a_restart_has_as_many_agents_at_work_as_it_may_have() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    for (name, gate) in [("a", "go-a"), ("b", "go-b"), ("c", "go")] {
        drop_work(&root, &journal, name, gate);
    }
    let program = Path::new(env!("CARGO_BIN_EXE_harness"));
    let slots = || {
        let status: serde_json::Value =
            serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
        status["agents"].as_array().unwrap().clone()
    };
    let is_adopted = |name: &str| root.events(name).iter().any(|e| e == "adopted");
    let mut before = start(&root, program, "run-1.log", &["--workers", "2"]);
    journal.wait_for_start(&root, "a", 1);
    journal.wait_for_start(&root, "b", 1);
    before.signal("HUP");
    before.wait();
    let mut after = start(&root, program, "run-2.log", &["--workers", "2"]);
    root.wait_until("both are adopted", || is_adopted("a") && is_adopted("b"));
    assert_eq!(slots().len(), 2, "{:#?}", slots());
    assert_eq!(journal.of("c").len(), 0, "a third agent was started");
    // The next run has one slot: it is the one with the agent, whichever that is.
    journal.open("go-a");
    root.wait_until("a is done", || root.is_done("a"));
    journal.wait_for_start(&root, "c", 1);
    after.signal("KILL");
    after.wait();
    journal.open("go");
    root.wait_until("c has ended", || journal.of("c")[0].ends.len() == 1);
    let mut last = start(&root, program, "run-3.log", &["--drain", "--workers", "1"]);
    journal.open("go-b");
    assert_eq!(last.wait(), Some(0), "{}", last.said());
    assert_all_there(&root, &journal, &["a", "b", "c"]);
}
