//! Merging: what is approved lands as one gated tree, and what does not says why. The crowd of
//! processes that are killed meanwhile is `tests/merges`.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Root, describe, git};

/// A ROOT whose finished branches wait for review, and this configuration beside that.
pub fn root_with(more: &str) -> Root {
    let root = Root::with_repo();
    set(&root, "mode = \"review\"\nbatch = 16\n", more);
    root
}

pub fn set(root: &Root, integrate: &str, more: &str) {
    let text = format!("[repo]\npath = \"repo\"\n[integrate]\n{integrate}{more}");
    root.config(&text);
}

/// A gate of the moment `merge`, by a shell script.
pub fn gate(script: &str) -> String {
    format!("[gates.t]\nwhen = [\"merge\"]\nscript = '''\n{script}\n'''\n")
}

/// Runs these scripts; each of their branches then waits in `review/`.
pub fn finish(root: &Root, items: &[(&str, &str)]) {
    for (name, body) in items {
        root.script(name, body);
    }
    root.drain();
    for (name, _) in items {
        assert!(is_in(root, "review", name), "{}", root.picture());
    }
}

/// Each makes a file of its name.
pub fn finish_files(root: &Root, names: &[&str]) {
    let bodies = names.iter().map(|name| format!("echo 1 >{name}"));
    let bodies: Vec<String> = bodies.collect();
    let items = names.iter().zip(&bodies);
    let items: Vec<(&str, &str)> = items.map(|(name, body)| (*name, &**body)).collect();
    finish(root, &items);
}

pub fn approve(root: &Root, names: &[&str]) {
    for name in names {
        let place = |place: &str| root.at("queue").join(place).join(name);
        fs::rename(place("review"), place("merge")).unwrap();
    }
}

pub fn is_in(root: &Root, place: &str, name: &str) -> bool {
    root.at("queue").join(place).join(name).exists()
}

/// `run --drain` by one worker, which must end so; what it said.
pub fn merge(root: &Root, code: i32) -> String {
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let said = describe(&out);
    assert_eq!(out.status.code(), Some(code), "{said}\n{}", root.picture());
    said
}

pub fn of_base(root: &Root, args: &[&str]) -> String {
    git(&root.repo(), args).trim().to_owned()
}

pub fn files(root: &Root, of: &str) -> Vec<String> {
    let text = of_base(root, &["ls-tree", "-r", "--name-only", of]);
    text.lines().map(str::to_owned).collect()
}

pub fn last(root: &Root, name: &str, event: &str) -> Value {
    let show = root.show(name);
    let events = show["events"].as_array().unwrap();
    let found = events.iter().rev().find(|e| e["event"] == event);
    found
        .unwrap_or_else(|| panic!("no {event}: {events:#?}"))
        .clone()
}

/// Parked with this outcome; the reason.
pub fn parked(root: &Root, name: &str, outcome: &str) -> String {
    assert!(root.is_parked(name), "{}", root.picture());
    let returned = last(root, name, "returned");
    assert_eq!(returned["outcome"], outcome, "{returned}");
    returned["reason"].as_str().unwrap().to_owned()
}

/// It waits in `merge/` for a while; why.
pub fn waits(root: &Root, name: &str) -> String {
    assert!(is_in(root, "merge", name), "{}", root.picture());
    let show = root.show(name);
    show["reason"].as_str().unwrap().to_owned()
}

#[test]
fn each_way_of_merging_leaves_its_trailers_and_lands_once() {
    for (how, parents) in [("merge", 2), ("squash", 1), ("rebase", 1)] {
        let root = Root::with_repo();
        let integrate = format!("mode = \"merge\"\nhow = \"{how}\"\n");
        set(&root, &integrate, "");
        root.script(
            "a",
            "echo 1 >a; git add .; git commit -q -m made; echo 2 >b",
        );
        merge(&root, 0);
        assert!(root.is_done("a"), "{how}\n{}", root.picture());
        assert_eq!(files(&root, "main"), ["README", "a", "b"]);
        let landed = last(&root, "a", "merged");
        let tip = of_base(&root, &["rev-parse", "main"]);
        assert_eq!(
            (&landed["commit"], &landed["tip"]),
            (&tip.clone().into(), &tip.into())
        );
        let line = of_base(&root, &["log", "-1", "--format=%P"]);
        assert_eq!(line.split(' ').count(), parents, "{how}");
        let text = of_base(&root, &["log", "-1", "--format=%(trailers:unfold)"]);
        let session = landed["session"].as_str().unwrap();
        for trailer in ["Harness-Item: a", &format!("Harness-Session: {session}")] {
            assert!(text.contains(trailer), "{how}: {text}");
        }
        assert_eq!(of_base(&root, &["status", "--porcelain"]), "");
        // A second harness finds nothing to do.
        merge(&root, 0);
        root.assert_nothing_left();
    }
}

