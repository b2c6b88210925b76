//! claude's stream, `-p --output-format stream-json --verbose`, in the shape of 2.1.330 or 2.1.197.
//!
//! What readers have stumbled over is kept: an assistant line for each block with the message's id
//! repeated and `output_tokens` 1; keys of `result` in an order of their own with `type` far behind
//! (2.1.330); figures of a resumed session cumulative in some fields and not in others; an API
//! failure as `result/success` with `is_error`.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::Refused;
use super::claude_args::{self, Asked, Dialect};
use super::claude_result::Verdict;
use super::line::{fresh, now, object};
use super::sessions::{self, Used};
use super::stage::Out;
use super::voice::{Allowed, Call, Done, End, Fault, Manner, Usage, Voice};

pub struct Claude {
    pub(super) asked: Asked,
    /// What the session had used before this run.
    pub(super) before: Used,
    message: String,
    request: String,
    /// Figures up to the last result.
    pub(super) told: Usage,
    pub(super) results: u64,
    pub(super) denials: Vec<Value>,
}

impl Claude {
    pub fn open(args: &[OsString]) -> Result<Claude, Refused> {
        let asked = claude_args::read(args)?;
        let before = sessions::known("claude", &asked.session).unwrap_or_default();
        Ok(Claude {
            asked,
            before,
            message: String::new(),
            request: String::new(),
            told: Usage::default(),
            results: 0,
            denials: Vec::new(),
        })
    }

    pub(super) fn newer(&self) -> bool {
        self.asked.dialect == Dialect::Newer
    }

    pub(super) fn emit(&self, out: &mut Out, fields: &[(&str, Value)]) {
        if self.asked.stream {
            out.line(&object(fields));
        }
    }

    pub(super) fn uuid(&self) -> Value {
        uuid::Uuid::now_v7().to_string().into()
    }

    fn block(&self, out: &mut Out, block: Value) {
        let zero = json!({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0});
        let message = json!({
            "id": self.message, "type": "message", "role": "assistant", "model": self.asked.model,
            "content": [block], "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": super::stage::IN, "output_tokens": 1,
                "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                "cache_creation": zero, "service_tier": "standard"},
            "context_management": null,
        });
        let mut fields = vec![
            ("type", json!("assistant")),
            ("message", message),
            ("parent_tool_use_id", Value::Null),
            ("session_id", json!(self.asked.session)),
            ("uuid", self.uuid()),
        ];
        if self.newer() {
            fields.push(("timestamp", json!(now())));
        }
        fields.push(("request_id", json!(self.request)));
        self.emit(out, &fields);
    }

    fn answer(&self, out: &mut Out, content: Value, result: Value, accepted: bool) {
        let id = content["tool_use_id"].clone();
        let mut fields = vec![
            ("type", json!("user")),
            ("message", json!({"role": "user", "content": [content]})),
            ("parent_tool_use_id", Value::Null),
            ("session_id", json!(self.asked.session)),
            ("uuid", self.uuid()),
            ("timestamp", json!(now())),
            ("tool_use_result", result),
        ];
        if self.newer() && accepted {
            let decision = json!({"decision": "accept", "source": "config", "reason_type": "rule"});
            fields.push((
                "tool_result_meta",
                json!([{"id": id, "permission_decision": decision}]),
            ));
        }
        self.emit(out, &fields);
    }
}

fn tool_name(kind: &str) -> &'static str {
    match kind {
        "write" => "Write",
        "edit" => "Edit",
        _ => "Bash",
    }
}

fn tool_input(call: &Call) -> Value {
    match call.kind {
        "write" => json!({"file_path": call.what, "content": "…"}),
        _ => json!({"command": call.what, "description": "Run a command"}),
    }
}

impl Voice for Claude {
    fn prompt(&self) -> &str {
        &self.asked.prompt
    }

    fn session(&self) -> &str {
        &self.asked.session
    }

    fn resumed(&self) -> bool {
        self.asked.resumed
    }

    fn limits(&self) -> (Option<u64>, Option<f64>) {
        (self.asked.turns, self.asked.money)
    }

    /// A prompt that begins with a command of its own never reaches the model.
    fn answers_itself(&self) -> Option<String> {
        let word = self.asked.prompt.split_whitespace().next()?;
        ["/cost", "/usage", "/context", "/compact", "/clear"]
            .contains(&word)
            .then(|| format!("{word} isn't available in this environment."))
    }

