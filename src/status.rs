//! The shapes of `status.json` and of an agent's own `status.json`, as the contract gives them.
//! Plain data: `aggregator` fills them, `view` shows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `state/status.json`, version 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: u32,
    pub timestamp: String,
    pub harnesses: Vec<HarnessStatus>,
    pub agents: Vec<AgentStatus>,
    pub work_queue: WorkQueue,
    pub interrupts: Vec<InterruptStatus>,
    pub holds: Vec<crate::hold::Hold>,
    /// What a standing order in `state/control/` says: `pause`, `drain`, `stop`.
    pub control: Vec<String>,
    pub metrics: Metrics,
}

/// One living harness process; also the content of its file in `state/harnesses/`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HarnessStatus {
    pub pid: u32,
    pub host: String,
    pub started_at: String,
    pub uptime_seconds: u64,
    /// Slots it wants to hold.
    pub workers: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    #[default]
    Idle,
    Starting,
    Working,
    Finishing,
    Interrupted,
    Paused,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    #[default]
    Healthy,
    Quiet,
    Stalled,
    /// Nobody holds the slot's lease.
    Dead,
}

/// One slot; also the content of `state/agents/agent-N/status.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    pub id: String,
    pub state: AgentState,
    pub health: Health,
    pub harness_pid: Option<u32>,
    /// The agent process itself.
    pub pid: Option<i32>,
    pub work_item: Option<String>,
    pub session: Option<String>,
    pub attempt: Option<u32>,
    pub started_at: Option<String>,
    pub last_heartbeat: Option<String>,
    pub last_event_at: Option<String>,
    pub turns: u64,
    pub tool_calls: u64,
    pub tokens: u64,
    pub cost_usd: f64,
    pub last_message: Option<String>,
}

/// Counts of items by state. `pending` are those that could start now; `scheduled` wait for a
/// time, `blocked` for another item, an exclusive key or their own earlier attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkQueue {
    pub total: u64,
    pub pending: u64,
    pub scheduled: u64,
    pub blocked: u64,
    pub claimed: u64,
    pub done: u64,
    pub parked: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct InterruptStatus {
    pub agent: String,
    pub reason: String,
    pub since: String,
}

/// Figures over the attempts that ended. `*_today` since local midnight; `throughput_per_hour`
/// over the last hour; `average_work_duration` in seconds and `success_rate` (0 to 1) of today.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    pub agents_active: u64,
    pub agents_working: u64,
    pub agents_idle: u64,
    pub agents_interrupted: u64,
    pub completed_today: u64,
    pub failed_today: u64,
    pub throughput_per_hour: f64,
    pub average_work_duration: f64,
    pub success_rate: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
}

/// One line of `state/ledger/YYYY-MM-DD.jsonl`: an attempt that ended. A cache of the session
/// records, so that figures cost the same however many sessions there are.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerLine {
    /// RFC 3339, UTC.
    pub at: String,
    pub session: String,
    pub item: String,
    pub slot: String,
    pub outcome: String,
    /// Whether the item ended with it (`done/` or `parked/`), or is tried again.
    pub last: bool,
    pub seconds: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
    /// Room for what later versions add.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}
