//! What went wrong with an agent: its class, whether a retry can mend it, when, and what a person
//! can do about it. Pure tables; `adapters` finds the class, the session acts on it.

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// The kinds of trouble that call for different answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case")]
pub enum Class {
    /// The login or key was refused, or there is none.
    Auth,
    /// The account has no money or credit left.
    Billing,
    /// The plan's share is used up until an instant (seconds since 1970), where it is told.
    UsageLimit {
        #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// A limit of ours was met.
    LimitsReached {
        limit: Limit,
    },
    /// It was not allowed to use a tool that it needed.
    Permission,
    /// It did not start as it was called: a bad flag, a missing file, an unknown model.
    Spawn,
    /// The conversation that it was to resume, or its id, cannot be used.
    SessionLost,
    /// It went quiet. No CLI says this of itself: the watcher finds it.
    Stalled,
    /// It was ended before it had finished.
    Interrupted,
    /// What it printed was not what its adapter reads.
    Malformed,
    Unknown,
}

/// Which of our limits was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Turns,
    Budget,
    /// The length of one answer of the model.
    MaxTokens,
}

/// What can mend a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mend {
    /// Nobody but a person: trying again gives the same.
    Person,
    /// Trying again, with backoff, resumed or not.
    Again,
    /// Trying again in a new conversation: never resumed.
    Fresh,
    /// Waiting, which is no attempt, until an instant (seconds since 1970) where it is known.
    Wait(Option<i64>),
}

impl Class {
    /// Its word in records: `usage_limit`.
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

    /// Whether every agent with the same login meets it too: a reason for a hold.
    pub fn is_of_the_account(self) -> bool {
        matches!(
            self,
            Class::Auth | Class::Billing | Class::UsageLimit { .. } | Class::RateLimit
        )
    }

    /// The contract's outcome for an attempt that ended with it.
    pub fn outcome(self) -> Outcome {
        match self {
            Class::Billing | Class::UsageLimit { .. } | Class::RateLimit => Outcome::Limited,
            Class::LimitsReached {
                limit: Limit::Budget,
            } => Outcome::OverBudget,
            Class::Refusal => Outcome::Refused,
            Class::Stalled => Outcome::Stalled,
            Class::Interrupted => Outcome::Crashed,
            _ => Outcome::Failed,
        }
    }
}

/// What went wrong, in the CLI's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    #[serde(flatten)]
    pub class: Class,
    /// What the CLI said, clipped; never empty.
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

    /// One sentence for the user: what to do. `cli` is the program's name, `login` how its login
    /// is mended.
    pub fn advice(&self, cli: &str, login: &str) -> String {
        match self.class {
            Class::Auth => format!("{login}, then `harness resume` (nothing is started for it until then) and `harness retry` the item"),
            Class::Billing => {
                "add credit to the account (or name an agent with another one), then `harness resume` (nothing is started for it until then) and `harness retry` the item".into()
            }
            Class::UsageLimit { .. } => {
                "nothing: it goes on by itself when the limit ends; an agent with another login goes on now".into()
            }
            Class::RateLimit => {
                "nothing: it goes on by itself after a rest; fewer workers meet the limit less often".into()
            }
            Class::Overloaded => "nothing: it is tried again; if it lasts, look at the provider's status page".into(),
            Class::Network => {
                format!("it is tried again; if it lasts, check this host's network, proxy and {cli}'s base URL")
            }
            Class::Context => "give it less to read at once: split the item, or name the files it needs".into(),
            Class::Refusal => "word the item differently, or name another model or agent".into(),
            Class::LimitsReached { limit } => match limit {
                Limit::Turns => "raise `max_turns`, or split the item".into(),
                Limit::Budget => "raise `budget_usd`, or split the item".into(),
                Limit::MaxTokens => {
                    "ask for smaller steps in the item, or raise the CLI's limit on the length of one answer".into()
                }
            },
            Class::Permission => {
                "allow what it asked for in `tools` or `permission_mode` of its [agents] table".into()
            }
            Class::Spawn => format!(
                "correct its [agents] table (model, settings, args), or try the same command line by hand with {cli}"
            ),
            Class::SessionLost => "nothing: it is tried again in a new conversation".into(),
            Class::Stalled => "it is tried again; raise `stall` if its tools are quiet for longer".into(),
            Class::Interrupted => "it is tried again".into(),
            Class::Malformed => format!("is it {cli}, in a version that harness knows? `harness doctor` tells"),
            Class::Unknown => "read the session's stderr.log and the end of its stdout.log".into(),
        }
    }
}