    fn begin(&mut self, out: &mut Out) {
        let cwd = std::env::current_dir().unwrap_or_default();
        let mut fields = vec![
            ("type", json!("system")),
            ("subtype", json!("init")),
            ("cwd", json!(cwd.to_string_lossy())),
            ("session_id", json!(self.asked.session)),
            (
                "tools",
                json!(["Bash", "Edit", "Glob", "Grep", "Read", "Write"]),
            ),
            ("mcp_servers", json!([])),
            ("model", json!(self.asked.model)),
            ("permissionMode", json!(self.asked.mode)),
            ("slash_commands", json!(["cost", "compact", "context"])),
            ("apiKeySource", json!("ANTHROPIC_API_KEY")),
            ("claude_code_version", json!(self.asked.dialect.version())),
            ("output_style", json!("default")),
            ("uuid", self.uuid()),
        ];
        if self.newer() {
            fields.push(("messaging_socket_path", Value::Null));
        }
        self.emit(out, &fields);
    }

    fn turn(&mut self, _out: &mut Out) {
        self.message = fresh("msg_mock_");
        self.request = fresh("req_mock_");
    }

    fn text(&mut self, out: &mut Out, text: &str) {
        if self.asked.partial {
            let delta = json!({"type": "content_block_delta", "index": 0,
                "delta": {"type": "text_delta", "text": text}});
            self.emit(
                out,
                &[
                    ("type", json!("stream_event")),
                    ("event", delta),
                    ("session_id", json!(self.asked.session)),
                    ("parent_tool_use_id", Value::Null),
                    ("uuid", self.uuid()),
                ],
            );
        }
        self.block(out, json!({"type": "text", "text": text}));
    }

    fn allows(&self, call: &Call) -> Allowed {
        let tool = tool_name(call.kind);
        let mut named = self.asked.allowed.iter().map(|a| a.split('(').next());
        let edits = matches!(self.asked.mode.as_str(), "acceptEdits" | "auto") && tool != "Bash";
        match self.asked.bypass || edits || named.any(|a| a == Some(tool)) {
            true => Allowed::Yes,
            false => Allowed::No,
        }
    }

    fn called(&mut self, out: &mut Out, call: &Call) {
        let block = json!({"type": "tool_use", "id": call.id, "name": tool_name(call.kind),
            "input": tool_input(call)});
        self.block(out, block);
    }

    fn returned(&mut self, out: &mut Out, call: &Call, done: &Done) {
        let failed = done.exit != 0;
        let text = match failed {
            true => format!("Exit code {}\n{}", done.exit, done.output),
            false => done.output.clone(),
        };
        let result = match (failed, call.kind) {
            (true, _) => json!(format!("Error: {text}")),
            (_, "bash") => json!({"stdout": text, "stderr": "", "interrupted": false}),
            _ => json!({"type": "create", "filePath": call.what}),
        };
        let content = json!({"tool_use_id": call.id, "type": "tool_result", "content": text,
            "is_error": failed});
        self.answer(out, content, result, true);
    }

    fn denied(&mut self, out: &mut Out, call: &Call) {
        let name = tool_name(call.kind);
        let why = format!("Permission to use {name} has been denied.");
        self.denials
            .push(json!({"tool_name": name, "tool_use_id": call.id,
            "tool_input": tool_input(call)}));
        if self.newer() {
            self.emit(
                out,
                &[
                    ("type", json!("system")),
                    ("subtype", json!("permission_denied")),
                    ("tool_name", json!(name)),
                    ("tool_use_id", json!(call.id)),
                    ("decision_reason_type", json!("mode")),
                    ("message", json!(why)),
                    ("uuid", self.uuid()),
                    ("session_id", json!(self.asked.session)),
                ],
            );
        }
        let content = json!({"type": "tool_result", "content": why, "is_error": true,
            "tool_use_id": call.id});
        self.answer(out, content, json!(format!("Error: {why}")), false);
    }

