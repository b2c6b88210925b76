//! `harness session timeline`: one row per action of the agent, with its time and duration.
//!
//! Times are when harness read the lines, up to 250 ms late. The pieces of one text are one row; a
//! tool's result completes its call's row.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::Serialize;

use super::tools::Tools;
use super::{Newest, Session, between, events, head, input_head};
use crate::error::Result;
use crate::event::{Body, Figures, Line};
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, count_of, local_time, print_json, print_text, took, took_or_blank};

/// What happened when in a session.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Told<'t> {
    session: &'t str,
    started_at: Option<&'t str>,
    /// From the first event to the last.
    seconds: f64,
    /// From tools' calls to their results, all together.
    tool_seconds: f64,
    tool_calls: u64,
    turns: u64,
    /// The newest of them.
    rows: &'t VecDeque<Row>,
    /// How many earlier ones are not among `rows`.
    left_out: u64,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Row {
    /// When it was said.
    at: String,
    /// Since the session's start.
    seconds: Option<f64>,
    /// Since the previous event of any kind.
    gap_seconds: Option<f64>,
    /// The current turn, by the usage reported so far.
    turn: u64,
    /// `tool`, `text`, `retry`, `limit`, `denied`, …
    what: &'static str,
    /// What it was, on one line.
    text: String,
    /// From a tool's call to its result.
    took_seconds: Option<f64>,
    /// Whether it is an error.
    is_error: bool,
}

#[derive(Debug, Default)]
struct Timeline {
    /// Start of the times: the start of the agent process, else the first event.
    began: Option<String>,
    rows: Newest<Row>,
    /// Sum over all answered calls, including overlapping ones.
    tool_seconds: f64,
    tools: Tools,
    figures: Figures,
    /// The row number of each call.
    call_rows: Newest<u64>,
    first: Option<String>,
    last: Option<String>,
}

impl Timeline {
    /// Seconds from the first event to the last.
    fn seconds(&self) -> f64 {
        let ends = self.first.as_ref().zip(self.last.as_ref());
        ends.and_then(|(first, last)| between(first, last))
            .unwrap_or(0.0)
    }

    fn fold(&mut self, line: &Line) {
        let was_saying = self.figures.saying;
        self.figures.fold(&line.body);
        let began = self.began.get_or_insert_with(|| line.at.clone());
        let seconds = between(began, &line.at);
        let gap_seconds = self.last.as_ref().and_then(|last| between(last, &line.at));
        self.last = Some(line.at.clone());
        self.first.get_or_insert_with(|| line.at.clone());
        if let Some(answered) = self.tools.fold(line) {
            self.tool_seconds += answered.seconds.unwrap_or(0.0);
            let row = self.call_rows.nth(answered.nth).copied();
            if let Some(row) = row.and_then(|n| self.rows.nth(n)) {
                row.took_seconds = answered.seconds;
                row.is_error = matches!(line.body, Body::ToolResult { is_error: true, .. });
            }
        }
        let (what, _, text) = events::describe(&line.body);
        let text = match &line.body {
            Body::ToolResult { .. } | Body::Usage(_) | Body::Other { .. } => return,
            Body::Text { delta: true, .. } if was_saying => {
                if let Some(row) = self.rows.rows.back_mut().filter(|r| r.what == "text") {
                    row.text = head(&format!("{}{text}", row.text.trim_end_matches('…')));
                    return;
                }
                text
            }
            Body::ToolCall { tool, input, .. } => {
                self.call_rows.push(self.rows.count());
                format!("{tool} {}", input_head(input))
            }
            _ => text,
        };
        self.rows.push(Row {
            at: line.at.clone(),
            seconds,
            gap_seconds,
            turn: self.figures.turns,
            what,
            text: head(&text),
            took_seconds: None,
            is_error: matches!(
                line.body,
                Body::Error { .. } | Body::Finished { good: false, .. }
            ),
        });
    }
}

pub(crate) fn show(session: &Session, json: bool) -> Result<u8> {
    let mut timeline = Timeline {
        began: Some(session.file.started_at.clone()).filter(|at| !at.is_empty()),
        ..Timeline::default()
    };
    session.events().for_each(|line| timeline.fold(&line));
    if json {
        return print_json(&Told {
            session: &session.sid,
            started_at: timeline.began.as_deref(),
            seconds: timeline.seconds(),
            tool_seconds: timeline.tool_seconds,
            tool_calls: timeline.figures.tool_calls,
            turns: timeline.figures.turns,
            rows: &timeline.rows.rows,
            left_out: timeline.rows.left_out,
        });
    }
    if !session.has_events() {
        session.tell_no_events();
        return Ok(0);
    }
    print_text(&text(&timeline, &Term::of_stdout()))
}

fn text(timeline: &Timeline, term: &Term) -> String {
    let mut table = Table::new(&[">AT", ">GAP", ">TURN", "WHAT", ">TOOK", ""]);
    for row in &timeline.rows.rows {
        let paint = match row.what {
            _ if row.is_error => Paint::Red,
            "tool" => Paint::Cyan,
            "retry" | "limit" | "denied" => Paint::Yellow,
            _ => Paint::Plain,
        };
        let at = row.seconds.map(|s| format!("+{}", took(s)));
        table.row(vec![
            Cell::new(at.as_deref().unwrap_or("?")),
            Cell::new(took_or_blank(row.gap_seconds)),
            Cell::new(row.turn.to_string()),
            Cell::painted(row.what, paint),
            Cell::new(took_or_blank(row.took_seconds)),
            Cell::new(&row.text),
        ]);
    }
    format!(
        "times count from {}\n{}{}{} from the first event to the last, {} in {}, {}\n",
        timeline
            .began
            .as_deref()
            .map(local_time)
            .unwrap_or_default(),
        timeline.rows.left_out_text("row"),
        table.render(term),
        took(timeline.seconds()),
        took(timeline.tool_seconds),
        count_of(timeline.figures.tool_calls, "tool call"),
        count_of(timeline.figures.turns, "turn"),
    )
}
