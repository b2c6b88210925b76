//! `status.json`: whole at every instant, never old while a harness runs, kept by whichever
//! process lives, and made again from the tree whenever it is gone.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::journal::Journal;
use crate::support::{Over, Root, Running};

fn status(root: &Root) -> Option<Value> {
    let text = fs::read(root.at("state/status.json")).ok()?;
    Some(serde_json::from_slice(&text).expect("status.json is whole"))
}

/// Seconds since the file's own timestamp.
fn age(root: &Root) -> Option<f64> {
    let at = status(root)?["timestamp"]
        .as_str()?
        .parse::<jiff::Timestamp>()
        .ok()?;
    Some(jiff::Timestamp::now().duration_since(at).as_secs_f64())
}

fn pids(root: &Root) -> Vec<u64> {
    let list = status(root)
        .map(|s| s["harnesses"].clone())
        .unwrap_or_default();
    let all = list.as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|h| h["pid"].as_u64()).collect()
}

fn end(runs: Vec<Running>) {
    for mut run in runs {
        run.signal("TERM");
        assert_eq!(run.wait(), Some(0), "{}", run.said());
    }
}

#[test]
fn status_json_is_whole_and_fresh_at_every_instant_of_a_busy_time() {
    let root = Root::plain();
    let done = AtomicBool::new(false);
    let (looks, versions) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut oldest: f64 = 0.0;
            let mut last = Value::Null;
            while !done.load(Ordering::SeqCst) {
                let Some(now) = status(&root) else { continue };
                looks.fetch_add(1, Ordering::SeqCst);
                let q = &now["work_queue"];
                let sum: u64 = ["pending", "scheduled", "blocked", "claimed"]
                    .iter()
                    .map(|k| q[k].as_u64().expect("a count"))
                    .sum();
                assert_eq!(q["total"], sum);
                assert_eq!(now["version"], 2);
                oldest = oldest.max(age(&root).unwrap_or(0.0));
                versions.fetch_add(u64::from(now != last), Ordering::SeqCst);
                last = now;
            }
            oldest
        });
        let _even_after_a_panic = Over(&done);
        let runs: Vec<Running> = (0..2).map(|_| root.start(&["--workers", "2"])).collect();
        root.wait_until("there is a status", || looks.load(Ordering::SeqCst) > 0);
        let mut items = 0;
        // As much work as twenty versions of the file need.
        root.wait_until("there were twenty versions", || {
            items += 1;
            let every_third_fails = format!("#harness retries: 0\nexit $(( {items} % 3 == 0 ))");
            root.script(format!("x{items}"), &every_third_fails);
            versions.load(Ordering::SeqCst) >= 20
        });
        root.wait_until("the status says so", || {
            status(&root).is_some_and(|s| {
                let q = &s["work_queue"];
                q["total"] == 0
                    && q["done"].as_u64().unwrap() + q["parked"].as_u64().unwrap() == items
            })
        });
        done.store(true, Ordering::SeqCst);
        let oldest = reader.join().unwrap();
        eprintln!("{looks:?} looks, {versions:?} versions, oldest {oldest:.2} s, {items} items");
        // The contract's two seconds, and one for a machine that does other things too.
        assert!(oldest < 3.0, "{oldest}");
        for mut run in runs {
            run.signal("TERM");
            assert!(matches!(run.wait(), Some(0 | 1)), "{}", run.said());
        }
    });
    root.assert_nothing_left();
}

#[test]
fn an_idle_harness_keeps_status_json_fresh() {
    let root = Root::plain();
    let run = root.start(&["--workers", "1"]);
    root.wait_until("there is a status", || age(&root).is_some());
    let begun = SystemTime::now();
    let mut oldest: f64 = 0.0;
    root.wait_until("four seconds are over", || {
        oldest = oldest.max(age(&root).unwrap());
        begun.elapsed().unwrap() > Duration::from_secs(4)
    });
    assert!(oldest < 2.0, "{oldest}");
    end(vec![run]);
}

