//! Parses the files in `queue/pending/`: bytes in, an item out. Knows nothing of queues.
//!
//! Three kinds. Executable or beginning with `#!`: a script. `*.json`: an object of fields.
//! Anything else: a prompt, with optional YAML front matter holding the same fields. Scripts give
//! fields in their leading comment lines: `#harness priority: high`.
//!
//! A file that cannot be parsed is a `Refusal` with a reason for its owner; no part of it is run.

mod encoding;
mod header;
mod json;
mod names;
mod near;
mod set;
mod yaml;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::config::Mode;
use crate::layout::Name;
use crate::limits::ITEM_BYTES_MAX;
pub use encoding::without_mark;
pub use header::split_front_matter;
use near::LOOK_LINES;
use yaml::Given;

/// Why an item is not accepted, in a sentence for its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Script,
    Json,
    Prompt,
}

/// The fields that decide when, and preferably where, an item starts. The index of pending items
/// keeps no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueFields {
    /// 0 to 9, larger is sooner.
    pub priority: u8,
    /// Nanoseconds since 1970.
    pub not_before: Option<i64>,
    pub after: Vec<Name>,
    pub exclusive: Option<String>,
    /// The `[repos.NAME]` to work in. A slot prefers the repository it last worked in.
    pub repo: Option<String>,
    /// Whether an agent runs it: the first start of one in a slot may have to wait for its turn.
    pub is_prompt: bool,
}

/// The number of `medium`.
pub const PRIORITY_DEFAULT: u8 = 5;

