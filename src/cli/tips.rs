//! A mistyped command: what was probably meant. People bring the words of other tools (docker, git, nq,
//! pueue, task-spooler, at, kubectl), which no letters lead to ours.

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::nearest::nearest;
use crate::error::Error;
use crate::quote::harness;
use crate::text::one_line;
use crate::view::safe;

/// Words of other tools, and what to type instead, after `harness`.
const WORDS: &[(&[&str], &str)] = &[
    (
        &[
            "remove", "rm", "delete", "del", "kill", "abort", "atrm", "dequeue", "unqueue", "skip",
        ],
        "cancel NAME` takes an item out of the queue, or stops its agent and keeps its work",
    ),
    (
        &["stop", "quit", "exit", "shutdown", "halt", "down"],
        "cancel NAME` stops one item, `harness drain` ends every run when nothing is left to do; \
         Ctrl-C in `harness run` ends that one",
    ),
    (
        &[
            "start", "work", "up", "daemon", "serve", "server", "begin", "go", "worker", "workers",
        ],
        "run` works on the queue, `harness run --workers 5` with five slots",
    ),
    (
        &[
            "ls", "queue", "q", "get", "items", "jobs", "tasks", "atq", "pending", "all", "history",
        ],
        "list` shows the items by state",
    ),
    (
        &["ps", "stats", "stat", "info", "state", "agents", "slots"],
        "status` shows agents, queue and figures, `harness status --watch` keeps showing them",
    ),
    (
        &["dashboard", "monitor", "ui", "tui", "htop"],
        "top` shows agents, queue and sessions live, and takes keys for what you do about them",
    ),
    (
        &["failed", "failures", "fails", "errors", "parked"],
        "list parked` shows the items that need a person, `harness show NAME` says why",
    ),
    (
        &["finished", "completed", "done"],
        "list done` shows the items that are done",
    ),
    (
        &[
            "describe", "inspect", "view", "details", "cat", "story", "why", "explain",
        ],
        "show NAME` tells an item's whole story",
    ),
    (
        &[
            "log", "output", "out", "tail", "follow", "fq", "attach", "stdout", "watch", "events",
        ],
        "session watch` follows the newest agent, `harness session events ID` shows what one did; \
         what it printed is in state/sessions/ID/stdout.log",
    ),
    (
        &[
            "enqueue", "push", "new", "create", "apply", "batch", "put", "drop", "insert", "task",
            "nq", "tsp", "schedule",
        ],
        "add FILE` adds a file, `harness add --prompt 'TEXT'` a text",
    ),
    (
        &[
            "restart", "rerun", "requeue", "redo", "again", "resubmit", "reset",
        ],
        "retry NAME` puts a parked or done item back into the queue",
    ),
    (
        &[
            "unpause", "continue", "unfreeze", "thaw", "answer", "reply", "cont", "undrain",
            "uncordon",
        ],
        "resume` ends pauses and interrupts, `harness resume agent-1 --answer 'TEXT'` answers an agent",
    ),
    (
        &["freeze", "suspend", "hold", "stash", "cordon"],
        "pause` starts nothing new, `harness interrupt agent-1 'WHY'` freezes one agent",
    ),
    (
        &["clean", "prune", "purge", "cleanup", "clear"],
        "gc --dry-run` says what nobody needs any more, `harness gc` removes it",
    ),
    (
        &["check", "health", "diagnose", "verify", "test"],
        "doctor` looks at this machine and ROOT",
    ),
    (
        &["settings", "configure", "set", "options"],
        "config` shows every setting and where it comes from",
    ),
    (
        &["setup", "initialize", "initialise", "install", "clone"],
        "init` makes a ROOT here",
    ),
    (
        &["diff", "changes", "pr", "prs", "compare"],
        "review NAME` shows what a branch that waits changes, `harness branches` lists all that are finished",
    ),
    (
        &["merge", "land", "accept", "lgtm", "ok", "yes"],
        "approve NAME` has a branch that waits for review merged, `harness review` lists them",
    ),
    (
        &["decline", "deny", "refuse", "comment", "no", "nack"],
        "reject NAME --comment 'TEXT'` sends a finished branch back, and the next attempt is told why",
    ),
    (
        &["branch", "checkout", "commit", "pull"],
        "show NAME` names an item's branch: it is in your repository, `git log -p BRANCH` shows it",
    ),
    (
        &["parallel", "scale", "concurrency"],
        "run --workers 5` works with five slots; `echo 5 > state/control/workers` holds for all runs",
    ),
    (&["version", "ver"], "--version` says it"),
    (&["sessions"], "session list` shows the sessions"),
    (
        &["unschedule", "now", "force", "urgent"],
        "release NAME` lets a scheduled item start now",
    ),
];

