//! The story of one item, from the lines of its record, in words that a newcomer understands.
//!
//! Knows nothing of files: the caller reads the record. Invariant: every event that is in the
//! record is told, one line each; an event or a field that is not understood is shown as it is.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::clock;
use crate::layout::Name;

use super::table::Cell;
use super::{Paint, count_of, safe, time_in};

/// The titles of the columns that `summary_row` fills.
pub const SUMMARY_HEAD: &[&str] = &["NAME", "STATE", ">TRIES", "OUTCOME", "LAST CHANGE", "WHY"];

/// An unknown event is shown up to here: it is a line, not a page.
const RAW_CHARS_MAX: usize = 300;

/// Tells what happened to an item. `state`: where it is now (`pending`, `scheduled`, `blocked`,
/// `claimed`, `done`, `parked`); `reason`: why it is there, where somebody knows.
pub fn story(name: &Name, state: &str, reason: Option<&str>, events: &[Value]) -> String {
    story_in(name, state, reason, events, &TimeZone::system())
}

fn story_in(
    name: &Name,
    state: &str,
    reason: Option<&str>,
    events: &[Value],
    tz: &TimeZone,
) -> String {
    let shown = safe(&name.shown());
    let mut out = format!("{shown}: {}\n", state_words(state));
    if let Some(reason) = reason.filter(|r| !r.is_empty()) {
        out.push_str(&format!("  why: {}\n", safe(reason)));
    }
    if events.is_empty() {
        out.push_str("\nNothing has happened to it yet.\n");
    } else {
        out.push('\n');
    }
    for event in events {
        let at = text(event, "at").map_or_else(|| "?".to_owned(), |at| time_in(&at, tz));
        out.push_str(&format!("  {at:<19}  {}\n", sentence(event, tz)));
    }
    if let Some(next) = what_next(state, name, events) {
        out.push_str(&format!("\nWhat now: {next}\n"));
    }
    out
}

/// One line of `list`, in the columns of `SUMMARY_HEAD`.
pub fn summary_row(name: &Name, state: &str, reason: Option<&str>, events: &[Value]) -> Vec<Cell> {
    let outcome = newest(events, &["outcome"]).unwrap_or_default();
    let paint = match outcome.as_str() {
        "succeeded" => Paint::Green,
        "" | "no_change" => Paint::Plain,
        _ => Paint::Red,
    };
    let at = events.iter().rev().find_map(|e| text(e, "at"));
    let at = at.map(|at| time_in(&at, &TimeZone::system()));
    let why = match reason {
        Some(reason) => Some(reason.to_owned()),
        None if state == "parked" => newest(events, &["reason"]),
        None => None,
    };
    vec![
        Cell::new(name.shown()),
        Cell::new(state),
        Cell::new(attempts(events).to_string()),
        Cell::painted(outcome, paint),
        Cell::new(at.unwrap_or_default()),
        Cell::new(why.unwrap_or_default()),
    ]
}

/// Attempts that were started.
fn attempts(events: &[Value]) -> usize {
    events.iter().filter(|e| kind(e) == "started").count()
}

fn newest(events: &[Value], keys: &[&str]) -> Option<String> {
    let of = |e: &Value| keys.iter().find_map(|key| text(e, key));
    events.iter().rev().find_map(of)
}

fn state_words(state: &str) -> String {
    match state {
        "pending" => "waits for a free agent".to_owned(),
        "scheduled" => "waits for its time".to_owned(),
        "blocked" => "waits for something else".to_owned(),
        "claimed" => "an agent is working on it".to_owned(),
        "done" => "done".to_owned(),
        "parked" => "parked, it needs a person".to_owned(),
        other => safe(other),
    }
}

/// Words for an outcome, after "attempt 1".
pub fn outcome_words(outcome: &str) -> String {
    let words = match outcome {
        "succeeded" => "succeeded",
        "no_change" => "finished without changing anything",
        "failed" => "failed",
        "timed_out" => "ran out of time and was stopped",
        "stalled" => "went silent and was stopped",
        "crashed" => "crashed",
        "refused" => "was refused",
        "canceled" => "was canceled",
        "over_budget" => "went over its budget",
        "limited" => "met a usage limit",
        "gate_failed" => "did not pass its gates",
        "conflict" => "conflicts with what others changed",
        "interrupted" => "was interrupted",
        "" => "ended",
        other => return format!("ended: {}", safe(other)),
    };
    words.to_owned()
}

