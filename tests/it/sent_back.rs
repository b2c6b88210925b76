//! The attempt after a finished branch was sent back, by a command or by `mv`: where it begins, and what
//! it is told.

use std::fs;

use serde_json::{Value, json};

use crate::launch::{session, table};
use crate::resume::{SIT, other};
use crate::review::{add_commit, events, is_in, json_of, of, said};
use crate::support::{Root, git};

fn mv(root: &Root, name: &str, from: &str, to: &str) {
    let at = |place: &str| root.at("queue").join(place).join(name);
    fs::rename(at(from), at(to)).unwrap();
}

/// A ROOT whose prompts go to a CLI that knows its conversations, and is not told to resume.
fn with_agent() -> Root {
    let root = Root::with_repo();
    let table = table(&root, "claude", "");
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"repo\"\n[integrate]\nmode = \"review\"\n{table}"
    ));
    let text = "Please do it.\n[[mock:success]]\n";
    root.drop_file("x.md", text.as_bytes(), 0o644);
    root.drain();
    assert!(is_in(&root, "review", "x.md"), "{}", root.picture());
    root
}

fn prompt(root: &Root, file: &Value) -> String {
    let sid = file["session"].as_str().unwrap();
    fs::read_to_string(root.at("state/sessions").join(sid).join("prompt.md")).unwrap()
}

