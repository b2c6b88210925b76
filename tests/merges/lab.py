"""The ROOT, the user's repository, the gate with its journal, and the branches."""

import atexit
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import environment

DEADLINE = 120
PLACES = ("pending", "claimed", "review", "merge", "done", "parked")

# Looks at the files that are really there, whatever harness says of them. A file that says `red`
# makes it red, as do both files of a pair. It is flaky the first time that it sees a file of flaky/,
# and the first time that it sees one tree in sixteen. A run that is not green writes its verdict as
# well: nothing may land by it.
GATE = r"""#!/bin/sh
index=$(mktemp) && rm "$index"
tree=$(GIT_INDEX_FILE=$index git add -A && GIT_INDEX_FILE=$index git write-tree) || exit 2
rm -f "$index"
verdict=green
for file in flaky/*; do
    [ -e "$file" ] && mkdir "@/seen/${file##*/}" 2>/dev/null && verdict=flaky
done
case $tree in 0*) mkdir "@/seen/$tree" 2>/dev/null && verdict=flaky ;; esac
for file in red/*; do [ -e "$file" ] && verdict=red; done
for one in pair/*.one; do [ -e "$one" ] && [ -e "${one%.one}.two" ] && verdict=red; done
echo "$tree $verdict $HARNESS_SLOT" >>"@/journal"
[ $verdict = green ]
"""

CONFIG = """[repo]
path = "{repo}"
[integrate]
mode = "review"
how = "{how}"
batch = 8
[gates.whole]
command = ["{gate}"]
when = ["merge"]
[retry]
delay = 0.05
[harness]
stagger = 0
kill_grace = 1
# The gate's journal lies beside the tree.
[sandbox]
mode = "off"
"""


class Lab:
    def __init__(self, opts, dice):
        self.opts = opts
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="harness-merges-")).resolve()
        atexit.register(self.close)
        self.root, self.repo = self.dir / "root", self.dir / "repo"
        self.queue = self.root / "queue"
        self.journal = self.dir / "journal"
        self.runs = []
        self.env = environment.plain(self.dir)
        for role in ("AUTHOR", "COMMITTER"):
            self.env |= {f"GIT_{role}_NAME": "A Person", f"GIT_{role}_EMAIL": "person@example.org"}
        # What merges; a planted fault (tests/mutants.py) is in that.
        self.faulty = environment.with_fault(self.env)
        self.kinds = kinds(opts.branches, dice)
        self.make()

    def close(self):
        self.kill_all()
        if not self.opts.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    def git(self, *args, repo=None, check=True, text=None):
        command = ["git", "-C", str(repo or self.repo), *args]
        out = subprocess.run(command, env=self.env, capture_output=True, text=True, input=text,
                             errors="replace", timeout=DEADLINE)
        if check and out.returncode:
            raise RuntimeError(f"{' '.join(command)}: {out.stderr.strip()}")
        return out

    def line(self, *args, **more):
        return self.git(*args, **more).stdout.strip()

    def command(self, *args):
        return [str(self.opts.bin), "--root", str(self.root), *args]

    def harness(self, *args):
        return subprocess.run(self.command(*args), env=self.env, capture_output=True, text=True,
                              timeout=600)

    def make(self):
        self.repo.mkdir()
        (self.dir / "seen").mkdir()
        self.journal.touch()
        self.git("init", "-q", "-b", "main")
        self.git("config", "core.logAllRefUpdates", "true")
        for n in range(2):
            (self.repo / f"file{n}").write_text("first\n")
            self.git("add", ".")
            self.git("commit", "-q", "-m", f"commit {n}")
        self.git("branch", "aside")
        gate = self.dir / "gate"
        gate.write_text(GATE.replace("@", str(self.dir)))
        gate.chmod(0o755)
        made = self.harness("init", str(self.root))
        if made.returncode:
            raise RuntimeError(made.stderr)
        config = CONFIG.format(repo=self.repo, gate=gate, how=self.opts.how)
        (self.root / "harness.toml").write_text(config)

    def make_branches(self):
        """By harness itself; nothing is merged yet, and nobody is killed."""
        for name, kind in self.kinds.items():
            path = self.root / "queue/pending" / f".{name}"
            path.write_text(script(name, kind))
            path.chmod(0o755)
            path.rename(self.queue / "pending" / name)
        out = self.harness("run", "--drain", "--workers", "4")
        ready = sorted(os.listdir(self.queue / "review"))
        if out.returncode or ready != sorted(self.kinds):
            raise RuntimeError(f"the branches could not be made: {out.stdout}{out.stderr}")

    def start(self):
        log = open(self.dir / "run.log", "ab")
        run = subprocess.Popen(self.command("run", "--workers", "1"), env=self.faulty,
                               stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self.runs.append(run)

    def kill(self, run):
        run.kill()
        run.wait()
        self.runs.remove(run)

    def stop(self):
        for run in self.runs:
            run.terminate()
        for run in self.runs:
            try:
                run.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
        self.runs.clear()

    def processes(self, word=b""):
        """Those of our directory, and only those; of them, those whose command line has this word."""
        mark = str(self.dir).encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if mark in line and word in line and int(pid) != os.getpid():
                yield int(pid)

    def kill_all(self):
        self.runs.clear()
        for _ in range(3):
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def landings(self):
        return (self.repo / ".git/logs/refs/heads/main").read_text().count("harness: merged")

    def gate_runs(self):
        return self.journal.read_text().count("\n")

    def names(self, place):
        folder = self.queue / place
        if place == "claimed":
            names = [name for _, _, files in os.walk(folder) for name in files]
        else:
            names = os.listdir(folder)
        return [name for name in names if not name.startswith(".")]


def kinds(count, dice):
    """Of each twenty: one that is red, one flaky, one that conflicts with what a person has committed,
    one whose branch was moved after it was finished, a pair that conflicts, a pair that is red only
    together; the rest is good."""
    kinds = {}
    for n in range(count):
        place, score = n % 20, n // 20
        kind = {0: "red", 1: "flaky", 2: "fixed", 3: "moved", 4: f"rival-{score}",
                5: f"rival-{score}", 6: f"pair-{score}.one", 7: f"pair-{score}.two"}
        kinds[f"n{n:03}"] = kind.get(place, "good")
    names = list(kinds)
    dice.shuffle(names)
    return {name: kinds[name] for name in names}


def script(name, kind):
    files = {f"landed/{name}": name}
    if kind in ("red", "flaky"):
        files[f"{kind}/{name}"] = kind
    elif kind == "fixed":
        files[f"fixed/{name}"] = "of the branch"
    elif kind.startswith("rival"):
        files[f"rival/{kind}"] = name
    elif kind.startswith("pair"):
        files[f"pair/{kind.removeprefix('pair-')}"] = "one of two"
    lines = [f"mkdir -p {os.path.dirname(file)} && echo '{text}' >{file}"
             for file, text in files.items()]
    return "#!/bin/sh\nset -e\n" + "\n".join(lines) + "\n"
