"""How fast: items a second, processor time an item, drop to start."""

import json
import os
import shutil
import signal
import subprocess
import time

import peers
from lab import BARE, NOOP, QUIET, STAMP, Cost, drop, fill, harness, median, percentile, sh


def run_harness(lab, jobs, workers, durability="off", processes=1, sandbox="off", home=None):
    root = lab.root(durability, sandbox=sandbox)
    fill(root / "queue/pending", jobs, NOOP)
    os.sync()
    with Cost() as cost:
        runs = [harness(root, "--drain", "--workers", workers // processes, home=home) for _ in range(processes)]
        codes = [run.wait() for run in runs]
    assert codes == [0] * processes, codes
    assert sum(1 for n in os.listdir(root / "queue/done") if n.startswith("job")) == jobs
    return cost


def run_bare(lab, jobs, workers, *flags):
    path = lab.fresh("bare")
    fill(path / "pending", jobs, NOOP)
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
    """Jobs a second and processor time a job, of everybody, interleaved."""
    jobs = lab.opts.jobs
    for workers in (2, 8):
        who = {
            "xargs": (jobs, lambda: run_xargs(lab, jobs, workers)),
            "harness": (jobs, lambda: run_harness(lab, jobs, workers)),
        }
        if not lab.floors_only:
            who["bare loop"] = jobs, lambda: run_bare(lab, jobs, workers)
            who["bare loop, fsync"] = jobs, lambda: run_bare(lab, jobs, workers, "--fsync")
            who["harness, durable"] = jobs, lambda: run_harness(lab, jobs, workers, "full")
            for name, peer in peers.ALL.items():
                if shutil.which(peer.program):
                    few = min(jobs, peer.jobs)
                    who[name] = few, lambda peer=peer, few=few: peer.run(lab, few, workers)
        costs = {name: [] for name in who}
        for _ in range(lab.opts.rounds):
            for name, (_, run) in who.items():
                costs[name].append(run())
                lab.clear()
        rate = {n: median([who[n][0] / c.wall for c in all]) for n, all in costs.items()}
        cpu = {n: median([c.cpu_seconds / who[n][0] * 1e3 for c in all]) for n, all in costs.items()}
        for name in who:
            against = "bare loop, fsync" if name == "harness, durable" else "xargs"
            lab.row(f"jobs/s, {workers} workers", name, rate[name], "/s", rate[name] / rate[against],
                    at_least=0.6 if name == "harness" else None)
            lab.row(f"CPU per job, {workers} workers", name, cpu[name], "ms", cpu[name] / cpu["xargs"])


def confined(lab):
    """What it costs a start that the job is confined: with one worker, after each other, in a home folder
    of some 140 entries: secrets lie among them, and each is granted by itself."""
    jobs = lab.opts.jobs // 4
    home = lab.fresh("home")
    for folder, count in ("", 80), (".config", 30), (".local/share", 30):
        for n in range(count):
            (home / folder / f"entry-{n}").mkdir(parents=True)
    costs = {"off": [], "on": []}
    for _ in range(lab.opts.rounds):
        for mode, all in costs.items():
            all.append(run_harness(lab, jobs, 1, sandbox=mode, home=home))
            lab.clear()
    wall = {mode: median([cost.wall / jobs * 1e3 for cost in all]) for mode, all in costs.items()}
    cpu = {mode: median([cost.cpu_seconds / jobs * 1e3 for cost in all]) for mode, all in costs.items()}
    lab.row("a job, 1 worker", "harness, sandbox off", wall["off"], "ms")
    lab.row("a job, 1 worker", "harness, sandbox on", wall["on"], "ms", wall["on"] / wall["off"])
    lab.row("what the sandbox adds to a start", "harness", wall["on"] - wall["off"], "ms", at_most=1)
    lab.row("CPU that it adds to a start", "harness", cpu["on"] - cpu["off"], "ms")


def latencies(start, root, out, count):
    """Drops one job after the other on an idle runner; milliseconds from the drop to the job's first line."""
    runner = start()
    took = []
    try:
        time.sleep(0.7)
        for n in range(count + 3):
            name = f"job-{n}"
            dropped = drop(root, name, f"#!{STAMP}\n".encode())
            end = time.monotonic() + 10
            while not (text := out(name)).endswith("\n") and time.monotonic() < end:
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
    """From the drop of a file to its first instruction, on an idle runner."""
    who = {"bare loop": None, "harness": "off"}
    if not lab.floors_only:
        who["harness, durable"] = "full"
    took = {name: [] for name in who}
    for _ in range(lab.opts.rounds):
        for name, durability in who.items():
            if durability is None:
                # The bare loop has its folders at the top; `drop` looks for them in queue/.
                root = lab.fresh("bare")
                queue = root / "queue"
                (queue / "pending").mkdir(parents=True)
                command = [BARE, queue, "2", "--watch"]
                took[name] += latencies(lambda: subprocess.Popen(command, **QUIET), root,
                                        lambda job: read(queue / "out" / job), 60)
            else:
                root = lab.root(durability)
                took[name] += latencies(lambda: harness(root, "--workers", 2), root,
                                        lambda job: stdout_of(root, job), 60)
        lab.clear()
    for p in (50, 99):
        base = percentile(took["bare loop"], p)
        for name, all in took.items():
            lab.row(f"drop to first instruction, p{p}", name, percentile(all, p), "ms",
                    percentile(all, p) / base, at_most=2.5 if (name, p) == ("harness", 50) else None)


def read(path):
    return path.read_text() if path.exists() else ""


def stdout_of(root, name):
    """What the item's agent printed so far."""
    for line in read(root / f"state/items/{name}.jsonl").splitlines():
        if '"event":"claimed"' in line:
            return read(root / "state/sessions" / json.loads(line)["session"] / "stdout.log")
    return ""


def contention(lab):
    """Eight processes on one queue, against one process with eight slots."""
    one, eight, jobs = [], [], lab.opts.jobs
    for _ in range(lab.opts.rounds):
        one.append(jobs / run_harness(lab, jobs, 8).wall)
        eight.append(jobs / run_harness(lab, jobs, 8, processes=8).wall)
        lab.clear()
    lab.row("jobs/s, 8 slots", "1 process", median(one), "/s")
    lab.row("jobs/s, 8 slots", "8 processes", median(eight), "/s", median(eight) / median(one))
