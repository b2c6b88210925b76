//! `harness session export --format md`: a session as a Markdown transcript for people.
//!
//! Invariant: no text of an agent can look like a heading or close one of our blocks: its messages
//! are quoted line by line, everything else is in fences longer than any inside.

use std::io::{self, Read, Write};

use serde_json::Value;

use super::events::{limit_text, retry_text};
use super::{Session, summary, tail};
use crate::atomic;
use crate::event::{Body, Figures, Line};
use crate::view::{local_time, safe};

/// A prompt is a bootstrap text and an item, each at most 1 MiB before placeholders are filled.
const PROMPT_BYTES_MAX: u64 = 4 << 20;

pub(super) fn write(session: &Session, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "# {}\n", one_line(&session.title()))?;
    if let Some(prompt) = prompt(session) {
        writeln!(out, "## Prompt\n\n{}", fenced("text", &prompt))?;
    }
    writeln!(out, "## What it did\n")?;
    let mut transcript = Transcript::default();
    for line in session.events() {
        transcript.event(&line, out)?;
    }
    transcript.end_text(out)?;
    if !session.has_events() {
        let stdout = tail(&session.path("stdout.log"));
        match stdout.trim() {
            "" => writeln!(out, "It printed nothing.\n")?,
            _ => writeln!(out, "The end of its output:\n\n{}", fenced("text", &stdout))?,
        }
    }
    let facts = summary::text(session, &transcript.figures);
    writeln!(out, "## How it ended\n\n{}", fenced("text", &facts))?;
    let stderr = tail(&session.path("stderr.log"));
    if !stderr.trim().is_empty() {
        let stderr = fenced("text", &stderr);
        writeln!(out, "## The end of its standard error\n\n{stderr}")?;
    }
    Ok(())
}

#[derive(Default)]
struct Transcript {
    figures: Figures,
    /// A text was written last; its next piece may follow.
    in_text: bool,
}

impl Transcript {
    fn event(&mut self, line: &Line, out: &mut dyn Write) -> io::Result<()> {
        let goes_on = self.figures.saying;
        self.figures.fold(&line.body);
        if let Body::Text { text, delta, .. } = &line.body {
            if !(goes_on && *delta && self.in_text) {
                self.end_text(out)?;
                write!(out, "> ")?;
            }
            self.in_text = true;
            return write!(out, "{}", lines(text).join("\n> "));
        }
        if matches!(line.body, Body::Usage(_) | Body::Other { .. }) {
            return Ok(());
        }
        self.end_text(out)?;
        writeln!(out, "{}", paragraph(&line.body, &local_time(&line.at)))
    }

    fn end_text(&mut self, out: &mut dyn Write) -> io::Result<()> {
        match std::mem::take(&mut self.in_text) {
            true => writeln!(out, "\n"),
            false => Ok(()),
        }
    }
}

/// The agent's prompt; `None` for scripts.
pub(super) fn prompt(session: &Session) -> Option<String> {
    let file = atomic::open_regular(&session.path("prompt.md")).ok()?;
    let mut bytes = Vec::new();
    file.take(PROMPT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// An event other than text, as Markdown that ends with a newline.
fn paragraph(body: &Body, at: &str) -> String {
    match body {
        Body::SessionStarted { model, .. } => {
            let model = model.as_deref().unwrap_or("a model that it does not name");
            format!("*{at}: started with {}*\n", one_line(model))
        }
        Body::Thinking { text, .. } => format!("*{at}: thinking*\n\n{}", quoted(text)),
        Body::ToolCall { tool, input, .. } => {
            let input = match input {
                Value::String(s) => s.clone(),
                other => serde_json::to_string_pretty(other).unwrap_or_default(),
            };
            format!(
                "**{}** ({at})\n\n{}",
                one_line(tool),
                fenced("json", &input)
            )
        }
        Body::ToolResult {
            is_error, output, ..
        } => {
            let word = if *is_error { "It failed" } else { "Result" };
            format!("{word} ({at}):\n\n{}", fenced("text", output))
        }
        Body::Retrying { .. } => {
            let text = one_line(&retry_text(body));
            format!("*{at}: the request is made again: {text}*\n")
        }
        Body::Limited { resets_at, .. } => {
            format!("*{at}: met a usage limit {}*\n", limit_text(*resets_at))
        }
        Body::PermissionDenied { tool, .. } => {
            format!("*{at}: {} was not allowed*\n", one_line(tool))
        }
        Body::Error { message, .. } => format!("*{at}: error*\n\n{}", fenced("text", message)),
        Body::Finished { good, message } => {
            let how = if *good { "finished" } else { "finished badly" };
            format!("*{at}: {how}*\n\n{}", quoted(message))
        }
        Body::Text { .. } | Body::Usage(_) | Body::Other { .. } => String::new(),
    }
}

fn quoted(text: &str) -> String {
    format!("> {}\n", lines(text).join("\n> "))
}

/// Each line without control characters; tabs stay.
fn lines(text: &str) -> Vec<String> {
    let line = |l: &str| {
        let parts: Vec<String> = l.trim_end_matches('\r').split('\t').map(safe).collect();
        parts.join("\t")
    };
    text.split('\n').map(line).collect()
}

/// Text inside one of our lines, with all markup escaped.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    for c in safe(text).chars() {
        if "\\`*_{}[]<>#|".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A code block that the text itself cannot close.
fn fenced(kind: &str, text: &str) -> String {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat((longest + 1).max(3));
    let text = lines(text.trim_end()).join("\n");
    format!("{fence}{kind}\n{text}\n{fence}\n")
}
