//! Tokens for what is scarce: whoever holds the `flock` of a file `state/tokens/NAME/1…N` has one of N.
//! The kernel lets go for whoever dies. Shells take one with `flock`.
//!
//! Knows neither gates nor commands. Invariant: a file that a person removes comes back as the same
//! inode, by its second name (`.1` of `1`), so that whoever holds it still does; so does one whose number
//! is lowered and raised again (`.1.kept` meanwhile).

use std::collections::{BTreeMap, BTreeSet};
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
use crate::lease;
use crate::mutant::planted;
use crate::quote;

/// What a process runs under, and needs no second one of: `NAME:DEVICE:INODE` for each file.
pub(crate) const VARIABLE: &str = "HARNESS_TOKENS";
const TAKE: &str = "cannot take a token";
/// How often a file that is replaced meanwhile is looked at again.
const TRIES: usize = 5;

/// Dropping it gives it up, unless another process has it, too.
#[derive(Debug)]
#[must_use = "a token that is dropped is given up at once"]
pub(crate) struct Token {
    name: String,
    files: Vec<File>,
}

impl Token {
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let kept = planted("token-not-handed-on");
        self.files.iter().filter(move |_| !kept).map(AsFd::as_fd)
    }

    /// What this process starts from now on holds it, too, whatever becomes of this process.
    pub(crate) fn hand_on(&self) -> Result<()> {
        if planted("token-not-handed-on") {
            return Ok(());
        }
        for file in &self.files {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))
                .map_err(|e| Error::temporary("cannot hand a token on", e.to_string()))?;
        }
        Ok(())
    }

    /// Gives it up, whoever else has it.
    pub(crate) fn let_go(self) {
        for file in &self.files {
            let _closing_does_it = FileExt::unlock(file);
        }
    }

    fn words(&self) -> impl Iterator<Item = String> + '_ {
        let metas = self.files.iter().filter_map(|file| file.metadata().ok());
        metas.map(|meta| word(&self.name, id(&meta)))
    }
}

/// Where a token's file waits while its number is above those that there are.
fn kept(dir: &Path, number: u32) -> PathBuf {
    join(dir, format!(".{number}.kept"))
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
/// these keeps it, and nobody takes it before it is configured again.
pub(crate) fn make(root: &Root, name: &str, count: u32) -> Result<()> {
    make_files(&root.tokens(name), count).map_err(mendable)
}

fn make_files(dir: &Path, count: u32) -> Result<()> {
    for dir in [dir.parent(), Some(dir)].into_iter().flatten() {
        atomic::make_dir(dir, true)?;
    }
    for number in 1..=count {
        let ([_, hidden], kept) = (names(dir, number), kept(dir, number));
        if atomic::exists(&kept) {
            let _others_did = atomic::rename_new(&kept, &hidden)?;
        }
        complete(dir, number)?;
    }
    for number in numbers(dir).split_off(&(count.saturating_add(1))) {
        complete(dir, number)?;
        let [shown, hidden] = names(dir, number);
        atomic::rename_over(&hidden, &kept(dir, number))?;
        // Also the second name, where a taker has just made it anew.
        for path in [shown, hidden] {
            atomic::take_away(&path)?;
        }
    }
    Ok(())
}

/// Says what to do about a file that can be no token.
fn mendable(e: Error) -> Error {
    match e.is_of_host() || e.is_barred() {
        true => e,
        false => e.hint("remove what is there while nobody works under it: harness makes it anew"),
    }
}

fn is_file(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file())
}

/// Gives a token's file the name that it lacks.
fn complete(dir: &Path, number: u32) -> Result<()> {
    let [shown, hidden] = names(dir, number);
    if !atomic::exists(&hidden) && !is_file(&shown) {
        match atomic::create(&hidden, b"", 0o600) {
            Err(e) if e.errno() == Some(libc::EEXIST) => {}
            made => drop(made?),
        }
    }
    for (from, to) in [(&hidden, &shown), (&shown, &hidden)] {
        if is_file(from) && !atomic::exists(to) {
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
            Ok(Some(files)) => {
                let name = name.to_owned();
                return Ok(Some(Token { name, files }));
            }
            Ok(None) => any = true,
            Err(e) => why = Some(e),
        }
    }
    match (any, why) {
        (true, _) => Ok(None),
        (false, Some(why)) => Err(mendable(why)),
        (false, None) => {
            let why = format!("there is no token `{name}`");
            let hint = format!("set it in harness.toml ([tokens] {name} = 2), then run harness");
            Err(Error::permanent(TAKE, why).at_path(&dir).hint(hint))
        }
    }
}

/// Says that all of them are held.
pub(crate) fn all_held(root: &Root, name: &str) -> String {
    let dir = root.tokens(name);
    let held = match numbers(&dir).len() {
        1 => format!("the one token `{name}` is taken"),
        n => format!("all {n} tokens `{name}` are taken"),
    };
    let dir = quote::shell_quoted(&dir);
    format!("{held} (`fuser -v {dir}/*` says by whom)")
}

