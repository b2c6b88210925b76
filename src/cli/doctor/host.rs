//! Checks of the machine, independent of ROOT: kernel limits, `/proc`, cgroups, the clock.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, fail, ok, warn};
use crate::atomic;
use crate::clock;
use crate::engine::{self, Verdict};
use crate::layout::shown;
use crate::process;
use crate::text::one_line;

/// Most open files per slot: its lease, marker, session files, keeper's socket, pidfd, and those
/// that git and a directory walk briefly hold.
const FILES_PER_WORKER: u64 = 24;
/// Open files of the process itself: standard streams, events, signals, status, locks.
const FILES_BASE: u64 = 64;
/// Watched folders per slot, and for the process itself.
const WATCHES_PER_WORKER: u64 = 4;
const WATCHES_BASE: u64 = 64;
/// After an overflow everything is listed again; with a smaller queue overflows are frequent.
const QUEUED_EVENTS_MIN: u64 = 1_024;
/// 2025-01-01: an earlier time means that the clock lost its battery.
const EPOCH_SANE_NS: i64 = 1_735_689_600 * 1_000_000_000;

pub(super) fn inotify(workers: u64) -> Finding {
    let read = |key: &str| {
        let text = atomic::read_kernel_text(Path::new("/proc/sys/fs/inotify").join(key)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let (Some(watches), Some(instances), Some(queued)) = (
        read("max_user_watches"),
        read("max_user_instances"),
        read("max_queued_events"),
    ) else {
        return warn(
            "the kernel reports no limits: new items may be noticed by polling only",
            "nothing if a delay of seconds does no harm",
        );
    };
    let found = format!("{watches} watches, {instances} instances, {queued} queued events");
    let wanted = WATCHES_BASE + WATCHES_PER_WORKER * workers;
    let short = [
        (watches < wanted, "max_user_watches", 65_536),
        (instances < 16, "max_user_instances", 128),
        (queued < QUEUED_EVENTS_MIN, "max_queued_events", 16_384),
    ];
    match short.iter().find(|(is_short, ..)| *is_short) {
        Some((_, key, value)) => warn(
            found,
            format!(
                "as root: `sysctl -w fs.inotify.{key}={value}`; until then items are noticed later"
            ),
        ),
        None => ok(found),
    }
}

/// `None`: no engine started this process.
pub(super) fn job() -> Option<Finding> {
    let job = engine::own_job()?;
    let (id, cluster) = (one_line(&job.id), one_line(&job.cluster));
    let name = format!("{} job {id} of the cluster {cluster}", job.engine);
    let verdict = engine::ask(std::slice::from_ref(&job)).pop()?;
    Some(match verdict {
        Verdict::Runs => ok(name),
        Verdict::Over(why) | Verdict::Unknown(why) => warn(
            format!("{name}: {why}"),
            "see why `squeue` does not know this job on this node; until then nobody here learns \
             that another node's job is over",
        ),
    })
}

pub(super) fn open_files(workers: u64) -> Finding {
    let needed = FILES_BASE + FILES_PER_WORKER * workers;
    let what_to_do = format!(
        "`ulimit -n {}` before `harness run`, or fewer workers",
        needed.next_power_of_two()
    );
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(e) => return warn(format!("the limit cannot be read: {e}"), what_to_do),
    };
    if soft >= needed {
        return ok(format!("{soft} allowed, {workers} workers need {needed}"));
    }
    let found = format!("{soft} allowed (up to {hard}), but {workers} workers need {needed}");
    match hard >= needed {
        true => warn(found, what_to_do),
        false => fail(found, what_to_do),
    }
}

/// To kill an item's whole process tree, harness must see it there.
pub(super) fn proc() -> Finding {
    if let Err(e) = atomic::read_kernel("/proc/self/stat") {
        return fail(
            format!("/proc/self/stat cannot be read: {e}"),
            "mount proc on /proc: without it processes that an agent leaves behind are not found and not killed",
        );
    }
    if !process::proc_is_ours() {
        return fail(
            "it is that of another pid namespace",
            "mount this namespace's (`unshare --mount-proc`): until then processes that an agent leaves behind are not found and not killed",
        );
    }
    match atomic::read_kernel("/proc/thread-self/children") {
        Ok(_) => ok("readable, with lists of children"),
        Err(e) => warn(
            format!("readable, but without lists of children ({e})"),
            "use a kernel with CONFIG_PROC_CHILDREN: until then process trees are found by a slower walk",
        ),
    }
}

/// What kills an item's process tree if the agent's keeper was killed itself.
pub(super) fn end_of_a_tree() -> Finding {
    match process::cgroup::probe() {
        Ok(dir) => ok(format!(
            "each keeper has a cgroup of its own below {}: nothing of an item outlives it",
            shown(dir.as_os_str())
        )),
        Err(e) => warn(
            format!(
                "no cgroup of its own ({e}): keepers are subreapers, which nothing escapes while \
                 they live; after a `kill -9` of a keeper, a process that is not marked by its \
                 environment and does not have the agent's output open lives on"
            ),
            "run harness where it may make cgroups, for example by `systemd-run --user --scope -p \
             Delegate=yes harness run`, or never kill keepers by hand",
        ),
    }
}

pub(super) fn clock() -> Finding {
    let now = clock::now_iso();
    if clock::now_ns() >= EPOCH_SANE_NS {
        return ok(now);
    }
    warn(
        format!("it is {now} here"),
        "set the clock (`timedatectl set-ntp true`): times of items and \"not before\" depend on it",
    )
}
