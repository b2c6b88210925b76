//! `harness wait`: until items have ended, their outcome as the exit code.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Root, describe, kill};

/// Starts a wait with pipes; ends it when the test fails.
struct Waiting(Child);

impl Waiting {
    fn start(root: &Root, args: &[&str]) -> Waiting {
        let mut command = root.command();
        command.arg("wait").args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Waiting(command.spawn().unwrap())
    }

    fn end(&mut self, root: &Root) -> Output {
        let mut status = None;
        root.wait_until("the wait ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        let mut out = Output {
            status: status.unwrap(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        if let Some(mut said) = self.0.stdout.take() {
            said.read_to_end(&mut out.stdout).unwrap();
        }
        if let Some(mut said) = self.0.stderr.take() {
            said.read_to_end(&mut out.stderr).unwrap();
        }
        out
    }

    fn waits(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A script that ends with `code` when `go-NAME` exists.
fn gated(root: &Root, name: &str, code: u32) {
    let body = format!(
        "#harness retries: 0\nn=0; while [ ! -e \"$HARNESS_ROOT/go-{name}\" ] && [ $n -lt 1200 ]; \
         do sleep 0.05; n=$((n+1)); done; echo x > made-{name}; exit {code}"
    );
    root.script(name, &body);
}

fn go(root: &Root, name: &str) {
    fs::write(root.at(format!("go-{name}")), "").unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_wait_ends_with_its_items_and_tells_how_they_ended() {
    let root = Root::with_repo();
    for (name, code) in [("a", 0), ("b", 3), ("c d", 0)] {
        gated(&root, name, code);
    }
    let run = root.start(&["--workers", "3"]);
    let mut good = Waiting::start(&root, &["a", "c d", "a"]);
    let mut all = Waiting::start(&root, &["a", "b", "c d", "--json"]);
    let mut lines = BufReader::new(good.0.stdout.take().unwrap()).lines();
    go(&root, "a");
    // Each is told when it ends, not when all have.
    assert_eq!(lines.next().unwrap().unwrap(), "a succeeded harness/a/1");
    assert!(good.waits() && all.waits());
    go(&root, "b");
    go(&root, "c d");
    assert_eq!(
        lines.next().unwrap().unwrap(),
        "c d succeeded harness/c%20d/1"
    );
    assert!(lines.next().is_none());
    root.wait_until("the wait ends", || !good.waits());
    assert_eq!(good.0.wait().unwrap().code(), Some(0));
    let out = all.end(&root);
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    let mut ended: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    ended.sort_by_key(|e| e["item"].to_string());
    assert_eq!(ended.len(), 3);
    let b = &ended[1];
    assert_eq!(
        (&b["item"], &b["state"], &b["outcome"]),
        (&json!("b"), &json!("parked"), &json!("failed"))
    );
    assert_eq!(
        (&b["reason"], &b["branch"]),
        (&json!("exit status 3"), &Value::Null)
    );
    assert_eq!(ended[0]["branch"], "harness/a/1");
    assert!(ended[0]["session"].is_string() && ended[0]["attempt"] == 1);
    // What has ended is told at once.
    let out = root.harness(&["wait", "b", "a"]);
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(1), "b failed\na succeeded harness/a/1\n")
    );
    drop(run);
}

#[test]
fn any_ends_with_the_first_and_prints_its_name() {
    let root = Root::plain();
    gated(&root, "slow", 0);
    gated(&root, "bad", 7);
    let run = root.start(&["--workers", "2"]);
    let mut any = Waiting::start(&root, &["--any", "slow", "bad"]);
    go(&root, "bad");
    let out = any.end(&root);
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(1), "bad\n"),
        "{}",
        describe(&out)
    );
    let out = root.harness(&["wait", "--any", "slow", "bad", "--json"]);
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (all[0]["item"].as_str(), all.as_array().unwrap().len()),
        (Some("bad"), 1)
    );
    go(&root, "slow");
    drop(run);
}

