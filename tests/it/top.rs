//! `harness top` on a real terminal: what a person sees and does, and how the terminal is left.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use crate::agents::{play, root_with};
use crate::review::{branch_tip, events, is_in, reviewed, said};
use crate::support::{DEADLINE, Root, describe, git, kill, run_within};
use crate::terminal::Terminal;

const USUAL: (u16, u16) = (80, 24);

/// A script that waits for a file beside the queue.
fn waits(root: &Root, name: &str, says: &str) {
    let go = root.at("go");
    let body = format!(
        "echo {says}\nuntil [ -e {} ]; do sleep 0.05; done",
        go.display()
    );
    root.script(name, &body);
}

#[test]
fn ten_agents_and_a_question_that_is_answered() {
    let root = root_with("claude", "");
    for n in 0..9 {
        waits(
            &root,
            &format!("job-{n}.sh"),
            &format!("working on part {n}"),
        );
    }
    play(&root, "ask.md", "question text=Which_colour?");
    let mut run = root.start(&["--workers", "10"]);
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.until("all work and one asks", |screen| {
        let rows = screen.lines().filter(|line| line.starts_with("agent-"));
        rows.count() == 10 && screen.matches(" working ").count() == 9 && screen.contains(" asks ")
    });
    top.shows_all(&[
        "10 workers, up ",
        "0 pending, 10 claimed",
        "1 Agents 10]",
        " asks: Which colour?",
        "a answer",
    ]);
    // What the meant agent prints stands below.
    top.keys("/job-3\r");
    top.shows("working on part 3");
    top.keys("\x1b");
    top.until("all are there again", |screen| screen.contains("job-8.sh"));
    top.keys("a");
    top.until("the answer is wanted", |screen| {
        screen.contains("answer agent-")
    });
    top.keys("bl");
    top.keys("ue\r");
    top.until("it goes on", |screen| !screen.contains("asks"));
    root.wait_until("it is done", || root.is_done("ask.md"));
    let resumed = &events(&root, "ask.md", "resumed")[0];
    let session = root
        .at("state/sessions")
        .join(resumed["session"].as_str().unwrap());
    assert_eq!(
        fs::read_to_string(session.join("answer.md"))
            .unwrap()
            .trim(),
        "blue"
    );
    // Its events, from its row on the list of what ended.
    top.keys("3");
    top.until("it stands there", |screen| {
        screen
            .lines()
            .any(|l| l.contains("succeeded") && l.contains("ask.md"))
    });
    top.keys("/ask\rl");
    top.shows_all(&["ended    ask.md", "tool     Write"]);
    top.keys("qq");
    top.ends_with(0);
    top.assert_left_as_found();
    fs::write(root.at("go"), "").unwrap();
    root.ok(&["drain"]);
    assert_eq!(run.wait(), Some(0), "{}", run.said());
}

