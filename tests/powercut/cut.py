"""The binary at work, what it has told, and the cut."""

import fcntl
import json
import os
import pathlib
import shutil
import struct
import subprocess
import threading
import time

import books
from lab import DEADLINE, ITEMS, WORKERS

GOING_DOWN = 0x8004587D  # _IOR('X', 125, u32): ext4 and xfs alike
FICLONE = 0x40049409  # _IOW(0x94, 9, int)


class Acks:
    """The ACK LOG. What comes after the cut was never said."""

    def __init__(self, path, at=None, cut=lambda: None):
        self.lock, self.is_cut = threading.Lock(), threading.Event()
        self.adds, self.dones = [], {}
        self.path = path
        self.log = open(path, "a")
        self.at = at  # (kind, how many): when to cut
        self.cut = cut

    def say(self, kind, name, value=None):
        with self.lock:
            if self.is_cut.is_set():
                return
            if kind == "add":
                self.adds.append(name)
            else:
                self.dones[name] = value
            self.log.write(json.dumps([kind, name, value]) + "\n")
            count = len(self.adds) if kind == "add" else len(self.dones)
            if self.at == (kind, count):
                self.off()

    def off(self):
        """The caller holds the lock."""
        self.cut()
        self.is_cut.set()
        self.log.flush()

    def off_now(self):
        with self.lock:
            if not self.is_cut.is_set():
                self.off()

    def so_far(self, path):
        """As if the power had gone off now."""
        copy = Acks(path)
        with self.lock:
            copy.adds, copy.dones = list(self.adds), dict(self.dones)
        copy.log.write(json.dumps([copy.adds, copy.dones]) + "\n")
        copy.log.close()
        return copy


def add_items(lab, acks, names):
    for name in names:
        if acks.is_cut.is_set():
            return
        try:
            added = lab.harness("add", str(lab.dir / name), env=lab.lying)
        except subprocess.TimeoutExpired:
            return
        if added.returncode == 0:
            acks.say("add", name)


def watch_done(lab, acks):
    done = lab.root / "queue/done"
    while not acks.is_cut.is_set():
        try:
            names = [n for n in os.listdir(done) if n.startswith("i-") and n not in acks.dones]
        except OSError:  # the power is off
            return
        for name in names:
            folder = lab.repo / ".git/refs/heads/harness" / name
            try:
                branches = {b: (folder / b).read_text().strip() for b in os.listdir(folder)}
            except FileNotFoundError:
                branches = {}
            except OSError:
                return
            acks.say("done", name, branches)
        time.sleep(0.001)


def watch_publish(lab, acks, k, delay):
    """Cuts between the moment in which the k-th branch is about to appear and the end of its item."""
    folder = lab.repo / ".git/refs/heads/harness"
    while not acks.is_cut.is_set():
        try:
            # git makes the folder of a branch right before it locks it.
            if len([n for n in os.listdir(folder) if n.startswith("i-")]) >= k:
                time.sleep(delay)
                acks.off_now()
        except FileNotFoundError:
            pass
        except OSError:
            return
        time.sleep(0.0002)


def begin(lab, acks, names, works):
    threads = [threading.Thread(target=add_items, args=(lab, acks, names))]
    if works:
        run = lab.command("run", "--workers", str(WORKERS))
        with open(lab.dir / "run.log", "w") as log:
            subprocess.Popen(run, env=lab.lying, stdout=log, stderr=log, cwd=lab.dir)
        threads.append(threading.Thread(target=watch_done, args=(lab, acks)))
    return threads


def work_until_cut(lab, flag, plan, names, ack_log):
    """Runs the binary and cuts the power. What was acknowledged."""
    mountpoint = os.open(lab.mnt, os.O_RDONLY)
    kind = {"quiet": "add"}.get(plan.instant, plan.instant)
    power_off = lambda: fcntl.ioctl(mountpoint, GOING_DOWN, struct.pack("I", flag))
    acks = Acks(ack_log, at=(kind, plan.k), cut=power_off)
    threads = begin(lab, acks, names, plan.instant != "quiet")
    if plan.instant == "publish":
        threads.append(
            threading.Thread(target=watch_publish, args=(lab, acks, plan.k, plan.delay)))
    for thread in threads:
        thread.start()
    # A cut at an acknowledgement that does not come is one after some seconds of rest.
    acks.is_cut.wait(plan.horizon if plan.instant == "time" else 20)
    acks.off_now()
    lab.kill_all()
    for thread in threads:
        thread.join()
    os.close(mountpoint)
    acks.log.close()
    return acks


def copy_of(template, image):
    subprocess.run(["cp", "--sparse=always", str(template), str(image)], check=True)


def item_names(lab):
    names = [f"i-{n:02}.sh" for n in range(ITEMS)]
    for name in names:
        lab.item(name)
    return names


