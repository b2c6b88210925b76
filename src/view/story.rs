//! The story of one item, told from its record in words that a newcomer understands.
//!
//! Knows nothing of files: the caller reads the record. Invariant: every event in the record is one
//! line; an event of a newer version is shown as raw JSON.

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::clock;
use crate::layout::{Name, gate_log_name};
use crate::outcome::{Means, Next, Outcome, Verdict, Word};
use crate::quote;
use crate::record::{
    Canceled, Event, Finished, GateRan, History, HookFailed, Landing, Line, Started, more_notes,
};
use crate::session::gates;

use super::table::Cell;
use super::{Paint, count_of, line as one_line, safe, short, time_in, took};

/// Titles of the columns of `summary_row`.
pub(crate) const SUMMARY_HEAD: &[&str] = &[
    "~NAME",
    "STATE",
    "?>TRIES",
    "OUTCOME",
    "?LAST CHANGE",
    "WHY",
];

/// Most characters shown of an unknown event.
const RAW_CHARS_MAX: usize = 300;

/// Where an item stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Standing<'a> {
    /// `pending`, `scheduled`, `blocked`, `claimed`, `stuck`, `done` or `parked`.
    pub(crate) state: &'a str,
    /// Why it is in that state, if known.
    pub(crate) reason: Option<&'a str>,
    /// What a person can do about the question that it waits with.
    pub(crate) ways: Option<&'a str>,
}

/// The story of an item. `understood`: what its fields are taken for.
pub(crate) fn story(
    name: &Name,
    standing: &Standing<'_>,
    understood: &str,
    lines: &[Line],
) -> String {
    story_in(name, standing, understood, lines, &TimeZone::system())
}

fn story_in(
    name: &Name,
    standing: &Standing<'_>,
    understood: &str,
    lines: &[Line],
    tz: &TimeZone,
) -> String {
    let (state, reason) = (standing.state, standing.reason);
    let shown = safe(&name.shown());
    let mut out = format!("{shown}: {}\n", state_words(state));
    if let Some(reason) = reason.filter(|r| !r.is_empty()) {
        out.push_str(&format!("  why: {}\n", one_line(reason)));
    }
    out.push_str(&part("  ", understood, "\n"));
    if lines.is_empty() {
        out.push_str("\nNothing has happened to it yet.\n");
    } else {
        out.push('\n');
    }
    for line in lines {
        let at = when(line, tz).unwrap_or_else(|| "?".to_owned());
        out.push_str(&format!("  {at:<19}  {}\n", sentence(line, tz)));
    }
    let next = match standing.ways {
        Some(ways) => Some(ways.to_owned()),
        None => what_next(state, name, &History::of(lines)),
    };
    if let Some(next) = next {
        out.push_str(&format!("\nWhat now: {next}\n"));
    }
    out
}

fn when(line: &Line, tz: &TimeZone) -> Option<String> {
    (!line.at.is_empty()).then(|| time_in(&safe(&line.at), tz))
}

/// One row of `list`, in the columns of `SUMMARY_HEAD`.
pub(crate) fn summary_row(
    name: &Name,
    state: &str,
    reason: Option<&str>,
    lines: &[Line],
) -> Vec<Cell> {
    let history = History::of(lines);
    let paint = match history.outcome.as_ref().map(Word::known) {
        Some(Some(Outcome::Succeeded)) => Paint::Green,
        None | Some(Some(Outcome::NoChange)) => Paint::Plain,
        Some(_) => Paint::Red,
    };
    let at = lines
        .iter()
        .rev()
        .find_map(|line| when(line, &TimeZone::system()));
    let why = match reason {
        Some(reason) => Some(reason.to_owned()),
        None if state == "parked" => history.reason,
        None => None,
    };
    let outcome = history.outcome.as_ref().map_or("", Word::as_str);
    vec![
        Cell::new(name.shown()),
        Cell::new(state),
        Cell::new(history.attempts.to_string()),
        Cell::painted(outcome, paint),
        Cell::new(at.unwrap_or_default()),
        Cell::new(why.unwrap_or_default()),
    ]
}

fn state_words(state: &str) -> String {
    match state {
        "pending" => "waits for a free agent".to_owned(),
        "scheduled" => "waits for its time".to_owned(),
        "blocked" => "waits for something else".to_owned(),
        "claimed" => "an agent is working on it".to_owned(),
        "stuck" => "claimed, and nothing works on it".to_owned(),
        "review" => "its branch waits for your approval".to_owned(),
        "merge" => "its branch waits to be merged".to_owned(),
        "done" => "done".to_owned(),
        "parked" => "parked, it needs a person".to_owned(),
        other => safe(other),
    }
}

