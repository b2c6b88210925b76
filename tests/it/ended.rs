//! The end of an attempt as a death leaves it, made by hand: what is on record has happened, wherever
//! the file lies. What had not got so far goes on.

use std::fs;

use crate::support::{Root, describe, git};

const MARKER: &str = "state/agents/agent-1/marker";

/// An item that was done and published by agent-1, with its claim as it is before it is let go.
fn done_but_not_let_go(root: &Root) -> String {
    root.script("x", "echo work > made");
    let run = root.harness(&["run", "--drain", "--workers", "1"]);
    assert!(root.is_done("x"), "{}", describe(&run));
    fs::hard_link(root.at(MARKER), root.at("state/claims/x")).unwrap();
    branches(root)
}

fn branches(root: &Root) -> String {
    let format = "--format=%(refname:short) %(objectname)";
    git(
        &root.repo(),
        &["for-each-ref", format, "refs/heads/harness"],
    )
}

#[test]
fn what_a_person_tries_again_after_a_death_at_its_very_end_keeps_its_branch() {
    let root = Root::with_repo();
    let published = done_but_not_let_go(&root);
    assert!(published.starts_with("harness/x/1 "), "{published}");
    fs::rename(root.at("queue/done/x"), root.at("queue/pending/x")).unwrap();
    let run = root.drain();
    assert!(root.is_done("x"), "{}", describe(&run));
    let now = branches(&root);
    assert!(
        now.contains(&published) && now.contains("harness/x/2 "),
        "{now}"
    );
    assert!(!root.events("x").contains(&"canceled".to_owned()));
    root.assert_nothing_left();
}

#[test]
fn an_item_whose_end_is_on_record_is_moved_from_the_name_for_its_end() {
    let root = Root::with_repo();
    let published = done_but_not_let_go(&root);
    let ending = root.at("queue/claimed/agent-1/x.~ending~");
    fs::rename(root.at("queue/done/x"), &ending).unwrap();
    // Nobody takes it any more, and it is seen.
    root.exits(100, &["cancel", "x"]);
    assert!(ending.exists());
    assert_eq!(root.show("x")["state"], "claimed");
    let run = root.drain();
    assert!(root.is_done("x"), "{}", describe(&run));
    assert_eq!(branches(&root), published);
    assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 1);
    root.assert_nothing_left();
}

#[test]
fn an_item_that_died_before_its_end_was_on_record_gets_its_name_back() {
    let root = Root::with_repo();
    let published = done_but_not_let_go(&root);
    let ending = root.at("queue/claimed/agent-1/x.~ending~");
    fs::rename(root.at("queue/done/x"), &ending).unwrap();
    // Its end is cut off the record: its branch is announced.
    let record = root.at("state/items/x.jsonl");
    let text = fs::read_to_string(&record).unwrap();
    let kept: Vec<&str> = text
        .lines()
        .filter(|l| !l.contains("\"finished\""))
        .collect();
    fs::write(&record, kept.join("\n") + "\n").unwrap();
    let run = root.drain();
    assert!(root.is_done("x"), "{}", describe(&run));
    assert_eq!(branches(&root), published);
    assert_eq!(root.show("x")["outcome"], "succeeded");
    root.assert_nothing_left();
}
