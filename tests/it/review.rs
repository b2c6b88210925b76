//! `harness review`, `approve`, `reject`, and the same by `mv`: finished branches that wait for a person.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Root, describe, files_below, git};

pub fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

pub fn json_of(root: &Root, args: &[&str]) -> Value {
    serde_json::from_str(&root.ok(&[args, &["--json"]].concat())).unwrap()
}

pub fn of<'a>(all: &'a Value, item: &str) -> &'a Value {
    let mut found = all.as_array().unwrap().iter();
    let found = found.find(|w| w["item"] == item);
    found.unwrap_or_else(|| panic!("no {item}: {all:#}"))
}

/// Drops scripts that wait for review afterwards, and runs them.
pub fn reviewed(root: &Root, items: &[(&str, &str)]) {
    for (name, body) in items {
        root.script(name, &format!("#harness integrate: review\n{body}"));
    }
    root.drain();
    for (name, _) in items {
        assert!(is_in(root, "review", name), "{name}\n{}", root.picture());
    }
}

pub fn is_in(root: &Root, place: &str, name: &str) -> bool {
    root.at("queue").join(place).join(name).exists()
}

/// A person adds a commit to a branch, without checking it out.
pub fn add_commit(repo: &Path, branch: &str, file: &str, text: &str) -> String {
    let other = repo.with_file_name("by-a-person");
    let dir = other.to_str().unwrap();
    git(repo, &["worktree", "add", "-q", dir, branch]);
    fs::write(other.join(file), text).unwrap();
    git(&other, &["add", "."]);
    git(&other, &["commit", "-q", "-m", "by a person"]);
    git(repo, &["worktree", "remove", "--force", dir]);
    git(repo, &["rev-parse", branch]).trim().to_owned()
}

pub fn events(root: &Root, name: &str, kind: &str) -> Vec<Value> {
    let show = root.show(name);
    let all = show["events"].as_array().unwrap().iter();
    all.filter(|e| e["event"] == kind).cloned().collect()
}

pub fn branch_tip(root: &Root, branch: &str) -> String {
    git(&root.repo(), &["rev-parse", branch]).trim().to_owned()
}

