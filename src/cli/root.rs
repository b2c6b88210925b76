//! Finds the ROOT of a command.
//!
//! Does not know its content. Invariant: the path is absolute and free of symlinks, so that every
//! process uses the same path for the same file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::owners;
use super::quote::shell_quoted;
use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::layout::Root;
use crate::limits::STATE_FILE_BYTES_MAX;

/// Where ROOT lies in a checkout: tools skip folders whose name begins with a dot.
const FOLDER: &str = ".harness";

/// The ROOT of a command: `--root`, else `$HARNESS_ROOT`, else the nearest one from `cwd` upwards, if
/// it is ours or root's: a directory with a `harness.toml`, or its `.harness/`; of a linked worktree
/// the main checkout's. A ROOT given explicitly needs only `queue/pending`. The path is absolute and
/// free of symlinks. `cwd` is asked only where it matters: it may have been deleted.
///
/// # Errors
/// Permanent, listing where it looked.
pub fn find_root(
    cli: Option<&Path>,
    env: Option<OsString>,
    cwd: &dyn Fn() -> Result<PathBuf>,
) -> Result<Root> {
    let env = env.filter(|e| !e.is_empty()).map(PathBuf::from);
    let named = cli
        .map(|path| (path, "--root"))
        .or(env.as_deref().map(|path| (path, "$HARNESS_ROOT")));
    if let Some((path, from)) = named {
        let path = match path.is_absolute() {
            true => path.to_owned(),
            false => cwd()?.join(path),
        };
        let what = format!("cannot use the ROOT of {from}");
        let full = fs::canonicalize(&path).map_err(|e| {
            Error::io(what.as_str(), &path, &e).hint("name a directory made by `harness init`")
        })?;
        if has_config(&full) || full.join("queue/pending").is_dir() {
            return Ok(Root::new(full));
        }
        let why = "it has neither a harness.toml nor a queue/pending";
        let hint = format!("run `harness init {}`", shell_quoted(&full));
        return Err(Error::permanent(what, why).at_path(&full).hint(hint));
    }
    let cwd = cwd()?;
    let start = fs::canonicalize(&cwd).or_fail("cannot find the current directory", &cwd)?;
    match start.ancestors().find_map(root_at) {
        Some(dir) => {
            let root = Root::new(fs::canonicalize(&dir).or_fail("cannot find ROOT", &dir)?);
            match owners::stranger(&root) {
                None => Ok(root),
                Some(stranger) => Err(stranger.refusal(&root)),
            }
        }
        None => {
            let why = "there is no harness.toml and no .harness/ here nor in any directory above, and neither --root nor $HARNESS_ROOT is given";
            Err(Error::permanent("not in a ROOT", why)
                .at_path(&start)
                .hint("run `harness init` here"))
        }
    }
}

/// Where `harness init` makes a ROOT if nobody says where: `$HARNESS_ROOT`; in a git repository the
/// ROOT that is found there, else `.harness/` at its top; else the current directory.
///
/// # Errors
/// The current directory was deleted.
pub(super) fn for_init(env: Option<OsString>) -> Result<PathBuf> {
    if let Some(named) = env.filter(|e| !e.is_empty()) {
        return Ok(named.into());
    }
    let what = "cannot find the current directory";
    let cwd = std::env::current_dir().or_fail(what, Path::new("."))?;
    let Some(top) = checkout_around(&cwd) else {
        return Ok(cwd);
    };
    let depth = top.components().count();
    let within = cwd
        .ancestors()
        .take_while(|d| d.components().count() >= depth);
    let found = within.map(Path::to_owned).find_map(|dir| root_at(&dir));
    let main = || main_checkout(top).unwrap_or_else(|| top.to_owned());
    Ok(found.unwrap_or_else(|| main().join(FOLDER)))
}

