//! The words of a text, and the parts of a time that a word may be.

use jiff::civil::{Date, Time, Weekday};
use jiff::{Span, Timestamp, Unit};

/// A time is looked for in so many words.
const WORDS_MAX: usize = 24;

/// One word of a text.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) lower: String,
    /// It was written in capital letters alone.
    pub(super) capitals: bool,
    /// A sentence ends with it.
    pub(super) ends: bool,
}

impl Word {
    pub(super) fn has_digits(&self) -> bool {
        let digits = self.lower.trim_start_matches(['+', '-', '~', '#', '$']);
        digits.starts_with(|c: char| c.is_ascii_digit())
    }
}

pub(super) fn words(text: &str) -> Vec<Word> {
    let parts = text.split(|c: char| c.is_whitespace() || ",()[]{}\"'`·∙•|=<>".contains(c));
    // `retry-after:120`, `seconds:3600`; `15:04` stays whole.
    let parts = parts.flat_map(|part| {
        let name = part
            .find(':')
            .filter(|at| part[..*at].ends_with(|c: char| c.is_alphabetic()));
        match name {
            Some(at) => vec![&part[..at], &part[at + 1..]],
            None => vec![part],
        }
    });
    parts.filter_map(word).take(WORDS_MAX).collect()
}

fn word(part: &str) -> Option<Word> {
    let part = part.trim_start_matches([':', '\\', '~']);
    let text = part.trim_end_matches(['.', ':', '!', '?', ';', '\\']);
    let stop = part[text.len()..].trim_start_matches(['\\', ':']);
    let text = match text.strip_prefix(['-', '_']) {
        // `retry-after`, of which `retry` was the stem.
        Some(rest) if rest.starts_with(|c: char| c.is_alphabetic()) => rest,
        _ => text,
    };
    let lower = text.to_lowercase();
    // `Dec.`, `a.m.`, `3.`, `5 min.` end no sentence.
    let is_short = month(&lower).is_some() && lower.len() < 5
        || lower.contains(".m")
        || unit(&lower).is_some()
        || lower.len() <= 2 && lower.bytes().all(|b| b.is_ascii_digit());
    let ends = stop.starts_with(['!', '?', ';']) || stop.starts_with('.') && !is_short;
    let capitals = text.bytes().all(|b| b.is_ascii_uppercase());
    (!lower.is_empty()).then_some(Word {
        lower,
        capitals,
        ends,
    })
}

/// Seconds, milliseconds or microseconds since 1970, or a time stamp with a zone.
pub(super) fn stamp(word: &str) -> Option<Timestamp> {
    let number = word.split('.').next().unwrap_or_default();
    let is_number = word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match (number.len(), is_number) {
        (10, true) => Timestamp::from_second(number.parse().ok()?).ok(),
        (13, true) => Timestamp::from_millisecond(number.parse().ok()?).ok(),
        (16, true) => Timestamp::from_microsecond(number.parse().ok()?).ok(),
        _ => word.to_uppercase().parse().ok(),
    }
}

/// A day as it was said: the year may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Day {
    pub(super) year: Option<i16>,
    pub(super) month: i8,
    pub(super) day: i8,
}

/// `nov 25th`, `25 nov`, `10 de jul`, `2026-12-01`, `03-dec-2026`, `12/03/2026`: all days that it may
/// be, and how many words it takes.
pub(super) fn date(word: &str, next: &[Word]) -> Option<(Vec<Day>, usize)> {
    if let Some(days) = numeric_date(word) {
        return Some((days, 1));
    }
    let lower = |n: usize| next.get(n).map_or("", |w: &Word| &*w.lower);
    let of = matches!(lower(0), "of" | "de");
    let (second, used) = (lower(usize::from(of)), 2 + usize::from(of));
    let one = |month_word: &str, day_word: &str| Day {
        year: None,
        month: month(month_word).unwrap_or_default(),
        day: day(day_word).unwrap_or_default(),
    };
    let found = match (month(word), day(word)) {
        (Some(_), _) => one(word, second),
        (None, Some(_)) => one(second, word),
        (None, None) => return None,
    };
    (found.month > 0 && found.day > 0).then_some((vec![found], used))
}

