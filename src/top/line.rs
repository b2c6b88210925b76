//! A line that a person types.

use super::keys::Key;
use crate::term::cells;

/// A line holds so many characters.
const CHARS_MAX: usize = 4_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    chars: Vec<char>,
    /// The character that the cursor stands on.
    at: usize,
}

impl Line {
    pub(super) fn new(text: &str) -> Line {
        let chars: Vec<char> = text.chars().take(CHARS_MAX).collect();
        Line {
            at: chars.len(),
            chars,
        }
    }

    pub(super) fn text(&self) -> String {
        self.chars.iter().collect()
    }

    pub(super) fn key(&mut self, key: &Key) {
        match key {
            Key::Char(c) => self.put(*c),
            Key::Paste(text) => {
                for c in text.trim_end().chars() {
                    self.put(if c.is_whitespace() { ' ' } else { c });
                }
            }
            Key::Backspace if self.at > 0 => {
                self.at -= 1;
                self.chars.remove(self.at);
            }
            Key::Delete | Key::Ctrl('d') if self.at < self.chars.len() => {
                self.chars.remove(self.at);
            }
            Key::Left | Key::Ctrl('b') => self.at = self.at.saturating_sub(1),
            Key::Right | Key::Ctrl('f') => self.at = (self.at + 1).min(self.chars.len()),
            Key::Home | Key::Ctrl('a') => self.at = 0,
            Key::End | Key::Ctrl('e') => self.at = self.chars.len(),
            Key::Ctrl('u') => {
                self.chars.drain(..self.at);
                self.at = 0;
            }
            Key::Ctrl('k') => self.chars.truncate(self.at),
            Key::Ctrl('w') => {
                let before = &self.chars[..self.at];
                let word = before.iter().rposition(|c| !c.is_whitespace());
                let from = before[..word.unwrap_or(0)]
                    .iter()
                    .rposition(|c| c.is_whitespace());
                let from = from.map_or(0, |at| at + 1);
                self.chars.drain(from..self.at);
                self.at = from;
            }
            _ => {}
        }
    }

    fn put(&mut self, c: char) {
        if self.chars.len() < CHARS_MAX && !c.is_control() {
            self.chars.insert(self.at, c);
            self.at += 1;
        }
    }

    /// The part of it that fits, and the cell of the cursor in that.
    pub(super) fn shown(&self, width: usize) -> (String, usize) {
        let before: String = self.chars[..self.at].iter().collect();
        let mut from = 0;
        while cells(&before[from..]) + 1 > width.max(2) {
            from += before[from..].chars().next().map_or(1, char::len_utf8);
        }
        let after: String = self.chars[self.at..].iter().collect();
        let cursor = cells(&before[from..]);
        (before[from..].to_owned() + &after, cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_edited_as_in_a_shell() {
        let mut line = Line::default();
        let mut typed = |keys: &[Key]| {
            for key in keys {
                line.key(key);
            }
            line.text()
        };
        let word = |text: &str| text.chars().map(Key::Char).collect::<Vec<_>>();
        assert_eq!(typed(&word("the left one")), "the left one");
        assert_eq!(typed(&[Key::Ctrl('w')]), "the left ");
        assert_eq!(
            typed(&[Key::Home, Key::Delete, Key::Right, Key::Backspace]),
            "e left "
        );
        assert_eq!(typed(&[Key::Paste("a\nb\x1b\n".into())]), "a be left ");
        assert_eq!(typed(&[Key::Ctrl('u'), Key::End, Key::Backspace]), "e left");
        let line = Line::new("abcdefgh");
        assert_eq!(line.shown(5), ("efgh".into(), 4));
        assert_eq!(line.shown(20), ("abcdefgh".into(), 8));
    }
}
