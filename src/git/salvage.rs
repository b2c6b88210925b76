//! Keeps a worktree's uncommitted changes: as a commit made through a private index, verified
//! before its ref is returned.
//!
//! Knows nothing of items or of when to salvage. Invariant: HEAD, the tree and its own index stay
//! unchanged; a ref's name is returned only if tree and commit were found to be equal.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::debris::{aside, clear_odd};
use super::hub::{read_text, salvage_folder};
use super::state::TreeState;
use super::submodules::links_of;
use super::{Base, Git, Output, Worktree};
use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::{Root, shown};
use crate::limits::INDEX_BYTES_MAX;
use crate::mutant::planted;
use crate::text;

/// Author of the commits that only preserve something.
pub(super) const KEEPER: Author<'_> = Author {
    name: "harness",
    email: "harness@localhost",
};
/// Salvaged commits that a note names.
const SALVAGED_TOLD_MAX: usize = 5;
/// With more free, it is not asked how much is to be kept.
const FREE_ENOUGH: u64 = 16 << 30;
/// A block of `st_blocks`.
const BLOCK: u64 = 512;
const PRIVATE_INDEX: &str = "harness-index";
/// Paths that one command line takes.
const LINKS_AT_ONCE: usize = 200;

/// Name and mail address of a commit's author.
#[derive(Clone, Copy)]
pub(super) struct Author<'a> {
    pub name: &'a str,
    pub email: &'a str,
}

impl Author<'_> {
    /// Parses `Name <address>`; supplies an address if there is none.
    pub(super) fn parse(text: &str) -> Author<'_> {
        match text.split_once('<') {
            Some((name, rest)) if !name.trim().is_empty() => Author {
                name: name.trim(),
                email: rest.split('>').next().unwrap_or("").trim(),
            },
            _ if text.trim().is_empty() => KEEPER,
            _ => Author {
                name: text.trim(),
                email: KEEPER.email,
            },
        }
    }

    pub(super) fn sign(self, git: Git) -> Git {
        git.env("GIT_AUTHOR_NAME", self.name)
            .env("GIT_AUTHOR_EMAIL", self.email)
            .env("GIT_COMMITTER_NAME", self.name)
            .env("GIT_COMMITTER_EMAIL", self.email)
    }
}

impl Worktree {
    /// Keeps everything uncommitted under `refs/harness/salvage/LABEL/…`; `None` if the tree is
    /// clean. Repositories inside the tree stay where they are; a submodule's uncommitted changes
    /// are kept in the submodule's own repository.
    pub(crate) fn salvage(&self, label: &str) -> Result<Option<String>> {
        self.clear_locks()?;
        match self.state_if_readable()? {
            Ok(state) => self.salvage_state(label, &state),
            // Even with a broken index the files can be saved.
            Err(_) => self.salvage_files(label).map(Some),
        }
    }

    /// What of an attempt's work only salvaged commits hold, and how to look at it.
    pub(super) fn salvaged(&self, branch: &str, base: &Base, head: &str) -> Result<Vec<String>> {
        salvaged_in(
            (self.hub.dir(), self.hub.kept_dir()),
            branch,
            &base.oid,
            head,
        )
    }

    pub(super) fn salvage_state(&self, label: &str, state: &TreeState) -> Result<Option<String>> {
        if state.dirty {
            self.salvage_files(label).map(Some)
        } else {
            Ok(None)
        }
    }

    fn salvage_files(&self, label: &str) -> Result<String> {
        let commit = self.snapshot(&format!("salvage of {label}"), KEEPER)?;
        let _gone = atomic::remove(&self.private_index());
        self.hub.keep_ref(label, &commit)
    }

