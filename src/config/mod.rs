//! The configuration in force: defaults, `harness.toml`, environment, command line, each overriding
//! the ones before; and for every key its source.
//!
//! Does not know what the keys do. Invariants: an invalid configuration is refused as a whole, and
//! `Sources` holds every key of `keys::KEYS` once per table that has it.

pub mod edit;
pub mod keys;
pub mod nearest;
pub mod placeholder;
pub mod value;
mod agents;
mod budget;
mod file;
mod gates;
mod sandbox;
mod sources;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Value as Json, json};

use crate::adapters;
use crate::error::{Error, Result};
use crate::layout::Root;
use crate::limits::GATE_TOKENS_MAX;
use file::{Parsed, Problem};
use keys::{Key, Kind, TABLES, Table};

pub use budget::BudgetTable;
pub use gates::{
    Builtin, GateTable, GatesTable, How, Integrate, IntegrateTable, Mode, Moment, OnConflict,
    OnFailure,
};
pub use sandbox::{Network, SCRIPT, SandboxKeys, SandboxMode, SandboxTable};
pub use template::{Proposed, template, template_with};
pub use value::{duration_from_json, duration_from_str};

/// The values of `harness.toml` and its overrides.
#[derive(Debug, Clone)]
pub struct Config {
    pub harness: HarnessTable,
    /// `[repo]`: for items that name no repository.
    pub repo: RepoTable,
    /// `[repos.NAME]`, by name.
    pub repos: BTreeMap<String, RepoTable>,
    /// `[agents.NAME]`, by name, and a CLI that `[harness] agent` names without a table.
    pub agents: BTreeMap<String, AgentTable>,
    /// All CLIs as if their tables were empty: an item may name them, too.
    pub clis: BTreeMap<String, AgentTable>,
    /// `[gates]`
    pub builtin_gates: GatesTable,
    /// `[gates.NAME]`, in the order of their names.
    pub gates: BTreeMap<String, GateTable>,
    /// `[integrate]`
    pub integrate: Integrate,
    pub retry: RetryTable,
    pub budget: BudgetTable,
    pub limits: LimitsTable,
    /// `[tokens]`: how many there are of each.
    pub tokens: BTreeMap<String, u32>,
    pub sandbox: SandboxTable,
    /// `[agents.script]`
    pub script: SandboxKeys,
    /// The same values as text, with their sources.
    pub sources: Sources,
}

/// `[harness]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HarnessTable {
    pub workers: usize,
    /// The agent for prompts that name none: always a key of `Config::agents`.
    pub agent: Option<String>,
    #[serde(deserialize_with = "seconds")]
    pub timeout: Duration,
    /// Time between SIGTERM and SIGKILL.
    #[serde(deserialize_with = "seconds")]
    pub kill_grace: Duration,
    /// Time between the first starts of prompt agents.
    #[serde(deserialize_with = "seconds")]
    pub stagger: Duration,
    pub durability: Durability,
    pub writers: Writers,
    /// Absolute; `None`: in ROOT.
    pub worktrees: Option<PathBuf>,
    /// Pause between two items of one slot.
    #[serde(deserialize_with = "seconds")]
    pub iteration_delay: Duration,
    /// An agent silent for this long gets a warning.
    #[serde(deserialize_with = "seconds")]
    pub stall: Duration,
    /// Silence after which an agent that reported its end is stopped.
    #[serde(deserialize_with = "seconds")]
    pub linger: Duration,
    /// The command that notifies a person; empty: none.
    #[serde(default)]
    pub notify: Vec<String>,
    /// The events that run it: `interrupt`, `parked`, `review`, `landed`, `done`.
    pub notify_on: Vec<String>,
    /// How long a hook, or `notify`, may run.
    #[serde(deserialize_with = "seconds")]
    pub hook_timeout: Duration,
    /// What pauses a slot: `permission`, `timeout`, `failures`.
    pub interrupt_on: Vec<String>,
}

/// What an acknowledged change survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A power cut.
    Full,
    /// The death of any process, but not a power cut.
    Off,
}

/// Who is meant to write into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writers {
    Owner,
    Group,
    All,
}

