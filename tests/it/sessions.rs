//! `harness session …` through the real binary: the same commands over every CLI's sessions and
//! scripts', for people and as JSON; which session is meant; what the commands never do.
//! `running` watches agents at work, `hostile` has garbage and texts that want the terminal.

mod hostile;
mod running;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::support::{Root, describe, files_below};

const CLIS: [&str; 4] = ["claude", "codex", "gemini", "opencode"];
/// Every command that shows one session.
const VIEWS: [&[&str]; 11] = [
    &["summary"],
    &["events"],
    &["events", "--raw"],
    &["tools"],
    &["errors"],
    &["timeline"],
    &["metrics"],
    &["metrics", "--all"],
    &["export"],
    &["export", "--format", "md"],
    &["list"],
];

/// A ROOT with the mock as agents of the CLIs' names.
fn root() -> Root {
    let root = Root::with_repo();
    let mock = env!("CARGO_BIN_EXE_mock-agent");
    let home = root.at("mock-home");
    let mut text = "agent = \"claude\"\n[repo]\npath = \"repo\"\n".to_owned();
    for cli in CLIS {
        let args = match cli {
            "claude" => {
                r#""-p", "--output-format", "stream-json", "--verbose", "--session-id", "{{SESSION_ID}}", "--allowedTools", "Bash,Write,Edit""#
            }
            "codex" => {
                r#""exec", "--json", "--dangerously-bypass-approvals-and-sandbox", "--skip-git-repo-check", "-""#
            }
            "gemini" => r#""-o", "stream-json", "--approval-mode", "yolo", "--skip-trust""#,
            _ => r#""run", "--format", "json", "--auto", "-m", "fake/m""#,
        };
        text += &format!(
            "[agents.{cli}]\ncommand = [{mock:?}, {cli:?}, {args}]\nevents = {cli:?}\n\
             env = {{ MOCK_HOME = {home:?}, GEMINI_API_KEY = \"k\" }}\n"
        );
    }
    root.config(&text);
    root
}

fn play(root: &Root, name: &str, agent: &str, play: &str) {
    let text = format!("---\nagent: {agent}\n---\nPlease do it.\n[[mock:{play}]]\n");
    root.drop_file(name, text.as_bytes(), 0o644);
}

/// What a `session` command prints, which must end well.
fn said(root: &Root, args: &[&str]) -> String {
    root.ok(&[&["session"], args].concat())
}

fn parsed(root: &Root, args: &[&str]) -> Value {
    let text = said(root, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}\n{text}"))
}

/// The id of an item's newest session.
fn sid(root: &Root, item: &str) -> String {
    let list = parsed(root, &["list", "--item", item]);
    list[0]["session"].as_str().unwrap().to_owned()
}

fn file(root: &Root, sid: &str, name: &str) -> PathBuf {
    root.at("state/sessions").join(sid).join(name)
}

fn text_of(root: &Root, sid: &str, name: &str) -> String {
    String::from_utf8_lossy(&fs::read(file(root, sid, name)).unwrap()).into_owned()
}

fn ndjson(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect()
}

/// Of the three answers one only calls a tool, which codex does not tell from the one before.
fn turns(cli: &str) -> u64 {
    if cli == "codex" { 2 } else { 3 }
}

