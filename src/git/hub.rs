//! The hub: harness's own bare clone of one user repository, made on first use, and the base
//! commits of items.
//!
//! Knows nothing of worktrees (`admin`) or of publishing branches (`publish`). Invariant: no agent
//! has business in it, and the user's repository is only read here. A hub appears under its name complete or not at all, after
//! a power cut too. All set-up in it happens under its flock.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::debris::{aside, clear_odd};
use super::{Base, Git, Repo, config, promised, wait};
use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Result};
use crate::layout::{Name, Root};
use crate::limits::{BACKUPS_MAX, DEBRIS_AGE, PACKED_REFS_BYTES_MAX, STATE_FILE_BYTES_MAX};
use crate::mutant::planted;

/// Any commit of the repository: new worktrees are made at it, then moved to their base.
pub(super) const SEED: &str = "refs/harness/seed";
/// The folder in the hub with an admin folder for each slot: our HEAD and index of its worktree.
pub(super) const SLOTS: &str = "slots";
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
    /// Hooks defined by settings; those in folders are disabled by `core.hooksPath`.
    hooks: Vec<OsString>,
}

impl Hub {
    /// Opens the hub of `repo`, making it on first use. Concurrent callers wait for the first.
    ///
    /// # Errors
    /// Permanent: no such repository, or it has no commits yet. Temporary: the host's troubles.
    pub(crate) fn open(root: &Root, repo: &Repo) -> Result<Hub> {
        let git =
            Git::at(&repo.path).args(["rev-parse", "--path-format=absolute", "--git-common-dir"]);
        let user = git.must("cannot find the repository")?.path();
        atomic::make_dir(&root.repos(), true)?;
        let repos = root.repos();
        let repos = repos.canonicalize().or_fail("cannot find", &repos)?;
        let config::Settings { text, hooks } = config::read(&repo.path, repo.durable)?;
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
                settings: text.clone(),
                hooks: hooks.clone(),
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
        let _stays = self.clear_debris(DEBRIS_AGE, false);
        Ok(true)
    }

    /// Writes the hub's configuration where it is not ours: what an older version let agents write
    /// there ends here.
    pub(super) fn settle_config(&self, dir: &Path, durable: bool) -> Result<()> {
        let sha256 = self.has_sha256();
        let of_hub = config::of_hub(sha256);
        for (name, text) in [("config", &of_hub), (config::FILE, &self.0.settings)] {
            let file = dir.join(name);
            if !atomic::holds(&file, text) {
                if atomic::is_own_dir(&file) {
                    aside(&file, &file)?;
                }
                atomic::replace(&file, text, durable)?;
            }
        }
        Ok(())
    }

    /// A hub inside this one: of a submodule.
    pub(super) fn part(&self, dir: PathBuf, user: PathBuf, settings: Vec<u8>) -> Hub {
        let mut repo = self.0.repo.clone();
        (repo.path, repo.base) = (user.clone(), None);
        Hub(Arc::new(Inner {
            repo,
            lock: dir.with_extension("lock"),
            dir,
            user,
            settings,
            hooks: self.0.hooks.clone(),
        }))
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
        self.quiet(git).in_hub(&self.0.dir)
    }

    /// The command without hooks defined by the user's settings.
    pub(super) fn quiet(&self, git: Git) -> Git {
        git.without_hooks(&self.0.hooks)
    }

    /// Waits for others' set-up and locks it out. Dropping the file releases the lock.
    pub(super) fn lock(&self) -> Result<Arc<File>> {
        wait::lock(&self.0.lock)
    }

