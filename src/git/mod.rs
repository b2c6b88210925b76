//! The only place that runs git: one builder that cleans the environment, bounds output and time,
//! and returns git's failures as data. Hubs, worktrees and publishing are built on it.
//!
//! Knows nothing of items, agents or the queue. Invariant: no git started here reads a variable
//! `GIT_DIR` and the like from outside, runs a hook, signs, prompts, or leaves a daemon behind.

mod admin;
mod base;
mod branches;
mod bring;
mod carry;
mod checkout;
mod clone;
mod checks;
mod closed;
mod collect;
mod config;
mod copied;
mod debris;
mod environment;
mod fifos;
mod forward;
mod gc;
mod hub;
mod include;
mod incremental_checkout;
mod index_lock;
mod kept;
mod keys;
mod land;
mod legacy;
mod lfs;
mod merge;
mod nested;
mod owner;
mod picture;
mod promised;
mod publish;
mod rearranged;
mod refs;
mod repos;
mod run;
mod salvage;
mod shown;
mod slot;
mod sparse;
mod stale;
mod state;
mod submodules;
mod surroundings;
#[cfg(test)]
mod tests;
mod unclean;
mod unfinished;
mod wait;
mod words;
mod worktree;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::GIT_TIMEOUT;
use crate::mutant::planted;

pub(crate) use crate::config::{Clean, How};
pub(crate) use admin::clear_temps;
pub(crate) use branches::{Changes, Look};
pub(crate) use checkout::Landed;
pub(crate) use checks::{Checked, gated_branch};
pub(crate) use collect::Collected;
pub(crate) use environment::{directs_git, inherited_settings};
pub(crate) use hub::Hub;
pub(crate) use keys::forget_keys;
pub(crate) use merge::Merged;
pub(crate) use publish::Users;
pub(crate) use repos::Repos;
pub(crate) use salvage::salvaged_of;
pub(crate) use shown::{Edit, edits, hunk};
pub(crate) use wait::{hurry, show_waits};
use words::{helper_was_killed, hint_for, is_lock_trouble, lasts, passes};
pub(crate) use worktree::Worktree;

/// Oldest supported git: 2.29 has `fetch --no-write-fetch-head`, 2.31 `rev-parse --path-format`,
/// 2.38 `merge-tree --write-tree`, which merging needs.
pub(crate) const MIN_VERSION: (u32, u32, u32) = (2, 38, 0);

/// git holds its locks for milliseconds: one this old has lost its owner.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Settings of each of our commands, overriding the user's configuration.
const SETTINGS: [&str; 14] = [
    "gc.auto=0",
    "maintenance.auto=false",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "commit.gpgsign=false",
    "core.safecrlf=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "branch.autoSetupMerge=false",
    "worktree.useRelativePaths=false",
    "init.defaultRefFormat=files",
    "protocol.version=2",
    "advice.addEmbeddedRepo=false",
];

/// A repository of the user, as configured.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    /// `default`, or the key of `[repos.NAME]`.
    pub name: String,
    /// Any directory inside it, a linked worktree, or a bare repository. Absolute.
    pub path: PathBuf,
    /// The branch or revision that items begin from if they name none.
    pub base: Option<String>,
    pub clean: Clean,
    /// Whether git syncs what it writes, so that commits outlive a power cut.
    pub durable: bool,
    /// Ignored files of the user's checkout that worktrees get; `None`: those of `.worktreeinclude`.
    pub copy: Option<Vec<String>>,
    /// ROOT: none of its own folders is copied.
    pub root: PathBuf,
    /// Bytes of disk that copies leave free.
    pub spare: u64,
}

/// The commit an item begins at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Name of the branch, or the revision as given.
    pub name: String,
    /// Object id of the commit.
    pub oid: String,
}

/// One git command.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    /// Further settings; their keys may have any characters.
    settings: Vec<(OsString, &'static str)>,
    timeout: Duration,
    held: Option<Arc<File>>,
    /// Where its standard output goes: what is too long for memory.
    into: Option<Arc<File>>,
    /// What it reads; then it holds no lock.
    from: Option<Arc<File>>,
    /// The hub in which stale locks may be removed.
    hub: Option<PathBuf>,
    /// A worktree in which nobody else works.
    tree: Option<PathBuf>,
}

