//! What files are understood as, and what is refused.

mod odd;

use super::*;

fn item(name: &str, text: &str) -> Parsed<Item> {
    parse(&Name::new(name), text.as_bytes(), false)
}

#[test]
fn three_kinds_hold_the_same_fields() {
    let yaml = "priority: high\nafter: [a, b]\nexclusive: db\ntimeout: 10m\nodd: {x: 1}\n";
    let script = yaml
        .lines()
        .map(|l| format!("#harness {l}\n"))
        .collect::<String>();
    for (name, text) in [
        ("x.md", format!("---\n{yaml}---\nDo it.\n")),
        ("x", format!("#!/bin/sh\n# why\n{script}echo\n")),
        (
            "x.json",
            r#"{"priority":9,"after":["a","b"],"exclusive":"db","timeout":600,"odd":{"x":1},"prompt":"Do it."}"#.into(),
        ),
    ] {
        let item = item(name, &text).unwrap();
        assert_eq!(item.order.priority, 9, "{name}");
        assert_eq!(item.order.after, ["a", "b"].map(Name::new));
        assert_eq!(item.order.exclusive.as_deref(), Some("db"));
        assert_eq!(item.timeout, Some(Duration::from_secs(600)));
        assert_eq!(item.fields["odd"]["x"], 1);
    }
}

#[test]
fn a_prompt_is_kept_to_the_byte() {
    let text = "Fix it.\n--- not a fence\n\u{2028}$(touch pwned)\n";
    assert_eq!(item("x", text).unwrap().prompt, text.as_bytes());
    let body = "\n---\nrest\n";
    let framed = format!("---\r\npriority: low\r\n---\r\n{body}");
    let framed = item("x.md", &framed).unwrap();
    assert_eq!(framed.prompt, body.as_bytes());
    assert_eq!(framed.order.priority, 1);
}

#[test]
fn what_is_not_understood_is_refused_with_its_reason() {
    for (name, text, why) in [
        ("e", "", "empty"),
        ("j.json", "{\"a\":", "bad JSON"),
        ("j.json", "[1]", "not an object"),
        ("j.json", "{\"priority\":1}", "field `prompt`"),
        ("m.md", "---\npriority: 12\n---\nx", "priority"),
        ("m.md", "---\n- a\n---\nx", "`name: value`"),
        ("m.md", "---\na: [\n---\nx", "bad front matter"),
        ("m.md", "---\nnever closed", "never closed"),
        ("m.md", "---\nafter: a/b\n---\nx", "after"),
        ("m.md", "---\nenv: {HARNESS_X: 1}\n---\nx", "HARNESS_X"),
        ("m.md", "---\nbase: --upload-pack=x\n---\nx", "base"),
        ("m.md", "---\ntimeout: 0\n---\nx", "timeout"),
        ("m.md", "---\nmax_turns: -1\n---\nx", "max_turns"),
        ("m.md", "---\nbudget_usd: -1\n---\nx", "budget_usd"),
        ("m.md", "---\nnot_before: soon\n---\nx", "not a time"),
        ("m.md", "---\nprompt: twice\n---\nx", "prompt"),
    ] {
        let Err(Refusal(got)) = item(name, text) else {
            panic!("{text:?} was accepted");
        };
        assert!(got.contains(why), "{text:?}: {got}");
    }
}

fn refused(name: &str, text: &str) -> String {
    match item(name, text) {
        Ok(item) => panic!("{name} {text:?} was accepted: {:?}", item.fields),
        Err(Refusal(why)) => why,
    }
}

