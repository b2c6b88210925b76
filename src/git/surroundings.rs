//! What a worktree needs besides what git checks out: ignored files of the user's checkout (settings,
//! dependencies, build caches), as `copy` in [repo] names them, or `.worktreeinclude`.
//!
//! Knows nothing of how files are copied (`copy`). Invariants: only what git ignores in both trees is
//! brought, and only to names that are free; it appears whole. What cannot be brought is told, and
//! stops nothing.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checkout::paths_of;
use super::hub::SLOTS;
use super::include::Patterns;
use super::wait::{Wait, deadline};
use super::{Clean, Git, Worktree};
use crate::atomic;
use crate::clock;
use crate::copy::{self, Ages, Beneath, Bounds, Copied, Failed};
use crate::error::{Context, Error, Kind, Result};
use crate::layout::shown;
use crate::limits::{COPY_PATHS_MAX, GIT_TIMEOUT};
use crate::mutant::planted;

/// How often a copy is begun while somebody writes in the original.
const TRIES: u32 = 3;
/// Between the first and the second; then twice as long.
const PAUSE: Duration = Duration::from_millis(50);
/// The list of what git is asked about.
const ASKED: &str = "asked";

/// Something to be brought.
struct Wanted {
    /// Below the top of either tree.
    path: PathBuf,
    /// The top of the tree that it comes from.
    from: PathBuf,
}

/// Something that is copied, and not in its place yet.
struct Staged {
    wanted: Wanted,
    /// Its name where it waits.
    name: OsString,
}

