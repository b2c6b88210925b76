//! Tests of `git` with real git: races, leftovers, debris, collisions. Each test checks that the
//! user's repository stays byte for byte the same, except for the expected branches.

#![expect(
    clippy::disallowed_methods,
    reason = "tests break things by hand, and fail by panicking"
)]

mod leftovers;
mod hostile;
mod incremental;
mod landing;
mod merging;
mod older;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use super::{Base, Clean, Git, Hub, Repo, Worktree, discover, version};
use crate::atomic;
use crate::error::Kind;
use crate::layout::{Name, Root, SlotId};

const AUTHOR: &str = "An Agent <agent@localhost>";

struct World {
    _dir: tempfile::TempDir,
    user: PathBuf,
    root: Root,
}

fn git(dir: &Path, args: &[&str]) -> String {
    let out = Git::at(dir).args(args).output().unwrap();
    assert!(out.ok(), "git {args:?} in {dir:?}: {}", out.stderr);
    out.line()
}

fn put(path: &Path, text: &str) {
    atomic::make_dir(path.parent().unwrap(), false).unwrap();
    atomic::replace(path, text.as_bytes(), false).unwrap();
}

fn world_with(init: &[&str]) -> World {
    let dir = tempfile::tempdir().unwrap();
    let user = dir.path().canonicalize().unwrap().join("user's repo");
    fs::create_dir(&user).unwrap();
    git(&user, &[&["init", "-q", "-b", "main"], init].concat());
    git(&user, &["config", "user.name", "U \"quoted\" ü"]);
    git(&user, &["config", "user.email", "u@localhost"]);
    git(
        &user,
        &["remote", "add", "origin", "https://example.invalid/x.git"],
    );
    let root = Root::new(dir.path().canonicalize().unwrap().join("root"));
    for (path, _) in root.dirs() {
        fs::create_dir_all(path).unwrap();
    }
    World {
        _dir: dir,
        user,
        root,
    }
}

fn world() -> World {
    let w = world_with(&[]);
    put(&w.user.join("a"), "one\n");
    put(&w.user.join("run.sh"), "#!/bin/sh\n");
    put(&w.user.join(".gitignore"), "ignored\n");
    git(&w.user, &["add", "-A"]);
    git(&w.user, &["commit", "-q", "-m", "first"]);
    put(&w.user.join("a"), "stashed\n");
    git(&w.user, &["stash", "-q"]);
    put(&w.user.join("a"), "being edited\n");
    w
}

impl World {
    fn repo(&self, path: &Path) -> Repo {
        Repo {
            name: "default".into(),
            path: path.into(),
            base: None,
            clean: Clean::KeepIgnored,
            durable: false,
            copy: None,
            root: self.root.path().to_owned(),
            spare: 0,
        }
    }
    fn hub(&self) -> Hub {
        Hub::open(&self.root, &self.repo(&self.user)).unwrap()
    }
    fn slot(&self, n: usize) -> PathBuf {
        self.root.worktree(SlotId(n), "default")
    }
    /// Everything of the user's that must stay the same.
    fn print(&self) -> Vec<Vec<u8>> {
        let read = |p: &str| fs::read(self.user.join(p)).unwrap_or_default();
        let status = ["--no-optional-locks", "status", "--porcelain", "--branch"];
        vec![
            read(".git/HEAD"),
            read(".git/index"),
            read(".git/config"),
            read(".git/FETCH_HEAD"),
            read(".git/refs/stash"),
            read("a"),
            git(&self.user, &status).into_bytes(),
        ]
    }
    fn ready(&self) -> (Hub, Worktree, Base) {
        let hub = self.hub();
        let base = hub.base(None).unwrap();
        let tree = hub.worktree(&self.slot(1)).unwrap();
        tree.checkout("harness/x/1", &base).unwrap();
        (hub, tree, base)
    }
}

/// As harness sees the worktree: its agent's repository knows nothing of what was collected.
fn ours(tree: &Worktree, args: &[&str]) -> String {
    let git = tree.git().args(args);
    git.must("look").unwrap().line()
}

fn salvaged(hub: &Hub) -> Vec<String> {
    let all = git(
        hub.dir(),
        &[
            "for-each-ref",
            "--format=%(refname)",
            "refs/harness/salvage",
        ],
    );
    all.lines().map(str::to_owned).collect()
}

#[test]
fn git_is_new_enough_and_a_plain_directory_is_no_repository() {
    assert!(version().unwrap() >= super::MIN_VERSION);
    let w = world();
    assert_eq!(discover(&w.user).unwrap(), Some(w.user.clone()));
    assert_eq!(discover(w.root.path()).unwrap(), None);
}

