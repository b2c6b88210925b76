//! Makes `state/budget/budget.json` anew from the items' records, the ledger and what is at work; and settles
//! what nobody is going to charge.

use std::collections::{BTreeMap, BTreeSet};

use super::rules;
use super::state::{Amount, Reservation, State, Used, Window};
use super::{Ask, Budget, Moment};
use crate::aggregator;
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::error::{Context, Result};
use crate::layout::{Root, SlotId};
use crate::mutant::planted;
use crate::record::{self, Event, History, LastAttempt, Line};
use crate::spool;
use crate::status::LedgerLine;

/// What runs a script: it costs nothing.
const SCRIPT: &str = "script";

/// An attempt that has ended.
struct Ended {
    at: Timestamp,
    /// Empty: its start is not on record.
    agent: String,
    used: Used,
}

impl Ended {
    /// `None`: it cost nothing, or nobody knows when.
    fn of(line: LedgerLine) -> Option<Ended> {
        let amount = charged(&line);
        let is_paid = line.agent != SCRIPT && amount != Amount::default();
        let usd_known =
            line.cost_usd > 0.0 && line.charged_usd.is_none_or(|usd| usd == line.cost_usd);
        is_paid.then_some(Ended {
            at: line.at.parse().ok()?,
            agent: line.agent,
            used: Used {
                session: line.session,
                amount,
                usd_known,
                tokens_known: true,
            },
        })
    }
}

/// What the records, the ledger and the claimed items tell.
pub(super) fn anew(budget: &Budget<'_>, now: &Moment) -> Result<State> {
    let (root, config) = (budget.root, budget.config);
    let mut state = State::new(now);
    let midnight = clock::midnight();
    let window = budget.table.window;
    for Ended { at, agent, used } in ended(root)? {
        let amount = used.amount;
        state.total.add(amount);
        if at >= midnight {
            state.today.add(amount);
        }
        if agent.is_empty() {
            continue;
        }
        let agent = state.agents.entry(agent).or_default();
        agent.note(used);
        if at >= midnight {
            agent.today.add(amount);
        }
        if clock::later(at, window) > now.at {
            let known = agent.window.get_or_insert_with(|| Window::new(at, 0));
            known.tokens = known.tokens.saturating_add(amount.tokens);
        }
    }
    for (item, last) in at_work(root)? {
        let Some(started) = last.started.filter(|s| s.agent != SCRIPT) else {
            continue;
        };
        let reservation = reservation(&state, config, item, started.agent, now);
        state.reserve(&last.session, reservation, now);
    }
    Ok(state)
}

/// All attempts that cost something, the oldest first: as the records tell, which stay; and as the ledger
/// does of those whose record is gone.
fn ended(root: &Root) -> Result<Vec<Ended>> {
    let mut all: BTreeMap<String, Ended> = BTreeMap::new();
    let mut add = |line: LedgerLine| {
        let session = line.session.clone();
        if let Some(ended) = Ended::of(line) {
            all.entry(session).or_insert(ended);
        }
    };
    if !planted("records-not-counted") {
        record::each(root, tells_of_use, |lines| {
            of_record(lines).for_each(&mut add);
        })?;
    }
    aggregator::each_line(root, None, &mut add)?;
    let mut all: Vec<Ended> = all.into_values().collect();
    all.sort_by_key(|ended| ended.at);
    Ok(all)
}

/// Whether a record may tell of an attempt that used something. A hundred thousand of scripts need not be
/// understood while others wait for the lock.
fn tells_of_use(record: &[u8]) -> bool {
    const KEYS: [&str; 5] = [
        "\"charged_usd\":",
        "\"charged_tokens\":",
        "\"cost_usd\":",
        "\"input_tokens\":",
        "\"output_tokens\":",
    ];
    let text = String::from_utf8_lossy(record);
    let is_something = |after: &str| {
        let value = after.split([',', '}']).next().unwrap_or_default();
        !matches!(value.trim(), "null" | "0" | "0.0")
    };
    KEYS.iter()
        .any(|key| text.split(*key).skip(1).any(is_something))
}

/// The attempts of a record that have ended, as the ledger would have them.
fn of_record(lines: &[Line]) -> impl Iterator<Item = LedgerLine> {
    let started = lines.iter().filter_map(|line| match &line.event {
        Event::Started(started) => Some((&*started.session, &*started.agent)),
        _ => None,
    });
    let agents: BTreeMap<&str, &str> = started.collect();
    lines.iter().filter_map(move |line| match &line.event {
        Event::Finished(finished) => Some(LedgerLine {
            at: finished.end.ended_at.clone().unwrap_or(line.at.clone()),
            session: finished.session.clone(),
            agent: agents
                .get(&*finished.session)
                .copied()
                .unwrap_or_default()
                .to_owned(),
            input_tokens: finished.end.input_tokens,
            output_tokens: finished.end.output_tokens,
            cost_usd: finished.end.cost_usd,
            charged_usd: finished.end.charged_usd,
            charged_tokens: finished.end.charged_tokens,
            ..LedgerLine::default()
        }),
        _ => None,
    })
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
