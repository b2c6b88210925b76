//! A person in the loop: what pauses an agent, what is kept for whoever looks, and how it goes on.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::agents::{play, root_with};
use crate::support::{Root, is_stopped};

fn agent(root: &Root, slot: &str) -> Value {
    let bytes = fs::read(root.at("state/agents").join(slot).join("status.json"));
    serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default()
}

fn has_state(root: &Root, slot: &str, state: &str) -> bool {
    agent(root, slot)["state"] == state
}

/// Folder of the only session of an item.
fn folder(root: &Root, name: &str) -> PathBuf {
    let events = root.show(name)["events"].clone();
    let claimed = events
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .find(|e| e["event"] == "claimed");
    root.at("state/sessions")
        .join(claimed.unwrap()["session"].as_str().unwrap())
}

fn hidden(root: &Root) -> Vec<String> {
    let all = fs::read_dir(root.at("state/interrupts")).unwrap().flatten();
    let names = all.map(|e| e.file_name().into_string().unwrap());
    names.filter(|n| n != ".gitignore").collect()
}

#[test]
fn an_agent_that_asks_is_frozen_and_goes_on_when_its_file_is_removed() {
    let marker = tempfile::tempdir().unwrap();
    let told = marker.path().join("told");
    let notify = format!(
        "notify = [\"sh\", \"-c\", \"(echo $HARNESS_EVENT $HARNESS_SLOT $HARNESS_ITEM: $HARNESS_REASON; cat) >> {}\"]",
        told.display()
    );
    let root = root_with("claude", &notify);
    play(&root, "ask.md", "question file=a.txt text=Which_colour?");
    let first = root.start(&["--workers", "2"]);
    let slots = ["agent-1", "agent-2"];
    let paused = |slot: &&str| has_state(&root, slot, "interrupted");
    root.wait_until("it is paused", || slots.iter().any(&paused));
    let slot = slots.into_iter().find(paused).unwrap();
    let raised = root.at(format!("state/interrupts/{slot}.interrupt"));
    assert_eq!(fs::read_to_string(&raised).unwrap(), "Which colour?\n");
    let pid = agent(&root, slot)["pid"].as_u64().unwrap();
    root.wait_until("its process is stopped", || is_stopped(&pid.to_string()));
    // The others go on.
    play(&root, "other.md", "success file=o.txt");
    root.wait_until("the other one is done", || root.is_done("other.md"));
    // The context is there, and the person was told once.
    let context = folder(&root, "ask.md").join("interrupt.md");
    root.wait_until("the context is there", || context.exists());
    let text = fs::read_to_string(&context).unwrap();
    for words in [
        "Which colour?",
        " resume agent-",
        "calls ",
        "## harness/ask.md/1",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    root.wait_until("the person was told", || {
        fs::read_to_string(&told).is_ok_and(|t| t.contains("just lets it go on"))
    });
    assert!(
        fs::read_to_string(&told)
            .unwrap()
            .starts_with(&format!("interrupt {slot} ask.md: Which colour?"))
    );
    // A restart changes nothing.
    first.kill9();
    let mut second = root.start(&["--workers", "2"]);
    root.wait_until("the next one has it", || {
        let status = agent(&root, slot);
        status["harness_pid"] == second.pid() && status["state"] == "interrupted"
    });
    assert!(is_stopped(&pid.to_string()));
    assert!(raised.exists());
    // Removing the file resumes it: the same process, the same attempt.
    fs::remove_file(&raised).unwrap();
    root.wait_until("it is done", || root.is_done("ask.md"));
    let show = root.show("ask.md");
    assert_eq!(show["attempts"].as_array().unwrap().len(), 1, "{show:#}");
    assert_eq!(show["outcome"], "succeeded");
    let events = root.events("ask.md");
    let count = |kind: &str| events.iter().filter(|e| *e == kind).count();
    assert_eq!(
        (count("interrupted"), count("resumed")),
        (1, 1),
        "{events:?}"
    );
    second.signal("INT");
    assert_eq!(second.wait(), Some(0), "{}", second.said());
    let told = fs::read_to_string(&told).unwrap();
    assert_eq!(told.matches("interrupt agent-").count(), 1, "{told}");
    assert_eq!(hidden(&root), Vec::<String>::new());
    root.assert_nothing_left();
}

#[test]
fn a_question_left_behind_parks_its_item_until_it_is_answered() {
    let root = root_with("claude", "");
    root.script(
        "ask",
        "cd \"$HARNESS_ROOT\"\n[ -f asked ] && exit 0\ntouch at-work\n\
         while [ ! -f asked ]; do sleep 0.05; done\necho 'Which one?' > \"$HARNESS_INTERRUPT\"",
    );
    let mut run = root.start(&["--workers", "1"]);
    // It asks and ends before harness sees the question and could freeze it.
    root.wait_until("it runs", || root.at("at-work").exists());
    let keeper_alone = || root.processes().len() == 1;
    run.signal("STOP");
    std::fs::write(root.at("asked"), "").unwrap();
    root.wait_until("it has ended", keeper_alone);
    run.signal("CONT");
    root.wait_until("its item waits", || root.is_parked("ask"));
    root.wait_until("the slot pauses", || {
        has_state(&root, "agent-1", "interrupted")
    });
    let show = root.show("ask");
    assert_eq!(show["outcome"], "interrupted", "{show:#}");
    assert!(
        show["reason"].as_str().unwrap().contains("Which one?"),
        "{show:#}"
    );
    run.signal("TERM");
    run.wait();
    let mut next = root.start(&["--workers", "1"]);
    root.wait_until("the slot still pauses", || {
        agent(&root, "agent-1")["harness_pid"] == next.pid()
            && has_state(&root, "agent-1", "interrupted")
    });
    assert!(root.is_parked("ask"));
    root.ok(&["resume", "agent-1", "--answer", "the left one"]);
    root.wait_until("it goes on by itself", || root.is_done("ask"));
    let show = root.show("ask");
    let answered = show["events"].as_array().unwrap().iter();
    let answered: Vec<&Value> = answered.filter(|e| e["event"] == "answered").collect();
    assert_eq!(answered.len(), 1, "{show:#}");
    assert_eq!(answered[0]["question"], "Which one?");
    assert_eq!(answered[0]["answer"], "the left one");
    next.signal("INT");
    assert_eq!(next.wait(), Some(0));
    assert_eq!(hidden(&root), Vec::<String>::new());
    root.assert_nothing_left();
}

#[test]
fn a_person_freezes_all_that_runs_and_frozen_time_counts_for_no_limit() {
    let root = root_with("claude", "");
    let seconds = root.at("seconds");
    // Daemons of a session of their own are frozen with it. Its timeout is 3 s of its own time.
    root.script(
        "long",
        &format!(
            "#harness timeout: 3\nsetsid sh -c 'while :; do echo x >> {0}; sleep 0.05; done' &\nwhile [ ! -e {0}.go ]; do sleep 0.05; done",
            seconds.display()
        ),
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it runs", || seconds.exists());
    root.ok(&["interrupt", "all", "wait a moment"]);
    root.wait_until("it is paused", || {
        has_state(&root, "agent-1", "interrupted")
    });
    let stopped = || {
        let pids = root.processes().into_iter();
        pids.filter(|(_, c)| c.contains("sh ") && !c.contains("harness"))
            .all(|(pid, _)| is_stopped(&pid.to_string()))
    };
    root.wait_until("all of its processes are stopped", stopped);
    let size = fs::metadata(&seconds).unwrap().len();
    let since = std::time::Instant::now();
    root.wait_until("its timeout would be over", || {
        since.elapsed().as_secs() >= 4
    });
    assert_eq!(fs::metadata(&seconds).unwrap().len(), size, "nothing ran");
    root.exits(100, &["interrupt", "all", "another"]);
    fs::write(root.at("seconds.go"), "").unwrap();
    root.ok(&["resume"]);
    root.wait_until("it is done", || {
        root.is_done("long") || root.is_parked("long")
    });
    let show = root.show("long");
    assert_eq!(show["outcome"], "no_change", "{show:#}\n{}", root.picture());
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
    root.assert_nothing_left();
}

#[test]
fn what_is_frozen_ends_when_it_is_told_to_stop() {
    let root = root_with("claude", "");
    play(&root, "ask.md", "question");
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it is paused", || {
        has_state(&root, "agent-1", "interrupted")
    });
    run.signal("TERM");
    assert_eq!(run.wait(), Some(0), "{}", run.said());
    let show = root.show("ask.md");
    assert_eq!(show["attempts"][0]["outcome"], "interrupted", "{show:#}");
    assert!(root.at("queue/pending/ask.md").exists());
    root.assert_nothing_left();
}