#[test]
fn eight_first_users_make_one_hub() {
    let w = world();
    let before = w.print();
    fs::create_dir(w.root.repos().join(".default-99.tmp")).unwrap();
    let start = Barrier::new(8);
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                start.wait();
                assert_eq!(w.hub().base(None).unwrap().name, "main");
            });
        }
    });
    assert!(!w.root.repos().join(".default-99.tmp").exists());
    let hub = w.hub();
    let get = |key| git(hub.dir(), &["config", "--get", key]);
    assert_eq!(get("remote.origin.url"), "https://example.invalid/x.git");
    assert_eq!(get("user.name"), "U \"quoted\" ü");
    assert!(!hub.dir().join("objects/info/alternates").exists());
    assert_eq!(w.print(), before);
}

#[test]
fn eight_agents_work_on_one_hub_for_rounds() {
    let w = world();
    let before = w.print();
    let start = Barrier::new(8);
    std::thread::scope(|s| {
        for n in 1..=8 {
            let (w, start) = (&w, &start);
            s.spawn(move || {
                start.wait();
                for round in 1..=4 {
                    let hub = w.hub();
                    let base = hub.base(None).unwrap();
                    let tree = hub.worktree(&w.slot(n)).unwrap();
                    let branch = format!("harness/n{n}/{round}");
                    tree.checkout(&branch, &base).unwrap();
                    assert!(!tree.path().join("done").exists());
                    put(&tree.path().join("done"), &branch);
                    // Another slot's `git gc` can make these fail; agents retry, like harness.
                    let agent = Git::at(tree.path()).args(["add", "done"]);
                    assert!(agent.patient().unwrap().ok());
                    let agent = Git::at(tree.path()).args(["commit", "-q", "-m", "by the agent"]);
                    assert!(agent.patient().unwrap().ok());
                    put(&tree.path().join("left"), "over");
                    // Agents do this too; its failure does not matter.
                    let key = format!("harness.n{n}");
                    let _lost = Git::at(tree.path())
                        .args(["config", &key, "1"])
                        .output()
                        .unwrap();
                    if n == round {
                        let _lost = Git::at(tree.path())
                            .args(["gc", "--quiet"])
                            .output()
                            .unwrap();
                    }
                    let got = tree.collect(&branch, &base, "left over", AUTHOR).unwrap();
                    assert_eq!((got.commits, got.files_changed, got.leftover), (2, 2, true));
                    let users = hub.users(None);
                    users.bring(&got.head, &n.to_string()).unwrap();
                    assert_eq!(users.publish(&branch, &got.head, "s").unwrap(), branch);
                    if round == 2 {
                        // A worktree that disappears between two items is made again.
                        fs::rename(w.slot(n), w.root.path().join(format!("gone-{n}"))).unwrap();
                    }
                }
            });
        }
    });
    let list = git(&w.user, &["for-each-ref", "refs/heads/harness"]);
    assert_eq!(list.lines().count(), 32);
    assert_eq!(git(&w.user, &["show", "harness/n3/4:left"]), "over");
    assert_eq!(w.print(), before);
    git(w.hub().dir(), &["fsck", "--connectivity-only"]);
}

#[test]
fn debris_is_made_again_and_files_in_it_are_kept() {
    let w = world();
    let (hub, tree, base) = w.ready();
    for (k, broken) in ["HEAD", "commondir", "all"].iter().enumerate() {
        put(&w.slot(1).join("work"), broken);
        let admin = hub.worktree(&w.slot(1)).unwrap().admin;
        match *broken {
            "all" => fs::remove_dir_all(&admin).unwrap(),
            file => put(&admin.join(file), ""),
        }
        let tree = hub
            .worktree(&w.slot(1))
            .unwrap_or_else(|e| panic!("{broken}: {e}"));
        tree.checkout("harness/x/2", &base)
            .unwrap_or_else(|e| panic!("{broken}: {e}"));
        let kept = w.root.worktrees().join(format!("agent-1.~{}~/work", k + 1));
        assert_eq!(fs::read_to_string(kept).unwrap(), *broken);
    }
    // A ROOT that was moved keeps its worktrees, and what is in them.
    put(&tree.path().join("work"), "uncommitted");
    let moved = w.root.path().with_file_name("elsewhere");
    fs::rename(w.root.path(), &moved).unwrap();
    let root = Root::new(&moved);
    let hub = Hub::open(&root, &w.repo(&w.user)).unwrap();
    let tree = hub.worktree(&root.worktree(SlotId(1), "default")).unwrap();
    assert_eq!(ours(&tree, &["status", "--porcelain"]), "?? work");
    tree.checkout("harness/x/3", &base).unwrap();
    assert_eq!(git(tree.path(), &["status", "--porcelain"]), "");
    let holds = |name: &String| {
        let git = Git::on(hub.dir()).args(["show", &format!("{name}:work")]);
        git.output().unwrap().stdout == b"uncommitted"
    };
    assert!(salvaged(&hub).iter().any(holds));
}

