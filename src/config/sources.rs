//! Takes typed values out of `Sources` by their path.
//!
//! Does not know where values come from. A path or type that does not fit is a fault of ours
//! between the table of keys and `Config`, which the tests of `config` rule out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::Table;
use super::value::Value;
use super::{AgentStdin, AgentTable, Entry, RepoPath, Source, Sources};
use crate::error::{Error, Result};
use crate::layout::Root;

impl Sources {
    /// The entry of a key like `harness.workers`.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|e| e.key == key)
    }

    fn typed<'s, T>(&'s self, key: &str, get: impl Fn(&'s Value) -> Option<T>) -> Result<T> {
        self.entry(key).and_then(|e| get(&e.value)).ok_or_else(|| {
            Error::permanent("a fault in harness", format!("no such setting: {key}"))
        })
    }

    pub(super) fn count(&self, key: &str) -> Result<u64> {
        self.typed(key, |v| match v {
            Value::Count(n) => Some(*n),
            _ => None,
        })
    }

    pub(super) fn share(&self, key: &str) -> Result<f64> {
        self.typed(key, |v| match v {
            Value::Share(x) => Some(*x),
            _ => None,
        })
    }

    pub(super) fn bytes(&self, key: &str) -> Result<u64> {
        self.typed(key, |v| match v {
            Value::Bytes(n) => Some(*n),
            _ => None,
        })
    }

    fn time_or_unset(&self, key: &str) -> Result<Option<Duration>> {
        self.typed(key, |v| match v {
            Value::Time(d) => Some(Some(*d)),
            Value::Unset => Some(None),
            _ => None,
        })
    }

    pub(super) fn time(&self, key: &str) -> Result<Duration> {
        self.typed(key, |v| match v {
            Value::Time(d) => Some(*d),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>> {
        self.typed(key, |v| match v {
            Value::Text(text) => Some(Some(text.clone())),
            Value::Unset => Some(None),
            _ => None,
        })
    }

    fn switch(&self, key: &str) -> Result<bool> {
        self.typed(key, |v| match v {
            Value::Switch(on) => Some(*on),
            _ => None,
        })
    }

    fn vars(&self, key: &str) -> Result<BTreeMap<String, String>> {
        self.typed(key, |v| match v {
            Value::Vars(vars) => Some(vars.clone()),
            _ => None,
        })
    }

    fn amount(&self, key: &str) -> Result<f64> {
        self.typed(key, |v| match v {
            Value::Amount(x) => Some(*x),
            _ => None,
        })
    }

    pub(super) fn list_or_unset(&self, key: &str) -> Result<Vec<String>> {
        self.typed(key, |v| match v {
            Value::List(list) => Some(list.clone()),
            Value::Unset => Some(Vec::new()),
            _ => None,
        })
    }

    pub(super) fn agent(
        &self,
        root: &Root,
        name: &str,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<AgentTable> {
        let key = |k: &str| format!("agents.{name}.{k}");
        let is_given = |k: &&'static str| {
            let entry = self.entry(&key(k));
            entry.is_some_and(|e| e.source != Source::Default)
        };
        let path = |k: &str| -> Result<Option<PathBuf>> {
            let text = self.text(&key(k))?;
            text.map(|text| self.place(root, &key(k), &text, env))
                .transpose()
        };
        Ok(AgentTable {
            cli: self.text(&key("cli"))?,
            command: self.list_or_unset(&key("command"))?,
            args: self.list_or_unset(&key("args"))?,
            model: self.text(&key("model"))?,
            max_turns: self.count(&key("max_turns"))?,
            budget_usd: self.amount(&key("budget_usd"))?,
            tools: self.list_or_unset(&key("tools"))?,
            permission_mode: self.text(&key("permission_mode"))?,
            settings: path("settings")?,
            config_dir: path("config_dir")?,
            resume: self.switch(&key("resume"))?,
            given: Table::Agents
                .keys()
                .map(|k| k.name)
                .filter(is_given)
                .collect(),
            stdin: match self.text(&key("stdin"))?.as_deref() {
                Some("none") => AgentStdin::None,
                _ => AgentStdin::Prompt,
            },
            events: self.text(&key("events"))?.unwrap_or_default(),
            env: self.vars(&key("env"))?,
            bootstrap: self.switch(&key("bootstrap"))?,
            timeout: self.time_or_unset(&key("timeout"))?,
        })
    }

    pub(super) fn repo_path(
        &self,
        root: &Root,
        key: &str,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<RepoPath> {
        match self.text(key)?.as_deref() {
            None | Some("auto") => Ok(RepoPath::Auto),
            Some("none") => Ok(RepoPath::None),
            Some(text) => self.place(root, key, text, env).map(RepoPath::Path),
        }
    }

    /// A path relative to ROOT or to the home directory, made absolute.
    fn place(
        &self,
        root: &Root,
        key: &str,
        text: &str,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<PathBuf> {
        let of_home = match text {
            "~" => Some(""),
            other => other.strip_prefix("~/"),
        };
        let Some(rest) = of_home else {
            return Ok(root.path().join(text));
        };
        match env("HOME").map(PathBuf::from).filter(|h| h.is_absolute()) {
            // Not `join` of "/x": what follows `~/` is below the home directory, whatever it is.
            Some(home) => Ok(home.join(rest.trim_start_matches('/'))),
            None => {
                let source = self.entry(key).map_or(&Source::Default, |e| &e.source);
                let why = format!("`{key}` ({source}) begins with ~/, and HOME is not set");
                Err(Error::permanent("cannot use the configuration", why)
                    .hint("write an absolute path, or set HOME"))
            }
        }
    }
}
