//! The keeper: a small process per slot that starts the slot's agent, waits for it and survives the
//! harness. It guarantees three things:
//!
//! - an agent outlives its harness, and its exit status is still recorded (`exit.json`);
//! - starting an agent costs the same however big the harness is (from a process of 2 MB);
//! - an item's process tree ends with the item: the keeper is a child subreaper, so whatever the
//!   agent leaves behind becomes its child, and it continues until it has no child left.
//!
//! It runs one agent at a time, so every descendant is that agent's. It knows nothing of items,
//! queues or git. Harness and keeper talk over a socket (`wire`): a new keeper inherits it, an
//! adopting harness connects to `agents/agent-N/keeper.sock`. A keeper without harness and agent
//! ends. While it lives it holds `agents/agent-N/keeper.lock`: that, not a pid, proves its life.

pub mod caps;
pub mod wire;
mod agent;
mod client;
mod disk;
mod guard;
mod inbox;
mod peer;
pub(crate) mod place;
mod serve;
mod size;

pub(crate) use client::program;
pub use client::{Keeper, is_alive};
pub(crate) use serve::serve;

/// Content of `exit.json`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct ExitRecord {
    pub session: String,
    /// Its process id.
    pub pid: i32,
    pub exit_status: Option<i32>,
    pub signal: Option<i32>,
    pub started_at: String,
    pub ended_at: String,
    /// From its start until the last process of its tree ended, monotonic, without frozen time.
    pub seconds: f64,
    /// How long an interrupt kept it frozen.
    #[serde(default)]
    pub frozen_seconds: f64,
    /// User and system time of the tree, as far as its processes were reaped.
    pub cpu_seconds: f64,
    /// Whether it was told to stop before it ended by itself.
    pub stopped: bool,
    /// Why, as the word of an `outcome::Stop`; empty if it was not stopped.
    #[serde(default)]
    pub stopped_for: String,
    /// Processes that it left behind and that had to be killed.
    pub strays: u32,
    /// How many of those could not be killed (another user's) and still run.
    pub strays_left: u32,
    /// What was done to hold it to `[limits]`, in words; the last is why it was stopped, where it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<String>,
}

impl ExitRecord {
    /// Why it was stopped, if it was.
    pub fn stop(&self) -> Option<crate::outcome::Stop> {
        use crate::outcome::Stop;
        self.stopped
            .then(|| Stop::parse(&self.stopped_for).unwrap_or(Stop::Shutdown))
    }

    pub fn exit(&self) -> crate::outcome::Exit {
        use crate::outcome::Exit;
        match (self.exit_status, self.signal) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        }
    }
}