/// A power cut leaves git's locks, and nobody can tell whose they are.
#[test]
fn no_lock_in_the_users_repository_is_waited_for_for_ever() {
    let w = world();
    let (hub, tree, base) = w.ready();
    put(&tree.path().join("b"), "b");
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    let users = hub.users(None);
    users.bring(&got.head, "s").unwrap();
    let locks = ["x/1", "y/1", "y/1-abc"].map(|n| format!(".git/refs/heads/harness/{n}.lock"));
    for lock in &locks {
        put(&w.user.join(lock), "");
    }
    std::thread::scope(|s| {
        s.spawn(|| {
            let made = users.publish("harness/x/1", &got.head, "abc").unwrap();
            assert_eq!(made, "harness/x/1-abc");
            put(&w.user.join(".git/packed-refs.lock"), "");
            let e = users.unpublish(&made, &got.head).unwrap_err();
            assert_eq!(e.kind(), Kind::Permanent);
            assert!(e.to_string().contains("packed-refs.lock'"), "{e}");
        });
        s.spawn(|| {
            let e = users.publish("harness/y/1", &got.head, "abc").unwrap_err();
            assert_eq!(e.kind(), Kind::Permanent);
            assert!(e.to_string().contains("y/1-abc.lock'"), "{e}");
        });
    });
    for lock in &locks {
        assert!(atomic::exists(&w.user.join(lock)), "{lock} is not ours");
    }
}

#[test]
fn locks_that_a_power_cut_left_in_the_hub_hold_nothing_up() {
    let w = world();
    let (hub, tree, _) = w.ready();
    put(&w.user.join("a"), "two\n");
    git(&w.user, &["commit", "-q", "-a", "-m", "second"]);
    let head = git(&w.user, &["rev-parse", "HEAD"]);
    let pin = Name::new("refs/heads/main").ref_component();
    let short = &head[..12];
    for name in [
        format!("refs/harness/base/{pin}"),
        format!("refs/harness/salvage/x/{short}"),
        "refs/heads/main".into(),
        "refs/heads/harness/y/1".into(),
        "packed-refs".into(),
    ] {
        put(&hub.dir().join(format!("{name}.lock")), "");
    }
    let begun = crate::clock::instant();
    let base = hub.base(None).unwrap();
    assert_eq!(base.oid, head);
    hub.keep_ref("x", &head).unwrap();
    tree.checkout("harness/y/1", &base).unwrap();
    tree.collect("harness/y/1", &base, "m", AUTHOR).unwrap();
    let _stays = hub.forget("harness/y/1", &head);
    assert!(begun.elapsed() < super::LOCK_PATIENCE);
}

