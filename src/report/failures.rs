//! What a person must look at: parked items, those alike together, each with the evidence that its last
//! attempt left.
//!
//! Invariant: what is read lies in the folder of that session, and is a plain file.

use std::collections::BTreeMap;

use crate::atomic;
use crate::clock;
use crate::layout::Root;
use crate::outcome::Verdict;
use crate::session;
use crate::text;

use super::attempts::{Attempt, clipped};
use super::data::{Data, Item};

/// Groups, items that a group names, and items of a group whose evidence is shown.
const GROUPS_MAX: usize = 100;
pub(super) const NAMES_MAX: usize = 30;
const EXAMPLES_MAX: usize = 2;
/// What is shown of a file: its last lines.
const TAIL_BYTES: u64 = 8 << 10;
const TAIL_LINES: usize = 15;
const LINE_CHARS: usize = 300;
const GATES_MAX: usize = 3;

pub(super) struct Failures<'d> {
    /// Those with most items first.
    pub(super) groups: Vec<Group<'d>>,
    /// Items in groups that are left out.
    pub(super) left_out: usize,
}

/// Parked items with the same outcome and, but for numbers and names, the same reason.
pub(super) struct Group<'d> {
    pub(super) outcome: &'d str,
    pub(super) reason: &'d str,
    /// The newest first.
    pub(super) items: Vec<&'d Item>,
    pub(super) examples: Vec<Example<'d>>,
}

pub(super) struct Example<'d> {
    pub(super) item: &'d Item,
    /// `None`: it never was at work.
    pub(super) attempt: Option<&'d Attempt>,
    /// A title, and lines of text.
    pub(super) evidence: Vec<(String, String)>,
}

pub(super) fn find<'d>(root: &Root, data: &'d Data) -> Failures<'d> {
    let mut alike: BTreeMap<(&str, String), Vec<&Item>> = BTreeMap::new();
    for item in data.items.iter().rev().filter(|i| i.state == "parked") {
        let key = (item.outcome.as_str(), text::class_of(&item.reason));
        alike.entry(key).or_default().push(item);
    }
    let mut all: Vec<Vec<&Item>> = alike.into_values().collect();
    // Stable: of groups of one size those with the same outcome stay together.
    all.sort_by_key(|items| std::cmp::Reverse(items.len()));
    let left_out = all.iter().skip(GROUPS_MAX).map(Vec::len).sum();
    let groups = all.into_iter().take(GROUPS_MAX);
    Failures {
        groups: groups.filter_map(|items| group(root, items)).collect(),
        left_out,
    }
}

fn group<'d>(root: &Root, items: Vec<&'d Item>) -> Option<Group<'d>> {
    let newest = *items.first()?;
    let examples = items.iter().take(EXAMPLES_MAX).map(|&item| {
        let attempt = item.attempts.last();
        Example {
            item,
            attempt,
            evidence: attempt.map(|a| evidence(root, a)).unwrap_or_default(),
        }
    });
    Some(Group {
        outcome: &newest.outcome,
        reason: &newest.reason,
        examples: examples.collect(),
        items,
    })
}

/// What its gates printed where they did not pass, or its last message and the end of what it printed.
fn evidence(root: &Root, attempt: &Attempt) -> Vec<(String, String)> {
    let dir = root.session(&attempt.session);
    // A record is a file: its session may be any text, and the folder anything.
    if clock::made_ms(&attempt.session).is_none() || !atomic::is_own_dir(&dir) {
        return Vec::new();
    }
    let of_gates = gates(root, attempt);
    if !of_gates.is_empty() {
        return of_gates;
    }
    let mut found = Vec::new();
    let file = session::file::read(&dir, &attempt.session);
    if let Some(said) = file.and_then(|file| file.last_message) {
        found.push(("what it said last".to_owned(), shown(&said)));
    }
    for log in ["stderr.log", "stdout.log"] {
        let (end, _) = atomic::read_tail(&dir.join(log), TAIL_BYTES).unwrap_or_default();
        let lines = last_lines(&end);
        // A CLI's standard output is JSON: its last message tells more.
        if !lines.is_empty() && (log == "stderr.log" || found.is_empty()) {
            found.push((format!("the end of {log}"), lines));
        }
    }
    found
}

fn gates(root: &Root, attempt: &Attempt) -> Vec<(String, String)> {
    let passed =
        |verdict: Option<Verdict>| matches!(verdict, Some(Verdict::Green | Verdict::Flaky));
    let failed = attempt
        .gates
        .iter()
        .filter(|ran| !passed(ran.verdict.known()));
    let told = failed.rev().take(GATES_MAX).map(|ran| {
        let printed = session::gates::printed(root, ran, TAIL_BYTES);
        let lines = last_lines(&printed.unwrap_or_default());
        let verdict = ran.verdict.as_str();
        let title = format!("gate {}: {verdict}: {}", ran.gate, ran.reason);
        let tests = ran.tests.iter().take(TAIL_LINES);
        let tests: String = tests.map(|test| format!("failed: {test}\n")).collect();
        (
            clipped(&crate::view::line(&title), LINE_CHARS),
            shown(&tests) + &lines,
        )
    });
    told.collect()
}

/// The last lines of the end of a file, as text.
fn last_lines(end: &[u8]) -> String {
    let text = without_colours(&String::from_utf8_lossy(end));
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let from = lines.len().saturating_sub(TAIL_LINES);
    shown(&lines[from..].join("\n"))
}

/// Text on lines that are not too long, without what acts on a terminal.
fn shown(text: &str) -> String {
    // What a terminal would show of a line that was written over.
    let last = |line: &str| {
        line.rsplit('\r')
            .find(|part| !part.is_empty())
            .map(str::to_owned)
    };
    let lines = text.trim_end().lines().take(TAIL_LINES * 2);
    let lines = lines.map(|line| clipped(&last(line).unwrap_or_default(), LINE_CHARS) + "\n");
    text::page(&lines.collect::<String>()).into_owned()
}

/// Without the sequences by which programs colour what they print.
fn without_colours(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            let _ended = chars.find(|c| ('@'..='~').contains(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_what_else_acts_on_a_terminal_is_spelt_out() {
        let text = "\u{1b}[1;31merror\u{1b}[0m: no\n10%\r20%\r\n\u{1b}]0;title\u{7}\u{1b}[";
        let plain = shown(&without_colours(text));
        assert_eq!(plain, "error: no\n20%\n\\u{1b}]0;title\\u{7}\n");
    }
}
