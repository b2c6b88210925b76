//! `[limits]`: what prints, writes or eats too much is ended before it costs others anything, the tool
//! before its agent, and the item says why.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Root, describe, files_below, skipped};
use crate::trouble::{has_mounts, run_to_end, words};

/// Plain directories, no cgroup: what is sampled.
fn root(limits: &str) -> Root {
    let mut root = Root::plain();
    root.env.push(("HARNESS_CGROUP", "off".into()));
    root.config(&format!("[repo]\npath = \"none\"\n[limits]\n{limits}"));
    root
}

fn session(root: &Root, name: &str) -> Value {
    let show = root.show(name);
    let sid = show["attempts"][0]["session"].as_str().unwrap_or_default();
    let path = root.at("state/sessions").join(sid).join("session.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn printed(root: &Root) -> u64 {
    let logs = files_below(&root.at("state/sessions"));
    let logs = logs
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "log"));
    logs.map(|p| p.metadata().unwrap().len()).sum()
}

/// Some 100 MB in a second.
const FLOOD: &str = "while :; do head -c 100000 /dev/zero; done";

#[test]
fn what_prints_without_end_is_ended_with_all_that_it_started_and_parked() {
    for (how, body) in [
        ("itself", FLOOD.to_owned()),
        ("as errors", format!("exec >&2; {FLOOD}")),
        ("to both", format!("({FLOOD}) & exec >&2; {FLOOD}")),
        (
            "deaf, in a session of its own",
            format!("setsid sh -c \"trap '' TERM; {FLOOD}\" & wait"),
        ),
        (
            "beyond the end",
            "fallocate -n -l 50M /proc/self/fd/1 || exit 3; sleep 600".to_owned(),
        ),
        (
            "into a file that it has renamed",
            format!("cd \"$HARNESS_SESSION_DIR\"; mv stdout.log away.log; {FLOOD}"),
        ),
    ] {
        let root = root("output = \"5MB\"\n");
        root.script("x", &body);
        let out = root.drain();
        assert_eq!(out.status.code(), Some(1), "{how}: {}", describe(&out));
        let why = root.last_reason("x");
        assert!(why.contains("printed more than 5 MB"), "{how}: {why}");
        assert_eq!(root.show("x")["outcome"], "failed", "{how}");
        assert_eq!(session(&root, "x")["fault"], "limits_reached", "{how}");
        // Another try would print as much.
        assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 1);
        let printed = printed(&root);
        assert!(
            how == "beyond the end" || printed > 5_000_000 && printed < 2_000_000_000,
            "{how}: {printed}"
        );
        root.assert_nothing_left();
    }
}

#[test]
fn ten_gigabytes_of_output_end_the_agent_by_default() {
    let root = root("");
    // A hole, so that the test fills no disk.
    root.script("x", "truncate -s 10G /proc/self/fd/1; sleep 600");
    root.exits(1, &["run", "--drain", "--workers", "1"]);
    let why = root.last_reason("x");
    assert!(why.contains("printed more than 1 GB"), "{why}");
    root.assert_nothing_left();
}

#[test]
fn what_is_being_stopped_is_held_to_its_limits_meanwhile() {
    let mut root = root("output = \"5MB\"\n");
    root.env.push(("HARNESS_KILL_GRACE", "300".into()));
    let flood = "while :; do head -c 100000 /dev/zero; sleep 0.01; done";
    root.script(
        "told",
        &format!(
            "#harness timeout: 1\n#harness retries: 0\ntrap '{flood}' TERM; sleep 600 & wait; wait"
        ),
    );
    // What it left behind has two seconds.
    let flood = "while :; do head -c 5000000 /dev/zero; sleep 0.01; done";
    root.script(
        "left",
        &format!("(trap '{flood}' TERM; while :; do sleep 0.1; done) & sleep 0.5; exit 0"),
    );
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    let why = root.last_reason("told");
    assert!(why.starts_with("it ran longer than its timeout"), "{why}");
    assert!(why.contains("printed more than 5 MB"), "{why}");
    let why = root.last_reason("left");
    assert!(why.contains("printed more than 5 MB"), "{why}");
    root.assert_nothing_left();
}

