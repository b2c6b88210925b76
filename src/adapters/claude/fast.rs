//! Reads a line of Claude Code as serde does, in half the time: it goes over the bytes once, and
//! builds what `wire` asks for in its place instead of handing it through a visitor for each type.
//!
//! Does not know what any of it means, nor what is malformed: whatever is rare or wrong it gives up
//! on, and serde alone decides. Keeps: what it does read is what serde reads of the same line, no
//! more lines and no other values; `tests` holds that against both recordings and broken lines.

use std::borrow::Cow;

use super::wire::{Block, Counts, Line, Message, Partial, Piece};
use crate::adapters::loose::{BLOCKS_MAX, Content, Flag, Num, Obj, Text, Words};
use crate::plain::plain_end;

/// Values within values that are passed over: a bit each in a word. Serde takes twice as many.
const DEPTH_MAX: u32 = 64;
/// Digits of a number that is read. So many fit a float exactly.
const DIGITS_MAX: usize = 15;

/// Reads one line; `None` where it is not sure.
pub(super) fn read(text: &str) -> Option<Line<'_>> {
    let mut reader = Reader { text, at: 0 };
    let mut line = Line::default();
    reader.line(&mut line)?;
    reader.peek().is_none().then_some(line)
}

/// Each of its functions reads what stands at `at`, after blanks, and moves behind it. `None`: it
/// is not sure, and `at` may be anywhere. A line has dozens of short strings, so what is needed for
/// each of them is inlined: to call it takes as long as to do it.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

/// Reads an object's fields; those of other names are passed over. Serde refuses one that comes
/// twice.
macro_rules! fields {
    ($reader:ident, $new:ident, $($key:literal => $field:ident: $read:ident($($arg:expr),*),)*) => {{
        #[derive(Default)]
        struct Seen {
            $($field: bool,)*
        }
        let mut seen = Seen::default();
        $reader.object(|reader, key| {
            match key {
                $($key => {
                    if std::mem::replace(&mut seen.$field, true) {
                        return None;
                    }
                    reader.$read(&mut $new.$field $(, $arg)*)?;
                })*
                _ => reader.skip()?,
            }
            Some(())
        })
    }};
}

/// Fills what is new with the fields of an object. In its place: blocks and messages are large, and
/// to hand them back would copy them from hand to hand.
trait Fill<'a, T>: Fn(&mut Reader<'a>, &mut T) -> Option<()> {}
impl<'a, T, F: Fn(&mut Reader<'a>, &mut T) -> Option<()>> Fill<'a, T> for F {}

/// What `wire` asks for.
impl<'a> Reader<'a> {
    fn line(&mut self, new: &mut Line<'a>) -> Option<()> {
        fields! { self, new,
            "type" => kind: text(),
            "message" => message: obj(Reader::message),
            "event" => event: boxed(Reader::partial),
            "error" => error: words(),
            "is_api_error_message" => is_api_error_message: flag(),
            "api_error_status" => api_error_status: num(),
        }
    }

    fn message(&mut self, new: &mut Message<'a>) -> Option<()> {
        fields! { self, new,
            "id" => id: text(),
            "model" => model: text(),
            "content" => content: content(Reader::block),
            "usage" => usage: obj(Reader::counts),
        }
    }

    fn block(&mut self, new: &mut Block<'a>) -> Option<()> {
        fields! { self, new,
            "type" => kind: text(),
            "id" => id: text(),
            "name" => name: text(),
            "text" => text: text(),
            "thinking" => thinking: text(),
            "input" => input: raw(),
            "tool_use_id" => tool_use_id: text(),
            "is_error" => is_error: flag(),
            "content" => content: content(Reader::piece),
        }
    }

    fn piece(&mut self, new: &mut Piece<'a>) -> Option<()> {
        fields! { self, new,
            "text" => text: text(),
        }
    }

    fn partial(&mut self, new: &mut Partial<'a>) -> Option<()> {
        fields! { self, new,
            "type" => kind: text(),
            "message" => message: obj(Reader::message),
            "usage" => usage: obj(Reader::counts),
        }
    }

    fn counts(&mut self, new: &mut Counts) -> Option<()> {
        fields! { self, new,
            "input_tokens" => input_tokens: num(),
            "output_tokens" => output_tokens: num(),
            "cache_read_input_tokens" => cache_read_input_tokens: num(),
            "cache_creation_input_tokens" => cache_creation_input_tokens: num(),
        }
    }
}

