"""How flat: with a million pending, a hundred thousand sessions, and nothing to do."""

import datetime
import fcntl
import json
import os
import pathlib
import pty
import select
import shutil
import struct
import termios
import time

from lab import CHATTY, HARNESS, NOOP, Cost, cpu_of, drop, fill, harness, median, peak_kib, recorded, sh, stop, until


class Run:
    """One harness that does so many of the items that lie in `pending/`, and what it took."""

    def __init__(self, root, items):
        with Cost() as cost:
            run = harness(root, "--workers", 2, "--max-items", items)
            begun, self.first, self.peak = time.monotonic(), None, 0
            while run.poll() is None:
                if self.first is None and any(os.scandir(root / "state/claims")):
                    self.first = time.monotonic() - begun
                try:
                    self.peak = max(self.peak, peak_kib(run.pid) / 1024)
                except (OSError, IndexError):
                    pass
                time.sleep(0.005 if self.first is None else 0.05)
        self.cpu = cost.cpu_seconds
        claimed, finished = [], []
        for record in (root / "state/items").glob("*.jsonl"):
            for line in record.read_text().splitlines():
                event = json.loads(line)
                at = datetime.datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()
                {"claimed": claimed, "finished": finished}.get(event["event"], []).append(at)
        assert len(finished) == items, (len(finished), items)
        # From the first claim to the last end.
        self.wall = max(finished) - min(claimed)


