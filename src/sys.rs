//! The only module with `unsafe`: system calls that neither nix nor rustix wraps safely. libc itself
//! gives `F_SETLEASE`. Elsewhere nix comes first, and rustix gives what nix lacks: pidfds and a
//! terminal's size.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// What asking for a read lease said about writers of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadLease {
    /// Nobody has the file open for writing, and whoever opens it for writing now waits until the
    /// lease is given back (by closing the file) or the kernel's lease-break time (45 s) is over.
    Granted,
    /// Somebody has it open for writing, shared mappings included.
    BeingWritten,
    /// Not to be had here: another user's file, NFS, 9p.
    Unsupported,
}

/// Asks for a read lease (`F_SETLEASE`, `F_RDLCK`) on a file opened read-only.
///
/// The process must survive SIGIO, whose default action kills it: `ignore_lease_breaks` first.
#[expect(unsafe_code, reason = "nix has no F_SETLEASE")]
pub fn read_lease(file: &File) -> io::Result<ReadLease> {
    if is_remote(file) {
        return Ok(ReadLease::Unsupported);
    }
    // SAFETY: fcntl with F_SETLEASE takes an integer and touches no memory of ours; the descriptor
    // is open for the whole call because `file` is borrowed.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if rc == 0 {
        return Ok(ReadLease::Granted);
    }
    let err = io::Error::last_os_error();
    match err.raw_os_error() {
        Some(libc::EAGAIN) => Ok(ReadLease::BeingWritten),
        Some(libc::EACCES | libc::EPERM | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
            Ok(ReadLease::Unsupported)
        }
        _ => Err(err),
    }
}

/// A lease on NFS stops writers of this host alone, where it is granted at all; and the server, which wants
/// its delegation back before the file is renamed, would wait for it.
fn is_remote(file: &File) -> bool {
    nix::sys::statfs::fstatfs(file)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NFS_SUPER_MAGIC)
}

/// Whether whoever started this process has it ignore a signal (`nohup`).
#[expect(unsafe_code, reason = "nix reads no action without setting one")]
pub fn is_ignored(signal: i32) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction only writes the present one to `now`, which has room
    // for it and is zeroed, so that it is read whole even if the call fails.
    let now = unsafe {
        libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}

/// Stops this process as Ctrl-Z does, whatever handler it has; returns when it goes on. Where nobody could
/// let it go on (no shell above), the kernel ignores it.
#[expect(unsafe_code, reason = "nix cannot know that a handler is safe")]
pub(crate) fn stop_here() -> nix::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
    let stops = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    let before = unsafe { sigaction(Signal::SIGTSTP, &stops) }?;
    let stopped = raise(Signal::SIGTSTP);
    // SAFETY: puts back what was there and was safe there.
    unsafe { sigaction(Signal::SIGTSTP, &before) }?;
    stopped
}

/// A process that takes leases gets SIGIO when somebody opens the file for writing. A handler, not
/// SIG_IGN: children inherit an ignored signal, a handler they do not.
pub fn ignore_lease_breaks() -> io::Result<()> {
    let never_read = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGIO, never_read).map(drop)
}
