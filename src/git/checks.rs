//! Looks at what an item's branch changes, for the built-in gates, and undoes what gates wrote into a
//! worktree.
//!
//! Knows nothing of gates. Invariant: the agent's settings, filters and attributes decide nothing here.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::hub::MODULES;
use super::{Base, Git, Hub, Output, Worktree};
use crate::atomic;
use crate::error::Result;
use crate::layout::{SlotId, shown};
use crate::mutant::planted;
use crate::text;

/// What is to be true of a branch.
#[derive(Clone, Copy)]
pub(crate) enum Checked<'a> {
    Changed,
    /// Nothing outside of these patterns (git's `:(glob)`) is changed; none: anything may be.
    Paths(&'a [String]),
    Markers,
    /// No changed file is larger, in bytes.
    Size(u64),
}

/// Files named in one reason.
const NAMED_MAX: usize = 5;

impl Hub {
    /// Why it is not true of what `head` changes since `base`; `None`: it is.
    pub(crate) fn why_not(
        &self,
        base: &str,
        head: &str,
        what: Checked<'_>,
    ) -> Result<Option<String>> {
        match what {
            Checked::Changed => {
                let changed = self.changed(base, head, &[])?;
                Ok(changed.is_empty().then(|| "nothing was changed".to_owned()))
            }
            Checked::Paths([]) => Ok(None),
            Checked::Paths(patterns) => {
                let allowed: Vec<String> = patterns
                    .iter()
                    .map(|p| format!(":(top,exclude,glob){p}"))
                    .collect();
                let outside = self.changed(base, head, &allowed)?;
                Ok(named(&outside, "changed outside its `paths`"))
            }
            Checked::Markers => {
                let marked = self.marked(base, head)?;
                Ok(named(&marked, "with conflict markers"))
            }
            Checked::Size(max) => {
                let large = self.larger(base, head, max)?;
                Ok(named(&large, &format!("larger than {max} bytes")))
            }
        }
    }

    /// Which of these files, or files in these folders, differ between two commits, in words.
    pub(crate) fn touched(
        &self,
        old: &str,
        new: &str,
        paths: &[PathBuf],
    ) -> Result<Option<String>> {
        let git = self.git().env("GIT_LITERAL_PATHSPECS", "1");
        let git = git.args(["diff-tree", "-r", "--no-renames", "--name-only", "-z"]);
        let out = git.args([old, new, "--"]).args(paths);
        let out = out.must("cannot list what would be changed")?;
        let found = out.stdout.split(|&b| b == 0);
        let found = found.filter(|path| !path.is_empty()).map(<[u8]>::to_vec);
        Ok(named(&found.collect::<Vec<_>>(), "would be changed"))
    }

    /// Where in a worktree of the user's repository this folder lies; `None`: in none.
    pub(crate) fn prefix_of(&self, folder: &Path) -> Option<PathBuf> {
        let mut above = folder.ancestors();
        above.find(|dir| atomic::exists(&dir.join(".git")))?;
        let git = Git::at(folder).args(["rev-parse", "--path-format=absolute", "--show-prefix"]);
        let out = git
            .arg("--git-common-dir")
            .output()
            .ok()
            .filter(Output::ok)?;
        let mut lines = out.stdout.split(|&b| b == b'\n');
        let path = |line: &[u8]| PathBuf::from(OsStr::from_bytes(line));
        let (prefix, common) = (path(lines.next()?), path(lines.next()?));
        let real = |path: &Path| path.canonicalize().ok();
        (real(&common) == real(self.user())).then_some(prefix)
    }

    /// Files that differ, but for those that the pathspecs exclude.
    fn changed(&self, base: &str, head: &str, but: &[String]) -> Result<Vec<Vec<u8>>> {
        let git = self
            .git()
            .args(["diff-tree", "-r", "--no-renames", "--name-only", "-z"]);
        let git = git.args([base, head, "--", ":(top)"]).args(but);
        let out = git.must("cannot list what was changed")?;
        let paths = out
            .stdout
            .split(|&b| b == 0)
            .filter(|path| !path.is_empty());
        Ok(paths.map(<[u8]>::to_vec).collect())
    }

