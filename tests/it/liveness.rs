//! What harness sees of an agent from outside: silence, work without a word, an end that does not
//! come after the last word. Through the mock agent, with short limits.

use std::fs;

use crate::agents::{play, root_with};
use crate::launch::session;

fn health(root: &crate::support::Root) -> String {
    let bytes = fs::read(root.at("state/agents/agent-1/status.json")).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    status["health"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_agent_without_a_sign_of_life_is_warned_of_then_stopped() {
    let root = root_with("claude", "stall = 2");
    root.drop_file(
        "x.md",
        b"---\nretries: 0\n---\n[[mock:stall]]\n".as_slice(),
        0o644,
    );
    let mut run = root.start(&["--workers", "1", "--drain"]);
    root.wait_until("it is called quiet", || health(&root) == "quiet");
    assert!(
        root.at("queue/claimed/agent-1/x.md").exists(),
        "it has time left"
    );
    assert_eq!(run.wait(), Some(1), "{}", run.said());
    assert!(run.said().contains("no sign of life for a while"));
    let show = root.show("x.md");
    assert_eq!(show["outcome"], "stalled", "{show:#}");
    let exit = root
        .at("state/sessions")
        .join(show["attempts"][0]["session"].as_str().unwrap())
        .join("exit.json");
    let exit: serde_json::Value = serde_json::from_slice(&fs::read(exit).unwrap()).unwrap();
    assert_eq!(exit["stopped_for"], "stalled");
    root.assert_nothing_left();
}

#[test]
fn work_without_a_word_is_life() {
    // (what the prompt of a plain program does for longer than the limits, for which it lives)
    // In one process that sleeps: starting others would be processor time, too.
    let every = |what: &str| {
        format!("perl -e 'for (1..16) {{ {what}; select(undef, undef, undef, 0.3) }}'")
    };
    for (sign, body) in [
        (
            "processor time",
            "end=$(($(date +%s) + 5))\nwhile [ $(date +%s) -lt $end ]; do :; done".to_owned(),
        ),
        (
            "changes in its worktree",
            every("open(F, \">f$_\"); print F \"x\"; close(F)"),
        ),
        ("bytes of stderr", every("print STDERR \".\"")),
    ] {
        let root = crate::support::Root::plain();
        root.config(
            "stall = 2\nagent = \"own\"\n[repo]\npath = \"none\"\n[agents.own]\ncommand = [\"sh\", \"{{PROMPT_FILE}}\"]\nevents = \"claude\"\n",
        );
        let last = r#"{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"done"}"#;
        let text = format!("---\nretries: 0\n---\n{body}\necho '{last}'\n");
        root.drop_file("x.md", text.as_bytes(), 0o644);
        let out = root.drain();
        assert_eq!(out.status.code(), Some(0), "{sign}: {}", root.picture());
        root.assert_nothing_left();
    }
}

#[test]
fn one_that_lives_on_after_its_last_word_is_ended_and_has_ended_well() {
    let root = root_with("claude", "linger = 1");
    play(&root, "x.md", "linger file=x.txt");
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", root.picture());
    let show = root.show("x.md");
    assert_eq!(show["outcome"], "succeeded", "{show:#}");
    let file = session(&root, "x.md", 0);
    assert!(
        file["notes"]
            .to_string()
            .contains("lived on after it had finished"),
        "{file:#}"
    );
    assert_eq!(file["exit_status"], 143, "how it ended is on record");
    root.assert_nothing_left();
}

#[test]
fn a_tool_that_runs_is_given_more_time_than_silence() {
    // Quiet for 5 s with limits of 2 and 3 s, and of 8 and 12 s while its tool runs.
    let root = root_with("claude", "stall = 2");
    play(&root, "x.md", "tool s=5");
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", root.picture());
    assert_eq!(root.show("x.md")["attempts"].as_array().unwrap().len(), 1);
    root.assert_nothing_left();
}

#[test]
fn figures_and_a_summary_are_left_in_the_session() {
    let root = root_with("codex", "");
    play(&root, "x.md", "success file=x.txt");
    root.drain();
    let file = session(&root, "x.md", 0);
    let dir = root
        .at("state/sessions")
        .join(file["session"].as_str().unwrap());
    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["outcome"], "succeeded");
    assert_eq!(metrics["input_tokens"], 3000);
    assert!(metrics["tools"].as_object().is_some_and(|t| !t.is_empty()));
    let summary = fs::read_to_string(dir.join("summary.md")).unwrap();
    for words in [
        "# x.md: succeeded",
        "harness/x.md/1",
        "2 turns",
        "Done: committed x.txt",
    ] {
        assert!(summary.contains(words), "{words}\n{summary}");
    }
}

#[test]
fn turns_and_money_are_limited_by_harness_where_the_cli_has_no_means() {
    // codex tells no cost; opencode does, 0.01 USD a turn.
    for (cli, field, outcome, words) in [
        ("codex", "max_turns: 1", "failed", "used up its turns"),
        (
            "opencode",
            "budget_usd: 0.035",
            "over_budget",
            "used up its budget",
        ),
    ] {
        let root = root_with(cli, "");
        let text = format!("---\n{field}\n---\n[[mock:timeout every=0.05]]\n");
        root.drop_file("x.md", text.as_bytes(), 0o644);
        assert_eq!(
            root.drain().status.code(),
            Some(1),
            "{cli}: {}",
            root.picture()
        );
        let show = root.show("x.md");
        assert_eq!(show["outcome"], outcome, "{show:#}");
        assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show:#}");
        assert!(show["reason"].as_str().unwrap().contains(words), "{show:#}");
        assert_eq!(session(&root, "x.md", 0)["fault"], "limits_reached");
        root.assert_nothing_left();
    }
}
