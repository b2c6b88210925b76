//! One adapter for each agent CLI: arguments and environment out, lines of its stdout in.
//!
//! Pure: nothing is started, read, written or timed here. Every launch is non-interactive: no
//! terminal is needed, no question is asked, the prompt comes by stdin and stdin ends.
//!
//! Keeps: any bytes as input, in any order and any number of times, give events and figures and
//! never a panic; no line is lost without a trace (`other`).

pub mod claude;
pub mod codex;
pub mod custom;
pub mod gemini;
pub mod opencode;
pub mod qwen;
pub mod told;
mod loose;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::event::{Body, Class, Fault, Figures};
use crate::outcome::Exit;

/// What an attempt wants of its agent.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// What the agent is told beside the prompt (the filled-in bootstrap template).
    pub bootstrap_file: Option<PathBuf>,
    /// A UUID that no attempt used before: CLIs that let us name a conversation get this name.
    pub session_uuid: String,
    /// The conversation to go on with, by the CLI's own id.
    pub resume: Option<String>,
    pub worktree: PathBuf,
    pub model: Option<String>,
    pub max_turns: Option<u64>,
    pub budget_usd: Option<f64>,
    /// Tools that it may use without being asked.
    pub tools: Vec<String>,
    pub permission_mode: Option<String>,
    /// A settings file in the CLI's own format.
    pub settings: Option<PathBuf>,
    /// Where the CLI keeps login, settings and conversations, instead of the usual place.
    pub config_dir: Option<PathBuf>,
    /// Put last, so that they can override what is put before them.
    pub extra_args: Vec<OsString>,
    /// Names in the environment that the agent would inherit: those of a session that harness
    /// itself may have been started from are removed.
    pub inherited: Vec<OsString>,
}

/// How to start it: everything but the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    pub args: Vec<OsString>,
    /// Set on top of what is inherited; `None`: removed.
    pub env: BTreeMap<OsString, Option<OsString>>,
    pub stdin: Stdin,
    /// Put before the prompt, so that one that begins like a command of the CLI (`/cost`) is read as text.
    pub prompt_prefix: Option<&'static str>,
    /// The CLI has no flag for the bootstrap text: the caller puts it before the prompt.
    pub bootstrap_in_prompt: bool,
    /// What was asked for that this CLI has no means for, by its key: `budget_usd`.
    pub unsupported: Vec<&'static str>,
}

/// What it reads. Never left open, never inherited: several CLIs wait for its end for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdin {
    #[default]
    Prompt,
    Null,
}

/// What messages say of a CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its name in `harness.toml`.
    pub name: &'static str,
    pub program: &'static str,
    pub package: &'static str,
    /// How a refused login is mended.
    pub login: &'static str,
    /// Whether its events say what it costs.
    pub tells_cost: bool,
    /// Whether it finds a conversation again only in the directory where it was led.
    pub bound_to_directory: bool,
}

impl About {
    /// For a program that is not found.
    pub fn not_installed(&self) -> String {
        format!(
            "{} is not installed: npm install -g {}",
            self.program, self.package
        )
    }

    pub fn advice(&self, fault: &Fault) -> String {
        fault.advice(self.program, self.login)
    }
}

/// One CLI.
pub trait Adapter: Sync {
    fn about(&self) -> &'static About;
    fn launch(&self, ask: &Ask) -> Launch;
    /// A reader of one attempt's stdout. `previous`: the figures of the attempt whose conversation
    /// this one resumes, for CLIs that count on.
    fn parser(&self, previous: Option<&Figures>) -> Box<dyn Parser>;
}

/// Reads one attempt's stdout, line by line from its beginning.
pub trait Parser: Send {
    /// A line without its newline; what happened is appended to `out`.
    fn line(&mut self, line: &[u8], out: &mut Vec<Body>);
    /// The beginning of a line that is too long to be read whole.
    fn too_long(&mut self, prefix: &[u8], out: &mut Vec<Body>);
    fn figures(&self) -> &Figures;
    /// How it ended, after the last line. `stderr_tail`: the end of stderr, a few KiB.
    fn verdict(&self, exit: Exit, stderr_tail: &[u8]) -> Verdict;
}

