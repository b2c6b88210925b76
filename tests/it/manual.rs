//! `harness man` and `harness help`: the pages of the commands and of docs/.

use std::fs;
use std::process::Command;

use crate::support::{Root, describe, files_below, skipped};
use crate::terminal::Terminal;

fn said(root: &Root, args: &[&str]) -> String {
    String::from_utf8(root.exits(2, args).stderr).unwrap()
}

#[test]
fn each_command_has_a_manual_page_that_mandoc_finds_right() {
    let root = Root::plain();
    let dir = root.at("share/man1");
    root.ok(&["man", "--output", dir.to_str().unwrap()]);
    let mut pages = files_below(&dir);
    pages.sort();
    let names: Vec<_> = pages
        .iter()
        .map(|p| p.file_name().unwrap().to_str().unwrap())
        .collect();
    for name in [
        "harness.1",
        "harness-add.1",
        "harness-session-watch.1",
        "harness-help.1",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    for page in &pages {
        let name = page.file_stem().unwrap().to_str().unwrap();
        let text = fs::read_to_string(page).unwrap();
        let title = format!(".TH {} 1 \"\" \"harness ", name.to_uppercase());
        assert!(
            text.contains(&title) && text.contains(".SH SYNOPSIS"),
            "{name}: {text}"
        );
    }
    // Each that harness.1 names is there.
    let text = fs::read_to_string(dir.join("harness.1")).unwrap();
    let named = text.lines().filter_map(|line| line.strip_suffix("(1)"));
    let named: Vec<String> = named.map(|line| line.replace('\\', "")).collect();
    assert!(named.len() > 20, "{text}");
    for name in named {
        assert!(names.contains(&&*format!("{name}.1")), "{name}: {names:?}");
    }
    // Written again over the old ones.
    root.ok(&["man", "--output", dir.to_str().unwrap()]);
    assert_eq!(files_below(&dir).len(), pages.len());
    if Command::new("mandoc").arg("-V").output().is_err() {
        skipped("a look at manual pages by mandoc, which is not installed");
        return;
    }
    let out = Command::new("mandoc")
        .args(["-Tlint", "-Wwarning"])
        .args(&pages)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    // A page has no date: what is built twice is to be the same. The others are harmless: an empty line
    // in two ways, as `clap_mangen` has it.
    let known = ["missing date", "skipping paragraph macro"];
    let is_known = |line: &&str| known.iter().any(|known| line.contains(known));
    let wrong: Vec<_> = said.lines().filter(|line| !is_known(line)).collect();
    assert!(wrong.is_empty() && !said.is_empty(), "{}", describe(&out));
}

#[test]
fn man_prints_one_page_and_names_the_nearest_of_one_that_is_not_there() {
    let root = Root::plain();
    assert!(root.ok(&["man"]).contains(".SH SUBCOMMANDS"));
    let page = root.ok(&["man", "session", "watch"]);
    assert!(page.contains(".TH HARNESS-SESSION-WATCH 1"), "{page}");
    let said = said(&root, &["man", "ad"]);
    assert!(said.contains("the nearest is `add`"), "{said}");
}

#[test]
fn help_lists_commands_and_topics_and_shows_each() {
    let root = Root::plain();
    let all = root.ok(&["help"]);
    for part in [
        "Commands:",
        "  retry",
        "Topics",
        "  getting-started",
        "  troubleshooting",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    // As `--help` does.
    assert_eq!(root.ok(&["help", "add"]), root.ok(&["add", "--help"]));
    let watch = root.ok(&["help", "session", "watch"]);
    assert_eq!(watch, root.ok(&["session", "watch", "--help"]));
    let items = root.ok(&["help", "items"]);
    assert!(items.starts_with("# Items\n"), "{items}");
    assert_eq!(items, root.ok(&["help", "items.md"]));
    assert!(
        !items.contains("<!--") && !items.contains("```console run"),
        "{items}"
    );
    // A command and a page about it.
    let both = root.ok(&["help", "sandbox"]);
    assert!(
        both.contains("explain") && both.contains("\n# What an agent may touch\n"),
        "{both}"
    );
    for (typed, part) in [
        (
            &["help", "troubleshoting"][..],
            "the nearest is `troubleshooting`",
        ),
        (&["help", "lsit"], "the nearest is `list`"),
        (&["help", "rm"], "cancel NAME`"),
        (&["help", "xylophone"], "help` lists them"),
    ] {
        let said = said(&root, typed);
        assert!(said.contains(part), "{typed:?}: {said}");
    }
}

#[test]
fn a_page_goes_through_the_pager_of_a_terminal() {
    let root = Root::plain();
    let page = |pager: &str| {
        let mut command = root.command();
        command.args(["help", "sessions"]).env("PAGER", pager);
        let mut terminal = Terminal::run(&command, (120, 80));
        terminal.ends_with(0);
        terminal
    };
    page("sed 's/^/paged: /'").shows("paged: # Sessions");
    // One that is not there, and one that has seen enough.
    page("no-such-pager 2>/dev/null").shows("# Sessions");
    page("head -1").shows("# Sessions");
}
