//! A running gate is watched: an interrupt freezes it, too much output ends it, and slots that want the
//! same verdict wait for one run of it.

use std::fs;
use std::time::{Duration, Instant};

use crate::gates::{
    ended_well, notes, root_with, run, said, script, times, verdicts, waits_for, works,
};
use crate::support::{Root, git, is_stopped};

fn shows(root: &Root, words: &str) -> bool {
    root.ok(&["status"]).contains(words)
}

#[test]
fn an_interrupt_freezes_a_gate_and_its_time_whoever_watches_it() {
    for (moment, dies) in [("after", false), ("after", true), ("merge", false)] {
        let text = format!(
            "{}; echo $$ >\"$HARNESS_ROOT/pid\"; {}",
            notes("gate"),
            waits_for("go")
        );
        // More than a look takes, and less than it is frozen for.
        let table = format!("{}\nwhen = [\"{moment}\"]\ntimeout = 3", script(&text));
        let root = root_with(&[("g", &format!("{table}\n[integrate]\nmode = \"merge\""))]);
        works(&root, "x");
        let mut first = run(&root);
        let pid = || fs::read_to_string(root.at("pid")).unwrap_or_default();
        root.wait_until("the gate runs", || pid().ends_with('\n'));
        root.ok(&["interrupt", "agent-1", "let me look at this"]);
        root.wait_until("it is frozen", || is_stopped(&pid()));
        root.wait_until("that is shown", || shows(&root, "let me look at this"));
        let since = Instant::now();
        if dies {
            first.kill9();
            first = run(&root);
        }
        root.wait_until("its time would be over", || {
            since.elapsed() > Duration::from_secs(4)
        });
        assert!(is_stopped(&pid()), "{moment}\n{}", root.picture());
        assert!(first.said().contains("let me look at this") || dies);
        root.ok(&["resume", "agent-1"]);
        root.wait_until("it goes on", || !is_stopped(&pid()));
        fs::write(root.at("go"), "").unwrap();
        ended_well(&root, first);
        assert_eq!(times(&root, "gate"), 1, "{moment}, {dies}");
        assert!(root.is_done("x"));
        root.assert_nothing_left();
    }
}

#[test]
fn an_interrupt_that_ended_while_no_harness_lived_leaves_no_gate_frozen() {
    let text = format!("echo $$ >\"$HARNESS_ROOT/pid\"; {}", waits_for("go"));
    let root = root_with(&[("g", &script(&text))]);
    works(&root, "x");
    let first = run(&root);
    let pid = || fs::read_to_string(root.at("pid")).unwrap_or_default();
    root.wait_until("the gate runs", || pid().ends_with('\n'));
    root.ok(&["interrupt", "agent-1", "wait"]);
    let pid = pid();
    root.wait_until("it is frozen", || is_stopped(&pid));
    first.kill9();
    fs::remove_file(root.at("state/interrupts/agent-1.interrupt")).unwrap();
    fs::write(root.at("go"), "").unwrap();
    ended_well(&root, run(&root));
    assert_eq!(verdicts(&root, "x"), ["g green"]);
    root.assert_nothing_left();
}

#[test]
fn a_gate_that_prints_without_end_is_ended_and_says_nothing_of_the_work() {
    // A hole, so that the test fills no disk.
    let text = format!(
        "{}; truncate -s 300M /proc/self/fd/1; sleep 600",
        notes("gate")
    );
    let root = root_with(&[("g", &format!("{}\ntimeout = 20", script(&text)))]);
    works(&root, "x");
    let out = root.exits(1, &["run", "--drain", "--workers", "1"]);
    assert!(root.is_parked("x"), "{out:?}");
    assert_eq!(verdicts(&root, "x"), ["g unevaluated"]);
    let (_, _, reason) = said(&root, "x").remove(0);
    assert!(reason.contains("printed more than 256 MiB"), "{reason}");
    assert_eq!(times(&root, "gate"), 1);
    root.assert_nothing_left();
}

#[test]
fn of_slots_that_begin_on_a_new_base_at_once_one_runs_its_gate() {
    let text = format!("{}; {}", notes("gate"), waits_for("go"));
    let table = format!("{}\nwhen = [\"before\"]", script(&text));
    let root = root_with(&[("g", &table)]);
    for name in ["a", "b", "c", "d"] {
        works(&root, name);
    }
    let all = root.start(&["--drain", "--workers", "4"]);
    let waiting = || {
        let status = root.ok(&["status"]);
        status.matches("waits for gate g").count()
    };
    root.wait_until("three wait for the fourth", || {
        waiting() == 3 && times(&root, "gate") > 0
    });
    assert_eq!(times(&root, "gate"), 1);
    fs::write(root.at("go"), "").unwrap();
    ended_well(&root, all);
    assert_eq!((times(&root, "gate"), times(&root, "agent")), (1, 4));
    root.assert_nothing_left();
}

#[test]
fn whoever_waits_for_a_gate_on_the_base_runs_it_where_nobody_does_any_more() {
    let text = format!(
        "{}; [ \"$(wc -l <\"$HARNESS_ROOT/ran-gate\")\" -ge 2 ] || {}",
        notes("gate"),
        waits_for("never")
    );
    let table = format!("{}\nwhen = [\"before\"]", script(&text));
    let root = root_with(&[("g", &table)]);
    works(&root, "a");
    let first = root.start(&["--workers", "1"]);
    root.wait_until("the gate runs", || times(&root, "gate") == 1);
    works(&root, "b");
    let second = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("the other one waits", || shows(&root, "waits for gate g"));
    first.kill9();
    ended_well(&root, second);
    assert!(root.is_done("a") && root.is_done("b"));
    assert_eq!((times(&root, "gate"), times(&root, "agent")), (2, 2));
    let folder = root.at("state/gates/default");
    let base = git(&root.repo(), &["rev-parse", "main"]);
    let left: Vec<_> = fs::read_dir(folder.join(base.trim()))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    root.assert_nothing_left();
}