    /// Changed files with a line that begins a conflict's first or last part: `=======` alone may be a
    /// heading.
    fn marked(&self, base: &str, head: &str) -> Result<Vec<Vec<u8>>> {
        let changed: HashSet<Vec<u8>> = self.changed(base, head, &[])?.into_iter().collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let grep = self
            .git()
            .args(["grep", "-z", "-l", "-I", "--full-name", "-E"]);
        let grep = grep.args(["-e", "^(<<<<<<<|>>>>>>>) ", head, "--"]);
        let out = grep.patient()?;
        // 1: no line.
        if out.code > 1 {
            return Err(grep.failure("cannot look for conflict markers", &out));
        }
        let before = self.marked_before(base)?;
        let prefix = format!("{head}:").into_bytes();
        let found = out
            .stdout
            .split(|&b| b == 0)
            .filter_map(|name| name.strip_prefix(&prefix[..]));
        let found = found.filter(|path| changed.contains(*path) && !before.contains(*path));
        Ok(found.map(<[u8]>::to_vec).collect())
    }

    /// Files that had such lines before (a test's data): theirs are meant.
    fn marked_before(&self, base: &str) -> Result<HashSet<Vec<u8>>> {
        let grep = self
            .git()
            .args(["grep", "-z", "-l", "-I", "--full-name", "-E"]);
        let out = grep
            .args(["-e", "^(<<<<<<<|>>>>>>>) ", base, "--"])
            .patient()?;
        let prefix = format!("{base}:").into_bytes();
        let found = out
            .stdout
            .split(|&b| b == 0)
            .filter_map(|name| name.strip_prefix(&prefix[..]));
        Ok(found.map(<[u8]>::to_vec).collect())
    }

    fn larger(&self, base: &str, head: &str, max: u64) -> Result<Vec<Vec<u8>>> {
        let changed: HashSet<Vec<u8>> = self.changed(base, head, &[])?.into_iter().collect();
        let git = self
            .git()
            .args(["ls-tree", "-r", "-l", "-z", "--full-tree", head]);
        let out = git.must("cannot list the files of the branch")?;
        let lines = out.stdout.split(|&b| b == 0);
        let large = lines.filter_map(|line| {
            let tab = line.iter().position(|&b| b == b'\t')?;
            let (facts, path) = (&line[..tab], &line[tab + 1..]);
            let size = facts.rsplit(|&b| b == b' ').next()?;
            let size: u64 = std::str::from_utf8(size).ok()?.parse().ok()?;
            (size > max && changed.contains(path)).then(|| path.to_vec())
        });
        Ok(large.collect())
    }
}

/// The branch that stands for a tree to gate, in a slot's worktree. No item's: in a name, a `-` at the
/// beginning is escaped.
pub(crate) fn gated_branch(slot: SlotId) -> String {
    format!("{GATED}{slot}")
}

const GATED: &str = "harness/-merging/";

impl Hub {
    /// Removes a branch that only stood for a tree to gate; a slot's HEAD on it stays at its commit.
    pub(crate) fn drop_branch(&self, branch: &str) -> Result<()> {
        let full = format!("refs/heads/{branch}");
        let Some(oid) = self.read_ref(&full) else {
            return Ok(());
        };
        for admin in self.heads_on(&full) {
            if std::fs::metadata(&admin).is_ok_and(|m| m.is_dir()) {
                atomic::replace(&admin.join("HEAD"), format!("{oid}\n").as_bytes(), false)?;
            }
        }
        let git = self.git().args(["update-ref", "-d", &full]);
        git.must("cannot remove a branch of harness's own")
            .map(drop)
    }
}

