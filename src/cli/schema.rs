//! `harness schema [NAME]`: the JSON Schema of each file in `state/` and of each `--json`, made from the
//! types that are written, with their comments.
//!
//! Invariant: what a schema of one version allows, those that are made later allow too, so that a reader
//! that holds an older one goes on: names are added, never taken away or given another type, and lists of
//! words stay open. `tests/it/schema/promises.txt` holds that.

use std::collections::BTreeSet;

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Failed;
use super::branches::BranchTold;
use super::clashes::Clashes;
use super::config::{InForce, KeySet};
use super::doctor::Examined;
use super::drops::AddedItem;
use super::ended::Ended;
use super::facts::Facts;
use super::gc::Gone;
use super::init::Made;
use super::moves::Did;
use super::review::Changed;
use super::sandbox::Explained;
use super::show::Shown;
use super::waiting::WaitingTold;
use crate::config::nearest;
use crate::error::{Error, Result};
use crate::event::Line;
use crate::hold::{Canary, Hold};
use crate::hooks::OnStdin;
use crate::keeper::ExitRecord;
use crate::lease::Marker;
use crate::record::Stamped;
use crate::session::digest::Metrics;
use crate::session::file::SessionFile;
use crate::session::gates::Baseline;
use crate::status::{HarnessStatus, LedgerLine, SlotStatus, Status};
use crate::submission::Submission;
use crate::view::table::{Cell, Table};
use crate::view::{Term, print_json, print_text};
use crate::{budget, inspect};

struct Known {
    name: &'static str,
    version: u32,
    /// What it describes.
    of: &'static str,
    make: fn(SchemaGenerator) -> Schema,
}

const fn known<T: JsonSchema>(name: &'static str, version: u32, of: &'static str) -> Known {
    Known {
        name,
        version,
        of,
        make: SchemaGenerator::into_root_schema_for::<T>,
    }
}

/// A file of `state/`.
macro_rules! file {
    ($name:literal, $version:literal, $type:ty, $of:literal) => {
        known::<$type>($name, $version, concat!("state/", $of))
    };
}

/// What a command prints.
macro_rules! printed {
    ($name:literal, $version:literal, $type:ty, $of:literal) => {
        known::<$type>($name, $version, concat!("harness ", $of))
    };
}

