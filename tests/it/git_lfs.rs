//! Git LFS: what the user's clone has comes into the worktree, and what an agent adds comes back
//! with its branch. With an imitation that keeps its objects where git-lfs does, and with the real
//! one where it is installed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Root, describe, git, skipped};

const IMITATION: &str = r#"#!/bin/sh
store=$(git rev-parse --path-format=absolute --git-common-dir)/lfs/objects
case $1 in
clean) mkdir -p "$store"; t=$(mktemp "$store/XXXXXX"); cat > "$t"; oid=$(sha256sum < "$t" | cut -c1-64)
    d=$store/$(echo $oid | cut -c1-2)/$(echo $oid | cut -c3-4); mkdir -p "$d"; mv "$t" "$d/$oid"
    printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %s\n' $oid "$(stat -c %s "$d/$oid")";;
smudge) oid=$(sed -n 's/^oid sha256://p')
    cat "$store/$(echo $oid | cut -c1-2)/$(echo $oid | cut -c3-4)/$oid" || exit 2;;
esac
"#;

/// A repository with an LFS file on `main`, none on `without`.
pub fn with_lfs(program: &str) -> Root {
    let root = Root::with_repo();
    let repo = root.repo();
    let imitation = root.at("git-lfs");
    fs::write(&imitation, IMITATION).unwrap();
    fs::set_permissions(&imitation, fs::Permissions::from_mode(0o755)).unwrap();
    let program = match program {
        "" => imitation.to_str().unwrap().to_owned(),
        real => real.to_owned(),
    };
    for (key, value) in [
        ("clean", format!("{program} clean -- %f")),
        ("smudge", format!("{program} smudge -- %f")),
        ("required", "true".to_owned()),
    ] {
        git(&repo, &["config", &format!("filter.lfs.{key}"), &value]);
    }
    fs::write(repo.join(".gitattributes"), "*.bin filter=lfs -text\n").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "attributes"]);
    git(&repo, &["branch", "without"]);
    fs::write(repo.join("x.bin"), "large\n".repeat(5_000)).unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-q", "-m", "lfs"]);
    assert!(git(&repo, &["show", "HEAD:x.bin"]).starts_with("version https://git-lfs"));
    root
}

fn both_ways(program: &str) {
    let root = with_lfs(program);
    root.script("reads", "stat -c %s x.bin > size");
    root.script(
        "adds",
        "#harness base: without\nseq 1000 > new.bin; git add new.bin; git commit -qm new; seq 2000 > left.bin",
    );
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let repo = root.repo();
    assert_eq!(git(&repo, &["show", "harness/reads/1:size"]), "30000\n");
    // Harness's copies are gone: everything is in the user's own repository.
    for of_harness in ["state/repos", "worktrees"] {
        fs::rename(root.at(of_harness), root.at("gone")).unwrap();
        fs::remove_dir_all(root.at("gone")).unwrap();
    }
    git(&repo, &["checkout", "-q", "harness/adds/1"]);
    let lines = |file: &str| fs::read_to_string(repo.join(file)).unwrap().lines().count();
    assert_eq!((lines("new.bin"), lines("left.bin")), (1000, 2000));
}

#[test]
fn files_travel_both_ways() {
    both_ways("");
    let real = Command::new("git-lfs").arg("version").output();
    match real {
        Ok(out) if out.status.success() => both_ways("git-lfs"),
        _ => skipped("the real git-lfs: it is not installed"),
    }
}

/// Its store is its own: what its commits name comes into the others, if it is what its name says.
fn only_what_commits_name(program: &str) {
    let root = with_lfs(program);
    let of_user = root.repo().join(".git/lfs/objects");
    let unneeded = of_user.join("aa/bb").join("aabb".repeat(16));
    fs::create_dir_all(unneeded.parent().unwrap()).unwrap();
    fs::write(&unneeded, "of another branch\n").unwrap();
    let forged = "abab".repeat(16);
    root.script("reads", "stat -c %s x.bin > size");
    root.script(
        "adds",
        &format!(
            "#harness base: without
            set -e
            sum() {{ sha256sum | cut -c1-64; }}
            seq 500 > mid.bin; git add mid.bin; git commit -qm mid
            git rm -q mid.bin; git commit -qm gone; seq 500 | sum > '{0}/mid'
            seq 77 > never.bin; git add never.bin; git rm -qf --cached never.bin; rm never.bin
            seq 77 | sum > '{0}/never'
            seq 88 > put.bin; git add put.bin; git stash -q; seq 88 | sum > '{0}/put'
            store=$(git rev-parse --path-format=absolute --git-common-dir)/lfs/objects/ab/ab
            mkdir -p \"$store\"; echo evil > \"$store/{forged}\"
            printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize 5\\n' {forged} > evil.txt
            git add evil.txt; git commit -qm evil",
            root.path().display()
        ),
    );
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let hub = root.at("state/repos/default.git/lfs/objects");
    let object = |store: &Path, oid: &str| store.join(&oid[..2]).join(&oid[2..4]).join(oid);
    let oid = |name: &str| fs::read_to_string(root.at(name)).unwrap().trim().to_owned();
    assert!(object(&of_user, &oid("mid")).exists());
    assert!(object(&hub, &oid("put")).exists());
    for (store, oid) in [
        (&of_user, oid("put")),
        (&hub, oid("never")),
        (&hub, forged.clone()),
        (&of_user, forged.clone()),
        (&hub, "aabb".repeat(16)),
    ] {
        let file = object(store, &oid);
        assert!(!file.exists(), "{}", file.display());
    }
}

#[test]
fn an_agents_store_is_its_own() {
    only_what_commits_name("");
    if Command::new("git-lfs").arg("version").output().is_ok() {
        only_what_commits_name("git-lfs");
    }
}

#[test]
fn an_object_that_is_nowhere_parks_its_item_and_no_other() {
    let root = with_lfs("");
    fs::remove_dir_all(root.repo().join(".git/lfs")).unwrap();
    root.script("reads", "true");
    root.script("other", "#harness base: without\n: > made");
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    assert!(root.is_done("other"), "{:#}", root.show("other"));
    let show = root.show("reads");
    assert!(root.is_parked("reads"), "{show:#}");
    assert!(
        show["reason"].as_str().unwrap().contains("x.bin"),
        "{show:#}"
    );
    assert!(!Path::new(&root.at("state/claims/reads")).exists());
}