    /// Whether the disk of the objects takes the untracked files. Else git would fill it, and again at each
    /// try: with what was written too much, say.
    fn fits(&self, git: &Git) -> Result<()> {
        let free = || statvfs(self.hub.dir()).map(|s| s.blocks_available() * s.fragment_size());
        let Some(free) = free().ok().filter(|free| *free < FREE_ENOUGH) else {
            return Ok(());
        };
        let list = git
            .clone()
            .args(["ls-files", "--others", "--exclude-standard", "-z"]);
        let list = list.patient()?;
        let files = list.stdout.split(|&b| b == 0).map(OsStr::from_bytes);
        let metas = files.filter_map(|file| self.dir.join(file).symlink_metadata().ok());
        // Of a hole little is kept. A quarter of what is free stays, for others.
        let bytes: u64 = metas
            .map(|meta| meta.len().min(meta.blocks() * BLOCK))
            .sum();
        if bytes <= free / 4 * 3 || planted("disk-filled-by-git") {
            return Ok(());
        }
        let (bytes, free) = (text::bytes(bytes), text::bytes(free));
        Err(Error::temporary(
            "cannot keep the uncommitted changes",
            format!("no space left on device: they take {bytes}, and {free} are free"),
        )
        .at_path(&self.dir)
        .hint("free some disk space, or remove there what nobody needs"))
    }

    /// `git add -A` without these paths, however many. That would run another git inside each link, by
    /// the settings that an agent made there: links get their new commits without one.
    pub(super) fn add_all(&self, git: Git, left_out: &[OsString]) -> Result<Output> {
        self.fits(&git)?;
        let links = match planted("git-asks-in-links") {
            true => Vec::new(),
            false => links_of(git.clone())?
                .into_iter()
                .map(|(path, _)| path)
                .collect(),
        };
        let file = self.admin.join("pathspec");
        let mut specs = b".\0".to_vec();
        for path in left_out.iter().chain(&links) {
            let parts: [&[u8]; 3] = [b":(top,exclude,literal)", path.as_bytes(), b"\0"];
            specs.extend_from_slice(&parts.concat());
        }
        atomic::replace(&file, &specs, false)?;
        let add = git.clone().args(["add", "-A", "--ignore-errors"]);
        let mut from = OsString::from("--pathspec-from-file=");
        from.push(&file);
        let out = add.arg("--pathspec-file-nul").arg(from).patient()?;
        let _gone = atomic::remove(&file)?;
        for some in links.chunks(LINKS_AT_ONCE).filter(|_| out.ok()) {
            let put = git.clone().args(["update-index", "--add", "--remove"]);
            let out = put.args(["--replace", "--"]).args(some).patient()?;
            if !out.ok() {
                return Ok(out);
            }
        }
        Ok(out)
    }

    pub(super) fn private_index(&self) -> PathBuf {
        self.admin.join(PRIVATE_INDEX)
    }

    /// A commit, on no branch, of the tree on disk; its parents are HEAD and what is being merged.
    /// The private index is left behind and matches the tree.
    pub(super) fn snapshot(&self, message: &str, by: Author<'_>) -> Result<String> {
        let what = "cannot keep the uncommitted changes";
        let index = self.private_index();
        let git = || self.git().env("GIT_INDEX_FILE", &index);
        let head = self.rev("HEAD^{commit}")?;
        // A copy of the tree's index spares reading unchanged files; a broken one is not used.
        let _old = atomic::remove(&index)?;
        let _lock = atomic::remove(&index.with_extension("lock"))?;
        let copied = atomic::copy(&self.admin.join("index"), &index, INDEX_BYTES_MAX).is_ok();
        let list = || git().args(["ls-files", "--others", "--exclude-standard", "-z"]);
        let mut others = list().patient()?;
        if !copied || !others.ok() {
            let _broken = atomic::remove(&index)?;
            if head.is_some() {
                git().args(["read-tree", "HEAD"]).must(what)?;
            }
            others = list().must(what)?;
        }
        let nested: Vec<OsString> = others
            .stdout
            .split(|&b| b == 0)
            .filter_map(|path| path.strip_suffix(b"/"))
            .map(|path| OsStr::from_bytes(path).to_owned())
            .collect();
        let added = self.add_all(git(), &nested)?;
        if !added.ok() {
            return Err(git().failure(what, &added));
        }
        let tree = git().arg("write-tree").must(what)?.line();
        let mut commit = by
            .sign(git())
            .args(["commit-tree", &tree, "-m", &printable(message)]);
        let merging = read_text(&self.admin.join("MERGE_HEAD")).unwrap_or_default();
        for parent in head.iter().map(String::as_str).chain(merging.lines()) {
            commit = commit.args(["-p", parent]);
        }
        let commit = commit.must(what)?.line();
        let same = git()
            .args(["diff-files", "--quiet", "--ignore-submodules"])
            .patient()?;
        let others = list().must(what)?;
        let missed = others
            .stdout
            .split(|&b| b == 0)
            .find(|path| !path.is_empty() && !path.ends_with(b"/"));
        let held = self.rev(&format!("{commit}^{{tree}}"))?;
        if !same.ok() || missed.is_some() || held.as_deref() != Some(&tree) {
            let why = match missed {
                Some(path) => format!("git left out {}", shown(OsStr::from_bytes(path))),
                None => "files differ from what was committed: something still writes there".into(),
            };
            return Err(Error::temporary(what, why).at_path(&self.dir));
        }
        Ok(commit)
    }

