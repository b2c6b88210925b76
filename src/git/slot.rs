//! A slot's own repository, beside its worktree: the one that an agent's git reads and writes. It
//! borrows the hub's objects.
//!
//! Knows nothing of what in it is worth keeping (`bring`). Invariant: it is replaced whole (built
//! beside, then renamed), and only after `bring` has what was in it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::debris::aside;
use super::hub::{is_oid, read_text};
use super::refs::{self, Refs};
use super::{Base, Worktree, config};
use crate::atomic::{self, Moved};
use crate::error::{Context, Kind, Result};
use crate::layout;
use crate::limits::{INDEX_BYTES_MAX, PACKED_REFS_BYTES_MAX, STATE_FILE_BYTES_MAX};
use crate::mutant::planted;

/// Folders of the hub's refs that an agent does not see: harness's own, and items' branches but for
/// those that it is shown.
pub(super) const NOT_GIVEN: [&str; 2] = ["refs/harness", "refs/heads/harness"];

/// A slot's repository. `dir` may be anything, or nothing: its agent could do there what it liked.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub dir: PathBuf,
    /// The worktree's name in it.
    name: OsString,
}

/// What an agent left in its slot's repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub refs: Refs,
    /// The full name of the branch that HEAD is on.
    pub on: Option<String>,
    /// HEAD's commit.
    pub head: Option<String>,
    /// Tells a changed index from the one that was looked at.
    pub index: String,
}

impl Found {
    /// As text, to be compared later: refs as git packs them, then the rest.
    fn text(&self) -> String {
        let (on, head) = (self.on.as_deref(), self.head.as_deref());
        let rest = [("on", on), ("head", head), ("index", Some(&*self.index))];
        let mut text = refs::packed(&self.refs);
        for (key, value) in rest {
            text.push_str(&format!("{key} {}\n", value.unwrap_or_default()));
        }
        text
    }

    fn parse(text: &str) -> Found {
        let rest = |key: &str| {
            let mut lines = text.lines().filter_map(|l| l.split_once(' '));
            lines
                .find(|(k, _)| *k == key)
                .map(|(_, value)| value.to_owned())
        };
        Found {
            refs: refs::parse(text),
            on: rest("on").filter(|v| !v.is_empty()),
            head: rest("head").filter(|v| !v.is_empty()),
            index: rest("index").unwrap_or_default(),
        }
    }
}

impl Slot {
    pub(super) fn of(worktree: &Path) -> Slot {
        Slot {
            dir: layout::slot_repository(worktree),
            name: worktree.file_name().unwrap_or_default().to_owned(),
        }
    }

    /// A submodule's: git makes no worktrees of it.
    pub(super) fn of_module(dir: PathBuf) -> Slot {
        let name = OsString::new();
        Slot { dir, name }
    }

    fn is_of_module(&self) -> bool {
        self.name.is_empty()
    }

    /// Where the worktree's HEAD and index are, for its agent.
    pub(super) fn admin(&self) -> PathBuf {
        self.admin_in(&self.dir)
    }

    fn admin_in(&self, dir: &Path) -> PathBuf {
        match self.is_of_module() {
            true => dir.to_owned(),
            false => dir.join("worktrees").join(&self.name),
        }
    }

    pub(super) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// Removes what stands in the place of a folder on the way from a slot's repository to that of a
    /// submodule in it: a symlink there would have us work, and remove, where it leads.
    pub(super) fn clear_way(&self, worktree: &Path) -> Result<()> {
        let top = layout::slot_repository(worktree);
        let mut way: Vec<&Path> = self.dir.ancestors().collect();
        way.retain(|part| part.starts_with(&top));
        for part in way.into_iter().rev() {
            if atomic::exists(part) && !atomic::is_own_dir(part) && !planted("slot-leads-out") {
                atomic::remove(part)?;
            }
        }
        Ok(())
    }

    /// Whether there is a folder to read.
    pub(super) fn is_there(&self) -> bool {
        atomic::is_own_dir(&self.dir)
    }

