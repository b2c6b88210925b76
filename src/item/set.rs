//! A field's text → its value. In YAML every scalar comes as it was written; JSON has types, and a
//! number with a point is refused where a text is wanted (`1.10` would be 1.1).

use std::collections::BTreeMap;

use jiff::{Timestamp, Zoned, civil, tz::TimeZone};
use serde_json::Value;

use super::{Item, Kind, PRIORITY_DEFAULT, Parsed, refuse, shown};
use crate::config;
use crate::layout::Name;
use crate::limits::{AFTER_MAX, NAME_BYTES_MAX};

/// Fields that are a text, or texts: shown as written.
pub(super) const TEXTS: &[&str] = &[
    "title",
    "type",
    "source",
    "agent",
    "repo",
    "base",
    "branch",
    "after",
    "not_before",
    "exclusive",
    "env",
];

impl Item {
    pub(super) fn set(&mut self, key: &str, value: &Value) -> Parsed<()> {
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
                let d = config::duration_from_json(value).map_err(super::Refusal)?;
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
}

/// A text. A whole number of JSON has only one way to be written.
fn text(value: &Value) -> Parsed<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(n) if !n.is_f64() => Ok(n.to_string()),
        Value::Number(n) => refuse(format!(
            "a text is wanted, and the number {n} may have been written otherwise: put it in quotes"
        )),
        Value::Bool(b) => refuse(format!("a text is wanted: write \"{b}\" in quotes")),
        Value::Null => refuse("there is nothing: an empty text is written \"\""),
        Value::Array(_) | Value::Object(_) => refuse("not a text"),
    }
}

fn priority(value: &Value) -> Parsed<u8> {
    let word = text(value).unwrap_or_default();
    let number = match word.trim().to_ascii_lowercase().as_str() {
        "high" => Some(9),
        "medium" => Some(PRIORITY_DEFAULT),
        "low" => Some(1),
        digits => digits.parse().ok(),
    };
    match number {
        Some(n @ 0..=9) => Ok(n),
        _ => refuse("not one of high, medium, low, or 0 to 9 (9 is the soonest)"),
    }
}

fn after(value: &Value) -> Parsed<Vec<Name>> {
    let names = match value {
        Value::Array(list) => list.as_slice(),
        Value::Object(_) => return refuse("not a name nor a list of names"),
        _ => std::slice::from_ref(value),
    };
    if names.len() > AFTER_MAX {
        return refuse(format!("more than {AFTER_MAX} names"));
    }
    let name = |name: &Value| {
        let name = text(name)?;
        match is_file_name(&name) {
            true => Ok(Name::new(name)),
            false => refuse(format!("`{}` is not the name of an item", shown(&name))),
        }
    };
    names.iter().map(name).collect()
}

/// `.` and `..` exist in every folder, so they cannot name an item.
fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX && !name.contains(['/', '\0'])
}

fn not_before(value: &Value) -> Parsed<i64> {
    let text = match value {
        Value::Number(n) if n.is_f64() => n.as_f64().map_or(String::new(), |n| n.to_string()),
        value => text(value)?,
    };
    instant_of(text.trim()).map_or_else(
        || {
            refuse(
                "not a time; write 2026-12-24T09:00:00Z, 2026-12-24 09:00, 2026-12-24, or seconds \
                 since 1970 with ten digits",
            )
        },
        Ok,
    )
}

/// Parses a time stamp, a date, a date and time in the local time zone, or ten digits of seconds (13
/// of milliseconds) since 1970, to nanoseconds since 1970. Other numbers are no times: `20261224`
/// is a date.
fn instant_of(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let stamp = match (digits, text.get(digits..)?) {
        (10, "") => Timestamp::from_second(text.parse().ok()?).ok()?,
        (13, "") => Timestamp::from_millisecond(text.parse().ok()?).ok()?,
        (10, rest) if rest.starts_with('.') => {
            let seconds: f64 = text.parse().ok()?;
            Timestamp::from_second(seconds.ceil() as i64).ok()?
        }
        (8, "") => local(text.parse::<civil::Date>().ok()?.into())?,
        (4, rest) if rest.starts_with('-') => {
            let zoned = || Some(text.parse::<Zoned>().ok()?.timestamp());
            let civil = || local(text.parse().ok().filter(|_| !text.contains('['))?);
            text.parse().ok().or_else(zoned).or_else(civil)?
        }
        (8, rest) if rest.starts_with(['T', 't']) => {
            text.parse().ok().or_else(|| local(text.parse().ok()?))?
        }
        _ => return None,
    };
    i64::try_from(stamp.as_nanosecond()).ok()
}

fn local(time: civil::DateTime) -> Option<Timestamp> {
    Some(time.to_zoned(TimeZone::system()).ok()?.timestamp())
}

fn whole(value: &Value, max: u32) -> Parsed<u32> {
    let number = text(value).ok().and_then(|s| s.trim().parse().ok());
    number
        .filter(|&n| n <= max)
        .map_or_else(|| refuse(format!("not a whole number from 0 to {max}")), Ok)
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
    let text = text(value)?.trim().to_owned();
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
        let value = match value {
            Value::Bool(b) => b.to_string(),
            value => text(value)
                .map_err(|super::Refusal(why)| super::Refusal(format!("`{key}`: {why}")))?,
        };
        if value.contains('\0') {
            return refuse(format!("`{key}` holds a NUL byte"));
        }
        env.insert(key.clone(), value);
    }
    Ok(env)
}
