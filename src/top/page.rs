//! A text that fills the screen and is scrolled through: a session's events as they come, or an item's story.

use std::collections::VecDeque;

use super::canvas::Canvas;
use super::keys::Key;
use crate::inspect::live::{Live, Said};
use crate::term::cells;
use crate::view::table::wrap;
use crate::view::{Paint, safe};

/// What is kept of a text that has no end.
const SAID_MAX: usize = 2_000;
const ROWS_MAX: usize = 20_000;

#[derive(Debug, Clone)]
struct Row {
    paint: Paint,
    head: String,
    text: String,
}

/// A text that grows, in rows of a width.
#[derive(Default)]
pub(super) struct Text {
    said: VecDeque<Said>,
    rows: VecDeque<Row>,
    width: u16,
    /// Rows that are no longer kept.
    gone: usize,
}

impl Text {
    pub(super) fn add(&mut self, new: Vec<Said>) {
        for said in new {
            self.rows.extend(rows_of(&said, self.width));
            self.said.push_back(said);
        }
        while self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
        while self.rows.len() > ROWS_MAX {
            self.rows.pop_front();
            self.gone += 1;
        }
    }

    /// Sets it for another width. `true`: it was another.
    fn set(&mut self, width: u16) -> bool {
        if width == self.width {
            return false;
        }
        self.width = width;
        self.gone = 0;
        let all = self.said.iter().flat_map(|said| rows_of(said, width));
        self.rows = all.collect();
        while self.rows.len() > ROWS_MAX {
            self.rows.pop_front();
        }
        true
    }

    /// Draws its last rows.
    pub(super) fn draw_end(&mut self, canvas: &mut Canvas, from: u16, to: u16) {
        self.set(canvas.width());
        let first = self.rows.len().saturating_sub(usize::from(to - from));
        self.draw(canvas, from, to, first);
    }

    fn draw(&self, canvas: &mut Canvas, from: u16, to: u16, first: usize) {
        for (y, row) in (from..to).zip(self.rows.iter().skip(first)) {
            let width = canvas.width();
            let parts = [(row.paint, &*row.head), (Paint::Plain, &*row.text)];
            canvas.put_all((0, y), width, &parts);
        }
    }
}

/// Below this width a row has no time.
const WITH_TIME: u16 = 60;

fn rows_of(said: &Said, width: u16) -> Vec<Row> {
    let time = match (width >= WITH_TIME, &*said.at) {
        (false, _) | (true, "") => String::new(),
        (true, at) => format!("{at} "),
    };
    let word = match (&*said.word, said.is_more) {
        ("", _) | (_, true) => String::new(),
        (word, false) => format!("{word:<8} "),
    };
    // What goes on stands below what it goes on from.
    let mut head = match said.is_more {
        true => " ".repeat(cells(&time) + 9),
        false => time + &word,
    };
    let room = usize::from(width).saturating_sub(cells(&head)).max(10);
    let mut rows = Vec::new();
    let text = match said.text.trim() {
        "" => " ",
        _ => said.text.trim_end(),
    };
    for line in text.lines() {
        for part in wrap(&safe(&line.replace('\t', "    ")), room) {
            let blank = " ".repeat(cells(&head));
            rows.push(Row {
                paint: said.paint,
                head: std::mem::replace(&mut head, blank),
                text: part,
            });
        }
    }
    rows
}

pub(super) struct Page {
    pub(super) title: String,
    pub(super) live: Option<Live>,
    text: Text,
    /// The first row that is shown; `None`: the last ones are.
    top: Option<usize>,
    /// Rows that were shown last.
    height: usize,
    find: String,
}

impl Page {
    pub(super) fn new(title: String, text: &str) -> Page {
        let mut page = Page::empty(title);
        let lines = text.lines().map(|line| Said {
            text: line.to_owned(),
            ..Said::default()
        });
        page.text.add(lines.collect());
        page.top = Some(0);
        page
    }

    /// A session's events, from the newest on.
    pub(super) fn of_session(live: Live) -> Page {
        let mut page = Page::empty(String::new());
        page.live = Some(live);
        page.look();
        page
    }

    fn empty(title: String) -> Page {
        Page {
            title,
            live: None,
            text: Text::default(),
            top: None,
            height: 1,
            find: String::new(),
        }
    }

    /// `true`: there is more to show.
    pub(super) fn look(&mut self) -> bool {
        let Some(live) = &mut self.live else {
            return false;
        };
        let new = live.look();
        let is_new = !new.is_empty() || live.title != self.title;
        self.title.clone_from(&live.title);
        self.add(new);
        is_new
    }

