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
        ("submit", "add FILE`"),
        ("prune", "gc --dry-run`"),
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
        let line: String = said[at..].lines().take(2).collect();
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
