//! Parses the files in `queue/pending/`: bytes in, an item out. Knows nothing of queues.
//!
//! Three kinds. Executable or beginning with `#!`: a script. `*.json`: an object of fields.
//! Anything else: a prompt, with optional YAML front matter holding the same fields. Scripts give
//! fields in their leading comment lines: `#harness priority: high`.
//!
//! A file that cannot be parsed is a `Refusal` with a reason for its owner; no part of it is run.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock;
use crate::config;
use crate::layout::Name;
use crate::limits::{
    AFTER_MAX, FIELDS_BYTES_MAX, FIELDS_NODES_MAX, ITEM_BYTES_MAX, NAME_BYTES_MAX,
    SCRIPT_HEAD_BYTES,
};

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
}

type Parsed<T> = Result<T, Refusal>;

fn refuse<T>(why: impl Into<String>) -> Parsed<T> {
    Err(Refusal(why.into()))
}

/// The kind of a file, by its mode, first bytes and name.
pub fn kind_of(name: &Name, head: &[u8], executable: bool) -> Kind {
    if executable || head.starts_with(b"#!") {
        Kind::Script
    } else if name.bytes().ends_with(b".json") {
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
    let (fields, prompt) = match kind {
        Kind::Script => (script_fields(bytes)?, Vec::new()),
        Kind::Json => json_fields(bytes)?,
        Kind::Prompt => {
            let (front, body) = split_front_matter(bytes)?;
            let fields = match front {
                Some(yaml) => yaml_fields(yaml, "front matter")?,
                None => Map::new(),
            };
            (fields, body.to_vec())
        }
    };
    let mut item = Item {
        kind,
        prompt,
        ..Item::blank()
    };
    for (key, value) in &fields {
        if !value.is_null() {
            item.set(key, value)
                .map_err(|Refusal(why)| Refusal(format!("field `{}`: {why}", shown(key))))?;
        }
    }
    if kind != Kind::Script && item.prompt.iter().all(u8::is_ascii_whitespace) {
        return refuse("there is no prompt: nothing but fields and white space");
    }
    item.fields = fields;
    Ok(item)
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
        }
    }

    fn set(&mut self, key: &str, value: &Value) -> Parsed<()> {
        match key {
            "priority" => self.order.priority = priority(value)?,
            "after" => self.order.after = after(value)?,
            "not_before" => self.order.not_before = Some(not_before(value)?),
            "exclusive" => self.order.exclusive = Some(short_text(value, 64)?),
            "agent" => self.agent = Some(short_text(value, 64)?),
            "repo" => self.order.repo = Some(short_text(value, 64)?),
            "base" => self.base = Some(revision(value)?),
            "branch" => self.branch = Some(branch(value)?),
            "timeout" => {
                let d = config::duration_from_json(value).map_err(Refusal)?;
                if d.is_zero() {
                    return refuse("a timeout of nothing");
                }
                self.timeout = Some(d);
            }
            "retries" => self.retries = Some(whole(value, 100)?),
            "max_turns" => self.max_turns = Some(whole(value, 1_000_000)?.into()),
            "budget_usd" => self.budget_usd = Some(amount(value)?),
            "env" => self.env = env(value)?,
            "prompt" => {
                if self.kind != Kind::Json {
                    return refuse(
                        "only a JSON item has a `prompt` field; here the text is the file",
                    );
                }
                let Value::String(text) = value else {
                    return refuse("not a text");
                };
                self.prompt = text.clone().into_bytes();
            }
            "title" | "type" | "source" => drop(short_text(value, 4096)?),
            // Unknown fields are no error: they are kept and shown.
            _ => {}
        }
        Ok(())
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

fn script_fields(bytes: &[u8]) -> Parsed<Map<String, Value>> {
    let head = &bytes[..bytes.len().min(SCRIPT_HEAD_BYTES)];
    let mut yaml = String::new();
    for line in head.split(|&b| b == b'\n') {
        let line = line.trim_ascii();
        if line.starts_with(b"#harness ") {
            let Ok(text) = std::str::from_utf8(&line[b"#harness ".len()..]) else {
                return refuse("a `#harness` line is not UTF-8");
            };
            yaml.push_str(text.trim());
            yaml.push('\n');
        } else if !line.is_empty() && !line.starts_with(b"#") {
            break;
        }
    }
    if yaml.is_empty() {
        return Ok(Map::new());
    }
    yaml_fields(yaml.as_bytes(), "`#harness` lines")
}

fn json_fields(bytes: &[u8]) -> Parsed<(Map<String, Value>, Vec<u8>)> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(map)) => Ok((map, Vec::new())),
        Ok(_) => refuse("the JSON is not an object of fields"),
        Err(e) => refuse(format!("bad JSON: {e}")),
    }
}

