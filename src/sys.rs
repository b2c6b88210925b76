//! The one module with `unsafe`: system calls that neither std nor nix wraps, or not well enough.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// Writes a file's data to disk and waits for it, without syncing its size and place: whatever
/// syncs another file of the same journal carries those.
#[expect(unsafe_code, reason = "neither nix nor rustix has sync_file_range")]
pub fn flush_data(file: &File) -> io::Result<()> {
    let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: it takes integers and touches no memory of ours; the descriptor is open for the whole
    // call because `file` is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

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
    // SAFETY: fcntl with F_SETLEASE takes an integer and touches no memory of ours; the descriptor
    // is open for the whole call because `file` is borrowed.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if rc == 0 {
        return Ok(ReadLease::Granted);
    }
    let err = io::Error::last_os_error();
    match err.raw_os_error() {
        Some(libc::EAGAIN) if is_remote(file) => Ok(ReadLease::Unsupported),
        Some(libc::EAGAIN) => Ok(ReadLease::BeingWritten),
        Some(libc::EACCES | libc::EPERM | libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
            Ok(ReadLease::Unsupported)
        }
        _ => Err(err),
    }
}

/// NFS answers EAGAIN to every request for a lease, so there it says nothing.
fn is_remote(file: &File) -> bool {
    nix::sys::statfs::fstatfs(file)
        .is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NFS_SUPER_MAGIC)
}

/// A process that takes leases gets SIGIO when somebody opens the file for writing. A handler, not
/// SIG_IGN: children inherit an ignored signal, a handler they do not.
pub fn ignore_lease_breaks() -> io::Result<()> {
    let never_read = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGIO, never_read).map(drop)
}

/// Has these signals read from a file instead of ending or interrupting the process. Before any
/// other thread is started, as each thread has a mask of its own.
#[expect(unsafe_code, reason = "a signal's action is set")]
pub fn signals_as_file(signals: &[Signal]) -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for &signal in signals {
        // Inherited as ignored it would never come, and children would be reaped by nobody.
        // SAFETY: no handler is installed, so none runs where it must not.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

/// A program to start.
pub struct Program<'a> {
    /// Executed as it is: no search, no shell.
    pub path: &'a CStr,
    pub args: &'a [CString],
    pub env: &'a [&'a CStr],
    pub cwd: &'a CStr,
    /// Its descriptors 0, 1 and 2.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// What the child reads, and where it says why it failed.
struct Start<'a> {
    path: &'a CStr,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    cwd: &'a CStr,
    stdio: [i32; 3],
    errno: i32,
}

/// Starts a program in a process group of its own, with no signal blocked and SIGPIPE as usual.
/// Every descriptor but its three must be one that closes on exec.
///
/// For a process without other threads. `posix_spawn` would do the same for the price of 120 more
/// system calls: it asks for the action of every signal there is.
#[expect(
    unsafe_code,
    reason = "std's and libc's ways cost a third of a small item's start"
)]
pub fn start(program: &Program<'_>) -> io::Result<Pid> {
    /// Of the child until it executes. It calls the kernel and nothing else. What is larger, malloc
    /// tidies up after.
    const STACK_BYTES: usize = 32 << 10;
    let strings = |all: &mut dyn Iterator<Item = &CStr>| -> Vec<*const libc::c_char> {
        all.map(CStr::as_ptr).chain([ptr::null()]).collect()
    };
    let mut start = Start {
        path: program.path,
        argv: strings(&mut program.args.iter().map(CString::as_c_str)),
        envp: strings(&mut program.env.iter().copied()),
        cwd: program.cwd,
        stdio: program.stdio.map(|fd| fd.as_raw_fd()),
        errno: 0,
    };
    let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    let before = SigSet::thread_get_mask()?;
    // A handler must not run in the child, whose memory is ours.
    SigSet::all().thread_block()?;
    // SAFETY: the child has a stack of its own (its upper end, as stacks grow down, aligned to 16).
    // CLONE_VFORK keeps us here until it has executed or ended, so all that `start` refers to
    // outlives its use there and is changed by one process at a time.
    let pid = unsafe {
        libc::clone(
            child,
            stack.as_mut_ptr().add(stack.capacity()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut start).cast(),
        )
    };
    let failed = io::Error::last_os_error();
    before.thread_set_mask()?;
    match pid {
        ..0 => Err(failed),
        pid if start.errno == 0 => Ok(Pid::from_raw(pid)),
        pid => {
            // It never executed: nobody is to hear of it.
            let _status = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
            Err(io::Error::from_raw_os_error(start.errno))
        }
    }
}

