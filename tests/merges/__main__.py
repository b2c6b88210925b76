#!/usr/bin/env python3
"""Sixteen processes merge four hundred branches into one base, and are killed meanwhile.

harness itself makes the branches. Of each twenty one is red, one flaky, one conflicts with what a
person has committed since, one was moved by a person after it was finished, two conflict with each
other, two are red only together; the others are good. Then all are approved (`mv` to merge/), a few
at a time, while

- the processes, each with one worker, merge them, with a gate that writes the tree that it really saw
  and its verdict into a journal;
- they are killed (`kill -9`) at random, and right after the base has moved, before that is on record;
  rarely a gate is;
- a person commits onto the base, in the checkout while it is checked out there, as a push does
  otherwise, and switches branches.

What must hold:

- each value that the base ever had (its reflog) contains the one before it, has all files that any
  earlier one had, and was gated green as that tree, or is a commit of the person's;
- each red branch is parked as `gate_failed`, each that conflicts as `conflict` with its file, each
  whose branch has moved is back in review/; of each two that do not go together one has landed; all
  others have landed, once, and their record has the commit that it was;
- `git fsck` finds nothing, the person's checkout is as committed, nothing is left in the queue.

    python3 tests/merges [--bin target/debug/harness] [--processes 16] [--branches 400]
        [--how merge,squash,rebase] [--seed N] [--seconds 900] [--keep] [-v]

Exit code: 0 nothing found, 1 at least one finding.
"""

import argparse
import pathlib
import random
import sys
import time

# What both long proofs use lies beside their folders.
sys.path.insert(1, str(pathlib.Path(__file__).resolve().parent.parent))

from books import Books
from lab import Lab
from people import Killer, Person


def approve(lab, dice, stop):
    """Moves what waits in review/ to merge/, a few at a time."""
    names = list(lab.kinds)
    dice.shuffle(names)
    while names and time.monotonic() < stop:
        for name in names[:dice.randrange(1, 12)]:
            names.remove(name)
            (lab.queue / "review" / name).rename(lab.queue / "merge" / name)
        time.sleep(dice.uniform(0, 0.3))


def prepare(lab, person):
    """What people do between the end of an attempt and the approval."""
    for name, kind in lab.kinds.items():
        branch = f"harness/{name}/1"
        if kind == "moved":
            tree = lab.line("rev-parse", f"{branch}^{{tree}}")
            lab.line("update-ref", f"refs/heads/{branch}",
                     lab.line("commit-tree", tree, "-p", branch, "-m", "not looked at"))
        if kind == "fixed":
            path = lab.repo / "fixed" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("of the base\n")
    lab.git("add", ".")
    lab.git("commit", "-q", "--allow-empty", "-m", "of a person: before all")
    person.commits.append(lab.line("rev-parse", "main"))


def one(opts, how, seed):
    dice = random.Random(seed)
    opts.how = how
    begun = time.monotonic()
    lab = Lab(opts, dice)
    person, killer = Person(lab, dice.random()), Killer(lab, dice.random())
    lab.make_branches()
    prepare(lab, person)
    made = time.monotonic()
    for _ in range(opts.processes):
        lab.start()
    person.start()
    killer.start()
    stop = made + opts.seconds
    approve(lab, dice, stop)
    while busy(lab) and time.monotonic() < stop - opts.seconds / 3:
        time.sleep(0.1)
    for helper in (killer, person):
        helper.over.set()
        helper.join()
    # In case that something only gets nowhere while it is disturbed.
    while busy(lab) and time.monotonic() < stop:
        time.sleep(0.1)
    merged = time.monotonic()
    late = sorted(busy(lab))
    lab.stop()
    drained = lab.harness("run", "--drain")
    books = Books(lab, person)
    if late:
        books.wrong(f"not ended after {opts.seconds} s: {late[:5]} and so on")
    if drained.returncode not in (0, 1):
        books.wrong(f"run --drain ends with {drained.returncode}: {drained.stderr[-500:]}")
    for helper in (killer, person):
        if helper.trouble:
            books.wrong(f"{type(helper).__name__}: {helper.trouble}")
    findings = books.check()
    log = (lab.dir / "run.log").read_text(errors="replace")
    if "panicked" in log:
        findings.append("a harness panicked: " + log[log.index("panicked") - 200:][:600])
    kills = killer.at_random + killer.at_landing
    print(f"{how}: {len(lab.kinds)} branches, {opts.processes} processes, {kills} kills of a harness "
          f"({killer.at_landing} right after a landing), {killer.of_keepers} of a gate; "
          f"{len(person.commits)} commits of a person; {len(books.done)} landed, "
          f"{len(books.parked)} parked, {len(books.review)} back in review; {books.tips} tips; "
          f"{sum(books.runs.values())} gate runs ({books.runs['green']} green); "
          f"{made - begun:.0f} s to make them, {merged - made:.0f} s to merge, "
          f"{time.monotonic() - merged:.0f} s to look; seed {seed}")
    for finding in findings[: None if opts.verbose else 20]:
        print(f"  FINDING: {finding}")
    if findings and (opts.keep or opts.verbose):
        print(f"  {lab.dir}")
        print("    " + "\n    ".join(log.splitlines()[-40:]))
    lab.close()
    sys.stdout.flush()
    return len(findings)


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--bin", type=pathlib.Path, default="target/debug/harness")
    args.add_argument("--processes", type=int, default=16)
    args.add_argument("--branches", type=int, default=400)
    args.add_argument("--how", default="merge")
    args.add_argument("--seed", type=int, default=random.randrange(10**6))
    args.add_argument("--seconds", type=float, default=900, help="for the merging")
    args.add_argument("--every", type=float, default=1, help="seconds between two kills at random")
    args.add_argument("--at-landing", type=float, default=0.2, help="of the landings")
    args.add_argument("--keepers", type=float, default=0.03, help="of the kills")
    args.add_argument("--keep", action="store_true")
    args.add_argument("-v", "--verbose", action="store_true")
    opts = args.parse_args()
    opts.bin = opts.bin.resolve()
    found = [one(opts, how, opts.seed) for how in opts.how.split(",")]
    return 1 if any(found) else 0


def busy(lab):
    return [name for place in ("pending", "claimed", "merge") for name in lab.names(place)]


if __name__ == "__main__":
    sys.exit(main())