    /// Moves nested repositories that are no submodules out of the tree, beside it: git can neither
    /// commit nor clean them without loss.
    pub(super) fn move_nested_aside(&self, nested: &[OsString]) -> Result<()> {
        for path in nested {
            aside(&self.dir.join(path), &self.nested_place())?;
        }
        Ok(())
    }

    /// Removes this worktree's lock files of a killed git, and anything else that would block the
    /// next git, or lead it. As for every operation here, the caller guarantees that no process works in the
    /// tree.
    pub(super) fn clear_locks(&self) -> Result<()> {
        clear_odd(self.hub.dir(), self.hub.dir());
        clear_odd(self.hub.dir(), &self.admin);
        atomic::remove_temps(&self.admin);
        for entry in fs::read_dir(&self.admin).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "lock") {
                let _gone = atomic::remove(&path);
            }
        }
        match planted("hub-settings-stay") {
            true => Ok(()),
            false => self
                .hub
                .settle_config(self.hub.dir(), self.hub.repo().durable),
        }
    }
}

/// What only salvaged commits hold of an attempt that has ended: also what was salvaged since, before
/// the slot went on. `base` and `head` are those of the attempt.
pub(crate) fn salvaged_of(root: &Root, branch: &str, base: &str, head: &str) -> Vec<String> {
    let hubs = fs::read_dir(root.kept_repos())
        .into_iter()
        .flatten()
        .flatten();
    let hubs = hubs.map(|e| e.path()).filter(|hub| atomic::is_own_dir(hub));
    // In another repository's hub there is no such commit.
    hubs.flat_map(|hub| salvaged_in((&hub, &hub), branch, base, head).unwrap_or_default())
        .collect()
}

/// `here`: where to look; `kept`: where people find it.
fn salvaged_in(
    (here, kept): (&Path, &Path),
    branch: &str,
    base: &str,
    head: &str,
) -> Result<Vec<String>> {
    let folder = salvage_folder(branch);
    let list = Git::on(here).args(["for-each-ref", "--format=%(refname)"]);
    let list = list.arg(format!("--no-merged={head}")).arg(&folder);
    let out = list.must("cannot list what was salvaged")?.line();
    let (hub, base) = (kept.display(), base.get(..12).unwrap_or(base));
    let told = out
        .lines()
        .take(SALVAGED_TOLD_MAX)
        .map(|name| format!("on no branch, and kept: see `git -C {hub} diff {base} {name}`"));
    let mut told: Vec<String> = told.collect();
    let more = out.lines().count().saturating_sub(told.len());
    if more > 0 {
        told.push(format!(
            "and {more} more: `git -C {hub} for-each-ref {folder}`"
        ));
    }
    Ok(told)
}

/// A message usable as an argument: no NUL, and within the kernel's length limit.
pub(super) fn printable(message: &str) -> String {
    let mut end = message.len().min(64 << 10);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let text = message[..end].replace('\0', " ");
    if text.trim().is_empty() {
        "(no message)".to_owned()
    } else {
        text
    }
}
