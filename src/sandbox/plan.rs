//! Makes a sandbox from the configuration, for one agent or gate in one slot.
//!
//! Invariant: a grant that would hold harness's own folders, the home folder or the user's repository
//! is left out, whoever asks for it, and so is one that an agent could have led elsewhere.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::asked::{Asked, mode, network, why_refused};
use super::environment::{Env, environment, value_of};
use super::places::{CACHES, DEVICES, homes, path_of, secrets};
use super::resolve::{Seen, is_in};
use super::{Said, Sandbox, Strength, readable, strength, temp};
use crate::adapters;
use crate::atomic;
use crate::config::{Config, Network, RepoPath, SandboxKeys, SandboxMode};
use crate::mutant::planted;

/// One place of a sandbox, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) path: PathBuf,
    /// Whose wish it is: `its worktree`, `cache`, `[sandbox] write`.
    pub(crate) because: Cow<'static, str>,
    /// Why it is not granted.
    pub(crate) left_out: Option<String>,
    /// A place that everybody gets where it is: that it is not is nothing to tell.
    is_usual: bool,
}

pub(crate) struct Planned {
    /// `None`: it runs as the user.
    pub(crate) sandbox: Option<Sandbox>,
    pub(crate) env: Env,
    pub(crate) said: Said,
    pub(crate) write: Vec<Grant>,
    pub(crate) read: Vec<Grant>,
    pub(crate) deny: Vec<Grant>,
    /// The table whose `network` holds, as it is written.
    pub(super) network_of: String,
    pub(super) never: Never,
}

/// What no grant opens; real paths.
#[derive(Debug, Clone, Default)]
pub(super) struct Never {
    /// No grant may hold these: ROOT, the home folder, the user's repositories.
    pub(super) whole: Vec<PathBuf>,
    /// Nor lie in these: harness's own folders, a repository's `.git`.
    pub(super) closed: Vec<PathBuf>,
}

impl Never {
    /// Why a path may not be written.
    pub(super) fn why(&self, path: &Path) -> Option<String> {
        let mut all = self.whole.iter().chain(&self.closed);
        if let Some(held) = all.find(|p| is_in(p, path)) {
            return Some(format!("it holds {}", held.display()));
        }
        let around = self.closed.iter().find(|closed| is_in(path, closed))?;
        Some(format!("it lies in {}", around.display()))
    }
}

impl Planned {
    #[cfg(test)]
    pub(super) fn of(sandbox: Sandbox, said: Said, network_of: &str) -> Planned {
        Planned {
            sandbox: Some(sandbox),
            said,
            network_of: network_of.to_owned(),
            ..off(Env::new(), Said::default(), "")
        }
    }

    /// Why a path is denied.
    pub(super) fn why_denied(&self, path: &Path) -> Option<&str> {
        let grant = self
            .deny
            .iter()
            .find(|grant| path.starts_with(&grant.path))?;
        Some(&grant.because)
    }
}

/// Makes the sandbox.
///
/// # Errors
/// Why it must not start: `mode = "require"`, and the kernel has less.
pub(crate) fn plan(mut asked: Asked<'_>) -> Result<Planned, String> {
    let keys = &asked.who.keys;
    let (mode, network) = (mode(asked.config, keys), network(asked.config, keys));
    if let Some(why) = why_refused(asked.config, keys) {
        return Err(why);
    }
    temp::name_in(&mut asked.env, asked.temp);
    let strength = strength();
    let mut said = Said {
        mode: "on".to_owned(),
        landlock: strength.0,
        network: network.clone(),
        ..Said::default()
    };
    let why_off = match mode {
        SandboxMode::Off => Some("`sandbox` is \"off\""),
        _ => strength.why_none(),
    };
    if let Some(why) = why_off {
        return Ok(off(asked.env, said, why));
    }
    said.holds = held(strength, &network);
    let lacks = strength.lacks(&network).into_iter();
    let lacks = lacks.map(|what| format!("not held by this kernel: {what}"));
    said.notes.extend(lacks);
    let maker = Maker::new(&asked);
    let deny = maker.deny();
    let write = maker.write(&deny);
    let read = maker.read();
    let left = write.iter().chain(&read).filter(|g| !g.is_usual);
    said.notes.extend(left.filter_map(|g| g.note("granted")));
    said.notes
        .extend(deny.iter().filter_map(|g| g.note("denied")));
    let sandbox = Sandbox {
        write: granted(&write),
        read: granted(&read),
        deny: granted(&deny),
        network,
    };
    let never = maker.never;
    let network_of = asked.network_of();
    let pass = asked.pass();
    let pass: Vec<&str> = pass.iter().map(String::as_str).collect();
    Ok(Planned {
        sandbox: Some(sandbox),
        env: environment(std::env::vars_os(), asked.env, &pass),
        said,
        write,
        read,
        deny,
        network_of,
        never,
    })
}

