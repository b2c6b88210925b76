//! The plays, each on each CLI: how they end, what they say, how nasty they are.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use serde_json::Value;

use super::{Place, STREAM, events, good_args};
use crate::support::git;

#[test]
fn every_play_that_ends_ends_as_each_cli_ends_it() {
    // Exit codes of claude, codex, gemini, opencode; `None`: by a signal.
    let table: [(&str, [Option<i32>; 4]); 20] = [
        ("success", [Some(0); 4]),
        ("dirty", [Some(0); 4]),
        ("noop", [Some(0); 4]),
        ("denied", [Some(0); 4]),
        ("no-result", [Some(0); 4]),
        ("two-results", [Some(0); 4]),
        ("malformed", [Some(0); 4]),
        ("malformed end=cut", [Some(0); 4]),
        ("big-line n=3000000", [Some(0); 4]),
        ("slow rate=200 s=0.1", [Some(0); 4]),
        ("tool s=0.05", [Some(0); 4]),
        ("error times=1 pause=0 then=success", [Some(0); 4]),
        ("error", [Some(1), Some(1), Some(500 % 256), Some(1)]),
        ("overloaded", [Some(1), Some(1), Some(529 % 256), Some(1)]),
        ("auth", [Some(1), Some(1), Some(400 % 256), Some(1)]),
        ("usage-limit", [Some(1), Some(1), Some(429 % 256), Some(1)]),
        ("max_tokens", [Some(1), Some(0), Some(0), Some(0)]),
        ("max_turns", [Some(1), Some(1), Some(53), Some(1)]),
        ("crash", [None; 4]),
        ("exit code=7", [Some(7); 4]),
    ];
    for (play, codes) in table {
        let place = Place::new();
        for (cli, code) in ["claude", "codex", "gemini", "opencode"].iter().zip(codes) {
            let out = place.play(cli, &format!("do it [[mock:{play} file={cli}.txt]]"));
            assert_eq!(
                out.status.code(),
                code,
                "{cli} {play}: {:?} {}",
                out.status,
                String::from_utf8_lossy(&out.stderr)
            );
        }
        let commits = match play.split_whitespace().next().unwrap() {
            "success" | "no-result" | "two-results" | "malformed" | "big-line" | "slow"
            | "tool" => 4,
            "error" if play.contains("then") => 4,
            _ => 0,
        };
        assert_eq!(place.commits(), commits, "{play}");
        if play == "crash" {
            let left = git(&place.repo(), &["status", "--porcelain"]);
            assert_eq!(left, "", "a crash leaves no core file");
        }
    }
}

#[test]
fn failures_say_what_the_real_ones_say() {
    let place = Place::new();
    let limit = events(&place.play("claude", "[[mock:usage-limit reset=600]]"));
    let info = &limit
        .iter()
        .find(|e| e["type"] == "rate_limit_event")
        .unwrap()["rate_limit_info"];
    assert_eq!(info["status"], "rejected");
    let ahead = info["resetsAt"].as_i64().unwrap() - jiff::Timestamp::now().as_second();
    assert!((590..=600).contains(&ahead), "{ahead}");
    let last = limit.last().unwrap();
    assert_eq!(
        (&last["subtype"], &last["is_error"]),
        (&"success".into(), &true.into())
    );
    assert_eq!(last["api_error_status"], 429);
    let codex = events(&place.play("codex", "[[mock:usage-limit]]"))
        .pop()
        .unwrap();
    assert!(
        codex["error"]["message"]
            .as_str()
            .unwrap()
            .contains("hit your usage limit")
    );

    let retries = events(&place.play("claude", "[[mock:overloaded times=3 pause=0]]"));
    let kinds = |e: &&Value| e["subtype"] == "api_retry";
    assert_eq!(retries.iter().filter(kinds).count(), 3);

    let denied = events(&place.run("claude", &STREAM, "[[mock:success]]"));
    assert!(denied.iter().any(|e| e["subtype"] == "permission_denied"));
    let last = denied.last().unwrap();
    assert_eq!(last["permission_denials"].as_array().unwrap().len(), 2);
    assert_eq!(last["is_error"], false);
    assert!(
        !place.repo().join("mock.txt").exists(),
        "what is denied is not done"
    );

    let args = [&good_args("claude")[..], &["--max-turns", "2"]].concat();
    let turns = place.run("claude", &args, "[[mock:success turns=9]]");
    let last = events(&turns).pop().unwrap();
    assert_eq!(
        (turns.status.code(), &last["subtype"]),
        (Some(1), &"error_max_turns".into())
    );
    let args = [&good_args("claude")[..], &["--max-budget-usd", "0.015"]].concat();
    let last = events(&place.run("claude", &args, "[[mock:success]]"))
        .pop()
        .unwrap();
    assert_eq!(last["subtype"], "error_max_budget_usd");

    // A sandbox that keeps .git read-only: no event of the failed command, a good end.
    let place = Place::new();
    let boxed = place.run(
        "codex",
        &["exec", "--json", "-s", "workspace-write", "-"],
        "x",
    );
    assert!(boxed.status.success());
    assert!(!String::from_utf8_lossy(&boxed.stdout).contains("git commit"));
    assert_eq!(
        (place.commits(), place.repo().join("mock.txt").exists()),
        (0, true)
    );
}