/// An outcome in words, to follow "attempt 1". `fault`: the class of what its CLI reported.
fn outcome_words(outcome: Option<&Word<Outcome>>, fault: Option<&str>) -> String {
    let outcome = match outcome {
        None => return "ended".to_owned(),
        Some(Word::Newer(word)) => return format!("ended: {}", safe(word)),
        Some(Word::Known(outcome)) => outcome,
    };
    let words = match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::NoChange => "finished without changing anything",
        Outcome::Failed => "failed",
        Outcome::TimedOut => "ran out of time and was stopped",
        Outcome::Stalled => "went silent and was stopped",
        Outcome::Crashed => "crashed",
        Outcome::Refused => "was refused",
        Outcome::Canceled => "was canceled",
        Outcome::OverBudget => "went over its budget",
        Outcome::Limited => match fault {
            Some("billing") => "met an account without credit",
            Some("rate_limit") => "met a rate limit",
            _ => "met a usage limit",
        },
        Outcome::GateFailed => "did not pass its gates",
        Outcome::Conflict => "conflicts with what others changed",
        Outcome::Interrupted => "was interrupted",
    };
    words.to_owned()
}

/// `before TEXT after`, or an empty string if there is no text.
fn part(before: &str, text: &str, after: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("{before}{}{after}", one_line(text)),
    }
}

fn part_of(before: &str, text: Option<&String>, after: &str) -> String {
    part(before, text.map_or("", String::as_str), after)
}

