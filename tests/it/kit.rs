//! The kit itself: the mock agent obeys the contracts of the CLIs that it plays, as observed, and
//! does what its plays promise. Here: what it refuses, its sessions, its stream, and that harness
//! runs it; `plays` and `processes` have the rest.

mod plays;
mod processes;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{DEADLINE, Root, describe, git};

const STREAM: [&str; 4] = ["-p", "--output-format", "stream-json", "--verbose"];
const TOOLS: [&str; 2] = ["--allowedTools", "Bash,Write,Edit"];
const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";

/// A repository to play in and a memory for sessions.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { dir };
        fs::create_dir(place.repo()).unwrap();
        git(&place.repo(), &["init", "-q", "-b", "main"]);
        git(
            &place.repo(),
            &["commit", "-q", "--allow-empty", "-m", "one"],
        );
        place
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    fn command(&self, cli: &str, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_mock-agent"));
        c.arg(cli).args(args).current_dir(self.repo());
        c.env("MOCK_HOME", self.dir.path())
            .env("GEMINI_API_KEY", "made-up");
        for name in [
            "MOCK_PLAY",
            "MOCK_CLAUDE_DIALECT",
            "HARNESS_ATTEMPT",
            "IS_SANDBOX",
        ] {
            c.env_remove(name);
        }
        c.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        c
    }

    fn start(&self, cli: &str, args: &[&str], prompt: &str) -> Child {
        let mut child = self.command(cli, args).spawn().unwrap();
        // Refused before it read its prompt: then nobody reads.
        let _closed = child.stdin.take().unwrap().write_all(prompt.as_bytes());
        child
    }

    fn run(&self, cli: &str, args: &[&str], prompt: &str) -> Output {
        self.start(cli, args, prompt).wait_with_output().unwrap()
    }

    /// A good call of this CLI.
    fn play(&self, cli: &str, prompt: &str) -> Output {
        self.run(cli, &good_args(cli), prompt)
    }

    fn commits(&self) -> usize {
        git(&self.repo(), &["log", "--format=%h"]).lines().count() - 1
    }
}

fn good_args(cli: &str) -> Vec<&'static str> {
    match cli {
        "claude" => [&STREAM[..], &TOOLS[..]].concat(),
        "codex" => vec![
            "exec",
            "--json",
            "--dangerously-bypass-approvals-and-sandbox",
            "-",
        ],
        "gemini" => vec![
            "-o",
            "stream-json",
            "--approval-mode",
            "yolo",
            "--skip-trust",
        ],
        "opencode" => vec!["run", "--format", "json", "--auto", "-m", "fake/m"],
        _ => vec![],
    }
}

/// The lines that are JSON objects.
fn events(out: &Output) -> Vec<Value> {
    let lines = out.stdout.split(|&b| b == b'\n');
    lines
        .filter_map(|l| serde_json::from_slice(l).ok())
        .filter(Value::is_object)
        .collect()
}

