//! `harness session events`: each event on a line, as an event line, or as the line that it comes
//! from.
//!
//! Invariant: on a terminal no byte of an agent is obeyed; into a pipe raw lines go as they are.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::atomic;
use crate::event::{Body, Line};
use crate::session::read::Session;
use crate::session::read::lines::Got;
use crate::session::read::trouble::{limit_words, retry_words};
use crate::view::table::clip;
use crate::view::{Paint, Term, count_of, local_time, safe, safe_json};

use super::cost;

/// Of a raw line on a terminal: nobody reads more of one line.
const RAW_SHOWN_BYTES_MAX: u64 = 64 << 10;

/// A line for people, without its newline.
pub fn line(got: &Got, term: &Term) -> String {
    let (at, word, paint, text) = match got {
        Got::Event(line, _) => {
            let (word, paint, text) = words(line);
            (local_time(&line.at), word.to_owned(), paint, text)
        }
        Got::Unknown(value, text) => {
            let at = value["at"].as_str().map(local_time).unwrap_or_default();
            let word = value["event"].as_str().unwrap_or("?");
            (at, word.to_owned(), Paint::Dim, text.clone())
        }
        Got::Bad(length) => {
            let text = format!("{length} bytes of events.jsonl are no event");
            (String::new(), "(unreadable)".to_owned(), Paint::Red, text)
        }
    };
    let (word, text) = (safe(&word), safe(&text));
    // The time, the word, and two blanks behind each.
    let before = 19 + 2 + word.chars().count().max(9) + 2;
    let room = term.width.map_or(usize::MAX, |w| w.saturating_sub(before));
    let text = clip(&text, room);
    let word = paint.on(&format!("{word:<9}"), term);
    format!("{at:<19}  {word}  {text}").trim_end().to_owned()
}

/// Its word, and what there is to say.
fn words(line: &Line) -> (&'static str, Paint, String) {
    let head = |clipped: bool| if clipped { " …" } else { "" };
    match &line.body {
        Body::SessionStarted {
            cli_session,
            model,
            version,
        } => {
            let told = [("model", model), ("version", version), ("id", cli_session)];
            let told = told
                .iter()
                .filter_map(|(n, v)| v.as_ref().map(|v| format!("{n} {v}")));
            ("started", Paint::Dim, told.collect::<Vec<_>>().join(", "))
        }
        Body::Text { text, clipped, .. } => ("text", Paint::Plain, text.clone() + head(*clipped)),
        Body::Thinking { text, clipped } => ("thinking", Paint::Dim, text.clone() + head(*clipped)),
        Body::ToolCall {
            tool,
            input,
            clipped,
            ..
        } => {
            let input = match input {
                serde_json::Value::Null => String::new(),
                serde_json::Value::String(s) => format!(" {s}"),
                other => format!(" {other}"),
            };
            (
                "tool",
                Paint::Cyan,
                format!("{tool}{input}{}", head(*clipped)),
            )
        }
        Body::ToolResult {
            is_error,
            output,
            clipped,
            ..
        } => {
            let (word, paint) = if *is_error {
                ("failed", Paint::Red)
            } else {
                ("result", Paint::Dim)
            };
            (word, paint, output.clone() + head(*clipped))
        }
        Body::Usage(u) => {
            let mut text = format!(
                "{}, {} tokens in, {} out",
                count_of(u.turns, "turn"),
                u.input_tokens,
                u.output_tokens
            );
            if u.cache_read_tokens > 0 || u.cache_write_tokens > 0 {
                text += &format!(
                    ", {} from the cache, {} to it",
                    u.cache_read_tokens, u.cache_write_tokens
                );
            }
            let usd = cost(u.cost_usd.unwrap_or(0.0));
            if !usd.is_empty() {
                text += &format!(", {usd}");
            }
            ("usage", Paint::Dim, text)
        }
        Body::Retrying {
            class,
            attempt,
            max,
            wait_ms,
            message,
        } => {
            let text = retry_words(*attempt, *max, *wait_ms, message);
            (
                "retry",
                Paint::Yellow,
                format!("{}, {text}", class.as_str()),
            )
        }
        Body::Limited { resets_at, limit } => {
            let limit = limit.as_deref().unwrap_or("a limit");
            (
                "limit",
                Paint::Red,
                format!("{limit} {}", limit_words(*resets_at)),
            )
        }
        Body::PermissionDenied { tool, .. } => ("denied", Paint::Red, tool.clone()),
        Body::Error { class, message } => (
            "error",
            Paint::Red,
            format!("{}: {message}", class.as_str()),
        ),
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

/// The event line as it is in the file, with its newline; nothing for what is no JSON object.
pub fn json_line(got: &Got) -> Option<String> {
    match got {
        Got::Event(_, text) | Got::Unknown(_, text) => Some(safe_json(text) + "\n"),
        Got::Bad(_) => None,
    }
}

/// Writes all that there are so far; how many lines were no JSON objects.
pub fn write(session: &Session, json: bool, term: &Term, out: &mut dyn Write) -> io::Result<u64> {
    let mut bad = 0;
    let Some(mut lines) = session.lines() else {
        return Ok(0);
    };
    while let Some(got) = lines.next_or_last() {
        bad += u64::from(matches!(got, Got::Bad(_)));
        if !json {
            writeln!(out, "{}", line(&got, term))?;
        } else if let Some(line) = json_line(&got) {
            out.write_all(line.as_bytes())?;
        }
    }
    Ok(bad)
}

/// Writes the lines of `stdout.log` from which the events were made, each once. How many could
/// not be read.
pub fn write_raw(session: &Session, is_terminal: bool, out: &mut dyn Write) -> io::Result<u64> {
    let mut missing = 0;
    let (Some(mut lines), raw) = (
        session.lines(),
        atomic::open_regular(&session.path("stdout.log")),
    ) else {
        return Ok(0);
    };
    let mut raw = raw.ok();
    let mut last = None;
    while let Some(got) = lines.next_or_last() {
        let Got::Event(line, _) = got else { continue };
        let place = (line.offset, line.length);
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

/// `Ok(false)`: the file does not reach so far.
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
    use crate::atomic;
    use crate::layout::Root;

    #[test]
    fn a_terminal_gets_raw_lines_that_it_cannot_obey_and_a_pipe_gets_them_as_they_are() {
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
                at: "2026-01-27T10:45:00.000Z".into(),
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
        let got = Got::Event(Box::new(line), String::new());
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
