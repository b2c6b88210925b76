//! What a slot's repository may have become: nothing of it leads harness's git elsewhere or loses
//! what the agent made.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{AUTHOR, git, ours, put, salvaged, world};
use crate::git::{Base, Git, Hub, Worktree};

fn commit(tree: &Worktree, file: &str) -> String {
    put(&tree.path().join(file), file);
    git(tree.path(), &["add", file]);
    git(tree.path(), &["commit", "-q", "-m", file]);
    git(tree.path(), &["rev-parse", "HEAD"])
}

fn assert_next_is_clean(hub: &Hub, tree: &Worktree, base: &Base, what: &str) {
    tree.checkout("harness/next/1", base)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let status = ["status", "--porcelain", "--ignored"];
    assert_eq!(git(tree.path(), &status), "", "{what}");
    assert_eq!(git(tree.path(), &["rev-parse", "HEAD"]), base.oid, "{what}");
    git(hub.dir(), &["fsck", "--full"]);
}

#[test]
fn what_tells_git_lies_about_history_is_not_believed() {
    type Lie = fn(&Path, &Path, &str);
    let lies: [(&str, Lie); 9] = [
        ("grafts", |slot, _, head| {
            put(&slot.join("info/grafts"), &format!("{head}\n"));
        }),
        ("shallow", |slot, _, head| {
            put(&slot.join("shallow"), &format!("{head}\n"));
        }),
        ("replaced", |_, d, head| {
            let other = git(
                d,
                &["commit-tree", "-m", "other", &format!("{head}^{{tree}}")],
            );
            git(d, &["replace", head, &other]);
        }),
        ("hidden", |_, d, _| {
            git(d, &["config", "transfer.hideRefs", "refs"]);
            git(d, &["config", "uploadpack.packObjectsHook", "false"]);
            git(d, &["config", "core.alternateRefsCommand", "false"]);
        }),
        ("unreadable settings", |slot, _, _| {
            fs::remove_file(slot.join("config")).unwrap();
            fs::create_dir(slot.join("config")).unwrap();
        }),
        ("of a git of tomorrow", |slot, _, _| {
            put(
                &slot.join("config"),
                "[core]\nrepositoryformatversion = 7\n",
            );
        }),
        ("a graph of other trees", |slot, d, head| {
            git(d, &["commit-graph", "write", "--reachable"]);
            let file = slot.join("objects/info/commit-graph");
            let mut graph = fs::read(&file).unwrap();
            let tree = git(d, &["rev-parse", &format!("{head}^{{tree}}")]);
            let hex = |at: usize| u8::from_str_radix(&tree[at..at + 2], 16).unwrap();
            let tree: Vec<u8> = (0..40).step_by(2).map(hex).collect();
            let at = graph.windows(20).position(|w| w == tree).unwrap();
            graph[at] ^= 1;
            fs::remove_file(&file).unwrap();
            fs::write(&file, graph).unwrap();
        }),
        ("alternates elsewhere", |slot, _, _| {
            put(&slot.join("objects/info/alternates"), "/nowhere\n");
        }),
        ("odd objects", |slot, _, _| {
            nix::unistd::mkfifo(
                &slot.join("objects/pack/x.idx"),
                nix::sys::stat::Mode::S_IRWXU,
            )
            .unwrap();
            symlink("/dev/zero", slot.join("objects/info/commit-graph")).unwrap();
        }),
    ];
    for (what, lie) in lies {
        let w = world();
        let (hub, tree, base) = w.ready();
        let before = w.print();
        commit(&tree, "one");
        let head = commit(&tree, "two");
        fs::create_dir_all(tree.slot.dir.join("objects/pack")).unwrap();
        lie(&tree.slot.dir, tree.path(), &head);
        put(&tree.path().join("three"), "3");
        let got = tree
            .collect("harness/x/1", &base, "m", AUTHOR)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!((got.commits, got.files_changed), (3, 3), "{what}: {got:?}");
        let parent = git(hub.dir(), &["rev-parse", &format!("{}^", got.head)]);
        assert_eq!(parent, head, "{what}");
        assert_next_is_clean(&hub, &tree, &base, what);
        assert_eq!(w.print(), before, "{what}");
    }
}

#[test]
fn a_commit_whose_objects_are_gone_costs_no_file_and_its_repository_is_kept() {
    let w = world();
    let (hub, tree, base) = w.ready();
    commit(&tree, "one");
    let blob = git(tree.path(), &["rev-parse", "HEAD:one"]);
    fs::remove_file(tree.slot.objects().join(&blob[..2]).join(&blob[2..])).unwrap();
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    // What lies in the tree is committed; the agent's own commit cannot be.
    assert_eq!((got.commits, got.files_changed), (1, 1), "{got:?}");
    assert!(got.notes[0].contains("cannot be read"), "{got:?}");
    assert_next_is_clean(&hub, &tree, &base, "damaged");
    let kept = w.root.worktrees().join("agent-1.git.~1~/HEAD");
    assert!(kept.exists());
}