#[test]
fn an_item_and_a_repository_say_their_own_mode() {
    let root = Root::with_repo();
    let other = root.at("other");
    git(root.path(), &["clone", "-q", "repo", "other"]);
    set(
        &root,
        "mode = \"review\"\n",
        "[repos.other]\npath = \"other\"\nmode = \"merge\"\n",
    );
    root.script("plain", "echo 1 >plain");
    root.script("own", "#harness integrate: merge\necho 1 >own");
    root.script("none", "#harness integrate: branch\necho 1 >none");
    root.script("far", "#harness repo: other\necho 1 >far");
    root.drain();
    assert!(is_in(&root, "review", "plain"), "{}", root.picture());
    for name in ["own", "none", "far"] {
        assert!(root.is_done(name), "{name}\n{}", root.picture());
    }
    assert_eq!(files(&root, "main"), ["README", "own"]);
    assert!(other.join("far").exists(), "the checkout has it");
}

#[test]
fn a_conflict_is_parked_with_its_files_and_both_sides() {
    let root = root_with("");
    finish(&root, &[("a", "echo a >README"), ("b", "echo b >README")]);
    approve(&root, &["a", "b"]);
    merge(&root, 1);
    assert!(root.is_done("a"));
    let reason = parked(&root, "b", "conflict");
    let subject = |item: &str| format!("harness: {item}, attempt 1");
    for part in ["README", &subject("a"), &subject("b")] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(
        last(&root, "b", "returned")["files"],
        serde_json::json!(["README"])
    );
}

const NO_RED: &str = "! ls red* >/dev/null 2>&1";

#[test]
fn one_that_is_red_alone_is_parked_and_the_others_land() {
    let root = root_with(&gate(NO_RED));
    // The batches are 1, 2 and 4: there are others before and behind it.
    let names = ["a", "b", "c", "d", "red", "x", "y"];
    finish_files(&root, &names);
    approve(&root, &names);
    merge(&root, 1);
    let reason = parked(&root, "red", "gate_failed");
    assert!(
        reason.contains("gate t is red") && reason.contains("main"),
        "{reason}"
    );
    let landed = ["README", "a", "b", "c", "d", "x", "y"];
    assert_eq!(files(&root, "main"), landed);
}

#[test]
fn of_two_that_are_red_only_together_both_are_named() {
    let root = root_with(&gate("! { [ -e one ] && [ -e two ]; }"));
    // The batches are 1, 2 and 4.
    let names = ["a", "b", "c", "one", "d", "two", "e"];
    finish_files(&root, &names);
    approve(&root, &names);
    merge(&root, 1);
    assert_eq!(
        files(&root, "main"),
        ["README", "a", "b", "c", "d", "e", "one"]
    );
    let reason = parked(&root, "two", "gate_failed");
    let wanted = "two and one are green alone and red together; one has landed";
    assert!(reason.contains(wanted), "{reason}");
}

#[test]
fn a_culprit_among_sixteen_is_found_in_six_runs() {
    let count = "ls b* 2>/dev/null | wc -l >>\"$HARNESS_ROOT/runs\"; ls b* 2>/dev/null | grep -q 11 && exit 1; exit 0";
    let root = root_with(&gate(count));
    // Batches of 1, 2, 4 and 8 before it.
    let names: Vec<String> = (0..15)
        .map(|n| format!("a{n:02}"))
        .chain((0..16).map(|n| format!("b{n:02}")))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    finish_files(&root, &names);
    approve(&root, &names);
    merge(&root, 1);
    parked(&root, "b11", "gate_failed");
    assert_eq!(files(&root, "main").len(), 31, "{}", root.picture());
    let runs = fs::read_to_string(root.at("runs")).unwrap();
    let runs: Vec<u32> = runs.lines().map(|n| n.trim().parse().unwrap()).collect();
    assert_eq!(runs[..4], [0; 4]);
    // Whole, whole again, and four of the bisection; then it is looked at alone, twice as any red one.
    assert_eq!(runs[4..12], [16, 16, 8, 12, 10, 11, 1, 1], "{runs:?}");
    // The base without it, and those behind it.
    assert_eq!(runs[12..], [0, 12, 14, 15], "{runs:?}");
}

