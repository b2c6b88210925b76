//! `harness help`: the help of a command, and the pages of docs/, which the program has in it.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;

use clap::{Command, CommandFactory};

use super::{pager, tips};
use crate::config::nearest::{nearest, quoted};
use crate::error::{Error, Result};
use crate::quote::harness;
use crate::view::print_text;

#[derive(clap::Args)]
pub(super) struct HelpArgs {
    /// A command, or a topic: a page of the documentation [default: all of both]
    #[arg(value_name = "COMMAND|TOPIC")]
    topic: Vec<String>,
}

/// A page of docs/, as it is written.
pub(super) struct Page {
    pub(super) name: &'static str,
    text: &'static str,
}

macro_rules! pages {
    ($($name:literal)*) => {
        &[$(Page { name: $name, text: include_str!(concat!("../../docs/", $name, ".md")) }),*]
    };
}

/// All of them but docs/README.md, which is their list.
pub(super) const PAGES: &[Page] = pages![
    "agents" "budgets" "cluster" "configuration" "design" "fields" "gates" "getting-started" "holds" "hooks" "install" "items"
    "landings" "limits" "limits-and-sandbox" "merging" "metrics" "operations" "people" "performance"
    "protocol" "recipes" "reliability" "report" "sandbox" "scripts" "security" "sessions" "shell" "tokens"
    "top" "troubleshooting" "worktrees"
];

impl Page {
    pub(super) fn title(&self) -> &'static str {
        let first = self.text.lines().next().unwrap_or_default();
        first.trim_start_matches('#').trim()
    }

    /// As a person reads it: without what is there for its test alone.
    fn shown(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut is_hidden = false;
        for line in self.text.lines() {
            is_hidden |= line.starts_with("<!--");
            if is_hidden {
                is_hidden = !line.ends_with("-->");
                continue;
            }
            // Of two empty lines around it one stays.
            if line.is_empty() && out.ends_with("\n\n") {
                continue;
            }
            // What a fence says behind its language is for its test, too.
            let fence = line.find("```").unwrap_or(line.len());
            let end = line[fence..].find(' ').map_or(line.len(), |at| fence + at);
            out += &line[..end];
            out.push('\n');
        }
        out
    }
}

pub(super) fn help(args: &HelpArgs) -> Result<u8> {
    let mut top = super::Cli::command();
    top.build();
    let page = match &args.topic[..] {
        [] => {
            let commands = top.render_help();
            return print_text(&format!("{commands}\n{}", topics()));
        }
        [one] => {
            let name = one.strip_suffix(".md").unwrap_or(one);
            PAGES.iter().find(|page| page.name == name)
        }
        _ => None,
    };
    match (find(&top, &args.topic), page) {
        (Some(_), None) => print(&of_command(&args.topic)),
        // A command and a page about it: both.
        (Some(_), Some(page)) => {
            let command = of_command(&args.topic).render();
            pager::show(&format!("{command}\n{}", page.shown()))
        }
        (None, Some(page)) => pager::show(&page.shown()),
        (None, None) => Err(unknown("no such help", &args.topic, true)),
    }
}

/// Prints a command's help, in colours on a terminal. A reader that has seen enough is no error.
pub(super) fn print(help: &clap::Error) -> Result<u8> {
    match help.print() {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("cannot write to", Path::new("stdout"), &e))
        }
        _ => Ok(0),
    }
}

/// What the command says to `--help`.
fn of_command(words: &[String]) -> clap::Error {
    let words = words.iter().map(String::as_str);
    let typed = ["harness"].into_iter().chain(words).chain(["--help"]);
    match super::Cli::command().try_get_matches_from(typed) {
        Err(help) => help,
        Ok(_) => clap::Error::new(clap::error::ErrorKind::DisplayHelp),
    }
}

fn topics() -> String {
    let width = PAGES.iter().map(|page| page.name.len()).max();
    let width = width.unwrap_or_default();
    let line = |page: &Page| format!("  {:width$}  {}\n", page.name, page.title());
    let lines: String = PAGES.iter().map(line).collect();
    format!("Topics (`harness help TOPIC`):\n{lines}")
}

/// The command of these words; of none, harness itself.
pub(super) fn find<'c>(top: &'c Command, words: &[String]) -> Option<&'c Command> {
    let below = |command: &'c Command, word: &String| command.find_subcommand(word);
    words.iter().try_fold(top, below)
}

/// What may follow these words of a command's name, each with what it does.
pub(super) fn commands(words: &[OsString]) -> Vec<(String, String)> {
    let top = super::Cli::command();
    let words: Option<Vec<String>> = words.iter().map(|w| w.clone().into_string().ok()).collect();
    let found = words.as_ref().and_then(|words| find(&top, words));
    let all = found.into_iter().flat_map(Command::get_subcommands);
    let about = |sub: &Command| sub.get_about().map(ToString::to_string).unwrap_or_default();
    all.map(|sub| (sub.get_name().to_owned(), about(sub)))
        .collect()
}

pub(super) fn unknown(what: &'static str, words: &[String], and_pages: bool) -> Error {
    let typed = words.join(" ");
    let commands = commands(&[]);
    let names = commands.iter().map(|(name, _)| name.as_str());
    let pages = PAGES.iter().map(|page| page.name).filter(|_| and_pages);
    let near = nearest(&typed, names.chain(pages));
    let why = match and_pages {
        true => format!("{} is neither a command nor a topic", quoted(&typed)),
        false => format!("{} is no command", quoted(&typed)),
    };
    let all = format!("`{} help` lists them", harness());
    Error::usage(what, why).hint(match (tips::instead(&typed), near) {
        (Some(tip), _) => tip,
        (None, Some(near)) => format!("the nearest is `{near}`; {all}"),
        (None, None) => all,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_page_of_docs_is_a_topic() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let files = std::fs::read_dir(dir).expect("docs").flatten();
        let names = files.filter_map(|e| e.file_name().into_string().ok());
        let names = names.filter_map(|name| name.strip_suffix(".md").map(str::to_owned));
        let names: BTreeSet<String> = names.filter(|name| name != "README").collect();
        let topics: BTreeSet<String> = PAGES.iter().map(|page| page.name.to_owned()).collect();
        assert_eq!(topics, names, "PAGES lists the pages of docs/");
    }

    #[test]
    fn what_is_in_a_page_for_its_test_is_not_shown() {
        let page = Page {
            name: "x",
            text: "# X\n\n<!-- run\nsecret\n-->\n\n```console run\n$ a\n```\n\n```sh\nb\n```\n",
        };
        assert_eq!(page.title(), "X");
        assert_eq!(
            page.shown(),
            "# X\n\n```console\n$ a\n```\n\n```sh\nb\n```\n"
        );
    }
}
