//! Reading JSON from programs that may write anything: a field of an unexpected type counts as
//! absent instead of spoiling its line, strings are borrowed where they can be, and what is not
//! asked for is skipped without being built.
//!
//! Does not know any dialect. Keeps: memory is bounded by the line, never by what it claims to hold.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::event::{self, INPUT_BYTES_MAX, OUTPUT_BYTES_MAX, clip};

/// Blocks read of one line. Models send a handful; a line of millions of empty ones is an attack.
pub const BLOCKS_MAX: usize = 1_000;

/// Reads one line as an object; `None` where it is none. Invalid UTF-8 is replaced, in `spare`.
pub fn object<'a, T: Deserialize<'a>>(line: &'a [u8], spare: &'a mut String) -> Option<T> {
    text(line, spare).and_then(parse)
}

/// The text of a line that may be an object.
pub fn text<'a>(line: &'a [u8], spare: &'a mut String) -> Option<&'a str> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    // Looked through at once: string by string, as the parser would do it with bytes, takes longer.
    match std::str::from_utf8(line) {
        Ok(text) => Some(text),
        Err(_) => {
            *spare = String::from_utf8_lossy(line).into_owned();
            Some(spare)
        }
    }
}

/// Reads such a text; `None` where it is no JSON object.
pub fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// For a field with any value as it stands there.
pub fn raw<'de: 'a, 'a, D: Deserializer<'de>>(d: D) -> Result<Option<&'a str>, D::Error> {
    Option::<&RawValue>::deserialize(d).map(|raw| raw.map(RawValue::get))
}

/// Takes every value there is; each type below says what it makes of which.
macro_rules! loose {
    ($type:ty, [$($generic:tt)*], $de:lifetime, $($body:tt)*) => {
        impl<$($generic)*> Deserialize<$de> for $type {
            fn deserialize<D: Deserializer<$de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_any(Loose(PhantomData::<$type>))
            }
        }
        impl<$($generic)*> Visitor<$de> for Loose<$type> {
            type Value = $type;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            $($body)*
        }
    };
}

struct Loose<T>(PhantomData<T>);

macro_rules! nothing {
    ($nothing:expr; $($visit:ident($arg:ty)),*) => {
        $(fn $visit<E>(self, _: $arg) -> Result<Self::Value, E> { Ok($nothing) })*
        fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok($nothing) }
    };
    ($nothing:expr; $($visit:ident($arg:ty)),*; map) => {
        nothing!($nothing; $($visit($arg)),*);
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($nothing)
        }
    };
    ($nothing:expr; $($visit:ident($arg:ty)),*; map, seq) => {
        nothing!($nothing; $($visit($arg)),*; map);
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($nothing)
        }
    };
    ($nothing:expr; $($visit:ident($arg:ty)),*; seq) => {
        nothing!($nothing; $($visit($arg)),*);
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($nothing)
        }
    };
}

/// A string, or nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Text<'a>(pub Option<Cow<'a, str>>);

loose! { Text<'a>, ['de: 'a, 'a], 'de,
    nothing! { Text(None); visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64); map, seq }
    fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Some(Cow::Borrowed(s))))
    }
    fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
        Ok(Text(Some(Cow::Owned(s.to_owned()))))
    }
}

impl Text<'_> {
    /// What is there, or "".
    pub fn get(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// As a name, where it is one.
    pub fn name(&self) -> Option<String> {
        self.0.as_deref().filter(|s| !s.is_empty()).map(event::name)
    }
}

/// A number of any kind, or nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Num(pub Option<f64>);

loose! { Num, ['de], 'de,
    nothing! { Num(None); visit_bool(bool), visit_str(&str); map, seq }
    #[expect(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
    fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
        Ok(Num(Some(n as f64)))
    }
    #[expect(clippy::cast_precision_loss, reason = "instants are far below 2^53")]
    fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
        Ok(Num(Some(n as f64)))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Self::Value, E> {
        Ok(Num(Some(n)))
    }
}

impl Num {
    /// As a count: what is negative or absent is nought.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and not-a-number becomes nought"
    )]
    pub fn count(self) -> u64 {
        self.0.unwrap_or_default() as u64
    }

    pub fn maybe(self) -> Option<u64> {
        self.0.map(|_| self.count())
    }

    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
    pub fn instant(self) -> Option<i64> {
        self.0.filter(|n| *n > 0.0).map(|n| n as i64)
    }

    /// As an amount of money.
    pub fn amount(self) -> Option<f64> {
        self.0.filter(|n| n.is_finite() && *n >= 0.0)
    }

    pub fn status(self) -> Option<u16> {
        u16::try_from(self.maybe()?).ok()
    }
}

/// `true` where it says so, else `false`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flag(pub bool);

