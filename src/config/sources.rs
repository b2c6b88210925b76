//! Extracts the configuration's typed tables from `Sources`.
//!
//! Does not know where values come from. A value that does not fit its field is a bug: the table of
//! keys and `Config` disagree, which the tests of `config` exclude.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::keys::Table;
use super::{
    AgentTable, Entry, HarnessTable, RepoPath, RepoTable, SandboxKeys, SandboxTable, Source,
    Sources,
};
use crate::error::{Error, Result};
use crate::layout::Root;

impl Sources {
    /// The entry of a key like `harness.workers`.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|e| e.key == key)
    }

    /// The line of a key in the file, for a message.
    pub(super) fn line_of(&self, key: &str) -> usize {
        match self.entry(key).map(|e| &e.source) {
            Some(Source::File(line)) => *line,
            _ => 1,
        }
    }

    /// The set keys of a table like `harness` or `agents.NAME`.
    pub(super) fn table<T: DeserializeOwned>(&self, table: &str) -> Result<T> {
        let set = self.0.iter().filter(|e| !e.value.is_null());
        let object: Json = set
            .filter_map(|e| {
                let key = e.key.strip_prefix(table)?.strip_prefix('.')?;
                // A NAME may hold a dot, a key does not.
                (!key.contains('.')).then(|| (key.to_owned(), e.value.clone()))
            })
            .collect();
        serde_json::from_value(object)
            .map_err(|e| Error::permanent("a fault in harness", format!("[{table}]: {e}")))
    }

    pub(super) fn harness(
        &self,
        root: &Root,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<HarnessTable> {
        let mut harness: HarnessTable = self.table("harness")?;
        if let Some(dir) = &mut harness.worktrees {
            *dir = self.place(root, "harness.worktrees", dir, env)?;
        }
        Ok(harness)
    }

    pub(super) fn agent(
        &self,
        root: &Root,
        name: &str,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<AgentTable> {
        let path = |key: &str| format!("agents.{name}.{key}");
        let mut agent: AgentTable = self.table(&format!("agents.{name}"))?;
        let is_given = |key: &&str| {
            let entry = self.entry(&path(key));
            entry.is_some_and(|e| e.source != Source::Default)
        };
        agent.given = Table::Agents
            .keys()
            .map(|k| k.name)
            .filter(is_given)
            .collect();
        for (key, place) in [
            ("settings", &mut agent.settings),
            ("config_dir", &mut agent.config_dir),
        ] {
            if let Some(relative) = place {
                *relative = self.place(root, &path(key), relative, env)?;
            }
        }
        agent.confined = self.confined(root, &format!("agents.{name}"), env)?;
        Ok(agent)
    }

    /// The keys of a sandbox in `[agents.NAME]`.
    pub(super) fn confined(
        &self,
        root: &Root,
        table: &str,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<SandboxKeys> {
        let mut keys: SandboxKeys = self.table(table)?;
        self.places(
            root,
            table,
            [&mut keys.write, &mut keys.read, &mut keys.deny],
            env,
        )?;
        Ok(keys)
    }

    pub(super) fn sandbox(
        &self,
        root: &Root,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<SandboxTable> {
        let mut table: SandboxTable = self.table("sandbox")?;
        let lists = [&mut table.write, &mut table.read, &mut table.deny];
        self.places(root, "sandbox", lists, env)?;
        Ok(table)
    }

    fn places(
        &self,
        root: &Root,
        table: &str,
        lists: [&mut Vec<PathBuf>; 3],
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<()> {
        for (list, key) in lists.into_iter().zip(["write", "read", "deny"]) {
            for path in list {
                *path = self.place(root, &format!("{table}.{key}"), path, env)?;
            }
        }
        Ok(())
    }

    pub(super) fn repo(
        &self,
        root: &Root,
        table: &str,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<RepoTable> {
        let mut repo: RepoTable = self.table(table)?;
        if let RepoPath::Path(path) = &mut repo.path {
            *path = self.place(root, &format!("{table}.path"), path, env)?;
        }
        Ok(repo)
    }

    /// A path relative to ROOT or to the home directory, made absolute.
    fn place(
        &self,
        root: &Root,
        key: &str,
        path: &Path,
        env: &impl Fn(&str) -> Option<OsString>,
    ) -> Result<PathBuf> {
        let Ok(of_home) = path.strip_prefix("~") else {
            return Ok(root.path().join(path));
        };
        match env("HOME").map(PathBuf::from).filter(|h| h.is_absolute()) {
            Some(home) => Ok(home.join(of_home)),
            None => {
                let source = self.entry(key).map_or(&Source::Default, |e| &e.source);
                let why = format!("`{key}` ({source}) begins with ~/, and HOME is not set");
                Err(Error::permanent("cannot use the configuration", why)
                    .hint("write an absolute path, or set HOME"))
            }
        }
    }
}
