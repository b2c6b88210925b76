"""Faults of a real file system, met by a harness that goes on: a full disk, a read-only mount, a
quota, a floor of free space, no descriptors left. When the fault is gone the same process resumes
its work.

    python3 tests/sweep/real.py [--bin target/debug/harness] [--only NAME]

Needs root, for mounts in a mount namespace of its own. Exit code: 0 all good, 1 a finding, 2 not
possible here.
"""

import argparse
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from root import Root
from tracer import Point

libc = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 32, 1 << 14, 1 << 18


def mount(what, where, kind=None, flags=0, data=None):
    words = [w.encode() if w else None for w in (what, str(where), kind)]
    if libc.mount(*words, flags, data.encode() if data else None) != 0:
        raise OSError(ctypes.get_errno(), f"cannot mount at {where}")


class Small:
    """A ROOT on a tmpfs or a btrfs of its own, with a harness at work in it."""

    def __init__(self, opts, size, toml="", kind="tmpfs"):
        opts.dir = None
        self.r = Root(opts, "plain", toml)
        self.r.kill()
        shutil.rmtree(self.r.path)
        self.r.path.mkdir()
        if kind == "tmpfs":
            mount("tmpfs", self.r.path, "tmpfs", 0, f"size={size}")
        else:
            image = self.r.base / "image"
            for command in (["truncate", "-s", size, image], ["mkfs.btrfs", "-q", image],
                            ["mount", "-o", "loop", image, self.r.path]):
                subprocess.run(command, check=True, capture_output=True)
        self.r.harness("init")
        (self.r.path / "harness.toml").write_text(
            f'[repo]\npath = "none"\n[retry]\ndelay = 0.05\n{toml}[harness]\nstagger = 0\n')
        self.log = self.r.base / "run.log"
        self.run = None

    def start(self, **more):
        with open(self.log, "a") as log:
            command = self.r.command("run", "--workers", "2")
            self.run = Small.last = subprocess.Popen(command, stdout=log, stderr=log, **more)
        return self.run

    def said(self):
        return self.log.read_text(errors="replace")

    def until(self, what, is_so, seconds=40):
        end = time.monotonic() + seconds
        while not is_so():
            assert self.run.poll() is None, f"it ended with {self.run.returncode}: {self.said()}"
            assert time.monotonic() < end, f"in vain: {what}; {self.r.picture()}; {self.said()}"
            time.sleep(0.01)

    def btrfs(self, *args):
        out = subprocess.run(["btrfs", *args], capture_output=True, text=True)
        assert out.returncode == 0, out.stderr

    def fill(self):
        """To the last byte; also the pages that were left over by a write cut short."""
        with open(self.r.path / "ballast", "ab", buffering=0) as ballast:
            for size in (1 << 16, 4096, 512, 1):
                try:
                    while ballast.write(b"x" * size) == size:
                        pass
                except OSError:
                    pass

    def free(self):
        (self.r.path / "ballast").unlink()

    def done(self, *names):
        return all(self.r.at(f"queue/done/{n}") for n in names)

    def end(self, names):
        self.run.send_signal(signal.SIGTERM)
        assert self.run.wait(timeout=40) == 0, self.said()
        for name in names:
            begun = self.r.ran("begin", name)
            assert self.r.places(name) == ["done"], (name, self.r.picture(), self.said())
            assert len(begun) == 1, f"{name} was started {len(begun)} times"
        wrong = self.r.books()
        assert not wrong, wrong
        return self.said()


def running(s, names):
    """Items whose agents run; they end when their gate is opened."""
    for name in names:
        s.r.script(name, s.r.gate(f"go-{name}"))
    s.until("they run", lambda: all(s.r.ran("begin", n) for n in names))


def is_clear(said, why):
    lines = said.split("\n")
    told = [n for n, line in enumerate(lines) if why in line]
    assert told, f"nothing says {why!r}: {said}"
    assert any("what to do" in lines[n] for n in told), said
    assert any("/" in lines[n] for n in told), said


def full(opts):
    """The disk is full while an agent ends and while another item waits: both end well, once."""
    s = Small(opts, "2m", "[limits]\ndisk_free_min = 0\n")
    s.start()
    running(s, ["a"])
    s.r.script("waits", "true")
    temp = s.r.path / "queue/pending/waits"
    s.until("it has begun or waits", lambda: temp.exists() or s.r.ran("begin", "waits"))
    s.fill()
    s.r.open("go-a")
    s.until("somebody says so", lambda: "No space left" in s.said() or "No space left" in keepers(s))
    time.sleep(1.5)
    assert not s.done("a"), "the disk was not full"
    s.free()
    s.until("all is done", lambda: s.done("a", "waits"))
    is_clear(s.end(["a", "waits"]) + keepers(s), "No space left")


def keepers(s):
    return "".join(p.read_text(errors="replace") for p in s.r.path.glob("state/agents/*/keeper.log"))


