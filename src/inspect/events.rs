//! `harness session events`: one event per line, as text or JSON, or the raw lines they come from.
//!
//! Invariant: a terminal never gets an agent's control characters; a pipe gets raw lines unchanged.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};

use serde_json::Value;

use super::reader::Entry;
use super::{Session, head, known};
use crate::atomic;
use crate::clock::{self, Timestamp};
use crate::error::{Result, tell};
use crate::event::{Body, Usage};
use crate::term::clip;
use crate::text::safe_json;
use crate::view::{Paint, Term, cost, count_of, local_time, print, safe};

/// Longest part of a raw line shown on a terminal.
const RAW_SHOWN_BYTES_MAX: u64 = 64 << 10;

pub(crate) fn show(session: &Session, json: bool, raw: bool) -> Result<u8> {
    if !session.has_events() {
        session.tell_no_events();
        return Ok(0);
    }
    let mut odd = 0;
    print(|out| {
        odd = if raw {
            write_raw(session, io::stdout().is_terminal(), out)?
        } else {
            write(session, json, &Term::of_stdout(), out)?
        };
        Ok(())
    })?;
    let lines = count_of(odd, "line");
    if odd > 0 && raw {
        tell(&format!("harness: {lines} of stdout.log could not be read"));
    } else if odd > 0 && json {
        // Without --json they are shown among the events.
        tell(&format!(
            "harness: {lines} of events.jsonl left out: no JSON objects"
        ));
    }
    Ok(0)
}

/// One line for people, without its newline.
pub(super) fn line(entry: &Entry, term: &Term) -> String {
    let (at, word, paint, text) = match entry {
        Entry::Event(line, _) => {
            let (word, paint, text) = describe(&line.body);
            (local_time(&line.at), word, paint, text)
        }
        Entry::Unknown(value, text) => {
            let at = value["at"].as_str().map(local_time).unwrap_or_default();
            let word = value["event"].as_str().unwrap_or("?");
            (at, word, Paint::Dim, text.clone())
        }
        Entry::Bad(length) => {
            let text = format!("{length} bytes of events.jsonl are no event");
            (String::new(), "(unreadable)", Paint::Red, text)
        }
    };
    let (word, text) = (safe(word), safe(&text));
    // The text starts after the time, the word, and two spaces after each.
    let before = 19 + 2 + word.chars().count().max(9) + 2;
    let room = term.width.map_or(usize::MAX, |w| w.saturating_sub(before));
    let text = clip(&text, room);
    let word = paint.on(&format!("{word:<9}"), term);
    format!("{at:<19}  {word}  {text}").trim_end().to_owned()
}

/// An event's kind as a word, its colour, and its other content as text that is not yet `safe`.
pub(super) fn describe(body: &Body) -> (&'static str, Paint, String) {
    let end = |clipped: bool| if clipped { " …" } else { "" };
    match body {
        Body::SessionStarted {
            cli_session,
            model,
            version,
        } => {
            let known = known([("model", model), ("version", version), ("id", cli_session)]);
            ("started", Paint::Dim, known)
        }
        Body::Text { text, clipped, .. } => ("text", Paint::Plain, text.clone() + end(*clipped)),
        Body::Thinking { text, clipped } => ("thinking", Paint::Dim, text.clone() + end(*clipped)),
        Body::ToolCall {
            tool,
            input,
            clipped,
            ..
        } => {
            let input = match input {
                Value::Null => String::new(),
                Value::String(s) => format!(" {s}"),
                other => format!(" {other}"),
            };
            (
                "tool",
                Paint::Cyan,
                format!("{tool}{input}{}", end(*clipped)),
            )
        }
        Body::ToolResult {
            is_error,
            output,
            clipped,
            ..
        } => match is_error {
            true => ("failed", Paint::Red, output.clone() + end(*clipped)),
            false => ("result", Paint::Dim, output.clone() + end(*clipped)),
        },
        Body::Usage(usage) => ("usage", Paint::Dim, usage_text(usage)),
        Body::Retrying { class, .. } => {
            let text = format!("{}, {}", class.as_str(), retry_text(body));
            ("retry", Paint::Yellow, text)
        }
        Body::Limited { resets_at, limit } => {
            let limit = limit.as_deref().unwrap_or("a limit");
            let text = format!("{limit} {}", limit_text(*resets_at));
            ("limit", Paint::Red, text)
        }
        Body::PermissionDenied { tool, .. } => ("denied", Paint::Red, tool.clone()),
        Body::Error { class, message } => {
            let text = format!("{}: {message}", class.as_str());
            ("error", Paint::Red, text)
        }
        Body::Finished { good, message } => match good {
            true => ("finished", Paint::Green, message.clone()),
            false => ("finished", Paint::Red, format!("badly: {message}")),
        },
        Body::Other { name, detail } => {
            let detail = detail.as_deref().unwrap_or_default();
            ("other", Paint::Dim, format!("{name} {detail}"))
        }
    }
}

