//! What the caller of harness wants holds: their network and settings, the signals that they have it
//! ignore, the ROOT that they name; and a ROOT of another user that only lies above is not obeyed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::journal::Journal;
use crate::support::{Root, describe, give_away, skipped};

const HARNESS: &str = env!("CARGO_BIN_EXE_harness");

/// A shell that runs harness; `$H` is the program and `$R` the ROOT.
fn shell(root: &Root, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("H", HARNESS);
    command.env("R", root.path()).env_remove("HARNESS_ROOT");
    command
}

fn ran_well(mut command: Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", describe(&out));
    out
}

#[test]
fn what_the_caller_set_for_git_reaches_agents_and_what_directs_a_git_does_not() {
    let root = Root::with_repo();
    let body = "env > env; git config test.of-the-caller > config; git add .; git commit -qm x";
    root.script("x", body);
    let kept = [
        ("GIT_SSH_COMMAND", "ssh -i /key"),
        ("GIT_SSL_CAINFO", "/ca"),
        ("GIT_SSL_NO_VERIFY", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_EDITOR", "true"),
        ("GIT_TERMINAL_PROMPT", "0"),
    ];
    let taken = [
        ("GIT_DIR", "/nowhere"),
        ("GIT_WORK_TREE", "/nowhere"),
        ("GIT_INDEX_FILE", "/nowhere"),
        ("GIT_OBJECT_DIRECTORY", "/nowhere"),
        ("GIT_AUTHOR_EMAIL", "hook@example.com"),
        ("GIT_CONFIG_PARAMETERS", "'core.bare=true'"),
    ];
    let settings = [
        ("GIT_CONFIG_COUNT", "3"),
        ("GIT_CONFIG_KEY_0", "core.worktree"),
        ("GIT_CONFIG_VALUE_0", "/nowhere"),
        ("GIT_CONFIG_KEY_1", "test.of-the-caller"),
        ("GIT_CONFIG_VALUE_1", "held"),
        ("GIT_CONFIG_KEY_2", "user.email"),
        ("GIT_CONFIG_VALUE_2", "hook@example.com"),
    ];
    let mut run = root.command();
    run.args(["run", "--drain", "--workers", "1"]);
    run.envs(kept).envs(taken).envs(settings);
    ran_well(run);
    assert_eq!(root.show("x")["outcome"], "succeeded");
    let env = fs::read_to_string(root.at("worktrees/agent-1/env")).unwrap();
    for (name, value) in kept {
        assert!(
            env.contains(&format!("\n{name}={value}\n")),
            "{name}: {env}"
        );
    }
    for (name, _) in taken {
        assert!(!env.contains(&format!("\n{name}=")), "{name}: {env}");
    }
    assert!(!env.contains("hook@example.com") && !env.contains("core.worktree"));
    let config = fs::read_to_string(root.at("worktrees/agent-1/config")).unwrap();
    assert_eq!(config, "held\n");
}

#[test]
fn a_hang_up_that_the_caller_has_it_ignore_is_ignored() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let run = "trap '' HUP; exec \"$H\" --root \"$R\" run --drain";
    let mut child = shell(&root, run).spawn().unwrap();
    journal.wait_for_start(&root, "x", 1);
    crate::support::kill(child.id(), "HUP");
    // A second item is taken after the signal: the run goes on.
    journal.open("go");
    root.wait_until("it has ended", || child.try_wait().unwrap().is_some());
    assert!(root.is_done("x"));
    assert!(child.wait().unwrap().success(), "{}", root.picture());
    root.assert_nothing_left();
}

#[test]
fn a_plain_directory_needs_no_git() {
    let root = Root::plain();
    root.config("");
    root.script("x", "exit 0");
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    for program in ["sh", "env"] {
        let found =
            String::from_utf8(ran_well(shell(&root, &format!("command -v {program}"))).stdout);
        std::os::unix::fs::symlink(found.unwrap().trim(), bin.join(program)).unwrap();
    }
    let mut run = root.command();
    run.args(["run", "--drain"]).env("PATH", &bin);
    ran_well(run);
    assert!(root.is_done("x"));
}

#[test]
fn a_root_that_is_named_is_found_from_a_directory_that_was_deleted() {
    let root = Root::plain();
    root.script("x", "exit 0");
    let gone = "mkdir \"$R/gone\"; cd \"$R/gone\"; rmdir \"$R/gone\"; ";
    ran_well(shell(
        &root,
        &format!("{gone} exec \"$H\" --root \"$R\" run --drain"),
    ));
    assert!(root.is_done("x"));
    ran_well(shell(
        &root,
        &format!("{gone} HARNESS_ROOT=\"$R\" exec \"$H\" list"),
    ));
    let relative = shell(&root, &format!("{gone} exec \"$H\" --root . list"))
        .output()
        .unwrap();
    assert_eq!(relative.status.code(), Some(100), "{}", describe(&relative));
}

/// harness started in this directory, without a ROOT named.
fn in_dir(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(HARNESS);
    command
        .args(args)
        .current_dir(dir)
        .env_remove("HARNESS_ROOT");
    command.env_remove("SUDO_UID").output().unwrap()
}

/// Makes and names a part of a ROOT.
type Part = fn(&Root) -> PathBuf;