/// The result of a git command: a failing exit status is data.
#[derive(Debug)]
pub(crate) struct Output {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// Standard output was longer than the limit.
    pub truncated: bool,
}

impl Output {
    pub(crate) fn ok(&self) -> bool {
        self.code == 0
    }

    /// Standard output as one line of text.
    pub(crate) fn line(&self) -> String {
        String::from_utf8_lossy(&self.stdout)
            .trim_end_matches('\n')
            .to_owned()
    }

    /// Standard output as one path of any bytes.
    fn path(mut self) -> PathBuf {
        if self.stdout.last() == Some(&b'\n') {
            self.stdout.pop();
        }
        PathBuf::from(OsString::from_vec(self.stdout))
    }
}

impl Git {
    /// A command inside `dir`; git finds the repository itself.
    pub(crate) fn at(dir: &Path) -> Git {
        let git = Git {
            args: Vec::new(),
            env: Vec::new(),
            settings: Vec::new(),
            timeout: GIT_TIMEOUT,
            held: None,
            into: None,
            from: None,
            hub: None,
            tree: None,
        };
        let git = git.arg("-C").arg(dir);
        let hooks = planted("git-hooks-run");
        let settings = SETTINGS
            .iter()
            .filter(|s| !(hooks && s.contains("hooksPath")));
        settings.fold(git, |g, s| g.arg("-c").arg(s))
    }

