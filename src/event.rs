//! One schema for what any agent CLI says while it works, and the figures that follow from it.
//!
//! Each line of a CLI's stdout becomes any number of `Body`s (`adapters` does that). Each is written
//! as one line of `sessions/SID/events.jsonl`, with the offset of its raw line in `stdout.log`. Texts
//! and tool inputs are clipped in events, never in `stdout.log`.
//!
//! Does not know: any CLI, files, time. Keeps: `Figures` are a fold over the events, so
//! that `events.jsonl` read again gives the same figures as the live stream did.

mod brief;
pub mod fault;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use fault::{Class, Fault, Limit, Mend};

/// A text of the agent in an event: a screen or two.
pub const TEXT_BYTES_MAX: usize = 8 << 10;
/// A tool's output in an event: a viewer shows its beginning.
pub const OUTPUT_BYTES_MAX: usize = 2 << 10;
/// A tool's input as JSON; commands and paths fit, whole files do not.
pub const INPUT_BYTES_MAX: usize = 4 << 10;
/// Names, ids, models.
pub const NAME_BYTES_MAX: usize = 200;
/// Reasons, error messages, and the line that a status shows.
pub const MESSAGE_BYTES_MAX: usize = 2 << 10;
/// Tools counted by name; the calls of further ones are counted under `MORE_TOOLS`. A CLI offers
/// some dozens; only a hostile stream has more.
pub const TOOL_NAMES_MAX: usize = 100;
/// The name under which calls of tools beyond `TOOL_NAMES_MAX` are counted.
pub const MORE_TOOLS: &str = "(others)";
/// Name of an `other` event whose line was no JSON object. In brackets, so that no CLI's type is it.
pub const MALFORMED: &str = "(malformed)";
/// Name of an `other` event whose line was too long to be read.
pub const TOO_LONG: &str = "(too long)";

/// What happened, the same for every CLI. Its `event` key is the variant's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Body {
    /// The CLI has started. Several in a stream if it works on after a result.
    SessionStarted {
        /// The id by which the CLI can resume this conversation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cli_session: Option<String>,
        /// The model, if the CLI says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// The version of the CLI, if it says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    Text {
        /// What the agent said or thought.
        text: String,
        /// Continues the text event before it.
        #[serde(default, skip_serializing_if = "is_false")]
        delta: bool,
        /// Only the beginning is here; `stdout.log` has all.
        #[serde(default, skip_serializing_if = "is_false")]
        clipped: bool,
    },
    Thinking {
        /// What the agent said or thought.
        text: String,
        /// Only the beginning is here; `stdout.log` has all.
        #[serde(default, skip_serializing_if = "is_false")]
        clipped: bool,
    },
    ToolCall {
        /// By which a call and its result belong together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The name of the tool.
        tool: String,
        /// As the CLI gave it; a string with its first bytes where it is clipped.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        input: Value,
        /// Only the beginning is here; `stdout.log` has all.
        #[serde(default, skip_serializing_if = "is_false")]
        clipped: bool,
    },
    ToolResult {
        /// By which a call and its result belong together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Whether the tool failed.
        #[serde(default, skip_serializing_if = "is_false")]
        is_error: bool,
        /// What the tool answered, its beginning.
        output: String,
        /// Only the beginning is here; `stdout.log` has all.
        #[serde(default, skip_serializing_if = "is_false")]
        clipped: bool,
    },
    /// The totals of this attempt so far, not an addition to the one before. Where lines that were
    /// read together changed them one after another, only the last are written.
    Usage(Usage),
    /// The CLI itself tries a request again. A sign of life, not of progress.
    Retrying {
        #[serde(flatten)]
        class: Class,
        /// How many tries there were.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u64>,
        /// How many there will be at most.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<u64>,
        /// Milliseconds until the next try.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_ms: Option<u64>,
        /// In the CLI's words.
        message: String,
    },
    /// The provider refuses further work until an instant.
    Limited {
        /// Unix seconds; as JSON RFC 3339.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            with = "crate::clock::seconds"
        )]
        #[schemars(with = "Option<String>")]
        resets_at: Option<i64>,
        /// The provider's name for it: `five_hour`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<String>,
    },
    PermissionDenied {
        /// By which a call and its result belong together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The name of the tool.
        tool: String,
    },
    /// Something went wrong, perhaps not for good.
    Error {
        #[serde(flatten)]
        class: Class,
        /// In the CLI's words.
        message: String,
    },
    /// The CLI says that it has finished; its exit status may contradict it.
    Finished {
        /// Whether it says that it went well.
        good: bool,
        /// In the CLI's words.
        message: String,
    },
    /// A line of a type that is not one of the above.
    Other {
        /// The type of the line.
        name: String,
        /// Its beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(b: &bool) -> bool {
    !b
}

