//! Reads a pending file once nobody writes it any more. Knows nothing of claims. Invariant: a file is
//! never taken to be whole while somebody has it open for writing.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use crate::atomic;
use crate::clock;
use crate::error::{Context, Error, Result};
use crate::layout::Name;
use crate::limits::{ITEM_BYTES_MAX, NAME_BYTES_MAX, SETTLE};
use crate::sys::{self, ReadLease};

/// A pending file, read whole. While `file` is open, its read lease holds writers off.
pub(super) struct Pending {
    pub(super) file: File,
    pub(super) meta: Metadata,
    pub(super) bytes: Vec<u8>,
}

pub(super) enum Look {
    Whole(Pending),
    Gone,
    /// Somebody still writes it, or only just made it.
    Unsettled,
    Refuse(String),
}

/// Reads a pending file, unless somebody still writes it. Symlinks are not followed, and only a
/// regular file is read.
pub(super) fn read_whole(name: &Name, path: &Path) -> Result<Look> {
    let refuse = |why: &str| Ok(Look::Refuse(why.into()));
    if name.is_too_long() {
        return Ok(Look::Refuse(format!(
            "its name is longer than {} bytes",
            NAME_BYTES_MAX
        )));
    }
    let mut file = match atomic::open_safely(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Look::Gone),
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
            return refuse("it is a symlink; harness follows none: copy the file itself");
        }
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return refuse("it is a socket"),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            return refuse("harness may not read it: permission denied");
        }
        Err(e) => return Err(Error::io("cannot read the item", path, &e)),
    };
    let meta = file.metadata().or_fail("cannot look at the item", path)?;
    let kind = meta.file_type();
    if !kind.is_file() {
        if kind.is_dir() && !settled(&meta) {
            return Ok(Look::Unsettled);
        }
        return refuse(match () {
            () if kind.is_dir() => "it is a directory; an item is one file",
            () if kind.is_fifo() => "it is a fifo",
            () => "it is not a regular file",
        });
    }
    match sys::read_lease(&file).or_fail("cannot take a read lease on the item", path)? {
        ReadLease::Granted => {}
        ReadLease::BeingWritten => return Ok(Look::Unsettled),
        ReadLease::Unsupported if settled(&meta) => {}
        ReadLease::Unsupported => return Ok(Look::Unsettled),
    }
    if meta.len() == 0 && !settled(&meta) {
        // Created empty, by `touch` or an editor: the text may still come.
        return Ok(Look::Unsettled);
    }
    let mut bytes = Vec::with_capacity(meta.len().min(ITEM_BYTES_MAX) as usize + 1);
    (&mut file)
        .take(ITEM_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .or_fail("cannot read the item", path)?;
    // It grew or was replaced from within while it was read: by whoever the read lease does not stop.
    let now = file.metadata().or_fail("cannot look at the item", path)?;
    let state = |meta: &Metadata| (meta.len(), clock::mtime_ns(meta), clock::ctime_ns(meta));
    if state(&now) != state(&meta) {
        return Ok(Look::Unsettled);
    }
    Ok(Look::Whole(Pending { file, meta, bytes }))
}

/// Whether nobody changed the file for `SETTLE`. Where its change time is in the future (the clock was
/// set back since, or is behind a file server's), the time counts from when we first saw it so.
pub fn settled(meta: &Metadata) -> bool {
    type Seen = HashMap<(u64, u64, i64), Instant>;
    static SEEN: LazyLock<Mutex<Seen>> = LazyLock::new(Mutex::default);
    let changed = clock::ctime_ns(meta);
    let age = clock::now_ns().saturating_sub(changed);
    if age >= 0 {
        return age >= SETTLE.as_nanos() as i64;
    }
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let (now, key) = (clock::instant(), (meta.dev(), meta.ino(), changed));
    // Stays small: a file that was looked at long ago has settled, or is gone.
    seen.retain(|k, at| *k == key || now.duration_since(*at) < SETTLE * 10);
    now.duration_since(*seen.entry(key).or_insert(now)) >= SETTLE
}