/// The new process, in its parent's memory: no allocation, no lock, no panic.
#[expect(
    unsafe_code,
    reason = "between clone and exec there is nothing but the kernel"
)]
extern "C" fn child(arg: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it is the `Start` of `start`, which waits meanwhile. The strings end with NUL, the
    // lists with a null pointer; the descriptors are open.
    unsafe {
        let start = &mut *arg.cast::<Start<'_>>();
        let [stdin, stdout, stderr] = start.stdio;
        let mut none = std::mem::zeroed();
        // A handler goes back to the default when another program is executed; what is ignored
        // stays so, and Rust ignores this one.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let ready = libc::setpgid(0, 0) == 0
            && libc::dup2(stdin, 0) >= 0
            && libc::dup2(stdout, 1) >= 0
            && libc::dup2(stderr, 2) >= 0
            && libc::chdir(start.cwd.as_ptr()) == 0
            && libc::sigemptyset(&raw mut none) == 0
            && libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) == 0;
        if ready {
            libc::execve(
                start.path.as_ptr(),
                start.argv.as_ptr(),
                start.envp.as_ptr(),
            );
        }
        start.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Forks this process, beside itself: the new process is a child of *our* parent, which hears of its
/// end as of ours and must wait for it. It is born in this cgroup, where one is given. `None`: this
/// is the new process.
///
/// For a process without other threads. The new one has a copy of all memory and all descriptors.
///
/// # Errors
/// ENOSYS or EPERM where `clone3` is refused (by a sandbox, by valgrind); what the cgroup refuses.
#[expect(
    unsafe_code,
    reason = "nobody wraps clone3, and fork's child would be ours"
)]
pub fn fork_beside(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<Pid>> {
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    // `struct clone_args`: flags, pidfd, child_tid, parent_tid, exit_signal (with CLONE_PARENT the
    // caller's own, and none may be given), stack, stack_size, tls, set_tid, set_tid_size, cgroup.
    let mut args = [0_u64; 11];
    args[0] = libc::CLONE_PARENT as u64;
    if let Some(fd) = cgroup {
        args[0] |= CLONE_INTO_CGROUP;
        args[10] = fd.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: `args` is a `clone_args` of the size that is said, and lives for the whole call. Without
    // CLONE_VM the new process has its own copy of the stack and of everything else. It has the one
    // thread that there was, so no lock is held by one that is not there; what libc does around its
    // own fork is about locks and about thread numbers, which are asked of nobody here.
    match unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) } {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(Pid::from_raw(pid as i32))),
    }
}

/// Where the kernel finds this process's arguments, for `ps` and `/proc/PID/cmdline`.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    at: usize,
    len: usize,
}

impl Arguments {
    /// `None` where that cannot be told, or is not what this program was given (under valgrind).
    #[expect(
        unsafe_code,
        reason = "the arguments are read where the kernel put them"
    )]
    #[expect(clippy::disallowed_methods, reason = "the kernel makes this file")]
    pub fn find() -> Option<Arguments> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the command's name, which may hold anything; arg_start and arg_end, fields 48, 49.
        let mut fields = stat[stat.rfind(')')?..].split(' ').skip(46);
        let mut number = || fields.next()?.trim().parse::<usize>().ok();
        let (at, end) = (number()?, number()?);
        let given: Vec<u8> = std::env::args_os()
            .flat_map(|arg| [arg.as_encoded_bytes(), b"\0"].concat())
            .collect();
        if at == 0 || end.checked_sub(at)? != given.len() {
            return None;
        }
        // SAFETY: the kernel has mapped these bytes for the life of the process, and nobody writes
        // them but `show`, in a process without other threads.
        let there = unsafe { std::slice::from_raw_parts(at as *const u8, given.len()) };
        (there == given).then_some(Arguments {
            at,
            len: given.len(),
        })
    }

    /// Shows these instead, each ended by NUL; cut if they are longer than the first ones were.
    ///
    /// For a process without other threads, whose arguments were read before.
    #[expect(
        unsafe_code,
        reason = "the arguments are written where the kernel reads them"
    )]
    pub fn show(self, args: &[u8]) {
        let len = args.len().min(self.len.saturating_sub(1));
        // SAFETY: as in `find`: `self.len` bytes from `self.at` on are this process's own, on its
        // stack, writable. std gives out copies of them only. The last byte stays NUL.
        unsafe {
            ptr::copy_nonoverlapping(args.as_ptr(), self.at as *mut u8, len);
            ptr::write_bytes((self.at + len) as *mut u8, 0, self.len - len);
        }
    }
}