    fn retrying(&mut self, out: &mut Out, fault: Fault, n: u64, of: u64) {
        let delay = match self.asked.dialect {
            Dialect::Older => json!(523.8_f64 * n as f64),
            Dialect::Newer => json!(524 * n),
        };
        let error = match fault {
            Fault::Server => "server_error",
            Fault::Overloaded => "overloaded",
            Fault::Auth => "authentication_failed",
        };
        self.emit(
            out,
            &[
                ("type", json!("system")),
                ("subtype", json!("api_retry")),
                ("attempt", json!(n)),
                ("max_retries", json!(of)),
                ("retry_delay_ms", delay),
                ("error_status", json!(fault.status())),
                ("error", json!(error)),
                ("session_id", json!(self.asked.session)),
                ("uuid", self.uuid()),
            ],
        );
    }

    fn end(&mut self, out: &mut Out, end: &End, usage: &Usage) -> u8 {
        let failed = |terminal, text: &str, status| Verdict {
            subtype: "success",
            is_error: true,
            terminal,
            stop: Some("stop_sequence"),
            status,
            text: Ok(text.to_owned()),
            more_turns: u64::from(usage.turns == self.told.turns),
        };
        let limit = |subtype, terminal, why: String, more_turns| Verdict {
            subtype,
            is_error: true,
            terminal,
            stop: Some("tool_use"),
            status: None,
            text: Err(why),
            more_turns,
        };
        let verdict = match end {
            End::Good => Verdict {
                subtype: "success",
                is_error: false,
                terminal: "completed",
                stop: Some("end_turn"),
                status: None,
                text: Ok(out.last_text.clone()),
                more_turns: 0,
            },
            End::MaxTurns(n) => {
                let why = format!("Reached maximum number of turns ({n})");
                limit("error_max_turns", "max_turns", why, 1)
            }
            End::Budget(most) => {
                let why = format!("Reached maximum budget (${most})");
                limit("error_max_budget_usd", "budget_exhausted", why, 0)
            }
            End::MaxTokens => {
                let why = "API Error: Claude's response exceeded the 128000 output token maximum.";
                self.api_error(out, why, "max_output_tokens", None);
                failed("api_error", why, None)
            }
            End::Api(fault) => {
                let (why, error) = match fault {
                    Fault::Server => ("API Error: 500 Internal server error", "server_error"),
                    Fault::Overloaded => (
                        "API Error: Repeated 529 Overloaded errors. The API is at capacity.",
                        "server_error",
                    ),
                    Fault::Auth => (
                        "Invalid API key · Fix external API key",
                        "authentication_failed",
                    ),
                };
                self.api_error(out, why, error, Some(fault.status()));
                failed("api_error", why, Some(fault.status()))
            }
            End::Limit(reset) => {
                let info = json!({"status": "rejected", "resetsAt": reset,
                    "rateLimitType": "five_hour", "overageStatus": "rejected",
                    "overageDisabledReason": "out_of_credits", "isUsingOverage": false});
                self.emit(
                    out,
                    &[
                        ("type", json!("rate_limit_event")),
                        ("rate_limit_info", info),
                        ("uuid", self.uuid()),
                        ("session_id", json!(self.asked.session)),
                    ],
                );
                let why = "You've hit your 5-hour limit";
                self.api_error(out, why, "rate_limit", Some(429));
                failed("api_error", why, Some(429))
            }
        };
        let code = u8::from(verdict.is_error);
        if !self.asked.stream {
            let text = verdict.text.as_ref().unwrap_or_else(|why| why);
            out.line(text);
        }
        self.result(out, verdict, usage);
        code
    }

    fn at_signal(&mut self, out: &mut Out, signal: i32, in_tool: bool, usage: &Usage) -> Manner {
        let kill_tools = self.newer() || signal != libc::SIGTERM;
        let code = match signal {
            libc::SIGINT => {
                let terminal = if in_tool {
                    "aborted_tools"
                } else {
                    "aborted_streaming"
                };
                let verdict = Verdict {
                    subtype: "error_during_execution",
                    is_error: true,
                    terminal,
                    stop: None,
                    status: None,
                    text: Err("[ede_diagnostic] interrupted".into()),
                    more_turns: 0,
                };
                self.result(out, verdict, usage);
                u8::from(!self.newer() && in_tool)
            }
            libc::SIGHUP => 129,
            _ => 143,
        };
        Manner::Exit {
            code,
            after: Duration::from_millis(30),
            kill_tools,
        }
    }
}
