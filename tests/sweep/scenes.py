"""Every transition as a scene: what was before, what is traced, what others do meanwhile, and what
must have become of it. The names are those of ARCHITECTURE's tables.

A scene's `play` goes on beside what is traced and ends with `Over` when that dies; `settle` then
does what a person or a script would still do (open a gate, end an interrupt), so that one plain run
can end everything.
"""

import json
import os
import pathlib
import signal
import subprocess
import time

from root import NOBODY, git

RUN = ["run", "--drain", "--workers", "1"]
WORK = "echo work >f-$HARNESS_ITEM"
HARNESS = ("slot", "command", "pulse")


class Scene:
    # Where each item must be in the end, and how often it is started if nothing is unknown.
    items = {"x": ("done", 1)}
    modes = ("plain", "git")
    roles = (*HARNESS, "keeper", "git")
    toml = ""
    args = RUN
    # Which calls are counted: those that fit one of these.
    like = "*"
    # Whether the keeper that is traced has started its agent already.
    started = False
    # Whether the world before has a lock file of git's, which is cleared when it is met.
    stale_lock = False
    # Whether harness runs as nobody, and what is dropped is root's.
    as_nobody = False
    # Sessions of which nobody can know how they ended, because this scene killed their keeper.
    unknown = 0
    # The branches that each item has published once it is done.
    branches = 1

    def prepare(self, r):
        """The world before, by processes that nobody traces."""

    def also(self, r):
        """Processes to be traced besides: keepers that are there already."""
        return []

    def play(self, r):
        r.until(lambda: False)

    def settle(self, r):
        r.open()

    def outcome(self, r, name):
        return {"done": "succeeded", "parked": "failed"}[self.items[name][0]]

    def check(self, r):
        return []


class Finish(Scene):
    """claim, start, finish; of a name that was done before, so that the older file is kept."""

    def prepare(self, r):
        (r.path / "queue/done/x").write_text("older\n")
        r.script("x", WORK, "#harness exclusive: key")

    def check(self, r):
        kept = r.path / ("queue/done/x.~1~" if r.places("x") == ["done"] else "queue/done/x")
        if not kept.exists() or kept.read_text() != "older\n":
            return [f"the older file is not kept: {r.picture()}"]
        return []


class Retry(Scene):
    """It fails, waits, and succeeds."""

    items = {"x": ("done", 2)}

    def prepare(self, r):
        r.script("x", f"{WORK}; [ $HARNESS_ATTEMPT -ge 2 ] || exit 75")


class Foreign(Scene):
    """Its file is another user's, and it is to wait: a copy of ours with the time takes its place."""

    items = {"x": ("done", 2)}
    modes = ("plain",)
    roles = HARNESS
    as_nobody = True

    def prepare(self, r):
        r.script("x", f"{WORK}; [ $HARNESS_ATTEMPT -ge 2 ] || exit 75")
        file = r.path / "queue/pending/x"
        # Long written: nobody waits whether more is to come.
        os.utime(file, (1e9, 1e9))
        self.text, self.mode = file.read_bytes(), file.stat().st_mode
        assert file.stat().st_uid == 0

    def check(self, r):
        file = r.path / "queue/done/x"
        if not file.exists():
            return []
        now = file.stat()
        if (file.read_bytes(), now.st_mode, now.st_uid) != (self.text, self.mode, NOBODY):
            return [f"it is not the file that it was: {now}, {file.read_bytes()}"]
        return []


class Park(Scene):
    """It fails for good."""

    items = {"x": ("parked", 1)}

    def prepare(self, r):
        r.script("x", f"{WORK}; exit 3", "#harness retries: 0")


class Refuse(Scene):
    items = {"x.json": ("parked", 0)}
    modes = ("plain",)
    roles = HARNESS

    def prepare(self, r):
        (r.path / "queue/parked/x.json").write_text("older\n")
        r.drop("x.json", "{ this is no JSON", 0o644)

    def outcome(self, r, name):
        return "refused"


class PutBack(Scene):
    """recover: claimed and begun, but not started."""

    def prepare(self, r):
        r.script("x", WORK, "#harness exclusive: key")
        r.killed_at("slot", "create */session.json")


class PutBackEarly(PutBack):
    """recover: claimed, and nothing else."""

    def prepare(self, r):
        r.script("x", WORK, "#harness exclusive: key")
        r.killed_at("slot", "mkdir */sessions/SID")


