//! `harness init`, and the directories that every writing command makes if they are missing.
//!
//! Does not know the configuration's content or the queue. Invariant: existing files are never
//! changed, and nothing is made if something else is in the way.

use std::fs;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::doctor::installed;
use super::hidden::{self, GITIGNORE};
use super::place::{place, ready_dir, stands_as_dir, stands_as_file};
use super::quote::shell_quoted;
use super::root::{checkout_around, find_root};
use super::seen::{self, Gate};
use crate::adapters;
use crate::atomic;
use crate::config::edit::{self, KeyPath};
use crate::config::{self, Config, Overrides, Proposed, RepoPath};
use crate::error::{Context, Error, Result};
use crate::git;
use crate::layout::{Place, Root, shown};

/// What every agent is told first; placeholders in double braces are filled in per attempt.
pub const BOOTSTRAP: &str = include_str!("../../prompts/bootstrap.md");

/// Folders with such a file, so that `git status` around a ROOT stays clean.
const IGNORED_DIRS: [&str; 5] = ["queue", "state", "worktrees", "prompts", "hooks"];

/// What `init` did.
#[derive(Debug)]
pub struct InitReport {
    pub root: Root,
    /// Relative to ROOT.
    pub made: Vec<PathBuf>,
    /// Existed and was not changed; relative to ROOT.
    pub kept: Vec<PathBuf>,
    /// The agent CLIs on PATH.
    clis: Vec<&'static str>,
    /// What the repository around it could have as gates.
    gates: Vec<Gate>,
}

/// The tree that was made.
#[derive(Serialize, JsonSchema)]
pub(super) struct Made {
    /// The directory of the tree.
    root: String,
    /// Relative to `root`.
    made: Vec<String>,
    /// What was there and was not changed, relative to `root`.
    kept: Vec<String>,
}

/// `init` with the template. The only agent CLI on PATH becomes the agent of prompts.
///
/// # Errors
/// As `init`.
pub(super) fn with_agent(dir: &Path) -> Result<InitReport> {
    let clis: Vec<&str> = installed().into_iter().map(|(name, _)| name).collect();
    let gates = project(dir).map_or_else(Vec::new, |top| seen::gates(&top));
    let named: Vec<Proposed<'_>> = gates.iter().map(Gate::proposed).collect();
    let template = config::template_with(&named);
    let chosen = match &clis[..] {
        [only] => KeyPath::parse("harness.agent").and_then(|k| edit::set(&template, &k, only)),
        _ => Ok(template),
    };
    let chosen = chosen.map_err(|why| Error::permanent("a fault in harness", why))?;
    let report = init(dir, &chosen)?;
    let _copied = hidden::keep_config(&report.root, &config::text_of(&report.root)?)?;
    Ok(InitReport {
        clis,
        gates,
        ..report
    })
}

/// The checkout in which ROOT is to be, or already is.
fn project(dir: &Path) -> Option<PathBuf> {
    let dir = std::path::absolute(dir).ok()?;
    checkout_around(&dir).map(Path::to_owned)
}

/// Makes a ROOT of `dir`, which is made if missing. `template` is the text of a new `harness.toml`.
///
/// # Errors
/// Permanent if a file or a dangling symlink is in the way: then nothing was made. I/O.
pub fn init(dir: &Path, template: &str) -> Result<InitReport> {
    let _ready = stands_as_dir(dir)?;
    if !atomic::exists(dir) {
        atomic::make_dir(dir, false)?;
    }
    let root = Root::new(fs::canonicalize(dir).or_fail("cannot find the directory", dir)?);
    let files = [
        (root.config(), template),
        (root.path().join("prompts/bootstrap.md"), BOOTSTRAP),
    ];
    for (path, _) in root.dirs() {
        let _ready = stands_as_dir(&path)?;
    }
    for (path, _) in &files {
        stands_as_file(path)?;
    }

    hidden::bring_back_config(&root)?;
    let mut report = InitReport {
        root: root.clone(),
        made: Vec::new(),
        kept: Vec::new(),
        clis: Vec::new(),
        gates: Vec::new(),
    };
    for (path, private) in root.dirs() {
        let made = ready_dir(&path, private)?;
        report.note(&path, made);
    }
    for dir in IGNORED_DIRS {
        let path = root.path().join(dir).join(".gitignore");
        let made = place(&path, GITIGNORE)?;
        report.note(&path, made);
    }
    for (path, made) in hidden::hide(&root)? {
        report.note(&path, made);
    }
    for (path, content) in files {
        let made = place(&path, content)?;
        report.note(&path, made);
    }
    Ok(report)
}

/// Quietly makes missing directories of the tree: a clone of a ROOT has no empty ones, and `state/`
/// may be deleted. Never makes ROOT itself.
///
/// # Errors
/// Permanent if ROOT is gone or something else is in the way. I/O.
pub fn ensure_tree(root: &Root) -> Result<()> {
    if !root.path().is_dir() {
        return Err(Error::permanent("not a ROOT", "the directory is gone").at_path(root.path()));
    }
    for (path, private) in root.dirs() {
        let made = ready_dir(&path, private)?;
        let ignored = IGNORED_DIRS.iter().any(|d| root.path().join(d) == path);
        if made && ignored {
            let _made = place(&path.join(".gitignore"), GITIGNORE)?;
        }
    }
    // `git clean -fdx` takes the file that hides ROOT, and the configuration.
    hidden::bring_back_config(root)?;
    hidden::hide(root).map(|_| ())
}

