//! `resume = true`: a retry goes on with what the attempt before had done, in the CLI's own
//! conversation where that can be had, and afresh where not. Through the mock agent, which knows
//! its sessions as the real CLIs do.

use std::fs;

use serde_json::Value;

use crate::launch::{VOICES, session, table};
use crate::support::{Root, git};

/// A ROOT whose prompts go to `cli`, which resumes.
fn root_for(cli: &str) -> Root {
    let root = Root::with_repo();
    let table = table(&root, cli, "resume = true");
    root.config(&format!(
        "agent = {cli:?}\n[repo]\npath = \"repo\"\n{table}"
    ));
    root
}

fn play(root: &Root, name: &str, fields: &str, play: &str) {
    let text = format!("---\n{fields}\n---\nPlease do it.\n[[mock:{play}]]\n");
    root.drop_file(name, text.as_bytes(), 0o644);
}

fn prompt(root: &Root, file: &Value) -> String {
    let sid = file["session"].as_str().unwrap();
    fs::read_to_string(root.at("state/sessions").join(sid).join("prompt.md")).unwrap()
}

/// Subjects of the commits of an item's branch beyond main.
fn log(root: &Root, name: &str) -> String {
    let show = root.show(name);
    let branch = show["branch"]
        .as_str()
        .unwrap_or_else(|| panic!("{show:#}"));
    git(
        &root.repo(),
        &["log", "--format=%s", &format!("main..{branch}")],
    )
}

fn tried(root: &Root, name: &str) -> usize {
    root.show(name)["attempts"].as_array().unwrap().len()
}

#[test]
fn a_retry_goes_on_in_the_conversation_and_with_the_work_of_the_attempt_before() {
    for cli in VOICES {
        let root = root_for(cli);
        play(&root, "x.md", "", "resume");
        root.drain();
        assert_eq!(tried(&root, "x.md"), 2, "{cli}\n{}", root.picture());
        let (first, second) = (session(&root, "x.md", 0), session(&root, "x.md", 1));
        assert_eq!(second["outcome"], "succeeded", "{cli}: {second:#}");
        assert!(
            first["resumed"].is_null() && first["leftover"] == true,
            "{first:#}"
        );
        assert!(first["cli_session"].is_string(), "{cli}: {first:#}");
        assert_eq!(second["resumed"], first["cli_session"], "{cli}");
        assert_eq!(second["cli_session"], first["cli_session"], "{cli}");
        assert_eq!(second["base_oid"], first["base_oid"], "{cli}");
        // Its own words are that it goes on; its edit is the attempt's before, kept by harness.
        assert_eq!(log(&root, "x.md"), "harness: x.md, attempt 1\n", "{cli}");
        assert_eq!(second["commits"], 1, "{cli}");
        let told = prompt(&root, &second);
        let reason = first["reason"].as_str().unwrap();
        let reason = reason.split_whitespace().next().unwrap();
        for part in [
            "Your last attempt",
            reason,
            "Please do it.\n[[mock:resume]]\n",
        ] {
            assert!(told.contains(part), "{cli}: no {part} in {told}");
        }
        // Tokens are counted once, whoever counts on.
        let tokens = |f: &Value| f["input_tokens"].as_u64().unwrap();
        // Of two turns without a tool in a row, opencode's stream tells the figures of one.
        let want = if cli == "opencode" { 3000 } else { 4000 };
        assert_eq!(tokens(&first) + tokens(&second), want, "{cli}: {second:#}");
        root.assert_nothing_left();
    }
}

#[test]
fn a_lost_conversation_costs_no_retry_and_no_work() {
    for cli in VOICES {
        let root = root_for(cli);
        play(&root, "x.md", "retries: 0", "resume first=1");
        root.drain();
        assert!(root.is_parked("x.md"), "{cli}\n{}", root.picture());
        fs::remove_dir_all(root.at("mock-home/sessions")).unwrap();
        root.ok(&["retry", "x.md"]);
        root.drain();
        assert!(root.is_done("x.md"), "{cli}\n{}", root.picture());
        let (second, third) = (session(&root, "x.md", 1), session(&root, "x.md", 2));
        assert_eq!(second["fault"], "session_lost", "{cli}: {second:#}");
        assert!(
            second["resumed"].is_string() && third["resumed"].is_null(),
            "{cli}"
        );
        assert_eq!(third["outcome"], "succeeded");
        assert!(log(&root, "x.md").contains("attempt 1"), "{cli}");
        assert!(prompt(&root, &third).contains("An earlier attempt at this item"));
        root.assert_nothing_left();
    }
}

#[test]
fn without_the_switch_or_with_another_prompt_it_begins_from_the_base() {
    let root = Root::with_repo();
    let text = table(&root, "claude", "");
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"repo\"\n{text}"
    ));
    play(&root, "x.md", "", "resume first=1");
    root.drain();
    let second = session(&root, "x.md", 1);
    assert!(second["resumed"].is_null());
    assert_eq!(log(&root, "x.md"), "mock-agent: mock.txt\n");
    assert!(!prompt(&root, &second).contains("last attempt"));

    let root = root_for("claude");
    play(&root, "x.md", "retries: 0", "resume first=1");
    root.drain();
    fs::remove_file(root.at("queue/parked/x.md")).unwrap();
    play(&root, "x.md", "", "success file=other.txt");
    root.drain();
    let second = session(&root, "x.md", 1);
    assert!(second["resumed"].is_null(), "{second:#}");
    assert_eq!(log(&root, "x.md"), "mock-agent: other.txt\n");
}

