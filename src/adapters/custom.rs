//! A CLI that a user describes in `[agents.NAME]`, without code: a command line of their own, and
//! which dialect its stdout speaks (`events`). By default none: what it prints is text, its last
//! line is what it said, its exit status is its word.
//!
//! Does not know: what the placeholders of the command line stand for (`agents` fills them in).

use super::stream::{self, Tally};
use super::{Parser, Verdict, by_name};
use crate::event::{Body, Class, Fault, Figures};
use crate::outcome::Exit;

/// What `events` may say besides the names of `adapters::all`.
pub const NONE: &str = "none";

/// A parser for what `events` names; `None` for a word that is no dialect.
pub fn parser(events: &str, previous: Option<&Figures>) -> Option<Box<dyn Parser>> {
    match events {
        NONE => Some(Box::new(Plain::default())),
        name => Some(by_name(name)?.parser(previous)),
    }
}

/// Every word that `events` takes.
pub fn dialects() -> Vec<&'static str> {
    let names = super::all().iter().map(|a| a.about().name);
    [NONE].into_iter().chain(names).collect()
}

/// A reader of plain text: every line is a text.
#[derive(Default)]
struct Plain {
    tally: Tally,
}

impl Parser for Plain {
    fn line(&mut self, line: &[u8], out: &mut Vec<Body>) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        if !text.is_empty() {
            self.tally.text(out, text, false);
        }
    }

    fn too_long(&mut self, prefix: &[u8], out: &mut Vec<Body>) {
        self.tally.too_long(out, prefix);
    }

    fn figures(&self) -> &Figures {
        self.tally.figures()
    }

    fn verdict(&self, exit: Exit, stderr_tail: &[u8]) -> Verdict {
        let message = self.figures().last_message.clone().unwrap_or_default();
        let Exit::Code(code) = exit else {
            return self.tally.verdict(exit, stderr_tail, |_| None);
        };
        if code == 0 {
            return Verdict::good(message);
        }
        let words = stream::last_words(stderr_tail);
        let ended = format!("it ended with status {code}");
        let text = [words, message, ended].into_iter().find(|t| !t.is_empty());
        // A shell's words for a program that cannot be started. Other words class nothing here:
        // they are no provider's.
        let class = match code {
            126 | 127 => Class::Spawn,
            129 | 130 | 137 | 143 => Class::Interrupted,
            _ => Class::Unknown,
        };
        Verdict::bad(None, Fault::new(class, &text.unwrap_or_default()))
    }
}
