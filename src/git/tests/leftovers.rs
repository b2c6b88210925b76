//! What an agent or a crash leaves in a worktree is collected, salvaged or moved away whole.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{AUTHOR, git, ours, put, salvaged, world};
use crate::error::Kind;
use crate::git::Git;

#[test]
fn leftovers_of_every_kind_are_collected() {
    let w = world();
    type Mess = fn(&Path);
    let messes: [(&str, Mess); 9] = [
        ("untracked", |d| put(&d.join("new/deep file"), "x")),
        ("staged", |d| {
            put(&d.join("new"), "x");
            git(d, &["add", "new"]);
        }),
        ("deleted", |d| fs::remove_file(d.join("a")).unwrap()),
        ("mode", |d| {
            fs::set_permissions(d.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap()
        }),
        ("detached", |d| {
            git(d, &["checkout", "-q", "--detach"]);
            put(&d.join("a"), "changed");
            git(d, &["commit", "-q", "-am", "mine"]);
        }),
        ("other branch", |d| {
            git(d, &["checkout", "-q", "-b", "feature"]);
            put(&d.join("a"), "changed");
        }),
        ("on main", |d| {
            git(d, &["checkout", "-q", "main"]);
            put(&d.join("a"), "changed");
            git(d, &["commit", "-q", "-am", "mine"]);
        }),
        ("orphan", |d| {
            drop(git(d, &["checkout", "-q", "--orphan", "o"]))
        }),
        ("stale lock, broken index", |d| {
            put(&d.join("new"), "x");
            let admin = PathBuf::from(git(d, &["rev-parse", "--absolute-git-dir"]));
            put(&admin.join("index.lock"), "");
            put(&admin.join("index"), "no index");
        }),
    ];
    for (i, (what, mess)) in messes.into_iter().enumerate() {
        let hub = w.hub();
        let base = hub.base(None).unwrap();
        let tree = hub.worktree(&w.slot(1)).unwrap();
        let branch = format!("harness/x/{i}");
        tree.checkout(&branch, &base)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(git(tree.path(), &["status", "--porcelain"]), "", "{what}");
        mess(tree.path());
        let got = tree
            .collect(&branch, &base, "left over", AUTHOR)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(ours(&tree, &["status", "--porcelain"]), "", "{what}");
        assert_eq!(
            hub.read_ref(&format!("refs/heads/{branch}")),
            Some(got.head.clone()),
            "{what}"
        );
        // A branch without a commit is no work.
        let work = if what == "orphan" { 0 } else { 1 };
        assert_eq!(
            (got.files_changed, got.commits),
            (work, work),
            "{what}: {got:?}"
        );
    }
}

#[test]
fn an_agent_that_ends_on_a_base_that_moved_on_has_its_branch_all_the_same() {
    let w = world();
    let (hub, tree, base) = w.ready();
    put(&tree.path().join("new"), "mine");
    git(tree.path(), &["add", "new"]);
    git(tree.path(), &["commit", "-q", "-m", "mine"]);
    let mine = git(tree.path(), &["rev-parse", "HEAD"]);
    git(&w.user, &["commit", "-q", "--allow-empty", "-m", "2"]);
    assert_ne!(hub.base(None).unwrap(), base);
    git(tree.path(), &["checkout", "-q", "main"]);
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.head, got.commits), (mine, 1));
}

#[test]
fn a_conflicted_merge_is_committed_as_it_is_and_ended() {
    let w = world();
    let (hub, tree, base) = w.ready();
    let d = tree.path();
    git(d, &["checkout", "-q", "-b", "theirs"]);
    put(&d.join("a"), "theirs\n");
    git(d, &["commit", "-q", "-am", "theirs"]);
    git(d, &["checkout", "-q", "harness/x/1"]);
    put(&d.join("a"), "ours\n");
    git(d, &["commit", "-q", "-am", "ours"]);
    assert!(!Git::at(d).args(["merge", "theirs"]).output().unwrap().ok());
    let got = tree
        .collect("harness/x/1", &base, "left over", AUTHOR)
        .unwrap();
    assert!(git(d, &["show", &format!("{}:a", got.head)]).contains("<<<<<<<"));
    assert_eq!(
        git(d, &["rev-parse", &format!("{}^2", got.head)]),
        git(d, &["rev-parse", "theirs"])
    );
    assert_eq!(
        ours(&tree, &["log", "-1", "--format=%an %s"]),
        "An Agent left over"
    );

    // A half-done rebase with autostashed changes: nothing of it may reach the next item.
    git(d, &["merge", "--abort"]);
    git(d, &["checkout", "-q", "-b", "again", "theirs"]);
    put(&d.join("run.sh"), "put away\n");
    assert!(
        !Git::at(d)
            .args(["rebase", "--autostash", "harness/x/1"])
            .output()
            .unwrap()
            .ok()
    );
    tree.checkout("harness/y/1", &base).unwrap();
    assert!(!git(d, &["status"]).contains("rebas"));
    let kept = salvaged(&hub);
    let stash = kept.iter().find(|r| r.contains("autostash")).unwrap();
    assert_eq!(
        git(hub.dir(), &["show", &format!("{stash}:run.sh")]),
        "put away"
    );
    assert!(kept.len() >= 2, "{kept:?}");
}

