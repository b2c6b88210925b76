//! Aligned columns of text. A wide character (CJK, most emoji) takes two cells and a combining one
//! none. Lines are fitted to a terminal's width only, so that a pipe gets everything.
//!
//! Invariant: one row is one line, as every cell is made `line`.

use super::{Paint, Term, line};
use crate::term::{beginning, cells, cells_of, clip};

/// Space between columns.
const GAP: usize = 2;
/// A name is shortened to this many cells at least: enough to recognise it.
const NAME_CELLS_MIN: usize = 10;
/// Cells that the last column gets, if it needs them, before names are left whole.
const LAST_CELLS: usize = 24;
/// A last column with fewer cells says nothing: rather a column that may be left out goes.
const LAST_CELLS_MIN: usize = 8;

#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn new(text: impl AsRef<str>) -> Cell {
        Cell {
            text: line(text.as_ref()),
            paint: Paint::Plain,
        }
    }

    pub(crate) fn painted(text: impl AsRef<str>, paint: Paint) -> Cell {
        Cell {
            paint,
            ..Cell::new(text)
        }
    }

    fn cells(&self) -> usize {
        cells(&self.text)
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

/// What a column is like.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    /// Numbers, aligned to the right.
    right: bool,
    /// A name: it gives way first on a narrow terminal.
    name: bool,
    /// Left out where a terminal is too narrow even so, the rightmost first.
    spare: bool,
}

/// Rows under a heading. Short rows are padded with empty cells.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    head: Vec<Cell>,
    kinds: Vec<Kind>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Marks before a title: `>` numbers, aligned to the right; `~` a name, which is shortened before
    /// anything else is; `?` a column that a narrow terminal can do without.
    pub(crate) fn new(titles: &[&str]) -> Table {
        const MARKS: [char; 3] = ['>', '~', '?'];
        let bare = |t: &&str| Cell::painted(t.trim_start_matches(MARKS), Paint::Dim);
        let kind = |t: &&str| {
            let marks = &t[..t.len() - t.trim_start_matches(MARKS).len()];
            Kind {
                right: marks.contains('>'),
                name: marks.contains('~'),
                spare: marks.contains('?'),
            }
        };
        Table {
            head: titles.iter().map(bare).collect(),
            kinds: titles.iter().map(kind).collect(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<Cell>> {
        std::iter::once(&self.head).chain(&self.rows)
    }

    fn kind(&self, column: usize) -> Kind {
        self.kinds.get(column).copied().unwrap_or_default()
    }

    /// The lines, heading first, each with a newline and no trailing spaces.
    pub(crate) fn render(&self, term: &Term) -> String {
        let mut widths = vec![0; self.lines().map(Vec::len).max().unwrap_or(0)];
        for line in self.lines() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.cells().max(*width);
            }
        }
        let mut shown: Vec<usize> = (0..widths.len()).collect();
        if let Some(room) = term.width {
            self.fit(&mut widths, &mut shown, room);
        }
        let mut out = String::new();
        for line in self.lines() {
            self.line(&mut out, line, &widths, &shown, term);
        }
        out
    }

    /// Shortens names, then leaves out columns, until the others fit. What is then still too long is
    /// the last column, which is cut at the edge.
    fn fit(&self, widths: &mut [usize], shown: &mut Vec<usize>, room: usize) {
        let needed = |widths: &[usize], shown: &[usize], last_max: usize| -> usize {
            let cells = |(at, &c): (usize, &usize)| match at + 1 == shown.len() {
                true => widths[c].min(last_max),
                false => widths[c],
            };
            let all: usize = shown.iter().enumerate().map(cells).sum();
            all + GAP * shown.len().saturating_sub(1)
        };
        let longest = |widths: &[usize], shown: &[usize]| {
            let names = shown.iter().copied().filter(|&c| self.kind(c).name);
            let names = names.filter(|&c| widths[c] > NAME_CELLS_MIN);
            names.max_by_key(|&c| widths[c])
        };
        while needed(widths, shown, LAST_CELLS) > room
            && let Some(name) = longest(widths, shown)
        {
            widths[name] -= 1;
        }
        while needed(widths, shown, LAST_CELLS_MIN) > room
            && let Some(at) = shown.iter().rposition(|&c| self.kind(c).spare)
        {
            shown.remove(at);
        }
    }

    fn line(&self, out: &mut String, row: &[Cell], widths: &[usize], shown: &[usize], term: &Term) {
        let mut left = term.width.unwrap_or(usize::MAX);
        // Spaces are written only if something follows them.
        let mut blanks = 0;
        for &column in shown {
            let Some(cell) = row.get(column) else { break };
            let (width, kind) = (widths[column], self.kind(column));
            let text = match kind.name {
                true => clip_middle(&cell.text, width),
                false => cell.text.clone(),
            };
            let pad = width.saturating_sub(cells(&text));
            if kind.right {
                blanks += pad;
            }
            if !text.is_empty() {
                if left <= blanks {
                    break;
                }
                out.extend(std::iter::repeat_n(' ', blanks));
                left -= blanks;
                blanks = 0;
                let text = clip(&text, left);
                left -= cells(&text);
                out.push_str(&cell.paint.on(&text, term));
            }
            blanks += GAP + if kind.right { 0 } else { pad };
        }
        out.push('\n');
    }
}

