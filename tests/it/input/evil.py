"""An agent that means harm. Prints `NAME: yes` for each means that got through, else `NAME: no`.

Arguments: the folder with `.bashrc` and `.ssh/id` that it must not touch, and a file in it that names
the process of another slot's agent. With `victim` and that file it is that other agent, until it reads
`done` there."""

import ctypes
import mmap
import os
import signal
import socket
import struct
import sys

import time


def meet(path, what):
    """Waits until a file says what it is waited for."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            text = open(path).read()
            if what(text):
                return text
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    sys.exit("waited in vain for " + path)


def say(path, text):
    with open(path + ".new", "w") as new:
        new.write(text)
    os.rename(path + ".new", path)


if sys.argv[1] == "victim":
    stream = socket.socket(socket.AF_UNIX)
    stream.bind("\0victim-%d" % os.getpid())
    stream.listen(5)
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind("\0victim-d-%d" % os.getpid())
    say(sys.argv[2], str(os.getpid()))
    meet(sys.argv[2], lambda text: text == "done")
    sys.exit()

HOME = sys.argv[1]
OTHER = int(meet(sys.argv[2], lambda text: text.isdigit()))
KEEPER = os.getppid()
ROOT = os.environ["HARNESS_ROOT"]
TARGET = HOME + "/.bashrc"
SECRET = HOME + "/.ssh/id"
STATE = ROOT + "/state"
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
means = []
count = 0


def new():
    """A path in the home folder at which nothing is."""
    global count
    count += 1
    return f"{HOME}/evil-{os.getpid()}-{count}"


def tries(name):
    def add(how):
        means.append((name, how))
        return how

    return add


def ok(result):
    """Of a system call."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return True


def put(path, flags=os.O_WRONLY | os.O_APPEND):
    fd = os.open(path, flags)
    os.write(fd, b"evil\n")
    return True


def call(number, *args):
    return libc.syscall(ctypes.c_long(number), *args)


# Files, by every way to a file.
tries("write through the root of /proc/self")(lambda: put("/proc/self/root" + TARGET))
tries("write through a thread of /proc")(lambda: put(f"/proc/self/task/{os.getpid()}/root" + TARGET))
tries("write by a relative path")(lambda: put(os.path.relpath(TARGET)))
tries("open to write and create")(lambda: put(new(), os.O_CREAT | os.O_WRONLY))
tries("open to truncate")(lambda: os.open(TARGET, os.O_RDONLY | os.O_TRUNC) >= 0)
tries("truncate by path")(lambda: os.truncate(TARGET, 0) or True)
tries("make a folder")(lambda: os.mkdir(new()) or True)
tries("make a fifo")(lambda: os.mkfifo(new()) or True)
tries("make a device")(lambda: os.mknod("null", 0o600 | 0o020000, os.makedev(1, 3)) or True)
tries("make a symlink")(lambda: os.symlink("/", new()) or True)


def moved(path):
    """And moved back."""
    os.rename(path, "moved")
    os.rename("moved", path)
    return True


tries("move a secret to where it may be read")(lambda: moved(SECRET))
tries("move a folder of secrets")(lambda: moved(HOME + "/.ssh"))
tries("link a secret to where it may be read")(lambda: os.link(SECRET, "id2") or True)
tries("move a folder over the home folder's")(lambda: os.mkdir("f") or os.rename("f", new()) or True)


@tries("reopen what is open to read")
def _():
    fd = os.open(TARGET, os.O_RDONLY)
    return put(f"/proc/self/fd/{fd}", os.O_WRONLY)


@tries("reopen a bare place")
def _():
    fd = os.open(SECRET, os.O_PATH)
    return os.read(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY), 1)


@tries("exchange two files")
def _():
    open("mine", "w").close()
    return ok(libc.renameat2(-100, b"mine", -100, TARGET.encode(), 2))


@tries("a nameless file, then linked")
def _():
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
    there = new().encode()
    return ok(libc.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, there, 0x400))


@tries("a nameless file there")
def _():
    return os.open(HOME, os.O_TMPFILE | os.O_RDWR) >= 0


@tries("openat2")
def _():
    how = struct.pack("QQQ", os.O_WRONLY, 0, 0)
    return ok(call(437, -100, TARGET.encode(), how, len(how)))


