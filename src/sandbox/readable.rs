//! Everything but what is denied, as the largest trees that hold nothing denied.
//!
//! Landlock grants a tree and cannot take a part of it back, so a tree that holds something denied is
//! granted as what lies in it. What appears later beside something denied is therefore not readable.
//! Each folder is opened through the one that holds it: no symlink is followed on the way.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, RawDirEntry, openat, statat};

/// For the names in one folder: some hundred in one call of the kernel. On the stack, as a new thread's
/// heap costs more than all that is listed.
const NAMES_BYTES: usize = 16 << 10;

/// One such tree.
pub(super) struct Tree<'a> {
    /// The open folder that holds it.
    pub(super) folder: &'a OwnedFd,
    pub(super) name: &'a CStr,
    above: &'a Path,
}

impl Tree<'_> {
    pub(super) fn path(&self) -> PathBuf {
        self.above.join(OsStr::from_bytes(self.name.to_bytes()))
    }
}

/// What is denied in a folder, by the names there.
#[derive(Default)]
struct Denied<'a> {
    /// The folder itself.
    is_all: bool,
    names: HashMap<&'a OsStr, Denied<'a>>,
}

impl<'a> Denied<'a> {
    fn below(folder: &Path, deny: &'a [PathBuf]) -> Denied<'a> {
        let mut top = Denied::default();
        for path in deny {
            if let Ok(path) = path.strip_prefix(folder) {
                let place = path
                    .iter()
                    .fold(&mut top, |at, name| at.names.entry(name).or_default());
                place.is_all = true;
            }
        }
        top
    }
}

/// Calls `found` for each such tree below a folder in which something is denied. A denied path that
/// does not exist counts: it may be made later.
///
/// # Errors
/// Those of `found`. A folder that cannot be listed has nothing to grant.
pub(super) fn trees_in(
    folder: &Path,
    deny: &[PathBuf],
    found: &mut dyn FnMut(Tree<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let denied = Denied::below(folder, deny);
    let mut names = [MaybeUninit::uninit(); NAMES_BYTES];
    let mut folders = match openat(CWD, folder, FOLDER, Mode::empty()) {
        Ok(open) => vec![(open, folder.to_owned(), &denied)],
        Err(_) => Vec::new(),
    };
    while let Some((folder, path, denied)) = folders.pop().filter(|(.., denied)| !denied.is_all) {
        let mut entries = RawDir::new(&folder, &mut names);
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || is_symlink(&folder, &entry) {
                continue;
            }
            let above = &*path;
            let tree = Tree {
                folder: &folder,
                name,
                above,
            };
            match denied.names.get(OsStr::from_bytes(name.to_bytes())) {
                None => found(tree)?,
                Some(inner) if inner.is_all => {}
                Some(inner) => {
                    if let Ok(open) = openat(&folder, name, FOLDER, Mode::empty()) {
                        folders.push((open, tree.path(), inner));
                    }
                }
            }
        }
    }
    Ok(())
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What a symlink leads to is granted, or not, where it lies.
fn is_symlink(folder: &OwnedFd, entry: &RawDirEntry<'_>) -> bool {
    let kind = match entry.file_type() {
        FileType::Unknown => statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            .map_or(FileType::Symlink, |stat| {
                FileType::from_raw_mode(stat.st_mode)
            }),
        kind => kind,
    };
    kind == FileType::Symlink
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_something_denied_is_granted_and_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for name in ["home/.ssh", "home/src/deep", "home/.config/gh", "other"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::fs::write(at("home/.profile"), "x").unwrap();
        std::os::unix::fs::symlink(at("home/.ssh"), at("home/link")).unwrap();
        let deny = [
            at("home/.ssh"),
            at("home/.config/gh"),
            at("home/.aws"),
            at("home/.profile/in-a-file"),
            // What lies in something denied is denied already.
            at("home/.ssh/id"),
        ];
        let mut trees = Vec::new();
        let top = Path::new("/");
        let granted = trees_in(top, &deny, &mut |tree| {
            trees.push(tree.path());
            Ok(())
        });
        granted.unwrap();
        for granted in ["home/src", "other"] {
            assert!(trees.contains(&at(granted)), "{granted}");
        }
        for refused in [
            "home",
            "home/.ssh",
            "home/link",
            "home/.profile",
            "home/.config",
            "home/.config/gh",
        ] {
            assert!(!trees.contains(&at(refused)), "{refused}");
        }
        let covers = |path: PathBuf| trees.iter().any(|t| path.starts_with(t));
        assert!(covers(at("home/src/deep")) && covers("/usr/bin".into()));
        assert!(!covers(at("home/.ssh/id")) && !covers(at("home/.aws/credentials")));
    }
}
