//! Moving the user's branches forward, checked out or not.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::merging::{branch, made};
use super::*;
use crate::git::Landed;
use crate::git::checkout::Checkout;
use crate::git::index_lock::{IndexLock, Landing};
use crate::git::publish::Users;

fn tip(w: &World, name: &str) -> String {
    git(&w.user, &["rev-parse", &format!("refs/heads/{name}")])
}

fn status(dir: &Path) -> String {
    git(
        dir,
        &["--no-optional-locks", "status", "--porcelain", "--ignored"],
    )
}

fn waits(landed: Landed) -> String {
    match landed {
        Landed::Waits(why) => why,
        other => panic!("{other:?}"),
    }
}

/// The commit that `w.ready` begins at, and one on it that changes, adds and removes files.
fn two(w: &World) -> (String, String) {
    let first = tip(w, "main");
    let files = [
        ("run.sh", None),
        ("b", Some("new\n")),
        ("dir/c", Some("new\n")),
        (".gitignore", Some("ignored\nalso\n")),
    ];
    let next = made(w, &[&first], &files, "merged");
    (first, next)
}

#[test]
fn a_branch_that_nobody_has_checked_out_moves_forward_only() {
    let w = world();
    let hub = w.hub();
    let users = hub.users(None);
    let (first, next) = two(&w);
    let side = made(&w, &[&first], &[("z", Some("z"))], "side");
    branch(&w, "other", &first);
    let before = w.print();
    for _ in 0..2 {
        assert_eq!(users.land("other", &first, &next).unwrap(), Landed::Done);
    }
    assert_eq!(tip(&w, "other"), next);
    assert_eq!(users.land("other", &first, &side).unwrap(), Landed::Moved);
    assert_eq!(users.land("gone", &first, &next).unwrap(), Landed::Moved);
    let e = users.land("other", &next, &side).unwrap_err();
    assert_eq!(e.kind(), Kind::Permanent, "{e}");
    assert_eq!(tip(&w, "other"), next);
    let log = git(&w.user, &["reflog", "-1", "refs/heads/other"]);
    assert!(log.contains("harness: merged"), "{log}");
    assert_eq!(w.print(), before);
}

#[test]
fn a_checked_out_branch_moves_with_its_files_and_nothing_else_does() {
    let w = world();
    let (first, next) = two(&w);
    let ran = w.root.path().join("ran");
    for hook in [
        "post-checkout",
        "post-merge",
        "reference-transaction",
        "post-index-change",
    ] {
        let hook = w.user.join(".git/hooks").join(hook);
        put(&hook, &format!("#!/bin/sh\ntouch {}\n", ran.display()));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&hook, mode).unwrap();
    }
    put(&w.user.join("mine"), "untracked");
    put(&w.user.join("ignored"), "ignored");
    put(&w.user.join("staged"), "staged");
    git(
        &w.user,
        &["-c", "core.hooksPath=/dev/null", "add", "staged"],
    );
    let linked = w.user.join("../linked");
    let args = [
        "-c",
        "core.hooksPath=/dev/null",
        "worktree",
        "add",
        "-q",
        "-b",
        "side",
    ];
    git(&w.user, &[&args[..], &["../linked"]].concat());
    let _old = atomic::remove(&ran).unwrap();
    let hub = w.hub();
    let users = hub.users(None);
    for (name, dir) in [("main", &w.user), ("side", &linked)] {
        for _ in 0..2 {
            assert_eq!(
                users.land(name, &first, &next).unwrap(),
                Landed::Done,
                "{name}"
            );
        }
        assert_eq!(tip(&w, name), next);
        assert_eq!(fs::read_to_string(dir.join("dir/c")).unwrap(), "new\n");
        assert!(!dir.join("run.sh").exists());
        let log = git(dir, &["reflog", "-1", "HEAD"]);
        assert!(log.contains("harness: merged"), "{log}");
    }
    assert_eq!(status(&w.user), " M a\nA  staged\n?? mine\n!! ignored");
    assert_eq!(status(&linked), "");
    assert_eq!(
        fs::read_to_string(w.user.join("a")).unwrap(),
        "being edited\n"
    );
    assert!(!ran.exists());
    let left = fs::read_dir(w.user.join(".git")).unwrap().flatten();
    let left: Vec<_> = left.map(|e| e.file_name()).collect();
    let is_ours = |n: &&std::ffi::OsString| n.to_string_lossy().contains("index");
    assert_eq!(left.iter().filter(is_ours).collect::<Vec<_>>(), ["index"]);
}

