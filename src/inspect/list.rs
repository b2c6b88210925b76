//! `harness session list`: one row per session.

use std::ffi::OsStr;

use super::{Session, find};
use crate::error::{Result, tell};
use crate::layout::{Root, shown};
use crate::session::file::SessionFile;
use crate::view::table::{Cell, Table};
use crate::view::{Term, cost, local_time, print_text, took_or_blank};

/// The newest `limit` sessions (0: all), of one item or of all. Each is read when it is asked for.
pub(crate) fn show(
    root: &Root,
    item: Option<&OsStr>,
    limit: usize,
    print: impl FnOnce(&mut dyn Iterator<Item = SessionFile>) -> Result<bool>,
) -> Result<u8> {
    let sids = find::all(root)?;
    let limit = if limit == 0 { usize::MAX } else { limit };
    let item = item.map(shown);
    let is_asked = |s: &Session| item.as_ref().is_none_or(|item| s.file.item == *item);
    let mut sessions = sids
        .iter()
        .map(|sid| Session::read(root, sid))
        .filter(is_asked);
    let mut count = 0;
    let mut listed = sessions.by_ref().take(limit).inspect(|_| count += 1);
    if !print(&mut listed.by_ref().map(|session| session.told()))? {
        let listed: Vec<Session> = listed.collect();
        if !listed.is_empty() {
            print_text(&table(&listed, find::short_chars(&sids)).render(&Term::of_stdout()))?;
        }
    }
    let older = match item {
        None => sids.len() - count,
        Some(_) => sessions.count(),
    };
    if count == 0 {
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