/// An editor: a shell script that gets the file as `$1`.
fn editor(root: &Root, body: &str) -> String {
    let path = root.at("editor");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn edit(root: &Root, name: &str, editor: &str) -> Output {
    let mut command = root.command();
    command.args(["review", name, "--edit"]);
    command.env_remove("VISUAL").env("EDITOR", editor);
    command.output().unwrap()
}

#[test]
fn what_waits_is_told_with_its_changes_and_what_its_gates_said() {
    let root = Root::with_repo();
    let out = root.exits(0, &["review"]);
    assert!(said(&out).contains("nothing waits"), "{}", describe(&out));
    root.config(
        "[repo]\npath = \"repo\"\n[gates.fine]\ncommand = [\"true\"]\n\
         [gates.odd]\ncommand = [\"false\"]\nrequired = false\n",
    );
    reviewed(
        &root,
        &[
            ("a", "echo one > README; echo new > n"),
            ("b", "printf 'x\\ny\\n' > y"),
        ],
    );
    root.ok(&["approve", "b"]);
    let all = json_of(&root, &["review"]);
    let a = of(&all, "a");
    assert_eq!(
        [&a["state"], &a["branch"], &a["base"], &a["moved"]],
        [
            &json!("review"),
            &json!("harness/a/1"),
            &json!("main"),
            &json!(false)
        ]
    );
    let counts = ["commits", "files_changed", "insertions", "deletions"];
    assert_eq!(
        counts.map(|k| a[k].as_u64()),
        [1, 2, 2, 1].map(Some),
        "{a:#}"
    );
    assert_eq!(a["head"], branch_tip(&root, "harness/a/1"));
    assert!(a["since"].is_string() && a["returned"].is_null(), "{a:#}");
    let verdicts: Vec<_> = a["gates"].as_array().unwrap().iter().collect();
    let verdict = |gate: &str| {
        let ran = verdicts.iter().find(|ran| ran["gate"] == gate);
        ran.map(|ran| ran["verdict"].clone())
    };
    assert_eq!(verdict("fine"), Some(json!("green")), "{a:#}");
    assert_eq!(verdict("odd"), Some(json!("red")), "{a:#}");
    assert_eq!(of(&all, "b")["state"], "merge");

    let table = root.ok(&["review"]);
    let row = |name: &str| {
        let mut lines = table.lines();
        let row = lines.find(|line| line.starts_with(&format!("{name} ")));
        row.unwrap_or_else(|| panic!("{table}")).to_owned()
    };
    for word in [
        "review",
        "harness/a/1",
        "+2 -1",
        "odd red",
        "green",
        "no conflicts",
    ] {
        assert!(row("a").contains(word), "{word}: {table}");
    }
    assert!(row("b").contains(" merge "), "{table}");

    let one = root.ok(&["review", "a"]);
    let (head, diff) = one.split_once("\n\n").unwrap();
    for word in [
        "a: its branch waits for your approval",
        "harness/a/1 (1 commit, 2 files, +2 -1), for main: no conflicts",
        "gate fine is green",
        "gate odd is red",
        " approve a` has it merged",
    ] {
        assert!(head.contains(word), "{word}: {head}");
    }
    let want = git(&root.repo(), &["diff", "main...harness/a/1"]);
    assert_eq!(diff, want);
    let one = json_of(&root, &["review", "a"]);
    assert_eq!(one["diff"], want);
    assert_eq!(one["base_oid"], branch_tip(&root, "main"));
    root.assert_nothing_left();
}

#[test]
fn a_terminal_gets_the_changes_through_the_pager_that_git_would_take_and_in_its_colours() {
    let root = Root::with_repo();
    reviewed(&root, &[("a", "echo one > README")]);
    let repo = root.repo();
    let paged = |pager: &[(&str, &str)]| {
        let line = format!(
            "stty -onlcr; exec '{}' --root '{}' review a </dev/null",
            env!("CARGO_BIN_EXE_harness"),
            root.path().display()
        );
        let mut command = Command::new("script");
        command
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::null());
        for key in ["GIT_PAGER", "PAGER", "NO_COLOR"] {
            command.env_remove(key);
        }
        let out = command.env("TERM", "xterm").env("SHELL", "/bin/bash");
        let out = out.envs(pager.iter().copied()).output().unwrap();
        assert!(out.status.success(), "{}", describe(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let all_by = |text: &str, mark: &str| {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() > 8, "{text}");
        assert!(
            lines.iter().all(|line| line.starts_with(mark)),
            "{mark}: {text}"
        );
    };
    let text = paged(&[("PAGER", "sed s/^/of-person:/")]);
    all_by(&text, "of-person:");
    assert!(text.contains("\x1b[32m+"), "git's colours: {text}");
    git(&repo, &["config", "core.pager", "sed s/^/of-config:/"]);
    let text = paged(&[("PAGER", "sed s/^/of-person:/")]);
    all_by(&text, "of-config:");
    git(&repo, &["config", "color.ui", "false"]);
    let text = paged(&[("GIT_PAGER", "sed s/^/of-git:/"), ("PAGER", "false")]);
    all_by(&text, "of-git:");
    assert!(!text.contains('\x1b'), "{text}");
    // One that has seen enough is no error, and what is no terminal has no pager.
    paged(&[("GIT_PAGER", "head -n 1")]);
    let plain = root.ok(&["review", "a"]);
    assert!(
        plain.starts_with("a: its branch") && !plain.contains('\x1b'),
        "{plain}"
    );
}

#[test]
fn lines_that_a_person_adds_to_the_changes_are_comments_and_nothing_else_is() {
    let root = Root::with_repo();
    let body = "printf 'hello\\ntwo\\nthree\\n' > README; echo q > 'b c'";
    reviewed(&root, &[("a", body)]);
    let left = || files_below(&root.at("state/drafts"));
    // Nothing is added: lines are deleted, changed, and lose their blanks.
    for body in [
        "true",
        "sed -i -e '/^+two/d' -e 's/^+three/+thre/' -e 's/ *$//' \"$1\"",
        "sed -i '$d' \"$1\"",
    ] {
        let out = edit(&root, "a", &editor(&root, body));
        assert!(out.status.success(), "{body}: {}", describe(&out));
        assert!(
            said(&out).contains("nothing happens"),
            "{body}: {}",
            said(&out)
        );
    }
    // The editor fails, or is none.
    for editor in [editor(&root, "exit 3"), "/no/such".into()] {
        let out = edit(&root, "a", &editor);
        assert_eq!(out.status.code(), Some(100), "{}", describe(&out));
    }
    assert!(
        is_in(&root, "review", "a") && left().is_empty(),
        "{:?}",
        left()
    );
    assert!(events(&root, "a", "rejected").is_empty());
    // A private file; VISUAL goes first; options of an editor hold.
    let body = "test \"$1\" = --wait || exit 9; shift\n\
        stat -c '%a' \"$1\" \"$(dirname \"$1\")\" > \"$0.mode\"\n\
        sed -i -e '/^+two/a is this right?\\n  and this?' -e '/^+q/a + no' -e '1a All in all: well.' \\\n\
        -e 's/^+three/+thre/' \"$1\"";
    let mine = editor(&root, body);
    let mut command = root.command();
    command
        .args(["review", "a", "--edit"])
        .env("EDITOR", "false");
    let out = command
        .env("VISUAL", format!("{mine} --wait"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", describe(&out));
    assert!(said(&out).contains("with 3 comments"), "{}", said(&out));
    assert!(said(&out).contains("1 changed line"), "{}", said(&out));
    let modes = fs::read_to_string(root.at("editor.mode")).unwrap();
    assert_eq!(modes, "600\n700\n");
    assert!(left().is_empty(), "{:?}", left());
    let rejected = events(&root, "a", "rejected");
    let want = "All in all: well.\nREADME:2: is this right?\n  and this?\nb c:1: + no";
    assert_eq!(rejected.len(), 1, "{rejected:#?}");
    assert_eq!(rejected[0]["comment"], want);
    assert_eq!(rejected[0]["commit"], branch_tip(&root, "harness/a/1"));
    assert!(is_in(&root, "pending", "a"));
    // What was written is not lost where the editor fails, or where it cannot be recorded.
    root.drain();
    let out = edit(
        &root,
        "a",
        &editor(&root, "echo 'a line' >> \"$1\"; exit 3"),
    );
    assert_eq!(out.status.code(), Some(100), "{}", describe(&out));
    let kept = left();
    assert!(
        kept.len() == 2 && said(&out).contains("what you wrote stays in"),
        "{kept:?}: {}",
        said(&out)
    );
    fs::remove_dir_all(root.at("state/drafts")).unwrap();
    let away = "echo 'a word' >> \"$1\"; mv \"$(dirname \"$0\")\"/queue/review/a \"$(dirname \"$0\")\"/queue/parked/";
    let out = edit(&root, "a", &editor(&root, away));
    assert_eq!(out.status.code(), Some(100), "{}", describe(&out));
    assert!(
        said(&out).contains("what you wrote stays in"),
        "{}",
        said(&out)
    );
    let kept = left()
        .into_iter()
        .find(|f| f.extension().is_some_and(|e| e == "diff"));
    let kept = fs::read_to_string(kept.unwrap()).unwrap();
    assert!(kept.ends_with("a word\n"), "{kept}");
}

#[test]
fn an_approval_is_for_the_commit_that_waits() {
    let root = Root::with_repo();
    reviewed(
        &root,
        &[
            ("a", "echo 1 > a"),
            ("b", "echo 1 > b"),
            ("gone", "echo 1 > g"),
        ],
    );
    let (repo, first) = (root.repo(), branch_tip(&root, "harness/a/1"));
    root.ok(&["approve", "a"]);
    assert!(is_in(&root, "merge", "a"));
    let approved = events(&root, "a", "approved");
    assert_eq!(approved[0]["commit"], first, "{approved:#?}");
    // Moved since.
    let moved = add_commit(&repo, "harness/b/1", "b", "2\n");
    let out = root.exits(100, &["approve", "b"]);
    assert!(said(&out).contains("look again"), "{}", said(&out));
    assert!(is_in(&root, "review", "b") && events(&root, "b", "approved").is_empty());
    let returned = &events(&root, "b", "returned")[0];
    assert_eq!(
        (&returned["head"], &returned["next"]),
        (&json!(moved), &json!("review"))
    );
    let b = json_of(&root, &["review"]);
    let b = of(&b, "b");
    assert_eq!((&b["head"], &b["moved"]), (&json!(moved), &json!(false)));
    assert!(
        b["returned"].as_str().unwrap().contains("was moved from"),
        "{b:#}"
    );
    assert!(root.ok(&["review", "b"]).contains("+2"));
    root.ok(&["approve", "b"]);
    assert_eq!(events(&root, "b", "approved")[0]["commit"], moved);
    // Deleted: what to do is said, and it helps.
    for args in [&["approve", "gone"][..], &["review", "gone"]] {
        git(&repo, &["branch", "-qD", "harness/gone/1"]);
        let out = root.exits(100, args);
        let text = said(&out);
        assert!(text.contains("no longer in your repository"), "{text}");
        let command = text.split('`').nth(1).unwrap();
        assert!(command.starts_with("git -C"), "{text}");
        let made = Command::new("sh").args(["-c", command]).output().unwrap();
        assert!(made.status.success(), "{command}: {}", describe(&made));
    }
    root.ok(&["review", "gone"]);
    // Names that are elsewhere. One that is right is moved all the same.
    root.script("late", "#harness not_before: 2100-01-01\ntrue");
    root.script("bad", "#harness retries: 0\nexit 1");
    let out = root.exits(100, &["approve", "a", "late", "nope", "gone"]);
    for words in [
        "a is approved already, and waits to be merged",
        "late waits for an attempt",
        "nope is nowhere in queue/",
        "gone: approved at ",
    ] {
        assert!(said(&out).contains(words), "{words}: {}", said(&out));
    }
    let out = root.exits(100, &["reject", "late", "nope", "--comment", "x"]);
    assert!(
        said(&out).contains("late waits for an attempt"),
        "{}",
        said(&out)
    );
    let out = root.exits(100, &["review", "late"]);
    assert!(said(&out).contains("nothing to review"), "{}", said(&out));
    // From merge/ it can be taken back.
    root.ok(&["reject", "a", "--comment", "not yet"]);
    assert!(is_in(&root, "pending", "a"));
}

#[test]
fn a_verdict_on_record_whose_file_did_not_move_holds_nobody_up() {
    let root = Root::with_repo();
    reviewed(&root, &[("a", "echo 1 > a"), ("b", "echo 1 > b")]);
    let record = |name: &str, line: Value| {
        use std::io::Write;
        let path = root.at(format!("state/items/{name}.jsonl"));
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    };
    let head = branch_tip(&root, "harness/a/1");
    let at = "2026-01-01T00:00:00Z";
    record(
        "a",
        json!({"at": at, "event": "rejected", "by": "x", "commit": head, "comment": "old"}),
    );
    let head = branch_tip(&root, "harness/b/1");
    record(
        "b",
        json!({"at": at, "event": "approved", "by": "x", "commit": head}),
    );
    let all = json_of(&root, &["review"]);
    assert!(
        all.as_array()
            .unwrap()
            .iter()
            .all(|w| w["state"] == "review"),
        "{all:#}"
    );
    root.ok(&["approve", "a"]);
    root.ok(&["reject", "b", "--comment", "new"]);
    assert!(is_in(&root, "merge", "a") && is_in(&root, "pending", "b"));
    assert_eq!(events(&root, "b", "rejected").len(), 1);
}

#[test]
fn conflicts_are_told_with_the_base_and_with_each_other() {
    let root = Root::with_repo();
    reviewed(
        &root,
        &[
            ("base", "echo mine > README"),
            ("one", "echo 1 > new; echo 1 > also"),
            ("two", "echo 2 > new; echo 2 > also"),
            ("free", "echo 1 > free"),
        ],
    );
    let repo = root.repo();
    git(&repo, &["branch", "-q", "old"]);
    fs::write(repo.join("README"), "theirs\n").unwrap();
    git(&repo, &["commit", "-qam", "theirs"]);
    root.ok(&["approve", "two"]);
    let before = files_below(&repo).len();
    let found = json_of(&root, &["review", "--conflicts"]);
    assert_eq!(files_below(&repo).len(), before, "nothing is written there");
    let base = |item: &str| of(&found["with_base"], item)["conflicts"].clone();
    assert_eq!(
        ["base", "one", "two", "free"].map(base),
        [json!(["README"]), json!([]), json!([]), json!([])]
    );
    let pairs = found["with_each_other"].as_array().unwrap();
    assert_eq!(pairs.len(), 1, "{found:#}");
    assert_eq!(
        (&pairs[0]["items"], &pairs[0]["conflicts"]),
        (&json!(["one", "two"]), &json!(["also", "new"]))
    );
    assert_eq!(
        (&found["pairs_tried"], &found["pairs_left_out"]),
        (&json!(6), &json!(0))
    );
    let out = root.exits(0, &["review", "--conflicts"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .skip(1)
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows,
        [
            vec!["base", "main", "README"],
            vec!["one", "two", "also,", "new"]
        ]
    );
    assert!(
        said(&out).contains("4 branches wait: 2 conflicts"),
        "{}",
        said(&out)
    );
    // What they are merged into is what counts.
    root.config("[repo]\npath = \"repo\"\n[integrate]\ninto = \"old\"\n");
    let found = json_of(&root, &["review", "--conflicts"]);
    let base = of(&found["with_base"], "base");
    assert_eq!(
        (&base["base"], &base["conflicts"]),
        (&json!("old"), &json!([]))
    );
}
