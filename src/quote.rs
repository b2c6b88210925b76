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
