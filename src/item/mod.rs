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
mod set;
mod yaml;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::layout::Name;
use crate::limits::ITEM_BYTES_MAX;
pub use encoding::without_mark;
pub use header::split_front_matter;
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
    /// The text for the agent; empty for a script.
    pub prompt: Vec<u8>,
    /// Every field as it was given, unknown ones included.
    pub fields: Map<String, Value>,
    /// The line that looks like a field and is none.
    pub stray: Option<usize>,
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
        item.take(key, value)
            .map_err(|Refusal(why)| Refusal(format!("field `{}`: {why}", shown(key))))?;
    }
    if kind != Kind::Script && item.prompt.iter().all(u8::is_ascii_whitespace) {
        return refuse("there is no prompt: nothing but fields and white space");
    }
    item.fields = fields.typed;
    for (key, value) in fields.written {
        if set::TEXTS.contains(&&*key) {
            item.fields.insert(key, value);
        }
    }
    Ok(item)
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
            refuse_program_text(name, bytes)?;
            let (header, body) = header::of_prompt(bytes)?;
            header.check()?;
            let fields = yaml::read(&header.yaml, "front matter")?;
            Ok((fields, header.stray, body.to_vec()))
        }
    }
}

/// Names of source text that is run, not read.
const PROGRAMS: &[&str] = &[
    "sh", "bash", "zsh", "ksh", "dash", "fish", "py", "pl", "rb", "js", "mjs", "ts", "lua", "php",
    "awk", "ps1", "bat", "cmd",
];

/// A program's text, or a JSON item under another name, must not go to an agent as its prompt.
fn refuse_program_text(name: &Name, bytes: &[u8]) -> Parsed<()> {
    let extension = extension(name).to_ascii_lowercase();
    if PROGRAMS.contains(&&*extension) {
        return refuse(format!(
            "its name ends in `.{extension}`, but it is neither executable nor begins with `#!`: \
             give it a first line like `#!/bin/sh`, or another name (`.md`) if it is a prompt"
        ));
    }
    if json::is_object_with(bytes, "prompt") {
        return refuse(
            "it is JSON with a `prompt`, but its name does not end in `.json`: name it so",
        );
    }
    Ok(())
}

fn extension(name: &Name) -> &str {
    let extension = Path::new(name.as_os_str()).extension();
    extension.and_then(OsStr::to_str).unwrap_or_default()
}

fn shown(text: &str) -> String {
    text.chars()
        .take(64)
        .flat_map(char::escape_debug)
        .collect::<String>()
}

impl Item {
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
            prompt: Vec::new(),
            fields: Map::new(),
            stray: None,
        }
    }

    /// Takes one field. A name that is only nearly known is refused: its owner counts on it.
    fn take(&mut self, key: &str, value: &Value) -> Parsed<()> {
        if let Some(meant) = names::meant(key) {
            return refuse(format!(
                "harness knows no such field; the nearest is `{meant}`"
            ));
        }
        match value {
            Value::Null if key == "env" => {
                refuse("nothing belongs to it: its lines are indented more than it is")
            }
            Value::Null => Ok(()),
            value => self.set(key, value),
        }
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

    /// That a line looks like a field and is none.
    pub fn remark(&self) -> Option<String> {
        let line = self.stray?;
        let none = match self.fields.is_empty() {
            true => "fields: none; ",
            false => "",
        };
        Some(format!(
            "{none}line {line} looks like one, but is not in its place"
        ))
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
