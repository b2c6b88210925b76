//! How long a usage or rate limit still lasts: from what the CLI said, counted from when it said it.
//! It may be read much later, by another harness, or by one whose clock is wrong.

use std::time::Duration;

use jiff::tz::TimeZone;

use crate::adapters::{LimitEnd, limit_end};
use crate::clock::{self, Timestamp};
use crate::event::{Class, Fault};
use crate::outcome::LimitLeft;

/// Usage limits last up to a month; a later end is not believed.
const SECONDS_MAX: i64 = 32 * 86_400;
/// A rate limit that lasts longer is a usage limit: a retry would only meet it again.
const RATE_LIMIT_SECONDS_MAX: i64 = 120;
/// Clocks differ: an agent is held a little longer.
const MARGIN: Duration = Duration::from_secs(5);
/// How long an agent is held for a usage limit whose end is not known.
pub(super) const UNKNOWN_HOLD: Duration = Duration::from_secs(3_600);
/// How long at first for one that should have ended by now; doubled each time it is met so again.
const OVER_HOLD: Duration = Duration::from_secs(60);

/// What is left of the fault's limit. Corrects its class by what its text says.
pub(super) fn left(fault: &mut Fault, said: Timestamp) -> LimitLeft {
    let now = clock::now();
    left_at(fault, said.min(now), now)
}

fn left_at(fault: &mut Fault, said: Timestamp, now: Timestamp) -> LimitLeft {
    let known = match fault.class {
        Class::UsageLimit { resets_at } => resets_at,
        Class::RateLimit => None,
        _ => return LimitLeft::Unsaid,
    };
    let now = now.as_second();
    let of_text = limit_end(&fault.message, &said.to_zoned(TimeZone::system()));
    let end = match (known, of_text) {
        (Some(at), LimitEnd::At(text)) if at <= now && text > now => LimitEnd::At(text),
        (Some(at), _) => LimitEnd::At(at),
        (None, of_text) => of_text,
    };
    let believed = |at: i64| at <= now + SECONDS_MAX;
    let resets_at = match end {
        LimitEnd::At(at) => Some(at).filter(|at| believed(*at)),
        LimitEnd::Unsaid | LimitEnd::Unclear => None,
    };
    let is_long = match end {
        LimitEnd::At(at) => at - said.as_second() > RATE_LIMIT_SECONDS_MAX,
        LimitEnd::Unclear => true,
        LimitEnd::Unsaid => false,
    };
    if is_long || fault.class != Class::RateLimit {
        fault.class = Class::UsageLimit { resets_at };
    }
    match (end, resets_at) {
        (LimitEnd::Unsaid, _) => LimitLeft::Unsaid,
        (_, None) => LimitLeft::Unclear,
        (_, Some(at)) if at <= now => LimitLeft::Over,
        (_, Some(at)) => LimitLeft::Ends(Duration::from_secs((at - now).unsigned_abs()) + MARGIN),
    }
}

/// How long an agent is held that met, so many times in a row before, a limit that should be over.
pub(super) fn over_hold(waits: u32) -> Duration {
    clock::doubled(OVER_HOLD, waits, UNKNOWN_HOLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: &str = "2026-11-25T12:00:00Z";
    const SAID: &str = "2026-11-23T02:25:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The class and what is left, of a text that was said at `SAID` and is read `now`.
    fn left(class: Class, text: &str, now: &str) -> (&'static str, LimitLeft) {
        let mut fault = Fault::new(class, text);
        let left = left_at(&mut fault, at(SAID), at(now));
        (fault.class.as_str(), left)
    }

    fn ends(seconds: u64) -> LimitLeft {
        LimitLeft::Ends(Duration::from_secs(seconds) + MARGIN)
    }

    #[test]
    fn a_limit_counts_from_when_it_was_said_and_one_that_is_over_is_known_as_such() {
        for (text, now, want) in [
            ("resets 3:25am (UTC)", SAID, ends(3_600)),
            ("resets 3:25am (UTC)", LATER, LimitLeft::Over),
            ("try again in 20 minutes", LATER, LimitLeft::Over),
            ("resets Nov 25 at 1pm (UTC)", LATER, ends(3_600)),
            ("resets next month", SAID, LimitLeft::Unclear),
            ("resets Mar 3, 2027", SAID, LimitLeft::Unclear),
            ("You've hit your limit", SAID, LimitLeft::Unsaid),
        ] {
            let usage = Class::UsageLimit { resets_at: None };
            assert_eq!(left(usage, text, now), ("usage_limit", want), "{text}");
        }
        let known = |text, seconds: i64| {
            let resets_at = Some(at(SAID).as_second() + seconds);
            left(Class::UsageLimit { resets_at }, text, SAID).1
        };
        assert_eq!(known("", 60), ends(60));
        assert_eq!(known("", -60), LimitLeft::Over);
        assert_eq!(known("resets in 1 hour", -60), ends(3_600));
        assert_eq!(known("", 40 * 86_400), LimitLeft::Unclear);
    }

    #[test]
    fn a_rate_limit_of_hours_is_a_usage_limit_and_holds_grow_to_an_hour() {
        for (text, class, want) in [
            ("429, try again in 20s", "rate_limit", ends(20)),
            ("429, try again later", "rate_limit", LimitLeft::Unsaid),
            ("429, resets in 8h44m7s", "usage_limit", ends(31_447)),
            ("429, resets some day", "usage_limit", LimitLeft::Unclear),
        ] {
            assert_eq!(left(Class::RateLimit, text, SAID), (class, want), "{text}");
        }
        let other = left(Class::Overloaded, "try again in 20s", SAID);
        assert_eq!(other, ("overloaded", LimitLeft::Unsaid));
        assert_eq!(over_hold(0), Duration::from_secs(60));
        assert_eq!(over_hold(u32::MAX), UNKNOWN_HOLD);
    }
}