class Recover(Scene):
    """recover: harness and keeper were killed under a running agent: its end is not known."""

    items = {"x": ("done", 2)}
    unknown = 1

    def prepare(self, r):
        r.script("x", f"{WORK}; [ $HARNESS_ATTEMPT -ge 2 ] || {{ {r.gate('never')}; }}")
        first = r.start()
        r.until(lambda: r.ran("begin", "x"))
        keeper = r.keeper()
        first.kill()
        first.wait()
        r.kill(keeper)


class Judge(Scene):
    """recover: its agent ended while no harness lived."""

    roles = (*HARNESS, "git")

    def prepare(self, r):
        r.script("x", f"{WORK}; {r.gate()}")
        first = r.start()
        r.until(lambda: r.ran("begin", "x"))
        first.kill()
        first.wait()
        r.open()
        r.until(lambda: not r.processes())


class Publish(Scene):
    """recover: published, and the end not recorded."""

    modes = ("git",)
    roles = (*HARNESS, "git")

    def prepare(self, r):
        r.script("x", WORK)
        r.killed_at("slot", "write */items/x.jsonl", 3)


class Fenced(Scene):
    """recover: it has its name for the end, and the end is not recorded."""

    modes = ("plain",)
    roles = HARNESS

    def prepare(self, r):
        r.script("x", WORK, "#harness exclusive: key")
        r.killed_at("slot", "write */items/x.jsonl", 3)
        assert list((r.path / "queue/claimed").glob("*/x.~ending~")), r.picture()


class TryAgain(Scene):
    """recover: moved, its claim is left, and a person has put it back since."""

    items = {"x": ("done", 2)}
    modes = ("plain",)
    roles = HARNESS

    def prepare(self, r):
        r.script("x", WORK, "#harness exclusive: key")
        r.killed_at("slot", "unlink /state/exclusive/*")
        os.rename(r.path / "queue/done/x", r.path / "queue/pending/x")


class Move(Scene):
    """recover: the end is recorded, only the move is left."""

    roles = HARNESS

    def prepare(self, r):
        r.script("x", WORK, "#harness exclusive: key")
        r.killed_at("slot", "rename */x.~ending~ /queue/done/x")


class LetGo(Scene):
    """recover: moved, and its key and claim are left."""

    modes = ("plain",)
    roles = HARNESS

    def prepare(self, r):
        r.script("x", WORK, "#harness exclusive: key")
        r.killed_at("slot", "unlink /state/exclusive/*")


class Adopt(Scene):
    """A harness was killed, its agent runs on under its keeper."""

    started = True

    def prepare(self, r):
        r.script("x", f"{WORK}; {r.gate()}")
        first = r.start()
        r.until(lambda: r.has("x", "started"))
        r.until(lambda: r.ran("begin", "x"))
        first.kill()
        first.wait()

    def also(self, r):
        return [r.keeper()]

    def play(self, r):
        # Or its keeper was killed, and it is tried again.
        r.until(lambda: r.has("x", "adopted") or r.has("x", "finished")
                or "adopted" in r.said())
        r.open()
        r.until(lambda: False)


class Cancel(Scene):
    """Its file is moved away by hand while it runs."""

    items = {"x": ("parked", 1)}

    def prepare(self, r):
        r.script("x", f"{WORK}; {r.gate()}")

    def play(self, r):
        r.until(lambda: r.ran("begin", "x"))
        r.until(lambda: self.cancel(r))
        r.until(lambda: False)

    def cancel(self, r):
        """Whether it is canceled: it may be elsewhere, its keeper having been killed."""
        try:
            os.rename(r.claimed("x") or "", r.path / "queue/parked/x")
            return True
        except FileNotFoundError:
            return False

    def settle(self, r):
        if r.at("queue/parked/x"):
            return
        if not r.claimed("x") or not r.ran("begin", "x"):
            # It was not there to be canceled. Then it is canceled in the run that follows.
            second = r.start("--drain")
            r.until(lambda: r.ran("begin", "x"))
            r.until(lambda: self.cancel(r))
            second.wait()
        else:
            self.cancel(r)

    def outcome(self, r, name):
        return "canceled"


class CancelByCommand(Cancel):
    """`harness cancel` of one that runs."""

    modes = ("plain",)
    roles = ("slot",)

    def cancel(self, r):
        return r.harness("cancel", "x").returncode == 0