def read_only(opts):
    """While it works the kernel refuses a read-only remount (its leases are open for writing); a
    file system that turns read-only by an error is played by the tracer: all its calls fail."""
    s = Small(opts, "16m", "[limits]\ndisk_free_min = 0\n")
    s.start()
    running(s, ["a"])
    busy = libc.mount(None, str(s.r.path).encode(), None, MS_REMOUNT | MS_RDONLY, None)
    assert busy != 0, "the kernel allowed it: then this test can do it in earnest"
    s.r.open("go-a")
    s.until("a is done", lambda: s.done("a"))
    s.end(["a"])
    r = Root(opts, "plain")
    r.script("x", "true")
    r.trace(Point("slot", 3, "EROFS", lasting=2.5), ["run", "--drain", "--workers", "1"])
    seen = r.traced_end()
    r.traced = None
    r.drain()
    assert seen["code"] == 0 and r.places("x") == ["done"], (seen, r.said())
    assert len(r.ran("begin", "x")) == 1 and not r.books(), (r.said(), r.books())
    is_clear(r.said(), "Read-only")
    r.end(False)


def on_btrfs(opts, why, begin, end):
    """While an agent ends and another item waits nothing can be written; then all can."""
    s = Small(opts, "256m", "[limits]\ndisk_free_min = 0\n", "btrfs")
    s.start()
    running(s, ["a"])
    s.r.script("waits", s.r.gate("go-a"))
    begin(s)
    s.r.open("go-a")
    s.until("somebody says so", lambda: why in s.said())
    time.sleep(1.5)
    assert not s.done("a"), "it could be written"
    end(s)
    s.until("all is done", lambda: s.done("a", "waits"))
    is_clear(s.end(["a", "waits"]), why)
    subprocess.run(["umount", s.r.path], check=True)


def frozen(opts):
    """Its file system turns read-only under it, and is writable again."""
    turn = lambda word: lambda s: s.btrfs("property", "set", "-f", str(s.r.path), "ro", word)
    on_btrfs(opts, "Read-only file system", turn("true"), turn("false"))


def quota(opts):
    """The quota of its file system is used up, and lifted."""

    def used_up(s):
        s.btrfs("quota", "enable", str(s.r.path))
        s.btrfs("qgroup", "limit", "16k", str(s.r.path))

    on_btrfs(opts, "Disk quota exceeded", used_up,
             lambda s: s.btrfs("quota", "disable", str(s.r.path)))


def floor(opts):
    """Below the floor of free space nothing is claimed, what runs ends, and it goes on above it."""
    s = Small(opts, "16m", '[limits]\ndisk_free_min = "8MB"\n')
    s.start()
    running(s, ["a"])
    with open(s.r.path / "ballast", "wb") as ballast:
        ballast.write(b"x" * (11 << 20))
    time.sleep(1.2)
    s.r.script("waits", "true")
    s.r.open("go-a")
    s.until("a is done", lambda: s.done("a"))
    s.until("it says so", lambda: "nothing new is claimed" in s.said())
    time.sleep(1.5)
    assert not s.r.ran("begin", "waits"), "it was started below the floor"
    s.free()
    s.until("it goes on", lambda: s.done("waits"))
    s.end(["a", "waits"])


def descriptors(opts):
    """No descriptors left: it says so, and goes on when the limit is raised."""
    import resource

    s = Small(opts, "16m", "[limits]\ndisk_free_min = 0\n")
    run = s.start()
    running(s, ["a"])
    used = len(os.listdir(f"/proc/{run.pid}/fd"))
    before = resource.prlimit(run.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(run.pid, resource.RLIMIT_NOFILE, (used, before[1]))
    s.r.script("waits", "true")
    s.r.open("go-a")
    s.until("it says so", lambda: "Too many open files" in s.said())
    time.sleep(1.5)
    resource.prlimit(run.pid, resource.RLIMIT_NOFILE, before)
    s.until("all is done", lambda: s.done("a", "waits"))
    is_clear(s.end(["a", "waits"]), "Too many open files")


ALL = {"full": full, "read-only": read_only, "frozen": frozen, "quota": quota, "floor": floor,
       "descriptors": descriptors}


def main():
    here = pathlib.Path(__file__).resolve().parent.parent.parent
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--bin", default=str(here / "target/debug/harness"))
    args.add_argument("--only", default="")
    opts = args.parse_args()
    opts.bin = str(pathlib.Path(opts.bin).resolve())
    if os.geteuid() != 0 or libc.unshare(0x20000) != 0:
        print("real: SKIPPED: no mounts without root", file=sys.stderr)
        return 2
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    found = 0
    for name, fault in ALL.items():
        if fault in (frozen, quota) and not shutil.which("mkfs.btrfs"):
            print(f"{name:12} SKIPPED: it takes btrfs-progs", flush=True)
        elif opts.only in name:
            begun = time.monotonic()
            try:
                fault(opts)
                word = "got over"
            except (AssertionError, OSError, subprocess.TimeoutExpired) as e:
                found += 1
                word = f"FOUND {type(e).__name__} {e}"
                # It is nobody's otherwise.
                Small.last.kill()
            print(f"{name:12} {time.monotonic() - begun:5.1f} s  {word}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
