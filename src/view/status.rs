//! `harness status`, as text and as JSON.
//!
//! Does not know how figures are made. Invariant: `status.json` is used only if a harness runs and
//! the file is recent; else the status is made from the tree, with a note.

use std::time::Duration;

use crate::agents;
use crate::aggregator;
use crate::clock::{self, Timestamp};
use crate::error::Result;
use crate::hold::{self, Hold};
use crate::layout::{Name, Place, Root, SlotId};
use crate::quote;
use crate::status::{
    HarnessStatus, Health, Metrics, SlotState, SlotStatus, Status, SubmissionStatus, TroubleStatus,
};
use crate::{record, spool, submission};

use super::needed::Needed;
use super::state::{PENDING_LOOKS_MAX, counts, leave_out_unneeded};
use super::table::{Cell, Table, wrap};
use super::{
    Paint, Term, ago, count_of, line as one_line, local_time, print_json, print_text, safe, took,
};

/// An older file means that the harness hangs: it writes one every second.
const TRUSTED_SECONDS: u64 = 5;

/// The source of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// `status.json`, kept by a living harness.
    Live,
    /// Made from the tree: no harness runs.
    NoHarness,
    /// Made from the tree: a harness runs but does not keep the file up to date.
    Silent,
}

/// What a living harness says, or why nothing of that is to be had.
pub(crate) fn live(root: &Root) -> Result<Result<Status, Source>> {
    if !aggregator::any_harness_alive(root)? {
        return Ok(Err(Source::NoHarness));
    }
    let status = aggregator::read(root)?.filter(is_fresh);
    Ok(status.ok_or(Source::Silent))
}

/// The current status.
pub(crate) fn current(root: &Root) -> Result<(Status, Source)> {
    let source = match live(root)? {
        Ok(status) => return Ok((status, Source::Live)),
        Err(source) => source,
    };
    let mut status = aggregator::rebuild(root, counts(root))?;
    leave_out_unneeded(root, &mut status.holds);
    let more = troubles(root, &status, source);
    status.troubles.extend(more);
    Ok((status, source))
}

/// What no harness says: why items stay where they are.
fn troubles(root: &Root, status: &Status, source: Source) -> Vec<TroubleStatus> {
    let trouble = |place: String, reason: String| TroubleStatus {
        place,
        reason: one_line(&reason),
        ..TroubleStatus::default()
    };
    let of_slot = |slot: &SlotStatus| {
        let slot = SlotId::parse(slot.item.as_ref().and(Some(slot.id.as_ref()))?)?;
        // Of a harness that runs, the host's trouble is what keeps it from reporting.
        let why = spool::why_stuck(root, slot);
        let why = why.filter(|e| source == Source::NoHarness || e.is_of_host())?;
        Some(trouble(slot.to_string(), why.to_string()))
    };
    let mut all: Vec<TroubleStatus> = status.agents.iter().filter_map(of_slot).collect();
    let pending = root.place(Place::Pending);
    let files = std::fs::read_dir(pending).into_iter().flatten().flatten();
    let names = files
        .map(|f| f.file_name())
        .filter(|n| !Name::is_ignored(n));
    for name in names.map(Name::new).take(PENDING_LOOKS_MAX) {
        if let Some(why) = record::history(root, &name).stays {
            all.push(trouble(format!("queue/pending/{name}"), why));
        }
    }
    all
}

fn is_fresh(status: &Status) -> bool {
    let at = status.timestamp.parse::<Timestamp>();
    // A time in the future: it was written before the clock was set back.
    at.is_ok_and(|t| clock::now().as_second().abs_diff(t.as_second()) <= TRUSTED_SECONDS)
}

/// A note about the source; `None` for `Live`.
pub(crate) fn note(source: Source) -> Option<&'static str> {
    match source {
        Source::Live => None,
        Source::NoHarness => Some("no harness is running: this was made from the files just now"),
        Source::Silent => {
            Some("a harness runs but does not report: this was made from the files just now")
        }
    }
}

