//! Merging in the hub.

use super::*;
use crate::git::{How, Merged};

/// A commit on `parent` in the user's repository, with these files changed; no text removes one.
pub(super) fn made(
    w: &World,
    parents: &[&str],
    files: &[(&str, Option<&str>)],
    subject: &str,
) -> String {
    let index = w.user.join("../index-of-made");
    let _old = atomic::remove(&index).unwrap();
    let text = w.user.join("../text");
    let user = || {
        let git = Git::on(&w.user.join(".git")).env("GIT_INDEX_FILE", &index);
        git.env("GIT_AUTHOR_NAME", "Ann Agent")
            .env("GIT_AUTHOR_EMAIL", "ann@localhost")
            .env("GIT_AUTHOR_DATE", "@1700000000 +0130")
    };
    let run = |args: &[&str]| user().args(args).must("make").unwrap().line();
    if let Some(parent) = parents.first() {
        run(&["read-tree", parent]);
    }
    for (path, content) in files {
        match content {
            Some(content) => {
                put(&text, content);
                let oid = run(&["hash-object", "-w", text.to_str().unwrap()]);
                let entry = format!("100644,{oid},{path}");
                run(&["update-index", "--add", "--replace", "--cacheinfo", &entry]);
            }
            None => drop(run(&["update-index", "--force-remove", path])),
        }
    }
    let tree = run(&["write-tree"]);
    let mut args = vec!["commit-tree", &tree, "-m", subject];
    for parent in parents {
        args.extend(["-p", parent]);
    }
    run(&args)
}

pub(super) fn branch(w: &World, name: &str, commit: &str) {
    git(
        &w.user,
        &["update-ref", &format!("refs/heads/{name}"), commit],
    );
}

/// As harness: where the branch is, in the hub.
fn brought(w: &World, hub: &Hub, name: &str, commit: &str) -> String {
    branch(w, name, commit);
    hub.published_at(&[name]).unwrap().remove(0).unwrap()
}

fn clean(merged: Merged) -> (String, String) {
    match merged {
        Merged::Clean { commit, tree } => (commit, tree),
        other => panic!("{other:?}"),
    }
}

fn merge_onto(hub: &Hub, onto: &str, head: &str, how: How) -> crate::error::Result<Merged> {
    hub.merge_onto(onto, &hub.tree_of(onto)?, head, how, MESSAGE)
}

const MESSAGE: &str = "Merge x\n\nItem: x\nSession: 1";

#[test]
fn a_branch_is_merged_squashed_and_rebased_by_its_authors() {
    let w = world();
    let hub = w.hub();
    let before = w.print();
    let first = git(&w.user, &["rev-parse", "main"]);
    let one = made(&w, &[&first], &[("b", Some("1\n"))], "one");
    let two = made(&w, &[&one], &[("b", Some("2\n"))], "two");
    let main = made(&w, &[&first], &[("c", Some("c\n"))], "on main");
    branch(&w, "other", &main);
    let base = hub.target(Some("other")).unwrap();
    assert_eq!((&*base.name, &*base.oid), ("other", &*main));
    let head = brought(&w, &hub, "harness/x/1", &two);
    let show = |commit: &str, what: &str| git(hub.dir(), &["show", "-s", what, commit]);
    let ann = "Ann Agent <ann@localhost> 1700000000 +0130";
    let author = "--format=%an <%ae> %ad";
    let by = |commit: &str| {
        let args = ["show", "-s", "--date=raw", author, commit];
        git(hub.dir(), &args)
    };

    let (merge, tree) = clean(merge_onto(&hub, &base.oid, &head, How::Merge).unwrap());
    assert_eq!(show(&merge, "--format=%P"), format!("{main} {two}"));
    assert_eq!(show(&merge, "--format=%B").trim_end(), MESSAGE);
    assert_eq!(
        show(&merge, "--format=%an %cn"),
        "U \"quoted\" ü U \"quoted\" ü"
    );
    assert_eq!(hub.tree_of(&merge).unwrap(), tree);
    assert_eq!(
        hub.first_parents(&merge, &main).unwrap().0,
        [main.clone(), merge.clone()]
    );
    assert_eq!(
        merge_onto(&hub, &merge, &head, How::Squash).unwrap(),
        Merged::Contained
    );

    let (squash, same) = clean(merge_onto(&hub, &base.oid, &head, How::Squash).unwrap());
    assert_eq!(
        (same, show(&squash, "--format=%P")),
        (tree.clone(), main.clone())
    );
    assert_eq!(by(&squash), ann);
    assert_eq!(show(&squash, "--format=%cn"), "U \"quoted\" ü");
    for how in [How::Merge, How::Squash, How::Rebase] {
        let again = merge_onto(&hub, &squash, &head, how).unwrap();
        // What the squashed commit changed comes back in no other way.
        assert_eq!(again, Merged::Contained, "{how:?}");
    }

    let (rebase, same) = clean(merge_onto(&hub, &base.oid, &head, How::Rebase).unwrap());
    assert_eq!(same, tree);
    let (chain, of_tip) = hub.first_parents(&rebase, &main).unwrap();
    assert_eq!(of_tip, tree);
    assert_eq!((chain.len(), &*chain[0]), (3, &*main));
    assert_eq!(show(&chain[1], "--format=%B").trim_end(), "one");
    assert_eq!(
        show(&rebase, "--format=%B").trim_end(),
        "two\n\nItem: x\nSession: 1"
    );
    assert_eq!((by(&chain[1]), by(&rebase)), (ann.into(), ann.into()));
    assert_eq!(w.print(), before);
}

