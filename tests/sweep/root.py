"""A ROOT to be damaged, and its books: what must be true of it in the end, whatever was done."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

from tracer import Point, start

DEADLINE = 45
NOBODY = 65534
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
GIT_ENV = {f"GIT_{who}_{what}": word for who in ("AUTHOR", "COMMITTER")
           for what, word in (("NAME", "T"), ("EMAIL", "t@example.com"))}
# The last words of a scene: it is over, or what was traced has ended before it was.
class Over(Exception):
    pass


def git(where, *args, check=False):
    env = {**os.environ, **GIT_ENV}
    out = subprocess.run(["git", "-C", where, *args], env=env, capture_output=True, text=True,
                         errors="replace", check=check)
    return out.stdout


def can_be_nobody():
    return os.geteuid() == 0 and shutil.which("setpriv") is not None


class Root:
    def __init__(self, opts, mode, toml="", as_nobody=False):
        self.opts, self.mode = opts, mode
        # What harness finds in its environment besides ours.
        self.env = {}
        self.program = [opts.bin]
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="harness-points-", dir=opts.dir))
        # What is outside of ROOT no failing call reaches: the log of what really ran, and gates.
        self.path, self.log = self.base / "root", self.base / "ran"
        self.repo, self.hub = self.path / "repo", self.path / "state/repos/default.git"
        self.traced = None
        self.path.mkdir()
        if as_nobody:
            # Its way to the build may be closed.
            self.program = [*AS_NOBODY, str(self.base / "harness")]
            shutil.copy(opts.bin, self.base / "harness")
            self.log.touch()
            for path in (self.base, self.path, self.log):
                os.chown(path, NOBODY, NOBODY)
        self.harness("init")
        if mode == "git":
            self.repo.mkdir()
            (self.repo / "README").write_text("hello\n")
            git(self.repo, "init", "-q", "-b", "main")
            git(self.repo, "add", ".")
            git(self.repo, "commit", "-q", "-m", "one")
        where = "repo" if mode == "git" else "none"
        (self.path / "harness.toml").write_text(
            f'[repo]\npath = "{where}"\n[retry]\ndelay = 0.05\n[limits]\ndisk_free_min = 0\n'
            f"[harness]\nstagger = 0\nkill_grace = 1\n{toml}"
        )

    # The program.

    def command(self, *args):
        return [*self.program, "--root", str(self.path), *args]

    def harness(self, *args, timeout=DEADLINE):
        return subprocess.run(self.command(*args), capture_output=True, text=True,
                              errors="replace", timeout=timeout, stdin=subprocess.DEVNULL,
                              env={**os.environ, **self.env})

    def drain(self):
        return self.harness("run", "--drain", "--workers", "1")

    def start(self, *args):
        """One that nobody traces."""
        log = open(self.base / "first.log", "a")
        command = self.command("run", "--workers", "1", *args)
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                env={**os.environ, **self.env})

    def trace(self, point, args, also=()):
        """Starts it under the tracer; `traced_end` waits for it."""
        self.said_at = self.base / "traced.log"
        env = {**os.environ, "RUST_BACKTRACE": "0", **self.env}
        self.traced = start(self.path, point, self.command(*args), str(self.said_at), env, also)

    def is_over(self):
        """Whether what is traced has ended."""
        tracer, _pid = self.traced
        if tracer and os.waitpid(tracer, os.WNOHANG)[0]:
            self.traced = (0, _pid)
        return not self.traced[0]

    def traced_end(self):
        end = time.monotonic() + DEADLINE
        while not self.is_over():
            if time.monotonic() > end:
                for pid in self.traced:
                    os.kill(pid, signal.SIGKILL)
                raise TimeoutError(f"the traced run does not end: {self.said()[-600:]}")
            time.sleep(0.002)
        return json.loads((self.base / "traced.log.json").read_text())

    def said(self):
        return self.said_at.read_text(errors="replace") if self.said_at.exists() else ""

    def killed_at(self, role, like, n=1):
        """Runs the queue and kills the harness right before that call: a world to begin from."""
        self.trace(Point(role, n, like=like), ["run", "--drain", "--workers", "1"])
        seen = self.traced_end()
        assert seen["hit"], f"{role} made no call like {like}: {seen}"
        (self.base / "traced.log").rename(self.base / "before.log")

    # Waiting.

    def until(self, is_so):
        """Waits until it is so; `Over` where what is traced ends before."""
        end = time.monotonic() + DEADLINE
        while not is_so():
            if self.traced and self.is_over():
                if is_so():
                    return
                raise Over
            if time.monotonic() > end:
                raise TimeoutError(f"waited in vain; {self.picture()}")
            time.sleep(0.002)

    def at(self, path):
        """Whether it is there, or on its way from there (`--steps`)."""
        path = self.path / path
        return path.exists() or any(path.parent.glob(f".{path.name}.*.moving~"))

    def events(self, name):
        path = self.path / f"state/items/{name}.jsonl"
        lines = path.read_text(errors="replace").split("\n") if path.exists() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                pass
        return found

    def has(self, name, event):
        return any(e["event"] == event for e in self.events(name))

    # Items.

    def drop(self, name, text, mode=0o755):
        temp = self.path / "queue/pending/.being-made.tmp"
        temp.write_text(text)
        temp.chmod(mode)
        temp.rename(self.path / "queue/pending" / name)

    def script(self, name, body, head=""):
        who = "$HARNESS_ITEM $HARNESS_SESSION"
        self.drop(name, f"#!/bin/sh\n{head}\necho begin {who} >>{self.log}\n(\n{body}\n)\ns=$?\n"
                        f"echo end {who} >>{self.log}\nexit $s\n")

    def gate(self, name="go"):
        return f"until [ -e {self.base}/{name} ]; do sleep 0.01; done"

    def open(self, name="go"):
        (self.base / name).touch()

    def ran(self, word, name):
        """The sessions that said this word, in order."""
        lines = self.log.read_text().split("\n") if self.log.exists() else []
        return [line.split()[2] for line in lines if line.startswith(f"{word} {name} ")]

    def places(self, name):
        """Where the item is; one of an earlier life of its name left out."""
        places = ["pending", "review", "merge", "done", "parked", *self.slots()]
        found = [(p, self.path / "queue" / p / name) for p in places]
        return [p for p, file in found if file.exists() and file.read_bytes() != b"older\n"]

    def claimed(self, name):
        """Where it lies while it is at work, whichever slot has it."""
        found = list((self.path / "queue/claimed").glob(f"agent-*/{name}"))
        return found[0] if found else None

    def slots(self):
        return [f"claimed/{p.name}" for p in (self.path / "queue/claimed").glob("agent-*")]

    def files(self, under):
        found = (self.path / under).rglob("*")
        return sorted(p for p in found if not p.is_dir() and p.name != ".gitignore")

    def processes(self):
        mark = f"HARNESS_ROOT={self.path}".encode()
        path = str(self.path).encode()
        alive = []
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                command = (proc / "cmdline").read_bytes()
                env = (proc / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if command and int(proc.name) != os.getpid() and (mark in env or path in command):
                alive.append((int(proc.name), command.replace(b"\0", b" ").decode()))
        return alive

    def keeper(self):
        return next(pid for pid, command in self.processes()
                    if " keeper " in command and "/agent-" in command)

    def kill(self, *pids):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def picture(self):
        return str([str(p.relative_to(self.path)) for p in self.files("queue")])

    def end(self, keep):
        self.kill(*(pid for pid, _ in self.processes()))
        if not keep:
            shutil.rmtree(self.base, ignore_errors=True)

    # The books.

    def show(self, name):
        return json.loads(self.harness("show", name, "--json").stdout or "{}")

    def books(self, git_died=False):
        """What must be true of every ROOT in the end. `git_died`: a git of ours was killed, or a
        call of it failed, and so may have left its locks."""
        wrong = []
        for folder in ("state/claims", "state/exclusive", "state/harnesses", "state/interrupts"):
            if self.files(folder):
                wrong.append(f"left in {folder}: {[p.name for p in self.files(folder)]}")
        temps = [p for p in self.files("state") + self.files("queue") if p.suffix == ".tmp"]
        if temps:
            wrong.append(f"temporary files: {[str(p.relative_to(self.path)) for p in temps]}")
        if self.processes():
            wrong.append(f"still alive: {self.processes()}")
        wrong += self.sessions_on_record()
        if self.mode == "git":
            wrong += self.git_books(git_died)
        status = json.loads((self.path / "state/status.json").read_text())["work_queue"]
        queue = {place: sum(not p.name.endswith("~") for p in self.files(f"queue/{place}"))
                 for place in ("done", "parked", "claimed")}
        if any(status[place] != n for place, n in queue.items()):
            wrong.append(f"status.json says {status}, there are {queue}")
        return wrong

    def sessions_on_record(self):
        """Every session is on record, begins once and ends once; none has published twice."""
        wrong, known = [], {}
        for record in (self.path / "state/items").glob("*.jsonl"):
            for e in self.events(record.name[: -len(".jsonl")]):
                if e.get("session"):
                    known.setdefault(e["session"], []).append(e["event"])
        for sid in sorted(p.name for p in (self.path / "state/sessions").iterdir() if p.is_dir()):
            happened = known.get(sid, [])
            if happened.count("finished") != 1:
                wrong.append(f"session {sid}: {happened or 'on no record'}")
        lines = [json.loads(line)["session"] for p in self.files("state/ledger")
                 if p.suffix == ".jsonl" for line in p.read_text().split("\n") if line]
        if len(lines) != len(set(lines)):
            wrong.append("the ledger counts a session twice")
        return wrong

    def git_books(self, git_died):
        wrong = []
        if git(self.repo, "status", "--porcelain", "--ignore-submodules"):
            wrong.append("the user's checkout has changed")
        if git_died and self.locks(self.hub):
            # Harness's own copy: they are cleared when they are met.
            self.script("later", "echo more >more", "#harness integrate: branch")
            begun = time.monotonic()
            self.drain()
            if self.places("later") != ["done"] or time.monotonic() - begun > 8:
                wrong.append(f"{self.locks(self.hub)} are in the way of the next item")
        # In the user's repository a lock is nobody's to remove but the user's.
        mine = [] if git_died else self.locks(self.repo / ".git") + self.locks(self.hub)
        if mine:
            wrong.append(f"lock files: {mine}")
        if held := git(self.repo, "for-each-ref", "refs/harness"):
            wrong.append(f"still held in the user's repository: {held}")
        return wrong

    def locks(self, where):
        found = [p.relative_to(self.path) for p in where.rglob("*.lock")]
        # A lock of harness's own stands beside each submodule's hub.
        return [str(p) for p in found if "harness-debris" not in p.parts and p.parent.name != "modules"]

    def published(self, name):
        refs = git(self.repo, "for-each-ref", "--format=%(refname:short)", "refs/heads/harness")
        return [b for b in refs.split("\n") if f"/{name}/" in b]