/// Each of these is a person's work, and stays as it is to the byte.
#[test]
fn it_waits_where_it_would_touch_a_persons_work_and_says_where() {
    type Make<'a> = &'a dyn Fn(&World);
    let cases: [(&str, Make<'_>); 12] = [
        ("run.sh", &|w| put(&w.user.join("run.sh"), "#!/bin/sh\n#\n")),
        ("run.sh", &|w| {
            put(&w.user.join("run.sh"), "#!/bin/sh\n#\n");
            git(&w.user, &["add", "run.sh"]);
        }),
        ("b", &|w| put(&w.user.join("b"), "untracked")),
        ("b", &|w| {
            put(&w.user.join(".git/info/exclude"), "b\n");
            put(&w.user.join("b"), "ignored");
        }),
        ("b/x", &|w| {
            put(&w.user.join(".git/info/exclude"), "x\n");
            put(&w.user.join("b/x"), "ignored");
        }),
        ("dir", &|w| {
            put(&w.user.join(".git/info/exclude"), "dir\n");
            put(&w.user.join("dir"), "ignored, in the place of a folder");
        }),
        ("dir", &|w| {
            put(&w.user.join(".git/info/exclude"), "dir\n");
            fs::create_dir(w.user.join("../else")).unwrap();
            std::os::unix::fs::symlink("../else", w.user.join("dir")).unwrap();
        }),
        ("a merge", &|w| {
            let head = tip(w, "main");
            put(&w.user.join(".git/MERGE_HEAD"), &format!("{head}\n"));
        }),
        ("a bisect of main", &|w| {
            git(&w.user, &["checkout", "-q", "-f", "main"]);
            git(&w.user, &["bisect", "start"]);
            git(&w.user, &["checkout", "-q", "--detach"]);
        }),
        ("a rebase of main", &|w| {
            git(&w.user, &["checkout", "-q", "-f", "main"]);
            let rebase = Git::at(&w.user).args(["rebase", "-q", "--exec", "false", "--root"]);
            assert!(!rebase.output().unwrap().ok());
        }),
        ("index.lock", &|w| put(&w.user.join(".git/index.lock"), "")),
        ("twice", &|w| {
            git(
                &w.user,
                &["worktree", "add", "-q", "-f", "../twice", "main"],
            );
        }),
    ];
    for (n, (word, make)) in cases.iter().enumerate() {
        let w = world();
        let (first, next) = two(&w);
        let hub = w.hub();
        let users = hub.users(None);
        make(&w);
        let main = tip(&w, "main");
        assert_eq!(main, first);
        let (before, all) = (w.print(), status(&w.user));
        let why = waits(users.land("main", &first, &next).unwrap());
        let place = w.user.display().to_string();
        assert!(why.contains(word) && why.contains(&place), "{n}: {why}");
        assert_eq!(why.lines().count(), 1, "{why}");
        assert_eq!((w.print(), status(&w.user)), (before, all), "{n}");
        assert_eq!(tip(&w, "main"), first, "{n}");
        assert!(!w.user.join(".git/index.harness").exists());
    }
}

fn checkout<'a>(w: &World, users: &'a Users<'a>) -> Checkout<'a> {
    users.checkout_at(&w.user, true).unwrap().unwrap()
}

/// Harness dies: its lock stays, and nobody holds it.
fn dies(at: &str, here: &Checkout<'_>, landing: &Landing) {
    let lock = IndexLock::take(&here.admin, landing, false)
        .unwrap()
        .unwrap();
    let order = ["lock", "some", "files", "ref", "index"];
    let reached = order.iter().position(|o| *o == at).unwrap();
    if reached == 1 {
        // In the middle of the files: one is removed, one is empty, the rest is old.
        fs::remove_file(here.dir.join("run.sh")).unwrap();
        put(&here.dir.join("b"), "");
        put(&here.admin.join("index.harness.lock"), "of a killed git");
    }
    if reached >= 2 {
        let mut begun = false;
        let put = here.put_files(&lock, landing, &mut begun).unwrap();
        assert_eq!((put, begun), (None, true));
    }
    if reached >= 3 {
        let (full, new, old) = (&landing.full, &landing.new, &landing.old);
        git(&here.dir, &["update-ref", full, new, old]);
    }
    if reached >= 4 {
        fs::rename(here.copy_path(), here.admin.join("index")).unwrap();
    }
    // What another test of this process just starts has a copy of the lock's file for a moment.
    fs2::FileExt::unlock(&*lock.file).unwrap();
}

#[test]
fn wherever_harness_dies_the_next_one_ends_it() {
    for at in ["lock", "some", "files", "ref", "index"] {
        for again in [true, false] {
            let w = world();
            let (first, next) = two(&w);
            let hub = w.hub();
            let users = hub.users(None);
            let here = checkout(&w, &users);
            let landing = Landing {
                full: "refs/heads/main".into(),
                old: first.clone(),
                new: next.clone(),
                dir: w.user.clone(),
            };
            dies(at, &here, &landing);
            // Until then no git of theirs changes the index.
            assert!(!Git::at(&w.user).args(["add", "a"]).output().unwrap().ok());
            // A person edits what is new, and what is not concerned.
            let edits = at != "lock" && at != "some";
            if edits {
                put(&w.user.join("b"), "edited since\n");
            }
            if again {
                let done = users.land("main", &first, &next).unwrap();
                match (at, edits) {
                    ("files", true) => assert!(waits(done).contains("b in "), "{at}"),
                    _ => assert_eq!(done, Landed::Done, "{at}"),
                }
            } else {
                users.settle_landings().unwrap();
            }
            let has_moved = tip(&w, "main") == next;
            assert_eq!(
                has_moved,
                ["ref", "index"].contains(&at) || again && !edits,
                "{at}"
            );
            let want = match (has_moved, edits) {
                (true, false) => " M a",
                (true, true) => " M a\n M b",
                (false, true) => " M a\n?? b",
                (false, false) => " M a",
            };
            assert_eq!(status(&w.user), want, "{at} {again}");
            assert_eq!(w.user.join("run.sh").exists(), !has_moved, "{at} {again}");
            for left in ["index.lock", "index.harness", "index.harness-from"] {
                assert!(!here.admin.join(left).exists(), "{at}: {left}");
            }
        }
    }
}

#[test]
fn a_landing_that_loses_the_race_puts_the_files_back() {
    let w = world();
    let (first, next) = two(&w);
    let hub = w.hub();
    let users = hub.users(None);
    // What moves a ref without the index's lock: `git push` into it, say.
    let other = made(&w, &[&first], &[], "nothing new");
    let here = checkout(&w, &users);
    branch(&w, "main", &other);
    assert_eq!(
        here.fast_forward("refs/heads/main", &first, &next).unwrap(),
        Landed::Moved
    );
    assert_eq!(tip(&w, "main"), other);
    assert_eq!(status(&w.user), " M a");
    assert!(w.user.join("run.sh").exists() && !here.admin.join("index.lock").exists());
}

/// Several harnesses and a person move one branch: each commit that landed stays in it.
#[test]
fn of_many_that_land_at_once_nobody_loses_a_commit() {
    let w = world();
    let first = tip(&w, "main");
    branch(&w, "other", &first);
    let (start, landed) = (Barrier::new(4), AtomicUsize::new(0));
    std::thread::scope(|s| {
        for n in 0..4 {
            let (w, start, landed) = (&w, &start, &landed);
            s.spawn(move || {
                let hub = w.hub();
                let users = hub.users(None);
                let tree = format!("{}^{{tree}}", tip(w, "other"));
                start.wait();
                for k in 0..12 {
                    let old = tip(w, "other");
                    let text = format!("{n} {k}");
                    let args = ["commit-tree", &tree, "-p", &old, "-m", &text];
                    let new = git(&w.user, &args);
                    match users.land("other", &old, &new).unwrap() {
                        Landed::Done => drop(landed.fetch_add(1, Ordering::Relaxed)),
                        Landed::Moved | Landed::Waits(_) | Landed::Lacks => {}
                    }
                }
            });
        }
    });
    let count = git(
        &w.user,
        &["rev-list", "--count", &format!("{first}..other")],
    );
    assert_eq!(count, landed.into_inner().to_string());
}

#[test]
fn a_person_who_commits_meanwhile_loses_nothing() {
    let w = world();
    let first = tip(&w, "main");
    let tries = AtomicUsize::new(0);
    let (landed, committed) = std::thread::scope(|s| {
        let person = s.spawn(|| {
            let mut committed = 0;
            // In the middle of every second try.
            for n in (1..16).step_by(2) {
                while tries.load(Ordering::Relaxed) < n {
                    std::thread::park_timeout(std::time::Duration::from_millis(1));
                }
                put(&w.user.join("person"), &format!("{n}\n"));
                let commit = Git::at(&w.user).args(["commit", "-q", "-m", "person", "person"]);
                let add = Git::at(&w.user).args(["add", "person"]);
                let ok = add.output().unwrap().ok() && commit.output().unwrap().ok();
                committed += usize::from(ok);
            }
            committed
        });
        let hub = w.hub();
        let users = hub.users(None);
        let mut landed = 0;
        for n in 0..16 {
            tries.fetch_add(1, Ordering::Relaxed);
            let old = tip(&w, "main");
            let text = format!("{n}\n");
            let new = made(&w, &[&old], &[("harness", Some(&text))], "harness");
            if users.land("main", &old, &new).unwrap() == Landed::Done {
                landed += 1;
            }
        }
        (landed, person.join().unwrap())
    });
    let subjects = git(&w.user, &["log", "--format=%s", &format!("{first}..main")]);
    let of = |who: &str| subjects.lines().filter(|s| *s == who).count();
    assert_eq!((of("harness"), of("person")), (landed, committed));
    assert!(landed > 0 && committed > 0, "{landed} {committed}");
    git(
        &w.user,
        &["commit", "-q", "--allow-empty", "-m", "end", "--", "person"],
    );
    assert_eq!(status(&w.user), " M a");
}

#[test]
fn checkouts_of_every_kind_stay_as_git_would_leave_them() {
    // Line ends, modes, a sparse checkout, a link to a submodule.
    let w = world();
    let first = tip(&w, "main");
    let base = made(
        &w,
        &[&first],
        &[("in/x", Some("x\n")), ("out/y", Some("y\n"))],
        "base",
    );
    git(&w.user, &["checkout", "-q", "-f", "main"]);
    git(&w.user, &["reset", "-q", "--hard", &base]);
    git(&w.user, &["config", "core.autocrlf", "true"]);
    git(&w.user, &["sparse-checkout", "set", "in"]);
    let files = [
        ("in/x", Some("x\nx\n")),
        ("in/new", Some("n\n")),
        ("out/y", Some("y\ny\n")),
        ("out/new", Some("n\n")),
    ];
    let next = made(&w, &[&base], &files, "next");
    let index = w.user.join("../index-of-made");
    let run = |args: &[&str]| {
        let git = Git::on(&w.user.join(".git")).env("GIT_INDEX_FILE", &index);
        git.args(args).must("link").unwrap().line()
    };
    let link = format!("160000,{},sub", "1".repeat(40));
    run(&["update-index", "--add", "--cacheinfo", &link]);
    let oid = git(&w.user, &["rev-parse", &format!("{next}:in/x")]);
    run(&["update-index", "--cacheinfo", &format!("100755,{oid},in/x")]);
    let tree = run(&["write-tree"]);
    let next = git(
        &w.user,
        &["commit-tree", &tree, "-p", &base, "-m", "n", "-p", &next],
    );
    let hub = w.hub();
    let users = hub.users(None);
    assert_eq!(users.land("main", &base, &next).unwrap(), Landed::Done);
    assert_eq!(status(&w.user), "");
    assert_eq!(fs::read(w.user.join("in/x")).unwrap(), b"x\r\nx\r\n");
    let mode = w.user.join("in/x").metadata().unwrap().permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o100,
        0o100
    );
    assert!(w.user.join("in/new").exists() && !w.user.join("out").exists());
}

