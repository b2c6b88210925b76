//! Tests of the whole configuration: refusals and messages, the order of overrides, and that the
//! table of keys, the typed configuration and the template agree.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::{AGENT_VARIABLES, KEYS};
use super::*;
use crate::atomic;
use crate::limits::CONFIG_BYTES_MAX;

pub(super) struct Case {
    dir: tempfile::TempDir,
    env: BTreeMap<String, OsString>,
}

impl Case {
    pub(super) fn new(toml: impl AsRef<[u8]>) -> Case {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("harness.toml");
        drop(atomic::create(&path, toml.as_ref(), 0o600).expect("write"));
        Case {
            dir,
            env: BTreeMap::new(),
        }
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Case {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn load_over(&self, overrides: &Overrides) -> Result<Config> {
        Config::load_with(&Root::new(self.dir.path()), overrides, |n| {
            self.env.get(n).cloned()
        })
    }

    pub(super) fn load(&self) -> Config {
        self.load_over(&Overrides::default()).expect("loads")
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let err = self
            .load_over(&Overrides::default())
            .expect_err("is refused");
        let text = err.to_string();
        for part in parts {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
        assert_eq!(err.exit_code(), 100);
    }
}

fn source_of(config: &Config, key: &str) -> String {
    config.sources.entry(key).expect(key).source.to_string()
}

#[test]
fn a_gate_needs_no_more_tokens_than_go_with_one_start() {
    let tokens = |count: u32| {
        let names: Vec<String> = (0..count).map(|n| format!("t{n}")).collect();
        let counts: String = names.iter().map(|name| format!("{name} = 1\n")).collect();
        Case::new(format!(
            "[gates.a]\nscript = \"x\"\ntokens = {names:?}\n[tokens]\n{counts}"
        ))
    };
    assert_eq!(tokens(64).load().tokens.len(), 64);
    tokens(65).refused(&["line 3", "`tokens` in [gates.a]", "65", "at most 64"]);
}

#[test]
fn a_missing_file_is_all_defaults() {
    let dir = tempfile::tempdir().expect("temp dir");
    let config = Config::load_with(&Root::new(dir.path()), &Overrides::default(), |_| None);
    let config = config.expect("loads");
    assert_eq!(
        config.harness,
        HarnessTable {
            workers: 3,
            agent: None,
            timeout: Duration::from_secs(3600),
            kill_grace: Duration::from_secs(30),
            stagger: Duration::from_secs(5),
            durability: Durability::Full,
            writers: Writers::Owner,
            worktrees: None,
            iteration_delay: Duration::ZERO,
            stall: Duration::from_secs(300),
            linger: Duration::from_secs(120),
            notify: Vec::new(),
            notify_on: vec!["interrupt".into()],
            hook_timeout: Duration::from_secs(60),
            interrupt_on: ["permission", "timeout", "failures"]
                .map(String::from)
                .into(),
        }
    );
    assert_eq!(
        config.retry,
        RetryTable {
            max: 2,
            delay: Duration::from_secs(2),
            delay_max: Duration::from_secs(300),
            jitter: 0.2,
        }
    );
    assert_eq!(
        config.budget,
        BudgetTable {
            window: Duration::from_secs(5 * 3600),
            reserve_for_people: 0.2,
            ..BudgetTable::default()
        }
    );
    assert_eq!(config.limits.disk_free_min, 256_000_000);
    assert_eq!(
        config.repo,
        RepoTable {
            path: RepoPath::Auto,
            base: None,
            clean: Clean::KeepIgnored,
            copy: None,
            integrate: IntegrateTable::default(),
        }
    );
    assert!(config.repos.is_empty() && config.agents.is_empty());
    assert!(config.sources.0.iter().all(|e| e.source == Source::Default));
}

#[test]
fn a_full_file_is_typed() {
    let case = Case::new(
        r#"
        harness = { workers = 8, agent = "my.claude", durability = "off" }
        [repo]
        path = "sub/dir"
        clean = "all"
        [repos.web]
        path = "~/web"
        base = "develop"
        [repos.scratch]
        path = "none"
        [agents."my.claude"]
        command = ["claude", "-p", "--session-id={{SESSION_ID}}"]
        stdin = "none"
        bootstrap = true
        timeout = "10m"
        env.KEY = "v"
        [limits]
        disk_free_min = 0
        "#,
    )
    .env("HOME", "/home/u");
    let config = case.load();
    assert_eq!(config.harness.workers, 8);
    assert_eq!(config.harness.durability, Durability::Off);
    assert_eq!(
        config.repo.path,
        RepoPath::Path(case.dir.path().join("sub/dir"))
    );
    assert_eq!(config.repo.clean, Clean::All);
    assert_eq!(
        config.repos["web"].path,
        RepoPath::Path(PathBuf::from("/home/u/web"))
    );
    assert_eq!(config.repos["web"].base.as_deref(), Some("develop"));
    assert_eq!(config.repos["scratch"].path, RepoPath::None);
    let agent = &config.agents["my.claude"];
    assert_eq!(agent.command[2], "--session-id={{SESSION_ID}}");
    assert_eq!((agent.stdin, agent.bootstrap), (AgentStdin::None, true));
    assert_eq!(agent.timeout, Some(Duration::from_secs(600)));
    assert_eq!(agent.env["KEY"], "v");
    assert_eq!(config.limits.disk_free_min, 0);
    assert_eq!(
        source_of(&config, "agents.my.claude.timeout"),
        "harness.toml:15"
    );
    assert_eq!(
        source_of(&config, "agents.my.claude.env"),
        "harness.toml:16"
    );
    assert_eq!(source_of(&config, "harness.workers"), "harness.toml:2");
}

#[test]
fn a_known_cli_needs_no_table_and_a_table_needs_no_command() {
    let case = Case::new(
        r#"
        harness.agent = "codex"
        [agents.claude]
        settings = "s.json"
        config_dir = "~/c"
        max_turns = 0
        [agents.big]
        cli = "claude"
        command = ["npx", "claude"]
        model = "opus"
        budget_usd = 2.5
        tools = ["Bash", "mcp__x"]
        args = ["--add-dir", "{{ROOT}}"]
        bootstrap = false
        [agents.own]
        command = ["x"]
        "#,
    )
    .env("HOME", "/home/u");
    let config = case.load();
    let codex = &config.agents["codex"];
    assert_eq!(config.agent("codex"), Some(("codex", codex)));
    assert_eq!(
        (codex.cli.as_deref(), codex.events.as_str()),
        (Some("codex"), "codex")
    );
    assert_eq!((codex.max_turns, codex.budget_usd), (50, 10.0));
    assert!(!codex.subscription);
    assert!(codex.bootstrap && codex.given.is_empty() && codex.command.is_empty());
    assert_eq!(source_of(&config, "agents.codex.max_turns"), "default");
    let claude = &config.agents["claude"];
    assert_eq!(claude.cli.as_deref(), Some("claude"));
    assert_eq!(claude.settings, Some(case.dir.path().join("s.json")));
    assert_eq!(claude.config_dir, Some(PathBuf::from("/home/u/c")));
    assert_eq!((claude.max_turns, claude.budget_usd), (0, 10.0));
    assert_eq!(claude.given, ["max_turns", "settings", "config_dir"]);
    let big = &config.agents["big"];
    assert_eq!(
        (big.cli.as_deref(), big.events.as_str()),
        (Some("claude"), "claude")
    );
    assert_eq!((big.model.as_deref(), big.budget_usd), (Some("opus"), 2.5));
    assert_eq!(
        (big.command.len(), big.args.len(), big.tools.len()),
        (2, 2, 2)
    );
    assert!(!big.bootstrap);
    let own = &config.agents["own"];
    assert_eq!((own.cli.as_deref(), own.events.as_str()), (None, "none"));
    assert_eq!(
        (own.max_turns, own.budget_usd, own.bootstrap),
        (0, 0.0, false)
    );
    // Named by an item only: the same as with an empty table.
    let (name, gemini) = config.agent("gemini").expect("known");
    assert_eq!((name, gemini.cli.as_deref()), ("gemini", Some("gemini")));
    assert!(config.agent("other").is_none() && !config.agents.contains_key("gemini"));
}

#[test]
fn unknown_keys_are_refused_with_line_and_nearest() {
    Case::new("[harness]\n\nwrokers = 3\n").refused(&[
        "harness.toml",
        "line 3",
        "`wrokers`",
        "the nearest is `workers`",
    ]);
    Case::new("[retry]\nworkers = 3\n").refused(&["line 2", "belongs to [harness]"]);
    Case::new("[retry]\ncolour = 3\n")
        .refused(&["line 2", "known are: max, delay, delay_max, jitter"]);
    Case::new("# x\nworkers = 3\n").refused(&[
        "line 2",
        "outside of any table",
        "`workers` in [harness]",
    ]);
    Case::new("[agents.a]\ncommand = [\"a\"]\ncomand = 1").refused(&[
        "line 3",
        "[agents.a]",
        "`command`",
    ]);
    Case::new("[agent.a]\ncommand = [\"a\"]").refused(&[
        "line 1",
        "not known to this version",
        "[agents]",
    ]);
    Case::new("[money]\nx = 1").refused(&["line 1", "[money] is not known to this version"]);
    Case::new("[[source]]\nx = 1").refused(&["line 1", "`source`"]);
    Case::new("[harness]\n\"a\\nb\\u001b[31m\" = 1").refused(&["line 2", "`a\\nb\\u{1b}[31m`"]);
    Case::new(format!("[harness]\n{} = 1", "w".repeat(100_000))).refused(&["line 2", "…"]);
}

#[test]
fn several_problems_are_told_at_once_in_order() {
    let case = Case::new("[retry]\nmax = -1\nmox = 1\n[harness]\nworkers = 0\n");
    let text = case
        .load_over(&Overrides::default())
        .expect_err("refused")
        .to_string();
    let lines: Vec<usize> = ["line 2", "line 3", "line 5"]
        .iter()
        .filter_map(|l| text.find(l))
        .collect();
    assert!(lines.len() == 3 && lines.is_sorted(), "{text}");
}

#[test]
fn wrong_types_and_ranges_are_refused_with_line() {
    for (toml, parts) in [
        (
            "[harness]\nworkers = \"3\"",
            ["line 2", "whole number from 1 to 1024", "the text \"3\""],
        ),
        (
            "[harness]\nworkers = 1025",
            ["line 2", "from 1 to 1024", "not 1025"],
        ),
        (
            "[harness]\nworkers = 2.5",
            ["line 2", "whole number", "2.5"],
        ),
        (
            "[harness]\nworkers = 99999999999999999999",
            ["line 2", "whole number", "large"],
        ),
        ("[harness]\n\n\ntimeout = 0", ["line 4", "from 1s", "not 0"]),
        (
            "[harness]\ntimeout = \"soon\"",
            ["line 2", "1h30m", "\"soon\""],
        ),
        (
            "[harness]\ntimeout = 2026-01-01",
            ["line 2", "a time from", "a date"],
        ),
        (
            "[harness]\ndurability = \"on\"",
            ["line 2", "\"full\" or \"off\"", "\"on\""],
        ),
        ("[retry]\njitter = 1.5", ["line 2", "from 0 to 1", "1.5"]),
        (
            "[retry]\njitter = nan",
            ["line 2", "from 0 to 1", "not finite"],
        ),
        (
            "[limits]\ndisk_free_min = \"1M\"",
            ["line 2", "512MiB", "\"1M\""],
        ),
        ("[repo]\nbase = \"-x\"", ["line 2", "branch", "\"-x\""]),
        ("[repo]\npath = \"~x/y\"", ["line 2", "only `~/`", "./~x/y"]),
        (
            "[repos.web]\nbase = \"x\"",
            ["line 1", "[repos.web] needs `path`", "path = "],
        ),
        (
            "[repos]\nweb = 1",
            ["line 2", "[repos.web]", "must be a table"],
        ),
        (
            "[gates.a]\nscript = \"x\"\ntokens = [\"bild\"]\n[tokens]\nbuild = 2",
            ["line 3", "[gates.a]", "the nearest is `build`"],
        ),
        (
            "[tokens]\nbuild = 0",
            ["line 2", "`build` in [tokens]", "from 1"],
        ),
        ("harness = 1", ["line 1", "[harness]", "must be a table"]),
        (
            "[agents.a]\ncommand = \"claude -p\"",
            ["line 2", "list of strings", "claude -p"],
        ),
        (
            "[agents.a]\ncommand = []",
            ["line 2", "`command`", "a program"],
        ),
        (
            "[agents.a]\ncommand = [\"a\", 1]",
            ["line 2", "list of strings", "holds 1"],
        ),
        (
            "[agents.a]\ncommand = [\"a\",\n\"{{PROMPT}}\"]",
            ["line 2", "{{PROMPT}}", "placeholder"],
        ),
        (
            "[agents.a]\ncommand = [\"a\"]\nenv = { HARNESS_ROOT = \"x\" }",
            ["line 3", "HARNESS_ROOT", "every agent"],
        ),
        (
            "[agents.script]\ncommand = [\"a\"]",
            ["line 2", "[agents.script]", "a script runs by itself"],
        ),
        (
            "[repos.default]\npath = \"a\"",
            ["line 1", "[repos.default]", "[repo]"],
        ),
        (
            "[repos.\"../x\"]\npath = \"a\"",
            ["line 1", "../x", "does not begin with"],
        ),
        (
            "[harness]\nagent = \"cluade\"\n[agents.claude]\ncommand = [\"a\"]",
            ["line 2", "`cluade`", "nearest is `claude`"],
        ),
        (
            "[harness]\nagent = \"mine\"",
            ["line 2", "`mine`", "[agents.mine]"],
        ),
        (
            "[agents.mine]\nmodel = \"m\"",
            ["line 1", "[agents.mine] needs `cli`", "claude, codex"],
        ),
        (
            "[agents.mine]\ncommand = [\"a\"]\nmodel = \"m\"",
            ["line 3", "`model` in [agents.mine]", "needs `cli`"],
        ),
        (
            "[agents.claude]\nstdin = \"none\"",
            ["line 2", "`stdin` in [agents.claude]", "\"prompt\""],
        ),
        (
            "[agents.claude]\ncli = \"clod\"",
            ["line 2", "\"claude\" or \"codex\"", "\"clod\""],
        ),
        (
            "[agents.claude]\nbudget_usd = -1",
            ["line 2", "a number from 0 to", "not -1"],
        ),
        (
            "[agents.claude]\ntools = [\"-x\"]",
            ["line 2", "list of words", "\"-x\""],
        ),
        (
            "[agents.claude]\nargs = [\"{{MODEL}}\"]",
            ["line 2", "{{MODEL}}", "placeholder"],
        ),
        (
            "[agents.claude]\nmax_turn = 3",
            ["line 2", "`max_turn`", "nearest is `max_turns`"],
        ),
        (
            "[harness]\nworkers = 1\nworkers = 2",
            ["line 3", "`workers` in [harness]", "line 2"],
        ),
        ("[harness\n", ["line 1", "not TOML", "what to do"]),
    ] {
        Case::new(toml).refused(&parts);
    }
}

#[test]
fn files_that_are_not_text_are_refused() {
    Case::new(b"[harness]\n# \xff\n").refused(&["line 2", "byte 13", "UTF-8"]);
    Case::new(" ".repeat(CONFIG_BYTES_MAX as usize + 1)).refused(&["larger than 1048576"]);
    let nested = format!("x = {}", "[".repeat(50_000));
    Case::new(nested).refused(&["not TOML"]);

    let dir = tempfile::tempdir().expect("temp dir");
    let root = Root::new(dir.path());
    let load = || Config::load_with(&root, &Overrides::default(), |_| None);
    std::os::unix::fs::symlink("nowhere", root.config()).expect("symlink");
    assert!(
        load()
            .expect_err("refused")
            .to_string()
            .contains("points nowhere")
    );
    assert!(atomic::remove(&root.config()).expect("remove"));
    nix::unistd::mkfifo(&root.config(), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    assert!(
        load()
            .expect_err("refused")
            .to_string()
            .contains("not a regular file")
    );
}

#[test]
fn later_layers_go_over_earlier_ones() {
    let case = Case::new("[harness]\nworkers = 4\n[retry]\nmax = 1\n")
        .env("HARNESS_WORKERS", "5")
        .env("HARNESS_RETRY_MAX", "")
        .env("HARNESS_RETRY_JITTER", "0.5")
        .env("HARNESS_TIMEOUT", "10m")
        .env("HARNESS_REPO_PATH", "none")
        .env("HARNESS_LIMITS_DISK_FREE_MIN", "1GB");
    let config = case.load();
    assert_eq!((config.harness.workers, config.retry.max), (5, 1));
    assert_eq!(config.harness.timeout, Duration::from_secs(600));
    assert_eq!(config.repo.path, RepoPath::None);
    assert_eq!(config.limits.disk_free_min, 1_000_000_000);
    assert_eq!(
        source_of(&config, "harness.workers"),
        "environment HARNESS_WORKERS"
    );
    assert_eq!(source_of(&config, "retry.max"), "harness.toml:4");
    assert_eq!(
        source_of(&config, "retry.jitter"),
        "environment HARNESS_RETRY_JITTER"
    );

    let over = Overrides { workers: Some(7) };
    let config = case.load_over(&over).expect("loads");
    assert_eq!(config.harness.workers, 7);
    assert_eq!(source_of(&config, "harness.workers"), "command line");
    let err = case
        .load_over(&Overrides { workers: Some(0) })
        .expect_err("refused");
    assert_eq!(err.exit_code(), 2);
}

#[test]
fn wrong_variables_are_refused_by_name() {
    Case::new("").env("HARNESS_WORKERS", "many").refused(&[
        "HARNESS_WORKERS",
        "1 to 1024",
        "\"many\"",
    ]);
    Case::new("")
        .env("HARNESS_WORKERS", OsString::from_vec(vec![0xff]))
        .refused(&["HARNESS_WORKERS", "UTF-8"]);
    Case::new("").env("HARNESS_REPO_PATH", "~/x").refused(&[
        "repo.path",
        "HARNESS_REPO_PATH",
        "HOME",
    ]);
}

#[test]
fn what_agents_find_in_their_environment_is_no_configuration() {
    let variables: Vec<String> = KEYS.iter().filter_map(Key::variable).collect();
    for name in AGENT_VARIABLES {
        assert!(!variables.iter().any(|v| v == name), "{name}");
    }
    let distinct: std::collections::BTreeSet<&String> = variables.iter().collect();
    assert_eq!(distinct.len(), variables.len());
    let mut case = Case::new("");
    for name in AGENT_VARIABLES {
        case = case.env(name, "agent-1");
    }
    assert!(
        case.load()
            .sources
            .0
            .iter()
            .all(|e| e.source == Source::Default)
    );
}

#[test]
fn a_byte_order_mark_and_carriage_returns_do_no_harm() {
    let config = Case::new("\u{feff}[harness]\r\nworkers = 4\r\n").load();
    assert_eq!(config.harness.workers, 4);
    assert_eq!(source_of(&config, "harness.workers"), "harness.toml:2");
}

mod hostile {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
            let _any = super::file::parse(&text);
        }

        #[test]
        fn no_text_makes_a_value_panic(text in "[0-9.a-zA-Z +-]{0,12}") {
            let _any = super::value::bytes_from_str(&text);
            let _any = super::value::duration_from_str(&text);
        }
    }
}
