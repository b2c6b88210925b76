//! Claude Code: `claude -p --output-format stream-json`.
//!
//! What its stream asks of a reader: a line for each content block, so a message's id repeats and
//! its usage must be taken once; no result, one or several; `usage` of a result leaves out
//! subagents and what a budget cut off, its per-model figures do not. Newer versions add up over
//! resumed conversations and say in `model_usage_since_last_result` what is new.
//! Does not know: git, time. `qwen` speaks the same dialect with its own habits.

mod fast;
mod wire;

use self::wire::{Line, Message, Rest, sum};
use super::loose::{self, Text};
use super::stream::{Said, TURNS, Tally};
use super::{About, Adapter, Ask, Build, Launch, PROMPT_PREFIX, Parser, Verdict, told};
use crate::event::{self, Body, Class, Figures, Limit, Tokens};
use crate::outcome::Exit;

/// The adapter.
pub struct Claude;

static ABOUT: About = About {
    name: "claude",
    program: "claude",
    package: "@anthropic-ai/claude-code",
    login: "log in with `claude` and /login, or set ANTHROPIC_API_KEY",
    tells_cost: true,
    bound_to_directory: true,
};

/// Where the user says nothing: edits are accepted, other tools as `tools` allows them.
const PERMISSION_MODE: &str = "acceptEdits";
/// Where the user names no tools: what it takes to change files, try them and commit.
const TOOLS: &str = "Bash,Edit,Write,Read,Glob,Grep";
/// Hooks of a worktree run unasked and unseen, so they are off unless a settings file is given.
const NO_HOOKS: &str = r#"{"disableAllHooks":true}"#;

impl Adapter for Claude {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = Build::new(ask);
        b.args(["-p", "--output-format", "stream-json", "--verbose"]);
        match &ask.resume {
            Some(id) => b.option("--resume", Some(id)),
            None => b.option("--session-id", Some(&ask.session_uuid)),
        }
        b.option("--append-system-prompt-file", ask.bootstrap_file.as_ref());
        b.option("--model", ask.model.as_ref());
        let mode = ask.permission_mode.as_deref().unwrap_or(PERMISSION_MODE);
        b.option("--permission-mode", Some(mode));
        // One argument: the flag would take the next ones, too.
        let tools = match ask.tools.is_empty() {
            true => TOOLS.to_owned(),
            false => ask.tools.join(","),
        };
        b.option("--allowedTools", Some(tools));
        b.option("--max-turns", ask.max_turns.map(|n| n.to_string()));
        // It refuses a budget of nought.
        let budget = ask.budget_usd.filter(|b| *b > 0.0);
        b.option("--max-budget-usd", budget.map(|b| b.to_string()));
        match &ask.settings {
            Some(file) => b.option("--settings", Some(file)),
            None => b.option("--settings", Some(NO_HOOKS)),
        }
        // Servers that a repository names start unasked; who allows their tools wants them.
        if !ask.tools.iter().any(|t| t.starts_with("mcp__")) {
            b.arg("--strict-mcp-config");
        }
        b.extra(ask);
        b.env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
        b.env("DISABLE_AUTOUPDATER", "1");
        if let Some(dir) = &ask.config_dir {
            b.env("CLAUDE_CONFIG_DIR", dir);
        }
        b.0.prompt_prefix = Some(PROMPT_PREFIX);
        b.0
    }

    fn parser(&self, _previous: Option<&Figures>) -> Box<dyn Parser> {
        Box::new(Stream::new(Dialect::Claude, None))
    }
}

/// Whose habits the stream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Claude,
    /// Every block has an id of its own; usage of a result counts on over resumes and includes what
    /// was read from the cache; no cost.
    Qwen,
}

/// Ids are remembered to take a message or denial once. Repeats follow each other closely, but those
/// of many subagents may stand between: an id is forgotten when so many newer ones have met in its
/// set, which is after about a thousand.
const RECENT_WAYS: usize = 16;
const RECENT_SETS: usize = 64;

/// A set fills one line of the processor's cache. Of two ids one in 2^32 has the same number.
struct Recent(Vec<[u32; RECENT_WAYS]>);

impl Recent {
    fn new() -> Recent {
        Recent(Vec::new())
    }

    /// Whether it was not there before. What has no id is always new.
    fn is_new(&mut self, id: &str) -> bool {
        if id.is_empty() {
            return true;
        }
        let hash = hash(id);
        // Nought is an empty place.
        let number = ((hash >> 32) as u32).max(1);
        if self.0.is_empty() {
            self.0 = vec![[0; RECENT_WAYS]; RECENT_SETS];
        }
        let set = &mut self.0[hash as usize % RECENT_SETS];
        // No early end, for the vectors' sake.
        if set.iter().fold(false, |found, n| found | (*n == number)) {
            return false;
        }
        set.rotate_right(1);
        set[0] = number;
        true
    }
}

