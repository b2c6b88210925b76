//! What an agent leaves in its repository or its worktree never reaches the next item, and what it
//! made there is kept.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Root, git};

/// One slot: each item comes into the last one's worktree.
fn drain(root: &Root) -> String {
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(matches!(out.status.code(), Some(0 | 1)), "{told}");
    told
}

fn one_slot() -> Root {
    Root::with_repo()
}

fn said(root: &Root, item: &str, file: &str) -> String {
    let branch = root.show(item)["branch"].as_str().unwrap().to_owned();
    git(&root.repo(), &["show", &format!("{branch}:{file}")])
}

fn kept(root: &Root) -> String {
    let hub = root.at("state/repos/default.git");
    let refs = [
        "for-each-ref",
        "--format=%(refname)",
        "refs/harness/salvage",
    ];
    git(&hub, &refs)
}

/// What the next item, which begins where this one did, sees of the repository.
const LOOKS: &str = "git config --list --local > settings\n\
    { git tag; git stash list; git for-each-ref refs/replace; git branch --list; } > names\n\
    git log -1 --format='%an <%ae>' > who 2>&1\n\
    git status --porcelain --ignored > status\n\
    ls -A \"$(git rev-parse --git-path hooks)\" \"$(git rev-parse --git-path info)\" > folders\n\
    git ls-files -v | grep -v '^H' > flags\n\
    cat README > readme\n\
    git add -A && git commit -qm looked";

#[test]
fn what_an_agent_sets_for_itself_the_next_one_does_not_have() {
    let root = one_slot();
    root.script("plain", LOOKS);
    drain(&root);
    let marks = root.at("");
    let marks = marks.display();
    root.script(
        "sets",
        &format!(
            "echo x > stashed; git add stashed; git stash -q\n\
             printf '#!/bin/sh\\ntouch {marks}/hooked; exit 1\\n' > hook; chmod +x hook\n\
             G=$(git rev-parse --git-common-dir)\n\
             for h in pre-commit reference-transaction post-checkout post-index-change; do cp hook $G/hooks/$h; done\n\
             git tag left-over; git replace HEAD $(git commit-tree -m other $(git mktree < /dev/null))\n\
             git config user.name Mallory; git config user.email m@m.invalid\n\
             git config commit.gpgsign true; git config gpg.program false\n\
             git config core.autocrlf true; git config core.fsmonitor 'touch {marks}/monitored; false'\n\
             git config core.hooksPath \"$PWD\"; git config alias.status '!false'\n\
             git config filter.evil.clean 'touch {marks}/filtered; cat'; git config filter.evil.smudge 'touch {marks}/smudged; cat'\n\
             git config include.path {marks}/nowhere; git config core.worktree /; git config extensions.worktreeConfig true\n\
             mkdir -p $G/info; echo '* filter=evil' > $G/info/attributes; echo README > $G/info/exclude\n\
             echo '* filter=evil' > .gitattributes; echo $(git rev-parse HEAD) > $G/info/grafts\n\
             git update-index --assume-unchanged README; echo changed > README\n\
             mkdir -p $G/worktrees/agent-1/info; echo '/nothing' > $G/worktrees/agent-1/info/sparse-checkout\n\
             git config core.sparseCheckout true; git config core.bare true; echo w > work\n\
             exit 0"
        ),
    );
    root.script("next", &format!("#harness after: [sets]\n{LOOKS}"));
    drain(&root);
    assert_eq!(
        root.show("sets")["outcome"],
        "succeeded",
        "{}",
        root.picture()
    );
    // Its work is what lies in its worktree, whatever it told its git to overlook.
    assert_eq!(said(&root, "sets", "README"), "changed\n");
    assert_eq!(said(&root, "sets", "work"), "w\n");
    for file in ["settings", "who", "status", "folders", "flags", "readme"] {
        assert_eq!(
            said(&root, "next", file),
            said(&root, "plain", file),
            "{file}"
        );
    }
    let names = said(&root, "next", "names");
    assert_eq!(
        names, "* harness/next/1\n  harness/sets/1\n+ main\n",
        "what it waited for, and nothing that the agent made"
    );
    for mark in ["hooked", "monitored", "filtered", "smudged"] {
        let by_harness = root.at(mark);
        // Its own commands may have run them; ours come after this is removed.
        let _gone = fs::remove_file(&by_harness);
    }
    root.script("last", "echo 1 > file");
    drain(&root);
    for mark in ["hooked", "monitored", "filtered", "smudged"] {
        assert!(!root.at(mark).exists(), "{mark}");
    }
    let of_stash = kept(&root);
    assert!(of_stash.contains("/sets/1/stash/"), "{of_stash}");
}

