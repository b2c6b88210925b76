//! A ROOT inside a git repository: `git status` does not show it, and `git clean -fdx` takes neither
//! the queue nor, for long, the configuration.
//!
//! Does not know the queue. Invariant: of the repository around ROOT nothing is changed but one line
//! of its `info/exclude`.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::place::{place, ready_dir};
use super::quote::shell_quoted;
use super::root::{checkout_around, common_git, has_git};
use crate::atomic;
use crate::error::Result;
use crate::layout::{Root, shown};
use crate::limits::{CONFIG_BYTES_MAX, STATE_FILE_BYTES_MAX};

/// Hides a folder, including this file, from the git repository that ROOT is in.
pub(super) const GITIGNORE: &str = "# harness's own folder: git leaves it alone, this file included.\n\
     # To keep something of it in git: git add -f FILE\n*\n";

/// Folders that `git clean -fdx` of the repository around ROOT must not take: it spares whatever looks
/// like a repository of its own (`-ffdx` does not). The others hold a person's files, to be committed.
const SPARED_DIRS: [&str; 3] = ["queue", "state", "worktrees"];

/// The checkout around ROOT. At its top there is none: harness.toml is the user's to commit there.
pub(super) fn around(root: &Root) -> Option<&Path> {
    let top = root.path();
    (!has_git(top)).then(|| checkout_around(top))?
}

/// Keeps the git repository around ROOT from showing it, and `git clean -fdx` from taking the queue.
/// Returns which files stand, and whether they were made.
pub(super) fn hide(root: &Root) -> Result<Vec<(PathBuf, bool)>> {
    let Some(checkout) = around(root) else {
        return Ok(Vec::new());
    };
    let top = root.path();
    let own = top.join(".gitignore");
    let mut files = vec![(own.clone(), place(&own, GITIGNORE)?)];
    for dir in SPARED_DIRS {
        let git = top.join(dir).join(".git");
        let head = git.join("HEAD");
        for needed in ["objects", "refs"] {
            ready_dir(&git.join(needed), false)?;
        }
        let made = place(
            &head,
            "ref: refs/heads/not-a-repository-but-spared-by-git-clean\n",
        )?;
        files.push((head, made));
    }
    // A repository that nobody may write into: .gitignore hides ROOT as long as it is there.
    let _best_effort = exclude(checkout, top);
    Ok(files)
}

/// `git clean -fdx` takes ROOT's .gitignore. Without this line `git status` would then show what it
/// spared, and `git add .` stumble over what only looks like repositories.
fn exclude(checkout: &Path, root: &Path) -> io::Result<()> {
    let (Some(git), Ok(below)) = (common_git(checkout), root.strip_prefix(checkout)) else {
        return Ok(());
    };
    let mut line = b"/".to_vec();
    for &byte in below.as_os_str().as_bytes() {
        if b"\\*?[ ".contains(&byte) {
            line.push(b'\\');
        }
        line.push(byte);
    }
    line.push(b'/');
    let file = git.join("info/exclude");
    let before = match atomic::read_small(&file, STATE_FILE_BYTES_MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    let mut lines = before.split(|&b| b == b'\n');
    if line.contains(&b'\n') || lines.any(|l| l == line) {
        return Ok(());
    }
    line.push(b'\n');
    if before.last().is_some_and(|&b| b != b'\n') {
        line.insert(0, b'\n');
    }
    let failed = |e: crate::error::Error| io::Error::other(e.to_string());
    if !atomic::exists(&file) {
        ready_dir(&git.join("info"), false).map_err(failed)?;
        drop(atomic::create(&file, b"", 0o644).map_err(failed)?);
    }
    atomic::open_append(&file).map_err(failed)?.write_all(&line)
}

fn copy_of(root: &Root) -> PathBuf {
    root.state().join("harness.toml")
}

/// Keeps a copy of harness.toml, whose text this is, in `state/`, which `git clean -fdx` spares. Returns
/// what to say if harness.toml is gone and there is a copy.
///
/// # Errors
/// I/O.
pub(super) fn keep_config(root: &Root, text: &str) -> Result<Option<String>> {
    let copy = copy_of(root);
    if atomic::exists(&root.config()) {
        if !atomic::holds(&copy, text.as_bytes()) {
            atomic::replace(&copy, text.as_bytes(), true)?;
        }
        return Ok(None);
    }
    let told = || {
        let (copy, to) = (shell_quoted(&copy), shell_quoted(&root.config()));
        format!(
            "harness: harness.toml is gone, so every key has its default; the last run's brings back: \
             cp {copy} {to}"
        )
    };
    Ok(atomic::exists(&copy).then(told))
}

/// Says of a command that only looks at the configuration that the file is gone, and where its copy is.
pub(super) fn say_if_config_is_gone(root: &Root) {
    let copy = copy_of(root);
    if !atomic::exists(&root.config()) && atomic::exists(&copy) {
        let copy = shown(copy.as_os_str());
        crate::error::tell(&format!(
            "harness: harness.toml is gone, so every key has its default; as it was last used it is in {copy}"
        ));
    }
}

/// Puts back the harness.toml that `git clean -fdx` took, and says so. At the top of a checkout it is
/// the user's: there it may be gone because another branch has none.
///
/// # Errors
/// I/O.
pub(super) fn bring_back_config(root: &Root) -> Result<()> {
    if around(root).is_none() || atomic::exists(&root.config()) {
        return Ok(());
    }
    let bytes = atomic::read_small(&copy_of(root), CONFIG_BYTES_MAX).unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    if !text.is_empty() && place(&root.config(), &text)? {
        let file = shown(root.config().as_os_str());
        crate::error::tell(&format!(
            "harness: {file} was gone, as after `git clean -fdx`; it is back as it was last used"
        ));
    }
    Ok(())
}
