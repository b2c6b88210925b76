//! Worktrees and repositories on the disk of each host: two processes with a folder each stand for two
//! hosts. What they make is found in ROOT and in the user's repository; nothing else of theirs is.

use std::fs;
use std::path::{Path, PathBuf};

use crate::git_lfs::with_lfs;
use crate::launch::table;
use crate::support::{Root, Running, describe, git, kill};

/// A ROOT, and the disks of two hosts.
struct Hosts {
    root: Root,
    disks: tempfile::TempDir,
}

impl Hosts {
    fn new() -> Hosts {
        Hosts::of(Root::with_repo())
    }

    fn of(root: Root) -> Hosts {
        let disks = tempfile::Builder::new()
            .prefix("harness-disks-")
            .tempdir()
            .unwrap();
        Hosts { root, disks }
    }

    fn disk(&self, host: &str) -> PathBuf {
        self.disks.path().join(host)
    }

    /// The folder of this ROOT on the disk of a host.
    fn folder(&self, host: &str) -> PathBuf {
        let all = fs::read_dir(self.disk(host)).unwrap();
        let all: Vec<PathBuf> = all.map(|e| e.unwrap().path()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }

    fn start(&self, host: &str, args: &[&str]) -> Running {
        let disk = self.disk(host);
        let local = ["--local", disk.to_str().unwrap()];
        self.root.start(&[&local[..], args].concat())
    }

    fn drain(&self, host: &str) {
        let mut run = self.start(host, &["--drain", "--workers", "2"]);
        let code = run.wait();
        assert!(matches!(code, Some(0 | 1)), "{code:?}: {}", run.said());
    }

    /// ROOT's own copy of the user's repository, which every host sees.
    fn kept(&self) -> PathBuf {
        self.root.at("state/repos/default.git")
    }

    /// Nothing of a worktree is in ROOT, and every repository is whole.
    fn assert_only_queue_and_state_in_root(&self, hosts: &[&str]) {
        let trees = fs::read_dir(self.root.at("worktrees")).unwrap().flatten();
        let trees = trees.map(|e| e.file_name().into_string().unwrap());
        let trees: Vec<String> = trees.filter(|name| !name.starts_with(".git")).collect();
        assert_eq!(trees, Vec::<String>::new());
        assert!(!self.kept().join("slots").exists());
        let of_hosts = hosts
            .iter()
            .map(|h| self.folder(h).join("repos/default.git"));
        for repo in of_hosts.chain([self.kept(), self.root.repo().join(".git")]) {
            git(&repo, &["fsck", "--full", "--no-dangling"]);
        }
    }
}

fn has(repo: &Path, revision: &str) -> bool {
    let out = std::process::Command::new("git")
        .args([
            "-C",
            repo.to_str().unwrap(),
            "rev-parse",
            "--verify",
            "-q",
            revision,
        ])
        .output()
        .unwrap();
    out.status.success()
}

#[test]
fn each_host_works_on_its_own_disk_and_root_has_queue_and_state_alone() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    let go = root.at("go");
    let names = ["a", "b", "c", "d"];
    for name in names {
        let commits = "echo $HARNESS_ITEM > made; git add made; git commit -q -m made";
        let waits = format!("until [ -e '{}' ]; do sleep 0.05; done", go.display());
        root.script(name, &format!("{commits}; pwd > where; {waits}"));
    }
    // One with nothing, and one whose work is kept though it failed.
    root.drop_file(
        "e",
        b"#!/bin/sh\n#harness after: a\ntest -e README\n",
        0o755,
    );
    root.drop_file(
        "f",
        b"#!/bin/sh\n#harness retries: 0\necho half > half; exit 1\n",
        0o755,
    );
    let args = ["--drain", "--workers", "2"];
    let mut both = ["one", "two"].map(|host| hosts.start(host, &args));
    root.wait_until("all four are at work", || {
        let listed = root.ok(&["list", "claimed", "--json"]);
        names
            .iter()
            .filter(|n| listed.contains(&format!("\"{n}\"")))
            .count()
            >= 3
            && fs::read_dir(hosts.folder("one").join("worktrees")).is_ok()
    });
    fs::write(&go, "").unwrap();
    for run in &mut both {
        assert!(matches!(run.wait(), Some(0 | 1)), "{}", run.said());
    }
    let disks = hosts.disks.path().canonicalize().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        assert!(root.is_done(name), "{:#}", root.show(name));
        let branch = format!("harness/{name}/1");
        assert_eq!(
            git(&root.repo(), &["show", &format!("{branch}:made")]).trim(),
            name
        );
        let at = git(&root.repo(), &["show", &format!("{branch}:where")]);
        let host = Path::new(at.trim())
            .strip_prefix(&disks)
            .unwrap()
            .to_owned();
        seen.insert(host.components().next().unwrap().as_os_str().to_owned());
        // The attempt is found by any host, too.
        assert!(has(&hosts.kept(), &branch));
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(root.is_done("e") && root.is_parked("f"));
    assert!(!has(&hosts.kept(), "harness/e/1"));
    assert_eq!(git(&hosts.kept(), &["show", "harness/f/1:half"]), "half\n");
    hosts.assert_only_queue_and_state_in_root(&["one", "two"]);
    root.assert_nothing_left();
}