    /// Makes the hub beside its place and moves it there. The flock is held, so anything half-made
    /// there is abandoned.
    fn create(&self, root: &Root, stem: &str, lock: &Arc<File>) -> Result<()> {
        let parent = self.0.dir.parent().unwrap_or(Path::new("/"));
        let prefix = format!(".{stem}-");
        let listed = fs::read_dir(parent).or_fail("cannot list", parent)?;
        for entry in listed.flatten() {
            let name = entry.file_name();
            let rest = name.to_str().and_then(|n| n.strip_prefix(&prefix));
            let pid = rest.and_then(|r| r.strip_suffix(".tmp"));
            if pid.is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit())) {
                atomic::discard_tree(&entry.path(), "a half-made copy whose maker is dead")?;
            }
        }
        let seed = self.seed()?;
        let temp = parent.join(format!("{prefix}{}.tmp", std::process::id()));
        let made = self
            .clone_to(&temp, lock)
            .and_then(|()| self.fill(&temp, &seed))
            .and_then(|()| self.note_owner(root, &temp))
            .and_then(|()| match self.0.repo.durable {
                // `git clone` syncs nothing, and a hub with an empty file in it is unusable.
                true => atomic::sync_tree(&temp),
                false => Ok(()),
            });
        if let Err(e) = made {
            let _gone = atomic::discard_tree(&temp, "a half-made copy of our own");
            return Err(e);
        }
        match atomic::rename_new(&temp, &self.0.dir)? {
            Moved::Done if self.0.repo.durable => atomic::sync_dir(parent),
            Moved::Done => Ok(()),
            _ => Err(Error::temporary(
                "cannot place the copy of the repository",
                "somebody else changes the directory",
            )
            .at_path(&self.0.dir)),
        }
    }

    /// Any commit of the user's repository; an error if it has none.
    fn seed(&self) -> Result<String> {
        let head = Git::at(&self.0.repo.path)
            .args(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])
            .output()?;
        if head.ok() {
            return Ok(head.line());
        }
        let any = Git::on(&self.0.user)
            .args([
                "for-each-ref",
                "--count=1",
                "--format=%(objectname)",
                "refs/heads",
            ])
            .must("cannot list the branches")?
            .line();
        if any.is_empty() {
            return Err(no_commits(&self.0.repo.path));
        }
        Ok(any)
    }

    /// Hard-linked objects and no alternates: a `gc` on one side cannot break the other.
    fn clone_to(&self, temp: &Path, lock: &Arc<File>) -> Result<()> {
        let user = &self.0.user;
        let clone = |local: bool| {
            // Git 2.38 does not accept `--origin` with `--bare`.
            let mut git = self
                .quiet(Git::at(Path::new("/")))
                .set("clone.defaultRemoteName", "origin")
                .args(["clone", "--bare", "--quiet", "--template="]);
            if atomic::exists(&user.join("objects/info/alternates")) {
                git = git.arg("--dissociate");
            }
            if !local {
                git = git.arg("--no-local");
            }
            git.arg("--").arg(user).arg(temp).holding(Some(lock))
        };
        let first = clone(true);
        let out = first.patient()?;
        if out.ok() {
            return Ok(());
        }
        // A local clone refuses some layouts (symlinks among the objects): copy instead.
        atomic::discard_tree(temp, "a half-made copy of our own")?;
        if clone(false).patient()?.ok() {
            return Ok(());
        }
        Err(first.failure("cannot copy the repository", &out))
    }

    fn fill(&self, temp: &Path, seed: &str) -> Result<()> {
        let what = "cannot set up the copy of the repository";
        let git = || self.quiet(Git::on(temp));
        let texts = [
            ("config", &config::of_hub(seed.len() == 64)),
            (config::FILE, &self.0.settings),
        ];
        for (name, text) in texts {
            atomic::replace(&temp.join(name), text, false)?;
        }
        fetch_in(
            git(),
            &self.0.user,
            &["+refs/remotes/*:refs/remotes/*", "^refs/remotes/*/HEAD"],
        )
        .must(what)?;
        fetch_in(git(), &self.0.user, &[&format!("+{seed}:{SEED}")]).must(what)?;
        let heads = Git::on(&self.0.user)
            .args([
                "for-each-ref",
                "--format=%(refname) %(symref)",
                "refs/remotes",
            ])
            .must(what)?;
        for line in String::from_utf8_lossy(&heads.stdout).lines() {
            if let Some((name, target)) = line.split_once(' ').filter(|(_, t)| !t.is_empty()) {
                git().args(["symbolic-ref", name, target]).must(what)?;
            }
        }
        // A branch named `harness` would block all `harness/…`: it is not kept in the hub.
        if git()
            .args(["rev-parse", "--verify", "--quiet", "refs/heads/harness"])
            .output()?
            .ok()
        {
            git()
                .args(["update-ref", "-d", "refs/heads/harness"])
                .must(what)?;
        }
        Ok(())
    }

    /// The commit that `wanted` names in the user's repository now, present in the hub. Without
    /// `wanted`: the configured base, else the branch the user is on, else HEAD's commit.
    ///
    /// # Errors
    /// Permanent if there is no such base, with a text that can be the item's refusal.
    pub(crate) fn base(&self, wanted: Option<&str>) -> Result<Base> {
        clear_odd(self.dir(), self.dir());
        let wanted = wanted.or(self.0.repo.base.as_deref());
        let rev = wanted.unwrap_or("HEAD");
        let (oid, full) = self.resolve(rev, wanted.is_some())?;
        let branch = full.strip_prefix("refs/heads/");
        let name = match wanted {
            Some(w) => w.to_owned(),
            None => branch.unwrap_or(&oid).to_owned(),
        };
        let base = Base { name, oid };
        let pin = format!("refs/harness/base/{}", Name::new(&full).ref_component());
        let here = |name: &str| self.read_ref(name).as_deref() == Some(&base.oid);
        if here(if branch.is_some() { &full } else { &pin }) {
            return Ok(base);
        }
        let lock = self.lock()?;
        if !here(&pin) {
            self.clear_ref_lock(&pin);
            let git = self.git().holding(Some(&lock));
            let what = "cannot bring the base into harness's copy of the repository";
            self.fetch_of_user(git, &[&format!("+{}:{pin}", base.oid)], what)?;
        }
        if branch.is_some() {
            self.follow(&full, &base.oid, &lock)?;
        }
        Ok(base)
    }

    /// Fetches from the user's repository, also where that is a partial clone.
    pub(super) fn fetch_of_user(&self, hub: Git, specs: &[&str], what: &str) -> Result<()> {
        let (user, durable) = (&self.0.user, self.0.repo.durable);
        let git = fetch_in(hub, user, specs);
        let out = git.patient()?;
        if out.ok() {
            return Ok(());
        }
        match promised::share(user, self.dir(), durable)? {
            true => git.must(what).map(drop),
            false => Err(git.failure(what, &out)),
        }
    }

    /// Object id and full name (or the given name) of a revision in the user's repository.
    fn resolve(&self, rev: &str, asked: bool) -> Result<(String, String)> {
        let path = &self.0.repo.path;
        let missing = || {
            Error::permanent(
                format!("the base `{}` does not exist", rev.escape_debug()),
                "it names no commit in the repository",
            )
            .at_path(path)
            .hint("name a branch that exists there (`git branch --list`)")
        };
        if rev.is_empty() || rev.starts_with('-') || rev.chars().any(char::is_control) {
            return Err(missing());
        }
        let ask = |rev: &str| {
            let commit = format!("{rev}^{{commit}}");
            Git::at(path).args(["rev-parse", &commit, "--symbolic-full-name", rev])
        };
        // A branch wins over a tag of the same name, as with `git checkout`; git then prints no
        // full name, or the tag's.
        let git = ask(rev);
        let mut out = git.output()?;
        if out.ok() && asked && !out.line().contains("\nrefs/heads/") {
            let as_branch = ask(&format!("refs/heads/{rev}")).output()?;
            if as_branch.ok() {
                out = as_branch;
            }
        }
        if out.ok() {
            let text = out.line();
            let mut lines = text.lines();
            let oid = lines.next().unwrap_or_default().to_owned();
            let full = lines.next().filter(|l| l.starts_with("refs/"));
            return Ok((oid, full.unwrap_or(rev).to_owned()));
        }
        let unknown = [
            "unknown revision",
            "ambiguous argument",
            "bad revision",
            "Needed a single",
        ];
        if !unknown.iter().any(|w| out.stderr.contains(w)) {
            return Err(git.failure("cannot look up the base", &out));
        }
        Err(if asked { missing() } else { no_commits(path) })
    }

    /// Moves the hub's branch to where the user's is, so that `git diff main` means what an agent
    /// expects. A convenience: without it, items still begin at the right commit.
    fn follow(&self, full: &str, oid: &str, lock: &Arc<File>) -> Result<()> {
        let old = self.read_ref(full);
        if old.as_deref() == Some(oid) {
            return Ok(());
        }
        if let Some(old) = &old
            && !self.contains(oid, old)?
        {
            self.keep_ref(&format!("base/{}", Name::new(full).ref_component()), old)?;
        }
        let mut args = vec!["update-ref", full, oid];
        args.extend(old.as_deref());
        let _moved = self.git().holding(Some(lock)).args(args).brief()?;
        Ok(())
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
        let label: Vec<String> = label
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| Name::new(part).ref_component())
            .collect();
        let short = oid.get(..12).unwrap_or(oid);
        format!("{SALVAGE}/{}/{short}", label.join("/"))
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

fn no_commits(path: &Path) -> Error {
    Error::permanent(
        "cannot begin from HEAD",
        "the branch it is on has no commits yet",
    )
    .at_path(path)
    .hint("make a first commit (`git commit --allow-empty -m start`), or set `base` in [repo]")
}
