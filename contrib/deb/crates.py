#!/usr/bin/env python3
"""Prints the licences and notices of the crates that are in the program: each text once, below the crates
that have it. They are part of the package, as most of these licences ask for."""

import json
import pathlib
import re
import subprocess
import sys


def cargo(*args):
    return subprocess.run(["cargo", *args, "--locked"], check=True, capture_output=True, text=True).stdout


def main():
    # What is built into it: not what builds or tests it.
    tree = cargo("tree", "--edges", "normal", "--prefix", "none", "--format", "{p}")
    used = set(re.findall(r"^(\S+) v(\S+)", tree, re.M))
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    texts = {}
    for package in sorted(packages, key=lambda p: (p["name"], p["version"])):
        name, version = package["name"], package["version"]
        if (name, version) not in used or name == "harness":
            continue
        folder = pathlib.Path(package["manifest_path"]).parent
        files = [f for f in sorted(folder.iterdir()) if re.match(r"(?i)(licen[cs]e|copying|notice|copyright)", f.name)]
        print(f"{name} {version}: {package['license'] or 'see its files'}")
        for file in files:
            if file.is_file():
                text = file.read_text(errors="replace").strip()
                texts.setdefault(text, []).append(f"{name} {version}")
    if not texts:
        sys.exit("crates.py: no crate has a licence file: were they fetched?")
    for text, owners in texts.items():
        print(f"\n{'-' * 72}\n{', '.join(owners)}\n\n{text}")


main()
