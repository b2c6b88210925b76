//! The attempts of one item, from its record.

use crate::clock::Timestamp;
use crate::outcome::{Next, Word};
use crate::record::{Event, Finished, GateRan, Line};

/// Longer reasons are cut.
const REASON_CHARS: usize = 300;

/// Times are milliseconds since 1970.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    pub(super) session: String,
    pub(super) number: u32,
    pub(super) slot: String,
    pub(super) agent: String,
    /// Since when its item lay in `pending/`.
    pub(super) queued: Option<i64>,
    pub(super) claimed: i64,
    pub(super) started: Option<i64>,
    /// `None`: it is at work.
    pub(super) ended: Option<i64>,
    /// An outcome; `running`; or `left`, where its end is not on record and nobody works on it.
    pub(super) outcome: String,
    pub(super) reason: String,
    /// From the start of its process to the end of its process tree.
    pub(super) seconds: f64,
    pub(super) turns: u64,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) cost_usd: f64,
    pub(super) commits: u64,
    pub(super) branch: Option<String>,
    pub(super) gates: Vec<GateRan>,
}

#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) attempts: Vec<Attempt>,
    /// Since when it waits in `pending/`, where it does.
    pub(super) waits_since: Option<i64>,
}

pub(super) fn ms(at: &str) -> Option<i64> {
    Some(at.parse::<Timestamp>().ok()?.as_millisecond())
}

impl Past {
    pub(super) fn of(lines: &[Line]) -> Past {
        let mut past = Past::default();
        for line in lines {
            if let Some(at) = ms(&line.at) {
                past.fold(&line.event, at);
            }
        }
        past
    }

    fn fold(&mut self, event: &Event, at: i64) {
        match event {
            Event::Added(_) | Event::Retried(_) | Event::Rejected(_) => {
                self.waits_since = Some(at);
            }
            Event::Claimed(claimed) => {
                // Nothing tells how the one before ended.
                if let Some(last) = self.attempts.last_mut().filter(|a| a.ended.is_none()) {
                    last.ended = Some(at);
                    last.outcome = "left".to_owned();
                }
                self.attempts.push(Attempt {
                    session: claimed.session.clone(),
                    number: claimed.attempt,
                    slot: claimed.slot.clone(),
                    queued: self.waits_since.take(),
                    claimed: at,
                    outcome: "running".to_owned(),
                    ..Attempt::default()
                });
            }
            Event::Requeued(requeued) => {
                if let Some(gone) = self.take(&requeued.session) {
                    self.waits_since = gone.queued.or(Some(at));
                }
            }
            Event::Started(started) => {
                if let Some(attempt) = self.of_session(&started.session) {
                    attempt.agent.clone_from(&started.agent);
                    attempt.started = Some(at);
                }
            }
            Event::Gate(ran) => {
                if let Some(attempt) = self.of_session(&ran.session) {
                    attempt.gates.push(ran.clone());
                }
            }
            Event::Finished(finished) => self.finish(finished, at),
            _ => {}
        }
    }

    fn finish(&mut self, finished: &Finished, at: i64) {
        let Some(attempt) = self.of_session(&finished.session) else {
            return;
        };
        let end = &finished.end;
        let ended = end.ended_at.as_deref().and_then(ms).unwrap_or(at);
        attempt.ended = Some(ended.max(attempt.claimed));
        attempt.outcome = end.outcome.as_ref().map_or("", Word::as_str).to_owned();
        let reason = end.reason.as_deref().unwrap_or_default();
        attempt.reason = clipped(&crate::view::line(reason), REASON_CHARS);
        attempt.seconds = Some(end.seconds).filter(|s| *s >= 0.0).unwrap_or_default();
        attempt.turns = end.turns;
        attempt.input_tokens = end.input_tokens;
        attempt.output_tokens = end.output_tokens;
        attempt.cost_usd = Some(end.cost_usd).filter(|c| *c >= 0.0).unwrap_or_default();
        attempt.commits = end.commits.unwrap_or_default();
        attempt.branch.clone_from(&finished.published);
        let next = finished.next.as_ref().and_then(Word::known);
        if matches!(next, Some(Next::Retry | Next::Pending)) {
            self.waits_since = Some(at);
        }
    }

    fn of_session(&mut self, session: &str) -> Option<&mut Attempt> {
        self.attempts
            .iter_mut()
            .rev()
            .find(|a| a.session == session)
    }

    fn take(&mut self, session: &str) -> Option<Attempt> {
        let at = self.attempts.iter().position(|a| a.session == session)?;
        Some(self.attempts.remove(at))
    }
}

/// The first characters of a text.
pub(super) fn clipped(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
