//! What a person is told who types the words of other tools, and of orders that are left over.

use std::fs;

use crate::support::{Root, describe};

#[test]
fn words_of_other_tools_lead_to_the_right_command() {
    let root = Root::plain();
    for (typed, right) in [
        ("remove", "cancel NAME`"),
        ("rm", "cancel NAME`"),
        ("delete", "cancel NAME`"),
        ("kill", "cancel NAME`"),
        ("stop", "drain`"),
        ("start", "run`"),
        ("ls", "list`"),
        ("queue", "list`"),
        ("ps", "status`"),
        ("failed", "list parked`"),
        ("version", "--version`"),
        ("RESTART", "retry NAME`"),
        ("prune", "gc --dry-run`"),
        ("diff", "review NAME`"),
        ("merge", "approve NAME`"),
        ("decline", "reject NAME --comment"),
    ] {
        let out = root.harness(&[typed, "x"]);
        assert_eq!(out.status.code(), Some(2), "{typed}: {}", describe(&out));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let tip = said.split("what to do: ").nth(1).unwrap_or_default();
        assert!(tip.contains(right), "{typed}: {said}");
        assert!(!said.contains("resume"), "{typed}: {said}");
    }
    // A slip of the fingers is told by its letters.
    let out = root.harness(&["lsit"]);
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("list"),
        "{}",
        describe(&out)
    );
    let help = root.ok(&["help", "add"]);
    assert!(help.contains("--prompt"), "{help}");
}

#[test]
fn every_error_is_one_line_that_says_what_and_why_and_what_to_do() {
    let root = Root::plain();
    let plain = tempfile::tempdir().unwrap();
    let nowhere = plain.path().to_str().unwrap();
    let said = |args: &[&str]| {
        let out = root.harness(args);
        assert_ne!(out.status.code(), Some(0), "{args:?}: {}", describe(&out));
        String::from_utf8(out.stderr).unwrap()
    };
    for (args, what, advice) in [
        (&["show", "nope"][..], "no such item", "harness list"),
        (&["ls"], "cannot do that", "list` shows the items"),
        (
            &["lsit"],
            "no command `lsit`: the nearest is `list`",
            " list`",
        ),
        (
            &["session", "sumary"],
            "no command `session sumary`: the nearest is `summary`",
            " session summary`",
        ),
        (
            &["config", "get"],
            "no command `config get`",
            " config --help`",
        ),
        (
            &["list", "done", "--jsn"],
            "unexpected argument '--jsn'",
            "'--json'",
        ),
        (&["list", "nonsense"], "[possible values: ", "--help"),
        (
            &["show"],
            "were not provided: <NAME>",
            "Usage: harness show",
        ),
        (
            &["interrupt", "agent2", "x"],
            "agent2",
            "interrupt agent-2 x",
        ),
        (&["add", "no-such-file"], "cannot add the file", "--prompt"),
        (&["resume", "agent-1\n x"], "agent-1", "resume agent-"),
    ] {
        let said = said(args);
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
        let (before, after) = said.split_once("; what to do: ").unwrap_or_default();
        assert!(before.starts_with("harness: "), "{args:?}: {said}");
        assert!(
            before.contains(what) && after.contains(advice),
            "{args:?}: {said}"
        );
    }
    let mut elsewhere = std::process::Command::new(env!("CARGO_BIN_EXE_harness"));
    let out = elsewhere
        .args(["--root", nowhere, "status"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains(nowhere) && text.contains("; what to do: "),
        "{text}"
    );
    root.config("wrokers = 3\nworkers = 0\n[repos]\n");
    for command in ["run", "config", "branches"] {
        let said = said(&[command]);
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
        for part in [
            "harness.toml: ",
            "`wrokers`",
            "; line 10: ",
            "; what to do: ",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    // Nothing typed is no error to read in one line: it is answered with the help.
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_harness"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&help.stderr).lines().count() > 10);
}

#[test]
fn adding_what_is_no_file_says_how_to_add_a_text() {
    let root = Root::plain();
    let out = root.exits(100, &["add", "Fix the typo in the title"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains("add --prompt 'Fix the typo in the title'"),
        "{said}"
    );
    let out = root.harness(&["add", "fix.md"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains("no file of this name in") && said.contains("--prompt"),
        "{said}"
    );
}

#[test]
fn orders_that_are_left_over_are_said_at_the_next_start_with_what_to_do() {
    let root = Root::plain();
    root.script("x", "true");
    root.ok(&["drain"]);
    root.ok(&["interrupt", "agent-2", "look at this"]);
    fs::write(root.at("state/control/workers"), "1\n").unwrap();
    fs::write(
        root.at("state/holds/claude.hold"),
        r#"{"reason":"no credit"}"#,
    )
    .unwrap();
    // The clock must have moved on since.
    let mut run = root.start(&["--quiet"]);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let said = run.said();
    for words in [
        ["state/control/drain is left", " resume` takes it back"],
        ["state/control/workers is left", "remove the file"],
        [
            "agent-2 is interrupted from before this run: look at this",
            " resume agent-2` ends it",
        ],
        ["claude is held from before this run: no credit", " resume`"],
    ] {
        let at = said
            .find(words[0])
            .unwrap_or_else(|| panic!("{}: {said}", words[0]));
        let line = said[at..].lines().next().unwrap_or_default();
        assert!(line.contains(words[1]), "{}: {said}", words[1]);
    }
    assert!(root.is_done("x"), "{said}");
    root.ok(&["pause"]);
    let mut run = root.start(&["--quiet", "--workers", "1"]);
    root.wait_until("the pause is said", || {
        let said = run.said();
        said.contains("state/control/pause is left") && said.contains("nothing new is claimed")
    });
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
    // What stands is in the status too.
    let status = root.ok(&["status"]);
    assert!(
        status.contains("PAUSED") && status.contains(" resume` takes it back"),
        "{status}"
    );
}
