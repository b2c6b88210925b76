//! The hub: harness's own bare clone of one user repository, opened or made, and its refs.
//!
//! Knows nothing of worktrees (`admin`) or of publishing branches (`publish`). Invariant: no agent
//! has business in it, and the user's repository is only read here. All set-up in it happens under its
//! flock.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::debris::aside;
use super::{Base, Git, Repo, config, wait};
use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::layout::{Name, Root};
use crate::limits::{BACKUPS_MAX, DEBRIS_AGE, PACKED_REFS_BYTES_MAX, STATE_FILE_BYTES_MAX};
use crate::mutant::planted;

/// Any commit of the repository: new worktrees are made at it, then moved to their base.
pub(super) const SEED: &str = "refs/harness/seed";
/// The folder in the hub with an admin folder for each slot: our HEAD and index of its worktree.
pub(super) const SLOTS: &str = "slots";
/// Folder of the submodules' repositories, in the user's git directory, the hub and a slot's.
pub(super) const MODULES: &str = "modules";
/// Uncommitted leftovers, kept here until a person or `gc` looks at them.
pub(super) const SALVAGE: &str = "refs/harness/salvage";

/// A hub, ready for use. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    repo: Repo,
    /// `state/repos/NAME.git`, without symlinks, as git writes it.
    dir: PathBuf,
    lock: PathBuf,
    /// The user's git directory (of the main worktree, if the path is in a linked one).
    user: PathBuf,
    /// The user's settings, for the hub and the slots' repositories.
    settings: Vec<u8>,
    /// The user's filters as the hub has them.
    filters: Vec<u8>,
    /// The same of their merge drivers.
    drivers: Vec<u8>,
    /// Where what was made here is kept, if not here: this one is on its host's own disk.
    kept: Option<Hub>,
    /// Refs that are known to be there: names and commits.
    told: Mutex<BTreeMap<String, String>>,
    /// It is where other hosts keep theirs: who works there cannot be seen from here.
    is_of_all: bool,
    /// Hooks defined by settings; those in folders are disabled by `core.hooksPath`.
    hooks: Vec<OsString>,
}

impl Hub {
    /// Opens the hub of `repo`, making it on first use. Concurrent callers wait for the first.
    ///
    /// # Errors
    /// Permanent: no such repository, or it has no commits yet. Temporary: the host's troubles.
    pub(crate) fn open(root: &Root, repo: &Repo) -> Result<Hub> {
        let kept = match root.local() {
            Some(_) => Some(Hub::open_in(
                &root.clone().without_local(),
                repo,
                None,
                true,
            )?),
            None => None,
        };
        Hub::open_in(root, repo, kept, false)
    }

    fn open_in(root: &Root, repo: &Repo, kept: Option<Hub>, is_of_all: bool) -> Result<Hub> {
        let git =
            Git::at(&repo.path).args(["rev-parse", "--path-format=absolute", "--git-common-dir"]);
        let user = git.must("cannot find the repository")?.path();
        atomic::make_dir(&root.repos(), true)?;
        let repos = root.repos();
        let repos = repos.canonicalize().or_fail("cannot find", &repos)?;
        let read = config::read(&repo.path, repo.durable)?;
        if planted("git-writes-user-config") {
            Git::on(&user)
                .args(["config", "harness.seen", "1"])
                .must("mark it")?;
        }
        for k in 1..BACKUPS_MAX {
            let stem = match k {
                1 => stem(&repo.name),
                k => format!("{}.{k}", stem(&repo.name)),
            };
            let hub = Hub(Arc::new(Inner {
                repo: repo.clone(),
                dir: repos.join(format!("{stem}.git")),
                lock: repos.join(format!("{stem}.lock")),
                user: user.clone(),
                settings: read.text.clone(),
                filters: read.filters.clone(),
                drivers: read.drivers.clone(),
                kept: kept.clone(),
                told: Mutex::default(),
                is_of_all,
                hooks: read.hooks.clone(),
            }));
            if hub.make(root, &stem)? {
                return Ok(hub);
            }
        }
        let why = "too many repositories have had this name";
        Err(Error::permanent("cannot use the repository", why).at_path(&repos))
    }

