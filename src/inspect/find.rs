//! Finds the session that the user typed, by the folder names in `state/sessions/` alone. An id is
//! a UUIDv7, so names sort by start time.

use std::collections::HashSet;
use std::io;

use super::Session;
use crate::error::{Error, Result};
use crate::layout::{Name, Root, shown};
use crate::missing::nearest_item;

/// Ids are shown by their last characters, which are random; the first ones encode the time.
const SHORT_CHARS: usize = 8;
/// Most sessions listed in an error.
const NAMED_MAX: usize = 5;

/// The ids of all sessions, newest first. Folders with other names are ignored.
pub(crate) fn all(root: &Root) -> Result<Vec<String>> {
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

/// Whether it is an id as harness writes it: lower case, with hyphens.
pub(crate) fn is_sid(name: &str) -> bool {
    name.len() == 36
        && !name.bytes().any(|b| b.is_ascii_uppercase())
        && uuid::Uuid::try_parse(name).is_ok_and(|id| id.get_version_num() == 7)
}

/// How many last characters distinguish these ids; at least `SHORT_CHARS`.
pub(super) fn short_chars(sids: &[String]) -> usize {
    let differ = |n: &usize| {
        let mut seen = HashSet::with_capacity(sids.len());
        sids.iter().all(|sid| seen.insert(end_of(sid, *n)))
    };
    (SHORT_CHARS..36).find(differ).unwrap_or(36)
}

/// The last characters of an id.
pub(super) fn end_of(sid: &str, chars: usize) -> &str {
    let from = sid.len().saturating_sub(chars);
    sid.get(from..).unwrap_or(sid)
}

/// The session with this id, or with this unique prefix or suffix of its id, or the newest of the item
/// or the slot with this name; if none is given, the newest.
///
/// # Errors
/// Permanent if no session or more than one matches; names some candidates.
pub(crate) fn find(root: &Root, typed: Option<&str>) -> Result<Session> {
    let sids = all(root)?;
    let no_such = |why: String| Error::permanent("no such session", why).at_path(&root.sessions());
    let Some(newest) = sids.first() else {
        return Err(no_such("there is no session yet".to_owned())
            .hint("a session is made when `harness run` starts an item"));
    };
    let Some(typed) = typed else {
        return Ok(Session::read(root, newest));
    };
    let wanted = typed.to_ascii_lowercase();
    let matches =
        |sid: &&String| !wanted.is_empty() && (sid.starts_with(&wanted) || sid.ends_with(&wanted));
    let found: Vec<&String> = sids.iter().filter(matches).collect();
    let typed = shown(typed.as_ref());
    let chars = short_chars(&sids);
    match found.as_slice() {
        [one] => Ok(Session::read(root, one)),
        [] => {
            let its = |s: &Session| s.file.item == typed || s.file.slot == typed;
            if !typed.is_empty()
                && let Some(newest) = sids.iter().map(|sid| Session::read(root, sid)).find(its)
            {
                return Ok(newest);
            }
            let near = match nearest_item(root, &Name::new(&typed)) {
                Some(item) => format!("the nearest item is {item}"),
                None => {
                    let newest = named(root, chars, &sids.iter().collect::<Vec<_>>());
                    format!("the newest are {newest}")
                }
            };
            let why = format!(
                "no id begins or ends with `{typed}`, and no item or slot with a session has this name; {near}"
            );
            Err(no_such(why)
                .hint("`harness session list` shows all, with `--item NAME` those of one item"))
        }
        several => {
            let (n, some) = (several.len(), named(root, chars, several));
            let why = format!("{n} begin or end with `{typed}`: {some}");
            Err(Error::permanent("the session's id is not unique", why)
                .at_path(&root.sessions())
                .hint("type more of the id"))
        }
    }
}

/// The first of these ids, as short as `harness session list` has them, with their items.
fn named(root: &Root, chars: usize, sids: &[&String]) -> String {
    let name = |sid: &&String| match Session::read(root, sid).file.item {
        item if item.is_empty() => end_of(sid, chars).to_owned(),
        item => format!("{} ({})", end_of(sid, chars), shown(item.as_ref())),
    };
    let mut names: Vec<String> = sids.iter().take(NAMED_MAX).map(name).collect();
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
    fn a_unique_prefix_or_suffix_is_enough() {
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
            assert!(text.contains(said) && text.contains("000000aa"), "{text}");
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