/// The loose types: each takes any value, and what it does not ask for is absent.
impl<'a> Reader<'a> {
    #[inline(always)]
    fn text(&mut self, new: &mut Text<'a>) -> Option<()> {
        match self.peek()? {
            b'"' => new.0 = Some(self.string()?),
            _ => self.absent()?,
        }
        Some(())
    }

    /// Where it is no text, serde looks for one within.
    fn words(&mut self, new: &mut Words<'a>) -> Option<()> {
        match self.peek()? {
            b'"' => new.0 = Some(self.string()?),
            b'n' => self.absent()?,
            _ => return None,
        }
        Some(())
    }

    #[inline(always)]
    fn num(&mut self, new: &mut Num) -> Option<()> {
        match self.peek()? {
            b'0'..=b'9' => new.0 = Some(self.integer()?),
            _ => self.absent()?,
        }
        Some(())
    }

    fn flag(&mut self, new: &mut Flag) -> Option<()> {
        new.0 = self.peek()? == b't';
        self.absent()
    }

    fn obj<T: Default>(&mut self, new: &mut Obj<T>, fill: impl Fill<'a, T>) -> Option<()> {
        match self.peek()? {
            b'{' => fill(self, new.0.insert(T::default())),
            _ => self.absent(),
        }
    }

    fn boxed<T: Default>(&mut self, new: &mut Obj<Box<T>>, fill: impl Fill<'a, T>) -> Option<()> {
        self.obj(new, |reader: &mut Reader<'a>, new: &mut Box<T>| {
            fill(reader, new)
        })
    }

    fn content<T: Default>(
        &mut self,
        new: &mut Content<'a, T>,
        fill: impl Fill<'a, T>,
    ) -> Option<()> {
        match self.peek()? {
            b'"' => new.text = Some(self.string()?),
            b'[' => self.list(&mut new.blocks.items, fill)?,
            _ => self.absent()?,
        }
        Some(())
    }

    fn list<T: Default>(&mut self, items: &mut Vec<T>, fill: impl Fill<'a, T>) -> Option<()> {
        self.take(b'[')?;
        if self.take(b']').is_some() {
            return Some(());
        }
        // Most have one; a vector begins with four.
        items.reserve_exact(1);
        while items.len() < BLOCKS_MAX {
            match self.peek()? {
                b'{' => {
                    items.resize_with(items.len() + 1, T::default);
                    fill(self, items.last_mut()?)?;
                }
                _ => self.absent()?,
            }
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
        None
    }

    /// A value as it stands there, unless it is null.
    fn raw(&mut self, new: &mut Option<&'a str>) -> Option<()> {
        let is_null = self.peek()? == b'n';
        let begin = self.at;
        self.skip()?;
        if !is_null {
            *new = Some(self.text.get(begin..self.at)?);
        }
        Some(())
    }

    /// Passes over a value in a place where serde reads one, and is stricter with a number than
    /// where it reads none.
    fn absent(&mut self) -> Option<()> {
        match self.peek()? {
            b'0'..=b'9' => self.integer().map(|_| ()),
            b'-' => None,
            _ => self.skip(),
        }
    }
}

/// JSON.
impl<'a> Reader<'a> {
    #[inline(always)]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// What comes after blanks, without taking it.
    #[inline(always)]
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    #[inline(always)]
    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Without blanks before it.
    #[inline(always)]
    fn take_at_once(&mut self, byte: u8) -> Option<()> {
        (self.byte()? == byte).then(|| self.at += 1)
    }

    #[inline(always)]
    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// An object: `field` is given each key and has to read the value.
    fn object(&mut self, mut field: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            self.take(b'"')?;
            let begin = self.at;
            self.at = plain_end(self.text.as_bytes(), begin);
            // No key that is asked for needs an escape, but any may be written with some: here too,
            // only a quote ends it.
            let key = self.text.get(begin..self.at)?;
            self.take_at_once(b'"')?;
            self.take(b':')?;
            field(self, key)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    #[inline(always)]
    fn string(&mut self) -> Option<Cow<'a, str>> {
        match self.quoted()? {
            (text, true) => Some(Cow::Borrowed(text)),
            (text, false) => unescape(text).map(Cow::Owned),
        }
    }