/// Spreads ids, also those that only count on: each bit of them changes bits at both ends of it. No
/// better one is needed: an agent that forges two of the same number could as well say one twice.
fn hash(id: &str) -> u64 {
    // 2^64 divided by the golden ratio.
    const MIX: u64 = 0x9E37_79B9_7F4A_7C15;
    id.as_bytes()
        .chunks(8)
        .fold(id.len() as u64, |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let product = u128::from(hash ^ u64::from_le_bytes(word)) * u128::from(MIX);
            (product as u64) ^ (product >> 64) as u64
        })
}

/// The parser.
pub(super) struct Stream {
    dialect: Dialect,
    tally: Tally,
    messages: Recent,
    denials: Recent,
    /// What results accounted for.
    settled: Tokens,
    /// What messages since the last result say: exact input, a lower bound of output.
    live: Tokens,
    /// Output of the partial message that is counted already.
    partial: u64,
    base: Option<Tokens>,
    /// A usage limit that was announced: its end.
    limited: Option<Option<i64>>,
}

impl Stream {
    pub(super) fn new(dialect: Dialect, base: Option<Tokens>) -> Stream {
        Stream {
            dialect,
            tally: Tally::default(),
            messages: Recent::new(),
            denials: Recent::new(),
            settled: Tokens::default(),
            live: Tokens::default(),
            partial: 0,
            base,
            limited: None,
        }
    }