fn kind(event: &Value) -> &str {
    event.get("event").and_then(Value::as_str).unwrap_or("")
}

/// A field as one line; `None` where it is missing, null or empty.
fn text(event: &Value, key: &str) -> Option<String> {
    let found = match event.get(key)? {
        Value::Null => return None,
        Value::String(s) => safe(s),
        Value::Array(all) if all.iter().all(Value::is_string) => {
            let parts: Vec<String> = all.iter().filter_map(Value::as_str).map(safe).collect();
            parts.join("; ")
        }
        other => safe(&other.to_string()),
    };
    (!found.is_empty()).then_some(found)
}

fn number(event: &Value, key: &str) -> Option<u64> {
    event.get(key).and_then(Value::as_u64)
}

/// `before FIELD after`, or nothing.
fn part(event: &Value, key: &str, before: &str, after: &str) -> String {
    text(event, key).map_or_else(String::new, |t| format!("{before}{t}{after}"))
}

fn because(event: &Value) -> String {
    part(event, "reason", ": ", "")
}

fn who(event: &Value) -> String {
    text(event, "slot").unwrap_or_else(|| "an agent".to_owned())
}

fn sentence(event: &Value, tz: &TimeZone) -> String {
    match kind(event) {
        "added" => format!("added{}", part(event, "by", " by ", "")),
        "claimed" => format!(
            "{} took it{}",
            who(event),
            part(event, "harness_pid", " (harness process ", ")")
        ),
        "started" => started(event),
        "adopted" => format!(
            "harness process {} took over the running {}{}",
            text(event, "harness_pid").unwrap_or_else(|| "?".to_owned()),
            who(event),
            part(event, "session", " (session ", ")")
        ),
        "publishing" => format!(
            "{} ended well; its branch {} is being put into your repository",
            attempt_of(event),
            text(event, "branch").unwrap_or_else(|| "?".to_owned()),
        ),
        "finished" => finished(event, tz),
        "requeued" => format!("put back into the queue{}", because(event)),
        "parked" => format!(
            "parked for a person{}{}",
            outcome_note(event),
            because(event)
        ),
        "refused" => format!("refused{}", because(event)),
        "canceled" => format!(
            "canceled{}{}",
            part(event, "to", ", moved to ", ""),
            because(event)
        ),
        "released" => "let go, for any agent to take".to_owned(),
        "interrupted" => format!(
            "{} was stopped in its tracks, for a person to look{}",
            who(event),
            because(event)
        ),
        "resumed" => "it went on".to_owned(),
        "answered" => format!(
            "its interrupt ended, back in the queue{}",
            part(event, "answer", "; the answer: ", "")
        ),
        "retried" => format!(
            "sent back to be tried again{}",
            part(event, "by", " by ", "")
        ),
        _ => raw(event),
    }
}

fn outcome_note(event: &Value) -> String {
    let outcome = event.get("outcome").and_then(Value::as_str).unwrap_or("");
    match outcome {
        "" | "succeeded" => String::new(),
        other => format!(" (it {})", outcome_words(other)),
    }
}

fn attempt_of(event: &Value) -> String {
    match number(event, "attempt") {
        Some(n) => format!("attempt {n}"),
        None => "an attempt".to_owned(),
    }
}

fn started(event: &Value) -> String {
    let mut s = format!("{} started", attempt_of(event));
    s += &part(event, "base", " from ", "");
    if let Some(oid) = text(event, "base_oid") {
        let short: String = oid.chars().take(9).collect();
        s += &format!(" ({short})");
    }
    s += &part(event, "branch", " on its branch ", "");
    s += &part(event, "pid", ", process ", "");
    s + &part(event, "session", ", session ", "")
}

