//! `harness budget`: what agents have used and reserved, and what is left.

use super::doctor;
use crate::budget::{Budget, KNOWN_MIN, Report, Row, money};
use crate::config::{Config, Overrides};
use crate::error::{Error, Result};
use crate::layout::Root;
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, count_of, line, local_time, print_json, print_text};

/// Items in the table; `--json` has all.
const ITEMS_SHOWN: usize = 20;

pub(super) fn budget(root: &Root, json: bool) -> Result<u8> {
    let config = Config::load(root, &Overrides::default())?;
    let budget = Budget {
        root,
        config: &config,
        table: config.budget.clone(),
        durable: false,
    };
    // As of a run, which then has prompts that stay.
    let report = budget.report().map_err(Error::mendable)?;
    match json {
        true => print_json(&report),
        false => {
            let term = Term::of_stdout();
            let shared = doctor::one_login(root, &config).map(|said| format!("{}\n", line(&said)));
            let shared = shared.map(|said| Paint::Yellow.on(&said, &term));
            print_text(&(text(&report, &term) + &shared.unwrap_or_default()))
        }
    }
}

fn text(report: &Report, term: &Term) -> String {
    let titles = [
        "BUDGET",
        "~OF",
        ">USED",
        ">RESERVED",
        ">LIMIT",
        ">LEFT",
        "?ENDS",
    ];
    let mut table = Table::new(&titles);
    let is_item = |row: &&Row| row.scope == "item";
    let items: Vec<&Row> = report.budgets.iter().filter(is_item).collect();
    // Those at work first, then the dearest.
    let mut shown = items.clone();
    shown.sort_by(|a, b| {
        let key = |r: &Row| (r.reserved_usd > 0.0 || r.reserved_tokens > 0, r.used_usd);
        key(b)
            .partial_cmp(&key(a))
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    shown.truncate(ITEMS_SHOWN);
    let others = report.budgets.iter().filter(|row| !is_item(row));
    for row in others.chain(shown) {
        rows(&mut table, row);
    }
    let mut text = table.render(term);
    let more = items.len().saturating_sub(ITEMS_SHOWN) as u64;
    if more > 0 {
        text.push_str(&format!(
            "(and {}: --json has all)\n",
            count_of(more, "item")
        ));
    }
    for row in report.budgets.iter().filter(|row| row.scope == "agent") {
        text.push_str(&usual(row));
    }
    for hold in &report.holds {
        let until = match &hold.until {
            Some(until) => format!(" until {}", local_time(until)),
            None => String::new(),
        };
        let held = format!(
            "{} is held{until}: {}\n",
            line(&hold.agent),
            line(&hold.reason)
        );
        text.push_str(&Paint::Yellow.on(&held, term));
    }
    text
}

/// A line for dollars and one for tokens, where there is something to say.
fn rows(table: &mut Table, row: &Row) {
    let of = match row.scope {
        "day" | "total" => "all agents".to_owned(),
        "item" => row.item.clone().unwrap_or_default(),
        _ => row.agent.clone().unwrap_or_default(),
    };
    let what = match row.scope {
        "agent" => "today",
        scope => scope,
    };
    let ends = row.until.as_deref().map_or_else(String::new, local_time);
    let mut line = |used: String, reserved: String, limit: Option<String>, left: Option<String>| {
        let none = || "-".to_owned();
        let (limit, left) = (limit.unwrap_or_else(none), left.unwrap_or_else(none));
        let cells = [what, &of, &used, &reserved, &limit, &left, &ends];
        table.row(cells.map(Cell::new).into());
    };
    let tokens = |n: u64| count_of(n, "token");
    if row.scope != "window" {
        line(
            money(row.used_usd),
            money(row.reserved_usd),
            row.limit_usd.map(money),
            row.left_usd.map(money),
        );
    }
    if row.limit_tokens.is_some() || row.used_tokens > 0 || row.reserved_tokens > 0 {
        line(
            tokens(row.used_tokens),
            tokens(row.reserved_tokens),
            row.limit_tokens.map(tokens),
            row.left_tokens.map(tokens),
        );
    }
}

/// What an attempt of an agent reserves.
fn usual(row: &Row) -> String {
    let usd = row.usual_usd.map(money);
    let tokens = row.usual_tokens.map(|n| count_of(n, "token"));
    let parts: Vec<String> = usd.into_iter().chain(tokens).collect();
    if parts.is_empty() {
        return String::new();
    }
    let known = row.known_attempts.unwrap_or_default();
    let few = match known < KNOWN_MIN {
        true => format!(
            " ({}; from {KNOWN_MIN} on that is what one reserves)",
            count_of(known as u64, "attempt")
        ),
        false => String::new(),
    };
    format!(
        "Nine of ten of the last attempts of {} used at most {}{few}.\n",
        line(row.agent.as_deref().unwrap_or_default()),
        parts.join(" and ")
    )
}