def flat(lab):
    """Items from a small and from a huge folder: time from the first claim to the last end, and the
    processor time beyond that of a run of one item."""
    count = lab.opts.million
    many = min(20_000, count // 2)
    huge = lab.base / "million"
    fill(huge, count, NOOP)

    def small(items):
        root = lab.root()
        fill(root / "queue/pending", 100, NOOP)
        run = Run(root, items)
        lab.clear()
        return run

    def large(items):
        root = lab.root()
        shutil.rmtree(root / "queue/pending")
        huge.rename(root / "queue/pending")
        os.sync()
        run = Run(root, items)
        (root / "queue/pending").rename(huge)
        lab.clear()
        return run

    few = [(small(1), small(100)) for _ in range(10)]
    one, run = large(1), large(many)
    shutil.rmtree(huge, ignore_errors=True)
    what, against = f"{count:,} pending", "100 pending"
    wall = median([hundred.wall / 100 for _, hundred in few]) * 1e3
    cpu = median([(hundred.cpu - single.cpu) / 99 for single, hundred in few]) * 1e3
    large_wall, large_cpu = run.wall / many * 1e3, (run.cpu - one.cpu) / (many - 1) * 1e3
    lab.row("time an item", against, wall, "ms")
    lab.row("time an item", what, large_wall, "ms", large_wall / wall, at_most=1.2)
    lab.row("CPU an item", against, cpu, "ms")
    lab.row("CPU an item", what, large_cpu, "ms", large_cpu / cpu, at_most=1.2)
    lab.row("start to first claim", what, one.first or run.first, "s")
    lab.row("memory", against, median([hundred.peak for _, hundred in few]), "MiB")
    lab.row("memory", what, run.peak, "MiB", at_most=48)


def idle(lab):
    """Nothing may start (`harness pause`), with many pending: what waiting costs."""
    pending, span = min(100_000, lab.opts.million), 20
    root = lab.root()
    fill(root / "queue/pending", pending, NOOP)
    sh(HARNESS, "--root", root, "pause")
    run = harness(root, "--workers", 2)
    time.sleep(5)
    before = cpu_of(run.pid)
    time.sleep(span)
    used = (cpu_of(run.pid) - before) / span * 100
    stop(run)
    lab.row(f"idle, {pending:,} pending", "harness", used, "% of a core")
    lab.clear()


def sessions(lab):
    """What `status.json` costs with few and with many sessions on disk: processor time of a harness
    that runs one agent, and the time of `harness status` without one."""
    used, asked, few, span = {}, {}, 100, 10
    for count in (few, lab.opts.sessions):
        root = lab.root()
        for n in range(count):
            digits = f"{0x01900000000070008000000000000000 + n:032x}"
            sid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            folder = root / "state/sessions" / sid
            folder.mkdir()
            (folder / "session.json").write_text(SESSION.replace("SID", sid))
        run = harness(root, "--workers", 1)
        drop(root, "job", b"#!/bin/sh\nsleep 40\n")
        time.sleep(5)
        before = cpu_of(run.pid)
        time.sleep(span)
        used[count] = (cpu_of(run.pid) - before) / span * 1e3
        stop(run)
        begun = time.monotonic()
        for _ in range(5):
            sh(HARNESS, "--root", root, "status")
        asked[count] = (time.monotonic() - begun) / 5 * 1e3
        lab.row(f"with {count:,} sessions", "harness", used[count], "ms CPU/s")
        lab.row(f"with {count:,} sessions", "harness status", asked[count], "ms", asked[count] / asked[few])
        lab.clear()


SESSION = """{"session": "SID", "item": "old", "slot": "agent-1", "agent": "script", "attempt": 1,
"state": "ended", "outcome": "succeeded", "claimed_at": "2026-01-01T00:00:00.000Z",
"started_at": "2026-01-01T00:00:00.000Z", "ended_at": "2026-01-01T00:00:01.000Z",
"exit_status": 0, "seconds": 1.0, "last": true}
"""


def top(lab):
    """`harness top` on a terminal, beside 64 agents that print 100 events a second each, with many pending; and
    beside nothing, where each look is at the whole tree."""
    agents, span = 64, 20
    command = f'[agents.chatty]\ncommand = ["{CHATTY}", "{span + 60}", "100"]\nevents = "claude"'
    root = lab.root(more=command)
    fill(root / "queue/pending", agents, b"---\nagent: chatty\npriority: high\n---\ntalk\n", prefix="a", ending=".md")
    pending = root / "queue/pending"
    fill(pending, lab.opts.million, NOOP)
    # Not before tomorrow: nothing but the agents runs.
    later = time.time() + 86_400
    for entry in os.scandir(pending):
        if entry.name.startswith("job"):
            os.utime(entry.path, (later, later))
    run = harness(root, "--workers", agents)
    until("all agents run", lambda: recorded(root, "started") == agents)
    what = f"top, {agents} agents, {lab.opts.million:,} items"
    time.sleep(2)
    used, peak = watched(root, span)
    lab.row(what, "CPU", used, "% of a core", at_most=3)
    lab.row(what, "memory", peak, "MiB", at_most=64)
    stop(run)
    shutil.rmtree(pending)
    pending.mkdir()
    used, peak = watched(root, span)
    lab.row("top, no harness", "CPU", used, "% of a core", at_most=3)
    lab.clear()


def watched(root, span):
    """Processor time and memory of a `harness top` that shows an agent's words, its commands included."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(HARNESS, [HARNESS, "--root", root, "top"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def show(seconds):
        end, seen = time.monotonic() + seconds, b""
        while (left := end - time.monotonic()) > 0:
            if select.select([terminal], [], [], left)[0]:
                try:
                    seen = (seen + os.read(terminal, 65536))[-100_000:]
                except OSError:
                    # It has ended.
                    break
        return seen

    assert b"Agents" in show(5)
    before = cpu_with_children(pid)
    show(span)
    used = (cpu_with_children(pid) - before) / span * 100
    peak = peak_kib(pid) / 1024
    os.write(terminal, b"q")
    show(1)
    os.close(terminal)
    assert os.waitpid(pid, 0)[1] == 0
    return used, peak


def cpu_with_children(pid):
    """Processor time of a process and of those that it has waited for."""
    fields = (pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1]).split()
    return sum(int(n) for n in fields[11:15]) / os.sysconf("SC_CLK_TCK")
