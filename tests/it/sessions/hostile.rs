//! What an agent can do to its session's folder, and what it can say: the commands read on, and no
//! character that a terminal would obey gets through.

use std::fs::{self, OpenOptions};
use std::io::Write;

use serde_json::{Value, json};

use super::{VIEWS, file, parsed, play, root, said, sid};
use crate::support::{Root, describe};

/// Erases the screen, rings, turns writing round, in raw C0, C1 and Unicode.
const EVIL: &str = "a\x1b[2J\x07b\u{9b}2Jc\u{202e}d\r\n\u{85}e\u{2066}\u{7f}";

/// Runs every view with and without `--json`: ended well, in time, nothing to obey in it.
fn assert_clean(root: &Root, sid: &str) {
    for view in VIEWS.into_iter().chain([&["watch"][..]]) {
        let one = !matches!(view, ["list" | "metrics", "--all", ..] | ["list"]);
        let sid: &[&str] = if one { &[sid] } else { &[] };
        let json: &[&str] = if view.contains(&"--raw") || view.contains(&"md") {
            &[]
        } else {
            &["--json"]
        };
        for json in [&[][..], json] {
            let args = [&["session"], view, sid, json].concat();
            let out = root.exits(0, &args);
            if view.contains(&"--raw") {
                continue;
            }
            let text =
                String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr);
            let obeyed =
                |c: &char| (c.is_control() && *c != '\n') || "\u{202e}\u{2066}".contains(*c);
            let bad: Vec<char> = text.chars().filter(obeyed).collect();
            assert!(bad.is_empty(), "{args:?}: {bad:?} in\n{text:?}");
            let is_lines = matches!(view[0], "events" | "watch");
            if json.is_empty() {
                continue;
            }
            let texts: Vec<&str> = if is_lines {
                text.lines().collect()
            } else {
                vec![&text]
            };
            for text in texts.iter().filter(|t| !t.starts_with("harness: ")) {
                let parsed = serde_json::from_str::<Value>(text);
                assert!(parsed.is_ok(), "{args:?}: {parsed:?}\n{text}");
            }
        }
    }
}

fn event(at: &str, body: Value) -> Vec<u8> {
    let mut line = json!({"at": at, "offset": 0, "length": 5});
    for (key, value) in body.as_object().unwrap() {
        line[key] = value.clone();
    }
    format!("{line}\n").into_bytes()
}

/// Events with hostile words in every text that they can have.
fn evil_events() -> Vec<Vec<u8>> {
    let at = "2026-01-27T10:45:00.000Z";
    let bodies = [
        json!({"event": "session_started", "model": EVIL, "version": EVIL, "cli_session": EVIL}),
        json!({"event": "text", "text": EVIL, "delta": true}),
        json!({"event": "text", "text": EVIL, "delta": true, "clipped": true}),
        json!({"event": "thinking", "text": EVIL}),
        json!({"event": "tool_call", "id": EVIL, "tool": EVIL, "input": {EVIL: [EVIL]}}),
        json!({"event": "tool_result", "id": EVIL, "output": EVIL, "is_error": true}),
        json!({"event": "tool_call", "tool": EVIL, "input": EVIL}),
        json!({"event": "tool_result", "id": "nobody's", "output": EVIL}),
        json!({"event": "retrying", "class": "network", "message": EVIL, "wait_ms": u64::MAX}),
        json!({"event": "limited", "limit": EVIL, "resets_at": i64::MAX}),
        json!({"event": "permission_denied", "tool": EVIL}),
        json!({"event": "error", "class": "unknown", "message": EVIL}),
        json!({"event": "other", "name": EVIL, "detail": EVIL}),
        json!({"event": EVIL, "what": EVIL}),
        json!({"event": "finished", "good": false, "message": EVIL}),
    ];
    let mut all: Vec<Vec<u8>> = bodies.into_iter().map(|b| event(at, b)).collect();
    all.push(event(
        EVIL,
        json!({"event": "text", "text": "``` \n# no heading\n````"}),
    ));
    // C1 and DEL as they are, which JSON allows within strings; a carriage return between tokens.
    all.push(format!("{{\"at\":\"{at}\",\r\"event\":\"text\",\"text\":\"\u{9b}\u{7f}\u{202e}\",\"offset\":9,\"length\":1}}\n").into_bytes());
    all
}

