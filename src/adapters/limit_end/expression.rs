//! One expression of time, read word by word, and the instant that it means.

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

use super::parts::{self, Day, Word};
use super::zone::{self, After};

/// Words between one that announces a time and the time.
const SKIPPED_MAX: usize = 5;
/// A time of day that has only just passed means today: the limit is over.
const JUST_PASSED: SignedDuration = SignedDuration::from_mins(10);
/// A day that may be one of several is not further away: no limit lasts longer.
const DAYS_MAX: i64 = 32;
/// Words inside a time that change nothing.
const FILL: &[&str] = &[
    "at",
    "on",
    "in",
    "after",
    "and",
    "of",
    "de",
    "the",
    "by",
    "about",
    "approximately",
    "around",
    "within",
    "from",
    "um",
    "uhr",
    "this",
    "o'clock",
];
/// What makes a time another one, or none: `every 5h`, `next Monday`, `the 1st of the month`.
const UNCLEAR: &[&str] = &[
    "every",
    "each",
    "next",
    "following",
    "month",
    "day",
    "cycle",
];

/// The parts of a time that were found one after another.
#[derive(Default)]
pub(super) struct Expression {
    stamp: Option<Timestamp>,
    seconds: Option<f64>,
    days: Vec<Day>,
    weekday: Option<Weekday>,
    days_ahead: Option<i64>,
    time: Option<Time>,
    /// A zone was read; `None` in it: the CLI's own.
    zone: Option<Option<TimeZone>>,
    local: Option<DateTime>,
}

/// What stands at a place of a text.
pub(super) enum Reading {
    /// No time.
    Nothing,
    /// A time of which a part is not understood.
    Unclear,
    Found(Expression),
}

/// What one word is.
enum Taken {
    /// A part of a time, with so many words.
    Part(usize),
    Fill,
    Other,
    Unclear,
}

impl Expression {
    pub(super) fn read(words: &[Word]) -> Reading {
        let mut e = Expression::default();
        let (mut i, mut skipped, mut found) = (0, 0, false);
        while let Some(word) = words.get(i) {
            let before = i.checked_sub(1).and_then(|n| words.get(n));
            let used = match e.take(word, before, &words[i..]) {
                Taken::Unclear => return Reading::Unclear,
                Taken::Part(used) => {
                    found = true;
                    used
                }
                Taken::Fill => 1,
                Taken::Other if found || skipped == SKIPPED_MAX => break,
                Taken::Other => {
                    skipped += 1;
                    1
                }
            };
            i += used;
            if words.get(i - 1).is_some_and(|last| last.ends) {
                break;
            }
        }
        match found {
            true => Reading::Found(e),
            false => Reading::Nothing,
        }
    }

    /// Seconds since 1970, or since now: nothing of it depends on a zone or a calendar.
    pub(super) fn is_exact(&self) -> bool {
        self.stamp.is_some()
    }

    /// `words`: this one and what follows.
    fn take(&mut self, word: &Word, before: Option<&Word>, words: &[Word]) -> Taken {
        let (text, next) = (&*word.lower, &words[1..]);
        let after = next.first().map_or("", |w| &*w.lower);
        let previous = before.map_or("", |w| &*w.lower);
        if UNCLEAR.contains(&text) {
            return match self.is_empty() || text == "every" {
                true => Taken::Unclear,
                false => Taken::Other,
            };
        }
        if let Some(stamp) = parts::stamp(text) {
            self.stamp = self.stamp.or(Some(stamp));
        } else if text.contains('t')
            && let Ok(local) = text.to_uppercase().parse::<DateTime>()
        {
            self.local = Some(local);
        } else if self.days.is_empty()
            && let Some((days, used)) = parts::date(text, next)
        {
            self.days = days;
            return Taken::Part(used);
        } else if previous == "in"
            && let Some(seconds) = clock_as_duration(text, after)
        {
            self.seconds = Some(seconds);
        } else if self.time.is_none()
            && let Some((time, zone, used)) = parts::time_of_day(text, after)
        {
            self.time = Some(time);
            if let Some(zone) = zone {
                let Some(zone) = zone::named(&zone) else {
                    return Taken::Unclear;
                };
                self.zone = Some(Some(zone));
            }
            return Taken::Part(used);
        } else if let Some((seconds, used)) = parts::duration(text, next) {
            // `at 15h` is a time of day.
            if previous == "at" {
                return Taken::Unclear;
            }
            self.seconds = Some(self.seconds.unwrap_or_default() + seconds);
            return Taken::Part(used);
        } else if let Some(number) = parts::amount(text)
            && let Some(unit) = parts::unit_of_key(previous)
        {
            self.seconds = Some(self.seconds.unwrap_or_default() + number * unit);
        } else if let Some(weekday) = parts::weekday(text) {
            self.weekday = Some(weekday);
        } else if let Some(days) = days_ahead(text) {
            self.days_ahead = Some(days);
        } else if let Some(year) = parts::year(text)
            && let [day] = self.days.as_mut_slice()
            && day.year.is_none_or(|known| known == year)
        {
            day.year = Some(year);
        } else {
            return self.take_zone_or_fill(word, words);
        }
        Taken::Part(1)
    }

