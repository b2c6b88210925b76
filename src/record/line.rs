//! The lines of an item's record: one event each, as a type.
//!
//! Knows no files. Keeps what a newer version wrote: an unknown event is an `Unknown` with its whole
//! object, an unknown word is kept as text, and a field that cannot be read hides no other field.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::outcome::{Next, Outcome, Verdict, Word};

/// One event, with what stands on its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// When it happened, RFC 3339 in UTC; empty where the line does not say.
    pub at: String,
    pub event: Event,
    /// The whole line as it stands, unknown fields included: always an object.
    pub object: Value,
}

/// What happened. Its `event` key is the variant's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A command put the item into `pending/`.
    Added(By),
    /// A slot won the item: an attempt begins.
    Claimed(Claimed),
    /// The attempt never started: its number is free again.
    Requeued(Requeued),
    /// The agent process runs.
    Started(Started),
    /// Another harness took over the running agent.
    Adopted(Adopted),
    /// The agent is frozen until a person has looked.
    Interrupted(Interrupted),
    /// A frozen agent goes on.
    Resumed(Resumed),
    /// The agent has ended and its work is kept: gates run on it.
    Gating(Gating),
    /// A gate has run.
    Gate(GateRan),
    /// The branch is about to be published, with the attempt's whole end.
    Publishing(Publishing),
    /// The attempt is over.
    Finished(Finished),
    /// A person wants the branch that waits for review merged, as it was at this commit.
    Approved(Reviewed),
    /// A person wants another attempt.
    Rejected(Reviewed),
    /// The branch is about to land.
    Landing(Landing),
    /// The branch has landed.
    Merged(Landing),
    /// It leaves `merge/`, and its branch has not landed.
    Returned(Returned),
    /// The interrupt of an item that asked is gone, with or without an answer.
    Answered(Answered),
    /// A command put the item back into `pending/`.
    Retried(By),
    /// A command lets the item start now, or takes it from its slot.
    Released(Released),
    Canceled(Canceled),
    /// It can never run as it is.
    Refused(Refused),
    /// It was parked without an attempt.
    Parked(Refused),
    /// It cannot be claimed, whatever is tried: it stays in `pending/`.
    Stays(Reason),
    /// A hook did not go well, which changes nothing.
    Hook(HookFailed),
    /// An event of a newer version: its whole object.
    #[serde(untagged)]
    #[schemars(skip)]
    Unknown(Map<String, Value>),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct By {
    /// The command.
    pub by: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Claimed {
    pub session: String,
    pub slot: String,
    pub attempt: u32,
    pub harness_pid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Requeued {
    pub session: String,
    pub reason: String,
    /// It must not start again before (ns since 1970).
    #[serde(
        rename = "not_before",
        alias = "not_before_ns",
        with = "crate::clock::ns"
    )]
    #[schemars(with = "Option<String>")]
    pub not_before_ns: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Started {
    pub session: String,
    pub slot: String,
    pub agent: String,
    pub attempt: Option<u32>,
    pub pid: Option<i32>,
    pub repo: Option<String>,
    pub branch: Option<String>,
    pub base: Option<String>,
    pub base_oid: Option<String>,
    /// The CLI's conversation that it goes on with.
    pub resumed: Option<String>,
    /// What was understood of the item's fields, in words.
    pub understood: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Adopted {
    pub session: String,
    pub slot: String,
    pub pid: Option<i32>,
    pub harness_pid: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Interrupted {
    pub session: String,
    pub slot: String,
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Resumed {
    pub session: String,
    /// The modification time (ns) of the answer that it found when it went on.
    #[serde(rename = "answered_at", alias = "answer_ns", with = "crate::clock::ns")]
    #[schemars(with = "Option<String>")]
    pub answer_ns: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Publishing {
    pub session: String,
    pub slot: String,
    pub attempt: Option<u32>,
    /// As it is called in harness's own repository.
    pub branch: String,
    /// Its last commit.
    pub head: String,
    /// How the attempt ended.
    pub end: End,
    /// Where its item goes then; missing in records of older versions: `done`.
    pub next: Option<Word<Next>>,
}

/// The attempt's whole end, as it is where its gates are passed. Whoever goes on after a crash does not
/// look at the worktree again: a gate may have written there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Gating {
    pub session: String,
    /// How the attempt ends if its gates are passed.
    pub end: End,
}

/// What a gate said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GateRan {
    pub session: String,
    /// Its name in `[gates.NAME]`.
    pub gate: String,
    /// `before`, `after`, `merge`.
    pub moment: String,
    /// The tree that it ran on.
    pub tree: String,
    /// What it said.
    pub verdict: Word<Verdict>,
    /// Why, where it is not green.
    pub reason: String,
    pub seconds: f64,
    /// The tests that failed, where they are known by name.
    pub tests: Vec<String>,
    /// Its output, relative to the session's folder.
    pub log: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Reviewed {
    /// The command.
    pub by: String,
    /// The commit that was looked at.
    pub commit: String,
    /// What the next attempt is told.
    pub comment: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Landing {
    pub session: String,
    pub branch: String,
    /// The commit that was approved.
    pub head: String,
    /// The repository that it lands in; `None` in records of older versions: the item's.
    pub repo: Option<String>,
    /// The branch that it lands in.
    pub into: String,
    /// The tip of `into` that it is merged onto.
    pub onto: String,
    /// The commit that stands for this item.
    pub commit: String,
    /// The commit that `into` moves to: the last one of the batch.
    pub tip: String,
    /// The tree of `tip`, which was gated.
    pub tree: String,
    /// The gates, each with its verdict.
    pub gates: Vec<(String, Word<Verdict>)>,
    /// The items that land together.
    pub batch: Vec<String>,
}

impl Landing {
    pub(crate) fn reason(&self) -> String {
        format!("merged into {} as {:.9}", self.into, self.commit)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Returned {
    pub session: String,
    pub reason: String,
    pub outcome: Option<Word<Outcome>>,
    /// Where its item goes.
    pub next: Option<Word<Next>>,
    /// The commit at which the branch is now, where it has moved.
    pub head: Option<String>,
    /// Files with conflicts.
    pub files: Vec<String>,
    /// The branch that its agent is to merge into its own.
    pub into: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Finished {
    pub session: String,
    pub slot: String,
    pub attempt: Option<u32>,
    #[serde(flatten)]
    pub end: End,
    /// The branch as it is called in the user's repository.
    pub published: Option<String>,
    /// Where its item goes.
    pub next: Option<Word<Next>>,
    /// It must not start again before (ns since 1970).
    #[serde(
        rename = "not_before",
        alias = "not_before_ns",
        with = "crate::clock::ns"
    )]
    #[schemars(with = "Option<String>")]
    pub not_before_ns: Option<i64>,
}

/// The notes that the reason does not say already, as it does of what lies elsewhere.
pub(crate) fn more_notes<'a>(reason: Option<&str>, notes: &'a [String]) -> Vec<&'a str> {
    let reason = reason.unwrap_or_default();
    let notes = notes.iter().map(String::as_str);
    notes.filter(|note| !reason.contains(note)).collect()
}

/// How an attempt ended: fields of `session.json`, under the same names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct End {
    pub outcome: Option<Word<Outcome>>,
    pub reason: Option<String>,
    pub ended_at: Option<String>,
    pub exit_status: Option<i32>,
    pub signal: Option<i32>,
    pub seconds: f64,
    pub commits: Option<u64>,
    pub files_changed: Option<u64>,
    /// Whether harness committed what the agent had left uncommitted.
    pub leftover: bool,
    pub branch: Option<String>,
    /// The last commit of the branch.
    pub head: Option<String>,
    /// What else is to be said of it.
    pub notes: Vec<String>,
    /// The class of the fault, if its CLI reports one.
    pub fault: Option<String>,
    pub turns: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
    /// What the budget was charged with; `None`: nothing was reserved.
    pub charged_usd: Option<f64>,
    /// Tokens that it was charged with.
    pub charged_tokens: Option<u64>,
    /// Whether the item ended with this attempt.
    pub last: bool,
    /// Its host was lost: how it ended is not known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Answered {
    pub session: String,
    /// What its agent asked.
    pub question: String,
    /// What a person wrote, if anything.
    pub answer: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Released {
    /// The command.
    pub by: String,
    /// The time (ns since 1970) that it need not wait for any more.
    #[serde(
        rename = "not_before",
        alias = "not_before_ns",
        with = "crate::clock::ns"
    )]
    #[schemars(with = "Option<String>")]
    pub not_before_ns: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Canceled {
    /// The attempt whose branch was taken back, if one was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session: String,
    pub reason: String,
    /// Where its file was moved, if a command did that.
    pub to: Option<String>,
    pub outcome: Option<Word<Outcome>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Refused {
    pub reason: String,
    pub outcome: Option<Word<Outcome>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HookFailed {
    pub session: String,
    /// `hooks/NAME`.
    pub hook: String,
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Reason {
    pub reason: String,
}

impl Line {
    /// `None`: no line of ours (cut by a power loss, or not an object).
    pub fn parse(bytes: &[u8]) -> Option<Line> {
        Line::of(serde_json::from_slice(bytes).ok()?)
    }

    pub fn of(object: Value) -> Option<Line> {
        let fields = object.as_object()?;
        let at = fields.get("at").and_then(Value::as_str);
        Some(Line {
            at: at.unwrap_or_default().to_owned(),
            event: Event::of(fields),
            object,
        })
    }
}

impl Event {
    fn of(fields: &Map<String, Value>) -> Event {
        match typed(fields.clone()) {
            Some(event) => event,
            // One field that cannot be read must not hide the others.
            None => typed(readable(fields)).unwrap_or_else(|| Event::Unknown(fields.clone())),
        }
    }
}

fn typed(fields: Map<String, Value>) -> Option<Event> {
    // serde would take a number for a variant's place in the list.
    fields.get("event")?.as_str()?;
    match serde_json::from_value(Value::Object(fields)) {
        Ok(Event::Unknown(_)) | Err(_) => None,
        Ok(event) => Some(event),
    }
}

/// The fields of which each alone can be read.
fn readable(fields: &Map<String, Value>) -> Map<String, Value> {
    const TAG: &str = "event";
    let tag = fields.get(TAG).map(|tag| (TAG.to_owned(), tag.clone()));
    let alone = |(key, value): (&String, &Value)| {
        let field = (key.clone(), value.clone());
        tag.clone().into_iter().chain([field]).collect()
    };
    let all = fields.iter();
    all.filter(|&(key, value)| key == TAG || typed(alone((key, value))).is_some())
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// That an item can never run, and why.
pub fn refused(reason: &str) -> Event {
    Event::Refused(Refused {
        reason: reason.to_owned(),
        outcome: Some(Outcome::Refused.into()),
    })
}
