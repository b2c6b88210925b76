//! An incremental checkout gives the same result as a full one, and happens only if nothing is
//! uncommitted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{AUTHOR, git, ours, put, salvaged, world};
use crate::git::incremental_checkout::IncrementalCheckout;
use crate::git::{Base, Git, Worktree};

fn incremental(tree: &Worktree, base: &Base) -> Option<IncrementalCheckout> {
    tree.incremental_checkout(base)
}

/// Index, files and HEAD are the base's, on the branch; there is nothing else.
fn assert_arrived(tree: &Worktree, branch: &str, base: &Base, what: &str) {
    let status = ["status", "--porcelain", "--untracked-files=all"];
    let see = |args: &[&str]| ours(tree, args);
    assert_eq!(see(&status), "", "{what}");
    assert_eq!(see(&["rev-parse", "HEAD"]), base.oid, "{what}");
    assert_eq!(see(&["symbolic-ref", "--short", "HEAD"]), branch, "{what}");
    assert_eq!(see(&["diff-index", "--cached", &base.oid]), "", "{what}");
    // Compare with a fresh index, as the tree's own may be wrong.
    let index = tree.admin.join("fresh");
    let fresh = || tree.git().env("GIT_INDEX_FILE", &index);
    fresh().args(["read-tree", &base.oid]).must("read").unwrap();
    let differ = fresh().args(["diff-files", "--quiet"]);
    fresh()
        .args(["update-index", "-q", "--refresh"])
        .output()
        .unwrap();
    assert!(differ.output().unwrap().ok(), "{what}: files differ");
    fs::remove_file(index).unwrap();
}

