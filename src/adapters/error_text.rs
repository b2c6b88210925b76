//! Classifies providers' error messages, by HTTP status and by words, and finds when a limit ends,
//! if the message says so. Reads only CLIs' messages about themselves, never what an agent or its
//! tools wrote.
//!
//! Does not know: the clock (the caller says when the message came), any CLI.

use jiff::civil::Time;
use jiff::{SignedDuration, ToSpan, Zoned, tz::TimeZone};

use crate::event::{Class, Limit};

/// Bytes of a message that are read: what matters is at the beginning.
const READ_BYTES_MAX: usize = 4 << 10;

/// Phrases and their class, more specific ones first. Lower case, straight apostrophes.
const WORDS: &[(&[&str], Class)] = &[
    (
        &["credit balance", "insufficient_quota", "payment required"],
        Class::Billing,
    ),
    (
        &[
            "perday",
            "usage limit",
            "session limit",
            "-hour limit",
            "weekly limit",
            "daily limit",
            "daily quota",
            "usage_limit_reached",
        ],
        Class::UsageLimit { resets_at: None },
    ),
    (
        &["quota exceeded", "exceeded your current quota", "billing"],
        Class::Billing,
    ),
    (
        &[
            "maximum number of turns",
            "max session turns",
            "maxsessionturns",
        ],
        Class::LimitsReached {
            limit: Limit::Turns,
        },
    ),
    (
        &["maximum budget"],
        Class::LimitsReached {
            limit: Limit::Budget,
        },
    ),
    (
        &["output token maximum", "max_output_tokens"],
        Class::LimitsReached {
            limit: Limit::MaxTokens,
        },
    ),
    (
        &[
            "prompt is too long",
            "context window",
            "context_length_exceeded",
            "maximum context length",
            "ran out of room",
            "exceeds the maximum size",
            "contextoverflow",
        ],
        Class::Context,
    ),
    (
        &[
            "no conversation found",
            "session not found",
            "no rollout found",
            "thread not found",
            "is already in use",
            "invalid session identifier",
            "no previous sessions",
            "no saved session",
        ],
        Class::SessionLost,
    ),
    (
        &[
            "too many requests",
            "rate limit",
            "rate_limit",
            "resource_exhausted",
            "resource has been exhausted",
        ],
        Class::RateLimit,
    ),
    (
        &[
            "unauthorized",
            "unauthenticated",
            "invalid api key",
            "invalid x-api-key",
            "incorrect api key",
            "api key not valid",
            "api_key_invalid",
            "not logged in",
            "run /login",
            "log in again",
            "forbidden",
            "api_key environment variable",
            "authentication",
        ],
        Class::Auth,
    ),
    (
        &[
            "selected model (",
            "model not found",
            "model_not_found",
            "does not exist or you do not have access",
            "no-such-model",
            "unknown option",
            "unknown argument",
            "unexpected argument",
        ],
        Class::Spawn,
    ),
    (
        &[
            "overloaded",
            "at capacity",
            "high demand",
            "internal server error",
            "service unavailable",
            "bad gateway",
            "server-side issue",
        ],
        Class::Overloaded,
    ),
    (
        &[
            "stream disconnected",
            "error sending request",
            "stream ended",
            "connection",
            "econn",
            "enotfound",
            "eai_again",
            "etimedout",
            "timed out",
            "fetch failed",
            "socket hang up",
            "unable to connect",
            "network",
        ],
        Class::Network,
    ),
    (
        &[
            "safeguards flagged",
            "violate our usage policy",
            "usage policy",
            "content filter",
            "blocked by safety",
            "refused to",
        ],
        Class::Refusal,
    ),
];

/// The class of a message, by its words and the HTTP status it quotes.
pub(super) fn class(text: &str) -> Option<Class> {
    let text = normalized(text);
    let by_words = WORDS
        .iter()
        .find(|(words, _)| words.iter().any(|w| text.contains(w)))
        .map(|(_, class)| *class);
    by_words.or_else(|| status_class(quoted_status(&text)?))
}

/// The class of an HTTP status alone.
pub(super) fn status_class(status: u16) -> Option<Class> {
    match status {
        401 | 403 => Some(Class::Auth),
        402 => Some(Class::Billing),
        404 => Some(Class::Spawn),
        408 => Some(Class::Network),
        413 => Some(Class::Context),
        429 => Some(Class::RateLimit),
        500..=599 => Some(Class::Overloaded),
        _ => None,
    }
}

fn normalized(text: &str) -> String {
    let (text, _) = crate::event::clip(text, READ_BYTES_MAX);
    text.to_lowercase().replace('\u{2019}', "'")
}

