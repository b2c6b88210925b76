//! What a person reads of a run and of what stands after it: said once, where it belongs, in words that lead
//! on.

use std::fs;

use crate::merging::{approve, finish, merge, set};
use crate::support::{Root, describe, git};

/// The lines of the table and the counts at the end of a run.
fn closing(root: &Root) -> String {
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    String::from_utf8(out.stdout).unwrap()
}

fn said(root: &Root, args: &[&str]) -> String {
    String::from_utf8(root.harness(args).stderr).unwrap()
}

#[test]
fn the_end_of_a_run_tells_what_waits_for_a_person_from_what_is_done() {
    let root = Root::with_repo();
    set(&root, "mode = \"review\"\n", "");
    root.script("a", "echo 1 >a");
    root.script("b", "echo 1 >b");
    root.script("plain", "true");
    let said = closing(&root);
    assert!(
        said.contains("\n1 done, 2 to review, 0 parked, 0 retries.\n"),
        "{said}"
    );
    assert!(said.contains(" review\n"), "{said}");
    // Approved and merged within one run, it counts once.
    let run = root.start(&["--workers", "1", "--quiet"]);
    approve(&root, &["a"]);
    root.wait_until("it is merged", || root.is_done("a"));
    drop(run);
    let mut run = root.start(&["--workers", "1"]);
    root.script("c", "echo 1 >c");
    root.wait_until("it waits", || root.at("queue/review/c").exists());
    approve(&root, &["c"]);
    root.wait_until("it is merged", || root.is_done("c"));
    run.signal("INT");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let said = run.said();
    assert!(said.contains("\n1 done, 0 parked, 0 retries.\n"), "{said}");
    let row = said.lines().find(|line| line.starts_with("c "));
    let row = row.unwrap_or_else(|| panic!("{said}"));
    assert!(row.contains(" - "), "a merge is no attempt: {row}");
}

#[test]
fn the_longest_outcome_is_as_wide_as_its_column() {
    let root = Root::with_repo();
    let gate = "[gates.g]\ncommand = [\"false\"]\nwhen = [\"after\"]\non_failure = \"park\"\n";
    root.config(&format!("[repo]\npath = \"repo\"\n{gate}"));
    root.script("x", "echo 1 >a");
    let said = said(&root, &["run", "--drain", "--workers", "1"]);
    let at = |word: &str| {
        let line = said.lines().find(|line| line.contains(word));
        line.and_then(|line| line.find(" x"))
            .unwrap_or_else(|| panic!("{word}: {said}"))
    };
    for word in ["  gate  ", "gate_failed"] {
        assert_eq!(at("started"), at(word), "{said}");
    }
}

