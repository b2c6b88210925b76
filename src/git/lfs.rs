//! Carries Git LFS objects between the user's repository, the hub and the slots' repositories: git
//! itself carries only the pointers to them.
//!
//! Runs no git-lfs. A store is `lfs/objects` of a git directory; a file in it has its SHA-256 as
//! name. Invariant: no file of a store is ever overwritten, and of a slot's store, which is its
//! agent's, only copies come into the hub: of what its commits name, and only if the name is right.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Git, Hub, Worktree, config};
use crate::atomic::{self, Moved};
use crate::error::{Context, Error, Result};
use crate::limits::{LFS_BYTES_MAX, LFS_LINE_BYTES_MAX};

const STORE: &str = "lfs/objects";
/// What a pointer says on its second line.
const LINE: &str = "^oid sha256:[0-9a-f]{64}$";

impl Worktree {
    /// Gives the hub what a checkout of this commit needs and the user's repository has: it needs no
    /// network then.
    pub(super) fn take_lfs_of_user(&self, commit: &str) -> Result<()> {
        let (user, ours) = self.hub.stores();
        if user == ours || !user.is_dir() {
            return Ok(());
        }
        let what = "cannot look for LFS objects in the base";
        let (index, void) = (self.admin.join("lfs-index"), self.admin.join("void"));
        let clear = || atomic::remove(&index.with_extension("lock")).and(atomic::remove(&index));
        clear()?;
        atomic::make_dir(&void, true)?;
        // Attributes are read from this index: there are no files.
        let git = || {
            let git = self.hub.ours(Git::at(&void)).env("GIT_DIR", self.hub.dir());
            let git = git.env("GIT_INDEX_FILE", &index);
            git.env("GIT_WORK_TREE", &void).holding(self.lease.as_ref())
        };
        git().args(["read-tree", commit]).must(what)?;
        let grep = git().args(["grep", "-h", "-a", "--cached", "-E", LINE, "--"]);
        each_line(
            self.hub.dir(),
            grep.arg(":(top,attr:filter=lfs)"),
            what,
            &mut |line| match line.strip_prefix("oid sha256:").filter(|oid| is_oid(oid)) {
                Some(oid) => place(&object(&user, oid), &object(&ours, oid)).map(drop),
                None => Ok(()),
            },
        )?;
        clear().map(drop)
    }

    /// Gives the hub what these commits of the agent's add and its slot's repository has.
    pub(super) fn take_lfs_of_agent(&self, commits: &[&String]) -> Result<()> {
        let (slot, (_, ours)) = (self.slot.dir.join(STORE), self.hub.stores());
        if commits.is_empty() || !atomic::is_own_dir(&slot) {
            return Ok(());
        }
        self.hub.each_new_pointer(commits, &mut |oid| {
            let (from, to) = (object(&slot, oid), object(&ours, oid));
            match atomic::exists(&to) {
                true => Ok(()),
                false => copy_checked(&from, &to, oid),
            }
        })
    }
}

impl Hub {
    /// Gives the user's repository the objects that this commit's history adds. Those that are nowhere
    /// are left out.
    pub(super) fn give_lfs_to_user(&self, commit: &str) -> Result<()> {
        let (user, ours) = self.stores();
        self.carry_lfs(&[&commit.to_owned()], &ours, &user)
    }

    /// Gives another hub the objects that these commits add and this one has.
    pub(super) fn give_lfs_to(&self, other: &Hub, commits: &[&String]) -> Result<()> {
        self.carry_lfs(commits, &self.stores().1, &other.stores().1)
    }

    /// Takes from another hub the objects that this commit, which is here now, adds.
    pub(super) fn take_lfs_from(&self, other: &Hub, commit: &str) -> Result<()> {
        self.carry_lfs(&[&commit.to_owned()], &other.stores().1, &self.stores().1)
    }

    fn carry_lfs(&self, commits: &[&String], from: &Path, to: &Path) -> Result<()> {
        if from == to || !atomic::exists(from) {
            return Ok(());
        }
        self.each_new_pointer(commits, &mut |oid| {
            let file = object(to, oid);
            if place(&object(from, oid), &file)? && self.repo().durable {
                atomic::sync_tree(file.parent().unwrap_or(&file))?;
            }
            Ok(())
        })
    }

    /// Whether the user's repository has LFS objects.
    pub(super) fn user_has_lfs(&self) -> bool {
        self.stores().0.is_dir()
    }

    /// The stores of the user's repository and of this one: one and the same where the user has set it
    /// to be in a place of its own.
    fn stores(&self) -> (PathBuf, PathBuf) {
        let set = config::value(self.settings(), "lfs", "storage");
        [self.user(), self.dir()]
            .map(|git_dir| match &set {
                Some(set) => git_dir.join(set).join("objects"),
                None => git_dir.join(STORE),
            })
            .into()
    }

