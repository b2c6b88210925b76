//! What only looks like a script or like fields. A script that is not at its first byte, and fields
//! whose place or mark is nearly right, are refused; what could as well be prose is said.

use serde_json::Value;

use super::encoding::{is_blank, lines};
use super::{Item, Parsed, names, refuse};

/// How many lines of a prompt are looked at for fields in the wrong place.
pub(super) const LOOK_LINES: usize = 40;

/// Looks at the text of a prompt, which begins after so many lines of front matter. Returns the line
/// that looks like a field and may be prose.
pub(super) fn in_prompt(body: &[u8], skipped: usize) -> Parsed<Option<usize>> {
    let text = |line| std::str::from_utf8(line).unwrap_or_default();
    let lines: Vec<(usize, &str)> = lines(body)
        .take(LOOK_LINES)
        .map(|(n, line)| (n + skipped, text(line).trim_matches(is_blank)))
        .collect();
    refuse_script(&lines)?;
    refuse_marked(&lines)?;
    refuse_fenced(&lines, skipped > 0)?;
    Ok(first_line_like_a_field(&lines).or_else(|| block_like_fields(&lines)))
}

fn refuse_script(lines: &[(usize, &str)]) -> Parsed<()> {
    let begun = lines.iter().skip_while(|(_, text)| text.is_empty());
    let head = begun.take_while(|(_, text)| text.starts_with(['#', '＃', '!', '！']));
    for (n, text) in head {
        if is_like_a_first_line(text) {
            return refuse(format!(
                "line {n} looks like the first line of a script, but a script has `#!` at its first \
                 byte, and its fields in lines `#harness …`: remove what stands before it; in a \
                 prompt, put a script between lines of ```"
            ));
        }
    }
    Ok(())
}

/// `#!/bin/sh` with something wrong about it.
fn is_like_a_first_line(text: &str) -> bool {
    let is_mark = |c: char| matches!(c, '#' | '!' | '＃' | '！') || is_blank(c);
    let rest = text.trim_start_matches(is_mark);
    let mark = &text[..text.len() - rest.len()];
    let starts = |starts: &[&str]| starts.iter().any(|start| rest.starts_with(start));
    text.starts_with("#!")
        || mark.contains(['!', '！']) && starts(&["/", "bin/", "usr/", "env "])
        || mark == "#" && starts(&["/bin/", "/usr/"])
}

/// `#harness` lines, which only scripts have.
fn refuse_marked(lines: &[(usize, &str)]) -> Parsed<()> {
    let head = lines.iter().take_while(|(_, text)| is_lead(text));
    for (n, text) in head {
        if let Some(name) = marked(text) {
            return refuse(format!(
                "line {n} looks like the field `{name}` of a script; a prompt has its fields \
                 (`{name}: …`) between two lines `---`, of which the first is the first line of the file"
            ));
        }
    }
    Ok(())
}

/// What may stand before the fields in other programs' files: blank lines, headings, comments.
fn is_lead(text: &str) -> bool {
    let starts = ["#", "//", "<!--", "%", ";"];
    text.is_empty() || starts.iter().any(|start| text.starts_with(start))
}

/// Fields at the beginning, between lines that only resemble `---`.
fn refuse_fenced(lines: &[(usize, &str)], again: bool) -> Parsed<()> {
    let mut lines = lines.iter().skip_while(|(_, text)| is_lead(text));
    let Some((first, _)) = lines.next().filter(|(_, text)| is_like_a_fence(text)) else {
        return Ok(());
    };
    let bare = |text: &str| text.trim_start_matches(['{', '"']).to_owned();
    let is_field = |text: &str| {
        is_lead(text) || text.starts_with("- ") || names::of_line(&bare(text)).is_some()
    };
    for (n, text) in lines.take_while(|(_, text)| is_field(text)) {
        if let Some(name) = names::acting_in(&bare(text)) {
            return refuse(match again {
                true => format!(
                    "line {n} looks like the field `{name}`, but the front matter has ended before: \
                     put all fields between its two lines `---`"
                ),
                false => format!(
                    "line {n} looks like the field `{name}`, but front matter is between two lines \
                     `---`, the first of which is the first line of the file, without anything before \
                     it; line {first} is not"
                ),
            });
        }
    }
    Ok(())
}

