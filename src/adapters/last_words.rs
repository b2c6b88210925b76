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
    "note that ",
    "for more information about this error",
    "goroutine ",
    "[signal ",
    "this error originated either",
    "npm error code",
    "npm error errno",
    "npm error syscall",
    "npm error path",
    "npm error workspace",
    "npm error location",
    "npm error command",
    "npm err! code",
    "npm err! errno",
    "npm err! syscall",
    "npm err! path",
];
/// What only says that something else, above it, has failed.
const SUMMARIES: &[&str] = &[
    "could not compile",
    "aborting due to",
    "test failed, to rerun",
    "build failed, waiting",
    "exit status",
    "exit code",
    "exited with",
    "] error ",
    "errors generated",
    "error generated",
];
/// What a line has that names the cause.
const CAUSES: &[&str] = &[
    "error:",
    "error ",
    "fatal:",
    "[error]",
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
    // Of a line that was written over, what was seen last.
    let seen = |l: &'_ str| l.trim_end_matches('\r').rfind('\r').map_or(0, |at| at + 1);
    let lines = text.lines().map(|l| &l[seen(l)..]);
    let lines: Vec<&str> = lines.filter(|l| !l.trim().is_empty()).collect();
    let mut told = told(&lines);
    let is_summary = |l: &&str| {
        let l = l.to_lowercase();
        SUMMARIES.iter().any(|words| l.contains(words))
    };
    // Where there is nothing else, they are better than nothing.
    if told.iter().any(|l| !is_summary(l)) {
        told.retain(|l| !is_summary(l));
    }
    // npm begins every line with it.
    let plain = |l: &str| {
        let l = l.trim().to_lowercase();
        let rest = l.strip_prefix("npm error").or(l.strip_prefix("npm err!"));
        rest.map(str::to_owned).unwrap_or(l)
    };
    let cause = |l: &&&str| {
        let l = plain(l);
        l.starts_with("error")
            || ["error:", "error[", "panic:", "caused by:"]
                .iter()
                .any(|words| l.contains(words))
            || l.starts_with("fatal:")
    };
    let hint = |l: &&&str| {
        let l = plain(l);
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
    // A traceback's lines of code are indented, too.
    let mut in_traceback = false;
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
        in_traceback = lower.starts_with("traceback (most") || in_traceback && indented;
        let is_frame = lower.split_once(": ").is_some_and(|(n, _)| is_number(n));
        let is_place = indented && (lower.starts_with("at ") || lower.starts_with("file \"") || is_frame)
            || lower.bytes().all(|b| b"^~-| {}".contains(&b))
            || lower.starts_with("throw ")
            || lower.starts_with("--> ")
            || is_progress(&lower)
            // `set -x`
            || line.starts_with("+ ") || line.starts_with("++ ")
            || lower.starts_with("==");
        let is_chatter =
            CHATTER.iter().any(|words| lower.contains(words)) && !lower.contains("error:");
        if !in_usage && !in_traceback && !is_place && !is_chatter {
            told.push(line);
        }
    }
    told
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `[=====>    ] 45%`, `████░░ 3/10`.
fn is_progress(line: &str) -> bool {
    let is_bar =
        line.contains(['█', '░', '▏', '▓', '━']) || line.contains("==>") || line.contains("###");
    is_bar || line.ends_with('%') && !line.contains(": ")
}

/// The text without what a terminal obeys: colors, moves, titles.
fn without_colors(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = match after.strip_prefix('[') {
            Some(sequence) => {
                let sequence = sequence.trim_start_matches(|c: char| (' '..='?').contains(&c));
                sequence
                    .strip_prefix(|c: char| ('@'..='~').contains(&c))
                    .unwrap_or(sequence)
            }
            None if after.starts_with(']') => {
                let end = after.find(['\u{7}', '\u{1b}', '\n']).unwrap_or(after.len());
                after[end..].trim_start_matches('\u{7}')
            }
            None => after.trim_start_matches('\\'),
        };
    }
    plain + rest
}
