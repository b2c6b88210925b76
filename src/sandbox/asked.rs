//! What is to be confined, and which keys of the configuration hold for it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::environment::Env;
use super::strength;
use crate::adapters::{self, About};
use crate::atomic;
use crate::config::{AgentTable, Config, GateTable, Network, SCRIPT, SandboxKeys, SandboxMode};
use crate::layout::{Root, slot_repository};

/// What is to be confined.
pub(crate) struct Asked<'a> {
    pub(crate) root: &'a Root,
    pub(crate) config: &'a Config,
    pub(crate) who: Who<'a>,
    pub(crate) worktree: &'a Path,
    /// Its temporary folder.
    pub(crate) temp: &'a Path,
    /// Its session's folder. A gate has none of its own.
    pub(crate) session: Option<&'a Path>,
    /// What is set and removed in its environment.
    pub(crate) env: Env,
    /// It is going to be started: folders that a program would make itself, and cannot, are made.
    pub(crate) makes: bool,
}

/// An agent or a gate, as far as its sandbox depends on it.
pub(crate) struct Who<'a> {
    /// Its table, as it is written in harness.toml.
    pub(super) table: String,
    /// Its own keys, besides those of `[sandbox]`.
    pub(super) keys: Cow<'a, SandboxKeys>,
    /// The CLI that it is, whose state it needs.
    pub(super) cli: Option<&'static About>,
    /// The CLI's state, where its table has it elsewhere.
    pub(super) config_dir: Option<&'a Path>,
}

impl<'a> Who<'a> {
    /// `None`: scripts.
    pub(crate) fn agent(config: &'a Config, agent: Option<(&str, &'a AgentTable)>) -> Who<'a> {
        let (name, table) = agent.unzip();
        // The one it is configured as, or whose events its command prints.
        let cli = |table: &AgentTable| {
            let name = table.cli.as_deref().unwrap_or(&table.events);
            adapters::by_name(name).map(|adapter| adapter.about())
        };
        Who {
            table: format!("[agents.{}]", name.unwrap_or(SCRIPT)),
            keys: Cow::Borrowed(table.map_or(&config.script, |table| &table.confined)),
            cli: table.and_then(cli),
            config_dir: table.and_then(|table| table.config_dir.as_deref()),
        }
    }

    pub(crate) fn gate(name: &str, table: &GateTable) -> Who<'static> {
        Who {
            table: format!("[gates.{name}]"),
            keys: Cow::Owned(SandboxKeys {
                sandbox: table.sandbox,
                ..SandboxKeys::default()
            }),
            cli: None,
            config_dir: None,
        }
    }
}

impl Asked<'_> {
    /// Harness's own folders that it works in, and what each is.
    pub(super) fn own(&self) -> Vec<(PathBuf, &'static str)> {
        let session = self.session.map(|dir| (dir.to_owned(), "its session"));
        let all = [
            (self.worktree.to_owned(), "its worktree"),
            (slot_repository(self.worktree), "its worktree's repository"),
            (self.temp.to_owned(), "its temporary folder"),
        ];
        // Before a start they are not made yet.
        let is_there = |path: &Path| !self.makes || atomic::exists(path);
        let all = all.into_iter().chain(session);
        all.filter(|(path, _)| is_there(path)).collect()
    }

    /// The variables that it gets besides those that everybody gets.
    pub(super) fn pass(&self) -> Vec<String> {
        let cli = self.who.cli.iter().flat_map(|about| about.variables);
        let all = self.config.sandbox.env_pass.iter();
        let all = all.chain(&self.who.keys.env_pass).cloned();
        cli.map(|name| (*name).to_owned()).chain(all).collect()
    }

    /// The table whose `network` holds.
    pub(super) fn network_of(&self) -> String {
        match self.who.keys.network {
            Some(_) => self.who.table.clone(),
            None => "[sandbox]".to_owned(),
        }
    }
}

/// The mode in force for what has these keys.
pub(super) fn mode(config: &Config, keys: &SandboxKeys) -> SandboxMode {
    keys.sandbox.unwrap_or(config.sandbox.mode)
}

pub(super) fn network(config: &Config, keys: &SandboxKeys) -> Network {
    let own = keys.network.clone();
    own.unwrap_or_else(|| config.sandbox.network.clone())
}

/// Why what has these keys must not start on this kernel.
pub(crate) fn why_refused(config: &Config, keys: &SandboxKeys) -> Option<String> {
    let lacks = strength().lacks(&network(config, keys));
    let is_refused = mode(config, keys) == SandboxMode::Require && !lacks.is_empty();
    let key = match keys.sandbox {
        Some(_) => "`sandbox`",
        None => "`mode` in [sandbox]",
    };
    let lacks = lacks.join(", ");
    is_refused.then(|| format!("{key} is \"require\", and this kernel does not hold {lacks}"))
}
