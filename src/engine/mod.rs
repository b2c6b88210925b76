//! The engine that started this process: a batch system that places, restarts and limits processes on
//! many hosts. It alone knows whether what it started elsewhere still runs.
//!
//! Invariant: nothing here guesses. What the engine did not say, or cannot be believed, is `Unknown`.

mod slurm;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One start of something by an engine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// `slurm`.
    pub engine: String,
    /// The engine's name for the hosts that it rules.
    pub cluster: String,
    /// Like `123`, or `123_4` in an array of jobs.
    pub id: String,
    /// How often it was started before, under this id.
    #[serde(default)]
    pub restarts: u32,
}

/// What an engine says of one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Runs,
    /// Why, for people.
    Over(String),
    /// Why it is not known.
    Unknown(String),
}

/// Runs that an engine is to start, one on each of some nodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order<'o> {
    pub(crate) root: &'o Path,
    /// The folder of their logs.
    pub(crate) logs: &'o Path,
    /// What each node executes.
    pub(crate) script: &'o Path,
    pub(crate) nodes: u32,
    pub(crate) workers: usize,
    /// How long their agents have to end.
    pub(crate) grace: Duration,
    pub(crate) time: Option<&'o str>,
    pub(crate) memory: Option<&'o str>,
    /// The user's own, for the engine's command.
    pub(crate) options: &'o [OsString],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskState {
    Waits,
    Runs,
    Over,
    /// Not by what became of its items.
    Failed,
}

/// What an engine says of one of such runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    /// The id of all that were submitted with it.
    pub(crate) id: String,
    pub(crate) state: TaskState,
    /// Why it waits or has failed.
    pub(crate) why: String,
}

/// Why the engine could do nothing with this ROOT.
pub(crate) fn why_unusable(root: &Path) -> Option<String> {
    slurm::submit::why_unusable(root)
}

/// The command that hands this order to the engine, with the script as its standard input.
pub(crate) fn words(order: &Order<'_>) -> Vec<OsString> {
    slurm::submit::words(order)
}

/// Hands it over. `Err`: why it was not, or perhaps not, accepted.
pub(crate) fn submit(order: &Order<'_>) -> Result<Job, String> {
    slurm::submit::submit(order)
}

/// Why a run of this time would be told to end as soon as it has begun.
pub(crate) fn why_too_short(order: &Order<'_>) -> Option<String> {
    slurm::submit::why_too_short(order)
}

/// How long the engine leaves a job that it ends, where it says.
pub(crate) fn kill_wait() -> Option<Duration> {
    slurm::submit::kill_wait()
}

/// What the engine lists of each of these submissions: all that has not ended, and what has a moment ago.
/// `Err`: why that is not known.
pub(crate) fn tasks(jobs: &[&Job]) -> Vec<Result<Vec<Task>, String>> {
    slurm::submit::tasks(jobs)
}

/// What this process runs in.
pub(crate) fn own_job() -> Option<Job> {
    slurm::own_job(|name| std::env::var(name).ok())
}

/// The engine's name for this host, where an engine started this process.
pub(crate) fn node() -> Option<String> {
    slurm::node(|name| std::env::var(name).ok())
}

/// What their engines say of these, in their order: one question to each engine, with a bound on its time.
pub(crate) fn ask(jobs: &[Job]) -> Vec<Verdict> {
    let (of_slurm, others): (Vec<usize>, Vec<usize>) =
        (0..jobs.len()).partition(|nth| jobs[*nth].engine == slurm::NAME);
    let mut said: Vec<(usize, Verdict)> = others
        .into_iter()
        .map(|nth| {
            let engine = crate::text::one_line(&jobs[nth].engine);
            let why = format!("this version cannot ask the engine `{engine}`");
            (nth, Verdict::Unknown(why))
        })
        .collect();
    let asked: Vec<&Job> = of_slurm.iter().map(|nth| &jobs[*nth]).collect();
    said.extend(of_slurm.into_iter().zip(slurm::ask(&asked)));
    said.sort_by_key(|(nth, _)| *nth);
    said.into_iter().map(|(_, verdict)| verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_engine_is_not_guessed_at() {
        let job = Job {
            engine: "other".into(),
            cluster: "c".into(),
            id: "1".into(),
            restarts: 0,
        };
        let said = ask(&[job]);
        assert!(matches!(&said[..], [Verdict::Unknown(why)] if why.contains("`other`")));
        assert_eq!(ask(&[]), []);
    }
}
