//! Lets a git go on that opened a fifo: an agent may have put one where git reads a file of rules
//! (`.gitignore`, `.gitattributes`) in the worktree, and git waits for a writer without end.
//!
//! Knows nothing of git. Invariant: only a fifo that somebody waits at is removed; it holds nothing.

use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::atomic;
use crate::limits::TREE_ENTRIES_MAX;
use crate::mutant::planted;

/// Looks at a tree that nobody but our git works in. Whoever waits at a fifo gets an empty file.
pub(super) fn let_go(tree: &Path) {
    if planted("git-waits-at-fifos") {
        return;
    }
    let entries = walkdir::WalkDir::new(tree).into_iter().flatten();
    for entry in entries.take(TREE_ENTRIES_MAX) {
        use std::os::unix::fs::FileTypeExt;
        if !entry.file_type().is_fifo() {
            continue;
        }
        // Without a reader this fails. Dropped, after the name is gone, it is the end of the file.
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if let Ok(writer) = open(entry.path(), flags, Mode::empty()) {
            let _stays = atomic::remove(entry.path());
            drop(writer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Git;
    use super::*;

    #[test]
    fn a_git_that_waits_at_fifos_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let git = |args: &[&str]| Git::at(dir.path()).args(args).must("git").unwrap().line();
        git(&["init", "-q"]);
        atomic::make_dir(&at("folder"), true).unwrap();
        drop(atomic::create(&at("folder/file"), b"x", 0o600).unwrap());
        for fifo in [
            ".gitignore",
            "folder/.gitattributes",
            "folder/.gitignore",
            "idle",
        ] {
            nix::unistd::mkfifo(&at(fifo), Mode::S_IRWXU).unwrap();
        }
        let add = Git::at(dir.path()).args(["add", "-A"]);
        let add = add
            .in_tree(dir.path())
            .timeout(std::time::Duration::from_secs(60));
        assert!(add.output().unwrap().ok());
        assert_eq!(git(&["ls-files"]), "folder/file");
        assert!(atomic::exists(&at("idle")));
    }
}
