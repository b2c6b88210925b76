//! Bytes that are no text for an agent: they are refused before anything is understood from them.

use super::{Kind, Parsed, refuse};

/// Strips the byte order mark that some editors write: it would hide how the file begins.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Refuses UTF-16, and NUL bytes in what is no program. `bytes`: without a byte order mark.
pub(super) fn check(kind: Kind, bytes: &[u8]) -> Parsed<()> {
    const TO_UTF8: &str = "save it as UTF-8 (`iconv -f UTF-16 -t UTF-8 OLD > NEW`)";
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return refuse(format!(
            "it is UTF-16 text, which agents cannot read: {TO_UTF8}"
        ));
    }
    let Some(at) = bytes
        .iter()
        .position(|&b| b == 0)
        .filter(|_| kind != Kind::Script)
    else {
        return Ok(());
    };
    // Text in UTF-16 has a NUL byte beside nearly every letter.
    let nul = bytes.iter().filter(|&&b| b == 0).count();
    if nul * 3 > bytes.len() && at < 4 {
        return refuse(format!(
            "it looks like UTF-16 text without a byte order mark: {TO_UTF8}"
        ));
    }
    let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1;
    refuse(format!(
        "there is a NUL byte in line {line}: a prompt is text; a program must be executable"
    ))
}
