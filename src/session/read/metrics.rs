//! A session's figures and durations as one flat object, the shape of `metrics.json`, and their
//! totals over many sessions.
//!
//! Invariant: what harness wrote at the end is believed of a session that has ended; else the
//! events are folded; a session without either has what its `session.json` says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Session, State};
use crate::atomic;
use crate::event::{Figures, MORE_TOOLS, TOOL_NAMES_MAX};
use crate::limits::STATE_FILE_BYTES_MAX;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    pub session: String,
    pub item: String,
    pub slot: String,
    pub agent: String,
    pub attempt: u32,
    /// `None` until it has ended.
    pub outcome: Option<String>,
    pub seconds: f64,
    pub cpu_seconds: f64,
    #[serde(flatten)]
    pub figures: Figures,
}

impl Metrics {
    pub fn of(session: &Session) -> Metrics {
        if session.state == State::Ended
            && let Some(written) = written(session)
        {
            return written;
        }
        let f = &session.file;
        let mut figures = session.figures();
        if !session.has_events() {
            figures.turns = f.turns;
            figures.tool_calls = f.tool_calls;
            figures.input_tokens = f.input_tokens;
            figures.output_tokens = f.output_tokens;
            figures.cost_usd = (f.cost_usd > 0.0).then_some(f.cost_usd);
            figures.cli_session.clone_from(&f.cli_session);
            figures.last_message.clone_from(&f.last_message);
        }
        Metrics {
            session: session.sid.clone(),
            item: f.item.clone(),
            slot: f.slot.clone(),
            agent: f.agent.clone(),
            attempt: f.attempt,
            outcome: f.outcome.clone(),
            seconds: session.seconds().unwrap_or(0.0),
            cpu_seconds: match &session.exit {
                Some(exit) if f.cpu_seconds == 0.0 => exit.cpu_seconds,
                _ => f.cpu_seconds,
            },
            figures,
        }
    }
}

fn written(session: &Session) -> Option<Metrics> {
    let bytes = atomic::read_small(&session.path("metrics.json"), STATE_FILE_BYTES_MAX).ok()?;
    let metrics: Metrics = serde_json::from_slice(&bytes).ok()?;
    (metrics.session == session.sid).then_some(metrics)
}

/// Sums over sessions.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    pub sessions: u64,
    pub running: u64,
    /// Of those that ended.
    pub outcomes: BTreeMap<String, u64>,
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub turns: u64,
    pub tool_calls: u64,
    pub tools: BTreeMap<String, u64>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_tokens: u64,
    pub cache_write_tokens: u64,
    pub cost_usd: f64,
    pub retries: u64,
    pub denials: u64,
    pub errors: u64,
    pub malformed: u64,
}

impl Totals {
    pub fn add(&mut self, m: &Metrics, state: State) {
        self.sessions += 1;
        self.running += u64::from(state == State::Running);
        if let Some(outcome) = &m.outcome {
            *self.outcomes.entry(outcome.clone()).or_default() += 1;
        }
        self.seconds += m.seconds;
        self.cpu_seconds += m.cpu_seconds;
        let f = &m.figures;
        for (sum, n) in [
            (&mut self.turns, f.turns),
            (&mut self.tool_calls, f.tool_calls),
            (&mut self.input_tokens, f.input_tokens),
            (&mut self.output_tokens, f.output_tokens),
            (&mut self.cache_read_tokens, f.cache_read_tokens),
            (&mut self.cache_write_tokens, f.cache_write_tokens),
            (&mut self.retries, f.retries),
            (&mut self.denials, f.denials),
            (&mut self.errors, f.errors),
            (&mut self.malformed, f.malformed),
        ] {
            *sum = sum.saturating_add(n);
        }
        self.cost_usd += f.cost_usd.unwrap_or(0.0);
        for (tool, n) in &f.tools {
            let full = self.tools.len() >= TOOL_NAMES_MAX && !self.tools.contains_key(tool);
            let name = if full { MORE_TOOLS } else { tool };
            let sum = self.tools.entry(name.to_owned()).or_default();
            *sum = sum.saturating_add(*n);
        }
    }
}

/// Totals of all sessions and of each agent's.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sums {
    pub total: Totals,
    pub agents: BTreeMap<String, Totals>,
}

impl Sums {
    pub fn add(&mut self, m: &Metrics, state: State) {
        self.total.add(m, state);
        let agent = match m.agent.as_str() {
            "" => "(unknown)",
            agent => agent,
        };
        self.agents
            .entry(agent.to_owned())
            .or_default()
            .add(m, state);
    }
}