class Interrupt(Scene):
    """freeze, notice, thaw."""

    def prepare(self, r):
        r.script("x", f"{WORK}; sleep 600 & {r.gate()}; kill $!")

    def play(self, r):
        r.until(lambda: r.ran("begin", "x"))
        file = r.path / f"state/interrupts/{r.claimed('x').parent.name}.interrupt"
        (r.base / "why").write_text("a person wants to look\n")
        os.rename(r.base / "why", file)
        # With its keeper killed it ends instead. What the record says of it may be lost to a full
        # disk: only the story misses that.
        ended = lambda: r.has("x", "finished")
        r.until(lambda: self.is_frozen(r) or ended())
        file.unlink()
        r.until(lambda: not self.is_frozen(r) or ended())
        r.open()
        r.until(lambda: False)

    def is_frozen(self, r):
        agents = [pid for pid, command in r.processes() if "/sessions/" in command]
        try:
            return any("State:\tT" in pathlib.Path(f"/proc/{p}/status").read_text() for p in agents)
        except OSError:
            return False

    def settle(self, r):
        for file in r.files("state/interrupts"):
            if file.suffix == ".interrupt":
                file.unlink()
        r.open()


class Asked(Scene):
    """asked, answer: its agent asks and ends; its item goes on when a person has answered."""

    items = {"x": ("done", 2)}
    args = ["run", "--workers", "1"]

    def prepare(self, r):
        # Without a word, so that it is not frozen before it has ended.
        r.script("x", f"{WORK}; [ $HARNESS_ATTEMPT -ge 2 ] || : >$HARNESS_INTERRUPT")

    def waits(self, r):
        return r.at("queue/parked/x") and not r.at("state/claims/x")

    def play(self, r):
        r.until(lambda: self.waits(r) or r.at("queue/done/x"))
        if r.at("queue/done/x"):
            # Its keeper was killed when it had asked, and it was tried again.
            os.kill(r.traced[1], signal.SIGTERM)
            r.until(lambda: False)
        slot = next(iter(r.files("state/interrupts"))).name.strip(".").split(".")[0]
        r.harness("resume", slot, "--answer", "the left one")
        r.until(lambda: r.at("queue/done/x") and not r.at("state/claims/x"))
        os.kill(r.traced[1], signal.SIGTERM)
        r.until(lambda: False)

    def settle(self, r):
        if r.at("queue/done/x"):
            return
        if not r.has("x", "answered") and not any("answer.md" in str(p) for p in r.files("state/sessions")):
            r.drain()
        r.harness("resume")


def prompts_go_to_the_mock(r, more=""):
    """As claude, with what really ran in the log. `more`: in its table."""
    mock = pathlib.Path(r.opts.bin).with_name("mock-agent")
    wrapper = r.base / "agent"
    wrapper.write_text(f'#!/bin/sh\nwho="$HARNESS_ITEM $HARNESS_SESSION"\necho begin $who >>{r.log}\n'
                       f'{mock} claude "$@"\ns=$?\necho end $who >>{r.log}\nexit $s\n')
    wrapper.chmod(0o755)
    args = ["-p", "--output-format", "stream-json", "--verbose", "--session-id",
            "{{SESSION_ID}}", "--allowedTools", "Bash,Write,Edit"]
    with open(r.path / "harness.toml", "a") as toml:
        toml.write(f'agent = "mine"\n[agents.mine]\ncommand = {json.dumps([str(wrapper), *args])}\n'
                   f'events = "claude"\nenv = {{ MOCK_HOME = "{r.base}/home" }}\n{more}')


class Hold(Scene):
    """A refused login holds its agent; a person mends it, and the other item goes on."""

    items = {"a.md": ("parked", 1), "b.md": ("done", 1)}
    args = ["run", "--workers", "1"]
    modes = ("git",)

    def prepare(self, r):
        prompts_go_to_the_mock(r)
        r.drop("a.md", "---\npriority: high\n---\nDo it.\n[[mock:auth]]\n", 0o644)
        r.drop("b.md", "Do it.\n[[mock:success file=f-b.md]]\n", 0o644)

    def play(self, r):
        r.until(lambda: r.at("queue/parked/a.md") and r.at("state/holds/mine.hold"))
        r.harness("resume")
        r.until(lambda: r.at("queue/done/b.md") and not r.at("state/claims/b.md"))
        os.kill(r.traced[1], signal.SIGTERM)
        r.until(lambda: False)

    def settle(self, r):
        if not r.at("queue/parked/a.md"):
            r.drain()
        r.harness("resume")

    def check(self, r):
        held = [p.name for p in r.files("state/holds")]
        return [f"still held: {held}"] if held else []


