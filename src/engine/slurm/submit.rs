//! Runs that Slurm is to start: a job array, whose tasks are each one `harness run`.
//!
//! Facts of Slurm 22.05: in the path of a log `%` begins a pattern, and a backslash takes all of them
//! away. A script with a CR LF is refused. `--signal` may come a minute early.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{ANSWER_BYTES_MAX, Job, NAME, Phase, cluster, is_id, phase_of};
use crate::answer;
use crate::engine::{Order, Task, TaskState};
use crate::mutant::planted;

/// A busy controller has `sbatch` try again for a while.
const ACCEPTS: Duration = Duration::from_secs(60);
/// What a stop needs beside the agents' own time: git, and the minute by which Slurm may be early.
const STOP_EARLY: Duration = Duration::from_secs(60);
const FIELDS: &str =
    "Cluster:64,ArrayJobID:16,ArrayTaskID:16,JobID:16,State:24,exit_code:16,Reason:64";
/// `harness run` ended, and items of it are in `parked/`.
const SOME_PARKED: u32 = 1 << 8;

/// How long before its end a job is told.
fn told_before(grace: Duration) -> u64 {
    (grace + STOP_EARLY).as_secs()
}

pub(in crate::engine) fn why_too_short(order: &Order<'_>) -> Option<String> {
    let time = order.time?;
    let told = told_before(order.grace);
    let least = (told + STOP_EARLY.as_secs()) / 60 + 1;
    let is_short = seconds_of(time)? < least * 60;
    is_short.then(|| {
        format!("--time {time} is too short: a run is told to stop {told} s before its end, and up to a minute earlier; {least} minutes are the least")
    })
}

/// `MINUTES`, `MINUTES:SECONDS`, `HOURS:MINUTES:SECONDS`, `DAYS-HOURS[:MINUTES[:SECONDS]]`. `None`: Slurm
/// may know it.
fn seconds_of(time: &str) -> Option<u64> {
    let (days, rest) = match time.split_once('-') {
        Some((days, rest)) => (Some(days.parse::<u64>().ok()?), rest),
        None => (None, time),
    };
    let parts: Vec<u64> = rest
        .split(':')
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let weights: &[u64] = match (days, parts.len()) {
        (None, 1) => &[60],
        (None, 2) => &[60, 1],
        (None, 3) | (Some(_), 1..=3) => &[3600, 60, 1],
        _ => return None,
    };
    let seconds =
        |sum: u64, (part, weight): (&u64, &u64)| sum.checked_add(part.checked_mul(*weight)?);
    let whole = days.unwrap_or(0).checked_mul(86_400)?;
    parts.iter().zip(weights).try_fold(whole, seconds)
}