/// Its harness, its keeper and the agent itself are killed; a process of another folder recovers the slot.
#[test]
fn what_an_agent_left_uncommitted_is_in_root_whoever_died() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    root.drop_file(
        "x",
        b"#!/bin/sh\n#harness retries: 0\necho half > half; : > \"$HARNESS_SESSION_DIR/began\"; sleep 100\n",
        0o755,
    );
    let first = hosts.start("one", &["--workers", "1"]);
    let began = || {
        let mut all = fs::read_dir(root.at("state/sessions")).unwrap().flatten();
        all.any(|e| e.path().join("began").exists())
    };
    root.wait_until("x has begun", began);
    let mut second = hosts.start("two", &["--workers", "1"]);
    root.wait_until("the second has a slot", || {
        root.at("queue/claimed/agent-2").exists()
    });
    let keeper = root.keeper("agent-1");
    first.kill9();
    kill(keeper, "KILL");
    root.wait_until("x is parked", || root.is_parked("x"));
    assert_eq!(git(&hosts.kept(), &["show", "harness/x/1:half"]), "half\n");
    // What a person is told leads there.
    let told = root.ok(&["show", "x"]);
    assert!(
        told.contains("kept as harness/x/1 in state/repos/"),
        "{told}"
    );
    second.signal("INT");
    // Something was parked.
    assert_eq!(second.wait(), Some(1), "{}", second.said());
    hosts.assert_only_queue_and_state_in_root(&["one"]);

    // The disk of the first goes with its host; what ran out of time there is kept as well.
    root.drop_file(
        "y",
        b"#!/bin/sh\n#harness retries: 0\n#harness timeout: 1\necho more > more; git stash -q -u; echo late > late; sleep 100\n",
        0o755,
    );
    hosts.drain("one");
    fs::remove_dir_all(hosts.disk("one")).unwrap();
    assert!(root.is_parked("y"));
    assert_eq!(git(&hosts.kept(), &["show", "harness/y/1:late"]), "late\n");
    let stashes = git(
        &hosts.kept(),
        &[
            "for-each-ref",
            "--format=%(refname)",
            "refs/harness/salvage/harness/y",
        ],
    );
    assert!(stashes.contains("/stash/"), "{stashes}");
    let told = root.ok(&["show", "y"]);
    let kept = hosts.kept().canonicalize().unwrap();
    assert!(told.contains(kept.to_str().unwrap()), "{told}");

    root.script("z", "echo new > new");
    hosts.drain("one");
    assert!(root.is_done("z"), "{:#}", root.show("z"));
    hosts.assert_only_queue_and_state_in_root(&["one"]);
    root.assert_nothing_left();
}

