//! gemini's stream, `-o stream-json`, as observed of 0.61.0 with GEMINI_CLI_NO_RELAUNCH: exit codes
//! are HTTP statuses modulo 256; retries say nothing; a signal ends it with 0 and no last event.

use std::ffi::OsString;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{Args, Refused, Takes, read_stdin, refuse};
use super::line::{now, object};
use super::sessions::{self, Used};
use super::stage::Out;
use super::voice::{Allowed, Call, Done, End, Fault, Manner, Usage, Voice};

pub struct Gemini {
    prompt: String,
    session: String,
    resumed: bool,
    before: Used,
    yolo: bool,
    model: String,
}

const KNOWN: &[(&[&str], Takes)] = &[
    (&["-o", "--output-format"], Takes::One),
    (&["--approval-mode"], Takes::One),
    (&["-y", "--yolo"], Takes::Nothing),
    (&["--skip-trust"], Takes::Nothing),
    (&["-m", "--model"], Takes::One),
    (&["--session-id"], Takes::One),
    (&["-r", "--resume"], Takes::Maybe),
    (&["-p", "--prompt"], Takes::One),
    (&["--include-directories"], Takes::One),
    (&["-v", "--version"], Takes::Nothing),
];

impl Gemini {
    pub fn open(raw: &[OsString]) -> Result<Gemini, Refused> {
        let args = match Args::parse(raw, KNOWN) {
            Ok(args) => args,
            Err(flag) => {
                let name = flag.trim_start_matches('-');
                return refuse(
                    1,
                    format!("Unknown argument: {name}\nUsage: gemini [options] [command]"),
                );
            }
        };
        if args.has("-v") {
            return Err(Refused {
                code: 0,
                stdout: "0.61.0".into(),
                stderr: String::new(),
            });
        }
        if std::env::var_os("GEMINI_API_KEY").is_none() {
            return refuse(
                41,
                "When using Gemini API, you must specify the GEMINI_API_KEY environment variable.",
            );
        }
        let trusted = std::env::var("GEMINI_CLI_TRUST_WORKSPACE").is_ok_and(|v| v == "true");
        if !args.has("--skip-trust") && !trusted {
            return refuse(
                55,
                "Gemini CLI is not running in a trusted directory. To proceed, either use \
                 `--skip-trust`, set the `GEMINI_CLI_TRUST_WORKSPACE=true` environment variable, \
                 or trust this directory in interactive mode.",
            );
        }
        let stdin = String::from_utf8_lossy(&read_stdin()).into_owned();
        let argument = args.get("-p").unwrap_or("");
        if stdin.trim().is_empty() && argument.is_empty() && args.rest.is_empty() {
            return refuse(
                42,
                "No input provided via stdin. Input can be provided by piping data into gemini or \
                 using the --prompt option.",
            );
        }
        let (session, resumed) = match (args.get("-r"), args.get("--session-id")) {
            (Some(id), _) if sessions::known("gemini", id).is_some() => (id.to_owned(), true),
            (Some(id), _) => {
                let why = format!("Error resuming session: Invalid session identifier \"{id}\".");
                return refuse(42, why);
            }
            (None, Some(id)) => (id.to_owned(), false),
            (None, None) => (uuid::Uuid::now_v7().to_string(), false),
        };
        if !resumed && !sessions::create("gemini", &session) {
            return refuse(
                42,
                format!(
                    "Error starting session: Session ID \"{session}\" already exists. Use --resume \
                     to resume it, or provide a different ID."
                ),
            );
        }
        eprintln!("YOLO mode is enabled. All tool calls will be automatically approved.");
        Ok(Gemini {
            prompt: format!("{stdin}{argument}{}", args.rest.join(" ")),
            before: sessions::known("gemini", &session).unwrap_or_default(),
            session,
            resumed,
            yolo: args.has("-y") || args.get("--approval-mode") == Some("yolo"),
            model: args.get("-m").unwrap_or("auto").to_owned(),
        })
    }

    fn emit(&self, out: &mut Out, kind: &str, fields: &[(&str, Value)]) {
        let mut all = vec![("type", json!(kind)), ("timestamp", json!(now()))];
        all.extend_from_slice(fields);
        out.line(&object(&all));
    }
}

impl Voice for Gemini {
    fn prompt(&self) -> &str {
        &self.prompt
    }

    fn session(&self) -> &str {
        &self.session
    }

    fn resumed(&self) -> bool {
        self.resumed
    }

    fn begin(&mut self, out: &mut Out) {
        let init = [
            ("session_id", json!(self.session)),
            ("model", json!(self.model)),
        ];
        self.emit(out, "init", &init);
        let user = [("role", json!("user")), ("content", json!(self.prompt))];
        self.emit(out, "message", &user);
    }

