"""Runs a program under ptrace, and at the N-th call of one of its threads or children kills the
process before that call, or lets the call fail.

Unlike `strace --inject` it counts one thread's calls of all kinds in one row, sees harness, keeper
and git apart, knows each call's path, can let calls fail for a while and then stop, and says what
it hit. It traces what a process of harness's does, not agents: whatever executes something else is
let go.

    roles   command (the main thread of what was started), slot, pulse, index, watcher, other
            (threads by name), keeper, git; `any` is all of them

x86_64 Linux only.
"""

import ctypes
import dataclasses
import fnmatch
import json
import os
import re
import platform
import signal
import struct
import time

SUPPORTED = platform.system() == "Linux" and platform.machine() == "x86_64"
ERRNO = {"EIO": 5, "EACCES": 13, "EMFILE": 24, "ENOSPC": 28, "EROFS": 30}

libc = ctypes.CDLL(None, use_errno=True)
SYSCALL, GETREGS, SETREGS, DETACH = 24, 12, 13, 17
SEIZE, INTERRUPT, LISTEN, SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 0x420E
# Syscalls marked; fork, vfork, clone and exec followed; nothing traced outlives its tracer.
OPTIONS = 1 | 2 | 4 | 8 | 16 | 0x100000
EVENT_EXEC, EVENT_STOP = 4, 128
AT_FDCWD = -100

# Number: (name, arguments that are paths (`dir,path` or `path`) or, as ("fd", i), descriptors).
CALLS = {
    0: ("read", ("fd", 0)), 1: ("write", ("fd", 0)), 2: ("open", (0,)), 4: ("stat", (0,)),
    6: ("lstat", (0,)), 17: ("pread", ("fd", 0)), 18: ("pwrite", ("fd", 0)), 21: ("access", (0,)),
    22: ("pipe", ()), 40: ("sendfile", ("fd", 0)), 41: ("socket", ()), 42: ("connect", ("fd", 0)),
    44: ("sendto", ("fd", 0)), 46: ("sendmsg", ("fd", 0)), 49: ("bind", ("fd", 0)),
    53: ("socketpair", ()), 56: ("clone", ()), 57: ("fork", ()), 58: ("vfork", ()),
    62: ("kill", ()), 72: ("fcntl", ("fd", 0)), 73: ("flock", ("fd", 0)), 74: ("fsync", ("fd", 0)),
    75: ("fsync", ("fd", 0)), 77: ("truncate", ("fd", 0)), 82: ("rename", (0, 1)),
    83: ("mkdir", (0,)), 84: ("rmdir", (0,)), 86: ("link", (0, 1)), 87: ("unlink", (0,)),
    88: ("symlink", (1,)), 89: ("readlink", (0,)), 90: ("chmod", (0,)), 91: ("chmod", ("fd", 0)),
    217: ("list", ("fd", 0)), 234: ("kill", ()), 254: ("watch", ("fd", 0)),
    257: ("open", ((0, 1),)), 258: ("mkdir", ((0, 1),)), 262: ("stat", ((0, 1),)),
    263: ("unlink", ((0, 1),)), 264: ("rename", ((0, 1), (2, 3))),
    265: ("link", ((0, 1), (2, 3))), 266: ("symlink", ((1, 2),)), 267: ("readlink", ((0, 1),)),
    268: ("chmod", ((0, 1),)), 269: ("access", ((0, 1),)), 280: ("utime", ((0, 1),)),
    285: ("truncate", ("fd", 0)), 288: ("accept", ("fd", 0)), 290: ("eventfd", ()),
    291: ("epoll", ()), 293: ("pipe", ()), 294: ("inotify", ()),
    316: ("rename", ((0, 1), (2, 3))), 326: ("copy", ("fd", 2)), 332: ("stat", ((0, 1),)),
    424: ("kill", ()), 434: ("pidfd", ()), 435: ("clone", ()), 439: ("access", ((0, 1),)),
}
OPEN_FLAGS = {2: 1, 257: 2}
# What leaves something behind when the process dies right after it: only between two of these
# does the moment of its death make a difference.
EFFECTS = {
    "write", "pwrite", "create", "sendfile", "copy", "connect", "sendto", "sendmsg", "bind", "spawn",
    "kill", "truncate", "rename", "mkdir", "rmdir", "link", "unlink", "symlink", "chmod", "utime",
}
GROWS = {"write", "pwrite", "create", "sendfile", "copy", "truncate", "rename", "mkdir", "link",
         "symlink", "fsync"}
