//! Which tools an agent called, how often, with what result and how long it took.
//!
//! A fold over events. Does not know what any tool does. Invariant: a result belongs to the call
//! with its id, or, where a CLI gives none, to the oldest call that has no id and no result.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::{Listed, OPEN_CALLS_MAX, between, head, input_head};
use crate::event::{Body, Line, MORE_TOOLS, TOOL_NAMES_MAX};

/// One call.
#[derive(Debug, Clone, Serialize)]
pub struct Call {
    pub at: String,
    pub tool: String,
    pub id: Option<String>,
    pub input: String,
    /// `None`: it has not come, or the CLI does not tell.
    pub result: Option<String>,
    pub is_error: bool,
    /// Between the lines of the call and of its result, as they were read.
    pub seconds: Option<f64>,
}

/// What was called by one name.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Count {
    pub calls: u64,
    pub errors: u64,
    /// Of the calls whose result is known.
    pub seconds: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Tools {
    /// By name, at most `TOOL_NAMES_MAX` and `MORE_TOOLS`.
    pub tools: BTreeMap<String, Count>,
    pub calls: Listed<Call>,
    #[serde(skip)]
    open: VecDeque<Open>,
}

#[derive(Debug)]
struct Open {
    id: Option<String>,
    /// It was the so-manieth call.
    nth: u64,
    /// The name under which it is counted.
    name: String,
    at: String,
}

/// A call whose result has just come.
pub struct Answered {
    pub nth: u64,
    pub seconds: Option<f64>,
}

impl Tools {
    /// Takes one event into account. Says which call it answers.
    pub fn fold(&mut self, line: &Line) -> Option<Answered> {
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

    fn call(&mut self, line: &Line, id: &Option<String>, tool: &str, input: &serde_json::Value) {
        let is_known = self.tools.contains_key(tool);
        let name = if is_known || self.tools.len() < TOOL_NAMES_MAX {
            tool
        } else {
            MORE_TOOLS
        };
        self.tools.entry(name.to_owned()).or_default().calls += 1;
        if self.open.len() == OPEN_CALLS_MAX {
            self.open.pop_front();
        }
        self.open.push_back(Open {
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
        let count = self.tools.entry(open.name).or_default();
        count.errors += u64::from(is_error);
        count.seconds += seconds.unwrap_or(0.0);
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
