//! The commit that an item begins from: found in the user's repository, brought into the hub.
//!
//! Knows nothing of worktrees. The user's repository is only read.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::clone::no_commits;
use super::debris::clear_odd;
use super::hub::{Hub, fetch_in, read_text};
use super::{Base, Git, promised};
use crate::error::{Error, Result};
use crate::layout::Name;

impl Hub {
    /// The commit that `wanted` names in the user's repository now, present in the hub. Without
    /// `wanted`: the configured base, else the branch the user is on, else HEAD's commit.
    ///
    /// # Errors
    /// Permanent if there is no such base, with a text that can be the item's refusal.
    pub(crate) fn base(&self, wanted: Option<&str>) -> Result<Base> {
        let wanted = wanted.or(self.repo().base.as_deref());
        let rev = wanted.unwrap_or("HEAD");
        let (oid, full) = self.resolve(rev, wanted.is_some())?;
        let branch = full.strip_prefix("refs/heads/");
        let name = match wanted {
            Some(w) => w.to_owned(),
            None => branch.unwrap_or(&oid).to_owned(),
        };
        self.bring_base(Base { name, oid }, &full)
    }

    /// Brings the commit into the hub. `full`: the name of its ref, if it has one.
    pub(super) fn bring_base(&self, base: Base, full: &str) -> Result<Base> {
        clear_odd(self.dir(), self.dir());
        let is_branch = full.starts_with("refs/heads/");
        let pin = format!("refs/harness/base/{}", Name::new(full).ref_component());
        let here = |name: &str| self.read_ref(name).as_deref() == Some(&base.oid);
        if here(if is_branch { full } else { &pin }) {
            return Ok(base);
        }
        let lock = self.lock()?;
        if !here(&pin) {
            self.clear_ref_lock(&pin);
            let git = self.git().holding(Some(&lock));
            let what = "cannot bring the base into harness's copy of the repository";
            self.fetch_of_user(git, &[&format!("+{}:{pin}", base.oid)], what)?;
        }
        if is_branch {
            self.follow(full, &base.oid, &lock)?;
        }
        Ok(base)
    }

    /// The user's branch was just moved to a commit that was made here: the hub's goes along, so that it
    /// need not be brought. A convenience.
    pub(crate) fn has_landed(&self, branch: &str, old: &str, new: &str) {
        let full = format!("refs/heads/{branch}");
        let git = self.git().args(["update-ref", &full, new, old]);
        let _brought_later = git.brief();
    }

    /// Fetches from the user's repository, also where that is a partial clone.
    pub(super) fn fetch_of_user(&self, hub: Git, specs: &[&str], what: &str) -> Result<()> {
        self.fetch_from(hub, self.user(), specs, what)
    }

    /// Fetches into this hub from another repository, also where that is a partial clone.
    pub(super) fn fetch_from(
        &self,
        hub: Git,
        from: &Path,
        specs: &[&str],
        what: &str,
    ) -> Result<()> {
        let git = fetch_in(hub, from, specs);
        let out = git.patient()?;
        if out.ok() {
            return Ok(());
        }
        match promised::share(from, self.dir(), self.repo().durable)? {
            true => git.must(what).map(drop),
            false => Err(git.failure(what, &out)),
        }
    }

    /// Brings in the history that the user's shallow clone has got since it was brought in cut off.
    /// `false`: there is no more.
    pub(super) fn deepen(&self) -> Result<bool> {
        let cut_at = || read_text(&self.dir().join("shallow"));
        let Some(before) = cut_at() else {
            return Ok(false);
        };
        let lock = self.lock()?;
        let oids: Vec<&str> = before.lines().collect();
        let git = self.git().holding(Some(&lock));
        let git = fetch_in(git, self.user(), &oids).arg("--unshallow");
        git.must("cannot bring in the rest of the history")?;
        Ok(cut_at().as_ref() != Some(&before))
    }

    /// Object id and full name (or the given name) of a revision in the user's repository.
    pub(super) fn resolve(&self, rev: &str, asked: bool) -> Result<(String, String)> {
        let path = &self.repo().path;
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
}
