"""Ends harness at every call that leaves something behind, lets calls fail, and checks the books.

For each scene (a transition of ARCHITECTURE's tables), each of its processes and threads, and each
N: the process is killed right before the N-th of these calls, or that call fails. Then one plain
`harness run --drain` must set everything right: each item in one place, its work published once,
nothing left over; started again only where its end could not be known, which its record says.
A failing call is to be got over by the process itself.

    python3 tests/sweep [--scene finish,…] [--mode plain,git] [--role slot,keeper,…]
        [--error ENOSPC,EIO,EMFILE,EACCES [--lasting 1.2]] [--steps] [--slice K[+OFFSET]] [--jobs 2] [-v]
    python3 tests/sweep --list

`--lasting`: from the N-th on, all such calls of all processes fail for so long. `--slice K`: every
K-th point. ROOTs are made in /dev/shm, or below `--dir`.

Exit code: 0 nothing found, 1 at least one finding (its ROOT is kept and named), 2 not possible here.
"""

import argparse
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from root import Over, Root, can_be_nobody
from scenes import SCENES
from tracer import FAILS, SUPPORTED, Point

# A point that is not reached (a timer came first) is tried again so often.
TRIES = 3


def is_end_unknown(row, started):
    """Whether the keeper was killed between its agent's start and its word about the end: the last
    of `row` is the call that it did not do."""
    done = row[:-1]
    starts = [n for n, call in enumerate(done) if call.startswith("create") and "stdout.log" in call]
    ends = [n for n, call in enumerate(done) if call.endswith("exit.json")
            and call.startswith("write")]
    starts = [-1] * started + starts
    return bool(starts) and (not ends or ends[-1] < starts[-1])


def judge(scene, r, point, seen):
    """What is wrong, as a list of sentences."""
    wrong = []
    lost = not point.error and point.role == "keeper" and is_end_unknown(seen["row"], scene.started)
    # What nobody may read cannot be known either.
    unknown = scene.unknown + lost + (point.error == "EACCES" and "exit.json" in (seen["hit"] or ""))
    for name, (place, starts) in scene.items.items():
        at, shown = r.places(name), r.show(name)
        attempts = {a["session"]: a for a in shown.get("attempts", [])}
        blind = [a for a in attempts.values() if a.get("outcome") == "crashed"
                 and "its keeper died" in (a.get("reason") or "")]
        begun, ended = r.ran("begin", name), r.ran("end", name)
        tale = f"begun {begun}, ended {ended}, on record: {list(attempts.values())}"
        places = {place, "parked"} if point.error == "EACCES" else {place}
        if len(at) != 1 or at[0] not in places:
            wrong.append(f"{name} is in {at}; {tale}")
            continue
        if len(blind) > unknown:
            wrong.append(f"{name}: more ends are unknown than can be; {tale}")
        if len(begun) != len(set(begun)) or any(sid not in attempts for sid in begun):
            wrong.append(f"{name}: a session began twice, or is not on record; {tale}")
        least = 0 if at[0] != place or (lost and place == "parked") else min(starts, 1)
        if not (least <= len(begun) <= starts + unknown) or unknown == scene.unknown and at[0] == place and len(begun) != starts:
            wrong.append(f"{name}: started {len(begun)} times, not {starts}; {tale}")
        outcome = scene.outcome(r, name)
        if at[0] == place and shown.get("outcome") not in (outcome, "crashed" if lost else outcome):
            wrong.append(f"{name}: its outcome is {shown.get('outcome')}: {shown.get('reason')}")
        if at[0] != place and not (shown.get("reason") or "").strip():
            wrong.append(f"{name}: parked without a reason")
        if r.mode == "git":
            branches = r.published(name)
            if len(branches) != scene.branches * (at[0] == "done"):
                wrong.append(f"{name} is published as {branches}; {tale}")
    return wrong + r.books(git_died=point.role == "git" or scene.stale_lock) + scene.check(r)


def once(opts, name, mode, point):
    """One run of a scene. What the tracer saw, and what is wrong."""
    scene, r, seen, wrong = SCENES[name](), None, {"row": [], "hit": None}, []
    try:
        r = Root(opts, mode, scene.toml, scene.as_nobody)
        scene.prepare(r)
        r.trace(point, scene.args, scene.also(r))
        try:
            scene.play(r)
        except Over:
            pass
        seen = r.traced_end()
        if seen.get("trouble"):
            wrong.append(seen["trouble"])
        if point.error and seen["hit"]:
            wrong += got_over(scene, r, point, seen)
        r.traced = None
        scene.settle(r)
        after = r.drain()
        (r.base / "after.log").write_text(after.stdout + after.stderr)
        if after.returncode not in (0, 1):
            wrong.append(f"the run after ended with {after.returncode}: {after.stderr}")
        wrong += judge(scene, r, point, seen)
    except (subprocess.TimeoutExpired, TimeoutError) as e:
        wrong.append(f"hangs: {e}")
    except Exception:
        import traceback

        wrong.append(f"the scene itself failed: {traceback.format_exc()}")
    if r:
        r.end(keep=bool(wrong) or opts.keep)
    return seen, [f"{r and r.base}", *wrong] if wrong else []


