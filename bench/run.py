#!/usr/bin/env python3
"""Measures harness against the queues that this machine has, and against the least that a queue of
files can cost, interleaved; prints one table of medians and ratios.

    bench/run.py --floors                the ratios that must hold, pass or fail (about 14 minutes)
    bench/run.py [--only dispatch,…]     everything, or these parts of it

Peers are used where they are found in PATH: xargs, nq, tsp (task-spooler), parallel (`apt install nq
task-spooler parallel`), pueue (`cargo install pueue`), hq (HyperQueue).
Only ratios within one run mean anything. Exit code: 0 every floor holds, 1 one does not.
"""

import argparse
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import agents
import builds
import cluster
import merging
import rates
import scale
from lab import HERE, Lab, sh

SECTIONS = {
    f.__name__: f
    for f in (rates.dispatch, rates.latency, rates.contention, rates.confined, agents.recovery, agents.worktrees,
              agents.at_once, agents.efficiency, agents.chatty, merging.merging, builds.builds, cluster.cluster,
              scale.idle, scale.sessions, scale.flat, scale.top)
}
FLOORS = "dispatch,confined,latency,worktrees,efficiency,chatty,flat,top,merging"


def options():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--floors", action="store_true", help="only what a floor needs")
    args.add_argument("--only", help="parts of: " + ",".join(SECTIONS))
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--jobs", type=int, default=4000,
                      help="so many that starting and ending a process is little of it")
    args.add_argument("--million", type=int, default=1_000_000, help="items pending")
    args.add_argument("--sessions", type=int, default=100_000)
    args.add_argument("--files", type=int, default=20_000, help="in the repository")
    args.add_argument("--dir", help="where to work; a journaled file system, please. `loop`: as root, "
                      "a loop-mounted ext4, for machines whose own has no journal")
    args.add_argument("--json", action="store_true")
    return args.parse_args()


def build():
    """Builds what ships: harness alone, as `cargo install` does. Together with the examples it would
    have the features that only tests ask for; and this shell may have settings for quick builds."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("CARGO_PROFILE_")}
    for what in ("--examples", "--bin=harness"):
        sh("cargo", "build", "--release", "--quiet", what, cwd=HERE, env=env)


def main():
    opts = options()
    names = (opts.only or (FLOORS if opts.floors else ",".join(SECTIONS))).split(",")
    build()
    # PR_SET_CHILD_SUBREAPER
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    is_loop = opts.dir == "loop"
    work = pathlib.Path(tempfile.mkdtemp(prefix="harness-bench-", dir=None if is_loop else opts.dir))
    base = work
    try:
        if is_loop:
            base = work / "fs"
            base.mkdir()
            sh("truncate", "-s", "24G", work / "image")
            sh("mkfs.ext4", "-q", "-F", "-N", "3000000", work / "image")
            sh("mount", "-o", "loop", work / "image", base)
        lab = Lab(opts, base)
        for name in names:
            print(f"{name}:", file=sys.stderr)
            # What the part before left to be written is no cost of this one.
            os.sync()
            SECTIONS[name](lab)
    finally:
        if is_loop:
            subprocess.run(["umount", base], check=False)
        shutil.rmtree(work, ignore_errors=True)
    show(lab.rows, opts.json)
    return int(any(passed is False for *_, passed in lab.rows))


def show(rows, as_json):
    if as_json:
        print(json.dumps(rows))
        return
    print("| what | who | median | ratio | floor | |\n|---|---|---|---|---|---|")
    for what, who, value, unit, ratio, floor, passed in rows:
        shown = "" if ratio is None else f"{ratio:.2f}"
        verdict = {None: "", True: "pass", False: "**FAIL**"}[passed]
        print(f"| {what} | {who} | {value:,.2f} {unit} | {shown} | {floor} | {verdict} |")


if __name__ == "__main__":
    sys.exit(main())