/// How long Slurm waits between SIGTERM and SIGKILL, where it says.
pub(in crate::engine) fn kill_wait() -> Option<Duration> {
    let text = super::settings().ok()?;
    let value = super::setting_in(&text, "KillWait")?;
    let seconds = value.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// What `sbatch` gets before the options of the user's, of which the later ones win.
fn options(order: &Order<'_>) -> Vec<OsString> {
    let of_path = |name: &str, path: &Path| {
        let mut option = OsString::from(name);
        option.push(path);
        option
    };
    let told = told_before(order.grace);
    let mut all: Vec<OsString> = [
        "--parsable".to_owned(),
        "--job-name=harness".to_owned(),
        format!("--array=1-{}", order.nodes),
        "--nodes=1".to_owned(),
        "--ntasks=1".to_owned(),
        format!("--cpus-per-task={}", order.workers),
        "--requeue".to_owned(),
        "--open-mode=append".to_owned(),
        format!("--signal=B:TERM@{told}"),
    ]
    .map(OsString::from)
    .into();
    all.push(of_path("--chdir=", order.root));
    all.push(of_path("--output=", Path::new(&log(order.logs))));
    all.extend(order.time.map(|time| format!("--time={time}").into()));
    all.extend(order.memory.map(|memory| format!("--mem={memory}").into()));
    all.extend(order.options.iter().cloned());
    all
}

/// The pattern of the tasks' logs in this folder.
fn log(dir: &Path) -> OsString {
    let mut bytes = Vec::new();
    for byte in dir.as_os_str().as_bytes() {
        bytes.extend(std::iter::repeat_n(*byte, 1 + usize::from(*byte == b'%')));
    }
    bytes.extend(b"/slurm-%A_%a.log");
    OsString::from_vec(bytes)
}

/// Why Slurm could not use this path.
pub(in crate::engine) fn why_unusable(root: &Path) -> Option<String> {
    let bytes = root.as_os_str().as_bytes();
    let bad = |byte: u8| bytes.contains(&byte);
    match (bad(b'\\'), bad(b'\r')) {
        (true, _) => Some("it has a backslash, and Slurm could write no log there".to_owned()),
        (_, true) => {
            Some("it has a carriage return, and Slurm refuses a script with it".to_owned())
        }
        _ => None,
    }
}

/// The command line. Without a file it reads the script from its standard input.
pub(in crate::engine) fn words(order: &Order<'_>) -> Vec<OsString> {
    let mut words = vec![OsString::from("sbatch")];
    words.extend(options(order));
    words
}

#[expect(
    clippy::disallowed_methods,
    reason = "no git and no agent: Slurm's own command, with what the user has set for it"
)]
pub(in crate::engine) fn submit(order: &Order<'_>) -> Result<Job, String> {
    let words = words(order);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(order.script);
    // Ctrl-C ends it, too.
    let said = answer::in_our_group(&mut command, ACCEPTS, ANSWER_BYTES_MAX)?;
    // `ID`, or `ID;CLUSTER`.
    let line = said.lines().rfind(|line| !line.trim().is_empty());
    let (id, of) = line
        .unwrap_or_default()
        .split_once(';')
        .map_or((line.unwrap_or_default(), None), |(id, cluster)| {
            (id, Some(cluster.trim().to_owned()))
        });
    let id = id.trim();
    if !is_id(id) {
        let said = crate::text::one_line(&said.chars().take(200).collect::<String>());
        return Err(format!("it prints no job's number, but {said:?}"));
    }
    Ok(Job {
        engine: NAME.to_owned(),
        // It is for people, and tells jobs of several clusters apart: the job is there without.
        cluster: of.or_else(|| cluster().ok()).unwrap_or_default(),
        id: id.to_owned(),
        restarts: 0,
    })
}

/// What Slurm lists of each of these arrays.
pub(in crate::engine) fn tasks(jobs: &[&Job]) -> Vec<Result<Vec<Task>, String>> {
    let all = |why: &str| jobs.iter().map(|_| Err(why.to_owned())).collect();
    let lines = match lines(jobs) {
        Ok(lines) => lines,
        Err(why) => return all(&why),
    };
    let of = |job: &Job| -> Vec<Task> {
        let its = lines.iter().filter(|(cluster, task)| {
            task.id == job.id && (job.cluster.is_empty() || *cluster == job.cluster)
        });
        its.map(|(_, task)| task.clone()).collect()
    };
    let mut asked = None;
    let mut judge = |job: &&Job| {
        let tasks = of(job);
        if !tasks.is_empty() || job.cluster.is_empty() {
            return Ok(tasks);
        }
        // Only of what is not listed it matters who was asked.
        let asked = asked.get_or_insert_with(cluster).clone()?;
        match asked == job.cluster {
            true => Ok(tasks),
            false => Err(format!("{asked} was asked, and it is of {}", job.cluster)),
        }
    };
    jobs.iter().map(&mut judge).collect()
}

fn lines(jobs: &[&Job]) -> Result<Vec<(String, Task)>, String> {
    let Some(text) = super::list(jobs.iter().map(|job| &*job.id), FIELDS)? else {
        return Ok(Vec::new());
    };
    super::read_lines(&text, parse)
}

/// The cluster, and the task.
fn parse(line: &str) -> Option<(String, Task)> {
    let mut words = line.split_whitespace();
    let (cluster, array, _task, job) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let (state, exit) = (words.next()?, words.next()?.parse::<u32>().ok()?);
    let reason = words.collect::<Vec<_>>().join(" ");
    let array = if array == "N/A" { job } else { array };
    let (state, why) = match phase_of(state) {
        Some(Phase::Queued | Phase::Begins) => (TaskState::Waits, reason_of(state, reason)),
        // Of an unknown word no more is said than that it is no end.
        Some(Phase::Runs | Phase::Ends) | None => (TaskState::Runs, reason_of(state, reason)),
        Some(Phase::Failed(None)) if exit == SOME_PARKED && !planted("parked-is-failure") => {
            (TaskState::Over, state.to_owned())
        }
        Some(Phase::Over) => (TaskState::Over, state.to_owned()),
        Some(Phase::Failed(None)) => (TaskState::Failed, why_failed(exit, reason)),
        Some(Phase::Failed(Some(why))) => (TaskState::Failed, format!("{why} ({state})")),
    };
    let id = array.to_owned();
    Some((cluster.to_owned(), Task { id, state, why }))
}

