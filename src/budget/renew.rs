//! Makes `state/budget/budget.json` anew from the ledger and what is at work; and settles what nobody is going to
//! charge.

use std::collections::BTreeSet;

use super::rules;
use super::state::{Amount, Reservation, State, Used, Window};
use super::{Ask, Budget, Moment};
use crate::aggregator;
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::error::{Context, Result};
use crate::layout::{Root, SlotId};
use crate::record::{self, History, LastAttempt};
use crate::spool;
use crate::status::LedgerLine;

/// What runs a script: it costs nothing.
const SCRIPT: &str = "script";

/// What the ledger and the claimed items tell.
pub(super) fn from_ledger(budget: &Budget<'_>, now: &Moment) -> Result<State> {
    let (root, config) = (budget.root, budget.config);
    let mut state = State::new(now);
    let midnight = clock::midnight();
    let window = budget.table.window;
    aggregator::each_line(root, None, |line| {
        let at = line.at.parse::<Timestamp>();
        let (Ok(at), false) = (at, line.agent == SCRIPT || line.agent.is_empty()) else {
            return;
        };
        let amount = charged(&line);
        state.total.add(amount);
        let agent = state.agents.entry(line.agent.clone()).or_default();
        agent.note(Used {
            session: line.session,
            amount,
            usd_known: line.cost_usd > 0.0
                && line.charged_usd.is_none_or(|usd| usd == line.cost_usd),
            tokens_known: true,
        });
        if at >= midnight {
            agent.today.add(amount);
            state.today.add(amount);
        }
        if clock::later(at, window) > now.at {
            let known = agent.window.get_or_insert_with(|| Window::new(at, 0));
            known.tokens = known.tokens.saturating_add(amount.tokens);
        }
    })?;
    for (item, last) in at_work(root)? {
        let Some(started) = last.started.filter(|s| s.agent != SCRIPT) else {
            continue;
        };
        let reservation = reservation(&state, config, item, started.agent, now);
        state.reserve(&last.session, reservation, now);
    }
    Ok(state)
}

/// With what an ended attempt was charged.
pub(super) fn charged(line: &LedgerLine) -> Amount {
    let tokens = line.input_tokens.saturating_add(line.output_tokens);
    Amount::new(
        line.charged_usd.unwrap_or(line.cost_usd),
        line.charged_tokens.unwrap_or(tokens),
    )
}

/// What an attempt must have reserved of which the file said nothing.
fn reservation(
    state: &State,
    config: &Config,
    item: String,
    agent: String,
    now: &Moment,
) -> Reservation {
    let table = config.agent(&agent).map(|(_, table)| table);
    let limit = table.map(|t| t.budget_usd).filter(|usd| *usd > 0.0);
    let ask = Ask {
        session: "",
        item: &item,
        agent: &agent,
        limit_usd: limit,
        agent_usd: limit,
        subscription: table.is_some_and(|t| t.subscription),
        item_used: Amount::default(),
    };
    // Without bounds: it runs already.
    let free = rules::decide(state, &Default::default(), &ask, now);
    let amount = free.map_or(Amount::default(), |grant| grant.amount);
    Reservation {
        item,
        agent,
        amount,
        at: clock::iso(now.at),
    }
}

/// Charges what nobody is going to charge: the reservations of sessions whose item is not at work with
/// them any more. `true`: there were some.
pub(super) fn settle(root: &Root, state: &mut State, now: &Moment) -> bool {
    if state.reserved.is_empty() {
        return false;
    }
    // What cannot be looked at proves nothing.
    let Ok(at_work) = at_work(root) else {
        return false;
    };
    let live: BTreeSet<String> = at_work.into_iter().map(|(_, last)| last.session).collect();
    let dead = state.reserved.keys().filter(|sid| !live.contains(*sid));
    let dead: Vec<String> = dead.cloned().collect();
    for sid in &dead {
        state.charge(sid, None, None, now);
    }
    !dead.is_empty()
}

/// The claimed items, with the attempt that is at work on each.
fn at_work(root: &Root) -> Result<Vec<(String, LastAttempt)>> {
    let dir = root.claimed_root();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).or_fail("cannot list", &dir)? {
        let entry = entry.or_fail("cannot list", &dir)?;
        let Some(slot) = SlotId::parse(&entry.file_name()) else {
            continue;
        };
        for name in spool::claimed_in(root, slot)? {
            let last = History::of(&record::lines(root, &name)?).last;
            found.extend(last.filter(|l| l.end.is_none()).map(|l| (name.shown(), l)));
        }
    }
    Ok(found)
}
