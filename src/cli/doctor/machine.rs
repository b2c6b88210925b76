//! Checks how well agents can be held to `[limits]` here.

use super::{Finding, ok, warn};
use crate::config::{Config, LimitsTable, Source};
use crate::layout::shown;
use crate::process::controllers;
use crate::runtime;

const DELEGATED: &str = "start it as the only process of a cgroup that is yours: `systemd-run --user --scope -p \
                         Delegate=yes harness run`, or a user unit with `Delegate=yes`; in a container, as its first process";
const SAMPLED: &str = "memory and processes are looked at several times a second, and `cpu` keeps agents to so many \
                       whole cores";

fn needs_kernel(limits: &LimitsTable) -> bool {
    limits.memory.is_some() || limits.cpu.is_some() || limits.processes.is_some()
}

/// By what agents are held to `memory`, `cpu` and `processes`; `None`: the configuration cannot be read.
pub(super) fn limits(config: Option<&Config>) -> Option<Finding> {
    let needed = needs_kernel(&config?.limits);
    Some(match controllers::could_delegate() {
        Ok((dir, there)) => ok(format!(
            "by the kernel: {} below {}, where harness is the only process there",
            there.join(", "),
            shown(dir.as_os_str())
        )),
        Err(e) if needed => warn(format!("not by the kernel ({e}): {SAMPLED}"), DELEGATED),
        Err(e) => ok(format!(
            "none of `memory`, `cpu` and `processes` is set; not by the kernel ({e})"
        )),
    })
}

/// Whether the kernel tells how short memory is.
pub(super) fn pressure(config: Option<&Config>) -> Option<Finding> {
    let max = config?.limits.pressure_max.filter(|max| *max > 0)?;
    Some(match runtime::pressure() {
        Some(waits) => ok(format!(
            "programs wait for memory {waits:.0} % of the time; nothing is claimed above {max} %"
        )),
        None => warn(
            "this kernel does not tell how short memory is (/proc/pressure/memory): `pressure_max` in [limits] holds nothing up",
            "use a kernel with CONFIG_PSI, and `psi=1` at boot where it is off; or set `memory` in [limits]",
        ),
    })
}

/// Has the kernel hold agents to their limits, as far as it can. What to warn of at the start of a run.
pub(super) fn at_start(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if needs_kernel(&config.limits)
        && let Err(e) = controllers::delegate()
    {
        warnings.push(format!(
            "`memory`, `cpu` and `processes` in [limits] are not held by the kernel ({e}): {SAMPLED}; what to do: {DELEGATED}"
        ));
    }
    // By default nobody has asked for it.
    let is_set = config.sources.entry("limits.pressure_max");
    let is_set = is_set.is_some_and(|entry| entry.source != Source::Default);
    if let Some(Finding {
        what_to_do: Some(what_to_do),
        why,
        ..
    }) = pressure(Some(config)).filter(|_| is_set)
    {
        warnings.push(format!("{why}; what to do: {what_to_do}"));
    }
    warnings
}
