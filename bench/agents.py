"""With agents at work: death and recovery, worktrees, and what waiting for agents costs."""

import shutil
import subprocess
import time

from lab import HARNESS, QUIET, STAMP, Cost, Inotify, median, percentile, sh, until


def recovery(lab):
    """kill -9 of a harness; until another process looks at its slot (it has noticed), and until it
    has its item in hand (`adopted`). Seen by inotify: whoever reads /proc/locks holds up every
    `flock` for milliseconds."""
    noticed, took = [], []
    for _ in range(lab.opts.rounds * 4):
        root = lab.root()
        item = root / "queue/pending/job"
        item.with_name(".t").write_text("#!/bin/sh\nsleep 30\n")
        item.with_name(".t").chmod(0o755)
        item.with_name(".t").rename(item)
        run = [HARNESS, "--root", root, "run", "--workers", "1"]
        first = subprocess.Popen(run, **QUIET)
        record = root / "state/items/job.jsonl"
        until("started", lambda: record.exists() and '"event":"started"' in record.read_text())
        second = subprocess.Popen(run, **QUIET)
        # Past the looks that follow its own start.
        time.sleep(4)
        watch = Inotify()
        slot = watch.add(root / "state/agents/agent-1", Inotify.OPEN)
        written = watch.add(record, Inotify.MODIFY)
        killed = time.monotonic()
        first.kill()
        noticed.append((watch.wait(slot, "lease") - killed) * 1e3)
        took.append((watch.wait(written, "") - killed) * 1e3)
        watch.close()
        assert '"event":"adopted"' in record.read_text()
        first.wait()
        second.terminate()
        second.wait()
        lab.drop_all()
    lab.row("kill -9 to noticed, p50", "harness", percentile(noticed, 50), "ms", None, "< 2 ms")
    lab.row("kill -9 to noticed, p99", "harness", percentile(noticed, 99), "ms")
    lab.row("kill -9 to adopted, p50", "harness", percentile(took, 50), "ms", None, "≤ 20 ms")
    lab.row("kill -9 to adopted, p99", "harness", percentile(took, 99), "ms")


def make_repo(lab, files):
    """A repository of so many files, in folders of a hundred."""
    repo = lab.fresh("repo")
    sh("git", "init", "-q", "-b", "main", repo)
    for n in range(files):
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
    """From claim to a ready worktree: what a script that prints the clock says, less its claim."""
    files = lab.opts.files
    repo = make_repo(lab, files)
    first, warm, git = [], [], []
    for _ in range(lab.opts.rounds):
        begun = time.monotonic()
        lab.n += 1
        tree = lab.base / f"root-tree-{lab.n}"
        sh("git", "-C", repo, "worktree", "add", "--quiet", "--detach", tree)
        git.append(time.monotonic() - begun)
        sh("git", "-C", repo, "worktree", "remove", "--force", tree)
        root = lab.root(repo=repo)
        # The copy of the repository is made once for a ROOT and is not what is measured.
        times = []
        body = b"#!/bin/sh\n" + str(STAMP).encode() + b" > $HARNESS_ROOT/at-$HARNESS_ITEM\necho x > made-$HARNESS_ITEM\n"
        run = subprocess.Popen([HARNESS, "--root", root, "run", "--workers", "1"],
                               **QUIET)
        for n in range(4):
            name = f"i{n}"
            temp = root / "queue" / f".{name}"
            temp.write_bytes(body)
            temp.chmod(0o755)
            dropped = time.monotonic_ns()
            temp.rename(root / "queue/pending" / name)
            while not (root / "queue/done" / name).exists():
                time.sleep(0.005)
            times.append((int((root / f"at-{name}").read_text()) - dropped) / 1e9)
        run.terminate()
        run.wait()
        first.append(times[0])
        warm += times[1:]
        for path in lab.base.glob("root-*"):
            shutil.rmtree(path, ignore_errors=True)
    what = f"worktree of {files:,} files"
    lab.row(what, "git worktree add", median(git) * 1e3, "ms")
    lab.row(what, "harness, first (with its copy)", median(first) * 1e3, "ms", median(git) / median(first),
            "as fast as git")
    lab.row(what, "harness, warm", median(warm) * 1e3, "ms", median(git) / median(warm),
            "≥ 10 × faster")
    lab.drop_all()


def efficiency(lab):
    """Agents of two seconds, so many at once, one after the other in each slot. Two rounds of them show
    what it takes to begin with nothing, five what it takes to go on."""
    for agents, rounds, goal in ((3, 2, "≥ 0.98"), (5, 2, "≥ 0.98"), (64, 2, None), (64, 5, "≥ 0.98")):
        root = lab.root()
        lab.fill(root / "in", agents * rounds, b"#!/bin/sh\nsleep 2\n")
        for path in (root / "in").iterdir():
            path.rename(root / "queue/pending" / path.name)
        with Cost() as cost:
            sh(HARNESS, "--root", root, "run", "--drain", "--workers", agents)
        what = f"{agents} agents of 2 s, {rounds} times"
        lab.row(what, "harness", cost.wall, "s", rounds * 2 / cost.wall, goal)
        files = sorted((root / "queue/done").iterdir())
        begun = time.monotonic()
        sh("xargs", "-n1", f"-P{agents}", "sh", input="\n".join(map(str, files)))
        wall = time.monotonic() - begun
        lab.row(what, "xargs -P", wall, "s", rounds * 2 / wall)
        lab.drop_all()


def at_once(lab):
    """The first worktrees of so many slots: all at once, and one after the other."""
    count, repo = 16, make_repo(lab, lab.opts.files)
    body = b"#!/bin/sh\n" + str(STAMP).encode() + b" > $HARNESS_ROOT/at-$HARNESS_ITEM\nwhile [ ! -e $HARNESS_ROOT/go ]; do sleep 0.5; done\n"
    took = {}
    for way in ("one after the other", "at once"):
        root = lab.root(repo=repo)
        lab.fill(root / "in", count + 1, body)
        files = sorted((root / "in").iterdir())

        def drop(file):
            file.rename(root / "queue/pending" / file.name)

        def begun(file):
            at = root / f"at-{file.name}"
            return at.exists() and at.read_text().endswith("\n")

        run = subprocess.Popen(
            [HARNESS, "--root", root, "run", "--drain", "--workers", str(count + 1)], **QUIET)
        # The copy of the repository is made with the first one.
        drop(files[0])
        until("the first one", lambda: begun(files[0]), 300)
        start = time.monotonic()
        for file in files[1:]:
            drop(file)
            if way != "at once":
                until(file.name, lambda: begun(file), 300)
        until("all", lambda: all(begun(file) for file in files), 600)
        took[way] = time.monotonic() - start
        (root / "go").write_text("")
        run.wait()
        shutil.rmtree(root, ignore_errors=True)
    what = f"{count} worktrees of {lab.opts.files:,} files"
    one = took["one after the other"]
    lab.row(what, "one after the other", one, "s")
    lab.row(what, "at once", took["at once"], "s", one / took["at once"], "no slower")
    lab.drop_all()
