//! No answer is lost: one that its agent did not live to hear reaches the next attempt. And neither
//! answers nor questions are written through a symlink that an agent put in its folder's place.

use std::fs;

use crate::support::{Root, describe, files_below};

/// A claude that asks once and then does what `then` says, until its prompt holds the answer.
fn asks(root: &Root, then: &str) {
    let init = r#"{"type":"system","subtype":"init","session_id":"s","model":"m","tools":[]}"#;
    let end = r#"{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"s","num_turns":1,"total_cost_usd":0.1,"usage":{"input_tokens":1,"output_tokens":1}}"#;
    let text = format!(
        "#!/bin/sh\nprompt=$(cat)\necho '{init}'\ncase $prompt in *THE-LEFT-ONE*) echo heard >> {0}/heard;;\n\
         *) touch {0}/started\n{then}\n;; esac\necho '{end}'\n",
        root.path().display()
    );
    let agent = root.at("agent");
    fs::write(&agent, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&agent, mode).unwrap();
    root.config(&format!(
        "agent = \"claude\"\n[repo]\npath = \"none\"\n[agents.claude]\ncli = \"claude\"\ncommand = [\"{}\"]\n",
        agent.display()
    ));
    root.drop_file("p.md", b"do\n", 0o644);
}

fn interrupt_exists(root: &Root) -> bool {
    root.at("state/interrupts/agent-1.interrupt").exists()
}

fn answered(root: &Root) -> Vec<(String, String)> {
    let show = root.show("p.md");
    let events = show["events"].as_array().unwrap().iter();
    let answered = events.filter(|e| e["event"] == "answered");
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    answered
        .map(|e| (text(&e["question"]), text(&e["answer"])))
        .collect()
}

fn assert_heard(root: &Root) {
    let run = root.harness(&["run", "--drain", "--workers", "1"]);
    assert!(
        root.is_done("p.md"),
        "{}\n{}",
        describe(&run),
        root.picture()
    );
    let heard = fs::read_to_string(root.at("heard")).unwrap_or_default();
    assert_eq!(heard, "heard\n", "{}", root.picture());
    let want = ("which one?".to_owned(), "THE-LEFT-ONE".to_owned());
    assert_eq!(answered(root), [want]);
    root.assert_nothing_left();
}

#[test]
fn an_answer_given_while_no_harness_lives_reaches_the_next_attempt_of_an_agent_that_has_ended() {
    let root = Root::plain();
    let go = root.at("go");
    asks(
        &root,
        &format!(
            "until [ -e {} ]; do sleep 0.02; done\necho 'which one?' > \"$HARNESS_INTERRUPT\"",
            go.display()
        ),
    );
    let run = root.start(&["--workers", "1"]);
    root.wait_until("it runs and its status says so", || {
        let status = fs::read_to_string(root.at("state/agents/agent-1/status.json"));
        root.at("started").exists() && status.is_ok_and(|s| s.contains("\"working\""))
    });
    run.kill9();
    fs::write(&go, "").unwrap();
    root.wait_until("it has asked and ended", || {
        interrupt_exists(&root) && root.processes().is_empty()
    });
    root.ok(&["resume", "agent-1", "--answer", "THE-LEFT-ONE"]);
    assert!(!interrupt_exists(&root));
    assert_heard(&root);
    let show = root.show("p.md");
    assert_eq!(show["attempts"][0]["outcome"], "interrupted", "{show:#}");
}

#[test]
fn an_answer_to_what_was_stopped_while_it_waited_reaches_the_next_attempt() {
    let root = Root::plain();
    asks(
        &root,
        "echo 'which one?' > \"$HARNESS_INTERRUPT\"; sleep 600",
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it is paused", || {
        root.ok(&["status", "--json"])
            .contains("\"state\": \"interrupted\"")
    });
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    assert!(root.at("queue/pending/p.md").exists());
    root.ok(&["resume", "agent-1", "--answer", "THE-LEFT-ONE"]);
    assert_heard(&root);
}

#[test]
fn neither_question_nor_answer_goes_through_a_symlink_in_the_place_of_a_session() {
    let root = Root::plain();
    let outside = root.at("outside");
    fs::create_dir(&outside).unwrap();
    asks(
        &root,
        &format!(
            "[ ! -e {0}.own ] || exit 0 # It asks once: nobody answers what its retries ask.\n\
             mv \"$HARNESS_SESSION_DIR\" {0}.own; ln -s {0} \"$HARNESS_SESSION_DIR\"\n\
             echo 'which one?' > \"$HARNESS_ROOT/state/interrupts/$HARNESS_SLOT.interrupt\"\n\
             until [ -e {0}.go ]; do sleep 0.02; done",
            outside.display()
        ),
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it is paused", || {
        root.ok(&["status", "--json"])
            .contains("\"state\": \"interrupted\"")
    });
    root.wait_until("it was said", || run.said().contains("agent-1 pauses"));
    root.exits(100, &["resume", "agent-1", "--answer", "THE-LEFT-ONE"]);
    assert!(interrupt_exists(&root), "it still waits for an answer");
    fs::write(root.at("outside.go"), "").unwrap();
    root.ok(&["resume", "agent-1"]);
    root.wait_until("it has ended", || {
        root.is_done("p.md") || root.is_parked("p.md")
    });
    run.signal("TERM");
    run.wait();
    assert_eq!(files_below(&outside), Vec::<std::path::PathBuf>::new());
}
