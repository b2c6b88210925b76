//! Names, times and units in every `--json` and in every file of `state/`: only those that are declared
//! here, each in one sense.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::agents::{play, root_with};
use crate::support::{Root, describe, files_below, kill};

/// The names of each thing that is told. Whoever adds one adds it here, and to the documents.
const DECLARED: &[(&str, &str)] = &[
    ("error", "error what where why hint"),
    (
        "item",
        "item state outcome reason reason_class waits_for priority branch attempt session slot agent \
         not_before added_at modified_at claimed_at started_at ended_at seconds",
    ),
    ("show", "file fields understood attempts events"),
    (
        "attempt",
        "session slot agent attempt outcome reason claimed_at started_at ended_at exit_status signal seconds \
         commits files_changed leftover branch head notes fault turns input_tokens output_tokens cost_usd \
         charged_usd charged_tokens last published",
    ),
    (
        "record",
        "at event by session slot agent attempt harness_pid pid branch base base_oid resumed understood next \
         not_before published to answered_at question answer end head reason outcome repo",
    ),
    (
        "status",
        "version timestamp harnesses agents work_queue interrupts holds troubles control metrics pid host started_at \
         uptime_seconds workers total pending scheduled blocked claimed review merge done parked place reason since tries slot \
         agents_active agents_working agents_idle agents_interrupted completed_today failed_today throughput_per_hour \
         average_seconds success_rate input_tokens output_tokens cost_usd",
    ),
    (
        "slot",
        "id state health harness_pid pid item reason agent session attempt claimed_at started_at last_heartbeat \
         last_event_at turns tool_calls input_tokens output_tokens cost_usd last_message",
    ),
    ("marker", "harness_pid host since slot"),
    ("hold", "agent until class reason session since"),
    (
        "session",
        "session item slot agent attempt state harness_pid command timeout_seconds max_turns budget_usd model repo \
         worktree branch base base_oid claimed_at started_at ended_at pid outcome reason exit_status signal seconds \
         cpu_seconds commits files_changed leftover head published events turns tool_calls input_tokens output_tokens \
         cost_usd charged_usd charged_tokens cli_session resumed conversation_before conversation last_message fault notes watched_turns \
         watched_budget_usd budget_by watched_tokens tokens_by interrupts last held sandbox mode holds landlock network",
    ),
    (
        "exit",
        "session pid exit_status signal started_at ended_at seconds frozen_seconds cpu_seconds stopped stopped_for \
         strays strays_left limits",
    ),
    (
        "figures",
        "turns tool_calls tools input_tokens output_tokens cache_read_tokens cache_write_tokens cost_usd last_message \
         cli_session model version results retries denials errors other malformed conversation",
    ),
    (
        "event",
        "at event offset length cli_session model version text delta clipped id tool input is_error output turns \
         input_tokens output_tokens cache_read_tokens cache_write_tokens cost_usd good message resets_at limit class name",
    ),
    (
        "ledger",
        "ended_at session item slot agent outcome last seconds input_tokens output_tokens cost_usd charged_usd charged_tokens \
         started_at fault reason held unseen",
    ),
    (
        "budget",
        "day budgets holds scope agent item until limit_usd used_usd reserved_usd left_usd limit_tokens used_tokens \
         reserved_tokens left_tokens usual_usd usual_tokens known_attempts",
    ),
    ("summary", "session figures exit files"),
    (
        "export",
        "session exit prompt events unreadable_lines figures stdout_tail stderr_tail",
    ),
    (
        "tools",
        "session tools calls left_out at tool id input result is_error seconds errors",
    ),
    (
        "errors",
        "session outcome reason fault troubles left_out stderr_tail at kind about message offset",
    ),
    (
        "timeline",
        "session started_at seconds tool_seconds tool_calls turns rows left_out at gap_seconds turn what text \
         took_seconds is_error",
    ),
    (
        "metrics",
        "session item slot agent attempt outcome claimed_at started_at ended_at seconds cpu_seconds commits files_changed",
    ),
    (
        "totals",
        "total agents sessions running outcomes seconds cpu_seconds",
    ),
    (
        "branches",
        "item attempt session repo branch base published_at head tip rewritten deleted commits files_changed \
         insertions deletions merged conflicts",
    ),
    (
        "review",
        "state base_oid moved since returned gates diff diff_is_cut gate moment tree verdict reason seconds tests log \
         with_base with_each_other items branches pairs_tried pairs_left_out",
    ),
    (
        "gc",
        "dry_run sessions branches bases worktrees debris trouble",
    ),
    ("doctor", "ok checks what state why what_to_do"),
    ("init", "root made kept"),
    ("did", "item did error"),
    ("config", "value source"),
];