#[test]
fn what_a_crash_left_is_salvaged_before_the_next_checkout() {
    let w = world();
    let (hub, tree, base) = w.ready();
    put(&tree.path().join("edit"), "precious");
    put(&tree.path().join("ignored"), "cache");
    git(
        tree.path(),
        &["commit", "-q", "--allow-empty", "-m", "unpublished"],
    );
    tree.checkout("harness/x/1", &base).unwrap();
    assert!(!tree.path().join("edit").exists());
    assert!(tree.path().join("ignored").exists());
    let kept = salvaged(&hub);
    assert!(kept.iter().any(|r| {
        Git::on(hub.dir())
            .args(["cat-file", "-e", &format!("{r}:edit")])
            .output()
            .unwrap()
            .ok()
    }));
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(git(tree.path(), &["rev-parse", "HEAD"]), base.oid);
    assert_eq!(tree.salvage("nothing").unwrap(), None);

    // Files that only the last item's rules ignored must not be committed by the next item.
    put(&tree.path().join(".gitignore"), "ignored\nout\n");
    put(&tree.path().join("out"), "built");
    tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    tree.checkout("harness/z/1", &base).unwrap();
    assert_eq!(git(tree.path(), &["status", "--porcelain"]), "");
}

#[test]
fn repositories_inside_the_tree_are_kept_whole() {
    let w = world();
    let (_hub, tree, base) = w.ready();
    for name in ["empty \"nest", "nest"] {
        fs::create_dir(tree.path().join(name)).unwrap();
        git(&tree.path().join(name), &["init", "-q"]);
        put(&tree.path().join(name).join("file"), "inner");
    }
    git(&tree.path().join("nest"), &["add", "-A"]);
    git(
        &tree.path().join("nest"),
        &[
            "-c",
            "user.name=n",
            "-c",
            "user.email=n@n",
            "commit",
            "-q",
            "-m",
            "n",
        ],
    );
    put(&tree.path().join("outer"), "x");
    // A clone is somebody else's project.
    git(tree.path(), &["clone", "-q", "nest", "clone"]);
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.files_changed, got.notes.len()), (3, 2), "{got:?}");
    assert_eq!(got.elsewhere.len(), 1, "{got:?}");
    assert!(tree.path().join("nest/file").exists());
    assert!(tree.path().join("clone/file").exists());
    // One committed as a link is the agent's work, too.
    git(tree.path(), &["init", "-q", "link"]);
    put(&tree.path().join("link/file"), "inner");
    let inner = tree.path().join("link");
    git(&inner, &["add", "-A"]);
    let me = ["-c", "user.name=n", "-c", "user.email=n@n"];
    git(&inner, &[&me[..], &["commit", "-q", "-m", "n"]].concat());
    git(tree.path(), &["add", "link"]);
    git(tree.path(), &["commit", "-q", "-m", "link"]);
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!(got.files_changed, 4, "{got:?}");
    tree.checkout("harness/y/1", &base).unwrap();
    let there = |name: &str| tree.path().join(name).exists();
    assert!(!there("nest") && !there("clone") && !there("link"));
    let beside = |name: &str| {
        let all = (1..=4).map(|k| w.root.worktrees().join(format!("agent-1.nested.~{k}~")));
        all.filter(|dir| dir.join(name).exists()).count()
    };
    assert_eq!((beside("HEAD"), beside("file")), (3, 1));
}

#[test]
fn hostile_file_names_survive() {
    let w = world();
    let (hub, tree, base) = w.ready();
    let names: [&[u8]; 6] = [
        b"new\nline",
        b"\"quote'",
        b"\xff\xfe",
        b"-rf",
        b":(top)x",
        b"$(touch y)",
    ];
    for name in names {
        put(&tree.path().join(OsStr::from_bytes(name)), "x");
    }
    let got = tree.collect("harness/x/1", &base, "m\0m", AUTHOR).unwrap();
    assert_eq!(got.files_changed, 6);
    put(&tree.path().join(OsStr::from_bytes(b"\xff2")), "x");
    assert!(
        tree.salvage("a b/..")
            .unwrap()
            .is_some_and(|r| r.starts_with("refs/harness/salvage/a%20b/"))
    );
    tree.checkout("harness/y/1", &base).unwrap();
    assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 4);
    assert_eq!(salvaged(&hub).len(), 2);
}

