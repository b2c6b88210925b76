//! One adapter per agent CLI: builds its arguments and environment, and parses its stdout.
//!
//! A new CLI is one new file here and one line in the list below. Configuration, `doctor`, messages
//! and the tests of every adapter take the CLIs from that list.
//!
//! Pure: starts, reads, writes and times nothing. Every launch is non-interactive: no terminal, no
//! questions, the prompt on stdin, then end of file.
//!
//! Invariant: any input, in any order and repetition, gives events and figures and never a panic;
//! every line leaves a trace (at least `other`).

mod error_text;
mod last_words;
mod lenient_json;
mod limit_end;
mod parser;
mod tally;
mod verdict;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::event::{Fault, Figures};
pub use last_words::last_words;
pub use limit_end::{LimitEnd, limit_end};
pub use parser::Parser;
pub use tally::{Dialect, Tally};
pub use verdict::permission_fault;

/// Declares the adapters. Each name is a CLI's name in `harness.toml` and its file here, which
/// defines an `ADAPTER`. (cargo fmt does not see these files: `.ci/run` checks them.)
macro_rules! adapters {
    ($($name:ident),+ $(,)?) => {
        $(mod $name;)+

        static ADAPTERS: &[&dyn Adapter] = &[$($name::ADAPTER),+];

        /// The CLIs that harness knows, by their names in `harness.toml`.
        pub(crate) const NAMES: &[&str] = &[$(stringify!($name)),+];

        /// The values of `events`: whose events an agent prints.
        pub(crate) const DIALECTS: &[&str] = &[NO_EVENTS, $(stringify!($name)),+];
    };
}

adapters! {
    claude,
    codex,
    gemini,
    opencode,
    qwen,
}

/// For an agent whose output is not read.
pub(crate) const NO_EVENTS: &str = "none";

/// Every adapter, in the order of the list.
pub fn all() -> &'static [&'static dyn Adapter] {
    ADAPTERS
}

/// A CLI by its name in `harness.toml`.
pub fn by_name(name: &str) -> Option<&'static dyn Adapter> {
    ADAPTERS.iter().copied().find(|a| a.about().name == name)
}

/// One CLI.
pub trait Adapter: Sync {
    fn about(&self) -> &'static About;
    fn launch(&self, ask: &Ask) -> Launch;
    /// A reader of its lines. `previous`: the figures of the attempt whose conversation is resumed,
    /// for CLIs that accumulate.
    fn dialect(&self, previous: Option<&Figures>) -> Box<dyn Dialect>;
    /// A reader of one attempt's stdout.
    fn parser(&self, previous: Option<&Figures>) -> Parser {
        Parser::new(self.dialect(previous))
    }
}

/// What an attempt asks of its agent.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Instructions besides the prompt: the filled-in bootstrap template.
    pub bootstrap_file: Option<PathBuf>,
    /// A new UUID, for CLIs that let the caller choose a conversation's id.
    pub session_uuid: String,
    /// The conversation to continue, by the CLI's id.
    pub resume: Option<String>,
    pub worktree: PathBuf,
    pub model: Option<String>,
    pub max_turns: Option<u64>,
    pub budget_usd: Option<f64>,
    /// Tools it may use without asking.
    pub tools: Vec<String>,
    pub permission_mode: Option<String>,
    /// A settings file in the CLI's own format.
    pub settings: Option<PathBuf>,
    /// Where the CLI keeps login, settings and conversations, instead of its default.
    pub config_dir: Option<PathBuf>,
    /// Appended last, so that they override the others.
    pub extra_args: Vec<OsString>,
    /// Names of the variables that the agent would inherit. Those of an agent session in which
    /// harness itself was started are removed.
    pub inherited: Vec<OsString>,
}

/// How to start it, without the program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    pub args: Vec<OsString>,
    /// Set on top of the inherited variables; `None`: removed.
    pub env: BTreeMap<OsString, Option<OsString>>,
    /// Put before the prompt, so that one that looks like a CLI command (`/cost`) is read as text.
    pub prompt_prefix: Option<&'static str>,
    /// The CLI has no flag for the bootstrap text: the caller prepends it to the prompt.
    pub bootstrap_in_prompt: bool,
    /// Requested keys that this CLI does not support: `budget_usd`.
    pub unsupported: Vec<&'static str>,
}

/// What messages say about a CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its name in `harness.toml`.
    pub name: &'static str,
    pub program: &'static str,
    pub package: &'static str,
    /// What to do if the login is refused.
    pub login: &'static str,
    /// Prefix of the variables that configure it and mark its sessions.
    pub env_prefix: &'static str,
    /// Whether its events report the cost.
    pub tells_cost: bool,
    /// Whether it finds a conversation only in the directory where it began.
    pub bound_to_directory: bool,
    /// Where it keeps login, settings and conversations.
    pub state: &'static [Place],
    /// The variables that it reads: keys, addresses, settings. A `*` at the end stands for anything.
    pub variables: &'static [&'static str],
}

/// A folder or file that moves with a variable, or lies below the home folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The variable that names the folder; empty: none does.
    pub var: &'static str,
    /// Without it: this, below the home folder.
    pub or: &'static str,
    /// Below that folder; empty: the folder itself.
    pub below: &'static str,
    pub is_file: bool,
}

impl Place {
    pub(crate) const fn dir(var: &'static str, or: &'static str, below: &'static str) -> Place {
        Place {
            var,
            or,
            below,
            is_file: false,
        }
    }

    pub(crate) const fn file(var: &'static str, or: &'static str, below: &'static str) -> Place {
        Place {
            var,
            or,
            below,
            is_file: true,
        }
    }
}

impl About {
    /// The message if the program is not found.
    pub fn not_installed(&self) -> String {
        format!(
            "{} is not installed: npm install -g {}",
            self.program, self.package
        )
    }

    /// What to do about a fault: where another try follows, and where none does.
    pub fn advice(&self, fault: &Fault, again: bool) -> String {
        fault.advice(self.program, self.login, again)
    }
}

/// For the CLIs that run slash commands.
const PROMPT_PREFIX: &str = "The work item:\n\n";

/// Variables that a person sets on purpose contain one of these. Session variables contain none of
/// them, or contain `SESSION`.
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

/// Whether a variable belongs to an agent session in which harness was started. New agents must not
/// get that session's ids, sockets and marks; keys and homes they may.
fn is_of_a_session(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    ADAPTERS
        .iter()
        .any(|a| name.starts_with(a.about().env_prefix))
        && (name.contains("SESSION") || !ON_PURPOSE.iter().any(|word| name.contains(word)))
}

/// The inherited variables that an agent must not get, each mapped to `None`.
pub fn without_session(inherited: &[OsString]) -> BTreeMap<OsString, Option<OsString>> {
    let of_sessions = inherited.iter().filter(|name| is_of_a_session(name));
    of_sessions.map(|name| (name.clone(), None)).collect()
}

/// Builds a `Launch`.
struct LaunchBuilder(Launch);

impl LaunchBuilder {
    fn new(ask: &Ask) -> LaunchBuilder {
        LaunchBuilder(Launch {
            env: without_session(&ask.inherited),
            ..Launch::default()
        })
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
