#!/usr/bin/env python3
"""Stops one node of a cluster after every call that leaves something behind, has another node take over
what it had, and wakes it again: nothing may be lost, done twice or published twice.

The nodes are two processes with the environment of two jobs; a file `state/agents/agent-1/lost` says
that the first is gone. Each has a folder of its own for worktrees (`--local`).

    python3 tests/sweep/paused.py [--mode plain,git] [--role slot,command,pulse] [--slice K[+OFFSET]]
        [--jobs 2] [-v]

Exit code: 0 nothing found, 1 at least one finding (its ROOT is kept and named), 2 not possible here.
"""

import argparse
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

from root import Root
from tracer import SUPPORTED, Point

ROLES = ("slot", "command", "pulse")
# One that stands still may hold the lock of a repository: others wait for it. It wakes then.
WAKES_AFTER = 15


def on(r, node):
    """From here on ROOT is used from this node; the arguments of a run there."""
    r.env = {"SLURM_JOB_ID": str(node), "SLURM_CLUSTER_NAME": "c", "SLURMD_NODENAME": f"n{node}"}
    return ["run", "--drain", "--workers", "1", "--local", str(r.base / f"disk-{node}")]


def signal_all(pids, which):
    for pid in pids:
        try:
            os.kill(pid, which)
        except ProcessLookupError:
            pass


def takes_over(r):
    """Another node works until nothing is left, while the first stands still."""
    frozen = [pid for pid, _ in r.processes()]
    signal_all(frozen, signal.SIGSTOP)
    slot = r.path / "state/agents/agent-1"
    if slot.is_dir():
        (slot / "lost").touch()
    log = open(r.base / "other.log", "w")
    other = subprocess.Popen(r.command(*on(r, 2)), stdout=log, stderr=log,
                             stdin=subprocess.DEVNULL, env={**os.environ, **r.env})
    try:
        other.wait(timeout=WAKES_AFTER)
    except subprocess.TimeoutExpired:
        pass
    signal_all(frozen, signal.SIGCONT)
    return other


def once(opts, mode, point):
    r, wrong, hit = Root(opts, mode), [], None
    try:
        args = on(r, 1)
        r.script("x", "echo work >f-$HARNESS_ITEM", "#harness exclusive: key")
        r.trace(point, args)
        mark = r.base / "traced.log.hit"
        while not mark.exists() and not r.is_over():
            time.sleep(0.002)
        other = takes_over(r) if mark.exists() else None
        seen = r.traced_end()
        hit = seen["hit"]
        if seen.get("trouble"):
            wrong.append(seen["trouble"])
        if other and other.wait(timeout=45) not in (0, 1):
            wrong.append(f"the other node ended with {other.returncode}")
        if seen["code"] not in (0, 1, 111):
            wrong.append(f"the late one ended with {seen['code']}")
        on(r, 2)
        after = r.drain()
        (r.base / "after.log").write_text(after.stdout + after.stderr)
        wrong += judge(r, hit)
    except (subprocess.TimeoutExpired, TimeoutError) as e:
        wrong.append(f"hangs: {e}")
    except Exception:
        import traceback

        wrong.append(f"the run itself failed: {traceback.format_exc()}")
    r.end(keep=bool(wrong) or opts.keep)
    return hit, [str(r.base), *wrong] if wrong else []


def judge(r, hit):
    wrong = []
    at, begun = r.places("x"), r.ran("begin", "x")
    tale = f"begun {begun}; {[(e['event'], e.get('session')) for e in r.events('x')]}"
    if at != ["done"]:
        wrong.append(f"x is in {at}; {tale}")
    if len(begun) > 2 or len(begun) != len(set(begun)):
        wrong.append(f"x began {len(begun)} times; {tale}")
    if r.mode == "git" and len(r.published("x")) != 1:
        wrong.append(f"published as {r.published('x')}; {tale}")
    books = r.books()
    if hit and "/state/ledger/" in hit:
        # It stood still between the look whether its slot was given up and its line, and counts twice.
        books = [line for line in books if "counts a session twice" not in line]
    return wrong + books


def sweep(job):
    opts, mode, role = job
    hits, findings, n = 0, [], opts.offset
    while True:
        hit, wrong = once(opts, mode, Point(role, n, pause=True))
        if not hit:
            break
        hits += 1
        if wrong:
            findings.append((f"{mode} {role} {n}: {hit}", wrong))
        if opts.verbose:
            print(f"{mode} {role} {n}: {hit}{' WRONG' if wrong else ''}", flush=True)
        n += opts.step
    return job[1:], hits, findings


def main():
    here = pathlib.Path(__file__).resolve().parent.parent.parent
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--bin", default=str(here / "target/debug/harness"))
    args.add_argument("--mode", default="plain,git")
    args.add_argument("--role", default=",".join(ROLES))
    args.add_argument("--slice", default="1")
    args.add_argument("--jobs", type=int, default=2)
    args.add_argument("--dir", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    args.add_argument("--keep", action="store_true")
    args.add_argument("-v", "--verbose", action="store_true")
    opts = args.parse_args()
    opts.bin = str(pathlib.Path(opts.bin).resolve())
    step, _, offset = opts.slice.partition("+")
    opts.step, opts.offset = int(step), int(offset or 1)
    if not SUPPORTED:
        print("paused: SKIPPED, the tracer knows Linux on x86_64 only", file=sys.stderr)
        return 2
    jobs = [(opts, mode, role) for mode in opts.mode.split(",") for role in opts.role.split(",")]
    begun, points, found = time.monotonic(), 0, 0
    with multiprocessing.Pool(opts.jobs) as pool:
        for (mode, role), hits, findings in pool.imap_unordered(sweep, jobs, 1):
            points += hits
            found += len(findings)
            print(f"{mode:6} {role:8} {hits:5} points", flush=True)
            for where, (root, *wrong) in findings:
                print(f"  FOUND {where}\n    {root}")
                for line in wrong:
                    print(f"    {line[:1500]}")
    print(f"{points} points, {found} findings, {time.monotonic() - begun:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
