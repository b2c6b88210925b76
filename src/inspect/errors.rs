//! `harness session errors`: every error in a session's events, and the end of its standard error.
//! Does not decide which one ended the attempt: `outcome` does.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::Serialize;

use super::events::{limit_text, retry_text};
use super::reader::Entry;
use super::tools::Tools;
use super::{Newest, Session, head, tail};
use crate::error::Result;
use crate::event::{Body, Line, MALFORMED, TOO_LONG};
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, local_time, print_json, print_text, safe};

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Trouble {
    /// `None` for an unreadable line of `events.jsonl`.
    at: Option<String>,
    /// `error`, `retry`, `limit`, `denied`, `tool`, `result`, `malformed`, `unreadable`.
    kind: &'static str,
    /// The fault's class, the tool or the limit, if known.
    about: Option<String>,
    /// What was said.
    message: String,
    /// Byte offset of its raw line in `stdout.log`.
    offset: Option<u64>,
}

/// What went wrong in a session.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Told<'t> {
    session: &'t str,
    outcome: Option<&'t str>,
    reason: Option<&'t str>,
    /// The class of the fault, if its CLI reports one.
    fault: Option<&'t str>,
    /// The newest of them.
    troubles: &'t VecDeque<Trouble>,
    /// How many earlier ones are not among `troubles`.
    left_out: u64,
    /// The end of its standard error.
    stderr_tail: &'t str,
}

#[derive(Debug, Default)]
struct Troubles {
    found: Newest<Trouble>,
    tools: Tools,
}

impl Troubles {
    fn fold(&mut self, entry: &Entry) {
        let trouble = match entry {
            Entry::Event(line, _) => self.of_event(line),
            Entry::Unknown(..) => None,
            Entry::Bad(length) => Some(Trouble {
                at: None,
                kind: "unreadable",
                about: None,
                message: format!("{length} bytes of events.jsonl are no event"),
                offset: None,
            }),
        };
        if let Some(trouble) = trouble {
            self.found.push(trouble);
        }
    }

    fn of_event(&mut self, line: &Line) -> Option<Trouble> {
        let answered = self.tools.fold(line);
        let (kind, about, message) = match &line.body {
            Body::Error { class, message } => {
                ("error", Some(class.as_str().to_owned()), head(message))
            }
            Body::Retrying { class, .. } => (
                "retry",
                Some(class.as_str().to_owned()),
                retry_text(&line.body),
            ),
            Body::Limited { resets_at, limit } => ("limit", limit.clone(), limit_text(*resets_at)),
            Body::PermissionDenied { tool, .. } => (
                "denied",
                Some(tool.clone()),
                "it was not allowed".to_owned(),
            ),
            Body::ToolResult {
                is_error: true,
                output,
                ..
            } => {
                let call = answered.and_then(|a| self.tools.calls.nth(a.nth));
                ("tool", call.map(|c| c.tool.clone()), head(output))
            }
            Body::Finished {
                good: false,
                message,
            } => ("result", None, head(message)),
            Body::Other { name, detail } if name == MALFORMED || name == TOO_LONG => (
                "malformed",
                Some(name.clone()),
                head(detail.as_deref().unwrap_or_default()),
            ),
            _ => return None,
        };
        Some(Trouble {
            at: Some(line.at.clone()),
            kind,
            about,
            message,
            offset: Some(line.offset),
        })
    }
}

pub(crate) fn show(session: &Session, json: bool) -> Result<u8> {
    let mut troubles = Troubles::default();
    session.entries().for_each(|entry| troubles.fold(&entry));
    let found = &troubles.found;
    let stderr = tail(&session.path("stderr.log"));
    if json {
        let f = &session.file;
        return print_json(&Told {
            session: &session.sid,
            outcome: f.outcome(),
            reason: f.reason.as_deref(),
            fault: f.fault.as_deref(),
            troubles: &found.rows,
            left_out: found.left_out,
            stderr_tail: &stderr,
        });
    }
    print_text(&text(session, found, &stderr, &Term::of_stdout()))
}

fn text(session: &Session, found: &Newest<Trouble>, stderr: &str, term: &Term) -> String {
    let f = &session.file;
    let is_bad = !matches!(f.outcome(), None | Some("succeeded" | "no_change"));
    let mut out = String::new();
    if let Some(reason) = f.reason.as_ref().filter(|_| f.fault.is_some() || is_bad) {
        let outcome = f.outcome().unwrap_or("ended");
        let fault = f.fault.as_ref();
        let fault = fault.map_or_else(String::new, |class| format!(" ({class})"));
        out += &safe(&format!("{outcome}{fault}: {reason}"));
        out.push('\n');
    }
    if found.rows.is_empty() {
        out += "its events hold no errors, retries, limits, denials or failed tools\n";
    } else {
        out += &found.left_out_text("trouble");
        let mut table = Table::new(&["AT", "WHAT", "ABOUT", "MESSAGE"]);
        for t in &found.rows {
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
