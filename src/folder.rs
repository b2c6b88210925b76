//! A folder that is looked at often: it is listed only when it has changed, so that a look costs one
//! stat, and what was read of its files is read again only of those that have changed. A listing would
//! also wake every process that watches the folder for openings.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::atomic;
use crate::clock;
use crate::layout::join;

/// A file system's clock has ticks of up to some ten milliseconds: what changed less than this before
/// it was listed may have changed again since, within the same tick.
const SETTLED_NS: i64 = 100_000_000;

/// Tells a file or folder from itself after a change, and from another one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    device: u64,
    inode: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    bytes: u64,
}

impl FileStamp {
    pub(crate) fn of(meta: &Metadata) -> FileStamp {
        FileStamp {
            device: meta.dev(),
            inode: meta.ino(),
            mtime_ns: clock::mtime_ns(meta),
            ctime_ns: clock::ctime_ns(meta),
            bytes: meta.len(),
        }
    }
}

/// Tells a folder from another one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirId {
    device: u64,
    inode: u64,
    /// A new folder often gets the number of one that was removed.
    born: Option<SystemTime>,
}

impl DirId {
    /// `None`: it is gone, or cannot be looked at. Follows a symlink.
    pub(crate) fn of(path: &Path) -> Option<DirId> {
        let meta = path.metadata().ok()?;
        Some(DirId {
            device: meta.dev(),
            inode: meta.ino(),
            born: meta.created().ok(),
        })
    }
}

/// What was seen of one folder.
#[derive(Debug, Default)]
pub struct Folder {
    /// As of the last listing; `None`: list again at the next look.
    stamp: Option<FileStamp>,
    names: Vec<OsString>,
}

impl Folder {
    /// The names in the folder now, in no order. `meta`: the folder's own, taken just before.
    pub fn look(&mut self, path: &Path, meta: &Metadata) -> io::Result<&[OsString]> {
        let now = FileStamp::of(meta);
        if self.stamp != Some(now) {
            self.stamp = None;
            let entries = std::fs::read_dir(path)?;
            self.names = entries
                .map(|e| Ok(e?.file_name()))
                .collect::<io::Result<_>>()?;
            self.stamp = has_settled(meta).then_some(now);
        }
        Ok(&self.names)
    }
}

fn has_settled(meta: &Metadata) -> bool {
    let changed = clock::mtime_ns(meta).max(clock::ctime_ns(meta));
    clock::now_ns() - changed >= SETTLED_NS
}

/// What was read of each file in a folder. A rename changes a file's stamp: what lies there again after
/// it was away is read anew.
#[derive(Debug)]
pub(crate) struct Readings<T> {
    folder: Folder,
    files: HashMap<OsString, (FileStamp, T)>,
}

impl<T> Default for Readings<T> {
    fn default() -> Self {
        Readings {
            folder: Folder::default(),
            files: HashMap::new(),
        }
    }
}

impl<T: Clone> Readings<T> {
    /// What `read` says of each file in the folder now, in no order. A folder that cannot be listed has
    /// none.
    pub(crate) fn look(
        &mut self,
        path: &Path,
        mut read: impl FnMut(&OsStr, &Metadata) -> Option<T>,
    ) -> Vec<T> {
        let mut before = std::mem::take(&mut self.files);
        // Opened, so that NFS asks its server.
        let Ok(meta) = atomic::open_dir(path).and_then(|dir| dir.metadata()) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for name in self.folder.look(path, &meta).unwrap_or_default() {
            let Ok(meta) = join(path, name).symlink_metadata() else {
                continue;
            };
            let now = FileStamp::of(&meta);
            let known = before.remove(name).filter(|(of, _)| *of == now);
            let Some(value) = known.map(|(_, value)| value).or_else(|| read(name, &meta)) else {
                continue;
            };
            if has_settled(&meta) {
                self.files.insert(name.clone(), (now, value.clone()));
            }
            all.push(value);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::atomic;

    #[test]
    fn a_change_is_seen_also_in_the_tick_of_the_one_before_and_no_change_is_no_listing() {
        let dir = tempfile::tempdir().unwrap();
        let meta = || dir.path().symlink_metadata().unwrap();
        let mut folder = Folder::default();
        for n in 0..200 {
            atomic::make_dir(&dir.path().join(n.to_string()), false).unwrap();
            assert_eq!(folder.look(dir.path(), &meta()).unwrap().len(), n + 1);
        }
        let end = clock::instant() + Duration::from_secs(10);
        while folder.stamp.is_none() {
            assert!(clock::instant() < end);
            folder.look(dir.path(), &meta()).unwrap();
        }
        // Its names are from memory now: another folder is not even asked.
        let elsewhere = Path::new("/nowhere");
        assert_eq!(folder.look(elsewhere, &meta()).unwrap().len(), 200);
        atomic::make_dir(&dir.path().join("more"), false).unwrap();
        assert_eq!(folder.look(dir.path(), &meta()).unwrap().len(), 201);
        // By a clock that is ahead of ours, it may be changed again at the same time.
        let ahead = clock::now_ns() as u64 + 60_000_000_000;
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(ahead);
        let open = std::fs::File::open(dir.path()).unwrap();
        open.set_modified(at).unwrap();
        folder.look(dir.path(), &meta()).unwrap();
        assert!(folder.stamp.is_none());
    }

    #[test]
    fn a_file_is_read_again_only_after_it_has_changed_or_was_away() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let put = |name: &str, text: &str| {
            drop(atomic::create(&at(name), text.as_bytes(), 0o600).unwrap());
        };
        put("a", "1");
        put("b", "1");
        let (mut readings, mut reads) = (Readings::default(), Vec::new());
        let mut look = || {
            reads.clear();
            let mut all = readings.look(dir.path(), |name, _| {
                reads.push(name.to_owned());
                Some(atomic::read_small(&dir.path().join(name), 9).unwrap())
            });
            all.sort();
            reads.sort();
            (all, reads.clone())
        };
        // What has just changed may change again in the same tick: it is not kept.
        for n in 0..200 {
            let text = (n % 10).to_string();
            std::fs::write(at("a"), &text).unwrap();
            assert_eq!(
                look().0.iter().max().unwrap(),
                text.max("1".into()).as_bytes()
            );
        }
        let end = clock::instant() + Duration::from_secs(10);
        while !look().1.is_empty() {
            assert!(clock::instant() < end);
        }
        assert_eq!(look().0, [b"1", b"9"]);
        std::fs::rename(at("a"), at("away")).unwrap();
        std::fs::rename(at("away"), at("a")).unwrap();
        atomic::replace(&at("b"), b"2", false).unwrap();
        let (texts, read) = look();
        assert_eq!((texts, read.len()), (vec![b"2".to_vec(), b"9".to_vec()], 2));
        atomic::remove(&at("b")).unwrap();
        assert_eq!(look().0, [b"9"]);
    }
}