#[test]
fn streams_are_as_nasty_as_promised() {
    let place = Place::new();
    let big = place.play("claude", "[[mock:big-line]]");
    let longest = big
        .stdout
        .split(|&b| b == b'\n')
        .map(<[u8]>::len)
        .max()
        .unwrap();
    assert!(longest > 20_000_000, "{longest}");
    let bad = place.play("codex", "[[mock:malformed end=cut]]").stdout;
    assert!(std::str::from_utf8(&bad).is_err() && bad.contains(&0));
    assert_ne!(bad.last(), Some(&b'\n'), "cut in a line");
    let two = events(&place.play("claude", "[[mock:two-results file=t]]"));
    let results: Vec<&Value> = two.iter().filter(|e| e["type"] == "result").collect();
    assert_eq!(results.len(), 2);
    // Tokens are each result's own, the cost is the run's so far.
    assert_eq!(
        (
            &results[0]["usage"]["input_tokens"],
            &results[1]["usage"]["input_tokens"]
        ),
        (&2000.into(), &2000.into())
    );
    assert_eq!(results[1]["total_cost_usd"], 0.04);
    let crash = place.play("opencode", "[[mock:crash]]");
    assert_eq!(crash.status.signal(), Some(11));
    assert_ne!(crash.stdout.last(), Some(&b'\n'));
}

#[test]
fn the_play_is_chosen_by_prompt_then_environment_and_attempt() {
    let place = Place::new();
    let run = |vars: &[(&str, &str)], prompt: &str| {
        let mut c = place.command("plain", &[]);
        let mut child = c.envs(vars.iter().copied()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(prompt.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap().status.code()
    };
    let from_env = ("MOCK_PLAY", "exit code=5");
    assert_eq!(run(&[from_env], "nothing said"), Some(5));
    assert_eq!(
        run(&[from_env], "[[mock:exit code=6]] and [[mock:exit code=7]]"),
        Some(7)
    );
    let once = "[[mock:exit code=8 first=1]]";
    assert_eq!(run(&[("HARNESS_ATTEMPT", "1")], once), Some(8));
    assert_eq!(run(&[("HARNESS_ATTEMPT", "2")], once), Some(0));
    let out = place.play("claude", "[[mock:dump]] look");
    assert!(out.status.success());
    let dump: Value =
        serde_json::from_slice(&fs::read(place.repo().join("mock-dump.json")).unwrap()).unwrap();
    assert_eq!(dump["prompt"], "[[mock:dump]] look");
    assert_eq!(
        Path::new(dump["cwd"].as_str().unwrap()),
        place.repo().canonicalize().unwrap()
    );
}