fn usage_text(u: &Usage) -> String {
    let turns = count_of(u.turns, "turn");
    let (tokens_in, tokens_out) = (u.input_tokens, u.output_tokens);
    let mut text = format!("{turns}, {tokens_in} tokens in, {tokens_out} out");
    let (read, write) = (u.cache_read_tokens, u.cache_write_tokens);
    if read > 0 || write > 0 {
        text += &format!(", {read} from the cache, {write} to it");
    }
    if let Some(usd) = u.cost_usd.filter(|usd| *usd > 0.0) {
        text += &format!(", {}", cost(usd));
    }
    text
}

/// For a `Retrying` event: `try 2 of 10, after 500ms: overloaded`. Empty for other events.
pub(super) fn retry_text(body: &Body) -> String {
    let Body::Retrying {
        attempt,
        max,
        wait_ms,
        message,
        ..
    } = body
    else {
        return String::new();
    };
    let mut parts = Vec::new();
    match (attempt, max) {
        (Some(n), Some(max)) => parts.push(format!("try {n} of {max}")),
        (Some(n), None) => parts.push(format!("try {n}")),
        _ => {}
    }
    if let Some(ms) = wait_ms {
        let wait = clock::human(std::time::Duration::from_millis(*ms));
        parts.push(format!("after {wait}"));
    }
    let both = [parts.join(", "), head(message)];
    both.into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(": ")
}

/// `until 2026-01-27T10:45:00.000Z`; empty if the time is unknown.
pub(super) fn limit_text(resets_at: Option<i64>) -> String {
    let at = resets_at.and_then(|at| Timestamp::from_second(at).ok());
    at.map_or_else(String::new, |at| format!("until {}", clock::iso(at)))
}

/// The line as it is in the file, with its newline; `None` if it is no JSON object.
pub(super) fn json_line(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Event(_, text) | Entry::Unknown(_, text) => Some(safe_json(text) + "\n"),
        Entry::Bad(_) => None,
    }
}

/// Writes all events so far; returns how many lines were no JSON objects.
fn write(session: &Session, json: bool, term: &Term, out: &mut dyn Write) -> io::Result<u64> {
    let mut bad = 0;
    for entry in session.entries() {
        bad += u64::from(matches!(entry, Entry::Bad(_)));
        if !json {
            writeln!(out, "{}", line(&entry, term))?;
        } else if let Some(line) = json_line(&entry) {
            out.write_all(line.as_bytes())?;
        }
    }
    Ok(bad)
}

/// Writes the lines of `stdout.log` that the events were made from, each once; returns how many
/// could not be read.
fn write_raw(session: &Session, is_terminal: bool, out: &mut dyn Write) -> io::Result<u64> {
    let mut raw = atomic::open_regular(&session.path("stdout.log")).ok();
    let (mut missing, mut last) = (0, None);
    for event in session.events() {
        let place = (event.offset, event.length);
        if last.replace(place) == Some(place) {
            continue;
        }
        let done = match &mut raw {
            Some(raw) => raw_line(raw, place, is_terminal, out)?,
            None => false,
        };
        missing += u64::from(!done);
    }
    Ok(missing)
}