#[test]
fn a_comment_in_a_diff_goes_back_to_the_agent_and_an_approval_is_for_what_was_shown() {
    let root = Root::with_repo();
    let body = "printf 'one\\ntwo\\nthree\\n' > new.txt";
    reviewed(&root, &[("good", body), ("bad", body), ("moved", body)]);
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.keys("2");
    top.until("all three wait", |screen| {
        screen.matches("review ").count() >= 3
    });
    top.keys("/bad\rd");
    top.shows_all(&[
        "+three",
        "harness/bad/1 at ",
        "1 commit, 1 file, +3 -0, for main",
    ]);
    // On the second new line.
    top.keys("/two\rm");
    top.shows("new.txt:2: ");
    top.keys("why two? it's; $(touch /tmp/x) \"q\"\r");
    top.shows(">> why two?");
    // It is not lost by a slip.
    top.keys("q");
    top.shows("forget 1 comment");
    top.keys("ny");
    top.shows("your comments would be lost");
    top.keys("s");
    top.shows("send bad back");
    top.keys("y");
    top.shows("back in the queue, with your comment");
    root.wait_until("it is sent back", || is_in(&root, "pending", "bad"));
    let rejected = &events(&root, "bad", "rejected")[0];
    assert_eq!(
        rejected["comment"],
        "new.txt:2: why two? it's; $(touch /tmp/x) \"q\""
    );
    assert_eq!(rejected["commit"], branch_tip(&root, "harness/bad/1"));

    // What was shown is approved, and nothing else.
    top.keys("\x1b/moved\rd");
    top.shows("harness/moved/1 at ");
    let shown = branch_tip(&root, "harness/moved/1");
    git(&root.repo(), &["branch", "-f", "harness/moved/1", "main"]);
    // Somebody else has been told of it; who sits here has not.
    root.exits(100, &["approve", "moved"]);
    let now = branch_tip(&root, "harness/moved/1");
    top.keys("y");
    top.shows("look again");
    assert!(is_in(&root, "review", "moved"));
    top.shows(&format!("harness/moved/1 at {}, 0 commits", &now[..9]));
    top.keys("y");
    top.shows("approved at ");
    root.wait_until("it waits to be merged", || is_in(&root, "merge", "moved"));
    let approved = events(&root, "moved", "approved");
    assert_eq!(approved.len(), 1);
    assert_eq!(approved[0]["commit"], now);
    assert_ne!(shown, now);

    let out = root.exits(100, &["approve", "good", "--commit", &now]);
    assert!(said(&out).contains(" is at "), "{}", describe(&out));
    root.exits(2, &["approve", "good", "--commit", "HEAD"]);
    let tip = branch_tip(&root, "harness/good/1");
    root.ok(&["approve", "good", "--commit", &tip[..12]]);
    top.keys("q");
    top.ends_with(0);
}

#[test]
fn however_it_ends_the_terminal_is_as_it_was() {
    let root = Root::plain();
    for (how, code) in [
        ("q", 0),
        ("\x03", 0),
        ("TERM", 143),
        ("HUP", 129),
        ("INT", 130),
        ("QUIT", 131),
    ] {
        let mut top = Terminal::harness(&root, &["top"], USUAL);
        top.shows("NO HARNESS RUNS");
        assert!(top.is_taken() && !top.has_cursor());
        match how.len() {
            1 => top.keys(how),
            _ => kill(top.pid(), how),
        }
        top.ends_with(code);
        top.assert_left_as_found();
    }
    // Its window is closed: nobody is there to leave anything to.
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.shows("NO HARNESS RUNS");
    top.close();
    top.ends_with(129);
    // The tree goes away.
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.shows("NO HARNESS RUNS");
    let away = root.path().with_extension("away");
    fs::rename(root.path(), &away).unwrap();
    top.ends_with(100);
    fs::rename(&away, root.path()).unwrap();
    top.assert_left_as_found();
    top.shows("it was moved or removed");
}

/// Only with `--features mutants`: nothing else makes it panic.
#[test]
#[cfg(feature = "mutants")]
fn a_panic_leaves_the_terminal_as_it_was_and_says_so_there() {
    let mut root = Root::plain();
    // Beside the fault of this run, if it has one (tests/mutants.py).
    let more = std::env::var("HARNESS_MUTANT").unwrap_or_default();
    let faults = format!("top-panics,{more}");
    root.env.push(("HARNESS_MUTANT", faults.into()));
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.shows("NO HARNESS RUNS");
    top.keys("!");
    top.ends_with(101);
    top.assert_left_as_found();
    top.shows("panicked at");
}

