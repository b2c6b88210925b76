//! What looks like something else: encodings, first lines, JSON, values.

use super::*;

#[test]
fn a_script_is_one_from_its_first_byte_or_refused() {
    for text in [
        "\n#!/bin/sh\n:\n",
        " #!/bin/sh\n:\n",
        "\t#!/bin/sh\n:\n",
        "\r\n#!/bin/sh\r\n:\r\n",
        "\u{a0}#!/bin/sh\n:\n",
        "\u{200b}#!/bin/sh\n:\n",
        "\u{c}#!/bin/sh\n:\n",
        "# !/bin/sh\n:\n",
        "!#/bin/sh\n:\n",
        "#/bin/sh\n:\n",
        "\u{ff03}!/bin/sh\n:\n",
        "# Copyright\n#!/bin/sh\n:\n",
        "---\npriority: 2\n---\n#!/bin/sh\n:\n",
        "#!",
        "#! \n:\n",
        "#!sh\n:\n",
    ] {
        for name in ["x", "x.md"] {
            let why = refused(name, text);
            assert!(why.contains("line "), "{text:?}: {why}");
        }
    }
    let kind = |text: &str| item("x", text).map(|item| item.kind);
    assert_eq!(kind("\u{feff}\u{feff}#!/bin/sh\n:\n"), Ok(Kind::Script));
    for prose in [
        "# /bin/sh is slow\nMend it.\n",
        "# !important\nDo it.\n",
        "#1: do it\n",
        "Mend this:\n#!/bin/sh\n:\n",
        "# Mend this\n\n```\n#!/bin/sh\n```\n",
    ] {
        assert_eq!(kind(prose), Ok(Kind::Prompt), "{prose:?}");
    }
}

#[test]
fn other_encodings_and_characters_that_nobody_sees_are_named_with_their_line() {
    let utf32 = |text: &str, order: fn(u32) -> [u8; 4]| {
        text.chars()
            .flat_map(|c| order(u32::from(c)))
            .collect::<Vec<u8>>()
    };
    let cases: [(Vec<u8>, &str); 12] = [
        (utf32("\u{feff}Do it.", u32::to_le_bytes), "UTF-32"),
        (utf32("\u{feff}Do it.", u32::to_be_bytes), "UTF-32"),
        (utf32("Do it.", u32::to_le_bytes), "UTF-32"),
        (b"+/v8-Do it".to_vec(), "UTF-7"),
        (b"Do\r\n\xf6\r\n".to_vec(), "line 2 is not UTF-8"),
        (b"---\rpriority: 2\r---\rDo it.".to_vec(), "CR alone"),
        (b"Do\r\nit\0\r\n".to_vec(), "line 2"),
        (
            "---\npriority\u{a0}: 2\n---\nx".into(),
            "line 2: one of its spaces",
        ),
        ("---\npriority:\u{a0}2\n---\nx".into(), "U+00A0"),
        (
            "---\ra: 1\n\u{feff}priority: 2\n---\nx".into(),
            "front matter",
        ),
        (
            "---\nodd: 1\npri\u{200b}ority: 2\n---\nx".into(),
            "line 3: it holds a character that nobody sees",
        ),
        (
            "---\npriority\u{ff1a} 2\n---\nx".into(),
            "its colon is another character",
        ),
    ];
    for (bytes, words) in cases {
        let Err(Refusal(why)) = parse(&Name::new("x.md"), &bytes, false) else {
            panic!("{bytes:?} was accepted");
        };
        assert!(why.contains(words), "{bytes:?}: {why}");
    }
    let title = "---\r\ntitle: 5\u{a0}\u{20ac} \u{1f469}\u{200d}\u{1f4bb}\r\n---\r\nx";
    assert!(item("x.md", title).is_ok());
    assert!(refused("x.md", "---\r\nodd: 1\r\npriority: x\r\n---\r\nx").contains("line 3, field"));
    assert!(refused("x.md", "\r\n---\r\nodd: 1\r\npriority: 2\r\n---\r\nx").contains("line 4 "));
}