impl Worktree {
    /// Brings what is missing here and is ignored there. Returns notes for people.
    ///
    /// # Errors
    /// Temporary ones of the host, and of our own git in the worktree: the next try brings it.
    pub(super) fn bring_surroundings(&self) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        match self.dir == self.top {
            true => self.try_to_bring(&mut notes),
            false => Ok(()),
        }
        .or_else(|e| match e.kind() {
            Kind::Permanent => {
                notes.push(format!(
                    "ignored files were not brought from your checkout: {e}"
                ));
                Ok(())
            }
            _ => Err(e),
        })?;
        Ok(notes)
    }

    fn try_to_bring(&self, notes: &mut Vec<String>) -> Result<()> {
        let stage = self.slot.stage();
        atomic::discard_tree(&stage, "half-made copies of our own")?;
        let repo = self.hub.repo();
        let path = repo
            .path
            .canonicalize()
            .or_fail("cannot find", &repo.path)?;
        let top = top_of(&path);
        let Some(patterns) = Patterns::of(repo.copy.as_deref(), top)? else {
            return Ok(());
        };
        let mut wanted = self.wanted_here(&patterns, top, notes)?;
        if wanted.is_empty() {
            return Ok(());
        }
        let is_new = self.ignored_in(self.git())?.is_empty();
        atomic::make_dir_new(&stage, true)?;
        let in_place = planted("copied-in-place");
        let place = if in_place { &self.dir } else { &stage };
        let mut here = beneath(&self.dir)?;
        let mut staged = Vec::new();
        let mut newest = i64::MIN;
        for (n, wanted) in wanted.drain(..).enumerate() {
            let name = match in_place {
                true => wanted.path.clone().into_os_string(),
                false => n.to_string().into(),
            };
            match self.copy(&wanted, &patterns, place, &name) {
                Ok(copied) => {
                    newest = newest.max(copied.newest);
                    let is_there = atomic::exists(&place.join(&name));
                    notes.extend(left_out(&wanted.path, &copied, is_there));
                    if is_there {
                        staged.push(Staged { wanted, name });
                    }
                }
                Err(why) => notes.push(format!("{} was not brought: {why}", show(&wanted.path))),
            }
        }
        if !planted("copied-times-not-set") {
            self.settle_times(&mut here, &staged, newest, is_new)?;
        }
        if repo.durable {
            // After a power cut a file without its content would count as built.
            let dir = atomic::open_dir(&stage).or_fail("cannot sync", &stage)?;
            let synced = rustix::fs::syncfs(&dir).map_err(std::io::Error::from);
            synced.or_fail("cannot sync", &stage)?;
        }
        let mut from = beneath(&stage)?;
        for Staged { wanted, name } in &staged {
            copy::put(&mut from, name, &mut here, &wanted.path).or_fail(
                "cannot put it into the worktree",
                &self.dir.join(&wanted.path),
            )?;
        }
        atomic::discard_tree(&stage, "an empty folder of our own")
    }

    /// What is missing here: in the user's checkout, else with another slot.
    fn wanted_here(
        &self,
        patterns: &Patterns,
        top: Option<&Path>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Wanted>> {
        let mut here = beneath(&self.dir)?;
        let mut wanted = Vec::new();
        if let Some(top) = top {
            let git = self.hub.quiet(Git::at(top)).env("GIT_OPTIONAL_LOCKS", "0");
            let ignored = self.ignored_in(git)?;
            let named = patterns.named(top, &ignored);
            self.explain(patterns, top, &named, notes)?;
            let owns = self.harness_folders(top);
            let tops: HashSet<&Path> = ignored.iter().map(Path::new).collect();
            for path in named {
                // Of what is not in this base (a package with its dependencies) nothing is needed. A
                // folder that is ignored itself may be made.
                let has_place = !tops.contains(&*path) || here.has_folder_of(&path);
                if has_place && here.has_room_for(&path) && !is_in(&top.join(&path), &owns) {
                    let from = top.to_owned();
                    wanted.push(Wanted { path, from });
                }
            }
        }
        // Where nothing is to stay of an item, nothing of another slot's is to come.
        if self.hub.repo().clean == Clean::KeepIgnored {
            for path in patterns.literals() {
                let is_had = wanted.iter().any(|w| w.path == path);
                if !is_had
                    && here.has_folder_of(&path)
                    && here.has_room_for(&path)
                    && let Some(from) = self.sibling_with(&path)
                {
                    wanted.push(Wanted { path, from });
                }
            }
        }
        if wanted.len() > COPY_PATHS_MAX {
            let all = wanted.len();
            notes.push(format!(
                "only {COPY_PATHS_MAX} of {all} ignored files and folders were brought"
            ));
            wanted.truncate(COPY_PATHS_MAX);
        }
        self.only_ignored(wanted, notes)
    }

    /// What git ignores in a tree, whole folders as one, each with a `/`.
    fn ignored_in(&self, git: Git) -> Result<Vec<OsString>> {
        let git = git.args(["ls-files", "-z", "--others", "--ignored"]);
        let git = git.args(["--exclude-standard", "--directory"]);
        let out = git.patient()?;
        match out.ok() {
            true => Ok(paths_of(&out).collect()),
            // Of the user's repository: it may stay as it is.
            false => Err(Error::permanent(
                "cannot list the ignored files",
                out.stderr.trim(),
            )),
        }
    }

    /// The worktree of another slot of this repository that has a file or folder there. No git runs in
    /// it: its agent may be at work.
    fn sibling_with(&self, path: &Path) -> Option<PathBuf> {
        let own = self.dir.file_name()?;
        let listed = fs::read_dir(self.hub.dir().join(SLOTS)).ok()?.flatten();
        let mut names: Vec<OsString> = listed.map(|e| e.file_name()).collect();
        names.retain(|name| name != own);
        names.sort();
        let dirs = names.iter().map(|name| self.dir.with_file_name(name));
        let has = |dir: &PathBuf| {
            let kind = beneath(dir).ok().and_then(|mut b| b.kind_of(path));
            matches!(kind, Some(libc::S_IFREG | libc::S_IFDIR))
        };
        dirs.into_iter().find(has)
    }

    /// Without what git would not ignore in this worktree: it would be committed.
    fn only_ignored(&self, wanted: Vec<Wanted>, notes: &mut Vec<String>) -> Result<Vec<Wanted>> {
        if wanted.is_empty() || planted("copied-though-not-ignored") {
            return Ok(wanted);
        }
        let mut text = Vec::new();
        for w in &wanted {
            text.extend_from_slice(w.path.as_os_str().as_bytes());
            // Otherwise a rule for folders would not hold for what is not there yet.
            let is_folder = w
                .from
                .join(&w.path)
                .symlink_metadata()
                .is_ok_and(|m| m.is_dir());
            text.extend_from_slice(if is_folder { b"/\0" } else { b"\0" });
        }
        let file = self.admin.join(ASKED);
        atomic::replace(&file, &text, false)?;
        let list = atomic::open_regular(&file).or_fail("cannot read", &file)?;
        atomic::remove(&file)?;
        let git = self
            .git()
            .args(["check-ignore", "-z", "--stdin"])
            .reading(list);
        let out = git.patient()?;
        // 1: none of them is ignored.
        if out.code > 1 {
            return Err(git.failure("cannot ask what is ignored in the worktree", &out));
        }
        let ignored: HashSet<PathBuf> = paths_of(&out)
            .map(|path| Path::new(&path).components().collect())
            .collect();
        let (wanted, not): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|w| ignored.contains(&w.path));
        notes.extend(not.iter().map(|w| {
            format!(
                "{} was not brought: no .gitignore of the worktree names it, so it would be committed",
                show(&w.path)
            )
        }));
        Ok(wanted)
    }

    /// Copies one of them beside the worktree.
    fn copy(
        &self,
        wanted: &Wanted,
        patterns: &Patterns,
        stage: &Path,
        name: &OsStr,
    ) -> std::result::Result<Copied, String> {
        let wait = RefCell::new(Wait::begin());
        let until = deadline(wait.borrow().began, GIT_TIMEOUT);
        let ends = || {
            let (what, from) = (show(&wanted.path), wanted.from.display());
            let mut wait = wait.borrow_mut();
            wait.goes_on(|| format!("copies {what} from {from}"));
            // A stop ends it sooner.
            let until = until.min(deadline(wait.began, GIT_TIMEOUT));
            (clock::instant() >= until).then(|| "it took too long".to_owned())
        };
        let bounds = Bounds {
            spare: self.hub.repo().spare,
            ends: &ends,
            skips: &|path, is_folder| patterns.leaves_out(path, is_folder),
        };
        for n in 1..=TRIES {
            let failed = match (Beneath::open(&wanted.from), Beneath::open(stage)) {
                (Ok(mut from), Ok(mut to)) => {
                    match copy::copy(&mut from, &wanted.path, &mut to, name, &bounds) {
                        Ok(copied) => return Ok(copied),
                        Err(failed) => failed,
                    }
                }
                (Err(e), _) | (_, Err(e)) => e.into(),
            };
            atomic::discard_tree(&stage.join(name), "a half-made copy of our own")
                .map_err(|e| e.to_string())?;
            if let Failed::Other(why) = failed {
                return Err(why);
            }
            // A build that has just ended is over by then.
            std::thread::park_timeout(PAUSE * n);
        }
        let from = wanted.from.display();
        Err(format!("something writes in it in {from}"))
    }

    /// Files that are the source's have its times, so that what was built from them is known to be
    /// theirs. Then the index is made to know that they are unchanged.
    fn settle_times(
        &self,
        here: &mut Beneath,
        staged: &[Staged],
        newest: i64,
        is_new: bool,
    ) -> Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        let tops: HashSet<&Path> = staged.iter().map(|s| s.wanted.from.as_path()).collect();
        let sources: Result<Vec<Beneath>> = tops.into_iter().map(beneath).collect();
        let ages = Ages {
            sources: sources?,
            copied: staged.iter().map(|s| s.wanted.path.as_path()).collect(),
            newest,
            is_new,
        };
        let list = self.git().args(["ls-files", "-z"]);
        let files = list.must("cannot list the files of the worktree")?;
        if files.truncated {
            // One whose time is not set could count as built.
            return Err(Error::permanent(
                "cannot set the times",
                "there are too many files",
            ));
        }
        let what = "cannot set the times of the worktree's files";
        copy::settle(here, ages, paths_of(&files)).or_fail(what, &self.dir)?;
        let refresh = ["update-index", "-q", "--ignore-submodules", "--refresh"];
        self.git().args(refresh).patient().map(drop)
    }

    /// Says what of the configuration brings nothing, and why.
    fn explain(
        &self,
        patterns: &Patterns,
        top: &Path,
        named: &[PathBuf],
        notes: &mut Vec<String>,
    ) -> Result<()> {
        for path in patterns.literals().filter(|_| patterns.is_configured) {
            let is_named = named
                .iter()
                .any(|n| n.starts_with(&path) || path.starts_with(n));
            if is_named || !atomic::exists(&top.join(&path)) {
                continue;
            }
            let git = self
                .hub
                .quiet(Git::at(top))
                .env("GIT_LITERAL_PATHSPECS", "1");
            let out = git.args(["ls-files", "-z", "--"]).arg(&path).output()?;
            let why = match out.stdout.is_empty() {
                true => {
                    "which git does not ignore in your checkout: only ignored files are brought"
                }
                false => "which git tracks: worktrees have it from there",
            };
            notes.push(format!("`copy` names {}, {why}", show(&path)));
        }
        Ok(())
    }

    /// Folders in the user's checkout that are harness's own.
    fn harness_folders(&self, top: &Path) -> Vec<PathBuf> {
        let root = &self.hub.repo().root;
        let root = root.canonicalize().unwrap_or_else(|_| root.clone());
        let own = ["queue", "state", "worktrees"].map(|name| root.join(name));
        let parent = self.dir.parent().map(Path::to_owned);
        let is_around = top.canonicalize().is_ok_and(|top| top.starts_with(&root));
        let all = own.into_iter().chain(parent);
        // A checkout inside ROOT, or ROOT itself, is the user's all the same.
        all.chain((!is_around).then_some(root)).collect()
    }
}

fn is_in(path: &Path, folders: &[PathBuf]) -> bool {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    folders
        .iter()
        .any(|folder| path.starts_with(folder) || folder.starts_with(&path))
}

/// The checkout that this path is in. `None`: a bare repository, say.
fn top_of(path: &Path) -> Option<&Path> {
    path.ancestors()
        .find(|dir| atomic::exists(&dir.join(".git")))
}

fn beneath(dir: &Path) -> Result<Beneath> {
    let opened = Beneath::open(dir).map_err(std::io::Error::from);
    opened.or_fail("cannot open the folder", dir)
}

/// What was left out, or all of it.
fn left_out(path: &Path, copied: &Copied, is_there: bool) -> Option<String> {
    let first = copied.first_left_out.as_ref()?;
    let more = match copied.left_out {
        1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    Some(match is_there {
        true => format!("{} was brought without {first}{more}", show(path)),
        false => format!("not brought: {first}"),
    })
}

fn show(path: &Path) -> String {
    shown(path.as_os_str())
}