NAMES = {"open", "create", "rename", "mkdir", "rmdir", "link", "unlink", "symlink", "chmod", "utime"}
# What each error can come from.
FAILS = {
    "ENOSPC": GROWS,
    "EIO": GROWS | NAMES | {"read", "pread", "list"},
    "EACCES": NAMES,
    "EROFS": GROWS | (NAMES - {"open"}),
    "EMFILE": {"open", "create", "socket", "socketpair", "accept", "pipe", "eventfd", "epoll",
               "inotify", "pidfd", "dup"},
}
NO_FILE = {"socketpair", "socket", "pipe", "eventfd", "epoll", "inotify", "pidfd", "spawn", "kill",
           "accept", "dup"}


@dataclasses.dataclass
class Point:
    """Which call is hit. `error`: it fails with that; else its process is killed."""

    role: str
    n: int = 0
    error: str = ""
    # Seconds for which all such calls of all traced processes fail, from the N-th on.
    lasting: float = 0
    # Only calls whose text fits (`rename */queue/done/x`, or one of several with `|`) are counted.
    like: str = "*"
    # The process is stopped right after the call instead, and LOG.hit is made.
    pause: bool = False


class Tracer:
    def __init__(self, root, point, log):
        self.root, self.point, self.log = str(root), point, log
        self.images, self.names, self.live, self.failing = {}, {}, set(), {}
        self.row, self.hit, self.failed, self.leaving, self.count = [], None, [], False, 0
        self.code, self.expired = None, False
        self.buf = ctypes.create_string_buffer(128)
        self.regs = ctypes.create_string_buffer(27 * 8)

    def ptrace(self, request, tid, addr=0, data=0):
        if isinstance(data, int):
            data = ctypes.c_void_p(data)
        return libc.ptrace(request, tid, ctypes.c_void_p(addr), data)

    def seize(self, tid, image):
        if self.ptrace(SEIZE, tid, 0, OPTIONS) != 0:
            raise OSError(ctypes.get_errno(), f"cannot trace {tid}")
        self.live.add(tid)
        self.images[tid] = image

    # The loop.

    def run(self, pid, also=()):
        for other in also:
            self.seize(other, "keeper")
            self.ptrace(INTERRUPT, other)
        self.seize(pid, "command")
        os.kill(pid, signal.SIGCONT)
        # Let go, it is our child all the same: its exit code is the last thing to learn.
        while self.live or self.code is None:
            try:
                tid, status = os.waitpid(-1, 0x40000000)
            except ChildProcessError:
                break
            if self.expired and not self.leaving:
                self.leave()
            if not os.WIFSTOPPED(status):
                self.live.discard(tid)
                if tid == pid:
                    self.code = os.waitstatus_to_exitcode(status)
                continue
            self.live.add(tid)
            if self.leaving:
                self.let_go(tid, status)
            else:
                self.stopped(tid, status)

    def stopped(self, tid, status):
        event, sig = status >> 16, os.WSTOPSIG(status)
        if event == 0 and sig == signal.SIGTRAP | 0x80:
            self.syscall(tid)
            if tid not in self.live:
                return
            sig = 0
        elif event == EVENT_EXEC:
            sig = 0
            image = self.image(tid)
            if image is None:
                self.ptrace(DETACH, tid)
                self.live.discard(tid)
                return
            self.images[tid] = image
            self.names.pop(tid, None)
        elif event == EVENT_STOP:
            if sig in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
                self.ptrace(LISTEN, tid)
                return
            sig = 0
        elif event:
            sig = 0
        if self.leaving:
            self.let_go(tid, 0)
        else:
            self.ptrace(SYSCALL, tid, 0, sig)

    def let_go(self, tid, status):
        sig = os.WSTOPSIG(status) if status else 0
        plain = status >> 16 == 0 and sig != signal.SIGTRAP | 0x80
        if tid in self.failing and sig == signal.SIGTRAP | 0x80:
            self.give_error(tid)
        self.ptrace(DETACH, tid, 0, sig if plain else 0)
        self.live.discard(tid)

    def leave(self):
        self.leaving = True
        for tid in self.live:
            self.ptrace(INTERRUPT, tid)

    # What is traced.

    def image(self, tid):
        try:
            command = open(f"/proc/{tid}/cmdline", "rb").read().split(b"\0")
        except OSError:
            return None
        if self.images.get(tid) == "command" and command[0] != b"/bin/sh":
            return "command"
        base = os.path.basename(command[0])
        if base == b"harness" and b"keeper" in command[1:2]:
            return "keeper"
        return "git" if base == b"git" or base.startswith(b"git-") else None

    def role(self, tid):
        known = self.names.get(tid)
        if known:
            return known
        try:
            status = open(f"/proc/{tid}/status").read()
        except OSError:
            return None
        tgid = int(status.split("\nTgid:\t")[1].split("\n")[0])
        name = status.split("\n")[0].split("\t")[1]
        image = self.images.get(tgid)
        if image is None:
            return None
        role = image
        if image == "command" and tid != tgid:
            role = "slot" if name.startswith("agent-") else name.split(" ")[0].split("-")[0]
            role = role if role in ("slot", "pulse", "index", "notify") else "other"
        self.names[tid] = (role, tgid)
        return self.names[tid]

    def text(self, tid, address):
        try:
            with open(f"/proc/{tid}/mem", "rb", buffering=0) as mem:
                return os.pread(mem.fileno(), 400, address).split(b"\0")[0].decode(errors="replace")
        except OSError:
            return "?"

    def path(self, tid, where, args):
        def link(name):
            try:
                return os.readlink(f"/proc/{tid}/{name}")
            except OSError:
                return "?"

        at, path = where if isinstance(where, tuple) else (None, where)
        if at == "fd":
            return link(f"fd/{args[path] & 0xFFFFFFFF}")
        path = self.text(tid, args[path])
        through = re.match(r"/proc/self/fd/(\d+)/(.+)", path)
        if through:
            # A file of a folder that is held open.
            return os.path.join(link(f"fd/{through[1]}"), through[2])
        if path.startswith("/"):
            return path
        fd = AT_FDCWD if at is None else ctypes.c_int32(args[at] & 0xFFFFFFFF).value
        return os.path.join(link("cwd" if fd == AT_FDCWD else f"fd/{fd}"), path)

    def kind(self, tid, nr, args, name):
        if name == "open":
            return "create" if args[OPEN_FLAGS[nr]] & 0o1100 else "open"
        if name in ("clone", "fork", "vfork"):
            flags = args[0] if nr == 56 else 0
            if nr == 435:
                with open(f"/proc/{tid}/mem", "rb", buffering=0) as mem:
                    flags = struct.unpack("Q", os.pread(mem.fileno(), 8, args[0]))[0]
            return "thread" if flags & 0x10000 else "spawn"
        if name == "fcntl":
            return "dup" if args[1] in (0, 1030) else "fcntl"
        return name

    # One call.

    def syscall(self, tid):
        if tid in self.failing:
            return self.give_error(tid)
        if self.ptrace(SYSCALL_INFO, tid, 128, self.buf) <= 0 or self.buf[0] != b"\x01":
            return None
        nr, *args = struct.unpack_from("7Q", self.buf, 24)
        if nr not in CALLS:
            return None
        point, (name, where) = self.point, CALLS[nr]
        counted = FAILS[point.error] if point.error else EFFECTS
        if name not in ("open", "clone", "fork", "vfork", "fcntl") and name not in counted:
            return None
        kind = self.kind(tid, nr, args, name)
        if kind not in counted:
            return None
        role = self.role(tid)
        if role is None:
            return None
        role, tgid = role
        of_role = point.role in (role, "any")
        if not of_role and not (self.hit and point.lasting):
            return None
        is_fd = where[0:1] == ("fd",)
        paths = [self.path(tid, w, args) for w in ([where] if is_fd else where)]
        inside = any(p.startswith(self.root) for p in paths)
        if not inside and kind not in NO_FILE and not any(p.startswith("socket:") for p in paths):
            return None
        if point.error and not inside and kind not in NO_FILE:
            return None
        shown = " ".join([kind, *(self.shown(p) for p in paths)])
        if not any(fnmatch.fnmatchcase(shown, like) for like in point.like.split("|")):
            return None
        if self.hit:
            self.failed.append(f"{role} {shown}")
            return self.fail(tid)
        self.row.append(shown)
        self.count += 1
        if self.count != point.n:
            return None
        self.hit = shown
        if point.pause:
            # Pending until the call has been made.
            os.kill(tgid, signal.SIGSTOP)
            self.leave()
            open(f"{self.log}.hit", "w").close()
            return None
        if not point.error:
            self.leave()
            os.kill(tgid, signal.SIGKILL)
            return None
        self.failed.append(f"{role} {shown}")
        self.fail(tid)
        if point.lasting:
            signal.setitimer(signal.ITIMER_REAL, point.lasting)
        return None

    def shown(self, path):
        """Without what differs from run to run."""
        path = path.replace(self.root, "")
        parts = ["SID" if len(p) == 36 and p.count("-") == 4 else p for p in path.split("/")]
        parts = [".TEMP" if p.startswith(".") and p.endswith(".tmp") else p for p in parts]
        return "/".join(parts).split(":[")[0]

    def fail(self, tid):
        """Skips the call; `give_error` sets what it returns."""
        self.ptrace(GETREGS, tid, 0, self.regs)
        struct.pack_into("q", self.regs, 15 * 8, -1)
        self.ptrace(SETREGS, tid, 0, self.regs)
        self.failing[tid] = ERRNO[self.point.error]

    def give_error(self, tid):
        self.ptrace(GETREGS, tid, 0, self.regs)
        struct.pack_into("q", self.regs, 10 * 8, -self.failing.pop(tid))
        self.ptrace(SETREGS, tid, 0, self.regs)
        if not self.point.lasting:
            self.leave()