fn yaml_fields(yaml: &[u8], what: &str) -> Parsed<Map<String, Value>> {
    let Ok(text) = std::str::from_utf8(yaml) else {
        return refuse(format!("the {what} is not UTF-8"));
    };
    if text.len() > FIELDS_BYTES_MAX {
        return refuse(format!(
            "the {what} is longer than {} KiB; the text goes behind it, large data into the repository",
            FIELDS_BYTES_MAX >> 10
        ));
    }
    // Nested YAML aliases can expand a short text to gigabytes.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: FIELDS_NODES_MAX * 2,
            max_nodes: FIELDS_NODES_MAX,
            max_total_scalar_bytes: 4 * FIELDS_BYTES_MAX,
            max_recorded_anchor_events: FIELDS_NODES_MAX,
            max_merge_keys: 100,
        },
    };
    match serde_saphyr::from_str_with_options::<Value>(text, options) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => refuse(format!("the {what} is not a list of `key: value`")),
        Err(e) => {
            let why = e.to_string();
            let why = why.lines().next().unwrap_or("it cannot be read");
            refuse(format!("bad {what}: {why}"))
        }
    }
}

/// Strips the byte order mark that some editors write: it would hide how the file begins.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Splits front matter from the text. `None`: there is no front matter.
pub fn split_front_matter(bytes: &[u8]) -> Parsed<(Option<&[u8]>, &[u8])> {
    let is_fence = |line: &[u8], fence: &[u8]| line.trim_ascii_end() == fence;
    let mut lines = bytes.split_inclusive(|&b| b == b'\n');
    let Some(first) = lines.next() else {
        return Ok((None, bytes));
    };
    if !is_fence(first, b"---") {
        return Ok((None, bytes));
    }
    let start = first.len();
    let mut end = start;
    for line in lines {
        if is_fence(line, b"---") || is_fence(line, b"...") {
            return Ok((Some(&bytes[start..end]), &bytes[end + line.len()..]));
        }
        end += line.len();
    }
    refuse("the front matter that begins with `---` is never closed by another `---`")
}

fn priority(value: &Value) -> Parsed<u8> {
    let number = match value {
        Value::String(word) => match word.trim().to_ascii_lowercase().as_str() {
            "high" => Some(9),
            "medium" => Some(PRIORITY_DEFAULT),
            "low" => Some(1),
            digits => digits.parse().ok(),
        },
        other => other.as_u64().and_then(|n| u8::try_from(n).ok()),
    };
    match number {
        Some(n @ 0..=9) => Ok(n),
        _ => refuse("not one of high, medium, low, or 0 to 9 (9 is the soonest)"),
    }
}

fn after(value: &Value) -> Parsed<Vec<Name>> {
    let names = match value {
        Value::String(_) => std::slice::from_ref(value),
        Value::Array(list) => list.as_slice(),
        _ => {
            return refuse(
                "not a name nor a list of names; put quotes round one that YAML takes for a \
                 number or a yes or no",
            );
        }
    };
    if names.len() > AFTER_MAX {
        return refuse(format!("more than {AFTER_MAX} names"));
    }
    names
        .iter()
        .map(|name| match name {
            Value::String(name) if is_file_name(name) => Ok(Name::new(name)),
            Value::String(_) => refuse("not the name of an item"),
            _ => refuse(
                "not a name; put quotes round one that YAML takes for a number or a yes or no",
            ),
        })
        .collect()
}

/// `.` and `..` exist in every folder, so they cannot name an item.
fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(['/', '\0'])
}

fn not_before(value: &Value) -> Parsed<i64> {
    let seconds = |s: f64| (s * 1e9) as i64;
    match value {
        Value::Number(n) => Ok(seconds(n.as_f64().unwrap_or(0.0))),
        Value::String(text) => instant_of(text.trim()).map_or_else(
            || refuse("not a time; write 2026-12-24T09:00:00Z, 2026-12-24 09:00 or 2026-12-24"),
            Ok,
        ),
        _ => refuse("not a time"),
    }
}

/// Parses a time stamp, or a date and time in the local time zone, to nanoseconds since 1970.
fn instant_of(text: &str) -> Option<i64> {
    let stamp = text.parse::<clock::Timestamp>().ok().or_else(|| {
        let local = text.parse::<jiff::civil::DateTime>().ok()?;
        let zoned = local.to_zoned(jiff::tz::TimeZone::system()).ok()?;
        Some(zoned.timestamp())
    })?;
    i64::try_from(stamp.as_nanosecond()).ok()
}

fn whole(value: &Value, max: u32) -> Parsed<u32> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|s| s.trim().parse().ok()))
        .and_then(|n| u32::try_from(n).ok())
        .filter(|&n| n <= max)
        .map_or_else(|| refuse(format!("not a number from 0 to {max}")), Ok)
}

fn amount(value: &Value) -> Parsed<f64> {
    let max = config::value::AMOUNT_MAX;
    value
        .as_f64()
        .or_else(|| value.as_str().and_then(|s| s.trim().parse().ok()))
        .filter(|x| (0.0..=max).contains(x))
        .map_or_else(|| refuse(format!("not a number from 0 to {max}")), Ok)
}

fn short_text(value: &Value, max: usize) -> Parsed<String> {
    let text = match value {
        Value::String(s) => s.trim().to_owned(),
        Value::Number(n) => n.to_string(),
        _ => return refuse("not a text"),
    };
    if text.is_empty() || text.len() > max || text.chars().any(char::is_control) {
        return refuse(format!(
            "not a text of 1 to {max} bytes without control characters"
        ));
    }
    Ok(text)
}

