//! Paths as one word of a shell, for messages that are to be pasted. Knows nothing else.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::layout::shown;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_paths_are_one_shell_word() {
        let quoted = |b: &[u8]| shell_quoted(Path::new(OsStr::from_bytes(b)));
        assert_eq!(quoted(b"/a/b-c"), "/a/b-c");
        assert_eq!(quoted(b"/it's"), "'/it'\\''s'");
        assert_eq!(quoted(b"/a\n'\xff"), "$'/a\\x0a\\'\\xff'");
    }
}
