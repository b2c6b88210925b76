#!/usr/bin/env python3
"""What was acknowledged survives a power cut: cuts it, again and again, and looks.

A ROOT and a small git repository lie on a journaled file system in an image (ext4, xfs). The real
binary works there: `harness add` drops scripts one after the other, several workers do them, each
makes one commit. An ACK LOG outside the image says what anybody was told before the cut:

- add: `harness add NAME` ended with 0;
- done: NAME was seen in queue/done/, with the branch that the user's repository had at that moment.

Then the power goes off (the shutdown ioctl of ext4 and xfs), all processes are killed, keepers
included, and the image is mounted again, which replays its journal. Two cuts are not alike:

- flag 2 (NOLOGFLUSH): whatever was not committed to the journal is lost: finds a directory that was
  not synced after a rename;
- flag 1 (LOGFLUSH): the journal is written, file content not yet on disk is lost: finds a file that
  was not synced before its rename.

The instant is taken in turn: at the k-th acknowledged add, at the k-th acknowledged done, at a
random time, and at an add with no harness running (nobody else's sync helps); k and the time are
random. Three cuts in four begin before harness has its copy of the repository. What must hold:

- as the disk is: each acknowledged add is whole in exactly one of pending/, claimed/, done/, parked/;
- each acknowledged done has its `finished` line, a whole session.json and its branch, at the same
  commit; it is in done/ (or still in claimed/, where the rename that was seen came to nothing:
  nothing but that move is made up for afterwards, no second attempt);
- `git fsck` finds nothing in the user's repository and in harness's copy, and HEAD, index and
  config of the user's are byte for byte as before;
- then one `harness run --drain` ends with 0, each item is in done/ once, with one branch that holds
  its work, and `git fsck` finds nothing again.

Needs root, loop devices, mkfs.ext4 or mkfs.xfs; where something is missing it says SKIPPED and ends
with 0. Everything lies in one temporary directory, mounted in a namespace of its own where
`unshare` can, so that nothing stays mounted however this ends.

    tests/powercut.py [--bin target/release/harness] [--cuts 30] [--fs ext4,xfs] [--flags 2,1]
                      [--seed N] [--mutant none|no-fsync|no-dir-fsync] [--keep DIR] [--json] [-v]

`--mutant` preloads a library that makes fsync of everything, or of directories alone, a success
that does nothing, in harness and in git: both must lead to findings.

Exit code: 0 nothing found, 1 at least one finding (`--keep DIR`: its image).
"""

import argparse
import atexit
import fcntl
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

GOING_DOWN = 0x8004587D  # _IOR('X', 125, u32): ext4 and xfs alike
MKFS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], 96),
    "xfs": (["mkfs.xfs", "-q", "-f"], 320),
}
ITEMS = 10
WORKERS = 3
INSTANTS = ("add", "done", "time", "quiet")
PLACES = ("pending", "claimed", "done", "parked")
DEADLINE = 60

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/stat.h>
#include <unistd.h>
static int lies(int fd) {
#ifdef ONLY_DIRS
    struct stat s;
    return fstat(fd, &s) == 0 && S_ISDIR(s.st_mode);
#else
    return fd != -2;
#endif
}
#define FAKE(name) int name(int fd) { \
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, #name); \
    return lies(fd) ? 0 : real(fd); }
FAKE(fsync)
FAKE(fdatasync)
#ifndef ONLY_DIRS
FAKE(syncfs)
void sync(void) {}
int sync_file_range(int fd, off_t at, off_t n, unsigned flags) {
    (void)fd; (void)at; (void)n; (void)flags; return 0; }