#[test]
fn a_slots_repository_that_leads_elsewhere_is_left_alone() {
    let w = world();
    let (hub, tree, base) = w.ready();
    let before = w.print();
    let modules = w.user.join(".git/worktrees/agent-1/modules/lib");
    fs::create_dir_all(&modules).unwrap();
    for part in ["", "worktrees", "worktrees/agent-1", "objects", "refs"] {
        tree.checkout("harness/x/1", &base).unwrap();
        put(&tree.path().join("work"), "1");
        let theirs = match part {
            "" => tree.slot.dir.clone(),
            part => tree.slot.dir.join(part),
        };
        fs::remove_dir_all(&theirs).unwrap();
        symlink(w.user.join(".git").join(part), &theirs).unwrap();
        let got = tree.collect("harness/x/1", &base, "m", AUTHOR);
        let got = got.unwrap_or_else(|e| panic!("{part}: {e}"));
        assert_eq!((got.commits, got.files_changed), (1, 1), "{part}: {got:?}");
        assert_next_is_clean(&hub, &tree, &base, part);
        assert!(modules.exists(), "{part}");
    }
    fs::remove_dir_all(w.user.join(".git/worktrees")).unwrap();
    assert_eq!(w.print(), before);
}

#[test]
fn what_a_sparse_checkout_leaves_out_is_not_deleted() {
    let w = world();
    put(&w.user.join("in/file"), "in\n");
    put(&w.user.join("out/fi le*"), "out\n");
    git(&w.user, &["add", "in", "out"]);
    git(&w.user, &["commit", "-q", "-m", "folders"]);
    let (hub, tree, base) = w.ready();
    let d = tree.path();
    git(d, &["sparse-checkout", "set", "in"]);
    assert!(!d.join("out").exists());
    put(&d.join("in/file"), "changed\n");
    commit(&tree, "in/new");
    fs::remove_file(d.join("a")).unwrap();
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    let names = ["diff", "--name-status", &base.oid, &got.head];
    assert_eq!(git(hub.dir(), &names), "D\ta\nM\tin/file\nA\tin/new");
    assert_eq!(ours(&tree, &["status", "--porcelain"]), "");
    assert_next_is_clean(&hub, &tree, &base, "sparse");
    assert!(salvaged(&hub).is_empty());
    let flags = Git::at(d).args(["ls-files", "-t"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&flags.stdout).contains("S "));
}

/// Filters and merge drivers are the user's, and run where the user works.
#[test]
fn a_merge_that_is_begun_for_an_agent_runs_no_program_of_its_worktree() {
    let w = world();
    let script = "#!/bin/sh\necho users >> $2; cat\n";
    for name in ["filter.sh", "driver.sh"] {
        put(&w.user.join(name), script);
    }
    put(&w.user.join(".gitattributes"), "*.x filter=own merge=own\n");
    put(&w.user.join("f.x"), "one\n");
    let seen = w.root.path().join("seen");
    let own = |what: &str| format!("sh ./{what}.sh x {}", seen.display());
    for (key, command) in [
        ("filter.own.clean", own("filter")),
        ("filter.own.smudge", own("filter")),
        (
            "merge.own.driver",
            format!("{} < %B > %A; test -s \"%O\" && exit 1", own("driver")),
        ),
    ] {
        git(&w.user, &["config", key, &command]);
    }
    git(&w.user, &["add", "-A"]);
    git(&w.user, &["commit", "-q", "-m", "filters"]);
    let (hub, tree, base) = w.ready();
    let planted = "#!/bin/sh\necho planted >> $2; cat\n";
    for name in ["filter.sh", "driver.sh"] {
        put(&tree.path().join(name), planted);
    }
    put(&tree.path().join("f.x"), "agents\n");
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    put(&w.user.join("f.x"), "users\n");
    git(&w.user, &["commit", "-q", "-am", "users"]);
    let into = hub.base(None).unwrap();
    let from = Base {
        name: "main".into(),
        oid: got.head,
    };
    tree.checkout("harness/x/2", &from).unwrap();
    fs::remove_file(&seen).unwrap();
    assert!(tree.begin_merge("harness/x/2", &into).unwrap());
    let seen = fs::read_to_string(&seen).unwrap();
    assert!(
        seen.contains("users") && !seen.contains("planted"),
        "{seen}"
    );
    assert_eq!(
        fs::read_to_string(tree.path().join("f.x")).unwrap(),
        "users\n"
    );
    let unmerged = ["ls-files", "--unmerged", "--", "f.x"];
    assert!(!git(tree.path(), &unmerged).is_empty());
}
