//! A field's text → its value. In YAML every scalar comes as it was written; JSON has types, and a
//! number with a point is refused where a text is wanted (`1.10` would be 1.1).

use std::collections::BTreeMap;

use jiff::civil;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
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
    "gates",
    "integrate",
    "paths",
];

impl Item {
    pub(super) fn set(&mut self, key: &str, value: &Value) -> Parsed<()> {
        match key {
            "priority" => self.order.priority = priority(value)?,
            "after" => self.order.after = after(value)?,
            "not_before" => self.order.not_before = Some(not_before(value)?),
            "exclusive" => self.order.exclusive = Some(shared_key(value)?),
            "agent" => self.agent = Some(short_text(value, 64)?),
            "repo" => self.order.repo = Some(short_text(value, 64)?),
            "base" => self.base = Some(revision(value)?),
            "branch" => self.branch = Some(branch(value)?),
            "timeout" => {
                let d = config::duration_from_json(value).map_err(super::Refusal)?;
                if d.is_zero() {
                    return refuse(
                        "a timeout of nothing ends it before it begins: leave it out for the usual one",
                    );
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
            "gates" => self.gates = Some(gates(value)?),
            "integrate" => self.integrate = Some(integrate(value)?),
            "paths" => self.paths = paths(value)?,
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

/// How a value is shown in a reason.
fn found(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}` is", shown(text)),
        Value::Array(_) => "a list is".to_owned(),
        Value::Object(_) => "an object is".to_owned(),
        other => format!("`{other}` is"),
    }
}

/// A word for what is not shared. A switch is none: it would be the key `true`.
fn shared_key(value: &Value) -> Parsed<String> {
    const SWITCHES: [&str; 7] = ["true", "false", "yes", "no", "on", "off", "none"];
    let word = match value {
        Value::Bool(b) => b.to_string(),
        value => short_text(value, 64)?,
    };
    if word.contains(", ") {
        return refuse(format!(
            "`{}` is one name: an item has one key",
            shown(&word)
        ));
    }
    match SWITCHES.contains(&&*word.to_ascii_lowercase()) {
        true => refuse(format!(
            "it is no switch (`{word}`), but the name of what items share: `exclusive: database`"
        )),
        false => Ok(word),
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
        _ => refuse(format!(
            "{} not one of high, medium, low, or 0 to 9 (9 is the soonest)",
            found(value)
        )),
    }
}

fn after(value: &Value) -> Parsed<Vec<Name>> {
    let names = match value {
        Value::Array(list) => list.as_slice(),
        Value::Object(_) => return refuse("not a name nor a list of names: write `[a, b]`"),
        Value::String(name) if name.contains(',') => {
            return refuse(format!(
                "`{}` is one name: write more of them as a list, `[a, b]`",
                shown(name)
            ));
        }
        _ => std::slice::from_ref(value),
    };
    if names.len() > AFTER_MAX {
        return refuse(format!("more than {AFTER_MAX} names"));
    }
    let name = |name: &Value| {
        let name = text(name)?;
        match is_file_name(&name) {
            true => Ok(Name::new(name)),
            false => refuse(format!(
                "`{}` is not the name of an item: that is the name of its file, without a folder",
                shown(&name)
            )),
        }
    };
    names.iter().map(name).collect()
}

/// One value, or a list of them.
fn list<T>(value: &Value, of: impl Fn(&Value) -> Parsed<T>) -> Parsed<Vec<T>> {
    let values = match value {
        Value::Array(list) => list.as_slice(),
        _ => std::slice::from_ref(value),
    };
    if values.len() > AFTER_MAX {
        return refuse(format!("more than {AFTER_MAX} of them"));
    }
    values.iter().map(of).collect()
}

/// Names of gates; `none`: no gate at all.
fn gates(value: &Value) -> Parsed<Vec<String>> {
    let names = list(value, |value| short_text(value, 64))?;
    match names.iter().any(|name| name == "none") {
        true if names.len() > 1 => refuse("`none` stands alone"),
        true => Ok(Vec::new()),
        false => Ok(names),
    }
}

fn integrate(value: &Value) -> Parsed<config::Mode> {
    let word = text(value)?;
    let known = config::Mode::ALL
        .iter()
        .find(|(name, _)| *name == word.trim());
    known.map_or_else(
        || refuse(format!("{} not one of branch, review, merge", found(value))),
        |(_, mode)| Ok(*mode),
    )
}

/// Patterns of paths, as git's `:(glob)` has them.
fn paths(value: &Value) -> Parsed<Vec<String>> {
    list(value, |value| {
        let pattern = short_text(value, 1024)?;
        match pattern.starts_with(['/', ':']) || pattern.split('/').any(|part| part == "..") {
            true => refuse(format!(
                "`{}` is no path in the repository: write it from its top, like `src/**`",
                shown(&pattern)
            )),
            false => Ok(pattern),
        }
    })
}

/// `.` and `..` exist in every folder, so they cannot name an item.
fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..")
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(|c: char| c == '/' || c.is_control())
}

fn not_before(value: &Value) -> Parsed<i64> {
    let text = match value {
        Value::Number(n) => n.to_string(),
        value => text(value)?,
    };
    let text = text.trim();
    let found = instant_of(text).ok_or_else(|| {
        super::Refusal(format!(
            "`{}` is not a time: write 2026-12-24T09:00:00Z, 2026-12-24 09:00, 2026-12-24, or seconds \
             since 1970 with ten digits",
            shown(text)
        ))
    })?;
    found.map_err(|why| super::Refusal(format!("`{}` {why}", shown(text))))
}

type Instant = Result<i64, &'static str>;

/// A time to nanoseconds since 1970. `None`: it has not the form of one. Numbers are ten digits of
/// seconds or 13 of milliseconds: `20261224` is a date.
fn instant_of(text: &str) -> Option<Instant> {
    let (digits, part) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if is_number(digits) && is_number(part) {
        let number: i64 = digits.parse().ok()?;
        let later = i64::from(!part.trim_matches('0').is_empty());
        match digits.len() {
            10 => {
                return Some(Ok(number
                    .saturating_add(later)
                    .saturating_mul(1_000_000_000)));
            }
            13 if part.is_empty() => return Some(Ok(number.saturating_mul(1_000_000))),
            _ => {}
        }
    }
    let date_ends = match text.as_bytes().get(4)? {
        b'-' => 10,
        _ => 8,
    };
    let date: civil::Date = text.get(..date_ends)?.parse().ok()?;
    let rest = &text[date_ends..];
    if rest.is_empty() {
        return Some(at(date.into(), TimeZone::system()));
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let ends = rest.find(|c: char| !c.is_ascii_digit() && !matches!(c, ':' | '.'));
    let (time, zone) = rest.split_at(ends.unwrap_or(rest.len()));
    let time = time_of_day(time)?;
    Some(at(date.to_datetime(time), zone_of(zone)?))
}

/// `09:00`, `09:00:30`, `09:00:30.5`.
fn time_of_day(text: &str) -> Option<civil::Time> {
    let pairs: Vec<&str> = text.splitn(3, ':').collect();
    let is_pair = |pair: &&str| pair.len() == 2;
    let whole = pairs.iter().take(2).all(is_pair) && pairs.len() > 1;
    // A minute of 61 seconds is none that anybody plans for.
    let second = pairs.get(2).is_none_or(|s| !s.starts_with("60"));
    text.parse().ok().filter(|_| whole && second)
}

/// `Z`, `+01:00`, `[Europe/Berlin]`; nothing: the zone of this machine.
fn zone_of(text: &str) -> Option<TimeZone> {
    if let Some(name) = text.strip_prefix('[') {
        return TimeZone::get(name.strip_suffix(']')?).ok();
    }
    match text {
        "" => Some(TimeZone::system()),
        "Z" | "z" => Some(TimeZone::UTC),
        _ => {
            let offset: String = text.chars().filter(|c| *c != ':').collect();
            let (sign, digits) = offset.split_at_checked(1)?;
            let sign = match sign {
                "+" => 1,
                "-" => -1,
                _ => return None,
            };
            let number = |part: &str| part.parse::<i32>().ok().filter(|_| part.len() == 2);
            let hours = number(digits.get(..2)?)?;
            let minutes = match digits.get(2..)? {
                "" => 0,
                part => number(part).filter(|m| *m < 60)?,
            };
            let seconds = sign * (hours * 3600 + minutes * 60);
            Offset::from_seconds(seconds).ok().map(TimeZone::fixed)
        }
    }
}

/// Of a time that comes twice, the first.
fn at(time: civil::DateTime, zone: TimeZone) -> Instant {
    let time = zone.to_ambiguous_zoned(time);
    if matches!(time.offset(), AmbiguousOffset::Gap { .. }) {
        return Err("does not exist: clocks are set forward then; write an hour later");
    }
    let zoned = time.compatible().map_err(|_| "is too far away")?;
    i64::try_from(zoned.timestamp().as_nanosecond()).map_err(|_| "is too far away")
}

fn whole(value: &Value, max: u32) -> Parsed<u32> {
    let number = text(value).ok().and_then(|s| s.trim().parse().ok());
    number.filter(|&n| n <= max).map_or_else(
        || {
            let found = found(value);
            refuse(format!("{found} not a whole number from 0 to {max}"))
        },
        Ok,
    )
}

fn amount(value: &Value) -> Parsed<f64> {
    let max = config::value::AMOUNT_MAX;
    value
        .as_f64()
        .or_else(|| value.as_str().and_then(|s| s.trim().parse().ok()))
        .filter(|x| (0.0..=max).contains(x))
        .map_or_else(
            || {
                let found = found(value);
                refuse(format!("{found} not a number from 0 to {max}, like 1.50"))
            },
            Ok,
        )
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
        return refuse("not variables with values: write `env: {NAME: value}`");
    };
    let mut env = BTreeMap::new();
    for (key, value) in map {
        let fits = !key.is_empty()
            && !key.starts_with(|c: char| c.is_ascii_digit())
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !fits {
            return refuse(format!(
                "`{}` is not the name of a variable: that has letters, digits and `_`",
                shown(key)
            ));
        }
        if key.starts_with("HARNESS_") {
            return refuse(format!("`{key}` is harness's own: an item may not set it"));
        }
        let value = match value {
            Value::Bool(b) => b.to_string(),
            value => text(value)
                .map_err(|super::Refusal(why)| super::Refusal(format!("`{key}`: {why}")))?,
        };
        env.insert(key.clone(), value);
    }
    Ok(env)
}