def got_over(scene, r, point, seen):
    """A call that failed is no reason to need another process, or a person."""
    wrong, said = [], r.said()
    late = [name for name, (place, _) in scene.items.items()
            if r.places(name) not in ([place], ["parked"])]
    if seen["code"] in (100, 111) and "what to do" in said or seen["code"] == 111:
        # It could not even begin, and said so.
        if not said.strip():
            wrong.append(f"it ended with {seen['code']} without a word")
    elif late:
        wrong.append(f"not got over by itself: {late}; {r.picture()}; it said: {said[-800:]}")
    if "panicked" in said:
        wrong.append(f"it panicked: {said[-1500:]}")
    return wrong


def sweep(job):
    """All points of one scene, mode, role and error."""
    opts, name, mode, role, error = job
    hits, findings, missed, n = 0, [], [], opts.offset
    lasting = opts.lasting if error else 0
    limit = None
    while limit is None or n <= limit:
        for _ in range(TRIES):
            seen, wrong = once(opts, name, mode, Point(role, n, error, lasting, SCENES[name].like))
            if seen["hit"] or wrong:
                break
        where = f"{name} {mode} {role} {error or 'kill'} {n}"
        if not seen["hit"]:
            # Past the last one. Timers make rows differ in length by a few calls.
            if wrong:
                findings.append((where + " (not reached)", wrong))
            break
        hits += 1
        if wrong:
            findings.append((f"{where}: {seen['hit']}", wrong))
            if opts.stop:
                break
        if opts.verbose:
            print(f"{where}: {seen['hit']}{' WRONG' if wrong else ''}", flush=True)
        n += opts.step
    return job[1:], hits, findings


def main():
    here = pathlib.Path(__file__).resolve().parent.parent.parent
    args = argparse.ArgumentParser(description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--bin", default=str(here / "target/debug/harness"))
    args.add_argument("--scene", default=",".join(SCENES))
    args.add_argument("--mode", default="plain,git")
    args.add_argument("--role", default="")
    args.add_argument("--error", default="")
    args.add_argument("--lasting", type=float, default=0)
    args.add_argument("--slice", default="1")
    args.add_argument("--jobs", type=int, default=2)
    args.add_argument("--dir", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    args.add_argument("--steps", action="store_true",
                      help="on a file system without a rename that replaces nothing (as NFS)")
    args.add_argument("--stop", action="store_true", help="at the first finding of a row")
    args.add_argument("--width", type=int, default=1500, help="of what is said of a finding")
    args.add_argument("--keep", action="store_true")
    args.add_argument("--list", action="store_true")
    args.add_argument("--once", help="ROLE:N, to look at one point")
    args.add_argument("-v", "--verbose", action="store_true")
    opts = args.parse_args()
    opts.bin = str(pathlib.Path(opts.bin).resolve())
    step, _, offset = opts.slice.partition("+")
    opts.step, opts.offset = int(step), int(offset or 1)
    if opts.list:
        for name, scene in SCENES.items():
            about = " ".join((scene.__doc__ or "").split())
            print(f"{name:16} {','.join(scene.modes):10} {','.join(scene.roles):32} {about}")
        return 0
    if not SUPPORTED:
        print("sweep: SKIPPED, the tracer knows Linux on x86_64 only", file=sys.stderr)
        return 2
    if opts.steps:
        shims = tempfile.TemporaryDirectory()
        os.environ["LD_PRELOAD"] = f"{shims.name}/steps.so"
        source = here / "tests/kit/steps_shim.c"
        command = ["cc", "-shared", "-fPIC", "-o", os.environ["LD_PRELOAD"], str(source)]
        subprocess.run(command, check=True, env={**os.environ, "LD_PRELOAD": ""})
        os.chmod(shims.name, 0o755)
    jobs = []
    for name in opts.scene.split(","):
        scene = SCENES[name]
        if scene.as_nobody and not can_be_nobody():
            print(f"sweep: SKIPPED {name}: it takes root and setpriv", file=sys.stderr)
            continue
        for mode in opts.mode.split(","):
            for role in opts.role.split(",") if opts.role else scene.roles:
                usual = mode in scene.modes and role in scene.roles and (role, mode) != ("git", "plain")
                for error in opts.error.split(","):
                    if usual:
                        jobs.append((opts, name, mode, role, error))
    begun, points, found = time.monotonic(), 0, 0
    # The longest rows first.
    jobs.sort(key=lambda job: ["git", "slot"].index(job[3]) if job[3] in ("git", "slot") else 2)
    with multiprocessing.Pool(opts.jobs) as pool:
        for (name, mode, role, error), hits, findings in pool.imap_unordered(sweep, jobs, 1):
            points += hits
            found += len(findings)
            print(f"{name:16} {mode:6} {role:8} {error or 'kill':7} {hits:5} points", flush=True)
            for where, (root, *wrong) in findings:
                print(f"  FOUND {where}\n    {root}")
                for line in wrong:
                    print(f"    {line[:opts.width]}")
    print(f"{points} points, {found} findings, {time.monotonic() - begun:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