#[test]
fn a_denial_and_a_last_timeout_pause_the_slot() {
    for (play, cause) in [("denied", "not permitted"), ("stall", "ran out of time")] {
        let root = root_with("claude", "");
        let text = format!("---\nretries: 0\ntimeout: 1\n---\n[[mock:{play}]]\n");
        root.drop_file("x.md", text.as_bytes(), 0o644);
        let mut run = root.start(&["--workers", "1"]);
        root.wait_until("the slot pauses", || {
            has_state(&root, "agent-1", "interrupted")
        });
        let raised = root.at("state/interrupts/agent-1.interrupt");
        let reason = fs::read_to_string(&raised).unwrap();
        assert!(
            reason.contains(cause) && reason.contains("x.md"),
            "{reason}"
        );
        let context = folder(&root, "x.md").join("interrupt.md");
        root.wait_until("the context is there", || context.exists());
        assert!(root.is_parked("x.md"));
        root.script("next", "exit 0");
        root.ok(&["resume", "agent-1"]);
        root.wait_until("it goes on", || root.is_done("next"));
        assert!(
            root.is_parked("x.md"),
            "only what asked goes back by itself"
        );
        run.signal("INT");
        assert_eq!(run.wait(), Some(1));
        root.assert_nothing_left();
    }
}

