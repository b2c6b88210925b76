//! What `harness run` shows on a terminal below its lines, and what a pipe gets.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::support::{DEADLINE, Root, describe, kill, pause, run_within, skipped};
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
        for words in ["started     ", "succeeded   "] {
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
        // Long enough for progress, had a pipe any.
        root.script(format!("again-{force}"), "sleep 1");
        let out = root.harness(&RUN);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(said.contains("\x1b[32msucceeded"), colored, "{said:?}");
        assert!(!said.contains(" running"), "{said:?}");
        let end = "\x1b[0m";
        assert_eq!(said.matches('\x1b').count(), 2 * said.matches(end).count());
    }
}

/// A tmux of its own: a terminal that wraps what is there to its new width.
struct Tmux(PathBuf);

impl Tmux {
    /// Runs `harness ARGS` in it, and what that showed stays; `None`: there is no tmux.
    fn harness(root: &Root, args: &str) -> Option<Tmux> {
        let tmux = Tmux(root.at("tmux"));
        let mut start = tmux.command(&["-f", "/dev/null", "new-session", "-d"]);
        start.args(["-x", "100", "-y", "50"]);
        for (name, value) in root.command().get_envs() {
            match value {
                Some(value) => start.env(name, value),
                None => start.env_remove(name),
            };
        }
        let (harness, dir) = (env!("CARGO_BIN_EXE_harness"), root.path().display());
        start.arg(format!("exec {harness} --root {dir} {args}"));
        start.args([";", "set-option", "remain-on-exit", "on"]);
        match start.output() {
            Ok(out) => assert!(out.status.success(), "{}", describe(&out)),
            Err(_) => return None,
        }
        Some(tmux)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-u", "-S"]).arg(&self.0).args(args);
        command.env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let out = run_within(DEADLINE, self.command(args)).unwrap();
        assert!(out.status.success(), "{args:?}: {}", describe(&out));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Changes its width. The program is stopped meanwhile, as tmux wraps the lines first and tells the
    /// new size later.
    fn resize(&self, root: &Root, width: u16) {
        let pane = self.run(&["display-message", "-p", "#{pane_pid} #{pane_tty}"]);
        let (pid, tty) = pane.trim().split_once(' ').unwrap();
        let pid = pid.parse().unwrap();
        kill(pid, "STOP");
        self.run(&["resize-window", "-x", &width.to_string(), "-y", "50"]);
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY;
        let tty = open(tty, flags, Mode::empty()).unwrap();
        root.wait_until("the terminal has its new size", || {
            rustix::termios::tcgetwinsize(&tty).unwrap().ws_col == width
        });
        kill(pid, "CONT");
    }

    /// Waits until all that was ever on it, as one line for each that was written, is so.
    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let all = self.run(&["capture-pane", "-p", "-J", "-S", "-"]);
            if is_so(&all) {
                return all;
            }
            assert!(Instant::now() < end, "waited in vain until {what}:\n{all}");
            pause();
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ended = self.command(&["kill-server"]).output();
    }
}

#[test]
fn a_terminal_that_changes_its_width_keeps_each_line_and_nothing_stale() {
    // In the second case what is drawn fills the screen from its first row on.
    for (before, widths) in [(6, &[31, 100, 36, 80][..]), (0, &[27])] {
        if !changes_its_width(before, widths) {
            return skipped("progress on a terminal that is resized: tmux is not here");
        }
    }
}

/// With this many items that have ended before. `false`: there is no tmux.
fn changes_its_width(before: usize, widths: &[u16]) -> bool {
    let root = Root::plain();
    let go = root.at("go");
    for n in 0..before {
        root.script(format!("first-{n}"), "#harness priority: 9\ntrue");
    }
    let body = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    for n in 0..2 {
        // Of two cells each, which no end of a row cuts.
        root.script(format!("{n}-{}", "漢".repeat(15)), &body);
    }
    let Some(tmux) = Tmux::harness(&root, "run --drain --workers 2") else {
        return false;
    };
    let is_whole = |all: &str| {
        let begin = |begin: &str| all.lines().filter(|l| l.starts_with(begin)).count();
        begin("2 running, 0 waiting, ") == 1
            && begin("  agent-") == 2
            && begin("agent-") == 2 + 2 * before
            && all.starts_with("harness: 2 workers")
            && !all.contains("starting")
    };
    tmux.until("two run", is_whole);
    for &width in widths {
        tmux.resize(&root, width);
        let what = format!("it is drawn anew and whole at {width} columns");
        // What is too long for it ends so.
        let is_new = |all: &str| all.contains('…') == (width < 50);
        tmux.until(&what, |all| is_new(all) && is_whole(all));
    }
    fs::write(&go, "").unwrap();
    let end = format!("{} done, 0 parked", before + 2);
    let all = tmux.until("all are done", |all| all.contains(&end));
    for gone in [" running, ", "  agent-"] {
        assert!(!all.contains(gone), "{gone}: {all}");
    }
    assert_eq!(all.matches("started    ").count(), before + 2, "{all}");
    true
}
