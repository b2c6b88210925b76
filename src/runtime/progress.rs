//! What a person at a terminal sees below the lines of a run: what runs, and how much is left. Turns
//! figures into lines; draws nothing. Invariant: each line is narrower than the terminal.

use std::time::Duration;

use super::results::Results;
use crate::aggregator::PendingCounts;
use crate::clock::{self, Timestamp};
use crate::status::{SlotState, SlotStatus};
use crate::term::{Paint, Term, cells, clip};
use crate::text::{count_of, message};

/// More lines than these nobody reads while they move (nextest shows as many).
const RUNNING_MAX: usize = 8;
/// Of a narrow or low terminal.
const WIDTH: usize = 80;
const HEIGHT: usize = 24;
/// Cells of an item's name at most.
const ITEM_CELLS: usize = 32;
/// From fewer ends nothing is said of what is to come.
const ENDED_MIN: usize = 3;

/// A line for each slot that has an item, the longest at work first, then the figures.
pub(super) fn lines(
    slots: Vec<SlotStatus>,
    pending: PendingCounts,
    results: &Results,
    term: &Term,
) -> Vec<(Paint, String)> {
    let now = clock::now();
    let workers = slots.len();
    let mut busy: Vec<SlotStatus> = slots.into_iter().filter(|s| s.item.is_some()).collect();
    if busy.is_empty() && results.ended() + pending.pending == 0 {
        return Vec::new();
    }
    busy.sort_by(|a, b| a.claimed_at.cmp(&b.claimed_at));
    let width = term.width.unwrap_or(WIDTH).saturating_sub(1);
    let most = RUNNING_MAX.min(term.height.unwrap_or(HEIGHT) / 3);
    let widest = |of: fn(&SlotStatus) -> String| {
        let shown = busy.iter().take(most);
        shown.map(|s| cells(&of(s))).max().unwrap_or(0)
    };
    let widths = (widest(|s| s.id.clone()), widest(item).min(ITEM_CELLS));
    let shown = busy.iter().take(most).map(|slot| {
        let line = clip(&running(slot, widths, now), width);
        let paint = match slot.state {
            SlotState::Interrupted | SlotState::Trouble => Paint::Yellow,
            _ => Paint::Plain,
        };
        (paint, line)
    });
    let mut lines: Vec<(Paint, String)> = shown.collect();
    if busy.len() > most {
        let more = format!("  and {} more", busy.len() - most);
        lines.push((Paint::Plain, clip(&more, width)));
    }
    let left = left(&busy, pending, results, workers, now);
    let figures = clip(&figures(&busy, pending, results, left), width);
    lines.push((Paint::Dim, figures));
    lines
}

fn item(slot: &SlotStatus) -> String {
    message(slot.item.as_deref().unwrap_or_default())
}

