"""How fast: items a second, processor time an item, drop to start, events a second."""

import json
import os
import shutil
import signal
import subprocess
import time

import peers
from lab import (BARE, HARNESS, HERE, NOOP, QUIET, RELEASE, STAMP, Cost, median, percentile, sh)


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
                [HARNESS, "--root", root, "run", "--drain", "--workers", str(each)], **QUIET
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
    names = "\n".join(peers.scripts(lab, jobs))
    with Cost() as cost:
        sh("xargs", "-n1", f"-P{workers}", "sh", input=names)
    return cost


def dispatch(lab):
    jobs = lab.opts.jobs
    found = {name: peer for name, peer in peers.ALL.items() if shutil.which(peer.program)}
    for workers in (2, 8):
        who = {
            "xargs": lambda: run_xargs(lab, jobs, workers),
            "bare loop": lambda: run_bare(lab, jobs, workers),
            "bare loop, fsync": lambda: run_bare(lab, jobs, workers, "--fsync"),
            "harness": lambda: run_harness(lab, jobs, workers),
            "harness, durable": lambda: run_harness(lab, jobs, workers, "full"),
            **{name: (lambda peer=peer: peer.run(lab, min(jobs, peer.jobs), workers))
               for name, peer in found.items()},
        }
        costs = {name: [] for name in who}
        for _ in range(lab.opts.rounds):
            for name, run in who.items():
                done = min(jobs, found[name].jobs) if name in found else jobs
                costs[name].append((run(), done))
                lab.drop_all()
        rate = {n: median([j / c.wall for c, j in all]) for n, all in costs.items()}
        cpu = {n: median([c.cpu_seconds / j * 1e3 for c, j in all]) for n, all in costs.items()}
        goals = {"harness": ("xargs", "≥ 0.8"), "harness, durable": ("bare loop, fsync", "≥ 0.8")}
        for name in who:
            against, goal = goals.get(name, ("xargs", None))
            lab.row(f"jobs/s, {workers} workers", name, rate[name], "/s",
                    rate[name] / rate[against], goal and f"{goal} × {against}")
        recorders = [name for name, peer in found.items() if peer.keeps_records]
        if recorders:
            best = max(recorders, key=rate.get)
            lab.row(f"jobs/s, {workers} workers", f"harness against {best}", rate["harness"], "/s",
                    rate["harness"] / rate[best], f"≥ 1.5 × {best}")
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
    all_of = {"bare loop": [], "harness": [], "harness, durable": []}
    for _ in range(lab.opts.rounds):
        path = lab.fresh("bare")
        (path / "pending").mkdir()

        def read_bare(name):
            at = path / "out" / name
            return at.read_text() if at.exists() else ""

        bare = [BARE, path, "2", "--watch"]
        all_of["bare loop"] += latencies(
            lab, lambda: subprocess.Popen(bare, **QUIET), path / "pending", read_bare, 60)
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
                lab, lambda: subprocess.Popen(run, **QUIET), root / "queue/pending", read, 60)
        lab.drop_all()
    base = {p: percentile(all_of["bare loop"], p) for p in (50, 99)}
    for who, took in all_of.items():
        for p in (50, 99):
            goal = {50: "≤ 2 × bare loop", 99: "≤ 10 ms"}[p] if who == "harness" else None
            lab.row(f"drop to first instruction, p{p}", who, percentile(took, p), "ms",
                    percentile(took, p) / base[p], goal)


def contention(lab):
    one, eight, jobs = [], [], lab.opts.jobs
    for _ in range(lab.opts.rounds):
        one.append(jobs / run_harness(lab, jobs, 8).wall)
        eight.append(jobs / run_harness(lab, jobs, 8, processes=8).wall)
        lab.drop_all()
    lab.row("jobs/s, 8 slots", "1 process", median(one), "/s")
    lab.row("jobs/s, 8 slots", "8 processes", median(eight), "/s", median(eight) / median(one),
            "≥ 0.9 × one")


def parsing(lab):
    recordings = sorted((HERE / "tests/streams").glob("claude-*.jsonl"))
    for line in sh(RELEASE / "examples/parse", *recordings).stdout.splitlines():
        what, ours, serde, ratio = line.split("\t")
        lab.row(f"events, {what}", "serde_json, needed fields", float(serde), "MB/s")
        lab.row(f"events, {what}", "harness", float(ours), "MB/s", float(ratio), "≥ 0.7 × serde_json")


