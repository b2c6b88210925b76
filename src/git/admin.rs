//! The worktrees of a hub's slots, and what harness keeps of each: an admin folder in the hub, with
//! HEAD and index of ours. git works in a tree through it, never through what an agent wrote.
//!
//! Knows nothing of branches or commits. Invariant: nothing that could be somebody's work is
//! deleted here. A directory whose admin folder is missing or broken is renamed to `NAME.~K~`.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::debris::aside;
use super::hub::{MODULES, SEED, SLOTS, is_oid, read_text};
use super::{Hub, Worktree};
use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::layout::{self, DEFAULT_REPO, Root, SlotId};
use crate::mutant::planted;

/// Removes temporary files that killed processes left in the administration of a slot's worktrees,
/// in every repository and their submodules, and half-made copies of ignored files. The caller holds the
/// slot.
pub(crate) fn clear_temps(root: &Root, slot: SlotId) {
    clear_temps_of(&root.repos(), slot);
    let place = root.worktree(slot, DEFAULT_REPO);
    let beside = place.parent().map(fs::read_dir).into_iter().flatten();
    for entry in beside.flatten().flatten() {
        let name = entry.file_name();
        let is_hidden = name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(b".copy");
        if is_hidden && layout::is_repository_of_slot(&name, slot) {
            // The slot's next item tries it again, and says why it stays.
            let _stays = atomic::discard_tree(&entry.path(), "half-made copies of our own");
        }
    }
}

fn clear_temps_of(hubs: &Path, slot: SlotId) {
    let hubs = fs::read_dir(hubs).into_iter().flatten().flatten();
    // The names that `Root::worktree` gives.
    let (own, with_repo) = (slot.to_string(), format!("{slot}@"));
    for hub in hubs.map(|e| e.path()).filter(|hub| atomic::is_own_dir(hub)) {
        let all = fs::read_dir(hub.join(SLOTS)).into_iter().flatten();
        for admin in all.flatten().map(|e| e.path()) {
            let name = admin.file_name().unwrap_or_default().as_bytes();
            let is_its = name == own.as_bytes() || name.starts_with(with_repo.as_bytes());
            if is_its && atomic::is_own_dir(&admin) {
                atomic::remove_temps(&admin);
            }
        }
        clear_temps_of(&hub.join(MODULES), slot);
    }
}

impl Hub {
    /// The worktree at `dir`: the existing one if it is sound, else a new, empty one.
    pub(crate) fn worktree(&self, dir: &Path) -> Result<Worktree> {
        let dir = place(dir)?;
        let tree = Worktree::new(self.clone(), dir, SLOTS);
        self.take_over(&tree)?;
        if tree.is_sound() {
            return Ok(tree);
        }
        let seed = self.read_ref(SEED).ok_or_else(|| {
            Error::temporary(
                "cannot make the worktree",
                "the repository's copy is damaged",
            )
            .at_path(self.dir())
        })?;
        if let Some(head) = read_text(&tree.admin.join("HEAD"))
            && is_oid(head.trim_end())
        {
            // Nothing else may hold its commits. A missing object cannot be kept.
            let _kept = self.keep_ref("detached", head.trim_end());
        }
        clear_place(&tree.dir)?;
        for own in self.others_admin(&tree.dir).chain([tree.admin.clone()]) {
            atomic::discard_tree(&own, "our notes on a tree that is kept under another name")?;
        }
        atomic::make_dir(&tree.admin, true)?;
        atomic::replace(
            &tree.admin.join("HEAD"),
            format!("{seed}\n").as_bytes(),
            false,
        )?;
        atomic::replace(&tree.admin.join("commondir"), b"../..\n", false)?;
        fs::create_dir(&tree.dir).or_fail("cannot make the worktree", &tree.dir)?;
        Ok(tree)
    }

    /// The worktree at `dir` in whatever state its agent left it; changes nothing. `None`: harness
    /// knows of none there.
    pub(crate) fn worktree_as_it_is(&self, dir: &Path) -> Option<Worktree> {
        let parent = dir.parent()?;
        let parent = parent.canonicalize().unwrap_or_else(|_| parent.into());
        let dir = parent.join(dir.file_name()?);
        let ours = Worktree::new(self.clone(), dir.clone(), SLOTS);
        let of_old = Worktree::new(self.clone(), dir, OLD);
        [ours, of_old]
            .into_iter()
            .find(|tree| !is_broken(&tree.admin))
    }

