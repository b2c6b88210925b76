//! Claims of items in `merge/`: elected and taken as those in `pending/`, but no attempt begins. The
//! record's last attempt has ended, so whoever recovers the slot puts the file back where that says.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::Claim;
use crate::atomic::{self, Moved};
use crate::error::Result;
use crate::item::{self, Item};
use crate::layout::{Name, Place, Root, join};
use crate::lease::Lease;
use crate::limits::ITEM_BYTES_MAX;

/// Takes the item out of `merge/`. `None`: another slot has it, or it is gone. `intend`: puts on record
/// that it is to be merged, before it is taken; what it returns is returned with the claim.
pub(crate) fn take_waiting<T>(
    root: &Root,
    lease: &Arc<Lease>,
    name: &Name,
    intend: impl FnOnce() -> Result<T>,
) -> Result<Option<(Box<Claim>, T)>> {
    let link = root.claim(name);
    let folder = root.claimed(lease.slot);
    if folder.is_symlink() || atomic::link_new(&lease.marker(), &link)? != Moved::Done {
        return Ok(None);
    }
    let intended = intend();
    let taken = intended.and_then(|of| Ok(take(root, &folder, name)?.then_some(of)));
    match taken {
        Ok(Some(of)) => Ok(Some((Claim::adopt(root, lease, name)?, of))),
        Ok(None) => lease.let_go(&link).map(|()| None),
        Err(e) => {
            lease.let_go(&link)?;
            Err(e)
        }
    }
}

fn take(root: &Root, folder: &Path, name: &Name) -> Result<bool> {
    let from = root.item(Place::Merge, name);
    let to = join(folder, name.as_os_str());
    Ok(atomic::rename_new(&from, &to)? == Moved::Done)
}

/// The item that a resting file is; `None`: it is none that can be read.
pub(crate) fn look_at(name: &Name, path: &Path) -> Option<Item> {
    let meta = path.symlink_metadata().ok().filter(Metadata::is_file)?;
    let bytes = atomic::read_small(path, ITEM_BYTES_MAX).ok()?;
    item::parse(name, &bytes, meta.mode() & 0o111 != 0).ok()
}
