//! What an agent, or a gate, may use of its machine: `[limits]`, as its keeper is told.

use serde::{Deserialize, Serialize};

use crate::config::LimitsTable;
use crate::limits::GATE_LOG_BYTES_MAX;
use crate::process::controllers::Bounds;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Caps {
    /// Bytes of standard output and standard error.
    pub output: Option<u64>,
    /// Bytes on its disk of the directory that it works in.
    pub worktree: Option<u64>,
    /// Bytes of free disk below which nothing is claimed.
    pub disk_free: u64,
    /// Bytes of memory of its tree.
    pub memory: Option<u64>,
    /// Thousandths of a core.
    pub cpu: Option<u64>,
    /// Processes of its tree, each of their threads counted as one.
    pub processes: Option<u64>,
    /// Added to harness's own.
    pub nice: u8,
    /// Agents at work on this host.
    pub agents: Option<u64>,
}

impl Caps {
    /// What the kernel can hold it to.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            memory: self.memory,
            cpu: self.cpu,
            processes: self.processes,
            nice: self.nice,
        }
    }

    pub(crate) fn of(limits: &LimitsTable) -> Caps {
        // 0: no limit.
        let some = |n: u64| (n > 0).then_some(n);
        Caps {
            output: some(limits.output),
            worktree: some(limits.worktree),
            disk_free: limits.disk_free_min,
            memory: limits.memory.and_then(some),
            cpu: limits
                .cpu
                .and_then(|cores| some((cores * 1_000.0).ceil() as u64)),
            processes: limits.processes,
            nice: limits.nice,
            agents: limits.agents,
        }
    }

    /// What a gate prints is read for failures, as a whole.
    pub(crate) fn of_gate(limits: &LimitsTable) -> Caps {
        let caps = Caps::of(limits);
        let output = caps.output.unwrap_or(u64::MAX).min(GATE_LOG_BYTES_MAX);
        Caps {
            output: Some(output),
            // Its agent has ended.
            agents: None,
            ..caps
        }
    }
}
