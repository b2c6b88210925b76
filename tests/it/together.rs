//! What happens at once: a signal to all processes, a hold or a better item while starts are staggered,
//! a stranger at a keeper's socket.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::journal::Journal;
use crate::support::{Root, is_alive, kill};

#[test]
fn an_agent_that_a_shutdown_ends_before_its_harness_is_put_back_and_not_counted() {
    for keeper_too in [false, true] {
        let (root, journal) = (Root::plain(), Journal::new());
        let head = "#harness retries: 0";
        journal.drop_script(&root, "x", head, &format!("exec {}", "sleep 600"));
        let mut run = root.start(&["--workers", "1"]);
        let pid = journal.wait_for_start(&root, "x", 1);
        let keeper = root.keeper("agent-1");
        kill(pid, "TERM");
        root.wait_until("its agent is gone", || !is_alive(pid));
        match keeper_too {
            // The host's end: everybody hears of it, and the harness does not get far.
            true => {
                kill(keeper, "TERM");
                root.wait_until("its keeper has ended", || {
                    run.signal("STOP");
                    !is_alive(keeper)
                });
                run.kill9();
            }
            false => {
                run.signal("TERM");
                assert_eq!(run.wait(), Some(0), "{}", run.said());
            }
        }
        let mut next = root.start(&["--workers", "1"]);
        root.wait_until("it is tried again", || journal.of("x").len() == 2);
        let show = root.show("x");
        assert_eq!(show["attempts"][0]["outcome"], "interrupted", "{show:#}");
        next.signal("TERM");
        next.wait();
    }
}

#[test]
fn an_agent_that_somebody_ends_alone_has_failed() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "#harness retries: 0", "exec sleep 600");
    let _run = root.start(&["--workers", "1"]);
    kill(journal.wait_for_start(&root, "x", 1), "TERM");
    root.wait_until("it is parked", || root.is_parked("x"));
}

/// A claude whose prompts are shell scripts.
fn prompts_are_scripts(root: &Root, stagger: &str) {
    let init = r#"{"type":"system","subtype":"init","session_id":"s","model":"m","tools":[]}"#;
    let end = r#"{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"s","num_turns":1,"total_cost_usd":0.1,"usage":{"input_tokens":1,"output_tokens":1}}"#;
    let started = root.at("started");
    let text = format!(
        "#!/bin/sh\necho $HARNESS_ITEM >> {}\necho '{init}'\ngrep '^sh:' | sed 's/^sh://' | sh\necho '{end}'\n",
        started.display()
    );
    fs::write(root.at("agent"), text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.at("agent"), mode).unwrap();
    let config = format!(
        "[sandbox]\nmode = \"off\"\n[retry]\ndelay = 0.05\n[harness]\nstagger = {stagger}\nagent = \"claude\"\ndurability = \"off\"\n\
         [repo]\npath = \"none\"\n[agents.claude]\ncli = \"claude\"\ncommand = [\"{}\"]\n",
        root.at("agent").display()
    );
    fs::write(root.at("harness.toml"), config).unwrap();
}