/// Below these the names are the user's, an agent's, or of what is counted.
const FREE: [&str; 6] = [
    "fields",
    "tools",
    "outcomes",
    "input",
    "files",
    "conversation",
];

fn declared(kinds: &[&str]) -> BTreeSet<&'static str> {
    let of = |kind: &&str| {
        let found = DECLARED.iter().find(|(name, _)| name == kind);
        found
            .unwrap_or_else(|| panic!("{kind}"))
            .1
            .split_whitespace()
    };
    kinds.iter().flat_map(of).collect()
}

/// Whether a value is what its name says: a time is RFC 3339 in UTC, or null.
fn is_right(key: &str, value: &Value) -> bool {
    let is_time = key == "at"
        || key.ends_with("_at")
        || ["timestamp", "since", "until", "not_before"].contains(&key);
    let is_unitless = key.ends_with("_ns") || key.ends_with("_ms");
    let is_utc = |text: &str| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok();
    !is_unitless && (!is_time || value.is_null() || value.as_str().is_some_and(is_utc))
}

fn check(what: &str, value: &Value, names: &BTreeSet<&str>, wrong: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if !names.contains(key.as_str()) {
                    wrong.insert(format!("{what}: `{key}` is not declared"));
                }
                if !is_right(key, value) {
                    wrong.insert(format!("{what}: `{key}` is {value}"));
                }
                if !FREE.contains(&key.as_str()) {
                    check(what, value, names, wrong);
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|v| check(what, v, names, wrong)),
        _ => {}
    }
}

