//! Gemini CLI: `gemini -o stream-json`.
//!
//! What its stream asks of a reader: texts come in pieces; usage comes once, in the result's
//! `stats`; retries are silent; at a signal it ends with status 0 and no result; other exit codes
//! are HTTP statuses modulo 256.
//! Does not know: git, time.

use serde::Deserialize;

use super::loose::{self, Num, Obj, Text, Words};
use super::stream::{Said, TURNS, Tally};
use super::{About, Adapter, Ask, Build, Launch, PROMPT_PREFIX, Parser, Verdict, told};
use crate::event::{self, Body, Class, Figures, Tokens};
use crate::outcome::Exit;

/// The adapter.
pub struct Gemini;

static ABOUT: About = About {
    name: "gemini",
    program: "gemini",
    package: "@google/gemini-cli",
    login: "log in with `gemini` and /auth, or set GEMINI_API_KEY",
    tells_cost: false,
    bound_to_directory: true,
};

/// Other modes do not offer its shell tool at all when nobody is there to approve.
const APPROVAL_MODE: &str = "yolo";

impl Adapter for Gemini {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = Build::new(ask);
        b.args(["-o", "stream-json"]);
        let mode = ask.permission_mode.as_deref().unwrap_or(APPROVAL_MODE);
        b.option("--approval-mode", Some(mode));
        // A new worktree is a folder that nobody was asked about.
        b.arg("--skip-trust");
        match &ask.resume {
            Some(id) => b.option("--resume", Some(id)),
            None => b.option("--session-id", Some(&ask.session_uuid)),
        }
        b.option("-m", ask.model.as_ref());
        b.extra(ask);
        // One process that signals reach, instead of a launcher that keeps them to itself.
        b.env("GEMINI_CLI_NO_RELAUNCH", "true");
        if let Some(file) = &ask.settings {
            b.env("GEMINI_CLI_SYSTEM_SETTINGS_PATH", file);
        }
        if let Some(dir) = &ask.config_dir {
            b.env("GEMINI_CLI_HOME", dir);
        }
        b.unsupported("max_turns", ask.max_turns.is_some());
        b.unsupported("budget_usd", ask.budget_usd.is_some());
        b.unsupported("tools", !ask.tools.is_empty());
        b.0.prompt_prefix = Some(PROMPT_PREFIX);
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
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    session_id: Text<'a>,
    model: Text<'a>,
    role: Text<'a>,
    content: Text<'a>,
    delta: loose::Flag,
    tool_name: Text<'a>,
    tool_id: Text<'a>,
    #[serde(borrow, deserialize_with = "loose::raw")]
    parameters: Option<&'a str>,
    status: Text<'a>,
    output: Text<'a>,
    error: Obj<Trouble<'a>>,
    severity: Text<'a>,
    message: Text<'a>,
    stats: Obj<Stats>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Trouble<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    message: Words<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stats {
    input_tokens: Num,
    output_tokens: Num,
    cached: Num,
}

impl Stream {
    fn read(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        match l.kind.get() {
            "init" => {
                let started = Body::SessionStarted {
                    cli_session: l.session_id.name(),
                    model: l.model.name(),
                    version: None,
                };
                self.tally.put(out, started);
            }
            "message" if l.role.get() == "assistant" => {
                self.tally.answer();
                self.tally.text(out, l.content.get(), l.delta.0);
            }
            // The prompt, repeated.
            "message" => self
                .tally
                .other(out, &format!("message/{}", l.role.get()), ""),
            "tool_use" => {
                self.tally.answer();
                let (input, clipped) = loose::input(l.parameters);
                let call = Body::ToolCall {
                    id: l.tool_id.name(),
                    tool: l.tool_name.name().unwrap_or_default(),
                    input,
                    clipped,
                };
                self.tally.put(out, call);
            }
            "tool_result" => self.tool_result(l, out),
            "error" if l.severity.get() == "warning" => {
                self.tally.other(out, "error/warning", l.message.get());
            }
            "error" => {
                let class = told::of_text(l.message.get()).unwrap_or(Class::Unknown);
                self.tally.error(out, class, l.message.get());
            }
            "result" => self.result(l, out),
            kind => self.tally.other(out, kind, ""),
        }
    }

    fn tool_result(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        self.tally.answered();
        let trouble = l.error.0.as_ref();
        let text = match (l.output.get(), trouble) {
            ("", Some(trouble)) => trouble.message.get(),
            (text, _) => text,
        };
        let (output, clipped) = loose::output(text);
        let result = Body::ToolResult {
            id: l.tool_id.name(),
            is_error: l.status.get() == "error",
            output,
            clipped,
        };
        self.tally.put(out, result);
        // Where its mode does not allow a tool, the tool is not offered: asking is the denial.
        if trouble.is_some_and(|t| t.kind.get() == "tool_not_registered") {
            let id = l.tool_id.name();
            let tool = id.as_deref().and_then(|id| id.split("__").next());
            let tool = tool.unwrap_or_default().to_owned();
            self.tally.put(out, Body::PermissionDenied { id, tool });
        }
    }

    fn result(&mut self, l: &Line<'_>, out: &mut Vec<Body>) {
        if let Some(stats) = &l.stats.0 {
            let cache_read = stats.cached.count();
            self.tally.usage.set(Tokens {
                input: stats.input_tokens.count().saturating_sub(cache_read),
                output: stats.output_tokens.count(),
                cache_read,
                cache_write: 0,
            });
        }
        let (kind, message) = match &l.error.0 {
            Some(t) => (t.kind.get(), event::message(t.message.get())),
            None => ("", String::new()),
        };
        let good = l.status.get() == "success";
        let class = match kind {
            "FatalTurnLimitedError" => Some(TURNS),
            _ => told::of_text(&message).or_else(|| self.tally.fault.as_ref().map(|f| f.class)),
        };
        let class = class.filter(|_| !good);
        self.tally.settle(out);
        self.tally.finished(
            out,
            Said {
                good,
                class,
                message,
            },
        );
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
        self.tally.verdict(exit, stderr_tail, |code| match code {
            41 => Some(Class::Auth),
            42 => Some(Class::SessionLost),
            53 => Some(TURNS),
            55 => Some(Class::Spawn),
            // HTTP statuses modulo 256: 401 and 403, 413, 429, 500 to 504, 529.
            145 | 147 => Some(Class::Auth),
            157 => Some(Class::Context),
            173 => Some(Class::RateLimit),
            244..=248 | 17 => Some(Class::Overloaded),
            _ => None,
        })
    }
}
