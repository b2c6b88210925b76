//! Text that people see, wherever it came from: files of `state/` that they `cat`, messages, tables.
//! One rule: no character that acts on a terminal, or turns the direction of writing, reaches them as
//! it is. In text such a character is spelt out; in JSON it is escaped, so that the value stays.

use std::borrow::Cow;

use serde::Serialize;

/// Whether a character acts on the terminal or the text instead of being shown: control characters
/// (C0, DEL, C1), and those that change the direction or the lines of writing.
pub fn is_obeyed(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    );
    c.is_control() || turns
}

fn spelt<'t>(text: &'t str, kept: &[char]) -> Cow<'t, str> {
    let odd = |c: char| is_obeyed(c) && !kept.contains(&c);
    if !text.contains(odd) {
        return text.into();
    }
    let spelled = |c: char| match odd(c) {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(spelled).collect::<String>().into()
}

/// A message for a terminal, on one line: what is obeyed is spelt out, as messages quote what agents
/// wrote.
pub(crate) fn message(text: &str) -> String {
    spelt(&one_line(text), &[]).into_owned()
}

/// The same for a page of text, which may have tabs.
pub fn page(text: &str) -> Cow<'_, str> {
    spelt(text, &['\n', '\t'])
}

/// A number of bytes in words: `1 GB`, `3.1 GB`, `256 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    let binary = [(1 << 30, "GiB"), (1 << 20, "MiB")];
    if let Some((unit, name)) = binary
        .into_iter()
        .find(|(unit, _)| n > 0 && n.is_multiple_of(*unit))
    {
        return format!("{} {name}", n / unit);
    }
    let decimal = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match decimal.into_iter().find(|(unit, _)| n >= *unit) {
        None => format!("{n} bytes"),
        Some((unit, name)) if n.is_multiple_of(unit) => format!("{} {name}", n / unit),
        Some((unit, name)) => format!("{:.1} {name}", n as f64 / unit as f64),
    }
}

/// `1 thing`, `2 things`, `2 retries`, `2 branches`.
pub fn count_of(n: u64, thing: &str) -> String {
    match (n, thing.strip_suffix("ry")) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{n} {stem}ries"),
        (_, None) if thing.ends_with(['h', 's']) => format!("{n} {thing}es"),
        (_, None) => format!("{n} {thing}s"),
    }
}

/// A text on one line, for where a line is shown.
pub fn one_line(text: &str) -> String {
    let parts = text.lines().map(str::trim).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(" ")
}

/// A message without what differs from one try to the next: numbers, ids and temporary names. Messages
/// of one class say the same. A name with a number in it (`agent-1`, `007-fix.md`) stays.
pub(crate) fn class_of(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || "/'\"`()[]{}<>,;:=".contains(c);
    let parts = text.split_inclusive(ends);
    let class = |part: &str| {
        let word = part.trim_end_matches(ends).trim_end_matches('.');
        match differs(word) {
            true => format!("#{}", &part[word.len()..]),
            false => part.to_owned(),
        }
    };
    parts.map(class).collect()
}

fn differs(word: &str) -> bool {
    let hex = |c: char| c.is_ascii_hexdigit();
    let is_oid = word.len() >= 7 && word.chars().all(hex);
    let is_uuid = word.len() == 36 && word.chars().all(|c| hex(c) || c == '-');
    let is_temp = word.ends_with(".tmp") || word.starts_with("tmp_");
    is_temp || is_uuid || is_oid && word.contains(|c: char| c.is_ascii_digit()) || is_number(word)
}

/// `28`, `1.5`, `35s`, `1m10s`, `64kB`.
fn is_number(word: &str) -> bool {
    let after = |text: &str, of: fn(char) -> bool| {
        let rest = text.trim_start_matches(of);
        text.len() - rest.len()
    };
    let (digit, unit) = (
        |c: char| c.is_ascii_digit(),
        |c: char| c.is_ascii_alphabetic(),
    );
    let mut rest = word;
    while !rest.is_empty() {
        let digits = after(rest, digit);
        rest = &rest[digits..];
        if let Some(fraction) = rest.strip_prefix('.') {
            let digits = after(fraction, digit);
            if digits == 0 {
                return false;
            }
            rest = &fraction[digits..];
        }
        let letters = after(rest, unit);
        if digits == 0 || letters > 3 {
            return false;
        }
        rest = &rest[letters..];
    }
    !word.is_empty()
}

