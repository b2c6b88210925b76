//! Trouble has a name, a floor and an end: what a person must mend parks or stays with the reason,
//! one item's or one slot's trouble stops no other, and nothing is said without end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use crate::support::{NOBODY, Root, Running, as_nobody, describe, run_within};

/// Whether this test has what only root has, and says so if not.
pub fn is_root(what: &str) -> bool {
    let is = nix::unistd::geteuid().is_root();
    if !is {
        eprintln!("SKIPPED: {what} needs root");
    }
    is
}

fn sh(script: &str) -> Output {
    Command::new("sh").args(["-c", script]).output().unwrap()
}

fn must(script: &str) {
    let out = sh(script);
    assert!(out.status.success(), "{script}: {}", describe(&out));
}

pub fn run_to_end(command: Command) -> Output {
    run_within(Duration::from_secs(40), command)
        .unwrap_or_else(|out| panic!("it does not end: {}", describe(&out)))
}

pub fn words(out: &Output) -> String {
    String::from_utf8_lossy(&[&out.stdout[..], &out.stderr[..]].concat()).into_owned()
}

#[test]
fn an_item_of_another_user_is_postponed_as_a_copy_and_costs_no_slot() {
    if !is_root("an item of another user") {
        return;
    }
    let root = Root::plain();
    let command = as_nobody(&root);
    // Root's, so that its user may not set its time.
    root.drop_file("x", b"#!/bin/sh\n#harness retries: 1\nexit 1\n", 0o644);
    root.drop_file("y", b"#!/bin/sh\n:\n", 0o755);
    let out = run_to_end(command(&["run", "--drain"]));
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    assert!(
        root.is_parked("x") && root.is_done("y"),
        "{}",
        root.picture()
    );
    let events: Vec<String> = root.events("x");
    let count = |what: &str| events.iter().filter(|e| *e == what).count();
    assert_eq!((count("claimed"), count("finished")), (2, 2), "{events:?}");
}

#[test]
fn an_item_that_cannot_be_taken_stays_with_the_reason_and_the_drain_ends() {
    if !is_root("a sticky folder") {
        return;
    }
    let root = Root::plain();
    root.config("writers = \"all\"\n[repo]\npath = \"none\"\n");
    let command = as_nobody(&root);
    root.drop_file("stays", b"#!/bin/sh\n:\n", 0o755);
    // More than an end of equal tries takes, and all before the good ones.
    for n in 0..8 {
        let first = b"#!/bin/sh\n#harness priority: high\n:\n";
        root.drop_file(format!("bad-{n}"), first, 0o755);
    }
    for n in 0..4 {
        root.drop_file(format!("goes-{n}"), b"#!/bin/sh\n:\n", 0o755);
        must(&format!(
            "chown {NOBODY} {}",
            root.at(format!("queue/pending/goes-{n}")).display()
        ));
    }
    // Anybody drops there, and only the owner of a file takes it out.
    must(&format!(
        "cd {} && chown 0 queue/pending && chmod 1777 queue/pending",
        root.path().display()
    ));
    let began = Instant::now();
    let out = run_to_end(command(&["run", "--drain", "--workers", "2"]));
    let said = words(&out);
    assert_eq!(out.status.code(), Some(111), "{said}");
    assert!((0..4).all(|n| root.is_done(&format!("goes-{n}"))), "{said}");
    assert!(root.at("queue/pending/stays").exists());
    assert!(said.contains("stays stays in pending/: "), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(30));
    let show = root.show("stays");
    assert_eq!(show["state"], "blocked", "{show:#}");
    let why = show["reason"].as_str().unwrap();
    assert!(why.contains("Operation not permitted"), "{why}");
    let listed = root.ok(&["list"]);
    assert!(listed.contains("Operation not permitted"), "{listed}");
    let status = root.ok(&["status"]);
    let said = "TROUBLE with queue/pending/stays: ";
    assert!(status.contains(said), "{status}");
    // Mended, it goes as any other, and nothing is left of the reason.
    must(&format!(
        "chmod 0777 {}",
        root.at("queue/pending").display()
    ));
    let out = run_to_end(command(&["run", "--drain"]));
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    assert_eq!(root.show("stays")["state"], "done");
    assert!(root.is_done("bad-7"));
}

fn lines_of(run: &Running) -> usize {
    run.said().lines().count()
}

