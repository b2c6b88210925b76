//! Slurm, asked with its own commands.
//!
//! Facts of Slurm 22.05: `squeue` forgets a job 300 s after its end (`MinJobAge`). A job that is requeued
//! keeps its id, and has one restart more from the first moment on, in which its old processes may still
//! end (`COMPLETING`). `squeue --jobs=ID` with one unknown id fails; with several, or of an array, it leaves
//! those out. Without `--all` it hides jobs of some partitions.

mod states;
pub(super) mod submit;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use super::{Job, Verdict};
use crate::answer;
use crate::mutant::planted;
use crate::text::one_line;
use states::{Phase, phase_of};

pub(super) const NAME: &str = "slurm";
/// A controller answers in milliseconds, a busy one in a second or two; a dead one is waited for by
/// `squeue` for 10 s and more (`MessageTimeout`). Nobody needs the answer now: it is asked again.
const ANSWER: Duration = Duration::from_secs(5);
/// A line has 152 bytes; only jobs that were named are listed.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Each field with its width: longer values are cut, and none of these has a blank.
const FIELDS: &str = "Cluster:64,ArrayJobID:16,ArrayTaskID:16,JobID:16,State:24,RestartCnt:16";

/// A line of `squeue`.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    cluster: String,
    id: String,
    state: String,
    restarts: u32,
}

/// What Slurm says in the environment of what it starts. `salloc` starts a shell beside its job, with the
/// same variables but the node's: it is no part of that job.
pub(super) fn own_job(env: impl Fn(&str) -> Option<String>) -> Option<Job> {
    node(&env)?;
    let part = |name| env(name).filter(|value| !value.is_empty());
    let id = match (part("SLURM_ARRAY_JOB_ID"), part("SLURM_ARRAY_TASK_ID")) {
        (Some(array), Some(task)) => format!("{array}_{task}"),
        _ => part("SLURM_JOB_ID")?,
    };
    Some(Job {
        engine: NAME.to_owned(),
        cluster: part("SLURM_CLUSTER_NAME")?,
        id,
        restarts: part("SLURM_RESTART_COUNT").map_or(Some(0), |n| n.parse().ok())?,
    })
}

pub(super) fn node(env: impl Fn(&str) -> Option<String>) -> Option<String> {
    env("SLURMD_NODENAME").filter(|name| !name.is_empty())
}

pub(super) fn ask(jobs: &[&Job]) -> Vec<Verdict> {
    if jobs.is_empty() {
        return Vec::new();
    }
    let own = super::own_job().filter(|own| own.engine == NAME);
    let unknown = |why: String| vec![Verdict::Unknown(why); jobs.len()];
    let ids = jobs.iter().copied().chain(&own).map(|job| &*job.id);
    let lines = match squeue(ids) {
        Ok(lines) => lines,
        Err(why) => return unknown(why),
    };
    let asked = match &own {
        Some(own) => Ok(own.cluster.clone()),
        // Only what is not listed needs to know who was asked.
        None if jobs.iter().all(|job| line_of(&lines, job).is_some()) => Ok(String::new()),
        None => cluster(),
    };
    match asked {
        Ok(asked) => {
            let judged = |job: &&Job| judge(job, &lines, own.as_ref(), &asked);
            jobs.iter().map(judged).collect()
        }
        Err(why) => unknown(why),
    }
}

fn line_of<'l>(lines: &'l HashMap<String, Line>, job: &Job) -> Option<&'l Line> {
    lines.get(&key_of(&job.cluster, &job.id))
}

/// A job of another cluster may have the same number.
fn key_of(cluster: &str, id: &str) -> String {
    format!("{cluster}/{id}")
}

