//! What only the user's own clone has, and git carries nowhere: what a partial clone's remote has
//! promised, the keys of git-crypt. And what a branch does not bring, said in every end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Root, describe, git, skipped};

/// As the real one: `FILTER KEY-FOLDER`, with the key found by way of git.
const IMITATION: &str = r#"#!/bin/sh
key=$(git rev-parse --path-format=absolute --git-dir)/git-crypt/keys/default
[ -f "$key" ] || { echo 'git-crypt: Error: no key' >&2; exit 1; }
tr 'a-zA-Z' 'n-za-mN-ZA-M'
"#;

/// A remote with three commits, which gives out parts of them.
fn remote(root: &Root) -> String {
    let up = root.at("up");
    fs::create_dir_all(up.join("d/e")).unwrap();
    git(&up, &["init", "-q", "-b", "main"]);
    for n in 1..4 {
        fs::write(up.join("f"), format!("{n}\n")).unwrap();
        fs::write(up.join(format!("d/e/g{n}")), format!("g{n}\n")).unwrap();
        git(&up, &["add", "."]);
        git(&up, &["commit", "-q", "-m", "c"]);
    }
    for key in ["uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"] {
        git(&up, &["config", key, "true"]);
    }
    format!("file://{}", up.display())
}

#[test]
fn a_partial_clone_of_every_kind_is_worked_in_and_gets_its_branches() {
    let root = Root::plain();
    let url = remote(&root);
    let mut tables = String::new();
    let mut kinds = Vec::new();
    for filter in ["tree:0", "blob:none", "tree:1"] {
        for checkout in ["--no-checkout", "--quiet"] {
            let name = format!("k{}", kinds.len());
            let filter = format!("--filter={filter}");
            git(
                root.path(),
                &["clone", "-q", &filter, checkout, &url, &name],
            );
            tables.push_str(&format!("[repos.{name}]\npath = \"{name}\"\n"));
            root.script(
                format!("{name}-work"),
                &format!("#harness repo: {name}\nset -e; echo w > w; echo more >> d/e/g2; git log -p > /dev/null"),
            );
            root.script(
                format!("{name}-back"),
                &format!("#harness repo: {name}\ngit checkout -q HEAD~1 -- f"),
            );
            kinds.push((name, filter, checkout));
        }
    }
    root.config(&tables);
    let drained = || {
        let out = root.drain();
        assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    };
    drained();
    // The remote goes on, and the user fetches.
    fs::write(root.at("up/d/e/g4"), "g4\n").unwrap();
    git(&root.at("up"), &["add", "."]);
    git(&root.at("up"), &["commit", "-q", "-m", "late"]);
    for (name, ..) in &kinds {
        git(&root.at(name), &["fetch", "-q"]);
        root.script(
            format!("{name}-late"),
            &format!(
                "#harness repo: {name}\n#harness base: origin/main\nset -e; cat d/e/g4; echo l > l"
            ),
        );
    }
    drained();
    for (name, filter, checkout) in &kinds {
        let repo = root.at(name);
        let files = |item: &str, base: &str| {
            let branch = format!("harness/{name}-{item}/1");
            git(&repo, &["diff", "--name-only", base, &branch])
        };
        let kind = format!("{filter} {checkout}");
        assert_eq!(files("work", "main"), "d/e/g2\nw\n", "{kind}");
        assert_eq!(files("back", "main"), "f\n", "{kind}");
        assert_eq!(files("late", "origin/main"), "l\n", "{kind}");
        git(&repo, &["fsck", "--connectivity-only"]);
    }
}

fn with_secret(program: &str) -> Root {
    let root = Root::with_repo();
    let repo = root.repo();
    match program {
        "" => {
            let imitation = root.at("git-crypt");
            fs::write(&imitation, IMITATION).unwrap();
            fs::set_permissions(&imitation, fs::Permissions::from_mode(0o755)).unwrap();
            for way in ["clean", "smudge"] {
                let filter = format!("{} {way}", imitation.display());
                git(
                    &repo,
                    &["config", &format!("filter.git-crypt.{way}"), &filter],
                );
            }
            git(&repo, &["config", "filter.git-crypt.required", "true"]);
            fs::create_dir_all(repo.join(".git/git-crypt/keys")).unwrap();
            fs::write(repo.join(".git/git-crypt/keys/default"), "key").unwrap();
        }
        real => {
            let init = Command::new(real).arg("init").current_dir(&repo).status();
            assert!(init.unwrap().success());
        }
    }
    fs::write(
        repo.join(".gitattributes"),
        "*.key filter=git-crypt diff=git-crypt\n",
    )
    .unwrap();
    fs::write(repo.join("a.key"), "secret\n").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "secret"]);
    root
}

