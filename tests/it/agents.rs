//! Agents whose output harness reads (`events = "claude"`, …): figures, faults and what follows
//! from them, through the mock agent, which obeys the real CLIs' contracts.

use std::fs;

use serde_json::Value;

use crate::launch::{VOICES, session, table};
use crate::support::Root;

/// A ROOT whose prompts go to the mock, speaking as `cli` does.
fn root_for(cli: &str) -> Root {
    root_with(cli, "")
}

/// The same with further lines for `[harness]`.
pub fn root_with(cli: &str, harness: &str) -> Root {
    let root = Root::with_repo();
    let table = table(&root, cli, "");
    root.config(&format!(
        "{harness}\nagent = {cli:?}\n[repo]\npath = \"repo\"\n{table}"
    ));
    root
}

/// The same with a command line of the user's own.
fn root_by_hand() -> Root {
    let root = Root::with_repo();
    let mock = env!("CARGO_BIN_EXE_mock-agent");
    let home = root.at("mock-home");
    root.config(&format!(
        "agent = \"mine\"\n[repo]\npath = \"repo\"\n[agents.mine]\ncommand = [{mock:?}, \"claude\", \"-p\", \
         \"--output-format\", \"stream-json\", \"--verbose\", \"--session-id\", \"{{{{SESSION_ID}}}}\", \
         \"--allowedTools\", \"Bash,Write,Edit\"]\nevents = \"claude\"\nenv = {{ MOCK_HOME = {home:?} }}\n"
    ));
    root
}

pub fn play(root: &Root, name: &str, play: &str) {
    let text = format!("Please do it.\n[[mock:{play}]]\n");
    root.drop_file(name, text.as_bytes(), 0o644);
}

#[test]
fn what_the_cli_says_it_used_is_on_record() {
    let roots = VOICES.map(|cli| (cli, root_for(cli)));
    for (cli, root) in roots.into_iter().chain([("by hand", root_by_hand())]) {
        play(&root, "x.md", "success");
        root.drain();
        let file = session(&root, "x.md", 0);
        assert_eq!(file["outcome"], "succeeded", "{cli}: {}", root.picture());
        // The mock's figures: three turns of 1000 tokens in and 50 out, 0.01 USD each.
        assert_eq!(file["input_tokens"], 3000, "{cli}: {file}");
        assert_eq!(file["output_tokens"], 150, "{cli}");
        assert!(file["cli_session"].is_string());
        let events = root
            .at("state/sessions")
            .join(file["session"].as_str().unwrap());
        let events = fs::read_to_string(events.join("events.jsonl")).unwrap();
        let count = |kind: &str| {
            let of = |l: &&str| serde_json::from_str::<Value>(l).unwrap()["event"] == kind;
            events.lines().filter(of).count()
        };
        assert_eq!(count("session_started"), 1, "{cli}\n{events}");
        assert!(count("tool_call") > 0 && count("tool_call") == count("tool_result"));
        let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
        assert_eq!(status["metrics"]["input_tokens"], 3000, "{cli}");
    }
}

#[test]
fn a_fault_decides_what_becomes_of_the_item() {
    let root = root_for("claude");
    // (play, outcome, class, attempts, state)
    let cases = [
        ("denied", "failed", "permission", 1, "parked"),
        ("error", "failed", "", 3, "parked"),
        ("max_turns", "failed", "limits_reached", 1, "parked"),
        ("budget", "over_budget", "limits_reached", 1, "parked"),
        ("no-result", "", "", 0, ""),
        ("malformed", "", "", 0, ""),
    ];
    for (name, ..) in cases {
        play(&root, name, name);
    }
    root.drain();
    for (name, outcome, class, attempts, state) in cases {
        let show = root.show(name);
        let tried = show["attempts"].as_array().unwrap().len();
        assert!(tried >= 1, "{name}");
        if outcome.is_empty() {
            // Nothing is promised but that it ends.
            continue;
        }
        let file = session(&root, name, tried - 1);
        assert_eq!(file["outcome"], outcome, "{name}: {file}");
        assert_eq!(show["state"], state, "{name}");
        if !class.is_empty() {
            assert_eq!(file["fault"], class, "{name}: {file}");
        }
        assert_eq!(tried, attempts, "{name}: {file}");
        assert!(!file["reason"].as_str().unwrap().is_empty());
    }
    root.assert_nothing_left();
}

#[test]
fn a_usage_limit_puts_the_item_back_until_it_ends_and_is_no_attempt() {
    let root = root_for("claude");
    play(&root, "x.md", "usage-limit reset=3600");
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it waits for the limit to end", || {
        root.events("x.md").contains(&"finished".to_owned())
            && root.show("x.md")["state"] == "scheduled"
    });
    run.signal("TERM");
    run.wait();
    let file = session(&root, "x.md", 0);
    assert_eq!(file["outcome"], "limited", "{file}");
    let due = root
        .at("queue/pending/x.md")
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    let wait = due
        .duration_since(std::time::SystemTime::now())
        .unwrap()
        .as_secs();
    assert!((3000..3700).contains(&wait), "{wait} s");
    root.assert_nothing_left();
}