/// Token counts. `input` is what was neither read from nor written to a cache, for every CLI.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tokens {
    /// Neither read from nor written to a cache.
    pub input: u64,
    /// What the model wrote.
    pub output: u64,
    /// Read from a cache.
    pub cache_read: u64,
    /// Written to a cache.
    pub cache_write: u64,
}

impl Tokens {
    pub fn plus(self, o: Tokens) -> Tokens {
        Tokens {
            input: self.input.saturating_add(o.input),
            output: self.output.saturating_add(o.output),
            cache_read: self.cache_read.saturating_add(o.cache_read),
            cache_write: self.cache_write.saturating_add(o.cache_write),
        }
    }

    /// `self - o`, or `None` where `o` is not a part of it.
    pub fn minus(self, o: Tokens) -> Option<Tokens> {
        Some(Tokens {
            input: self.input.checked_sub(o.input)?,
            output: self.output.checked_sub(o.output)?,
            cache_read: self.cache_read.checked_sub(o.cache_read)?,
            cache_write: self.cache_write.checked_sub(o.cache_write)?,
        })
    }

    pub fn is_zero(self) -> bool {
        self == Tokens::default()
    }

    pub fn total(self) -> u64 {
        [self.output, self.cache_read, self.cache_write]
            .into_iter()
            .fold(self.input, u64::saturating_add)
    }
}

/// What an attempt used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Usage {
    /// Answers of the model, subagents' included where the CLI shows them.
    pub turns: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_tokens: u64,
    pub cache_write_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// The CLI's own running total of the whole conversation, for CLIs that count on over resumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Tokens>,
}

impl Usage {
    pub fn set(&mut self, t: Tokens) {
        self.input_tokens = t.input;
        self.output_tokens = t.output;
        self.cache_read_tokens = t.cache_read;
        self.cache_write_tokens = t.cache_write;
    }
}

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Line<At = String> {
    /// When it was said, at the latest: RFC 3339, UTC.
    pub at: At,
    #[serde(flatten)]
    pub body: Body,
    /// Where its raw line begins in `stdout.log`, in bytes.
    pub offset: u64,
    /// Bytes of the raw line, without its newline.
    pub length: u64,
}

impl<At: Serialize> Line<At> {
    /// Appends it with a newline. It is one line: JSON escapes newlines.
    pub fn write(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        match crate::text::append_json(out, self) {
            Ok(()) => out.push(b'\n'),
            // Cannot happen: strings and numbers are written into memory.
            Err(_) => out.truncate(begin),
        }
    }
}

impl Line {
    /// `None` if it is no event line, such as the last line before a crash, cut off.
    pub fn read(line: &[u8]) -> Option<Line> {
        serde_json::from_slice(line).ok()
    }
}

/// What an attempt did, folded from its events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Figures {
    pub turns: u64,
    /// Calls of tools.
    pub tool_calls: u64,
    /// By tool name, at most `TOOL_NAMES_MAX` and `MORE_TOOLS`.
    pub tools: BTreeMap<String, u64>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cache_read_tokens: u64,
    pub cache_write_tokens: u64,
    /// `None` if the CLI does not say.
    pub cost_usd: Option<f64>,
    /// The agent's latest text, or what its result says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message: Option<String>,
    /// The id by which the CLI can resume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cli_session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Version of the CLI, if it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Result lines: none, one or several in a run.
    pub results: u64,
    /// Requests that the CLI itself tried again.
    pub retries: u64,
    /// Tools that it was not allowed to use.
    pub denials: u64,
    /// Errors that it told of.
    pub errors: u64,
    /// Lines of types that are not in the schema.
    pub other: u64,
    /// Lines that were no JSON objects, or too long to read.
    pub malformed: u64,
    /// See `Usage::conversation`: what a resumed attempt's totals begin from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Tokens>,
    /// Whether the next piece of text continues `last_message`.
    #[serde(skip)]
    pub saying: bool,
}

impl Figures {
    /// Those that a budget counts: what is read from a cache costs next to nothing.
    pub(crate) fn counted_tokens(&self) -> u64 {
        let tokens = self.input_tokens.saturating_add(self.output_tokens);
        tokens.saturating_add(self.cache_write_tokens)
    }