/// `asked`: the cluster that was asked.
fn judge(job: &Job, lines: &HashMap<String, Line>, own: Option<&Job>, asked: &str) -> Verdict {
    let id = one_line(&job.id);
    if !is_id(&job.id) {
        return Verdict::Unknown(format!("{id} is no number of a job of Slurm's"));
    }
    let Some(line) = line_of(lines, job) else {
        if job.cluster != asked {
            let (its, asked) = (one_line(&job.cluster), one_line(asked));
            return Verdict::Unknown(format!(
                "job {id} is of Slurm's cluster {its}, and {asked} was asked"
            ));
        }
        // A controller that has lost its state knows nobody.
        return match own.filter(|own| line_of(lines, own).is_none()) {
            Some(own) => {
                let own = one_line(&own.id);
                let why = format!("Slurm does not list job {id}, nor this process's own job {own}");
                Verdict::Unknown(why)
            }
            None => Verdict::Over(format!("Slurm does not list job {id} any more")),
        };
    };
    let state = one_line(&line.state);
    let said = format!("Slurm says of job {id}: {state}");
    match (phase_of(&line.state), line.restarts.cmp(&job.restarts)) {
        (None, _) if planted("unknown-is-over") => Verdict::Over(said),
        (None, _) => Verdict::Unknown(said),
        // A controller that has lost its newest state knows nothing of this start, which may live.
        (Some(_), Ordering::Less) | (Some(Phase::Queued), Ordering::Equal) => {
            Verdict::Unknown(format!("{said}, and nothing of this start of it"))
        }
        (Some(Phase::Queued), Ordering::Greater) => {
            Verdict::Over(format!("Slurm has requeued job {id}"))
        }
        (Some(Phase::Begins | Phase::Runs), Ordering::Greater) => {
            Verdict::Over(format!("Slurm has started job {id} again"))
        }
        (Some(Phase::Begins | Phase::Runs), Ordering::Equal) | (Some(Phase::Ends), _) => {
            Verdict::Runs
        }
        (Some(Phase::Over | Phase::Failed(_)), _) => Verdict::Over(said),
    }
}

/// What `squeue` says of these jobs, by `key_of`.
fn squeue<'i>(ids: impl Iterator<Item = &'i str>) -> Result<HashMap<String, Line>, String> {
    let Some(text) = list(ids, FIELDS)? else {
        return Ok(HashMap::new());
    };
    Ok(read_lines(&text, parse)?
        .into_iter()
        .map(|line| (key_of(&line.cluster, &line.id), line))
        .collect())
}

fn read_lines<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let read = |line: &str| {
        parse(line).ok_or_else(|| format!("squeue prints a line that has another form: {line:?}"))
    };
    text.lines().map(read).collect()
}

/// A line of `squeue` for each of these jobs that it lists; `None`: there is none to ask for.
fn list<'i>(ids: impl Iterator<Item = &'i str>, fields: &str) -> Result<Option<String>, String> {
    let mut list: Vec<&str> = ids.filter(|id| is_id(id)).collect();
    let Some(first) = list.first().copied() else {
        return Ok(None);
    };
    // Of a single id it would not say that it is unknown, but fail.
    list.push(first);
    let mut command = command("squeue");
    command
        .args(["--noheader", "--all", "--array", "--states=all"])
        .arg(format!("--jobs={}", list.join(",")))
        .arg(format!("--Format={fields}"));
    answer::of(&mut command, ANSWER, ANSWER_BYTES_MAX)
        .map(Some)
        .map_err(|why| format!("Slurm cannot be asked (squeue): {why}"))
}

/// Like `123` or `123_4`. An id may come from a file that an agent could have written.
fn is_id(id: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    id.len() <= 32 && id.splitn(2, '_').all(is_number)
}

fn parse(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [cluster, array, task, job, state, restarts] = words[..] else {
        return None;
    };
    Some(Line {
        cluster: cluster.to_owned(),
        id: match is_id(task) {
            true => format!("{array}_{task}"),
            false => job.to_owned(),
        },
        state: state.to_owned(),
        restarts: restarts.parse().ok()?,
    })
}

/// The cluster whose controller this host asks.
fn cluster() -> Result<String, String> {
    let why = |why: String| format!("Slurm's cluster is not known (scontrol show config): {why}");
    let text = settings().map_err(why)?;
    cluster_in(&text).ok_or_else(|| why("it does not say".into()))
}

fn settings() -> Result<String, String> {
    let mut command = command("scontrol");
    command.args(["show", "config"]);
    answer::of(&mut command, ANSWER, ANSWER_BYTES_MAX)
}

fn cluster_in(text: &str) -> Option<String> {
    setting_in(text, "ClusterName")
}

