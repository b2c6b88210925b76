#!/usr/bin/env python3
"""Ends a `harness run` (or its keeper) at every single system call, and checks the books each time.

One script item is run to its end under strace, which kills the process at the N-th call of a kind
(or lets that call fail), N = 1, 2, 3, … until a run is not hit any more. After each, one plain
`harness run --drain` must set everything right:

- the item is in exactly one of done/ and parked/, and nothing is in pending/ or claimed/;
- its script ran to its end once; after the death of the keeper (which alone knew how it ended), or
  a failing call, as often as the record says at most;
- with a repository: its branch is there once, in the user's repository and in harness's copy, the
  user's checkout is clean, and no lock file is left;
- no claim, key, temporary file, harness file or process is left.

Needs strace and a built harness. Not part of `cargo test`: some minutes.

    tests/sweep.py [--bin target/debug/harness] [--mode plain,git] [--target harness,worker,keeper]
                   [--calls rename,link,…] [--error ENOSPC] [--from N] [--max N] [-v]

Exit code: 0 nothing found, 1 at least one finding (its ROOT is kept and named).
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

CALLS = {
    "rename": "rename,renameat,renameat2",
    "link": "link,linkat",
    "unlink": "unlink,unlinkat,rmdir",
    "mkdir": "mkdir,mkdirat",
    "open": "openat",
    "write": "write,pwrite64",
    "sync": "fsync,fdatasync",
    "lock": "flock",
    "lease": "fcntl",
    "spawn": "clone,clone3,vfork",
    "socket": "socketpair,socket,bind,listen,accept4,connect,sendto,recvfrom",
    "times": "utimensat",
    "list": "getdents64",
}
# A failing call of these kinds says nothing that a host would say.
NO_ERROR = {"lease", "list", "times"}
GIT_ENV = {
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.com",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.com",
}
DEADLINE = 90


def git(repo, *args):
    env = {**os.environ, **GIT_ENV}
    out = subprocess.run(["git", "-C", repo, *args], env=env, capture_output=True, text=True)
    return out.stdout.split("\n")[:-1]


class Root:
    def __init__(self, opts, mode):
        self.opts, self.mode = opts, mode
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="harness-sweep-"))
        self.log = self.path / "ran"
        self.repo = self.path / "repo"
        self.harness("init")
        where = "none"
        if mode == "git":
            where = "repo"
            self.repo.mkdir()
            (self.repo / "README").write_text("hello\n")
            git(self.repo, "init", "-q", "-b", "main")
            git(self.repo, "add", ".")
            git(self.repo, "commit", "-q", "-m", "one")
        (self.path / "harness.toml").write_text(
            "[retry]\ndelay = 0.05\n[harness]\nstagger = 0\nkill_grace = 1\n"
            f'durability = "full"\n[limits]\ndisk_free_min = 0\n[repo]\npath = "{where}"\n'
        )

    def command(self, *args):
        return [self.opts.bin, "--root", str(self.path), *args]

    def harness(self, *args):
        cmd = self.command(*args)
        return subprocess.run(cmd, capture_output=True, text=True, timeout=DEADLINE)

    def drop(self, name):
        body = f"#!/bin/sh\n#harness exclusive: key\necho begin {name} >> {self.log}\n"
        body += f"echo work > f-{name}\nsleep 0.05\necho end {name} >> {self.log}\n"
        temp = self.path / "queue/pending/.being-made.tmp"
        temp.write_text(body)
        temp.chmod(0o755)
        temp.rename(self.path / "queue/pending" / name)

    def ran(self, word, name):
        text = self.log.read_text() if self.log.exists() else ""
        return text.split("\n").count(f"{word} {name}")

    def files(self, under):
        found = (self.path / under).rglob("*")
        return [p for p in found if not p.is_dir() and p.name != ".gitignore"]

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

    def end(self, keep):
        for pid, _ in self.processes():
            os.kill(pid, signal.SIGKILL)
        if not keep:
            shutil.rmtree(self.path, ignore_errors=True)


def books(root, name, hit, target, error):
    """What is wrong, as a list of sentences."""
    wrong = []
    at = {place: [p.name for p in root.files(f"queue/{place}")] for place in
          ("pending", "claimed", "done", "parked")}
    if at["pending"] or at["claimed"] or len(at["done"]) + len(at["parked"]) != len(hit):
        wrong.append(f"places: {at}")
    shown = json.loads(root.harness("show", name, "--json").stdout or "{}")
    attempts = [a for a in shown.get("attempts", []) if a.get("outcome") or a.get("ended_at")]
    begun, ended = root.ran("begin", name), root.ran("end", name)
    strict = target != "keeper" and not error
    if strict and (begun, ended) != (1, 1):
        wrong.append(f"begun {begun} times, ended {ended} times; attempts on record: {attempts}")
    if not strict and (ended < 1 or begun > max(1, len(attempts))):
        wrong.append(f"begun {begun}, ended {ended} times; attempts on record: {attempts}")
    # One call that fails is the host's trouble, and no reason to trouble a person.
    if (strict or error) and (name not in at["done"] or shown.get("outcome") != "succeeded"):
        wrong.append(f"outcome {shown.get('outcome')}: {shown.get('reason')}")
    for folder in ("state/claims", "state/exclusive", "state/harnesses"):
        if root.files(folder):
            wrong.append(f"left in {folder}: {[p.name for p in root.files(folder)]}")
    temps = [p for p in root.files("state") + root.files("queue") if p.suffix == ".tmp"]
    if temps:
        wrong.append(f"temporary files: {[str(p.relative_to(root.path)) for p in temps]}")
    if root.processes():
        wrong.append(f"still alive: {root.processes()}")
    if root.mode == "git":
        hub = root.path / "state/repos/default.git"
        for where in (root.repo, hub):
            branches = [b for b in git(where, "for-each-ref", "--format=%(refname:short)",
                                       "refs/heads/harness") if f"/{name}/" in b]
            # What an attempt did that failed stays in harness's own copy.
            most = 1 if strict or where == root.repo else len(attempts)
            if not 1 <= len(branches) <= most and (strict or name in at["done"]):
                wrong.append(f"branches in {where.name}: {branches}")
        if git(root.repo, "status", "--porcelain"):
            wrong.append("the user's checkout has changed")
        locks = [p for w in (root.repo / ".git", hub) for p in w.rglob("*.lock")]
        if locks:
            wrong.append(f"lock files: {locks}")
    return wrong


def injection(calls, n, error):
    what = f"error={error}" if error else "signal=KILL"
    return ["-e", f"trace={calls}", "-e", f"inject={calls}:{what}:when={n}"]


def wait_for(is_so, what):
    end = time.monotonic() + DEADLINE
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.005)


def run_harness(root, calls, n, error):
    """All threads of a `harness run --drain`, its children left in peace: the first thread that
    makes its N-th call is hit. Whether one was."""
    root.drop("x")
    out = root.path / "strace.out"
    strace = ["strace", "-f", "-b", "execve", "-qq", "-o", str(out), *injection(calls, n, error)]
    run = root.command("run", "--drain", "--workers", "1")
    with open(root.path / "run.log", "w") as log:
        subprocess.run(strace + run, stdout=log, stderr=log, timeout=DEADLINE)
    text = out.read_text()
    return "INJECTED" in text or "killed by SIGKILL" in text


def run_worker(root, calls, n, error):
    """The thread of the only slot of a steady harness, from its first item on."""
    idle = root.path / "state/agents/agent-1/status.json"

    def thread(pid):
        wait_for(lambda: idle.exists() and '"idle"' in idle.read_text(), "the slot is idle")
        tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
        return next(int(t.name) for t in tasks if (t / "comm").read_text() == "agent-1\n")

    return run_attached(root, thread, calls, n, error)


def run_keeper(root, calls, n, error):
    """The keeper of a steady harness, from its second item on."""
    root.drop("w")

    def keeper(_pid):
        wait_for(lambda: (root.path / "queue/done/w").exists(), "the first item is done")
        return next(pid for pid, command in root.processes() if " keeper " in command)

    return run_attached(root, keeper, calls, n, error)


def run_attached(root, find, calls, n, error):
    with open(root.path / "run.log", "w") as log:
        run = subprocess.Popen(root.command("run", "--workers", "1"), stdout=log, stderr=log)
    traced = find(run.pid)
    out = root.path / "strace.out"
    strace = ["strace", "-qq", "-o", str(out), "-p", str(traced), *injection(calls, n, error)]
    status = pathlib.Path(f"/proc/{traced}/status")
    with open(root.path / "strace.err", "w") as log:
        tracer = subprocess.Popen(strace, stdout=log, stderr=log)
    wait_for(lambda: "TracerPid:\t0\n" not in status.read_text(), "it is traced")
    root.drop("x")
    places = [root.path / "queue" / place / "x" for place in ("done", "parked")]
    wait_for(lambda: any(p.exists() for p in places) or run.poll() is not None, "x has ended")
    run.send_signal(signal.SIGTERM)
    run.wait(timeout=DEADLINE)
    tracer.wait(timeout=DEADLINE)
    text = out.read_text()
    return "INJECTED" in text or "killed by SIGKILL" in text


TARGETS = {"harness": run_harness, "worker": run_worker, "keeper": run_keeper}


def sweep(opts, mode, target, kind):
    found = 0
    for n in range(opts.first, opts.max + 1):
        root, wrong, was_hit = Root(opts, mode), [], True
        try:
            was_hit = TARGETS[target](root, CALLS[kind], n, opts.error)
            after = root.harness("run", "--drain", "--workers", "1")
            if after.returncode not in (0, 1):
                wrong.append(f"the run after ended with {after.returncode}: {after.stderr}")
            (root.path / "after.log").write_text(after.stdout + after.stderr)
            items = ["w", "x"] if target == "keeper" else ["x"]
            wrong += books(root, "x", items, target, opts.error)
        except (subprocess.TimeoutExpired, TimeoutError) as e:
            wrong.append(f"hangs: {e}")
        root.end(keep=bool(wrong))
        where = f"{mode} {target} {kind} {n}"
        if wrong:
            found += 1
            print(f"{where}: {root.path}")
            for line in wrong:
                print(f"    {line}")
        elif opts.verbose:
            print(f"{where}: {'hit' if was_hit else 'not hit'}, all right")
        sys.stdout.flush()
        if not was_hit:
            break
    return found


def main():
    here = pathlib.Path(__file__).resolve().parent.parent
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    args.add_argument("--bin", default=str(here / "target/debug/harness"))
    args.add_argument("--mode", default="plain,git")
    args.add_argument("--target", default=",".join(TARGETS))
    args.add_argument("--calls", default=",".join(CALLS))
    args.add_argument("--error", help="let the call fail with this instead of killing")
    args.add_argument("--from", dest="first", type=int, default=1)
    args.add_argument("--max", type=int, default=400)
    args.add_argument("-v", "--verbose", action="store_true")
    opts = args.parse_args()
    opts.bin = str(pathlib.Path(opts.bin).resolve())
    found = 0
    for mode in opts.mode.split(","):
        for target in opts.target.split(","):
            for kind in opts.calls.split(","):
                if not (opts.error and kind in NO_ERROR):
                    found += sweep(opts, mode, target, kind)
    print(f"{found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
