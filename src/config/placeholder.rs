//! `{{NAME}}` in arguments and prompts: the known names, and filling them in.
//!
//! Does not know the values. Invariant: a value is inserted unchanged, as part of one argument; it
//! is never expanded again and never passes through a shell.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::nearest;

/// Placeholders allowed in an agent's `command`.
pub const PLACEHOLDERS: &[&str] = &[
    "PROMPT_FILE",
    "ITEM_FILE",
    "SESSION_ID",
    "SESSION_DIR",
    "WORKTREE",
    "WORK_ITEM",
    "SLOT",
    "AGENT",
    "BRANCH",
    "ATTEMPT",
    "ITERATION",
    "RIG",
    "ROOT",
    "INTERRUPT_FILE",
];

/// Refuses an argument with an unknown `{{NAME}}`. Braces around anything but one word are literal.
/// The error is a clause that begins with "holds".
pub fn check(arg: &str) -> Result<(), String> {
    for range in placeholders(arg.as_bytes()) {
        let inner = &arg[range.start + 2..range.end - 2];
        if !PLACEHOLDERS.contains(&inner) {
            let advice = nearest::advice(inner.trim(), PLACEHOLDERS.iter().copied());
            return Err(format!(
                "holds the unknown placeholder {}: {advice}",
                nearest::quoted(&arg[range])
            ));
        }
    }
    Ok(())
}

/// Fills in every `{{NAME}}` that `value` knows; everything else stays unchanged.
pub fn fill(text: &OsStr, value: impl Fn(&str) -> Option<OsString>) -> OsString {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for range in placeholders(bytes) {
        let name = std::str::from_utf8(&bytes[range.start + 2..range.end - 2]).ok();
        if let Some(filled) = name.and_then(&value) {
            out.extend_from_slice(&bytes[at..range.start]);
            out.extend_from_slice(filled.as_bytes());
            at = range.end;
        }
    }
    out.extend_from_slice(&bytes[at..]);
    OsString::from_vec(out)
}

/// Positions of `{{word}}`, including spaces around the word.
fn placeholders(text: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut i = 0;
    while i + 4 <= text.len() {
        if !text[i..].starts_with(b"{{") {
            i += 1;
            continue;
        }
        let is_inner = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b' ';
        let len = text[i + 2..].iter().take_while(|b| is_inner(b)).count();
        let inner = text[i + 2..i + 2 + len].trim_ascii();
        let one_word = !inner.is_empty() && !inner.contains(&b' ');
        if one_word && text[i + 2 + len..].starts_with(b"}}") {
            found.push(i..i + len + 4);
            i += len + 4;
        } else {
            i += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_go_in_as_they_are_and_only_once() {
        let value = |name: &str| match name {
            "ROOT" => Some(OsString::from("/a b/{{AGENT}};$(x)")),
            "AGENT" => Some(OsString::from_vec(vec![0xff])),
            _ => None,
        };
        let filled = |t: &str| fill(OsStr::new(t), value).into_vec();
        assert_eq!(filled("{{ROOT}}/bin"), b"/a b/{{AGENT}};$(x)/bin");
        assert_eq!(filled("x{{AGENT}}{{{AGENT}}}"), b"x\xff{\xff}");
        assert_eq!(filled("{{NONE}} {{ }} {{"), b"{{NONE}} {{ }} {{");
    }

    #[test]
    fn unknown_ones_are_refused_with_the_nearest() {
        assert_eq!(check("--f={{PROMPT_FILE}}"), Ok(()));
        assert_eq!(check("{{.Names}} {{a b}} {} {{}}"), Ok(()));
        for (arg, near) in [
            ("{{PROMTP_FILE}}", "PROMPT_FILE"),
            ("{{session_id}}", "SESSION_ID"),
            ("{{ BRANCH }}", "BRANCH"),
        ] {
            let err = check(arg).expect_err(arg);
            assert!(err.contains(&format!("`{near}`")), "{err}");
        }
    }
}