#[test]
fn a_wait_goes_on_over_retries_and_over_a_name_that_is_dropped_again() {
    let root = Root::plain();
    root.script("x", "[ $HARNESS_ATTEMPT -gt 2 ]");
    let run = root.start(&["--workers", "1"]);
    let out = root.harness(&["wait", "x"]);
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(0), "x succeeded\n"),
        "{}",
        describe(&out)
    );
    assert_eq!(root.show("x")["attempts"].as_array().unwrap().len(), 3);
    drop(run);
    // A done item that is sent back has not ended, nor has one whose name was dropped again.
    root.ok(&["retry", "x"]);
    let mut again = Waiting::start(&root, &["x"]);
    root.script("y", "exit 1");
    fs::rename(root.at("queue/pending/y"), root.at("queue/done/y")).unwrap();
    root.script("y", "exit 1");
    let mut twice = Waiting::start(&root, &["y", "--timeout", "100"]);
    root.exits(124, &["wait", "x", "y", "--timeout", "0.3"]);
    assert!(again.waits() && twice.waits());
    root.drain();
    assert_eq!(again.end(&root).status.code(), Some(0));
    let out = twice.end(&root);
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(1), "y failed\n"),
        "{}",
        describe(&out)
    );
}

#[test]
fn a_wait_says_once_that_nobody_works_and_its_timeout_is_told_apart() {
    let root = Root::plain();
    for n in 0..7 {
        root.script(format!("item-{n}"), "true");
    }
    let names: Vec<String> = (0..7).map(|n| format!("item-{n}")).collect();
    let mut args: Vec<&str> = names.iter().map(String::as_str).collect();
    args.extend(["--timeout", "2.5s"]);
    let before = Instant::now();
    let mut out = Waiting::start(&root, &args);
    let out = out.end(&root);
    assert_eq!(out.status.code(), Some(124), "{}", describe(&out));
    assert!(before.elapsed() >= Duration::from_millis(2500));
    let said = text(&out.stderr);
    assert_eq!(said.matches("no harness is running").count(), 1, "{said}");
    assert!(
        said.contains("7 items have not ended: item-0") && said.contains("and 2 more"),
        "{said}"
    );
    args.extend(["--json"]);
    args[8] = "0";
    let out = root.harness(&[&["wait"], &args[..]].concat());
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(124));
    assert_eq!(
        all[6],
        json!({"item": "item-6", "state": "pending", "outcome": null, "reason": null, "branch": null,
            "attempt": null, "session": null})
    );
    // A harness that comes later is as good.
    let mut wait = Waiting::start(&root, &args[..7]);
    root.drain();
    let out = wait.end(&root);
    assert_eq!(
        (out.status.code(), text(&out.stdout).lines().count()),
        (Some(0), 7),
        "{}",
        describe(&out)
    );
}

