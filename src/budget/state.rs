//! What `state/budget/budget.json` says: what was used, and what attempts under way have reserved.
//!
//! Pure: no file, no clock. Invariant: a reservation is charged once, as it is taken out with that.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Moment;
use crate::clock::{self, Timestamp};
use crate::config::BudgetTable;
use crate::mutant::planted;

/// Of so many of an agent's last attempts it is known what they used.
const ENDS_MAX: usize = 20;
/// No attempt costs more: whatever a CLI says, sums stay finite and exact.
const USD_MAX: f64 = 1_000_000.0;
const TOKENS_MAX: u64 = 1_000_000_000_000;
/// Nor do all attempts together.
const SUM_USD_MAX: f64 = 1e12;
/// A day further in the future than this is of a clock that went wrong; one nearer may be that of a process
/// in another time zone.
const ZONES_APART: Duration = Duration::from_secs(48 * 3600);
const VERSION: u32 = 1;

/// Dollars and tokens. Tokens are input, output and writes to a cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Amount {
    /// Dollars.
    pub(crate) usd: f64,
    /// Input, output and writes to a cache.
    pub(crate) tokens: u64,
}

impl Amount {
    pub(crate) fn new(usd: f64, tokens: u64) -> Amount {
        let usd = if usd.is_finite() { usd } else { USD_MAX };
        Amount {
            usd: usd.clamp(0.0, USD_MAX),
            tokens: tokens.min(TOKENS_MAX),
        }
    }

    pub(super) fn add(&mut self, other: Amount) {
        // Cents add up to cents.
        self.usd = ((self.usd + other.usd) * 1e6).round() / 1e6;
        self.tokens = self.tokens.saturating_add(other.tokens);
    }