/// What the CLI's own evidence amounts to. Git's evidence is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// A good result and exit status 0.
    pub finished_well: bool,
    /// What its last result line said; `None` without one. A good one followed by a bad exit is
    /// good enough for a caller that itself ended it while it lingered.
    pub said: Option<bool>,
    pub fault: Option<Fault>,
    /// For people: what it said at last, or what went wrong.
    pub message: String,
}

impl Verdict {
    fn good(message: String) -> Verdict {
        Verdict {
            finished_well: true,
            said: Some(true),
            fault: None,
            message,
        }
    }

    fn bad(said: Option<bool>, fault: Fault) -> Verdict {
        Verdict {
            finished_well: false,
            said,
            message: fault.message.clone(),
            fault: Some(fault),
        }
    }

    /// With git's evidence: a good end without a commit (`commits` is nought; `None` where there is
    /// no repository) in which tools were denied is a permission fault.
    #[must_use]
    pub fn weigh(self, denials: u64, commits: Option<u64>) -> Verdict {
        if !self.finished_well || denials == 0 || commits != Some(0) {
            return self;
        }
        let text = format!(
            "it ended well, but changed nothing: {} of its tool calls {} denied",
            denials,
            if denials == 1 { "was" } else { "were" }
        );
        Verdict::bad(self.said, Fault::new(Class::Permission, &text))
    }
}

pub use stream::last_words;

static ADAPTERS: &[&dyn Adapter] = &[
    &claude::Claude,
    &codex::Codex,
    &gemini::Gemini,
    &opencode::Opencode,
    &qwen::Qwen,
];

/// Every CLI that harness knows.
pub fn all() -> &'static [&'static dyn Adapter] {
    ADAPTERS
}

/// A CLI by its name in `harness.toml`.
pub fn by_name(name: &str) -> Option<&'static dyn Adapter> {
    ADAPTERS.iter().copied().find(|a| a.about().name == name)
}

/// What begins the prompt of a CLI that runs slash commands.
const PROMPT_PREFIX: &str = "The work item:\n\n";

/// Prefixes of the variables by which agent CLIs are configured and mark what they start.
const PREFIXES: &[&str] = &["CLAUDE", "CODEX_", "GEMINI_CLI", "QWEN_CODE", "OPENCODE"];
/// What a person sets on purpose says one of these. Sessions never do, or are caught by `SESSION`.
const ON_PURPOSE: &[&str] = &[
    "API_KEY",
    "_TOKEN",
    "BASE_URL",
    "_USE_",
    "_HOME",
    "CONFIG",
    "SETTINGS",
    "_AUTH",
    "MODEL",
    "_DISABLE_",
    "_MAX_",
    "PROXY",
    "CERT",
    "REGION",
];

/// Whether a variable is left by an agent session that harness was started from. Such a session's
/// ids, sockets and marks are not for the agents that harness starts; keys, base URLs and homes are.
pub fn is_of_a_session(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    PREFIXES.iter().any(|p| name.starts_with(p))
        && (name.contains("SESSION") || !ON_PURPOSE.iter().any(|word| name.contains(word)))
}

/// What of an inherited environment an agent must not get: `None` for each such name.
pub fn without_session(inherited: &[OsString]) -> BTreeMap<OsString, Option<OsString>> {
    let of_sessions = inherited.iter().filter(|name| is_of_a_session(name));
    of_sessions.map(|name| (name.clone(), None)).collect()
}

/// Arguments being put together.
#[derive(Default)]
struct Build(Launch);

impl Build {
    fn new(ask: &Ask) -> Build {
        let mut build = Build::default();
        build.0.env = without_session(&ask.inherited);
        build
    }

    fn arg(&mut self, arg: impl Into<OsString>) {
        self.0.args.push(arg.into());
    }

    fn args<'a>(&mut self, args: impl IntoIterator<Item = &'a str>) {
        self.0.args.extend(args.into_iter().map(OsString::from));
    }

    fn extra(&mut self, ask: &Ask) {
        self.0.args.extend(ask.extra_args.iter().cloned());
    }

    fn option(&mut self, flag: &str, value: Option<impl Into<OsString>>) {
        if let Some(value) = value {
            self.arg(flag);
            self.arg(value);
        }
    }

    fn env(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.env.insert(name.into(), Some(value.into()));
    }

    fn unsupported(&mut self, key: &'static str, asked: bool) {
        if asked {
            self.0.unsupported.push(key);
        }
    }
}
