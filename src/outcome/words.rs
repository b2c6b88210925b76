//! The words for an attempt's end, as records, session files and people have them.
//!
//! Knows nothing of what leads to them. A word of a newer version is kept as it stands.

use std::borrow::Cow;

use clap::ValueEnum;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::event::{Class, Limit};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Outcome {
    // `harness retry --all` takes those that are parked.
    #[value(skip)]
    Succeeded,
    #[value(skip)]
    NoChange,
    Failed,
    TimedOut,
    Stalled,
    Crashed,
    Refused,
    Canceled,
    OverBudget,
    Limited,
    GateFailed,
    Conflict,
    Interrupted,
}

impl Outcome {
    pub const ALL: [Outcome; 13] = [
        Outcome::Succeeded,
        Outcome::NoChange,
        Outcome::Failed,
        Outcome::TimedOut,
        Outcome::Stalled,
        Outcome::Crashed,
        Outcome::Refused,
        Outcome::Canceled,
        Outcome::OverBudget,
        Outcome::Limited,
        Outcome::GateFailed,
        Outcome::Conflict,
        Outcome::Interrupted,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::NoChange => "no_change",
            Outcome::Failed => "failed",
            Outcome::TimedOut => "timed_out",
            Outcome::Stalled => "stalled",
            Outcome::Crashed => "crashed",
            Outcome::Refused => "refused",
            Outcome::Canceled => "canceled",
            Outcome::OverBudget => "over_budget",
            Outcome::Limited => "limited",
            Outcome::GateFailed => "gate_failed",
            Outcome::Conflict => "conflict",
            Outcome::Interrupted => "interrupted",
        }
    }

    /// Only these two are ever in `done/`.
    pub fn is_good(self) -> bool {
        matches!(self, Outcome::Succeeded | Outcome::NoChange)
    }
}

/// Where an item goes after an attempt, as its record says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// Its branch waits for a person.
    Review,
    /// Its branch waits to be merged.
    Merge,
    Done,
    Parked,
    /// Back to `pending/`; the attempt counts as a failure.
    Retry,
    /// Back to `pending/`; the attempt does not count.
    Pending,
    /// A person has moved its file: it is left where it is.
    Left,
}

impl Next {
    pub fn as_str(self) -> &'static str {
        match self {
            Next::Review => "review",
            Next::Merge => "merge",
            Next::Done => "done",
            Next::Parked => "parked",
            Next::Retry => "retry",
            Next::Pending => "pending",
            Next::Left => "left",
        }
    }
}

/// A word in a file: one of ours, or one of a newer version, which is kept as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Word<T> {
    Known(T),
    Newer(String),
}

/// Every list of words is open in a schema: that of `T` says it all.
impl<T: JsonSchema> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
}

impl<T: Copy> Word<T> {
    pub fn known(&self) -> Option<T> {
        match self {
            Word::Known(word) => Some(*word),
            Word::Newer(_) => None,
        }
    }
}

impl<T: Default> Default for Word<T> {
    fn default() -> Word<T> {
        Word::Known(T::default())
    }
}

impl<T> From<T> for Word<T> {
    fn from(word: T) -> Word<T> {
        Word::Known(word)
    }
}

/// What has a word in files.
pub trait Spelled {
    fn spelled(&self) -> &'static str;
}

impl Spelled for Outcome {
    fn spelled(&self) -> &'static str {
        self.as_str()
    }
}

impl Spelled for Verdict {
    fn spelled(&self) -> &'static str {
        self.as_str()
    }
}

impl<T: Spelled> Word<T> {
    pub fn as_str(&self) -> &str {
        match self {
            Word::Known(word) => word.spelled(),
            Word::Newer(text) => text,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Its keeper died before it could record it.
    Unknown,
}

/// Why the harness stopped an agent, where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    TimedOut,
    /// It gave no sign of life for too long.
    Stalled,
    /// It had reported its result and did not end.
    Lingered,
    /// It used up its turns or its money, and its CLI did not see to that.
    OverTurns,
    OverBudget,
    /// One of `[limits]`, which its keeper holds it to.
    OverOutput,
    OverWorktree,
    OverDisk,
    OverMemory,
    OverProcesses,
    /// The item's file was taken away from `claimed/`.
    Canceled,
    /// The harness itself was told to stop (SIGTERM, second Ctrl-C).
    Shutdown,
}

impl Stop {
    pub(super) const ALL: [Stop; 12] = [
        Stop::TimedOut,
        Stop::Stalled,
        Stop::Lingered,
        Stop::OverTurns,
        Stop::OverBudget,
        Stop::OverOutput,
        Stop::OverWorktree,
        Stop::OverDisk,
        Stop::OverMemory,
        Stop::OverProcesses,
        Stop::Canceled,
        Stop::Shutdown,
    ];

    /// Its word in `exit.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stop::TimedOut => "timed_out",
            Stop::Stalled => "stalled",
            Stop::Lingered => "lingered",
            Stop::OverTurns => "over_turns",
            Stop::OverBudget => "over_budget",
            Stop::OverOutput => "over_output",
            Stop::OverWorktree => "over_worktree",
            Stop::OverDisk => "over_disk",
            Stop::OverMemory => "over_memory",
            Stop::OverProcesses => "over_processes",
            Stop::Canceled => "canceled",
            Stop::Shutdown => "shutdown",
        }
    }

    pub fn parse(word: &str) -> Option<Stop> {
        Stop::ALL.into_iter().find(|s| s.as_str() == word)
    }

    /// Whether its keeper stopped it at one of `[limits]`, and says why.
    pub fn is_of_the_machine(self) -> bool {
        matches!(
            self,
            Stop::OverOutput
                | Stop::OverWorktree
                | Stop::OverDisk
                | Stop::OverMemory
                | Stop::OverProcesses
        )
    }

    /// The fault that it stands for in the session's file.
    pub(super) fn class(self) -> Option<Class> {
        let limit = match self {
            Stop::OverTurns => Limit::Turns,
            Stop::OverBudget => Limit::Budget,
            Stop::OverOutput => Limit::Output,
            Stop::OverWorktree => Limit::Worktree,
            Stop::OverDisk => Limit::Disk,
            Stop::OverMemory => Limit::Memory,
            Stop::OverProcesses => Limit::Processes,
            Stop::Stalled => return Some(Class::Stalled),
            Stop::TimedOut | Stop::Lingered | Stop::Canceled | Stop::Shutdown => return None,
        };
        Some(Class::LimitsReached { limit })
    }
}