/// What happened, why, what came of it, and what is next.
fn finished(event: &Value, tz: &TimeZone) -> String {
    let outcome = event.get("outcome").and_then(Value::as_str).unwrap_or("");
    let mut s = format!("{} {}", attempt_of(event), outcome_words(outcome));
    if let Some(seconds) = event.get("seconds").and_then(Value::as_f64) {
        let took = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
        s += &format!(" after {}", clock::human(took));
    }
    s += &because(event);
    if let Some(n) = number(event, "files_changed").filter(|&n| n > 0) {
        s += &format!(", {} changed", count_of(n, "file"));
    }
    if event.get("leftover") == Some(&Value::Bool(true)) {
        s += "; what it had not committed was committed for it";
    }
    s += &part(event, "published", "; branch ", " is in your repository");
    let kept = number(event, "commits").is_some_and(|n| n > 0);
    if kept && text(event, "published").is_none() {
        s += &part(
            event,
            "branch",
            "; its work is kept as ",
            " in state/repos/",
        );
    }
    s += &part(event, "notes", "; ", "");
    s + &match text(event, "next").as_deref() {
        Some("retry") => match event.get("not_before_ns").and_then(Value::as_i64) {
            Some(ns) => format!("; tried again from {}", time_of(ns, tz)),
            None => "; tried again".to_owned(),
        },
        Some("pending") => "; back in the queue, not counted".to_owned(),
        Some("parked") => "; parked".to_owned(),
        _ => String::new(),
    }
}

fn time_of(ns: i64, tz: &TimeZone) -> String {
    let at = clock::Timestamp::from_nanosecond(ns.into()).map(clock::iso);
    time_in(&at.unwrap_or_default(), tz)
}

fn raw(event: &Value) -> String {
    let mut event = event.clone();
    if let Some(fields) = event.as_object_mut() {
        fields.remove("at");
    }
    super::table::clip(&safe(&event.to_string()), RAW_CHARS_MAX)
}

/// What a person can do about it; the name is quoted where a shell would misread it.
fn what_next(state: &str, name: &Name, events: &[Value]) -> Option<String> {
    let arg = argument(name);
    match state {
        "parked" => {
            let look = newest(events, &["session"]);
            let look = look.map(|sid| format!("read state/sessions/{sid}/, then "));
            Some(format!(
                "{}`harness retry {arg}` to try it again",
                look.unwrap_or_default()
            ))
        }
        "claimed" => Some(format!(
            "`harness cancel {arg}` stops it and keeps its work"
        )),
        "done" if newest(events, &["outcome"]).as_deref() == Some("succeeded") => {
            newest(events, &["published"])
                .map(|b| format!("`git log -p {b}` shows its work; merge it if you like it"))
        }
        _ => None,
    }
}

