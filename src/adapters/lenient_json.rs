//! Reads JSON from programs that may write anything: a missing or mistyped field counts as absent
//! and does not invalidate its line.
//!
//! Does not know any CLI.

use std::borrow::Cow;

use serde_json_borrow::Value;

use crate::event::{self, INPUT_BYTES_MAX, OUTPUT_BYTES_MAX, clip};

/// Content blocks read per line. A model sends a handful; a million empty ones would become a
/// million events.
pub(super) const BLOCKS_MAX: usize = 1_000;

/// Reads one line as a JSON object; `None` if it is not one. Invalid UTF-8 is replaced.
pub(super) fn read_object<T>(line: &[u8], read: impl FnOnce(&Value<'_>) -> T) -> Option<T> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    // Faster than to look for what to replace, of which there is nothing.
    let whole = std::str::from_utf8(line).map(Cow::from);
    let text = whole.unwrap_or_else(|_| String::from_utf8_lossy(line));
    if let Ok(object) = serde_json::from_str(&text) {
        return Some(read(&object));
    }
    let text = mended(&text);
    serde_json::from_str(&text).ok().map(|object| read(&object))
}

/// Mends what programs print as JSON and serde_json refuses: half of a character as an escape
/// (`\ud83d`, where JavaScript cut a text inside it), `NaN` and `Infinity` (Python), and raw control
/// characters in strings. None of these spoils the rest of its line.
fn mended(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '\\' if in_string => match (surrogate(rest), rest.get(6..).and_then(surrogate)) {
                (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => {
                    taken = 12;
                    out.push_str(&rest[..taken]);
                }
                (Some(_), _) => {
                    taken = 6;
                    out.push('\u{fffd}');
                }
                (None, _) => {
                    taken += rest[1..].chars().next().map_or(0, char::len_utf8);
                    out.push_str(&rest[..taken]);
                }
            },
            c if in_string && c.is_ascii_control() => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            'N' | 'I' | '-' if !in_string && let Some(word) = not_a_number(rest) => {
                taken = word.len();
                out.push_str("null");
            }
            c => {
                in_string ^= c == '"';
                out.push(c);
            }
        }
        rest = &rest[taken..];
    }
    out
}

fn not_a_number(text: &str) -> Option<&'static str> {
    let words = ["NaN", "Infinity", "-Infinity"];
    words.into_iter().find(|word| text.starts_with(word))
}

/// The half of a character that an escape at the beginning of a text stands for.
fn surrogate(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let unit = u16::from_str_radix(digits, 16).ok()?;
    (0xd800..0xe000).contains(&unit).then_some(unit)
}

/// Lenient access to an object's fields. Any other value has no fields.
pub(super) trait Fields {
    /// Any value, or null.
    fn field(&self, key: &str) -> &Value<'_>;
    /// A string, or "".
    fn text(&self, key: &str) -> &str;
    /// A non-empty string, clipped to the length of a name.
    fn name(&self, key: &str) -> Option<String>;
    fn number(&self, key: &str) -> Option<f64>;
    /// A number truncated to an integer; 0 if it is negative.
    fn whole(&self, key: &str) -> Option<u64>;
    /// `whole`, or 0.
    fn count(&self, key: &str) -> u64;
    /// A non-negative amount of money.
    fn amount(&self, key: &str) -> Option<f64>;
    /// An HTTP status.
    fn status(&self, key: &str) -> Option<u16>;
    /// `true` only if the field is `true`.
    fn flag(&self, key: &str) -> bool;
    fn object(&self, key: &str) -> Option<&Value<'_>>;
    /// The objects of a list, at most `BLOCKS_MAX`.
    fn objects(&self, key: &str) -> Vec<&Value<'_>>;
    /// A message: a string, an object's `message` or `data.message`, or the first string of a list.
    fn message(&self, key: &str) -> &str;
}

