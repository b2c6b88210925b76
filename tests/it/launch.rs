//! Agents whose command line harness makes itself (`cli = "claude"`, …): what reaches the CLI, as
//! the mock agent saw it, which refuses what the real ones refuse.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Root, describe, git};

/// What the mock plays.
pub const VOICES: [&str; 4] = ["claude", "codex", "gemini", "opencode"];

/// A ROOT with `[agents.CLI]` for each voice, played by the mock. `more` goes into every table.
pub fn root_for_all(more: &str) -> Root {
    let root = Root::with_repo();
    let mut text = "[repo]\npath = \"repo\"\n".to_owned();
    for cli in VOICES {
        text.push_str(&table(&root, cli, more));
    }
    root.config(&text);
    root
}

/// `[agents.CLI]`, played by the mock, with `more` in it.
pub fn table(root: &Root, cli: &str, more: &str) -> String {
    let mock = env!("CARGO_BIN_EXE_mock-agent");
    let home = root.at("mock-home");
    format!(
        "[agents.{cli}]\ncli = {cli:?}\ncommand = [{mock:?}, {cli:?}]\n{more}\n[agents.{cli}.env]\nMOCK_HOME = {home:?}\nGEMINI_API_KEY = \"made-up\"\nFROM_TABLE = \"table\"\nFROM_ITEM = \"table\"\n"
    )
}

/// session.json of an item's attempt, counted from 0.
pub fn session(root: &Root, name: &str, attempt: usize) -> Value {
    let show = root.show(name);
    let sid = show["attempts"][attempt]["session"].as_str();
    let sid = sid.unwrap_or_else(|| panic!("{show:#}\n{}", root.picture()));
    let path = root.at("state/sessions").join(sid).join("session.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// What the mock wrote down of how it was called, in the attempt that ended the item.
fn dump(root: &Root, name: &str) -> Value {
    let show = root.show(name);
    let branch = show["branch"]
        .as_str()
        .unwrap_or_else(|| panic!("{show:#}"));
    let text = git(&root.repo(), &["show", &format!("{branch}:mock-dump.json")]);
    serde_json::from_str(&text).unwrap()
}

fn args(dump: &Value) -> Vec<&str> {
    let argv = dump["argv"].as_array().unwrap();
    argv.iter().map(|a| a.as_str().unwrap()).collect()
}

/// The argument behind a flag.
fn flag<'a>(dump: &'a Value, flag: &str) -> Option<&'a str> {
    let args = args(dump);
    let at = args.iter().position(|a| *a == flag)?;
    args.get(at + 1).copied()
}

/// `harness run --drain` as started from within an agent's session.
fn drain_inside_a_session(root: &Root) {
    let mut command = root.command();
    command
        .args(["run", "--drain", "--workers", "4"])
        .env("CLAUDECODE", "1")
        .env("CLAUDE_CODE_SESSION_ID", "outer")
        .env("CODEX_SANDBOX", "seatbelt")
        .env("ANTHROPIC_API_KEY", "key");
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{}\n{}",
        describe(&out),
        root.picture()
    );
}

