//! codex's stream, `codex exec --json`, as observed of 0.169.0: no session id is taken, the first
//! line gives one; failures differ by their text only; a command that the sandbox refuses leaves no
//! event at all.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;

use super::args::{Args, Refused, Takes, read_stdin, refuse};
use super::line::object;
use super::sessions::{self, Used};
use super::stage::Out;
use super::voice::{Allowed, Call, Done, End, Fault, Manner, Usage, Voice};
use super::world;

pub struct Codex {
    prompt: String,
    thread: String,
    resumed: bool,
    before: Used,
    sandbox: String,
    last_message: Option<PathBuf>,
    items: u64,
    /// The item of the call that runs.
    running: u64,
}

const KNOWN: &[(&[&str], Takes)] = &[
    (&["--json"], Takes::Nothing),
    (&["-C", "--cd"], Takes::One),
    (&["-s", "--sandbox"], Takes::One),
    (&["-m", "--model"], Takes::One),
    (&["-c", "--config"], Takes::One),
    (&["-o", "--output-last-message"], Takes::One),
    (&["--add-dir"], Takes::One),
    (&["--skip-git-repo-check"], Takes::Nothing),
    (
        &["--dangerously-bypass-approvals-and-sandbox"],
        Takes::Nothing,
    ),
];

impl Codex {
    pub fn open(raw: &[OsString]) -> Result<Codex, Refused> {
        if raw.first().is_some_and(|a| a == "--version") {
            return Err(Refused {
                code: 0,
                stdout: "codex-cli 0.169.0".into(),
                stderr: String::new(),
            });
        }
        if raw.first().is_none_or(|a| a != "exec") {
            return refuse(2, "mock-agent: only `codex exec` is for tests");
        }
        let resume = raw.get(1).is_some_and(|a| a == "resume");
        let usage = match resume {
            true => "Usage: codex exec resume [OPTIONS] [SESSION_ID] [PROMPT]",
            false => "Usage: codex exec [OPTIONS] [PROMPT]",
        };
        let unexpected = |flag: &str| {
            let text = format!(
                "error: unexpected argument '{flag}' found\n\n  tip: to pass '{flag}' as a value, \
                 use '-- {flag}'\n\n{usage}\n\nFor more information, try '--help'."
            );
            refuse(2, text)
        };
        let args = match Args::parse(&raw[1 + usize::from(resume)..], KNOWN) {
            Ok(args) => args,
            Err(flag) => return unexpected(&flag),
        };
        if resume && let Some(flag) = ["-C", "-s"].into_iter().find(|f| args.has(f)) {
            return unexpected(flag);
        }
        if let Some(dir) = args.get("-C")
            && let Err(e) = std::env::set_current_dir(dir)
        {
            return refuse(1, format!("Error: {dir}: {e}"));
        }
        if !args.has("--skip-git-repo-check") && !world::in_repository() {
            return refuse(
                1,
                "Not inside a trusted directory and --skip-git-repo-check was not specified.",
            );
        }
        let mut words = args.rest.iter();
        let wanted = if resume { words.next().cloned() } else { None };
        let argument = words
            .next()
            .filter(|w| *w != "-")
            .cloned()
            .unwrap_or_default();
        // It reads standard input even where a prompt was given, for as long as that stays open.
        let stdin = String::from_utf8_lossy(&read_stdin()).into_owned();
        if argument.is_empty() && stdin.trim().is_empty() {
            return refuse(1, "No prompt provided via stdin.");
        }
        let prompt = format!("{argument}{stdin}");
        let (thread, before) = match wanted {
            None => {
                let id = uuid::Uuid::now_v7().to_string();
                sessions::create("codex", &id);
                (id, Used::default())
            }
            Some(id) => match sessions::known("codex", &id) {
                Some(before) => (id, before),
                None => {
                    let why = format!(
                        "Error: thread/resume: thread/resume failed: no rollout found for thread \
                         id {id} (code -32600)"
                    );
                    return refuse(1, why);
                }
            },
        };
        let bypass = args.has("--dangerously-bypass-approvals-and-sandbox");
        let sandbox = match bypass {
            true => "danger-full-access",
            false => args.get("-s").unwrap_or("read-only"),
        };
        Ok(Codex {
            prompt,
            thread,
            resumed: resume,
            before,
            sandbox: sandbox.to_owned(),
            last_message: args.get("-o").map(PathBuf::from),
            items: 0,
            running: 0,
        })
    }

    fn item(&mut self) -> String {
        self.items += 1;
        format!("item_{}", self.items - 1)
    }

    fn command(&self, out: &mut Out, event: &str, call: &Call, end: Option<&Done>) {
        let status = match end {
            None => "in_progress",
            Some(done) if done.exit == 0 => "completed",
            Some(_) => "failed",
        };
        // It has no tool for files but its shell.
        let line = match call.kind {
            "bash" => call.what.clone(),
            _ => format!("cat > {}", call.what),
        };
        let item = json!({"id": format!("item_{}", self.running), "type": "command_execution",
            "command": format!("/bin/bash -lc \"{line}\""),
            "aggregated_output": end.map_or("", |d| d.output.as_str()),
            "exit_code": end.map(|d| d.exit), "status": status});
        out.line(&object(&[("type", json!(event)), ("item", item)]));
    }

