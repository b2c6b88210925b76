//! The hooks that an attempt waits for, in its worktree: `worktree-setup` and `before-start`.

use std::fs;

use serde_json::Value;

use super::{hook, notes, ran, said, session, until};
use crate::support::{Root, git, is_alive, kill};

/// A ROOT with a repository that ignores `kept`.
fn ignoring() -> Root {
    let root = Root::with_repo();
    fs::write(root.repo().join(".gitignore"), "kept\n").unwrap();
    commit(&root, "ignore");
    root
}

fn commit(root: &Root, what: &str) {
    git(&root.repo(), &["add", "-A"]);
    git(&root.repo(), &["commit", "-q", "--allow-empty", "-m", what]);
}

fn one_by_one(root: &Root) -> String {
    said(&root.harness(&["run", "--drain", "--workers", "1"]))
}

/// What a hook of this name was told: in ROOT, `told-NAME`.
fn told(root: &Root, name: &str) -> Value {
    serde_json::from_slice(&fs::read(root.at(format!("told-{name}"))).unwrap()).unwrap()
}

#[test]
fn a_worktree_is_set_up_once_for_each_base_and_its_agents_find_what_is_ignored() {
    let root = ignoring();
    let body = "cat >\"$HARNESS_ROOT/told-setup\"; echo \"$PWD $HARNESS_BASE_OID\" >>\"$HARNESS_ROOT/ran-setup\"\n\
                git rev-parse HEAD >kept; echo hello";
    hook(&root, "worktree-setup", body);
    for n in 0..3 {
        root.script(
            format!("x{n}"),
            "cat kept >\"$HARNESS_ROOT/found-$HARNESS_ITEM\"; echo 1 >\"$HARNESS_ITEM\"",
        );
    }
    let text = one_by_one(&root);
    let head = git(&root.repo(), &["rev-parse", "main"]);
    for n in 0..3 {
        let found = fs::read_to_string(root.at(format!("found-x{n}"))).unwrap();
        assert_eq!(found, head, "{text}");
        let files = git(
            &root.repo(),
            &["ls-tree", "--name-only", &format!("harness/x{n}/1")],
        );
        assert!(!files.contains("kept"), "{files}");
    }
    let worktree = fs::canonicalize(root.at("worktrees/agent-1")).unwrap();
    let line = format!("{} {}", worktree.display(), head.trim());
    assert_eq!(ran(&root, "setup"), [line], "{text}");
    let facts = told(&root, "setup");
    assert_eq!(facts["event"], "worktree-setup");
    assert_eq!(facts["base_oid"], head.trim());
    assert_eq!(facts["worktree"], worktree.to_str().unwrap());
    assert_eq!(facts["item"], "x0");
    let log = session(&root, "x0").join("hooks/worktree-setup.log");
    assert_eq!(fs::read_to_string(log).unwrap(), "hello\n");
    // Another base, another version of the hook, another slot's worktree: each once more.
    commit(&root, "next");
    for name in ["y0", "y1"] {
        root.script(name, ":");
    }
    one_by_one(&root);
    assert_eq!(ran(&root, "setup").len(), 2);
    hook(&root, "worktree-setup", &format!("{body}\n# changed"));
    root.script("z", ":");
    one_by_one(&root);
    assert_eq!(ran(&root, "setup").len(), 3);
    fs::rename(root.at("worktrees/agent-1"), root.at("worktrees/away")).unwrap();
    root.script("new", ":");
    one_by_one(&root);
    assert_eq!(ran(&root, "setup").len(), 4);
    root.assert_nothing_left();
}

#[test]
fn what_a_hook_leaves_in_a_worktree_is_nobodys_work() {
    for name in ["worktree-setup", "before-start"] {
        let root = ignoring();
        hook(
            &root,
            name,
            "echo 1 >stray; mkdir -p deep/er; echo 2 >deep/er/stray; echo more >>README; echo x >kept\n\
             git config user.name Hook; git add stray; git commit -qm hook; git branch of-hook; echo 3 >staged; git add staged",
        );
        root.script("x", "ls -A >\"$HARNESS_ROOT/seen\"; git add -A; git commit -qm work --allow-empty; echo mine >mine");
        let text = one_by_one(&root);
        assert!(root.is_done("x"), "{name}: {text}");
        let seen = fs::read_to_string(root.at("seen")).unwrap();
        assert_eq!(seen, ".git\n.gitignore\nREADME\nkept\n", "{name}");
        let files = git(
            &root.repo(),
            &["diff", "--name-only", "main", "harness/x/1"],
        );
        assert_eq!(files, "mine\n", "{name}");
        let log = git(&root.repo(), &["log", "--format=%s", "main..harness/x/1"]);
        assert!(!log.contains("hook"), "{name}: {log}");
        let note = root.show("x")["attempts"][0]["notes"].to_string();
        assert!(note.contains(&format!("hooks/{name}: ")), "{name}: {note}");
        assert!(
            note.contains("README") && note.contains(".gitignore"),
            "{name}: {note}"
        );
    }
}

