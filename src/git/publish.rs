//! The writes into the user's repository: publishing and unpublishing a finished branch. (`lfs` adds
//! the branch's LFS objects to theirs.)
//!
//! Knows nothing of items. Invariant: objects come first, under a ref that no `git gc` of the
//! user's overlooks (`HELD`), then one branch by compare-and-swap; the holding ref goes when the
//! branch stands. No other ref, no index, configuration, FETCH_HEAD or file of the user's changes,
//! and a repetition changes nothing. What is reported as published survives a power cut. Locks that
//! a power cut left there are never removed, and nothing waits for them for ever.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use super::hub::fetch;
use super::{Git, Hub, Output, is_lock_trouble, passes, promised};
use crate::atomic;
use crate::error::{Error, Result};
use crate::mutant::planted;

/// Holds a branch's commits while the branch is made: `git branch` does not show it. Below it lie those
/// of each tree that publishes into this repository.
const HELD: &str = "refs/harness/held";

/// The user's repository, as written to by the holder of a slot.
#[derive(Debug)]
pub(crate) struct Users<'a> {
    hub: &'a Hub,
    lock: Option<Arc<File>>,
}

enum Brought {
    Held,
    /// Somebody's lock stays on the holding ref.
    Locked(Error),
}

impl Hub {
    /// Every git in the user's repository holds the slot's lease open while it runs, so that the
    /// slot's next holder waits for the git of a killed harness.
    pub(crate) fn users(&self, lock: Option<Arc<File>>) -> Users<'_> {
        Users { hub: self, lock }
    }

    /// Deletes the hub's `branch` if it is at `oid` and other refs hold all its commits: the item
    /// changed nothing.
    pub(crate) fn forget(&self, branch: &str, oid: &str) -> Result<()> {
        let full = format!("refs/heads/{branch}");
        let what = "cannot forget an empty branch";
        if let Some(kept) = self.kept() {
            kept.forget(branch, oid)?;
            self.told().remove(&full);
        }
        if self.read_ref(&full).as_deref() != Some(oid) {
            return Ok(());
        }
        let alone = self
            .git()
            .args(["rev-list", "--max-count=1", oid, "--not"])
            .arg(format!("--exclude={full}"))
            // Not `--all`: that would count the HEAD of its worktree, which is on this very branch.
            .args(["--glob=refs/*", "--"])
            .must(what)?;
        if !alone.stdout.is_empty() {
            return Ok(());
        }
        // A slot's HEAD on a missing branch would make every file of its tree look new.
        for admin in self.heads_on(&full) {
            if fs::metadata(&admin).is_ok_and(|m| m.is_dir()) {
                atomic::replace(&admin.join("HEAD"), format!("{oid}\n").as_bytes(), false)?;
            }
        }
        // A stale `packed-refs.lock` must not delay every item that changed nothing.
        let git = self.git().args(["update-ref", "-d", &full, oid]);
        match git.brief()? {
            out if out.ok() => Ok(()),
            out => Err(git.failure(what, &out)),
        }
    }
}

