//! `harness session tools`: which tools an agent called, how often, with what result, how long.
//!
//! Invariant: a result belongs to the call with its id; if a CLI gives no ids, to the oldest
//! unanswered call without one.

use std::collections::{BTreeMap, VecDeque};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Newest, Session, between, head, input_head};
use crate::error::{Result, tell};
use crate::event::{Body, Line, MORE_TOOLS, TOOL_NAMES_MAX};
use crate::term::clip;
use crate::view::table::{Cell, Table};
use crate::view::{Paint, Term, local_time, print_json, print_text, took, took_or_blank};

/// Most unanswered calls kept: an agent runs a few dozen at once at most.
const OPEN_CALLS_MAX: usize = 1_000;
/// Short enough for input and output to fit on one line.
const INPUT_CHARS_MAX: usize = 60;

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Call {
    /// When it was called.
    at: String,
    pub(super) tool: String,
    /// As the CLI names the call.
    id: Option<String>,
    /// Its beginning, on one line.
    input: String,
    /// `None`: not yet there, or the CLI does not report it.
    result: Option<String>,
    /// Whether the tool failed.
    is_error: bool,
    /// From the call's line to the result's, as harness read them.
    seconds: Option<f64>,
}

/// The calls of one tool.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
struct Sum {
    /// How often it was called.
    calls: u64,
    /// How often it failed.
    errors: u64,
    /// Sum over the answered calls.
    seconds: f64,
}

/// The tools that an agent called.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Told<'t> {
    session: &'t str,
    /// By name, at most a hundred, and `(others)`.
    tools: &'t BTreeMap<String, Sum>,
    /// The newest of them.
    calls: &'t VecDeque<Call>,
    /// How many earlier ones are not among `calls`.
    left_out: u64,
}

#[derive(Debug, Default)]
pub(super) struct Tools {
    /// By name, at most `TOOL_NAMES_MAX` and `MORE_TOOLS`.
    sums: BTreeMap<String, Sum>,
    pub(super) calls: Newest<Call>,
    open: VecDeque<OpenCall>,
}

#[derive(Debug)]
struct OpenCall {
    id: Option<String>,
    /// Its number among all calls, from 0.
    nth: u64,
    /// The name under which it is counted.
    name: String,
    at: String,
}

/// A call that was just answered.
pub(super) struct Answered {
    pub(super) nth: u64,
    pub(super) seconds: Option<f64>,
}

impl Tools {
    /// Adds one event; returns the call that it answers, if any.
    pub(super) fn fold(&mut self, line: &Line) -> Option<Answered> {
        match &line.body {
            Body::ToolCall {
                id, tool, input, ..
            } => {
                self.call(line, id, tool, input);
                None
            }
            Body::ToolResult {
                id,
                is_error,
                output,
                ..
            } => self.result(line, id, *is_error, output),
            _ => None,
        }
    }

    fn call(&mut self, line: &Line, id: &Option<String>, tool: &str, input: &Value) {
        let has_room = self.sums.contains_key(tool) || self.sums.len() < TOOL_NAMES_MAX;
        let name = if has_room { tool } else { MORE_TOOLS };
        self.sums.entry(name.to_owned()).or_default().calls += 1;
        if self.open.len() == OPEN_CALLS_MAX {
            self.open.pop_front();
        }
        self.open.push_back(OpenCall {
            id: id.clone(),
            nth: self.calls.count(),
            name: name.to_owned(),
            at: line.at.clone(),
        });
        self.calls.push(Call {
            at: line.at.clone(),
            tool: tool.to_owned(),
            id: id.clone(),
            input: input_head(input),
            result: None,
            is_error: false,
            seconds: None,
        });
    }

    fn result(
        &mut self,
        line: &Line,
        id: &Option<String>,
        is_error: bool,
        output: &str,
    ) -> Option<Answered> {
        let at = self.open.iter().position(|o| o.id == *id)?;
        let open = self.open.remove(at)?;
        let seconds = between(&open.at, &line.at);
        let sum = self.sums.entry(open.name).or_default();
        sum.errors += u64::from(is_error);
        sum.seconds += seconds.unwrap_or(0.0);
        if let Some(call) = self.calls.nth(open.nth) {
            call.result = Some(head(output));
            call.is_error = is_error;
            call.seconds = seconds;
        }
        Some(Answered {
            nth: open.nth,
            seconds,
        })
    }
}

pub(crate) fn show(session: &Session, json: bool) -> Result<u8> {
    let mut tools = Tools::default();
    for line in session.events() {
        tools.fold(&line);
    }
    if json {
        return print_json(&Told {
            session: &session.sid,
            tools: &tools.sums,
            calls: &tools.calls.rows,
            left_out: tools.calls.left_out,
        });
    }
    if !session.has_events() {
        session.tell_no_events();
    } else if tools.sums.is_empty() {
        tell("harness: it called no tools");
    } else {
        print_text(&text(&tools, &Term::of_stdout()))?;
    }
    Ok(0)
}

fn text(tools: &Tools, term: &Term) -> String {
    let mut by_tool = Table::new(&["TOOL", ">CALLS", ">ERRORS", ">TOOK"]);
    let mut sorted: Vec<_> = tools.sums.iter().collect();
    sorted.sort_by(|a, b| b.1.calls.cmp(&a.1.calls).then(a.0.cmp(b.0)));
    for (name, sum) in sorted {
        let errors = match sum.errors {
            0 => Cell::default(),
            n => Cell::painted(n.to_string(), Paint::Red),
        };
        by_tool.row(vec![
            Cell::new(name),
            Cell::new(sum.calls.to_string()),
            errors,
            Cell::new(took(sum.seconds)),
        ]);
    }
    let mut calls = Table::new(&["AT", "TOOL", ">TOOK", "RESULT", "INPUT", "OUTPUT"]);
    for call in &tools.calls.rows {
        let (word, paint) = match (&call.result, call.is_error) {
            (None, _) => ("none yet", Paint::Yellow),
            (Some(_), true) => ("failed", Paint::Red),
            (Some(_), false) => ("good", Paint::Plain),
        };
        calls.row(vec![
            Cell::new(local_time(&call.at)),
            Cell::new(&call.tool),
            Cell::new(took_or_blank(call.seconds)),
            Cell::painted(word, paint),
            Cell::new(clip(&call.input, INPUT_CHARS_MAX)),
            Cell::new(call.result.as_deref().unwrap_or_default()),
        ]);
    }
    format!(
        "{}\n{}{}",
        by_tool.render(term),
        tools.calls.left_out_text("call"),
        calls.render(term)
    )
}