#[test]
fn the_same_commands_read_every_cli() {
    let root = root();
    for cli in CLIS {
        play(&root, &format!("{cli}.md"), cli, "success");
    }
    root.drain();
    for cli in CLIS {
        let item = format!("{cli}.md");
        let sid = sid(&root, &item);
        let written = text_of(&root, &sid, "events.jsonl");

        let summary = said(&root, &["summary", &sid]);
        for part in [
            &*format!("{item}, attempt 1, by {cli} on agent-"),
            "succeeded",
            "status 0",
            "1 commit, 1 file",
            &format!("harness/{item}/1"),
            &format!(
                "{} turns, 2 tool calls, 3000 tokens in, 150 out",
                turns(cli)
            ),
            "Done: committed mock.txt.",
            &format!("state/sessions/{sid}"),
        ] {
            assert!(summary.contains(part), "{cli}: no `{part}` in\n{summary}");
        }
        let summary = parsed(&root, &["summary", &sid]);
        assert_eq!(summary["session"]["item"], item, "{cli}");
        assert_eq!(summary["session"]["state"], "ended", "{cli}");
        assert_eq!(summary["exit"]["exit_status"], 0, "{cli}");
        assert_eq!(summary["figures"]["turns"], turns(cli), "{cli}");

        let events = said(&root, &["events", &sid, "--json"]);
        assert_eq!(events, written, "{cli}: the raw event lines");
        let lines = said(&root, &["events", &sid]);
        assert_eq!(lines.lines().count(), written.lines().count(), "{cli}");
        assert!(lines.contains("  text       I will writ"), "{cli}\n{lines}");
        assert!(lines.lines().all(|l| l.starts_with("20")), "{cli}\n{lines}");

        // Each raw line once, whole, in order.
        let raw = said(&root, &["events", &sid, "--raw"]);
        let stdout = text_of(&root, &sid, "stdout.log");
        let mut left = stdout.lines();
        for line in raw.lines() {
            assert!(left.any(|l| l == line), "{cli}: not in stdout.log: {line}");
        }
        assert!(raw.lines().count() > 4, "{cli}\n{raw}");

        let tools = parsed(&root, &["tools", &sid]);
        let calls = tools["calls"].as_array().unwrap();
        assert_eq!(calls.len(), 2, "{cli}: {tools}");
        for call in calls {
            assert_eq!(call["is_error"], false, "{cli}: {call}");
            assert!(call["seconds"].is_f64(), "{cli}: {call}");
            assert!(!call["input"].as_str().unwrap().is_empty(), "{cli}");
        }
        let result = calls[0]["result"].as_str().unwrap();
        assert!(result.starts_with("File created"), "{cli}: {tools}");
        let counted = tools["tools"].as_object().unwrap().values();
        let counted: u64 = counted.map(|c| c["calls"].as_u64().unwrap()).sum();
        assert_eq!(counted, 2, "{cli}: {tools}");
        assert!(
            said(&root, &["tools", &sid]).contains("File created"),
            "{cli}"
        );

        let metrics = parsed(&root, &["metrics", &sid]);
        let want = json!({
            "session": sid, "item": item, "agent": cli, "attempt": 1, "outcome": "succeeded",
            "turns": turns(cli), "tool_calls": 2, "input_tokens": 3000, "output_tokens": 150, "errors": 0,
            "retries": 0, "malformed": 0, "cache_read_tokens": 0,
        });
        for (key, want) in want.as_object().unwrap() {
            assert_eq!(metrics[key], *want, "{cli}: {key} in {metrics}");
        }
        for key in [
            "agent",
            "seconds",
            "cpu_seconds",
            "tools",
            "cost_usd",
            "last_message",
        ] {
            assert!(metrics.get(key).is_some(), "{cli}: {key} in {metrics}");
        }
        assert!(said(&root, &["metrics", &sid]).contains("3000\n"), "{cli}");

        let line = parsed(&root, &["timeline", &sid]);
        assert_eq!(
            (&line["turns"], &line["tool_calls"]),
            (&json!(turns(cli)), &json!(2))
        );
        let rows = line["rows"].as_array().unwrap();
        let of = |what: &str| {
            rows.iter()
                .filter(|r| r["what"] == what)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (of("tool").len(), of("text").len()),
            (2, 2),
            "{cli}: {line}"
        );
        assert!(
            of("tool").iter().all(|r| r["took_seconds"].is_f64()),
            "{line}"
        );
        // Also where it came in pieces.
        assert_eq!(
            of("text")[0]["text"],
            "I will write the file.",
            "{cli}: {line}"
        );

        let export: Value = serde_json::from_str(&said(&root, &["export", &sid])).unwrap();
        assert_eq!(export["events"], json!(ndjson(&written)), "{cli}");
        assert_eq!(export["session"]["session"], sid, "{cli}");
        assert_eq!(export["figures"]["turns"], turns(cli), "{cli}");
        assert_eq!(export["exit"]["exit_status"], 0, "{cli}");
        let prompt = export["prompt"].as_str().unwrap();
        assert!(prompt.contains("Please do it."), "{cli}: {prompt}");
        let md = said(&root, &["export", &sid, "--format", "md"]);
        for part in [
            "## Prompt",
            "Please do it.",
            "> I will write the file.",
            "File created",
        ] {
            assert!(md.contains(part), "{cli}: no `{part}` in\n{md}");
        }
        assert!(
            said(&root, &["errors", &sid]).contains("no errors"),
            "{cli}"
        );
    }
    let all = parsed(&root, &["metrics", "--all"]);
    assert_eq!(all["total"]["sessions"], 4, "{all}");
    assert_eq!(all["total"]["input_tokens"], 12000, "{all}");
    assert_eq!(all["total"]["outcomes"]["succeeded"], 4, "{all}");
    for cli in CLIS {
        assert_eq!(all["agents"][cli]["turns"], turns(cli), "{all}");
    }
    let all = said(&root, &["metrics", "--all"]);
    assert!(all.contains("4 sessions: 4 succeeded"), "{all}");
}

