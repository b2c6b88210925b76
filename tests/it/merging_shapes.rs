//! Merging where the repository, the branch or the disk is not as in other examples: what can land lands
//! whole, and what cannot holds up no other.

use std::fs;
use std::process::Command;

use crate::git_carried::{forget_remotes, local, with_submodules};
use crate::git_lfs::with_lfs;
use crate::merging::{
    approve, files, finish, gate, last, merge, of_base, parked, root_with, set, waits,
};
use crate::support::{Root, git, skipped};
use crate::trouble::{has_mounts, run_to_end, words};

#[test]
fn one_that_can_never_be_merged_is_parked_and_holds_up_no_other() {
    for how in ["merge", "squash", "rebase"] {
        let root = Root::with_repo();
        set(&root, &format!("mode = \"review\"\nhow = \"{how}\"\n"), "");
        let orphan =
            "git switch -q --orphan other; echo 1 >other; git add other; git commit -qm other";
        finish(
            &root,
            &[("a", "echo 1 >a"), ("orphan", orphan), ("b", "echo 1 >b")],
        );
        approve(&root, &["a", "orphan", "b"]);
        merge(&root, 1);
        assert_eq!(files(&root, "main"), ["README", "a", "b"], "{how}");
        let reason = parked(&root, "orphan", "failed");
        assert!(reason.contains("no commit in common"), "{how}: {reason}");
        root.assert_nothing_left();
    }
}

#[test]
fn what_stands_in_the_way_of_a_merge_for_good_holds_up_no_new_item() {
    let more = format!("{}[repos.other]\npath = \"other\"\n", gate("exit 0"));
    let root = root_with(&more);
    git(root.path(), &["clone", "-q", "repo", "other"]);
    finish(&root, &[("a", "echo 1 >a")]);
    approve(&root, &["a"]);
    // Where its tree is to be gated, nothing can be checked out.
    let hub = root.at("state/repos/default.git/slots");
    fs::rename(&hub, root.at("slots")).unwrap();
    fs::write(&hub, "in the way").unwrap();
    root.script("new", "#harness repo: other\nexit 0");
    let said = merge(&root, 111);
    let why = waits(&root, "a");
    assert!(
        said.contains("a stays in merge/") && why.contains("slots"),
        "{why}\n{said}"
    );
    fs::remove_file(&hub).unwrap();
    fs::rename(root.at("slots"), &hub).unwrap();
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README", "a"]);
}

/// The whole history of a clone that is cut off, and more of it.
#[test]
fn in_a_shallow_clone_branches_land_and_what_is_cut_off_waits_for_a_person() {
    let root = Root::with_repo();
    for n in 1..4 {
        fs::write(root.repo().join("n"), n.to_string()).unwrap();
        git(&root.repo(), &["add", "."]);
        git(&root.repo(), &["commit", "-qm", &n.to_string()]);
    }
    fs::rename(root.repo(), root.at("whole")).unwrap();
    let url = format!("file://{}", root.at("whole").display());
    git(root.path(), &["clone", "-q", "--depth", "1", &url, "repo"]);
    set(&root, "mode = \"review\"\n", &gate("test -e n"));
    finish(&root, &[("a", "echo 1 >a"), ("b", "echo 1 >b")]);
    approve(&root, &["a"]);
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README", "a", "n"]);
    assert_eq!(of_base(&root, &["status", "--porcelain"]), "");
    git(&root.repo(), &["fsck", "--no-dangling"]);
    // The user goes on elsewhere, and fetches as little again.
    let whole = root.at("whole");
    fs::write(whole.join("n"), "9").unwrap();
    git(&whole, &["commit", "-qam", "9"]);
    git(&root.repo(), &["fetch", "-q", "--depth", "1"]);
    git(&root.repo(), &["reset", "-q", "--hard", "origin/main"]);
    approve(&root, &["b"]);
    merge(&root, 1);
    let reason = parked(&root, "b", "failed");
    assert!(reason.contains("git fetch --unshallow"), "{reason}");
    git(&root.repo(), &["fetch", "-q", "--unshallow"]);
    fs::rename(root.at("queue/parked/b"), root.at("queue/merge/b")).unwrap();
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README", "b", "n"]);
}