    /// What holds commits in a way that harness does not read: too much of it, or of a newer git.
    pub(super) fn unread(&self) -> Option<&'static str> {
        let max = [
            ("packed-refs", PACKED_REFS_BYTES_MAX),
            ("logs/refs/stash", STATE_FILE_BYTES_MAX),
            ("reftable", 0),
        ];
        let is_unread = |(name, max): &(&str, u64)| {
            let meta = self.dir.join(name).symlink_metadata();
            meta.is_ok_and(|m| !m.is_file() || m.len() > *max)
        };
        max.iter()
            .find(|part| is_unread(part))
            .map(|(name, _)| *name)
    }

    pub(super) fn found(&self) -> Found {
        let mut refs = refs::list(&self.dir, &["refs/bisect", "refs/worktree"]);
        refs.retain(|_, value| is_oid(value));
        let head = read_text(&self.admin().join("HEAD")).unwrap_or_default();
        let head = head.trim_end();
        let on = head.strip_prefix("ref: ").map(str::to_owned);
        let at = match &on {
            Some(on) => refs.get(on).map(String::as_str),
            None => Some(head),
        };
        Found {
            head: at.filter(|oid| is_oid(oid)).map(str::to_owned),
            on,
            refs,
            index: stamp(&self.admin().join("index")),
        }
    }

    /// Where it is being built.
    pub(super) fn half_made(&self) -> PathBuf {
        self.beside(".new")
    }

    /// The one before, while it is being removed.
    pub(super) fn old(&self) -> PathBuf {
        self.beside(".old")
    }

    /// Where copies of ignored files are made, before they get their places in the worktree.
    pub(super) fn stage(&self) -> PathBuf {
        self.beside(".copy")
    }

    /// Hidden, beside it.
    fn beside(&self, end: &str) -> PathBuf {
        let name = self.dir.file_name().unwrap_or_default();
        let name = [b".", name.as_bytes(), end.as_bytes()].concat();
        self.dir.with_file_name(OsStr::from_bytes(&name))
    }
}

/// Changes whenever the file is written or replaced.
fn stamp(file: &Path) -> String {
    file.symlink_metadata().map_or(String::new(), |m| {
        let (ino, size) = (m.ino(), m.size());
        format!("{ino} {size} {}.{}", m.ctime(), m.ctime_nsec())
    })
}

impl Worktree {
    /// What is known of the slot's repository: what harness put there, or has taken from there.
    pub(super) fn given(&self) -> Found {
        let text = atomic::read_small(&self.given_file(), crate::limits::PACKED_REFS_BYTES_MAX);
        Found::parse(&String::from_utf8_lossy(&text.unwrap_or_default()))
    }

    pub(super) fn note_given(&self, found: &Found) -> Result<()> {
        atomic::replace(&self.given_file(), found.text().as_bytes(), false)
    }

    fn given_file(&self) -> PathBuf {
        self.admin.join("given")
    }

    /// The branch of the item whose work the slot's repository holds.
    pub(super) fn item_branch(&self) -> Option<String> {
        let text = read_text(&self.admin.join("branch"))?;
        Some(text.trim_end().to_owned()).filter(|b| !b.is_empty())
    }

    /// Makes the slot's repository anew, for an item that begins at `base` on `branch`: the refs,
    /// the settings and nothing else that the user has, and the branches in `others`.
    pub(super) fn renew_slot(&self, branch: &str, base: &Base) -> Result<()> {
        if self.slot.is_there() && planted("slot-kept") {
            return self.point();
        }
        let new = self.slot.half_made();
        atomic::discard_tree(&new, "a half-made repository of our own")?;
        let full = format!("refs/heads/{branch}");
        let mut all = refs::list(self.hub.dir(), &NOT_GIVEN);
        for (name, oid) in &self.others {
            if self.hub.finds_commit(oid)? {
                all.insert(format!("refs/heads/{name}"), oid.clone());
            }
        }
        all.insert(full.clone(), base.oid.clone());
        self.build(&new, &all, &full)?;
        let admin = self.slot.admin_in(&new);
        let given = Found {
            refs: all,
            on: Some(full),
            head: Some(base.oid.clone()),
            // Renaming its folder does not change the file.
            index: stamp(&admin.join("index")),
        };
        self.note_given(&given)?;
        atomic::replace(&self.admin.join("branch"), branch.as_bytes(), false)?;
        self.end_own_worktrees()?;
        self.swap(&new)?;
        self.point()
    }