    /// The objects that commits name and no branch of the user's has.
    fn each_new_pointer(
        &self,
        commits: &[&String],
        found: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let git = self
            .git()
            .args(["log", "--format=", "--patch", "--unified=0"]);
        let git = git.args(["--no-ext-diff", "--no-textconv", "--no-color", "--text"]);
        let git = git.args(["--no-renames", "-m", "-G^oid sha256:[0-9a-f]*$"]);
        let git = git.args(commits).arg("--not");
        let git = git.args(["--glob=refs/harness/base/*", "--glob=refs/remotes/*", "--"]);
        let what = "cannot look for LFS objects in the branch";
        each_line(self.dir(), git, what, &mut |line| match line
            .strip_prefix("+oid sha256:")
            .filter(|oid| is_oid(oid))
        {
            Some(oid) => found(oid),
            None => Ok(()),
        })
    }
}

/// Runs git and reads what it says line by line, however much that is: by way of a file that has no
/// name. A line that is too long is read in pieces.
fn each_line(
    place: &Path,
    git: Git,
    what: &str,
    read: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let file = atomic::temp_beside(&place.join("listing"));
    let written = atomic::create(&file, b"", 0o600)?;
    let listing = atomic::open_regular(&file);
    atomic::remove(&file)?;
    let mut listing = BufReader::new(listing.or_fail(what, &file)?);
    let git = git.into_file(written);
    let out = git.patient()?;
    let found_nothing = out.code == 1 && out.stderr.is_empty();
    if !out.ok() && !found_nothing {
        return Err(git.failure(what, &out));
    }
    loop {
        let mut line = Vec::new();
        let piece = listing.by_ref().take(LFS_LINE_BYTES_MAX);
        let got = { piece }.read_until(b'\n', &mut line);
        if got.or_fail(what, &file)? == 0 {
            return Ok(());
        }
        read(String::from_utf8_lossy(&line).trim_end())?;
    }
}

fn is_oid(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 64 && text.bytes().all(hex)
}

fn object(store: &Path, oid: &str) -> PathBuf {
    let (a, b) = (&oid[..2], &oid[2..4]);
    store.join(a).join(b).join(oid)
}

/// Copies an agent's object if its content has this name. One that is missing or another stays: a
/// checkout says so.
fn copy_checked(from: &Path, to: &Path, oid: &str) -> Result<()> {
    let what = "cannot copy the LFS object";
    let Ok(mut from) = atomic::open_regular(from) else {
        return Ok(());
    };
    let temp = atomic::temp_beside(to);
    atomic::make_dir(to.parent().unwrap_or(to), false)?;
    let mut copy = atomic::create(&temp, b"", 0o644)?;
    let hash = copy_hashed(&mut from, &mut copy).or_fail(what, to);
    let placed = match hash {
        Ok(hash) if hash == oid => atomic::rename_new(&temp, to).map(|moved| moved == Moved::Done),
        Ok(_) => Ok(false),
        Err(e) => Err(e),
    };
    if !matches!(placed, Ok(true)) {
        let _gone: Result<bool, Error> = atomic::remove(&temp);
    }
    placed.map(drop)
}

fn copy_hashed(from: &mut File, to: &mut File) -> std::io::Result<String> {
    let (mut hash, mut buf) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        let n = from.read(&mut buf)?;
        if n == 0 {
            let bytes = hash.finalize();
            return Ok(bytes.iter().map(|b| format!("{b:02x}")).collect());
        }
        hash.update(&buf[..n]);
        to.write_all(&buf[..n])?;
    }
}

/// Makes `to` a hard link to the file, or a copy. `false`: the file is not there, or `to` was already.
pub(super) fn place(from: &Path, to: &Path) -> Result<bool> {
    if atomic::exists(to) || !from.symlink_metadata().is_ok_and(|m| m.is_file()) {
        return Ok(false);
    }
    if let Some(folder) = to.parent() {
        atomic::make_dir(folder, false)?;
    }
    if let Ok(linked) = atomic::link_new(from, to) {
        return Ok(linked == Moved::Done);
    }
    let temp = atomic::temp_beside(to);
    let placed = atomic::copy(from, &temp, LFS_BYTES_MAX)
        .or_fail("cannot copy a file of a repository", to)
        .and_then(|()| atomic::rename_new(&temp, to));
    match placed {
        Ok(Moved::Done) => Ok(true),
        Ok(_) => atomic::remove(&temp).map(|_| false),
        Err(e) => {
            let _gone: Result<bool, Error> = atomic::remove(&temp);
            Err(e)
        }
    }
}
