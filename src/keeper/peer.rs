//! Who may become a keeper's harness: the holder of its slot's lease, and nobody of its own tree. Anybody
//! of the same user can connect to `keeper.sock` and wait there until a harness dies.

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::atomic;
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
    let holders = holders(&lease);
    let holds = holders.contains(&peer.pid()) || holders.is_empty() && is_hidden();
    holds && !process::tree::has(peer.pid())
}

/// Whether `/proc/locks` shows our own lock: not every file system says what `stat` says.
fn shows_locks(dir: &Path) -> bool {
    let me = std::process::id();
    holders(&dir.join("keeper.lock"))
        .iter()
        .any(|pid| pid.unsigned_abs() == me)
}

/// The processes that locked a file, by `/proc/locks`. None: it is of another pid namespace, or the
/// file system does not say.
fn holders(path: &Path) -> Vec<i32> {
    let Ok(inode) = path.symlink_metadata().map(|m| m.ino().to_string()) else {
        return Vec::new();
    };
    let text = atomic::read_kernel_text("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`. Device numbers are no guide: file systems
    // with subvolumes show others than `stat`.
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = words[..] else {
            return None;
        };
        let its = file.rsplit(':').next() == Some(&*inode);
        its.then(|| pid.parse().ok()).flatten()
    };
    text.lines()
        .filter_map(holder)
        .filter(|pid| *pid > 0)
        .collect()
}
