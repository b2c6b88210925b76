//! Lines for people on standard error. Knows nothing of what they are about. Invariant: each line is
//! one write, with control characters made visible, so that lines of several threads never mix.

use std::io::{IsTerminal, Write};

use crate::text::printable;

pub(crate) struct Console {
    /// Only warnings are printed.
    quiet: bool,
}

impl Console {
    pub(crate) fn new(quiet: bool) -> Console {
        Console { quiet }
    }

    /// Says what happened.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            print(&format!("{}\n", printable(text)));
        }
    }

    /// Says that something is wrong, also when quiet.
    pub(crate) fn warn(&self, text: &str) {
        let mark = match std::io::stderr().is_terminal() {
            true => "\x1b[33m!\x1b[0m",
            false => "!",
        };
        print(&format!("{mark} {}\n", printable(text)));
    }
}

/// Standard error is not buffered: one call is one write. Nobody listens where it fails.
fn print(line: &str) {
    let _closed = std::io::stderr().lock().write_all(line.as_bytes());
}