#[test]
fn it_stops_as_other_programs_do_and_goes_on() {
    let root = Root::plain();
    let mut shell = Command::new("bash");
    shell
        .args(["--norc", "--noprofile", "-i"])
        .env("PS1", "ready> ");
    shell
        .env("HARNESS", env!("CARGO_BIN_EXE_harness"))
        .env("R", root.path());
    let mut top = Terminal::run(&shell, USUAL);
    top.shows("ready> ");
    top.keys("$HARNESS --root $R top\n");
    top.shows("NO HARNESS RUNS");
    top.keys("\x1a");
    top.until("the shell is there", |screen| {
        screen.contains("Stopped") && screen.ends_with("ready> ")
    });
    assert!(!top.is_taken() && top.has_cursor());
    top.keys("stty -a | grep -o ' icanon'\n");
    top.shows(" icanon");
    top.keys("fg\n");
    top.until("it is there again", |screen| {
        screen.contains("NO HARNESS RUNS") && top.is_taken()
    });
    top.keys("q");
    top.until("the shell is there", |screen| screen.ends_with("ready> "));
    top.keys("exit\n");
    top.ends_with(0);
}

#[test]
fn a_narrow_terminal_and_one_that_changes_show_what_counts() {
    let root = root_with("claude", "");
    waits(&root, "a-rather-long-name-of-an-item.sh", "hello from here");
    let _run = root.start(&["--workers", "1"]);
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.until("it works", |screen| {
        screen.contains(" working ") && screen.contains("hello from here")
    });
    for (cols, rows) in [(40, 24), (40, 10), (200, 60), (40, 12), (80, 24)] {
        top.resize((cols, rows));
        let words = [
            "agent-1",
            "working",
            "SAYS",
            "1 claimed",
            "a-ra",
            "? keys",
            "q quit",
        ];
        top.until(&format!("{cols}x{rows} is whole"), |screen| {
            screen.lines().count() == usize::from(rows)
                && words.iter().all(|w| screen.contains(w))
                && screen.contains("TOKENS") == (cols >= 80)
        });
    }
    top.resize((30, 8));
    top.shows("30x8 is too small");
    top.resize((80, 24));
    top.shows("agent-1");
    top.keys("?");
    top.shows_all(&["harness top: keys", "approve exactly the commit"]);
    top.keys("xq");
    top.ends_with(0);
}

#[test]
fn names_and_words_from_outside_act_on_nothing() {
    let root = Root::plain();
    let names: [&[u8]; 4] = [
        b"a\x1b[2J\x1b]52;c;eA==\x07b",
        b"-rf $(touch x)",
        b"c\n\xffd",
        "e\u{202e}f漢字👩‍👩‍👧".as_bytes(),
    ];
    let go = root.at("go");
    let body = format!(
        "#!/bin/sh\nprintf 'x\\033[31;1mred\\033]0;title\\007\\n'\nuntil [ -e {} ]; do sleep 0.05; done\n",
        go.display()
    );
    for name in names {
        root.drop_file(std::ffi::OsStr::from_bytes(name), body.as_bytes(), 0o755);
    }
    let _run = root.start(&["--workers", "4"]);
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.until("all work", |screen| {
        screen.matches(" working ").count() == 4
    });
    // Each is canceled by its own name.
    for n in 0..4 {
        top.keys(&format!("g{}l", "j".repeat(n)));
        top.shows("x\\u{1b}[31;1mred");
        top.keys("qc");
        top.shows("cancel ");
        top.keys("y");
        top.until("one less works", |screen| {
            screen.matches(" working ").count() == 3 - n
        });
        root.wait_until("it is parked", || {
            let entries = fs::read_dir(root.at("queue/parked")).unwrap().flatten();
            entries
                .filter(|e| !e.file_name().as_bytes().starts_with(b"."))
                .count()
                == n + 1
        });
    }
    top.keys("2");
    top.until("all are parked", |screen| {
        screen.matches("parked ").count() >= 4
    });
    let evil = "stop\u{202e}now\x1b]52;c;eA==\x07\n";
    fs::write(root.at("state/interrupts/agent-1.interrupt"), evil).unwrap();
    top.shows("! agent-1 asks: stop\\u{202e}now");
    top.keys("q");
    top.ends_with(0);
    let written = top.written();
    for evil in ["\x1b]52", "\x1b]0;", "\u{202e}", "\x1b[31;1m"] {
        assert!(!written.contains(evil), "{evil:?}");
    }
}