class Budget(Scene):
    """reserve, charge: whoever dies, each session is charged once."""

    items = {"x.md": ("done", 1)}
    modes = ("plain",)
    roles = (*HARNESS, "keeper")
    # What an attempt reserves, and what one costs that says it.
    LIMIT, COST = 1.0, 0.03

    def prepare(self, r):
        prompts_go_to_the_mock(r, f"budget_usd = {self.LIMIT}\n[budget]\nday_usd = 100.0\n")
        r.drop("x.md", "Do it.\n[[mock:success]]\n", 0o644)

    def check(self, r):
        path = r.path / "state/budget/budget.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        wrong = []
        if state.get("reserved"):
            wrong.append(f"still reserved: {state['reserved']}")
        # Each session once: with what it said, or, where its keeper died, with what it had reserved.
        charged = [round(e.get("charged_usd") or 0, 6) for e in r.events("x.md") if e["event"] == "finished"]
        if abs(sum(charged) - state.get("today", {}).get("usd", 0)) > 1e-6:
            wrong.append(f"charged {charged}, counted {state.get('today')}")
        if not charged or not set(charged) <= {self.LIMIT, self.COST}:
            wrong.append(f"charged {charged}")
        return wrong


class Unpaid(Scene):
    """park what its item cannot pay: that is no attempt, and whoever dies, it gets no budget again."""

    items = {"x.md": ("parked", 1)}
    modes = ("plain",)
    roles = HARNESS

    def prepare(self, r):
        prompts_go_to_the_mock(r, "budget_usd = 1.0\n[budget]\nitem_usd = 0.04\n")
        # It tells no cost, and is charged with what it had reserved: all that its item has.
        r.drop("x.md", "Do it.\n[[mock:crash]]\n", 0o644)

    def outcome(self, r, name):
        return "over_budget" if r.has(name, "parked") else "failed"

    def check(self, r):
        ended = [e for e in r.events("x.md") if e["event"] == "finished"]
        return [] if len(ended) == 1 else [f"ends: {ended}"]


class First(Hold):
    """elect, start, answered: a hold is over, and one slot tries first."""

    items = {"a.md": ("done", 1), "b.md": ("done", 1)}
    args = RUN

    def prepare(self, r):
        prompts_go_to_the_mock(r)
        for name in self.items:
            r.drop(name, f"Do it.\n[[mock:success file=f-{name}]]\n", 0o644)
        hold = {"until": "2026-01-01T00:00:00Z", "class": "usage_limit"}
        (r.path / "state/holds/mine.hold").write_text(json.dumps(hold))

    def play(self, r):
        r.until(lambda: False)

    def settle(self, r):
        r.open()


class Dirty(Scene):
    """salvage: the worktree holds what a dead attempt left: edited, staged, untracked."""

    modes = ("git",)
    roles = ("slot", "git")
    items = {"w": ("done", 1), "x": ("done", 1)}

    def prepare(self, r):
        r.script("w", WORK)
        r.drain()
        self.tree = r.path / "worktrees/agent-1"
        self.texts = {}
        self.soil(r)
        r.script("x", WORK)

    def write(self, path, text):
        self.texts[path] = f"{text} {'.' * 20}"
        file = self.tree / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(self.texts[path] + "\n")

    def soil(self, r):
        self.write("README", "edited by nobody knows whom")
        self.write("staged", "staged and not committed")
        git(self.tree, "add", "staged", check=True)
        self.write("untracked", "known to nobody")
        self.write("deep/untracked", "known to nobody, and deeper")

    def lost(self, r):
        """Which of the texts are neither in the worktree nor in what a ref of the hub, or of the slot's
        own repository, holds."""
        held = ""
        inside = [*(r.path / "state/repos").rglob("objects"), *(r.path / "worktrees").rglob("objects")]
        for repo in [p.parent for p in inside if (p.parent / "HEAD").exists()]:
            names = git(repo, "rev-list", "--objects", "--all").split("\n")
            for head in [p.read_text().strip() for p in repo.glob("slots/*/HEAD")]:
                if not head.startswith("ref:"):
                    names += git(repo, "rev-list", "--objects", head).split("\n")
            oids = "\n".join(sorted({name.split(" ")[0] for name in names if name}))
            held += subprocess.run(["git", "-C", repo, "cat-file", "--batch"], input=oids.encode(),
                                   capture_output=True).stdout.decode(errors="replace")
        held += "".join(p.read_text(errors="replace") for p in (r.path / "worktrees").rglob("*")
                        if p.is_file() and ".git/" not in str(p))
        return [path for path, text in self.texts.items() if text not in held]

    def settle(self, r):
        # Now, before anything is mended: not only in the end.
        self.early = self.lost(r)

    def check(self, r):
        wrong = [f"lost at once: {self.early}"] if self.early else []
        left = self.lost(r)
        return wrong + ([f"lost: {left}"] if left else [])


