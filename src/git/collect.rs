//! Collects an item's work when it has ended: all of it in commits that its branch holds.
//!
//! The caller guarantees that no process works in the tree. Invariant: nothing counts as collected before
//! git reports a clean tree.

use std::fs;

use super::debris::open_folder;
use super::incremental_checkout::quick_status;
use super::nested::open_hidden;
use super::salvage::{Author, printable};
use super::state::TreeState;
use super::{Base, Worktree};
use crate::atomic;
use crate::error::{Error, Result};

/// The result of an item's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collected {
    /// The commit that holds all of it; `refs/heads/BRANCH` of the hub points to it.
    pub head: String,
    /// Commits that are not in the base.
    pub commits: u64,
    /// Something was uncommitted, and harness committed it.
    pub leftover: bool,
    /// Files that differ from the base.
    pub files_changed: u64,
    /// Why that is no work yet: conflicts of a merge that it left unresolved.
    pub unfinished: Option<String>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// What the branch does not bring to the user, and where it lies.
    pub elsewhere: Vec<String>,
}

impl Worktree {
    /// Commits what the agent left uncommitted and makes `refs/heads/BRANCH` of the hub hold all of
    /// its work. `author` is `Name <address>`.
    ///
    /// # Errors
    /// If it could not be verified that everything is saved; the tree is then left as it is.
    pub(crate) fn collect(
        &self,
        branch: &str,
        base: &Base,
        message: &str,
        author: &str,
    ) -> Result<Collected> {
        let collected = self.collect_here(branch, base, message, author)?;
        let is_made = collected.head != base.oid;
        self.hub.keep(is_made.then_some(branch))?;
        Ok(collected)
    }

    fn collect_here(
        &self,
        branch: &str,
        base: &Base,
        message: &str,
        author: &str,
    ) -> Result<Collected> {
        self.clear_locks()?;
        self.clear_branch_lock(branch);
        let _was_open = open_folder(&self.dir);
        if self.dir == self.top {
            open_hidden(&self.dir);
        }
        let mut notes = self.bring_in()?;
        let within = self.collect_submodules(branch, base, message, author)?;
        notes.extend(within.notes);
        let mut elsewhere = within.elsewhere;
        let full = format!("refs/heads/{branch}");
        if !atomic::is_own_dir(&self.dir) {
            notes.push(
                "the worktree's directory was removed: only commits could be kept".to_owned(),
            );
            let head = self
                .rev("HEAD^{commit}")?
                .unwrap_or_else(|| base.oid.clone());
            let head = self.settle(&head, &full, base, &mut notes)?;
            notes.extend(self.salvaged(branch, base, &head)?);
            return self.count(head, base, false, (notes, elsewhere));
        }
        let author = Author::parse(author);
        let (state, leftover) = match self.state_if_readable()? {
            Ok(state) => {
                let (state, nested) = self.adopt_nested(base, state)?;
                notes.extend(nested.notes);
                elsewhere.extend(nested.elsewhere);
                elsewhere.extend(self.unread(&state));
                match state.dirty {
                    true => (self.commit_all(&state, message, author)?, true),
                    false => (state, false),
                }
            }
            Err(_) => {
                let why = "git could not read the index: the files were committed as they are";
                notes.push(why.to_owned());
                let before = self.rev("HEAD^{commit}")?;
                let after = self.rescue(message, author)?;
                let leftover = after.head != before;
                (after, leftover)
            }
        };
        if fs::symlink_metadata(self.dir.join(".git")).map_or(true, |m| !m.is_file()) {
            notes.push("the agent replaced or removed the worktree's .git".to_owned());
        }
        let head = match (state.head, state.branch) {
            (Some(head), Some(on)) if on == branch => head,
            (head, _) => {
                let head = head.unwrap_or_else(|| base.oid.clone());
                let settled = self.settle(&head, &full, base, &mut notes)?;
                if settled == head {
                    let text = format!("ref: {full}\n");
                    atomic::replace(&self.admin.join("HEAD"), text.as_bytes(), false)?;
                }
                settled
            }
        };
        notes.extend(self.salvaged(branch, base, &head)?);
        self.count(head, base, leftover, (notes, elsewhere))
    }

