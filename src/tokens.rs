//! Tokens for what is scarce: whoever holds the `flock` of a file `state/tokens/NAME/1…N` has one of N.
//! The kernel lets go for whoever dies. Shells take one with `flock`.
//!
//! Knows neither gates nor commands. Invariant: a file that a person removes comes back as the same
//! inode, by its second name (`.1` of `1`), so that whoever holds it still does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs2::FileExt;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::layout::{Root, join};
use crate::mutant::planted;

/// The folders of those tokens that a process runs under: it needs no second one of them.
pub(crate) const VARIABLE: &str = "HARNESS_TOKENS";
/// How often a file that is replaced meanwhile is looked at again.
const TRIES: usize = 5;

/// Dropping it gives it up, unless another process has it, too.
#[derive(Debug)]
#[must_use = "a token that is dropped is given up at once"]
pub(crate) struct Token(Vec<File>);

impl Token {
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let kept = planted("token-not-handed-on");
        self.0.iter().filter(move |_| !kept).map(AsFd::as_fd)
    }

    /// What this process starts from now on holds it, too, whatever becomes of this process.
    pub(crate) fn hand_on(&self) -> Result<()> {
        if planted("token-not-handed-on") {
            return Ok(());
        }
        for file in &self.0 {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(|e| Error::temporary("cannot hand a token on", e.to_string()))?;
        }
        Ok(())
    }

    /// Gives it up, whoever else has it.
    pub(crate) fn let_go(self) {
        for file in &self.0 {
            let _closing_does_it = FileExt::unlock(file);
        }
    }
}

/// The name that people see, and the second one.
fn names(dir: &Path, number: u32) -> [PathBuf; 2] {
    [number.to_string(), format!(".{number}")].map(|name| join(dir, name))
}

/// The tokens that there are, by either name.
fn numbers(dir: &Path) -> BTreeSet<u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let digits = name.strip_prefix('.').unwrap_or(&name);
        let number = digits.parse().ok()?;
        (number > 0 && digits == u32::to_string(&number)).then_some(number)
    };
    entries.filter_map(number).collect()
}

/// Makes as many tokens as are configured, and takes away the names of those above: whoever holds one of
/// these keeps it, and nobody takes it after that.
pub(crate) fn make(root: &Root, name: &str, count: u32) -> Result<()> {
    let dir = root.tokens(name);
    for dir in [dir.parent(), Some(&*dir)].into_iter().flatten() {
        atomic::make_dir(dir, true)?;
    }
    (1..=count).try_for_each(|number| complete(&dir, number))?;
    for number in numbers(&dir).split_off(&(count.saturating_add(1))) {
        for path in names(&dir, number) {
            atomic::take_away(&path)?;
        }
    }
    Ok(())
}

/// Gives a token's file the name that it lacks.
fn complete(dir: &Path, number: u32) -> Result<()> {
    let [shown, hidden] = names(dir, number);
    if !atomic::exists(&hidden) && !atomic::exists(&shown) {
        match atomic::create(&hidden, b"", 0o600) {
            Err(e) if e.errno() == Some(libc::EEXIST) => {}
            made => drop(made?),
        }
    }
    for (from, to) in [(&hidden, &shown), (&shown, &hidden)] {
        if !atomic::exists(to) {
            let _others_did = atomic::link_new(from, to)?;
        }
    }
    Ok(())
}

/// Takes one of these tokens. `None`: all are held.
///
/// # Errors
/// There is none, or none can be opened.
pub(crate) fn try_take(root: &Root, name: &str) -> Result<Option<Token>> {
    let dir = root.tokens(name);
    let mut why = None;
    let mut any = false;
    for number in numbers(&dir) {
        // Where it cannot be made (in a sandbox), what is there serves.
        let _stays = complete(&dir, number);
        match try_lock(&dir, number) {
            Ok(Some(token)) => return Ok(Some(token)),
            Ok(None) => any = true,
            Err(e) => why = Some(e),
        }
    }
    match (any, why) {
        (true, _) => Ok(None),
        (false, Some(why)) => Err(why),
        (false, None) => {
            let why = format!("there is no token `{name}`");
            let hint = format!("set it in harness.toml ([tokens] {name} = 2), then run harness");
            Err(Error::permanent("cannot take a token", why)
                .at_path(&dir)
                .hint(hint))
        }
    }
}

