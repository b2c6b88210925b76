//! `harness branches`: finished branches as they are in the user's repositories now.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Root, describe, files_below, git};

fn branches(root: &Root, args: &[&str]) -> Vec<Value> {
    let text = root.ok(&[&["branches", "--json"], args].concat());
    serde_json::from_str(&text).unwrap()
}

fn of<'a>(all: &'a [Value], item: &str) -> &'a Value {
    let found = all.iter().find(|b| b["item"] == item);
    found.unwrap_or_else(|| panic!("no {item}: {all:#?}"))
}

fn commit(repo: &Path, file: &str, text: &str) {
    fs::write(repo.join(file), text).unwrap();
    git(repo, &["add", "."]);
    git(repo, &["commit", "-q", "-m", "by hand"]);
}

#[test]
fn finished_branches_are_told_with_what_they_change_and_whether_their_base_has_them() {
    let root = Root::with_repo();
    let repo = root.repo();
    for (name, body) in [
        ("merged", "echo 1 > m && git add . && git commit -qm m"),
        (
            "squashed",
            "echo 1 > s; git add .; git commit -qm a; echo 2 > s; git commit -qam b",
        ),
        ("conflict", "echo theirs > README; echo n > new"),
        ("clean", "printf 'a\\nb\\n' > c"),
        ("rewritten", "echo 1 > r"),
        ("deleted", "echo 1 > d"),
        ("bad", "echo 1 > b; exit 1"),
        ("nothing", "true"),
    ] {
        root.script(name, &format!("#harness retries: 0\n{body}"));
    }
    root.drain();
    // Of the newest, git can tell little: a tree is missing.
    root.script("broken", "echo 1 > x");
    root.drain();
    git(&repo, &["checkout", "-q", "harness/broken/1"]);
    commit(&repo, "x", "2\n");
    let tree = git(&repo, &["rev-parse", "HEAD^{tree}"]);
    git(&repo, &["checkout", "-q", "main"]);
    let tree = repo
        .join(".git/objects")
        .join(&tree[..2])
        .join(tree[2..].trim());
    fs::remove_file(tree).unwrap();
    git(
        &repo,
        &["merge", "-q", "--no-ff", "-m", "m", "harness/merged/1"],
    );
    git(&repo, &["merge", "-q", "--squash", "harness/squashed/1"]);
    git(&repo, &["commit", "-q", "-m", "squash"]);
    commit(&repo, "README", "ours\n");
    git(&repo, &["branch", "-qD", "harness/deleted/1"]);
    git(&repo, &["checkout", "-q", "harness/rewritten/1"]);
    git(&repo, &["rebase", "-q", "main"]);
    commit(&repo, "r", "2\n3\n");
    git(&repo, &["checkout", "-q", "main"]);
    let inside = || {
        let mut files = files_below(&repo);
        files.sort();
        files
    };
    let before = inside();
    let all = branches(&root, &[]);
    assert_eq!(
        inside(),
        before,
        "nothing is written into the user's repository"
    );
    let names: Vec<&str> = all.iter().map(|b| b["item"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names[0]), (6, "broken"), "{names:?}");
    for key in ["conflicts", "files_changed", "insertions"] {
        assert_eq!(all[0][key], Value::Null, "{key}");
    }
    assert_eq!(
        (&all[0]["merged"], &all[0]["commits"]),
        (&json!(false), &json!(2))
    );
    let times: Vec<&str> = all
        .iter()
        .map(|b| b["published_at"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "newest first: {times:?}");
    for (item, commits, files, plus, minus, merged, conflicts) in [
        ("merged", 1, 1, 1, 0, true, json!([])),
        ("squashed", 2, 1, 1, 0, true, json!([])),
        ("conflict", 1, 2, 2, 1, false, json!(["README"])),
        ("clean", 1, 1, 2, 0, false, json!([])),
        ("rewritten", 2, 1, 2, 0, false, json!([])),
    ] {
        let b = of(&all, item);
        assert_eq!(b["branch"], format!("harness/{item}/1"), "{b:#}");
        assert_eq!(
            (&b["base"], &b["repo"]),
            (&json!("main"), &json!("default")),
            "{b:#}"
        );
        let counts = ["commits", "files_changed", "insertions", "deletions"].map(|k| b[k].as_u64());
        assert_eq!(counts, [commits, files, plus, minus].map(Some), "{b:#}");
        assert_eq!(
            (&b["merged"], &b["conflicts"]),
            (&json!(merged), &conflicts),
            "{b:#}"
        );
        assert_eq!(
            (&b["rewritten"], &b["deleted"]),
            (&json!(item == "rewritten"), &json!(false))
        );
    }
    let out = root.harness(&["branches"]);
    let (text, said) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    for word in [
        "conflicts in 1 file",
        "no conflicts",
        "no conflicts (rewritten since)",
        "merged",
        "+2 -1",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(
        !text.contains("REPO") && !text.contains("deleted"),
        "{text}"
    );
    assert!(
        said.contains("1 more is no longer in your repository"),
        "{said}"
    );
    let all = branches(&root, &["--all"]);
    let b = of(&all, "deleted");
    assert_eq!(
        (&b["deleted"], &b["tip"], &b["merged"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    assert!(root.ok(&["branches", "--all"]).contains("deleted"));
}

#[test]
fn branches_of_several_repositories_are_told_and_one_that_is_gone_is_said() {
    let root = Root::with_repo();
    let lib = root.at("lib");
    fs::create_dir(&lib).unwrap();
    git(&lib, &["init", "-q", "-b", "trunk"]);
    commit(&lib, "f", "1\n");
    root.config("[repo]\npath = \"repo\"\n[repos.lib]\npath = \"lib\"\n");
    root.script("here", "echo 1 > x");
    root.script("there", "#harness repo: lib\necho 1 > x");
    root.script(
        "of-tag",
        "#harness repo: lib\n#harness base: v1\necho 1 > y",
    );
    git(&lib, &["tag", "v1"]);
    root.drain();
    let all = branches(&root, &[]);
    assert_eq!(of(&all, "here")["repo"], "default");
    let there = of(&all, "there");
    assert_eq!(
        (&there["repo"], &there["base"], &there["merged"]),
        (&json!("lib"), &json!("trunk"), &json!(false))
    );
    assert_eq!(of(&all, "of-tag")["base"], "v1");
    assert!(root.ok(&["branches"]).starts_with("REPO"));
    // A base that is gone.
    git(&lib, &["tag", "-d", "v1"]);
    let all = branches(&root, &[]);
    let b = of(&all, "of-tag");
    assert_eq!(
        (&b["merged"], &b["conflicts"], &b["files_changed"]),
        (&Value::Null, &Value::Null, &json!(1))
    );
    assert!(root.ok(&["branches"]).contains("unknown: its base is gone"));
    // A repository that is gone: the others are told.
    fs::rename(&lib, root.at("elsewhere")).unwrap();
    let out = root.harness(&["branches", "--json"]);
    assert!(!out.status.success(), "{}", describe(&out));
    let all: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(of(&all, "here")["merged"], false);
    let there = of(&all, "there");
    assert_eq!(
        (&there["repo"], &there["deleted"]),
        (&Value::Null, &Value::Null),
        "{there:#}"
    );
    // None at all.
    let root = Root::plain();
    let out = root.harness(&["branches"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.success() && said.contains("no repository is configured"),
        "{said}"
    );
    assert_eq!(branches(&root, &[]), Vec::<Value>::new());
}

#[test]
fn a_thousand_branches_take_a_few_seconds() {
    let root = Root::with_repo();
    let repo = root.repo();
    root.script("one", "echo 1 > README");
    root.drain();
    let record = fs::read_to_string(root.at("state/items/one.jsonl")).unwrap();
    let tip = git(&repo, &["rev-parse", "harness/one/1"]);
    let mut refs = String::from("# pack-refs with: peeled fully-peeled sorted \n");
    let old = fs::read_to_string(repo.join(".git/packed-refs")).unwrap_or_default();
    assert!(old.is_empty(), "{old}");
    for n in 0..1000 {
        let name = format!("many-{n:04}");
        let text = record.replace("harness/one/1", &format!("harness/{name}/1"));
        fs::write(root.at(format!("state/items/{name}.jsonl")), text).unwrap();
        refs += &format!("{} refs/heads/harness/{name}/1\n", tip.trim());
    }
    fs::write(repo.join(".git/packed-refs"), refs).unwrap();
    commit(&repo, "README", "ours\n");
    let before = Instant::now();
    let all = branches(&root, &[]);
    let took = before.elapsed();
    assert_eq!(all.len(), 1001);
    assert!(
        all.iter()
            .all(|b| b["conflicts"] == json!(["README"]) && b["insertions"] == 1)
    );
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn what_a_killed_look_left_is_removed_by_the_next_one() {
    let root = Root::with_repo();
    root.script("one", "echo 1 > one");
    root.drain();
    let (bin, temp) = (root.at("bin"), root.at("temp"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&temp).unwrap();
    let git = "#!/bin/sh\ncase \" $* \" in *' merge-tree '*) kill -9 $PPID; exit 1;; esac\nPATH=${PATH#*:} exec git \"$@\"\n";
    fs::write(bin.join("git"), git).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("git"), mode).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut killed = root.command();
    killed
        .arg("branches")
        .env("PATH", path)
        .env("TMPDIR", &temp);
    assert_eq!(killed.status().unwrap().code(), None, "it is killed");
    let left = || files_below(&root.at("state/tried"));
    assert!(
        left().iter().any(|f| f.ends_with("info/alternates")),
        "{:?}",
        left()
    );
    assert_eq!(fs::read_dir(&temp).unwrap().count(), 0);
    assert_eq!(of(&branches(&root, &[]), "one")["conflicts"], json!([]));
    let only_lock = |f: &std::path::PathBuf| f.extension().is_some_and(|e| e == "lock");
    assert!(left().iter().all(only_lock), "{:?}", left());
}