/// A filter is run by `git add`: harness's own, when it commits what an agent left.
#[test]
fn no_filter_of_an_agent_runs_in_harness_own_git() {
    let root = one_slot();
    let mark = root.at("filtered");
    root.script(
        "sets",
        &format!(
            "git config filter.evil.clean 'touch {0}; cat'\n\
             echo '* filter=evil' > .gitattributes; echo w > work",
            mark.display()
        ),
    );
    drain(&root);
    assert_eq!(said(&root, "sets", "work"), "w\n");
    assert!(!mark.exists());
    root.script("next", "cat work 2>/dev/null; echo n > n");
    drain(&root);
    assert_eq!(said(&root, "next", "n"), "n\n");
    assert!(!mark.exists());
}

#[test]
fn the_names_that_an_agent_takes_are_free_for_the_next_try_and_the_next_item() {
    let root = one_slot();
    let takes = "git checkout -q -b fix/login; echo rc=$? > said; git tag v1; echo rc=$? >> said\n\
         git worktree add -q ../side -b side; echo rc=$? >> said; echo $HARNESS_ATTEMPT > ../side/untracked\n\
         git stash list >> said; ls ../side >> said";
    let fails = format!(
        "if [ $HARNESS_ATTEMPT = 1 ]; then {takes}\ngit add -A; git commit -qm wrong; git branch aside\n\
         echo put > away; git add away; git stash -q; git checkout -q --detach; echo d > d; git add d; git commit -qm alone\n\
         git checkout -q fix/login~0; git checkout -q fix/login; exit 1; fi\n{takes}"
    );
    root.script("first", &fails);
    root.script("second", &format!("#harness after: [first]\n{takes}"));
    drain(&root);
    for (item, branch) in [("first", "harness/first/2"), ("second", "harness/second/1")] {
        assert_eq!(root.show(item)["branch"], branch, "{}", root.picture());
        let said = said(&root, item, "said");
        assert_eq!(said, "rc=0\nrc=0\nrc=0\nREADME\nuntracked\n", "{item}");
    }
    let hub = root.at("state/repos/default.git");
    let tree = ["ls-tree", "-r", "--name-only"];
    let wrong = git(&hub, &[&tree[..], &["harness/first/1"]].concat());
    assert!(wrong.contains("said"), "its HEAD is its work: {wrong}");
    let kept = kept(&root);
    for part in ["/first/1/heads/fix/login/", "/first/1/stash/"] {
        assert!(kept.contains(part), "{part}: {kept}");
    }
    let listed = fs::read_dir(root.at("worktrees")).unwrap().flatten();
    let sides = listed.filter(|e| {
        e.file_name()
            .to_str()
            .is_some_and(|n| n.starts_with("side"))
    });
    assert_eq!(sides.count(), 3, "each is kept beside the last");
}

#[test]
fn a_name_of_the_configuration_may_mean_another_repository_tomorrow() {
    let root = one_slot();
    fs::write(root.repo().join("private"), "private\n").unwrap();
    git(&root.repo(), &["add", "."]);
    git(&root.repo(), &["commit", "-q", "-m", "private"]);
    root.script("one", "echo 1 > one");
    drain(&root);
    let other = root.at("other");
    fs::create_dir(&other).unwrap();
    git(&other, &["init", "-q", "-b", "trunk"]);
    fs::write(other.join("b"), "b\n").unwrap();
    git(&other, &["add", "."]);
    let me = ["-c", "user.name=u", "-c", "user.email=u@localhost"];
    git(
        &other,
        &[&me[..], &["commit", "-q", "-m", "second"]].concat(),
    );
    root.config("[repo]\npath = \"other\"\n");
    root.script(
        "two",
        "git log --all --format=%s > sees; cat b >> sees; ls >> sees",
    );
    let told = drain(&root);
    assert!(told.contains("another one than before"), "{told}");
    let sees = git(&other, &["show", "harness/two/1:sees"]);
    assert_eq!(sees, "second\nb\nb\nsees\n");
    // Back again: the first one's copy is where it was, with all its branches.
    root.config("[repo]\npath = \"repo\"\n");
    root.script("three", "cat private > three; ls >> three");
    drain(&root);
    let three = git(&root.repo(), &["show", "harness/three/1:three"]);
    assert_eq!(three, "private\nREADME\nprivate\nthree\n");
    let hub = root.at("state/repos/default.git");
    assert_eq!(git(&hub, &["show", "harness/one/1:one"]), "1\n");
    // Moved, it is the same one.
    fs::rename(root.repo(), root.at("moved")).unwrap();
    root.config("[repo]\npath = \"moved\"\n");
    root.script("four", "echo 4 > four");
    drain(&root);
    assert_eq!(git(&hub, &["show", "harness/four/1:four"]), "4\n");
}

