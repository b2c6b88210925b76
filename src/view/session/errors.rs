//! `harness session errors`: what went wrong, and the end of what it wrote to standard error.

use crate::session::read::Session;
use crate::session::read::trouble::Troubles;
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, local_time, safe};

use super::tools::left_out;

pub fn text(session: &Session, troubles: &Troubles, stderr: &str, term: &Term) -> String {
    let f = &session.file;
    let mut out = String::new();
    if let Some(reason) = f
        .reason
        .as_deref()
        .filter(|_| f.fault.is_some() || is_bad(f))
    {
        let outcome = f.outcome.as_deref().unwrap_or("ended");
        let fault = f
            .fault
            .as_ref()
            .map_or_else(String::new, |c| format!(" ({c})"));
        out += &safe(&format!("{outcome}{fault}: {reason}"));
        out.push('\n');
    }
    if troubles.found.rows.is_empty() {
        out += "its events tell of no errors, retries, limits, denials or failed tools\n";
    } else {
        out += &left_out(troubles.found.left_out, "trouble");
        let mut table = Table::new(&["AT", "WHAT", "ABOUT", "MESSAGE"]);
        for t in &troubles.found.rows {
            let paint = match t.kind {
                "retry" => Paint::Yellow,
                _ => Paint::Red,
            };
            table.row(vec![
                Cell::new(t.at.as_deref().map(local_time).unwrap_or_default()),
                Cell::painted(t.kind, paint),
                Cell::new(t.about.as_deref().unwrap_or_default()),
                Cell::new(&t.message),
            ]);
        }
        out += &table.render(term);
    }
    if !stderr.trim().is_empty() {
        let path = session.path("stderr.log");
        out += &format!("\nthe end of {}:\n", safe(&path.display().to_string()));
        for line in stderr.lines() {
            out += &format!("  {}\n", safe(line));
        }
    }
    out
}

fn is_bad(f: &crate::session::file::SessionFile) -> bool {
    !matches!(f.outcome.as_deref(), None | Some("succeeded" | "no_change"))
}
