//! Makes worktrees of a hub and moves git's debris away.
//!
//! Knows nothing of branches or commits. Invariant: nothing that could be somebody's work is
//! deleted here. A directory that git cannot work in is renamed to `NAME.~K~`; a broken admin
//! folder is moved where git does not look. Set-up holds the hub's flock, since every worktree
//! command reads all admin folders, half-made ones included.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::debris::aside;
use super::hub::{SEED, is_oid, read_text};
use super::{Hub, Worktree};
use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, SlotId};
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;

/// An admin folder that is still incomplete after this is abandoned: git makes one in milliseconds.
const HALF_MADE: Duration = Duration::from_millis(500);

/// Removes temporary files that killed processes left in the administration of a slot's worktrees,
/// in every repository. The caller holds the slot.
pub(crate) fn clear_temps(root: &Root, slot: SlotId) {
    let hubs = fs::read_dir(root.repos()).into_iter().flatten().flatten();
    // The names that `Root::worktree` gives.
    let (own, with_repo) = (slot.to_string(), format!("{slot}@"));
    for hub in hubs.map(|e| e.path()).filter(|hub| atomic::is_own_dir(hub)) {
        let all = fs::read_dir(hub.join("worktrees")).into_iter().flatten();
        for admin in all.flatten().map(|e| e.path()) {
            let name = admin.file_name().unwrap_or_default().as_bytes();
            let is_its = name == own.as_bytes() || name.starts_with(with_repo.as_bytes());
            if is_its && atomic::is_own_dir(&admin) {
                atomic::remove_temps(&admin);
            }
        }
    }
}

impl Hub {
    /// The worktree at `dir`: the existing one if it is sound, else a new, empty one.
    pub(crate) fn worktree(&self, dir: &Path) -> Result<Worktree> {
        let dir = &place(dir)?;
        if let Some(admin) = self.sound(dir) {
            return Ok(Worktree::new(self.clone(), dir.clone(), admin));
        }
        let lock = match planted("git-set-up-without-flock") {
            false => Some(self.lock()?),
            true => None,
        };
        self.clear_place(dir)?;
        self.clear_admin(dir)?;
        self.git()
            .holding(lock.as_ref())
            .args([
                "worktree",
                "add",
                "--quiet",
                "--detach",
                "--no-checkout",
                "--",
            ])
            .arg(dir)
            .arg(SEED)
            .must("cannot make the worktree")?;
        match self.sound(dir) {
            Some(admin) => Ok(Worktree::new(self.clone(), dir.clone(), admin)),
            None => Err(Error::temporary(
                "cannot make the worktree",
                "git made one that does not belong to harness's copy of the repository",
            )
            .at_path(dir)),
        }
    }

    /// The worktree at `dir` in whatever state its agent left it; changes nothing. `None`: git
    /// knows of none there.
    pub(crate) fn worktree_as_it_is(&self, dir: &Path) -> Option<Worktree> {
        let parent = dir.parent()?;
        let parent = parent.canonicalize().unwrap_or_else(|_| parent.into());
        let dir = parent.join(dir.file_name()?);
        let admin = self.sound(&dir).or_else(|| {
            let link = dir.join(".git");
            let all = fs::read_dir(self.dir().join("worktrees")).ok()?;
            all.flatten().map(|e| e.path()).find(|admin| {
                !is_broken(admin) && pointer(&admin.join("gitdir"), b"").as_ref() == Some(&link)
            })
        })?;
        Some(Worktree::new(self.clone(), dir, admin))
    }

    /// The admin folder of a worktree that git can work in, also after ROOT was moved. `None` if an
    /// agent replaced the worktree by a symlink, which would lead git elsewhere.
    fn sound(&self, dir: &Path) -> Option<PathBuf> {
        let link = dir.join(".git");
        if !dir.symlink_metadata().ok()?.is_dir() || !link.symlink_metadata().ok()?.is_file() {
            return None;
        }
        let target = pointer(&link, b"gitdir: ")?;
        let admin = self.dir().join("worktrees").join(target.file_name()?);
        if is_broken(&admin) {
            return None;
        }
        let back = pointer(&admin.join("gitdir"), b"")?;
        if target == admin && back == link {
            return Some(admin);
        }
        // ROOT was moved or copied and both ends point into the old place: make them point at each
        // other again.
        let moved = back.parent()?.file_name() == dir.file_name()
            && !atomic::exists(&back)
            && (target == admin || !atomic::exists(&target))
            || is_copy(&target, &back, &admin, &link);
        if !moved {
            return None;
        }
        let text =
            |before: &[u8], path: &Path| [before, path.as_os_str().as_bytes(), b"\n"].concat();
        atomic::replace(&link, &text(b"gitdir: ", &admin), false).ok()?;
        atomic::replace(&admin.join("gitdir"), &text(b"", &link), false).ok()?;
        Some(admin)
    }

