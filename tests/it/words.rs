//! The words of agents' CLIs and of their providers: what they mean is understood, and what is not
//! understood waits, and is said. The CLI here is `sh`, and the prompt is what it does.

use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::launch::session;
use crate::support::{Root, describe};

/// A ROOT whose prompts are run by `sh`, their output read as that of `cli`.
fn root_for(cli: &str, harness: &str) -> Root {
    let root = Root::with_repo();
    root.config(&format!(
        "{harness}\nagent = \"it\"\n[repo]\npath = \"repo\"\n[agents.it]\ncommand = [\"sh\", \"{{{{PROMPT_FILE}}}}\"]\n\
         bootstrap = false\nevents = \"{cli}\"\n"
    ));
    root
}

/// Drops an item whose agent prints these lines and does the rest.
fn says(root: &Root, name: &str, fields: &str, lines: &[Value], rest: &str) {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let text = format!("---\n{fields}\n---\ncat <<'END'\n{lines}END\n{rest}\n");
    root.drop_file(name, text.as_bytes(), 0o644);
}

/// Codex' report of a failure.
fn failed(text: &str) -> Vec<Value> {
    vec![
        json!({"type": "thread.started", "thread_id": "t"}),
        json!({"type": "turn.failed", "error": {"message": text}}),
    ]
}

/// The text of the agent's hold, once there is one.
fn hold(root: &Root) -> Value {
    let path = root.at("state/holds/it.hold");
    root.wait_until("its agent is held", || path.exists());
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// How long until then, in seconds.
fn seconds_until(instant: &Value) -> i64 {
    let at: jiff::Timestamp = instant.as_str().unwrap().parse().unwrap();
    at.as_second() - jiff::Timestamp::now().as_second()
}

/// Runs until the item waits, and returns the seconds that it waits and the hold of its agent.
fn waits(root: &Root, name: &str) -> (i64, Value) {
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("the item waits", || {
        root.events(name).contains(&"finished".to_owned())
            && root.show(name)["state"] == "scheduled"
    });
    let hold = hold(root);
    run.signal("TERM");
    run.wait();
    let due = root
        .at("queue/pending")
        .join(name)
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    let wait = due.duration_since(SystemTime::now()).unwrap_or_default();
    (i64::try_from(wait.as_secs()).unwrap(), hold)
}

#[test]
fn a_usage_limit_with_date_weekday_zone_or_duration_holds_until_its_end() {
    let now = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC);
    let then = now
        .checked_add(jiff::SignedDuration::from_hours(50))
        .unwrap();
    let tokyo = then.with_time_zone(jiff::tz::TimeZone::fixed(jiff::tz::offset(9)));
    let texts = [
        format!(
            "You've hit your limit · resets {} (UTC)",
            then.strftime("%b %-d at %-I:%M%P")
        ),
        format!(
            "Access resets at {} UTC+9.",
            tokyo.strftime("%b %-d, %-I:%M %p")
        ),
        format!(
            "Your weekly limit will reset on {} UTC",
            then.strftime("%A at %H:%M")
        ),
        "Your quota will reset after 50h0m7s.".to_owned(),
        format!(
            "Claude AI usage limit reached|{}",
            then.timestamp().as_second()
        ),
        "exceeded retry limit, last status: 429 Too Many Requests; try again in 2 days 2 hours"
            .to_owned(),
    ];
    for text in texts {
        let root = root_for("codex", "");
        says(&root, "x.md", "retries: 0", &failed(&text), "exit 1");
        let (seconds, hold) = waits(&root, "x.md");
        let hours = seconds as f64 / 3_600.0;
        assert!((49.0..51.0).contains(&hours), "{text}: {hours} h");
        let held = seconds_until(&hold["until"]) as f64 / 3_600.0;
        assert!((49.0..51.0).contains(&held), "{text}: {hold}");
        assert_eq!(session(&root, "x.md", 0)["fault"], "usage_limit", "{text}");
    }
}