/// `Ok(false)`: the file ends before that offset.
fn raw_line(
    raw: &mut File,
    (offset, length): (u64, u64),
    is_terminal: bool,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let end = raw.metadata().map_or(0, |m| m.len());
    let fits = offset.checked_add(length).is_some_and(|e| e <= end);
    if !fits || raw.seek(SeekFrom::Start(offset)).is_err() {
        return Ok(false);
    }
    if is_terminal {
        let mut start = Vec::new();
        let shown = length.min(RAW_SHOWN_BYTES_MAX);
        if raw.take(shown).read_to_end(&mut start).is_err() {
            return Ok(false);
        }
        let more = if shown < length { "…" } else { "" };
        writeln!(out, "{}{more}", safe(&String::from_utf8_lossy(&start)))?;
        return Ok(true);
    }
    let mut chunk = vec![0; 64 << 10];
    let mut left = length;
    while left > 0 {
        let want = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match raw.read(&mut chunk[..want]) {
            Ok(n) if n > 0 => {
                out.write_all(&chunk[..n])?;
                left -= n as u64;
            }
            _ => break,
        }
    }
    out.write_all(b"\n")?;
    Ok(left == 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use crate::event::Line;
    use crate::layout::Root;

    #[test]
    fn a_terminal_gets_raw_lines_without_control_characters_and_a_pipe_gets_them_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let sid = "019beef0-0000-7000-8000-0000000000aa";
        let at = root.session(sid);
        atomic::make_dir(&at, true).unwrap();
        let raw = b"one\n\x1b[2J\xff\n".to_vec();
        let long = "x".repeat(100_000);
        let all = [&raw[..], long.as_bytes(), b"\n"].concat();
        drop(atomic::create(&at.join("stdout.log"), &all, 0o600).unwrap());
        let mut events = Vec::new();
        for (offset, length) in [
            (0, 3),
            (4, 5),
            (4, 5),
            (10, 100_000),
            (9, u64::MAX),
            (1 << 40, 1),
        ] {
            let line = Line {
                at: "2026-01-27T10:45:00.000Z",
                body: Body::Usage(Default::default()),
                offset,
                length,
            };
            line.write(&mut events);
        }
        drop(atomic::create(&at.join("events.jsonl"), &events, 0o600).unwrap());
        let session = Session::read(&root, sid);
        let written = |is_terminal| {
            let mut out = Vec::new();
            let missing = write_raw(&session, is_terminal, &mut out).unwrap();
            (missing, out)
        };
        assert_eq!(written(false), (2, all));
        let (missing, shown) = written(true);
        let shown = String::from_utf8(shown).unwrap();
        assert_eq!((missing, shown.lines().count()), (2, 3));
        assert!(shown.starts_with("one\n\\u{1b}[2J\u{fffd}\nxxx"), "{shown}");
        assert!(shown.ends_with("x…\n") && shown.len() < 70_000);
    }

    #[test]
    fn an_event_is_one_line_that_fits_the_terminal() {
        let line = Line {
            at: "2026-01-27T10:45:00.000Z".into(),
            body: Body::Text {
                text: "a\nb ".repeat(100),
                delta: false,
                clipped: true,
            },
            offset: 0,
            length: 1,
        };
        let got = Entry::Event(Box::new(line), String::new());
        let narrow = Term {
            color: true,
            width: Some(60),
            height: None,
        };
        let text = super::line(&got, &narrow);
        assert_eq!(text.chars().count(), 60, "{text}");
        let whole = super::line(&got, &Term::PLAIN);
        assert!(
            whole.lines().count() == 1 && whole.ends_with("a\\nb  …"),
            "{whole}"
        );
    }
}