    /// Makes the hub if it is missing. `false`: it is another repository's.
    fn make(&self, root: &Root, stem: &str) -> Result<bool> {
        if atomic::exists(self.dir()) && !atomic::is_own_dir(self.dir()) {
            let why = "something else stands where harness keeps its copy of the repository";
            return Err(Error::permanent("cannot use the repository", why)
                .at_path(self.dir())
                .hint("put the copy back, or remove what is there: a new one is made"));
        }
        if self.is_broken() {
            let _lock = self.lock()?;
            if self.is_broken() {
                let was = aside(self.dir(), self.dir())?;
                let was = was.map(|dir| dir.display().to_string());
                crate::error::tell(&format!(
                    "harness: somebody removed a part of harness's copy of repository `{}` on this host's disk: a \
                     new one is made, and what was left is in {}",
                    self.0.repo.name,
                    was.unwrap_or_default()
                ));
            }
        }
        if !atomic::exists(self.dir()) {
            let lock = self.lock()?;
            if !atomic::exists(self.dir()) {
                if stem != self::stem(&self.0.repo.name) {
                    crate::error::tell(&format!(
                        "harness: repository `{}` is another one than before: its copy is {}, and that of the old one stays",
                        self.0.repo.name,
                        self.dir().display()
                    ));
                }
                self.create(root, stem, &lock)?;
            }
            drop(lock);
        }
        if !self.is_users(root)? {
            return Ok(false);
        }
        self.settle_config(self.dir(), self.0.repo.durable)?;
        // What is left there is in nobody's way.
        if !self.0.is_of_all {
            let _stays = self.clear_debris(DEBRIS_AGE, false);
        }
        Ok(true)
    }

    /// Whether a part of a hub on a host's own disk was removed (old files in `/tmp` are). All that an ended
    /// attempt made is kept elsewhere.
    fn is_broken(&self) -> bool {
        let dir = self.dir();
        self.kept().is_some()
            && atomic::exists(dir)
            && !(super::is_bare(dir) && self.read_ref(SEED).is_some())
            && !planted("hub-left-broken")
    }

    /// Writes the hub's configuration where it is not ours: what an agent wrote there ends here.
    pub(super) fn settle_config(&self, dir: &Path, durable: bool) -> Result<()> {
        let sha256 = self.has_sha256();
        let settings = [&self.0.settings[..], &self.0.filters].concat();
        for (name, text) in [("config", config::of_hub(sha256)), (config::FILE, settings)] {
            let file = dir.join(name);
            let now = atomic::read_small(&file, text.len() as u64);
            if now.ok().as_ref() != Some(&text) {
                if atomic::is_own_dir(&file) {
                    aside(&file, &file)?;
                }
                atomic::replace(&file, &text, durable)?;
            }
        }
        // Attributes, excludes and grafts. harness has none there.
        match atomic::exists(&dir.join("info")) {
            true => atomic::discard_tree(&dir.join("info"), "none of ours"),
            false => Ok(()),
        }
    }

    /// A hub inside this one: of a submodule.
    pub(super) fn part(
        &self,
        dir: PathBuf,
        user: PathBuf,
        settings: Vec<u8>,
        filters: Vec<u8>,
    ) -> Hub {
        let mut repo = self.0.repo.clone();
        (repo.path, repo.base) = (user.clone(), None);
        Hub(Arc::new(Inner {
            repo,
            lock: dir.with_extension("lock"),
            dir,
            user,
            settings,
            filters,
            drivers: Vec::new(),
            kept: None,
            told: Mutex::default(),
            is_of_all: self.0.is_of_all,
            hooks: self.0.hooks.clone(),
        }))
    }

    /// The same hub, of a submodule, whose work is kept in another one.
    pub(super) fn keeping_in(&self, kept: Hub) -> Hub {
        let of = &self.0;
        Hub(Arc::new(Inner {
            repo: of.repo.clone(),
            dir: of.dir.clone(),
            lock: of.lock.clone(),
            user: of.user.clone(),
            settings: of.settings.clone(),
            filters: of.filters.clone(),
            drivers: of.drivers.clone(),
            kept: Some(kept),
            told: Mutex::default(),
            is_of_all: of.is_of_all,
            hooks: of.hooks.clone(),
        }))
    }

