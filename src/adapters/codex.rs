//! Codex: `codex exec --json`.
//!
//! What its stream asks of a reader: `error` lines are not the end ("Reconnecting... 1/5"); a
//! failure is told by its text alone; usage comes once, at the end, and counts on over resumes;
//! neither turns nor cost are told. A failed `git commit` may leave no trace but git's own.
//! Does not know: git, time.

use serde::Deserialize;

use super::loose::{self, Num, Obj, Text, Words};
use super::stream::{Said, Tally};
use super::{About, Adapter, Ask, Build, Launch, Parser, Verdict, told};
use crate::event::{self, Body, Class, Figures, Tokens};
use crate::outcome::Exit;

/// The adapter.
pub struct Codex;

static ABOUT: About = About {
    name: "codex",
    program: "codex",
    package: "@openai/codex",
    login: "log in with `codex login`, or set OPENAI_API_KEY",
    tells_cost: false,
    bound_to_directory: false,
};

/// Its sandboxes make `.git` read-only, so that nothing can be committed.
const BYPASS: &str = "danger-full-access";

impl Adapter for Codex {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = Build::new(ask);
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
                // As settings and not as flags: `resume` has no flag for the sandbox.
                b.option("-c", Some(format!("sandbox_mode=\"{mode}\"")));
                b.option("-c", Some("approval_policy=\"never\""));
            }
        }
        // Without it, it waits for a server that is of no use to the work.
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

    fn parser(&self, previous: Option<&Figures>) -> Box<dyn Parser> {
        Box::new(Stream {
            tally: Tally::default(),
            base: previous.and_then(|f| f.conversation).unwrap_or_default(),
            open: Vec::new(),
        })
    }
}

struct Stream {
    tally: Tally,
    /// The conversation's totals when it was resumed.
    base: Tokens,
    /// Tool items that were started and not completed, by id.
    open: Vec<String>,
}

/// Tools that run at once; further ones are counted when they complete.
const OPEN_MAX: usize = 64;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    thread_id: Text<'a>,
    item: Obj<Item<'a>>,
    message: Text<'a>,
    error: Words<'a>,
    usage: Obj<Counts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Item<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(rename = "type")]
    kind: Text<'a>,
    text: Text<'a>,
    message: Text<'a>,
    command: Text<'a>,
    aggregated_output: Text<'a>,
    exit_code: Num,
    status: Text<'a>,
    server: Text<'a>,
    tool: Text<'a>,
    query: Text<'a>,
    error: Words<'a>,
    #[serde(borrow, deserialize_with = "loose::raw")]
    arguments: Option<&'a str>,
    #[serde(borrow, deserialize_with = "loose::raw")]
    changes: Option<&'a str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    input_tokens: Num,
    cached_input_tokens: Num,
    cache_write_input_tokens: Num,
    output_tokens: Num,
}

impl Counts {
    /// Its input includes what the cache gave and took.
    fn tokens(&self) -> Tokens {
        let cache_read = self.cached_input_tokens.count();
        let cache_write = self.cache_write_input_tokens.count();
        Tokens {
            input: self
                .input_tokens
                .count()
                .saturating_sub(cache_read)
                .saturating_sub(cache_write),
            output: self.output_tokens.count(),
            cache_read,
            cache_write,
        }
    }
}

impl Stream {
    fn read(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        match (l.kind.get(), &l.item.0) {
            ("thread.started", _) => {
                let started = Body::SessionStarted {
                    cli_session: l.thread_id.name(),
                    model: None,
                    version: None,
                };
                self.tally.put(out, started);
            }
            ("item.started", Some(item)) => self.started(item, out),
            ("item.completed", Some(item)) => self.completed(item, out),
            ("error", _) => self.error(l.message.get(), out),
            ("turn.completed", _) => {
                let total = l.usage.0.as_ref().map_or(Tokens::default(), Counts::tokens);
                // A total below the one before is not of the same conversation.
                let new = total.minus(self.base).unwrap_or(total);
                self.tally.usage.set(new);
                self.tally.usage.conversation = Some(total);
                self.tally.answered();
                self.tally.settle(out);
                self.tally.finished(
                    out,
                    Said {
                        good: true,
                        class: None,
                        message: String::new(),
                    },
                );
            }
            ("turn.failed", _) => {
                let message = event::message(l.error.get());
                let class = told::of_text(&message);
                self.tally.finished(
                    out,
                    Said {
                        good: false,
                        class,
                        message,
                    },
                );
            }
            (kind, _) => self.tally.other(out, kind, ""),
        }
    }

