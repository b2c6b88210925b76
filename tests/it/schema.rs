//! `harness schema`: files that real runs leave in `state/`, and what real commands print, against their
//! schemas. Schemas are open, as harness may say more in time; here they are closed, so that nothing is
//! written that is not declared.

mod closed;
mod promises;
mod tree;

pub use tree::asks;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Root, describe, files_below};
use closed::{closed, validator};
use tree::full_tree;

/// The names that `harness schema` lists.
fn names(root: &Root) -> Vec<String> {
    let list = root.ok(&["schema"]);
    let rows = list.lines().skip(1);
    rows.map(|row| row.split_whitespace().next().unwrap().to_owned())
        .collect()
}

fn schema(root: &Root, name: &str) -> Value {
    serde_json::from_str(&root.ok(&["schema", name])).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|l| !l.trim().is_empty());
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The schema of a file of `state/`; `None`: it is no JSON of ours.
fn of_file(inside: &Path) -> Option<&'static str> {
    let folder = inside.iter().next()?.to_str()?;
    let file = inside.file_name()?.to_str()?;
    Some(match (folder, file) {
        ("status.json", _) => "status.json",
        ("agents", "status.json") => "slot-status.json",
        ("agents", "marker") | ("claims" | "exclusive", _) => "marker",
        ("harnesses", _) => "harness.json",
        ("sessions", "session.json") => "session.json",
        ("sessions", "exit.json") => "exit.json",
        ("sessions", "metrics.json") => "metrics.json",
        ("sessions", "events.jsonl") => "events.jsonl",
        ("items", _) => "item.jsonl",
        ("ledger", name) if name.ends_with(".jsonl") => "ledger.jsonl",
        ("holds", name) if name.ends_with(".canary") => "canary",
        ("holds", _) => "hold",
        ("sessions", name) if is_hooks(inside) && name.ends_with(".json") => "hook.json",
        ("budget", "budget.json") => "budget.json",
        ("jobs", name) if name.ends_with(".json") => "job.json",
        ("gates", name) if name.ends_with(".json") => "gate.json",
        _ => return None,
    })
}

fn is_hooks(inside: &Path) -> bool {
    inside.iter().nth(2).is_some_and(|folder| folder == "hooks")
}

/// What an agent printed or was given: any JSON may be in it.
fn is_agents(inside: &Path) -> bool {
    let file = inside.file_name().unwrap().to_string_lossy();
    inside.starts_with("sessions") && (file.ends_with(".log") || file == "item")
}

/// All JSON that lies in `state/`, with the name of its schema.
fn files(root: &Root) -> Vec<(String, &'static str, Value)> {
    let mut all = Vec::new();
    for path in files_below(&root.at("state")) {
        let inside = path.strip_prefix(root.at("state")).unwrap();
        // A process may have taken its file away again.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let shown = inside.display().to_string();
        let Some(name) = of_file(inside) else {
            let first = text.lines().next().unwrap_or_default();
            let is_json = [&*text, first]
                .iter()
                .any(|text| serde_json::from_str::<Value>(text).is_ok_and(|v| v.is_object()));
            assert!(
                !is_json || is_agents(inside),
                "no schema of {shown}: {text}"
            );
            continue;
        };
        let values = match name.ends_with(".jsonl") {
            true => lines(&text),
            false => vec![serde_json::from_str(&text).unwrap_or_else(|e| panic!("{shown}: {e}"))],
        };
        all.extend(values.into_iter().map(|value| (shown.clone(), name, value)));
    }
    all
}

/// What commands print, with the name of its schema.
fn printed(root: &Root) -> Vec<(String, &'static str, Value)> {
    let mut all = Vec::new();
    for (command, name) in COMMANDS {
        let out = root.harness(&command.split(' ').collect::<Vec<_>>());
        let text = String::from_utf8(out.stdout.clone()).unwrap();
        let is_lines = ["session-events", "session-watch"].contains(name);
        let values = match is_lines {
            true => lines(&text),
            false => vec![serde_json::from_str(&text).unwrap_or_else(|e| {
                panic!("{command}: {e}: {}", describe(&out));
            })],
        };
        all.extend(values.into_iter().map(|v| (command.to_string(), *name, v)));
    }
    all
}