    /// What the hubs of other repositories have on the tree in this place.
    fn others_admin(&self, dir: &Path) -> impl Iterator<Item = PathBuf> {
        let name = dir.file_name().unwrap_or_default().to_owned();
        let repos = self.dir().parent().map(fs::read_dir);
        let hubs = repos.into_iter().flatten().flatten().flatten();
        hubs.map(move |hub| hub.path().join(SLOTS).join(&name))
            .filter(|admin| atomic::is_own_dir(admin))
    }

    /// A worktree that an older version made is of the hub itself, and its agent wrote index and
    /// settings. Its work is kept; then it is taken over.
    fn take_over(&self, tree: &Worktree) -> Result<()> {
        let old = self
            .dir()
            .join(OLD)
            .join(tree.dir.file_name().unwrap_or_default());
        if !atomic::is_own_dir(&old) || atomic::exists(&tree.admin) {
            return Ok(());
        }
        if is_broken(&old) || !atomic::is_own_dir(&tree.dir) {
            let debris = self.dir().join("harness-debris");
            atomic::make_dir(&debris, true)?;
            return aside(&old, &debris.join(tree.dir.file_name().unwrap_or_default())).map(drop);
        }
        let before = Worktree::new(self.clone(), tree.dir.clone(), OLD);
        before.salvage("before")?;
        atomic::make_dir(&self.dir().join(SLOTS), true)?;
        atomic::rename_over(&old, &tree.admin)?;
        for file in ["index", "config.worktree", "gitdir", "MERGE_HEAD"] {
            atomic::remove(&tree.admin.join(file))?;
        }
        for folder in ["info", "rebase-merge", "rebase-apply", "sequencer"] {
            let folder = tree.admin.join(folder);
            atomic::discard_tree(
                &folder,
                "git's notes, of which nothing is half-done any more",
            )?;
        }
        match tree.rev("HEAD^{commit}")? {
            None => Ok(()),
            Some(head) => {
                let git = tree.git().args(["read-tree", &head]);
                git.must("cannot take the worktree over").map(drop)
            }
        }
    }
}

/// Where git has a repository's worktrees.
const OLD: &str = "worktrees";

impl Worktree {
    /// Whether an older version made it and its agent may still be at work: then its git's admin
    /// folder is the one in the hub.
    pub(super) fn is_of_old(&self) -> bool {
        self.admin.parent().is_some_and(|p| p.ends_with(OLD))
    }

    fn is_sound(&self) -> bool {
        (atomic::is_own_dir(&self.dir) && !is_broken(&self.admin)) || planted("git-debris-stays")
    }
}

/// Makes the path free: what is there is kept beside it, except an empty folder.
fn clear_place(dir: &Path) -> Result<()> {
    if !atomic::exists(dir) {
        return Ok(());
    }
    let link = dir.join(".git");
    if atomic::is_own_dir(dir) && is_empty_but_for_link(dir) {
        let _gone = atomic::remove(&link)?;
        return fs::remove_dir(dir).or_fail("cannot remove the empty directory", dir);
    }
    // A `.git` pointer in the kept copy would lead git into the next worktree's repository.
    if atomic::is_own_dir(dir) && link.symlink_metadata().is_ok_and(|m| m.is_file()) {
        aside(&link, &dir.join(".git.old"))?;
    }
    aside(dir, dir).map(drop)
}

/// The path as git writes it: the parent, made if missing, without symlinks.
fn place(dir: &Path) -> Result<PathBuf> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    atomic::make_dir(parent, false)?;
    let parent = parent.canonicalize().or_fail("cannot find", parent)?;
    Ok(parent.join(dir.file_name().unwrap_or_default()))
}

/// A directory that is empty or holds only a `.git` file.
pub(super) fn is_empty_but_for_link(dir: &Path) -> bool {
    let Ok(list) = fs::read_dir(dir) else {
        return false;
    };
    let git_file = |e: &fs::DirEntry| {
        e.file_name() == ".git" && e.file_type().is_ok_and(|t| t.is_file() || t.is_symlink())
    };
    list.into_iter().all(|e| e.is_ok_and(|e| git_file(&e)))
}

/// Missing, half-made, or anything else that git cannot read.
pub(super) fn is_broken(admin: &Path) -> bool {
    let read = |name: &str| read_text(&admin.join(name)).unwrap_or_default();
    let head = read("HEAD");
    let head = head.trim_end();
    let on_branch = head
        .strip_prefix("ref: refs/")
        .is_some_and(|r| !r.is_empty());
    !atomic::is_own_dir(admin) || !(on_branch || is_oid(head)) || read("commondir") != "../..\n"
}