@tries("io_uring")
def _():
    params = ctypes.create_string_buffer(120)
    ring = call(425, 4, params)
    ok(ring)
    sq = struct.unpack_from("8I", params.raw, 40)
    cq = struct.unpack_from("8I", params.raw, 80)
    sqes = mmap.mmap(ring, 4 * 64, offset=0x10000000)
    sring = mmap.mmap(ring, sq[6] + 16, offset=0)
    cring = mmap.mmap(ring, cq[5] + 8 * 16, offset=0x8000000)
    path = ctypes.create_string_buffer(TARGET.encode())
    sqe = struct.pack("BBHiQQIIQ", 18, 0, 0, -100, 0, ctypes.addressof(path), 0, os.O_WRONLY, 7)
    sqes[: len(sqe)] = sqe
    struct.pack_into("I", sring, sq[6], 0)
    struct.pack_into("I", sring, sq[1], 1)
    ok(call(426, ring, 1, 1, 1, None, 0))
    return ok(struct.unpack_from("Qi", cring, cq[5])[1])


@tries("a race between two symlinks")
def _():
    import threading

    open("harmless", "w").close()
    over = []

    def swap():
        while not over:
            for to in ("harmless", TARGET):
                os.symlink(to, "swap.new")
                os.rename("swap.new", "swap")

    os.symlink("harmless", "swap")
    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    before = os.stat(TARGET)
    for _ in range(3000):
        try:
            put("swap")
        except OSError:
            pass
    over.append(1)
    return os.stat(TARGET).st_size != before.st_size


@tries("open by a handle")
def _():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
    ok(libc.name_to_handle_at(-100, TARGET.encode(), handle, ctypes.byref(ctypes.c_int()), 0))
    there = os.open("/", os.O_RDONLY)
    return ok(libc.open_by_handle_at(there, handle, os.O_WRONLY))


@tries("a socket there")
def _():
    socket.socket(socket.AF_UNIX).bind(new())
    return True


# Other views of the file system.
def new_namespaces():
    ok(libc.unshare(0x10000000 | 0x00020000))


@tries("chroot")
def _():
    if os.geteuid():
        new_namespaces()
    os.chroot(HOME)
    return put("/.bashrc")


@tries("a bind mount")
def _():
    new_namespaces()
    os.mkdir("bound")
    ok(libc.mount(HOME.encode(), b"bound", None, 4096, None))
    return put("bound/.bashrc")


@tries("a mount over the home folder")
def _():
    new_namespaces()
    return ok(libc.mount(b"none", HOME.encode(), b"tmpfs", 0, None))


# Programs that might be confined less.
def run(*argv):
    import subprocess

    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(argv, **quiet, timeout=10)
    return os.path.exists(HOME + "/evil") or os.path.getsize(TARGET) != SIZE


SIZE = os.path.getsize(TARGET)


@tries("a program in memory")
def _():
    fd = os.memfd_create("evil", 0)
    with open("/bin/sh", "rb") as shell:
        os.write(fd, shell.read())
    return run(f"/proc/{os.getpid()}/fd/{fd}", "-c", f"echo x >> {TARGET}")


@tries("the loader")
def _():
    import glob

    loaders = glob.glob("/lib*/ld-linux*") + glob.glob("/lib/ld-musl*")
    return any(run(loader, "/bin/sh", "-c", f"echo x >> {TARGET}") for loader in loaders)


tries("git that writes to the hub")(
    lambda: run("git", "--git-dir", STATE + "/repos/default.git", "config", "core.evil", "x")
    or "evil" in open(STATE + "/repos/default.git/config").read()
)


@tries("git that pushes to the user's repository")
def _():
    import subprocess

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    push = ["git", "push", "-q", ROOT + "/repo", "HEAD:refs/heads/evil"]
    return subprocess.run(push, **quiet, timeout=10).returncode == 0


@tries("harness itself")
def _():
    import subprocess

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    keeper = os.environ["EVIL_HARNESS"]
    add = [keeper, "--root", ROOT, "add", "--prompt", "evil"]
    return subprocess.run(add, **quiet, timeout=10).returncode == 0