#[test]
fn resume_names_the_hold_that_stands_and_how_it_ends() {
    let root = Root::plain();
    fs::create_dir_all(root.at("state/holds")).unwrap();
    fs::write(
        root.at("state/holds/claude.hold"),
        r#"{"agent":"claude","until":"2099-01-01T00:00:00Z","class":"usage_limit","reason":"its usage limit"}"#,
    )
    .unwrap();
    let told = said(&root, &["resume"]);
    for part in [
        "nothing was paused or interrupted",
        "claude is held until",
        "its usage limit",
        " resume claude`",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // The nearest of what can be resumed.
    for (typed, meant) in [
        ("cluade", "resume claude"),
        ("puase", "resume pause"),
        ("agnet-2", "resume agent-2"),
    ] {
        let told = said(&root, &["resume", typed]);
        assert!(
            told.contains(&format!("{meant}` meant?")),
            "{typed}: {told}"
        );
    }
    assert!(root.at("state/holds/claude.hold").exists());
    let told = said(&root, &["resume", "claude"]);
    assert!(told.contains("the hold of claude ended"), "{told}");
    let told = said(&root, &["resume"]);
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_short_disk_is_said_once_however_many_slots_it_holds_back() {
    let root = Root::plain();
    root.config("[repo]\npath = \"none\"\n[limits]\ndisk_free_min = \"900TB\"\n");
    root.script("x", "true");
    let run = root.start(&["--workers", "4"]);
    root.wait_until("all slots wait", || {
        root.ok(&["status"]).matches(" paused").count() == 4
    });
    let status = root.ok(&["status"]);
    assert_eq!(
        status.matches("nothing new is claimed").count(),
        1,
        "{status}"
    );
    assert!(status.contains("4 slots are PAUSED: only "), "{status}");
    assert_eq!(
        run.said().matches("nothing new is claimed").count(),
        1,
        "{}",
        run.said()
    );
}

#[test]
fn a_conflict_can_be_merged_by_hand_and_show_says_how() {
    let root = Root::with_repo();
    set(&root, "mode = \"review\"\n", "");
    finish(&root, &[("a", "echo a >README"), ("b", "echo b >README")]);
    approve(&root, &["a", "b"]);
    merge(&root, 1);
    let parked = if root.is_parked("a") { "a" } else { "b" };
    let shown = root.ok(&["show", parked]);
    let next = shown.lines().find(|line| line.starts_with("What now: "));
    let next = next.unwrap_or_else(|| panic!("{shown}"));
    let command = next.split('`').nth(1).unwrap();
    let branch = command
        .strip_prefix("git merge ")
        .unwrap_or_else(|| panic!("{next}"));
    assert!(branch.starts_with("harness/"), "{next}");
    git(&root.repo(), &["rev-parse", "--verify", branch]);
    assert!(next.contains(" retry "), "{next}");
}

#[test]
fn a_hold_that_no_item_waits_behind_any_more_is_over() {
    let root = Root::plain();
    let tables =
        "[agents.gone]\ncommand = [\"no-such-program\"]\n[agents.too]\ncommand = [\"nor-this\"]\n";
    root.config(&format!("[repo]\npath = \"none\"\n{tables}"));
    for (name, agent) in [("a.md", "gone"), ("b.md", "gone"), ("c.md", "too")] {
        let text = format!("---\nagent: {agent}\n---\ndo it\n");
        root.drop_file(name, text.as_bytes(), 0o644);
    }
    let out = root.exits(111, &["run", "--drain"]);
    let told = describe(&out);
    assert!(told.contains("no-such-program is not found"), "{told}");
    assert!(!told.contains("seen by harness process"), "{told}");
    let held = || {
        let status = root.ok(&["status"]);
        (
            status.contains("gone is HELD"),
            status.contains("too is HELD"),
        )
    };
    assert_eq!(held(), (true, true));
    root.ok(&["cancel", "a.md"]);
    assert_eq!(held(), (true, true));
    root.ok(&["cancel", "b.md"]);
    assert_eq!(held(), (false, true));
    // A run takes it away.
    assert!(root.at("state/holds/gone.hold").exists());
    root.harness(&["run", "--drain"]);
    assert!(!root.at("state/holds/gone.hold").exists());
    assert!(root.at("state/holds/too.hold").exists());
    // So does one that goes on, where its last item is taken out of the queue.
    let run = root.start(&["--workers", "1"]);
    fs::rename(root.at("queue/pending/c.md"), root.at("queue/parked/c.md")).unwrap();
    root.wait_until("it is over", || !root.at("state/holds/too.hold").exists());
    drop(run);
    // The next item that needs it waits behind a new one.
    root.ok(&["retry", "a.md"]);
    root.harness(&["run", "--drain"]);
    assert_eq!(held(), (true, false));
}

#[test]
fn the_list_gives_a_reason_where_there_is_one() {
    let root = Root::plain();
    root.ok(&["add", "--prompt", "x", "--name", "usual"]);
    root.ok(&["add", "--prompt", "x", "--name", "soon", "-p", "high"]);
    let list = root.ok(&["list"]);
    let row = |name: &str| {
        let row = list.lines().find(|line| line.starts_with(name));
        row.unwrap_or_else(|| panic!("{list}")).to_owned()
    };
    assert!(!row("usual").contains("priority"), "{list}");
    assert!(
        row("soon").contains("priority 9") || row("soon").contains("priority 8"),
        "{list}"
    );
}

#[test]
fn one_of_a_kind_is_not_spoken_of_as_many() {
    let root = Root::plain();
    root.config("agent = \"a\"\n[repo]\npath = \"none\"\n[agents.a]\ncommand = [\"cat\"]\n");
    let doctor = root.harness(&["doctor"]);
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert!(text.contains(", 1 agent\n"), "{text}");
    root.script("x", "true");
    root.drain();
    let gc = root.ok(&["gc", "--dry-run"]);
    assert!(gc.contains(" 0 sessions "), "{gc}");
}

#[test]
fn a_name_that_is_mistyped_is_answered_with_the_nearest() {
    let root = Root::plain();
    root.config(
        "[repo]\npath = \"none\"\n[tokens]\nbuild = 2\n[agents.mine]\ncommand = [\"cat\"]\n",
    );
    root.ok(&[
        "add",
        "--prompt",
        "#!/bin/sh\ntrue",
        "--name",
        "fix-the-title-c94289",
    ]);
    root.drain();
    for (args, near) in [
        (&["stauts"][..], "the nearest is `status`"),
        (&["--root", "x", "lits"], "the nearest is `list`"),
        (&["session", "evnts"], "the nearest is `events`"),
        (&["config", "sett"], "the nearest is `set`"),
        (&["sandbox", "explian"], "the nearest is `explain`"),
        (&["list", "parkd"], "'parked'"),
        (&["add", "--promt", "x"], "'--prompt'"),
        (
            &["config", "set", "wrokers", "2"],
            "the nearest is `workers`",
        ),
        (
            &["show", "fix-the-tilte"],
            "the nearest is fix-the-title-c94289",
        ),
        (
            &["logs", "fx-the-title"],
            "the nearest is fix-the-title-c94289",
        ),
        (
            &["wait", "fix-teh-title"],
            "the nearest is fix-the-title-c94289",
        ),
        (
            &["session", "summary", "fix-the-tilte"],
            "the nearest item is fix-the-title-c94289",
        ),
        (&["with", "biuld", "--", "true"], "the nearest is `build`"),
        (&["sandbox", "explain", "cluade"], "the nearest is `claude`"),
        (
            &["add", "--prompt", "x", "--agent", "mien"],
            "the nearest is `mine`",
        ),
        (
            &["interrupt", "agnet-1", "why"],
            "interrupt agent-1 why` meant?",
        ),
        (&["retry", "--all", "faild"], "'failed'"),
    ] {
        let said = said(&root, args);
        assert!(said.contains(near), "{args:?}: {said}");
    }
    for (name, text, near) in [
        (
            "g.md",
            "---\nagent: mine\ngates: [makers]\n---\nx\n",
            "unknown gate `makers`; the nearest is `markers`",
        ),
        (
            "a.md",
            "---\nagent: mien\n---\nx\n",
            "unknown agent `mien`; the nearest is `mine`",
        ),
    ] {
        root.drop_file(name, text.as_bytes(), 0o644);
        root.drain();
        let show = root.show(name);
        assert!(show["reason"].as_str().unwrap().contains(near), "{show:#}");
    }
}