    fn read(&mut self, l: &Line<'_>, line: &[u8], out: &mut Vec<Body>) {
        match l.kind.get() {
            "assistant" => return self.assistant(l, out),
            "user" => return self.user(l, out),
            "stream_event" => return self.partial(l, out),
            _ => {}
        }
        let mut spare = String::new();
        let Some(rest) = loose::object::<Rest<'_>>(line, &mut spare) else {
            return self.tally.malformed(out, line);
        };
        match (l.kind.get(), rest.subtype.get()) {
            ("system", "init") => {
                let version = rest.claude_code_version.name();
                let started = Body::SessionStarted {
                    cli_session: rest.session_id.name(),
                    model: rest.model.name(),
                    version: version.or_else(|| rest.qwen_code_version.name()),
                };
                self.tally.put(out, started);
            }
            ("system", "api_retry") => self.retrying(l, &rest, out),
            ("system", "permission_denied") => {
                self.denied(rest.tool_use_id.get(), &rest.tool_name, out);
            }
            ("rate_limit_event", _) => self.rate_limit(&rest, out),
            ("result", _) => self.result(l, &rest, out),
            (kind, "") => self.tally.other(out, kind, ""),
            (kind, subtype) => self.tally.other(out, &format!("{kind}/{subtype}"), ""),
        }
    }

    fn retrying(&mut self, l: &Line<'_>, rest: &Rest<'_>, out: &mut Vec<Body>) {
        let class = self.class(l.error.get(), rest.error_status.status(), "");
        let message = match rest.error_status.status() {
            Some(status) => format!("{} ({status})", l.error.get()),
            None => l.error.get().to_owned(),
        };
        let body = Body::Retrying {
            class,
            attempt: rest.attempt.maybe(),
            max: rest.max_retries.maybe(),
            wait_ms: rest.retry_delay_ms.maybe(),
            message: event::message(&message),
        };
        self.tally.put(out, body);
    }

    fn denied(&mut self, id: &str, tool: &Text<'_>, out: &mut Vec<Body>) {
        if self.denials.is_new(id) {
            let tool = tool.name().unwrap_or_default();
            let id = (!id.is_empty()).then(|| event::name(id));
            self.tally.put(out, Body::PermissionDenied { id, tool });
        }
    }

    fn assistant(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        let Some(message) = &l.message.0 else {
            return self.tally.other(out, "assistant", "");
        };
        let blocks = &message.content.blocks;
        let first = blocks.items.first().map_or("", |b| b.text.get());
        let told_off = self.dialect == Dialect::Qwen && first.starts_with("[API Error:");
        if told_off || l.is_api_error_message.0 || !l.error.get().is_empty() {
            // Not the model speaks but the CLI, of a request that failed for good.
            let text = blocks.items.iter().map(|b| b.text.get());
            let text = text.chain([message.content.text.as_deref().unwrap_or_default()]);
            let text = text.into_iter().find(|t| !t.is_empty()).unwrap_or_default();
            let class = self.class(l.error.get(), l.api_error_status.status(), text);
            let text = if text.is_empty() { l.error.get() } else { text };
            return self.tally.error(out, class, text);
        }
        if message.model.get() != "<synthetic>" {
            self.tally.fault = None;
            self.count(message);
        }
        if let Some(text) = &message.content.text {
            self.tally.text(out, text, false);
        }
        for b in &blocks.items {
            match b.kind.get() {
                "text" => self.tally.text(out, b.text.get(), false),
                "thinking" => self.tally.thinking(out, b.thinking.get()),
                "tool_use" => {
                    let (input, clipped) = loose::input(b.input);
                    let call = Body::ToolCall {
                        id: b.id.name(),
                        tool: b.name.name().unwrap_or_default(),
                        input,
                        clipped,
                    };
                    self.tally.put(out, call);
                }
                kind => self.tally.other(out, &format!("assistant/{kind}"), ""),
            }
        }
        self.left_out(blocks.more, out);
    }

    /// Takes a message's usage once, and a turn for it.
    fn count(&mut self, message: &Message<'_>) {
        match self.dialect {
            Dialect::Qwen => self.tally.answer(),
            Dialect::Claude => {}
        }
        if self.messages.is_new(message.id.get()) {
            let used = message.usage.0.as_ref();
            let used = used.map_or(Tokens::default(), |u| u.tokens(self.dialect));
            self.live = self.live.plus(used);
            self.partial = used.output;
            if self.dialect == Dialect::Claude {
                self.tally.usage.turns += 1;
            }
        }
    }

    fn user(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        let Some(message) = &l.message.0 else {
            return self.tally.other(out, "user", "");
        };
        self.tally.answered();
        if let Some(text) = &message.content.text {
            self.tally.other(out, "user/text", text);
        }
        for b in &message.content.blocks.items {
            match b.kind.get() {
                "tool_result" => {
                    let pieces = b.content.blocks.items.iter().map(|p| p.text.get());
                    let whole = match &b.content.text {
                        Some(text) => loose::output(text),
                        None => loose::outputs(pieces),
                    };
                    let result = Body::ToolResult {
                        id: b.tool_use_id.name(),
                        is_error: b.is_error.0,
                        output: whole.0,
                        clipped: whole.1,
                    };
                    self.tally.put(out, result);
                }
                kind => self.tally.other(out, &format!("user/{kind}"), b.text.get()),
            }
        }
        self.left_out(message.content.blocks.more, out);
    }

    fn left_out(&mut self, more: u64, out: &mut Vec<Body>) {
        if more > 0 {
            let detail = format!("{more} more blocks in this line");
            self.tally.other(out, "(blocks)", &detail);
        }
    }

    /// `--include-partial-messages`: what is said comes again whole; only usage is news.
    fn partial(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        let Some(event) = &l.event.0 else {
            return self.tally.other(out, "stream_event", "");
        };
        match (event.kind.get(), &event.message.0, &event.usage.0) {
            ("message_start", Some(message), _) => {
                self.partial = 0;
                self.count(message);
            }
            ("message_delta", _, Some(usage)) => {
                let output = usage.output_tokens.count();
                let more = output.saturating_sub(self.partial);
                self.live.output = self.live.output.saturating_add(more);
                self.partial = self.partial.max(output);
            }
            ("message_stop" | "ping" | "message_start" | "message_delta", ..) => {}
            (kind, ..) if kind.starts_with("content_block_") => {}
            (kind, ..) => self.tally.other(out, &format!("stream_event/{kind}"), ""),
        }
    }

    fn rate_limit(&mut self, rest: &Rest<'_>, out: &mut Vec<Body>) {
        match &rest.rate_limit_info.0 {
            Some(info) if info.status.get() == "rejected" => {
                let resets_at = info.resets_at.instant();
                self.limited = Some(resets_at);
                let limit = info.limit.name();
                self.tally.put(out, Body::Limited { resets_at, limit });
            }
            info => {
                let status = info.as_ref().map_or("", |i| i.status.get());
                self.tally.other(out, "rate_limit_event", status);
            }
        }
    }

    fn result(&mut self, l: &Line<'_>, rest: &Rest<'_>, out: &mut Vec<Body>) {
        for d in &rest.permission_denials.items {
            self.denied(d.tool_use_id.get(), &d.tool_name, out);
        }
        self.account(rest);
        let message = [rest.result.get(), rest.errors.get(), l.error.get()];
        let message = message.into_iter().find(|m| !m.is_empty());
        let message = event::message(message.unwrap_or_default());
        let class = (rest.is_error.0).then(|| self.result_class(l, rest, &message));
        let said = Said {
            good: !rest.is_error.0,
            class,
            message,
        };
        self.tally.usage.set(self.settled.plus(self.live));
        self.tally.settle(out);
        self.tally.finished(out, said);
    }

    /// The tokens and cost of a result, and an end to what its messages said.
    fn account(&mut self, rest: &Rest<'_>) {
        self.live = Tokens::default();
        let of_run = rest.usage.0.as_ref();
        let of_run = of_run.map_or(Tokens::default(), |u| u.tokens(self.dialect));
        let cost = rest.total_cost_usd.amount();
        let models = rest.model_usage.0.as_deref().filter(|m| !m.is_empty());
        if self.dialect == Dialect::Qwen {
            let base = self.base.unwrap_or_default();
            self.settled = of_run.minus(base).unwrap_or(of_run);
            self.tally.usage.conversation = Some(of_run);
        } else if let Some(since) = &rest.model_usage_since_last_result.0 {
            self.settled = self.settled.plus(sum(since));
            let more: f64 = since.iter().filter_map(|m| m.cost_usd.amount()).sum();
            let cost = self.tally.usage.cost_usd.unwrap_or_default() + more;
            self.tally.usage.cost_usd = Some(cost);
        } else if let Some(models) = models {
            // These versions count from the start of the process, so a later result replaces.
            self.settled = sum(models);
            self.tally.usage.cost_usd = cost;
        } else {
            self.settled = self.settled.plus(of_run);
            self.tally.usage.cost_usd = cost.or(self.tally.usage.cost_usd);
        }
    }

    fn result_class(&self, l: &Line<'_>, rest: &Rest<'_>, message: &str) -> Class {
        match (rest.subtype.get(), rest.terminal_reason.get()) {
            ("error_max_turns", _) | (_, "max_turns") => return TURNS,
            ("error_max_budget_usd", _) | (_, "budget_exhausted") => {
                return Class::LimitsReached {
                    limit: Limit::Budget,
                };
            }
            (_, "prompt_too_long" | "image_error") => return Class::Context,
            (_, "aborted_streaming" | "aborted_tools") => return Class::Interrupted,
            _ => {}
        }
        if rest.stop_reason.get() == "refusal" {
            return Class::Refusal;
        }
        let of_message = self.tally.fault.as_ref().map(|f| f.class);
        of_message
            .filter(|c| *c != Class::Unknown)
            .unwrap_or_else(|| self.class("", l.api_error_status.status(), message))
    }

    /// The class of a failed request: the CLI's word for it, the HTTP status, the text.
    fn class(&self, error: &str, status: Option<u16>, text: &str) -> Class {
        let by_text = told::of_text(text);
        let by_status = status.and_then(told::of_status);
        match error {
            "authentication_failed" => Class::Auth,
            "billing_error" => Class::Billing,
            "rate_limit" => match (self.limited, by_text) {
                (Some(resets_at), _) => Class::UsageLimit { resets_at },
                (None, Some(class @ (Class::UsageLimit { .. } | Class::Billing))) => class,
                _ => Class::RateLimit,
            },
            "overloaded" => Class::Overloaded,
            "server_error" => by_status.or(by_text).unwrap_or(Class::Network),
            "max_output_tokens" => Class::LimitsReached {
                limit: Limit::MaxTokens,
            },
            "model_not_found" => Class::Spawn,
            "unknown" if status.is_none() && text.is_empty() => Class::Network,
            _ => by_text.or(by_status).unwrap_or(Class::Unknown),
        }
    }
}

impl Parser for Stream {
    fn line(&mut self, line: &[u8], out: &mut Vec<Body>) {
        let mut spare = String::new();
        let text = loose::text(line, &mut spare);
        // A whole `Line` is large: it is taken from where it was made, and not handed on.
        if let Some(read) = text.and_then(fast::read) {
            self.read(&read, line, out);
        } else if let Some(read) = text.and_then(loose::parse::<Line<'_>>) {
            self.read(&read, line, out);
        } else {
            self.tally.malformed(out, line);
        }
        self.tally.usage.set(self.settled.plus(self.live));
        self.tally.settle(out);
    }

    fn too_long(&mut self, prefix: &[u8], out: &mut Vec<Body>) {
        self.tally.too_long(out, prefix);
    }

    fn figures(&self) -> &Figures {
        self.tally.figures()
    }

    fn verdict(&self, exit: Exit, stderr_tail: &[u8]) -> Verdict {
        let of_code = |code| (self.dialect == Dialect::Qwen && code == 53).then_some(TURNS);
        self.tally.verdict(exit, stderr_tail, of_code)
    }
}
