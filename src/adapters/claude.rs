//! Claude Code: `claude -p --output-format stream-json`.
//!
//! Its stream has one line per content block, so a message's id repeats and its usage must be
//! counted once. There may be no result, one or several. A result's `usage` omits subagents and
//! what a budget cut off; its figures by model do not. Newer versions accumulate over resumed
//! conversations and report the new part in `model_usage_since_last_result`.
//! Does not know: git, time. `qwen` uses this dialect with differences of its own.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use serde_json_borrow::Value;

use super::error_text;
use super::lenient_json::{BLOCKS_MAX, Fields};
use super::tally::{MAX_TOKENS, TURNS};
use super::{About, Adapter, Ask, Dialect, Launch, LaunchBuilder, PROMPT_PREFIX, Place, Tally};
use crate::event::{self, Body, Class, Figures, Limit, Tokens};

struct Claude;

pub(super) const ADAPTER: &dyn Adapter = &Claude;

static ABOUT: About = About {
    name: "claude",
    program: "claude",
    package: "@anthropic-ai/claude-code",
    login: "log in with `claude` and /login, or set ANTHROPIC_API_KEY",
    env_prefix: "CLAUDE",
    tells_cost: true,
    bound_to_directory: true,
    state: &[
        Place::dir("CLAUDE_CONFIG_DIR", ".claude", ""),
        Place::file("", ".claude.json", ""),
    ],
    variables: &["ANTHROPIC_*", "CLAUDE_*", "DISABLE_*"],
};

/// Default permission mode: edits are accepted, other tools need an entry in `tools`.
const PERMISSION_MODE: &str = "acceptEdits";
/// Default tools: enough to change files, test them and commit.
const TOOLS: &str = "Bash,Edit,Write,Read,Glob,Grep";
/// A worktree's hooks would run unasked and unseen: disabled unless a settings file is given.
const NO_HOOKS: &str = r#"{"disableAllHooks":true}"#;

impl Adapter for Claude {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = LaunchBuilder::new(ask);
        b.args(["-p", "--output-format", "stream-json", "--verbose"]);
        match &ask.resume {
            Some(id) => b.option("--resume", Some(id)),
            None => b.option("--session-id", Some(&ask.session_uuid)),
        }
        b.option("--append-system-prompt-file", ask.bootstrap_file.as_ref());
        b.option("--model", ask.model.as_ref());
        let mode = ask.permission_mode.as_deref().unwrap_or(PERMISSION_MODE);
        b.option("--permission-mode", Some(mode));
        // One argument, as the flag takes all words that follow.
        let tools = match ask.tools.is_empty() {
            true => TOOLS.to_owned(),
            false => ask.tools.join(","),
        };
        b.option("--allowedTools", Some(tools));
        b.option("--max-turns", ask.max_turns.map(|n| n.to_string()));
        // The CLI refuses a budget of zero.
        let budget = ask.budget_usd.filter(|b| *b > 0.0);
        b.option("--max-budget-usd", budget.map(|b| b.to_string()));
        match &ask.settings {
            Some(file) => b.option("--settings", Some(file)),
            None => b.option("--settings", Some(NO_HOOKS)),
        }
        // A repository's MCP servers would start unasked: none, unless their tools are allowed.
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

    fn dialect(&self, _previous: Option<&Figures>) -> Box<dyn Dialect> {
        Box::new(ClaudeDialect::new(Variant::Claude, None))
    }
}

/// Which variant of the dialect is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Claude,
    /// Each block has its own id; a result's usage accumulates over resumes and includes cache
    /// reads; no cost.
    Qwen,
}

/// Recent ids, to count a message or a denial once. Repeats come close together, but many subagents
/// may interleave: at least the last `RECENT_MIN` ids are remembered.
#[derive(Default)]
struct RecentIds {
    /// Their hashes, by a key that no agent knows.
    newer: HashSet<u64>,
    older: HashSet<u64>,
    key: RandomState,
}

const RECENT_MIN: usize = 1_000;