/// A tree with an item in every state, answered questions, a hold, failures and a conversation.
fn full_tree() -> Root {
    let root = root_with("claude", "");
    play(&root, "good.md", "success file=x.txt");
    root.script("bad", "#harness retries: 1\nexit 3");
    for name in ["finished", "other"] {
        root.script(name, "#harness integrate: review\necho $0 > README");
    }
    root.drop_file("refused.json", b"{", 0o644);
    root.harness(&["run", "--drain", "--workers", "1"]);
    // It ends with the file's appearance: nothing of it is left to be frozen.
    root.script(
        "asks",
        "echo 'which?' > q; exec mv q \"$HARNESS_INTERRUPT\"",
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it waits for an answer", || {
        // Frozen before it had ended, it ends here.
        let agents = root.processes();
        let frozen = agents
            .iter()
            .filter(|(_, command)| command.contains("mv q "));
        frozen.for_each(|(pid, _)| kill(*pid, "KILL"));
        root.is_parked("asks")
    });
    run.signal("INT");
    assert_eq!(run.wait(), Some(1), "{}", run.said());
    root.script("later", "#harness not_before: 2100-01-01\ntrue");
    root.script("waits", "#harness after: [later, nobody]\ntrue");
    fs::write(
        root.at("state/holds/codex.hold"),
        r#"{"reason":"no credit"}"#,
    )
    .unwrap();
    fs::write(root.at("state/interrupts/agent1.interrupt"), "x").unwrap();
    root
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn every_json_has_only_declared_names_and_times_in_utc() {
    let root = full_tree();
    let mut wrong = BTreeSet::new();
    let figures = ["session", "figures", "metrics"];
    let commands: &[(&str, &[&str])] = &[
        ("init", &["init"]),
        ("add --prompt text", &["item"]),
        ("list", &["item"]),
        ("list parked", &["item"]),
        ("show good.md", &["item", "show", "attempt", "record"]),
        ("show bad", &["item", "show", "attempt", "record"]),
        ("show asks", &["item", "show", "attempt", "record"]),
        ("show waits", &["item", "show", "attempt", "record"]),
        ("status", &["status", "slot", "hold"]),
        ("session list", &["session"]),
        ("session latest", &["session"]),
        (
            "session summary",
            &["summary", "session", "exit", "figures"],
        ),
        ("session events", &["event"]),
        ("session tools", &["tools"]),
        ("session errors", &["errors"]),
        ("session timeline", &["timeline"]),
        ("session metrics", &figures),
        (
            "session export",
            &["export", "session", "exit", "figures", "event"],
        ),
        ("budget", &["budget", "hold"]),
        ("branches", &["branches"]),
        ("review", &["branches", "review"]),
        ("review finished", &["branches", "review"]),
        ("review --conflicts", &["branches", "review"]),
        ("approve finished", &["did"]),
        ("wait good.md asks", &["item"]),
        ("gc --dry-run", &["gc"]),
        ("doctor", &["doctor"]),
        ("retry bad", &["did"]),
        ("cancel bad nope", &["did", "error"]),
        ("release later", &["did"]),
    ];
    for (command, kinds) in commands {
        let mut args: Vec<&str> = command.split(' ').collect();
        if *command != "session export" {
            args.push("--json");
        }
        let out = root.harness(&args);
        let text = String::from_utf8(out.stdout.clone()).unwrap();
        let values = match *command {
            "session events" => lines(&text),
            _ => vec![
                serde_json::from_str(&text)
                    .unwrap_or_else(|e| panic!("{command}: {e}: {}", describe(&out))),
            ],
        };
        let names = declared(kinds);
        values
            .iter()
            .for_each(|v| check(command, v, &names, &mut wrong));
    }
    // The names of these are keys and agents.
    let of = |args: &[&str]| -> Value { serde_json::from_str(&root.ok(args)).unwrap() };
    let config = of(&["config", "--json"]);
    for entry in config.as_object().unwrap().values() {
        let names: Vec<&String> = entry.as_object().unwrap().keys().collect();
        assert_eq!(names, ["source", "value"]);
    }
    let totals = of(&["session", "metrics", "--all", "--json"]);
    for total in totals["agents"].as_object().unwrap().values() {
        check(
            "totals",
            total,
            &declared(&["totals", "figures"]),
            &mut wrong,
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_of_state_has_only_declared_names_and_times_in_utc() {
    let root = full_tree();
    let run = root.start(&["--workers", "1"]);
    root.wait_until("there is a status", || {
        root.at("state/status.json").exists()
    });
    let mut wrong = BTreeSet::new();
    let mut seen = BTreeMap::<&str, usize>::new();
    for path in files_below(&root.at("state")) {
        let inside = path
            .strip_prefix(root.at("state"))
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let folder = inside.split('/').next().unwrap();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let kinds: &[&str] = match (folder, &*file) {
            ("status.json", _) => &["status", "slot", "hold"],
            ("agents", "status.json") => &["slot"],
            ("agents", "marker") => &["marker"],
            ("harnesses", _) => &["status"],
            ("sessions", "session.json") => &["session"],
            ("sessions", "exit.json") => &["exit"],
            ("sessions", "metrics.json") => &["metrics", "figures"],
            ("sessions", "events.jsonl") => &["event"],
            ("items", _) => &["record", "attempt"],
            ("ledger", name) if name.ends_with(".jsonl") => &["ledger"],
            _ => continue,
        };
        let text = fs::read_to_string(&path).unwrap_or_default();
        let values = match Path::new(&file).extension().is_some_and(|e| e == "jsonl") {
            true => lines(&text),
            false => serde_json::from_str(&text).into_iter().collect(),
        };
        *seen.entry(kinds[0]).or_default() += values.len();
        values
            .iter()
            .for_each(|v| check(&inside, v, &declared(kinds), &mut wrong));
    }
    drop(run);
    for kind in [
        "status", "slot", "session", "exit", "metrics", "event", "record", "ledger",
    ] {
        assert!(
            seen.get(kind).is_some_and(|n| *n > 0),
            "none of {kind}: {seen:?}"
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_command_that_fails_says_so_in_json_where_json_was_asked_for() {
    let root = Root::plain();
    for (args, code, what) in [
        (&["show", "nope", "--json"][..], 100, "no such item"),
        (&["session", "latest", "--json"], 100, "no such session"),
        (&["show", "a/b", "--json"], 2, "not an item's name"),
        (&["list", "nonsense", "--json"], 2, "wrong usage"),
        (&["status", "--frobnicate", "--json"], 2, "wrong usage"),
        (&["remove", "x", "--json"], 2, "cannot do that"),
        (
            &["add", "no-such-file", "--json"],
            100,
            "cannot add the file",
        ),
    ] {
        let out = root.exits(code, args);
        assert!(!out.stderr.is_empty(), "people are told, too");
        let told: Value = serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {}", describe(&out)));
        let error = &told["error"];
        let names: BTreeSet<&str> = error
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(names, ["hint", "what", "where", "why"].into(), "{args:?}");
        assert_eq!(error["what"], what, "{args:?}: {told}");
        assert!(
            error["why"].as_str().is_some_and(|w| !w.is_empty()),
            "{told}"
        );
        // Without it standard output stays empty.
        let plain: Vec<&str> = args.iter().copied().filter(|a| *a != "--json").collect();
        let out = root.harness(&plain);
        assert!(out.stdout.is_empty(), "{plain:?}: {}", describe(&out));
    }
    // Of several names each has its own answer.
    root.script("x", "true");
    let out = root.exits(100, &["cancel", "x", "nope", "--json"]);
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told[1]["error"]["what"], "no such item", "{told}");
}

#[test]
fn list_says_in_words_for_programs_why_an_item_waits() {
    let root = full_tree();
    let list: Value = serde_json::from_str(&root.ok(&["list", "--json"])).unwrap();
    let of = |name: &str| {
        let mut all = list.as_array().unwrap().iter();
        all.find(|i| i["item"] == name)
            .unwrap_or_else(|| panic!("{name}: {list:#}"))
            .clone()
    };
    assert_eq!(of("later")["reason_class"], "not_before");
    assert_eq!(of("later")["not_before"], "2100-01-01T00:00:00.000Z");
    assert_eq!(of("waits")["reason_class"], "after");
    assert_eq!(
        of("waits")["waits_for"],
        serde_json::json!(["later", "nobody"])
    );
    assert_eq!(of("asks")["reason_class"], "interrupt");
    let good = of("good.md");
    assert_eq!(
        (&good["branch"], &good["priority"]),
        (&"harness/good.md/1".into(), &5.into())
    );
    assert_eq!(
        (&good["slot"], &good["agent"]),
        (&"agent-1".into(), &"claude".into())
    );
    for key in ["modified_at", "claimed_at", "started_at", "ended_at"] {
        assert!(good[key].is_string(), "{key}: {good:#}");
    }
    assert!(good["seconds"].is_number());
    for (key, value) in good.as_object().unwrap() {
        assert_eq!(root.show("good.md")[key], *value, "{key}");
    }
}

#[test]
fn all_that_are_parked_go_back_but_for_those_that_wait_for_an_answer() {
    let root = full_tree();
    for (all, stays) in [
        (
            &["retry", "--all", "failed"][..],
            "1 item that was parked as failed is back",
        ),
        (
            &["retry", "--all"],
            "1 item waits for an answer and stays parked",
        ),
    ] {
        let said = describe(&root.harness(all));
        assert!(said.contains(stays), "{said}");
        assert!(root.is_parked("asks"), "{}", root.picture());
    }
    assert!(!root.is_parked("bad") && !root.is_parked("refused.json"));
}
