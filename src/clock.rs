//! The only reader of time. Wall time is for people (records, status) and for `not_before`;
//! every duration and deadline is measured on the monotonic clock, which stops while the machine
//! is suspended (Linux `CLOCK_MONOTONIC`), so that a sleeping laptop makes nobody late.

use std::time::{Duration, Instant, SystemTime};

pub use jiff::Timestamp;

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "this module owns the clocks")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Wall clock now.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// `2026-01-27T10:45:00.123Z`, milliseconds, always UTC.
pub fn iso(t: Timestamp) -> String {
    format!("{t:.3}")
}

pub fn now_iso() -> String {
    iso(now())
}

/// Wall time in nanoseconds since 1970, comparable with a file's modification time.
#[expect(clippy::disallowed_methods, reason = "this module owns the clocks")]
pub fn now_ns() -> i64 {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(d) => i64::try_from(d.as_nanos()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// Midnight of today where the user lives, for the figures "of today".
pub fn midnight() -> Timestamp {
    let today = jiff::Zoned::now();
    today
        .start_of_day()
        .map_or_else(|_| now(), |z| z.timestamp())
}

/// `850 s` as `14m10s`: the two largest units.
pub fn human(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0 if d.as_millis() > 0 => format!("{}ms", d.as_millis()),
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}