#[test]
fn what_harness_has_totalled_at_the_end_is_believed_if_it_is_this_sessions() {
    let root = root();
    play(&root, "x.md", "claude", "success");
    root.drain();
    let sid = sid(&root, "x.md");
    let totalled = |session: &str| {
        let metrics = json!({
            "session": session, "item": "x.md", "slot": "agent-1", "agent": "claude",
            "attempt": 1, "outcome": "succeeded", "seconds": 7.5, "cpu_seconds": 1.5,
            "turns": 77, "tools": {"Bash": 2}, "later": "key",
        });
        fs::write(file(&root, &sid, "metrics.json"), metrics.to_string()).unwrap();
        let turns = parsed(&root, &["metrics"])["turns"].clone();
        assert_eq!(parsed(&root, &["summary"])["figures"]["turns"], turns);
        assert_eq!(
            parsed(&root, &["metrics", "--all"])["total"]["turns"],
            turns
        );
        turns
    };
    assert_eq!(totalled(&sid), 77);
    assert_eq!(parsed(&root, &["metrics"])["seconds"], 7.5);
    assert_eq!(totalled("another"), 3);
}

#[test]
fn what_went_wrong_is_told_in_one_place() {
    let root = root();
    for name in ["denied", "error", "malformed"] {
        play(&root, name, "claude", name);
    }
    root.script("script", "echo to-people >&2; exit 3");
    let mut run = root.start(&["--workers", "4"]);
    root.wait_until("all have ended", || {
        let parked = ["denied", "error", "script"]
            .iter()
            .all(|n| root.is_parked(n));
        parked && root.is_done("malformed")
    });
    // The last one: it holds all others of its agent.
    play(&root, "usage-limit", "claude", "usage-limit");
    root.wait_until("it has met its limit", || {
        root.events("usage-limit").contains(&"finished".into())
    });
    run.signal("TERM");
    run.wait();
    let kinds = |item: &str| -> BTreeMap<String, Value> {
        let found = parsed(&root, &["errors", &sid(&root, item)]);
        let rows = found["troubles"].as_array().unwrap().iter();
        rows.map(|t| (t["kind"].as_str().unwrap().to_owned(), t.clone()))
            .collect()
    };
    let denied = kinds("denied");
    assert_eq!(denied["denied"]["about"], "Bash", "{denied:?}");
    assert_eq!(denied["tool"]["about"], "Bash", "{denied:?}");
    let error = kinds("error");
    for kind in ["retry", "error", "result"] {
        assert!(error.contains_key(kind), "{kind}: {error:?}");
    }
    assert_eq!(error["error"]["about"], "overloaded", "{error:?}");
    assert!(kinds("malformed")["malformed"]["offset"].is_u64());
    assert!(kinds("usage-limit").contains_key("limit"));
    assert!(kinds("script").is_empty());

    let text = said(&root, &["errors", &sid(&root, "error")]);
    assert!(
        text.contains("overloaded") && text.contains("try 1 of 1"),
        "{text}"
    );
    let text = said(&root, &["errors", &sid(&root, "script")]);
    assert!(
        text.starts_with("failed: exit status 3: to-people\n"),
        "{text}"
    );
    assert!(text.contains("stderr.log:\n  to-people\n"), "{text}");
    let summary = said(&root, &["summary", &sid(&root, "denied")]);
    assert!(
        summary.contains("fault") && summary.contains("permission"),
        "{summary}"
    );
    assert!(
        summary.contains("1 denial: `harness session errors "),
        "{summary}"
    );
}

