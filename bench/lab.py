"""What all measurements share: a fresh ROOT, the cost of what runs inside, the table."""

import ctypes
import os
import pathlib
import resource
import select
import shutil
import statistics
import struct
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release"
HARNESS = RELEASE / "harness"
BARE, STAMP, CHATTY = (RELEASE / "examples" / n for n in ("bare-loop", "stamp", "chatty"))
CONFIG = """[harness]
stagger = 0
durability = "{durability}"
[repo]
path = "{repo}"
[limits]
disk_free_min = 0
"""


def sh(*cmd, **more):
    return subprocess.run([str(c) for c in cmd], check=True, capture_output=True, text=True, **more)


def median(values):
    return statistics.median(values) if values else float("nan")


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


class Cost:
    """Wall and processor time of everything started inside, daemons included: this process adopts
    them (PR_SET_CHILD_SUBREAPER) and waits for each."""

    def __enter__(self):
        self.begun, self.before = time.monotonic(), self.cpu()
        return self

    def __exit__(self, *_):
        self.wall = time.monotonic() - self.begun
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.002)
            except ChildProcessError:
                break
        self.cpu_seconds = self.cpu() - self.before

    @staticmethod
    def cpu():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


class Lab:
    def __init__(self, opts, base):
        self.opts, self.base, self.rows, self.n = opts, base, [], 0

    def fresh(self, name):
        self.n += 1
        path = self.base / f"{name}-{self.n}"
        path.mkdir(parents=True)
        return path

    def root(self, durability="off", repo="none"):
        path = self.fresh("root")
        sh(HARNESS, "init", path)
        (path / "harness.toml").write_text(CONFIG.format(durability=durability, repo=repo))
        return path

    def fill(self, folder, count, script, prefix="job"):
        folder.mkdir(parents=True, exist_ok=True)
        at = os.open(folder, os.O_RDONLY)
        for n in range(count):
            fd = os.open(f"{prefix}-{n:07}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755, dir_fd=at)
            os.write(fd, script)
            os.close(fd)
        os.close(at)

    def row(self, what, who, value, unit, ratio=None, goal=None):
        self.rows.append((what, who, value, unit, ratio, goal))
        shown = "" if ratio is None else f"  ratio {ratio:.2f}"
        print(f"  {what:34} {who:22} {value:10.2f} {unit}{shown}", file=sys.stderr, flush=True)

    def drop_all(self):
        for path in self.base.iterdir():
            if path.name.split("-")[0] in ("root", "bare", "repo"):
                shutil.rmtree(path, ignore_errors=True)


# The same script for everybody.
NOOP = b"#!/bin/sh\n:\n"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def until(what, condition, most=60):
    end = time.monotonic() + most
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.0005)


class Inotify:
    """What happens to files, and when, for a measurement that must not disturb."""

    MODIFY, OPEN = 0x2, 0x20

    def __init__(self):
        self.libc, self.events = ctypes.CDLL(None, use_errno=True), []
        self.fd = self.libc.inotify_init1(os.O_CLOEXEC)

    def add(self, path, mask):
        number = self.libc.inotify_add_watch(self.fd, os.fsencode(path), mask)
        assert number > 0, (path, ctypes.get_errno())
        return number

    def wait(self, number, name, most=30):
        """When it came first, by the monotonic clock; it is used up with all before it."""
        end = time.monotonic() + most
        while True:
            while self.events:
                at, *event = self.events.pop(0)
                if event == [number, name]:
                    return at
            left = end - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], (number, name)
            data, at = os.read(self.fd, 65536), time.monotonic()
            while data:
                watch, _, _, length = struct.unpack_from("iIII", data)
                text = data[16:16 + length].rstrip(b"\0").decode()
                self.events.append((at, watch, text))
                data = data[16 + length:]

    def close(self):
        os.close(self.fd)


def cpu_of(pid):
    """Processor time of one process alone, in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0])
