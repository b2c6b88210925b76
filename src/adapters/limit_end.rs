//! When the limit that a provider's message speaks of ends: `resets Dec 3 at 1am (Asia/Tokyo)`,
//! `try again in 5 days 3 hours`, `resets_at": 1777936568`. Everything counts from when it was said.
//!
//! A time of which a part is not understood (its date, its zone) is no time at all: what is left of
//! it would be too early.
//!
//! Does not know: the clock, any CLI, whether the message is about a limit.

mod expression;
mod parts;
mod zone;

use jiff::Zoned;

use expression::{Expression, Reading};

/// What a message says of the end of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitEnd {
    /// Nothing.
    Unsaid,
    /// Something that is not understood.
    Unclear,
    /// Unix seconds.
    At(i64),
}

/// What a message says before the end of a limit. Parts of words: `reset` is in `resets_at`.
const ENDS: &[&str] = &[
    "reset",
    "until",
    "available again",
    "available at",
    "available on",
    "available in",
    "available after",
    "next available",
    "access on",
    "access at",
    "access in",
    "access again",
    "renew",
    "replenish",
    "refresh",
    "reached|",
    "resume",
    "restored",
    "lifted",
];
/// What it says before the next try, which may come before the end.
const TRIES: &[&str] = &["again", "retry", "wait", "come back"];
/// A word that goes on like this is another one: `retrying`, `against`, `waitlist`.
const OTHER_WORDS: &[&str] = &[
    "ing", "ies", "ied", "st ", "list", "_token", " token", " limit", " attempt", " count",
    "_count", " #",
];
/// What promises a time even where none is found.
const PROMISES: &[&str] = &[
    "reset",
    "again at",
    "again on",
    "again in",
    "again after",
    "retry after",
    "retry in",
    "available again",
    "available at",
    "available in",
    "access on",
    "renew",
    "until",
];
/// No promise: `try again in a few moments`.
const SOON: &[&str] = &[
    "moment",
    "few seconds",
    "shortly",
    "a while",
    "some time",
    "a bit",
];

/// When the limit in a message ends. `said`: when the message came, in the CLI's time zone.
pub fn limit_end(text: &str, said: &Zoned) -> LimitEnd {
    let (text, _) = crate::event::clip(text, super::error_text::READ_BYTES_MAX);
    let text = text.replace('\u{2019}', "'").replace('\u{2212}', "-");
    // As long as the text itself.
    let lower = text.to_ascii_lowercase();
    let of_end = readings(&text, &lower, ENDS, said);
    // A number of seconds since 1970 leaves nothing to understand.
    if let Some((_, at)) = of_end.iter().find(|(exact, at)| *exact && at.is_some()) {
        return at.map_or(LimitEnd::Unclear, LimitEnd::At);
    }
    if let Some((_, at)) = of_end.first() {
        return at.map_or(LimitEnd::Unclear, LimitEnd::At);
    }
    let of_try = readings(&text, &lower, TRIES, said);
    let is_soon = SOON.iter().any(|words| lower.contains(words)) && !lower.contains("reset");
    let promised = !is_soon && PROMISES.iter().any(|words| lower.contains(words));
    let understood = of_try.iter().find_map(|(_, at)| *at);
    match (of_try.first(), understood) {
        (Some((_, None)), _) if promised => LimitEnd::Unclear,
        (_, Some(at)) => LimitEnd::At(at),
        (_, None) if promised => LimitEnd::Unclear,
        (_, None) => LimitEnd::Unsaid,
    }
}

/// What stands after each of these words: whether it is an instant, and which; `None`: a time of
/// which a part is not understood.
fn readings(text: &str, lower: &str, stems: &[&str], said: &Zoned) -> Vec<(bool, Option<i64>)> {
    let mut places: Vec<usize> = stems
        .iter()
        .flat_map(|stem| lower.match_indices(stem).map(|(at, stem)| at + stem.len()))
        .filter(|at| !OTHER_WORDS.iter().any(|end| lower[*at..].starts_with(end)))
        .collect();
    places.sort_unstable();
    let read = places.into_iter().filter_map(|at| {
        match Expression::read(&parts::words(text.get(at..)?)) {
            Reading::Nothing => None,
            Reading::Unclear => Some((false, None)),
            Reading::Found(time) => Some((time.is_exact(), time.end(said))),
        }
    });
    read.collect()
}