fn clear_and_hidden(program: &str) {
    let root = with_secret(program);
    root.script(
        "works",
        "set -e; grep -q secret a.key; echo new secret > b.key; cp b.key c.key; git add b.key; git commit -qm b; test -z \"$(git status --porcelain a.key)\"",
    );
    root.script("next", "#harness after: [works]\ngrep -q secret a.key");
    let drain = || root.harness(&["run", "--drain", "--workers", "1"]);
    let out = drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    // Whoever locks the repository now finds no key with an idle slot.
    let keys = || {
        let all = walkdir::WalkDir::new(root.path()).into_iter().flatten();
        let keys = all.filter(|e| e.path().ends_with("git-crypt/keys/default"));
        keys.map(|e| e.into_path()).collect::<Vec<_>>()
    };
    let repo = root.repo();
    let hub = root.at("state/repos/default.git/git-crypt");
    let with_slots = keys()
        .into_iter()
        .filter(|p| !p.starts_with(&repo) && !p.starts_with(&hub));
    assert_eq!(with_slots.collect::<Vec<_>>(), Vec::<PathBuf>::new());
    for file in ["b.key", "c.key"] {
        let name = format!("harness/works/1:{file}");
        let kept = Command::new("git")
            .args(["cat-file", "blob", &name])
            .current_dir(&repo)
            .output()
            .unwrap();
        assert!(kept.status.success());
        let text = String::from_utf8_lossy(&kept.stdout).into_owned();
        assert!(!text.contains("secret"), "{file}: {text}");
    }
    git(&repo, &["checkout", "-q", "harness/works/1"]);
    assert_eq!(
        fs::read_to_string(repo.join("c.key")).unwrap(),
        "new secret\n"
    );
    // Locked again: no key stays with harness, and the item says so.
    git(&repo, &["checkout", "-q", "main"]);
    fs::remove_dir_all(repo.join(".git/git-crypt")).unwrap();
    root.script("locked", "true");
    drain();
    assert_eq!(keys(), Vec::<PathBuf>::new());
}

#[test]
fn an_unlocked_git_crypt_shows_its_files_to_agents_and_hides_them_in_commits() {
    clear_and_hidden("");
    match Command::new("git-crypt").arg("--version").output() {
        Ok(out) if out.status.success() => clear_and_hidden("git-crypt"),
        _ => skipped("the real git-crypt: it is not installed"),
    }
}

#[test]
fn what_lies_elsewhere_is_said_where_the_branch_could_not_be_published_too() {
    let root = Root::with_repo();
    let repo: &Path = &root.repo();
    root.script(
        "work",
        &format!(
            "echo w > w; git clone -q . other; git -C '{}' branch harness",
            repo.display()
        ),
    );
    let out = root.drain();
    let (said, show) = (describe(&out), root.show("work"));
    for text in [
        said.as_str(),
        show["reason"].as_str().unwrap(),
        show["attempts"][0]["reason"].as_str().unwrap(),
    ] {
        assert!(text.contains("could not be published"), "{text}");
        assert!(text.contains("other is a repository of its own"), "{text}");
    }
}

#[test]
fn what_only_a_salvaged_commit_holds_is_shown_with_the_command_to_look_at_it() {
    let root = Root::with_repo();
    let on = "git checkout -q -b fix/login; echo f > fixed; git add fixed; git commit -qm f; git checkout -q -";
    root.script("branch", on);
    root.script(
        "fails",
        &format!("{on}; echo s > README; git stash -q; exit 1"),
    );
    root.script("merged", &format!("{on}; git merge -q fix/login"));
    root.drain();
    let shown = |name: &str| root.ok(&["show", name]);
    for (name, count, file) in [("branch", 1, "fixed"), ("fails", 2, "README")] {
        let text = shown(name);
        let command = |part: &str| part.split('`').next().unwrap().to_owned();
        let mut commands: Vec<_> = text.split("see `git -C ").skip(1).map(command).collect();
        commands.sort();
        commands.dedup();
        let of_last = commands.iter().filter(|c| c.contains("salvage/harness"));
        assert!(of_last.clone().count() >= count, "{text}");
        let patches = of_last.map(|words| {
            let words: Vec<&str> = words.split(' ').collect();
            git(Path::new(words[0]), &words[1..])
        });
        let patches: Vec<String> = patches.collect();
        assert!(
            patches.iter().any(|patch| patch.contains(file)),
            "{patches:?}"
        );
    }
    assert!(!shown("merged").contains("salvage"), "{}", shown("merged"));
}
