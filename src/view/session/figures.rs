//! `harness session metrics`: the figures of one session, or of all by agent.

use crate::session::read::Session;
use crate::session::read::metrics::{Metrics, Sums, Totals};
use crate::view::table::{Cell, Table};
use crate::view::{Term, count_of};

use super::{Facts, cost, took};

pub fn text(session: &Session, m: &Metrics) -> String {
    let f = &m.figures;
    let mut facts = Facts::default();
    facts.add("outcome", m.outcome.as_deref().unwrap_or(session.word()));
    facts.add("took", took(m.seconds));
    facts.add("cpu", took(m.cpu_seconds));
    facts.add("turns", f.turns.to_string());
    facts.add("tool calls", calls(f.tool_calls, &f.tools));
    facts.add("tokens in", f.input_tokens.to_string());
    facts.add("tokens out", f.output_tokens.to_string());
    facts.add("from cache", f.cache_read_tokens.to_string());
    facts.add("to cache", f.cache_write_tokens.to_string());
    let usd = f
        .cost_usd
        .map_or_else(|| "not told".to_owned(), |usd| format!("${usd:.4}"));
    facts.add("cost", usd);
    facts.add("retries", f.retries.to_string());
    facts.add("denials", f.denials.to_string());
    facts.add("errors", f.errors.to_string());
    facts.add("malformed", f.malformed.to_string());
    facts.add("model", f.model.as_deref().unwrap_or_default());
    facts.add("cli version", f.version.as_deref().unwrap_or_default());
    format!(
        "{}: {}\n{}",
        session.sid,
        super::title(session),
        facts.text()
    )
}

fn calls(n: u64, tools: &std::collections::BTreeMap<String, u64>) -> String {
    let mut by_name: Vec<_> = tools.iter().collect();
    by_name.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let by_name: Vec<String> = by_name.iter().map(|(t, n)| format!("{t} {n}")).collect();
    match by_name.is_empty() {
        true => n.to_string(),
        false => format!("{n} ({})", by_name.join(", ")),
    }
}

pub fn totals(sums: &Sums, term: &Term) -> String {
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
    for (agent, t) in &sums.agents {
        table.row(row(agent, t));
    }
    table.row(row("all", &sums.total));
    let outcomes = sums.total.outcomes.iter();
    let outcomes: Vec<String> = outcomes
        .map(|(o, n)| format!("{n} {}", crate::view::safe(o)))
        .collect();
    let outcomes = match outcomes.is_empty() {
        true => String::new(),
        false => format!(": {}", outcomes.join(", ")),
    };
    let sessions = count_of(sums.total.sessions, "session");
    format!("{}\n{sessions}{outcomes}\n", table.render(term))
}

fn row(agent: &str, t: &Totals) -> Vec<Cell> {
    let cached = t.cache_read_tokens.saturating_add(t.cache_write_tokens);
    let mut cells = vec![Cell::new(agent)];
    cells.extend(
        [
            t.sessions.to_string(),
            t.running.to_string(),
            took(t.seconds),
            took(t.cpu_seconds),
            t.turns.to_string(),
            t.tool_calls.to_string(),
            t.input_tokens.to_string(),
            t.output_tokens.to_string(),
            cached.to_string(),
            cost(t.cost_usd),
            t.retries.to_string(),
            t.errors.to_string(),
        ]
        .map(Cell::new),
    );
    cells
}
