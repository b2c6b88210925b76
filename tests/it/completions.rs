//! What shells complete: bash, zsh and fish themselves, each on a terminal, with the scripts that
//! `harness completions` prints; and what `harness complete` tells them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Root, describe, skipped};
use crate::terminal::Terminal;

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];
const SIZE: (u16, u16) = (160, 50);
/// Each is completed from its first two characters.
const ODD: &[&str] = &[
    "a1 $(touch pwned)",
    "a2`touch pwned`",
    "a3;touch pwned;",
    "a4'it's",
    "a5\"quoted\"",
    "a6\\back\\",
    "a7*?[a]{b,c}",
    "a8!!",
    "a9é漢",
    "b1&touch pwned&",
    "b2>pwned",
    "b3|touch pwned",
    "b4$HOME ~x",
    "b5:x=y:z",
    "b6#-x",
    "b7 ' $(touch pwned) '",
    "b8\" $(touch pwned) \"",
    "b9%d%s",
];
/// They cannot stand in a list: none is offered, and none does anything.
const UNSEEN: [&[u8]; 5] = [
    b"c1\n$(touch pwned)",
    b"c2\x1b[2J\x1b]0;x\x07",
    b"c3\xff$(touch pwned)",
    b"c4\t`touch pwned`",
    "c5\u{202e}x".as_bytes(),
];

fn has(shell: &str) -> bool {
    let found = Command::new(shell).arg("--version").output().is_ok();
    if !found {
        skipped(&format!("completion in {shell}, which is not installed"));
    }
    found
}

/// The shell with our script as a user has it, in a ROOT.
fn shell(root: &Root, shell: &str) -> Terminal {
    let home = root.at("home");
    fs::create_dir_all(&home).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_harness")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("env");
    command.arg("-C").arg(root.path()).arg(shell);
    command.env("HOME", &home).env("PATH", path);
    command.env("LC_ALL", "C.UTF-8").env_remove("HARNESS_ROOT");
    match shell {
        "bash" => {
            let rc = "PS1='ready> '; source <(harness completions bash)\n";
            fs::write(home.join("rc"), rc).unwrap();
            command
                .arg("--noprofile")
                .arg("--rcfile")
                .arg(home.join("rc"))
                .arg("-i");
        }
        "zsh" => {
            let rc = "PS1='ready> '; autoload -Uz compinit; compinit -u; source <(harness completions zsh)\n";
            fs::write(home.join(".zshrc"), rc).unwrap();
            command.args(["-d", "-i"]);
            command.env("ZDOTDIR", &home);
        }
        _ => {
            let rc =
                "function fish_prompt; echo -n 'ready> '; end; harness completions fish | source";
            command.args(["--no-config", "-i", "-C", rc]);
        }
    }
    let terminal = Terminal::run(&command, SIZE);
    terminal.shows("ready>");
    terminal
}

/// What a program that a shell started has written there, once it is all.
fn written(shell: &Terminal, root: &Root, file: &str) -> String {
    let path = root.at(file);
    let text = || fs::read_to_string(&path).unwrap_or_default();
    shell.until(&format!("{file} is written"), |_| text().ends_with('\n'));
    text()
}

fn with_items(names: &[&str]) -> Root {
    let root = Root::plain();
    for name in names {
        root.drop_file(name, b"Do it.\n", 0o644);
    }
    root
}