    fn build(&self, new: &Path, all: &Refs, full: &str) -> Result<()> {
        let admin = self.slot.admin_in(new);
        for folder in ["objects/info", "refs", "info", "hooks"] {
            atomic::make_dir(&new.join(folder), true)?;
        }
        atomic::make_dir(&admin, true)?;
        let put = |path: PathBuf, text: &[u8]| atomic::create(&path, text, 0o600).map(drop);
        let lines = |parts: &[&[u8]]| [&parts.concat()[..], b"\n"].concat();
        let hub = self.hub.dir();
        let head = read_text(&hub.join("HEAD")).unwrap_or_else(|| "ref: refs/heads/main\n".into());
        let mut config = self.hub.slot_config();
        config.extend(config::of_lfs(&self.slot.dir));
        if self.slot.is_of_module() {
            config.extend(config::of_module(&self.dir));
        } else {
            put(new.join("HEAD"), head.as_bytes())?;
            put(admin.join("commondir"), b"../..\n")?;
            let link = self.dir.join(".git");
            put(admin.join("gitdir"), &lines(&[link.as_os_str().as_bytes()]))?;
        }
        put(new.join("config"), &config)?;
        put(new.join("packed-refs"), refs::packed(all).as_bytes())?;
        put(
            new.join("objects/info/alternates"),
            &config::lines(&[&hub.join("objects")]),
        )?;
        for (name, value) in all.iter().filter(|(_, value)| !is_oid(value)) {
            let path = new.join(name);
            atomic::make_dir(path.parent().unwrap_or(new), true)?;
            put(path, &lines(&[value.as_bytes()]))?;
        }
        if let Ok(shallow) = atomic::read_small(&hub.join("shallow"), STATE_FILE_BYTES_MAX) {
            put(new.join("shallow"), &shallow)?;
        }
        self.hub.give_keys(new)?;
        if admin != new {
            self.hub.give_keys(&admin)?;
        }
        put(admin.join("HEAD"), &lines(&[b"ref: ", full.as_bytes()]))?;
        let (index, copy) = (self.admin.join("index"), admin.join("index"));
        // A base without files has none.
        if atomic::exists(&index) {
            let copied = atomic::copy(&index, &copy, INDEX_BYTES_MAX);
            copied.or_fail("cannot copy the index", &copy)?;
        }
        Ok(())
    }

    /// Puts the new repository in the place of the old one. Submodules' repositories come along:
    /// they may be large, and keep what was salvaged in them.
    fn swap(&self, new: &Path) -> Result<()> {
        let (dir, old) = (&self.slot.dir, self.slot.old());
        let modules = |of: &Path| self.slot.admin_in(of).join("modules");
        let take = |from: &Path| -> Result<()> {
            // A symlink on the way would lead out.
            let below = |part: &&Path| part.starts_with(&old);
            let all = from.ancestors().take_while(below).all(atomic::is_own_dir);
            if all && !planted("slot-modules-left") {
                let _stays: Moved = atomic::rename_new(from, &modules(dir))?;
            }
            Ok(())
        };
        if atomic::is_own_dir(&old) && atomic::is_own_dir(dir) {
            take(&modules(&old))?;
        }
        if atomic::exists(dir) {
            self.discard_slot(&old)?;
            atomic::rename_over(dir, &old)?;
        }
        atomic::rename_over(new, dir)?;
        take(&modules(&old))?;
        self.discard_slot(&old)?;
        atomic::remove(&self.damaged()).map(drop)
    }

    /// Where something in it could not be read, or cannot be removed, it is kept: no later item is to
    /// suffer for it.
    fn discard_slot(&self, old: &Path) -> Result<()> {
        if atomic::exists(&self.damaged()) {
            return aside(old, &self.slot.dir).map(drop);
        }
        match atomic::discard_tree(old, "what was in it was brought into the hub") {
            Err(e) if e.kind() == Kind::Permanent => aside(old, &self.slot.dir).map(drop),
            done => done,
        }
    }

    /// Says that the slot's repository has something that could not be read.
    pub(super) fn damaged(&self) -> PathBuf {
        self.admin.join("damaged")
    }

    /// Writes the worktree's `.git`. A repository that its agent made there is kept beside the tree.
    fn point(&self) -> Result<()> {
        let link = self.dir.join(".git");
        if atomic::is_own_dir(&link) {
            aside(&link, &self.nested_place())?;
        }
        let admin = self.slot.admin();
        let text = [b"gitdir: ", admin.as_os_str().as_bytes(), b"\n"].concat();
        match atomic::holds(&link, &text) {
            true => Ok(()),
            false => atomic::replace(&link, &text, false),
        }
    }

    /// Moves aside the worktrees that an agent made for itself beside its own (`git worktree add
    /// ../x`): the next one would find their names taken. Their commits are in the hub.
    fn end_own_worktrees(&self) -> Result<()> {
        let all = fs::read_dir(self.slot.dir.join("worktrees"))
            .into_iter()
            .flatten();
        for entry in all.flatten().filter(|e| e.file_name() != self.slot.name) {
            let admin = entry.path();
            let link = read_text(&admin.join("gitdir")).unwrap_or_default();
            let link = Path::new(link.trim_end_matches('\n'));
            let Some(dir) = link.parent() else {
                continue;
            };
            let back = read_text(link).unwrap_or_default();
            let ours = |name: &OsStr| name.as_bytes().starts_with(b"agent-");
            let is_its = back.trim_end() == format!("gitdir: {}", admin.display());
            let beside = dir.parent() == self.dir.parent();
            if is_its && beside && dir.file_name().is_some_and(|name| !ours(name)) {
                aside(dir, dir)?;
            }
        }
        Ok(())
    }
}