/// `---` with something wrong about it; a typographic dash; TOML's `+++`; a row of other marks.
pub(super) fn is_like_a_fence(line: &str) -> bool {
    let is_dash = |c: char| matches!(c, '-' | '–' | '—' | '−') || is_blank(c);
    let rest = line.trim_start_matches(is_dash);
    let dashes = line[..line.len() - rest.len()].trim_end_matches(is_blank);
    let word = rest.trim_matches(is_blank).to_ascii_lowercase();
    let is_kind = matches!(&*word, "yaml" | "yml" | "json" | "toml") || word.starts_with('#');
    let is_row = |mark: char| line.len() > 2 && line.chars().all(|c| c == mark);
    dashes.len() > 1 && rest.is_empty()
        || dashes.len() > 2 && is_kind
        || ['+', '*', '=', ';', '_'].into_iter().any(is_row)
}

/// Marks that may stand round a field: of lists, of emphasis, of comments.
fn is_mark(c: char) -> bool {
    c.is_ascii_punctuation() && !matches!(c, '[' | ']' | ':') || is_blank(c)
}

/// The first line of text that is no heading, if it looks like a field: alone, or with marks round it
/// and a value that fits.
fn first_line_like_a_field(lines: &[(usize, &str)]) -> Option<usize> {
    for (n, text) in lines {
        let bare = text.trim_start_matches(is_mark);
        if field_that_fits(bare) || names::acting_in(text).is_some() {
            return Some(*n);
        }
        if !(is_lead(text) || bare.is_empty() || text.starts_with("```")) {
            return None;
        }
    }
    None
}

/// Lines of fields between two lines like `---`, further down.
fn block_like_fields(lines: &[(usize, &str)]) -> Option<usize> {
    let mut in_code = false;
    for (at, (_, text)) in lines.iter().enumerate() {
        in_code ^= text.starts_with("```");
        if in_code {
            continue;
        }
        if marked(text).is_some() {
            return Some(lines[at].0);
        }
        if !is_like_a_fence(text) {
            continue;
        }
        let inner = &lines[at + 1..];
        let end = inner.iter().position(|(_, text)| is_like_a_fence(text));
        let inner = &inner[..end.unwrap_or_default()];
        let is_field = |text: &str| text.is_empty() || names::of_line(text).is_some();
        if inner.iter().all(|(_, text)| is_field(text))
            && let Some((n, _)) = inner.iter().find(|(_, text)| field_that_fits(text))
        {
            return Some(*n);
        }
    }
    None
}

/// Whether a line gives a field that acts, with a value that the field may have.
fn field_that_fits(line: &str) -> bool {
    let value = line.split_once([':', '=']).map_or("", |(_, value)| value);
    names::acting_in(line).is_some_and(|name| fits(name, value))
}

/// Fields whose values are known by their look.
const NUMBERS: &[&str] = &[
    "priority",
    "timeout",
    "retries",
    "max_turns",
    "budget_usd",
    "not_before",
];

fn fits(name: &str, value: &str) -> bool {
    let value = value.trim_matches(is_mark);
    match name {
        "prompt" => false,
        "env" => value.contains(':'),
        "after" => value.starts_with('[') || is_word(value),
        name if NUMBERS.contains(&name) => Item::blank().set(name, &Value::from(value)).is_ok(),
        _ => is_word(value),
    }
}

fn is_word(value: &str) -> bool {
    !value.is_empty() && !value.contains(is_blank)
}