#endif
"""

def skip(why):
    print(f"powercut: SKIPPED: {why}", flush=True)

def text_of(path):
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""

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
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.dir),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "LC_ALL": "C",
        }
        # What runs until the cut.
        self.lying = dict(self.env)
        if opts.mutant != "none":
            source, shim = self.dir / "shim.c", self.dir / "shim.so"
            source.write_text(SHIM)
            only = ["-DONLY_DIRS"] if opts.mutant == "no-dir-fsync" else []
            command = ["cc", "-shared", "-fPIC", *only, "-o", str(shim), str(source), "-ldl"]
            subprocess.run(command, check=True)
            self.lying["LD_PRELOAD"] = str(shim)

    def close(self):
        self.kill_all()
        self.unmount()
        shutil.rmtree(self.dir, ignore_errors=True)

    def mount(self, image, fs):
        command = ["mount", "-t", fs, "-o", "loop", str(image), str(self.mnt)]
        mounted = subprocess.run(command, capture_output=True, text=True)
        if mounted.returncode:
            raise OSError(f"{fs} cannot be mounted: {mounted.stderr.strip()}")

    def unmount(self):
        # Not `ismount`: nothing can be asked of a file system whose power is off.
        mounted = f" {self.mnt} "
        for _ in range(100):
            if mounted not in pathlib.Path("/proc/self/mounts").read_text():
                return
            if subprocess.run(["umount", str(self.mnt)], capture_output=True).returncode:
                time.sleep(0.05)
        subprocess.run(["umount", "-l", str(self.mnt)], capture_output=True)

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

    def template(self, fs, warm):
        """An image with a ROOT and a repository; warm: one item was done there."""
        image = self.dir / f"{fs}-{'warm' if warm else 'cold'}.img"
        command, size = MKFS[fs]
        with open(image, "wb") as f:
            f.truncate(size << 20)
        subprocess.run([*command, str(image)], check=True, capture_output=True)
        self.mount(image, fs)
        try:
            self.repo.mkdir()
            (self.repo / "README").write_text("hello\n")
            self.git(self.repo, "init", "-q", "-b", "main", check=True)
            self.git(self.repo, "config", "user.name", "T", check=True)
            self.git(self.repo, "config", "user.email", "t@example.com", check=True)
            self.git(self.repo, "add", ".", check=True)
            self.git(self.repo, "commit", "-q", "-m", "one", check=True)
            self.harness("init", str(self.root), check=True)
            (self.root / "harness.toml").write_text(
                "[retry]\ndelay = 0.05\n[harness]\nstagger = 0\nkill_grace = 1\n"
                f'durability = "full"\n[limits]\ndisk_free_min = 0\n[repo]\npath = "{self.repo}"\n'
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
        return [(self.repo / ".git" / f).read_bytes() for f in ("HEAD", "index", "config")]

class Acks:
    """The ACK LOG. What comes after the cut was never said."""

    def __init__(self, path):
        self.lock, self.is_cut = threading.Lock(), threading.Event()
        self.adds, self.dones = [], {}
        self.log = open(path, "a")
        self.at = None  # (kind, how many): when to cut
        self.cut = None

    def say(self, kind, name, value=None):
        with self.lock:
            if self.is_cut.is_set():
                return False
            if kind == "add":
                self.adds.append(name)
            else:
                self.dones[name] = value
            self.log.write(json.dumps([kind, name, value]) + "\n")
            count = len(self.adds) if kind == "add" else len(self.dones)
            if self.at == (kind, count):
                self.off()
            return True

    def off(self):
        """The caller holds the lock."""
        self.cut()
        self.is_cut.set()
        self.log.flush()

    def off_now(self):
        with self.lock:
            if not self.is_cut.is_set():
                self.off()

def add_items(lab, acks, names):
    for name in names:
        if acks.is_cut.is_set():
            return
        try:
            added = lab.harness("add", str(lab.dir / name), env=lab.lying)
        except subprocess.TimeoutExpired:
            return
        if added.returncode == 0:
            acks.say("add", name)

def watch_done(lab, acks):
    done = lab.root / "queue/done"
    while not acks.is_cut.is_set():
        try:
            names = [n for n in os.listdir(done) if n.startswith("i-") and n not in acks.dones]
        except OSError:
            return
        for name in names:
            folder = lab.repo / ".git/refs/heads/harness" / name
            try:
                branches = {p.name: text_of(p).strip() for p in folder.glob("*")}
            except OSError:  # the power is off
                return
            acks.say("done", name, branches)
        time.sleep(0.001)

def work_until_cut(lab, flag, instant, k, horizon, names, ack_log):
    """Runs the binary and cuts the power. What was acknowledged."""
    acks = Acks(ack_log)
    mountpoint = os.open(lab.mnt, os.O_RDONLY)
    acks.cut = lambda: fcntl.ioctl(mountpoint, GOING_DOWN, struct.pack("I", flag))
    if instant in ("add", "quiet"):
        acks.at = ("add", k)
    elif instant == "done":
        acks.at = ("done", k)
    threads = [threading.Thread(target=add_items, args=(lab, acks, names))]
    if instant != "quiet":
        run = lab.command("run", "--workers", str(WORKERS))
        with open(lab.dir / "run.log", "w") as log:
            subprocess.Popen(run, env=lab.lying, stdout=log, stderr=log, cwd=lab.dir)
        threads.append(threading.Thread(target=watch_done, args=(lab, acks)))
    for thread in threads:
        thread.start()
    # A cut at an acknowledgement that does not come is one after some seconds of rest.
    acks.is_cut.wait(horizon if instant == "time" else 20)
    acks.off_now()
    lab.kill_all()
    for thread in threads:
        thread.join()
    os.close(mountpoint)
    acks.log.close()
    return acks

def places_of(lab):
    """Name → list of (place, path)."""
    found = {}
    for place in PLACES:
        for path in (lab.root / "queue" / place).rglob("*"):
            name = path.name
            if path.is_dir() or name == ".gitignore" or name.endswith(".tmp"):
                continue
            found.setdefault(name, []).append((place, path))
    return found


def finished_lines(lab, name):
    lines = []
    for line in text_of(lab.root / f"state/items/{name}.jsonl").split("\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "finished":
            lines.append(event)
    return lines


def fsck(lab, where, repo):
    out = lab.git(repo, "fsck", "--full", "--no-dangling")
    if out.returncode == 0 and not out.stderr.strip():
        return []
    said = (out.stdout + out.stderr).strip().split("\n")
    return [f"git fsck of {where} ({out.returncode}): {'; '.join(said[:6])}"]


def check_adds(lab, acks):
    lost, found = [], places_of(lab)
    for name in acks.adds:
        at = found.get(name, [])
        if len(at) != 1:
            lost.append(f"{name} was added and is in {[p for p, _ in at] or 'no place'}")
        elif at[0][1].read_bytes() != (lab.dir / name).read_bytes():
            lost.append(f"{name} is not whole in {at[0][0]}/: {at[0][1].stat().st_size} bytes")
    return lost


def check_done(lab, name, branches, place):
    wrong = []
    if place not in ("done", "claimed"):
        wrong.append(f"is in {place}")
    ends = [e for e in finished_lines(lab, name) if e.get("next") == "done"]
    if len(ends) != 1:
        wrong.append(f"has {len(ends)} `finished` lines with next=done")
    else:
        sid = ends[0].get("session", "")
        try:
            session = json.loads((lab.root / "state/sessions" / sid / "session.json").read_text())
            if session.get("outcome") != "succeeded":
                wrong.append(f"session.json says {session.get('outcome')}")
        except (OSError, ValueError) as e:
            wrong.append(f"session.json: {e}")
    if len(branches) != 1:
        wrong.append(f"had the branches {branches} when it was seen")
    for attempt, oid in branches.items():
        ref = f"refs/heads/harness/{name}/{attempt}"
        now = lab.git(lab.repo, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        if now.stdout.strip() != oid:
            wrong.append(f"its branch was {oid} and is {now.stdout.strip() or 'gone'}")
        elif lab.git(lab.repo, "show", f"{oid}:f-{name}").stdout != f"the work of {name}\n":
            wrong.append("its branch does not hold its work")
    return [f"{name} was done and {w}" for w in wrong]


def check_end(lab, acks, drain):
    """The books after the run that set everything right."""
    wrong = []
    if drain.returncode != 0:
        last = (drain.stdout + drain.stderr).strip().split("\n")[-12:]
        wrong.append(f"the run after ended with {drain.returncode}: " + " | ".join(last))
    found = places_of(lab)
    for name in acks.adds:
        if name not in found:
            wrong.append(f"{name} was added and is nowhere")
    listed = lab.git(lab.repo, "for-each-ref", "--format=%(refname) %(objectname)",
                     "refs/heads/harness").stdout.split("\n")[:-1]
    branches = [line.removeprefix("refs/heads/harness/").split() for line in listed]
    for name, at in found.items():
        if [p for p, _ in at] != ["done"]:
            wrong.append(f"{name} is in {[p for p, _ in at]}")
            continue
        own = {b.split("/", 1)[1]: oid for b, oid in branches if b.startswith(name + "/")}
        if len(own) != 1:
            wrong.append(f"{name} has the branches {own}")
        elif name in acks.dones and own != acks.dones[name]:
            wrong.append(f"{name} was done as {acks.dones[name]} and is {own}")
        for oid in own.values():
            if lab.git(lab.repo, "show", f"{oid}:f-{name}").stdout != f"the work of {name}\n":
                wrong.append(f"the branch of {name} does not hold its work")
        if name in acks.dones and len(finished_lines(lab, name)) != 1:
            wrong.append(f"{name} was done and ended again")
    return wrong


def one_cut(lab, fs, flag, instant, k, horizon, template, number):
    image = lab.dir / f"cut-{number}.img"
    subprocess.run(["cp", "--sparse=always", str(template), str(image)], check=True)
    names = [f"i-{n:02}.sh" for n in range(ITEMS)]
    for name in names:
        lab.item(name)
    lab.mount(image, fs)
    found = {"lost": [], "corrupt": [], "after": []}
    unmoved = 0
    try:
        before = lab.untouched()
        acks = work_until_cut(lab, flag, instant, k, horizon, names, lab.dir / f"acks-{number}")
        lab.unmount()
        if lab.opts.keep:
            shutil.copy(lab.dir / "run.log", lab.dir / "cut.log")
            subprocess.run(["cp", "--sparse=always", str(image), str(lab.dir / "kept.img")])
        lab.mount(image, fs)
        found["lost"] += check_adds(lab, acks)
        where = places_of(lab)
        for name, branches in acks.dones.items():
            place = where.get(name, [("no place", None)])[0][0]
            unmoved += place == "claimed"
            found["lost"] += check_done(lab, name, branches, place)
        found["corrupt"] += fsck(lab, "the user's repository", lab.repo)
        if lab.hub.exists():
            found["corrupt"] += fsck(lab, "harness's copy", lab.hub)
        if lab.untouched() != before:
            found["corrupt"].append("HEAD, index or config of the user's repository has changed")
        try:
            drain = lab.harness("run", "--drain", "--workers", str(WORKERS))
            found["after"] += check_end(lab, acks, drain)
        except subprocess.TimeoutExpired as e:
            found["after"].append(f"the run after hangs: {(e.stdout or b'')[-800:]}")
        lab.kill_all()
        if not any(found.values()):
            found["after"] += fsck(lab, "the user's repository, afterwards", lab.repo)
            if instant != "quiet" or acks.adds:
                found["after"] += fsck(lab, "harness's copy, afterwards", lab.hub)
        if lab.untouched() != before:
            found["after"].append("HEAD, index or config of the user's repository has changed")
    finally:
        lab.kill_all()
        lab.unmount()
        image.unlink()
    if lab.opts.keep and any(found.values()):
        to = pathlib.Path(lab.opts.keep)
        to.mkdir(parents=True, exist_ok=True)
        shutil.move(lab.dir / "kept.img", to / f"{fs}-{flag}-{number}.img")
        shutil.copy(lab.dir / f"acks-{number}", to / f"{fs}-{flag}-{number}.acks")
    return acks, found, unmoved


def missing():
    if os.geteuid() != 0:
        return "it mounts images, which needs root"
    for tool in ("losetup", "mount", "umount", "git"):
        if not shutil.which(tool):
            return f"{tool} is missing"
    return None


def why_not(lab, fs):
    """Why this file system cannot be tried here."""
    tool = MKFS[fs][0][0]
    if not shutil.which(tool):
        return f"{tool} is missing"
    image = lab.dir / "probe.img"
    try:
        with open(image, "wb") as f:
            f.truncate(MKFS[fs][1] << 20)
        subprocess.run([*MKFS[fs][0], str(image)], check=True, capture_output=True)
        lab.mount(image, fs)
        where = os.open(lab.mnt, os.O_RDONLY)
        try:
            fcntl.ioctl(where, GOING_DOWN, struct.pack("I", 2))
        finally:
            os.close(where)
    except subprocess.CalledProcessError as e:
        said = e.stderr.decode(errors="replace").strip().split("\n")[-1]
        return f"{e.cmd[0]}: {said}"
    except OSError as e:
        return f"its power cannot be cut: {e}"
    finally:
        lab.unmount()
        image.unlink(missing_ok=True)
    return None


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    args.add_argument("--bin", default=str(here / "target/release/harness"))
    args.add_argument("--cuts", type=int, default=30, help="for each file system and flag")
    args.add_argument("--fs", default="ext4,xfs")
    args.add_argument("--flags", default="2,1")
    args.add_argument("--seed", type=int, default=None)
    args.add_argument("--mutant", default="none", choices=["none", "no-fsync", "no-dir-fsync"])
    args.add_argument("--keep", metavar="DIR")
    args.add_argument("--json", action="store_true")
    args.add_argument("-v", "--verbose", action="store_true")
    opts = args.parse_args()
    unknown = set(opts.fs.split(",")) - set(MKFS)
    if unknown:
        args.error(f"no such file system: {unknown}")
    if why := missing():
        skip(why)
        return 0
    # Mounts of a namespace of its own go away with its last process.
    if "HARNESS_POWERCUT_ALONE" not in os.environ and shutil.which("unshare"):
        alone = ["unshare", "--mount", "--propagation", "private"]
        if subprocess.run([*alone, "true"], capture_output=True).returncode == 0:
            os.environ["HARNESS_POWERCUT_ALONE"] = "1"
            os.execvp("unshare", [*alone, sys.executable, *sys.argv])
    opts.bin = str(pathlib.Path(opts.bin).resolve())
    if not os.access(opts.bin, os.X_OK):
        args.error(f"{opts.bin} is missing: cargo build --release")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    seed = opts.seed if opts.seed is not None else random.randrange(1 << 32)
    dice = random.Random(seed)
    lab = Lab(opts)
    started = time.monotonic()
    total = {"cuts": 0, "adds": 0, "dones": 0, "unmoved": 0, "lost": 0, "corrupt": 0,
             "after": 0, "cuts_with_findings": 0}
    skipped, findings, groups = [], [], {}
    for fs in opts.fs.split(","):
        if why := why_not(lab, fs):
            skip(f"{fs}: {why}")
            skipped.append(f"{fs}: {why}")
            continue
        cold, warm = lab.template(fs, False), lab.template(fs, True)
        for flag in map(int, opts.flags.split(",")):
            group = groups.setdefault(f"{fs} flag {flag}", {key: 0 for key in total})
            for n in range(opts.cuts):
                instant = INSTANTS[n % len(INSTANTS)]
                # `first.sh` is done in the warm one: a new beginning, and one in full swing.
                template = warm if n % 16 >= 12 else cold
                k = dice.randint(1, ITEMS)
                horizon = dice.uniform(0.02, 1.5)
                acks, found, unmoved = one_cut(
                    lab, fs, flag, instant, k, horizon, template, total["cuts"])
                counts = {"cuts": 1, "adds": len(acks.adds), "dones": len(acks.dones),
                          "unmoved": unmoved, "cuts_with_findings": int(any(found.values())),
                          **{kind: len(lines) for kind, lines in found.items()}}
                for key, count in counts.items():
                    total[key] += count
                    group[key] += count
                when = f"{horizon:.3f} s" if instant == "time" else f"{instant} {k}"
                where = f"{fs} flag {flag} cut {n} at {when}, {template.stem}"
                if any(found.values()):
                    findings.append({"cut": where, **found})
                    print(f"{where}: FOUND", flush=True)
                    for kind, lines in found.items():
                        for line in lines:
                            print(f"    {kind}: {line}", flush=True)
                elif opts.verbose:
                    print(f"{where}: {len(acks.adds)} adds, {len(acks.dones)} dones, all there",
                          flush=True)
    seconds = round(time.monotonic() - started, 1)
    if opts.json:
        print(json.dumps({"seed": seed, "mutant": opts.mutant, "seconds": seconds, **total,
                          "groups": groups, "skipped": skipped, "findings": findings}))
    if total["cuts"] == 0:
        skip("nothing was cut")
        return 0
    print(f"{total['cuts']} cuts (seed {seed}), {total['adds']} acknowledged adds, "
          f"{total['dones']} acknowledged dones ({total['unmoved']} one move short), "
          f"{total['lost']} lost, {total['corrupt']} corrupt, {total['after']} wrong afterwards, "
          f"{seconds} seconds")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