#[test]
fn a_set_up_that_fails_is_a_note_and_tried_again_with_the_next_item() {
    let root = ignoring();
    hook(
        &root,
        "worktree-setup",
        "echo >>\"$HARNESS_ROOT/ran-setup\"; [ -e \"$HARNESS_ROOT/works\" ] || { echo 'error: no network' >&2; exit 7; }",
    );
    root.script("a", "echo 1 >a");
    let text = one_by_one(&root);
    assert!(root.is_done("a"));
    let why = "hooks/worktree-setup: exit status 7: error: no network";
    assert!(text.contains(why), "{text}");
    assert!(root.ok(&["show", "a"]).contains(why));
    fs::write(root.at("works"), "").unwrap();
    for name in ["b", "c"] {
        root.script(name, ":");
        one_by_one(&root);
    }
    assert_eq!(ran(&root, "setup").len(), 2);
}

#[test]
fn a_retry_that_goes_on_from_an_agents_commit_is_set_up_at_the_base() {
    let root = ignoring();
    root.config(
        "agent = \"own\"\n[repo]\npath = \"repo\"\n[integrate]\nmode = \"review\"\n[agents.own]\ncommand = [\"sh\", \"{{PROMPT_FILE}}\"]\n",
    );
    root.drop_file("x", b"ls >\"$HARNESS_ROOT/seen-by-$HARNESS_ATTEMPT\"; echo evil >>tool; git add tool; git commit -qm tool\n", 0o644);
    one_by_one(&root);
    assert!(root.at("queue/review/x").exists(), "{}", root.picture());
    // It finds nothing of the agent's branch, and the agent finds its own.
    hook(
        &root,
        "worktree-setup",
        "ls >\"$HARNESS_ROOT/seen\"; echo 1 >kept",
    );
    root.ok(&["reject", "x", "--comment", "more"]);
    one_by_one(&root);
    assert_eq!(fs::read_to_string(root.at("seen")).unwrap(), "README\n");
    let seen = fs::read_to_string(root.at("seen-by-2")).unwrap();
    assert!(seen.contains("kept\n") && seen.contains("tool\n"), "{seen}");
}

#[test]
fn a_hook_before_the_start_is_waited_for_and_ended_at_its_time_with_all_that_it_started() {
    let root = Root::plain();
    root.config("hook_timeout = 1\n[repo]\npath = \"none\"\n");
    hook(
        &root,
        "before-start",
        "cat >\"$HARNESS_ROOT/told-start\"; pwd >\"$HARNESS_ROOT/where\"; touch ready\n\
         case $HARNESS_ITEM in\n\
         hangs) trap '' TERM; setsid sleep 600 & echo $! >\"$HARNESS_ROOT/left-hangs\"; while :; do sleep 1; done;;\n\
         forks) setsid sleep 600 & echo $! >\"$HARNESS_ROOT/left-forks\";;\n\
         floods) head -c 500000000 /dev/zero;;\n\
         esac",
    );
    for name in ["plain", "forks", "floods", "hangs"] {
        root.script(
            name,
            "test -e ready && touch \"$HARNESS_ROOT/began-$HARNESS_ITEM\"",
        );
        let text = one_by_one(&root);
        assert!(root.at(format!("began-{name}")).exists(), "{name}: {text}");
        assert!(root.is_done(name), "{name}: {text}");
    }
    let facts = told(&root, "start");
    assert_eq!(facts["event"], "before-start");
    assert_eq!(facts["item"], "hangs");
    assert_eq!(facts["started_at"], Value::Null);
    for name in ["hangs", "forks"] {
        let pid = fs::read_to_string(root.at(format!("left-{name}"))).unwrap();
        assert!(!is_alive(pid.trim().parse().unwrap()), "{name}");
    }
    let notes = root.show("hangs")["attempts"][0]["notes"].to_string();
    assert!(
        notes.contains("was still running after 1s and was killed"),
        "{notes}"
    );
    let log = session(&root, "floods").join("hooks/before-start.log");
    assert!(log.metadata().unwrap().len() <= 1 << 20);
    root.assert_nothing_left();
}

