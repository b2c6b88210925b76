"""Proves on real NFS what harness promises of a ROOT that several hosts share.

Three guests of user-mode Linux (Debian: apt-get install user-mode-linux uml-utilities nfs-kernel-server
nfs-common busybox-static), each with a kernel of its own and connected by a switch of the test's alone:
one serves NFSv4.2 from an ext4 image, two mount it and run harness. They read this machine's files and
write to their own memory. No kernel module, network or privilege of this machine is used.

    python3 tests/nfs [--bin target/debug/harness] [--scene race] [--items 200] [--workers 2]
        [--lease 10] [--options vers=4.2] [--keep]

    race    both take from one queue: each item is claimed once, ends in `done/` once, none is lost
    killed  one is killed at work: the other one takes its items over when its lease has run out
    cut     its network is cut for longer than that, and comes back: its late process has to end
    killed-midway, cut-midway: the same with short items, so that it is met at any step
Exit code: 0 nothing found, 1 at least one finding, 77 where there are no guests.
"""

import argparse
import collections
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
NEEDED = ["linux.uml", "uml_switch", "mount.nfs4", "rpc.nfsd", "rpc.mountd", "exportfs", "mkfs.ext4"]
ADDRESS = {"server": "10.9.8.1", "one": "10.9.8.2", "two": "10.9.8.3"}
DEADLINE = 240


