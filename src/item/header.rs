//! Where prompts and scripts give their fields, and what only looks like it.
//!
//! Invariant: a line that was meant as a field is read as one, refused, or said in a remark.

use super::names;
use super::{Parsed, refuse};
use crate::limits::SCRIPT_HEAD_BYTES;

/// The fields of a file as text, with the numbers of its lines in the file.
#[derive(Default)]
pub(super) struct Header<'a> {
    pub(super) yaml: Vec<(usize, &'a [u8])>,
    /// The file's line that looks like a field and is none.
    pub(super) stray: Option<usize>,
}

impl Header<'_> {
    /// Refuses a text that YAML would cut: to it ` #` begins a comment, which `branch: fix #12` is not.
    pub(super) fn check(&self) -> Parsed<()> {
        for (n, line) in &self.yaml {
            let line = String::from_utf8_lossy(line);
            let Some((name, value)) = names::of_line(&line).zip(line.split_once(':')) else {
                continue;
            };
            let value = value.1;
            let is_plain = !value.trim_start().starts_with(['"', '\'', '|', '>']);
            let mut marks = value.match_indices(" #");
            let is_word =
                |(at, _): (usize, &str)| value[at + 2..].starts_with(|c: char| c.is_alphanumeric());
            if is_plain && names::ACTING.contains(&name) && marks.any(is_word) {
                return refuse(format!(
                    "line {n}: YAML takes what follows ` #` for a comment: put the text of `{name}` in \
                     quotes, or a space after the `#` of a comment"
                ));
            }
        }
        Ok(())
    }
}

/// How many lines of a prompt are looked at for fields in the wrong place.
const LOOK_LINES: usize = 40;

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

/// The front matter of a prompt, and its text.
pub(super) fn of_prompt(bytes: &[u8]) -> Parsed<(Header<'_>, &[u8])> {
    let (front, body) = split_front_matter(bytes)?;
    if let Some(front) = front {
        let lines = front.split_inclusive(|&b| b == b'\n');
        let yaml = lines.enumerate().map(|(n, line)| (n + 2, line)).collect();
        let header = Header { yaml, stray: None };
        return Ok((header, body));
    }
    let header = Header {
        stray: stray_in_prompt(bytes)?,
        ..Header::default()
    };
    Ok((header, body))
}

/// Looks for fields at the beginning of a prompt that has no front matter: between lines that only
/// resemble `---` they are refused; a first line that could be prose (`Title: …`) is returned.
fn stray_in_prompt(bytes: &[u8]) -> Parsed<Option<usize>> {
    let lines = bytes.split(|&b| b == b'\n' || b == b'\r').take(LOOK_LINES);
    let lines = lines
        .enumerate()
        .map(|(n, line)| (n + 1, line.utf8_chunks()));
    let mut lines = lines.map(|(n, mut chunks)| (n, chunks.next().map_or("", |c| c.valid())));
    let Some((first, text)) = lines.find(|(_, text)| !text.trim().is_empty()) else {
        return Ok(None);
    };
    if !is_like_a_fence(text.trim()) {
        let is_code = text.trim_start().starts_with("```");
        let (n, text) = if is_code {
            lines.next().unwrap_or((first, ""))
        } else {
            (first, text)
        };
        return Ok(names::acting_in(text).map(|_| n));
    }
    for (n, text) in lines.take_while(|(_, text)| !is_like_a_fence(text.trim())) {
        if let Some(name) = names::acting_in(text) {
            return refuse(format!(
                "line {n} looks like the field `{name}`, but front matter is between two lines \
                 `---`, the first of which is the first line of the file, without anything before \
                 it; line {first} is not"
            ));
        }
    }
    Ok(None)
}

/// `---` with something wrong about it; a typographic dash; TOML's `+++`.
fn is_like_a_fence(line: &str) -> bool {
    let dashes = line.chars().all(|c| matches!(c, '-' | '–' | '—' | '−'));
    dashes && (line.len() > 1) || line == "+++"
}

/// The `#harness` lines in the leading comments of a script.
pub(super) fn of_script(bytes: &[u8]) -> Parsed<Header<'_>> {
    let mut head = &bytes[..bytes.len().min(SCRIPT_HEAD_BYTES)];
    if head.len() == SCRIPT_HEAD_BYTES {
        // The last line may be cut.
        let whole = head
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        head = &head[..whole];
    }
    let (mut yaml, mut read, mut number) = (Vec::new(), 0, 0);
    for whole in head.split_inclusive(|&b| b == b'\n') {
        number += 1;
        let line = whole.trim_ascii();
        if let Some(field) = field_line(line) {
            yaml.push((number, field));
        } else if let Some(name) = near_field(line) {
            return refuse(format!(
                "line {number} looks like the field `{name}`, but is none: write `#harness {name}: …`"
            ));
        } else if !line.is_empty() && !line.starts_with(b"#") {
            break;
        }
        read += whole.len();
    }
    let indent = yaml
        .iter()
        .map(|(_, field)| field.len() - field.trim_ascii_start().len());
    let indent = indent.min().unwrap_or_default();
    let yaml = yaml
        .into_iter()
        .map(|(n, field)| (n, &field[indent..]))
        .collect();
    let rest = bytes[read..].split(|&b| b == b'\n').enumerate();
    let late = rest.filter(|(_, line)| is_late_field(line.trim_ascii()));
    let stray = late.map(|(n, _)| read_lines(bytes, read) + n + 1).next();
    Ok(Header { yaml, stray })
}

fn read_lines(bytes: &[u8], until: usize) -> usize {
    bytes[..until].iter().filter(|&&b| b == b'\n').count()
}

/// The field of a `#harness` line, and what it is indented by: what follows the word.
fn field_line(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"#harness")?;
    rest.first()
        .is_some_and(|b| b" \t".contains(b))
        .then_some(rest)
}

/// `#harness priority: 2` where it is not read any more: after the first command.
fn is_late_field(line: &[u8]) -> bool {
    let field = field_line(line).and_then(|f| std::str::from_utf8(f).ok());
    let name = field.and_then(names::of_line);
    name.is_some_and(|name| names::ACTING.contains(&name))
}

/// The field that a comment was meant to be: `# harness priority: 2`, `#Harness:priority 2`.
fn near_field(line: &[u8]) -> Option<&'static str> {
    let line = std::str::from_utf8(line).ok()?;
    let is_mark = |c: char| c.is_ascii_punctuation() || c.is_whitespace();
    let text = line.trim_start_matches(is_mark);
    let word = text.get(.."harness".len())?;
    if text.len() == line.len() || !word.eq_ignore_ascii_case("harness") {
        return None;
    }
    names::acting_in(text[word.len()..].trim_start_matches(is_mark))
}
