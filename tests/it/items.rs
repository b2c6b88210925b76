//! The three kinds of items, what they may say, what their agents are given, and how they end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Root, describe};

/// A ROOT with an agent `mine` that keeps what it is given: arguments, standard input, environment.
fn with_agent(stdin: &str, more: &str) -> Root {
    let root = Root::plain();
    let agent = root.at("agent.sh");
    fs::write(
        &agent,
        "#!/bin/sh\nprintf '%s\\0' \"$@\" > \"$HARNESS_SESSION_DIR/argv\"\n\
         cat > \"$HARNESS_SESSION_DIR/got\"\nenv -0 > \"$HARNESS_SESSION_DIR/env\"\n",
    )
    .unwrap();
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
    root.config(&format!(
        "agent = \"mine\"\n[repo]\npath = \"none\"\n[agents.mine]\nstdin = \"{stdin}\"\n\
         command = [\"{}\", \"$(touch pwned) {{{{WORK_ITEM}}}}\", \"--at={{{{SLOT}}}}/{{{{ATTEMPT}}}}\", \
         \"{{{{PROMPT_FILE}}}}\", \"\"]\n{more}",
        agent.display()
    ));
    root
}

fn session(root: &Root, name: &str) -> PathBuf {
    let show = root.show(name);
    let sid = show["attempts"].as_array().unwrap().last().unwrap()["session"].clone();
    root.at("state/sessions").join(sid.as_str().unwrap())
}

