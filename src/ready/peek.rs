//! What a pending file says about its place in the queue, read without claiming it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::atomic;
use crate::item::{self, Kind, QueueFields};
use crate::layout::Name;
use crate::limits::{ITEM_BYTES_MAX, SCRIPT_HEAD_BYTES};

/// The fields that place a file in the queue, as far as they can be read now. Never an error: the claim
/// reads the file again and says what is wrong.
pub fn peek(name: &Name, path: &Path, meta: &Metadata) -> QueueFields {
    match is_readable(name, meta) {
        true => open(CWD, path).and_then(|file| read_order(name, &file, meta)),
        false => Ok(QueueFields::default()),
    }
    .unwrap_or_default()
}

/// The same for a regular file of this open folder, with its metadata.
pub(super) fn peek_regular(name: &Name, dir: &File) -> io::Result<(Metadata, QueueFields)> {
    let file = open(dir.as_fd(), Path::new(name.as_os_str()))?;
    let meta = file.metadata()?;
    let fields = match is_readable(name, &meta) {
        true => read_order(name, &file, &meta).unwrap_or_default(),
        false => QueueFields::default(),
    };
    Ok((meta, fields))
}

fn is_readable(name: &Name, meta: &Metadata) -> bool {
    meta.is_file() && meta.len() <= ITEM_BYTES_MAX && !name.is_too_long()
}

fn open(dir: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let open = |more| {
        let flags =
            OFlags::CLOEXEC | OFlags::from_bits_retain(atomic::SAFE_OPEN_FLAGS as u32) | more;
        rustix::fs::openat(dir, path, flags, Mode::empty())
    };
    // Updating the access time costs more than the read. Only the file's owner may skip it.
    let opened = match open(OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::empty()),
        opened => opened,
    };
    Ok(opened?.into())
}

fn read_order(name: &Name, mut file: &File, meta: &Metadata) -> io::Result<QueueFields> {
    let executable = meta.mode() & 0o111 != 0;
    let mut head = [0; SCRIPT_HEAD_BYTES];
    let n = file.read(&mut head)?;
    let head = &head[..n];
    let says = |what: &[u8]| head.windows(what.len()).any(|part| part == what);
    let kind = item::kind_of(name, head, executable);
    let has_fields = match kind {
        Kind::Json => true,
        Kind::Prompt => item::without_mark(head).starts_with(b"---"),
        Kind::Script if says(b"#harness") => return Ok(item::peek(name, head, executable)),
        Kind::Script => false,
    };
    if !has_fields {
        return Ok(QueueFields {
            is_prompt: kind == Kind::Prompt,
            ..QueueFields::default()
        });
    }
    let mut bytes = head.to_vec();
    if n == SCRIPT_HEAD_BYTES {
        file.take(ITEM_BYTES_MAX).read_to_end(&mut bytes)?;
    }
    Ok(item::peek(name, &bytes, executable))
}
