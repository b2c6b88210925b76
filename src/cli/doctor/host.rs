//! What the host offers whatever the ROOT: limits of the kernel, `/proc`, cgroups, the clock, and
//! the agents' programs on PATH. Reads only; runs nothing.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access};

use super::{Check, Facts};
use crate::adapters;
use crate::atomic;
use crate::clock;
use crate::config::keys::CLIS;
use crate::config::{AgentTable, Config, placeholder};
use crate::layout::{Root, shown};
use crate::process;

/// Open files one slot needs at most: its lease, marker, session files, keeper's socket, pidfd and
/// what git and a directory walk hold for a moment.
const FILES_PER_WORKER: u64 = 24;
/// Open files of the process itself: standard streams, events, signals, status, locks.
const FILES_BASE: u64 = 64;
/// Folders watched for each slot, and by the process itself.
const WATCHES_PER_WORKER: u64 = 4;
const WATCHES_BASE: u64 = 64;
/// Overflowing queues are recovered from by a listing; below this that becomes the rule.
const QUEUED_EVENTS_MIN: u64 = 1_024;
/// 2025-01-01: a clock before it has lost its battery.
const EPOCH_SANE_NS: i64 = 1_735_689_600 * 1_000_000_000;

pub(super) fn checks(config: Option<&Config>, facts: &Facts<'_>) -> Vec<Check> {
    let workers = config.map_or(3, |c| c.harness.workers as u64);
    vec![
        inotify(workers),
        open_files(workers),
        proc(),
        cgroup(&facts.cgroup),
        clock_is_sane(),
        known_agents(facts.env),
    ]
}

fn inotify(workers: u64) -> Check {
    let name = "inotify limits";
    let read = |key: &str| {
        let path = Path::new("/proc/sys/fs/inotify").join(key);
        let text = atomic::read_kernel_text(path).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let (watches, instances, queued) = (
        read("max_user_watches"),
        read("max_user_instances"),
        read("max_queued_events"),
    );
    let (Some(watches), Some(instances), Some(queued)) = (watches, instances, queued) else {
        return Check::warn(
            name,
            "the kernel tells none: without events new items are seen by a clock",
            "none needed if seconds of delay do no harm",
        );
    };
    let found = format!("{watches} watches, {instances} instances, {queued} queued events");
    let wanted = WATCHES_BASE + WATCHES_PER_WORKER * workers;
    let short = [
        (watches < wanted, "max_user_watches", 65_536),
        (instances < 16, "max_user_instances", 128),
        (queued < QUEUED_EVENTS_MIN, "max_queued_events", 16_384),
    ];
    match short.iter().find(|(short, ..)| *short) {
        Some((_, key, value)) => Check::warn(
            name,
            found,
            format!(
                "as root: `sysctl -w fs.inotify.{key}={value}`; until then items are seen later"
            ),
        ),
        None => Check::ok(name, found),
    }
}

fn open_files(workers: u64) -> Check {
    let name = "open files";
    let needed = FILES_BASE + FILES_PER_WORKER * workers;
    let advice = format!(
        "`ulimit -n {}` before `harness run`, or fewer workers",
        needed.next_power_of_two()
    );
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, _)) if soft >= needed => Check::ok(
            name,
            format!("{soft} allowed, {needed} needed by {workers} workers"),
        ),
        Ok((soft, hard)) => {
            let found =
                format!("{soft} allowed (up to {hard}), but {workers} workers need {needed}");
            match hard >= needed {
                true => Check::warn(name, found, advice),
                false => Check::fail(name, found, advice),
            }
        }
        Err(e) => Check::warn(name, format!("the limit cannot be read: {e}"), advice),
    }
}

/// Ending an item's whole process tree needs to see it.
fn proc() -> Check {
    let name = "/proc";
    if let Err(e) = atomic::read_kernel("/proc/self/stat") {
        return Check::fail(
            name,
            format!("/proc/self/stat cannot be read: {e}"),
            "mount proc on /proc: without it strays of an agent cannot be found and ended",
        );
    }
    if !process::proc_is_ours() {
        return Check::fail(
            name,
            "it is that of another pid namespace",
            "mount this one's (`unshare --mount-proc`): until then what agents leave behind cannot \
             be found and ended",
        );
    }
    match atomic::read_kernel("/proc/thread-self/children") {
        Ok(_) => Check::ok(name, "readable, with lists of children"),
        Err(e) => Check::warn(
            name,
            format!("readable, but without lists of children ({e})"),
            "use a kernel with CONFIG_PROC_CHILDREN: until then trees are found by a slower walk",
        ),
    }
}