    /// A command on the repository whose git directory is `git_dir`; git searches nothing.
    pub(crate) fn on(git_dir: &Path) -> Git {
        Git::at(git_dir).env("GIT_DIR", git_dir)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Git {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Git {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, key: &'static str, value: impl AsRef<OsStr>) -> Git {
        self.env.push((key, value.as_ref().to_owned()));
        self
    }

    /// git syncs everything it writes, whatever the repository's configuration says.
    pub(crate) fn synced(self) -> Git {
        self.set("core.fsync", "all")
            .set("core.fsyncMethod", "fsync")
    }

    /// Disables the hooks of these names, which settings can define since git 2.54.
    fn without_hooks(self, names: &[OsString]) -> Git {
        names.iter().fold(self, |git, name| {
            let mut key = OsString::from("hook.");
            key.push(name);
            key.push(".enabled");
            git.set(key, "false")
        })
    }

    /// Removes stale locks of killed gits below this directory, a hub.
    fn in_hub(mut self, dir: &Path) -> Git {
        self.hub = Some(dir.to_owned());
        self
    }

    /// It works on this worktree alone: what an agent left there may not hold it up.
    fn in_tree(mut self, dir: &Path) -> Git {
        self.tree = Some(dir.to_owned());
        self
    }

    fn set(mut self, key: impl Into<OsString>, value: &'static str) -> Git {
        self.settings.push((key.into(), value));
        self
    }

    #[cfg(test)]
    fn timeout(mut self, timeout: Duration) -> Git {
        self.timeout = timeout;
        self
    }

    /// Holds this flock (of an empty file) while git runs, as git's standard input: if harness is
    /// killed, git continues, and the next holder must not work beside it.
    pub(crate) fn holding(mut self, lock: Option<&Arc<File>>) -> Git {
        self.held = lock.cloned();
        self
    }

    /// Its standard output goes to this file, and `Output` has none of it.
    fn into_file(mut self, file: File) -> Git {
        self.into = Some(Arc::new(file));
        self
    }

    /// It reads this file.
    fn reading(mut self, file: File) -> Git {
        self.from = Some(Arc::new(file));
        self
    }

    /// Runs it once. Errors: the host's (git missing, no processes left, timeout), and git being
    /// killed, as then its answer ("no such commit", "files differ") is unknown.
    pub(crate) fn output(&self) -> Result<Output> {
        self.attend(self.start()?)
    }

    fn start(&self) -> Result<Child> {
        let program = program()?;
        let stdin = match self.from.as_ref().or(self.held.as_ref()) {
            Some(file) => Stdio::from(file.try_clone().or_fail("cannot start git", program)?),
            None => Stdio::null(),
        };
        let stdout = match &self.into {
            Some(file) => Stdio::from(file.try_clone().or_fail("cannot start git", program)?),
            None => Stdio::piped(),
        };
        let mut cmd = self.command()?;
        cmd.stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .or_fail("cannot start git", program)
    }

    #[expect(clippy::disallowed_methods, reason = "this module is the door to git")]
    fn command(&self) -> Result<Command> {
        let program = program()?;
        let mut cmd = Command::new(program);
        for (key, _) in std::env::vars_os() {
            let ours = key.as_bytes().starts_with(b"GIT_");
            let kept = environment::is_of_the_network(&key);
            if ours && !kept && !planted("git-environment-kept") {
                cmd.env_remove(key);
            }
        }
        // The caller's come first: of two, git takes the later one.
        let ours = self.settings.iter().map(|(k, v)| (&**k, OsStr::new(*v)));
        let callers = inherited_settings().iter().map(|(k, v)| (&**k, &**v));
        let settings: Vec<(&OsStr, &OsStr)> = callers.chain(ours).collect();
        for (n, (key, value)) in settings.iter().enumerate() {
            cmd.env(format!("GIT_CONFIG_KEY_{n}"), key)
                .env(format!("GIT_CONFIG_VALUE_{n}"), value);
        }
        if !planted("git-environment-kept") {
            cmd.envs(environment::made_absolute().iter().map(|(k, v)| (k, v)));
        }
        cmd.args(&self.args)
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("GIT_EDITOR", "true")
            .env("GIT_SEQUENCE_EDITOR", "true")
            .env("GIT_DEFAULT_REF_FORMAT", "files")
            // One ref to a missing object would fail every fetch. We remove no objects.
            .env("GIT_REF_PARANOIA", "0")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .env("GIT_CONFIG_COUNT", settings.len().to_string());
        Ok(cmd)
    }

    /// Runs it, waiting for locks that other git processes hold, and removing stale ones in the
    /// hub.
    pub(crate) fn patient(&self) -> Result<Output> {
        self.patient_for(LOCK_PATIENCE)
    }

    /// As `patient`, for a mere convenience: waits no longer than it takes to recognize a stale
    /// lock (git itself waits a second for some).
    pub(crate) fn brief(&self) -> Result<Output> {
        self.patient_for(stale::UNTOUCHED * 4)
    }

    fn patient_for(&self, patience: Duration) -> Result<Output> {
        let deadline = clock::instant() + patience;
        let mut pause = Duration::from_millis(5);
        let mut lock = None;
        loop {
            let out = self.output()?;
            if out.ok() || !is_lock_trouble(&out.stderr) || clock::instant() >= deadline {
                return Ok(out);
            }
            if let Some(hub) = &self.hub {
                lock = stale::Lock::told(&out.stderr, hub, self.dir(), lock);
                if let Some(lock) = &lock {
                    lock.clear(hub)?;
                }
            }
            std::thread::park_timeout(pause + jitter(pause));
            pause = (pause * 2).min(Duration::from_millis(400));
        }
    }

    /// Runs it patiently; any failure is an error that begins with `what`.
    pub(crate) fn must(&self, what: &str) -> Result<Output> {
        let out = self.patient()?;
        if out.ok() {
            Ok(out)
        } else {
            Err(self.failure(what, &out))
        }
    }

    /// An error with git's own message, without its hints: they precede the cause and suggest
    /// settings that do not apply here.
    pub(crate) fn failure(&self, what: &str, out: &Output) -> Error {
        let advice = |line: &&str| line.starts_with("hint:");
        let said: Vec<&str> = out.stderr.lines().filter(|l| !advice(l)).collect();
        let words = match said.join("\n").trim() {
            "" => format!("git ended with exit code {} and said nothing", out.code),
            said => said.to_owned(),
        };
        let dir = self.dir();
        let passing = passes(&words) || is_lock_trouble(&words);
        let error = if !passing && lasts(&words) {
            Error::permanent(what, &words).at_path(dir)
        } else {
            Error::temporary(what, &words).at_path(dir)
        };
        match hint_for(&words) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// The directory it works in: `-C DIR` comes first.
    fn dir(&self) -> &Path {
        self.args.get(1).map_or(Path::new("."), Path::new)
    }

    fn attend(&self, child: Child) -> Result<Output> {
        let shown = || {
            let shown = self.args.iter().skip(2 + 2 * SETTINGS.len()).take(2);
            let shown: Vec<_> = shown.map(|a| a.to_string_lossy()).collect();
            format!("`git {}`", shown.join(" "))
        };
        let since = clock::now_iso();
        let waits = || {
            let dir = self.dir().display();
            format!("waits for {} in {dir}, which runs since {since}", shown())
        };
        let ended = run::attend(child, self.timeout, self.tree.as_deref(), &waits)?;
        let Some(status) = ended.status else {
            let why = format!(
                "{} was still running after {} and was stopped{}",
                shown(),
                clock::human(ended.took),
                match ended.at_stop {
                    true => ", as harness is being stopped",
                    false => "",
                }
            );
            let hangs = Error::temporary("git hangs", why).at_path(self.dir());
            return Err(hangs.hint(
                "run the same git command by hand: it may wait for a network or a dead mount",
            ));
        };
        let stderr = String::from_utf8_lossy(&ended.stderr.kept).into_owned();
        let Some(code) = status.code() else {
            let why = format!("{}: {status} {}", shown(), stderr.trim());
            return Err(Error::temporary("a signal ended git", why).at_path(self.dir()));
        };
        if code != 0 && helper_was_killed(&stderr) {
            let why = format!("{}: {}", shown(), stderr.trim());
            let killed = Error::temporary("a git that git had started was killed", why);
            return Err(killed.at_path(self.dir()));
        }
        Ok(Output {
            code,
            stdout: ended.stdout.kept,
            stderr,
            truncated: ended.stdout.cut,
        })
    }
}

/// Absolute path of git, looked up once: with a path std can spawn cheaply.
fn program() -> Result<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .filter(|d| d.is_absolute())
            .map(|d| d.join("git"))
            .find(|p| nix::unistd::access(p, nix::unistd::AccessFlags::X_OK).is_ok() && p.is_file())
    });
    found.as_deref().ok_or_else(|| {
        Error::permanent("cannot run git", "there is no `git` in PATH")
            .hint("install git 2.38 or newer")
    })
}

