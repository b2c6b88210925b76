//! What error messages mean: their class, and when a limit ends.

use jiff::{Timestamp, tz::TimeZone};
use proptest::strategy::Strategy;

use crate::adapters::{LimitEnd, error_text, limit_end};
use crate::event::{Class, Limit, Mend};

#[test]
fn messages_tell_their_class() {
    let turns = Class::LimitsReached {
        limit: Limit::Turns,
    };
    let limit = Class::UsageLimit { resets_at: None };
    for (text, class) in [
        (
            "unexpected status 401 Unauthorized: Incorrect API key",
            Class::Auth,
        ),
        ("API Error: 529 something", Class::Overloaded),
        ("[API Error: 403 no]", Class::Auth),
        (
            "exceeded retry limit, last status: 429 Too Many Requests",
            Class::RateLimit,
        ),
        (
            "You\u{2019}ve hit your usage limit. Visit https://x/usage to purchase more",
            limit,
        ),
        ("You've hit your weekly limit \u{b7} resets 3am", limit),
        (
            "Quota exceeded. Check your plan and billing details.",
            Class::Billing,
        ),
        ("Your credit balance is too low", Class::Billing),
        ("Reached maximum number of turns (2)", turns),
        (
            "No conversation found with session ID: x",
            Class::SessionLost,
        ),
        ("Error: Session ID x is already in use.", Class::SessionLost),
        (
            "You've hit your limit · resets Dec 3 at 1am (Asia/Tokyo)",
            limit,
        ),
        (
            "You've hit your session limit · resets 8:30pm (Asia/Tokyo)",
            limit,
        ),
        (
            "You’ve hit your limit for Claude messages. Limits will reset at 9:30 AM.",
            limit,
        ),
        ("5-hour limit reached ∙ resets 3pm", limit),
        ("Claude AI usage limit reached|1749924000", limit),
        (
            "You have exhausted your capacity on this model. Your quota will reset after 8h44m7s.",
            limit,
        ),
        (
            "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
            limit,
        ),
        (
            "You have reached your daily gemini-2.5-pro quota limit.",
            limit,
        ),
        (
            "You exceeded your current quota, please check your plan and billing details. quotaId: GenerateRequestsPerDayPerProjectPerModel-FreeTier",
            limit,
        ),
        (
            "You exceeded your current quota, please check your plan and billing details. Please retry in 44.2s.",
            Class::RateLimit,
        ),
        (
            "This request would exceed your account's rate limit. Please try again later.",
            Class::RateLimit,
        ),
        (
            "Resource has been exhausted (e.g. check quota).",
            Class::RateLimit,
        ),
        (
            "You exceeded your current quota, please check your plan and billing details.",
            Class::Billing,
        ),
        ("Error code: 429 - insufficient_quota", Class::Billing),
        (
            "This request requires more credits, or fewer max_tokens.",
            Class::Billing,
        ),
        ("Billing hard limit has been reached", Class::Billing),
        ("Insufficient balance", Class::Billing),
        ("getaddrinfo ENOTFOUND api.example.com", Class::Network),
    ] {
        assert_eq!(error_text::class(text), Some(class), "{text}");
    }
    assert_eq!(error_text::class("I wrote 429 lines"), None);
    assert_eq!(limit.mend(), Mend::Wait(None));
}

/// The end of the limit in a text that was said on Monday 2026-11-23 at 02:25:00 in UTC.
fn end(text: &str, zone: &TimeZone) -> Result<String, LimitEnd> {
    let said = "2026-11-23T02:25:00Z".parse::<Timestamp>().unwrap();
    match limit_end(text, &said.to_zoned(zone.clone())) {
        LimitEnd::At(at) => Ok(Timestamp::from_second(at).unwrap().to_string()),
        none => Err(none),
    }
}