fn number(before: &str, number: Option<impl ToString>, after: &str) -> String {
    part_of(before, number.map(|n| n.to_string()).as_ref(), after)
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

fn sentence(line: &Line, tz: &TimeZone) -> String {
    match &line.event {
        Event::Added(added) => format!("added{}", part(" by ", &added.by, "")),
        Event::Claimed(claimed) => format!(
            "{} took it{}",
            safe(or(&claimed.slot, "a slot")),
            number(" (harness process ", claimed.harness_pid, ")")
        ),
        Event::Started(started) => started_words(started),
        Event::Adopted(adopted) => format!(
            "harness process {} took over the running {}{}",
            adopted
                .harness_pid
                .map_or("?".into(), |pid| pid.to_string()),
            safe(or(&adopted.slot, "agent")),
            part(" (session ", &adopted.session, ")")
        ),
        Event::Publishing(publishing) => format!(
            "{} ended well; its branch {} is being put into your repository",
            attempt_of(publishing.attempt),
            safe(or(&publishing.branch, "?")),
        ),
        Event::Finished(finished) => finished_words(finished, tz),
        Event::Requeued(requeued) => format!(
            "put back into the queue{}",
            part(": ", &requeued.reason, "")
        ),
        Event::Parked(parked) => {
            format!("parked for a person{}", part(": ", &parked.reason, ""))
        }
        Event::Stays(stays) => {
            format!("stays where it is{}", part(": ", &stays.reason, ""))
        }
        Event::Refused(refused) => format!("refused{}", part(": ", &refused.reason, "")),
        Event::Canceled(canceled) => canceled_words(canceled),
        Event::Released(_) => "let go, for any agent to take".to_owned(),
        Event::Interrupted(interrupted) => format!(
            "{} was frozen, for a person to look{}",
            safe(or(&interrupted.slot, "its agent")),
            part(": ", &interrupted.reason, "")
        ),
        Event::Resumed(_) => "it went on".to_owned(),
        Event::Answered(answered) => format!(
            "its interrupt ended, back in the queue{}",
            part_of("; the answer: ", answered.answer.as_ref(), "")
        ),
        Event::Retried(retried) => format!(
            "sent back to be tried again{}",
            part(" by ", &retried.by, "")
        ),
        Event::Gating(_) => "its agent has ended well; its gates begin".to_owned(),
        Event::Gate(ran) => gate_words(ran),
        Event::Approved(reviewed) => format!("approved{}", part(" by ", &reviewed.by, "")),
        Event::Rejected(reviewed) => format!(
            "sent back{}{}",
            part(" by ", &reviewed.by, ""),
            part_of(": ", reviewed.comment.as_ref(), "")
        ),
        Event::Landing(landing) => format!(
            "its branch is about to land on {}{}",
            safe(or(&landing.into, "its base")),
            part(" as ", &short(&landing.commit), "")
        ),
        Event::Merged(landing) => merged_words(landing),
        Event::Returned(returned) => {
            let files = returned.files.join(", ");
            format!(
                "not merged{}{}",
                part(": ", &returned.reason, ""),
                part(" (", &files, ")")
            )
        }
        Event::Hook(failed) => hook_words(failed),
        Event::Unknown(_) => as_it_stands(&line.object),
    }
}

fn hook_words(failed: &HookFailed) -> String {
    let hook = safe(or(&failed.hook, "a hook"));
    format!("{hook} did not go well{}", part(": ", &failed.reason, ""))
}

/// What a gate said, on one line.
pub(crate) fn gate_words(ran: &GateRan) -> String {
    let evidence = gates::evidence(ran, Means::Told);
    let took = match ran.seconds > 0.1 {
        true => format!(" (after {})", took(ran.seconds)),
        false => String::new(),
    };
    let named = ran.log.as_ref().filter(|log| gate_log_name(log).is_some());
    let log = named.filter(|_| evidence.verdict != Verdict::Green);
    let log = log.map_or_else(String::new, |log| {
        format!("; its output: state/sessions/{}/{log}", ran.session)
    });
    safe(&format!("{}{took}{log}", evidence.line()))
}

fn merged_words(landing: &Landing) -> String {
    let gates: Vec<String> = landing
        .gates
        .iter()
        .map(|(gate, verdict)| format!("{gate} {}", verdict.as_str()))
        .collect();
    let with = match landing.batch.len() {
        0 | 1 => String::new(),
        n => format!(", in a batch of {n}"),
    };
    format!(
        "merged into {} as {}{with}{}",
        safe(or(&landing.into, "its base")),
        safe(&short(&landing.commit)),
        part("; gates: ", &gates.join(", "), "")
    )
}

fn attempt_of(attempt: Option<u32>) -> String {
    match attempt {
        Some(n) => format!("attempt {n}"),
        None => "an attempt".to_owned(),
    }
}

fn canceled_words(canceled: &Canceled) -> String {
    let to = part_of(", moved to ", canceled.to.as_ref(), "");
    format!("canceled{to}{}", part(": ", &canceled.reason, ""))
}

fn started_words(started: &Started) -> String {
    let mut s = format!("{} started", attempt_of(started.attempt));
    s += &part_of(" from ", started.base.as_ref(), "");
    if let Some(oid) = &started.base_oid {
        s += &part(" (", &short(oid), ")");
    }
    s += &part_of(" on its branch ", started.branch.as_ref(), "");
    s += &number(", process ", started.pid, "");
    s += &part(", session ", &started.session, "");
    s + &part_of("; ", started.understood.as_ref(), "")
}

/// How and why an attempt ended, its results, and what follows.
fn finished_words(finished: &Finished, tz: &TimeZone) -> String {
    let end = &finished.end;
    let unpaid = end.outcome == Some(Outcome::OverBudget.into()) && end.seconds <= 0.0;
    let how = match unpaid {
        true => "was not started".to_owned(),
        false => outcome_words(end.outcome.as_ref(), end.fault.as_deref()),
    };
    let mut s = format!("{} {how}", attempt_of(finished.attempt));
    if end.seconds > 0.0 {
        s += &format!(" after {}", took(end.seconds));
    }
    s += &part_of(": ", end.reason.as_ref(), "");
    if let Some(n) = end.files_changed.filter(|&n| n > 0) {
        s += &format!(", {} changed", count_of(n, "file"));
    }
    if end.leftover {
        s += "; what it had not committed was committed for it";
    }
    s += &part_of(
        "; branch ",
        finished.published.as_ref(),
        " is in your repository",
    );
    let kept = end.commits.is_some_and(|n| n > 0);
    if kept && finished.published.is_none() {
        let branch = end.branch.as_ref();
        s += &part_of("; its work is kept as ", branch, " in state/repos/");
    }
    let notes = more_notes(end.reason.as_deref(), &end.notes);
    s += &part("; ", &notes.join("; "), "");
    s + &next_words(finished, tz)
}

fn next_words(finished: &Finished, tz: &TimeZone) -> String {
    let next = match &finished.next {
        None => return String::new(),
        Some(Word::Newer(word)) => return part("; ", word, ""),
        Some(Word::Known(next)) => next,
    };
    match (next, finished.not_before_ns) {
        (Next::Retry, Some(ns)) => format!("; tried again from {}", time_of(ns, tz)),
        (Next::Retry, None) => "; tried again".to_owned(),
        (Next::Pending, _) => "; back in the queue, not counted".to_owned(),
        (Next::Parked, _) => "; parked".to_owned(),
        (Next::Review, _) => "; its branch waits for you (`harness review`)".to_owned(),
        (Next::Merge, _) => "; its branch waits to be merged".to_owned(),
        (Next::Done | Next::Left, _) => String::new(),
    }
}

fn time_of(ns: i64, tz: &TimeZone) -> String {
    let at = clock::Timestamp::from_nanosecond(ns.into()).map(clock::iso);
    time_in(&at.unwrap_or_default(), tz)
}

fn as_it_stands(object: &Value) -> String {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("at");
    }
    crate::term::clip(&safe(&object.to_string()), RAW_CHARS_MAX)
}

