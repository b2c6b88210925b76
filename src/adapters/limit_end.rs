//! When the limit that a provider's message speaks of ends: `resets Dec 3 at 1am (Asia/Tokyo)`,
//! `try again in 5 days 3 hours`, `resets_at": 1777936568`. Everything counts from when it was said.
//!
//! Does not know: the clock, any CLI, whether the message is about a limit.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

use super::error_text::normalized;

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

/// Words after which a message says when it goes on. Parts of words: `reset` is in `resets_at`.
const STEMS: &[&str] = &[
    "reset",
    "again",
    "retry",
    "until",
    "available",
    "access on",
    "wait",
    "renew",
    "refresh",
    "reached|",
    "resume",
];
/// Of these, what promises a time even where none is understood.
const PROMISES: &[&str] = &[
    "reset",
    "again at",
    "again on",
    "again in",
    "again after",
    "available again",
    "available at",
    "available in",
    "access on",
    "renew",
    "until",
];
/// Words between one of them and the time.
const SKIPPED_MAX: usize = 5;
/// A time is looked for in so many words.
const WORDS_MAX: usize = 16;
/// A time of day that has only just passed means today: the limit is over.
const JUST_PASSED: SignedDuration = SignedDuration::from_mins(10);

/// When the limit in a message ends. `said`: when the message came, in the CLI's time zone.
pub fn limit_end(text: &str, said: &Zoned) -> LimitEnd {
    let text = normalized(text);
    let mut places: Vec<usize> = STEMS
        .iter()
        .flat_map(|stem| text.match_indices(stem).map(|(at, stem)| at + stem.len()))
        .collect();
    places.sort_unstable();
    let mut ends = places.into_iter().filter_map(|at| {
        let words = words(text.get(at..)?);
        Expression::read(&words).and_then(|e| e.end(said))
    });
    match ends.next() {
        Some(at) => LimitEnd::At(at),
        None if PROMISES.iter().any(|words| text.contains(words)) => LimitEnd::Unclear,
        None => LimitEnd::Unsaid,
    }
}

fn words(text: &str) -> Vec<&str> {
    let parts = text.split(|c: char| c.is_whitespace() || ",;()[]{}\"'·∙•|=<>".contains(c));
    let parts = parts.map(|w| w.trim_start_matches(':').trim_end_matches(['.', ':', '!']));
    parts.filter(|w| !w.is_empty()).take(WORDS_MAX).collect()
}

/// The parts of a time that were found one after another.
#[derive(Default)]
struct Expression {
    stamp: Option<Timestamp>,
    seconds: f64,
    month: Option<i8>,
    day: Option<i8>,
    year: Option<i16>,
    weekday: Option<Weekday>,
    days_ahead: Option<i64>,
    time: Option<Time>,
    zone: Option<TimeZone>,
    local: Option<DateTime>,
}

impl Expression {
    /// Reads the first expression of time. `None`: there is none, or it has a part that is not known.
    fn read(words: &[&str]) -> Option<Expression> {
        let mut e = Expression::default();
        let (mut i, mut skipped, mut found) = (0, 0, false);
        while let Some(&word) = words.get(i) {
            let before = i.checked_sub(1).and_then(|n| words.get(n)).copied();
            let used = e.take(word, before.unwrap_or_default(), &words[i + 1..]);
            match used {
                _ if word == "every" => return None,
                Some(0) | None if is_unknown_zone(word) && e.time.is_some() => return None,
                Some(n) => {
                    found |= n > 0;
                    i += n.max(1);
                }
                None if found => break,
                // The day of a month whose name is not known.
                None if day(word).is_some() => return None,
                None if skipped == SKIPPED_MAX => return None,
                None => {
                    skipped += 1;
                    i += 1;
                }
            }
        }
        found.then_some(e)
    }

    /// How many words it takes, this one included; 0: it says nothing; `None`: it is no part of a time.
    fn take(&mut self, word: &str, before: &str, next: &[&str]) -> Option<usize> {
        let after = next.first().copied().unwrap_or_default();
        if let Some(stamp) = stamp(word) {
            self.stamp = self.stamp.or(Some(stamp));
        } else if let Ok(local) = word.to_uppercase().parse::<DateTime>()
            && word.contains('t')
        {
            self.local = Some(local);
        } else if let Some((date, used)) = date(word, next) {
            (self.month, self.day) = (Some(date.0), Some(date.1));
            self.year = date.2.or(self.year);
            return Some(used);
        } else if let Some((time, used)) = time_of_day(word, after) {
            self.time = self.time.or(Some(time));
            return Some(used);
        } else if let Some((seconds, used)) = duration(word, after) {
            self.seconds += seconds;
            return Some(used);
        } else if let Ok(number) = word.parse::<f64>()
            && (before.ends_with("seconds")
                || before.ends_with("after")
                || before.ends_with("delay"))
        {
            self.seconds += number;
        } else if let Some(weekday) = weekday(word) {
            self.weekday = Some(weekday);
        } else if let Some(days) = ["today", "tomorrow"].iter().position(|w| *w == word) {
            self.days_ahead = i64::try_from(days).ok();
        } else if self.month.is_some() && self.year.is_none() && is_year(word) {
            self.year = word.parse().ok();
        } else if self.has_time()
            && let Some(zone) = zone(word)
        {
            self.zone = Some(zone);
        } else {
            return ["at", "on", "in", "after", "and", "of", "de", "the", "by"]
                .contains(&word)
                .then_some(0);
        }
        Some(1)
    }