/// Says that all of them are held.
pub(crate) fn all_held(root: &Root, name: &str) -> String {
    let dir = root.tokens(name);
    match numbers(&dir).len() {
        1 => format!("the one of `{name}` is held ({})", dir.display()),
        n => format!("all {n} of `{name}` are held ({})", dir.display()),
    }
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Locks a token's file. Where its two names lead to two (`flock` made one anew), both.
fn try_lock(dir: &Path, number: u32) -> Result<Option<Token>> {
    let what = "cannot take a token";
    let both = names(dir, number);
    for _ in 0..TRIES {
        let (mut files, mut ids) = (Vec::new(), Vec::new());
        let mut why = Ok(());
        for path in &both {
            match atomic::open_regular(path).and_then(|file| Ok((id(&file.metadata()?), file))) {
                Ok((id, _)) if ids.contains(&id) => {}
                Ok((id, file)) => {
                    ids.push(id);
                    files.push(file);
                }
                Err(e) => why = Err(Error::io(what, path, &e)),
            }
        }
        if files.is_empty() {
            return why.map(|()| None);
        }
        for file in &files {
            match FileExt::try_lock_exclusive(file) {
                Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                    return Ok(None);
                }
                locked => locked.or_fail(what, &both[0])?,
            }
        }
        // A lock on a file that was replaced meanwhile excludes nobody.
        let is_known = |path: &PathBuf| {
            let meta = path.symlink_metadata();
            meta.map_or(true, |meta| !meta.is_file() || ids.contains(&id(&meta)))
        };
        if both.iter().all(is_known) && both.iter().any(|path| atomic::exists(path)) {
            return Ok(Some(Token(files)));
        }
    }
    Ok(None)
}

/// Whether this process runs under one of these tokens.
pub(crate) fn has(root: &Root, name: &str) -> bool {
    let held = std::env::var_os(VARIABLE).unwrap_or_default();
    std::env::split_paths(&held).any(|dir| dir == root.tokens(name))
}

/// The variable for what runs under these tokens, besides those of `before`. `None`: a path in it cannot
/// be written there.
pub(crate) fn held_by<'a>(
    root: &Root,
    names: impl Iterator<Item = &'a str>,
    before: Option<OsString>,
) -> Option<OsString> {
    let before = before.filter(|list| !list.is_empty());
    let before = before.iter().flat_map(std::env::split_paths);
    let all = before.chain(names.map(|name| root.tokens(name)));
    std::env::join_paths(all)
        .ok()
        .filter(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ls(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().flatten();
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn no_more_are_held_than_there_are_whatever_a_person_does_to_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        atomic::make_dir(&root.state(), true).unwrap();
        let take = || try_take(&root, "build").unwrap();
        assert!(try_take(&root, "build").is_err());
        make(&root, "build", 2).unwrap();
        let at = root.tokens("build");
        assert_eq!(ls(&at), [".1", ".2", "1", "2"]);
        let (one, two) = (take().unwrap(), take().unwrap());
        assert!(take().is_none());
        // Removed, made by `flock`, replaced by a folder: whoever holds one still does.
        for n in 1..=2 {
            atomic::remove(&at.join(n.to_string())).unwrap();
            assert!(take().is_none());
            assert_eq!(ls(&at), [".1", ".2", "1", "2"]);
        }
        atomic::remove(&at.join("1")).unwrap();
        drop(atomic::create(&at.join("1"), b"", 0o600).unwrap());
        assert!(take().is_none());
        drop(one);
        let by_flock = atomic::open_regular(&at.join("1")).unwrap();
        by_flock.try_lock_exclusive().unwrap();
        assert!(take().is_none());
        drop(by_flock);
        let one = take().unwrap();
        assert_eq!(one.0.len(), 2);
        atomic::remove(&at.join("2")).unwrap();
        atomic::make_dir(&at.join("2"), true).unwrap();
        assert!(take().is_none());
        two.let_go();
        let two = take().unwrap();
        // A number that is lowered, and raised again.
        drop(one);
        make(&root, "build", 1).unwrap();
        assert!(all_held(&root, "build").starts_with("the one of"));
        let one = take().unwrap();
        assert!(take().is_none());
        drop((one, two));
    }

    #[test]
    fn what_cannot_be_a_token_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        atomic::make_dir(&root.state(), true).unwrap();
        make(&root, "gpu", 1).unwrap();
        let at = root.tokens("gpu");
        for name in ["1", ".1"] {
            atomic::remove(&at.join(name)).unwrap();
            nix::unistd::mkfifo(&at.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let why = try_take(&root, "gpu").unwrap_err().to_string();
        assert!(
            why.contains("not a regular file") && why.contains("gpu"),
            "{why}"
        );
    }
}
