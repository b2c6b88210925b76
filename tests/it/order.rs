//! When items start: priority, time, name; not before their time, after their dependencies, one
//! at a time where they share a key.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::support::{Root, describe};

/// Notes that it started; items run one at a time, or append one short line each.
const NOTE: &str = "echo \"$HARNESS_ITEM\" >> \"$HARNESS_ROOT/order\"";

fn dated(root: &Root, name: &str, time: SystemTime) {
    let file = fs::File::open(root.at("queue/pending").join(name)).unwrap();
    file.set_modified(time).unwrap();
}

fn order(root: &Root) -> Vec<String> {
    let text = fs::read_to_string(root.at("order")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn note(root: &Root, name: &str, fields: &str) {
    let fields: String = fields.lines().map(|l| format!("#harness {l}\n")).collect();
    root.script(name, &format!("{fields}{NOTE}"));
}

#[test]
fn one_worker_takes_them_by_priority_then_age_then_name() {
    let root = Root::plain();
    let start = SystemTime::now() - Duration::from_secs(1_000);
    for (name, priority, age) in [
        ("low-old", "low", 0),
        ("c", "5", 20),
        ("b", "medium", 10),
        ("a", "5", 20),
        ("high-new", "high", 30),
        ("nine-old", "9", 1),
        ("zero", "0", 0),
        ("none", "", 15),
    ] {
        let fields = if priority.is_empty() {
            String::new()
        } else {
            format!("priority: {priority}")
        };
        note(&root, name, &fields);
        dated(&root, name, start + Duration::from_secs(age));
    }
    let want = [
        "nine-old", "high-new", "b", "none", "a", "c", "low-old", "zero",
    ];
    let list: serde_json::Value =
        serde_json::from_str(&root.ok(&["list", "pending", "--json"])).unwrap();
    let listed: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["item"].as_str().unwrap())
        .collect();
    assert_eq!(listed, want);
    root.ok(&["run", "--drain", "--workers", "1"]);
    assert_eq!(order(&root), want);
}

#[test]
fn a_file_from_the_future_waits_for_its_time_and_starts_by_itself() {
    let root = Root::plain();
    let due = SystemTime::now() + Duration::from_millis(1_500);
    root.script("soon", "date +%s%N > \"$HARNESS_ROOT/started\"");
    dated(&root, "soon", due);
    assert_eq!(root.show("soon")["state"], "scheduled");
    root.drain();
    let started: u128 = fs::read_to_string(root.at("started"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let due = due
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_nanos();
    assert!(started >= due, "{started} is before {due}");
}

#[test]
fn release_lets_what_waits_for_its_time_start_now() {
    let root = Root::plain();
    note(&root, "by-time", "");
    dated(
        &root,
        "by-time",
        SystemTime::now() + Duration::from_secs(86_400),
    );
    note(&root, "by-touch", "");
    dated(
        &root,
        "by-touch",
        SystemTime::now() + Duration::from_secs(86_400),
    );
    note(&root, "by-field", "not_before: 2100-01-01T00:00:00Z");
    root.drop_file(
        "by-json.json",
        b"{\"not_before\": 4102444800, \"prompt\": \"x\"}",
        0o644,
    );
    note(&root, "now", "");
    let mut run = root.start(&["--drain", "--workers", "2"]);
    root.wait_until("the one without a time is done", || root.is_done("now"));
    for name in ["by-time", "by-field", "by-json.json"] {
        assert_eq!(root.show(name)["state"], "scheduled", "{name}");
    }
    let released = Instant::now();
    root.ok(&["release", "by-time", "by-field", "by-json.json"]);
    // What `touch -m` does.
    dated(&root, "by-touch", SystemTime::now());
    // The last has no agent: that it waits behind the hold for such shows that it was tried.
    assert_eq!(run.wait(), Some(111), "{}", run.said());
    // By an event, not by a listing that comes by one day.
    assert!(
        released.elapsed() < Duration::from_secs(15),
        "{}",
        run.said()
    );
    assert_eq!(order(&root).len(), 4, "{}", root.picture());
    assert!(root.is_done("by-time") && root.is_done("by-field"));
    assert!(root.at("state/holds/none.hold").exists());
    // Let go once is not let go for ever: dropped again, it waits again.
    note(&root, "by-field", "not_before: 2100-01-01T00:00:00Z");
    assert_eq!(root.show("by-field")["state"], "scheduled");
}

#[test]
fn items_start_after_what_they_wait_for_in_chains_and_diamonds() {
    let root = Root::plain();
    // Names and ages that would give the opposite order.
    for (name, after) in [
        ("a-last", "after: [b-left, c-right]"),
        ("b-left", "after: d-first"),
        ("c-right", "after: d-first"),
        ("d-first", "after: [e-root]"),
        ("e-root", ""),
    ] {
        note(&root, name, after);
    }
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let order = order(&root);
    assert_eq!(order[..2], ["e-root", "d-first"]);
    assert_eq!(order[4], "a-last");
    assert_eq!(order.len(), 5);
}

#[test]
fn what_waits_for_nobody_stays_and_drain_ends_saying_so() {
    let root = Root::plain();
    note(&root, "orphan", "after: never-there");
    note(&root, "second", "after: fails");
    root.script(
        "fails",
        "#harness retries: 0\n[ -e \"$HARNESS_ROOT/mended\" ]",
    );
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    let said = String::from_utf8_lossy(&out.stderr);
    for (name, dep) in [("orphan", "never-there"), ("second", "fails")] {
        assert!(
            said.contains(&format!("{name} stays in pending/: it waits for {dep}")),
            "{said}"
        );
        let show = root.show(name);
        assert_eq!(show["state"], "blocked");
        assert!(show["reason"].as_str().unwrap().contains(dep), "{show}");
    }
    assert_eq!(order(&root), Vec::<String>::new());
    // A person mends what was in the way.
    fs::write(root.at("mended"), "").unwrap();
    root.ok(&["retry", "fails"]);
    root.drain();
    assert_eq!(order(&root), ["second"]);
    assert_eq!(root.show("orphan")["state"], "blocked");
    root.assert_nothing_left();
}

#[test]
fn dependency_cycles_are_refused_whole_and_what_hangs_on_them_waits() {
    for live in [false, true] {
        let root = Root::plain();
        let mut running = live.then(|| root.start(&["--workers", "2"]));
        let cycles = [
            ("self", "self"),
            ("a", "b"),
            ("b", "a"),
            ("x1", "y1"),
            ("y1", "z1"),
            ("z1", "x1"),
        ];
        for (name, after) in cycles {
            note(&root, name, &format!("after: {after}"));
        }
        note(&root, "hanger", "after: [x1]");
        let refused = |root: &Root| cycles.iter().all(|(name, _)| root.is_parked(name));
        match &mut running {
            Some(run) => {
                root.wait_until("the cycles are refused", || refused(&root));
                run.signal("TERM");
                run.wait();
            }
            None => assert_eq!(root.drain().status.code(), Some(1)),
        }
        assert!(refused(&root), "{}", root.picture());
        for (name, _) in cycles {
            let show = root.show(name);
            assert_eq!(show["outcome"], "refused");
            assert!(show["reason"].as_str().unwrap().contains("cycle"), "{show}");
        }
        assert_eq!(root.show("hanger")["state"], "blocked");
        assert_eq!(order(&root), Vec::<String>::new());
        root.assert_nothing_left();
    }
}

#[test]
fn items_with_the_same_key_never_run_at_once_over_two_processes() {
    let root = Root::plain();
    let keys = ["db", "../up", "a b"];
    for n in 0..24 {
        let key = keys[n % 3];
        root.script(
            format!("job-{n}"),
            &format!(
                "#harness exclusive: {key:?}\n#harness retries: 0\n\
                 d=\"$HARNESS_ROOT/key-{}\"\nmkdir \"$d\" || exit 9\nsleep 0.05\nrmdir \"$d\"\n{NOTE}",
                n % 3
            ),
        );
    }
    let mut runs = [0, 1].map(|_| root.start(&["--drain", "--workers", "3"]));
    for run in &mut runs {
        assert_eq!(run.wait(), Some(0), "{}", run.said());
    }
    assert_eq!(order(&root).len(), 24);
    for n in 0..24 {
        let show = root.show(&format!("job-{n}"));
        assert_eq!(show["state"], "done", "{show}");
        assert_eq!(show["attempts"].as_array().unwrap().len(), 1);
    }
    root.assert_nothing_left();
}

#[test]
fn a_key_is_free_again_after_a_failure_a_timeout_and_a_cancel() {
    let root = Root::plain();
    root.script(
        "fails",
        "#harness exclusive: k\n#harness retries: 0\nexit 1",
    );
    root.script(
        "late",
        "#harness exclusive: k\n#harness retries: 0\n#harness timeout: 1\nsleep 60",
    );
    let mut run = root.start(&["--workers", "2"]);
    root.wait_until("both are parked", || {
        root.is_parked("fails") && root.is_parked("late")
    });
    root.script(
        "canceled",
        "#harness exclusive: k\necho > \"$HARNESS_ROOT/at-work\"; sleep 60",
    );
    root.wait_until("it runs", || root.at("at-work").exists());
    root.script("next", &format!("#harness exclusive: k\n{NOTE}"));
    root.wait_until("the next waits", || {
        root.show("next")["state"] == json!("blocked")
    });
    let listed = root.ok(&["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let next = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["item"] == "next");
    assert_eq!(next.unwrap()["state"], "blocked", "{listed}");
    root.ok(&["cancel", "canceled"]);
    root.wait_until("the next is done", || root.is_done("next"));
    run.signal("INT");
    assert_eq!(run.wait(), Some(1), "{}", run.said());
    root.assert_nothing_left();
}