/// All days that a word of numbers may be. With strokes, months and days stand in any order.
fn numeric_date(word: &str) -> Option<Vec<Day>> {
    let mark = ['/', '-', '.']
        .into_iter()
        .find(|mark| word.contains(*mark))?;
    let parts: Vec<&str> = word.split(mark).filter(|p| !p.is_empty()).collect();
    let full = |year: &str, month: i8, day: i8| {
        let number: i16 = year.parse().ok()?;
        let year = match year.len() {
            2 => 2_000 + number,
            4 => number,
            _ => return None,
        };
        let is_year = (2020..2100).contains(&year);
        let is_day = is_year && Date::new(year, month, day).is_ok();
        is_day.then_some(Day {
            year: Some(year),
            month,
            day,
        })
    };
    let number = |text: &str| text.parse::<i8>().ok();
    let days: Vec<Option<Day>> = match *parts.as_slice() {
        [y, m, d] if y.len() == 4 => vec![full(y, number(m)?, number(d)?)],
        [d, m, y] if month(m).is_some() => vec![full(y, month(m)?, day(d)?)],
        [d, m, y] if mark == '.' => vec![full(y, number(m)?, number(d)?)],
        [a, b, c] => vec![
            full(c, number(a)?, number(b)?),
            full(c, number(b)?, number(a)?),
            full(a, number(b)?, number(c).unwrap_or_default()),
        ],
        [a, b] if mark == '/' => {
            let (a, b) = (number(a)?, number(b)?);
            let one = |month, day| {
                // A leap year knows all days.
                Date::new(2024, month, day).ok()?;
                Some(Day {
                    year: None,
                    month,
                    day,
                })
            };
            vec![one(a, b), one(b, a)]
        }
        _ => return None,
    };
    let days: Vec<Day> = days.into_iter().flatten().collect();
    (!days.is_empty()).then_some(days)
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

pub(super) fn day(word: &str) -> Option<i8> {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '.');
    let is_day = ["", "st", "nd", "rd", "th", "."].contains(&word.get(digits.len()..)?);
    digits
        .parse()
        .ok()
        .filter(|n| is_day && (1..=31).contains(n))
}

pub(super) fn year(word: &str) -> Option<i16> {
    let year = word.parse().ok().filter(|year| (2020..2100).contains(year));
    year.filter(|_| word.len() == 4)
}

