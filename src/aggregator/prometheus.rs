//! `state/metrics.prom`: the status, and sums over the ledger, for the textfile collector of Prometheus'
//! node_exporter.
//!
//! Invariants: the file is always complete; it is written at most every `METRICS_EVERY`, and once more at
//! the end; the number of its lines has a bound; no label is an item's name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{Display, Write};
use std::time::Instant;

use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::layout::{Root, shown};
use crate::limits::METRICS_EVERY;
use crate::outcome::Outcome;
use crate::status::{Health, SlotState, SlotStatus, Status};

use super::sums::{DURATIONS, OTHER, OfAgent, Sums};

/// Classes of holds with a line of their own; there are some ten.
const CLASSES_MAX: usize = 32;

/// Keeps the file up to date.
#[derive(Debug, Default)]
pub(super) struct Exporter {
    sums: Sums,
    tried: Option<Instant>,
}

impl Exporter {
    /// Writes the file if it is due, or with `force`. Until the whole ledger was read, which is done in
    /// steps, the older file stays.
    pub(super) fn refresh(
        &mut self,
        root: &Root,
        status: &Status,
        now: Instant,
        force: bool,
    ) -> Result<()> {
        let is_due = |then| now.saturating_duration_since(then) >= METRICS_EVERY;
        if !force && !self.tried.is_none_or(is_due) || !self.sums.update(&root.ledger()) {
            return Ok(());
        }
        self.tried = Some(now);
        let text = render(root, status, &self.sums.agents);
        atomic::replace(&root.metrics(), text.as_bytes(), false)
    }
}

fn render(root: &Root, status: &Status, ended: &BTreeMap<String, OfAgent>) -> String {
    let mut page = Page {
        root: escaped(&shown(root.path().as_os_str())),
        ..Page::default()
    };
    of_tree(&mut page, status);
    of_slots(&mut page, &status.agents);
    // An agent that works for the first time has its counters at zero from the beginning: an increase
    // from nothing is none.
    let mut ended = ended.clone();
    for slot in &status.agents {
        if let Some(agent) = &slot.agent {
            ended.entry(agent.clone()).or_default();
        }
    }
    of_attempts(&mut page, &ended);
    page.out
}

/// The text format, version 0.0.4.
#[derive(Default)]
struct Page {
    out: String,
    /// A label of every line: a machine has several trees.
    root: String,
    name: &'static str,
}

