"""How flat: with a million pending, a million sessions, many agents, and nothing to do."""

import datetime
import json
import os
import pathlib
import shutil
import subprocess
import time

from lab import CHATTY, HARNESS, NOOP, QUIET, Cost, cpu_of, median, rss_kib, sh, until


class Run:
    """One harness that does so many of the items that lie in `pending/`, and what it took."""

    def __init__(self, root, items):
        with Cost() as cost:
            run = subprocess.Popen(
                [HARNESS, "--root", root, "run", "--workers", "2", "--max-items", str(items)], **QUIET)
            begun, self.first, self.peak = time.monotonic(), None, 0
            while run.poll() is None:
                if self.first is None and any(os.scandir(root / "state/claims")):
                    self.first = time.monotonic() - begun
                try:
                    self.peak = max(self.peak, rss_kib(run.pid))
                except (OSError, IndexError):
                    pass
                time.sleep(0.005 if self.first is None else 0.05)
        self.cpu = cost.cpu_seconds
        claimed, finished = [], []
        for record in (root / "state/items").glob("*.jsonl"):
            for line in record.read_text().splitlines():
                event = json.loads(line)
                if event["event"] in ("claimed", "finished"):
                    at = datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00"))
                    (claimed if event["event"] == "claimed" else finished).append(at.timestamp())
        assert len(finished) == items, (len(finished), items)
        self.wall = max(finished) - min(claimed)


