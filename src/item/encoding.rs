//! Bytes that are no text for an agent: they are refused before anything is understood from them. And
//! what of a text a person does not see.

use super::{Kind, Parsed, refuse};
use crate::text::is_obeyed;

/// Strips the byte order mark that some editors write: it would hide how the file begins.
pub fn without_mark(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        bytes = rest;
    }
    bytes
}

/// The lines of a file without their ends (LF, CR LF, or CR alone), with their numbers.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let (mut rest, mut number) = (bytes, 0);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        number += 1;
        let end = rest.iter().position(|b| b"\r\n".contains(b));
        let (line, ending) = rest.split_at(end.unwrap_or(rest.len()));
        let length = 1 + usize::from(ending.starts_with(b"\r\n"));
        rest = ending.get(length..).unwrap_or_default();
        Some((number, line))
    })
}

/// Whether a character shows nothing and takes no room: of no width, or one that acts on a terminal.
pub(super) fn is_unseen(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}')
        || is_obeyed(c)
}

/// Whether a person takes the character for nothing or for a space.
pub(super) fn is_blank(c: char) -> bool {
    c.is_whitespace() || is_unseen(c)
}

/// Refuses UTF-16, UTF-32, and in what is no program NUL bytes, other encodings, and lines that end
/// with CR alone. `bytes`: without a byte order mark.
pub(super) fn check(kind: Kind, bytes: &[u8]) -> Parsed<()> {
    let marks: [(&[u8], &str); 6] = [
        (b"\xff\xfe\0\0", "UTF-32"),
        (b"\0\0\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
        (b"+/v8", "UTF-7"),
        (b"+/v9", "UTF-7"),
    ];
    if let Some((_, name)) = marks.iter().find(|(mark, _)| bytes.starts_with(mark)) {
        return refuse(format!(
            "it is {name} text, which agents cannot read: {}",
            to_utf8(name)
        ));
    }
    if kind == Kind::Script {
        return Ok(());
    }
    let line_of = |at: usize| lines(&bytes[..=at]).count();
    if let Some(at) = bytes.iter().position(|&b| b == 0) {
        // Text in UTF-16 has a NUL byte beside nearly every letter, in UTF-32 three.
        let nul = bytes.iter().filter(|&&b| b == 0).count();
        if nul * 3 > bytes.len() && at < 4 {
            let name = if nul * 8 > bytes.len() * 5 {
                "UTF-32"
            } else {
                "UTF-16"
            };
            return refuse(format!(
                "it looks like {name} text without a byte order mark: {}",
                to_utf8(name)
            ));
        }
        return refuse(format!(
            "there is a NUL byte in line {}: a prompt is text; a program must be executable",
            line_of(at)
        ));
    }
    if let Err(e) = std::str::from_utf8(bytes) {
        let at = e.valid_up_to();
        return refuse(format!(
            "line {} is not UTF-8 (byte 0x{:02x}): if it is text of an older system, {}",
            line_of(at),
            bytes[at],
            to_utf8("WINDOWS-1252")
        ));
    }
    let last = bytes.trim_ascii_end().len();
    if !bytes.contains(&b'\n') && bytes[..last].contains(&b'\r') {
        return refuse(
            "its lines end with CR alone, so all of it is one line: convert it \
             (`tr '\\r' '\\n' < OLD > NEW`)",
        );
    }
    Ok(())
}

fn to_utf8(from: &str) -> String {
    format!("save it as UTF-8 (`iconv -f {from} -t UTF-8 OLD > NEW`)")
}
