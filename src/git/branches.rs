//! Looks at finished branches in the user's repository: what is merged, what conflicts, what changed.
//! A git process or two for all of them, however many there are.
//!
//! Knows nothing of items. Invariant: nothing is written into the user's repository. Merges are tried
//! with a folder of ROOT for the objects that they make: the last that looks removes it, also one that
//! a killed process left.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hub::is_oid;
use super::{Git, Output};
use crate::atomic;
use crate::clock;
use crate::error::{Error, Result};

/// Times that git is asked, each time behind a branch of which it could not tell.
const STARTS_MAX: u32 = 20;

/// Removing tried merges takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(10);

/// What a branch changes, as `git diff --stat` counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) files: u64,
    pub(crate) insertions: u64,
    pub(crate) deletions: u64,
}

/// What merging a branch would give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Merge {
    /// The tree, of files with marks of conflicts where there are any.
    pub(crate) tree: String,
    /// Paths with conflicts.
    pub(crate) conflicts: Vec<String>,
}

/// The user's repository, only to look at.
pub(crate) struct Look<'a> {
    /// Any directory inside it.
    pub(crate) path: &'a Path,
    /// Where the objects of tried merges go.
    pub(crate) tried: PathBuf,
}

impl Look<'_> {
    /// Asks no network for what a partial clone leaves out.
    pub(super) fn git(&self) -> Git {
        Git::at(self.path).env("GIT_NO_LAZY_FETCH", "1")
    }

    /// The branches that harness names: each with its commit.
    pub(crate) fn tips(&self) -> Result<BTreeMap<String, String>> {
        let git = self.git().args([
            "for-each-ref",
            "--format=%(objectname) %(refname:lstrip=2)",
            "refs/heads/harness/",
        ]);
        let out = git.must("cannot list the branches of your repository")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs
            .map(|(oid, name)| (name.to_owned(), oid.to_owned()))
            .collect())
    }

    /// What a revision is now: a commit and its tree. `None`: there is no such revision any more.
    pub(crate) fn commit(&self, revision: &str) -> Result<Option<(String, String)>> {
        let git = self
            .git()
            .args(["rev-parse", "--verify", "--quiet", "--end-of-options"]);
        let commit = git.arg(format!("{revision}^{{commit}}")).output()?;
        if !commit.ok() {
            return Ok(None);
        }
        let commit = commit.line();
        let git = self.git().args(["rev-parse", "--verify", "--quiet"]);
        let tree = git.arg(format!("{commit}^{{tree}}")).output()?;
        Ok(tree.ok().then(|| (commit, tree.line())))
    }

    /// The branches that harness names and that this commit contains.
    pub(crate) fn merged_into(&self, commit: &str) -> Result<HashSet<String>> {
        let git = self.git().args(["for-each-ref", "--merged", commit]);
        let git = git.args(["--format=%(refname:lstrip=2)", "refs/heads/harness/"]);
        let out = git.must("cannot list the merged branches of your repository")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Where a branch left a base, and how many commits it has since. `None`: they have nothing in
    /// common.
    pub(crate) fn since(&self, base: &str, tip: &str) -> Result<Option<(String, u64)>> {
        let out = self.git().args(["merge-base", base, tip]).output()?;
        if !out.ok() {
            return Ok(None);
        }
        let git = self
            .git()
            .args(["rev-list", "--count", tip, "--not", base, "--"]);
        let count = git.output()?.line().parse().unwrap_or_default();
        Ok(Some((out.line(), count)))
    }

    /// What each tip changes since its base; `None` where git could not tell.
    pub(crate) fn changes(&self, pairs: &[(String, String)]) -> Result<Vec<Option<Changes>>> {
        past_bad_ones(pairs, |pairs| {
            let lines = pairs.iter().map(|(base, tip)| format!("{tip} {base}\n"));
            let git = self
                .git()
                .args(["diff-tree", "--stdin", "-r", "-M", "--shortstat"]);
            let out = fed(&git, lines.collect::<String>().as_bytes())?;
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let mut lines = text.lines().peekable();
            let mut all = Vec::new();
            for (_, tip) in pairs {
                // One without a difference is left out.
                let changes = match lines.next_if(|line| line == tip) {
                    Some(_) => lines.next().and_then(counted),
                    None if lines.peek().is_some() || out.ok() => Some(Changes::default()),
                    None => break,
                };
                all.push(changes);
            }
            Ok(all)
        })
    }

    /// What merging each branch into its base would give; `None` where git could not tell, as one
    /// before 2.39.
    pub(crate) fn merges(&self, pairs: &[(String, String)]) -> Result<Vec<Option<Merge>>> {
        if pairs.is_empty() {
            return Ok(Vec::new());
        }
        let objects = Objects::new(self)?;
        past_bad_ones(pairs, |pairs| {
            let lines = pairs.iter().map(|(base, tip)| format!("{base} {tip}\n"));
            let git = self
                .git()
                .args(["merge-tree", "--write-tree", "--stdin", "--name-only"])
                .args(["--no-messages", "--allow-unrelated-histories"])
                .env("GIT_OBJECT_DIRECTORY", &objects.dir);
            Ok(merges_of(
                &fed(&git, lines.collect::<String>().as_bytes())?.stdout,
            ))
        })
    }
}

