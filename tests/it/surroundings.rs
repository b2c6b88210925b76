//! What an agent finds around its work besides what git checks out: ports of its own, and the ignored
//! files that `copy` names.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Over, Root, Running, describe, files_below, git, skipped};

/// Says its ports, and stays until it is let go.
const WAITS: &str = "echo $HARNESS_PORT $HARNESS_PORTS > \"$HARNESS_ROOT/ports-$HARNESS_ITEM\"\n\
    until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.02; done";

/// The first and the last port that a slot's item was given.
fn ports(root: &Root, item: &str) -> Option<(u16, u16)> {
    let text = fs::read_to_string(root.at(format!("ports-{item}"))).ok()?;
    let (first, range) = text.strip_suffix('\n')?.split_once(' ')?;
    let (from, to) = range.split_once('-')?;
    assert_eq!(first, from, "{text}");
    Some((from.parse().unwrap(), to.parse().unwrap()))
}

#[test]
fn eight_slots_of_two_trees_have_ten_ports_each_and_none_of_anothers() {
    let roots = [Root::plain(), Root::plain()];
    let names: Vec<String> = (0..8).map(|n| format!("x{n}")).collect();
    let runs: Vec<Running> = roots
        .iter()
        .map(|root| {
            names.iter().for_each(|name| root.script(name, WAITS));
            root.start(&["--workers", "8", "--drain"])
        })
        .collect();
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let mut bounds = text.split_whitespace().map(|n| n.parse::<u16>().unwrap());
    let (low, high) = (bounds.next().unwrap(), bounds.next().unwrap());
    let mut all = BTreeSet::new();
    for root in &roots {
        for name in &names {
            root.wait_until("it has its ports", || ports(root, name).is_some());
            let (first, last) = ports(root, name).unwrap();
            assert_eq!(last, first + 9);
            assert!(
                last < low || first > high,
                "{first}: a connection may get it"
            );
            for port in first..=last {
                assert!(all.insert(port), "{port} is two slots'");
            }
        }
    }
    assert_eq!(all.len(), 160);
    roots
        .iter()
        .for_each(|root| fs::write(root.at("go"), "").unwrap());
    for mut run in runs {
        assert_eq!(run.wait(), Some(0));
    }
}

#[test]
fn a_slot_keeps_its_ports_until_somebody_else_uses_one() {
    let root = Root::plain();
    fs::write(root.at("go"), "").unwrap();
    let again = |name: &str| {
        root.script(name, WAITS);
        root.ok(&["run", "--drain", "--workers", "1"]);
        ports(&root, name).unwrap()
    };
    let first = again("one");
    assert_eq!(
        again("two"),
        first,
        "another run of harness, and of the keeper"
    );
    let taken = TcpListener::bind(("127.0.0.1", first.1)).unwrap();
    let moved = again("three");
    assert!(moved.0 > first.1 || moved.1 < first.0, "{moved:?}");
    drop(taken);
    assert_eq!(again("four"), first);
}

/// Gates are programs of the project, too, and run where the agent was.
#[test]
fn a_gate_has_the_ports_of_its_slot() {
    let root = Root::with_repo();
    root.config(
        "[repo]\npath = \"repo\"\n[gates.look]\nscript = \"echo $HARNESS_PORT > $HARNESS_ROOT/of-gate\"\n",
    );
    fs::write(root.at("go"), "").unwrap();
    root.script("x", &format!("{WAITS}\necho 1 > made"));
    root.ok(&["run", "--drain", "--workers", "1"]);
    let of_gate = fs::read_to_string(root.at("of-gate")).unwrap();
    let (first, _) = ports(&root, "x").unwrap();
    assert_eq!(of_gate.trim(), first.to_string(), "{}", root.picture());
}

/// A list of ports in `network` is of the ports of others.
#[test]
fn a_slots_own_ports_are_open_where_the_sandbox_closes_ports() {
    let root = Root::plain();
    root.config_confined("[repo]\npath = \"none\"\n[sandbox]\nnetwork = [443]\n");
    root.script(
        "x",
        "python3 -c 'import os, socket\nfirst = int(os.environ[\"HARNESS_PORT\"])\n\
         for port in (first, first + 9, first + 10):\n    try: socket.create_server((\"127.0.0.1\", port)); print(\"open\")\n    \
         except PermissionError: print(\"closed\")'",
    );
    root.ok(&["run", "--drain", "--workers", "1"]);
    let session = root.show("x")["attempts"][0]["session"]
        .as_str()
        .unwrap()
        .to_owned();
    let file = |name: &str| said(&root, &format!("state/sessions/{session}/{name}"));
    let told: serde_json::Value = serde_json::from_str(&file("session.json")).unwrap();
    let holds = told["sandbox"]["holds"].to_string().contains("network");
    if !holds || file("stderr.log").contains("not found") {
        return skipped("this kernel closes no ports, or there is no python3");
    }
    assert_eq!(
        file("stdout.log"),
        "open\nopen\nclosed\n",
        "{}",
        file("stderr.log")
    );
}

