//! What gates mean for an attempt whose agent has succeeded. Pure, as `decide` is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Cause, Decision, Next, Outcome, Terms, again};
use crate::text::count_of;

/// What a gate says of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Green,
    /// Twice on the same tree.
    Red,
    /// Red, then green on the same tree.
    Flaky,
    /// It timed out, was killed, or could not be started: it says nothing of the tree.
    #[default]
    Unevaluated,
    /// Red, and the base fails in the same way.
    RedBefore,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Green => "green",
            Verdict::Red => "red",
            Verdict::Flaky => "flaky",
            Verdict::Unevaluated => "unevaluated",
            Verdict::RedBefore => "red_before",
        }
    }

    pub fn lets_pass(self) -> bool {
        matches!(self, Verdict::Green | Verdict::Flaky)
    }
}

/// What follows where a gate does not let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    Retry,
    Park,
    Interrupt,
    /// Nothing: it is only told.
    Told,
}

/// What one gate said.
#[derive(Debug, Clone)]
pub struct GateEvidence {
    pub gate: String,
    pub verdict: Verdict,
    pub means: Means,
    /// In words, for what is not green.
    pub reason: String,
    /// Failing tests by name.
    pub tests: Vec<String>,
}

/// Names of tests in one line.
const TESTS_SHOWN: usize = 3;

impl GateEvidence {
    /// One line: `gate test is red: 2 tests fail: a, b`.
    pub fn line(&self) -> String {
        let says = match self.verdict {
            Verdict::Green => "is green",
            Verdict::Red => "is red",
            Verdict::Flaky => "is flaky: red, then green on the same tree",
            Verdict::Unevaluated => "could not be evaluated",
            Verdict::RedBefore => "is red, as it is on the base",
        };
        let mut line = format!("gate {} {says}", self.gate);
        if !self.reason.is_empty() {
            line.push_str(": ");
            line.push_str(&self.reason);
        }
        if !self.tests.is_empty() {
            let shown = self.tests.iter().take(TESTS_SHOWN).cloned();
            let shown = shown.collect::<Vec<_>>().join(", ");
            let more = if self.tests.len() > TESTS_SHOWN {
                ", …"
            } else {
                ""
            };
            let fail = if self.tests.len() == 1 {
                "fails"
            } else {
                "fail"
            };
            let count = count_of(self.tests.len() as u64, "test");
            line.push_str(&format!("; {count} {fail}: {shown}{more}"));
        }
        line
    }
}

/// The decision about an attempt that has succeeded, after its gates. `failures`: counted ones before it. The first that holds it up
/// decides; red ones come first, since a red one is the attempt's fault.
pub fn gated(decision: Decision, gates: &[GateEvidence], failures: u32, terms: &Terms) -> Decision {
    let holds = |g: &&GateEvidence| !g.verdict.lets_pass() && g.means != Means::Told;
    let red = gates
        .iter()
        .filter(holds)
        .find(|g| g.verdict == Verdict::Red);
    let Some(gate) = red.or_else(|| gates.iter().find(holds)) else {
        let told = gates.iter().filter(|g| g.verdict != Verdict::Green);
        let told: Vec<String> = told.map(GateEvidence::line).collect();
        let mut decision = decision;
        if !told.is_empty() {
            decision.reason = format!("{}; {}", decision.reason, told.join("; "));
        }
        return decision;
    };
    let line = gate.line();
    let parked =
        |advice: &str| Decision::new(Outcome::GateFailed, format!("{line}{advice}"), Next::Parked);
    match (gate.verdict, gate.means) {
        (Verdict::Red, Means::Retry) => again(Outcome::GateFailed, line, failures, terms),
        (Verdict::Red, Means::Interrupt) => Decision {
            interrupt: Some(Cause::Gate),
            ..parked("")
        },
        (Verdict::Red, _) => parked(""),
        (Verdict::RedBefore, _) => parked("; mend the base, then retry"),
        _ => parked("; nothing is known of the work: see to the gate, then retry"),
    }
}