#[test]
fn garbage_among_the_events_hides_none_of_them() {
    let root = root();
    play(&root, "x.md", "claude", "success");
    root.drain();
    let sid = sid(&root, "x.md");
    let path = file(&root, &sid, "events.jsonl");
    let good = fs::read(&path).unwrap();
    let mut all =
        b"\xff\xfe no UTF-8\n\n\0\0\0\nnull\n42\n[1]\n{\"event\":7}\n{\"event\":\"text\"\n"
            .to_vec();
    all.extend(
        good.split_inclusive(|&b| b == b'\n')
            .flat_map(|l| [l, b"garbage\n"].concat()),
    );
    all.extend("[".repeat(100_000).into_bytes());
    all.push(b'\n');
    all.extend("x".repeat(3 << 20).into_bytes());
    all.extend(b"\n");
    all.extend(evil_events().concat());
    // Offsets that point nowhere.
    let far =
        json!({"at": "t", "event": "text", "text": "far", "offset": u64::MAX, "length": u64::MAX});
    all.extend(format!("{far}\n{{\"event\":\"text\",\"te").into_bytes());
    fs::write(&path, &all).unwrap();
    // As it is where the session has ended and nothing was totalled: every figure is folded.
    let _none = fs::remove_file(file(&root, &sid, "metrics.json"));

    let lines = good.split(|&b| b == b'\n').filter(|l| !l.is_empty());
    let told = said(&root, &["events", &sid, "--json"]);
    for line in lines {
        let line = std::str::from_utf8(line).unwrap();
        assert!(told.lines().any(|l| l == line), "{line}\n{told}");
    }
    let text = said(&root, &["events", &sid]);
    assert!(text.contains("(unreadable)  3145728 bytes"), "{text}");
    assert!(text.contains("Done: committed mock.txt."), "{text}");
    let metrics = parsed(&root, &["metrics", &sid]);
    assert_eq!(metrics["input_tokens"], 3000, "{metrics}");
    let errors = parsed(&root, &["errors", &sid]);
    let unreadable = errors["troubles"].as_array().unwrap().iter();
    let unreadable = unreadable.filter(|t| t["kind"] == "unreadable").count();
    assert!(unreadable > 15, "{errors}");
    let export = parsed(&root, &["export", &sid]);
    assert_eq!(export["unreadable_lines"], unreadable, "{export}");
    let raw = root.harness(&["session", "events", "--raw", &sid]);
    assert!(String::from_utf8_lossy(&raw.stderr).contains("could not be read"));
    assert_clean(&root, &sid);
    let md = said(&root, &["export", &sid, "--format", "md"]);
    assert!(!md.lines().any(|l| l == "# no heading"), "{md}");
}

#[test]
fn hostile_words_are_shown_and_not_obeyed() {
    let root = root();
    root.drop_file(
        "\x1b[2J\u{202e}x",
        format!("#!/bin/sh\nprintf '%s' '{EVIL}'\nprintf '%s' '{EVIL}' >&2\nexit 1\n").as_bytes(),
        0o755,
    );
    root.drain();
    let sid = said(&root, &["latest"]).trim_end().to_owned();
    let path = file(&root, &sid, "session.json");
    let mut session: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for key in [
        "reason",
        "agent",
        "branch",
        "outcome",
        "fault",
        "published",
        "last_message",
    ] {
        session[key] = json!(EVIL);
    }
    session["notes"] = json!([EVIL]);
    fs::write(&path, session.to_string()).unwrap();
    fs::write(file(&root, &sid, "prompt.md"), EVIL).unwrap();
    assert_clean(&root, &sid);
    fs::write(file(&root, &sid, "events.jsonl"), evil_events().concat()).unwrap();
    assert_clean(&root, &sid);
}

#[test]
fn a_folder_that_its_agent_has_wrecked_is_still_a_session() {
    let root = root();
    play(&root, "x.md", "claude", "success");
    root.drain();
    let sid = sid(&root, "x.md");
    // Fifos would be waited for, devices never end, links lead elsewhere.
    for name in [
        "exit.json",
        "prompt.md",
        "stderr.log",
        "stdout.log",
        "metrics.json",
    ] {
        let path = file(&root, &sid, name);
        let _none = fs::remove_file(&path);
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
    }
    assert_clean(&root, &sid);
    for odd in [&b""[..], b"{", b"[]", b"{\"session\":\"another's\"}"] {
        fs::write(file(&root, &sid, "session.json"), odd).unwrap();
        root.exits(0, &["session", "summary", &sid, "--json"]);
    }
    let list = said(&root, &["list"]);
    assert!(list.contains(&sid[28..]), "{list}");
    let summary = said(&root, &["summary", &sid]);
    assert!(summary.contains("an unknown item"), "{summary}");
    // Other things among the sessions are none.
    fs::write(root.at("state/sessions/019beef0"), "").unwrap();
    fs::create_dir(root.at("state/sessions/zz")).unwrap();
    assert_eq!(said(&root, &["latest"]).trim_end(), sid);
}

#[test]
fn memory_does_not_grow_with_a_session() {
    let root = root();
    play(&root, "x.md", "claude", "success");
    root.drain();
    let sid = sid(&root, "x.md");
    let path = file(&root, &sid, "events.jsonl");
    let mut events = OpenOptions::new().append(true).open(&path).unwrap();
    let at = "2026-01-27T10:45:00.000Z";
    for (input, calls) in [("y".repeat(4000), 6000), ("z".into(), 10_000)] {
        let call = json!({"event": "tool_call", "tool": "T", "input": input});
        events.write_all(&event(at, call).repeat(calls)).unwrap();
    }
    // 24 MB of events, one line of 64 MB that is none, and 10 GB of output, in 40 MB of address
    // space beyond the program's own.
    events
        .set_len(events.metadata().unwrap().len() + (64 << 20))
        .unwrap();
    let stdout = file(&root, &sid, "stdout.log");
    let stdout = OpenOptions::new().append(true).open(stdout).unwrap();
    stdout.set_len(10 << 30).unwrap();
    let far = json!({"at": at, "event": "text", "text": "far", "offset": 1, "length": 256 << 20});
    events.write_all(format!("\n{far}\n").as_bytes()).unwrap();
    let binary = env!("CARGO_BIN_EXE_harness");
    for view in VIEWS {
        let dir = root.path().to_str().unwrap();
        let out = std::process::Command::new("sh")
            .args([
                "-c",
                "ulimit -v 60000; exec \"$0\" \"$@\" >/dev/null",
                binary,
            ])
            .args(["--root", dir, "session"])
            .args(view)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(0), "{view:?}: {}", describe(&out));
    }
    let tools = said(&root, &["tools", &sid]);
    assert!(
        tools.contains("6002 more calls before these"),
        "{}",
        &tools[..500]
    );
    assert_eq!(parsed(&root, &["metrics", &sid])["outcome"], "succeeded");
}
