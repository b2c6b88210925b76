//! What people see of a status, a list and a run's end: true, and readable on a narrow terminal.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::agents::{play, root_with};
use crate::journal::Journal;
use crate::support::{Root, skipped};

fn status(root: &Root) -> Value {
    serde_json::from_str(&root.ok(&["status", "--json"])).unwrap()
}

fn slot(root: &Root) -> Value {
    status(root)["agents"][0].clone()
}

#[test]
fn a_slot_is_idle_after_resume_and_keeps_no_word_of_its_last_item() {
    let root = root_with("claude", "");
    let mut run = root.start(&["--workers", "1"]);
    play(&root, "x.md", "success file=x.txt");
    root.wait_until("it is done", || root.is_done("x.md"));
    root.wait_until("the slot is idle", || slot(&root)["state"] == "idle");
    let idle = slot(&root);
    for key in ["last_message", "item", "session", "reason", "last_event_at"] {
        assert_eq!(idle[key], Value::Null, "{key}: {idle:#}");
    }
    for key in ["turns", "tool_calls", "input_tokens", "output_tokens"] {
        assert_eq!(idle[key], 0, "{key}: {idle:#}");
    }
    root.ok(&["interrupt", "agent-1", "look", "here"]);
    root.wait_until("it is interrupted", || {
        let slot = slot(&root);
        slot["state"] == "interrupted" && slot["reason"] == "look here"
    });
    root.ok(&["resume"]);
    root.wait_until("it is idle again", || {
        let slot = slot(&root);
        slot["state"] == "idle" && slot["reason"] == Value::Null
    });
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
}

#[test]
fn without_a_harness_what_waits_is_counted_as_list_counts_it() {
    let root = Root::plain();
    root.script("bad", "#harness retries: 0\nexit 3");
    root.drain();
    root.script("a", "true");
    root.script("later", "#harness not_before: 2100-01-01\ntrue");
    root.script("waits", "#harness after: [later]\ntrue");
    root.script("waits-too", "#harness after: [nobody]\ntrue");
    let queue = &status(&root)["work_queue"];
    for (state, count) in [
        ("pending", 1),
        ("scheduled", 1),
        ("blocked", 2),
        ("parked", 1),
    ] {
        assert_eq!(queue[state], count, "{state}: {queue:#}");
        let listed: Value = serde_json::from_str(&root.ok(&["list", state, "--json"])).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), count, "{state}");
    }
    assert_eq!(queue["total"], 4);
    let text = root.ok(&["status"]);
    assert!(text.contains("1 pending, 1 scheduled, 2 blocked"), "{text}");
    // What needs a person is named, with the reason.
    let named = text.lines().find(|l| l.starts_with("bad "));
    assert!(named.is_some_and(|l| l.contains("exit status 3")), "{text}");
}

#[test]
fn what_waits_behind_a_hold_is_shown_as_held_before_any_harness_has_met_it() {
    let root = Root::plain();
    root.config("agent = \"claude\"\n[repo]\npath = \"none\"\n");
    root.drop_file("p.md", b"do it\n", 0o644);
    root.drop_file("other.md", b"---\nagent: codex\n---\ndo it\n", 0o644);
    root.script("s", "true");
    let of = |name: &str| {
        let list: Value = serde_json::from_str(&root.ok(&["list", "--json"])).unwrap();
        let mut all = list.as_array().unwrap().iter();
        all.find(|i| i["item"] == name).unwrap().clone()
    };
    let hold = root.at("state/holds/claude.hold");
    fs::write(&hold, r#"{"reason":"no credit"}"#).unwrap();
    let held = of("p.md");
    assert_eq!(
        (&held["state"], &held["reason_class"]),
        (&"blocked".into(), &"hold".into())
    );
    assert_eq!(held["reason"], "agent claude is held: no credit");
    assert_eq!(held["waits_for"], serde_json::json!(["claude"]));
    assert_eq!(root.show("p.md")["state"], "blocked");
    for name in ["other.md", "s"] {
        assert_eq!(of(name)["state"], "pending", "{name}");
    }
    let queue = &status(&root)["work_queue"];
    assert_eq!(
        (&queue["pending"], &queue["blocked"]),
        (&2.into(), &1.into())
    );
    // One that ends is a time to wait for.
    let end = r#"{"reason":"a limit","until":"2100-01-01T00:00:00Z"}"#;
    fs::write(&hold, end).unwrap();
    let held = of("p.md");
    assert_eq!(
        (&held["state"], &held["reason_class"]),
        (&"scheduled".into(), &"hold".into())
    );
    assert_eq!(held["not_before"], "2100-01-01T00:00:00Z");
    // Prompts for nobody wait behind a hold of their own.
    fs::remove_file(hold).unwrap();
    root.config("[repo]\npath = \"none\"\n");
    root.harness(&["run", "--drain"]);
    assert_eq!(of("p.md")["reason_class"], "hold");
    let why = of("p.md")["reason"].as_str().unwrap().to_owned();
    assert!(
        why.starts_with("prompts without an agent wait: no agent"),
        "{why}"
    );
}

/// What a command prints on a terminal of so many columns; `None`: no terminal can be had here.
fn on_terminal(root: &Root, columns: usize, command: &str) -> Option<Vec<String>> {
    let line = format!(
        "stty cols {columns} rows 24 && exec {} --root {} {command}",
        env!("CARGO_BIN_EXE_harness"),
        root.path().display()
    );
    let out = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "dumb")
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).unwrap();
    Some(
        text.lines()
            .map(|l| l.trim_end_matches('\r').to_owned())
            .collect(),
    )
}