#[test]
fn a_limit_whose_end_is_not_understood_is_held_for_an_hour_and_says_what_it_saw() {
    for (text, unclear) in [
        (
            "429: your limit resets at the start of your next billing cycle",
            true,
        ),
        ("You've hit your limit · resets 3am (Mars/Olympus)", true),
        (
            "Usage limit reached. Try again after 12/99/2026, 01:00:00",
            true,
        ),
        ("Access resets at 3:15 PM Moonbase Time", true),
        (
            "Quota exceeded for quota metric 'Gemini 2.5 Pro Requests' and limit 'Gemini 2.5 Pro Requests per day per user per tier'",
            false,
        ),
        ("You've hit your usage limit. Upgrade to continue.", false),
    ] {
        let root = root_for("codex", "");
        says(&root, "x.md", "retries: 0", &failed(text), "exit 1");
        let (seconds, hold) = waits(&root, "x.md");
        assert!((3_400..3_700).contains(&seconds), "{text}: {seconds} s");
        let reason = hold["reason"].as_str().unwrap();
        assert!(reason.contains(text), "{reason}");
        assert_eq!(reason.contains("not understood"), unclear, "{reason}");
        // Nothing is promised for an end that is not known.
        let reason = session(&root, "x.md", 0)["reason"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            !reason.contains("by itself when the limit ends"),
            "{reason}"
        );
        assert!(reason.contains("tries again by itself"), "{reason}");
    }
}

#[test]
fn a_limit_that_has_ended_when_it_is_read_holds_for_a_moment() {
    let root = root_for("codex", "");
    let over = jiff::Timestamp::now().as_second() - 3_600;
    let lines = failed(&format!(
        "{{\"type\":\"usage_limit_reached\",\"resets_at\":{over}}}"
    ));
    says(&root, "x.md", "", &lines, "exit 1");
    let (seconds, hold) = waits(&root, "x.md");
    assert!(
        seconds <= 60 && seconds_until(&hold["until"]) <= 60,
        "{seconds} s, {hold}"
    );
}

#[test]
fn a_limit_that_is_read_a_day_later_counts_from_when_it_was_said() {
    let root = root_for("codex", "");
    let go = root.at("go");
    let wait = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let text = "The usage limit has been reached. Try again in 2 hours.";
    let rest = format!("{wait}\necho '{}'\nexit 1", failed(text)[1]);
    says(&root, "x.md", "", &failed("")[..1], &rest);
    let run = root.start(&["--workers", "1"]);
    root.wait_until("its agent runs", || {
        root.events("x.md").contains(&"started".to_owned())
    });
    let sid = root.show("x.md")["attempts"][0]["session"]
        .as_str()
        .unwrap()
        .to_owned();
    let dir = root.at("state/sessions").join(sid);
    run.kill9();
    fs::write(&go, "").unwrap();
    root.wait_until("its agent has ended", || dir.join("exit.json").exists());
    let log = fs::File::options()
        .append(true)
        .open(dir.join("stdout.log"))
        .unwrap();
    log.set_modified(SystemTime::now() - Duration::from_secs(86_400))
        .unwrap();
    let (seconds, hold) = waits(&root, "x.md");
    assert!(
        seconds <= 60 && seconds_until(&hold["until"]) <= 60,
        "{seconds} s, {hold}"
    );
}

