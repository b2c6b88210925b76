//! Modification times for a tree into which something was copied: build tools compare them with those
//! of what they made.
//!
//! Invariant: a file that is not the one from which the copied things were made is newer than all of
//! them, so that no build takes it for done.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::readlinkat;
use nix::sys::stat::{FileStat, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::beneath::{Beneath, file_in, kind, names, stat_in};
use super::{mtime, ns};
use crate::clock;
use crate::limits::{COPY_COMPARED_BYTES_MAX, COPY_ENTRIES_MAX};

/// What the times of a tree's files are to be.
pub(crate) struct Ages<'a> {
    /// Where the copied things come from.
    pub(crate) sources: Vec<Beneath>,
    /// The copied things.
    pub(crate) copied: HashSet<&'a Path>,
    /// The newest time of a copied file.
    pub(crate) newest: i64,
    /// Nothing was ever built in this tree: a time may be set back.
    pub(crate) is_new: bool,
}

/// Gives each of these files of a tree the time that it has in the sources, if it is the same there, and
/// else one that is newer than all that was copied; and so for their folders.
pub(crate) fn settle(
    ours: &mut Beneath,
    mut ages: Ages<'_>,
    files: impl Iterator<Item = OsString>,
) -> io::Result<()> {
    let now = clock::now_ns();
    let later = match ages.newest < now {
        true => TimeSpec::UTIME_NOW,
        // Somebody's clock was ahead. A second, as some file systems know no less.
        false => spec(ages.newest.saturating_add(1_000_000_000)),
    };
    let mut folders = BTreeSet::new();
    for file in files.map(PathBuf::from) {
        if let Some(parent) = file.parent().filter(|p| !p.as_os_str().is_empty())
            && !folders.contains(parent)
        {
            folders.insert(parent.to_owned());
        }
        ages.stamp(ours, &file, &later)?;
    }
    for folder in folders {
        ages.stamp(ours, &folder, &later)?;
    }
    Ok(())
}

impl Ages<'_> {
    fn stamp(&mut self, ours: &mut Beneath, path: &Path, later: &TimeSpec) -> io::Result<()> {
        let own = ours.parent(path).and_then(|(dir, name)| stat_in(dir, name));
        // The index names it, and it is not there (a submodule, a sparse tree).
        let Ok(own) = own else {
            return Ok(());
        };
        let time = match self.time_of(ours, path, &own) {
            Some(theirs) if self.is_new => theirs,
            // A build of this tree may have read it at its own time.
            Some(theirs) => spec(ns(&theirs).max(ns(&mtime(&own)))),
            None => *later,
        };
        let (dir, name) = ours.parent(path)?;
        let no_follow = UtimensatFlags::NoFollowSymlink;
        utimensat(dir, name, &TimeSpec::UTIME_OMIT, &time, no_follow)?;
        Ok(())
    }

    /// The time of the same file, or folder, in the sources; `None`: it is another one in one of them.
    fn time_of(&mut self, ours: &mut Beneath, path: &Path, own: &FileStat) -> Option<TimeSpec> {
        let mut newest = None;
        for theirs in &mut self.sources {
            let same = is_same(ours, theirs, path, own, &self.copied).ok()??;
            newest = newest.max(Some(ns(&same)));
        }
        newest.map(spec)
    }
}

fn spec(ns: i64) -> TimeSpec {
    TimeSpec::new(ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000))
}

fn is_same(
    ours: &mut Beneath,
    theirs: &mut Beneath,
    path: &Path,
    own: &FileStat,
    copied: &HashSet<&Path>,
) -> nix::Result<Option<TimeSpec>> {
    let (their_dir, name) = theirs.parent(path)?;
    let other = stat_in(their_dir, name)?;
    if kind(&other) != kind(own) {
        return Ok(None);
    }
    let is_equal = match kind(own) {
        libc::S_IFREG => {
            let executable = |stat: &FileStat| stat.st_mode & 0o111 != 0;
            let size = u64::try_from(own.st_size).unwrap_or(u64::MAX);
            own.st_size == other.st_size
                && size <= COPY_COMPARED_BYTES_MAX
                && executable(own) == executable(&other)
                && {
                    let theirs = file_in(their_dir, name)?;
                    let (our_dir, name) = ours.parent(path)?;
                    have_same_bytes(&file_in(our_dir, name)?, &theirs, size)
                }
        }
        libc::S_IFLNK => {
            let theirs = readlinkat(their_dir, name)?;
            let (our_dir, name) = ours.parent(path)?;
            readlinkat(our_dir, name)? == theirs
        }
        libc::S_IFDIR => {
            listed(ours.folder(path)?, path, copied)? == listed(theirs.folder(path)?, path, copied)?
        }
        _ => false,
    };
    Ok(is_equal.then(|| mtime(&other)))
}

/// The names in a folder, but for what was copied or will be.
fn listed(dir: &File, path: &Path, copied: &HashSet<&Path>) -> nix::Result<BTreeSet<OsString>> {
    let all = names(dir, COPY_ENTRIES_MAX)?.into_iter();
    Ok(all
        .filter(|name| !copied.contains(&*path.join(name)))
        .collect())
}

fn have_same_bytes(ours: &File, theirs: &File, size: u64) -> bool {
    let part = |file: &File, buf: &mut Vec<u8>| -> io::Result<usize> {
        buf.clear();
        file.take(1 << 16).read_to_end(buf)
    };
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let mut seen = 0;
    loop {
        match (part(ours, &mut a), part(theirs, &mut b)) {
            (Ok(0), Ok(0)) => return seen == size,
            (Ok(n), Ok(_)) if a == b && seen < size => seen += n as u64,
            _ => return false,
        }
    }
}
