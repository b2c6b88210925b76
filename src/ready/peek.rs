//! What can be seen of a pending file without claiming it.

use std::fs::{Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::error::{Context, Error, Result};
use crate::item::{self, Kind, Order};
use crate::layout::Name;
use crate::limits::{ITEM_BYTES_MAX, SCRIPT_HEAD_BYTES};

/// The fields that order a file, as far as they can be read now. Never an error: the claim reads
/// the file again and says what is wrong.
pub fn peek(name: &Name, path: &std::path::Path, meta: &Metadata) -> Order {
    if !meta.is_file() || meta.len() > ITEM_BYTES_MAX || name.is_too_long() {
        return Order::default();
    }
    read_order(name, path, meta).unwrap_or_default()
}

fn read_order(name: &Name, path: &std::path::Path, meta: &Metadata) -> Result<Order> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| Error::io("cannot read", path, &e))?;
    let executable = meta.mode() & 0o111 != 0;
    let mut bytes = vec![0; SCRIPT_HEAD_BYTES];
    let n = file.read(&mut bytes).or_fail("cannot read", path)?;
    bytes.truncate(n);
    let has_fields = match item::kind_of(name, &bytes, executable) {
        Kind::Json => true,
        Kind::Prompt => item::without_mark(&bytes).starts_with(b"---"),
        Kind::Script => return Ok(item::peek(name, &bytes, executable)),
    };
    if !has_fields {
        return Ok(Order::default());
    }
    if n == SCRIPT_HEAD_BYTES {
        file.take(ITEM_BYTES_MAX)
            .read_to_end(&mut bytes)
            .or_fail("cannot read", path)?;
    }
    Ok(item::peek(name, &bytes, executable))
}
