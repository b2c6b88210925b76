"""The temporary directory with the images, and what is done with them."""

import atexit
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import environment

MKFS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 96),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], 256),
}
ITEMS = 10
WORKERS = 3
PLACES = ("pending", "claimed", "review", "merge", "done", "parked")
DEADLINE = 60

# What stands between harness, git and the disk: POWERCUT_SYNC says how.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static int how(const char *word) {
    const char *how = getenv("POWERCUT_SYNC");
    return how && !strcmp(how, word);
}
static int lies(int fd) {
    struct stat s;
    if (how("slow")) usleep(10000);
    return how("no-fsync") || (how("no-dir-fsync") && fstat(fd, &s) == 0 && S_ISDIR(s.st_mode));
}
#define FAKE(name) int name(int fd) { \
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, #name); \
    return lies(fd) ? 0 : real(fd); }
FAKE(fsync)
FAKE(fdatasync)
FAKE(syncfs)
"""


class Lab:
    """The temporary directory with the images, and the one mount point."""

    def __init__(self, opts):
        self.opts = opts
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="harness-powercut-")).resolve()
        atexit.register(self.close)
        self.mnt = self.dir / "mnt"
        self.mnt.mkdir()
        self.root, self.repo = self.mnt / "root", self.mnt / "repo"
        self.hub = self.root / "state/repos/default.git"
        self.env = environment.plain(self.dir)
        # What runs until the cut; a planted fault (tests/mutants.py) is in that.
        self.lying = environment.with_fault(self.env)
        self.shim = None
        if shutil.which("cc"):
            source, self.shim = self.dir / "shim.c", self.dir / "shim.so"
            source.write_text(SHIM)
            command = ["cc", "-shared", "-fPIC", "-o", str(self.shim), str(source), "-ldl"]
            subprocess.run(command, check=True)
        elif opts.mutant != "none":
            raise OSError("cc is missing, which makes the mutant")

    def disk_is(self, slow):
        """What happens when it is told to sync; a mutant's is never slow."""
        how = self.opts.mutant if self.opts.mutant != "none" else "slow" if slow else ""
        if self.shim:
            self.lying |= {"LD_PRELOAD": str(self.shim), "POWERCUT_SYNC": how}

    def close(self):
        self.kill_all()
        self.unmount()
        self.unmount(self.dir / "outer")
        shutil.rmtree(self.dir, ignore_errors=True)

    def mount(self, image, fs):
        command = ["mount", "-t", fs, "-o", "loop", str(image), str(self.mnt)]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode:
            raise OSError(f"{fs} cannot be mounted: {mounted.stderr.strip()}")

    def unmount(self, where=None):
        # Not `ismount`: nothing can be asked of a file system whose power is off.
        where = where or self.mnt
        mounted = f" {where} "
        for _ in range(100):
            if mounted not in pathlib.Path("/proc/self/mounts").read_text():
                return
            if subprocess.run(["umount", str(where)], capture_output=True).returncode:
                time.sleep(0.05)
        subprocess.run(["umount", "-l", str(where)], capture_output=True)

    def command(self, *args):
        return [self.opts.bin, "--root", str(self.root), *args]

    def harness(self, *args, env=None, check=False):
        return subprocess.run(self.command(*args), env=env or self.env, capture_output=True,
                              text=True, timeout=DEADLINE, check=check)

    def git(self, repo, *args, check=False):
        return subprocess.run(["git", "-C", str(repo), *args], env=self.env, capture_output=True,
                              text=True, errors="replace", check=check, timeout=DEADLINE)

    def processes(self):
        """Those of our ROOT, and only those: the directory's name is in their command line, their
        environment, or they stand in it."""
        mark = str(self.mnt).encode()
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
                where = os.readlink(proc / "cwd").encode()
            except OSError:
                continue
            if (mark in words or where.startswith(mark)) and int(proc.name) != os.getpid():
                yield int(proc.name)

    def kill_all(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            alive = list(self.processes())
            if not alive:
                return
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.01)

    def make_image(self, image, fs, mebibytes):
        tool, *_ = command = MKFS[fs][0]
        if not shutil.which(tool):
            raise OSError(f"{tool} is missing")
        with open(image, "wb") as f:
            f.truncate(mebibytes << 20)
        made = subprocess.run([*command, str(image)], capture_output=True, text=True)
        if made.returncode:
            raise OSError(f"{tool}: {made.stderr.strip()}")

    def outer(self):
        """Where images can be cloned as they are at one moment, while they are in use."""
        folder = self.dir / "outer"
        if not folder.exists():
            image = self.dir / "outer.img"
            self.make_image(image, "xfs", 4096)
            folder.mkdir()
            command = ["mount", "-t", "xfs", "-o", "loop", str(image), str(folder)]
            mounted = subprocess.run(command, capture_output=True, text=True)
            if mounted.returncode:
                raise OSError(f"xfs cannot be mounted: {mounted.stderr.strip()}")
        return folder

    def template(self, fs, warm):
        """An image with a ROOT and a repository; warm: one item was done there."""
        image = self.dir / f"{fs}-{'warm' if warm else 'cold'}.img"
        more = ""
        if self.opts.into:
            more = f'[integrate]\nmode = "merge"\ninto = "{self.opts.into}"\n' \
                   '[gates.work]\nwhen = ["merge"]\nscript = "ls f-* && git diff --quiet HEAD"\n'
        if image.exists():
            return image
        self.make_image(image, fs, MKFS[fs][1])
        self.mount(image, fs)
        try:
            self.repo.mkdir()
            (self.repo / "README").write_text("hello\n")
            self.git(self.repo, "init", "-q", "-b", "main", check=True)
            self.git(self.repo, "config", "user.name", "T", check=True)
            self.git(self.repo, "config", "user.email", "t@example.com", check=True)
            self.git(self.repo, "add", ".", check=True)
            self.git(self.repo, "commit", "-q", "-m", "one", check=True)
            if self.opts.into not in ("", "main"):
                self.git(self.repo, "branch", self.opts.into, check=True)
            self.harness("init", str(self.root), check=True)
            (self.root / "harness.toml").write_text(
                "[retry]\ndelay = 0.05\n[harness]\nstagger = 0\nkill_grace = 1\n"
                f'durability = "full"\n[limits]\ndisk_free_min = 0\n[repo]\npath = "{self.repo}"\n{more}'
            )
            if warm:
                self.harness("add", str(self.item("first.sh")), check=True)
                self.harness("run", "--drain", "--workers", str(WORKERS), check=True)
            self.kill_all()
            os.sync()
        finally:
            self.unmount()
        return image

    def item(self, name):
        """A script outside the image. One in two leaves its work for harness to commit."""
        path = self.dir / name
        body = f"#!/bin/sh\n# {name * 40}\necho 'the work of {name}' > f-{name}\n"
        if sum(name.encode()) % 2:
            body += f"git add . && git commit -q -m 'work of {name}'\n"
        path.write_text(body)
        path.chmod(0o755)
        return path

    def untouched(self):
        # Where the branch that is merged into is checked out, its index goes with it.
        files = ("HEAD", "config") if self.opts.into == "main" else ("HEAD", "config", "index")
        return [(self.repo / ".git" / f).read_bytes() for f in files]