/// A script that sits in its slot until it is let go, and then ends well: what fails is tried again,
/// in any slot. `at-AGENT` says where it sits.
pub const SIT: &str = "#!/bin/sh\ntouch \"$HARNESS_ROOT/at-$HARNESS_SLOT\"\nuntil [ -e \"$HARNESS_ROOT/go-$HARNESS_SLOT\" ]; do timeout 0.02 tail -f /dev/null; done\nexit 0\n";

pub fn other(slot: &str) -> &'static str {
    if slot == "agent-1" {
        "agent-2"
    } else {
        "agent-1"
    }
}

/// Waits until x.md waits for its retry; the slot that had it.
fn slot_of_first_attempt(root: &Root) -> String {
    root.wait_until("it waits for its retry", || {
        root.events("x.md").contains(&"finished".to_owned())
            && root.at("queue/pending/x.md").exists()
    });
    let slot = session(root, "x.md", 0)["slot"].clone();
    slot.as_str().unwrap().to_owned()
}

#[test]
fn a_retry_goes_to_the_idle_slot_that_had_the_item_whoever_is_woken() {
    let root = root_for("claude");
    retry_after(&root, "1.5");
    // The other slot is taken until after the first attempt, so it is the last to fall idle.
    root.drop_file("sit", SIT.as_bytes(), 0o755);
    let mut run = root.start(&["--drain", "--workers", "2"]);
    let sits = |slot: &str| root.at(format!("at-{slot}")).exists();
    root.wait_until("the script sits", || sits("agent-1") || sits("agent-2"));
    play(&root, "x.md", "", "resume");
    let slot = slot_of_first_attempt(&root);
    fs::write(root.at(format!("go-{}", other(&slot))), "").unwrap();
    assert_eq!(run.wait(), Some(0), "{}\n{}", run.said(), root.picture());
    let second = session(&root, "x.md", 1);
    assert_eq!(second["slot"], *slot, "{}", run.said());
    assert!(second["resumed"].is_string());
    root.assert_nothing_left();
}

/// `[retry] delay`, which the kit has set already.
fn retry_after(root: &Root, seconds: &str) {
    let text = fs::read_to_string(root.at("harness.toml")).unwrap();
    let text = text.replace("delay = 0.05", &format!("delay = {seconds}\njitter = 0"));
    fs::write(root.at("harness.toml"), text).unwrap();
}

#[test]
fn where_that_slot_is_busy_another_goes_on_and_resumes_if_its_cli_can() {
    for (cli, resumes) in [
        ("claude", false),
        ("gemini", false),
        ("codex", true),
        ("opencode", true),
    ] {
        let root = root_for(cli);
        retry_after(&root, "2");
        play(&root, "x.md", "", "resume first=1");
        let mut run = root.start(&["--drain", "--workers", "2"]);
        let slot = slot_of_first_attempt(&root);
        for name in ["one", "two"] {
            root.drop_file(name, SIT.as_bytes(), 0o755);
        }
        let sits = |slot: &str| root.at(format!("at-{slot}")).exists();
        root.wait_until("both slots are taken", || {
            sits("agent-1") && sits("agent-2")
        });
        fs::write(root.at(format!("go-{}", other(&slot))), "").unwrap();
        root.wait_until("the other slot does it", || root.is_done("x.md"));
        fs::write(root.at(format!("go-{slot}")), "").unwrap();
        assert_eq!(run.wait(), Some(0), "{}\n{}", run.said(), root.picture());
        let (first, second) = (session(&root, "x.md", 0), session(&root, "x.md", 1));
        assert_eq!(second["slot"], other(&slot), "{cli}");
        let want = if resumes {
            first["cli_session"].clone()
        } else {
            Value::Null
        };
        assert_eq!(second["resumed"], want, "{cli}");
        assert!(
            log(&root, "x.md").contains("harness: x.md, attempt 1"),
            "{cli}"
        );
        root.assert_nothing_left();
    }
}

#[test]
fn what_a_stop_interrupted_is_resumed_by_the_next_harness_in_the_same_slot() {
    let root = root_for("claude");
    play(&root, "x.md", "", "timeout every=0.05 first=1");
    let mut run = root.start(&["--workers", "3"]);
    root.wait_until("it works", || {
        let status = fs::read(root.at("state/status.json")).unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        let agents = status["agents"].as_array().cloned().unwrap_or_default();
        agents.iter().any(|a| a["turns"].as_u64() > Some(2))
    });
    run.signal("TERM");
    run.wait();
    root.drain();
    let (first, second) = (session(&root, "x.md", 0), session(&root, "x.md", 1));
    assert_eq!(first["outcome"], "interrupted");
    assert_eq!(second["outcome"], "succeeded", "{}", root.picture());
    assert_eq!(second["slot"], first["slot"]);
    assert_eq!(second["resumed"], first["cli_session"]);
    root.assert_nothing_left();
}
