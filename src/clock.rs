//! Reads the clocks. Wall time is for people (records, status) and for `not_before`.
//! Durations and deadlines use the monotonic clock (Linux `CLOCK_MONOTONIC`), which stops while the
//! machine is suspended, so that a sleeping laptop causes no timeouts.

use std::cell::RefCell;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::mutant::planted;

pub use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::Uuid;

/// Monotonic now.
#[expect(clippy::disallowed_methods, reason = "this module owns the clocks")]
pub fn instant() -> Instant {
    if planted("wall-clock-for-timeouts") {
        static START: LazyLock<(Instant, i64)> = LazyLock::new(|| (Instant::now(), now_ns()));
        return START.0 + Duration::from_nanos((now_ns() - START.1).unsigned_abs());
    }
    Instant::now()
}

/// Time until the next tick of a process-wide grid, so that threads poll together and find the
/// processor's caches warm.
pub fn until_next(period: Duration) -> Duration {
    static BEGAN: LazyLock<Instant> = LazyLock::new(instant);
    let since = instant().saturating_duration_since(*BEGAN).as_nanos();
    let over = since.checked_rem(period.as_nanos()).unwrap_or_default();
    period.saturating_sub(Duration::from_nanos(
        u64::try_from(over).unwrap_or_default(),
    ))
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
    thread_local! {
        /// A second and its text: each item needs some ten timestamps.
        static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let now = now();
    let (second, millis) = (now.as_second(), now.subsec_nanosecond() / 1_000_000);
    if millis < 0 {
        return iso(now);
    }
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            let whole = Timestamp::from_second(second).map_or_else(|_| iso(now), iso);
            *text = whole.trim_end_matches("000Z").to_owned();
            *known = second;
        }
        let digit = |of: i32| char::from(b'0' + (millis / of % 10) as u8);
        let mut whole = String::with_capacity(text.len() + 4);
        whole.push_str(text);
        whole.extend([digit(100), digit(10), digit(1), 'Z']);
        whole
    })
}

/// A wait that is doubled so many times, 20 times and to `max` at most.
pub fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first
        .saturating_mul(2_u32.saturating_pow(times.min(20)))
        .min(max)
}

/// Wall time this long from now, in nanoseconds since 1970.
pub fn ns_from_now(wait: std::time::Duration) -> i64 {
    now_ns().saturating_add(i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX))
}

/// Wall time in nanoseconds since 1970, comparable with a file's modification time.
#[expect(clippy::disallowed_methods, reason = "this module owns the clocks")]
pub fn now_ns() -> i64 {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(d) => i64::try_from(d.as_nanos()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// A file's modification time in nanoseconds since 1970. Saturates: 64 bits end in 2262, ext4's
/// times in 2446.
pub fn mtime_ns(meta: &Metadata) -> i64 {
    ns(meta.mtime(), meta.mtime_nsec())
}

/// When a file's content, name or attributes last changed. Unlike `mtime`, nobody can set it.
pub fn ctime_ns(meta: &Metadata) -> i64 {
    ns(meta.ctime(), meta.ctime_nsec())
}

fn ns(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// An item must not start before this time: its file's modification time, if somebody set that into
/// the future. One that is ahead only because the clock was set back does not count.
pub fn postponed(meta: &Metadata) -> Option<i64> {
    let at = mtime_ns(meta);
    let set_ahead = at > ctime_ns(meta).saturating_add(SET_BACK_NS) || !was_set_back_since(meta);
    (at > now_ns() && set_ahead).then_some(at)
}

/// Whether the clock was set back since the file last changed: its change time is in the future.
pub fn was_set_back_since(meta: &Metadata) -> bool {
    ctime_ns(meta) > now_ns().saturating_add(SET_BACK_NS) && !planted("set-back-not-seen")
}

/// The same of a time that was written as now.
pub(crate) fn is_ahead(at: &str) -> bool {
    let at = at.parse::<Timestamp>();
    at.is_ok_and(|at| at > later(now(), HOSTS_APART)) && !planted("set-back-not-seen")
}

/// Clocks of hosts that share a ROOT may differ by this much.
const HOSTS_APART: Duration = Duration::from_secs(60);
/// Clocks (ours and a file server's) may differ by this much without having been set back.
const SET_BACK_NS: i64 = 2_000_000_000;

/// A new unique id that sorts by creation time, as far as the clock is right.
pub fn unique() -> Uuid {
    match now_ns() {
        // A clock without battery may show a time before 1970, which a UUID cannot hold.
        0 => Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 0, 0)),
        _ => Uuid::now_v7(),
    }
}

/// For serde: an instant that is counted since 1970, as RFC 3339. Numbers of earlier versions are read.
pub mod ns {
    pub use super::counted::{ns_from as deserialize, ns_to as serialize};
}
pub mod seconds {
    pub use super::counted::{seconds_from as deserialize, seconds_to as serialize};
}
mod counted {
    use super::Timestamp;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Count(i64),
        Time(String),
    }

    fn to<S: Serializer>(count: i64, at: Option<Timestamp>, s: S) -> Result<S::Ok, S::Error> {
        // A count that no calendar reaches stays one.
        let written = at.map_or(Written::Count(count), |at| Written::Time(at.to_string()));
        written.serialize(s)
    }

    /// A count, or the instant of a text as one.
    fn from<'de, D: Deserializer<'de>>(
        d: D,
        of_time: fn(Timestamp) -> i64,
    ) -> Result<Option<i64>, D::Error> {
        match Option::<Written>::deserialize(d)? {
            None => Ok(None),
            Some(Written::Count(count)) => Ok(Some(count)),
            Some(Written::Time(text)) => {
                let at: Timestamp = text.parse().map_err(D::Error::custom)?;
                Ok(Some(of_time(at)))
            }
        }
    }

    pub fn ns_to<S: Serializer>(count: &Option<i64>, s: S) -> Result<S::Ok, S::Error> {
        match count {
            None => s.serialize_none(),
            Some(n) => to(*n, Timestamp::from_nanosecond((*n).into()).ok(), s),
        }
    }

    pub fn ns_from<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
        from(d, |at| {
            i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX)
        })
    }

    pub fn seconds_to<S: Serializer>(count: &Option<i64>, s: S) -> Result<S::Ok, S::Error> {
        match count {
            None => s.serialize_none(),
            Some(n) => to(*n, Timestamp::from_second(*n).ok(), s),
        }
    }

    pub fn seconds_from<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i64>, D::Error> {
        from(d, Timestamp::as_second)
    }
}