/// A host is lost with its disk in the middle of an attempt, or when its branch was announced.
#[test]
fn a_disk_that_is_lost_takes_nothing_along_that_was_acknowledged() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    // Somebody's lock holds the harness up between the word and the deed.
    let lock = root.repo().join(".git/refs/heads/harness/x/1.lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    fs::write(&lock, "").unwrap();
    root.script("x", "echo made > made");
    let first = hosts.start("one", &["--workers", "1"]);
    root.wait_until("it is said", || {
        root.events("x").iter().any(|e| e == "publishing")
    });
    first.kill9();
    fs::remove_file(&lock).unwrap();
    fs::remove_dir_all(hosts.disk("one")).unwrap();
    hosts.drain("two");
    assert!(root.is_done("x"), "{:#}", root.show("x"));
    assert_eq!(git(&root.repo(), &["show", "harness/x/1:made"]), "made\n");

    // Its gates had begun.
    root.config(
        "[gates.ok]\nscript = \"until [ -e $HARNESS_ROOT/go ]; do sleep 0.05; done; test -e made\"\n[repo]\npath = \"repo\"\n",
    );
    root.script("g", "echo made > made");
    let first = hosts.start("one", &["--workers", "1"]);
    root.wait_until("its gate runs", || {
        root.events("g").iter().any(|e| e == "gating")
    });
    root.wait_until("the gate's log is there", || {
        let mut all = fs::read_dir(root.at("state/sessions")).unwrap().flatten();
        all.any(|e| e.path().join("gates/ok.log").exists())
    });
    let keeper = root.keeper("agent-1");
    first.kill9();
    kill(keeper, "KILL");
    fs::remove_dir_all(hosts.disk("one")).unwrap();
    fs::write(root.at("go"), "").unwrap();
    hosts.drain("two");
    assert!(root.is_done("g"), "{:#}", root.show("g"));
    assert_eq!(root.show("g")["attempts"].as_array().unwrap().len(), 1);
    assert_eq!(git(&root.repo(), &["show", "harness/g/1:made"]), "made\n");
    hosts.assert_only_queue_and_state_in_root(&["two"]);
    root.assert_nothing_left();
}

/// On the disk of the second host lies a worktree of the slot from before, on a folder of another path or,
/// as in containers and on `/scratch`, of the same one.
#[test]
fn a_worktree_of_the_same_slot_on_another_host_is_not_taken_for_the_lost_one() {
    for same_path in [false, true] {
        let hosts = Hosts::new();
        let root = &hosts.root;
        let one = ["--workers", "1"];
        let (first, second) = match same_path {
            true => ("one", "one"),
            false => ("one", "two"),
        };
        let aside = |host: &str, to: &str| fs::rename(hosts.disk(host), hosts.disk(to)).unwrap();
        root.drop_file(
            "old",
            b"#!/bin/sh\n#harness retries: 0\necho old > old; git add old; git commit -q -m old; echo more > more; exit 1\n",
            0o755,
        );
        hosts.drain(second);
        assert!(root.is_parked("old"));
        if same_path {
            aside("one", "of-second");
        }
        root.drop_file(
            "x",
            b"#!/bin/sh\n#harness retries: 0\necho half > half; : > \"$HARNESS_SESSION_DIR/began\"; sleep 100\n",
            0o755,
        );
        let run = hosts.start(first, &one);
        root.wait_until("x has begun", || {
            let mut all = fs::read_dir(root.at("state/sessions")).unwrap().flatten();
            all.any(|e| e.path().join("began").exists())
        });
        let keeper = root.keeper("agent-1");
        run.kill9();
        kill(keeper, "KILL");
        aside(first, "lost");
        if same_path {
            aside("of-second", "one");
        }
        hosts.drain(second);
        let shown = root.show("x");
        assert!(root.is_parked("x"), "{shown:#}");
        assert!(!has(&hosts.kept(), "harness/x/1"), "{shown:#}");
        assert_eq!(shown["branch"], serde_json::Value::Null, "{shown:#}");
        let told = root.ok(&["show", "x"]);
        assert!(
            told.contains("its worktree is gone with its host's disk"),
            "{told}"
        );
        root.assert_nothing_left();
    }
}