loose! { Flag, ['de], 'de,
    nothing! { Flag(false); visit_u64(u64), visit_i64(i64), visit_f64(f64), visit_str(&str); map, seq }
    fn visit_bool<E>(self, b: bool) -> Result<Self::Value, E> {
        Ok(Flag(b))
    }
}

/// An object, or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Obj<T>(pub Option<T>);

impl<T> Default for Obj<T> {
    fn default() -> Self {
        Obj(None)
    }
}

loose! { Obj<T>, ['de, T: Deserialize<'de>], 'de,
    nothing! { Obj(None); visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64), visit_str(&str); seq }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|t| Obj(Some(t)))
    }
}

/// The objects of a list, the first `BLOCKS_MAX` of them, and how many more there were.
#[derive(Debug, Clone, PartialEq)]
pub struct List<T> {
    pub items: Vec<T>,
    pub more: u64,
}

impl<T> Default for List<T> {
    fn default() -> Self {
        List {
            items: Vec::new(),
            more: 0,
        }
    }
}

impl<T> List<T> {
    fn gather<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<Self, A::Error>
    where
        T: Deserialize<'de>,
    {
        let mut list = List::default();
        while list.items.len() < BLOCKS_MAX {
            match seq.next_element::<Obj<T>>()? {
                Some(Obj(item)) => list.items.extend(item),
                None => return Ok(list),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {
            list.more += 1;
        }
        Ok(list)
    }
}

loose! { List<T>, ['de, T: Deserialize<'de>], 'de,
    nothing! { List::default(); visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64), visit_str(&str); map }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        List::gather(seq)
    }
}

/// What stands where either a text or a list of blocks may stand.
#[derive(Debug, Clone, PartialEq)]
pub struct Content<'a, T> {
    pub text: Option<Cow<'a, str>>,
    pub blocks: List<T>,
}

impl<T> Default for Content<'_, T> {
    fn default() -> Self {
        Content {
            text: None,
            blocks: List::default(),
        }
    }
}

loose! { Content<'a, T>, ['de: 'a, 'a, T: Deserialize<'de>], 'de,
    nothing! { Content::default(); visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64); map }
    fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
        Ok(Content { text: Some(Cow::Borrowed(s)), blocks: List::default() })
    }
    fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
        Ok(Content { text: Some(Cow::Owned(s.to_owned())), blocks: List::default() })
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        Ok(Content { text: None, blocks: List::gather(seq)? })
    }
}

/// A message: a text, an object's `message`, or the first of a list of these.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Words<'a>(pub Option<Cow<'a, str>>);

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct WithMessage<'a> {
    #[serde(borrow)]
    message: Text<'a>,
    data: Obj<Box<WithMessage<'a>>>,
}

loose! { Words<'a>, ['de: 'a, 'a], 'de,
    nothing! { Words(None); visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64) }
    fn visit_borrowed_str<E>(self, s: &'de str) -> Result<Self::Value, E> {
        Ok(Words(Some(Cow::Borrowed(s))))
    }
    fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
        Ok(Words(Some(Cow::Owned(s.to_owned()))))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let read = WithMessage::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Words(read.message.0.or(read.data.0.and_then(|d| d.message.0))))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut first = None;
        while let Some(text) = seq.next_element::<Text<'a>>()? {
            first = first.or(text.0);
        }
        Ok(Words(first))
    }
}

impl Words<'_> {
    pub fn get(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The values of an object whose keys do not matter.
#[derive(Debug, Clone)]
pub struct Values<T>(pub Option<Vec<T>>);

impl<T> Default for Values<T> {
    fn default() -> Self {
        Values(None)
    }
}

loose! { Values<T>, ['de, T: Deserialize<'de>], 'de,
    nothing! { Values(None); visit_bool(bool), visit_u64(u64), visit_i64(i64), visit_f64(f64), visit_str(&str); seq }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some((_, value)) = map.next_entry::<IgnoredAny, Obj<T>>()? {
            if values.len() < BLOCKS_MAX {
                values.extend(value.0);
            }
        }
        Ok(Values(Some(values)))
    }
}

/// A tool's input for an event: as it is, or its first bytes.
pub fn input(raw: Option<&str>) -> (Value, bool) {
    let Some(raw) = raw else {
        return (Value::Null, false);
    };
    if raw.len() <= INPUT_BYTES_MAX
        && let Ok(value) = serde_json::from_str(raw)
    {
        return (value, false);
    }
    let (text, _) = clip(raw, INPUT_BYTES_MAX);
    (Value::String(text.to_owned()), true)
}

/// A tool's output for an event.
pub fn output(text: &str) -> (String, bool) {
    let (text, clipped) = clip(text, OUTPUT_BYTES_MAX);
    (text.to_owned(), clipped)
}

/// `output` for what comes in pieces.
pub fn outputs<'a>(pieces: impl Iterator<Item = &'a str>) -> (String, bool) {
    let (mut whole, mut clipped) = (String::new(), false);
    for piece in pieces.filter(|p| !p.is_empty()) {
        if !whole.is_empty() {
            whole.push('\n');
        }
        let room = OUTPUT_BYTES_MAX.saturating_sub(whole.len());
        let (text, cut) = clip(piece, room);
        whole.push_str(text);
        clipped |= cut;
    }
    (whole, clipped)
}
