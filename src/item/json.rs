//! JSON → fields. A key that stands twice is refused: which of the two was meant is not known.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::{Parsed, refuse, shown};

pub(super) fn read(bytes: &[u8]) -> Parsed<Map<String, Value>> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(Strict(Value::Array(_))) => refuse(
            "the JSON is a list, not an object of fields: each item is a file with one object `{…}`",
        ),
        Ok(_) => refuse("the JSON is not an object of fields: write `{\"prompt\": \"…\"}`"),
        Err(e) => refuse(format!("bad JSON: {}", words(&e, text))),
    }
}

/// Whether a text that is not taken for JSON was meant as an item: it begins as JSON does, and has a key
/// `prompt`.
pub(super) fn is_like_an_item(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let begins = text.trim_start().starts_with(['{', '[']);
    let lower = text.to_ascii_lowercase();
    let mut found = lower.match_indices("prompt");
    begins
        && found.any(|(at, word)| {
            let before = lower[..at].trim_end_matches(['"', '\'']).trim_end();
            let behind = lower[at + word.len()..].trim_start_matches(['"', '\'']);
            before.ends_with(['{', ',']) && behind.trim_start().starts_with(':')
        })
}

/// What the parser says in words for programmers, and ours for the same.
const WORDS: &[(&str, &str)] = &[
    (
        "trailing comma",
        "there is a comma before the closing `}` or `]`: remove it",
    ),
    (
        "trailing characters",
        "something stands behind its end: an item is one object, and nothing else",
    ),
    (
        "control character",
        "a line break or another control character stands in a text: write `\\n` (`\\t`, `\\u001b`)",
    ),
    (
        "lone leading surrogate",
        "`\\ud800` to `\\udfff` are halves of characters: write both, or the character",
    ),
    (
        "unexpected end of hex",
        "`\\ud800` to `\\udfff` are halves of characters: write both, or the character",
    ),
    ("invalid escape", "a `\\` in a text is written `\\\\`"),
    ("number out of range", "the number is too large"),
    (
        "invalid number",
        "this is no number of JSON: put it in quotes",
    ),
    ("recursion limit", "it is nested too deeply"),
    ("key must be", "each name of a field stands in quotes `\"`"),
    (
        "expected `:`",
        "a `:` is missing behind the name of a field",
    ),
    (
        "expected `,`",
        "a `,` is missing, or a quote or bracket before it",
    ),
];

/// The parser speaks to programmers: says the same to the item's owner.
fn words(e: &serde_json::Error, text: &str) -> String {
    let line = text
        .lines()
        .nth(e.line().saturating_sub(1))
        .unwrap_or_default();
    let said = e.to_string();
    let known = WORDS.iter().find(|(start, _)| said.starts_with(start));
    match e.classify() {
        // Words of ours.
        Category::Data => said,
        Category::Eof => format!(
            "it ends in line {} before it is complete: a quote, `}}` or `]` is missing",
            e.line()
        ),
        Category::Syntax | Category::Io => {
            // What is wrong is the last that was read.
            let read = line
                .get(..e.column())
                .map_or(0, |read| read.chars().count());
            let shown_from = read.saturating_sub(40);
            let part: String = line.chars().skip(shown_from).collect();
            let why = known.map_or(
                "JSON has no comments, no single quotes, no NaN: texts stand in quotes `\"`",
                |(_, why)| why,
            );
            format!(
                "it cannot be read at line {}, column {} (`{}`): {why}",
                e.line(),
                e.column().max(1),
                shown(part.trim())
            )
        }
    }
}

/// A value in which no key stands twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Strict, D::Error> {
        de.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(b.into())
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if fields.contains_key(&key) {
                let twice = format!("`{}` stands there twice, again", shown(&key));
                return Err(A::Error::custom(twice));
            }
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}
