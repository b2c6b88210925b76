//! SIGTERM, Ctrl-C once and twice, SIGHUP: what is stopped is put back and not counted, what is
//! let go runs on.

use crate::journal::Journal;
use crate::support::{Root, Running, git, is_alive};

/// One item at work that left something uncommitted, and one that waits.
fn at_work(root: &Root, journal: &Journal) -> (Running, u32) {
    let body = format!("echo half > half\n{}", journal.wait_for("go"));
    journal.drop_script(root, "a-works", "#harness retries: 0", &body);
    journal.drop_script(root, "b-waits", "", ":");
    let run = root.start(&["--workers", "1"]);
    let pid = journal.wait_for_start(root, "a-works", 1);
    let made = root.at("worktrees/agent-1/half");
    root.wait_until("it left something", || made.exists());
    (run, pid)
}

fn is_pending(root: &Root, name: &str) -> bool {
    root.at("queue/pending").join(name).exists()
}

/// Stopped: the agent gone, its work kept, the item as good as untried.
fn assert_put_back(root: &Root, journal: &Journal, pid: u32) {
    assert!(!is_alive(pid));
    assert!(is_pending(root, "a-works"), "{}", root.picture());
    assert!(is_pending(root, "b-waits"), "nothing new is claimed");
    let show = root.show("a-works");
    assert_eq!(show["attempts"][0]["outcome"], "interrupted", "{show:#}");
    let hub = root.at("state/repos/default.git");
    let kept = git(&hub, &["for-each-ref", "--format=%(refname)"]);
    let has_it = |r: &&str| {
        let tree = git(&hub, &["ls-tree", "--name-only", r]);
        tree.lines().any(|l| l == "half")
    };
    assert!(
        kept.lines().any(|r| has_it(&r)),
        "its edit is in no ref: {kept}"
    );
    let branches = git(&root.repo(), &["branch", "--format=%(refname:short)"]);
    assert_eq!(branches, "main\n", "nothing is published");
    root.assert_nothing_left();
    // Not counted: with no retries allowed it is still tried again, and may fail once.
    journal.open("go");
    assert_eq!(root.drain().status.code(), Some(0));
    assert!(root.is_done("a-works") && root.is_done("b-waits"));
    // What was kept is still there.
    let kept = git(&hub, &["for-each-ref", "--format=%(refname)"]);
    assert!(
        kept.lines().any(|r| has_it(&r)),
        "the edit was lost: {kept}"
    );
    root.assert_nothing_left();
}

#[test]
fn sigterm_stops_agents_keeps_their_work_and_puts_items_back() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let (mut run, pid) = at_work(&root, &journal);
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_put_back(&root, &journal, pid);
}

#[test]
fn ctrl_c_twice_stops_agents_as_sigterm_does() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let (mut run, pid) = at_work(&root, &journal);
    run.signal("INT");
    root.wait_until("it heard the first", || {
        run.said()
            .contains("nothing new is claimed; waiting for 1 agent")
    });
    assert!(is_alive(pid));
    run.signal("INT");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_put_back(&root, &journal, pid);
}

#[test]
fn ctrl_c_once_lets_agents_finish_and_claims_nothing_new() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let (mut run, pid) = at_work(&root, &journal);
    run.signal("INT");
    root.wait_until("it heard", || run.said().contains("waiting for 1 agent"));
    assert!(is_alive(pid));
    journal.open("go");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert!(root.is_done("a-works"), "{}", root.picture());
    assert!(is_pending(&root, "b-waits"));
    assert_eq!(journal.of("b-waits").len(), 0);
    root.assert_nothing_left();
}

#[test]
fn sighup_lets_agents_run_on_for_the_next_harness() {
    let (root, journal) = (Root::with_repo(), Journal::new());
    let (mut run, pid) = at_work(&root, &journal);
    run.signal("HUP");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert!(is_alive(pid), "the agent was to run on");
    assert!(root.at("queue/claimed/agent-1/a-works").exists());
    let mut next = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("it is adopted", || {
        root.events("a-works").iter().any(|e| e == "adopted")
    });
    journal.open("go");
    assert_eq!(next.wait(), Some(0), "{}", next.said());
    assert_eq!(
        root.show("a-works")["attempts"].as_array().unwrap().len(),
        1
    );
    journal.assert_books(&root, &["a-works".into(), "b-waits".into()]);
    root.assert_nothing_left();
}

#[test]
fn a_stop_is_no_failure_but_the_failures_before_it_still_count() {
    let (root, journal) = (Root::plain(), Journal::new());
    let fails_but_second = format!(
        "[ -e '{0}' ] || {{ [ $HARNESS_ATTEMPT = 2 ] && {1}; }}\nexit 5",
        root.at("stopped").display(),
        journal.wait_for("never")
    );
    journal.drop_script(&root, "x", "#harness retries: 1", &fails_but_second);
    let mut run = root.start(&["--workers", "1"]);
    journal.wait_for_start(&root, "x", 2);
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    std::fs::write(root.at("stopped"), "").unwrap();
    assert_eq!(root.drain().status.code(), Some(1));
    let show = root.show("x");
    let outcomes: Vec<&str> = show["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["outcome"].as_str().unwrap())
        .collect();
    // One retry: failed, stopped (not counted), failed again and parked.
    assert_eq!(outcomes, ["failed", "interrupted", "failed"], "{show:#}");
    root.assert_nothing_left();
}