impl Users<'_> {
    pub(super) fn hub(&self) -> &Hub {
        self.hub
    }

    /// Copies a commit and its history into the user's repository, where a ref of harness's own
    /// holds them until `release`: the user's `git gc` removes what no ref holds. Returns its name.
    ///
    /// # Errors
    /// Permanent if only a person can mend it, as where the hub has lost some of these objects.
    pub(crate) fn bring(&self, oid: &str, short_id: &str) -> Result<String> {
        if self.hub.kept().is_some() {
            // The disk of the host that made it may be gone. Where it is nowhere, the fetch says so.
            self.hub.finds_commit(oid)?;
        }
        let [first, second] = names(&self.holding(short_id), "again");
        // The second name where a killed git or a power cut left a lock on the first.
        let held = match self.bring_under(&first, oid)? {
            Brought::Held => first,
            Brought::Locked(_) => match self.bring_under(&second, oid)? {
                Brought::Held => second,
                Brought::Locked(e) => return Err(e),
            },
        };
        self.hub.give_lfs_to_user(oid).map(|()| held)
    }

    fn bring_under(&self, held: &str, oid: &str) -> Result<Brought> {
        let what = "cannot copy the branch's commits into your repository";
        let refspec = match planted("brought-unheld") {
            true => oid.to_owned(),
            false => format!("+{oid}:{held}"),
        };
        // As a pack, which git keeps from a `gc` until the ref stands.
        let git = || fetch(self.git(), self.hub.dir(), &[&refspec]).set("fetch.unpackLimit", "1");
        // Git would make the ref at once, to objects that a `gc` of the user's may just be taking.
        let first = match self.is_there_unheld(oid)? && !planted("brought-unheld-again") {
            true => git().arg("--refetch"),
            false => git(),
        };
        let out = first.patient()?;
        if out.ok() && self.is_whole(oid)? {
            return Ok(Brought::Held);
        }
        if is_lock_trouble(&out.stderr) {
            return Ok(Brought::Locked(lasting_or_not(&first, what, &out)));
        }
        if !out.ok() && passes(&out.stderr) {
            return Err(first.failure(what, &out));
        }
        let (hub, durable) = (self.hub, self.hub.repo().durable);
        if promised::share(hub.dir(), hub.user(), durable)?
            && git().patient()?.ok()
            && self.is_whole(oid)?
        {
            return Ok(Brought::Held);
        }
        // A ref to what is missing would fail a `gc` of the user's until all of it is there.
        let _gone = self.git().args(["update-ref", "-d", held]).brief()?;
        // Some of its objects were there, unheld, and git took them for all: now all are copied.
        let second = git().arg("--refetch");
        let out = second.patient()?;
        match out.ok() {
            true if self.is_whole(oid)? => Ok(Brought::Held),
            true => Err(Error::permanent(what, "its objects vanish again at once")
                .at_path(self.hub.user())
                .hint("look for what removes objects there (`git fsck`)")),
            false => Err(lasting_or_not(&second, what, &out)),
        }
    }

    /// Removes the refs that `bring` made, and what was to become one.
    pub(crate) fn release(&self, short_id: &str) -> Result<()> {
        self.drop_keeps(|of| of == self.holding(short_id));
        let list = self.git().args(["for-each-ref", "--format=%(refname)"]);
        let list = list.args(names(&self.holding(short_id), "again"));
        let held = list.must("cannot list harness's own refs")?.line();
        held.lines().try_for_each(|full| self.release_ref(full))
    }

    /// Removes the ref that `bring` returned.
    pub(crate) fn release_ref(&self, full: &str) -> Result<()> {
        let git = self.git().args(["update-ref", "-d", full]);
        let out = git.brief()?;
        if out.ok() || self.value(full)?.is_none() {
            return Ok(());
        }
        let what = "cannot remove a ref of harness's own in your repository";
        Err(lasting_or_not(&git, what, &out))
    }

    /// Removes this tree's holding refs but those for `live`, the ids that were given to `bring`. A power
    /// cut can bring one back, or leave one of an attempt that is on no record.
    pub(crate) fn release_all_but(&self, live: &BTreeSet<String>) -> Result<()> {
        let ours = self.holding("");
        self.drop_keeps(|of| of.strip_prefix(&ours).is_some_and(|id| !live.contains(id)));
        let list = self.git().args(["for-each-ref", "--format=%(refname)"]);
        let list = list.arg(&ours).must("cannot list harness's own refs")?;
        for full in list.line().lines() {
            let id = full.strip_prefix(&ours).unwrap_or_default();
            if !live.contains(id.strip_suffix("-again").unwrap_or(id)) {
                // One that is locked stays, and does no harm.
                let _stays = self.git().args(["update-ref", "-d", full]).brief()?;
            }
        }
        Ok(())
    }

    /// The holding ref of an id. A tree is told from others by its folder's inode and time of birth,
    /// which stay the same over a restart of the machine.
    pub(super) fn holding(&self, id: &str) -> String {
        let (inode, born) = atomic::birth(&self.hub.repo().root);
        format!("{HELD}/{inode:x}-{born:x}/{id}")
    }

    /// Whether the commit and its history are there, as far as the user's own refs do not vouch for
    /// them.
    pub(super) fn is_whole(&self, oid: &str) -> Result<bool> {
        let git = self.git().args(["rev-list", "--objects", "--quiet"]);
        // In a partial clone, what its remote has promised may be missing.
        let git = git.args(["--exclude-promisor-objects", oid, "--not"]);
        let git = git.arg(format!("--exclude={HELD}/*"));
        // Not `--all`: that would count the HEAD of who has the branch checked out.
        let git = git.args(["--exclude=refs/heads/harness/*", "--glob=refs/*", "--"]);
        Ok(git.output()?.ok())
    }

    /// Whether the commit is there and no ref holds it: a process died that had brought it.
    fn is_there_unheld(&self, oid: &str) -> Result<bool> {
        let git = self.git().args(["rev-list", "--max-count=1", oid]);
        let out = git.args(["--not", "--glob=refs/*", "--"]).output()?;
        Ok(out.ok() && !out.stdout.is_empty())
    }

    /// The name under which `publish` made the branch, if it did and all of it is there.
    pub(crate) fn published(
        &self,
        branch: &str,
        oid: &str,
        short_id: &str,
    ) -> Result<Option<String>> {
        for name in names(branch, short_id) {
            if self.value(&format!("refs/heads/{name}"))?.as_deref() == Some(oid) {
                return Ok(self.is_whole(oid)?.then_some(name));
            }
        }
        Ok(None)
    }

    /// Makes `branch` at `oid`, which `bring` copied, in the user's repository. The name is
    /// `BRANCH-SHORT_ID` if BRANCH is at another commit or its lock stays (perhaps since a power
    /// cut). Returns the name.
    ///
    /// # Errors
    /// Permanent if neither name is possible (a branch is called `harness`).
    pub(crate) fn publish(&self, branch: &str, oid: &str, short_id: &str) -> Result<String> {
        let what = "cannot make the branch in your repository";
        let mut locked = None;
        for name in names(branch, short_id) {
            let full = format!("refs/heads/{name}");
            let none = "0".repeat(oid.len());
            let none = match planted("git-publish-without-swap") {
                true => self.value(&full)?.unwrap_or(none),
                false => none,
            };
            let git = self.git().args(["update-ref", &full, oid, &none]);
            let out = git.patient()?;
            if out.ok() || self.value(&full)?.as_deref() == Some(oid) {
                self.sync_ref(&full)?;
                if !self.is_whole(oid)? {
                    self.bring(oid, short_id)?;
                }
                return Ok(name);
            }
            if self.value(&full)?.is_none() {
                let e = lasting_or_not(&git, what, &out);
                if !is_lock_trouble(&out.stderr) {
                    return Err(e);
                }
                locked = Some(e);
            }
        }
        Err(locked.unwrap_or_else(|| {
            let [first, second] = names(branch, short_id);
            let why = format!("both {first} and {second} are other commits there");
            Error::permanent(what, why)
                .at_path(self.hub.user())
                .hint("rename these branches (`git branch -m OLD NEW`)")
        }))
    }

    /// Removes the branch that `publish` made, under either name. Returns as `unpublish`.
    pub(crate) fn unpublish_any(&self, branch: &str, oid: &str, short_id: &str) -> Result<bool> {
        let mut any = false;
        for name in names(branch, short_id) {
            any |= self.unpublish(&name, oid)?;
        }
        Ok(any)
    }

    /// Removes a published branch if it is still at `oid` and not checked out; `false` if it stays
    /// or was gone.
    pub(crate) fn unpublish(&self, published: &str, oid: &str) -> Result<bool> {
        let full = format!("refs/heads/{published}");
        let git = self.git().args([
            "for-each-ref",
            "--format=%(refname) %(objectname) %(worktreepath)",
            &full,
        ]);
        let out = git.must("cannot look up the published branch")?;
        let free = format!("{full} {oid} ");
        if !String::from_utf8_lossy(&out.stdout)
            .lines()
            .any(|l| l == free)
        {
            return Ok(false);
        }
        let git = self.git().args(["update-ref", "-d", &full, oid]);
        let out = git.patient()?;
        if !out.ok() && self.value(&full)?.as_deref() == Some(oid) {
            let what = "cannot take the published branch away";
            return Err(lasting_or_not(&git, what, &out));
        }
        self.sync_ref(&full)?;
        Ok(out.ok())
    }

    /// By default git syncs neither loose objects nor refs: a power cut could leave them empty.
    pub(super) fn git(&self) -> Git {
        let git = self.hub.quiet(Git::on(self.hub.user()));
        let git = git.holding(self.lock.as_ref());
        if self.hub.repo().durable {
            git.synced()
        } else {
            git
        }
    }

    /// A git as the user would run it there: a remote's path may be relative to the checkout.
    pub(super) fn git_in_checkout(&self) -> Git {
        let git = self.hub.quiet(Git::at(&self.hub.repo().path));
        git.holding(self.lock.as_ref())
    }

    /// Syncs the folders above a ref: git syncs only the ref's file. The journal keeps its order,
    /// so the folders of the objects, changed earlier, reach the disk too.
    pub(super) fn sync_ref(&self, full: &str) -> Result<()> {
        if !self.hub.repo().durable {
            return Ok(());
        }
        let folders = Path::new(full).ancestors().skip(1);
        for folder in folders.chain([Path::new("reftable")]) {
            let folder = self.hub.user().join(folder);
            match atomic::sync_dir(&folder) {
                // Missing with another ref format, or because git removes empty folders.
                Err(_) if atomic::is_gone(&folder) => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    pub(super) fn value(&self, full: &str) -> Result<Option<String>> {
        let out = self
            .git()
            .args(["rev-parse", "--verify", "--quiet", full])
            .output()?;
        Ok(out.ok().then(|| out.line()))
    }
}

fn names(branch: &str, short_id: &str) -> [String; 2] {
    [branch.to_owned(), format!("{branch}-{short_id}")]
}

/// git's failure. Permanent, unless it is the host's trouble: what else is wrong in the user's
/// repository (a lock that outlasted all waiting, damaged objects, a setting) only a person mends.
pub(super) fn lasting_or_not(git: &Git, what: &str, out: &Output) -> Error {
    let e = git.failure(what, out);
    match passes(&out.stderr) && !is_lock_trouble(&out.stderr) {
        true => e,
        false => e.lasting(),
    }
}
