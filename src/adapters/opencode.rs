//! OpenCode: `opencode run --format json`.
//!
//! Its stream has no final event: the last `step_finish` says whether it came to an end, and usage
//! is their sum. A tool appears only on completion. Retries are not reported.
//! Does not know: git, time.

use serde_json_borrow::Value;

use super::error_text;
use super::lenient_json::Fields;
use super::tally::MAX_TOKENS;
use super::{About, Adapter, Ask, Dialect, Launch, LaunchBuilder, Place, Tally};
use crate::event::{Body, Class, Figures, Tokens};

struct Opencode;

pub(super) const ADAPTER: &dyn Adapter = &Opencode;

static ABOUT: About = About {
    name: "opencode",
    program: "opencode",
    package: "opencode-ai",
    login: "log in with `opencode auth login`",
    env_prefix: "OPENCODE",
    tells_cost: true,
    bound_to_directory: false,
    state: &[
        Place::dir("XDG_DATA_HOME", ".local/share", "opencode"),
        Place::dir("XDG_CONFIG_HOME", ".config", "opencode"),
        Place::dir("XDG_CACHE_HOME", ".cache", "opencode"),
        Place::dir("XDG_STATE_HOME", ".local/state", "opencode"),
    ],
    variables: &[
        "OPENCODE_*",
        "ANTHROPIC_*",
        "OPENAI_*",
        "GEMINI_*",
        "GOOGLE_*",
        "OPENROUTER_*",
    ],
};

impl Adapter for Opencode {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = LaunchBuilder::new(ask);
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

    fn dialect(&self, _previous: Option<&Figures>) -> Box<dyn Dialect> {
        Box::new(OpencodeDialect::default())
    }
}

#[derive(Default)]
struct OpencodeDialect {
    used: Tokens,
    started: bool,
}

impl OpencodeDialect {
    fn step_finish(&mut self, part: &Value<'_>, tally: &mut Tally) {
        let (tokens, cache) = (part.field("tokens"), part.field("tokens").field("cache"));
        let output = tokens.count("output");
        self.used = self.used.plus(Tokens {
            input: tokens.count("input"),
            output: output.saturating_add(tokens.count("reasoning")),
            cache_read: cache.count("read"),
            cache_write: cache.count("write"),
        });
        tally.usage.set(self.used);
        tally.usage.turns += 1;
        if let Some(cost) = part.amount("cost") {
            tally.usage.cost_usd = Some(tally.usage.cost_usd.unwrap_or_default() + cost);
        }
        let reason = part.text("reason");
        let class = match reason {
            "stop" => return tally.finished(true, None, ""),
            // The conversation continues after the tool calls.
            "tool-calls" => return tally.said = None,
            "length" => MAX_TOKENS,
            "content-filter" => Class::Refusal,
            _ => Class::Unknown,
        };
        let message = format!("its last answer ended with `{reason}`");
        tally.finished(false, Some(class), &message);
    }
}

impl Dialect for OpencodeDialect {
    fn read(&mut self, line: &Value<'_>, tally: &mut Tally) {
        let session = line.name("sessionID");
        if !self.started && session.is_some() {
            self.started = true;
            tally.started(session, None);
        }
        match (line.text("type"), line.object("part")) {
            // The step's content follows.
            ("step_start", _) => tally.other("step_start", ""),
            ("text", Some(part)) => tally.text(part.text("text"), false),
            ("reasoning", Some(part)) => tally.thinking(part.text("text")),
            ("tool_use", Some(part)) => tool_use(part, tally),
            ("step_finish", Some(part)) => self.step_finish(part, tally),
            ("error", _) => error(line.field("error"), tally),
            (kind, _) => tally.other(kind, ""),
        }
    }
}

fn tool_use(part: &Value<'_>, tally: &mut Tally) {
    let state = part.field("state");
    let (id, tool) = (part.name("callID"), part.name("tool").unwrap_or_default());
    tally.tool_call(id.clone(), tool.clone(), state.field("input").into());
    let error = state.message("error");
    let failed = state
        .field("metadata")
        .number("exit")
        .is_some_and(|code| code != 0.0);
    let is_error = state.text("status") == "error" || failed;
    tally.tool_result(id.clone(), is_error, [state.text("output"), error]);
    if error.contains("rejected permission") {
        tally.put(Body::PermissionDenied { id, tool });
    }
}

fn error(error: &Value<'_>, tally: &mut Tally) {
    let (name, text) = (error.text("name"), error.field("data").text("message"));
    let of_status = || error_text::status_class(error.field("data").status("statusCode")?);
    let class = match name {
        "ContextOverflowError" => Some(Class::Context),
        "ProviderAuthError" => Some(Class::Auth),
        "ProviderModelNotFoundError" => Some(Class::Spawn),
        "MessageOutputLengthError" => Some(MAX_TOKENS),
        "MessageAbortedError" => Some(Class::Interrupted),
        _ => error_text::class(text).or_else(of_status),
    };
    let text = if text.is_empty() { name } else { text };
    tally.error(class.unwrap_or(Class::Unknown), text);
}