#[test]
fn a_keeper_holds_its_agent_to_its_limits_while_no_harness_lives() {
    let root = root("output = \"5MB\"\n");
    root.script(
        "x",
        &format!(": >\"$HARNESS_ROOT/begun\"; until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.05; done; {FLOOD}"),
    );
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it has begun", || root.at("begun").exists());
    run.kill9();
    fs::write(root.at("go"), "").unwrap();
    root.wait_until("it is ended", || root.processes().is_empty());
    root.exits(1, &["run", "--drain", "--workers", "1"]);
    let why = root.last_reason("x");
    assert!(why.contains("printed more than 5 MB"), "{why}");
    assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 1);
    root.assert_nothing_left();
}

#[test]
fn a_worktree_that_grows_beyond_its_limit_ends_its_agent_and_stays() {
    let root = root("worktree = \"20MB\"\n");
    root.script(
        "x",
        "mkdir -p deep/er; head -c 30000000 /dev/urandom >deep/er/build; sleep 600",
    );
    // As large, but no room on this disk: a hole, and what lies elsewhere.
    root.script("y", "truncate -s 1G hole; ln -s / elsewhere; sleep 3");
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    let why = root.last_reason("x");
    assert!(why.contains("its worktree takes more than 20 MB"), "{why}");
    assert!(
        root.is_parked("x") && root.is_done("y"),
        "{}",
        root.picture()
    );
    let kept = files_below(&root.at("worktrees"));
    assert!(
        kept.iter().any(|p| p.ends_with("deep/er/build")),
        "{kept:?}"
    );
    root.assert_nothing_left();
}

#[test]
fn what_it_keeps_beside_its_worktree_counts_as_well() {
    let root = Root::with_repo();
    root.config("[repo]\npath = \"repo\"\n[limits]\nworktree = \"20MB\"\n");
    let big = |to: &str| format!("head -c 30000000 /dev/urandom >\"{to}\"; sleep 600");
    root.script("t", &big("$TMPDIR/big"));
    root.script("s", &big("$HARNESS_SESSION_DIR/big"));
    root.script(
        "r",
        "head -c 30000000 /dev/urandom | git hash-object -w --stdin >/dev/null; sleep 600",
    );
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    for name in ["t", "s", "r"] {
        let why = root.last_reason(name);
        assert!(
            why.contains("its worktree takes more than 20 MB"),
            "{name}: {why}"
        );
    }
    root.assert_nothing_left();
}

