//! A session while its agent works: figures so far, and a watch that ends with it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use serde_json::Value;

use super::{ndjson, parsed, play, root, said, sid};
use crate::support::{DEADLINE, Root};

/// An agent that asks and then works until its question is taken away.
fn asked(root: &Root, cli: &str) {
    play(root, "x.md", cli, "question");
    root.wait_until("it has asked", || question(root).exists());
}

fn question(root: &Root) -> std::path::PathBuf {
    root.at("state/interrupts/agent-1.interrupt")
}

fn answer(root: &Root) {
    std::fs::remove_file(question(root)).unwrap();
}

/// A watch, and its lines as they come.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(root: &Root, args: &[&str]) -> Watch {
        let mut command = root.command();
        command.args(["session", "watch"]).args(args);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _gone = tell.send(line);
            }
        });
        Watch { child, lines }
    }

    /// Reads up to a line that holds this text.
    fn up_to(&self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => seen.push(line),
                Err(e) => panic!("no `{text}`: {e}\n{seen:#?}"),
            }
            if seen.last().is_some_and(|l| l.contains(text)) {
                return seen;
            }
        }
    }

    /// What it writes until it ends by itself, and its exit code.
    fn end(mut self) -> (Vec<String>, Option<i32>) {
        let mut seen = Vec::new();
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => seen.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(e) => panic!("the watch does not end: {e}\n{seen:#?}"),
            }
        }
        (seen, self.child.wait().unwrap().code())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

#[test]
fn a_watch_shows_events_as_they_come_and_ends_with_the_session() {
    for cli in ["claude", "gemini"] {
        let root = root();
        let _run = root.start(&["--workers", "1"]);
        asked(&root, cli);
        let sid = sid(&root, "x.md");
        let people = Watch::start(&root, &[]);
        let script = Watch::start(&root, &[&sid, "--json"]);
        people.up_to("HARNESS_INTERRUPT");
        let first = script.up_to("HARNESS_INTERRUPT");
        // It is at work: nothing has ended, and its figures are those so far.
        let list = parsed(&root, &["list"]);
        assert_eq!(list[0]["state"], "running", "{cli}: {list}");
        assert_eq!(list[0]["tool_calls"], 1, "{cli}: {list}");
        assert_eq!(list[0]["outcome"], Value::Null);
        let table = said(&root, &["list"]);
        assert!(table.contains("running"), "{table}");
        let tools = parsed(&root, &["tools"]);
        assert_eq!(tools["calls"][0]["result"], Value::Null, "{cli}: {tools}");
        let text = said(&root, &["tools"]);
        assert!(text.contains("none yet"), "{text}");
        let metrics = parsed(&root, &["metrics"]);
        assert_eq!(
            (&metrics["outcome"], &metrics["tool_calls"]),
            (&Value::Null, &1.into())
        );
        let summary = said(&root, &["summary"]);
        let words: Vec<&str> = summary.split_whitespace().collect();
        assert!(
            words.join(" ").contains("outcome running when"),
            "{cli}: {summary}"
        );
        assert_eq!(parsed(&root, &["metrics", "--all"])["total"]["running"], 1);

        answer(&root);
        let (rest, code) = people.end();
        assert_eq!(code, Some(0), "{cli}");
        let last = rest.last().unwrap();
        assert!(last.starts_with("x.md: succeeded, after "), "{cli}: {last}");
        assert!(last.contains("branch harness/x.md/1"), "{cli}: {last}");
        let (rest, code) = script.end();
        assert_eq!(code, Some(0), "{cli}");
        let mut all = ndjson(&[first, rest].concat().join("\n"));
        let end = all.pop().unwrap();
        assert_eq!(end["event"], "session_ended", "{cli}: {end}");
        assert_eq!(
            (&end["session"], &end["outcome"]),
            (&sid.into(), &"succeeded".into())
        );
        // Each event once: those before the watch, those during it, the last ones.
        assert_eq!(all, ndjson(&said(&root, &["events", "--json"])), "{cli}");
    }
}

#[test]
fn a_watch_survives_the_harness_and_ends_with_the_one_that_takes_over() {
    let root = root();
    let first = root.start(&["--workers", "1"]);
    asked(&root, "claude");
    let watch = Watch::start(&root, &[]);
    watch.up_to("HARNESS_INTERRUPT");
    first.kill9();
    // Its agent lives on under its keeper.
    assert_eq!(parsed(&root, &["list"])[0]["state"], "running");
    let _second = root.start(&["--workers", "1"]);
    root.wait_until("the agent is adopted", || {
        root.events("x.md").contains(&"adopted".into())
    });
    answer(&root);
    let (rest, code) = watch.end();
    assert_eq!(code, Some(0));
    assert!(
        rest.last().unwrap().starts_with("x.md: succeeded"),
        "{rest:#?}"
    );
}

#[test]
fn a_session_that_nobody_works_on_says_so() {
    let root = root();
    let run = root.start(&["--workers", "1"]);
    asked(&root, "claude");
    let keeper = root.keeper("agent-1");
    run.kill9();
    crate::support::kill(keeper, "KILL");
    root.wait_until("nobody has the slot", || {
        parsed(&root, &["latest"])["state"] == "left"
    });
    let summary = said(&root, &["summary"]);
    assert!(
        summary.contains("the next `harness run` takes it up"),
        "{summary}"
    );
    let table = said(&root, &["list"]);
    assert!(table.contains("left"), "{table}");
}

#[test]
fn a_watch_ends_at_a_signal_and_with_its_reader() {
    let root = root();
    let _run = root.start(&["--workers", "1"]);
    asked(&root, "claude");
    let watch = Watch::start(&root, &[]);
    watch.up_to("HARNESS_INTERRUPT");
    crate::support::kill(watch.child.id(), "INT");
    let (_, code) = watch.end();
    assert_eq!(code, Some(0));
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let mut command = root.command();
    let command = command.args(["session", "watch"]).stdout(write);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    root.wait_until("the watch has ended", || !crate::support::is_alive(pid));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(question(&root).exists(), "it was at work all the time");
}
