//! `harness session list`: one row for each session.

use crate::session::read::{Session, State};
use crate::view::table::{Cell, Table};
use crate::view::{Term, local_time};

use super::{cost, standing, took_or_blank};

/// The rows as a table; ids as their last `id_chars` characters.
pub fn table(sessions: &[Session], id_chars: usize, term: &Term) -> String {
    let mut table = Table::new(&[
        "SESSION", "ITEM", ">TRY", "SLOT", "AGENT", "OUTCOME", "STARTED", ">TOOK", ">TURNS",
        ">TOKENS", ">COST",
    ]);
    for session in sessions {
        table.row(row(session, id_chars));
    }
    table.render(term)
}

fn row(session: &Session, id_chars: usize) -> Vec<Cell> {
    let f = &session.file;
    let (turns, tokens, usd) = match session.state {
        State::Ended => (
            f.turns,
            f.input_tokens.saturating_add(f.output_tokens),
            f.cost_usd,
        ),
        State::Running | State::Left => {
            let x = session.figures();
            let tokens = x.input_tokens.saturating_add(x.output_tokens);
            (x.turns, tokens, x.cost_usd.unwrap_or(0.0))
        }
    };
    let number = |n: u64| match n {
        0 => String::new(),
        n => n.to_string(),
    };
    let (word, paint) = standing(session);
    let short = crate::session::read::find::end_of(&session.sid, id_chars);
    let started = match f.started_at.as_str() {
        "" => String::new(),
        at => local_time(at),
    };
    vec![
        Cell::new(short),
        Cell::new(&f.item),
        Cell::new(number(u64::from(f.attempt))),
        Cell::new(&f.slot),
        Cell::new(&f.agent),
        Cell::painted(word, paint),
        Cell::new(started),
        Cell::new(took_or_blank(session.seconds())),
        Cell::new(number(turns)),
        Cell::new(number(tokens)),
        Cell::new(cost(usd)),
    ]
}