    /// Where what was made here is kept, if not here.
    pub(super) fn kept(&self) -> Option<&Hub> {
        self.0.kept.as_ref()
    }

    /// Refs that are known to be kept there: names and commits.
    pub(super) fn told(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration of a slot's repository.
    pub(super) fn slot_config(&self) -> Vec<u8> {
        config::of_slot(self.has_sha256(), &self.0.settings)
    }

    fn has_sha256(&self) -> bool {
        self.read_ref(SEED).is_some_and(|oid| oid.len() == 64)
    }

    /// Whether the hub exists already, so that `open` would not clone.
    pub(crate) fn is_made(root: &Root, name: &str) -> bool {
        atomic::exists(&root.repos().join(format!("{}.git", stem(name))))
    }

    /// The hub's own git directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.0.dir
    }

    pub(crate) fn repo(&self) -> &Repo {
        &self.0.repo
    }

    pub(super) fn settings(&self) -> &[u8] {
        &self.0.settings
    }

    /// Settings for a git that works in a worktree by its slot's: the user's filters and merge drivers, run
    /// in their checkout. `None`: the worktree's path cannot stand in a command.
    pub(super) fn commands_at_users(&self, worktree: &Path) -> Option<Vec<u8>> {
        let here = worktree.as_os_str().as_bytes();
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+,@".contains(b);
        let drivers = self.0.drivers.split(|&b| b == config::HERE);
        let is_plain = self.0.drivers.is_empty() || here.iter().all(plain);
        let drivers: Vec<&[u8]> = drivers.collect();
        is_plain.then(|| [&self.0.filters[..], &drivers.join(here)].concat())
    }

    pub(super) fn filters(&self) -> &[u8] {
        &self.0.filters
    }

    pub(super) fn user(&self) -> &Path {
        &self.0.user
    }

    /// Why nothing can be kept in it now: it belongs to another user, or is read-only.
    pub(crate) fn why_closed(&self) -> Option<Error> {
        let below = ["", "objects", "refs", SLOTS];
        let mut folders = below.iter().map(|name| self.dir().join(name));
        folders.find_map(|dir| atomic::why_closed(&dir))
    }

    /// A command on the hub itself.
    pub(super) fn git(&self) -> Git {
        self.ours(Git::on(&self.0.dir))
    }

    /// A command on anything in the hub: the hub, its worktrees, their submodules.
    pub(super) fn ours(&self, git: Git) -> Git {
        match self.0.is_of_all {
            true => self.quiet(git),
            false => self.quiet(git).in_hub(&self.0.dir),
        }
    }

    /// The command without hooks defined by the user's settings.
    pub(super) fn quiet(&self, git: Git) -> Git {
        git.without_hooks(&self.0.hooks)
    }

    /// Waits for others' set-up and locks it out. Dropping the file releases the lock.
    pub(super) fn lock(&self) -> Result<Arc<File>> {
        wait::lock(&self.0.lock)
    }

    /// Value of a ref, read without starting git; `None` if that is not possible.
    pub(super) fn read_ref(&self, name: &str) -> Option<String> {
        let file = self.0.dir.join(name);
        if let Some(loose) = read_text(&file) {
            return is_oid(loose.trim_end()).then(|| loose.trim_end().to_owned());
        }
        let packed =
            atomic::read_small(&self.0.dir.join("packed-refs"), PACKED_REFS_BYTES_MAX).ok()?;
        packed.split(|&b| b == b'\n').find_map(|line| {
            let (oid, rest) = line.split_at_checked(line.iter().position(|&b| b == b' ')?)?;
            let oid = std::str::from_utf8(oid).ok()?;
            (&rest[1..] == name.as_bytes() && is_oid(oid)).then(|| oid.to_owned())
        })
    }

    /// Whether the hub holds this commit.
    pub(crate) fn has_commit(&self, oid: &str) -> Result<bool> {
        let commit = format!("{oid}^{{commit}}");
        let out = self.git().args(["cat-file", "-e", &commit]).patient()?;
        Ok(is_oid(oid) && out.ok())
    }

    /// Whether the user's repository holds this commit.
    pub(super) fn user_has(&self, oid: &str) -> Result<bool> {
        let git = Git::on(&self.0.user).args(["cat-file", "-e", &format!("{oid}^{{commit}}")]);
        Ok(git.patient()?.ok())
    }