#[test]
fn a_worktree_is_found_wherever_it_is_and_one_that_is_gone_is_nobodys() {
    let w = world();
    let (first, next) = two(&w);
    let hub = w.hub();
    let users = hub.users(None);
    git(&w.user, &["checkout", "-q", "-f", "main"]);
    // One on a disk that is not there may come back.
    git(
        &w.user,
        &["worktree", "add", "-q", "-b", "side", "../side", &first],
    );
    git(&w.user, &["worktree", "lock", "../side"]);
    fs::rename(w.user.join("../side"), w.user.join("../away")).unwrap();
    assert!(waits(users.land("side", &first, &next).unwrap()).contains("side"));
    git(&w.user, &["worktree", "unlock", "../side"]);
    assert_eq!(users.land("side", &first, &next).unwrap(), Landed::Done);

    // A bare repository, and one whose git directory is elsewhere.
    git(&w.user, &["reset", "-q", "--hard", &next]);
    let top = w.user.parent().unwrap();
    git(top, &["clone", "-q", "--bare", "user's repo", "bare.git"]);
    git(
        top,
        &[
            "clone",
            "-q",
            "--separate-git-dir=apart.git",
            "user's repo",
            "apart",
        ],
    );
    for (path, name) in [("bare.git", "main"), ("apart", "main")] {
        let mut repo = w.repo(&top.join(path));
        repo.name = path.into();
        let hub = Hub::open(&w.root, &repo).unwrap();
        let tree = format!("{first}^{{tree}}");
        let git_dir = hub.user().to_owned();
        let make = Git::on(&git_dir)
            .env("GIT_AUTHOR_NAME", "u")
            .env("GIT_AUTHOR_EMAIL", "u")
            .env("GIT_COMMITTER_NAME", "u")
            .env("GIT_COMMITTER_EMAIL", "u");
        let make = make.args(["commit-tree", &tree, "-p", &next, "-m", "m"]);
        let new = make.must("make").unwrap().line();
        let users = hub.users(None);
        assert_eq!(
            users.land(name, &next, &new).unwrap(),
            Landed::Done,
            "{path}"
        );
        assert_eq!(git(&git_dir, &["rev-parse", name]), new);
    }
    assert_eq!(status(&top.join("apart")), "");
}