impl InitReport {
    fn note(&mut self, path: &Path, made: bool) {
        let path = path
            .strip_prefix(self.root.path())
            .unwrap_or(path)
            .to_path_buf();
        if made {
            self.made.push(path);
        } else {
            self.kept.push(path);
        }
    }

    /// For people: what was made, what existed, who runs prompts, and the next steps.
    pub fn text(&self) -> String {
        let root = shown(self.root.path().as_os_str());
        let mut out = match (self.made.is_empty(), self.kept.is_empty()) {
            (_, true) => format!("harness is ready in {root}\n"),
            (true, _) => format!("harness was ready in {root} already: nothing was changed\n"),
            _ => {
                let made: Vec<_> = self.made.iter().map(|p| shown(p.as_os_str())).collect();
                format!(
                    "harness is ready in {root}: made {}; kept all else\n",
                    made.join(" ")
                )
            }
        };
        let config = Config::load(&self.root, &Overrides::default());
        if let Ok(config) = &config {
            out.push_str(&self.repository(config));
        }
        out.push_str(&self.prompts(&config));
        out.push_str(&config.map_or_else(|_| String::new(), |config| self.checks(&config)));
        if hidden::around(&self.root).is_some_and(|top| atomic::exists(&top.join("package.json"))) {
            out.push_str(
                "tools of Node look into hidden folders, too: have them ignore .harness/, or put the \
                 worktrees elsewhere: harness config set worktrees DIR\n",
            );
        }
        out.push_str("next:\n");
        let cwd = std::env::current_dir()
            .and_then(fs::canonicalize)
            .unwrap_or_default();
        let is_found = find_root(None, None, &|| Ok(cwd.clone()))
            .is_ok_and(|found| found.path() == self.root.path());
        let pending = self.root.place(Place::Pending);
        let pending = match is_found {
            true => pending.strip_prefix(&cwd).unwrap_or(&pending),
            false => {
                out.push_str(&format!("  cd {}\n", shell_quoted(self.root.path())));
                Path::new("queue/pending")
            }
        };
        out.push_str(&format!(
            "  harness doctor                       # can this place keep the promises?\n\
             \x20 harness add --prompt 'Fix the typo'  # or `harness add` for your editor, or files into {}/\n\
             \x20 harness run                          # works on it until Ctrl-C\n",
            shell_quoted(pending)
        ));
        out
    }

    /// What the place lacks for items to leave branches, where that is not what the configuration wants.
    fn repository(&self, config: &Config) -> String {
        let top = match config.repo.path {
            RepoPath::Auto => git::discover(self.root.path()),
            RepoPath::None | RepoPath::Path(_) => return String::new(),
        };
        match top {
            Ok(None) => "it is in no git repository: items work in plain folders and leave no branches; \
                         for branches: git init, or harness config set repo.path DIR\n"
                .to_owned(),
            Ok(Some(top)) if config.repo.base.is_none() && git::has_commit(&top).is_ok_and(|has| !has) => {
                "the repository has no commit that items could begin from: git commit --allow-empty -m start\n"
                    .to_owned()
            }
            // `harness doctor` says what is wrong with it.
            Ok(Some(_)) | Err(_) => String::new(),
        }
    }

    /// Which agent runs prompts, or how to say it.
    fn prompts(&self, config: &Result<Config>) -> String {
        let names: Vec<&str> = self.clis.clone();
        let agent = |config: &Config| config.harness.agent.clone();
        match (config.as_ref().map(agent), &names[..]) {
            (Err(e), _) => format!("but {e}\n"),
            (Ok(Some(agent)), [only]) if agent == *only && self.kept.is_empty() => format!(
                "prompts run with {agent}, the one agent CLI on PATH; another: harness config set agent NAME\n"
            ),
            (Ok(Some(agent)), _) => {
                format!("prompts run with {agent}; another: harness config set agent NAME\n")
            }
            (_, []) => format!(
                "scripts run as they are; for prompts install an agent CLI ({}), then: harness config set agent NAME\n",
                adapters::NAMES.join(", ")
            ),
            (_, [only]) => format!(
                "scripts run as they are; prompts need an agent ({only} is installed): harness config set agent {only}\n"
            ),
            (_, [first, ..]) => format!(
                "scripts run as they are; which agent runs prompts is yours to say ({} are installed): harness config set agent {first}\n",
                names.join(", ")
            ),
        }
    }

    /// Which gates the project could have, where it has none. None is set: that is the user's to say, as
    /// one that is red parks what agents make.
    fn checks(&self, config: &Config) -> String {
        if self.gates.is_empty() || !config.gates.is_empty() {
            return String::new();
        }
        let seen: Vec<String> = self.gates.iter().map(|g| format!("`{g}`")).collect();
        let ways: Vec<String> = self.gates.iter().map(Gate::how).collect();
        format!(
            "no gate checks what agents make; this project has {}: {}\n",
            seen.join(" and "),
            ways.join("; ")
        )
    }