fn env_of(root: &Root, name: &str) -> BTreeMap<String, String> {
    let text = fs::read(session(root, name).join("env")).unwrap();
    String::from_utf8_lossy(&text)
        .split('\0')
        .filter_map(|line| line.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[test]
fn json_and_prompts_reach_a_command_agent_with_their_fields() {
    let root = with_agent("prompt", "env = { FOO = \"agent\", BAR = \"agent\" }\n");
    let body = "Fix it.\n$(touch pwned) \"'\n";
    root.drop_file(
        "j.json",
        json!({"title": "T", "env": {"FOO": "item", "N": 7}, "odd": {"x": [1]}, "prompt": body})
            .to_string()
            .as_bytes(),
        0o644,
    );
    root.drop_file(
        "p.md",
        format!("---\npriority: low\nodd: kept\nenv:\n  FOO: item\n---\n{body}").as_bytes(),
        0o644,
    );
    root.drop_file("bare", body.as_bytes(), 0o644);
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    for name in ["j.json", "p.md", "bare"] {
        let dir = session(&root, name);
        assert_eq!(fs::read_to_string(dir.join("got")).unwrap(), body, "{name}");
        let show = root.show(name);
        let agent = show["attempts"][0]["slot"].as_str().unwrap();
        let argv = format!(
            "$(touch pwned) {name}\0--at={agent}/1\0{}\0\0",
            dir.join("prompt.md").display()
        );
        assert_eq!(fs::read_to_string(dir.join("argv")).unwrap(), argv);
    }
    let env = env_of(&root, "j.json");
    assert_eq!(
        (&*env["FOO"], &*env["N"], &*env["BAR"]),
        ("item", "7", "agent")
    );
    assert_eq!(env_of(&root, "bare")["FOO"], "agent");
    // What nobody knows is kept and shown.
    assert_eq!(root.show("j.json")["fields"]["odd"]["x"][0], 1);
    assert_eq!(root.show("p.md")["fields"]["odd"], "kept");
    assert!(!root.at("pwned").exists() && !root.at("worktrees/agent-1/pwned").exists());
    root.assert_nothing_left();
}

#[test]
fn the_bootstrap_goes_before_the_prompt_with_its_blanks_filled_in() {
    let root = with_agent("prompt", "bootstrap = true\n");
    fs::write(
        root.at("prompts/bootstrap.md"),
        "You are {{AGENT}} in {{SLOT}} on {{WORK_ITEM}}, try {{ITERATION}} of {{SESSION_ID}}.",
    )
    .unwrap();
    root.drop_file("p.md", b"Do {{AGENT}}.\n", 0o644);
    root.drain();
    let dir = session(&root, "p.md");
    let sid = dir.file_name().unwrap().to_str().unwrap();
    let slot = root.show("p.md")["attempts"][0]["slot"]
        .as_str()
        .unwrap()
        .to_owned();
    // The item's own braces are its own business.
    assert_eq!(
        fs::read_to_string(dir.join("got")).unwrap(),
        format!("You are mine in {slot} on p.md, try 1 of {sid}.\nDo {{{{AGENT}}}}.\n")
    );
}

#[test]
fn a_prompt_of_one_mebibyte_arrives_whole_and_one_byte_more_is_refused() {
    let root = with_agent("prompt", "");
    let text: Vec<u8> = (0..1u32 << 20).map(|n| b'a' + (n * 7 % 23) as u8).collect();
    root.drop_file("big", &text, 0o644);
    root.drop_file("bigger", &[&text[..], b"x"].concat(), 0o644);
    root.drain();
    let got = fs::read(session(&root, "big").join("got")).unwrap();
    assert!(got == text, "{} bytes arrived", got.len());
    let show = root.show("bigger");
    assert_eq!(
        (&show["state"], &show["outcome"]),
        (&json!("parked"), &json!("refused"))
    );
    assert!(
        show["reason"].as_str().unwrap().contains("1024 KiB"),
        "{show}"
    );
}

#[test]
fn an_agent_that_reads_a_file_finds_the_prompt_there_and_nothing_on_standard_input() {
    let root = with_agent("none", "");
    root.drop_file("p.md", b"---\npriority: 3\n---\nDo it.\n", 0o644);
    root.drain();
    let dir = session(&root, "p.md");
    assert_eq!(fs::read(dir.join("got")).unwrap(), b"");
    let argv = fs::read_to_string(dir.join("argv")).unwrap();
    let file = argv.split('\0').nth(2).unwrap();
    assert_eq!(fs::read(file).unwrap(), b"Do it.\n");
}

#[test]
fn an_agent_finds_out_from_its_environment_where_and_what_it_is() {
    let root = Root::with_repo();
    root.script(
        "job one",
        "#harness env: {MINE: a b, GIT_AUTHOR_NAME: me}\nenv -0 > \"$HARNESS_SESSION_DIR/env\"; pwd -P > \"$HARNESS_SESSION_DIR/cwd\"; \
         [ \"$HARNESS_ATTEMPT\" = 2 ]",
    );
    let run = root
        .command()
        .args(["run", "--drain", "--workers", "1"])
        .env("GIT_INDEX_FILE", "/nowhere/index")
        .env("OUTER", "seen")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", describe(&run));
    let env = env_of(&root, "job one");
    let dir = fs::canonicalize(session(&root, "job one")).unwrap();
    let sid = dir.file_name().unwrap().to_str().unwrap();
    let at = |path: &str| {
        fs::canonicalize(root.path())
            .unwrap()
            .join(path)
            .display()
            .to_string()
    };
    for (key, want) in [
        ("HARNESS_ROOT", at("").trim_end_matches('/').to_owned()),
        ("HARNESS_ITEM", "job one".into()),
        ("HARNESS_ITEM_FILE", dir.join("item").display().to_string()),
        ("HARNESS_SESSION", sid.into()),
        ("HARNESS_SESSION_DIR", dir.display().to_string()),
        ("HARNESS_SLOT", "agent-1".into()),
        ("HARNESS_AGENT", "script".into()),
        ("HARNESS_ATTEMPT", "2".into()),
        ("HARNESS_BRANCH", "harness/job%20one/2".into()),
        (
            "HARNESS_INTERRUPT",
            dir.join("interrupt").display().to_string(),
        ),
        ("SESSION_ID", sid.into()),
        (
            "INTERRUPT_FILE",
            dir.join("interrupt").display().to_string(),
        ),
        ("ITERATION", "2".into()),
        ("MINE", "a b".into()),
        ("GIT_AUTHOR_NAME", "me".into()),
        ("OUTER", "seen".into()),
    ] {
        assert_eq!(env.get(key), Some(&want), "{key}");
    }
    assert_eq!(env.get("GIT_INDEX_FILE"), None);
    let cwd = fs::read_to_string(dir.join("cwd")).unwrap();
    assert_eq!(cwd.trim_end(), at("worktrees/agent-1"));
}

#[test]
fn what_an_agent_prints_and_how_it_ends_is_kept() {
    let root = Root::plain();
    root.script("good", "echo out; echo err >&2");
    root.script("bad", "#harness retries: 0\necho lost >&2; exit 7");
    root.script("shot", "#harness retries: 0\nkill -9 $$");
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    let log = |name, log| fs::read_to_string(session(&root, name).join(log)).unwrap();
    assert_eq!(
        (&*log("good", "stdout.log"), &*log("good", "stderr.log")),
        ("out\n", "err\n")
    );
    assert_eq!(
        (&*log("bad", "stdout.log"), &*log("bad", "stderr.log")),
        ("", "lost\n")
    );
    for (name, state, outcome, status, signal) in [
        ("good", "done", "succeeded", json!(0), Value::Null),
        ("bad", "parked", "failed", json!(7), Value::Null),
        ("shot", "parked", "crashed", Value::Null, json!(9)),
    ] {
        let show = root.show(name);
        let attempt = &show["attempts"][0];
        assert_eq!(
            (&show["state"], &show["outcome"]),
            (&json!(state), &json!(outcome))
        );
        assert_eq!(
            (&attempt["exit_status"], &attempt["signal"]),
            (&status, &signal),
            "{name}"
        );
        assert_eq!(show["attempts"].as_array().unwrap().len(), 1);
    }
    root.assert_nothing_left();
}

#[test]
fn a_script_needs_no_executable_bit_and_an_executable_json_is_a_script() {
    let root = Root::plain();
    root.drop_file("plain", b"#!/bin/sh\necho ran\n", 0o644);
    root.drop_file("x.json", b"#!/bin/sh\necho ran\n", 0o755);
    let out = root.drain();
    assert_eq!(out.status.code(), Some(0), "{}", describe(&out));
    for name in ["plain", "x.json"] {
        assert_eq!(
            fs::read(session(&root, name).join("stdout.log")).unwrap(),
            b"ran\n"
        );
    }
}

#[test]
fn an_item_over_its_timeout_is_stopped_and_one_within_a_fraction_of_a_second_is_not() {
    let root = Root::plain();
    root.script(
        "slow",
        "#harness timeout: 1\n#harness retries: 0\nsleep 60 & sleep 60",
    );
    // Times are whole seconds inside: a fraction must not become nothing.
    root.script(
        "short",
        "#harness timeout: 0.9\n#harness retries: 0\nsleep 0.1",
    );
    root.drain();
    let show = root.show("slow");
    assert_eq!(
        (&show["state"], &show["outcome"]),
        (&json!("parked"), &json!("timed_out"))
    );
    let seconds = show["attempts"][0]["seconds"].as_f64().unwrap();
    assert!((0.9..30.0).contains(&seconds), "{seconds}");
    assert_eq!(root.show("short")["outcome"], "succeeded");
    root.assert_nothing_left();
}

#[test]
fn a_failing_item_is_tried_again_after_a_while_then_parked_and_retry_counts_anew() {
    let root = Root::plain();
    root.script("flaky", "echo x >> \"$HARNESS_ROOT/starts\"; exit 1");
    root.script("never", "#harness retries: 0\nexit 1");
    root.script("once", "[ \"$HARNESS_ATTEMPT\" = 2 ]");
    let out = root.drain();
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    let tries = |name| root.show(name)["attempts"].as_array().unwrap().len();
    assert_eq!((tries("flaky"), tries("never"), tries("once")), (3, 1, 2));
    assert!(root.is_parked("flaky") && root.is_parked("never") && root.is_done("once"));
    // No try began before the instant that the one before it left behind.
    let show = root.show("flaky");
    let mut not_before = None;
    for event in show["events"].as_array().unwrap() {
        if event["event"] == "claimed"
            && let Some(ns) = not_before
        {
            let at: jiff::Timestamp = event["at"].as_str().unwrap().parse().unwrap();
            assert!(at.as_millisecond() + 1 >= ns / 1_000_000, "{show}");
        }
        let at = event["not_before"]
            .as_str()
            .map(|at| at.parse::<jiff::Timestamp>().unwrap());
        not_before = at
            .map(|at| i64::try_from(at.as_nanosecond()).unwrap())
            .or(not_before);
    }
    assert!(not_before.is_some(), "{show}");
    root.ok(&["retry", "flaky"]);
    root.drain();
    assert_eq!(tries("flaky"), 6);
    assert_eq!(
        fs::read_to_string(root.at("starts"))
            .unwrap()
            .lines()
            .count(),
        6
    );
    assert!(root.is_parked("flaky"));
}

#[test]
fn what_cannot_be_started_is_parked_at_once_with_a_reason_that_helps() {
    let root = Root::plain();
    for (name, bytes, mode, why) in [
        (
            "nointerp",
            &b"#!/no/such/interpreter -x\necho\n"[..],
            0o755,
            "/no/such/interpreter",
        ),
        ("crlf", b"#!/bin/sh\r\necho\r\n", 0o755, "Windows"),
        ("text", b"echo no first line\n", 0o755, "#!/bin/sh"),
        ("bytes", b"\x00\x01\x02\x03", 0o755, "#!/bin/sh"),
    ] {
        root.drop_file(name, bytes, mode);
        root.drain();
        let show = root.show(name);
        assert_eq!(show["state"], "parked", "{show}");
        assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show}");
        assert!(show["reason"].as_str().unwrap().contains(why), "{show}");
    }
    root.assert_nothing_left();
}
