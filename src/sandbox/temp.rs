//! A temporary folder for each slot, which `TMPDIR` names: the system's own one is everybody's.
//!
//! `/var/tmp/harness-UID/HASH-N`: short, since sockets that programs put there may have paths of 107
//! bytes; on disk, as builds put gigabytes there; and not in `/tmp`, which often has a thousand entries,
//! each of which would be granted by itself (`readable`). It is emptied at each start and when an item
//! ends, and goes with its slot.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::environment::Env;
use crate::atomic;
use crate::error::{Error, Result};
use crate::layout::{Root, SlotId};

/// Names under which programs look for a temporary folder.
const TEMPORARY: [&str; 4] = ["TMPDIR", "TMP", "TEMP", "CLAUDE_CODE_TMPDIR"];

/// Tells a program of its temporary folder. The user's own wish in `env` stands.
pub(super) fn name_in(env: &mut Env, temp: &Path) {
    for name in TEMPORARY.map(OsString::from) {
        if !matches!(env.get(&name), Some(Some(_))) {
            env.insert(name, Some(temp.into()));
        }
    }
}

/// The slot's temporary folder.
pub(crate) fn path(root: &Root, slot: SlotId) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let hash = Sha256::digest(root.path().as_os_str().as_bytes());
    let hash: String = hash[..4].iter().map(|b| format!("{b:02x}")).collect();
    folder_of_all().join(format!("{hash}-{}", slot.0))
}

/// All such folders of this user.
pub(crate) fn folder_of_all() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let uid = nix::unistd::geteuid();
        let user = std::env::var_os("TMPDIR").map(PathBuf::from);
        let places = user.into_iter().chain(["/var/tmp".into()]);
        let base = places.filter_map(|place| place.canonicalize().ok()).next();
        let base = base.unwrap_or_else(|| "/tmp".into());
        base.join(format!("harness-{uid}"))
    };
    FOLDER.get_or_init(find).clone()
}

/// Makes it, empty and for this user alone.
///
/// # Errors
/// Somebody else has a folder of that name: nobody's files may be mixed with an agent's.
pub(crate) fn make_temp(root: &Root, slot: SlotId) -> Result<PathBuf> {
    let path = path(root, slot);
    let all = folder_of_all();
    atomic::make_dir(&all, true)?;
    own(&all)?;
    if atomic::exists(&path) && atomic::empty_tree(&path).is_err() {
        // A folder that its agent closed: out of the way, under another name.
        atomic::keep_older(&path)?;
    }
    atomic::make_dir(&path, true)?;
    own(&path)?;
    Ok(path)
}

/// Empties it, after the item's processes have ended. What cannot be removed stays for the next start.
pub(crate) fn clear_temp(root: &Root, slot: SlotId) {
    if let Some(path) = own_one(root, slot) {
        let _stays = atomic::empty_tree(&path);
    }
}

/// Removes it, when its slot is given up.
pub(crate) fn remove_temp(root: &Root, slot: SlotId) {
    if let Some(path) = own_one(root, slot) {
        let _stays = atomic::discard_tree(&path, "a temporary folder");
    }
}

/// What is in its place, if that lies in this user's own folder.
fn own_one(root: &Root, slot: SlotId) -> Option<PathBuf> {
    let path = path(root, slot);
    (atomic::exists(&path) && own(&folder_of_all()).is_ok()).then_some(path)
}

fn own(path: &Path) -> Result<()> {
    let what = "cannot make a temporary folder";
    let meta = path
        .symlink_metadata()
        .map_err(|e| Error::io(what, path, &e))?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(Error::permanent(what, "something of another user is there")
            .at_path(path)
            .hint("remove it, or set TMPDIR to a folder of your own"));
    }
    if meta.mode() & 0o7777 != 0o700 {
        let mode = Permissions::from_mode(0o700);
        std::fs::set_permissions(path, mode).map_err(|e| Error::io(what, path, &e))?;
    }
    Ok(())
}