impl Page {
    /// Begins a metric.
    fn metric(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _infallible = write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn gauge(&mut self, name: &'static str, help: &str) {
        self.metric(name, "gauge", help);
    }

    fn counter(&mut self, name: &'static str, help: &str) {
        self.metric(name, "counter", help);
    }

    /// A value of the metric that was begun last.
    fn value(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.part("", labels, value);
    }

    fn part(&mut self, ending: &str, labels: &[(&str, &str)], value: impl Display) {
        let (name, root) = (self.name, &self.root);
        let _infallible = write!(self.out, "{name}{ending}{{root=\"{root}\"");
        for (label, text) in labels {
            let _infallible = write!(self.out, ",{label}=\"{}\"", escaped(text));
        }
        let _infallible = writeln!(self.out, "}} {value}");
    }
}

/// A label's value. People `cat` the file, so what acts on a terminal is spelt out.
fn escaped(text: &str) -> String {
    let text = shown(OsStr::new(text));
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn of_tree(page: &mut Page, status: &Status) {
    page.gauge("harness_build_info", "The version that wrote these lines.");
    page.value(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.gauge(
        "harness_update_timestamp_seconds",
        "When these lines were written, in seconds since 1970.",
    );
    page.value(&[], clock::now().as_second());
    page.gauge("harness_processes", "Living harness processes of the tree.");
    page.value(&[], status.harnesses.len());
    page.gauge(
        "harness_workers",
        "Slots that the harness processes want to hold.",
    );
    page.value(
        &[],
        status.harnesses.iter().map(|h| h.workers).sum::<usize>(),
    );
    let q = &status.work_queue;
    page.gauge("harness_items", "Items by state.");
    for (state, n) in [
        ("pending", q.pending),
        ("scheduled", q.scheduled),
        ("blocked", q.blocked),
        ("claimed", q.claimed),
        ("review", q.review),
        ("merge", q.merge),
        ("done", q.done),
        ("parked", q.parked),
    ] {
        page.value(&[("state", state)], n);
    }
    page.gauge(
        "harness_interrupts",
        "Interrupts in force: slots, or all of them, wait for a person.",
    );
    page.value(&[], status.interrupts.len());
    page.gauge(
        "harness_holds",
        "Agents for which nothing is started, by the class of the reason.",
    );
    let mut classes: BTreeMap<&str, u64> = BTreeMap::new();
    for hold in &status.holds {
        let class = hold.class.as_str();
        let fits = classes.contains_key(class) || classes.len() < CLASSES_MAX;
        *classes.entry(if fits { class } else { OTHER }).or_default() += 1;
    }
    // One line at least: what is not there cannot be told from what is not reported.
    classes.entry(crate::hold::BUDGET).or_default();
    for (class, n) in classes {
        page.value(&[("class", class)], n);
    }
    page.gauge(
        "harness_order",
        "Whether this order of a person's is in force.",
    );
    for order in ["pause", "drain", "stop"] {
        let is_given = status.control.iter().any(|given| given == order);
        page.value(&[("order", order)], u8::from(is_given));
    }
    page.gauge(
        "harness_troubles",
        "Places where something is wrong, beside those of slots.",
    );
    page.value(&[], status.troubles.len());
}

fn of_slots(page: &mut Page, slots: &[SlotStatus]) {
    let held = || slots.iter().filter(|s| s.health != Health::Dead);
    page.gauge(
        "harness_slots",
        "Slots that a harness process holds, by state.",
    );
    for (word, state) in [
        ("idle", SlotState::Idle),
        ("starting", SlotState::Starting),
        ("working", SlotState::Working),
        ("finishing", SlotState::Finishing),
        ("interrupted", SlotState::Interrupted),
        ("paused", SlotState::Paused),
        ("trouble", SlotState::Trouble),
    ] {
        page.value(
            &[("state", word)],
            held().filter(|s| s.state == state).count(),
        );
    }
    page.gauge(
        "harness_slot_health",
        "Slots by how their agents do; of a dead one nobody holds the slot.",
    );
    for (word, health) in [
        ("healthy", Health::Healthy),
        ("quiet", Health::Quiet),
        ("stalled", Health::Stalled),
        ("dead", Health::Dead),
    ] {
        let n = slots.iter().filter(|s| s.health == health).count();
        page.value(&[("health", word)], n);
    }
    let mut running: BTreeMap<&str, (u64, u64, u64, f64)> = BTreeMap::new();
    for slot in held().filter(|s| s.session.is_some() && !is_idle(s.state)) {
        let agent = slot.agent.as_deref().unwrap_or(OTHER);
        let (n, input, output, usd) = running.entry(agent).or_default();
        *n += 1;
        *input += slot.input_tokens;
        *output += slot.output_tokens;
        *usd += slot.cost_usd;
    }
    page.gauge("harness_running", "Attempts that are at work, by agent.");
    for (agent, (n, ..)) in &running {
        page.value(&[("agent", agent)], n);
    }
    page.gauge(
        "harness_running_tokens",
        "Tokens that the attempts at work have used so far.",
    );
    for (agent, (_, input, output, _)) in &running {
        page.value(&[("agent", agent), ("direction", "input")], input);
        page.value(&[("agent", agent), ("direction", "output")], output);
    }
    page.gauge(
        "harness_running_cost_usd",
        "Dollars that the attempts at work have cost so far.",
    );
    for (agent, (.., usd)) in &running {
        page.value(&[("agent", agent)], usd);
    }
}

fn is_idle(state: SlotState) -> bool {
    matches!(
        state,
        SlotState::Idle | SlotState::Paused | SlotState::Trouble
    )
}

fn of_attempts(page: &mut Page, agents: &BTreeMap<String, OfAgent>) {
    page.counter("harness_attempts_total", "Attempts that ended, by outcome.");
    for (agent, sums) in agents {
        let of = |outcome| sums.outcomes.get(outcome).copied().unwrap_or_default();
        for outcome in Outcome::ALL.map(Outcome::as_str) {
            page.value(&[("agent", agent), ("outcome", outcome)], of(outcome));
        }
        if of(OTHER) > 0 {
            page.value(&[("agent", agent), ("outcome", OTHER)], of(OTHER));
        }
    }
    page.counter(
        "harness_items_ended_total",
        "Items whose last attempt ended well (done) or not (parked).",
    );
    for (agent, sums) in agents {
        page.value(&[("agent", agent), ("end", "done")], sums.done);
        page.value(&[("agent", agent), ("end", "parked")], sums.parked);
    }
    page.counter(
        "harness_faults_total",
        "Attempts whose CLI reported something wrong, by its class.",
    );
    for (agent, sums) in agents {
        for (class, n) in &sums.faults {
            page.value(&[("agent", agent), ("class", class)], n);
        }
    }
    page.counter("harness_tokens_total", "Tokens that ended attempts used.");
    for (agent, sums) in agents {
        page.value(
            &[("agent", agent), ("direction", "input")],
            sums.input_tokens,
        );
        page.value(
            &[("agent", agent), ("direction", "output")],
            sums.output_tokens,
        );
    }
    page.counter(
        "harness_cost_usd_total",
        "Dollars that ended attempts cost, as far as their CLIs say.",
    );
    for (agent, sums) in agents {
        page.value(&[("agent", agent)], sums.cost_usd);
    }
    page.metric(
        "harness_attempt_duration_seconds",
        "histogram",
        "How long ended attempts took.",
    );
    for (agent, sums) in agents {
        let mut below = 0;
        for (end, n) in DURATIONS.iter().zip(sums.durations) {
            below += n;
            page.part(
                "_bucket",
                &[("agent", agent), ("le", &end.to_string())],
                below,
            );
        }
        page.part(
            "_bucket",
            &[("agent", agent), ("le", "+Inf")],
            sums.attempts,
        );
        page.part("_sum", &[("agent", agent)], sums.seconds);
        page.part("_count", &[("agent", agent)], sums.attempts);
    }
}