#[test]
fn a_pause_is_set_and_ended_alone_and_a_parked_item_is_retried() {
    let root = Root::plain();
    root.script("fails", "exit 3");
    root.drain();
    assert!(root.is_parked("fails"));
    root.ok(&["interrupt", "agent-1", "wait", "for", "me"]);
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.keys("p");
    top.shows("PAUSED");
    assert!(root.at("state/control/pause").exists());
    top.keys("p");
    top.until("it goes on", |screen| !screen.contains("PAUSED"));
    assert!(!root.at("state/control/pause").exists());
    assert!(root.at("state/interrupts/agent-1.interrupt").exists());
    top.keys("2");
    top.until("its outcome is told", |screen| {
        screen
            .lines()
            .any(|l| l.starts_with("parked") && l.contains("failed"))
    });
    top.keys("\r");
    top.shows("What now:");
    top.keys("qr");
    top.shows("fails: back in the queue");
    assert!(is_in(&root, "pending", "fails"));
    let out = root.exits(2, &["resume", "pause", "--answer", "x"]);
    assert!(said(&out).contains("asked nothing"), "{}", describe(&out));
    top.keys("q");
    top.ends_with(0);
}

#[test]
fn a_hold_and_an_order_are_each_ended_alone() {
    let root = Root::plain();
    fs::create_dir_all(root.at("state/holds")).unwrap();
    let file = |agent: &str| root.at(format!("state/holds/{agent}.hold"));
    for agent in ["claude", "codex"] {
        let hold = format!(
            "{{\"agent\":\"{agent}\",\"class\":\"auth\",\"reason\":\"log in to {agent}\",\
             \"since\":\"2026-01-01T00:00:00Z\"}}"
        );
        fs::write(file(agent), hold).unwrap();
    }
    root.ok(&["pause"]);
    let mut top = Terminal::harness(&root, &["top"], USUAL);
    top.shows("! claude held: log in to claude");
    top.keys("e");
    top.shows("choose a hold or an order first (3)");
    top.keys("3/codex\r");
    top.until("its key is shown", |screen| {
        screen.contains("e end it") && !screen.contains("held          claude")
    });
    top.keys("e");
    top.shows("end the hold of codex? y: yes, n: no");
    top.keys("n");
    top.shows("nothing was done");
    assert!(file("codex").exists());
    top.keys("ey");
    top.shows("the hold of codex ended");
    assert!(!file("codex").exists() && file("claude").exists());
    top.until("the other stands", |screen| {
        !screen.contains("! codex held") && screen.contains("! claude held")
    });
    top.keys("\x1b/pause\re");
    top.shows("end pause? y: yes, n: no");
    top.keys("y");
    top.shows("pause ended");
    assert!(!root.at("state/control/pause").exists() && file("claude").exists());
    top.keys("q");
    top.ends_with(0);
}

#[test]
fn without_colours_none_are_sent_and_without_a_terminal_it_says_what_to_use() {
    let mut root = Root::plain();
    let out = root.exits(2, &["top"]);
    assert!(said(&out).contains("status --watch"), "{}", describe(&out));
    let mut piped = root.command();
    piped.arg("top");
    let out = run_within(DEADLINE, piped).unwrap();
    assert!(out.stdout.is_empty());
    root.script("fails", "exit 3");
    root.drain();
    let colours = |root: &Root| {
        let mut top = Terminal::harness(root, &["top"], USUAL);
        top.keys("2");
        top.until("it is told", |screen| screen.contains("parked "));
        top.keys("q");
        top.ends_with(0);
        let written = top.written();
        written.contains("\x1b[38;5;") || written.contains("\x1b[31m")
    };
    assert!(colours(&root));
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "vt100"), ("TERM", "dumb")] {
        root.env = vec![(name, value.into())];
        assert!(!colours(&root), "{name}={value}");
    }
}