/// `NAME` where the name cannot be written on one line as it is.
fn argument(name: &Name) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+/@:%".contains(&b);
    let dashes = if name.bytes().starts_with(b"-") {
        "-- "
    } else {
        ""
    };
    match name.as_os_str().to_str() {
        Some(text) if text.bytes().all(plain) => format!("{dashes}{text}"),
        Some(text) if safe(text) == text => format!("{dashes}'{}'", text.replace('\'', "'\\''")),
        _ => format!("{dashes}NAME"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use serde_json::json;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn told(name: &str, state: &str, reason: Option<&str>, events: &[Value]) -> String {
        story_in(&Name::new(name), state, reason, events, &TimeZone::UTC)
    }

    #[test]
    fn an_item_that_needed_two_attempts() {
        let at = |s: &str| format!("2026-01-27T{s}Z");
        let events = [
            json!({"at": at("10:45:00.1"), "event": "added", "by": "harness add"}),
            json!({"at": at("10:45:01"), "event": "claimed", "slot": "agent-2", "harness_pid": 7}),
            json!({"at": at("10:45:02"), "event": "started", "session": "S1", "slot": "agent-2",
                "attempt": 1, "branch": "harness/fix.md/1", "base": "main",
                "base_oid": "0123456789abcdef", "pid": 70, "command": ["claude", "-p"]}),
            json!({"at": at("10:46:00"), "event": "adopted", "session": "S1", "slot": "agent-2", "harness_pid": 8}),
            json!({"at": at("10:59:12"), "event": "finished", "session": "S1", "attempt": 1,
                "outcome": "timed_out", "signal": 15, "seconds": 850.2, "commits": 1,
                "branch": "harness/fix.md/1", "published": null, "leftover": true,
                "reason": "too slow", "next": "retry", "not_before_ns": 1_769_511_852_000_000_000_i64}),
            json!({"at": at("11:19:59"), "event": "publishing", "session": "S2", "attempt": 2,
                "branch": "harness/fix.md/2", "head": "ab", "end": {"outcome": "succeeded"}}),
            json!({"at": at("11:20:00"), "event": "finished", "session": "S2", "attempt": 2,
                "outcome": "succeeded", "exit_status": 0, "seconds": 61, "commits": 1,
                "files_changed": 2, "branch": "harness/fix.md/2", "published": "harness/fix.md/2",
                "notes": ["a", "b"], "next": "done"}),
        ];
        let want = "\
fix.md: done

  2026-01-27 10:45:00  added by harness add
  2026-01-27 10:45:01  agent-2 took it (harness process 7)
  2026-01-27 10:45:02  attempt 1 started from main (012345678) on its branch harness/fix.md/1, process 70, session S1
  2026-01-27 10:46:00  harness process 8 took over the running agent-2 (session S1)
  2026-01-27 10:59:12  attempt 1 ran out of time and was stopped after 14m10s: too slow; what it had not committed was committed for it; its work is kept as harness/fix.md/1 in state/repos/; tried again from 2026-01-27 11:04:12
  2026-01-27 11:19:59  attempt 2 ended well; its branch harness/fix.md/2 is being put into your repository
  2026-01-27 11:20:00  attempt 2 succeeded after 1m01s, 2 files changed; branch harness/fix.md/2 is in your repository; a; b

What now: `git log -p harness/fix.md/2` shows its work; merge it if you like it
";
        assert_eq!(told("fix.md", "done", None, &events), want);
        let row = summary_row(&Name::new("fix.md"), "done", None, &events);
        let texts: Vec<&str> = row.iter().map(Cell::text).collect();
        assert_eq!(texts[..4], ["fix.md", "done", "1", "succeeded"]);
        assert_eq!(row.len(), SUMMARY_HEAD.len());
    }

    #[test]
    fn a_parked_item_says_why_and_what_to_do() {
        let events = [
            json!({"at": "2026-01-27T10:00:00Z", "event": "finished", "outcome": "failed",
                "session": "S1", "exit_status": 3, "reason": "exit status 3", "published": null}),
            json!({"at": "2026-01-27T10:00:00Z", "event": "parked", "outcome": "failed", "reason": "no retries left"}),
        ];
        let text = told("it's 1.md", "parked", Some("no retries left"), &events);
        assert!(
            text.starts_with("it's 1.md: parked, it needs a person\n  why: no retries left\n"),
            "{text}"
        );
        assert!(
            text.contains("an attempt failed: exit status 3\n"),
            "{text}"
        );
        assert!(
            text.contains("parked for a person (it failed): no retries left"),
            "{text}"
        );
        let next = "read state/sessions/S1/, then `harness retry 'it'\\''s 1.md'` to try it again";
        assert!(text.contains(next), "{text}");
        let row = summary_row(&Name::new("x"), "parked", None, &events);
        assert_eq!(row[5].text(), "no retries left");
    }

    #[test]
    fn any_line_is_told_on_one_line_and_no_text_reaches_the_terminal_raw() {
        let events = [
            json!(null),
            json!(7),
            json!(["x"]),
            json!({"event": 5, "at": 7}),
            json!({"event": "later\u{1b}[2J", "at": "2026-01-27T10:00:00Z", "x": "a\nb", "z": "y".repeat(999)}),
            json!({"event": "finished", "seconds": -1e300, "commits": "many", "outcome": "odd\r"}),
            json!({"event": "started"}),
            json!({"event": "refused", "reason": "a\nb\u{7}"}),
            json!({"event": "canceled", "to": "parked", "reason": ""}),
            json!({"event": "moved"}),
        ];
        let name = Name::new(OsStr::from_bytes(b"-\xff\n"));
        let text = story_in(&name, "parked", Some("r\n\u{9b}"), &events, &TimeZone::UTC);
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3 + events.len() + 2, "{text}");
        assert_eq!(lines[0], "-\\xff\\n: parked, it needs a person");
        assert!(
            lines[7].contains(r#"{"event":"later"#) && lines[7].ends_with('…'),
            "{text}"
        );
        assert!(text.contains("`harness retry -- NAME`"), "{text}");
        assert!(told("x", "pending", None, &[]).contains("Nothing has happened"));
    }
}