#[test]
fn a_hostile_name_is_completed_as_one_word_in_each_shell() {
    for name in SHELLS.into_iter().filter(|shell| has(shell)) {
        let root = with_items(ODD);
        for name in UNSEEN {
            root.drop_file(OsStr::from_bytes(name), b"Do it.\n", 0o644);
        }
        let mut shell = shell(&root, name);
        for (n, item) in ODD.iter().enumerate() {
            let start: String = item.chars().take(2).collect();
            shell.keys(&format!("harness show {start}\t--json >out-{n}\n"));
            let shown: Value = serde_json::from_str(&written(&shell, &root, &format!("out-{n}")))
                .unwrap_or_else(|e| panic!("{name}: {item}: {e}\n{}", shell.screen()));
            assert_eq!(shown["item"], *item, "{name}\n{}", shell.screen());
        }
        for (n, start) in ["c1", "c2", "c3", "c4", "c5"].iter().enumerate() {
            shell.keys(&format!(
                "harness show {start}\t; echo it-is-over >over-{n}\n"
            ));
            written(&shell, &root, &format!("over-{n}"));
        }
        // A quote, or a substitution, that has begun.
        for start in ["\"a", "'a", "$(", "`", "\"$(", "a1\\ $(", "\\$(", "b2>"] {
            // Where zsh asks whether to list thousands of commands, no; then the line is cleared.
            shell.keys(&format!("harness show {start}\tn\u{15}"));
            shell.keys("harness list --json >listed\n");
            written(&shell, &root, "listed");
            fs::remove_file(root.at("listed")).unwrap();
        }
        assert!(!root.at("pwned").exists(), "{name}: {}", shell.written());
        let touched = shell.written().contains("\u{1b}]0;x");
        assert!(!touched, "{name}: a name reached the terminal as it is");
    }
}

#[test]
fn a_word_in_quotes_and_one_behind_an_equals_sign_are_completed() {
    for name in SHELLS.into_iter().filter(|shell| has(shell)) {
        let root = with_items(&["one two", "x:yes", "x:no"]);
        let mut shell = shell(&root, name);
        for (n, (typed, item)) in [
            ("show 'one\t", "one two"),
            ("show \"one\t", "one two"),
            ("show 'one \t", "one two"),
            ("show \"one t\t", "one two"),
            ("show one\\ \t", "one two"),
            ("show x:y\t", "x:yes"),
            ("--root=. show on\t", "one two"),
            ("--root . show on\t", "one two"),
        ]
        .into_iter()
        .enumerate()
        {
            shell.keys(&format!("harness {typed} --json >q-{n}\n"));
            let text = written(&shell, &root, &format!("q-{n}"));
            assert!(
                text.contains(&format!("{item:?}")),
                "{name}: {typed}: {text}"
            );
        }
        shell.keys("harness add --agent=cl\t --prompt x --name by-agent --json >added\n");
        written(&shell, &root, "added");
        assert_eq!(root.show("by-agent")["fields"]["agent"], "claude", "{name}");
    }
}

#[test]
fn files_are_completed_where_a_file_is_wanted_and_only_there() {
    for name in SHELLS.into_iter().filter(|shell| has(shell)) {
        let root = with_items(&["item"]);
        fs::write(root.at("zfile one"), "Do it.\n").unwrap();
        let mut shell = shell(&root, name);
        shell.keys("harness add zf\t --json >added\n");
        written(&shell, &root, "added");
        assert_eq!(root.show("zfile one")["item"], "zfile one", "{name}");
        shell.keys("harness list --json >zf\t\n");
        let listed = root.at("zfile one");
        root.wait_until("the list is in the file", || {
            fs::read(&listed).unwrap().starts_with(b"[")
        });
        fs::rename(listed, root.at("yfile")).unwrap();
        shell.keys("harness show yf\t; echo it-is-over >over\n");
        written(&shell, &root, "over");
        assert!(
            !shell.screen().contains("yfile"),
            "{name}:\n{}",
            shell.screen()
        );
    }
}

#[test]
fn without_a_root_a_shell_is_told_nothing_and_says_nothing() {
    let root = Root::plain();
    let nowhere = root.at("nowhere");
    fs::create_dir(&nowhere).unwrap();
    fs::remove_file(root.at("harness.toml")).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_harness"))
        .args(["complete", "zsh", "--root", "/nonexistent", "show", ""])
        .current_dir(&nowhere)
        .output()
        .unwrap();
    assert_eq!(
        (out.status.code(), &*out.stdout),
        (Some(0), &b""[..]),
        "{}",
        describe(&out)
    );
    for wrong in [
        &["complete"][..],
        &["complete", "sh", "x"],
        &["complete", "bash", "x"],
    ] {
        let out = root.command().args(wrong).output().unwrap();
        assert!(out.stdout.is_empty(), "{wrong:?}: {}", describe(&out));
    }
}