    pub(super) fn told(&self) -> Made {
        let names = |paths: &[PathBuf]| -> Vec<String> {
            paths.iter().map(|p| shown(p.as_os_str())).collect()
        };
        Made {
            root: shown(self.root.path().as_os_str()),
            made: names(&self.made),
            kept: names(&self.kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::root::find_root;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn temp() -> tempfile::TempDir {
        tempfile::tempdir().expect("temp dir")
    }

    fn write(path: &Path, text: &str) {
        drop(atomic::create(path, text.as_bytes(), 0o644).expect("write"));
    }

    #[test]
    fn init_makes_the_tree_and_changes_nothing_the_second_time() {
        let dir = temp();
        let at = dir.path().join("new/root");
        let first = init(&at, "# mine\n").expect("init");
        assert!(first.kept.is_empty());
        for (path, private) in first.root.dirs() {
            let mode = fs::metadata(&path).expect("made").permissions().mode();
            assert!(!private || mode & 0o077 == 0, "{path:?} {mode:o}");
        }
        for dir in IGNORED_DIRS {
            let text = fs::read_to_string(first.root.path().join(dir).join(".gitignore"));
            assert_eq!(text.expect("ignored"), GITIGNORE);
        }
        assert_eq!(
            fs::read_to_string(first.root.config()).expect("config"),
            "# mine\n"
        );

        let second = init(&at, "# other\n").expect("init again");
        assert!(second.made.is_empty());
        assert_eq!(second.kept.len(), first.made.len());
        assert_eq!(
            fs::read_to_string(first.root.config()).expect("config"),
            "# mine\n"
        );
        assert!(second.text().contains("already"), "{}", second.text());
        let hidden = walkdir::WalkDir::new(&at)
            .into_iter()
            .filter_map(|e| e.ok());
        assert_eq!(
            hidden
                .filter(|e| e.file_name().as_bytes().ends_with(b".tmp"))
                .count(),
            0
        );
    }

    #[test]
    fn init_keeps_what_a_person_has() {
        let dir = temp();
        write(&dir.path().join("harness.toml"), "[harness]\nworkers = 9\n");
        symlink("/dev/null", dir.path().join("README")).expect("symlink");
        let elsewhere = temp();
        symlink(elsewhere.path(), dir.path().join("state")).expect("symlink");
        let report = init(dir.path(), "# t\n").expect("init");
        assert!(report.kept.contains(&PathBuf::from("harness.toml")));
        assert!(report.kept.contains(&PathBuf::from("state")));
        assert!(elsewhere.path().join("claims").is_dir());
        assert!(
            report.text().contains("; kept all else"),
            "{}",
            report.text()
        );
    }

    #[test]
    fn init_refuses_what_stands_in_the_way_and_makes_nothing() {
        for (name, link) in [("queue", false), ("state", true), ("worktrees", false)] {
            let dir = temp();
            let path = dir.path().join(name);
            if link {
                symlink("nowhere", &path).expect("symlink");
            } else {
                write(&path, "mine");
            }
            let err = init(dir.path(), "").expect_err("refused");
            assert_eq!(err.exit_code(), 100);
            assert!(err.to_string().contains(name), "{err}");
            assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
        }
        let dir = temp();
        write(&dir.path().join("file"), "mine");
        assert!(init(&dir.path().join("file"), "").is_err());
        assert!(init(&dir.path().join("file/below"), "").is_err());
        symlink("nowhere", dir.path().join("prompts")).expect("symlink");
        assert!(init(dir.path(), "").is_err());
    }

    #[test]
    fn hostile_directory_names_work() {
        for name in [
            &b"-rf"[..],
            b"a b",
            b"$(x)`y`",
            b"new\nline",
            b"\xff\xfe",
            b"it's \\ \x1b[31m",
        ] {
            let dir = temp();
            let at = dir.path().join(OsStr::from_bytes(name));
            let report = init(&at, "# t\n").expect("init");
            let text = report.text();
            assert_eq!(text.lines().count(), 8, "{text}");
            assert!(!text.contains('\x1b'));
            let below = || Ok(at.join("queue/pending"));
            let found = find_root(None, None, &below).expect("found");
            assert_eq!(found.path(), report.root.path());
            ensure_tree(&found).expect("tree");
        }
    }

    #[test]
    fn ensure_tree_mends_a_deleted_state_but_makes_no_root() {
        let dir = temp();
        let root = init(dir.path(), "").expect("init").root;
        atomic::discard_tree(&root.state(), "a test's own").expect("delete");
        ensure_tree(&root).expect("tree");
        assert!(root.claims().is_dir() && root.state().join(".gitignore").is_file());
        let gone = Root::new(dir.path().join("gone"));
        assert!(ensure_tree(&gone).is_err());
        assert!(!gone.path().exists());
    }
}