/// `[repo]` or `[repos.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RepoTable {
    pub path: RepoPath,
    /// `None`: what is checked out there.
    pub base: Option<String>,
    pub clean: Clean,
    /// Patterns of ignored files that worktrees get; `None`: those of `.worktreeinclude`.
    pub copy: Option<Vec<String>>,
    /// What it says of itself, over `[integrate]`.
    #[serde(flatten)]
    pub integrate: IntegrateTable,
}

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum RepoPath {
    /// The git repository that ROOT lies in, if any. Only in `[repo]`.
    Auto,
    /// No git: plain directories.
    None,
    /// Absolute; its existence was not checked.
    Path(PathBuf),
}

/// What is removed from a worktree between two items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Clean {
    /// Untracked files, but not ignored ones: `"untracked"`.
    #[serde(rename = "untracked")]
    KeepIgnored,
    /// Everything that is not in the base: `"all"`.
    #[serde(rename = "all")]
    All,
}

/// `[agents.NAME]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct AgentTable {
    /// The CLI whose command line harness builds; `None`: `command` is all of it.
    pub cli: Option<String>,
    /// Program and arguments; placeholders are checked but not filled in (`placeholder::fill`).
    /// Empty only with `cli`, which has its own program.
    #[serde(default)]
    pub command: Vec<String>,
    /// Appended last; placeholders as in `command`.
    pub args: Vec<String>,
    pub model: Option<String>,
    /// 0: no limit.
    pub max_turns: u64,
    pub budget_usd: f64,
    /// Its dollars are paid already.
    pub subscription: bool,
    /// Empty: the CLI's default.
    #[serde(default)]
    pub tools: Vec<String>,
    pub permission_mode: Option<String>,
    /// Absolute, like `config_dir`.
    pub settings: Option<PathBuf>,
    pub config_dir: Option<PathBuf>,
    /// Whether a retry continues the previous attempt.
    pub resume: bool,
    /// Keys that were set explicitly: unsupported ones of these are reported.
    #[serde(skip)]
    pub given: Vec<&'static str>,
    pub stdin: AgentStdin,
    /// The dialect of its standard output: `none`, or the name of an agent CLI.
    pub events: String,
    /// Added to the agent's environment. May hold secrets: never show the values.
    pub env: BTreeMap<String, String>,
    /// Whether it is given `prompts/bootstrap.md` first.
    pub bootstrap: bool,
    #[serde(flatten)]
    pub confined: SandboxKeys,
    /// Replaces `[harness] timeout`.
    #[serde(default, deserialize_with = "seconds")]
    pub timeout: Option<Duration>,
}

/// What an agent reads on its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStdin {
    Prompt,
    /// Nothing: `/dev/null`.
    None,
}

/// `[retry]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct RetryTable {
    /// Attempts after the first.
    pub max: u32,
    /// Delay before the first retry; doubled for each further one, up to `delay_max`.
    #[serde(deserialize_with = "seconds")]
    pub delay: Duration,
    #[serde(deserialize_with = "seconds")]
    pub delay_max: Duration,
    /// Random fraction of the delay, 0 to 1.
    pub jitter: f64,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LimitsTable {
    /// Free bytes on disk below which nothing is claimed.
    pub disk_free_min: u64,
    /// `harness gc` keeps anything younger.
    #[serde(deserialize_with = "seconds")]
    pub keep: Duration,
    /// Bytes; 0: no limit.
    pub output: u64,
    pub worktree: u64,
    pub memory: Option<u64>,
    /// Cores.
    pub cpu: Option<f64>,
    pub processes: Option<u64>,
    pub nice: u8,
    /// For each core.
    pub load_max: Option<f64>,
    /// Per cent of the time; 0: whatever it is.
    pub pressure_max: Option<u64>,
    /// At work on this host.
    pub agents: Option<u64>,
}

impl From<String> for RepoPath {
    fn from(text: String) -> RepoPath {
        match text.as_str() {
            "auto" => RepoPath::Auto,
            "none" => RepoPath::None,
            _ => RepoPath::Path(text.into()),
        }
    }
}

/// A time in the form of `value::from_json`.
fn seconds<'de, D: Deserializer<'de>, T: From<Duration>>(
    from: D,
) -> std::result::Result<T, D::Error> {
    let seconds = f64::deserialize(from)?;
    let time = Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)?;
    Ok(time.into())
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Default,
    /// Line of `harness.toml`, counted from 1.
    File(usize),
    /// The variable's name.
    Environment(String),
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(line) => write!(f, "harness.toml:{line}"),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::CommandLine => f.write_str("command line"),
        }
    }
}

