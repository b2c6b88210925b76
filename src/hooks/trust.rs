//! Whether a hook may be run: it is the user's, and nobody else, no agent either, could have put it
//! there.
//!
//! Runs nothing. Invariant: whoever may write the file, a symlink to it or a folder on the way to either
//! is us, or root; and none of them lies where agents write.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Group, Uid, User, access, geteuid};

use crate::agents;
use crate::folder::FileStamp;
use crate::layout::{Root, shown};
use crate::mutant::planted;

/// Symlinks that follow each other.
const LINKS_MAX: usize = 16;
const EXECUTABLE: u32 = 0o111;
const STICKY: u32 = 0o1000;

/// A hook that may be run.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) path: PathBuf,
    /// Tells it from itself after a change.
    pub(crate) stamp: FileStamp,
}

#[derive(Debug)]
pub(crate) enum Found {
    None,
    Runs(Hook),
    /// Why it is not run.
    Refused(String),
}

/// The hook of this name.
pub(crate) fn look(root: &Root, name: &str) -> Found {
    let path = root.hook(name);
    if path.symlink_metadata().is_err() {
        return Found::None;
    }
    match examine(root, &path) {
        Ok(stamp) => Found::Runs(Hook { path, stamp }),
        Err(_) if planted("hook-of-anybody") && path.is_file() => {
            let stamp = path.metadata().map(|meta| FileStamp::of(&meta));
            stamp.map_or(Found::None, |stamp| Found::Runs(Hook { path, stamp }))
        }
        Err(why) => Found::Refused(why),
    }
}

fn examine(root: &Root, path: &Path) -> Result<FileStamp, String> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let meta = look_at(&at)?;
        check_folders(root, &at)?;
        if !meta.is_symlink() {
            return check_file(&at, &meta);
        }
        check_owner(&at, &meta)?;
        let to = std::fs::read_link(&at).map_err(|e| odd(&at, &e.to_string()))?;
        at = at.parent().unwrap_or(path).join(to);
    }
    Err("it is a symlink that leads nowhere".to_owned())
}

fn look_at(path: &Path) -> Result<Metadata, String> {
    let meta = path.symlink_metadata();
    meta.map_err(|e| odd(path, &format!("cannot be looked at: {e}")))
}

fn odd(path: &Path, what: &str) -> String {
    format!("{} {what}", shown(path.as_os_str()))
}

fn check_file(path: &Path, meta: &Metadata) -> Result<FileStamp, String> {
    if !meta.is_file() {
        return Err(odd(path, "is no regular file"));
    }
    check_owner(path, meta)?;
    if let Some(who) = who_writes(meta) {
        return Err(odd(path, &format!("may be written by {who}: chmod go-w")));
    }
    // By another name an agent could write it.
    if meta.nlink() > 1 && meta.uid() == geteuid().as_raw() {
        return Err(odd(path, "has another name (a hard link): make a copy"));
    }
    let runs = meta.mode() & EXECUTABLE != 0 && access(path, AccessFlags::X_OK).is_ok();
    match runs {
        true => agents::why_not_started(path).map_or(Ok(FileStamp::of(meta)), Err),
        false => Err(odd(path, "is not executable: chmod +x, or remove it")),
    }
}

/// Every folder that it lies in, as it is written and as it really is.
fn check_folders(root: &Root, file: &Path) -> Result<(), String> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let real = folder.canonicalize();
    let real = real.map_err(|e| odd(folder, &format!("cannot be found: {e}")))?;
    for of_agents in [root.worktrees(), root.repos(), root.state(), root.queue()] {
        let of_agents = of_agents.canonicalize().unwrap_or(of_agents);
        if real.starts_with(&of_agents) {
            return Err(odd(file, "lies where agents may write"));
        }
    }
    let mut is_next = true;
    for dir in real.ancestors() {
        let meta = look_at(dir)?;
        check_owner(dir, &meta)?;
        // In a sticky folder others can make files, but touch none of ours.
        let shields = !is_next && meta.mode() & STICKY != 0;
        if let Some(who) = who_writes(&meta).filter(|_| !shields) {
            return Err(odd(dir, &format!("may be written by {who}: chmod go-w")));
        }
        is_next = false;
    }
    // A symlink on the way, which somebody else may turn.
    for dir in folder.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
        check_owner(dir, &look_at(dir)?)?;
    }
    Ok(())
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<(), String> {
    let uid = meta.uid();
    if uid == geteuid().as_raw() || uid == 0 {
        return Ok(());
    }
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let name = name.map_or_else(|| format!("uid {uid}"), |user| user.name);
    Err(odd(path, &format!("belongs to {name}")))
}

/// Who besides its owner may write it.
fn who_writes(meta: &Metadata) -> Option<&'static str> {
    match meta.mode() {
        mode if mode & 0o002 != 0 => Some("everybody"),
        mode if mode & 0o020 != 0 && !is_ours_alone(meta.gid()) => Some("its group"),
        _ => None,
    }
}

/// With a umask of 002, which some systems set, every user has a group of the same name, and is alone
/// in it.
fn is_ours_alone(gid: u32) -> bool {
    let me = geteuid();
    let user = User::from_uid(me).ok().flatten();
    let group = Group::from_gid(gid.into()).ok().flatten();
    let (Some(user), Some(group)) = (user, group) else {
        return false;
    };
    let alone = group.mem.iter().all(|member| *member == user.name);
    !me.is_root() && user.gid == group.gid && user.name == group.name && alone
}
