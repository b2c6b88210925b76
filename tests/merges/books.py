"""What must be true in the end."""

import json
from collections import Counter


class Books:
    def __init__(self, lab, people):
        self.lab, self.people = lab, people
        self.findings = []
        gated = [line.split() for line in lab.journal.read_text().splitlines()]
        self.runs = Counter(verdict for _, verdict, *_ in gated)
        self.green = {tree for tree, verdict, *_ in gated if verdict == "green"}
        self.tips = 0

    def wrong(self, text):
        self.findings.append(text)

    def check(self):
        self.check_tips()
        self.check_items()
        self.check_git()
        return self.findings

    def files(self, commit):
        return set(self.lab.line("ls-tree", "-r", "--name-only", commit).splitlines())

    def check_tips(self):
        """Each value that the ref ever had, by its log."""
        log = (self.lab.repo / ".git/logs/refs/heads/main").read_text().splitlines()
        tips = [line.split("\t")[0].split()[:2] for line in log]
        self.tips = len(tips)
        before, had = None, set()
        for old, new in tips:
            if before and old != before:
                self.wrong(f"the log of main has a gap: from {before} to {old}")
            if before and self.lab.git("merge-base", "--is-ancestor", old, new,
                                       check=False).returncode:
                self.wrong(f"main went from {old} to {new}, which does not contain it")
            before = new
            has = self.files(new)
            if had - has:
                self.wrong(f"tip {new} lacks what landed before it: {sorted(had - has)[:5]}")
            had |= has
            tree = self.lab.line("rev-parse", f"{new}^{{tree}}")
            if new not in self.people.commits and tree not in self.green:
                self.wrong(f"tip {new} with the tree {tree} was not gated green")
            bad = [file for file in has if file.startswith(("red/", "unapproved/"))]
            if bad:
                self.wrong(f"tip {new} has {bad}")
            both = [f for f in has if f.endswith(".one") and f[:-3] + "two" in has]
            if both:
                self.wrong(f"tip {new} has both of a pair that is red: {both}")
        if before != self.lab.line("rev-parse", "main"):
            self.wrong(f"main is not at {before}, the last one of its log")
        for commit in self.people.commits:
            if self.lab.git("merge-base", "--is-ancestor", commit, "main", check=False).returncode:
                self.wrong(f"a person's commit {commit} is not in main")

    def check_items(self):
        lab = self.lab
        landed = lab.line("log", "--first-parent", "--format=%H %(trailers:key=Harness-Item,"
                          "valueonly,separator=%x2C)", "main").splitlines()
        landed = [line.split() for line in landed if " " in line.strip()]
        commits = {name: commit for commit, name in landed}
        for name, times in Counter(name for _, name in landed).items():
            if times > 1:
                self.wrong(f"{name} has landed {times} times")
        has = self.files("main")
        self.done = set(lab.names("done"))
        self.parked = set(lab.names("parked"))
        self.review = set(lab.names("review"))
        outcomes = {}
        for name, kind in lab.kinds.items():
            record = (lab.root / "state/items" / f"{name}.jsonl").read_text().splitlines()
            events = [json.loads(line) for line in record]
            merged = [event for event in events if event["event"] == "merged"]
            last = events[-1]
            outcomes[name] = last.get("outcome")
            if name in self.done:
                self.check_done(name, has, commits, merged)
            elif f"landed/{name}" in has or merged:
                self.wrong(f"{name} has landed, and is not in done/")
            if name in self.parked and not last.get("reason"):
                self.wrong(f"{name} is parked without a reason: {last}")
            self.check_kind(name, kind, last)
        self.check_pairs(outcomes)

    def check_done(self, name, has, commits, merged):
        if f"landed/{name}" not in has:
            self.wrong(f"{name} is in done/, and its work is not in main")
        if len(merged) != 1:
            self.wrong(f"{name} is in done/ with {len(merged)} `merged` in its record")
        elif merged[0]["commit"] != commits.get(name):
            self.wrong(f"{name} landed as {commits.get(name)}; on record is {merged[0]['commit']}")
        elif self.lab.line("rev-parse", f"{merged[0]['tip']}^{{tree}}") != merged[0]["tree"]:
            self.wrong(f"{name}: the record has another tree than its landing")

    def check_kind(self, name, kind, last):
        place = ("done" if name in self.done else "parked" if name in self.parked
                 else "review" if name in self.review else "nowhere")
        says = (place, last.get("outcome"))
        wanted = {
            "good": [("done", None)],
            "flaky": [("done", None)],
            "red": [("parked", "gate_failed")],
            "fixed": [("parked", "conflict")],
            "moved": [("review", None)],
        }.get(kind)
        if kind.startswith("rival"):
            wanted = [("done", None), ("parked", "conflict")]
        if kind.startswith("pair"):
            wanted = [("done", None), ("parked", "gate_failed")]
        if says not in wanted:
            self.wrong(f"{name} ({kind}) is in {place}/: {last}")
        if kind == "fixed" and last.get("files") != [f"fixed/{name}"]:
            self.wrong(f"{name}: the conflict names {last.get('files')}")

    def check_pairs(self, outcomes):
        """One of each two has landed; the other's reason may name nobody else."""
        teams = {}
        for name, kind in self.lab.kinds.items():
            if kind.startswith(("rival", "pair")):
                teams.setdefault(kind.split(".")[0], []).append(name)
        for team, names in teams.items():
            done = [name for name in names if name in self.done]
            if len(names) == 2 and len(done) != 1:
                self.wrong(f"{team}: {done} of {names} landed")

    def check_git(self):
        lab = self.lab
        for repo in (lab.repo, lab.root / "state/repos/default.git"):
            said = lab.git("fsck", "--no-dangling", "--no-progress", repo=repo, check=False)
            if said.returncode or said.stderr.strip():
                self.wrong(f"git fsck in {repo.name}: {said.stdout}{said.stderr}")
        status = lab.line("status", "--porcelain")
        if status:
            self.wrong(f"the person's checkout is not as committed: {status[:200]}")
        if (lab.repo / ".git/index.lock").exists():
            self.wrong("the person's index is locked")
        for place in ("pending", "claimed", "merge"):
            if lab.names(place):
                self.wrong(f"left in {place}/: {sorted(lab.names(place))[:5]}")
