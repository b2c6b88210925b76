"""The first `cargo build` in a new worktree, against one in the user's checkout, on file systems that share
blocks between files (reflinks) and on one that does not."""

import os
import shutil
import subprocess
import sys

from lab import STAMP, Lab, began, drop, harness, sh, stop, until

# Crates, each of which needs the one before; functions in each.
CRATES, FUNCTIONS = 40, 40
FILE_SYSTEMS = {"btrfs": ("mkfs.btrfs", "-q"), "xfs": ("mkfs.xfs", "-q"), "ext4": ("mkfs.ext4", "-q", "-F")}
REFLINKS = {"btrfs", "xfs"}
# Builds, and writes down how long that took (nanoseconds); then again with one file changed.
BUILDS = """unset CARGO_TARGET_DIR
took() {{ a=$({stamp}); cargo build --offline --quiet || exit 1; echo $(($({stamp}) - a)); }}
{{ took; echo '// edited' >> c{last}/src/lib.rs; took; }} > "{out}"
"""
ITEM = '#!/bin/sh\n{stamp} > "$HARNESS_ROOT/at-$HARNESS_ITEM"\n'


def workspace(path):
    members = ", ".join(f'"c{n}"' for n in range(CRATES))
    (path / "Cargo.toml").write_text(f'[workspace]\nmembers = [{members}]\nresolver = "2"\n')
    (path / ".gitignore").write_text("target\n")
    for n in range(CRATES):
        crate = path / f"c{n}"
        (crate / "src").mkdir(parents=True)
        needs = f'[dependencies]\nc{n - 1} = {{ path = "../c{n - 1}" }}\n' if n else ""
        (crate / "Cargo.toml").write_text(
            f'[package]\nname = "c{n}"\nversion = "0.1.0"\nedition = "2021"\n{needs}')
        before = f"c{n - 1}::f0(x)" if n else "x"
        body = "".join(
            f"pub fn f{k}(x: u64) -> String {{ let v: Vec<u64> = (0..x % {k + 3}).map(|y| y * {k}).collect();"
            f' format!("{{v:?}} {{:?}}", {before}) }}\n' for k in range(FUNCTIONS))
        (crate / "src/lib.rs").write_text(body)
    sh("cargo", "generate-lockfile", "--offline", cwd=path)
    git = ["git", "-C", path, "-c", "user.name=t", "-c", "user.email=t@example.com"]
    sh("git", "init", "-q", "-b", "main", path)
    sh(*git, "add", "-A")
    sh(*git, "commit", "-q", "-m", "one")


def script(out):
    return BUILDS.format(stamp=STAMP, last=CRATES - 1, out=out)


def read(out):
    return [int(line) / 1e9 for line in out.read_text().split()]


def in_checkout(repo, out):
    """Seconds of a build that has nothing to do, and of one after an edit; the edit is then taken back."""
    leaf = repo / f"c{CRATES - 1}/src/lib.rs"
    text = leaf.read_text()
    sh("sh", "-c", script(out), cwd=repo)
    leaf.write_text(text)
    sh("cargo", "build", "--offline", "--quiet", cwd=repo)
    return read(out)


def in_worktree(lab, repo, copy):
    """Seconds until the item began, of its first build, and of the one after an edit."""
    root = lab.root(durability="full", repo=repo)
    text = (root / "harness.toml").read_text()
    (root / "harness.toml").write_text(text.replace("[repo]\n", f"[repo]\ncopy = {copy}\n"))
    run = harness(root, "--workers", 1)
    item = ITEM.format(stamp=STAMP) + script("$HARNESS_ROOT/took")
    dropped = drop(root, "x", item.encode())
    until("x", (root / "queue/done/x").exists, 600)
    waited = (began(root, "x") - dropped) / 1e9
    stop(run)
    found = [waited, *read(root / "took")]
    shutil.rmtree(root)
    return found


def on(lab, name):
    repo = lab.fresh("repo")
    workspace(repo)
    sh("cargo", "build", "--offline", "--quiet", cwd=repo)
    ours, there = [], []
    for _ in range(lab.opts.rounds):
        ours.append(in_checkout(repo, lab.base / "took"))
        there.append(in_worktree(lab, repo, '["target"]'))
    cold = in_worktree(lab, repo, "[]")
    files = sum(len(found) for _, _, found in os.walk(repo / "target"))
    goal = {"at_most": 1.2} if name in REFLINKS else {}
    # The best of each: they are short, and what else the machine does only adds.
    first, edited = (min(column) for column in zip(*ours))
    waits, firsts, afters = (min(column) for column in zip(*there))
    what = f"first cargo build, {CRATES} crates, {name}"
    lab.row(what, "your checkout", first * 1e3, "ms")
    lab.row(what, "new worktree", firsts * 1e3, "ms", firsts / first, **goal)
    lab.row(what, "new worktree, no copy", cold[1] * 1e3, "ms", cold[1] / first)
    what = f"cargo build after an edit, {name}"
    lab.row(what, "your checkout", edited * 1e3, "ms")
    # rustc's incremental results are of the checkout's path alone: the edited crate is compiled whole.
    lab.row(what, "new worktree", afters * 1e3, "ms", afters / edited)
    what = f"start of the item, {name}"
    lab.row(what, "no copy", cold[0] * 1e3, "ms")
    lab.row(what, f"copy of {files:,} files", waits * 1e3, "ms")


def builds(lab):
    for name, mkfs in FILE_SYSTEMS.items():
        if os.geteuid() or not shutil.which(mkfs[0]):
            print(f"  {name}: left out, it takes root and {mkfs[0]}", file=sys.stderr)
            continue
        image, place = lab.base / f"image-{name}", lab.base / f"fs-{name}"
        place.mkdir()
        sh("truncate", "-s", "4G", image)
        sh(*mkfs, image)
        sh("mount", "-o", "loop", image, place)
        try:
            inner = Lab(lab.opts, place)
            inner.rows = lab.rows
            on(inner, name)
        finally:
            subprocess.run(["umount", place], check=False)
            image.unlink()