    /// Makes the path free: what is there is kept beside it, except a lone `.git` pointer file.
    fn clear_place(&self, dir: &Path) -> Result<()> {
        if !atomic::exists(dir) {
            return Ok(());
        }
        if dir.symlink_metadata().is_ok_and(|m| m.is_symlink()) {
            return aside(dir, dir).map(drop);
        }
        let link = dir.join(".git");
        if is_empty_but_for_link(dir) {
            atomic::remove(&link)?;
            return fs::remove_dir(dir).or_fail("cannot remove the empty directory", dir);
        }
        // A `.git` pointer in the kept copy would lead git into the next worktree's admin folder.
        if link.symlink_metadata().is_ok_and(|m| m.is_file()) {
            aside(&link, &dir.join(".git.old"))?;
        }
        aside(dir, dir).map(drop)
    }

    /// Moves broken admin folders, and the one registered for `dir`, where git does not look: one
    /// broken folder makes every worktree command in the hub fail. The flock is held; a person's
    /// own `git worktree add` gets a moment to finish.
    pub(super) fn clear_admin(&self, dir: &Path) -> Result<()> {
        if planted("git-debris-stays") {
            return Ok(());
        }
        let all = self.dir().join("worktrees");
        let link = dir.join(".git");
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            let admin = entry.path();
            let of_dir = pointer(&admin.join("gitdir"), b"").is_some_and(|p| p == link);
            if !of_dir {
                let deadline = clock::instant() + HALF_MADE;
                while is_broken(&admin) && atomic::exists(&admin) && clock::instant() < deadline {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            }
            if !of_dir && (!is_broken(&admin) || !atomic::exists(&admin)) {
                continue;
            }
            if let Some(head) = read_text(&admin.join("HEAD"))
                && is_oid(head.trim_end())
            {
                // Nothing else may hold its commits. A missing object cannot be kept.
                let _kept = self.keep_ref("detached", head.trim_end());
            }
            let old = self.dir().join("harness-debris");
            atomic::make_dir(&old, true)?;
            aside(&admin, &old.join(entry.file_name()))?;
        }
        Ok(())
    }
}

/// The path as git writes it: the parent, made if missing, without symlinks.
fn place(dir: &Path) -> Result<PathBuf> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    atomic::make_dir(parent, false)?;
    let parent = parent.canonicalize().or_fail("cannot find", parent)?;
    Ok(parent.join(dir.file_name().unwrap_or_default()))
}

/// Whether `target` and `back` lie in another ROOT as `admin` and `link` lie in ours.
fn is_copy(target: &Path, back: &Path, admin: &Path, link: &Path) -> bool {
    let root = admin.ancestors().find(|a| link.starts_with(a));
    let other = |theirs: &Path, ours: &Path| {
        let inside = ours.strip_prefix(root?).ok()?;
        let depth = inside.components().count();
        let other = theirs.ancestors().nth(depth)?;
        (theirs.ends_with(inside)).then(|| other.to_path_buf())
    };
    let other_root = other(target, admin);
    other_root.is_some() && other_root == other(back, link)
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

/// What a killed `git worktree add` leaves, or any other folder that git cannot read.
fn is_broken(admin: &Path) -> bool {
    let read = |name: &str| read_text(&admin.join(name)).unwrap_or_default();
    let head = read("HEAD");
    let head = head.trim_end();
    let common = read("commondir");
    let on_branch = head
        .strip_prefix("ref: refs/")
        .is_some_and(|r| !r.is_empty());
    !(on_branch || is_oid(head)) || common.trim_end() != "../.." || read("gitdir").is_empty()
}

/// The path in a pointer file of git's.
fn pointer(file: &Path, before: &[u8]) -> Option<PathBuf> {
    let text = atomic::read_small(file, STATE_FILE_BYTES_MAX).ok()?;
    let text = text.strip_prefix(before)?;
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let path = Path::new(std::ffi::OsStr::from_bytes(text));
    path.is_absolute().then(|| path.to_path_buf())
}
