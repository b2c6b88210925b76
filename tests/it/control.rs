//! Standing orders in `state/control/` and `state/interrupts/`: given by a file or a command, seen
//! by every process at once, and held until they are taken back.

use std::fs;
use std::time::{Duration, Instant};

use crate::journal::Journal;
use crate::support::{Root, Running, kill};

/// The contract says 200 ms; on a loaded machine a test allows ten times that.
const SOON: Duration = Duration::from_secs(2);

fn two(root: &Root) -> [Running; 2] {
    let both = [(); 2].map(|()| root.start(&["--workers", "1"]));
    root.wait_until("both have a slot", || held(root).len() == 2);
    both
}

/// Slots whose lease is held.
fn held(root: &Root) -> Vec<u32> {
    let lock = |n: &u32| {
        let lease = root.at(format!("state/agents/agent-{n}/lease"));
        fs::File::open(lease).is_ok_and(|f| f.try_lock_shared().is_err())
    };
    (1..=12).filter(lock).collect()
}

fn pending(root: &Root) -> usize {
    fs::read_dir(root.at("queue/pending"))
        .unwrap()
        .flatten()
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .count()
}

fn order(root: &Root, name: &str) -> std::path::PathBuf {
    root.at("state/control").join(name)
}

#[test]
fn pause_and_resume_are_seen_by_every_process_at_once() {
    let root = Root::plain();
    let both = two(&root);
    for by_file in [true, false] {
        let given = Instant::now();
        if by_file {
            fs::write(order(&root, "pause"), "").unwrap();
        } else {
            root.ok(&["pause"]);
        }
        let said = |what: &str, n: usize| both.iter().all(|r| r.said().matches(what).count() >= n);
        let times = if by_file { 1 } else { 2 };
        root.wait_until("both are paused", || said("paused:", times));
        assert!(given.elapsed() < SOON, "{:?}", given.elapsed());
        eprintln!("pause seen by two processes within {:?}", given.elapsed());
        for i in 0..4 {
            root.script(format!("x{times}-{i}"), "exit 0");
        }
        root.wait_until("slots show it", || {
            let status = root.ok(&["status", "--json"]);
            status.matches("\"paused\"").count() >= 2
        });
        assert_eq!(pending(&root), 4, "nothing is claimed while paused");
        let given = Instant::now();
        if by_file {
            fs::remove_file(order(&root, "pause")).unwrap();
        } else {
            root.ok(&["resume"]);
        }
        root.wait_until("both go on", || said("resumed", times));
        assert!(given.elapsed() < SOON, "{:?}", given.elapsed());
        root.wait_until("all is done", || pending(&root) == 0);
    }
    for mut run in both {
        run.signal("INT");
        assert_eq!(run.wait(), Some(0));
    }
    root.assert_nothing_left();
}

#[test]
fn a_pause_lets_what_runs_go_on() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let mut run = root.start(&["--workers", "2"]);
    journal.wait_for_start(&root, "x", 1);
    root.ok(&["pause"]);
    root.wait_until("it is paused", || run.said().contains("paused:"));
    journal.drop_script(&root, "y", "", ":");
    journal.open("go");
    root.wait_until("x is done", || root.is_done("x"));
    root.wait_until("both slots are paused", || {
        root.ok(&["status", "--json"]).matches("\"paused\"").count() >= 2
    });
    assert!(journal.of("y").is_empty());
    // A pause outlives the process that saw it.
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0));
    let mut next = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("the next one is paused too", || {
        next.said().contains("paused:")
    });
    root.ok(&["resume"]);
    assert_eq!(next.wait(), Some(0), "{}", next.said());
    assert!(root.is_done("y"));
    root.assert_nothing_left();
}