impl Default for QueueFields {
    fn default() -> Self {
        QueueFields {
            priority: PRIORITY_DEFAULT,
            not_before: None,
            after: Vec::new(),
            exclusive: None,
            repo: None,
            is_prompt: false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Item {
    pub kind: Kind,
    pub order: QueueFields,
    pub agent: Option<String>,
    /// Branch or revision to start from, instead of the repository's configured base.
    pub base: Option<String>,
    /// Replaces NAME in the branch `harness/NAME/ATTEMPT`.
    pub branch: Option<String>,
    pub timeout: Option<Duration>,
    pub retries: Option<u32>,
    /// Limits of each attempt, overriding the agent's; 0: no limit.
    pub max_turns: Option<u64>,
    pub budget_usd: Option<f64>,
    pub env: BTreeMap<String, String>,
    /// The gates that it chooses; `None`: all.
    pub gates: Option<Vec<String>>,
    /// What becomes of its branch, instead of what is configured.
    pub integrate: Option<Mode>,
    /// The only paths that it may change, as patterns; empty: all.
    pub paths: Vec<String>,
    /// The text for the agent; empty for a script.
    pub prompt: Vec<u8>,
    /// Every field as it was given, unknown ones included.
    pub fields: Map<String, Value>,
    /// The line that looks like a field and is none.
    pub stray: Option<usize>,
    /// What else of its fields may be meant otherwise.
    remarks: Vec<String>,
}

type Parsed<T> = Result<T, Refusal>;

fn refuse<T>(why: impl Into<String>) -> Parsed<T> {
    Err(Refusal(why.into()))
}

/// The kind of a file, by its mode, first bytes and name.
pub fn kind_of(name: &Name, head: &[u8], executable: bool) -> Kind {
    if executable || without_mark(head).starts_with(b"#!") {
        Kind::Script
    } else if extension(name).eq_ignore_ascii_case("json") {
        Kind::Json
    } else {
        Kind::Prompt
    }
}

/// Longer reasons are cut: a parser may quote a whole line of the file.
const REASON_CHARS_MAX: usize = 500;

/// Parses a whole file.
pub fn parse(name: &Name, bytes: &[u8], executable: bool) -> Parsed<Item> {
    understand(name, bytes, executable).map_err(|Refusal(why)| {
        match why.char_indices().nth(REASON_CHARS_MAX) {
            Some((end, _)) => Refusal(format!("{}…", &why[..end])),
            None => Refusal(why),
        }
    })
}

fn understand(name: &Name, bytes: &[u8], executable: bool) -> Parsed<Item> {
    if bytes.is_empty() {
        return refuse("the file is empty");
    }
    if bytes.len() as u64 > ITEM_BYTES_MAX {
        return refuse(format!(
            "the file is larger than {} KiB; put large inputs into the repository and name them",
            ITEM_BYTES_MAX >> 10
        ));
    }
    let kind = kind_of(name, bytes, executable);
    let bytes = without_mark(bytes);
    encoding::check(kind, bytes)?;
    let (fields, stray, prompt) = read(kind, name, bytes)?;
    let mut item = Item {
        kind,
        prompt,
        stray,
        ..Item::blank()
    };
    for (key, value) in &fields.written {
        item.take(key, value).map_err(|Refusal(why)| {
            let place = line_of(kind, bytes, key).map_or(String::new(), |n| format!("line {n}, "));
            Refusal(format!("{place}field `{}`: {why}", shown(key)))
        })?;
    }
    if item.begins_with_others() && item.order.after.len() != 1 {
        return refuse(match item.order.after.len() {
            0 => "field `base`: it is the branch of the item in `after`, and there is no `after`"
                .to_owned(),
            n => format!(
                "field `base`: `after` names {n} items, and a branch can begin with the work of one: \
                 name the branch itself, or merge the others in the item"
            ),
        });
    }
    if kind != Kind::Script && item.prompt.iter().all(u8::is_ascii_whitespace) {
        return refuse(match kind {
            Kind::Json => "there is no prompt: its text belongs into the field `prompt`",
            _ => "there is no prompt: nothing but fields and white space",
        });
    }
    item.order.is_prompt = kind != Kind::Script;
    item.fields = as_given(fields);
    Ok(item)
}

fn as_given(fields: Given) -> Map<String, Value> {
    let mut all = fields.typed;
    let texts = fields.written.into_iter();
    all.extend(texts.filter(|(key, _)| set::TEXTS.contains(&&**key)));
    all
}

/// The fields that a file gives, whatever they are taken for.
pub fn fields(name: &Name, bytes: &[u8], executable: bool) -> Parsed<Map<String, Value>> {
    let kind = kind_of(name, bytes, executable);
    let bytes = without_mark(bytes);
    encoding::check(kind, bytes)?;
    read(kind, name, bytes).map(|(fields, ..)| as_given(fields))
}

/// The line of the file that gives a field.
fn line_of(kind: Kind, bytes: &[u8], key: &str) -> Option<usize> {
    let quoted = format!("\"{key}\"");
    let is_it = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_start_matches("#harness");
        match kind {
            Kind::Json => line.contains(&quoted),
            _ => line
                .trim_start_matches([' ', '\t', '"', '\'', '{'])
                .starts_with(key),
        }
    };
    let mut lines = encoding::lines(bytes);
    lines.find(|(_, line)| is_it(line)).map(|(n, _)| n)
}

/// The fields, the line that looks like one, and the text for the agent.
fn read(kind: Kind, name: &Name, bytes: &[u8]) -> Parsed<(Given, Option<usize>, Vec<u8>)> {
    match kind {
        Kind::Script => {
            let header = header::of_script(bytes)?;
            header.check()?;
            let fields = yaml::read(&header.yaml, "`#harness` lines")?;
            Ok((fields, header.stray, Vec::new()))
        }
        Kind::Json => {
            let fields = json::read(bytes)?;
            let fields = Given {
                typed: fields.clone(),
                written: fields,
            };
            Ok((fields, None, Vec::new()))
        }
        Kind::Prompt => {
            refuse_other_forms(name, bytes)?;
            let (header, body) = header::of_prompt(bytes)?;
            header.check()?;
            let fields = yaml::read(&header.yaml, "front matter")?;
            Ok((fields, header.stray, body.to_vec()))
        }
    }
}

/// Names of programs and their text.
const PROGRAMS: &[&str] = &[
    "sh",
    "bash",
    "zsh",
    "ksh",
    "dash",
    "ash",
    "csh",
    "tcsh",
    "fish",
    "nu",
    "command",
    "py",
    "pyw",
    "pl",
    "pm",
    "rb",
    "js",
    "mjs",
    "cjs",
    "jsx",
    "ts",
    "mts",
    "cts",
    "tsx",
    "lua",
    "php",
    "awk",
    "tcl",
    "r",
    "jl",
    "ex",
    "exs",
    "groovy",
    "scala",
    "kts",
    "ps1",
    "psm1",
    "bat",
    "cmd",
    "vbs",
    "exe",
    "com",
    "applescript",
    "go",
    "rs",
    "c",
    "cc",
    "cpp",
    "java",
    "swift",
    "kt",
    "cs",
    "hs",
    "ml",
    "sql",
    "mk",
];

/// Forms of data that people write fields in, and harness does not read.
const DATA: &[&str] = &[
    "yaml", "yml", "toml", "json5", "jsonc", "jsonl", "ndjson", "ini",
];

/// A program's text, or fields in a form that harness does not read, must not go to an agent as its
/// prompt.
fn refuse_other_forms(name: &Name, bytes: &[u8]) -> Parsed<()> {
    let extension = extension(name).to_ascii_lowercase();
    if PROGRAMS.contains(&&*extension) || name.bytes().eq_ignore_ascii_case(b"Makefile") {
        return refuse(format!(
            "its name (`{}`) is that of a program, but it is neither executable nor begins with `#!`: \
             give it a first line like `#!/bin/sh`, or another name (`.md`) if it is a prompt",
            shown(&name.shown())
        ));
    }
    if json::is_like_an_item(bytes) {
        return refuse(
            "it looks like JSON with a `prompt`, but its name does not end in `.json`: name it so",
        );
    }
    let is_field =
        |line: &[u8]| std::str::from_utf8(line).is_ok_and(|l| names::acting_in(l).is_some());
    if DATA.contains(&&*extension)
        && let Some((n, _)) = encoding::lines(bytes)
            .take(LOOK_LINES)
            .find(|(_, line)| is_field(line))
    {
        return refuse(format!(
            "line {n} looks like a field, but harness reads no `.{extension}`: write JSON and name it \
             `.json`, or a prompt (`.md`) with its fields between two lines `---`"
        ));
    }
    Ok(())
}

fn extension(name: &Name) -> &str {
    let extension = Path::new(name.as_os_str()).extension();
    extension.and_then(OsStr::to_str).unwrap_or_default()
}

/// The beginning of a text on one line. What a person does not see is spelt out.
fn shown(text: &str) -> String {
    let spelt = |c: char| match c != ' ' && encoding::is_blank(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().take(64).map(spelt).collect()
}

/// Whether a value holds a NUL character, which ends a text on its way to a program.
fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(holds_nul),
        Value::Object(map) => map
            .iter()
            .any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

impl Item {
    /// Whether it begins with the work of the item in `after`: `base: after`. A branch of that name is
    /// `refs/heads/after`.
    pub fn begins_with_others(&self) -> bool {
        self.base.as_deref() == Some("after")
    }

    /// An item without known fields, for a dead holder's claim whose file was changed or removed.
    pub fn blank() -> Item {
        Item {
            kind: Kind::Prompt,
            order: QueueFields::default(),
            agent: None,
            base: None,
            branch: None,
            timeout: None,
            retries: None,
            max_turns: None,
            budget_usd: None,
            env: BTreeMap::new(),
            gates: None,
            integrate: None,
            paths: Vec::new(),
            prompt: Vec::new(),
            fields: Map::new(),
            stray: None,
            remarks: Vec::new(),
        }
    }

    /// Takes one field. A name that is only nearly known is refused: its owner counts on it.
    fn take(&mut self, key: &str, value: &Value) -> Parsed<()> {
        if let Some(meant) = names::meant(key) {
            return refuse(format!(
                "harness knows no such field; the nearest is `{meant}`"
            ));
        }
        if key.trim().is_empty() || key.chars().any(encoding::is_unseen) {
            return refuse("this is no name for a field");
        }
        if holds_nul(value) {
            return refuse("it holds a NUL character (`\\u0000`), which no text has");
        }
        match value {
            Value::Null if key == "env" => {
                refuse("nothing belongs to it: its lines are indented more than it is")
            }
            Value::Null if self.kind != Kind::Json && names::ACTING.contains(&key) => {
                refuse("nothing stands behind it: give it a value, or leave it out")
            }
            Value::Null => Ok(()),
            value if names::is_known(key) => self.set(key, value),
            value => self.keep(key, value),
        }
    }

    /// Keeps a field of the user's own, which has no effect. What may be meant otherwise is said.
    fn keep(&mut self, key: &str, value: &Value) -> Parsed<()> {
        if let Some(meant) = names::perhaps(key) {
            let remark = format!(
                "`{}` is kept without effect; the field is `{meant}`",
                shown(key)
            );
            self.remarks.push(remark);
        }
        let mut inner = value.as_object().into_iter().flat_map(Map::keys);
        let Some(inner) = inner.find_map(|inner| names::acting(inner)) else {
            return Ok(());
        };
        if matches!(&*key.to_ascii_lowercase(), "harness" | "fields") {
            return refuse(format!(
                "fields stand for themselves: write `{inner}` outside of it"
            ));
        }
        let remark = format!("`{inner}` inside `{}` is kept without effect", shown(key));
        self.remarks.push(remark);
        Ok(())
    }

    /// What was understood of its fields, for its owner; empty if there is nothing to say.
    pub fn understood(&self) -> String {
        let (known, own): (Vec<&String>, Vec<&String>) =
            self.fields.keys().partition(|key| names::is_known(key));
        let list = |names: &[&String]| {
            let names: Vec<String> = names.iter().map(|name| shown(name)).collect();
            names.join(", ")
        };
        let mut parts = Vec::new();
        if !known.is_empty() {
            parts.push(format!("fields: {}", list(&known)));
        }
        if !own.is_empty() {
            parts.push(format!("kept without effect: {}", list(&own)));
        }
        parts.extend(self.remark());
        parts.join("; ")
    }

    /// What looks like a field and is none.
    pub fn remark(&self) -> Option<String> {
        let none = match self.fields.is_empty() {
            true => "fields: none; ",
            false => "",
        };
        let stray = self
            .stray
            .map(|line| format!("{none}line {line} looks like one, but is not in its place"));
        let all: Vec<String> = stray
            .into_iter()
            .chain(self.remarks.iter().cloned())
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The `title` field, if it is a string.
    pub fn title(&self) -> Option<&str> {
        self.fields.get("title").and_then(Value::as_str)
    }
}

/// The queue fields of a file that may still be being written: only to sort by, never trusted. A
/// claim parses the file again under a read lease.
pub fn peek(name: &Name, bytes: &[u8], executable: bool) -> QueueFields {
    parse(name, bytes, executable).map_or_else(|_| QueueFields::default(), |item| item.order)
}
