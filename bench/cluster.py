"""Three nodes of a private Slurm on this host against one: items that sleep, so that its processors are no limit."""

import datetime
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time

from lab import HARNESS, HERE, fill, median, sh

CLUSTER = HERE / "tests/slurm/cluster"
ITEM = b"#!/bin/sh\nsleep 1.5\n"
WORKERS = 2


def free_ports(count):
    """So many after each other, below those that connections take by chance."""
    for base in range(20_000, 32_000, count):
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            pass
    raise RuntimeError("no free ports")


def took(lab, nodes, items, env):
    """From the first claim to the last end."""
    root = lab.root()
    fill(root / "queue/pending", items, ITEM)
    submit = [HARNESS, "--root", root, "submit", "--nodes", nodes, "--workers", WORKERS]
    sh(*submit, env=env)
    # Looked at seldom: there are few processors.
    done, end = root / "queue/done", time.monotonic() + 600
    while len(list(done.glob("[!.]*"))) < items or any((root / "state/harnesses").iterdir()):
        assert time.monotonic() < end, "not all items are done"
        time.sleep(0.5)
    claimed, ended = [], []
    for record in (root / "state/items").glob("*.jsonl"):
        for line in record.read_text().splitlines():
            event = json.loads(line)
            at = datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()
            {"claimed": claimed, "finished": ended}.get(event["event"], []).append(at)
    assert len(ended) == items, (len(ended), items)
    lab.clear()
    return max(ended) - min(claimed)


def cluster(lab):
    if not shutil.which("sbatch"):
        print("  SKIPPED: Slurm is not installed (slurmctld slurmd slurm-client)", flush=True)
        return
    items = 120
    # Its sockets need a short path.
    with tempfile.TemporaryDirectory(prefix="hs-") as short:
        home = f"{short}/c"
        env = {**os.environ, "SLURM_CONF": f"{home}/slurm.conf"}
        with open(f"{short}/log", "w", encoding="utf-8") as log:
            command = [CLUSTER, "start", home, str(free_ports(4)), "3"]
            subprocess.run(command, stdout=log, stderr=log, check=True)
        try:
            rounds = [(took(lab, 1, items, env), took(lab, 3, items, env)) for _ in range(lab.opts.rounds)]
        finally:
            subprocess.run([CLUSTER, "stop", home], check=False)
    one, three = (items / median(list(times)) for times in zip(*rounds))
    lab.row("items of 1.5 s", f"1 node × {WORKERS}", one, "/s")
    lab.row("items of 1.5 s", f"3 nodes × {WORKERS}", three, "/s", three / one, at_least=2.9)
