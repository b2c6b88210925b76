//! A worktree's changes, for people. Read-only; takes none of git's locks, so that it works while
//! an agent is stopped in the middle of a git command.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{Base, Worktree};
use crate::atomic;
use crate::error::Result;
use crate::limits::INDEX_BYTES_MAX;

/// What `git status` and `git diff` print for a worktree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    pub status: String,
    /// Commits and uncommitted changes since the base. Untracked files are in `status` only.
    pub diff: Vec<u8>,
}

impl Worktree {
    pub(crate) fn picture(&self, base: &Base) -> Result<Picture> {
        let look = self.look()?;
        let git = || {
            let git = self.git().env("GIT_OPTIONAL_LOCKS", "0");
            match &look {
                None => git,
                Some(look) => git
                    .env("GIT_DIR", &look.dir)
                    .env("GIT_OBJECT_DIRECTORY", &look.objects),
            }
        };
        let status = git()
            .args(["status", "--short", "--branch", "--untracked-files=normal"])
            .arg("--ignore-submodules=all")
            .must("cannot look at the worktree")?;
        let diff = git()
            .args(["diff", "--no-ext-diff", "--no-textconv"])
            .args(["--ignore-submodules=all", &base.oid])
            .must("cannot compare the worktree with its base")?;
        Ok(Picture {
            status: match look.and_then(|look| look.on) {
                None => String::from_utf8_lossy(&status.stdout).into_owned(),
                Some(on) => {
                    let text = String::from_utf8_lossy(&status.stdout).into_owned();
                    text.replacen("## HEAD (no branch)", &format!("## {on}"), 1)
                }
            },
            diff: diff.stdout,
        })
    }

    /// The agent's HEAD and index as they are now, in a git directory of ours. `None`: there are
    /// none, or an older version made the worktree.
    fn look(&self) -> Result<Option<Look>> {
        let found = self.slot.found();
        let Some(head) = found
            .head
            .filter(|_| self.slot.is_there() && !self.is_of_old())
        else {
            return Ok(None);
        };
        let dir = self.admin.join("look");
        atomic::discard_tree(&dir, "copies of an earlier look")?;
        atomic::make_dir(&dir, true)?;
        let put = |name: &str, bytes: &[u8]| atomic::replace(&dir.join(name), bytes, false);
        put("HEAD", format!("{head}\n").as_bytes())?;
        put(
            "commondir",
            &[self.hub.dir().as_os_str().as_bytes(), b"\n"].concat(),
        )?;
        let index = self.slot.admin().join("index");
        // Without one every file would look new.
        if atomic::copy(&index, &dir.join("index"), INDEX_BYTES_MAX).is_err() {
            return Ok(None);
        }
        let on = found
            .on
            .map(|on| on.trim_start_matches("refs/heads/").to_owned());
        let objects = self.view()?.join("objects");
        Ok(Some(Look { dir, objects, on }))
    }
}

struct Look {
    dir: PathBuf,
    objects: PathBuf,
    /// The branch.
    on: Option<String>,
}