fn log(root: &Root, branch: &str) -> Vec<String> {
    let range = format!("main..{branch}");
    let text = git(&root.repo(), &["log", "--format=%s", &range]);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_attempt_after_a_rejection_goes_on_from_the_branch_and_is_told_the_comment() {
    let root = with_agent();
    let moved = add_commit(&root.repo(), "harness/x.md/1", "mock.txt", "by a person\n");
    let comment = "mock.txt:1: say it in French\nand briefly";
    let out = root.exits(0, &["reject", "x.md", "--comment", comment]);
    assert!(said(&out).contains("back in the queue"), "{}", said(&out));
    root.drain();
    assert!(is_in(&root, "review", "x.md"), "{}", root.picture());
    let (first, second) = (session(&root, "x.md", 0), session(&root, "x.md", 1));
    assert!(first["cli_session"].is_string(), "{first:#}");
    assert_eq!(second["resumed"], first["cli_session"], "{second:#}");
    let told = prompt(&root, &second);
    for part in [
        "Your last attempt at this item ended well, but was sent back: ",
        "A person looked at its changes and wants this",
        "> mock.txt:1: say it in French\n> and briefly\n",
        "Please do it.",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Its branch has the work of both, and the person's commit.
    let subjects = log(&root, "harness/x.md/2");
    assert_eq!(subjects.len(), 3, "{subjects:?}");
    assert_eq!(subjects[1], "by a person");
    git(
        &root.repo(),
        &["merge-base", "--is-ancestor", &moved, "harness/x.md/2"],
    );
    assert_eq!(of(&json_of(&root, &["review"]), "x.md")["commits"], 3);
    // What was said of the first is not said again of the second.
    add_commit(&root.repo(), "harness/x.md/2", "mock.txt", "again\n");
    root.ok(&["reject", "x.md", "-c", "other words"]);
    root.drain();
    let told = prompt(&root, &session(&root, "x.md", 2));
    assert!(
        told.contains("> other words") && !told.contains("French"),
        "{told}"
    );
    root.assert_nothing_left();
}

/// Its CLI finds a conversation in the directory where it was alone.
#[test]
fn an_item_that_is_sent_back_goes_to_the_idle_slot_that_had_it_whoever_is_woken() {
    let root = with_agent();
    fs::remove_file(root.at("queue/review/x.md")).unwrap();
    // The other slot is taken until after the first attempt, so it is the last to fall idle.
    root.drop_file("sit", SIT.as_bytes(), 0o755);
    let mut run = root.start(&["--workers", "2"]);
    let sits = |slot: &str| root.at(format!("at-{slot}")).exists();
    root.wait_until("the script sits", || sits("agent-1") || sits("agent-2"));
    let text = "Please do it.\n[[mock:success]]\n";
    root.drop_file("y.md", text.as_bytes(), 0o644);
    root.wait_until("it waits", || is_in(&root, "review", "y.md"));
    let first = session(&root, "y.md", 0);
    let slot = first["slot"].as_str().unwrap();
    fs::write(root.at(format!("go-{}", other(slot))), "").unwrap();
    root.wait_until("the other slot is idle", || root.is_done("sit"));
    add_commit(&root.repo(), "harness/y.md/1", "mock.txt", "by a person\n");
    root.ok(&["reject", "y.md", "--comment", "again"]);
    root.wait_until("it waits again", || {
        is_in(&root, "review", "y.md") && root.events("y.md").contains(&"rejected".to_owned())
    });
    let second = session(&root, "y.md", 1);
    assert_eq!(second["slot"], *slot, "{}", run.said());
    assert_eq!(second["resumed"], first["cli_session"]);
    run.signal("TERM");
    run.wait();
}

#[test]
fn what_people_move_by_hand_is_as_good() {
    let root = with_agent();
    // review → pending: another attempt, without a word.
    add_commit(&root.repo(), "harness/x.md/1", "mock.txt", "by a person\n");
    mv(&root, "x.md", "review", "pending");
    root.drain();
    let (first, second) = (session(&root, "x.md", 0), session(&root, "x.md", 1));
    assert_eq!(second["resumed"], first["cli_session"], "{second:#}");
    assert_eq!(log(&root, "harness/x.md/2").len(), 3);
    let told = prompt(&root, &second);
    assert!(
        !told.contains("A person looked") && !told.contains("gate"),
        "{told}"
    );
    assert!(events(&root, "x.md", "rejected").is_empty());
    // review → merge → review.
    let state = |want: &str| {
        let all = json_of(&root, &["review"]);
        assert_eq!(of(&all, "x.md")["state"], want);
        assert_eq!(root.show("x.md")["state"], want);
    };
    mv(&root, "x.md", "review", "merge");
    state("merge");
    mv(&root, "x.md", "merge", "review");
    state("review");
    // review → parked: given up.
    mv(&root, "x.md", "review", "parked");
    assert_eq!(root.show("x.md")["state"], "parked");
    assert_eq!(json_of(&root, &["review"]), json!([]));
    root.exits(1, &["wait", "x.md", "--timeout", "20"]);
    let out = root.exits(100, &["approve", "x.md"]);
    assert!(said(&out).contains("x.md is parked"), "{}", said(&out));
    mv(&root, "x.md", "parked", "review");
    root.ok(&["approve", "x.md"]);
    // By hand into review/, and no attempt has left anything.
    root.script("empty", "true");
    mv(&root, "empty", "pending", "review");
    for args in [&["approve", "empty"][..], &["review", "empty"]] {
        let out = root.exits(100, args);
        assert!(said(&out).contains("has left a branch"), "{}", said(&out));
    }
    assert_eq!(
        of(&json_of(&root, &["review"]), "empty")["branch"],
        Value::Null
    );
    assert!(root.ok(&["review"]).contains("empty"));
}

/// A record and a session's file lie where an agent without a sandbox, or any, can write.
#[test]
fn what_a_record_says_of_sessions_and_logs_leads_to_no_other_folder() {
    let root = Root::with_repo();
    let table = table(&root, "claude", "");
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"repo\"\n[gates.g]\nscript = \"echo said by the gate; echo; echo at last; exit 1\"\n\
         on_failure = \"park\"\n{table}"
    ));
    fs::create_dir_all(root.at("away/gates")).unwrap();
    for place in ["secret", "away/gates/g.log"] {
        fs::write(root.at(place), "the secret\n").unwrap();
    }
    let text = "Please do it.\n[[mock:success]]\n";
    root.drop_file("x.md", text.as_bytes(), 0o644);
    root.drain();
    let record = root.at("state/items/x.md.jsonl");
    let forge = |from: &str, to: &str| {
        let text = fs::read_to_string(&record).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&record, text.replace(from, to)).unwrap();
    };
    let told_in = |attempt: usize| {
        assert!(root.is_parked("x.md"), "{}", root.picture());
        root.ok(&["retry", "x.md"]);
        root.drain();
        prompt(&root, &session(&root, "x.md", attempt))
    };
    let told = told_in(1);
    assert!(told.contains("    said by the gate\n"), "{told}");

    forge("\"gates/g.log\"", "\"gates/../../../../secret\"");
    let told = told_in(2);
    assert!(
        told.contains("gate g is red") && !told.contains("said by") && !told.contains("secret"),
        "{told}"
    );
    let shown = root.ok(&["show", "x.md"]);
    assert!(!shown.contains("secret"), "{shown}");

    let last = session(&root, "x.md", 2)["session"].clone();
    forge(last.as_str().unwrap(), "../../away");
    let told = told_in(3);
    assert!(
        told.contains("gate g is red") && !told.contains("secret"),
        "{told}"
    );
}

#[test]
fn a_conversation_that_an_agent_invents_is_neither_an_option_nor_a_path_of_its_cli() {
    let root = with_agent();
    for (attempt, invented) in ["--evil", "../../evil"].into_iter().enumerate() {
        let mut file = session(&root, "x.md", attempt);
        file["cli_session"] = invented.into();
        let sid = file["session"].as_str().unwrap();
        let path = root.at("state/sessions").join(sid).join("session.json");
        fs::write(path, file.to_string()).unwrap();
        root.ok(&["reject", "x.md", "--comment", "again"]);
        root.drain();
        let next = session(&root, "x.md", attempt + 1);
        assert_eq!(next["resumed"], Value::Null, "{next:#}");
        assert!(next["cli_session"].is_string(), "{next:#}");
        assert!(is_in(&root, "review", "x.md"), "{}", root.picture());
    }
}