/// Somebody cleans up: what is idle there is made anew.
#[test]
fn a_folder_that_is_removed_while_harness_runs_is_made_again() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    root.script("x", "echo made > made");
    let mut run = hosts.start("one", &["--workers", "1"]);
    root.wait_until("x is done", || root.is_done("x"));
    fs::remove_dir_all(hosts.disk("one")).unwrap();
    root.script("y", "echo made > made");
    root.wait_until("y is done", || root.is_done("y"));
    run.signal("INT");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(git(&root.repo(), &["show", "harness/y/1:made"]), "made\n");
    root.assert_nothing_left();
}

/// As those do that clean up in `/tmp`.
#[test]
fn a_repository_of_which_a_part_was_removed_is_made_anew() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    root.script("first", "echo made > made");
    hosts.drain("one");
    for part in ["HEAD", "packed-refs", "refs", "objects"] {
        let hub = hosts.folder("one").join("repos/default.git");
        let gone = hub.join(part);
        match gone.is_dir() {
            true => fs::remove_dir_all(gone).unwrap(),
            false => fs::remove_file(gone).unwrap(),
        }
        root.script(part, "echo made > made");
        hosts.drain("one");
        assert!(root.is_done(part), "{:#}", root.show(part));
        let made = format!("harness/{part}/1:made");
        assert_eq!(git(&root.repo(), &["show", &made]), "made\n");
    }
    hosts.assert_only_queue_and_state_in_root(&["one"]);
    root.assert_nothing_left();
}

/// Its agent ended well after its harness had died, and nobody had collected its work.
#[test]
fn work_that_was_lost_with_its_disk_is_no_success() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    root.drop_file(
        "x",
        b"#!/bin/sh\n#harness retries: 0\necho made > made; : > \"$HARNESS_SESSION_DIR/began\"; until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.05; done\n",
        0o755,
    );
    let first = hosts.start("one", &["--workers", "1"]);
    let in_session = |name: &str| {
        let mut all = fs::read_dir(root.at("state/sessions")).unwrap().flatten();
        all.any(|e| e.path().join(name).exists())
    };
    root.wait_until("x has begun", || in_session("began"));
    first.kill9();
    fs::write(root.at("go"), "").unwrap();
    root.wait_until("its keeper saw its end", || in_session("exit.json"));
    fs::remove_dir_all(hosts.disk("one")).unwrap();
    hosts.drain("two");
    let shown = root.show("x");
    assert!(root.is_parked("x"), "{shown:#}");
    assert!(!has(&root.repo(), "harness/x/1"));
    root.assert_nothing_left();
}

#[test]
fn a_retry_on_another_host_goes_on_where_the_attempt_before_ended() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    let table = table(root, "claude", "resume = true");
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"repo\"\n[integrate]\nmode = \"review\"\n{table}"
    ));
    let text = "---\nretries: 0\n---\nDo it.\n[[mock:resume first=1]]\n";
    root.drop_file("x.md", text.as_bytes(), 0o644);
    hosts.drain("one");
    assert!(root.is_parked("x.md"), "{:#}", root.show("x.md"));
    fs::remove_dir_all(hosts.disk("one")).unwrap();
    root.ok(&["retry", "x.md"]);
    hosts.drain("two");
    let log = git(
        &root.repo(),
        &["log", "--format=%s", "main..harness/x.md/2"],
    );
    assert!(log.contains("harness: x.md, attempt 1\n"), "{log}");
    // A third merges it, and shows its branch to who builds on it. Then a harness without a disk of its own.
    root.ok(&["approve", "x.md"]);
    root.script(
        "y",
        "#harness after: x.md\ngit log --format=%s -1 harness/x.md/2 > seen",
    );
    hosts.drain("three");
    assert!(root.is_done("x.md"), "{:#}", root.show("x.md"));
    root.ok(&["approve", "y"]);
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    let seen = git(&root.repo(), &["show", "main:seen"]);
    assert!(seen.contains("x.md"), "{seen}");
    let out = root.harness(&["gc", "--dry-run"]);
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    root.assert_nothing_left();
}

