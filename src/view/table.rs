//! Aligned columns of text. A character counts as one column (wide ones may stick out). Lines are
//! clipped to a terminal's width only, so that a pipe gets everything.
//!
//! Invariant: one row is one line, as every cell is made `safe`.

use super::{Paint, Term, safe};

/// Space between columns.
const GAP: usize = 2;

#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Cell {
        Cell {
            text: safe(text.as_ref()),
            paint: Paint::Plain,
        }
    }

    pub(crate) fn painted(text: impl AsRef<str>, paint: Paint) -> Cell {
        Cell {
            paint,
            ..Cell::new(text)
        }
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::new(text)
    }
}

/// Rows under a heading. Short rows are padded with empty cells.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    head: Vec<Cell>,
    right: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A title that begins with `>` marks a column of numbers, aligned to the right.
    pub(crate) fn new(titles: &[&str]) -> Table {
        let bare = |t: &&str| Cell::painted(t.trim_start_matches('>'), Paint::Dim);
        Table {
            head: titles.iter().map(bare).collect(),
            right: titles.iter().map(|t| t.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The lines, heading first, each with a newline and no trailing spaces.
    pub(crate) fn render(&self, term: &Term) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let mut widths = vec![0; lines().map(Vec::len).max().unwrap_or(0)];
        for line in lines() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.text.chars().count().max(*width);
            }
        }
        let mut out = String::new();
        for line in lines() {
            self.line(&mut out, line, &widths, term);
        }
        out
    }

    fn line(&self, out: &mut String, cells: &[Cell], widths: &[usize], term: &Term) {
        let mut left = term.width.unwrap_or(usize::MAX);
        // Spaces are written only if something follows them.
        let mut blanks = 0;
        for (i, cell) in cells.iter().enumerate() {
            let width = widths.get(i).copied().unwrap_or(0);
            let pad = width - cell.text.chars().count().min(width);
            let right = self.right.get(i) == Some(&true);
            if right {
                blanks += pad;
            }
            if !cell.text.is_empty() {
                if left <= blanks {
                    break;
                }
                out.extend(std::iter::repeat_n(' ', blanks));
                left -= blanks;
                blanks = 0;
                let text = clip(&cell.text, left);
                left -= text.chars().count();
                out.push_str(&cell.paint.on(&text, term));
            }
            blanks += GAP + if right { 0 } else { pad };
        }
        out.push('\n');
    }
}

/// At most `width` characters; `…` marks what was cut.
pub(crate) fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut t = Table::new(&["NAME", ">TRIES", "WHY"]);
        t.row(vec!["a".into(), "12".into(), "x\ny".into()]);
        t.row(vec!["é-long".into(), "3".into()]);
        t.row(vec![
            Cell::painted("b", Paint::Red),
            "".into(),
            "last of all".into(),
        ]);
        t
    }

    #[test]
    fn columns_are_aligned_and_pipes_get_everything() {
        let want = "NAME    TRIES  WHY\n\
                    a          12  x\\ny\n\
                    é-long      3\n\
                    b              last of all\n";
        assert_eq!(sample().render(&Term::PLAIN), want);
    }

    #[test]
    fn terminals_get_clipped_lines_whose_colour_ends() {
        let term = Term {
            color: true,
            width: Some(19),
            height: None,
        };
        let text = sample().render(&term);
        let last = text.lines().last().unwrap();
        assert_eq!(last, "\x1b[31mb\x1b[0m              las…");
        let narrow = Term {
            width: Some(1),
            ..Term::PLAIN
        };
        assert!(
            sample()
                .render(&narrow)
                .lines()
                .all(|l| l.chars().count() <= 1)
        );
        assert_eq!(clip("abc", 0), "");
    }
}