/// When `unique` made this id, in milliseconds since 1970; `None`: it did not.
pub fn made_ms(id: &str) -> Option<i64> {
    let id = Uuid::try_parse(id).ok()?;
    (id.get_version_num() == 7)
        .then(|| id.as_u128() >> 80)
        .and_then(|ms| i64::try_from(ms).ok())
}

/// The local time zone, cached for as long as jiff does: each look at today's figures needs it.
fn zone() -> TimeZone {
    const KEPT: Duration = Duration::from_secs(300);
    static KNOWN: Mutex<Option<(Instant, TimeZone)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match &*known {
        Some((since, zone)) if since.elapsed() < KEPT => zone.clone(),
        _ => known.insert((instant(), read_zone())).1.clone(),
    }
}

/// Avoids `TimeZone::system`: it searches all zone files for the name of `/etc/localtime`, which
/// takes 5 ms and is not needed here.
#[expect(clippy::disallowed_methods, reason = "the system owns this file")]
fn read_zone() -> TimeZone {
    let local = match std::env::var_os("TZ") {
        Some(_) => return TimeZone::system(),
        None => std::fs::read("/etc/localtime"),
    };
    match local {
        Ok(rules) => TimeZone::tzif("Local", &rules).unwrap_or_else(|_| TimeZone::system()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => TimeZone::UTC,
        Err(_) => TimeZone::system(),
    }
}

/// The start of today in the local time zone, for the figures "of today".
pub fn midnight() -> Timestamp {
    let today = now().to_zoned(zone());
    today
        .start_of_day()
        .map_or_else(|_| now(), |z| z.timestamp())
}

/// An instant so much later; the last that a calendar has, if that is later still.
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The start of tomorrow in the local time zone.
pub fn next_midnight() -> Timestamp {
    let today = now().to_zoned(zone());
    let tomorrow = today.tomorrow().and_then(|day| day.start_of_day());
    tomorrow.map_or_else(|_| now(), |z| z.timestamp())
}

/// Today's date in the local time zone: `2026-01-27`.
pub fn today() -> String {
    now().to_zoned(zone()).date().to_string()
}

/// An RFC 3339 time as `2026-01-27 10:45:00` in local time; other text unchanged.
pub fn local(at: &str) -> String {
    let local = at.parse::<Timestamp>().map(|at| at.to_zoned(zone()));
    local.map_or_else(
        |_| at.to_owned(),
        |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
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