/// Device and inode.
type Id = (u64, u64);

fn id(meta: &Metadata) -> Id {
    (meta.dev(), meta.ino())
}

fn word(name: &str, (device, inode): Id) -> String {
    format!("{name}:{device}:{inode}")
}

/// Locks a token's file. Where its two names lead to two (`flock` made one anew), both.
fn try_lock(dir: &Path, number: u32) -> Result<Option<Vec<File>>> {
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
                Err(e) => why = Err(Error::io(TAKE, path, &e)),
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
                locked => locked.or_fail(TAKE, &both[0])?,
            }
        }
        // A lock on a file that was replaced meanwhile excludes nobody.
        let is_known = |path: &PathBuf| {
            let meta = path.symlink_metadata();
            meta.map_or(true, |meta| !meta.is_file() || ids.contains(&id(&meta)))
        };
        if both.iter().all(is_known) && both.iter().any(|path| atomic::exists(path)) {
            return Ok(Some(files));
        }
    }
    Ok(None)
}

/// Whether this process runs under one of these tokens, which is not given up yet: what a command left
/// running has its variable and its descriptor still.
pub(crate) fn has(root: &Root, name: &str) -> bool {
    let said = std::env::var(VARIABLE).unwrap_or_default();
    let said: BTreeSet<&str> = said.split(' ').collect();
    let entries = std::fs::read_dir(root.tokens(name));
    let entries = entries.into_iter().flatten().flatten();
    let mine: BTreeMap<Id, PathBuf> = entries
        .filter_map(|entry| Some((id(&entry.metadata().ok()?), entry.path())))
        .filter(|(id, _)| said.contains(word(name, *id).as_str()))
        .collect();
    if planted("variable-is-a-token") {
        return !mine.is_empty();
    }
    match inherited(&mine)[..] {
        // A program on the way closed it: whether anybody has it is all that can be asked.
        [] => mine.values().any(|path| is_held(path)),
        ref held => held.contains(&true),
    }
}

/// For each descriptor of these files that this process was given, whether the lock is held by it yet.
/// Where the kernel does not say, it is believed.
fn inherited(files: &BTreeMap<Id, PathBuf>) -> Vec<bool> {
    let all = std::fs::read_dir("/proc/self/fd");
    let all = all.into_iter().flatten().flatten();
    let holds = |entry: std::fs::DirEntry| {
        let id = id(&entry.path().metadata().ok()?);
        let says = |line: &str| line.starts_with("lock:") && line.contains("FLOCK");
        let about = join(Path::new("/proc/self/fdinfo"), entry.file_name());
        let about = || atomic::read_kernel_text(about);
        files
            .contains_key(&id)
            .then(|| about().map_or(true, |text| text.lines().any(says)))
    };
    all.filter_map(holds).collect()
}

fn is_held(path: &Path) -> bool {
    atomic::open_regular(path).is_ok_and(|file| lease::is_file_locked(&file, || {}))
}

/// The variable for what runs under these tokens, besides what it says already.
pub(crate) fn held_by(tokens: &[Token], before: Option<OsString>) -> Option<OsString> {
    let before = before.and_then(|words| words.into_string().ok());
    let before = before.unwrap_or_default();
    let before = before.split(' ').map(str::to_owned);
    let all = before.chain(tokens.iter().flat_map(Token::words));
    let all: Vec<String> = all.filter(|word| !word.is_empty()).collect();
    (!all.is_empty()).then(|| all.join(" ").into())
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
        assert_eq!(one.files.len(), 2);
        atomic::remove(&at.join("2")).unwrap();
        atomic::make_dir(&at.join("2"), true).unwrap();
        assert!(take().is_none());
        two.let_go();
        let two = take().unwrap();
        // A number that is lowered, and raised again, while both are held.
        make(&root, "build", 1).unwrap();
        assert!(all_held(&root, "build").starts_with("the one token"));
        drop(one);
        let one = take().unwrap();
        assert!(take().is_none());
        make(&root, "build", 2).unwrap();
        assert!(take().is_none());
        drop(two);
        drop((one, take().unwrap()));
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
        for words in ["not a regular file", "gpu", "remove what is there"] {
            assert!(why.contains(words), "{why}");
        }
        // A folder or a symlink beside a file is no token, and one in its place is made anew.
        for name in ["1", ".1"] {
            atomic::remove(&at.join(name)).unwrap();
        }
        atomic::make_dir(&at.join("1"), true).unwrap();
        make(&root, "gpu", 1).unwrap();
        let one = try_take(&root, "gpu").unwrap().unwrap();
        assert!(try_take(&root, "gpu").unwrap().is_none());
        drop(one);
        atomic::discard_tree(&at, "a test's").unwrap();
        drop(atomic::create(&at, b"", 0o600).unwrap());
        let why = make(&root, "gpu", 1).unwrap_err().to_string();
        assert!(why.contains("remove what is there"), "{why}");
    }
}