/// `2 files changed outside its `paths`: a, b`; `None`: there is none.
fn named(paths: &[Vec<u8>], what: &str) -> Option<String> {
    let shown = paths.iter().take(NAMED_MAX);
    let shown: Vec<String> = shown
        .map(|path| shown_path(OsStr::from_bytes(path)))
        .collect();
    let more = if paths.len() > NAMED_MAX { ", …" } else { "" };
    let files = if paths.len() == 1 { "file" } else { "files" };
    (!paths.is_empty())
        .then(|| format!("{} {files} {what}: {}{more}", paths.len(), shown.join(", ")))
}

fn shown_path(path: &OsStr) -> String {
    text::one_line(&shown(path))
}

impl Worktree {
    /// What is in the tree that is not committed and not ignored, in words; `None`: nothing.
    pub(crate) fn uncommitted(&self, what: &str) -> Result<Option<String>> {
        let git = self
            .git()
            .args(["status", "--porcelain", "-z", "--no-renames"]);
        // Without a git in the links to other repositories: it would work by what an agent set there.
        let git = git.args(["--untracked-files=all", "--ignore-submodules=dirty"]);
        let out = git.patient()?;
        // Two letters and a space before each path.
        let paths = out
            .stdout
            .split(|&b| b == 0)
            .filter_map(|line| line.get(3..));
        let paths: Vec<Vec<u8>> = paths.map(<[u8]>::to_vec).collect();
        Ok(named(&paths, what))
    }

    /// Whether the tree was set up to gate a merge: what is uncommitted there, gates wrote.
    pub(super) fn is_of_gates(&self) -> bool {
        let branch = self.item_branch();
        branch.is_some_and(|branch| branch.starts_with(GATED)) && !planted("gate-leftovers-kept")
    }

    /// Takes away what was written since the last commit: all that an agent made is in commits. Ignored
    /// files stay. `false`: something else stays, too, or the tree is gone.
    pub(crate) fn restore(&self) -> Result<bool> {
        if !atomic::is_own_dir(&self.dir) {
            return Ok(false);
        }
        self.clear_locks()?;
        let is_clean = || -> Result<bool> {
            // Empty folders, too, which git does not call a change.
            let clean = self.git().args(["clean", "-fdq"]).patient()?;
            Ok(clean.ok() && !self.state()?.dirty)
        };
        // Mostly nothing was written.
        if is_clean()? {
            return Ok(true);
        }
        let reset = self.git().args(["reset", "--quiet", "--hard"]).patient()?;
        Ok(reset.ok() && is_clean()?)
    }

    /// Makes tree and slot's repository be this commit on this branch, as its item ended with. Of what
    /// gates committed, or wrote where git does not clean, copies are kept as of any leftover.
    pub(crate) fn make_exact(&self, branch: &str, made: &Base) -> Result<()> {
        let is_there = self.rev("HEAD^{commit}")?.as_ref() == Some(&made.oid);
        // Trees in the tree are checked out again, with all that belongs to it.
        let has_parts = atomic::exists(&self.hub.dir().join(MODULES));
        let is_restored = is_there && !has_parts && self.restore()?;
        let (given, found) = (self.given(), self.slot.found());
        let is_untouched =
            (&found.refs, &found.on, &found.head) == (&given.refs, &given.on, &given.head);
        if !is_restored || !is_untouched {
            let lease = match &self.lease {
                Some(lease) => lease.clone(),
                None => return self.checkout(branch, made).map(drop),
            };
            let others = self.others.clone();
            let again = self.hub.set_up(&self.dir, lease, branch, made, others);
            return again.map(drop);
        }
        if planted("gate-settings-stay") && found.head.as_ref() == Some(&made.oid) {
            return Ok(());
        }
        // What the agent left uncommitted is a commit of ours; what it, or a gate, set is no gate's.
        self.renew_slot(branch, made)
    }
}
