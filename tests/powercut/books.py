"""What must hold of a disk after a power cut."""

import json

from lab import PLACES


def text_of(path):
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def places_of(lab):
    """Name → list of (place, path)."""
    found = {}
    for place in PLACES:
        for path in (lab.root / "queue" / place).rglob("*"):
            # Right before its end is recorded a claimed item has this after its name.
            name = path.name.removesuffix(".~ending~")
            if path.is_dir() or name == ".gitignore" or name.endswith(".tmp"):
                continue
            found.setdefault(name, []).append((place, path))
    return found


def lines_of(lab, name, what):
    lines = []
    for line in text_of(lab.root / f"state/items/{name}.jsonl").split("\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == what:
            lines.append(event)
    return lines


def fsck(lab, where, repo):
    out = lab.git(repo, "fsck", "--full", "--no-dangling")
    # A slot's administration folder in harness's copy, which git does not sync, is no loss: it is
    # nobody's way, and the next to use that slot throws it away.
    broken = "error: invalid worktrees/"
    said = [line for line in (out.stdout + out.stderr).strip().split("\n")
            if line and not (repo == lab.hub and line.startswith(broken))]
    if not said and (out.returncode == 0 or broken in out.stderr):
        return []
    return [f"git fsck of {where} ({out.returncode}): {'; '.join(said[:6])}"]


def check_adds(lab, acks):
    lost, found = [], places_of(lab)
    for name in acks.adds:
        at = found.get(name, [])
        if len(at) != 1:
            lost.append(f"{name} was added and is in {[p for p, _ in at] or 'no place'}")
        elif at[0][1].read_bytes() != (lab.dir / name).read_bytes():
            lost.append(f"{name} is not whole in {at[0][0]}/: {at[0][1].stat().st_size} bytes")
    return lost


def check_done(lab, name, branches, place):
    wrong = []
    if place not in ("done", "claimed"):
        wrong.append(f"is in {place}")
    end = "merge" if lab.opts.into else "done"
    ends = [e for e in lines_of(lab, name, "finished") if e.get("next") == end]
    if lab.opts.into and len(lines_of(lab, name, "merged")) != 1:
        wrong.append(f"has {len(lines_of(lab, name, 'merged'))} `merged` lines")
    if len(ends) != 1:
        wrong.append(f"has {len(ends)} `finished` lines with next={end}")
    else:
        sid = ends[0].get("session", "")
        try:
            session = json.loads((lab.root / "state/sessions" / sid / "session.json").read_text())
            if session.get("outcome") != "succeeded":
                wrong.append(f"session.json says {session.get('outcome')}")
        except (OSError, ValueError) as e:
            wrong.append(f"session.json: {e}")
    if len(branches) != 1:
        wrong.append(f"had the branches {branches} when it was seen")
    for attempt, oid in branches.items():
        ref = f"refs/heads/harness/{name}/{attempt}"
        now = lab.git(lab.repo, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        if now.stdout.strip() != oid:
            wrong.append(f"its branch was {oid} and is {now.stdout.strip() or 'gone'}")
        elif lab.git(lab.repo, "show", f"{oid}:f-{name}").stdout != f"the work of {name}\n":
            wrong.append("its branch does not hold its work")
    return [f"{name} was done and {w}" for w in wrong]


def check_merged(lab):
    """What is recorded as merged is in the branch that it was merged into."""
    wrong = []
    for record in (lab.root / "state/items").glob("*.jsonl"):
        for event in lines_of(lab, record.name.removesuffix(".jsonl"), "merged"):
            for what in ("commit", "tip", "head"):
                inside = lab.git(lab.repo, "merge-base", "--is-ancestor", event[what], lab.opts.into)
                if inside.returncode:
                    wrong.append(f"{record.name}: merged, and {lab.opts.into} does not contain its {what}")
    return wrong


def check_end(lab, acks, drain):
    """The books after the run that set everything right."""
    wrong = []
    if drain.returncode != 0:
        last = (drain.stdout + drain.stderr).strip().split("\n")[-12:]
        wrong.append(f"the run after ended with {drain.returncode}: " + " | ".join(last))
    found = places_of(lab)
    for name in acks.adds:
        if name not in found:
            wrong.append(f"{name} was added and is nowhere")
    listed = lab.git(lab.repo, "for-each-ref", "--format=%(refname) %(objectname)",
                     "refs/heads/harness").stdout.split("\n")[:-1]
    branches = [line.removeprefix("refs/heads/harness/").split() for line in listed]
    for name, at in found.items():
        if [p for p, _ in at] != ["done"]:
            wrong.append(f"{name} is in {[p for p, _ in at]}")
            continue
        own = {b.split("/", 1)[1]: oid for b, oid in branches if b.startswith(name + "/")}
        if len(own) != 1:
            wrong.append(f"{name} has the branches {own}")
        elif name in acks.dones and own != acks.dones[name]:
            wrong.append(f"{name} was done as {acks.dones[name]} and is {own}")
        for oid in own.values():
            if lab.git(lab.repo, "show", f"{oid}:f-{name}").stdout != f"the work of {name}\n":
                wrong.append(f"the branch of {name} does not hold its work")
        if name in acks.dones and len(lines_of(lab, name, "finished")) != 1:
            wrong.append(f"{name} was done and ended again")
        if lab.opts.into and len(lines_of(lab, name, "merged")) != 1:
            wrong.append(f"{name} has {len(lines_of(lab, name, 'merged'))} `merged` lines")
    # git's lock of the packed refs is theirs to remove; until then no ref can be.
    locks = [str(p) for p in (lab.repo / ".git").rglob("*.lock")]
    if (held := lab.git(lab.repo, "for-each-ref", "refs/harness").stdout) and not locks:
        wrong.append(f"still held in the user's repository: {held}")
    if changed := lab.git(lab.repo, "status", "--porcelain").stdout:
        wrong.append(f"the user's checkout has changed: {changed}")
    return wrong + check_merged(lab)