/// Why Slurm leaves it as it is, else its state.
fn reason_of(state: &str, reason: String) -> String {
    match &*reason {
        "None" | "" => state.to_owned(),
        _ => reason,
    }
}

/// Of a run whose script has failed.
fn why_failed(exit: u32, reason: String) -> String {
    match (&*reason, exit >> 8) {
        ("NonZeroExitCode", code @ (126 | 127)) => {
            format!("exit code {code}: its node has no harness at this path")
        }
        ("NonZeroExitCode", code) => format!("exit code {code}"),
        _ => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order<'a>(root: &'a Path, options: &'a [OsString]) -> Order<'a> {
        Order {
            root,
            logs: root,
            script: Path::new("/r/s.sh"),
            nodes: 3,
            workers: 2,
            grace: Duration::from_secs(30),
            time: Some("1:00:00"),
            memory: None,
            options,
        }
    }

    #[test]
    fn the_users_options_come_last_and_a_percent_sign_is_none_of_slurms() {
        let user = [OsString::from("--array=1-9%2")];
        let words = words(&order(Path::new("/a %j"), &user));
        let words: Vec<_> = words.iter().filter_map(|w| w.to_str()).collect();
        assert!(words.contains(&"--output=/a %%j/slurm-%A_%a.log"));
        assert!(words.contains(&"--signal=B:TERM@90") && words.contains(&"--time=1:00:00"));
        assert!(words.ends_with(&["--array=1-9%2"]), "{words:?}");
        assert!(why_unusable(Path::new("/a\n'b")).is_none());
        assert!(why_unusable(Path::new("/a\\b")).is_some());
    }

    #[test]
    fn a_time_in_which_nothing_could_be_done_is_refused() {
        for (time, seconds) in [
            ("5", Some(300)),
            ("1:30", Some(90)),
            ("1:00:01", Some(3601)),
            ("1-2", Some(93_600)),
            ("1-0:1", Some(86_460)),
            ("UNLIMITED", None),
            ("1:2:3:4", None),
            ("99999999999999999999-0", None),
        ] {
            assert_eq!(seconds_of(time), seconds, "{time}");
        }
        let mut order = order(Path::new("/a"), &[]);
        assert_eq!(why_too_short(&order), None);
        order.time = Some("2");
        assert!(why_too_short(&order).is_some());
    }

    #[test]
    fn tasks_are_read_as_slurm_prints_them() {
        let read = |line: &str| {
            let (cluster, task) = parse(&format!("c {line}")).expect(line);
            assert_eq!(cluster, "c");
            (task.id, task.state, task.why)
        };
        let is = |id: &str, state, why: &str| (id.to_owned(), state, why.to_owned());
        for (line, want) in [
            (
                "12 1 12 PENDING 0 launch failed requeued held",
                is("12", TaskState::Waits, "launch failed requeued held"),
            ),
            (
                "12 2 13 RUNNING 0 None",
                is("12", TaskState::Runs, "RUNNING"),
            ),
            (
                "10 1 11 FAILED 256 NonZeroExitCode",
                is("10", TaskState::Over, "FAILED"),
            ),
            (
                "10 2 10 FAILED 25600 NonZeroExitCode",
                is("10", TaskState::Failed, "exit code 100"),
            ),
            (
                "10 3 12 TIMEOUT 0 TimeLimit",
                is(
                    "10",
                    TaskState::Failed,
                    "its time was over before it had ended; submit again with more --time (TIMEOUT)",
                ),
            ),
            (
                "10 4 13 CONFIGURING 0 None",
                is("10", TaskState::Waits, "CONFIGURING"),
            ),
            (
                "10 5 14 STRANGE 0 None",
                is("10", TaskState::Runs, "STRANGE"),
            ),
            (
                "N/A N/A 4 FAILED 4021 JobLaunchFailure",
                is("4", TaskState::Failed, "JobLaunchFailure"),
            ),
        ] {
            assert_eq!(read(line), want);
        }
        assert!(parse("c 12 1 12 PENDING").is_none());
    }
}
