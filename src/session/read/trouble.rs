//! What went wrong in a session, of all that its events tell: errors, retries, limits, denials,
//! failed tools, lines that could not be read.
//!
//! A fold over events. Does not judge: whether it was the end is for `outcome`.

use serde::Serialize;

use super::lines::Got;
use super::tools::Tools;
use super::{Listed, head};
use crate::clock::{self, Timestamp};
use crate::event::{Body, MALFORMED, TOO_LONG};

#[derive(Debug, Clone, Serialize)]
pub struct Trouble {
    /// Of a line of `events.jsonl` that cannot be read there is no time.
    pub at: Option<String>,
    /// `error`, `retry`, `limit`, `denied`, `tool`, `result`, `malformed`, `unreadable`.
    pub kind: &'static str,
    /// The fault's class, the tool, the limit: what it is about, where it is told.
    pub about: Option<String>,
    pub message: String,
    /// Where its raw line begins in `stdout.log`.
    pub offset: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Troubles {
    pub found: Listed<Trouble>,
    tools: Tools,
}

impl Troubles {
    pub fn fold(&mut self, got: &Got) {
        let line = match got {
            Got::Event(line, _) => line,
            Got::Unknown(..) => return,
            Got::Bad(length) => {
                let message = format!("{length} bytes of events.jsonl are no event");
                return self.found.push(Trouble {
                    at: None,
                    kind: "unreadable",
                    about: None,
                    message,
                    offset: None,
                });
            }
        };
        let answered = self.tools.fold(line);
        let (kind, about, message) = match &line.body {
            Body::Error { class, message } => {
                ("error", Some(class.as_str().to_owned()), head(message))
            }
            Body::Retrying {
                class,
                attempt,
                max,
                wait_ms,
                message,
            } => {
                let told = retry_words(*attempt, *max, *wait_ms, message);
                ("retry", Some(class.as_str().to_owned()), told)
            }
            Body::Limited { resets_at, limit } => ("limit", limit.clone(), limit_words(*resets_at)),
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
            Body::Other { name, detail } if name == MALFORMED || name == TOO_LONG => {
                let detail = detail.as_deref().unwrap_or_default();
                ("malformed", Some(name.clone()), head(detail))
            }
            _ => return,
        };
        self.found.push(Trouble {
            at: Some(line.at.clone()),
            kind,
            about,
            message,
            offset: Some(line.offset),
        });
    }
}

/// `try 2 of 10, after 500ms: overloaded`.
pub fn retry_words(
    attempt: Option<u64>,
    max: Option<u64>,
    wait_ms: Option<u64>,
    message: &str,
) -> String {
    let mut parts = Vec::new();
    match (attempt, max) {
        (Some(n), Some(max)) => parts.push(format!("try {n} of {max}")),
        (Some(n), None) => parts.push(format!("try {n}")),
        _ => {}
    }
    if let Some(ms) = wait_ms {
        let wait = clock::human(std::time::Duration::from_millis(ms));
        parts.push(format!("after {wait}"));
    }
    let message = head(message);
    match (parts.is_empty(), message.is_empty()) {
        (true, _) => message,
        (false, true) => parts.join(", "),
        (false, false) => format!("{}: {message}", parts.join(", ")),
    }
}

/// `until 2026-01-27T10:45:00.000Z`.
pub fn limit_words(resets_at: Option<i64>) -> String {
    let at = resets_at.and_then(|at| Timestamp::from_second(at).ok());
    at.map_or_else(String::new, |at| format!("until {}", clock::iso(at)))
}