impl RecentIds {
    /// Whether the id is new. Anything without an id counts as new.
    fn is_new(&mut self, id: &str) -> bool {
        if id.is_empty() {
            return true;
        }
        if self.newer.len() >= RECENT_MIN {
            // The room that the older ones had is used again.
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        let id = self.key.hash_one(id);
        !self.older.contains(&id) && self.newer.insert(id)
    }
}

pub(super) struct ClaudeDialect {
    variant: Variant,
    messages: RecentIds,
    denials: RecentIds,
    /// Tokens already counted by results.
    settled: Tokens,
    /// Tokens of messages since the last result: exact input, a lower bound of output.
    live: Tokens,
    /// Output of the current partial message, already counted in `live`.
    partial: u64,
    /// The conversation's totals when it was resumed.
    base: Option<Tokens>,
    /// A usage limit that was announced, with its end (unix seconds) if known.
    limited: Option<Option<i64>>,
}

impl ClaudeDialect {
    pub(super) fn new(variant: Variant, base: Option<Tokens>) -> ClaudeDialect {
        ClaudeDialect {
            variant,
            messages: RecentIds::default(),
            denials: RecentIds::default(),
            settled: Tokens::default(),
            live: Tokens::default(),
            partial: 0,
            base,
            limited: None,
        }
    }

    fn retrying(&mut self, line: &Value<'_>, tally: &mut Tally) {
        let (error, status) = (line.message("error"), line.status("error_status"));
        let message = match status {
            Some(status) => format!("{error} ({status})"),
            None => error.to_owned(),
        };
        tally.put(Body::Retrying {
            class: self.error_class(error, status, ""),
            attempt: line.whole("attempt"),
            max: line.whole("max_retries"),
            wait_ms: line.whole("retry_delay_ms"),
            message: event::message(&message),
        });
    }

    fn denied(&mut self, denial: &Value<'_>, tally: &mut Tally) {
        if self.denials.is_new(denial.text("tool_use_id")) {
            tally.put(Body::PermissionDenied {
                id: denial.name("tool_use_id"),
                tool: denial.name("tool_name").unwrap_or_default(),
            });
        }
    }

    fn assistant(&mut self, line: &Value<'_>, tally: &mut Tally) {
        let Some(message) = line.object("message") else {
            return tally.other("assistant", "");
        };
        let whole = message.text("content");
        let blocks = message.objects("content");
        let error = line.message("error");
        let first = blocks.first().map_or("", |b| b.text("text"));
        let qwen_error = self.variant == Variant::Qwen && first.starts_with("[API Error:");
        if qwen_error || line.flag("is_api_error_message") || !error.is_empty() {
            // This is not the model but the CLI, reporting a request that finally failed.
            let texts = blocks.iter().map(|b| b.text("text")).chain([whole]);
            let text = texts.into_iter().find(|t| !t.is_empty());
            let text = text.unwrap_or_default();
            let class = self.error_class(error, line.status("api_error_status"), text);
            return tally.error(class, if text.is_empty() { error } else { text });
        }
        if message.text("model") != "<synthetic>" {
            tally.fault = None;
            self.count(message, tally);
        }
        if message.field("content").is_string() {
            tally.text(whole, false);
        }
        for block in &blocks {
            match block.text("type") {
                "text" => tally.text(block.text("text"), false),
                "thinking" => tally.thinking(block.text("thinking")),
                "tool_use" => {
                    let tool = block.name("name").unwrap_or_default();
                    tally.tool_call(block.name("id"), tool, block.field("input").into());
                }
                kind => tally.other(&format!("assistant/{kind}"), ""),
            }
        }
        note_skipped_blocks(message, tally);
    }

    /// Counts a message's usage and its turn once.
    fn count(&mut self, message: &Value<'_>, tally: &mut Tally) {
        if self.variant == Variant::Qwen {
            tally.answer();
        }
        if self.messages.is_new(message.text("id")) {
            let used = self.tokens(message.field("usage"));
            self.live = self.live.plus(used);
            self.partial = used.output;
            if self.variant == Variant::Claude {
                tally.usage.turns += 1;
            }
        }
    }

