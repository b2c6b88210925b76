"""The queues that people use today, each told to run the same scripts."""

import collections
import os
import subprocess
import time

from lab import NOOP, QUIET, Cost, fill, sh, until


def scripts(lab, jobs):
    """The scripts as files, for those that are told what to run."""
    path = lab.fresh("bare")
    fill(path, jobs, NOOP)
    os.sync()
    return sorted(str(file) for file in path.iterdir())


def run_parallel(lab, jobs, workers):
    names = "\n".join(scripts(lab, jobs))
    with Cost() as cost:
        sh("parallel", f"-j{workers}", "sh", input=names)
    return cost


def run_nq(lab, jobs, workers):
    """nq has no workers: as many queues as workers, each in a folder of its own."""
    names, path = scripts(lab, jobs), lab.fresh("bare")
    with Cost() as cost:
        for w in range(workers):
            (path / str(w)).mkdir()
        for n, name in enumerate(names):
            env = {**os.environ, "NQDIR": str(path / str(n % workers))}
            sh("nq", "-q", "sh", name, env=env)
        for w in range(workers):
            sh("nq", "-w", env={**os.environ, "NQDIR": str(path / str(w))})
    return cost


def run_tsp(lab, jobs, workers):
    names = scripts(lab, jobs)
    env = {**os.environ, "TS_SOCKET": str(lab.fresh("bare") / "socket"), "TS_MAXCONN": "100"}
    with Cost() as cost:
        sh("tsp", "-S", workers, env=env)
        for name in names:
            sh("tsp", "-n", "sh", name, env=env)
        sh("tsp", "-w", env=env)
        sh("tsp", "-K", env=env)
    return cost


def run_pueue(lab, jobs, workers):
    home = lab.fresh("bare")
    config = home / "pueue.yml"
    config.write_text(f"shared:\n  pueue_directory: {home}\n  runtime_directory: {home}\n")
    names = scripts(lab, jobs)

    def pueue(*args):
        return sh("pueue", "-c", config, *args)

    with Cost() as cost:
        daemon = subprocess.Popen(["pueued", "-c", config], **QUIET)
        until("pueued listens", lambda: subprocess.run(
            ["pueue", "-c", config, "status"], check=False, **QUIET).returncode == 0)
        pueue("parallel", workers)
        begun = time.monotonic()
        for name in names:
            pueue("add", "--", "sh", name)
        pueue("wait", "--quiet")
        took = time.monotonic() - begun
        pueue("shutdown")
        daemon.wait()
    cost.wall = took
    return cost


def run_hyperqueue(lab, jobs, workers):
    """As one array, with its journal, from the moment at which server and worker are there."""
    home = lab.fresh("bare")
    fill(home, 1, NOOP)
    hq = ["hq", "--server-dir", home / "server"]
    running = []

    def asks(*args):
        return subprocess.run([*hq, *args], check=False, capture_output=True, text=True).stdout

    with Cost() as cost:
        running.append(subprocess.Popen(
            [*hq, "server", "start", "--journal", home / "journal"], **QUIET))
        until("the server is there", lambda: "Server UID" in asks("server", "info"))
        running.append(subprocess.Popen(
            [*hq, "worker", "start", "--cpus", str(workers)], cwd=home, **QUIET))
        until("the worker is there", lambda: "RUNNING" in asks("worker", "list"))
        begun = time.monotonic()
        sh(*hq, "submit", "--array", f"1-{jobs}", "--wait", "--", "sh", home / "job-0000000", cwd=home)
        took = time.monotonic() - begun
        sh(*hq, "server", "stop")
        for process in running:
            process.wait()
    cost.wall = took
    return cost


# `jobs`: at most so many, as some take long.
Peer = collections.namedtuple("Peer", "program run jobs")
ALL = {
    "nq": Peer("nq", run_nq, 300),
    "tsp": Peer("tsp", run_tsp, 300),
    "parallel": Peer("parallel", run_parallel, 300),
    "HyperQueue": Peer("hq", run_hyperqueue, 4000),
    "pueue": Peer("pueue", run_pueue, 60),
}
