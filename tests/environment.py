"""The environment of what the long proofs run: nobody's settings of git, one language."""

import os


def plain(home):
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "LC_ALL": "C",
    }


def with_fault(env):
    """With the planted fault of this run, if it has one (tests/mutants.py)."""
    return {**env, "HARNESS_MUTANT": os.environ.get("HARNESS_MUTANT", "")}
