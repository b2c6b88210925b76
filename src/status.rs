//! The shapes of `state/status.json`, of a slot's own `status.json` and of the ledger's lines.
//! Plain data: `aggregator` fills them, `view` shows them.
//!
//! Times are text: RFC 3339 in UTC.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::Job;

/// `state/status.json`, version 2.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Status {
    /// 2; another one where names vanish or mean something else.
    pub version: u32,
    /// When it was written.
    pub timestamp: String,
    /// The living harness processes.
    pub harnesses: Vec<HarnessStatus>,
    /// The slots.
    pub agents: Vec<SlotStatus>,
    /// The items, by state.
    pub work_queue: WorkQueue,
    /// Slots that are frozen, or asked something.
    pub interrupts: Vec<InterruptStatus>,
    /// Agents that do not start now.
    pub holds: Vec<crate::hold::Hold>,
    /// What is wrong here and now; what is wrong in a slot stands with the slot.
    pub troubles: Vec<TroubleStatus>,
    /// What was handed to an engine and has not started, has failed, or is not known. `harness status` asks
    /// the engine; in the file it is empty.
    pub submissions: Vec<SubmissionStatus>,
    /// The files in `state/control/` that are in force: `pause`, `drain`, `stop`.
    pub control: Vec<String>,
    /// Counts of slots, and what the attempts of today came to.
    pub metrics: Metrics,
}

/// One living harness process; also the content of its file in `state/harnesses/`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HarnessStatus {
    /// Its process id.
    pub pid: u32,
    /// Its host: an engine's name for the node where an engine started it.
    pub host: String,
    /// A new one at each start of that host.
    pub boot_id: String,
    /// What an engine calls it.
    pub job: Option<Job>,
    #[serde(with = "crate::text::or_null")]
    #[schemars(with = "Option<String>")]
    pub started_at: String,
    /// Since it was started.
    pub uptime_seconds: u64,
    /// How many slots it wants to hold.
    pub workers: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    #[default]
    Idle,
    /// It has claimed an item; the agent process does not run yet.
    Starting,
    Working,
    /// The agent process has ended; its work is being kept and its item moved.
    Finishing,
    Interrupted,
    Paused,
    /// Something is wrong with the slot, which `reason` says. It tries again by itself.
    Trouble,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    #[default]
    Healthy,
    Quiet,
    Stalled,
    /// No process holds the slot's lease.
    Dead,
}

/// One slot; also the content of `state/agents/agent-N/status.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SlotStatus {
    /// The slot: `agent-N`.
    pub id: String,
    /// What it does.
    pub state: SlotState,
    /// Whether its agent gives signs of life.
    pub health: Health,
    pub harness_pid: Option<u32>,
    /// The agent process.
    pub pid: Option<i32>,
    pub item: Option<String>,
    /// Why it waits.
    pub reason: Option<String>,
    /// What runs: `script`, or a name from `[agents.NAME]`.
    pub agent: Option<String>,
    pub session: Option<String>,
    pub attempt: Option<u32>,
    /// When the item was claimed, and when its agent process was started.
    pub claimed_at: Option<String>,
    pub started_at: Option<String>,
    /// When its harness last said that it lives.
    pub last_heartbeat: Option<String>,
    /// When its agent last said something.
    pub last_event_at: Option<String>,
    /// What the agent's CLI says of this attempt so far.
    pub turns: u64,
    pub tool_calls: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
    /// The agent's latest text.
    pub last_message: Option<String>,
}

/// Counts of items by state. `pending` are those that could start now; `scheduled` wait for a
/// time, `blocked` for another item, an exclusive key or their own earlier attempt, `review` for a
/// person, `merge` for a merge. `total` counts these and `claimed`: what is not over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WorkQueue {
    /// All that are not over.
    pub total: u64,
    /// Could start now.
    pub pending: u64,
    /// Wait for a time.
    pub scheduled: u64,
    /// Wait for another item, an exclusive key or their own earlier attempt.
    pub blocked: u64,
    /// A slot works on them.
    pub claimed: u64,
    /// Wait for a person.
    pub review: u64,
    /// Wait to be merged.
    pub merge: u64,
    /// Finished well; not in `total`.
    pub done: u64,
    /// Need a person; not in `total`.
    pub parked: u64,
}

/// What is wrong in one place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TroubleStatus {
    /// A slot, or a folder of the tree.
    pub place: String,
    pub reason: String,
    #[serde(with = "crate::text::or_null")]
    #[schemars(with = "Option<String>")]
    pub since: String,
    /// How often it was met in a row.
    pub tries: u32,
}

/// What an engine says of runs that `harness submit` handed to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SubmissionStatus {
    /// `slurm`.
    pub engine: String,
    /// The engine's name for the hosts that it rules.
    pub cluster: String,
    /// The engine's number for all of it.
    pub id: String,
    #[serde(with = "crate::text::or_null")]
    #[schemars(with = "Option<String>")]
    /// When it was submitted.
    pub submitted_at: String,
    /// How many runs were submitted.
    pub nodes: u32,
    /// How many of them wait in its queue; `None`: not known.
    pub waiting: Option<u64>,
    /// How many of them have ended a moment ago in a way that their items do not explain; `None`: not known.
    pub failed: Option<u64>,
    pub reason: Option<String>,
}

/// One file in `state/interrupts/`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterruptStatus {
    /// `agent-N` or `all`.
    pub slot: String,
    pub reason: String,
    #[serde(with = "crate::text::or_null")]
    #[schemars(with = "Option<String>")]
    pub since: String,
}

/// Counts of slots, and figures over the attempts that ended. `*_today`, averages, tokens and cost
/// are since local midnight; `throughput_per_hour` counts items over the last hour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Metrics {
    /// Slots that a harness holds.
    pub agents_active: u64,
    /// Slots with an item.
    pub agents_working: u64,
    /// Slots without one.
    pub agents_idle: u64,
    /// Frozen slots.
    pub agents_interrupted: u64,
    /// Items that ended in `done/`.
    pub completed_today: u64,
    /// Attempts that ended badly.
    pub failed_today: u64,
    /// Items that ended in the last hour.
    pub throughput_per_hour: f64,
    /// Mean duration of an attempt.
    pub average_seconds: f64,
    /// Completed of all that ended: 0 to 1.
    pub success_rate: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
}

/// One line of `state/ledger/YYYY-MM-DD.jsonl`: an attempt that ended. A cache of the session
/// records, so that figures cost the same however many sessions there are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LedgerLine {
    /// When the attempt ended.
    #[serde(rename = "ended_at", alias = "at")]
    pub at: String,
    pub session: String,
    pub item: String,
    pub slot: String,
    /// What ran: `script`, or a name from `[agents.NAME]`.
    pub agent: String,
    pub outcome: String,
    /// Whether the item ended with it (`done/` or `parked/`); otherwise it is tried again.
    pub last: bool,
    pub seconds: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
    /// What the budget was charged with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_usd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_tokens: Option<u64>,
    #[serde(with = "crate::text::or_null")]
    #[schemars(with = "Option<String>")]
    pub started_at: String,
    /// The class of what its CLI reported, and the words for its end.
    pub fault: Option<String>,
    pub reason: String,
    /// It made too many failures alike, and its agent was held.
    pub held: bool,
    /// Nobody saw how it ended: its keeper died, as all do when a machine is switched off.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
    /// Fields of later versions.
    #[serde(flatten)]
    #[schemars(skip)]
    pub more: BTreeMap<String, serde_json::Value>,
}