/// What a person can do about it, with the name quoted for a shell.
fn what_next(state: &str, name: &Name, history: &History) -> Option<String> {
    let (harness, arg) = (quote::harness(), quote::item(name));
    match state {
        "parked" => {
            let last = history.last.as_ref().or(history.previous.as_ref());
            let look = match last {
                Some(_) => format!("`{harness} logs {arg}` says what it printed, "),
                None => String::new(),
            };
            let again = format!("`{harness} retry {arg}` tries it again");
            Some(match conflict(history) {
                Some(by_hand) => format!("{by_hand}; or {again}"),
                None => format!("{look}{again}"),
            })
        }
        "review" => Some(format!(
            "`{harness} review {arg}` shows its changes, `{harness} approve {arg}` has them merged, \
             `{harness} reject {arg} --comment TEXT` has it try again"
        )),
        "claimed" => Some(format!(
            "`{harness} cancel {arg}` stops it and keeps its work"
        )),
        "done" if history.outcome == Some(Outcome::Succeeded.into()) => {
            let merged = history.last.as_ref().and_then(|last| last.merged.as_ref());
            if let Some(landing) = merged {
                return Some(format!(
                    "`git show -m {:.9}` shows what it brought",
                    landing.commit
                ));
            }
            let branch = safe(history.branch.as_ref()?);
            Some(format!(
                "`git log -p {branch}` shows its work; merge it if you like it"
            ))
        }
        _ => None,
    }
}

/// How a person merges what conflicts.
fn conflict(history: &History) -> Option<String> {
    if history.outcome != Some(Outcome::Conflict.into()) {
        return None;
    }
    let branch = quote::shell_quoted(safe(history.branch.as_ref()?).as_ref());
    Some(format!(
        "`git merge {branch}` in your checkout brings its work, and you resolve what conflicts"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use serde_json::json;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn told(name: &str, state: &str, reason: Option<&str>, lines: &[Line]) -> String {
        let standing = Standing {
            state,
            reason,
            ways: None,
        };
        story_in(&Name::new(name), &standing, "", lines, &TimeZone::UTC)
    }

    #[test]
    fn an_item_that_needed_two_attempts() {
        let at = |s: &str| format!("2026-01-27T{s}Z");
        let events = [
            json!({"at": at("10:45:00.1"), "event": "added", "by": "harness add"}),
            json!({"at": at("10:45:01"), "event": "claimed", "slot": "agent-2", "harness_pid": 7, "session": "S1", "attempt": 1}),
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
        ]
        .map(|line| Line::of(line).unwrap());
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
            json!({"event": "claimed", "session": "S1"}),
            json!({"at": "2026-01-27T10:00:00Z", "event": "finished", "outcome": "failed",
                "session": "S1", "exit_status": 3, "reason": "exit status 3", "published": null}),
            json!({"at": "2026-01-27T10:00:00Z", "event": "parked", "reason": "no retries left"}),
        ]
        .map(|line| Line::of(line).unwrap());
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
            text.contains("parked for a person: no retries left"),
            "{text}"
        );
        let next = "`harness logs 'it'\\''s 1.md'` says what it printed, `harness retry 'it'\\''s 1.md'` tries";
        assert!(text.contains(next), "{text}");
        let row = summary_row(&Name::new("x"), "parked", None, &events);
        assert_eq!(row[5].text(), "no retries left");
    }

    #[test]
    fn any_line_is_told_on_one_line_and_no_text_reaches_the_terminal_raw() {
        let events = [
            json!({"event": 5, "at": 7}),
            json!({"event": "later\u{1b}[2J", "at": "2026-01-27T10:00:00Z", "x": "a\nb", "z": "y".repeat(999)}),
            json!({"event": "finished", "seconds": -1e300, "commits": "many", "outcome": "odd\r"}),
            json!({"event": "started"}),
            json!({"event": "refused", "reason": "a\nb\u{7}"}),
            json!({"event": "canceled", "to": "parked", "reason": ""}),
            json!({"event": "moved"}),
        ]
        .map(|line| Line::of(line).unwrap());
        let name = Name::new(OsStr::from_bytes(b"-\xff\n"));
        let standing = Standing {
            state: "parked",
            reason: Some("r\n\u{9b}"),
            ways: None,
        };
        let text = story_in(&name, &standing, "", &events, &TimeZone::UTC);
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "{text:?}"
        );
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3 + events.len() + 2, "{text}");
        assert_eq!(lines[0], "-\\xff\\n: parked, it needs a person");
        assert!(
            lines[4].contains(r#"{"event":"later"#) && lines[4].ends_with('…'),
            "{text}"
        );
        assert!(text.contains(r"`harness retry -- $'-\xff\x0a'`"), "{text}");
        assert!(told("x", "pending", None, &[]).contains("Nothing has happened"));
    }
}