    fn tokens(&self, usage: &Value<'_>) -> Tokens {
        let cache_read = usage.count("cache_read_input_tokens");
        let input = usage.count("input_tokens");
        Tokens {
            input: match self.variant {
                Variant::Claude => input,
                Variant::Qwen => input.saturating_sub(cache_read),
            },
            output: usage.count("output_tokens"),
            cache_read,
            cache_write: usage.count("cache_creation_input_tokens"),
        }
    }

    /// `--include-partial-messages`: the text is repeated later as a whole; only usage is new.
    fn partial(&mut self, line: &Value<'_>, tally: &mut Tally) {
        let Some(event) = line.object("event") else {
            return tally.other("stream_event", "");
        };
        let (message, usage) = (event.object("message"), event.object("usage"));
        match (event.text("type"), message, usage) {
            ("message_start", Some(message), _) => {
                self.partial = 0;
                self.count(message, tally);
            }
            ("message_delta", _, Some(usage)) => {
                let output = usage.count("output_tokens");
                let more = output.saturating_sub(self.partial);
                self.live.output = self.live.output.saturating_add(more);
                self.partial = self.partial.max(output);
            }
            ("message_stop" | "ping" | "message_start" | "message_delta", ..) => {}
            (kind, ..) if kind.starts_with("content_block_") => {}
            (kind, ..) => tally.other(&format!("stream_event/{kind}"), ""),
        }
    }

    fn rate_limit(&mut self, line: &Value<'_>, tally: &mut Tally) {
        let info = line.field("rate_limit_info");
        let status = info.text("status");
        if status != "rejected" {
            return tally.other("rate_limit_event", status);
        }
        // Some programs in JavaScript give milliseconds.
        let seconds = |at: u64| if at > 100_000_000_000 { at / 1_000 } else { at };
        let resets_at = info.whole("resetsAt").filter(|at| *at > 0).map(seconds);
        let resets_at = resets_at.and_then(|at| i64::try_from(at).ok());
        self.limited = Some(resets_at);
        let limit = info.name("rateLimitType");
        tally.put(Body::Limited { resets_at, limit });
    }

    fn result(&mut self, line: &Value<'_>, tally: &mut Tally) {
        for denial in line.objects("permission_denials") {
            self.denied(denial, tally);
        }
        self.account(line, tally);
        let message = [
            line.text("result"),
            line.message("errors"),
            line.message("error"),
        ];
        let message = message.into_iter().find(|m| !m.is_empty());
        let message = message.unwrap_or_default();
        let is_error = line.flag("is_error");
        let class = is_error.then(|| self.result_class(line, message, tally));
        tally.usage.set(self.settled.plus(self.live));
        tally.finished(!is_error, class, message);
    }

    /// A result's tokens and cost replace those of its messages.
    fn account(&mut self, line: &Value<'_>, tally: &mut Tally) {
        self.live = Tokens::default();
        let of_run = self.tokens(line.field("usage"));
        let cost = line.amount("total_cost_usd");
        let models = line.object("modelUsage");
        let models = models.filter(|m| models_of(m).next().is_some());
        if self.variant == Variant::Qwen {
            let base = self.base.unwrap_or_default();
            self.settled = of_run.minus(base).unwrap_or(of_run);
            tally.usage.conversation = Some(of_run);
        } else if let Some(since) = line.object("model_usage_since_last_result") {
            self.settled = self.settled.plus(sum_of_models(since));
            let more: f64 = models_of(since).filter_map(|m| m.amount("costUSD")).sum();
            tally.usage.cost_usd = Some(tally.usage.cost_usd.unwrap_or_default() + more);
        } else if let Some(models) = models {
            // These versions count from the process's start: a later result replaces this one.
            self.settled = sum_of_models(models);
            tally.usage.cost_usd = cost;
        } else {
            self.settled = self.settled.plus(of_run);
            tally.usage.cost_usd = cost.or(tally.usage.cost_usd);
        }
    }

