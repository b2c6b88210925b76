//! The real CLIs through the real `harness`, against a scripted model on loopback: no key, no
//! network. They are looked for in `$HARNESS_TEST_CLIS` (made by tests/kit/install-clis.sh), then in
//! PATH. What is not there is skipped, loudly; `HARNESS_TEST_CLIS_REQUIRED=claude,codex` makes the
//! absence of those a failure, so that nobody's CI skips them for ever.

mod faults;
mod paid;
mod question;
mod setup;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output};

use serde_json::Value;
use setup::{Cli, configure, ready};

use crate::support::{Root, Running, describe, git};

/// Drops a prompt that has the model play this script.
fn ask(root: &Root, name: &str, script: &str) {
    let prompt = format!("Work on this, please.\n\n[[fake:{script}]]\n");
    root.drop_file(name, prompt.as_bytes(), 0o644);
}

/// `harness run` as started from a shell in the user's repository: the shell's PWD is inherited, and
/// some CLIs believe it more than their real directory. An agent that works there instead of in
/// its worktree is found by what it leaves in `repo/`.
fn run(root: &Root, args: &[&str]) -> Command {
    let mut command = root.command();
    command.arg("run").args(args);
    command.current_dir(root.repo()).env("PWD", root.repo());
    command
}

fn drain(root: &Root, workers: &str) -> Output {
    let args = ["--drain", "--workers", workers];
    run(root, &args).output().unwrap()
}

fn start(root: &Root, args: &[&str], log: &str) -> Running {
    let log = root.at(log);
    let file = fs::File::create(&log).unwrap();
    let mut command = run(root, args);
    command.stdout(file.try_clone().unwrap()).stderr(file);
    Running {
        child: command.spawn().unwrap(),
        log,
    }
}

/// What the session of an item's only attempt wrote to standard output.
fn stream(root: &Root, name: &str) -> Vec<Value> {
    let show = root.show(name);
    assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show:#}");
    let sid = show["attempts"][0]["session"].as_str().unwrap();
    let text = fs::read_to_string(root.at(format!("state/sessions/{sid}/stdout.log"))).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).expect("each line is JSON"))
        .collect()
}

/// Tokens in and out as the CLI itself reports them.
fn reported(cli: Cli, events: &[Value]) -> (u64, u64) {
    let n = |v: &Value| v.as_u64().unwrap_or(0);
    let last = events.last().unwrap();
    match cli {
        Cli::Claude | Cli::ClaudeOlder | Cli::Codex => (
            n(&last["usage"]["input_tokens"]),
            n(&last["usage"]["output_tokens"]),
        ),
        Cli::Gemini => (
            n(&last["stats"]["input_tokens"]),
            n(&last["stats"]["output_tokens"]),
        ),
        Cli::OpenCode => {
            let steps = events.iter().filter(|e| e["type"] == "step_finish");
            steps.fold((0, 0), |sum, e| {
                let tokens = &e["part"]["tokens"];
                (sum.0 + n(&tokens["input"]), sum.1 + n(&tokens["output"]))
            })
        }
    }
}

/// One item: the CLI edits and commits in its worktree, the branch has it, main is as it was, and
/// its own figures are what the model served.
fn one_item(cli: Cli) {
    let Some((program, model)) = ready(cli) else {
        return;
    };
    let root = Root::with_repo();
    configure(&root, cli, &program, &model);
    let before = git(&root.repo(), &["rev-parse", "main"]);
    ask(&root, "one.md", "edit file=one.txt");
    drain(&root, "1");
    let repo = root.repo();
    assert_eq!(git(&repo, &["rev-parse", "main"]), before);
    assert_eq!(git(&repo, &["status", "--porcelain"]), "");
    let show = root.show("one.md");
    assert_eq!(
        (&show["state"], &show["outcome"]),
        (&"done".into(), &"succeeded".into()),
        "{show:#}\n{}",
        root.picture()
    );
    assert!(root.is_done("one.md"));
    let branch = "harness/one.md/1";
    assert_eq!(
        git(&repo, &["show", &format!("{branch}:one.txt")]),
        "hello, edited by the fake model\n"
    );
    // Its own commit: harness had nothing left to commit.
    assert_eq!(
        git(
            &repo,
            &["log", "--format=%an %s", &format!("main..{branch}")]
        ),
        "fake-model fake-model: add one.txt\n"
    );
    let served = model.served();
    assert_eq!(served.len(), 4, "{served:?}");
    assert_eq!(reported(cli, &stream(&root, "one.md")), model.tokens());
    assert_eq!(model.tokens().0, 4600);
    // What harness read of its stream while it ran is what the model served.
    let read = harness_read(&root, "one.md");
    let (input, output) = model.tokens();
    assert_eq!(read["input_tokens"], input, "{read:#}");
    assert_eq!(read["output_tokens"], output, "{read:#}");
    assert_eq!(read["tool_calls"].as_u64(), Some(3), "{read:#}");
    assert!(read["cli_session"].is_string() && read["fault"].is_null());
    root.assert_nothing_left();
}

