//! `sessions/SID/session.json`: describes an attempt. Written before its agent starts and again
//! when it is over. Recovery rebuilds an attempt from it; people and the aggregator read it.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::atomic::{self, OwnDir};
use crate::error::{Error, Result};
use crate::event::Tokens;
use crate::layout;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;
use crate::outcome::{Outcome, Word};
use crate::record::{End, Started};
use crate::sandbox::Said;
use crate::text;

const NAME: &str = "session.json";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SessionFile {
    pub session: String,
    pub item: String,
    /// `agent-N`.
    pub slot: String,
    /// What runs: `script`, or a name from `[agents.NAME]`.
    pub agent: String,
    pub attempt: u32,
    /// `starting` or `ended`; while the agent runs, the slot's `status.json` tells more.
    pub state: Word<FileState>,
    pub harness_pid: u32,
    /// What was started: program and arguments.
    pub command: Vec<String>,
    /// It is stopped after that.
    pub timeout_seconds: u64,
    /// The attempt's limits, whether CLI or harness enforces them; `None`: unlimited.
    pub max_turns: Option<u64>,
    /// Dollars.
    pub budget_usd: Option<f64>,
    /// The key of the budget that made `budget_usd` as small; `None`: it is the attempt's own.
    pub budget_by: Option<String>,
    /// The requested model; `None`: the CLI's own choice.
    pub model: Option<String>,
    pub repo: Option<String>,
    pub worktree: Option<String>,
    pub branch: Option<String>,
    pub base: Option<String>,
    pub base_oid: Option<String>,
    /// When the item was claimed for this attempt.
    #[serde(with = "text::or_null")]
    #[schemars(with = "Option<String>")]
    pub claimed_at: String,
    /// When its agent process was started; empty (`null`) before.
    #[serde(with = "text::or_null")]
    #[schemars(with = "Option<String>")]
    pub started_at: String,
    pub ended_at: Option<String>,
    pub pid: Option<i32>,
    pub outcome: Option<Word<Outcome>>,
    pub reason: Option<String>,
    pub exit_status: Option<i32>,
    pub signal: Option<i32>,
    /// From start to the end of the last process of its tree.
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub commits: Option<u64>,
    pub files_changed: Option<u64>,
    /// Whether harness committed what the agent had left uncommitted.
    pub leftover: bool,
    /// The last commit of the branch.
    pub head: Option<String>,
    /// The name of the branch in the user's repository.
    pub published: Option<String>,
    /// The dialect of its standard output, if harness reads one.
    pub events: Option<String>,
    /// Figures from its CLI's output, and the id by which it can be resumed.
    pub turns: u64,
    pub tool_calls: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cost_usd: f64,
    /// What the budget was charged with: what is not known counts as what was reserved. `None`: nothing
    /// was reserved.
    pub charged_usd: Option<f64>,
    /// Tokens that it was charged with.
    pub charged_tokens: Option<u64>,
    pub cli_session: Option<String>,
    /// The CLI's conversation that this attempt resumes; `None`: a new one.
    pub resumed: Option<String>,
    /// The conversation's tokens before and after this attempt, if its CLI adds them up.
    pub conversation_before: Option<Tokens>,
    /// And after it.
    pub conversation: Option<Tokens>,
    pub last_message: Option<String>,
    /// The class of the fault, if its CLI reports one.
    pub fault: Option<String>,
    /// What else is to be said of it.
    pub notes: Vec<String>,
    /// Limits that harness enforces itself while it runs, because its CLI cannot.
    pub watched_turns: Option<u64>,
    /// Dollars.
    pub watched_budget_usd: Option<f64>,
    /// Input, output and writes to a cache.
    pub watched_tokens: Option<u64>,
    /// The key of the budget that made `watched_tokens`.
    pub tokens_by: Option<String>,
    /// What confined it; `None`: it was not started, or by an older version.
    pub sandbox: Option<Said>,
    /// Marks of the interrupts that froze it.
    pub interrupts: Vec<String>,
    /// Whether the item ended with this attempt.
    pub last: bool,
    /// Its host was lost.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// It made too many failures alike, and its agent was held.
    pub held: bool,
    /// Fields of a newer version: kept when the file is rewritten.
    #[serde(flatten)]
    #[schemars(skip)]
    pub more: Map<String, Value>,
}

