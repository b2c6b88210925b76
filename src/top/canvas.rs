//! Where text becomes cells of the screen. Invariant: nothing of a text acts on the terminal: all of it comes
//! through `put`, which makes it safe.

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Modifier, Style};

use crate::term::{cells, clip};
use crate::view::table::clip_middle;
use crate::view::{Paint, safe};

pub(super) struct Canvas {
    pub(super) buffer: Buffer,
    pub(super) cursor: Option<Position>,
    has_colors: bool,
}

impl Canvas {
    pub(super) fn new(area: Rect, has_colors: bool) -> Canvas {
        Canvas {
            buffer: Buffer::empty(area),
            cursor: None,
            has_colors,
        }
    }

    pub(super) fn width(&self) -> u16 {
        self.buffer.area.width
    }

    pub(super) fn height(&self) -> u16 {
        self.buffer.area.height
    }

    /// A line of text, cut where the room ends; how many cells it took.
    pub(super) fn put(&mut self, (x, y): (u16, u16), room: u16, paint: Paint, text: &str) -> u16 {
        let room = room.min(self.width().saturating_sub(x));
        if y >= self.height() || room == 0 {
            return 0;
        }
        let text = clip(&plain(text), room.into());
        let style = self.style(paint);
        let (end, _) = self.buffer.set_stringn(x, y, text, room.into(), style);
        end - x
    }

    /// Several after each other.
    pub(super) fn put_all(&mut self, (x, y): (u16, u16), room: u16, parts: &[(Paint, &str)]) {
        let mut used = 0;
        for (paint, text) in parts {
            used += self.put((x + used, y), room - used.min(room), *paint, text);
        }
    }

    /// Shows a row as the one that is meant.
    pub(super) fn reverse(&mut self, y: u16) {
        let row = Rect::new(0, y, self.width(), 1).intersection(self.buffer.area);
        self.buffer
            .set_style(row, Style::new().add_modifier(Modifier::REVERSED));
    }

    pub(super) fn clear(&mut self, y: u16) {
        for x in 0..self.width() {
            if let Some(cell) = self.buffer.cell_mut((x, y)) {
                cell.reset();
            }
        }
    }

    pub(super) fn bold(&mut self, x: u16, y: u16, width: u16) {
        let row = Rect::new(x, y, width, 1).intersection(self.buffer.area);
        self.buffer
            .set_style(row, Style::new().add_modifier(Modifier::BOLD));
    }

    /// Words at the left and at the right of a row that is a bar.
    pub(super) fn bar(&mut self, y: u16, left: &str, right: &str) {
        let width = self.width();
        let right = plain(right);
        let used = u16::try_from(cells(&right)).unwrap_or(width);
        let room = match used + 12 < width && used > 0 {
            true => {
                self.put((width - used - 1, y), used, Paint::Plain, &right);
                width - used - 3
            }
            false => width,
        };
        self.put((1, y), room.saturating_sub(1), Paint::Plain, left);
        self.reverse(y);
    }

    /// Without colours nothing is lost: what is red or yellow has a word for it, and stands out in bold.
    fn style(&self, paint: Paint) -> Style {
        let style = Style::new();
        if !self.has_colors {
            return match paint {
                Paint::Red | Paint::Yellow => style.add_modifier(Modifier::BOLD),
                _ => style,
            };
        }
        match paint {
            Paint::Plain => style,
            Paint::Dim => style.add_modifier(Modifier::DIM),
            Paint::Red => style.fg(Color::Red),
            Paint::Green => style.fg(Color::Green),
            Paint::Yellow => style.fg(Color::Yellow),
            Paint::Cyan => style.fg(Color::Cyan),
        }
    }
}

/// Text that acts on no terminal, on one line.
fn plain(text: &str) -> String {
    safe(&text.replace('\t', "    "))
}

/// A column of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Cells at least, and at most.
    pub(super) least: u16,
    pub(super) most: u16,
    pub(super) kind: Kind,
    /// The highest goes first where the room is too small; 0 stays.
    pub(super) rank: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    /// Cut in its middle.
    Name,
}

