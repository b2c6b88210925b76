//! What a branch changes, as people see it: through their pager with their own settings, or as a plain
//! text that they write into.
//!
//! Knows nothing of items. Invariant: nothing is written into the user's repository.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::branches::Look;
use super::hub::is_oid;
use super::{Git, Output};
use crate::error::{Context, Error, Result};
use crate::process::foreground;

/// Prints a text of ours, then the diff: as an alias of git's, so that both go through one pager.
/// Nothing of the text passes through the shell's hands.
const ALIAS: &str =
    "alias.harness-review=!f() { printf '%s' \"$HARNESS_REVIEW\"; exec git diff \"$@\"; }; f";
/// The kernel takes 128 KiB for one variable.
const HEAD_BYTES_MAX: usize = 64 << 10;

impl Look<'_> {
    /// Shows a text and what `tip` changes since `from` on this process's standard output: on a terminal
    /// through the user's pager, with the colours that git gives it.
    pub(crate) fn page(&self, head: &str, from: &str, tip: &str) -> Result<()> {
        let head = &head.as_bytes()[..head.len().min(HEAD_BYTES_MAX)];
        let args = ["-p", "-c", ALIAS, "harness-review"];
        let git = self.git().args(args).args(commits(from, tip)?);
        let mut command = git
            .env("HARNESS_REVIEW", OsStr::from_bytes(head))
            .command()?;
        // The user's words for their eyes: their pager, their language.
        for key in ["GIT_PAGER", "LC_ALL"] {
            match std::env::var_os(key) {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let what = "cannot show the changes";
        let status = foreground::attend(&mut command).or_fail(what, self.path)?;
        // A reader that has seen enough is no error.
        let is_closed = status.signal() == Some(libc::SIGPIPE) || status.code() == Some(141);
        match status.success() || is_closed {
            true => Ok(()),
            false => {
                Err(Error::permanent(what, format!("`git diff`: {status}")).at_path(self.path))
            }
        }
    }

    /// The same as a plain text: without colours, and whatever the user's settings make of a diff.
    pub(crate) fn diff(&self, from: &str, tip: &str) -> Result<Output> {
        let git = self.git().set("core.quotePath", "false");
        let git = git.args(["diff", "--no-color", "--no-ext-diff", "--no-textconv"]);
        let git = git.args(["--src-prefix=a/", "--dst-prefix=b/", "--unified=3"]);
        let git = git.args(["--find-renames", "--submodule=short"]);
        git.args(commits(from, tip)?)
            .must("cannot show the changes")
    }
}

/// Commits as arguments. A record is a file: what stands there may be anything.
fn commits<'a>(from: &'a str, tip: &'a str) -> Result<[&'a str; 3]> {
    match is_oid(from) && is_oid(tip) {
        true => Ok([from, tip, "--"]),
        false => Err(Error::permanent(
            "cannot show the changes",
            "the item's record names no commit",
        )),
    }
}

/// A change of a text: the lines of the old one that are gone, and what stands in their place.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Edit {
    /// Lines of the old text before it that stayed.
    pub(crate) at: usize,
    pub(crate) gone: usize,
    pub(crate) new: Vec<Vec<u8>>,
}

/// What was changed in a text, by lines.
pub(crate) fn edits(old: &Path, new: &Path) -> Result<Vec<Edit>> {
    let git = Git::at(old.parent().unwrap_or(old));
    let git = git.args([
        "diff",
        "--no-index",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
    ]);
    let git = git.args(["--text", "--unified=0", "--minimal", "--no-prefix", "--"]);
    let git = git.args([old, new]);
    let out = git.output()?;
    match out.code {
        0 => Ok(Vec::new()),
        1 => Ok(edits_of(&out.stdout)),
        _ => Err(git.failure("cannot compare the two texts", &out)),
    }
}

fn edits_of(diff: &[u8]) -> Vec<Edit> {
    let mut all: Vec<Edit> = Vec::new();
    let mut left = (0, 0);
    for line in diff.split(|&b| b == b'\n') {
        match (line.first(), all.last_mut()) {
            (Some(b'-'), Some(_)) if left.0 > 0 => left.0 -= 1,
            (Some(b'+'), Some(edit)) if left.1 > 0 => {
                left.1 -= 1;
                edit.new.push(line[1..].to_vec());
            }
            (Some(b'@'), _) => {
                let Some(((at, gone), (_, new))) = hunk(line) else {
                    continue;
                };
                left = (gone, new);
                // With nothing gone, git names the line before it.
                let at = if gone == 0 { at } else { at.saturating_sub(1) };
                let new = Vec::new();
                all.push(Edit { at, gone, new });
            }
            _ => {}
        }
    }
    all
}

/// `@@ -A,B +C,D @@`: first line and number of lines on the old and the new side.
pub(crate) fn hunk(line: &[u8]) -> Option<((usize, usize), (usize, usize))> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.strip_prefix("@@ -")?.split(' ');
    let range = |word: &str| -> Option<(usize, usize)> {
        match word.split_once(',') {
            Some((first, count)) => Some((first.parse().ok()?, count.parse().ok()?)),
            None => Some((word.parse().ok()?, 1)),
        }
    };
    let old = range(words.next()?)?;
    let new = range(words.next()?.strip_prefix('+')?)?;
    Some((old, new))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_in_a_text_is_found_by_lines() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        let found = |before: &str, after: &str| {
            drop(crate::atomic::create(&old, before.as_bytes(), 0o600).unwrap());
            drop(crate::atomic::create(&new, after.as_bytes(), 0o600).unwrap());
            let found = edits(&old, &new).unwrap();
            for path in [&old, &new] {
                crate::atomic::remove(path).unwrap();
            }
            let text = |e: &Edit| String::from_utf8(e.new.join(&b"|"[..])).unwrap();
            let all = found.iter().map(|e| (e.at, e.gone, text(e)));
            all.collect::<Vec<_>>()
        };
        assert_eq!(found("a\nb\n", "a\nb\n"), []);
        assert_eq!(found("a\nb\n", "x\na\nb\n"), [(0, 0, "x".into())]);
        assert_eq!(
            found("a\n--- b\nc\n", "a\n--- b\n+++ y\n@@ -1 +1 @@\nc"),
            [(2, 1, "+++ y|@@ -1 +1 @@|c".into())]
        );
        assert_eq!(found("a\n-- b\n", "a\n"), [(1, 1, String::new())]);
        assert_eq!(
            found("a\nb\nc\n", "a\nx\nc\nz\n"),
            [(1, 1, "x".into()), (3, 0, "z".into())]
        );
        assert_eq!(hunk(b"@@ -1,2 +3 @@ fn x()"), Some(((1, 2), (3, 1))));
        assert_eq!(hunk(b"@@ what"), None);
    }
}
