//! `harness session list`: one row per session.

use std::ffi::OsStr;

use super::{Session, find};
use crate::error::{Result, tell};
use crate::layout::{Root, shown};
use crate::view::table::{Cell, Table};
use crate::view::{Term, cost, local_time, print_json, print_text, took_or_blank};

/// The newest `limit` sessions (0: all), of one item or of all.
pub(crate) fn show(root: &Root, item: Option<&OsStr>, limit: usize, json: bool) -> Result<u8> {
    let sids = find::all(root)?;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (mut listed, mut older) = (Vec::new(), 0);
    if let Some(item) = item.map(shown) {
        let of_item = sids.iter().map(|sid| Session::read(root, sid));
        for session in of_item.filter(|s| s.file.item == item) {
            if listed.len() < limit {
                listed.push(session);
            } else {
                older += 1;
            }
        }
    } else {
        older = sids.len().saturating_sub(limit);
        listed.extend(sids.iter().take(limit).map(|sid| Session::read(root, sid)));
    }
    if json {
        print_json(&listed.iter().map(Session::json).collect::<Vec<_>>())?;
    } else if !listed.is_empty() {
        print_text(&table(&listed, find::short_chars(&sids)).render(&Term::of_stdout()))?;
    }
    if listed.is_empty() {
        tell("harness: no sessions");
    } else if older > 0 {
        tell(&format!("harness: {older} older; `--limit 0` shows all"));
    }
    Ok(0)
}

/// Shows ids as their last `id_chars` characters.
fn table(sessions: &[Session], id_chars: usize) -> Table {
    let mut table = Table::new(&[
        "SESSION", "~ITEM", "?>TRY", "?SLOT", "AGENT", "OUTCOME", "?STARTED", ">TOOK", "?>TURNS",
        "?>TOKENS", "?>COST",
    ]);
    let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    for session in sessions {
        let f = session.current();
        let (word, paint) = session.standing();
        let started = match f.started_at.as_str() {
            "" => String::new(),
            at => local_time(at),
        };
        table.row(vec![
            Cell::new(find::end_of(&session.sid, id_chars)),
            Cell::new(&f.item),
            Cell::new(number(u64::from(f.attempt))),
            Cell::new(&f.slot),
            Cell::new(&f.agent),
            Cell::painted(word, paint),
            Cell::new(started),
            Cell::new(took_or_blank(session.seconds())),
            Cell::new(number(f.turns)),
            Cell::new(number(f.input_tokens.saturating_add(f.output_tokens))),
            Cell::new(cost(f.cost_usd)),
        ]);
    }
    table
}