/// Cells on a terminal that joins no emoji.
fn cells(line: &str) -> usize {
    let of = |c: char| match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe0f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xff00..=0xff60 => 2,
        0x1f300..=0x1faff => 2,
        _ => 1,
    };
    line.chars().map(of).sum()
}

#[test]
fn on_a_narrow_terminal_the_name_gives_way_first_and_columns_stay_under_each_other() {
    let root = Root::plain();
    let long = format!("a-name-{}-end.md", "that-goes-on-and-on-".repeat(8));
    let names = [
        long.as_str(),
        "漢字の名前がとても長いので切られます漢字の名前がとても長い.sh",
        "👩‍👩‍👧‍👦🙂emoji🎉.sh",
        "e\u{301}e\u{301}\u{302}-combining.sh",
        "new\nline\u{1b}[2J.sh",
        "plain.sh",
    ];
    for name in names {
        root.script(name, "#harness retries: 0\nprintf 'one\\ntwo\\tthree: a long reason that says a lot\\n' >&2; exit 3");
    }
    root.drain();
    for columns in [80, 40] {
        for command in ["list", "status", "session list"] {
            let Some(lines) = on_terminal(&root, columns, command) else {
                return skipped("a terminal: needs script(1)");
            };
            let text = lines.join("\n");
            for line in &lines {
                assert!(
                    cells(line) <= columns,
                    "{command} {columns}: {line}\n{text}"
                );
                assert!(!line.contains("\\n") || line.contains("new\\n"), "{text}");
            }
            // The column after the name begins in one place, and is whole.
            let word = if command == "list" {
                "parked"
            } else {
                "failed"
            };
            let end = format!("  {word}");
            let starts = lines
                .iter()
                .filter_map(|l| Some(cells(&l[..l.find(&end)? + 2])));
            let starts: Vec<usize> = starts.collect();
            assert!(starts.len() >= 5, "{command} {columns}\n{text}");
            assert!(starts.iter().all(|s| *s == starts[0]), "{starts:?}\n{text}");
        }
        let status = on_terminal(&root, columns, "status").unwrap().join(" ");
        let words: Vec<&str> = status.split_whitespace().collect();
        let status = words.join(" ");
        assert!(status.contains("6 parked"), "{status}");
    }
    // A pipe gets all of it.
    assert!(root.ok(&["list"]).contains(&long));
}

#[test]
fn an_item_with_notes_has_a_mark_on_its_line_and_in_the_table() {
    let root = Root::plain();
    root.script("leaves", "setsid sleep 600 > /dev/null 2>&1 &\ntrue");
    root.script("clean", "true");
    let out = root.drain();
    let text = String::from_utf8(out.stdout).unwrap();
    let row = |name: &str| {
        let table = &text[text.find("ITEM ").expect("a table")..];
        table
            .lines()
            .find(|l| l.starts_with(name))
            .unwrap()
            .to_owned()
    };
    assert!(row("leaves").contains("succeeded*"), "{text}");
    assert!(row("clean").contains("succeeded "), "{text}");
    let said = String::from_utf8(out.stderr).unwrap() + &text;
    let line = said
        .lines()
        .find(|l| l.contains("succeeded   leaves:"))
        .unwrap();
    assert!(
        line.contains("[1 note: `harness ") && line.contains(" show leaves`]"),
        "{line}"
    );
    assert!(
        !said
            .lines()
            .any(|l| l.contains("clean:") && l.contains("note")),
        "{said}"
    );
    assert!(text.contains("* has notes"), "{text}");
    let show = root.ok(&["show", "leaves"]);
    assert!(show.contains("processes that it left behind"), "{show}");
    root.assert_nothing_left();
}

#[test]
fn a_slot_whose_holder_died_shows_nothing_of_another_item() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let run = root.start(&["--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    let file = root.at("state/agents/agent-1/status.json");
    root.wait_until("its file is there", || file.exists());
    run.kill9();
    let mut forged: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    forged["item"] = "y".into();
    forged["last_message"] = "I finished y".into();
    forged["turns"] = 7.into();
    fs::write(&file, forged.to_string()).unwrap();
    let dead = slot(&root);
    assert_eq!(
        (&dead["item"], &dead["health"]),
        (&"x".into(), &"dead".into())
    );
    assert_eq!(dead["last_message"], Value::Null, "{dead:#}");
    assert_eq!(dead["turns"], 0);
    journal.open("go");
    root.drain();
    assert!(root.is_done("x"));
    root.assert_nothing_left();
}
