//! Input that is nearly right: refused with its line and the right form, said where it starts, or left
//! alone and named.

use std::fs;

use super::{printed, reason, with_cat};
use crate::support::{Root, describe};

/// Drops them, works until all is done, and looks at why each was refused. Nothing of them has run.
fn all_refused(cases: &[(&str, &[u8], &str)]) {
    let root = with_cat();
    for (name, bytes, _) in cases {
        root.drop_file(name, bytes, 0o644);
    }
    root.drain();
    for (name, bytes, words) in cases {
        let why = reason(&root, name);
        let text = String::from_utf8_lossy(bytes);
        assert!(root.is_parked(name), "{name}: {text}");
        assert!(why.contains(words), "{name}: {why}");
        assert!(
            !why.contains('\n') && !why.contains("\\\""),
            "{name}: {why}"
        );
        assert_eq!(root.show(name)["outcome"], "refused", "{name}");
    }
    assert!(!root.at("state/sessions").exists() || printed(&root).is_empty());
}

#[test]
fn a_script_that_is_not_one_from_its_first_byte_never_reaches_the_agent() {
    all_refused(&[
        ("blank", b"\n#!/bin/sh\n:\n", "line 2"),
        ("space.md", b" #!/bin/sh\n:\n", "line 1"),
        ("tab", b"\t#!/bin/sh\n:\n", "line 1"),
        ("crlf", b"\r\n\r\n#!/bin/sh\r\n:\r\n", "line 3"),
        ("unseen", "\u{200b}#!/bin/sh\n:\n".as_bytes(), "line 1"),
        ("comment", b"# Copyright\n#!/bin/sh\n:\n", "line 2"),
        (
            "front.md",
            b"---\npriority: 2\n---\n\n#!/bin/sh\n:\n",
            "line 5",
        ),
        ("turned", b"!#/bin/sh\n:\n", "first byte"),
        ("alone", b"#!", "names no program"),
        ("spaces", b"#!  \n:\n", "names no program"),
        ("word", b"#!sh\n:\n", "#!/usr/bin/env sh"),
        ("job.pyw", b"print(1)\n", "#!"),
        ("Makefile", b"all:\n\ttrue\n", "#!"),
        (
            "fields",
            b"#!/bin/sh\n---\npriority: 2\n---\n:\n",
            "`#harness priority: ",
        ),
        (
            "slip",
            b"#!/bin/sh\n#harnes priority: 2\n:\n",
            "`#harness priority: ",
        ),
    ]);
}