#[test]
fn a_submodules_commit_lands_with_its_link_and_two_that_differ_conflict() {
    let root = with_submodules();
    forget_remotes(&root);
    set(
        &root,
        "mode = \"review\"\n",
        &gate("test ! -e new-lib || test -e lib/new"),
    );
    let work = |file: &str| {
        format!(
            "set -e; touch {file}-lib; echo 1 >lib/{file}; cd lib; git add .; git commit -qm {file}; cd ..; git add .; git commit -qm link"
        )
    };
    finish(
        &root,
        &[
            ("new", &work("new")),
            ("odd", &work("odd")),
            ("plain", "echo 1 >plain"),
        ],
    );
    approve(&root, &["new", "odd", "plain"]);
    merge(&root, 1);
    let reason = parked(&root, "odd", "conflict");
    assert!(reason.contains("lib"), "{reason}");
    let repo = root.repo();
    let link = of_base(&root, &["rev-parse", "main:lib"]);
    assert!(files(&root, "main").contains(&"plain".to_owned()));
    // Its files are the user's to bring up to date, as after any merge of git's.
    local(&repo, &["submodule", "--quiet", "update", "--recursive"]);
    assert!(repo.join("lib/new").exists());
    assert_eq!(git(&repo.join("lib"), &["rev-parse", "HEAD"]).trim(), link);
    assert_eq!(of_base(&root, &["status", "--porcelain"]), "");
}

#[test]
fn large_files_of_git_lfs_are_in_the_users_checkout_when_they_have_landed() {
    let real = Command::new("git-lfs").arg("version").output();
    let real = real.is_ok_and(|out| out.status.success());
    if !real {
        skipped("the real git-lfs: it is not installed");
    }
    for program in ["", "git-lfs"].iter().take(1 + usize::from(real)) {
        let root = with_lfs(program);
        set(
            &root,
            "mode = \"merge\"\n",
            &gate("test $(wc -l <x.bin) = 5000"),
        );
        root.script("adds", "seq 1000 >new.bin; git add .; git commit -qm new");
        root.script("other", "seq 2000 >other.bin");
        merge(&root, 0);
        let lines = |file: &str| {
            let text = fs::read_to_string(root.repo().join(file)).unwrap();
            text.lines().count()
        };
        assert_eq!(
            (lines("new.bin"), lines("other.bin")),
            (1000, 2000),
            "{program}"
        );
        assert_eq!(of_base(&root, &["status", "--porcelain"]), "", "{program}");
        let stored = of_base(&root, &["show", "main:other.bin"]);
        assert!(stored.starts_with("version https://git-lfs"), "{stored}");
    }
}

#[test]
fn a_daemon_that_a_gate_leaves_is_ended_before_the_landing() {
    let root = root_with(&gate(
        "setsid sleep 600 & setsid sleep 600 >/dev/null 2>&1 & exit 0",
    ));
    finish(&root, &[("a", "echo 1 >a")]);
    approve(&root, &["a"]);
    merge(&root, 0);
    assert_eq!(
        last(&root, "a", "merged")["gates"],
        serde_json::json!([["t", "green"]])
    );
    root.assert_nothing_left();
}

#[test]
fn a_disk_that_is_full_again_and_again_delays_a_merge_and_loses_nothing() {
    if !has_mounts() {
        return;
    }
    let root = Root::plain();
    let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
    let script = format!(
        "h='{bin} --root {dir}/t'; mkdir {dir}/t; mount -t tmpfs -o size=24m none {dir}/t; cd {dir}/t
        export GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t
        git init -q -b main repo; cd repo; echo hello >README; git add .; git commit -qm one; cd ..; $h init >/dev/null
        printf '[harness]\nstagger=0\n[repo]\npath=\"repo\"\n[limits]\ndisk_free_min=0\n[integrate]\nmode=\"merge\"\n[gates.t]\nsandbox=\"off\"\nwhen=[\"merge\"]\nscript=\"cat /dev/zero >$HARNESS_ROOT/fill 2>/dev/null; exit 0\"\n' >harness.toml
        for n in a b c; do printf \"#!/bin/sh\necho $n >$n\n\" >queue/pending/$n; chmod 755 queue/pending/$n; done
        $h run --drain --workers 2 2>{dir}/said >&2 & p=$!; n=0
        while kill -0 $p 2>/dev/null; do
            if [ -e fill ] && $h status 2>&1 | grep -q 'No space left'; then rm fill; n=$((n+1)); fi; sleep 0.1
        done; wait $p; echo CODE $?; echo FULL $n; echo DONE $(ls queue/done)
        cd repo; echo TREE $(git ls-tree --name-only main); echo STATUS $(git status --porcelain); git fsck --no-dangling && echo WHOLE"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env_remove("HARNESS_ROOT");
    let said = words(&run_to_end(command));
    let log = fs::read_to_string(root.at("said")).unwrap_or_default();
    for wanted in [
        "CODE 0",
        "DONE a b c",
        "TREE README a b c",
        "STATUS\n",
        "WHOLE",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}\n{log}");
    }
    assert!(!said.contains("FULL 0"), "it was never full: {said}\n{log}");
}
