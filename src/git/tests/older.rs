//! What an older version left: hubs and worktrees that agents' git worked in.

use std::fs;
use std::path::PathBuf;

use super::{AUTHOR, World, git, ours, put, salvaged, world};
use crate::git::{Git, Hub};

/// A hub and a worktree of it as an older version made them, with what an agent set.
fn old_world() -> (World, Hub) {
    let w = world();
    let hub = w.hub();
    let dir = w.slot(1);
    let add = ["worktree", "add", "-q", "-b", "harness/x/1"];
    let at = [dir.to_str().unwrap(), "refs/harness/seed"];
    git(hub.dir(), &[&add[..], &at].concat());
    git(&dir, &["config", "user.name", "Mallory"]);
    git(&dir, &["branch", "fix/login"]);
    git(&dir, &["tag", "v1"]);
    put(&hub.dir().join("info/exclude"), "work\n");
    fs::remove_file(hub.dir().join("harness.repository")).unwrap();
    (w, hub)
}

#[test]
fn an_agent_of_an_older_version_is_adopted_and_its_worktree_then_taken_over() {
    let (w, _) = old_world();
    let dir = w.slot(1);
    let hub = w.hub();
    let base = hub.base(None).unwrap();
    // Its agent is still at work.
    put(&dir.join("made"), "1");
    git(&dir, &["add", "made"]);
    git(&dir, &["commit", "-q", "-m", "mine"]);
    put(&dir.join("work"), "2");
    let tree = hub.worktree_as_it_is(&dir).unwrap();
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.commits, got.files_changed), (2, 2), "{got:?}");

    put(&dir.join("later"), "precious");
    put(&dir.join("a"), "hidden");
    git(&dir, &["update-index", "--skip-worktree", "run.sh"]);
    put(&dir.join("run.sh"), "hidden, too");
    let tree = hub.worktree(&dir).unwrap();
    tree.checkout("harness/y/1", &base).unwrap();
    assert_eq!(git(&dir, &["status", "--porcelain", "--ignored"]), "");
    assert_eq!(
        fs::read_to_string(dir.join("run.sh")).unwrap(),
        "#!/bin/sh\n"
    );
    let at = PathBuf::from(git(&dir, &["rev-parse", "--git-common-dir"]));
    assert_eq!(at, tree.slot.dir);
    assert!(!hub.dir().join("worktrees/agent-1").exists());
    let holds = |name: &String| {
        let git = Git::on(hub.dir()).args(["show", &format!("{name}:later")]);
        git.output().unwrap().stdout == b"precious"
    };
    assert!(salvaged(&hub).iter().any(holds));
    put(&dir.join("next"), "3");
    let got = tree.collect("harness/y/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.commits, got.files_changed), (1, 1), "{got:?}");
    let who = ours(&tree, &["log", "-1", "--format=%cn"]);
    assert_eq!(who, "An Agent");
}

#[test]
fn what_agents_of_an_older_version_left_in_the_hub_is_put_away() {
    let (w, old) = old_world();
    let half = old.dir().join("worktrees/half");
    fs::create_dir(&half).unwrap();
    let hub = w.hub();
    let refs = git(hub.dir(), &["for-each-ref", "--format=%(refname)"]);
    for name in ["refs/heads/fix/login", "refs/tags/v1"] {
        assert!(!refs.contains(name), "{refs}");
        let short = name.trim_start_matches("refs/");
        assert!(refs.contains(&format!("salvage/before/{short}/")), "{refs}");
    }
    assert!(refs.contains("refs/heads/harness/x/1") && refs.contains("refs/heads/main"));
    assert!(!half.exists() && !hub.dir().join("info/exclude").exists());
    let name = git(hub.dir(), &["config", "user.name"]);
    assert_eq!(name, "U \"quoted\" ü");
}