/// The state of an attempt, as far as its file tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    #[default]
    Starting,
    Ended,
    /// As `harness session` tells it of one that has not ended: a harness holds its slot.
    Running,
    /// Told likewise: no harness works on it, the next `harness run` takes it over.
    Left,
}

pub fn path(dir: &Path) -> PathBuf {
    layout::join(dir, NAME)
}

/// `None`: it is missing, cannot be parsed, or is another session's.
pub fn read(dir: &Path, sid: &str) -> Option<SessionFile> {
    let bytes = atomic::read_small(&path(dir), STATE_FILE_BYTES_MAX).ok()?;
    let file: SessionFile = serde_json::from_slice(&bytes).ok()?;
    (file.session == sid).then_some(file)
}

impl SessionFile {
    pub fn has_ended(&self) -> bool {
        self.state.known() == Some(FileState::Ended)
    }

    /// The word for its outcome, even one of a newer version.
    pub fn outcome(&self) -> Option<&str> {
        self.outcome.as_ref().map(Word::as_str)
    }

    /// Takes from the record what it knows of the start: this file lies where its agent can write. `false`:
    /// no start is on record.
    pub(crate) fn begin_as(&mut self, started: Option<&Started>) -> bool {
        // One that is known from its adoption alone has no agent.
        let Some(started) = started.filter(|started| !started.agent.is_empty()) else {
            return false;
        };
        if planted("session-file-believed") {
            return true;
        }
        self.agent.clone_from(&started.agent);
        if started.repo.is_some() {
            self.repo.clone_from(&started.repo);
        }
        self.branch.clone_from(&started.branch);
        self.base.clone_from(&started.base);
        self.base_oid.clone_from(&started.base_oid);
        self.resumed.clone_from(&started.resumed);
        true
    }

    /// How it ended, for its item's record.
    pub fn end(&self) -> End {
        End {
            outcome: self.outcome.clone(),
            reason: self.reason.clone(),
            ended_at: self.ended_at.clone(),
            exit_status: self.exit_status,
            signal: self.signal,
            seconds: self.seconds,
            commits: self.commits,
            files_changed: self.files_changed,
            leftover: self.leftover,
            branch: self.branch.clone(),
            head: self.head.clone(),
            notes: self.notes.clone(),
            fault: self.fault.clone(),
            turns: self.turns,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost_usd: self.cost_usd,
            charged_usd: self.charged_usd,
            charged_tokens: self.charged_tokens,
            last: self.last,
            lost: self.lost,
        }
    }

    /// Copies how it ended from its item's record.
    pub fn set_end(&mut self, end: End) {
        *self = SessionFile {
            state: FileState::Ended.into(),
            outcome: end.outcome,
            reason: end.reason,
            ended_at: end.ended_at,
            exit_status: end.exit_status,
            signal: end.signal,
            seconds: end.seconds,
            commits: end.commits,
            files_changed: end.files_changed,
            leftover: end.leftover,
            branch: end.branch,
            head: end.head,
            notes: end.notes,
            fault: end.fault,
            turns: end.turns,
            input_tokens: end.input_tokens,
            output_tokens: end.output_tokens,
            cost_usd: end.cost_usd,
            charged_usd: end.charged_usd,
            charged_tokens: end.charged_tokens,
            last: end.last,
            lost: end.lost,
            ..std::mem::take(self)
        };
    }

    /// Writes the first one. Until it is whole, the folder counts as one without.
    pub fn create(&self, dir: &Path) -> Result<()> {
        OwnDir::open(dir)?.create(NAME, &self.text()?).map(drop)
    }

    pub fn write(&self, dir: &Path, durable: bool) -> Result<()> {
        OwnDir::open(dir)?.replace(NAME, &self.text()?, durable)
    }

    fn text(&self) -> Result<Vec<u8>> {
        let mut text = text::pretty_json(self)
            .map_err(|e| Error::permanent("cannot write session.json", e.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }
}