class DirtyMerge(Dirty):
    """salvage: in the middle of a merge, on no branch, with a lock that nobody holds."""

    stale_lock = True

    def soil(self, r):
        run = lambda *args: git(self.tree, *args)
        run("checkout", "-q", "-b", "theirs")
        self.write("README", "theirs")
        run("commit", "-qam", "theirs")
        run("checkout", "-q", "--detach", "HEAD~1")
        self.write("README", "ours")
        run("commit", "-qam", "ours, on no branch")
        self.texts["ours"] = self.texts["README"]
        run("branch", "-q", "-M", "theirs", "elsewhere")
        run("merge", "-q", "elsewhere")
        super().soil(r)
        (r.hub / "slots/agent-1/index.lock").touch()


class Renew(Dirty):
    """begin: a slot's repository, and a submodule's in it, is made anew over what a dead attempt made
    of them: branches, commits on none, a stash, settings, hooks. What comes before is `salvage`."""

    roles = ("slot",)
    like = "*/worktrees/*agent-1.git*|*/slots/agent-1/given|*/slots/agent-1/branch"

    def prepare(self, r):
        outer = r.base / "sub"
        outer.mkdir()
        (outer / "inner").write_text("inner\n")
        git(outer, "init", "-q", "-b", "main")
        git(outer, "add", ".")
        git(outer, "commit", "-q", "-m", "one")
        local = ("-c", "protocol.file.allow=always")
        git(r.repo, *local, "submodule", "add", "-q", str(outer), "sub", check=True)
        git(r.repo, "commit", "-q", "-m", "a submodule", check=True)
        super().prepare(r)
        # What is its own to see: nothing of the last one's.
        r.script("x", f"""{WORK}; for at in . sub; do
                      [ "$(cd $at; git config --get sweep.mark; git stash list; git branch --list own)" = "" ] &&
                      [ -z "$(git -C $at ls-files --modified --deleted)" ] || exit 3; done
                      git commit -q --allow-empty -m x; [ ! -e {r.base}/hooked ] || exit 3""")

    def soil(self, r):
        for at in (".", "sub"):
            run = lambda *args: git(self.tree / at, *args, check=True)
            run("config", "sweep.mark", "somebody's")
            run("config", "core.logAllRefUpdates", "false")
            hook = pathlib.Path(run("rev-parse", "--path-format=absolute", "--git-path", "hooks").strip())
            (hook / "post-commit").write_text(f"#!/bin/sh\n: >{r.base}/hooked\n")
            (hook / "post-commit").chmod(0o755)
            run("checkout", "-q", "-b", "own")
            for name in ("committed", "stashed", "on-no-branch"):
                self.write(f"{at}/{name}", f"{name} in {at}")
                run("add", name)
                if name == "stashed":
                    run("stash", "-q")
                    continue
                if name == "on-no-branch":
                    run("checkout", "-q", "--detach")
                run("commit", "-q", "-m", name)
            self.write(f"{at}/untracked", f"untracked in {at}")
            # One pack goes in one call where loose objects go in many.
            run("repack", "-adlq")
            run("pack-refs", "--all")
        (r.base / "hooked").unlink()

    def check(self, r):
        # Whose slot is being recovered takes another: the next one has this again.
        r.script("later", WORK)
        r.drain()
        hidden = [p.name for p in (r.path / "worktrees").rglob(".*") if p.suffix in (".new", ".old")]
        wrong = [f"left beside a slot's repository: {hidden}"] if hidden else []
        for at in (".", "sub"):
            if git(self.tree / at, "fsck", "--no-dangling"):
                wrong.append(f"the repository of {at} is damaged")
        return wrong + super().check(r)


class RenewAgain(Renew):
    """begin: the slot's old repository was renamed away, and the new one is not in its place."""

    def prepare(self, r):
        super().prepare(r)
        r.killed_at("slot", "rename */worktrees/.agent-1.git.new /worktrees/agent-1.git")
        assert not r.at("worktrees/agent-1.git") and r.at("worktrees/.agent-1.git.old"), r.picture()
        # Its item is put back; not started, as it would be in whatever slot is free.
        tomorrow, r.traced = time.time() + 86400, None
        os.utime(r.claimed("x"), (tomorrow, tomorrow))
        first = r.start()
        r.until(lambda: r.at("queue/pending/x") and not r.at("state/claims/x"))
        first.kill()
        first.wait()
        r.until(lambda: not r.processes())
        os.utime(r.path / "queue/pending/x", (1e9, 1e9))


