"""The first `cargo build` in a new worktree, against one in the user's checkout, on file systems that share
blocks between files (reflinks) and on one that does not."""

import os
import shutil
import subprocess
import sys
import time

from lab import STAMP, Lab, began, drop, harness, median, sh, stop, until

# Crates, each of which needs the one before; functions in each.
CRATES, FUNCTIONS = 12, 300
FILE_SYSTEMS = {"btrfs": ("mkfs.btrfs", "-q"), "xfs": ("mkfs.xfs", "-q"), "ext4": ("mkfs.ext4", "-q", "-F")}
REFLINKS = {"btrfs", "xfs"}
# Writes down when it began, builds, and how long that took (nanoseconds); then again with one file changed.
ITEM = """#!/bin/sh
{stamp} > "$HARNESS_ROOT/at-$HARNESS_ITEM"
unset CARGO_TARGET_DIR
took() {{ a=$({stamp}); cargo build --offline --quiet || exit 1; echo $(($({stamp}) - a)); }}
{{ took; echo '// edited' >> c{last}/src/lib.rs; took; }} > "$HARNESS_ROOT/took-$HARNESS_ITEM"
"""


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


def build(path):
    env = {k: v for k, v in os.environ.items() if k != "CARGO_TARGET_DIR"}
    begun = time.monotonic()
    sh("cargo", "build", "--offline", "--quiet", cwd=path, env=env)
    return time.monotonic() - begun


def in_worktree(lab, repo, copy):
    """Seconds until the item began, of its first build, and of the one after an edit."""
    root = lab.root(durability="full", repo=repo)
    text = (root / "harness.toml").read_text()
    (root / "harness.toml").write_text(text.replace("[repo]\n", f"[repo]\ncopy = {copy}\n"))
    run = harness(root, "--workers", 1)
    dropped = drop(root, "x", ITEM.format(stamp=STAMP, last=CRATES - 1).encode())
    until("x", (root / "queue/done/x").exists, 300)
    first, edited = (int(line) / 1e9 for line in (root / "took-x").read_text().split())
    waited = (began(root, "x") - dropped) / 1e9
    stop(run)
    shutil.rmtree(root)
    return waited, first, edited


def on(lab, name):
    repo = lab.fresh("repo")
    workspace(repo)
    build(repo)
    # A build of the last file alone, as the item does it.
    leaf = repo / f"c{CRATES - 1}/src/lib.rs"
    text, ours, edits, there, without = leaf.read_text(), [], [], [], []
    for _ in range(lab.opts.rounds):
        ours.append(build(repo))
        leaf.write_text(text + "// edited\n")
        edits.append(build(repo))
        leaf.write_text(text)
        build(repo)
        there.append(in_worktree(lab, repo, '["target"]'))
        without.append(in_worktree(lab, repo, "[]"))
    files = sum(len(found) for _, _, found in os.walk(repo / "target"))
    what, goal = f"first cargo build, {CRATES} crates, {name}", {"at_most": 1.2} if name in REFLINKS else {}
    waits, firsts, afters = (median(column) for column in zip(*there))
    ours, edits = median(ours), median(edits)
    lab.row(what, "your checkout", ours * 1e3, "ms")
    lab.row(what, "new worktree", firsts * 1e3, "ms", firsts / ours, **goal)
    lab.row(what, "new worktree, no copy", median(w[1] for w in without) * 1e3, "ms")
    what = f"cargo build after an edit, {name}"
    lab.row(what, "your checkout", edits * 1e3, "ms")
    lab.row(what, "new worktree", afters * 1e3, "ms", afters / edits, **goal)
    what = f"start of the item, {name}"
    lab.row(what, "no copy", median(w[0] for w in without) * 1e3, "ms")
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