    fn has_time(&self) -> bool {
        self.time.is_some() || self.month.is_some() || self.local.is_some()
    }

    /// In unix seconds.
    fn end(&self, said: &Zoned) -> Option<i64> {
        if let Some(stamp) = self.stamp {
            return Some(stamp.as_second());
        }
        let zone = self
            .zone
            .clone()
            .unwrap_or_else(|| said.time_zone().clone());
        let said = said.with_time_zone(zone.clone());
        let in_zone = |at: DateTime| at.to_zoned(zone.clone()).ok();
        let time = self.time.unwrap_or(Time::midnight());
        let end = if let Some(local) = self.local {
            in_zone(local)?
        } else if let (Some(month), Some(day)) = (self.month, self.day) {
            let on = |year: i16| in_zone(Date::new(year, month, day).ok()?.to_datetime(time));
            let year = said.year();
            match self.year {
                Some(year) => on(year)?,
                // The nearest one: `Jan 2` is next year's in December.
                None => [year - 1, year, year + 1]
                    .into_iter()
                    .filter_map(on)
                    .min_by_key(|at| at.duration_since(&said).abs())?,
            }
        } else if self.seconds > 0.0 && self.seconds < 366.0 * 86_400.0 {
            let wait = SignedDuration::from_secs_f64(self.seconds.ceil());
            said.checked_add(wait).ok()?
        } else if let Some(days) = self.days_ahead {
            in_zone(said.date().checked_add(days.days()).ok()?.to_datetime(time))?
        } else if let Some(weekday) = self.weekday {
            let days = i64::from(said.weekday().until(weekday));
            let at = in_zone(said.date().checked_add(days.days()).ok()?.to_datetime(time))?;
            next_unless_passed(at, &said, 7)?
        } else {
            let at = in_zone(said.date().to_datetime(self.time?))?;
            next_unless_passed(at, &said, 1)?
        };
        Some(end.timestamp().as_second())
    }
}

/// The instant, or the same so many days later where it has passed.
fn next_unless_passed(at: Zoned, said: &Zoned, days: i64) -> Option<Zoned> {
    match said.duration_since(&at) > JUST_PASSED {
        true => at.checked_add(days.days()).ok(),
        false => Some(at),
    }
}

/// Seconds or milliseconds since 1970, or a time stamp with a zone.
fn stamp(word: &str) -> Option<Timestamp> {
    match (word.len(), word.bytes().all(|b| b.is_ascii_digit())) {
        (10, true) => Timestamp::from_second(word.parse().ok()?).ok(),
        (13, true) => Timestamp::from_millisecond(word.parse().ok()?).ok(),
        _ => word.to_uppercase().parse().ok(),
    }
}

/// Month, day, and the year where it is said.
type MonthAndDay = (i8, i8, Option<i16>);

/// `nov 25th`, `25 nov`, `10 de jul`, `2026-12-01`: month, day, year; and how many words it takes.
fn date(word: &str, next: &[&str]) -> Option<(MonthAndDay, usize)> {
    if word.len() == 10
        && let Ok(date) = word.parse::<Date>()
    {
        return Some(((date.month(), date.day(), Some(date.year())), 1));
    }
    let of = next.first().is_some_and(|w| matches!(*w, "of" | "de"));
    let second = next.get(usize::from(of)).copied().unwrap_or_default();
    let used = 2 + usize::from(of);
    if let Some(month) = month(word) {
        return Some(((month, day(second)?, None), used));
    }
    Some(((month(second)?, day(word)?, None), used))
}

fn month(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let at = MONTHS.iter().position(|m| is_short_for(word, m))?;
    i8::try_from(at + 1).ok()
}

/// `dec`, `dec.`, `sept`, `december`.
fn is_short_for(word: &str, whole: &str) -> bool {
    word.len() >= 3 && whole.starts_with(word.trim_end_matches('.'))
}

