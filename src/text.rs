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

/// Escapes what `is_obeyed`, except newlines, for a terminal: messages quote what agents wrote.
pub fn printable(text: &str) -> Cow<'_, str> {
    spelt(text, &['\n'])
}

/// The same for a page of text, which may have tabs.
pub fn page(text: &str) -> Cow<'_, str> {
    spelt(text, &['\n', '\t'])
}

/// A text on one line, for where a line is shown. Advice of ours keeps apart from what is before it.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str(match part.starts_with("what to do:") {
                true => "; ",
                false => " ",
            });
        }
        line.push_str(part);
    }
    line
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_spelt_out_and_json_keeps_its_value() {
        let evil = "a\x1b]52;c;x\x07\u{9b}1m\u{202e}b\u{61c}\u{7f}\té\n";
        assert_eq!(
            page(evil),
            "a\\u{1b}]52;c;x\\u{7}\\u{9b}1m\\u{202e}b\\u{61c}\\u{7f}\té\n"
        );
        assert!(printable(evil).contains("\\t"));
        for json in [json(&evil).unwrap(), pretty_json(&[evil]).unwrap()] {
            let text = String::from_utf8(json.clone()).unwrap();
            assert!(!text.contains(|c| is_obeyed(c) && c != '\n'), "{text}");
            assert!(text.contains('é'));
            let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert!(read == evil || read[0] == evil);
        }
    }
}