/// A ROOT whose repository ignores what projects ignore.
fn copying(copy: &str) -> Root {
    let root = Root::with_repo();
    fs::write(
        root.repo().join(".gitignore"),
        "target\nnode_modules/\n.env*\n*.o\nlocal/\n",
    )
    .unwrap();
    commit(&root, "ignore");
    root.config(&format!("[repo]\npath = \"repo\"\n{copy}\n"));
    root
}

fn commit(root: &Root, message: &str) {
    git(&root.repo(), &["add", "-A"]);
    git(&root.repo(), &["commit", "-q", "-m", message]);
}

fn put(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// One item in the first slot; the notes of its end.
fn one(root: &Root, name: &str, script: &str) -> String {
    root.script(name, script);
    root.ok(&["run", "--drain", "--workers", "1"]);
    root.show(name)["attempts"][0]["notes"].to_string()
}

/// What an item wrote into a file of ROOT.
fn said(root: &Root, file: &str) -> String {
    fs::read_to_string(root.at(file)).unwrap_or_default()
}

#[test]
fn what_copy_names_comes_into_a_worktree_as_it_is_and_only_where_nothing_is() {
    let root = copying("copy = [\".env\", \"node_modules\", \"target\"]");
    let repo = root.repo();
    put(&repo, ".env", "KEY=1\n");
    put(&repo, ".env.local", "not named\n");
    put(&repo, "web/node_modules/tool/cli", "#!/bin/sh\necho tool\n");
    put(&repo, "web/own/index", "own\n");
    put(&repo, "target/debug/app", "built\n");
    put(&repo, "target/debug/app.d", "x\n");
    put(&repo, "local/other", "not named\n");
    let cli = repo.join("web/node_modules/tool/cli");
    fs::set_permissions(&cli, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(repo.join("web/node_modules/.bin")).unwrap();
    symlink("../tool/cli", repo.join("web/node_modules/.bin/tool")).unwrap();
    symlink("../own", repo.join("web/node_modules/own")).unwrap();
    fs::hard_link(
        repo.join("target/debug/app"),
        repo.join("target/debug/also"),
    )
    .unwrap();
    let mut touch = Command::new("touch");
    touch
        .args(["-d", "2020-02-02 02:02:02.25Z"])
        .arg(repo.join("target/debug/app"));
    assert!(touch.status().unwrap().success());
    commit(&root, "own");
    let notes = one(
        &root,
        "first",
        "{ cat .env web/node_modules/own/index; web/node_modules/.bin/tool; ls -A . web\n\
         stat -c '%y %a %h' target/debug/app; git status --porcelain; } > $HARNESS_ROOT/said 2>&1\n\
         echo KEY=2 > .env; rm -r web/node_modules; echo 1 > made",
    );
    assert_eq!(notes, "[]");
    assert_eq!(
        said(&root, "said"),
        "KEY=1\nown\ntool\n.:\n.env\n.git\n.gitignore\nREADME\ntarget\nweb\n\nweb:\nnode_modules\nown\n\
         2020-02-02 02:02:02.250000000 +0000 644 1\n"
    );
    // Nothing of it is work, and what an agent made of it is not undone.
    let changed = git(&repo, &["diff", "--name-only", "main", "harness/first/1"]);
    assert_eq!(changed, "made\n");
    put(&repo, ".env", "KEY=3\n");
    put(&repo, "target/debug/new", "x\n");
    one(
        &root,
        "second",
        "cat .env > $HARNESS_ROOT/said; ls web/node_modules target/debug >> $HARNESS_ROOT/said",
    );
    assert_eq!(
        said(&root, "said"),
        "KEY=2\ntarget/debug:\nalso\napp\napp.d\n\nweb/node_modules:\nown\ntool\n"
    );
    assert_eq!(said(&root, "repo/.env"), "KEY=3\n");
    assert!(!root.at("worktrees/.agent-1.git.copy").exists());
}

#[test]
fn only_what_git_ignores_on_both_sides_is_brought_and_the_rest_is_told() {
    let root = copying("copy = [\"README\", \"notes\", \"mine\", \"local\", \"none\", \"target\"]");
    let repo = root.repo();
    put(&repo, "notes", "not ignored\n");
    put(&repo, "mine", "a secret\n");
    put(&repo, ".git/info/exclude", "mine\n");
    put(&repo, "local/in", "in\n");
    symlink(root.at("queue"), repo.join("local/out")).unwrap();
    symlink(root.at("prompts"), repo.join("target")).unwrap();
    let notes = one(
        &root,
        "x",
        "ls > $HARNESS_ROOT/said; ls local >> $HARNESS_ROOT/said; echo 1 > made",
    );
    assert_eq!(said(&root, "said"), "README\nlocal\nin\n", "{notes}");
    for told in [
        "`copy` names README, which git tracks",
        "`copy` names notes, which git does not ignore",
        "mine was not brought: no .gitignore of the worktree names it",
        "local was brought without local/out: it is a symlink that leads out",
        "not brought: target: it is a symlink that leads out",
    ] {
        assert!(notes.contains(told), "{told}: {notes}");
    }
    let changed = git(&repo, &["diff", "--name-only", "main", "harness/x/1"]);
    assert_eq!(changed, "made\n");
}

#[test]
fn a_worktreeinclude_is_read_where_the_configuration_says_nothing() {
    let root = copying("");
    let repo = root.repo();
    put(
        &repo,
        ".worktreeinclude",
        "# for all tools\n.env*\n!.env.prod\n/local/a/\n",
    );
    for file in [".env", ".env.prod", "local/a/x", "local/b/x", "target/y"] {
        put(&repo, file, "x\n");
    }
    one(
        &root,
        "x",
        "find . -name .git -prune -o -type f -print | sort > $HARNESS_ROOT/said",
    );
    assert_eq!(
        said(&root, "said"),
        "./.env\n./.gitignore\n./README\n./local/a/x\n"
    );
    root.config("[repo]\npath = \"repo\"\nclean = \"all\"\ncopy = []\n");
    one(
        &root,
        "y",
        "find . -name .git -prune -o -type f -print | sort > $HARNESS_ROOT/said",
    );
    assert_eq!(said(&root, "said"), "./.gitignore\n./README\n");
}

/// The slots of two items that are at work at once.
fn two_at_once(root: &Root, names: [&str; 2], script: &str) {
    for name in names {
        let other = if name == names[0] { names[1] } else { names[0] };
        root.script(
            name,
            &format!(
                "{script}\n: > $HARNESS_ROOT/at-{name}\nuntil [ -e $HARNESS_ROOT/at-{other} ]; do sleep 0.02; done"
            ),
        );
    }
    root.ok(&["run", "--drain", "--workers", "2"]);
}

#[test]
fn what_the_user_does_not_have_comes_from_another_slot_and_leads_nowhere() {
    let root = copying("copy = [\"target\", \"local\"]");
    put(root.path(), "secret/key", "secret\n");
    // Its agent is at work and means harm: a git that looked there would wait at the fifo.
    root.script(
        "first",
        "mkdir -p target/sub; echo warm > target/made; ln -s $HARNESS_ROOT/secret target/out\n\
         ln -s ../../../../secret/key target/sub/up; mkfifo target/fifo; ln -s $HARNESS_ROOT/secret local\n\
         rm .gitignore; mkfifo .gitignore; : > $HARNESS_ROOT/made\n\
         until [ -e $HARNESS_ROOT/seen ]; do sleep 0.02; done",
    );
    let mut run = root.start(&["--drain", "--workers", "2"]);
    root.wait_until("it is made", || root.at("made").exists());
    root.script(
        "second",
        "{ ls -A . target target/sub; cat target/made; } > $HARNESS_ROOT/said 2>&1\n\
         : > $HARNESS_ROOT/seen",
    );
    assert_eq!(run.wait(), Some(0));
    assert_eq!(
        said(&root, "said"),
        ".:\n.git\n.gitignore\nREADME\ntarget\n\ntarget:\nmade\nsub\n\ntarget/sub:\nwarm\n",
        "{}",
        root.picture()
    );
    // Where nothing stays in a slot, nothing comes from another one.
    let root = copying("copy = [\"target\"]\nclean = \"all\"");
    root.script(
        "first",
        "mkdir target; echo warm > target/made; : > $HARNESS_ROOT/made\n\
         until [ -e $HARNESS_ROOT/seen ]; do sleep 0.02; done",
    );
    let mut run = root.start(&["--drain", "--workers", "2"]);
    root.wait_until("it is made", || root.at("made").exists());
    let looks = "ls -A > $HARNESS_ROOT/said; : > $HARNESS_ROOT/seen";
    root.script("second", looks);
    assert_eq!(run.wait(), Some(0));
    assert_eq!(said(&root, "said"), ".git\n.gitignore\nREADME\n");
}

#[test]
fn harness_own_folders_are_never_copied() {
    let root = copying("");
    let repo = fs::canonicalize(root.repo()).unwrap();
    put(&repo, ".env", "x\n");
    // As many projects do: then git would let it be brought.
    put(&repo, ".gitignore", ".env\n.harness\n");
    commit(&root, "ignore it");
    let harness = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
        let out = command
            .current_dir(&repo)
            .env_remove("HARNESS_ROOT")
            .args(args)
            .output();
        let out = out.unwrap();
        assert!(out.status.success(), "{args:?}: {}", describe(&out));
        String::from_utf8(out.stdout).unwrap()
    };
    harness(&["init"]);
    harness(&["config", "set", "sandbox.mode", "off"]);
    // In the first nothing is written meanwhile, so that it could be brought whole.
    for copy in ["[\".env\", \".harness/prompts\"]", "[\".*\", \"*\"]"] {
        harness(&["config", "set", "repo.copy", copy]);
        let item = repo.join("x.sh");
        fs::write(&item, "#!/bin/sh\nls -A > $HARNESS_ROOT/said\n").unwrap();
        fs::set_permissions(&item, fs::Permissions::from_mode(0o755)).unwrap();
        harness(&["run", "--drain", "--workers", "1", "x.sh"]);
        let said = fs::read_to_string(repo.join(".harness/said")).unwrap();
        assert_eq!(said, ".env\n.git\n.gitignore\nREADME\n", "{copy}");
        let shown = harness(&["show", "x.sh"]);
        assert!(!shown.contains(".harness was not brought"), "{shown}");
    }
}

#[test]
fn what_is_written_while_it_is_copied_is_not_brought() {
    let root = copying("copy = [\"target\", \".env\"]");
    put(&root.repo(), ".env", "x\n");
    // So many that each try takes a while.
    for n in 0..5_000 {
        put(&root.repo(), &format!("target/d{}/{n}", n % 20), "x");
    }
    let is_over = AtomicBool::new(false);
    let log = root.repo().join("target/d7/log");
    let notes = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                fs::write(&log, "again").unwrap();
            }
        });
        let _over = Over(&is_over);
        one(&root, "x", "ls -A > $HARNESS_ROOT/said")
    });
    assert!(
        notes.contains("target was not brought: something writes in it"),
        "{notes}"
    );
    assert_eq!(said(&root, "said"), ".env\n.git\n.gitignore\nREADME\n");
}

