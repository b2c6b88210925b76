//! Classifies providers' error messages, by HTTP status and by words. Reads only CLIs' messages about
//! themselves, never what an agent or its tools wrote.
//!
//! Does not know: the clock, any CLI.

use crate::event::{Class, Limit};

/// Bytes of a message that are read: what matters is at the beginning.
pub(super) const READ_BYTES_MAX: usize = 4 << 10;

/// Phrases and their class, more specific ones first. Lower case, straight apostrophes; with `&` all
/// parts must be there.
const WORDS: &[(&[&str], Class)] = &[
    // Written beside another limit's name, to say that it is not that.
    (&["not your usage limit"], Class::RateLimit),
    // Money that comes again by itself is a limit.
    (
        &[
            "spend limit&reset",
            "spending limit&reset",
            "extra usage&reset",
        ],
        Class::UsageLimit { resets_at: None },
    ),
    (
        &[
            "credit balance",
            "insufficient_quota",
            "insufficient credit",
            "insufficient_credit",
            "insufficient balance",
            "insufficient_balance",
            "insufficient funds",
            "out of credit",
            "no credits",
            "credits exhausted",
            "exhausted your credits",
            "requires more credits",
            "requires at least",
            "payment required",
            "payment method",
            "billing hard limit",
            "billing_hard_limit",
            "billing_not_active",
            "billing_error",
            "billing is disabled",
            "billing account",
            "enable billing",
            "requires billing",
            "spending limit",
            "spend limit",
            "key limit exceeded",
            "budget has been exceeded",
            "exceededbudget",
            "arrearage",
            "overdue",
            "good standing",
            "extra usage is required",
            "requires extra usage",
            "to use codex with your chatgpt plan",
            // The plan has none of this model at all.
            "free_tier&limit: 0,",
        ],
        Class::Billing,
    ),
    // What a model can read, and what is asked at once, has limits of its own.
    (
        &[
            "prompt is too long",
            "input is too long",
            "conversation is too long",
            "context window",
            "context_length_exceeded",
            "context length",
            "context limit",
            "context size",
            "exceeds the context",
            "exceed context",
            "token limit reached",
            "maximum number of tokens",
            "maximum prompt length",
            "reduce the length",
            "ran out of room",
            "exceeds the maximum size",
            "request too large",
            "request_too_large",
            "entity too large",
            "contextoverflow",
        ],
        Class::Context,
    ),
    (
        &[
            "perday",
            "per day",
            "per_day",
            "per-day",
            "usage limit",
            "usage_limit",
            "usagelimit",
            "usage quota",
            "usage cap",
            "free usage exceeded",
            "out of extra usage",
            "session limit",
            "-hour limit",
            "hour limit reached",
            "weekly limit",
            "daily limit",
            "monthly limit",
            "message limit",
            "billing cycle",
            "billing period",
            "daily quota",
            "weekly quota",
            "monthly quota",
            "hour quota",
            "quota limit",
            "quota_exhausted",
            "individual quota",
            "allocated quota",
            "hit your&limit",
            "reached your&limit",
            "limits will reset",
            "limit will reset",
            "quota will reset",
            "exhausted your capacity",
            "exhausted your daily",
            "exhausted your&quota",
        ],
        Class::UsageLimit { resets_at: None },
    ),
    // It has a price list, and goes on in a moment.
    (
        &[
            "please retry in",
            "retrydelay",
            "retry_delay",
            "per minute",
            "perminute",
            "per_minute",
            "per min",
            "per second",
            "rate limit reached",
            "rate limit exceeded",
            "rate_limit_exceeded",
            "too many tokens, please wait",
            "temporarily rate-limited",
        ],
        Class::RateLimit,
    ),
    // Of Google, whose quotas come again. OpenAI says the same of money.
    (
        &[
            "quota metric",
            "quota exceeded for metric",
            "ratelimitexceeded",
            "ai.google.dev",
            "ai.dev/rate-limit",
            "free_tier",
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
            "max turns",
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
            "no conversation found",
            "no conversation with id",
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
            "rate-limit",
            "ratelimit",
            "resource_exhausted",
            "resource has been exhausted",
            "throttl",
        ],
        Class::RateLimit,
    ),
    // Before the logins: a model that does not exist is often said to be out of reach.
    (
        &[
            "selected model (",
            "model not found",
            "model_not_found",
            "modelnotfound",
            "unknown model",
            "invalid model",
            "unsupported model",
            "no such model",
            "not a valid model",
            "model is not supported",
            "model does not exist",
            "models/&is not found",
            "model&does not exist",
            "model&no longer available",
            "no endpoints found",
            "does not exist or you do not have access",
            "requested entity was not found",
            "no-such-model",
            "unknown option",
            "unknown argument",
            "unexpected argument",
            "unrecognized argument",
            "invalid value",
            "error loading config",
            "error parsing config",
        ],
        Class::Spawn,
    ),
    (
        &[
            "unauthorized",
            "unauthenticated",
            "not authenticated",
            "invalid api key",
            "invalid_api_key",
            "invalid x-api-key",
            "incorrect api key",
            "api key not valid",
            "api_key_invalid",
            "api key expired",
            "api key is missing",
            "missing api key",
            "no api key",
            "api key required",
            "invalid authentication",
            "invalid_grant",
            "invalid bearer",
            "token has expired",
            "token is expired",
            "token expired",
            "token has been invalidated",
            "token was revoked",
            "token has been revoked",
            "refresh token",
            "refresh_token",
            "token refresh",
            "not logged in",
            "run /login",
            "log in again",
            "sign in again",
            "please log in",
            "please login",
            "please sign in",
            "login required",
            "forbidden",
            "access denied",
            "permission_denied",
            "permission_error",
            "insufficient permissions",
            "has been disabled",
            "does not have access",
            "not supported&region",
            "location is not supported",
            "api_key environment variable",
            "missing environment variable&key",
            "set an auth method",
            "authentication",
            "credentials",
        ],
        Class::Auth,
    ),
    (
        &[
            "overloaded",
            "at capacity",
            "no capacity",
            "capacity issue",
            "capacity constraints",
            "high demand",
            "high load",
            "internal server error",
            "internal error encountered",
            "server had an error",
            "server_error",
            "service unavailable",
            "temporarily unavailable",
            "currently unavailable",
            "bad gateway",
            "gateway timeout",
            "gateway time-out",
            "deadline_exceeded",
            "deadline expired",
            "server-side issue",
            "upstream",
        ],
        Class::Overloaded,
    ),
    (
        &[
            "stream disconnected",
            "error sending request",
            "stream ended",
            "stream closed",
            "connection",
            "connecting",
            "connect error",
            "econn",
            "enotfound",
            "enetunreach",
            "ehostunreach",
            "epipe",
            "eai_again",
            "etimedout",
            "timed out",
            "timeout",
            "fetch failed",
            "socket hang up",
            "other side closed",
            "premature close",
            "unable to connect",
            "dns",
            "getaddrinfo",
            "certificate",
            "tls handshake",
            "ssl",
            "network",
        ],
        Class::Network,
    ),
    (
        &[
            "safeguards flagged",
            "violate our usage policy",
            "usage policy",
            "usage policies",
            "content filter",
            "content_filter",
            "content policy",
            "content_policy",
            "blocked by safety",
            "safety reasons",
            "prohibited_content",
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
            "resets in",
            "will reset",
            "regain access",
            "try again at",
            "limit reached",
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
        .find(|(phrases, _)| {
            phrases
                .iter()
                .any(|p| p.split('&').all(|w| text.contains(w)))
        })
        .map(|(_, class)| *class);
    by_words.or_else(|| status_class(quoted_status(&text)?))
}

/// The class of an HTTP status alone.
pub(super) fn status_class(status: u16) -> Option<Class> {
    match status {
        401 | 403 => Some(Class::Auth),
        402 => Some(Class::Billing),
        404 => Some(Class::Spawn),
        408 | 499 => Some(Class::Network),
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

/// A number that the message calls a status or error: `last status: 429`, `api error: 529`, `request
/// rejected (429)`, `400 {"type":"error"}`.
fn quoted_status(text: &str) -> Option<u16> {
    let number = |rest: &str| {
        let rest = rest.trim_start_matches([':', ' ', '(', '=', '"', '\\', '[']);
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let status = rest.get(..digits)?.parse().ok()?;
        (400..600).contains(&status).then_some(status)
    };
    let marked = ["status", "error", "code", "rejected", "failed", "http"]
        .iter()
        .find_map(|mark| {
            let mut places = text.match_indices(mark);
            places.find_map(|(at, _)| number(text.get(at + mark.len()..)?))
        });
    let begins = text
        .get(3..)
        .is_some_and(|rest| rest.starts_with([' ', ':']));
    marked.or_else(|| number(text).filter(|_| begins))
}