    fn text(&mut self, out: &mut Out, text: &str) {
        // In pieces, as it comes from the model.
        let half = text.len() / 2;
        let half = (half..text.len())
            .find(|&n| text.is_char_boundary(n))
            .unwrap_or(0);
        for piece in [&text[..half], &text[half..]] {
            let said = [
                ("role", json!("assistant")),
                ("content", json!(piece)),
                ("delta", json!(true)),
            ];
            self.emit(out, "message", &said);
        }
    }

    fn allows(&self, call: &Call) -> Allowed {
        match self.yolo || call.kind != "bash" {
            true => Allowed::Yes,
            // The shell is not even offered to the model.
            false => Allowed::Silently,
        }
    }

    fn called(&mut self, out: &mut Out, call: &Call) {
        let (name, parameters) = match call.kind {
            "write" => (
                "write_file",
                json!({"file_path": call.what, "content": "…"}),
            ),
            "edit" => ("replace", json!({"file_path": call.what})),
            _ => (
                "run_shell_command",
                json!({"command": call.what, "is_background": false}),
            ),
        };
        let fields = [
            ("tool_name", json!(name)),
            ("tool_id", json!(call.id)),
            ("parameters", parameters),
        ];
        self.emit(out, "tool_use", &fields);
    }

    fn returned(&mut self, out: &mut Out, call: &Call, done: &Done) {
        // A command that failed is a success there.
        let fields = [
            ("tool_id", json!(call.id)),
            ("status", json!("success")),
            ("output", json!(done.output)),
        ];
        self.emit(out, "tool_result", &fields);
    }

    fn denied(&mut self, out: &mut Out, call: &Call) {
        let why =
            json!({"type": "policy_violation", "message": "Tool execution denied by policy."});
        let fields = [
            ("tool_id", json!(call.id)),
            ("status", json!("error")),
            ("error", why),
        ];
        self.emit(out, "tool_result", &fields);
    }

    fn retrying(&mut self, _out: &mut Out, fault: Fault, n: u64, _of: u64) {
        let status = fault.status();
        eprintln!("Attempt {n} failed with status {status}. Retrying with backoff...");
    }

    fn end(&mut self, out: &mut Out, end: &End, usage: &Usage) -> u8 {
        let old = &self.before;
        let used = Used {
            runs: old.runs + 1,
            turns: old.turns + usage.turns,
            input: old.input + usage.input,
            output: old.output + usage.output,
            cost: 0.0,
        };
        sessions::save("gemini", &self.session, &used);
        let figures = json!({"total_tokens": usage.input + usage.output,
            "input_tokens": usage.input, "output_tokens": usage.output, "cached": 0,
            "input": usage.input});
        let mut stats = figures.clone();
        stats["duration_ms"] = json!(usage.turns * 100);
        stats["tool_calls"] = json!(usage.calls);
        stats["models"] = json!({self.model.as_str(): figures});
        let failed = match end {
            End::Good | End::MaxTokens => None,
            End::MaxTurns(_) | End::Budget(_) => Some((
                53,
                "Reached max session turns for this session. Increase the number of turns by \
                 specifying maxSessionTurns in settings.json."
                    .to_owned(),
            )),
            // A bad key is a bad request there.
            End::Api(Fault::Auth) => Some((
                (400 % 256) as u8,
                "[API Error: {\"error\":{\"code\":400,\"message\":\"API key not valid. Please pass \
                 a valid API key.\",\"status\":\"INVALID_ARGUMENT\"}}]"
                    .to_owned(),
            )),
            End::Api(fault) => Some((
                (fault.status() % 256) as u8,
                format!("[API Error: {{\"error\":{{\"code\":{}}}}}]", fault.status()),
            )),
            End::Limit(_) => Some((
                (429 % 256) as u8,
                "[API Error: You exceeded your current quota, please check your plan and billing \
                 details.]"
                    .to_owned(),
            )),
        };
        match failed {
            None => {
                let fields = [("status", json!("success")), ("stats", stats)];
                self.emit(out, "result", &fields);
                0
            }
            Some((code, why)) => {
                let fields = [
                    ("status", json!("error")),
                    ("error", json!({"type": "unknown", "message": why})),
                    ("stats", stats),
                ];
                self.emit(out, "result", &fields);
                code
            }
        }
    }

    fn at_signal(&mut self, _out: &mut Out, _signal: i32, _in_tool: bool, _u: &Usage) -> Manner {
        Manner::Exit {
            code: 0,
            after: Duration::from_millis(300),
            kill_tools: false,
        }
    }

    fn half(&self) -> &'static str {
        "{\"type\":\"message\",\"timestamp\":\"2026"
    }
}