fn at_work(slot: &SlotStatus, now: Timestamp) -> Duration {
    let since = slot.started_at.as_ref().or(slot.claimed_at.as_ref());
    let since = since.and_then(|at| at.parse::<Timestamp>().ok());
    let seconds = since.map_or(0, |at| now.as_second() - at.as_second());
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// `agent-1  fix.md  2m03s  $0.31  what it says right now`
fn running(slot: &SlotStatus, widths: (usize, usize), now: Timestamp) -> String {
    let padded = |text: &str, width: usize| {
        let text = clip(text, width);
        format!("{text}{}", " ".repeat(width - cells(&text)))
    };
    let time = clock::human(Duration::from_secs(at_work(slot, now).as_secs()));
    let cost = match slot.cost_usd > 0.0 {
        true => format!("  ${:.2}", slot.cost_usd),
        false => String::new(),
    };
    let words = match slot.state {
        SlotState::Working => slot.last_message.as_ref(),
        _ => slot.reason.as_ref(),
    };
    let state = match slot.state {
        SlotState::Working => "",
        SlotState::Idle | SlotState::Starting => "starting ",
        SlotState::Finishing => "finishing ",
        SlotState::Interrupted => "INTERRUPTED ",
        SlotState::Paused => "paused ",
        SlotState::Trouble => "TROUBLE ",
    };
    let words = words.map_or_else(String::new, |w| message(w));
    format!(
        "  {}  {}  {time:>6}{cost}  {state}{words}",
        padded(&slot.id, widths.0),
        padded(&item(slot), widths.1),
    )
}

/// `3 running, 23 wait, 11 done, 1 parked, $3.20; about 12 to 20 min left`
fn figures(
    busy: &[SlotStatus],
    pending: PendingCounts,
    results: &Results,
    left: Option<(f64, f64)>,
) -> String {
    let mut parts = vec![format!("{} running", busy.len())];
    let wait = pending.pending + pending.blocked;
    parts.push(format!("{wait} waiting"));
    if pending.scheduled > 0 {
        parts.push(format!("{} scheduled", pending.scheduled));
    }
    parts.push(format!("{} done", results.done));
    for (count, what) in [
        (results.review, "to review"),
        (results.parked, "parked"),
        (results.claimed, "stuck"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    if results.retried > 0 {
        parts.push(count_of(results.retried, "retry"));
    }
    let cost = results.cost_usd + busy.iter().map(|s| s.cost_usd).sum::<f64>();
    if cost > 0.0 {
        parts.push(format!("${cost:.2}"));
    }
    let left = left.map_or_else(String::new, |(least, most)| {
        format!("; {} left", range(least, most))
    });
    format!("{}{left}", parts.join(", "))
}

/// How long all that runs and waits may still take (s): at least, and at most. By how long the items
/// took that ended in this run; two standard errors to either side, of the mean and of the sum. `None`:
/// too little has ended. Items of other processes and new ones are not known.
fn left(
    busy: &[SlotStatus],
    pending: PendingCounts,
    results: &Results,
    workers: usize,
    now: Timestamp,
) -> Option<(f64, f64)> {
    let ended = results.items.iter().filter(|i| i.attempt > 0);
    // They come from files that an agent may have written.
    let ended = ended.map(|i| i.seconds).filter(|s| s.is_finite());
    let ended: Vec<f64> = ended.map(|s| s.clamp(0.0, 1e7)).collect();
    if ended.len() < ENDED_MIN || workers == 0 {
        return None;
    }
    let known = ended.len() as f64;
    let mean = ended.iter().sum::<f64>() / known;
    let variance = ended.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (known - 1.0);
    let rests = busy.iter().map(|s| mean - at_work(s, now).as_secs_f64());
    let rests: Vec<f64> = rests.map(|rest| rest.max(0.0)).collect();
    let wait = (pending.pending + pending.blocked) as f64;
    let jobs = wait + busy.len() as f64;
    let sum = rests.iter().sum::<f64>() + wait * mean;
    let wide = 2.0 * (variance * (jobs + jobs * jobs / known)).sqrt();
    let workers = (workers as f64).min(jobs.max(1.0));
    let longest = rests.iter().copied().fold(0.0, f64::max);
    let low = ((sum - wide) / workers).max(0.0);
    Some((low, ((sum + wide) / workers).max(longest)))
}

/// `about 12 to 20 min`, `less than a minute`.
fn range(least: f64, most: f64) -> String {
    let (unit, name) = match most {
        _ if most < 60.0 => return "less than a minute".to_owned(),
        _ if most < 90.0 * 60.0 => (60.0, "min"),
        _ => (3_600.0, "h"),
    };
    let (low, high) = ((least / unit).round(), (most / unit).round());
    match low == high {
        true => format!("about {high} {name}"),
        false if low == 0.0 => format!("up to {high} {name}"),
        false => format!("about {low} to {high} {name}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::super::results::{Board, ItemResult};
    use super::*;
    use crate::layout::{Name, Place};
    use crate::outcome::Outcome;

    fn slot(n: usize, item: &str, state: SlotState, ago: i64) -> SlotStatus {
        let at = Timestamp::from_second(clock::now().as_second() - ago).unwrap();
        SlotStatus {
            id: format!("agent-{n}"),
            item: Some(item.to_owned()),
            state,
            claimed_at: Some(clock::iso(at)),
            ..SlotStatus::default()
        }
    }

    fn ended(seconds: &[f64]) -> Results {
        let board = Board::default();
        for &seconds in seconds {
            let result = ItemResult {
                name: Name::new("x"),
                outcome: Some(Outcome::Succeeded),
                attempt: 1,
                seconds,
                branch: None,
                has_notes: false,
                reason: String::new(),
            };
            board.ended(result, Place::Done);
        }
        board.so_far()
    }

    fn texts(lines: Vec<(Paint, String)>) -> Vec<String> {
        lines.into_iter().map(|(_, text)| text).collect()
    }

    const WAITING: PendingCounts = PendingCounts {
        pending: 10,
        scheduled: 1,
        blocked: 0,
    };

    #[test]
    fn eight_lines_at_most_the_oldest_first_and_none_as_wide_as_the_terminal() {
        let mut slots: Vec<SlotStatus> = (1..=12)
            .map(|n| {
                slot(
                    n,
                    &format!("item-{n}.md"),
                    SlotState::Working,
                    n as i64 * 100,
                )
            })
            .collect();
        slots[11].last_message = Some("reads \x1b[2J 漢字 ".repeat(20));
        slots[10].state = SlotState::Interrupted;
        slots[10].reason = Some("which color?".to_owned());
        slots.push(SlotStatus::default());
        for width in [40, 80, 200] {
            let term = Term {
                width: Some(width),
                height: Some(24),
                color: false,
            };
            let lines = texts(lines(slots.clone(), WAITING, &ended(&[60.0]), &term));
            assert_eq!(lines.len(), 10, "{lines:#?}");
            assert!(
                lines[0].starts_with("  agent-12  item-12.md  20m00s  reads "),
                "{lines:#?}"
            );
            assert!(
                lines
                    .iter()
                    .all(|l| cells(l) < width && !l.contains('\x1b'))
            );
            assert_eq!(lines[8], "  and 4 more");
        }
        let low = Term {
            width: Some(80),
            height: Some(6),
            color: false,
        };
        let lines = texts(lines(slots, WAITING, &ended(&[60.0]), &low));
        assert_eq!(lines.len(), 4);
        assert!(lines[1].ends_with("INTERRUPTED which color?"), "{lines:#?}");
        assert_eq!(lines[3], "12 running, 10 waiting, 1 scheduled, 1 done");
    }

    #[test]
    fn what_is_left_is_said_from_three_ends_on_with_its_uncertainty() {
        let slots = || vec![slot(1, "x", SlotState::Working, 30), SlotStatus::default()];
        let last = |seconds: &[f64]| {
            let term = Term::PLAIN;
            texts(lines(slots(), WAITING, &ended(seconds), &term))
                .pop()
                .unwrap()
        };
        assert!(!last(&[60.0, 60.0]).contains("left"));
        // 30 s of the one that runs and ten of a minute each, on two slots.
        assert!(
            last(&[60.0; 3]).ends_with("; about 5 min left"),
            "{}",
            last(&[60.0; 3])
        );
        let unsure = last(&[60.0, 240.0, 120.0, 200.0, 90.0]);
        assert!(unsure.ends_with("; about 5 to 20 min left"), "{unsure}");
        assert!(last(&[0.1; 5]).ends_with("; less than a minute left"));
        assert!(last(&[f64::NAN, -1.0, 1e300, 5.0]).contains("left"));
    }

    #[test]
    fn where_nothing_runs_and_nothing_was_there_nothing_is_shown() {
        let none = PendingCounts::default();
        let term = Term::PLAIN;
        assert!(lines(vec![SlotStatus::default()], none, &ended(&[]), &term).is_empty());
    }
}
