//! Scripts around harness as people write them: a cron job, a Makefile, a git hook, a wait, `jq`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{DEADLINE, Root, describe, git, run_within, skipped};

/// A shell with harness in its PATH, as a terminal or cron would start it.
fn sh(root: &Root, dir: &Path, text: &str) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_harness")).parent().unwrap();
    let mut command = Command::new("sh");
    command.args(["-euc", text]).current_dir(dir).env_clear();
    command.env(
        "PATH",
        format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()),
    );
    command.env("HARNESS_ROOT", root.path());
    run_within(DEADLINE, command).unwrap_or_else(|out| panic!("{text}: {}", describe(&out)))
}

fn ok(root: &Root, dir: &Path, text: &str) -> String {
    let out = sh(root, dir, text);
    assert!(
        out.status.success(),
        "{text}: {}\n{}",
        describe(&out),
        root.picture()
    );
    String::from_utf8(out.stdout).unwrap()
}

/// A ROOT whose repository takes commits of a shell, where there is `jq`.
fn with_jq() -> Option<Root> {
    let root = has("jq").then(Root::with_repo)?;
    git(&root.repo(), &["config", "user.name", "T"]);
    git(&root.repo(), &["config", "user.email", "t@example.com"]);
    Some(root)
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skipped(&format!("no `{program}`"));
    }
    found
}

#[test]
fn a_cron_job_adds_an_item_once_a_day_and_works_in_an_empty_environment() {
    let root = Root::plain();
    let job = "harness add --if-absent --name deps-2026-01-27 --timeout 1h --prompt '#!/bin/sh\n\
               echo >> $HARNESS_ROOT/ran' >> log 2>&1; harness run --drain >> log 2>&1";
    for _ in 0..3 {
        ok(&root, root.path(), job);
    }
    assert_eq!(fs::read(root.at("ran")).unwrap(), b"\n");
    let log = fs::read_to_string(root.at("log")).unwrap();
    assert_eq!(
        log.matches("deps-2026-01-27 is not added").count(),
        2,
        "{log}"
    );
    assert!(!log.contains('\x1b'), "{log}");
}

#[test]
fn a_makefile_waits_for_its_items_and_fails_with_one_that_fails() {
    if !has("make") {
        return;
    }
    let root = Root::plain();
    let made = root.at("project");
    fs::create_dir(&made).unwrap();
    let makefile = "all: a.done b.done c.done\n%.done: %.sh\n\t@harness add --if-absent $< > /dev/null\n\
                    \t@harness wait $< --timeout 50 > $@.tmp\n\t@mv $@.tmp $@\n";
    fs::write(made.join("Makefile"), makefile).unwrap();
    for name in ["a", "b", "c"] {
        let path = made.join(format!("{name}.sh"));
        let body = format!(
            "#!/bin/sh\n#harness retries: 0\n[ {name} != c ] || [ -e \"$HARNESS_ROOT/mended\" ]\n"
        );
        fs::write(&path, body).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = root.start(&["--workers", "2"]);
    let out = sh(&root, &made, "make -k -j3");
    assert!(!out.status.success(), "{}", describe(&out));
    assert!(
        made.join("a.done").exists()
            && made.join("b.done").exists()
            && !made.join("c.done").exists()
    );
    fs::write(root.at("mended"), "").unwrap();
    ok(&root, &made, "harness retry --all failed; make -j3");
    let said = fs::read_to_string(made.join("c.done")).unwrap();
    assert_eq!(said, "c.sh succeeded\n");
    drop(run);
}

#[test]
fn a_git_hook_adds_and_runs_an_item_and_leaves_the_commit_alone() {
    let root = Root::with_repo();
    let repo = root.repo();
    let hook = repo.join(".git/hooks/post-commit");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    let text = "#!/bin/sh\nharness add --if-absent --name \"check-$(git rev-parse --short HEAD)\" \
                --prompt '#!/bin/sh\ngit log -1 --format=%s > seen' > /dev/null &&\n\
                harness run --drain > \"$HARNESS_ROOT/hook.log\" 2>&1\n";
    fs::write(&hook, text).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    ok(
        &root,
        &repo,
        "echo more > f && git add f && GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t@e GIT_COMMITTER_NAME=T \
         GIT_COMMITTER_EMAIL=t@e git commit -q -m 'by a person'",
    );
    let log = git(&repo, &["log", "--format=%s", "main"]);
    assert_eq!(log, "by a person\none\n");
    assert_eq!(git(&repo, &["status", "--porcelain"]), "");
    let branches = git(
        &repo,
        &[
            "for-each-ref",
            "--format=%(refname:short)",
            "refs/heads/harness",
        ],
    );
    assert_eq!(
        branches.lines().count(),
        1,
        "{branches}\n{}",
        root.picture()
    );
    let seen = git(&repo, &["show", &format!("{}:seen", branches.trim())]);
    assert_eq!(seen, "by a person\n");
}

#[test]
fn a_script_adds_waits_and_merges_only_what_ended_well() {
    let Some(root) = with_jq() else {
        return;
    };
    let repo = root.repo();
    let run = root.start(&["--workers", "2"]);
    let script = |body: &str| {
        format!(
            "name=$(harness add --name 'my job' --prompt '#!/bin/sh\n#harness retries: 0\n{body}')\n\
             if harness wait \"$name\" --timeout 50s > /dev/null; then\n\
             git merge -q \"$(harness show \"$name\" --json | jq -r .branch)\" && echo merged\n\
             else echo \"$name: exit code $?\"; harness logs \"$name\"; fi"
        )
    };
    assert_eq!(ok(&root, &repo, &script("echo 1 > made")), "merged\n");
    assert!(repo.join("made").exists());
    assert_eq!(
        ok(&root, &repo, &script("echo why; exit 4")),
        "my job: exit code 1\nwhy\n"
    );
    drop(run);
}

#[test]
fn jq_reads_every_list_and_its_loops_take_any_name() {
    let Some(root) = with_jq() else {
        return;
    };
    let repo = root.repo();
    for name in ["one", "two words", "conflict"] {
        let file = if name == "conflict" { "README" } else { name };
        root.script(name, &format!("echo {name} > '{file}'"));
    }
    root.script(
        "bad $(x)",
        "#harness retries: 0\n[ -e \"$HARNESS_ROOT/mended\" ]",
    );
    root.drain();
    fs::write(repo.join("README"), "ours\n").unwrap();
    git(&repo, &["commit", "-qam", "ours"]);
    ok(
        &root,
        &repo,
        "harness branches --json | jq -r '.[] | select(.merged == false and .conflicts == []) | .branch' |\n\
         while read -r branch; do git merge -q -m m \"$branch\"; done",
    );
    assert!(repo.join("one").exists() && repo.join("two words").exists());
    let left = "harness branches --json | jq -r '.[] | select(.merged | not) | .item'";
    assert_eq!(ok(&root, &repo, left), "conflict\n");
    fs::write(root.at("mended"), "").unwrap();
    let count = ok(
        &root,
        &repo,
        "harness list parked --json | jq -r '.[].item' | while read -r name; do\n\
         harness retry \"$name\" 2> /dev/null; harness run --drain > /dev/null 2>&1; harness wait \"$name\"; done\n\
         harness status --json | jq .work_queue.done",
    );
    assert_eq!(count, "bad $(x) no_change\n4\n");
}