#[test]
fn times_are_understood_or_refused_and_never_another_time() {
    let at = |v: &str| {
        let item = item("x.md", &format!("---\nnot_before: {v}\n---\nx"));
        item.map(|item| item.order.not_before.unwrap())
    };
    let same = |a: &str, b: &str| assert_eq!(at(a).unwrap(), at(b).unwrap(), "{a} {b}");
    assert_eq!(at("1970-01-01T00:00:01Z").unwrap(), 1_000_000_000);
    assert!(at("2026-12-24").unwrap() < at("2026-12-24 09:00").unwrap());
    same("20991231", "2099-12-31");
    same("1798102800", "2026-12-24T09:00:00Z");
    same("1798102800000", "2026-12-24T09:00:00Z");
    same("2026-12-24T10:00+01:00", "2026-12-24T09:00:00Z");
    same("2026-12-24T18:00[Asia/Tokyo]", "2026-12-24T09:00:00Z");
    for text in [
        "soon",
        "2099",
        "0",
        "12",
        "99999999",
        "209912",
        "999999999",
        "12/24/2026",
        "24.12.2026",
        "9:00",
        "2026-13-01",
        "tomorrow",
        "true",
        "[2026-12-24]",
        "-1798102800",
        "1e9",
    ] {
        let why = refused("x.md", &format!("---\nnot_before: {text}\n---\nx"));
        assert!(why.contains("not_before"), "{text}: {why}");
    }
    let json = r#"{"not_before": 4102444800, "prompt": "x"}"#;
    let seconds = item("x.json", json).unwrap().order.not_before;
    assert_eq!(seconds, Some(4_102_444_800_000_000_000));
    assert!(refused("x.json", r#"{"not_before": 20991331, "prompt": "x"}"#).contains("not a time"));
}

#[test]
fn a_text_stays_as_it_is_written_whatever_yaml_takes_it_for() {
    for text in [
        "1.10",
        "3.10",
        "0123",
        "0x1F",
        "1e3",
        "1_000",
        "no",
        "on",
        "True",
        "1e999",
        ".inf",
        "2026-12-24",
        "12345678901234567890123",
        "+1",
        "0o17",
    ] {
        let yaml = format!(
            "base: {text}\nbranch: {text}\nafter: [{text}, b]\nenv: {{X: {text}}}\ntitle: {text}"
        );
        let lines = yaml
            .lines()
            .map(|l| format!("#harness {l}\n"))
            .collect::<String>();
        for (name, file) in [
            ("x.md", format!("---\n{yaml}\n---\nx")),
            ("x", format!("#!/bin/sh\n{lines}:\n")),
        ] {
            let item = item(name, &file).unwrap();
            assert_eq!(item.base.as_deref(), Some(text));
            assert_eq!(item.branch.as_deref(), Some(text));
            assert_eq!(item.order.after, [text, "b"].map(Name::new));
            assert_eq!(item.env["X"], text);
            assert_eq!(item.title(), Some(text));
            assert_eq!(item.fields["env"]["X"], text);
        }
    }
    // JSON has numbers, and does not keep how they were written.
    let of = |value: &str| item("x.json", &format!(r#"{{"base": {value}, "prompt": "x"}}"#));
    assert_eq!(of("12").unwrap().base.as_deref(), Some("12"));
    assert_eq!(of("\"1.10\"").unwrap().base.as_deref(), Some("1.10"));
    for value in ["1.10", "1e3", "true", "[1]"] {
        assert!(of(value).is_err(), "{value}");
    }
    // Numbers are numbers, and own fields keep their types.
    let numbers = "---\nretries: 3\nbudget_usd: 1.5\nmax_turns: 20\npriority: 7\nodd: [1, 2.5, no, ~]\n---\nx";
    let item = item("x.md", numbers).unwrap();
    assert_eq!(
        (item.retries, item.max_turns, item.order.priority),
        (Some(3), Some(20), 7)
    );
    assert_eq!(item.budget_usd, Some(1.5));
    assert_eq!(item.fields["retries"], 3);
    assert_eq!(item.fields["odd"][1], 2.5);
}

#[test]
fn what_is_nearly_a_field_is_refused_with_the_right_word() {
    for (name, meant) in [
        ("priorty", "priority"),
        ("Priority", "priority"),
        ("PRIORITY", "priority"),
        ("not-before", "not_before"),
        ("notBefore", "not_before"),
        ("afer", "after"),
        ("agents", "agent"),
        ("bsae", "base"),
        ("repos", "repo"),
        ("Env", "env"),
        ("evn", "env"),
        ("timout", "timeout"),
        ("max-turns", "max_turns"),
        ("maxTurns", "max_turns"),
        ("retires", "retries"),
        ("brnach", "branch"),
        ("Title", "title"),
        ("budget-usd", "budget_usd"),
        ("exlusive", "exclusive"),
        ("after_", "after"),
        ("depends_on", "after"),
        ("branch_name", "branch"),
        ("budget", "budget_usd"),
        ("maxRetries", "retries"),
        ("start_at", "not_before"),
        ("environment", "env"),
        ("tiemout", "timeout"),
    ] {
        for (file, text) in [
            ("x.md", format!("---\n{name}: 1\n---\nx")),
            ("x", format!("#!/bin/sh\n#harness {name}: 1\n:\n")),
            ("x.json", format!(r#"{{"{name}": 1, "prompt": "x"}}"#)),
        ] {
            let why = refused(file, &text);
            assert!(
                why.contains(&format!("the nearest is `{meant}`")),
                "{name}: {why}"
            );
        }
    }
    for name in [
        "owner",
        "name",
        "case",
        "end",
        "date",
        "note",
        "role",
        "tags",
        "label",
        "labels",
        "model",
        "size",
        "report",
        "time",
        "text",
        "user",
        "team",
        "page",
        "reviewer",
        "issue",
        "url",
        "en",
        "milestone",
        "status",
        "notes",
        "state",
    ] {
        let item = item("x.md", &format!("---\n{name}: 1\n---\nx"));
        assert_eq!(item.unwrap().fields[name], 1, "{name}");
    }
}

#[test]
fn fields_in_the_wrong_place_are_refused_or_said() {
    for (name, text) in [
        ("x.md", "\n---\nnot_before: 2099-01-01\n---\nx\n"),
        ("x.md", "\u{feff}\n---\nnot_before: 2099-01-01\n---\nx\n"),
        ("x.md", " \t\r\n---\r\npriority: 2\r\n---\r\nx\n"),
        ("x.md", "----\npriority: 2\n----\nx\n"),
        ("x.md", "\u{2014}\npriority: 2\n\u{2014}\nx\n"),
        ("x.md", " ---\npriority: 2\n ---\nx\n"),
        ("x.md", "---\rpriority: 2\r---\rx\r"),
        ("x.md", "+++\npriority = 2\n+++\nx\n"),
        ("x.md", "\n---\npriorty: 2\n---\nx\n"),
        ("x", "#!/bin/sh\n#harness: priority: 2\n:\n"),
        ("x", "#!/bin/sh\n# harness priority: 2\n:\n"),
        ("x", "#!/bin/sh\n#Harness priority: 2\n:\n"),
        ("x", "#!/bin/sh\n##harness priority: 2\n:\n"),
        ("x", "#!/bin/sh\n# HARNESS: priorty: 2\n:\n"),
        ("x", "#!/usr/bin/env node\n// harness priority: 2\n:\n"),
        ("x", "#!/bin/sh\n#harness priority 2\n:\n"),
        ("x", "#!/bin/sh\n#harness priority:2\n:\n"),
        ("x.md", "---\nagent: x\n  priority: 2\n---\nx"),
        ("x.md", "---\nenv:\nFOO: 1\n---\nx"),
        ("x.md", "---\nbranch: #12\n---\nx"),
        ("x.md", "---\nbranch: fix #12\n---\nx"),
        ("x", "#!/bin/sh\n#harness exclusive: db #2\n:\n"),
        ("x", "#!/bin/sh\n#harness env:\n#harness FOO: 1\n:\n"),
        ("x.md", "#harness priority: 2\nDo it.\n"),
        ("x.md", "# Title\n# harness: priority=2\nDo it.\n"),
        ("x.md", "# Title\n\n---\npriority: 2\n---\nx\n"),
        ("x.md", "<!-- why -->\n---\npriority: 2\n---\nx\n"),
        ("x.md", "%YAML 1.2\n---\npriority: 2\n---\nx\n"),
        ("x.md", "---yaml\npriority: 2\n---\nx\n"),
        ("x.md", "--- # fields\npriority: 2\n---\nx\n"),
        ("x.md", "\u{200b}---\npriority: 2\n---\nx\n"),
        ("x.md", "--\u{200b}-\npriority: 2\n---\nx\n"),
        ("x.md", "***\npriority: 2\n***\nx\n"),
        ("x.md", "---\nodd: 1\n---\n---\npriority: 2\n---\nx\n"),
        ("x.md", "---\npriority: 2\n----\nx\n"),
        ("x.md", "---\npriority: 2\nDo it.\n"),
        ("x.md", "---\nharness:\n  priority: 2\n---\nx\n"),
        ("x.md", "---\npriority:\n---\nx\n"),
        ("x.md", "---\nbranch: ~\n---\nx\n"),
        ("x.md", "---\nbranch: !x y\n---\nx\n"),
        ("x", "#!/bin/sh\n#harnes priority: 2\n:\n"),
        ("x", "#!/bin/sh\n# harness priority 2\n:\n"),
        ("x", "#!/bin/sh\n#harness:\n#  priority: 2\n:\n"),
        ("x", "#!/bin/sh\n#harness\n:\n"),
        ("x", "#!/bin/sh\n#---\n#priority: 2\n#---\n:\n"),
        ("x", "#!/bin/sh\n---\npriority: 2\n---\n:\n"),
        ("x", "#!/bin/sh #harness priority: 2\n:\n"),
        ("x.yaml", "priority: 1\nprompt: Do it.\n"),
        ("x.toml", "prompt = \"Do it.\"\n"),
        ("x.json", r#"{"harness": {"priority": 2}, "prompt": "x"}"#),
    ] {
        let why = refused(name, text);
        assert!(!why.contains('\n') && why.len() < 500, "{text:?}: {why}");
    }
    // A tab is white space, and nested lines keep their indentation.
    let text = "#!/bin/sh\n#harness\tpriority: 2\n:\n";
    assert_eq!(item("x", text).unwrap().order.priority, 2);
    let text = "---\npriority: 2 # soon\nbranch: 'fix #12'\ntitle: Fix #12\n---\nx";
    assert_eq!(
        item("x.md", text).unwrap().branch.as_deref(),
        Some("fix #12")
    );
    let text = "#!/bin/sh\n#harness env:\n#harness   FOO: 1\n#harness   BAR: 2\n:\n";
    assert_eq!(item("x", text).unwrap().env.len(), 2);
    for (name, text, line) in [
        ("x.md", "priority: high\nDo it.\n", Some(1)),
        ("x.md", "\n\nnot_before: 2099-01-01\n\nDo it.\n", Some(3)),
        ("x.txt", "priorty: 1\nprompt: Do it.\n", Some(1)),
        ("x.md", "**Priority:** high\n\nDo it.\n", Some(1)),
        ("x.md", "# Title\n- priority: 2\nDo it.\n", Some(2)),
        ("x.md", "<!--\npriority: 2\n-->\nDo it.\n", Some(2)),
        ("x.md", "{\"priority\": 2}\nDo it.\n", Some(1)),
        ("x.md", "Title\n---\npriority: 2\n---\nDo it.\n", Some(3)),
        ("x.md", "Do it.\n#harness priority: 2\n", Some(2)),
        ("x.md", "```\n---\npriority: 2\n---\n```\nDo it.\n", Some(3)),
        ("x", "#!/bin/sh\n# priority: 2\n:\n", Some(2)),
        ("x", "#!/bin/sh\n:\n# harness priorty: 2\n", Some(3)),
        ("x", "#!/bin/sh\nset -e #harness priority: 2\n", Some(2)),
        (
            "x",
            "#!/bin/sh\r\nset -e\r\n#harness priority: 2\r\n",
            Some(3),
        ),
        ("x.md", "Say it:\n```\n---\npriority: 2\n---\n```\n", None),
        ("x.md", "# The base\n\n---\nNote: it is prose\n---\n", None),
        ("x.md", "## After: the party\nDo it.\n", None),
        ("x.md", "```yaml\npriority: 1\n```\nDo it.\n", Some(2)),
        ("x", "#!/bin/sh\nset -e\n#harness priority: 2\n", Some(3)),
        ("x.md", "Note: do it.\n", None),
        (
            "x",
            "#!/usr/bin/python3\n\"\"\"\npriority: high\n\"\"\"\n",
            Some(3),
        ),
        (
            "x",
            "#!/usr/bin/python3\n\nr'''It does.\n\nafter: [a]\n'''\n",
            Some(5),
        ),
        ("x", "#!/usr/bin/node\n/* after: [a]\n */\n", Some(2)),
        (
            "x",
            "#!/usr/bin/node\n/**\n * harness priority: 2\n */\n",
            Some(3),
        ),
        ("x", "#!/usr/bin/ruby\n=begin\nretries: 1\n=end\n", Some(3)),
        (
            "x",
            "#!/usr/bin/python3\n\"\"\"It does.\"\"\"\nd = {\npriority: 1\n",
            None,
        ),
        (
            "x",
            "#!/usr/bin/python3\n\"\"\"\nIt does.\n\"\"\"\npriority: 1\n",
            None,
        ),
        (
            "x",
            "#!/usr/bin/python3\n\"\"\"\nBase: what it stands on.\n\"\"\"\n",
            None,
        ),
        ("x.md", "\n---\nA rule, and text.\n---\nDo it.\n", None),
        ("x.md", "Do it.\npriority: high\n", None),
        ("x", "#!/bin/sh\n# harness runs this: often\ntrue\n", None),
        (
            "x",
            "#!/bin/sh\n# The harness.\n# base: what it stands on\ntrue\n",
            None,
        ),
    ] {
        let item = item(name, text).unwrap();
        assert_eq!(item.stray, line, "{text:?}");
        let said = item.remark();
        assert_eq!(said.is_some(), line.is_some());
        if let (Some(said), Some(line)) = (said, line) {
            assert!(
                said.contains(&format!("fields: none; line {line} looks like one")),
                "{said}"
            );
        }
    }
}

#[test]
fn bytes_that_are_no_text_and_programs_that_are_no_prompts_never_reach_an_agent() {
    let utf16 = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>()
    };
    let marked = [b"\xff\xfe".to_vec(), utf16("Do it.\n")].concat();
    let refused = |name: &str, bytes: &[u8], executable| {
        let Err(Refusal(why)) = parse(&Name::new(name), bytes, executable) else {
            panic!("{name} {bytes:?} was accepted");
        };
        why
    };
    for name in ["x.md", "x", "x.json"] {
        assert!(refused(name, &marked, false).contains("UTF-16"));
        assert!(refused(name, &utf16("{\"prompt\": \"x\"}"), false).contains("UTF-16"));
    }
    assert!(refused("x", &marked, true).contains("UTF-16"));
    assert!(refused("x.md", b"Do\nit\0.\n", false).contains("NUL byte in line 2"));
    for name in ["x.sh", "x.py", "X.SH", "a.b.js"] {
        assert!(refused(name, b"echo hi\n", false).contains("#!"), "{name}");
        assert!(parse(&Name::new(name), b"#!/bin/sh\necho hi\n", false).is_ok());
    }
    assert!(refused("x", b"{\"prompt\": \"Do it.\"}", false).contains(".json"));
    // A byte order mark hides neither kind nor fields.
    let kind =
        |name: &str, text: &str| item(name, text).map(|item| (item.kind, item.order.priority));
    let script = "\u{feff}#!/bin/sh\n#harness priority: 2\n:\n";
    assert_eq!(kind("x", script), Ok((Kind::Script, 2)));
    assert_eq!(
        kind("x.md", "\u{feff}---\npriority: 2\n---\nx"),
        Ok((Kind::Prompt, 2))
    );
    assert_eq!(
        kind("X.JSON", "\u{feff}{\"priority\": 2, \"prompt\": \"x\"}"),
        Ok((Kind::Json, 2))
    );
    // A program may hold anything behind its first line.
    assert!(parse(&Name::new("x"), b"#!/bin/sh\nexit\n\0\x01", false).is_ok());
    assert!(parse(&Name::new("x"), b"\x7fELF\0\0", true).is_ok());
}

#[test]
fn what_a_parser_cannot_read_is_said_in_words_of_ours() {
    for (name, text, words) in [
        (
            "x.json",
            r#"{"priority": 1, "priority": 9, "prompt": "x"}"#,
            "`priority` stands there twice",
        ),
        (
            "x.json",
            r#"{"env": {"A": "1", "A": "2"}, "prompt": "x"}"#,
            "`A` stands there twice",
        ),
        ("x.json", "{\"prompt\": \"x\",}", "line 1, column"),
        ("x.json", "{\"prompt\": \"x\"", "before it is complete"),
        (
            "x.json",
            "{\"prompt\": \"x\"} more",
            "cannot be read at line 1",
        ),
        (
            "x.md",
            "---\npriority: 1\npriority: 9\n---\nx",
            "`priority` stands there twice, in line 3",
        ),
        ("x.md", "---\na: [\n---\nx", "line"),
        ("x.md", "---\na: 1\n\tpriority: 1\n---\nx", "line 2"),
        ("x.md", "---\ntitle: a: b\n---\nx", "line 2"),
        ("x.md", "---\ntitle: @x\n---\nx", "line 2"),
        (
            "x",
            "#!/bin/sh\n\n#harness a: 1\n#harness a: 2\n:\n",
            "in line 4",
        ),
    ] {
        let why = refused(name, text);
        assert!(why.contains(words), "{text:?}: {why}");
        for foreign in [
            "Policy",
            "serde",
            "EOF",
            "expected `",
            "error:",
            "deserial",
            "scalar",
            "mapping",
        ] {
            assert!(!why.contains(foreign), "{text:?}: {why}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, exec: bool, fenced: bool) {
        let mut all = if fenced { b"---\n".to_vec() } else { Vec::new() };
        all.extend(&bytes);
        for name in ["x", "x.json"] {
            let _either = parse(&Name::new(name), &all, exec);
        }
    }
}