#[test]
fn every_cli_gets_its_words_its_prompt_whole_and_no_trace_of_an_outer_session() {
    let root = root_for_all("");
    let long = "A long word. ".repeat(75_000);
    for cli in VOICES {
        let text = format!(
            "---\nagent: {cli}\nenv: {{FROM_ITEM: item}}\n---\n/cost {long}\n[[mock:dump]]\n"
        );
        root.drop_file(format!("{cli}.md"), text.as_bytes(), 0o644);
    }
    drain_inside_a_session(&root);
    for cli in VOICES {
        let name = format!("{cli}.md");
        let (seen, file) = (dump(&root, &name), session(&root, &name, 0));
        let prompt = seen["prompt"].as_str().unwrap();
        let item = format!("/cost {long}\n[[mock:dump]]\n");
        assert!(prompt.ends_with(&item), "{cli}: {} bytes", prompt.len());
        assert_ne!(prompt, item, "{cli}: it would be taken for a command");
        // What it is told first, with everything filled in.
        let sid = file["session"].as_str().unwrap();
        let told = match flag(&seen, "--append-system-prompt-file") {
            Some(path) => {
                assert!(path.ends_with(&format!("state/sessions/{sid}/bootstrap.md")));
                fs::read_to_string(path).unwrap()
            }
            None => prompt.to_owned(),
        };
        assert_eq!(cli == "claude", told != prompt, "{cli}");
        for part in [
            sid,
            &name,
            "harness/",
            file["slot"].as_str().unwrap(),
            "/interrupt",
        ] {
            assert!(told.contains(part), "{cli}: no {part} in {told}");
        }
        assert!(
            !told.contains("{{"),
            "{cli}: {}",
            &told[..900.min(told.len())]
        );
        if let Some(id) = flag(&seen, "--session-id") {
            assert_eq!(id, sid, "{cli}");
            assert_eq!(file["cli_session"], sid);
        }
        // Without a person, and without a terminal.
        assert!(seen["fds"][0].as_str().unwrap().ends_with("prompt.md"));
        let env = &seen["env"];
        for gone in ["CLAUDECODE", "CLAUDE_CODE_SESSION_ID", "CODEX_SANDBOX"] {
            assert!(env[gone].is_null(), "{cli}: {gone}");
        }
        assert_eq!(env["ANTHROPIC_API_KEY"], "key");
        assert_eq!(
            (&env["FROM_TABLE"], &env["FROM_ITEM"]),
            (&"table".into(), &"item".into())
        );
        assert_eq!(env["HARNESS_SESSION"], sid);
        // The limits of old, on record; not worth a word where nobody asked for them.
        assert_eq!(file["max_turns"], 50, "{cli}");
        assert_eq!(file["budget_usd"], 10.0, "{cli}");
        assert_eq!(file["notes"].as_array().map(Vec::len), Some(0), "{file:#}");
        assert_eq!(file["events"], cli);
    }
    let claude = dump(&root, "claude.md");
    assert_eq!(flag(&claude, "--max-turns"), Some("50"));
    assert_eq!(flag(&claude, "--max-budget-usd"), Some("10"));
    let tools = Some("Bash,Edit,Write,Read,Glob,Grep");
    assert_eq!(flag(&claude, "--allowedTools"), tools);
    root.assert_nothing_left();
}