class Gate(Scene):
    """gate: what its agent made passes a gate that is red at first and that writes into the worktree."""

    toml = ('[gates.g]\nscript = "echo junk >junk; test -e f-$HARNESS_ITEM || exit 9; '
            'test -e $HARNESS_SESSION_DIR/red || { touch $HARNESS_SESSION_DIR/red; exit 1; }"\n')

    def prepare(self, r):
        r.script("x", WORK)

    def check(self, r):
        events = r.events("x")
        said = [(e["session"], e["verdict"]) for e in events if e["event"] == "gate"]
        wrong = []
        if len({session for session, _ in said}) != len(said):
            wrong.append(f"a verdict is on record twice: {said}")
        if not said or any(verdict not in ("green", "flaky") for _, verdict in said):
            wrong.append(f"its gate did not pass: {said}")
        for branch in r.published("x") if r.mode == "git" else []:
            if "junk" in git(r.repo, "ls-tree", "-r", "--name-only", branch).split():
                wrong.append("what its gate wrote is in its branch")
        return wrong


class Copy(Scene):
    """begin: ignored files of the user's checkout come into a new worktree, each whole or not at all."""

    modes = ("git",)
    roles = ("slot", "git")
    files = {".env": "KEY=1\n", "target/a": "a\n", "target/deep/b": "b\n"}

    def prepare(self, r):
        (r.repo / ".gitignore").write_text(".env\ntarget\n")
        (r.repo / ".worktreeinclude").write_text(".env\ntarget\n")
        git(r.repo, "add", ".")
        git(r.repo, "commit", "-q", "-m", "ignore")
        for path, text in self.files.items():
            (r.repo / path).parent.mkdir(parents=True, exist_ok=True)
            (r.repo / path).write_text(text)
        (r.repo / "target/link").symlink_to("deep/b")
        # All of it, at each start.
        test = " && ".join(f"cmp -s {path} {r.repo / path}" for path in [*self.files, "target/link"])
        r.script("x", f"{{ {test}; }} || echo half >>{r.base}/half; {WORK}")

    def check(self, r):
        wrong = []
        if (r.base / "half").exists():
            wrong.append("its agent began with half of what was to be copied")
        if left := list((r.path / "worktrees").glob(".agent-*.copy")):
            wrong.append(f"half-made copies are left: {left}")
        return wrong


class Hooks(Scene):
    """set up, tell: a hook leaves files in the worktree before the agent starts, and another is told of
    the end."""

    roles = ("slot", "keeper")

    def prepare(self, r):
        self.told = r.base / "told"
        for name, body in {
            "worktree-setup": "echo stray >stray",
            "after-end": f'echo "$HARNESS_SESSION $HARNESS_STATE" >>{self.told}',
        }.items():
            hook = r.path / "hooks" / name
            hook.write_text(f"#!/bin/sh\n{body}\n")
            hook.chmod(0o755)
        r.script("x", WORK)

    def check(self, r):
        ended = {e["session"] for e in r.events("x") if e["event"] == "finished"}
        deadline = time.monotonic() + 10
        # One that outlived its harness is about to say so.
        while (missing := ended - self.said()) and time.monotonic() < deadline:
            time.sleep(0.01)
        wrong = [f"nobody was told of the end of {missing}"] if missing else []
        for branch in r.published("x") if r.mode == "git" else []:
            if "stray" in git(r.repo, "ls-tree", "-r", "--name-only", branch).split():
                wrong.append("what its hook left is in its branch")
        return wrong

    def said(self):
        return {line.split()[0] for line in self.told.read_text().splitlines()} if self.told.exists() else set()


