//! Which sessions there are, and which one was meant by what was typed.
//!
//! Knows only the names of the folders: an id is a UUIDv7, so names in order are starts in order.

use std::collections::HashSet;
use std::io;

use super::Session;
use crate::error::{Error, Result};
use crate::layout::{Root, shown};

/// The last characters of an id are random, the first ones are the time: an id is short from behind.
const SHORT_CHARS: usize = 8;
/// Sessions that an error names.
const NAMED_MAX: usize = 5;

/// The ids of all sessions, newest first. Folders with other names are none.
pub fn all(root: &Root) -> Result<Vec<String>> {
    let dir = root.sessions();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("cannot list the sessions", &dir, &e)),
    };
    let mut sids: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| is_sid(name))
        .collect();
    sids.sort_unstable_by(|a, b| b.cmp(a));
    Ok(sids)
}

/// As harness writes them: lower case, with hyphens.
fn is_sid(name: &str) -> bool {
    name.len() == 36
        && !name.bytes().any(|b| b.is_ascii_uppercase())
        && uuid::Uuid::try_parse(name).is_ok_and(|id| id.get_version_num() == 7)
}

/// So many last characters tell all of these apart.
pub fn short_chars(sids: &[String]) -> usize {
    let differ = |n: &usize| {
        let mut seen = HashSet::with_capacity(sids.len());
        sids.iter().all(|sid| seen.insert(end_of(sid, *n)))
    };
    (SHORT_CHARS..36).find(differ).unwrap_or(36)
}

/// The last characters of an id.
pub fn end_of(sid: &str, chars: usize) -> &str {
    let from = sid.len().saturating_sub(chars);
    sid.get(from..).unwrap_or(sid)
}

/// The session that is meant: by its id, by the beginning or the end of one if that is only one's,
/// or the newest.
///
/// # Errors
/// Permanent where it is none's or several's, with those that there are.
pub fn find(root: &Root, typed: Option<&str>) -> Result<Session> {
    let sids = all(root)?;
    let what = "no such session";
    let Some(newest) = sids.first() else {
        let why = "there is no session yet";
        return Err(Error::permanent(what, why)
            .at_path(&root.sessions())
            .hint("a session is made when `harness run` starts an item"));
    };
    let Some(typed) = typed else {
        return Ok(Session::read(root, newest));
    };
    let wanted = typed.to_ascii_lowercase();
    let is_meant = |sid: &&String| sid.starts_with(&wanted) || sid.ends_with(&wanted);
    let meant: Vec<&String> = match sids.iter().find(|sid| **sid == wanted) {
        Some(whole) => vec![whole],
        None if wanted.is_empty() => Vec::new(),
        None => sids.iter().filter(is_meant).collect(),
    };
    match meant.as_slice() {
        [one] => Ok(Session::read(root, one)),
        [] => {
            let all: Vec<&String> = sids.iter().collect();
            let why = format!(
                "no id begins or ends with `{}`; the newest are {}",
                shown(typed.as_ref()),
                named(root, &all)
            );
            Err(Error::permanent(what, why)
                .at_path(&root.sessions())
                .hint("`harness session list` shows what there is, with `--item NAME` of one item"))
        }
        several => {
            let why = format!(
                "{} begin or end with `{}`: {}",
                several.len(),
                shown(typed.as_ref()),
                named(root, several)
            );
            Err(Error::permanent("more than one session is meant", why)
                .at_path(&root.sessions())
                .hint("type more of the id"))
        }
    }
}

/// Ids with their items.
fn named(root: &Root, sids: &[&String]) -> String {
    let mut names: Vec<String> = sids
        .iter()
        .take(NAMED_MAX)
        .map(|sid| match Session::read(root, sid).file.item {
            item if item.is_empty() => (*sid).clone(),
            item => format!("{sid} ({})", shown(item.as_ref())),
        })
        .collect();
    if sids.len() > NAMED_MAX {
        names.push(format!("and {} more", sids.len() - NAMED_MAX));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic;

    fn made(names: &[&str]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for name in names {
            atomic::make_dir(&root.sessions().join(name), true).unwrap();
        }
        (dir, root)
    }

    const ONE: &str = "019beef0-0000-7000-8000-0000000000aa";
    const TWO: &str = "019beef0-0000-7000-8000-0000000100aa";
    const THREE: &str = "019beef1-0000-7000-8000-0000000000ab";

    #[test]
    fn a_beginning_or_an_end_is_enough_where_it_is_only_ones() {
        let (_dir, root) = made(&[TWO, ONE, THREE, "not-an-id", ".tmp"]);
        assert_eq!(all(&root).unwrap(), [THREE, TWO, ONE]);
        let sid = |typed: Option<&str>| find(&root, typed).map(|s| s.sid);
        assert_eq!(sid(None).unwrap(), THREE);
        for typed in ["019BEEF1", "ab", THREE, "019beef1-0000"] {
            assert_eq!(sid(Some(typed)).unwrap(), THREE, "{typed}");
        }
        assert_eq!(sid(Some("0000000000aa")).unwrap(), ONE);
        for (typed, said) in [
            ("aa", "2 begin or end with `aa`"),
            ("019beef", "3 begin"),
            ("x\x1b", "no id begins or ends with `x\\u{1b}`"),
            ("", "no id"),
            ("../x", "no id"),
        ] {
            let e = sid(Some(typed)).unwrap_err();
            assert_eq!(e.exit_code(), 100);
            let text = e.to_string();
            assert!(text.contains(said) && text.contains(ONE), "{text}");
        }
        let (_dir, none) = made(&[]);
        assert!(find(&none, None).unwrap_err().to_string().contains("yet"));
    }

    #[test]
    fn short_ids_are_as_long_as_they_must_be() {
        let all: Vec<String> = [ONE, TWO, THREE].map(str::to_owned).into();
        let n = short_chars(&all);
        assert_eq!(n, 8);
        assert_eq!(end_of(ONE, n), "000000aa");
        let same = [
            "019beef0-0000-7000-8000-1000000000aa".to_owned(),
            ONE.into(),
        ];
        assert_eq!(short_chars(&same), 12);
        assert_eq!(short_chars(&[ONE.into(), ONE.into()]), 36);
    }
}