/// The whole status as text.
pub(crate) fn render(
    status: &Status,
    needed: &Needed,
    source: Source,
    now: Timestamp,
    term: &Term,
) -> String {
    let mut out = String::new();
    let mut line = |paint: Paint, text: String| paragraph(&mut out, paint, &text, term);
    if let Some(note) = note(source) {
        line(Paint::Yellow, note.to_owned());
    }
    for h in &status.harnesses {
        line(Paint::Plain, harness_text(h));
    }
    for one in &status.submissions {
        line(Paint::Yellow, submission_text(one, now));
    }
    for t in &status.troubles {
        let (place, reason) = (safe(&t.place), one_line(&t.reason));
        let since = ago(&t.since, now).map_or_else(String::new, |a| format!(" (for {a})"));
        line(Paint::Red, format!("TROUBLE with {place}: {reason}{since}"));
    }
    for order in &status.control {
        line(Paint::Yellow, order_words(order));
    }
    for (nth, i) in status.interrupts.iter().enumerate() {
        let whom = match i.slot.as_str() {
            "all" => "ALL SLOTS ARE".to_owned(),
            slot => format!("{} IS", safe(slot)),
        };
        let reason = match i.reason.as_str() {
            "" => "no reason given".to_owned(),
            reason => one_line(reason),
        };
        let since = ago(&i.since, now).map_or_else(String::new, |a| format!(" ({a} ago)"));
        let end = needed.ways.get(nth).map_or("", |w| w);
        line(
            Paint::Red,
            format!("{whom} INTERRUPTED: {reason}{since}; {end}"),
        );
    }
    for hold in &status.holds {
        line(Paint::Yellow, hold_text(hold));
    }
    if !out.is_empty() {
        out.push('\n');
    }
    if !status.agents.is_empty() {
        slots(&mut out, &status.agents, now, term);
    }
    if !needed.parked.is_empty() {
        out.push_str(&parked(needed).render(term));
        let harness = quote::harness();
        let shown = needed.parked.len() as u64;
        let more = match status.work_queue.parked.saturating_sub(shown) {
            0 => String::new(),
            n => format!("{n} more: `{harness} list parked`; "),
        };
        let text =
            format!("{more}`{harness} show NAME` says all, `{harness} retry NAME` tries again");
        paragraph(&mut out, Paint::Dim, &text, term);
        out.push('\n');
    }
    for (name, why) in &needed.unmerged {
        let text = format!("{} waits to be merged: {}", safe(name), one_line(why));
        paragraph(&mut out, Paint::Yellow, &text, term);
    }
    for text in [queue_line(status), today_line(&status.metrics)] {
        paragraph(&mut out, Paint::Plain, &text, term);
    }
    out
}

fn harness_text(h: &HarnessStatus) -> String {
    let up = clock::human(Duration::from_secs(h.uptime_seconds));
    let workers = count_of(h.workers as u64, "worker");
    let host = safe(&h.host);
    let job = h.job.as_ref().map_or_else(String::new, |job| {
        format!(" ({} job {})", safe(&job.engine), safe(&job.id))
    });
    format!(
        "harness process {} on {host}{job}: {workers}, up {up}",
        h.pid
    )
}

/// What an engine was given, and has not started yet.
fn submission_text(one: &SubmissionStatus, now: Timestamp) -> String {
    let job = format!("{} job {}", safe(&one.engine), safe(&one.id));
    let since = ago(&one.submitted_at, now);
    let since = since.map_or_else(String::new, |a| format!(", submitted {a} ago"));
    let why = one.reason.as_deref().map_or_else(String::new, one_line);
    let nodes = count_of(one.nodes.into(), "run");
    match (one.waiting, one.failed) {
        (_, Some(failed)) if failed > 0 => format!(
            "{job}: {failed} of {nodes} FAILED: {why}{since}; what they said is in state/jobs/{}-{}_*.log",
            safe(&one.engine),
            safe(&one.id)
        ),
        (Some(waiting), _) => {
            format!("{job}: {waiting} of {nodes} wait in its queue: {why}{since}")
        }
        _ => format!("{job}: whether its {nodes} wait or run is not known: {why}{since}"),
    }
}