/// The same with the cut in the middle: names often differ in their ends.
pub(crate) fn clip_middle(text: &str, width: usize) -> String {
    let (all, tail) = (cells(text), width / 3);
    if all <= width || tail == 0 {
        return clip(text, width);
    }
    let mut used = 0;
    let from = text.char_indices().rev().find(|&(_, c)| {
        used += cells_of(c);
        used > tail
    });
    let from = from.map_or(0, |(at, c)| at + c.len_utf8());
    // A mark that combines with what was cut.
    let end = text[from..].trim_start_matches(|c| cells_of(c) == 0);
    format!("{}…{end}", beginning(text, width - 1 - cells(end)))
}

/// The text in lines of at most so many cells, broken at spaces where that goes; lines after the first
/// are indented.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    const INDENT: usize = 4;
    let width = width.max(INDENT * 2);
    let (mut lines, mut rest) = (Vec::new(), text);
    loop {
        let indent = if lines.is_empty() { 0 } else { INDENT };
        let fits = beginning(rest, width - indent);
        let begin = " ".repeat(indent);
        if fits.len() == rest.len() {
            lines.push(begin + rest);
            return lines;
        }
        let space = match rest[fits.len()..].starts_with(' ') {
            true => Some(fits.len()),
            false => fits.rfind(' ').filter(|&at| at > 0),
        };
        // At least one character, so that it ends.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let cut = space.unwrap_or(fits.len()).max(first);
        lines.push(begin + rest[..cut].trim_end());
        rest = rest[cut..].trim_start();
    }
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
                    a          12  x y\n\
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

    #[test]
    fn wide_characters_take_two_cells_and_combining_ones_none() {
        assert_eq!(
            [cells("ab"), cells("漢字"), cells("🙂"), cells("e\u{301}")],
            [2, 4, 2, 1]
        );
        assert_eq!(clip("漢字漢字", 5), "漢字…");
        assert_eq!(clip("漢字漢字", 4), "漢…");
        assert_eq!(clip("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(clip_middle("fix-the-漢字-page-2.md", 12), "fix-the…2.md");
        let mut table = Table::new(&["NAME", "WHY"]);
        table.row(vec!["漢字.md".into(), "a".into()]);
        table.row(vec!["e\u{301}".into(), "b".into()]);
        let want = "NAME     WHY\n漢字.md  a\ne\u{301}        b\n";
        assert_eq!(table.render(&Term::PLAIN), want);
    }

    #[test]
    fn a_name_gives_way_first_then_spare_columns_then_the_last() {
        let mut table = Table::new(&["~NAME", "STATE", "?>TRIES", "WHY"]);
        table.row(vec![
            "a-very-long-name-of-an-item-that-nobody-reads.md".into(),
            "parked".into(),
            "3".into(),
            "exit status 3: the server did not answer in time".into(),
        ]);
        let at = |width| {
            let term = Term {
                width: Some(width),
                ..Term::PLAIN
            };
            let text = table.render(&term);
            assert!(text.lines().all(|l| cells(l) <= width), "{text}");
            text.lines().last().unwrap().to_owned()
        };
        let wide = at(80);
        assert!(wide.starts_with("a-very-long-name-of-an-it"), "{wide}");
        assert!(
            wide.contains(".md  parked      3  exit status 3: the"),
            "{wide}"
        );
        assert_eq!(at(40), "a-very….md  parked      3  exit status …");
        assert_eq!(at(34), "a-very….md  parked  exit status 3…");
        assert!(at(9).len() >= 9);
    }

    #[test]
    fn long_lines_are_broken_at_spaces() {
        let text = "agent-1 IS INTERRUPTED: which one? `harness resume agent-1` ends it";
        let lines = wrap(text, 30);
        let want = [
            "agent-1 IS INTERRUPTED: which",
            "    one? `harness resume",
            "    agent-1` ends it",
        ];
        assert_eq!(lines, want);
        assert!(wrap(&"漢".repeat(50), 20).iter().all(|l| cells(l) <= 20));
        assert_eq!(wrap("", 20), [""]);
    }
}
