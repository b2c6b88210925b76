//! `harness doctor`: can this host and file system keep the promises? What not, and what to do.
//!
//! Does not run anything by itself: what takes a process or an unsafe call (git, read leases, an
//! agent's version) the caller finds out and hands in as `Facts`. Keeps: a check that is not Ok says what to do; whatever is
//! made for a probe is removed again; nothing else in ROOT is changed, but missing directories.

mod disk;
mod host;
mod probe;
mod version;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::init;
use crate::config::{Config, Overrides, RepoPath};
use crate::layout::Root;
pub use version::version;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// A promise is weaker here, or something will soon be short.
    Warn,
    /// A promise does not hold here.
    Fail,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do; always there unless the level is Ok.
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Check {
        Check {
            name: name.to_owned(),
            level: Level::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check {
            level: Level::Warn,
            advice: Some(advice.into()),
            ..Check::ok(name, found)
        }
    }

    fn fail(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Check {
        Check {
            level: Level::Fail,
            ..Check::warn(name, found, advice)
        }
    }
}

/// Program with leading arguments and variables in; the version or why there is none out.
pub type AskVersion = dyn Fn(&[OsString], &BTreeMap<String, String>) -> Result<String, String>;

/// What the caller found out.
pub struct Facts<'a> {
    /// Of `git --version`; none where git does not run.
    pub git_version: Option<(u32, u32, u32)>,
    /// Whether a read lease (`F_SETLEASE`) can be had on this file, which nobody has open.
    pub read_lease: &'a dyn Fn(&Path) -> bool,
    /// Below which cgroup keepers can make theirs, or why they cannot.
    pub cgroup: Result<PathBuf, String>,
    /// What a CLI says when it is asked for its version, with these variables set (`version`).
    pub version: &'a AskVersion,
    /// Reads an environment variable (`std::env::var_os`).
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
}

/// Every check, in order.
#[derive(Debug, Clone, Default)]
pub struct DoctorReport {
    pub checks: Vec<Check>,
}

/// The oldest git with `merge-tree --write-tree`.
const GIT_MIN: (u32, u32, u32) = (2, 38, 0);

/// Looks at the host, and at ROOT where there is one. Never ends with an error: what cannot be
/// looked at is a check that failed.
pub fn doctor(root: Option<&Root>, facts: &Facts<'_>) -> DoctorReport {
    let mut checks = Vec::new();
    let config = root.map(|root| Config::load_with(root, &Overrides::default(), facts.env));
    match (root, &config) {
        (Some(root), Some(Ok(config))) => {
            let path = crate::layout::shown(root.path().as_os_str());
            checks.push(Check::ok("root", path));
            checks.push(configuration(config));
        }
        (_, Some(Err(e))) => checks.push(Check::fail(
            "configuration",
            e.to_string(),
            "correct harness.toml: nothing runs before",
        )),
        _ => checks.push(Check::warn(
            "root",
            "no ROOT here: only the host was looked at",
            "run `harness init`, or give --root DIR",
        )),
    }
    let config = config.and_then(Result::ok);
    checks.push(git(facts.git_version, config.as_ref()));
    checks.extend(host::checks(config.as_ref(), facts));
    if let Some(root) = root {
        match init::ensure_tree(root) {
            Ok(()) => {
                checks.extend(disk::checks(root, config.as_ref()));
                checks.extend(probe::checks(root, facts.read_lease));
            }
            Err(e) => checks.push(Check::fail(
                "tree",
                e.to_string(),
                "move aside what stands in the way, or correct owner and mode, then run `harness init`",
            )),
        }
        checks.extend(host::agents(root, config.as_ref(), facts));
    }
    DoctorReport { checks }
}

fn configuration(config: &Config) -> Check {
    let set = config.sources.0.iter();
    let set = set.filter(|e| e.source != crate::config::Source::Default);
    let found = format!("{} keys set, {} agents", set.count(), config.agents.len());
    if config.harness.agent.is_none() && !config.agents.is_empty() {
        let names: Vec<&str> = config.agents.keys().map(String::as_str).collect();
        let advice = format!("set `agent` in [harness] to one of: {}", names.join(", "));
        return Check::warn(
            "configuration",
            format!("{found}, none of them for prompts that name none"),
            advice,
        );
    }
    Check::ok("configuration", found)
}