/// An agent that merges its base meanwhile, and solves the conflict, has its work in that merge.
#[test]
fn a_rebase_loses_nothing_of_what_a_merge_among_the_commits_solved() {
    let w = world();
    let hub = w.hub();
    let first = git(&w.user, &["rev-parse", "main"]);
    let main = made(&w, &[&first], &[("c", Some("c\n"))], "on main");
    let one = made(&w, &[&first], &[("b", Some("1\n"))], "one");
    let solved = [("c", Some("c\n")), ("d", Some("evil\n"))];
    let merge = made(&w, &[&one, &main], &solved, "merge main");
    let two = made(&w, &[&merge], &[("b", Some("2\n"))], "two");
    let later = made(&w, &[&main], &[("e", Some("e\n"))], "later");
    let head = brought(&w, &hub, "harness/x/1", &two);
    let onto = brought(&w, &hub, "later", &later);
    let (tip, tree) = clean(merge_onto(&hub, &onto, &head, How::Rebase).unwrap());
    assert_eq!(hub.first_parents(&tip, &onto).unwrap().0.len(), 4);
    let (_, merged) = clean(merge_onto(&hub, &onto, &head, How::Merge).unwrap());
    assert_eq!(tree, merged);
    assert_eq!(git(hub.dir(), &["show", &format!("{tip}:d")]), "evil");
}

#[test]
fn a_conflict_names_the_files_and_who_changed_them() {
    let w = world();
    let hub = w.hub();
    let first = git(&w.user, &["rev-parse", "main"]);
    let odd = "odd \"näme\"\u{1b}";
    let ours = made(
        &w,
        &[&first],
        &[("a", Some("ours\n")), (odd, Some("1\n"))],
        "ours",
    );
    let ours = made(&w, &[&ours], &[("z", Some("z"))], "elsewhere");
    let theirs = made(
        &w,
        &[&first],
        &[("a", Some("theirs\n")), (odd, Some("2\n"))],
        "theirs",
    );
    let onto = brought(&w, &hub, "ours", &ours);
    let head = brought(&w, &hub, "harness/x/1", &theirs);
    for how in [How::Merge, How::Squash, How::Rebase] {
        let merged = merge_onto(&hub, &onto, &head, how).unwrap();
        let Merged::Conflict {
            files,
            ours,
            theirs,
        } = merged
        else {
            panic!("{merged:?}");
        };
        assert_eq!(files, ["a", "odd \"näme\"\\u{1b}"]);
        let ends = |all: &[String], end: &str| all.len() == 1 && all[0].ends_with(end);
        assert!(
            ends(&ours, " (ours)") && ends(&theirs, " (theirs)"),
            "{ours:?} {theirs:?}"
        );
    }
    let alone = made(&w, &[], &[("y", Some("y"))], "alone");
    let alone = brought(&w, &hub, "harness/y/1", &alone);
    for how in [How::Merge, How::Squash, How::Rebase] {
        let e = merge_onto(&hub, &onto, &alone, how).unwrap_err();
        assert_eq!(e.kind(), Kind::Permanent);
        assert!(e.to_string().contains("no commit in common"), "{e}");
    }
}

