//! Submodules that an agent moved, added or gave another place, committed or not.
//!
//! Knows nothing of items. Invariant: a submodule is known by its name in `.gitmodules`, wherever
//! its folder is; `.gitmodules` in a tree is an agent's, and is read through a copy.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use super::hub::MODULES;
use super::slot::Slot;
use super::submodules::{Described, Link, described};
use super::{Base, Worktree};
use crate::atomic;
use crate::error::Result;
use crate::limits::STATE_FILE_BYTES_MAX;

/// No command line takes more of them.
const REMOTES_MAX: usize = 1_000;

impl Worktree {
    /// The submodules as they lie in the tree, and those that its agent only committed.
    pub(super) fn links_as_left(&self) -> Result<Vec<Link>> {
        let mut links = self.links()?;
        for (name, path, url) in self.described_in_tree()? {
            if !self.is_module_folder(&path) {
                continue;
            }
            match links.iter_mut().find(|link| link.name == name) {
                Some(link) if link.path != path => {
                    (link.path, link.moved) = (path, true);
                }
                Some(_) => {}
                None => {
                    let slot = Slot::of_module(self.slot.admin().join(MODULES).join(&name));
                    let head = slot.is_there().then(|| slot.found().head).flatten();
                    links.extend(head.map(|oid| Link {
                        path,
                        oid,
                        name,
                        url,
                        moved: true,
                    }));
                }
            }
        }
        Ok(links)
    }

    /// What `.gitmodules` in the tree says.
    pub(super) fn described_in_tree(&self) -> Result<Vec<Described>> {
        let copy = self.admin.join("gitmodules");
        let Ok(text) = atomic::read_small(&self.dir.join(".gitmodules"), STATE_FILE_BYTES_MAX)
        else {
            return Ok(Vec::new());
        };
        atomic::replace(&copy, &text, false)?;
        let git = self.hub.git().args(["config", "--no-includes", "--file"]);
        let known = git.arg(&copy).args(["-z", "--get-regexp"]);
        let known = known.arg(r"^submodule\..*\.(path|url)$").patient()?;
        atomic::remove(&copy)?;
        Ok(match known.ok() {
            true => described(&known.stdout),
            false => Vec::new(),
        })
    }

    /// The commit that a submodule began at, wherever it was then. `None`: there was none of that name.
    pub(super) fn began_at(&self, base: &Base, link: &Link) -> Result<Option<String>> {
        let all = self.described_in(&base.oid)?;
        match all.iter().find(|(name, ..)| *name == link.name) {
            Some((_, path, _)) => self.link_at(&base.oid, path),
            None => Ok(None),
        }
    }

    /// A link to a submodule in its new place: what `git add` of the whole tree then finds there.
    pub(super) fn stage_link(&self, path: &OsStr, oid: &str) -> Result<()> {
        let mut entry = OsString::from(format!("160000,{oid},"));
        entry.push(path);
        let git = self.git().args(["update-index", "--add", "--replace"]);
        let git = git.arg("--cacheinfo").arg(entry);
        // What cannot be a link stays a repository of its own, and is told as one.
        git.patient().map(drop)
    }

    /// Whether a remote of the submodule's has this commit, as far as its agent has fetched.
    pub(super) fn is_of_remote(&self, oid: &str) -> Result<bool> {
        let refs = self.slot.found().refs;
        let remotes = refs
            .iter()
            .filter(|(name, _)| name.starts_with("refs/remotes/"));
        let remotes = remotes.map(|(_, oid)| oid.as_str());
        let remotes = remotes
            .filter(|oid| super::hub::is_oid(oid))
            .take(REMOTES_MAX);
        let view = super::Git::on(&self.view()?);
        let git = self
            .hub
            .quiet(view)
            .args(["rev-list", "--max-count=1", oid, "--not"]);
        let out = git.args(remotes).arg("--").patient()?;
        Ok(out.ok() && out.stdout.is_empty())
    }

    /// A folder with a link to a repository: a folder `.git` would be a repository of its own. The path
    /// is an agent's words: one with `..` leads into another slot's tree.
    fn is_module_folder(&self, path: &OsStr) -> bool {
        let parts = || Path::new(path).components();
        let is_plain = parts().all(|part| matches!(part, Component::Normal(_)))
            && parts().collect::<PathBuf>().as_os_str() == path;
        let link = self.dir.join(path).join(".git");
        let is_link = || link.symlink_metadata().is_ok_and(|m| m.is_file());
        is_plain && !path.is_empty() && self.is_inside(path) && is_link()
    }
}