#[test]
fn drain_ends_every_process_when_nothing_is_left_and_stop_ends_them_before() {
    let (root, journal) = (Root::plain(), Journal::new());
    for (word, all_done) in [("drain", true), ("stop", false)] {
        let mut both = two(&root);
        for i in 0..2 {
            journal.drop_script(&root, &format!("{word}{i}"), "", &journal.wait_for(word));
        }
        for i in 0..2 {
            journal.wait_for_start(&root, &format!("{word}{i}"), 1);
        }
        journal.drop_script(&root, &format!("{word}-later"), "", ":");
        fs::write(order(&root, word), "").unwrap();
        let heard = format!("state/control/{word}");
        root.wait_until("both heard", || {
            both.iter().all(|r| r.said().contains(&heard))
        });
        journal.open(word);
        for run in &mut both {
            assert_eq!(run.wait(), Some(0), "{}", run.said());
        }
        assert!(root.is_done(&format!("{word}0")) && root.is_done(&format!("{word}1")));
        assert_eq!(root.is_done(&format!("{word}-later")), all_done);
        root.assert_nothing_left();
        if word == "stop" {
            // The file still stands: nothing is done until it is removed.
            let out = root.exits(0, &["run", "--drain"]);
            assert!(String::from_utf8_lossy(&out.stderr).contains("state/control/stop exists"));
            assert_eq!(pending(&root), 1);
        }
        root.ok(&["resume"]);
    }
    root.drain();
    assert!(root.is_done("stop-later"));
}

#[test]
fn the_workers_file_counts_slots_of_the_whole_root_up_and_down() {
    let root = Root::plain();
    let mut both = two(&root);
    assert_eq!(held(&root), [1, 2]);
    let workers = |n: &str| fs::write(order(&root, "workers"), n).unwrap();
    let reach = |want: &[u32]| {
        let given = Instant::now();
        root.wait_until(&format!("slots {want:?} are held"), || held(&root) == want);
        // A process that has the right slots already may not have heard of it yet.
        let heard = format!("workers: {} slots", want.len());
        let heard = |r: &Running| r.said().contains(&heard);
        root.wait_until("both have heard it", || both.iter().all(heard));
        eprintln!("workers: {} slots after {:?}", want.len(), given.elapsed());
    };
    workers("5\n");
    reach(&[1, 2, 3, 4, 5]);
    workers("1\n");
    reach(&[1]);
    for garbage in ["", "many", "-3", "99999999999999999999", "1e3", "3 4"] {
        workers(garbage);
        let wrong = format!("{garbage:?}, not a number");
        let says = |r: &Running| garbage.is_empty() || r.said().contains(&wrong);
        root.wait_until("both say what is wrong", || both.iter().all(says));
        root.script("x", "exit 0");
        root.wait_until("x is done", || root.is_done("x") && pending(&root) == 0);
        fs::remove_file(root.at("queue/done/x")).unwrap();
        let said = || both.each_ref().map(Running::said).join("\n");
        assert_eq!(held(&root), [1], "{garbage:?} changed it\n{}", said());
    }
    workers("0");
    reach(&[]);
    root.script("waits", "exit 0");
    workers("3");
    reach(&[1, 2, 3]);
    root.wait_until("it is done", || root.is_done("waits"));
    fs::remove_file(order(&root, "workers")).unwrap();
    root.wait_until("each has one again", || held(&root).len() == 2);
    for run in &mut both {
        run.signal("TERM");
        assert_eq!(run.wait(), Some(0));
    }
    root.assert_nothing_left();
}

#[test]
fn fewer_workers_let_the_agents_of_the_others_finish() {
    let (root, journal) = (Root::plain(), Journal::new());
    let names = ["a", "b", "c"];
    for name in names {
        journal.drop_script(&root, name, "", &journal.wait_for("go"));
    }
    let mut run = root.start(&["--workers", "3"]);
    for name in names {
        journal.wait_for_start(&root, name, 1);
    }
    fs::write(order(&root, "workers"), "1").unwrap();
    root.wait_until("it heard", || run.said().contains("workers: 1 slots"));
    assert_eq!(
        held(&root),
        [1, 2, 3],
        "a slot with an agent is not given up"
    );
    journal.open("go");
    root.wait_until("one slot is left", || held(&root) == [1]);
    // That one's item may be the last.
    root.wait_until("all are done", || names.iter().all(|n| root.is_done(n)));
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0));
    journal.assert_books(&root, &names.map(str::to_owned));
    root.assert_nothing_left();
}

#[test]
fn processes_share_slots_and_freed_ones_are_taken_again() {
    let root = Root::plain();
    let mut runs: Vec<Running> = (0..4).map(|_| root.start(&["--workers", "2"])).collect();
    let all: Vec<u32> = (1..=8).collect();
    root.wait_until("eight slots are held, each once", || held(&root) == all);
    // The lowest that is free is taken again.
    runs.remove(1).kill9();
    root.wait_until("two are free", || held(&root).len() == 6);
    runs.push(root.start(&["--workers", "2"]));
    root.wait_until("they are held again", || held(&root) == all);
    for run in &mut runs {
        run.signal("INT");
    }
    for run in &mut runs {
        assert_eq!(run.wait(), Some(0), "{}", run.said());
    }
    root.assert_nothing_left();
}

