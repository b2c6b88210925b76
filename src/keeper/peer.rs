//! Who may become a keeper's harness: the holder of its slot's lease, and nobody of its own tree. Anybody
//! of the same user can connect to `keeper.sock` and wait there until a harness dies.

use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::lease;
use crate::process;

/// Decided by the kernel's word at the time of the connect, without waiting for the peer to say
/// anything: whoever only waits holds up nobody.
pub(super) fn is_harness(stream: &UnixStream, dir: &Path) -> bool {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else {
        return false;
    };
    let me = nix::unistd::geteuid().as_raw();
    let lease = dir.join("lease");
    if ![me, 0].contains(&peer.uid()) || !lease::is_locked(&lease) {
        return false;
    }
    if !process::proc_is_ours() {
        // Nothing can be known of its number.
        return true;
    }
    // Nobody by this list, where it could say so, is nobody: a harness that was killed let go between
    // two looks. One of another pid namespace has no number here.
    let is_hidden = || peer.pid() == 0 || !shows_locks(dir);
    let holders = lease::holders_of(&lease);
    let holds = holders.contains(&peer.pid()) || holders.is_empty() && is_hidden();
    holds && !process::tree::has(peer.pid())
}

/// Whether `/proc/locks` shows our own lock: not every file system says what `stat` says.
fn shows_locks(dir: &Path) -> bool {
    let me = std::process::id();
    lease::holders_of(&dir.join("keeper.lock"))
        .iter()
        .any(|pid| pid.unsigned_abs() == me)
}
