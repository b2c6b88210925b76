//! When what happened and how long it took: one row for each thing that an agent did.
//!
//! A fold over events. Times are those at which harness read the lines, some 250 ms late at most.
//! Pieces of one text are one row; a tool's result is no row, it ends its call's.

use serde::Serialize;

use super::tools::Tools;
use super::trouble::{limit_words, retry_words};
use super::{Listed, between, head, input_head};
use crate::event::{Body, Figures, Line};

#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub at: String,
    /// Since the session's start.
    pub seconds: Option<f64>,
    /// Since the event before, of whatever kind.
    pub gap_seconds: Option<f64>,
    /// The turn under way, as far as usage has been told.
    pub turn: u64,
    pub what: &'static str,
    pub text: String,
    /// Of a tool, until its result.
    pub took_seconds: Option<f64>,
    pub is_error: bool,
}

#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    /// What the times count from: the session's start, else its first event.
    pub began: Option<String>,
    pub rows: Listed<Row>,
    /// From the first event to the last.
    pub seconds: f64,
    /// In tools. Those that ran at the same time count each.
    pub tool_seconds: f64,
    pub turns: u64,
    #[serde(skip)]
    tools: Tools,
    #[serde(skip)]
    figures: Figures,
    /// The rows of calls, by their number among calls, are those with these numbers among rows.
    #[serde(skip)]
    calls: Listed<u64>,
    #[serde(skip)]
    first: Option<String>,
    #[serde(skip)]
    last: Option<String>,
}

impl Timeline {
    pub fn since(began: &str) -> Timeline {
        Timeline {
            began: (!began.is_empty()).then(|| began.to_owned()),
            ..Timeline::default()
        }
    }

    /// How many tools were called.
    pub fn calls(&self) -> u64 {
        self.figures.tool_calls
    }

    pub fn fold(&mut self, line: &Line) {
        let was_saying = self.figures.saying;
        self.figures.fold(&line.body);
        self.turns = self.figures.turns;
        let began = self.began.get_or_insert_with(|| line.at.clone());
        let seconds = between(began, &line.at);
        let gap = self.last.as_ref().and_then(|last| between(last, &line.at));
        self.last = Some(line.at.clone());
        let first = self.first.get_or_insert_with(|| line.at.clone());
        self.seconds = between(first, &line.at).unwrap_or(self.seconds);
        if let Some(answered) = self.tools.fold(line) {
            self.tool_seconds += answered.seconds.unwrap_or(0.0);
            let is_error = matches!(line.body, Body::ToolResult { is_error: true, .. });
            let row = self.calls.nth(answered.nth).copied();
            if let Some(row) = row.and_then(|n| self.rows.nth(n)) {
                row.took_seconds = answered.seconds;
                row.is_error = is_error;
            }
        }
        if let Body::Text {
            delta: true, text, ..
        } = &line.body
            && was_saying
            && let Some(row) = self.rows.rows.back_mut().filter(|r| r.what == "text")
        {
            row.text = head(&format!("{}{text}", row.text.trim_end_matches('…')));
            return;
        }
        let Some((what, text)) = words(&line.body) else {
            return;
        };
        if what == "tool" {
            self.calls.push(self.rows.count());
        }
        self.rows.push(Row {
            at: line.at.clone(),
            seconds,
            gap_seconds: gap,
            turn: self.turns,
            what,
            text,
            took_seconds: None,
            is_error: matches!(
                line.body,
                Body::Error { .. } | Body::Finished { good: false, .. }
            ),
        });
    }
}

/// `None`: no row of its own.
fn words(body: &Body) -> Option<(&'static str, String)> {
    Some(match body {
        Body::SessionStarted { model, version, .. } => {
            let told: Vec<&str> = [model, version]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            ("started", head(&told.join(", version ")))
        }
        Body::Text { text, .. } => ("text", head(text)),
        Body::Thinking { text, .. } => ("thinking", head(text)),
        Body::ToolCall { tool, input, .. } => {
            ("tool", head(&format!("{tool} {}", input_head(input))))
        }
        Body::Retrying {
            attempt,
            max,
            wait_ms,
            message,
            ..
        } => ("retry", retry_words(*attempt, *max, *wait_ms, message)),
        Body::Limited { resets_at, .. } => ("limit", limit_words(*resets_at)),
        Body::PermissionDenied { tool, .. } => ("denied", tool.clone()),
        Body::Error { class, message } => {
            ("error", head(&format!("{}: {message}", class.as_str())))
        }
        Body::Finished { good, message } => {
            let how = if *good { "well" } else { "badly" };
            ("finished", head(&format!("{how}: {message}")))
        }
        Body::ToolResult { .. } | Body::Usage(_) | Body::Other { .. } => return None,
    })
}