fn started(root: &Root) -> Vec<String> {
    let text = fs::read_to_string(root.at("started")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_hold_that_comes_while_starts_are_staggered_stops_those_that_wait() {
    let root = Root::plain();
    prompts_are_scripts(&root, "1");
    let hold = "sh:echo wait > $HARNESS_ROOT/state/holds/claude.hold\n";
    for name in ["a.md", "b.md", "c.md"] {
        root.drop_file(name, hold.as_bytes(), 0o644);
    }
    root.exits(111, &["run", "--drain", "--workers", "3"]);
    // Whichever worker is first.
    let started = started(&root);
    assert_eq!(started.len(), 1, "{}", root.picture());
    for name in ["a.md", "b.md", "c.md"] {
        if name == started[0] {
            continue;
        }
        assert!(root.at("queue/pending").join(name).exists(), "{name}");
        assert!(!root.events(name).contains(&"started".to_owned()));
    }
    root.assert_nothing_left();
}

/// A prompt that works until `go` is there.
const UNTIL_GO: &[u8] = b"sh:until [ -e $HARNESS_ROOT/go ]; do sleep 0.02; done\n";

/// Whether a slot waits for its turn to start its first prompt.
fn one_waits_for_its_turn(root: &Root) -> bool {
    let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
    let mut slots = status["agents"].as_array().unwrap().iter();
    slots.any(|slot| {
        let reason = slot["reason"].as_str().unwrap_or_default();
        slot["state"] == "idle" && reason.contains("waits for its turn")
    })
}

#[test]
fn a_better_item_that_comes_while_starts_are_staggered_is_started_next() {
    let root = Root::plain();
    prompts_are_scripts(&root, "600");
    root.drop_file("a.md", UNTIL_GO, 0o644);
    let mut run = root.start(&["--workers", "3", "--drain"]);
    root.wait_until("the first runs", || started(&root) == ["a.md"]);
    for name in ["b.md", "c.md"] {
        root.drop_file(name, b"---\npriority: low\n---\nx\n", 0o644);
    }
    root.wait_until("b waits", || one_waits_for_its_turn(&root));
    root.drop_file("z.md", b"---\npriority: high\n---\nx\n", 0o644);
    root.wait_until("z is known", || {
        let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
        status["work_queue"]["pending"] == 3
    });
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(started(&root)[..2], ["a.md", "z.md"], "{}", root.picture());
    assert_eq!(started(&root).len(), 4);
    root.assert_nothing_left();
}

#[test]
fn a_slot_whose_first_prompt_waits_for_its_turn_says_so_and_takes_scripts_meanwhile() {
    let root = Root::plain();
    prompts_are_scripts(&root, "600");
    root.drop_file("a.md", UNTIL_GO, 0o644);
    let mut run = root.start(&["--workers", "2", "--drain"]);
    root.wait_until("the first prompt runs", || started(&root) == ["a.md"]);
    for name in ["b.md", "c.md"] {
        root.drop_file(name, b"---\npriority: high\n---\nx\n", 0o644);
    }
    root.wait_until("the other slot says why", || one_waits_for_its_turn(&root));
    // Behind prompts of a higher priority, and while they wait.
    for name in ["s1", "s2"] {
        root.script(name, "#harness priority: low\ntrue");
        root.wait_until("a script is done", || root.is_done(name));
        root.wait_until("it says so again", || one_waits_for_its_turn(&root));
    }
    assert_eq!(started(&root), ["a.md"], "{}", root.picture());
    // The slot that has had its turn takes what is there.
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert_eq!(started(&root).len(), 3);
    root.assert_nothing_left();
}

#[test]
fn who_waits_at_a_keepers_socket_does_not_become_its_harness() {
    let (root, journal) = (Root::plain(), Journal::new());
    journal.drop_script(&root, "x", "", &journal.wait_for("go"));
    let first = root.start(&["--workers", "1"]);
    journal.wait_for_start(&root, "x", 1);
    let socket = root.at("state/agents/agent-1/keeper.sock");
    let mut strangers: Vec<UnixStream> = (0..3)
        .map(|_| UnixStream::connect(&socket).unwrap())
        .collect();
    first.kill9();
    let mut second = root.start(&["--workers", "1"]);
    root.wait_until("its agent is adopted", || {
        root.events("x").contains(&"adopted".to_owned())
    });
    for stranger in &mut strangers {
        let mut said = Vec::new();
        stranger.read_to_end(&mut said).unwrap();
        assert!(said.is_empty(), "{said:?}");
    }
    journal.open("go");
    root.wait_until("it is done", || root.is_done("x"));
    second.signal("INT");
    second.wait();
    assert_eq!(journal.of("x").len(), 1);
    root.assert_nothing_left();
}
