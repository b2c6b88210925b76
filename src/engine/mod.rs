//! The engine that started this process: a batch system that places, restarts and limits processes on
//! many hosts. It alone knows whether what it started elsewhere still runs.
//!
//! Invariant: nothing here guesses. What the engine did not say, or cannot be believed, is `Unknown`.

mod slurm;

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