/// A new version of one is for names that vanish or mean something else.
const ALL: &[Known] = &[
    file!("budget.json", 1, budget::BudgetFile, "budget/budget.json"),
    file!("canary", 1, Canary, "holds/AGENT.canary"),
    file!("events.jsonl", 1, Line, "sessions/SID/events.jsonl, a line"),
    file!("exit.json", 1, ExitRecord, "sessions/SID/exit.json"),
    file!("gate.json", 1, Baseline, "gates/REPO/COMMIT/GATE.json"),
    file!("harness.json", 1, HarnessStatus, "harnesses/PID.json"),
    file!("hold", 1, Hold, "holds/AGENT.hold"),
    file!(
        "hook.json",
        1,
        OnStdin,
        "sessions/SID/hooks/NAME.json, and a hook's standard input"
    ),
    file!("item.jsonl", 1, Stamped<'_>, "items/NAME.jsonl, a line"),
    file!("job.json", 1, Submission, "jobs/ENGINE-ID.json"),
    file!("ledger.jsonl", 1, LedgerLine, "ledger/DATE.jsonl, a line"),
    file!("marker", 1, Marker, "agents/SLOT/marker, claims/NAME"),
    file!("metrics.json", 1, Metrics, "sessions/SID/metrics.json"),
    file!("session.json", 1, SessionFile, "sessions/SID/session.json"),
    file!("slot-status.json", 2, SlotStatus, "agents/SLOT/status.json"),
    file!("status.json", 2, Status, "status.json"),
    printed!("add", 1, Vec<AddedItem>, "add --json"),
    printed!("approve", 1, Vec<Did>, "approve NAME --json"),
    printed!("branches", 1, Vec<BranchTold>, "branches --json"),
    printed!("budget", 1, budget::Report, "budget --json"),
    printed!("cancel", 1, Vec<Did>, "cancel NAME --json"),
    printed!("config", 1, InForce, "config --json"),
    printed!("config-set", 1, KeySet, "config set KEY VALUE --json"),
    printed!("doctor", 1, Examined<'_>, "doctor --json"),
    printed!("error", 1, Failed, "… --json, of a command that fails"),
    printed!("gc", 1, Gone, "gc --json"),
    printed!("init", 1, Made, "init --json"),
    printed!("list", 1, Vec<Facts>, "list --json"),
    printed!("reject", 1, Vec<Did>, "reject NAME --json"),
    printed!("release", 1, Vec<Did>, "release NAME --json"),
    printed!("retry", 1, Vec<Did>, "retry NAME --json"),
    printed!("review", 1, Vec<WaitingTold>, "review --json"),
    printed!("review-conflicts", 1, Clashes, "review --conflicts --json"),
    printed!("review-item", 1, Changed, "review NAME --json"),
    printed!(
        "sandbox-explain",
        1,
        Explained<'_>,
        "sandbox explain --json"
    ),
    printed!(
        "session-errors",
        1,
        inspect::errors::Told<'_>,
        "session errors --json"
    ),
    printed!("session-events", 1, Line, "session events --json, a line"),
    printed!(
        "session-export",
        1,
        inspect::export::Exported,
        "session export"
    ),
    printed!("session-latest", 1, SessionFile, "session latest --json"),
    printed!("session-list", 1, Vec<SessionFile>, "session list --json"),
    printed!("session-metrics", 1, Metrics, "session metrics --json"),
    printed!(
        "session-metrics-all",
        1,
        inspect::metrics::All,
        "session metrics --all --json"
    ),
    printed!(
        "session-summary",
        1,
        inspect::summary::Summary<'_>,
        "session summary --json"
    ),
    printed!(
        "session-timeline",
        1,
        inspect::timeline::Told<'_>,
        "session timeline --json"
    ),
    printed!(
        "session-tools",
        1,
        inspect::tools::Told<'_>,
        "session tools --json"
    ),
    printed!("session-watch", 1, Watched, "session watch --json, a line"),
    printed!("show", 1, Shown<'_>, "show NAME --json"),
    printed!("status", 2, Status, "status --json; with --watch, a line"),
    printed!("submit", 1, Submission, "submit --json"),
    printed!("wait", 1, Vec<Ended>, "wait NAME --json"),
];

/// Names that mean the same wherever they stand, where a field has no comment of its own.
const MEANS: &[(&str, &str)] = &[
    ("item", "The item's name."),
    ("slot", "The slot: `agent-N`."),
    (
        "agent",
        "What runs: `script`, or a name from `[agents.NAME]`.",
    ),
    ("session", "The id of the attempt's session."),
    ("attempt", "The attempt's number, from 1."),
    ("outcome", "How the attempt ended."),
    ("reason", "Why, in words."),
    ("branch", "The name of its branch."),
    ("base", "The branch that it began from."),
    ("base_oid", "The commit that it began from."),
    ("repo", "A name from `[repos.NAME]`, or `default`."),
    ("worktree", "The directory that its agent works in."),
    ("claimed_at", "When the item was claimed."),
    ("started_at", "When it was started."),
    ("ended_at", "When it ended."),
    (
        "published_at",
        "When its branch appeared in your repository.",
    ),
    ("since", "Since when."),
    ("seconds", "How long it took."),
    ("cpu_seconds", "User and system time."),
    ("pid", "The process id of its agent."),
    ("harness_pid", "The process id of its harness."),
    ("host", "The name of its host."),
    (
        "exit_status",
        "How its process ended; `null`: by a signal, or it is not known.",
    ),
    ("signal", "The number of the signal that ended its process."),
    (
        "commits",
        "How many commits its branch has on top of its base.",
    ),
    ("files_changed", "How many files these change."),
    ("turns", "Answers of the model."),
    ("tool_calls", "How often it called a tool."),
    ("tool", "The name of the tool."),
    (
        "input_tokens",
        "Tokens that were neither read from nor written to a cache.",
    ),
    ("output_tokens", "Tokens that the model wrote."),
    ("cache_read_tokens", "Tokens that were read from a cache."),
    ("cache_write_tokens", "Tokens that were written to a cache."),
    ("cost_usd", "Dollars, as its CLI tells it."),
    ("charged_tokens", "Tokens that the budget was charged with."),
    ("last_message", "The agent's latest text."),
    (
        "cli_session",
        "The id by which its CLI can resume the conversation.",
    ),
    ("model", "The model, if its CLI says."),
    ("event", "What happened."),
];

/// A line of a watch.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Watched {
    Event(Line),
    Ended(inspect::watch::Ended<'static>),
}

/// What there are schemas of, and who writes or prints it.
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter().map(|known| (known.name, known.of))
}

pub(super) fn schema(words: &[String]) -> Result<u8> {
    let name = words.join("-");
    if name.is_empty() {
        let mut table = Table::new(&["NAME", ">VERSION", "OF"]);
        for known in ALL {
            table.row(vec![
                Cell::new(known.name),
                Cell::new(known.version.to_string()),
                Cell::new(known.of),
            ]);
        }
        return print_text(&table.render(&Term::of_stdout()));
    }
    match ALL.iter().find(|known| known.name == name) {
        Some(known) => print_json(&printed(known)),
        None => {
            let names = ALL.iter().map(|known| known.name);
            let why = match nearest::nearest(&name, names) {
                Some(near) => format!("there is none of `{name}`; the nearest is `{near}`"),
                None => format!("there is none of `{name}`"),
            };
            Err(Error::usage("no such schema", why).hint("`harness schema` lists them"))
        }
    }
}

#[derive(Serialize)]
struct Printed {
    #[serde(rename = "$schema")]
    dialect: Value,
    #[serde(rename = "$id")]
    id: String,
    title: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn printed(known: &Known) -> Printed {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.transforms.push(Box::new(plain));
    let mut schema = (known.make)(settings.into_generator());
    let dialect = schema.remove("$schema").unwrap_or_default();
    schema.remove("title");
    Printed {
        dialect,
        id: format!("urn:harness:schema:{}:{}", known.name, known.version),
        title: known.of.to_owned(),
        rest: std::mem::take(schema.ensure_object()),
    }
}

/// Takes away what is Rust's, says which texts are times, and opens lists of words and kinds.
fn plain(schema: &mut Schema) {
    schema.remove("default");
    if schema.get("format").is_some_and(|f| f != "date-time") {
        schema.remove("format");
    }
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ").replace("`None`", "`null`");
    }
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, field) in fields.into_iter().flatten() {
        let Some(field) = field.as_object_mut() else {
            continue;
        };
        if is_time(name) {
            field.insert("format".into(), "date-time".into());
        }
        if let Some((_, means)) = MEANS.iter().find(|(known, _)| known == name) {
            let says = || Value::from(*means);
            field.entry("description").or_insert_with(says);
        }
    }
    if !open_words(schema) {
        transform_subschemas(&mut plain, schema);
        open_kinds(schema);
    }
}

fn is_time(name: &str) -> bool {
    let others = [
        "at",
        "timestamp",
        "since",
        "until",
        "not_before",
        "last_heartbeat",
    ];
    name.ends_with("_at") || others.contains(&name)
}

/// A newer harness may have more words. `false`: it is no list of words.
fn open_words(schema: &mut Schema) -> bool {
    let is_word = |one: &Value| one.get("const").or(one.get("enum")).is_some();
    let mut words = match (schema.remove("enum"), schema.get("oneOf")) {
        (Some(words), _) => vec![json!({"enum": words})],
        (None, Some(Value::Array(all))) if all.iter().all(is_word) => {
            match schema.remove("oneOf") {
                Some(Value::Array(all)) => all,
                _ => return false,
            }
        }
        _ => return false,
    };
    words.push(json!({"type": "string"}));
    schema.remove("type");
    schema.insert("anyOf".into(), words.into());
    true
}

/// A newer harness may have more kinds of events: objects that a word in one field tells apart.
fn open_kinds(schema: &mut Schema) {
    let Some(Value::Array(kinds)) = schema.get_mut("oneOf") else {
        return;
    };
    let words = |kind: &Value| -> Option<(String, Value)> {
        let fields = kind.get("properties")?.as_object()?;
        let mut tags = fields
            .iter()
            .filter_map(|(name, f)| Some((name, f.get("const")?)));
        tags.next().map(|(name, word)| (name.clone(), word.clone()))
    };
    let Some(all) = kinds.iter().map(words).collect::<Option<Vec<_>>>() else {
        return;
    };
    let tags: BTreeSet<String> = all.iter().map(|(tag, _)| tag.clone()).collect();
    let (Some(tag), 1) = (tags.first(), tags.len()) else {
        return;
    };
    let words: Vec<Value> = all.into_iter().map(|(_, word)| word).collect();
    kinds.push(json!({
        "description": "One of a newer version.",
        "type": "object",
        "properties": {tag: {"description": "Another word.", "type": "string", "not": {"enum": words}}},
        "required": [tag],
    }));
}
