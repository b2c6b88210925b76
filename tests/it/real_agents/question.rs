//! A real agent asks a person: its whole tree stops at once, the others go on, the context is there,
//! a restart changes nothing, and with the answer it goes on where it was.

use std::fs;

use serde_json::Value;

use super::setup::{Cli, configure, ready};
use super::{ask, start};
use crate::support::{Root, git};

fn status(root: &Root, slot: &str) -> Value {
    let path = root.at("state/agents").join(slot).join("status.json");
    serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default()
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|s| s.trim_start().starts_with('T'))
}

fn asks(cli: Cli) {
    let Some((program, model)) = ready(cli) else {
        return;
    };
    let root = Root::with_repo();
    configure(&root, cli, &program, &model);
    ask(&root, "ask.md", "question file=a.txt");
    let first = start(&root, &["--workers", "2"], "run-1.log");
    let slots = ["agent-1", "agent-2"];
    let paused = |slot: &&str| status(&root, slot)["state"] == "interrupted";
    root.wait_until("it is paused", || slots.iter().any(&paused));
    let slot = slots.into_iter().find(paused).unwrap();
    let mine = |(_, command): &(u32, String)| command.contains(cli.program());
    root.wait_until("its processes are stopped", || {
        let mut all = root.processes().into_iter().filter(mine).peekable();
        all.peek().is_some() && all.all(|(pid, _)| is_stopped(pid))
    });
    // Written by the shell of a tool, noticed by harness: both clocks are this machine's.
    let raised = root.at(format!("state/interrupts/{slot}.interrupt"));
    let asked: jiff::Timestamp = fs::metadata(&raised)
        .unwrap()
        .modified()
        .unwrap()
        .try_into()
        .unwrap();
    let show = root.show("ask.md");
    let events = show["events"].as_array().unwrap();
    let noticed = events.iter().find(|e| e["event"] == "interrupted").unwrap();
    let noticed: jiff::Timestamp = noticed["at"].as_str().unwrap().parse().unwrap();
    let took = (noticed - asked).total(jiff::Unit::Millisecond).unwrap();
    assert!(took < 1000.0, "it paused after {took} ms");
    ask(&root, "other.md", "edit file=o.txt");
    root.wait_until("the other one is done", || root.is_done("other.md"));
    let sid = noticed_session(&show);
    let context = root.at("state/sessions").join(&sid).join("interrupt.md");
    let text = fs::read_to_string(&context).unwrap();
    for words in ["> Which one?", "started", "## harness/ask.md/1"] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    first.kill9();
    let mut second = start(&root, &["--workers", "2"], "run-2.log");
    root.wait_until("the next one has it", || {
        let status = status(&root, slot);
        status["harness_pid"] == second.pid() && status["state"] == "interrupted"
    });
    assert!(
        root.processes()
            .into_iter()
            .filter(mine)
            .all(|(pid, _)| is_stopped(pid))
    );
    root.ok(&["resume", slot, "--answer", "the left one"]);
    root.wait_until("it is done", || root.is_done("ask.md"));
    let show = root.show("ask.md");
    assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show:#}");
    assert_eq!(
        git(&root.repo(), &["show", "harness/ask.md/1:a.txt"]),
        "the left one\n"
    );
    second.signal("INT");
    assert_eq!(second.wait(), Some(0));
    root.assert_nothing_left();
}

fn noticed_session(show: &Value) -> String {
    let events = show["events"].as_array().unwrap();
    let claimed = events.iter().find(|e| e["event"] == "claimed").unwrap();
    claimed["session"].as_str().unwrap().to_owned()
}

#[test]
fn claude_asks_and_goes_on_with_the_answer() {
    asks(Cli::Claude);
}

#[test]
fn codex_asks_and_goes_on_with_the_answer() {
    asks(Cli::Codex);
}
