"""Merging finished branches, against one process that checks out, merges and commits."""

import os
import time

from agents import make_repo
from lab import fill, harness, median, recorded, sh

ITEM = b"#!/bin/sh\necho work >made-$HARNESS_ITEM\n"
# Seconds that a gate takes.
GATE = 2
BRANCHES, GATED, ONE_BY_ONE = 128, 63, 6
CONFIG = """[integrate]
mode = "review"
into = "main"
batch = {batch}
"""


def gate(seconds):
    return f'[gates.test]\nwhen = ["merge"]\nscript = "sleep {seconds}"\n' if seconds else ""


def by_harness(lab, repo, prefix, count, batch, seconds):
    """Seconds until so many approved branches are merged, and the branches."""
    root = lab.root(repo=repo, more=CONFIG.format(batch=batch) + gate(seconds))
    fill(root / "queue/pending", count, ITEM, prefix)
    assert harness(root, "--drain", "--workers", 2).wait() == 0
    names = sorted(p.name for p in (root / "queue/review").iterdir() if p.name.startswith(prefix))
    assert len(names) == count, names
    for name in names:
        (root / "queue/review" / name).rename(root / "queue/merge" / name)
    os.sync()
    begun = time.monotonic()
    run = harness(root, "--drain", "--workers", 1)
    assert run.wait() == 0
    took = time.monotonic() - begun
    assert recorded(root, "merged") == count
    return took, [f"harness/{name}/1" for name in names]


def by_one_process(lab, repo, branches, seconds):
    """The same by a process of git alone: in a worktree, one after the other."""
    tree = lab.fresh("repo-merging")
    git = ["git", "-C", tree, "-c", "gc.auto=0", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    sh("git", "-C", repo, "worktree", "add", "--quiet", "--detach", tree, "main")
    begun = time.monotonic()
    for branch in branches:
        sh(*git, "checkout", "--quiet", "--detach", "main")
        sh(*git, "merge", "--quiet", "--no-ff", "-m", f"Merge {branch}", branch)
        sh("sleep", seconds)
        sh(*git, "update-ref", "refs/heads/main", "HEAD", sh(*git, "rev-parse", "main").stdout.strip())
    took = time.monotonic() - begun
    sh("git", "-C", repo, "worktree", "remove", "--force", tree)
    return took


def merging(lab):
    repo = make_repo(lab)
    start = sh("git", "-C", repo, "rev-parse", "main").stdout.strip()
    sh("git", "-C", repo, "checkout", "--quiet", "-b", "elsewhere")
    back = lambda: sh("git", "-C", repo, "update-ref", "refs/heads/main", start)
    ours, theirs = [], []
    for n in range(lab.opts.rounds):
        took, branches = by_harness(lab, repo, f"r{n}", BRANCHES, 8, 0)
        ours.append(BRANCHES / took)
        back()
        theirs.append(BRANCHES / by_one_process(lab, repo, branches, 0))
        back()
    what = f"merges/s, {lab.opts.files:,} files, no gates"
    lab.row(what, "one process of git", median(theirs), "/s")
    lab.row(what, "harness", median(ours), "/s", median(ours) / median(theirs), at_least=5)
    # The gates sleep: one round tells.
    took, branches = by_harness(lab, repo, "g", GATED, 8, GATE)
    back()
    alone = by_one_process(lab, repo, branches[:ONE_BY_ONE], GATE)
    back()
    ours, theirs = GATED / took * 3600, ONE_BY_ONE / alone * 3600
    what = f"landings/h, gates of {GATE} s"
    lab.row(what, "one process of git", theirs, "/h")
    lab.row(what, "harness, batches of 8", ours, "/h", ours / theirs, at_least=5)