pub(super) fn weekday(word: &str) -> Option<Weekday> {
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

/// `3:25 am`, `3am`, `15:25`, `01:00:00.5`, `noon`, `12 noon`; and how many words it takes. A zone may
/// stand at its end: `15:25z`, `15:25+02:00`.
pub(super) fn time_of_day(word: &str, after: &str) -> Option<(Time, Option<String>, usize)> {
    match (word, after) {
        ("noon", _) => return Some((Time::constant(12, 0, 0, 0), None, 1)),
        ("midnight", _) => return Some((Time::midnight(), None, 1)),
        ("12", "noon") => return Some((Time::constant(12, 0, 0, 0), None, 2)),
        ("12", "midnight") => return Some((Time::midnight(), None, 2)),
        // A zone: `+09:00`.
        _ if !word.starts_with(|c: char| c.is_ascii_digit()) => return None,
        _ => {}
    }
    let half = |text: &str| match text.replace('.', "").as_str() {
        "am" => Some(0),
        "pm" => Some(12),
        _ => None,
    };
    let digits = word.find(|c: char| c.is_ascii_alphabetic() || "+-".contains(c));
    let (clock, suffix) = word.split_at(digits.unwrap_or(word.len()));
    let is_zone = suffix == "z" || suffix.starts_with(['+', '-']);
    let (shift, used) = match (half(suffix), half(after)) {
        (Some(shift), _) => (Some(shift), 1),
        (None, Some(shift)) if suffix.is_empty() => (Some(shift), 2),
        (None, _) if clock.contains(':') && (suffix.is_empty() || is_zone) => (None, 1),
        _ => return None,
    };
    // `3.15pm`; the fraction of a second says nothing.
    let clock = match clock.contains(':') {
        true => clock.split('.').next().unwrap_or_default().to_owned(),
        false => clock.replace('.', ":"),
    };
    let mut parts = clock.split(':');
    let mut part = |most: i8| match parts.next() {
        None => Some(0),
        Some(digits) => digits.parse::<i8>().ok().filter(|n| (0..=most).contains(n)),
    };
    let (hour, minute, second) = (part(23)?, part(59)?, part(59)?);
    if parts.next().is_some() {
        return None;
    }
    let hour = match shift {
        Some(_) if !(1..=12).contains(&hour) => return None,
        Some(shift) => hour % 12 + shift,
        None => hour,
    };
    let zone = is_zone.then(|| suffix.to_owned());
    Some((Time::new(hour, minute, second, 0).ok()?, zone, used))
}

/// `20s`, `1.5s`, `8h44m7s`, `5 days`, `an hour`, `half an hour`, `5-10 minutes`, `pt2h`: seconds, and
/// how many words it takes.
pub(super) fn duration(word: &str, next: &[Word]) -> Option<(f64, usize)> {
    const NUMBERS: [&str; 12] = [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve",
    ];
    let after = |n: usize| next.get(n).map_or("", |w: &Word| &*w.lower);
    if word == "half" && matches!(after(0), "a" | "an") {
        return Some((unit(after(1))? / 2.0, 3));
    }
    let spelled = NUMBERS.iter().position(|name| *name == word);
    // Of `5-10 minutes` the longer.
    let most = match word.split_once('-') {
        Some((low, high)) if amount(low).is_some() => high,
        _ => word,
    };
    let number = match (word, spelled) {
        ("a" | "an", _) => Some(1.0),
        (_, Some(at)) => Some(at as f64 + 1.0),
        _ => amount(most),
    };
    if let Some(number) = number {
        return Some((number * unit(after(0))?, 2));
    }
    if word.starts_with('p') && word.bytes().any(|b| b.is_ascii_digit()) {
        let span = word.to_uppercase().parse::<Span>().ok()?;
        let day = jiff::SpanRelativeTo::days_are_24_hours();
        let seconds = span.total((Unit::Second, day)).ok()?;
        return (seconds > 0.0).then_some((seconds, 1));
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
    // Zero seconds are a time, too: it is over.
    Some((seconds, 1))
}

/// A number that stands alone.
pub(super) fn amount(word: &str) -> Option<f64> {
    let number = word.parse::<f64>().ok();
    number.filter(|n| n.is_finite() && *n >= 0.0 && word.starts_with(|c: char| c.is_ascii_digit()))
}

/// Seconds in a unit of time.
pub(super) fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 0.001,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "wk" | "week" | "weeks" => 7.0 * 86_400.0,
        _ => return None,
    })
}

/// Seconds in one of what a key counts: `retry_after_ms`, `resets_in_seconds`, `retry-after`.
pub(super) fn unit_of_key(key: &str) -> Option<f64> {
    let ends = |names: &[&str]| names.iter().any(|name| key.ends_with(name));
    match key {
        _ if ends(&[
            "_ms",
            "-ms",
            "inms",
            "delayms",
            "afterms",
            "milliseconds",
            "millis",
        ]) =>
        {
            Some(0.001)
        }
        "ms" => Some(0.001),
        _ if ends(&["seconds", "secs", "_s", "after", "delay"]) => Some(1.0),
        _ if ends(&["minutes", "mins"]) => Some(60.0),
        _ if ends(&["hours"]) => Some(3_600.0),
        _ => None,
    }
}
