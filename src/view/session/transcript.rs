//! `harness session export --format md`: a session as a Markdown transcript for people.
//!
//! Invariant: nothing that an agent wrote can look like a heading or the end of a block of ours: its
//! words are quoted line by line, all else is in fences longer than any in it.

use std::io::{self, Write};

use serde_json::Value;

use crate::event::{Body, Figures, Line};
use crate::session::read::lines::Got;
use crate::session::read::trouble::{limit_words, retry_words};
use crate::session::read::{self, Session, TAIL_BYTES, lines::Lines};
use crate::view::{local_time, safe};

use super::{export, summary};

pub fn write(session: &Session, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "# {}\n", one_line(&super::title(session)))?;
    if let Some(prompt) = export::prompt(session) {
        writeln!(out, "## Prompt\n\n{}", fenced("text", &prompt))?;
    }
    writeln!(out, "## What it did\n")?;
    let mut paper = Paper::default();
    let mut lines = session.lines();
    while let Some(got) = lines.as_mut().and_then(Lines::next_or_last) {
        match got {
            Got::Event(line, _) => paper.event(&line, out)?,
            Got::Unknown(..) | Got::Bad(_) => {}
        }
    }
    paper.end_text(out)?;
    if lines.is_none() {
        let stdout = read::tail(&session.path("stdout.log"), TAIL_BYTES);
        match stdout.trim() {
            "" => writeln!(out, "It printed nothing.\n")?,
            _ => writeln!(out, "The end of its output:\n\n{}", fenced("text", &stdout))?,
        }
    }
    let facts = summary::text(session, &paper.figures);
    writeln!(out, "## How it ended\n\n{}", fenced("text", &facts))?;
    let stderr = read::tail(&session.path("stderr.log"), TAIL_BYTES);
    if !stderr.trim().is_empty() {
        writeln!(
            out,
            "## The end of its standard error\n\n{}",
            fenced("text", &stderr)
        )?;
    }
    Ok(())
}

#[derive(Default)]
struct Paper {
    figures: Figures,
    /// A text is being written whose next piece may follow.
    in_text: bool,
}

impl Paper {
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
        let at = local_time(&line.at);
        match &line.body {
            Body::SessionStarted { model, .. } => {
                let model = model.as_deref().unwrap_or("a model that it does not name");
                writeln!(out, "*{at}: started with {}*\n", one_line(model))
            }
            Body::Thinking { text, .. } => {
                writeln!(out, "*{at}: thinking*\n\n> {}\n", lines(text).join("\n> "))
            }
            Body::ToolCall { tool, input, .. } => {
                let input = match input {
                    Value::String(s) => s.clone(),
                    other => serde_json::to_string_pretty(other).unwrap_or_default(),
                };
                writeln!(
                    out,
                    "**{}** ({at})\n\n{}",
                    one_line(tool),
                    fenced("json", &input)
                )
            }
            Body::ToolResult {
                is_error, output, ..
            } => {
                let word = if *is_error { "It failed" } else { "Result" };
                writeln!(out, "{word} ({at}):\n\n{}", fenced("text", output))
            }
            Body::Retrying {
                attempt,
                max,
                wait_ms,
                message,
                ..
            } => {
                let told = retry_words(*attempt, *max, *wait_ms, message);
                writeln!(
                    out,
                    "*{at}: the request is made again: {}*\n",
                    one_line(&told)
                )
            }
            Body::Limited { resets_at, .. } => {
                writeln!(
                    out,
                    "*{at}: met a usage limit {}*\n",
                    limit_words(*resets_at)
                )
            }
            Body::PermissionDenied { tool, .. } => {
                writeln!(out, "*{at}: {} was not allowed*\n", one_line(tool))
            }
            Body::Error { message, .. } => {
                writeln!(out, "*{at}: error*\n\n{}", fenced("text", message))
            }
            Body::Finished { good, message } => {
                let how = if *good { "finished" } else { "finished badly" };
                writeln!(out, "*{at}: {how}*\n\n> {}\n", lines(message).join("\n> "))
            }
            Body::Text { .. } | Body::Usage(_) | Body::Other { .. } => Ok(()),
        }
    }

    fn end_text(&mut self, out: &mut dyn Write) -> io::Result<()> {
        match std::mem::take(&mut self.in_text) {
            true => writeln!(out, "\n"),
            false => Ok(()),
        }
    }
}

/// Each line without control characters; tabs stay.
fn lines(text: &str) -> Vec<String> {
    let line = |l: &str| {
        let parts: Vec<String> = l.trim_end_matches('\r').split('\t').map(safe).collect();
        parts.join("\t")
    };
    text.split('\n').map(line).collect()
}

/// Text within a line of ours: no character of it is markup.
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

/// A block of code that ends where we say, and not where the text does.
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