/// A revision is handed to git as an argument: it must not look like an option.
fn revision(value: &Value) -> Parsed<String> {
    let text = short_text(value, 200)?;
    if text.starts_with('-') {
        return refuse("a revision does not begin with `-`");
    }
    Ok(text)
}

/// Refuses a name of nothing but slashes. Characters that a ref forbids are escaped later.
fn branch(value: &Value) -> Parsed<String> {
    let text = short_text(value, 100)?;
    if text.bytes().all(|b| b == b'/') {
        return refuse("not a name for a branch");
    }
    Ok(text)
}

fn env(value: &Value) -> Parsed<BTreeMap<String, String>> {
    let Value::Object(map) = value else {
        return refuse("not an object of NAME: value");
    };
    let mut env = BTreeMap::new();
    for (key, value) in map {
        let fits = !key.is_empty()
            && !key.starts_with(|c: char| c.is_ascii_digit())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !fits || key.starts_with("HARNESS_") {
            return refuse(format!("`{}` is not a name it may set", shown(key)));
        }
        let text = match value {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            _ => return refuse(format!("`{key}` is not a text")),
        };
        if text.contains('\0') {
            return refuse(format!("`{key}` holds a NUL byte"));
        }
        env.insert(key.clone(), text);
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, text: &str) -> Parsed<Item> {
        parse(&Name::new(name), text.as_bytes(), false)
    }

    #[test]
    fn three_kinds_hold_the_same_fields() {
        let yaml = "priority: high\nafter: [a, b]\nexclusive: db\ntimeout: 10m\nodd: {x: 1}\n";
        let script = yaml
            .lines()
            .map(|l| format!("#harness {l}\n"))
            .collect::<String>();
        for (name, text) in [
            ("x.md", format!("---\n{yaml}---\nDo it.\n")),
            ("x", format!("#!/bin/sh\n# why\n{script}echo\n")),
            (
                "x.json",
                r#"{"priority":9,"after":["a","b"],"exclusive":"db","timeout":600,"odd":{"x":1},"prompt":"Do it."}"#.into(),
            ),
        ] {
            let item = item(name, &text).unwrap();
            assert_eq!(item.order.priority, 9, "{name}");
            assert_eq!(item.order.after, ["a", "b"].map(Name::new));
            assert_eq!(item.order.exclusive.as_deref(), Some("db"));
            assert_eq!(item.timeout, Some(Duration::from_secs(600)));
            assert_eq!(item.fields["odd"]["x"], 1);
        }
    }

    #[test]
    fn a_prompt_is_kept_to_the_byte() {
        let text = "Fix it.\n--- not a fence\n\u{2028}$(touch pwned)\n";
        assert_eq!(item("x", text).unwrap().prompt, text.as_bytes());
        let body = "\n---\nrest\n";
        let framed = format!("---\r\npriority: low\r\n---\r\n{body}");
        let framed = item("x.md", &framed).unwrap();
        assert_eq!(framed.prompt, body.as_bytes());
        assert_eq!(framed.order.priority, 1);
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_reason() {
        for (name, text, why) in [
            ("e", "", "empty"),
            ("j.json", "{\"a\":", "bad JSON"),
            ("j.json", "[1]", "not an object"),
            ("j.json", "{\"priority\":1}", "no prompt"),
            ("m.md", "---\npriority: 12\n---\nx", "priority"),
            ("m.md", "---\n- a\n---\nx", "key: value"),
            ("m.md", "---\na: [\n---\nx", "bad front matter"),
            ("m.md", "---\nnever closed", "never closed"),
            ("m.md", "---\nafter: a/b\n---\nx", "after"),
            ("m.md", "---\nenv: {HARNESS_X: 1}\n---\nx", "HARNESS_X"),
            ("m.md", "---\nbase: --upload-pack=x\n---\nx", "base"),
            ("m.md", "---\ntimeout: 0\n---\nx", "timeout"),
            ("m.md", "---\nmax_turns: -1\n---\nx", "max_turns"),
            ("m.md", "---\nbudget_usd: -1\n---\nx", "budget_usd"),
            ("m.md", "---\nnot_before: soon\n---\nx", "not a time"),
            ("m.md", "---\nprompt: twice\n---\nx", "prompt"),
        ] {
            let Err(Refusal(got)) = item(name, text) else {
                panic!("{text:?} was accepted");
            };
            assert!(got.contains(why), "{text:?}: {got}");
        }
    }

    #[test]
    fn times_are_understood() {
        let at = |v: &str| not_before(&Value::from(v)).unwrap();
        assert_eq!(at("1970-01-01T00:00:01Z"), 1_000_000_000);
        assert!(at("2026-12-24") < at("2026-12-24 09:00"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, exec: bool, fenced: bool) {
            let mut all = if fenced { b"---\n".to_vec() } else { Vec::new() };
            all.extend(&bytes);
            for name in ["x", "x.json"] {
                let _either = parse(&Name::new(name), &all, exec);
            }
        }
    }
}