#[test]
fn another_process_keeps_the_status_when_its_keeper_is_killed() {
    let root = Root::plain();
    let first = root.start(&["--workers", "1"]);
    root.wait_until("the first shows", || {
        pids(&root) == [u64::from(first.pid())]
    });
    let second = root.start(&["--workers", "1"]);
    let both = [first.pid(), second.pid()].map(u64::from);
    root.wait_until("both show", || pids(&root) == both);
    first.kill9();
    root.wait_until("the second keeps it", || pids(&root) == both[1..]);
    assert!(age(&root).unwrap() < 3.0);
    fs::remove_file(root.at("state/status.json")).unwrap();
    root.wait_until("it comes back", || age(&root).is_some());
    end(vec![second]);
    root.assert_nothing_left();
}

#[test]
fn without_a_harness_status_is_made_from_the_tree_and_says_so() {
    let root = Root::plain();
    root.script("good", "exit 0");
    root.script("bad", "#harness retries: 0\nexit 1");
    root.drain();
    root.script("waits", "exit 0");
    for _ in 0..2 {
        let text = root.ok(&["status"]);
        assert!(text.contains("no harness is running"), "{text}");
        let json: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
        let q = &json["work_queue"];
        assert_eq!(
            (&q["done"], &q["parked"], &q["pending"]),
            (&1.into(), &1.into(), &1.into())
        );
        assert_eq!(json["harnesses"].as_array().unwrap().len(), 0);
        assert_eq!(json["metrics"]["completed_today"], 1, "{json:#}");
        assert_eq!(json["metrics"]["failed_today"], 1);
        // From nothing but the tree, too.
        let _gone = fs::remove_file(root.at("state/status.json"));
    }
}