#[test]
fn a_name_that_no_item_has_ends_the_wait_at_once_with_the_nearest() {
    let root = Root::plain();
    root.script("fix-login.sh", "true");
    let added = root.ok(&["add", "--prompt", "Tidy up"]);
    let named = format!("the nearest is {}", added.trim());
    for (args, word) in [
        (&["wait", "tidy-up"][..], &*named),
        (
            &["wait", "fix-login.sh", "fix-logn.sh"],
            "the nearest is fix-login.sh",
        ),
        (&["wait", "fix-login"], "the nearest is fix-login.sh"),
        (&["show", "fix-login"], "the nearest is fix-login.sh"),
        (
            &["wait", "queue/pending/fix-login.sh"],
            "give the name alone",
        ),
    ] {
        let out = root.harness(args);
        let code = if word.contains("alone") { 2 } else { 100 };
        assert_eq!(
            out.status.code(),
            Some(code),
            "{args:?}: {}",
            describe(&out)
        );
        let said = text(&out.stderr);
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert_eq!(root.harness(&["wait"]).status.code(), Some(2));
    assert_eq!(
        root.harness(&["wait", "x", "--timeout", "soon"])
            .status
            .code(),
        Some(2)
    );
    // One that is removed meanwhile is no endless wait.
    let mut wait = Waiting::start(&root, &["fix-login.sh"]);
    root.wait_until("it waits", || wait.waits());
    fs::remove_file(root.at("queue/pending/fix-login.sh")).unwrap();
    let out = wait.end(&root);
    assert!(
        matches!(out.status.code(), Some(1 | 100)),
        "{}",
        describe(&out)
    );
}

#[test]
fn a_canceled_item_ends_the_wait_when_its_agent_is_gone() {
    let root = Root::plain();
    root.script(
        "x",
        "trap '' TERM; echo $$ > \"$HARNESS_ROOT/pid\"; while :; do sleep 0.05; done",
    );
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it runs", || {
        fs::read_to_string(root.at("pid")).is_ok_and(|p| p.ends_with('\n'))
    });
    let mut wait = Waiting::start(&root, &["x"]);
    fs::rename(
        root.at("queue/claimed/agent-1/x"),
        root.at("queue/parked/x"),
    )
    .unwrap();
    let out = wait.end(&root);
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(1), "x canceled\n"),
        "{}",
        describe(&out)
    );
    let pid = fs::read_to_string(root.at("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(!crate::support::is_alive(pid));
    drop(run);
}

#[test]
fn a_signal_or_a_reader_that_goes_away_ends_a_wait() {
    use std::os::unix::process::ExitStatusExt;
    let root = Root::plain();
    root.script("x", "true");
    for (signal, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let mut wait = Waiting::start(&root, &["x"]);
        let mut said = BufReader::new(wait.0.stderr.as_mut().unwrap());
        said.read_line(&mut String::new()).unwrap();
        kill(wait.0.id(), signal);
        // A shell sees that, and does not go on.
        assert_eq!(wait.end(&root).status.signal(), Some(number));
    }
    let mut wait = Waiting::start(&root, &["x"]);
    drop(wait.0.stdout.take());
    assert_eq!(wait.end(&root).status.code(), Some(141));
}

#[test]
fn a_wait_over_thousands_of_names_costs_little_while_nothing_happens() {
    let root = Root::plain();
    let names: Vec<String> = (0..3000).map(|n| format!("item-{n:04}")).collect();
    for name in &names {
        root.script(name, "true");
    }
    let mut args: Vec<&str> = names.iter().map(String::as_str).collect();
    args.extend(["--timeout", "6"]);
    let mut wait = Waiting::start(&root, &args);
    let stat = format!("/proc/{}/stat", wait.0.id());
    let mut ticks = 0;
    while wait.waits() {
        let text = fs::read_to_string(&stat).unwrap_or_default();
        let fields: Vec<&str> = text
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let spent = |n: usize| {
            fields
                .get(n)
                .and_then(|f| f.parse::<u64>().ok())
                .unwrap_or(0)
        };
        ticks = ticks.max(spent(11) + spent(12));
        std::thread::park_timeout(Duration::from_millis(20));
    }
    // Of some 600 hundredths of a second.
    assert!(ticks < 60, "{ticks} ticks of processor time");
}

#[test]
fn a_wait_says_once_what_holds_an_item_up_and_takes_any_name() {
    let root = Root::plain();
    root.script(
        "frozen",
        "echo which one > \"$HARNESS_INTERRUPT\"; while :; do sleep 0.05; done",
    );
    root.script("blocked", "#harness after: nope\ntrue");
    let run = root.start(&["--workers", "1"]);
    let mut wait = Waiting::start(&root, &["frozen", "blocked", "--timeout", "11"]);
    let out = wait.end(&root);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(124), "{}", describe(&out));
    for words in ["blocked is blocked: waits for nope", "frozen is claimed: "] {
        assert_eq!(said.matches(words).count(), 1, "{words}: {said}");
    }
    assert!(said.contains("which one"), "{said}");
    drop(run);
    let root = Root::plain();
    let names: [&[u8]; 4] = [b"-x", b"a\nb", b"\xff", b"$(x) 'y'"];
    let names = names.map(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes);
    for name in names {
        root.script(name, "true");
    }
    root.drain();
    let mut command = root.command();
    command.args(["wait", "--"]).args(names);
    let out = command.output().unwrap();
    let lines = "-x succeeded\na\\nb succeeded\n\\xff succeeded\n$(x) 'y' succeeded\n";
    assert_eq!(
        (out.status.code(), &*text(&out.stdout)),
        (Some(0), lines),
        "{}",
        describe(&out)
    );
}