    /// Takes one event into account.
    pub fn fold(&mut self, body: &Body) {
        let was_saying = std::mem::take(&mut self.saying);
        match body {
            Body::SessionStarted {
                cli_session,
                model,
                version,
            } => {
                keep(&mut self.cli_session, cli_session);
                keep(&mut self.model, model);
                keep(&mut self.version, version);
            }
            Body::Text { text, delta, .. } => {
                match &mut self.last_message {
                    Some(said) if *delta && was_saying => {
                        let room = MESSAGE_BYTES_MAX.saturating_sub(said.len());
                        said.push_str(clip(text, room).0);
                    }
                    _ => self.say(text),
                }
                self.saying = *delta;
            }
            Body::ToolCall { tool, .. } => {
                self.tool_calls += 1;
                self.count_tool(tool, 1);
            }
            Body::Usage(u) => {
                self.turns = u.turns;
                self.input_tokens = u.input_tokens;
                self.output_tokens = u.output_tokens;
                self.cache_read_tokens = u.cache_read_tokens;
                self.cache_write_tokens = u.cache_write_tokens;
                self.cost_usd = u.cost_usd;
                self.conversation = u.conversation;
                self.saying = was_saying;
            }
            Body::Retrying { .. } => self.retries += 1,
            Body::PermissionDenied { .. } => self.denials += 1,
            Body::Error { .. } => self.errors += 1,
            Body::Finished { message, .. } => {
                self.results += 1;
                self.say(message);
            }
            Body::Other { name, .. } if name == MALFORMED || name == TOO_LONG => {
                self.malformed += 1;
            }
            Body::Other { .. } => self.other += 1,
            Body::Thinking { .. } | Body::ToolResult { .. } | Body::Limited { .. } => {}
        }
    }

    /// Adds another attempt's counts, tokens and cost; its message, model and ids are left out.
    pub(crate) fn add(&mut self, other: &Figures) {
        for (sum, n) in [
            (&mut self.turns, other.turns),
            (&mut self.tool_calls, other.tool_calls),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.cache_read_tokens, other.cache_read_tokens),
            (&mut self.cache_write_tokens, other.cache_write_tokens),
            (&mut self.results, other.results),
            (&mut self.retries, other.retries),
            (&mut self.denials, other.denials),
            (&mut self.errors, other.errors),
            (&mut self.other, other.other),
            (&mut self.malformed, other.malformed),
        ] {
            *sum = sum.saturating_add(n);
        }
        for (tool, n) in &other.tools {
            self.count_tool(tool, *n);
        }
        self.cost_usd = Some(self.cost_usd.unwrap_or(0.0) + other.cost_usd.unwrap_or(0.0));
    }

    fn count_tool(&mut self, tool: &str, calls: u64) {
        let is_full = self.tools.len() >= TOOL_NAMES_MAX && !self.tools.contains_key(tool);
        let name = if is_full { MORE_TOOLS } else { tool };
        match self.tools.get_mut(name) {
            Some(count) => *count = count.saturating_add(calls),
            None => drop(self.tools.insert(name.to_owned(), calls)),
        }
    }

    fn say(&mut self, text: &str) {
        if !text.trim().is_empty() {
            let said = self.last_message.get_or_insert_default();
            said.clear();
            said.push_str(clip(text, MESSAGE_BYTES_MAX).0);
        }
    }

    /// All tokens, cached ones included.
    pub fn tokens(&self) -> u64 {
        Tokens {
            input: self.input_tokens,
            output: self.output_tokens,
            cache_read: self.cache_read_tokens,
            cache_write: self.cache_write_tokens,
        }
        .total()
    }
}

fn keep(slot: &mut Option<String>, new: &Option<String>) {
    if new.is_some() {
        slot.clone_from(new);
    }
}

/// The first bytes of a text, at most `max`, cut between characters; and whether that is not all.
pub fn clip(text: &str, max: usize) -> (&str, bool) {
    if text.len() <= max {
        return (text, false);
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (&text[..end], true)
}

/// `clip` for names.
pub fn name(text: &str) -> String {
    clip(text, NAME_BYTES_MAX).0.to_owned()
}

/// `clip` for messages.
pub fn message(text: &str) -> String {
    clip(text.trim(), MESSAGE_BYTES_MAX).0.to_owned()
}

#[cfg(test)]
mod tests;
