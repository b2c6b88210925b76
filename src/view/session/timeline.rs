//! `harness session timeline`: when what happened, and where the time went.

use crate::session::read::timeline::Timeline;
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, count_of, local_time};

use super::tools::left_out;
use super::{took, took_or_blank};

pub fn text(line: &Timeline, term: &Term) -> String {
    let began = line.began.as_deref().map(local_time).unwrap_or_default();
    let mut out = format!("times count from {began}\n");
    out += &left_out(line.rows.left_out, "row");
    let mut table = Table::new(&[">AT", ">GAP", ">TURN", "WHAT", ">TOOK", ""]);
    for row in &line.rows.rows {
        let paint = match row.what {
            _ if row.is_error => Paint::Red,
            "tool" => Paint::Cyan,
            "retry" | "limit" | "denied" => Paint::Yellow,
            _ => Paint::Plain,
        };
        let at = row
            .seconds
            .map_or_else(|| "?".to_owned(), |s| format!("+{}", took(s)));
        table.row(vec![
            Cell::new(at),
            Cell::new(took_or_blank(row.gap_seconds)),
            Cell::new(row.turn.to_string()),
            Cell::painted(row.what, paint),
            Cell::new(took_or_blank(row.took_seconds)),
            Cell::new(&row.text),
        ]);
    }
    out += &table.render(term);
    out += &format!(
        "{} from the first event to the last, {} in {}, {}\n",
        took(line.seconds),
        took(line.tool_seconds),
        count_of(line.calls(), "tool call"),
        count_of(line.turns, "turn"),
    );
    out
}