class Merge(Scene):
    """take, chain, gate, announce, swap, merged, move: an approved branch, and two more together, get
    into a base that is checked out nowhere."""

    items = {"w": ("done", 1), "x": ("done", 1), "y": ("done", 1)}
    modes = ("git",)
    roles = ("slot", "keeper", "git")
    # Where the user is.
    on = "elsewhere"

    def __init__(self):
        self.toml = ('[integrate]\nmode = "review"\ninto = "main"\n[gates.tree]\nwhen = ["merge"]\n'
                     'script = "git rev-parse HEAD^{tree} >>$HARNESS_ROOT/../gated"\n')

    def prepare(self, r):
        self.gated = r.base / "gated"
        for path in ("edited", "folder", "gone", "deep/gone"):
            (r.repo / path).parent.mkdir(exist_ok=True)
            (r.repo / path).write_text(f"{path}\n" * 9)
        git(r.repo, "add", ".")
        git(r.repo, "commit", "-q", "-m", "two")
        if self.on != "main":
            git(r.repo, "checkout", "-q", "-b", self.on)
        git(r.repo, "reflog", "expire", "--expire=all", "--all")
        for name in self.items:
            r.script(name, WORK if name != "x" else f"{WORK}; echo x >>edited; chmod +x README; "
                     "git rm -q gone deep/gone folder; mkdir folder; echo x >folder/new")
        r.drain()
        self.heads = {name: r.published(name)[0] for name in self.items}
        for name in self.items:
            # A person approves it.
            os.rename(r.path / "queue/review" / name, r.path / "queue/merge" / name)

    def settle(self, r):
        # A lock that a killed git left in the user's repository is theirs to remove, who are told.
        left = [p for p in (r.repo / ".git").glob("**/*.lock") if p.name != "index.lock"]
        for lock in left:
            lock.unlink()
        if left:
            # It may have been in the way of this alone, which was said.
            for ref in git(r.repo, "for-each-ref", "--format=%(refname)", "refs/harness").split():
                git(r.repo, "update-ref", "-d", ref)
        if left and r.files("queue/merge"):
            run = r.start()
            r.until(lambda: all(r.at(f"queue/done/{name}") for name in self.items))
            run.terminate()
            run.wait()

    def check(self, r):
        wrong = []
        for name, branch in self.heads.items():
            inside = git(r.repo, "branch", "--list", "main", "--contains", branch)
            events = [e["event"] for e in r.events(name)]
            if not inside or events.count("merged") != 1:
                wrong.append(f"{name} is not merged once: {inside}, {events}")
        tips = git(r.repo, "reflog", "--format=%H %T", "main").split("\n")[:-1]
        gated = self.gated.read_text().split() if self.gated.exists() else []
        if wild := [tip for tip in tips if tip.split()[1] not in gated]:
            wrong.append(f"the base was at trees that nobody gated: {wild}")
        kept = [str(p.relative_to(r.repo)) for p in (r.repo / ".git").glob("index*") if p.name != "index"]
        if kept:
            wrong.append(f"left in the user's repository: {kept}")
        files = git(r.repo, "ls-tree", "-r", "--name-only", "HEAD").split("\n")[:-1]
        odd = [f for f in files if not (r.repo / f).exists()
               or (r.repo / f).read_text() != git(r.repo, "show", f"HEAD:{f}")]
        if odd or (self.on == "main") != ("folder/new" in files):
            wrong.append(f"the user's files are not those of their branch: {odd or files}")
        return wrong


class MergeHere(Merge):
    """The same where the user has the base checked out."""

    on = "main"


class MergeOne(Merge):
    """One branch, where the user has the base checked out: all that differs goes in one landing."""

    items = {"x": ("done", 1)}
    on = "main"


class Conflict(Scene):
    """merge, begin: a branch that conflicts goes back to its agent, where the merge is begun; then it lands."""

    items = {"x.md": ("done", 2)}
    modes = ("git",)
    roles = ("slot", "keeper", "git")
    branches = 2

    def __init__(self):
        self.toml = ('agent = "own"\n[integrate]\nmode = "review"\non_conflict = "agent"\n'
                     '[agents.own]\ncommand = ["sh", "{{ROOT}}/../agent"]\n')

    def prepare(self, r):
        who = "$HARNESS_ITEM $HARNESS_SESSION"
        (r.base / "agent").write_text(
            f"echo begin {who} >>{r.log}\n"
            "if [ $HARNESS_ATTEMPT = 1 ]; then echo mine >README; git commit -qam mine\n"
            "else grep -q '<<<<<<<' README && echo both >README && git add README && git commit -q --no-edit; fi\n"
            f"s=$?\necho end {who} >>{r.log}\nexit $s\n")
        r.drop("x.md", "do it\n", 0o644)
        r.drain()
        toml = r.path / "harness.toml"
        toml.write_text(toml.read_text().replace('mode = "review"', 'mode = "merge"'))
        (r.repo / "README").write_text("theirs\n")
        git(r.repo, "commit", "-q", "-a", "-m", "theirs")
        # A person approves it.
        os.rename(r.path / "queue/review/x.md", r.path / "queue/merge/x.md")

    def check(self, r):
        events = [e["event"] for e in r.events("x.md")]
        if events.count("merged") != 1 or git(r.repo, "show", "main:README") != "both\n":
            return [f"it is not merged as it was resolved: {events}, {git(r.repo, 'show', 'main:README')}"]
        return []


class Command(Scene):
    """A command that a person types: done or not done, never half. What was not done is done again."""

    modes = ("plain",)
    roles = ("command",)


