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
    let trees = fs::canonicalize(root.at("worktrees")).unwrap();
    let said = said.unwrap();
    let mut agents = ["agent-1", "agent-2", "agent-3"].iter();
    assert!(
        agents.any(|a| said.trim() == trees.join(a).to_str().unwrap()),
        "{said}"
    );
}

/// Several repositories: each item works in the one it names, and of two idle agents the one that
/// last worked there gets it.
#[test]
fn an_agent_keeps_to_the_repository_it_knows() {
    let root = Root::with_repo();
    let web = root.at("web");
    fs::create_dir(&web).unwrap();
    git(&web, &["init", "-q", "-b", "trunk"]);
    git(&web, &["commit", "-q", "--allow-empty", "-m", "one"]);
    root.config("[repo]\npath = \"repo\"\n[repos.web]\npath = \"web\"\n");
    let _run = root.start(&["--workers", "2"]);
    let meet = root.at("meet");
    fs::create_dir(&meet).unwrap();
    // Each waits for the other, so that they are on two agents.
    let body = |own: &str, other: &str| {
        let m = meet.display();
        format!("touch {m}/{own}; while [ ! -e {m}/{other} ]; do :; done; touch made")
    };
    root.script("here", &body("a", "b"));
    root.script("there", &format!("#harness repo: web\n{}", body("b", "a")));
    let agent = |name: &str| root.show(name)["attempts"][0]["slot"].clone();
    root.wait_until("both are done", || {
        root.is_done("here") && root.is_done("there")
    });
    assert_ne!(agent("here"), agent("there"));
    assert_eq!(
        git(
            &web,
            &["show", "--format=", "--name-only", "harness/there/1"]
        ),
        "made\n"
    );
    for n in 0..3 {
        let (one, two) = (format!("there-{n}"), format!("here-{n}"));
        for (name, head, like) in [(&one, "#harness repo: web\n", "there"), (&two, "", "here")] {
            let idle = || {
                let agents = ["agent-1", "agent-2"].map(|a| {
                    let status = root.at("state/agents").join(a).join("status.json");
                    let text = fs::read_to_string(status).unwrap_or_default();
                    text.contains("\"state\":\"idle\"")
                });
                agents == [true, true]
            };
            root.wait_until("both agents are idle", idle);
            root.script(name, &format!("{head}:"));
            root.wait_until("it is done", || root.is_done(name));
            assert_eq!(agent(name), agent(like), "{name}");
        }
    }
}

/// An agent that destroys its own worktree, and a harness that dies meanwhile: a tree that had to
/// be made anew is nobody's work, and must not be published as "delete every file".
#[test]
fn a_worktree_that_its_agent_destroyed_is_not_published() {
    for (what, outcome) in [(".git", "no_change"), ("", "failed")] {
        let root = Root::with_repo();
        let (gone, go) = (root.at("gone"), root.at("go"));
        root.script(
            "vandal",
            &format!(
                "#harness retries: 0\nrm -rf \"$PWD/{what}\"; cd /; touch {}; while [ ! -e {} ]; do :; done",
                gone.display(),
                go.display()
            ),
        );
        let run = root.start(&["--workers", "1"]);
        root.wait_until("it has destroyed its worktree", || gone.exists());
        run.kill9();
        fs::write(&go, "").unwrap();
        root.drain();
        let show = root.show("vandal");
        assert_eq!(show["outcome"], outcome, "{what:?}: {show:#}");
        assert!(!show["attempts"][0]["notes"].as_array().unwrap().is_empty());
        let branches = git(&root.repo(), &["branch", "--format=%(refname:short)"]);
        assert_eq!(branches, "main\n", "{what:?}");
        // The next item finds a whole worktree again.
        root.script("next", "test -e README && echo x > made");
        root.drain();
        assert_eq!(
            root.show("next")["outcome"],
            "succeeded",
            "{}",
            root.picture()
        );
        root.assert_nothing_left();
    }
}