#[test]
fn messages_tell_when_a_limit_ends() {
    for (text, then) in [
        // Times of day.
        ("try again at 3:25 AM.", "2026-11-23T03:25:00Z"),
        ("or try again at 12:10 PM.", "2026-11-23T12:10:00Z"),
        ("try again at 12:10 am", "2026-11-24T00:10:00Z"),
        ("try again at 12:10 a.m.", "2026-11-24T00:10:00Z"),
        ("resets 2am", "2026-11-24T02:00:00Z"),
        (
            "Limits will reset at 9:30 AM.  View your usage details.",
            "2026-11-23T09:30:00Z",
        ),
        ("resets at 15:04", "2026-11-23T15:04:00Z"),
        ("Your limit resets at noon", "2026-11-23T12:00:00Z"),
        ("resets tomorrow at 9am", "2026-11-24T09:00:00Z"),
        // It has only just passed: the limit is over, and not a day long.
        ("resets 2:24am", "2026-11-23T02:24:00Z"),
        // Zones.
        (
            "You've hit your limit · resets 3:22am (UTC)",
            "2026-11-23T03:22:00Z",
        ),
        ("resets 1:30pm (Etc/GMT+5)", "2026-11-23T18:30:00Z"),
        (
            "Usage limit reached for gemini-3-flash-preview. Access resets at 10:57 PM GMT-3.",
            "2026-11-24T01:57:00Z",
        ),
        ("resets at 9 PM UTC+05:30", "2026-11-23T15:30:00Z"),
        ("resets 7pm PST", "2026-11-23T03:00:00Z"),
        ("resets at 2026-11-23 12:00 +09:00", "2026-11-23T03:00:00Z"),
        // Dates.
        (
            "try again at Nov 25th, 2026 8:21 AM.",
            "2026-11-25T08:21:00Z",
        ),
        (
            "or try again at Aug 20, 2027, 7:38 AM",
            "2027-08-20T07:38:00Z",
        ),
        ("resets Dec 3 at 1am", "2026-12-03T01:00:00Z"),
        ("resets Dec 3, 1am", "2026-12-03T01:00:00Z"),
        (
            "resets December 3rd at 1:00 am (UTC)",
            "2026-12-03T01:00:00Z",
        ),
        ("resets Jan 2 at 4pm", "2027-01-02T16:00:00Z"),
        ("resets 3 Dec 2026 13:00", "2026-12-03T13:00:00Z"),
        (
            "or try again at 10 de dec. de 2026, 11:52.",
            "2026-12-10T11:52:00Z",
        ),
        (
            "You will regain access on 2026-12-01 at 00:00 UTC.",
            "2026-12-01T00:00:00Z",
        ),
        ("resets at 2026-12-03T01:00:00Z", "2026-12-03T01:00:00Z"),
        (
            "resets at 2026-12-03T01:00:00+09:00",
            "2026-12-02T16:00:00Z",
        ),
        ("resets on Dec 3", "2026-12-03T00:00:00Z"),
        // Weekdays.
        ("resets Thursday at 9:00 AM", "2026-11-26T09:00:00Z"),
        ("resets Mon 3am", "2026-11-23T03:00:00Z"),
        ("resets Mon, 1am", "2026-11-30T01:00:00Z"),
        (
            "Your weekly limit will reset on Friday.",
            "2026-11-27T00:00:00Z",
        ),
        // Durations.
        ("Please try again in 20s.", "2026-11-23T02:25:20Z"),
        ("Please retry in 44.2s", "2026-11-23T02:25:45Z"),
        (
            "Your quota will reset after 8h44m7s.",
            "2026-11-23T11:09:07Z",
        ),
        (
            "Please try again in 8m44.7s. Visit https://x/y",
            "2026-11-23T02:33:45Z",
        ),
        (
            "Try again in 1 day 2 hours 3 minutes.",
            "2026-11-24T04:28:00Z",
        ),
        (
            "or try again in 5 days 22 hours 11\nminutes.",
            "2026-11-29T00:36:00Z",
        ),
        ("try again in 1 hour and 20 minutes", "2026-11-23T03:45:00Z"),
        ("try again in an hour", "2026-11-23T03:25:00Z"),
        ("resets in 2 weeks", "2026-12-07T02:25:00Z"),
        ("please wait 10 minutes", "2026-11-23T02:35:00Z"),
        ("429, retry-after: 120", "2026-11-23T02:27:00Z"),
        ("\"retryDelay\": \"44s\"", "2026-11-23T02:25:44Z"),
        (
            "exceeded retry limit, last status: 429; try again in 20s",
            "2026-11-23T02:25:20Z",
        ),
        // Numbers of seconds and milliseconds.
        (
            "Claude AI usage limit reached|1795449600",
            "2026-11-23T16:00:00Z",
        ),
        (
            "{\"type\":\"usage_limit_reached\",\"plan_type\":\"plus\",\"resets_at\":1795449600,\"eligible_promo\":null,\"resets_in_seconds\":13872}",
            "2026-11-23T16:00:00Z",
        ),
        ("{\"resets_in_seconds\":13872}", "2026-11-23T06:16:12Z"),
        ("resetsAt: 1795449600000", "2026-11-23T16:00:00Z"),
    ] {
        assert_eq!(end(text, &TimeZone::UTC).as_deref(), Ok(then), "{text}");
    }
}

#[test]
fn what_is_not_understood_of_a_limits_end_is_known_as_such() {
    for text in [
        "resets",
        "resets soon",
        "resets 25am",
        "resets at the start of your next billing cycle",
        "try again in 9e99s",
        "or wait for limits to reset (every 5h and every week.)",
        "resets 3am (Mars/Olympus)",
        "try again at Smarch 13, 1 PM",
    ] {
        assert_eq!(end(text, &TimeZone::UTC), Err(LimitEnd::Unclear), "{text}");
    }
    for text in [
        "try again later",
        "Too many requests",
        "at 3 AM",
        "exceeded retry limit, last status: 429 Too Many Requests",
        "This request would exceed your account's rate limit. Please try again later.",
    ] {
        assert_eq!(end(text, &TimeZone::UTC), Err(LimitEnd::Unsaid), "{text}");
    }
}