#[test]
fn a_harness_that_is_killed_while_it_copies_leaves_nothing_half() {
    let root = copying("copy = [\"target\"]");
    const FILES: usize = 8_000;
    for n in 0..FILES {
        let dir = root.repo().join(format!("target/d{}", n % 50));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(n.to_string()), "x").unwrap();
    }
    root.script(
        "x",
        "{ echo $HARNESS_SLOT; find target -type f | wc -l; } > $HARNESS_ROOT/said; echo 1 > made",
    );
    let places: Vec<_> = (1..4)
        .map(|n| root.at(format!("worktrees/agent-{n}/target")))
        .collect();
    let copies = || {
        let all = fs::read_dir(root.at("worktrees")).unwrap().flatten();
        let is_one = |name: &str| name.starts_with(".agent-") && name.ends_with(".git.copy");
        let mut all = all.filter(|e| is_one(e.file_name().to_str().unwrap()));
        all.any(|e| e.path().join("0/d0").exists()) || places.iter().any(|place| place.exists())
    };
    for _ in 0..3 {
        let run = root.start(&["--drain", "--workers", "1"]);
        root.wait_until("it copies", || copies() || root.is_done("x"));
        run.kill9();
        for place in places.iter().filter(|place| place.exists()) {
            let files = files_below(place).len();
            assert_eq!(files, FILES, "half of it is in its place");
        }
    }
    root.ok(&["run", "--drain", "--workers", "1"]);
    let said = said(&root, "said");
    let (slot, files) = said.split_once('\n').unwrap();
    assert_eq!(files.trim(), FILES.to_string(), "{}", root.picture());
    assert!(!root.at(format!("worktrees/.{slot}.git.copy")).exists());
    root.assert_nothing_left();
}

