"""Those who work beside the merges: a person who commits onto the base, and a killer."""

import json
import os
import random
import signal
import threading
import time


class Person(threading.Thread):
    """Commits onto the base: in the checkout while it is checked out there, and from a clone, as a
    push does, while it is not."""

    def __init__(self, lab, seed):
        super().__init__(daemon=True)
        self.lab, self.dice = lab, random.Random(seed)
        self.over = threading.Event()
        self.commits = lab.line("log", "--format=%H", "main").split()
        self.count = 0
        self.trouble = None

    def run(self):
        try:
            while not self.over.wait(self.lab.opts.every * self.dice.uniform(0.5, 2)):
                # On a slow machine nothing would land between two of them.
                if self.count <= 2 + self.lab.landings() / 2:
                    self.step()
            # harness may have the index at this moment.
            for _ in range(3000):
                if not self.lab.git("switch", "-q", "main", check=False).returncode:
                    return
                time.sleep(0.01)
            self.trouble = "cannot switch to main"
        except Exception as e:
            self.trouble = e

    def step(self):
        here = self.lab.line("symbolic-ref", "--short", "HEAD") == "main"
        if self.dice.random() < 0.2:
            # Where harness has the index at this moment, next time.
            self.lab.git("switch", "-q", "aside" if here else "main", check=False)
        elif here:
            self.commit_here()
        else:
            self.push()

    def commit_here(self):
        self.count += 1
        name = f"person/{self.count}"
        path = self.lab.repo / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine\n")
        for _ in range(500):
            if not self.lab.git("add", name, check=False).returncode:
                break
            time.sleep(0.01)
        for _ in range(500):
            out = self.lab.git("commit", "-q", "-m", f"of a person: {self.count}", check=False)
            if not out.returncode:
                # The branch may have moved on already.
                mine = self.lab.line("log", "-1", "--format=%H", "main", "--", name)
                return self.commits.append(mine)
            time.sleep(0.01)
        raise RuntimeError(f"a person cannot commit: {out.stdout}{out.stderr}")

    def push(self):
        """A commit upon what the base is at now, and a swap; again where it has moved."""
        self.count += 1
        for _ in range(500):
            old = self.lab.line("rev-parse", "main")
            blob = self.lab.line("hash-object", "-w", "--stdin", text="pushed\n")
            index = {**self.lab.env, "GIT_INDEX_FILE": str(self.lab.dir / "index")}
            kept, self.lab.env = self.lab.env, index
            try:
                self.lab.git("read-tree", old)
                self.lab.git("update-index", "--add", "--cacheinfo",
                             f"100644,{blob},person/{self.count}")
                tree = self.lab.line("write-tree")
            finally:
                self.lab.env = kept
            new = self.lab.line("commit-tree", tree, "-p", old, "-m", f"pushed: {self.count}")
            self.commits.append(new)
            moved = self.lab.git("update-ref", "-m", "push", "refs/heads/main", new, old,
                                 check=False)
            if not moved.returncode:
                return
            self.commits.pop()
        raise RuntimeError("a person cannot push")


class Killer(threading.Thread):
    """Kills harnesses at random, and the one that merges right after the base has moved; rarely a
    gate with its keeper."""

    def __init__(self, lab, seed):
        super().__init__(daemon=True)
        self.lab, self.dice = lab, random.Random(seed)
        self.over = threading.Event()
        self.at_random = self.at_landing = self.of_keepers = 0
        self.trouble = None

    def run(self):
        try:
            log = self.lab.repo / ".git/logs/refs/heads/main"
            size, next_one = log.stat().st_size, time.monotonic()
            while not self.over.wait(0.0005):
                now = log.stat().st_size
                if now != size:
                    size = now
                    if self.dice.random() < self.lab.opts.at_landing:
                        self.kill_merging()
                if time.monotonic() > next_one:
                    next_one = time.monotonic() + self.lab.opts.every * self.dice.uniform(0.3, 1.7)
                    # On a slow machine nothing would come to its end.
                    if self.at_random <= 2 + self.lab.gate_runs() / 2:
                        self.kill_one()
        except Exception as e:
            self.trouble = e

    def replace(self, run):
        self.lab.kill(run)
        self.lab.start()

    def kill_one(self):
        if self.dice.random() < self.lab.opts.keepers:
            for pid in self.lab.processes(b"/gate"):
                try:
                    os.kill(pid, signal.SIGKILL)
                    self.of_keepers += 1
                except ProcessLookupError:
                    pass
            return
        self.at_random += 1
        self.replace(self.dice.choice(self.lab.runs))

    def kill_merging(self):
        slot = self.lab.journal.read_text().split()[-1]
        try:
            status = (self.lab.root / "state/agents" / slot / "status.json").read_text()
            pid = json.loads(status)["harness_pid"]
        except (OSError, ValueError, KeyError):
            return
        for run in self.lab.runs:
            if run.pid == pid:
                self.at_landing += 1
                return self.replace(run)