class Guest:
    def __init__(self, lab, name):
        self.lab, self.name, self.dir, self.n = lab, name, lab.dir / name, 0
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir()
        number = ADDRESS[name].rpartition(".")[2]
        # The kernel keeps its memory in a file of TMPDIR: not of the disk.
        words = [
            "linux.uml", "mem=512M", f"umid={lab.dir.name}-{name}", "rootfstype=hostfs", "rootflags=/",
            "ro", f"init={HERE / 'guest.sh'}", "con=null", "con0=null,fd:1", "quiet",
            f"eth0=daemon,fe:fd:00:00:00:0{number},unix,{lab.dir / 'switch'}",
            f"NFS_NAME={name}", f"NFS_DIR={lab.dir}", f"NFS_ADDRESS={ADDRESS[name]}",
            f"NFS_LEASE={lab.opts.lease}", f"NFS_OPTIONS={lab.opts.options}",
            f"NFS_MODULES={lab.modules}",
        ]
        if name == "server":
            words.append(f"ubd0={lab.dir / 'disk.img'}")
        self.log = open(lab.dir / f"{name}.log", "wb")
        env = {**os.environ, "HOME": str(lab.dir)}
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, start_new_session=True, env=env)

    def until_up(self):
        wait(lambda: (self.dir / "up").exists(), f"{self.name} is up", 60)
        code = (self.dir / "up").read_text().strip()
        if code != "0":
            log = (self.lab.dir / f"{self.name}.log").read_text(errors="replace")
            raise RuntimeError(f"{self.name} did not come up:\n{log[-2000:]}")

    def begin(self, text):
        """Has it run these commands; returns what `end` needs."""
        self.n += 1
        of = self.dir / f"{self.n:04}"
        of.with_suffix(".new").write_text(text)
        of.with_suffix(".new").rename(of.with_suffix(".sh"))
        return of

    def has_ended(self, of):
        return of.with_suffix(".rc").exists()

    def said(self, of):
        file = of.with_suffix(".out")
        return file.read_text(errors="replace") if file.exists() else ""

    def end(self, of, seconds=DEADLINE):
        """Their exit code and what they said."""
        wait(lambda: self.has_ended(of), f"{self.name} ends {of.name}", seconds)
        return int(of.with_suffix(".rc").read_text() or "1"), self.said(of)

    def do(self, text, seconds=DEADLINE):
        code, said = self.end(self.begin(text), seconds)
        if code:
            raise RuntimeError(f"{self.name}: exit code {code}: {text}\n{said}")
        return said

    def kill(self):
        """As a power cut does."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Lab:
    def __init__(self, opts):
        self.opts = opts
        self.modules = next(pathlib.Path("/usr/lib/uml/modules").iterdir()).parent
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="harness-nfs-"))
        self.guests, self.trees = {}, 0
        image = self.dir / "disk.img"
        subprocess.run(["truncate", "-s", "1G", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        self.switch = subprocess.Popen(["uml_switch", "-unix", self.dir / "switch"],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
        wait((self.dir / "switch").exists, "the switch", 10)
        begun = time.monotonic()
        for name in ADDRESS:
            self.guests[name] = Guest(self, name)
        for guest in self.guests.values():
            guest.until_up()
        self.took = time.monotonic() - begun

    def restart(self, name):
        self.guests[name] = Guest(self, name)
        self.guests[name].until_up()

    def close(self):
        for guest in self.guests.values():
            guest.kill()
        self.switch.kill()
        self.switch.wait()
        if not self.opts.keep:
            shutil.rmtree(self.dir, ignore_errors=True)


def wait(is_so, what, seconds):
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"waited in vain for: {what}")
        time.sleep(0.05)


class Tree:
    """A ROOT on the server's disk, and what must be true of it in the end."""

    def __init__(self, lab, name, items, seconds):
        lab.trees += 1
        self.lab, self.path, self.items = lab, f"/mnt/nfs/{lab.trees}-{name}", items
        self.harness = f"{lab.opts.bin} --root {self.path}"
        lab.guests["one"].do(f"""
            {lab.opts.bin} init {self.path} >/dev/null && mkdir {self.path}/ran && cd {self.path}
            printf '[limits]\\ndisk_free_min = 0\\n[harness]\\nstagger = 0\\nkill_grace = 1\\n' >harness.toml
            n=0
            while [ $n -lt {items} ]; do
                n=$((n + 1))
                cat >queue/pending/.new.tmp <<'END' && chmod +x queue/pending/.new.tmp
#!/bin/sh
echo $(hostname) >"$HARNESS_ROOT/ran/$HARNESS_ITEM.$HARNESS_SESSION.begun"
sleep {seconds}
echo $(hostname) >"$HARNESS_ROOT/ran/$HARNESS_ITEM.$HARNESS_SESSION.ended"
END
                mv queue/pending/.new.tmp queue/pending/i$n
            done
        """)

    def run(self, name):
        guest = self.lab.guests[name]
        workers = self.lab.opts.workers
        return guest.begin(f"cd /mnt && exec {self.harness} run --drain --workers {workers}")

    def ran(self):
        """(item, session): the guest that began it, the guest that ended it."""
        said = self.lab.guests["server"].do(
            f"cd /mnt/disk{self.path.removeprefix('/mnt/nfs')}/ran && grep -H . * || :")
        ran = collections.defaultdict(dict)
        for line in said.split("\n"):
            if line:
                file, _, host = line.partition(":")
                item, sid, word = file.split(".")
                ran[item, sid][word] = host
        return ran

    def place(self, place):
        said = self.lab.guests["server"].do(
            f"ls -A /mnt/disk{self.path.removeprefix('/mnt/nfs')}/queue/{place}")
        return [name for name in said.split("\n") if name and name != ".gitignore"]

    def books(self, lost=None):
        """What is wrong. `lost`: a guest whose items another one may begin again."""
        wrong, ran = [], self.ran()
        done = self.place("done")
        if len(done) != self.items or len(set(done)) != self.items:
            wrong.append(f"{len(done)} in done/, not {self.items}; pending {self.place('pending')}, "
                         f"parked {self.place('parked')}")
        for place in ("pending", "parked", "review", "merge"):
            # What a killed client had open and unlinked stays under such a name; nobody takes it for an item.
            left = [name for name in self.place(place) if not name.startswith(".nfs")]
            if left:
                wrong.append(f"left in {place}/: {left}")
        begun = collections.Counter(
            (item, words["begun"]) for (item, _), words in ran.items() if words.get("begun"))
        others = collections.Counter(item for item, name in begun if name != lost)
        again = {of: n for of, n in {**begun, **others}.items() if n > 1}
        if again:
            wrong.append(f"begun more than once: {again}")
        succeeded = collections.Counter()
        record = self.lab.guests["server"].do(
            f"cd /mnt/disk{self.path.removeprefix('/mnt/nfs')}/state/items && "
            "grep -aH '\"finished\"' *.jsonl || :")
        for line in record.split("\n"):
            if line:
                file, _, event = line.partition(":")
                try:
                    ended = json.loads(event).get("outcome") == "succeeded"
                except ValueError:
                    wrong.append(f"a damaged line in a record: {line[:200]}")
                    continue
                succeeded[file.removesuffix(".jsonl")] += ended
        twice = {item: n for item, n in succeeded.items() if n != 1}
        if twice or len(succeeded) != self.items:
            wrong.append(f"{len(succeeded)} have ended on record, not once: {twice}")
        left = self.lab.guests["server"].do(
            f"cd /mnt/disk{self.path.removeprefix('/mnt/nfs')} && "
            "find state/claims state/exclusive queue/claimed -type f ! -name .gitignore; "
            "find queue -name '*~'; find queue -name '*.tmp'")
        if left.strip():
            wrong.append(f"left behind: {left.split()}")
        return wrong

    def by_host(self):
        return dict(collections.Counter(words.get("begun") for words in self.ran().values()))