    /// Its own retries come as errors.
    fn error(&mut self, text: &str, out: &mut Vec<Body>) {
        let class = told::of_text(text).unwrap_or(Class::Unknown);
        let Some(rest) = text.strip_prefix("Reconnecting...") else {
            return self.tally.error(out, class, text);
        };
        let numbers = rest
            .trim_start()
            .split([' ', '('])
            .next()
            .unwrap_or_default();
        let (attempt, max) = numbers.split_once('/').unwrap_or((numbers, ""));
        let body = Body::Retrying {
            class,
            attempt: attempt.parse().ok(),
            max: max.parse().ok(),
            wait_ms: None,
            message: event::message(text),
        };
        self.tally.put(out, body);
    }

    /// What a tool item is called, and what it was given; `None`: not a tool.
    fn tool(item: &Item<'_>) -> Option<(String, serde_json::Value, bool)> {
        let string = |key: &str, text: &str| {
            let (text, clipped) = event::clip(text, event::INPUT_BYTES_MAX);
            (serde_json::json!({ key: text }), clipped)
        };
        let (name, (input, clipped)) = match item.kind.get() {
            "command_execution" => ("shell".to_owned(), string("command", item.command.get())),
            "file_change" => ("apply_patch".to_owned(), loose::input(item.changes)),
            "mcp_tool_call" => (
                event::name(&format!("{}.{}", item.server.get(), item.tool.get())),
                loose::input(item.arguments),
            ),
            "web_search" => ("web_search".to_owned(), string("query", item.query.get())),
            _ => return None,
        };
        Some((name, input, clipped))
    }

    fn started(&mut self, item: &Item<'_>, out: &mut Vec<Body>) {
        self.tally.answer();
        match Self::tool(item) {
            Some((tool, input, clipped)) => {
                let id = item.id.name();
                if self.open.len() < OPEN_MAX {
                    self.open.extend(id.clone());
                }
                self.tally.put(
                    out,
                    Body::ToolCall {
                        id,
                        tool,
                        input,
                        clipped,
                    },
                );
            }
            None => self
                .tally
                .other(out, &format!("item.started/{}", item.kind.get()), ""),
        }
    }

    fn tool_completed(
        &mut self,
        item: &Item<'_>,
        (tool, input, clipped): (String, serde_json::Value, bool),
        out: &mut Vec<Body>,
    ) {
        let id = item.id.name();
        match self.open.iter().position(|open| Some(open) == id.as_ref()) {
            Some(n) => {
                self.open.swap_remove(n);
            }
            // Some kinds come only when they are complete.
            None => {
                self.tally.answer();
                let id = id.clone();
                self.tally.put(
                    out,
                    Body::ToolCall {
                        id,
                        tool,
                        input,
                        clipped,
                    },
                );
            }
        }
        self.tally.answered();
        let text = [item.aggregated_output.get(), item.error.get()];
        let (output, clipped) = loose::outputs(text.into_iter());
        let failed = item.exit_code.0.is_some_and(|code| code != 0.0);
        let is_error = failed || matches!(item.status.get(), "failed" | "declined");
        self.tally.put(
            out,
            Body::ToolResult {
                id,
                is_error,
                output,
                clipped,
            },
        );
    }

    fn completed(&mut self, item: &Item<'_>, out: &mut Vec<Body>) {
        match item.kind.get() {
            "agent_message" => {
                self.tally.answer();
                self.tally.text(out, item.text.get(), false);
            }
            "reasoning" => {
                self.tally.answer();
                self.tally.thinking(out, item.text.get());
            }
            // A warning of the CLI, such as an unknown model: it goes on.
            "error" => self.tally.other(out, "item/error", item.message.get()),
            kind => match Self::tool(item) {
                Some(tool) => self.tool_completed(item, tool, out),
                None => self.tally.other(out, &format!("item/{kind}"), ""),
            },
        }
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
        self.tally.verdict(exit, stderr_tail, |code| {
            // Bad flags; and a closed stdout, at which it panics.
            match code {
                2 => Some(Class::Spawn),
                101 => Some(Class::Interrupted),
                _ => None,
            }
        })
    }
}