#[test]
fn nothing_is_promised_on_the_last_attempt_and_what_is_parked_says_what_to_do() {
    let root = root_for("codex", "");
    let texts = [
        (
            "rate",
            "exceeded retry limit, last status: 429 Too Many Requests",
            "rate_limit",
        ),
        ("busy", "Selected model is at capacity", "overloaded"),
        ("net", "stream disconnected before completion", "network"),
        (
            "long",
            "Codex ran out of room in the model's context window",
            "context",
        ),
        ("lost", "no rollout found for thread id x", "session_lost"),
        ("odd", "something odd", "unknown"),
    ];
    for (name, text, _) in texts {
        says(&root, name, "retries: 0", &failed(text), "exit 1");
    }
    says(
        &root,
        "cut",
        "retries: 0",
        &failed("")[..1],
        "kill -TERM $$",
    );
    // A rate limit holds the others for half a second.
    root.drain();
    for (name, text, class) in texts.into_iter().chain([("cut", "", "interrupted")]) {
        let file = session(&root, name, 0);
        let reason = root.show(name)["reason"].as_str().unwrap().to_owned();
        assert_eq!(file["fault"], class, "{name}: {file}");
        assert!(
            root.is_parked(name) && reason.contains(text),
            "{name}: {reason}"
        );
        assert!(
            reason.ends_with("then `harness retry` the item"),
            "{name}: {reason}"
        );
        for promise in ["by itself", "tried again", "retried", "nothing:"] {
            assert!(!reason.contains(promise), "{name}: {reason}");
        }
    }
    // Where another attempt follows, it is said.
    says(
        &root,
        "again",
        "retries: 1",
        &failed("Selected model is at capacity"),
        "exit 1",
    );
    root.drain();
    let reason = |n| {
        session(&root, "again", n)["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(reason(0).contains("it is tried again"), "{}", reason(0));
    assert!(!reason(1).contains("it is tried again"), "{}", reason(1));
}

#[test]
fn reasons_are_one_line_and_name_the_right_class() {
    let root = root_for("codex", "");
    let text = "You exceeded your current quota,\n\n  please check your plan\nand billing details.";
    says(&root, "x.md", "", &failed(text), "exit 1");
    let out = root.drain();
    let said = describe(&out);
    let line =
        "You exceeded your current quota, please check your plan and billing details.: add credit";
    assert!(
        said.lines()
            .any(|l| l.contains("limited     x.md: ") && l.contains(line)),
        "{said}"
    );
    let reason = root.show("x.md")["reason"].as_str().unwrap().to_owned();
    assert!(!reason.contains('\n') && reason.contains(line), "{reason}");
    let story = root.ok(&["show", "x.md"]);
    assert!(story.contains("met an account without credit"), "{story}");
    assert!(!story.contains("usage limit"), "{story}");
    assert!(!hold(&root)["reason"].as_str().unwrap().contains('\n'));
}

const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"s","model":"m"}"#;

#[test]
fn half_a_character_and_numbers_that_are_none_lose_neither_figures_nor_success() {
    let root = root_for("claude", "");
    let text = format!(
        "cat <<'END'\n{INIT}\n\
         {{\"type\":\"assistant\",\"message\":{{\"id\":\"m1\",\"model\":\"m\",\"content\":[{{\"type\":\"tool_use\",\"id\":\"t1\",\"name\":\"Bash\",\"input\":{{\"command\":\"ls \\ud83d\"}}}}],\"usage\":{{\"input_tokens\":10,\"output_tokens\":5}}}}}}\n\
         {{\"type\":\"user\",\"message\":{{\"content\":[{{\"type\":\"tool_result\",\"tool_use_id\":\"t1\",\"content\":\"ok \\ud83d\\u2026 \\ude00\"}}]}}}}\n\
         {{\"type\":\"assistant\",\"message\":{{\"id\":\"m2\",\"model\":\"m\",\"content\":[{{\"type\":\"text\",\"text\":\"a\ttab, \\ud83d\\ude00\"}}],\"usage\":{{\"input_tokens\":10,\"output_tokens\":5}}}}}}\n\
         {{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"ratio\":NaN,\"most\":-Infinity,\"result\":\"done \\ud83d\",\"total_cost_usd\":0.01,\"usage\":{{\"input_tokens\":20,\"output_tokens\":10}}}}\n\
         END\necho made > made\n"
    );
    root.drop_file("x.md", text.as_bytes(), 0o644);
    root.drain();
    let file = session(&root, "x.md", 0);
    assert_eq!(file["outcome"], "succeeded", "{file}");
    assert_eq!(
        (&file["turns"], &file["input_tokens"]),
        (&json!(2), &json!(20))
    );
    assert_eq!(file["last_message"], "done \u{fffd}");
    let events = root.ok(&["session", "events", "--json"]);
    assert!(!events.contains("malformed"), "{events}");
}

#[test]
fn a_good_result_that_more_work_follows_is_not_the_end() {
    let root = root_for("claude", "");
    let init: Value = serde_json::from_str(INIT).unwrap();
    let result =
        json!({"type": "result", "subtype": "success", "is_error": false, "result": "begun"});
    let more = json!({"type": "assistant", "message": {"id": "m", "model": "m", "content": [{"type": "text", "text": "now the rest"}]}});
    let cut = [init.clone(), result.clone(), init.clone(), more.clone()];
    let whole = [init.clone(), result.clone(), init, more, result];
    says(&root, "cut", "retries: 0", &cut, "echo half > half; exit 0");
    says(
        &root,
        "whole",
        "retries: 0",
        &whole,
        "echo all > all; exit 0",
    );
    root.drain();
    let file = session(&root, "cut", 0);
    assert_eq!(
        (&file["outcome"], &file["fault"]),
        (&json!("crashed"), &json!("interrupted"))
    );
    assert!(
        root.is_parked("cut") && file["published"].is_null(),
        "{file}"
    );
    assert_eq!(session(&root, "whole", 0)["outcome"], "succeeded");
}

#[test]
fn parallel_tool_calls_of_codex_are_one_turn_and_do_not_use_up_max_turns() {
    let root = root_for("codex", "");
    let item = |kind: &str, id: &str| {
        json!({"type": format!("item.{kind}"), "item": {"id": id, "type": "command_execution",
            "command": "ls", "aggregated_output": "", "exit_code": 0, "status": "completed"}})
    };
    let text = |text: &str| json!({"type": "item.completed", "item": {"id": "t", "type": "agent_message", "text": text}});
    let mut lines = vec![json!({"type": "thread.started", "thread_id": "t"})];
    // As it prints them: one after the other has ended.
    lines.push(text("Six at once."));
    for n in 0..6 {
        let id = format!("item_0_{n}");
        lines.extend([item("started", &id), item("completed", &id)]);
    }
    // Side by side.
    lines.push(text("Six more."));
    let id = |n: usize| format!("item_1_{n}");
    lines.push(item("started", &id(0)));
    for n in 1..6 {
        lines.push(item("started", &id(n)));
        lines.push(item("completed", &id(n - 1)));
    }
    lines.push(item("completed", &id(5)));
    lines.push(json!({"type": "item.completed", "item": {"id": "m", "type": "agent_message", "text": "Done."}}));
    let end = json!({"type": "turn.completed", "usage": {"input_tokens": 10, "output_tokens": 1}});
    says(
        &root,
        "x.md",
        "max_turns: 3\nretries: 0",
        &lines,
        &format!("echo a > a; sleep 0.5; echo '{end}'"),
    );
    root.drain();
    let file = session(&root, "x.md", 0);
    assert_eq!(
        (&file["turns"], &file["tool_calls"]),
        (&json!(3), &json!(12)),
        "{file}"
    );
    assert_eq!(file["outcome"], "succeeded", "{file}");
}

#[test]
fn a_tool_that_gemini_made_up_is_no_denied_permission_and_one_of_its_own_is() {
    for (tool, denied) in [
        ("Bash", false),
        ("deploy_to_prod", false),
        ("run_shell_command", true),
    ] {
        let root = root_for("gemini", "");
        let id = format!("{tool}__{tool}_1795400793493_0");
        let text = format!("Tool \"{tool}\" not found. Did you mean one of: \"glob\"?");
        let lines = [
            json!({"type": "init", "session_id": "s", "model": "m"}),
            json!({"type": "tool_use", "tool_name": tool, "tool_id": id, "parameters": {}}),
            json!({"type": "tool_result", "tool_id": id, "status": "error", "output": text,
                "error": {"type": "tool_not_registered", "message": text}}),
            json!({"type": "message", "role": "assistant", "content": "There is nothing to do."}),
            json!({"type": "result", "status": "success", "stats": {"input_tokens": 5, "output_tokens": 1}}),
        ];
        says(&root, "x.md", "", &lines, "");
        root.drain();
        let file = session(&root, "x.md", 0);
        let is_interrupted = fs::read_dir(root.at("state/interrupts")).unwrap().any(|e| {
            e.unwrap()
                .file_name()
                .to_string_lossy()
                .ends_with(".interrupt")
        });
        let (outcome, fault) = match denied {
            true => ("failed", json!("permission")),
            false => ("no_change", Value::Null),
        };
        assert_eq!(
            (&file["outcome"], &file["fault"]),
            (&json!(outcome), &fault),
            "{tool}: {file}"
        );
        assert_eq!(is_interrupted, denied, "{tool}");
    }
}

#[test]
fn the_last_words_are_the_cause_and_not_the_usage_text() {
    let root = root_for("codex", "");
    root.script(
        "script",
        "#harness retries: 0\nprintf \"x: invalid option -- 'z'\\nUsage: x [-a] FILE\\n  -a  all\\nTry 'x --help' for more information.\\n\" >&2\nexit 2",
    );
    let rest = "printf 'Reading additional input from stdin...\\nError: thread/start failed: no such model\\nReading additional input from stdin...\\n' >&2; exit 1";
    says(&root, "cli", "retries: 0", &failed("")[..1], rest);
    root.drain();
    let reason = |name: &str| root.show(name)["reason"].as_str().unwrap().to_owned();
    assert!(
        reason("script").ends_with("x: invalid option -- 'z'"),
        "{}",
        reason("script")
    );
    let cli = reason("cli");
    assert!(
        cli.contains("Error: thread/start failed: no such model"),
        "{cli}"
    );
    assert!(!cli.contains("Reading"), "{cli}");
}