/// The ROOT of this directory.
fn root_at(dir: &Path) -> Option<PathBuf> {
    if has_config(dir) {
        return Some(dir.to_owned());
    }
    let inner = dir.join(FOLDER);
    // A linked worktree has its own copy of a committed .harness/harness.toml, but no queue of its own.
    // `git clean -fdx` takes harness.toml, and leaves the queue.
    let has_queue = |root: &Path| root.join("queue/pending").is_dir();
    match linked_to(dir) {
        None => (has_config(&inner) || has_queue(&inner)).then_some(inner),
        Some(_) => main_checkout(dir)
            .and_then(|main| root_at(&main))
            .or_else(|| has_queue(&inner).then_some(inner)),
    }
}

/// The main checkout of a linked worktree of it. A bare repository has none.
fn main_checkout(dir: &Path) -> Option<PathBuf> {
    let common = linked_to(dir)?;
    let main = common.parent()?;
    (common.file_name()? == ".git" && main != dir).then(|| main.to_owned())
}

/// The folder of git that all worktrees of this checkout share. `None` in a submodule.
pub(super) fn common_git(checkout: &Path) -> Option<PathBuf> {
    let git = checkout.join(".git");
    match git.is_dir() {
        true => Some(git),
        false => linked_to(checkout),
    }
}

/// The repository of a linked worktree: git writes where it is into the worktree's `.git`.
fn linked_to(dir: &Path) -> Option<PathBuf> {
    let line = |path: &Path| {
        let bytes = atomic::read_small(path, STATE_FILE_BYTES_MAX).ok()?;
        let end = bytes.iter().rposition(|&b| b != b'\n')? + 1;
        Some(OsString::from_vec(bytes[..end].to_vec()))
    };
    let own = line(&dir.join(".git"))?;
    let own = dir.join(OsStr::from_bytes(own.as_bytes().strip_prefix(b"gitdir: ")?));
    let common = own.join(line(&own.join("commondir"))?);
    fs::canonicalize(common).ok()
}

/// The top of the checkout that a folder is in.
pub(super) fn checkout_around(dir: &Path) -> Option<&Path> {
    dir.ancestors().find(|dir| has_git(dir))
}

/// Whether it is the top of a checkout.
pub(super) fn has_git(dir: &Path) -> bool {
    atomic::exists(&dir.join(".git"))
}

fn has_config(dir: &Path) -> bool {
    // Does not follow a symlink: `Config::load` reports a dangling one.
    atomic::exists(&dir.join("harness.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::init::init;
    use std::os::unix::fs::symlink;

    #[test]
    fn roots_are_found_in_order() {
        let dir = tempfile::tempdir().expect("temp dir");
        let base = fs::canonicalize(dir.path()).expect("path");
        let (one, two) = (base.join("one"), base.join("two"));
        for at in [&one, &two] {
            init(at, "").expect("init");
        }
        let below = one.join("queue");
        let found = |cli: Option<&Path>, env: Option<&Path>, cwd: &Path| {
            let cwd = || Ok(cwd.to_owned());
            find_root(cli, env.map(|e| e.as_os_str().to_owned()), &cwd)
                .map(|r| r.path().to_path_buf())
        };
        assert_eq!(found(None, None, &below).expect("up"), one);
        assert_eq!(found(None, Some(&two), &below).expect("env"), two);
        assert_eq!(
            found(None, Some(Path::new("")), &below).expect("empty"),
            one
        );
        assert_eq!(
            found(Some(Path::new("../two/.")), Some(&one), &one).expect("cli"),
            two
        );
        symlink(&two, base.join("link")).expect("symlink");
        assert_eq!(
            found(Some(&base.join("link")), None, &one).expect("link"),
            two
        );

        assert!(atomic::remove(&two.join("harness.toml")).expect("remove"));
        assert_eq!(found(Some(&two), None, &one).expect("named"), two);
        let err = found(Some(&base), None, &one).expect_err("no root");
        assert!(err.to_string().contains("harness init"), "{err}");
        let err = found(None, None, &base).expect_err("none");
        assert!(err.to_string().contains("run `harness init` here"), "{err}");
        assert_eq!(err.exit_code(), 100);
        assert!(found(Some(&base.join("no")), None, &one).is_err());
    }
}