#[test]
fn what_pauses_a_slot_is_the_users_choice() {
    let root = root_with("claude", "interrupt_on = []");
    play(&root, "x.md", "denied");
    assert_eq!(root.drain().status.code(), Some(1));
    assert_eq!(hidden(&root), Vec::<String>::new());
}

#[test]
fn an_interrupt_that_comes_or_goes_while_no_harness_is_there_is_seen_by_the_next() {
    let root = root_with("claude", "");
    play(&root, "ask.md", "question file=a.txt");
    let first = root.start(&["--workers", "1"]);
    root.wait_until("it is paused", || {
        has_state(&root, "agent-1", "interrupted")
    });
    let pid = agent(&root, "agent-1")["pid"].as_u64().unwrap();
    root.wait_until("its process is stopped", || is_stopped(&pid.to_string()));
    first.kill9();
    fs::remove_file(root.at("state/interrupts/agent-1.interrupt")).unwrap();
    let second = root.start(&["--workers", "1"]);
    root.wait_until("it went on and is done", || root.is_done("ask.md"));
    let text = "---\nmax_turns: 0\nbudget_usd: 0\n---\n[[mock:slow rate=20 s=30]]\n";
    root.drop_file("long.md", text.as_bytes(), 0o644);
    // Not the figures of the item before.
    let works = |slot: &&str| {
        let status = agent(&root, slot);
        status["item"] == "long.md" && status["turns"].as_u64() > Some(2)
    };
    root.wait_until("it works", || ["agent-1", "agent-2"].iter().any(works));
    let slot = ["agent-1", "agent-2"]
        .into_iter()
        .find(|s| works(s))
        .unwrap();
    second.kill9();
    root.ok(&["interrupt", slot, "look at this"]);
    let mut third = root.start(&["--workers", "1"]);
    root.wait_until("it is paused", || has_state(&root, slot, "interrupted"));
    let context = folder(&root, "long.md").join("interrupt.md");
    root.wait_until("the context is there", || context.exists());
    assert!(
        fs::read_to_string(context)
            .unwrap()
            .contains("look at this")
    );
    third.signal("TERM");
    third.wait();
    root.assert_nothing_left();
}