/// session.json of an item's first attempt.
fn harness_read(root: &Root, name: &str) -> Value {
    let sid = root.show(name)["attempts"][0]["session"].clone();
    let path = root.at("state/sessions").join(sid.as_str().unwrap());
    serde_json::from_slice(&fs::read(path.join("session.json")).unwrap()).unwrap()
}

#[test]
fn claude_edits_and_commits_in_its_worktree() {
    one_item(Cli::Claude);
}

#[test]
fn the_older_claude_edits_and_commits_in_its_worktree() {
    one_item(Cli::ClaudeOlder);
}

#[test]
fn codex_edits_and_commits_in_its_worktree() {
    one_item(Cli::Codex);
}

#[test]
fn gemini_edits_and_commits_in_its_worktree() {
    one_item(Cli::Gemini);
}

#[test]
fn opencode_edits_and_commits_in_its_worktree() {
    one_item(Cli::OpenCode);
}

/// Twenty items on four agents: all done, and each branch holds its own item's file and no other.
fn twenty_items(cli: Cli) {
    let Some((program, model)) = ready(cli) else {
        return;
    };
    let root = Root::with_repo();
    configure(&root, cli, &program, &model);
    let names: Vec<String> = (0..20).map(|n| format!("item-{n:02}")).collect();
    for name in &names {
        ask(
            &root,
            &format!("{name}.md"),
            &format!("edit file={name}.txt"),
        );
    }
    let out = drain(&root, "4");
    assert!(
        out.status.success(),
        "{}\n{}",
        describe(&out),
        root.picture()
    );
    let repo = root.repo();
    let mut agents = BTreeSet::new();
    for name in &names {
        let show = root.show(&format!("{name}.md"));
        assert_eq!(show["outcome"], "succeeded", "{show:#}");
        agents.insert(show["attempts"][0]["slot"].as_str().unwrap().to_owned());
        let branch = format!("harness/{name}.md/1");
        let files = git(&repo, &["diff", "--name-only", "main", &branch]);
        assert_eq!(files, format!("{name}.txt\n"));
        assert_eq!(
            git(&repo, &["rev-list", "--count", &format!("main..{branch}")]),
            "1\n"
        );
        assert_eq!(reported(cli, &stream(&root, &format!("{name}.md"))).0, 4600);
    }
    assert_eq!(agents.len(), 4, "{agents:?}");
    let sessions: BTreeSet<String> = model
        .served()
        .iter()
        .map(|e| e["session"].to_string())
        .collect();
    assert_eq!((sessions.len(), model.served().len()), (20, 80));
    root.assert_nothing_left();
}

#[test]
fn twenty_items_on_four_claudes_are_not_mixed_up() {
    twenty_items(Cli::Claude);
}

#[test]
fn twenty_items_on_four_codexes_are_not_mixed_up() {
    twenty_items(Cli::Codex);
}

