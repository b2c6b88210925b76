//! Removes lock files of killed gits in a hub, which would block everybody for ever.
//!
//! Knows nothing of a lock's purpose. Invariant: a lock is removed only if no living process could
//! hold it. The checker holds `harness.sweep` meanwhile; a git that starts after the check cannot
//! take an existing lock. The user's own repository is never cleaned: who works there cannot be
//! known.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::wait;
use crate::atomic;
use crate::clock;
use crate::error::Result;
use crate::mutant::planted;

const SWEEP: &str = "harness.sweep";
/// How long a lock must stand before its holder is looked for. Git holds one for milliseconds, and
/// so do programs without git, which the search does not find.
pub(super) const UNTOUCHED: Duration = Duration::from_secs(1);

/// A lock that blocked a git command, and since when.
pub(super) struct Lock {
    path: PathBuf,
    /// Inode and change time: tells it from a later lock of the same name.
    mark: (u64, i64, i64),
    since: Instant,
}

impl Lock {
    /// The lock in `hub` that git, working in `dir`, complained about; `before` if it is the same
    /// lock as the last time.
    pub(super) fn told(stderr: &str, hub: &Path, dir: &Path, before: Option<Lock>) -> Option<Lock> {
        let path = stderr.lines().find_map(named).map(|name| dir.join(name))?;
        if !path.starts_with(hub) {
            return None;
        }
        let mark = mark(&path)?;
        match before {
            Some(before) if before.path == path && before.mark == mark => Some(before),
            _ => Some(Lock {
                path,
                mark,
                since: clock::instant(),
            }),
        }
    }

    /// Removes it if it has stood for `UNTOUCHED` and no living process could hold it.
    pub(super) fn clear(&self, hub: &Path) -> Result<()> {
        if self.since.elapsed() < UNTOUCHED || planted("git-stale-lock-stays") {
            return Ok(());
        }
        let file = hub.join(SWEEP);
        let _sweep = wait::lock(&file)?;
        if !somebody_works_in(hub) && mark(&self.path) == Some(self.mark) {
            atomic::remove(&self.path)?;
        }
        Ok(())
    }
}

fn mark(path: &Path) -> Option<(u64, i64, i64)> {
    let meta = path.symlink_metadata().ok()?;
    Some((meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// The lock file that a line of git's output names.
fn named(line: &str) -> Option<String> {
    if let Some((_, rest)) = line.split_once("could not lock config file ") {
        let file = rest.strip_suffix(": File exists")?;
        return Some(format!("{file}.lock"));
    }
    let (before, _) = line.split_once("': File exists")?;
    let (_, path) = before
        .rsplit_once(": Unable to create '")
        .or_else(|| before.rsplit_once("Unable to create '"))?;
    path.ends_with(".lock").then(|| path.to_owned())
}

/// Whether a git is running in the hub: by its directory, command line or environment. An agent's git
/// works in its slot's repository. A process that cannot be read is another user's, or dead.
pub(super) fn somebody_works_in(hub: &Path) -> bool {
    let hub_bytes = hub.as_os_str().as_bytes();
    let holds = |text: &[u8], part: &[u8]| text.windows(part.len()).any(|w| w == part);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|process| {
        let read = |name: &str| atomic::read_kernel(process.join(name)).unwrap_or_default();
        if !read("comm").starts_with(b"git") {
            return false;
        }
        let at = fs::read_link(process.join("cwd")).unwrap_or_default();
        at.starts_with(hub)
            || [read("cmdline"), read("environ")]
                .iter()
                .any(|t| holds(t, hub_bytes))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Git;

    #[test]
    fn a_lock_is_named_in_all_of_gits_words() {
        let plain = "fatal: Unable to create '/r/x.git/index.lock': File exists.";
        assert_eq!(named(plain).unwrap(), "/r/x.git/index.lock");
        let of_ref =
            "error: cannot lock ref 'refs/x': Unable to create '/r/it's/refs/x.lock': File exists.";
        assert_eq!(named(of_ref).unwrap(), "/r/it's/refs/x.lock");
        let config = "error: could not lock config file /r/config: File exists";
        assert_eq!(named(config).unwrap(), "/r/config.lock");
        assert_eq!(named("fatal: '/r' : File exists"), None);
    }

    #[test]
    fn a_git_that_lives_keeps_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let hub = dir.path().canonicalize().unwrap().join("state/repos/x.git");
        fs::create_dir_all(&hub).unwrap();
        assert!(!somebody_works_in(&hub));
        // A git in the hub that waits for its standard input.
        Git::at(&hub)
            .args(["init", "-q", "--bare"])
            .must("init")
            .unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        #[expect(clippy::disallowed_methods, reason = "a git that lasts, for this test")]
        let mut git = std::process::Command::new("git")
            .args(["cat-file", "--batch"])
            .current_dir(&hub)
            .stdin(reader)
            .spawn()
            .unwrap();
        let end = clock::instant() + Duration::from_secs(20);
        while !somebody_works_in(&hub) && clock::instant() < end {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        assert!(somebody_works_in(&hub));
        drop(writer);
        git.wait().unwrap();
        assert!(!somebody_works_in(&hub));
    }
}
