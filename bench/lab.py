"""What all measurements share: fresh trees, the cost of what runs inside, and the table with its floors."""

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
[sandbox]
mode = "{sandbox}"
{more}
"""
# The same job for everybody.
NOOP = b"#!/bin/sh\n:\n"
# A job that writes down when it began (monotonic nanoseconds).
STAMPED = b"#!/bin/sh\n" + os.fsencode(STAMP) + b" > $HARNESS_ROOT/at-$HARNESS_ITEM\n"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def sh(*cmd, **more):
    return subprocess.run([str(c) for c in cmd], check=True, capture_output=True, text=True, **more)


def harness(root, *args, home=None):
    """A `harness run` in the background."""
    env = {**os.environ, "HOME": str(home)} if home else None
    return subprocess.Popen([HARNESS, "--root", root, "run", *map(str, args)], env=env, **QUIET)


def stop(run):
    run.terminate()
    run.wait()


def until(what, condition, most=60):
    end = time.monotonic() + most
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.0005)


def median(values):
    return statistics.median(values)


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


def fill(folder, count, script, prefix="job", ending=""):
    """So many items, in a folder that no harness watches yet."""
    folder.mkdir(parents=True, exist_ok=True)
    at = os.open(folder, os.O_RDONLY)
    for n in range(count):
        name = f"{prefix}-{n:07}{ending}"
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644 if ending else 0o755, dir_fd=at)
        os.write(fd, script)
        os.close(fd)
    os.close(at)


def drop(root, name, script):
    """One item, as a careful person drops it; when it was there (monotonic nanoseconds)."""
    temp = root / "queue" / f".{name}"
    temp.write_bytes(script)
    temp.chmod(0o755)
    dropped = time.monotonic_ns()
    temp.rename(root / "queue/pending" / name)
    return dropped


def began(root, name):
    """What a `STAMPED` item wrote; none before it has."""
    at = root / f"at-{name}"
    text = at.read_text() if at.exists() else ""
    return int(text) if text.endswith("\n") else None


def recorded(root, event):
    """How many items have this event in their record."""
    records = (root / "state/items").glob("*.jsonl")
    return sum(f'"event":"{event}"' in record.read_text() for record in records)


class Cost:
    """Wall and processor time of everything started inside, daemons included: this process adopts
    them (PR_SET_CHILD_SUBREAPER, in run.py) and waits for each."""

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


def cpu_of(pid):
    """Processor time of one process alone, in seconds: of the threads that it has. `stat` counts in
    hundredths of a second, which hides what many small processes cost."""
    threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def peak_kib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0])


def children_of(pid):
    """The keepers of a harness; not what they run."""
    found = set()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found.update(int(child) for child in (task / "children").read_text().split())
    return found


class Lab:
    """Where things are measured. `floors_only`: leave out what no floor needs."""

    def __init__(self, opts, base):
        self.opts, self.base, self.rows, self.n = opts, base, [], 0
        self.floors_only = opts.floors

    def fresh(self, name):
        self.n += 1
        path = self.base / f"{name}-{self.n}"
        path.mkdir(parents=True)
        return path

    def root(self, durability="off", repo="none", more="", sandbox="off"):
        """A new tree. Nobody it is compared with confines its jobs, so neither does it."""
        path = self.fresh("root")
        sh(HARNESS, "init", path)
        text = CONFIG.format(durability=durability, repo=repo, more=more, sandbox=sandbox)
        (path / "harness.toml").write_text(text)
        return path

    def row(self, what, who, value, unit, ratio=None, at_least=None, at_most=None):
        """A line of the table. A floor is for the ratio where there is one, else for the value."""
        judged = value if ratio is None else ratio
        floor, passed = "", None
        if at_least is not None:
            floor, passed = f"≥ {at_least:g}", judged >= at_least
        elif at_most is not None:
            floor, passed = f"≤ {at_most:g}", judged <= at_most
        self.rows.append((what, who, value, unit, ratio, floor, passed))
        shown = "" if ratio is None else f"  ratio {ratio:.2f}"
        verdict = {None: "", True: f"  {floor}: pass", False: f"  {floor}: FAIL"}[passed]
        print(f"  {what:36} {who:24} {value:10.2f} {unit}{shown}{verdict}", file=sys.stderr, flush=True)

    def clear(self):
        for path in self.base.iterdir():
            if path.name.split("-")[0] in ("root", "bare", "repo"):
                shutil.rmtree(path, ignore_errors=True)


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
