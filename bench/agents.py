"""With agents at work: death and recovery, worktrees, and what waiting for agents costs."""

import shutil
import time

from lab import (CHATTY, HARNESS, STAMPED, Cost, Inotify, began, children_of, cpu_of, drop, fill,
                 harness, median, percentile, recorded, sh, stop, until)


def recovery(lab):
    """`kill -9` of a harness; until another process looks at its slot (it has noticed), and until it
    has its item in hand (`adopted`). Seen by inotify: whoever reads /proc/locks holds up every
    `flock` for milliseconds."""
    noticed, adopted = [], []
    for _ in range(lab.opts.rounds * 4):
        root = lab.root()
        drop(root, "job", b"#!/bin/sh\nsleep 30\n")
        first = harness(root, "--workers", 1)
        until("it is started", lambda: recorded(root, "started"))
        second = harness(root, "--workers", 1)
        # Past the looks that follow its own start.
        time.sleep(4)
        watch = Inotify()
        slot = watch.add(root / "state/agents/agent-1", Inotify.OPEN)
        written = watch.add(root / "state/items/job.jsonl", Inotify.MODIFY)
        killed = time.monotonic()
        first.kill()
        noticed.append((watch.wait(slot, "lease") - killed) * 1e3)
        adopted.append((watch.wait(written, "") - killed) * 1e3)
        watch.close()
        assert recorded(root, "adopted")
        first.wait()
        stop(second)
        lab.clear()
    for p in (50, 99):
        lab.row(f"kill -9 to noticed, p{p}", "harness", percentile(noticed, p), "ms")
        lab.row(f"kill -9 to adopted, p{p}", "harness", percentile(adopted, p), "ms")


def make_repo(lab):
    """A repository of so many files, in folders of a hundred."""
    repo = lab.fresh("repo")
    sh("git", "init", "-q", "-b", "main", repo)
    for n in range(lab.opts.files):
        path = repo / f"d{n // 100:03}" / f"f{n % 100:02}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"file {n}\n" * 20)
    me = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    sh("git", "-C", repo, "add", ".")
    # Packed, as a repository of that size is: the commit would have git do it in the background,
    # between two measurements.
    sh("git", "-C", repo, "-c", "gc.auto=0", *me, "commit", "-q", "-m", "one")
    sh("git", "-C", repo, "repack", "-adq")
    sh("git", "-C", repo, "prune-packed")
    return repo


def worktrees(lab):
    """From the drop of an item to its first instruction in its worktree."""
    repo = make_repo(lab)
    first, warm, git = [], [], []
    for _ in range(lab.opts.rounds):
        tree = lab.base / "root-tree"
        begun = time.monotonic()
        sh("git", "-C", repo, "worktree", "add", "--quiet", "--detach", tree)
        git.append(time.monotonic() - begun)
        sh("git", "-C", repo, "worktree", "remove", "--force", tree)
        root = lab.root(repo=repo)
        run = harness(root, "--workers", 1)
        times = []
        for name in ("i0", "i1", "i2", "i3"):
            dropped = drop(root, name, STAMPED + b"echo x > made-$HARNESS_ITEM\n")
            until(name, (root / "queue/done" / name).exists, 120)
            times.append((began(root, name) - dropped) / 1e9)
        stop(run)
        first.append(times[0])
        warm += times[1:]
        shutil.rmtree(root, ignore_errors=True)
    what, git = f"worktree of {lab.opts.files:,} files", median(git)
    lab.row(what, "git worktree add", git * 1e3, "ms")
    lab.row(what, "harness, first, with copy", median(first) * 1e3, "ms", git / median(first))
    lab.row(what, "harness, warm", median(warm) * 1e3, "ms", git / median(warm), at_least=5)
    lab.clear()


def at_once(lab):
    """The first worktrees of so many slots: all at once, and one after the other."""
    count, repo, took = 16, make_repo(lab), {}
    body = STAMPED + b"while [ ! -e $HARNESS_ROOT/go ]; do sleep 0.5; done\n"
    for way in ("one after the other", "at once"):
        root = lab.root(repo=repo)
        run = harness(root, "--drain", "--workers", count + 1)
        # harness's copy of the repository is made with the first one, and not measured.
        drop(root, "i0", body)
        until("the first one", lambda: began(root, "i0"), 300)
        names = [f"i{n}" for n in range(1, count + 1)]
        start = time.monotonic()
        for name in names:
            drop(root, name, body)
            if way != "at once":
                until(name, lambda: began(root, name), 300)
        until("all", lambda: all(began(root, name) for name in names), 600)
        took[way] = time.monotonic() - start
        (root / "go").write_text("")
        run.wait()
        shutil.rmtree(root, ignore_errors=True)
    one = took["one after the other"]
    for way, seconds in took.items():
        lab.row(f"{count} worktrees of {lab.opts.files:,} files", way, seconds, "s", one / seconds)
    lab.clear()


def efficiency(lab):
    """Agents of two seconds, so many at once, one after the other in each slot. Two rounds of them show
    what it takes to begin with nothing, five what it takes to go on."""
    all = [(64, 5, 0.95)]
    if not lab.floors_only:
        all = [(3, 2, None), (5, 2, None), (64, 2, None), *all]
    for agents, rounds, floor in all:
        root = lab.root()
        fill(root / "queue/pending", agents * rounds, b"#!/bin/sh\nsleep 2\n")
        with Cost() as cost:
            sh(HARNESS, "--root", root, "run", "--drain", "--workers", agents)
        what = f"{agents} agents of 2 s, {rounds} times"
        lab.row(what, "harness", cost.wall, "s", rounds * 2 / cost.wall, at_least=floor)
        if not lab.floors_only:
            files = sorted((root / "queue/done").iterdir())
            with Cost() as cost:
                sh("xargs", "-n1", f"-P{agents}", "sh", input="\n".join(map(str, files)))
            lab.row(what, "xargs -P", cost.wall, "s", rounds * 2 / cost.wall)
        lab.clear()


def chatty(lab):
    """64 agents that print 100 events a second each: what reading them costs."""
    agents, rate, span = 64, 100, 20
    command = f'[agents.chatty]\ncommand = ["{CHATTY}", "{span + 10}", "{rate}"]\nevents = "claude"'
    root = lab.root(more=command)
    fill(root / "queue/pending", agents, b"---\nagent: chatty\n---\ntalk\n", ending=".md")
    run = harness(root, "--drain", "--workers", agents)
    until("all agents run", lambda: recorded(root, "started") == agents)
    time.sleep(1)
    family = {run.pid, *children_of(run.pid)}
    before = {pid: cpu_of(pid) for pid in family}
    time.sleep(span)
    used = {pid: (cpu_of(pid) - before[pid]) / span * 100 for pid in family}
    run.wait()
    assert recorded(root, "finished") == agents
    what = f"{agents} agents, {rate} events/s each"
    lab.row(what, "harness itself", used[run.pid], "% of a core")
    lab.row(what, "with its keepers", sum(used.values()), "% of a core", at_most=3)
    lab.clear()