/// The columns that fit, each with where it begins and its width. The same whatever stands in them, so that
/// nothing jumps.
pub(super) fn fit(columns: &[Column], room: u16) -> Vec<(usize, u16, u16)> {
    let mut left: Vec<usize> = (0..columns.len()).collect();
    let needed = |left: &[usize]| {
        let cells: u16 = left.iter().map(|&n| columns[n].least).sum();
        cells + u16::try_from(left.len()).unwrap_or(0).saturating_sub(1)
    };
    while needed(&left) > room
        && let Some(at) = (0..left.len()).max_by_key(|&at| columns[left[at]].rank)
        && columns[left[at]].rank > 0
    {
        left.remove(at);
    }
    let mut spare = room.saturating_sub(needed(&left));
    let mut x = 0;
    let mut all = Vec::new();
    for n in left {
        let column = columns[n];
        // A name takes a part of what is left, so that what follows has the rest.
        let share = match column.most {
            u16::MAX => spare,
            _ => spare / 3,
        };
        let more = share.min(column.most - column.least);
        spare -= more;
        all.push((n, x, column.least + more));
        x += column.least + more + 1;
    }
    all
}

impl Canvas {
    pub(super) fn heads(&mut self, y: u16, columns: &[Column]) {
        for (n, x, width) in fit(columns, self.width()) {
            self.cell(y, columns[n].kind, (x, width), Paint::Dim, columns[n].title);
        }
    }

    pub(super) fn row(&mut self, y: u16, columns: &[Column], texts: &[(Paint, String)]) {
        for (n, x, width) in fit(columns, self.width()) {
            if let Some((paint, text)) = texts.get(n) {
                self.cell(y, columns[n].kind, (x, width), *paint, text);
            }
        }
    }

    fn cell(&mut self, y: u16, kind: Kind, (x, width): (u16, u16), paint: Paint, text: &str) {
        let text = plain(text);
        let text = match kind {
            Kind::Name => clip_middle(&text, width.into()),
            _ => text,
        };
        let used = u16::try_from(cells(&text)).unwrap_or(width).min(width);
        let x = match kind {
            Kind::Number => x + width - used,
            _ => x,
        };
        self.put((x, y), width, paint, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column {
            title: "A",
            least: 8,
            most: 8,
            kind: Kind::Text,
            rank: 0,
        },
        Column {
            title: "N",
            least: 10,
            most: 30,
            kind: Kind::Name,
            rank: 0,
        },
        Column {
            title: "C",
            least: 6,
            most: 6,
            kind: Kind::Number,
            rank: 2,
        },
        Column {
            title: "S",
            least: 10,
            most: u16::MAX,
            kind: Kind::Text,
            rank: 1,
        },
    ];

    #[test]
    fn columns_go_in_a_fixed_order_and_the_last_has_the_rest() {
        let shown = |room| fit(&COLUMNS, room).iter().map(|c| c.0).collect::<Vec<_>>();
        assert_eq!(shown(80), [0, 1, 2, 3]);
        assert_eq!(shown(36), [0, 1, 3]);
        assert_eq!(shown(20), [0, 1]);
        assert_eq!(shown(5), [0, 1]);
        for room in 37..200 {
            let (_, x, width) = *fit(&COLUMNS, room).last().unwrap();
            assert_eq!(x + width, room);
        }
    }

    #[test]
    fn nothing_of_a_text_acts_on_the_terminal_and_nothing_leaves_its_place() {
        let mut canvas = Canvas::new(Rect::new(0, 0, 20, 2), false);
        canvas.put((0, 0), 20, Paint::Red, "a\x1b[2J\u{202e}b\u{9b}c");
        canvas.put((18, 1), 20, Paint::Plain, "漢漢漢");
        canvas.put((0, 9), 20, Paint::Plain, "nowhere");
        canvas.put((99, 0), 20, Paint::Plain, "nowhere");
        let symbols: String = canvas.buffer.content().iter().map(|c| c.symbol()).collect();
        assert!(!symbols.contains(char::is_control), "{symbols:?}");
        assert!(symbols.contains("\\u{1b}[2J"), "{symbols:?}");
    }
}