#[test]
fn five_failures_in_a_row_interrupt_the_slot_until_a_person_looked() {
    let root = Root::plain();
    for i in 1..=5 {
        root.script(format!("bad{i}"), "#harness retries: 0\nexit 1");
    }
    let mut run = root.start(&["--workers", "1"]);
    let raised = root.at("state/interrupts/agent-1.interrupt");
    root.wait_until("the interrupt is raised", || raised.exists());
    assert!(
        fs::read_to_string(&raised)
            .unwrap()
            .contains("5 attempts in a row")
    );
    root.script("good", "exit 0");
    root.wait_until("the slot shows it", || {
        root.ok(&["status", "--json"]).contains("\"interrupted\"")
    });
    assert!(!root.is_done("good"));
    // It outlives the process, and another process obeys it.
    run.signal("TERM");
    assert_eq!(run.wait(), Some(1), "five are parked");
    let mut next = root.start(&["--workers", "1"]);
    root.wait_until("the next one shows it", || {
        let status = root.ok(&["status", "--json"]);
        status.contains("\"interrupted\"") && status.contains(&format!("\"pid\": {}", next.pid()))
    });
    assert_eq!(pending(&root), 1);
    root.ok(&["resume", "agent-1"]);
    root.wait_until("it goes on", || root.is_done("good"));
    next.signal("TERM");
    assert_eq!(next.wait(), Some(0));
    root.assert_nothing_left();
}

#[test]
fn an_interrupt_of_one_slot_holds_back_that_one_and_of_all_everybody() {
    let (root, journal) = (Root::plain(), Journal::new());
    let interrupts = root.at("state/interrupts");
    fs::write(interrupts.join("agent-1.interrupt"), "look here\n").unwrap();
    let mut run = root.start(&["--workers", "2"]);
    for i in 0..4 {
        journal.drop_script(&root, &format!("x{i}"), "", ":");
    }
    root.wait_until("the other slot does it all", || pending(&root) == 0);
    root.wait_until("all are done", || {
        (0..4).all(|i| root.is_done(&format!("x{i}")))
    });
    for i in 0..4 {
        let show = root.show(&format!("x{i}"));
        assert_eq!(show["attempts"][0]["slot"], "agent-2", "{show:#}");
    }
    fs::write(interrupts.join("all.interrupt"), "all of you\n").unwrap();
    root.wait_until("both show it", || {
        root.ok(&["status", "--json"])
            .matches("\"interrupted\"")
            .count()
            == 2
    });
    journal.drop_script(&root, "y", "", ":");
    root.ok(&["resume"]);
    root.wait_until("y is done", || root.is_done("y"));
    assert_eq!(
        fs::read_dir(&interrupts)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name() != ".gitignore")
            .count(),
        0
    );
    kill(run.pid(), "TERM");
    assert_eq!(run.wait(), Some(0));
    root.assert_nothing_left();
}

#[test]
fn a_run_of_so_many_items_ends_though_one_of_its_slots_is_interrupted() {
    let root = Root::plain();
    root.ok(&["interrupt", "agent-1", "look", "here"]);
    root.script("x", "true");
    root.script("y", "true");
    let mut run = root.start(&["--workers", "2", "--max-items", "1"]);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(pending(&root), 1);
    root.assert_nothing_left();
}

#[test]
fn with_too_little_free_disk_nothing_is_claimed_and_it_says_so() {
    let root = Root::plain();
    root.config("[repo]\npath = \"none\"\n[limits]\ndisk_free_min = \"900TB\"\n");
    root.script("x", "exit 0");
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it says so", || {
        run.said().contains("free on the disk of") && run.said().contains("nothing new is claimed")
    });
    root.wait_until("the slot shows it", || {
        root.ok(&["status", "--json"]).contains("\"paused\"")
    });
    assert_eq!(pending(&root), 1);
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0));
    root.config("[repo]\npath = \"none\"\n");
    assert_eq!(root.drain().status.code(), Some(0));
    assert!(root.is_done("x"));
    root.assert_nothing_left();
}
