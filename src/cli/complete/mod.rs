//! `harness completions SHELL`, and `harness complete`, which its scripts ask at each Tab.
//!
//! What is a command, an option or a value comes from the definitions by clap's own engine; names come from
//! ROOT (`source`). The scripts are ours: clap's put a name into bash's line unquoted. Each shell gets one
//! word on a line, and what cannot be told so (`Offered::is_word`) is not offered. Invariants: nothing is
//! changed; a word in the line stays one word, whatever its name is.

mod line;
mod offered;
mod source;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clap::{Arg, Command, CommandFactory, ValueEnum, ValueHint};
use clap_complete::engine::{self, ArgValueCompleter, CompletionCandidate};

use self::line::Line;
use self::source::{Asked, Source};
use super::root;
use crate::error::{Context, Result};
use crate::layout::{Root, shown};
use crate::view::print_text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn script(shell: Shell) -> Result<u8> {
    print_text(match shell {
        Shell::Bash => include_str!("harness.bash"),
        Shell::Zsh => include_str!("_harness"),
        Shell::Fish => include_str!("harness.fish"),
    })
}

/// Of `complete`: candidates are printed.
const FOUND: u8 = 0;
/// The shell completes files here, as it does anywhere.
const FILES: u8 = 1;
/// It was not called by a script of ours.
const USAGE: u8 = 2;

/// `harness complete bash LINE REPLACED`, where REPLACED is the end of the line that bash exchanges; or
/// `harness complete zsh|fish WORD…`, the words behind `harness` up to the one that is being typed.
pub(super) fn complete(args: &[OsString]) -> Result<u8> {
    let Some((shell, rest)) = args.split_first() else {
        return Ok(USAGE);
    };
    let shell = shell
        .to_str()
        .and_then(|name| Shell::from_str(name, false).ok());
    match (shell, rest) {
        (Some(Shell::Bash), [line, replaced]) => {
            let line = Line::read(line.as_bytes());
            if line.is_redirected() {
                return Ok(FILES);
            }
            answer(line.words.clone(), |word, _| line.put(word, replaced))
        }
        (Some(Shell::Zsh | Shell::Fish), [_, ..]) => {
            let words = [OsString::from("harness")].into_iter();
            let words = words.chain(rest.iter().cloned()).collect();
            // fish takes a `~` that a word begins with for a home, even where it puts it there itself.
            let is_kept = |word: &str| shell != Some(Shell::Fish) || !word.starts_with('~');
            answer(words, |word, why| {
                is_kept(word).then(|| format!("{word}\t{why}"))
            })
        }
        _ => Ok(USAGE),
    }
}

fn answer(words: Vec<OsString>, put: impl Fn(&str, &str) -> Option<String>) -> Result<u8> {
    let wants_files = Arc::<AtomicBool>::default();
    let found = candidates(words, &wants_files).or_fail("cannot complete", Path::new("."))?;
    if found.is_empty() && wants_files.load(Relaxed) {
        return Ok(FILES);
    }
    let mut text = String::new();
    for candidate in found {
        let Some(word) = candidate.get_value().to_str() else {
            continue;
        };
        let help = candidate.get_help().map(ToString::to_string);
        let help = help.as_deref().and_then(|help| help.lines().next());
        if let Some(line) = put(word, &shown(help.unwrap_or_default().as_ref())) {
            text += &line;
            text.push('\n');
        }
    }
    print_text(&text)?;
    Ok(FOUND)
}

fn candidates(
    words: Vec<OsString>,
    wants_files: &Arc<AtomicBool>,
) -> std::io::Result<Vec<CompletionCandidate>> {
    let at = words.len().saturating_sub(1);
    let before = words[..at].to_vec();
    let is_plain = words[at].is_empty() && !before.iter().any(|word| word == "--");
    let asked = Asked {
        root: root_of(&before),
        words: before,
    };
    let asker = Asker {
        asked: Arc::new(asked),
        wants_files: wants_files.clone(),
    };
    let mut command = asker.with_sources(super::Cli::command(), "");
    let mut found = engine::complete(&mut command, words, at, None)?;
    // Options are for who has typed a dash.
    found.retain(|one| !(is_plain && one.get_value().as_bytes().starts_with(b"-")));
    Ok(found)
}

