//! Makes a hub: a bare clone of the user's repository, as it is now.
//!
//! Invariant: it appears under its name complete or not at all, after a power cut too.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use super::hub::{Hub, SEED, fetch_in};
use super::{Git, config};
use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Result};
use crate::layout::Root;

impl Hub {
    /// Makes the hub beside its place and moves it there. The flock is held, so anything half-made
    /// there is abandoned.
    pub(super) fn create(&self, root: &Root, stem: &str, lock: &Arc<File>) -> Result<()> {
        let parent = self.dir().parent().unwrap_or(Path::new("/"));
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
            .and_then(|()| match self.repo().durable {
                // `git clone` syncs nothing, and a hub with an empty file in it is unusable.
                true => atomic::sync_tree(&temp),
                false => Ok(()),
            });
        if let Err(e) = made {
            let _gone = atomic::discard_tree(&temp, "a half-made copy of our own");
            return Err(e);
        }
        match atomic::rename_new(&temp, self.dir())? {
            Moved::Done if self.repo().durable => atomic::sync_dir(parent),
            Moved::Done => Ok(()),
            _ => Err(Error::temporary(
                "cannot place the copy of the repository",
                "somebody else changes the directory",
            )
            .at_path(self.dir())),
        }
    }

    /// Any commit of the user's repository; an error if it has none.
    fn seed(&self) -> Result<String> {
        let head = Git::at(&self.repo().path)
            .args(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])
            .output()?;
        if head.ok() {
            return Ok(head.line());
        }
        let any = Git::on(self.user())
            .args([
                "for-each-ref",
                "--count=1",
                "--format=%(objectname)",
                "refs/heads",
            ])
            .must("cannot list the branches")?
            .line();
        if any.is_empty() {
            return Err(no_commits(&self.repo().path));
        }
        Ok(any)
    }

    /// Hard-linked objects and no alternates: a `gc` on one side cannot break the other.
    fn clone_to(&self, temp: &Path, lock: &Arc<File>) -> Result<()> {
        let user = self.user();
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
            ("config", config::of_hub(seed.len() == 64)),
            (config::FILE, [self.settings(), self.filters()].concat()),
        ];
        for (name, text) in texts {
            atomic::replace(&temp.join(name), &text, false)?;
        }
        fetch_in(
            git(),
            self.user(),
            &["+refs/remotes/*:refs/remotes/*", "^refs/remotes/*/HEAD"],
        )
        .must(what)?;
        fetch_in(git(), self.user(), &[&format!("+{seed}:{SEED}")]).must(what)?;
        let heads = Git::on(self.user())
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
}

pub(super) fn no_commits(path: &Path) -> Error {
    Error::permanent(
        "cannot begin from HEAD",
        "the branch it is on has no commits yet",
    )
    .at_path(path)
    .hint("make a first commit (`git commit --allow-empty -m start`), or set `base` in [repo]")
}