fn off(env: Env, said: Said, why: &str) -> Planned {
    Planned {
        sandbox: None,
        env,
        said: Said {
            mode: "off".to_owned(),
            network: Network::Open,
            notes: vec![why.to_owned()],
            ..said
        },
        write: Vec::new(),
        read: Vec::new(),
        deny: Vec::new(),
        network_of: String::new(),
        never: Never::default(),
    }
}

fn held(strength: Strength, network: &Network) -> Vec<String> {
    let held = strength.holds().into_iter();
    let held = held.filter(|what| *what != "network" || *network != Network::Open);
    held.map(str::to_owned).collect()
}

fn granted(grants: &[Grant]) -> Vec<PathBuf> {
    let granted = grants.iter().filter(|g| g.left_out.is_none());
    let mut paths: Vec<PathBuf> = granted.map(|g| g.path.clone()).collect();
    // Text is compared quicker than paths.
    paths.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    paths.dedup_by(|a, b| a.as_os_str() == b.as_os_str());
    paths
}

impl Grant {
    fn new(path: impl Into<PathBuf>, because: impl Into<Cow<'static, str>>) -> Grant {
        Grant {
            path: path.into(),
            because: because.into(),
            left_out: None,
            is_usual: false,
        }
    }

    fn note(&self, not: &str) -> Option<String> {
        let why = self.left_out.as_ref()?;
        let path = self.path.display();
        Some(format!("{path} ({}) is not {not}: {why}", self.because))
    }
}

/// What stays the same while a sandbox is made.
struct Maker<'a> {
    asked: &'a Asked<'a>,
    /// The agent's home folder.
    home: Option<PathBuf>,
    /// All home folders whose secrets are denied.
    homes: Vec<PathBuf>,
    seen: Seen,
    never: Never,
    /// Real paths of the trees in which some agent writes.
    agents_write: Vec<PathBuf>,
}

