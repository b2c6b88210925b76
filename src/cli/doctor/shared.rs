//! What holds where other hosts reach ROOT: read from the mount, as one host cannot try it alone. Nothing
//! of it is said of a local file system.

use super::{Finding, ok, warn};
use crate::layout::Root;
use crate::limits::SHARED_TICK;
use crate::shared_fs::{self, Locks};

/// Whether a host sees that another one's harness is dead.
pub(super) fn locks_between_hosts(root: &Root) -> Option<Finding> {
    let state = root.state();
    if !shared_fs::is_shared(&state) {
        return None;
    }
    let mount = shared_fs::mount_of(&state)?;
    let kind = &mount.kind;
    if shared_fs::shares_locks(&state) {
        return Some(ok(format!("{kind}: excludes processes of other hosts")));
    }
    let why = match mount.locks() {
        Locks::Host => format!("{kind}: as mounted, excludes processes of this host alone"),
        Locks::All | Locks::Unknown => format!("{kind}: nothing says that it excludes other hosts"),
    };
    let how = match kind.as_str() {
        "nfs" | "nfs4" => "mount it with `local_lock=none` and without `nolock`",
        "lustre" => "mount it with `flock`",
        "gfs2" | "ocfs2" => "mount it without `localflocks`",
        _ => "use NFSv4, Ceph or Lustre for several hosts",
    };
    let until = "until then the items of a host that died wait for it, or for an engine that says that its job is over";
    Some(warn(why, format!("{how}; {until}")))
}

/// How a host learns what others do.
pub(super) fn events_between_hosts(root: &Root) -> Option<Finding> {
    shared_fs::is_shared(&root.queue()).then(|| {
        ok(format!(
            "none come from other hosts: folders are listed and orders read every {} s, and a server that remembers old names delays that, no more",
            SHARED_TICK.as_secs()
        ))
    })
}