/// The installed git's version; an error if it is older than `MIN_VERSION`.
pub(crate) fn version() -> Result<(u32, u32, u32)> {
    let git = Git::at(Path::new("/")).arg("version");
    let line = git.must("cannot ask git for its version")?.line();
    let mut parts = line
        .split_whitespace()
        .nth(2)
        .unwrap_or("")
        .split('.')
        .map(|p| p.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let found = (next(), next(), next());
    if found < MIN_VERSION {
        return Err(
            Error::permanent("git is too old", format!("this is `{line}`"))
                .hint("install git 2.38 or newer"),
        );
    }
    Ok(found)
}

/// The git repository that `dir` is in: its top level, or the git directory of a bare one.
pub(crate) fn discover(dir: &Path) -> Result<Option<PathBuf>> {
    if program().is_err() && !looks_like_a_repository(dir) {
        // Plain directories need no git.
        return Ok(None);
    }
    let git = Git::at(dir).args(["rev-parse", "--path-format=absolute", "--show-toplevel"]);
    let out = git.output()?;
    if out.ok() && !out.stdout.is_empty() {
        return Ok(Some(out.path()));
    }
    if out.stderr.contains("not a git repository") {
        return Ok(None);
    }
    let git = Git::at(dir).args(["rev-parse", "--path-format=absolute", "--git-common-dir"]);
    git.must("cannot tell which repository this is")
        .map(|o| Some(o.path()))
}

/// Whether what is checked out there has a commit to begin from.
pub(crate) fn has_commit(dir: &Path) -> Result<bool> {
    let git = Git::at(dir).args(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]);
    git.output().map(|out| out.ok())
}

/// Whether this directory or one above it has the files of a repository.
fn looks_like_a_repository(dir: &Path) -> bool {
    dir.ancestors()
        .any(|d| d.join(".git").exists() || is_bare(d))
}

fn is_bare(dir: &Path) -> bool {
    let parts = ["HEAD", "objects", "refs"];
    parts.iter().all(|part| dir.join(part).exists())
}

/// A random time up to `max`, so that competing processes do not retry together.
fn jitter(max: Duration) -> Duration {
    let ns = u64::from(clock::now_ns().unsigned_abs() as u32);
    let span = u64::try_from(max.as_nanos()).unwrap_or(1).max(1);
    Duration::from_nanos(ns.wrapping_mul(2_654_435_761) % span)
}