impl<'a> Maker<'a> {
    fn new(asked: &'a Asked<'a>) -> Maker<'a> {
        let home = value_of(&asked.env, OsStr::new("HOME")).map(PathBuf::from);
        let home = home.filter(|home| home.is_absolute());
        let homes = homes(home.as_deref());
        let seen = Seen::default();
        let real = |paths: Vec<PathBuf>| -> Vec<PathBuf> {
            paths.iter().map(|path| seen.real(path)).collect()
        };
        let root = asked.root.path();
        let repos = repositories(asked.config);
        let mut whole = vec![root.to_owned()];
        whole.extend(homes.iter().cloned());
        whole.extend(repos.iter().cloned());
        let below = [
            "queue",
            "state",
            "hooks",
            "prompts",
            "harness.toml",
            "worktrees",
        ];
        let mut closed: Vec<PathBuf> = below.iter().map(|name| root.join(name)).collect();
        closed.extend([asked.root.worktrees(), asked.root.repos()]);
        closed.extend(repos.iter().map(|repo| repo.join(".git")));
        // Where a repository around ROOT is: its hooks and settings, too.
        closed.extend(root.ancestors().skip(1).map(|dir| dir.join(".git")));
        let never = Never {
            whole: real(whole),
            closed: real(closed),
        };
        let agents_write = real(vec![asked.root.worktrees(), temp::folder_of_all()]);
        let mut maker = Maker {
            asked,
            home,
            homes,
            seen,
            never,
            agents_write,
        };
        let mut all = maker.of_all_agents();
        // A folder comes before what lies in it, which an agent may have led elsewhere.
        all.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        for path in all {
            if let Ok(real) = maker.seen.resolve(&path, &maker.agents_write) {
                maker.agents_write.push(real);
            }
        }
        maker
    }

    /// The places in which any agent may write: by the configuration, caches, and the state of CLIs.
    fn of_all_agents(&self) -> Vec<PathBuf> {
        let config = self.asked.config;
        let tables = config.agents.values();
        let accounts = tables.clone().filter_map(|table| table.config_dir.clone());
        let keys = tables.map(|table| &table.confined);
        let keys = keys.chain(Some(&config.script));
        let wished = keys.flat_map(|keys| &keys.write);
        let wished = wished.chain(&config.sandbox.write).cloned();
        let state = adapters::all();
        let state = state.iter().flat_map(|adapter| adapter.about().state);
        let places = CACHES.iter().map(|cache| &cache.place).chain(state);
        let places = places.filter_map(|place| self.path(place));
        wished.chain(accounts).chain(places).collect()
    }

    fn var(&self) -> impl Fn(&OsStr) -> Option<OsString> {
        |name| value_of(&self.asked.env, name)
    }

    fn path(&self, place: &adapters::Place) -> Option<PathBuf> {
        path_of(place, self.home.as_deref(), &self.var())
    }

    fn write(&self, deny: &[Grant]) -> Vec<Grant> {
        let mut all: Vec<Grant> = Vec::new();
        for (path, is_file) in self.state_of_cli() {
            if !is_file && !self.seen.is_there(&path) {
                if !self.asked.makes {
                    all.push(Grant::new(path, "the CLI's own state, made at its start"));
                    continue;
                }
                // The CLI would make it itself at its first start, and cannot.
                let _said = atomic::make_dir(&path, true);
                self.seen.forget();
            }
            all.extend(self.grant(path, "the CLI's own state", is_file));
        }
        for cache in CACHES {
            let Some(path) = self.path(&cache.place) else {
                continue;
            };
            let missing = |_: &&str| !self.seen.is_there(&path);
            let made_for = cache.made_for.filter(|_| self.asked.makes).filter(missing);
            if made_for.is_some_and(|program| self.has(program)) {
                make(&path, cache.place.is_file);
                self.seen.forget();
            }
            let grant = self.grant(path, "cache", true).into_iter();
            all.extend(grant.map(|grant| Grant {
                is_usual: true,
                ..grant
            }));
        }
        let usual = all.len();
        for (path, because) in self.wished(|keys| &keys.write, &self.asked.config.sandbox.write) {
            all.extend(self.grant(path, format!("{because} write"), false));
        }
        let users = self.users_deny();
        let secrets: Vec<PathBuf> = deny.iter().map(|grant| grant.path.clone()).collect();
        let parts = all.into_iter().enumerate().flat_map(|(n, mut grant)| {
            if let Some(by) = users.iter().find(|d| grant.path.starts_with(d)) {
                grant.left_out = Some(format!("`deny` has {}", by.display()));
            }
            // What one CLI keeps in a cache is no reason to close that cache to new things.
            beside(grant, if n < usual { &users } else { &secrets })
        });
        self.own().into_iter().chain(parts).collect()
    }

    /// Harness has just made these: only their last part can be an agent's.
    fn own(&self) -> Vec<Grant> {
        let own = self.asked.own().into_iter().map(|(path, because)| {
            let led = self.seen.folder_of_symlink(&path);
            Grant {
                left_out: led.map(|_| "it is a symlink".to_owned()),
                ..Grant::new(self.seen.real(&path), because)
            }
        });
        own.collect()
    }

    fn users_deny(&self) -> Vec<PathBuf> {
        let denied = self.wished(|keys| &keys.deny, &self.asked.config.sandbox.deny);
        let denied = denied.into_iter();
        denied.map(|(path, _)| self.seen.real(&path)).collect()
    }

    fn has(&self, program: &str) -> bool {
        let path = value_of(&self.asked.env, OsStr::new("PATH")).unwrap_or_default();
        std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
    }

    /// `None`: an optional place that is not there.
    fn grant(
        &self,
        path: PathBuf,
        because: impl Into<Cow<'static, str>>,
        optional: bool,
    ) -> Option<Grant> {
        let mut grant = Grant::new(path, because);
        match self.seen.resolve(&grant.path, &self.agents_write) {
            Ok(real) => {
                grant.path = real;
                grant.left_out = self
                    .never
                    .why(&grant.path)
                    .filter(|_| !planted("grant-too-many"));
            }
            Err(_) if optional && !self.seen.is_there(&grant.path) => return None,
            Err(why) => grant.left_out = Some(why),
        }
        Some(grant)
    }

    /// Whether it is a symlink that an agent could have put there.
    fn is_led(&self, path: &Path) -> bool {
        let dir = self.seen.folder_of_symlink(path);
        let led = |dir: &PathBuf| self.agents_write.iter().any(|tree| dir.starts_with(tree));
        dir.is_some_and(|dir| led(&dir))
    }

    /// What the user wishes: the agent's own keys, and those of everybody.
    fn wished(
        &self,
        own: impl Fn(&'a SandboxKeys) -> &'a Vec<PathBuf>,
        all: &'a [PathBuf],
    ) -> Vec<(PathBuf, &'a str)> {
        let all = all.iter().map(|path| (path.clone(), "[sandbox]"));
        let table = self.asked.who.table.as_str();
        let own = own(&self.asked.who.keys).iter();
        all.chain(own.map(|path| (path.clone(), table))).collect()
    }

    fn state_of_cli(&self) -> Vec<(PathBuf, bool)> {
        let Some(about) = self.asked.who.cli else {
            return Vec::new();
        };
        let moved = self.asked.who.config_dir;
        // All of it moves with the variable that the CLI's adapter sets, but for what is XDG's.
        let stays = |place: &&adapters::Place| moved.is_none() || place.var.starts_with("XDG_");
        let usual = about.state.iter().filter(stays);
        let usual = usual.filter_map(|place| Some((self.path(place)?, place.is_file)));
        let moved = moved.map(|dir| (dir.to_owned(), false));
        moved.into_iter().chain(usual).collect()
    }

    fn read(&self) -> Vec<Grant> {
        let wished = self.wished(|keys| &keys.read, &self.asked.config.sandbox.read);
        let grant =
            |(path, because): (PathBuf, &str)| self.grant_to_read(path, format!("{because} read"));
        wished.into_iter().map(grant).collect()
    }

    fn grant_to_read(&self, path: PathBuf, because: String) -> Grant {
        let mut grant = Grant::new(path, because);
        match self.seen.resolve(&grant.path, &self.agents_write) {
            Ok(real) => {
                grant.left_out = self.why_not_read(&real);
                grant.path = real;
            }
            Err(why) => grant.left_out = Some(why),
        }
        grant
    }

    /// Why no key opens a path for reading.
    fn why_not_read(&self, path: &Path) -> Option<String> {
        let mut ours = self.kept_from_all().map(|(path, _)| self.seen.real(&path));
        let ours = ours.find(|ours| ours.starts_with(path) || path.starts_with(ours))?;
        Some(format!("harness keeps {} from every agent", ours.display()))
    }

    /// What is harness's own, and why nobody reads it.
    fn kept_from_all(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        let root = self.asked.root;
        let keys = "it may hold keys of other agents";
        [
            (root.sessions(), "what other agents say and are told"),
            // Whoever may open a lease can lock it, and a keeper obeys whoever holds that.
            (root.agents(), "the locks of slots"),
            (root.budget_dir(), "the lock of budgets"),
            (root.config(), keys),
            (root.state().join("harness.toml"), keys),
            (temp::folder_of_all(), "other agents' temporary folders"),
        ]
        .into_iter()
    }

    fn deny(&self) -> Vec<Grant> {
        let mut all = vec![Grant::new(
            DEVICES,
            "devices: those that are needed are granted",
        )];
        let ours = self.kept_from_all();
        all.extend(ours.map(|(path, because)| Grant::new(path, because)));
        let secrets = secrets(&self.homes).into_iter();
        all.extend(secrets.map(|path| Grant::new(path, "secret")));
        let accounts = self.asked.config.agents.values();
        let accounts = accounts.filter_map(|table| table.config_dir.as_deref());
        let others = accounts.filter(|dir| Some(*dir) != self.asked.who.config_dir);
        all.extend(others.map(|dir| Grant::new(dir, "another agent's account")));
        let own: Vec<PathBuf> = self
            .state_of_cli()
            .into_iter()
            .map(|(path, _)| path)
            .collect();
        for adapter in adapters::all() {
            let about = adapter.about();
            let mut places: Vec<PathBuf> =
                about.state.iter().filter_map(|p| self.path(p)).collect();
            if self.asked.who.cli.is_none_or(|cli| cli.name != about.name) {
                // Where a variable leads elsewhere, what is at the usual place still holds a login.
                let usual = about.state.iter();
                places.extend(usual.filter_map(|p| path_of(p, self.home.as_deref(), &|_| None)));
            }
            let others = places.into_iter().filter(|path| !own.contains(path));
            // One lies in a cache: by a symlink there an agent could have anything denied to the next.
            let others = others.filter(|path| !self.is_led(path));
            all.extend(others.map(|path| Grant::new(path, "the state of another CLI")));
        }
        for (path, because) in self.wished(|keys| &keys.deny, &self.asked.config.sandbox.deny) {
            all.push(Grant::new(path, format!("{because} deny")));
        }
        let own = self.own();
        for grant in &mut all {
            // Of a symlink, what it leads to is what holds the secret.
            grant.path = self.seen.real(&grant.path);
            let around = own.iter().find(|own| is_in(&grant.path, &own.path));
            grant.left_out =
                around.map(|own| format!("it lies in {}, its own", own.path.display()));
        }
        all.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        all.dedup_by(|a, b| a.path.as_os_str() == b.path.as_os_str());
        all
    }
}

