#!/usr/bin/env python3
"""What was acknowledged survives a power cut: cuts it, again and again, and looks.

A ROOT and a small git repository lie on a journaled file system in an image (ext4, xfs). The real
binary works there: `harness add` drops scripts one after the other, several workers do them, each
makes one commit. An ACK LOG outside the image says what anybody was told before the cut:

- add: `harness add NAME` ended with 0;
- done: NAME was seen in queue/done/, with the branch that the user's repository had at that moment.

Then the power goes off, all processes are killed, keepers included, and the image is mounted again,
which replays its journal. Three ways, each loses something else:

- 2, the shutdown ioctl of ext4 and xfs, NOLOGFLUSH: whatever was not committed to the journal is
  lost: finds a directory that was not synced after a rename;
- 1, the same ioctl, LOGFLUSH: the journal is written, file content not yet on disk is lost: finds a
  file that was not synced before its rename;
- snapshots: the image lies on xfs, and clones of it (FICLONE) are taken while the run goes on: each
  is the device at one moment, with everything that had reached it. The only way for btrfs.

The instant of an ioctl is taken in turn from `--instants`: while the k-th branch appears in the
user's repository and its item ends; at the k-th acknowledged add; at the k-th acknowledged done; at a
random time; at an add with no harness running (nobody else's sync helps). k and the times are random.
Where a time is (and for snapshots), the disk takes 10 ms more for each sync, so that most cuts fall
between two of them. Three cuts in four begin before harness has its copy of the repository.

What must hold of each:

- as the disk is: each acknowledged add is whole in exactly one of pending/, claimed/, done/, parked/;
- each acknowledged done has its `finished` line, a whole session.json and its branch, at the same
  commit; it is in done/ (or still in claimed/, where the rename that was seen came to nothing:
  nothing but that move is made up for afterwards, no second attempt);
- `git fsck` finds nothing in the user's repository and in harness's copy (but for the HEAD of a
  worktree there, which is thrown away), and HEAD, index and config of the user's are byte for byte
  as before;
- with `--into BRANCH` items are merged into it (`main` is checked out there): each `merged` line on the
  disk is true of the branch, and each acknowledged done has one;
- then one `harness run --drain` ends with 0, each item is in done/ once, with one branch that holds
  its work, and `git fsck` finds nothing again.

Needs root, loop devices, mkfs.ext4 or mkfs.xfs; where something is missing it says SKIPPED and ends
with 0. Everything lies in one temporary directory, mounted in a namespace of its own where
`unshare` can, so that nothing stays mounted however this ends.

    python3 tests/powercut [--bin target/release/harness] [--cuts 30] [--fs ext4,xfs]
        [--ways 2,1,snapshots] [--into BRANCH] [--instants add,done,publish,time,quiet] [--seed N]
        [--mutant none|no-fsync|no-dir-fsync] [--keep DIR] [--fail-fast] [--json] [-v]

`--mutant` preloads a library that makes fsync of everything, or of directories alone, a success
that does nothing, in harness and in git: both must lead to findings. The slow disk is such a library,
too, and needs `cc`.

Exit code: 0 nothing found, 1 at least one finding (`--keep DIR`: its image).
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, namedtuple

# What both long proofs use lies beside their folders.
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

import cut
from lab import ITEMS, MKFS, Lab

INSTANTS = ("publish", "add", "done", "time", "quiet")
# An instant: of what, the how manieth, after how long where it is a time, and how much later.
Plan = namedtuple("Plan", "instant k horizon delay")
# Of one run; a run lasts for a second or two.
SNAPSHOTS_A_RUN = 10


def skip(why):
    print(f"powercut: SKIPPED: {why}", flush=True)


def missing():
    if os.geteuid() != 0:
        return "it mounts images, which needs root"
    for tool in ("losetup", "mount", "umount", "git"):
        if not shutil.which(tool):
            return f"{tool} is missing"
    return None


def main():
    here = pathlib.Path(__file__).resolve().parent.parent.parent
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    args.add_argument("--bin", default=str(here / "target/release/harness"))
    args.add_argument("--cuts", type=int, default=30, help="for each file system and way")
    args.add_argument("--fs", default="ext4,xfs")
    args.add_argument("--ways", default="2,1,snapshots")
    args.add_argument("--instants", default=",".join(INSTANTS))
    args.add_argument("--into", default="", help="merge into this branch, as `main` or `integration`")
    args.add_argument("--seed", type=int, default=None)
    args.add_argument("--mutant", default="none", choices=["none", "no-fsync", "no-dir-fsync"])
    args.add_argument("--keep", metavar="DIR")
    args.add_argument("--fail-fast", action="store_true", help="end at the first finding")
    args.add_argument("--json", action="store_true")
    args.add_argument("-v", "--verbose", action="store_true")
    opts = args.parse_args()
    unknown = set(opts.fs.split(",")) - set(MKFS)
    if unknown:
        args.error(f"no such file system: {unknown}")
    if unknown := set(opts.instants.split(",")) - set(INSTANTS):
        args.error(f"no such instant: {unknown}")
    if unknown := set(opts.ways.split(",")) - {"1", "2", "snapshots"}:
        args.error(f"no such way: {unknown}")
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
    total, groups, skipped, findings = Counter(), {}, [], []
    for fs, way in ((fs, way) for fs in opts.fs.split(",") for way in opts.ways.split(",")):
        if why := cut.why_not(lab, fs, way):
            skip(f"{fs}, {way}: {why}")
            skipped.append(f"{fs}, {way}: {why}")
            continue
        group = groups.setdefault(f"{fs}, {way}", Counter())
        for where, acks, found, unmoved in cuts(lab, opts, dice, fs, way):
            counts = Counter(cuts=1, adds=len(acks.adds), dones=len(acks.dones),
                             unmoved=unmoved, cuts_with_findings=int(any(found.values())),
                             **{kind: len(lines) for kind, lines in found.items()})
            total.update(counts)
            group.update(counts)
            where = f"{fs}, {way}, {where}"
            if any(found.values()):
                findings.append({"cut": where, **found})
                print(f"{where}: FOUND", flush=True)
                for kind, lines in found.items():
                    for line in lines:
                        print(f"    {kind}: {line}", flush=True)
            elif opts.verbose:
                print(f"{where}: {len(acks.adds)} adds, {len(acks.dones)} dones, all there",
                      flush=True)
            if findings and opts.fail_fast:
                break
        if findings and opts.fail_fast:
            break
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


def cuts(lab, opts, dice, fs, way):
    """Makes the cuts of one file system and one way."""
    # `first.sh` is done in the warm one: a new beginning, and one in full swing.
    templates = [lab.template(fs, warm) for warm in (False, False, False, True)]
    instants = opts.instants.split(",")
    n = 0
    while n < opts.cuts:
        label = f"{fs}-{way}-{n}"
        if way == "snapshots":
            template = templates[n // SNAPSHOTS_A_RUN % len(templates)]
            count = min(SNAPSHOTS_A_RUN, opts.cuts - n)
            taken = cut.by_snapshots(lab, fs, count, dice, template, label)
            for number, (acks, found, unmoved) in enumerate(taken):
                yield f"cut {n + number}, {template.stem}", acks, found, unmoved
            n += count
            continue
        template = templates[n // len(instants) % len(templates)]
        plan = Plan(instants[n % len(instants)], dice.randint(1, ITEMS), dice.uniform(0.02, 2.5),
                    dice.uniform(0, 0.12))
        when = f"{plan.horizon:.3f} s" if plan.instant == "time" else f"{plan.instant} {plan.k}"
        yield f"cut {n} at {when}, {template.stem}", *cut.by_ioctl(
            lab, fs, int(way), plan, template, label)
        n += 1


if __name__ == "__main__":
    sys.exit(main())