#[test]
fn a_flaky_gate_lets_pass_and_is_told_of() {
    let flaky = "mkdir \"$HARNESS_ROOT/seen\" 2>/dev/null && exit 1; exit 0";
    let root = root_with(&gate(flaky));
    finish_files(&root, &["a"]);
    approve(&root, &["a"]);
    merge(&root, 0);
    assert_eq!(
        last(&root, "a", "merged")["gates"],
        serde_json::json!([["t", "flaky"]])
    );
}

#[test]
fn a_gate_that_cannot_be_started_lands_and_parks_nothing() {
    let root = root_with("[gates.t]\nwhen = [\"merge\"]\ncommand = [\"/no/such/program\"]\n");
    finish_files(&root, &["a", "b"]);
    approve(&root, &["a", "b"]);
    merge(&root, 111);
    for name in ["a", "b"] {
        let why = waits(&root, name);
        assert!(why.contains("/no/such/program"), "{why}");
    }
    assert_eq!(files(&root, "main"), ["README"]);
}

#[test]
fn a_red_base_parks_nobody() {
    let root = root_with(&gate(NO_RED));
    finish_files(&root, &["a"]);
    fs::write(root.repo().join("red"), "1").unwrap();
    git(&root.repo(), &["add", "."]);
    git(&root.repo(), &["commit", "-qm", "breaks it"]);
    approve(&root, &["a"]);
    merge(&root, 111);
    let why = waits(&root, "a");
    assert!(why.contains("mend the base"), "{why}");
    git(&root.repo(), &["rm", "-q", "red"]);
    git(&root.repo(), &["commit", "-qm", "mends it"]);
    merge(&root, 0);
    assert!(root.is_done("a"));
}

#[test]
fn an_approval_is_for_a_commit() {
    let root = root_with("");
    finish_files(&root, &["a", "gone"]);
    let branch = "harness/a/1";
    let tree = of_base(&root, &["rev-parse", &format!("{branch}^{{tree}}")]);
    let moved = of_base(&root, &["commit-tree", &tree, "-p", branch, "-m", "more"]);
    git(&root.repo(), &["branch", "-f", branch, &moved]);
    git(&root.repo(), &["branch", "-D", "harness/gone/1"]);
    approve(&root, &["a", "gone"]);
    merge(&root, 1);
    assert!(is_in(&root, "review", "a"), "{}", root.picture());
    let returned = last(&root, "a", "returned");
    assert_eq!(returned["head"], moved.clone());
    let reason = returned["reason"].as_str().unwrap();
    assert!(
        reason.contains("has moved") && reason.contains(&moved[..9]),
        "{reason}"
    );
    let show = root.show("gone");
    assert!(root.is_parked("gone"));
    assert!(
        show["reason"].as_str().unwrap().contains("was deleted"),
        "{show}"
    );
    assert_eq!(files(&root, "main"), ["README"]);
    // What it is at now was looked at.
    approve(&root, &["a"]);
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README", "a"]);
    git(
        &root.repo(),
        &["merge-base", "--is-ancestor", &moved, "main"],
    );
}

#[test]
fn a_base_that_moves_while_its_gate_runs_is_merged_again() {
    let force = "if mkdir \"$HARNESS_ROOT/seen\" 2>/dev/null; then \
        cd \"$HARNESS_ROOT/repo\" && git update-ref refs/heads/main forced || exit 1; fi; exit 0";
    let root = root_with(&gate(force));
    finish_files(&root, &["a"]);
    let repo = root.repo();
    git(&repo, &["switch", "-q", "--orphan", "forced"]);
    fs::write(repo.join("other"), "1").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "another history"]);
    let onto = of_base(&root, &["rev-parse", "main"]);
    git(&repo, &["rebase", "-q", "--onto", &onto, "--root"]);
    approve(&root, &["a"]);
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README", "a", "other"]);
    let forced = of_base(&root, &["rev-parse", "forced"]);
    assert_eq!(last(&root, "a", "merged")["onto"], forced);
}

#[test]
fn a_base_that_is_deleted_is_waited_for() {
    let root = root_with("");
    finish_files(&root, &["a"]);
    let repo = root.repo();
    git(&repo, &["switch", "-qc", "aside"]);
    git(&repo, &["branch", "-m", "main", "kept"]);
    approve(&root, &["a"]);
    let said = merge(&root, 111);
    let why = waits(&root, "a");
    assert!(why.contains("`main` does not exist"), "{why}");
    assert!(said.contains("a stays in merge/"), "{said}");
    git(&repo, &["branch", "-m", "kept", "main"]);
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README", "a"]);
    assert_eq!(files(&root, "aside"), ["README"]);
}