/// A workspace of two crates that need nothing from elsewhere, one with a build script.
fn workspace(root: &Root) {
    let repo = root.repo();
    put(
        &repo,
        "Cargo.toml",
        "[workspace]\nmembers = [\"app\", \"part\"]\nresolver = \"2\"\n",
    );
    let package = |name: &str, rest: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{rest}")
    };
    put(
        &repo,
        "app/Cargo.toml",
        &package("app", "[dependencies]\npart = { path = \"../part\" }\n"),
    );
    put(
        &repo,
        "app/src/main.rs",
        "fn main() { println!(\"{} {}\", part::word(), env!(\"MADE\")); }\n",
    );
    put(
        &repo,
        "app/build.rs",
        "fn main() { println!(\"cargo::rerun-if-changed=../data\"); println!(\"cargo::rustc-env=MADE=made\"); }\n",
    );
    put(&repo, "data/list", "1\n");
    put(&repo, "part/Cargo.toml", &package("part", ""));
    put(
        &repo,
        "part/src/lib.rs",
        "pub fn word() -> &'static str { \"base\" }\n",
    );
    build(&repo, "generate-lockfile");
    commit(root, "workspace");
}

fn build(dir: &Path, what: &str) -> String {
    let mut cargo = Command::new("cargo");
    let cargo = cargo.arg(what).arg("--offline").current_dir(dir);
    let out = cargo.env_remove("CARGO_TARGET_DIR").output().unwrap();
    assert!(out.status.success(), "cargo {what}: {}", describe(&out));
    describe(&out)
}

