//! Reads refs as files, without git: a slot's repository is its agent's, and so is what configures
//! git there.
//!
//! Knows nothing of what the refs are for. Every read is bounded and follows no symlink.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::hub::{is_oid, read_text};
use crate::atomic;
use crate::limits::{PACKED_REFS_BYTES_MAX, SLOT_REFS_MAX};

/// Full names, and for each an object id or `ref: NAME`.
pub(super) type Refs = BTreeMap<String, String>;

/// The refs of a repository, except those in the folders `left_out`.
pub(super) fn list(git_dir: &Path, left_out: &[&str]) -> Refs {
    let packed = atomic::read_small(&git_dir.join("packed-refs"), PACKED_REFS_BYTES_MAX);
    let packed = packed.unwrap_or_default();
    let mut refs = parse(&String::from_utf8_lossy(&packed));
    refs.retain(|name, _| {
        let inside = |folder: &str| {
            name.strip_prefix(folder)
                .is_some_and(|r| r.starts_with('/'))
        };
        !left_out.iter().any(|folder| inside(folder))
    });
    loose(git_dir, "refs", left_out, &mut refs);
    refs
}

/// Lines of `OID NAME`; others (comments, peeled tags) are left out.
pub(super) fn parse(text: &str) -> Refs {
    let refs = text.lines().filter_map(|line| line.split_once(' '));
    refs.filter(|(oid, name)| is_oid(oid) && name.starts_with("refs/"))
        .map(|(oid, name)| (name.to_owned(), oid.to_owned()))
        .collect()
}

/// As git writes `packed-refs`, without symbolic refs, which cannot be there.
pub(super) fn packed(refs: &Refs) -> String {
    let mut text = "# pack-refs with: sorted \n".to_owned();
    for (name, oid) in refs.iter().filter(|(_, oid)| is_oid(oid)) {
        text.push_str(&format!("{oid} {name}\n"));
    }
    text
}

fn loose(git_dir: &Path, folder: &str, left_out: &[&str], refs: &mut Refs) {
    if left_out.contains(&folder) || !atomic::is_own_dir(&git_dir.join(folder)) {
        return;
    }
    for entry in fs::read_dir(git_dir.join(folder))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            loose(git_dir, &name, left_out, refs);
        } else if kind.is_file() && !name.ends_with(".lock") && refs.len() < SLOT_REFS_MAX {
            let value = read_text(&entry.path()).unwrap_or_default();
            let value = value.trim_end();
            if is_oid(value) || value.starts_with("ref: refs/") {
                refs.insert(name, value.to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loose_refs_win_over_packed_ones_and_odd_files_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            atomic::make_dir(path.parent().unwrap(), true).unwrap();
            drop(atomic::create(&path, text.as_bytes(), 0o600).unwrap());
        };
        put(
            "packed-refs",
            &format!("# pack-refs with: peeled \n{a} refs/heads/x\n^{b}\n{a} refs/harness/y\n"),
        );
        put("refs/heads/x", &format!("{b}\n"));
        put("refs/heads/bad", "nothing\n");
        put("refs/heads/x.lock", &a);
        put("refs/remotes/o/HEAD", "ref: refs/remotes/o/main\n");
        std::os::unix::fs::symlink("/etc", dir.path().join("refs/tags")).unwrap();
        let refs = list(dir.path(), &["refs/harness"]);
        let want = [
            ("refs/heads/x", b.as_str()),
            ("refs/remotes/o/HEAD", "ref: refs/remotes/o/main"),
        ];
        let want: Refs = want.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(refs, want);
        assert_eq!(
            packed(&refs),
            format!("# pack-refs with: sorted \n{b} refs/heads/x\n")
        );
    }
}
