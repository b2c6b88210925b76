//! One configuration value: checked against its key's kind, normalized (times in seconds, sizes in
//! bytes, unset as `null`), and shown. Items' front matter uses the same time formats, through
//! `duration_from_json`.
//!
//! Does not know where a value comes from. Invariant: what is shown parses to the same value.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value as Json;

use super::keys::{AGENT_VARIABLES, Kind, TIME_MAX};
use super::{nearest, placeholder};

/// Far above an item's cost, and far below where a float loses its cents.
pub const AMOUNT_MAX: f64 = 1_000_000.0;
/// With less memory no program of an agent begins.
const MEMORY_MIN: u64 = 16_000_000;

/// Checks a value of this kind and normalizes it; the error says what it must be and what it is.
pub fn from_json(kind: &Kind, json: &Json) -> Result<Json, String> {
    let wrong = || wrong(kind, &shown(json));
    let number_to = |max: f64| {
        let number = json.as_f64().filter(|x| (0.0..=max).contains(x));
        number.map(Json::from).ok_or_else(wrong)
    };
    let text_if = |fits: &dyn Fn(&str) -> bool| {
        let text = json.as_str().filter(|text| fits(text));
        text.map(Json::from).ok_or_else(wrong)
    };
    match (kind, json) {
        (Kind::Count { min, max }, _) => match json.as_u64() {
            Some(n) if (*min..=*max).contains(&n) => Ok(Json::from(n)),
            _ => Err(wrong()),
        },
        (Kind::Share, _) => number_to(1.0),
        (Kind::Amount, _) => number_to(AMOUNT_MAX),
        (Kind::Time { min, max }, _) => match duration_from_json(json)? {
            d if !(*min..=*max).contains(&d) => Err(wrong()),
            d if d.subsec_nanos() == 0 => Ok(Json::from(d.as_secs())),
            d => Ok(Json::from(d.as_secs_f64())),
        },
        (Kind::Bytes, Json::String(text)) => bytes_from_str(text).map(Json::from),
        (Kind::Bytes, _) => json.as_u64().map(Json::from).ok_or_else(wrong),
        (Kind::Memory, _) => match from_json(&Kind::Bytes, json).ok().and_then(|b| b.as_u64()) {
            Some(bytes) if bytes == 0 || bytes >= MEMORY_MIN => Ok(Json::from(bytes)),
            _ => Err(wrong()),
        },
        (Kind::Switch, Json::Bool(on)) => Ok(Json::from(*on)),
        (Kind::Word(words), _) => text_if(&|text| words.contains(&text)),
        (Kind::AgentName, _) => text_if(&is_name),
        (Kind::Revision, _) => text_if(&is_revision),
        (Kind::Text, _) => text_if(&is_argument),
        (Kind::Script, _) => text_if(&|text| !text.trim().is_empty() && !text.contains('\0')),
        (Kind::Place(_) | Kind::Path, Json::String(text)) => place(text),
        (Kind::Choices(words), Json::Array(items)) => {
            let is_known = |j: &Json| j.as_str().is_some_and(|w| words.contains(&w));
            match items.iter().all(is_known) {
                true => Ok(json.clone()),
                false => Err(wrong()),
            }
        }
        (Kind::Argv, Json::Array(items)) => {
            arguments(kind, items)?;
            match items.first().and_then(Json::as_str) {
                None | Some("") => Err("must begin with the name of a program".to_owned()),
                Some(_) => Ok(json.clone()),
            }
        }
        (Kind::Arguments, Json::Array(items)) => arguments(kind, items).map(|()| json.clone()),
        (Kind::Patterns, Json::Array(items)) => all_texts(kind, items, &is_pattern),
        (Kind::Words, Json::Array(items)) => all_texts(kind, items, &is_argument),
        (Kind::Paths, Json::Array(items)) => {
            for item in items {
                place(item.as_str().ok_or_else(|| holds(kind, item))?)?;
            }
            Ok(json.clone())
        }
        (Kind::Network, Json::String(word)) if matches!(&**word, "open" | "none") => {
            Ok(json.clone())
        }
        (Kind::Network, Json::Array(ports)) => {
            let is_port = |port: &Json| port.as_u64().is_some_and(|n| n <= u64::from(u16::MAX));
            match ports.iter().find(|port| !is_port(port)) {
                None => Ok(json.clone()),
                Some(port) => Err(holds(kind, port)),
            }
        }
        (Kind::VarNames, Json::Array(items)) => all_texts(kind, items, &is_variables),
        (Kind::Vars, Json::Object(map)) => vars(map).map(|()| json.clone()),
        _ => Err(wrong()),
    }
}

