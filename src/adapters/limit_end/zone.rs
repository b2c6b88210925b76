//! Time zones, by their names, abbreviations and offsets.

use jiff::tz::{Offset, TimeZone};

use super::parts::Word;

/// Abbreviations that mean one thing, in minutes east of Greenwich. CST, IST, BST and AST mean more
/// than one, and are not known.
const FIXED: &[(&str, i32)] = &[
    ("utc", 0),
    ("gmt", 0),
    ("z", 0),
    ("wet", 0),
    ("est", -300),
    ("edt", -240),
    ("cdt", -300),
    ("mst", -420),
    ("mdt", -360),
    ("pst", -480),
    ("pdt", -420),
    ("akst", -540),
    ("akdt", -480),
    ("hst", -600),
    ("brt", -180),
    ("west", 60),
    ("cet", 60),
    ("cest", 120),
    ("eet", 120),
    ("eest", 180),
    ("msk", 180),
    ("pkt", 300),
    ("wib", 420),
    ("hkt", 480),
    ("sgt", 480),
    ("awst", 480),
    ("jst", 540),
    ("kst", 540),
    ("aest", 600),
    ("aedt", 660),
    ("nzst", 720),
    ("nzdt", 780),
];
/// Names whose offset depends on the day.
const PLACES: &[(&str, &str)] = &[
    ("pt", "America/Los_Angeles"),
    ("mt", "America/Denver"),
    ("ct", "America/Chicago"),
    ("et", "America/New_York"),
    ("pacific", "America/Los_Angeles"),
    ("mountain", "America/Denver"),
    ("eastern", "America/New_York"),
];
/// Names of more words, without `time`.
const PHRASES: &[(&str, i32)] = &[
    ("pacific standard", -480),
    ("pacific daylight", -420),
    ("mountain standard", -420),
    ("mountain daylight", -360),
    ("central daylight", -300),
    ("eastern standard", -300),
    ("eastern daylight", -240),
    ("central european", 60),
    ("central european standard", 60),
    ("central european summer", 120),
    ("greenwich mean", 0),
    ("coordinated universal", 0),
    ("universal", 0),
    ("india standard", 330),
    ("japan standard", 540),
    ("korean standard", 540),
];

/// What stands after a time, where its zone would.
pub(super) enum After {
    /// A zone, and how many words it takes. `None`: the CLI's own.
    Zone(Option<TimeZone>, usize),
    /// A zone that is not known.
    Unknown,
    /// Something else.
    Other,
}

/// Reads the zone at the beginning of these words.
pub(super) fn read(words: &[Word]) -> After {
    let Some(first) = words.first() else {
        return After::Other;
    };
    // `(Central European Standard Time)`, `Pacific Time`, `local time`.
    let to_time = words.iter().take(4).position(|w| w.lower == "time");
    if let Some(n) = to_time.filter(|n| *n > 0)
        && !matches!(
            &*first.lower,
            "which" | "that" | "this" | "any" | "or" | "and"
        )
        && words[..n]
            .iter()
            .all(|w| !w.ends && w.lower.bytes().all(|b| b.is_ascii_alphabetic()))
    {
        let name: Vec<&str> = words[..n].iter().map(|w| &*w.lower).collect();
        let name = name.join(" ");
        if name == "local" || name == "your local" {
            return After::Zone(None, n + 1);
        }
        let phrase = PHRASES.iter().find(|(known, _)| *known == name);
        let zone = phrase
            .and_then(|(_, minutes)| fixed(*minutes))
            .or_else(|| named(&name));
        return zone.map_or(After::Unknown, |zone| After::Zone(Some(zone), n + 1));
    }
    if let Some(zone) = named(&first.lower) {
        // `UTC +2`.
        if matches!(&*first.lower, "utc" | "gmt")
            && let Some(next) = words.get(1).filter(|w| w.lower.starts_with(['+', '-']))
        {
            return offset(&next.lower).map_or(After::Unknown, |zone| After::Zone(Some(zone), 2));
        }
        return After::Zone(Some(zone), 1);
    }
    let is_path =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let is_area = first
        .lower
        .split_once('/')
        .is_some_and(|(area, _)| is_path(area));
    // `UTC+99` is none.
    let is_offset = first.has_digits() && first.lower.starts_with(['+', '-'])
        || ["utc+", "utc-", "gmt+", "gmt-"]
            .iter()
            .any(|zone| first.lower.starts_with(zone));
    let is_short = first.capitals && (2..=5).contains(&first.lower.len());
    match is_area && !first.lower.contains('.') || is_short || is_offset {
        true => After::Unknown,
        false => After::Other,
    }
}

/// `asia/tokyo`, `utc`, `gmt-3`, `utc+05:30`, `+09:00`, `pst`, `pacific`.
pub(super) fn named(name: &str) -> Option<TimeZone> {
    if let Some((_, minutes)) = FIXED.iter().find(|(known, _)| *known == name) {
        return fixed(*minutes);
    }
    if let Some((_, place)) = PLACES.iter().find(|(known, _)| *known == name) {
        return TimeZone::get(place).ok();
    }
    match name.contains('/') {
        true => TimeZone::get(name).ok(),
        false => offset(name),
    }
}

/// `+09:00`, `utc+2`, `gmt+0100`.
fn offset(name: &str) -> Option<TimeZone> {
    let offset = name.strip_prefix("utc").or(name.strip_prefix("gmt"));
    let offset = offset.unwrap_or(name);
    if !offset.starts_with(['+', '-']) {
        return None;
    }
    let (sign, digits) = offset.split_at(1);
    let (h, m) = match (digits.split_once(':'), digits.len()) {
        (Some(parts), _) => parts,
        (None, 3 | 4) => digits.split_at(digits.len() - 2),
        (None, _) => (digits, "0"),
    };
    let (h, m) = (
        h.parse::<u8>().ok()?,
        m.parse::<u8>().ok().filter(|m| *m < 60)?,
    );
    let minutes = i32::from(h) * 60 + i32::from(m);
    fixed(if sign == "-" { -minutes } else { minutes })
}

fn fixed(minutes: i32) -> Option<TimeZone> {
    let offset = Offset::from_seconds(minutes * 60).ok()?;
    // No place is further from Greenwich.
    (minutes.abs() <= 14 * 60).then_some(TimeZone::fixed(offset))
}