    /// Whether the history of commit `whole` contains `part`.
    pub(super) fn contains(&self, whole: &str, part: &str) -> Result<bool> {
        if whole == part {
            return Ok(true);
        }
        let git = self
            .git()
            .args(["merge-base", "--is-ancestor", part, whole]);
        let out = git.patient()?;
        match out.code {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(git.failure("cannot compare two commits", &out)),
        }
    }

    /// Keeps the tip of an old branch of this name if no other ref holds it.
    pub(super) fn keep_tip(&self, branch: &str, base: &Base) -> Result<()> {
        match self.read_ref(&format!("refs/heads/{branch}")) {
            Some(tip) if !self.contains(&base.oid, &tip)? => self.keep_ref(branch, &tip).map(drop),
            _ => Ok(()),
        }
    }

    /// `refs/harness/salvage/LABEL/OID12`.
    pub(super) fn salvage_name(&self, label: &str, oid: &str) -> String {
        let short = oid.get(..12).unwrap_or(oid);
        format!("{}/{short}", salvage_folder(label))
    }

    /// Keeps a commit under its `salvage_name` and reads the ref back.
    pub(super) fn keep_ref(&self, label: &str, oid: &str) -> Result<String> {
        let what = "cannot keep a commit";
        let name = self.salvage_name(label, oid);
        // Anybody else who writes this name writes the same commit.
        self.clear_ref_lock(&name);
        self.git().args(["update-ref", &name, oid]).must(what)?;
        let found = self
            .git()
            .args(["rev-parse", "--verify", &format!("{name}^{{commit}}")])
            .must(what)?;
        if found.line() != oid {
            return Err(
                Error::temporary(what, format!("{name} does not hold it")).at_path(self.dir())
            );
        }
        Ok(name)
    }

    /// Removes the lock that a killed git or a power cut left on a ref of the hub. Only for a ref
    /// that the caller alone writes.
    pub(super) fn clear_ref_lock(&self, full: &str) {
        let _gone = atomic::remove(&self.0.dir.join(format!("{full}.lock")));
    }

    /// Admin folders of slots whose HEAD is on this branch.
    pub(super) fn heads_on(&self, full: &str) -> impl Iterator<Item = PathBuf> {
        let want = format!("ref: {full}");
        let all = fs::read_dir(self.0.dir.join(SLOTS)).into_iter().flatten();
        all.flatten().map(|e| e.path()).filter(move |admin| {
            read_text(&admin.join("HEAD")).is_some_and(|head| head.trim_end() == want)
        })
    }
}

/// Base name of a repository's hub and of its lock.
pub(super) fn stem(name: &str) -> String {
    Name::new(name).ref_component()
}

/// A fetch that changes only the given refs: no FETCH_HEAD, no tags, no configured refspecs.
pub(super) fn fetch(git: Git, from: &Path, refspecs: &[&str]) -> Git {
    git.args([
        "fetch",
        "--quiet",
        "--no-write-fetch-head",
        "--no-tags",
        "--no-prune",
    ])
    .args([
        "--no-auto-maintenance",
        "--no-recurse-submodules",
        "--refmap=",
    ])
    .arg(from)
    .args(refspecs)
}

/// The same into the hub, where the boundary of a shallow history may follow the user's.
pub(super) fn fetch_in(hub: Git, from: &Path, refspecs: &[&str]) -> Git {
    fetch(hub, from, refspecs).arg("--update-shallow")
}

/// Reads a small text file of git's, which an agent may have replaced by anything.
pub(super) fn read_text(file: &Path) -> Option<String> {
    let bytes = atomic::read_small(file, STATE_FILE_BYTES_MAX).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn is_oid(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text.bytes().all(|b| b.is_ascii_hexdigit())
        && text.bytes().any(|b| b != b'0')
}

/// The folder of the refs that keep what was salvaged under this label.
pub(super) fn salvage_folder(label: &str) -> String {
    let label: Vec<String> = label
        .split('/')
        .filter(|part| !part.is_empty())
        .map(|part| Name::new(part).ref_component())
        .collect();
    format!("{SALVAGE}/{}", label.join("/"))
}