fn order(root: &Root, names: &[&str]) {
    let now = std::time::SystemTime::now();
    for (n, name) in names.iter().enumerate() {
        let file = fs::File::open(root.at("queue/pending").join(name)).unwrap();
        let earlier = std::time::Duration::from_secs(100 - n as u64);
        file.set_modified(now - earlier).unwrap();
    }
}

#[test]
fn a_refused_login_parks_one_item_and_holds_the_others_until_a_person_mended_it() {
    let root = root_for("claude");
    play(&root, "a.md", "auth");
    for name in ["b.md", "c.md"] {
        play(&root, name, "success");
    }
    order(&root, &["a.md", "b.md", "c.md"]);
    root.script("z", "exit 0");
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    assert_eq!(out.status.code(), Some(111), "{}", root.picture());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("claude is held until a person"), "{said}");
    assert!(
        said.contains("2 items stay in pending/ (b.md, c.md), claude is held"),
        "{said}"
    );
    assert!(root.is_parked("a.md") && root.is_done("z"), "{said}");
    assert!(root.events("b.md").is_empty(), "it was never started");
    let reason = root.show("a.md")["reason"].to_string();
    assert!(
        reason.contains("/login") && reason.contains("harness resume"),
        "{reason}"
    );
    let status: Value = serde_json::from_str(&root.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["holds"][0]["agent"], "claude", "{status:#}");
    assert_eq!(status["holds"][0]["class"], "auth");
    // A running harness takes the end of a hold from the file alone.
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it has looked at them", || {
        root.ok(&["status", "--json"]).contains("\"blocked\": 2")
    });
    root.ok(&["resume"]);
    root.wait_until("they go on", || {
        root.is_done("b.md") && root.is_done("c.md")
    });
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
    root.assert_nothing_left();
}

#[test]
fn a_usage_limit_is_met_once_and_all_items_of_its_agent_wait_for_its_end() {
    let root = root_for("claude");
    play(&root, "a.md", "usage-limit first=1 reset=2");
    for name in ["b.md", "c.md"] {
        play(&root, name, "success");
    }
    order(&root, &["a.md", "b.md", "c.md"]);
    let out = root.harness(&["run", "--drain", "--workers", "1"]);
    assert_eq!(out.status.code(), Some(0), "{}", root.picture());
    let at = |name: &str, n: usize| {
        let starts = root.show(name)["attempts"][n]["started_at"].clone();
        starts.as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let waited = |name: &str, n: usize| (at(name, n) - at("a.md", 0)).get_seconds();
    for (name, n) in [("a.md", 1), ("b.md", 0), ("c.md", 0)] {
        assert!(waited(name, n) >= 2, "{name}: {} s", waited(name, n));
    }
    assert!(!root.at("state/holds/claude.hold").exists());
    root.assert_nothing_left();
}

#[test]
fn the_figures_are_seen_while_it_works() {
    let root = root_for("claude");
    play(&root, "x.md", "timeout every=0.05");
    let _run = root.start(&["--workers", "1"]);
    root.wait_until("status.json shows its turns", || {
        let status = fs::read(root.at("state/status.json")).unwrap_or_default();
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        let agent = &status["agents"][0];
        agent["turns"].as_u64() > Some(3) && agent["tool_calls"].as_u64() > Some(3)
    });
}

#[test]
fn the_last_words_on_stderr_say_why_and_reach_no_terminal_raw() {
    let root = Root::plain();
    root.script(
        "x",
        "#harness retries: 0\nprintf 'error: no \\033]0;title\\007such thing\\n' >&2\nexit 3",
    );
    let out = root.drain();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("exit status 3: error: no "), "{said:?}");
    assert!(
        !said.contains('\u{1b}') && said.contains("such thing"),
        "{said:?}"
    );
}

#[test]
fn a_drain_ends_at_once_with_a_thousand_items_behind_a_hold() {
    let root = root_for("claude");
    fs::create_dir_all(root.at("state/holds")).unwrap();
    fs::write(root.at("state/holds/claude.hold"), "wait\n").unwrap();
    for n in 0..1000 {
        play(&root, &format!("x{n}.md"), "success");
    }
    let mut run = root.start(&["--drain", "--workers", "2"]);
    assert_eq!(run.wait(), Some(111), "{}", run.said());
    let said = run.said();
    assert!(
        said.contains("1000 items stay in pending/ (x0.md"),
        "{said}"
    );
    assert!(said.lines().count() < 10, "{said}");
    assert_eq!(
        fs::read_dir(root.at("queue/pending")).unwrap().count(),
        1000
    );
    root.assert_nothing_left();
}