/// A list of texts that fit.
fn all_texts(kind: &Kind, items: &[Json], fits: &dyn Fn(&str) -> bool) -> Result<Json, String> {
    match items.iter().find(|item| !item.as_str().is_some_and(fits)) {
        None => Ok(Json::from(items)),
        Some(item) => Err(holds(kind, item)),
    }
}

/// The message for `found` in place of a value of this kind.
pub fn wrong(kind: &Kind, found: &str) -> String {
    format!("must be {}, not {found}", expected(kind))
}

/// Parses an environment variable: text that looks like a number or boolean becomes one.
pub fn from_text(kind: &Kind, text: &str) -> Result<Json, String> {
    let json = match kind {
        Kind::Count { .. } | Kind::Share | Kind::Amount | Kind::Switch => {
            serde_json::from_str(text.trim())
                .ok()
                .filter(|j: &Json| j.is_number() || j.is_boolean())
        }
        Kind::Bytes | Kind::Memory => text.trim().parse::<u64>().ok().map(Json::from),
        _ => None,
    };
    from_json(kind, &json.unwrap_or_else(|| Json::from(text)))
}

/// A time: a number is seconds, text is as in `duration_from_str`. The error is a clause that
/// begins with "must be".
pub fn duration_from_json(json: &Json) -> Result<Duration, String> {
    let found = match json {
        Json::Number(n) => match (n.as_u64(), n.as_f64()) {
            (Some(s), _) => Some(Duration::from_secs(s)),
            (_, Some(s)) => Duration::try_from_secs_f64(s).ok(),
            _ => None,
        },
        Json::String(text) => return duration_from_str(text),
        _ => None,
    };
    found
        .filter(|d| *d <= TIME_MAX)
        .ok_or_else(|| not_a_time(json))
}

/// A time as text: `90`, `30s`, `10m`, `1h30m`, at most `TIME_MAX`. The error is a clause that
/// begins with "must be".
pub fn duration_from_str(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let plain = text.parse::<f64>().ok();
    let found = match plain {
        Some(s) => Duration::try_from_secs_f64(s).ok(),
        // A day is 24 hours: no calendar is involved.
        None => text
            .parse::<jiff::Span>()
            .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()))
            .ok()
            .and_then(|d| Duration::try_from(d).ok()),
    };
    found
        .filter(|d| *d <= TIME_MAX)
        .ok_or_else(|| not_a_time(&Json::from(text)))
}

fn not_a_time(json: &Json) -> String {
    format!(
        "must be a time of at most 366 days, in seconds or like \"30s\", \"10m\", \"1h30m\", not {}",
        shown(json)
    )
}

/// A number of bytes as text: `4096`, `256MB` (a million each), `512MiB` (1,048,576 each), `1.5GB`.
/// `M` alone is refused: tools disagree on which of the two it is.
pub fn bytes_from_str(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = trimmed.split_at(digits.unwrap_or(trimmed.len()));
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => 0,
    };
    let whole = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(scale));
    // A fraction goes through f64, which is exact enough below 2^53 bytes (8 PiB).
    let part = || {
        let bytes = number.parse::<f64>().ok()? * scale as f64;
        (number.contains('.') && bytes < 9e15).then_some(bytes as u64)
    };
    whole.or_else(part).filter(|_| scale > 0).ok_or_else(|| {
        format!(
            "must be {}, not {}",
            expected(&Kind::Bytes),
            shown(&Json::from(text))
        )
    })
}

/// Names of repositories and agents: 1 to 64 of `[A-Za-z0-9_.-]`, not starting with `.` or `-`.
pub fn is_name(text: &str) -> bool {
    let fits = (1..=64).contains(&text.len()) && !text.starts_with(['.', '-']);
    fits && text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Refuses only what could be an option or two arguments: git checks the rest.
fn is_revision(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 1_024
        && !text.starts_with('-')
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn place(text: &str) -> Result<Json, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("must be a path, not empty".to_owned());
    }
    if text.starts_with('~') && text != "~" && !text.starts_with("~/") {
        return Err(format!(
            "must be a path; of those with `~` only `~/` is known (write `./{text}` for a directory of that name)"
        ));
    }
    Ok(Json::from(text))
}

