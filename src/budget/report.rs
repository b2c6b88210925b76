//! What `harness budget` tells: of each budget its limit, and what is used, reserved and left of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::rules::{of_window, percentile};
use super::state::{AgentState, Amount};
use super::{Budget, Moment, renew};
use crate::aggregator;
use crate::clock::{self, Timestamp};
use crate::config::BudgetTable;
use crate::error::Result;
use crate::hold::{self, Hold};
use crate::layout::Name;
use crate::record;

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Report {
    /// The local date of today.
    pub(crate) day: String,
    /// One row of each.
    pub(crate) budgets: Vec<Row>,
    /// Agents that wait for a budget.
    pub(crate) holds: Vec<Hold>,
}

/// One budget, or what one agent or item has used. `None`: no limit.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct Row {
    /// `day`, `total`, `window`, `agent` (today) or `item`.
    pub(crate) scope: &'static str,
    pub(crate) agent: Option<String>,
    pub(crate) item: Option<String>,
    /// When it begins anew.
    pub(crate) until: Option<String>,
    /// Dollars, as the three that follow.
    pub(crate) limit_usd: Option<f64>,
    /// What was used.
    pub(crate) used_usd: f64,
    /// What attempts at work have reserved.
    pub(crate) reserved_usd: f64,
    /// What is neither used nor reserved.
    pub(crate) left_usd: Option<f64>,
    /// Tokens, as the three that follow.
    pub(crate) limit_tokens: Option<u64>,
    /// What was used.
    pub(crate) used_tokens: u64,
    /// What attempts at work have reserved.
    pub(crate) reserved_tokens: u64,
    /// What is neither used nor reserved.
    pub(crate) left_tokens: Option<u64>,
    /// Of an agent: what nine of ten of its last attempts did not exceed.
    pub(crate) usual_usd: Option<f64>,
    /// The same in tokens.
    pub(crate) usual_tokens: Option<u64>,
    /// Of so many attempts it is known what they used.
    pub(crate) known_attempts: Option<usize>,
}

impl Row {
    fn new(scope: &'static str, limit: Amount, used: Amount, reserved: Amount) -> Row {
        let limit_usd = (limit.usd > 0.0).then_some(limit.usd);
        let limit_tokens = (limit.tokens > 0).then_some(limit.tokens);
        let taken = reserved.tokens.saturating_add(used.tokens);
        let left = |limit: f64| ((limit - used.usd - reserved.usd).max(0.0) * 1e6).round() / 1e6;
        Row {
            scope,
            limit_usd,
            used_usd: used.usd,
            reserved_usd: reserved.usd,
            left_usd: limit_usd.map(left),
            limit_tokens,
            used_tokens: used.tokens,
            reserved_tokens: reserved.tokens,
            left_tokens: limit_tokens.map(|limit| limit.saturating_sub(taken)),
            ..Row::default()
        }
    }
}

impl Budget<'_> {
    /// For people and programs.
    pub(crate) fn report(&self) -> Result<Report> {
        let now = Moment::now();
        let (state, table) = (self.load(&now)?, &self.table);
        let reserved = state.reserved_by(None);
        let limit = |usd, tokens| Amount { usd, tokens };
        let day = limit(table.day_usd, table.day_tokens);
        let total = limit(table.total_usd, table.total_tokens);
        let mut budgets = vec![
            Row {
                until: Some(clock::iso(now.next_day)),
                ..Row::new("day", day, state.today, reserved)
            },
            Row::new("total", total, state.total, reserved),
        ];
        for (name, agent) in &state.agents {
            let reserved = state.reserved_by(Some(name));
            budgets.extend(of_agent(name, agent, table, reserved));
        }
        budgets.extend(self.of_items(&state.reserved.values().cloned().collect::<Vec<_>>())?);
        let holds = hold::all(self.root).into_iter();
        Ok(Report {
            day: state.day.clone(),
            budgets,
            holds: holds.filter(|h| h.class == hold::BUDGET).collect(),
        })
    }

    /// Those at work, with all that they have used, and those of which an attempt ended today.
    fn of_items(&self, reserved: &[super::Reservation]) -> Result<Vec<Row>> {
        let mut items: BTreeMap<String, Row> = BTreeMap::new();
        let midnight = clock::midnight();
        aggregator::each_line(self.root, Some(midnight), |line| {
            let at = line.at.parse::<Timestamp>();
            let amount = renew::charged(&line);
            if at.is_ok_and(|at| at >= midnight) && amount != Amount::default() {
                let row = items.entry(line.item.clone()).or_default();
                let mut used = Amount::new(row.used_usd, row.used_tokens);
                used.add(amount);
                *row = Row {
                    agent: Some(line.agent),
                    item: Some(line.item),
                    ..Row::new("item", Amount::default(), used, Amount::default())
                };
            }
        })?;
        let table = &self.table;
        let limit = Amount {
            usd: table.item_usd,
            tokens: table.item_tokens,
        };
        for r in reserved {
            let past = record::history(self.root, &Name::new(&r.item));
            let used = Amount::new(past.used_usd, past.used_tokens);
            let row = Row {
                agent: Some(r.agent.clone()),
                item: Some(r.item.clone()),
                ..Row::new("item", limit, used, r.amount)
            };
            items.insert(r.item.clone(), row);
        }
        Ok(items.into_values().collect())
    }
}

/// What it has used today, and its window.
fn of_agent(name: &str, agent: &AgentState, table: &BudgetTable, reserved: Amount) -> Vec<Row> {
    let (usd, tokens) = agent.known();
    let none = Amount::default();
    let mut rows = vec![Row {
        agent: Some(name.to_owned()),
        known_attempts: Some(usd.len().max(tokens.len())),
        usual_usd: percentile(&usd),
        usual_tokens: percentile(&tokens).map(|n| n as u64),
        ..Row::new("agent", none, agent.today, reserved)
    }];
    let limit = Amount {
        usd: 0.0,
        tokens: of_window(table),
    };
    if table.window_tokens > 0 {
        let window = agent.window.as_ref();
        let used = Amount::new(0.0, window.map_or(0, |w| w.tokens));
        let reserved = Amount::new(0.0, reserved.tokens);
        rows.push(Row {
            agent: Some(name.to_owned()),
            // Also where people have all of it.
            limit_tokens: Some(limit.tokens),
            left_tokens: Some(
                limit
                    .tokens
                    .saturating_sub(used.tokens)
                    .saturating_sub(reserved.tokens),
            ),
            until: window.map(|w| clock::iso(w.ends_at(table))),
            ..Row::new("window", limit, used, reserved)
        });
    }
    rows
}
