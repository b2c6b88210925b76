//! The `Dialect` of a CLI, and the `Tally` it fills: events, figures and the evidence of how the
//! attempt ended.
//!
//! Does not know any CLI. Invariant: every event is folded into the figures when it is made, so
//! reading `events.jsonl` again gives the same figures.

use serde_json_borrow::Value;

use super::lenient_json::{tool_input, tool_output};
use crate::event::{self, Body, Class, Fault, Figures, Limit, TEXT_BYTES_MAX, Usage, clip};

/// The turn limit, for which several CLIs have an exit code.
pub(super) const TURNS: Class = Class::LimitsReached {
    limit: Limit::Turns,
};
/// The model's limit on the length of one answer.
pub(super) const MAX_TOKENS: Class = Class::LimitsReached {
    limit: Limit::MaxTokens,
};

/// How to read one CLI's lines and exit codes.
pub trait Dialect: Send {
    /// Reads one line, a JSON object.
    fn read(&mut self, line: &Value<'_>, tally: &mut Tally);

    /// The meaning of an exit code that is specific to the CLI.
    fn exit_class(&self, _code: i32) -> Option<Class> {
        None
    }
}

/// The last result line.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) good: bool,
    pub(super) class: Option<Class>,
    pub(super) message: String,
}

/// What was read so far. Dialects add events; the parser takes them after each line.
#[derive(Debug, Default)]
pub struct Tally {
    events: Vec<Body>,
    pub(super) figures: Figures,
    /// The attempt's totals so far; each line that changes them makes an event.
    pub(super) usage: Usage,
    settled: Usage,
    /// The model is speaking: everything until the next tool result is one turn.
    answering: bool,
    pub(super) said: Option<Said>,
    /// The last error that was not a result.
    pub(super) fault: Option<Fault>,
    /// A line was too long to read: it may have been the result.
    pub(super) skipped_line: bool,
}

impl Tally {
    pub(super) fn put(&mut self, body: Body) {
        if matches!(
            body,
            Body::SessionStarted { .. }
                | Body::Text { .. }
                | Body::Thinking { .. }
                | Body::ToolCall { .. }
                | Body::Retrying { .. }
        ) {
            // A result that more work of the same run follows was not the end.
            self.said = None;
        }
        self.figures.fold(&body);
        self.events.push(body);
    }

    pub(super) fn take_events(&mut self) -> Vec<Body> {
        std::mem::take(&mut self.events)
    }

    /// Makes an event of the totals if they changed. Called after each line.
    pub(super) fn settle(&mut self) {
        if self.usage != self.settled {
            self.settled = self.usage;
            self.put(Body::Usage(self.usage));
        }
    }

    /// The model speaks. For CLIs that do not number answers, a turn is everything between two tool
    /// results.
    pub(super) fn answer(&mut self) {
        if !std::mem::replace(&mut self.answering, true) {
            self.usage.turns += 1;
        }
    }

    /// A tool has answered: what the model says next is a new turn.
    pub(super) fn end_turn(&mut self) {
        self.answering = false;
    }

    pub(super) fn started(&mut self, cli_session: Option<String>, model: Option<String>) {
        self.put(Body::SessionStarted {
            cli_session,
            model,
            version: None,
        });
    }

    pub(super) fn text(&mut self, text: &str, delta: bool) {
        let (text, clipped) = clip(text, TEXT_BYTES_MAX);
        self.put(Body::Text {
            text: text.to_owned(),
            delta,
            clipped,
        });
    }

    pub(super) fn thinking(&mut self, text: &str) {
        let (text, clipped) = clip(text, TEXT_BYTES_MAX);
        self.put(Body::Thinking {
            text: text.to_owned(),
            clipped,
        });
    }

    pub(super) fn tool_call(&mut self, id: Option<String>, tool: String, input: serde_json::Value) {
        let (input, clipped) = tool_input(input);
        self.put(Body::ToolCall {
            id,
            tool,
            input,
            clipped,
        });
    }

    /// `output`: one or more pieces, joined by newlines.
    pub(super) fn tool_result<'a>(
        &mut self,
        id: Option<String>,
        is_error: bool,
        output: impl IntoIterator<Item = &'a str>,
    ) {
        let (output, clipped) = tool_output(output);
        self.put(Body::ToolResult {
            id,
            is_error,
            output,
            clipped,
        });
    }

    pub(super) fn error(&mut self, class: Class, text: &str) {
        let fault = Fault::new(class, text);
        let message = fault.message.clone();
        self.fault = Some(fault);
        self.put(Body::Error { class, message });
    }

    /// A result line. `class`: the known fault; neither `class` nor `good`: unknown.
    pub(super) fn finished(&mut self, good: bool, class: Option<Class>, message: &str) {
        self.settle();
        let message = event::message(message);
        self.said = Some(Said {
            good,
            class,
            message: message.clone(),
        });
        self.put(Body::Finished { good, message });
    }

    /// A line, or part of one, that is not in the schema.
    pub(super) fn other(&mut self, name: &str, detail: &str) {
        let detail = event::message(detail);
        self.put(Body::Other {
            name: event::name(if name.is_empty() { "(untyped)" } else { name }),
            detail: (!detail.is_empty()).then_some(detail),
        });
    }
}
