#!/usr/bin/env python3
"""Measures harness against the queues that this machine has, and against the least that a queue of
files can cost, interleaved, and prints one table of medians and ratios.

    bench/run.py [--only dispatch,latency,…] [--rounds 5] [--jobs 4000] [--million 1000000]
                 [--sessions 100000] [--files 20000] [--dir DIR] [--json]

`--jobs`: so many that starting and ending a process is little of it.
Peers are used where they are found in PATH: xargs, nq, tsp (task-spooler), parallel (`apt install nq
task-spooler parallel`), pueue (`cargo install pueue`), hq (HyperQueue).
`--dir`: where to work; a journaled file system, please (`--dir loop`: as root, a loop-mounted ext4,
for machines whose own has no journal). Only ratios within one run mean anything.
"""

import argparse
import ctypes
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import agents
import rates
import scale
from lab import HERE, Lab, sh

SECTIONS = {
    f.__name__: f
    for f in (rates.dispatch, rates.latency, rates.contention, rates.parsing, agents.recovery,
              agents.worktrees, agents.at_once, agents.efficiency, scale.chatty, scale.idle,
              scale.sessions, scale.flat)
}


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--only", default=",".join(SECTIONS))
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--jobs", type=int, default=4000)
    args.add_argument("--million", type=int, default=1_000_000)
    args.add_argument("--sessions", type=int, default=100_000)
    args.add_argument("--files", type=int, default=20_000)
    args.add_argument("--dir", default=None)
    args.add_argument("--json", action="store_true")
    opts = args.parse_args()
    sh("cargo", "build", "--release", "--quiet", "--bin", "harness", "--examples", cwd=HERE)
    # PR_SET_CHILD_SUBREAPER
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    work = pathlib.Path(tempfile.mkdtemp(prefix="harness-bench-", dir=None if opts.dir == "loop" else opts.dir))
    try:
        if opts.dir == "loop":
            sh("truncate", "-s", "24G", work / "image")
            sh("mkfs.ext4", "-q", "-F", "-N", "3000000", work / "image")
            (work / "fs").mkdir()
            sh("mount", "-o", "loop", work / "image", work / "fs")
        base = work / "fs" if opts.dir == "loop" else work
        lab = Lab(opts, base)
        for name in opts.only.split(","):
            print(f"{name}:", file=sys.stderr)
            SECTIONS[name](lab)
    finally:
        if opts.dir == "loop":
            subprocess.run(["umount", work / "fs"], check=False)
        shutil.rmtree(work, ignore_errors=True)
    if opts.json:
        print(json.dumps(lab.rows))
        return
    print("| what | who | median | ratio | goal |\n|---|---|---|---|---|")
    for what, who, value, unit, ratio, goal in lab.rows:
        shown = "" if ratio is None else f"{ratio:.2f}"
        print(f"| {what} | {who} | {value:,.2f} {unit} | {shown} | {goal or ''} |")


if __name__ == "__main__":
    main()