fn arguments(kind: &Kind, items: &[Json]) -> Result<(), String> {
    for item in items {
        let arg = item.as_str().filter(|a| !a.contains('\0'));
        placeholder::check(arg.ok_or_else(|| holds(kind, item))?)?;
    }
    Ok(())
}

fn holds(kind: &Kind, item: &Json) -> String {
    format!("must be {}, but holds {}", expected(kind), shown(item))
}

/// Text that a program takes as one argument and never as an option.
fn is_argument(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 1_024
        && !text.starts_with('-')
        && !text.chars().any(char::is_control)
}

/// The name of a variable, or its beginning and a `*`.
fn is_variables(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    !name.is_empty() && !name.contains(['*', '=', '\0', ' '])
}

/// A pattern of `.gitignore` that can match something in a checkout.
fn is_pattern(text: &str) -> bool {
    let leads_out = text.split('/').any(|part| part == "..") || text.starts_with('~');
    !text.trim().is_empty() && !leads_out && !text.chars().any(char::is_control)
}

fn vars(map: &serde_json::Map<String, Json>) -> Result<(), String> {
    for (name, value) in map {
        let label = nearest::quoted(name);
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!(
                "cannot hold the variable {label}: no environment can"
            ));
        }
        if AGENT_VARIABLES.contains(&name.as_str()) {
            return Err(format!(
                "must not set {label}: harness sets it for every agent"
            ));
        }
        if value.as_str().is_none_or(|v| v.contains('\0')) {
            return Err(format!(
                "must hold text: the value of {label} is none (put quotes around it)"
            ));
        }
    }
    Ok(())
}

fn expected(kind: &Kind) -> String {
    let any_of = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
        words.join(" or ")
    };
    match kind {
        Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Share => "a number from 0 to 1".to_owned(),
        Kind::Time { min, max } => {
            format!(
                "a time from {} to {}, in seconds or like \"10m\"",
                friendly(*min),
                friendly(*max)
            )
        }
        Kind::Bytes => "a number of bytes, or text like \"256MB\", \"512MiB\", \"10GB\"".to_owned(),
        Kind::Memory => "text like \"8GB\" or \"512MiB\", from 16MB on (a number alone is bytes), or 0".to_owned(),
        Kind::Switch => "true or false".to_owned(),
        Kind::Word(words) => any_of(words),
        Kind::Choices(words) => format!("a list of {}", any_of(words)),
        Kind::AgentName => "the name of an agent".to_owned(),
        Kind::Revision => "the name of a branch".to_owned(),
        Kind::Place(words) => format!("a path, or {}", any_of(words)),
        Kind::Path => "a path".to_owned(),
        Kind::Text => "a word or two, not beginning with `-`".to_owned(),
        Kind::Script => "the text of a script".to_owned(),
        Kind::Amount => format!("a number from 0 to {AMOUNT_MAX}"),
        Kind::Argv => "a list of strings like [\"program\", \"argument\"]".to_owned(),
        Kind::Arguments => "a list of strings like [\"--flag\", \"value\"]".to_owned(),
        Kind::Patterns => {
            "a list of paths in your checkout, or patterns as in .gitignore, like [\".env\", \"target\"]"
                .to_owned()
        }
        Kind::Words => "a list of words like [\"Bash\", \"Edit\"]".to_owned(),
        Kind::Vars => "a table of variables like { NAME = \"value\" }".to_owned(),
        Kind::Paths => "a list of paths like [\"~/data\", \"../shared\"]".to_owned(),
        Kind::Network => "\"open\" or \"none\" or a list of ports like [443]".to_owned(),
        Kind::VarNames => {
            "a list of variables' names like [\"DATABASE_URL\", \"AWS_*\"]".to_owned()
        }
    }
}

/// The value found, short and on one line.
fn shown(json: &Json) -> String {
    match json {
        Json::Null => "null".to_owned(),
        Json::String(text) => format!("the text {}", nearest::quoted(text)),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "a table".to_owned(),
        Json::Bool(_) | Json::Number(_) => json.to_string(),
    }
}