#[test]
fn a_push_goes_forward_and_never_forces() {
    let w = world();
    let (first, next) = two(&w);
    let remote = w.user.join("../remote.git");
    git(&w.user, &["init", "-q", "--bare", "../remote.git"]);
    git(
        &w.user,
        &["remote", "set-url", "origin", remote.to_str().unwrap()],
    );
    git(
        &w.user,
        &["config", "remote.origin.push", "+refs/heads/*:refs/heads/*"],
    );
    let hub = w.hub();
    let users = hub.users(None);
    for commit in [&first, &next, &next] {
        users.push("origin", "main", commit).unwrap();
        assert_eq!(git(&remote, &["rev-parse", "main"]), *commit);
    }
    let side = made(&w, &[&first], &[("z", Some("z"))], "side");
    let e = users.push("origin", "main", &side).unwrap_err();
    assert_eq!(e.kind(), Kind::Permanent);
    assert!(e.to_string().contains("non-fast-forward"), "{e}");
    assert_eq!(git(&remote, &["rev-parse", "main"]), next);
    assert_eq!(
        git(&remote, &["for-each-ref", "--format=%(refname)"]),
        "refs/heads/main"
    );
    let e = users.push("nowhere", "main", &next).unwrap_err();
    assert_eq!(e.kind(), Kind::Permanent, "{e}");
}

/// git-lfs does it in a hook, and none of those run.
#[test]
fn a_push_brings_the_lfs_objects_that_the_branch_names() {
    let w = world();
    if !Git::at(&w.user)
        .args(["lfs", "version"])
        .output()
        .unwrap()
        .ok()
    {
        return;
    }
    let first = tip(&w, "main");
    let oid = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";
    let object = format!("lfs/objects/98/ea/{oid}");
    put(&w.user.join(".git").join(&object), "hi\n");
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 3\n");
    let files = [
        ("big", Some(&*pointer)),
        (".gitattributes", Some("big filter=lfs -text\n")),
    ];
    let next = made(&w, &[&first], &files, "big");
    git(&w.user, &["init", "-q", "--bare", "../remote.git"]);
    let remote = w.user.join("../remote.git").canonicalize().unwrap();
    git(
        &w.user,
        &["remote", "set-url", "origin", remote.to_str().unwrap()],
    );
    let hub = w.hub();
    hub.users(None).push("origin", "main", &next).unwrap();
    assert_eq!(git(&remote, &["rev-parse", "main"]), next);
    assert_eq!(fs::read_to_string(remote.join(object)).unwrap(), "hi\n");
}
