//! JSON lines, read and written a piece at a time. The reader builds nothing by itself: it hands out
//! strings as they stand in the text, and passes over what nobody asks for. Both are several times
//! as fast as what serde derives: agents say thousands of lines a second.
//!
//! Does not know what anything means. Keeps: what is JSON is read as JSON; of what is not, nothing
//! is read. One leniency: half of a surrogate pair, which CLIs in JavaScript print where they cut a
//! text in the middle of a character, is read as U+FFFD.

use std::borrow::Cow;

/// The text is no JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad;

pub type Read<T> = Result<T, Bad>;

/// Deeper nesting is no message of a CLI; each level is a call.
const DEPTH_MAX: u32 = 500;

pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Reader<'a> {
        Reader {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// What the next value begins with.
    #[inline]
    pub fn peek(&mut self) -> Read<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&b) = bytes.get(self.at) {
            if !matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(b);
            }
            self.at += 1;
        }
        Err(Bad)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Read<()> {
        if self.peek()? != byte {
            return Err(Bad);
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing but white space is left.
    pub fn end(&mut self) -> Read<()> {
        match self.peek() {
            Ok(_) => Err(Bad),
            Err(Bad) => Ok(()),
        }
    }

    /// An object: `each` is called with every key and must read its value.
    #[inline]
    pub fn object(&mut self, mut each: impl FnMut(&str, &mut Reader<'a>) -> Read<()>) -> Read<()> {
        self.enter(b'{')?;
        if self.peek()? == b'}' {
            return self.leave();
        }
        loop {
            let (plain, owned);
            let key = match self.plain()? {
                (text, true) => {
                    plain = text;
                    plain
                }
                (_, false) => {
                    owned = self.unescaped()?;
                    owned.as_str()
                }
            };
            self.expect(b':')?;
            each(key, self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => return self.leave(),
                _ => return Err(Bad),
            }
        }
    }

    /// A list: `each` is called at every element and must read it.
    #[inline]
    pub fn list(&mut self, mut each: impl FnMut(&mut Reader<'a>) -> Read<()>) -> Read<()> {
        self.enter(b'[')?;
        if self.peek()? == b']' {
            return self.leave();
        }
        loop {
            each(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => return self.leave(),
                _ => return Err(Bad),
            }
        }
    }

    #[inline]
    fn enter(&mut self, byte: u8) -> Read<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Bad);
        }
        self.expect(byte)
    }

    #[inline]
    fn leave(&mut self) -> Read<()> {
        self.depth -= 1;
        self.at += 1;
        Ok(())
    }

    /// A string, borrowed where it stands there as it is.
    #[inline]
    pub fn string(&mut self) -> Read<Cow<'a, str>> {
        Ok(match self.plain()? {
            (text, true) => Cow::Borrowed(text),
            (_, false) => Cow::Owned(self.unescaped()?),
        })
    }

    /// A string up to its end (`true`), or up to where a backslash stands: that is not passed over,
    /// and `unescaped` goes on.
    #[inline]
    fn plain(&mut self) -> Read<(&'a str, bool)> {
        self.expect(b'"')?;
        let begin = self.at;
        let end = stop(self.text.as_bytes(), begin);
        let text = self.text.get(begin..end).ok_or(Bad)?;
        match self.text.as_bytes().get(end) {
            Some(b'"') => {
                self.at = end + 1;
                Ok((text, true))
            }
            Some(b'\\') => Ok((text, false)),
            _ => Err(Bad),
        }
    }

    /// A string in which a backslash stands; its opening quote has been read.
    #[inline(never)]
    fn unescaped(&mut self) -> Read<String> {
        let mut whole = String::new();
        loop {
            let from = self.at;
            self.at = stop(self.text.as_bytes(), from);
            whole.push_str(self.text.get(from..self.at).ok_or(Bad)?);
            self.at += 1;
            match self.text.as_bytes().get(self.at - 1) {
                Some(b'"') => return Ok(whole),
                Some(b'\\') => whole.push(self.escape()?),
                _ => return Err(Bad),
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self) -> Read<char> {
        let c = match self.text.as_bytes().get(self.at) {
            Some(&c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'u') => {
                let high = self.hex(self.at + 1)?;
                self.at += 5;
                if (0xd800..0xdc00).contains(&high)
                    && self.text.get(self.at..self.at + 2) == Some("\\u")
                    && let low @ 0xdc00..0xe000 = self.hex(self.at + 2)?
                {
                    self.at += 6;
                    let both = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                    return char::from_u32(both).ok_or(Bad);
                }
                return Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            _ => return Err(Bad),
        };
        self.at += 1;
        Ok(c)
    }

    fn hex(&self, at: usize) -> Read<u32> {
        let digits = self.text.get(at..at + 4).ok_or(Bad)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Bad);
        }
        u32::from_str_radix(digits, 16).map_err(|_| Bad)
    }

    /// A number, as it stands there.
    #[inline]
    pub fn number(&mut self) -> Read<&'a str> {
        self.peek()?;
        let bytes = self.text.as_bytes();
        let begin = self.at;
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let whole = self.digits()?;
        if whole > 1 && bytes.get(self.at - whole) == Some(&b'0') {
            return Err(Bad);
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        self.text.get(begin..self.at).ok_or(Bad)
    }

    #[inline]
    fn digits(&mut self) -> Read<usize> {
        let begin = self.at;
        while self
            .text
            .as_bytes()
            .get(self.at)
            .is_some_and(u8::is_ascii_digit)
        {
            self.at += 1;
        }
        (self.at > begin).then_some(self.at - begin).ok_or(Bad)
    }

    /// `true`, `false` or `null`: whether it is the first.
    pub fn word(&mut self) -> Read<bool> {
        let (word, is_true) = match self.peek()? {
            b't' => ("true", true),
            b'f' => ("false", false),
            _ => ("null", false),
        };
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(Bad);
        }
        self.at += word.len();
        Ok(is_true)
    }

    /// Passes over a value of any kind.
    #[inline]
    pub fn skip(&mut self) -> Read<()> {
        match self.peek()? {
            b'"' => self.skip_string(),
            b'{' => self.skip_object(),
            b'[' => self.list(Reader::skip),
            b't' | b'f' | b'n' => self.word().map(drop),
            _ => self.number().map(drop),
        }
    }

    fn skip_object(&mut self) -> Read<()> {
        self.object(|_, r| r.skip())
    }

    fn skip_string(&mut self) -> Read<()> {
        let bytes = self.text.as_bytes();
        self.at = stop(bytes, self.at + 1);
        loop {
            self.at += 1;
            match bytes.get(self.at - 1) {
                Some(b'"') => return Ok(()),
                Some(b'\\') => self.escape().map(drop)?,
                _ => return Err(Bad),
            }
            self.at = stop(bytes, self.at);
        }
    }

    /// A value of any kind, as it stands there.
    pub fn raw(&mut self) -> Read<&'a str> {
        self.peek()?;
        let begin = self.at;
        self.skip()?;
        self.text.get(begin..self.at).ok_or(Bad)
    }
}