/// `1h 30m`: parses to the same time.
pub fn friendly(d: Duration) -> String {
    SignedDuration::try_from(d).map_or_else(|_| format!("{}s", d.as_secs()), |d| format!("{d:#}"))
}

/// A checked value for `harness config --json`, without the values of variables, which are often
/// secrets.
pub fn public(value: &Json) -> Json {
    match value {
        Json::Object(vars) => vars
            .keys()
            .map(|k| (k.clone(), Json::from("***")))
            .collect(),
        other => other.clone(),
    }
}

/// A checked value for people: `-` if unset, times like `1h 30m`.
pub fn text(kind: &Kind, value: &Json) -> String {
    match (kind, value.as_f64()) {
        (_, None) if value.is_null() => "-".to_owned(),
        (Kind::Time { .. }, Some(seconds)) => {
            friendly(Duration::try_from_secs_f64(seconds).unwrap_or_default())
        }
        _ => public(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_seconds_or_friendly_text() {
        for (json, want) in [
            (json!(90), 90_000),
            (json!(0.25), 250),
            (json!("90"), 90_000),
            (json!("30s"), 30_000),
            (json!("10m"), 600_000),
            (json!("1h30m"), 5_400_000),
            (json!("1h 30m"), 5_400_000),
            (json!("30d"), 2_592_000_000),
            (json!("250ms"), 250),
        ] {
            assert_eq!(
                duration_from_json(&json),
                Ok(Duration::from_millis(want)),
                "{json}"
            );
        }
        for bad in [
            json!(-1),
            json!("-1s"),
            json!("1h ago"),
            json!("soon"),
            json!(""),
            json!(1e300),
        ] {
            assert!(duration_from_json(&bad).is_err(), "{bad}");
        }
        for bad in [
            json!(true),
            json!([1]),
            json!("9000000h"),
            json!("inf"),
            json!("NaN"),
            json!(u64::MAX),
        ] {
            assert!(duration_from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_shown_time_reads_back() {
        for ms in [0, 1, 999, 1_500, 5_400_000, 366 * 86_400_000] {
            let d = Duration::from_millis(ms);
            assert_eq!(duration_from_str(&friendly(d)), Ok(d));
        }
    }

    #[test]
    fn sizes_say_which_million() {
        assert_eq!(bytes_from_str("256MB"), Ok(256_000_000));
        assert_eq!(bytes_from_str("512 MiB"), Ok(512 << 20));
        assert_eq!(bytes_from_str("1.5gb"), Ok(1_500_000_000));
        assert_eq!(bytes_from_str("4096"), Ok(4096));
        for bad in [
            "256M",
            "MB",
            "",
            "-1",
            "1e9",
            "99999999999TB",
            "1.2.3GB",
            ".GB",
        ] {
            assert!(bytes_from_str(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_is_enough_for_a_program_or_has_no_limit() {
        for (value, bytes) in [
            (json!("8GB"), Some(8_000_000_000_u64)),
            (json!(0), Some(0)),
            (json!(8), None),
            (json!("15MB"), None),
        ] {
            let read = from_json(&Kind::Memory, &value)
                .ok()
                .and_then(|b| b.as_u64());
            assert_eq!(read, bytes, "{value}");
        }
        let why = from_text(&Kind::Memory, "8").unwrap_err();
        assert!(why.contains("a number alone is bytes"), "{why}");
    }

    #[test]
    fn a_size_may_not_be_a_fraction_or_negative() {
        for bad in [json!(1.5), json!(-1), json!(true)] {
            assert!(from_json(&Kind::Bytes, &bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_variables_are_never_shown() {
        let value = from_json(&Kind::Vars, &json!({"KEY": "secret"})).expect("valid");
        assert_eq!(public(&value), json!({"KEY": "***"}));
        assert!(!text(&Kind::Vars, &value).contains("secret"));
        assert!(from_json(&Kind::Vars, &json!({"HARNESS_ROOT": "/"})).is_err());
        assert!(from_json(&Kind::Vars, &json!({"A=B": "x"})).is_err());
        assert!(from_json(&Kind::Vars, &json!({"A": 1})).is_err());
    }
}