const BUILDS: &str = "unset CARGO_TARGET_DIR\n\
    git diff-files --name-only > $HARNESS_ROOT/said-git\n\
    cargo run --offline > $HARNESS_ROOT/said 2> $HARNESS_ROOT/said-cargo";

#[test]
fn a_first_build_is_warm_and_never_takes_the_users_changes_for_the_base() {
    let root = copying("copy = [\"target\"]");
    workspace(&root);
    build(&root.repo(), "build");
    one(&root, "warm", BUILDS);
    assert_eq!(
        said(&root, "said"),
        "base made\n",
        "{}",
        said(&root, "said-cargo")
    );
    let cargo = said(&root, "said-cargo");
    assert!(!cargo.contains("Compiling"), "{cargo}");
    assert_eq!(
        said(&root, "said-git"),
        "",
        "the index knows that no file is changed"
    );

    // Another slot's first item: the user has changed a file since, and built that.
    put(
        &root.repo(),
        "part/src/lib.rs",
        "pub fn word() -> &'static str { \"edit\" }\n",
    );
    build(&root.repo(), "build");
    two_at_once(
        &root,
        ["a", "b"],
        "if [ $HARNESS_SLOT = agent-2 ]; then unset CARGO_TARGET_DIR\n\
         cargo run --offline > $HARNESS_ROOT/said-2 2> $HARNESS_ROOT/said-cargo; fi",
    );
    assert_eq!(
        said(&root, "said-2"),
        "base made\n",
        "{}",
        said(&root, "said-cargo")
    );
}

/// The worktree is older than what the user built since from other files.
#[test]
fn what_comes_into_a_used_worktree_is_not_taken_for_its_build() {
    let root = copying("copy = [\"target\"]");
    workspace(&root);
    // What is ignored there may have been made from its files as they are.
    one(&root, "first", "echo 1 > made; echo x > own.o");
    let mut touch = Command::new("touch");
    touch
        .args(["-d", "2001-01-01"])
        .arg(root.repo().join("README"));
    assert!(touch.status().unwrap().success());
    put(
        &root.repo(),
        "part/src/lib.rs",
        "pub fn word() -> &'static str { \"edit\" }\n",
    );
    build(&root.repo(), "build");
    let looks = format!("{BUILDS}\nstat -c %y README > $HARNESS_ROOT/said-time");
    one(&root, "second", &looks);
    assert_eq!(
        said(&root, "said"),
        "base made\n",
        "{}",
        said(&root, "said-cargo")
    );
    let time = said(&root, "said-time");
    assert!(
        time.starts_with("20") && !time.starts_with("2001"),
        "{time}"
    );
    let target = root.at("worktrees/agent-1/target");
    assert!(target.join("debug/app").metadata().unwrap().size() > 0);
    assert_eq!(said(&root, "said-git"), "");
}