#[test]
fn a_time_without_a_zone_is_in_the_clis_and_one_with_a_zone_is_not() {
    let Ok(there) = TimeZone::get("America/New_York") else {
        return;
    };
    // It is Sunday, 21:25 there.
    let is = |text: &str, then: &str| assert_eq!(end(text, &there).as_deref(), Ok(then), "{text}");
    is("resets 3am", "2026-11-23T08:00:00Z");
    is("resets 3am (UTC)", "2026-11-23T03:00:00Z");
    is("resets tomorrow at 9am", "2026-11-23T14:00:00Z");
    is("resets Dec 3 at 1am (Asia/Tokyo)", "2026-12-02T16:00:00Z");
    is("resets 8:30pm (Asia/Tokyo)", "2026-11-23T11:30:00Z");
    is(
        "Weekly limit reached · resets 10am (Asia/Seoul) · /upgrade to Max or turn on /extra-usage",
        "2026-11-24T01:00:00Z",
    );
}

#[test]
fn the_last_words_are_the_line_with_the_cause() {
    for (stderr, cause) in [
        (
            "error: unexpected argument '--full-auto' found\n\n  tip: to pass it as a value, use '-- --full-auto'\n\nUsage: codex exec [OPTIONS] [PROMPT]\n\nFor more information, try '--help'.\n",
            "error: unexpected argument '--full-auto' found",
        ),
        (
            "usage: x [-h] [--foo]\n         [--bar]\nx: error: unrecognized arguments: --baz\n",
            "x: error: unrecognized arguments: --baz",
        ),
        (
            "flag provided but not defined: -x\nUsage of prog:\n  -a string\n    \tan error: text (default \"b\")\n",
            "flag provided but not defined: -x",
        ),
        (
            "x: invalid option -- 'z'\nUsage: x [-a]\nTry 'x --help' for more information.\n",
            "x: invalid option -- 'z'",
        ),
        (
            "Reading prompt from stdin...\nReading additional input from stdin...\n",
            "Reading additional input from stdin...",
        ),
        (
            "the disk is full\nReading additional input from stdin...\n",
            "the disk is full",
        ),
        (
            "Traceback (most recent call last):\n  File \"x.py\", line 1, in <module>\n    raise ValueError(\"bad\")\nValueError: bad\n",
            "ValueError: bad",
        ),
        (
            "node:internal/modules/cjs/loader:1228\n  throw err;\n  ^\n\nError: Cannot find module 'x'\nRequire stack:\n- /a/b.js\n    at Module._resolve (node:internal:1:2)\n    at f (/a/b.js:1:1) {\n  code: 'MODULE_NOT_FOUND'\n}\n\nNode.js v20.1.0\n",
            "Error: Cannot find module 'x'",
        ),
        (
            "thread 'main' panicked at src/main.rs:2:5:\nindex out of bounds\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n",
            "thread 'main' panicked at src/main.rs:2:5: index out of bounds",
        ),
        (
            "fatal: not a git repository (or any of the parent directories): .git\n",
            "fatal: not a git repository (or any of the parent directories): .git",
        ),
        ("sh: 1: frob: not found\n", "sh: 1: frob: not found"),
        (
            "\u{1b}[31merror: red\u{1b}[0m\nwarning: 1 deprecation\n",
            "error: red",
        ),
        (
            "   at x\n  cause: {\n    message: 'Resource has been exhausted (e.g. check quota).',\n    details: [ [Object] ]\n  },\n  status: 429\n}\n",
            "message: 'Resource has been exhausted (e.g. check quota).',",
        ),
        (
            "When using Gemini API, you must specify the GEMINI_API_KEY environment variable.\nUpdate your environment and try again!\n",
            "When using Gemini API, you must specify the GEMINI_API_KEY environment variable.",
        ),
        ("one\ntwo\n", "two"),
        ("", ""),
    ] {
        assert_eq!(
            crate::adapters::last_words(stderr.as_bytes()),
            cause,
            "{stderr}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_a_limits_end_panic(
        words in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::sample::select(vec![
                    "resets", "at", "in", "try again", "3am", "25:99", "Dec", "31", "Feb", "30th", "2026",
                    "monday", "tomorrow", "UTC+99", "+999999999", "(Asia/Tokyo)", "9e99", "1795449600",
                    "99999999999999999999h", "5 days", "every", "\u{e9}", "12pm", "2026-02-30", "|", ":",
                ]).prop_map(str::to_owned),
                "\\PC{0,12}",
            ],
            0..12,
        )
    ) {
        let _any = end(&words.join(" "), &TimeZone::UTC);
    }
}