fn is_handled_soon(root: &Root, name: &str) {
    let dropped = Instant::now();
    root.script(name, ":");
    root.wait_until("it is done", || root.is_done(name));
    assert!(
        dropped.elapsed() < Duration::from_secs(10),
        "{:?}",
        dropped.elapsed()
    );
}

#[test]
fn folders_that_are_removed_or_replaced_are_made_again_and_watched_again() {
    let root = Root::plain();
    let run = root.start(&["--workers", "1"]);
    is_handled_soon(&root, "first");
    let pending = root.at("queue/pending");
    for round in 0..2 {
        fs::remove_dir_all(&pending).unwrap();
        root.wait_until("it is made again", || pending.is_dir());
        // The slow listing, every 30 s, would find the first of them only.
        for n in 0..3 {
            is_handled_soon(&root, &format!("r{round}-{n}"));
        }
    }
    // Another folder in its place, with something in it.
    let aside = root.at("queue/aside");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("moved-in"), "#!/bin/sh\n:\n").unwrap();
    fs::rename(&pending, root.at("queue/old")).unwrap();
    let _made_again_meanwhile = fs::remove_dir(&pending);
    fs::rename(&aside, &pending).unwrap();
    root.wait_until("what came with it is done", || root.is_done("moved-in"));
    is_handled_soon(&root, "last");
    // state/control, too: an order is obeyed at once.
    fs::remove_dir_all(root.at("state/control")).unwrap();
    root.wait_until("it is made again", || root.at("state/control").is_dir());
    root.ok(&["pause"]);
    root.wait_until("it is paused", || run.said().contains("paused:"));
    assert!(lines_of(&run) < 60, "{}", run.said());
    assert!(
        run.said().contains("queue/pending was gone"),
        "{}",
        run.said()
    );
}