/// Words that are offered at the end of this line, without what is said of them.
fn offered(root: &Root, line: &[&str]) -> Vec<String> {
    let out = complete(root, line);
    assert_eq!(out.status.code(), Some(0), "{line:?}: {}", describe(&out));
    let text = String::from_utf8(out.stdout).unwrap();
    let word = |line: &str| line.split('\t').next().unwrap().to_owned();
    text.lines().map(word).collect()
}

fn complete(root: &Root, line: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harness"));
    command.args(["complete", "fish"]).args(line);
    command.current_dir(root.path()).env_remove("HARNESS_ROOT");
    command.output().unwrap()
}

#[test]
fn a_name_that_fish_takes_for_a_home_is_not_offered_there() {
    let root = with_items(&["~root", "x~y"]);
    assert_eq!(offered(&root, &["show", ""]), ["x~y"]);
}

#[test]
fn each_command_is_offered_what_it_takes() {
    let root = Root::with_repo();
    root.script("good", "true");
    root.script("bad", "#harness retries: 0\nexit 3");
    root.drain();
    root.config(
        "[repo]\npath = \"repo\"\n[tokens]\nbuild = 2\n[agents.mine]\ncommand = [\"sh\"]\n",
    );
    root.script("waits", "true");
    root.script("-dash", "true");
    for place in ["review", "merge"] {
        fs::write(root.at("queue").join(place).join(place), "Do it.\n").unwrap();
    }
    root.ok(&["interrupt", "all", "look"]);
    root.ok(&["pause"]);
    let session = root.show("good")["attempts"][0]["session"]
        .as_str()
        .unwrap()
        .to_owned();
    let is = |line: &[&str], want: &[&str]| {
        let mut got = offered(&root, line);
        got.sort();
        assert_eq!(got, want, "{line:?}");
    };
    is(&["show", ""], &["bad", "good", "merge", "review", "waits"]);
    is(&["show", "--", "-"], &["-dash"]);
    is(&["wait", "bad", "g"], &["good"]);
    is(&["logs", "w"], &["waits"]);
    is(&["retry", ""], &["bad", "good"]);
    is(&["cancel", ""], &["merge", "review", "waits"]);
    is(&["release", ""], &["waits"]);
    is(&["approve", ""], &["review"]);
    is(&["review", "r"], &["review"]);
    is(&["reject", ""], &["merge", "review"]);
    is(&["add", "--after", "wa"], &["waits"]);
    is(&["add", "--agent", "m"], &["mine"]);
    is(&["add", "-p", ""], &["high", "low", "medium"]);
    is(&["sandbox", "explain", "s"], &["script"]);
    is(&["with", "b"], &["build"]);
    is(&["config", "set", "retry.m"], &["retry.max"]);
    is(&["list", "p"], &["parked", "pending"]);
    is(&["retry", "--all", "f"], &["failed"]);
    is(
        &["interrupt", ""],
        &["agent-1", "agent-2", "agent-3", "all"],
    );
    is(&["resume", ""], &["all", "pause"]);
    is(&["completions", ""], &["bash", "fish", "zsh"]);
    is(&["session", "summary", &session[..30]], &[&session]);
    is(&["session", "watch", "agent-2"], &["agent-2"]);
    is(&["schema", "status.j"], &["status.json"]);
    is(&["help", "budget"], &["budget", "budgets"]);
    is(&["help", "session", "wa"], &["watch"]);
    is(&["man", "config", ""], &["set"]);
    is(&["wait", "--t"], &["--timeout"]);
    is(&["sess"], &["session"]);
    for line in [
        &["add", ""][..],
        &["init", ""],
        &["--root", ""],
        &["with", "build", "--", ""],
    ] {
        assert_eq!(complete(&root, line).status.code(), Some(1), "{line:?}");
    }
}

/// The first and the last: what a shell inserts by itself is what all of them begin with.
#[test]
fn of_very_many_names_a_hundred_are_offered() {
    let root = Root::plain();
    for n in 0..3_000 {
        fs::write(root.at(format!("queue/done/n-{n:04}")), "x").unwrap();
    }
    let all = offered(&root, &["show", "n"]);
    assert_eq!(all.len(), 101);
    assert_eq!(
        (&*all[0], &*all[99], &*all[100]),
        ("n-0000", "n-0099", "n-2999")
    );
    assert_eq!(offered(&root, &["show", "n-271"]).len(), 10);
}