/// A line `NAME = VALUE` of `scontrol show config`.
fn setting_in(text: &str, name: &str) -> Option<String> {
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    let (_, value) = pairs.find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Without what people have set for their own eyes: other columns, only some users or partitions.
#[expect(
    clippy::disallowed_methods,
    reason = "no git and no agent: a program of Slurm's that is only asked"
)]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let directs = name.to_str().is_some_and(|name| {
            name.starts_with("SQUEUE_") || name.starts_with("SCONTROL_") || name == "SLURM_CLUSTERS"
        });
        if directs {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As 22.05 prints it.
    const PRINTED: &str = "\
harness   1   2   3   RUNNING      0
harness   1   3   1   COMPLETING   1
harness   4   N/A 4   RUNNING      2
harness   5   19  5   PENDING      1
harness   6   1   9   NODE_FAIL    0
harness   7   1   10  SUSPENDED    0
harness   8   1   12  STRANGE      0
harness   9   1   13  REQUEUE_FED  1
";

    fn lines(text: &str) -> HashMap<String, Line> {
        let lines = text.lines().map(|line| parse(line).expect(line));
        let keyed = |line: Line| (key_of(&line.cluster, &line.id), line);
        lines.map(keyed).collect()
    }

    fn job(id: &str, restarts: u32) -> Job {
        Job {
            engine: NAME.into(),
            cluster: "harness".into(),
            id: id.into(),
            restarts,
        }
    }

    #[test]
    fn each_state_of_slurms_is_judged_and_what_is_not_known_is_not_guessed() {
        let lines = lines(PRINTED);
        let judged = |job: &Job, own: Option<&Job>| judge(job, &lines, own, "harness");
        let one = |id, restarts| judged(&job(id, restarts), None);
        let is_over = |verdict: &Verdict, why: &str| match verdict {
            Verdict::Over(said) => said.contains(why),
            _ => false,
        };
        let is_unknown = |verdict: &Verdict| matches!(verdict, Verdict::Unknown(_));
        for (id, restarts) in [
            ("1_2", 0),
            ("1_3", 0),
            ("1_3", 1),
            ("4", 2),
            ("7_1", 0),
            ("9_1", 0),
        ] {
            assert_eq!(one(id, restarts), Verdict::Runs, "{id}");
        }
        assert!(is_over(&one("4", 1), "started job 4 again"));
        assert!(is_over(&one("5_19", 0), "requeued"));
        assert!(is_over(&one("6_1", 0), "NODE_FAIL"));
        assert!(is_unknown(&one("8_1", 0)));
        // The controller has lost its newest state, and this start with it.
        for lost in [("5_19", 1), ("4", 3), ("6_1", 1)] {
            assert!(is_unknown(&one(lost.0, lost.1)), "{lost:?}");
        }
        // Forgotten: believed where one's own job is known.
        let gone = job("99_1", 0);
        let (own, lost) = (job("1_2", 0), job("98", 0));
        assert!(is_over(&judged(&gone, None), "not list"));
        assert!(is_over(&judged(&gone, Some(&own)), "not list"));
        assert!(is_unknown(&judged(&gone, Some(&lost))));
        assert!(is_unknown(&one("1x", 0)));
        // A job of the same number elsewhere.
        let elsewhere = Job {
            cluster: "other".into(),
            ..job("1_2", 0)
        };
        assert!(is_unknown(&judged(&elsewhere, None)));
    }

    #[test]
    fn a_line_that_has_another_form_is_not_read() {
        for line in [
            "",
            "harness 1 2 3 RUNNING",
            "harness 1 2 3 RUNNING x",
            "a b c d e 1 f",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        assert!(["1", "12_3"].iter().all(|id| is_id(id)));
        let bad = ["", "_", "1_", "1_2_3", "1,2", "--help", "N/A", "1_[2-3]"];
        assert!(!bad.iter().any(|id| is_id(id)));
        assert_eq!(
            cluster_in("CompleteWait = 0\nClusterName             = harness\n").as_deref(),
            Some("harness")
        );
        assert_eq!(cluster_in("ClusterName =\n"), None);
    }

    #[test]
    fn ones_own_job_is_in_the_environment_of_a_step_alone() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: HashMap<String, String> = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            own_job(|name| pairs.get(name).cloned())
        };
        let plain = [("SLURM_JOB_ID", "3"), ("SLURM_CLUSTER_NAME", "harness")];
        // A shell of `salloc`.
        assert_eq!(of(&plain), None);
        let mut step = plain.to_vec();
        step.push(("SLURMD_NODENAME", "n1"));
        assert_eq!(of(&step), Some(job("3", 0)));
        step.extend([
            ("SLURM_ARRAY_JOB_ID", "1"),
            ("SLURM_ARRAY_TASK_ID", "2"),
            ("SLURM_RESTART_COUNT", "4"),
        ]);
        assert_eq!(of(&step), Some(job("1_2", 4)));
    }
}
