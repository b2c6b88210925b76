//! Hubs that an older version made: agents' git worked in them, and left there what it left.
//!
//! Knows nothing of slots. Invariant: what a ref held is held by a ref of the hub.

use std::collections::HashSet;
use std::fs;

use super::admin::is_broken;
use super::debris::aside;
use super::hub::{is_oid, read_text};
use super::slot::NOT_GIVEN;
use super::{Git, Hub, refs};
use crate::atomic;
use crate::error::Result;

impl Hub {
    /// Moves agents' branches, tags and stashes to where no agent sees them, and what would configure
    /// git to where git does not look. Agents may still be at work, on branches of their own too.
    pub(super) fn leave_old_version(&self) -> Result<()> {
        let what = "cannot put an older version's branches away";
        let lock = self.lock()?;
        let debris = self.dir().join("harness-debris");
        atomic::make_dir(&debris, true)?;
        let mut in_use = HashSet::new();
        let trees = fs::read_dir(self.dir().join("worktrees"));
        for tree in trees.into_iter().flatten().flatten() {
            let head = read_text(&tree.path().join("HEAD")).unwrap_or_default();
            in_use.extend(head.trim_end().strip_prefix("ref: ").map(str::to_owned));
            if is_broken(&tree.path()) {
                // One that git cannot read makes every fetch fail.
                aside(&tree.path(), &debris.join(tree.file_name()))?;
            }
        }
        for folder in ["info", "hooks"] {
            aside(&self.dir().join(folder), &debris.join(folder))?;
        }
        let git = Git::on(self.user()).args(["for-each-ref", "--format=%(refname)"]);
        let listed = git.must(what)?.stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let of_user: HashSet<&str> = listed.lines().collect();
        for (name, oid) in refs::list(self.dir(), &NOT_GIVEN) {
            let is_users = name.starts_with("refs/remotes/") || of_user.contains(&*name);
            if is_users || in_use.contains(&name) || !is_oid(&oid) {
                continue;
            }
            let short = name.strip_prefix("refs/").unwrap_or(&name);
            let kept = self.salvage_name(&format!("before/{short}"), &oid);
            let git = || self.git().holding(Some(&lock));
            git().args(["update-ref", &kept, &oid]).must(what)?;
            git().args(["update-ref", "-d", &name, &oid]).must(what)?;
        }
        Ok(())
    }
}