/// In this order: the last ones change the tree.
const COMMANDS: &[(&str, &str)] = &[
    ("init --json", "init"),
    ("list --json", "list"),
    ("list parked --json", "list"),
    ("show good.md --json", "show"),
    ("show bad --json", "show"),
    ("show asks --json", "show"),
    ("show waits --json", "show"),
    ("show landed --json", "show"),
    ("show nope --json", "error"),
    ("status --json", "status"),
    ("session list --limit 0 --json", "session-list"),
    ("session latest --json", "session-latest"),
    ("session summary good.md --json", "session-summary"),
    ("session events good.md --json", "session-events"),
    ("session watch good.md --json", "session-watch"),
    ("session tools good.md --json", "session-tools"),
    ("session errors trouble.md --json", "session-errors"),
    ("session timeline good.md --json", "session-timeline"),
    ("session metrics good.md --json", "session-metrics"),
    ("session metrics bad --json", "session-metrics"),
    ("session metrics --all --json", "session-metrics-all"),
    ("session export good.md", "session-export"),
    ("session export bad", "session-export"),
    ("budget --json", "budget"),
    ("branches --json", "branches"),
    ("review --json", "review"),
    ("review finished --json", "review-item"),
    ("review --conflicts --json", "review-conflicts"),
    ("wait good.md asks --json", "wait"),
    ("wait later --timeout 0 --json", "wait"),
    ("gc --dry-run --json", "gc"),
    ("doctor --json", "doctor"),
    ("sandbox explain --json", "sandbox-explain"),
    ("config --json", "config"),
    ("config set retry.max 3 --json", "config-set"),
    ("submit --nodes 2 --dry-run --json", "submit"),
    ("submit --json", "submit"),
    ("add --prompt text --name new --json", "add"),
    ("add --prompt text --name new --if-absent --json", "add"),
    ("approve finished nope --json", "approve"),
    ("reject other --comment no --json", "reject"),
    ("retry --all failed --json", "retry"),
    ("retry good.md --json", "retry"),
    ("cancel bad nope --json", "cancel"),
    ("release later --json", "release"),
];