    fn add(&mut self, new: Vec<Said>) {
        let gone = self.text.gone;
        self.text.add(new);
        let more = self.text.gone - gone;
        self.top = self.top.map(|top| top.saturating_sub(more));
    }

    pub(super) fn follows(&self) -> bool {
        self.top.is_none()
    }

    pub(super) fn draw(&mut self, canvas: &mut Canvas, from: u16, to: u16) {
        self.height = usize::from(to.saturating_sub(from)).max(1);
        if self.text.set(canvas.width()) && self.top.is_some_and(|top| top > 0) {
            self.top = Some(self.last_top().min(self.top.unwrap_or(0)));
        }
        let top = self.top.unwrap_or(self.last_top());
        self.text.draw(canvas, from, to, top);
        if self.text.rows.is_empty() {
            canvas.put(
                (1, from),
                canvas.width(),
                Paint::Dim,
                "nothing was said yet",
            );
        }
    }

    fn last_top(&self) -> usize {
        self.text.rows.len().saturating_sub(self.height)
    }

    /// Where it is in the text.
    pub(super) fn place(&self) -> String {
        match self.top {
            None if self.live.is_some() => "follows".to_owned(),
            top => {
                let top = top.unwrap_or(self.last_top());
                let end = (top + self.height).min(self.text.rows.len());
                format!("{end} of {}", self.text.rows.len())
            }
        }
    }

    /// `false`: not a key of a page.
    pub(super) fn key(&mut self, key: &Key) -> bool {
        let (now, last) = (self.top.unwrap_or(self.last_top()), self.last_top());
        let to = match key {
            Key::Up | Key::Char('k') => now.saturating_sub(1),
            Key::Down | Key::Char('j') | Key::Enter => now + 1,
            Key::PageUp | Key::Char('b') | Key::Ctrl('b') => now.saturating_sub(self.height),
            Key::PageDown | Key::Char(' ' | 'f') | Key::Ctrl('f') => now + self.height,
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => last,
            Key::Char('n') => return self.found(now + 1, true),
            Key::Char('N') => return self.found(now, false),
            _ => return false,
        };
        // At its end it follows again.
        self.top = match to >= last && self.live.is_some() {
            true => None,
            false => Some(to.min(last)),
        };
        true
    }

    pub(super) fn find(&mut self, text: &str) -> bool {
        self.find = text.to_lowercase();
        let now = self.top.unwrap_or(self.last_top());
        self.found(now, true) || self.found(0, true)
    }

    /// Goes to the next row that has it.
    fn found(&mut self, from: usize, forward: bool) -> bool {
        let has = |n: &usize| {
            let row = &self.text.rows[*n];
            let text = format!("{}{}", row.head, row.text).to_lowercase();
            !self.find.is_empty() && text.contains(&self.find)
        };
        let end = self.text.rows.len();
        let at = match forward {
            true => (from.min(end)..end).find(has),
            false => (0..from.min(end)).rev().find(has),
        };
        if let Some(at) = at {
            self.top = Some(at.min(self.last_top()));
        }
        at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        Said {
            at: "10:45:00".into(),
            word: "text".into(),
            text: text.into(),
            ..Said::default()
        }
    }

    #[test]
    fn a_text_without_end_is_bounded_and_stays_where_a_person_reads() {
        let mut page = Page::empty("t".into());
        page.text.set(80);
        page.height = 10;
        page.add((0..50).map(|n| said(&n.to_string())).collect());
        page.top = Some(30);
        let long = "x\n".repeat(500);
        for _ in 0..100 {
            page.add(vec![said(&long)]);
        }
        assert_eq!(page.text.rows.len(), ROWS_MAX);
        assert!(page.text.said.len() <= SAID_MAX);
        assert_eq!(page.top, Some(0));
        assert!(page.key(&Key::End) && page.top == Some(ROWS_MAX - 10));
    }

    #[test]
    fn long_lines_are_wrapped_below_themselves_and_what_is_sought_is_found() {
        let rows = rows_of(&said("one two three\nfour"), 30);
        let texts: Vec<_> = rows
            .iter()
            .map(|r| format!("{}{}", r.head, r.text))
            .collect();
        assert_eq!(texts, ["text     one two three", "         four"]);
        let rows = rows_of(&said("a\x1bb"), 80);
        assert_eq!(rows[0].head, "10:45:00 text     ");
        assert_eq!(rows[0].text, "a\\u{1b}b");
        let lines: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let mut page = Page::new("t".into(), &lines);
        page.text.set(80);
        page.height = 10;
        assert!(page.find("LINE 77") && page.top == Some(77));
        assert!(!page.find("nowhere"));
    }
}