/// A folder that its owner may not write (a Go module cache), and a file that nobody may change.
#[test]
fn what_git_cannot_remove_is_not_the_next_items_work() {
    let root = one_slot();
    let fixes = |flag: &str, path: &Path| {
        let out = Command::new("chattr").arg(flag).arg(path).output();
        out.is_ok_and(|out| out.status.success())
    };
    let file = root.at("worktrees/agent-1/cache/m/mod");
    root.script(
        "one",
        "mkdir -p cache/m; echo m > cache/m/mod; chmod 555 cache/m cache",
    );
    drain(&root);
    let fixed = fixes("+i", &file);
    root.script("two", "echo two > two");
    drain(&root);
    let changed = ["diff", "--name-only", "main", "harness/two/1"];
    assert_eq!(git(&root.repo(), &changed), "two\n", "{}", root.picture());
    if fixed {
        let aside = root.at("worktrees/agent-1.~1~/cache/m/mod");
        assert!(aside.exists() && fixes("-i", &aside));
    }
    // A folder from which nothing can be removed would stay.
    for folder in ["agent-1", "agent-1.~1~"] {
        let folder = root.at(format!("worktrees/{folder}/cache"));
        let _gone = Command::new("chmod")
            .arg("-R")
            .arg("u+w")
            .arg(folder)
            .status();
    }
}

/// A path in it is longer than any call takes: git can neither commit nor remove it.
#[test]
fn a_folder_deeper_than_a_path_is_long_is_named_and_kept_beside_the_next_items_tree() {
    let root = one_slot();
    // A folder round it, again and again: no shell goes so deep.
    let deep = format!(
        "D={}; mkdir $D; echo f > $D/f; i=0; while [ $i -lt 60 ]; do mkdir t && mv $D t/ && mv t $D; i=$((i+1)); done",
        "d".repeat(200)
    );
    root.script("deep", &format!("echo w > w; {deep}"));
    root.script("next", "ls -A > seen");
    // Also where its agent hid it in what git does not look at.
    let hidden = "mkdir -p $(git rev-parse --git-common-dir)/refs/heads";
    root.script(
        "hidden",
        &format!("{hidden} && cd $(git rev-parse --git-common-dir)/refs/heads; {deep}"),
    );
    root.script("last", "ls -A > seen");
    let told = drain(&root);
    for (name, sees) in [("next", "seen\n"), ("last", "seen\n")] {
        let changed = ["diff", "--name-only", "main", &format!("harness/{name}/1")];
        assert_eq!(git(&root.repo(), &changed), sees, "{told}");
        assert!(!said(&root, name, "seen").contains("ddd"), "{told}");
    }
    assert_eq!(said(&root, "deep", "w"), "w\n");
    let show = root.show("deep");
    let reason = show["attempts"][0]["reason"].as_str().unwrap();
    let why = "cannot be read (deeper than a path may be long)";
    assert!(reason.contains(why), "{reason}");
    assert!(
        root.at("worktrees/agent-1.~1~")
            .join("d".repeat(200))
            .exists()
    );
    root.config("[repo]\npath = \"repo\"\nclean = \"all\"\n");
    root.script(
        "ignores",
        &format!(
            "echo '/d*' > .git-ignored; git config core.excludesFile \"$PWD/.git-ignored\"; {deep}"
        ),
    );
    root.script("all", "ls -A > seen");
    drain(&root);
    assert_eq!(said(&root, "all", "seen"), ".git\nREADME\nseen\n");
}

/// A process that outlived its item, or a person, may still write there.
#[test]
fn what_is_salvaged_after_an_items_end_is_in_its_notes() {
    let root = one_slot();
    root.script("early", "echo e > e");
    drain(&root);
    fs::write(root.at("worktrees/agent-1/late"), "late\n").unwrap();
    root.script("next", ":");
    drain(&root);
    let show = root.show("early");
    let notes = show["attempts"][0]["notes"].to_string();
    let name = notes.split("refs/harness/salvage/").nth(1);
    let name = name.and_then(|rest| rest.split('`').next());
    let name = name.unwrap_or_else(|| panic!("{show:#}"));
    let hub = root.at("state/repos/default.git");
    let kept = git(
        &hub,
        &["show", &format!("refs/harness/salvage/{name}:late")],
    );
    assert_eq!(kept, "late\n");
    let told = root.ok(&["show", "early"]);
    assert_eq!(told.matches(name).count(), 1, "{told}");
    assert!(!root.ok(&["show", "next"]).contains("salvage"));
}

