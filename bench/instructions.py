#!/usr/bin/env python3
"""Counts the instructions that harness and its keepers spend on a script in a plain directory, with
callgrind: repeatable whatever else the machine does, so that CI can hold it.

    bench/instructions.py [--bin target/release/harness] [--items 100]

Exit code: 0 within the limits, 1 above one, 2 not possible here (no valgrind).
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
# Instructions an item, as counted on x86-64 with Rust 1.95, and a tenth more.
LIMITS = {"harness": 240_000, "keeper": 46_000}
# As they are counted too: an agent inherits them.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C"}
CONFIG = """[harness]
stagger = 0
durability = "off"
[repo]
path = "none"
"""


def spent(binary, items):
    """Instructions of the harness and of its keeper, from their start to their end."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="harness-instructions-"))
    try:
        root = work / "root"
        subprocess.run([binary, "init", root], check=True, stdout=subprocess.DEVNULL)
        (root / "harness.toml").write_text(CONFIG)
        for n in range(items):
            item = work / f"item-{n:04}"
            item.write_text("#!/bin/sh\n:\n")
            item.chmod(0o755)
            item.rename(root / "queue/pending" / item.name)
        subprocess.run(
            ["valgrind", "--tool=callgrind", "--trace-children=yes", "--trace-children-skip=*/item,/bin/*,/usr/bin/*",
             f"--callgrind-out-file={work}/out.%p", binary, "--root", root, "run", "--drain", "--workers", "1"],
            check=True, capture_output=True, timeout=200, env=ENVIRONMENT)
        done = len(list((root / "queue/done").iterdir()))
        assert done == items, f"{done} of {items} done"
        counts = {"harness": 0, "keeper": 0}
        for out in work.glob("out.*"):
            text = out.read_text(errors="replace")
            command = re.search(r"^cmd: (.*)$", text, re.M)
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if command and total:
                who = "keeper" if " keeper " in command[1] + " " else "harness"
                counts[who] += int(total[1])
        return counts
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--bin", default=HERE / "target/release/harness", type=pathlib.Path)
    args.add_argument("--items", type=int, default=100)
    opts = args.parse_args()
    if not shutil.which("valgrind"):
        print("SKIPPED: valgrind is missing", file=sys.stderr)
        return 2
    few, many = spent(opts.bin.resolve(), 20), spent(opts.bin.resolve(), 20 + opts.items)
    above = False
    for who, limit in LIMITS.items():
        each = (many[who] - few[who]) / opts.items
        above |= each > limit
        print(f"{who}: {each:,.0f} instructions an item, at most {limit:,}")
    return int(above)


if __name__ == "__main__":
    sys.exit(main())