    fn error(out: &mut Out, message: &str) {
        out.line(&object(&[
            ("type", json!("error")),
            ("message", json!(message)),
        ]));
    }
}

fn cause(fault: Fault) -> &'static str {
    match fault {
        Fault::Server => "unexpected status 500 Internal Server Error: Internal server error",
        Fault::Overloaded => "exceeded retry limit, last status: 529 <unknown status code>",
        Fault::Auth => "unexpected status 401 Unauthorized: Incorrect API key provided",
    }
}

impl Voice for Codex {
    fn prompt(&self) -> &str {
        &self.prompt
    }

    fn session(&self) -> &str {
        &self.thread
    }

    fn resumed(&self) -> bool {
        self.resumed
    }

    fn begin(&mut self, out: &mut Out) {
        // A second query of the same run is a second turn of the same thread.
        if self.items == 0 {
            out.line(&object(&[
                ("type", json!("thread.started")),
                ("thread_id", json!(self.thread)),
            ]));
        }
        out.line(&object(&[("type", json!("turn.started"))]));
    }

    fn text(&mut self, out: &mut Out, text: &str) {
        let item = json!({"id": self.item(), "type": "agent_message", "text": text});
        out.line(&object(&[
            ("type", json!("item.completed")),
            ("item", item),
        ]));
    }

    fn allows(&self, call: &Call) -> Allowed {
        match (self.sandbox.as_str(), call.kind) {
            ("danger-full-access", _) => Allowed::Yes,
            // Files may be written there, but not .git.
            ("workspace-write", "write" | "edit") => Allowed::Yes,
            ("workspace-write", _) if !call.what.contains("git ") => Allowed::Yes,
            _ => Allowed::Silently,
        }
    }

    fn called(&mut self, out: &mut Out, call: &Call) {
        self.running = self.items;
        self.items += 1;
        self.command(out, "item.started", call, None);
    }

    fn returned(&mut self, out: &mut Out, call: &Call, done: &Done) {
        self.command(out, "item.completed", call, Some(done));
    }

    fn denied(&mut self, _out: &mut Out, _call: &Call) {
        // It says nothing of it.
    }

    fn retrying(&mut self, out: &mut Out, fault: Fault, n: u64, of: u64) {
        Codex::error(out, &format!("Reconnecting... {n}/{of} ({})", cause(fault)));
    }

    fn end(&mut self, out: &mut Out, end: &End, usage: &Usage) -> u8 {
        let why = match end {
            // A cut answer is a good end there; it has no limits of turns or money of its own.
            End::Good | End::MaxTokens => None,
            End::MaxTurns(_) | End::Budget(_) => {
                Some("mock-agent: codex has no such limit".to_owned())
            }
            End::Api(fault) => Some(cause(*fault).to_owned()),
            End::Limit(reset) => {
                let at = jiff::Timestamp::from_second(*reset).unwrap_or_default();
                let at = at
                    .to_zoned(jiff::tz::TimeZone::system())
                    .strftime("%-I:%M %p");
                Some(format!(
                    "You’ve hit your usage limit. Visit https://chatgpt.com/settings/usage to \
                     purchase more credits or try again at {at}."
                ))
            }
        };
        let old = &self.before;
        let used = Used {
            runs: old.runs + 1,
            turns: old.turns + usage.turns,
            input: old.input + usage.input,
            output: old.output + usage.output,
            cost: 0.0,
        };
        sessions::save("codex", &self.thread, &used);
        if let Some(why) = why {
            Codex::error(out, &why);
            out.line(&object(&[
                ("type", json!("turn.failed")),
                ("error", json!({"message": why})),
            ]));
            return 1;
        }
        // Cumulative over the thread, resumed runs included.
        let figures = json!({"input_tokens": used.input, "cached_input_tokens": 0,
            "cache_write_input_tokens": 0, "output_tokens": used.output,
            "reasoning_output_tokens": 0});
        out.line(&object(&[
            ("type", json!("turn.completed")),
            ("usage", figures),
        ]));
        if let Some(path) = &self.last_message {
            let _unwritable = std::fs::write(path, &out.last_text);
        }
        0
    }

    fn at_signal(&mut self, _out: &mut Out, signal: i32, _in_tool: bool, _u: &Usage) -> Manner {
        match signal {
            libc::SIGINT => Manner::Exit {
                code: 1,
                after: std::time::Duration::ZERO,
                kill_tools: true,
            },
            _ => Manner::Die { kill_tools: true },
        }
    }

    fn half(&self) -> &'static str {
        "{\"type\":\"item.completed\",\"item\":{\"id\":\"it"
    }
}