def start(root, point, command, log, env=None, also=()):
    """Starts `command` under a tracer of its own, whose pid is returned with the command's. What it
    saw is in LOG.json when the tracer has ended; the command's words are in LOG."""
    ready, go = os.pipe()
    tracer = os.fork()
    if tracer:
        os.close(go)
        pid = int(os.read(ready, 32) or b"0")
        os.close(ready)
        return tracer, pid
    libc.prctl(1, signal.SIGKILL)  # nor does the tracer outlive the sweep
    try:
        pid = os.fork()
        if pid == 0:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.closerange(3, 64)
            os.setpgid(0, 0)
            stopped = 'kill -STOP $$; exec "$@"'
            os.execve("/bin/sh", ["/bin/sh", "-c", stopped, "sh", *command], env or os.environ)
        os.waitpid(pid, os.WUNTRACED)

        traced = Tracer(root, point, log)

        def expired(_signal, _frame):
            # Seen at the next stop: an exception here could lose one.
            traced.expired = True

        signal.signal(signal.SIGALRM, expired)
        begun = time.monotonic()
        os.write(go, str(pid).encode())
        os.close(go)
        os.setpgid(0, 0)
        traced.run(pid, also)
        seen = {"row": traced.row, "hit": traced.hit, "failed": traced.failed,
                "code": traced.code, "seconds": time.monotonic() - begun}
    except BaseException as e:
        import traceback

        seen = {"row": [], "hit": None, "failed": [], "trouble": traceback.format_exc()}
    with open(f"{log}.json", "w") as f:
        json.dump(seen, f)
    os._exit(0)