/// Where the first byte is, from `at` on, that ends a string or stands for something else: a quote,
/// a backslash, a control character. Eight bytes at a time: of each lane's high bit, the lowest that
/// is set is right (above it a borrow may have set others).
#[inline]
fn stop(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let below = |x: u64, n: u8| x.wrapping_sub(ONES * u64::from(n)) & !x;
    while let Some(&eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let x = u64::from_le_bytes(eight);
        let is = |b: u8| below(x ^ (ONES * u64::from(b)), 1);
        let found = (is(b'"') | is(b'\\') | below(x, b' ')) & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&b) = bytes.get(at) {
        if b == b'"' || b == b'\\' || b < b' ' {
            break;
        }
        at += 1;
    }
    at
}

/// Appends a text in quotes.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut from = 0;
    loop {
        let at = stop(bytes, from);
        out.extend_from_slice(&bytes[from..at]);
        let Some(&b) = bytes.get(at) else { break };
        from = at + 1;
        let short = match b {
            b'"' | b'\\' => b,
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            8 => b'b',
            12 => b'f',
            _ => {
                let hex = |n: u8| b"0123456789abcdef"[usize::from(n)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(b >> 4), hex(b & 15)]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.push(b'"');
}

/// Appends a number.
pub fn put_number(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// By the reader alone.
    fn value(r: &mut Reader<'_>) -> Read<Value> {
        Ok(match r.peek()? {
            b'"' => Value::String(r.string()?.into_owned()),
            b'{' => {
                let mut all = serde_json::Map::new();
                r.object(|key, r| {
                    all.insert(key.to_owned(), value(r)?);
                    Ok(())
                })?;
                Value::Object(all)
            }
            b'[' => {
                let mut all = Vec::new();
                r.list(|r| {
                    all.push(value(r)?);
                    Ok(())
                })?;
                Value::Array(all)
            }
            b'n' => r.word().map(|_| Value::Null)?,
            b't' | b'f' => Value::Bool(r.word()?),
            _ => serde_json::from_str(r.number()?).map_err(|_| Bad)?,
        })
    }

    fn read(text: &str) -> Read<Value> {
        let mut r = Reader::new(text);
        let read = value(&mut r)?;
        r.end().map(|()| read)
    }

    fn skipped(text: &str) -> bool {
        let mut r = Reader::new(text);
        r.raw().is_ok() && r.end().is_ok()
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "(?s).{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec(("(?s).{0,12}", inner), 0..8)
                    .prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_json_writes_is_read_and_passed_over(v in values(), pretty: bool) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&v).unwrap(),
                false => v.to_string(),
            };
            prop_assert_eq!(read(&text), serde_json::from_str(&text).map_err(|_| Bad));
            prop_assert!(skipped(&text));
        }

        #[test]
        fn what_is_broken_is_read_where_serde_json_reads_it(
            v in values(), at in any::<prop::sample::Index>(), put in r#"[\[\]{},:"\\0-9eE.+\-a-z\x00-\x20é]{0,3}"#,
        ) {
            let mut text = v.to_string();
            let mut at = at.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
            text.replace_range(at..end, &put);
            let theirs = serde_json::from_str::<Value>(&text);
            // Escapes of half a character are read here alone.
            if !text.contains("\\u") {
                prop_assert_eq!(read(&text).ok(), theirs.ok(), "{}", text);
            }
            // A number too large for a float is passed over.
            prop_assert_eq!(
                skipped(&text),
                serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(),
                "{}", text
            );
        }

        #[test]
        fn text_is_written_as_serde_json_writes_it(text in "(?s).{0,60}", n: u64) {
            let mut out = Vec::new();
            put_text(&mut out, &text);
            prop_assert_eq!(&out, &serde_json::to_vec(&text).unwrap());
            out.clear();
            put_number(&mut out, n);
            prop_assert_eq!(out, n.to_string().into_bytes());
        }
    }

    #[test]
    fn escapes_are_read_and_half_a_character_is_replaced() {
        for (text, want) in [
            (r#""\ud83d\ude00x""#, "\u{1f600}x"),
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
            (r#""\ude00\n\"\/""#, "\u{fffd}\n\"/"),
        ] {
            assert_eq!(read(text), Ok(want.into()), "{text}");
            assert!(skipped(text));
        }
        for text in [
            r#""\u12""#,
            r#""\x""#,
            "\"a\nb\"",
            "\"a",
            "\"a\\\"",
            "\"a\n\"",
            "",
            "01",
            "1.",
            "[1,]",
            "{\"a\":1,}",
        ] {
            assert_eq!(read(text), Err(Bad), "{text}");
            assert!(!skipped(text), "{text}");
        }
    }

    #[test]
    fn nesting_without_end_is_no_json() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        let most = DEPTH_MAX as usize;
        assert!(skipped(&deep(most)) && !skipped(&deep(most + 1)));
        assert!(!skipped(&"[".repeat(1 << 20)));
    }
}