    /// Commits everything on top of HEAD; through a private index if git fails.
    fn commit_all(
        &self,
        state: &TreeState,
        message: &str,
        author: Author<'_>,
    ) -> Result<TreeState> {
        let left_out = [&state.nested[..], &state.unclean].concat();
        let added = self.add_all(self.git(), &left_out)?;
        if added.ok() {
            let message = printable(message);
            let by = format!("--author={} <{}>", author.name, author.email);
            let _seen_below = author
                .sign(self.git())
                .args([
                    "commit",
                    "--quiet",
                    "--no-verify",
                    "--cleanup=verbatim",
                    &by,
                    "-m",
                    &message,
                ])
                .patient()?;
            // This status also updates the untracked cache for the next item's check.
            let after = self.read_state(quick_status(self.git()))??;
            if !after.dirty {
                return Ok(after);
            }
        }
        self.rescue(message, author)
    }

    /// Commits the files on disk through a private index; HEAD and the index then follow.
    fn rescue(&self, message: &str, author: Author<'_>) -> Result<TreeState> {
        let mut commit = self.snapshot(message, author)?;
        let head = self.rev("HEAD")?;
        if self.rev(&format!("{commit}^{{tree}}"))? == self.rev("HEAD^{tree}")?
            && self.rev("MERGE_HEAD")?.is_none()
        {
            // Nothing changed: an empty commit would be published as if it were work.
            commit = head.unwrap_or(commit);
        }
        self.hub.keep_ref("rescue", &commit)?;
        atomic::remove(&self.admin.join("MERGE_HEAD"))?;
        atomic::replace(
            &self.admin.join("HEAD"),
            format!("{commit}\n").as_bytes(),
            false,
        )?;
        atomic::rename_over(&self.private_index(), &self.admin.join("index"))?;
        let after = self.state()?;
        if after.dirty || after.head.as_deref() != Some(&commit) {
            return Err(Error::temporary(
                "cannot save the agent's work",
                "git still sees uncommitted changes: something still writes there",
            )
            .at_path(&self.dir));
        }
        Ok(after)
    }

    /// Makes the branch hold `head`, wherever HEAD is. What only the branch's old tip holds is
    /// kept; a tip that contains `head` stays.
    fn settle(
        &self,
        head: &str,
        full: &str,
        base: &Base,
        notes: &mut Vec<String>,
    ) -> Result<String> {
        let old = self.hub.read_ref(full);
        if let Some(tip) = &old {
            // The agent ended on `main`, say, which the user has moved on meanwhile: HEAD holds
            // nothing of this item's.
            if self.hub.contains(tip, head)? || self.hub.user_has(head)? {
                return Ok(tip.clone());
            }
            if !self.hub.contains(head, tip)? && !self.hub.contains(&base.oid, tip)? {
                let label = full.strip_prefix("refs/heads/").unwrap_or(full);
                let kept = self.hub.keep_ref(label, tip)?;
                notes.push(format!(
                    "HEAD and the branch parted; the branch's own commits are kept as {kept}"
                ));
            }
        }
        let none = "0".repeat(head.len());
        self.hub
            .git()
            .args(["update-ref", full, head, old.as_deref().unwrap_or(&none)])
            .must("cannot set the item's branch")?;
        Ok(head.to_owned())
    }

    fn count(
        &self,
        head: String,
        base: &Base,
        leftover: bool,
        (notes, elsewhere): (Vec<String>, Vec<String>),
    ) -> Result<Collected> {
        let what = "cannot compare the branch with its base";
        let (mut commits, mut files_changed) = (0, 0);
        if head != base.oid {
            let range = format!("{}..{head}", base.oid);
            let counted = self
                .hub
                .git()
                .args(["rev-list", "--count", &range, "--"])
                .must(what)?;
            commits = counted.line().trim().parse().unwrap_or(0);
            let files = self
                .hub
                .git()
                .args([
                    "diff-tree",
                    "-r",
                    "--no-renames",
                    "--name-only",
                    "-z",
                    &base.oid,
                    &head,
                    "--",
                ])
                .must(what)?;
            files_changed = files.stdout.iter().filter(|&&b| b == 0).count() as u64;
        }
        Ok(Collected {
            head,
            commits,
            leftover,
            files_changed,
            unfinished: self.unfinished()?,
            notes,
            elsewhere,
        })
    }
}