#[test]
fn submodules_are_brought_and_their_changes_kept() {
    let w = world();
    let lib = w.user.with_file_name("lib");
    fs::create_dir(&lib).unwrap();
    git(&lib, &["init", "-q", "-b", "main"]);
    put(&lib.join("code"), "v1\n");
    git(&lib, &["add", "-A"]);
    let me = ["-c", "user.name=u", "-c", "user.email=u@u"];
    git(&lib, &[&me[..], &["commit", "-q", "-m", "1"]].concat());
    let file = [
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
    ];
    let add = [&file[..], &[lib.to_str().unwrap(), "sub dir"]].concat();
    git(&w.user, &add);
    git(&w.user, &["commit", "-q", "-m", "submodule"]);
    let (hub, tree, base) = w.ready();
    let sub = tree.path().join("sub dir");
    put(&sub.join("code"), "v2\n");
    put(&sub.join("new"), "new\n");
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.commits, got.files_changed), (1, 1), "{got:?}");
    assert!(got.elsewhere.is_empty(), "{got:?}");
    let inner = git(
        tree.path(),
        &["rev-parse", &format!("{}:sub dir", got.head)],
    );
    assert_eq!(git(&sub, &["show", &format!("{inner}:code")]), "v2");
    // A commit in the submodule is recorded, and all is kept when the tree is reset.
    put(&sub.join("newest"), "newest\n");
    git(&sub, &["add", "-A"]);
    git(&sub, &[&me[..], &["commit", "-q", "-m", "2"]].concat());
    let inner = git(&sub, &["rev-parse", "HEAD"]);
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.commits, got.files_changed), (2, 1), "{got:?}");
    put(&sub.join("newer"), "newer\n");
    tree.checkout("harness/y/1", &base).unwrap();
    assert!(!sub.join("newer").exists() && !sub.join("new").exists());
    let [(module, _)] = &hub.modules_with("harness/x/1").unwrap()[..] else {
        panic!("one submodule");
    };
    let refs = git(module.dir(), &["for-each-ref", "--contains", &inner]);
    assert_eq!(refs.lines().count(), 2, "{refs}");
}

#[test]
fn what_is_staged_and_then_changed_or_removed_is_kept_too() {
    let w = world();
    let (hub, tree, base) = w.ready();
    let staged = |branch: &str| {
        let text = hub.git().args(["for-each-ref", "--format=%(refname)"]);
        let text = text.arg(format!("refs/harness/salvage/{branch}"));
        let refs = String::from_utf8(text.must("list").unwrap().stdout).unwrap();
        let shown = refs.lines().map(|name| {
            let show = |path: &str| {
                let git = hub.git().args(["show", &format!("{name}:{path}")]);
                String::from_utf8(git.output().unwrap().stdout).unwrap()
            };
            (show("a"), show("new"))
        });
        shown.collect::<Vec<_>>()
    };
    let stage = || {
        put(&tree.path().join("a"), "staged\n");
        put(&tree.path().join("new"), "staged, too\n");
        git(tree.path(), &["add", "."]);
        put(&tree.path().join("a"), "changed again\n");
        fs::remove_file(tree.path().join("new")).unwrap();
    };
    let want = ("staged\n".to_owned(), "staged, too\n".to_owned());
    stage();
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.commits, got.notes.len()), (1, 1), "{got:?}");
    assert_eq!(staged("harness/x/1").first(), Some(&want));
    stage();
    tree.checkout("harness/y/1", &base).unwrap();
    assert!(staged("harness/x/1").contains(&want));
}

#[test]
fn a_broken_index_and_nothing_changed_is_no_work() {
    let w = world();
    let (_hub, tree, base) = w.ready();
    let admin = PathBuf::from(git(&w.slot(1), &["rev-parse", "--absolute-git-dir"]));
    put(&admin.join("index"), "no index");
    let kept = tree.collect("harness/x/1", &base, "left", AUTHOR).unwrap();
    assert_eq!((kept.commits, kept.leftover), (0, false));
    put(&admin.join("index"), "no index");
    put(&w.slot(1).join("new"), "made\n");
    let kept = tree.collect("harness/x/1", &base, "left", AUTHOR).unwrap();
    assert_eq!((kept.commits, kept.leftover), (1, true));
}

#[test]
fn a_git_that_was_killed_has_answered_nothing_and_advice_is_not_what_went_wrong() {
    let w = world();
    let killed = Git::at(&w.user).set("alias.die", "!kill -KILL $PPID; sleep 9");
    let e = killed.arg("die").output().unwrap_err();
    assert_eq!(e.kind(), Kind::Temporary);
    assert!(e.to_string().contains("a signal ended git"), "{e}");
    let advises = Git::at(&w.user).set(
        "alias.fail",
        "!echo hint: some setting >&2; echo fatal: no room >&2; exit 3",
    );
    let advises = advises.arg("fail");
    let out = advises.output().unwrap();
    let said = advises.failure("cannot", &out).to_string();
    assert!(
        said.contains("fatal: no room") && !said.contains("hint:"),
        "{said}"
    );
}
