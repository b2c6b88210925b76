//! The whole path: from a dropped file to a branch, in words a user would use.

use std::fs;

use crate::support::{Root, git};

#[test]
fn a_script_in_a_repository_becomes_a_branch_and_touches_nothing_else() {
    let root = Root::with_repo();
    let repo = root.repo();
    fs::write(repo.join("dirty"), "mine").unwrap();
    git(&repo, &["add", "dirty"]);
    fs::write(repo.join("README"), "edited\n").unwrap();
    let before = checkout(&repo);
    root.script(
        "job.sh",
        "echo made > made; git add made; git -c user.name=a -c user.email=a@b commit -qm made; echo loose > loose",
    );
    root.drain();
    let show = root.show("job.sh");
    assert_eq!(show["state"], "done");
    assert_eq!(show["outcome"], "succeeded");
    assert_eq!(show["branch"], "harness/job.sh/1");
    assert_eq!(git(&repo, &["show", "harness/job.sh/1:loose"]), "loose\n");
    assert_eq!(
        git(&repo, &["log", "--format=%s", "main..harness/job.sh/1"])
            .lines()
            .count(),
        2
    );
    assert_eq!(checkout(&repo), before);
    assert_eq!(
        git(&repo, &["branch", "--format=%(refname:short)"]),
        "harness/job.sh/1\nmain\n"
    );
    root.assert_nothing_left();
}

/// What of a user's checkout must stay as it is, to the byte.
fn checkout(repo: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = ["README", "dirty", ".git/HEAD", ".git/index", ".git/config"]
        .map(|f| (f.to_owned(), fs::read(repo.join(f)).unwrap()))
        .into();
    all.push((
        "FETCH_HEAD".into(),
        fs::read(repo.join(".git/FETCH_HEAD")).unwrap_or_default(),
    ));
    all.push(("stash".into(), git(repo, &["stash", "list"]).into_bytes()));
    all
}

/// Programs that trust `$PWD` more than their directory would work in the harness's own.
#[test]
fn an_agent_finds_its_own_directory_in_pwd() {
    let root = Root::plain();
    // No shell: a shell puts PWD right by itself. The script's own name is no variable, so it fails.
    root.drop_file(
        "where",
        b"#!/usr/bin/printenv PWD\n#harness retries: 0\n",
        0o755,
    );
    root.drain();
    let session = root.show("where")["attempts"][0]["session"]
        .as_str()
        .unwrap()
        .to_owned();
    let said = fs::read_to_string(root.at("state/sessions").join(session).join("stdout.log"));
    let tree = fs::canonicalize(root.at("worktrees/agent-1")).unwrap();
    let others = ["agent-2", "agent-3"].map(|a| tree.with_file_name(a));
    let said = said.unwrap();
    assert!(
        [tree]
            .iter()
            .chain(&others)
            .any(|t| said.trim() == t.to_str().unwrap()),
        "{said}"
    );
}