fn git(version: Option<(u32, u32, u32)>, config: Option<&Config>) -> Check {
    let advice =
        "install git 2.38 or newer, or set `path = \"none\"` in [repo] to work without git";
    let needed = config.is_none_or(|c| {
        let mut repos = std::iter::once(&c.repo).chain(c.repos.values());
        repos.any(|r| r.path != RepoPath::None)
    });
    let missing = |found: String| match needed {
        true => Check::fail("git", found, advice),
        false => Check::ok("git", format!("{found}; not needed here")),
    };
    match version {
        None => missing("git does not run".to_owned()),
        Some((a, b, c)) if (a, b, c) < GIT_MIN => missing(format!("{a}.{b}.{c} is too old")),
        Some((a, b, c)) => Check::ok("git", format!("{a}.{b}.{c}")),
    }
}

impl DoctorReport {
    /// 0 if nothing failed, else 100.
    pub fn exit_code(&self) -> u8 {
        if self.worst() == Level::Fail { 100 } else { 0 }
    }

    pub fn worst(&self) -> Level {
        let levels = self.checks.iter().map(|c| c.level);
        levels.max().unwrap_or(Level::Ok)
    }

    /// Aligned lines, advice below what it is about, and one line that sums up.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
        let mut out = String::new();
        for c in &self.checks {
            let level = match c.level {
                Level::Ok => "ok",
                Level::Warn => "warn",
                Level::Fail => "FAIL",
            };
            let indent = " ".repeat(width + 8);
            let found = c.found.replace('\n', &format!("\n{indent}"));
            out.push_str(&format!("{level:4}  {:width$}  {found}\n", c.name));
            if let Some(advice) = &c.advice {
                let advice = advice.replace('\n', &format!("\n{indent}"));
                out.push_str(&format!("{indent}what to do: {advice}\n"));
            }
        }
        let count = |level| self.checks.iter().filter(|c| c.level == level).count();
        let (fails, warns) = (count(Level::Fail), count(Level::Warn));
        out.push_str(&match (fails, warns) {
            (0, 0) => "all promises hold here\n".to_owned(),
            (0, w) => format!("nothing failed; {w} to look at\n"),
            (f, w) => format!("{f} failed; {w} more to look at\n"),
        });
        out
    }

    /// `{"ok", "checks": [{"name", "level", "found", "advice"}]}`
    pub fn json(&self) -> serde_json::Value {
        json!({"ok": self.worst() != Level::Fail, "checks": self.checks})
    }
}