/// Runs this where a disk of 100 MB is mounted at `t`, in a ROOT of its own there.
fn on_a_small_disk(mount: &str, script: &str) -> String {
    let root = Root::plain();
    let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
    let script = format!(
        "h='{bin} --root {dir}/t'; mkdir {dir}/t; cd {dir}; {mount} || exit 9; cd {dir}/t
        $h init >/dev/null; printf '[sandbox]\\nmode=\"off\"\\n[repo]\\npath=\"none\"\\n[retry]\\nmax=0\\n[limits]\\ndisk_free_min=\"60MB\"\\n' > harness.toml
        add() {{ cat >.x; chmod 755 .x; mv .x queue/pending/$1; }}
        {script}"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env_remove("HARNESS_ROOT");
    words(&run_to_end(command))
}

const TMPFS: &str = "mount -t tmpfs -o size=100m none t";

#[test]
fn what_is_written_to_no_disk_is_no_reason() {
    if !has_mounts() {
        return;
    }
    let said = on_a_small_disk(
        TMPFS,
        "printf '#!/bin/sh\ntimeout 2 sh -c \"dd if=/dev/zero bs=1M | cat >/dev/null\"; timeout 1 dd if=/dev/zero of=/dev/null bs=1M; exit 0\n' | add x
        $h run --drain --workers 1; ls queue/done",
    );
    assert!(said.contains("1 done") && !said.contains("disk"), "{said}");
}

#[test]
fn what_daemons_write_and_what_goes_through_a_memory_map_is_seen() {
    if !has_mounts() {
        return;
    }
    let full = "stopped before the disk was full";
    // Each has ended before anybody looks.
    let said = on_a_small_disk(
        TMPFS,
        "printf '#!/bin/sh\nwhile :; do (setsid sh -c \"head -c 300000 /dev/zero >>fill\" &); sleep 0.02; done\n' | add x
        $h run --drain --workers 1; $h show x",
    );
    assert!(said.contains(full), "{said}");
    let python = "#!/usr/bin/env python3\\nimport mmap, os, time\\nn = 90 << 20\\nf = open(\"m\", \"wb+\")\\nos.ftruncate(f.fileno(), n)\\nm = mmap.mmap(f.fileno(), n)\\nfor at in range(0, n, 4096):\\n  m[at] = 1\\n  if at & 0x7ffff == 0: time.sleep(0.04)\\ntime.sleep(60)\\n";
    let said = on_a_small_disk(
        "truncate -s 100M disk; mkfs.ext4 -q -m 0 disk && mount -o loop disk t",
        &format!("printf '{python}' | add x\n$h run --drain --workers 1; $h show x"),
    );
    match said.contains("mount") || said.contains("mkfs") {
        true => skipped("writing through a memory map: no disk can be made here"),
        false => assert!(said.contains(full), "{said}"),
    }
}

#[test]
fn what_the_disk_cannot_take_waits_until_there_is_room() {
    if !has_mounts() {
        return;
    }
    let said = on_a_small_disk(
        TMPFS,
        "mkdir repo; git init -q repo; git -C repo -c user.name=a -c user.email=a@b commit -q --allow-empty -m base
        sed -i 's,\"none\",\"repo\",; s,60MB,0MB,' harness.toml
        printf '#!/bin/sh\nhead -c 60000000 /dev/urandom >big\nexit 0\n' | add x
        $h run --drain --workers 1 2>said >&2 & p=$!
        until grep -q 'cannot keep the uncommitted changes' said; do sleep 0.1; done
        until $h status | grep -q 'they take 60 MB, and'; do sleep 0.1; done
        echo FREE $(df --output=avail -B1000000 . | tail -1)
        : >worktrees/agent-1/big; wait $p; echo CODE $?; $h show x; git -C repo branch --list 'harness/*'",
    );
    let free = said.lines().find_map(|l| l.strip_prefix("FREE "));
    let free: u64 = free.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    assert!(free > 25, "{said}");
    assert!(
        said.contains("CODE 0") && said.contains("harness/x/1"),
        "{said}"
    );
}

#[test]
fn whoever_writes_is_ended_before_the_disk_is_full() {
    if !has_mounts() {
        return;
    }
    let root = Root::plain();
    let (bin, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
    let script = format!(
        "h='{bin} --root {dir}/t'; mkdir {dir}/t; mount -t tmpfs -o size=100m none {dir}/t; cd {dir}/t
        $h init >/dev/null; printf '[sandbox]\\nmode=\"off\"\\n[repo]\\npath=\"none\"\\n[retry]\\nmax=0\\n[limits]\\ndisk_free_min=\"60MB\"\\n' > harness.toml
        printf '#!/bin/sh\\n: >$HARNESS_ROOT/idle; until [ -e $HARNESS_ROOT/go ]; do sleep 0.1; done\\n' > queue/pending/idle
        printf '#!/bin/sh\\nuntil [ -e $HARNESS_ROOT/idle ]; do sleep 0.1; done; while sleep 0.02; do head -c 300000 /dev/zero; done >>$HARNESS_ROOT/fill\\n' > queue/pending/writes
        chmod 755 queue/pending/*
        $h run --workers 2 2>{dir}/said >&2 & p=$!
        until [ -e queue/parked/writes ]; do sleep 0.1; done
        echo LEFT $(( $(stat -c %s fill) < 99000000 )); ls queue/claimed/*/; rm fill; : >go
        until [ -e queue/done/idle ]; do sleep 0.1; done
        kill -TERM $p; wait $p; $h show writes"
    );
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &script])
        .env_remove("HARNESS_ROOT");
    let said = words(&run_to_end(command));
    assert!(said.contains("LEFT 1") && said.contains("idle\n"), "{said}");
    assert!(said.contains("stopped before the disk was full"), "{said}");
}

/// Has 600 MB, and keeps it.
const HOG: &str = "(head -c 600000000 /dev/zero; while printf x; do sleep 0.1; done)";