/// Equivalent JSON without characters that a terminal would obey: inside strings they are escaped as
/// `\u009b`, between tokens they become spaces.
pub fn safe_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(c),
            '\0'..='\x1f' => out.push(' '),
            _ if is_obeyed(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}

/// Appends a value as one line of JSON, without its newline.
pub fn append_json(out: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    let from = out.len();
    serde_json::to_writer(&mut *out, value)?;
    tame(out, from);
    Ok(())
}

/// A value as JSON on one line.
pub fn json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(1024);
    append_json(&mut out, value).map(|()| out)
}

/// A value as indented JSON.
pub fn pretty_json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(2048);
    serde_json::to_writer_pretty(&mut out, value)?;
    tame(&mut out, 0);
    Ok(out)
}

/// `safe_json` for what serde wrote after `from`. Most of it is plain ASCII.
fn tame(json: &mut Vec<u8>, from: usize) {
    if json[from..].is_ascii() && !json[from..].contains(&0x7f) {
        return;
    }
    let tamed = safe_json(&String::from_utf8_lossy(&json[from..]));
    json.truncate(from);
    json.extend_from_slice(tamed.as_bytes());
}

/// For serde: an empty text is `null`.
pub mod or_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(text: &str, s: S) -> Result<S::Ok, S::Error> {
        (!text.is_empty()).then_some(text).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
        Option::deserialize(d).map(Option::unwrap_or_default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_as_people_set_them() {
        for (n, said) in [
            (0, "0 bytes"),
            (900, "900 bytes"),
            (1_000_000_000, "1 GB"),
            (256 << 20, "256 MiB"),
            (3_101_000_000, "3.1 GB"),
            (4_096_000, "4.1 MB"),
        ] {
            assert_eq!(bytes(n), said);
        }
    }

    #[test]
    fn only_numbers_ids_and_temporary_names_make_no_other_message() {
        let same = |a: &str, b: &str| class_of(a) == class_of(b);
        assert!(same(
            "status: cannot write the file: /r/.134-8f109505becb-2.tmp: No space (os error 28)",
            "status: cannot write the file: /r/.9-8f1-31.tmp: No space (os error 28)"
        ));
        assert!(same("ended after 35s.", "ended after 1m10s."));
        assert!(same(
            "session 01a229c3-6ce9-776f-9383-96f1cdd7db62 at 012345678",
            "session 01a229c4-6ce9-776f-9383-96f1cdd7db60 at fedcba9f8"
        ));
        assert!(same(
            "objects/pack/tmp_pack_aX1: full",
            "objects/pack/tmp_pack_b: full"
        ));
        for (a, b) in [
            ("agent-1: full", "agent-2: full"),
            ("007-fix.md stays", "008-fix.md stays"),
            ("1.md stays", "2.md stays"),
            ("cannot read", "cannot write"),
        ] {
            assert!(!same(a, b), "{a}");
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_spelt_out_and_json_keeps_its_value() {
        let evil = "a\x1b]52;c;x\x07\u{9b}1m\u{202e}b\u{61c}\u{7f}\té\n";
        assert_eq!(
            page(evil),
            "a\\u{1b}]52;c;x\\u{7}\\u{9b}1m\\u{202e}b\\u{61c}\\u{7f}\té\n"
        );
        assert!(message(evil).ends_with("\\té"));
        assert_eq!(message(" two\n  lines\r\n"), "two lines");
        for json in [json(&evil).unwrap(), pretty_json(&[evil]).unwrap()] {
            let text = String::from_utf8(json.clone()).unwrap();
            assert!(!text.contains(|c| is_obeyed(c) && c != '\n'), "{text}");
            assert!(text.contains('é'));
            let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert!(read == evil || read[0] == evil);
        }
    }
}
