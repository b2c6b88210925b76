#!/usr/bin/env python3
"""Runs every proof of docs/reliability.md against its planted faults: each must fail.

A proof that stays green with its fault planted proves nothing. The faults are in src/mutant.rs,
behind the cargo feature `mutants`, and are chosen by HARNESS_MUTANT.

    tests/mutants.py [--only PART] [--list] [-v]

`--only`: the faults or proofs whose name has this part. Exit code: 0 every proof failed as it
must, 1 at least one did not.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
BIN = os.environ.get("HARNESS_BIN", "target/debug/harness")


def it(*filters, of="it"):
    """A proof that is a test of tests/it, or of another test program."""
    return ["cargo", "test", "-q", "--features", "mutants", "--test", of, "--", *filters]


def unit(*filters):
    """A proof that is a unit test."""
    return ["cargo", "test", "-q", "--features", "mutants", "--lib", "--", *filters]


def ending(name, filter="with_a_cgroup"):
    """One line of the table of tests/it/endings.rs."""
    return ["env", f"HARNESS_ENDING={name}", *it(f"endings::nothing_outlives_any_ending_{filter}")]


def sweep(scene, role, *more, mode="plain"):
    """A proof that is one scene of tests/sweep."""
    args = ["--scene", scene, "--mode", mode, "--role", role, "--stop", *more]
    return [sys.executable, "tests/sweep", "--bin", BIN, *args]


def powercut(*options):
    """A proof by power cuts, as many of them as it takes to notice."""
    return ["python3", "tests/powercut", "--bin", BIN, "--fail-fast", *options]


def merges(*options):
    """Three processes that merge, are killed, and are looked at."""
    args = ["--processes", "3", "--branches", "20", "--every", "2", "--seconds", "90", *options]
    return [sys.executable, "tests/merges", "--bin", BIN, *args]


# (planted fault, proof that must notice it); "-": the proof plants its fault itself
PROOFS = [
    ("slot-not-given-up", it("hosts::")),
    ("late-goes-on", it("hosts::")),
    ("lost-outlives", it("hosts::what_was_said")),
    ("node-is-here", it("hosts::the_host_that_serves")),
    ("lack-of-host-holds", it("hosts::a_host_on_which")),
    ("bad-host-goes-on", it("hosts::a_host_on_which")),
    ("job-by-prefix", it("submit::gc")),
    ("parked-is-failure", it("submit::status_says")),
    ("unknown-is-over", unit("engine::slurm::")),
    ("working-is-silent", it("slurm::slurms_own")),
    ("-", powercut("--ways", "1", "--mutant", "no-fsync")),
    ("-", powercut("--ways", "2", "--mutant", "no-dir-fsync")),
    ("publish-unsaid", powercut("--ways", "1", "--instants", "publish")),
    ("approve-by-name", it("review::an_approval")),
    ("unmerged-is-work", it("merging_conflicts::what_an_agent_leaves")),
    ("end-unflushed", powercut("--ways", "1", "--instants", "done")),
    ("end-unsynced", powercut("--ways", "1", "--instants", "done")),
    ("claim-without-election", it("races::what")),
    ("publish-unfenced", it("races::what")),
    ("return-overwrites", it("races::what")),
    ("lease-not-locked", it("races::what")),
    ("started-is-requeued", it("races::what")),
    ("idle-late", it(of="threads")),
    ("wake-up-kept", it("leaves", of="threads")),
    ("move-before-record", sweep("finish", "slot")),
    ("claim-not-recorded", sweep("finish", "slot")),
    ("started-is-requeued", sweep("judge", "command", "--slice", "8")),
    ("forget-then-remove", sweep("put-back", "slot")),
    ("reset-without-salvage", sweep("salvage", "slot", "--slice", "9", mode="git")),
    ("clean-before-salvage", sweep("salvage-merge", "slot", "--slice", "9", mode="git")),
    ("clean-before-salvage", sweep("salvage", "git", "--slice", "12", mode="git")),
    ("slot-modules-left", sweep("renew", "slot", "--slice", "3+31", mode="git")),
    ("foreign-removed-first", sweep("foreign", "slot", "--slice", "1+35")),
    ("trouble-is-final", sweep("finish", "slot", "--error", "ENOSPC", "--slice", "2")),
    ("trouble-is-final", it("trouble::an_item_that_could_not_be_started")),
    ("not-given-back-on-record", sweep("retry", "slot", "--error", "EMFILE", "--lasting", "1.3",
                                       "--slice", "4")),
    ("unread-end-is-unknown", sweep("judge", "slot", "--error", "EIO", "--slice", "2")),
    ("output-not-counted", it("limits::ten_gigabytes")),
    ("worktree-not-measured", it("limits::a_worktree_that_grows")),
    ("disk-not-watched", it("limits::whoever_writes")),
    ("unwatched-at-its-end", it("limits::what_is_being_stopped")),
    ("disk-filled-by-git", it("limits::what_the_disk_cannot_take")),
    ("tool-not-ended", it("limits::a_tool_that_eats")),
    ("agent-before-tool", it("limits::a_tool_that_eats")),
    ("crowd-not-thinned", it("limits::a_tool_that_starts")),
    ("agents-not-first", it("limits::agents_stand_back")),
    ("short-of-nothing", it("machine::while_memory")),
    ("place-not-kept", it("machine::of_all_trees")),
    ("disk-floor-sunk", [sys.executable, "tests/sweep/real.py", "--bin", BIN, "--only", "floor"]),
    ("echild-not-waited-for", ending("success")),
    ("cgroup-not-killed", ending("kill -9 of harness and keeper")),
    ("mark-not-looked-for", ending("kill -9 of harness and keeper", "without_a_cgroup")),
    ("forks-not-chased", ["cargo", "test", "-q", "--features", "mutants", "--lib", "--",
                          "what_is_born_during"]),
    ("unseen-is-dead", it("clocks::an_agent_that_lives_in_another_container")),
    ("a-copy-is-the-original", it("clocks::a_copy_of_a_root")),
    ("set-back-not-seen", it("clocks::a_time_that_a_person_set")),
    ("wall-clock-for-timeouts", it("clocks::a_clock_that_is_set")),
    ("pid-proves-life", it("clocks::a_process_that_has_a_dead_ones_number")),
    ("recorded-pid-killed", it("clocks::a_process_that_has_a_dead_ones_number")),
    ("git-stale-lock-stays", it("git_races::what_killed_gits_leave")),
    ("git-debris-stays", it("git_races::what_killed_gits_leave")),
    ("moved-by-link", it("races::where_a_rename")),
    ("move-not-ended", sweep("cancel-pending", "command", "--steps")),
    ("kept-on-host-only", it("local::")),
    ("recovered-elsewhere", it("local::what_an_agent")),
    ("hub-left-broken", it("local::a_repository_of_which")),
    ("disks-not-told-apart", it("local::a_worktree_of_the_same_slot")),
    ("slot-kept", it("slots::what_an_agent_sets")),
    ("hub-by-name", it("slots::a_name_of")),
    ("slot-settings-believed", it("slots::no_filter")),
    ("slot-not-brought", it("slots::the_names")),
    ("slot-settings-believed", it("planted::settings_hooks")),
    ("git-asks-in-links", it("planted::no_filter_runs_in")),
    ("slot-leads-out", it("planted::a_symlink_on_the_way")),
    ("slot-leads-out", it("planted::objects_that_lead")),
    ("slot-unread-is-empty", it("planted::refs_that_cannot")),
    ("filters-in-worktree", it("planted::a_filter_of")),
    ("hub-settings-stay", it("planted::settings_planted_in")),
    ("gate-settings-stay", it("planted::settings_hooks")),
    ("module-by-name", it("planted::a_submodule_that")),
    ("name-leads-out", it("sent_back::what_a_record")),
    ("name-leads-out", it("rogue::a_session_on_record")),
    ("session-file-believed", it("planted::a_forged")),
    ("git-waits-at-fifos", it("slots::a_fifo_in_the_place")),
    ("git-sparse-is-work", ["cargo", "test", "-q", "--features", "mutants", "--lib", "--",
                            "what_a_sparse_checkout"]),
    ("git-strangers-stay", it("slots::what_git_cannot")),
    ("charged-twice", sweep("budget", "slot", "--slice", "6")),
    ("reserved-after-spawn", it("budget::four_processes")),
    ("records-not-counted", it("budget_waits::what_was_used")),
    ("unpaid-on-record-first", sweep("unpaid", "slot")),
    ("copied-in-place", sweep("copy", "slot", "--slice", "5", mode="git")),
    ("copied-times-not-set", it("surroundings::a_first_build")),
    ("copied-though-not-ignored", it("surroundings::only_what_git")),
    ("git-publish-without-swap", it("git_shapes")),
    ("land-without-swap", ["cargo", "test", "-q", "--features", "mutants", "--lib", "--",
                           "of_many_that_land"]),
    ("red-once-is-red", it("gates::each_gate_meets")),
    ("gate-on-leftovers", it("gates::each_gate_meets")),
    ("gate-end-forgotten", it("gates::whoever_dies")),
    ("gating-collected", it("gates::an_item_that_is_taken")),
    ("land-without-swap", merges("--branches", "40", "--every", "0.3")),
    ("merged-behind", merges()),
    ("gate-on-branch", merges()),
    ("gate-on-branch,tree-not-asserted", merges()),
    ("approval-by-name", merges()),
    ("landing-unsaid", merges("--at-landing", "0.6")),
    ("git-writes-user-config", it("git_shapes")),
    ("git-closed-is-tried", it("git_carried::what_nobody_can_read")),
    ("git-unclean-is-work", it("git_carried::a_file_that_git")),
    ("brought-unheld", it("git_held::a_collection")),
    ("brought-unheld-again", it("git_held::objects_that_are_there")),
    ("copied-unkept", it("git_held::a_collection_that_began")),
    ("landed-unlooked", it("git_held::of_a_merge")),
    ("gate-leftovers-kept", it("merging::what_a_gate_leaves")),
    ("held-for-ever", it("git_held::what_a_killed")),
    ("git-environment-kept", it("git_shapes")),
    ("hook-of-anybody", it("hooks::trust::what_an_agent_or_another")),
    ("hook-changed-believed", it("hooks::trust::what_an_agent_without")),
    ("hook-left-is-work", it("hooks::waited::what_a_hook_leaves")),
    ("hook-without-end", it("hooks::whatever_a_hook_does")),
    ("hook-untold-stays", it("hooks::a_hook_outlives")),
    ("set-up-once-for-all", it("hooks::waited::a_worktree_is_set_up_once")),
    ("ports-not-held", unit("ports::")),
    ("ports-in-use", it("surroundings::a_slot_keeps")),
    ("git-hooks-run", it("git_shapes")),
    ("grant-too-many", it("sandbox::what_is_never")),
    ("grant-follows-links", it("sandbox::a_grant_that")),
    ("grant-follows-links", it("sandbox::a_cache_that")),
    ("confined-too-late", it("sandbox::what_is_not_granted")),
    ("set-back-not-seen", it("holds::a_hold_and_a_canary")),
    ("every-slot-is-first", it("holds::one_slot_of")),
    ("token-not-handed-on", it("tokens::no_more")),
    ("variable-is-a-token", it("tokens::what_outlives")),
    ("claim-not-let-go", it("soak_in_plain")),
    ("retry-not-counted", it("soak_in_plain")),
    ("line-without-bound", ["env", "HARNESS_ROGUE=flood", *it("an_agent_that_meddles")]),
    ("fifo-waited-for", it("hostile::fifos_in_place")),
    ("git-odd-files-stay", ["env", "HARNESS_TRICKS=Agent state/repos/default.git/slots/AGENT/index fifo",
                            *it("nothing_put")]),
    ("symlink-followed", ["env", "HARNESS_TRICKS=AGENT out", *it("nothing_put")]),
    ("name-shown-as-it-is", it("fuzz::screens")),
    ("terminal-kept", it("top::however_it_ends")),
    ("terminal-kept", it("top::a_panic_leaves")),
    ("terminal-kept", unit("a_panic_leaves")),
    ("percent-not-escaped", it("fuzz::names")),
]


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--only", default="")
    args.add_argument("--list", action="store_true")
    args.add_argument("-v", "--verbose", action="store_true")
    opts = args.parse_args()
    build = ["cargo", "build", "-q", "--features", "mutants"]
    if not opts.list:
        subprocess.run(build, cwd=HERE, check=True)
    blind = 0
    for fault, proof in PROOFS:
        shown = " ".join(proof)
        if opts.only not in fault and opts.only not in shown:
            continue
        if opts.list:
            print(f"{fault:32} {shown}")
            continue
        begun = time.monotonic()
        env = {**os.environ, "HARNESS_MUTANT": "" if fault == "-" else fault}
        # One that hangs has noticed nothing.
        proof = ["timeout", "-k", "10", "1800", *proof]
        run = subprocess.run(proof, cwd=HERE, env=env, capture_output=True, text=True)
        said = (run.stdout + run.stderr).strip()
        # A proof that cannot even be run has noticed nothing.
        seen = run.returncode == 1 or "test result: FAILED" in said
        seen = seen and "Traceback (most" not in said
        blind += not seen
        word = "noticed" if seen else f"NOT NOTICED (exit code {run.returncode})"
        print(f"{fault:32} {word:12} {time.monotonic() - begun:6.1f} s  {shown}")
        if opts.verbose or not seen:
            print("    " + "\n    ".join(said.split("\n")[-12:]))
        sys.stdout.flush()
    return 1 if blind else 0


if __name__ == "__main__":
    sys.exit(main())
