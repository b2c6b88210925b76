#!/usr/bin/env python3
"""Measures harness against the queues that this machine has, and against the least that a queue of
files can cost, interleaved, and prints one table of medians and ratios.

    bench/run.py [--only dispatch,latency,…] [--rounds 5] [--jobs 1000] [--million 1000000] [--files 20000]
                 [--dir DIR] [--json]

Peers are used where they are found: xargs, nq, tsp (task-spooler), parallel, pueue, hq.
`--dir`: where to work; a journaled file system, please (`--dir loop`: as root, a loop-mounted ext4,
for machines whose own has no journal). Only ratios within one run mean anything.
"""

import argparse
import ctypes
import json
import os
import pathlib
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
RELEASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release"
HARNESS, BARE, STAMP = (RELEASE / n for n in ("harness", "examples/bare-loop", "examples/stamp"))
CONFIG = """[harness]
stagger = 0
durability = "{durability}"
[repo]
path = "{repo}"
[limits]
disk_free_min = 0
"""


def sh(*cmd, **more):
    return subprocess.run([str(c) for c in cmd], check=True, capture_output=True, text=True, **more)


def median(values):
    return statistics.median(values) if values else float("nan")


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


class Cost:
    """Wall and processor time of everything started inside, daemons included: this process adopts
    them (PR_SET_CHILD_SUBREAPER) and waits for each."""

    def __enter__(self):
        self.begun, self.before = time.monotonic(), self.cpu()
        return self

    def __exit__(self, *_):
        self.wall = time.monotonic() - self.begun
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.002)
            except ChildProcessError:
                break
        self.cpu_seconds = self.cpu() - self.before

    @staticmethod
    def cpu():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