/// Whose items wait, until when, and why.
fn hold_text(hold: &Hold) -> String {
    let (agent, reason) = (safe(&hold.agent), one_line(&hold.reason));
    if hold.agent == agents::NOBODY {
        return format!("PROMPTS WITHOUT AN AGENT WAIT: {reason}");
    }
    let end = match hold.until.as_deref() {
        Some(until) if hold.class == hold::FAILURES => format!(
            "until {}, or until `{} resume {agent}`",
            local_time(until),
            quote::harness()
        ),
        Some(until) => format!("until {}", local_time(until)),
        None if hold.class == hold::BUDGET => "for its budget".to_owned(),
        None => format!(
            "until a person has fixed it: `{} resume` ends it",
            quote::harness()
        ),
    };
    format!("{agent} is HELD {end}: {reason}")
}

/// A line of text, on a narrow terminal in several.
fn paragraph(out: &mut String, paint: Paint, text: &str, term: &Term) {
    let lines = match term.width {
        Some(width) => wrap(text, width),
        None => vec![text.to_owned()],
    };
    for line in lines {
        out.push_str(&paint.on(&line, term));
        out.push('\n');
    }
}

fn order_words(order: &str) -> String {
    let what = match order {
        "pause" => "PAUSED: nothing new is started",
        "drain" => "DRAINING: harness ends when nothing is left to do",
        "stop" => "STOPPING: nothing new is started, harness ends when its agents have",
        other => return format!("ORDER: {}", safe(other)),
    };
    let harness = quote::harness();
    format!("{what} (state/control/{order}); `{harness} resume` takes it back")
}

fn parked(needed: &Needed) -> Table {
    let mut table = Table::new(&["~PARKED", "OUTCOME", "WHY"]);
    for (name, outcome, reason) in &needed.parked {
        table.row(vec![
            Cell::new(name),
            Cell::painted(outcome, Paint::Red),
            Cell::new(reason),
        ]);
    }
    table
}

fn slots(out: &mut String, all: &[SlotStatus], now: Timestamp, term: &Term) {
    let shared = shared_reason(all);
    if let Some((slots, why)) = shared {
        let text = format!("{} are PAUSED: {}", count_of(slots, "slot"), one_line(why));
        paragraph(out, Paint::Yellow, &text, term);
        out.push('\n');
    }
    let table = agents(all, shared.map(|(_, why)| why), now);
    out.push_str(&table.render(term));
    out.push('\n');
}

/// What keeps several slots from claiming, as a short disk does: how many they are, and why.
fn shared_reason(all: &[SlotStatus]) -> Option<(u64, &str)> {
    let paused = all.iter().filter(|a| a.state == SlotState::Paused);
    let mut reasons = paused.filter_map(|a| a.reason.as_deref());
    let first = reasons.next()?;
    let others = reasons.filter(|why| *why == first).count() as u64;
    (others > 0).then_some((others + 1, first))
}

/// `said`: the reason of several slots, which is not repeated.
fn agents(all: &[SlotStatus], said: Option<&str>, now: Timestamp) -> Table {
    let mut table = Table::new(&[
        "SLOT",
        "STATE",
        "?>FOR",
        "~ITEM",
        "?AGENT",
        "?>TRY",
        "?SINCE",
        "LAST MESSAGE",
    ]);
    for a in all {
        let (state, paint) = state_of(a);
        let claimed = a.claimed_at.as_deref();
        let reason = a.reason.as_deref();
        let message = match reason.is_some() && reason == said {
            true => "",
            false => reason.or(a.last_message.as_deref()).unwrap_or_default(),
        };
        table.row(vec![
            Cell::new(&a.id),
            Cell::painted(state, paint),
            Cell::new(claimed.and_then(|at| ago(at, now)).unwrap_or_default()),
            Cell::new(a.item.as_deref().unwrap_or_default()),
            Cell::new(a.agent.as_deref().unwrap_or_default()),
            Cell::new(a.attempt.map_or_else(String::new, |n| n.to_string())),
            Cell::new(claimed.map(local_time).unwrap_or_default()),
            Cell::new(message),
        ]);
    }
    table
}

