//! What a CLI's dialect has to say, and where it puts it: `Tally` collects the events, the figures and
//! the evidence of how the attempt ended.
//!
//! Does not know any CLI. Keeps: every event is folded into the figures when it is made, so the
//! figures of `events.jsonl` read again are the same.

use serde_json_borrow::Value;

use super::lenient_json::{tool_input, tool_output};
use crate::event::{self, Body, Class, Fault, Figures, Limit, TEXT_BYTES_MAX, Usage, clip};

/// A limit on turns, for which several CLIs have an exit code.
pub(super) const TURNS: Class = Class::LimitsReached {
    limit: Limit::Turns,
};
/// The model's limit on the length of one answer.
pub(super) const MAX_TOKENS: Class = Class::LimitsReached {
    limit: Limit::MaxTokens,
};

/// What the lines and exit codes of one CLI mean.
pub trait Dialect: Send {
    /// Reads one line, a JSON object.
    fn read(&mut self, line: &Value<'_>, tally: &mut Tally);

    /// What an exit code means that the CLI uses in its own way.
    fn exit_class(&self, _code: i32) -> Option<Class> {
        None
    }
}

/// What the last result line said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) good: bool,
    pub(super) class: Option<Class>,
    pub(super) message: String,
}

/// What was read so far. Dialects put events here; the parser takes them after each line.
#[derive(Debug, Default)]
pub struct Tally {
    events: Vec<Body>,
    pub(super) figures: Figures,
    /// The attempt's totals so far: an event is made of them after each line that changed them.
    pub(super) usage: Usage,
    settled: Usage,
    /// The model is speaking: what it says until the next tool result is one turn.
    answering: bool,
    pub(super) said: Option<Said>,
    /// The last error that was no result.
    pub(super) fault: Option<Fault>,
    /// A line was too long to be read: it may have been the result.
    pub(super) skipped_line: bool,
}

impl Tally {
    pub(super) fn put(&mut self, body: Body) {
        self.figures.fold(&body);
        self.events.push(body);
    }

    pub(super) fn take_events(&mut self) -> Vec<Body> {
        std::mem::take(&mut self.events)
    }

    /// Makes an event of the totals if they changed. Called at the end of each line.
    pub(super) fn settle(&mut self) {
        if self.usage != self.settled {
            self.settled = self.usage;
            self.put(Body::Usage(self.usage));
        }
    }

    /// The model speaks. For CLIs that do not number its answers, a turn is what it says between
    /// two tool results.
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

    /// A result line. `class`: what went wrong, if that is known; no `class` and no `good`: unknown.
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

    /// A line, or a part of it, that is not in the schema.
    pub(super) fn other(&mut self, name: &str, detail: &str) {
        let detail = event::message(detail);
        self.put(Body::Other {
            name: event::name(if name.is_empty() { "(untyped)" } else { name }),
            detail: (!detail.is_empty()).then_some(detail),
        });
    }
}