fn within(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Reads lines up to one that holds this text: the play has come so far.
fn up_to(child: &mut Child, text: &str) {
    let mut line = String::new();
    // Byte for byte, so that nothing is read ahead and lost.
    let mut reader = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
    while !line.contains(text) {
        line.clear();
        assert!(
            reader.read_line(&mut line).unwrap() > 0,
            "it ended without {text}"
        );
    }
}

fn pid_in(path: &Path) -> u32 {
    within("the pid file is there", || path.exists());
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn claude_refuses_what_the_real_one_refuses_in_its_words() {
    let place = Place::new();
    let cases: [(&[&str], &str); 9] = [
        (
            &["--session-id", "ses_1"],
            "Error: Invalid session ID. Must be a valid UUID.",
        ),
        (
            &["--session-id", "11111111111141118111111111111111"],
            "Must be a valid UUID.",
        ),
        (&["--frob"], "error: unknown option '--frob'"),
        (
            &["--append-system-prompt-file", "/none"],
            "Append system prompt file not found: /none",
        ),
        (
            &["--settings", "/none.json"],
            "Settings file not found: /none.json",
        ),
        (
            &["--max-budget-usd", "0"],
            "must be a number greater than 0",
        ),
        (
            &["--permission-mode", "frob"],
            "Allowed choices are acceptEdits, auto, bypassPermissions, manual",
        ),
        (
            &["--session-id", ONE, "--resume", ONE],
            "also needs --fork-session",
        ),
        (
            &["--permission-mode", "manual", "--dialect", "2.1.197"],
            "'manual' is invalid",
        ),
    ];
    for (args, words) in cases {
        let out = place.run("claude", &[&STREAM[..], args].concat(), "hello");
        assert_eq!(out.status.code(), Some(1), "{args:?}: {}", describe(&out));
        assert!(out.stdout.is_empty(), "{args:?}: {}", describe(&out));
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let out = place.run("claude", &["-p", "--output-format", "stream-json"], "hello");
    assert!(String::from_utf8_lossy(&out.stderr).contains("requires --verbose"));
    let out = place.run("claude", &STREAM, "");
    assert!(String::from_utf8_lossy(&out.stderr).contains("Input must be provided"));
    let out = place.run("claude", &STREAM, &"x".repeat(11 << 20));
    assert!(String::from_utf8_lossy(&out.stderr).contains("exceeds 10MB"));
    assert_eq!(place.commits(), 0);
}

#[test]
fn a_session_id_is_used_once_and_resumed_by_name() {
    let place = Place::new();
    let with = |more: &[&'static str]| [&good_args("claude")[..], more].concat();
    let racers: Vec<Child> = (0..8)
        .map(|_| place.start("claude", &with(&["--session-id", ONE]), "[[mock:noop]]"))
        .collect();
    let outs: Vec<Output> = racers
        .into_iter()
        .map(|c| c.wait_with_output().unwrap())
        .collect();
    assert_eq!(outs.iter().filter(|o| o.status.success()).count(), 1);
    let refused = outs.iter().find(|o| !o.status.success()).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&refused.stderr),
        format!("Error: Session ID {ONE} is already in use.\n")
    );
    // Killed before its end: in use all the same, and can be resumed.
    let mut child = place.start("claude", &with(&["--session-id", TWO]), "[[mock:stall]]");
    up_to(&mut child, "init");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        place
            .run("claude", &with(&["--session-id", TWO]), "x")
            .status
            .code(),
        Some(1)
    );
    let out = place.run("claude", &with(&["--resume", TWO]), "[[mock:noop]]");
    assert!(out.status.success(), "{}", describe(&out));
    assert_eq!(events(&out)[0]["session_id"], TWO);
    let unknown = place.run(
        "claude",
        &with(&["--resume", "33333333-3333-4333-8333-333333333333"]),
        "x",
    );
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(events(&unknown)[0]["subtype"], "error_during_execution");
    for (cli, args, code) in [
        ("codex", &["exec", "resume", "--json", ONE, "-"][..], 1),
        ("gemini", &["--skip-trust", "--resume", ONE], 42),
        ("opencode", &["run", "--session", "ses_none"], 1),
    ] {
        let out = place.run(cli, args, "x");
        assert_eq!(out.status.code(), Some(code), "{cli}: {}", describe(&out));
        assert!(out.stdout.is_empty() && !out.stderr.is_empty());
    }
}

#[test]
fn claude_streams_as_the_real_one_does() {
    let place = Place::new();
    let out = place.play("claude", "[[mock:success file=a.txt]]");
    assert!(out.status.success(), "{}", describe(&out));
    assert_eq!(
        git(&place.repo(), &["show", "HEAD:a.txt"]),
        "hello from mock-agent\n"
    );
    let all = events(&out);
    assert_eq!(
        (&all[0]["type"], &all[0]["subtype"]),
        (&"system".into(), &"init".into())
    );
    let assistant: Vec<&Value> = all.iter().filter(|e| e["type"] == "assistant").collect();
    assert_eq!(assistant.len(), 4, "a line for each block");
    assert_eq!(assistant[0]["message"]["id"], assistant[1]["message"]["id"]);
    assert!(
        assistant
            .iter()
            .all(|e| e["message"]["usage"]["output_tokens"] == 1)
    );
    let last = all.last().unwrap();
    assert_eq!(last["usage"]["input_tokens"], 3000);
    assert_eq!(last["usage"]["output_tokens"], 150);
    assert_eq!(last["num_turns"], 3);
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().last().unwrap();
    assert!(!line.starts_with("{\"type\""), "{line}");
    let args = [&good_args("claude")[..], &["--dialect", "2.1.197"]].concat();
    let older = place.run("claude", &args, "[[mock:success file=b.txt]]");
    let text = String::from_utf8(older.stdout).unwrap();
    let line = text.lines().last().unwrap();
    assert!(line.starts_with("{\"type\":\"result\""), "{line}");
    assert!(!line.contains("model_usage_since_last_result"));
}

#[test]
fn a_resumed_session_counts_as_each_cli_does() {
    let place = Place::new();
    let prompt = "[[mock:resume]]";
    let first = place.run(
        "claude",
        &[&good_args("claude")[..], &["--session-id", ONE]].concat(),
        prompt,
    );
    assert_eq!(first.status.code(), Some(1), "{}", describe(&first));
    assert_eq!(place.commits(), 0);
    let again = [&good_args("claude")[..], &["--resume", ONE]].concat();
    let second = place.run("claude", &again, prompt);
    assert!(second.status.success(), "{}", describe(&second));
    assert_eq!(place.commits(), 1);
    let last = events(&second).pop().unwrap();
    // 1 turn before, 3 now: the cost is the session's, the tokens this run's.
    assert_eq!(last["usage"]["input_tokens"], 3000);
    assert_eq!(last["total_cost_usd"], 0.04);
    assert_eq!(
        last["model_usage_since_last_result"]["claude-mock"]["costUSD"],
        0.03
    );
    let codex = place.play("codex", "[[mock:noop]]");
    let thread = events(&codex)[0]["thread_id"].as_str().unwrap().to_owned();
    let args = [
        "exec",
        "resume",
        "--json",
        "--dangerously-bypass-approvals-and-sandbox",
        &thread,
        "-",
    ];
    let last = events(&place.run("codex", &args, "[[mock:noop]]"))
        .pop()
        .unwrap();
    assert_eq!(
        last["usage"]["input_tokens"], 2000,
        "codex counts the whole thread"
    );
}

#[test]
fn harness_runs_the_mock_as_it_runs_any_agent() {
    let root = Root::with_repo();
    let words = [
        "claude",
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
    ];
    let more = [
        "--session-id",
        "{{SESSION_ID}}",
        "--allowedTools",
        "Bash,Write",
    ];
    let mut command = vec![env!("CARGO_BIN_EXE_mock-agent")];
    command.extend(words.iter().chain(&more));
    // JSON's strings and lists are TOML's.
    root.config(&format!(
        "agent = \"mock\"\n[repo]\npath = \"repo\"\n[agents.mock]\ncommand = {}\n[agents.mock.env]\nMOCK_HOME = {}\n",
        Value::from(command),
        Value::from(root.at("mock").to_string_lossy()),
    ));
    root.drop_file("good.md", b"[[mock:success file=good.txt]]", 0o644);
    root.drop_file("dirty.md", b"[[mock:dirty file=dirty.txt]]", 0o644);
    root.drop_file("crash.md", b"[[mock:crash first=1 file=crash.txt]]", 0o644);
    root.drop_file("dump.md", b"[[mock:dump]]", 0o644);
    let mut run = root.start(&["--drain", "--workers", "3"]);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    for (name, branch) in [("good", 1), ("dirty", 1), ("crash", 2)] {
        let item = format!("{name}.md");
        assert_eq!(
            root.show(&item)["outcome"],
            "succeeded",
            "{name}\n{}",
            root.picture()
        );
        let file = format!("harness/{item}/{branch}:{name}.txt");
        assert_eq!(
            git(&root.repo(), &["show", &file]),
            "hello from mock-agent\n"
        );
    }
    let text = git(&root.repo(), &["show", "harness/dump.md/1:mock-dump.json"]);
    let dump: Value = serde_json::from_str(&text).unwrap();
    let session = root.show("dump.md")["attempts"][0]["session"].clone();
    assert_eq!(dump["env"]["HARNESS_SESSION"], session);
    assert_eq!(dump["pid"], dump["group"], "a process group of its own");
    assert!(dump["fds"][0].as_str().unwrap().ends_with("prompt.md"));
    root.assert_nothing_left();
}
