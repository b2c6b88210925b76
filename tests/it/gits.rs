//! Every git on this machine, and a user who works with one of them: what he does, what he sees,
//! and what his repository holds.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::{Root, describe, files_below, pause};

/// The settings by which a run of ours inside a repository of a user's is told from his own: hooks
/// that are not his say so in a file and fail.
pub const BY_HAND: &str = "TEST_USER_AT_WORK";

/// A git, as the first one in a PATH of its own.
pub struct Git {
    pub program: PathBuf,
    pub version: String,
    path: OsString,
    _dir: tempfile::TempDir,
}

/// The gits in PATH, /usr/local/bin and /usr/bin, or those of HARNESS_TEST_GITS (programs or the
/// folders that they are in, separated by colons): one of each version, which is said.
pub fn all() -> Vec<Git> {
    let given = std::env::var_os("HARNESS_TEST_GITS").filter(|g| !g.is_empty());
    let path = given.clone().unwrap_or_else(|| {
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/local/bin:/usr/bin");
        path
    });
    let mut gits: Vec<Git> = Vec::new();
    for place in std::env::split_paths(&path) {
        let program = if place.is_dir() {
            place.join("git")
        } else {
            place
        };
        if !program.is_file() {
            assert!(
                given.is_none(),
                "HARNESS_TEST_GITS: no git is at {program:?}"
            );
            continue;
        }
        let out = Command::new(&program).arg("version").output().unwrap();
        assert!(out.status.success(), "{program:?}: {}", describe(&out));
        let said = String::from_utf8_lossy(&out.stdout);
        let version = said.split_whitespace().nth(2).unwrap().to_owned();
        if gits.iter().any(|g| g.version == version) {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&program, dir.path().join("git")).unwrap();
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(dir.path().to_owned()).chain(std::env::split_paths(&rest));
        println!("git {version}: {}", program.display());
        gits.push(Git {
            path: std::env::join_paths(all).unwrap(),
            program,
            version,
            _dir: dir,
        });
    }
    assert!(!gits.is_empty(), "no git is on this machine");
    gits
}

impl Git {
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.version.split('.').map(|p| p.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }

    /// Lets the harness of this ROOT find this git, and nobody's settings but those in `home`.
    pub fn lead(&self, root: &mut Root, home: &Path) {
        root.env.extend([
            ("PATH", self.path.clone()),
            ("HOME", home.into()),
            ("XDG_CONFIG_HOME", home.join("none").into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ]);
    }
}

/// Somebody at work in a repository, at a time that he says: what he does twice in two places has
/// the same object ids.
pub struct User<'a> {
    pub git: &'a Git,
    pub repo: PathBuf,
    pub home: PathBuf,
    pub now: u64,
}

/// The lock in the way of this command, if a git of harness's may have left it.
fn lock_of_ours(out: &Output) -> Option<PathBuf> {
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let lock = said.split('\'').find(|w| w.ends_with(".lock"))?;
    let ours = [
        "/refs/harness/held/",
        "/refs/heads/harness/",
        "/packed-refs.lock",
    ];
    let is_ours = ours.iter().any(|part| lock.contains(part));
    (said.contains("File exists") && is_ours).then(|| lock.into())
}

