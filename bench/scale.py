"""How flat: with a million pending, a million sessions, many agents, and nothing to do."""

import os
import pathlib
import shutil
import subprocess
import time

from lab import CHATTY, HARNESS, NOOP, QUIET, cpu_of, rss_kib, sh, until


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
            **QUIET)
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


SESSION = """{"session": "SID", "item": "old", "agent": "agent-1", "runner": "script", "attempt": 1,
"status": "ended", "outcome": "succeeded", "started_at": "2026-01-01T00:00:00.000Z",
"ended_at": "2026-01-01T00:00:01.000Z", "exit_status": 0, "seconds": 1.0, "last": true}
"""