#[test]
fn a_root_of_another_user_that_lies_above_is_not_obeyed() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("a ROOT of another user: needs root");
    }
    let parts: [(&str, Part); 4] = [
        ("the whole", |root| root.path().to_owned()),
        ("its configuration", |root| root.at("harness.toml")),
        ("its queue", |root| root.at("queue/pending")),
        ("where state leads", |root| {
            let elsewhere = root.at("elsewhere");
            fs::rename(root.at("state"), &elsewhere).unwrap();
            std::os::unix::fs::symlink("elsewhere", root.at("state")).unwrap();
            elsewhere
        }),
    ];
    for (what, part) in parts {
        let root = Root::plain();
        root.script("x", "exit 0");
        fs::create_dir(root.at("below")).unwrap();
        give_away(&part(&root));
        let run = in_dir(&root.at("below"), &["run", "--drain"]);
        assert_eq!(run.status.code(), Some(100), "{what}: {}", describe(&run));
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(
            said.contains("nobody") && said.contains("--root"),
            "{what}: {said}"
        );
        assert!(root.at("queue/pending/x").exists(), "{what}");
        let doctor = in_dir(&root.at("below"), &["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains("nobody"), "{what}: {said}");
        // Named, it is what its user wants.
        root.ok(&["run", "--drain"]);
        assert!(root.is_done("x"), "{what}");
        let doctor = root.harness(&["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(said.contains("nobody"), "{what}: {said}");
    }
}

#[test]
fn a_queue_that_everybody_may_write_into_is_refused_unless_that_is_wanted() {
    let root = Root::plain();
    root.script("x", "exit 0");
    let open = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(root.at("queue/pending"), open).unwrap();
    let run = root.exits(100, &["run", "--drain"]);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(
        said.contains("chmod o-w") && said.contains("writers"),
        "{said}"
    );
    let doctor = root.harness(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("everybody may write"), "{said}");
    root.config("writers = \"all\"\n[repo]\npath = \"none\"\n");
    root.ok(&["run", "--drain"]);
    assert!(root.is_done("x"));
}

/// What is at a path, as names.
fn names_at(path: &Path) -> Vec<PathBuf> {
    let all = walkdir::WalkDir::new(path).into_iter().flatten();
    all.map(|e| e.into_path()).collect()
}

#[test]
fn a_root_that_is_moved_is_not_made_again_and_goes_on_where_it_is() {
    for repo in [false, true] {
        let outer = tempfile::tempdir().unwrap();
        let (root, journal) = (
            if repo {
                Root::with_repo()
            } else {
                Root::plain()
            },
            Journal::new(),
        );
        if repo {
            let at = outer.path().join("repo");
            fs::rename(root.repo(), &at).unwrap();
            root.config(&format!("[repo]\npath = \"{}\"\n", at.display()));
        }
        let (old, new) = (outer.path().join("old"), outer.path().join("new"));
        fs::rename(root.path(), &old).unwrap();
        let at = |dir: &Path, args: &[&str]| {
            let mut command = Command::new(HARNESS);
            command
                .arg("--root")
                .arg(dir)
                .args(args)
                .env_remove("HARNESS_ROOT");
            command
        };
        let body = format!("echo work > made\n{}", journal.wait_for("go"));
        fs::write(old.join("x"), journal.text("", &body)).unwrap();
        fs::set_permissions(old.join("x"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(old.join("x"), old.join("queue/pending/x")).unwrap();
        let log = outer.path().join("log");
        let said = fs::File::create(&log).unwrap();
        let mut run = at(&old, &["run"]).stderr(said).spawn().unwrap();
        root.wait_until("it runs", || journal.of("x").len() == 1);
        fs::rename(&old, &new).unwrap();
        root.wait_until("it has ended", || run.try_wait().unwrap().is_some());
        assert_eq!(run.wait().unwrap().code(), Some(100));
        let said = fs::read_to_string(&log).unwrap();
        assert!(said.contains(&new.display().to_string()), "{said}");
        assert!(said.lines().count() < 20, "{said}");
        // Its agent runs on, and ends while nobody is there.
        journal.open("go");
        root.wait_until("its end is kept", || {
            names_at(&new).iter().any(|p| p.ends_with("exit.json"))
        });
        assert_eq!(names_at(&old), Vec::<PathBuf>::new());
        let next = at(&new, &["run", "--drain"]).output().unwrap();
        assert_eq!(next.status.code(), Some(0), "{}", describe(&next));
        assert!(new.join("queue/done/x").exists(), "{}", describe(&next));
        assert_eq!(journal.of("x").len(), 1, "{}", describe(&next));
        if repo {
            let branches = crate::support::git(&outer.path().join("repo"), &["branch", "-a"]);
            assert!(
                branches.contains("harness/x/1"),
                "{branches}\n{}",
                describe(&next)
            );
        }
        assert_eq!(names_at(&old), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_root_that_is_removed_is_not_made_again_and_its_agents_are_ended() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("never"));
    let mut run = root.start(&["--workers", "2"]);
    let pid = journal.wait_for_start(&root, "x", 1);
    // It may be written into while it is removed.
    root.wait_until("it is removed", || {
        let _not_yet = fs::remove_dir_all(root.path());
        !root.path().exists()
    });
    let _code = run.wait();
    root.wait_until("its agent is ended", || !crate::support::is_alive(pid));
    assert_eq!(names_at(root.path()), Vec::<PathBuf>::new());
}
