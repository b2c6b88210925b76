//! Reading JSON from programs that may write anything: a field of an unexpected type counts as
//! absent instead of spoiling its line, strings are borrowed where they can be, and what is not
//! asked for is skipped without being built. Of a key that comes twice, the last one counts.
//!
//! Does not know any dialect. Keeps: memory is bounded by the line, never by what it claims to hold.

use std::borrow::Cow;

use serde_json::Value;

use crate::event::{self, INPUT_BYTES_MAX, OUTPUT_BYTES_MAX, clip};
use crate::json::{Bad, Read, Reader};

/// Blocks read of one line. Models send a handful; a line of millions of empty ones is an attack.
pub const BLOCKS_MAX: usize = 1_000;

/// What a value can be read into, whatever it is. Filled in place: lines are large and mostly empty.
pub trait Fill<'a>: Default {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()>;
}

/// What an object can be read into: `fields!` makes one.
pub trait Fields<'a>: Default {
    /// Reads the value of this key, or passes over it.
    fn field(&mut self, key: &str, r: &mut Reader<'a>) -> Read<()>;
}

/// A structure whose fields are read from those of an object: by their own names, or by the name in
/// brackets.
macro_rules! fields {
    ($(#[$meta:meta])* $vis:vis struct $name:ident<'a> { $($fields:tt)* }) => {
        fields! { @ [$(#[$meta])* $vis] $name [<'a>] $($fields)* }
    };
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        fields! { @ [$(#[$meta])* $vis] $name [] $($fields)* }
    };
    (@ [$(#[$meta:meta])* $vis:vis] $name:ident [$($of:tt)*]
        $($fvis:vis $field:ident $([$key:literal])?: $type:ty,)*
    ) => {
        #[derive(Default)]
        $(#[$meta])* $vis struct $name $($of)* { $($fvis $field: $type,)* }
        impl<'a> $crate::adapters::loose::Fields<'a> for $name $($of)* {
            fn field(
                &mut self,
                key: &str,
                r: &mut $crate::json::Reader<'a>,
            ) -> $crate::json::Read<()> {
                use $crate::adapters::loose::Fill;
                match key {
                    $(fields!(@key $field $($key)?) => self.$field.fill(r),)*
                    _ => r.skip(),
                }
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}
pub(super) use fields;

/// Reads one line as an object; `false` where it is none. Invalid UTF-8 is replaced, in `spare`.
pub fn object<'a>(line: &'a [u8], spare: &'a mut String, read: &mut impl Fields<'a>) -> bool {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(_) => {
            *spare = String::from_utf8_lossy(line).into_owned();
            spare
        }
    };
    let mut r = Reader::new(text);
    r.object(|key, r| read.field(key, r)).is_ok() && r.end().is_ok()
}

/// A string, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Text<'a>(pub Option<Cow<'a, str>>);

impl<'a> Fill<'a> for Text<'a> {
    #[inline]
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        if r.peek()? == b'"' {
            self.0 = Some(r.string()?);
            return Ok(());
        }
        self.0 = None;
        r.skip()
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
#[derive(Debug, Clone, Copy, Default)]
pub struct Num(pub Option<f64>);

fn number(text: &str) -> Option<f64> {
    // What nearly all are, in a tenth of the time.
    if let Ok(n) = text.parse::<u32>() {
        return Some(n.into());
    }
    text.parse().ok().filter(|n: &f64| n.is_finite())
}

impl<'a> Fill<'a> for Num {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        self.0 = match r.peek()? {
            b'-' | b'0'..=b'9' => number(r.number()?),
            _ => return r.skip(),
        };
        Ok(())
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
#[derive(Debug, Clone, Copy, Default)]
pub struct Flag(pub bool);

impl<'a> Fill<'a> for Flag {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        self.0 = r.peek()? == b't';
        r.skip()
    }
}

/// An object, or nothing.
#[derive(Debug, Clone)]
pub struct Obj<T>(pub Option<T>);

impl<T> Default for Obj<T> {
    fn default() -> Self {
        Obj(None)
    }
}

impl<'a, T: Fields<'a>> Fill<'a> for Obj<T> {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        if r.peek()? == b'{' {
            let read = self.0.insert(T::default());
            return r.object(|key, r| read.field(key, r));
        }
        self.0 = None;
        r.skip()
    }
}

/// The objects of a list, the first `BLOCKS_MAX` of them, and how many more there were.
#[derive(Debug, Clone)]
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

impl<'a, T: Fields<'a>> Fill<'a> for List<T> {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        *self = List::default();
        if r.peek()? != b'[' {
            return r.skip();
        }
        r.list(|r| {
            if self.items.len() >= BLOCKS_MAX {
                self.more += 1;
                return r.skip();
            }
            if r.peek()? != b'{' {
                return r.skip();
            }
            self.items.push(T::default());
            let item = self.items.last_mut().ok_or(Bad)?;
            r.object(|key, r| item.field(key, r))
        })
    }
}

/// What stands where either a text or a list of blocks may stand.
#[derive(Debug, Clone)]
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

impl<'a, T: Fields<'a>> Fill<'a> for Content<'a, T> {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        self.text = None;
        if r.peek()? == b'"' {
            self.text = Some(r.string()?);
            self.blocks = List::default();
            return Ok(());
        }
        self.blocks.fill(r)
    }
}

/// A message: a text, an object's `message` (or its `data.message`), or the first text of a list.
#[derive(Debug, Clone, Default)]
pub struct Words<'a>(pub Option<Cow<'a, str>>);

fields! {
    struct WithMessage<'a> {
        message: Text<'a>,
        data: Obj<Data<'a>>,
    }
}

fields! {
    struct Data<'a> {
        message: Text<'a>,
    }
}

impl<'a> Fill<'a> for Words<'a> {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        self.0 = None;
        match r.peek()? {
            b'"' => self.0 = Some(r.string()?),
            b'{' => {
                let mut read = WithMessage::default();
                r.object(|key, r| read.field(key, r))?;
                let deeper = read.data.0.and_then(|d| d.message.0);
                self.0 = read.message.0.or(deeper);
            }
            b'[' => {
                let first = &mut self.0;
                return r.list(|r| {
                    if first.is_none() && r.peek()? == b'"' {
                        *first = Some(r.string()?);
                        return Ok(());
                    }
                    r.skip()
                });
            }
            _ => return r.skip(),
        }
        Ok(())
    }
}

impl Words<'_> {
    pub fn get(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The objects in an object whose keys do not matter.
#[derive(Debug, Clone)]
pub struct Values<T>(pub Option<Vec<T>>);

impl<T> Default for Values<T> {
    fn default() -> Self {
        Values(None)
    }
}

impl<'a, T: Fields<'a>> Fill<'a> for Values<T> {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        self.0 = None;
        if r.peek()? != b'{' {
            return r.skip();
        }
        let values = self.0.insert(Vec::new());
        r.object(|_, r| {
            let mut value = Obj::default();
            value.fill(r)?;
            if values.len() < BLOCKS_MAX {
                values.extend(value.0);
            }
            Ok(())
        })
    }
}

/// A value of any kind as it stands in the line; nothing for `null`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw<'a>(pub Option<&'a str>);

impl<'a> Fill<'a> for Raw<'a> {
    fn fill(&mut self, r: &mut Reader<'a>) -> Read<()> {
        self.0 = Some(r.raw()?).filter(|raw| *raw != "null");
        Ok(())
    }
}

/// A tool's input for an event: as it is, or its first bytes.
pub fn input(raw: Raw<'_>) -> (Value, bool) {
    let Some(raw) = raw.0 else {
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