#[test]
fn a_script_has_a_session_without_events() {
    let root = root();
    root.script(
        "s.sh",
        "echo to-stdout; echo to-stderr >&2; echo x >new; exit 0",
    );
    root.drain();
    let sid = sid(&root, "s.sh");
    assert_eq!(said(&root, &["latest"]), format!("{sid}\n"));
    assert_eq!(parsed(&root, &["latest"])["agent"], "script");
    for args in [
        &["events"][..],
        &["events", "--raw"],
        &["tools"],
        &["timeline"],
    ] {
        let out = root.harness(&[&["session"], args].concat());
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(
            (out.status.code(), &*out.stdout),
            (Some(0), &b""[..]),
            "{args:?}"
        );
        assert!(stderr.contains("has no events"), "{args:?}: {stderr}");
        assert!(stderr.contains("stdout.log"), "{args:?}: {stderr}");
    }
    assert_eq!(said(&root, &["events", "--json"]), "");
    assert_eq!(parsed(&root, &["tools"])["calls"], json!([]));
    assert_eq!(parsed(&root, &["timeline"])["rows"], json!([]));
    let summary = said(&root, &["summary"]);
    assert!(
        summary.contains("s.sh, attempt 1, by script on agent-"),
        "{summary}"
    );
    assert!(
        summary.contains("some of it committed by harness"),
        "{summary}"
    );
    let export = parsed(&root, &["export"]);
    assert_eq!(export["stdout_tail"], "to-stdout\n", "{export}");
    assert_eq!(export["stderr_tail"], "to-stderr\n", "{export}");
    assert_eq!(
        (&export["prompt"], &export["events"]),
        (&Value::Null, &json!([]))
    );
    let md = said(&root, &["export", "--format", "md"]);
    assert!(md.contains("to-stdout") && md.contains("to-stderr"), "{md}");
    let watch = said(&root, &["watch"]);
    assert!(watch.starts_with("s.sh: succeeded, after "), "{watch}");
}

