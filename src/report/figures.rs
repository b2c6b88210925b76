//! Sums over what a report tells: by agent, outcome and duration.

use std::collections::BTreeMap;

use super::attempts::Attempt;
use super::data::{Data, Item};

#[derive(Default)]
pub(super) struct Figures {
    pub(super) attempts: u64,
    /// Attempts beyond the first of their items.
    pub(super) retries: u64,
    pub(super) running: u64,
    pub(super) seconds: f64,
    pub(super) tokens: u64,
    pub(super) cost_usd: f64,
    /// From the first claim to the last end.
    pub(super) from: Option<i64>,
    pub(super) to: Option<i64>,
    /// By outcome, the most frequent first.
    pub(super) outcomes: Vec<(String, u64)>,
    /// By how long they took: of `CLASSES`.
    pub(super) durations: [u64; CLASSES.len()],
    /// By name; the dearest, then the busiest first.
    pub(super) agents: Vec<(String, OfAgent)>,
}

#[derive(Default)]
pub(super) struct OfAgent {
    pub(super) attempts: u64,
    pub(super) good: u64,
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) cost_usd: f64,
    /// How long ended ones took, ascending.
    pub(super) seconds: Vec<f64>,
}

/// Classes of duration: their ends in seconds, and their words.
pub(super) const CLASSES: [(f64, &str); 8] = [
    (1.0, "under 1 s"),
    (10.0, "1 to 10 s"),
    (60.0, "10 s to 1 min"),
    (300.0, "1 to 5 min"),
    (900.0, "5 to 15 min"),
    (1_800.0, "15 to 30 min"),
    (3_600.0, "30 min to 1 h"),
    (f64::INFINITY, "over 1 h"),
];

impl Figures {
    pub(super) fn of(data: &Data) -> Figures {
        let mut all = Figures::default();
        let mut agents: BTreeMap<&str, OfAgent> = BTreeMap::new();
        let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
        for (item, attempt) in data.attempts() {
            all.add(item, attempt, data.now);
            *outcomes.entry(&attempt.outcome).or_default() += 1;
            agents.entry(&attempt.agent).or_default().add(attempt);
        }
        all.outcomes = owned(outcomes);
        all.outcomes.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        all.agents = owned(agents);
        for (_, agent) in &mut all.agents {
            agent.seconds.sort_by(f64::total_cmp);
        }
        all.agents.sort_by(|(_, a), (_, b)| {
            let by_cost = b.cost_usd.total_cmp(&a.cost_usd);
            by_cost.then(b.attempts.cmp(&a.attempts))
        });
        all
    }

    fn add(&mut self, item: &Item, attempt: &Attempt, now: i64) {
        self.attempts += 1;
        let first = item.attempts.first().filter(|_| item.left_out == 0);
        let is_first = first.is_some_and(|first| first.session == attempt.session);
        self.retries += u64::from(!is_first);
        self.seconds += attempt.seconds;
        self.cost_usd += attempt.cost_usd;
        let tokens = attempt.input_tokens.saturating_add(attempt.output_tokens);
        self.tokens = self.tokens.saturating_add(tokens);
        let claimed = attempt.claimed;
        self.from = Some(self.from.map_or(claimed, |from| from.min(claimed)));
        let to = attempt.ended.unwrap_or(now);
        self.to = Some(self.to.map_or(to, |known| known.max(to)));
        match attempt.ended {
            None => self.running += 1,
            Some(_) => {
                let class = CLASSES.iter().position(|(end, _)| attempt.seconds < *end);
                self.durations[class.unwrap_or_default()] += 1;
            }
        }
    }
}

fn owned<T>(map: BTreeMap<&str, T>) -> Vec<(String, T)> {
    let pairs = map.into_iter();
    pairs
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

impl OfAgent {
    fn add(&mut self, attempt: &Attempt) {
        self.attempts += 1;
        self.good += u64::from(is_good(&attempt.outcome));
        self.input_tokens = self.input_tokens.saturating_add(attempt.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(attempt.output_tokens);
        self.cost_usd += attempt.cost_usd;
        if attempt.ended.is_some() {
            self.seconds.push(attempt.seconds);
        }
    }

    /// What this share of its attempts did not exceed: 0.5 for the median.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let last = self.seconds.len().checked_sub(1)?;
        self.seconds
            .get((last as f64 * share).round() as usize)
            .copied()
    }
}

pub(super) fn is_good(outcome: &str) -> bool {
    matches!(outcome, "succeeded" | "no_change")
}
