//! Codex: `codex exec --json`.
//!
//! In its stream `error` lines are not the end ("Reconnecting... 1/5"). A failure has a text and no
//! code. Usage comes once, at the end, and accumulates over resumes. It reports neither cost nor turns:
//! these are counted from what the model says, and are rather too few. A failed `git commit` may show only in git itself.
//! Does not know: git, time.

use serde_json::json;
use serde_json_borrow::Value;

use super::error_text;
use super::lenient_json::Fields;
use super::{About, Adapter, Ask, Dialect, Launch, LaunchBuilder, Place, Tally};
use crate::event::{self, Body, Class, Figures, Tokens};

struct Codex;

pub(super) const ADAPTER: &dyn Adapter = &Codex;

static ABOUT: About = About {
    name: "codex",
    program: "codex",
    package: "@openai/codex",
    login: "log in with `codex login`, or set OPENAI_API_KEY",
    env_prefix: "CODEX_",
    tells_cost: false,
    bound_to_directory: false,
    state: &[Place::dir("CODEX_HOME", ".codex", "")],
    variables: &["OPENAI_*", "CODEX_*"],
};

/// Its sandboxes make `.git` read-only, so that nothing can be committed.
const BYPASS: &str = "danger-full-access";

impl Adapter for Codex {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = LaunchBuilder::new(ask);
        b.arg("exec");
        if ask.resume.is_some() {
            b.arg("resume");
        }
        b.args(["--json", "--skip-git-repo-check"]);
        if ask.resume.is_none() {
            b.option("-C", Some(&ask.worktree));
        }
        match ask.permission_mode.as_deref().unwrap_or(BYPASS) {
            BYPASS => b.arg("--dangerously-bypass-approvals-and-sandbox"),
            mode => {
                // Settings, not flags: `resume` has no flag for the sandbox.
                b.option("-c", Some(format!("sandbox_mode=\"{mode}\"")));
                b.option("-c", Some("approval_policy=\"never\""));
            }
        }
        // Otherwise it waits for an analytics server.
        b.option("-c", Some("analytics.enabled=false"));
        b.option("-m", ask.model.as_ref());
        b.extra(ask);
        if let Some(id) = &ask.resume {
            b.arg(id);
        }
        b.arg("-");
        if let Some(dir) = &ask.config_dir {
            b.env("CODEX_HOME", dir);
        }
        b.unsupported("max_turns", ask.max_turns.is_some());
        b.unsupported("budget_usd", ask.budget_usd.is_some());
        b.unsupported("tools", !ask.tools.is_empty());
        b.unsupported("settings", ask.settings.is_some());
        b.0.bootstrap_in_prompt = ask.bootstrap_file.is_some();
        b.0
    }

    fn dialect(&self, previous: Option<&Figures>) -> Box<dyn Dialect> {
        Box::new(CodexDialect {
            base: previous.and_then(|f| f.conversation).unwrap_or_default(),
            silent_calls: 0,
            open: Vec::new(),
        })
    }
}

struct CodexDialect {
    /// The conversation's totals when it was resumed.
    base: Tokens,
    /// Tool calls since the model last said something.
    silent_calls: u32,
    /// Ids of tool items that were started but not completed.
    open: Vec<String>,
}

/// Most tools tracked as running at once; further ones are counted on completion.
const OPEN_MAX: usize = 64;
/// More calls than one answer makes: a model that only calls tools is counted, too.
const CALLS_OF_AN_ANSWER_MAX: u32 = 32;

impl CodexDialect {
    /// The model speaks. The stream does not say where an answer ends: the calls of one answer may end
    /// one after the other, exactly as those of several. What the model says after a tool is surely
    /// a new answer; so are more calls than one answer makes. So turns are never too many.
    fn says(&mut self, tally: &mut Tally) {
        if std::mem::take(&mut self.silent_calls) > 0 {
            tally.end_turn();
        }
        tally.answer();
    }

    fn calls(&mut self, tally: &mut Tally) {
        if self.silent_calls == CALLS_OF_AN_ANSWER_MAX {
            self.silent_calls = 0;
            tally.end_turn();
        }
        self.silent_calls += 1;
        tally.answer();
    }

    fn started(&mut self, item: &Value<'_>, tally: &mut Tally) {
        let Some((tool, input)) = tool_of(item) else {
            let kind = item.text("type");
            return tally.other(&format!("item.started/{kind}"), "");
        };
        self.calls(tally);
        let id = item.name("id");
        if self.open.len() < OPEN_MAX {
            self.open.extend(id.clone());
        }
        tally.tool_call(id, tool, input);
    }