#[test]
fn status_and_ledger_name_slot_agent_and_times_as_every_other_file_does() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let run = root.start(&["--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    let slot = || status(&root).map(|s| s["agents"][0].clone());
    root.wait_until("it shows the agent process", || {
        slot().is_some_and(|a| a["pid"].is_u64())
    });
    let slot = slot().unwrap();
    assert_eq!(keys(&slot), SLOT_KEYS);
    assert_eq!(
        (&slot["id"], &slot["item"]),
        (&"agent-1".into(), &"x".into())
    );
    assert_eq!(
        (&slot["agent"], &slot["attempt"]),
        (&"script".into(), &1.into())
    );
    let at = |key: &str| {
        slot[key]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    assert!(at("claimed_at") <= at("started_at"), "{slot:#}");
    fs::write(root.at("state/interrupts/agent-7.interrupt"), "look").unwrap();
    root.wait_until("it shows the interrupt", || {
        status(&root).is_some_and(|s| s["interrupts"][0]["slot"] == "agent-7")
    });
    let all = status(&root).unwrap();
    assert_eq!(keys(&all["interrupts"][0]), ["reason", "since", "slot"]);
    assert_eq!(keys(&all["work_queue"]), QUEUE_KEYS);
    assert_eq!(keys(&all["metrics"]), METRICS_KEYS);
    let own: Value =
        serde_json::from_slice(&fs::read(root.at("state/agents/agent-1/status.json")).unwrap())
            .unwrap();
    assert_eq!(keys(&own), SLOT_KEYS);
    journal.open("go");
    root.wait_until("x is done", || root.is_done("x"));
    end(vec![run]);
    let day = fs::read_dir(root.at("state/ledger")).unwrap().flatten();
    let day = day
        .map(|e| e.path())
        .find(|p| fs::metadata(p).unwrap().len() > 0 && p.extension().is_some());
    let line = fs::read_to_string(day.unwrap()).unwrap();
    let line: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(
        (&line["slot"], &line["agent"]),
        (&"agent-1".into(), &"script".into())
    );
}

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

const SLOT_KEYS: [&str; 20] = [
    "agent",
    "attempt",
    "claimed_at",
    "cost_usd",
    "harness_pid",
    "health",
    "id",
    "input_tokens",
    "item",
    "last_event_at",
    "last_heartbeat",
    "last_message",
    "output_tokens",
    "pid",
    "reason",
    "session",
    "started_at",
    "state",
    "tool_calls",
    "turns",
];
const QUEUE_KEYS: [&str; 9] = [
    "blocked",
    "claimed",
    "done",
    "merge",
    "parked",
    "pending",
    "review",
    "scheduled",
    "total",
];
const METRICS_KEYS: [&str; 12] = [
    "agents_active",
    "agents_idle",
    "agents_interrupted",
    "agents_working",
    "average_seconds",
    "completed_today",
    "cost_usd",
    "failed_today",
    "input_tokens",
    "output_tokens",
    "success_rate",
    "throughput_per_hour",
];

/// A live agent, so that the claims that are kept mean something.
#[test]
fn what_of_state_is_no_record_can_be_deleted_while_nothing_runs() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    root.script("before", "echo b > b");
    root.drain();
    let body = format!("{}\necho made > made", journal.wait_for("go"));
    journal.drop_script(&root, "x", "", &body);
    let mut run = root.start(&["--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0));
    journal.open("go");
    let kept = ["sessions", "items", "claims", "repos"];
    for entry in fs::read_dir(root.at("state")).unwrap().flatten() {
        if kept.iter().all(|k| entry.file_name() != *k) {
            let path = entry.path();
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
    }
    assert_eq!(root.drain().status.code(), Some(0));
    let show = root.show("x");
    assert_eq!(show["outcome"], "succeeded", "{show:#}");
    assert_eq!(show["attempts"].as_array().unwrap().len(), 2);
    root.assert_nothing_left();
}

#[test]
fn a_run_works_though_all_of_state_was_deleted() {
    let root = Root::with_repo();
    root.script("x", "echo one > made");
    root.drain();
    fs::remove_dir_all(root.at("state")).unwrap();
    root.script("x", "echo two > made");
    root.script("y", "echo new > made");
    assert_eq!(root.drain().status.code(), Some(0));
    for name in ["x", "y"] {
        let show = root.show(name);
        assert_eq!(show["outcome"], "succeeded", "{show:#}");
        let branch = show["branch"].as_str().unwrap();
        let text = crate::support::git(&root.repo(), &["show", &format!("{branch}:made")]);
        assert_eq!(text, if name == "x" { "two\n" } else { "new\n" });
    }
    // The first life's branch is still what it was.
    assert_eq!(
        crate::support::git(&root.repo(), &["show", "harness/x/1:made"]),
        "one\n"
    );
    assert!(root.at("queue/done/x.~1~").exists());
    root.assert_nothing_left();
}

#[test]
fn a_claim_whose_slot_was_deleted_is_still_recovered_and_done_once() {
    let (root, journal) = (Root::plain(), Journal::new());
    let names = ["one", "two", "three"];
    for name in names {
        let head = format!("#harness exclusive: {name}");
        journal.drop_script(&root, name, &head, &journal.wait_for("go"));
    }
    let run = root.start(&["--workers", "3"]);
    for name in names {
        journal.wait_for_start(&root, name, 1);
    }
    run.kill9();
    journal.open("go");
    root.wait_until("the agent and its keeper are gone", || {
        root.processes().is_empty()
    });
    // The keys stay: they name their holders as the claims do.
    for gone in ["agents", "harnesses", "control", "interrupts", "ledger"] {
        let _was_not_there = fs::remove_dir_all(root.at("state").join(gone));
    }
    // One worker: the other two slots are nobody's to hold, only to recover.
    let mut next = root.start(&["--drain", "--workers", "1"]);
    assert_eq!(next.wait(), Some(0), "{}", next.said());
    for name in names {
        assert!(root.is_done(name));
        assert_eq!(journal.of(name).len(), 1, "{}", root.picture());
    }
    root.assert_nothing_left();
}
