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

    /// Whether it is another host than this one. Containers of one host may have any name: on a file
    /// system that nobody shares they are no hosts of their own.
    pub fn is_other(&self, root: &Root) -> bool {
        let own = Host::own();
        let same_name = self.name == own.name;
        if same_name && (self.boot_id.is_empty() || self.boot_id == own.boot_id) {
            return false;
        }
        let in_jobs = self.job.is_some() && own.job.is_some();
        in_jobs && !same_name || shared_fs::is_shared(&root.state())
    }

    /// Whether other hosts may work in this ROOT.
    pub fn has_others(root: &Root) -> bool {
        Host::own().job.is_some() || shared_fs::is_shared(&root.state())
    }
}

fn hostname() -> String {
    nix::unistd::gethostname().map_or_else(|_| "?".into(), |h| h.to_string_lossy().into_owned())
}
