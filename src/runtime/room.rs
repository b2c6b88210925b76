//! Whether this machine has room for one more agent: free disk, memory, processor (`[limits]`). Knows
//! nothing of what is then left undone. Invariant: asked by any number of threads, the machine is looked
//! at once a second, and a warning is printed once each time something becomes short.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;

use super::{Console, lock};
use crate::atomic;
use crate::clock;
use crate::config::LimitsTable;
use crate::keeper::place;
use crate::layout::Root;
use crate::mutant::planted;
use crate::sandbox;
use crate::text;

/// Nothing of it changes much faster than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An item has a dozen files of its own, and its worktree those of the project.
const FILES_FREE_MIN: u64 = 1_000;
const PRESSURE: &str = "/proc/pressure/memory";

pub(crate) struct Room {
    /// Agents and harness write below these.
    places: Vec<PathBuf>,
    limits: LimitsTable,
    /// The last look: when, and what was short. The words stay while it does.
    last: Mutex<Option<(Instant, Option<Short>)>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Short {
    what: &'static str,
    why: String,
}

impl Room {
    pub(crate) fn new(root: &Root, limits: &LimitsTable) -> Room {
        Room {
            places: vec![
                root.path().to_owned(),
                root.worktrees(),
                sandbox::temp_folders(),
            ],
            limits: limits.clone(),
            last: Mutex::default(),
        }
    }

    /// Why nothing new should be begun, if so. What cannot be read counts as enough.
    pub(crate) fn why_none(&self, console: &Console) -> Option<String> {
        if planted("disk-floor-sunk") {
            return None;
        }
        let now = clock::instant();
        let mut last = lock(&self.last);
        let before = match last.take() {
            Some((at, short)) if now - at < LOOK_EVERY => {
                let why = short.as_ref().map(|short| short.why.clone());
                *last = Some((at, short));
                return why;
            }
            before => before.and_then(|(_, short)| short),
        };
        let looks = [Room::disk, Room::memory, Room::load, Room::agents];
        let mut short = looks
            .iter()
            .find_map(|look| look(self))
            .filter(|_| !planted("short-of-nothing"));
        let is_new = |short: &Short| before.as_ref().is_none_or(|b| b.what != short.what);
        match short.as_ref().is_some_and(is_new) {
            true => short.iter().for_each(|short| console.warn(&short.why)),
            false => short = short.and(before),
        }
        let why = short.as_ref().map(|short| short.why.clone());
        *last = Some((now, short));
        why
    }

    /// Something was met that the last look had not seen.
    pub(crate) fn look_again(&self) {
        if let Some((at, _)) = lock(&self.last).as_mut()
            && let Some(long_ago) = clock::instant().checked_sub(LOOK_EVERY)
        {
            *at = long_ago;
        }
    }

    fn disk(&self) -> Option<Short> {
        let floor = self.limits.disk_free_min;
        let mut why = self.places.iter().filter_map(|place| {
            let disk = statvfs(place).ok()?;
            let at = place.display();
            let free = disk.blocks_available() * disk.fragment_size();
            let names = disk.files_available();
            if free < floor {
                let (free, floor) = (text::bytes(free), text::bytes(floor));
                return Some(format!("only {free} free on the disk of {at}, less than {floor} (`disk_free_min` in [limits])"));
            }
            // Some file systems do not count them.
            let is_counted = disk.files() > 0 && floor > 0;
            (is_counted && names < FILES_FREE_MIN).then(|| {
                format!("the disk of {at} takes only {names} files more (`df -i`), whatever bytes are free")
            })
        });
        why.next().map(|why| Short {
            what: "disk",
            why: format!("{why}: nothing new is claimed until there is more"),
        })
    }

    fn memory(&self) -> Option<Short> {
        let max = self.limits.pressure_max.filter(|max| *max > 0)?;
        let waits = pressure()?;
        (waits > max as f64).then(|| Short {
            what: "memory",
            why: format!(
                "memory is short: programs of this machine wait for it {waits:.0} % of the time, more than {max} % \
                 (`pressure_max` in [limits]): nothing new is claimed until they wait less"
            ),
        })
    }

    fn agents(&self) -> Option<Short> {
        let of = self.limits.agents?;
        (place::taken() as u64 >= of).then(|| Short {
            what: "agents",
            why: format!(
                "{}: nothing new is claimed until one of them has ended",
                place::none_left(of)
            ),
        })
    }

    fn load(&self) -> Option<Short> {
        let max = self.limits.load_max.filter(|max| *max > 0.0)?;
        let text = atomic::read_kernel_text("/proc/loadavg").ok()?;
        let load: f64 = text.split_whitespace().next()?.parse().ok()?;
        let cores = cores();
        (load > max * cores as f64).then(|| Short {
            what: "load",
            why: format!(
                "the load is {load:.1} on {cores} cores, more than {max} for each (`load_max` in [limits]): nothing \
                 new is claimed until it is lower"
            ),
        })
    }
}

/// Per cent of the last ten seconds in which programs waited for memory; `None`: this kernel does not
/// tell.
pub(crate) fn pressure() -> Option<f64> {
    // `some avg10=0.12 avg60=0.01 avg300=0.00 total=116053199`
    let text = atomic::read_kernel_text(PRESSURE).ok()?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let mut words = some.split_whitespace();
    words
        .find_map(|word| word.strip_prefix("avg10="))?
        .parse()
        .ok()
}

fn cores() -> i64 {
    use nix::unistd::{SysconfVar, sysconf};
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN);
    online.ok().flatten().unwrap_or(1).max(1)
}
