//! Reads one attempt's standard output: the part that all CLIs share.
//!
//! Does not know any CLI.

use serde_json_borrow::Value;

use super::lenient_json;
use super::tally::{Dialect, Tally};
use super::verdict;
use crate::event::{self, Body, Fault, Figures, MALFORMED, TOO_LONG};
use crate::outcome::Exit;

/// Reads one attempt's standard output, line by line.
pub struct Parser {
    dialect: Box<dyn Dialect>,
    tally: Tally,
}

impl Parser {
    pub(super) fn new(dialect: Box<dyn Dialect>) -> Parser {
        let tally = Tally::default();
        Parser { dialect, tally }
    }

    /// Reads a line without its newline and returns its events.
    pub fn line(&mut self, line: &[u8]) -> Vec<Body> {
        let read = |object: &Value<'_>| self.dialect.read(object, &mut self.tally);
        match lenient_json::read_object(line, read) {
            Some(()) => {}
            // Ignored.
            None if line.trim_ascii().is_empty() => {}
            None => self.tally.other(MALFORMED, &head(line.trim_ascii())),
        }
        self.tally.settle();
        self.tally.take_events()
    }

    /// Notes a line that is too long to read. `prefix`: its beginning.
    pub fn too_long(&mut self, prefix: &[u8]) -> Vec<Body> {
        self.tally.skipped_line = true;
        self.tally.other(TOO_LONG, &head(prefix));
        self.tally.take_events()
    }

    pub fn figures(&self) -> &Figures {
        &self.tally.figures
    }

    /// The attempt's fault, asked after the last line; `None`: it finished well. `stderr_tail`: the
    /// last few KiB of stderr.
    pub fn fault(&self, exit: Exit, stderr_tail: &[u8]) -> Option<Fault> {
        let code_class = match exit {
            Exit::Code(code) => self.dialect.exit_class(code),
            _ => None,
        };
        verdict::fault(&self.tally, exit, code_class, stderr_tail)
    }
}

fn head(line: &[u8]) -> String {
    let end = line.len().min(event::MESSAGE_BYTES_MAX);
    String::from_utf8_lossy(&line[..end]).into_owned()
}
