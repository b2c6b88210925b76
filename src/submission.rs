//! Runs that `harness submit` handed to an engine: a record of each in `state/jobs/`, beside the logs that
//! the engine writes there, and what the engine says of them now.
//!
//! Invariant: nothing is decided by a record. A run is one like any other, and says itself that it lives.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::engine::{self, Job, Task, TaskState};
use crate::error::{Error, Result};
use crate::layout::Root;
use crate::limits::STATE_FILE_BYTES_MAX;
use crate::mutant::planted;
use crate::status::SubmissionStatus;
use crate::text;

/// So many of the newest are asked about.
const ASKED_MAX: usize = 64;

/// One submission; also the content of `state/jobs/ENGINE-ID.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Submission {
    /// `slurm`.
    pub(crate) engine: String,
    /// The engine's name for the hosts that it rules; `None`: it did not say.
    pub(crate) cluster: Option<String>,
    /// The engine's number for all of it; `None`: nothing was submitted (`--dry-run`).
    pub(crate) id: Option<String>,
    /// How many runs, each on one node.
    pub(crate) nodes: u32,
    /// How many slots each of them holds.
    pub(crate) workers: usize,
    /// When it was submitted.
    pub(crate) submitted_at: Option<String>,
    /// What each run executes: the text of a script.
    pub(crate) script: String,
    /// The command that hands it over, with the script as its standard input.
    pub(crate) command: Vec<String>,
    /// The pattern of the runs' logs.
    pub(crate) logs: String,
}

impl Submission {
    pub(crate) fn record(&self, root: &Root) -> Result<()> {
        let id = self.id.as_deref().unwrap_or_default();
        let path = root.jobs().join(format!("{}-{id}.json", self.engine));
        let mut bytes = text::pretty_json(self)
            .map_err(|e| Error::permanent("cannot encode the submission", e.to_string()))?;
        bytes.push(b'\n');
        atomic::replace(&path, &bytes, true)
    }

    fn job(&self) -> Option<Job> {
        Some(Job {
            engine: self.engine.clone(),
            cluster: self.cluster.clone().unwrap_or_default(),
            id: self.id.clone()?,
            restarts: 0,
        })
    }
}

/// The newest ones, oldest first.
fn all(root: &Root) -> Vec<Submission> {
    let files = fs::read_dir(root.jobs()).into_iter().flatten().flatten();
    let paths = files.map(|f| f.path());
    let records = paths.filter(|p| p.extension().is_some_and(|e| e == "json"));
    let read = |path: std::path::PathBuf| {
        let bytes = atomic::read_small(&path, STATE_FILE_BYTES_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let mut all: Vec<Submission> = records.filter_map(read).collect();
    all.sort_by(|a, b| a.submitted_at.cmp(&b.submitted_at));
    all.split_off(all.len().saturating_sub(ASKED_MAX))
}

/// Those of which something waits, has failed or is not known: the engine is asked once.
pub(crate) fn look(root: &Root) -> Vec<SubmissionStatus> {
    let all = all(root);
    let jobs: Vec<Job> = all.iter().filter_map(Submission::job).collect();
    if jobs.is_empty() {
        return Vec::new();
    }
    let said = engine::tasks(&jobs.iter().collect::<Vec<_>>());
    let of = all.iter().filter(|one| one.id.is_some());
    let told = of
        .zip(jobs.iter().zip(said))
        .filter_map(|(one, (job, said))| {
            let mut told = SubmissionStatus {
                engine: job.engine.clone(),
                cluster: job.cluster.clone(),
                id: job.id.clone(),
                submitted_at: one.submitted_at.clone().unwrap_or_default(),
                nodes: one.nodes,
                ..SubmissionStatus::default()
            };
            match said {
                Err(why) => told.reason = Some(why),
                Ok(tasks) => {
                    let count = |state| tasks.iter().filter(|t| t.state == state).count() as u64;
                    let (waiting, failed) = (count(TaskState::Waits), count(TaskState::Failed));
                    let first = |state| tasks.iter().find(|t| t.state == state);
                    let worst = first(TaskState::Failed).or_else(|| first(TaskState::Waits))?;
                    told.reason = Some(worst.why.clone());
                    (told.waiting, told.failed) = (Some(waiting), Some(failed));
                }
            }
            Some(told)
        });
    told.collect()
}

/// Records and logs that are older than that, of submissions of which nothing can start any more.
pub(crate) fn outdated(root: &Root, keep: Duration) -> Vec<PathBuf> {
    let files = fs::read_dir(root.jobs()).into_iter().flatten().flatten();
    let is_old = |path: &PathBuf| {
        let written = path.metadata().and_then(|m| m.modified());
        written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > keep))
    };
    let mut old: Vec<PathBuf> = files.map(|f| f.path()).filter(is_old).collect();
    if old.is_empty() {
        return old;
    }
    let jobs: Vec<Job> = all(root).iter().filter_map(Submission::job).collect();
    let said = engine::tasks(&jobs.iter().collect::<Vec<_>>());
    let is_over = |task: &Task| matches!(task.state, TaskState::Over | TaskState::Failed);
    for (job, said) in jobs.iter().zip(said) {
        if said.is_ok_and(|tasks| tasks.iter().all(is_over)) {
            continue;
        }
        let name = format!("{}-{}", job.engine, job.id);
        let is_its = |path: &PathBuf| {
            let file = path.file_name().and_then(|f| f.to_str());
            let rest = file.and_then(|f| f.strip_prefix(&name));
            rest.is_some_and(|rest| rest.starts_with(['.', '_']) || planted("job-by-prefix"))
        };
        old.retain(|path| !is_its(path));
    }
    old
}
