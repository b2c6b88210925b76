//! Sums over the whole ledger, by agent: what `metrics.prom` counts, so that it survives restarts.
//!
//! Knows nothing of days or of Prometheus. Invariants: a step reads no more than some megabytes beyond a
//! file, and its next one goes on there; the number of labels has a bound, whatever stands in the files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::outcome::Outcome;
use crate::status::LedgerLine;

use super::ledger::{Tail, add, day_files};

/// A step ends after so much: some ten thousand lines, 50 ms.
const STEP_BYTES: u64 = 4 << 20;
/// Agents with sums of their own, and classes of faults: a configuration has a few.
const AGENTS_MAX: usize = 64;
const CLASSES_MAX: usize = 32;
/// What is beyond these bounds, or of a later version.
pub(super) const OTHER: &str = "other";
/// Upper ends of the classes of duration, in seconds.
pub(super) const DURATIONS: [u32; 9] = [1, 5, 15, 60, 300, 900, 1_800, 3_600, 7_200];

#[derive(Debug, Default)]
pub(super) struct Sums {
    tails: BTreeMap<PathBuf, Tail>,
    pub(super) agents: BTreeMap<String, OfAgent>,
}

/// Attempts of one agent.
#[derive(Debug, Default, Clone)]
pub(super) struct OfAgent {
    pub(super) attempts: u64,
    /// By outcome; missing ones are zero.
    pub(super) outcomes: BTreeMap<&'static str, u64>,
    /// By the class of what its CLI reported.
    pub(super) faults: BTreeMap<String, u64>,
    /// Items that ended with one of its attempts.
    pub(super) done: u64,
    pub(super) parked: u64,
    pub(super) seconds: f64,
    /// Attempts that took no longer than `DURATIONS[n]`, and longer than the one before.
    pub(super) durations: [u64; DURATIONS.len()],
    pub(super) input_tokens: u64,
    pub(super) output_tokens: u64,
    pub(super) cost_usd: f64,
}

impl Sums {
    /// Folds what is new. `false`: there is more, for the next call. Where a file was replaced, all are
    /// read again. A file that was removed keeps what it had told.
    pub(super) fn update(&mut self, dir: &Path) -> bool {
        let mut read = 0;
        for path in day_files(dir).unwrap_or_default() {
            let tail = self.tails.entry(path.clone()).or_default();
            let from = tail.offset;
            // A file that cannot be read now is read later.
            let same = tail.read(&path, |line| fold(&mut self.agents, &line));
            read += tail.offset - from;
            if !same.unwrap_or(true) {
                *self = Sums::default();
                return false;
            }
            if read > STEP_BYTES {
                return false;
            }
        }
        true
    }
}

fn fold(agents: &mut BTreeMap<String, OfAgent>, line: &LedgerLine) {
    let sums = of(agents, &line.agent, AGENTS_MAX);
    let mut known = Outcome::ALL.into_iter().map(Outcome::as_str);
    let outcome = known.find(|o| *o == line.outcome);
    sums.attempts += 1;
    *sums.outcomes.entry(outcome.unwrap_or(OTHER)).or_default() += 1;
    if let Some(class) = &line.fault {
        *of(&mut sums.faults, class, CLASSES_MAX) += 1;
    }
    match line.outcome.as_str() {
        _ if !line.last => {}
        "succeeded" | "no_change" => sums.done += 1,
        _ => sums.parked += 1,
    }
    add(&mut sums.seconds, line.seconds);
    add(&mut sums.cost_usd, line.cost_usd);
    sums.input_tokens = sums.input_tokens.saturating_add(line.input_tokens);
    sums.output_tokens = sums.output_tokens.saturating_add(line.output_tokens);
    let within = DURATIONS.iter().position(|&end| line.seconds <= end.into());
    if let Some(n) = within {
        sums.durations[n] += 1;
    }
}

/// The entry of a name, or of `OTHER` where there are too many.
fn of<'m, T: Default>(map: &'m mut BTreeMap<String, T>, name: &str, max: usize) -> &'m mut T {
    let fits = map.contains_key(name) || map.len() < max;
    map.entry(if fits { name } else { OTHER }.to_owned())
        .or_default()
}
