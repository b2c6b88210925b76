//! Hooks: each is told the facts at its moment, stops nothing whatever it does, and is never what an
//! agent put there.

mod trust;
mod waited;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Root, describe, files_below, git, is_alive};

/// Writes an executable.
fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn hook(root: &Root, name: &str, body: &str) {
    put(
        &root.at("hooks").join(name),
        &format!("#!/bin/sh\n{body}\n"),
    );
}

/// A hook that notes that it ran, in `ran-NAME` of ROOT.
fn notes(root: &Root, name: &str) {
    let line = format!("echo \"$HARNESS_ITEM $HARNESS_SESSION\" >>\"$HARNESS_ROOT/ran-{name}\"");
    hook(root, name, &line);
}

fn ran(root: &Root, name: &str) -> Vec<String> {
    let text = fs::read_to_string(root.at(format!("ran-{name}"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The end of a line that waits for the file `name` in ROOT.
fn until(name: &str) -> String {
    format!("until [ -e \"$HARNESS_ROOT/{name}\" ]; do sleep 0.02; done")
}

fn session(root: &Root, item: &str) -> PathBuf {
    let show = root.show(item);
    let attempts = show["attempts"].as_array().unwrap();
    let sid = attempts.last().unwrap()["session"].as_str().unwrap();
    root.at("state/sessions").join(sid)
}

fn said(out: &std::process::Output) -> String {
    describe(out)
}

const BESIDE: [&str; 6] = [
    "item-claimed",
    "after-end",
    "parked",
    "interrupt",
    "landed",
    "idle",
];

#[test]
fn each_hook_is_told_the_facts_at_its_moment_in_two_forms() {
    let root = Root::with_repo();
    root.config("[repo]\npath = \"repo\"\n[integrate]\nmode = \"merge\"\n");
    for name in BESIDE {
        hook(
            &root,
            name,
            "to=\"$HARNESS_ROOT/told-$HARNESS_EVENT-$HARNESS_ITEM\"; cat >\"$to.json.new\"\n\
             { pwd; env | grep ^HARNESS_ | sort; } >\"$to.env.new\"\n\
             mv \"$to.json.new\" \"$to.json\"; mv \"$to.env.new\" \"$to.env\"",
        );
    }
    root.script("good", "echo 1 >a; git add a; git commit -qm a");
    root.drop_file(
        "bad",
        b"#!/bin/sh\n#harness retries: 0\necho no >&2; exit 3\n",
        0o755,
    );
    root.drop_file("none", b"", 0o644);
    root.exits(1, &["run", "--drain", "--workers", "2"]);
    let told = |event: &str, item: &str| -> (Value, String) {
        let read = |end: &str| {
            let path = root.at(format!("told-{event}-{item}.{end}"));
            fs::read_to_string(&path)
                .unwrap_or_else(|e| panic!("{path:?}: {e}\n{}", root.picture()))
        };
        (serde_json::from_str(&read("json")).unwrap(), read("env"))
    };
    let top = fs::canonicalize(root.path()).unwrap();
    for (event, item, want) in [
        (
            "item-claimed",
            "good",
            r#"{"state":"claimed","attempt":1,"outcome":null}"#,
        ),
        (
            "after-end",
            "good",
            r#"{"state":"merge","outcome":"succeeded","attempt":1,"commits":1,"exit_status":0,"agent":"script","base":"main","branch":"harness/good/1","repo":"default"}"#,
        ),
        (
            "landed",
            "good",
            r#"{"state":"done","outcome":"succeeded","into":"main","batch":["good"],"agent":"script","branch":"harness/good/1"}"#,
        ),
        (
            "after-end",
            "bad",
            r#"{"state":"parked","outcome":"failed","reason":"exit status 3: no","exit_status":3}"#,
        ),
        (
            "parked",
            "bad",
            r#"{"state":"parked","outcome":"failed","exit_status":3}"#,
        ),
        (
            "parked",
            "none",
            r#"{"state":"parked","outcome":"refused","session":null}"#,
        ),
        (
            "idle",
            "",
            r#"{"item":null,"reason":"nothing is left to do"}"#,
        ),
    ] {
        let (json, env) = told(event, item);
        let want: Value = serde_json::from_str(want).unwrap();
        for (key, value) in want.as_object().unwrap() {
            assert_eq!(&json[key], value, "{event} {item}: {key} of {json:#}");
        }
        assert_eq!(json["event"], event);
        assert_eq!(json["root"], top.to_str().unwrap());
        // The same in its environment, whatever is known.
        let mut lines = env.lines();
        assert_eq!(lines.next(), top.to_str(), "{event} runs in ROOT");
        for (key, value) in json.as_object().unwrap() {
            let text = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                Value::Array(_) => continue,
                plain => plain.to_string(),
            };
            let line = format!("HARNESS_{}={text}", key.to_uppercase());
            assert!(
                env.lines().any(|l| l == line),
                "{event} {item}: {line} in\n{env}"
            );
        }
        if item == "good" && event != "item-claimed" {
            let session = json["session"].as_str().unwrap();
            assert!(json["session_dir"].as_str().unwrap().ends_with(session));
            for key in ["claimed_at", "started_at", "ended_at", "commit", "base_oid"] {
                assert!(json[key].is_string(), "{event}: {key} of {json:#}");
            }
            assert!(json["seconds"].is_number() && json["worktree"].is_string());
        }
    }
    let landed = told("landed", "good").0;
    let tip = git(&root.repo(), &["rev-parse", "main"]);
    assert_eq!(landed["commit"], tip.trim());
    // Each has a log, and nothing went wrong.
    for (name, item) in [("after-end", "good"), ("landed", "good"), ("parked", "bad")] {
        let log = session(&root, item)
            .join("hooks")
            .join(format!("{name}.log"));
        assert!(log.exists(), "{log:?}\n{}", root.picture());
    }
    assert!(!root.events("good").contains(&"hook".to_owned()));
    root.assert_nothing_left();
}

#[test]
fn an_interrupt_is_told_to_its_hook_and_one_that_a_hook_raises_is_no_agents_question() {
    let root = Root::plain();
    hook(
        &root,
        "interrupt",
        "cat >\"$HARNESS_ROOT/told.new\"; mv \"$HARNESS_ROOT/told.new\" \"$HARNESS_ROOT/told\"",
    );
    let harness = env!("CARGO_BIN_EXE_harness");
    hook(
        &root,
        "item-claimed",
        &format!(
            "{harness} interrupt \"$HARNESS_SLOT\" 'look first'; touch \"$HARNESS_ROOT/raised\""
        ),
    );
    root.script("x", &until("raised"));
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it is told", || root.at("told").exists());
    let told: Value = serde_json::from_slice(&fs::read(root.at("told")).unwrap()).unwrap();
    assert_eq!(told["reason"], "look first");
    assert_eq!(told["slot"], "agent-1");
    assert!(
        told["what_to_do"]
            .as_str()
            .unwrap()
            .contains("resume agent-1")
    );
    fs::remove_file(root.at("hooks/item-claimed")).unwrap();
    root.ok(&["resume"]);
    root.wait_until("it is done", || root.is_done("x"));
    assert_eq!(root.show("x")["outcome"], "succeeded", "{}", root.picture());
    run.signal("INT");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
}

#[test]
fn a_hook_that_goes_wrong_is_said_once_with_its_cause_and_changes_nothing() {
    let root = Root::plain();
    hook(
        &root,
        "after-end",
        "echo fine; echo 'error: no such host' >&2; exit 3",
    );
    for n in 0..3 {
        root.script(format!("x{n}"), ":");
    }
    let out = root.drain();
    let text = said(&out);
    let warned: Vec<&str> = text
        .lines()
        .filter(|l| l.contains("hooks/after-end"))
        .collect();
    let why = "hooks/after-end: it ended with exit status: 3: error: no such host";
    assert!(warned.iter().all(|l| l.contains(why)), "{text}");
    assert!((1..=2).contains(&warned.len()), "counted: {text}");
    assert_eq!(out.status.code(), Some(0));
    for n in 0..3 {
        let item = format!("x{n}");
        assert!(root.is_done(&item));
        let log = session(&root, &item).join("hooks/after-end.log");
        assert_eq!(
            fs::read_to_string(log).unwrap(),
            "fine\nerror: no such host\n"
        );
        assert!(root.events(&item).contains(&"hook".to_owned()));
        let story = root.ok(&["show", &item]);
        assert!(
            story.contains("hooks/after-end did not go well: it ended with"),
            "{story}"
        );
    }
}

#[test]
fn whatever_a_hook_does_nobody_waits_longer_than_its_time() {
    let root = Root::plain();
    root.config("hook_timeout = 3\n[repo]\npath = \"none\"\n");
    hook(
        &root,
        "after-end",
        "case $HARNESS_ITEM in\n\
         hangs) echo $$ >\"$HARNESS_ROOT/pid\"; exec sleep 600;;\n\
         forks) setsid sleep 600 & echo $! >\"$HARNESS_ROOT/forked\";;\n\
         closes) exec <&- >&- 2>&-; cat 2>/dev/null;;\n\
         floods) head -c 300000000 /dev/zero; sleep 0.3; stat -Lc %s /proc/self/fd/2 >\"$HARNESS_ROOT/flooded\";;\n\
         goes) rm \"$HARNESS_ROOT/hooks/after-end\"; touch \"$HARNESS_ROOT/gone\";;\n\
         ignores) trap '' TERM INT HUP; while :; do sleep 1; done;;\n\
         esac",
    );
    let kinds = ["hangs", "forks", "closes", "floods", "ignores"];
    for name in kinds {
        root.script(name, ":");
    }
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let text = said(&out);
    assert!(kinds.iter().all(|name| root.is_done(name)));
    let killed = "it was still running after 3s and was killed (`hook_timeout` in [harness])";
    assert!(text.contains(killed), "{text}");
    let pid = |name: &str| {
        fs::read_to_string(root.at(name))
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    assert!(!is_alive(pid("pid")));
    // What it left in the background is its user's.
    let forked: u32 = pid("forked");
    assert!(is_alive(forked));
    crate::support::kill(forked, "KILL");
    let size = |name: &str| {
        let log = session(&root, name).join("hooks/after-end.log");
        log.metadata().unwrap().len()
    };
    assert!(size("floods") <= 1 << 20);
    // Not while it ran either: it may print for as long as it likes.
    let flooded: u64 = pid("flooded").into();
    assert!(flooded <= 1 << 20, "{flooded}");
    assert_eq!(size("hangs"), 0);
    root.script("goes", ":");
    root.script("after", ":");
    root.drain();
    assert!(root.at("gone").exists() && root.is_done("after"));
}

#[test]
fn a_process_ends_no_sooner_than_its_hooks_and_a_stop_waits_no_longer_than_for_an_agent() {
    let root = Root::plain();
    hook(
        &root,
        "after-end",
        &format!("{}; touch \"$HARNESS_ROOT/over\"", until("go")),
    );
    root.script("x", ":");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("it says what it waits for", || {
        run.said()
            .contains("the end waits for what still runs: hooks/after-end")
    });
    assert!(root.is_done("x"));
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.wait(), Some(0));
    assert!(root.at("over").exists());
    // The second never ends: `kill_grace` is 2 s here.
    fs::remove_file(root.at("go")).unwrap();
    root.script("y", ":");
    let mut run = root.start(&["--drain", "--workers", "1"]);
    root.wait_until("it is done", || root.is_done("y"));
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert!(
        run.said().contains("was still running after"),
        "{}",
        run.said()
    );
    root.assert_nothing_left();
}

#[test]
fn a_hook_outlives_its_harness_and_an_end_that_nobody_told_is_told_by_the_next() {
    let root = Root::with_repo();
    root.config("[repo]\npath = \"repo\"\n[integrate]\nmode = \"merge\"\n");
    for name in ["after-end", "landed"] {
        let body = format!(
            "touch \"$HARNESS_ROOT/began-{name}\"; {}; echo \"$HARNESS_ITEM\" >>\"$HARNESS_ROOT/ran-{name}\"",
            until("go")
        );
        hook(&root, name, &body);
    }
    root.script("x", "echo 1 >a");
    let run = root.start(&["--workers", "1"]);
    root.wait_until("both run", || {
        root.at("began-after-end").exists() && root.at("began-landed").exists()
    });
    root.wait_until("it is done, its claim given up", || {
        root.is_done("x") && !root.at("state/claims/x").exists()
    });
    run.kill9();
    fs::write(root.at("go"), "").unwrap();
    root.wait_until("both have ended by themselves", || {
        !ran(&root, "after-end").is_empty() && !ran(&root, "landed").is_empty()
    });
    // As if that harness had died right before it told anybody: the claim's link is left.
    let again = |hooks: &[&str]| {
        let folder = session(&root, "x").join("hooks");
        for name in hooks {
            fs::remove_file(folder.join(format!("{name}.log"))).unwrap();
        }
        let marker = root.at("state/agents/agent-1/marker");
        fs::hard_link(marker, root.at("state/claims/x")).unwrap();
        root.drain();
        assert!(!root.at("state/claims/x").exists());
        [ran(&root, "after-end").len(), ran(&root, "landed").len()]
    };
    assert_eq!(again(&[]), [1, 1], "{}", root.picture());
    assert_eq!(again(&["landed"]), [1, 2], "{}", root.picture());
    assert_eq!(again(&[]), [1, 2]);
}

#[test]
fn the_end_of_an_attempt_that_nobody_told_is_told_with_where_its_item_is() {
    let root = Root::plain();
    root.drop_file("x", b"#!/bin/sh\n#harness retries: 0\nexit 1\n", 0o755);
    // By the first slot: its marker is linked below.
    root.harness(&["run", "--drain", "--workers", "1"]);
    assert!(root.is_parked("x"));
    for name in ["after-end", "parked"] {
        hook(&root, name, &format!("cat >\"$HARNESS_ROOT/told-{name}\""));
    }
    let marker = root.at("state/agents/agent-1/marker");
    fs::hard_link(marker, root.at("state/claims/x")).unwrap();
    root.drain();
    for name in ["after-end", "parked"] {
        let told = fs::read(root.at(format!("told-{name}"))).unwrap_or_default();
        let told: Value = serde_json::from_slice(&told)
            .unwrap_or_else(|e| panic!("{name}: {e}\n{}", root.picture()));
        assert_eq!(told["state"], "parked");
        assert_eq!(told["outcome"], "failed");
        assert_eq!(told["exit_status"], 1);
    }
}

#[test]
fn idle_is_told_once_when_something_was_done_and_what_it_adds_is_done_before_a_drain_ends() {
    let root = Root::plain();
    let harness = env!("CARGO_BIN_EXE_harness");
    hook(
        &root,
        "idle",
        &format!(
            "echo idle >>\"$HARNESS_ROOT/ran-idle\"\n\
             [ -e \"$HARNESS_ROOT/added\" ] || {{ touch \"$HARNESS_ROOT/added\"; printf '#!/bin/sh\\n' | {harness} add - --name more; }}"
        ),
    );
    // Nothing is done: nothing is told.
    root.drain();
    assert_eq!(ran(&root, "idle").len(), 0);
    root.script("x", ":");
    let out = root.drain();
    assert!(root.is_done("x") && root.is_done("more"), "{}", said(&out));
    assert_eq!(ran(&root, "idle").len(), 2, "{}", said(&out));
    // Without a drain, too.
    let mut run = root.start(&["--workers", "2"]);
    root.script("y", ":");
    root.wait_until("it is told", || ran(&root, "idle").len() == 3);
    root.script("z", ":");
    root.wait_until("it is told again", || ran(&root, "idle").len() == 4);
    run.signal("INT");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(ran(&root, "idle").len(), 4);
}

#[test]
fn an_agent_that_puts_links_where_a_hooks_output_goes_leads_it_nowhere() {
    let root = Root::plain();
    hook(&root, "after-end", "echo said");
    fs::create_dir(root.at("elsewhere")).unwrap();
    fs::write(root.at("elsewhere/after-end.log"), "precious\n").unwrap();
    let elsewhere = root.at("elsewhere");
    let elsewhere = elsewhere.display();
    root.script(
        "folder",
        &format!("ln -s {elsewhere} \"$HARNESS_SESSION_DIR/hooks\""),
    );
    root.script(
        "file",
        &format!(
            "mkdir \"$HARNESS_SESSION_DIR/hooks\"; ln -s {elsewhere}/after-end.log \"$HARNESS_SESSION_DIR/hooks/after-end.log\""
        ),
    );
    root.script(
        "fifo",
        "mkdir \"$HARNESS_SESSION_DIR/hooks\"; mkfifo \"$HARNESS_SESSION_DIR/hooks/after-end.log\"",
    );
    root.script("gone", "rm -r \"$HARNESS_SESSION_DIR\"");
    let out = root.drain();
    for name in ["folder", "file", "fifo"] {
        assert!(root.is_done(name), "{name}: {}", said(&out));
    }
    assert_eq!(files_below(&root.at("elsewhere")).len(), 1);
    let kept = fs::read_to_string(root.at("elsewhere/after-end.log")).unwrap();
    assert_eq!(kept, "precious\n");
    for name in ["file", "fifo"] {
        let log = session(&root, name).join("hooks/after-end.log");
        assert_eq!(fs::read_to_string(log).unwrap(), "said\n", "{name}");
    }
}

#[test]
fn more_hooks_than_may_run_at_once_wait_for_a_place_and_are_all_run() {
    let root = Root::plain();
    let body = format!(
        "echo >>\"$HARNESS_ROOT/ran-began\"; {}; echo >>\"$HARNESS_ROOT/ran-over\"",
        until("go")
    );
    hook(&root, "after-end", &body);
    for n in 0..40 {
        root.script(format!("x{n}"), ":");
    }
    let mut run = root.start(&["--drain", "--workers", "2"]);
    root.wait_until("as many run as may", || ran(&root, "began").len() == 32);
    root.wait_until("the next one waits", || {
        run.said().contains("as many hooks run as may at once")
    });
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(ran(&root, "over").len(), 40, "{}", run.said());
}

#[test]
fn four_processes_tell_each_end_once() {
    let root = Root::plain();
    notes(&root, "after-end");
    notes(&root, "item-claimed");
    for n in 0..40 {
        root.script(format!("x{n}"), ":");
    }
    let mut runs: Vec<_> = (0..4)
        .map(|_| root.start(&["--drain", "--workers", "2"]))
        .collect();
    for run in &mut runs {
        assert_eq!(run.wait(), Some(0), "{}", run.said());
    }
    for name in ["after-end", "item-claimed"] {
        let mut all = ran(&root, name);
        all.sort();
        assert_eq!(all.len(), 40, "{name}: {all:?}");
        all.dedup();
        assert_eq!(all.len(), 40, "{name}");
    }
    root.assert_nothing_left();
}
