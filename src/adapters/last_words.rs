//! The line of standard error that says why a program ended: not its usage text, not where it was in
//! its code, not what it says at every start.
//!
//! Does not know any CLI.

use crate::event;

/// A line that is only read when nothing better is there: progress, and where help is.
const CHATTER: &[&str] = &[
    "from stdin", // `Reading additional input from stdin...`
    "--help",
    "-h for",
    "for more information",
    "usage:",
    "usage of",
    "tip:",
    "hint:",
    "note:",
    "help:",
    "did you mean",
    "warning:",
    "deprecat",
    "npm notice",
    "node.js v",
    "--trace-",
    "rust_backtrace",
    "stack backtrace",
    "traceback (most",
    "a complete log of this run",
];
/// What a line has that names the cause.
const CAUSES: &[&str] = &[
    "error:",
    "error ",
    "fatal:",
    "exception:",
    "panicked at",
    "cannot ",
    "could not ",
    "unable to ",
    "failed",
    "invalid ",
    "unrecognized ",
    "unknown ",
    "not found",
    "no such ",
    "denied",
    "refused",
    "not defined",
    "required",
    "must ",
    "missing ",
    "exhausted",
    "message:",
];

/// The line of stderr most likely to be the reason: the last that names an error, else the last that
/// could be one, else the last. Colors are removed.
pub fn last_words(stderr_tail: &[u8]) -> String {
    let text = without_colors(&String::from_utf8_lossy(stderr_tail));
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let told = told(&lines);
    let cause = |l: &&&str| {
        let l = l.trim().to_lowercase();
        l.starts_with("error") || l.contains("error:") || l.starts_with("fatal:")
    };
    let hint = |l: &&&str| {
        let l = l.to_lowercase();
        CAUSES.iter().any(|words| l.contains(words))
    };
    let found = told.iter().rfind(cause).or_else(|| told.iter().rfind(hint));
    let found = found.or_else(|| told.last()).or_else(|| lines.last());
    let mut words = found.map_or(String::new(), |l| l.trim().to_owned());
    // `thread 'main' panicked at src/main.rs:2:5:` is followed by why.
    if words.ends_with(':')
        && let Some(after) = found.and_then(|l| lines.iter().skip_while(|o| *o != l).nth(1))
    {
        words = format!("{words} {}", after.trim());
    }
    event::message(&words)
}

/// The lines without chatter, usage texts and the places of a stack.
fn told<'t>(lines: &[&'t str]) -> Vec<&'t str> {
    let mut told = Vec::new();
    // A usage text goes on as long as its lines are indented, or are its headings.
    let mut in_usage = false;
    for &line in lines {
        let lower = line.trim().to_lowercase();
        let indented = line.starts_with([' ', '\t']);
        let heading = [
            "options:",
            "commands:",
            "arguments:",
            "flags:",
            "positional arguments:",
        ];
        if lower.starts_with("usage") || heading.contains(&&*lower) {
            in_usage = true;
        } else if !indented {
            in_usage = false;
        }
        let is_place = indented && (lower.starts_with("at ") || lower.starts_with("file \""))
            || lower.bytes().all(|b| b"^~-| {}".contains(&b));
        let is_chatter =
            CHATTER.iter().any(|words| lower.contains(words)) && !lower.contains("error:");
        if !in_usage && !is_place && !is_chatter {
            told.push(line);
        }
    }
    told
}

fn without_colors(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.strip_prefix('m').unwrap_or(rest);
    }
    plain + rest
}