#[test]
fn what_a_table_and_an_item_ask_for_reaches_the_cli_or_is_said_to_have_no_means() {
    let root = root_for_all(
        "model = \"m-1\"\nmax_turns = 7\nbudget_usd = 2.5\ntools = [\"Bash\", \"Write\"]\nargs = [\"-m\", \"{{RIG}}-{{ITERATION}}\"]\nbootstrap = false\n",
    );
    // claude knows no -m; a settings file and a permission mode are its own.
    let settings = root.at("claude.json");
    fs::write(&settings, "{}").unwrap();
    let more = "model = \"m-1\"\nmax_turns = 7\nbudget_usd = 2.5\ntools = [\"Bash\", \"Write\"]\nsettings = \"claude.json\"\nconfig_dir = \"conf\"\npermission_mode = \"plan\"\nargs = [\"--max-turns\", \"6\"]\n";
    let text = fs::read_to_string(root.at("harness.toml")).unwrap();
    let (before, rest) = text.split_once("[agents.claude]").unwrap();
    let (_, rest) = rest.split_once("[agents.codex]").unwrap();
    let claude = table(&root, "claude", more);
    fs::write(
        root.at("harness.toml"),
        format!("{before}{claude}[agents.codex]{rest}"),
    )
    .unwrap();
    for cli in VOICES {
        let text = format!("---\nagent: {cli}\nbudget_usd: 0.5\n---\n[[mock:dump]]\n");
        root.drop_file(format!("{cli}.md"), text.as_bytes(), 0o644);
    }
    root.drain();
    let said = |cli: &str| {
        let file = session(&root, &format!("{cli}.md"), 0);
        assert_eq!(
            (&file["max_turns"], &file["budget_usd"], &file["model"]),
            (&7.into(), &0.5.into(), &"m-1".into()),
            "{cli}"
        );
        let notes = file["notes"].as_array().unwrap();
        notes
            .iter()
            .map(|n| n.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let seen = dump(&root, "claude.md");
    for (name, value) in [
        ("--model", "m-1"),
        ("--max-turns", "7"),
        ("--max-budget-usd", "0.5"),
        ("--allowedTools", "Bash,Write"),
        ("--permission-mode", "plan"),
        (
            "--settings",
            settings.canonicalize().unwrap().to_str().unwrap(),
        ),
    ] {
        let given = flag(&seen, name).map(|v| v.replace(root.path().to_str().unwrap(), ""));
        let value = value.replace(root.path().canonicalize().unwrap().to_str().unwrap(), "");
        assert_eq!(given, Some(value), "{name}");
    }
    assert!(
        args(&seen).ends_with(&["--max-turns", "6"]),
        "args come last"
    );
    assert!(flag(&seen, "--append-system-prompt-file").is_some());
    let conf = seen["env"]["CLAUDE_CONFIG_DIR"].as_str().unwrap();
    assert!(conf.starts_with('/') && conf.ends_with("/conf"), "{conf}");
    assert!(said("claude").is_empty());
    for cli in ["codex", "gemini", "opencode"] {
        let seen = dump(&root, &format!("{cli}.md"));
        let last = args(&seen).iter().rposition(|a| *a == "-m").unwrap();
        assert_eq!(args(&seen)[last + 1], "repo-1", "{cli}: {:?}", args(&seen));
        let prompt = seen["prompt"].as_str().unwrap();
        assert!(!prompt.contains("working unattended"), "{cli}: {prompt}");
        let notes = said(cli);
        // Turns are counted by harness itself, and money where the CLI tells of it.
        let blind = usize::from(cli != "opencode");
        for (key, said) in [("max_turns", 0), ("budget_usd", blind), ("tools", 1)] {
            let about = |n: &&String| n.contains(cli) && n.contains(&format!("`{key}`"));
            assert_eq!(
                notes.iter().filter(about).count(),
                said,
                "{cli} {key}: {notes:?}"
            );
        }
    }
}

/// `claude` in a folder of its own for PATH.
fn on_path(root: &Root) -> String {
    let bin = root.at("bin");
    fs::create_dir_all(&bin).unwrap();
    let mock = env!("CARGO_BIN_EXE_mock-agent");
    let script = format!("#!/bin/sh\nexec {mock} claude \"$@\"\n");
    fs::write(bin.join("claude"), script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bin.join("claude"), mode).unwrap();
    bin.to_string_lossy().into_owned()
}

fn with_path(root: &Root, args: &[&str]) -> Command {
    let mut command = root.command();
    command.args(args);
    command.env("PATH", format!("{}:/usr/bin:/bin", on_path(root)));
    command
}

#[test]
fn a_known_cli_needs_no_table_and_one_that_is_missing_says_how_to_get_it() {
    let root = Root::with_repo();
    root.config("agent = \"claude\"\n[repo]\npath = \"repo\"\n");
    root.drop_file("plain.md", b"[[mock:success file=a]]\n", 0o644);
    let named = b"---\nagent: qwen\n---\n[[mock:success file=b]]\n";
    root.drop_file("named.md", named, 0o644);
    root.drop_file("typo.md", b"---\nagent: cluade\n---\nx\n", 0o644);
    let out = with_path(&root, &["run", "--drain"]).output().unwrap();
    assert_eq!(out.status.code(), Some(111), "{}", describe(&out));
    assert_eq!(
        root.show("plain.md")["outcome"],
        "succeeded",
        "{}",
        root.picture()
    );
    assert!(!root.is_parked("named.md") && root.is_parked("typo.md"));
    let why = describe(&out);
    assert!(why.contains("npm install -g @qwen-code/qwen-code"), "{why}");
    assert!(root.events("named.md").is_empty(), "it was never started");
    let why = root.show("typo.md");
    let why = why["reason"].as_str().unwrap();
    assert!(why.contains("`cluade`") && why.contains("claude"), "{why}");
    // The same in `doctor` and `config`.
    let out = with_path(&root, &["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|c| c["what"] == "agent claude").unwrap();
    let found = check["why"].as_str().unwrap();
    assert!(
        found.contains("/bin/claude") && found.contains("2.1.330"),
        "{found}"
    );
    let config: Value = serde_json::from_str(&root.ok(&["config", "--json"])).unwrap();
    assert_eq!(config["agents.claude.cli"]["value"], "claude");
    assert_eq!(config["agents.claude.max_turns"]["value"], 50);
    root.assert_nothing_left();
}
