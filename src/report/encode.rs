//! Packs what the page's script shows: rows of numbers, and each text once. Ten thousand items are about a
//! megabyte. `page.js` unpacks it.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::text;

use super::attempts::{Attempt, clipped};
use super::data::{Data, Item, name_of};

/// Reasons are told whole by `harness show`.
const REASON_CHARS: usize = 160;

/// Texts, each with its number.
#[derive(Default)]
struct Texts {
    numbers: HashMap<String, usize>,
    all: Vec<String>,
}

impl Texts {
    fn number(&mut self, text: &str) -> usize {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        self.all.push(text.to_owned());
        self.numbers.insert(text.to_owned(), self.all.len() - 1);
        self.all.len() - 1
    }
}

/// JSON that may stand in a `<script>`: it has no `<`.
pub(super) fn data(data: &Data) -> String {
    let from = data.attempts().map(|(_, a)| a.claimed).min();
    let from = from.unwrap_or(data.now);
    let mut pack = Pack {
        texts: Texts::default(),
        from,
        last: from,
    };
    // Number 0 is no text.
    pack.texts.number("");
    let items: Vec<Value> = data.items.iter().map(|item| pack.item(item)).collect();
    let waiting: Vec<i64> = data.waiting.iter().map(|at| at - from).collect();
    let all = json!({
        "now": data.now - from,
        "from": from,
        "items": items,
        "waiting": waiting,
        "texts": pack.texts.all,
    });
    let bytes = text::json(&all).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('<', "\\u003c")
}

struct Pack {
    texts: Texts,
    /// All times count from here: the first claim.
    from: i64,
    /// When the attempt before was claimed: differences are short.
    last: i64,
}

impl Pack {
    /// Name, state, attempts; then, where there is something to say, since when it waits, and the outcome
    /// and reason of one without attempts.
    fn item(&mut self, item: &Item) -> Value {
        let state = self.texts.number(item.state);
        let attempts: Vec<Value> = item
            .attempts
            .iter()
            .map(|attempt| self.attempt(item, attempt))
            .collect();
        let mut row = vec![json!(name_of(item)), json!(state), json!(attempts)];
        row.push(json!(item.waits_since.map_or(0, |at| at - self.from)));
        if item.attempts.is_empty() {
            row.push(json!(self.texts.number(&item.outcome)));
            let reason = clipped(&item.reason, REASON_CHARS);
            row.push(json!(self.texts.number(&reason)));
        }
        trimmed(row)
    }

    /// Times are milliseconds: since the claim of the attempt before, how long the item had waited, from
    /// the claim to the start, and to the end.
    fn attempt(&mut self, item: &Item, attempt: &Attempt) -> Value {
        let since = |at: i64| (at - attempt.claimed).max(0);
        let usual = format!("harness/{}/{}", item.name.ref_component(), attempt.number);
        let branch = match &attempt.branch {
            None => 0,
            Some(branch) if *branch == usual => 1,
            Some(branch) => self.texts.number(branch) + 2,
        };
        let gates = attempt.gates.iter();
        let gates = gates.map(|ran| format!("{} {}", ran.gate, ran.verdict.as_str()));
        let gates = gates.collect::<Vec<_>>().join(", ");
        let row = [
            attempt.claimed - self.last,
            attempt.queued.map_or(0, |at| (attempt.claimed - at).max(0)),
            attempt.started.map_or(0, since),
            attempt.ended.map_or(-1, since),
            index(self.texts.number(&attempt.slot)),
            index(self.texts.number(&attempt.agent)),
            index(self.texts.number(&attempt.outcome)),
            index(self.texts.number(&clipped(&attempt.reason, REASON_CHARS))),
            index(branch),
            count(attempt.turns),
            count(attempt.input_tokens),
            count(attempt.output_tokens),
            // Hundredths of a cent.
            (attempt.cost_usd * 10_000.0).round() as i64,
            count(attempt.commits),
            index(self.texts.number(&crate::view::line(&gates))),
            i64::from(attempt.number),
        ];
        self.last = attempt.claimed;
        trimmed(row.map(|n| json!(n)).into())
    }
}

fn index(n: usize) -> i64 {
    i64::try_from(n).unwrap_or_default()
}

fn count(n: u64) -> i64 {
    // What a number of JavaScript has exactly.
    i64::try_from(n.min(1 << 53)).unwrap_or_default()
}

/// Without zeros at its end.
fn trimmed(mut row: Vec<Value>) -> Value {
    while row.last().is_some_and(|value| value == 0) {
        row.pop();
    }
    row.into()
}
