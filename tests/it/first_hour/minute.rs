//! The first minute: what `init` sees and proposes, and an item that is written in an editor.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::Project;
use crate::support::{Root, describe, files_below, git};
use crate::terminal::Terminal;

const WIDE: (u16, u16) = (200, 40);

#[test]
fn init_sets_the_one_cli_proposes_the_gates_that_it_sees_and_ends_with_three_steps() {
    let mut p = Project::of(&[
        ("Cargo.toml", "[package]\n"),
        ("package.json", r#"{"scripts": {"test": "vitest"}}"#),
        ("below/go.mod", "module x\n"),
    ]);
    p.install(&["codex"]);
    let said = p.ok(&["init"]);
    for part in [
        "prompts run with codex, the one agent CLI on PATH",
        "this project has `cargo test` and `npm test`",
        "harness config set gates.test.command 'cargo test'",
        "harness config set gates.npm.command 'npm test'",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let steps: Vec<&str> = said.lines().rev().take(4).collect();
    for (step, begins) in steps.iter().zip([
        "  harness run ",
        "  harness add ",
        "  harness doctor ",
        "next:",
    ]) {
        assert!(step.starts_with(begins), "{said}");
    }
    // They stand ready, and none is set.
    let toml = p.toml();
    for part in [
        "#[gates.test]\n",
        "#command = [\"cargo\", \"test\"]\n",
        "#[gates.npm]\n#command = [\"npm\", \"test\"]\n",
    ] {
        assert_eq!(toml.matches(part).count(), 1, "{part}: {toml}");
    }
    let gates = |p: &Project| p.ok(&["config"]).matches("\ngates.").count();
    let none = gates(&p);
    p.ok(&["config", "set", "gates.npm.command", "npm test"]);
    assert!(
        gates(&p) > none
            && p.toml()
                .contains("\n[gates.npm]\ncommand = [\"npm\", \"test\"]\n")
    );
    // Who has a gate is told of none.
    let again = p.ok(&["init"]);
    assert!(!again.contains("this project has"), "{again}");
    assert!(!again.contains("the one agent CLI"), "{again}");
    let bare = Project::new();
    let said = bare.ok(&["init"]);
    assert!(!said.contains("gate"), "{said}");
}

#[test]
fn init_says_what_a_place_lacks_for_items_to_leave_branches() {
    let p = Project::new();
    let said = |name: &str, prepare: &[&[&str]]| {
        let dir = p.dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        for args in prepare {
            git(&dir, args);
        }
        p.ok_in(&dir, &["init"])
    };
    let (begin, commit) = (["init", "-q"], "git commit --allow-empty -m start");
    let outside = said("outside", &[]);
    assert!(outside.contains("in no git repository"), "{outside}");
    let empty = said("empty", &[&begin]);
    assert!(empty.contains(commit), "{empty}");
    let first: Vec<&str> = commit.split(' ').skip(1).collect();
    for good in [said("good", &[&begin, &first]), p.ok(&["init"])] {
        assert!(!good.contains("repository"), "{good}");
    }
    // Who has said what is wanted is told nothing.
    let dir = p.dir.path().join("outside");
    p.ok_in(&dir, &["config", "set", "repo.path", "none"]);
    let again = p.ok_in(&dir, &["init"]);
    assert!(!again.contains("repository"), "{again}");
}

#[test]
fn what_an_item_needs_now_is_a_harness_or_a_look_at_its_red_gate() {
    let root = Root::with_repo();
    root.config("[gates.test]\nscript = \"echo two tests failed; false\"\n");
    root.script("x", "#harness retries: 0\necho made >made");
    let now = |shown: String| shown.split("What now: ").nth(1).map(str::to_owned);
    let waits = now(root.ok(&["show", "x"])).expect("what now");
    assert!(waits.contains("no harness is running"), "{waits}");
    root.drain();
    let failed = now(root.ok(&["show", "x"])).expect("what now");
    let log = failed
        .split('`')
        .nth(1)
        .and_then(|c| c.strip_prefix("cat "));
    let log = fs::read_to_string(log.expect("a command")).unwrap();
    assert!(log.contains("two tests failed"), "{failed}\n{log}");
    assert!(failed.contains("retry x"), "{failed}");
}

/// `harness add` on a terminal, with an editor that is a shell script and gets the file as `$1`.
fn add(root: &Root, args: &[&str], editor: &str) -> Terminal {
    let path = root.at("editor");
    fs::write(&path, format!("#!/bin/sh\n{editor}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = root.command();
    command.arg("add").args(args);
    command.env("EDITOR", "false").env("VISUAL", &path);
    Terminal::run(&command, WIDE)
}

fn drafts(root: &Root) -> Vec<std::path::PathBuf> {
    files_below(&root.at("state/drafts"))
}

fn pending(root: &Root) -> Vec<(String, String)> {
    let files = files_below(&root.at("queue/pending")).into_iter();
    let files = files.filter(|path| !path.ends_with(".gitignore"));
    let named = files.map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(path).unwrap())
    });
    named.collect()
}

#[test]
fn add_with_nothing_named_opens_an_editor_and_its_help_is_no_part_of_the_item() {
    let root = Root::plain();
    // Nothing is written.
    for editor in ["true", "sed -i 's/^$/  /' \"$1\""] {
        let mut terminal = add(&root, &[], editor);
        terminal.ends_with(0);
        terminal.shows("the text is empty: nothing was added");
        assert!(pending(&root).is_empty() && drafts(&root).is_empty());
    }
    // Fields, headings and a private file; the help is there to be read.
    let text = "---\\npriority: high\\n---\\n\\n# Fix the title\\n\\nIt is wrong.";
    let editor = format!(
        "grep -q 'An empty text adds nothing' \"$1\" || exit 9; stat -c %a \"$1\" >\"$0.mode\"\n\
         {{ printf -- '{text}'; cat \"$1\"; }} >\"$1.new\"; cat \"$1.new\" >\"$1\""
    );
    let mut terminal = add(&root, &["--after", "other"], &editor);
    terminal.ends_with(0);
    let all = pending(&root);
    assert_eq!(all.len(), 1, "{all:?}\n{}", terminal.screen());
    let (name, text) = &all[0];
    assert!(name.starts_with("fix-the-title-"), "{name}");
    assert!(
        text.ends_with("---\n\n# Fix the title\n\nIt is wrong.\n"),
        "{text}"
    );
    let show = root.show(name);
    assert_eq!(show["fields"]["priority"], "high", "{show:#}");
    assert_eq!(show["state"], "blocked", "{show:#}");
    terminal.shows(name);
    assert_eq!(fs::read_to_string(root.at("editor.mode")).unwrap(), "600\n");
    assert!(drafts(&root).is_empty());
}

#[test]
fn what_was_written_stays_where_it_cannot_be_added() {
    let root = Root::plain();
    let bad = "printf -- '---\\ntimeout: soon\\n---\\nFix it.\\n' | cat - \"$1\" >\"$1.new\"; mv \"$1.new\" \"$1\"";
    let mut terminal = add(&root, &[], bad);
    terminal.ends_with(100);
    let kept = drafts(&root);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let path = kept[0].to_str().unwrap();
    terminal.until("it says where, and what is wrong", |screen| {
        let screen = screen.replace('\n', "");
        screen.contains(path) && screen.contains("field `timeout`")
    });
    // As it is to be added once it is mended.
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text, "---\ntimeout: soon\n---\nFix it.\n");
    fs::remove_dir_all(root.at("state/drafts")).unwrap();
    // An editor that fails.
    let mut terminal = add(&root, &[], "echo words >>\"$1\"; exit 3");
    terminal.ends_with(100);
    terminal.shows("what you wrote stays in");
    assert_eq!(drafts(&root).len(), 1);
    let mut terminal = add(&root, &[], "exit 3");
    terminal.ends_with(100);
    // It is named, with the variable that counts.
    terminal.until("it says which editor", |screen| {
        let screen = screen.replace('\n', "");
        let named = format!("your editor `{}` ended", root.at("editor").display());
        screen.contains(&named) && screen.contains("name another in $VISUAL")
    });
    assert_eq!(drafts(&root).len(), 1);
    // One that takes the file away: nothing stays, and nobody is sent there.
    for editor in ["rm \"$1\"", "rm \"$1\"; exit 3"] {
        let mut terminal = add(&root, &[], editor);
        terminal.ends_with(100);
        terminal.shows("cannot");
        assert!(!terminal.screen().contains("what you wrote stays"));
    }
    // What is written for an item that is there already would be lost.
    let once = ["--if-absent", "--name", "once"];
    let mut terminal = add(&root, &once, "echo words >\"$1\"");
    terminal.ends_with(2);
    terminal.shows("cannot use --if-absent");
    assert!(pending(&root).is_empty());
}

#[test]
fn the_screen_of_the_editor_is_no_part_of_the_result_and_without_a_terminal_there_is_none() {
    let root = Root::plain();
    let path = root.at("editor");
    fs::write(&path, "#!/bin/sh\necho drawn\necho 'Do it' >\"$1\"\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = std::process::Command::new("sh");
    let script = format!(
        "item=$({} --root {} add); echo \"got=$item.\"",
        env!("CARGO_BIN_EXE_harness"),
        root.path().display()
    );
    command.arg("-c").arg(script);
    command.env("VISUAL", &path).env_remove("HARNESS_ROOT");
    let terminal = Terminal::run(&command, WIDE);
    let screen = terminal.shows("got=");
    let item = pending(&root).remove(0).0;
    assert!(screen.contains("drawn"), "{screen}");
    assert!(screen.contains(&format!("got={item}.")), "{screen}");
    let out = root.exits(2, &["add", "-p", "high"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    for part in ["nothing to add", "no terminal", "`-`", "--prompt TEXT"] {
        assert!(said.contains(part), "{part}: {}", describe(&out));
    }
}
