//! A worktree's state as parsed from one `git status`: HEAD, branch, uncommitted changes.
//!
//! Knows nothing of what is done about it. Paths are bytes of any encoding.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The state of a worktree.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TreeState {
    /// Object id of HEAD; `None` on a branch without commits.
    pub head: Option<String>,
    /// The branch HEAD is on; `None` if detached.
    pub branch: Option<String>,
    /// There is something that a commit in this tree would record.
    pub dirty: bool,
    /// Something staged is no longer in the tree: a commit of the tree would lose it.
    pub staged: bool,
    /// Untracked repositories inside the tree: git would record a link to them and no content.
    pub nested: Vec<OsString>,
    /// Submodules whose commit differs. (Their content is looked at as that of a tree of its own.)
    pub submodules: Vec<OsString>,
    /// Files that differ and are no work: nobody has touched them, or nobody can read them.
    pub unclean: Vec<OsString>,
    /// Folders that cannot be read.
    pub closed: Vec<OsString>,
}

impl TreeState {
    /// Arguments of the `git status` that `parse` reads.
    pub(super) const ARGS: [&'static str; 8] = [
        "status",
        "--porcelain=v2",
        "--branch",
        "-z",
        "--untracked-files=all",
        // Else git runs another one inside each link, by the settings that an agent made there.
        "--ignore-submodules=dirty",
        "--no-renames",
        "--no-ahead-behind",
    ];

    /// Whether nothing would be lost if the tree were reset now.
    pub(super) fn is_clean(&self) -> bool {
        !self.dirty && self.nested.is_empty() && self.submodules.is_empty()
    }

    /// `is_no_work` says of a changed or untracked file that it is not to be committed.
    pub(super) fn parse(out: &[u8], is_no_work: &dyn Fn(&OsStr) -> bool) -> TreeState {
        let mut state = TreeState::default();
        let mut records = out.split(|&b| b == 0);
        while let Some(record) = records.next() {
            if let Some(oid) = record.strip_prefix(b"# branch.oid ") {
                state.head = (oid != b"(initial)").then(|| text(oid));
            } else if let Some(name) = record.strip_prefix(b"# branch.head ") {
                // Git allows a branch of this name, too; callers compare object ids to tell a
                // detached HEAD.
                state.branch = (name != b"(detached)").then(|| text(name));
            } else if let Some(path) = record.strip_prefix(b"? ") {
                if path.ends_with(b"/") {
                    let path = path.strip_suffix(b"/").unwrap_or(path);
                    state.nested.push(OsString::from_vec(path.to_vec()));
                } else if is_no_work(OsStr::from_bytes(path)) {
                    state.unclean.push(OsString::from_vec(path.to_vec()));
                } else {
                    state.dirty = true;
                }
            } else if let Some(&kind @ (b'1' | b'2' | b'u')) = record.first() {
                let fields = match kind {
                    b'1' => 9,
                    b'2' => 10,
                    _ => 11,
                };
                state.changed(
                    kind,
                    &record.splitn(fields, |&b| b == b' ').collect::<Vec<_>>(),
                    is_no_work,
                );
                if kind == b'2' {
                    let _from = records.next();
                }
            }
        }
        state
    }

    /// `KIND XY SUB … PATH`; SUB is `N...`, or `S` and flags: commit, modified, untracked.
    fn changed(&mut self, kind: u8, fields: &[&[u8]], is_no_work: &dyn Fn(&OsStr) -> bool) {
        let (Some(&xy), Some(&sub), Some(&path)) = (fields.get(1), fields.get(2), fields.last())
        else {
            self.dirty = true;
            return;
        };
        if kind == b'1' && xy == b".M" && sub == b"N..." && is_no_work(OsStr::from_bytes(path)) {
            self.unclean.push(OsString::from_vec(path.to_vec()));
            return;
        }
        if sub.first() != Some(&b'S') {
            self.dirty = true;
            let was_staged = !matches!(xy.first(), None | Some(b'.' | b'D'));
            self.staged |= kind != b'u' && was_staged && xy.get(1) != Some(&b'.');
            return;
        }
        self.submodules.push(OsString::from_vec(path.to_vec()));
        // Changes only inside the submodule cannot be committed in this tree.
        self.dirty |= kind == b'u' || sub.get(1) == Some(&b'C') || xy.first() != Some(&b'.');
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_record_is_read() {
        let none = "0000";
        let out = format!(
            "# branch.oid abc\0# branch.head harness/x/1\0\
             1 .M S.MU 160000 160000 160000 {none} {none} a sub\0? nest/\0"
        );
        let state = TreeState::parse(out.as_bytes(), &|_| false);
        assert_eq!(state.head.as_deref(), Some("abc"));
        assert_eq!(state.branch.as_deref(), Some("harness/x/1"));
        assert!(!state.dirty && !state.is_clean());
        assert_eq!(state.nested, ["nest"]);
        assert_eq!(state.submodules, ["a sub"]);
        let moved = TreeState::parse(
            b"# branch.oid (initial)\x002 R. N... 1 1 1 a b R100 new\0? /\0",
            &|_| false,
        );
        assert!(moved.dirty && moved.head.is_none() && moved.nested.is_empty());
        assert!(TreeState::parse(b"? a\nb\xff\0", &|_| false).dirty);
        assert!(TreeState::parse(b"1 .M SC.. 1 1 1 a b sub\0", &|_| false).dirty);
        assert!(TreeState::parse(b"", &|_| false).is_clean());
        let crlf = b"1 .M N... 1 1 1 a b w.txt\x001 M. N... 1 1 1 a b w.txt\0";
        let known = TreeState::parse(crlf, &|path| path == "w.txt");
        assert_eq!((known.dirty, known.unclean), (true, vec!["w.txt".into()]));
    }
}