#[test]
fn a_tool_that_eats_the_memory_is_ended_and_its_agent_goes_on() {
    for confined in [false, true] {
        let root = root("memory = \"200MB\"\n");
        if confined {
            root.config_confined("[repo]\npath = \"none\"\n[limits]\nmemory = \"200MB\"\n");
        }
        root.script(
            "x",
            &format!("{HOG} | tail >/dev/null\necho goes on >went-on; exit 0"),
        );
        let out = root.drain();
        assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
        let why = root.last_reason("x");
        assert!(why.starts_with("finished; memory: "), "{why}");
        assert!(why.ends_with(" of 200 MB; ended: tail"), "{why}");
        let notes = session(&root, "x")["notes"].to_string();
        assert!(notes.contains("of 200 MB; ended: tail"), "{notes}");
        root.assert_nothing_left();
    }
}

#[test]
fn an_agent_that_eats_the_memory_by_itself_is_ended_and_tried_again() {
    let root = root("memory = \"200MB\"\n");
    root.script(
        "x",
        &format!("#harness retries: 1\nmkfifo f$$; {HOG} >f$$ & exec tail f$$"),
    );
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    let why = root.last_reason("x");
    assert!(
        why.contains(" of 200 MB by itself, so it was ended"),
        "{why}"
    );
    assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 2);
    root.assert_nothing_left();
}

#[test]
fn a_tool_that_starts_too_many_processes_is_ended_and_its_agent_goes_on() {
    let root = root("processes = 40\n");
    root.script(
        "x",
        "sh -c 'for n in $(seq 100); do sleep 60 & done; wait'\nsleep 0.1; echo goes on >went-on; exit 0",
    );
    // It doubles, ten times at most: where nobody ended it, the machine lives on.
    root.script(
        "y",
        "cat >bomb <<'E'\nsleep 0.2; [ $1 -gt 9 ] || { sh bomb $(($1 + 1)) & sh bomb $(($1 + 1)) & }\nE\nsh bomb 0 & wait; sleep 3; exit 0",
    );
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    for name in ["x", "y"] {
        let why = root.last_reason(name);
        assert!(
            why.contains("processes: ") && why.contains(" of 40; ended: sh"),
            "{name}: {why}"
        );
    }
    root.assert_nothing_left();
}

#[test]
fn a_gate_whose_tool_was_ended_says_nothing_of_the_work() {
    let root = Root::with_repo();
    root.config(&format!(
        "[repo]\npath = \"repo\"\n[limits]\nmemory = \"200MB\"\n[gates.g]\nscript = \"{HOG} | tail >/dev/null; exit 1\"\n"
    ));
    root.script("x", "echo work >work; git add work; git commit -qm work");
    root.drain();
    let why = root.last_reason("x");
    assert!(root.is_parked("x"), "{why}");
    assert!(why.contains("of 200 MB; ended: tail"), "{why}");
    root.assert_nothing_left();
}

/// What the kernel says of a process.
fn of_process(pid: u32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

#[test]
fn agents_stand_back_and_are_ended_before_harness() {
    let root = root("nice = 7\ncpu = 1\n");
    root.script(
        "x",
        "sh -c 'echo $(nice) $(cat /proc/self/oom_score_adj) $(nproc)' >\"$HARNESS_ROOT/says.tmp\"
        mv \"$HARNESS_ROOT/says.tmp\" \"$HARNESS_ROOT/says\"; until [ -e \"$HARNESS_ROOT/go\" ]; do sleep 0.05; done",
    );
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("it says", || root.at("says").exists());
    let says = fs::read_to_string(root.at("says")).unwrap();
    let says: Vec<i32> = says
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    let score = |pid| {
        of_process(pid, "oom_score_adj")
            .trim()
            .parse::<i32>()
            .unwrap()
    };
    let own = Command::new("nice").output().unwrap();
    let own: i32 = String::from_utf8_lossy(&own.stdout).trim().parse().unwrap();
    assert_eq!(says[0], (own + 7).min(19));
    assert_eq!(score(root.keeper("agent-1")), score(run.pid()));
    assert_eq!(says[1], (score(run.pid()) + 300).min(1_000));
    match std::thread::available_parallelism().unwrap().get() {
        1 => skipped("fewer cores than there are: there is one"),
        _ => assert_eq!(says[2], 1),
    }
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    root.assert_nothing_left();
}
