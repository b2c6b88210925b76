//! Which host this is. A `flock` and a process id mean something on one host; where several share a ROOT,
//! a slot is its host's, and no other host takes it.
//!
//! Knows nothing of slots. Invariant: a host that cannot be told from another one counts as that one only
//! where its locks would be seen here.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::engine::{self, Job};
use crate::layout::Root;
use crate::mutant::planted;
use crate::shared_fs;

/// A host, and what an engine started there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Host {
    /// An engine's name for it where an engine started the process, else its own.
    #[serde(rename = "host")]
    pub name: String,
    /// A new one at each start of the host; empty where an older harness wrote this.
    pub boot_id: String,
    /// What an engine calls the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<Job>,
}

impl Host {
    /// This process's.
    pub fn own() -> &'static Host {
        static OWN: LazyLock<Host> = LazyLock::new(|| Host {
            name: engine::node().unwrap_or_else(hostname),
            boot_id: atomic::read_kernel_text("/proc/sys/kernel/random/boot_id")
                .map_or_else(|_| String::new(), |id| id.trim().to_owned()),
            job: engine::own_job(),
        });
        &OWN
    }

    /// Whether it is another host than this one.
    pub fn is_other(&self, root: &Root) -> bool {
        self.differs_from(Host::own(), || shared_fs::is_shared(&root.state()))
    }

    /// Containers of one host may have any name: they have its kernel, and with that its locks. On a file
    /// system that nobody shares there are no other hosts, but for nodes of an engine's: the host that
    /// serves them its own disk sees it as a local one.
    fn differs_from(&self, own: &Host, is_shared: impl FnOnce() -> bool) -> bool {
        let same_name = self.name == own.name;
        let is_node = self.job.is_some() && !same_name;
        if is_node && own.job.is_some() {
            return true;
        }
        let same_kernel = match self.boot_id.is_empty() || own.boot_id.is_empty() {
            true => same_name,
            false => self.boot_id == own.boot_id,
        };
        let is_elsewhere = is_node && !planted("node-is-here");
        !same_kernel && (is_elsewhere || is_shared())
    }

    /// Whether it has this process's kernel, which shows all its locks.
    pub(crate) fn has_own_kernel(&self) -> bool {
        !self.boot_id.is_empty() && self.boot_id == Host::own().boot_id
    }

    /// Whether a lock of its that is free here is free. A host that serves its own disk does not see those
    /// of its clients there.
    pub(crate) fn shows_locks(&self, root: &Root) -> bool {
        let state = root.state();
        self.has_own_kernel() || shared_fs::is_shared(&state) && shared_fs::shares_locks(&state)
    }

    /// Whether other hosts may work in this ROOT: where runs were submitted, too.
    pub fn has_others(root: &Root) -> bool {
        let own = Host::own();
        own.job.is_some() || shared_fs::is_shared(&root.state()) || root.jobs().is_dir()
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "?".into(), |h| h.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, boot_id: &str, job: Option<&str>) -> Host {
        let job = job.map(|id| Job {
            engine: "slurm".into(),
            cluster: "c".into(),
            id: id.into(),
            restarts: 0,
        });
        Host {
            name: name.into(),
            boot_id: boot_id.into(),
            job,
        }
    }

    #[test]
    fn a_host_is_its_kernel_or_the_node_of_an_engine() {
        let own = host("n1", "b1", None);
        let in_job = host("n1", "b1", Some("1"));
        for (other, own, on_shared, on_local) in [
            (host("n1", "b1", None), &own, false, false),
            // A container of this host, and this one before it was started again.
            (host("a1b2", "b1", None), &own, false, false),
            (host("n1", "b0", None), &own, true, false),
            (host("n2", "b2", None), &own, true, false),
            // Written by an older harness.
            (host("n1", "", None), &own, false, false),
            (host("n2", "", None), &own, true, false),
            // Nodes on one host; another job of the same node; one outside of the engine.
            (host("n2", "b1", Some("2")), &in_job, true, true),
            (host("n1", "b1", Some("2")), &in_job, false, false),
            (host("n2", "b1", None), &in_job, false, false),
            // A node of another kernel; one of this kernel; this host as a node, before it was started again.
            (host("n2", "b2", Some("2")), &own, true, true),
            (host("n2", "b1", Some("2")), &own, false, false),
            (host("n1", "b0", Some("2")), &own, true, false),
        ] {
            assert_eq!(other.differs_from(own, || true), on_shared, "{other:?}");
            assert_eq!(other.differs_from(own, || false), on_local, "{other:?}");
        }
    }
}