def flat(lab):
    """Items from a small and from a huge folder: from the first claim to the last end, and the
    processor time beyond that of a run of one item."""
    count = lab.opts.million
    many = min(20_000, count // 2)
    huge = lab.base / "million"
    lab.fill(huge, count, NOOP)
    few = {"wall": [], "cpu": [], "peak": []}
    for _ in range(10):
        root = lab.root()
        lab.fill(root / "queue/pending", 100, NOOP)
        one = Run(root, 1)
        root = lab.root()
        lab.fill(root / "queue/pending", 100, NOOP)
        run = Run(root, 100)
        few["wall"].append(run.wall / 100)
        few["cpu"].append((run.cpu - one.cpu) / 99)
        few["peak"].append(run.peak)
        lab.drop_all()

    def large(items):
        root = lab.root()
        pending = root / "queue/pending"
        pending.rmdir() if not any(pending.iterdir()) else shutil.rmtree(pending)
        huge.rename(pending)
        os.sync()
        run = Run(root, items)
        pending.rename(huge)
        lab.drop_all()
        return run

    one, run = large(1), large(many)
    what, wall, cpu = f"{count:,} pending", median(few["wall"]), median(few["cpu"])
    lab.row("time an item", "100 pending", wall * 1e3, "ms")
    lab.row("time an item", what, run.wall / many * 1e3, "ms", run.wall / many / wall, "≤ 1.1 × 100")
    large_cpu = (run.cpu - one.cpu) / (many - 1)
    lab.row("CPU an item", "100 pending", cpu * 1e3, "ms")
    lab.row("CPU an item", what, large_cpu * 1e3, "ms", large_cpu / cpu, "≤ 1.1 × 100")
    lab.row("start to first claim", what, one.first or run.first, "s", None, "< 2 s")
    lab.row("memory", "100 pending", median(few["peak"]) / 1024, "MiB")
    lab.row("memory", what, run.peak / 1024, "MiB", None, "≤ 48 MiB")
    shutil.rmtree(huge, ignore_errors=True)


def idle(lab):
    """Nothing may start (`harness pause`), with many pending: what waiting costs."""
    pending = min(100_000, lab.opts.million)
    root = lab.root()
    lab.fill(root / "queue/pending", pending, NOOP)
    sh(HARNESS, "--root", root, "pause")
    run = subprocess.Popen([HARNESS, "--root", root, "run", "--workers", "2"], **QUIET)
    time.sleep(5)
    before, span = cpu_of(run.pid), 20
    time.sleep(span)
    used = (cpu_of(run.pid) - before) / span * 100
    run.terminate()
    run.wait()
    lab.row(f"idle, {pending:,} pending", "harness", used, "% of a core", None, "none measurable")
    lab.drop_all()


def chatty(lab):
    """64 agents that print 100 events a second each: what reading them costs, keepers included."""
    agents, rate, span = 64, 100, 20
    root = lab.root()
    with (root / "harness.toml").open("a") as config:
        config.write(f"""[agents.chatty]
command = ["{CHATTY}", "{span + 10}", "{rate}"]
events = "claude"
""")
    lab.fill(root / "in", agents, b"---\nagent: chatty\n---\ntalk\n")
    for path in (root / "in").iterdir():
        path.chmod(0o644)
        path.rename(root / "queue/pending" / f"{path.name}.md")
    run = subprocess.Popen([HARNESS, "--root", root, "run", "--drain", "--workers", str(agents)], **QUIET)

    def told(event):
        records = (root / "state/items").glob("*.jsonl")
        return sum(f'"event":"{event}"' in record.read_text() for record in records)

    until("all agents run", lambda: told("started") == agents)
    time.sleep(1)
    family = {run.pid, *children_of(run.pid)}
    before = {pid: cpu_of(pid) for pid in family}
    time.sleep(span)
    used = {pid: cpu_of(pid) - before[pid] for pid in family}
    run.wait()
    assert told("finished") == agents
    lab.row(f"{agents} agents, {rate} events/s each", "harness itself", used[run.pid] / span * 100,
            "% of a core", None, "< 1 %")
    lab.row(f"{agents} agents, {rate} events/s each", "with its keepers",
            sum(used.values()) / span * 100, "% of a core")
    lab.drop_all()


def children_of(pid):
    """The keepers; not what they run."""
    found = set()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found.update(int(child) for child in (task / "children").read_text().split())
    return found


def sessions(lab):
    """What `status.json` costs with few and with many sessions on disk: processor time of a harness
    that runs one agent, and of `harness status` without one."""
    used, asked = {}, {}
    for count in (100, lab.opts.sessions):
        root = lab.root()
        for n in range(count):
            sid = f"{0x01900000000070008000000000000000 + n:032x}"
            sid = "-".join((sid[:8], sid[8:12], sid[12:16], sid[16:20], sid[20:]))
            folder = root / "state/sessions" / sid
            folder.mkdir()
            (folder / "session.json").write_text(SESSION.replace("SID", sid))
        run = subprocess.Popen([HARNESS, "--root", root, "run", "--workers", "1"], **QUIET)
        lab.fill(root / "in", 1, b"#!/bin/sh\nsleep 40\n")
        (root / "in/job-0000000").rename(root / "queue/pending/job")
        time.sleep(5)
        before, span = cpu_of(run.pid), 10
        time.sleep(span)
        used[count] = (cpu_of(run.pid) - before) / span * 1e3
        run.terminate()
        run.wait()
        begun = time.monotonic()
        for _ in range(5):
            sh(HARNESS, "--root", root, "status")
        asked[count] = (time.monotonic() - begun) / 5 * 1e3
        lab.drop_all()
    few, many = used
    for count in (few, many):
        ratio = None if count == few else asked[many] / asked[few]
        lab.row(f"aggregation, {count:,} sessions", "harness", used[count], "ms CPU/s", None, "does not grow")
        lab.row(f"`harness status`, {count:,} sessions", "harness", asked[count], "ms", ratio)


SESSION = """{"session": "SID", "item": "old", "slot": "agent-1", "agent": "script", "attempt": 1,
"state": "ended", "outcome": "succeeded", "started_at": "2026-01-01T00:00:00.000Z",
"ended_at": "2026-01-01T00:00:01.000Z", "exit_status": 0, "seconds": 1.0, "last": true}
"""