#[test]
fn it_lands_where_its_work_began_wherever_its_user_is_by_now() {
    let root = root_with("");
    finish_files(&root, &["a"]);
    git(&root.repo(), &["switch", "-qc", "aside"]);
    approve(&root, &["a"]);
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README", "a"]);
    assert_eq!(files(&root, "aside"), ["README"]);
    // Its own base, too.
    root.script("b", "#harness base: aside\necho 1 >b");
    root.drain();
    approve(&root, &["b"]);
    merge(&root, 0);
    assert_eq!(files(&root, "aside"), ["README", "b"]);
    assert!(root.repo().join("b").exists(), "it is checked out");
}

#[test]
fn a_checkout_in_use_is_waited_for() {
    let root = root_with("");
    finish(&root, &[("a", "echo theirs >README")]);
    let repo = root.repo();
    let readme = repo.join("README");
    fs::write(&readme, "mine\n").unwrap();
    approve(&root, &["a"]);
    merge(&root, 111);
    let why = waits(&root, "a");
    assert!(why.contains("README is changed"), "{why}");
    assert_eq!(fs::read_to_string(&readme).unwrap(), "mine\n");
    git(&repo, &["checkout", "-q", "README"]);
    fs::write(
        repo.join(".git/MERGE_HEAD"),
        of_base(&root, &["rev-parse", "main"]),
    )
    .unwrap();
    merge(&root, 111);
    let why = waits(&root, "a");
    assert!(why.contains("a merge is under way"), "{why}");
    let listed = root.ok(&["list", "merge"]);
    assert!(listed.contains("under way"), "{listed}");
    fs::remove_file(repo.join(".git/MERGE_HEAD")).unwrap();
    merge(&root, 0);
    assert_eq!(fs::read_to_string(&readme).unwrap(), "theirs\n");
    assert_eq!(of_base(&root, &["status", "--porcelain"]), "");
}

#[test]
fn it_lands_elsewhere_and_is_pushed_where_that_is_wanted() {
    let root = Root::with_repo();
    set(
        &root,
        "mode = \"merge\"\ninto = \"next\"\npush = \"mirror\"\n",
        "",
    );
    let repo = root.repo();
    git(&repo, &["branch", "next"]);
    git(root.path(), &["init", "-q", "--bare", "mirror.git"]);
    git(&repo, &["remote", "add", "mirror", "../mirror.git"]);
    root.script("a", "echo 1 >a");
    merge(&root, 0);
    assert_eq!(files(&root, "main"), ["README"]);
    assert_eq!(files(&root, "next"), ["README", "a"]);
    let mirror = root.at("mirror.git");
    let pushed = git(&mirror, &["rev-parse", "next"]);
    assert_eq!(pushed, git(&repo, &["rev-parse", "next"]));
    // What the remote refuses has landed all the same.
    let hook = mirror.join("hooks/update");
    fs::write(&hook, "#!/bin/sh\necho not today\nexit 1\n").unwrap();
    make_executable(hook);
    root.script("b", "echo 1 >b");
    let said = merge(&root, 0);
    assert!(root.is_done("b"));
    assert!(said.contains("next landed, and is not pushed"), "{said}");
    assert!(said.contains("the remote refuses it"), "{said}");
    assert_eq!(git(&mirror, &["rev-parse", "next"]), pushed);
    set(
        &root,
        "mode = \"merge\"\ninto = \"next\"\npush = \"nowhere\"\n",
        "",
    );
    root.script("c", "echo 1 >c");
    let said = merge(&root, 0);
    assert!(said.contains("git remote -v"), "{said}");
    assert!(root.is_done("c") && !said.contains("git pull"), "{said}");
}

