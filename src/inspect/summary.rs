//! `harness session summary`: a session's agent, end, changes and files.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::metrics;
use super::{Facts, Session, State, known};
use crate::error::Result;
use crate::event::Figures;
use crate::keeper::ExitRecord;
use crate::record::more_notes;
use crate::session::file::SessionFile;
use crate::view::{cost, count_of, local_time, print_json, print_text, safe, took};

/// A session's files, the most interesting first.
const FILES: [&str; 10] = [
    "session.json",
    "summary.md",
    "prompt.md",
    "item",
    "events.jsonl",
    "stdout.log",
    "stderr.log",
    "metrics.json",
    "exit.json",
    "gates",
];

/// A session, how its agent process ended, what it used, and its files.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary<'s> {
    session: SessionFile,
    /// `None`: it has not ended, or never started.
    exit: Option<&'s ExitRecord>,
    /// What it used.
    figures: Figures,
    /// The path of each file that is there, by its name.
    files: BTreeMap<&'static str, String>,
}

pub(crate) fn show(session: &Session, json: bool) -> Result<u8> {
    let figures = metrics::of(session).figures;
    if !json {
        return print_text(&text(session, &figures));
    }
    let files = files(session).into_iter();
    let path = |name| session.path(name).to_string_lossy().into_owned();
    print_json(&Summary {
        session: session.told(),
        exit: session.exit.as_ref(),
        figures,
        files: files.map(|(name, _)| (name, path(name))).collect(),
    })
}

pub(super) fn text(session: &Session, figures: &Figures) -> String {
    let f = &session.file;
    let mut facts = Facts::default();
    let outcome = match (&f.reason, session.state) {
        (Some(reason), _) => format!("{}: {reason}", session.word()),
        (None, State::Running) if session.exit.is_some() => {
            "its agent has ended, harness finishes the attempt".to_owned()
        }
        (None, State::Left) => {
            "no harness works on it: the next `harness run` takes it up".to_owned()
        }
        (None, _) => session.word().to_owned(),
    };
    facts.add("outcome", outcome);
    facts.add("fault", f.fault.as_deref().unwrap_or_default());
    facts.add("when", when(session));
    facts.add("exit", exit(session));
    facts.add("changed", changed(session));
    facts.add("used", used(figures));
    facts.add("trouble", trouble(session, figures));
    facts.add(
        "cli",
        known([
            ("model", &figures.model),
            ("version", &figures.version),
            ("id", &figures.cli_session),
        ]),
    );
    for note in more_notes(f.reason.as_deref(), &f.notes) {
        facts.add("note", note);
    }
    let message = figures.last_message.as_ref().or(f.last_message.as_ref());
    facts.add("said last", message.map_or("", |m| m));
    facts.add("files in", session.dir.display().to_string());
    let files = files(session).into_iter();
    let files: Vec<String> = files.map(|(n, size)| format!("{n} ({size})")).collect();
    facts.add("", files.join(", "));
    facts.text(session)
}

/// How it ended, in one line; also the last line of a watch.
pub(super) fn line(session: &Session) -> String {
    let f = &session.file;
    let mut parts = vec![safe(session.word())];
    parts.extend(session.seconds().map(|s| format!("after {}", took(s))));
    if f.turns > 0 {
        parts.push(count_of(f.turns, "turn"));
    }
    if f.cost_usd > 0.0 {
        parts.push(cost(f.cost_usd));
    }
    let mut text = format!("{}: {}", safe(&f.item), parts.join(", "));
    if let Some(reason) = &f.reason {
        text += &format!(": {}", safe(reason));
    }
    if let Some(branch) = &f.published {
        text += &format!(", branch {}", safe(branch));
    }
    text
}

fn when(session: &Session) -> String {
    let f = &session.file;
    if f.started_at.is_empty() {
        return String::new();
    }
    let mut text = local_time(&f.started_at);
    if let Some(end) = &f.ended_at {
        text += &format!(" to {}", local_time(end));
    }
    if let Some(seconds) = session.seconds() {
        text += &format!(", took {}", took(seconds));
    }
    if f.cpu_seconds > 0.0 {
        text += &format!(", {} of processor time", took(f.cpu_seconds));
    }
    text
}

fn exit(session: &Session) -> String {
    let f = &session.file;
    let exit = session.exit.as_ref();
    let status = f.exit_status.or(exit.and_then(|e| e.exit_status));
    let signal = f.signal.or(exit.and_then(|e| e.signal));
    match (status, signal) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) if session.state == State::Ended => "not known".to_owned(),
        (None, None) => String::new(),
    }
}

fn changed(session: &Session) -> String {
    let f = &session.file;
    let Some(commits) = f.commits else {
        let branch = f.branch.as_ref();
        return branch.map_or_else(String::new, |b| format!("on branch {b}"));
    };
    let mut text = count_of(commits, "commit");
    if let Some(files) = f.files_changed {
        text += &format!(", {}", count_of(files, "file"));
    }
    if f.leftover {
        text += ", some of it committed by harness";
    }
    match (&f.published, &f.branch) {
        (Some(published), _) => text += &format!("; branch {published} in your repository"),
        (None, Some(branch)) if commits > 0 => {
            text += &format!("; kept as {branch} in state/repos/")
        }
        _ => {}
    }
    text
}

fn used(f: &Figures) -> String {
    if f.turns == 0 && f.tokens() == 0 && f.tool_calls == 0 {
        return String::new();
    }
    let mut text = format!(
        "{}, {}, {} tokens in, {} out",
        count_of(f.turns, "turn"),
        count_of(f.tool_calls, "tool call"),
        f.input_tokens,
        f.output_tokens
    );
    if f.cache_read_tokens > 0 {
        text += &format!(", {} from the cache", f.cache_read_tokens);
    }
    if let Some(usd) = f.cost_usd.filter(|usd| *usd > 0.0) {
        text += &format!(", {}", cost(usd));
    }
    text
}

fn trouble(session: &Session, f: &Figures) -> String {
    let counts = [
        (f.errors, "error"),
        (f.retries, "retry"),
        (f.denials, "denial"),
        (f.malformed, "unreadable line"),
    ];
    let counts = counts.iter().filter(|(n, _)| *n > 0);
    let counts: Vec<String> = counts.map(|(n, thing)| count_of(*n, thing)).collect();
    match counts.is_empty() {
        true => String::new(),
        false => format!(
            "{}: `harness session errors {}`",
            counts.join(", "),
            session.sid
        ),
    }
}

/// The existing files, with their sizes.
fn files(session: &Session) -> Vec<(&'static str, String)> {
    let look = |name: &&'static str| {
        let meta = session.path(name).symlink_metadata().ok()?;
        let size = match meta.len() {
            _ if meta.is_dir() => "folder".to_owned(),
            n @ 0..10_000 => format!("{n} bytes"),
            n @ 10_000..10_000_000 => format!("{} KB", n / 1000),
            n => format!("{} MB", n / 1_000_000),
        };
        Some((*name, size))
    };
    FILES.iter().filter_map(look).collect()
}