/// One key's value in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// `harness.workers`, `agents.NAME.command`.
    pub key: String,
    pub kind: Kind,
    /// In the form of `value::from_json`; `null`: not set.
    pub value: Json,
    pub source: Source,
}

/// Every key's value in force, in the template's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sources(pub Vec<Entry>);

/// The command line's overrides.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub workers: Option<usize>,
}

impl Overrides {
    fn get(&self, path: &str) -> Option<Json> {
        match path {
            "harness.workers" => self.workers.map(|n| json!(n)),
            _ => None,
        }
    }
}

/// The text of ROOT's `harness.toml`; empty if there is none.
///
/// # Errors
/// Permanent: it is no regular file, too large, not UTF-8 or not readable.
pub fn text_of(root: &Root) -> Result<String> {
    file::read(&root.config())
}

impl Config {
    /// The agent of this name: from its table, or a CLI without one.
    pub fn agent(&self, name: &str) -> Option<(&str, &AgentTable)> {
        let found = self.agents.get_key_value(name);
        let found = found.or_else(|| self.clis.get_key_value(name));
        found.map(|(name, table)| (name.as_str(), table))
    }

    /// Reads ROOT's `harness.toml` and this process's environment. A missing file means defaults.
    ///
    /// # Errors
    /// Permanent, with line and advice, for an invalid file or variable; usage for a command line
    /// value that is out of range.
    pub fn load(root: &Root, overrides: &Overrides) -> Result<Config> {
        Self::of_text(root, &text_of(root)?, overrides)
    }

