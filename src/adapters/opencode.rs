//! OpenCode: `opencode run --format json`.
//!
//! What its stream asks of a reader: there is no final event, so the last `step_finish` says
//! whether it came to an end; usage is the sum of these; a tool appears only when it is done;
//! retries are silent.
//! Does not know: git, time.

use serde::Deserialize;

use super::loose::{self, Num, Obj, Text, Words};
use super::stream::{Said, Tally};
use super::{About, Adapter, Ask, Build, Launch, Parser, Verdict, told};
use crate::event::{Body, Class, Figures, Limit, Tokens};
use crate::outcome::Exit;

/// The adapter.
pub struct Opencode;

static ABOUT: About = About {
    name: "opencode",
    program: "opencode",
    package: "opencode-ai",
    login: "log in with `opencode auth login`",
    tells_cost: true,
    bound_to_directory: false,
};

impl Adapter for Opencode {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = Build::new(ask);
        b.args(["run", "--format", "json", "--auto"]);
        b.option("--session", ask.resume.as_ref());
        b.option("-m", ask.model.as_ref());
        b.extra(ask);
        b.env("OPENCODE_DISABLE_AUTOUPDATE", "1");
        if let Some(file) = &ask.settings {
            b.env("OPENCODE_CONFIG", file);
        }
        if let Some(dir) = &ask.config_dir {
            b.env("OPENCODE_CONFIG_DIR", dir);
        }
        b.unsupported("max_turns", ask.max_turns.is_some());
        b.unsupported("budget_usd", ask.budget_usd.is_some());
        b.unsupported("tools", !ask.tools.is_empty());
        b.unsupported("permission_mode", ask.permission_mode.is_some());
        b.0.bootstrap_in_prompt = ask.bootstrap_file.is_some();
        b.0
    }

    fn parser(&self, _previous: Option<&Figures>) -> Box<dyn Parser> {
        Box::new(Stream::default())
    }
}

#[derive(Default)]
struct Stream {
    tally: Tally,
    used: Tokens,
    started: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(rename = "sessionID")]
    session: Text<'a>,
    part: Obj<Part<'a>>,
    error: Obj<Trouble<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part<'a> {
    #[serde(borrow)]
    text: Text<'a>,
    tool: Text<'a>,
    #[serde(rename = "callID")]
    call: Text<'a>,
    state: Obj<State<'a>>,
    reason: Text<'a>,
    tokens: Obj<Counts>,
    cost: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State<'a> {
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow, deserialize_with = "loose::raw")]
    input: Option<&'a str>,
    output: Text<'a>,
    error: Words<'a>,
    metadata: Obj<Metadata>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    exit: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    input: Num,
    output: Num,
    reasoning: Num,
    cache: Obj<Cache>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cache {
    read: Num,
    write: Num,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Trouble<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    data: Obj<Data<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data<'a> {
    #[serde(borrow)]
    message: Text<'a>,
    #[serde(rename = "statusCode")]
    status: Num,
}

impl Stream {
    fn read(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        if !self.started && !l.session.get().is_empty() {
            self.started = true;
            let started = Body::SessionStarted {
                cli_session: l.session.name(),
                model: None,
                version: None,
            };
            self.tally.put(out, started);
        }
        match (l.kind.get(), &l.part.0) {
            // Marks the place; what it begins comes next.
            ("step_start", _) => self.tally.other(out, "step_start", ""),
            ("text", Some(part)) => self.tally.text(out, part.text.get(), false),
            ("reasoning", Some(part)) => self.tally.thinking(out, part.text.get()),
            ("tool_use", Some(part)) => self.tool(part, out),
            ("step_finish", Some(part)) => self.step_finish(part, out),
            ("error", _) => self.error(l, out),
            (kind, _) => self.tally.other(out, kind, ""),
        }
    }