class Add(Command):
    items = {"new.sh": ("done", 1)}

    def prepare(self, r):
        who = "$HARNESS_ITEM $HARNESS_SESSION"
        file = r.base / "new.sh"
        file.write_text(f"#!/bin/sh\necho begin {who} >>{r.log}\necho end {who} >>{r.log}\n")
        self.args = ["add", "-p", "high", str(file)]

    def settle(self, r):
        if not r.places("new.sh"):
            r.harness(*self.args)

    def outcome(self, r, name):
        return "succeeded"


class RetryCommand(Command):
    items = {"x": ("done", 2)}
    args = ["retry", "x"]

    def prepare(self, r):
        r.script("x", "[ $HARNESS_ATTEMPT -ge 2 ]", "#harness retries: 0")
        r.drain()

    def settle(self, r):
        if r.at("queue/parked/x"):
            r.harness("retry", "x")


class Release(Command):
    args = ["release", "x"]

    def prepare(self, r):
        r.script("x", WORK)
        tomorrow = time.time() + 86400
        os.utime(r.path / "queue/pending/x", (tomorrow, tomorrow))

    def settle(self, r):
        if (r.path / "queue/pending/x").stat().st_mtime > time.time() + 3600:
            r.harness("release", "x")


class CancelPending(Command):
    items = {"x": ("parked", 0)}
    args = ["cancel", "x"]

    def prepare(self, r):
        r.script("x", WORK)

    def settle(self, r):
        if r.at("queue/pending/x"):
            r.harness("cancel", "x")

    def outcome(self, r, name):
        return "canceled"


class ApproveCommand(Command):
    args = ["approve", "x"]
    modes = ("git",)
    toml = '[integrate]\nmode = "review"\n'

    def prepare(self, r):
        r.script("x", WORK)
        r.drain()

    def settle(self, r):
        if r.at("queue/review/x"):
            r.harness("approve", "x")

    def check(self, r):
        events = [e["event"] for e in r.events("x")]
        return [] if events.count("merged") == 1 else [f"it is not merged once: {events}"]


class RejectCommand(ApproveCommand):
    """Of one that is approved already: it gets another attempt, and only that one's branch is merged."""

    items = {"x": ("done", 2)}
    args = ["reject", "x", "--comment", "say it in French"]
    branches = 2

    def prepare(self, r):
        super().prepare(r)
        toml = r.path / "harness.toml"
        toml.write_text(toml.read_text().replace('mode = "review"', 'mode = "merge"'))
        os.rename(r.path / "queue/review/x", r.path / "queue/merge/x")

    def settle(self, r):
        if r.at("queue/merge/x"):
            r.harness(*self.args)

    def check(self, r):
        merged = [e["branch"] for e in r.events("x") if e["event"] == "merged"]
        return [] if merged == ["harness/x/2"] else [f"merged is {merged}"]


class InterruptCommand(Command):
    args = ["interrupt", "agent-1", "a person wants to look"]

    def prepare(self, r):
        r.script("x", WORK)

    def settle(self, r):
        r.harness("resume")


class Answer(Command):
    items = {"x": ("done", 2)}
    args = ["resume", "agent-1", "--answer", "the left one"]

    def prepare(self, r):
        r.script("x", "[ $HARNESS_ATTEMPT -ge 2 ] || : >$HARNESS_INTERRUPT")
        r.drain()

    def settle(self, r):
        r.harness("resume")


SCENES = {
    "finish": Finish, "retry": Retry, "foreign": Foreign, "park": Park, "refuse": Refuse, "put-back": PutBack,
    "put-back-early": PutBackEarly, "recover": Recover, "judge": Judge, "publish": Publish,
    "fenced": Fenced, "move": Move, "let-go": LetGo, "try-again": TryAgain, "adopt": Adopt, "cancel": Cancel,
    "cancel-command": CancelByCommand, "interrupt": Interrupt, "asked": Asked, "hold": Hold, "budget": Budget, "unpaid": Unpaid,
    "first": First,
    "salvage": Dirty, "salvage-merge": DirtyMerge, "renew": Renew, "renew-again": RenewAgain,
    "gate": Gate, "copy": Copy, "hooks": Hooks, "merge": Merge, "merge-here": MergeHere, "merge-one": MergeOne, "conflict": Conflict,
    "add": Add, "retry-command": RetryCommand, "approve-command": ApproveCommand, "reject-command": RejectCommand,
    "release": Release, "cancel-pending": CancelPending, "interrupt-command": InterruptCommand,
    "answer": Answer,
}
