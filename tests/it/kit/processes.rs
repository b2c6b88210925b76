//! The mock as a process: signals, waiting, tools and daemons, standard input and output.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;

use super::{Place, events, good_args, pid_in, up_to, within};
use crate::support::{describe, is_alive, kill};

#[test]
fn signals_end_each_cli_its_own_way() {
    // (cli, more arguments, signal, exit code or the signal, is the tool killed)
    let cases = [
        ("claude", &[][..], "TERM", Ok(143), true),
        ("claude", &["--dialect", "2.1.197"], "TERM", Ok(143), false),
        ("claude", &[], "INT", Ok(0), true),
        ("claude", &["--dialect", "2.1.197"], "INT", Ok(1), true),
        ("claude", &[], "HUP", Ok(129), true),
        ("claude", &[], "KILL", Err(9), false),
        ("codex", &[], "TERM", Err(15), true),
        ("codex", &[], "INT", Ok(1), true),
        ("gemini", &[], "TERM", Ok(0), false),
        ("opencode", &[], "TERM", Err(15), false),
    ];
    for (cli, more, signal, ends, killed) in cases {
        let place = Place::new();
        let pid_file = place.dir.path().join("tool.pid");
        let prompt = format!("[[mock:tool s=300 pid={}]]", pid_file.display());
        let child = place.start(cli, &[&good_args(cli)[..], more].concat(), &prompt);
        let tool = pid_in(&pid_file);
        kill(child.id(), signal);
        let out = child.wait_with_output().unwrap();
        let ended = out.status.code().ok_or(out.status.signal().unwrap_or(0));
        let alive = is_alive(tool);
        kill(tool, "KILL");
        assert_eq!(ended, ends, "{cli} {more:?} {signal}: {}", describe(&out));
        assert_eq!(alive, !killed, "{cli} {more:?} {signal}: its tool");
        let results = events(&out)
            .iter()
            .filter(|e| e["type"] == "result")
            .count();
        assert_eq!(
            results,
            usize::from(cli == "claude" && signal == "INT"),
            "{cli} {signal}"
        );
    }
}

#[test]
fn what_waits_waits_without_work_and_ends_as_told() {
    let place = Place::new();
    let mut deaf = place.start("claude", &good_args("claude"), "[[mock:ignore-term]]");
    up_to(&mut deaf, "init");
    kill(deaf.id(), "TERM");
    let mut polite = place.start("claude", &good_args("claude"), "[[mock:exit0-on-term]]");
    up_to(&mut polite, "init");
    kill(polite.id(), "TERM");
    assert_eq!(polite.wait().unwrap().code(), Some(0));
    // The other one has had its signal for longer.
    assert!(deaf.try_wait().unwrap().is_none());
    let stat = fs::read_to_string(format!("/proc/{}/stat", deaf.id())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(fields[0], "S");
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    assert!(ticks < 20, "it used {ticks} ticks of processor time");
    deaf.kill().unwrap();
    deaf.wait().unwrap();

    let mut busy = place.start(
        "claude",
        &good_args("claude"),
        "[[mock:timeout every=0.01]]",
    );
    for _ in 0..5 {
        up_to(&mut busy, "make test");
    }
    kill(busy.id(), "TERM");
    assert_eq!(busy.wait().unwrap().code(), Some(143));

    let mut late = place.start("claude", &good_args("claude"), "[[mock:linger]]");
    up_to(&mut late, "\"result_index\"");
    assert!(late.try_wait().unwrap().is_none(), "alive after its result");
    kill(late.id(), "TERM");
    assert_eq!(late.wait().unwrap().code(), Some(143));
}

#[test]
fn a_daemon_is_nobodys_child_and_outlives_its_agent() {
    let place = Place::new();
    let pid_file = place.dir.path().join("daemon.pid");
    let prompt = format!("[[mock:daemon env=clear pid={}]]", pid_file.display());
    let child = place.start("claude", &good_args("claude"), &prompt);
    let agent = child.id();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", describe(&out));
    let pid = pid_in(&pid_file);
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    within("it leads a session of its own", || {
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let fields: Vec<String> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        fields.get(3) == Some(&pid.to_string()) && fields[1] != agent.to_string()
    });
    assert!(read("environ").is_empty(), "no environment to be found by");
    kill(pid, "KILL");
    within("it is gone", || !is_alive(pid));
}

#[test]
fn a_question_waits_in_its_file_until_that_is_removed() {
    let place = Place::new();
    let file = place.dir.path().join("agent-1.interrupt");
    let mut child = place
        .command("claude", &good_args("claude"))
        .env("HARNESS_INTERRUPT", &file)
        .spawn()
        .unwrap();
    let prompt = b"[[mock:question text=Which_colour?]]";
    child.stdin.take().unwrap().write_all(prompt).unwrap();
    within("it asks", || {
        fs::read_to_string(&file).is_ok_and(|t| t == "Which colour?\n")
    });
    assert!(child.try_wait().unwrap().is_none());
    assert_eq!(place.commits(), 0);
    fs::remove_file(&file).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", describe(&out));
    assert_eq!(place.commits(), 1);
}

#[test]
fn readers_and_standard_input_matter_as_little_as_for_the_real_ones() {
    let place = Place::new();
    // The reader of its output goes away: it works on.
    let mut child = place.start(
        "claude",
        &good_args("claude"),
        "[[mock:slow rate=100 s=0.2]]",
    );
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(place.commits(), 1);
    // codex reads standard input to its end, even with a prompt as an argument.
    let args = [
        "exec",
        "--json",
        "--dangerously-bypass-approvals-and-sandbox",
        "[[mock:noop]]",
    ];
    let mut child = place.command("codex", &args).spawn().unwrap();
    within("it waits", || {
        let stat = fs::read_to_string(format!("/proc/{}/syscall", child.id()));
        stat.is_ok_and(|s| s.split(' ').nth(1) == Some("0x0"))
    });
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert!(child.wait_with_output().unwrap().status.success());
    // claude's own commands never reach a model.
    let out = place.play("claude", "/cost [[mock:crash]]");
    assert!(out.status.success());
    assert_eq!(events(&out).last().unwrap()["num_turns"], 0);
}
