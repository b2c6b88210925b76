//! The repositories that items can name, and the hub of each. Knows nothing of items. Invariant: a
//! hub is opened once in a process, on first use, and again where it was removed; one that an agent
//! replaced by a symlink is refused.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Hub, Repo, discover};
use crate::atomic;
use crate::config::{Config, Durability, RepoPath};
use crate::error::Result;
use crate::layout::{DEFAULT_REPO, Root};

pub(crate) struct Repos {
    by_name: BTreeMap<String, Repo>,
    /// By the folder that they lie in, and their name.
    open: Mutex<HashMap<(PathBuf, String), Arc<Hub>>>,
}

impl Repos {
    /// From the configuration: `[repo]` (or the repository that ROOT lies in) and `[repos.NAME]`.
    pub(crate) fn new(root: &Root, config: &Config) -> Result<Repos> {
        let default = (DEFAULT_REPO, &config.repo);
        let named = config
            .repos
            .iter()
            .map(|(name, table)| (name.as_str(), table));
        let mut by_name = BTreeMap::new();
        for (name, table) in named.chain([default]) {
            let path = match &table.path {
                RepoPath::None => None,
                RepoPath::Path(path) => Some(path.clone()),
                RepoPath::Auto => discover(root.path())?,
            };
            if let Some(path) = path {
                let repo = Repo {
                    name: name.to_owned(),
                    path,
                    base: table.base.clone(),
                    clean: table.clean,
                    durable: config.harness.durability == Durability::Full,
                    copy: table.copy.clone(),
                    root: root.path().to_owned(),
                    spare: config.limits.disk_free_min,
                };
                by_name.insert(name.to_owned(), repo);
            }
        }
        Ok(Repos {
            by_name,
            open: Mutex::default(),
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Their names, and a directory inside each.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (&str, &Path)> {
        let all = self.by_name.iter();
        all.map(|(name, repo)| (name.as_str(), repo.path.as_path()))
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.by_name.keys().map(String::as_str).collect()
    }

    /// The hub of a repository, made on first use. `None`: no such repository is configured.
    pub(crate) fn hub(&self, root: &Root, name: &str) -> Result<Option<Arc<Hub>>> {
        let Some(repo) = self.by_name.get(name) else {
            return Ok(None);
        };
        let open = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was removed is made again. A symlink in its place must reach `Hub::open`, which refuses it.
        open().retain(|_, hub| atomic::is_own_dir(hub.dir()));
        let key = (root.repos(), name.to_owned());
        if let Some(hub) = open().get(&key) {
            return Ok(Some(hub.clone()));
        }
        // Without the mutex: making a hub can be slow, and other threads use other repositories.
        let hub = Arc::new(Hub::open(root, repo)?);
        Ok(Some(open().entry(key).or_insert(hub).clone()))
    }
}