/// A number that the message calls a status or error: `last status: 429`, `api error: 529`.
fn quoted_status(text: &str) -> Option<u16> {
    ["status", "error", "code\""].iter().find_map(|mark| {
        text.match_indices(mark).find_map(|(at, _)| {
            let rest = text.get(at + mark.len()..)?;
            let rest = rest.trim_start_matches([':', ' ', '(', '=']);
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let status = rest.get(..digits)?.parse().ok()?;
            (400..600).contains(&status).then_some(status)
        })
    })
}

/// When the limit in a message ends, in unix seconds: `try again at 3:25 AM`, `resets 3am (UTC)`,
/// `try again in 5 days 3 hours`, `... in 20s`. `came`: when the message came, in the CLI's time
/// zone; a time of day means its next occurrence.
pub fn reset_after(text: &str, came: &Zoned) -> Option<i64> {
    let text = normalized(text);
    let mark = [
        "try again at ",
        "resets at ",
        "resets ",
        "try again in ",
        "retry in ",
        "retry after ",
    ]
    .into_iter()
    .find_map(|m| text.find(m).map(|at| (m, at + m.len())));
    let (mark, at) = mark?;
    let rest = text.get(at..)?;
    if mark.ends_with("in ") || mark.ends_with("after ") || rest.starts_with("in ") {
        let wait = duration(rest.trim_start_matches("in "))?;
        return came
            .checked_add(wait)
            .ok()
            .map(|z| z.timestamp().as_second());
    }
    let came = if rest.contains("utc") {
        came.with_time_zone(TimeZone::UTC)
    } else {
        came.clone()
    };
    let time = time_of_day(rest)?;
    let mut then = came
        .date()
        .to_datetime(time)
        .to_zoned(came.time_zone().clone())
        .ok()?;
    if then <= came {
        then = then.checked_add(1.day()).ok()?;
    }
    // A date in the message (`nov 25th, 2026`) wins over the next such time of day.
    if let Some(date) = date(rest) {
        then = date
            .to_datetime(time)
            .to_zoned(came.time_zone().clone())
            .ok()?;
    }
    Some(then.timestamp().as_second())
}

/// The first `3:25 am`, `3am` or `15:25` in a text.
fn time_of_day(text: &str) -> Option<Time> {
    let words: Vec<&str> = text
        .split([' ', ',', '(', ')'])
        .filter(|w| !w.is_empty())
        .collect();
    words.iter().enumerate().find_map(|(i, word)| {
        let word = word.trim_end_matches(['.', ';']);
        let (digits, half) = match word.find(|c: char| c.is_ascii_alphabetic()) {
            Some(n) => word.split_at(n),
            None => {
                let next = words
                    .get(i + 1)
                    .map_or("", |w| w.trim_end_matches(['.', ';']));
                (
                    word,
                    if next == "am" || next == "pm" {
                        next
                    } else {
                        ""
                    },
                )
            }
        };
        if !(matches!(half, "am" | "pm") || half.is_empty() && digits.contains(':')) {
            return None;
        }
        let (hour, minute) = digits.split_once(':').unwrap_or((digits, "0"));
        let (mut hour, minute): (i8, i8) = (hour.parse().ok()?, minute.parse().ok()?);
        if !half.is_empty() && !(1..=12).contains(&hour) {
            return None;
        }
        match half {
            "pm" if hour < 12 => hour += 12,
            "am" if hour == 12 => hour = 0,
            _ => {}
        }
        Time::new(hour, minute, 0, 0).ok()
    })
}

/// `nov 25th, 2026`
fn date(text: &str) -> Option<jiff::civil::Date> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let mut words = text.split([' ', ',']).filter(|w| !w.is_empty());
    let month = MONTHS.iter().position(|m| text.starts_with(m))?;
    words.next()?;
    let day = words
        .next()?
        .trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let year = words.next()?.parse().ok()?;
    let month = i8::try_from(month + 1).ok()?;
    jiff::civil::Date::new(year, month, day.parse().ok()?).ok()
}

/// `20s`, `1.5s`, `5 days 3 hours 2 minutes`.
fn duration(text: &str) -> Option<SignedDuration> {
    let mut seconds = 0.0;
    let mut rest = text.trim_start();
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..end)?.trim_end_matches('.').parse().ok()?;
        let unit = rest.get(end..)?.trim_start();
        let length = unit
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(unit.len());
        seconds += number
            * match unit.get(..length)? {
                "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
                "ms" => 0.001,
                "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
                "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
                "d" | "day" | "days" => 86_400.0,
                _ => break,
            };
        rest = unit.get(length..)?.trim_start_matches([' ', ',']);
    }
    (seconds > 0.0 && seconds < 366.0 * 86_400.0)
        .then(|| SignedDuration::from_secs_f64(f64::ceil(seconds)))
}
