//! Qwen Code: `qwen -o stream-json`, a dialect of Claude Code's stream.
//!
//! Differences: no result line at its turn limit (exit status 53), failed requests appear as an
//! assistant's text, no cost, totals that accumulate over resumes.
//! Does not know: git, time.

use super::claude::{ClaudeDialect, Variant};
use super::{About, Adapter, Ask, Dialect, Launch, LaunchBuilder, PROMPT_PREFIX, Place};
use crate::event::Figures;

struct Qwen;

pub(super) const ADAPTER: &dyn Adapter = &Qwen;

static ABOUT: About = About {
    name: "qwen",
    program: "qwen",
    package: "@qwen-code/qwen-code",
    login: "log in with `qwen` and /auth, or set OPENAI_API_KEY and OPENAI_BASE_URL",
    env_prefix: "QWEN_CODE",
    tells_cost: false,
    bound_to_directory: true,
    state: &[Place::dir("QWEN_HOME", ".qwen", "")],
    variables: &["QWEN_*", "DASHSCOPE_*", "OPENAI_*"],
};

/// Without a person to approve, other modes do not offer its shell tool at all.
const APPROVAL_MODE: &str = "yolo";

impl Adapter for Qwen {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn launch(&self, ask: &Ask) -> Launch {
        let mut b = LaunchBuilder::new(ask);
        b.args(["-o", "stream-json"]);
        let mode = ask.permission_mode.as_deref().unwrap_or(APPROVAL_MODE);
        b.option("--approval-mode", Some(mode));
        match &ask.resume {
            Some(id) => b.option("--resume", Some(id)),
            None => b.option("--session-id", Some(&ask.session_uuid)),
        }
        b.option("-m", ask.model.as_ref());
        b.option("--max-session-turns", ask.max_turns.map(|n| n.to_string()));
        if !ask.tools.is_empty() {
            b.option("--allowed-tools", Some(ask.tools.join(",")));
        }
        // A repository's MCP servers would start unasked: none, unless their tools are allowed.
        if !ask.tools.iter().any(|t| t.starts_with("mcp__")) {
            b.option("--allowed-mcp-server-names", Some("none"));
        }
        b.extra(ask);
        b.env("QWEN_CODE_SUPPRESS_YOLO_WARNING", "1");
        if let Some(file) = &ask.settings {
            b.env("QWEN_CODE_SYSTEM_SETTINGS_PATH", file);
        }
        if let Some(dir) = &ask.config_dir {
            b.env("QWEN_HOME", dir);
        }
        b.unsupported("budget_usd", ask.budget_usd.is_some());
        b.0.prompt_prefix = Some(PROMPT_PREFIX);
        b.0.bootstrap_in_prompt = ask.bootstrap_file.is_some();
        b.0
    }

    fn dialect(&self, previous: Option<&Figures>) -> Box<dyn Dialect> {
        let base = previous.and_then(|f| f.conversation);
        Box::new(ClaudeDialect::new(Variant::Qwen, base))
    }
}