/// git would wait for ever for somebody to write into it.
#[test]
fn a_fifo_in_the_place_of_a_file_of_rules_holds_nobody_up() {
    let root = one_slot();
    let leaves = "mkdir -p sub new; mkfifo .gitignore sub/.gitignore sub/.gitattributes .gitattributes\n\
                  echo w > sub/work; echo w > new/work";
    root.script("one", leaves);
    root.script(
        "two",
        "#harness after: [one]\nls -A > seen; mkfifo new.fifo .gitignore",
    );
    root.script("three", "#harness after: [two]\nls -A > seen");
    let begun = std::time::Instant::now();
    drain(&root);
    assert!(begun.elapsed().as_secs() < 100, "{}", root.picture());
    assert_eq!(said(&root, "one", "sub/work"), "w\n");
    assert_eq!(said(&root, "two", "seen"), ".git\nREADME\nseen\n");
    assert_eq!(root.show("three")["outcome"], "succeeded");
}

#[test]
fn half_written_objects_of_killed_gits_go() {
    let root = one_slot();
    root.script("one", "echo 1 > one");
    drain(&root);
    let objects = root.at("state/repos/default.git/objects");
    let left = [
        "pack/tmp_pack_x",
        "pack/tmp_idx_x",
        "0f/tmp_obj_x",
        "tmp_objdir-x",
    ];
    let left = left.map(|name| objects.join(name));
    let plant = || {
        for path in &left[..3] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "half").unwrap();
        }
        fs::create_dir_all(left[3].join("0f")).unwrap();
    };
    plant();
    let seen: serde_json::Value =
        serde_json::from_str(&root.ok(&["gc", "--dry-run", "--json"])).unwrap();
    assert_eq!(seen["debris"], 4, "{seen}");
    assert!(left.iter().all(|path| path.exists()));
    assert!(root.ok(&["gc"]).contains("removed 4 half-written objects"));
    assert!(!left.iter().any(|path| path.exists()));
    // A run may not be alone: it removes only what is old.
    plant();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    let file = fs::File::options().write(true).open(&left[0]).unwrap();
    file.set_modified(old).unwrap();
    root.script("two", "echo 2 > two");
    drain(&root);
    assert!(!left[0].exists() && left[1].exists());
}

#[test]
fn an_item_sees_the_branches_of_those_it_waited_for_and_no_others() {
    let root = one_slot();
    root.script("first", "echo 1 > one");
    root.script("beside", "echo 2 > two");
    root.script(
        "next",
        "#harness after: [first]\nset -e\n\
         git for-each-ref --format='%(refname:short)' refs/heads/harness > names\n\
         git merge -q --no-edit harness/first/1",
    );
    drain(&root);
    assert_eq!(said(&root, "next", "one"), "1\n");
    let names = said(&root, "next", "names");
    assert_eq!(names, "harness/first/1\nharness/next/1\n");
}

/// Whatever names an agent gives its refs, and however many: the next item starts.
#[test]
fn refs_without_end_and_names_that_exclude_each_other_hold_up_no_later_item() {
    let root = one_slot();
    root.script(
        "sets",
        "set -e\nC=$(git commit-tree -m a $(git mktree < /dev/null))\n\
         D=$(git commit-tree -m b $(git mktree < /dev/null))\n\
         G=$(git rev-parse --git-common-dir)\nS=$(echo $C | cut -c1-12)\n\
         i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo \"$C refs/pull/$i/head\"; done > many\n\
         { echo \"$C refs/heads/x\"; echo \"$D refs/heads/x/$S\"; cat many; } >> $G/packed-refs\n\
         rm many; echo w > work",
    );
    root.script("next", "#harness after: [sets]\necho n > n");
    drain(&root);
    assert_eq!(said(&root, "sets", "work"), "w\n");
    assert_eq!(said(&root, "next", "n"), "n\n");
    let kept = kept(&root);
    assert!(kept.contains("/sets/1/pull/3000/head/"), "{}", kept.len());
}

#[test]
fn a_file_that_takes_the_place_of_a_folder_left_out_by_sparse_checkout_is_work() {
    let root = one_slot();
    let repo = root.repo();
    fs::create_dir(repo.join("d")).unwrap();
    fs::write(repo.join("d/f"), "f\n").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "folder"]);
    root.script(
        "sets",
        "git sparse-checkout set --no-cone /README; rmdir d 2>/dev/null; echo precious > d",
    );
    drain(&root);
    assert_eq!(said(&root, "sets", "d"), "precious\n");
}

#[test]
fn a_name_that_git_takes_into_no_commit_is_kept_beside_and_the_slot_goes_on() {
    let root = one_slot();
    root.script("odd", "mkdir -p e/.Git; echo x > e/.Git/x; echo y > y");
    root.script("next", "#harness priority: low\necho n > n");
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let told = crate::support::describe(&out);
    assert_eq!(said(&root, "next", "n"), "n\n", "{told}");
    let kept = fs::read_to_string(root.at("worktrees/agent-1.~1~/y"));
    assert_eq!(kept.unwrap(), "y\n", "{told}");
}
