//! `harness session summary`: what it was, how it ended, what it changed and where to look on.

use serde_json::{Value, json};

use crate::event::Figures;
use crate::session::read::{Session, State};
use crate::view::{count_of, local_time, safe};

use super::{Facts, cost, took};

/// The files of a session, in the order in which people look at them.
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

pub fn text(session: &Session, figures: &Figures) -> String {
    let f = &session.file;
    let mut facts = Facts::default();
    let outcome = match &f.reason {
        Some(reason) => format!("{}: {reason}", session.word()),
        None => state_words(session).to_owned(),
    };
    facts.add("outcome", outcome);
    facts.add("fault", f.fault.as_deref().unwrap_or_default());
    facts.add("when", when(session));
    facts.add("exit", exit_words(session));
    facts.add("changed", changed(session));
    facts.add("used", used(figures));
    facts.add("trouble", trouble(session, figures));
    let told = [
        ("model", &figures.model),
        ("version", &figures.version),
        ("id", &figures.cli_session),
    ];
    let told = told
        .iter()
        .filter_map(|(n, v)| v.as_ref().map(|v| format!("{n} {v}")));
    facts.add("cli", told.collect::<Vec<_>>().join(", "));
    for note in &f.notes {
        facts.add("note", note);
    }
    let said = figures
        .last_message
        .as_deref()
        .or(f.last_message.as_deref());
    facts.add("said last", said.unwrap_or_default());
    facts.add("files in", session.dir.display().to_string());
    let files = files(session).into_iter();
    let files: Vec<String> = files.map(|(n, len)| format!("{n} ({len})")).collect();
    facts.add("", files.join(", "));
    format!(
        "{}: {}\n{}",
        session.sid,
        super::title(session),
        facts.text()
    )
}

/// One line on how it ended: what a watch ends with.
pub fn line(session: &Session) -> String {
    let f = &session.file;
    let mut parts = vec![safe(session.word())];
    if let Some(seconds) = session.seconds() {
        parts.push(format!("after {}", took(seconds)));
    }
    if f.turns > 0 {
        parts.push(count_of(f.turns, "turn"));
    }
    let usd = cost(f.cost_usd);
    if !usd.is_empty() {
        parts.push(usd);
    }
    let reason = f
        .reason
        .as_ref()
        .map_or_else(String::new, |r| format!(": {}", safe(r)));
    let branch = f
        .published
        .as_ref()
        .map_or_else(String::new, |b| format!(", branch {}", safe(b)));
    format!("{}: {}{reason}{branch}", safe(&f.item), parts.join(", "))
}

pub fn json(session: &Session, figures: &Figures) -> Value {
    let files: serde_json::Map<String, Value> = files(session)
        .into_iter()
        .map(|(name, _)| (name.to_owned(), json!(session.path(name).to_string_lossy())))
        .collect();
    json!({
        "session": super::as_json(session),
        "exit": session.exit,
        "figures": figures,
        "files": files,
    })
}

fn state_words(session: &Session) -> &str {
    match session.state {
        State::Running if session.exit.is_some() => "its agent has ended, harness works on the end",
        State::Running => "running",
        State::Left => "no harness works on it: the next `harness run` takes it up",
        State::Ended => session.word(),
    }
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

fn exit_words(session: &Session) -> String {
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
        return f
            .branch
            .as_ref()
            .map_or_else(String::new, |b| format!("on branch {b}"));
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
    let usd = cost(f.cost_usd.unwrap_or(0.0));
    if !usd.is_empty() {
        text += &format!(", {usd}");
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
    let told: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|&(n, thing)| match (n, thing) {
            (2.., "retry") => format!("{n} retries"),
            _ => count_of(n, thing),
        })
        .collect();
    match told.is_empty() {
        true => String::new(),
        false => format!(
            "{}: `harness session errors {}`",
            told.join(", "),
            session.sid
        ),
    }
}

/// Those that are there, with their sizes.
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
