//! Keys, of the bytes that a terminal sends. Not crossterm's reader: it cannot be waited for together with
//! anything else, and works without end when its terminal is gone.

/// What is pasted is cut there.
const PASTE_BYTES_MAX: usize = 16 << 10;
const PASTE_END: &[u8] = b"\x1b[201~";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    /// With Ctrl held, in lower case.
    Ctrl(char),
    Enter,
    Esc,
    Tab,
    BackTab,
    Backspace,
    Delete,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    Paste(String),
    /// One that means nothing here.
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    pasted: Option<Vec<u8>>,
}

impl Keys {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Whether the beginning of a key is there, and maybe no more of it comes: Esc is one.
    pub(super) fn is_amid(&self) -> bool {
        !self.bytes.is_empty() && self.pasted.is_none()
    }

    /// The next whole key. `is_all`: nothing more came for a while.
    pub(super) fn next(&mut self, is_all: bool) -> Option<Key> {
        loop {
            if self.pasted.is_some() {
                return self.paste();
            }
            let (used, key) = key_of(&self.bytes, is_all)?;
            self.bytes.drain(..used);
            match key {
                Some(key) => return Some(key),
                None => self.pasted = Some(Vec::new()),
            }
        }
    }

    fn paste(&mut self) -> Option<Key> {
        let text = self.pasted.as_mut()?;
        let end = self
            .bytes
            .windows(PASTE_END.len())
            .position(|w| w == PASTE_END);
        // Of its mark at the end some may be there.
        let whole = end.unwrap_or(self.bytes.len().saturating_sub(PASTE_END.len()));
        text.extend(self.bytes.drain(..whole));
        text.truncate(PASTE_BYTES_MAX);
        end?;
        self.bytes.drain(..PASTE_END.len());
        let text = self.pasted.take()?;
        Some(Key::Paste(String::from_utf8_lossy(&text).into_owned()))
    }
}

/// How many bytes a key takes, and which it is; `Some((_, None))`: pasted text begins.
fn key_of(bytes: &[u8], is_all: bool) -> Option<(usize, Option<Key>)> {
    let rest = bytes.get(1..).unwrap_or_default();
    let one = |key| Some((1, Some(key)));
    match *bytes.first()? {
        b'\x1b' => match rest.first() {
            Some(b'[') => sequence(bytes, is_all),
            Some(b'O') => match rest.get(1) {
                Some(&last) => Some((3, Some(named(last)))),
                None => is_all.then_some((2, Some(Key::Other))),
            },
            // With a key behind it: Esc, and that.
            Some(_) => one(Key::Esc),
            None => is_all.then_some((1, Some(Key::Esc))),
        },
        b'\r' | b'\n' => one(Key::Enter),
        b'\t' => one(Key::Tab),
        b'\x7f' | b'\x08' => one(Key::Backspace),
        c @ 1..=26 => one(Key::Ctrl(char::from(c - 1 + b'a'))),
        0..=31 => one(Key::Other),
        first => {
            let length = match first {
                0..0x80 => 1,
                0xc0..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0..0xf8 => 4,
                _ => return one(Key::Other),
            };
            match bytes.get(..length) {
                Some(whole) => {
                    let c = std::str::from_utf8(whole)
                        .ok()
                        .and_then(|s| s.chars().next());
                    match c {
                        Some(c) => Some((length, Some(Key::Char(c)))),
                        None => one(Key::Other),
                    }
                }
                None => is_all.then_some((1, Some(Key::Other))),
            }
        }
    }
}

/// `ESC [ numbers letter`.
fn sequence(bytes: &[u8], is_all: bool) -> Option<(usize, Option<Key>)> {
    // The console's function keys.
    if bytes.get(2) == Some(&b'[') {
        return match bytes.len() {
            3 => is_all.then_some((3, Some(Key::Other))),
            _ => Some((4, Some(Key::Other))),
        };
    }
    let is_end = |b: &u8| (0x40..=0x7e).contains(b);
    let Some(length) = bytes[2..].iter().position(is_end) else {
        return is_all.then_some((bytes.len(), Some(Key::Other)));
    };
    let (numbers, end) = (&bytes[2..2 + length], bytes[2 + length]);
    let first = numbers.split(|&b| b == b';').next().unwrap_or_default();
    let key = match (end, first) {
        (b'~', b"200") => None,
        (b'~', b"1" | b"7") => Some(Key::Home),
        (b'~', b"4" | b"8") => Some(Key::End),
        (b'~', b"3") => Some(Key::Delete),
        (b'~', b"5") => Some(Key::PageUp),
        (b'~', b"6") => Some(Key::PageDown),
        (b'~', _) => Some(Key::Other),
        (letter, _) => Some(named(letter)),
    };
    Some((3 + length, key))
}

fn named(letter: u8) -> Key {
    match letter {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::End,
        b'Z' => Key::BackTab,
        b'M' => Key::Enter,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parts: &[&[u8]], is_all: bool) -> Vec<Key> {
        let (mut keys, mut found) = (Keys::default(), Vec::new());
        for part in parts {
            keys.feed(part);
            while let Some(key) = keys.next(false) {
                found.push(key);
            }
        }
        while let Some(key) = keys.next(is_all) {
            found.push(key);
        }
        found
    }

    #[test]
    fn bytes_are_keys_however_they_are_cut() {
        use Key::*;
        let bytes = b"j\x1b[A\x1bOB\x1b[5~\x1b[1;5C\xc3\xa9\xe6\xbc\xa2\r\t\x1b[Z\x7f\x03\x1b[200~two\nlines\x1b[201~q";
        let want = [
            Char('j'),
            Up,
            Down,
            PageUp,
            Right,
            Char('é'),
            Char('漢'),
            Enter,
            Tab,
            BackTab,
            Backspace,
            Ctrl('c'),
            Paste("two\nlines".into()),
            Char('q'),
        ];
        assert_eq!(all(&[bytes], false), want);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(all(&single, false), want);
    }

    #[test]
    fn what_is_no_key_is_passed_over_and_esc_alone_is_one() {
        use Key::*;
        assert_eq!(all(&[b"\x1b"], false), []);
        assert_eq!(all(&[b"\x1b"], true), [Esc]);
        assert_eq!(all(&[b"\x1bq"], false), [Esc, Char('q')]);
        assert_eq!(all(&[b"\x1b[[Aq"], false), [Other, Char('q')]);
        assert_eq!(
            all(&[b"\xff\xfe\x00q"], false),
            [Other, Other, Other, Char('q')]
        );
        assert_eq!(all(&[b"\xc3("], false), [Other, Char('(')]);
        assert_eq!(all(&[b"\x1b[12"], true), [Other]);
        let mut flood = b"\x1b[200~".to_vec();
        flood.extend(vec![b'x'; 1 << 20]);
        flood.extend(PASTE_END);
        let [Paste(text)] = &all(&[&flood], false)[..] else {
            panic!()
        };
        assert_eq!(text.len(), PASTE_BYTES_MAX);
    }
}
