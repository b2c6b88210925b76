//! What is brought into the user's repository and not yet on a branch: the user collects garbage at
//! any moment, and some refs of theirs may be damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::merging::{approve, finish_files, gate, last, merge, root_with};
use crate::support::{Root, describe, git};

/// A ROOT whose harness finds a `git` that once, at its first command in the user's repository that
/// makes a branch, does this first.
fn with_git_that(does: &str) -> Root {
    let mut root = Root::with_repo();
    set_git(&mut root, &[("*update-ref\\ refs/heads/harness/*", does)]);
    root
}

/// Has harness find a `git` that does each of these once, before its first command like that in the user's
/// repository.
fn set_git(root: &mut Root, each: &[(&str, &str)]) {
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    let mut text =
        "#!/bin/sh\nPATH=${PATH#*:}\nuser=$GIT_DIR\ncase \"$GIT_DIR $*\" in\n".to_owned();
    for (n, (at, does)) in each.iter().enumerate() {
        let once = bin.join(match n {
            0 => "once".to_owned(),
            n => format!("once-{n}"),
        });
        let once = once.display();
        text.push_str(&format!(
            "*/repo/.git\\ {at})\nonce='{once}'\nif mkdir \"$once\" 2>/dev/null; then\n{does}\nfi;;\n"
        ));
    }
    text.push_str("esac\nexec git \"$@\"\n");
    fs::write(bin.join("git"), text).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut path = bin.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    root.env.push(("PATH", path));
}

fn holds(repo: &Path) -> String {
    git(
        repo,
        &["for-each-ref", "--format=%(refname)", "refs/harness"],
    )
}

/// After a drain `x` is done, its branch is whole, and no ref of harness's own is left.
fn assert_drain_publishes(root: &Root) {
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let repo = root.repo();
    assert!(root.is_done("x"), "{:#}", root.show("x"));
    assert!(root.at("bin/once").exists(), "the test's git was not asked");
    assert_eq!(git(&repo, &["show", "harness/x/1:made"]), "made\n");
    git(&repo, &["fsck", "--no-dangling"]);
    assert_eq!(holds(&repo), "");
}

#[test]
fn a_collection_before_the_branch_stands_takes_nothing_of_it() {
    let collect =
        "(unset GIT_DIR; git -C \"$user\" gc -q --prune=now; git -C \"$user\" prune --expire=now)";
    let root = with_git_that(collect);
    root.script("x", "echo made > made");
    assert_drain_publishes(&root);
}

/// As a collection does that had looked at the refs before harness made its own.
#[test]
fn objects_that_vanish_while_the_branch_is_made_are_brought_again() {
    let root = with_git_that("git \"$@\"; rm -f \"$user\"/objects/pack/pack-*");
    root.script("x", "echo made > made");
    assert_drain_publishes(&root);
}

/// Some of its objects are there, on no ref: git takes a commit that it finds for the whole.
#[test]
fn a_half_of_the_objects_is_not_taken_for_all() {
    let rest = "git \"$@\"; mkdir \"$user/packs\"; mv \"$user\"/objects/pack/pack-* \"$user/packs\"\n\
                cat \"$user\"/packs/*.pack | git unpack-objects -q; rm -r \"$user/packs\"\n\
                blob=$(git rev-parse refs/heads/harness/x/1:made)\n\
                rm \"$user/objects/$(echo $blob | cut -c1-2)/$(echo $blob | cut -c3-)\"";
    let root = with_git_that(rest);
    root.script("x", "echo made > made");
    assert_drain_publishes(&root);
}