/// If the slot's holder died, it waits for recovery, whatever its state was.
pub(crate) fn state_of(a: &SlotStatus) -> (&'static str, Paint) {
    match (a.health, a.state) {
        (Health::Dead, _) => ("dead", Paint::Red),
        (Health::Stalled, _) => ("stalled", Paint::Red),
        (_, SlotState::Interrupted) => ("interrupted", Paint::Red),
        (_, SlotState::Paused) => ("paused", Paint::Yellow),
        (_, SlotState::Trouble) => ("trouble", Paint::Red),
        (Health::Quiet, _) => ("quiet", Paint::Yellow),
        (Health::Healthy, SlotState::Idle) => ("idle", Paint::Dim),
        (Health::Healthy, SlotState::Starting) => ("starting", Paint::Cyan),
        (Health::Healthy, SlotState::Working) => ("working", Paint::Green),
        (Health::Healthy, SlotState::Finishing) => ("finishing", Paint::Cyan),
    }
}

pub(crate) fn queue_line(status: &Status) -> String {
    let q = &status.work_queue;
    let mut parts = vec![format!("{} pending", q.pending)];
    parts.extend((q.scheduled > 0).then(|| format!("{} scheduled", q.scheduled)));
    parts.extend((q.blocked > 0).then(|| format!("{} blocked", q.blocked)));
    parts.push(format!("{} claimed", q.claimed));
    parts.extend((q.review > 0).then(|| format!("{} to review", q.review)));
    parts.extend((q.merge > 0).then(|| format!("{} to merge", q.merge)));
    parts.push(format!("{} done", q.done));
    parts.push(format!("{} parked", q.parked));
    format!("queue  {}", parts.join(", "))
}

fn today_line(m: &Metrics) -> String {
    let ended = m.completed_today + m.failed_today;
    let mut s = format!(
        "today  {} completed, {} failed",
        m.completed_today, m.failed_today
    );
    if ended > 0 {
        s += &format!(" ({:.0} % good)", m.success_rate * 100.0);
    }
    s += &format!(", {} in the last hour", m.throughput_per_hour);
    if m.average_seconds > 0.0 {
        s += &format!(", {} an attempt", took(m.average_seconds));
    }
    if m.input_tokens.max(m.output_tokens) > 0 {
        s += &format!(", tokens {} in, {} out", m.input_tokens, m.output_tokens);
    }
    if m.cost_usd > 0.0 {
        s += &format!(", {:.2} USD", m.cost_usd);
    }
    s
}