impl Fields for Value<'_> {
    fn field(&self, key: &str) -> &Value<'_> {
        let field = self.as_object().and_then(|fields| fields.get(key));
        field.unwrap_or(&Value::Null)
    }

    fn text(&self, key: &str) -> &str {
        self.field(key).as_str().unwrap_or_default()
    }

    fn name(&self, key: &str) -> Option<String> {
        Some(event::name(self.text(key))).filter(|name| !name.is_empty())
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.field(key).as_f64()
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates; counts and unix seconds are far below 2^53"
    )]
    fn whole(&self, key: &str) -> Option<u64> {
        self.number(key).map(|n| n as u64)
    }

    fn count(&self, key: &str) -> u64 {
        self.whole(key).unwrap_or_default()
    }

    fn amount(&self, key: &str) -> Option<f64> {
        self.number(key).filter(|n| *n >= 0.0)
    }

    fn status(&self, key: &str) -> Option<u16> {
        u16::try_from(self.whole(key)?).ok()
    }

    fn flag(&self, key: &str) -> bool {
        self.field(key).as_bool() == Some(true)
    }

    fn object(&self, key: &str) -> Option<&Value<'_>> {
        Some(self.field(key)).filter(|value| value.is_object())
    }

    fn objects(&self, key: &str) -> Vec<&Value<'_>> {
        let list = self.field(key).as_array().into_iter().flatten();
        list.take(BLOCKS_MAX).filter(|v| v.is_object()).collect()
    }

    fn message(&self, key: &str) -> &str {
        let value = self.field(key);
        let data = value.field("data");
        let found = match value {
            Value::Array(list) => list.iter().find_map(Value::as_str),
            Value::Object(_) => value
                .field("message")
                .as_str()
                .or(data.field("message").as_str()),
            _ => value.as_str(),
        };
        found.unwrap_or_default()
    }
}

/// A tool's input for an event, and whether it was clipped (then it is the start of its JSON text).
pub(super) fn tool_input(input: serde_json::Value) -> (serde_json::Value, bool) {
    let text = input.to_string();
    match clip(&text, INPUT_BYTES_MAX) {
        (_, false) => (input, false),
        (text, true) => (text.into(), true),
    }
}

/// A tool's output for an event, from one or more pieces, and whether it was clipped.
pub(super) fn tool_output<'a>(pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
    let (mut whole, mut clipped) = (String::new(), false);
    for piece in pieces.into_iter().filter(|p| !p.is_empty()) {
        if !whole.is_empty() {
            whole.push('\n');
        }
        let room = OUTPUT_BYTES_MAX.saturating_sub(whole.len());
        let (text, cut) = clip(piece, room);
        whole.push_str(text);
        clipped |= cut;
    }
    (whole, clipped)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_of_another_type_is_absent() {
        let line = json!({"text": 1, "n": "1", "negative": -1.5, "yes": "true", "list": [1, {}, {"a": 1}],
                          "error": {"data": {"message": "no"}}, "errors": [1, "first"]});
        let line = Value::from(&line);
        assert_eq!((line.text("text"), line.name("text")), ("", None));
        assert_eq!((line.whole("n"), line.count("negative")), (None, 0));
        assert_eq!((line.amount("negative"), line.flag("yes")), (None, false));
        assert_eq!(line.objects("list").len(), 2);
        assert_eq!(line.message("error"), "no");
        assert_eq!(line.message("errors"), "first");
        assert!(line.object("list").is_none() && Value::Null.object("x").is_none());
    }

    #[test]
    fn half_a_character_spoils_no_line() {
        for (escaped, text) in [
            (r"cut \ud83d", "cut \u{fffd}"),
            (r"\uDE00 \\ud83d\n", "\u{fffd} \\ud83d\n"),
            (r"\ud83d\ude00", "\u{1f600}"),
            (r"\ud83d\ude00 \ud83d", "\u{1f600} \u{fffd}"),
            (
                r"\ud83d\u2026 \ud83d\ud83d\ude00",
                "\u{fffd}\u{2026} \u{fffd}\u{1f600}",
            ),
            (
                "tab\t, \u{1b}[31m, \\n and \u{7f}",
                "tab\t, \u{1b}[31m, \n and \u{7f}",
            ),
            ("NaN -Infinity \\\" NaN \t", "NaN -Infinity \" NaN \t"),
        ] {
            let line = format!(r#"{{"type":"{escaped}"}}"#);
            let read = read_object(line.as_bytes(), |line| line.text("type").to_owned());
            assert_eq!(read.unwrap(), text, "{line}");
        }
        let numbers = br#"{"a":NaN,"b":[-Infinity,Infinity],"c":-1,"d":"NaN"}"#;
        let read = read_object(numbers, |line| {
            assert_eq!((line.number("a"), line.number("c")), (None, Some(-1.0)));
            assert_eq!(line.text("d"), "NaN");
        });
        assert!(read.is_some());
        assert_eq!(read_object(br#"{"a":"\u"}"#, |_| ()), None);
        assert_eq!(read_object("{\"a\":\"\\\u{e9}".as_bytes(), |_| ()), None);
    }
}
