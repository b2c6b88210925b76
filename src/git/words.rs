//! What git's messages mean: whether a retry helps, and what a person can do.
//!
//! Knows nothing of what was asked of git. Messages are those of `LC_ALL=C`.

use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::error::HostTrouble;

/// Failures that a retry can fix: another git holds a lock, or is still making a worktree.
pub(super) fn is_lock_trouble(stderr: &str) -> bool {
    let commondir = stderr.contains("commondir") && stderr.contains("failed to read");
    commondir
        || stderr.contains(".lock': File exists")
        // An agent's `git gc` removed the empty directory into which an object was to go.
        || stderr.contains("unable to create temporary file: No such file")
        // The user's `git prune` or `git gc --prune=now` removed a pack that was being written.
        || stderr.contains("unable to rename temporary '")
        || stderr.contains("could not lock config file")
        // Its lock vanished while held: `git pack-refs` and the like clean up the same folder.
        || stderr.contains(": couldn't set '")
        // One of the user's worktrees was being made or removed while a fetch read all heads.
        || stderr.contains("bad object worktrees/")
        // reftable has one lock for all refs.
        || stderr.contains("cannot lock references")
        || stderr.contains("could not open '") && stderr.contains("/worktrees/")
}

/// The host's or the network's trouble, which goes by itself.
pub(super) fn passes(words: &str) -> bool {
    const PASSING: [&str; 15] = [
        // git does not say why: a full disk, mostly.
        "write error",
        "couldn't write '",
        "unable to write new index file",
        "could not resolve host",
        "no such host",
        "temporary failure in name resolution",
        "failed to connect",
        "connection refused",
        "connection reset",
        "timed out",
        "i/o timeout",
        "network is unreachable",
        "early eof",
        "returned error: 429",
        "returned error: 5",
    ];
    let lower = words.to_ascii_lowercase();
    HostTrouble::of_words(words).is_some() || PASSING.iter().any(|w| lower.contains(w))
}

/// One of the gits that a failed git had started was killed, as the kernel does when memory runs out. What
/// else is said then, of missing objects, is not so.
pub(super) fn helper_was_killed(words: &str) -> bool {
    // Of a fetch whose `index-pack`, or whose other end, is gone without a word.
    const SILENT: [&str; 2] = [
        "fatal: fetch-pack: invalid index-pack output",
        "fatal: the remote end hung up unexpectedly",
    ];
    let mut lines = words.lines();
    words.contains(" died of signal 9\n")
        || !words.is_empty() && lines.all(|line| SILENT.contains(&line))
}

/// What stays as it is until a person mends it.
pub(super) fn lasts(words: &str) -> bool {
    const LASTING: [&str; 26] = [
        "not a git repository",
        "dubious ownership",
        "cannot change to",
        "exists; cannot create",
        "unknown repository extension",
        "Expected git repo version",
        "Permission denied",
        "Operation not permitted",
        "insufficient permission",
        // A name that git takes into no commit (`.Git`).
        "invalid path",
        "adding files failed",
        // Objects that are missing or damaged.
        "repository corruption",
        "not our ref",
        "bad object",
        "is corrupt",
        "unable to read tree",
        "unable to read sha1 file",
        "did not send all necessary objects",
        "fsck error",
        // A filter (git-lfs, git-crypt) that cannot give a file.
        "external filter",
        "smudge filter",
        // A submodule.
        "submodule path",
        "does not appear to be a git repository",
        "No url found for submodule",
        "no submodule mapping found",
        // Of a URL: its transport.
        "' not allowed",
    ];
    LASTING.iter().any(|w| words.contains(w)) || lacks_program(words)
}

/// The shell's message for a program that the repository's settings name (a filter such as git-lfs)
/// and that is not installed.
fn lacks_program(words: &str) -> bool {
    let missing = [": not found", ": command not found"];
    words
        .lines()
        .any(|line| missing.iter().any(|m| line.ends_with(m)))
}

pub(super) fn hint_for(words: &str) -> Option<String> {
    if lacks_program(words) {
        let hint = "install the program that the repository's settings name, or remove the setting (`git config --show-origin --list`)";
        return Some(hint.to_owned());
    }
    if let Some(lock) = words
        .split('\'')
        .find(|part| part.starts_with('/') && part.ends_with(".lock"))
        .filter(|_| words.contains("File exists"))
    {
        use std::os::unix::fs::MetadataExt;
        let age = Path::new(lock).metadata().map(|m| {
            let secs = clock::now_ns() / 1_000_000_000 - m.mtime();
            clock::human(Duration::from_secs(u64::try_from(secs).unwrap_or(0)))
        });
        let age = age.unwrap_or_else(|_| "unknown age".to_owned());
        return Some(format!(
            "if no git works in this repository, remove the stale lock {lock} ({age} old)"
        ));
    }
    if let Some(hint) = HostTrouble::of_words(words).and_then(|t| t.hint) {
        return Some(hint.to_owned());
    }
    let known = [
        (
            "could not lock config file",
            "remove the stale config.lock if no git works in this repository",
        ),
        (
            "dubious ownership",
            "the repository belongs to another user: see `safe.directory` in `git help config`",
        ),
        (
            "exists; cannot create",
            "rename the branch that stands in the way (`git branch -m OLD NEW`)",
        ),
        (
            "unknown repository extension",
            "the repository was made by a newer git: install that one",
        ),
        (
            "Expected git repo version",
            "the repository was made by a newer git: install that one",
        ),
        (
            "not a git repository",
            "look at `path` in [repo] of harness.toml",
        ),
    ];
    known
        .iter()
        .find(|(sign, _)| words.contains(sign))
        .map(|(_, hint)| (*hint).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_that_a_prune_removed_while_it_was_written_is_written_again() {
        let said = "error: unable to write file /r/.git/objects/pack/pack-1.pack: No such file or \
                    directory\nfatal: unable to rename temporary '*.pack' file to \
                    '/r/.git/objects/pack/pack-1.pack'\nfatal: fetch-pack: invalid index-pack output";
        assert!(is_lock_trouble(said));
    }

    #[test]
    fn what_a_killed_helper_leaves_is_told_from_damage() {
        let killed =
            "error: rev-list died of signal 9\nerror: /r did not send all necessary objects\n";
        assert!(helper_was_killed(killed));
        let silent = "fatal: fetch-pack: invalid index-pack output\n";
        assert!(helper_was_killed(silent));
        // One that always fails at the same object.
        assert!(!helper_was_killed(&killed.replace("signal 9", "signal 11")));
        assert!(!helper_was_killed(&format!(
            "fatal: fsck error in packed object\n{silent}"
        )));
        assert!(!helper_was_killed(""));
    }
}
