//! Whether an attempt can be paid, and what it reserves.
//!
//! Pure. Invariants: what is reserved and used never exceeds a budget by a reservation; a budget of which
//! nothing is used or reserved lets an attempt begin.

use super::state::{AgentState, Amount, State, Window};
use super::{Ask, Moment};
use crate::clock::{self, Timestamp};
use crate::config::BudgetTable;

/// With fewer known ends of an agent, its attempts reserve their own limit.
pub(crate) const KNOWN_MIN: usize = 5;
/// Nine of ten attempts cost at most what one reserves.
const PERCENTILE: f64 = 0.9;
const WINDOW: &str = "window_tokens";
/// Less than that is a rounding error.
const LEAST: f64 = 1e-6;

/// What an attempt gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Grant {
    pub(crate) amount: Amount,
    /// It may cost no more than this, where that is less than its own limit, and the key that says so.
    pub(crate) usd_max: Option<(f64, &'static str)>,
    /// The same for tokens, which have no limit of their own.
    pub(crate) tokens_max: Option<(u64, &'static str)>,
}

/// Why it cannot be paid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// No attempt of its agent can be, until then; `None`: until a person has changed something.
    Agent {
        until: Option<Timestamp>,
        why: String,
    },
    /// Its item has used up its own budget.
    Item(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Usd,
    Tokens,
}

/// A budget that an attempt is in.
struct Bound {
    key: &'static str,
    unit: Unit,
    limit: f64,
    used: f64,
    /// By attempts under way.
    reserved: f64,
    until: Option<Timestamp>,
}

impl Bound {
    fn left(&self) -> f64 {
        self.limit - self.used - self.reserved
    }

    fn refuse(&self, why: &str) -> Refusal {
        let show = |n: f64| show(self.unit, n);
        let reserved = match self.reserved > 0.0 {
            true => format!(" and {} reserved", show(self.reserved)),
            false => String::new(),
        };
        let raise = match self.until {
            None => format!("; raise `{}` in [budget]", self.key),
            Some(_) => String::new(),
        };
        Refusal::Agent {
            until: self.until,
            why: format!(
                "`{}` {} {}: {} are used{reserved}{why}{raise}",
                self.key,
                match self.key {
                    WINDOW => "leaves agents",
                    _ => "is",
                },
                show(self.limit),
                show(self.used),
            ),
        }
    }
}

/// `$0.09`, `$0.0312`; `12000 tokens`.
fn show(unit: Unit, n: f64) -> String {
    match unit {
        Unit::Usd => money(n),
        Unit::Tokens => format!("{n:.0} tokens"),
    }
}

pub(crate) fn money(usd: f64) -> String {
    let cents = (usd * 100.0).round() / 100.0;
    match (cents - usd).abs() < LEAST {
        true => format!("${usd:.2}"),
        false => format!("${usd:.4}"),
    }
}

/// Whether the attempt can be paid now. `state` has been rolled on to `now`.
pub(super) fn decide(
    state: &State,
    table: &BudgetTable,
    ask: &Ask<'_>,
    now: &Moment,
) -> Result<Grant, Refusal> {
    let nobody = AgentState::default();
    let agent = state.agents.get(ask.agent).unwrap_or(&nobody);
    let (usd_known, tokens_known) = agent.known();
    let bounds = bounds(state, agent, table, ask, now);
    if table.window_tokens > 0 && of_window(table) == 0 {
        return Err(Refusal::Agent {
            until: None,
            why: format!(
                "`reserve_for_people` = {} leaves agents nothing of `window_tokens`: lower it in [budget]",
                table.reserve_for_people
            ),
        });
    }
    if let Some(refusal) = too_early(state, agent, table, ask, now) {
        return Err(refusal);
    }
    let tightest = of_unit(&bounds, Unit::Usd).min_by(|a, b| a.left().total_cmp(&b.left()));
    let is_bounded = tightest.is_some() && !ask.subscription;
    // An item that has no limit (`budget_usd: 0`) takes its agent's where dollars are bounded: it holds up
    // no other item.
    let limit_usd = ask.limit_usd.or(ask.agent_usd.filter(|_| is_bounded));
    let at_work = state.reserved.values().any(|r| r.agent == ask.agent);
    let wants = |unit| {
        let bounds: Vec<&Bound> = of_unit(&bounds, unit).collect();
        let (known, limit) = match unit {
            Unit::Usd => (&usd_known, limit_usd),
            Unit::Tokens => (&tokens_known, None),
        };
        wanted(&bounds, known, limit, at_work, ask, unit)
    };
    // Its dollars are paid already.
    let usd = match ask.subscription {
        true => Some(0.0),
        false => wants(Unit::Usd)?,
    };
    let tokens = wants(Unit::Tokens)?;
    let (item_usd, item_tokens) = left_of_item(table, ask, &usd_known, &tokens_known)?;
    // It may cost what it has reserved, where that is all that was left.
    let is_rest = !ask.subscription && usd_known.len() < KNOWN_MIN;
    let rest = usd.zip(tightest.map(|b| b.key)).filter(|_| is_rest);
    let of_item = item_usd.map(|left| (left, "item_usd"));
    let own = limit_usd.filter(|_| ask.limit_usd.is_none());
    let usd_max = [of_item, own.map(|usd| (usd, "budget_usd")), rest]
        .into_iter()
        .flatten()
        .filter(|(usd, _)| ask.limit_usd.is_none_or(|limit| usd + LEAST < limit))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let tokens_max = most_tokens(&bounds, tokens, item_tokens, tokens_known.len());
    let least = |a: Option<f64>, b: Option<f64>| a.into_iter().chain(b).reduce(f64::min);
    let tokens = least(tokens, item_tokens).unwrap_or(0.0);
    let usd = least(usd, usd_max.map(|(usd, _)| usd)).unwrap_or(0.0);
    Ok(Grant {
        amount: Amount::new(usd, tokens.ceil() as u64),
        usd_max,
        tokens_max,
    })
}

/// It may use what it has reserved, where that is all that was left.
fn most_tokens(
    bounds: &[Bound],
    reserved: Option<f64>,
    of_item: Option<f64>,
    known: usize,
) -> Option<(u64, &'static str)> {
    let tightest = of_unit(bounds, Unit::Tokens).min_by(|a, b| a.left().total_cmp(&b.left()));
    let is_rest = |b: &&Bound| known < KNOWN_MIN && reserved.is_some_and(|n| n + 1.0 > b.left());
    let rest = tightest.filter(is_rest).map(|b| (b.left(), b.key));
    let of_item = of_item.map(|left| (left, "item_tokens"));
    let most = of_item.into_iter().chain(rest);
    let most = most.min_by(|a, b| a.0.total_cmp(&b.0))?;
    Some((most.0 as u64, most.1))
}

fn of_unit(bounds: &[Bound], unit: Unit) -> impl Iterator<Item = &Bound> {
    bounds.iter().filter(move |b| b.unit == unit)
}

/// The budgets that all items of its agent are in.
fn bounds(
    state: &State,
    agent: &AgentState,
    table: &BudgetTable,
    ask: &Ask<'_>,
    now: &Moment,
) -> Vec<Bound> {
    let (all, own) = (state.reserved_by(None), state.reserved_by(Some(ask.agent)));
    let usd = |key, limit, used: Amount, until| Bound {
        key,
        unit: Unit::Usd,
        limit,
        used: used.usd,
        reserved: all.usd,
        until,
    };
    let tokens = |key, limit: u64, used: u64, reserved: u64, until| Bound {
        key,
        unit: Unit::Tokens,
        limit: limit as f64,
        used: used as f64,
        reserved: reserved as f64,
        until,
    };
    let (day, total) = (Some(now.next_day), None);
    let window = agent.window.as_ref();
    let ends = window.map_or(clock::later(now.at, table.window), |w| w.ends_at(table));
    let mut bounds = vec![
        usd("total_usd", table.total_usd, state.total, total),
        usd("day_usd", table.day_usd, state.today, day),
        tokens(
            "total_tokens",
            table.total_tokens,
            state.total.tokens,
            all.tokens,
            total,
        ),
        tokens(
            "day_tokens",
            table.day_tokens,
            state.today.tokens,
            all.tokens,
            day,
        ),
        tokens(
            WINDOW,
            of_window(table),
            window.map_or(0, |w| w.tokens),
            own.tokens,
            Some(ends),
        ),
    ];
    bounds.retain(|b| b.limit > 0.0);
    bounds
}

/// The part of a window that is for agents.
pub(super) fn of_window(table: &BudgetTable) -> u64 {
    (table.window_tokens as f64 * (1.0 - table.reserve_for_people)) as u64
}

/// What it reserves of one unit; `None`: nobody knows what it will use, and nothing bounds that.
fn wanted(
    bounds: &[&Bound],
    known: &[f64],
    limit: Option<f64>,
    at_work: bool,
    ask: &Ask<'_>,
    unit: Unit,
) -> Result<Option<f64>, Refusal> {
    let usual = percentile(known).map(|usual| limit.map_or(usual, |limit| usual.min(limit)));
    let is_known = known.len() >= KNOWN_MIN;
    let amount = if is_known { usual } else { limit };
    let Some(tightest) = bounds.iter().min_by(|a, b| a.left().total_cmp(&b.left())) else {
        return Ok(amount.or(usual));
    };
    let fits = |amount: &f64| *amount <= tightest.left() + LEAST;
    if amount.as_ref().is_some_and(fits) {
        return Ok(amount);
    }
    if is_known {
        return Err(too_much(bounds, usual.unwrap_or_default(), ask, unit));
    }
    if unit == Unit::Usd && limit.is_none() {
        let (key, agent) = (tightest.key, ask.agent);
        return Err(Refusal::Agent {
            until: None,
            why: format!(
                "dollars are bounded (`{key}`), and nobody knows what an attempt of {agent} may cost: set `budget_usd` \
                 (or `subscription = true`) in [agents.{agent}]"
            ),
        });
    }
    // Little is known, and the worst does not fit: one at a time, with all that is left.
    if at_work {
        let (ended, agent) = (known.len(), ask.agent);
        return Err(tightest.refuse(&format!(
            "; {agent} is at work, and goes on one at a time until {KNOWN_MIN} attempts ({ended} by now) have shown what they use"
        )));
    }
    match tightest.left() > LEAST && usual.as_ref().is_none_or(fits) {
        true => Ok(Some(tightest.left())),
        false => Err(too_much(bounds, usual.unwrap_or_default(), ask, unit)),
    }
}

/// Which budget this amount does not fit into: of several, the one that lasts longest.
fn too_much(bounds: &[&Bound], amount: f64, ask: &Ask<'_>, unit: Unit) -> Refusal {
    let full = bounds
        .iter()
        .filter(|b| amount.max(2.0 * LEAST) > b.left() + LEAST);
    let Some(bound) = full.max_by_key(|b| b.until.unwrap_or(Timestamp::MAX)) else {
        return Refusal::Item("a fault in harness: a budget is full and is not".to_owned());
    };
    let takes = format!(
        "an attempt of {} may take {}",
        ask.agent,
        show(unit, amount)
    );
    if amount <= LEAST {
        return bound.refuse("");
    }
    if amount <= bound.limit + LEAST {
        return bound.refuse(&format!(", and {takes}"));
    }
    let lower = match unit {
        Unit::Usd => format!(", or lower `budget_usd` in [agents.{}]", ask.agent),
        Unit::Tokens => String::new(),
    };
    let (key, limit) = (bound.key, show(unit, bound.limit));
    Refusal::Agent {
        until: None,
        why: format!(
            "{takes}, which is more than the whole of `{key}`, {limit}: raise that{lower}"
        ),
    }
}

/// The smallest amount that nine of ten do not exceed.
pub(super) fn percentile(sorted: &[f64]) -> Option<f64> {
    let at = (sorted.len() as f64 * PERCENTILE).ceil() as usize;
    sorted.get(at.checked_sub(1)?).copied()
}

/// A window that is paced: no larger part of it is used than has passed. Whoever is alone may begin.
fn too_early(
    state: &State,
    agent: &AgentState,
    table: &BudgetTable,
    ask: &Ask<'_>,
    now: &Moment,
) -> Option<Refusal> {
    let limit = of_window(table);
    let window = agent.window.as_ref().filter(|_| table.pace && limit > 0)?;
    let taken = window
        .tokens
        .saturating_add(state.reserved_by(Some(ask.agent)).tokens);
    let due = paced(window, table, taken, limit);
    (due > now.at).then(|| Refusal::Agent {
        until: Some(due),
        why: format!(
            // Not how much has passed: a hold whose words change is written anew.
            "{:.0} % of the window's tokens are used or reserved, and less of its {} has passed (`pace`)",
            100.0 * taken as f64 / limit as f64,
            clock::human(table.window)
        ),
    })
}

/// When as large a part of the window has passed as is taken of it.
fn paced(window: &Window, table: &BudgetTable, taken: u64, limit: u64) -> Timestamp {
    let share = (taken as f64 / limit as f64).clamp(0.0, 1.0);
    clock::later(window.began(), table.window.mul_f64(share))
}

/// The dollars and tokens that its item leaves it, where those are bounded.
fn left_of_item(
    table: &BudgetTable,
    ask: &Ask<'_>,
    usd_known: &[f64],
    tokens_known: &[f64],
) -> Result<(Option<f64>, Option<f64>), Refusal> {
    let left = |key, unit, limit: f64, used: f64, known: &[f64]| {
        if limit <= 0.0 {
            return Ok(None);
        }
        let left = limit - used;
        // Its first attempt may try with what there is.
        let usual = percentile(known).filter(|_| used > 0.0).unwrap_or(0.0);
        if usual.max(2.0 * LEAST) <= left + LEAST {
            return Ok(Some(left));
        }
        let takes = match usual > LEAST {
            true => format!(", and another attempt may take {}", show(unit, usual)),
            false => String::new(),
        };
        Err(Refusal::Item(format!(
            "the item's budget is used up: {} of {} (`{key}` in [budget]){takes}; raise `{key}`, or `harness retry {}` gives it its budget again",
            show(unit, used),
            show(unit, limit),
            ask.item
        )))
    };
    let (used, tokens_max) = (ask.item_used, table.item_tokens as f64);
    let tokens = left(
        "item_tokens",
        Unit::Tokens,
        tokens_max,
        used.tokens as f64,
        tokens_known,
    )?;
    if ask.subscription {
        return Ok((None, tokens));
    }
    let usd = left("item_usd", Unit::Usd, table.item_usd, used.usd, usd_known)?;
    Ok((usd, tokens))
}