    fn take_zone_or_fill(&mut self, word: &Word, words: &[Word]) -> Taken {
        let text = &*word.lower;
        if self.has_time() && self.zone.is_none() {
            match zone::read(words) {
                After::Zone(zone, used) => {
                    self.zone = Some(zone);
                    return Taken::Part(used);
                }
                After::Unknown => return Taken::Unclear,
                After::Other => {}
            }
        }
        // `UTC 15:04`; `+0800 CST`.
        if self.zone.is_none() && matches!(text, "utc" | "gmt") {
            self.zone = Some(zone::named(text));
            return Taken::Fill;
        }
        if self.zone.is_some() && word.capitals && (2..=5).contains(&text.len()) {
            return Taken::Fill;
        }
        match FILL.contains(&text) {
            true => Taken::Fill,
            // A part of a time in a form that is not known.
            false if word.has_digits() && !is_window(text) => match self.is_duration() {
                true => Taken::Other,
                false => Taken::Unclear,
            },
            false => Taken::Other,
        }
    }

    fn has_time(&self) -> bool {
        self.time.is_some() || !self.days.is_empty() || self.local.is_some()
    }

    /// After `in 20s` the time is complete.
    fn is_duration(&self) -> bool {
        self.stamp.is_some() || self.seconds.is_some() && !self.has_time()
    }

    fn is_empty(&self) -> bool {
        !self.has_time()
            && self.stamp.is_none()
            && self.seconds.is_none()
            && self.weekday.is_none()
            && self.days_ahead.is_none()
    }

    /// In unix seconds; `None`: there is no such time.
    pub(super) fn end(&self, said: &Zoned) -> Option<i64> {
        if let Some(stamp) = self.stamp {
            return Some(stamp.as_second());
        }
        let zone = self.zone.clone().flatten();
        let zone = zone.unwrap_or_else(|| said.time_zone().clone());
        let said = said.with_time_zone(zone.clone());
        let in_zone = |at: DateTime| at.to_zoned(zone.clone()).ok();
        let end = if let Some(local) = self.local {
            in_zone(local)?
        } else if !self.days.is_empty() {
            self.day(&said)?
        } else if let Some(seconds) = self.seconds {
            if seconds > 366.0 * 86_400.0 {
                return None;
            }
            let wait = SignedDuration::from_secs_f64(seconds.ceil());
            said.checked_add(wait).ok()?
        } else if let Some(days) = self.days_ahead {
            // `tonight at midnight` is the end of the day.
            let days = days + i64::from(self.time == Some(Time::midnight()));
            let time = self.time.unwrap_or(Time::midnight());
            in_zone(said.date().checked_add(days.days()).ok()?.to_datetime(time))?
        } else if let Some(weekday) = self.weekday {
            let time = self.time.unwrap_or(Time::midnight());
            let days = i64::from(said.weekday().until(weekday));
            let at = in_zone(said.date().checked_add(days.days()).ok()?.to_datetime(time))?;
            next_unless_passed(at, &said, 7)?
        } else {
            let at = in_zone(said.date().to_datetime(self.time?))?;
            next_unless_passed(at, &said, 1)?
        };
        Some(end.timestamp().as_second())
    }

    /// The one of the days that it may be.
    fn day(&self, said: &Zoned) -> Option<Zoned> {
        let time = self.time.unwrap_or(Time::midnight());
        let zone = said.time_zone();
        let on = |year: i16, day: &Day| {
            let date = Date::new(year, day.month, day.day).ok()?;
            let fits = self.weekday.is_none_or(|weekday| date.weekday() == weekday);
            fits.then(|| date.to_datetime(time).to_zoned(zone.clone()).ok())?
        };
        let year = said.year();
        let dates = self.days.iter().filter_map(|day| match day.year {
            Some(year) => on(year, day),
            // The nearest one: `Jan 2` is next year's in December.
            None => [year - 1, year, year + 1]
                .into_iter()
                .filter_map(|year| on(year, day))
                .min_by_key(|at| at.duration_since(said).abs()),
        });
        let dates: Vec<Zoned> = dates.collect();
        match dates.as_slice() {
            [date] if self.days.len() == 1 => Some(date.clone()),
            // Month and day in an order that is not known: what is past, or too far away, is not meant.
            // Of two that may be, the later.
            _ => {
                let left = |at: &Zoned| at.duration_since(said).as_hours();
                let may_be = dates
                    .into_iter()
                    .filter(|at| (-24..DAYS_MAX * 24).contains(&left(at)));
                may_be.max_by_key(|at| at.timestamp())
            }
        }
    }
}

/// The instant, or the same so many days later where it has passed.
fn next_unless_passed(at: Zoned, said: &Zoned, days: i64) -> Option<Zoned> {
    match said.duration_since(&at) > JUST_PASSED {
        true => at.checked_add(days.days()).ok(),
        false => Some(at),
    }
}

/// `in 02:30:00`.
fn clock_as_duration(word: &str, after: &str) -> Option<f64> {
    if matches!(after, "am" | "pm" | "a.m" | "p.m") {
        return None;
    }
    let numbers: Option<Vec<f64>> = word.split(':').map(parts::amount).collect();
    match *numbers?.as_slice() {
        [h, m, s] if m < 60.0 && s < 60.0 => Some(h * 3_600.0 + m * 60.0 + s),
        _ => None,
    }
}

fn days_ahead(word: &str) -> Option<i64> {
    match word {
        "yesterday" => Some(-1),
        "today" | "tonight" => Some(0),
        "tomorrow" => Some(1),
        _ => None,
    }
}

/// `5-hour`: the name of a limit.
fn is_window(word: &str) -> bool {
    let unit = word.split_once('-').map(|(_, unit)| unit);
    unit.is_some_and(|unit| parts::unit(unit).is_some())
}
