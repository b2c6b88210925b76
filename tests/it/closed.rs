//! A folder of the tree that is closed (another owner, read-only, immutable) is the tree's trouble: no
//! item is refused or counted for it, it is named, and a drain ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Root, as_nobody, describe, kill};
use crate::trouble::{is_root, run_to_end, words};

#[test]
fn a_closed_folder_of_the_tree_is_named_and_no_item_is_blamed() {
    if !is_root("a folder that is closed to another user") {
        return;
    }
    std::thread::scope(|all| {
        for folder in [
            "state/items",
            "state/sessions",
            "state/claims",
            "state/agents",
            "worktrees",
        ] {
            all.spawn(move || is_the_trees_trouble(folder));
        }
    });
}

fn is_the_trees_trouble(folder: &str) {
    let root = Root::plain();
    for n in 0..9 {
        root.script(format!("x{n}"), ":");
    }
    let command = as_nobody(&root);
    let close = |mode| {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(root.at(folder), mode).unwrap();
    };
    close(0o555);
    let out = run_to_end(command(&["run", "--drain", "--workers", "2"]));
    let said = words(&out);
    assert_eq!(out.status.code(), Some(111), "{folder}: {said}");
    let stays = (0..9).all(|n| root.at(format!("queue/pending/x{n}")).exists());
    assert!(stays, "{folder}: {said}");
    let why = match folder {
        "state/agents" => "no slot can be taken: cannot make the directory",
        _ => "agent-2 stays as it is: cannot write in the folder",
    };
    assert!(said.contains(why), "{folder}: {said}");
    assert!(said.lines().count() < 30, "{folder}: {said}");
    close(0o755);
    let out = run_to_end(command(&["run", "--drain"]));
    assert_eq!(out.status.code(), Some(0), "{folder}: {}", describe(&out));
    let show = root.show("x0");
    assert_eq!(show["state"], "done", "{show:#}");
    assert!(root.events("x0").len() < 5, "{show:#}");
}

#[test]
fn a_lock_that_another_process_has_is_named_and_not_waited_for_at_a_stop() {
    let root = Root::with_repo();
    fs::create_dir_all(root.at("state/repos")).unwrap();
    let lock = fs::File::create(root.at("state/repos/default.lock")).unwrap();
    fs2::FileExt::try_lock_exclusive(&lock).unwrap();
    root.script("x", "echo work > work");
    let wait_for_the_reason = || {
        let why = "state/repos/default.lock, which another slot or process has locked";
        root.wait_until("the slot names what it waits for", || {
            root.ok(&["status", "--json"]).contains(why)
        });
    };
    let mut run = root.start(&["--workers", "1"]);
    wait_for_the_reason();
    kill(run.pid(), "TERM");
    run.wait();
    assert!(!root.is_parked("x"), "{}", root.picture());
    let mut run = root.start(&["--workers", "1", "--drain"]);
    wait_for_the_reason();
    drop(lock);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert!(root.is_done("x"), "{}", root.picture());
    let show = root.show("x");
    let attempts = show["attempts"].as_array().map(Vec::len);
    assert_eq!(attempts, Some(1), "{show:#}");
}

#[test]
fn a_closed_hub_costs_no_item_an_attempt() {
    if !is_root("a hub of another user") {
        return;
    }
    let root = Root::with_repo();
    root.script("first", ":");
    root.drain();
    root.script("x", "echo work > work");
    let command = as_nobody(&root);
    let objects = root.at("state/repos/default.git/objects");
    let close = |mode| fs::set_permissions(&objects, fs::Permissions::from_mode(mode)).unwrap();
    close(0o555);
    let mut run = command(&["run", "--workers", "1"]).spawn().unwrap();
    root.wait_until("it goes back with the reason", || {
        let show = root.show("x").to_string();
        show.contains("cannot write in the folder") && show.contains("requeued")
    });
    kill(run.id(), "TERM");
    run.wait().unwrap();
    assert!(root.at("queue/pending/x").exists(), "{}", root.picture());
    assert!(!root.events("x").contains(&"started".to_owned()));
    close(0o755);
    let out = run_to_end(command(&["run", "--drain"]));
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let show = root.show("x");
    assert_eq!(
        show["attempts"].as_array().map(Vec::len),
        Some(1),
        "{show:#}"
    );
}

#[test]
fn what_is_no_claim_in_the_place_of_one_is_named_and_the_drain_ends() {
    let root = Root::plain();
    let key = "#!/bin/sh\n#harness exclusive: k\n:\n";
    root.drop_file("keyed", key.as_bytes(), 0o755);
    for name in ["file", "folder", "fine"] {
        root.script(name, ":");
    }
    for dir in ["state/claims/folder", "state/exclusive/k"] {
        fs::create_dir_all(root.at(dir)).unwrap();
    }
    fs::write(root.at("state/claims/file"), "a note\n").unwrap();
    let out = root.harness(&["run", "--drain", "--workers", "2"]);
    let said = words(&out);
    assert_eq!(out.status.code(), Some(111), "{said}");
    assert!(root.is_done("fine"), "{said}");
    for name in ["file", "folder", "keyed"] {
        let why = format!("{name} stays in pending/: cannot claim: ");
        assert!(said.contains(&why), "{said}");
    }
    fs::remove_dir(root.at("state/claims/folder")).unwrap();
    fs::remove_dir(root.at("state/exclusive/k")).unwrap();
    fs::remove_file(root.at("state/claims/file")).unwrap();
    assert_eq!(root.drain().status.code(), Some(0));
    root.assert_nothing_left();
}