#[test]
fn a_folder_that_cannot_be_listed_is_named_and_neither_floods_nor_holds_a_drain_for_ever() {
    let root = Root::plain();
    root.script("in-it", ":");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it is done", || root.is_done("in-it"));
    let pending = root.at("queue/pending");
    fs::remove_dir_all(&pending).unwrap();
    fs::write(&pending, "a file in its place").unwrap();
    let replaced = Instant::now();
    root.wait_until("the status names it", || {
        let status = root.ok(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let troubles = status["troubles"].as_array().cloned().unwrap_or_default();
        troubles
            .iter()
            .any(|t| t["place"] == "queue/pending" && t["tries"].as_u64() > Some(2))
    });
    assert!(
        root.ok(&["status"])
            .contains("TROUBLE with queue/pending: ")
    );
    fs::write(root.at("state/control/drain"), "").unwrap();
    let mut run = run;
    assert_eq!(run.wait(), Some(111), "{}", run.said());
    let said = run.said();
    assert!(said.contains("stays there: "), "{said}");
    // At first, and at the end with its count.
    let of_it =
        |line: &&str| line.starts_with("! queue/pending") && line.contains("Not a directory");
    assert_eq!(said.lines().filter(of_it).count(), 2, "{said}");
    assert!(said.contains(" times more in "), "{said}");
    // Five tries, and 1, 2, 4 and 8 s between them.
    assert!(replaced.elapsed() > Duration::from_secs(10), "{said}");
    assert!(lines_of(&run) < 40, "{}", run.said());
}

#[test]
fn one_slots_trouble_is_named_and_stops_no_other() {
    let root = Root::plain();
    let mut run = root.start(&["--workers", "2"]);
    let break_a_slot = |name: &str| {
        root.script(
            name,
            "cd \"$HARNESS_ROOT/queue/claimed\" && mv $HARNESS_SLOT ../aside && ln -s ../aside $HARNESS_SLOT",
        );
        let mut pokes = 0;
        // It is noticed at the next claim.
        root.wait_until("a slot shows its trouble", || {
            root.script(format!("{name}-{pokes}"), ":");
            pokes += 1;
            let status = root.ok(&["status", "--json"]);
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let slots = status["agents"].as_array().cloned().unwrap_or_default();
            let has_why =
                |s: &serde_json::Value| s["reason"].as_str()?.contains("symlink").then_some(());
            slots
                .iter()
                .any(|s| s["state"] == "trouble" && has_why(s).is_some())
        });
        assert!(root.ok(&["status"]).contains("a symlink"));
    };
    let mend = || {
        let claimed = root.at("queue/claimed");
        for entry in fs::read_dir(&claimed).unwrap().flatten() {
            if entry.path().is_symlink() {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        fs::remove_dir_all(root.at("queue/aside")).unwrap();
    };
    break_a_slot("first");
    for n in 0..4 {
        is_handled_soon(&root, &format!("other-{n}"));
    }
    mend();
    root.wait_until("no slot is in trouble", || {
        !root.ok(&["status"]).contains("trouble")
    });
    // With nothing left to do, a drain does not mind.
    break_a_slot("second");
    fs::write(root.at("state/control/drain"), "").unwrap();
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let warnings = run.said().matches("! ").count();
    assert!(warnings < 20, "{}", run.said());
}

#[test]
fn a_drain_ends_where_a_claimed_item_cannot_be_moved_and_the_next_moves_it() {
    let root = Root::plain();
    root.script(
        "x",
        "cd \"$HARNESS_ROOT/queue\" && mv done aside && : > done",
    );
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let said = words(&out);
    assert_eq!(out.status.code(), Some(111), "{said}");
    assert!(
        said.contains("agent-1 stays as it is: cannot move"),
        "{said}"
    );
    assert!(said.lines().count() < 20, "{said}");
    let left = fs::read_dir(root.at("queue/claimed/agent-1")).unwrap();
    assert_eq!(left.count(), 1, "{}", root.picture());
    fs::remove_file(root.at("queue/done")).unwrap();
    fs::rename(root.at("queue/aside"), root.at("queue/done")).unwrap();
    assert_eq!(root.drain().status.code(), Some(0));
    assert!(root.is_done("x"));
    let show = root.show("x");
    assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show:#}");
    root.assert_nothing_left();
}

/// Whether the file, or folder, has such attributes now.
pub fn fixes(flag: &str, path: &Path) -> bool {
    let out = Command::new("chattr").arg(flag).arg(path).output();
    out.is_ok_and(|out| out.status.success())
}

/// Nothing can be made there, and what is there cannot be put aside: it may be an agent's, or a person's.
#[test]
fn what_cannot_be_moved_in_a_slots_place_parks_no_item_and_stops_no_other_slot() {
    for (place, flag) in [
        ("agent-1", "i"),
        ("agent-1.git", "a"),
        (".agent-1.git.new", "i"),
    ] {
        let root = Root::with_repo();
        let file = root.at("worktrees").join(place);
        fs::create_dir_all(root.at("worktrees")).unwrap();
        fs::write(&file, "in the way\n").unwrap();
        if !fixes(&format!("+{flag}"), &file) {
            eprintln!("SKIPPED: no attributes on this file system");
            return;
        }
        for n in 0..4 {
            root.script(format!("x{n}"), "echo x > x");
        }
        let alone = root.harness(&["run", "--drain", "--workers", "1"]);
        let pending = (0..4).all(|n| root.at(format!("queue/pending/x{n}")).exists());
        let two = root.harness(&["run", "--drain", "--workers", "2"]);
        let done = (0..4).all(|n| root.is_done(&format!("x{n}")));
        let lines = root.events("x0").len();
        assert!(fixes(&format!("-{flag}"), &file));
        let said = words(&alone);
        let why = format!("cannot move the file: {}: ", file.display());
        let stays = format!("agent-1 stays as it is: {why}");
        assert_eq!(alone.status.code(), Some(111), "{said}");
        assert!(said.contains(&stays) && said.lines().count() < 20, "{said}");
        assert!(pending, "{said}");
        let said = words(&two);
        assert!(done, "{said}");
        assert!(said.contains(&why), "{said}");
        assert!(lines < 5, "{said}");
        root.script("late", "echo l > l");
        let out = root.harness(&["run", "--drain", "--workers", "1"]);
        assert_eq!(out.status.code(), Some(0), "{}", words(&out));
        assert!(root.is_done("late"));
    }
}

#[test]
fn a_drain_names_the_interrupt_that_it_waits_for() {
    let root = Root::plain();
    root.ok(&["interrupt", "all", "look at this"]);
    root.script("x", ":");
    let mut run = root.start(&["--drain", "--workers", "2"]);
    root.wait_until("it says what it waits for", || {
        run.said()
            .contains("the drain waits: no slot may go on: look at this")
    });
    root.ok(&["resume"]);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(
        run.said().matches("the drain waits").count(),
        1,
        "{}",
        run.said()
    );
}

/// In a mount namespace of its own.
fn in_own_mounts(root: &Root, setup: &str, args: &str) -> Output {
    let bin = env!("CARGO_BIN_EXE_harness");
    let dir = root.path().display();
    let script = format!("cd {dir} && {setup} && exec {bin} --root {dir} {args}");
    run_to_end({
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", &script])
            .env_remove("HARNESS_ROOT");
        command
    })
}

pub fn has_mounts() -> bool {
    let can =
        is_root("a mount namespace") && sh("unshare -m mount -t tmpfs none /mnt").status.success();
    if !can {
        eprintln!("SKIPPED: no mount namespaces here");
    }
    can
}

#[test]
fn what_makes_every_claim_fail_is_said_at_the_start_and_nothing_is_touched() {
    if !has_mounts() {
        return;
    }
    for (setup, why) in [
        (
            "mount --bind queue/pending queue/pending",
            "are not on one mount",
        ),
        (
            "mount -t tmpfs none /proc",
            "/proc/self/stat cannot be read",
        ),
    ] {
        let root = Root::plain();
        root.script("x", ":");
        let out = in_own_mounts(&root, setup, "run --drain");
        let said = words(&out);
        assert_eq!(out.status.code(), Some(100), "{setup}: {said}");
        assert!(
            said.contains(why) && said.contains("what to do"),
            "{setup}: {said}"
        );
        assert!(root.at("queue/pending/x").exists());
        root.assert_nothing_left();
    }
}

#[test]
fn a_folder_that_becomes_a_mount_of_its_own_while_running_is_named() {
    if !has_mounts() {
        return;
    }
    let root = Root::plain();
    let bin = env!("CARGO_BIN_EXE_harness");
    let dir = root.path().display().to_string();
    let script = format!(
        "cd {dir} && {bin} --root {dir} run --workers 2 2> log & cd {dir} && until grep -q harness: log; do :; done; \
         mount --bind queue/pending queue/pending; printf '#!/bin/sh\\n:\\n' > queue/pending/x; \
         until grep -q 'stays in pending' log; do sleep 0.1; done; touch state/control/drain; wait $!"
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    let out = run_to_end(command);
    let said = fs::read_to_string(root.at("log")).unwrap();
    assert_eq!(out.status.code(), Some(111), "{said}");
    assert!(said.contains("on one mount"), "{said}");
    assert!(said.lines().count() < 40, "{said}");
    assert!(Path::new(&dir).join("queue/pending/x").exists());
}

#[test]
fn a_fifo_in_an_idle_worktree_does_not_hold_gc_up() {
    let root = Root::with_repo();
    root.config("[repo]\npath = \"repo\"\n[limits]\nkeep = 0\n");
    root.script("x", "echo x > x");
    root.drain();
    for slot in fs::read_dir(root.at("worktrees")).unwrap().flatten() {
        if slot.path().is_dir() {
            nix::unistd::mkfifo(
                &slot.path().join(".gitignore"),
                nix::sys::stat::Mode::S_IRWXU,
            )
            .unwrap();
        }
    }
    let began = Instant::now();
    root.ok(&["gc"]);
    assert!(began.elapsed() < Duration::from_secs(30));
    assert!(!root.at("worktrees/agent-1/.gitignore").exists());
}

/// Each wait is over as soon as it has begun: the file's time is the wait, and a person may set it.
#[test]
fn an_item_that_could_not_be_started_eight_times_is_parked_and_counts_as_parked() {
    let mut root = Root::with_repo();
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    let text = "#!/bin/sh\nPATH=${PATH#*:}\ncase \"$*\" in *checkout*harness/x/*)\n\
                echo 'fatal: it is Tuesday' >&2; exit 128;;\nesac\nexec git \"$@\"\n";
    fs::write(bin.join("git"), text).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    root.env.push(("PATH", path.into()));
    root.script("x", ":");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    let file = root.at("queue/pending/x");
    for n in 1..8 {
        root.wait_until("it waits to be started again", || {
            let events = root.events("x");
            events.iter().filter(|e| *e == "requeued").count() == n && file.exists()
        });
        let waits = fs::File::open(&file).unwrap();
        assert!(waits.metadata().unwrap().modified().unwrap() > SystemTime::now());
        waits.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    assert_eq!(run.wait(), Some(1), "one is parked: {}", run.said());
    let show = root.show("x");
    assert!(root.is_parked("x"), "{show:#}");
    assert!(show["reason"].as_str().unwrap().contains("it is Tuesday"));
    assert_eq!(
        show["attempts"].as_array().map(Vec::len),
        Some(0),
        "{show:#}"
    );
    let events = root.events("x");
    let tries = events.iter().filter(|e| *e == "requeued").count();
    assert_eq!(tries, 8, "{events:?}");
    root.assert_nothing_left();
}
