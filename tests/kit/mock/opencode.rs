//! opencode's stream, `opencode run --format json`, as observed of 1.18.33: no first and no last
//! event, figures in each `step_finish`, tools told of only when they have ended, retries never.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::args::{Args, Refused, Takes, read_stdin, refuse};
use super::line::{fresh, now_ms, object};
use super::sessions::{self, Used};
use super::stage::{COST, IN, OUT, Out};
use super::voice::{Allowed, Call, Done, End, Fault, Manner, Usage, Voice};

pub struct OpenCode {
    prompt: String,
    session: String,
    resumed: bool,
    before: Used,
    message: String,
}

const KNOWN: &[(&[&str], Takes)] = &[
    (&["--format"], Takes::One),
    (&["--auto"], Takes::Nothing),
    (&["-m", "--model"], Takes::One),
    (&["-s", "--session"], Takes::One),
    (&["-c", "--continue"], Takes::Nothing),
    (&["--agent"], Takes::One),
    (&["--title"], Takes::One),
    (&["-v", "--version"], Takes::Nothing),
];

impl OpenCode {
    pub fn open(raw: &[OsString]) -> Result<OpenCode, Refused> {
        let run = raw.first().is_some_and(|a| a == "run");
        let args = Args::parse(&raw[usize::from(run)..], KNOWN);
        match &args {
            Ok(args) if args.has("-v") => {
                return Err(Refused {
                    code: 0,
                    stdout: "1.18.33".into(),
                    stderr: String::new(),
                });
            }
            Ok(_) if run => {}
            // Its whole help, for any unknown flag.
            _ => return refuse(1, "opencode run [message..]\n\nrun opencode with a message"),
        }
        let args = args.unwrap_or_default();
        let stdin = String::from_utf8_lossy(&read_stdin()).into_owned();
        let prompt = format!("{}{stdin}", args.rest.join(" "));
        if prompt.trim().is_empty() {
            return refuse(
                1,
                "\u{1b}[91m\u{1b}[1mError: \u{1b}[0mYou must provide a message or a command",
            );
        }
        let (session, resumed) = match args.get("-s") {
            Some(id) if sessions::known("opencode", id).is_some() => (id.to_owned(), true),
            Some(_) => {
                return refuse(1, "\u{1b}[91m\u{1b}[1mError: \u{1b}[0mSession not found");
            }
            None => {
                let id = fresh("ses_");
                sessions::create("opencode", &id);
                (id, false)
            }
        };
        Ok(OpenCode {
            prompt,
            before: sessions::known("opencode", &session).unwrap_or_default(),
            session,
            resumed,
            message: String::new(),
        })
    }

    fn emit(&self, out: &mut Out, kind: &str, key: &str, value: Value) {
        out.line(&object(&[
            ("type", json!(kind)),
            ("timestamp", json!(now_ms())),
            ("sessionID", json!(self.session)),
            (key, value),
        ]));
    }

    fn part(&self, out: &mut Out, kind: &str, mut part: Value) {
        part["id"] = json!(fresh("prt_"));
        part["messageID"] = json!(self.message);
        part["sessionID"] = json!(self.session);
        self.emit(out, kind, "part", part);
    }

    fn finish(&self, out: &mut Out, reason: &str) {
        let part = json!({"reason": reason, "type": "step-finish", "cost": COST,
            "tokens": {"total": IN + OUT, "input": IN, "output": OUT, "reasoning": 0,
                "cache": {"write": 0, "read": 0}}});
        self.part(out, "step_finish", part);
    }

    fn tool(&self, out: &mut Out, call: &Call, state: Value) {
        let name = if call.kind == "bash" {
            "bash"
        } else {
            call.kind
        };
        let part = json!({"type": "tool", "tool": name, "callID": call.id, "state": state});
        self.part(out, "tool_use", part);
    }
}

impl Voice for OpenCode {
    fn prompt(&self) -> &str {
        &self.prompt
    }

    fn session(&self) -> &str {
        &self.session
    }

    fn resumed(&self) -> bool {
        self.resumed
    }

    fn begin(&mut self, _out: &mut Out) {}

    fn turn(&mut self, out: &mut Out) {
        self.message = fresh("msg_");
        self.part(out, "step_start", json!({"type": "step-start"}));
    }

    fn text(&mut self, out: &mut Out, text: &str) {
        let time = json!({"start": now_ms(), "end": now_ms()});
        let part = json!({"type": "text", "text": text, "time": time});
        self.part(out, "text", part);
    }

    fn allows(&self, _call: &Call) -> Allowed {
        Allowed::Yes
    }

    fn called(&mut self, _out: &mut Out, _call: &Call) {}

    fn returned(&mut self, out: &mut Out, call: &Call, done: &Done) {
        let input = match call.kind {
            "bash" => json!({"command": call.what, "description": "Run a command"}),
            _ => json!({"filePath": call.what}),
        };
        let metadata = json!({"output": done.output, "exit": done.exit, "truncated": false});
        let state = json!({"status": "completed", "input": input, "output": done.output,
            "metadata": metadata, "title": call.what});
        self.tool(out, call, state);
    }

    fn denied(&mut self, out: &mut Out, call: &Call) {
        let why = "The user has specified a rule which prevents you from using this tool call.";
        let state = json!({"status": "error", "input": {"command": call.what}, "error": why});
        self.tool(out, call, state);
    }

    fn turned(&mut self, out: &mut Out, last: bool) {
        // The last one's reason is known to `end`.
        if !last {
            self.finish(out, "tool-calls");
        }
    }

    fn retrying(&mut self, _out: &mut Out, _fault: Fault, _n: u64, _of: u64) {}

    fn end(&mut self, out: &mut Out, end: &End, usage: &Usage) -> u8 {
        let old = &self.before;
        let used = Used {
            runs: old.runs + 1,
            turns: old.turns + usage.turns,
            input: old.input + usage.input,
            output: old.output + usage.output,
            cost: old.cost + usage.cost,
        };
        sessions::save("opencode", &self.session, &used);
        let (status, message) = match end {
            End::Good => {
                self.finish(out, "stop");
                return 0;
            }
            End::MaxTokens => {
                self.finish(out, "length");
                return 0;
            }
            End::MaxTurns(_) | End::Budget(_) => (400, "mock-agent: opencode has no such limit"),
            End::Api(Fault::Auth) => (401, "Incorrect API key provided: mock."),
            End::Api(Fault::Server) => (500, "Internal server error"),
            End::Api(Fault::Overloaded) => (529, "Overloaded"),
            End::Limit(_) => (429, "The usage limit has been reached"),
        };
        let data = json!({"message": message, "statusCode": status,
            "isRetryable": status >= 429, "responseHeaders": {}, "responseBody": ""});
        self.emit(
            out,
            "error",
            "error",
            json!({"name": "APIError", "data": data}),
        );
        1
    }

    fn at_signal(&mut self, _out: &mut Out, _signal: i32, _in_tool: bool, _u: &Usage) -> Manner {
        Manner::Die { kill_tools: false }
    }

    fn half(&self) -> &'static str {
        "{\"type\":\"text\",\"timestamp\":17"
    }
}