    fn completed(&mut self, item: &Value<'_>, tally: &mut Tally) {
        match item.text("type") {
            "agent_message" => {
                self.says(tally);
                tally.text(item.text("text"), false);
            }
            "reasoning" => {
                self.says(tally);
                tally.thinking(item.text("text"));
            }
            // A warning of the CLI, such as an unknown model: the run continues.
            "error" => tally.other("item/error", item.text("message")),
            kind => match tool_of(item) {
                Some(tool) => self.tool_completed(item, tool, tally),
                None => tally.other(&format!("item/{kind}"), ""),
            },
        }
    }

    fn tool_completed(
        &mut self,
        item: &Value<'_>,
        (tool, input): (String, serde_json::Value),
        tally: &mut Tally,
    ) {
        let id = item.name("id");
        match self.open.iter().position(|open| Some(open) == id.as_ref()) {
            Some(n) => {
                self.open.swap_remove(n);
            }
            // Some kinds appear only on completion.
            None => {
                self.calls(tally);
                tally.tool_call(id.clone(), tool, input);
            }
        }
        let failed = item.number("exit_code").is_some_and(|code| code != 0.0);
        let is_error = failed || matches!(item.text("status"), "failed" | "declined");
        let output = [item.text("aggregated_output"), item.message("error")];
        tally.tool_result(id, is_error, output);
    }

    fn turn_completed(&mut self, usage: &Value<'_>, tally: &mut Tally) {
        let cache_read = usage.count("cached_input_tokens");
        let cache_write = usage.count("cache_write_input_tokens");
        // Its input includes cache reads and writes.
        let input = usage.count("input_tokens");
        let total = Tokens {
            input: input.saturating_sub(cache_read).saturating_sub(cache_write),
            output: usage.count("output_tokens"),
            cache_read,
            cache_write,
        };
        // A total below the previous one belongs to another conversation.
        tally.usage.set(total.minus(self.base).unwrap_or(total));
        tally.usage.conversation = Some(total);
        self.silent_calls = 0;
        tally.end_turn();
        tally.finished(true, None, "");
    }
}

impl Dialect for CodexDialect {
    fn read(&mut self, line: &Value<'_>, tally: &mut Tally) {
        match (line.text("type"), line.object("item")) {
            ("thread.started", _) => tally.started(line.name("thread_id"), None),
            ("item.started", Some(item)) => self.started(item, tally),
            ("item.completed", Some(item)) => self.completed(item, tally),
            ("error", _) => error(line.text("message"), tally),
            ("turn.completed", _) => self.turn_completed(line.field("usage"), tally),
            ("turn.failed", _) => tally.finished(false, None, line.message("error")),
            (kind, _) => tally.other(kind, ""),
        }
    }

    fn exit_class(&self, code: i32) -> Option<Class> {
        match code {
            // Bad flags.
            2 => Some(Class::Spawn),
            // It panics when its stdout is closed.
            101 => Some(Class::Interrupted),
            _ => None,
        }
    }
}

/// An error line; the CLI's own retries are reported as such.
fn error(text: &str, tally: &mut Tally) {
    let class = error_text::class(text).unwrap_or(Class::Unknown);
    let Some(rest) = text.strip_prefix("Reconnecting...") else {
        return tally.error(class, text);
    };
    let numbers = rest.trim_start().split([' ', '(']).next();
    let numbers = numbers.unwrap_or_default();
    let (attempt, max) = numbers.split_once('/').unwrap_or((numbers, ""));
    tally.put(Body::Retrying {
        class,
        attempt: attempt.parse().ok(),
        max: max.parse().ok(),
        wait_ms: None,
        message: event::message(text),
    });
}

/// The name and input of a tool item; `None` if it is no tool.
fn tool_of(item: &Value<'_>) -> Option<(String, serde_json::Value)> {
    let tool = match item.text("type") {
        "command_execution" => ("shell".into(), json!({"command": item.text("command")})),
        "file_change" => ("apply_patch".into(), item.field("changes").into()),
        "mcp_tool_call" => {
            let name = format!("{}.{}", item.text("server"), item.text("tool"));
            (event::name(&name), item.field("arguments").into())
        }
        "web_search" => ("web_search".into(), json!({"query": item.text("query")})),
        _ => return None,
    };
    Some(tool)
}
