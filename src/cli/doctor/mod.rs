//! `harness doctor`: checks this machine and file system, and says how to fix what is missing.
//!
//! `CHECKS` is the table of checks: each examines a `Subject` and returns a `Finding`. Invariants:
//! a finding that is not Ok says what to do; probes remove what they make; nothing else in ROOT is
//! changed, except that missing directories are made.

mod agents;
mod confined;
mod disk;
mod hooks;
mod host;
mod logins;
mod machine;
mod probe;
mod shared;
mod start;
mod version;

use schemars::JsonSchema;
use serde::Serialize;

use super::{find, init, owners};
use crate::config::{Config, Overrides, RepoPath, Source};
use crate::error::{Error, Result};
use crate::git;
use crate::layout::{Root, shown};
use crate::text::count_of;
pub(super) use agents::installed;
use probe::Bench;
pub(super) use start::{at_start, one_login};

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Ok,
    /// A guarantee is weaker here, or a resource is running out.
    Warn,
    /// A guarantee does not hold here.
    Fail,
}

/// One check's result and explanation.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Finding {
    /// Whether it is good.
    state: State,
    /// What was found.
    why: String,
    /// Always set unless the state is Ok.
    what_to_do: Option<String>,
}

fn ok(why: impl Into<String>) -> Finding {
    Finding {
        state: State::Ok,
        why: why.into(),
        what_to_do: None,
    }
}

fn warn(why: impl Into<String>, what_to_do: impl Into<String>) -> Finding {
    Finding {
        state: State::Warn,
        why: why.into(),
        what_to_do: Some(what_to_do.into()),
    }
}

fn fail(why: impl Into<String>, what_to_do: impl Into<String>) -> Finding {
    Finding {
        state: State::Fail,
        ..warn(why, what_to_do)
    }
}

/// What is checked.
struct Subject<'a> {
    root: Option<&'a Root>,
    /// Why the ROOT that was looked for is not used.
    unused: Option<&'a Error>,
    config: Option<Result<Config>>,
    /// Whether the directory tree exists or could be made.
    tree: Option<Result<()>>,
    /// The directory for probes; only with a tree.
    bench: Option<Result<Bench>>,
}

impl<'a> Subject<'a> {
    fn of(found: std::result::Result<&'a Root, &'a Error>) -> Subject<'a> {
        let root = found.ok();
        let tree = root.map(init::ensure_tree);
        Subject {
            root,
            unused: found.err(),
            config: root.map(|root| Config::load(root, &Overrides::default())),
            bench: root
                .filter(|_| matches!(tree, Some(Ok(()))))
                .map(Bench::open),
            tree,
        }
    }

    fn config(&self) -> Option<&Config> {
        self.config.as_ref()?.as_ref().ok()
    }

    /// ROOT, if its directories exist.
    fn tree(&self) -> Option<&'a Root> {
        self.tree.as_ref()?.as_ref().ok().and(self.root)
    }

    fn is_durable(&self) -> bool {
        let durability = self.config().map(|c| c.harness.durability);
        durability != Some(crate::config::Durability::Off)
    }

    fn workers(&self) -> u64 {
        self.config().map_or(3, |c| c.harness.workers as u64)
    }
}