/// The field that a comment was meant to be: `# harness priority: 2`, `#Harness:priority 2`,
/// `#harnes priority: 2`.
pub(super) fn marked(line: &str) -> Option<&'static str> {
    let is_mark = |c: char| c.is_ascii_punctuation() || is_blank(c);
    let text = line.trim_start_matches(is_mark);
    if text.len() == line.len() {
        return None;
    }
    let end = text.find(|c: char| !c.is_ascii_alphabetic());
    let word = text[..end?].to_ascii_lowercase();
    let whole = text.get(.."harness".len());
    let rest = match whole.is_some_and(|w| w.eq_ignore_ascii_case("harness")) {
        true => &text["harness".len()..],
        false if word.len() < 10 && strsim::osa_distance(&word, "harness") <= 2 => {
            &text[word.len()..]
        }
        false => return None,
    };
    let rest = rest.trim_start_matches(is_mark);
    names::acting_in(rest).or_else(|| {
        let (name, value) = rest.split_once(is_blank)?;
        let name = names::acting(name).filter(|name| NUMBERS.contains(name))?;
        fits(name, value).then_some(name)
    })
}

/// Looks at a comment in the head of a script that is no `#harness` line. `true`: it may be meant as a
/// field, or be prose.
pub(super) fn in_script(n: usize, line: &str, next: Option<&str>) -> Parsed<bool> {
    let wrong = |n: usize, name: &str| {
        refuse(format!(
            "line {n} looks like the field `{name}`, but is none: write `#harness {name}: …`"
        ))
    };
    if let Some(name) = marked(line) {
        return wrong(n, name);
    }
    let bare = |line: &str| {
        let is_comment = |c: char| matches!(c, '#' | '/' | ';' | '"') || is_blank(c);
        line.trim_matches(is_comment).to_owned()
    };
    let text = bare(line);
    let next = next.map(bare).unwrap_or_default();
    let word = text.trim_end_matches(':').to_ascii_lowercase();
    let follows = names::acting_in(&next).filter(|_| field_that_fits(&next));
    match follows {
        Some(name) if word == "harness" || text == "---" => wrong(n + 1, name),
        _ if line.trim_end_matches(':') == "#harness" => refuse(format!(
            "line {n} is `#harness` without a field: write each as `#harness priority: …`"
        )),
        _ => Ok(line.starts_with('#') && field_that_fits(&text)),
    }
}

/// What begins a text at the head of a script that is no comment to harness, and what ends it.
const BLOCKS: [(&str, &str); 7] = [
    ("\"\"\"", "\"\"\""),
    ("'''", "'''"),
    ("/*", "*/"),
    ("=begin", "=end"),
    ("--[[", "]]"),
    ("<#", "#>"),
    ("{-", "-}"),
];

/// The first of these lines that looks like a field, if they begin with a text that says what the script
/// does (a docstring): no field is read there.
pub(super) fn in_docstring<'a>(lines: impl Iterator<Item = &'a str>) -> Option<usize> {
    let mut lines = lines.take(LOOK_LINES).enumerate();
    let (first, opening) = lines.find(|(_, line)| !line.is_empty())?;
    let opened = opening.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let starts =
        |(begin, _): &&(&str, &str)| opening.starts_with(begin) || opened.starts_with(begin);
    let (begin, end) = BLOCKS.iter().find(starts)?;
    let looks_like = |line: &str| {
        let bare = line.trim_matches(is_mark);
        let bare = bare.strip_prefix("harness ").unwrap_or(bare);
        marked(line).is_some() || field_that_fits(bare)
    };
    let rest = opened.strip_prefix(begin).unwrap_or_default();
    if looks_like(rest) {
        return Some(first);
    }
    let inside = lines.take_while(|(_, line)| !rest.contains(end) && !line.starts_with(end));
    let mut inside = inside.filter(|(_, line)| looks_like(line));
    inside.next().map(|(at, _)| at)
}

/// `#harness priority: 2` where it is not read any more: after the first command, or behind one.
pub(super) fn is_late(line: &str) -> bool {
    let behind = line.find("#harness").map_or("", |at| &line[at..]);
    marked(line).is_some() || marked(behind).is_some()
}
