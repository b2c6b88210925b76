//! The pages of README.md and docs/ do what they show. Each page is run as one shell script in a home
//! folder of its own, in the order in which a person reads it. What a fence says behind its language:
//!
//! | fence | |
//! |---|---|
//! | `sh run` | is run; a command that fails fails the page |
//! | `sh background` | is started and left running, its output in `~/background.log` |
//! | `console run` | what stands behind `$ ` is run, and what is shown below it is compared |
//! | `LANGUAGE into PATH` | is appended to that file |
//! | `console run in any order` | is compared line by line, and more may come |
//! | `sh not-run`, `console not-run` | is for the reader alone: it needs a network, root, or a person |
//!
//! An HTML comment `<!-- run` … `-->` is run, too, and not shown: it sets up what the reader has.
//! In what is shown, `…` stands for anything, alone on a line for any lines; times, durations, commits
//! and numbers of slots count as equal. `~/harness` is this repository, and `claude` plays what `~/.play` says, else it
//! commits a file named after its item.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::support::{describe, kill, run_within};

const PAGE_TIME: Duration = Duration::from_secs(180);
const PAGES_AT_ONCE: usize = 3;

/// A piece of a page, with the line on which it begins.
struct Piece {
    line: usize,
    kind: Kind,
}

enum Kind {
    Run(String),
    Background(String),
    Into(String, String),
    /// A command, the lines that it shows, and whether their order counts.
    Shows(String, Vec<String>, bool),
}

/// The pieces of a page. Where that is wanted, each command has to be marked.
fn pieces(text: &str, is_strict: bool) -> Result<Vec<Piece>, String> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let is_hidden = line == "<!-- run";
        let end = if is_hidden { "-->" } else { "```" };
        let Some(info) = line
            .trim_start()
            .strip_prefix("```")
            .or(is_hidden.then_some("sh run"))
        else {
            continue;
        };
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, l)| l.get(indent..).unwrap_or_default())
            .take_while(|l| *l != end)
            .collect();
        let line = n + 1;
        let text = body.join("\n");
        match info.split(' ').collect::<Vec<_>>()[..] {
            ["sh", "run"] => found.push(Piece {
                line,
                kind: Kind::Run(text),
            }),
            ["sh", "background"] => found.push(Piece {
                line,
                kind: Kind::Background(text),
            }),
            ["console", "run"] => found.extend(shown(line, &body, true)),
            ["console", "run", "in", "any", "order"] => found.extend(shown(line, &body, false)),
            [_, "into", path] => {
                let kind = Kind::Into(path.to_owned(), text);
                found.push(Piece { line, kind });
            }
            ["sh" | "console", "not-run"] => {}
            ["sh" | "console", ..] if is_strict => {
                return Err(format!("line {line}: is `{info}` run or not?"));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The commands of a console, each with what it shows.
fn shown(line: usize, body: &[&str], in_order: bool) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    for (n, text) in body.iter().enumerate() {
        match (text.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push(Piece {
                line: line + n + 1,
                kind: Kind::Shows(command.to_owned(), Vec::new(), in_order),
            }),
            (
                None,
                Some(Piece {
                    kind: Kind::Shows(command, shown, _),
                    ..
                }),
            ) => match text.strip_prefix("> ") {
                Some(more) if shown.is_empty() => *command += &format!("\n{more}"),
                _ => shown.push((*text).to_owned()),
            },
            _ => {}
        }
    }
    found
}

/// All of a page as one script. Before each piece it prints a mark with the number of the piece.
fn script(pieces: &[Piece]) -> String {
    let mut script = String::from("set -e\n_r=0\n");
    for (n, Piece { kind, .. }) in pieces.iter().enumerate() {
        script += &format!("printf '\\n\\036{n}\\n'\n");
        script += &match kind {
            Kind::Run(text) => format!("{text}\n"),
            Kind::Background(text) => format!("{{\n{text}\n}} >>~/background.log 2>&1 &\n"),
            Kind::Into(path, text) => {
                format!("cat >>{path} <<'END-OF-PIECE'\n{text}\nEND-OF-PIECE\n")
            }
            // `echo $?` tells the exit code of the command before.
            Kind::Shows(command, ..) => format!("set +e\n(exit $_r)\n{command}\n_r=$?\nset -e\n"),
        };
    }
    script
}

/// A person's home folder: git's settings, this repository, harness and an agent's CLI on the path.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let dir = tempfile::Builder::new().prefix("docs-").tempdir().unwrap();
        let home = Home { dir };
        let git =
            "[user]\n\tname = You\n\temail = you@example.com\n[init]\n\tdefaultBranch = main\n";
        home.write(".gitconfig", git, 0o644);
        let mock = env!("CARGO_BIN_EXE_mock-agent");
        let play =
            "MOCK_PLAY=$(cat ~/.play 2>/dev/null || echo \"success file=$HARNESS_ITEM.txt\")";
        let play = format!("{play}\nMOCK_HOME=~/.claude\nexport MOCK_PLAY MOCK_HOME");
        let claude = format!("#!/bin/sh\n{play}\nexec {mock} claude \"$@\"\n");
        fs::create_dir(home.path().join("bin")).unwrap();
        home.write("bin/claude", &claude, 0o755);
        let bin = home.path().join("bin/harness");
        symlink(env!("CARGO_BIN_EXE_harness"), bin).unwrap();
        symlink(env!("CARGO_MANIFEST_DIR"), home.path().join("harness")).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn command(&self, script: &str) -> Command {
        self.write("page.sh", script, 0o755);
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg("exec sh ~/page.sh 2>&1")
            .env_clear()
            .env("PATH", format!("{}/bin:{path}", self.path().display()))
            .env("HOME", self.path())
            .env("LANG", "C.UTF-8")
            .env("USER", "you")
            // What a person waits for gladly, and a test does not.
            .envs([("HARNESS_RETRY_DELAY", "0.05"), ("HARNESS_STAGGER", "0")])
            .env("HARNESS_DURABILITY", "off")
            .current_dir(self.path())
            .process_group(0);
        command
    }
}