#[cfg(test)]
#[allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod tests {
    use super::*;
    use crate::atomic;

    fn with<T>(git: Option<(u32, u32, u32)>, run: impl FnOnce(&Facts<'_>) -> T) -> T {
        run(&Facts {
            git_version: git,
            read_lease: &|_| true,
            cgroup: match git {
                Some(_) => Ok("/sys/fs/cgroup".into()),
                None => Err("of a test".into()),
            },
            version: &|argv, _| match argv[0].to_string_lossy().ends_with("/false") {
                true => Err("it ends with 1".into()),
                false => Ok("1.2.3 (of a test)".into()),
            },
            env: &|name| std::env::var_os(name).filter(|_| !name.starts_with("HARNESS")),
        })
    }

    fn level(report: &DoctorReport, name: &str) -> Level {
        let check = report.checks.iter().find(|c| c.name == name);
        check
            .unwrap_or_else(|| panic!("no {name} in:\n{}", report.text()))
            .level
    }

    fn root_with(toml: &str) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = init::init(dir.path(), toml).expect("init").root;
        (dir, root)
    }

    #[test]
    fn a_local_directory_passes_every_probe_and_is_left_as_it_was() {
        let (_dir, root) = root_with("");
        let list = || -> Vec<_> {
            let all = walkdir::WalkDir::new(root.path()).sort_by_file_name();
            all.into_iter()
                .filter_map(|e| Some(e.ok()?.into_path()))
                .collect()
        };
        let before = list();
        let report = with(Some((2, 47, 3)), |f| doctor(Some(&root), f));
        assert_eq!(before, list());
        for name in [
            "root",
            "configuration",
            "git",
            "one device",
            "rename",
            "hard link",
            "flock",
            "append",
            "not before",
            "socket",
            "/proc",
        ] {
            assert_eq!(
                level(&report, name),
                Level::Ok,
                "{name}:\n{}",
                report.text()
            );
        }
        for check in &report.checks {
            assert_eq!(
                check.level == Level::Ok,
                check.advice.is_none(),
                "{check:?}"
            );
        }
        let json = report.json();
        assert_eq!(
            json["checks"].as_array().map(Vec::len),
            Some(report.checks.len())
        );
        assert_eq!(json["checks"][0]["level"], "ok");
    }

    #[test]
    fn git_is_needed_unless_nothing_is_a_repository() {
        let (_dir, root) = root_with("[repo]\npath = \"none\"\n");
        let report = with(None, |f| doctor(Some(&root), f));
        assert_eq!(level(&report, "end of a tree"), Level::Warn);
        assert_eq!(level(&report, "git"), Level::Ok);
        let report = with(Some((2, 37, 9)), |f| doctor(None, f));
        assert_eq!(
            (level(&report, "git"), report.exit_code()),
            (Level::Fail, 100)
        );
        assert_eq!(level(&report, "root"), Level::Warn);
    }

    #[test]
    fn a_bad_configuration_and_a_broken_tree_are_told_together() {
        let (_dir, root) = root_with("[harness]\nworkers = 0\n");
        atomic::discard_tree(&root.path().join("queue/parked"), "a test's own").expect("remove");
        drop(atomic::create(&root.path().join("queue/parked"), b"x", 0o600).expect("write"));
        let report = with(Some((2, 47, 3)), |f| doctor(Some(&root), f));
        assert_eq!(level(&report, "configuration"), Level::Fail);
        assert_eq!(level(&report, "tree"), Level::Fail);
        assert_eq!(report.exit_code(), 100);
        assert!(report.text().contains("line 2"), "{}", report.text());
    }

    #[test]
    fn agents_whose_program_is_missing_are_named() {
        let toml = "[harness]\nagent = \"a\"\n[agents.a]\ncommand = [\"sh\"]\n[agents.b]\ncommand = [\"no-such-program-7\"]\n[agents.c]\ncommand = [\"{{ROOT}}/no\"]\n\
                    [agents.claude]\nenv = { PATH = \"/nowhere\" }\n[agents.d]\ncli = \"codex\"\ncommand = [\"true\"]\n\
                    [agents.e]\ncli = \"codex\"\ncommand = [\"false\"]\n";
        let (_dir, root) = root_with(toml);
        let report = with(Some((2, 47, 3)), |f| doctor(Some(&root), f));
        assert_eq!(level(&report, "agent a"), Level::Ok);
        assert_eq!(level(&report, "agent b"), Level::Warn);
        assert_eq!(level(&report, "agent c"), Level::Warn);
        assert_eq!(level(&report, "agent claude"), Level::Warn);
        assert_eq!(level(&report, "agent d"), Level::Ok);
        assert_eq!(level(&report, "agent e"), Level::Warn);
        let text = report.text();
        assert!(
            text.contains("npm install -g @anthropic-ai/claude-code"),
            "{text}"
        );
        assert!(text.contains("1.2.3 (of a test)"), "{text}");
    }

    #[test]
    fn a_disk_that_is_fuller_than_asked_fails() {
        let (_dir, root) = root_with("[limits]\ndisk_free_min = \"4000TiB\"\n");
        let report = with(Some((2, 47, 3)), |f| doctor(Some(&root), f));
        assert_eq!(level(&report, "free disk"), Level::Fail);
    }
}