fn make_executable(path: PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn neither_what_a_gate_writes_nor_the_users_hooks_and_keys_are_in_it() {
    let mut root = root_with(&gate(
        "echo 1 >made-by-gate; echo 2 >README; git add .; git commit -qm x; exit 0",
    ));
    finish_files(&root, &["a", "b"]);
    let repo = root.repo();
    git(&repo, &["config", "commit.gpgsign", "true"]);
    git(&repo, &["config", "gpg.program", "/no/such/program"]);
    git(&repo, &["config", "core.hooksPath", "hooks-of-mine"]);
    fs::create_dir(repo.join("hooks-of-mine")).unwrap();
    for hook in [
        "pre-commit",
        "post-merge",
        "post-checkout",
        "reference-transaction",
        "post-commit",
    ] {
        let path = repo.join("hooks-of-mine").join(hook);
        fs::write(&path, "#!/bin/sh\ntouch \"$HOOK_RAN\"; exit 1\n").unwrap();
        make_executable(path);
    }
    approve(&root, &["a", "b"]);
    let ran = root.at("hook-ran");
    root.env.push(("HOOK_RAN", ran.clone().into()));
    merge(&root, 0);
    assert!(!ran.exists(), "a hook ran");
    assert_eq!(files(&root, "main"), ["README", "a", "b"]);
    assert_eq!(fs::read_to_string(repo.join("README")).unwrap(), "hello\n");
    assert!(!of_base(&root, &["cat-file", "commit", "main"]).contains("gpgsig"));
}

#[test]
fn what_a_gate_leaves_in_the_worktree_is_nobodys_work() {
    let root = root_with(&gate(
        "test ! -e left || exit 1; echo 1 >left; echo 2 >README",
    ));
    finish_files(&root, &["a", "b"]);
    approve(&root, &["a", "b"]);
    merge(&root, 0);
    root.script("c", "test ! -e left && grep hello README && echo 1 >c");
    merge(&root, 0);
    assert!(is_in(&root, "review", "c"), "{}", root.picture());
    assert_eq!(files(&root, "harness/c/1"), ["README", "a", "b", "c"]);
    let hub = root.at("state/repos/default.git");
    let kept = ["for-each-ref", "refs/harness/salvage"];
    assert_eq!(git(&hub, &kept), "", "it was kept");
}

#[test]
fn a_file_that_a_person_spoilt_in_review_stops_nobody() {
    let root = root_with("[repos.other]\npath = \"other\"\n");
    git(root.path(), &["clone", "-q", "repo", "other"]);
    let far = "#harness repo: other\necho 1 >far";
    finish(
        &root,
        &[
            ("spoilt", "echo 1 >spoilt"),
            ("a", "echo 1 >a"),
            ("far", far),
        ],
    );
    for name in ["spoilt", "far"] {
        let path = root.at("queue/review").join(name);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "---\npriority: [\n---\n").unwrap();
    }
    approve(&root, &["spoilt", "a", "far"]);
    merge(&root, 0);
    for name in ["a", "spoilt", "far"] {
        assert!(root.is_done(name), "{name}\n{}", root.picture());
    }
    assert_eq!(files(&root, "main"), ["README", "a", "spoilt"]);
    // Where its branch is, and that is on record.
    assert!(root.at("other/far").exists());
    assert_eq!(last(&root, "far", "merged")["repo"], "other");
}

#[test]
fn what_is_rejected_while_it_is_merged_does_not_land_and_its_gate_is_ended() {
    let wait = "touch \"$HARNESS_ROOT/began\"; sleep 600";
    let root = root_with(&gate(wait));
    finish_files(&root, &["a"]);
    approve(&root, &["a"]);
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("its gate runs", || root.at("began").exists());
    let out = root.exits(0, &["reject", "a", "--comment", "in French, please"]);
    let said = describe(&out);
    assert!(said.contains("agent-1 merges it no more"), "{said}");
    assert_eq!(run.wait(), Some(0), "{}\n{}", run.said(), root.picture());
    assert!(is_in(&root, "review", "a"), "{}", root.picture());
    assert_eq!(root.show("a")["attempts"].as_array().unwrap().len(), 2);
    assert_eq!(files(&root, "main"), ["README"]);
    root.assert_nothing_left();
}

#[test]
fn what_comes_after_an_item_begins_when_that_has_landed() {
    let root = root_with("");
    finish_files(&root, &["a"]);
    root.script("b", "#harness after: [a]\ntest -e a && echo 1 >b");
    let said = describe(&root.harness(&["run", "--drain"]));
    assert!(root.at("queue/pending/b").exists(), "{said}");
    approve(&root, &["a"]);
    root.drain();
    assert!(is_in(&root, "review", "b"), "{}", root.picture());
}

#[test]
fn an_approved_item_whose_harness_dies_is_merged_by_the_next() {
    let wait =
        "touch \"$HARNESS_ROOT/began\"; until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.02; done";
    let root = root_with(&gate(wait));
    finish_files(&root, &["a"]);
    approve(&root, &["a"]);
    let run = root.start(&["--workers", "2"]);
    root.wait_until("its gate runs", || root.at("began").exists());
    run.kill9();
    fs::write(root.at("go"), "").unwrap();
    merge(&root, 0);
    assert!(root.is_done("a"), "{}", root.picture());
    assert_eq!(root.show("a")["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(files(&root, "main"), ["README", "a"]);
    root.assert_nothing_left();
}