/// What ends an item's tree where the agent's keeper cannot, since it was killed itself.
fn cgroup(probed: &Result<PathBuf, String>) -> Check {
    let name = "end of a tree";
    match probed {
        Ok(dir) => Check::ok(
            name,
            format!(
                "each keeper has a cgroup of its own below {}: nothing of an item outlives it",
                shown(dir.as_os_str())
            ),
        ),
        Err(why) => Check::warn(
            name,
            format!(
                "no cgroup of its own ({why}): keepers are subreapers, which nothing escapes \
                 while they live; after a `kill -9` of a keeper, what is neither marked by \
                 its environment nor has the agent's output open lives on"
            ),
            "run harness where it may make cgroups, for example by `systemd-run --user --scope -p \
             Delegate=yes harness run`, or never kill keepers by hand",
        ),
    }
}

fn clock_is_sane() -> Check {
    let now = clock::now_ns();
    if now < EPOCH_SANE_NS {
        return Check::warn(
            "clock",
            format!("it is {} here", clock::now_iso()),
            "set the clock (`timedatectl set-ntp true`): times of items and \"not before\" go by it",
        );
    }
    Check::ok("clock", clock::now_iso())
}

fn known_agents(env: &dyn Fn(&str) -> Option<OsString>) -> Check {
    let path = env("PATH").unwrap_or_default();
    let found: Vec<String> = CLIS
        .iter()
        .filter_map(|program| on_path(OsStr::new(program), &path))
        .map(|path| shown(path.as_os_str()))
        .collect();
    if found.is_empty() {
        return Check::ok(
            "agent programs",
            format!("none of {} on PATH", CLIS.join(", ")),
        );
    }
    Check::ok("agent programs", found.join(", "))
}

/// Each configured agent's program: found, and where; of a CLI that harness knows, its version.
pub(super) fn agents(root: &Root, config: Option<&Config>, facts: &Facts<'_>) -> Vec<Check> {
    let agents = config.into_iter().flat_map(|c| &c.agents);
    agents
        .map(|(agent, table)| check_agent(root, agent, table, facts))
        .collect()
}

fn check_agent(root: &Root, agent: &str, table: &AgentTable, facts: &Facts<'_>) -> Check {
    let name = format!("agent {agent}");
    let value = |name: &str| (name == "ROOT").then(|| root.path().as_os_str().to_owned());
    let about = table.cli.as_deref().and_then(adapters::by_name);
    let about = about.map(adapters::Adapter::about);
    let own = about.filter(|_| table.command.is_empty());
    let mut argv: Vec<OsString> = match own {
        Some(about) => vec![about.program.into()],
        None => table
            .command
            .iter()
            .map(|arg| placeholder::fill(OsStr::new(arg), value))
            .collect(),
    };
    let program = argv.first().cloned().unwrap_or_default();
    let path = table.env.get("PATH").map(OsString::from);
    let path = path.or_else(|| (facts.env)("PATH")).unwrap_or_default();
    let Some(found) = on_path(&program, &path) else {
        let advice = match own {
            Some(about) => about.not_installed(),
            None => format!("install it, or give its whole path in [agents.{agent}] command"),
        };
        let found = format!("its program {} is not found", shown(&program));
        return Check::warn(&name, found, advice);
    };
    let place = shown(found.as_os_str());
    if about.is_none() {
        let known = adapters::by_name(agent).is_some();
        if known && table.events == adapters::custom::NONE {
            let found = format!("{place}, called by `command` alone, its output is not read");
            let advice = format!(
                "add `cli = \"{agent}\"` to [agents.{agent}] to have harness call it as it is best called"
            );
            return Check::warn(&name, found, advice);
        }
        return Check::ok(&name, place);
    }
    argv[0] = found.into_os_string();
    match (facts.version)(&argv, &table.env) {
        Ok(version) => Check::ok(&name, format!("{place}, {version}")),
        Err(why) => Check::warn(
            &name,
            format!("{place}, but asked for its version {why}"),
            format!("try it by hand: {place} --version"),
        ),
    }
}

/// As `execvp` finds a program; relative ones with a slash depend on the worktree and are believed.
fn on_path(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let runs = |p: &Path| p.is_file() && access(p, AccessFlags::X_OK).is_ok();
    let as_path = Path::new(program);
    if as_path.components().count() > 1 || as_path.is_absolute() {
        return (as_path.is_relative() || runs(as_path)).then(|| as_path.to_path_buf());
    }
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|p| runs(p))
}
