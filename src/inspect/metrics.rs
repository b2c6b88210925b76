//! `harness session metrics`: the figures and durations of one session (in the format of
//! `metrics.json`), or totals over all sessions and per agent.
//!
//! Invariant: for an ended session `metrics.json` is used if it belongs to this session, else the
//! events are folded; without both, `session.json` says what is known.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Facts, Session, State, find, read_json};
use crate::error::Result;
use crate::event::Figures;
use crate::layout::Root;
use crate::outcome::Word;
pub(crate) use crate::session::digest::Metrics;
use crate::view::table::{Cell, Table};
use crate::view::{Term, cost, count_of, print_json, print_text, safe, took};

pub(super) fn of(session: &Session) -> Metrics {
    let written: Option<Metrics> = match session.state {
        State::Ended => read_json(&session.path("metrics.json")),
        State::Running | State::Left => None,
    };
    if let Some(written) = written.filter(|m| m.session == session.sid) {
        return written;
    }
    let metrics = Metrics::of(&session.file, session.figures());
    Metrics {
        seconds: session.seconds().unwrap_or(0.0),
        cpu_seconds: match &session.exit {
            Some(exit) if metrics.cpu_seconds == 0.0 => exit.cpu_seconds,
            _ => metrics.cpu_seconds,
        },
        ..metrics
    }
}

/// Of all sessions, and of each agent.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct All {
    /// Over all sessions.
    total: Totals,
    /// By name.
    agents: BTreeMap<String, Totals>,
}

/// Sums over sessions.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Totals {
    /// How many.
    sessions: u64,
    /// How many of them have not ended.
    running: u64,
    /// Number of sessions per outcome.
    outcomes: BTreeMap<String, u64>,
    /// All together.
    seconds: f64,
    cpu_seconds: f64,
    #[serde(flatten)]
    figures: Figures,
}

impl Totals {
    fn add(&mut self, m: &Metrics, state: State) {
        self.sessions += 1;
        self.running += u64::from(state == State::Running);
        if let Some(outcome) = &m.outcome {
            *self
                .outcomes
                .entry(outcome.as_str().to_owned())
                .or_default() += 1;
        }
        self.seconds += m.seconds;
        self.cpu_seconds += m.cpu_seconds;
        self.figures.add(&m.figures);
    }

    fn cells(&self, agent: &str) -> Vec<Cell> {
        let f = &self.figures;
        let cached = f.cache_read_tokens.saturating_add(f.cache_write_tokens);
        let cells = [
            agent.to_owned(),
            self.sessions.to_string(),
            self.running.to_string(),
            took(self.seconds),
            took(self.cpu_seconds),
            f.turns.to_string(),
            f.tool_calls.to_string(),
            f.input_tokens.to_string(),
            f.output_tokens.to_string(),
            cached.to_string(),
            cost(f.cost_usd.unwrap_or(0.0)),
            f.retries.to_string(),
            f.errors.to_string(),
        ];
        cells.map(Cell::new).into()
    }
}

pub(crate) fn show(session: &Session, json: bool) -> Result<u8> {
    let metrics = of(session);
    match json {
        true => print_json(&metrics),
        false => print_text(&text(session, &metrics)),
    }
}

fn text(session: &Session, m: &Metrics) -> String {
    let f = &m.figures;
    let mut facts = Facts::default();
    facts.add(
        "outcome",
        m.outcome.as_ref().map_or(session.word(), Word::as_str),
    );
    facts.add("took", took(m.seconds));
    facts.add("cpu", took(m.cpu_seconds));
    facts.add("turns", f.turns.to_string());
    facts.add("tool calls", calls(f));
    for (name, n) in [
        ("tokens in", f.input_tokens),
        ("tokens out", f.output_tokens),
        ("from cache", f.cache_read_tokens),
        ("to cache", f.cache_write_tokens),
    ] {
        facts.add(name, n.to_string());
    }
    let usd = f.cost_usd.map(|usd| format!("${usd:.4}"));
    facts.add("cost", usd.as_deref().unwrap_or("not reported"));
    for (name, n) in [
        ("retries", f.retries),
        ("denials", f.denials),
        ("errors", f.errors),
        ("malformed", f.malformed),
    ] {
        facts.add(name, n.to_string());
    }
    facts.add("model", f.model.as_deref().unwrap_or_default());
    facts.add("cli version", f.version.as_deref().unwrap_or_default());
    facts.text(session)
}

fn calls(f: &Figures) -> String {
    let mut by_name: Vec<_> = f.tools.iter().collect();
    by_name.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let by_name: Vec<String> = by_name.iter().map(|(t, n)| format!("{t} {n}")).collect();
    match by_name.is_empty() {
        true => f.tool_calls.to_string(),
        false => format!("{} ({})", f.tool_calls, by_name.join(", ")),
    }
}

/// Totals of all sessions, and per agent.
pub(crate) fn show_all(root: &Root, json: bool) -> Result<u8> {
    let All {
        mut total,
        mut agents,
    } = All::default();
    for sid in find::all(root)? {
        let session = Session::read(root, &sid);
        let metrics = of(&session);
        total.add(&metrics, session.state);
        let agent = match metrics.agent.as_str() {
            "" => "(unknown)",
            agent => agent,
        };
        let of_agent = agents.entry(agent.to_owned()).or_default();
        of_agent.add(&metrics, session.state);
    }
    if json {
        return print_json(&All { total, agents });
    }
    let mut table = Table::new(&[
        "AGENT",
        ">SESSIONS",
        ">RUNNING",
        ">TOOK",
        ">CPU",
        ">TURNS",
        ">CALLS",
        ">IN",
        ">OUT",
        ">CACHED",
        ">COST",
        ">RETRIES",
        ">ERRORS",
    ]);
    for (agent, totals) in &agents {
        table.row(totals.cells(agent));
    }
    table.row(total.cells("all"));
    let outcomes = total
        .outcomes
        .iter()
        .map(|(o, n)| format!("{n} {}", safe(o)));
    let outcomes = match outcomes.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => none,
        some => format!(": {some}"),
    };
    let table = table.render(&Term::of_stdout());
    let sessions = count_of(total.sessions, "session");
    print_text(&format!("{table}\n{sessions}{outcomes}\n"))
}