impl Drop for Home {
    /// Whatever the page has left running has this home in its environment.
    fn drop(&mut self) {
        let mark = format!("HOME={}", self.path().display());
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
            if let Some(pid) = pid
                && environ.split(|&b| b == 0).any(|v| v == mark.as_bytes())
            {
                kill(pid, "KILL");
            }
        }
    }
}

/// Whether what was shown is what came; how they differ.
fn compare(shown: &[String], came: &str, in_order: bool) -> Result<(), String> {
    let sense = |line: &str| {
        let words: Vec<_> = line.split_whitespace().map(sense).collect();
        Some(words.join(" ")).filter(|l| !l.is_empty())
    };
    let want: Vec<_> = shown.iter().filter_map(|l| sense(l)).collect();
    let got: Vec<_> = came.lines().filter_map(sense).collect();
    let each = |want: &[String]| want.iter().all(|w| got.iter().any(|g| line_fits(w, g)));
    match if in_order {
        lines_fit(&want, &got)
    } else {
        each(&want)
    } {
        true => Ok(()),
        false => Err(format!(
            "it shows\n{}\nbut it says\n{came}",
            shown.join("\n")
        )),
    }
}

fn lines_fit(want: &[String], got: &[String]) -> bool {
    match (want, got) {
        ([], _) => got.is_empty(),
        ([any, rest @ ..], _) if any == "…" => {
            (0..=got.len()).any(|n| lines_fit(rest, &got[n..]))
        }
        ([first, rest @ ..], [line, lines @ ..]) => {
            line_fits(first, line) && lines_fit(rest, lines)
        }
        _ => false,
    }
}

fn line_fits(want: &str, got: &str) -> bool {
    match want.split_once('…') {
        None => want == got,
        Some((start, rest)) => got.strip_prefix(start).is_some_and(|got| {
            let ends = got.char_indices().map(|(at, _)| at).chain([got.len()]);
            ends.into_iter().any(|at| line_fits(rest, &got[at..]))
        }),
    }
}

