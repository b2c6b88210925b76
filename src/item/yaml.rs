//! YAML → fields. What is a text stays as it was written, whatever YAML takes it for (`1.10`, `no`,
//! `0123`). What the parser says is put into words of ours.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Error;

use super::{Parsed, refuse, shown};
use crate::limits::{FIELDS_BYTES_MAX, FIELDS_NODES_MAX};

/// Fields, each in two forms.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// With numbers, booleans and so on, as YAML understands them.
    pub(super) typed: Map<String, Value>,
    /// With every scalar as the text that was written.
    pub(super) written: Map<String, Value>,
}

/// `lines`: with their numbers in the file. `what` they are, for messages.
pub(super) fn read(lines: &[(usize, &[u8])], what: &str) -> Parsed<Given> {
    let mut bytes = Vec::new();
    for (_, line) in lines {
        bytes.extend(line.trim_ascii_end());
        bytes.push(b'\n');
    }
    let Ok(text) = String::from_utf8(bytes) else {
        let is_odd = |line: &&(usize, &[u8])| std::str::from_utf8(line.1).is_err();
        let n = lines.iter().find(is_odd).map_or(1, |(n, _)| *n);
        return refuse(format!(
            "line {n} of the {what} is not UTF-8: save the file as UTF-8"
        ));
    };
    if text.len() > FIELDS_BYTES_MAX {
        return refuse(format!(
            "the {what} is longer than {} KiB; the text goes behind it, large data into the repository",
            FIELDS_BYTES_MAX >> 10
        ));
    }
    if text.trim().is_empty() {
        return Ok(Given::default());
    }
    let number = |line: u64| {
        let index = usize::try_from(line)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        lines.get(index.min(lines.len().saturating_sub(1)))
    };
    let failed = |e: &Error| refuse(format!("bad {what}: {}", words(e, number)));
    let typed = match serde_saphyr::from_str_with_options::<Value>(&text, options()) {
        Ok(Value::Object(map)) => Value::Object(map),
        Ok(Value::Null) => return Ok(Given::default()),
        Ok(_) => {
            let is_text = |line: &&(usize, &[u8])| {
                let line = line.1.trim_ascii();
                !line.is_empty() && !line.starts_with(b"#")
            };
            let (n, line) = lines.iter().find(is_text).unwrap_or(&(1, b""));
            return refuse(format!(
                "line {n} (`{}`) is no field: each is written `name: value`, with a space after the colon",
                shown(String::from_utf8_lossy(line).trim())
            ));
        }
        Err(e) => return failed(&e),
    };
    let written = serde_saphyr::with_deserializer_from_str_with_options(&text, options(), |de| {
        Written(&typed).deserialize(de)
    });
    match (typed, written) {
        (Value::Object(typed), Ok(Value::Object(written))) => Ok(Given { typed, written }),
        (_, Ok(_)) => refuse(format!("not every line of the {what} is `name: value`")),
        (_, Err(e)) => failed(&e),
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // Nested YAML aliases can expand a short text to gigabytes.
        budget: serde_saphyr::budget! {
            max_events: FIELDS_NODES_MAX * 2,
            max_nodes: FIELDS_NODES_MAX,
            max_total_scalar_bytes: 4 * FIELDS_BYTES_MAX,
            max_recorded_anchor_events: FIELDS_NODES_MAX,
            max_merge_keys: 100,
        },
        non_finite_float_policy: serde_saphyr::NonFiniteFloatPolicy::AsString,
    }
}

/// The parser speaks to programmers: says the same to the item's owner.
fn words<'a>(e: &Error, number: impl Fn(u64) -> Option<&'a (usize, &'a [u8])>) -> String {
    let mut inner = e;
    while let Error::WithSnippet { error, .. } | Error::AliasError { error, .. } = inner {
        inner = error;
    }
    let at = e.location().and_then(|place| number(place.line()));
    let place = at.map_or("it".to_owned(), |(n, _)| format!("line {n}"));
    match inner {
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("a key");
            format!("`{}` stands there twice, in {place} again", shown(key))
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => {
            "it is nested or repeated (`&`, `*`) too much: write it out".to_owned()
        }
        _ => {
            let line = at.map_or_else(String::new, |(_, line)| {
                let line = String::from_utf8_lossy(line.trim_ascii_end());
                format!(" (`{}`)", shown(&line))
            });
            format!(
                "{place}{line} cannot be read: one `key: value` on each line, all indented alike and \
                 by spaces; quotes round a text with `: ` or ` #` in it, or that begins with one of \
                 @ ` % & * ! | > [ {{"
            )
        }
    }
}

/// Reads a value of the same shape again, every scalar as text.
struct Written<'v>(&'v Value);

impl<'de> DeserializeSeed<'de> for Written<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        match self.0 {
            Value::Null => IgnoredAny::deserialize(de).map(|_| Value::Null),
            Value::Array(_) => de.deserialize_seq(self),
            Value::Object(_) => de.deserialize_map(self),
            _ => String::deserialize(de).map(Value::String),
        }
    }
}

impl<'de> Visitor<'de> for Written<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the same value as before")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let shapes = self.0.as_array().into_iter().flatten();
        for shape in shapes {
            list.extend(seq.next_element_seed(Written(shape))?);
        }
        // The end must be read, too.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let shape = self.0.get(&key).unwrap_or(&Value::Null);
            let value = map.next_value_seed(Written(shape))?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}
