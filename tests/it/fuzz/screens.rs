//! What agents and strangers wrote reaches no terminal as it is: no command, at a pipe or at a
//! terminal, prints a control character that it did not make itself, and `--json` stays JSON.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;

use serde_json::Value;

use crate::launch::table;
use crate::support::{Root, describe};

/// Takes the terminal over, in each of the ways that terminals have.
const EVIL: &str = "\x1b]0;evil\x07\x1b[2J\u{9b}31m\x08\x0c\r\u{202e}gnp\u{2066}\x7f\u{2028}\0evil";

/// Characters that a reader of text might obey.
fn is_obeyed(c: char) -> bool {
    c.is_control() && c != '\n'
        || ('\u{2028}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}

/// A ROOT in which everything that can hold a text holds this one.
fn evil_root() -> (Root, Vec<OsString>) {
    let root = Root::with_repo();
    // A file name holds all but NUL and `/`, an environment variable all but NUL.
    let no_nul: String = EVIL.chars().filter(|c| *c != '\0').collect();
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"repo\"\n{}",
        table(&root, "claude", "")
    ));
    let name = |start: &str, end: &str| -> OsString { format!("{start}{no_nul}{end}").into() };
    let (asks, scripts, bad) = (name("a", ".md"), name("s", ""), name("b", ".json"));
    let raw = OsString::from_vec([b"\xff\x9b", no_nul.as_bytes()].concat());
    let json = serde_json::to_string(EVIL).unwrap();
    let yaml = "\"\\e]0;evil\\a\\e[2J\\u009b31m\\b\\r\\u202egnp\\u2066\\x7f\\u2028\\0evil\"";
    root.drop_file(
        &asks,
        format!("---\nretries: 0\nodd: {yaml}\nlabels: [{yaml}]\n{yaml}: x\n---\n{EVIL}\n[[mock:success text={no_nul}]]\n").as_bytes(),
        0o644,
    );
    root.drop_file(
        &bad,
        format!("{{\"prompt\":\"x\",\"title\":{json}}}").as_bytes(),
        0o644,
    );
    root.drop_file(
        &raw,
        format!("#!/bin/sh\n#harness retries: 0\ncat >&2 <<'E'\n{no_nul}\nE\ncat <<'E'\n{no_nul}\nE\nprintf 'x' > '{no_nul}'; exit 3\n").as_bytes(),
        0o755,
    );
    root.drop_file(&scripts, b"#!/bin/sh\necho x > x\n", 0o755);
    root.drain();
    // A stream whose every text is that, and one more ended session.
    let huge = serde_json::json!({"input_tokens": u64::MAX, "output_tokens": u64::MAX});
    let events = [
        serde_json::json!({"type": "system", "subtype": "init", "session_id": EVIL, "model": EVIL, "tools": [EVIL]}),
        serde_json::json!({"type": "assistant", "message": {"id": EVIL, "content": [{"type": "text", "text": EVIL}, {"type": "tool_use", "id": "t", "name": EVIL, "input": {EVIL: EVIL, "command": EVIL}}], "usage": huge}}),
        serde_json::json!({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t", "is_error": true, "content": EVIL}]}}),
        serde_json::json!({"type": "result", "subtype": "error_during_execution", "is_error": true, "result": EVIL, "errors": [EVIL], "usage": huge, "total_cost_usd": 1e308}),
        serde_json::json!({"type": EVIL, EVIL: EVIL}),
    ];
    let lines = events.map(|e| format!("{e}\n")).concat() + EVIL + "\n";
    fs::write(root.at("lines"), &lines).unwrap();
    root.config(&format!(
        "agent = \"evil\"\n[repo]\npath = \"repo\"\n[agents.evil]\ncommand = [\"cat\", {:?}]\nevents = \"claude\"\n",
        root.at("lines")
    ));
    let evil = name("e", "");
    root.drop_file(&evil, b"---\nretries: 0\n---\nx\n", 0o644);
    root.drain();
    // And a session that nobody had, with figures that are none.
    let forged = root.at("state/sessions/01a20c49-e29c-77d6-975b-03b1acf25a52");
    fs::create_dir(&forged).unwrap();
    let file = serde_json::json!({
        "session": forged.file_name().unwrap().to_str(), "item": EVIL, "slot": EVIL, "agent": EVIL, "attempt": u32::MAX,
        "state": "ended", "started_at": EVIL, "ended_at": "2026-01-27T10:45:00Z", "outcome": EVIL, "reason": EVIL, "seconds": -1e300,
        "cpu_seconds": 1e300, "timeout_seconds": u64::MAX, "turns": u64::MAX, "tool_calls": u64::MAX, "input_tokens": u64::MAX,
        "output_tokens": u64::MAX, "cost_usd": -1e308, "last_message": EVIL, "notes": [EVIL], "events": EVIL, "branch": EVIL,
        "commits": u64::MAX, "files_changed": u64::MAX, "published": EVIL, "command": [EVIL], "worktree": EVIL, "last": true,
    });
    fs::write(forged.join("session.json"), file.to_string()).unwrap();
    fs::write(forged.join("exit.json"), EVIL).unwrap();
    fs::write(forged.join("metrics.json"), EVIL).unwrap();
    fs::write(
        forged.join("events.jsonl"),
        format!("{lines}{}", lines.replace("type", "event")),
    )
    .unwrap();
    fs::write(forged.join("stdout.log"), &lines).unwrap();
    fs::write(root.at("state/interrupts/agent-7.interrupt"), EVIL).unwrap();
    fs::write(
        root.at("state/interrupts").join(name("", ".interrupt")),
        EVIL,
    )
    .unwrap();
    fs::write(root.at("state/holds/evil.hold"), EVIL).unwrap();
    fs::write(root.at("state/control/workers"), EVIL).unwrap();
    let pending = name("p", "");
    root.drop_file(
        &pending,
        format!("---\nafter: [{yaml}]\n---\nx").as_bytes(),
        0o644,
    );
    fs::create_dir_all(root.at("state/agents/agent-9")).unwrap();
    let status = serde_json::json!({"item": EVIL, "last_message": EVIL, "session": EVIL, "id": EVIL, "agent": EVIL, "claimed_at": EVIL, "started_at": EVIL, "last_event_at": EVIL});
    fs::write(
        root.at("state/agents/agent-9/status.json"),
        status.to_string(),
    )
    .unwrap();
    fs::create_dir_all(root.at("queue/claimed/agent-9")).unwrap();
    fs::write(root.at("queue/claimed/agent-9").join(name("c", "")), "x").unwrap();
    (root, vec![asks, bad, raw, scripts, evil, pending])
}

/// Every command that shows something, on what is there.
fn commands(root: &Root, names: &[OsString]) -> Vec<Vec<OsString>> {
    let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
    let mut all: Vec<Vec<OsString>> = [
        "list",
        "list pending",
        "list done",
        "list parked",
        "list claimed",
        "status",
        "session list",
        "config",
        "doctor",
    ]
    .map(words)
    .into();
    let kinds = [
        "summary", "events", "tools", "errors", "timeline", "metrics", "export",
    ];
    for session in fs::read_dir(root.at("state/sessions")).unwrap().flatten() {
        let sid = session.file_name();
        if sid.as_bytes().first() == Some(&b'.') {
            continue;
        }
        for kind in kinds {
            all.push(vec!["session".into(), kind.into(), sid.clone()]);
        }
    }
    for name in names {
        for command in ["show", "release", "cancel", "retry"] {
            all.push(vec![command.into(), "--".into(), name.clone()]);
        }
    }
    // Words that are refused are quoted in the refusal.
    let no_nul: String = EVIL.chars().filter(|c| *c != '\0').collect();
    for line in [
        "show",
        "list",
        "session events",
        "interrupt",
        "retry",
        "add",
        "no-such-command",
        "config",
        "resume",
    ] {
        let mut command = words(line);
        command.push(no_nul.clone().into());
        all.push(command);
    }
    all
}

#[test]
fn fuzz_no_text_of_others_reaches_a_terminal_as_it_is() {
    let (root, names) = evil_root();
    let mut shown = 0;
    let mut wrong = Vec::new();
    for mut words in commands(&root, &names) {
        for as_json in [false, true] {
            if as_json {
                words.insert(1, "--json".into());
                if words[0] == "session" {
                    words.swap(1, 2);
                }
            }
            let out = root.command().args(&words).output().unwrap();
            let (text, said) = (
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr),
            );
            shown += usize::from(text.contains("evil") || said.contains("evil"));
            if text.chars().chain(said.chars()).any(is_obeyed) {
                wrong.push(format!("{words:?}: {}", describe(&out).escape_debug()));
            }
            let is_json = || {
                serde_json::Deserializer::from_slice(&out.stdout)
                    .into_iter::<Value>()
                    .all(|v| v.is_ok())
            };
            if as_json && !is_json() {
                wrong.push(format!(
                    "{words:?} is no JSON: {}",
                    describe(&out).escape_debug()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(shown > 40, "only {shown} outputs held any of it");
}

/// At a terminal there are colours and titles of our own: those, and nothing else.
#[test]
fn fuzz_at_a_terminal_only_our_own_colours_are_obeyed() {
    let (root, names) = evil_root();
    let mut run = root.start(&["--workers", "1"]);
    let mut wrong = Vec::new();
    for words in commands(&root, &names).into_iter().filter(|w| {
        !["cancel", "retry", "add", "resume", "release"]
            .iter()
            .any(|c| w[0] == *c)
    }) {
        let line = |w: &OsString| harness::cli::quote::shell_quoted(w.as_ref());
        let mut command: Vec<String> = vec![
            env!("CARGO_BIN_EXE_harness").into(),
            "--root".into(),
            line(&root.path().into()),
        ];
        command.extend(words.iter().map(line));
        let out = Command::new("script")
            .env("SHELL", "/bin/bash")
            .env("TERM", "xterm")
            .args([
                "-qec",
                &format!(
                    "stty cols 100 -onlcr; exec {} </dev/null",
                    command.join(" ")
                ),
                "/dev/null",
            ])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if without_colours(&text).chars().any(is_obeyed) {
            wrong.push(format!("{words:?}: {}", text.escape_debug()));
        }
    }
    run.signal("TERM");
    run.wait();
    let said = run.said();
    assert!(!said.chars().any(is_obeyed), "{}", said.escape_debug());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// `\x1b[1m`, `\x1b[31m` and their like taken out.
fn without_colours(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        out.push_str(before);
        let end = after
            .find(|c: char| !c.is_ascii_digit() && c != ';')
            .unwrap_or(0);
        if after[end..].starts_with('m') && end <= 4 {
            rest = &after[end + 1..];
        } else {
            out.push('\x1b');
            rest = after;
        }
    }
    out + rest
}

/// A line of the log that a watcher prints of what it was told.
#[test]
fn fuzz_escapes_in_a_name_do_not_reach_the_runs_own_messages() {
    let root = Root::plain();
    let no_nul: String = EVIL.chars().filter(|c| *c != '\0').collect();
    root.script(OsStr::new(&no_nul), "exit 0");
    root.drop_file(OsStr::new(&format!("{no_nul}.json")), b"{", 0o644);
    let out = root.drain();
    let all = describe(&out);
    assert!(all.contains("evil"), "{all}");
    assert!(!all.chars().any(is_obeyed), "{}", all.escape_debug());
}
