//! `harness logs`: what an item printed, also as it comes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{DEADLINE, Root, describe, run_within, skipped};

/// A follower, ended when the test is over.
struct Following(Child);

impl Following {
    fn start(root: &Root, args: &[&str]) -> Following {
        let mut command = root.command();
        command.args(["logs", "-f"]).args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Following(command.spawn().unwrap())
    }

    /// Standard output and standard error of one that ends by itself.
    fn end(mut self) -> (String, String) {
        let end = Instant::now() + DEADLINE;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it follows for ever");
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut pipe) = self.0.stdout.take() {
            pipe.read_to_string(&mut out).unwrap();
        }
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        (out, err)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A claude of ours: says a word of the prompt, and something on standard error.
fn with_claude() -> Root {
    let root = Root::plain();
    let init = r#"{"type":"system","subtype":"init","session_id":"s","model":"m","tools":[]}"#;
    let said = r#"{"type":"assistant","message":{"id":"m1","role":"assistant","content":[{"type":"text","text":"I will look"}],"usage":{"input_tokens":1,"output_tokens":1}},"session_id":"s"}"#;
    let end = r#"{"type":"result","subtype":"success","is_error":false,"result":"all well","session_id":"s","num_turns":1,"total_cost_usd":0.1,"usage":{"input_tokens":1,"output_tokens":1}}"#;
    let agent = root.at("agent");
    let text = format!(
        "#!/bin/sh\ncat > /dev/null\necho a-warning >&2\necho '{init}'\necho '{said}'\necho '{end}'\n"
    );
    fs::write(&agent, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&agent, mode).unwrap();
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"none\"\n[agents.claude]\ncli = \"claude\"\ncommand = [\"{}\"]\n",
        agent.display()
    ));
    root
}