#[test]
fn every_file_of_state_and_every_json_fits_its_closed_schema() {
    let root = full_tree();
    let mut all = {
        let run = root.start(&["--workers", "1"]);
        root.wait_until("its status names it", || {
            let text = fs::read_to_string(root.at("state/status.json")).unwrap_or_default();
            let status: Value = serde_json::from_str(&text).unwrap_or_default();
            status["harnesses"][0]["pid"] == run.pid()
        });
        let files = files(&root);
        drop(run);
        files
    };
    let kinds = |all: &[(String, &str, Value)]| -> BTreeSet<String> {
        let records = all.iter().filter(|(_, name, _)| *name == "item.jsonl");
        let words = records.map(|(_, _, v)| v["event"].as_str().unwrap().to_owned());
        words.collect()
    };
    json_lines_are_the_objects_of_the_list(&root);
    let seen = kinds(&all);
    for kind in tree::EVENTS {
        assert!(seen.contains(*kind), "no {kind}: {seen:?}");
    }
    all.extend(printed(&root));
    all.extend(files(&root));
    let mut wrong = BTreeSet::new();
    let mut open = BTreeMap::new();
    let mut strict = BTreeMap::new();
    for name in names(&root) {
        let schema = schema(&root, &name);
        strict.insert(name.clone(), validator(&closed(&schema)));
        open.insert(name, validator(&schema));
    }
    let mut unseen: BTreeSet<&String> = strict.keys().collect();
    for (place, name, value) in &all {
        unseen.remove(&name.to_string());
        for e in strict[*name].iter_errors(value) {
            wrong.insert(format!("{place} ({name}): {}: {e:.300}", e.instance_path()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (place, name, value) in &all {
        let planted = with_a_field_more(name, value);
        assert!(
            !strict[*name].is_valid(&planted),
            "{place} ({name}): {planted:#}"
        );
        // Readers are to leave it alone.
        assert!(
            open[*name].is_valid(&planted),
            "{place} ({name}): {planted:#}"
        );
    }
    // It lives for a moment: a slot tries whether a hold is over.
    unseen.retain(|name| *name != "canary");
    assert!(unseen.is_empty(), "no real file of {unseen:?}");
}

fn with_a_field_more(name: &str, value: &Value) -> Value {
    let mut planted = value.clone();
    let place = match &mut planted {
        Value::Array(all) => &mut all[0],
        // Its names are keys.
        keys if name == "config" => &mut keys["harness.workers"],
        one => one,
    };
    place["planted"] = json!(1);
    planted
}

#[test]
fn every_schema_is_draft_2020_12_with_a_version_and_says_what_each_field_is() {
    let root = Root::plain();
    for name in names(&root) {
        let schema = schema(&root, &name);
        assert!(jsonschema::meta::is_valid(&schema), "{name}");
        let draft = "https://json-schema.org/draft/2020-12/schema";
        assert_eq!(schema["$schema"], draft, "{name}");
        let version = ["status", "status.json", "slot-status.json"].contains(&&*name);
        let version = if version { 2 } else { 1 };
        assert_eq!(
            schema["$id"],
            format!("urn:harness:schema:{name}:{version}")
        );
        let mut silent = BTreeSet::new();
        closed::each_field(&schema, &mut |field, what| {
            if what.get("description").or(what.get("const")).is_none() {
                silent.insert(field.to_owned());
            }
            let is_unitless = field.ends_with("_ns") || field.ends_with("_ms");
            assert!(!is_unitless || field == "wait_ms", "{name}: {field}");
        });
        assert!(silent.is_empty(), "{name}: nothing is said of {silent:?}");
    }
    let out = root.exits(2, &["schema", "sesion", "list"]);
    assert!(describe(&out).contains("the nearest is `session-list`"));
}

#[test]
fn every_command_with_json_has_its_schema() {
    let root = Root::plain();
    let names = names(&root);
    let mut with_json = BTreeSet::new();
    find_json(&root, &mut Vec::new(), &mut with_json);
    assert!(with_json.contains("session-list"), "{with_json:?}");
    for command in with_json {
        assert!(names.contains(&command), "no schema of {command}");
    }
}

fn find_json(root: &Root, command: &mut Vec<String>, found: &mut BTreeSet<String>) {
    let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
    args.push("--help");
    let help = root.ok(&args);
    let has_json = |line: &str| line.split_whitespace().next() == Some("--json");
    if help.lines().any(has_json) {
        found.insert(command.join("-"));
    }
    let Some((_, commands)) = help.split_once("\nCommands:\n") else {
        return;
    };
    let commands = commands.split("\n\n").next().unwrap();
    for line in commands.lines().filter(|l| !l.starts_with("   ")) {
        let name = line.split_whitespace().next().unwrap();
        if name != "help" {
            command.push(name.to_owned());
            find_json(root, command, found);
            command.pop();
        }
    }
}

/// Each list is the same with `--jsonl`, one object on a line.
fn json_lines_are_the_objects_of_the_list(root: &Root) {
    for command in [
        "list",
        "list parked",
        "branches",
        "review",
        "session list --limit 3",
        "wait good.md asks bad",
    ] {
        let with = |option: &str| {
            let mut args: Vec<&str> = command.split(' ').collect();
            args.push(option);
            String::from_utf8(root.harness(&args).stdout).unwrap()
        };
        let all: Vec<Value> = serde_json::from_str(&with("--json")).unwrap();
        assert!(!all.is_empty(), "{command}");
        assert_eq!(lines(&with("--jsonl")), all, "{command}");
    }
    let out = root.exits(2, &["list", "--json", "--jsonl"]);
    assert_eq!(lines(&String::from_utf8_lossy(&out.stdout)).len(), 1);
}
