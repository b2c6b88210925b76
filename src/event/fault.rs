//! What went wrong with an agent: its class, whether and when a retry can help, and what a person
//! can do. Pure tables: `adapters` finds the class, the session acts on it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kinds of failure that need different reactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum Class {
    /// The login or key was refused, or there is none.
    Auth,
    /// The account has no money or credit left.
    Billing,
    /// The plan's quota is used up, until `resets_at` if that is known.
    UsageLimit {
        /// Unix seconds; as JSON RFC 3339.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            with = "crate::clock::seconds"
        )]
        #[schemars(with = "Option<String>")]
        resets_at: Option<i64>,
    },
    /// Too many requests in too short a time.
    RateLimit,
    /// The provider is overloaded or broken.
    Overloaded,
    /// The provider cannot be reached, or connections break.
    Network,
    /// The conversation is longer than the model can read.
    Context,
    /// The model, or its provider's safeguards, refused the task.
    Refusal,
    /// One of harness's own limits was reached, or the model's limit on an answer.
    LimitsReached {
        /// Which one.
        limit: Limit,
    },
    /// It was not allowed to use a tool that it needed.
    Permission,
    /// It did not start with these arguments: a bad flag, a missing file, an unknown model.
    Spawn,
    /// The conversation to resume, or its id, cannot be used.
    SessionLost,
    /// It showed no sign of life. No CLI reports this: the session's watcher finds it.
    Stalled,
    /// It was stopped before it had finished.
    Interrupted,
    /// What it printed was not what its adapter reads.
    Malformed,
    Unknown,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Turns,
    Budget,
    /// The length of one answer of the model.
    MaxTokens,
    /// Those of `[limits]`.
    Output,
    Worktree,
    Disk,
    Memory,
    Processes,
}

impl Limit {
    fn advice(self) -> &'static str {
        match self {
            Limit::Turns => "raise `max_turns`, or split the item",
            Limit::Budget => "raise `budget_usd`, or split the item",
            Limit::MaxTokens => {
                "ask for smaller steps in the item, or raise the CLI's limit on the length of one answer"
            }
            Limit::Output => "have it print less, or raise `output` in [limits]",
            Limit::Worktree => {
                "set `clean = \"all\"` for its repository, or raise `worktree` in [limits]"
            }
            Limit::Disk => "make room on that disk",
            Limit::Memory => "raise `memory` in [limits]",
            Limit::Processes => "raise `processes` in [limits]",
        }
    }
}

/// What can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// Only a person: another try ends the same way.
    Person,
    /// Another try, with backoff, resumed or not.
    Again,
    /// Another try, in a new conversation.
    Fresh,
    /// Waiting, which counts as no attempt, until an instant (unix seconds) if it is known.
    Wait(Option<i64>),
}

impl Class {
    /// Its name in records: `usage_limit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Auth => "auth",
            Class::Billing => "billing",
            Class::UsageLimit { .. } => "usage_limit",
            Class::RateLimit => "rate_limit",
            Class::Overloaded => "overloaded",
            Class::Network => "network",
            Class::Context => "context",
            Class::Refusal => "refusal",
            Class::LimitsReached { .. } => "limits_reached",
            Class::Permission => "permission",
            Class::Spawn => "spawn",
            Class::SessionLost => "session_lost",
            Class::Stalled => "stalled",
            Class::Interrupted => "interrupted",
            Class::Malformed => "malformed",
            Class::Unknown => "unknown",
        }
    }

    pub fn mend(self) -> Mend {
        match self {
            Class::UsageLimit { resets_at } => Mend::Wait(resets_at),
            Class::RateLimit => Mend::Wait(None),
            Class::Context | Class::SessionLost => Mend::Fresh,
            Class::Overloaded
            | Class::Network
            | Class::Stalled
            | Class::Interrupted
            | Class::Malformed
            | Class::Unknown => Mend::Again,
            Class::Auth
            | Class::Billing
            | Class::Refusal
            | Class::LimitsReached { .. }
            | Class::Permission
            | Class::Spawn => Mend::Person,
        }
    }

    /// Whether it affects every agent with the same login: a reason for a hold.
    pub fn is_of_the_account(self) -> bool {
        matches!(
            self,
            Class::Auth | Class::Billing | Class::UsageLimit { .. } | Class::RateLimit
        )
    }
}

/// What went wrong, in the CLI's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    #[serde(flatten)]
    pub class: Class,
    /// What the CLI said, clipped. Never empty.
    pub message: String,
}

impl Fault {
    pub fn new(class: Class, text: &str) -> Fault {
        let message = super::message(text);
        Fault {
            class,
            message: if message.is_empty() {
                class.as_str().replace('_', " ")
            } else {
                message
            },
        }
    }

    /// What a person can do. `again`: another try follows by itself, which only then is promised.
    /// `cli`: the program's name; `login`: what to do about a refused login.
    pub fn advice(&self, cli: &str, login: &str, again: bool) -> String {
        let resume = "then run `harness resume` (no agent with this login starts before) and `harness retry` the item";
        let (goes_on, look) = match self.class {
            Class::Auth => return format!("{login}, {resume}"),
            Class::Billing => {
                return format!(
                    "add credit to the account or name an agent with another one, {resume}"
                );
            }
            Class::Refusal => {
                return "word the item differently, or name another model or agent".into();
            }
            Class::LimitsReached { limit } => return limit.advice().into(),
            Class::Permission => {
                return "allow what it asked for in `tools` or `permission_mode` of its [agents] table".into();
            }
            Class::Spawn => {
                return format!(
                    "correct its [agents] table (model, settings, args), or run {cli} by hand with the same arguments"
                );
            }
            // Of an end that is not known nothing is promised.
            Class::UsageLimit { resets_at } => (
                match resets_at {
                    Some(_) => "harness continues by itself when the limit ends",
                    None => "harness tries again by itself after the hold",
                },
                "an agent with another login can work now".to_owned(),
            ),
            Class::RateLimit => (
                "harness continues by itself after a pause",
                "fewer workers reach the limit less often".to_owned(),
            ),
            Class::Overloaded => (
                "it is tried again",
                "look at the provider's status page".to_owned(),
            ),
            Class::Network => (
                "it is tried again",
                format!("check this host's network, its proxy and {cli}'s base URL"),
            ),
            Class::Context => (
                "it is tried again in a new conversation",
                "split the item, or name the files that it needs, so that there is less to read"
                    .to_owned(),
            ),
            Class::SessionLost => (
                "it is tried again in a new conversation",
                format!("look at where {cli} keeps its conversations"),
            ),
            Class::Stalled => (
                "it is tried again",
                "raise `stall` if its tools are silent for longer".to_owned(),
            ),
            Class::Interrupted => ("it is tried again", format!("look at what ends {cli}")),
            Class::Malformed => (
                "it is tried again",
                format!(
                    "check with `harness doctor` that this is {cli}, in a version that harness knows"
                ),
            ),
            Class::Unknown => (
                "it is tried again",
                "read the session's stderr.log and the end of its stdout.log".to_owned(),
            ),
        };
        match again {
            true => format!("{goes_on}; if that does not help: {look}"),
            false => format!("{look}, then `harness retry` the item"),
        }
    }
}