fn day(word: &str) -> Option<i8> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '.');
    let is_day = ["", "st", "nd", "rd", "th", "."].contains(&word.get(digits.len()..)?);
    digits
        .parse()
        .ok()
        .filter(|n| is_day && (1..=31).contains(n))
}

fn is_year(word: &str) -> bool {
    word.len() == 4
        && word
            .parse::<i16>()
            .is_ok_and(|year| (2020..2100).contains(&year))
}

fn weekday(word: &str) -> Option<Weekday> {
    const DAYS: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let day = DAYS.iter().find(|(name, _)| is_short_for(word, name));
    day.map(|(_, day)| *day)
}

/// `3:25 am`, `3am`, `15:25`, `noon`; and how many words it takes.
fn time_of_day(word: &str, after: &str) -> Option<(Time, usize)> {
    match word {
        "noon" => return Some((Time::constant(12, 0, 0, 0), 1)),
        "midnight" => return Some((Time::midnight(), 1)),
        // A zone: `+09:00`.
        _ if !word.starts_with(|c: char| c.is_ascii_digit()) => return None,
        _ => {}
    }
    let half = |text: &str| match text.replace('.', "").as_str() {
        "am" => Some(0),
        "pm" => Some(12),
        _ => None,
    };
    let digits = word
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(word.len());
    let (clock, suffix) = word.split_at(digits);
    let (shift, used) = match (half(suffix), suffix, half(after)) {
        (Some(shift), _, _) => (Some(shift), 1),
        (None, "", Some(shift)) => (Some(shift), 2),
        (None, "", None) if clock.contains(':') => (None, 1),
        _ => return None,
    };
    let mut parts = clock.split(':');
    let mut part = |most: i8| match parts.next() {
        None => Some(0),
        Some(digits) => digits.parse::<i8>().ok().filter(|n| (0..=most).contains(n)),
    };
    let (hour, minute, second) = (part(23)?, part(59)?, part(59)?);
    let hour = match shift {
        Some(_) if !(1..=12).contains(&hour) => return None,
        Some(shift) => hour % 12 + shift,
        None => hour,
    };
    Some((Time::new(hour, minute, second, 0).ok()?, used))
}

/// `20s`, `1.5s`, `8h44m7s`, `5 days`, `an hour`: seconds, and how many words it takes.
fn duration(word: &str, after: &str) -> Option<(f64, usize)> {
    let number = match word {
        "a" | "an" => Some(1.0),
        _ => word
            .parse::<f64>()
            .ok()
            .filter(|n| n.is_finite() && *n >= 0.0),
    };
    if let Some(number) = number {
        return Some((number * unit(after)?, 2));
    }
    let (mut seconds, mut rest) = (0.0, word);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (name, tail) = tail.split_at(letters);
        seconds += number.parse::<f64>().ok()? * unit(name)?;
        rest = tail;
    }
    (seconds > 0.0).then_some((seconds, 1))
}

/// Seconds in a unit of time.
fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "ms" => 0.001,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "week" | "weeks" => 7.0 * 86_400.0,
        _ => return None,
    })
}

/// `asia/tokyo`, `utc`, `gmt-3`, `utc+05:30`, `+09:00`, and abbreviations that mean one thing.
fn zone(word: &str) -> Option<TimeZone> {
    let hours = |hours: i8| Some(TimeZone::fixed(Offset::constant(hours)));
    let offset = word
        .strip_prefix("utc")
        .or(word.strip_prefix("gmt"))
        .unwrap_or(word);
    if offset.starts_with(['+', '-']) {
        let (sign, digits) = offset.split_at(1);
        let (h, m) = match (digits.split_once(':'), digits.len()) {
            (Some(parts), _) => parts,
            (None, 4) => digits.split_at(2),
            (None, _) => (digits, "0"),
        };
        let (h, m) = (h.parse::<u8>().ok()?, m.parse::<u8>().ok()?);
        let seconds = i32::from(h) * 3_600 + i32::from(m) * 60;
        let seconds = if sign == "-" { -seconds } else { seconds };
        return Some(TimeZone::fixed(Offset::from_seconds(seconds).ok()?));
    }
    match word {
        "utc" | "gmt" | "z" => Some(TimeZone::UTC),
        "est" => hours(-5),
        "edt" => hours(-4),
        "cdt" => hours(-5),
        "pst" => hours(-8),
        "pdt" => hours(-7),
        "mst" => hours(-7),
        "cet" => hours(1),
        "cest" => hours(2),
        "jst" | "kst" => hours(9),
        _ if word.contains('/') => TimeZone::get(word).ok(),
        _ => None,
    }
}

/// A time in a zone that is not known is no time.
fn is_unknown_zone(word: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    word.split_once('/').is_some_and(|(area, _)| is_part(area))
        && !word.contains('.')
        && zone(word).is_none()
}