/// A process died that had brought them, and a collection that began before the next brings them ends
/// after: at no time does a ref lead to what is not there.
#[test]
fn objects_that_are_there_on_no_ref_are_brought_again_before_a_ref_names_them() {
    let fetches = "git \"$@\"; code=$?; cd \"$user/objects/pack\"\n\
                   if [ ! -e ../old ]; then\n\
                     ls > ../old; held=$(git for-each-ref --format='%(refname)' refs/harness)\n\
                     git update-ref -d $held; rmdir \"$once\"; kill -9 $PPID\n\
                   else\n\
                     rm -f $(cat ../old); (unset GIT_DIR; git gc -q) > ../said 2>&1\n\
                   fi; exit $code";
    let mut root = Root::with_repo();
    set_git(&mut root, &[("*\\ fetch\\ *:refs/harness/held/*", fetches)]);
    root.script("x", "echo made > made");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    assert_eq!(run.wait(), None, "{}", run.said());
    assert_drain_publishes(&root);
    let said = fs::read_to_string(root.repo().join(".git/objects/said")).unwrap();
    assert_eq!(said, "");
}

#[test]
fn what_a_killed_harness_held_is_let_go_by_the_next() {
    let root = with_git_that("kill -9 $PPID; exit 1");
    root.script("x", "echo made > made");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    assert_eq!(run.wait(), None, "{}", run.said());
    assert_ne!(holds(&root.repo()), "");
    assert_drain_publishes(&root);
}

/// As after a power cut that the ref outlived, and the record and the session did not.
#[test]
fn what_is_held_for_an_attempt_that_nobody_knows_is_let_go() {
    let root = with_git_that("kill -9 $PPID; exit 1");
    root.script("x", "echo made > made");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    assert_eq!(run.wait(), None, "{}", run.said());
    assert_ne!(holds(&root.repo()), "");
    fs::remove_file(root.at("state/items/x.jsonl")).unwrap();
    for entry in fs::read_dir(root.at("state/sessions")).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    // Another tree's.
    let other = "refs/harness/held/1-1/deadbeef";
    git(&root.repo(), &["update-ref", other, "HEAD"]);
    let out = root.drain();
    assert!(root.is_done("x"), "{}", describe(&out));
    assert_eq!(
        git(
            &root.repo(),
            &["for-each-ref", "--format=%(refname)", "refs/harness"]
        )
        .trim(),
        other
    );
}

#[test]
fn a_lock_that_a_killed_git_left_on_the_holding_ref_parks_nothing() {
    let left = "held=$(git -C \"$user\" for-each-ref --format='%(refname)' refs/harness)\n\
                git update-ref -d $held; mkdir -p \"$user/${held%/*}\"; : > \"$user/$held.lock\"\n\
                kill -9 $PPID; exit 1";
    let root = with_git_that(left);
    root.script("x", "echo made > made");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    assert_eq!(run.wait(), None, "{}", run.said());
    assert_drain_publishes(&root);
}

/// Left by a power cut or an aborted `git gc`.
#[test]
fn a_ref_of_the_user_to_a_missing_object_stops_no_item() {
    let root = Root::with_repo();
    let refs = root.repo().join(".git/refs");
    let missing = format!("{}\n", "1".repeat(40));
    // Before the copy of the repository is made, and while an agent works.
    fs::create_dir_all(refs.join("remotes/origin")).unwrap();
    fs::write(refs.join("remotes/origin/gone"), &missing).unwrap();
    let old = refs.join("heads/old");
    root.script(
        "x",
        &format!(
            "echo made > made; echo {} > '{}'",
            missing.trim(),
            old.display()
        ),
    );
    root.script("y", "#harness after: [x]\necho made > made");
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    for name in ["x", "y"] {
        assert!(root.is_done(name), "{:#}", root.show(name));
        let made = format!("harness/{name}/1:made");
        assert_eq!(git(&root.repo(), &["show", &made]), "made\n");
    }
    assert_eq!(
        fs::read_to_string(&old).unwrap(),
        missing,
        "it is the user's"
    );
    root.ok(&["gc"]);
}