#[test]
fn the_session_that_is_meant_is_found_or_the_error_says_what_there_is() {
    let root = root();
    let none = root.exits(100, &["session", "latest"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no session yet"));
    assert_eq!(parsed(&root, &["list"]), json!([]));
    for n in 0..5 {
        root.script(format!("s{n}.sh"), if n == 0 { "exit 1" } else { "true" });
    }
    root.drain();
    let list = parsed(&root, &["list"]);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 7, "five items, two retries");
    let sids: Vec<&str> = list
        .iter()
        .map(|s| s["session"].as_str().unwrap())
        .collect();
    assert!(sids.is_sorted_by(|a, b| a > b), "newest first: {sids:?}");
    assert_eq!(said(&root, &["latest"]).trim_end(), sids[0]);
    let of = |typed: &str| parsed(&root, &["summary", typed])["session"]["session"].clone();
    for sid in &sids {
        assert_eq!(of(sid), *sid);
        assert_eq!(of(&sid[sid.len() - 12..]), *sid, "by its end");
        assert_eq!(of(&sid[..35]), *sid, "by its beginning");
    }
    // What the table shows is enough to name one.
    let table = said(&root, &["list"]);
    for (line, sid) in table.lines().skip(1).zip(&sids) {
        let short = line.split_whitespace().next().unwrap();
        assert_eq!(of(short), **sid, "{table}");
    }
    for typed in ["s0.sh", "agent-1"] {
        assert!(sids.iter().any(|sid| of(typed) == *sid), "{typed}");
    }
    let short = &sids[0][28..];
    for (typed, parts) in [
        (
            &sids[0][..4],
            &["7 begin or end with", short, "2 more", "s0.sh"][..],
        ),
        (
            "no-such",
            &["no id begins or ends with `no-such`", short, "session list"],
        ),
        ("", &["no id begins"]),
        ("../..", &["no id begins"]),
        ("a\x1b[2J", &["\\u{1b}"]),
    ] {
        for view in ["summary", "events", "metrics", "watch", "export"] {
            let out = root.harness(&["session", view, typed]);
            assert_eq!(
                out.status.code(),
                Some(100),
                "{view} {typed:?}: {}",
                describe(&out)
            );
            assert_eq!(out.stdout, b"");
            let said = String::from_utf8(out.stderr).unwrap();
            for part in parts {
                assert!(said.contains(part), "{typed:?}: no `{part}` in {said}");
            }
            assert!(!said.contains('\x1b'));
        }
    }

    let some = root.harness(&["session", "list", "--limit", "2"]);
    assert_eq!(String::from_utf8_lossy(&some.stdout).lines().count(), 3);
    assert!(
        String::from_utf8_lossy(&some.stderr).contains("5 older"),
        "{}",
        describe(&some)
    );
    let of_one = parsed(&root, &["list", "--item", "s0.sh"]);
    let attempts: Vec<&Value> = of_one
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["attempt"])
        .collect();
    assert_eq!(attempts, [3, 2, 1], "{of_one}");
    let some = root.harness(&["session", "list", "--item", "s0.sh", "-n", "1"]);
    assert!(
        String::from_utf8_lossy(&some.stderr).contains("2 older"),
        "{}",
        describe(&some)
    );
    assert_eq!(parsed(&root, &["list", "--item", "nobody"]), json!([]));
}

/// Every file below ROOT: its content and when it was changed.
fn picture(root: &Root) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let files = files_below(root.path()).into_iter();
    files
        .map(|p| {
            let modified = fs::symlink_metadata(&p).unwrap().modified().unwrap();
            (p.clone(), (fs::read(&p).unwrap_or_default(), modified))
        })
        .collect()
}

#[test]
fn nothing_is_changed_and_a_reader_that_goes_away_is_no_fault() {
    let root = root();
    play(&root, "x.md", "claude", "success turns=40");
    root.drain();
    let before = picture(&root);
    for view in VIEWS {
        let args = [&["session"], view].concat();
        assert!(!root.ok(&args).is_empty(), "{args:?}");
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let out = root
            .command()
            .args(&args)
            .stdout(write)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let ended = (out.status.code(), &*out.stderr);
        assert_eq!(ended, (Some(0), &b""[..]), "{args:?}: {}", describe(&out));
    }
    assert_eq!(picture(&root), before);
}

#[test]
fn an_export_is_never_written_over_a_file() {
    let root = root();
    play(&root, "x.md", "claude", "success");
    root.drain();
    let to = root.at("out.json");
    let path = to.to_str().unwrap();
    assert_eq!(said(&root, &["export", "-o", path]), "");
    let exported = fs::read(&to).unwrap();
    let value: Value = serde_json::from_slice(&exported).unwrap();
    assert_eq!(value["session"]["item"], "x.md");
    assert_eq!(said(&root, &["export", "-o", "-"]).as_bytes(), exported);
    let out = root.exits(100, &["session", "export", "--format", "md", "-o", path]);
    assert!(String::from_utf8_lossy(&out.stderr).contains("the file exists"));
    assert_eq!(fs::read(&to).unwrap(), exported);
    let nowhere = root.at("nowhere/out.json");
    let out = root.exits(100, &["session", "export", "-o", nowhere.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("nowhere/out.json: No such file"), "{said}");
    let temps = files_below(root.path()).into_iter();
    let temps: Vec<PathBuf> = temps
        .filter(|p| p.extension().is_some_and(|e| e == "tmp"))
        .collect();
    assert!(temps.is_empty(), "{temps:?}");
}