#[test]
fn an_answer_reaches_the_next_attempt_with_the_work_of_the_one_that_asked() {
    for cli in ["claude", "codex"] {
        let root = root_with(cli, "");
        // Asks and ends without waiting; what it did before that is not lost.
        play(
            &root,
            "ask.md",
            "question first=1 wait=no file=a.txt text=Which_colour?",
        );
        let mut run = root.start(&["--workers", "1"]);
        root.wait_until("it is paused, or its item waits", || {
            has_state(&root, "agent-1", "interrupted")
        });
        root.ok(&["resume", "agent-1", "--answer", "green"]);
        root.wait_until("it is done", || root.is_done("ask.md"));
        let dir = folder(&root, "ask.md");
        if root.show("ask.md")["attempts"].as_array().unwrap().len() == 1 {
            // It was frozen before it had ended: it ended, and asked nothing more.
            let answer = fs::read_to_string(dir.join("answer.md")).unwrap();
            assert_eq!(answer, "green\n");
        } else {
            let prompt = fs::read_to_string(dir.join("prompt.md")).unwrap();
            assert!(
                prompt.contains("> Which colour?\n") && prompt.contains("> green\n"),
                "{prompt}"
            );
        }
        run.signal("INT");
        assert_eq!(run.wait(), Some(0), "{}", run.said());
        root.assert_nothing_left();
    }
}

#[test]
fn a_second_interrupt_is_told_like_the_first_and_one_that_takes_anothers_place() {
    let marker = tempfile::tempdir().unwrap();
    let told = marker.path().join("told");
    let notify = format!(
        "notify = [\"sh\", \"-c\", \"echo $HARNESS_REASON >> {}\"]",
        told.display()
    );
    let root = root_with("claude", &notify);
    let go = root.at("go");
    root.script(
        "long",
        &format!("while [ ! -e {} ]; do sleep 0.05; done", go.display()),
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it works", || has_state(&root, "agent-1", "working"));
    let is_told = |words: &str| fs::read_to_string(&told).is_ok_and(|t| t.contains(words));
    for words in ["first", "second", "third"] {
        root.ok(&["interrupt", "agent-1", words]);
        root.wait_until("a person was told", || is_told(words));
        let context = folder(&root, "long").join("interrupt.md");
        root.wait_until("the context is of this one", || {
            fs::read_to_string(&context).is_ok_and(|t| t.contains(words))
        });
        root.ok(&["resume", "agent-1"]);
        root.wait_until("it works", || has_state(&root, "agent-1", "working"));
    }
    let raised = root.at("state/interrupts/agent-1.interrupt");
    fs::write(&raised, "fourth\n").unwrap();
    root.wait_until("a person was told", || is_told("fourth"));
    // In one step: it is never seen gone.
    fs::write(root.at("fifth"), "fifth\n").unwrap();
    fs::rename(root.at("fifth"), &raised).unwrap();
    root.wait_until("a person was told", || is_told("fifth"));
    fs::write(go, "").unwrap();
    root.ok(&["resume"]);
    root.wait_until("it is done", || root.is_done("long"));
    let events = root.events("long");
    assert_eq!(
        events.iter().filter(|e| *e == "interrupted").count(),
        5,
        "{events:?}"
    );
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
    root.assert_nothing_left();
}

#[test]
fn a_persons_interrupt_at_the_last_moment_is_no_question_of_the_agents() {
    let root = root_with("claude", "");
    // It raises it itself, as a person would: by the command, without the marks of an agent.
    let harness = env!("CARGO_BIN_EXE_harness");
    root.script(
        "x",
        &format!(
            "env -u HARNESS_SESSION {harness} --root \"$HARNESS_ROOT\" interrupt agent-1 'let me look' 2>&1"
        ),
    );
    let mut run = root.start(&["--workers", "1"]);
    root.wait_until("it has ended, or waits", || {
        root.is_done("x") || has_state(&root, "agent-1", "interrupted")
    });
    root.ok(&["resume"]);
    root.wait_until("it is done", || root.is_done("x"));
    let show = root.show("x");
    let said = fs::read_to_string(folder(&root, "x").join("stdout.log")).unwrap();
    let attempts = show["attempts"].as_array().unwrap().len();
    assert_eq!(attempts, 1, "{said}{show:#}");
    run.signal("INT");
    assert_eq!(run.wait(), Some(0));
    assert_eq!(hidden(&root), Vec::<String>::new());
    root.assert_nothing_left();
}
