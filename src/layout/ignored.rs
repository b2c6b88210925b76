//! Names of files that are no items: programs that save a file through a temporary one give it a name
//! of its own. Only names that nobody gives an item are in here.
//!
//! Conflict copies of sync tools are a person's files, and items. Vim's `4913` and what it takes when
//! that exists are empty, and gone before an empty file counts as settled.

/// Why a file of this name is no item; `None`: it is one.
pub(super) fn why(name: &[u8]) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| lower.ends_with(end.as_bytes()));
    let is = |names: &[&[u8]]| names.contains(&&*lower);
    Some(match () {
        () if name.starts_with(b".") => "a hidden file",
        () if name.starts_with(b"~$") => "an office program's mark of an open file",
        () if is(&[b"thumbs.db", b"ehthumbs.db", b"desktop.ini", b"icon\r"]) => {
            "a file that a desktop makes for itself"
        }
        () if ends(&["~"]) => "an editor's backup",
        () if ends(&[".bak", ".orig", ".rej"]) => "a backup",
        () if ends(DOWNLOADS) => "a download that is not complete",
        () if name.len() > 1 && name.starts_with(b"#") && name.ends_with(b"#") => {
            "Emacs' copy of a file"
        }
        () if ends(&[".swp", ".swo", ".swn", ".swx"]) || name == b"4913" => "a file of Vim's own",
        () if is_of_sed(name) => "a temporary file of sed",
        () if ends(&[
            ".tmp",
            ".temp",
            ".vsctmp",
            ".crswap",
            ".kate-swp",
            ".gpg-tmp",
        ]) || ends(&["___jb_tmp___", "___jb_old___"])
            || lower.starts_with(b"~syncthing~")
            || is_temporary(name)
            || has_random_end(name) =>
        {
            "a temporary file"
        }
        () => return None,
    })
}

/// How downloads and copies end that are under way: of browsers, `scp` and sync tools.
const DOWNLOADS: &[&str] = &[
    ".part",
    ".partial",
    ".filepart",
    ".crdownload",
    ".download",
    ".opdownload",
    ".incomplete",
    ".aria2",
    ".!ut",
];

/// `fix.md.qZkRtp`, `fix.md.B3XY7Q` of programs that write beside the file (Kate, GLib), and
/// `fix.md.sb-1a2b3c4d-AbCdEf` of macOS. Words are lower case, or have one capital at the beginning.
fn has_random_end(name: &[u8]) -> bool {
    let mut parts = name.rsplit(|&b| b == b'.');
    let (Some(last), Some(_), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let random = |part: &[u8]| {
        let inner = part.get(1..).unwrap_or_default();
        let has = |is: fn(&u8) -> bool| part.iter().any(is);
        let mixed = has(u8::is_ascii_lowercase) && inner.iter().any(u8::is_ascii_uppercase);
        let figures = has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase);
        part.len() == 6 && part.iter().all(u8::is_ascii_alphanumeric) && (mixed || figures)
    };
    let of_macos = |part: &[u8]| {
        let hex = part.iter().take(8).all(u8::is_ascii_hexdigit);
        part.len() == 15 && hex && part[8] == b'-'
    };
    random(last) || last.strip_prefix(b"sb-").is_some_and(of_macos)
}

/// `sed -i` writes `sedXXXXXX`, six random letters or digits. Words such as `sedatives` are all lower
/// case, which six random ones are once in 200 files, for an instant.
fn is_of_sed(name: &[u8]) -> bool {
    name.strip_prefix(b"sed").is_some_and(|rest| {
        rest.len() == 6
            && rest.iter().all(u8::is_ascii_alphanumeric)
            && !rest.iter().all(u8::is_ascii_lowercase)
    })
}

/// `x.tmp.PID.HASH`, `x.tmp.PID`, `x.tmp-1a2b3c`, `x.tmp123456`, and `tmpab12cd_8` of Python. Not
/// `x.tmp.md`, `x.tmpl` and `tmp-notes`.
fn is_temporary(name: &[u8]) -> bool {
    let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-';
    let has_digit = |part: &[u8]| part.iter().any(u8::is_ascii_digit);
    if let Some(random) = name.strip_prefix(b"tmp") {
        let lower = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_';
        return random.len() == 8 && random.iter().all(lower) && has_digit(random);
    }
    let Some(at) = name.windows(4).rposition(|part| part == b".tmp") else {
        return false;
    };
    let rest = &name[at + 4..];
    let Some(parts) = rest.strip_prefix(b".") else {
        return rest.len() >= 4 && rest.iter().all(is_word) && has_digit(rest);
    };
    let mut parts = parts.split(|&b| b == b'.');
    let first = parts.next().unwrap_or_default();
    let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let is_hash = first.len() >= 6 && first.iter().all(is_word) && has_digit(first);
    (is_number || is_hash) && parts.all(|part| !part.is_empty() && part.iter().all(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_leave_for_a_moment_is_no_item() {
        for name in [
            ".fix.md.swp",
            ".#fix.md",
            ".goutputstream-A1B2C3",
            "fix.md~",
            "#fix.md#",
            "fix.swp",
            "fix.swo",
            "4913",
            "sedAb3xYz",
            "sedXXXXXX",
            "fix.sh.tmp.4242.9f3a1c",
            "fix.tmp.4242",
            "fix.md.tmp.4242.1733000000000",
            "fix.md.tmp-9f3a1c",
            "fix.tmp483920",
            "fix.tmp",
            "tmpk3j_x9q2",
            "fix.md.vsctmp",
            "fix.md___jb_tmp___",
            "a.crdownload",
            "a.part",
            "a.PART",
            "a.md.TMP",
            "a.temp",
            "a.partial",
            "a.filepart",
            "a.download",
            "a.crswap",
            ".a.md.kate-swp",
            "a.md.sb-1a2b3c4d-AbCdEf",
            "a.md.qZkRtp",
            "a.md.B3XY7Q",
            "~$doc.docx",
            "Thumbs.db",
            "desktop.ini",
            "~syncthing~a.md.tmp",
            ".syncthing.a.md.tmp",
            ".a.md.AbC123",
            "a.md.~1~",
            "a.md.orig",
            "a.bak",
        ] {
            assert!(why(name.as_bytes()).is_some(), "{name}");
        }
    }

    #[test]
    fn what_people_name_is_an_item() {
        for name in [
            "fix.md",
            "sed",
            "sedatives",
            "sediments",
            "sed-fix",
            "4914",
            "12",
            "#12",
            "#",
            "tmp",
            "tmp-notes",
            "tmp.md",
            "fix.tmp.md",
            "fix.tmpl",
            "page.tmpl.html",
            "fix.tmp.v2",
            "template",
            "tmpfiles.d",
            "x.partial-order.md",
            "attempt.4913",
            "part",
            "swp",
            "a.sync-conflict-20261130-101500-ABCDEFG.md",
            "a (conflicted copy).md",
            "5036",
            "a.md.sha256",
            "fix.md.Backup",
            "release.2026.113000",
            "fix.NoWait",
            "download",
            "original.md",
        ] {
            assert!(why(name.as_bytes()).is_none(), "{name}");
        }
    }
}