/// Lands a branch with this `git`: all of it is there, and nothing is left of what held it.
fn assert_lands(each: &[(&str, &str)]) {
    let mut root = root_with(&gate("exit 0"));
    finish_files(&root, &["a"]);
    set_git(&mut root, each);
    approve(&root, &["a"]);
    merge(&root, 0);
    assert!(root.at("bin/once").exists(), "the test's git was not asked");
    assert!(root.is_done("a"), "{}", root.picture());
    let repo = root.repo();
    let landed = last(&root, "a", "merged");
    assert_eq!(landed["tip"], git(&repo, &["rev-parse", "main"]).trim());
    git(&repo, &["fsck", "--no-dangling"]);
    assert_eq!(holds(&repo), "");
    let packs = fs::read_dir(repo.join(".git/objects/pack")).unwrap();
    let mut names = packs.map(|entry| entry.unwrap().file_name());
    assert!(!names.any(|name| name.to_string_lossy().ends_with(".keep")));
}

/// It reads the refs before one holds what was merged, and removes the packs that it has put together when
/// the base has moved.
#[test]
fn a_collection_that_began_before_a_merge_was_held_takes_nothing_of_it() {
    let lists = "list=$user/seen; : > $list\nfor pack in \"$user\"/objects/pack/pack-*.pack; do\n\
                 [ -e \"${pack%.pack}.keep\" ] || echo \"${pack%.pack}\" >> $list\ndone\n\
                 (unset GIT_DIR; git -C \"$user\" repack -a -q)";
    let removes = "git \"$@\"\nwhile read -r pack; do\n\
                   rm -f \"$pack.idx\" \"$pack.rev\" \"$pack.pack\"\ndone < \"$user/seen\"; exit 0";
    assert_lands(&[
        ("*update-ref\\ refs/harness/held/*/merge-*", lists),
        ("*update-ref\\ -m\\ harness:\\ merged*", removes),
    ]);
}

/// The branches of the user's were taken to hold the rest; and what was copied may be gone as well.
#[test]
fn of_a_merge_all_is_there_before_the_base_moves() {
    for lost in ["$tip^{tree}", "$tip^2:a"] {
        let loses = format!(
            "git \"$@\"; mkdir \"$user/packs\"; mv \"$user\"/objects/pack/pack-* \"$user/packs\"\n\
             for pack in \"$user\"/packs/*.pack; do\n\
             git unpack-objects -q < \"$pack\"\ndone\nrm -r \"$user/packs\"\n\
             for tip; do :; done; lost=$(git rev-parse \"{lost}\")\n\
             rm \"$user/objects/$(echo $lost | cut -c1-2)/$(echo $lost | cut -c3-)\"; exit 0"
        );
        assert_lands(&[("*update-ref\\ refs/harness/held/*/merge-*", &loses)]);
    }
}

/// As the kernel does when memory runs out. What git then says of missing objects is not so.
#[test]
fn a_killed_helper_of_gits_parks_nothing() {
    for (of, helper) in [("base", "rev-list"), ("held", "index-pack")] {
        let mut root = Root::with_repo();
        root.script("first", ":");
        root.drain();
        let empty = ["commit", "-q", "--allow-empty", "-m", "on"];
        git(&root.repo(), &empty);
        let (bin, core) = (root.at("bin"), root.at("core"));
        let put = |dir: &Path, text: &str| {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("git"), text).unwrap();
            fs::set_permissions(dir.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let kills = "unset GIT_EXEC_PATH; PATH=${PATH#*:}";
        put(
            &core,
            &format!("#!/bin/sh\n{kills}\n[ $1 != {helper} ] || kill -9 $$\nexec git \"$@\"\n"),
        );
        let (core, once) = (core.display(), root.at("once"));
        let fetch = format!(
            "#!/bin/sh\nPATH=${{PATH#*:}}\ncase \"$*\" in *\\ fetch\\ *:refs/harness/{of}/*)\n\
             mkdir '{}' 2>/dev/null && export GIT_EXEC_PATH='{core}';;\nesac\nexec git \"$@\"\n",
            once.display()
        );
        put(&bin, &fetch);
        let mut path = bin.into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        root.env.push(("PATH", path));
        root.script("x", "echo made > made");
        let out = root.drain();
        let said = describe(&out);
        assert!(once.exists() && root.is_done("x"), "{of}: {said}");
        assert!(
            said.contains("a git that git had started was killed"),
            "{said}"
        );
        assert_eq!(git(&root.repo(), &["show", "harness/x/1:made"]), "made\n");
    }
}