/// A word that is no command of `all`, as an error with what to type; `None`: the message is about
/// something else.
pub(super) fn unknown_command(e: &clap::Error, all: &Command) -> Option<Error> {
    if e.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(typed)) = e.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let harness = harness();
    let (path, group) = group(e, all);
    let (typed, path) = (safe(typed), path.join(" "));
    let is_top = path.is_empty();
    let before = if is_top { path } else { path + " " };
    let refused = |why: String| Error::usage("cannot do that", why);
    let why = format!("there is no command `{before}{typed}`");
    if let Some(instead) = instead(&typed).filter(|_| is_top) {
        return Some(refused(why).hint(instead));
    }
    let known = group.get_subcommands().filter(|c| !c.is_hide_set());
    let known: Vec<&str> = known.map(Command::get_name).collect();
    let help = format!("`{harness} {before}--help` lists all");
    Some(match nearest(&typed, known) {
        Some(near) => refused(format!("{why}: the nearest is `{near}`"))
            .hint(format!("`{harness} {before}{near}`; {help}")),
        None => refused(why).hint(help),
    })
}

/// The commands among which the word was searched, and their path: of `config gte`, `config`.
fn group<'c>(e: &clap::Error, all: &'c Command) -> (Vec<&'c str>, &'c Command) {
    let usage = match e.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let (mut path, mut at) = (Vec::new(), all);
    let words = usage
        .split_whitespace()
        .skip_while(|w| *w != all.get_name());
    for word in words.skip(1) {
        let Some(next) = at.find_subcommand(word) else {
            break;
        };
        path.push(next.get_name());
        at = next;
    }
    (path, at)
}

/// What to type instead of a word of other tools.
pub(super) fn instead(typed: &str) -> Option<String> {
    let tip = tip(typed)?;
    let tip = tip.replace("`harness ", &format!("`{} ", harness()));
    Some(format!("`{} {tip}", harness()))
}

/// What clap says in paragraphs, as one line.
pub(super) fn wrong_usage(text: &str) -> Error {
    let mut parts = text.split("\n\n").map(str::trim);
    let why = parts.next().unwrap_or_default();
    let tips = parts
        .filter(|part| !part.is_empty())
        .map(|part| match part {
            part if part.starts_with("For more information") => "`--help` says more".to_owned(),
            part => one_line(part.strip_prefix("tip: ").unwrap_or(part)),
        });
    let tips: Vec<String> = tips.collect();
    let why = why.strip_prefix("error: ").unwrap_or(why);
    // As of `--local "$TMPDIR"`.
    let why = why.replace(
        "but none was supplied",
        "but there is none, or an empty one",
    );
    Error::usage("wrong usage", why).hint(tips.join("; "))
}

fn tip(typed: &str) -> Option<&'static str> {
    let typed = typed.trim_start_matches('-').to_ascii_lowercase();
    let known = WORDS.iter().find(|(words, _)| words.contains(&&*typed));
    known.map(|(_, tip)| *tip)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    #[test]
    fn every_tip_names_a_command_that_there_is_and_no_word_is_one_or_stands_twice() {
        let cli = crate::cli::Cli::command();
        let commands: BTreeSet<&str> = cli.get_subcommands().map(|c| c.get_name()).collect();
        let mut seen = BTreeSet::new();
        for (words, tip) in WORDS {
            for part in format!("harness {tip}").split('`') {
                let Some(command) = part.strip_prefix("harness ") else {
                    continue;
                };
                let first = command.split(' ').next().unwrap();
                assert!(commands.contains(first) || first == "--version", "{tip}");
            }
            for word in *words {
                assert!(!commands.contains(word), "{word} is a command");
                assert!(seen.insert(word), "{word} stands twice");
            }
        }
    }
}