#[test]
fn text_in_other_encodings_and_json_that_is_none_never_reach_the_agent() {
    let utf32: Vec<u8> = "\u{feff}Do it.\n"
        .chars()
        .flat_map(|c| u32::from(c).to_le_bytes())
        .collect();
    all_refused(&[
        ("utf32.md", &utf32, "UTF-32"),
        ("latin.md", b"Do\r\n\xf6\r\n", "line 2 is not UTF-8"),
        ("latin.json", b"{\"prompt\": \"\xf6\"}", "not UTF-8"),
        ("mac.md", b"---\rpriority: 2\r---\rx\r", "CR alone"),
        (
            "nul.json",
            br#"{"prompt": "a\u0000b"}"#,
            "line 1, field `prompt`: it holds a NUL",
        ),
        (
            "env.json",
            br#"{"prompt": "x", "env": {"A": "\u0000"}}"#,
            "NUL",
        ),
        (
            "half.JSON",
            br#"{"prompt": "\ud800"}"#,
            "halves of characters",
        ),
        (
            "two.json",
            br#"{"prompt": "x"}{"prompt": "y"}"#,
            "something stands behind",
        ),
        (
            "list.json",
            br#"[{"prompt": "x"}]"#,
            "a list, not an object",
        ),
        (
            "nested.json",
            br#"{"harness": {"priority": 2}, "prompt": "x"}"#,
            "stand for themselves",
        ),
        ("comma.md", br#"{"priority": 2, "prompt": "x",}"#, ".json"),
        (
            "lines.jsonl",
            b"{\"prompt\": \"x\"}\n{\"prompt\": \"y\"}\n",
            ".json",
        ),
        (
            "item.yaml",
            b"priority: 2\nprompt: x\n",
            "harness reads no `.yaml`",
        ),
        (
            "unseen.md",
            "---\npri\u{200b}ority: 2\n---\nx\n".as_bytes(),
            "nobody sees (U+200B)",
        ),
        (
            "wide.md",
            "---\npriority\u{a0}: 2\n---\nx\n".as_bytes(),
            "(U+00A0)",
        ),
    ]);
}

#[test]
fn fields_in_other_places_and_values_of_other_kinds_are_refused_with_their_line() {
    all_refused(&[
        (
            "title.md",
            b"# Title\n---\npriority: 2\n---\nx\n",
            "line 3 looks like",
        ),
        (
            "crlf.md",
            b"# Title\r\n\r\n---\r\npriority: 2\r\n---\r\nx\r\n",
            "line 4 looks like",
        ),
        (
            "comment.md",
            b"<!-- c -->\n---\npriority: 2\n---\nx\n",
            "line 3 looks like",
        ),
        (
            "yaml.md",
            b"---yaml\npriority: 2\n---\nx\n",
            "line 2 looks like",
        ),
        (
            "script.md",
            b"#harness priority: 2\nx\n",
            "line 1 looks like",
        ),
        (
            "open.md",
            b"---\npriority: 2\n----\nx\n",
            "line 3 (`----`) has to be `---`",
        ),
        (
            "inner.md",
            b"---\nharness:\n  priority: 2\n---\nx\n",
            "stand for themselves",
        ),
        (
            "depends.md",
            b"---\ndepends_on: a\n---\nx\n",
            "the nearest is `after`",
        ),
        (
            "branch.md",
            b"---\nbranch_name: a\n---\nx\n",
            "the nearest is `branch`",
        ),
        (
            "urgent.md",
            b"---\nodd: 1\npriority: urgent\n---\nx\n",
            "line 3, field `priority`: `urgent`",
        ),
        (
            "comma.md",
            b"---\nafter: a, b\n---\nx\n",
            "write more of them as a list",
        ),
        ("switch.md", b"---\nexclusive: true\n---\nx\n", "no switch"),
        (
            "nothing.md",
            b"---\npriority:\n---\nx\n",
            "nothing stands behind it",
        ),
        (
            "gap.md",
            b"---\nnot_before: 2099-03-29T02:30[Europe/Berlin]\n---\nx\n",
            "does not exist",
        ),
        (
            "hour.md",
            b"---\nnot_before: 2099-12-31T09\n---\nx\n",
            "is not a time",
        ),
        ("money.md", b"---\nbudget_usd: 1,50\n---\nx\n", "like 1.50"),
    ]);
}

#[test]
fn what_may_be_a_field_or_prose_is_said_where_it_starts() {
    let root = with_cat();
    let said = [
        (
            "bold.md",
            "**Priority:** high\n\nx\n",
            "line 1 looks like one",
        ),
        (
            "below.md",
            "x\n---\npriority: 2\n---\nx\n",
            "line 3 looks like one",
        ),
        ("json.md", "{\"priority\": 2}\nx\n", "line 1 looks like one"),
        (
            "bare",
            "#!/bin/sh\n# priority: 2\n:\n",
            "line 2 looks like one",
        ),
        (
            "behind",
            "#!/bin/sh\nset -e #harness priority: 2\n",
            "line 2 looks like one",
        ),
        (
            "own.md",
            "---\nneeds: a\n---\nx\n",
            "`needs` is kept without effect; the field is `after`",
        ),
        (
            "meta.md",
            "---\nmeta: {priority: 2}\n---\nx\n",
            "`priority` inside `meta` is kept without",
        ),
    ];
    for (name, text, _) in said {
        root.drop_file(name, text.as_bytes(), 0o644);
    }
    let out = describe(&root.drain());
    for (name, _, words) in said {
        assert!(root.is_done(name), "{}", root.picture());
        let line = out
            .lines()
            .find(|l| l.contains(&format!("started     {name} (")));
        assert!(line.is_some_and(|l| l.contains(words)), "{name}: {out}");
    }
}

#[test]
fn temporary_files_of_other_programs_stay_and_are_named_and_copies_of_a_conflict_are_items() {
    let root = Root::plain();
    let pending = root.at("queue/pending");
    let temporary = [
        ("a.md.TMP", "a temporary file"),
        ("a.md.qZkRtp", "a temporary file"),
        ("a.crswap", "a temporary file"),
        ("a.filepart", "a download"),
        ("a.md.orig", "a backup"),
        ("~$doc.docx", "an office program's"),
        ("Thumbs.db", "a file that a desktop"),
    ];
    for (name, _) in temporary {
        fs::write(pending.join(name), "#!/bin/sh\n:\n").unwrap();
    }
    let copy = "a.sync-conflict-20261130-101500-ABCDEFG";
    root.script(copy, "true");
    root.drain();
    assert!(root.is_done(copy));
    let list = describe(&root.harness(&["list"]));
    for (name, why) in temporary {
        assert!(pending.join(name).exists(), "{}", root.picture());
        let words = format!("queue/pending/{name} is no item: it looks like {why}");
        assert!(list.contains(&words), "{list}");
    }
    let status = describe(&root.harness(&["status"]));
    assert!(
        status.contains("is no item: it looks like ") && status.contains("; and 6 more"),
        "{status}"
    );
}

#[test]
fn add_says_that_a_time_is_past_and_keeps_fields_behind_a_byte_order_mark() {
    let root = with_cat();
    let file = root.at("x.md");
    fs::write(
        &file,
        "\u{feff}---\nnot_before: 2020-01-01\n---\nthe prompt\n",
    )
    .unwrap();
    let added = describe(&root.harness(&["add", "-p", "high", file.to_str().unwrap()]));
    assert!(added.contains("x.md: its `not_before` is past"), "{added}");
    root.drain();
    assert_eq!(printed(&root), "the prompt\n");
    assert_eq!(root.show("x.md")["fields"]["not_before"], "2020-01-01");
}
