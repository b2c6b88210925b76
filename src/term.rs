//! What a terminal can do, and how wide text is on it.
//!
//! Invariant: colour is used as people set it: `NO_COLOR` has none, else `CLICOLOR_FORCE` has it
//! everywhere, else only a terminal has it that is not `TERM=dumb` and without `CLICOLOR=0`.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use unicode_width::UnicodeWidthChar;

/// The output's capabilities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Term {
    pub color: bool,
    /// Columns; `None`: never clip.
    pub width: Option<usize>,
    /// Rows; `None`: unlimited.
    pub height: Option<usize>,
}

impl Term {
    /// A file or a pipe: no colour, no clipping.
    pub(crate) const PLAIN: Term = Term {
        color: false,
        width: None,
        height: None,
    };

    pub(crate) fn of_stdout() -> Term {
        Term::of(&std::io::stdout())
    }

    pub(crate) fn of_stderr() -> Term {
        Term::of(&std::io::stderr())
    }

    fn of(out: &(impl AsFd + IsTerminal)) -> Term {
        let is_terminal = out.is_terminal();
        let color = wants_color(is_terminal, |name| {
            std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
        });
        let size = rustix::termios::tcgetwinsize(out).ok();
        let size = size.filter(|_| is_terminal);
        Term {
            color,
            width: size.map(|s| s.ws_col.into()).filter(|&n| n > 0),
            height: size.map(|s| s.ws_row.into()).filter(|&n| n > 0),
        }
    }
}

/// <https://no-color.org> and <https://bixense.com/clicolors>.
fn wants_color(is_terminal: bool, var: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name: &str, value: &str| var(name).is_some_and(|v| v == value);
    let is_set = |name: &str| var(name).is_some_and(|v| !v.is_empty());
    if is_set("NO_COLOR") {
        return false;
    }
    if is_set("CLICOLOR_FORCE") && !is("CLICOLOR_FORCE", "0") {
        return true;
    }
    is_terminal && !is("TERM", "dumb") && !is("CLICOLOR", "0")
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Paint {
    #[default]
    Plain,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Paint {
    /// `text` in this colour, if the terminal has colours.
    pub(crate) fn on(self, text: &str, term: &Term) -> String {
        let code = match self {
            Paint::Plain => return text.to_owned(),
            Paint::Dim => "2",
            Paint::Red => "31",
            Paint::Green => "32",
            Paint::Yellow => "33",
            Paint::Cyan => "36",
        };
        if term.color && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Cells that a character takes on a terminal. Where terminals differ (emoji that are joined, or made
/// one by a selector) it is the larger number: a line is rather too short than broken.
pub(crate) fn cells_of(c: char) -> usize {
    match c {
        '\u{fe0f}' => 1,
        c => c.width().unwrap_or(0),
    }
}

/// Cells that a text takes on a terminal.
pub(crate) fn cells(text: &str) -> usize {
    text.chars().map(cells_of).sum()
}

/// Rows that a text takes on a terminal of this width.
pub(crate) fn rows(text: &str, width: usize) -> usize {
    let (mut rows, mut used) = (1, 0);
    for cells in text.chars().map(cells_of) {
        // What takes two cells is not cut.
        if used + cells > width {
            (rows, used) = (rows + 1, 0);
        }
        used += cells;
    }
    rows
}

/// The longest beginning with at most so many cells.
pub(crate) fn beginning(text: &str, width: usize) -> &str {
    let mut used = 0;
    let over = text.char_indices().find(|&(_, c)| {
        used += cells_of(c);
        used > width
    });
    over.map_or(text, |(at, _)| &text[..at])
}

/// At most `width` cells; `…` marks what was cut.
pub(crate) fn clip(text: &str, width: usize) -> String {
    if cells(text) <= width {
        return text.to_owned();
    }
    match width.checked_sub(1) {
        None => String::new(),
        Some(rest) => format!("{}…", beginning(text, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_wrapped_as_a_terminal_wraps_it() {
        let cases = [
            ("", 10, 1),
            ("0123456789", 10, 1),
            ("0123456789a", 10, 2),
            ("漢字漢字", 4, 2),
            ("漢字漢字漢", 5, 3),
            ("a漢字漢字", 4, 3),
            ("abcdef", 1, 6),
        ];
        for (text, width, wanted) in cases {
            assert_eq!(rows(text, width), wanted, "{text} {width}");
        }
    }

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let term = Term {
            color: true,
            ..Term::PLAIN
        };
        assert_eq!(Paint::Red.on("x", &term), "\x1b[31mx\x1b[0m");
        assert_eq!(Paint::Red.on("x", &Term::PLAIN), "x");
        type Case = (bool, &'static [(&'static str, &'static str)], bool);
        let cases: [Case; 9] = [
            (true, &[], true),
            (false, &[], false),
            (true, &[("NO_COLOR", "1")], false),
            (true, &[("NO_COLOR", "")], true),
            (false, &[("CLICOLOR_FORCE", "1")], true),
            (false, &[("CLICOLOR_FORCE", "0")], false),
            (true, &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false),
            (true, &[("TERM", "dumb")], false),
            (true, &[("CLICOLOR", "0")], false),
        ];
        for (is_terminal, vars, colored) in cases {
            let var = |name: &str| {
                let found = vars.iter().find(|(n, _)| *n == name);
                found.map(|(_, v)| (*v).to_owned())
            };
            assert_eq!(
                wants_color(is_terminal, var),
                colored,
                "{is_terminal} {vars:?}"
            );
        }
    }
}