#[test]
fn a_checkout_of_what_differs_ends_where_a_whole_one_would() {
    let w = world();
    for n in 0..30 {
        put(&w.user.join(format!("d{n}/f")), "old\n");
    }
    git(&w.user, &["add", "-A"]);
    git(&w.user, &["commit", "-q", "-m", "more"]);
    type Work = fn(&Path);
    let works: [(&str, bool, Work); 12] = [
        ("nothing", true, |_| {}),
        ("new in a new folder", true, |d| {
            put(&d.join("new/er/x y\n"), "1")
        }),
        ("changed", true, |d| put(&d.join("d3/f"), "new\n")),
        ("same size", true, |d| put(&d.join("d3/f"), "NEW\n")),
        ("removed with its folder", true, |d| {
            fs::remove_dir_all(d.join("d4")).unwrap();
        }),
        ("mode", true, |d| {
            fs::set_permissions(d.join("d5/f"), fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("a symlink instead", true, |d| {
            fs::remove_file(d.join("d6/f")).unwrap();
            symlink("../d7", d.join("d6/f")).unwrap();
        }),
        ("names that mean something", true, |d| {
            put(&d.join(":(glob)*"), "1");
            put(&d.join("-f"), "1");
            put(&d.join("*"), "1");
        }),
        ("a flag hides a new file", true, |d| {
            put(&d.join("hidden"), "1");
            git(d, &["add", "hidden"]);
            git(d, &["commit", "-q", "-m", "mine"]);
            git(d, &["update-index", "--skip-worktree", "hidden"]);
        }),
        ("a folder instead of a file", false, |d| {
            fs::remove_file(d.join("d8/f")).unwrap();
            put(&d.join("d8/f/g"), "1");
        }),
        ("rules", false, |d| {
            put(&d.join(".gitattributes"), "d9/f eol=crlf\n");
            put(&d.join("d9/f"), "a\nb\n");
        }),
        ("many", false, |d| {
            for n in 0..100 {
                put(&d.join(format!("many/{n}")), "1");
            }
        }),
    ];
    let hub = w.hub();
    for (n, (what, short, work)) in works.into_iter().enumerate() {
        let mut base = hub.base(None).unwrap();
        let tree = hub.worktree(&w.slot(1)).unwrap();
        let branch = format!("harness/x/{n}");
        tree.checkout(&branch, &base).unwrap();
        assert_arrived(&tree, &branch, &base, what);
        work(tree.path());
        tree.collect(&branch, &base, "m", AUTHOR).unwrap();
        if n % 2 == 0 {
            // The user keeps working meanwhile.
            put(&w.user.join(format!("d{}/f", n + 10)), "moved\n");
            put(&w.user.join(format!("u{n}/f")), "new\n");
            git(&w.user, &["add", "d*", "u*"]);
            git(&w.user, &["commit", "-q", "-m", "on"]);
            base = hub.base(None).unwrap();
        }
        let changes = incremental(&tree, &base);
        assert_eq!(changes.is_some(), short, "{what}");
        match changes {
            Some(changes) => assert!(
                tree.check_out_changes(&changes, "harness/next/1", &base)
                    .unwrap(),
                "{what}"
            ),
            None => drop(tree.checkout("harness/next/1", &base).unwrap()),
        }
        assert_arrived(&tree, "harness/next/1", &base, what);
    }
}

#[test]
fn what_comes_into_an_idle_worktree_is_salvaged() {
    let w = world();
    let (hub, tree, base) = w.ready();
    let d = tree.path();
    put(&d.join("folder/made"), "1");
    tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    let one = Base {
        oid: ours(&tree, &["rev-parse", "HEAD"]),
        ..base.clone()
    };
    type Edit = fn(&Path);
    let edits: [(&str, Edit); 5] = [
        ("folder/new", |d| put(&d.join("folder/new"), "edit")),
        ("new/new", |d| put(&d.join("new/new"), "edit")),
        ("folder/made", |d| put(&d.join("folder/made"), "edit")),
        ("a", |d| {
            put(&d.join("a"), "edit");
            git(d, &["add", "a"]);
        }),
        ("run.sh", |d| {
            // The change is only in the index: the file is as before.
            let before = fs::read_to_string(d.join("run.sh")).unwrap();
            put(&d.join("run.sh"), "edit");
            git(d, &["add", "run.sh"]);
            put(&d.join("run.sh"), &before);
        }),
    ];
    for (path, edit) in edits {
        tree.checkout("harness/x/1", &one).unwrap();
        let before = salvaged(&hub);
        assert!(incremental(&tree, &base).is_some(), "{path}");
        edit(d);
        // What is only in its index its own repository tells.
        assert!(
            path == "run.sh" || incremental(&tree, &base).is_none(),
            "{path}"
        );
        tree.checkout("harness/y/1", &base).unwrap();
        assert_arrived(&tree, "harness/y/1", &base, path);
        let mut new = salvaged(&hub).into_iter().filter(|r| !before.contains(r));
        let kept = |r: String| {
            let blob = Git::on(hub.dir()).args(["show", &format!("{r}:{path}")]);
            blob.output().unwrap().stdout == b"edit"
        };
        assert!(new.any(kept), "{path}");
    }
}

/// An agent's git keeps its knowledge of untracked files in the index, and can be made to believe
/// that there are no new ones.
#[test]
fn what_an_agents_git_keeps_of_untracked_files_is_not_believed() {
    let w = world();
    let (_, tree, base) = w.ready();
    let d = tree.path();
    let old = SystemTime::now() - Duration::from_secs(3600);
    let date = |path: &Path| fs::File::open(path).unwrap().set_modified(old).unwrap();
    for (key, value) in [
        ("core.untrackedCache", "true"),
        ("core.trustctime", "false"),
        ("status.showUntrackedFiles", "all"),
    ] {
        git(d, &["config", key, value]);
    }
    let sees_nothing = || {
        date(&d.join("folder"));
        date(d);
        assert_eq!(git(d, &["status", "--porcelain"]), "");
    };
    put(&d.join("folder/made"), "1");
    git(d, &["add", "folder"]);
    git(d, &["commit", "-q", "-m", "mine"]);
    sees_nothing();
    sees_nothing();
    put(&d.join("folder/unseen"), "1");
    sees_nothing();
    let got = tree.collect("harness/x/1", &base, "m", AUTHOR).unwrap();
    assert_eq!((got.commits, got.files_changed, got.leftover), (2, 2, true));
}
