//! Partial clones (`git clone --filter=…`): what their remote has promised lies in packs of its own,
//! and git knows by them alone that an object may be missing.
//!
//! Knows nothing of refs. Invariant: only whole packs are shared, as hard links where that is
//! possible, and each becomes visible (its `.idx`) last.

use std::fs;
use std::path::Path;

use super::lfs::place;
use crate::atomic;
use crate::error::Result;

/// Gives one repository the promised packs of another, of which it is a copy. A history that refers
/// to objects that only a remote has can then be fetched from there: git finds them promised. Only
/// after a fetch that failed: what `git gc` has put together there would come again and again.
/// `false`: it has none. (That none is new says nothing: another slot may just have shared them.)
pub(super) fn share(from: &Path, to: &Path, durable: bool) -> Result<bool> {
    let (from, to) = (from.join("objects/pack"), to.join("objects/pack"));
    let mut any = false;
    for entry in fs::read_dir(&from).into_iter().flatten().flatten() {
        let mark = entry.path();
        let own = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !own || mark.extension().is_none_or(|end| end != "promisor") {
            continue;
        }
        any = true;
        let Some(name) = mark.file_name().map(|name| to.join(name)) else {
            continue;
        };
        if atomic::exists(&name.with_extension("idx")) {
            continue;
        }
        // A `git gc` there may take it away meanwhile: then it is in another pack.
        let mut whole = true;
        for end in ["promisor", "pack", "idx"] {
            let there = name.with_extension(end);
            whole = whole && (place(&mark.with_extension(end), &there)? || atomic::exists(&there));
        }
    }
    if any && durable {
        atomic::sync_dir(&to)?;
    }
    Ok(any)
}