    /// What stands between the quotes of a string, and whether it is without escapes.
    #[inline(always)]
    fn quoted(&mut self) -> Option<(&'a str, bool)> {
        self.take(b'"')?;
        let begin = self.at;
        self.at = plain_end(self.text.as_bytes(), self.at);
        let is_plain = self.byte()? == b'"';
        if !is_plain {
            self.escapes()?;
        }
        let text = self.text.get(begin..self.at)?;
        self.at += 1;
        Some((text, is_plain))
    }

    /// From the first escape of a string to its end.
    #[inline(never)]
    fn escapes(&mut self) -> Option<()> {
        loop {
            match self.byte()? {
                b'"' => return Some(()),
                b'\\' => self.at += 1,
                _ => return None,
            }
            self.at += escape(self.text.get(self.at..)?)?.1;
            self.at = plain_end(self.text.as_bytes(), self.at);
        }
    }

    /// A number without sign, fraction and exponent: of others the beginning, and what follows is
    /// then no comma and no end.
    #[expect(clippy::cast_precision_loss, reason = "so few digits are exact")]
    #[inline(always)]
    fn integer(&mut self) -> Option<f64> {
        let (begin, mut n) = (self.at, 0_u64);
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            // After a leading nought comes no digit.
            if self.at - begin == DIGITS_MAX || (n == 0 && self.at > begin) {
                return None;
            }
            n = n * 10 + u64::from(digit - b'0');
            self.at += 1;
        }
        Some(n as f64)
    }

    /// Passes over a value of any kind.
    fn skip(&mut self) -> Option<()> {
        // One bit for each value around this one: whether it is an object.
        let (mut depth, mut objects) = (0_u32, 0_u64);
        loop {
            let opened = match self.peek()? {
                b'"' => self.quoted().map(|_| false)?,
                b'{' | b'[' => self.open(depth, &mut objects)?,
                b't' => self.word("true").map(|()| false)?,
                b'f' => self.word("false").map(|()| false)?,
                b'n' => self.word("null").map(|()| false)?,
                _ => self.number().map(|()| false)?,
            };
            if opened {
                depth += 1;
                continue;
            }
            loop {
                if depth == 0 {
                    return Some(());
                }
                match (self.next()?, objects & 1 == 1) {
                    (b',', false) => break,
                    (b',', true) => {
                        self.key()?;
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        depth -= 1;
                        objects >>= 1;
                    }
                    _ => return None,
                }
            }
        }
    }

    /// Begins to pass over an object or a list, up to its first value. `false`: it has none.
    fn open(&mut self, depth: u32, objects: &mut u64) -> Option<bool> {
        let is_object = self.next()? == b'{';
        if self.take(if is_object { b'}' } else { b']' }).is_some() {
            return Some(false);
        }
        if depth == DEPTH_MAX {
            return None;
        }
        *objects = *objects << 1 | u64::from(is_object);
        if is_object {
            self.key()?;
        }
        Some(true)
    }

    /// Passes over a key that is not asked for.
    fn key(&mut self) -> Option<()> {
        self.quoted()?;
        self.take(b':')
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let is = self
            .text
            .as_bytes()
            .get(self.at..)?
            .starts_with(word.as_bytes());
        is.then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte()? {
            // After a leading nought comes no digit: what does is then no comma and no end.
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let begin = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        (self.at > begin).then_some(())
    }
}

/// The character that an escape stands for, and the bytes of the escape after its backslash.
fn escape(after: &str) -> Option<(char, usize)> {
    let c = match after.as_bytes().first()? {
        b'n' => '\n',
        b'"' => '"',
        b'\\' => '\\',
        b't' => '\t',
        b'r' => '\r',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => {
            let digits = after.get(1..5)?;
            // The conversion takes a sign, too.
            if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            // Half of a pair is no character.
            return Some((char::from_u32(u32::from_str_radix(digits, 16).ok()?)?, 5));
        }
        _ => return None,
    };
    Some((c, 1))
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        let (c, length) = escape(after)?;
        plain.push_str(before);
        plain.push(c);
        rest = after.get(length..)?;
    }
    plain.push_str(rest);
    Some(plain)
}

#[cfg(test)]
mod tests;