class Lab:
    def __init__(self, opts, base):
        self.opts, self.base, self.rows, self.n = opts, base, [], 0

    def fresh(self, name):
        self.n += 1
        path = self.base / f"{name}-{self.n}"
        path.mkdir(parents=True)
        return path

    def root(self, durability="off", repo="none"):
        path = self.fresh("root")
        sh(HARNESS, "init", path)
        (path / "harness.toml").write_text(CONFIG.format(durability=durability, repo=repo))
        return path

    def fill(self, folder, count, script, prefix="job"):
        folder.mkdir(parents=True, exist_ok=True)
        at = os.open(folder, os.O_RDONLY)
        for n in range(count):
            fd = os.open(f"{prefix}-{n:07}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755, dir_fd=at)
            os.write(fd, script)
            os.close(fd)
        os.close(at)

    def row(self, what, who, value, unit, ratio=None, goal=None):
        self.rows.append((what, who, value, unit, ratio, goal))
        shown = "" if ratio is None else f"  ratio {ratio:.2f}"
        print(f"  {what:34} {who:22} {value:10.2f} {unit}{shown}", file=sys.stderr, flush=True)

    def drop_all(self):
        for path in self.base.iterdir():
            if path.name.split("-")[0] in ("root", "bare", "repo"):
                shutil.rmtree(path, ignore_errors=True)


NOOP = b"#!/bin/true\n"


def run_harness(lab, jobs, workers, durability="off", processes=1):
    root = lab.root(durability)
    lab.fill(root / "in", jobs, NOOP)
    pending = root / "queue/pending"
    for path in (root / "in").iterdir():
        path.rename(pending / path.name)
    os.sync()
    each = workers // processes
    with Cost() as cost:
        runs = [
            subprocess.Popen(
                [HARNESS, "--root", root, "run", "--drain", "--workers", str(each)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(processes)
        ]
        codes = [run.wait() for run in runs]
    assert codes == [0] * processes, codes
    assert sum(1 for n in os.listdir(root / "queue/done") if n.startswith("job")) == jobs
    return cost


def run_bare(lab, jobs, workers, *flags):
    path = lab.fresh("bare")
    lab.fill(path / "pending", jobs, NOOP)
    os.sync()
    with Cost() as cost:
        sh(BARE, path, workers, *flags)
    return cost


def run_xargs(lab, jobs, workers):
    names = "\n".join(str(n) for n in range(jobs))
    with Cost() as cost:
        sh("xargs", "-n1", f"-P{workers}", "/bin/true", input=names)
    return cost


def run_parallel(lab, jobs, workers):
    names = "\n".join(str(n) for n in range(jobs))
    with Cost() as cost:
        sh("parallel", f"-j{workers}", "/bin/true", input=names)
    return cost


def run_nq(lab, jobs, workers):
    """nq has no workers: as many queues as workers, each in a folder of its own."""
    path = lab.fresh("bare")
    with Cost() as cost:
        for w in range(workers):
            (path / str(w)).mkdir()
        for n in range(jobs):
            env = {**os.environ, "NQDIR": str(path / str(n % workers))}
            sh("nq", "-q", "/bin/true", env=env)
        for w in range(workers):
            sh("nq", "-w", env={**os.environ, "NQDIR": str(path / str(w))})
    return cost


def run_tsp(lab, jobs, workers):
    env = {**os.environ, "TS_SOCKET": str(lab.fresh("bare") / "socket"), "TS_MAXCONN": "100"}
    with Cost() as cost:
        sh("tsp", "-S", workers, env=env)
        for _ in range(jobs):
            sh("tsp", "-n", "/bin/true", env=env)
        sh("tsp", "-w", env=env)
        sh("tsp", "-K", env=env)
    return cost


def dispatch(lab):
    jobs = lab.opts.jobs
    peers = {"nq": run_nq, "tsp": run_tsp, "parallel": run_parallel}
    for workers in (2, 8):
        who = {
            "xargs": lambda: run_xargs(lab, jobs, workers),
            "bare loop": lambda: run_bare(lab, jobs, workers),
            "bare loop, fsync": lambda: run_bare(lab, jobs, workers, "--fsync"),
            "harness": lambda: run_harness(lab, jobs, workers),
            "harness, durable": lambda: run_harness(lab, jobs, workers, "full"),
            **{p: (lambda f=f: f(lab, min(jobs, 300), workers)) for p, f in peers.items()
               if shutil.which(p)},
        }
        costs = {name: [] for name in who}
        for _ in range(lab.opts.rounds):
            for name, run in who.items():
                costs[name].append((run(), min(jobs, 300) if name in peers else jobs))
                lab.drop_all()
        rate = {n: median([j / c.wall for c, j in all]) for n, all in costs.items()}
        cpu = {n: median([c.cpu_seconds / j * 1e3 for c, j in all]) for n, all in costs.items()}
        goals = {"harness": ("xargs", "≥ 0.8"), "harness, durable": ("bare loop, fsync", "≥ 0.8")}
        for name in who:
            against, goal = goals.get(name, ("xargs", None))
            lab.row(f"jobs/s, {workers} workers", name, rate[name], "/s",
                    rate[name] / rate[against], goal and f"{goal} × {against}")
        for name in who:
            lab.row(f"CPU per job, {workers} workers", name, cpu[name], "ms",
                    cpu[name] / cpu["xargs"], "≤ 1.5 × xargs" if name == "harness" else None)


def latencies(lab, start, pending, out, count):
    """Drops one job after the other on an idle runner; from the drop to the job's first line."""
    runner = start()
    took = []
    script = f"#!{STAMP}\n".encode()
    try:
        time.sleep(0.7)
        for n in range(count + 3):
            temp = pending.parent / f"job-{n}"
            temp.write_bytes(script)
            temp.chmod(0o755)
            dropped = time.monotonic_ns()
            temp.rename(pending / f"job-{n}")
            end = time.monotonic() + 10
            while time.monotonic() < end:
                text = out(f"job-{n}")
                if text.endswith("\n"):
                    break
                time.sleep(0.001)
            if n >= 3:
                took.append((int(text) - dropped) / 1e6)
            time.sleep(0.02)
    finally:
        runner.send_signal(signal.SIGINT)
        try:
            runner.wait(5)
        except subprocess.TimeoutExpired:
            runner.kill()
            runner.wait()
    return took


def latency(lab):
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    all_of = {"bare loop": [], "harness": [], "harness, durable": []}
    for _ in range(lab.opts.rounds):
        path = lab.fresh("bare")
        (path / "pending").mkdir()

        def read_bare(name):
            at = path / "out" / name
            return at.read_text() if at.exists() else ""

        bare = [BARE, path, "2", "--watch"]
        all_of["bare loop"] += latencies(
            lab, lambda: subprocess.Popen(bare, **quiet), path / "pending", read_bare, 60)
        for who, durability in (("harness", "off"), ("harness, durable", "full")):
            root = lab.root(durability)
            seen = {}

            def read(name):
                record = root / f"state/items/{name}.jsonl"
                if not record.exists():
                    return ""
                for line in record.read_text().splitlines():
                    if '"started"' in line:
                        seen[name] = json.loads(line)["session"]
                log = root / "state/sessions" / seen.get(name, "-") / "stdout.log"
                return log.read_text() if log.exists() else ""

            run = [HARNESS, "--root", root, "run", "--workers", "2"]
            all_of[who] += latencies(
                lab, lambda: subprocess.Popen(run, **quiet), root / "queue/pending", read, 60)
        lab.drop_all()
    base = {p: percentile(all_of["bare loop"], p) for p in (50, 99)}
    for who, took in all_of.items():
        for p in (50, 99):
            goal = {50: "≤ 2 × bare loop", 99: "≤ 10 ms"}[p] if who == "harness" else None
            lab.row(f"drop to first instruction, p{p}", who, percentile(took, p), "ms",
                    percentile(took, p) / base[p], goal)


def contention(lab):
    one, eight = [], []
    for _ in range(lab.opts.rounds):
        one.append(lab.opts.jobs / run_harness(lab, lab.opts.jobs, 8).wall)
        eight.append(lab.opts.jobs / run_harness(lab, lab.opts.jobs, 8, processes=8).wall)
        lab.drop_all()
    lab.row("jobs/s, 8 slots", "1 process", median(one), "/s")
    lab.row("jobs/s, 8 slots", "8 processes", median(eight), "/s", median(eight) / median(one),
            "≥ 0.9 × one")


def rss_kib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0])


def flat(lab):
    """The same number of items from a small and from a huge folder."""
    count = lab.opts.million
    huge = lab.base / "million"
    if not huge.exists():
        lab.fill(huge, count, NOOP)
    results = {}
    for total in (100, count):
        root = lab.root()
        pending = root / "queue/pending"
        if total == count:
            shutil.rmtree(pending)
            huge.rename(pending)
        else:
            lab.fill(pending, total, NOOP)
        jobs = 100 if total == 100 else min(20_000, count // 2)
        done = root / "queue/done"
        run = subprocess.Popen(
            [HARNESS, "--root", root, "run", "--workers", "2", "--max-items", str(jobs)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun, first, peak = time.monotonic(), None, 0
        while run.poll() is None:
            if first is None and any(os.scandir(root / "state/claims")):
                first = time.monotonic() - begun
            peak = max(peak, rss_kib(run.pid) if pathlib.Path(f"/proc/{run.pid}").exists() else 0)
            time.sleep(0.005 if first is None else 0.05)
        wall = time.monotonic() - begun
        results[total] = (wall - (first or 0)) / jobs, first or 0, peak
        if total == count:
            pending.rename(huge)
        lab.drop_all()
        del done
    small, large = results[100], results[count]
    what = f"{count:,} pending"
    lab.row("time per item", "100 pending", small[0] * 1e3, "ms")
    lab.row("time per item", what, large[0] * 1e3, "ms", large[0] / small[0], "≤ 1.1 × 100")
    lab.row("start to first claim", what, large[1], "s", None, "< 2 s")
    lab.row("memory", what, large[2] / 1024, "MiB", None, "≤ 48 MiB")


def recovery(lab):
    """kill -9 of a harness; until another process has its item in hand (`adopted`, `claimed`)."""
    took = []
    for _ in range(lab.opts.rounds * 4):
        root = lab.root()
        item = root / "queue/pending/job"
        item.with_name(".t").write_text("#!/bin/sh\nsleep 30\n")
        item.with_name(".t").chmod(0o755)
        item.with_name(".t").rename(item)
        run = [HARNESS, "--root", root, "run", "--workers", "1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        first = subprocess.Popen(run, **quiet)
        record = root / "state/items/job.jsonl"

        def recorded(word):
            return record.exists() and f'"event":"{word}"' in record.read_text()

        def until(word, most=20):
            end = time.monotonic() + most
            while not recorded(word):
                assert time.monotonic() < end, word
                time.sleep(0.0005)

        until("started")
        second = subprocess.Popen(run, **quiet)
        time.sleep(0.5)
        killed = time.monotonic()
        first.kill()
        until("adopted")
        took.append((time.monotonic() - killed) * 1e3)
        first.wait()
        second.terminate()
        second.wait()
        lab.drop_all()
    lab.row("kill -9 to adopted, p50", "harness", percentile(took, 50), "ms", None, "≤ 20 ms")
    lab.row("kill -9 to adopted, p99", "harness", percentile(took, 99), "ms")


def parsing(lab):
    recordings = sorted((HERE / "tests/streams").glob("claude-*.jsonl"))
    for line in sh(RELEASE / "examples/parse", *recordings).stdout.splitlines():
        what, ours, serde, ratio = line.split("\t")
        lab.row(f"events, {what}", "serde_json, needed fields", float(serde), "MB/s")
        lab.row(f"events, {what}", "harness", float(ours), "MB/s", float(ratio), "≥ 0.7 × serde_json")


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
    sh("git", "-C", repo, *me, "commit", "-q", "-m", "one")
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
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
    """Agents of two seconds, so many at once, two rounds of them: the ideal is four seconds."""
    for agents in (3, 5, 64):
        root = lab.root()
        lab.fill(root / "in", agents * 2, b"#!/bin/sh\nsleep 2\n")
        for path in (root / "in").iterdir():
            path.rename(root / "queue/pending" / path.name)
        with Cost() as cost:
            sh(HARNESS, "--root", root, "run", "--drain", "--workers", agents)
        lab.row(f"{agents} agents of 2 s, twice", "harness", cost.wall, "s", 4 / cost.wall, "≥ 0.98")
        lab.drop_all()


SECTIONS = {f.__name__: f for f in (dispatch, latency, contention, recovery, worktrees, efficiency, parsing, flat)}


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--only", default=",".join(SECTIONS))
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--jobs", type=int, default=1000)
    args.add_argument("--million", type=int, default=1_000_000)
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
            sh("truncate", "-s", "8G", work / "image")
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