    fn is_sane(self) -> bool {
        (0.0..=SUM_USD_MAX).contains(&self.usd)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct State {
    /// 1. Without it the file is not ours.
    version: u32,
    /// The local date of `today`.
    #[serde(default)]
    pub(super) day: String,
    /// What was used today.
    #[serde(default)]
    pub(super) today: Amount,
    /// What was ever used.
    #[serde(default)]
    pub(super) total: Amount,
    /// By the name of `[agents.NAME]`.
    #[serde(default)]
    pub(super) agents: BTreeMap<String, AgentState>,
    /// By session.
    #[serde(default)]
    pub(super) reserved: BTreeMap<String, Reservation>,
    /// Fields of a newer version.
    #[serde(flatten)]
    #[schemars(skip)]
    more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct AgentState {
    /// What it used today.
    pub(super) today: Amount,
    /// Its window, if one has begun.
    pub(super) window: Option<Window>,
    /// Its last attempts that used something, the oldest first.
    pub(super) ends: VecDeque<Used>,
    /// The own limit of the attempt that could not be paid last.
    pub(super) refused_usd: Option<f64>,
    #[serde(flatten)]
    #[schemars(skip)]
    more: Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Window {
    /// Seconds since 1970.
    #[serde(with = "crate::clock::seconds")]
    #[schemars(with = "Option<String>")]
    began_at: Option<i64>,
    /// Used since then.
    pub(super) tokens: u64,
}

/// What an attempt used, and whether that is known: else it was charged with what it had reserved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Used {
    pub(super) session: String,
    #[serde(flatten)]
    pub(super) amount: Amount,
    /// Whether its CLI told its cost.
    pub(super) usd_known: bool,
    /// Whether its CLI told its tokens.
    pub(super) tokens_known: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Reservation {
    pub(super) item: String,
    pub(super) agent: String,
    #[serde(flatten)]
    pub(super) amount: Amount,
    /// When it was reserved.
    pub(super) at: String,
}

impl State {
    pub(super) fn new(now: &Moment) -> State {
        State {
            version: VERSION,
            day: now.day.clone(),
            today: Amount::default(),
            total: Amount::default(),
            agents: BTreeMap::new(),
            reserved: BTreeMap::new(),
            more: Map::new(),
        }
    }

    /// Whether it is of this version, and its numbers can be counted with; if not, why.
    pub(super) fn checked(self) -> Result<State, String> {
        if self.version != VERSION {
            let version = self.version;
            return Err(format!("it is of version {version}, not {VERSION}"));
        }
        match self.is_sane() {
            true => Ok(self),
            false => Err("it has numbers that nothing can cost".to_owned()),
        }
    }

    fn is_sane(&self) -> bool {
        let used = [self.today, self.total].into_iter();
        let agents = self.agents.values();
        let agents = agents.flat_map(|a| a.ends.iter().map(|e| e.amount).chain([a.today]));
        let reserved = self.reserved.values().map(|r| r.amount);
        used.chain(agents).chain(reserved).all(Amount::is_sane)
    }

    /// What time has ended: the day, and windows. The day is never set back to one that would then begin
    /// once more: what was used in the future counts as used today, be it that the clock was set back or
    /// that another process is in another time zone.
    pub(super) fn roll(&mut self, table: &BudgetTable, now: &Moment) {
        let nearest = clock::iso(clock::later(now.at, ZONES_APART));
        if self.day < now.day {
            self.today = Amount::default();
            let agents = self.agents.values_mut();
            agents.for_each(|a| a.today = Amount::default());
            self.day.clone_from(&now.day);
        } else if *self.day > *nearest {
            self.day.clone_from(&now.day);
        }
        for agent in self.agents.values_mut() {
            if let Some(window) = &mut agent.window {
                if window.began() > now.at {
                    *window = Window::new(now.at, window.tokens);
                }
                if window.ends_at(table) <= now.at {
                    agent.window = None;
                }
            }
        }
    }

    /// Reserves for a session. The window of its agent begins, if there is none.
    pub(super) fn reserve(&mut self, session: &str, reservation: Reservation, now: &Moment) {
        self.window_of(&reservation.agent, now);
        self.reserved.insert(session.to_owned(), reservation);
    }

    fn window_of(&mut self, agent: &str, now: &Moment) -> &mut Window {
        let agent = self.agents.entry(agent.to_owned()).or_default();
        agent.window.get_or_insert_with(|| Window::new(now.at, 0))
    }

    /// Takes the reservation of a session back: it used nothing. `false`: there is none.
    pub(super) fn give_back(&mut self, session: &str) -> bool {
        self.reserved.remove(session).is_some()
    }

    /// Charges a session with what it used; what is not known, with what it had reserved. Of one that was
    /// charged before: with what. `None`: it had reserved nothing.
    pub(super) fn charge(
        &mut self,
        session: &str,
        usd: Option<f64>,
        tokens: Option<u64>,
        now: &Moment,
    ) -> Option<Charged> {
        let found = match planted("charged-twice") {
            true => self.reserved.get(session).cloned(),
            false => self.reserved.remove(session),
        };
        let Some(reserved) = found else {
            let mut ends = self.agents.values().flat_map(|a| &a.ends);
            let before = ends.find(|end| end.session == session)?;
            return Some(Charged::Before(before.amount));
        };
        let used = Used {
            session: session.to_owned(),
            amount: Amount::new(
                usd.unwrap_or(reserved.amount.usd),
                tokens.unwrap_or(reserved.amount.tokens),
            ),
            usd_known: usd.is_some(),
            tokens_known: tokens.is_some(),
        };
        let amount = used.amount;
        self.today.add(amount);
        self.total.add(amount);
        let window = self.window_of(&reserved.agent, now);
        window.tokens = window.tokens.saturating_add(amount.tokens);
        let agent = self.agents.entry(reserved.agent).or_default();
        agent.today.add(amount);
        agent.note(used);
        Some(Charged::Now(amount))
    }

    /// What attempts under way have reserved, those of one agent alone if it is named.
    pub(super) fn reserved_by(&self, agent: Option<&str>) -> Amount {
        let mut sum = Amount::default();
        let of = |r: &&Reservation| agent.is_none_or(|agent| r.agent == agent);
        self.reserved
            .values()
            .filter(of)
            .for_each(|r| sum.add(r.amount));
        sum
    }
}

/// What became of a charge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Charged {
    Now(Amount),
    /// By somebody who died then.
    Before(Amount),
}

impl AgentState {
    /// One that used nothing says nothing of what the next may cost.
    pub(super) fn note(&mut self, used: Used) {
        if used.amount == Amount::default() {
            return;
        }
        self.ends.push_back(used);
        while self.ends.len() > ENDS_MAX {
            self.ends.pop_front();
        }
    }

    /// What its last attempts used in dollars, and in tokens, where that is known; the smallest first.
    pub(super) fn known(&self) -> (Vec<f64>, Vec<f64>) {
        let usd = self.ends.iter().filter(|end| end.usd_known);
        let tokens = self.ends.iter().filter(|end| end.tokens_known);
        let mut usd: Vec<f64> = usd.map(|end| end.amount.usd).collect();
        let mut tokens: Vec<f64> = tokens.map(|end| end.amount.tokens as f64).collect();
        usd.sort_by(f64::total_cmp);
        tokens.sort_by(f64::total_cmp);
        (usd, tokens)
    }
}

impl Window {
    pub(super) fn new(began: Timestamp, tokens: u64) -> Window {
        Window {
            began_at: Some(began.as_second()),
            tokens,
        }
    }

    pub(super) fn began(&self) -> Timestamp {
        let began = self.began_at.and_then(|at| Timestamp::from_second(at).ok());
        began.unwrap_or_default()
    }

    pub(super) fn ends_at(&self, table: &BudgetTable) -> Timestamp {
        clock::later(self.began(), table.window)
    }
}
