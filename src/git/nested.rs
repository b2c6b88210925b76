//! Repositories that an agent made inside its tree: git records at most a link to them, and nothing
//! of what is in them.
//!
//! Knows nothing of items. Invariant: no git works in them, and nothing of them is deleted.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::debris::{aside, open_folder};
use super::state::TreeState;
use super::submodules::Found;
use super::{Base, Worktree};
use crate::atomic;
use crate::error::{Kind, Result};
use crate::layout::shown;
use crate::limits::STATE_FILE_BYTES_MAX;

/// A repository in a repository in a repository: nobody goes further than this.
const DEPTH_MAX: usize = 8;

/// Opens every folder `.git` below this one that its agent closed: git takes no notice of one that it
/// cannot open, nor of what is in it.
pub(super) fn open_hidden(dir: &Path) {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let _was_open = open_folder(&entry.path());
            if entry.file_name() != ".git" {
                left.push(entry.path());
            }
        }
    }
}

impl Worktree {
    /// Makes plain files of what an agent began with `git init` (a project that a tool set up): they
    /// are its work. The repository's own folder is kept beside the tree. One with a remote is
    /// somebody else's project, and stays.
    pub(super) fn adopt_nested(
        &self,
        base: &Base,
        mut state: TreeState,
    ) -> Result<(TreeState, Found)> {
        let mut found = Found::default();
        for path in self.bare_links(base)? {
            if self.is_own_beginning(&path) && self.adopt(&path, &mut found)? {
                let git = self.git().args(["update-index", "--force-remove", "--"]);
                git.arg(&path).must("cannot replace a link by its files")?;
                state = self.state()?;
            } else {
                let why = "is committed as a link: what it leads to is in no branch";
                found.elsewhere.push(format!("{} {why}", shown(&path)));
            }
        }
        for _ in 0..DEPTH_MAX {
            let mut any = false;
            for path in &state.nested {
                any |= self.is_own_beginning(path) && self.adopt(path, &mut found)?;
            }
            if !any {
                break;
            }
            state = self.state()?;
        }
        found.elsewhere.extend(state.nested.iter().map(|path| {
            // One that cannot be moved stays in the tree, which is then kept whole.
            let kept = match atomic::why_unmovable(&self.dir.join(path)) {
                None => self.nested_place(),
                Some(_) => self.top.clone(),
            };
            format!(
                "{} is a repository of its own and not committed: it lies in the worktree, and beside it ({}.~N~) when the slot goes on",
                shown(path),
                kept.display()
            )
        }));
        Ok((state, found))
    }

    /// `false`: its folder is another user's, and it stays a repository of its own.
    fn adopt(&self, path: &OsStr, found: &mut Found) -> Result<bool> {
        let git = self.dir.join(path).join(".git");
        let kept = match aside(&git, &self.nested_place()) {
            Err(e) if e.kind() == Kind::Permanent => return Ok(false),
            done => done?,
        };
        if let Some(kept) = kept {
            found.notes.push(format!(
                "{}: it was a repository of its own: its files are committed, its history is kept in {}",
                shown(path),
                kept.display()
            ));
        }
        Ok(true)
    }

    /// Whether a repository was begun here, and has no other place that it comes from or goes to.
    fn is_own_beginning(&self, path: &OsStr) -> bool {
        let git = self.dir.join(path).join(".git");
        let _was_open = self.is_inside(path) && open_folder(&git);
        let _is_closed = self.is_closed(git.join("config").as_os_str());
        let config = atomic::read_small(&git.join("config"), STATE_FILE_BYTES_MAX);
        let config = config.map(|text| String::from_utf8_lossy(&text).into_owned());
        let remote = |line: &str| line.trim_start().starts_with("[remote");
        self.is_inside(path)
            && atomic::is_own_dir(&git)
            && config.is_ok_and(|text| !text.lines().any(remote))
    }

    /// Links that the agent committed and that no `.gitmodules` describes.
    fn bare_links(&self, base: &Base) -> Result<Vec<OsString>> {
        let git = self
            .git()
            .args(["diff-index", "--cached", "--raw", "--no-renames"]);
        let git = git.args(["--ignore-submodules=none", "-z", &base.oid, "--"]);
        let out = git.must("cannot compare the branch with its base")?;
        let mut parts = out.stdout.split(|&b| b == 0);
        let mut bare = Vec::new();
        while let (Some(told), Some(path)) = (parts.next(), parts.next()) {
            if told.get(8..14) == Some(b"160000") {
                bare.push(OsString::from_vec(path.to_vec()));
            }
        }
        if !bare.is_empty() {
            let mut described = self.described_in("HEAD")?;
            described.extend(self.described_in_tree()?);
            bare.retain(|path| !described.iter().any(|(_, of, _)| of == path));
        }
        Ok(bare)
    }
}