# Processes that are not its own.
def words(pid):
    return [
        ("signal", lambda: os.kill(pid, 0) or True),
        ("signal through a handle", lambda: signal.pidfd_send_signal(os.pidfd_open(pid), 0) or True),
        ("the environment", lambda: open(f"/proc/{pid}/environ").read()),
        ("the memory", lambda: open(f"/proc/{pid}/mem", "r+b")),
        ("the root folder", lambda: os.listdir(f"/proc/{pid}/root/")),
        ("the working folder", lambda: os.listdir(f"/proc/{pid}/cwd/")),
        ("open files", lambda: [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)]),
        ("an open file", lambda: [os.open(f"/proc/{pid}/fd/{n}", os.O_RDONLY) for n in (1, 2)]),
        ("a file's copy", lambda: ok(call(438, os.pidfd_open(pid), 0, 0))),
        ("trace", lambda: ok(libc.ptrace(0x4206, pid, None, None))),
        ("read its memory", lambda: ok(vm("process_vm_readv", pid))),
        ("write its memory", lambda: ok(vm("process_vm_writev", pid))),
    ]


def vm(name, pid):
    text = ctypes.create_string_buffer(8)
    iov = struct.pack("QQ", ctypes.addressof(text), 8)
    start = int(open("/proc/self/maps").readline().split("-")[0], 16)
    far = struct.pack("QQ", start, 8)
    # Wherever it points: EFAULT says that it would have been let.
    result = getattr(libc, name)(pid, iov, 1, far, 1, 0)
    return 0 if result < 0 and ctypes.get_errno() == 14 else result


for word, how in words(KEEPER):
    tries(f"keeper: {word}")(how)
for word, how in words(OTHER):
    tries(f"other agent: {word}")(how)


@tries("other agent: its abstract socket")
def _():
    socket.socket(socket.AF_UNIX).connect("\0victim-%d" % OTHER)
    return True


@tries("other agent: its abstract datagrams")
def _():
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "\0victim-d-%d" % OTHER)


@tries("other agent: its files")
def _():
    return put(f"/proc/{OTHER}/cwd/evil", os.O_CREAT | os.O_WRONLY)


# Whoever locks a lease after a harness died, a keeper obeys.
@tries("the lease of a slot")
def _():
    return [os.open(f"{STATE}/agents/{slot}/lease", os.O_RDONLY) for slot in os.listdir(STATE + "/agents")]


@tries("the lock of a keeper")
def _():
    return [os.open(f"{STATE}/agents/{os.environ['HARNESS_SLOT']}/keeper.lock", os.O_RDONLY)]


@tries("a keeper that starts what it is told")
def _():
    # A frame is its length and its fields, each with its own length.
    def field(value):
        return struct.pack("<I", len(value)) + value

    argv = [b"/bin/sh", b"-c", f"echo x > {HOME}/evil".encode()]
    out = [(os.getcwd() + "/" + name).encode() for name in ("o", "e", "exit.json")]
    fields = [b"start", b"evil", b"/", b"", *out, b"1000", str(len(argv)).encode(), *argv, b"0"]
    body = b"".join(map(field, fields))
    for slot in os.listdir(STATE + "/agents"):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(1)
        stream.connect(f"{STATE}/agents/{slot}/keeper.sock")
        stream.sendall(struct.pack("<I", len(body)) + body)
        try:
            stream.recv(100)
        except socket.timeout:
            pass
    return os.path.exists(HOME + "/evil")


# Secrets of others.
@tries("other sessions")
def _():
    own = os.environ["HARNESS_SESSION"]
    others = [s for s in os.listdir(STATE + "/sessions") if s != own]
    return [open(f"{STATE}/sessions/{s}/session.json").read() for s in others]


@tries("other temporary folders")
def _():
    base = os.path.dirname(os.environ["TMPDIR"])
    others = [f"{base}/{n}" for n in os.listdir(base) if f"{base}/{n}" != os.environ["TMPDIR"]]
    return [put(f"{other}/evil", os.O_CREAT | os.O_WRONLY) for other in others]


def got_through(how):
    """In a process of its own: some leave it changed."""
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(0 if how() else 1)
        except BaseException as e:
            if os.environ.get("EVIL_WHY"):
                print(" ", repr(e), flush=True)
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


for name, how in means:
    print(f"{name}: {'yes' if got_through(how) else 'no'}", flush=True)
say(sys.argv[2], "done")
