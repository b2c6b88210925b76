//! What error messages mean: their class, and when a limit ends.

use jiff::{Timestamp, tz::TimeZone};

use crate::adapters::error_text;
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
        ("getaddrinfo ENOTFOUND api.example.com", Class::Network),
    ] {
        assert_eq!(error_text::class(text), Some(class), "{text}");
    }
    assert_eq!(error_text::class("I wrote 429 lines"), None);
    assert_eq!(limit.mend(), Mend::Wait(None));
}

#[test]
fn messages_tell_when_a_limit_ends() {
    let zone = TimeZone::get("America/New_York").unwrap_or(TimeZone::UTC);
    let came = "2026-11-23T02:25:00Z".parse::<Timestamp>().unwrap();
    let at = |text: &str, zone: &TimeZone| {
        let instant = error_text::reset_after(text, &came.to_zoned(zone.clone()))?;
        Some(Timestamp::from_second(instant).unwrap().to_string())
    };
    let utc = TimeZone::UTC;
    let is = |text: &str, then: &str| assert_eq!(at(text, &utc).as_deref(), Some(then), "{text}");
    is("try again at 3:25 AM.", "2026-11-23T03:25:00Z");
    is("resets 3:22am (UTC)", "2026-11-23T03:22:00Z");
    is("resets 2am", "2026-11-24T02:00:00Z");
    is("or try again at 12:10 PM.", "2026-11-23T12:10:00Z");
    is("try again at 12:10 am", "2026-11-24T00:10:00Z");
    is(
        "try again at Nov 25th, 2026 8:21 AM.",
        "2026-11-25T08:21:00Z",
    );
    is("Please try again in 20s.", "2026-11-23T02:25:20Z");
    is(
        "Try again in 1 day 2 hours 3 minutes.",
        "2026-11-24T04:28:00Z",
    );
    for text in [
        "try again later",
        "resets",
        "resets 25am",
        "try again in 9e99s",
        "at 3 AM",
    ] {
        assert_eq!(at(text, &utc), None, "{text}");
    }
    // A time of day without a zone is in the CLI's zone.
    let there = at("resets 3am", &zone);
    let here = at("resets 3am (UTC)", &zone);
    assert_eq!(here.as_deref(), Some("2026-11-23T03:00:00Z"));
    assert!(zone == TimeZone::UTC || there.as_deref() == Some("2026-11-23T08:00:00Z"));
}