#[test]
fn logs_show_what_a_script_printed_as_it_was_for_each_attempt() {
    let root = Root::plain();
    root.script(
        "x",
        "printf 'out %s \\033[31m\\377\\r\\n' $HARNESS_ATTEMPT; echo err $HARNESS_ATTEMPT >&2; [ $HARNESS_ATTEMPT = 2 ]",
    );
    root.drain();
    let bytes = |args: &[&str]| {
        let out = root.harness(&[&["logs", "x"], args].concat());
        assert!(out.status.success(), "{}", describe(&out));
        out.stdout
    };
    assert_eq!(bytes(&[]), b"out 2 \x1b[31m\xff\r\nerr 2\n");
    assert_eq!(bytes(&["--attempt", "1"]), b"out 1 \x1b[31m\xff\r\nerr 1\n");
    assert_eq!(
        bytes(&["-f", "--attempt", "1"]),
        [bytes(&["--attempt", "1"]), bytes(&[])].concat()
    );
    let out = root.harness(&["logs", "x", "--attempt", "7"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.code() == Some(100) && said.contains("it had: 1, 2"),
        "{said}"
    );
    let out = root.harness(&["logs", "y"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.code() == Some(100) && said.contains("y is nowhere"),
        "{said}"
    );
}

#[test]
fn a_terminal_is_shown_what_a_script_wants_it_to_do() {
    let root = Root::plain();
    root.script(
        "x",
        "printf 'a\\033]52;c;eA==\\007b\\n'; printf 'c\\033[2Jd' >&2",
    );
    root.drain();
    let harness = env!("CARGO_BIN_EXE_harness");
    let line = format!("{harness} --root {} logs x", root.path().display());
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .env_remove("HARNESS_ROOT");
    if command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return skipped("no `script` to make a terminal");
    }
    let out = run_within(DEADLINE, command).unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let plain = text.replace("\x1b[33m", "").replace("\x1b[0m", "");
    assert!(
        !plain.contains('\x1b') && !plain.contains('\x07'),
        "{text:?}"
    );
    assert!(
        plain.contains("a\\u{1b}]52;c;eA==\\u{7}b") && plain.contains("c\\u{1b}[2Jd"),
        "{text:?}"
    );
}

#[test]
fn logs_show_what_an_agent_said_as_text_and_its_bytes_if_asked() {
    let root = with_claude();
    root.drop_file("p.md", b"do\n", 0o644);
    root.drain();
    let text = root.ok(&["logs", "p.md"]);
    let events = root.ok(&["session", "events"]);
    assert!(
        events.contains("I will look") && events.contains("all well"),
        "{events}"
    );
    assert_eq!(text, events + "a-warning\n");
    let raw = root.ok(&["logs", "p.md", "--raw"]);
    assert!(
        raw.starts_with("{\"type\":\"system\"") && raw.ends_with("a-warning\n"),
        "{raw}"
    );
    assert_eq!(raw.lines().count(), 4);
}

#[test]
fn logs_follow_an_item_over_its_retries_until_it_has_ended() {
    let mut root = Root::plain();
    root.env.push(("HARNESS_RETRY_DELAY", "1".into()));
    let body = "echo first line; echo trouble >&2\n\
        n=0; while [ ! -e \"$HARNESS_ROOT/go-$HARNESS_ATTEMPT\" ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done\n\
        echo last of $HARNESS_ATTEMPT; [ $HARNESS_ATTEMPT = 2 ]";
    root.script("x", body);
    let mut follow = Following::start(&root, &["x"]);
    let mut err = BufReader::new(follow.0.stderr.take().unwrap());
    let mut said = String::new();
    err.read_line(&mut said).unwrap();
    assert!(
        said.contains("x has printed nothing yet") && said.contains("none is running"),
        "{said}"
    );
    let run = root.start(&["--workers", "1"]);
    let mut lines = BufReader::new(follow.0.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(Result::unwrap);
    // It comes as it is printed, not when the attempt has ended.
    let mut first = [next().unwrap(), next().unwrap()];
    first.sort();
    assert_eq!(first, ["first line", "trouble"]);
    fs::write(root.at("go-1"), "").unwrap();
    assert_eq!(next().unwrap(), "last of 1");
    let mut first = [next().unwrap(), next().unwrap()];
    first.sort();
    assert_eq!(first, ["first line", "trouble"]);
    fs::write(root.at("go-2"), "").unwrap();
    assert_eq!(next().unwrap(), "last of 2");
    assert_eq!(next(), None);
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    let parts = ["x will be tried again: it is scheduled", "attempt 2 of x"];
    assert!(parts.iter().all(|part| rest.contains(part)), "{rest}");
    let end = Instant::now() + DEADLINE;
    while follow.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it follows for ever");
    }
    assert!(root.is_done("x"));
    drop(run);
}

#[test]
fn logs_of_an_item_without_output_say_what_it_waits_for() {
    let root = Root::plain();
    root.script("later", "#harness not_before: 2036-01-01\ntrue");
    root.script("blocked", "#harness after: later\ntrue");
    root.drop_file("empty.md", b"", 0o644);
    root.script("ready", "true");
    let said = |args: &[&str]| {
        let out = root.harness(&[&["logs"], args].concat());
        assert_eq!(
            (out.status.code(), &*out.stdout),
            (Some(0), &b""[..]),
            "{}",
            describe(&out)
        );
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    for (name, word) in [
        ("later", "scheduled: not before 2036"),
        ("blocked", "blocked: waits for later"),
        ("ready", "none is running"),
    ] {
        let said = said(&[name]);
        assert!(
            said.contains(&format!("{name} has printed nothing yet")) && said.contains(word),
            "{said}"
        );
    }
    let run = root.start(&[]);
    root.wait_until("it is refused", || root.is_parked("empty.md"));
    let said = said(&["-f", "empty.md"]);
    assert!(said.contains("parked: the file is empty"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    drop(run);
}

#[test]
fn a_follower_ends_where_its_session_or_its_item_is_removed() {
    let root = Root::plain();
    root.script("x", "echo hi");
    root.drain();
    let session = root.show("x")["attempts"][0]["session"]
        .as_str()
        .unwrap()
        .to_owned();
    fs::remove_dir_all(root.at("state/sessions").join(session)).unwrap();
    let (out, err) = Following::start(&root, &["x"]).end();
    assert!(
        out.is_empty() && err.contains("attempt 1 has left no output"),
        "{err}"
    );
    let out = root.harness(&["logs", "x"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.code() == Some(100) && said.contains("was removed (`harness gc`)"),
        "{said}"
    );
    root.script("y", "true");
    let mut follow = Following::start(&root, &["y"]);
    let mut err = BufReader::new(follow.0.stderr.as_mut().unwrap());
    err.read_line(&mut String::new()).unwrap();
    fs::remove_file(root.at("queue/pending/y")).unwrap();
    assert_eq!(follow.end().0, "");
    // A reader that goes away ends it, too.
    root.script("z", "true");
    let mut follow = Following::start(&root, &["z"]);
    drop(follow.0.stdout.take());
    follow.end();
}