/// `None`: the check does not apply here.
type Look = fn(&Subject<'_>) -> Option<Finding>;

static CHECKS: &[(&str, Look)] = &[
    ("root", root),
    ("configuration", configuration),
    ("owners", owners_of),
    ("git", |s| Some(git(git::version(), s.config()))),
    ("inotify limits", |s| Some(host::inotify(s.workers()))),
    ("open files", |s| Some(host::open_files(s.workers()))),
    ("/proc", |_| Some(host::proc())),
    ("end of a tree", |_| Some(host::end_of_a_tree())),
    ("sandbox", |s| confined::strength(s.config())),
    ("limits", |s| machine::limits(s.config())),
    ("memory pressure", |s| machine::pressure(s.config())),
    ("one login", |s| logins::shared(s.tree()?, s.config()?)),
    ("clock", |_| Some(host::clock())),
    ("engine", |_| host::job()),
    ("agent programs", |_| Some(agents::on_this_machine())),
    ("tree", tree),
    ("path", |s| Some(disk::path_length(s.tree()?.path()))),
    ("file system", |s| {
        Some(disk::kind(s.tree()?, s.is_durable()))
    }),
    ("pending files", |s| no_items(s.tree()?)),
    ("hooks", |s| Some(hooks::installed(s.tree()?))),
    ("one device", |s| Some(disk::one_device(s.tree()?))),
    ("journal", |s| disk::journal(s.tree()?, s.is_durable())),
    ("noexec", |s| disk::no_exec(s.tree()?)),
    ("free disk", |s| Some(disk::space(s.tree()?, s.config()))),
    ("inodes", |s| disk::inodes(s.tree()?)),
    ("probes", probe::bench),
    ("rename", |s| probe::try_on(s, probe::rename)),
    ("hard link", |s| probe::try_on(s, probe::hard_link)),
    ("flock", |s| probe::try_on(s, probe::flock)),
    ("flock of hosts", |s| shared::locks_between_hosts(s.tree()?)),
    ("append", |s| probe::try_on(s, probe::append)),
    ("not before", |s| probe::try_on(s, probe::not_before)),
    ("file clock", |s| probe::try_on(s, probe::file_clock)),
    ("read lease", |s| probe::try_on(s, probe::read_lease)),
    ("events", |s| probe::try_on(s, probe::events)),
    ("events of hosts", |s| {
        shared::events_between_hosts(s.tree()?)
    }),
    ("socket", |s| probe::try_on(s, probe::socket)),
];

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Check {
    /// What was examined.
    what: String,
    #[serde(flatten)]
    finding: Finding,
}

/// What of harness's promises this machine and file system keep.
#[derive(Serialize, JsonSchema)]
pub(super) struct Examined<'r> {
    /// Nothing failed.
    ok: bool,
    /// All of them, in order.
    checks: &'r [Check],
}

/// The results of all checks, in order.
#[derive(Debug)]
pub(super) struct Report(Vec<Check>);

/// Checks the machine, and ROOT if there is one. Never returns an error: what cannot be examined is
/// a failed check.
pub(super) fn doctor(found: std::result::Result<&Root, &Error>) -> Report {
    let root = found.ok();
    let subject = Subject::of(found);
    let check = |what: &str, finding: Finding| Check {
        what: what.to_owned(),
        finding,
    };
    let run = |(what, look): &(&str, Look)| Some(check(what, look(&subject)?));
    let mut checks: Vec<Check> = CHECKS.iter().filter_map(run).collect();
    if let (Some(root), Some(config)) = (root, subject.config()) {
        for (name, table) in &config.agents {
            let finding = agents::configured(root, name, table);
            checks.push(check(&format!("agent {name}"), finding));
        }
        for (name, table) in &config.gates {
            checks.push(check(&format!("gate {name}"), agents::of_gate(name, table)));
        }
    }
    Report(checks)
}

/// Files in `pending/` that are taken for no items. `None`: there are none.
fn no_items(root: &Root) -> Option<Finding> {
    let ignored = find::ignored(root).into_iter();
    let ignored: Vec<String> = ignored
        .map(|(name, why)| format!("{name}: {why}"))
        .collect();
    (!ignored.is_empty()).then(|| {
        warn(
            format!("in queue/pending/, but no items: {}", ignored.join("; ")),
            "give them other names if they are items; else remove what nobody needs",
        )
    })
}

fn root(s: &Subject<'_>) -> Option<Finding> {
    Some(match s.root {
        Some(root) => ok(shown(root.path().as_os_str())),
        None => warn(
            s.unused.map_or_else(String::new, ToString::to_string),
            "until then only the machine is looked at",
        ),
    })
}

fn owners_of(s: &Subject<'_>) -> Option<Finding> {
    let root = s.root?;
    if let Some(stranger) = owners::stranger(root) {
        let path = shown(stranger.path().as_os_str());
        return Some(warn(
            format!("{path}: {}", stranger.why()),
            "nothing if you trust them; else make a ROOT of your own: `harness init DIR`",
        ));
    }
    Some(match owners::look(root, s.config()?) {
        Ok(None) => ok("only you can have something run here"),
        Ok(Some(e)) => warn(e.to_string(), "as said, unless that group is meant to"),
        Err(e) => fail(e.to_string(), "as said: `harness run` refuses it"),
    })
}

