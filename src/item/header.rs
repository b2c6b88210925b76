//! Where prompts and scripts give their fields, and what only looks like it.
//!
//! Invariant: a line that was meant as a field is read as one, refused, or said in a remark.

use super::encoding::is_unseen;
use super::{Parsed, names, near, refuse, shown};
use crate::limits::SCRIPT_HEAD_BYTES;

/// The fields of a file as text, with the numbers of its lines in the file.
#[derive(Default)]
pub(super) struct Header<'a> {
    pub(super) yaml: Vec<(usize, &'a [u8])>,
    /// The file's line that looks like a field and is none.
    pub(super) stray: Option<usize>,
}

impl Header<'_> {
    /// Refuses a line that a person reads otherwise than YAML does.
    pub(super) fn check(&self) -> Parsed<()> {
        for (n, line) in &self.yaml {
            let line = String::from_utf8_lossy(line);
            let line = line.trim_end_matches(['\n', '\r']);
            if let Some(why) = odd_character(line).or_else(|| cut_by_yaml(line)) {
                return refuse(format!("line {n}: {why}"));
            }
        }
        Ok(())
    }
}

/// A character that is not what it looks like, where it makes another field or value.
fn odd_character(line: &str) -> Option<String> {
    let say = |c: char, what: &str| {
        let code = u32::from(c);
        Some(format!("{what} (U+{code:04X}): type the line anew"))
    };
    let joins = |c: char| matches!(c, '\u{200c}' | '\u{200d}');
    if let Some(c) = line
        .chars()
        .find(|&c| is_unseen(c) && c != '\t' && !joins(c))
    {
        return say(c, "it holds a character that nobody sees");
    }
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    let is_wide = |c: char| matches!(c, '：' | '﹕' | '︰' | '꞉' | '∶');
    if let Some((word, _)) = name.split_once(is_wide)
        && names::acting(word.trim()).is_some()
    {
        return say(
            name[word.len()..].chars().next()?,
            "its colon is another character",
        );
    }
    let is_odd = |c: &char| c.is_whitespace() && !c.is_ascii();
    let first_and_last = |text: &str| [text.chars().next(), text.chars().next_back()];
    let edges = first_and_last(name)
        .into_iter()
        .chain(first_and_last(value));
    let odd = edges.flatten().find(is_odd)?;
    say(odd, "one of its spaces is another character")
}

/// To YAML ` #` begins a comment, which `branch: fix #12` is not, and `!word` is a type.
fn cut_by_yaml(line: &str) -> Option<String> {
    let (name, (_, value)) = names::of_line(line).zip(line.split_once(':'))?;
    let start = value.trim_start();
    if !names::ACTING.contains(&name) || start.starts_with(['"', '\'', '|', '>']) {
        return None;
    }
    let mut marks = value.match_indices(" #");
    let is_word =
        |(at, _): (usize, &str)| value[at + 2..].starts_with(|c: char| c.is_alphanumeric());
    if marks.any(is_word) {
        return Some(format!(
            "YAML takes what follows ` #` for a comment: put the text of `{name}` in quotes, or a \
             space after the `#` of a comment"
        ));
    }
    (start.starts_with('!') && !start.starts_with("!!str ")).then(|| {
        format!("YAML takes `!` for the beginning of a type: put the text of `{name}` in quotes")
    })
}

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
    refuse(unclosed(bytes))
}

fn unclosed(bytes: &[u8]) -> String {
    const NEVER: &str = "line 1 is `---`, which begins front matter that is never closed";
    let mut lines = super::encoding::lines(bytes).skip(1);
    let near = lines.find(|(_, line)| {
        let line = std::str::from_utf8(line).unwrap_or_default().trim();
        near::is_like_a_fence(line)
    });
    match near {
        Some((n, line)) => format!(
            "{NEVER}: line {n} (`{}`) has to be `---`",
            shown(String::from_utf8_lossy(line).trim_end())
        ),
        None => format!(
            "{NEVER}: put a line `---` behind the last field; or remove line 1 if there are no fields"
        ),
    }
}

/// The front matter of a prompt, and its text.
pub(super) fn of_prompt(bytes: &[u8]) -> Parsed<(Header<'_>, &[u8])> {
    let (front, body) = split_front_matter(bytes)?;
    let lines = front
        .unwrap_or_default()
        .split_inclusive(|&b| b == b'\n')
        .enumerate();
    let header = Header {
        yaml: lines.map(|(n, line)| (n + 2, line)).collect(),
        stray: near::in_prompt(body, lines_of(&bytes[..bytes.len() - body.len()]))?,
    };
    Ok((header, body))
}

/// How many comments of a script are looked at for a `#harness` line that comes too late.
const LATE_LINES_MAX: usize = 500;

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
    check_first_line(bytes)?;
    let text = |line| std::str::from_utf8(line).unwrap_or_default().trim();
    let (mut yaml, mut read, mut stray) = (Vec::new(), 0, None);
    let mut lines = head.split_inclusive(|&b| b == b'\n').zip(1..).peekable();
    while let Some((whole, number)) = lines.next() {
        let line = whole.trim_ascii();
        let next = lines.peek().map(|(next, _)| text(next));
        if let Some(field) = field_line(line) {
            yaml.push((number, field));
        } else if near::in_script(number, text(line), next)? {
            stray = stray.or(Some(number));
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
    let rest = bytes[read..].split(|&b| b == b'\n').zip(1..);
    let comments = rest.filter(|(line, _)| line.contains(&b'#') || line.starts_with(b"//"));
    let late = comments
        .take(LATE_LINES_MAX)
        .find(|(line, _)| near::is_late(text(line)));
    let late = late.map(|(_, n)| lines_of(&bytes[..read]) + n);
    let told = bytes[read..].split(|&b| b == b'\n').map(text);
    let in_docstring = near::in_docstring(told).map(|at| lines_of(&bytes[..read]) + at + 1);
    let stray = stray.or(in_docstring).or(late);
    Ok(Header { yaml, stray })
}

/// Refuses a first line that names no program, or has more behind it than the kernel understands.
fn check_first_line(bytes: &[u8]) -> Parsed<()> {
    let Some(line) = bytes.strip_prefix(b"#!") else {
        return Ok(());
    };
    let line = line.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let program = line.split_ascii_whitespace().next();
    match program {
        None => refuse("line 1: `#!` names no program: write one, like `#!/bin/sh`"),
        _ if near::is_late(line) => refuse(
            "line 1: a `#harness` line is a line of its own, below the one that begins with `#!`",
        ),
        Some(program) if !program.contains('/') => refuse(format!(
            "line 1: `#!` needs the whole path of a program: write `#!/usr/bin/env {}`",
            shown(program)
        )),
        Some(_) => Ok(()),
    }
}

fn lines_of(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == b'\n').count()
}

/// The field of a `#harness` line, and what it is indented by: what follows the word.
fn field_line(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"#harness")?;
    rest.first()
        .is_some_and(|b| b" \t".contains(b))
        .then_some(rest)
}