/// `harness status [--json]`: prints the status once.
pub(crate) fn print(root: &Root, json: bool) -> Result<u8> {
    let (mut status, source) = current(root)?;
    status.submissions = submission::look(root);
    if json {
        if let Some(note) = note(source) {
            crate::error::tell(&format!("harness: {note}"));
        }
        return print_json(&status);
    }
    let needed = Needed::of(root, &status);
    let term = Term::of_stdout();
    print_text(&render(&status, &needed, source, clock::now(), &term))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use crate::engine::Job;
    use crate::status::{InterruptStatus, WorkQueue};

    fn sample() -> Status {
        let agent = |id: &str, state, health| SlotStatus {
            id: id.to_owned(),
            state,
            health,
            ..SlotStatus::default()
        };
        Status {
            harnesses: vec![HarnessStatus {
                pid: 12,
                host: "h".to_owned(),
                job: Some(Job {
                    engine: "slurm".to_owned(),
                    cluster: "c".to_owned(),
                    id: "5_2".to_owned(),
                    restarts: 0,
                }),
                uptime_seconds: 9_900,
                workers: 3,
                ..HarnessStatus::default()
            }],
            agents: vec![
                SlotStatus {
                    item: Some("a\\nb.md".to_owned()),
                    agent: Some("claude".to_owned()),
                    attempt: Some(2),
                    claimed_at: Some("2026-01-27T10:45:00Z".to_owned()),
                    last_message: Some("\u{1b}[2Jhello\nmore".to_owned()),
                    ..agent("agent-1", SlotState::Working, Health::Healthy)
                },
                agent("agent-2", SlotState::Working, Health::Dead),
            ],
            work_queue: WorkQueue {
                pending: 2,
                blocked: 1,
                claimed: 1,
                done: 4,
                parked: 2,
                ..WorkQueue::default()
            },
            interrupts: vec![InterruptStatus {
                slot: "all".to_owned(),
                reason: "look\u{7}".to_owned(),
                since: "2026-01-27T10:58:00Z".to_owned(),
            }],
            control: vec!["pause".to_owned()],
            metrics: Metrics {
                completed_today: 8,
                failed_today: 1,
                throughput_per_hour: 4.0,
                average_seconds: 850.0,
                success_rate: 0.889,
                cost_usd: 1.5,
                ..Metrics::default()
            },
            ..Status::default()
        }
    }

    fn needed() -> Needed {
        let parked = ["x.md", "failed", "exit status 3:\n no such file"].map(str::to_owned);
        Needed {
            unmerged: Vec::new(),
            parked: vec![parked.into()],
            ways: vec!["`harness resume all` lets them go on".to_owned()],
        }
    }

    fn now() -> Timestamp {
        "2026-01-27T10:59:10Z".parse().unwrap()
    }

    #[test]
    fn people_read_everything_and_the_terminal_nothing_harmful() {
        let text = render(&sample(), &needed(), Source::NoHarness, now(), &Term::PLAIN);
        let local = local_time("2026-01-27T10:45:00Z");
        let want = format!(
            "no harness is running: this was made from the files just now\n\
             harness process 12 on h (slurm job 5_2): 3 workers, up 2h45m\n\
             PAUSED: nothing new is started (state/control/pause); `harness resume` takes it back\n\
             ALL SLOTS ARE INTERRUPTED: look\\u{{7}} (1m10s ago); `harness resume all` lets them go on\n\
             \n\
             SLOT     STATE       FOR  ITEM     AGENT   TRY  SINCE                LAST MESSAGE\n\
             agent-1  working  14m10s  a\\nb.md  claude    2  {local}  \\u{{1b}}[2Jhello more\n\
             agent-2  dead\n\
             \n\
             PARKED  OUTCOME  WHY\n\
             x.md    failed   exit status 3: no such file\n\
             1 more: `harness list parked`; `harness show NAME` says all, `harness retry NAME` tries again\n\
             \n\
             queue  2 pending, 1 blocked, 1 claimed, 4 done, 2 parked\n\
             today  8 completed, 1 failed (89 % good), 4 in the last hour, 14m10s an attempt, 1.50 USD\n"
        );
        assert_eq!(text, want);
    }

    #[test]
    fn terminals_get_clipped_lines_and_colours() {
        let term = Term {
            color: true,
            width: Some(30),
            height: Some(20),
        };
        let text = render(&sample(), &needed(), Source::Live, now(), &term);
        assert!(text.contains("\x1b[31mdead\x1b[0m"), "{text:?}");
        let bare = |l: &str| {
            let mut out = l.to_owned();
            while let Some(a) = out.find('\x1b') {
                let b = out[a..].find('m').unwrap();
                out.replace_range(a..=a + b, "");
            }
            out
        };
        assert!(
            text.lines().all(|l| bare(l).chars().count() <= 30),
            "{text}"
        );
        // Nothing of the queue's counts and of what to type is cut off.
        let bare = bare(&text);
        let words: Vec<&str> = bare.split_whitespace().collect();
        let words = words.join(" ");
        for end in ["2 parked", "resume all` lets them go on"] {
            assert!(words.contains(end), "{text}");
        }
    }
}
