//! Repositories that an agent made inside its tree: git records at most a link to them, and nothing
//! of what is in them.
//!
//! Knows nothing of items. Invariant: no git works in them, and nothing of them is deleted.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use super::debris::aside;
use super::state::TreeState;
use super::submodules::Found;
use super::{Base, Worktree};
use crate::atomic;
use crate::error::Result;
use crate::layout::shown;
use crate::limits::STATE_FILE_BYTES_MAX;

/// A repository in a repository in a repository: nobody goes further than this.
const DEPTH_MAX: usize = 8;

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
            if self.is_own_beginning(&path) {
                let git = self.git().args(["update-index", "--force-remove", "--"]);
                git.arg(&path).must("cannot replace a link by its files")?;
                self.adopt(&path, &mut found)?;
                state = self.state()?;
            } else {
                let why = "is committed as a link: what it leads to is in no branch";
                found.elsewhere.push(format!("{} {why}", shown(&path)));
            }
        }
        for _ in 0..DEPTH_MAX {
            let mut any = false;
            for path in &state.nested {
                if self.is_own_beginning(path) {
                    self.adopt(path, &mut found)?;
                    any = true;
                }
            }
            if !any {
                break;
            }
            state = self.state()?;
        }
        found.elsewhere.extend(state.nested.iter().map(|path| {
            format!(
                "{} is a repository of its own and not committed: it lies in the worktree, and beside it ({}.~N~) when the slot goes on",
                shown(path),
                self.nested_place().display()
            )
        }));
        Ok((state, found))
    }

    fn adopt(&self, path: &OsStr, found: &mut Found) -> Result<()> {
        let git = self.dir.join(path).join(".git");
        if let Some(kept) = aside(&git, &self.nested_place())? {
            found.notes.push(format!(
                "{}: it was a repository of its own: its files are committed, its history is kept in {}",
                shown(path),
                kept.display()
            ));
        }
        Ok(())
    }

    /// Whether a repository was begun here, and has no other place that it comes from or goes to.
    fn is_own_beginning(&self, path: &OsStr) -> bool {
        let git = self.dir.join(path).join(".git");
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
            let described = self.described()?;
            bare.retain(|path| !described.iter().any(|(_, of, _)| of == path));
        }
        Ok(bare)
    }
}