fn configuration(s: &Subject<'_>) -> Option<Finding> {
    let config = match s.config.as_ref()? {
        Ok(config) => config,
        Err(e) => {
            let what_to_do = "correct harness.toml: nothing runs before";
            return Some(fail(e.to_string(), what_to_do));
        }
    };
    let set = config
        .sources
        .0
        .iter()
        .filter(|e| e.source != Source::Default);
    let found = format!(
        "{} set, {}",
        count_of(set.count() as u64, "key"),
        count_of(config.agents.len() as u64, "agent")
    );
    if config.harness.agent.is_some() || config.agents.is_empty() {
        return Some(ok(found));
    }
    let names: Vec<&str> = config.agents.keys().map(String::as_str).collect();
    Some(warn(
        format!("{found}, none of them chosen for prompts that name no agent"),
        format!("set `agent` in [harness] to one of: {}", names.join(", ")),
    ))
}

fn git(version: Result<(u32, u32, u32)>, config: Option<&Config>) -> Finding {
    let is_needed = config.is_none_or(|c| {
        let mut repos = std::iter::once(&c.repo).chain(c.repos.values());
        repos.any(|r| r.path != RepoPath::None)
    });
    match version {
        Ok((a, b, c)) => ok(format!("{a}.{b}.{c}")),
        Err(e) if !is_needed => ok(format!("{e}; not needed here")),
        Err(e) => {
            let (a, b, _) = git::MIN_VERSION;
            let what_to_do = format!(
                "install git {a}.{b} or newer, or set `path = \"none\"` in [repo] to work without git"
            );
            fail(e.to_string(), what_to_do)
        }
    }
}

fn tree(s: &Subject<'_>) -> Option<Finding> {
    let e = s.tree.as_ref()?.as_ref().err()?;
    Some(fail(
        e.to_string(),
        "move aside what stands in the way, or correct owner and mode, then run `harness init`",
    ))
}

impl Report {
    /// 0 if nothing failed, else 100.
    pub(super) fn exit_code(&self) -> u8 {
        if self.count(State::Fail) > 0 { 100 } else { 0 }
    }

    fn count(&self, state: State) -> usize {
        let states = self.0.iter().map(|c| c.finding.state);
        states.filter(|s| *s == state).count()
    }

