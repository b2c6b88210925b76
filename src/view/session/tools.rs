//! `harness session tools`: by tool, then call by call.

use crate::session::read::Listed;
use crate::session::read::tools::{Call, Tools};
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, local_time};

use super::{took, took_or_blank};

pub fn text(tools: &Tools, term: &Term) -> String {
    let mut by_tool = Table::new(&["TOOL", ">CALLS", ">ERRORS", ">TOOK"]);
    let mut sorted: Vec<_> = tools.tools.iter().collect();
    sorted.sort_by(|a, b| b.1.calls.cmp(&a.1.calls).then(a.0.cmp(b.0)));
    for (name, count) in sorted {
        let errors = match count.errors {
            0 => Cell::default(),
            n => Cell::painted(n.to_string(), Paint::Red),
        };
        by_tool.row(vec![
            Cell::new(name),
            Cell::new(count.calls.to_string()),
            errors,
            Cell::new(took(count.seconds)),
        ]);
    }
    format!("{}\n{}", by_tool.render(term), calls(&tools.calls, term))
}

fn calls(calls: &Listed<Call>, term: &Term) -> String {
    let mut table = Table::new(&["AT", "TOOL", ">TOOK", "RESULT", "INPUT", "OUTPUT"]);
    for call in &calls.rows {
        let (word, paint) = match (&call.result, call.is_error) {
            (None, _) => ("none yet", Paint::Yellow),
            (Some(_), true) => ("failed", Paint::Red),
            (Some(_), false) => ("good", Paint::Plain),
        };
        table.row(vec![
            Cell::new(local_time(&call.at)),
            Cell::new(&call.tool),
            Cell::new(took_or_blank(call.seconds)),
            Cell::painted(word, paint),
            Cell::new(short(&call.input)),
            Cell::new(call.result.as_deref().unwrap_or_default()),
        ]);
    }
    left_out(calls.left_out, "call") + &table.render(term)
}

/// An input beside its output: both have to fit.
fn short(input: &str) -> String {
    crate::view::table::clip(input, 60)
}

/// A line about what a bounded list does not hold.
pub(super) fn left_out(n: u64, thing: &str) -> String {
    match n {
        0 => String::new(),
        n => format!(
            "({} before these)\n",
            crate::view::count_of(n, &format!("more {thing}"))
        ),
    }
}