def race(lab):
    """The claim race."""
    tree = Tree(lab, "race", lab.opts.items, 0.05)
    begun = time.monotonic()
    runs = {name: tree.run(name) for name in ("one", "two")}
    wrong = []
    for name, of in runs.items():
        code, said = lab.guests[name].end(of)
        if code:
            wrong.append(f"{name} ended with {code}: {said[-1500:]}")
    seconds = time.monotonic() - begun
    by = tree.by_host()
    if set(by) != {"one", "two"}:
        wrong.append(f"only one took part: {by}")
    return wrong + tree.books(), f"{lab.opts.items} items, {by}, {seconds:.0f} s"


def at_work(guest, of, least):
    """Waits until this guest works on items, and has ended so many."""
    def is_so():
        said = guest.said(of)
        begun, ended = said.count("  started  "), said.count("  succeeded  ")
        return begun > ended >= least
    wait(is_so, f"{guest.name} is at work", DEADLINE)


def gone(lab, word, items, seconds, is_killed):
    """Guest `one` goes away at work, and comes back."""
    tree = Tree(lab, word, items, seconds)
    runs = {name: tree.run(name) for name in ("one", "two")}
    one, two = lab.guests["one"], lab.guests["two"]
    at_work(one, runs["one"], 0 if seconds > 1 else items // 6)
    left = time.monotonic()
    if is_killed:
        one.kill()
    else:
        one.do("ip link set eth0 down")
    wait(lambda: two.has_ended(runs["two"]) or "is given up" in two.said(runs["two"]),
         "two takes over", DEADLINE)
    taken = time.monotonic() - left
    if is_killed:
        lab.restart("one")
        one = lab.guests["one"]
    else:
        one.do("ip link set eth0 up")
    back = time.monotonic() - left
    told, wrong = "", []
    if not is_killed:
        code, said = one.end(runs["one"])
        told = f", its late process ended {time.monotonic() - left - back:.0f} s after"
        if code != 111 or "was given up by another host" not in said:
            wrong.append(f"the late one ended with {code}: {said[-1500:]}")
    code, said = two.end(runs["two"])
    ended = time.monotonic() - left
    if code or "is given up" not in said:
        wrong.append(f"two ended with {code}: {said[-1500:]}")
    code, said = one.end(tree.run("one"))
    if code:
        wrong.append(f"the run after it ended with {code}: {said[-1500:]}")
    return wrong + tree.books("one"), (
        f"{items} items, {tree.by_host()}; taken over after {taken:.0f} s, back after {back:.0f} s{told}, "
        f"all done after {ended:.0f} s")


SCENES = {
    "race": race,
    "killed": lambda lab: gone(lab, "killed", 8, 5, True),
    "cut": lambda lab: gone(lab, "cut", 8, 5, False),
    "killed-midway": lambda lab: gone(lab, "killed-midway", 60, 0.05, True),
    "cut-midway": lambda lab: gone(lab, "cut-midway", 60, 0.05, False),
}


def main():
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--bin", default=str(TOP / "target/debug/harness"))
    args.add_argument("--scene", default=",".join(SCENES), help=f"{', '.join(SCENES)}; one may come often")
    args.add_argument("--items", type=int, default=200)
    args.add_argument("--workers", type=int, default=2, help="of each client")
    args.add_argument("--lease", type=int, default=10, help="of the server, in seconds")
    args.add_argument("--options", default="vers=4.2", help="of the mount")
    args.add_argument("--keep", action="store_true")
    opts = args.parse_args()
    opts.bin = str(pathlib.Path(opts.bin).resolve())
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing or not os.path.isdir("/usr/lib/uml/modules"):
        print(f"nfs: SKIPPED, not installed: {', '.join(missing) or 'modules of user-mode Linux'}",
              file=sys.stderr)
        return 77
    # The guests end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    lab, found = None, 0
    try:
        lab = Lab(opts)
        print(f"three guests in {lab.took:.0f} s, lease {opts.lease} s", flush=True)
        for name in opts.scene.split(","):
            wrong, told = SCENES[name](lab)
            found += len(wrong)
            print(f"{name:13} {len(wrong)} findings; {told}", flush=True)
            for line in wrong:
                print(f"  FOUND {line}")
    finally:
        if lab:
            lab.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