def by_ioctl(lab, fs, flag, plan, template, label):
    """One cut: (acknowledged, what is wrong, moves that came to nothing)."""
    image = lab.dir / "cut.img"
    copy_of(template, image)
    names = item_names(lab)
    try:
        lab.mount(image, fs)
        before = lab.untouched()
        lab.disk_is(plan.instant in ("publish", "time"))
        acks = work_until_cut(lab, flag, plan, names, lab.dir / f"{label}.acks")
        lab.unmount()
        return acks, *judge(lab, fs, image, acks, before, label)
    finally:
        lab.kill_all()
        lab.unmount()
        image.unlink()


def by_snapshots(lab, fs, count, dice, template, label):
    """Cuts of one run, each an image of the device as it was at some moment: everything that had
    reached it, in the order in which it did. Yields as `by_ioctl`."""
    image = lab.outer() / "disk.img"
    copy_of(template, image)
    names = item_names(lab)
    taken = []
    try:
        lab.mount(image, fs)
        before = lab.untouched()
        lab.disk_is(slow=True)
        acks = Acks(lab.dir / f"{label}.acks")
        threads = begin(lab, acks, names, True)
        for thread in threads:
            thread.start()
        source = os.open(image, os.O_RDONLY)
        end = time.monotonic() + 20
        while len(taken) < count and time.monotonic() < end:
            # Spread over what there is to be told, then anywhere until the next word.
            if len(acks.adds) + len(acks.dones) < 2 * ITEMS * len(taken) // count:
                time.sleep(0.001)
                continue
            time.sleep(dice.uniform(0, 0.1))
            snapshot = lab.outer() / f"snapshot-{len(taken)}.img"
            told = acks.so_far(lab.dir / f"{label}-{len(taken)}.acks")
            with open(snapshot, "wb") as file:
                fcntl.ioctl(file, FICLONE, source)
            taken.append((snapshot, told))
        os.close(source)
        acks.off_now()
        lab.kill_all()
        for thread in threads:
            thread.join()
        lab.unmount()
        for number, (snapshot, told) in enumerate(taken):
            yield told, *judge(lab, fs, snapshot, told, before, f"{label}-{number}")
            snapshot.unlink()
    finally:
        lab.kill_all()
        lab.unmount()
        image.unlink()
        for snapshot, _ in taken:
            snapshot.unlink(missing_ok=True)


def judge(lab, fs, image, acks, before, label):
    """Mounts what the cut left and looks; then one run must set everything right."""
    found = {"lost": [], "corrupt": [], "after": []}
    unmoved = 0
    keep = lab.opts.keep and pathlib.Path(lab.opts.keep)
    kept = lab.dir / "kept.img"
    if keep:
        copy_of(image, kept)
    try:
        lab.mount(image, fs)
        found["lost"] += books.check_adds(lab, acks)
        found["lost"] += books.check_merged(lab)
        where = books.places_of(lab)
        for name, branches in acks.dones.items():
            place = where.get(name, [("no place", None)])[0][0]
            unmoved += place == "claimed"
            found["lost"] += books.check_done(lab, name, branches, place)
        found["corrupt"] += books.fsck(lab, "the user's repository", lab.repo)
        if lab.hub.exists():
            found["corrupt"] += books.fsck(lab, "harness's copy", lab.hub)
        if lab.untouched() != before:
            found["corrupt"].append("HEAD, index or config of the user's repository has changed")
        try:
            drain = lab.harness("run", "--drain", "--workers", str(WORKERS))
            found["after"] += books.check_end(lab, acks, drain)
        except subprocess.TimeoutExpired as e:
            found["after"].append(f"the run after hangs: {(e.stdout or b'')[-800:]}")
        lab.kill_all()
        if not any(found.values()):
            found["after"] += books.fsck(lab, "the user's repository, afterwards", lab.repo)
            if lab.hub.exists():
                found["after"] += books.fsck(lab, "harness's copy, afterwards", lab.hub)
        if lab.untouched() != before:
            found["after"].append("HEAD, index or config of the user's repository has changed")
    except OSError as e:
        found["corrupt"].append(str(e))
    finally:
        lab.kill_all()
        lab.unmount()
    if keep and any(found.values()):
        keep.mkdir(parents=True, exist_ok=True)
        shutil.move(kept, keep / f"{label}.img")
        shutil.copy(acks.path, keep / f"{label}.acks")
    return found, unmoved


def why_not(lab, fs, way):
    """Why this way of cutting cannot be tried here with this file system."""
    try:
        if way == "snapshots":
            lab.outer()
            return None
        lab.mount(lab.template(fs, False), fs)
        where = os.open(lab.mnt, os.O_RDONLY)
        try:
            fcntl.ioctl(where, GOING_DOWN, struct.pack("I", 2))
        finally:
            os.close(where)
    except OSError as e:
        return f"its power cannot be cut: {e}"
    finally:
        lab.unmount()
    return None
