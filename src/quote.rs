//! Words for messages that are to be pasted into a shell: paths, items' names, and the beginning of a
//! harness command that finds this ROOT.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::layout::{Name, Root, shown};

static HARNESS: OnceLock<String> = OnceLock::new();

/// From now on `harness()` names this ROOT: from the current directory it would not be found.
pub fn name_root(root: &Root) {
    let _same_again = HARNESS.set(harness_at(root));
}

/// The beginning of a command for whoever reads this process's messages where it was started.
pub fn harness() -> &'static str {
    HARNESS.get().map_or("harness", String::as_str)
}

/// The beginning of a command for whoever reads this anywhere.
pub fn harness_at(root: &Root) -> String {
    format!("harness --root {}", shell_quoted(root.path()))
}

/// An item's name as an argument.
pub fn item(name: &Name) -> String {
    let dashes = match name.bytes().starts_with(b"-") {
        true => "-- ",
        false => "",
    };
    format!("{dashes}{}", shell_quoted(Path::new(name.as_os_str())))
}

/// A path quoted for pasting into a shell, on one line whatever it contains.
pub fn shell_quoted(path: &Path) -> String {
    let os: &OsStr = path.as_os_str();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/_.-+,@%".contains(b);
    match os.to_str() {
        Some(text) if os.as_bytes().iter().all(plain) && !text.is_empty() => text.to_owned(),
        Some(text) if shown(os) == text => format!("'{}'", text.replace('\'', "'\\''")),
        _ => {
            let escaped: String = os
                .as_bytes()
                .iter()
                .map(|b| match b {
                    b'\'' | b'\\' => format!("\\{}", char::from(*b)),
                    0x20..=0x7e => char::from(*b).to_string(),
                    _ => format!("\\x{b:02x}"),
                })
                .collect();
            format!("$'{escaped}'")
        }
    }
}

/// A word of a script for `sh`: every byte as it is, so it may be on several lines.
pub(crate) fn sh_word(text: &OsStr) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in text.as_bytes() {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            _ => word.push(*byte),
        }
    }
    word.push(b'\'');
    word
}

/// The same, but `$NAME` and `${NAME}` are looked up by that shell, which ends where there is none.
pub(crate) fn sh_word_with_variables(text: &OsStr) -> Vec<u8> {
    let mut word = Vec::new();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let next = match variable(rest) {
            Some((name, length)) => {
                word.extend([b"\"${", name, b":?}\""].concat());
                length
            }
            None => {
                let ends = (1..rest.len()).find(|at| variable(&rest[*at..]).is_some());
                let length = ends.unwrap_or(rest.len());
                word.extend(sh_word(OsStr::from_bytes(&rest[..length])));
                length
            }
        };
        rest = &rest[next..];
    }
    word
}

/// A variable that the text begins with, and how long its mention is.
fn variable(text: &[u8]) -> Option<(&[u8], usize)> {
    let inner = text.strip_prefix(b"$")?;
    let (name, around) = match inner.strip_prefix(b"{") {
        Some(braced) => (&braced[..braced.iter().position(|b| *b == b'}')?], 3),
        None => {
            let is_of_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let end = inner.iter().position(|b| !is_of_name(b));
            (&inner[..end.unwrap_or(inner.len())], 1)
        }
    };
    let is_name = name.first().is_some_and(|b| !b.is_ascii_digit())
        && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_');
    is_name.then_some((name, name.len() + around))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_script_is_what_it_was_and_variables_are_looked_up_there() {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        assert_eq!(
            text(sh_word(OsStr::new("/it's\n$HOME"))),
            "'/it'\\''s\n$HOME'"
        );
        let with = |word: &str| text(sh_word_with_variables(OsStr::new(word)));
        assert_eq!(with("$TMPDIR"), "\"${TMPDIR:?}\"");
        assert_eq!(with("/s/${U_1}/$(x)"), "'/s/'\"${U_1:?}\"'/$(x)'");
        for plain in ["/a$", "$1", "${a b}", "${a", "$$"] {
            assert_eq!(with(plain), format!("'{plain}'"));
        }
    }

    #[test]
    fn quoted_paths_are_one_shell_word() {
        let quoted = |b: &[u8]| shell_quoted(Path::new(OsStr::from_bytes(b)));
        assert_eq!(quoted(b"/a/b-c"), "/a/b-c");
        assert_eq!(quoted(b"/it's"), "'/it'\\''s'");
        assert_eq!(quoted(b"/a\n'\xff"), "$'/a\\x0a\\'\\xff'");
    }
}