/// `kill -9` of the harness while the CLI runs a tool: the next harness adopts the agent, which
/// finishes once, in the same session.
fn adopted_in_a_tool(cli: Cli) {
    let Some((program, model)) = ready(cli) else {
        return;
    };
    let root = Root::with_repo();
    configure(&root, cli, &program, &model);
    ask(&root, "long.md", "long-tool file=long.txt");
    let first = start(&root, &["--workers", "1"], "run-1.log");
    let tree = root.at("worktrees/agent-1");
    let find = |name: &str| {
        let all = walkdir::WalkDir::new(&tree)
            .max_depth(2)
            .into_iter()
            .filter_map(Result::ok);
        all.map(|e| e.into_path()).find(|p| p.ends_with(name))
    };
    root.wait_until("its tool runs", || find("tool-started").is_some());
    let place = find("tool-started").unwrap().parent().unwrap().to_owned();
    let running = root.processes();
    first.kill9();
    let mut second = start(&root, &["--drain", "--workers", "1"], "run-2.log");
    root.wait_until("it is adopted", || {
        root.events("long.md").contains(&"adopted".to_owned())
    });
    let now = root.processes();
    for (pid, command) in running.iter().filter(|(_, c)| c.contains(cli.program())) {
        assert!(now.iter().any(|(p, _)| p == pid), "{command} is gone");
    }
    fs::write(place.join("go"), "").unwrap();
    assert_eq!(
        second.wait(),
        Some(0),
        "{}\n{}",
        second.said(),
        root.picture()
    );
    assert_eq!(
        root.events("long.md")
            .iter()
            .filter(|e| *e == "started")
            .count(),
        1
    );
    assert_eq!(
        root.events("long.md")
            .iter()
            .filter(|e| *e == "finished")
            .count(),
        1
    );
    let show = root.show("long.md");
    assert_eq!(show["outcome"], "succeeded", "{show:#}");
    let branch = show["branch"].as_str().unwrap();
    assert_eq!(
        git(&root.repo(), &["show", &format!("{branch}:long.txt")]),
        "once\n"
    );
    assert_eq!(
        git(&root.repo(), &["diff", "--name-only", "main", branch]),
        "long.txt\n"
    );
    assert_eq!(
        model.served().len(),
        4,
        "each turn was asked for once: {:?}",
        model.served()
    );
    root.assert_nothing_left();
}

#[test]
fn a_harness_killed_while_claude_runs_a_tool_is_followed_by_one_that_adopts_it() {
    adopted_in_a_tool(Cli::Claude);
}

#[test]
fn a_harness_killed_while_codex_runs_a_tool_is_followed_by_one_that_adopts_it() {
    adopted_in_a_tool(Cli::Codex);
}

#[test]
fn claude_with_a_bad_key_is_parked_and_asks_no_more_than_it_was_told_to() {
    let Some((program, model)) = ready(Cli::Claude) else {
        return;
    };
    let root = Root::with_repo();
    configure(&root, Cli::Claude, &program, &model);
    let prompt = "---\nretries: 0\n---\n[[fake:http401]]\n";
    root.drop_file("bad.md", prompt.as_bytes(), 0o644);
    let out = drain(&root, "1");
    assert_eq!(out.status.code(), Some(1), "{}", describe(&out));
    assert!(root.is_parked("bad.md"));
    assert_eq!(
        model.served().len(),
        2,
        "one try, one retry of the CLI's own"
    );
    let last = stream(&root, "bad.md").pop().unwrap();
    assert_eq!(last["api_error_status"], 401);
    root.assert_nothing_left();
}

/// SIGTERM of the harness while the CLI runs a tool: everything ends, also what the CLI put into a
/// session of its own; the item goes back uncounted, and the next harness finishes it.
#[test]
fn a_harness_told_to_stop_stops_claude_and_its_tool_and_puts_the_item_back() {
    for cli in [Cli::Claude, Cli::ClaudeOlder] {
        let Some((program, model)) = ready(cli) else {
            continue;
        };
        let root = Root::with_repo();
        configure(&root, cli, &program, &model);
        ask(&root, "stop.md", "long-tool file=stop.txt");
        let mut first = start(&root, &["--workers", "1"], "run-1.log");
        let tree = root.at("worktrees/agent-1");
        root.wait_until("its tool runs", || {
            let all = walkdir::WalkDir::new(&tree).max_depth(2).into_iter();
            all.filter_map(Result::ok)
                .any(|e| e.file_name() == "tool-started")
        });
        first.signal("TERM");
        first.wait();
        root.assert_nothing_left();
        assert!(
            root.at("queue/pending/stop.md").exists(),
            "{}",
            root.picture()
        );
        // Now with nothing to wait for.
        ask(&root, "stop.md", "edit file=stop.txt");
        drain(&root, "1");
        assert_eq!(root.show("stop.md")["outcome"], "succeeded");
        root.assert_nothing_left();
    }
}
