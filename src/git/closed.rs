//! What in a tree harness may not read: a container that ran as root left it, mostly.
//!
//! Knows nothing of items. Invariant: it is never deleted. It is left out of the branch and named,
//! and the tree that it lies in is put aside before the next item.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use walkdir::WalkDir;

use super::Worktree;
use super::debris::aside;
use super::state::TreeState;
use crate::atomic;
use crate::error::{Context, Error, Kind, Result};
use crate::layout::shown;
use crate::mutant::planted;

/// Folders in folders that are opened one after the other.
const ROUNDS_MAX: usize = 64;
/// The names that a note has of what could not be read.
const NAMED_MAX: usize = 5;

impl Worktree {
    /// Whether the file cannot be read, after its mode was mended where it is our own.
    pub(super) fn is_closed(&self, path: &OsStr) -> bool {
        let file = self.dir.join(path);
        let denied = || {
            let opened = atomic::open_regular(&file);
            opened.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied)
        };
        if !denied() || planted("git-closed-is-tried") {
            return false;
        }
        if let Some(meta) = file.symlink_metadata().ok().filter(|m| m.is_file()) {
            let mode = Permissions::from_mode(meta.permissions().mode() | 0o600);
            let _of_others = fs::set_permissions(&file, mode);
        }
        denied()
    }

    /// The folders that git says it could not open, and whether one is open now: those of our own.
    pub(super) fn closed_folders(&self, stderr: &str) -> (Vec<OsString>, bool) {
        let named = stderr.lines().filter_map(|line| {
            let rest = line.strip_prefix("warning: could not open directory '")?;
            match rest.split_once("/': ") {
                Some((path, _)) => Some(OsString::from(path)),
                // Deeper than a path may be long: git cuts its message.
                None => rest.split('/').next().map(OsString::from),
            }
        });
        let mut all: Vec<OsString> = named.collect();
        all.dedup();
        let open = |path: &OsString| {
            let dir = self.dir.join(path);
            let mode = Permissions::from_mode(0o755);
            atomic::is_own_dir(&dir) && fs::set_permissions(&dir, mode).is_ok()
        };
        let any = all.iter().filter(|path| open(path)).count() > 0;
        (all, any)
    }

    /// What the branch does not bring because nobody could read it; `None` if there is nothing.
    pub(super) fn unread(&self, state: &TreeState) -> Option<String> {
        let files = state.unclean.iter().filter(|path| self.is_closed(path));
        let all: Vec<String> = files.chain(&state.closed).map(|p| shown(p)).collect();
        let more = match all.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let named = all[..all.len().min(NAMED_MAX)].join(", ");
        // Such a folder itself can be read.
        let is_deep = |path: &&OsString| fs::read_dir(self.dir.join(path)).is_ok();
        let why = match state.closed.iter().filter(is_deep).count() {
            0 => "look at owner and mode",
            deep if deep == all.len() => "deeper than a path may be long",
            _ => "look at owner, mode and depth",
        };
        (!all.is_empty()).then(|| {
            format!(
                "{named}{more} cannot be read ({why}): not committed; the worktree {} is kept as {0}.~N~ when the slot goes on",
                self.top.display()
            )
        })
    }

    /// As `empty_out`. Where something in the tree cannot be kept by git, the whole tree is kept.
    pub(super) fn empty_out_or_keep(&self) -> Result<Option<String>> {
        match self.empty_out() {
            Err(e) if e.kind() == Kind::Permanent => {
                self.put_aside()?;
                self.rev("HEAD^{commit}")
            }
            done => done,
        }
    }

    /// Keeps the whole tree under another name, and begins an empty one.
    pub(super) fn put_aside(&self) -> Result<()> {
        aside(&self.dir, &self.top)?;
        atomic::remove(&self.admin.join("index"))?;
        fs::create_dir(&self.dir).or_fail("cannot make the worktree", &self.dir)
    }
}

/// Gives us our own files and folders below `dir` again where their modes deny us. Follows no
/// symlink. `false`: something stays closed, another user's.
pub(super) fn open_all(dir: &Path) -> bool {
    let mode_of = |path: &Path| {
        let meta = path.symlink_metadata();
        meta.map_or(0, |m| m.permissions().mode())
    };
    let mut all = true;
    // Each round opens the folders that the last one could not list.
    for _ in 0..ROUNDS_MAX {
        let mut again = false;
        all = true;
        for entry in WalkDir::new(dir) {
            let (path, wanted) = match &entry {
                Ok(e) if e.file_type().is_dir() => (e.path(), 0o700),
                Ok(e) if e.file_type().is_file() => (e.path(), 0o400),
                Ok(_) => continue,
                Err(e) => match e.path() {
                    Some(path) => (path, 0o700),
                    None => continue,
                },
            };
            if entry.is_ok() && mode_of(path) & wanted == wanted {
                continue;
            }
            let mode = Permissions::from_mode(mode_of(path) | wanted);
            let opened = fs::set_permissions(path, mode).is_ok();
            again |= opened && entry.is_err();
            all &= opened;
        }
        if !again {
            break;
        }
    }
    all
}

/// Whether git failed because of what stands in the tree.
pub(super) fn is_in_the_way(e: &Error) -> bool {
    let signs = [
        "Permission denied",
        "Operation not permitted",
        "unable to unlink",
        "File name too long",
    ];
    let text = e.to_string();
    signs.iter().any(|sign| text.contains(sign))
}
