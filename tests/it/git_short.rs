//! How much of git stands between a claim and its agent: each command costs milliseconds, and a look
//! at every file of a large repository tens of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Root, describe};

#[test]
fn a_used_worktree_is_looked_at_once_and_only_what_differs_is_checked_out() {
    let root = Root::with_repo();
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    let log = bin.join("log");
    let telling = format!(
        "#!/bin/sh\necho \"git $*\" >>'{}'\nPATH=${{PATH#*:}} exec git \"$@\"\n",
        log.display()
    );
    fs::write(bin.join("git"), telling).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["a", "b"] {
        root.script(name, &format!("echo agent >>'{}'; : >made", log.display()));
    }
    let path = std::env::var("PATH").unwrap();
    let mut run = root.command();
    run.args(["run", "--drain", "--workers", "1"]);
    run.env("PATH", format!("{}:{path}", bin.display()));
    let out = run.output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let log = fs::read_to_string(log).unwrap();
    let lives: Vec<&str> = log.split("agent\n").collect();
    assert_eq!(lives.len(), 3, "{log}");
    // The last thing of an item that changed something is that its branch is held no longer.
    let between: Vec<&str> = lives[1].lines().collect();
    let held = "update-ref -d refs/harness/held/";
    let published = between.iter().rposition(|l| l.contains(held)).unwrap();
    let begun = between[published + 1..].join("\n");
    assert_eq!(begun.lines().count(), 5, "{begun}");
    for command in [
        " rev-parse HEAD^{commit} ",
        " status --porcelain=v2 ",
        " diff-tree -r --raw ",
        " checkout --quiet --no-overlay ",
        " -- made",
        " update-ref refs/heads/harness/b/1 ",
    ] {
        assert_eq!(begun.matches(command).count(), 1, "{command}: {begun}");
    }
}