/// The grant; where something in it is denied, what lies beside that.
fn beside(grant: Grant, denied: &[PathBuf]) -> Vec<Grant> {
    let is_inside = |d: &&PathBuf| **d != grant.path && is_in(d, &grant.path);
    let inside = denied
        .iter()
        .filter(is_inside)
        .filter(|d| atomic::exists(d));
    let inside: Vec<PathBuf> = inside.cloned().collect();
    if inside.is_empty() || grant.left_out.is_some() {
        return vec![grant];
    }
    let because = Cow::from(format!("{}, beside what is denied there", grant.because));
    let mut parts = Vec::new();
    let listed = readable::trees_in(&grant.path, &inside, &mut |tree| {
        parts.push(Grant {
            path: tree.path(),
            because: because.clone(),
            ..grant.clone()
        });
        Ok(())
    });
    debug_assert!(listed.is_ok());
    parts
}

fn make(path: &Path, is_file: bool) {
    let _said = match is_file {
        true => atomic::create(path, b"", 0o644).map(drop),
        false => atomic::make_dir(path, false),
    };
}

/// The user's repositories, as far as the configuration names them.
fn repositories(config: &Config) -> Vec<PathBuf> {
    let all = config.repos.values().chain(Some(&config.repo));
    let path = |repo: &RepoPath| match repo {
        RepoPath::Path(path) => Some(path.clone()),
        _ => None,
    };
    all.filter_map(|repo| path(&repo.path)).collect()
}