#[test]
fn publishing_is_idempotent_and_never_overwrites() {
    let w = world();
    let (hub, tree, base) = w.ready();
    put(&tree.path().join("b"), "b");
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    let before = w.print();
    let users = hub.users(None);
    let held = || {
        git(
            &w.user,
            &["for-each-ref", "--format=%(objectname)", "refs/harness"],
        )
    };
    users.bring(&got.head, "s").unwrap();
    assert_eq!(held(), got.head);
    assert_eq!(
        users.published("harness/x/1", &got.head, "abc").unwrap(),
        None
    );
    for _ in 0..2 {
        assert_eq!(
            users.publish("harness/x/1", &got.head, "abc").unwrap(),
            "harness/x/1"
        );
    }
    for _ in 0..2 {
        users.release("s").unwrap();
        assert_eq!(held(), "");
    }
    assert!(!users.unpublish("harness/x/1", &base.oid).unwrap());
    assert!(users.unpublish("harness/x/1", &got.head).unwrap());
    assert!(!users.unpublish("harness/x/1", &got.head).unwrap());
    git(&w.user, &["branch", "harness/x/1", "main"]);
    for _ in 0..2 {
        assert_eq!(
            users.publish("harness/x/1", &got.head, "abc").unwrap(),
            "harness/x/1-abc"
        );
    }
    assert_eq!(
        users.published("harness/x/1", &got.head, "abc").unwrap(),
        Some("harness/x/1-abc".into())
    );
    assert_eq!(w.print(), before);
    git(
        &w.user,
        &["branch", "-D", "-q", "harness/x/1", "harness/x/1-abc"],
    );
    git(&w.user, &["branch", "harness", "main"]);
    let e = users.publish("harness/x/1", &got.head, "abc").unwrap_err();
    assert_eq!(e.kind(), Kind::Permanent);
    assert!(e.to_string().contains("git branch -m"), "{e}");

    tree.checkout("harness/none/1", &base).unwrap();
    let none = tree.collect("harness/none/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((none.commits, none.leftover), (0, false));
    hub.forget("harness/none/1", &none.head).unwrap();
    hub.forget("harness/x/1", &got.head).unwrap();
    assert_eq!(hub.read_ref("refs/heads/harness/none/1"), None);
    assert_eq!(hub.read_ref("refs/heads/harness/x/1"), Some(got.head));
    assert_eq!(ours(&tree, &["status", "--porcelain"]), "");
}

#[test]
fn bases_are_followed_named_and_refused() {
    let w = world_with(&[]);
    let unborn = Hub::open(&w.root, &w.repo(&w.user)).unwrap_err();
    assert!(unborn.to_string().contains("no commits yet"), "{unborn}");
    git(&w.user, &["commit", "-q", "--allow-empty", "-m", "1"]);
    let hub = w.hub();
    let first = hub.base(None).unwrap();
    git(&w.user, &["commit", "-q", "--allow-empty", "-m", "2"]);
    git(&w.user, &["branch", "odd/#brünch's"]);
    git(&w.user, &["tag", "main", &first.oid]);
    let second = hub.base(Some("main")).unwrap();
    assert_ne!(first.oid, second.oid);
    assert_eq!(hub.base(Some("odd/#brünch's")).unwrap().oid, second.oid);
    assert_eq!(hub.base(Some(&first.oid)).unwrap().oid, first.oid);
    assert_eq!(hub.read_ref("refs/heads/main"), Some(second.oid.clone()));
    for bad in ["nowhere", "--all", "", "a\nb"] {
        let e = hub.base(Some(bad)).unwrap_err();
        assert_eq!(e.kind(), Kind::Permanent, "{e}");
        assert!(e.to_string().contains("does not exist"), "{e}");
    }
    git(&w.user, &["checkout", "-q", "--detach"]);
    assert_eq!(hub.base(None).unwrap().name, second.oid);
    git(&w.user, &["checkout", "-q", "--orphan", "void"]);
    assert!(
        hub.base(None)
            .unwrap_err()
            .to_string()
            .contains("no commits yet")
    );
}

#[test]
fn bare_linked_shallow_borrowing_and_sha256_repositories_work() {
    let w = world();
    let top = w.user.parent().unwrap();
    git(&w.user, &["commit", "-q", "--allow-empty", "-m", "2"]);
    let url = format!("file://{}", w.user.display());
    git(top, &["clone", "-q", "--bare", &url, "bare.git"]);
    git(top, &["clone", "-q", "--depth=1", &url, "shallow"]);
    git(
        top,
        &["clone", "-q", "--shared", "user's repo", "borrowing"],
    );
    git(
        &w.user,
        &["worktree", "add", "-q", "-b", "side", "../linked"],
    );
    let new = world_with(&["--object-format=sha256"]);
    git(&new.user, &["commit", "-q", "--allow-empty", "-m", "1"]);
    let paths = ["bare.git", "shallow", "borrowing", "linked"].map(|p| top.join(p));
    for path in paths.iter().chain([&new.user]) {
        let mut repo = w.repo(path);
        repo.name = path.file_name().unwrap().to_str().unwrap().into();
        let hub = Hub::open(&w.root, &repo).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for round in 1..3 {
            let base = hub.base(None).unwrap();
            let tree = hub
                .worktree(&w.root.worktree(SlotId(1), &repo.name))
                .unwrap();
            let branch = format!("harness/x/{round}");
            tree.checkout(&branch, &base).unwrap();
            put(&tree.path().join("b"), "b");
            let got = tree.collect(&branch, &base, "m", AUTHOR).unwrap();
            assert_eq!(got.commits, 1);
            let users = hub.users(None);
            users.bring(&got.head, "s").unwrap();
            users.publish(&branch, &got.head, "s").unwrap();
            assert_eq!(git(path, &["show", &format!("{branch}:b")]), "b");
            if !path.ends_with("bare.git") {
                git(
                    path,
                    &[
                        "-c",
                        "user.name=u",
                        "-c",
                        "user.email=u@u",
                        "commit",
                        "-q",
                        "--allow-empty",
                        "-m",
                        "next",
                    ],
                );
            }
        }
        assert!(!hub.dir().join("objects/info/alternates").exists());
    }
}