/// Attributes are those of what is merged onto; what they name, the user's settings define or nobody.
#[test]
fn a_branch_chooses_no_merge_driver_for_itself() {
    let w = world();
    let ran = w.root.path().join("ran");
    let driver = |name: &str, program: &str| {
        git(
            &w.user,
            &["config", &format!("merge.{name}.driver"), program],
        );
    };
    driver("users", &format!("touch {}; false", ran.display()));
    let hub = w.hub();
    let tree = hub.worktree(&w.slot(1)).unwrap();
    tree.checkout("harness/x/1", &hub.base(None).unwrap())
        .unwrap();
    let evil = w.root.path().join("evil");
    let program = format!("touch {}", evil.display());
    git(tree.path(), &["config", "merge.evil.driver", &program]);
    let first = git(&w.user, &["rev-parse", "main"]);
    let union = (
        "u merge=union\n",
        [
            ("u", Some("0\n")),
            (".gitattributes", Some("u merge=union\n")),
        ],
    );
    let base = made(&w, &[&first], &union.1, "base");
    let ours = made(
        &w,
        &[&base],
        &[("u", Some("0\nours\n")), ("a", Some("ours\n"))],
        "ours",
    );
    let onto = brought(&w, &hub, "ours", &ours);
    for name in ["users", "evil"] {
        let chosen = format!("* merge={name}\nu merge=union\n");
        let files = [
            ("u", Some("0\ntheirs\n")),
            ("a", Some("theirs\n")),
            (".gitattributes", Some(&*chosen)),
        ];
        let theirs = made(&w, &[&base], &files, "theirs");
        let head = brought(&w, &hub, &format!("harness/{name}/1"), &theirs);
        let merged = merge_onto(&hub, &onto, &head, How::Merge).unwrap();
        let Merged::Conflict { files, .. } = merged else {
            panic!("{merged:?}");
        };
        assert!(!ran.exists() && !evil.exists(), "{name}");
        if version().unwrap() >= (2, 41, 0) {
            assert_eq!(files, ["a"], "{name}");
        }
    }
}

#[test]
fn what_is_merged_into_is_a_branch_and_what_a_person_moved_is_brought() {
    let w = world();
    let hub = w.hub();
    let first = git(&w.user, &["rev-parse", "main"]);
    git(&w.user, &["tag", "v1"]);
    git(&w.user, &["tag", "other"]);
    git(&w.user, &["update-ref", "refs/remotes/origin/main", &first]);
    let next = made(&w, &[&first], &[("b", Some("1\n"))], "one");
    branch(&w, "other", &next);
    branch(&w, "plain", &next);
    let target = |into| hub.target(into).map(|base| (base.name, base.oid));
    assert_eq!(target(None).unwrap(), ("main".into(), first.clone()));
    for into in ["other", "refs/heads/other"] {
        assert_eq!(target(Some(into)).unwrap(), ("other".into(), next.clone()));
    }
    let none = [
        "v1",
        "origin/main",
        &first,
        "refs/heads/plain~1",
        "main@{0}",
        "gone",
        "--all",
        "",
    ];
    for into in none {
        let e = target(Some(into)).unwrap_err();
        assert_eq!(e.kind(), Kind::Permanent, "{into}: {e}");
    }
    git(&w.user, &["checkout", "-q", "--detach"]);
    let e = target(None).unwrap_err();
    assert!(e.to_string().contains("HEAD is detached"), "{e}");

    assert_eq!(hub.published_at(&["harness/x/1"]).unwrap(), [None]);
    for commit in [&next, &made(&w, &[&next], &[("b", Some("2\n"))], "two")] {
        assert_eq!(&brought(&w, &hub, "harness/x/1", commit), commit);
        assert!(hub.has_commit(commit).unwrap());
    }
    let base = hub.target(Some("other")).unwrap();
    assert!(hub.contains_now(&base, &next).unwrap());
    assert!(hub.contains_now(&base, &first).unwrap());
    branch(&w, "other", &first);
    assert!(!hub.contains_now(&base, &next).unwrap());
    assert!(!hub.contains_now(&base, &"1".repeat(40)).unwrap());
    git(&w.user, &["update-ref", "-d", "refs/heads/other"]);
    assert!(!hub.contains_now(&base, &first).unwrap());
}

