//! Classifies providers' error messages, by HTTP status and by words. Reads only CLIs' messages about
//! themselves, never what an agent or its tools wrote.
//!
//! Does not know: the clock, any CLI.

use crate::event::{Class, Limit};

/// Bytes of a message that are read: what matters is at the beginning.
const READ_BYTES_MAX: usize = 4 << 10;

/// Phrases and their class, more specific ones first. Lower case, straight apostrophes.
const WORDS: &[(&[&str], Class)] = &[
    (
        &[
            "credit balance",
            "insufficient_quota",
            "insufficient credit",
            "insufficient balance",
            "insufficient funds",
            "out of credits",
            "requires more credits",
            "payment required",
            "billing hard limit",
            "billing_hard_limit",
            "billing_not_active",
            "spending limit",
            "spend limit",
        ],
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
            "monthly limit",
            "billing cycle",
            "billing period",
            "daily quota",
            "quota limit",
            "usage_limit_reached",
            "hit your limit",
            "reached your limit",
            "limits will reset",
            "limit will reset",
            "quota will reset",
            "exhausted your capacity",
            "exhausted your daily",
        ],
        Class::UsageLimit { resets_at: None },
    ),
    // It has a price list, and goes on in a moment.
    (
        &["please retry in", "retrydelay", "retry_delay"],
        Class::RateLimit,
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
    // Whatever it is a limit of: it ends by itself.
    (
        &[
            "access resets",
            "resets at",
            "resets on",
            "will reset",
            "regain access",
            "try again at",
            "quota",
        ],
        Class::UsageLimit { resets_at: None },
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

pub(super) fn normalized(text: &str) -> String {
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