/// Asks for all, and again for those behind one at which git ended.
fn past_bad_ones<T: Clone>(
    pairs: &[(String, String)],
    ask: impl Fn(&[(String, String)]) -> Result<Vec<Option<T>>>,
) -> Result<Vec<Option<T>>> {
    let mut all = Vec::new();
    for _ in 0..STARTS_MAX {
        if all.len() >= pairs.len() {
            break;
        }
        all.extend(ask(&pairs[all.len()..])?);
        if all.len() < pairs.len() {
            all.push(None);
        }
    }
    all.resize(pairs.len(), None);
    Ok(all)
}

/// `STATUS NUL TREE NUL (PATH NUL)… NUL` for each; status 1 is a clean merge, 0 one with conflicts.
fn merges_of(bytes: &[u8]) -> Vec<Option<Merge>> {
    let mut words = bytes.split(|&b| b == 0).map(String::from_utf8_lossy);
    let mut all = Vec::new();
    while let (Some(status), Some(tree)) = (words.next(), words.next()) {
        let paths = words.by_ref().take_while(|path| !path.is_empty());
        let conflicts: Vec<String> = paths.map(|path| path.into_owned()).collect();
        let is_merge = matches!(status.trim(), "0" | "1") && is_oid(&tree);
        all.push(is_merge.then(|| Merge {
            tree: tree.into_owned(),
            conflicts,
        }));
    }
    all
}

/// ` 2 files changed, 3 insertions(+), 1 deletion(-)`.
fn counted(line: &str) -> Option<Changes> {
    let mut changes = Changes::default();
    for part in line.split(',') {
        let (number, word) = part.trim().split_once(' ')?;
        let number = number.parse().ok()?;
        match word.as_bytes().first()? {
            b'f' => changes.files = number,
            b'i' => changes.insertions = number,
            _ => changes.deletions = number,
        }
    }
    Some(changes)
}

/// Runs it with a text as its standard input. What it wrote before it failed counts.
pub(super) fn fed(git: &Git, text: &[u8]) -> Result<Output> {
    git.clone().reading(nameless(text)?).output()
}

/// A file in memory, at its beginning.
pub(super) fn nameless(text: &[u8]) -> Result<File> {
    use std::io::{Seek, Write};
    let fail = |e: std::io::Error| Error::io("cannot ask git", Path::new("memfd"), &e);
    let file = rustix::fs::memfd_create("harness", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.map_err(|e| fail(e.into()))?);
    file.write_all(text)
        .and_then(|()| file.rewind())
        .map_err(fail)?;
    Ok(file)
}

/// A folder for the objects that merges make, which borrows the repository's. Several processes may
/// use it: an object has the same name for each.
struct Objects {
    dir: PathBuf,
    /// Shared by those that use the folder.
    lock: File,
}

impl Objects {
    fn new(look: &Look<'_>) -> Result<Objects> {
        let git = look.git().args([
            "rev-parse",
            "--path-format=absolute",
            "--git-path",
            "objects",
        ]);
        let of_repository = git
            .must("cannot find the objects of your repository")?
            .path();
        let dir = look.tried.clone();
        if let Some(above) = dir.parent() {
            atomic::make_dir(above, true)?;
        }
        let path = dir.with_extension("lock");
        let lock = shared(&path)?;
        let objects = Objects { dir, lock };
        atomic::make_dir(&objects.dir, true)?;
        atomic::make_dir(&objects.dir.join("info"), true)?;
        let mut line = std::os::unix::ffi::OsStringExt::into_vec(of_repository.into_os_string());
        line.push(b'\n');
        atomic::replace(&objects.dir.join("info/alternates"), &line, false)?;
        Ok(objects)
    }
}

/// Holds the lock with others. Who removes what is left holds it alone, for a moment.
fn shared(path: &Path) -> Result<File> {
    let end = clock::instant() + PATIENCE;
    let lock = atomic::open_lock(path)?;
    while fs2::FileExt::try_lock_shared(&lock).is_err() {
        if clock::instant() >= end {
            let why = "another `harness branches` has held its lock for too long";
            return Err(Error::temporary("cannot try merges", why)
                .at_path(path)
                .hint("look whether it is stopped (Ctrl-Z), and end it"));
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(lock)
}

impl Drop for Objects {
    fn drop(&mut self) {
        if fs2::FileExt::unlock(&self.lock).is_ok()
            && fs2::FileExt::try_lock_exclusive(&self.lock).is_ok()
        {
            let _stays = atomic::discard_tree(&self.dir, "merges that were only tried");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_is_read() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let text = format!("0\0{a}\0f\0g h\0\x001\0{b}\0\0");
        let merge = |tree: &str, conflicts: &[&str]| {
            Some(Merge {
                tree: tree.to_owned(),
                conflicts: conflicts.iter().map(|&c| c.to_owned()).collect(),
            })
        };
        assert_eq!(
            merges_of(text.as_bytes()),
            [merge(&a, &["f", "g h"]), merge(&b, &[])]
        );
        assert_eq!(merges_of(b""), []);
        assert_eq!(merges_of(b"fatal\0"), [None]);
        let counts = |line| counted(line).map(|c| (c.files, c.insertions, c.deletions));
        let line = " 12 files changed, 3 insertions(+), 1 deletion(-)";
        assert_eq!(counts(line), Some((12, 3, 1)));
        assert_eq!(counts(" 1 file changed, 1 deletion(-)"), Some((1, 0, 1)));
        assert_eq!(counts("x"), None);
    }
}