#[test]
fn sha256_shallow_and_submodule_repositories_merge_or_say_why_not() {
    let w = world_with(&["--object-format=sha256"]);
    let first = made(&w, &[], &[("a", Some("1\n"))], "first");
    branch(&w, "main", &first);
    let hub = w.hub();
    let ours = made(&w, &[&first], &[("b", Some("1\n"))], "ours");
    let theirs = made(&w, &[&first], &[("c", Some("1\n"))], "theirs");
    let onto = brought(&w, &hub, "ours", &ours);
    let head = brought(&w, &hub, "harness/x/1", &theirs);
    for how in [How::Merge, How::Squash, How::Rebase] {
        clean(merge_onto(&hub, &onto, &head, how).unwrap());
    }

    // Both sides moved a link: nobody can tell which is newer.
    let link = |parent: &str, digit: &str, subject: &str| {
        let index = w.user.join("../link-index");
        let run = |args: &[&str]| {
            let git = Git::on(&w.user.join(".git")).env("GIT_INDEX_FILE", &index);
            git.args(args).must("link").unwrap().line()
        };
        run(&["read-tree", parent]);
        let entry = format!("160000,{},sub", digit.repeat(64));
        run(&["update-index", "--add", "--cacheinfo", &entry]);
        let tree = run(&["write-tree"]);
        run(&["commit-tree", &tree, "-p", parent, "-m", subject])
    };
    let base = link(&first, "1", "link");
    let (ours, theirs) = (link(&base, "2", "ours"), link(&base, "3", "theirs"));
    let onto = brought(&w, &hub, "ours", &ours);
    let head = brought(&w, &hub, "harness/x/2", &theirs);
    let merged = merge_onto(&hub, &onto, &head, How::Merge).unwrap();
    assert!(matches!(merged, Merged::Conflict { files, .. } if files == ["sub"]));
    let head = brought(
        &w,
        &hub,
        "harness/x/3",
        &made(&w, &[&base], &[("c", Some("c"))], "c"),
    );
    clean(merge_onto(&hub, &onto, &head, How::Rebase).unwrap());

    let w = world();
    let first = git(&w.user, &["rev-parse", "main"]);
    let ours = made(&w, &[&first], &[("b", Some("1\n"))], "ours");
    let theirs = made(&w, &[&first], &[("c", Some("1\n"))], "theirs");
    branch(&w, "main", &ours);
    branch(&w, "theirs", &theirs);
    let (top, url) = (
        w.user.parent().unwrap(),
        format!("file://{}", w.user.display()),
    );
    let args = [
        "clone",
        "-q",
        "--depth=1",
        "--no-single-branch",
        &url,
        "shallow",
    ];
    git(top, &args);
    let path = top.join("shallow");
    git(&path, &["branch", "-q", "theirs", "origin/theirs"]);
    let mut repo = w.repo(&path);
    repo.name = "shallow".into();
    let hub = Hub::open(&w.root, &repo).unwrap();
    let base = hub.target(None).unwrap();
    let head = hub.published_at(&["theirs"]).unwrap().remove(0).unwrap();
    let e = merge_onto(&hub, &base.oid, &head, How::Merge).unwrap_err();
    assert!(e.to_string().contains("--unshallow"), "{e}");
}
