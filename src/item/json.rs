//! JSON → fields. A key that stands twice is refused: which of the two was meant is not known.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::{Parsed, refuse, shown};

pub(super) fn read(bytes: &[u8]) -> Parsed<Map<String, Value>> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return refuse("the JSON is not UTF-8");
    };
    match serde_json::from_str::<Strict>(text) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(_) => refuse("the JSON is not an object of fields"),
        Err(e) => refuse(format!("bad JSON: {}", words(&e, text))),
    }
}

/// Whether a text is an object with this field.
pub(super) fn is_object_with(bytes: &[u8], field: &str) -> bool {
    bytes.trim_ascii_start().starts_with(b"{")
        && read(bytes).is_ok_and(|fields| fields.contains_key(field))
}

/// The parser speaks to programmers: says the same to the item's owner.
fn words(e: &serde_json::Error, text: &str) -> String {
    let line = text
        .lines()
        .nth(e.line().saturating_sub(1))
        .unwrap_or_default();
    match e.classify() {
        // Words of ours.
        Category::Data => e.to_string(),
        Category::Eof => format!(
            "it ends in line {} before it is complete: a quote, `}}` or `]` is missing",
            e.line()
        ),
        Category::Syntax | Category::Io => format!(
            "it cannot be read at line {}, column {}: `{}`",
            e.line(),
            e.column(),
            shown(line.trim())
        ),
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
