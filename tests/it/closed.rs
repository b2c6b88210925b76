//! A folder of the tree that is closed (another owner, read-only, immutable) is the tree's trouble: no
//! item is refused or counted for it, it is named, and a drain ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Root, describe};
use crate::trouble::{as_nobody, is_root, run_to_end, words};

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