#[test]
fn json_says_what_is_wrong_with_it_and_holds_no_nul() {
    for (text, words) in [
        (r#"{"prompt": "a\u0000b"}"#, "NUL"),
        (r#"{"prompt": "x", "odd": {"a": ["\u0000"]}}"#, "NUL"),
        (r#"{"prompt": "x", "a\u0000": 1}"#, "no name"),
        (r#"{"prompt": "\ud800"}"#, "halves of characters"),
        (
            r#"{"prompt": "say \"hi\"" x}"#,
            r#"(`{"prompt": "say \"hi\"" x}`)"#,
        ),
        (r#"{"prompt": "x"} more"#, "something stands behind its end"),
        (
            r#"{"prompt": "x"}{"prompt": "y"}"#,
            "something stands behind its end",
        ),
        (r#"[{"prompt": "x"}]"#, "is a list, not an object"),
        ("// c\n{\"prompt\": \"x\"}", "no comments"),
        (r#"{"prompt": "x", "retries": NaN}"#, "no NaN"),
        (r#"{"prompt": "x",}"#, "a comma before"),
        ("{\"prompt\": \"a\nb\"}", "line break"),
        (
            "{\n\"prompt\": \"x\",\n\"retries\": -1}",
            "line 3, field `retries`",
        ),
    ] {
        let why = refused("x.JSON", text);
        assert!(
            why.contains(words) && !why.contains('\n'),
            "{text:?}: {why}"
        );
    }
    for text in [
        r#"{"prompt": "x", "priority": 2}"#,
        r#"{"Prompt": "x"}"#,
        r#"[{"prompt": "x"}]"#,
        r#"{"priority": 2, "prompt": "x",}"#,
        "{prompt: 'x'}",
    ] {
        assert!(refused("x.md", text).contains(".json"), "{text}");
    }
    assert!(item("x.md", "{\"a\": \"the prompt: now\"}: mend this JSON").is_ok());
}

#[test]
fn values_that_may_mean_something_else_are_refused() {
    for (line, words) in [
        ("priority: urgent", "`urgent` is not one of high"),
        ("priority: 5.0", "`5.0` is not"),
        ("retries: yes", "`yes` is not a whole number"),
        ("timeout: 1h30", "1h30m"),
        ("timeout: 0", "before it begins"),
        ("budget_usd: 1,50", "like 1.50"),
        ("budget_usd: $5", "`$5`"),
        ("exclusive: true", "no switch"),
        ("exclusive: No", "no switch"),
        ("after: a, b", "write more of them as a list"),
        ("after: queue/done/a", "without a folder"),
        ("exclusive: a, b", "one key"),
        ("env: [A=1]", "env: {NAME: value}"),
        ("env: {A=B: 1}", "letters, digits and `_`"),
        ("not_before: 2099-12-31T09", "is not a time"),
        ("not_before: 2099-12-31 9:00", "is not a time"),
        ("not_before: 2099-12-31 09:00 CET", "is not a time"),
        ("not_before: 2099-12-31T24:00", "is not a time"),
        ("not_before: 2099-12-31T09:00:60Z", "is not a time"),
        (
            "not_before: 2026-03-29T02:30[Europe/Berlin]",
            "does not exist",
        ),
        ("not_before: 9999-12-31", "too far away"),
    ] {
        let why = refused("x.md", &format!("---\nodd: 1\n{line}\n---\nx"));
        assert!(
            why.contains(words) && why.starts_with("line 3, field `"),
            "{line}: {why}"
        );
    }
    assert!(refused("x.json", r#"{"exclusive": true, "prompt": "x"}"#).contains("no switch"));
    for (line, remark) in [
        (
            "needs: build",
            "`needs` is kept without effect; the field is `after`",
        ),
        (
            "meta: {priority: 2}",
            "`priority` inside `meta` is kept without effect",
        ),
    ] {
        let item = item("x.md", &format!("---\n{line}\n---\nx")).unwrap();
        assert_eq!(item.remark().as_deref(), Some(remark));
    }
}