    /// `load` with the given environment.
    ///
    /// # Errors
    /// As `load`.
    pub fn load_with(
        root: &Root,
        overrides: &Overrides,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Config> {
        Self::from_text(root, &text_of(root)?, overrides, env)
    }

    /// `load` if the file had this text.
    ///
    /// # Errors
    /// As `load`.
    pub fn of_text(root: &Root, text: &str, overrides: &Overrides) -> Result<Config> {
        Self::from_text(root, text, overrides, |name| std::env::var_os(name))
    }

    fn from_text(
        root: &Root,
        text: &str,
        overrides: &Overrides,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Config> {
        let parsed = file::parse(text).map_err(|p| file::refusal(&root.config(), &p))?;
        let sources = layer(&parsed, overrides, &env)?;
        build(root, sources, &parsed, &env)
    }
}

/// Overrides defaults by the file, the environment and the command line, in this order.
fn layer(
    parsed: &Parsed,
    overrides: &Overrides,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Sources> {
    let mut entries = Vec::new();
    for &table in TABLES {
        let names: Vec<&str> = if table.is_named() {
            let of_table = parsed.named.iter().filter(|(t, _)| *t == table);
            of_table.map(|(_, name)| name.as_str()).collect()
        } else {
            vec![""]
        };
        for name in names {
            let cli = agents::cli_of(table, name, parsed);
            for key in table.keys().filter(|key| agents::has(table, name, key)) {
                entries.push(entry(table, name, key, cli, parsed, overrides, env)?);
            }
        }
    }
    Ok(Sources(entries))
}

/// One key's value. `cli`: for an agent whose command line harness builds.
fn entry(
    table: Table,
    name: &str,
    key: &Key,
    cli: Option<&str>,
    parsed: &Parsed,
    overrides: &Overrides,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Entry> {
    let mut entry = Entry {
        key: path_of(table, name, key),
        kind: key.kind,
        value: agents::default_of(table, key, cli)?,
        source: Source::Default,
    };
    if let Some(s) = parsed.setting(table, name, key.name) {
        entry.value = s.value.clone();
        entry.source = Source::File(s.line);
    }
    if let Some((variable, value)) = from_environment(key, env)? {
        entry.value = value;
        entry.source = Source::Environment(variable);
    }
    if let Some(given) = overrides.get(&entry.key) {
        entry.value = value::from_json(&key.kind, &given)
            .map_err(|why| Error::usage(format!("the command line's `{}`", key.name), why))?;
        entry.source = Source::CommandLine;
    }
    Ok(entry)
}

fn path_of(table: Table, name: &str, key: &Key) -> String {
    if table == Table::Tokens {
        return format!("{}.{name}", table.name());
    }
    let dot = if name.is_empty() { "" } else { "." };
    format!("{}{dot}{name}.{}", table.name(), key.name)
}

/// An empty variable counts as not set, as in most tools.
fn from_environment(
    key: &Key,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Option<(String, Json)>> {
    let Some(variable) = key.variable() else {
        return Ok(None);
    };
    let Some(text) = env(&variable).filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let read = match text.to_str() {
        Some(text) => value::from_text(&key.kind, text),
        None => Err("must be UTF-8".to_owned()),
    };
    match read {
        Ok(value) => Ok(Some((variable, value))),
        Err(why) => Err(Error::permanent(
            format!("cannot use the environment variable {variable}"),
            why,
        )
        .hint("correct it, or `unset` it to use harness.toml")),
    }
}

/// Refuses a gate that needs a token which there is not, or more than go with one start.
fn known_tokens(
    root: &Root,
    sources: &Sources,
    gates: &BTreeMap<String, GateTable>,
    tokens: &BTreeMap<String, u32>,
) -> Result<()> {
    let refuse = |gate: &str, text: String| {
        let line = sources.line_of(&format!("gates.{gate}.tokens"));
        let text = format!("`tokens` in [gates.{gate}] names {text}");
        Err(file::refusal(&root.config(), &[Problem { line, text }]))
    };
    for (gate, table) in gates {
        let named: BTreeSet<&String> = table.tokens.iter().collect();
        if named.len() > GATE_TOKENS_MAX {
            let count = named.len();
            return refuse(gate, format!("{count} tokens: at most {GATE_TOKENS_MAX}"));
        }
        let is_known = |token: &&String| tokens.contains_key(*token);
        let Some(token) = table.tokens.iter().find(|token| !is_known(token)) else {
            continue;
        };
        let advice = match tokens.is_empty() {
            true => format!("say how many there are: [tokens] {token} = 2"),
            false => nearest::advice(token, tokens.keys().map(String::as_str)),
        };
        return refuse(
            gate,
            format!("`{token}`, which is not in [tokens]: {advice}"),
        );
    }
    Ok(())
}

/// Makes the typed configuration and checks rules about more than one key.
fn build(
    root: &Root,
    sources: Sources,
    parsed: &Parsed,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Config> {
    let mut repos = BTreeMap::new();
    let (mut agents, mut gates) = (BTreeMap::new(), BTreeMap::new());
    let mut script = SandboxKeys::default();
    for (table, name) in &parsed.named {
        match table {
            Table::Repos => {
                let repo = sources.repo(root, &format!("repos.{name}"), env)?;
                repos.insert(name.clone(), repo);
            }
            Table::Gate => {
                gates.insert(name.clone(), sources.table(&format!("gates.{name}"))?);
            }
            Table::Tokens => {}
            _ if name == SCRIPT => script = sources.confined(root, "agents.script", env)?,
            _ => {
                agents.insert(name.clone(), sources.agent(root, name, env)?);
            }
        }
    }
    let tokens = sources.table("tokens")?;
    known_tokens(root, &sources, &gates, &tokens)?;
    let harness = sources.harness(root, env)?;
    let agent = harness.agent.as_deref();
    if let Some(name) = agent.filter(|name| !agents.contains_key(*name)) {
        let known = agents.keys().map(String::as_str);
        let known: Vec<&str> = known.chain(adapters::NAMES.iter().copied()).collect();
        let advice = match nearest::nearest(name, known.iter().copied()) {
            None if agents.is_empty() => {
                format!("add a table [agents.{name}] with its `cli` or `command`")
            }
            _ => nearest::advice(name, known),
        };
        let line = sources.line_of("harness.agent");
        let text = format!("`agent` in [harness] names `{name}`, which is no agent: {advice}");
        return Err(file::refusal(&root.config(), &[Problem { line, text }]));
    }
    Ok(Config {
        harness,
        repo: sources.repo(root, "repo", env)?,
        repos,
        agents,
        clis: agents::without_tables(root, env)?,
        builtin_gates: sources.table("gates")?,
        gates,
        integrate: sources.table("integrate")?,
        retry: sources.table("retry")?,
        budget: sources.table("budget")?,
        limits: sources.table("limits")?,
        tokens,
        sandbox: sources.sandbox(root, env)?,
        script,
        sources,
    })
}