    fn result_class(&self, line: &Value<'_>, message: &str, tally: &Tally) -> Class {
        match (line.text("subtype"), line.text("terminal_reason")) {
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
        if line.text("stop_reason") == "refusal" {
            return Class::Refusal;
        }
        let of_message = tally.fault.as_ref().map(|f| f.class);
        of_message
            .filter(|c| *c != Class::Unknown)
            .unwrap_or_else(|| self.error_class("", line.status("api_error_status"), message))
    }

    /// The class of a failed request, by the CLI's word for it, the HTTP status and the text.
    fn error_class(&self, error: &str, status: Option<u16>, text: &str) -> Class {
        let by_text = error_text::class(text);
        let by_status = status.and_then(error_text::status_class);
        match error {
            "authentication_failed" => Class::Auth,
            "billing_error" => Class::Billing,
            "rate_limit" => match (self.limited, by_text) {
                // It is not the plan that is used up, but the money.
                (_, Some(Class::Billing)) => Class::Billing,
                (Some(resets_at), _) => Class::UsageLimit { resets_at },
                (None, Some(class @ Class::UsageLimit { .. })) => class,
                _ => Class::RateLimit,
            },
            "overloaded" => Class::Overloaded,
            "server_error" => by_status.or(by_text).unwrap_or(Class::Network),
            "max_output_tokens" => MAX_TOKENS,
            "model_not_found" => Class::Spawn,
            "unknown" if status.is_none() && text.is_empty() => Class::Network,
            _ => by_text.or(by_status).unwrap_or(Class::Unknown),
        }
    }
}

impl Dialect for ClaudeDialect {
    fn read(&mut self, line: &Value<'_>, tally: &mut Tally) {
        match (line.text("type"), line.text("subtype")) {
            ("assistant", _) => self.assistant(line, tally),
            ("user", _) => user(line, tally),
            ("stream_event", _) => self.partial(line, tally),
            ("system", "init") => {
                let version = line.name("claude_code_version");
                tally.put(Body::SessionStarted {
                    cli_session: line.name("session_id"),
                    model: line.name("model"),
                    version: version.or_else(|| line.name("qwen_code_version")),
                });
            }
            ("system", "api_retry") => self.retrying(line, tally),
            ("system", "permission_denied") => self.denied(line, tally),
            ("rate_limit_event", _) => self.rate_limit(line, tally),
            ("result", _) => self.result(line, tally),
            (kind, "") => tally.other(kind, ""),
            (kind, subtype) => tally.other(&format!("{kind}/{subtype}"), ""),
        }
        tally.usage.set(self.settled.plus(self.live));
    }

    fn exit_class(&self, code: i32) -> Option<Class> {
        (self.variant == Variant::Qwen && code == 53).then_some(TURNS)
    }
}

fn user(line: &Value<'_>, tally: &mut Tally) {
    let Some(message) = line.object("message") else {
        return tally.other("user", "");
    };
    tally.end_turn();
    if message.field("content").is_string() {
        tally.other("user/text", message.text("content"));
    }
    for block in message.objects("content") {
        match block.text("type") {
            "tool_result" => {
                let pieces = block.objects("content");
                let pieces = pieces.iter().map(|p| p.text("text"));
                tally.tool_result(
                    block.name("tool_use_id"),
                    block.flag("is_error"),
                    pieces.chain([block.text("content")]),
                );
            }
            kind => tally.other(&format!("user/{kind}"), block.text("text")),
        }
    }
    note_skipped_blocks(message, tally);
}

fn note_skipped_blocks(message: &Value<'_>, tally: &mut Tally) {
    let blocks = message.field("content").as_array().map_or(0, <[_]>::len);
    if blocks > BLOCKS_MAX {
        let detail = format!("{} more blocks in this line", blocks - BLOCKS_MAX);
        tally.other("(blocks)", &detail);
    }
}

/// The figures of each model, without the models' names.
fn models_of<'a>(models: &'a Value<'a>) -> impl Iterator<Item = &'a Value<'a>> {
    models.as_object().into_iter().flat_map(|m| m.values())
}

fn sum_of_models(models: &Value<'_>) -> Tokens {
    models_of(models).fold(Tokens::default(), |sum, model| {
        sum.plus(Tokens {
            input: model.count("inputTokens"),
            output: model.count("outputTokens"),
            cache_read: model.count("cacheReadInputTokens"),
            cache_write: model.count("cacheCreationInputTokens"),
        })
    })
}
