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
    let mut wrong = Vec::new();
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
        // Dates in numbers: an order that is not known means what can be.
        (
            "Try again after 12/03/2026, 01:00:00",
            "2026-12-03T01:00:00Z",
        ),
        (
            "Try again after 03/12/2026, 01:00:00.",
            "2026-12-03T01:00:00Z",
        ),
        ("resets 11/25/2026 3pm", "2026-11-25T15:00:00Z"),
        ("resets 25/11/2026, 15:00", "2026-11-25T15:00:00Z"),
        ("resets at 2026/12/03 01:00:00", "2026-12-03T01:00:00Z"),
        ("resets 03.12.2026, 01:00 Uhr", "2026-12-03T01:00:00Z"),
        ("resets 12/3/26, 1:00 AM", "2026-12-03T01:00:00Z"),
        ("resets 12/3 at 1am", "2026-12-03T01:00:00Z"),
        ("resets 03-Dec-2026 01:00", "2026-12-03T01:00:00Z"),
        // Both may be: the later.
        ("resets 12/11/2026, 01:00", "2026-12-11T01:00:00Z"),
        // What the CLIs write.
        (
            "You've hit your usage limit. Upgrade to Pro (https://x.y/z), visit https://x.y/u to purchase more credits or try again at Dec 5th, 2026 3:04 PM.",
            "2026-12-05T15:04:00Z",
        ),
        (
            "try again in 3 days 4 hours 5 minutes.",
            "2026-11-26T06:30:00Z",
        ),
        (
            "Try again in 3 days, 4 hours and 5 minutes",
            "2026-11-26T06:30:00Z",
        ),
        (
            "Access resets at 3:15\u{202f}PM PST.",
            "2026-11-23T23:15:00Z",
        ),
        (
            "Your quota will reset after 18h31m6s.",
            "2026-11-23T20:56:06Z",
        ),
        (
            "\"Your quota will reset after 8h44m7s.\",\n\"errors\": [ { \"message\": \"x\"",
            "2026-11-23T11:09:07Z",
        ),
        ("Your quota will reset after 0s.", "2026-11-23T02:25:00Z"),
        (
            "Individual quota reached. Resets in 108h48m29s.",
            "2026-11-27T15:13:29Z",
        ),
        (
            "You've hit your weekly limit · resets Nov 30, 9pm (UTC)",
            "2026-11-30T21:00:00Z",
        ),
        (
            "Claude AI usage limit reached|1764712800",
            "2025-12-02T22:00:00Z",
        ),
        ("5-hour limit reached ∙ resets 2pm", "2026-11-23T14:00:00Z"),
        (
            "weekly limit reached ∙ resets Mon 9am",
            "2026-11-23T09:00:00Z",
        ),
        (
            "Weekly usage limit reached. It will reset in 10 days 19 hours.",
            "2026-12-03T21:25:00Z",
        ),
        (
            "You have exceeded the monthly usage quota. It will reset at 2026-11-29 23:59:59 +0800 CST. We recommend",
            "2026-11-29T15:59:59Z",
        ),
        ("Your limit will reset at 12am.", "2026-11-24T00:00:00Z"),
        (
            "You can resume using this model at 2026-11-23T12:00:00Z",
            "2026-11-23T12:00:00Z",
        ),
        // What is of the end goes before what is of the next try.
        (
            "Retrying after 5119ms... Please try again in 20s. Your quota will reset after 2h.",
            "2026-11-23T04:25:00Z",
        ),
        (
            "Your limit resets soon. Please try again in 20s.",
            "2026-11-23T02:25:20Z",
        ),
        // Standards.
        (
            "Retry-After: Thu, 03 Dec 2026 01:00:00 GMT",
            "2026-12-03T01:00:00Z",
        ),
        (
            "resets Thu Dec 03 2026 01:00:00 GMT+0100 (Central European Standard Time)",
            "2026-12-03T00:00:00Z",
        ),
        ("resets Thu Dec  3 01:00:00 2026", "2026-12-03T01:00:00Z"),
        ("resets at 20261203T010000Z", "2026-12-03T01:00:00Z"),
        (
            "resets at 2026-12-03T01:00:00.123456+0900",
            "2026-12-02T16:00:00Z",
        ),
        ("resets at 2026-12-03 01:00:00Z", "2026-12-03T01:00:00Z"),
        ("resets at 2026-12-03 01:00:00.000", "2026-12-03T01:00:00Z"),
        (
            "resets at 2026-12-03 01:00:00+02:00",
            "2026-12-02T23:00:00Z",
        ),
        ("Retry-After: 120", "2026-11-23T02:27:00Z"),
        ("retry-after:120", "2026-11-23T02:27:00Z"),
        ("retry-after-ms: 120000", "2026-11-23T02:27:00Z"),
        ("retryAfterMs=90000", "2026-11-23T02:26:30Z"),
        ("{\"retry_after\":30.5}", "2026-11-23T02:25:31Z"),
        ("\"retryDelay\": \"3600s\"", "2026-11-23T03:25:00Z"),
        ("retryDelay:\"391609.795772632s\"", "2026-11-27T15:11:50Z"),
        ("retry_delay {\n  seconds: 44\n}", "2026-11-23T02:25:44Z"),
        (
            "\\\"quotaResetDelay\\\": \\\"2h0m0.463586755s\\\"",
            "2026-11-23T04:25:01Z",
        ),
        (
            "\"quotaResetTimeStamp\": \"2026-11-23T08:18:19Z\"",
            "2026-11-23T08:18:19Z",
        ),
        ("X-RateLimit-Reset: 1795449600000", "2026-11-23T16:00:00Z"),
        ("x-ratelimit-reset-requests: 6m0s", "2026-11-23T02:31:00Z"),
        ("Please retry in 37.5s", "2026-11-23T02:25:38Z"),
        ("Retry after PT2H30M", "2026-11-23T04:55:00Z"),
        // Forms of durations and times.
        ("try again in 2 hrs 5 min.", "2026-11-23T04:30:00Z"),
        ("try again in 3d 4h", "2026-11-26T06:25:00Z"),
        ("try again in about two hours", "2026-11-23T04:25:00Z"),
        ("try again in half an hour", "2026-11-23T02:55:00Z"),
        ("please wait 5-10 minutes", "2026-11-23T02:35:00Z"),
        ("try again in 02:30:00", "2026-11-23T04:55:00Z"),
        ("resets 3pm (in 12h 35m)", "2026-11-23T15:00:00Z"),
        ("resets at 12 noon", "2026-11-23T12:00:00Z"),
        ("resets at midnight", "2026-11-24T00:00:00Z"),
        ("resets tonight at midnight", "2026-11-24T00:00:00Z"),
        ("resets at midnight UTC", "2026-11-24T00:00:00Z"),
        ("resets at 3.15pm", "2026-11-23T15:15:00Z"),
        ("resets yesterday at 3pm", "2026-11-22T15:00:00Z"),
        ("You are rate limited until 3:15 PM", "2026-11-23T15:15:00Z"),
        // Zones.
        ("resets at 3:15 PM GMT-3", "2026-11-23T18:15:00Z"),
        ("resets at 15:15 UTC+2", "2026-11-23T13:15:00Z"),
        ("resets at 15:15 (UTC +02:00)", "2026-11-23T13:15:00Z"),
        ("resets at 15:15 UTC\u{2212}8", "2026-11-23T23:15:00Z"),
        ("resets 3pm CET", "2026-11-23T14:00:00Z"),
        ("resets 3pm Pacific Standard Time", "2026-11-23T23:00:00Z"),
        ("resets 3pm local time", "2026-11-23T15:00:00Z"),
        ("resets at 15:04. VISIT the page", "2026-11-23T15:04:00Z"),
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
        let got = end(text, &TimeZone::UTC);
        if got.as_deref() != Ok(then) {
            wrong.push(format!("{text}: {got:?}, not {then}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_not_understood_of_a_limits_end_is_known_as_such() {
    let mut wrong = Vec::new();
    for text in [
        "resets",
        "resets soon",
        "resets 25am",
        "resets at the start of your next billing cycle",
        "try again in 9e99s",
        "or wait for limits to reset (every 5h and every week.)",
        "resets 3am (Mars/Olympus)",
        "try again at Smarch 13, 1 PM",
        // A date that is none, or that is not known, takes the time of day with it.
        "Try again after 12/99/2026, 01:00:00",
        "Try again after 31/02/2027, 01:00:00",
        "Try again after 05/06/2026, 01:00:00",
        "resets Feb 29 at 1am",
        "resets Feb 29, 2027 at 1am",
        "resets Fri Dec 3, 2026 at 1am",
        "resets 3. Dezember um 01:00 Uhr",
        "resets 2026-13-01 01:00",
        "resets on the 1st of the month",
        "resets next Monday at 9am",
        "resets at 15",
        "resets at 15h",
        "resets Dec 3 at 25:00",
        // So does a zone.
        "resets 3pm (Berlin/Europe)",
        "resets at 3:15 PM Moonbase Time",
        "resets at 3:15 PM XYZT",
        "resets 3pm CST",
        "resets 3pm IST",
        "resets at 3:15 PM server time",
        "resets at 15:04 UTC+99",
        "resets 3am (Mars/Olympus). Please try again in 20s.",
        "Try again in a few hours.",
    ] {
        let got = end(text, &TimeZone::UTC);
        if got != Err(LimitEnd::Unclear) {
            wrong.push(format!("{text}: {got:?}, not unclear"));
        }
    }
    for text in [
        "try again later",
        "Please try again in a few moments.",
        "Too many requests, retry attempt 3 of 10",
        "Rate limited. Retrying 3/5 in 789ms",
        "Too many requests",
        "at 3 AM",
        "exceeded retry limit, last status: 429 Too Many Requests",
        "This request would exceed your account's rate limit. Please try again later.",
    ] {
        let got = end(text, &TimeZone::UTC);
        if got != Err(LimitEnd::Unsaid) {
            wrong.push(format!("{text}: {got:?}, not unsaid"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    is("resets at 3:15 AM Pacific Time", "2026-11-23T11:15:00Z");
    is("resets 3am PT", "2026-11-23T11:00:00Z");
    is("resets 3am local time", "2026-11-23T08:00:00Z");
    is("resets 4am (Europe/Berlin)", "2026-11-23T03:00:00Z");
    is("resets at midnight Pacific time", "2026-11-23T08:00:00Z");
    is("resets Dec 3 at 1am (Asia/Tokyo)", "2026-12-02T16:00:00Z");
    is("resets 8:30pm (Asia/Tokyo)", "2026-11-23T11:30:00Z");
    is(
        "Weekly limit reached · resets 10am (Asia/Seoul) · /upgrade to Max or turn on /extra-usage",
        "2026-11-24T01:00:00Z",
    );
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
