//! `harness gc` removes what is provably not needed any more, and nothing else.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::support::{Root, git};

fn sessions(root: &Root) -> BTreeSet<String> {
    let entries = fs::read_dir(root.at("state/sessions")).unwrap().flatten();
    let names = entries.map(|e| e.file_name().into_string().unwrap());
    names.filter(|n| n != ".gitignore").collect()
}

fn sessions_of(root: &Root, name: &str) -> Vec<String> {
    let show = root.show(name);
    let attempts = show["attempts"].as_array().unwrap();
    attempts
        .iter()
        .map(|a| a["session"].as_str().unwrap().to_owned())
        .collect()
}

fn branches(root: &Root) -> Vec<String> {
    let format = "--format=%(refname:short)";
    let out = git(
        &root.repo(),
        &["for-each-ref", format, "refs/heads/harness"],
    );
    out.lines().map(str::to_owned).collect()
}

#[test]
fn only_what_is_over_old_and_kept_elsewhere_goes() {
    let root = Root::with_repo();
    root.config("[repo]\npath = \"repo\"\n[limits]\nkeep = \"30d\"\n");
    root.script("merged", "echo 1 > merged; echo precious > notes.txt");
    root.script("open", "echo 1 > open");
    root.script("fails", "#harness retries: 1\necho 1 > fails; exit 3");
    root.drain();
    git(
        &root.repo(),
        &["merge", "-q", "--ff-only", "harness/merged/1"],
    );
    let before = (sessions(&root), branches(&root));
    assert_eq!((before.0.len(), before.1.len()), (4, 2));

    // Nothing is old.
    let young = root.ok(&["gc"]);
    assert!(young.contains("removed 0 sessions"), "{young}");
    assert_eq!((sessions(&root), branches(&root)), before);

    root.config("[repo]\npath = \"repo\"\n[limits]\nkeep = 0\n");
    let mut busy = root.start(&["--workers", "1"]);
    root.script(
        "busy",
        "until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.05; done",
    );
    root.wait_until("it is at work", || {
        root.show("busy")["state"] == "claimed" && sessions(&root).len() == 5
    });
    // A harness was killed while it made a slot's repository anew.
    let halves: Vec<_> = ["agent-2", "agent-3"]
        .into_iter()
        .filter(|slot| root.at("worktrees").join(slot).exists())
        .flat_map(|slot| ["new", "old"].map(|end| root.at(format!("worktrees/.{slot}.git.{end}"))))
        .collect();
    for half in &halves {
        fs::create_dir(half).unwrap();
        fs::write(half.join("HEAD"), "ref: refs/heads/main\n").unwrap();
    }
    let all = sessions(&root);
    let dry: Value = serde_json::from_str(&root.ok(&["gc", "--dry-run", "--json"])).unwrap();
    assert_eq!(dry["sessions"], 2, "{dry}");
    assert_eq!(dry["branches"], serde_json::json!(["harness/merged/1"]));
    assert_eq!((sessions(&root), branches(&root)), (all.clone(), before.1));

    let done: Value = serde_json::from_str(&root.ok(&["gc", "--json"])).unwrap();
    assert_eq!(done["trouble"], serde_json::json!([]), "{done}");
    assert_eq!(done["sessions"], 2, "{done}");
    let mut kept: Vec<String> = sessions_of(&root, "fails");
    kept.extend(sessions_of(&root, "busy"));
    assert_eq!(sessions(&root), kept.into_iter().collect());
    assert_eq!(branches(&root), ["harness/open/1"]);
    // The worktree of the slot that is at work stays, those of the others went.
    assert!(root.at("worktrees/agent-1").exists());
    assert!(!root.at("worktrees/agent-2").exists());
    assert!(!halves.is_empty() && halves.iter().all(|half| !half.exists()));
    assert!(!done["worktrees"].as_array().unwrap().is_empty(), "{done}");

    // What went is told all the same, and everything goes on.
    assert_eq!(root.show("merged")["outcome"], "succeeded");
    fs::write(root.at("go"), "").unwrap();
    root.wait_until("it is done", || root.at("queue/done/busy").exists());
    busy.signal("INT");
    assert_eq!(busy.wait(), Some(0));
    root.script("after", "cat merged > after");
    root.drain();
    assert_eq!(root.show("after")["outcome"], "succeeded");
    let fsck = git(&root.repo(), &["fsck", "--full", "--no-dangling"]);
    assert_eq!(fsck, "");
}

/// An agent without a sandbox may have written the record of its item.
#[test]
fn no_branch_of_the_users_goes_whatever_a_record_says() {
    let root = Root::with_repo();
    root.config(
        "[repo]\npath = \"repo\"\n[limits]\nkeep = 0\n[integrate]\nmode = \"merge\"\nhow = \"squash\"\n",
    );
    root.script("x", "echo 1 > made");
    root.script("y", "echo 2 > made-too");
    root.drain();
    for name in ["x", "y"] {
        assert!(root.is_done(name), "{}", root.picture());
    }
    let mine = "harness/x/1";
    git(&root.repo(), &["branch", "mine", mine]);
    let record = root.at("state/items/x.jsonl");
    let text = fs::read_to_string(&record).unwrap();
    let forged = text.replace("\"branch\":\"harness/x/1\"", "\"branch\":\"mine\"");
    assert_ne!(text, forged);
    fs::write(&record, forged).unwrap();
    let gone: Value = serde_json::from_str(&root.ok(&["gc", "--json"])).unwrap();
    assert_eq!(
        gone["branches"],
        serde_json::json!(["harness/y/1"]),
        "{gone}"
    );
    git(&root.repo(), &["rev-parse", "--verify", "refs/heads/mine"]);
    assert_eq!(branches(&root), [mine]);
}
