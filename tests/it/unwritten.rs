//! An end that cannot be written, and a stop that waits: the cause is named where people look, a stop
//! and a drain end all the same, nothing is lost, and what is mended goes on by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Root, as_nobody, describe, git, is_alive, skipped};
use crate::trouble::{has_mounts, is_root, run_to_end, words};

/// Words that stand one after the other.
fn has_all(text: &str, wanted: &[&str]) {
    let mut rest = text;
    for want in wanted {
        let Some((_, after)) = rest.split_once(want) else {
            panic!("no {want:?} where it belongs in:\n{text}");
        };
        rest = after;
    }
}

#[test]
fn a_full_disk_is_named_and_no_stop_waits_for_it() {
    if !has_mounts() {
        return;
    }
    let root = Root::plain();
    let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
    let script = format!(
        "h='{bin} --root {dir}/t'; mkdir {dir}/t; mount -t tmpfs -o size=6m none {dir}/t; cd {dir}/t
        $h init >/dev/null; printf '[sandbox]\\nmode=\"off\"\\n[repo]\\npath=\"none\"\\n[limits]\\ndisk_free_min = 0\\n' > harness.toml
        printf '#!/bin/sh\\ncat /dev/zero > $HARNESS_ROOT/fill 2>/dev/null; exit 0\\n' > queue/pending/x; chmod 755 queue/pending/x
        $h run --workers 1 2>{dir}/said >&2 & p=$!
        until $h show x | grep -q 'agent-1 cannot go on'; do sleep 0.2; done
        echo STATUS; $h status; echo SHOW; $h show x; echo LIST; $h list
        kill -TERM $p; wait $p; echo CODE $?; cat {dir}/said
        : its files are gone, and the keeper may not have their place; cat /dev/zero >>fill 2>/dev/null
        echo LEFT; ls queue/claimed/agent-1; $h show x
        rm fill; $h run --drain; echo CODE $?; ls queue/done; $h show x"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env_remove("HARNESS_ROOT");
    let began = Instant::now();
    let out = run_to_end(command);
    let said = words(&out);
    let full = "No space left on device";
    has_all(
        &said,
        &["STATUS", "TROUBLE with agent-1: ", full, "1 claimed"],
    );
    has_all(
        &said,
        &[
            "SHOW",
            "claimed, and nothing works on it",
            "agent-1 cannot go on",
            full,
        ],
    );
    has_all(
        &said,
        &["LIST", "claimed", "cannot go on", full, "CODE 111"],
    );
    let run = fs::read_to_string(root.at("said")).unwrap();
    has_all(
        &run,
        &[
            "agent-1: cannot write the file: ",
            full,
            "agent-1 stays as it is: ",
            full,
        ],
    );
    assert!(run.contains("x stays in queue/claimed/agent-1/"), "{run}");
    assert!(run.matches(full).count() < 7, "{run}");
    has_all(
        &said,
        &[
            "LEFT",
            "x\n",
            "cannot go on",
            "CODE 0",
            "x\n",
            "attempt 1 succeeded",
        ],
    );
    assert!(!said.contains("attempt 2"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(35), "{said}");
}

#[test]
fn a_keeper_that_cannot_write_an_end_ends_by_sigterm_and_nothing_is_lost() {
    if !has_mounts() {
        return;
    }
    let root = Root::plain();
    let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
    let script = format!(
        "h='{bin} --root {dir}/t'; mkdir {dir}/t; mount -t tmpfs -o size=6m none {dir}/t; cd {dir}/t
        $h init >/dev/null; printf '[sandbox]\\nmode=\"off\"\\n[repo]\\npath=\"none\"\\n[limits]\\ndisk_free_min = 0\\n' > harness.toml
        printf '#!/bin/sh\\n[ $HARNESS_ATTEMPT = 2 ] || cat /dev/zero > $HARNESS_ROOT/fill 2>/dev/null; exit 0\\n' > queue/pending/x
        chmod 755 queue/pending/x
        $h run --workers 1 2>{dir}/said >&2 & p=$!
        until [ -s fill ]; do sleep 0.1; done
        while :; do cat /dev/zero >>fill; sleep 0.02; done 2>/dev/null & f=$!
        until $h show x | grep -q 'agent-1 cannot go on'; do sleep 0.2; done
        : what harness frees as it ends would be the place for the end: the keeper looks when that is full, too
        k=$(pgrep -f '[k]eeper {dir}/t/state'); echo KEEPER $k; kill -STOP $k
        kill -TERM $p; wait $p; cat /dev/zero >>fill 2>/dev/null; kill -TERM $k; kill -CONT $k
        while kill -0 $k; do sleep 0.1; done 2>/dev/null; echo GONE
        kill $f; rm fill; $h run --drain; echo CODE $?; $h show x"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env_remove("HARNESS_ROOT");
    let said = words(&run_to_end(command));
    let end = ["attempt 1 crashed", "attempt 2 succeeded"];
    has_all(&said, &["KEEPER ", "GONE", "CODE 0", end[0], end[1]]);
}

fn status_of(root: &Root) -> Value {
    serde_json::from_str(&root.ok(&["status", "--json"])).unwrap()
}

#[test]
fn an_end_that_cannot_be_moved_is_counted_as_claimed_with_its_cause_and_goes_on_when_mended() {
    if !is_root("a folder that is closed to another user") {
        return;
    }
    let root = Root::plain();
    let command = as_nobody(&root);
    root.script("ends", ":");
    root.drop_file(
        "parks",
        b"#!/bin/sh\n#harness retries: 0\n#harness priority: low\nexit 1\n",
        0o755,
    );
    let done = root.at("queue/done");
    let close = |mode| fs::set_permissions(&done, fs::Permissions::from_mode(mode)).unwrap();
    close(0o555);
    let out = run_to_end(command(&["run", "--drain", "--workers", "2"]));
    let said = words(&out);
    assert_eq!(out.status.code(), Some(111), "{said}");
    assert!(root.is_parked("parks"), "the other slot goes on: {said}");
    let why = "cannot move ends.~ending~ into the folder";
    has_all(
        &said,
        &[
            "stays as it is: ",
            why,
            "queue/done: Permission denied",
            "ends stays in queue/claimed/",
        ],
    );
    has_all(
        &said,
        &[
            "OUTCOME",
            "ends ",
            "claimed",
            why,
            "0 done, 1 parked, 1 still claimed",
        ],
    );
    // A look as that user: root may write there.
    let look = |args: &[&str]| words(&run_to_end(command(args)));
    assert_eq!(status_of(&root)["work_queue"]["claimed"], 1);
    has_all(
        &look(&["status"]),
        &[
            "TROUBLE with agent-",
            "queue/done: Permission denied",
            "1 claimed",
        ],
    );
    has_all(
        &look(&["list"]),
        &["ends", "claimed", "queue/done: Permission denied"],
    );
    has_all(
        &look(&["show", "ends"]),
        &["nothing works on it", "queue/done: Permission denied"],
    );
    // While a harness runs, it is said by that, and goes on once it is mended.
    let mut run = command(&["run", "--workers", "2"]);
    let mut run = run
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    root.wait_until("the status names it", || {
        let slots = status_of(&root)["agents"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let names_it = |s: &Value| {
            s["reason"]
                .as_str()
                .is_some_and(|r| r.contains("queue/done"))
        };
        slots.iter().any(names_it)
    });
    assert_eq!(status_of(&root)["work_queue"]["claimed"], 1);
    assert!(
        root.ok(&["show", "ends"])
            .contains("queue/done: Permission denied")
    );
    close(0o755);
    root.wait_until("it is done", || root.is_done("ends"));
    crate::support::kill(run.id(), "TERM");
    assert!(run.wait().unwrap().success());
    assert_eq!(root.show("ends")["attempts"].as_array().unwrap().len(), 1);
    root.assert_nothing_left();
}

#[test]
fn a_claimed_file_that_cannot_be_moved_is_named_itself() {
    if !is_root("an immutable file") {
        return;
    }
    let root = Root::plain();
    fs::write(root.at("probe"), "").unwrap();
    let attribute = |how: &str, file: &str| {
        let done = Command::new("chattr").arg(how).arg(root.at(file)).output();
        done.is_ok_and(|out| out.status.success())
    };
    if !attribute("+i", "probe") {
        skipped("no immutable files here");
        return;
    }
    assert!(attribute("-i", "probe"));
    root.script(
        "x",
        "chattr +i \"$HARNESS_ROOT/queue/claimed/$HARNESS_SLOT/x\"",
    );
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    let (status, show) = (root.ok(&["status"]), root.ok(&["show", "x"]));
    let file = "queue/claimed/agent-1/x";
    assert!(attribute("-i", file), "{}", describe(&out));
    let said = words(&out);
    assert_eq!(out.status.code(), Some(111), "{said}");
    for text in [&said, &status, &show] {
        has_all(
            text,
            &["cannot move the file", file, "Operation not permitted"],
        );
    }
    assert_eq!(root.drain().status.code(), Some(0));
    assert!(root.is_done("x"));
}

#[test]
fn a_stop_ends_a_git_that_hangs_with_all_that_it_started() {
    let root = Root::with_repo();
    let bin = root.at("bin");
    fs::create_dir(&bin).unwrap();
    let real = words(
        &Command::new("sh")
            .args(["-c", "command -v git"])
            .output()
            .unwrap(),
    );
    let (flag, helper) = (root.at("hang"), root.at("helper"));
    // Hangs in a helper of its own, from when the agent has said so.
    let script = format!(
        "#!/bin/sh\nif [ -e {flag} ] && [ -n \"$GIT_DIR\" ]; then sleep 600 & echo $! > {helper}; wait; wait; fi\nexec {real} \"$@\"\n",
        flag = flag.display(),
        helper = helper.display(),
        real = real.trim(),
    );
    fs::write(bin.join("git"), script).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    root.script("x", &format!("echo work > work; : > {}", flag.display()));
    let log = root.at("said");
    let path = std::env::var("PATH").unwrap();
    let file = fs::File::create(&log).unwrap();
    let mut run = root
        .command()
        .args(["run", "--workers", "1"])
        .env("PATH", format!("{}:{path}", bin.display()))
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .unwrap();
    root.wait_until("a git hangs", || {
        fs::read_to_string(&helper).is_ok_and(|pid| pid.ends_with('\n'))
    });
    let stopped = Instant::now();
    crate::support::kill(run.id(), "TERM");
    root.wait_until("it stops", || run.try_wait().unwrap().is_some());
    let said = fs::read_to_string(&log).unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(55), "{said}");
    assert_eq!(run.wait().unwrap().code(), Some(111), "{said}");
    has_all(
        &said,
        &[
            "agent-1 stays as it is: git hangs",
            "being stopped",
            "x stays in queue/claimed/agent-1/",
        ],
    );
    let pid: u32 = fs::read_to_string(&helper).unwrap().trim().parse().unwrap();
    root.wait_until("the git's helper has ended", || !is_alive(pid));
    fs::remove_file(&flag).unwrap();
    root.drain();
    let show = root.show("x");
    assert_eq!(
        (show["state"].as_str(), show["outcome"].as_str()),
        (Some("done"), Some("succeeded")),
        "{show:#}"
    );
    assert_eq!(git(&root.repo(), &["show", "harness/x/1:work"]), "work\n");
    root.assert_nothing_left();
}

#[test]
fn help_that_cannot_be_printed_is_said() {
    let root = Root::plain();
    for args in [&["help", "list"][..], &["list", "--help"], &["help"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full");
        let mut command = root.command();
        let out = command.args(args).stdout(full.unwrap()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(111), "{args:?}: {said}");
        assert!(said.contains("stdout: No space left"), "{args:?}: {said}");
    }
}

#[test]
fn a_command_that_did_its_work_and_cannot_say_so_has_not_failed() {
    let root = Root::plain();
    let told_nobody = |args: &[&str]| {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut command = root.command();
        command.args(args).stdout(full).stderr(Stdio::piped());
        let out = command.spawn().unwrap().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(0), "{args:?}: {said}");
        assert!(
            said.contains("stdout: No space left on device"),
            "{args:?}: {said}"
        );
        said
    };
    let said = told_nobody(&["add", "--prompt", "fix it", "--name", "fix"]);
    assert!(said.contains("in queue/pending/ now: fix"), "{said}");
    told_nobody(&["add", "--prompt", "fix it", "--name", "fix-json", "--json"]);
    assert!(root.at("queue/pending/fix").exists() && root.at("queue/pending/fix-json").exists());
    root.ok(&["cancel", "fix"]);
    told_nobody(&["retry", "fix", "--json"]);
    assert!(root.at("queue/pending/fix").exists());
    told_nobody(&["gc"]);
    root.ok(&["cancel", "fix", "fix-json"]);
    root.script("x", ":");
    told_nobody(&["run", "--drain"]);
    assert!(root.is_done("x"));
    // A record that cannot be written is said; the item is there, and not to be added again.
    let record = root.at("state/items/odd.jsonl");
    fs::create_dir(&record).unwrap();
    let out = root.exits(0, &["add", "--prompt", "fix it", "--name", "odd"]);
    assert!(
        words(&out).contains("in queue/pending/ now: odd, without"),
        "{}",
        describe(&out)
    );
}

#[test]
fn an_interrupt_that_is_a_directory_is_told_once_and_resumed() {
    let root = Root::plain();
    root.config(
        "notify = [\"sh\", \"-c\", \"echo told >> $HARNESS_ROOT/told\"]\n[repo]\npath = \"none\"\n",
    );
    let interrupt = root.at("state/interrupts/agent-1.interrupt");
    for (round, content) in [(1, None), (2, Some("a person's notes"))] {
        fs::create_dir(&interrupt).unwrap();
        if let Some(text) = content {
            fs::write(interrupt.join("notes"), text).unwrap();
        }
        let name = format!("x{round}");
        root.script(&name, ":");
        let mut run = root.start(&["--drain", "--workers", "1"]);
        root.wait_until("it is told", || {
            fs::read_to_string(root.at("told")).is_ok_and(|t| t.lines().count() >= round)
        });
        root.wait_until("status says it", || {
            root.ok(&["status"]).contains("agent-1 IS INTERRUPTED")
        });
        root.ok(&["resume", "agent-1"]);
        assert!(!interrupt.exists());
        assert_eq!(run.wait(), Some(0), "{}", run.said());
        assert!(root.is_done(&name));
        let told = fs::read_to_string(root.at("told")).unwrap();
        assert_eq!(told.lines().count(), round, "{}", run.said());
    }
    let kept = root.at("state/interrupts/agent-1.interrupt.~1~/notes");
    assert_eq!(fs::read_to_string(kept).unwrap(), "a person's notes");
    // An order is a mark of the same kind.
    fs::create_dir(root.at("state/control/pause")).unwrap();
    root.ok(&["resume"]);
    assert!(!root.at("state/control/pause").exists());
}