impl User<'_> {
    pub fn try_git_at(&self, dir: &Path, args: &[&str]) -> Output {
        let mut c = Command::new(&self.git.program);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("GIT_") {
                c.env_remove(key);
            }
        }
        let date = format!("{} +0000", self.now);
        c.env("PATH", &self.git.path)
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", self.home.join("none"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .env(BY_HAND, "1");
        let id = ["-c", "user.name=U", "-c", "user.email=u@localhost"];
        c.arg("-C").arg(dir).args(id).args(args).output().unwrap()
    }

    /// A command of his, in which he sees no error. A lock that a killed git of harness's left he removes, as
    /// git tells him to (docs/reliability.md, Limits).
    pub fn git_at(&self, dir: &Path, args: &[&str]) -> String {
        let mut out = self.try_git_at(dir, args);
        for _ in 0..9 {
            let Some(lock) = lock_of_ours(&out) else {
                break;
            };
            // One that a living git holds goes by itself.
            let end = Instant::now() + Duration::from_secs(3);
            while lock.exists() && Instant::now() < end {
                pause();
            }
            let _gone = fs::remove_file(lock);
            out = self.try_git_at(dir, args);
        }
        let said = String::from_utf8_lossy(&out.stderr);
        let bad = ["error:", "fatal:", "warning:"];
        // Git's own word for a ref that goes away while it is being packed: one of ours does when
        // its branch stands, and a branch may when its item is canceled as it ends.
        let ours = ["'refs/harness/held/", "'refs/heads/harness/"];
        let ours = |l: &str| ours.iter().any(|o| l.contains(o));
        let gone = |l: &str| ours(l) && l.contains("unable to resolve");
        let mut lines = said.lines().filter(|l| !gone(l));
        assert!(
            out.status.success() && !lines.any(|l| bad.iter().any(|b| l.contains(b))),
            "git {}, {args:?} in {dir:?}: {}",
            self.git.version,
            describe(&out)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    pub fn git(&self, args: &[&str]) -> String {
        self.git_at(&self.repo, args)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.repo.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Every hook that there is, of the kind that fails for anybody but this user, and says who ran.
    pub fn make_hooks(&self, dir: &Path, told: &Path) {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir_all(dir).unwrap();
        for name in HOOKS {
            let file = dir.join(name);
            let text = format!("#!/bin/sh\n{}\n", hook_text(name, told));
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// The git directory, whatever the repository's shape.
    pub fn git_dir(&self) -> PathBuf {
        let args = ["rev-parse", "--path-format=absolute", "--git-common-dir"];
        PathBuf::from(self.git(&args).trim_end())
    }

    /// All but objects and harness's branches, file by file; of a reftable, what it says.
    pub fn bytes(&self) -> Vec<(String, Vec<u8>)> {
        let dir = self.git_dir();
        let mut all = Vec::new();
        for (top, name) in [(&dir, "git"), (&self.repo, "tree")] {
            for path in files_below(top) {
                let inside = path.strip_prefix(top).unwrap();
                let inside = inside.to_string_lossy().into_owned();
                if name == "tree" && path.starts_with(&dir) || is_of_harness(&inside) {
                    continue;
                }
                let bytes = match path.symlink_metadata().unwrap().is_symlink() {
                    true => fs::read_link(&path)
                        .unwrap()
                        .into_os_string()
                        .into_encoded_bytes(),
                    false => fs::read(&path).unwrap_or_default(),
                };
                all.push((format!("{name}/{inside}"), bytes));
            }
        }
        all.sort();
        all.push(("refs".into(), self.refs().into_bytes()));
        all
    }

    /// Every ref and reflog of his as git tells them, and the stash.
    pub fn refs(&self) -> String {
        let format = "--format=%(refname) %(objectname) %(symref)";
        let refs = self.git(&["for-each-ref", format]);
        let mut refs: String = refs
            .lines()
            .filter(|r| !r.starts_with("refs/heads/harness/"))
            .map(|r| format!("{r}\n"))
            .collect();
        for name in ["HEAD", "refs/stash", "refs/heads/main"] {
            let out = self.try_git_at(&self.repo, &["reflog", "show", "--date=raw", name]);
            refs.push_str(&String::from_utf8_lossy(&out.stdout));
        }
        refs
    }

    /// `git fsck --full`, which finds nothing to say.
    pub fn assert_sound(&self, dir: &Path) {
        let out = self.try_git_at(dir, &["fsck", "--full", "--no-dangling"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned()
            + &String::from_utf8_lossy(&out.stdout);
        let bad: Vec<&str> = said
            .lines()
            .filter(|l| !l.starts_with("notice: ") && !l.starts_with("Checking "))
            .collect();
        assert!(
            out.status.success() && bad.is_empty(),
            "{dir:?}: {}",
            describe(&out)
        );
    }
}

/// Lock files below a git directory.
pub fn locks(git_dir: &Path) -> Vec<PathBuf> {
    let mut all = files_below(git_dir);
    all.retain(|p| p.extension().is_some_and(|e| e == "lock"));
    all
}

/// In a repository, and in those of its submodules.
fn is_of_harness(inside: &str) -> bool {
    let ours = ["objects", "refs/heads/harness", "reftable"];
    let inside = format!("/{inside}");
    ours.iter().any(|o| inside.contains(&format!("/{o}/")))
}

/// What git runs in the commands that harness has use for, and a few more.
pub const HOOKS: [&str; 9] = [
    "post-checkout",
    "reference-transaction",
    "post-index-change",
    "pre-commit",
    "commit-msg",
    "prepare-commit-msg",
    "post-commit",
    "post-rewrite",
    "pre-auto-gc",
];

pub fn hook_text(name: &str, told: &Path) -> String {
    format!(
        "[ -n \"${BY_HAND}\" ] || {{ echo {name} $* >>'{}'; exit 1; }}",
        told.display()
    )
}
