//! What `harness run` shows on a terminal below its lines, and what a pipe gets.

use std::fs;

use crate::support::Root;
use crate::terminal::Terminal;

const LARGE: (u16, u16) = (100, 60);

/// Ten scripts that wait for a file beside the queue.
fn ten(root: &Root) {
    for n in 0..10 {
        let go = root.at("go");
        let body = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
        root.script(format!("wait-{n}"), &body);
    }
}

const RUN: [&str; 4] = ["run", "--drain", "--workers", "10"];

#[test]
fn a_terminal_shows_what_runs_and_keeps_the_lines_alone() {
    let root = Root::plain();
    ten(&root);
    let mut run = Terminal::harness(&root, &RUN, LARGE);
    let screen = run.until("ten run, of which eight are shown", |screen| {
        screen.contains("  and 2 more\n10 running, 0 waiting, 0 done")
    });
    let lines = |screen: &str, begin: &str| screen.lines().filter(|l| l.starts_with(begin)).count();
    assert_eq!(lines(&screen, "  agent-"), 8, "{screen}");
    assert!(screen.starts_with("harness: 10 workers"), "{screen}");
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.ended(), Some(0), "{}", run.screen());
    let screen = run.shows("10 done, 0 parked");
    for gone in [" running, ", "  agent-", "more"] {
        assert!(!screen.contains(gone), "{gone}: {screen}");
    }
    for n in 0..10 {
        for words in ["started    ", "succeeded  "] {
            let line = format!("  {words}wait-{n}");
            assert_eq!(screen.matches(&line).count(), 1, "{line}: {screen}");
        }
    }
    assert!(run.written().contains("\x1b[32msucceeded"));
}

#[test]
fn colours_are_as_people_set_them_and_a_pipe_gets_the_lines_alone() {
    let mut root = Root::plain();
    root.env.push(("NO_COLOR", "1".into()));
    ten(&root);
    let mut run = Terminal::harness(&root, &RUN, LARGE);
    run.shows("10 running, ");
    fs::write(root.at("go"), "").unwrap();
    assert_eq!(run.ended(), Some(0), "{}", run.screen());
    run.shows("10 done, ");
    let color = (30..=37).find(|n| run.written().contains(&format!("\x1b[{n}m")));
    assert_eq!(color, None, "{}", run.written());
    for (force, colored) in [("1", true), ("0", false)] {
        root.env = vec![("CLICOLOR_FORCE", force.into())];
        root.script(format!("again-{force}"), ":");
        let out = root.harness(&RUN);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(said.contains("\x1b[32msucceeded"), colored, "{said:?}");
        assert!(!said.contains(" running"), "{said:?}");
        let end = "\x1b[0m";
        assert_eq!(said.matches('\x1b').count(), 2 * said.matches(end).count());
    }
}