/// The ROOT of the command that is being typed.
fn root_of(words: &[OsString]) -> Option<Root> {
    let mut options = words.iter().take_while(|word| *word != "--");
    let given = options.find_map(|word| match word.as_bytes().strip_prefix(b"--root=") {
        Some(dir) => Some(OsStr::from_bytes(dir)),
        None if word == "--root" => {
            let at = words.iter().position(|word| word == "--root")?;
            words.get(at + 1).map(OsString::as_os_str)
        }
        None => None,
    });
    let given = given.map(
        |dir| match (dir.as_bytes().strip_prefix(b"~/"), std::env::home_dir()) {
            (Some(below), Some(home)) => home.join(OsStr::from_bytes(below)),
            _ => PathBuf::from(dir),
        },
    );
    let cwd =
        || std::env::current_dir().or_fail("cannot find the current directory", Path::new("."));
    root::find_root(given.as_deref(), std::env::var_os("HARNESS_ROOT"), &cwd).ok()
}

struct Asker {
    asked: Arc<Asked>,
    wants_files: Arc<AtomicBool>,
}

impl Asker {
    /// The definitions, and at each argument where its words come from.
    fn with_sources(&self, command: Command, path: &str) -> Command {
        let command = command.mut_args(|arg| match source_of(path, &arg) {
            None => arg,
            Some(Source::Files) => {
                let wants_files = self.wants_files.clone();
                arg.add(ArgValueCompleter::new(move |_: &OsStr| {
                    wants_files.store(true, Relaxed);
                    Vec::new()
                }))
            }
            Some(source) => {
                let asked = self.asked.clone();
                arg.add(ArgValueCompleter::new(move |typed: &OsStr| {
                    let found = asked.candidates(source, typed).into_iter();
                    let with_help = |(name, why): (OsString, String)| {
                        let help = Some(why).filter(|why| !why.is_empty());
                        CompletionCandidate::new(name).help(help.map(Into::into))
                    };
                    found.map(with_help).collect()
                }))
            }
        });
        command.mut_subcommands(|sub| {
            let path = format!("{path} {}", sub.get_name());
            self.with_sources(sub, path.trim())
        })
    }
}

fn source_of(command: &str, arg: &Arg) -> Option<Source> {
    let is_path = matches!(
        arg.get_value_hint(),
        ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath
    );
    source::of(command, arg.get_id().as_str()).or(is_path.then_some(Source::Files))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arguments that are whatever a person writes.
    const FREE: &[&str] = &[
        "add prompt",
        "add not_before",
        "add timeout",
        "add exclusive",
        "add name",
        "approve commit",
        "config set value",
        "interrupt reason",
        "logs attempt",
        "reject comment",
        "reject commit",
        "resume answer",
        "run max_items",
        "run workers",
        "session list limit",
        "submit local",
        "submit mem",
        "submit nodes",
        "submit options",
        "submit time",
        "submit workers",
        "wait timeout",
    ];

    fn each(command: &Command, path: &str, to: &mut Vec<String>) {
        for arg in command.get_arguments() {
            let has_values = arg.get_num_args().is_some_and(|n| n.takes_values());
            let is_listed = !arg.get_possible_values().is_empty();
            if has_values && !is_listed && source_of(path, arg).is_none() {
                to.push(format!("{path} {}", arg.get_id()));
            }
        }
        for sub in command.get_subcommands() {
            each(sub, format!("{path} {}", sub.get_name()).trim(), to);
        }
    }

    /// A new argument is completed, or said to be free.
    #[test]
    fn each_argument_is_completed_or_free() {
        let mut command = super::super::Cli::command();
        command.build();
        let mut free = Vec::new();
        each(&command, "", &mut free);
        free.sort();
        let mut known = FREE.to_vec();
        known.sort_unstable();
        assert_eq!(free, known);
    }
}
