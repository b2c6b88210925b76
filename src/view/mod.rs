//! Formats what people see: tables, the status, an item's story, times and numbers. Turns plain
//! data into text; decides nothing and changes nothing under ROOT.
//!
//! Invariants: foreign text (names, reasons, messages) reaches a terminal only through `safe`;
//! colour, clipping and cursor movements are used only if stdout is a terminal (`Term`).

pub(crate) mod table;
pub(crate) mod diff;
pub(crate) mod state;
pub(crate) mod needed;
pub(crate) mod status;
pub(crate) mod watch;
pub(crate) mod story;

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::clock::{self, Timestamp};
use crate::error::{Error, Result};
use crate::layout::shown;
pub(crate) use crate::term::{Paint, Term};
use crate::text;
pub(crate) use crate::text::count_of;

/// The beginning of a commit's name, as git shows it.
pub(crate) fn short(oid: &str) -> String {
    oid.chars().take(9).collect()
}

/// Foreign text without control characters and without characters that change the writing
/// direction, which could hide its real content.
pub(crate) fn safe(text: &str) -> String {
    shown(OsStr::new(text))
}

/// Foreign text on one line: its own line breaks and tabs become spaces.
pub(crate) fn line(text: &str) -> String {
    safe(&text::one_line(text).replace('\t', " "))
}

/// An RFC 3339 time as `2026-01-27 10:45:00` in local time; other text unchanged.
pub(crate) fn local_time(at: &str) -> String {
    time_in(at, &TimeZone::system())
}

fn time_in(at: &str, tz: &TimeZone) -> String {
    match at.parse::<Timestamp>() {
        Ok(t) => t
            .to_zoned(tz.clone())
            .strftime("%Y-%m-%d %H:%M:%S")
            .to_string(),
        Err(_) => safe(at),
    }
}

/// How long ago, in the two largest units (zero if in the future); `None` if it is no time.
pub(crate) fn ago(at: &str, now: Timestamp) -> Option<String> {
    let t: Timestamp = at.parse().ok()?;
    let seconds = u64::try_from(now.as_second() - t.as_second()).unwrap_or(0);
    Some(clock::human(Duration::from_secs(seconds)))
}

/// `120ms` below a second, `1.3s` below a minute, else the two largest units.
pub(crate) fn took(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds) {
        Ok(d) if d.as_millis() < 1000 => format!("{}ms", d.as_millis()),
        Ok(d) if d.as_secs() < 60 => format!("{seconds:.1}s"),
        Ok(d) => clock::human(d),
        Err(_) => "?".to_owned(),
    }
}

/// Empty if unknown.
pub(crate) fn took_or_blank(seconds: Option<f64>) -> String {
    seconds.map_or_else(String::new, took)
}

/// `$0.0312`; empty for zero.
pub(crate) fn cost(usd: f64) -> String {
    match usd > 0.0 {
        true => format!("${usd:.4}"),
        false => String::new(),
    }
}

/// `Ok(false)`: the reader of stdout closed it, which is no error.
pub(crate) fn written(done: io::Result<()>) -> Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("cannot write to", Path::new("stdout"), &e)),
    }
}

/// Writes to standard output. A reader that closes it early (`| head`) is no error.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = write(&mut out).and_then(|()| out.flush());
    written(done).map(drop)
}

/// Prints a command's result; returns its exit code.
pub(crate) fn print_text(text: &str) -> Result<u8> {
    print(|out| out.write_all(text.as_bytes())).map(|()| 0)
}

/// One JSON object on its line.
pub(crate) fn json_line(value: &impl serde::Serialize) -> Result<String> {
    let line =
        text::json(value).map_err(|e| Error::permanent("cannot write JSON", e.to_string()))?;
    Ok(String::from_utf8_lossy(&line).into_owned() + "\n")
}

/// Prints each as it comes, on a line of its own.
pub(crate) fn print_lines<T: serde::Serialize>(all: impl Iterator<Item = T>) -> Result<u8> {
    let write = |out: &mut dyn Write| {
        let mut line = Vec::new();
        for one in all {
            line.clear();
            text::append_json(&mut line, &one)?;
            line.push(b'\n');
            out.write_all(&line)?;
        }
        Ok(())
    };
    print(write).map(|()| 0)
}

pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<u8> {
    let text = text::pretty_json(value)
        .map_err(|e| Error::permanent("cannot write JSON", e.to_string()))?;
    print_text(&(String::from_utf8_lossy(&text) + "\n"))
}

/// The exit code of a command whose work is done, and whose result is `printed` last. Where that fails
/// it says what is done: nobody is to give the command again for it.
pub(crate) fn after_work(printed: Result<u8>, done: &str) -> u8 {
    printed.unwrap_or_else(|e| {
        crate::error::tell(&format!("harness: {done}; {e}"));
        0
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_move_the_cursor_or_turn_the_line_round() {
        assert_eq!(safe("a\x1b[2J\nb\u{9b}1m"), "a\\u{1b}[2J\\nb\\u{9b}1m");
        assert_eq!(safe("x\u{202e}y\u{2066}z"), "x\\u{202e}y\\u{2066}z");
        assert_eq!(safe("plain é 漢"), "plain é 漢");
    }

    #[test]
    fn times_are_local_and_what_is_no_time_is_shown_as_it_is() {
        let tz = TimeZone::fixed(jiff::tz::offset(2));
        let at = "2026-01-27T23:45:00.5Z";
        assert_eq!(time_in(at, &tz), "2026-01-28 01:45:00");
        assert_eq!(time_in("soon\x07", &tz), "soon\\u{7}");
        let now: Timestamp = "2026-01-27T23:59:10Z".parse().unwrap();
        assert_eq!(ago(at, now).as_deref(), Some("14m10s"));
        assert_eq!(ago("2030-01-01T00:00:00Z", now).as_deref(), Some("0s"));
    }
}