    /// Aligned lines, each finding followed by what to do, and a summary line.
    pub(super) fn text(&self) -> String {
        let width = self.0.iter().map(|c| c.what.len()).max().unwrap_or(0);
        let indent = " ".repeat(width + 8);
        let indented = |text: &str| text.replace('\n', &format!("\n{indent}"));
        let mut out = String::new();
        for Check { what, finding } in &self.0 {
            let state = match finding.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Fail => "FAIL",
            };
            out += &format!("{state:4}  {what:width$}  {}\n", indented(&finding.why));
            if let Some(what_to_do) = &finding.what_to_do {
                out += &format!("{indent}what to do: {}\n", indented(what_to_do));
            }
        }
        out + &match (self.count(State::Fail), self.count(State::Warn)) {
            (0, 0) => "all promises hold here\n".to_owned(),
            (0, warned) => format!("nothing failed; {warned} to look at\n"),
            (failed, warned) => format!("{failed} failed; {warned} more to look at\n"),
        }
    }

    pub(super) fn told(&self) -> Examined<'_> {
        Examined {
            ok: self.count(State::Fail) == 0,
            checks: &self.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic;

    fn state(report: &Report, what: &str) -> State {
        let check = report.0.iter().find(|c| c.what == what);
        let check = check.unwrap_or_else(|| panic!("no {what} in:\n{}", report.text()));
        check.finding.state
    }

    fn examined(toml: &str, change: impl FnOnce(&Root)) -> Report {
        crate::sys::ignore_lease_breaks().expect("signals");
        let dir = tempfile::tempdir().expect("temp dir");
        let root = init::init(dir.path(), toml).expect("init").root;
        change(&root);
        let list = || -> Vec<_> {
            let all = walkdir::WalkDir::new(root.path()).sort_by_file_name();
            let path = |e: walkdir::Result<walkdir::DirEntry>| Some(e.ok()?.into_path());
            all.into_iter().filter_map(path).collect()
        };
        let before = list();
        let report = doctor(Ok(&root));
        assert_eq!(before, list(), "doctor left something behind");
        report
    }

    #[test]
    fn a_local_directory_passes_every_probe_and_is_left_as_it_was() {
        let report = examined("", |_| {});
        for what in [
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
            assert_eq!(state(&report, what), State::Ok, "{}", report.text());
        }
        for Check { finding, .. } in &report.0 {
            let is_ok = finding.state == State::Ok;
            assert_eq!(is_ok, finding.what_to_do.is_none(), "{finding:?}");
        }
        let json = serde_json::json!(report.told());
        let checks = json["checks"].as_array().map(Vec::len);
        assert_eq!(checks, Some(report.0.len()));
        assert_eq!(json["checks"][0]["state"], "ok");
    }

    #[test]
    fn git_is_needed_unless_nothing_is_a_repository() {
        let old = || Err(Error::permanent("git is too old", "2.37.9"));
        let dir = tempfile::tempdir().expect("temp dir");
        let toml = "[repo]\npath = \"none\"\n";
        let root = init::init(dir.path(), toml).expect("init").root;
        let config = Config::load(&root, &Overrides::default()).expect("loads");
        assert_eq!(git(old(), Some(&config)).state, State::Ok);
        assert_eq!(git(old(), None).state, State::Fail);
        assert_eq!(git(Ok((2, 47, 3)), None).state, State::Ok);
        let none = Error::permanent("not in a ROOT", "there is none");
        assert_eq!(state(&doctor(Err(&none)), "root"), State::Warn);
    }

    #[test]
    fn a_bad_configuration_and_a_broken_tree_are_told_together() {
        let report = examined("[harness]\nworkers = 0\n", |root| {
            let parked = root.path().join("queue/parked");
            atomic::discard_tree(&parked, "a test's own").expect("remove");
            drop(atomic::create(&parked, b"x", 0o600).expect("write"));
        });
        assert_eq!(state(&report, "configuration"), State::Fail);
        assert_eq!(state(&report, "tree"), State::Fail);
        assert_eq!(report.exit_code(), 100);
        assert!(report.text().contains("line 2"), "{}", report.text());
    }

    #[test]
    fn agents_and_gates_whose_program_is_missing_are_named() {
        let toml = "[harness]\nagent = \"a\"\n[agents.a]\ncommand = [\"sh\"]\n[agents.b]\ncommand = [\"no-such-program-7\"]\n[agents.c]\ncommand = [\"{{ROOT}}/no\"]\n\
                    [agents.claude]\nenv = { PATH = \"/nowhere\" }\n[agents.d]\ncli = \"codex\"\ncommand = [\"true\"]\n\
                    [agents.e]\ncli = \"codex\"\ncommand = [\"false\"]\n\
                    [gates.f]\ncommand = [\"no-such-program-8\"]\n[gates.g]\nscript = \"true\"\n[gates.h]\ncommand = [\"./check\"]\n";
        let report = examined(toml, |_| {});
        for (agent, want) in [
            ("agent a", State::Ok),
            ("agent b", State::Warn),
            ("agent c", State::Warn),
            ("agent claude", State::Warn),
            ("agent d", State::Ok),
            ("agent e", State::Warn),
            ("gate f", State::Warn),
            ("gate g", State::Ok),
            ("gate h", State::Ok),
        ] {
            assert_eq!(state(&report, agent), want, "{agent}:\n{}", report.text());
        }
        let text = report.text();
        let install = "npm install -g @anthropic-ai/claude-code";
        assert!(text.contains(install), "{text}");
    }

    #[test]
    fn a_disk_that_is_fuller_than_asked_fails() {
        let report = examined("[limits]\ndisk_free_min = \"4000TiB\"\n", |_| {});
        assert_eq!(state(&report, "free disk"), State::Fail);
    }
}