#[test]
fn a_folder_that_cannot_be_a_hosts_is_refused_with_the_reason() {
    let hosts = Hosts::new();
    let root = &hosts.root;
    let refused = |dir: &str, code: i32, why: &str| {
        let out = root.exits(code, &["run", "--drain", "--local", dir]);
        assert!(describe(&out).contains(why), "{}", describe(&out));
    };
    // An environment without TMPDIR.
    refused("", 2, "--local <DIR>' but there is none, or an empty one");
    let state = root.at("state");
    refused(state.to_str().unwrap(), 100, "ROOT itself lies there");
    // Nothing is made there, which would be taken for an item; by no symlink either.
    fs::create_dir_all(hosts.disks.path()).unwrap();
    std::os::unix::fs::symlink(root.at("queue"), hosts.disk("link")).unwrap();
    for dir in [root.at("queue/pending/new"), hosts.disk("link/pending")] {
        refused(dir.to_str().unwrap(), 100, "ROOT itself lies there");
        assert_eq!(fs::read_dir(root.at("queue/pending")).unwrap().count(), 0);
    }
    // Another tree has a folder of its own in the same place.
    let other = Hosts::of(Root::with_repo());
    other.root.script("x", "pwd > where");
    root.script("x", "pwd > where");
    let disk = hosts.disk("one");
    for root in [root, &other.root] {
        let args = ["run", "--drain", "--local", disk.to_str().unwrap()];
        root.exits(0, &args);
    }
    assert_eq!(fs::read_dir(&disk).unwrap().count(), 2);
}

#[test]
fn what_was_made_in_submodules_and_with_lfs_is_kept_too() {
    let hosts = Hosts::of(with_lfs(""));
    let root = &hosts.root;
    let (repo, lib) = (root.repo(), root.at("lib"));
    fs::create_dir(&lib).unwrap();
    git(&lib, &["init", "-q", "-b", "main"]);
    git(&lib, &["commit", "-q", "--allow-empty", "-m", "lib"]);
    let add = ["submodule", "add", "-q", lib.to_str().unwrap(), "lib"];
    git(
        &repo,
        &[&["-c", "protocol.file.allow=always"], &add[..]].concat(),
    );
    git(&repo, &["commit", "-q", "-m", "with lib"]);
    root.drop_file(
        "x",
        b"#!/bin/sh\n#harness retries: 0\nseq 1000 > new.bin; echo half > lib/half; exit 1\n",
        0o755,
    );
    hosts.drain("one");
    fs::remove_dir_all(hosts.disk("one")).unwrap();
    assert!(root.is_parked("x"), "{:#}", root.show("x"));
    let modules = hosts.kept().join("modules/lib.git");
    assert_eq!(git(&modules, &["show", "harness/x/1:half"]), "half\n");
    let pointer = git(&hosts.kept(), &["show", "harness/x/1:new.bin"]);
    let oid = pointer.lines().find_map(|l| l.strip_prefix("oid sha256:"));
    let oid = oid.unwrap_or_else(|| panic!("{pointer}"));
    let object = format!("lfs/objects/{}/{}/{oid}", &oid[..2], &oid[2..4]);
    let text = fs::read_to_string(hosts.kept().join(object)).unwrap();
    assert!(text.ends_with("1000\n"), "{text}");
    for repo in [hosts.kept(), modules] {
        git(&repo, &["fsck", "--full", "--no-dangling"]);
    }
}
