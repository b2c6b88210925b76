//! People move items: by command and by hand, waiting, at work and ended; and drop names again.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Over, Root, Running, git, is_alive};

/// Works until it is stopped or `go-NAME` exists; says its pid in `at-NAME-ATTEMPT`.
const LONG: &str = "echo work > made; echo $$ > \"$HARNESS_ROOT/at-$HARNESS_ITEM-$HARNESS_ATTEMPT\"; \
    n=0; while [ ! -e \"$HARNESS_ROOT/go-$HARNESS_ITEM\" ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done";

fn outcomes(root: &Root, name: &str) -> Vec<Value> {
    let show = root.show(name);
    let attempts = show["attempts"].as_array().unwrap();
    attempts.iter().map(|a| a["outcome"].clone()).collect()
}

/// Waits until this attempt runs; the pid of its script.
fn at_work(root: &Root, name: &str, attempt: u32) -> u32 {
    let mark = root.at(format!("at-{name}-{attempt}"));
    let mut pid = None;
    root.wait_until("it is at work", || {
        let text = fs::read_to_string(&mark).unwrap_or_default();
        pid = text.trim().parse().ok();
        pid.is_some()
    });
    pid.unwrap()
}

fn claimed(root: &Root, name: &str) -> std::path::PathBuf {
    let agent = root.show(name)["attempts"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()["slot"]
        .clone();
    root.at("queue/claimed")
        .join(agent.as_str().unwrap())
        .join(name)
}

fn end(root: &Root, mut run: Running) {
    run.signal("INT");
    assert!(matches!(run.wait(), Some(0 | 1)), "{}", run.said());
    root.assert_nothing_left();
}

/// Takes `job` from its agent in some way; what it did is kept and not published.
fn taken_away(take: impl Fn(&Root, &Path)) -> Root {
    let root = Root::with_repo();
    root.script("job", LONG);
    let run = root.start(&["--workers", "2"]);
    let pid = at_work(&root, "job", 1);
    take(&root, &claimed(&root, "job"));
    root.wait_until("its agent is stopped", || {
        !is_alive(pid) && outcomes(&root, "job")[0] == json!("canceled")
    });
    end(&root, run);
    let branches = git(&root.repo(), &["branch", "--format=%(refname:short)"]);
    assert_eq!(branches, "main\n");
    let show = root.show("job");
    let head = show["attempts"][0]["head"].as_str().unwrap().to_owned();
    let hub = root.at("state/repos/default.git");
    assert_eq!(git(&hub, &["show", &format!("{head}:made")]), "work\n");
    assert!(
        !git(&hub, &["for-each-ref", "--contains", &head]).is_empty(),
        "only reachable by luck"
    );
    root
}

#[test]
fn a_claimed_item_is_canceled_by_command_by_mv_and_by_rm() {
    let by_command = taken_away(|root, _| drop(root.ok(&["cancel", "job"])));
    assert!(by_command.is_parked("job"));
    assert_eq!(by_command.show("job")["outcome"], "canceled");
    let by_hand = taken_away(|root, at| fs::rename(at, root.at("queue/parked/job")).unwrap());
    assert!(by_hand.is_parked("job"));
    let removed = taken_away(|_, at| fs::remove_file(at).unwrap());
    assert_eq!(removed.show("job")["state"], "gone");
}

#[test]
fn a_claimed_item_moved_back_to_pending_starts_again() {
    for by_command in [true, false] {
        let root = Root::plain();
        root.script("job", LONG);
        let run = root.start(&["--workers", "2"]);
        let pid = at_work(&root, "job", 1);
        if by_command {
            root.ok(&["release", "job"]);
        } else {
            fs::rename(claimed(&root, "job"), root.at("queue/pending/job")).unwrap();
        }
        at_work(&root, "job", 2);
        assert!(!is_alive(pid), "two at once");
        fs::write(root.at("go-job"), "").unwrap();
        root.wait_until("it is done", || root.is_done("job"));
        assert_eq!(outcomes(&root, "job"), ["canceled", "succeeded"]);
        end(&root, run);
    }
}

#[test]
fn a_pending_item_can_be_removed_and_canceled() {
    let root = Root::plain();
    root.script("holds", LONG);
    let run = root.start(&["--workers", "1"]);
    at_work(&root, "holds", 1);
    root.script("removed", "touch \"$HARNESS_ROOT/ran\"");
    root.script("canceled", "touch \"$HARNESS_ROOT/ran\"");
    root.script("moved", "touch \"$HARNESS_ROOT/ran\"");
    root.script("last", "true");
    fs::remove_file(root.at("queue/pending/removed")).unwrap();
    root.ok(&["cancel", "canceled"]);
    fs::rename(
        root.at("queue/pending/moved"),
        root.at("queue/parked/moved"),
    )
    .unwrap();
    fs::write(root.at("go-holds"), "").unwrap();
    root.wait_until("the last is done", || root.is_done("last"));
    end(&root, run);
    assert!(root.is_parked("canceled") && root.is_parked("moved"));
    assert!(!root.at("ran").exists());
}

/// As workers that claim it and let it go all the time.
#[test]
fn an_item_that_others_move_meanwhile_is_canceled_where_it_is() {
    let root = Root::plain();
    let claimed = root.at("queue/claimed/agent-1/job");
    fs::create_dir_all(claimed.parent().unwrap()).unwrap();
    let pending = root.at("queue/pending/job");
    for _ in 0..20 {
        root.script("job", "true");
        let over = AtomicBool::new(false);
        std::thread::scope(|s| {
            s.spawn(|| {
                let mut ways = [(&pending, &claimed), (&claimed, &pending)]
                    .into_iter()
                    .cycle();
                while !over.load(Ordering::SeqCst)
                    && ways
                        .next()
                        .is_some_and(|(from, to)| fs::rename(from, to).is_ok())
                {
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            });
            let _even_after_a_panic = Over(&over);
            root.ok(&["cancel", "job"]);
        });
        assert!(root.is_parked("job"));
        fs::remove_file(root.at("queue/parked/job")).unwrap();
    }
}

#[test]
fn parked_and_done_items_go_back_by_command_and_by_mv() {
    let root = Root::plain();
    for name in ["x", "y"] {
        root.script(name, "#harness retries: 0\n[ \"$HARNESS_ATTEMPT\" -ge 2 ]");
    }
    root.drain();
    assert!(root.is_parked("x") && root.is_parked("y"));
    root.ok(&["retry", "x"]);
    fs::rename(root.at("queue/parked/y"), root.at("queue/pending/y")).unwrap();
    assert_eq!(root.drain().status.code(), Some(0));
    assert!(root.is_done("x") && root.is_done("y"));
    root.ok(&["retry", "x"]);
    root.drain();
    for (name, want) in [("x", 3), ("y", 2)] {
        assert_eq!(outcomes(&root, name).len(), want);
        assert_eq!(root.show(name)["outcome"], "succeeded");
    }
    // Not what can be done to it: said, and nothing changed.
    for (command, name) in [("cancel", "x"), ("release", "x"), ("retry", "nobody")] {
        let out = root.exits(100, &[command, name]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains("what to do"), "{command}");
    }
    assert!(root.is_done("x"));
}

#[test]
fn a_name_dropped_again_in_flight_waits_and_older_files_are_kept_as_backups() {
    let root = Root::plain();
    root.script("job", LONG);
    let run = root.start(&["--workers", "3"]);
    let pid = at_work(&root, "job", 1);
    root.script("job", &format!("# second\n{LONG}"));
    root.wait_until("the second waits", || {
        let list: Value = serde_json::from_str(&root.ok(&["list", "blocked", "--json"])).unwrap();
        list[0]["item"] == "job"
    });
    root.script("other", "true");
    root.wait_until("another is done", || root.is_done("other"));
    assert!(is_alive(pid) && !root.at("at-job-2").exists());
    fs::write(root.at("go-job"), "").unwrap();
    at_work(&root, "job", 2);
    root.wait_until("both are done", || {
        root.at("queue/done/job.~1~").exists() && root.is_done("job")
    });
    let text = |file: &str| fs::read_to_string(root.at(file)).unwrap();
    assert!(text("queue/done/job").contains("# second"));
    assert!(!text("queue/done/job.~1~").contains("# second"));
    assert_eq!(outcomes(&root, "job"), ["succeeded", "succeeded"]);
    for n in 1..=3 {
        root.script("bad", &format!("#harness retries: 0\n# {n}\nexit 1"));
        root.wait_until("it is parked", || {
            fs::read_to_string(root.at("queue/parked/bad"))
                .is_ok_and(|t| t.contains(&format!("# {n}")))
        });
    }
    assert!(
        text("queue/parked/bad.~1~").contains("# 1")
            && text("queue/parked/bad.~2~").contains("# 2")
    );
    end(&root, run);
}

#[test]
fn all_that_are_parked_are_retried_at_once_or_those_of_one_outcome() {
    let root = Root::plain();
    let retry = |args: &[&str]| {
        let mut all = vec!["retry", "--all"];
        all.extend(args);
        let out = root.harness(&all);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.code(), said, out.stdout)
    };
    let (code, said, _) = retry(&[]);
    assert_eq!(
        (code, &*said),
        (Some(0), "harness: nothing to retry: no item is parked\n")
    );
    for n in 0..3 {
        root.script(format!("bad-{n}"), "#harness retries: 0\nexit 3");
    }
    root.script(
        "slow",
        "#harness retries: 0\n#harness timeout: 0.1\nexec sleep 600",
    );
    root.drop_file("empty.md", b"", 0o644);
    root.script("good", "true");
    root.drain();
    // One more that was never tried, and somebody else's of a name that is taken.
    root.script("by-hand", "true");
    fs::rename(
        root.at("queue/pending/by-hand"),
        root.at("queue/parked/by-hand"),
    )
    .unwrap();
    root.script("bad-2", "true");
    let (code, said, _) = retry(&["faild"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("'failed'") && said.contains("timed_out"),
        "{said}"
    );
    assert_eq!(retry(&["succeeded"]).0, Some(2));
    let (code, said, _) = retry(&["failed"]);
    assert_eq!(code, Some(100), "{said}");
    assert!(
        said.contains("another bad-2 is in queue/pending/ already"),
        "{said}"
    );
    assert!(
        said.contains("2 items that were parked as failed are back in the queue"),
        "{said}"
    );
    assert_eq!(root.events("bad-0").last().unwrap(), "retried");
    for name in ["bad-2", "slow", "empty.md", "by-hand"] {
        assert!(root.is_parked(name), "{name}");
    }
    let (code, _, out) = retry(&["timed_out", "--json"]);
    let all: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        (code, all),
        (
            Some(0),
            json!([{"item": "slow", "did": "back in the queue"}])
        )
    );
    fs::remove_file(root.at("queue/pending/bad-2")).unwrap();
    let (code, said, _) = retry(&[]);
    assert_eq!(
        (code, said.contains("3 items that were parked are back")),
        (Some(0), true),
        "{said}"
    );
    assert!(root.is_done("good"));
    // By name as before; not both.
    assert_eq!(root.harness(&["retry"]).status.code(), Some(2));
    assert_eq!(
        root.harness(&["retry", "--all", "failed", "good"])
            .status
            .code(),
        Some(2)
    );
    root.ok(&["retry", "good"]);
}