#[test]
fn a_harness_that_is_stopped_or_killed_while_a_hook_runs_leaves_nothing_and_starts_it_anew() {
    for (name, signal) in [
        ("worktree-setup", "KILL"),
        ("worktree-setup", "TERM"),
        ("before-start", "KILL"),
        ("before-start", "TERM"),
    ] {
        let root = ignoring();
        hook(
            &root,
            name,
            &format!(
                "echo $$ >>\"$HARNESS_ROOT/ran-{name}\"; echo half >stray; {}; touch kept",
                until("go")
            ),
        );
        root.script("x", "ls -A >\"$HARNESS_ROOT/seen\"; echo 1 >made");
        let mut first = root.start(&["--workers", "1"]);
        root.wait_until("the hook runs", || ran(&root, name).len() == 1);
        let pid = |n: usize| ran(&root, name)[n].parse::<u32>().unwrap();
        kill(first.pid(), signal);
        first.wait();
        if signal == "TERM" {
            assert!(!is_alive(pid(0)), "{name}");
            assert!(
                root.at("queue/pending/x").exists(),
                "{name}: {}",
                first.said()
            );
        }
        let mut second = root.start(&["--drain", "--workers", "1"]);
        root.wait_until("it runs again", || ran(&root, name).len() == 2);
        // Two never work in one worktree.
        assert!(!is_alive(pid(0)), "{name} {signal}: {}", second.said());
        fs::write(root.at("go"), "").unwrap();
        assert_eq!(second.wait(), Some(0), "{}", second.said());
        assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 1);
        assert_eq!(
            fs::read_to_string(root.at("seen")).unwrap(),
            ".git\n.gitignore\nREADME\nkept\n"
        );
        let files = git(
            &root.repo(),
            &["diff", "--name-only", "main", "harness/x/1"],
        );
        assert_eq!(files, "made\n", "{name} {signal}");
        root.assert_nothing_left();
    }
}

#[test]
fn an_item_that_is_taken_away_while_a_hook_runs_is_not_started() {
    let root = Root::plain();
    hook(
        &root,
        "before-start",
        &format!("echo >>\"$HARNESS_ROOT/ran-start\"; {}", until("never")),
    );
    notes(&root, "after-end");
    root.script("x", "touch \"$HARNESS_ROOT/began\"");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("the hook runs", || ran(&root, "start").len() == 1);
    root.ok(&["cancel", "x"]);
    assert_eq!(
        run.wait().map(|code| code < 2),
        Some(true),
        "{}",
        run.said()
    );
    assert!(!root.at("began").exists() && root.is_parked("x"));
    assert_eq!(ran(&root, "after-end").len(), 0, "nothing has begun");
    root.assert_nothing_left();
}

#[test]
fn where_ignored_files_go_with_each_item_it_is_set_up_for_each() {
    let root = ignoring();
    root.config("[repo]\npath = \"repo\"\nclean = \"all\"\n");
    hook(
        &root,
        "worktree-setup",
        "echo >>\"$HARNESS_ROOT/ran-setup\"; echo 1 >kept",
    );
    for name in ["a", "b"] {
        root.script(name, "test -e kept");
        one_by_one(&root);
        assert!(root.is_done(name), "{}", root.picture());
    }
    assert_eq!(ran(&root, "setup").len(), 2);
    // A gate on the base checks it out again, and takes what is ignored.
    root.config("[repo]\npath = \"repo\"\nclean = \"all\"\n[gates.g]\nwhen = [\"before\"]\nscript = \"test -e kept\"\n");
    commit(&root, "next");
    root.script("c", "test -e kept");
    let text = one_by_one(&root);
    assert!(root.is_done("c"), "{text}\n{}", root.picture());
    assert_eq!(root.show("c")["attempts"].as_array().unwrap().len(), 1);
    assert!(!text.contains("gate        c"), "{text}");
}

#[test]
fn a_plain_folder_is_set_up_once() {
    let root = Root::plain();
    hook(
        &root,
        "worktree-setup",
        "echo >>\"$HARNESS_ROOT/ran-setup\"; echo 1 >tool",
    );
    for name in ["a", "b"] {
        root.script(name, "test -e tool");
        one_by_one(&root);
        assert!(root.is_done(name), "{}", root.picture());
    }
    assert_eq!(ran(&root, "setup").len(), 1);
}