/// Times, durations, commits and slots differ from run to run.
fn sense(word: &str) -> String {
    let (head, tail) = word.split_at(word.trim_end_matches([',', ';', ')', '.', ':']).len());
    let begins = head.trim_start_matches(['(', '~', '-', '+']);
    let number = begins.trim_end_matches(|c: char| c.is_ascii_lowercase() || c == '%');
    let is_duration = number.len() < begins.len()
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let is_time = begins.contains(':')
        && begins
            .bytes()
            .all(|b| b.is_ascii_digit() || b":-TZ.+".contains(&b));
    let is_date = begins.len() == 10 && begins.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let is_id = begins.len() >= 7
        && begins.bytes().all(|b| b"0123456789abcdef-".contains(&b))
        && begins.bytes().any(|b| b.is_ascii_digit());
    let is_slot = head
        .strip_prefix("agent-")
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    match is_slot || is_duration || is_time || is_date || is_id {
        true => format!("#{tail}"),
        false => word.to_owned(),
    }
}

/// Runs a page; what it does not do as it says.
fn run(page: &Path) -> Result<(), String> {
    // README's commands for cargo are run by .ci/run.
    let is_strict = page.file_name() != Some(OsStr::new("README.md"));
    let pieces = pieces(&fs::read_to_string(page).unwrap(), is_strict)?;
    if pieces.is_empty() {
        return Ok(());
    }
    let home = Home::new();
    let out = run_within(PAGE_TIME, home.command(&script(&pieces)));
    let (out, is_late) = out.map_or_else(|out| (out, true), |out| (out, false));
    let said = String::from_utf8_lossy(&out.stdout);
    let said = said.replace(&*home.path().to_string_lossy(), "~");
    if std::env::var_os("HARNESS_DOCS_SHOW").is_some() {
        println!("{said}");
    }
    let mut reached = 0;
    for part in said.split('\u{1e}').skip(1) {
        let (number, came) = part.split_once('\n').unwrap();
        reached = number.parse().unwrap();
        let Piece { line, kind } = &pieces[reached];
        if let Kind::Shows(command, shown, in_order) = kind {
            compare(shown, came, *in_order).map_err(|e| format!("line {line}: {command}: {e}"))?;
        }
    }
    match out.status.success() && !is_late {
        true => Ok(()),
        false => Err(format!("line {}: {}", pieces[reached].line, describe(&out))),
    }
}

fn pages() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(top.join("docs")).unwrap().flatten();
    let mut pages: Vec<_> = docs
        .map(|e| e.path())
        .filter(|p| p.extension() == Some(OsStr::new("md")))
        .chain([top.join("README.md")])
        .collect();
    pages.sort();
    pages
}

/// `HARNESS_DOCS=items.md` runs that page alone, and `HARNESS_DOCS_SHOW=1` prints what came.
#[test]
fn each_page_does_what_it_shows() {
    let only = std::env::var_os("HARNESS_DOCS");
    let mut left = pages();
    left.retain(|p| only.is_none() || p.file_name() == only.as_deref());
    assert!(!left.is_empty(), "no such page");
    let left = Mutex::new(left);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PAGES_AT_ONCE {
            scope.spawn(|| {
                while let Some(page) = { left.lock().unwrap().pop() } {
                    if let Err(e) = run(&page) {
                        wrong
                            .lock()
                            .unwrap()
                            .push(format!("{}: {e}", page.display()));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The test itself can see: each of these pages is wrong.
#[test]
fn a_page_that_is_wrong_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.md");
    let says = |text: &str| {
        fs::write(&page, text).unwrap();
        run(&page)
    };
    assert_eq!(
        says("```console run\n$ echo took 12ms\ntook 7ms\n$ false\n$ echo $?\n1\n```\n"),
        Ok(())
    );
    assert_eq!(
        says("<!-- run\nx=1\n-->\n```sh run\ntest $x = 1\n```\n"),
        Ok(())
    );
    let lines = "```console run in any order\n$ seq 5\n4\n2\n```\n";
    assert_eq!(says(lines), Ok(()));
    assert_eq!(says("```console run\n$ seq 5\n1\n…\n5\n```\n"), Ok(()));
    for wrong in [
        "```sh run\nfalse\n```\n",
        "```sh\ntrue\n```\n",
        "```console run\n$ echo 2 done\n1 done\n```\n",
        "```console run\n$ seq 5\n1\n…\n4\n```\n",
        "```console run in any order\n$ seq 5\n6\n```\n",
        "```console run\n$ harness init\n```\n",
    ] {
        assert!(says(wrong).is_err(), "{wrong}");
    }
}