    fn tool(&mut self, part: &Part<'_>, out: &mut Vec<Body>) {
        let nothing = State::default();
        let state = part.state.0.as_ref().unwrap_or(&nothing);
        let (input, clipped) = loose::input(state.input);
        let (id, tool) = (part.call.name(), part.tool.name().unwrap_or_default());
        let call = Body::ToolCall {
            id: id.clone(),
            tool: tool.clone(),
            input,
            clipped,
        };
        self.tally.put(out, call);
        let refused = state.error.get().contains("rejected permission");
        let failed = state.metadata.0.as_ref().and_then(|m| m.exit.0);
        let text = [state.output.get(), state.error.get()];
        let (output, clipped) = loose::outputs(text.into_iter());
        let result = Body::ToolResult {
            id: id.clone(),
            is_error: state.status.get() == "error" || failed.is_some_and(|code| code != 0.0),
            output,
            clipped,
        };
        self.tally.put(out, result);
        if refused {
            self.tally.put(out, Body::PermissionDenied { id, tool });
        }
    }

    fn step_finish(&mut self, part: &Part<'_>, out: &mut Vec<Body>) {
        if let Some(t) = &part.tokens.0 {
            let nothing = Cache::default();
            let cache = t.cache.0.as_ref().unwrap_or(&nothing);
            self.used = self.used.plus(Tokens {
                input: t.input.count(),
                output: t.output.count().saturating_add(t.reasoning.count()),
                cache_read: cache.read.count(),
                cache_write: cache.write.count(),
            });
        }
        let usage = &mut self.tally.usage;
        usage.set(self.used);
        usage.turns += 1;
        if let Some(cost) = part.cost.amount() {
            usage.cost_usd = Some(usage.cost_usd.unwrap_or_default() + cost);
        }
        self.tally.settle(out);
        let class = match part.reason.get() {
            "stop" => None,
            // It goes on.
            "tool-calls" => {
                self.tally.said = None;
                return;
            }
            "length" => Some(Class::LimitsReached {
                limit: Limit::MaxTokens,
            }),
            "content-filter" => Some(Class::Refusal),
            _ => Some(Class::Unknown),
        };
        let message = match class {
            None => String::new(),
            Some(_) => format!("its last answer ended with `{}`", part.reason.get()),
        };
        let good = class.is_none();
        self.tally.finished(
            out,
            Said {
                good,
                class,
                message,
            },
        );
    }

    fn error(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        let nothing = Trouble::default();
        let trouble = l.error.0.as_ref().unwrap_or(&nothing);
        let (text, status) = match &trouble.data.0 {
            Some(d) => (d.message.get(), d.status.status()),
            None => ("", None),
        };
        let class = match trouble.name.get() {
            "ContextOverflowError" => Some(Class::Context),
            "ProviderAuthError" => Some(Class::Auth),
            "ProviderModelNotFoundError" => Some(Class::Spawn),
            "MessageOutputLengthError" => Some(Class::LimitsReached {
                limit: Limit::MaxTokens,
            }),
            "MessageAbortedError" => Some(Class::Interrupted),
            _ => told::of_text(text).or_else(|| told::of_status(status?)),
        };
        let text = if text.is_empty() {
            trouble.name.get()
        } else {
            text
        };
        self.tally.error(out, class.unwrap_or(Class::Unknown), text);
    }
}

impl Parser for Stream {
    fn line(&mut self, line: &[u8], out: &mut Vec<Body>) {
        let mut spare = String::new();
        match loose::object::<Line<'_>>(line, &mut spare) {
            Some(read) => self.read(&read, out),
            None => self.tally.malformed(out, line),
        }
        self.tally.settle(out);
    }

    fn too_long(&mut self, prefix: &[u8], out: &mut Vec<Body>) {
        self.tally.too_long(out, prefix);
    }

    fn figures(&self) -> &Figures {
        self.tally.figures()
    }

    fn verdict(&self, exit: Exit, stderr_tail: &[u8]) -> Verdict {
        self.tally.verdict(exit, stderr_tail, |_| None)
    }
}
