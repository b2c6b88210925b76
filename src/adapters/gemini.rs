//! Gemini CLI: `gemini -o stream-json`.
//!
//! In its stream texts come in pieces, and usage once, in the result's `stats`. Retries are not
//! reported. On a signal it exits with status 0 and no result; other exit codes are HTTP statuses
//! modulo 256.
//! Does not know: git, time.

use serde_json_borrow::Value;

use super::error_text;
use super::lenient_json::Fields;
use super::tally::TURNS;
use super::{About, Adapter, Ask, Dialect, Launch, LaunchBuilder, PROMPT_PREFIX, Place, Tally};
use crate::event::{Body, Class, Figures, Tokens};

struct Gemini;

pub(super) const ADAPTER: &dyn Adapter = &Gemini;

static ABOUT: About = About {
    name: "gemini",
    program: "gemini",
    package: "@google/gemini-cli",
    login: "log in with `gemini` and /auth, or set GEMINI_API_KEY",
    env_prefix: "GEMINI_CLI",
    tells_cost: false,
    bound_to_directory: true,
    state: &[Place::dir("GEMINI_CLI_HOME", "", ".gemini")],
    variables: &["GEMINI_*", "GOOGLE_*"],
};

/// Without a person to approve, other modes do not offer its shell tool at all.
const APPROVAL_MODE: &str = "yolo";

impl Adapter for Gemini {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = LaunchBuilder::new(ask);
        b.args(["-o", "stream-json"]);
        let mode = ask.permission_mode.as_deref().unwrap_or(APPROVAL_MODE);
        b.option("--approval-mode", Some(mode));
        // It does not trust a new folder, such as a worktree, without asking.
        b.arg("--skip-trust");
        match &ask.resume {
            Some(id) => b.option("--resume", Some(id)),
            None => b.option("--session-id", Some(&ask.session_uuid)),
        }
        b.option("-m", ask.model.as_ref());
        b.extra(ask);
        // One process that receives signals, instead of a launcher that does not forward them.
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

    fn dialect(&self, _previous: Option<&Figures>) -> Box<dyn Dialect> {
        Box::new(GeminiDialect)
    }
}

/// The tools that an approval mode can keep from the model, which then hears that they do not exist:
/// those of the CLI's own `policies/write.toml` (0.61.0). All others only read, and are always there.
const WITHHELD: &[&str] = &[
    "run_shell_command",
    "write_file",
    "replace",
    "web_fetch",
    "activate_skill",
];
/// Nobody is there to be asked, in any mode: no permission would change that.
const ASK_TOOL: &str = "ask_user";

struct GeminiDialect;

impl Dialect for GeminiDialect {
    fn read(&mut self, line: &Value<'_>, tally: &mut Tally) {
        match line.text("type") {
            "init" => tally.started(line.name("session_id"), line.name("model")),
            "message" if line.text("role") == "assistant" => {
                tally.answer();
                tally.text(line.text("content"), line.flag("delta"));
            }
            // The echoed prompt.
            "message" => tally.other(&format!("message/{}", line.text("role")), ""),
            "tool_use" => {
                tally.answer();
                let tool = line.name("tool_name").unwrap_or_default();
                tally.tool_call(line.name("tool_id"), tool, line.field("parameters").into());
            }
            "tool_result" => tool_result(line, tally),
            "error" if line.text("severity") == "warning" => {
                tally.other("error/warning", line.text("message"));
            }
            "error" => {
                let text = line.text("message");
                tally.error(error_text::class(text).unwrap_or(Class::Unknown), text);
            }
            "result" => result(line, tally),
            kind => tally.other(kind, ""),
        }
    }

    fn exit_class(&self, code: i32) -> Option<Class> {
        match code {
            41 => Some(Class::Auth),
            42 => Some(Class::SessionLost),
            53 => Some(TURNS),
            55 => Some(Class::Spawn),
            // HTTP statuses modulo 256: 401 and 403, 402, 413, 429, 500 to 504, 529.
            145 | 147 => Some(Class::Auth),
            146 => Some(Class::Billing),
            157 => Some(Class::Context),
            173 => Some(Class::RateLimit),
            244..=248 | 17 => Some(Class::Overloaded),
            _ => None,
        }
    }
}

fn tool_result(line: &Value<'_>, tally: &mut Tally) {
    tally.end_turn();
    let (id, error) = (line.name("tool_id"), line.field("error"));
    let text = match line.text("output") {
        "" => error.message("message"),
        text => text,
    };
    tally.tool_result(id.clone(), line.text("status") == "error", [text]);
    let tool = id.as_deref().and_then(|id| id.split("__").next());
    let tool = tool.unwrap_or_default().to_owned();
    let denied = match error.text("type") {
        // Its own word for it.
        "policy_violation" => tool != ASK_TOOL,
        // Any other name was made up by the model, which is told so and goes on.
        "tool_not_registered" => WITHHELD.contains(&&*tool),
        _ => false,
    };
    if denied {
        tally.put(Body::PermissionDenied { id, tool });
    }
}

fn result(line: &Value<'_>, tally: &mut Tally) {
    if let Some(stats) = line.object("stats") {
        let cache_read = stats.count("cached");
        tally.usage.set(Tokens {
            input: stats.count("input_tokens").saturating_sub(cache_read),
            output: stats.count("output_tokens"),
            cache_read,
            cache_write: 0,
        });
    }
    let message = line.field("error").message("message");
    let good = line.text("status") == "success";
    let class = match line.field("error").text("type") {
        "FatalTurnLimitedError" => Some(TURNS),
        _ => error_text::class(message).or_else(|| tally.fault.as_ref().map(|f| f.class)),
    };
    tally.finished(good, class.filter(|_| !good), message);
}
